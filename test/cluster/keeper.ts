// A cluster that outlives the command that starts it belongs to a keeper: a process of its own, one for each name.
import { fork } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheDir, type Progress } from './binaries.ts';
import { startControlPlane } from './cluster.ts';
import { lock, tryLock } from './lock.ts';
import { startNode } from './node.ts';
import { aborted, messageOf, tail, until } from './process.ts';

export type Shape = 'control-plane' | 'node';

export interface Order {
  name: string;
  shape: Shape;
  internet: boolean;
}

/** What a keeper writes down about its cluster. */
export interface Kept extends Order {
  pid: number;
  /** ISO 8601. */
  since: string;
  /** Absent while it starts. */
  ready?: { kubeconfig: string; server: string; dir: string };
}

type Message = { progress: string } | { ready: true } | { error: string };

/** Starts a keeper and waits until its cluster is ready. An abort, or our end, until then is the end of both. */
export async function keep(
  order: Order,
  { signal, progress }: { signal: AbortSignal; progress: Progress },
): Promise<Kept> {
  if (find(order.name)) throw new Error(`cluster ${order.name}: is up already; see \`npm run cluster -- status\``);
  mkdirSync(home(), { recursive: true });
  const log = openSync(logFile(order.name), 'w', 0o600);
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(order)], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.on('message', (message: Message) => {
    if ('progress' in message) progress(message.progress);
    else if ('ready' in message) resolve();
    else reject(new Error(message.error));
  });
  child.on('error', reject);
  child.on('exit', code => reject(new Error(`the keeper ended: exit code ${code}\n${tail(logFile(order.name))}`)));
  const onAbort = () => child.kill('SIGTERM');
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await promise;
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener('abort', onAbort);
    if (child.connected) child.disconnect();
    child.unref();
  }
  const kept = find(order.name);
  if (!kept) throw new Error(`cluster ${order.name}: ended at once\n${tail(logFile(order.name))}`);
  return kept;
}

/** Ends a kept cluster and waits until nothing of it is left. False: there is none. */
export async function release(name: string, signal: AbortSignal): Promise<boolean> {
  const kept = find(name);
  if (!kept) return false;
  process.kill(kept.pid, 'SIGTERM');
  await until(`the keeper of ${name} (pid ${kept.pid}) to end`, () => !find(name), { signal, timeoutMs: 60_000 });
  return true;
}

/** The kept cluster of this name; undefined when no keeper lives. */
export function find(name: string): Kept | undefined {
  if (!existsSync(stateFile(name))) return undefined;
  const free = tryLock(lockFile(name));
  if (free) {
    // Its keeper was killed; the janitor has done, or does, the rest.
    rmSync(stateFile(name), { force: true });
    free[Symbol.dispose]();
    return undefined;
  }
  return JSON.parse(readFileSync(stateFile(name), 'utf8')) as Kept;
}

export function list(): Kept[] {
  if (!existsSync(home())) return [];
  const names = readdirSync(home()).filter(file => file.endsWith('.json'));
  return names.map(file => find(file.slice(0, -'.json'.length))).filter(kept => kept !== undefined);
}

async function main(order: Order): Promise<void> {
  // find() takes the lock for a moment to look whether it is free; another keeper has it for good.
  using _ = await lock(lockFile(order.name), AbortSignal.timeout(2_000)).catch(() => {
    throw new Error(`cluster ${order.name}: another keeper has it`);
  });
  const tell = (message: Message) => {
    if (process.connected) process.send?.(message);
  };
  const ending = new AbortController();
  let ready = false;
  const end = () => ending.abort(new Error('asked to end'));
  process.on('SIGTERM', end).on('SIGINT', end).on('SIGHUP', end);
  process.on('disconnect', () => ready || end());

  const kept: Kept = { ...order, pid: process.pid, since: new Date().toISOString() };
  const write = (state: Kept) => writeFileSync(stateFile(order.name), JSON.stringify(state), { mode: 0o600 });
  write(kept);
  const alive = setInterval(() => {}, 2 ** 31 - 1); // A cluster does not keep its owner's event loop alive.
  try {
    const options = { signal: ending.signal, progress: (line: string) => tell({ progress: line }) };
    const { shape, internet } = order;
    await using cluster = await (shape === 'node' ? startNode({ ...options, internet }) : startControlPlane(options));
    const { kubeconfig, server, dir } = cluster;
    write({ ...kept, ready: { kubeconfig, server, dir } });
    ready = true;
    tell({ ready: true });
    await aborted(AbortSignal.any([ending.signal, cluster.failed]));
    if (cluster.failed.aborted) throw cluster.failed.reason;
  } catch (error) {
    console.error(messageOf(error));
    tell({ error: messageOf(error) });
    process.exitCode = 1;
  } finally {
    rmSync(stateFile(order.name), { force: true });
    clearInterval(alive);
    if (process.connected) process.disconnect?.();
  }
}

function home(): string {
  return join(cacheDir(), 'keepers');
}

function stateFile(name: string): string {
  return join(home(), `${name}.json`);
}

function lockFile(name: string): string {
  return join(home(), `${name}.lock`);
}

function logFile(name: string): string {
  return join(home(), `${name}.log`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(JSON.parse(process.argv[2] ?? '') as Order);
