/** Who is measured: the operator, and the floor below it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { PolicyInput } from '../../../src/connector/policy.ts';
import type { Cluster } from '../../cluster/cluster.ts';
import { buildOperator } from '../../faults/process.ts';
import { FLOOR, type Order, type Recorded, type Task } from './floor.ts';

export interface Subject extends AsyncDisposable {
  /** From the start of its process to its first reconcile. */
  startMs: number;
  pid: number;
  /** What begins its user agent. */
  userAgent: string;
  /** Told of each connector as it was created or edited: the floor watches nothing. */
  told(task: Task): void;
  /** Its own figures, if it has any. */
  figures?(): Promise<ReadonlyMap<string, number>>;
  /** Resolves when it has nothing more in hand. */
  idle(): Promise<void>;
}

/** As many as the operator has for calls. */
export const CONNECTIONS = 16;

export async function startOurs(cluster: Cluster, policy: PolicyInput, env = {}): Promise<Subject> {
  const executable = await buildOperator(cluster.kubeconfig);
  const operator = await executable.start({ kubeconfig: cluster.kubeconfig, policy, env });
  const { sinceStartMs } = (await operator.ready) as { sinceStartMs?: number };
  return {
    startMs: sinceStartMs ?? Number.NaN,
    pid: operator.pid,
    userAgent: 'personal-connector-operator/',
    told() {},
    figures: () => operator.metrics(),
    idle: () => operator.idle(),
    async [Symbol.asyncDispose]() {
      await executable[Symbol.asyncDispose]();
    },
  };
}

export async function startFloor(cluster: Cluster, writes: Recorded): Promise<Subject> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'floor.ts')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { server, caData, token } = cluster;
  const order: Order = { access: { server, caData, token }, writes, connections: CONNECTIONS };
  child.stdin.write(`${JSON.stringify(order)}\n`);
  await once(createInterface({ input: child.stdout }), 'line');
  const { pid } = child;
  if (pid === undefined) throw new Error('the floor did not start');
  return {
    startMs: Number.NaN,
    pid,
    userAgent: FLOOR,
    told: task => void child.stdin.write(`${JSON.stringify(task)}\n`),
    idle: async () => {},
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    },
  };
}
