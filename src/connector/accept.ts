/** What makes a spec acceptable beside its own strategy: the other connectors. */

import type { Finding, PersonalConnector } from '../api/connector.ts';
import { rejected } from './plan.ts';
import type { ConnectorStore } from './stores.ts';

/** Rejects a connector that pins an id which an older one pins already. */
export function checkIdentifier(
  connector: PersonalConnector,
  connectors: Pick<ConnectorStore, 'byIndex'>,
): Finding<'Accepted'> | undefined {
  const { id } = connector.spec;
  if (id === undefined) return undefined;
  const holders = connectors.byIndex('id', id).filter(other => comesBefore(other, connector));
  const [older] = holders.sort((one, other) => (comesBefore(one, other) ? -1 : 1));
  if (!older) return undefined;
  // What is in another namespace is none of this one's business.
  const { namespace, name } = older.metadata;
  const who =
    namespace === connector.metadata.namespace
      ? `the older connector ${name}`
      : 'an older connector in another namespace';
  return rejected(
    'IdConflict',
    `spec.id ${JSON.stringify(id)} is taken by ${who}: make this one anew with another id, or delete that one`,
  );
}

/**
 * Whether one connector is older than another. Kubernetes tells ages in whole seconds: within one, whoever was accepted
 * already keeps the id, and else the smaller UID has it.
 */
function comesBefore(one: PersonalConnector, other: PersonalConnector): boolean {
  if (one.metadata.uid === other.metadata.uid) return false;
  if (one.metadata.creationTimestamp !== other.metadata.creationTimestamp) {
    return one.metadata.creationTimestamp < other.metadata.creationTimestamp;
  }
  const [hasIt, otherHasIt] = [isAccepted(one), isAccepted(other)];
  return hasIt === otherHasIt ? one.metadata.uid < other.metadata.uid : hasIt;
}

function isAccepted({ status }: PersonalConnector): boolean {
  return status?.conditions?.some(({ type, status: state }) => type === 'Accepted' && state === 'True') ?? false;
}
