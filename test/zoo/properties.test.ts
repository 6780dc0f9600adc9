/** Whatever comes over HTTP: a probe ends in time, throws nothing, and shows only what is fit to be shown (probing.ts). */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { probe, sending } from './probing.ts';
import { type Answer, fill, type Script, startHttp, startRaw } from './servers.ts';
import { SHORT, verdictOf } from './verdicts.ts';

/** More of them: ZOO_RUNS=10000 npm run test:zoo -- properties. A failure prints its seed. */
const RUNS = { numRuns: Number(process.env.ZOO_RUNS ?? 100), seed: Number(process.env.ZOO_SEED ?? 20_261_123) };
/** A run takes a timeout at worst. */
const TIMEOUT_MS = Math.max(60_000, RUNS.numRuns * 1_500);

const nasty = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    '',
    '\u0000',
    '\u001b[31m',
    '\u202e',
    '\ud800',
    '\r\n',
    '__proto__',
    'constructor',
    '2026-07-28',
    '2025-11-25',
    '2099-01-01',
    'x'.repeat(10_000),
    '$ID',
  ),
);
const value = fc.letrec<{ value: unknown }>(tie => ({
  value: fc.oneof(
    { depthSize: 'small' },
    nasty,
    fc.constantFrom(null, true, false, 0, -1, 1.5, 1e308, Number.MAX_SAFE_INTEGER),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(nasty, tie('value'), { maxKeys: 4 }),
  ),
})).value;
/** A good thing, or by the way something else. */
const mostly = (good: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ arbitrary: good, weight: 5 }, { arbitrary: value, weight: 1 });
const maybe = (fields: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<object> =>
  fc.record(fields, { requiredKeys: [] }) as fc.Arbitrary<object>;

const tool = maybe({
  name: mostly(nasty),
  description: mostly(nasty),
  inputSchema: mostly(fc.constant({ type: 'object' })),
  icons: value,
});
const info = maybe({ name: mostly(nasty), title: nasty, version: mostly(nasty), icons: value });
const capabilities = mostly(
  fc.dictionary(fc.oneof(fc.constantFrom('tools', 'prompts', 'resources'), nasty), mostly(fc.constant({})), {
    maxKeys: 5,
  }),
);
const result = mostly(
  maybe({
    protocolVersion: mostly(fc.constantFrom('2025-11-25', '2025-06-18', '2024-11-05', '2026-07-28', '2099-01-01')),
    supportedVersions: mostly(fc.constantFrom(['2026-07-28'], ['2025-11-25'], [])),
    capabilities,
    serverInfo: mostly(info),
    instructions: mostly(nasty),
    tools: mostly(fc.array(tool, { maxLength: 5 })),
    nextCursor: mostly(nasty),
    resultType: mostly(fc.constant('complete')),
    ttlMs: mostly(fc.nat()),
    cacheScope: mostly(fc.constantFrom('private', 'public')),
    _meta: mostly(maybe({ 'io.modelcontextprotocol/serverInfo': mostly(info) })),
  }),
);
const error = mostly(
  maybe({
    code: mostly(fc.constantFrom(-32700, -32600, -32601, -32602, -32603, -32000, -32001, -32020, -32021, -32022)),
    message: mostly(fc.oneof(nasty, fc.constantFrom('Server already initialized', 'Method not found'))),
    data: mostly(
      maybe({ supported: mostly(fc.constantFrom(['2025-11-25'], ['2026-07-28'], ['2031-01-01'])), requested: nasty }),
    ),
  }),
);
const message = mostly(
  maybe({
    jsonrpc: mostly(fc.constant('2.0')),
    id: mostly(fc.constant('$ID')),
    result,
    error,
    method: mostly(fc.constantFrom('ping', 'notifications/message', 'roots/list')),
    params: value,
  }),
);
const text = fc
  .oneof(
    { weight: 6, arbitrary: message.map(json => JSON.stringify(json)) },
    { weight: 1, arbitrary: fc.array(message, { maxLength: 3 }).map(json => JSON.stringify(json)) },
    { weight: 1, arbitrary: nasty },
  )
  .map(json => json.replaceAll('"$ID"', '$ID'));
/** Now and then cut, or with a character changed. */
const mutated = fc
  .tuple(
    text,
    fc.option(fc.nat({ max: 200 }), { freq: 5 }),
    fc.option(fc.tuple(fc.nat({ max: 200 }), nasty), { freq: 5 }),
  )
  .map(([whole, cut, change]) => {
    const cutOff = cut === null ? whole : whole.slice(0, cut);
    return change ? cutOff.slice(0, change[0]) + change[1] + cutOff.slice(change[0] + 1) : cutOff;
  });

const headerValue = fc.oneof(
  fc.string({ unit: 'grapheme-ascii', maxLength: 60 }),
  fc.constantFrom(
    '',
    '0',
    '999999999999',
    'Bearer',
    'Bearer resource_metadata="http://127.0.0.1:1/"',
    'Basic realm="',
    'insufficient_scope',
  ),
);
const headers = fc.record(
  {
    'content-type': fc.oneof(
      fc.constantFrom('application/json', 'application/json; charset=utf-8', 'text/event-stream', 'text/html'),
      headerValue,
    ),
    'mcp-session-id': headerValue,
    'www-authenticate': fc.oneof(
      fc.constantFrom('Bearer error="insufficient_scope", scope="a b"', 'Basic realm="x", Bearer scope="\\""'),
      headerValue,
    ),
    'retry-after': fc.oneof(fc.constantFrom('1', '9'.repeat(30), 'Wed, 21 Oct 2099 07:28:00 GMT'), headerValue),
    location: fc.oneof(
      fc.constantFrom('/mcp', '/mcp/', 'https://example.com/?s3cret', '//[', 'javascript:1'),
      headerValue,
    ),
    'content-encoding': fc.constantFrom('identity', 'gzip', 'br', 'x'),
    'set-cookie': headerValue,
    'mcp-protocol-version': headerValue,
  },
  { requiredKeys: ['content-type'] },
);
const statusCode = fc.oneof(
  { arbitrary: fc.constant(200), weight: 5 },
  fc.constantFrom(202, 204, 301, 302, 307, 308, 400, 401, 403, 404, 405, 406, 408, 410, 421, 429, 500, 502, 503),
  fc.integer({ min: 200, max: 599 }),
);
const framing = fc.constantFrom('plain', 'event', 'event', 'open event');

interface Response {
  status: number;
  headers: Record<string, string>;
  body: string;
  framing: string;
}
const response: fc.Arbitrary<Response> = fc
  .record({ status: statusCode, headers, body: mutated, framing })
  .map(({ headers, ...rest }) => ({
    ...rest,
    headers: Object.fromEntries(Object.entries(headers).filter(([, text]) => text !== undefined)) as Record<
      string,
      string
    >,
  }));
const METHODS = ['server/discover', 'initialize', 'notifications/initialized', 'tools/list', 'GET', 'DELETE', '*'];
const server = fc.record(Object.fromEntries(METHODS.map(method => [method, response])), { requiredKeys: ['*'] });

const answering =
  ({ status, headers, body, framing }: Response): Answer =>
  call => {
    const filled = fill(body, call);
    call.response.writeHead(status, headers);
    if (framing === 'plain') return call.response.end(filled);
    call.response.write(`data: ${filled}\n\n`);
    return framing === 'event' ? call.response.end() : undefined;
  };

/** What a probe may be sure of, whatever it met. */
async function check(url: string): Promise<void> {
  const probed = await probe(url, { ...SHORT, ...sending({ authorization: 'Bearer s3cret' }) });
  const { reachable } = verdictOf(probed);
  expect(reachable).not.toBe('');
  expect(JSON.stringify(probed)).not.toContain('s3cret');
}

describe('a probe of random', { timeout: TIMEOUT_MS }, () => {
  it('HTTP answers ends in time and shows nothing unfit', async () => {
    let script: Script = {};
    await using animal = await startHttp(new Proxy({}, { get: (_, key) => script[String(key)] }));
    await fc.assert(
      fc.asyncProperty(server, async answers => {
        script = Object.fromEntries(
          Object.entries(answers).map(([method, answer]) => [method, answering(answer as Response)]),
        );
        await check(animal.url);
        await animal.quiet();
      }),
      RUNS,
    );
  });

  it('bytes ends in time and shows nothing unfit', async () => {
    const head = fc.constantFrom(
      'HTTP/1.1 200 OK\r\n',
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n',
      'HTTP/1.1 401\r\n',
      'HTTP/1.1 307 X\r\nLocation: ',
      'HTTP/1.0 ',
      '',
    );
    let bytes: Uint8Array = Buffer.alloc(0);
    await using animal = await startRaw(socket => socket.end(bytes));
    await fc.assert(
      fc.asyncProperty(head, fc.uint8Array({ maxLength: 300 }), async (start, rest) => {
        bytes = Buffer.concat([Buffer.from(start), rest]);
        await check(animal.url);
        await animal.quiet();
      }),
      RUNS,
    );
  });
});
