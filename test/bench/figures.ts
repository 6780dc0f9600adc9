/** `npm run figures [-- --json]`: what the operator costs on a real node, installed as users install it. */
import { statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { PODS, type Pod } from '../../src/connector/children.ts';
import { type Demo, OPERATOR_NAMESPACE, startDemo } from '../demo/demo.ts';
import { readSamples, type Sample } from '../demo/samples.ts';
import { operatorRequests } from '../support/audit.ts';
import { connect, createSandbox, readyOf, type Sandbox, until } from '../support/kube.ts';

/** How long nothing may be written once all is settled. */
const QUIET_MS = 120_000;
const SETTLE_MS = 5_000;

const { values: flags } = parseArgs({ options: { json: { type: 'boolean', default: false } } });
const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => abort.abort(new Error(signal)));

const rows: [what: string, figure: string | number, unit: string][] = [];
const add = (what: string, figure: string | number, unit: string): void => {
  rows.push([what, figure, unit]);
  if (!flags.json) process.stdout.write(`${what.padEnd(58)}${String(figure).padStart(10)} ${unit}\n`);
};

const demo = await startDemo({
  signal: abort.signal,
  progress: line => process.stderr.write(`${line}\n`),
  // So often that the quiet two minutes hold some hundred probes.
  probeIntervalSeconds: 5,
});
try {
  await measure(demo);
} finally {
  await demo.stop();
}
if (flags.json)
  process.stdout.write(
    `${JSON.stringify(Object.fromEntries(rows.map(([what, figure]) => [what, figure])), null, 2)}\n`,
  );

async function measure({ node, images, kubectl }: Demo): Promise<void> {
  add('image, uncompressed', Math.round(statSync(images.operator.archive).size / 1e6), 'MB');
  add(
    'of it the operator',
    +(statSync(join(dirname(dirname(import.meta.dirname)), 'dist', 'operator.mjs')).size / 1e6).toFixed(1),
    'MB',
  );
  const api = connect(node.kubeconfig);
  const pod = await until<Pod>(
    api,
    PODS,
    { namespace: OPERATOR_NAMESPACE },
    (await podName(kubectl)).trim(),
    found => found !== undefined,
  );
  const log = (await kubectl('-n', OPERATOR_NAMESPACE, 'logs', pod.metadata.name))
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line));
  add('process start → reconciling', log.find(({ sinceStartMs }) => sinceStartMs)?.sinceStartMs ?? 'not logged', 'ms');
  const metrics = () =>
    kubectl('get', '--raw', `/api/v1/namespaces/${OPERATOR_NAMESPACE}/pods/${pod.metadata.name}:8080/proxy/metrics`);
  const figure = async (name: string): Promise<number> =>
    Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(await metrics())?.[1] ?? Number.NaN);
  add('RSS, idle', Math.round((await figure('process_resident_memory_bytes')) / 2 ** 20), 'MiB');

  const cluster = await createSandbox(node.kubeconfig, { 'pod-security.kubernetes.io/enforce': 'restricted' });
  const samples = readSamples(dirname(dirname(import.meta.dirname)), false);
  for (const [what, name] of [
    ['custom', 'everything'],
    ['hosted', 'jira'],
  ] as const) {
    const sample = samples.find(({ connector }) => connector.metadata.name === name);
    if (!sample) throw new Error(`no sample ${name}`);
    add(`apply → Ready, ${what}`, +(await applyUntilReady(cluster, sample)).toFixed(1), 's');
    const made = operatorRequests(node.auditLog, cluster.namespace).filter(
      ({ verb }) => verb === 'patch' || verb === 'create',
    );
    const statuses = made.filter(({ name: of, subresource }) => of === name && subresource === 'status').length;
    const children = made.filter(({ name: of, subresource }) => of === name && !subresource).length;
    add(`API writes, ${what}: children + statuses`, `${children} + ${statuses}`, '');
  }
  for (const name of ['jira', 'clickup', 'teams'] as const) {
    const sample = samples.find(({ connector }) => connector.metadata.name === name);
    if (!sample) throw new Error(`no sample ${name}`);
    // There is no registry: a cold image is one that is brought to the node first.
    await removeConnector(cluster, name);
    await node.exec('ctr', ['-n', 'k8s.io', 'images', 'rm', images[name].image]);
    const start = performance.now();
    await node.loadImage(images[name].archive);
    const loaded = performance.now();
    await applyUntilReady(cluster, sample);
    const ready = performance.now();
    add(`cold image → Ready, ${name}`, +((ready - start) / 1000).toFixed(1), 's');
    add('  of it the image', +((loaded - start) / 1000).toFixed(1), 's');
    await removeConnector(cluster, name);
    add(`warm image → Ready, ${name}`, +(await applyUntilReady(cluster, sample)).toFixed(1), 's');
  }
  for (const sample of samples) await applyUntilReady(cluster, sample);
  const writes = (): string[] =>
    operatorRequests(node.auditLog, cluster.namespace)
      .filter(({ verb }) => verb === 'patch' || verb === 'create' || verb === 'delete')
      .map(({ verb, resource, subresource, name }) => `${verb} ${resource}/${subresource ?? ''} ${name}`);
  // The Event of the last change is written after the status that showed it.
  await sleep(SETTLE_MS, undefined, { signal: abort.signal });
  const before = writes().length;
  const probes = await probesSoFar(metrics);
  await sleep(QUIET_MS, undefined, { signal: abort.signal });
  const late = writes().slice(before);
  add('API writes in the 2 minutes after settling', late.length, '');
  for (const write of late)
    process.stderr.write(`  ${write}
`);
  add('probes in that time', (await probesSoFar(metrics)) - probes, '');
  add('RSS with the samples', Math.round((await figure('process_resident_memory_bytes')) / 2 ** 20), 'MiB');
  await cluster.dispose();
  await api.close();
}

/** Waits until its Pods are gone, too. */
async function removeConnector(cluster: Sandbox, name: string): Promise<void> {
  const isThere = (await cluster.list(PERSONAL_CONNECTORS)).some(({ metadata }) => metadata.name === name);
  if (!isThere) return;
  const pods = (await cluster.list<Pod>(PODS)).filter(({ metadata }) => metadata.name.startsWith(`${name}-`));
  await cluster.remove(PERSONAL_CONNECTORS, name);
  for (const { metadata } of pods) await cluster.until(PODS, metadata.name, found => found === undefined);
}

async function podName(kubectl: Demo['kubectl']): Promise<string> {
  return kubectl('-n', OPERATOR_NAMESPACE, 'get', 'pods', '-o', 'jsonpath={.items[0].metadata.name}');
}

/** Seconds from the apply of a sample to the state that it expects. */
async function applyUntilReady(cluster: Sandbox, { connector, objects, expected }: Sample): Promise<number> {
  for (const object of objects) {
    if (object.kind === 'Secret')
      await cluster.apply({ group: '', version: 'v1', plural: 'secrets', kind: 'Secret' }, object as never);
  }
  const start = performance.now();
  await cluster.applyConnector(connector.metadata.name, connector.spec);
  await cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, connector.metadata.name, found => {
    const ready = readyOf(found);
    return ready?.status === expected.status && ready.reason === expected.reason;
  });
  return (performance.now() - start) / 1000;
}

async function probesSoFar(metrics: () => Promise<string>): Promise<number> {
  return [...(await metrics()).matchAll(/^personal_connector_probes_total\{.*\} (\d+)$/gm)].reduce(
    (sum, [, count]) => sum + Number(count),
    0,
  );
}
