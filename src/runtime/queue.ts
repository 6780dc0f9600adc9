/**
 * A work queue of keys with the semantics of Kubernetes controllers: a key waits at most once, is never handed out twice
 * at a time, and comes again when it was added while it was worked on. Keys wait in lines that take turns.
 */

import { createTurns, type Turns } from './turns.ts';

/** High before low, but for a low one in ten. Within a priority lines take turns; first in, first out within a line. */
export type Priority = 'high' | 'low';

export interface QueueObserver {
  added(): void;
  depth(waiting: number): void;
  retried(): void;
  /** Time that a key waited, and that work on it took, in seconds. */
  waited(seconds: number): void;
  worked(seconds: number): void;
}

export interface Queue {
  add(key: string, priority?: Priority): void;
  /** Adds after a delay; of several delays of a key the shortest holds. */
  addAfter(key: string, delayMs: number): void;
  /**
   * Adds after the key's back-off: 1 s doubling to 5 min, jittered. Whatever adds it meanwhile, it does not come before
   * `atLeastMs`. Gives how often in a row it failed.
   */
  retry(key: string, atLeastMs?: number): number;
  /** Ends the key's back-off. */
  forget(key: string): void;
  /** The next key, or undefined once the queue is closed. Each key taken must be given back by `done`. */
  take(): Promise<string | undefined>;
  done(key: string): void;
  /** Lets takers go; what waits is dropped. */
  close(): void;
  /** Keys that wait or are worked on, delayed ones not counted. */
  size(): number;
  /** How long each key in work has been worked on, in seconds, the longest first. */
  unfinished(): number[];
}

const RETRY_MS = { first: 1_000, most: 300_000 };
/**
 * High keys in a row while low ones wait. Were it without end, one line that never ends, such as that of a namespace whose
 * Pods all crash, would keep the new keys of all others waiting. Were it lines first and priorities within them, a change
 * would wait behind a key of each other line after a start, when all wait.
 */
const MOST_HIGH_IN_A_ROW = 9;

export interface QueueOptions {
  /** The line in which a key waits, such as its namespace; one for all if absent. */
  lineOf?: (key: string) => string;
  now?: () => number;
  random?: () => number;
}

export function createQueue(
  observer?: QueueObserver,
  { lineOf = () => '', now = () => performance.now(), random = Math.random }: QueueOptions = {},
): Queue {
  const waiting: Record<Priority, Turns> = { high: createTurns(lineOf), low: createTurns(lineOf) };
  let highInARow = 0;
  const working = new Map<string, number>();
  /** Added while worked on; they wait again after `done`. */
  const dirty = new Map<string, Priority>();
  /** `until`: not before then, whatever happens. */
  const delayed = new Map<string, { at: number; until: number; timer: NodeJS.Timeout }>();
  const failures = new Map<string, number>();
  const takers: ((key: string | undefined) => void)[] = [];
  let closed = false;

  function observeDepth(): void {
    observer?.depth(waiting.high.size() + waiting.low.size());
  }

  function next(): string | undefined {
    const isLowDue = highInARow >= MOST_HIGH_IN_A_ROW && waiting.low.size() > 0;
    const high = isLowDue ? undefined : waiting.high.take();
    const taken = high ?? waiting.low.take();
    if (!taken) return undefined;
    highInARow = high && waiting.low.size() > 0 ? highInARow + 1 : 0;
    working.set(taken.key, now());
    observer?.waited((now() - taken.since) / 1000);
    observeDepth();
    return taken.key;
  }

  function delay(key: string, delayMs: number, atLeastMs = 0): void {
    if (closed) return;
    const earlier = delayed.get(key);
    const until = Math.max(now() + atLeastMs, earlier?.until ?? 0);
    const at = Math.max(until, Math.min(now() + delayMs, earlier?.at ?? Number.POSITIVE_INFINITY));
    if (earlier && at === earlier.at) {
      earlier.until = until;
      return;
    }
    clearTimeout(earlier?.timer);
    const timer = setTimeout(
      () => {
        delayed.delete(key);
        queue.add(key);
      },
      Math.max(0, at - now()),
    );
    delayed.set(key, { at, until, timer });
  }

  const queue: Queue = {
    add(key, priority = 'high') {
      if (closed) return;
      const earlier = delayed.get(key);
      if (earlier && earlier.until > now()) {
        delay(key, 0);
        return;
      }
      clearTimeout(earlier?.timer);
      delayed.delete(key);
      if (working.has(key)) {
        if (dirty.get(key) !== 'high') dirty.set(key, priority);
        return;
      }
      const since = waiting.low.since(key);
      if (waiting.high.since(key) !== undefined || (priority === 'low' && since !== undefined)) return;
      waiting.low.remove(key);
      waiting[priority].add(key, since ?? now());
      observer?.added();
      observeDepth();
      const taker = takers.shift();
      if (taker) taker(next());
    },
    addAfter: (key, delayMs) => delay(key, delayMs),
    retry(key, atLeastMs = 0) {
      const count = failures.get(key) ?? 0;
      failures.set(key, count + 1);
      observer?.retried();
      const backoff = Math.min(RETRY_MS.most, RETRY_MS.first * 2 ** count) * (0.5 + random() / 2);
      delay(key, Math.max(atLeastMs, backoff), atLeastMs);
      return count + 1;
    },
    forget: key => void failures.delete(key),
    take() {
      if (closed) return Promise.resolve(undefined);
      const key = next();
      if (key !== undefined) return Promise.resolve(key);
      return new Promise(resolve => {
        takers.push(resolve);
      });
    },
    done(key) {
      const since = working.get(key);
      if (since === undefined) return;
      working.delete(key);
      observer?.worked((now() - since) / 1000);
      const again = dirty.get(key);
      dirty.delete(key);
      if (again) queue.add(key, again);
    },
    close() {
      closed = true;
      for (const { timer } of delayed.values()) clearTimeout(timer);
      delayed.clear();
      waiting.high.clear();
      waiting.low.clear();
      dirty.clear();
      for (const taker of takers.splice(0)) taker(undefined);
    },
    size: () => waiting.high.size() + waiting.low.size() + working.size,
    // Work is inserted in order of its start.
    unfinished: () => [...working.values()].map(since => (now() - since) / 1000),
  };
  return queue;
}
