import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createLimiter, type Limiter } from '../../../src/probe/limiter.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import { createProbeScheduler } from '../../../src/probe/schedule.ts';
import type { Target } from '../../../src/probe/target.ts';
import { makeTarget } from '../support.ts';

const GOOD: Outcome = { kind: 'answered', server: { protocolVersion: '2025-11-25', capabilities: [] } };
const BAD: Outcome = { kind: 'refused' };
const BROKEN: Outcome = { kind: 'broken', why: 'x' };
const LIMITED: Outcome = { kind: 'rate-limited', retryAfterMs: 600_000 };

const MINUTE = 60_000;

interface Setup {
  random?: () => number;
  limiter?: Limiter;
}

/** A scheduler whose probes answer what `script` holds next, and GOOD when it is used up. */
function make({ random = () => 0.5, limiter = createLimiter({ total: 10, perHost: 10 }) }: Setup = {}) {
  const script: (Outcome | Error | Promise<Outcome>)[] = [];
  const probes: { at: number; target: Target; signal: AbortSignal }[] = [];
  const results: string[] = [];
  const observed: string[] = [];
  const start = Date.now();
  const scheduler = createProbeScheduler({
    async probe(target, signal) {
      probes.push({ at: Date.now() - start, target, signal });
      const next = script.shift() ?? GOOD;
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
  return { scheduler, script, probes, results, observed, reason, times: () => probes.map(({ at }) => at) };
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
    [0, 0],
    [0.25, 15_000],
    [0.999, 59_940],
  ])('of one that is known to be healthy comes within the interval (random %d: %d ms)', async (random, at) => {
    const { scheduler, times } = make({ random: () => random });
    scheduler.set('a', makeTarget(), 'healthy');
    await pass(at);
    expect(times()).toEqual([at]);
  });

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

  it.each([
    ['the time that the server asked for', LIMITED, MINUTE, 600_000],
    ['the interval when it named none', { kind: 'rate-limited', retryAfterMs: undefined } as const, MINUTE, MINUTE],
    ['the interval when it named less', { kind: 'rate-limited', retryAfterMs: 1_000 } as const, MINUTE, MINUTE],
    ['20 s after a probe that broke', BROKEN, MINUTE, 20_000],
    ['the interval when that is less', BROKEN, 10_000, 10_000],
  ])('is %s when nothing new is known', async (_what, outcome, intervalMs, wait) => {
    const { scheduler, script, times } = make();
    script.push(outcome);
    scheduler.set('a', makeTarget({ intervalMs }));
    await pass(wait - 1);
    expect(times()).toEqual([0]);
    await pass(1);
    expect(times()).toEqual([0, wait]);
  });

  it('comes sooner when the interval becomes shorter', async () => {
    const { scheduler, times } = make();
    scheduler.set('a', makeTarget({ intervalMs: 3_600_000 }));
    await pass(1_000);
    scheduler.set('a', makeTarget({ intervalMs: 10_000 }));
    await pass(10_000);
    expect(times()).toEqual([0, 11_000]);
  });

  it('does not overflow a timer, which would run it at once', async () => {
    const { scheduler, script, times } = make({ random: () => 1 });
    script.push({ kind: 'rate-limited', retryAfterMs: 2 ** 40 });
    scheduler.set('a', makeTarget());
    await pass(MINUTE);
    expect(times()).toEqual([0]);
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

  it('is probed with its new settings, even if its result still stands', async () => {
    const { scheduler, probes, times } = make();
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', makeTarget({ timeoutMs: 1 }));
    expect(scheduler.result('a')).toBeDefined();
    await pass(MINUTE);
    expect(times()).toEqual([0, MINUTE]);
    expect(probes[1]?.target.timeoutMs).toBe(1);
  });
});

describe('a recheck', () => {
  it('probes at once and keeps the result meanwhile', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times } = make();
    script.push(GOOD, gate.promise);
    scheduler.set('a', makeTarget());
    await pass(1_000);
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    await now();
    expect(times()).toEqual([0, 1_000]);
    expect(scheduler.result('a')).toMatchObject({ recheck: undefined, verdict: { healthy: true } });
    gate.resolve(GOOD);
    await now();
    expect(scheduler.result('a')?.recheck).toBe('now');
    await pass(MINUTE);
    expect(times()).toEqual([0, 1_000, 61_000]);
  });

  it('ends a probe that runs, which began before it was asked for', async () => {
    const stuck = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes } = make();
    script.push(stuck.promise);
    scheduler.set('a', makeTarget());
    await now();
    scheduler.set('a', makeTarget({ recheck: 'now' }));
    await now();
    expect(probes.map(({ signal }) => signal.aborted)).toEqual([true, false]);
    expect(scheduler.result('a')?.recheck).toBe('now');
  });
});

describe('keys', () => {
  it('are probed apart', async () => {
    const { scheduler, script, reason } = make();
    script.push(GOOD, BAD);
    scheduler.set('a', makeTarget());
    scheduler.set('b', makeTarget());
    await now();
    expect([reason('a'), reason('b')]).toEqual(['Answered', 'ConnectionRefused']);
  });

  it('wait for a slot of their host, and not for others', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, probes } = make({ limiter: createLimiter({ total: 10, perHost: 1 }) });
    script.push(gate.promise);
    scheduler.set('a', makeTarget({ url: 'https://one.example.com/a' }));
    scheduler.set('b', makeTarget({ url: 'https://one.example.com/b' }));
    scheduler.set('c', makeTarget({ url: 'https://two.example.com/c' }));
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
    for (const key of ['a', 'b', 'c']) scheduler.set(key, makeTarget({ url: `https://${key}.example.com` }));
    await now();
    scheduler.set('b', undefined);
    gate.resolve(GOOD);
    await now();
    expect(probes.map(({ target }) => target.url)).toEqual(['https://a.example.com', 'https://c.example.com']);
    expect(results).toEqual(['a', 'c']);
  });
});

describe('an end', () => {
  it.each([
    ['set to nothing', (scheduler: ReturnType<typeof createProbeScheduler>) => scheduler.set('a', undefined)],
    ['closed', (scheduler: ReturnType<typeof createProbeScheduler>) => void scheduler.close()],
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
    scheduler.set('b', makeTarget());
    await now();
    expect(probes).toHaveLength(2);
  });
});

describe('the close of a scheduler', () => {
  /** Whether it has closed; looked at whenever the test wants to know. */
  function close(scheduler: ReturnType<typeof createProbeScheduler>): () => boolean {
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
    scheduler.set('b', makeTarget());
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
    scheduler.set('b', makeTarget());
    await now();
    scheduler.set('c', makeTarget(), 'healthy');
    const closed = close(scheduler);
    probe.resolve(GOOD);
    await now();
    expect([closed(), probes.length]).toEqual([true, 1]);
  });

  it('is at once when nothing runs', async () => {
    await make().scheduler.close();
  });
});

describe('regressions', () => {
  it('never asks again before the time that a server asked for', async () => {
    const { scheduler, script, times } = make({ random: () => 0 });
    script.push(LIMITED);
    scheduler.set('a', makeTarget());
    await pass(600_000 - 1);
    expect(times()).toEqual([0]);
  });

  it('heeds an interval that became shorter while a probe ran', async () => {
    const gate = Promise.withResolvers<Outcome>();
    const { scheduler, script, times } = make();
    script.push(gate.promise);
    scheduler.set('a', makeTarget({ intervalMs: 86_400_000 }));
    await now();
    scheduler.set('a', makeTarget({ intervalMs: 10_000 }));
    gate.resolve(GOOD);
    await pass(10_000);
    expect(times()).toEqual([0, 10_000]);
  });

  it('starts nothing after it was closed, as a reconcile in hand would have it', async () => {
    const { scheduler, times } = make();
    await scheduler.close();
    scheduler.set('a', makeTarget());
    await pass(MINUTE);
    expect(times()).toEqual([]);
  });

  it('counts failures also of a connector that an earlier life of the operator knew to be healthy', async () => {
    // The kept status holds while there is no result; today one failure after a restart turns Ready to False.
    const { scheduler, script, reason } = make();
    script.push(BAD, BAD, BAD);
    scheduler.set('a', makeTarget({ failureThreshold: 3 }), 'healthy');
    const seen: (string | undefined)[] = [];
    for (let probe = 0; probe < 3; probe += 1) {
      await vi.advanceTimersToNextTimerAsync();
      seen.push(reason());
    }
    expect(seen).toEqual([undefined, undefined, 'ConnectionRefused']);
  });

  it('lets a probe that says nothing leave what an earlier life of the operator knew', async () => {
    const { scheduler, script, reason } = make();
    script.push(LIMITED);
    scheduler.set('a', makeTarget(), 'healthy');
    await pass(MINUTE);
    expect(reason()).toBeUndefined();
  });

  it('asks successes in a row only of a connector that had failed', async () => {
    const { scheduler, script, reason } = make();
    script.push(BROKEN, GOOD);
    scheduler.set('a', makeTarget({ successThreshold: 3 }));
    await pass(20_000);
    expect(reason()).toBe('Answered');
  });
});
