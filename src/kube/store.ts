/** An indexed cache of the objects of one resource type: what a reflector feeds and reconciles read. */

import { type Key, keyOf, type ObjectMeta } from '../api/meta.ts';

export interface Stored {
  metadata: Pick<ObjectMeta, 'name' | 'namespace' | 'uid' | 'resourceVersion'>;
}

/** `previous` is absent for a new object, `current` for one that is gone. */
export interface Change<T> {
  previous: T | undefined;
  current: T | undefined;
}

/** Index name → the values under which an object is found. */
export type Indexers<T, I extends string> = Record<I, (object: T) => readonly string[]>;

export interface Store<T extends Stored, I extends string = never> {
  get(key: Key): T | undefined;
  size(): number;
  values(): Iterable<T>;
  /** Whether all that there is in a namespace was told at least once. */
  filledIn(namespace: string): boolean;
  byIndex(index: I, value: string): T[];
  /**
   * Takes what a write answered, so that the next reconcile sees it before the watch brings it. Tells no subscriber, and
   * ignores what is older than what the watch has told.
   */
  written(object: T): void;
  subscribe(handler: (change: Change<T>) => void): void;
}

/** The side of a store that only its reflector may use: for a namespace, or for all. */
export interface StoreWriter<T extends Stored> {
  /**
   * A complete list as of `resourceVersion`. Objects that were written after it stay, unless the watch has told later
   * versions already: then the server was set back (its etcd restored, say), and the list is all that there is.
   */
  replace(objects: readonly T[], resourceVersion: string): void;
  upsert(object: T): void;
  remove(object: T): void;
  /** The watch has told all up to this version. */
  progress(resourceVersion: string): void;
}

export interface FedStore<T extends Stored, I extends string = never> extends Store<T, I>, StoreWriter<T> {
  /** For a reflector of one namespace: the store learns by each of these how far it is there, and only there. */
  within(namespace: string): StoreWriter<T>;
}

/**
 * Whether version `a` is newer than `b`. Kubernetes promises decimal resourceVersions that compare by value within a
 * resource type (KEP-5504).
 */
export function isNewer(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length;
}

export function createStore<T extends Stored, I extends string = never>(
  indexers: Indexers<T, I> = {} as Indexers<T, I>,
): FedStore<T, I> {
  const objects = new Map<Key, T>();
  const indexes = new Map<string, Map<string, Set<Key>>>(Object.keys(indexers).map(name => [name, new Map()]));
  const handlers: ((change: Change<T>) => void)[] = [];
  /** Namespace, or undefined for all of them → all changes there up to this version are in `objects`. */
  const seen = new Map<string | undefined, string>();
  const filled = new Set<string | undefined>();
  /** What we wrote and no subscriber knows of → what they know of. Others' changes may have come with it. */
  const untold = new Map<Key, T | undefined>();

  function place(key: Key, current: T | undefined): T | undefined {
    const previous = objects.get(key);
    for (const [name, index] of indexes) {
      const valuesOf = indexers[name as I];
      for (const value of previous ? valuesOf(previous) : []) {
        const keys = index.get(value);
        keys?.delete(key);
        if (keys?.size === 0) index.delete(value);
      }
      for (const value of current ? valuesOf(current) : []) {
        const keys = index.get(value);
        if (keys) keys.add(key);
        else index.set(value, new Set([key]));
      }
    }
    if (current) objects.set(key, current);
    else objects.delete(key);
    return previous;
  }

  function change(key: Key, current: T | undefined): void {
    const placed = place(key, current);
    const previous = untold.get(key) ?? placed;
    untold.delete(key);
    for (const handler of handlers) handler({ previous, current });
  }

  /** Tells of what we wrote, if nobody knows of it. */
  function tell(key: Key): void {
    if (untold.has(key)) change(key, objects.get(key));
  }

  const seenIn = (namespace: string | undefined): string => seen.get(namespace) ?? seen.get(undefined) ?? '0';

  function writer(scope: string | undefined): StoreWriter<T> {
    const view: StoreWriter<T> = {
      replace(list, resourceVersion) {
        const setBack = isNewer(seenIn(scope), resourceVersion);
        seen.set(scope, resourceVersion);
        filled.add(scope);
        const isLater = ({ metadata }: T): boolean => !setBack && isNewer(metadata.resourceVersion, resourceVersion);
        const isHere = ({ metadata }: T): boolean => scope === undefined || metadata.namespace === scope;
        const listed = new Map(list.map(object => [keyOf(object), object]));
        for (const [key, object] of objects)
          if (isHere(object) && !listed.has(key) && !isLater(object)) change(key, undefined);
        for (const [key, object] of listed) {
          const known = objects.get(key);
          if (known && isLater(known)) view.upsert(object);
          // After a setback the same version may be another object.
          else if (setBack || known?.metadata.resourceVersion !== object.metadata.resourceVersion) change(key, object);
          else tell(key);
        }
      },
      upsert(object) {
        const key = keyOf(object);
        const known = objects.get(key);
        view.progress(object.metadata.resourceVersion);
        if (known && isNewer(known.metadata.resourceVersion, object.metadata.resourceVersion)) {
          // Our own later write holds this change of somebody else as well.
          tell(key);
        } else if (known?.metadata.resourceVersion !== object.metadata.resourceVersion) change(key, object);
        else untold.delete(key);
      },
      remove(object) {
        const key = keyOf(object);
        const known = objects.get(key);
        view.progress(object.metadata.resourceVersion);
        if (!known) return;
        // A newer object of that name was written by us after this one went.
        if (isNewer(known.metadata.resourceVersion, object.metadata.resourceVersion)) tell(key);
        else change(key, undefined);
      },
      progress(resourceVersion) {
        if (isNewer(resourceVersion, seenIn(scope))) seen.set(scope, resourceVersion);
      },
    };
    return view;
  }

  return {
    get: key => objects.get(key),
    size: () => objects.size,
    values: () => objects.values(),
    filledIn: namespace => filled.has(undefined) || filled.has(namespace),
    byIndex(name, value) {
      const found: T[] = [];
      for (const key of indexes.get(name)?.get(value) ?? []) {
        const object = objects.get(key);
        if (object) found.push(object);
      }
      return found;
    },
    written(object) {
      const { namespace, resourceVersion } = object.metadata;
      const key = keyOf(object);
      const known = objects.get(key);
      // Absent and not newer than what the watch told: it was deleted again in the meantime.
      if (!isNewer(resourceVersion, known?.metadata.resourceVersion ?? seenIn(namespace))) return;
      place(key, object);
      if (!untold.has(key)) untold.set(key, known);
    },
    subscribe: handler => void handlers.push(handler),
    ...writer(undefined),
    within: writer,
  };
}
