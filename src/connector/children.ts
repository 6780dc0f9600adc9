/** The objects that the operator makes for a connector, as it keeps them: types, caches, and what differs from a wish. */

import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { ANNOTATION, LABEL, OPERATOR, PERSONAL_CONNECTORS, type PersonalConnector } from '../api/connector.ts';
import {
  apiVersionOf,
  type Declared,
  type KubeObject,
  type ObjectMeta,
  type OwnerReference,
  type ResourceType,
} from '../api/meta.ts';
import { createStore, type FedStore } from '../kube/store.ts';

export const DEPLOYMENTS = { group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment' } as const;
export const SERVICES = { group: '', version: 'v1', plural: 'services', kind: 'Service' } as const;
export const NETWORK_POLICIES = {
  group: 'networking.k8s.io',
  version: 'v1',
  plural: 'networkpolicies',
  kind: 'NetworkPolicy',
} as const;
export const POD_DISRUPTION_BUDGETS = {
  group: 'policy',
  version: 'v1',
  plural: 'poddisruptionbudgets',
  kind: 'PodDisruptionBudget',
} as const;
export const PODS = { group: '', version: 'v1', plural: 'pods', kind: 'Pod' } as const;

/** The kinds of children, in the order in which they are made and looked through. */
export const CHILD_TYPES = [
  DEPLOYMENTS,
  SERVICES,
  NETWORK_POLICIES,
  POD_DISRUPTION_BUDGETS,
] as const satisfies ResourceType[];
export type ChildKind = (typeof CHILD_TYPES)[number]['kind'];

/** The label by which a Deployment tells the Pods of its templates apart. */
export const TEMPLATE_HASH = 'pod-template-hash';

/** Children and their Pods carry this label; watches select by it. */
export const CHILD_SELECTOR = `${LABEL.managedBy}=${OPERATOR},${LABEL.connector}`;

export interface Child extends KubeObject {
  spec?: object;
}

export interface Deployment extends Child {
  spec: {
    replicas?: number;
    template?: { metadata?: Pick<ObjectMeta, 'annotations'>; spec?: { containers?: { image?: string }[] } };
  };
  status?: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    readyReplicas?: number;
    availableReplicas?: number;
    conditions?: { type: string; status: string; reason?: string; message?: string }[];
  };
}

export interface ContainerState {
  waiting?: { reason?: string; message?: string };
  terminated?: { exitCode?: number; reason?: string; message?: string };
}

export interface ContainerStatus {
  name: string;
  ready: boolean;
  restartCount: number;
  image: string;
  state?: ContainerState;
  lastState?: ContainerState;
}

/** What tells why a Pod does not run. */
export interface Pod extends KubeObject {
  status: {
    phase?: string;
    conditions?: { type: string; status: string; reason?: string; message?: string }[];
    initContainerStatuses?: ContainerStatus[];
    containerStatuses?: ContainerStatus[];
  };
}

export type ChildStore = FedStore<Child, 'owner' | 'connector'>;
export type ChildStores = Record<ChildKind, ChildStore>;
export type PodStore = FedStore<Pod, 'connector'>;

export function createChildStores(): ChildStores {
  const store = (): ChildStore =>
    createStore<Child, 'owner' | 'connector'>({
      owner: child => ownersOf(child).map(({ uid }) => uid),
      connector: child => [connectorIndex(child)],
    });
  return { Deployment: store(), Service: store(), NetworkPolicy: store(), PodDisruptionBudget: store() };
}

export function createPodStore(): PodStore {
  return createStore<Pod, 'connector'>({ connector: pod => [connectorIndex(pod)] });
}

/** Under what a child or a Pod is found in the index `connector`: what its labels say it was made for. */
export function connectorIndex({ metadata: { namespace, labels } }: Pick<KubeObject, 'metadata'>): string {
  return labelIndex(namespace, labels?.[LABEL.connector]);
}

/** The same by the label's value. */
export function labelIndex(namespace: string, label: string | undefined): string {
  return `${namespace}/${label ?? ''}`;
}

/** The PersonalConnectors that own an object: one at most, if nobody meddled. */
export function ownersOf(object: KubeObject): OwnerReference[] {
  return (object.metadata.ownerReferences ?? []).filter(
    ({ kind, apiVersion }) =>
      kind === PERSONAL_CONNECTORS.kind && apiVersion.startsWith(`${PERSONAL_CONNECTORS.group}/`),
  );
}

/**
 * Whether an object is the connector's: by its owner's UID; or it lost its owner (a cascade that orphans, a person's
 * edit), and its labels say that it was made for a connector of this name.
 */
export function belongsTo(object: KubeObject, connector: PersonalConnector, labels: Record<string, string>): boolean {
  const { ownerReferences = [], labels: has = {} } = object.metadata;
  if (ownersOf(object).some(({ uid }) => uid === connector.metadata.uid)) return true;
  return (
    !ownerReferences.some(({ controller }) => controller) &&
    Object.entries(labels).every(([name, value]) => has[name] === value) &&
    // A copy that a person made under another name is not ours.
    object.metadata.annotations?.[ANNOTATION.applied]?.startsWith(`${object.metadata.name}.`) === true
  );
}

/**
 * Name and hash of a declared object, put on it as an annotation: a wish that lost a field then shows as a difference, and
 * a copy as a copy.
 */
export function withHash(object: Declared): Declared {
  const hash = createHash('sha256').update(JSON.stringify(object)).digest('hex').slice(0, 16);
  const annotations = { ...object.metadata.annotations, [ANNOTATION.applied]: `${object.metadata.name}.${hash}` };
  return { ...object, metadata: { ...object.metadata, annotations } };
}

/** Fields that Kubernetes owns as a whole (`x-kubernetes-map-type` or `list-type: atomic`): nothing may be added to them. */
const ATOMIC = new Set(['selector', 'podSelector', 'nodeSelector', 'tolerations', 'ingress', 'policyTypes']);

/**
 * Whether a live object holds all that a declared one says. Other fields that only the live one has are the API
 * server's defaults or somebody else's business; lists must agree in length and order.
 */
export function holds(live: unknown, declared: unknown): boolean {
  if (Array.isArray(declared)) {
    return (
      Array.isArray(live) &&
      live.length === declared.length &&
      declared.every((item, index) => holds(live[index], item))
    );
  }
  if (declared !== null && typeof declared === 'object') {
    if (live === null || typeof live !== 'object') return false;
    if (saysOtherwise(live, declared)) return false;
    return Object.entries(declared).every(([key, value]) => {
      // The API server leaves out an empty map or list, and an empty variable, that says nothing.
      const isUnsaid = isEmpty(value) || (key === 'value' && value === '');
      const found = (live as Record<string, unknown>)[key] ?? (isUnsaid ? value : undefined);
      return ATOMIC.has(key) ? isDeepStrictEqual(found, value) : holds(found, value);
    });
  }
  return live === declared;
}

/** The same of these objects alone, not of what is in them. */
function saysOtherwise(live: object, declared: object): boolean {
  return 'value' in declared && 'valueFrom' in live && live.valueFrom !== undefined;
}

/**
 * Whether a live object says in a second way what a declared one says, anywhere in it, and so that the other way counts:
 * `valueFrom` beside an empty `value`. The API server refuses all else of that kind.
 */
export function isOverruled(live: unknown, declared: unknown): boolean {
  if (!isObject(live) || !isObject(declared)) return false;
  if (saysOtherwise(live, declared)) return true;
  return Object.entries(declared).some(([key, value]) => isOverruled(live[key], value));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object';
}

function isEmpty(value: unknown): boolean {
  return isObject(value) && Object.keys(value).length === 0;
}

const OWN_ANNOTATIONS = new Set<string>(Object.values(ANNOTATION));

type Raw = KubeObject & { spec?: object; status?: object };

function projectMeta({ metadata }: Raw): ObjectMeta {
  const { name, namespace, uid, resourceVersion, creationTimestamp, generation, deletionTimestamp } = metadata;
  // Of others' annotations one holds the whole spec once more: kubectl's.
  const own = Object.entries(metadata.annotations ?? {}).filter(([key]) => OWN_ANNOTATIONS.has(key));
  return {
    name,
    namespace,
    uid,
    resourceVersion,
    creationTimestamp,
    ...(generation !== undefined && { generation }),
    ...(deletionTimestamp && { deletionTimestamp }),
    ...(own.length > 0 && { annotations: Object.fromEntries(own) }),
  };
}

function projectChildMeta(raw: Raw): ObjectMeta {
  const { labels, ownerReferences } = raw.metadata;
  return { ...projectMeta(raw), ...(labels && { labels }), ...(ownerReferences && { ownerReferences }) };
}

/** Keeps what reconciles read; managedFields alone would double the size of a cache. List items lack their type. */
export const projectChild =
  (type: ResourceType) =>
  (raw: Raw): Child => ({
    apiVersion: apiVersionOf(type),
    kind: type.kind,
    metadata: projectChildMeta(raw),
    ...(raw.spec && { spec: raw.spec }),
    ...(type.kind === 'Deployment' && raw.status && { status: raw.status }),
  });

export function projectPod(raw: Raw): Pod {
  const { phase, conditions, initContainerStatuses, containerStatuses } = (raw.status ?? {}) as Pod['status'];
  const { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp, labels = {} } = raw.metadata;
  const kept = Object.entries(labels).filter(([name]) => name === LABEL.connector || name === TEMPLATE_HASH);
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace,
      uid,
      resourceVersion,
      creationTimestamp,
      ...(deletionTimestamp && { deletionTimestamp }),
      ...(kept.length > 0 && { labels: Object.fromEntries(kept) }),
    },
    status: {
      ...(phase && { phase }),
      ...(conditions && { conditions }),
      ...(initContainerStatuses && { initContainerStatuses }),
      ...(containerStatuses && { containerStatuses }),
    },
  };
}

/** Leaves out what reconciles do not read, and may be a megabyte. */
export function projectConnector(raw: PersonalConnector): PersonalConnector {
  const { metadata: _, description: __, iconUrl: ___, ...spec } = raw.spec;
  return {
    apiVersion: apiVersionOf(PERSONAL_CONNECTORS),
    kind: PERSONAL_CONNECTORS.kind,
    metadata: projectMeta(raw),
    spec,
    ...(raw.status && { status: raw.status }),
  };
}
