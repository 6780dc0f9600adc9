/** Workers that take keys from a queue and reconcile them, whatever the keys mean. */

import type { HotLoopGuard } from './hot-loop.ts';
import type { Queue } from './queue.ts';

export interface Outcome {
  /** Reconcile again after this time, in ms. */
  requeueAfterMs?: number;
}

export type Result = 'success' | 'error' | 'requeue_after';

export interface ControllerObserver {
  active(workers: number): void;
  reconciled(result: Result, seconds: number): void;
}

export interface ControllerOptions {
  queue: Queue;
  /** Brings one key to its declared state. It must heed the signal, which aborts at the deadline and on shutdown. */
  reconcile: (key: string, signal: AbortSignal) => Promise<Outcome>;
  workers: number;
  /** `failures`: how often in a row the key failed. */
  onError: (key: string, error: unknown, failures: number) => void;
  /** How long a failed key must be left alone at least, in ms, such as a server's Retry-After. */
  retryAfter?: (error: unknown) => number;
  observer?: ControllerObserver;
  hotLoops?: Pick<HotLoopGuard, 'reconciling'>;
  /** Aborts what is under way; for a graceful end close the queue instead and wait for `done`. */
  signal: AbortSignal;
  deadlineMs?: number;
}

export interface Controller {
  /** Resolves when the queue is closed and the last reconcile has ended. */
  done: Promise<void>;
  /** Waits for the reconciles in hand of keys that are not kept; what takes longer than `patienceMs` is aborted. */
  drain(keeps: (key: string) => boolean, patienceMs: number): Promise<void>;
}

const DRAINED = new Error('what was reconciled is not to be kept');

/** Starts the workers. */
export function startController(options: ControllerOptions): Controller {
  const { queue, reconcile, workers, onError, retryAfter, observer, hotLoops, signal, deadlineMs = 60_000 } = options;
  let active = 0;
  const inHand = new Map<string, { ended: Promise<unknown>; abort: AbortController }>();

  async function once(key: string, abort: AbortController): Promise<Result> {
    // AbortSignal.any and .timeout would do, but keep 5 KB for each reconcile until its time is over, however early it ended.
    const late = setTimeout(
      () => abort.abort(new DOMException('the reconcile took too long', 'TimeoutError')),
      deadlineMs,
    );
    const follow = (): void => abort.abort(signal.reason);
    if (signal.aborted) follow();
    signal.addEventListener('abort', follow, { once: true });
    try {
      const { requeueAfterMs } = await reconcile(key, abort.signal);
      queue.forget(key);
      if (requeueAfterMs === undefined) return 'success';
      queue.addAfter(key, requeueAfterMs);
      return 'requeue_after';
    } catch (error) {
      if (signal.aborted || abort.signal.reason === DRAINED) return 'error';
      const failures = queue.retry(key, retryAfter?.(error));
      onError(key, error, failures);
      return 'error';
    } finally {
      clearTimeout(late);
      signal.removeEventListener('abort', follow);
    }
  }

  async function work(): Promise<void> {
    for (let key = await queue.take(); key !== undefined; key = await queue.take()) {
      const heldBackMs = hotLoops?.reconciling(key) ?? 0;
      if (heldBackMs > 0) {
        queue.done(key);
        queue.addAfter(key, heldBackMs);
        continue;
      }
      const start = performance.now();
      active += 1;
      observer?.active(active);
      const abort = new AbortController();
      const ended = once(key, abort);
      inHand.set(key, { ended, abort });
      const result = await ended;
      inHand.delete(key);
      active -= 1;
      observer?.active(active);
      observer?.reconciled(result, (performance.now() - start) / 1000);
      queue.done(key);
    }
  }

  return {
    done: Promise.all(Array.from({ length: workers }, work)).then(() => {}),
    async drain(keeps, patienceMs) {
      const leaving = [...inHand].filter(([key]) => !keeps(key)).map(([, reconciling]) => reconciling);
      if (leaving.length === 0) return;
      const late = setTimeout(() => {
        for (const { abort } of leaving) abort.abort(DRAINED);
      }, patienceMs);
      await Promise.all(leaving.map(({ ended }) => ended));
      clearTimeout(late);
    },
  };
}
