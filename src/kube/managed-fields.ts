/** Field ownership as server-side apply keeps it, in `metadata.managedFields`. */

import { apiVersionOf, type KubeObject, type ResourceType } from '../api/meta.ts';
import type { KubeClient } from './client.ts';

/** Paths as nested keys, such as `f:spec`; a leaf is empty. */
interface FieldSet {
  [path: string]: FieldSet;
}
interface ManagedFields {
  manager?: string;
  operation?: string;
  apiVersion?: string;
  fieldsType?: string;
  subresource?: string;
  fieldsV1?: FieldSet;
}
type Managed = KubeObject & { metadata: { managedFields?: ManagedFields[] } };

/**
 * Makes the fields of an object's spec that others wrote the manager's own, so that its next apply drops those that it
 * does not want: an apply removes only what it owns. The number of replicas stays with whom it belongs to. Gives whether
 * there were any; throws a conflict when the object changes meanwhile.
 */
export async function takeSpecFields(
  client: KubeClient,
  type: ResourceType,
  object: KubeObject,
  fieldManager: string,
  signal: AbortSignal,
): Promise<boolean> {
  const live = await client.get<Managed>(type, object.metadata, signal);
  if (live.metadata.uid !== object.metadata.uid) return false;
  const { managedFields = [], resourceVersion } = live.metadata;
  const ours: FieldSet = {};
  const rest: ManagedFields[] = [];
  let taken = false;
  for (const entry of managedFields) {
    const { 'f:spec': spec = {}, ...others } = entry.fieldsV1 ?? {};
    const { 'f:replicas': replicas, ...fields } = spec;
    if (entry.subresource !== undefined) rest.push(entry);
    else if (entry.manager === fieldManager && entry.operation === 'Apply') merge(ours, entry.fieldsV1 ?? {});
    else {
      merge(ours, { 'f:spec': fields });
      taken ||= Object.keys(fields).length > 0;
      rest.push({ ...entry, fieldsV1: { ...others, ...(replicas && { 'f:spec': { 'f:replicas': replicas } }) } });
    }
  }
  if (!taken) return false;
  const entry = { manager: fieldManager, operation: 'Apply', apiVersion: apiVersionOf(type), fieldsType: 'FieldsV1' };
  const patch = { metadata: { resourceVersion, managedFields: [...rest, { ...entry, fieldsV1: ours }] } };
  await client.patch(type, live.metadata, patch, signal);
  return true;
}

/** Adds the paths of one set to another. */
function merge(into: FieldSet, more: FieldSet): void {
  for (const [path, below] of Object.entries(more)) {
    into[path] ??= {};
    merge(into[path], below);
  }
}
