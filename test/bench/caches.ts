/**
 * `npm run bench:caches [-- --objects 0,1000,10000,100000 --only remote --idle 60 --json]`: what a real operator process keeps of
 * so many connectors, and what it costs to learn of them, against a synthetic API server whose objects were recorded from a
 * real one.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { apiVersionOf, type KubeObject } from '../../src/api/meta.ts';
import { CHILD_TYPES, PODS } from '../../src/connector/children.ts';
import type { ControlPlane } from '../cluster/cluster.ts';
import { installCrd } from '../support/control-plane.setup.ts';
import { connect, until } from '../support/kube.ts';
import { usageOf } from './scale/measure.ts';
import { withCluster } from './scale/run.ts';
import { startHelper, startOurs } from './scale/subjects.ts';
import { NAME, type Order, UID, VERSION } from './scale/synthetic-api.ts';
import { NAMESPACE, type OwnWorkload, ownWorkloads } from './scale/workloads.ts';

const EDITS = 1_000;
/** Beyond what the chart gives the operator, its heap gets so much for each object that it is told of. */
const HEAP = { leastMib: 154, bytesEach: 6_000 };
/** Until the heap has shrunk to what it needs. */
const REST_MS = 10_000;

const { values: flags } = parseArgs({
  options: {
    objects: { type: 'string', default: '0,1000,10000,100000' },
    only: { type: 'string', default: 'remote,hosted' },
    idle: { type: 'string', default: '60' },
    json: { type: 'boolean', default: false },
  },
});
const abort = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => abort.abort(new Error(`ended by ${name}`)));

/** One of each object that there is of a connector that has settled, as a watch tells them. */
async function recordObjects(cluster: ControlPlane, workload: OwnWorkload): Promise<Order['templates']> {
  await installCrd(cluster.kubeconfig);
  const api = connect(cluster.kubeconfig);
  await using _ = { [Symbol.asyncDispose]: () => api.close() };
  await using _operator = await startOurs(cluster, workload.policy);
  const object = { ...workload.object(NAME), metadata: { name: NAME, namespace: NAMESPACE } };
  const { metadata } = await api.client.create<PersonalConnector>(PERSONAL_CONNECTORS, object as never, api.signal);
  await until<PersonalConnector>(
    api,
    PERSONAL_CONNECTORS,
    { namespace: NAMESPACE },
    NAME,
    found => found !== undefined && workload.isAtRest(found),
  );
  const templates: Order['templates'] = {};
  for (const type of [PERSONAL_CONNECTORS, ...CHILD_TYPES, PODS]) {
    const { items } = await api.client.list<KubeObject>(type, { namespace: NAMESPACE }, api.signal);
    for (const item of items) {
      // Items of a list lack their type.
      templates[type.plural] = JSON.stringify({ ...item, apiVersion: apiVersionOf(type), kind: type.kind })
        .replaceAll(metadata.uid, UID)
        .replaceAll(/"resourceVersion":"\d+"/g, `"resourceVersion":"${VERSION}"`);
    }
  }
  return templates;
}

interface Row {
  connectors: number;
  /** From the start of the process to its first reconcile, and until all were looked at. */
  filledSeconds: number;
  idleSeconds: number;
  cpuSeconds: number;
  rssMib: number;
  peakMib: number;
  bytesEach: number;
  /** At rest, in percent of a core. */
  restPercent: number;
  msPerEdit: number;
}

async function measure({ policy }: OwnWorkload, order: Order, empty: number | undefined): Promise<Row> {
  const dir = mkdtempSync(join(tmpdir(), 'pco-caches-'));
  await using _ = { [Symbol.asyncDispose]: async () => rmSync(dir, { recursive: true, force: true }) };
  await using api = startHelper('synthetic-api.ts');
  const answers = api.lines[Symbol.asyncIterator]();
  api.stdin.write(`${JSON.stringify(order)}\n`);
  const kubeconfig = join(dir, 'kubeconfig');
  writeFileSync(kubeconfig, kubeconfigOf((await answers.next()).value ?? ''));
  const objects = order.connectors * Object.keys(order.templates).length;
  const heapMib = Math.round(Math.max(HEAP.leastMib, (objects * HEAP.bytesEach) / 2 ** 20));
  {
    // What is told of them depends on their UIDs: from here on nothing is to be written.
    await using operator = await startOurs({ kubeconfig }, policy, { heapMib });
    await operator.idle();
  }
  await using operator = await startOurs({ kubeconfig }, policy, { heapMib });
  const began = performance.now();
  await operator.idle();
  const idleSeconds = (operator.startMs + performance.now() - began) / 1000;
  await sleep(REST_MS);
  const filled = usageOf(operator.pid);
  const seconds = Number(flags.idle);
  await sleep(seconds * 1000, undefined, { signal: abort.signal });
  const rested = usageOf(operator.pid);
  const edits = Math.min(EDITS, order.connectors);
  if (edits > 0) {
    api.stdin.write(`edit ${edits}\n`);
    await answers.next();
  }
  const edited = usageOf(operator.pid);
  return {
    connectors: order.connectors,
    filledSeconds: operator.startMs / 1000,
    idleSeconds,
    cpuSeconds: filled.cpuSeconds,
    rssMib: rested.rssMib,
    peakMib: filled.peakRssMib,
    bytesEach: empty === undefined ? Number.NaN : ((rested.rssMib - empty) * 2 ** 20) / order.connectors,
    restPercent: ((rested.cpuSeconds - filled.cpuSeconds) / seconds) * 100,
    msPerEdit: ((edited.cpuSeconds - rested.cpuSeconds) / edits) * 1000,
  };
}

const kubeconfigOf = (port: string): string =>
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    // Plain HTTP is taken only from who says so.
    clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'u', user: { token: 't' } }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
    'current-context': 'x',
  });

const rows: (Row & { workload: string })[] = [];
for (const workload of ownWorkloads(0).filter(({ name }) => flags.only.split(',').includes(name))) {
  const templates = await withCluster(abort.signal, cluster => recordObjects(cluster, workload));
  let empty: number | undefined;
  for (const connectors of flags.objects.split(',').map(Number)) {
    const row = await measure(workload, { connectors, templates }, empty);
    if (connectors === 0) empty = row.rssMib;
    rows.push({ workload: workload.name, ...row });
    console.error(`${workload.name}, ${connectors} connectors: ${row.rssMib.toFixed(0)} MiB`);
  }
}
if (flags.json) console.log(JSON.stringify(rows, null, 2));
else
  console.table(
    rows.map(row => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, rounded(value)]))),
  );

function rounded(value: number | string): number | string {
  return typeof value === 'string' ? value : Number.isNaN(value) ? '' : Number(value.toPrecision(4));
}
