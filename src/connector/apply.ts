/** Makes the cluster hold what a plan wants: applies what differs, removes what is no longer wanted, takes nothing that is another's. */

import { createHash } from 'node:crypto';
import { ANNOTATION, FIELD_MANAGER, type Finding, type PersonalConnector } from '../api/connector.ts';
import { type Declared, keyOf } from '../api/meta.ts';
import type { KubeClient } from '../kube/client.ts';
import { ApiError, isConflict, isForbidden, isInvalid, isNotFound } from '../kube/errors.ts';

import {
  belongsTo,
  CHILD_TYPES,
  type Child,
  type ChildKind,
  type ChildStores,
  holds,
  ownersOf,
  projectChild,
} from './children.ts';
import { selectorLabels } from './names.ts';
import { type Desired, rejected } from './plan.ts';

/**
 * What stood in the way. `accepted` and `deployed` go to the status; `error` is tried again with back-off; without one
 * an event will come, or `retryAfterMs` is when to look again at what no watch shows.
 */
export interface Obstacle {
  accepted?: Finding<'Accepted'>;
  deployed?: Finding<'Deployed'>;
  error?: unknown;
  retryAfterMs?: number;
}

/** How soon to look again whether a foreign object gave up a name: it carries no label of ours, so no watch tells. */
const NAME_CONFLICT_RETRY_MS = 60_000;
/** How soon to try again what the API server refused: a policy or a default of the cluster may have changed. */
const REFUSED_RETRY_MS = 300_000;
/** How soon to look again for the end of a deleted connector's child, where no watch tells it. */
const COLLECTION_RETRY_MS = 5_000;

/**
 * A version that no object can have: etcd's first write makes revision 2. A server-side apply that carries it creates
 * what is not there and conflicts with whatever is, so that a foreign object is never taken over (docs/adr/0001).
 */
const MUST_NOT_EXIST = '1';

export interface Applier {
  /** Gives what stood in the way, or undefined when the cluster now holds what is wanted. Throws a conflict. */
  act(connector: PersonalConnector, desired: readonly Desired[], signal: AbortSignal): Promise<Obstacle | undefined>;
}

export function createApplier(client: KubeClient, stores: ChildStores): Applier {
  /** UID of a child → what was wished and what came of it, when an apply left a difference (an admission plugin's, say). */
  const futile = new Map<string, string>();
  for (const store of Object.values(stores)) {
    store.subscribe(({ previous, current }) => {
      if (previous && previous.metadata.uid !== current?.metadata.uid) futile.delete(previous.metadata.uid);
    });
  }

  async function apply(connector: PersonalConnector, { type, object }: Desired, signal: AbortSignal): Promise<void> {
    const store = stores[type.kind as ChildKind];
    const project = projectChild(type);
    const send = async (precondition: { uid: string } | { resourceVersion: string }): Promise<void> => {
      const intent: Declared = { ...object, metadata: { ...object.metadata, ...precondition } };
      const child = project(await client.apply(type, intent, { fieldManager: FIELD_MANAGER }, signal));
      store.written(child);
      if (holds(child, object)) futile.delete(child.metadata.uid);
      else futile.set(child.metadata.uid, fingerprint(object, child));
    };

    let live = store.get(keyOf(object));
    if (!live) {
      try {
        return await send({ resourceVersion: MUST_NOT_EXIST });
      } catch (error) {
        if (!isConflict(error)) throw error;
        // It is there although no watch told: either foreign, or ours and lacking its labels, or made just now.
        live = project(await client.get<Child>(type, object.metadata, signal));
      }
    }
    if (!belongsTo(live, connector, selectorLabels(connector.metadata))) throw new NameTaken(live);
    if (holds(live, object) || futile.get(live.metadata.uid) === fingerprint(object, live)) return;
    await send({ uid: live.metadata.uid });
  }

  async function prune(connector: PersonalConnector, desired: readonly Desired[], signal: AbortSignal): Promise<void> {
    const wanted = new Set(desired.map(({ object }) => `${object.kind} ${keyOf(object)}`));
    for (const type of CHILD_TYPES) {
      for (const child of stores[type.kind].byIndex('owner', connector.metadata.uid)) {
        if (wanted.has(`${child.kind} ${keyOf(child)}`) || child.metadata.deletionTimestamp) continue;
        try {
          await client.remove(type, child, signal);
        } catch (error) {
          // A conflict says that this UID is gone and another object has its name: the cache will say so, too.
          if (!isNotFound(error)) throw error;
        }
      }
    }
  }

  return {
    async act(connector, desired, signal) {
      try {
        for (const wish of desired) await apply(connector, wish, signal);
        await prune(connector, desired, signal);
        return undefined;
      } catch (error) {
        // The cache is behind: what it will tell decides, and the status waits for that.
        if (isConflict(error)) throw error;
        return obstacle(error, connector);
      }
    },
  };
}

class NameTaken extends Error {
  readonly by: Child;
  constructor(by: Child) {
    super(`${by.kind} ${by.metadata.name} belongs to somebody else`);
    this.by = by;
  }
}

function obstacle(error: unknown, connector: PersonalConnector): Obstacle {
  if (error instanceof NameTaken) {
    const { kind, metadata } = error.by;
    const [owner] = ownersOf(error.by);
    if (owner?.name === connector.metadata.name) {
      // Left by a deleted connector of this name; the garbage collector is on its way, and its deletion is an event.
      const message = `waiting until the ${kind} ${metadata.name} of the deleted connector of this name is gone`;
      return { deployed: { status: 'Unknown', reason: 'Progressing', message }, retryAfterMs: COLLECTION_RETRY_MS };
    }
    const fix =
      kind === 'Service'
        ? 'delete it, or name another Service in spec.serverUrl'
        : 'delete it, or rename the connector';
    const message = `the ${kind} ${metadata.name} exists and belongs to ${owner ? `connector ${owner.name}` : 'somebody else'}: ${fix}`;
    return { accepted: rejected('NameConflict', message), retryAfterMs: NAME_CONFLICT_RETRY_MS };
  }
  if (isForbidden(error) && /being terminated/.test(error.message)) {
    // Nothing can be made here any more, and soon nothing will be left to look after.
    return {};
  }
  if (error instanceof ApiError && /exceeded quota|admission webhook|denied/.test(error.message)) {
    return { deployed: { status: 'False', reason: 'QuotaExceeded', message: error.message }, error };
  }
  if (isInvalid(error)) {
    const message = `the API server refuses what the spec leads to: ${error.message}`;
    return { accepted: rejected('InvalidSpec', message), retryAfterMs: REFUSED_RETRY_MS };
  }
  return { error };
}

/** A wish, and all of a child that applying it could change. */
function fingerprint(wish: Declared, { metadata, spec }: Child): string {
  const { labels, annotations, ownerReferences } = metadata;
  const wanted = wish.metadata.annotations?.[ANNOTATION.applied];
  const all = JSON.stringify([wanted, labels, annotations, ownerReferences, spec]);
  return createHash('sha256').update(all).digest('base64');
}
