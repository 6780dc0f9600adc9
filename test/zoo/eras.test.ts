/** Which revisions a server speaks, and how it lies about it. */
import { describe, expect } from 'vitest';
import {
  type Answer,
  events,
  failure,
  hang,
  hangUp,
  inTurn,
  json,
  legacy,
  modern,
  RESULTS,
  raw,
  reset,
  result,
  type Script,
  status,
} from './servers.ts';
import { BUSY, type Case, MISMATCH, NOT_MCP, testCases, UNAUTHORIZED, VERIFIED } from './verdicts.ts';

const LEGACY = { server: { name: 'zoo', version: '1.2.3', protocolVersion: '2025-11-25', tools: { names: ['feed'] } } };
const MODERN = { server: { name: 'zoo', version: '1.2.3', protocolVersion: '2026-07-28', tools: { names: ['feed'] } } };
const HTML = { 'content-type': 'text/html' };

describe('a modern server', () => {
  testCases({
    'answers discover': {
      server: modern,
      verdict: VERIFIED,
      outcome: MODERN,
      after: ({ requests }) => {
        for (const { headers, method, params } of requests) {
          expect(headers['mcp-protocol-version'], method).toBe('2026-07-28');
          expect(headers['mcp-method']).toBe(method);
          expect(params._meta).toMatchObject({ 'io.modelcontextprotocol/protocolVersion': '2026-07-28' });
          expect(params._meta).toHaveProperty(['io.modelcontextprotocol/clientCapabilities']);
        }
        expect(requests.map(({ method }) => method)).toEqual(['server/discover', 'tools/list']);
      },
    },
    'answers in an event stream': {
      server: { ...modern, 'server/discover': events('data: $ANSWER\n\n'), 'tools/list': events('data: $ANSWER\n\n') },
      verdict: VERIFIED,
      outcome: MODERN,
    },
    'names itself in the result, as the conformance tests do': {
      server: {
        ...modern,
        'server/discover': result({
          ...RESULTS['server/discover'],
          _meta: undefined,
          serverInfo: { name: 'zoo', version: '1.2.3' },
        }),
      },
      verdict: VERIFIED,
      outcome: { server: { protocolVersion: '2026-07-28' } },
    },
    'names itself nowhere': {
      server: { ...modern, 'server/discover': result({ ...RESULTS['server/discover'], _meta: undefined }) },
      verdict: VERIFIED,
      outcome: { server: { protocolVersion: '2026-07-28' } },
    },
    'speaks both eras': {
      server: { ...legacy, ...modern, initialize: json('$ANSWER') },
      verdict: VERIFIED,
      outcome: MODERN,
      after: animal => expect(animal.methods()).not.toContain('initialize'),
    },
    'wants a capability that a probe has not': {
      // -32021 is an error of 2026-07-28 alone: who says so speaks MCP. What it would not show is its facts.
      server: { '*': failure(-32021, 'Missing required client capability', { status: 400 }) },
      verdict: [VERIFIED, MISMATCH],
    },
  });
});

/** What legacy servers were seen to answer to a method that they do not know. */
const REFUSALS: Record<string, Answer> = {
  'an empty 400': status(400),
  'an empty 404': status(404),
  'an empty 405': status(405),
  'an empty 406': status(406),
  'an empty 415': status(415),
  'an empty 422': status(422),
  'an empty 500': status(500),
  'an empty 501': status(501),
  '400 and text': status(400, { 'content-type': 'text/plain' }, 'Bad Request: Unsupported protocol version'),
  '400 and -32000': failure(-32000, 'Bad Request: Unsupported protocol version: 2026-07-28', { status: 400 }),
  '400 and -32600 with id null': json(
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Missing session ID"}}',
    400,
  ),
  '404 and -32601': failure(-32601, 'Method not found', { status: 404 }),
  '404 and -32001': failure(-32001, 'Session not found', { status: 404 }),
  '404 and HTML': status(404, HTML, '<h1>Not Found</h1>'),
  '500 and -32603': failure(-32603, 'Internal error', { status: 500 }),
  '200 and -32601': failure(-32601, 'Method not found'),
  '200 and -32602': failure(-32602, 'Invalid request parameters'),
  '200 and -32601 in an event stream': events(
    'event: message\ndata: {"jsonrpc":"2.0","id":$ID,"error":{"code":-32601,"message":"no"}}\n\n',
  ),
  '200 and an empty result': result({}),
  '200 and a result of something else': result({ tools: [] }),
  '202 and nothing': status(202),
  'a reset': reset,
  'a connection closed': hangUp,
};

describe('a legacy server that answers to discover with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(REFUSALS).map(([name, answer]): [string, Case] => [
        name,
        { server: { ...legacy, 'server/discover': answer }, verdict: VERIFIED, outcome: LEGACY },
      ]),
    ),
  );
  testCases({
    'nothing, ever, is verified within one deadline': {
      server: { ...legacy, 'server/discover': hang },
      target: { timeoutMs: 4_000 },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    // Debatable: servers that let in anybody for initialize and tools/list alone are many, and they are healthy.
    '401 is verified if initialize needs no authorization': {
      server: { ...legacy, 'server/discover': status(401, { 'www-authenticate': 'Bearer' }) },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    '401 and then 401 to initialize wants authorization': {
      server: { '*': status(401, { 'www-authenticate': 'Bearer' }) },
      verdict: UNAUTHORIZED,
    },
  });
});

const version = (protocolVersion: unknown): Script => ({
  ...legacy,
  initialize: result({ ...RESULTS.initialize, protocolVersion }),
});
const discovering = (supportedVersions: unknown): Script => ({
  ...modern,
  'server/discover': result({ ...RESULTS['server/discover'], supportedVersions }),
});
const unsupported = (...supported: string[]): Answer =>
  failure(-32022, 'Unsupported protocol version', { status: 400, data: { supported, requested: '2026-07-28' } });
const rejecting =
  (...supported: string[]): Answer =>
  call => {
    const good = supported.includes(String(call.params.protocolVersion));
    const answer = good
      ? result({ ...RESULTS.initialize, protocolVersion: call.params.protocolVersion })
      : failure(-32602, 'Unsupported protocol version', {
          data: { supported, requested: call.params.protocolVersion },
        });
    return answer(call);
  };

describe('of protocol versions', () => {
  testCases({
    ...Object.fromEntries(
      ['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'].map((known): [string, Case] => [
        `${known} is spoken, and sent in the header once it is agreed`,
        {
          server: version(known),
          verdict: VERIFIED,
          outcome: { server: { protocolVersion: known } },
          after: ({ requests }) => {
            const header = (method: string): unknown =>
              requests.find(request => request.method === method)?.headers['mcp-protocol-version'];
            expect(header('tools/list')).toBe(known);
            expect(header('initialize')).toBeUndefined();
          },
        },
      ]),
    ),
    'a server that answers 400 to an unknown version header on initialize': {
      server: {
        ...legacy,
        initialize: call => (call.request.headers['mcp-protocol-version'] ? status(400) : json('$ANSWER'))(call),
      },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    'a version that does not exist': { server: version('2099-01-01'), verdict: MISMATCH },
    'a version that is no date': { server: version('latest'), verdict: MISMATCH },
    'a version that is no string': { server: version(1), verdict: [NOT_MCP, MISMATCH] },
    'no version at all': { server: version(undefined), verdict: [NOT_MCP, MISMATCH] },
    // 2026-07-28 has no initialize: what follows would be spoken in neither era.
    '2026-07-28 in answer to initialize': { server: version('2026-07-28'), verdict: MISMATCH },
    'a version with a megabyte of words': { server: version('x'.repeat(1_000_000)), verdict: [MISMATCH, NOT_MCP] },
    'discover that supports none': { server: discovering([]), verdict: MISMATCH },
    'discover that supports future ones only': { server: discovering(['2031-01-01', '2032-01-01']), verdict: MISMATCH },
    'discover that supports 10,000': {
      server: discovering([...Array(10_000).keys()].map(n => `v${n}`)),
      verdict: MISMATCH,
    },
    'discover that supports a legacy one, which initialize then speaks': {
      server: {
        ...legacy,
        'server/discover': result({ ...RESULTS['server/discover'], supportedVersions: ['2025-11-25'] }),
      },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    '-32022 without overlap': { server: { '*': unsupported('2031-01-01') }, verdict: MISMATCH },
    '-32022 with a legacy overlap': {
      server: { ...legacy, 'server/discover': unsupported('2025-11-25', '2025-06-18') },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    // It says that it speaks what it refuses: no client can use it, and asking for ever would not help.
    '-32022 that names the very version it refuses': { server: { '*': unsupported('2026-07-28') }, verdict: MISMATCH },
    // The conformance tests do so (request-metadata).
    '-32022 that names it, and then takes it': {
      server: { ...modern, 'server/discover': inTurn(unsupported('2026-07-28'), json('$ANSWER')) },
      verdict: VERIFIED,
      outcome: MODERN,
      after: animal => expect(animal.methods()).not.toContain('initialize'),
    },
    '-32022 in an answer of 200': {
      server: { ...legacy, 'server/discover': failure(-32022, 'no', { data: { supported: ['2025-06-18'] } }) },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    '-32022 without data': {
      server: { ...legacy, 'server/discover': failure(-32022, 'no', { status: 400 }) },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    'an initialize that rejects the version and names others, all unknown': {
      server: { ...legacy, initialize: rejecting('2031-01-01') },
      verdict: MISMATCH,
    },
    // Debatable: the specification lets the server offer its own version; some reject, and name what they would take.
    'an initialize that rejects the version and names one that we speak': {
      server: { ...legacy, initialize: rejecting('2024-11-05') },
      verdict: VERIFIED,
      outcome: { server: { protocolVersion: '2024-11-05' } },
    },
    '-32020, the headers do not match': {
      // An error of 2026-07-28 alone, so it speaks MCP; a proxy that changes headers makes it so.
      server: { '*': failure(-32020, 'Header mismatch', { status: 400 }) },
      verdict: MISMATCH,
    },
  });
});

const FULL =
  '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: Server already initialized"}}';

describe('a server of one session', () => {
  testCases({
    'has one already': { server: { ...legacy, initialize: json(FULL, 400) }, verdict: BUSY },
    'has one already, whatever it is asked': { server: { '*': json(FULL, 400) }, verdict: BUSY },
    'has one already, and says so with 200': { server: { ...legacy, initialize: json(FULL) }, verdict: BUSY },
    'has room, and gets it back': {
      server: oneSession(),
      verdict: VERIFIED,
      outcome: LEGACY,
      after: animal => expect(animal.methods().at(-1)).toBe('DELETE'),
    },
    'initializes once and forgets nothing: discover does not use up its only chance': {
      server: { ...legacy, initialize: inTurn(json('$ANSWER'), json(FULL, 400)) },
      verdict: VERIFIED,
      outcome: LEGACY,
    },
    'breaks the HTTP of what it does not know': {
      server: { ...legacy, 'server/discover': raw('???\r\n\r\n') },
      verdict: [VERIFIED, NOT_MCP],
    },
  });
});

function oneSession(): Script {
  let taken = false;
  return {
    ...legacy,
    initialize(call) {
      const answer = taken ? json(FULL, 400) : json('$ANSWER', 200, { 'mcp-session-id': 'the-only-one' });
      taken = true;
      return answer(call);
    },
    DELETE(call) {
      taken = call.headers['mcp-session-id'] !== 'the-only-one';
      call.response.writeHead(taken ? 404 : 200).end();
    },
  };
}
