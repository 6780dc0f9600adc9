/** The Secrets and ConfigMaps that probes read: which there are, and when they change. No value of them is kept. */

import type { PersonalConnector } from '../api/connector.ts';
import type { ProbeSpec } from '../api/generated.ts';
import type { ResourceType } from '../api/meta.ts';
import { createStore, type Store, type Stored, type StoreWriter } from '../kube/store.ts';

export const SECRETS = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret' } as const satisfies ResourceType;
export const CONFIG_MAPS = {
  group: '',
  version: 'v1',
  plural: 'configmaps',
  kind: 'ConfigMap',
} as const satisfies ResourceType;

type Kind = (typeof SECRETS | typeof CONFIG_MAPS)['kind'];

export interface ReferenceStore extends Store<Stored>, StoreWriter<Stored> {
  /** Whether it holds all that there is; without the right to watch it never does. */
  filled: boolean;
}

export type ReferenceStores = Record<Kind, ReferenceStore>;

export function createReferenceStores(): ReferenceStores {
  const make = (): ReferenceStore => Object.assign(createStore<Stored>(), { filled: false });
  return { Secret: make(), ConfigMap: make() };
}

/** What the index of connectors finds them by: the kind of a referenced object, and its key. */
export function referenceIndex(kind: string, namespace: string, name: string): string {
  return `${kind}/${namespace}/${name}`;
}

export function referencesOf({ metadata, spec }: PersonalConnector): string[] {
  const names = namesOf(spec.probe).map(([kind, name]) => referenceIndex(kind, metadata.namespace, name));
  return [...new Set(names)];
}

/** Changes with what a connector's probe reads; empty when there is nothing, or nobody knows. */
export function versionOf({ metadata, spec }: PersonalConnector, stores: ReferenceStores): string {
  const names = namesOf(spec.probe);
  if (!names.every(([kind]) => stores[kind].filled)) return '';
  return names
    .map(([kind, name]) => stores[kind].get(`${metadata.namespace}/${name}`)?.metadata)
    .map(found => (found ? `${found.uid} ${found.resourceVersion}` : 'none'))
    .join();
}

function namesOf({ headers = [], caBundle }: ProbeSpec = {}): [Kind, string][] {
  const names = headers.map(({ valueFrom }): [Kind, string] => ['Secret', valueFrom.secretKeyRef.name]);
  if (caBundle?.secretKeyRef) names.push(['Secret', caBundle.secretKeyRef.name]);
  if (caBundle?.configMapKeyRef) names.push(['ConfigMap', caBundle.configMapKeyRef.name]);
  return names;
}
