import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createLimiter } from '../../../src/probe/limiter.ts';

const live = (): AbortSignal => new AbortController().signal;
const settled = (): Promise<unknown> => new Promise(setImmediate);

/** Asks for slots and remembers who got one, in order. */
function make(bounds: { total: number; perHost: number }) {
  const limiter = createLimiter(bounds);
  const got: string[] = [];
  const releases = new Map<string, () => void>();
  const ask = (name: string, host = name.charAt(0), signal = live()): Promise<void> =>
    limiter.acquire(host, signal).then(release => {
      got.push(name);
      releases.set(name, release);
    });
  const release = async (name: string): Promise<void> => {
    releases.get(name)?.();
    await settled();
  };
  return { got, ask, release };
}

describe('a limiter', () => {
  it('lets so many run at a time, in all', async () => {
    const { got, ask, release } = make({ total: 2, perHost: 2 });
    for (const name of ['a', 'b', 'c', 'd']) void ask(name);
    await settled();
    expect(got).toEqual(['a', 'b']);
    await release('a');
    expect(got).toEqual(['a', 'b', 'c']);
    await release('c');
    expect(got).toEqual(['a', 'b', 'c', 'd']);
  });

  it('lets so many run at a time for a host, and others pass those that wait for it', async () => {
    const { got, ask, release } = make({ total: 10, perHost: 1 });
    for (const name of ['a1', 'a2', 'b1']) void ask(name);
    await settled();
    expect(got).toEqual(['a1', 'b1']);
    await release('b1');
    expect(got).toEqual(['a1', 'b1']);
    await release('a1');
    expect(got).toEqual(['a1', 'b1', 'a2']);
  });

  it('serves hosts in turn, and each in order', async () => {
    const { got, ask, release } = make({ total: 1, perHost: 1 });
    for (const name of ['x', 'a1', 'a2', 'a3', 'b1', 'b2', 'c1']) void ask(name);
    await settled();
    for (const name of ['x', 'a1', 'b1', 'c1', 'a2', 'b2', 'a3']) {
      expect(got.at(-1)).toBe(name);
      await release(name);
    }
    expect(got).toHaveLength(7);
  });

  it('takes a slot back once, however often it is given', async () => {
    const { got, ask, release } = make({ total: 1, perHost: 1 });
    for (const name of ['a', 'b', 'c']) void ask(name);
    await settled();
    await release('a');
    await release('a');
    expect(got).toEqual(['a', 'b']);
  });

  it('gives no slot to who is aborted before', async () => {
    const limiter = createLimiter({ total: 1, perHost: 1 });
    await expect(limiter.acquire('a', AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone');
    (await limiter.acquire('a', live()))();
  });

  it('lets who is aborted leave the line, and holds up nobody for it', async () => {
    const { got, ask, release } = make({ total: 1, perHost: 1 });
    const abort = new AbortController();
    void ask('a1');
    const leaving = ask('b1', 'b', abort.signal);
    void ask('c1');
    abort.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    await release('a1');
    expect(got).toEqual(['a1', 'c1']);
  });

  it('takes no harm from an abort after the slot was given', async () => {
    const { got, ask, release } = make({ total: 1, perHost: 1 });
    const abort = new AbortController();
    void ask('a1');
    const waiting = ask('b1', 'b', abort.signal);
    await settled();
    await release('a1');
    await waiting;
    abort.abort();
    await release('b1');
    await ask('c1');
    expect(got).toEqual(['a1', 'b1', 'c1']);
  });

  it('keeps its bounds and serves everybody, whatever the order', async () => {
    const asks = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(
        asks,
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 3 }),
        async (hosts, total, perHost) => {
          const limiter = createLimiter({ total, perHost });
          const running: string[] = [];
          let most = 0;
          let mostOfHost = 0;
          await Promise.all(
            hosts.map(async host => {
              const release = await limiter.acquire(host, live());
              running.push(host);
              most = Math.max(most, running.length);
              mostOfHost = Math.max(mostOfHost, running.filter(other => other === host).length);
              await Promise.resolve();
              running.splice(running.indexOf(host), 1);
              release();
            }),
          );
          expect(most).toBeLessThanOrEqual(total);
          expect(mostOfHost).toBeLessThanOrEqual(perHost);
        },
      ),
      { numRuns: 50 },
    );
  });
});
