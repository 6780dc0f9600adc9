/** The caches that reconciles read, and which connectors a change in them concerns. */

import { PERSONAL_CONNECTORS, type PersonalConnector } from '../api/connector.ts';
import { type Key, type KubeObject, keyOf, type ResourceType } from '../api/meta.ts';
import type { KubeClient, Scope } from '../kube/client.ts';
import { type Reflector, type ReflectorObserver, startReflector } from '../kube/reflector.ts';
import { createStore, type FedStore, type Stored, type StoreWriter } from '../kube/store.ts';
import type { Priority } from '../runtime/queue.ts';
import {
  CHILD_SELECTOR,
  CHILD_TYPES,
  type ChildStores,
  connectorIndex,
  createChildStores,
  createPodStore,
  labelIndex,
  ownersOf,
  PODS,
  type PodStore,
  projectChild,
  projectConnector,
  projectPod,
} from './children.ts';
import { labelValue } from './names.ts';
import {
  CONFIG_MAPS,
  createReferenceStores,
  type ReferenceStores,
  referenceIndex,
  referencesOf,
  SECRETS,
} from './references.ts';

type ConnectorIndex = 'id' | 'label' | 'reference';
export type ConnectorStore = FedStore<PersonalConnector, ConnectorIndex>;

export interface Stores {
  connectors: ConnectorStore;
  children: ChildStores;
  pods: PodStore;
  references: ReferenceStores;
}

export function createStores(): Stores {
  return {
    connectors: createStore<PersonalConnector, ConnectorIndex>({
      id: ({ spec }) => (spec.id === undefined ? [] : [spec.id]),
      label: ({ metadata }) => [labelIndex(metadata.namespace, labelValue(metadata.name))],
      reference: referencesOf,
    }),
    children: createChildStores(),
    pods: createPodStore(),
    references: createReferenceStores(),
  };
}

export type Enqueue = (key: Key, priority: Priority, cause: string) => void;

/**
 * Calls `enqueue` for each connector that a change concerns: itself, its owner, the one its Pods run for, namesakes by
 * id, those whose probes read it. `cause` is the kind of what changed.
 */
export function watchChanges({ connectors, children, pods, references }: Stores, enqueue: Enqueue): void {
  connectors.subscribe(({ previous, current }) => {
    const object = current ?? previous;
    // A first sight, as when the operator starts, waits behind what people change meanwhile.
    if (object) enqueue(keyOf(object), previous ? 'high' : 'low', PERSONAL_CONNECTORS.kind);
    const ids = new Set([previous?.spec.id, current?.spec.id]);
    if (ids.size === 1 && previous && current) return;
    for (const id of ids) {
      for (const namesake of id === undefined ? [] : connectors.byIndex('id', id)) {
        if (namesake !== current) enqueue(keyOf(namesake), 'high', PERSONAL_CONNECTORS.kind);
      }
    }
  });
  for (const { kind } of CHILD_TYPES) {
    children[kind].subscribe(({ previous, current }) => {
      // Whose owner is lost is told by the label.
      const object = current ?? previous;
      const labelled =
        object && ownersOf(object).length === 0 ? connectors.byIndex('label', connectorIndex(object)) : [];
      for (const key of new Set([...[previous, current].flatMap(ownerKeys), ...labelled.map(keyOf)])) {
        enqueue(key, 'high', kind);
      }
    });
  }
  pods.subscribe(({ previous, current }) => {
    const pod = current ?? previous;
    if (!pod) return;
    for (const connector of connectors.byIndex('label', connectorIndex(pod)))
      enqueue(keyOf(connector), 'high', PODS.kind);
  });
  for (const { kind } of [SECRETS, CONFIG_MAPS]) {
    references[kind].subscribe(({ previous, current }) => {
      const { namespace, name } = (current ?? previous)?.metadata ?? { namespace: '', name: '' };
      for (const connector of connectors.byIndex('reference', referenceIndex(kind, namespace, name)))
        enqueue(keyOf(connector), 'high', kind);
    });
  }
}

function ownerKeys(object: KubeObject | undefined): Key[] {
  return object ? ownersOf(object).map(({ name }) => `${object.metadata.namespace}/${name}`) : [];
}

export interface ReflectorsOptions {
  client: KubeClient;
  /** One namespace; absent means all. */
  namespace: string | undefined;
  signal: AbortSignal;
  onError: (resource: string, error: unknown) => void;
  onStanding?: () => void;
  observer?: (resource: string) => ReflectorObserver;
}

/** Starts to feed the stores that nothing works without. */
export function startReflectors(stores: Stores, options: ReflectorsOptions): Reflector[] {
  const scope = scopeOf(options);
  const made: Scope = { ...scope, labelSelector: CHILD_SELECTOR };
  return [
    ...CHILD_TYPES.map(type =>
      startReflector({
        ...common(options, type),
        scope: made,
        store: sideOf(stores.children[type.kind], options),
        project: projectChild(type),
      }),
    ),
    startReflector({ ...common(options, PODS), scope: made, store: sideOf(stores.pods, options), project: projectPod }),
    startReflector({
      ...common(options, PERSONAL_CONNECTORS),
      scope,
      store: sideOf(stores.connectors, options),
      project: projectConnector,
    }),
  ];
}

/**
 * Starts to feed the store of what probes read. All else works without: who may not watch it learns of changes with the
 * next probe.
 */
export function startReferenceReflector(
  { references, connectors }: Stores,
  type: typeof SECRETS | typeof CONFIG_MAPS,
  options: ReflectorsOptions & { enqueue: Enqueue },
): Reflector {
  const store = references[type.kind];
  store.watched = true;
  const reflector = startReflector<Stored>({
    ...common(options, type),
    scope: { ...scopeOf(options), metadataOnly: true },
    store: sideOf(store, options),
    project: ({ metadata: { namespace, name, uid, resourceVersion } }: Stored) => ({
      metadata: { namespace, name, uid, resourceVersion },
    }),
  });
  void reflector.synced.then(() => {
    for (const connector of connectorsIn(connectors, options.namespace))
      if (referencesOf(connector).length > 0) options.enqueue(keyOf(connector), 'low', type.kind);
  });
  return reflector;
}

/** Those of a namespace; undefined means all. */
export function* connectorsIn(
  connectors: Pick<ConnectorStore, 'values'>,
  namespace: string | undefined,
): Generator<PersonalConnector> {
  for (const connector of connectors.values())
    if (namespace === undefined || connector.metadata.namespace === namespace) yield connector;
}

function scopeOf({ namespace }: ReflectorsOptions): Scope {
  return namespace === undefined ? {} : { namespace };
}

function sideOf<T extends Stored>(store: FedStore<T>, { namespace }: ReflectorsOptions): StoreWriter<T> {
  return namespace === undefined ? store : store.within(namespace);
}

function common<T extends ResourceType>(options: ReflectorsOptions, type: T) {
  const { client, signal, onError, onStanding, observer } = options;
  const { plural } = type;
  return {
    client,
    type,
    signal,
    onError: (error: unknown) => onError(plural, error),
    ...(onStanding && { onStanding }),
    ...(observer && { observer: observer(plural) }),
  };
}
