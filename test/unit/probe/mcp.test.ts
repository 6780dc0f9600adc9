import { pipeline, Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { retryAfterMs } from '../../../src/probe/classify.ts';
import { createDialer } from '../../../src/probe/dial.ts';
import { type AddressPolicy, createGuard, openGuard } from '../../../src/probe/guard.ts';
import { createProbe } from '../../../src/probe/mcp.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import type { Target } from '../../../src/probe/target.ts';
import { hashTools } from '../../../src/probe/tools.ts';
import { closedPort, startHttp, startMcp, startStatic, type TestServer } from '../../support/servers.ts';
import { CLOSED, makeTarget } from '../support.ts';

const LOOPBACK = { ...CLOSED, allowCidrs: ['127.0.0.0/8'] };
const open: TestServer[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map(server => server.close()));
});

async function serve<T extends TestServer>(server: Promise<T>): Promise<T> {
  const started = await server;
  open.push(started);
  return started;
}

function probe(url: string, options: Partial<Target> = {}, policy: AddressPolicy = LOOPBACK): Promise<Outcome> {
  const run = createProbe({
    dial: createDialer({ guard: createGuard(policy) }),
    dialTrusted: createDialer({ guard: openGuard() }),
    client: { name: 'probe', version: '0.0.0' },
    userAgent: 'probe/0.0.0 (+https://example.com)',
  });
  return run(makeTarget({ url, ...options }), {}, new AbortController().signal);
}

describe('a probe of a real MCP server', () => {
  it.each(['modern', 'both', 'legacy'] as const)('knows the %s era and lists the tools', async era => {
    const server = await serve(startMcp({ era, tools: ['b', 'a'] }));
    const outcome = await probe(server.url);
    expect(outcome).toMatchObject({
      kind: 'answered',
      server: {
        name: 'test-server',
        version: '1.2.3',
        protocolVersion: era === 'legacy' ? '2025-11-25' : '2026-07-28',
        capabilities: ['tools'],
        tools: { names: ['a', 'b'], count: 2, hash: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) },
      },
    });
  });

  it('ends the session that it opened and asks for no stream', async () => {
    const server = await serve(startMcp({ era: 'legacy' }));
    await probe(server.url);
    expect(server.sessions()).toBe(0);
    expect(server.requests.map(({ method }) => method)).toContain('DELETE');
    expect(server.requests.map(({ method }) => method)).not.toContain('GET');
  });

  it('ends its session also where a redirect led to', async () => {
    const server = await serve(startMcp({ era: 'legacy', redirectFrom: '/old' }));
    expect((await probe(server.url.replace('/mcp', '/old'))).kind).toBe('answered');
    expect(server.sessions()).toBe(0);
  });

  it('reads 2 MiB of it in all, however many pages it gives, and does without the tools beyond', async () => {
    let served = 0;
    const server = await serve(
      startHttp(async (request, response) => {
        let body = '';
        for await (const chunk of request) body += chunk;
        if (request.method !== 'POST') return void response.writeHead(405).end();
        const { id, method } = JSON.parse(body);
        const answer = (result: object): void => {
          const text = JSON.stringify({ jsonrpc: '2.0', id, result });
          served += text.length;
          response.writeHead(200, { 'content-type': 'application/json' }).end(text);
        };
        if (method === 'initialize') {
          const serverInfo = { name: 'large', version: '1' };
          answer({ protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo });
        } else if (method === 'tools/list') {
          const tool = { name: 't', description: 'x'.repeat(1_000_000), inputSchema: { type: 'object' } };
          answer({ tools: [tool], nextCursor: `c${served}` });
        } else if (id === undefined) response.writeHead(202).end();
        else response.writeHead(400).end();
      }),
    );
    const outcome = await probe(server.url);
    expect(outcome).toMatchObject({ kind: 'answered', server: { name: 'large' } });
    expect(outcome).not.toHaveProperty('server.tools');
    expect(served).toBeLessThan(4_000_000);
  });

  it('says who it is', async () => {
    const server = await serve(startMcp());
    await probe(server.url);
    expect(new Set(server.requests.map(({ headers }) => headers['user-agent']))).toEqual(
      new Set(['probe/0.0.0 (+https://example.com)']),
    );
  });

  it('reads the challenge of a server that wants authorization', async () => {
    const server = await serve(startMcp({ authorization: 'Bearer good' }));
    expect(await probe(server.url)).toEqual({
      kind: 'unauthorized',
      challenge: {
        resourceMetadataUrl: `http://127.0.0.1:${server.port}/.well-known/oauth-protected-resource/mcp`,
        scopes: ['read', 'write'],
      },
    });
  });

  it('sends credentials, and only to the origin of the URL', async () => {
    const server = await serve(startMcp({ authorization: 'Bearer good' }));
    const secrets = async () => ({ headers: { Authorization: 'Bearer good' }, ca: undefined });
    expect(await probe(server.url, { secrets })).toMatchObject({ kind: 'answered' });

    const other = await serve(startMcp());
    const redirecting = await serve(startStatic(307, { location: other.url }, ''));
    await probe(redirecting.url, { secrets });
    expect(redirecting.requests[0]?.headers.authorization).toBe('Bearer good');
    expect(other.requests).toEqual([]);
  });

  it('follows a redirect within the origin', async () => {
    const server = await serve(startMcp({ redirectFrom: '/old' }));
    const outcome = await probe(server.url.replace('/mcp', '/old'));
    expect(outcome.kind).toBe('answered');
    expect(new Set(server.requests.map(({ path }) => path))).toEqual(new Set(['/old', '/mcp']));
  });
});

describe('a probe of what is no MCP server', () => {
  const html = '<html>hello</html>';
  it.each<[string, number, Record<string, string>, string, Partial<Outcome>]>([
    ['HTML', 200, { 'content-type': 'text/html' }, html, { kind: 'not-mcp', why: 'it answers text/html' }],
    ['JSON that is no JSON-RPC', 200, { 'content-type': 'application/json' }, '{"a":1}', { kind: 'not-mcp' }],
    ['405', 405, {}, '', { kind: 'not-mcp', why: 'it answers 405 to an MCP request' }],
    ['404', 404, {}, html, { kind: 'http-error', status: 404 }],
    ['403', 403, {}, '', { kind: 'http-error', status: 403 }],
    ['421', 421, {}, '', { kind: 'http-error', status: 421 }],
    ['500', 500, {}, 'oops', { kind: 'http-error', status: 500 }],
    ['503', 503, {}, '', { kind: 'http-error', status: 503 }],
    ['503', 503, { 'retry-after': '7' }, '', { kind: 'http-error', status: 503, retryAfterMs: 7000 }],
    ['429', 429, { 'retry-after': '7' }, '', { kind: 'rate-limited', retryAfterMs: 7000 }],
    ['a bare 401', 401, {}, '', { kind: 'unauthorized', challenge: undefined }],
    [
      'a lack of scope',
      403,
      { 'www-authenticate': 'Bearer error="insufficient_scope", scope="admin"' },
      '',
      { kind: 'insufficient-scope', challenge: { scopes: ['admin'] } },
    ],
    [
      'a redirect elsewhere, whose query stays secret',
      302,
      { location: 'https://login.example.com/start?token=s3cret' },
      '',
      { kind: 'redirected', to: 'https://login.example.com/start' },
    ],
    [
      'a server with room for one session',
      400,
      { 'content-type': 'application/json' },
      '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: Server already initialized"}}',
      { kind: 'busy' },
    ],
  ])('tells %s', async (_name, status, headers, body, expected) => {
    const server = await serve(startStatic(status, headers, body));
    expect(await probe(server.url)).toMatchObject(expected);
  });

  it('tells a closed port', async () => {
    expect(await probe(`http://127.0.0.1:${await closedPort()}/mcp`)).toEqual({ kind: 'refused' });
  });

  it('tells a name that does not resolve', async () => {
    expect(await probe('http://nowhere.invalid/mcp')).toMatchObject({ kind: 'dns' });
  });

  it('tells a broken connection', async () => {
    const server = await serve(startHttp(request => void request.socket.destroy()));
    expect(await probe(server.url)).toMatchObject({ kind: 'reset' });
  });

  it('tells a server that takes the request and never answers, after one deadline', async () => {
    const server = await serve(startHttp(() => {}));
    expect(await probe(server.url, { timeoutMs: 200 })).toEqual({ kind: 'timeout', afterMs: 200 });
  });

  it('tells a stream that never says anything', async () => {
    const server = await serve(
      startHttp((_request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.flushHeaders();
      }),
    );
    expect(await probe(server.url, { timeoutMs: 200 })).toEqual({ kind: 'timeout', afterMs: 200 });
  });

  it('tells TLS on a port that speaks none', async () => {
    const server = await serve(startMcp());
    expect(await probe(server.url.replace('http:', 'https:'))).toMatchObject({ kind: 'tls' });
  });

  it('reads at most 2 MiB of an answer', async () => {
    const server = await serve(
      startHttp((_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json' });
        const endless = new Readable({ read: () => void endless.push('x'.repeat(65_536)) });
        pipeline(endless, response, () => {});
      }),
    );
    expect((await probe(server.url)).kind).toBe('not-mcp');
  });

  it('does not dial an address that the policy denies', async () => {
    const server = await serve(startMcp());
    expect(await probe(server.url, {}, CLOSED)).toMatchObject({ kind: 'address-denied' });
    expect(server.requests).toEqual([]);
  });
});

describe('hashTools', () => {
  it('is the same whatever the order of tools and keys', () => {
    const a = { name: 'a', description: 'x', inputSchema: { type: 'object', properties: { p: {}, q: {} } } };
    const b = { name: 'b' };
    const reordered = { name: 'a', description: 'x', inputSchema: { properties: { q: {}, p: {} }, type: 'object' } };
    expect(hashTools([a, b])).toBe(hashTools([b, reordered]));
  });
  it('changes with a description', () => {
    expect(hashTools([{ name: 'a', description: 'x' }])).not.toBe(hashTools([{ name: 'a', description: 'y' }]));
  });
});

describe('retryAfterMs', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  it.each([
    ['', undefined],
    ['0', 0],
    ['120', 120_000],
    ['9999999999', 86_400_000],
    ['-5', undefined],
    ['soon', undefined],
    ['Thu, 01 Jan 2026 00:00:30 GMT', 30_000],
    ['Wed, 31 Dec 2025 00:00:00 GMT', undefined],
  ])('reads %j', (header, expected) => {
    expect(retryAfterMs(header, now)).toBe(expected);
  });
});
