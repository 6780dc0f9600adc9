/** Bounds how many probes run at a time, in all and for each host. */

export interface Limiter {
  /** Resolves to the function that gives the slot back. Waiting ends with the signal's reason when it aborts. */
  acquire(host: string, signal: AbortSignal): Promise<() => void>;
}

export function createLimiter({ total, perHost }: { total: number; perHost: number }): Limiter {
  const running = new Map<string, number>();
  /** Hosts with waiters, the next to be served first. */
  const waiting = new Map<string, Set<() => void>>();
  let all = 0;

  const fits = (host: string): boolean => all < total && (running.get(host) ?? 0) < perHost;

  function start(host: string): () => void {
    all += 1;
    running.set(host, (running.get(host) ?? 0) + 1);
    let given = false;
    return () => {
      if (given) return;
      given = true;
      all -= 1;
      const left = (running.get(host) ?? 1) - 1;
      if (left === 0) running.delete(host);
      else running.set(host, left);
      next();
    };
  }

  function next(): void {
    for (const [host, waiters] of waiting) {
      if (all >= total) return;
      if (!fits(host)) continue;
      const [waiter] = waiters;
      if (!waiter) continue;
      // A host that was served goes to the end of the line, so that one with many waiters does not hold up the rest.
      waiting.delete(host);
      waiters.delete(waiter);
      if (waiters.size > 0) waiting.set(host, waiters);
      waiter();
      return;
    }
  }

  return {
    acquire(host, signal) {
      if (signal.aborted) return Promise.reject(signal.reason);
      if (fits(host)) return Promise.resolve(start(host));
      return new Promise((resolve, reject) => {
        const waiter = (): void => {
          signal.removeEventListener('abort', leave);
          resolve(start(host));
        };
        const leave = (): void => {
          const waiters = waiting.get(host);
          waiters?.delete(waiter);
          if (waiters?.size === 0) waiting.delete(host);
          reject(signal.reason);
        };
        signal.addEventListener('abort', leave, { once: true });
        const waiters = waiting.get(host);
        if (waiters) waiters.add(waiter);
        else waiting.set(host, new Set([waiter]));
      });
    },
  };
}
