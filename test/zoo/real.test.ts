/** Servers that people run: the verdict, the facts, no session left behind, and agreement with the official client. */
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ServerFacts } from '../../src/probe/outcome.ts';
import { startMcp } from '../support/servers.ts';
import { probe, sending } from './probing.ts';
import {
  atlassian,
  ISSUER,
  installNpm,
  installPython,
  npmServers,
  pythonServers,
  type Real,
  start,
  startProtected,
  startProxy,
  whyNoPython,
} from './real.ts';
import { ACCEPTED, REJECTED, UNAUTHORIZED, VERIFIED, verdictOf } from './verdicts.ts';

const { signal } = new AbortController();
/** A first answer may have to wait for a busy machine. */
const PATIENT = { timeoutMs: 20_000 };

/** What the official client finds. */
async function official(
  url: string,
  { transport, headers = {} }: Real,
): Promise<Pick<ServerFacts, 'name' | 'version'> & { names: string[] }> {
  const client = new Client({ name: 'zoo', version: '0.0.0' }, { versionNegotiation: { mode: 'auto' } });
  const Transport = transport === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
  const channel = new Transport(new URL(url), { requestInit: { headers } });
  await client.connect(channel);
  try {
    const { tools } = await client.listTools();
    const { name = '', version = '' } = client.getServerVersion() ?? {};
    return { name, version, names: tools.map(tool => tool.name).sort() };
  } finally {
    if (channel instanceof StreamableHTTPClientTransport) await channel.terminateSession().catch(() => {});
    await client.close();
  }
}

function factsOf({ outcome }: Awaited<ReturnType<typeof probe>>): ServerFacts {
  if (outcome.kind !== 'answered') throw new Error(`no MCP server: ${JSON.stringify(outcome)}`);
  return outcome.server;
}

/** Probes a server twice, for it must serve the next one as well. */
async function examine(port: number, real: Real): Promise<void> {
  const { path = '/mcp', transport, headers, facts, tools } = real;
  await using proxy = await startProxy(port);
  const url = transport === 'ws' ? `ws://127.0.0.1:${port}${path}` : `${proxy.origin}${path}`;
  const target = { ...PATIENT, ...(headers && sending(headers)) };
  for (let round = 0; round < 2; round++) {
    const probed = await probe(url, target);
    expect(verdictOf(probed), JSON.stringify(probed.outcome)).toEqual(headers ? ACCEPTED : VERIFIED);
    const found = factsOf(probed);
    expect(found).toMatchObject(facts);
    expect(found.version).toMatch(/./);
    expect(found.tools?.names).toEqual(expect.arrayContaining(tools));
    expect(found.tools?.count).toBeGreaterThan(0);
    await proxy.quiet();
    expect([...proxy.sessions.values()], 'whether each session was ended').not.toContain(false);
  }
  if (transport === 'ws') return;
  const { names, ...identity } = await official(url, real);
  const found = factsOf(await probe(url, target));
  expect(found).toMatchObject({ ...identity, tools: { names: names.slice(0, 128), count: names.length } });
}

function examineAll(names: readonly string[], servers: () => Record<string, Real>): void {
  it.each(names)('%s', { timeout: 120_000 }, async name => {
    const real = servers()[name];
    if (!real) expect.fail(`${name} is not known`);
    await using server = await start(name, real.command, signal);
    await examine(server.port, real);
  });
}

describe('servers of npm', () => {
  let installed = '';
  beforeAll(async () => {
    installed = await installNpm(signal);
  });
  examineAll(Object.keys(npmServers('')), () => npmServers(installed));
});

const noPython = whyNoPython();
if (noPython) console.log(noPython);

describe.skipIf(noPython)('servers of PyPI', () => {
  let python = '';
  beforeAll(async () => {
    python = await installPython(signal);
  });
  examineAll(Object.keys(pythonServers('')), () => pythonServers(python));

  it('mcp-atlassian without credentials wants authorization', async () => {
    await using server = await start('mcp-atlassian', atlassian(python), signal);
    await using proxy = await startProxy(server.port);
    expect(verdictOf(await probe(proxy.url, PATIENT))).toEqual(UNAUTHORIZED);
    await proxy.quiet();
  });
});

describe('servers of the official SDK', () => {
  it.each(['modern', 'legacy', 'both'] as const)('%s', async era => {
    const server = await startMcp({ era, tools: ['b', 'a'] });
    try {
      const facts = { name: 'test-server', protocolVersion: era === 'legacy' ? '2025-11-25' : '2026-07-28' };
      await examine(server.port, { command: { command: '', args: () => [] }, facts, tools: ['a', 'b'] });
      expect(server.sessions()).toBe(0);
    } finally {
      await server.close();
    }
  });

  it('protected by OAuth: says how to authorize, takes a good token and no other', async () => {
    await using server = await startProtected('good');
    const bare = await probe(server.url);
    expect(verdictOf(bare)).toEqual(UNAUTHORIZED);
    expect(bare.outcome).toMatchObject({
      challenge: {
        resourceMetadataUrl: `${server.origin}/.well-known/oauth-protected-resource/mcp`,
        authorizationServers: [ISSUER],
        scopes: ['read'],
      },
    });
    expect(verdictOf(await probe(server.url, sending({ authorization: 'Bearer bad' })))).toEqual(REJECTED);
    const good = await probe(server.url, sending({ authorization: 'Bearer good' }));
    expect(verdictOf(good)).toEqual(ACCEPTED);
    expect(factsOf(good)).toMatchObject({ name: 'protected', tools: { names: ['secret'] } });
    expect([...server.sessions.values()]).toEqual([true]);
    await server.quiet();
  });
});
