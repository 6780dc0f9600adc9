/** A proxy between one operator and the API server: passes all through, tells what passed, and breaks what a test wants broken. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import { setTimeout as sleep } from 'node:timers/promises';
import { dump, load } from 'js-yaml';
import { Agent, type Dispatcher } from 'undici';
import { INITIAL_EVENTS_END } from '../../src/kube/client.ts';
import { aborted } from '../cluster/process.ts';

/** A request as Kubernetes understands it. */
export interface Call {
  /** Counts the requests of this proxy, from 1. */
  n: number;
  method: string;
  /** Path and query. */
  path: string;
  /** A `watch-list` is a watch that begins with all that there is. */
  verb: 'list' | 'watch' | 'watch-list' | 'get' | 'create' | 'update' | 'patch' | 'delete' | 'other';
  /** Plural, such as deployments; empty for what is no resource, such as /healthz. */
  resource: string;
  subresource: string | undefined;
  namespace: string | undefined;
  name: string | undefined;
  /** Whether it changes what a user sees: not so a Lease. */
  isWrite: boolean;
  /** The request's body, parsed; undefined when it has none. */
  body: unknown;
}

/** What became of a request. */
export interface Passed extends Call {
  /** When it came, in ms of performance.now(). */
  at: number;
  /** Whether the API server was asked. */
  forwarded: boolean;
  /** When the API server answered, by the same clock; undefined: not yet, or it was not asked. */
  answeredAt: number | undefined;
  /** What the operator was answered, or would have been, had the connection not been dropped. */
  status: number | undefined;
}

/** One request in a fault's hands. Whatever waits in here ends when the proxy closes. */
export interface Exchange {
  call: Call;
  /** Asks the API server, and gives its answer once it is there in full: what it changes is committed then. */
  forward(): Promise<Answer>;
  /** Answers the operator; it hears nothing while there is a partition. */
  reply(answer: Answer): Promise<void>;
  /** As if no fault were there. Streams pass `through`, line by line, if it is given. */
  pass(through?: StreamFault): Promise<void>;
  /** Answers a watch. What the lines throw resets the connection. */
  tell(lines: AsyncIterable<string>): Promise<void>;
  /** Resets the operator's connection. */
  drop(): void;
  /** What earlier calls like this list or watch-list were told, oldest first, with the number of the call. */
  earlier: readonly { n: number; text: string }[];
  /** Aborted when the operator has closed its connection, or the proxy is closed. */
  closed: AbortSignal;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** Answers a request in its own way. */
export type Fault = (exchange: Exchange) => Promise<void>;

/** Turns the lines of a watch into what the operator gets to see; what it throws resets the connection. */
export type StreamFault = (lines: AsyncIterable<string>) => AsyncIterable<string>;

/** A fault at work. */
export interface Rule {
  /** What it was applied to so far. */
  hits: Call[];
  /** Resolves when it is applied for the first time. */
  hit: Promise<Call>;
  /** Ends it; what it has in its hands stays there. */
  end(): void;
}

export interface FaultProxy extends AsyncDisposable {
  /** The admin's kubeconfig, but through this proxy: a path, gone with the cluster. */
  kubeconfig: string;
  log: readonly Passed[];
  /** Applies a fault to the calls of this kind, for ever or so many times. The youngest rule that matches has the call. */
  rule(on: (call: Call) => boolean, fault: Fault, times?: number): Rule;
  /** From now on nothing goes through in either direction, and nobody is told: connections stay open. */
  partition(): void;
  /** Ends a partition. What waits goes on if the operator still does. */
  heal(): void;
  /** Resets the connections of these calls that are under way. Gives how many there were. */
  cut(which: (call: Call) => boolean): number;
  close(): Promise<void>;
}

/** Serves the cluster of an admin's kubeconfig at a free port of the loopback address, in plain HTTP. */
export async function startProxy(kubeconfig: string): Promise<FaultProxy> {
  const admin = load(readFileSync(kubeconfig, 'utf8')) as KubeconfigFile;
  const [upstream] = admin.clusters;
  const token = admin.users[0]?.user.token;
  if (!upstream || token === undefined) throw new Error(`${kubeconfig}: it names no cluster, or no token of its admin`);
  const { server: target, 'certificate-authority-data': ca } = upstream.cluster;
  const agent = new Agent({
    connect: { ca: Buffer.from(ca, 'base64').toString() },
    connections: null,
    headersTimeout: 0,
    bodyTimeout: 0,
  });

  const ending = new AbortController();
  const log: Passed[] = [];
  const rules = new Set<{ on: (call: Call) => boolean; fault: Fault; left: number; took: (call: Call) => void }>();
  const underWay = new Map<Passed, () => void>();
  /** What lists and watch-lists told, by what was asked. */
  const told = new Map<string, { n: number; text: string }[]>();
  let wall: { gone: Promise<void>; heal: () => void } | undefined;

  /** Resolves when no partition is in the way. Rejects when there is nobody left to wait for. */
  async function open(closed: AbortSignal): Promise<void> {
    while (wall) await Promise.race([wall.gone, aborted(closed)]).then(() => closed.throwIfAborted());
    closed.throwIfAborted();
  }

  async function ask(request: IncomingMessage, passed: Passed, signal: AbortSignal) {
    const { host: _, connection: __, 'transfer-encoding': ___, 'accept-encoding': ____, ...headers } = request.headers;
    passed.forwarded = true;
    const response = await agent.request({
      origin: target,
      path: passed.path,
      method: passed.method as Dispatcher.HttpMethod,
      headers: { ...headers, authorization: `Bearer ${token}` },
      body: passed.body === undefined ? null : JSON.stringify(passed.body),
      signal,
    });
    passed.status = response.statusCode;
    passed.answeredAt = performance.now();
    return response;
  }

  function keep(call: Call, text: string): void {
    told.set(question(call), [...(told.get(question(call)) ?? []), { n: call.n, text }]);
  }

  async function* keepBeginning(call: Call, lines: AsyncIterable<string>): AsyncGenerator<string> {
    let text: string | undefined = '';
    for await (const line of lines) {
      if (text !== undefined) text += line;
      if (text !== undefined && line.includes(`"${INITIAL_EVENTS_END}":"true"`)) {
        keep(call, text);
        text = undefined;
      }
      yield line;
    }
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    response.on('error', () => {});
    const closed = AbortSignal.any([gone.signal, ending.signal]);
    const call = classify(log.length + 1, request.method ?? 'GET', request.url ?? '/');
    const passed: Passed = {
      ...call,
      at: performance.now(),
      forwarded: false,
      answeredAt: undefined,
      status: undefined,
    };
    log.push(passed);
    const drop = (): void => void request.socket.resetAndDestroy();
    underWay.set(passed, drop);
    response.on('close', () => underWay.delete(passed));

    const exchange: Exchange = {
      call: passed,
      closed,
      drop,
      earlier: told.get(question(passed)) ?? [],
      async forward() {
        await open(closed);
        // Whoever asked may leave: what the API server was asked to do, it does.
        const { statusCode, headers, body } = await ask(request, passed, ending.signal);
        const answer = { status: statusCode, headers: endToEnd(headers), body: await body.text() };
        if (call.verb === 'list' && statusCode === 200) keep(passed, answer.body);
        return answer;
      },
      async reply({ status, headers, body }) {
        passed.status = status;
        await open(closed);
        response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) });
        response.end(body);
      },
      async pass(through = unchanged) {
        if (!isWatch(call)) return exchange.reply(await exchange.forward());
        await open(closed);
        const { statusCode, headers, body } = await ask(request, passed, closed);
        if (statusCode !== 200)
          return exchange.reply({ status: statusCode, headers: endToEnd(headers), body: await body.text() });
        const lines = linesOf(body);
        await exchange.tell(through(call.verb === 'watch-list' ? keepBeginning(passed, lines) : lines));
      },
      async tell(lines) {
        passed.status = 200;
        await open(closed);
        response.writeHead(200, { 'content-type': 'application/json' });
        response.flushHeaders();
        for await (const text of lines) {
          await open(closed);
          if (!response.write(text)) await Promise.race([once(response, 'drain'), aborted(closed)]);
        }
        response.end();
      },
    };

    try {
      passed.body = await bodyOf(request);
    } catch {
      return; // The operator left before it had asked.
    }
    const rule = [...rules].reverse().find(({ on, left }) => left > 0 && on(passed));
    if (rule) {
      rule.left -= 1;
      rule.took(passed);
    }
    try {
      await (rule ? rule.fault(exchange) : exchange.pass());
    } catch {
      // The operator has left, the API server broke off, or a fault of streams wants it so.
      drop();
    }
  }

  const server = createServer((request, response) => void serve(request, response));
  // A connection ends when a test wants it, and never because it was idle.
  Object.assign(server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0 });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const path = join(dirname(kubeconfig), `through-${port}.kubeconfig`);
  // The Kubernetes client takes plain HTTP for a mistake unless it is told that nobody wants TLS.
  const cluster = { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true };
  const through = { name: upstream.name, cluster };
  writeFileSync(path, dump({ ...admin, clusters: [through] }), { mode: 0o600 });

  async function close(): Promise<void> {
    ending.abort();
    server.closeAllConnections();
    server.close();
    await agent.destroy();
  }

  return {
    kubeconfig: path,
    log,
    rule(on, fault, times = Number.POSITIVE_INFINITY) {
      const { promise: hit, resolve } = Promise.withResolvers<Call>();
      const hits: Call[] = [];
      const took = (call: Call): void => {
        hits.push(call);
        resolve(call);
      };
      const rule = { on, fault, left: times, took };
      rules.add(rule);
      return { hits, hit, end: () => void rules.delete(rule) };
    },
    partition() {
      const { promise, resolve } = Promise.withResolvers<void>();
      wall ??= { gone: promise, heal: resolve };
    },
    heal() {
      wall?.heal();
      wall = undefined;
    },
    cut(which) {
      const found = [...underWay].filter(([call]) => which(call));
      for (const [, drop] of found) drop();
      return found.length;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

interface KubeconfigFile {
  clusters: { name: string; cluster: { server: string; 'certificate-authority-data': string } }[];
  users: { name: string; user: { token?: string } }[];
}

const WRITES: Record<string, Call['verb']> = { POST: 'create', PUT: 'update', PATCH: 'patch', DELETE: 'delete' };

function classify(n: number, method: string, path: string): Call {
  const { pathname, searchParams } = new URL(path, 'http://proxy');
  const found = /^\/(?:api|apis\/[^/]+)\/v[^/]+\/(?:namespaces\/([^/]+)\/)?([^/]+)(?:\/([^/]+)(?:\/(.+))?)?$/.exec(
    pathname,
  );
  const [, namespace, resource = '', name, subresource] = found ?? [];
  const watch = searchParams.get('sendInitialEvents') === 'true' ? 'watch-list' : 'watch';
  const read = name !== undefined ? 'get' : searchParams.get('watch') === 'true' ? watch : 'list';
  return {
    n,
    method,
    path,
    verb: resource === '' ? 'other' : (WRITES[method] ?? read),
    resource,
    subresource,
    namespace,
    name,
    isWrite: method in WRITES && resource !== '' && resource !== 'leases',
    body: undefined,
  };
}

/** Whether a call's answer is a stream of events. */
export function isWatch({ verb }: Call): boolean {
  return verb === 'watch' || verb === 'watch-list';
}

/** What a list or watch asks for, whatever time limit it sets. */
function question({ path, verb }: Call): string {
  return `${verb} ${path.replace(/timeoutSeconds=\d+&?/, '')}`;
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return chunks.length === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString());
}

/** Without the headers that speak of one connection or of how a body was sent. */
function endToEnd(headers: Dispatcher.ResponseData['headers']): Record<string, string> {
  const own = ['connection', 'keep-alive', 'transfer-encoding', 'content-length', 'content-encoding'];
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      own.includes(name) || value === undefined ? [] : [[name, String(value)]],
    ),
  );
}

/** The lines of a stream, each with its end. */
async function* linesOf(stream: AsyncIterable<Buffer>): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  let pending = '';
  for await (const chunk of stream) {
    pending += decoder.write(chunk);
    const lines = pending.split('\n');
    pending = lines.pop() ?? '';
    for (const line of lines) yield `${line}\n`;
  }
  if (pending !== '') yield pending;
}

const unchanged: StreamFault = lines => lines;

// ── Faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The connection breaks before the API server has heard of it. `meanwhile` is done first. */
export function dropBefore(meanwhile: () => unknown = () => {}): Fault {
  return async ({ drop }) => {
    await meanwhile();
    drop();
  };
}

/** The API server has done it, and the operator never hears of that. `meanwhile` is done in between. */
export function dropAfter(meanwhile: () => unknown = () => {}): Fault {
  return async ({ call, forward, pass, drop }) => {
    if (isWatch(call)) await pass(cutWithinLine(0)).catch(() => {});
    else await forward();
    await meanwhile();
    drop();
  };
}

/** What the API server says with these statuses. */
const STATUSES = {
  409: ['Conflict', 'the object has been modified; please apply your changes to the latest version and try again'],
  410: ['Expired', 'The provided resourceVersion is too old'],
  422: [
    'Invalid',
    'sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled',
  ],
  429: ['TooManyRequests', 'Too many requests, please try again later.'],
  500: ['InternalError', 'Internal error occurred: etcdserver: leader changed'],
  503: ['ServiceUnavailable', 'the server is currently unable to handle the request'],
  504: ['Timeout', 'Timeout: request did not complete within the allotted timeout'],
} as const;

function statusObject(code: keyof typeof STATUSES): object {
  const [reason, message] = STATUSES[code];
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code };
}

/** The API server refuses, without having done anything. */
export function refuse(code: keyof typeof STATUSES, retryAfterSeconds?: number): Fault {
  const headers = {
    'content-type': 'application/json',
    ...(retryAfterSeconds !== undefined && { 'retry-after': String(retryAfterSeconds) }),
  };
  return ({ reply }) => reply({ status: code, headers, body: JSON.stringify(statusObject(code)) });
}

/** The answer takes its time. */
export function slow(ms: number): Fault {
  return async ({ pass, closed }) => {
    await sleep(ms, undefined, { signal: closed });
    await pass();
  };
}

/** No answer ever comes, and nothing was done. */
export const hang: Fault = ({ closed }) => aborted(closed);

/** It is done, but what comes back is half of the answer. */
export const truncate: Fault = async ({ call, forward, reply, pass }) => {
  if (isWatch(call)) return pass(cutWithinLine(0));
  const answer = await forward();
  await reply({ ...answer, status: 200, body: answer.body.slice(0, answer.body.length / 2) });
};

/** It is done, but something on the way answers with a page of its own. */
export const garbage: Fault = async ({ call, forward, reply }) => {
  if (!isWatch(call)) await forward();
  const headers = { 'content-type': 'text/html' };
  await reply({ status: 200, headers, body: '<html><body>\nWelcome to nginx!\n</body></html>\n' });
};

/** Tells what was told when the proxy had seen so many calls, and nothing after that. */
export function goBack(to: number): Fault {
  return async ({ call, earlier, closed, reply, tell, pass }) => {
    const then = earlier.findLast(({ n }) => n <= to)?.text;
    // A watch goes on from what its reader knows. Whoever asks for all must not be shown the present instead.
    if (call.verb === 'watch') return pass();
    if (then === undefined) throw new Error(`nothing was told of ${call.path} before`);
    if (!isWatch(call)) return reply({ status: 200, headers: { 'content-type': 'application/json' }, body: then });
    return tell(
      (async function* () {
        yield then;
        await aborted(closed);
      })(),
    );
  };
}

/** A watch of which the operator gets to see something else. */
export function stream(through: StreamFault): Fault {
  return ({ pass }) => pass(through);
}

// ── Faults of streams ───────────────────────────────────────────────────────────────────────────────────────────────

/** The connection breaks within the line that follows so many whole ones. */
export function cutWithinLine(whole: number): StreamFault {
  return async function* (lines) {
    let count = 0;
    for await (const line of lines) {
      if (count === whole) {
        yield line.slice(0, line.length / 2);
        throw new Error('cut');
      }
      yield line;
      count += 1;
    }
  };
}

/** Each event comes twice. */
export const duplicate: StreamFault = async function* (lines) {
  for await (const line of lines) yield line + line;
};

/** Two events that come within 100 ms of each other change places. */
export const swap: StreamFault = async function* (lines) {
  const take = takerOf(lines);
  let next = take();
  for (let line = await next; line !== undefined; line = await next) {
    next = take();
    const neighbour = await Promise.race([next, sleep(100, undefined, { ref: false })]);
    if (neighbour !== undefined) {
      yield neighbour;
      next = take();
    }
    yield line;
  }
};

/** Lines that are no events, between those that are. */
export function malformed(...nonsense: string[]): StreamFault {
  return async function* (lines) {
    for await (const line of lines) {
      yield line;
      for (const text of nonsense) yield `${text}\n`;
    }
  };
}

/** After so many events comes the one that says that the version is too old. */
export function expire(after: number): StreamFault {
  return async function* (lines) {
    let count = 0;
    for await (const line of lines) {
      if (count === after) {
        yield `${JSON.stringify({ type: 'ERROR', object: statusObject(410) })}\n`;
        return;
      }
      yield line;
      count += 1;
    }
  };
}

/** After so many events nothing comes any more, and nobody is told. */
export function hold(after: number): StreamFault {
  return async function* (lines) {
    let count = 0;
    for await (const line of lines) {
      if (count < after) yield line;
      count += 1;
    }
  };
}

/** Everything comes at once when the stream has ended, which is after this time at the latest. */
export function buffer(ms: number): StreamFault {
  return async function* (lines) {
    const take = takerOf(lines);
    const end = sleep(ms, undefined, { ref: false });
    let all = '';
    for (let line = await Promise.race([take(), end]); line !== undefined; line = await Promise.race([take(), end])) {
      all += line;
    }
    yield all;
  };
}

/**
 * Of all that happened before the watch was opened, and so until no more events come for `quietMs`, it shows what is left
 * of it: one event for each object. Then it calls `shown`.
 */
export function compact(quietMs: number, shown: () => void): StreamFault {
  return async function* (lines) {
    const take = takerOf(lines);
    const seen = new Map<string, { wasThere: boolean; last: WatchEvent }>();
    let next = take();
    for (;;) {
      const line = await Promise.race([next, sleep(quietMs, 'quiet' as const, { ref: false })]);
      if (line === 'quiet') break;
      if (line === undefined) return;
      next = take();
      const last = JSON.parse(line) as WatchEvent;
      const { name } = last.object.metadata;
      if (name === undefined) continue;
      const wasThere = seen.get(name)?.wasThere ?? last.type !== 'ADDED';
      // Taken out first: the events stay in the order of their versions.
      seen.delete(name);
      seen.set(name, { wasThere, last });
    }
    for (const { wasThere, last } of seen.values()) {
      const isThere = last.type !== 'DELETED';
      const type = !isThere ? 'DELETED' : wasThere ? 'MODIFIED' : 'ADDED';
      if (wasThere || isThere) yield `${JSON.stringify({ ...last, type })}\n`;
    }
    shown();
    for (let line = await next; line !== undefined; line = await take()) yield line;
  };
}

interface WatchEvent {
  type: string;
  /** A bookmark has no name. */
  object: { metadata: { name?: string } };
}

/** Takes one line after another, undefined at the end; one that is taken, but not waited for, may fail without harm. */
function takerOf(lines: AsyncIterable<string>): () => Promise<string | undefined> {
  const source = lines[Symbol.asyncIterator]();
  return () => {
    const next = source.next().then(({ done, value }) => (done ? undefined : value));
    next.catch(() => {});
    return next;
  };
}
