/** The Secrets and ConfigMaps that connectors name: which there are, and when they change. No value of them is kept. */

import { hash } from 'node:crypto';
import type { PersonalConnector } from '../api/connector.ts';
import type { KubeObject, ObjectMeta, ResourceType } from '../api/meta.ts';
import type { KubeClient } from '../kube/client.ts';
import { isForbidden, isNotFound } from '../kube/errors.ts';
import { createStore, type FedStore, type Stored } from '../kube/store.ts';
import { credentialsSecret } from './names.ts';

export const SECRETS = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret' } as const satisfies ResourceType;
export const CONFIG_MAPS = {
  group: '',
  version: 'v1',
  plural: 'configmaps',
  kind: 'ConfigMap',
} as const satisfies ResourceType;

type Kind = (typeof SECRETS | typeof CONFIG_MAPS)['kind'];

export interface ReferenceStore extends FedStore<Stored> {
  /** Whether it is to be filled: the operator was given the right to read these, at least where it is to work. */
  watched: boolean;
}

export type ReferenceStores = Record<Kind, ReferenceStore>;

export function createReferenceStores(): ReferenceStores {
  const make = (): ReferenceStore => Object.assign(createStore<Stored>(), { watched: false });
  return { Secret: make(), ConfigMap: make() };
}

/** What the index of connectors finds them by: the kind of a referenced object, and its key. */
export function referenceIndex(kind: string, namespace: string, name: string): string {
  return `${kind}/${namespace}/${name}`;
}

export function referencesOf(connector: PersonalConnector): string[] {
  const { namespace } = connector.metadata;
  const all = [...probeReferences(connector), ...hostingReferences(connector)];
  return [...new Set(all.map(({ kind, name }) => referenceIndex(kind, namespace, name)))];
}

/** Changes with what a connector's probe reads; empty when there is nothing, or nobody knows. */
export function versionOf(connector: PersonalConnector, stores: ReferenceStores): string {
  const references = probeReferences(connector);
  if (!references.every(({ kind }) => stores[kind].filledIn(connector.metadata.namespace))) return '';
  return references
    .map(({ kind, name }) => stores[kind].get(`${connector.metadata.namespace}/${name}`)?.metadata)
    .map(found => (found ? version(found) : 'none'))
    .join();
}

interface Reference {
  kind: Kind;
  name: string;
}

function probeReferences({ spec: { probe = {} } }: PersonalConnector): Reference[] {
  const { headers = [], caBundle } = probe;
  const found: Reference[] = headers.map(({ valueFrom }) => ({ kind: 'Secret', name: valueFrom.secretKeyRef.name }));
  if (caBundle?.secretKeyRef) found.push({ kind: 'Secret', name: caBundle.secretKeyRef.name });
  if (caBundle?.configMapKeyRef) found.push({ kind: 'ConfigMap', name: caBundle.configMapKeyRef.name });
  return found;
}

/** What the environment of a hosted server may be made of. */
function hostingReferences({ metadata, spec: { type, hosting = {} } }: PersonalConnector): Reference[] {
  if (type !== 'aitronos_built') return [];
  const { env = [], envFrom = [] } = hosting;
  const found: Reference[] = [{ kind: 'Secret', name: credentialsSecret(metadata.name) }];
  for (const { valueFrom } of env) {
    if (valueFrom?.secretKeyRef) found.push({ kind: 'Secret', name: valueFrom.secretKeyRef.name });
    if (valueFrom?.configMapKeyRef) found.push({ kind: 'ConfigMap', name: valueFrom.configMapKeyRef.name });
  }
  for (const { secretRef, configMapRef } of envFrom) {
    if (secretRef) found.push({ kind: 'Secret', name: secretRef.name });
    if (configMapRef) found.push({ kind: 'ConfigMap', name: configMapRef.name });
  }
  return found;
}

/** What a Secret or ConfigMap holds, as far as that is kept: the names of its keys, and a digest of it all. */
export interface Contents {
  keys: ReadonlySet<string>;
  digest: string;
}

/**
 * By kind and name, such as `Secret/jira-credentials`; `missing` if there is none, `pending` until it is known whether there
 * is. What may not be read is not in it.
 */
export type Inputs = ReadonlyMap<string, Contents | 'missing' | 'pending'>;

export type InputReader = (connector: PersonalConnector, signal: AbortSignal) => Promise<Inputs>;

/**
 * Makes what reads the Secrets and ConfigMaps of hosted servers: each version of one once, and of it nothing is kept but
 * its Contents. The digest is salted by the object's UID, which only who may read it knows. Where there is no right to
 * watch them, nothing is read.
 */
export function createInputReader(client: KubeClient, stores: ReferenceStores): InputReader {
  const known = new Map<string, { version: string; contents: Contents }>();
  for (const type of [SECRETS, CONFIG_MAPS]) {
    stores[type.kind].subscribe(({ previous, current }) => {
      if (previous && !current) known.delete(`${type.kind}/${previous.metadata.namespace}/${previous.metadata.name}`);
    });
  }

  async function contentsOf({ kind, name }: Reference, namespace: string, signal: AbortSignal) {
    if (!stores[kind].filledIn(namespace)) return stores[kind].watched ? 'pending' : undefined;
    const found = stores[kind].get(`${namespace}/${name}`);
    if (!found) return 'missing';
    const key = referenceIndex(kind, namespace, name);
    const before = known.get(key);
    if (before?.version === version(found.metadata)) return before.contents;
    const type = kind === 'Secret' ? SECRETS : CONFIG_MAPS;
    try {
      const { metadata, data = {}, binaryData = {} } = await client.get<Filled>(type, { namespace, name }, signal);
      const entries = [...Object.entries(data), ...Object.entries(binaryData)].sort(([a], [b]) => (a < b ? -1 : 1));
      const digest = hash('sha256', JSON.stringify([metadata.uid, entries]));
      const contents = { keys: new Set(entries.map(([name]) => name)), digest };
      known.set(key, { version: version(metadata), contents });
      return contents;
    } catch (error) {
      if (isNotFound(error)) return 'missing';
      if (isForbidden(error)) return undefined;
      throw error;
    }
  }

  return async (connector, signal) => {
    const inputs = new Map<string, Contents | 'missing' | 'pending'>();
    for (const reference of hostingReferences(connector)) {
      const key = `${reference.kind}/${reference.name}`;
      const contents = inputs.get(key) ?? (await contentsOf(reference, connector.metadata.namespace, signal));
      if (contents) inputs.set(key, contents);
    }
    return inputs;
  };
}

type Filled = KubeObject & { data?: Record<string, string>; binaryData?: Record<string, string> };

function version({ uid, resourceVersion }: Pick<ObjectMeta, 'uid' | 'resourceVersion'>): string {
  return `${uid} ${resourceVersion}`;
}
