import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Outcome, startController } from '../../../src/runtime/controller.ts';
import { createHotLoopGuard, type HotLoop } from '../../../src/runtime/hot-loop.ts';
import { createQueue, type Queue } from '../../../src/runtime/queue.ts';

const open: Queue[] = [];
afterEach(() => {
  for (const queue of open.splice(0)) queue.close();
  vi.useRealTimers();
});

interface Setup {
  workers?: number;
  deadlineMs?: number;
  signal?: AbortSignal;
  retryAfter?: (error: unknown) => number;
}

/** A controller over a queue whose delays are told instead of waited for. */
function start(reconcile: (key: string, signal: AbortSignal) => Promise<Outcome>, setup: Setup = {}) {
  const { workers = 1, deadlineMs, signal = new AbortController().signal, retryAfter } = setup;
  const told: string[] = [];
  const results: string[] = [];
  const active: number[] = [];
  let wake = (): void => {};
  const real = createQueue();
  open.push(real);
  const queue: Queue = {
    ...real,
    addAfter: (key, ms) => void told.push(`addAfter ${key} ${ms}`),
    retry: (key, atLeastMs) => told.push(`retry ${key}${atLeastMs === undefined ? '' : ` after ${atLeastMs}`}`),
    forget: key => void told.push(`forget ${key}`),
    done(key) {
      real.done(key);
      wake();
    },
  };
  const controller = startController({
    queue,
    reconcile,
    workers,
    signal,
    onError: (key, error) => void told.push(`error ${key} ${(error as Error).message}`),
    observer: {
      active: count => void active.push(count),
      reconciled: (result, seconds) => {
        expect(seconds).toBeGreaterThanOrEqual(0);
        results.push(result);
      },
    },
    ...(deadlineMs !== undefined && { deadlineMs }),
    ...(retryAfter && { retryAfter }),
  });
  return {
    ...controller,
    queue,
    told,
    results,
    active,
    /** Resolves when as many reconciles have ended. */
    async ended(count: number) {
      while (results.length < count) {
        await new Promise<void>(resolve => {
          wake = resolve;
        });
      }
    },
  };
}

describe('a reconcile', () => {
  it.each<[string, () => Promise<Outcome>, string, string[]]>([
    ['that is done ends the back-off', async () => ({}), 'success', ['forget a']],
    [
      'that asks to come again does so after its time',
      async () => ({ requeueAfterMs: 5_000 }),
      'requeue_after',
      ['forget a', 'addAfter a 5000'],
    ],
    [
      'that asks to come again at once is heard',
      async () => ({ requeueAfterMs: 0 }),
      'requeue_after',
      ['forget a', 'addAfter a 0'],
    ],
    [
      'that fails is told and tried again with back-off',
      async () => Promise.reject(new Error('boom')),
      'error',
      ['retry a', 'error a boom'],
    ],
    [
      'that throws before it is under way is tried again as well',
      () => {
        throw new Error('boom');
      },
      'error',
      ['retry a', 'error a boom'],
    ],
  ])('%s', async (_what, reconcile, result, told) => {
    const controller = start(reconcile);
    controller.queue.add('a');
    await controller.ended(1);
    expect(controller.results).toEqual([result]);
    expect(controller.told).toEqual(told);
    expect(controller.active).toEqual([1, 0]);
    expect(controller.queue.size()).toBe(0);
  });

  it('that fails is left alone for as long as its error asks', async () => {
    const controller = start(async () => Promise.reject(new Error('busy')), {
      retryAfter: error => ((error as Error).message === 'busy' ? 7_000 : 0),
    });
    controller.queue.add('a');
    await controller.ended(1);
    expect(controller.told).toEqual(['retry a after 7000', 'error a busy']);
  });

  it('is followed by the next one, also after a failure', async () => {
    const seen: string[] = [];
    const controller = start(async key => {
      seen.push(key);
      if (key === 'a') throw new Error('boom');
      return {};
    });
    for (const key of ['a', 'b', 'c']) controller.queue.add(key);
    await controller.ended(3);
    expect(seen).toEqual(['a', 'b', 'c']);
  });

  it('is aborted at its deadline and tried again', async () => {
    const controller = start(
      (_key, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason));
        }),
      { deadlineMs: 5 },
    );
    controller.queue.add('a');
    await controller.ended(1);
    expect(controller.results).toEqual(['error']);
    expect(controller.told).toEqual(['retry a', expect.stringMatching(/^error a .*took too long/)]);
  });

  it('that ends because of the shutdown is neither told nor tried again', async () => {
    const abort = new AbortController();
    const begun = Promise.withResolvers<void>();
    const controller = start(
      (_key, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason));
          begun.resolve();
        }),
      { signal: abort.signal },
    );
    controller.queue.add('a');
    await begun.promise;
    controller.queue.close();
    abort.abort();
    await controller.done;
    expect(controller.told).toEqual([]);
    expect(controller.results).toEqual(['error']);
  });
});

describe('a key that is hot', () => {
  const PER_MINUTE = 5;

  /** A controller with a real queue and guard, on the test's clock; each reconcile of `a` wakes `a` again. */
  function startHot(reconcile: (key: string) => Promise<Outcome> = async () => ({})) {
    vi.useFakeTimers();
    const queue = createQueue();
    const input = { value: 'as it was' };
    const hot: HotLoop[] = [];
    const seen: { key: string; at: number }[] = [];
    const results: string[] = [];
    const guard = createHotLoopGuard({
      perMinute: PER_MINUTE,
      inputOf: key => (key === 'a' ? input.value : ''),
      onHot: loop => void hot.push(loop),
    });
    const began = performance.now();
    const wake = (key: string): void => {
      guard.woken(key, 'Deployment');
      queue.add(key);
    };
    const controller = startController({
      queue,
      async reconcile(key) {
        seen.push({ key, at: performance.now() - began });
        if (key === 'a') wake(key);
        return reconcile(key);
      },
      workers: 2,
      signal: new AbortController().signal,
      onError: () => {},
      observer: { active() {}, reconciled: result => void results.push(result) },
      hotLoops: guard,
    });
    return {
      queue,
      input,
      hot,
      results,
      wake,
      times: (key = 'a') => seen.filter(one => one.key === key).map(({ at }) => at),
      async stop() {
        queue.close();
        await controller.done;
        expect(vi.getTimerCount()).toBe(0);
        vi.useRealTimers();
      },
    };
  }

  it('is reconciled once a second, told of once a minute, and cools when the minute is over', async () => {
    const { queue, hot, results, times, stop } = startHot();
    queue.add('a');
    await vi.advanceTimersByTimeAsync(59_999);
    expect(times().slice(0, PER_MINUTE + 3)).toEqual([...Array(PER_MINUTE + 1).fill(0), 1_000, 2_000]);
    expect(times()).toHaveLength(PER_MINUTE + 60);
    expect(hot).toEqual([{ key: 'a', reconciles: PER_MINUTE + 1, causes: { Deployment: PER_MINUTE } }]);
    // What was held back is no reconcile.
    expect(results).toHaveLength(PER_MINUTE + 60);
    await vi.advanceTimersByTimeAsync(1);
    expect(times()).toHaveLength(PER_MINUTE + 60 + PER_MINUTE + 1);
    expect(hot).toHaveLength(2);
    await stop();
  });

  it('is reconciled at once when something else is asked of it', async () => {
    const { queue, input, hot, wake, times, stop } = startHot();
    queue.add('a');
    await vi.advanceTimersByTimeAsync(1_500);
    const before = times().length;
    input.value = 'changed';
    wake('a');
    await vi.advanceTimersByTimeAsync(0);
    expect(times().slice(before)).toEqual(Array(PER_MINUTE + 1).fill(1_500));
    expect(hot).toHaveLength(2);
    await stop();
  });

  it('holds up no other key', async () => {
    const { queue, wake, times, stop } = startHot();
    queue.add('a');
    await vi.advanceTimersByTimeAsync(500);
    wake('b');
    await vi.advanceTimersByTimeAsync(0);
    expect(times('b')).toEqual([500]);
    await stop();
  });

  it('is not forgotten while it is held back, and is counted as waiting by nobody', async () => {
    const { queue, wake, times, stop } = startHot();
    queue.add('a');
    await vi.advanceTimersByTimeAsync(100);
    expect(queue.size()).toBe(0);
    // A flood of events while it is held back brings it no sooner.
    for (let event = 0; event < 100; event += 1) {
      wake('a');
      await vi.advanceTimersByTimeAsync(5);
    }
    expect(times()).toHaveLength(PER_MINUTE + 1);
    await vi.advanceTimersByTimeAsync(400);
    expect(times()).toHaveLength(PER_MINUTE + 2);
    await stop();
  });

  it('is slowed down as well while it fails', async () => {
    const { queue, times, stop } = startHot(async () => Promise.reject(new Error('boom')));
    queue.add('a');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(times().length).toBeGreaterThanOrEqual(PER_MINUTE + 10);
    expect(times().length).toBeLessThanOrEqual(PER_MINUTE + 12);
    await stop();
  });
});

describe('the workers of a controller', () => {
  it('work on as many keys at a time as there are workers, and not on one key twice', async () => {
    const gate = Promise.withResolvers<void>();
    const full = Promise.withResolvers<void>();
    const running: string[] = [];
    const seen: string[] = [];
    const controller = start(
      async key => {
        expect(running).not.toContain(key);
        running.push(key);
        seen.push(key);
        if (running.length === 2) full.resolve();
        await gate.promise;
        running.splice(running.indexOf(key), 1);
        return {};
      },
      { workers: 2 },
    );
    for (const key of ['a', 'b', 'c']) controller.queue.add(key);
    await full.promise;
    controller.queue.add('a');
    expect(running).toEqual(['a', 'b']);
    gate.resolve();
    await controller.ended(4);
    expect(seen.sort()).toEqual(['a', 'a', 'b', 'c']);
    expect(Math.max(...controller.active)).toBe(2);
    expect(controller.active.at(-1)).toBe(0);
  });

  it('finish what is in hand when the queue is closed, and take nothing more', async () => {
    const gate = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const seen: string[] = [];
    const controller = start(async key => {
      seen.push(key);
      begun.resolve();
      await gate.promise;
      return {};
    });
    controller.queue.add('a');
    controller.queue.add('b');
    await begun.promise;
    let done = false;
    const end = controller.done.then(() => {
      done = true;
    });
    controller.queue.close();
    await new Promise(setImmediate);
    expect(done).toBe(false);
    gate.resolve();
    await end;
    expect(seen).toEqual(['a']);
    expect(controller.results).toEqual(['success']);
  });
});

describe('draining', () => {
  /** A reconcile that ends when it is told to, or aborted. */
  function makeSlow() {
    const running = new Map<string, () => void>();
    const aborted: string[] = [];
    const reconcile = (key: string, signal: AbortSignal): Promise<Outcome> =>
      new Promise((resolve, reject) => {
        running.set(key, () => resolve({}));
        signal.addEventListener('abort', () => {
          aborted.push(key);
          reject(signal.reason);
        });
      });
    return { running, aborted, ...start(reconcile, { workers: 3 }) };
  }

  it('waits for what is in hand and not kept, and for nothing else', async () => {
    const { running, aborted, queue, drain, ended } = makeSlow();
    for (const key of ['kept', 'one', 'other']) queue.add(key);
    await vi.waitFor(() => expect(running.size).toBe(3));
    let isDrained = false;
    const drained = drain(key => key === 'kept', 60_000).then(() => {
      isDrained = true;
    });
    running.get('one')?.();
    await ended(1);
    expect(isDrained).toBe(false);
    running.get('other')?.();
    await drained;
    expect(aborted).toEqual([]);
    running.get('kept')?.();
    await ended(3);
  });

  it('has nothing to wait for when all that is in hand is kept', async () => {
    const { running, queue, drain, ended } = makeSlow();
    queue.add('kept');
    await vi.waitFor(() => expect(running.size).toBe(1));
    await drain(() => true, 0);
    running.get('kept')?.();
    await ended(1);
  });

  it('aborts what takes too long, and neither tells of it as a failure nor tries it again', async () => {
    const { running, aborted, told, queue, drain, ended } = makeSlow();
    for (const key of ['kept', 'gone']) queue.add(key);
    await vi.waitFor(() => expect(running.size).toBe(2));
    await drain(key => key === 'kept', 1);
    expect([aborted, told]).toEqual([['gone'], []]);
    running.get('kept')?.();
    await ended(2);
  });
});
