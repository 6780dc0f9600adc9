/**
 * `npm run bench [-- --connectors 100,1000 --rounds 2 --only remote --idle 120 --json]`: the operator beside the floor, which
 * makes the same writes over as many connections and does nothing else. Each run has a control plane of its own, and they
 * take turns. What was asked of the API server is told by its audit log, what a process used by the kernel.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { PersonalConnector } from '../../src/api/connector.ts';
import { type ControlPlane, startControlPlane } from '../cluster/cluster.ts';
import { installCrd } from '../support/control-plane.setup.ts';
import { type BareClient, bareClient, forEach } from './scale/client.ts';
import type { Recorded, Task } from './scale/floor.ts';
import { percentile, requestsOf, resetPeak, usageOf } from './scale/measure.ts';
import { record } from './scale/record.ts';
import { CONNECTIONS, type Subject, startFloor, startOurs } from './scale/subjects.ts';
import { NAMESPACE, WORKLOADS, type Workload } from './scale/workloads.ts';

const API = `/apis/connectors.aitronos.com/v1/namespaces/${NAMESPACE}/personalconnectors`;
/** Edits one after another, each when the one before has settled. */
const EDITS_AT_REST = 100;

const { values: flags } = parseArgs({
  options: {
    connectors: { type: 'string', default: '100,1000' },
    rounds: { type: 'string', default: '1' },
    only: { type: 'string' },
    /** Seconds at rest that are measured. */
    idle: { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
  },
});

/** One thing measured of one subject. What it has no figure for is NaN. */
export interface Row {
  workload: string;
  subject: string;
  connectors: number;
  /** From the first request of the client to the last status. */
  seconds: number;
  /** From the answer that a client got to the status that it saw. */
  p50Ms: number;
  p99Ms: number;
  cpuSeconds: number;
  peakRssMib: number;
  lagP99Ms: number;
  requests: Record<string, number>;
}

const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => abort.abort(new Error(`ended by ${signal}`)));
const progress = (line: string): void => console.error(line);

async function withCluster<T>(task: (cluster: ControlPlane, client: BareClient) => Promise<T>): Promise<T> {
  await using cluster = await startControlPlane({ kwok: true, signal: abort.signal });
  await installCrd(cluster.kubeconfig);
  await using client = bareClient(cluster, CONNECTIONS);
  await client.call('POST', '/api/v1/namespaces', { metadata: { name: NAMESPACE } });
  return await task(cluster, client);
}

/** Tells when connectors are as they should be, as a client sees it that watches them. */
async function observe(client: BareClient, workload: Workload) {
  const list = await client.call<{ metadata: { resourceVersion: string } }>('GET', `${API}?limit=1`);
  /** Name and generation → when it was first seen to be settled. */
  const settledAt = new Map<string, number>();
  let wanted = Number.NaN;
  let reached = Promise.withResolvers<void>();
  client.watch<PersonalConnector>(API, list.metadata.resourceVersion, (type, object) => {
    if (type === 'BOOKMARK' || !workload.isSettled(object)) return;
    const key = `${object.metadata.name} ${object.metadata.generation}`;
    if (settledAt.has(key)) return;
    settledAt.set(key, performance.now());
    if (settledAt.size === wanted) reached.resolve();
  });
  return {
    settledAt,
    /** Resolves when so many more have settled. */
    more(count: number): Promise<void> {
      reached = Promise.withResolvers();
      wanted = settledAt.size + count;
      return reached.promise;
    },
  };
}

interface Running {
  cluster: ControlPlane;
  subject: Subject;
  name: string;
  connectors: number;
  view: Awaited<ReturnType<typeof observe>>;
}

/** Measures what a subject uses while a task runs. */
async function using(
  workload: string,
  { cluster, subject, name, connectors, view }: Running,
  task: (askedAt: Map<string, number>) => Promise<void>,
): Promise<Row> {
  resetPeak(subject.pid);
  const before = usageOf(subject.pid);
  const requestsBefore = requestsOf(cluster.auditLog, subject.userAgent);
  const askedAt = new Map<string, number>();
  const start = performance.now();
  await task(askedAt);
  const seconds = (performance.now() - start) / 1000;
  const after = usageOf(subject.pid);
  const figures = await subject.figures?.();
  const took = [...askedAt].map(([key, at]) => Math.max(0, (view.settledAt.get(key) ?? Number.NaN) - at));
  const requests = requestsOf(cluster.auditLog, subject.userAgent);
  for (const [what, count] of requestsBefore) requests.set(what, (requests.get(what) ?? 0) - count);
  return {
    workload,
    subject: name,
    connectors,
    seconds,
    p50Ms: percentile(took, 0.5),
    p99Ms: percentile(took, 0.99),
    cpuSeconds: after.cpuSeconds - before.cpuSeconds,
    peakRssMib: after.peakRssMib,
    lagP99Ms: (figures?.get('nodejs_eventloop_lag_p99_seconds') ?? Number.NaN) * 1000,
    requests: Object.fromEntries([...requests].filter(([, count]) => count > 0).sort()),
  };
}

async function measure(
  workload: Workload,
  name: 'ours' | 'floor',
  connectors: number,
  recorded: Recorded,
): Promise<Row[]> {
  return await withCluster(async (cluster, client) => {
    const start = (): Promise<Subject> =>
      name === 'ours' ? startOurs(cluster, workload.policy) : startFloor(cluster, recorded);
    const names = Array.from({ length: connectors }, (_, index) => `c-${index}`);
    const view = await observe(client, workload);
    const rows: Row[] = [];
    await using subject = await start();
    const running: Running = { cluster, subject, name, connectors, view };

    /** Asks for something of a connector, and notes when that was answered. */
    const ask = async (
      askedAt: Map<string, number>,
      done: Task['done'],
      request: Promise<PersonalConnector>,
    ): Promise<void> => {
      const { metadata } = await request;
      askedAt.set(`${metadata.name} ${metadata.generation}`, performance.now());
      subject.told({ name: metadata.name, uid: metadata.uid, generation: metadata.generation ?? 0, done });
    };
    const edit = (connector: string, description: string): Promise<PersonalConnector> =>
      client.call('PATCH', `${API}/${connector}`, { spec: { description } }, 'application/merge-patch+json');

    rows.push(
      await using(`${workload.name}: created`, running, async askedAt => {
        const settled = view.more(connectors);
        await forEach(names, CONNECTIONS, one =>
          ask(askedAt, 'created', client.call('POST', API, workload.object(one))),
        );
        await settled;
      }),
      await using(`${workload.name}: edited`, running, async askedAt => {
        const settled = view.more(connectors);
        await forEach(names, CONNECTIONS, one => ask(askedAt, 'edited', edit(one, 'all at once')));
        await settled;
      }),
      await using(`${workload.name}: edited at rest`, running, async askedAt => {
        for (let index = 0; index < EDITS_AT_REST; index++) {
          const settled = view.more(1);
          await ask(askedAt, 'edited', edit(`c-${index % connectors}`, `at rest ${index}`));
          await settled;
        }
      }),
    );
    if (name === 'floor') return rows;
    await subject.idle();
    const idleSeconds = Number(flags.idle);
    rows.push(await using(`${workload.name}: at rest`, running, () => sleep(idleSeconds * 1000)));
    await subject[Symbol.asyncDispose]();
    await using again = await start();
    rows.push(
      await using(`${workload.name}: restarted`, { ...running, subject: again }, async () => await again.idle()),
    );
    progress(`  start to first reconcile: ${again.startMs} ms`);
    return rows;
  });
}

const rows: Row[] = [];
const counts = flags.connectors.split(',').map(Number);
for (const workload of WORKLOADS.filter(({ name }) => !flags.only || flags.only === name)) {
  progress(workload.title);
  const recorded = await withCluster(cluster => record(cluster, workload));
  progress(`  ${recorded.created.length} writes for a creation, ${recorded.edited.length} for an edit`);
  for (const connectors of counts) {
    for (let round = 0; round < Number(flags.rounds); round++) {
      const order = round % 2 === 0 ? (['floor', 'ours'] as const) : (['ours', 'floor'] as const);
      for (const subject of order) {
        const measured = await measure(workload, subject, connectors, recorded);
        rows.push(...measured);
        progress(
          `  ${connectors} connectors, ${subject}: ${measured.map(({ seconds }) => seconds.toFixed(1)).join(', ')} s`,
        );
      }
    }
  }
}
if (flags.json) console.log(JSON.stringify(rows, null, 2));
else console.table(rows.map(shown));

/** For a terminal: figures that can be read, and what has none left empty. */
function shown({ requests, ...row }: Row): Record<string, string | number> {
  const cells = Object.entries(row).map(([name, value]) => [
    name,
    typeof value === 'string' ? value : Number.isNaN(value) ? '' : Math.round(value * 100) / 100,
  ]);
  return { ...Object.fromEntries(cells), requests: Object.values(requests).reduce((sum, count) => sum + count, 0) };
}
