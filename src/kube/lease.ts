/**
 * One Lease as this process sees it, and the writes that take, renew and free it, with the times of Kubernetes' own
 * controllers. Clocks of other machines are never believed: a Lease expires so long after we saw it change.
 */

import type { Declared, KubeObject, ResourceType } from '../api/meta.ts';
import type { KubeClient } from './client.ts';
import { isNotFound } from './errors.ts';
import { isNewer } from './store.ts';

export const LEASES = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  kind: 'Lease',
} as const satisfies ResourceType;

/** How long others wait for a holder that is silent. */
const LEASE_MS = 15_000;
/** A renewal that hangs is given up in time for another one on another connection. */
const REQUEST_TIMEOUT_MS = 4_000;
/** What a foreign record may make us wait at most. */
const LONGEST_LEASE_MS = 600_000;

interface LeaseSpec {
  holderIdentity?: string;
  leaseDurationSeconds?: number;
  acquireTime?: string;
  renewTime?: string;
  leaseTransitions?: number;
}

export interface Lease extends KubeObject {
  spec?: LeaseSpec;
}

/** What is kept in the metadata of a Lease. */
export interface Marks {
  labels?: Record<string, string>;
  /** Of its holder; one that is undefined is taken out. */
  annotations?: () => Record<string, string | undefined>;
}

export interface SeatOptions {
  /** Its requests must be sent whether or not this process holds a Lease. */
  client: KubeClient;
  namespace: string;
  /** Name of the Lease. */
  name: string;
  /** Unlike that of any other process, ever. */
  identity: string;
  marks?: Marks;
  /** Told after each sight of the Lease. */
  onSeen: () => void;
  now: () => number;
}

/** A place that one process at a time may hold, by its Lease. */
export interface Seat {
  name: string;
  /** The Lease when last seen; undefined: there is none, or nobody has looked yet. */
  lease(): Lease | undefined;
  /** Whose it is by what was last seen of it, or of one that is deleted: its holder may not know yet. Empty: nobody's. */
  holder(): string;
  /** How long the Lease is still another's, in ms; 0 when it may be taken. */
  takenForMs(): number;
  /** Takes what a watch or a list tells, unless we know better already; undefined says that there is none. */
  told(current: Lease | undefined): void;
  /** Sees the Lease as the server has it. */
  look(): Promise<void>;
  /**
   * Writes the Lease as ours; a conflict says that it changed since it was seen. Gives whether it is there still: the
   * watch may have told already that it was deleted again.
   */
  hold(): Promise<boolean>;
  /** Writes the Lease as nobody's, with the same conflicts: the end of its holder, also of one that does not know it yet. */
  free(): Promise<void>;
  /** Writes annotations, and so makes the next renewal of its holder conflict: for one that does not see what it should. */
  annotate(annotations: Record<string, string>): Promise<void>;
}

export function createSeat({ client, namespace, name, identity, marks = {}, onSeen, now }: SeatOptions): Seat {
  /** What the Lease was when last seen; its record, and since when that is what it is. */
  let lease: Lease | undefined;
  let record: LeaseSpec = {};
  let seenAt = 0;
  let writes = 0;

  function see(sight: Lease | undefined): void {
    // The record outlives a Lease that is deleted: its holder may not know yet, and goes on until it would have expired.
    if (sight && JSON.stringify(sight.spec ?? {}) !== JSON.stringify(record)) {
      record = sight.spec ?? {};
      seenAt = now();
    }
    lease = sight;
    onSeen();
  }

  function told(current: Lease | undefined): void {
    // Watches are behind our own writes.
    if (!current || !lease || isNewer(current.metadata.resourceVersion, lease.metadata.resourceVersion)) see(current);
  }

  /** Each is a change for those who watch, also while the calendar here stands still. */
  function timestamp(): string {
    // The API wants microseconds: a time with three digits is refused. The other three count.
    writes += 1;
    return new Date().toISOString().replace('Z', `${String(writes % 1000).padStart(3, '0')}Z`);
  }

  function write(spec: LeaseSpec, annotations?: Record<string, string | undefined>): Promise<Lease> {
    const { labels } = marks;
    const before = lease?.metadata;
    const intent: Declared & { spec: LeaseSpec } = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: LEASES.kind,
      metadata: {
        ...before,
        name,
        namespace,
        ...(labels && { labels: { ...before?.labels, ...labels } }),
        ...(annotations && { annotations: defined({ ...before?.annotations, ...annotations }) }),
      },
      spec: { ...record, ...spec },
    };
    // Not ended with the candidacy: who gives the Lease up must know how the last renewal went.
    const limit = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    return lease ? client.replace<Lease>(LEASES, intent, limit) : client.create<Lease>(LEASES, intent, limit);
  }

  return {
    name,
    lease: () => lease,
    holder: () => record.holderIdentity ?? '',
    takenForMs() {
      const { holderIdentity, leaseDurationSeconds } = record;
      // Ours, when the answer to our own write was lost.
      if (!holderIdentity || holderIdentity === identity) return 0;
      const lasts = leaseDurationSeconds ? Math.min(LONGEST_LEASE_MS, leaseDurationSeconds * 1000) : LEASE_MS;
      return Math.max(0, seenAt + lasts - now());
    },
    told,
    async look() {
      const before = lease;
      const found = await client
        .get<Lease>(LEASES, { namespace, name }, AbortSignal.timeout(REQUEST_TIMEOUT_MS))
        .catch(error => {
          if (!isNotFound(error)) throw error;
          return undefined;
        });
      // What was told while the answer was on its way may be what came after it.
      if (lease === before) see(found);
      else if (found) told(found);
    },
    async hold() {
      const wasThere = lease !== undefined;
      const ours = record.holderIdentity === identity;
      const time = timestamp();
      const spec = {
        holderIdentity: identity,
        leaseDurationSeconds: LEASE_MS / 1000,
        acquireTime: ours && record.acquireTime ? record.acquireTime : time,
        renewTime: time,
        leaseTransitions: (record.leaseTransitions ?? 0) + (ours || !lease ? 0 : 1),
      };
      const written = await write(spec, marks.annotations?.());
      if (wasThere && !lease) return false;
      // The watch may have told what came after it.
      told(written);
      return true;
    },
    async free() {
      told(await write({ holderIdentity: '', leaseDurationSeconds: 1, renewTime: timestamp() }));
    },
    async annotate(annotations) {
      told(await write({}, annotations));
    },
  };
}

function defined(values: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
