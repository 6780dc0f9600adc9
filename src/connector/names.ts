/** Names and labels of what belongs to a connector: valid and unique whatever the connector is called. */

import { createHash } from 'node:crypto';
import { LABEL, OPERATOR } from '../api/connector.ts';
import type { ObjectMeta } from '../api/meta.ts';

/** A Service's name is a DNS label (RFC 1035): 63 characters, a letter first. */
const DNS_LABEL = { pattern: /^[a-z]([a-z0-9-]*[a-z0-9])?$/, most: 63 };

/** What ends like a name that was shortened: kept as it is, it could be another's. */
const HASHED = /-[0-9a-f]{10}$/;

/** The name itself if it is fit, else a readable part of it and a hash of all of it. */
function bounded(name: string, pattern: RegExp, most: number, illegal: RegExp, lead = /^[^a-z]+/): string {
  if (name.length <= most && pattern.test(name) && !HASHED.test(name)) return name;
  const hash = createHash('sha256').update(name).digest('hex').slice(0, 10);
  const readable = name.toLowerCase().replaceAll(illegal, '-').replace(lead, '');
  const part = readable.slice(0, most - hash.length - 1).replace(/[^a-z0-9]+$/, '');
  return `${part === '' ? 'c' : part}-${hash}`;
}

/** The name of a connector's Deployment, Service and NetworkPolicy, from the connector's name. */
export function childName(connector: string): string {
  return bounded(connector, DNS_LABEL.pattern, DNS_LABEL.most, /[^a-z0-9-]/g);
}

/** A label value made of any text: 63 characters, letters or digits at both ends. */
export function labelValue(text: string): string {
  return bounded(text, /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/, 63, /[^a-z0-9._-]/g, /^[^a-z0-9]+/);
}

/** The Secret that a catalog entry with required keys reads, unless spec.hosting.envFrom names others. */
export function credentialsSecret(connector: string): string {
  return bounded(`${connector}-credentials`, /^/, 253, /[^a-z0-9.-]/g, /^[^a-z0-9]+/);
}

/** What selects a connector's Pods. Selectors cannot be changed later: nothing in here may depend on the spec. */
export function selectorLabels({ name }: Pick<ObjectMeta, 'name'>): Record<string, string> {
  return { [LABEL.managedBy]: OPERATOR, [LABEL.connector]: labelValue(name) };
}
