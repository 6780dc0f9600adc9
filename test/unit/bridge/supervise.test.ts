import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { supervise } from '../../../src/bridge/supervise.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A server whose life is a list: how long it takes to answer (or why it does not), and how long it lives then. */
function make(lives: ({ answers: number; lives: number } | { fails: string })[]) {
  const ending = new AbortController();
  const waits: number[] = [];
  let tries = 0;
  const supervisor = supervise({
    attempt: async () => {
      const life = lives[Math.min(tries, lives.length - 1)];
      tries += 1;
      if (!life || 'fails' in life) throw new Error(life?.fails);
      await new Promise(resolve => setTimeout(resolve, life.answers));
      return { over: new Promise(resolve => setTimeout(resolve, life.lives, 'it ended')) };
    },
    onFailure: (_why, waitMs) => void waits.push(waitMs),
    soundAfterMs: 5_000,
    signal: ending.signal,
  });
  const done = supervisor.done.then(
    () => 'done',
    error => error.message,
  );
  return { ...supervisor, done, waits, tries: () => tries, end: () => ending.abort() };
}

describe('a server', () => {
  it('is trouble until it answers, and when it has ended', async () => {
    const server = make([{ answers: 100, lives: 1_000 }]);
    expect(server.trouble()).toBe('the server has not answered yet');
    await vi.advanceTimersByTimeAsync(100);
    expect(server.trouble()).toBeUndefined();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(server.trouble()).toBe('it ended');
    await vi.advanceTimersByTimeAsync(600);
    expect(server.trouble()).toBeUndefined();
    server.end();
  });

  it('that never answered is given up at once', async () => {
    const server = make([{ fails: 'no such program' }]);
    expect(await server.done).toBe('no such program');
    expect(server.tries()).toBe(1);
  });

  it('that ends again and again is started after 0.5, 1, 2, 4 and 8 s, and given up then', async () => {
    const server = make([{ answers: 1, lives: 10 }]);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await server.done).toBe('it ended');
    expect(server.waits).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
    expect(server.tries()).toBe(6);
  });

  it('that ran for a while begins with a clean slate', async () => {
    const server = make([
      { answers: 1, lives: 10 },
      { answers: 1, lives: 10 },
      { answers: 1, lives: 5_000 },
    ]);
    await vi.advanceTimersByTimeAsync(100_000);
    expect(server.waits.slice(0, 4)).toEqual([500, 1_000, 500, 500]);
    server.end();
    await vi.advanceTimersByTimeAsync(40_000);
    expect(await server.done).toBe('done');
  });

  it('that once answered may fail to start', async () => {
    const server = make([{ answers: 1, lives: 10 }, { fails: 'busy' }, { answers: 1, lives: 100_000 }]);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(server.trouble()).toBeUndefined();
    expect(server.waits).toEqual([500, 1_000]);
    server.end();
  });
});
