/** The few API calls that an operator makes, on plain JSON. */

import { apiVersionOf, type Declared, type KubeObject, type ResourceType } from '../api/meta.ts';
import type { Transport } from './transport.ts';

export interface Scope {
  /** One namespace; absent means all. */
  namespace?: string;
  labelSelector?: string;
}

export interface ListPage<T> {
  metadata: { resourceVersion: string; continue?: string };
  items: T[];
}

export type WatchEvent<T> =
  | { type: 'ADDED' | 'MODIFIED' | 'DELETED'; object: T }
  | { type: 'BOOKMARK'; object: { metadata: { resourceVersion: string; annotations?: Record<string, string> } } }
  | { type: 'ERROR'; object: { code?: number; reason?: string; message?: string } };

export interface KubeClient {
  get<T extends KubeObject>(
    type: ResourceType,
    at: { namespace: string; name: string },
    signal: AbortSignal,
  ): Promise<T>;
  /** One page of a list: 500 objects at most. */
  list<T>(type: ResourceType, scope: Scope & { continue?: string }, signal: AbortSignal): Promise<ListPage<T>>;
  /** Opens a watch; the stream gives raw bytes, a JSON object a line. */
  watch(
    type: ResourceType,
    scope: Scope & { resourceVersion: string; timeoutSeconds: number },
    signal: AbortSignal,
  ): Promise<AsyncIterable<Buffer>>;
  /**
   * Server-side apply of a complete intent. `metadata.uid` and `metadata.resourceVersion`, where given, must match what
   * is there, else it throws a conflict.
   */
  apply<T extends KubeObject>(
    type: ResourceType,
    object: Declared,
    options: { fieldManager: string; subresource?: 'status' },
    signal: AbortSignal,
  ): Promise<T>;
  create(type: ResourceType, object: Declared, signal: AbortSignal): Promise<void>;
  /** Deletes the object with this UID and no other; its dependents are collected in the background. */
  remove(type: ResourceType, object: KubeObject, signal: AbortSignal): Promise<void>;
}

export function createClient(transport: Transport): KubeClient {
  return {
    get: (type, { namespace, name }, signal) =>
      transport.call({ method: 'GET', path: `${collection(type, namespace)}/${encodeURIComponent(name)}`, signal }),

    list: (type, { namespace, labelSelector, continue: next }, signal) =>
      transport.call({
        method: 'GET',
        path: `${collection(type, namespace)}?${query({ limit: '500', labelSelector, continue: next })}`,
        signal,
      }),

    watch: (type, { namespace, labelSelector, resourceVersion, timeoutSeconds }, signal) => {
      const parameters = {
        watch: 'true',
        allowWatchBookmarks: 'true',
        timeoutSeconds: String(timeoutSeconds),
        resourceVersion,
        labelSelector,
      };
      return transport.stream({ method: 'GET', path: `${collection(type, namespace)}?${query(parameters)}`, signal });
    },

    apply: (type, object, { fieldManager, subresource }, signal) => {
      const { namespace, name } = object.metadata;
      const path = `${collection(type, namespace)}/${encodeURIComponent(name)}${subresource ? `/${subresource}` : ''}`;
      return transport.call({
        method: 'PATCH',
        path: `${path}?${query({ fieldManager, force: 'true' })}`,
        body: object,
        contentType: 'application/apply-patch+yaml',
        signal,
      });
    },

    create: async (type, object, signal) => {
      await transport.call({ method: 'POST', path: collection(type, object.metadata.namespace), body: object, signal });
    },

    remove: async (type, object, signal) => {
      await transport.call({
        method: 'DELETE',
        path: `${collection(type, object.metadata.namespace)}/${encodeURIComponent(object.metadata.name)}`,
        body: {
          apiVersion: 'v1',
          kind: 'DeleteOptions',
          preconditions: { uid: object.metadata.uid },
          propagationPolicy: 'Background',
        },
        signal,
      });
    },
  };
}

function collection(type: ResourceType, namespace: string | undefined): string {
  const root = type.group === '' ? `/api/${type.version}` : `/apis/${apiVersionOf(type)}`;
  return `${root}${namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`}/${type.plural}`;
}

function query(parameters: Record<string, string | undefined>): string {
  const entries = Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return new URLSearchParams(entries).toString();
}
