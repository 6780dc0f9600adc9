/** The barest client of an API server: undici, a token, JSON. What any client must at least do. */
import { Agent } from 'undici';

export interface Access {
  server: string;
  /** Base64 of PEM. */
  caData: string;
  token: string;
}

export interface BareClient extends AsyncDisposable {
  /** Rejects with the answer's text on a status ≥ 400. */
  call<T>(method: string, path: string, body?: object, contentType?: string): Promise<T>;
  /** Tells the objects of a collection as they change, from this version on, until the client is disposed of. */
  watch<T>(path: string, resourceVersion: string, tell: (type: string, object: T) => void): void;
}

interface Versioned {
  metadata: { resourceVersion: string };
}

/** As the operator it speaks HTTP/1.1 unless told to speak HTTP/2. */
export function bareClient(
  { server, caData, token }: Access,
  connections: number,
  { userAgent = 'bench', http2 = false } = {},
): BareClient {
  const ca = Buffer.from(caData, 'base64').toString();
  const options = { connect: { ca }, allowH2: http2, bodyTimeout: 0, keepAliveTimeout: 60_000 };
  const calls = new Agent({ ...options, connections });
  const watches = new Agent(options);
  const headers = { authorization: `Bearer ${token}`, accept: 'application/json', 'user-agent': userAgent };
  const ending = new AbortController();

  async function watch<T>(path: string, version: string, tell: (type: string, object: T) => void): Promise<void> {
    let seen = version;
    // The API server ends a watch that is old, or whose client lags behind: the next one goes on from there.
    for (;;) seen = await watchFrom(path, seen, tell);
  }

  /** Gives the version to go on from, once the API server has ended it. */
  async function watchFrom<T>(path: string, version: string, tell: (type: string, object: T) => void): Promise<string> {
    const query = `watch=true&allowWatchBookmarks=true&resourceVersion=${version}`;
    const { body, statusCode } = await watches.request({
      origin: server,
      path: `${path}?${query}`,
      method: 'GET',
      headers,
      signal: ending.signal,
    });
    if (statusCode >= 400) throw new Error(`watch ${path}: ${statusCode} ${await body.text()}`);
    let seen = version;
    let rest = '';
    for await (const chunk of body.setEncoding('utf8')) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const { type, object } = JSON.parse(line) as { type: string; object: T & Versioned };
        if (type === 'ERROR') throw new Error(`watch ${path} from ${seen}: ${line}`);
        seen = object.metadata.resourceVersion;
        tell(type, object);
      }
    }
    return seen;
  }

  return {
    async call<T>(method: string, path: string, body?: object, contentType = 'application/json') {
      const { statusCode, body: answer } = await calls.request({
        origin: server,
        path,
        method: method as 'GET',
        headers: { ...headers, 'content-type': contentType },
        body: body === undefined ? null : JSON.stringify(body),
      });
      if (statusCode >= 400) throw new Error(`${method} ${path}: ${statusCode} ${await answer.text()}`);
      return (await answer.json()) as T;
    },
    watch(path, resourceVersion, tell) {
      watch(path, resourceVersion, tell as never).catch(error => {
        if (!ending.signal.aborted) throw error;
      });
    },
    async [Symbol.asyncDispose]() {
      ending.abort();
      await Promise.all([calls.destroy(), watches.destroy()]);
    },
  };
}

/** Runs a task for each of these, so many at a time. */
export async function forEach<T>(items: Iterable<T>, atATime: number, task: (item: T) => Promise<void>): Promise<void> {
  const rest = items[Symbol.iterator]();
  const work = async (): Promise<void> => {
    for (let next = rest.next(); !next.done; next = rest.next()) await task(next.value);
  };
  await Promise.all(Array.from({ length: atATime }, work));
}
