/** What makes a spec acceptable beside its own strategy: the other connectors. */

import type { Finding, PersonalConnector } from '../api/connector.ts';
import { rejected } from './plan.ts';
import type { ConnectorStore } from './stores.ts';

/** Rejects a connector that pins an id which an older one pins already; with equal ages the smaller UID came first. */
export function checkIdentifier(
  connector: PersonalConnector,
  connectors: Pick<ConnectorStore, 'byIndex'>,
): Finding<'Accepted'> | undefined {
  const { id } = connector.spec;
  if (id === undefined) return undefined;
  const age = ({ metadata }: PersonalConnector): string => `${metadata.creationTimestamp} ${metadata.uid}`;
  const older = connectors
    .byIndex('id', id)
    .filter(other => other.metadata.uid !== connector.metadata.uid && age(other) < age(connector))
    .sort((a, b) => (age(a) < age(b) ? -1 : 1))[0];
  if (!older) return undefined;
  const { namespace, name } = older.metadata;
  return rejected(
    'IdConflict',
    `spec.id ${JSON.stringify(id)} is taken by the older connector ${name} in namespace ${namespace}: make this one anew with another id, or delete that one`,
  );
}
