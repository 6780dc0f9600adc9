/** Makes the cluster hold what a plan wants: applies what differs, removes what is no longer wanted, takes nothing that is another's. */

import { createHash } from 'node:crypto';
import { ANNOTATION, FIELD_MANAGER, type Finding, LABEL, type PersonalConnector } from '../api/connector.ts';
import { type Declared, keyOf, type ResourceType } from '../api/meta.ts';
import type { KubeClient } from '../kube/client.ts';
import { ApiError, isConflict, isForbidden, isInvalid, isNotFound, isTransient } from '../kube/errors.ts';
import { takeSpecFields } from '../kube/managed-fields.ts';

import {
  belongsTo,
  CHILD_TYPES,
  type Child,
  type ChildKind,
  type ChildStores,
  holds,
  isOverruled,
  labelIndex,
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

  async function apply(connector: PersonalConnector, wish: Desired, signal: AbortSignal): Promise<void> {
    const { type, object, fieldManager = FIELD_MANAGER } = wish;
    const store = stores[type.kind as ChildKind];
    const project = projectChild(type);
    const send = async (precondition: { uid: string } | { resourceVersion: string }): Promise<Child> => {
      const intent: Declared = { ...object, metadata: { ...object.metadata, ...precondition } };
      const child = project(await client.apply(type, intent, { fieldManager }, signal));
      store.written(child);
      if (holds(child, object)) futile.delete(child.metadata.uid);
      else futile.set(child.metadata.uid, fingerprint(object, child));
      return child;
    };

    let live = store.get(keyOf(object));
    if (!live) {
      try {
        await send({ resourceVersion: MUST_NOT_EXIST });
        return;
      } catch (error) {
        if (!isConflict(error)) throw error;
        // It is there although no watch told: either foreign, or ours and lacking its labels, or made just now.
        live = project(await client.get<Child>(type, object.metadata, signal));
      }
    }
    if (!belongsTo(live, connector, selectorLabels(connector.metadata))) throw new NameTaken(live);
    if (
      wish.fieldManager === undefined &&
      (holds(live, object) || futile.get(live.metadata.uid) === fingerprint(object, live))
    )
      return;
    const { uid } = live.metadata;
    let refused: unknown;
    try {
      if (!isOverruled(await send({ uid }), object)) return;
    } catch (error) {
      // What somebody else wrote beside ours may be why: a second kind of volume, a second port of one name.
      if (!isInvalid(error) || !(await isValidAlone(type, object, signal))) throw error;
      refused = error;
    }
    if (await takeSpecFields(client, type, live, FIELD_MANAGER, signal)) await send({ uid });
    else if (refused !== undefined) throw refused;
  }

  /** Whether the API server would make such an object, if it were not there. */
  async function isValidAlone(type: ResourceType, object: Declared, signal: AbortSignal): Promise<boolean> {
    const metadata = {
      ...object.metadata,
      name: `${object.metadata.name.slice(0, 50)}-dry-run`,
      resourceVersion: MUST_NOT_EXIST,
    };
    try {
      await client.apply(type, { ...object, metadata }, { fieldManager: FIELD_MANAGER, dryRun: true }, signal);
      return true;
    } catch (error) {
      if (isTransient(error)) throw error;
      return false;
    }
  }

  async function prune(connector: PersonalConnector, desired: readonly Desired[], signal: AbortSignal): Promise<void> {
    const wanted = new Set(desired.map(({ object }) => `${object.kind} ${object.metadata.name}`));
    for (const type of CHILD_TYPES) {
      const isUnwanted = (name: string): boolean => !wanted.has(`${type.kind} ${name}`);
      const found = [...watched(type.kind, connector), ...(await unwatched(type, connector, isUnwanted, signal))];
      for (const child of found) {
        if (!isUnwanted(child.metadata.name) || child.metadata.deletionTimestamp) continue;
        const isOwned = ownersOf(child).some(({ uid }) => uid === connector.metadata.uid);
        try {
          // One that lost its owner may have another one by now.
          await client.remove(type, child, signal, isOwned ? undefined : 'unchanged');
        } catch (error) {
          // A conflict says that this UID is gone and another object has its name: the cache will say so, too.
          if (!isNotFound(error)) throw error;
        }
      }
    }
  }

  /** The connector's children that the watches tell of: also such that lost their owner, which nobody else collects. */
  function watched(kind: ChildKind, connector: PersonalConnector): Child[] {
    const { namespace, uid } = connector.metadata;
    const labels = selectorLabels(connector.metadata);
    const labelled = stores[kind].byIndex('connector', labelIndex(namespace, labels[LABEL.connector]));
    const ours = labelled.filter(child => belongsTo(child, connector, labels));
    return [...new Set([...stores[kind].byIndex('owner', uid), ...ours])];
  }

  /** Of the children that the status tells of, those that no watch does: they lost their labels, or are gone. */
  async function unwatched(
    type: (typeof CHILD_TYPES)[number],
    connector: PersonalConnector,
    isUnwanted: (name: string) => boolean,
    signal: AbortSignal,
  ): Promise<Child[]> {
    const { deployment, service } = connector.status?.hosting ?? {};
    const name = type.kind === 'Service' ? service : deployment;
    // Most have no budget: to look for each of them would be a request at each reconcile.
    if (name === undefined || !isUnwanted(name) || type.kind === 'PodDisruptionBudget') return [];
    const at = { namespace: connector.metadata.namespace, name };
    if (stores[type.kind].get(keyOf({ metadata: at }))) return [];
    try {
      const child = projectChild(type)(await client.get<Child>(type, at, signal));
      return belongsTo(child, connector, selectorLabels(connector.metadata)) ? [child] : [];
    } catch (error) {
      if (!isNotFound(error)) throw error;
      return [];
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
