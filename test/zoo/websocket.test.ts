/** MCP over websockets, which no revision defines: JSON-RPC in text frames, subprotocol `mcp`. */

import { createServer, type IncomingMessage } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { describe, expect, it } from 'vitest';
import { type WebSocket, WebSocketServer } from 'ws';
import { createAuthority } from '../cluster/certificates.ts';
import { CLOSED } from '../unit/support.ts';
import { probe, sending, trusting } from './probing.ts';
import {
  type Animal,
  hang,
  legacy,
  listen,
  nobody,
  RESULTS,
  type Script,
  startHttp,
  startRaw,
  startTcp,
  status,
} from './servers.ts';
import {
  ACCEPTED,
  BUSY,
  type Case,
  FORBIDDEN,
  LIMITED,
  MISMATCH,
  NOT_FOUND,
  NOT_MCP,
  REDIRECTED,
  REFUSED,
  REJECTED,
  RESET,
  SERVER_ERROR,
  SHORT,
  TIMEOUT,
  TLS,
  testCases,
  UNAUTHORIZED,
  VERIFIED,
  verdictOf,
} from './verdicts.ts';

const FACTS = { server: { name: 'zoo', version: '1.2.3', protocolVersion: '2025-11-25', tools: { names: ['feed'] } } };

interface Message {
  id?: unknown;
  method?: string;
  params?: Record<string, unknown>;
}
/** Answers a message; `send` gives the good answer. */
type Speak = (message: Message, socket: WebSocket, send: () => void) => void;

interface Options {
  speak?: Speak;
  /** When the socket opens. */
  opened?: (socket: WebSocket, request: IncomingMessage) => void;
  /** Which of the subprotocols offered is chosen. */
  choose?: (offered: Set<string>) => string | false;
  tls?: { cert: string; key: string };
}

/** A good server unless told otherwise: it knows no discover. */
async function startWs({
  speak = (_message, _socket, send) => send(),
  opened,
  choose,
  tls,
}: Options = {}): Promise<Animal & { pongs: () => number }> {
  const http = tls ? createTlsServer(tls) : createServer();
  const server = new WebSocketServer({ server: http, path: '/mcp', ...(choose && { handleProtocols: choose }) });
  const animal = await listen(http, { scheme: tls ? 'wss' : 'ws' });
  let pongs = 0;
  server.on('connection', (socket, request) => {
    socket
      .on('error', () => {})
      .on('pong', () => {
        pongs += 1;
      });
    opened?.(socket, request);
    socket.on('message', data => {
      const message = JSON.parse(String(data)) as Message;
      animal.requests.push({
        verb: 'WS',
        path: request.url ?? '',
        headers: request.headers,
        body: String(data),
        method: message.method ?? 'response',
        params: message.params ?? {},
      });
      if (message.method !== undefined && message.id !== undefined)
        speak(message, socket, () => socket.send(good(message)));
    });
  });
  return { ...animal, pongs: () => pongs };
}

function good({ id, method = '' }: Message): string {
  const result = method === 'server/discover' ? undefined : RESULTS[method];
  return JSON.stringify({
    jsonrpc: '2.0',
    id,
    ...(result ? { result } : { error: { code: -32601, message: 'Method not found' } }),
  });
}

const ws =
  (options: Options = {}) =>
  () =>
    startWs(options);
/** An HTTP server that is asked to upgrade. */
const http = (script: Script) => async (): Promise<Animal> => {
  const animal = await startHttp(script);
  return { ...animal, url: animal.url.replace('http:', 'ws:') };
};
const raw = (bytes: string) => async (): Promise<Animal> => {
  const animal = await startRaw(socket => socket.end(bytes));
  return { ...animal, url: animal.url.replace('http:', 'ws:') };
};

describe('a websocket server', () => {
  testCases({
    'that is good': {
      server: ws(),
      verdict: VERIFIED,
      outcome: FACTS,
      after: ({ requests }) => {
        expect(requests[0]?.headers).toMatchObject({
          'sec-websocket-protocol': 'mcp',
          'user-agent': 'zoo/0.0.0 (+https://example.com)',
        });
        expect(requests.map(({ method }) => method)).toEqual(
          expect.arrayContaining(['initialize', 'notifications/initialized', 'tools/list']),
        );
        // A bridge gave a string id back as null.
        for (const { body } of requests) expect(JSON.parse(body).id ?? 0).toSatisfy(Number.isSafeInteger);
      },
    },
    // Debatable: the official client of TypeScript gives up on it, that of Python does not.
    'that selects no subprotocol': { server: ws({ choose: () => false }), verdict: [VERIFIED, NOT_MCP], most: 12 },
    'that is of one session (stdio behind a bridge) and busy': {
      server: ws({
        speak: ({ id }, socket) =>
          socket.send(
            JSON.stringify({ jsonrpc: '2.0', id, error: { code: -32600, message: 'Server already initialized' } }),
          ),
      }),
      verdict: BUSY,
    },
    'that sends notifications and requests before the answer': {
      server: ws({
        speak: (_message, socket, send) => {
          socket.send('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}');
          socket.send('{"jsonrpc":"2.0","id":"s1","method":"ping"}');
          socket.send('{"jsonrpc":"2.0","id":"s2","method":"roots/list"}');
          send();
        },
      }),
      verdict: VERIFIED,
      outcome: FACTS,
      most: 20,
    },
    'that sends three thousand notifications before the answer': {
      server: ws({
        speak: (_message, socket, send) => {
          for (let count = 0; count < 3_000; count++)
            socket.send('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}');
          send();
        },
      }),
      verdict: NOT_MCP,
      outcome: { why: 'it sends more than 2048 messages that are no answer' },
    },
    'that broadcasts the answers to others (supergateway)': {
      server: ws({
        speak: (_message, socket, send) => {
          socket.send('{"jsonrpc":"2.0","id":4711,"result":{}}');
          send();
        },
      }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'that sends its answers in fragments': {
      server: ws({
        speak: (message, socket) => {
          const text = good(message);
          socket.send(text.slice(0, 10), { fin: false });
          socket.send(text.slice(10), { fin: true });
        },
      }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'that sends its answers in binary frames': {
      server: ws({ speak: (message, socket) => socket.send(Buffer.from(good(message))) }),
      verdict: [VERIFIED, NOT_MCP],
    },
    'that sends a version that does not exist': {
      server: ws({
        speak: ({ id }, socket) =>
          socket.send(
            JSON.stringify({ jsonrpc: '2.0', id, result: { ...RESULTS.initialize, protocolVersion: '2099-01-01' } }),
          ),
      }),
      verdict: MISMATCH,
    },
    'that sends garbage': {
      server: ws({ speak: (_message, socket) => socket.send('hello') }),
      target: SHORT,
      verdict: [NOT_MCP, TIMEOUT],
    },
    'that greets with text (a chat)': {
      server: ws({ opened: socket => socket.send('Welcome!'), speak: () => {} }),
      target: SHORT,
      verdict: [NOT_MCP, TIMEOUT],
    },
    'that sends bytes that are no UTF-8': {
      server: ws({ speak: (_message, socket) => socket.send(Buffer.from([0xff, 0xfe]), { binary: false }) }),
      verdict: [NOT_MCP, RESET],
    },
    'that closes at once': { server: ws({ opened: socket => socket.close(1000) }), verdict: [RESET, NOT_MCP] },
    'that closes at once for policy': {
      server: ws({ opened: socket => socket.close(1008, 'no\u0000\u202e') }),
      verdict: [RESET, NOT_MCP],
    },
    'that breaks at once': { server: ws({ opened: socket => socket.terminate() }), verdict: RESET },
    'that closes in place of an answer': {
      server: ws({ speak: (_message, socket) => socket.close(1011) }),
      verdict: [RESET, NOT_MCP],
    },
    'that never answers': { server: ws({ speak: () => {} }), target: SHORT, verdict: TIMEOUT },
    'that never answers to tools/list': {
      server: ws({ speak: ({ method }, _socket, send) => method !== 'tools/list' && send() }),
      target: { timeoutMs: 800 },
      verdict: VERIFIED,
      after: (_, { outcome }) => expect(outcome).not.toHaveProperty('server.tools'),
    },
    'that never answers the close': {
      server: ws({ opened: (_socket, request) => void request.socket.on('end', () => {}) }),
      verdict: VERIFIED,
    },
    'that sends 100 MB': {
      server: ws({ speak: (_message, socket) => socket.send('x'.repeat(100_000_000)) }),
      target: { timeoutMs: 3_000 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'that sends small messages for ever': {
      server: ws({
        opened: socket => {
          const more = (): void => {
            if (socket.readyState === socket.OPEN)
              socket.send('{"jsonrpc":"2.0","method":"notifications/x"}', () => setImmediate(more));
          };
          more();
        },
        speak: () => {},
      }),
      target: { timeoutMs: 1_500 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'that compresses a bomb': {
      server: async () => {
        const plain = await startWs({ speak: (_message, socket) => socket.send(' '.repeat(50_000_000)) });
        return plain;
      },
      target: { timeoutMs: 3_000 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'that nobody runs': {
      server: async () => ({ ...(await nobody()), url: `ws://127.0.0.1:${(await nobody()).port}/mcp` }),
      verdict: REFUSED,
    },
    'that wants another path': {
      server: async () => {
        const animal = await startWs();
        return { ...animal, url: animal.url.replace('/mcp', '/elsewhere') };
      },
      verdict: [NOT_MCP, NOT_FOUND],
    },
  });

  it('gets an answer to its pings', async () => {
    let waiting = (): void => {};
    await using animal = await startWs({
      opened: socket => socket.on('pong', () => waiting()),
      speak: (message, socket, send) => {
        if (message.method !== 'initialize') return send();
        waiting = send;
        socket.ping('are you there?');
      },
    });
    expect(verdictOf(await probe(animal.url))).toEqual(VERIFIED);
    expect(animal.pongs()).toBeGreaterThan(0);
    await animal.quiet();
  });

  it('gets the credentials with the upgrade, and takes them or not', async () => {
    await using animal = await startHttp({ GET: call => status(call.headers.authorization ? 401 : 500)(call) });
    const url = animal.url.replace('http:', 'ws:');
    expect(verdictOf(await probe(url, sending({ authorization: 'Bearer old' })))).toEqual(REJECTED);
    await using open = await startWs();
    expect(verdictOf(await probe(open.url, sending({ authorization: 'Bearer good' })))).toEqual(ACCEPTED);
    expect(open.requests[0]?.headers.authorization).toBe('Bearer good');
  });

  it('is not dialled at a denied address', async () => {
    await using animal = await startWs();
    const { outcome } = await probe(animal.url, {}, CLOSED);
    expect(outcome.kind).toBe('address-denied');
    expect(animal.connections()).toBe(0);
  });
});

const UPGRADES: Record<string, [() => Promise<Animal>, Case['verdict'], Case['target']?]> = {
  '401': [http({ GET: status(401, { 'www-authenticate': 'Bearer' }) }), UNAUTHORIZED],
  '403': [http({ GET: status(403) }), FORBIDDEN],
  '404': [http({ GET: status(404) }), NOT_FOUND],
  '426': [http({ GET: status(426) }), NOT_MCP],
  '429': [http({ GET: status(429, { 'retry-after': '5' }) }), LIMITED],
  '500': [http({ GET: status(500) }), SERVER_ERROR],
  '503': [http({ GET: status(503) }), SERVER_ERROR],
  '301 elsewhere': [http({ GET: status(301, { location: 'https://example.com/?s3cret' }) }), REDIRECTED],
  '307 to itself': [http({ GET: status(307, { location: '/mcp' }) }), REDIRECTED],
  '200 and a page (no websocket there)': [http({ GET: status(200, { 'content-type': 'text/html' }, '<h1>') }), NOT_MCP],
  '200 and an answer that never ends': [http({ GET: call => void call.response.writeHead(200).write(' ') }), NOT_MCP],
  '405, for it is Streamable HTTP': [http(legacy), NOT_MCP],
  '101 and a wrong key': [
    raw(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: bm9uc2Vuc2U=\r\nSec-WebSocket-Protocol: mcp\r\n\r\n',
    ),
    NOT_MCP,
  ],
  'what is no HTTP': [raw('SSH-2.0-OpenSSH_9.9\r\n'), NOT_MCP],
  'nothing, ever': [http({ GET: hang }), TIMEOUT, SHORT],
  'nothing, and closes': [raw(''), RESET],
};

describe('a server that answers the upgrade with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(UPGRADES).map(([name, [server, verdict, target = {}]]): [string, Case] => [
        name,
        { server, verdict, target, after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret') },
      ]),
    ),
  );
});

describe('a websocket server behind TLS', () => {
  const authority = createAuthority('zoo');
  const { certificate: cert, key } = authority.issue({ commonName: 'zoo', names: ['127.0.0.1'] });
  testCases({
    'is trusted by its authority': {
      server: ws({ tls: { cert, key } }),
      target: trusting(authority.certificate),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'is not trusted without it': { server: ws({ tls: { cert, key } }), verdict: TLS },
    'that speaks none': {
      server: async () => ({ ...(await startTcp(socket => void socket.end('no'))), ...(await plain()) }),
      verdict: [TLS, RESET],
    },
  });

  async function plain(): Promise<Animal> {
    const animal = await startHttp(legacy);
    return { ...animal, url: animal.url.replace('http:', 'wss:') };
  }
});
