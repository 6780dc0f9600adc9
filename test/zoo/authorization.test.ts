/** 401 and 403, and the protected resource metadata (RFC 9728) that says how to get in. */

import { describe, expect, it } from 'vitest';
import { CLOSED } from '../unit/support.ts';
import { probe, sending } from './probing.ts';
import {
  type Animal,
  type Answer,
  drip,
  flood,
  hang,
  json,
  legacy,
  openEvents,
  type Script,
  startHttp,
  status,
} from './servers.ts';
import {
  ACCEPTED,
  type After,
  type Case,
  FORBIDDEN,
  LIMITED,
  NOT_MCP,
  REJECTED,
  SCOPE,
  SERVER_ERROR,
  testCases,
  UNAUTHORIZED,
  VERIFIED,
  verdictOf,
} from './verdicts.ts';

const METADATA = '/.well-known/oauth-protected-resource';
const ISSUER = 'https://auth.example.com/tenant';
const wants = (challenge: string | string[]): Answer => status(401, { 'www-authenticate': challenge });
const challenged = (challenge: string | string[], expected?: object): Case => ({
  server: { '*': wants(challenge) },
  verdict: UNAUTHORIZED,
  outcome: expected === undefined ? {} : { challenge: expected },
});
/** On hosts where nothing is asked: the metadata's URL itself is what counts. */
const URL_OF_IT = 'https://mcp.invalid/.well-known/oauth-protected-resource/mcp';

describe('a server that wants authorization', () => {
  testCases({
    'and says no more (which proves no MCP)': {
      server: { '*': status(401) },
      verdict: UNAUTHORIZED,
      after: (_, { outcome }) => expect(outcome).toMatchObject({ challenge: undefined }),
    },
    'with a page to log in (Atlassian: no JSON, no metadata)': {
      server: { '*': status(401, { 'content-type': 'text/html' }, '<h1>Log in</h1>') },
      verdict: UNAUTHORIZED,
    },
    'and a JSON-RPC error': {
      server: { '*': json('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Unauthorized"}}', 401) },
      verdict: UNAUTHORIZED,
    },
    'by Basic': challenged('Basic realm="zoo"'),
    'by Bearer': challenged('Bearer'),
    'and names its metadata': challenged(`Bearer resource_metadata="${URL_OF_IT}"`, { resourceMetadataUrl: URL_OF_IT }),
    'and names its metadata without quotes': challenged(`Bearer resource_metadata=${URL_OF_IT}`, {
      resourceMetadataUrl: URL_OF_IT,
    }),
    'in other case and blanks': challenged(`BEARER  Resource_Metadata = "${URL_OF_IT}" , error="invalid_token"`, {
      resourceMetadataUrl: URL_OF_IT,
    }),
    'and names scopes': challenged('Bearer realm="x", scope="write read"', { scopes: ['read', 'write'] }),
    'and names an escaped realm first': challenged(
      `Bearer realm="a \\"b\\", resource_metadata=\\"no\\"", resource_metadata="${URL_OF_IT}"`,
      { resourceMetadataUrl: URL_OF_IT },
    ),
    'by Basic or Bearer in one header': challenged(
      `Basic realm="x", charset="UTF-8", Bearer scope="read", resource_metadata="${URL_OF_IT}"`,
      { resourceMetadataUrl: URL_OF_IT, scopes: ['read'] },
    ),
    'by Bearer or Basic in one header': challenged(
      `Bearer resource_metadata="${URL_OF_IT}", scope="read", Basic realm="x"`,
      { resourceMetadataUrl: URL_OF_IT, scopes: ['read'] },
    ),
    'by Basic or Bearer in two headers': challenged(['Basic realm="x"', `Bearer resource_metadata="${URL_OF_IT}"`], {
      resourceMetadataUrl: URL_OF_IT,
    }),
    'by Negotiate with a token68': challenged(
      ['Negotiate YIIB6wYGKwYBBQUC==', `Bearer resource_metadata="${URL_OF_IT}"`],
      { resourceMetadataUrl: URL_OF_IT },
    ),
    'in a header cut off': challenged('Bearer resource_metadata="https://mcp.invalid/x'),
    'in a header of commas': challenged(',,,=,,"'),
    'in an empty header': challenged(''),
    'with metadata that is no URL': {
      ...challenged('Bearer resource_metadata="not a url"'),
      after: (_, { outcome }) => expect(outcome).not.toHaveProperty('challenge.resourceMetadataUrl'),
    },
    'with metadata that is javascript:': {
      ...challenged('Bearer resource_metadata="javascript:alert(1)"'),
      after: (_, { outcome }) => expect(outcome).not.toHaveProperty('challenge.resourceMetadataUrl'),
    },
    'with a thousand scopes': {
      ...challenged(`Bearer scope="${[...Array(1_000).keys()].map(n => `s${n}`).join(' ')}"`),
      after: (_, { outcome }) => expect(outcome).toHaveProperty('challenge.scopes.length', 32),
    },
    // Headers that no client reads to their end: what they say is not known.
    'in a header of a megabyte': {
      server: { '*': wants(`Bearer realm="${'x'.repeat(2 ** 20)}"`) },
      verdict: NOT_MCP,
    },
    'at initialize only': { server: { ...legacy, initialize: wants('Bearer') }, verdict: UNAUTHORIZED },
    'at tools/list only is verified': {
      server: { ...legacy, 'tools/list': wants('Bearer') },
      verdict: { ...VERIFIED, authorized: 'AuthorizationRequired' },
    },
    'and would not take the credentials': {
      server: { '*': wants('Bearer error="invalid_token"') },
      target: sending({ authorization: 'Bearer s3cret' }),
      verdict: REJECTED,
      after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret'),
    },
    'and says the credentials back, in whatever spelling': {
      server: {
        '*': call => {
          const back = String(call.headers.authorization);
          const header = `Bearer scope="${back} ${back.toLowerCase()} ${encodeURIComponent(back)}"`;
          wants(call.headers.authorization ? header : 'Bearer')(call);
        },
      },
      target: sending({ authorization: 'Basic S3cret+Of/Zoo==' }),
      verdict: REJECTED,
      after: (_, probed) => expect(JSON.stringify(probed)).not.toMatch(/s3cret/i),
    },
    'only of who brings credentials': {
      server: {
        '*': call => (call.headers.authorization ? wants('Bearer') : (legacy[call.method] ?? status(405)))(call),
      },
      target: sending({ authorization: 'Bearer old' }),
      verdict: REJECTED,
    },
    'and takes the credentials': {
      server: {
        '*': call =>
          (call.headers['x-api-key'] === 's3cret' ? (legacy[call.method] ?? status(405)) : status(401))(call),
      },
      target: sending({ 'X-Api-Key': 's3cret' }),
      verdict: ACCEPTED,
      after: ({ requests }) => expect(requests.every(({ headers }) => headers['x-api-key'] === 's3cret')).toBe(true),
    },
    'with 403 for a scope': {
      server: {
        '*': status(403, {
          'www-authenticate': `Bearer error="insufficient_scope", scope="admin read", resource_metadata="${URL_OF_IT}"`,
        }),
      },
      target: sending({ authorization: 'Bearer narrow' }),
      verdict: SCOPE,
      outcome: { challenge: { scopes: ['admin', 'read'], resourceMetadataUrl: URL_OF_IT } },
    },
    'with 403 for a scope at initialize only': {
      server: { ...legacy, initialize: status(403, { 'www-authenticate': 'Bearer error=insufficient_scope' }) },
      target: sending({ authorization: 'Bearer narrow' }),
      verdict: SCOPE,
    },
    'with 403 and no reason': { server: { '*': status(403, { 'www-authenticate': 'Bearer' }) }, verdict: FORBIDDEN },
    'after 429': {
      server: { ...legacy, 'server/discover': status(429), initialize: wants('Bearer') },
      verdict: LIMITED,
    },
    'and breaks': {
      server: { ...legacy, 'server/discover': status(400), initialize: status(503, { 'www-authenticate': 'Bearer' }) },
      verdict: SERVER_ERROR,
    },
  });
});

const document = (origin: string, path: string, more: object = {}): string =>
  JSON.stringify({
    resource: `${origin}${path}`,
    authorization_servers: [ISSUER],
    scopes_supported: ['read'],
    ...more,
  });
/** The metadata of /mcp, with fields changed. */
const metadata =
  (more: object | ((origin: string) => object) = {}, path = '/mcp'): Answer =>
  call =>
    json(document(call.origin, path, typeof more === 'function' ? more(call.origin) : more))(call);
const NAMED = { challenge: { authorizationServers: [ISSUER] } };
const UNNAMED: After = (_, { outcome }) => {
  expect(outcome.kind).toBe('unauthorized');
  expect(outcome).not.toHaveProperty('challenge.authorizationServers');
};
/** The challenge names `at`, where this is found. */
const naming = (answer: Answer, at = '/meta'): Script => ({
  [`GET ${at}`]: answer,
  POST: wants(`Bearer resource_metadata="$ORIGIN${at}"`),
});

// A client asks at the header's URL, else at /.well-known/…/mcp, else at /.well-known/… (RFC 9728, MCP authorization).
describe('protected resource metadata', () => {
  testCases({
    'at the URL of the header, verbatim': {
      server: naming(metadata(), '/meta?tenant=7'),
      verdict: UNAUTHORIZED,
      outcome: NAMED,
      after: ({ requests }) =>
        expect(requests.filter(({ verb }) => verb === 'GET').map(({ path }) => path)).toEqual(['/meta?tenant=7']),
    },
    'at the well-known path of the server': {
      server: { [`GET ${METADATA}/mcp`]: metadata(), POST: wants('Bearer') },
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    'at the well-known path of the host': {
      server: { [`GET ${METADATA}`]: metadata(), POST: wants('Bearer') },
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    'at the well-known path of the host, for the host': {
      server: { [`GET ${METADATA}`]: metadata({}, ''), POST: wants('Bearer') },
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    'at the well-known path, though 401 came bare': {
      server: { [`GET ${METADATA}/mcp`]: metadata(), POST: status(401) },
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    nowhere: { server: { POST: wants('Bearer') }, verdict: UNAUTHORIZED, after: UNNAMED },
    'with scopes, when the challenge names none': {
      server: naming(metadata()),
      verdict: UNAUTHORIZED,
      outcome: { challenge: { scopes: ['read'] } },
    },
    'with a content type and a charset': {
      server: naming(call =>
        status(200, { 'content-type': 'application/json; charset=utf-8' }, document(call.origin, '/mcp'))(call),
      ),
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    // RFC 9728, 3.3: if the resource is not the one asked for, the data MUST NOT be used.
    'of another resource': {
      server: naming(metadata(() => ({ resource: 'https://other.example.com/mcp' }))),
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
    'without a resource': { server: naming(metadata({ resource: undefined })), verdict: UNAUTHORIZED, after: UNNAMED },
    'with a resource of a thousand levels': {
      server: naming(json(`{"resource":${'['.repeat(100_000)}${']'.repeat(100_000)}}`)),
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
    'with javascript: for an issuer': {
      server: naming(
        metadata({ authorization_servers: ['javascript:alert(1)', 'data:text/html,x', 'file:///etc/passwd', ISSUER] }),
      ),
      verdict: UNAUTHORIZED,
      outcome: NAMED,
    },
    'with issuers that are no text': {
      server: naming(metadata({ authorization_servers: [7, null, { a: 1 }, ISSUER] })),
      verdict: UNAUTHORIZED,
    },
    'with issuers that are one text': {
      server: naming(metadata({ authorization_servers: ISSUER })),
      verdict: UNAUTHORIZED,
    },
    'with a thousand issuers': {
      server: naming(
        metadata({ authorization_servers: [...Array(1_000).keys()].map(n => `https://${n}.example.com/`) }),
      ),
      verdict: UNAUTHORIZED,
      after: (_, { outcome }) => {
        const issuers = outcome.kind === 'unauthorized' ? (outcome.challenge?.authorizationServers ?? []) : [];
        expect(issuers.length).toBeLessThanOrEqual(32);
      },
    },
    'with an issuer of a megabyte': {
      server: naming(metadata({ authorization_servers: [`https://example.com/${'x'.repeat(2 ** 20)}`] })),
      verdict: UNAUTHORIZED,
    },
    'with a password in an issuer': {
      server: naming(metadata({ authorization_servers: ['https://user:s3cret@example.com/'] })),
      verdict: UNAUTHORIZED,
      after: (_, probed) => expect(JSON.stringify(probed)).not.toContain('s3cret'),
    },
    'that is HTML': {
      server: naming(status(200, { 'content-type': 'text/html' }, '<html>')),
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
    'that is null': { server: naming(json('null')), verdict: UNAUTHORIZED, after: UNNAMED },
    'that gets 500': { server: naming(status(500)), verdict: UNAUTHORIZED, after: UNNAMED },
    'that gets 401': { server: naming(status(401)), verdict: UNAUTHORIZED, after: UNNAMED },
    'that gets 429': { server: naming(status(429)), verdict: UNAUTHORIZED, after: UNNAMED },
    'that never comes': { server: naming(hang), target: { timeoutMs: 800 }, verdict: UNAUTHORIZED, after: UNNAMED },
    'that never ends': {
      server: naming(async call => {
        await openEvents()(call);
        flood(call.response, () => ' '.repeat(65_536));
      }),
      target: { timeoutMs: 3_000 },
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
    'that comes byte by byte': {
      server: naming(call => {
        call.response.writeHead(200, { 'content-type': 'application/json' });
        drip(call.response, call.socket, 20, () => ' ');
      }),
      target: { timeoutMs: 800 },
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
    'that redirects to itself': {
      server: naming(status(302, { location: '/meta' })),
      verdict: UNAUTHORIZED,
      after: UNNAMED,
      most: 12,
    },
    'that redirects to the cloud’s metadata': {
      server: naming(status(302, { location: 'http://169.254.169.254/' })),
      verdict: UNAUTHORIZED,
      after: UNNAMED,
    },
  });

  const elsewhere = async (other: Animal, policy?: Parameters<typeof probe>[2], host?: string) => {
    await using animal = await startHttp(
      { POST: wants(`Bearer resource_metadata="${other.origin}/meta"`) },
      host ? { host } : {},
    );
    return await probe(animal.url, sending({ authorization: 'Bearer s3cret', 'x-api-key': 's3cret' }), policy);
  };

  it('of another origin gets no secrets', async () => {
    await using other = await startHttp({ 'GET /meta': metadata() });
    expect(verdictOf(await elsewhere(other))).toEqual(REJECTED);
    for (const { headers } of other.requests) expect(JSON.stringify(headers)).not.toContain('s3cret');
  });

  it('of the same origin gets no secrets either, for it is public', async () => {
    await using animal = await startHttp(naming(metadata()));
    await probe(animal.url, sending({ authorization: 'Bearer s3cret', 'x-api-key': 's3cret' }));
    const asked = animal.requests.filter(({ path }) => path === '/meta');
    for (const { headers } of asked) expect(JSON.stringify(headers)).not.toContain('s3cret');
  });

  it('that a hosted server names elsewhere is reached by the policy alone', async () => {
    await using other = await startHttp({ 'GET /meta': metadata() });
    await using animal = await startHttp({ POST: wants(`Bearer resource_metadata="${other.origin}/meta"`) });
    const probed = await probe(animal.url, { trusted: true }, CLOSED);
    expect(verdictOf(probed)).toEqual(UNAUTHORIZED);
    expect(other.connections()).toBe(0);
  });

  it('at a denied address is not asked for, and the verdict stays', async () => {
    await using other = await startHttp({ 'GET /meta': metadata() });
    const probed = await elsewhere(other, { ...CLOSED, allowHosts: ['localhost'] }, 'localhost');
    expect(verdictOf(probed)).toEqual(REJECTED);
    expect(other.connections()).toBe(0);
  });
});
