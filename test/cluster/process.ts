// Child processes that never outlive this one, and the waiting that goes with them.
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

// The watcher holds the read end of a pipe whose only write end is ours: when this process ends, in whatever way, the
// pipe closes and the kernel gets a SIGKILL for the whole process group. A line in the pipe says that the child has
// ended by itself. The command replaces the shell (exec), so that its pid, signals and exit code are the child's own.
const GUARD = '(read -r ended <&3 && exit; kill -KILL -$$) >/dev/null 2>&1 & exec "$@" 3<&-';

export interface Daemon {
  name: string;
  pid: number;
  /** Where its output goes. */
  log: string;
  /** Aborted when the process has ended; the reason is an Error that names it, how it ended and its last output. */
  ended: AbortSignal;
  /** Whether it was asked to end, by kill(). */
  killed(): boolean;
  /** SIGKILL to its whole process group; resolves when it has ended. */
  kill(): Promise<void>;
}

export interface DaemonOptions {
  name: string;
  command: string;
  args: readonly string[];
  log: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
}

/**
 * Starts a process in a session of its own (a Ctrl-C in the terminal does not reach it) that is killed with this one.
 * It does not keep the event loop alive.
 */
export function startDaemon({ name, command, args, log, env, cwd }: DaemonOptions): Daemon {
  const output = openSync(log, 'a', 0o600);
  const child = spawn('/bin/sh', ['-c', GUARD, 'sh', command, ...args], {
    detached: true,
    stdio: ['ignore', output, output, 'pipe'],
    ...(env && { env }),
    ...(cwd && { cwd }),
  });
  closeSync(output);
  const owner = child.stdio[3];
  if (child.pid === undefined || !(owner instanceof Writable)) {
    throw new Error(`${name}: /bin/sh could not be started`);
  }
  const pid = child.pid;
  const ended = new AbortController();
  let killed = false;
  owner.on('error', () => {}); // EPIPE when the watcher is gone before us.
  child.on('error', error => ended.abort(error));
  child.on('exit', (code, signal) => {
    owner.end('ended\n');
    ended.abort(new Error(`${name} (pid ${pid}) ended: ${signal ?? `exit code ${code}`}\n${tail(log)}`));
  });
  child.unref();
  if ('unref' in owner && typeof owner.unref === 'function') owner.unref();

  return {
    name,
    pid,
    log,
    ended: ended.signal,
    killed: () => killed,
    async kill() {
      killed = true;
      if (ended.signal.aborted) return;
      child.ref();
      killGroup(pid);
      await aborted(ended.signal);
    },
  };
}

export interface RunOptions {
  signal?: AbortSignal | undefined;
  env?: NodeJS.ProcessEnv | undefined;
  cwd?: string | undefined;
  input?: string | undefined;
}

/** Runs a command to its end and gives its stdout. Fails with its last output; an abort or our end kills its group. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { signal, env, cwd, input } = options;
  signal?.throwIfAborted();
  const child = spawn('/bin/sh', ['-c', GUARD, 'sh', command, ...args], {
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    ...(env && { env }),
    ...(cwd && { cwd }),
  });
  const owner = child.stdio[3];
  if (child.pid === undefined || !(owner instanceof Writable)) throw new Error(`${command}: could not be started`);
  const pid = child.pid;
  owner.on('error', () => {});
  child.stdin.on('error', () => {}); // EPIPE: it did not want all of its input.
  child.stdin.end(input ?? '');
  let stdout = '';
  let last = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
    last = (last + chunk).slice(-4_000);
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    last = (last + chunk).slice(-4_000);
  });
  const onAbort = () => killGroup(pid);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    child.on('error', reject);
    // 'exit' and not 'close': a grandchild that keeps our stdout open must not keep us.
    child.on('exit', () => owner.end('ended\n'));
    child.on('close', (code, killedBy) => {
      if (signal?.aborted) reject(signal.reason);
      else if (code === 0) resolve(stdout);
      else reject(new Error(`${[command, ...args].join(' ')}: ${killedBy ?? `exit code ${code}`}\n${last.trimEnd()}`));
    });
    return await promise;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

export interface WaitOptions {
  signal: AbortSignal;
  timeoutMs: number;
  everyMs?: number;
}

/**
 * Asks `check` again and again until it gives something other than undefined, null or false. A check that throws is
 * asked again; the time-out's message tells its last error.
 */
export async function until<T>(
  what: string,
  check: () => Promise<T | undefined | null | false> | T | undefined | null | false,
  { signal, timeoutMs, everyMs = 50 }: WaitOptions,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    signal.throwIfAborted();
    try {
      const found = await check();
      if (found !== undefined && found !== null && found !== false) return found;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) {
      throw new Error(`waited ${timeoutMs / 1_000} s for ${what}${last === undefined ? '' : `: ${messageOf(last)}`}`);
    }
    await sleep(everyMs, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (signal.aborted) resolve();
  else signal.addEventListener('abort', () => resolve(), { once: true });
  return promise;
}

/** The last lines of a log file; '' when there is none. */
export function tail(file: string, lines = 15): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    return '';
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Linux. A daemon's eldest child is its watcher. */
export function youngestChild(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').at(-1));
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}
