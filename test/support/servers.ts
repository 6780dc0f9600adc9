/** Real MCP servers, and servers that are none, on free ports of the loopback address. */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  createMcpHandler,
  McpServer,
  type Transport,
  WebStandardStreamableHTTPServerTransport,
} from '@modelcontextprotocol/server';
import { WebSocketServer } from 'ws';

export interface TestServer {
  port: number;
  /** http://127.0.0.1:PORT/mcp */
  url: string;
  requests: { method: string; path: string; headers: IncomingMessage['headers'] }[];
  http: Server;
  close(): Promise<void>;
}

/** Serves plain HTTP with a handler. */
export async function startHttp(handler: RequestListener, at = 0): Promise<TestServer> {
  const requests: TestServer['requests'] = [];
  const server = createServer((request, response) => {
    requests.push({ method: request.method ?? '', path: request.url ?? '', headers: request.headers });
    void handler(request, response);
  });
  await new Promise<void>(resolve => server.listen(at, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: `http://127.0.0.1:${port}/mcp`,
    requests,
    http: server,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Answers everything in one way. */
export function startStatic(status: number, headers: Record<string, string>, body: string): Promise<TestServer> {
  return startHttp((_request, response) => {
    response.writeHead(status, headers);
    response.end(body);
  });
}

export interface McpOptions {
  name?: string;
  version?: string;
  tools?: string[];
  /** `modern`: 2026-07-28 only; `both`: that and stateless earlier revisions; `legacy`: earlier, with sessions. */
  era?: 'modern' | 'both' | 'legacy';
  /** The only `Authorization` that is let in; others get 401 with a challenge. */
  authorization?: string;
  /** A path that answers 307 to /mcp. */
  redirectFrom?: string;
  /** A free one if absent. */
  port?: number;
}

/** A real MCP server of the official SDK. `sessions` counts those that are open (legacy era). */
export async function startMcp(
  options: McpOptions = {},
): Promise<TestServer & { sessions: () => number; tools: string[] }> {
  const { name = 'test-server', version = '1.2.3', era = 'both', authorization, redirectFrom } = options;
  const tools = options.tools ?? ['alpha', 'beta'];
  const make = (): McpServer => {
    const server = new McpServer({ name, version });
    for (const tool of tools) {
      server.registerTool(tool, { description: `does ${tool}` }, async () => ({
        content: [{ type: 'text', text: tool }],
      }));
    }
    return server;
  };
  const sessions = new Map<string, WebStandardStreamableHTTPServerTransport>();
  const stateless = createMcpHandler(make, { legacy: era === 'modern' ? 'reject' : 'stateless' });

  async function withSession(request: Request): Promise<Response> {
    const known = sessions.get(request.headers.get('mcp-session-id') ?? '');
    if (known) return known.handleRequest(request);
    const transport: WebStandardStreamableHTTPServerTransport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: id => void sessions.set(id, transport),
      onsessionclosed: id => void sessions.delete(id),
    });
    await make().connect(transport);
    return transport.handleRequest(request);
  }

  const server = await startHttp(async (incoming, outgoing) => {
    if (incoming.url === redirectFrom) {
      outgoing.writeHead(307, { location: '/mcp' }).end();
      return;
    }
    if (authorization !== undefined && incoming.headers.authorization !== authorization) {
      const metadata = `http://${incoming.headers.host}/.well-known/oauth-protected-resource/mcp`;
      outgoing.writeHead(401, { 'www-authenticate': `Bearer resource_metadata="${metadata}", scope="read write"` });
      outgoing.end();
      return;
    }
    const request = await toRequest(incoming);
    await send(outgoing, await (era === 'legacy' ? withSession(request) : stateless.fetch(request)));
  }, options.port);
  return {
    ...server,
    tools,
    sessions: () => sessions.size,
    async close() {
      await stateless.close();
      await server.close();
    },
  };
}

/** A real MCP server behind a websocket, one conversation per connection. */
export async function startWebSocketMcp({ name = 'test-server' } = {}): Promise<TestServer> {
  const server = await startHttp((_request, response) => void response.writeHead(426).end());
  const sockets = new WebSocketServer({ server: server.http, path: '/mcp' });
  sockets.on('connection', socket => {
    const transport: Transport = {
      start: async () => {},
      send: async message => socket.send(JSON.stringify(message)),
      close: async () => socket.close(),
    };
    socket.on('message', data => transport.onmessage?.(JSON.parse(String(data))));
    const mcp = new McpServer({ name, version: '1.2.3' });
    mcp.registerTool('alpha', {}, async () => ({ content: [] }));
    void mcp.connect(transport);
  });
  return {
    ...server,
    url: server.url.replace('http:', 'ws:'),
    async close() {
      for (const socket of sockets.clients) socket.terminate();
      sockets.close();
      await server.close();
    },
  };
}

async function toRequest(incoming: IncomingMessage): Promise<Request> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) if (typeof value === 'string') headers.set(name, value);
  const method = incoming.method ?? 'GET';
  return new Request(`http://${incoming.headers.host}${incoming.url}`, {
    method,
    headers,
    ...(method === 'POST' && { body: Buffer.concat(chunks) }),
  });
}

async function send(outgoing: ServerResponse, response: Response): Promise<void> {
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  for await (const chunk of response.body ?? []) outgoing.write(chunk);
  outgoing.end();
}

/** A port on which nothing listens: it was free a moment ago. */
export async function closedPort(): Promise<number> {
  const server = await startStatic(200, {}, '');
  await server.close();
  return server.port;
}
