/** Owns each connector's next probe: when it runs, how often after failures, and what its results amount to. */

import type { Key } from '../api/meta.ts';
import type { Limiter } from './limiter.ts';
import type { Outcome } from './outcome.ts';
import type { Target } from './target.ts';
import { type Judgement, judge, type Verdict } from './verdict.ts';

export interface ProbeResult {
  /** The target that it speaks of. */
  fingerprint: string;
  /** The value of `Target.recheck` that it answers. */
  recheck: string | undefined;
  verdict: Verdict;
}

export interface ProbeScheduler {
  /**
   * Sets what to probe for a key, or nothing. A changed target is probed at once and its old result is dropped; a new
   * `recheck` probes at once and keeps it. `known` says that a result of an earlier life still stands: the first probe
   * may then come at any time within the interval, so that a restart does not probe everything at once.
   */
  set(key: Key, target: Target | undefined, known?: 'healthy'): void;
  result(key: Key): ProbeResult | undefined;
  /** Stops all timers and aborts what runs; resolves when the last probe has ended its sessions and connections. */
  close(): Promise<void>;
}

export interface ProbeObserver {
  probed(outcome: Outcome['kind'], seconds: number): void;
}

export interface ProbeSchedulerOptions {
  probe: (target: Target, signal: AbortSignal) => Promise<Outcome>;
  limiter: Limiter;
  /** Told when there is a result, new or not. */
  onResult: (key: Key) => void;
  observer?: ProbeObserver;
  random?: () => number;
  /** Milliseconds that no change of the clock moves. */
  now?: () => number;
}

interface Entry {
  target: Target;
  timer: NodeJS.Timeout | undefined;
  /** When the next probe is due, and the time before which the server asked not to be asked, by `now`. */
  dueAt: number;
  notBefore: number;
  running: AbortController | undefined;
  result: ProbeResult | undefined;
  /** What was last found out for sure, by us or by an earlier life of the operator. */
  health: 'healthy' | 'failed' | undefined;
  /** In a row. */
  failures: number;
  successes: number;
}

/** After a failure the next probe comes sooner than the interval: 5 s, doubling up to it. */
const FIRST_RETRY_MS = 5_000;
/** After a probe that could not be made. */
const INCONCLUSIVE_RETRY_MS = 20_000;
/** Probes are spread by ± 10 %, so that connectors that were made together drift apart. */
const JITTER = 0.1;

export function createProbeScheduler(options: ProbeSchedulerOptions): ProbeScheduler {
  const { probe, limiter, onResult, observer, random = Math.random, now = () => performance.now() } = options;
  const entries = new Map<Key, Entry>();
  const running = new Set<Promise<void>>();
  let closed = false;

  function schedule(key: Key, entry: Entry, delayMs: number): void {
    clearTimeout(entry.timer);
    entry.dueAt = now() + delayMs;
    // A timer takes at most 2^31 - 1 ms.
    entry.timer = setTimeout(
      () => {
        const run = probeNow(key, entry);
        running.add(run);
        void run.finally(() => running.delete(run));
      },
      Math.min(2 ** 31 - 1, delayMs),
    );
  }

  function stop(entry: Entry): void {
    clearTimeout(entry.timer);
    entry.running?.abort();
    entry.running = undefined;
  }

  async function probeNow(key: Key, entry: Entry): Promise<void> {
    const { target } = entry;
    const abort = new AbortController();
    entry.running = abort;
    let release: (() => void) | undefined;
    try {
      release = await limiter.acquire(new URL(target.url).hostname, abort.signal);
      const start = performance.now();
      const outcome = await probe(target, abort.signal).catch(
        (error: unknown): Outcome => ({ kind: 'broken', why: error instanceof Error ? error.message : String(error) }),
      );
      if (abort.signal.aborted) return;
      observer?.probed(outcome.kind, (performance.now() - start) / 1000);
      entry.running = undefined;
      schedule(key, entry, take(entry, outcome));
      onResult(key);
    } catch (error) {
      // The wait for a slot ends like this when the target was dropped meanwhile.
      if (!abort.signal.aborted) throw error;
    } finally {
      release?.();
    }
  }

  /** Takes an outcome into the entry and gives the time to the next probe, in ms. */
  function take(entry: Entry, outcome: Outcome): number {
    const { target } = entry;
    const judgement = judge(outcome, { url: target.url, credentials: target.sendsCredentials });
    const before = entry.result?.verdict;
    let published: Verdict | undefined = judgement.verdict;
    if (!judgement.conclusive) {
      // What was known still holds; the counts stay as they are.
      if (entry.health !== undefined) published = before;
    } else if (judgement.verdict.healthy) {
      entry.failures = 0;
      entry.successes += 1;
      if (entry.health === 'failed' && entry.successes < target.successThreshold) published = before;
      else entry.health = 'healthy';
    } else {
      entry.successes = 0;
      entry.failures += 1;
      if (entry.health === 'healthy' && entry.failures < target.failureThreshold) published = before;
      else entry.health = 'failed';
    }
    entry.notBefore = now() + (judgement.conclusive ? 0 : (judgement.retryAfterMs ?? 0));
    const { fingerprint, recheck } = target;
    entry.result = published && { fingerprint, recheck, verdict: published };
    return delayAfter(judgement, entry);
  }

  function delayAfter(judgement: Judgement, { target, failures, health }: Entry): number {
    if (!judgement.conclusive) {
      const limited = judgement.verdict.verified.reason === 'RateLimited';
      const wait = spread(limited ? target.intervalMs : Math.min(target.intervalMs, INCONCLUSIVE_RETRY_MS));
      return Math.max(judgement.retryAfterMs ?? 0, wait);
    }
    if (judgement.verdict.healthy && health === 'healthy') return spread(target.intervalMs);
    return spread(Math.min(target.intervalMs, FIRST_RETRY_MS * 2 ** Math.min(20, Math.max(0, failures - 1))));
  }

  function spread(ms: number): number {
    return ms * (1 - JITTER + 2 * JITTER * random());
  }

  return {
    set(key, target, known) {
      const entry = entries.get(key);
      if (!target || closed) {
        if (entry) stop(entry);
        entries.delete(key);
        return;
      }
      if (!entry) {
        const fresh: Entry = {
          target,
          timer: undefined,
          dueAt: 0,
          notBefore: 0,
          running: undefined,
          result: undefined,
          health: known,
          failures: 0,
          successes: 0,
        };
        entries.set(key, fresh);
        schedule(key, fresh, known === 'healthy' ? random() * target.intervalMs : 0);
        return;
      }
      const old = entry.target;
      entry.target = target;
      if (old.fingerprint !== target.fingerprint) {
        stop(entry);
        entry.result = undefined;
        entry.health = undefined;
        entry.failures = 0;
        entry.successes = 0;
        schedule(key, entry, 0);
      } else if (old.recheck !== target.recheck) {
        stop(entry);
        schedule(key, entry, 0);
      } else if (old.intervalMs > target.intervalMs && !entry.running) {
        const wait = Math.min(entry.dueAt - now(), spread(target.intervalMs));
        schedule(key, entry, Math.max(entry.notBefore - now(), wait, 0));
      }
    },
    result: key => entries.get(key)?.result,
    async close() {
      closed = true;
      for (const entry of entries.values()) stop(entry);
      entries.clear();
      await Promise.allSettled(running);
    },
  };
}
