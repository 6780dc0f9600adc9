/**
 * `npm run test:soak -- [--minutes N] [--connectors N] [--seed N] [--json]`: one operator for a long time, with edits,
 * probes and faults all along. Afterwards it must hold no more memory, descriptors or work than before, and each
 * connector must be what a fresh one of its last spec is. From 30 minutes on the figures go to docs/reliability.md.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { keepFigures } from '../../scripts/reliability.ts';
import { ANNOTATION, PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import { startControlPlane } from '../cluster/cluster.ts';
import { messageOf } from '../cluster/process.ts';
import { installCrd } from '../support/control-plane.setup.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { closedPort, startMcp, startStatic } from '../support/servers.ts';
import { buildOperator, type OperatorProcess } from './process.ts';
import {
  type Call,
  dropAfter,
  dropBefore,
  type Fault,
  type FaultProxy,
  isWatch,
  type Passed,
  refuse,
  slow,
  startProxy,
} from './proxy.ts';
import { isSettled, untilAsFresh, untilSnapshot } from './snapshot.ts';
import { policyFor, type SpecChoice, spec, specOf, type World } from './specs.ts';

const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    connectors: { type: 'string', default: '500' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    json: { type: 'boolean', default: false },
  },
});
const minutes = positive('minutes');
const connectors = positive('connectors');
const seed = positive('seed');
/** One in so many may be hosted. */
const HOSTED_ONE_IN = 10;
const PROBE_SECONDS = 15;
const PROGRESS_MS = 10_000;
const EDIT_MS = 100;
/** How long all may take to come to rest after the last fault: back-offs of the operator end after 5 minutes. */
const PATIENCE_MS = 420_000;
/** A run as long as this is worth a place in the docs. */
const KEPT_MINUTES = 30;
/** What may be more afterwards than before: compiled code and pools of the garbage collector; idle connections. */
const ALLOWANCE = { heap: 16 * 1024 ** 2, descriptors: 20 };

function positive(name: 'minutes' | 'connectors' | 'seed'): number {
  const value = Number(flags[name]);
  if (!(value > 0)) {
    process.stderr.write(`soak: --${name} ${JSON.stringify(flags[name])} is no number above 0\n`);
    process.exit(2);
  }
  return value;
}

/** Has the operator collect its garbage on a signal that it does not know, and say when that is done. */
const COLLECTOR = `let n = 0; process.on('SIGWINCH', () => { gc(); n += 1; console.log('collected ' + n + ' times'); });`;
const NODE_OPTIONS = `--expose-gc --import=data:text/javascript,${encodeURIComponent(COLLECTOR)}`;

const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => abort.abort(new Error(signal)));

/** The same numbers for the same seed, however long it takes: a linear congruential generator (Numerical Recipes). */
let state = seed >>> 0;
function random(): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return state / 2 ** 32;
}

const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;

const table = (line: string): void => void process.stderr.write(`${line}\n`);

/** How often all objects of a resource were read anew, and how often a watch was opened, in the operator's life. */
async function readings(operator: OperatorProcess): Promise<{ fills: number; watches: number }> {
  const metrics = [...(await operator.metrics())];
  const sum = (name: string): number =>
    metrics.reduce((total, [series, value]) => total + (series.startsWith(`${name}{`) ? value : 0), 0);
  return { fills: sum('reflector_lists_total'), watches: sum('reflector_watches_total') };
}

interface Held {
  heap: number;
  rss: number;
  descriptors: number;
  depth: number;
  active: number;
}

async function held(operator: OperatorProcess): Promise<Held> {
  const metrics = await operator.metrics();
  const of = (name: string): number => {
    const value = metrics.get(name);
    if (value === undefined) throw new Error(`the operator tells no metric ${name}`);
    return value;
  };
  return {
    heap: of('nodejs_heap_size_used_bytes'),
    rss: of('process_resident_memory_bytes'),
    descriptors: of('process_open_fds'),
    depth: of('workqueue_depth{name="personalconnector"}'),
    active: of('controller_runtime_active_workers{controller="personalconnector"}'),
  };
}

let collections = 0;

/** What it holds when nothing is under way: the least of several looks, since probes go on. */
async function heldAtRest(operator: OperatorProcess): Promise<Held> {
  const looks: Held[] = [];
  for (let look = 0; look < 10; look += 1) {
    collections += 1;
    await operator.kill('SIGWINCH');
    await operator.logged(`collected ${collections} times`);
    looks.push(await held(operator));
    await sleep(1_000, undefined, { signal: abort.signal });
  }
  const least = (of: (held: Held) => number): number => Math.min(...looks.map(of));
  return {
    heap: least(({ heap }) => heap),
    rss: least(({ rss }) => rss),
    descriptors: least(({ descriptors }) => descriptors),
    depth: least(({ depth }) => depth),
    active: least(({ active }) => active),
  };
}

const mib = (bytes: number): number => Math.round((bytes / 1024 ** 2) * 10) / 10;

/** What goes wrong for a while: gives what ends it. */
type Trouble = (proxy: FaultProxy) => (() => unknown) | Promise<() => unknown>;

/** A fault on a part of the calls, at random. */
const some =
  (share: number, fault: Fault, on: (call: Call) => boolean = call => !isWatch(call)): Trouble =>
  proxy =>
    proxy.rule(call => on(call) && random() < share, fault).end;

function troubles(flap: () => Promise<() => Promise<void>>): Record<string, Trouble> {
  return {
    'answers 500': some(0.5, refuse(500)),
    'answers 503': some(0.5, refuse(503)),
    'answers 429 with Retry-After': some(0.5, refuse(429, 1)),
    'reset before': some(0.3, dropBefore()),
    'reset after': some(0.3, dropAfter()),
    slow: some(0.5, slow(700)),
    'watches refused': some(1, refuse(503), isWatch),
    'versions expired': some(0.5, refuse(410), isWatch),
    'watches cut': proxy => {
      proxy.cut(isWatch);
      return () => {};
    },
    partition: proxy => {
      proxy.partition();
      return () => proxy.heal();
    },
    'an MCP server is down': flap,
  };
}

async function main(): Promise<string[]> {
  await using plane = await startControlPlane({ kwok: true, signal: abort.signal, progress: table });
  await installCrd(plane.kubeconfig);
  await using executable = await buildOperator(plane.kubeconfig);
  await using proxy = await startProxy(plane.kubeconfig);
  const cluster = await createSandbox(plane.kubeconfig);
  const [first, web, closed] = await Promise.all([
    startMcp({ name: 'first' }),
    startStatic(200, { 'content-type': 'text/html' }, '<html></html>'),
    closedPort(),
  ]);
  let second = await startMcp({ name: 'second', tools: ['gamma'], era: 'legacy' });
  const { port } = second;
  const world: World = { ports: [first.port, port], web: web.port, closed };
  const flap = async () => {
    await second.close();
    return async () => {
      second = await startMcp({ name: 'second', tools: ['gamma'], era: 'legacy', port });
    };
  };
  const policy = policyFor(world);
  const operator = await executable.start({
    kubeconfig: proxy.kubeconfig,
    namespace: cluster.namespace,
    policy: { ...policy, probe: { ...policy.probe, intervalSeconds: PROBE_SECONDS } },
    env: { NODE_OPTIONS },
  });
  let over = false;
  void operator.exited.then(({ code, signal }) => {
    if (over) return;
    const said = operator.lines.slice(-10).map(line => JSON.stringify(line));
    abort.abort(new Error(`the operator ended: ${signal ?? `exit code ${code}`}\n${said.join('\n')}`));
  });
  try {
    return await soak({ cluster, operator, proxy, world, flap });
  } finally {
    over = true;
    await cluster.dispose();
    await Promise.all([first.close(), second.close(), web.close()]);
  }
}

interface Scene {
  cluster: Sandbox;
  operator: OperatorProcess;
  proxy: FaultProxy;
  world: World;
  flap: () => Promise<() => Promise<void>>;
}

/** Gives what is wrong afterwards, a line each. */
async function soak({ cluster, operator, proxy, world, flap }: Scene): Promise<string[]> {
  const names = Array.from({ length: connectors }, (_, index) => `c-${index}`);
  const last = new Map<string, SpecChoice>();
  let drawn: SpecChoice[] = [];
  let batches = 0;
  /** Any valid spec, of a hosted server for few connectors only. */
  const draw = (name: string): SpecChoice => {
    if (drawn.length === 0) {
      batches += 1;
      drawn = fc.sample(spec, { seed: seed + batches, numRuns: 1_000 });
    }
    const choice = drawn.pop() as SpecChoice;
    const mayBeHosted = Number(name.slice(2)) % HOSTED_ONE_IN === 0;
    return choice.type === 'aitronos_built' && !mayBeHosted ? { ...choice, type: 'custom' } : choice;
  };
  const apply = async (name: string, choice: SpecChoice, annotations?: Record<string, string>): Promise<void> => {
    last.set(name, choice);
    await cluster.applyConnector(name, specOf(choice, name, world), annotations);
  };
  const settle = async (): Promise<string[]> => {
    const missed = await Promise.all(
      names.map(async name => {
        try {
          await untilSnapshot(cluster, name, isSettled, { timeoutMs: PATIENCE_MS });
          return [];
        } catch {
          return [name];
        }
      }),
    );
    return missed.flat();
  };

  table(`${connectors} connectors are applied`);
  for (const name of names) await apply(name, { ...draw(name), suspend: false });
  const unready = await settle();
  if (unready.length > 0) return unready.map(name => `${name}: never settled, before anything had happened`);
  await operator.idle();
  const before = await heldAtRest(operator);
  const read = await readings(operator);
  table(`${connectors} connectors are settled; ${minutes} minutes of edits and faults begin (seed ${seed})`);

  const counts = { edits: 0, faults: 0 };
  const ends = performance.now() + minutes * 60_000;
  const goesOn = (): boolean => performance.now() < ends && !abort.signal.aborted;
  const pause = (ms: number): Promise<void> => sleep(Math.max(0, Math.min(ms, ends - performance.now())));

  async function edit(): Promise<void> {
    while (goesOn()) {
      const name = pick(names);
      const dice = random();
      if (dice < 0.05) {
        await cluster.remove(PERSONAL_CONNECTORS, name);
        await apply(name, draw(name));
      } else if (dice < 0.15) {
        await apply(name, last.get(name) ?? draw(name), { [ANNOTATION.recheck]: String(counts.edits) });
      } else {
        await apply(name, draw(name));
      }
      counts.edits += 1;
      await pause(EDIT_MS);
    }
  }
  async function disturb(): Promise<void> {
    const all = Object.values(troubles(flap));
    while (goesOn()) {
      const end = await pick(all)(proxy);
      counts.faults += 1;
      await pause(1_000 + random() * 3_000);
      await end();
      await pause(500 + random() * 3_000);
    }
  }
  async function tell(): Promise<void> {
    const start = performance.now();
    while (goesOn()) {
      await pause(PROGRESS_MS);
      // Nobody reads it here, and in hours it would fill the memory.
      (proxy.log as Passed[]).length = 0;
      const { heap, rss, descriptors, depth } = await held(operator);
      const elapsed = Math.round((performance.now() - start) / 1000);
      table(
        `${String(elapsed).padStart(6)} s  ${counts.edits} edits  ${counts.faults} faults  queue ${depth}  RSS ${mib(rss)} MiB  heap ${mib(heap)} MiB  ${descriptors} descriptors`,
      );
    }
  }
  await Promise.all([edit(), disturb(), tell()]);
  abort.signal.throwIfAborted();

  table('the faults are over; waiting until all is settled');
  for (const name of names) {
    const choice = last.get(name);
    if (choice?.suspend) await apply(name, { ...choice, suspend: false });
  }
  const unsettled = await settle();
  await operator.idle();
  const after = await heldAtRest(operator);
  const reread = await readings(operator);

  table('comparing each connector with a fresh one of its spec');
  const missed: string[] = unsettled.map(name => `${name}: no last word on its spec`);
  const left = names.filter(name => !unsettled.includes(name));
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      for (let name = left.pop(); name !== undefined; name = left.pop()) {
        const choice = last.get(name) as SpecChoice;
        await untilAsFresh(cluster, name, twin => specOf(choice, twin, world)).catch(error =>
          missed.push(messageOf(error)),
        );
      }
    }),
  );

  const row = {
    minutes,
    connectors,
    edits: counts.edits,
    faults: counts.faults,
    'missed changes': missed.length,
    'watches opened': reread.watches - read.watches,
    'all read anew': reread.fills - read.fills,
    'heap before → after, MiB': `${mib(before.heap)} → ${mib(after.heap)}`,
    'RSS before → after, MiB': `${mib(before.rss)} → ${mib(after.rss)}`,
    'descriptors before → after': `${before.descriptors} → ${after.descriptors}`,
    'queue before → after': `${before.depth} → ${after.depth}`,
    seed,
  };
  if (flags.json) process.stdout.write(`${JSON.stringify(row, null, 2)}\n`);
  else for (const [what, figure] of Object.entries(row)) process.stdout.write(`${what.padEnd(30)}${figure}\n`);
  if (minutes >= KEPT_MINUTES) {
    keepFigures(JSON.stringify({ table: 'Soak', row }), `npm run test:soak -- --minutes ${minutes}`);
  }
  return [
    ...missed,
    ...(after.heap > before.heap + ALLOWANCE.heap ? [`the heap grew by ${mib(after.heap - before.heap)} MiB`] : []),
    ...(after.descriptors > before.descriptors + ALLOWANCE.descriptors
      ? [`${after.descriptors - before.descriptors} more descriptors are open`]
      : []),
    ...(after.depth + after.active > 0
      ? [`${after.depth} connectors still wait and ${after.active} are worked on`]
      : []),
  ];
}

const wrong = await main().catch(error => [messageOf(abort.signal.aborted ? abort.signal.reason : error)]);
if (wrong.length > 0) {
  process.stderr.write(`\nwrong:\n${wrong.map(line => `  ${line}`).join('\n')}\n`);
  process.exitCode = 1;
}
