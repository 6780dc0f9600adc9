import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createQueue, type Priority, type Queue, type QueueObserver } from '../../../src/runtime/queue.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** The keys that can be taken without waiting, each given back at once unless `keep`. */
async function drain(queue: Queue): Promise<string[]> {
  const taken: string[] = [];
  while (queue.size() > 0) {
    const key = await queue.take();
    if (key === undefined) break;
    taken.push(key);
    queue.done(key);
  }
  return taken;
}

describe('a queue', () => {
  it('is first in, first out', async () => {
    const queue = createQueue();
    for (const key of ['a', 'b', 'c']) queue.add(key);
    expect(await drain(queue)).toEqual(['a', 'b', 'c']);
  });

  it('holds a waiting key once, at its first place', async () => {
    const queue = createQueue();
    for (const key of ['a', 'b', 'a', 'a']) queue.add(key);
    expect(queue.size()).toBe(2);
    expect(await drain(queue)).toEqual(['a', 'b']);
  });

  it('serves high before low, and each in order', async () => {
    const queue = createQueue();
    queue.add('low-1', 'low');
    queue.add('low-2', 'low');
    queue.add('high-1');
    queue.add('high-2', 'high');
    expect(await drain(queue)).toEqual(['high-1', 'high-2', 'low-1', 'low-2']);
  });

  it('raises a waiting key, and never lowers it', async () => {
    const queue = createQueue();
    queue.add('a', 'low');
    queue.add('b', 'low');
    queue.add('b', 'high');
    queue.add('b', 'low');
    expect(queue.size()).toBe(2);
    expect(await drain(queue)).toEqual(['b', 'a']);
  });

  it('never hands out a key twice at a time, and again when it was added meanwhile', async () => {
    const queue = createQueue();
    queue.add('a');
    expect(await queue.take()).toBe('a');
    queue.add('a');
    queue.add('a');
    queue.add('b');
    expect(await queue.take()).toBe('b');
    const third = vi.fn();
    void queue.take().then(third);
    await vi.advanceTimersByTimeAsync(0);
    expect(third).not.toHaveBeenCalled();
    queue.done('a');
    await vi.advanceTimersByTimeAsync(0);
    expect(third).toHaveBeenCalledExactlyOnceWith('a');
    queue.done('a');
    queue.done('b');
    expect(queue.size()).toBe(0);
  });

  it('gives a key that was added meanwhile the highest priority that it was added with', async () => {
    const queue = createQueue();
    queue.add('a');
    await queue.take();
    queue.add('b', 'low');
    queue.add('c', 'high');
    queue.add('a', 'high');
    queue.add('a', 'low');
    queue.done('a');
    expect(await drain(queue)).toEqual(['c', 'a', 'b']);
  });

  it('serves those who wait in the order in which they came', async () => {
    const queue = createQueue();
    const takes = [queue.take(), queue.take()];
    queue.add('a');
    queue.add('b');
    expect(await Promise.all(takes)).toEqual(['a', 'b']);
    queue.done('a');
    queue.done('b');
  });

  it('takes no harm from a key given back that nobody took', async () => {
    const queue = createQueue();
    queue.add('a');
    queue.done('a');
    queue.done('b');
    expect(await drain(queue)).toEqual(['a']);
  });

  it('counts what waits and what is worked on, and not what is delayed', async () => {
    const queue = createQueue();
    queue.add('a');
    queue.add('b', 'low');
    queue.addAfter('c', 1_000);
    await queue.take();
    expect(queue.size()).toBe(2);
    queue.close();
  });

  it('knows how long work is unfinished, the oldest first', async () => {
    let now = 100;
    const queue = createQueue(undefined, { now: () => now });
    expect(queue.unfinished()).toEqual([]);
    queue.add('a');
    queue.add('b');
    await queue.take();
    now = 1_100;
    await queue.take();
    now = 3_100;
    expect(queue.unfinished()).toEqual([3, 2]);
    queue.done('a');
    expect(queue.unfinished()).toEqual([2]);
    queue.done('b');
    expect(queue.unfinished()).toEqual([]);
  });
});

const lineOf = (key: string): string => key.split('/')[0] ?? '';
const keysOf = (line: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${line}/${index}`);

describe('lines of a queue', () => {
  it('take turns, each first in, first out', async () => {
    const queue = createQueue(undefined, { lineOf });
    for (const key of ['a/1', 'a/2', 'a/3', 'b/1', 'c/1', 'b/2']) queue.add(key);
    expect(await drain(queue)).toEqual(['a/1', 'b/1', 'c/1', 'a/2', 'b/2', 'a/3']);
  });

  it.each(['high', 'low'] as const)(
    'keep nobody waiting behind ten thousand keys of another one: %s',
    async priority => {
      const queue = createQueue(undefined, { lineOf });
      for (const key of keysOf('crowd', 10_000)) queue.add(key, priority);
      await queue.take();
      queue.add('alone/1', priority);
      expect([await queue.take(), await queue.take()]).toEqual(['crowd/1', 'alone/1']);
      queue.close();
    },
  );

  it('gives one that comes again its turn after all others that wait', async () => {
    const queue = createQueue(undefined, { lineOf });
    for (const key of ['a/1', 'b/1', 'c/1']) queue.add(key);
    const first = await queue.take();
    queue.add('a/2');
    expect([first, await queue.take(), await queue.take(), await queue.take()]).toEqual(['a/1', 'b/1', 'c/1', 'a/2']);
    queue.close();
  });

  it('that are many are served high before low all the same', async () => {
    const queue = createQueue(undefined, { lineOf });
    for (const line of ['a', 'b', 'c', 'd']) queue.add(`${line}/low`, 'low');
    queue.add('d/high', 'high');
    expect(await drain(queue)).toEqual(['d/high', 'a/low', 'b/low', 'c/low', 'd/low']);
  });
});

describe('low keys', () => {
  it('get one turn in ten while high ones never end', async () => {
    const queue = createQueue(undefined, { lineOf });
    for (const key of keysOf('flood', 100)) queue.add(key);
    for (const key of keysOf('fresh', 3)) queue.add(key, 'low');
    const taken: (string | undefined)[] = [];
    for (let turn = 0; turn < 35; turn += 1) taken.push(await queue.take());
    const turns = taken.flatMap((key, index) => (key?.startsWith('fresh') ? [`${key} as number ${index + 1}`] : []));
    expect(turns).toEqual(['fresh/0 as number 10', 'fresh/1 as number 20', 'fresh/2 as number 30']);
    queue.close();
  });

  it('that come after many high ones do not go before the next of these', async () => {
    const queue = createQueue();
    for (const key of keysOf('early', 50)) queue.add(key);
    await drain(queue);
    queue.add('late', 'low');
    queue.add('high');
    expect(await drain(queue)).toEqual(['high', 'late']);
  });
});

describe('a delay', () => {
  it('adds its key when it is over', async () => {
    const queue = createQueue();
    queue.addAfter('a', 1_000);
    await vi.advanceTimersByTimeAsync(999);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
  });

  it.each([
    [[1_000, 5_000], 1_000],
    [[5_000, 1_000], 1_000],
    [[3_000, 3_000], 3_000],
  ])('of several, %j, is the shortest one, and adds once', async (delays, expected) => {
    const queue = createQueue();
    for (const delay of delays) queue.addAfter('a', delay);
    await vi.advanceTimersByTimeAsync(expected - 1);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(queue.size()).toBe(0);
  });

  it('ends when its key is added otherwise', async () => {
    const queue = createQueue();
    queue.addAfter('a', 1_000);
    queue.add('a');
    expect(await drain(queue)).toEqual(['a']);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(queue.size()).toBe(0);
  });

  it('that ends while its key is worked on lets it come again', async () => {
    const queue = createQueue();
    queue.add('a');
    await queue.take();
    queue.addAfter('a', 1_000);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(queue.size()).toBe(1);
    queue.done('a');
    expect(await drain(queue)).toEqual(['a']);
  });
});

describe('the back-off of a key', () => {
  /** How long each of some retries in a row waits. */
  async function waits(random: number, retries: number): Promise<number[]> {
    const queue = createQueue(undefined, { random: () => random });
    const found: number[] = [];
    for (let retry = 0; retry < retries; retry += 1) {
      const start = Date.now();
      queue.retry('a');
      await vi.advanceTimersToNextTimerAsync();
      found.push(Date.now() - start);
      await drain(queue);
    }
    return found;
  }

  it.each([
    ['at most', 0.999_999_999, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]],
    ['at least', 0, [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150]],
  ])('doubles from 1 s up to 5 min: %s', async (_bound, random, seconds) => {
    const found = await waits(random, seconds.length);
    expect(found.map(ms => Math.ceil(ms / 100) / 10)).toEqual(seconds);
  });

  it('does not overflow after very many failures', async () => {
    const found = await waits(0, 1_100);
    expect(found.at(-1)).toBe(150_000);
  });

  it('is its own, and ends with forget', async () => {
    const queue = createQueue(undefined, { random: () => 0 });
    for (let retry = 0; retry < 4; retry += 1) {
      queue.retry('a');
      await vi.advanceTimersToNextTimerAsync();
      await drain(queue);
    }
    queue.forget('a');
    queue.retry('a');
    queue.retry('b');
    await vi.advanceTimersByTimeAsync(499);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a', 'b']);
  });
});

describe('a retry that a server asked to put off', () => {
  it.each([
    ['waits as long as was asked', [7_000], 7_000],
    ['waits its back-off when that is longer', [100], 500],
    ['waits its back-off when nothing was asked', [0], 500],
    ['waits its back-off when nothing was said', [], 500],
    ['waits as long as was asked, longer than any back-off', [600_000], 600_000],
  ])('%s', async (_what, asked, expected) => {
    const queue = createQueue(undefined, { random: () => 0 });
    queue.retry('a', ...asked);
    await vi.advanceTimersByTimeAsync(expected - 1);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
  });

  it('is not hastened by whatever else adds its key', async () => {
    const queue = createQueue(undefined, { random: () => 0 });
    queue.retry('a', 7_000);
    queue.add('a');
    queue.addAfter('a', 100);
    await vi.advanceTimersByTimeAsync(6_999);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
    queue.add('a');
    expect(await drain(queue)).toEqual(['a']);
  });

  it('is not hastened by what came while its key was worked on', async () => {
    const queue = createQueue(undefined, { random: () => 0 });
    queue.add('a');
    await queue.take();
    queue.add('a');
    queue.addAfter('a', 100);
    queue.retry('a', 7_000);
    queue.done('a');
    await vi.advanceTimersByTimeAsync(6_999);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
  });

  it.each([0, 50, 101])('comes no later for that when something else adds its key, after %d ms', async ms => {
    const queue = createQueue(undefined, { random: () => 0 });
    for (let failure = 0; failure < 9; failure += 1) {
      queue.retry('a');
      await vi.advanceTimersByTimeAsync(300_000);
      await drain(queue);
    }
    queue.retry('a', 100);
    await vi.advanceTimersByTimeAsync(ms);
    queue.add('a');
    expect(queue.size()).toBe(ms > 100 ? 1 : 0);
    await vi.advanceTimersByTimeAsync(100 - Math.min(ms, 100));
    expect(await drain(queue)).toEqual(['a']);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('counts how often in a row its key failed', () => {
    const queue = createQueue();
    expect([queue.retry('a'), queue.retry('a'), queue.retry('b'), queue.retry('a')]).toEqual([1, 2, 1, 3]);
    queue.forget('a');
    expect(queue.retry('a')).toBe(1);
    queue.close();
  });

  it('counts as a failure all the same', async () => {
    const queue = createQueue(undefined, { random: () => 0 });
    for (let retry = 0; retry < 3; retry += 1) {
      queue.retry('a', 10_000);
      await vi.advanceTimersByTimeAsync(10_000);
      await drain(queue);
    }
    queue.retry('a');
    await vi.advanceTimersByTimeAsync(3_999);
    expect(queue.size()).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(await drain(queue)).toEqual(['a']);
  });
});

describe('a queue that is closed', () => {
  it('lets takers go, drops what waits, and takes nothing any more', async () => {
    const queue = createQueue();
    queue.add('working');
    await queue.take();
    const waiting = queue.take();
    queue.add('again');
    expect(await waiting).toBe('again');
    const idle = queue.take();
    queue.addAfter('delayed', 1_000);
    queue.close();
    expect(await idle).toBeUndefined();
    queue.add('late');
    queue.addAfter('late', 1);
    queue.retry('late');
    expect(vi.getTimerCount()).toBe(0);
    expect(await queue.take()).toBeUndefined();
    expect(queue.size()).toBe(2);
    queue.done('working');
    queue.done('again');
    expect(queue.size()).toBe(0);
  });

  it('does not bring back what was added while it was worked on', async () => {
    const queue = createQueue();
    queue.add('a');
    await queue.take();
    queue.add('a');
    queue.add('waiting');
    queue.close();
    queue.done('a');
    expect(await queue.take()).toBeUndefined();
    expect(queue.size()).toBe(0);
  });
});

describe('the observer of a queue', () => {
  it('is told of adds, depth, retries and times', async () => {
    let now = 0;
    const told: string[] = [];
    const observer: QueueObserver = {
      added: () => told.push('added'),
      depth: waiting => told.push(`depth ${waiting}`),
      retried: () => told.push('retried'),
      waited: seconds => told.push(`waited ${seconds}`),
      worked: seconds => told.push(`worked ${seconds}`),
    };
    const queue = createQueue(observer, { now: () => now });
    queue.add('a', 'low');
    now = 1_000;
    queue.add('a', 'low');
    queue.add('a', 'high');
    now = 3_000;
    await queue.take();
    queue.add('a');
    now = 8_000;
    queue.done('a');
    queue.retry('a');
    queue.close();
    expect(told).toEqual([
      'added',
      'depth 1',
      // Raised to high: it has waited since it was first added.
      'added',
      'depth 1',
      'waited 3',
      'depth 0',
      'worked 5',
      'added',
      'depth 1',
      'retried',
    ]);
  });
});

/** The order of service in plain lists. */
function createModel() {
  type Line = { name: string; keys: string[] };
  const waiting: Record<Priority, Line[]> = { high: [], low: [] };
  const working = new Map<string, Priority | undefined>();
  let sinceLow = 0;
  const has = (priority: Priority, key: string): boolean => waiting[priority].some(({ keys }) => keys.includes(key));
  const remove = (priority: Priority, key: string): void => {
    for (const line of waiting[priority]) line.keys = line.keys.filter(other => other !== key);
    waiting[priority] = waiting[priority].filter(({ keys }) => keys.length > 0);
  };
  const model = {
    working,
    add(key: string, priority: Priority): void {
      if (working.has(key)) {
        working.set(key, working.get(key) === 'high' ? 'high' : priority);
        return;
      }
      if (has('high', key) || has(priority, key)) return;
      remove('low', key);
      const line = waiting[priority].find(({ name }) => name === lineOf(key));
      if (line) line.keys.push(key);
      else waiting[priority].push({ name: lineOf(key), keys: [key] });
    },
    take(): string | undefined {
      const priority = waiting.high.length === 0 || (sinceLow === 9 && waiting.low.length > 0) ? 'low' : 'high';
      const line = waiting[priority].shift();
      const key = line?.keys.shift();
      if (!line || key === undefined) return undefined;
      if (line.keys.length > 0) waiting[priority].push(line);
      sinceLow = priority === 'high' && waiting.low.length > 0 ? sinceLow + 1 : 0;
      working.set(key, undefined);
      return key;
    },
    done(key: string): void {
      const again = working.get(key);
      working.delete(key);
      if (again) model.add(key, again);
    },
    size: (): number => [...waiting.high, ...waiting.low].flatMap(({ keys }) => keys).length + working.size,
  };
  return model;
}

describe('whatever is done with a queue', () => {
  it('keys come in the order of a simple model', async () => {
    const key = fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.nat(7)).map(([line, number]) => `${line}/${number}`);
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ do: fc.constant('add' as const), key, isHigh: fc.boolean() }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('take' as const) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('done' as const), nth: fc.nat(5) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 200, size: 'max' }), async steps => {
        const queue = createQueue(undefined, { lineOf });
        const model = createModel();
        for (const step of steps) {
          if (step.do === 'add') {
            queue.add(step.key, step.isHigh ? 'high' : 'low');
            model.add(step.key, step.isHigh ? 'high' : 'low');
          } else if (step.do === 'done') {
            const key = [...model.working.keys()][step.nth];
            if (key === undefined) continue;
            queue.done(key);
            model.done(key);
          } else {
            const expected = model.take();
            if (expected !== undefined) expect(await queue.take()).toBe(expected);
          }
          expect(queue.size()).toBe(model.size());
        }
        queue.close();
      }),
    );
  });

  it('a key is in one hand at most, waits once at most, and none is lost', async () => {
    const keys = fc.constantFrom('a', 'b', 'c', 'd');
    const step = fc.oneof(
      fc.record({ do: fc.constant('add' as const), key: keys, priority: fc.constantFrom('high', 'low') }),
      fc.record({ do: fc.constant('addAfter' as const), key: keys, delay: fc.nat(100) }),
      fc.record({ do: fc.constant('take' as const) }),
      fc.record({ do: fc.constant('done' as const), nth: fc.nat(5) }),
      fc.record({ do: fc.constant('pass' as const), ms: fc.nat(120) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
        const queue = createQueue();
        const inHand: string[] = [];
        const twice: string[] = [];
        /** Keys that were asked for after they were last handed out: each must come yet. */
        const owed = new Set<string>();
        let takers = 0;
        const take = (): void => {
          takers += 1;
          void queue.take().then(key => {
            takers -= 1;
            if (key === undefined) return;
            if (inHand.includes(key)) twice.push(key);
            inHand.push(key);
            owed.delete(key);
          });
        };
        const giveBack = (nth: number): void => {
          const [key] = inHand.splice(nth, 1);
          if (key !== undefined) queue.done(key);
        };
        for (const step of steps) {
          switch (step.do) {
            case 'add':
              owed.add(step.key);
              queue.add(step.key, step.priority as 'high' | 'low');
              break;
            case 'addAfter':
              owed.add(step.key);
              queue.addAfter(step.key, step.delay);
              break;
            case 'take':
              take();
              break;
            case 'done':
              giveBack(step.nth);
              break;
            case 'pass':
              await vi.advanceTimersByTimeAsync(step.ms);
              break;
          }
          await vi.advanceTimersByTimeAsync(0);
          expect(queue.size()).toBeLessThanOrEqual(4);
        }
        await vi.advanceTimersByTimeAsync(1_000);
        for (let round = 0; round < 20; round += 1) {
          while (inHand.length > 0) giveBack(0);
          if (takers === 0) take();
          await vi.advanceTimersByTimeAsync(0);
        }
        expect(twice).toEqual([]);
        expect([...owed]).toEqual([]);
        expect(queue.size()).toBe(0);
        queue.close();
      }),
      { numRuns: 60 },
    );
  });
});
