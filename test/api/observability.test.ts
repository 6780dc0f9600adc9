/** Metrics, dashboard and alerts together: a real Prometheus scrapes a real operator, and every query is asked. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { documentedMetrics } from '../../scripts/metrics.ts';
import type { Operator } from '../../src/main.ts';
import { operatorRequests } from '../support/audit.ts';
import { createSandbox, type Sandbox, SECRETS } from '../support/kube.ts';
import { ALERTS_FILE, dashboardQueries, readAlerts } from '../support/observability.ts';
import { runOperator } from '../support/operator.ts';
import { type Prometheus, startPrometheus } from '../support/prometheus.ts';
import { closedPort, startMcp, type TestServer } from '../support/servers.ts';

const SECRET = 'Bearer hunter2-of-the-test';
let cluster: Sandbox;
let operator: Operator;
let prometheus: Prometheus;
const servers: TestServer[] = [];

const scrape = async ({ port }: Operator): Promise<string> =>
  (await fetch(`http://127.0.0.1:${port}/metrics`, { signal: AbortSignal.timeout(10_000) })).text();

/** The samples of one metric, added up. */
const sumOf = (page: string, metric: string): number =>
  [...page.matchAll(new RegExp(`^${metric}(?:\\{.*\\})? (.*)$`, 'gm'))].reduce((sum, [, n]) => sum + Number(n), 0);

beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'));
  operator = await runOperator(cluster, {
    catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0' } },
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
    readSecrets: true,
    probe: { intervalSeconds: 0.2, perHostPerSecond: 1000 },
  });
  prometheus = await startPrometheus({
    target: `127.0.0.1:${operator.port}`,
    labels: { job: 'operator', namespace: cluster.namespace },
    rules: ALERTS_FILE,
  });
  const open = await startMcp();
  const closed = await startMcp({ authorization: SECRET });
  servers.push(open, closed);
  const custom = { name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl: open.url } as const;
  const headers = (name: string) => ({
    headers: [{ name: 'Authorization', valueFrom: { secretKeyRef: { name, key: 'authorization' } } }],
  });
  await cluster.apply(SECRETS, {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name: 'vault-entry' },
    stringData: { authorization: SECRET },
  } as never);
  await cluster.applyConnector('healthy', custom);
  await cluster.applyConnector('official', { ...custom, type: 'official', connectorId: 'github' });
  await cluster.applyConnector('hosted', {
    name: 'Jira',
    type: 'aitronos_built',
    connectorId: 'jira',
    serverUrl: `http://hosted:${open.port}/mcp`,
  });
  await cluster.applyConnector('locked', { ...custom, serverUrl: closed.url });
  await cluster.applyConnector('let-in', { ...custom, serverUrl: closed.url, probe: headers('vault-entry') });
  await cluster.applyConnector('no-secret', { ...custom, serverUrl: closed.url, probe: headers('missing') });
  await cluster.applyConnector('down', { ...custom, serverUrl: `http://127.0.0.1:${await closedPort()}/mcp` });
  await cluster.untilReady('healthy', 'True', 'Ready');
  await cluster.untilReady('official', 'True', 'Ready');
  await cluster.untilReady('hosted', 'True', 'Ready');
  await cluster.untilReady('locked', 'True', 'AuthorizationRequired');
  await cluster.untilReady('let-in', 'True', 'Ready');
  await cluster.untilReady('no-secret', 'False', 'SecretNotFound');
  await cluster.untilReady('down', 'False', 'ConnectionRefused');
});
afterAll(async () => {
  await prometheus?.close();
  await operator?.stop();
  await cluster?.dispose();
  await Promise.all(servers.map(server => server.close()));
});

describe('the metrics', () => {
  it('are those of their page, all of them and no other', async () => {
    const served = [...(await scrape(operator)).matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [
      name,
      type,
    ]);
    expect(served).toEqual(documentedMetrics().map(({ name, type }) => [name, type]));
    const page = readFileSync('docs/reference/metrics.md', 'utf8');
    for (const [name, type] of served) expect(page).toContain(`| \`${name}\` | ${type} |`);
  });

  it('count the connectors by their state', async () => {
    const states = [...(await scrape(operator)).matchAll(/^personal_connectors\{(.*)\} (.*)$/gm)];
    expect(states.map(([, labels, count]) => `${labels?.replaceAll(/\w+=|"/g, '')} ${count}`).sort()).toEqual([
      'aitronos_built,True,Ready 1',
      'custom,False,ConnectionRefused 1',
      'custom,False,SecretNotFound 1',
      'custom,True,AuthorizationRequired 1',
      'custom,True,Ready 2',
      'official,True,Ready 1',
    ]);
  });

  it('hold no secret, nor name or address of anything', async () => {
    const page = await scrape(operator);
    const names = [
      'healthy',
      'hosted',
      'let-in',
      'no-secret',
      'vault-entry',
      'jira',
      'github',
      'custom_mcp',
      'test-server',
    ];
    const texts = [
      'hunter2',
      'Bearer',
      '://',
      '127.0.0.1',
      cluster.namespace,
      ...servers.map(({ port }) => `:${port}`),
    ];
    expect([...names, ...texts].filter(text => page.includes(text))).toEqual([]);
  });
});

describe('a scrape', () => {
  it('asks nothing of the API server and writes nothing, a hundred times over', async () => {
    const sandbox = await createSandbox(inject('kubeconfig'));
    const policy = { addressPolicy: { allowCidrs: ['127.0.0.0/8'] }, probe: { intervalSeconds: 3600 } };
    const resting = await runOperator(sandbox, policy);
    try {
      const server = await startMcp();
      servers.push(server);
      await sandbox.applyConnector('one', {
        name: 'One',
        type: 'custom',
        connectorId: 'custom_mcp',
        serverUrl: server.url,
      });
      await sandbox.untilReady('one', 'True', 'Ready');
      // The Event comes after the status, and the status comes back by the watch.
      const requests = async (): Promise<number> => sumOf(await scrape(resting), 'rest_client_requests_total');
      await expect.poll(async () => sumOf(await scrape(resting), 'controller_runtime_active_workers')).toBe(0);
      const audited = (): number => operatorRequests(inject('auditLog'), sandbox.namespace).length;
      await expect.poll(() => operatorRequests(inject('auditLog'), sandbox.namespace).at(-1)?.resource).toBe('events');
      const before = [await requests(), audited()];
      expect(before[0]).toBeGreaterThan(5);
      for (let time = 0; time < 100; time += 1) await scrape(resting);
      expect([await requests(), audited()]).toEqual(before);
    } finally {
      await resting.stop();
      await sandbox.dispose();
    }
  });
});

/** Queries are asked until there is data: some are rates, which need two scrapes. */
const SOON = { timeout: 30_000, interval: 250 };

describe('the dashboard', () => {
  it.each(dashboardQueries('10s'))('has data in $title', async ({ expr }) => {
    await expect
      .poll(async () => (await prometheus.query(expr)).filter(({ value }) => Number.isFinite(value)).length, SOON)
      .toBeGreaterThan(0);
  });

  it('shows the connectors as they are', async () => {
    const shown = async (title: string) =>
      Promise.all(
        dashboardQueries('10s')
          .filter(query => query.title.startsWith(`${title} (`))
          .map(async ({ expr }) => (await prometheus.query(expr)).map(({ value }) => value)),
      );
    expect(await shown('Connectors')).toEqual([[7]]);
    expect(await shown('Ready')).toEqual([[5 / 7]]);
    expect(await shown('Not Ready')).toEqual([[2]]);
    expect(await shown('Under way')).toEqual([[0]]);
    expect(await shown('Leaders')).toEqual([[1]]);
  });

  it('finds its namespaces and jobs', async () => {
    const [found] = await prometheus.query('personal_connector_build_info');
    expect(found?.metric).toMatchObject({ namespace: cluster.namespace, job: 'operator' });
  });
});

describe('the alerts', () => {
  it('are taken by Prometheus, and evaluated without a fault', async () => {
    const names = readAlerts().map(({ alert }) => alert);
    await expect
      .poll(async () => (await prometheus.rules()).map(({ name, health }) => `${name} ${health}`), SOON)
      .toEqual(names.map(name => `${name} ok`));
    expect((await prometheus.rules()).filter(({ lastError }) => lastError)).toEqual([]);
  });

  // What is compared gives figures, and so does what it is compared with unless it is a number: labels that do not meet would give nothing.
  it.each(readAlerts())('$alert compares figures that there are', async ({ expr }) => {
    const parts = expr.split(/^or$/m).filter(part => !part.trim().startsWith('absent('));
    expect(parts).toHaveLength(1);
    const sides = (parts[0] ?? '').split(/(?:==|>)/);
    expect(sides).toHaveLength(2);
    for (const side of sides.filter(text => Number.isNaN(Number(text)))) {
      await expect.poll(async () => (await prometheus.query(side)).length, SOON).toBeGreaterThan(0);
    }
  });

  it('are all quiet, but for the one about connectors, of which a third of a type is not Ready', async () => {
    const states = async () => (await prometheus.rules()).filter(({ state }) => state !== 'inactive');
    await expect
      .poll(async () => (await states()).map(({ name, state }) => `${name} ${state}`), SOON)
      .toEqual(['PersonalConnectorsNotReady pending']);
  });
});
