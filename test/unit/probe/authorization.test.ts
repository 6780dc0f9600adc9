import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { authorizationOf, withMetadata } from '../../../src/probe/authorization.ts';
import { Refused } from '../../../src/probe/failure.ts';
import type { Answer, Exchange, Request } from '../../../src/probe/http.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import type { Memory } from '../../../src/probe/target.ts';
import { makeTarget } from '../support.ts';

const META = 'https://mcp.example.com/.well-known/oauth-protected-resource';

describe('a challenge', () => {
  const challengeOf = (header: string) => authorizationOf(new Refused(401, { 'www-authenticate': header }))?.challenge;

  it.each<[string, object]>([
    ['Bearer', {}],
    [`Bearer resource_metadata="${META}"`, { resourceMetadataUrl: META }],
    [`Bearer resource_metadata=${META}`, { resourceMetadataUrl: META }],
    [`bearer REALM="x, y=\\"z\\"", Resource_Metadata = "${META}"`, { resourceMetadataUrl: META }],
    ['Bearer scope="b a  b"', { scopes: ['a', 'b'] }],
    [`Basic realm="x", Bearer scope="a", DPoP algs="ES256"`, { scopes: ['a'] }],
    [`Basic realm="scope=\\"wrong\\"", Bearer scope="a"`, { scopes: ['a'] }],
    ['Bearer resource_metadata="not a URL"', {}],
    ['Bearer resource_metadata="javascript:alert(1)"', {}],
    ['Bearer resource_metadata="https://user:secret@example.com/"', {}],
    [`Bearer resource_metadata="https://example.com/${'x'.repeat(3000)}"`, {}],
    [`Bearer scope="${'s '.repeat(100)}"`, { scopes: ['s'] }],
    ['Bearer scope="a\u202eb"', { scopes: ['a b'] }],
    ['Bearer __proto__="x", scope="a"', { scopes: ['a'] }],
    ['"unfinished', {}],
  ])('%s', (header, expected) => {
    expect(challengeOf(header)).toEqual(expected);
  });

  it('is none without the header', () => {
    expect(authorizationOf(new Refused(401, {}))).toEqual({ kind: 'unauthorized', challenge: undefined });
  });

  it('asks for more with 403 only when it says that the scope does not suffice', () => {
    const header = { 'www-authenticate': 'Bearer error="insufficient_scope", scope="admin"' };
    expect(authorizationOf(new Refused(403, header))).toEqual({
      kind: 'insufficient-scope',
      challenge: { scopes: ['admin'] },
    });
    expect(authorizationOf(new Refused(403, { 'www-authenticate': 'Bearer error="invalid_token"' }))).toBeUndefined();
  });

  it('of a hostile length is read in no time', () => {
    const start = performance.now();
    challengeOf(`${'a'.repeat(16_000)} ${'b="'.repeat(5_000)}`);
    expect(performance.now() - start).toBeLessThan(1_000);
  });
});

describe('protected resource metadata', () => {
  const URL_ = 'https://mcp.example.com/team/mcp';
  const good = { resource: URL_, authorization_servers: ['https://auth.example.com'], scopes_supported: ['b', 'a'] };
  const facts = { authorizationServers: ['https://auth.example.com/'], scopes: ['a', 'b'] };

  /** A server that has these documents, and remembers what it was asked for. */
  function serve(documents: Record<string, unknown>): { exchange: Exchange; asked: string[] } {
    const asked: string[] = [];
    const ask = async ({ url, headers }: Request): Promise<Answer> => {
      asked.push(url.href);
      expect(headers).toEqual({ accept: 'application/json' });
      const document = documents[url.href];
      const text = async (): Promise<string> =>
        typeof document === 'string' ? document : JSON.stringify(document ?? {});
      const body = (async function* () {})();
      if (document instanceof Error) throw document;
      if (typeof document === 'number') return { url, status: document, headers: {}, body, text, drop() {} };
      return { url, status: document === undefined ? 404 : 200, headers: {}, body, text, drop() {} };
    };
    return { exchange: { ask, signal: new AbortController().signal } as Exchange, asked };
  }

  async function complete(documents: Record<string, unknown>, challenge?: object, memory: Memory = {}) {
    const { exchange, asked } = serve(documents);
    const refusal: Outcome = { kind: 'unauthorized', challenge };
    const found = await withMetadata(exchange, refusal, makeTarget({ url: URL_ }), memory);
    return { challenge: found.kind === 'unauthorized' ? found.challenge : undefined, asked };
  }

  it('is taken from where the challenge says, and from nowhere else', async () => {
    const elsewhere = 'https://meta.example.com/x';
    const found = await complete({ [elsewhere]: good }, { resourceMetadataUrl: elsewhere });
    expect(found).toEqual({ challenge: { resourceMetadataUrl: elsewhere, ...facts }, asked: [elsewhere] });
    const none = await complete({ [META]: good }, { resourceMetadataUrl: elsewhere });
    expect(none).toEqual({ challenge: { resourceMetadataUrl: elsewhere }, asked: [elsewhere] });
  });

  it('is looked for beside the path, then for the whole host', async () => {
    const beside = `${META}/team/mcp`;
    expect(await complete({ [beside]: good })).toEqual({
      challenge: { resourceMetadataUrl: beside, ...facts },
      asked: [beside],
    });
    const whole = { ...good, resource: 'https://mcp.example.com' };
    expect(await complete({ [META]: whole })).toEqual({
      challenge: { resourceMetadataUrl: META, ...facts },
      asked: [beside, META],
    });
    expect(await complete({})).toEqual({ challenge: undefined, asked: [beside, META] });
  });

  it('gives way to the scopes of the challenge', async () => {
    const beside = `${META}/team/mcp`;
    expect((await complete({ [beside]: good }, { scopes: ['c'] })).challenge?.scopes).toEqual(['c']);
  });

  it.each<[string, unknown]>([
    ['of another host', { ...good, resource: 'https://evil.example.com/team/mcp' }],
    ['of another path', { ...good, resource: 'https://mcp.example.com/team/mc' }],
    ['of no resource', { ...good, resource: undefined }],
    ['that is no JSON', '<html>'],
    ['that is a list', [good]],
    ['that is null', 'null'],
  ])('%s is not believed', async (_what, document) => {
    expect((await complete({ [`${META}/team/mcp`]: document })).challenge).toBeUndefined();
  });

  it('names issuers that can be shown only, and not too many', async () => {
    const many = Array.from({ length: 1000 }, (_, index) => `https://auth${index}.example.com`);
    const odd = ['javascript:alert(1)', 'https://a:b@example.com', 7, null, ...many];
    const { challenge } = await complete({ [`${META}/team/mcp`]: { ...good, authorization_servers: odd } });
    expect(challenge?.authorizationServers).toHaveLength(8);
    expect(challenge?.authorizationServers?.every(url => url.startsWith('https://auth'))).toBe(true);
  });

  it('is asked for once a day', async () => {
    const memory: Memory = {};
    const documents = { [`${META}/team/mcp`]: good };
    expect((await complete(documents, undefined, memory)).asked).toHaveLength(1);
    const again = await complete(documents, undefined, memory);
    expect(again.asked).toEqual([]);
    expect(again.challenge?.authorizationServers).toEqual(facts.authorizationServers);
  });

  describe('that could not be had', () => {
    const DAY = 86_400_000;
    let time = 0;
    beforeEach(() => {
      time = 1_000;
      vi.spyOn(performance, 'now').mockImplementation(() => time);
    });
    afterEach(() => void vi.restoreAllMocks());

    it.each([
      ['for an error of the server', 503],
      ['for too many questions', 429],
      ['for a connection that broke', new Error('reset')],
    ])('%s is asked for again after 10 minutes, and what was had before stays', async (_, failure) => {
      const memory: Memory = {};
      const [named, place] = [{ resourceMetadataUrl: `${META}/x` }, `${META}/x`];
      expect((await complete({ [place]: failure }, named, memory)).asked).toHaveLength(1);
      time += 599_000;
      expect((await complete({ [place]: failure }, named, memory)).asked).toHaveLength(0);
      time += 2_000;
      expect((await complete({ [place]: good }, named, memory)).challenge).toMatchObject(facts);
      time += DAY - 1_000;
      expect((await complete({ [place]: failure }, named, memory)).asked).toHaveLength(0);
      time += 2_000;
      const later = await complete({ [place]: failure }, named, memory);
      expect(later.asked).toHaveLength(1);
      expect(later.challenge).toMatchObject(facts);
      time += 2_000;
      // Another place is another question.
      expect((await complete({}, { resourceMetadataUrl: `${META}/y` }, memory)).asked).toHaveLength(1);
    });
  });

  it('is no business of a server that lets everybody in', async () => {
    const { exchange, asked } = serve({});
    const open: Outcome = { kind: 'answered', server: { protocolVersion: '2025-11-25', capabilities: [] } };
    expect(await withMetadata(exchange, open, makeTarget({ url: URL_ }), {})).toBe(open);
    expect(asked).toEqual([]);
  });
});
