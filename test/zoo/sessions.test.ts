/** Sessions of Streamable HTTP (2025-03-26 to 2025-11-25): echoed, and ended whatever happens between. */
import { describe, expect, it } from 'vitest';
import { probe } from './probing.ts';
import {
  type Answer,
  drip,
  flood,
  hang,
  json,
  legacy,
  RESULTS,
  raw,
  reset,
  result,
  type Script,
  startHttp,
  status,
} from './servers.ts';
import {
  type After,
  type Case,
  LIMITED,
  MISMATCH,
  NOT_MCP,
  REDIRECTED,
  SERVER_ERROR,
  SHORT,
  TIMEOUT,
  testCases,
  UNAUTHORIZED,
  VERIFIED,
  verdictOf,
} from './verdicts.ts';

const ID = 'b0c7e5d2-3b1a-4b7e-9a57-0d8a3d1c2f11';
const opening = (id: string, body = '$ANSWER'): Answer => json(body, 200, { 'mcp-session-id': id });
const withSession = (id = ID, more: Script = {}): Script => ({
  ...legacy,
  initialize: opening(id),
  DELETE: status(200),
  ...more,
});
const ended =
  (id: string, times = 1): After =>
  ({ requests }) => {
    const after = requests.slice(requests.findIndex(({ method }) => method === 'initialize') + 1);
    for (const { verb, method, headers } of after) expect(headers['mcp-session-id'], method || verb).toBe(id);
    expect(requests.filter(({ verb }) => verb === 'DELETE').length).toBe(times);
    expect(requests.at(-1)?.verb).toBe('DELETE');
  };

describe('a session', () => {
  testCases({
    'is echoed and ended': {
      server: withSession(),
      verdict: VERIFIED,
      after: (animal, probed) => {
        ended(ID)(animal, probed);
        expect(animal.requests.at(-1)?.headers).toMatchObject({ 'mcp-protocol-version': '2025-11-25' });
        expect(animal.requests.find(({ method }) => method === 'initialize')?.headers).not.toHaveProperty(
          'mcp-session-id',
        );
      },
    },
    'of every character that is allowed': {
      server: withSession(
        String.fromCharCode(
          ...Array(94)
            .keys()
            .map(n => n + 0x21),
        ),
      ),
      verdict: VERIFIED,
      after: ended(
        String.fromCharCode(
          ...Array(94)
            .keys()
            .map(n => n + 0x21),
        ),
      ),
    },
    'of 4 KiB': { server: withSession('s'.repeat(4_096)), verdict: VERIFIED, after: ended('s'.repeat(4_096)) },
    'of characters that are not allowed': { server: withSession('a b\tc\u00e9'), verdict: [VERIFIED, NOT_MCP] },
    'that a proxy says twice': {
      server: withSession(`${ID}, ${ID}`, {
        'tools/list': call => (call.headers['mcp-session-id'] === ID ? json('$ANSWER') : status(404))(call),
      }),
      verdict: VERIFIED,
      outcome: { server: { tools: { names: ['feed'] } } },
      after: ended(ID),
    },
    'is ended on a new connection, when the server has closed the old one': {
      server: () => {
        const endings = [reset, status(200)];
        return startHttp(withSession(ID, { DELETE: call => (endings.shift() ?? status(404))(call) }));
      },
      verdict: VERIFIED,
      after: ({ requests }) => expect(requests.filter(({ verb }) => verb === 'DELETE').length).toBe(2),
    },
    'that is empty is none': {
      server: withSession(''),
      verdict: VERIFIED,
      after: ({ requests }) => expect(requests.some(({ headers }) => headers['mcp-session-id'])).toBe(false),
    },
    'that changes in the middle': {
      server: withSession(ID, { 'tools/list': opening('another') }),
      verdict: VERIFIED,
      after: ({ requests }) => expect(requests.at(-1)?.verb).toBe('DELETE'),
    },
    'that tools/list must name, else 400': {
      server: withSession(ID, {
        'tools/list': call => (call.headers['mcp-session-id'] === ID ? json('$ANSWER') : status(400))(call),
      }),
      verdict: VERIFIED,
      outcome: { server: { tools: { names: ['feed'] } } },
    },
    // The Python SDK makes one for every POST without a session, and then answers 400 to discover.
    'that was opened by discover, of all things, is ended too': {
      server: withSession(ID, { 'server/discover': call => status(400, { 'mcp-session-id': 'by-mistake' })(call) }),
      verdict: VERIFIED,
      after: ({ requests }) => {
        const ends = requests.filter(({ verb }) => verb === 'DELETE');
        expect(ends.map(({ headers }) => headers['mcp-session-id']).sort()).toEqual([ID, 'by-mistake'].sort());
      },
    },
  });
});

/** What happens after the session was opened, and the verdict it ends in. */
const FAILURES: Record<string, [Script, Case['verdict'], Case['target']?]> = {
  'tools/list gets 500': [{ 'tools/list': status(500) }, VERIFIED],
  'tools/list gets 404, for the session is gone': [{ 'tools/list': status(404) }, VERIFIED],
  'tools/list gets a reset': [{ 'tools/list': reset }, VERIFIED],
  'tools/list gets no answer': [{ 'tools/list': hang }, VERIFIED, { timeoutMs: 800 }],
  'tools/list gets what is no HTTP': [{ 'tools/list': raw('???\r\n\r\n') }, VERIFIED],
  'initialized gets 500': [{ 'notifications/initialized': status(500) }, VERIFIED],
  'initialized gets 400': [{ 'notifications/initialized': status(400) }, VERIFIED],
  'initialized gets no answer': [{ 'notifications/initialized': hang }, VERIFIED, { timeoutMs: 1_500 }],
  'initialize answers a version that does not exist': [
    {
      initialize: opening(
        ID,
        JSON.stringify({ jsonrpc: '2.0', id: 0, result: 0 })
          .replace('"id":0', '"id":$ID')
          .replace(
            '"result":0',
            `"result":${JSON.stringify({ ...RESULTS.initialize, protocolVersion: '2099-01-01' })}`,
          ),
      ),
    },
    MISMATCH,
  ],
  'initialize answers what is no JSON-RPC': [{ initialize: opening(ID, '{"hello":"world"}') }, NOT_MCP],
  'initialize answers half': [
    {
      initialize: call => {
        call.response.writeHead(200, { 'content-type': 'application/json', 'mcp-session-id': ID });
        drip(call.response, call.socket, 20, () => ' ');
      },
    },
    TIMEOUT,
    SHORT,
  ],
  'initialize answers 401 and a session': [{ initialize: status(401, { 'mcp-session-id': ID }) }, UNAUTHORIZED],
  'initialize answers 429 and a session': [{ initialize: status(429, { 'mcp-session-id': ID }) }, LIMITED],
  'initialize answers 503 and a session': [{ initialize: status(503, { 'mcp-session-id': ID }) }, SERVER_ERROR],
  'initialize redirects elsewhere with a session': [
    { initialize: status(307, { location: 'https://example.com/', 'mcp-session-id': ID }) },
    REDIRECTED,
  ],
};

describe('a session is ended though', () => {
  testCases(
    Object.fromEntries(
      Object.entries(FAILURES).map(([name, [script, verdict, target = {}]]): [string, Case] => [
        name,
        {
          server: withSession(ID, script),
          verdict,
          target,
          after: ({ requests }) => {
            // What belongs to no session, such as metadata, may be asked for after the end.
            const last = requests.findLast(({ verb }) => verb !== 'GET');
            expect(last?.verb).toBe('DELETE');
            expect(last?.headers['mcp-session-id']).toBe(ID);
          },
        },
      ]),
    ),
  );
});

const ENDINGS: Record<string, Answer> = {
  '200': status(200),
  '202': status(202),
  '204': status(204),
  '400': status(400),
  '401': status(401),
  '404': status(404),
  '405': status(405),
  '429': status(429),
  '500': status(500),
  '307 elsewhere': status(307, { location: 'https://example.com/' }),
  'a JSON-RPC error': json('{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}'),
  'a body without end': call => {
    call.response.writeHead(200);
    drip(call.response, call.socket, 20, () => 'x');
  },
  'nothing, ever': hang,
  'a reset': reset,
};

describe('the verdict is the same when DELETE is answered with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(ENDINGS).map(([name, DELETE]): [string, Case] => [
        name,
        {
          server: withSession(ID, { DELETE }),
          verdict: VERIFIED,
          outcome: { server: { name: 'zoo' } },
          // Twice where the connection breaks: it may have been closed before the server saw the first one.
          after: ended(ID, name === 'a reset' ? 2 : 1),
        },
      ]),
    ),
  );
  testCases({
    'no session, for there is none, and is not sent': {
      server: { ...legacy, initialize: result(RESULTS.initialize ?? {}) },
      verdict: VERIFIED,
      after: animal => expect(animal.methods()).not.toContain('DELETE'),
    },
  });
});

describe('the end of a probe', () => {
  it('takes no more than two seconds, however many sessions hang', async () => {
    let sessions = 0;
    await using animal = await startHttp({
      ...legacy,
      '*': call => {
        sessions += 1;
        return status(400, { 'mcp-session-id': `s-${sessions}` })(call);
      },
      initialize: json('$ANSWER', 200, { 'mcp-session-id': 'real' }),
      'notifications/initialized': hang,
      'tools/list': hang,
      DELETE: hang,
    });
    const since = performance.now();
    expect(verdictOf(await probe(animal.url, SHORT))).toEqual(VERIFIED);
    expect(performance.now() - since).toBeLessThan(2_900);
    expect(animal.requests.filter(({ verb }) => verb === 'DELETE').length).toBeGreaterThan(0);
    await animal.quiet();
  });

  it('is at once for a server that floods it', async () => {
    await using animal = await startHttp({
      ...legacy,
      initialize: json('$ANSWER', 200, { 'mcp-session-id': 'real' }),
      DELETE: call => flood(call.socket, () => 'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(100)),
    });
    const since = performance.now();
    expect(verdictOf(await probe(animal.url))).toEqual(VERIFIED);
    expect(performance.now() - since).toBeLessThan(1_000);
    await animal.quiet();
  });
});
