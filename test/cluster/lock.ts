// Locks between processes. SQLite's file lock is the kernel's own: it ends with its holder, however that ends, so
// there is no stale lock to detect.
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';

/** Takes the lock if it is free; the result gives it back. Undefined: someone holds it. */
export function tryLock(file: string): Disposable | undefined {
  mkdirSync(dirname(file), { recursive: true });
  const database = new DatabaseSync(file, { timeout: 0 });
  try {
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
    return { [Symbol.dispose]: () => database.close() };
  } catch (error) {
    database.close();
    if (error instanceof Error && /locked/.test(error.message)) return undefined;
    throw new Error(`lock ${file}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Waits for the lock; `onWait` is told once, when somebody else has it. */
export async function lock(file: string, signal: AbortSignal, onWait?: () => void): Promise<Disposable> {
  for (let told = false; ; ) {
    signal.throwIfAborted();
    const held = tryLock(file);
    if (held) return held;
    if (!told) onWait?.();
    told = true;
    await sleep(100, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
