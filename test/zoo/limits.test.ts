/** Servers that take time, memory or connections: a probe spends little of each, and leaves nothing open. */
import { constants, createGzip, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { makeTarget } from '../unit/support.ts';
import { prober } from './prober.ts';
import { probe } from './probing.ts';
import {
  type Animal,
  type Call,
  drip,
  fill,
  flood,
  json,
  legacy,
  legacyBy,
  modern,
  nobody,
  raw,
  startHttp,
  startRaw,
  startTcp,
  status,
} from './servers.ts';
import { type Case, DNS, NOT_MCP, REFUSED, RESET, SHORT, TIMEOUT, testCases, VERIFIED, verdictOf } from './verdicts.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n';
const FLOODED = { timeoutMs: 3_000 };
/** Where either is true: what came was too much, or not to its end in time. */
const TOO_MUCH = [NOT_MCP, TIMEOUT];

describe('a slow server', () => {
  testCases({
    'that accepts and says nothing': { server: () => startTcp(() => {}), target: SHORT, verdict: TIMEOUT },
    'that sends a byte of a header at a time': {
      server: () =>
        startRaw(socket => {
          socket.write(`${OK}X-Slow: `);
          drip(socket, socket, 20, () => 'x');
        }),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that sends a header at a time': {
      server: () =>
        startRaw(socket => {
          socket.write(OK);
          drip(socket, socket, 20, () => 'X-Slow: x\r\n');
        }),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that sends a byte of the body at a time': {
      server: {
        '*': call => {
          call.response.writeHead(200, { 'content-type': 'application/json' });
          drip(call.response, call.socket, 20, () => ' ');
        },
      },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that sends headers and no body': {
      server: { '*': call => call.response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders() },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that sends 404 and no body': {
      server: { '*': call => call.response.writeHead(404, { 'content-length': '10' }).flushHeaders() },
      target: SHORT,
      verdict: [TIMEOUT, { kind: 'http-error', reachable: 'NotFound', verified: 'Pending', authorized: 'Pending' }],
    },
    'that sends half an answer': {
      server: {
        '*': call =>
          void call.response.writeHead(200, { 'content-type': 'application/json' }).write('{"jsonrpc":"2.0",'),
      },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that sends 100 Continue for ever': {
      server: () => startRaw(socket => drip(socket, socket, 20, () => 'HTTP/1.1 100 Continue\r\n\r\n')),
      target: SHORT,
      verdict: [...TOO_MUCH, RESET],
    },
  });
});

describe('a server that floods', () => {
  testCases({
    'the body': {
      server: {
        '*': call => {
          call.response.writeHead(200, { 'content-type': 'application/json' });
          flood(call.response, () => ' '.repeat(65_536));
        },
      },
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'the body of a 400': {
      server: {
        '*': call => {
          call.response.writeHead(400, { 'content-type': 'text/plain' });
          flood(call.response, () => ' '.repeat(65_536));
        },
      },
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'a body said to be of a terabyte': {
      server: {
        '*': call => {
          call.response.writeHead(200, { 'content-type': 'application/json', 'content-length': `${2 ** 40}` });
          flood(call.response, () => ' '.repeat(65_536));
        },
      },
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'one header': {
      server: () =>
        startRaw(socket => {
          socket.write(`${OK}X-Endless: `);
          flood(socket, () => 'x'.repeat(65_536));
        }),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    headers: {
      server: () =>
        startRaw(socket => {
          socket.write(OK);
          flood(socket, () => 'X-Endless: 1\r\n'.repeat(1_000));
        }),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'the status line': {
      server: () =>
        startRaw(socket => {
          socket.write('HTTP/1.1 200 ');
          flood(socket, () => 'O'.repeat(65_536));
        }),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'a chunk extension': {
      server: () =>
        startRaw(socket => {
          socket.write(`${OK}Transfer-Encoding: chunked\r\n\r\n1;`);
          flood(socket, () => 'x'.repeat(65_536));
        }),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    trailers: {
      server: () =>
        startRaw(socket => {
          socket.write(`${OK}Transfer-Encoding: chunked\r\n\r\n0\r\n`);
          flood(socket, () => 'X-Endless: 1\r\n'.repeat(1_000));
        }),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    '100 Continue': {
      server: () => startRaw(socket => flood(socket, () => 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(100))),
      target: FLOODED,
      verdict: [...TOO_MUCH, RESET],
    },
    noise: {
      server: () => startTcp(socket => flood(socket, () => '\u0000'.repeat(65_536))),
      target: FLOODED,
      verdict: [...TOO_MUCH, RESET],
    },
    'gzip of nothing, which grows a thousandfold': {
      server: {
        '*': call => {
          call.response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' });
          const bomb = createGzip({ level: constants.Z_BEST_SPEED });
          bomb.pipe(call.response);
          flood(bomb, () => ' '.repeat(65_536));
        },
      },
      target: FLOODED,
      verdict: TOO_MUCH,
    },
    'a bomb in one piece (100 MiB in 100 KiB)': {
      server: legacyBy(call =>
        call.response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end(BOMB),
      ),
      target: FLOODED,
      verdict: TOO_MUCH,
    },
  });

  it('does not make the operator’s memory grow', async () => {
    await using animal = await startHttp({
      '*': call => {
        call.response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end(BOMB);
      },
    });
    await probe(animal.url, FLOODED);
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 5; round++) await probe(animal.url, FLOODED);
    // Five bombs read to their end are 500 MiB.
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 2 ** 20);
  });
});

const BOMB = gzipSync(Buffer.alloc(100 * 2 ** 20, ' '));

describe('a server that sends large but good answers', () => {
  testCases({
    'of 2 MiB': {
      server: legacyBy(json(`${' '.repeat(2 ** 20 - 1_000)}$ANSWER`)),
      verdict: VERIFIED,
      outcome: { server: { name: 'zoo' } },
    },
    'after ten interim ones': {
      server: legacyBy(call => {
        call.socket.write('HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n'.repeat(10));
        json('$ANSWER')(call);
      }),
      verdict: VERIFIED,
    },
    'after two thousand interim ones': {
      server: legacyBy(call => {
        call.socket.write('HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n'.repeat(2_000));
        json('$ANSWER')(call);
      }),
      verdict: NOT_MCP,
      outcome: { why: 'it sends more than 64 interim answers' },
    },
    // RFC 9110, 15.2: a client MUST be able to parse 1xx that it did not ask for.
    'after one 100 Continue': {
      server: legacyBy(call => {
        call.socket.write('HTTP/1.1 100 Continue\r\n\r\n');
        json('$ANSWER')(call);
      }),
      // undici takes a 100 that it did not ask for as the end of the connection.
      verdict: [VERIFIED, RESET],
    },
    'with a header of 8 KiB (Content-Security-Policy grows)': {
      server: legacyBy(json('$ANSWER', 200, { 'content-security-policy': 'x'.repeat(8_192) })),
      verdict: VERIFIED,
    },
    'with a header of 1 MiB': {
      server: legacyBy(json('$ANSWER', 200, { 'x-large': 'x'.repeat(2 ** 20) })),
      verdict: NOT_MCP,
    },
    'in chunks of one byte': {
      server: legacyBy(async call => {
        call.response.writeHead(200, { 'content-type': 'application/json' });
        for (const byte of Buffer.from(fill('$ANSWER', call))) call.response.write(Buffer.of(byte));
        call.response.end();
      }),
      verdict: VERIFIED,
    },
    // A server may do so after any answer, and without a word before.
    ...Object.fromEntries(
      [0, 1, 2, 5, 20].map((ms): [string, Case] => [
        `on a connection that it closes after ${ms} ms`,
        {
          server: Object.fromEntries(
            Object.entries(legacy).map(([method, answer]) => [
              method,
              async (call: Call) => {
                call.response.on('finish', () => setTimeout(() => call.socket.destroy(), ms));
                await answer(call);
              },
            ]),
          ),
          verdict: VERIFIED,
          outcome: { server: { tools: { names: ['feed'] } } },
        },
      ]),
    ),
    'on a connection that it then closes': {
      server: legacyBy(json('$ANSWER', 200, { connection: 'close' })),
      verdict: VERIFIED,
    },
  });
});

describe('a server that breaks HTTP', () => {
  testCases({
    'by a Content-Length that is too long, then closes': {
      server: legacyBy(call => {
        raw(`${OK}Content-Length: 100000\r\n\r\n$ANSWER`)(call);
        call.socket.end();
      }),
      verdict: [RESET, NOT_MCP],
    },
    'by a Content-Length that is too long, then waits': {
      server: legacyBy(raw(`${OK}Content-Length: 100000\r\n\r\n$ANSWER`)),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'by a Content-Length that is too short': {
      server: legacyBy(raw(`${OK}Content-Length: 20\r\n\r\n$ANSWER`)),
      verdict: [NOT_MCP, RESET],
    },
    'by two Content-Lengths': {
      server: { '*': raw(`${OK}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`) },
      verdict: NOT_MCP,
    },
    'by a Content-Length that is negative': {
      server: { '*': raw(`${OK}Content-Length: -1\r\n\r\n{}`) },
      verdict: NOT_MCP,
    },
    'by chunks that are none': {
      server: { '*': raw(`${OK}Transfer-Encoding: chunked\r\n\r\nhello\r\n`) },
      verdict: [NOT_MCP, RESET],
    },
    'by a chunk of a negative size': {
      server: { '*': raw(`${OK}Transfer-Encoding: chunked\r\n\r\n-1\r\n`) },
      verdict: [NOT_MCP, RESET],
    },
    'by a status of 42': { server: { '*': raw('HTTP/1.1 42 What\r\n\r\n') }, verdict: NOT_MCP },
    'by a status of 999': {
      server: { '*': raw('HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n') },
      verdict: [NOT_MCP, { kind: 'http-error', reachable: 'ServerError', verified: 'Pending', authorized: 'Pending' }],
    },
    'by 101 to what nobody asked': {
      server: { '*': raw('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n') },
      verdict: [NOT_MCP, RESET],
    },
    'by a header without a colon': { server: { '*': raw(`${OK}nonsense\r\n\r\n`) }, verdict: NOT_MCP },
    'by a NUL in a header': { server: { '*': raw(`${OK}X: a\u0000b\r\n\r\n`) }, verdict: NOT_MCP },
    'by HTTP/0.9: no status, no headers': {
      server: () => startRaw(socket => socket.end('<html>hello</html>')),
      verdict: NOT_MCP,
    },
    'by HTTP/2 without asking': {
      // An empty SETTINGS frame, which is how such a server greets.
      server: () => startRaw(socket => socket.write(Buffer.from('000000040000000000', 'hex'))),
      target: SHORT,
      verdict: [NOT_MCP, TIMEOUT],
    },
    'by speaking SSH': { server: () => startTcp(socket => socket.write('SSH-2.0-OpenSSH_9.9\r\n')), verdict: NOT_MCP },
    'by speaking SMTP': {
      server: () => startTcp(socket => socket.write('220 mail.example.com ESMTP\r\n')),
      verdict: NOT_MCP,
    },
    'by speaking Redis': {
      server: () => startRaw(socket => socket.end("-ERR unknown command 'POST'\r\n")),
      verdict: NOT_MCP,
    },
    'by two answers to one request': {
      server: legacyBy(call => {
        const body = fill('$ANSWER', call);
        raw(`${OK}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}${OK}Content-Length: 2\r\n\r\n{}`)(call);
      }),
      verdict: [VERIFIED, NOT_MCP, RESET],
    },
  });
});

describe('a connection', () => {
  testCases({
    'that nobody takes': { server: nobody, verdict: REFUSED },
    'that is reset at once': { server: () => startTcp(socket => void socket.resetAndDestroy()), verdict: RESET },
    'that is reset after the request': {
      server: () => startRaw(socket => void socket.resetAndDestroy()),
      verdict: RESET,
    },
    'that is closed at once': { server: () => startTcp(socket => void socket.end()), verdict: RESET },
    'that is closed after the request': { server: () => startRaw(socket => void socket.end()), verdict: RESET },
    'that is closed in the middle of the headers': {
      server: () => startRaw(socket => void socket.end(OK)),
      verdict: RESET,
    },
    'that is reset in the middle of the body': {
      server: legacyBy(call => {
        call.socket.write(`${OK}Content-Length: 100\r\n\r\n{`, () => call.socket.resetAndDestroy());
      }),
      verdict: [RESET, NOT_MCP],
    },
    'that is closed after each answer, without a word': {
      server: {
        ...legacy,
        '*': status(405),
        initialize: call => {
          call.response.on('finish', () => call.socket.end());
          json('$ANSWER')(call);
        },
      },
      verdict: VERIFIED,
    },
  });

  it('to a name that does not exist is none', async () => {
    expect(verdictOf(await probe('http://zoo.invalid/mcp'))).toEqual(DNS);
  });

  it('is made no more than twice for one modern server, and not kept', async () => {
    await using animal = await startHttp(modern);
    expect(verdictOf(await probe(animal.url))).toEqual(VERIFIED);
    expect(animal.connections()).toBeLessThanOrEqual(2);
    await animal.quiet();
  });

  it('is given up when the operator ends', async () => {
    await using animal: Animal = await startTcp(() => {});
    const abort = new AbortController();
    const probing = prober()(makeTarget({ url: animal.url, timeoutMs: 60_000 }), {}, abort.signal);
    while (animal.connections() === 0) await new Promise(setImmediate);
    abort.abort(new Error('the operator ends'));
    await probing;
    await animal.quiet();
  });
});
