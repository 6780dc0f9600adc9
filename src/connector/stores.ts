/** The caches that reconciles read, and which connectors a change in them concerns. */

import { PERSONAL_CONNECTORS, type PersonalConnector } from '../api/connector.ts';
import { type Key, type KubeObject, keyOf } from '../api/meta.ts';
import type { KubeClient, Scope } from '../kube/client.ts';
import { type Reflector, type ReflectorObserver, startReflector } from '../kube/reflector.ts';
import { createStore, type Store, type StoreWriter } from '../kube/store.ts';
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

export type ConnectorStore = Store<PersonalConnector, 'id' | 'label'> & StoreWriter<PersonalConnector>;

export interface Stores {
  connectors: ConnectorStore;
  children: ChildStores;
  pods: PodStore;
}

export function createStores(): Stores {
  return {
    connectors: createStore<PersonalConnector, 'id' | 'label'>({
      id: ({ spec }) => (spec.id === undefined ? [] : [spec.id]),
      label: ({ metadata }) => [labelIndex(metadata.namespace, labelValue(metadata.name))],
    }),
    children: createChildStores(),
    pods: createPodStore(),
  };
}

/**
 * Calls `enqueue` for each connector that a change concerns: itself, its owner, the one its Pods run for, namesakes by
 * id. `cause` is the kind of what changed.
 */
export function watchChanges(
  { connectors, children, pods }: Stores,
  enqueue: (key: Key, priority: Priority, cause: string) => void,
): void {
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
  observer?: (resource: string) => ReflectorObserver;
}

/** Starts to feed the stores. */
export function startReflectors(
  stores: Stores,
  { client, namespace, signal, onError, observer }: ReflectorsOptions,
): Reflector[] {
  const scope: Scope = namespace === undefined ? {} : { namespace };
  const made: Scope = { ...scope, labelSelector: CHILD_SELECTOR };
  const common = (resource: string) => ({
    client,
    signal,
    onError: (error: unknown) => onError(resource, error),
    ...(observer && { observer: observer(resource) }),
  });
  return [
    ...CHILD_TYPES.map(type =>
      startReflector({
        ...common(type.plural),
        type,
        scope: made,
        store: stores.children[type.kind],
        project: projectChild(type),
      }),
    ),
    startReflector({ ...common(PODS.plural), type: PODS, scope: made, store: stores.pods, project: projectPod }),
    startReflector({
      ...common(PERSONAL_CONNECTORS.plural),
      type: PERSONAL_CONNECTORS,
      scope,
      store: stores.connectors,
      project: projectConnector,
    }),
  ];
}
