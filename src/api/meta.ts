/** What every Kubernetes object carries, as plain JSON: the part of it that this operator uses. */

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace: string;
  uid: string;
  /** Opaque but for order: newer versions of one resource type compare greater (Kubernetes >= 1.35 promises it). */
  resourceVersion: string;
  generation?: number;
  creationTimestamp: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
}

export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
}

/** An object as we declare it: what the API server sets is absent. */
export interface Declared {
  apiVersion: string;
  kind: string;
  metadata: Pick<ObjectMeta, 'name' | 'namespace'> & Partial<Omit<ObjectMeta, 'name' | 'namespace'>>;
}

/** Where a resource type lives in the API. `group` is empty for the core API. */
export interface ResourceType {
  group: string;
  version: string;
  plural: string;
  kind: string;
}

/** `namespace/name`: how caches and queues name an object. */
export type Key = string;

export function keyOf(object: { metadata: { namespace: string; name: string } }): Key {
  return `${object.metadata.namespace}/${object.metadata.name}`;
}

export function namespaceOf(key: Key): string {
  return key.slice(0, key.indexOf('/'));
}

export function apiVersionOf({ group, version }: ResourceType): string {
  return group === '' ? version : `${group}/${version}`;
}
