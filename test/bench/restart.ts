/**
 * `npm run bench:restart [-- --json]`: what an operator that has just started does to the servers of 5,000 connectors: how
 * many probes begin in any second, and when all have been made. In virtual time, with the operator's own defaults.
 */
import { mock } from 'node:test';
import { policySchema } from '../../src/connector/policy.ts';
import { createLimiter } from '../../src/probe/limiter.ts';
import type { Outcome } from '../../src/probe/outcome.ts';
import { createProbeScheduler, type Health } from '../../src/probe/schedule.ts';
import { makeTarget } from '../unit/support.ts';

const CONNECTORS = 5_000;
const STEP_MS = 10;
const MOST_MS = 1_800_000;
const { concurrency: total, perHost, perHostPerSecond, intervalSeconds } = policySchema.parse({}).probe;

const GOOD: Outcome = {
  kind: 'answered',
  server: { protocolVersion: '2026-07-28', capabilities: [], tools: { names: [], count: 0, hash: '' } },
};

interface Case {
  hosts: number;
  /** Of each connector: what its status said, and what the probe finds. */
  known: (index: number) => Health;
  finds: (index: number) => { outcome: Outcome; ms: number };
}

const good = { outcome: GOOD, ms: 200 };
const dead: ReturnType<Case['finds']> = { outcome: { kind: 'timeout', afterMs: 10_000 }, ms: 10_000 };
const refused: ReturnType<Case['finds']> = { outcome: { kind: 'refused' }, ms: 5 };
const oneInTen = (index: number): boolean => index % 10 === 0;

const CASES: Record<string, Case> = {
  'all were healthy, and are': { hosts: 1_000, known: () => 'healthy', finds: () => good },
  'one in ten had failed, and has': {
    hosts: 1_000,
    known: index => (oneInTen(index) ? 'failed' : 'healthy'),
    finds: index => (oneInTen(index) ? refused : good),
  },
  'one in ten hangs': {
    hosts: 1_000,
    known: index => (oneInTen(index) ? 'failed' : 'healthy'),
    finds: index => (oneInTen(index) ? dead : good),
  },
  'all were healthy, and are gone': { hosts: 1_000, known: () => 'healthy', finds: () => refused },
  'all had failed': { hosts: 1_000, known: () => 'failed', finds: () => refused },
  'nothing is known of them (a first start)': { hosts: 1_000, known: () => undefined, finds: () => good },
  'all are on one host': { hosts: 1, known: () => 'healthy', finds: () => good },
};

/** Lets all go on that waits for a promise. */
const settle = (): Promise<void> => new Promise(resolve => setImmediate(resolve));

async function restart({ hosts, known, finds }: Case): Promise<Record<string, number>> {
  mock.timers.enable({ apis: ['setTimeout'] });
  let clock = 0;
  const now = (): number => clock;
  /** When each probe began. */
  const starts: number[] = [];
  const probed = new Set<string>();
  const atHost = new Map<string, number[]>();
  const scheduler = createProbeScheduler({
    async probe({ fingerprint, url }) {
      starts.push(clock);
      probed.add(fingerprint);
      const { hostname } = new URL(url);
      atHost.set(hostname, [...(atHost.get(hostname) ?? []), clock]);
      const { outcome, ms } = finds(Number(fingerprint));
      await new Promise(resolve => setTimeout(resolve, ms));
      return outcome;
    },
    limiter: createLimiter({ total, perHost, perHostPerSecond, now }),
    onResult: () => {},
    now,
  });
  for (let index = 0; index < CONNECTORS; index++) {
    const url = `https://mcp-${index % hosts}.example.com/${index}`;
    const target = makeTarget({
      url,
      fingerprint: `${index}`,
      tenant: `team-${index % 50}`,
      intervalMs: intervalSeconds * 1000,
      failureThreshold: 3,
    });
    scheduler.set(`team/${index}`, target, known(index));
  }
  while (clock < MOST_MS && probed.size < CONNECTORS) {
    clock += STEP_MS;
    mock.timers.tick(STEP_MS);
    await settle();
  }
  const row = {
    'most begun in any second': mostWithin(1_000, starts),
    'mean a second': Math.round((starts.length / clock) * 10_000) / 10,
    'most at one host in any second': Math.max(...[...atHost.values()].map(times => mostWithin(1_000, times))),
    'all probed after, s': probed.size === CONNECTORS ? Math.round(clock / 1000) : Number.NaN,
  };
  const closing = scheduler.close();
  mock.timers.tick(20_000);
  await closing;
  mock.timers.reset();
  return row;
}

/** The most of some times, which only grow, that lie in a window of this length. */
function mostWithin(ms: number, times: readonly number[]): number {
  let most = 0;
  let first = 0;
  for (const [index, time] of times.entries()) {
    while ((times[first] ?? time) <= time - ms) first += 1;
    most = Math.max(most, index - first + 1);
  }
  return most;
}

const rows: Record<string, string | number>[] = [];
for (const [name, one] of Object.entries(CASES))
  rows.push({ [`${CONNECTORS} connectors`]: name, ...(await restart(one)) });
if (process.argv.includes('--json')) console.log(JSON.stringify(rows, null, 2));
else console.table(rows);
