/** The HTTP side of Streamable HTTP: one path, bounded requests, and answers as JSON or as a stream of events. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { READY_PATH } from './layout.ts';
import { type ClientMessage, CODES, Refusal, readMessage } from './messages.ts';

/** What serves the messages. Each function may throw a Refusal. */
export interface Handler {
  /** Resolves when the message is answered, or taken. */
  post(message: ClientMessage, headers: IncomingMessage['headers'], reply: Reply): Promise<void>;
  /** Takes a stream for what the server says unasked, or refuses. Absent: there is none. */
  listen?(headers: IncomingMessage['headers'], reply: Reply): void;
  /** Ends the streams that `listen` took. */
  hush?(): void;
  /** Ends a session. */
  remove(headers: IncomingMessage['headers']): Promise<void>;
}

/** How a client gets its answer. Nothing is sent to one that is gone. */
export interface Reply {
  /** Aborted when the client is gone before the end. */
  gone: AbortSignal;
  /** Sends a message ahead of the end; false if this client reads no event streams, or is gone. */
  event(message: object): boolean;
  /** Begins a stream that may stay without a message. */
  open(): void;
  /** The last message, with headers where nothing was sent before. */
  end(message: object, headers?: Readonly<Record<string, string>>, status?: number): void;
  /** Headers of a stream that begins before the answer is there. */
  head(headers: Readonly<Record<string, string>>): void;
  /** Ends without a message: 202, or the stream. */
  close(): void;
}

export interface EndpointOptions {
  /** 0 takes a free one. */
  port: number;
  /** All addresses if absent. */
  host?: string | undefined;
  /** Of the MCP endpoint. */
  path: string;
  handler: Handler;
  /** Why the server cannot be used, or undefined; told at READY_PATH. */
  trouble: () => string | undefined;
  onError: (error: unknown) => void;
}

export interface Endpoint {
  port: number;
  /**
   * Serves on until all is answered and nobody has asked for `quietMs`, but for `mostMs` at most: who is on the way still
   * finds it, an answer may need one more message of the client, and no other Pod may be there yet. Each answer ends its
   * connection, so that the client's next one leads elsewhere.
   */
  close(time: { quietMs: number; mostMs: number }): Promise<void>;
}

const MAX_BODY_BYTES = 8 * 2 ** 20;
const MAX_BODIES_BYTES = 64 * 2 ** 20;
const MAX_CONNECTIONS = 1_024;
/** A client that does not read its stream is cut off. */
const MAX_UNREAD_BYTES = 16 * 2 ** 20;
/** Of all answers together, and how long it may take to read one. */
const MAX_UNREAD_ANSWERS = 128 * 2 ** 20;
const UNREAD_MS = 60_000;
/** An answer that takes longer begins as a stream: clients and proxies give up on what says nothing. */
const QUIET_MS = 5_000;
const KEEPALIVE_MS = 15_000;
/** Unused for so long, a connection makes room for another one when there are too many. */
const IDLE_MS = 5_000;

export async function startEndpoint(options: EndpointOptions): Promise<Endpoint> {
  const { port, host, path, handler, trouble, onError } = options;

  /** What is to be answered, but for the kubelet, which goes on asking when clients do not. */
  const inHand = new Set<ServerResponse>();
  /** Connections that wait for their next request, and since when. One that is new is not idle. */
  const idle = new Map<Socket, number>();
  /** Set when the endpoint closes; called when somebody asks, and when all is answered. */
  let closing: (() => void) | undefined;

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const at = request.url?.split('?')[0]?.replace(/(?<=.)\/$/, '');
    if (at === READY_PATH) {
      const wrong = trouble();
      response.writeHead(wrong === undefined ? 200 : 503, { 'content-type': 'text/plain; charset=utf-8' });
      response.end(`${wrong ?? 'ok'}\n`);
      return;
    }
    if (at !== path) throw new Refusal(404, CODES.invalidRequest, `nothing is served here: MCP is at ${path}`);
    checkOrigin(request);
    const { method, headers } = request;
    switch (method) {
      case 'POST': {
        if (!/^application\/json\s*(;|$)/i.test(headers['content-type'] ?? ''))
          throw new Refusal(415, CODES.invalidRequest, 'the Content-Type must be application/json');
        const kinds = accepted(headers.accept);
        const message = readMessage(await bodyOf(request));
        const reply = createReply(response, kinds);
        await handler.post(message, headers, reply).catch(error => {
          const id = message.kind === 'request' ? message.id : undefined;
          const { status, body, headers } = describe(error, onError, id);
          reply.end(body, headers, status);
        });
        return;
      }
      case 'GET': {
        if (!handler.listen) break;
        if (closing) throw new Refusal(503, CODES.server, 'the bridge is stopping');
        if (!accepted(headers.accept).events)
          throw new Refusal(406, CODES.invalidRequest, 'the Accept header must name text/event-stream');
        const reply = createReply(response, { events: true, json: false });
        handler.listen(headers, reply);
        // Not before: who has no session is told so.
        reply.open();
        return;
      }
      case 'DELETE':
        await handler.remove(headers);
        response.writeHead(204).end();
        return;
    }
    const allow = handler.listen ? 'GET, POST, DELETE' : 'POST, DELETE';
    throw new Refusal(405, CODES.invalidRequest, `${method} is not served here`, { headers: { allow } });
  }

  const server = createServer((request, response) => {
    response.on('error', () => {});
    const { socket } = request;
    idle.delete(socket);
    if (request.url !== READY_PATH) {
      inHand.add(response);
      closing?.();
    }
    response.on('close', () => {
      if (!socket.destroyed) idle.set(socket, performance.now());
      if (inHand.delete(response) && inHand.size === 0) closing?.();
    });
    if (closing) response.shouldKeepAlive = false;
    serve(request, response).catch(error => {
      if (response.headersSent || response.destroyed) {
        response.destroy();
        return;
      }
      const { status, body, headers } = describe(error, onError);
      // What is left of a body that was refused is not waited for.
      if (!request.complete) response.shouldKeepAlive = false;
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
    });
  });
  server.headersTimeout = 10_000;
  server.requestTimeout = 60_000;
  // Longer than what usual clients and proxies keep an idle connection for: whoever closes first may meet a request.
  server.keepAliveTimeout = 120_000;
  server.maxConnections = MAX_CONNECTIONS;
  // The kubelet's probe finds room when clients keep more than they use.
  server.on('connection', socket => socket.once('close', () => idle.delete(socket)));
  server.on('drop', () => {
    for (const [socket, since] of idle) if (performance.now() - since > IDLE_MS) socket.destroy();
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, ...(host !== undefined && { host }) }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    async close({ quietMs, mostMs }) {
      handler.hush?.();
      for (const response of inHand) response.shouldKeepAlive = false;
      const { promise, resolve } = Promise.withResolvers<void>();
      let quiet: NodeJS.Timeout | undefined;
      closing = () => {
        clearTimeout(quiet);
        if (inHand.size === 0) quiet = setTimeout(resolve, quietMs);
      };
      closing();
      const late = setTimeout(resolve, mostMs);
      await promise;
      clearTimeout(quiet);
      clearTimeout(late);
      const closed = new Promise(done => server.close(done));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Pages of other origins must not reach the server by a browser of somebody who forwards its port (DNS rebinding). */
function checkOrigin({ headers }: IncomingMessage): void {
  const { origin } = headers;
  if (origin === undefined) return;
  const hostname = URL.canParse(origin) ? new URL(origin).hostname : '';
  if (!['localhost', '127.0.0.1', '[::1]'].includes(hostname))
    throw new Refusal(403, CODES.invalidRequest, 'requests of web pages are not served, but for those of localhost');
}

/** What kinds of answer a client reads. Absent, all. */
function accepted(header = '*/*'): { events: boolean; json: boolean } {
  const accept = header.toLowerCase();
  const all = accept.includes('*/*');
  const kinds = {
    events: all || accept.includes('text/event-stream') || accept.includes('text/*'),
    json: all || accept.includes('application/json') || accept.includes('application/*'),
  };
  if (!kinds.events && !kinds.json)
    throw new Refusal(406, CODES.invalidRequest, 'the Accept header must name application/json and text/event-stream');
  return kinds;
}

/** Of all requests that are being read. */
let bodyBytes = 0;

async function bodyOf(request: IncomingMessage): Promise<string> {
  const tooLarge = new Refusal(413, CODES.invalidRequest, `the body is larger than ${MAX_BODY_BYTES / 2 ** 20} MiB`);
  if (Number(request.headers['content-length']) > MAX_BODY_BYTES) throw tooLarge;
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      const { length } = chunk as Buffer;
      size += length;
      bodyBytes += length;
      if (size > MAX_BODY_BYTES) throw tooLarge;
      if (bodyBytes > MAX_BODIES_BYTES)
        throw new Refusal(503, CODES.server, 'too much is being sent at a time', { headers: { 'retry-after': '1' } });
      chunks.push(chunk as Buffer);
    }
    return Buffer.concat(chunks).toString();
  } finally {
    bodyBytes -= size;
  }
}

/** Answers that are not read yet, the oldest first, and how long they are. */
const unread = new Map<ServerResponse, number>();

/** Cuts off who does not read its answer, and the oldest when all are too much: their calls do not count any more. */
function watchUnread(response: ServerResponse, length: number): void {
  if (response.writableLength === 0) return;
  unread.set(response, length);
  const late = setTimeout(() => response.destroy(), UNREAD_MS);
  const isRead = (): void => {
    clearTimeout(late);
    unread.delete(response);
  };
  response.once('finish', isRead);
  response.once('close', isRead);
  let all = unread.values().reduce((sum, one) => sum + one, 0);
  for (const [oldest, size] of unread) {
    if (all <= MAX_UNREAD_ANSWERS) break;
    all -= size;
    oldest.destroy();
  }
}

function describe(
  error: unknown,
  onError: (error: unknown) => void,
  id?: string | number,
): { status: number; body: object; headers: Readonly<Record<string, string>> } {
  const known = error instanceof Refusal;
  if (!known) onError(error);
  const refusal = known ? error : new Refusal(500, CODES.server, 'the bridge could not serve this: its log says why');
  const { status, code, message, data, headers } = refusal;
  const body = { jsonrpc: '2.0', id: id ?? null, error: { code, message, ...(data !== undefined && { data }) } };
  return { status, body, headers };
}

function createReply(response: ServerResponse, kinds: { events: boolean; json: boolean }): Reply {
  const gone = new AbortController();
  let isOver = false;
  let early: Readonly<Record<string, string>> = {};
  let keepalive: NodeJS.Timeout | undefined;
  const quiet = kinds.events ? setTimeout(stream, QUIET_MS) : undefined;
  const finish = (): void => {
    isOver = true;
    clearTimeout(quiet);
    clearInterval(keepalive);
  };
  response.on('close', () => {
    if (!isOver) gone.abort(new DOMException('the client is gone', 'AbortError'));
    finish();
  });

  function stream(): void {
    clearTimeout(quiet);
    if (response.headersSent || isOver) return;
    response.writeHead(200, {
      ...early,
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    });
    response.flushHeaders();
    keepalive = setInterval(() => void response.write(': \n\n'), KEEPALIVE_MS);
  }

  function write(message: object): void {
    // What it has yet to read, not what it gets now: one answer may be larger.
    if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
    else response.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
  }

  return {
    gone: gone.signal,
    open: stream,
    event(message) {
      if (!kinds.events || isOver) return false;
      stream();
      write(message);
      return true;
    },
    end(message, headers = {}, status = 200) {
      if (isOver) return;
      // An error has its status, where it can have one.
      if (!response.headersSent && (kinds.json || status !== 200)) {
        const text = JSON.stringify(message);
        response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);
        watchUnread(response, text.length);
      } else {
        if (!response.headersSent) for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
        stream();
        write(message);
        response.end();
        watchUnread(response, response.writableLength);
      }
      finish();
    },
    head(headers) {
      early = headers;
    },
    close() {
      if (isOver) return;
      if (!response.headersSent) response.writeHead(202);
      response.end();
      finish();
    },
  };
}
