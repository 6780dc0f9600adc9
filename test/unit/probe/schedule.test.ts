import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createLimiter, type Limiter } from '../../../src/probe/limiter.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import {
  advance,
  count,
  createProbeScheduler,
  firstWait,
  type ProbeScheduler,
  type Standing,
  waitAfter,
} from '../../../src/probe/schedule.ts';
import type { Memory, Target } from '../../../src/probe/target.ts';
import { type Judgement, judge } from '../../../src/probe/verdict.ts';
import { makeTarget } from '../support.ts';

const FACTS = { protocolVersion: '2025-11-25', capabilities: [] };
const GOOD: Outcome = { kind: 'answered', server: { ...FACTS, tools: { names: [], count: 0, hash: 'sha256:0' } } };
/** The server has tools and did not list them. */
const UNLISTED: Outcome = { kind: 'answered', server: FACTS };
const BAD: Outcome = { kind: 'refused' };
const BROKEN: Outcome = { kind: 'broken', why: 'x' };
const LIMITED: Outcome = { kind: 'rate-limited', retryAfterMs: 600_000 };

/** The real one. */
const immediate = setImmediate;

const MINUTE = 60_000;
const DAY = 86_400_000;

interface Setup {
  random?: () => number;
  limiter?: Limiter;
  /** When the script is used up. */
  answer?: (target: Target) => Outcome | Promise<Outcome>;
}

/** A scheduler whose probes answer what `script` holds next, and GOOD or `answer` when it is used up. */
function make(setup: Setup = {}) {
  const { random = () => 0.5, limiter = createLimiter({ total: 20, perHost: 10 }), answer = () => GOOD } = setup;
  const script: (Outcome | Error | Promise<Outcome>)[] = [];
  const probes: { at: number; target: Target; memory: Memory; signal: AbortSignal }[] = [];
  const results: string[] = [];
  const observed: string[] = [];
  const start = Date.now();
  const scheduler = createProbeScheduler({
    async probe(target, memory, signal) {
      probes.push({ at: Date.now() - start, target, memory, signal });
      const next = script.shift() ?? answer(target);
      if (next instanceof Error) throw next;
      return next;
    },
    limiter,
    onResult: key => void results.push(key),
    observer: { probed: outcome => void observed.push(outcome) },
    random,
  });
  open.push(scheduler);
  const reason = (key = 'a'): string | undefined => scheduler.result(key)?.verdict.reachable.reason;
  const rechecks = (...keys: string[]) => keys.map(key => scheduler.result(key)?.recheck);
  return { scheduler, script, probes, results, observed, reason, rechecks, times: () => probes.map(({ at }) => at) };
}

const open: { close(): Promise<void> }[] = [];
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
const now = (): Promise<unknown> => pass(0);

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  // Not awaited: some tests leave a probe in the air.
  for (const scheduler of open.splice(0)) void scheduler.close();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

describe('the first probe', () => {
  it('comes at once, and its result is told', async () => {
    const { scheduler, times, results, observed } = make();
    expect(scheduler.result('a')).toBeUndefined();
    scheduler.set('a', makeTarget({ recheck: 'r1' }));
    await now();
    expect(times()).toEqual([0]);
    expect([results, observed]).toEqual([['a'], ['answered']]);
    expect(scheduler.result('a')).toMatchObject({ fingerprint: 'one', recheck: 'r1', verdict: { healthy: true } });
  });

  it.each([
    ['healthy', 0, 300_000, 0],
    ['healthy', 0.25, 300_000, 75_000],
    ['healthy', 0.999, 300_000, 299_700],
    ['failed', 0, 300_000, 0],
    ['failed', 0.5, 300_000, 30_000],
    ['failed', 0.999, 300_000, 59_940],
    ['failed', 0.5, 10_000, 5_000],
  ] as const)(
    'of one that was %s comes within a while (random %d, interval %d ms: %d ms)',
    async (known, random, intervalMs, at) => {
      const { scheduler, times } = make({ random: () => random });
      scheduler.set('a', makeTarget({ intervalMs }), known);
      await pass(at);
      expect(times()).toEqual([at]);
    },
  );

  it('is not put off by setting the same target again', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget(), 'healthy');
    for (let second = 0; second < 30; second += 1) {
      await pass(1_000);
      scheduler.set('a', makeTarget(), 'healthy');
    }
    await now();
    expect(times()).toEqual([30_000]);
  });

  it('that fails is reported at once, whatever the threshold, since nothing better is known', async () => {
    const { scheduler, script, reason } = make();
    script.push(BAD);
    scheduler.set('a', makeTarget({ failureThreshold: 3 }));
    await now();
    expect(reason()).toBe('ConnectionRefused');
  });
});

describe('the time of the next probe', () => {
  it.each([
    [0, 54_000],
    [0.5, 60_000],
    [1, 66_000],
  ])('is the interval, give or take a tenth, while all is well (random %d: %d ms)', async (random, wait) => {
    const { scheduler, times } = make({ random: () => random });
    scheduler.set('a', makeTarget());
    await pass(wait * 3);
    expect(times()).toEqual([0, wait, 2 * wait, 3 * wait]);
  });

  it.each([
    [0, 0.9],
    [0.5, 1],
    [1, 1.1],
  ])(
    'is 5 s after a failure, doubling up to the interval, give or take a tenth (random %d: × %d)',
    async (random, spread) => {
      const { scheduler, script, times } = make({ random: () => random });
      script.push(...Array.from({ length: 8 }, () => BAD));
      scheduler.set('a', makeTarget({ intervalMs: MINUTE }));
      await pass(300_000);
      const waits = times()
        .slice(1, 8)
        .map((at, index) => Math.round((at - (times()[index] ?? 0)) / spread));
      expect(waits).toEqual([5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    },
  );

  it('never gives up', async () => {
    const { scheduler, script, times } = make();
    script.push(...Array.from({ length: 3_000 }, () => BAD));
    scheduler.set('a', makeTarget({ intervalMs: 1_000 }));
    await pass(2_500_000);
    expect(times()).toHaveLength(2_501);
  });

  it('is never sooner than a short interval, whatever fails', async () => {
    const { scheduler, script, times } = make();
    script.push(BAD, BAD);
    scheduler.set('a', makeTarget({ intervalMs: 1_000 }));
    await pass(2_000);
    expect(times()).toEqual([0, 1_000, 2_000]);
  });

  it('starts anew at 5 s after a success', async () => {
    const { scheduler, script, times } = make();
    script.push(BAD, BAD, GOOD, BAD);
    scheduler.set('a', makeTarget());
    await pass(5_000 + 10_000 + MINUTE + 5_000);
    expect(times()).toEqual([0, 5_000, 15_000, 75_000, 80_000]);
  });

  it('goes on with its back-off where an earlier life of the operator has left it', async () => {
    const { scheduler, script, times } = make({ random: () => 0.5 });
    script.push(BAD, BAD, BAD, GOOD, BAD);
    scheduler.set('a', makeTarget({ intervalMs: 300_000 }), 'failed');
    await pass(30_000 + 80_000 + 160_000 + 300_000 + 300_000 + 5_000);
    expect(times()).toEqual([30_000, 110_000, 270_000, 570_000, 870_000, 875_000]);
  });

  it.each([
    ['broke', BROKEN],
    ['had its tools not listed', UNLISTED],
  ])('is 20 s after a probe that %s, doubling up to the interval, and starts anew', async (_what, outcome) => {
    const { scheduler, script, times } = make();
    script.push(outcome, outcome, outcome, outcome, GOOD, outcome);
    scheduler.set('a', makeTarget());
    await pass(300_000);
    expect(times()).toEqual([0, 20_000, 60_000, 120_000, 180_000, 240_000, 260_000]);
  });

  it.each([
    [
      'the interval when a rate limit names no time',
      { kind: 'rate-limited', retryAfterMs: undefined } as const,
      MINUTE,
    ],
    ['the interval when a rate limit names less', { kind: 'rate-limited', retryAfterMs: 1_000 } as const, MINUTE],
    ['a short interval when a probe broke', BROKEN, 10_000],
    ['a short interval when the tools were not listed', UNLISTED, 10_000],
  ])('is %s', async (_what, outcome, intervalMs) => {
    const { scheduler, script, times } = make();
    script.push(outcome);
    scheduler.set('a', makeTarget({ intervalMs }));
    await pass(intervalMs - 1);
    expect(times()).toEqual([0]);
    await pass(1);
    expect(times()).toEqual([0, intervalMs]);
  });

  it.each([
    [0, 600_000, 600_000],
    [0.5, 600_000, 630_000],
    [1, 600_000, 660_000],
    [0, DAY, DAY],
    [1, DAY, 95_040_000],
  ])(
    'is never before what a server asked for, and at most a tenth after it (random %d, %d ms: %d ms)',
    async (random, retryAfterMs, at) => {
      const { scheduler, script, times } = make({ random: () => random });
      script.push({ kind: 'rate-limited', retryAfterMs });
      scheduler.set('a', makeTarget());
      await pass(at - 1);
      expect(times()).toEqual([0]);
      await pass(1);
      expect(times()).toEqual([0, at]);
    },
  );

  it.each<[string, Outcome, number]>([
    ['full, where it answers otherwise', { ...UNLISTED, retryAfterMs: 600_000 }, 600_000],
    ['up to the interval, where it fails', { kind: 'http-error', status: 503, retryAfterMs: 600_000 }, MINUTE],
    ['up to the interval and no sooner than the back-off', { kind: 'http-error', status: 503, retryAfterMs: 1 }, 5_000],
  ])('heeds what a server asks for in %s', async (_what, outcome, at) => {
    const { scheduler, script, times } = make({ random: () => 0 });
    script.push(outcome);
    scheduler.set('a', makeTarget());
    await pass(at * 0.9 - 1);
    expect(times()).toEqual([0]);
    await pass(at * 0.1 + 1);
    expect(times()).toHaveLength(2);
  });

  it('comes sooner when the interval becomes shorter, but not before what the server asked for', async () => {
    const { scheduler, script, times } = make();
    scheduler.set('a', makeTarget({ intervalMs: 3_600_000 }));
    await pass(1_000);
    script.push(LIMITED);
    scheduler.set('a', makeTarget({ intervalMs: 10_000 }));
    await pass(10_000);
    expect(times()).toEqual([0, 11_000]);
    for (const intervalMs of [9_000, 5_000, 1_000]) {
      scheduler.set('a', makeTarget({ intervalMs }));
      await pass(200_000);
    }
    expect(times()).toHaveLength(2);
    await pass(30_000);
    expect(times()).toEqual([0, 11_000, 641_000]);
  });

  it('stays when the interval grows', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('a', makeTarget({ intervalMs: 300_000 }));
    await pass(400_000);
    expect(times()).toEqual([0, MINUTE, MINUTE + 300_000]);
  });

  it('heeds an interval that became shorter while a probe ran', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times } = make();
    script.push(gate.promise);
    scheduler.set('a', makeTarget({ intervalMs: DAY }));
    await now();
    scheduler.set('a', makeTarget({ intervalMs: 10_000 }));
    gate.resolve(GOOD);
    await pass(10_000);
    expect(times()).toEqual([0, 10_000]);
  });

  it('does not overflow a timer, which would run it at once', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget({ intervalMs: 40 * DAY }));
    await pass(DAY);
    expect(times()).toEqual([0]);
  });

  it('is not planned while a probe runs, also one whose timer was early', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes } = make();
    script.push(GOOD, gate.promise);
    scheduler.set('a', makeTarget({ intervalMs: 40 * DAY }));
    await pass(2 ** 31);
    expect(probes).toHaveLength(2);
    scheduler.set('a', makeTarget({ intervalMs: 1_000, recheck: 'now' }));
    scheduler.set('b', makeTarget({ intervalMs: 1_000 }));
    await pass(10_000);
    expect(probes).toHaveLength(2);
    gate.resolve(GOOD);
    await now();
    expect(probes).toHaveLength(3);
  });
});

describe('thresholds', () => {
  it('keep a healthy connector healthy until so many failures in a row', async () => {
    const { scheduler, script, reason } = make();
    script.push(GOOD, BAD, BAD, GOOD, BAD, BAD, BAD);
    scheduler.set('a', makeTarget({ failureThreshold: 3 }));
    const seen: (string | undefined)[] = [];
    for (let probe = 0; probe < 7; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push(reason());
    }
    expect(seen).toEqual([...Array.from({ length: 6 }, () => 'Answered'), 'ConnectionRefused']);
  });

  it('keep a failed connector failed until so many successes in a row', async () => {
    const { scheduler, script, reason, times } = make();
    script.push(BAD, GOOD, BAD, GOOD, GOOD);
    scheduler.set('a', makeTarget({ successThreshold: 2 }));
    const seen: (string | undefined)[] = [];
    for (let probe = 0; probe < 5; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push(reason());
    }
    expect(seen).toEqual([...Array.from({ length: 4 }, () => 'ConnectionRefused'), 'Answered']);
    // Until then it is asked soon, and afterwards at the interval.
    expect(times()).toEqual([0, 5_000, 10_000, 15_000, 20_000]);
    await pass(MINUTE);
    expect(times().at(-1)).toBe(80_000);
  });

  it('report a failed connector with its newest failure', async () => {
    const { scheduler, script, reason } = make();
    script.push(BAD, { kind: 'dns', code: 'ENOTFOUND' });
    scheduler.set('a', makeTarget({ failureThreshold: 3 }));
    await pass(5_000);
    expect(reason()).toBe('DNSFailure');
  });

  it('count no probe that says nothing', async () => {
    const { scheduler, script, reason } = make();
    script.push(GOOD, BAD, BROKEN, BAD);
    scheduler.set('a', makeTarget({ failureThreshold: 2 }));
    await pass(MINUTE + 5_000);
    expect(reason()).toBe('Answered');
    await pass(20_000);
    expect(reason()).toBe('ConnectionRefused');
  });

  it('count failures also of a connector that an earlier life of the operator knew to be healthy', async () => {
    const { scheduler, script, reason } = make();
    script.push(BAD, BAD, BAD);
    scheduler.set('a', makeTarget({ failureThreshold: 3 }), 'healthy');
    const seen: (string | undefined)[] = [];
    for (let probe = 0; probe < 3; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push(reason());
    }
    // The status that was found holds while there is no result.
    expect(seen).toEqual([undefined, undefined, 'ConnectionRefused']);
  });

  it('ask successes in a row also of a connector that an earlier life of the operator knew to have failed', async () => {
    const { scheduler, reason } = make();
    scheduler.set('a', makeTarget({ successThreshold: 3 }), 'failed');
    const seen: (string | undefined)[] = [];
    for (let probe = 0; probe < 3; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push(reason());
    }
    expect(seen).toEqual([undefined, undefined, 'Answered']);
  });

  it('ask them of no connector that had not failed', async () => {
    const { scheduler, script, reason } = make();
    script.push(BROKEN, GOOD);
    scheduler.set('a', makeTarget({ successThreshold: 3 }));
    await pass(20_000);
    expect(reason()).toBe('Answered');
  });
});

describe('a probe that says nothing new', () => {
  it.each([
    ['rate-limited', LIMITED],
    ['broken', BROKEN],
    ['throwing', new Error('boom')],
  ])('(%s) leaves what was known', async (_what, outcome) => {
    const { scheduler, script, results } = make();
    script.push(GOOD, outcome);
    scheduler.set('a', makeTarget());
    await now();
    const before = scheduler.result('a');
    await pass(MINUTE);
    expect(scheduler.result('a')).toEqual(before);
    expect(results).toEqual(['a', 'a']);
  });

  it.each(['healthy', 'failed'] as const)('leaves what an earlier life of the operator knew (%s)', async known => {
    const { scheduler, script, times } = make();
    script.push(LIMITED);
    scheduler.set('a', makeTarget(), known);
    await pass(MINUTE);
    expect([times().length, scheduler.result('a')]).toEqual([1, undefined]);
  });

  it('is all that is known when it is the first', async () => {
    const { scheduler, script } = make();
    script.push(new Error('boom'));
    scheduler.set('a', makeTarget());
    await now();
    expect(scheduler.result('a')?.verdict).toMatchObject({
      healthy: false,
      reachable: { status: 'Unknown', reason: 'Pending', message: 'the probe could not be made: boom' },
    });
  });

  it('still answers a recheck', async () => {
    const { scheduler, script } = make();
    script.push(GOOD, LIMITED);
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    await now();
    expect(scheduler.result('a')).toMatchObject({ recheck: 'now', verdict: { healthy: true } });
  });
});

describe('a target that changes', () => {
  it('loses its result and is probed at once', async () => {
    const { scheduler, script, probes, times } = make();
    scheduler.set('a', makeTarget());
    await pass(1_000);
    script.push(BAD);
    scheduler.set('a', makeTarget({ fingerprint: 'two', url: 'https://two.example.com' }));
    expect(scheduler.result('a')).toBeUndefined();
    await now();
    expect(times()).toEqual([0, 1_000]);
    expect(probes[1]?.target.url).toBe('https://two.example.com');
    expect(scheduler.result('a')).toMatchObject({ fingerprint: 'two', verdict: { healthy: false } });
  });

  it('takes no result of the old one that comes late', async () => {
    const late = Promise.withResolvers<Outcome>();
    const fresh = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes, results, observed } = make();
    script.push(late.promise, fresh.promise);
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', makeTarget({ fingerprint: 'two' }));
    expect(probes[0]?.signal.aborted).toBe(true);
    await now();
    late.resolve(BAD);
    await now();
    expect([scheduler.result('a'), results, observed]).toEqual([undefined, [], []]);
    fresh.resolve(GOOD);
    await now();
    expect(scheduler.result('a')).toMatchObject({ fingerprint: 'two', verdict: { healthy: true } });
    await pass(MINUTE);
    expect(probes).toHaveLength(3);
  });

  it('starts its back-off anew', async () => {
    const { scheduler, script, times } = make();
    script.push(BAD, BAD, BAD, BAD);
    scheduler.set('a', makeTarget());
    await pass(15_000);
    scheduler.set('a', makeTarget({ fingerprint: 'two' }));
    await pass(5_000);
    expect(times()).toEqual([0, 5_000, 15_000, 15_000, 20_000]);
  });

  it('only in its timeout is probed at once too, keeps its result meanwhile, and knows what it was', async () => {
    const { scheduler, script, times, reason } = make();
    scheduler.set('a', makeTarget({ failureThreshold: 2 }));
    await pass(1_000);
    script.push(BAD, BAD);
    // What an earlier life knew is of no matter any more.
    scheduler.set('a', makeTarget({ failureThreshold: 2, timeoutMs: 1 }), 'healthy');
    expect(reason()).toBe('Answered');
    await now();
    expect([times(), reason()]).toEqual([[0, 1_000], 'Answered']);
    await pass(5_000);
    expect(reason()).toBe('ConnectionRefused');
  });

  it('only in its thresholds is not probed for it', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('a', makeTarget({ failureThreshold: 9, successThreshold: 9 }));
    await pass(1_000);
    expect(times()).toEqual([0]);
  });

  it('is refused as a whole when its URL is none, and what was there stays', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget());
    await now();
    expect(() => scheduler.set('a', makeTarget({ fingerprint: 'two', url: 'none' }))).toThrow();
    await pass(MINUTE);
    expect(times()).toEqual([0, MINUTE]);
  });
});

describe('what its credentials come from', () => {
  const reading = (secretsVersion: string, more = {}) => makeTarget({ secretsVersion, ...more });

  it('has it probed at once when it changes, and keeps the result meanwhile', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times, reason } = make();
    script.push(GOOD, gate.promise);
    scheduler.set('a', reading('1'));
    await pass(1_000);
    scheduler.set('a', reading('1'));
    await now();
    expect(times()).toEqual([0]);
    scheduler.set('a', reading('2'));
    await now();
    expect([times(), reason()]).toEqual([[0, 1_000], 'Answered']);
    gate.resolve(BAD);
    await now();
    expect(reason()).toBe('ConnectionRefused');
  });

  it('has it probed again when it changes during a probe', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times } = make();
    script.push(gate.promise, GOOD);
    scheduler.set('a', reading('1'));
    await now();
    scheduler.set('a', reading('2'));
    await pass(1_000);
    gate.resolve(GOOD);
    await pass(1_000);
    expect(times()).toEqual([0, 1_000]);
  });

  it('has it probed once for all who share it', async () => {
    const { scheduler, times } = make();
    for (const key of ['a', 'b']) scheduler.set(key, reading('1'));
    await pass(1_000);
    for (const key of ['a', 'b']) scheduler.set(key, reading('2'));
    await pass(1_000);
    expect(times()).toEqual([0, 1_000]);
  });

  it.each([
    ['becomes known', '', '1'],
    ['is not known any more', '1', ''],
  ])('changes nothing when it %s', async (_, before, after) => {
    const { scheduler, times } = make();
    scheduler.set('a', reading(before));
    await pass(1_000);
    scheduler.set('a', reading(after));
    await pass(1_000);
    expect(times()).toEqual([0]);
  });

  it('asks for nothing of an operator that has just begun, or of who moved to another target', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', reading('1'), 'healthy');
    scheduler.set('b', reading('1', { fingerprint: 'other' }));
    await pass(1_000);
    scheduler.set('c', reading('7', { fingerprint: 'third' }));
    await pass(1_000);
    scheduler.set('c', reading('1', { fingerprint: 'other' }));
    await pass(1_000);
    expect(times()).toEqual([0, 1_000]);
  });
});

describe('a recheck', () => {
  it('probes at once and keeps the result meanwhile', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times, rechecks } = make();
    script.push(GOOD, gate.promise);
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    await now();
    expect(times()).toEqual([0, 1_000]);
    expect(scheduler.result('a')).toMatchObject({ recheck: undefined, verdict: { healthy: true } });
    gate.resolve(GOOD);
    await now();
    expect(rechecks('a')).toEqual(['now']);
    await pass(MINUTE);
    expect(times()).toEqual([0, 1_000, 61_000]);
  });

  it('is not answered by a probe that runs, which began before; another follows it at once', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes, rechecks, times, reason } = make();
    script.push(gate.promise, GOOD);
    scheduler.set('a', makeTarget());
    await now();
    for (let second = 0; second < 3; second += 1) {
      scheduler.set('a', makeTarget({ recheck: `now ${second}` }));
      await pass(1_000);
    }
    expect(probes.map(({ signal }) => signal.aborted)).toEqual([false]);
    script.unshift(BAD);
    gate.resolve(BAD);
    await vi.advanceTimersByTimeAsync(0);
    expect([times(), rechecks('a'), reason()]).toEqual([[0, 3_000], ['now 2'], 'ConnectionRefused']);
  });

  it('is answered by a probe that waits for a slot, which is yet to begin', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes, rechecks } = make({ limiter: createLimiter({ total: 1, perHost: 1 }) });
    script.push(gate.promise);
    scheduler.set('other', makeTarget({ fingerprint: 'other' }));
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    gate.resolve(GOOD);
    await pass(1_000);
    expect([probes.length, rechecks('a')]).toEqual([2, ['now']]);
  });

  it('begins with an empty memory, other probes with what those before remember', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes } = make();
    script.push(GOOD, GOOD, gate.promise);
    scheduler.set('a', makeTarget());
    await now();
    Object.assign(probes[0]?.memory ?? {}, { tools: 'remembered' });
    await pass(MINUTE);
    expect(probes[1]?.memory).toEqual({ tools: 'remembered' });
    await pass(MINUTE);
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    // What a probe remembers that began before is of no use.
    Object.assign(probes[2]?.memory ?? {}, { tools: 'late' });
    gate.resolve(GOOD);
    await now();
    expect(probes[3]?.memory).toEqual({});
    await pass(MINUTE);
    expect(probes[4]?.memory).toBe(probes[3]?.memory);
  });

  it('comes through although the server asked for a rest', async () => {
    const { scheduler, script, times } = make();
    script.push(LIMITED);
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    await now();
    expect(times()).toEqual([0, 1_000]);
  });

  it('is asked by no value that was answered in an earlier life, nor by one that is taken away', async () => {
    const { scheduler, times, rechecks } = make();
    scheduler.set('a', makeTarget({ recheck: 'old' }), 'healthy');
    await pass(30_000);
    expect([times(), rechecks('a')]).toEqual([[30_000], ['old']]);
    scheduler.set('a', makeTarget());
    await pass(1_000);
    expect(times()).toHaveLength(1);
  });
});

describe('connectors with the same target', () => {
  it('share its probes, and each is told', async () => {
    const { scheduler, times, results, observed, reason } = make();
    for (const key of ['a', 'b', 'c']) scheduler.set(key, makeTarget());
    await now();
    expect([times(), observed]).toEqual([[0], ['answered']]);
    expect(results).toEqual(['a', 'b', 'c']);
    expect(['a', 'b', 'c'].map(reason)).toEqual(['Answered', 'Answered', 'Answered']);
    await pass(MINUTE);
    expect(times()).toEqual([0, MINUTE]);
  });

  it.each<[string, Partial<Target>, number]>([
    ['fingerprint', { fingerprint: 'two' }, 2],
    ['audience', { audience: 'team' }, 2],
    ['timeout', { timeoutMs: 1 }, 2],
    ['trust', { trusted: true }, 2],
    ['tenant', { tenant: 'other' }, 1],
    ['interval', { intervalMs: 10 * MINUTE }, 1],
    ['thresholds', { failureThreshold: 7, successThreshold: 7 }, 1],
  ])('but with another %s do or do not share it', async (_what, other, count) => {
    const { scheduler, probes } = make();
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget(other));
    await now();
    expect(probes).toHaveLength(count);
  });

  it('are probed at the shortest of their intervals, as long as who wants it is there', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget({ intervalMs: MINUTE }));
    await pass(1_000);
    scheduler.set('b', makeTarget({ intervalMs: 10_000 }));
    await pass(25_000);
    // b took what a had, and had its own turn 10 s after.
    expect(times()).toEqual([0, 11_000, 21_000]);
    scheduler.set('b', undefined);
    await pass(75_000);
    expect(times()).toEqual([0, 11_000, 21_000, 31_000, 91_000]);
  });

  it('share a result that is younger than the interval of who comes, who finds it at once and untold', async () => {
    const { scheduler, times, results, reason, rechecks } = make();
    scheduler.set('a', makeTarget());
    await pass(30_000);
    scheduler.set('b', makeTarget());
    expect([reason('b'), rechecks('b')]).toEqual(['Answered', [undefined]]);
    await pass(29_999);
    expect([times(), results]).toEqual([[0], ['a']]);
    await pass(1);
    expect([times(), results]).toEqual([
      [0, MINUTE],
      ['a', 'a', 'b'],
    ]);
  });

  it('share no older result', async () => {
    const { scheduler, times, reason } = make();
    scheduler.set('a', makeTarget());
    await pass(30_000);
    scheduler.set('b', makeTarget({ intervalMs: 30_000 }));
    expect(reason('b')).toBeUndefined();
    await now();
    expect([times(), reason('b')]).toEqual([[0, 30_000], 'Answered']);
  });

  it('share an older result while the server asked for a rest', async () => {
    const { scheduler, script, times } = make();
    script.push(LIMITED);
    scheduler.set('a', makeTarget());
    await pass(500_000);
    scheduler.set('b', makeTarget({ intervalMs: 10_000 }));
    expect(scheduler.result('b')?.verdict.verified.reason).toBe('RateLimited');
    await pass(129_999);
    expect(times()).toEqual([0]);
    await pass(1);
    expect(times()).toEqual([0, 630_000]);
  });

  it('share a probe that runs as one of them comes', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times, reason } = make();
    script.push(gate.promise);
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('b', makeTarget());
    await pass(1_000);
    gate.resolve(BAD);
    await now();
    expect([times(), reason('a'), reason('b')]).toEqual([[0], 'ConnectionRefused', 'ConnectionRefused']);
  });

  it('share the first probe after a restart, which is as soon as the first of them needs it', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget({ intervalMs: 600_000 }), 'healthy');
    scheduler.set('b', makeTarget({ intervalMs: 600_000 }), 'healthy');
    scheduler.set('c', makeTarget({ intervalMs: 600_000 }), 'failed');
    await pass(30_000);
    expect(times()).toEqual([30_000]);
    const other = makeTarget({ fingerprint: 'two', intervalMs: 600_000 });
    scheduler.set('d', other, 'healthy');
    scheduler.set('e', other);
    await now();
    expect(times()).toEqual([30_000, 30_000]);
  });

  it('have each their own thresholds and counts', async () => {
    const { scheduler, script, reason } = make();
    script.push(GOOD, BAD, BAD, BAD, GOOD, GOOD);
    scheduler.set('a', makeTarget({ failureThreshold: 3, successThreshold: 1 }));
    scheduler.set('b', makeTarget({ failureThreshold: 2, successThreshold: 2 }));
    await now();
    const seen = [[reason('a'), reason('b')]];
    await pass(MINUTE);
    // Who comes now takes the failure for its first.
    scheduler.set('c', makeTarget({ failureThreshold: 3 }));
    seen.push([reason('a'), reason('b'), reason('c')]);
    for (let probe = 0; probe < 4; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push([reason('a'), reason('b'), reason('c')]);
    }
    const [up, down] = ['Answered', 'ConnectionRefused'];
    expect(seen).toEqual([
      [up, up],
      [up, up, down],
      [up, down, down],
      [down, down, down],
      [up, down, up],
      [up, up, up],
    ]);
  });

  it('are asked again soon while one of them is between its thresholds, though the others have failed for long', async () => {
    const { scheduler, script, times, reason } = make();
    script.push(...Array.from({ length: 12 }, () => BAD));
    scheduler.set('a', makeTarget({ intervalMs: 300_000 }));
    await pass(160_000);
    const before = [0, 5_000, 15_000, 35_000, 75_000, 155_000];
    expect(times()).toEqual(before);
    // It was healthy, and takes the failure of the others for its first.
    scheduler.set('b', makeTarget({ failureThreshold: 3, intervalMs: 300_000 }), 'healthy');
    expect(reason('b')).toBeUndefined();
    await pass(15_000);
    expect(times()).toEqual([...before, 165_000, 175_000]);
    expect(reason('b')).toBe('ConnectionRefused');
    // From then on at their pace.
    await pass(299_999);
    expect(times()).toHaveLength(8);
    await pass(1);
    expect(times()).toHaveLength(9);
  });

  it('are probed at once for the recheck of one of them, which answers each what it asked', async () => {
    const { scheduler, script, probes, times, rechecks, reason } = make();
    scheduler.set('a', makeTarget({ recheck: 'of a' }));
    scheduler.set('b', makeTarget());
    await pass(1_000);
    expect(rechecks('a', 'b')).toEqual(['of a', undefined]);
    const first = probes[0]?.memory;
    script.push(BAD);
    scheduler.set('b', makeTarget({ recheck: 'of b' }));
    await now();
    expect(times()).toEqual([0, 1_000]);
    expect(probes[1]?.memory).not.toBe(first);
    expect([rechecks('a', 'b'), reason('a'), reason('b')]).toEqual([
      ['of a', 'of b'],
      'ConnectionRefused',
      'ConnectionRefused',
    ]);
  });

  it('are probed at once also for the recheck of one that comes, which the result it finds does not answer', async () => {
    const { scheduler, times, rechecks, reason } = make();
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('b', makeTarget({ recheck: 'now' }));
    expect([reason('b'), rechecks('b')]).toEqual(['Answered', [undefined]]);
    await now();
    expect([times(), rechecks('b')]).toEqual([[0, 1_000], ['now']]);
  });

  it('keep a probe that runs when one of them leaves, and end it when the last does', async () => {
    const gates = [Promise.withResolvers<Outcome>(), Promise.withResolvers<Outcome>()] as const;
    const { scheduler, script, probes, results } = make();
    script.push(gates[0].promise, gates[1].promise);
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget());
    await now();
    scheduler.set('a', undefined);
    expect(probes[0]?.signal.aborted).toBe(false);
    gates[0].resolve(GOOD);
    await now();
    expect(results).toEqual(['b']);
    await pass(MINUTE);
    scheduler.set('b', makeTarget({ fingerprint: 'two' }));
    expect(probes[1]?.signal.aborted).toBe(true);
  });

  it('are probed in nobody’s name while they are of several namespaces, and in the name of the last', async () => {
    const asked: unknown[] = [];
    const { acquire, ...limiter } = createLimiter({ total: 5, perHost: 5 });
    const { scheduler, probes } = make({
      limiter: {
        ...limiter,
        acquire(place, signal) {
          asked.push(place);
          return acquire(place, signal);
        },
      },
    });
    const [first, second] = [makeTarget({ tenant: 'first' }), makeTarget({ tenant: 'second' })];
    scheduler.set('a', first);
    scheduler.set('b', second);
    await pass(1_000);
    scheduler.set('a', undefined);
    await pass(MINUTE);
    expect(asked).toEqual([
      { host: 'mcp.example.com', tenant: JSON.stringify(['one', '', 5_000, false]) },
      { host: 'mcp.example.com', tenant: 'second' },
    ]);
    expect(probes.map(({ target }) => target)).toEqual([first, second]);
  });
});

describe('keys', () => {
  it('with different targets are probed apart', async () => {
    const { scheduler, script, reason } = make();
    script.push(GOOD, BAD);
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget({ fingerprint: 'two' }));
    await now();
    expect([reason('a'), reason('b')]).toEqual(['Answered', 'ConnectionRefused']);
  });

  it('wait for a slot of their host, and not for others', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes } = make({ limiter: createLimiter({ total: 10, perHost: 1 }) });
    script.push(gate.promise);
    for (const path of ['one.example.com/a', 'one.example.com/b', 'two.example.com/c']) {
      scheduler.set(path, makeTarget({ fingerprint: path, url: `https://${path}` }));
    }
    await now();
    expect(probes.map(({ target }) => target.url)).toEqual(['https://one.example.com/a', 'https://two.example.com/c']);
    gate.resolve(GOOD);
    await now();
    expect(probes.at(-1)?.target.url).toBe('https://one.example.com/b');
  });

  it('that are dropped while they wait for a slot are never probed, and hold up nobody', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes, results } = make({ limiter: createLimiter({ total: 1, perHost: 1 }) });
    script.push(gate.promise);
    for (const key of ['a', 'b', 'c']) scheduler.set(key, makeTarget({ fingerprint: key }));
    await now();
    scheduler.set('b', undefined);
    gate.resolve(GOOD);
    await now();
    expect(probes.map(({ target }) => target.fingerprint)).toEqual(['a', 'c']);
    expect(results).toEqual(['a', 'c']);
  });
});

describe('an end', () => {
  it.each([
    ['set to nothing', (scheduler: ProbeScheduler) => scheduler.set('a', undefined)],
    ['closed', (scheduler: ProbeScheduler) => void scheduler.close()],
  ])('(%s) drops the result, the timer and the probe that runs', async (_how, end) => {
    const late = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes, results } = make();
    script.push(GOOD, late.promise);
    scheduler.set('a', makeTarget());
    await pass(MINUTE);
    end(scheduler);
    expect(scheduler.result('a')).toBeUndefined();
    expect(probes[1]?.signal.aborted).toBe(true);
    late.resolve(BAD);
    await pass(10 * MINUTE);
    expect(probes).toHaveLength(2);
    expect(results).toEqual(['a']);
    expect(scheduler.result('a')).toBeUndefined();
  });

  it('of a key that nobody set does nothing', () => {
    make().scheduler.set('a', undefined);
  });

  it('gives the slot back, also of a probe that throws', async () => {
    const { scheduler, script, probes } = make({ limiter: createLimiter({ total: 1, perHost: 1 }) });
    script.push(new Error('boom'));
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget({ fingerprint: 'two' }));
    await now();
    expect(probes).toHaveLength(2);
  });

  it('leaves nothing of what was set, however often', async () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const { scheduler, probes, results } = make();
    const kept: WeakRef<object>[] = [];
    for (let cycle = 0; cycle < 100_000; cycle += 1) {
      const target = makeTarget({ fingerprint: `${cycle % 7}`, timeoutMs: 1 + (cycle % 3), recheck: `${cycle}` });
      const key = `${cycle % 2}`;
      scheduler.set(key, target, cycle % 5 === 1 ? 'healthy' : undefined);
      if (cycle % 1_000 === 0) {
        await now();
        kept.push(new WeakRef(target), ...probes.splice(0).map(({ memory }) => new WeakRef(memory)));
        results.length = 0;
      }
      if (cycle % 3 !== 0) scheduler.set(key, undefined);
    }
    for (const key of ['0', '1']) scheduler.set(key, undefined);
    expect(vi.getTimerCount()).toBe(0);
    await new Promise(resolve => immediate(resolve));
    gc();
    expect(kept.length).toBeGreaterThanOrEqual(200);
    expect(kept.filter(ref => ref.deref() !== undefined)).toHaveLength(0);
  });
});

describe('the close of a scheduler', () => {
  /** Whether it has closed; looked at whenever the test wants to know. */
  function close(scheduler: ProbeScheduler): () => boolean {
    let closed = false;
    void scheduler.close().then(() => {
      closed = true;
    });
    return () => closed;
  }

  it.each<[string, (probe: PromiseWithResolvers<Outcome>) => void]>([
    ['an outcome', probe => probe.resolve(GOOD)],
    ['an error', probe => probe.reject(new Error('aborted'))],
  ])('waits until each probe that runs has ended, with %s, and takes nothing from it', async (_what, end) => {
    const { scheduler, script, results } = make();
    const probes = [Promise.withResolvers<Outcome>(), Promise.withResolvers<Outcome>()] as const;
    script.push(probes[0].promise, probes[1].promise);
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget({ fingerprint: 'two' }));
    await now();
    const closed = close(scheduler);
    await pass(MINUTE);
    expect(closed()).toBe(false);
    end(probes[0]);
    await now();
    expect(closed()).toBe(false);
    end(probes[1]);
    await now();
    expect(closed()).toBe(true);
    expect([results, vi.getTimerCount()]).toEqual([[], 0]);
  });

  it('waits also for a probe whose connector was dropped a moment ago', async () => {
    const { scheduler, script } = make();
    const probe = Promise.withResolvers<Outcome>();
    script.push(probe.promise);
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', undefined);
    const closed = close(scheduler);
    await now();
    expect(closed()).toBe(false);
    probe.resolve(GOOD);
    await now();
    expect(closed()).toBe(true);
  });

  it('does not wait for a probe that has no slot yet, nor for one that is to come', async () => {
    const { scheduler, script, probes } = make({ limiter: createLimiter({ total: 1, perHost: 1 }) });
    const probe = Promise.withResolvers<Outcome>();
    script.push(probe.promise);
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget({ fingerprint: 'two' }));
    await now();
    scheduler.set('c', makeTarget({ fingerprint: 'three' }), 'healthy');
    const closed = close(scheduler);
    probe.resolve(GOOD);
    await now();
    expect([closed(), probes.length]).toEqual([true, 1]);
  });

  it('is at once when nothing runs, and nothing starts after it, as a reconcile in hand would have it', async () => {
    const { scheduler, times } = make();
    await scheduler.close();
    scheduler.set('a', makeTarget());
    await pass(MINUTE);
    expect(times()).toEqual([]);
  });
});

describe('after a restart', () => {
  /** Even numbers from 0 to 1, the same each time (mulberry32). */
  function seeded(seed: number): () => number {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** The most that fall into any second. */
  function mostPerSecond(times: readonly number[]): number {
    const sorted = [...times].sort((a, b) => a - b);
    let [first, most] = [0, 0];
    for (const [index, at] of sorted.entries()) {
      while (at - (sorted[first] ?? at) >= 1000) first += 1;
      most = Math.max(most, index - first + 1);
    }
    return most;
  }

  it('thousands of connectors are probed spread out, and all within the interval', async () => {
    const { scheduler, probes, times } = make({
      random: seeded(1),
      limiter: createLimiter({ total: 32, perHost: 2, perHostPerSecond: 5 }),
      // One in ten has failed, and still does.
      answer: ({ url }) => (url.includes('failed') ? BAD : GOOD),
    });
    for (let index = 0; index < 5_000; index += 1) {
      const known = index % 10 === 0 ? 'failed' : 'healthy';
      const url = `https://${known}-${index}.example.com/mcp`;
      const target = makeTarget({ url, fingerprint: url, tenant: `${index % 100}`, intervalMs: 300_000 });
      scheduler.set(`${index}`, target, known);
    }
    await pass(300_000);
    // 4,500 / 300 s + 500 / 60 s = 23 per second on average in the first minute, and 6 √23 = 29 more for chance.
    expect(mostPerSecond(times())).toBeLessThanOrEqual(52);
    expect(new Set(probes.map(({ target }) => target.url)).size).toBe(5_000);
  });
});

describe('a group of connectors', () => {
  const KEYS = ['a', 'b', 'c', 'd', 'e'];
  const target = fc.record({
    fingerprint: fc.constantFrom('one', 'two', 'three'),
    timeoutMs: fc.constantFrom(1_000, 2_000),
    intervalMs: fc.constantFrom(1_000, 10_000, MINUTE),
    failureThreshold: fc.integer({ min: 1, max: 3 }),
    successThreshold: fc.integer({ min: 1, max: 3 }),
    recheck: fc.constantFrom(undefined, undefined, 'r1', 'r2'),
  });
  const known = fc.constantFrom('healthy', 'failed', undefined);
  const command = fc.oneof(
    { weight: 4, arbitrary: fc.record({ key: fc.constantFrom(...KEYS), target, known }) },
    { weight: 2, arbitrary: fc.record({ unset: fc.constantFrom(...KEYS) }) },
    { weight: 4, arbitrary: fc.record({ end: fc.nat(), with: fc.constantFrom(GOOD, BAD, UNLISTED, BROKEN, LIMITED) }) },
    { weight: 3, arbitrary: fc.record({ ms: fc.integer({ min: 1, max: 100_000 }) }) },
  );
  const groupOf = ({ fingerprint, timeoutMs }: Target): string => `${fingerprint} ${timeoutMs}`;

  it('has one probe at a time, always a next one, and is forgotten when nobody is left', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(command, { maxLength: 50 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        async (commands, chance) => {
          interface Probe extends PromiseWithResolvers<Outcome> {
            target: Target;
            signal: AbortSignal;
          }
          const limiter = createLimiter({ total: 100, perHost: 100 });
          const running = new Set<Probe>();
          const set = new Map<string, Target>();
          const told: string[] = [];
          const live = (): Probe[] => [...running].filter(({ signal }) => !signal.aborted);
          const scheduler = createProbeScheduler({
            async probe(target, _memory, signal) {
              const probe = { ...Promise.withResolvers<Outcome>(), target, signal };
              running.add(probe);
              signal.addEventListener('abort', () => probe.reject(signal.reason));
              return probe.promise.finally(() => running.delete(probe));
            },
            limiter,
            onResult: key => void told.push(key),
            random: () => chance,
          });
          const check = (): void => {
            const groups = new Set([...set.values()].map(groupOf));
            const probed = live().map(({ target }) => groupOf(target));
            expect(new Set(probed).size).toBe(probed.length);
            expect(groups).toEqual(new Set([...groups, ...probed]));
            // Each that is not probed has its timer, and there are no other timers.
            expect(vi.getTimerCount()).toBe(groups.size - probed.length);
            for (const key of KEYS) if (!set.has(key)) expect(scheduler.result(key)).toBeUndefined();
          };
          for (const step of commands) {
            told.length = 0;
            if ('key' in step) {
              set.set(step.key, makeTarget(step.target));
              scheduler.set(step.key, set.get(step.key), step.known);
            } else if ('unset' in step) {
              set.delete(step.unset);
              scheduler.set(step.unset, undefined);
            } else if ('end' in step) {
              const probe = live()[step.end % live().length];
              probe?.resolve(step.with);
              await now();
              const group = probe && groupOf(probe.target);
              expect(told.sort()).toEqual(
                [...set]
                  .filter(([, target]) => groupOf(target) === group)
                  .map(([key]) => key)
                  .sort(),
              );
            } else await pass(step.ms);
            await now();
            check();
          }
          // Whatever was before, each is probed again before long, and knows then what is so.
          for (let round = 0; round < 8; round += 1) {
            await pass(700_000);
            for (const probe of live()) probe.resolve(GOOD);
            await now();
          }
          for (const [key, { fingerprint, recheck }] of set) {
            expect(scheduler.result(key)).toMatchObject({ fingerprint, recheck, verdict: { healthy: true } });
          }
          for (const key of KEYS) scheduler.set(key, undefined);
          set.clear();
          await now();
          check();
          expect([running.size, limiter.running(), limiter.waiting()]).toEqual([0, 0, 0]);
        },
      ),
      { numRuns: 200 },
    );
  });
});

const of = (outcome: Outcome, credentials = false): Judgement =>
  judge(outcome, { url: 'https://mcp.example.com/mcp', credentials });

describe('advance', () => {
  it('keeps what is known of the tools until they were not listed as often as a failure counts', () => {
    const target = { failureThreshold: 3, successThreshold: 1 };
    const told: (string | undefined)[] = [];
    let now = advance(standing('healthy', 0, 1), of(GOOD), target);
    for (const outcome of [UNLISTED, { kind: 'busy' } as const, GOOD, UNLISTED, UNLISTED, UNLISTED, UNLISTED, GOOD]) {
      now = advance(now, of(outcome), target);
      told.push(now.verdict?.server?.tools?.hash);
    }
    const known = 'sha256:0';
    expect(told).toEqual([known, known, known, known, known, undefined, undefined, known]);
  });

  it('keeps that credentials are accepted until a server forbade its tools as often as a failure counts', () => {
    const target = { failureThreshold: 3, successThreshold: 1 };
    let now = advance(standing('healthy', 0, 1), of(GOOD, true), target);
    const told = Array.from({ length: 4 }, () => {
      now = advance(now, of({ ...UNLISTED, forbidden: true }, true), target);
      return now.verdict?.authorized.reason;
    });
    expect(told).toEqual(['CredentialsAccepted', 'CredentialsAccepted', 'Pending', 'Pending']);
  });

  it('tells at once that a server shows its tools to nobody without authorization any more', () => {
    const refusal = { kind: 'unauthorized', challenge: undefined } as const;
    const before = advance(standing('healthy', 0, 1), of(GOOD), { failureThreshold: 3, successThreshold: 1 });
    const after = advance(before, of({ ...UNLISTED, refusal }), { failureThreshold: 3, successThreshold: 1 });
    expect(after.verdict?.authorized.reason).toBe('AuthorizationRequired');
  });

  const OLD = of(GOOD).verdict;
  const standing = (health: Standing['health'], failures: number, successes: number): Standing => ({
    health,
    failures,
    successes,
    unlisted: 0,
    verdict: OLD,
  });
  it.each<[string, Standing, Outcome, Standing['health'], number, number, 'old' | 'new']>([
    ['a first success', standing(undefined, 0, 0), GOOD, 'healthy', 0, 1, 'new'],
    ['a first failure', standing(undefined, 0, 0), BAD, 'failed', 1, 0, 'new'],
    ['a first probe that says nothing', standing(undefined, 0, 0), BROKEN, undefined, 0, 0, 'new'],
    ['one more success', standing('healthy', 0, 7), GOOD, 'healthy', 0, 8, 'new'],
    ['a success after too few failures', standing('healthy', 1, 0), GOOD, 'healthy', 0, 1, 'new'],
    ['a failure too few', standing('healthy', 0, 7), BAD, 'healthy', 1, 0, 'old'],
    ['a failure that is enough', standing('healthy', 1, 0), BAD, 'failed', 2, 0, 'new'],
    ['one more failure', standing('failed', 2, 0), BAD, 'failed', 3, 0, 'new'],
    ['a success too few', standing('failed', 3, 0), GOOD, 'failed', 0, 1, 'old'],
    ['a success that is enough', standing('failed', 0, 2), GOOD, 'healthy', 0, 3, 'new'],
    ['a failure after too few successes', standing('failed', 0, 2), BAD, 'failed', 1, 0, 'new'],
    ['a probe without a list of tools', standing('failed', 0, 2), UNLISTED, 'healthy', 0, 3, 'new'],
    ['a probe that says nothing of one that was healthy', standing('healthy', 1, 0), LIMITED, 'healthy', 1, 0, 'old'],
    ['a probe that says nothing of one that had failed', standing('failed', 0, 1), BROKEN, 'failed', 0, 1, 'old'],
  ])('with %s', (_what, before, outcome, health, failures, successes, verdict) => {
    expect(advance(before, of(outcome), { failureThreshold: 2, successThreshold: 3 })).toMatchObject({
      health,
      failures,
      successes,
      verdict: verdict === 'old' ? OLD : of(outcome).verdict,
    });
  });
});

describe('count', () => {
  it.each<[string, Outcome, number, number]>([
    ['a success', GOOD, 0, 0],
    ['a server that is busy', { kind: 'busy' }, 0, 0],
    ['a server that wants its users to authorize', { kind: 'unauthorized', challenge: undefined }, 0, 0],
    ['a server that did not list its tools', UNLISTED, 0, 5],
    ['a failure', BAD, 3, 0],
    ['missing credentials', { kind: 'credentials-missing', why: 'x' }, 3, 0],
    ['a probe that broke', BROKEN, 2, 5],
    ['a rate limit', LIMITED, 2, 5],
  ])('%s', (_what, outcome, failures, doubts) => {
    expect(count({ failures: 2, doubts: 4 }, of(outcome))).toEqual({ failures, doubts });
  });
});

describe('waitAfter', () => {
  const member = (health: Standing['health'], failures = 0, intervalMs = 300_000) => ({
    standing: { health, failures, successes: 0, unlisted: 0, verdict: undefined },
    target: makeTarget({ intervalMs }),
  });
  const [well, failed] = [member('healthy'), member('failed', 9)];
  it.each<[string, Outcome, { failures: number; doubts: number }, ReturnType<typeof member>[], number]>([
    ['a success', GOOD, { failures: 0, doubts: 0 }, [well], 300_000],
    [
      'a success, by the shortest interval',
      GOOD,
      { failures: 0, doubts: 0 },
      [well, member('healthy', 0, 10_000)],
      10_000,
    ],
    ['a success too few for one of them', GOOD, { failures: 0, doubts: 0 }, [well, failed], 5_000],
    ['a success without a list of tools', UNLISTED, { failures: 0, doubts: 1 }, [well], 20_000],
    ['the third without', UNLISTED, { failures: 0, doubts: 3 }, [well], 80_000],
    ['the ninetieth without', UNLISTED, { failures: 0, doubts: 90 }, [well], 300_000],
    ['one without that is a success too few', UNLISTED, { failures: 0, doubts: 3 }, [failed], 5_000],
    ['a failure', BAD, { failures: 1, doubts: 0 }, [failed], 5_000],
    ['the fourth failure', BAD, { failures: 4, doubts: 0 }, [failed], 40_000],
    ['the two thousandth failure', BAD, { failures: 2_000, doubts: 0 }, [failed], 300_000],
    ['a failure, by a very short interval', BAD, { failures: 1, doubts: 0 }, [member('failed', 1, 1_000)], 1_000],
    ['a failure too few for all', BAD, { failures: 2, doubts: 0 }, [member('healthy', 2)], 10_000],
    [
      'a failure too few for one who came late',
      BAD,
      { failures: 9, doubts: 0 },
      [failed, member('healthy', 2)],
      10_000,
    ],
    [
      'a failure too few for one who came early',
      BAD,
      { failures: 2, doubts: 0 },
      [failed, member('healthy', 8)],
      10_000,
    ],
    ['a probe that broke', BROKEN, { failures: 9, doubts: 1 }, [failed], 20_000],
    ['the second that broke', BROKEN, { failures: 0, doubts: 2 }, [well], 40_000],
    ['a rate limit', LIMITED, { failures: 0, doubts: 1 }, [well], 300_000],
  ])('after %s', (_what, outcome, course, members, wait) => {
    expect(waitAfter(of(outcome), course, members)).toBe(wait);
  });
});

describe('firstWait', () => {
  it.each([
    ['healthy', 300_000, 300_000],
    ['failed', 300_000, 60_000],
    ['failed', 10_000, 10_000],
    [undefined, 300_000, 0],
  ] as const)('of one that was %s, with an interval of %i ms, is %i ms', (known, intervalMs, wait) => {
    expect(firstWait(known, intervalMs)).toBe(wait);
  });
});
