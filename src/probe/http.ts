/** HTTP for one probe: bounded in headers, bytes and time, whatever the server sends. */

import type { Agent as HttpAgent } from 'node:http';
import type { Socket } from 'node:net';
import { pipeline, type Readable, type Transform } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { Client, type Dispatcher } from 'undici';

import { agent, connector, type Destination, type Dialer, unlessAborted } from './dial.ts';
import { isReset, isTlsAlert, NotMcp } from './failure.ts';
import { cleanText } from './text.ts';

/** All answers of one probe together; lists of a few hundred tools stay below 1 MiB. */
export const MAX_BYTES = 2 * 2 ** 20;
/** What sockets may bring in all: beyond answers that are read there are heads of informational ones, chunk sizes, pings. */
const MAX_RAW_BYTES = 2 * MAX_BYTES;
const RAW_CHECK_MS = 250;
const AFTERWARDS_MS = 2_000;
const MAX_REDIRECTS = 3;
/** Interim answers (1xx) of one probe: each costs more than its bytes tell. */
const MAX_INTERIM = 64;
/** A text as long as this takes more than a millisecond to understand. */
const LONG_TEXT = 64 * 1024;

const BOUNDS = {
  allowH2: false,
  maxHeaderSize: 16 * 1024,
  maxResponseSize: MAX_BYTES,
  headersTimeout: 0,
  bodyTimeout: 0,
};

export interface Request {
  method: 'GET' | 'POST' | 'DELETE';
  url: URL;
  headers?: Readonly<Record<string, string>>;
  body?: string;
  /** Absent: as long as the probe lasts. It may be longer than that. */
  signal?: AbortSignal;
  /** What it is for, as the steps tell it; absent, the method. */
  what?: string;
  /** Without credentials, whoever is asked. */
  anonymous?: boolean;
}

export interface Answer {
  /** Where the answer came from, after redirects within the origin. */
  url: URL;
  status: number;
  /** By lower-case name; several of one name are joined. */
  headers: Readonly<Record<string, string>>;
  /** Throws NotMcp when the probe has read too much, or it cannot be decoded. */
  body: AsyncIterable<Buffer>;
  /** The body as text, or so many bytes of it, instead of `body`; throws as that does. */
  text(mostBytes?: number): Promise<string>;
  /** Leaves what has not been read of it unread. */
  drop(): void;
}

/** What was asked of a server and what came of it, for people who want to know how a verdict was found. */
export interface Step {
  /** Such as `POST initialize`. */
  asked: string;
  url: string;
  /** A status and a content type, or an error. */
  answered: string;
  ms: number;
}

/** A stream, and how undici gives the text of its own. */
type Body = Readable & { text?(): Promise<string> };

/** A connection, or none yet or any more; it is made when it is needed. */
interface Line {
  origin: string;
  client: Client;
  /** The request whose answer is still to come, or to be read. */
  request: object | undefined;
  /** Whether the connection has brought an answer. */
  proven: boolean;
}

export interface ExchangeOptions {
  url: URL;
  dial: Dialer;
  /** Sent to the origin of `url` only. */
  credentials: Readonly<Record<string, string>>;
  ca: string | undefined;
  userAgent: string;
  /** Of the probe: it ends when this is aborted, and aborts it when it has read too much. */
  ending: AbortController;
  onStep?: ((step: Step) => void) | undefined;
}

export interface Exchange {
  /** Resolves when the head of the answer is there. Follows redirects within the origin that keep the method. */
  ask(request: Request): Promise<Answer>;
  /** For who speaks something else than requests and answers: connections, what each request would carry, and the count. */
  agent(): HttpAgent;
  headers: Readonly<Record<string, string>>;
  /** Each once in a probe. */
  nextId(): number;
  count(bytes: number): void;
  /** What there is to read of an answer. */
  bodyOf(raw: Readable): Pick<Answer, 'body' | 'text' | 'drop'>;
  step(asked: string, url: URL, answered: string, since: number): void;
  /** Aborted when the probe ends, or has read too much. */
  signal: AbortSignal;
  /**
   * Does what is to be done also when the probe's time is over, with all such work of one probe within 2 s; not for a
   * server that floods us. Never throws.
   */
  afterwards(work: (signal: AbortSignal) => Promise<unknown>): Promise<void>;
  /** Closes all connections. */
  close(): Promise<void>;
}

/** Made once: an error for each connection that is closed would cost more than the closing. */
const CLOSED = new Error('the probe is over');

/** What looks after how much each exchange has received; one timer for all that are open. */
const watched = new Set<() => void>();
let watch: NodeJS.Timeout | undefined;

function lookAfter(look: () => void): Disposable {
  if (watched.size === 0) watch = setInterval(() => watched.forEach(look => void look()), RAW_CHECK_MS).unref();
  watched.add(look);
  return {
    [Symbol.dispose]() {
      watched.delete(look);
      if (watched.size === 0) clearInterval(watch);
    },
  };
}

export function openExchange(options: ExchangeOptions): Exchange {
  const { url: target, dial, credentials, ca, userAgent, ending, onStep } = options;
  const { signal } = ending;
  const sockets: Socket[] = [];
  const lines: Line[] = [];
  /** What a server said as it ended a TLS connection. */
  let alert: Error | undefined;
  const counted: Dialer = async to => {
    const socket = await dial(to);
    sockets.push(socket);
    // undici tells only that the connection broke.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (isTlsAlert(error.code)) alert = error;
    });
    return socket;
  };
  const closed = new AbortController();
  const opened = { ca, signal: closed.signal };
  const connect = connector(counted, opened);
  const basic = { 'user-agent': userAgent, 'accept-encoding': 'identity' };
  const named = Object.entries(credentials).map(([name, value]) => [name.toLowerCase(), value]);
  const headers: Record<string, string> = { ...basic, ...Object.fromEntries(named), 'accept-encoding': 'identity' };

  /** A connection over which no answer is to come: a probe needs a second one only beside a stream. */
  function lineTo(origin: string): Line {
    const idle = lines.find(line => !line.request && line.origin === origin);
    if (idle) return idle;
    const client = new Client(origin, { ...BOUNDS, connect });
    const line: Line = { origin, client, request: undefined, proven: false };
    lines.push(line);
    return line;
  }

  /** What may be taken for work afterwards, until nothing is left; and what ends it. */
  let leftMs = AFTERWARDS_MS;
  let patience: AbortController | undefined;

  const tooLarge = (): NotMcp => {
    const error = new NotMcp(`it sends more than ${MAX_BYTES / 2 ** 20} MiB`);
    ending.abort(error);
    return error;
  };
  /** Ends what goes on beyond all answers, where each byte costs more than it tells. */
  const flooded = (error: NotMcp): void => {
    ending.abort(error);
    leftMs = 0;
    patience?.abort(error);
  };
  let ids = 0;
  let bytes = 0;
  let interim = 0;
  const onInfo = (): void => {
    interim += 1;
    if (interim > MAX_INTERIM) flooded(new NotMcp(`it sends more than ${MAX_INTERIM} interim answers`));
  };
  function count(more: number): void {
    bytes += more;
    if (bytes > MAX_BYTES) throw tooLarge();
  }
  // What is no part of a body is counted by nobody else.
  const watching = lookAfter(() => {
    let raw = 0;
    for (const socket of sockets) raw += socket.bytesRead;
    if (raw > MAX_RAW_BYTES) flooded(tooLarge());
  });

  /** What it means that a body cannot be read. */
  function explain(error: unknown): unknown {
    const code = String((error as { code?: unknown }).code);
    if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') return tooLarge();
    return /^(Z_|ERR_BROTLI|ERR__ERROR_|ZSTD_)/.test(code) ? new NotMcp('its answer cannot be decoded') : error;
  }

  async function* read(raw: Readable, encoding: string | undefined, onRead: () => void): AsyncGenerator<Buffer> {
    const decoder = decoderOf(encoding);
    if (decoder) raw.on('data', (chunk: Buffer) => (bytes += chunk.length));
    try {
      for await (const chunk of decoder ? pipeline(raw, decoder, () => {}) : raw) {
        count((chunk as Buffer).length);
        yield chunk as Buffer;
      }
      onRead();
    } catch (error) {
      throw explain(error);
    } finally {
      raw.destroy();
      decoder?.destroy();
    }
  }

  function bodyOf(raw: Body, encoding?: string, onRead = () => {}): Pick<Answer, 'body' | 'text' | 'drop'> {
    raw.on('error', () => {}); // Told to whom reads it.
    raw.on('close', onRead);
    return {
      body: { [Symbol.asyncIterator]: () => read(raw, encoding, onRead) },
      text: async mostBytes => {
        const text =
          mostBytes === undefined && raw.text && !decoderOf(encoding)
            ? await whole(raw.text())
            : await textOf(read(raw, encoding, onRead), mostBytes);
        onRead();
        // Many long ones at once must not stop all else.
        if (text.length > LONG_TEXT) await inTurn();
        return text;
      },
      drop() {
        raw.destroy();
        onRead();
      },
    };
  }

  /** The common case, without the cost of an iterator. */
  async function whole(reading: Promise<string>): Promise<string> {
    try {
      const text = await reading;
      count(Buffer.byteLength(text));
      return text;
    } catch (error) {
      throw explain(error);
    }
  }

  async function once({
    method,
    url,
    headers: more,
    body,
    anonymous,
    signal: limit = signal,
  }: Request): Promise<Answer> {
    const { origin, pathname, search } = url;
    const request: Dispatcher.RequestOptions = {
      path: pathname + search,
      method,
      headers: { ...(origin === target.origin && !anonymous ? headers : basic), ...more },
      body: body ?? null,
      signal: limit,
      onInfo,
    };
    const line = lineTo(origin);
    line.request = request;
    const free = (): void => {
      // Bodies close late: by then the next request may have the line.
      if (line.request === request) line.request = undefined;
    };
    const send = () => unlessAborted(line.client.request(request), limit);
    try {
      const {
        statusCode,
        headers: answered,
        body: raw,
      } = await send().catch(error => {
        // Servers may close a connection after any answer. Who did so just now has not seen this request, for all we
        // know, and all that a probe asks may be asked twice.
        if (!line.proven || !isReset(error) || limit.aborted) throw error;
        line.proven = false;
        return send();
      });
      line.proven = true;
      for (const name in answered) if (Array.isArray(answered[name])) answered[name] = answered[name].join(', ');
      const joined = answered as Record<string, string>;
      return { url, status: statusCode, headers: joined, ...bodyOf(raw, joined['content-encoding'], free) };
    } catch (error) {
      free();
      throw alert && isReset(error) ? alert : error;
    }
  }

  function step(asked: string, url: URL, answered: string, since: number): void {
    onStep?.({
      asked,
      url: url.origin + url.pathname,
      answered: cleanText(answered, 256),
      ms: Math.round(performance.now() - since),
    });
  }

  return {
    agent: () => agent(counted, { ...opened, protocol: target.protocol as Destination['protocol'] }),
    headers,
    signal,
    nextId: () => ++ids,
    count,
    bodyOf,
    step,
    async ask(request) {
      let { url } = request;
      for (let hops = 0; ; hops++) {
        const since = performance.now();
        const asked = request.what ?? request.method;
        try {
          const answer = await once({ ...request, url });
          if (onStep) step(asked, url, `${answer.status} ${answer.headers['content-type'] ?? ''}`.trim(), since);
          const next = hops < MAX_REDIRECTS ? redirect(request.method, answer) : undefined;
          if (!next) return answer;
          answer.drop();
          url = next;
        } catch (error) {
          step(asked, url, error instanceof Error ? error.message : String(error), since);
          throw error;
        }
      }
    },
    async afterwards(work) {
      if (leftMs <= 0) return;
      const since = performance.now();
      patience = new AbortController();
      const late = setTimeout(abort => abort.abort(CLOSED), leftMs, patience);
      await work(patience.signal).catch(() => {});
      clearTimeout(late);
      leftMs -= performance.now() - since;
    },
    async close() {
      watching[Symbol.dispose]();
      closed.abort(CLOSED);
      await Promise.all(lines.map(({ client }) => client.destroy(CLOSED)));
      for (const socket of sockets) socket.destroy();
    },
  };
}

let last = Promise.resolve();

/** Resolves for one caller in a turn of the event loop. */
function inTurn(): Promise<void> {
  last = last.then(() => turn());
  return last;
}

/** Where a redirect leads that may be followed: within the origin, with the same method. */
function redirect(method: Request['method'], { url, status, headers }: Answer): URL | undefined {
  const follows = status === 307 || status === 308 || (method === 'GET' && (status === 301 || status === 302));
  const { location } = headers;
  if (!follows || location === undefined || !URL.canParse(location, url.href)) return undefined;
  const next = new URL(location, url);
  return next.origin === url.origin && next.username === '' && next.password === '' ? next : undefined;
}

/**
 * Nothing is gained by compression, and it was not asked for; but some servers compress all the same. Others name a
 * charset there, or nothing that exists: what they send is plain.
 */
function decoderOf(encoding = ''): Transform | undefined {
  const [only, ...others] = encoding
    .split(',')
    .map(name => name.trim().toLowerCase())
    .filter(name => name !== '' && name !== 'identity');
  switch (others.length === 0 ? only : undefined) {
    case 'gzip':
    case 'x-gzip':
      return createGunzip();
    case 'deflate':
      return createInflate();
    case 'br':
      return createBrotliDecompress();
    case 'zstd':
      return createZstdDecompress();
    default:
      return undefined;
  }
}

async function textOf(body: AsyncIterable<Buffer>, mostBytes = Number.POSITIVE_INFINITY): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    size += chunk.length;
    if (size >= mostBytes) break;
  }
  return new TextDecoder().decode(Buffer.concat(chunks).subarray(0, mostBytes));
}
