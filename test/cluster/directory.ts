// A cluster's own directory, and the janitor that removes it and all that the cluster had elsewhere: one script for the
// ordinary end, for an owner that was killed, and for the sweep of what even a killed janitor left.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cacheDir } from './binaries.ts';
import { lock, tryLock } from './lock.ts';
import { run } from './process.ts';

/** What clusters' names begin with; nothing else on a machine should. With what mkdtemp adds, an interface's 15 letters suffice. */
export const PREFIX = 'pcocl-';
const OWNER_LOCK = '.owner';

export interface Directory {
  path: string;
  /** The last part of its path: no other cluster on this machine has it now. Letters, digits and a dash. */
  name: string;
  /** Runs the cleanup and waits for it; end the cluster's processes first. */
  remove(): Promise<void>;
}

// A process that is just being killed may still write: rm is asked until nothing is left, for 10 s.
const REMOVE = 'i=0; while [ -e "$1" ] && [ $i -lt 100 ]; do rm -rf "$1" 2>/dev/null || sleep 0.1; i=$((i + 1)); done';

/**
 * Makes a directory under `base`, owned by this process. `cleanup` is POSIX sh for what the cluster has outside of
 * its directory ($1: the path, $2: the name); it must be right to run twice. Directories of dead owners are swept.
 */
export async function createDirectory(
  base: string,
  { signal, cleanup = ':' }: { signal: AbortSignal; cleanup?: string },
): Promise<Directory> {
  mkdirSync(base, { recursive: true });
  const script = `${cleanup}\n${REMOVE}`;
  // Between mkdtemp and its lock a directory looks like a dead owner's: one process at a time makes and sweeps.
  using _ = await lock(join(cacheDir(), 'clusters.lock'), signal);
  for (const name of readdirSync(base)) {
    if (name.startsWith(PREFIX) && isAbandoned(join(base, name))) {
      await run('/bin/sh', ['-c', script, 'sh', join(base, name), name], { signal });
    }
  }

  const path = mkdtempSync(join(base, PREFIX));
  const owner = tryLock(join(path, OWNER_LOCK));
  if (!owner) throw new Error(`${path}: locked although it is new`);
  const name = basename(path);
  const janitor = spawn('/bin/sh', ['-c', `read -r _\n${script}`, 'sh', path, name], {
    detached: true,
    cwd: '/',
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const ended = Promise.withResolvers<void>();
  janitor.on('error', ended.reject);
  janitor.on('exit', () => ended.resolve());
  ended.promise.catch(() => {}); // Told to whom calls remove().
  janitor.unref();
  if ('unref' in janitor.stdin && typeof janitor.stdin.unref === 'function') janitor.stdin.unref();
  return {
    path,
    name,
    async remove() {
      janitor.ref();
      janitor.stdin.on('error', () => {}).end();
      await ended.promise;
      owner[Symbol.dispose]();
    },
  };
}

function isAbandoned(path: string): boolean {
  try {
    // In /tmp others may use our prefix: without the lock's file it is not ours. Taking a lock would make the file.
    if (statSync(join(path, OWNER_LOCK)).uid !== process.getuid?.()) return false;
    const owner = tryLock(join(path, OWNER_LOCK));
    owner?.[Symbol.dispose]();
    return owner !== undefined;
  } catch {
    return false; // It has gone meanwhile.
  }
}
