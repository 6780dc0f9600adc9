/** Servers for the benchmark of probes: two that answer at once, and some that mean harm. */
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';

const TOOLS = Array.from({ length: 20 }, (_, index) => ({
  name: `tool-${index}`,
  description: 'Does something for somebody who asks for it, and says what came of it.',
  inputSchema: { type: 'object', properties: { what: { type: 'string' }, times: { type: 'integer' } } },
}));

const answers = (protocolVersion: string): Record<string, object> => ({
  'server/discover': {
    resultType: 'complete',
    supportedVersions: [protocolVersion],
    capabilities: { tools: {} },
    _meta: { 'io.modelcontextprotocol/serverInfo': { name: 'bench', version: '1.0.0' } },
    ttlMs: 0,
  },
  initialize: { protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'bench', version: '1.0.0' } },
  'tools/list': { tools: TOOLS },
});

async function text(request: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) body += chunk;
  return body;
}

function good(version: string, knows: (method: string) => boolean): RequestListener {
  const results = answers(version);
  return async (request, response) => {
    const body = await text(request);
    if (request.method !== 'POST') return void response.writeHead(request.method === 'DELETE' ? 200 : 405).end();
    const { id, method } = JSON.parse(body);
    if (id === undefined) return void response.writeHead(202).end();
    const isKnown = knows(method);
    const message = isKnown ? { result: results[method] } : { error: { code: -32601, message: 'Method not found' } };
    response.writeHead(isKnown ? 200 : 404, { 'content-type': 'application/json', 'mcp-session-id': 'bench' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id, ...message }));
  };
}

const endless = (response: ServerResponse, type: string, chunk: string | Buffer, headers = {}): void => {
  response.writeHead(200, { 'content-type': type, ...headers });
  const more = (): void => {
    while (!response.destroyed && response.write(chunk));
    if (!response.destroyed) response.once('drain', more);
  };
  more();
};

const raw = (flood: (socket: Socket) => void): Server =>
  createTcpServer(socket => socket.on('error', () => {}).once('data', () => flood(socket)));

/** Writes as fast as the other side reads. */
const pour = (chunk: string) => (socket: Socket) => {
  const more = (): void => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on('drain', more);
  more();
};

const BOMB = gzipSync(Buffer.alloc(64 * 2 ** 20));
const DEEP = `{"jsonrpc":"2.0","id":1,"result":${'{"a":'.repeat(150_000)}1${'}'.repeat(150_000)}}`;
const EVENT = `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"data":"${'x'.repeat(1_000)}"}}\n\n`;

const hostile: Record<string, () => Server> = {
  'an endless body': () => createServer((_, response) => endless(response, 'application/json', ' '.repeat(65_536))),
  'an endless stream of events': () => createServer((_, response) => endless(response, 'text/event-stream', EVENT)),
  'one endless event': () =>
    createServer((_, response) => endless(response, 'text/event-stream', `data: ${'x'.repeat(65_530)}`)),
  'a gzip bomb': () =>
    createServer(
      (_, response) =>
        void response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end(BOMB),
    ),
  'a deep answer': () =>
    createServer((_, response) => void response.writeHead(200, { 'content-type': 'application/json' }).end(DEEP)),
  'endless headers': () =>
    raw(socket => {
      socket.write('HTTP/1.1 200 OK\r\n');
      pour(`X-A: ${'x'.repeat(1_000)}\r\n`)(socket);
    }),
  'endless early hints': () => raw(pour('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'.repeat(100))),
  // All that it may send, held until the probe times out.
  'a large answer without an end': () =>
    createServer((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write(' '.repeat(1.9 * 2 ** 20));
    }),
  'no answer, ever': () => createTcpServer(socket => void socket.on('error', () => {}).resume()),
};

export const HOSTILE = Object.keys(hostile);

async function listen(server: Server): Promise<number> {
  await new Promise<void>(resolve => server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, resolve));
  return (server.address() as AddressInfo).port;
}

const modern = (): Server => createServer(good('2026-07-28', method => method !== 'initialize'));

/** Starts one that is well, and gives its port. */
export const startModernServer = (): Promise<number> => listen(modern());

/** Starts all, and gives their URLs by name. */
export async function startServers(): Promise<Record<string, string>> {
  const servers: Record<string, Server> = {
    modern: modern(),
    legacy: createServer(good('2025-11-25', method => method !== 'server/discover')),
    ...Object.fromEntries(Object.entries(hostile).map(([name, make]) => [name, make()])),
  };
  const urls: Record<string, string> = {};
  for (const [name, server] of Object.entries(servers)) {
    urls[name] = `http://127.0.0.1:${await listen(server)}/mcp`;
  }
  return urls;
}
