/** One subject, one workload, so many objects, on a control plane of its own. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeObject } from '../../../src/api/meta.ts';
import { type ControlPlane, startControlPlane } from '../../cluster/cluster.ts';
import { type BareClient, bareClient, forEach } from './client.ts';
import type { Task } from './floor.ts';
import { countRequests, percentile, resetPeak, type Usage, usageOf } from './measure.ts';
import { CONNECTIONS, type Subject } from './subjects.ts';
import { NAMESPACE, type Workload } from './workloads.ts';

/** Edits one after another, each when the one before has settled. */
const EDITS_AT_REST = 100;
/** Settled by the subject before it is measured, since an API server is slow with what it meets for the first time. */
const WARM_UP = 50;
/** Time that a process is given to come to rest before its memory counts. */
const REST_MS = 5_000;

export const STEPS = ['empty', 'created', 'edited', 'edited at rest', 'at rest', 'restarted'] as const;
export type Step = (typeof STEPS)[number];

/** Who is measured. */
export interface Contender<W extends Workload = Workload> {
  name: string;
  workloads: readonly W[];
  /** What its requests' user agents begin with. */
  userAgent: string;
  /** Makes the API server know its kinds of objects. */
  install(cluster: ControlPlane, client: BareClient): Promise<void>;
  /** Makes what objects of these names must find. */
  prepare?(client: BareClient, workload: W, names: readonly string[]): Promise<void>;
  start(cluster: ControlPlane, workload: W): Promise<Subject>;
  /** The steps that mean something for it; all, if absent. */
  steps?: readonly Step[];
}

/** What a step took of a subject. What it has no figure for is NaN. */
export interface Row {
  subject: string;
  workload: string;
  step: Step;
  objects: number;
  /** From the first request of the client to the last status; of a start, to the first reconcile. */
  seconds: number;
  /** From the answer that the client got to the status that it saw. */
  p50Ms: number;
  p99Ms: number;
  cpuSeconds: number;
  apiServerCpuSeconds: number;
  apiServerRssMib: number;
  /** To its log and its database, which is so large afterwards. */
  etcdWrittenMib: number;
  etcdSizeMib: number;
  rssMib: number;
  peakRssMib: number;
  mib: number;
  lagP99Ms: number;
  requests: Record<string, number>;
}

export interface RunOptions {
  objects: number;
  /** Seconds at rest that are measured. */
  idleSeconds: number;
  signal: AbortSignal;
}

export async function withCluster<T>(
  signal: AbortSignal,
  task: (cluster: ControlPlane, client: BareClient) => Promise<T>,
): Promise<T> {
  await using cluster = await startControlPlane({ kwok: true, signal });
  await using client = bareClient(cluster, CONNECTIONS);
  await client.call('POST', '/api/v1/namespaces', { metadata: { name: NAMESPACE } });
  return await task(cluster, client);
}

export async function run<W extends Workload>(
  contender: Contender<W>,
  workload: W,
  { objects, idleSeconds, signal }: RunOptions,
): Promise<Row[]> {
  return await withCluster(signal, async (cluster, client) => {
    await contender.install(cluster, client);
    const view = await observe(client, workload);
    const requests = countRequests(cluster.auditLog, contender.userAgent);
    const isAsked = (step: Step): boolean => contender.steps?.includes(step) ?? true;
    const rows: Row[] = [];

    /** Asks for something of each object; gives how long each took to settle, in ms. */
    async function ask(
      subject: Subject,
      names: readonly string[],
      done: Task['done'],
      request: (name: string) => Promise<KubeObject>,
    ): Promise<number[]> {
      const settled = within(AbortSignal.any([signal, cluster.failed, subject.ended]), view.more(names.length));
      const askedAt = new Map<string, number>();
      await forEach(names, CONNECTIONS, async name => {
        const object = await request(name);
        askedAt.set(versionOf(object), performance.now());
        subject.told({ name, uid: object.metadata.uid, generation: object.metadata.generation ?? 0, done });
      });
      await settled;
      return [...askedAt].map(([version, at]) => Math.max(0, (view.settledAt.get(version) ?? Number.NaN) - at));
    }
    const create = (subject: Subject, names: readonly string[]): Promise<number[]> =>
      ask(subject, names, 'created', name => client.call('POST', workload.path, workload.object(name)));
    const edit = (subject: Subject, names: readonly string[], text: string): Promise<number[]> =>
      ask(subject, names, 'edited', name =>
        client.call('PATCH', `${workload.path}/${name}`, workload.edit(text), 'application/merge-patch+json'),
      );

    async function measure(step: Step, subject: Subject, task: () => Promise<readonly number[]>): Promise<void> {
      if (!isAsked(step)) return;
      requests.take();
      resetPeak(subject.pid);
      // What it tells of its event loop begins anew with each look.
      await subject.figures?.();
      const before = usageOfAll(subject);
      const began = performance.now();
      const took = await task();
      const seconds = (performance.now() - began) / 1000;
      note(step, { subject, seconds, took, before, figures: await subject.figures?.() });
    }

    /** Starts it, and has it come to rest. */
    async function start(step: Step): Promise<Subject> {
      requests.take();
      const subject = await contender.start(cluster, workload);
      await subject.idle();
      await sleep(REST_MS);
      if (isAsked(step)) note(step, { subject, seconds: subject.startMs / 1000 });
      return subject;
    }

    const usageOfAll = ({ pid }: Subject): UsageOfAll => ({
      subject: usageOf(pid),
      apiServer: usageOf(cluster.apiServerPid),
      etcd: usageOf(cluster.etcdPid),
    });

    function note(step: Step, { subject, seconds, took = [], before, figures }: Noted): void {
      const usage = usageOfAll(subject);
      const used = (of: keyof UsageOfAll, what: keyof Usage): number =>
        usage[of][what] - (before?.[of][what] ?? (of === 'subject' ? 0 : Number.NaN));
      rows.push({
        subject: contender.name,
        workload: workload.name,
        step,
        objects: step === 'empty' ? 0 : objects,
        seconds,
        p50Ms: percentile(took, 0.5),
        p99Ms: percentile(took, 0.99),
        cpuSeconds: used('subject', 'cpuSeconds'),
        apiServerCpuSeconds: used('apiServer', 'cpuSeconds'),
        apiServerRssMib: usage.apiServer.rssMib,
        etcdWrittenMib: used('etcd', 'bytesWritten') / 2 ** 20,
        etcdSizeMib: statSync(join(cluster.dir, 'etcd/member/snap/db')).size / 2 ** 20,
        rssMib: usage.subject.rssMib,
        peakRssMib: usage.subject.peakRssMib,
        mib: (used('subject', 'bytesRead') + used('subject', 'bytesWritten')) / 2 ** 20,
        lagP99Ms: (figures?.get('nodejs_eventloop_lag_p99_seconds') ?? Number.NaN) * 1000,
        requests: requests.take(),
      });
    }

    const named = (prefix: string, count: number): string[] =>
      Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
    const names = named('c', objects);
    const early = named('warm-up', WARM_UP);
    await contender.prepare?.(client, workload, [...early, ...names]);
    {
      await using subject = await contender.start(cluster, workload);
      await create(subject, early);
      await edit(subject, early, 'warm');
      const gone = view.gone(early.length);
      await forEach(early, CONNECTIONS, async name => void (await client.call('DELETE', `${workload.path}/${name}`)));
      await gone;
    }
    {
      await using subject = await start('empty');
      await measure('created', subject, () => create(subject, names));
      await measure('edited', subject, () => edit(subject, names, 'all at once'));
      await measure('edited at rest', subject, async () => {
        const took: number[] = [];
        for (let index = 0; index < EDITS_AT_REST; index++)
          took.push(...(await edit(subject, [`c-${index % objects}`], `at rest ${index}`)));
        return took;
      });
      await subject.idle();
      await measure('at rest', subject, async () => {
        await sleep(idleSeconds * 1000, undefined, { signal });
        return [];
      });
    }
    if (isAsked('restarted')) {
      await using _ = await start('restarted');
    }
    return rows;
  });
}

interface UsageOfAll {
  subject: Usage;
  apiServer: Usage;
  etcd: Usage;
}

interface Noted {
  subject: Subject;
  seconds: number;
  took?: readonly number[];
  /** What it had used before; absent: nothing, it began with this. */
  before?: UsageOfAll;
  figures?: ReadonlyMap<string, number> | undefined;
}

/** Gives a promise up when the signal aborts. */
async function within<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return await Promise.race([promise, aborted]).finally(() => signal.removeEventListener('abort', abort));
}

const versionOf = ({ metadata }: KubeObject): string => `${metadata.name} ${metadata.uid} ${metadata.generation}`;

/** Tells when objects are as they should be, as a client sees it that watches them. */
async function observe(client: BareClient, { path, isSettled }: Workload) {
  const list = await client.call<{ metadata: { resourceVersion: string } }>('GET', `${path}?limit=1`);
  const settledAt = new Map<string, number>();
  const gone = new Set<string>();
  const waiting = new Set<() => void>();
  client.watch<KubeObject>(path, list.metadata.resourceVersion, (type, object) => {
    if (type === 'DELETED') gone.add(object.metadata.uid);
    else if (type === 'BOOKMARK' || !isSettled(object) || settledAt.has(versionOf(object))) return;
    else settledAt.set(versionOf(object), performance.now());
    for (const look of waiting) look();
  });
  /** Resolves when so many more are in a collection. */
  const more = (of: { size: number }, count: number): Promise<void> => {
    const wanted = of.size + count;
    return new Promise(resolve => {
      const look = (): void => {
        if (of.size < wanted) return;
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      look();
    });
  };
  return {
    /** Version of an object → when it was first seen to be settled. */
    settledAt,
    /** Resolves when so many more versions have settled. */
    more: (count: number) => more(settledAt, count),
    /** Resolves when so many more objects are gone. */
    gone: (count: number) => more(gone, count),
  };
}
