/** HTTP statuses and redirects. */

import { describe, expect, it } from 'vitest';
import { retryAfterMs } from '../../src/probe/classify.ts';
import { CLOSED } from '../unit/support.ts';
import { probe, sending } from './probing.ts';
import { failure, hang, json, legacy, raw, type Script, startHttp, status } from './servers.ts';
import {
  type After,
  type Case,
  FORBIDDEN,
  LIMITED,
  NOT_FOUND,
  NOT_MCP,
  REDIRECTED,
  SERVER_ERROR,
  SHORT,
  TIMEOUT,
  testCases,
  VERIFIED,
  type Verdict,
  verdictOf,
} from './verdicts.ts';

const HTML = { 'content-type': 'text/html' };

/** Status → verdict, when everything is answered with it. */
const STATUSES: Record<number, Verdict> = {
  200: NOT_MCP,
  201: NOT_MCP,
  204: NOT_MCP,
  304: REDIRECTED,
  400: NOT_MCP,
  // Somebody has to pay, or a law forbids: it refuses whoever asks.
  402: FORBIDDEN,
  403: FORBIDDEN,
  404: NOT_FOUND,
  405: NOT_MCP,
  406: NOT_MCP,
  // A proxy that stands before the server does not let the operator through.
  407: FORBIDDEN,
  408: { ...TIMEOUT, kind: 'http-error' },
  409: NOT_MCP,
  410: NOT_FOUND,
  411: NOT_MCP,
  413: NOT_MCP,
  415: NOT_MCP,
  418: NOT_MCP,
  421: FORBIDDEN,
  422: NOT_MCP,
  426: NOT_MCP,
  429: LIMITED,
  431: NOT_MCP,
  451: FORBIDDEN,
  499: NOT_MCP,
  500: SERVER_ERROR,
  501: SERVER_ERROR,
  502: SERVER_ERROR,
  503: SERVER_ERROR,
  504: SERVER_ERROR,
  505: SERVER_ERROR,
  511: SERVER_ERROR,
  520: SERVER_ERROR,
  599: SERVER_ERROR,
};
// 304 answers a question that nobody asked; 402 and 407 are debatable between a refusal and no MCP at all.
const ALSO: Record<number, Verdict> = { 304: NOT_MCP, 402: NOT_MCP, 407: NOT_MCP, 451: NOT_MCP };

describe('a server that answers everything with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(STATUSES).map(([code, verdict]): [string, Case] => [
        code,
        {
          server: {
            '*': status(Number(code), HTML, Number(code) === 204 || Number(code) === 304 ? '' : '<h1>hello</h1>'),
          },
          verdict: [verdict, ...(ALSO[Number(code)] ? [ALSO[Number(code)] as Verdict] : [])],
        },
      ]),
    ),
  );
  testCases({
    '200 in HTTP/1.0, and is one': {
      server: {
        ...legacy,
        initialize: call => {
          raw('HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n$ANSWER')(call);
          call.socket.end();
        },
      },
      verdict: VERIFIED,
    },
    '500 and a JSON-RPC error': {
      server: { '*': failure(-32603, 'Internal error', { status: 500 }) },
      verdict: SERVER_ERROR,
    },
    '503 and Retry-After': { server: { '*': status(503, { 'retry-after': '120' }) }, verdict: SERVER_ERROR },
    '500 to initialize, after a 404 to discover': {
      server: { ...legacy, 'server/discover': status(404), initialize: status(500) },
      verdict: SERVER_ERROR,
    },
    '404 to POST, and a web site to GET': {
      server: { POST: status(404), GET: status(200, HTML, '<h1>hello</h1>') },
      verdict: [NOT_FOUND, NOT_MCP],
    },
    '403, for it checks the Host (FastMCP: 421)': {
      server: { '*': status(421, { 'content-type': 'text/plain' }, 'Invalid Host header') },
      verdict: FORBIDDEN,
    },
    '403, for it checks the Origin': {
      server: {
        ...legacy,
        '*': status(403, {}, 'Invalid Origin'),
        POST: status(403),
        initialize: status(403),
        'server/discover': status(403),
      },
      verdict: FORBIDDEN,
      after: ({ requests }) => expect(requests.every(({ headers }) => headers.origin === undefined)).toBe(true),
    },
    '405 to GET, as servers without a stream of their own do': {
      server: { ...legacy, GET: status(405) },
      verdict: VERIFIED,
    },
    '500 to GET, as health checks find': { server: { ...legacy, GET: status(500) }, verdict: VERIFIED },
    '406 to who does not accept both types': {
      server: {
        '*': call => {
          const accepts = call.headers.accept ?? '';
          const good = accepts.includes('application/json') && accepts.includes('text/event-stream');
          const answer = good ? (legacy[call.method] ?? status(202)) : status(406);
          return answer(call);
        },
      },
      verdict: VERIFIED,
    },
    '415 to who does not send application/json': {
      server: {
        '*': call => {
          const good = /^application\/json\b/.test(call.headers['content-type'] ?? '') || call.verb !== 'POST';
          return (good ? (legacy[call.method] ?? status(202)) : status(415))(call);
        },
      },
      verdict: VERIFIED,
    },
    '411 to who sends no Content-Length': {
      server: {
        '*': call => (call.headers['transfer-encoding'] ? status(411) : (legacy[call.method] ?? status(405)))(call),
      },
      verdict: VERIFIED,
    },
  });
});

describe('429', () => {
  const limited = (retryAfter: string | undefined): Script => ({
    '*': status(429, retryAfter === undefined ? {} : { 'retry-after': retryAfter }),
  });
  const asked = (limit: string | undefined, expected: unknown): Case => ({
    server: limited(limit),
    verdict: LIMITED,
    after: ({ requests }, { outcome }) => {
      expect(outcome.kind === 'rate-limited' ? outcome.retryAfterMs : NaN).toEqual(expected);
      // Who asks to be left alone is not asked in another way.
      expect(requests.length).toBe(1);
    },
  });
  testCases({
    'without Retry-After': asked(undefined, undefined),
    'for seconds': asked('7', 7_000),
    'until a date': {
      server: { '*': call => status(429, { 'retry-after': new Date(Date.now() + 60_000).toUTCString() })(call) },
      verdict: LIMITED,
      after: (_, { outcome }) => {
        const wait = outcome.kind === 'rate-limited' ? outcome.retryAfterMs : undefined;
        expect(wait).toBeGreaterThan(50_000);
        expect(wait).toBeLessThanOrEqual(60_000);
      },
    },
    'until a date gone by': asked('Sun, 06 Nov 1994 08:49:37 GMT', undefined),
    'for ten years': asked('315360000', 86_400_000),
    'for more seconds than a number holds': asked('9'.repeat(400), expect.toBeOneOf([undefined, 86_400_000])),
    'for garbage': asked('soon, perhaps', undefined),
    'for less than nothing': asked('-5', undefined),
    'at initialize only': {
      server: { ...legacy, initialize: status(429, { 'retry-after': '3' }) },
      verdict: LIMITED,
      outcome: { retryAfterMs: 3_000 },
    },
    'with a JSON-RPC error': {
      server: { '*': failure(-32000, 'Too many requests', { status: 429 }) },
      verdict: LIMITED,
    },
  });

  it('is not put off for ever', () => {
    for (const header of ['1', '86400', '86401', '1e9', new Date(8.64e15).toUTCString()])
      expect(retryAfterMs(header, Date.now()) ?? 0).toBeLessThanOrEqual(86_400_000);
  });
});

/** A legacy server at /mcp, to which `answer` leads from `path`. */
const leading =
  (path: string, code: number, location: string): (() => Promise<Awaited<ReturnType<typeof startHttp>>>) =>
  async () => {
    const animal = await startHttp({
      ...legacy,
      [`POST ${path}`]: status(code, { location }),
      [`GET ${path}`]: status(code, { location }),
    });
    return { ...animal, url: `${animal.origin}${path}` };
  };
const ELSEWHERE = 'https://login.example.com/start?token=s3cret&next=%2Fmcp#frag';
const UNSECRET: After = (_, probed) => {
  expect(JSON.stringify(probed)).not.toContain('s3cret');
  expect(probed.outcome).toMatchObject({ to: 'https://login.example.com/start' });
};

describe('a redirect', () => {
  testCases({
    ...Object.fromEntries(
      [307, 308].flatMap((code): [string, Case][] => [
        [`${code} within the origin is followed`, { server: leading('/old', code, '/mcp'), verdict: VERIFIED }],
        [
          `${code} by a whole URL of the origin is followed`,
          { server: leading('/old', code, '$ORIGIN/mcp'), verdict: VERIFIED },
        ],
        [
          `${code} from a trailing slash is followed (Starlette)`,
          { server: leading('/mcp/', code, '/mcp'), verdict: VERIFIED },
        ],
        [
          `${code} elsewhere is told, without its query`,
          { server: { '*': status(code, { location: ELSEWHERE }) }, verdict: REDIRECTED, after: UNSECRET },
        ],
      ]),
    ),
    // A client turns a POST into a GET there (fetch), so what answers at the other end would not be asked.
    ...Object.fromEntries(
      [300, 301, 302, 303].flatMap((code): [string, Case][] => [
        [
          `${code} within the origin is told`,
          {
            server: leading('/old', code, '/mcp'),
            verdict: REDIRECTED,
            after: animal => expect(animal.requests.every(({ path }) => path === '/old')).toBe(true),
          },
        ],
        [
          `${code} elsewhere is told, without its query`,
          { server: { '*': status(code, { location: ELSEWHERE }) }, verdict: REDIRECTED, after: UNSECRET },
        ],
      ]),
    ),
    'after discover was followed is followed again': {
      server: leading('/old', 307, '/mcp'),
      verdict: VERIFIED,
      after: ({ requests }) => expect(requests.filter(({ path }) => path === '/mcp').length).toBeGreaterThanOrEqual(3),
    },
    'without Location': { server: { '*': status(307) }, verdict: REDIRECTED },
    'to what is no URL': { server: { '*': status(307, { location: 'http://[' }) }, verdict: REDIRECTED },
    'to javascript:': { server: { '*': status(302, { location: 'javascript:alert(1)' }) }, verdict: REDIRECTED },
    'to a user and password': {
      server: { '*': status(307, { location: 'https://user:s3cret@example.com/' }) },
      verdict: REDIRECTED,
      after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret'),
    },
    'to a megabyte': {
      server: { '*': status(302, { location: `https://example.com/${'x'.repeat(10_000)}` }) },
      verdict: REDIRECTED,
    },
    'to control characters': {
      server: { '*': status(302, { location: 'https://example.com/\u0085\u009b31m' }) },
      verdict: REDIRECTED,
    },
    'to itself': { server: leading('/old', 307, '/old'), verdict: REDIRECTED },
    'back and forth': {
      server: () => startHttp({ POST: status(307, { location: '/b' }), 'POST /b': status(307, { location: '/mcp' }) }),
      verdict: REDIRECTED,
    },
    'twenty times': {
      server: () =>
        startHttp({
          POST: status(307, { location: '/1' }),
          ...Object.fromEntries(
            [...Array(20).keys()].map(n => [`POST /${n}`, status(307, { location: n < 19 ? `/${n + 1}` : '/end' })]),
          ),
          'POST /end': call => (legacy[call.method] ?? status(202))(call),
        }),
      verdict: REDIRECTED,
      most: 20,
    },
    'to a page that never comes': {
      server: { POST: status(307, { location: '/slow' }), '*': hang },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that keeps its query': {
      server: () =>
        startHttp({
          POST: status(307, { location: '/there?tenant=7' }),
          'POST /there?tenant=7': call => (legacy[call.method] ?? status(202))(call),
        }),
      verdict: VERIFIED,
    },
  });

  it.each([
    ['to another port', 'http://127.0.0.1'],
    ['to another name of the host', 'http://localhost'],
    ['to https', 'https://127.0.0.1'],
  ])('%s is not followed, and takes no secrets there', async (_name, host) => {
    await using other = await startHttp(legacy);
    await using animal = await startHttp({ '*': status(307, { location: `${host}:${other.port}/mcp` }) });
    const probed = await probe(animal.url, sending({ authorization: 'Bearer s3cret', 'x-api-key': 's3cret' }));
    expect(verdictOf(probed)).toEqual(REDIRECTED);
    expect(other.connections()).toBe(0);
    expect(animal.requests[0]?.headers).toMatchObject({ authorization: 'Bearer s3cret', 'x-api-key': 's3cret' });
    expect(JSON.stringify(probed)).not.toContain('s3cret');
  });

  it('to a denied address is not followed', async () => {
    await using other = await startHttp(legacy);
    await using animal = await startHttp(
      { '*': status(307, { location: `http://127.0.0.1:${other.port}/mcp` }) },
      { host: 'localhost' },
    );
    const probed = await probe(animal.url, {}, { ...CLOSED, allowHosts: ['localhost'] });
    expect(verdictOf(probed)).toEqual(REDIRECTED);
    expect(other.connections()).toBe(0);
  });

  it('to the cloud’s metadata is not followed', async () => {
    await using animal = await startHttp({
      '*': status(307, { location: 'http://169.254.169.254/latest/meta-data/' }),
    });
    expect(verdictOf(await probe(animal.url))).toEqual(REDIRECTED);
  });
});

describe('a request', () => {
  testCases({
    'names the prober and takes what it may': {
      server: legacy,
      verdict: VERIFIED,
      after: ({ requests }) => {
        for (const { headers, verb } of requests) {
          expect(headers['user-agent']).toBe('zoo/0.0.0 (+https://example.com)');
          expect(headers['accept-encoding'] ?? 'identity').toBe('identity');
          expect(headers).not.toHaveProperty('origin');
          expect(headers).not.toHaveProperty('cookie');
          expect(headers).not.toHaveProperty('referer');
          if (verb === 'POST')
            expect(headers).toMatchObject({
              accept: expect.stringMatching(/application\/json.*text\/event-stream/),
              'content-type': 'application/json',
            });
        }
      },
    },
    'has an id that is a whole number, a new one each time': {
      server: { ...legacy, initialize: json('$ANSWER') },
      verdict: VERIFIED,
      after: ({ requests }) => {
        const ids = requests
          .filter(({ method }) => method && !method.startsWith('notifications/'))
          .map(({ body }) => JSON.parse(body).id);
        expect(ids.every(Number.isSafeInteger)).toBe(true);
        expect(new Set(ids).size).toBe(ids.length);
      },
    },
    'brings no cookie back': {
      server: {
        ...legacy,
        initialize: json('$ANSWER', 200, { 'set-cookie': 'a=b; Path=/' }),
        'server/discover': status(404, { 'set-cookie': 'a=b' }),
      },
      verdict: VERIFIED,
      after: ({ requests }) => expect(requests.some(({ headers }) => 'cookie' in headers)).toBe(false),
    },
  });
});
