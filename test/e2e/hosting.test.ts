/** Hosted servers as their clients have them: the official SDK inside the cluster, while Pods come and go. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import { PODS, type Pod } from '../../src/connector/children.ts';
import { createSandbox, readyOf, type Sandbox, SECRETS } from '../support/kube.ts';
import { installPython, whyNoPython } from '../zoo/real.ts';
import type { Used } from './client.ts';
import { FRESH, KEPT, pollWhile, resultOf, SESSIONS, startClient, urlOf } from './polling.ts';

const PYTHON_CLIENT = join(import.meta.dirname, 'client.py');
const noPython = whyNoPython();
if (noPython) console.log(noPython);
const RESTRICTED = { 'pod-security.kubernetes.io/enforce': 'restricted' };
const SERVER = 'node_modules/@modelcontextprotocol/server-everything/dist/index.js';

/** Kills the server of Teams, by what its bridge was told to start; fails if there is none. */
const KILL_TEAMS = `
  const { readdirSync, readFileSync } = require('node:fs');
  const isIt = pid => { try { return readFileSync('/proc/' + pid + '/cmdline', 'utf8').startsWith('node\\0/app/start.mjs'); } catch { return false; } };
  const found = readdirSync('/proc').filter(name => /^\\d+$/.test(name)).filter(isIt);
  for (const pid of found) process.kill(Number(pid), 'SIGKILL');
  process.exit(found.length > 0 ? 0 : 1);
`;

describe.skipIf(inject('noNode'))('a hosted server', () => {
  let cluster: Sandbox;

  beforeAll(async () => {
    cluster = await createSandbox(inject('kubeconfig'), RESTRICTED);
    await cluster.apply(SECRETS, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'credentials', namespace: cluster.namespace },
      stringData: {
        JIRA_URL: 'https://jira.example.com',
        JIRA_PERSONAL_TOKEN: 'replace-me',
        TEAMS_ACCESS_TOKEN: 'replace-me',
        CLICKUP_API_TOKEN: 'replace-me',
      },
    });
  });
  afterAll(() => cluster?.dispose());

  const stdio = (more: Partial<PersonalConnectorSpec['hosting']> = {}): PersonalConnectorSpec => ({
    name: 'Everything',
    type: 'aitronos_built',
    connectorId: 'everything',
    serverType: 'stdio',
    hosting: { image: inject('everythingImage'), command: ['node', SERVER, 'stdio'], ...more },
  });
  /** One of the catalog, with another round of variables. */
  const catalogued =
    (connectorId: string) =>
    (more: Partial<PersonalConnectorSpec['hosting']> = {}): PersonalConnectorSpec => ({
      name: connectorId,
      type: 'aitronos_built',
      connectorId,
      hosting: { envFrom: [{ secretRef: { name: 'credentials' } }], ...more },
    });

  it('that speaks stdio alone is used over HTTP, in a Pod that meets the standard restricted', async () => {
    await cluster.applyConnector('bridged', stdio());
    const connector = await cluster.untilReady('bridged', 'True', 'Ready');
    expect(connector.status).toMatchObject({
      serverType: 'http',
      serverUrl: `http://bridged.${cluster.namespace}.svc.cluster.local:8000/mcp`,
      server: { name: 'mcp-servers/everything' },
    });
    const used = await resultOf<Record<'auto' | 'legacy', Used>>(startClient('use', await urlOf(cluster, connector)));
    expect(used.legacy.tools).toContain('echo');
    expect(used.auto.tools).toEqual(used.legacy.tools);
  });

  it.skipIf(noPython).each([
    ['jira', /Atlassian/, []],
    ['clickup', /^Demo$/, ['get_task']],
    ['teams', /teams/, ['list_teams']],
  ])(
    'of the catalog, %s, is used by the official SDKs for TypeScript and for Python',
    async (connectorId, server, tools) => {
      const python = await installPython(cluster.signal);
      await cluster.applyConnector(connectorId, catalogued(connectorId)());
      const url = await urlOf(cluster, await cluster.untilReady(connectorId, 'True', 'Ready'));
      const [program, ...args] = inject('insideCluster');
      const started = spawn(program, [...args, python, PYTHON_CLIENT, url], { stdio: ['pipe', 'pipe', 'inherit'] });
      const [used, byPython] = await Promise.all([
        resultOf<Record<'auto' | 'legacy', Used>>(startClient('use', url)),
        resultOf<Used>(started),
      ]);
      for (const found of [used.auto, used.legacy, byPython]) {
        expect(found.server).toMatch(server);
        expect(found.tools).toEqual(expect.arrayContaining(tools));
        expect(found.tools).toEqual(byPython.tools);
      }
    },
  );

  it('is reached at the Service that its URL names, as in http://clickup-mcp:8000', async () => {
    await cluster.applyConnector('seed', { ...catalogued('clickup')(), serverUrl: 'http://clickup-mcp:8000' });
    const { status } = await cluster.untilReady('seed', 'True', 'Ready');
    expect(status).toMatchObject({
      serverUrl: `http://clickup-mcp.${cluster.namespace}.svc.cluster.local:8000/mcp`,
      hosting: { service: 'clickup-mcp' },
      server: { tools: ['get_task'] },
    });
  });

  it('that speaks stdio needs nothing of its image but itself', async () => {
    const answer =
      '{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"static","version":"1.0.0"}}';
    const script = `while read -r line; do case "$line" in *'"initialize"'*) id="\${line#*'"id":'}"; printf '{"jsonrpc":"2.0","id":%s,"result":${answer}}\\n' "\${id%%,*}";; esac; done`;
    await cluster.applyConnector(
      'static',
      stdio({ image: inject('staticImage'), command: ['/bin/busybox', 'sh', '-c', script] }),
    );
    const { status } = await cluster.untilReady('static', 'True', 'Ready');
    expect(status?.server).toMatchObject({ name: 'static', version: '1.0.0' });
  });

  it('that speaks stdio and cannot start says why, in its own words', async () => {
    const command = ['node', '-e', 'console.error("no licence for this host"); process.exit(4)'];
    await cluster.applyConnector('speechless', stdio({ command }));
    const failed = await cluster.untilReady('speechless', 'False', 'CrashLooping');
    expect(readyOf(failed)?.message).toContain(
      'the server is of no use: it ended with exit code 4; it said last: no licence for this host',
    );
    await cluster.applyConnector('speechless', stdio());
    await cluster.untilReady('speechless', 'True', 'Ready');
  });

  it('whose replacement fails goes on serving, and says which Pod fails and why', async () => {
    await cluster.applyConnector('failing', catalogued('teams')());
    const before = await cluster.untilReady('failing', 'True', 'Ready');
    const polled = await pollWhile(await urlOf(cluster, before), async () => {
      const command = ['node', '-e', 'console.error("no such tenant"); process.exit(7)'];
      const { hosting } = catalogued('teams')();
      const bad = { ...stdio({ ...hosting, command }), connectorId: 'teams' };
      await cluster.applyConnector('failing', bad);
      const failed = await cluster.untilReady('failing', 'False', 'CrashLooping');
      expect(readyOf(failed)?.message).toMatch(/^Pod failing-\S+: .* exit code 1 .*no such tenant/);
      await cluster.applyConnector('failing', catalogued('teams')());
      await cluster.untilReady('failing', 'True', 'Ready');
    });
    expect(polled.failed).toEqual([]);
  });

  it('that needs more memory than it has says so', async () => {
    const greedy = ['node', '-e', 'const all = []; for (;;) all.push(Buffer.alloc(2 ** 24, 1))'];
    const resources = { limits: { memory: '96Mi' } };
    await cluster.applyConnector('greedy', {
      name: 'Greedy',
      type: 'aitronos_built',
      connectorId: 'everything',
      hosting: { image: inject('everythingImage'), command: greedy, resources },
    });
    const failed = await cluster.untilReady('greedy', 'False', 'CrashLooping');
    expect(readyOf(failed)?.message).toContain('it needs more memory than spec.hosting.resources.limits gives it');
  });

  it('whose process and Pod are killed while it is used is there again', async () => {
    await cluster.applyConnector('killed', catalogued('teams')());
    const connector = await cluster.untilReady('killed', 'True', 'Ready');
    const url = await urlOf(cluster, connector);
    const podOf = async (): Promise<Pod | undefined> =>
      (await cluster.list<Pod>(PODS)).find(
        ({ metadata }) => metadata.name.startsWith('killed-') && !metadata.deletionTimestamp,
      );
    const first = await podOf();
    const used = async (): Promise<string[]> =>
      (await resultOf<Record<'legacy', Used>>(startClient('use', url))).legacy.tools;
    const [program, ...args] = inject('insideCluster');
    const killer = spawn(program, [...args, process.execPath, '-e', KILL_TEAMS], { stdio: 'inherit' });
    expect(await once(killer, 'close')).toEqual([0, null]);
    // Its bridge starts another one: the container goes on.
    const tools = async (): Promise<string[]> => await used().catch(() => tools());
    expect(await tools()).toContain('list_teams');
    expect((await podOf())?.status.containerStatuses?.[0]?.restartCount).toBe(0);
    await cluster.remove(PODS, first?.metadata.name ?? '');
    await cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, 'killed', found => readyOf(found)?.status !== 'True');
    await cluster.untilReady('killed', 'True', 'Ready');
    expect((await podOf())?.metadata.uid).not.toBe(first?.metadata.uid);
    expect(await used()).toContain('list_teams');
  });

  describe.each([
    ['http', catalogued('jira'), FRESH],
    ['stdio, with a process for each session', stdio, SESSIONS],
    ['stdio, with one process for all', catalogued('teams'), KEPT],
    ['stdio, with some processes for all', catalogued('clickup'), KEPT],
  ])('that speaks %s', (what, spec, how) => {
    it('is replaced without a gap', async () => {
      const name = `gapless-${what.length}`;
      await cluster.applyConnector(name, spec({ env: [{ name: 'ROUND', value: '0' }] }));
      const url = await urlOf(cluster, await cluster.untilReady(name, 'True', 'Ready'));
      const polled = await pollWhile(
        url,
        async () => {
          for (const round of ['1', '2']) {
            await cluster.applyConnector(name, spec({ env: [{ name: 'ROUND', value: round }] }));
            await cluster.untilReady(name, 'True', 'Ready');
            // The old Pod is on its way out for some time.
            const old = (pod: Pod): boolean => pod.metadata.deletionTimestamp !== undefined;
            for (const pod of (await cluster.list<Pod>(PODS)).filter(old))
              await cluster.until(PODS, pod.metadata.name, found => found === undefined);
          }
        },
        how,
      );
      expect(polled.failed).toEqual([]);
      // A session that is open as its Pod goes is over; each of the rollouts may meet one, or one more that it just missed.
      expect(polled.renewed).toBeLessThanOrEqual(how === SESSIONS ? 4 : 0);
      expect(polled.asked).toBeGreaterThan(10);
    });
  });
});
