/** The few API calls that an operator makes, on plain JSON. */

import { apiVersionOf, type Declared, type KubeObject, type ResourceType } from '../api/meta.ts';
import type { ApiRequest, Transport } from './transport.ts';

export interface Scope {
  /** Of each object its metadata alone: what else there is of it never gets here. */
  metadataOnly?: boolean;
  /** One namespace; absent means all. */
  namespace?: string;
  labelSelector?: string;
  /** One object. */
  name?: string;
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
  /**
   * Opens a watch; the stream gives raw bytes, a JSON object a line. Without a `resourceVersion` it begins with all that
   * there is, up to a bookmark with INITIAL_EVENTS_END; servers without WatchList answer 400 or 422 to that.
   */
  watch(
    type: ResourceType,
    scope: Scope & { resourceVersion?: string; timeoutSeconds: number },
    signal: AbortSignal,
  ): Promise<AsyncIterable<Buffer>>;
  /**
   * Server-side apply of a complete intent. `metadata.uid` and `metadata.resourceVersion`, where given, must match what
   * is there, else it throws a conflict.
   */
  apply<T extends KubeObject>(
    type: ResourceType,
    object: Declared,
    options: { fieldManager: string; subresource?: 'status'; dryRun?: boolean },
    signal: AbortSignal,
  ): Promise<T>;
  create<T extends KubeObject>(type: ResourceType, object: Declared, signal: AbortSignal): Promise<T>;
  /** Replaces an object whole. Throws a conflict unless its `metadata.resourceVersion` is still the newest. */
  replace<T extends KubeObject>(type: ResourceType, object: Declared, signal: AbortSignal): Promise<T>;
  /** Applies a JSON merge patch. Throws a conflict unless its `metadata.resourceVersion`, where given, is the newest. */
  patch<T extends KubeObject>(
    type: ResourceType,
    at: { namespace: string; name: string },
    patch: object,
    signal: AbortSignal,
  ): Promise<T>;
  /**
   * Deletes the object with this UID and no other, or only if it is still as it was read (`unchanged`); its dependents
   * are collected in the background.
   */
  remove(type: ResourceType, object: KubeObject, signal: AbortSignal, unchanged?: 'unchanged'): Promise<void>;
}

/** Annotation of the bookmark that ends what was there when a watch began (KEP-3157, WatchList). */
export const INITIAL_EVENTS_END = 'k8s.io/initial-events-end';

/** How all requests of a client are sent, beside what each one says. */
export type RequestDefaults = Pick<ApiRequest, 'unfenced' | 'timeoutMs'>;

export function createClient(transport: Transport, defaults: RequestDefaults = {}): KubeClient {
  const call = <T>(request: ApiRequest): Promise<T> => transport.call<T>({ ...defaults, ...request });
  return {
    get: (type, { namespace, name }, signal) =>
      call({ method: 'GET', path: `${collection(type, namespace)}/${encodeURIComponent(name)}`, signal }),

    list: (type, { continue: next, ...scope }, signal) =>
      call({
        method: 'GET',
        path: `${collection(type, scope.namespace)}?${query({ limit: '500', ...selectors(scope), continue: next })}`,
        ...accept(scope, 'PartialObjectMetadataList'),
        signal,
      }),

    watch: (type, { resourceVersion, timeoutSeconds, ...scope }, signal) => {
      const { namespace } = scope;
      const parameters = {
        watch: 'true',
        allowWatchBookmarks: 'true',
        timeoutSeconds: String(timeoutSeconds),
        ...(resourceVersion === undefined
          ? { sendInitialEvents: 'true', resourceVersionMatch: 'NotOlderThan' }
          : { resourceVersion }),
        ...selectors(scope),
      };
      const path = `${collection(type, namespace)}?${query(parameters)}`;
      return transport.stream({ method: 'GET', path, ...accept(scope, 'PartialObjectMetadata'), signal });
    },

    apply: (type, object, { fieldManager, subresource, dryRun }, signal) => {
      const { namespace, name } = object.metadata;
      const path = `${collection(type, namespace)}/${encodeURIComponent(name)}${subresource ? `/${subresource}` : ''}`;
      return call({
        method: 'PATCH',
        path: `${path}?${query({ fieldManager, force: 'true', dryRun: dryRun ? 'All' : undefined })}`,
        body: object,
        contentType: 'application/apply-patch+yaml',
        signal,
      });
    },

    create: (type, object, signal) =>
      call({ method: 'POST', path: collection(type, object.metadata.namespace), body: object, signal }),

    replace: (type, object, signal) => {
      const { namespace, name } = object.metadata;
      const path = `${collection(type, namespace)}/${encodeURIComponent(name)}`;
      return call({ method: 'PUT', path, body: object, signal });
    },

    patch: (type, { namespace, name }, body, signal) =>
      call({
        method: 'PATCH',
        path: `${collection(type, namespace)}/${encodeURIComponent(name)}`,
        body,
        contentType: 'application/merge-patch+json',
        signal,
      }),

    remove: async (type, object, signal, unchanged) => {
      const { uid, resourceVersion } = object.metadata;
      await call({
        method: 'DELETE',
        path: `${collection(type, object.metadata.namespace)}/${encodeURIComponent(object.metadata.name)}`,
        body: {
          apiVersion: 'v1',
          kind: 'DeleteOptions',
          preconditions: { uid, ...(unchanged && { resourceVersion }) },
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

function selectors({ labelSelector, name }: Scope): Record<string, string | undefined> {
  return { labelSelector, fieldSelector: name === undefined ? undefined : `metadata.name=${name}` };
}

function accept({ metadataOnly }: Scope, kind: string): { accept?: string } {
  return metadataOnly ? { accept: `application/json;as=${kind};g=meta.k8s.io;v=v1` } : {};
}

function query(parameters: Record<string, string | undefined>): string {
  const entries = Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return new URLSearchParams(entries).toString();
}
