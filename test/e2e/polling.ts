/** Clients inside the cluster that ask hosted servers on and on while something happens, and count what is lost. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { PersonalConnector } from '../../src/api/connector.ts';
import type { KubeObject } from '../../src/api/meta.ts';
import { SERVICES } from '../../src/connector/children.ts';
import type { Sandbox } from '../support/kube.ts';
import type { Polled } from './client.ts';

/** What client.ts is told: whether connections are kept alive, and whether some clients last. */
export type How = readonly ['kept' | 'fresh', 'all' | 'many'];
export const KEPT: How = ['kept', 'all'];
export const FRESH: How = ['fresh', 'all'];
/** No client lasts: a session ends with the Pod that it lives in. */
export const SESSIONS: How = ['kept', 'many'];

const CLIENT = join(import.meta.dirname, 'client.ts');

/** Where a client inside the cluster, but outside of its DNS, finds a connector's server. */
export async function urlOf(cluster: Sandbox, { metadata, status }: PersonalConnector): Promise<string> {
  const service = await cluster.get<KubeObject & { spec: { clusterIP: string } }>(SERVICES, metadata.name);
  const url = new URL(status?.serverUrl ?? '');
  url.hostname = service.spec.clusterIP;
  return url.href;
}

export function startClient(command: 'use' | 'poll', url: string, how: readonly string[] = []): ChildProcess {
  const [program, ...args] = inject('insideCluster');
  return spawn(program, [...args, process.execPath, CLIENT, command, url, ...how], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
}

/** Ends a client's input, and gives what it printed. */
export async function resultOf<T>(started: ChildProcess): Promise<T> {
  let text = '';
  started.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  started.stdin?.end();
  await once(started, 'close');
  return JSON.parse(text) as T;
}

/** Asks on and on while something happens. */
export async function pollWhile(url: string, work: () => Promise<void>, how = KEPT): Promise<Polled> {
  const [polled] = await pollAllWhile([{ url, how }], work);
  if (!polled) throw new Error(`nobody asked ${url}`);
  return polled;
}

/** The same of several servers at a time; what was found stands in their order. All were answered before it happens. */
export async function pollAllWhile(
  asked: readonly { url: string; how: How }[],
  work: () => Promise<void>,
): Promise<Polled[]> {
  const started = asked.map(({ url, how }) => startClient('poll', url, how));
  try {
    await Promise.all(started.map((client, i) => answered(client, asked[i]?.url ?? '')));
    await work();
    return await Promise.all(started.map(client => resultOf<Polled>(client)));
  } finally {
    for (const client of started) client.kill('SIGKILL');
  }
}

async function answered({ stdout, pid }: ChildProcess, url: string): Promise<void> {
  if (!stdout) throw new Error(`the client ${pid} of ${url} has no stdout`);
  const ended = once(stdout, 'end').then(() => {
    throw new Error(`the client of ${url} ended before its server answered`);
  });
  await Promise.race([once(stdout, 'data'), ended]);
}
