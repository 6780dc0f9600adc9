/** The processes that are measured, and whom they talk to. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { PolicyInput } from '../../../src/connector/policy.ts';
import type { Cluster } from '../../cluster/cluster.ts';
import { buildOperator } from '../../faults/process.ts';
import type { Order, Recorded, Task } from './floor.ts';

export interface Subject extends AsyncDisposable {
  /** From the start of its process to its first reconcile; NaN for one that has none. */
  startMs: number;
  pid: number;
  /** Aborted, with an Error that says why, when it ends. */
  ended: AbortSignal;
  /** Told of each object as it was created or edited: the floor watches nothing. */
  told(task: Task): void;
  /** Its own figures, if it has any. */
  figures?(): Promise<ReadonlyMap<string, number>>;
  /** Resolves when it has nothing more in hand. */
  idle(): Promise<void>;
}

/** So that looking costs next to nothing. */
const LOOK_MS = 500;
/** As many as the operator has for calls. */
export const CONNECTIONS = 16;

export async function startOurs(
  { kubeconfig }: Pick<Cluster, 'kubeconfig'>,
  policy: PolicyInput,
  options: { heapMib?: number } = {},
): Promise<Subject> {
  const executable = await buildOperator(kubeconfig);
  const operator = await executable.start({ kubeconfig, policy, ...options });
  const { sinceStartMs } = (await operator.ready) as { sinceStartMs?: number };
  return {
    startMs: sinceStartMs ?? Number.NaN,
    pid: operator.pid,
    ended: operator.ended,
    told() {},
    figures: () => operator.metrics(),
    idle: () => operator.idle(LOOK_MS),
    async [Symbol.asyncDispose]() {
      await executable[Symbol.asyncDispose]();
    },
  };
}

export async function startFloor({ server, caData, token }: Cluster, writes: Recorded): Promise<Subject> {
  const child = startHelper('floor.ts');
  const order: Order = { access: { server, caData, token }, writes, connections: CONNECTIONS };
  child.stdin.write(`${JSON.stringify(order)}\n`);
  await child.firstLine;
  return {
    startMs: Number.NaN,
    pid: child.pid,
    ended: child.ended,
    told: task => void child.stdin.write(`${JSON.stringify(task)}\n`),
    idle: async () => {},
    [Symbol.asyncDispose]: child[Symbol.asyncDispose],
  };
}

/** A real MCP server in a process of its own: what probes cost is not to be mixed with what they find. */
export async function startMcpServer(): Promise<{ port: number } & AsyncDisposable> {
  const child = startHelper('mcp-server.ts');
  return { port: Number(await child.firstLine), [Symbol.asyncDispose]: child[Symbol.asyncDispose] };
}

/** A process of a file beside this one; it ends with its stdin, and so with this process. */
export function startHelper(file: string) {
  const child = spawn(process.execPath, [join(import.meta.dirname, file)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const { pid, stdin } = child;
  if (pid === undefined) throw new Error(`${file} did not start`);
  const ending = new AbortController();
  child.on('exit', () => ending.abort(new Error(`${file} ended`)));
  const lines = createInterface({ input: child.stdout });
  const firstLine = once(lines, 'line').then(([line]) => String(line));
  return {
    pid,
    stdin,
    /** What it says; whoever reads it all needs no `firstLine`. */
    lines,
    firstLine,
    ended: ending.signal,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    },
  };
}
