/** The animals: MCP servers of a few lines on free ports of loopback, each a script of what it answers to which method. */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createTlsServer, type ServerOptions as TlsOptions } from 'node:https';
import type { AddressInfo, Server, Socket } from 'node:net';
import { createServer as createTcpServer } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { closedPort } from '../support/servers.ts';

export interface Received {
  /** The HTTP method. */
  verb: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
  /** The JSON-RPC method, or ''. */
  method: string;
  params: Record<string, unknown>;
}

export interface Animal extends AsyncDisposable {
  port: number;
  /** http://127.0.0.1:PORT */
  origin: string;
  /** http://127.0.0.1:PORT/mcp */
  url: string;
  requests: Received[];
  /** Connections that were ever made. */
  connections(): number;
  /** JSON-RPC and HTTP methods of the requests, in order. */
  methods(): string[];
  /** Resolves when no connection is open; fails after 2 s. */
  quiet(): Promise<void>;
}

/** One request and the way to answer it. */
export interface Call extends Received {
  id: unknown;
  request: IncomingMessage;
  response: ServerResponse;
  socket: Socket;
  origin: string;
}

export type Answer = (call: Call) => unknown;

/**
 * What is asked → the answer. Keys, the first that fits: `POST /path`; at /mcp a JSON-RPC method, else the HTTP method;
 * `*`. Without a fitting key: 404 beyond /mcp, 405 to HTTP methods, -32601 to JSON-RPC methods, 202 to notifications.
 * What a client answers to a server's request is of the method `response`.
 */
export type Script = Record<string, Answer>;

export const TOOL = { name: 'feed', description: 'Feeds an animal.', inputSchema: { type: 'object' } };
const serverInfo = { name: 'zoo', version: '1.2.3' };

/** Good results, of fields that both eras know. */
export const RESULTS: Record<string, object> = {
  initialize: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo },
  'server/discover': {
    resultType: 'complete',
    supportedVersions: ['2026-07-28'],
    capabilities: { tools: {} },
    ttlMs: 0,
    cacheScope: 'private',
    _meta: { 'io.modelcontextprotocol/serverInfo': serverInfo },
  },
  'tools/list': { resultType: 'complete', ttlMs: 0, cacheScope: 'private', tools: [TOOL] },
};

// ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Puts `$ID`, `$ORIGIN` and `$ANSWER`, the good answer to the call as JSON-RPC, into a text. */
export function fill(text: string, { id, method, origin }: Pick<Call, 'id' | 'method' | 'origin'>): string {
  return text
    .replaceAll('$ANSWER', () => JSON.stringify({ jsonrpc: '2.0', id, result: RESULTS[method] ?? {} }))
    .replaceAll('$ID', () => JSON.stringify(id) ?? 'null')
    .replaceAll('$ORIGIN', origin);
}

export function status(code: number, headers: Record<string, string | string[]> = {}, body = ''): Answer {
  return call => {
    const filled = Object.entries(headers).map(([name, value]): [string, string | string[]] => [
      name,
      typeof value === 'string' ? fill(value, call) : value,
    ]);
    call.response.writeHead(code, Object.fromEntries(filled)).end(fill(body, call));
  };
}

/** JSON text as it stands. */
export function json(text: string, code = 200, headers: Record<string, string> = {}): Answer {
  return status(code, { 'content-type': 'application/json', ...headers }, text);
}

export function result(value: object, headers: Record<string, string> = {}): Answer {
  return json(`{"jsonrpc":"2.0","id":$ID,"result":${JSON.stringify(value)}}`, 200, headers);
}

export function failure(
  code: number,
  message: string,
  { data, status: at = 200 }: { data?: object; status?: number } = {},
): Answer {
  return json(`{"jsonrpc":"2.0","id":$ID,"error":${JSON.stringify({ code, message, data })}}`, at);
}

const EVENT_STREAM = { 'content-type': 'text/event-stream' };

/** An event stream of these chunks, each sent for itself, then its end. */
export function events(...chunks: (string | Uint8Array)[]): Answer {
  return async call => {
    await begin(call, chunks);
    call.response.end();
  };
}

/** An event stream of these chunks that stays open. */
export function openEvents(...chunks: (string | Uint8Array)[]): Answer {
  return call => begin(call, chunks);
}

async function begin(call: Call, chunks: readonly (string | Uint8Array)[]): Promise<void> {
  call.response.writeHead(200, EVENT_STREAM).flushHeaders();
  for (const chunk of chunks) {
    const bytes = typeof chunk === 'string' ? fill(chunk, call) : chunk;
    // Through the kernel before the next one, so that chunks arrive apart.
    await new Promise(resolve => call.response.write(bytes, resolve));
    await new Promise(setImmediate);
  }
}

/** Takes the request and never answers. */
export const hang: Answer = () => {};
export const reset: Answer = ({ socket }) => socket.resetAndDestroy();
/** Closes the connection in good order, without an answer. */
export const hangUp: Answer = ({ socket }) => socket.end();

/** Bytes in place of an HTTP answer. */
export function raw(...chunks: (string | Uint8Array)[]): Answer {
  return call => {
    for (const chunk of chunks) call.socket.write(typeof chunk === 'string' ? fill(chunk, call) : chunk);
  };
}

/** Writes for as long as anybody reads. */
export function flood(to: NodeJS.WritableStream, next: () => string | Uint8Array): void {
  Readable.from(
    (function* () {
      for (;;) yield next();
    })(),
    { objectMode: false },
  )
    .on('error', () => {})
    .pipe(to.on('error', () => {}));
}

/** Writes something every `ms` until the connection ends. */
export function drip(to: NodeJS.WritableStream, socket: Socket, ms: number, next: () => string): void {
  const timer = setInterval(() => to.write(next()), ms);
  socket.on('error', () => {}).on('close', () => clearInterval(timer));
}

/** The first call gets the first answer, the last answer is for all further ones. */
export function inTurn(...answers: [Answer, ...Answer[]]): Answer {
  let nth = 0;
  return call => answers[Math.min(nth++, answers.length - 1)]?.(call);
}

// ── Scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Streamable HTTP up to 2025-11-25, without sessions; to discover it answers as SDK v1 does before initialize. */
export const legacy: Script = {
  'server/discover': failure(-32000, 'Bad Request: Server not initialized', { status: 400 }),
  initialize: json('$ANSWER'),
  'notifications/initialized': status(202),
  'tools/list': json('$ANSWER'),
};

/** 2026-07-28 only. */
export const modern: Script = {
  'server/discover': json('$ANSWER'),
  'tools/list': json('$ANSWER'),
  initialize: failure(-32601, 'Method not found', { status: 404 }),
  'notifications/initialized': failure(-32601, 'Method not found', { status: 404 }),
};

/** Legacy, and its good answers come in this way. */
export function legacyBy(answer: Answer): Script {
  return { ...legacy, initialize: answer, 'tools/list': answer };
}

// ── Servers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

interface HttpOptions {
  host?: string;
  tls?: TlsOptions;
  /** HTTP/2 for who offers it, else HTTP/1.1; behind TLS only. */
  h2?: boolean;
}

export async function startHttp(script: Script, { host = '127.0.0.1', tls, h2 }: HttpOptions = {}): Promise<Animal> {
  let animal: Animal | undefined;
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.on('error', () => {});
    const path = request.url ?? '';
    const verb = request.method ?? '';
    const body = await text(request);
    const rpc = parse(body);
    const received = { verb, path, headers: request.headers, body, method: rpc.method ?? '', params: rpc.params ?? {} };
    animal?.requests.push(received);
    const call: Call = {
      ...received,
      id: rpc.id,
      request,
      response,
      socket: request.socket,
      origin: animal?.origin ?? '',
    };
    await choose(script, call)(call);
  };
  const handler = (request: IncomingMessage, response: ServerResponse): void =>
    // A client that goes in the middle of a request is no fault of the test.
    void answer(request, response).catch(() => response.destroy());
  const plain = { keepAliveTimeout: 60_000, maxHeaderSize: 4 * 2 ** 20 }; // Who probes has to close.
  const server = h2
    ? createSecureServer({ ...tls, allowHTTP1: true }, handler as never)
    : tls
      ? createTlsServer({ ...plain, ...tls }, handler)
      : createServer(plain, handler);
  animal = await listen(server, { scheme: tls ? 'https' : 'http', host });
  return animal;
}

function choose(script: Script, { verb, path, method, id }: Call): Answer {
  const atMcp = path.split('?')[0] === '/mcp';
  const own = script[`${verb} ${path}`] ?? (atMcp ? (script[method] ?? script[verb]) : undefined) ?? script['*'];
  if (own) return own;
  if (!atMcp) return status(404, { 'content-type': 'text/html' }, '<h1>404</h1>');
  if (method === '') return status(405, { allow: 'POST' });
  return id === undefined || method === 'response' ? status(202) : failure(-32601, 'Method not found');
}

/** A server below HTTP: calls back with each connection. */
export function startTcp(connected: (socket: Socket) => void, scheme = 'http'): Promise<Animal> {
  return listen(
    createTcpServer(socket => connected(socket.on('error', () => {}).resume())),
    { scheme },
  );
}

/** Bytes to whoever has sent the first bytes of a request. */
export function startRaw(answer: (socket: Socket) => void): Promise<Animal> {
  return startTcp(socket => socket.once('data', () => answer(socket)));
}

/** A port where nothing listens. */
export async function nobody(): Promise<Animal> {
  const port = await closedPort();
  const origin = `http://127.0.0.1:${port}`;
  return {
    port,
    origin,
    url: `${origin}/mcp`,
    requests: [],
    connections: () => 0,
    methods: () => [],
    quiet: async () => {},
    [Symbol.asyncDispose]: async () => {},
  };
}

const QUIET_MS = 2_000;

/** Listens on a free port and keeps count of connections. */
export async function listen(server: Server, { scheme = 'http', host = '127.0.0.1' } = {}): Promise<Animal> {
  const sockets = new Set<Socket>();
  let connections = 0;
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.on('tlsClientError', () => {});
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  const origin = `${scheme}://${host}:${port}`;
  const requests: Received[] = [];
  return {
    port,
    origin,
    url: `${origin}/mcp`,
    requests,
    connections: () => connections,
    methods: () => requests.map(({ method, verb }) => method || verb),
    async quiet() {
      const deadline = performance.now() + QUIET_MS;
      while (sockets.size > 0) {
        if (performance.now() > deadline) throw new Error(`${sockets.size} connections are open after the probe`);
        await sleep(5);
      }
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise(resolve => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function text(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

function parse(body: string): { id?: unknown; method?: string; params?: Record<string, unknown> } {
  try {
    const message = JSON.parse(body);
    return 'result' in message || 'error' in message ? { id: message.id, method: 'response' } : message;
  } catch {
    return {};
  }
}
