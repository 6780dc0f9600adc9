/**
 * All at once: two operators are killed, stopped, cut off and ended at random while many connectors change. Never do two
 * write, and the end is what a fresh apply of the last specs gives.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { LONG, note } from './figures.ts';
import { buildOperator, type Executable, type OperatorProcess } from './process.ts';
import { type FaultProxy, type Passed, startProxy } from './proxy.ts';
import { untilAsFresh } from './snapshot.ts';
import { policyFor, type SpecChoice, spec, specOf, startWorld, type World } from './specs.ts';

const SEED = Number(process.env.STORM_SEED ?? 20_261_122);
const CONNECTORS = LONG ? 300 : 100;
const STORM_MS = LONG ? 600_000 : 40_000;
const LEASE = 'the-lease';
/** After the storm a Lease may have to expire first, and failures have backed off. */
const PATIENCE_MS = 120_000;

let cluster: Sandbox;
let executable: Executable;
let world: World;
let servers: Awaited<ReturnType<typeof startWorld>>;
beforeAll(async () => {
  servers = await startWorld();
  world = servers.world;
  cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  executable = await buildOperator(inject('kubeconfig'));
});
afterAll(async () => {
  await executable?.[Symbol.asyncDispose]();
  await cluster?.dispose();
  await servers?.close();
});

/** A replica as Kubernetes keeps it: whenever its process ends, another one is started. */
interface Replica extends AsyncDisposable {
  name: string;
  proxy: FaultProxy;
  /** The process of the moment. */
  process(): OperatorProcess;
  restarts(): number;
}

async function startReplica(name: string): Promise<Replica> {
  const proxy = await startProxy(inject('kubeconfig'));
  const start = (): Promise<OperatorProcess> =>
    executable.start({
      kubeconfig: proxy.kubeconfig,
      namespace: cluster.namespace,
      policy: policyFor(world),
      args: ['--lease', LEASE, '--lease-namespace', cluster.namespace],
      env: { POD_NAME: name },
    });
  let current = await start();
  let restarts = 0;
  let ended = false;
  const supervising = (async () => {
    for (;;) {
      await current.exited;
      if (ended) return;
      restarts += 1;
      current = await start();
    }
  })();
  return {
    name,
    proxy,
    process: () => current,
    restarts: () => restarts,
    async [Symbol.asyncDispose]() {
      ended = true;
      await current[Symbol.asyncDispose]();
      await supervising;
      await proxy.close();
    },
  };
}

/** What may befall a replica; each ends by itself or is ended by the other one's gain. */
const BLOWS: Record<string, (replica: Replica, ms: number) => Promise<void>> = {
  'kill -9': replica => replica.process().kill('SIGKILL'),
  SIGTERM: replica => replica.process().kill('SIGTERM'),
  'SIGSTOP and SIGCONT': async (replica, ms) => {
    const stopped = replica.process();
    await stopped.kill('SIGSTOP');
    await sleep(ms);
    await stopped.kill('SIGCONT');
  },
  'network cut and mended': async ({ proxy }, ms) => {
    proxy.partition();
    await sleep(ms);
    proxy.heal();
  },
  'connections reset': async ({ proxy }) => {
    proxy.cut(() => true);
  },
};

it('while replicas are killed, stopped and cut off at random, one at most writes, and all ends as if nothing had been', {
  timeout: STORM_MS + 600_000,
}, async () => {
  await using first = await startReplica('first');
  await using second = await startReplica('second');
  const replicas = [first, second];
  const specs = fc.sample(
    spec.map(choice => ({ ...choice, suspend: false })),
    { seed: SEED, numRuns: 5_000 },
  );
  const dice = fc.sample(fc.nat(1_000_000), { seed: SEED, numRuns: 5_000 });
  const roll = (sides: number): number => (dice.pop() ?? 0) % sides;

  const last = new Map<string, SpecChoice>();
  const ending = new AbortController();
  let edits = 0;
  const edit = async (lane: number, lanes: number): Promise<void> => {
    for (let turn = 0; !ending.signal.aborted; turn++) {
      const name = `c-${(lane + turn * lanes) % CONNECTORS}`;
      const choice = specs[edits % specs.length];
      if (!choice) throw new Error('no spec was drawn');
      edits += 1;
      last.set(name, choice);
      await cluster.applyConnector(name, specOf(choice, name, world));
      // So often that there is always something in hand, and not so often that nothing else happens on the machine.
      await sleep(100, undefined, { signal: ending.signal }).catch(() => {});
    }
  };
  const editing = Promise.all([0, 1, 2, 3].map(lane => edit(lane, 4)));

  const blows = new Map(Object.keys(BLOWS).map(name => [name, 0]));
  const names = Object.keys(BLOWS);
  const end = performance.now() + STORM_MS;
  while (performance.now() < end) {
    const name = names[roll(names.length)] ?? '';
    const victim = replicas[roll(replicas.length)];
    blows.set(name, (blows.get(name) ?? 0) + 1);
    // Some are over before the Lease is, some long after.
    if (victim) await BLOWS[name]?.(victim, 500 + roll(19_500));
    await sleep(500 + roll(3_000));
  }
  ending.abort();
  await editing;

  const wrong: string[] = [];
  const left = [...last];
  const compare = async (): Promise<void> => {
    for (let next = left.pop(); next; next = left.pop()) {
      const [name, choice] = next;
      await untilAsFresh(cluster, name, of => specOf(choice, of, world), { timeoutMs: PATIENCE_MS }).catch(error =>
        wrong.push(String(error)),
      );
    }
  };
  await Promise.all(Array.from({ length: 8 }, compare));
  const beside = writesBesideTheLeader(replicas);
  note({
    table: 'Storm',
    row: {
      connectors: last.size,
      edits,
      seconds: STORM_MS / 1000,
      ...Object.fromEntries(blows),
      restarts: first.restarts() + second.restarts(),
      'writes beside the leader': beside.length,
      'ends unlike a fresh apply': wrong.length,
    },
  });
  expect(beside).toEqual([]);
  expect(wrong.join('\n')).toBe('');
});

/** Writes that came from a replica while another one held the Lease. */
function writesBesideTheLeader(replicas: readonly Replica[]): string[] {
  const all = replicas.flatMap(({ name, proxy }) => proxy.log.map(call => ({ ...call, by: name })));
  all.sort((a, b) => a.at - b.at);
  let holder = '';
  const beside: string[] = [];
  for (const call of all) {
    if (call.resource === 'leases') holder = heldBy(call) ?? holder;
    else if (call.isWrite && call.forwarded && call.by !== holder)
      beside.push(`${call.by} at ${Math.round(call.at)} ms, ${holder} led: ${call.verb} ${call.resource} ${call.name}`);
  }
  return beside;
}

/** The name of the replica that a request made the holder of the Lease; undefined if it did not. */
function heldBy({ verb, status = 0, body }: Passed): string | undefined {
  if (!/create|update/.test(verb) || status === 0 || status >= 300) return undefined;
  const { holderIdentity } = (body as { spec: { holderIdentity: string } }).spec;
  return holderIdentity.split('_')[0];
}
