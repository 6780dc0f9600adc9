/**
 * Leader election on a Lease, with the times of Kubernetes' own controllers. Who does not lead keeps looking; who led and
 * cannot prove it any more ends. Clocks of other machines are never believed: a Lease expires so long after we saw it
 * change.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Declared, KubeObject, ResourceType } from '../api/meta.ts';
import type { KubeClient } from './client.ts';
import { isConflict, isNotFound } from './errors.ts';
import { startReflector } from './reflector.ts';
import { createStore, isNewer } from './store.ts';

export const LEASES = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  kind: 'Lease',
} as const satisfies ResourceType;

/** How long others wait for a leader that is silent. */
const LEASE_MS = 15_000;
/** How long a leader goes on without having renewed: others begin 5 s or more after it sent its last write. */
const RENEW_DEADLINE_MS = 10_000;
const RETRY_MS = 2_000;
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

export interface ElectionOptions {
  /** Its requests must be sent whether or not this process leads. */
  client: KubeClient;
  namespace: string;
  /** Name of the Lease. */
  name: string;
  /** Unlike that of any other process, ever. */
  identity: string;
  /** Told once, when this process led and does not any more: it may finish nothing, and should end. */
  onLost: (why: string) => void;
  /** Told who leads whenever that is another process, and not the one that was last told. */
  onFollow?: (leader: string) => void;
  /** Told of each failure; the election goes on by itself. */
  onError: (error: unknown) => void;
  /** Milliseconds that no change of the clock moves, and that go on while the process is stopped. */
  now?: () => number;
}

export interface Election {
  /** Resolves when this process leads; never, if it is stopped before. */
  leading: Promise<void>;
  /** Whether this process may write at this moment. */
  isLeader(): boolean;
  /** Whether the Lease was ever seen: who cannot read or write it will never lead. */
  hasSeen(): boolean;
  /** Ends the candidacy, and gives up the Lease so that another one need not wait; after the last write. */
  release(): Promise<void>;
}

export function startElection(options: ElectionOptions): Election {
  const { client, namespace, name, identity, onLost, onFollow, onError, now = () => performance.now() } = options;
  const stop = new AbortController();
  const { signal } = stop;
  const { promise: leading, resolve: markLeading } = Promise.withResolvers<void>();
  /** What the Lease was when last seen; its record, and since when that is what it is. */
  let lease: Lease | undefined;
  let record: LeaseSpec = {};
  let seenAt = 0;
  let hasSeen = false;
  /** Whom `onFollow` told last. */
  let followed: string | undefined;
  let state: 'candidate' | 'leader' | 'ended' = 'candidate';
  /** When the request was sent that renewed the Lease last. */
  let renewedAt = 0;
  let writes = 0;
  let deadline: NodeJS.Timeout | undefined;
  let changed = Promise.withResolvers<void>();

  const store = createStore<Lease>();
  const reflector = startReflector<Lease>({
    client,
    type: LEASES,
    scope: { namespace, name },
    store,
    project: (raw: Lease) => raw,
    signal,
    onError,
  });
  store.subscribe(({ current }) => {
    // The watch is behind our own writes.
    if (!current || !lease || isNewer(current.metadata.resourceVersion, lease.metadata.resourceVersion)) see(current);
  });

  /** Takes a sight of the Lease as it is now; undefined says that there is none. */
  function see(sight: Lease | undefined): void {
    // The record outlives a Lease that is deleted: its holder may not know yet, and leads until it would have expired.
    if (sight && JSON.stringify(sight.spec ?? {}) !== JSON.stringify(record)) {
      record = sight.spec ?? {};
      seenAt = now();
    }
    lease = sight;
    if (sight) hasSeen = true;
    const holder = sight?.spec?.holderIdentity;
    if (holder && holder !== identity && holder !== followed) onFollow?.(holder);
    followed = holder;
    if (state === 'leader' && sight && holder !== identity) lose(`${holder || 'nobody'} holds the Lease now`);
    changed.resolve();
    changed = Promise.withResolvers();
  }

  /** How long the Lease is still another's, in ms; 0 when it may be taken. */
  function takenForMs(): number {
    const { holderIdentity, leaseDurationSeconds } = record;
    // Ours, when the answer to our own write was lost.
    if (!holderIdentity || holderIdentity === identity) return 0;
    const lasts = leaseDurationSeconds ? Math.min(LONGEST_LEASE_MS, leaseDurationSeconds * 1000) : LEASE_MS;
    return Math.max(0, seenAt + lasts - now());
  }

  /** The Lease as it is when we hold it. */
  function held(): Declared & { spec: LeaseSpec } {
    const ours = record.holderIdentity === identity;
    // The API wants microseconds: a time with three digits is refused. The other three count, so that each renewal is a
    // change for those who watch, also while the calendar here stands still.
    writes += 1;
    const time = new Date().toISOString().replace('Z', `${String(writes % 1000).padStart(3, '0')}Z`);
    return {
      apiVersion: 'coordination.k8s.io/v1',
      kind: LEASES.kind,
      metadata: { ...lease?.metadata, name, namespace },
      spec: {
        ...record,
        holderIdentity: identity,
        leaseDurationSeconds: LEASE_MS / 1000,
        acquireTime: ours && record.acquireTime ? record.acquireTime : time,
        renewTime: time,
        leaseTransitions: (record.leaseTransitions ?? 0) + (ours || !lease ? 0 : 1),
      },
    };
  }

  /** Writes the Lease as ours. A conflict says that it changed since it was seen. */
  async function hold(): Promise<void> {
    const sentAt = now();
    const wasThere = lease !== undefined;
    const written = await write(held());
    // Deleted meanwhile, as the watch has told already.
    if (wasThere && !lease) return;
    // The watch may have told what came after it.
    if (!lease || isNewer(written.metadata.resourceVersion, lease.metadata.resourceVersion)) see(written);
    // An answer that comes too late, after a stop of the process say, proves nothing any more.
    if (state === 'ended' || now() - sentAt >= RENEW_DEADLINE_MS) return;
    renewedAt = sentAt;
    clearTimeout(deadline);
    deadline = setTimeout(expire, renewedAt + RENEW_DEADLINE_MS - now());
    if (state === 'leader') return;
    state = 'leader';
    markLeading();
  }

  function write(intent: Declared & { spec: LeaseSpec }): Promise<Lease> {
    // Not ended by `stop`: who gives the Lease up must know how the last renewal went.
    const limit = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    return lease ? client.replace<Lease>(LEASES, intent, limit) : client.create<Lease>(LEASES, intent, limit);
  }

  function expire(): void {
    lose(`the Lease could not be renewed for ${RENEW_DEADLINE_MS / 1000} s`);
  }

  function lose(why: string): void {
    if (state === 'ended') return;
    const led = state === 'leader';
    state = 'ended';
    clearTimeout(deadline);
    stop.abort();
    if (led) onLost(why);
  }

  /** Sees the Lease as the server has it. */
  async function look(): Promise<void> {
    try {
      see(await client.get<Lease>(LEASES, { namespace, name }, AbortSignal.timeout(REQUEST_TIMEOUT_MS)));
    } catch (error) {
      if (!isNotFound(error)) throw error;
      see(undefined);
    }
  }

  /** One try to get or to keep the Lease; gives how long to wait before the next one, in ms. */
  async function attempt(): Promise<number> {
    if (state === 'leader' && now() - renewedAt >= RENEW_DEADLINE_MS) expire();
    if (state === 'candidate' && !lease) await look();
    if (signal.aborted || (state === 'candidate' && takenForMs() > 0)) return 0;
    try {
      await hold();
      return RETRY_MS;
    } catch (error) {
      if (!isConflict(error) && !(isNotFound(error) && lease)) throw error;
      await look();
      // Candidates that are as quick as each other do not try in step for ever.
      return state === 'leader' ? 0 : (RETRY_MS / 4) * (1 + Math.random());
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      const takenMs = state === 'candidate' ? takenForMs() : 0;
      if (takenMs > 0) {
        await untilChanged(takenMs);
        continue;
      }
      const waitMs = await attempt().catch(error => {
        if (!signal.aborted) onError(error);
        return RETRY_MS / 2;
      });
      await sleep(waitMs, undefined, { signal }).catch(() => {});
    }
  }

  /** Ends before its time when the Lease changes. */
  async function untilChanged(ms: number): Promise<void> {
    const over = new AbortController();
    try {
      await Promise.race([
        changed.promise,
        sleep(ms, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => {}),
      ]);
    } finally {
      over.abort();
    }
  }

  async function giveUp(): Promise<void> {
    if (lease?.spec?.holderIdentity !== identity) return;
    const free = held();
    await write({ ...free, spec: { ...free.spec, holderIdentity: '', leaseDurationSeconds: 1 } });
  }

  const done = run();

  return {
    leading,
    // Who never saw a Lease that was deleted may make one at once.
    isLeader: () => state === 'leader' && lease !== undefined && now() - renewedAt < RENEW_DEADLINE_MS,
    hasSeen: () => hasSeen,
    async release() {
      state = 'ended';
      clearTimeout(deadline);
      stop.abort();
      await Promise.all([done, reflector.done]);
      await giveUp()
        .catch(async error => {
          if (!isConflict(error)) throw error;
          // Somebody annotated it, say.
          await look();
          await giveUp();
        })
        .catch(error =>
          onError(new Error('the Lease could not be given up: others wait until it expires', { cause: error })),
        );
    },
  };
}
