/** HTTP+SSE of 2024-11-05: GET gives a stream, whose `endpoint` event says where to POST; answers come in the stream. */
import { describe, expect, it } from 'vitest';
import { probe, sending } from './probing.ts';
import {
  type Answer,
  type Call,
  drip,
  fill,
  flood,
  hang,
  legacy,
  openEvents,
  RESULTS,
  type Script,
  startHttp,
  status,
} from './servers.ts';
import {
  ACCEPTED,
  BUSY,
  FORBIDDEN,
  LIMITED,
  NOT_FOUND,
  NOT_MCP,
  REDIRECTED,
  RESET,
  SERVER_ERROR,
  SHORT,
  TIMEOUT,
  testCases,
  UNAUTHORIZED,
  VERIFIED,
  verdictOf,
} from './verdicts.ts';

const OLD = { ...RESULTS.initialize, protocolVersion: '2024-11-05' };
const FACTS = {
  server: { name: 'zoo', version: '1.2.3', protocolVersion: '2024-11-05', tools: { names: ['feed'], count: 1 } },
};

interface Options {
  /** The data of the `endpoint` event; '' sends none. */
  endpoint?: string;
  /** In the stream before the endpoint. */
  before?: string;
  /** In answer to a POST at the endpoint, which without it is a 202. */
  posted?: Answer;
  /** What comes in the stream for a message; undefined: the good answer. */
  answer?: (call: Call, stream: Call) => string;
}

/** Such a server, at /mcp; its endpoint is /messages?session=7. */
function oldServer({
  endpoint = '/messages?session=7',
  before = '',
  posted = status(202),
  answer,
}: Options = {}): Script {
  let stream: Call | undefined;
  return {
    POST: status(405),
    'server/discover': status(405),
    initialize: status(405),
    async GET(call) {
      stream = call;
      const sent = endpoint === '' ? '' : `event: endpoint\ndata: ${endpoint}\n\n`;
      await openEvents(before, sent)(call);
    },
    'POST /messages?session=7'(call) {
      posted(call);
      if (!stream || call.id === undefined) return;
      const good = (): string => {
        const result = call.method === 'initialize' ? OLD : (RESULTS[call.method] ?? {});
        return `event: message\ndata: ${JSON.stringify({ jsonrpc: '2.0', id: call.id, result })}\n\n`;
      };
      stream.response.write(answer ? fill(answer(call, stream), call) : good());
    },
  };
}

describe('a server of HTTP+SSE', () => {
  testCases({
    'names its endpoint by a path': {
      server: oldServer(),
      verdict: VERIFIED,
      outcome: FACTS,
      after: ({ requests }) =>
        expect(requests.filter(({ path }) => path !== '/mcp').map(({ method }) => method)).toEqual([
          'initialize',
          'notifications/initialized',
          'tools/list',
        ]),
    },
    'names its endpoint by a whole URL': {
      server: oldServer({ endpoint: '$ORIGIN/messages?session=7' }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'names its endpoint relative to the stream': {
      server: oldServer({ endpoint: 'messages?session=7' }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'answers 404 to POST, as a file server does': {
      server: { ...oldServer(), 'server/discover': status(404), initialize: status(404) },
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'answers 400 to POST': {
      server: { ...oldServer(), 'server/discover': status(400), initialize: status(400) },
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'answers 200 and text to a message': {
      server: oldServer({ posted: status(200, { 'content-type': 'text/plain' }, 'Accepted') }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'answers 204 to a message': { server: oldServer({ posted: status(204) }), verdict: VERIFIED, outcome: FACTS },
    'sends comments and pings before the endpoint': {
      server: oldServer({ before: ': ping\n\nevent: ping\ndata: 1\n\n' }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'sends messages before the endpoint': {
      server: oldServer({
        before: 'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}\n\n',
      }),
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'is of a newer revision all the same (FastMCP, SDK v1)': {
      server: oldServer({ answer: () => 'event: message\ndata: $ANSWER\n\n' }),
      verdict: VERIFIED,
      outcome: { server: { protocolVersion: '2025-11-25' } },
    },
    'takes the credentials': {
      server: {
        ...oldServer({ posted: call => status(call.headers.authorization === 'Bearer good' ? 202 : 401)(call) }),
      },
      target: sending({ authorization: 'Bearer good' }),
      verdict: ACCEPTED,
      after: ({ requests }) =>
        expect(requests.every(({ headers }) => headers.authorization === 'Bearer good')).toBe(true),
    },
    'wants authorization for its stream': {
      server: { ...oldServer(), GET: status(401, { 'www-authenticate': 'Bearer' }) },
      verdict: UNAUTHORIZED,
    },
    'wants authorization for messages': {
      server: oldServer({ posted: status(401, { 'www-authenticate': 'Bearer' }), answer: () => '' }),
      verdict: UNAUTHORIZED,
    },
    'refuses the stream with 403': { server: { ...oldServer(), GET: status(403) }, verdict: [FORBIDDEN, NOT_MCP] },
    'refuses the stream with 429': { server: { ...oldServer(), GET: status(429) }, verdict: [LIMITED, NOT_MCP] },
    'refuses messages with 403': { server: oldServer({ posted: status(403), answer: () => '' }), verdict: FORBIDDEN },
    'refuses messages with 404': {
      server: oldServer({ posted: status(404), answer: () => '' }),
      verdict: [NOT_FOUND, NOT_MCP],
    },
    'refuses messages with 500': {
      server: oldServer({ posted: status(500), answer: () => '' }),
      verdict: SERVER_ERROR,
    },
    'refuses messages with 429': {
      server: oldServer({ posted: status(429, { 'retry-after': '9' }), answer: () => '' }),
      verdict: LIMITED,
      outcome: { retryAfterMs: 9_000 },
    },
    'is busy': {
      server: oldServer({
        answer: () =>
          'data: {"jsonrpc":"2.0","id":$ID,"error":{"code":-32600,"message":"Server already initialized"}}\n\n',
      }),
      verdict: [BUSY, NOT_MCP],
    },
    'never names an endpoint': { server: oldServer({ endpoint: '' }), target: SHORT, verdict: TIMEOUT },
    'never names an endpoint, and floods instead': {
      server: {
        ...oldServer(),
        async GET(call) {
          await openEvents()(call);
          flood(call.response, () => ': no\n\n');
        },
      },
      target: { timeoutMs: 3_000 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'never answers': { server: oldServer({ answer: () => '' }), target: SHORT, verdict: TIMEOUT },
    'never answers, but keeps alive': {
      server: oldServer({
        answer: (call, stream) => {
          if (call.method === 'initialize') drip(stream.response, stream.socket, 20, () => ': alive\n\n');
          return '';
        },
      }),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'never takes the message': {
      server: oldServer({ posted: hang, answer: () => '' }),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'answers in the stream without an answer to the POST': {
      server: oldServer({ posted: hang }),
      target: { timeoutMs: 2_000 },
      verdict: VERIFIED,
      outcome: FACTS,
    },
    'ends the stream in place of an answer': {
      server: oldServer({
        answer: (_, stream) => {
          stream.response.end();
          return '';
        },
      }),
      verdict: [NOT_MCP, RESET],
    },
    'ends the stream before the endpoint': {
      server: {
        ...oldServer(),
        GET: call => void call.response.writeHead(200, { 'content-type': 'text/event-stream' }).end(),
      },
      verdict: NOT_MCP,
    },
    'breaks the stream': {
      server: oldServer({
        answer: (_, stream) => {
          stream.socket.resetAndDestroy();
          return '';
        },
      }),
      verdict: [RESET, NOT_MCP],
    },
    'answers another id': {
      server: oldServer({ answer: () => 'data: {"jsonrpc":"2.0","id":4711,"result":{}}\n\n' }),
      target: SHORT,
      verdict: [TIMEOUT, NOT_MCP],
    },
    'answers garbage': {
      server: oldServer({ answer: () => 'data: hello\n\n' }),
      target: SHORT,
      verdict: [TIMEOUT, NOT_MCP],
    },
    'lists no tools': {
      server: oldServer({
        answer: call =>
          call.method === 'initialize'
            ? 'data: $ANSWER\n\n'
            : 'data: {"jsonrpc":"2.0","id":$ID,"error":{"code":-32603,"message":"no"}}\n\n',
      }),
      verdict: VERIFIED,
      after: (_, { outcome }) => expect(outcome).not.toHaveProperty('server.tools'),
    },
    'names an endpoint that redirects elsewhere': {
      server: oldServer({ posted: status(307, { location: 'https://example.com/?s3cret' }), answer: () => '' }),
      verdict: [REDIRECTED, NOT_MCP],
      after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret'),
    },
    'names an endpoint that is no URL': { server: oldServer({ endpoint: 'http://[' }), verdict: NOT_MCP },
    'names javascript: for an endpoint': { server: oldServer({ endpoint: 'javascript:alert(1)' }), verdict: NOT_MCP },
    'names an endpoint of a megabyte': { server: oldServer({ endpoint: `/${'x'.repeat(2 ** 20)}` }), verdict: NOT_MCP },
    'names an endpoint with a password': {
      server: oldServer({ endpoint: 'http://user:s3cret@example.com/' }),
      verdict: [NOT_MCP, REDIRECTED],
      after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret'),
    },
    'is another service’s event stream (a dashboard)': {
      server: { POST: status(405), GET: openEvents('event: tick\ndata: {"cpu":1}\n\n') },
      target: SHORT,
      verdict: [TIMEOUT, NOT_MCP],
    },
  });

  it.each(['http://127.0.0.1', 'http://localhost'])('on another origin (%s) is not followed', async host => {
    await using other = await startHttp(legacy);
    await using animal = await startHttp(oldServer({ endpoint: `${host}:${other.port}/messages?s3cret` }));
    const probed = await probe(animal.url, sending({ authorization: 'Bearer s3cret' }));
    expect(other.connections()).toBe(0);
    expect(verdictOf(probed)).toBeOneOf([NOT_MCP, REDIRECTED]);
    expect(JSON.stringify(probed)).not.toContain('s3cret');
    await animal.quiet();
  });
});
