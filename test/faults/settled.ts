/** What the fault tests share: waiting for the end of a change, and counting what it took. */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { ResourceType } from '../../src/api/meta.ts';
import { CHILD_TYPES } from '../../src/connector/children.ts';
import { createLimiter } from '../../src/probe/limiter.ts';
import { operatorRequests } from '../support/audit.ts';
import type { Sandbox } from '../support/kube.ts';
import { LONG } from './figures.ts';
import type { Call, Rule } from './proxy.ts';
import { differences, isSettled, type Snapshot, snapshot, untilSnapshot } from './snapshot.ts';

/**
 * Back-offs of 1 s to 16 s after a burst of failures, and what the cluster takes on a busy machine. The long run waits
 * for watches whose silence is taken for peace for 150 s, twice.
 */
const PATIENCE_MS = LONG ? 500_000 : 90_000;

/** Waits until the operator has said all that there is to say of the spec that is there now. */
export async function untilSettled(cluster: Sandbox, connector: string): Promise<Snapshot> {
  // What watches show may be older than the change that is waited for.
  const { spec } = await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, connector);
  await untilState(cluster, connector, 'a settled state', found => {
    const hosting = found.connector?.status?.hosting;
    return (
      isDeepStrictEqual(named(found.connector?.spec, cluster, connector), spec) &&
      isSettled(found) &&
      // It counts as ready as soon as one Pod is.
      hosting?.readyReplicas === hosting?.replicas
    );
  });
  // The status may have come before a child that it speaks of: each has a watch of its own.
  return snapshot(cluster, connector);
}

/** What a snapshot shows, with the names that it leaves out. */
function named<T>(value: T, { namespace }: Sandbox, connector: string): T {
  const json = JSON.stringify(value ?? null);
  return JSON.parse(json.replaceAll('<name>', connector).replaceAll('<namespace>', namespace)) as T;
}

/** Waits until all is as it was at another time or place. */
export async function untilSame(cluster: Sandbox, connector: string, expected: Snapshot): Promise<Snapshot> {
  try {
    return await untilState(cluster, connector, 'the expected state', found => isDeepStrictEqual(found, expected));
  } catch (error) {
    const differing = differences(await snapshot(cluster, connector), expected);
    throw new Error(`it differs from the expected state:\n${differing.slice(0, 20).join('\n')}`, { cause: error });
  }
}

/** Waits until nothing is left of a connector. */
export function untilGone(cluster: Sandbox, connector: string): Promise<Snapshot> {
  return untilState(cluster, connector, 'its end', found => found.connector === null && found.children.length === 0);
}

/** Waits for a state of a connector, but not for ever. */
export function untilState(cluster: Sandbox, connector: string, what: string, wanted: (found: Snapshot) => boolean) {
  return untilSnapshot(cluster, connector, wanted, { what, timeoutMs: PATIENCE_MS });
}

/** Waits until a fault has met what it is for, so that a test cannot pass without. */
export async function untilHit(...rules: Rule[]): Promise<void> {
  const late = sleep(PATIENCE_MS, undefined, { ref: false }).then(() => {
    throw new Error(`waited ${PATIENCE_MS / 1000} s for a request that the fault is for`);
  });
  await Promise.race([Promise.all(rules.map(({ hit }) => hit)), late]);
}

/** Changes an object as a person would who knows nothing of the operator: a JSON merge patch. */
export function patchObject(
  { client, namespace, signal }: Sandbox,
  type: ResourceType,
  name: string,
  body: object,
): Promise<unknown> {
  return client.patch(type, { namespace, name }, body, signal);
}

/** The children of a snapshot in words, such as `Service <name>-new`. */
export function childrenOf({ children }: Snapshot): string[] {
  return children.map(({ kind, name }) => `${kind} ${name}`);
}

/** Lets so many do their work at a time; the others wait for their turn. */
export function inTurn(atATime: number): <T>(work: () => Promise<T>) => Promise<T> {
  // One host is what bounds: of all slots a tenant may hold 3/4, and 3/4 of twice as many are more than enough.
  const limiter = createLimiter({ total: 2 * atATime, perHost: atATime });
  return async work => {
    const release = await limiter.acquire({ host: '', tenant: '' }, new AbortController().signal);
    try {
      return await work();
    } finally {
      release();
    }
  };
}

/** A rule's match for the write of this number, counted from now. */
export function nthWrite(number: number): (call: Call) => boolean {
  let count = 0;
  return ({ isWrite }) => {
    if (isWrite) count += 1;
    return isWrite && count === number;
  };
}

/** What the operator made and removed of children in a namespace, by the API server's audit log. */
export function childrenWritten(cluster: Sandbox, auditLog: string): { created: number; deleted: number } {
  const requests = operatorRequests(auditLog, cluster.namespace);
  const children = requests.filter(({ resource }) => CHILD_TYPES.some(({ plural }) => plural === resource));
  return {
    // A server-side apply says whether it made what it applied.
    created: children.filter(({ code }) => code === 201).length,
    deleted: children.filter(({ verb, code }) => verb === 'delete' && code === 200).length,
  };
}
