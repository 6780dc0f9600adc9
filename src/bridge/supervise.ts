/** Keeps a server running: starts it again with back-off when it ends, and gives up when that is no use. */

export interface SupervisorOptions {
  /**
   * Starts the server and resolves when it has answered; `over` then resolves with why that is not so any more. Rejects
   * when it does not answer.
   */
  attempt: () => Promise<{ over: Promise<string> }>;
  /** Told of each failure, and how long it waits before the next attempt. */
  onFailure: (why: string, waitMs: number) => void;
  /** Who has answered and lived for so long is sound: when it ends, failures are counted anew. */
  soundAfterMs: number;
  signal: AbortSignal;
}

const FIRST_WAIT_MS = 500;
/** About 15 s of trying: after that the kubelet's own back-off, and its word in the status, are of more use. */
const MOST_FAILURES = 5;

export interface Supervisor {
  /** Whether the server answers; else, why not. */
  trouble(): string | undefined;
  /** Rejects when it gives up: at once if the server never answered, after several failures in a row if it had. */
  done: Promise<void>;
}

export function supervise({ attempt, onFailure, soundAfterMs, signal }: SupervisorOptions): Supervisor {
  let trouble: string | undefined = 'the server has not answered yet';

  async function keep(): Promise<void> {
    let hasAnswered = false;
    let failures = 0;
    while (!signal.aborted) {
      let answeredAt: number | undefined;
      try {
        const { over } = await attempt();
        answeredAt = performance.now();
        hasAnswered = true;
        trouble = undefined;
        trouble = await over;
      } catch (error) {
        trouble = error instanceof Error ? error.message : String(error);
      }
      if (signal.aborted) return;
      const isSound = answeredAt !== undefined && performance.now() - answeredAt >= soundAfterMs;
      failures = isSound ? 1 : failures + 1;
      if (!hasAnswered || failures > MOST_FAILURES) throw new Error(trouble);
      const waitMs = FIRST_WAIT_MS * 2 ** (failures - 1);
      onFailure(trouble, waitMs);
      await pause(waitMs, signal);
    }
  }

  return { trouble: () => trouble, done: keep() };
}

/** Waits so long, for ever if `ms` is absent, but not after the signal aborts or `sooner` resolves. */
export async function pause(ms?: number, signal?: AbortSignal, sooner?: Promise<void>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = ms === undefined ? undefined : setTimeout(resolve, ms);
  const stop = (): void => resolve();
  signal?.addEventListener('abort', stop, { once: true });
  void sooner?.then(resolve);
  await promise;
  clearTimeout(timer);
  signal?.removeEventListener('abort', stop);
}
