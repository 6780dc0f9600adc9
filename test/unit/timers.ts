/**
 * Stands in for node:timers/promises, of which the clock of vitest has no hold: the same on the global timer, which it
 * has. `vi.mock('node:timers/promises', () => import('../timers.ts'))`.
 */

interface Options {
  signal?: AbortSignal;
}

function sleep<T>(ms?: number, value?: T, { signal }: Options = {}): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const aborted = (): unknown =>
      new DOMException('The operation was aborted', { name: 'AbortError', cause: signal?.reason });
    if (signal?.aborted) {
      reject(aborted());
      return;
    }
    const abort = (): void => {
      clearTimeout(timer);
      reject(aborted());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve(value);
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
  });
}

export { sleep as setTimeout };
