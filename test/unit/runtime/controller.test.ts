import { afterEach, describe, expect, it } from 'vitest';
import { type Outcome, startController } from '../../../src/runtime/controller.ts';
import { createQueue, type Queue } from '../../../src/runtime/queue.ts';

const open: Queue[] = [];
afterEach(() => {
  for (const queue of open.splice(0)) queue.close();
});

interface Setup {
  workers?: number;
  deadlineMs?: number;
  signal?: AbortSignal;
}

/** A controller over a queue whose delays are told instead of waited for. */
function start(reconcile: (key: string, signal: AbortSignal) => Promise<Outcome>, setup: Setup = {}) {
  const { workers = 1, deadlineMs, signal = new AbortController().signal } = setup;
  const told: string[] = [];
  const results: string[] = [];
  const active: number[] = [];
  let wake = (): void => {};
  const real = createQueue();
  open.push(real);
  const queue: Queue = {
    ...real,
    addAfter: (key, ms) => void told.push(`addAfter ${key} ${ms}`),
    retry: key => void told.push(`retry ${key}`),
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
      ['error a boom', 'retry a'],
    ],
    [
      'that throws before it is under way is tried again as well',
      () => {
        throw new Error('boom');
      },
      'error',
      ['error a boom', 'retry a'],
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
    expect(controller.told).toEqual([expect.stringMatching(/^error a .*timeout/), 'retry a']);
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
