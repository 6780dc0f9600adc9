/** Lists of tools: what they hold, how they are paged, and servers that will not give them. Each is an MCP server. */
import { describe, expect, it } from 'vitest';
import { makeTarget } from '../unit/support.ts';
import { prober } from './prober.ts';
import { sending } from './probing.ts';
import {
  type Answer,
  type Call,
  hang,
  json,
  legacy,
  RESULTS,
  reset,
  result,
  type Script,
  startHttp,
  status,
  TOOL,
} from './servers.ts';
import { ACCEPTED, type After, type Case, LIMITED, testCases, VERIFIED } from './verdicts.ts';

const listing = (answer: Answer): Script => ({ ...legacy, 'tools/list': answer });
const tools = (...list: unknown[]): Script => listing(result({ tools: list }));
const named = (name: unknown): object => ({ ...TOOL, name });
const UNLISTED: After = (_, { outcome }) => expect(outcome).not.toHaveProperty('server.tools');
const numbered = (count: number): object[] => [...Array(count).keys()].map(n => named(`tool-${n}`));

/** A page of one tool for each cursor, then the next. */
const pages =
  (cursor: (call: Call, page: number) => unknown): Answer =>
  call => {
    const page = Number(call.params.cursor ?? 0) || 0;
    return result({ tools: [named(`tool-${page}`)], nextCursor: cursor(call, page) })(call);
  };

describe('a list of tools', () => {
  it('that may be kept is asked for anew with other credentials', async () => {
    await using animal = await startHttp({
      ...legacy,
      'tools/list': call =>
        call.headers.authorization === 'Bearer good'
          ? result({ tools: [TOOL], ttlMs: 3_600_000 })(call)
          : status(401, { 'www-authenticate': 'Bearer' })(call),
    });
    const [run, memory] = [prober(), {}];
    const found = async (token: string) => {
      const target = makeTarget({ url: animal.url, ...sending({ authorization: `Bearer ${token}` }) });
      return run(target, memory, new AbortController().signal);
    };
    for (let times = 0; times < 3; times++)
      expect(await found('good')).toMatchObject({ kind: 'answered', server: { tools: { names: ['feed'] } } });
    expect(animal.methods().filter(method => method === 'tools/list')).toHaveLength(1);
    expect(await found('revoked')).toMatchObject({ kind: 'answered', refusal: { kind: 'unauthorized' } });
    expect(await found('good')).toMatchObject({ kind: 'answered', server: { tools: { names: ['feed'] } } });
    await animal.quiet();
  });

  testCases({
    'of none': { server: tools(), verdict: VERIFIED, outcome: { server: { tools: { names: [], count: 0 } } } },
    'in any order': {
      server: tools(named('b'), named('a')),
      verdict: VERIFIED,
      outcome: { server: { tools: { names: ['a', 'b'], count: 2 } } },
    },
    'of 10,000': {
      server: tools(...numbered(10_000)),
      verdict: VERIFIED,
      outcome: { server: { tools: { count: 10_000, hash: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) } } },
      after: (_, { outcome }) => expect(outcome).toHaveProperty('server.tools.names.length', 128),
    },
    'with a name of a megabyte': {
      server: tools(named('x'.repeat(2 ** 20))),
      verdict: VERIFIED,
      outcome: { server: { tools: { count: 1 } } },
    },
    'with control and direction characters in a name': {
      server: tools(named('a\u001b[2J\u202eb\u0000')),
      verdict: VERIFIED,
      outcome: { server: { tools: { count: 1 } } },
    },
    'with a lone surrogate in a name': {
      server: listing(
        json('{"jsonrpc":"2.0","id":$ID,"result":{"tools":[{"name":"a\\ud800","inputSchema":{"type":"object"}}]}}'),
      ),
      verdict: VERIFIED,
    },
    'with a name twice': { server: tools(named('a'), named('a')), verdict: VERIFIED },
    'with __proto__ for a name': {
      server: tools(named('__proto__')),
      verdict: VERIFIED,
      outcome: { server: { tools: { names: ['__proto__'] } } },
    },
    'with an empty name': { server: tools(named('')), verdict: VERIFIED },
    'with a schema of 100,000 levels': {
      server: listing(
        json(
          `{"jsonrpc":"2.0","id":$ID,"result":{"tools":[{"name":"deep","inputSchema":{"type":"object","x":${'['.repeat(100_000)}${']'.repeat(100_000)}}}]}}`,
        ),
      ),
      verdict: VERIFIED,
    },
    'with __proto__ in a schema': {
      server: listing(
        json(
          '{"jsonrpc":"2.0","id":$ID,"result":{"tools":[{"name":"p","inputSchema":{"type":"object","__proto__":{"polluted":1}}}]}}',
        ),
      ),
      verdict: VERIFIED,
      after: () => expect({}).not.toHaveProperty('polluted'),
    },
    'with a $ref that it would be unwise to fetch': {
      server: listing(call =>
        result({ tools: [{ ...TOOL, inputSchema: { type: 'object', $ref: `${call.origin}/canary.json` } }] })(call),
      ),
      verdict: VERIFIED,
      outcome: { server: { tools: { count: 1 } } },
      after: ({ requests }) => expect(requests.map(({ path }) => path)).not.toContain('/canary.json'),
    },
    'with a tool that has no name': { server: tools(TOOL, { inputSchema: { type: 'object' } }), verdict: VERIFIED },
    'with a tool whose name is a number': { server: tools(TOOL, named(7)), verdict: VERIFIED },
    'with a tool that is null': { server: tools(TOOL, null), verdict: VERIFIED },
    'with a tool that has no schema': { server: tools({ name: 'bare' }), verdict: VERIFIED },
  });
});

describe('pages of tools', () => {
  testCases({
    three: {
      server: listing(pages((_, page) => (page < 2 ? String(page + 1) : undefined))),
      verdict: VERIFIED,
      outcome: { server: { tools: { names: ['tool-0', 'tool-1', 'tool-2'], count: 3 } } },
    },
    // More than a probe reads: whatever it says must not be that there are fewer tools than there are.
    forty: {
      server: listing(pages((_, page) => (page < 39 ? String(page + 1) : undefined))),
      verdict: VERIFIED,
      after: (_, { outcome }) => {
        const count = outcome.kind === 'answered' ? outcome.server.tools?.count : NaN;
        expect(count).toBeOneOf([undefined, 40]);
      },
      most: 50,
    },
    'with one cursor for ever': { server: listing(pages(() => 'again')), verdict: VERIFIED, most: 50 },
    'with a new cursor for ever': {
      server: listing(pages((_, page) => String(page + 1))),
      verdict: VERIFIED,
      after: UNLISTED,
      most: 50,
    },
    'with a cursor of a megabyte': {
      server: listing(pages(call => (call.params.cursor ? undefined : 'x'.repeat(2 ** 20)))),
      verdict: VERIFIED,
    },
    'with an empty cursor at the end': {
      // The official client takes it for a cursor; asking for ever is what must not come of it.
      server: listing(pages(() => '')),
      verdict: VERIFIED,
      most: 50,
    },
    'with a cursor that is a number': { server: listing(pages(() => 7)), verdict: VERIFIED, most: 50 },
    'with a cursor that is null at the end': { server: listing(pages(() => null)), verdict: VERIFIED, most: 50 },
    'with control characters in the cursor': {
      server: listing(pages(call => (call.params.cursor ? undefined : '\u0000\r\n\u202e'))),
      verdict: VERIFIED,
      after: ({ requests }) =>
        expect(requests.filter(({ method }) => method === 'tools/list').map(({ params }) => params.cursor)).toEqual([
          undefined,
          '\u0000\r\n\u202e',
        ]),
    },
    'that fail at the second': {
      server: listing(call => (call.params.cursor ? status(500) : pages(() => 'two'))(call)),
      verdict: VERIFIED,
      after: UNLISTED,
    },
  });
});

/** What tools/list gets, after an initialize that proved the server to be one. */
const REFUSALS: Record<string, Answer> = {
  '429': status(429, { 'retry-after': '60' }),
  '500': status(500),
  '403': status(403),
  '404': status(404),
  '307 to another origin': status(307, { location: 'https://example.com/' }),
  HTML: status(200, { 'content-type': 'text/html' }, '<html>'),
  '-32601': json('{"jsonrpc":"2.0","id":$ID,"error":{"code":-32601,"message":"Method not found"}}'),
  'an empty result': result({}),
  'tools that are an object': result({ tools: { feed: TOOL } }),
  'tools that are null': result({ tools: null }),
  'no answer, ever': hang,
  'a reset': reset,
};

describe('a server that answers to tools/list with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(REFUSALS).map(([name, answer]): [string, Case] => [
        name,
        {
          server: listing(answer),
          target: answer === hang ? { timeoutMs: 800 } : {},
          verdict: VERIFIED,
          outcome: { server: { name: 'zoo', version: '1.2.3' } },
          after: UNLISTED,
        },
      ]),
    ),
  );
  testCases({
    '403, and other credentials may be wanted': {
      server: listing(REFUSALS['403'] as Answer),
      target: sending({ authorization: 'Bearer a-token-of-zoo' }),
      verdict: { ...ACCEPTED, authorized: 'Pending' },
      after: UNLISTED,
    },
    'nothing, for it has no tools, is not asked': {
      server: {
        ...legacy,
        initialize: result({ ...RESULTS.initialize, capabilities: { prompts: {} } }),
        'tools/list': status(500),
      },
      verdict: VERIFIED,
      outcome: { server: { capabilities: ['prompts'], tools: { count: 0 } } },
      after: animal => expect(animal.methods()).not.toContain('tools/list'),
    },
    '429 at initialize already is rate-limited': { server: { ...legacy, initialize: status(429) }, verdict: LIMITED },
    'an error to initialized, which no client waits for': {
      server: { ...legacy, 'notifications/initialized': status(500) },
      verdict: VERIFIED,
    },
    '200 and a body to initialized': {
      server: { ...legacy, 'notifications/initialized': json('{}') },
      verdict: VERIFIED,
    },
    'nothing at all to initialized': {
      server: { ...legacy, 'notifications/initialized': hang },
      target: { timeoutMs: 1_500 },
      verdict: VERIFIED,
    },
  });
});
