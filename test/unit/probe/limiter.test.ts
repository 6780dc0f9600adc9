import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createLimiter, type LimiterOptions, partOf } from '../../../src/probe/limiter.ts';

/** The real one. */
const clock = performance.now.bind(performance);
const live = (): AbortSignal => new AbortController().signal;
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** Asks for slots and remembers who got one, in order. A name such as a2 is a claim of tenant a, at its own host unless one is given. */
function make(options: LimiterOptions) {
  const limiter = createLimiter(options);
  const got: string[] = [];
  const releases = new Map<string, () => void>();
  const ask = async (name: string, host = name, signal = live()): Promise<void> => {
    const release = await limiter.acquire({ host, tenant: name.charAt(0) }, signal);
    got.push(name);
    releases.set(name, release);
  };
  const asks = async (...names: string[]): Promise<void> => {
    for (const name of names) void ask(name);
    await pass(0);
  };
  const release = async (...names: string[]): Promise<void> => {
    for (const name of names) releases.get(name)?.();
    await pass(0);
  };
  const counts = (): number[] => [limiter.running(), limiter.waiting()];
  return { limiter, got, ask, asks, release, counts };
}

describe('slots', () => {
  it('are so many at a time, in all', async () => {
    const { got, asks, release, counts } = make({ total: 2, perHost: 2 });
    await asks('a', 'b', 'c', 'd');
    expect([got, counts()]).toEqual([
      ['a', 'b'],
      [2, 2],
    ]);
    await release('a');
    expect(got).toEqual(['a', 'b', 'c']);
    await release('c');
    expect(got).toEqual(['a', 'b', 'c', 'd']);
    await release('b', 'd');
    expect(counts()).toEqual([0, 0]);
  });

  it('tell how long the one has waited that waits longest', async () => {
    const { limiter, ask, asks, release } = make({ total: 1, perHost: 1 });
    expect(limiter.longestWaitMs()).toBe(0);
    await asks('a');
    await pass(500);
    expect(limiter.longestWaitMs()).toBe(0);
    const impatient = new AbortController();
    void ask('b', 'b', impatient.signal).catch(() => {});
    await pass(1_000);
    await asks('c', 'd');
    await pass(250);
    expect(limiter.longestWaitMs()).toBe(1_250);
    impatient.abort();
    expect(limiter.longestWaitMs()).toBe(250);
    for (const name of ['a', 'c', 'd']) await release(name);
    expect(limiter.longestWaitMs()).toBe(0);
  });

  it('are so many at a time for a host, and others pass those that wait for it', async () => {
    const { got, ask, release } = make({ total: 10, perHost: 1 });
    for (const name of ['a', 'b', 'c']) void ask(name, name === 'c' ? 'other' : 'one');
    await pass(0);
    expect(got).toEqual(['a', 'c']);
    await release('c');
    expect(got).toEqual(['a', 'c']);
    await release('a');
    expect(got).toEqual(['a', 'c', 'b']);
  });

  it.each([
    [1, 1],
    [2, 1],
    [4, 3],
    [32, 24],
  ])('of %i are at most %i for one tenant, and the rest for others', async (total, most) => {
    const { limiter, asks, counts } = make({ total, perHost: 1 });
    await asks(...Array.from({ length: 40 }, (_, index) => `a${index}`));
    expect(counts()).toEqual([most, 40 - most]);
    for (let index = 0; index < 40; index += 1) {
      void limiter.acquire({ host: `other ${index}`, tenant: `other ${index}` }, live());
    }
    expect(limiter.running()).toBe(total);
  });

  it('are taken back once, however often they are given', async () => {
    const { got, asks, release, counts } = make({ total: 1, perHost: 1 });
    await asks('a', 'b', 'c');
    await release('a', 'a');
    expect([got, counts()]).toEqual([
      ['a', 'b'],
      [1, 1],
    ]);
  });
});

describe('the next to be served', () => {
  it('is of the tenant with the fewest running', async () => {
    const { got, asks, release } = make({ total: 4, perHost: 1 });
    await asks('a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'b3', 'd1');
    expect(got.splice(0)).toEqual(['a1', 'a2', 'b1', 'c1']);
    // Of d nothing runs.
    await release('c1');
    expect(got.splice(0)).toEqual(['d1']);
    // Of a there run two, of b one.
    await release('d1');
    expect(got.splice(0)).toEqual(['b2']);
    // Now of a one, of b two.
    await release('a1');
    expect(got.splice(0)).toEqual(['a3']);
  });

  it('is of equal tenants the one that has waited longest since it came or was served', async () => {
    const { got, asks, release } = make({ total: 1, perHost: 1 });
    await asks('x', 'a1', 'a2', 'b1', 'b2', 'c1');
    for (const name of ['x', 'a1', 'b1', 'c1', 'a2', 'b2']) {
      expect(got.at(-1)).toBe(name);
      await release(name);
    }
    expect(got).toHaveLength(6);
  });

  it('is within a tenant of another host, and within a host the first', async () => {
    const { got, ask, release } = make({ total: 1, perHost: 1 });
    const names = ['t', 't at a 1', 't at a 2', 't at a 3', 't at b 1', 't at b 2', 't at c 1'];
    for (const name of names) void ask(name, name.slice(5, 6));
    await pass(0);
    for (const name of ['t', 't at a 1', 't at b 1', 't at c 1', 't at a 2', 't at b 2', 't at a 3']) {
      expect(got.at(-1)).toBe(name);
      await release(name);
    }
    expect(got).toHaveLength(7);
  });

  it('is not held up by a tenant whose slow hosts keep all slots that it may have', async () => {
    const { got, ask, asks, release } = make({ total: 4, perHost: 2 });
    await asks('a1', 'a2', 'a3', 'a4', 'a5');
    void ask('b1', 'a4');
    await pass(0);
    expect(got.splice(0)).toEqual(['a1', 'a2', 'a3', 'b1']);
    await asks('b2', 'b3');
    await release('b1');
    expect(got).toEqual(['b2']);
  });
});

describe('who is aborted', () => {
  it('before gets no slot', async () => {
    const { ask, asks, got } = make({ total: 1, perHost: 1 });
    await expect(ask('a', 'a', AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone');
    await asks('b');
    expect(got).toEqual(['b']);
  });

  it('leaves the line, and holds up nobody', async () => {
    const { got, ask, asks, release, counts } = make({ total: 1, perHost: 1 });
    const abort = new AbortController();
    await asks('a');
    const leaving = ask('b', 'b', abort.signal);
    await asks('c');
    abort.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    expect(counts()).toEqual([1, 1]);
    await release('a');
    expect(got).toEqual(['a', 'c']);
  });

  it('while it waits for a token leaves no timer', async () => {
    const { ask, asks } = make({ total: 9, perHost: 9, perHostPerSecond: 1 });
    const abort = new AbortController();
    await ask('a', 'host');
    const leaving = ask('b', 'host', abort.signal);
    await asks();
    expect(vi.getTimerCount()).toBe(1);
    abort.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    expect(vi.getTimerCount()).toBe(0);
  });

  it('after it got its slot keeps it', async () => {
    const { got, ask, asks, release, counts } = make({ total: 1, perHost: 1 });
    const abort = new AbortController();
    await asks('a');
    void ask('b', 'b', abort.signal);
    await release('a');
    abort.abort();
    expect(counts()).toEqual([1, 0]);
    await release('b');
    await asks('c');
    expect(got).toEqual(['a', 'b', 'c']);
  });
});

describe('the rate of a host', () => {
  /** When each of so many got its slot, if each gives it back at once. */
  async function starts(count: number, perHostPerSecond: number, perHost = 100): Promise<number[]> {
    const { limiter } = make({ total: 100, perHost, perHostPerSecond });
    const begin = Date.now();
    const times: number[] = [];
    const served = Array.from({ length: count }, async (_, index) => {
      const release = await limiter.acquire({ host: 'one', tenant: `${index % 7}` }, live());
      times.push(Date.now() - begin);
      release();
    });
    await vi.runAllTimersAsync();
    await Promise.all(served);
    return times;
  }

  it.each([
    [5, 9, [0, 0, 0, 0, 0, 200, 400, 600, 800]],
    [1, 3, [0, 1000, 2000]],
    [0.5, 3, [0, 2000, 4000]],
    [2.5, 5, [0, 0, 200, 600, 1000]],
  ])('of %d per second lets as many start at once, and then one after another', async (rate, count, expected) => {
    expect(await starts(count, rate)).toEqual(expected);
    expect(await starts(count, rate, 1)).toEqual(expected);
  });

  it('gives back its tokens while it rests, but no more than it has, and remembers them meanwhile', async () => {
    const { got, ask, asks, release } = make({ total: 100, perHost: 100, perHostPerSecond: 2 });
    const askSome = async (letter: string): Promise<number> => {
      const names = [1, 2, 3].map(index => `${letter}${index}`);
      const abort = new AbortController();
      for (const name of names) void ask(name, 'one', abort.signal).catch(() => {});
      await pass(0);
      abort.abort();
      await release(...names);
      return got.splice(0).length;
    };
    expect(await askSome('a')).toBe(2);
    await pass(499);
    expect(await askSome('b')).toBe(0);
    await pass(1);
    expect(await askSome('c')).toBe(1);
    await pass(60_000);
    // The start of another host is when it forgets those at rest.
    await asks('other');
    got.splice(0);
    expect(await askSome('d')).toBe(2);
  });

  it('holds up no other host', async () => {
    const { got, ask } = make({ total: 3, perHost: 3, perHostPerSecond: 1 });
    for (const name of ['a1', 'a2']) void ask(name, 'one');
    void ask('b1', 'two');
    await pass(0);
    expect(got).toEqual(['a1', 'b1']);
    await pass(999);
    expect([got.length, vi.getTimerCount()]).toEqual([2, 1]);
    await pass(1);
    expect([got, vi.getTimerCount()]).toEqual([['a1', 'b1', 'a2'], 0]);
  });

  it('serves the tenant with the fewest running when it has a token', async () => {
    const { got, ask, asks } = make({ total: 9, perHost: 9, perHostPerSecond: 1 });
    await asks('a1');
    await ask('x', 'one');
    for (const name of ['a2', 'b1']) void ask(name, 'one');
    await pass(1000);
    expect(got).toEqual(['a1', 'x', 'b1']);
    await pass(1000);
    expect(got).toEqual(['a1', 'x', 'b1', 'a2']);
  });
});

describe('a limiter', () => {
  const at = fc.record({
    host: fc.constantFrom('h1', 'h2', 'h3'),
    tenant: fc.constantFrom('t1', 't2', 't3', 't4'),
  });
  const command = fc.oneof(
    { weight: 4, arbitrary: at.map(place => ({ ask: place })) },
    { weight: 3, arbitrary: fc.nat().map(release => ({ release })) },
    { weight: 1, arbitrary: fc.nat().map(abort => ({ abort })) },
    { weight: 2, arbitrary: fc.integer({ min: 1, max: 700 }).map(ms => ({ ms })) },
  );
  const bounds = fc.record({
    total: fc.integer({ min: 1, max: 6 }),
    perHost: fc.integer({ min: 1, max: 3 }),
    perHostPerSecond: fc.constantFrom(0.5, 1, 2, 5, Number.POSITIVE_INFINITY),
  });

  interface Claim {
    host: string;
    tenant: string;
    abort: AbortController;
    state: 'waits' | 'runs' | 'ended';
    release: () => void;
  }

  it('keeps its bounds, is fair, and serves everybody who waits and stays, whatever the order', async () => {
    await fc.assert(
      fc.asyncProperty(bounds, fc.array(command, { maxLength: 60 }), async (options, commands) => {
        const { total, perHost, perHostPerSecond: rate } = options;
        const perTenant = Math.max(1, Math.floor((total * 3) / 4));
        const limiter = createLimiter(options);
        const claims: Claim[] = [];
        const wrong: string[] = [];
        const starts = new Map<string, number[]>();
        const those = (state: Claim['state'], of: Partial<Claim> = {}): Claim[] =>
          claims.filter(
            claim =>
              claim.state === state &&
              (of.host ?? claim.host) === claim.host &&
              (of.tenant ?? claim.tenant) === claim.tenant,
          );
        const hasToken = (host: string, at: number): boolean => {
          const times = starts.get(host) ?? [];
          let [tokens, last] = [Math.max(1, rate), 0];
          for (const time of times) {
            tokens = Math.min(Math.max(1, rate), tokens + ((time - last) * rate) / 1000) - 1;
            last = time;
          }
          return rate === Number.POSITIVE_INFINITY || tokens + ((at - last) * rate) / 1000 > 1 - 1e-6;
        };
        /** Whether it could start now, by what the test knows. */
        const fits = ({ host, tenant }: Claim, at = Date.now()): boolean =>
          those('runs').length < total &&
          those('runs', { host }).length < perHost &&
          those('runs', { tenant }).length < perTenant &&
          hasToken(host, at);
        const ask = (place: Claim): void => {
          claims.push(place);
          limiter.acquire(place, place.abort.signal).then(
            release => {
              const atWork = ({ tenant }: Claim): number => those('runs', { tenant }).length;
              if (!fits(place)) wrong.push('it exceeds a bound');
              // Of tokens that come in the same millisecond, the first may be taken before the second is there.
              const before = Date.now() - 1;
              if (those('waits').some(other => fits(other, before) && atWork(other) < atWork(place)))
                wrong.push('it is unfair');
              place.state = 'runs';
              place.release = release;
              starts.set(place.host, [...(starts.get(place.host) ?? []), Date.now()]);
            },
            () => {
              place.state = 'ended';
            },
          );
        };
        const end = (claim: Claim | undefined): void => {
          if (!claim) return;
          claim.state = 'ended';
          claim.release();
        };
        const settle = async (ms: number): Promise<void> => {
          await pass(ms);
          expect([limiter.running(), limiter.waiting()]).toEqual([those('runs').length, those('waits').length]);
          if (those('waits').some(claim => fits(claim))) wrong.push('somebody waits who could start');
          expect(wrong).toEqual([]);
        };
        for (const step of commands) {
          if ('ask' in step) ask({ ...step.ask, abort: new AbortController(), state: 'waits', release: () => {} });
          else if ('release' in step) end(those('runs')[step.release % those('runs').length]);
          else if ('abort' in step) those('waits')[step.abort % those('waits').length]?.abort.abort();
          await settle('ms' in step ? step.ms : 0);
        }
        for (let left = claims.length; left > 0 && those('runs').length + those('waits').length > 0; left -= 1) {
          end(those('runs')[0]);
          await settle(2_000);
        }
        expect([limiter.running(), limiter.waiting(), vi.getTimerCount()]).toEqual([0, 0, 0]);
      }),
      { numRuns: 200 },
    );
  });

  it('has little to do for each of thousands who wait', async () => {
    for (const [hosts, tenants] of [
      [5_000, 1],
      [5_000, 5_000],
      [5_000, 50],
      [1, 5_000],
    ] as const) {
      const limiter = createLimiter({ total: 32, perHost: 2 });
      const releases: (() => void)[] = [];
      let asked = 0;
      const ask = (): void => {
        const place = { host: `${asked % hosts}`, tenant: `${asked % tenants}` };
        asked += 1;
        void limiter.acquire(place, live()).then(release => releases.push(release));
      };
      while (limiter.waiting() < 5_000) ask();
      const start = clock();
      for (let cycle = 0; cycle < 10_000; cycle += 1) {
        if (releases.length === 0) await Promise.resolve();
        releases.shift()?.();
        ask();
      }
      // It takes 0.1 to 0.3 s; who looked at all who wait each time would take many.
      expect(clock() - start).toBeLessThan(3_000);
      expect(limiter.waiting()).toBeGreaterThanOrEqual(5_000);
    }
  });

  it('keeps nothing of hosts and tenants that came and went', async () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const state = { now: 0 };
    const limiter = createLimiter({ total: 2, perHost: 1, perHostPerSecond: 5, now: () => state.now });
    const round = async (index: number): Promise<void> => {
      const abort = new AbortController();
      const name = 'x'.repeat(200) + index;
      const release = await limiter.acquire({ host: name, tenant: name }, live());
      const waits = limiter.acquire({ host: name, tenant: `${name} waits` }, abort.signal).catch(() => {});
      abort.abort();
      await waits;
      release();
      state.now += 1;
    };
    for (let index = 0; index < 1_000; index += 1) await round(index);
    gc();
    const before = process.memoryUsage().heapUsed;
    for (let index = 1_000; index < 31_000; index += 1) await round(index);
    gc();
    // A name takes more than 200 bytes: 30,000 names are 6 MB and more.
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(3_000_000);
  });
});

describe('the part of one of several processes', () => {
  it.each([
    [0, { total: 32, perHost: 2, perHostPerSecond: 5 }],
    [2, { total: 16, perHost: 1, perHostPerSecond: 2.5 }],
    [3, { total: 10, perHost: 1, perHostPerSecond: 5 / 3 }],
    [16, { total: 2, perHost: 1, perHostPerSecond: 5 / 16 }],
    // Who could start none would probe nothing.
    [64, { total: 1, perHost: 1, perHostPerSecond: 5 / 64 }],
  ])('of %i is its share, and at least one slot', (processes, part) => {
    expect(partOf({ total: 32, perHost: 2, perHostPerSecond: 5 }, processes)).toEqual(part);
  });
});
