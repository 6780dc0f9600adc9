import { describe, expect, it } from 'vitest';
import { createHotLoopGuard, type HotLoop } from '../../../src/runtime/hot-loop.ts';

/** A guard whose clock and inputs are the test's; `hot` is what it told. */
function make(perMinute = 3) {
  const clock = { now: 1_000_000 };
  const inputs = new Map<string, string>();
  const hot: HotLoop[] = [];
  const guard = createHotLoopGuard({
    perMinute,
    inputOf: key => inputs.get(key) ?? 'as it was',
    onHot: loop => void hot.push(loop),
    now: () => clock.now,
  });
  return { guard, clock, inputs, hot };
}

/** What of some reconciles in a row, each `everyMs`, is let through, and how long the others are told to wait. */
function run({ guard, clock }: ReturnType<typeof make>, times: number, everyMs: number, key = 'a'): number[] {
  return Array.from({ length: times }, () => {
    const wait = guard.reconciling(key);
    clock.now += everyMs;
    return wait;
  });
}

describe('a key', () => {
  it.each([
    ['is let through while it is reconciled no oftener than allowed', 3, 0, [0, 0, 0], 0],
    ['is let through once more, and told of, when it is', 4, 0, [0, 0, 0, 0], 1],
    ['must wait a second after that', 5, 0, [0, 0, 0, 0, 1_000], 1],
    ['must wait for what is left of the second', 5, 300, [0, 0, 0, 0, 700], 1],
    ['is let through once a second', 8, 500, [0, 0, 0, 0, 500, 0, 500, 0], 1],
    ['never waits when it comes once a second by itself', 20, 1_000, Array(20).fill(0), 1],
  ])('%s', (_what, times, everyMs, waits, told) => {
    const made = make();
    expect(run(made, times, everyMs)).toEqual(waits);
    expect(made.hot).toHaveLength(told);
  });

  it('is reconciled 60 times in a minute at most once it is hot, however often it is woken', () => {
    const made = make(3);
    let passed = 0;
    for (const end = made.clock.now + 59_999; made.clock.now < end; made.clock.now += 10) {
      if (made.guard.reconciling('a') === 0) passed += 1;
    }
    expect(passed).toBeLessThanOrEqual(3 + 60);
    expect(passed).toBeGreaterThan(55);
    expect(made.hot).toHaveLength(1);
  });

  it('has no say in how often another one is reconciled', () => {
    const made = make();
    run(made, 10, 0, 'a');
    expect(run(made, 4, 0, 'b')).toEqual([0, 0, 0, 0]);
    expect(made.hot.map(({ key }) => key)).toEqual(['a', 'b']);
  });

  it('cools when the minute is over, and is told of again when it is as hot in the next one', () => {
    const made = make();
    run(made, 10, 0);
    made.clock.now += 59_999;
    made.guard.reconciling('a');
    expect(made.hot).toHaveLength(1);
    made.clock.now += 1;
    expect(run(made, 4, 0)).toEqual([0, 0, 0, 0]);
    expect(made.hot).toHaveLength(2);
  });

  it('is not told of in a minute in which it is quiet', () => {
    const made = make();
    run(made, 4, 0);
    made.clock.now += 60_000;
    run(made, 3, 0);
    expect(made.hot).toHaveLength(1);
  });

  it('starts anew when something else is asked of it', () => {
    const made = make();
    made.guard.woken('a', 'Pod');
    run(made, 5, 0);
    made.inputs.set('a', 'changed');
    expect(run(made, 3, 0)).toEqual([0, 0, 0]);
    expect(made.hot).toHaveLength(1);
    made.guard.woken('a', 'probe');
    run(made, 1, 0);
    // What woke it before belongs to what was asked before.
    expect(made.hot[1]).toEqual({ key: 'a', reconciles: 4, causes: { probe: 1 } });
  });

  it('is never hot while something else is asked each time', () => {
    const made = make();
    for (let change = 0; change < 1_000; change += 1) {
      made.inputs.set('a', String(change));
      expect(made.guard.reconciling('a')).toBe(0);
    }
    expect(made.hot).toEqual([]);
  });
});

describe('what is told of a hot key', () => {
  it('is what woke it, the most frequent first', () => {
    const made = make();
    const causes = ['Pod', 'Deployment', 'probe', 'Deployment', 'Service', 'Pod', 'Deployment'];
    for (const cause of causes) made.guard.woken('a', cause);
    made.guard.woken('b', 'NetworkPolicy');
    run(made, 4, 0);
    expect(made.hot).toEqual([{ key: 'a', reconciles: 4, causes: { Deployment: 3, Pod: 2, probe: 1, Service: 1 } }]);
    expect(Object.keys(made.hot[0]?.causes ?? {})).toEqual(['Deployment', 'Pod', 'probe', 'Service']);
  });

  it('is of this minute only', () => {
    const made = make();
    for (let wakes = 0; wakes < 9; wakes += 1) made.guard.woken('a', 'Pod');
    made.clock.now += 60_000;
    made.guard.woken('a', 'probe');
    run(made, 4, 0);
    expect(made.hot[0]?.causes).toEqual({ probe: 1 });
  });

  it('may be nothing: retries wake nobody', () => {
    const made = make();
    run(made, 4, 0);
    expect(made.hot).toEqual([{ key: 'a', reconciles: 4, causes: {} }]);
  });
});
