/** How many connectors are in which state, for metrics. */

import { CONDITIONS, type PersonalConnector } from '../api/connector.ts';
import type { Tally } from '../runtime/metrics.ts';

/**
 * Counts connectors by type and condition Ready. One that has none yet is Unknown, Pending; a reason that is none of ours,
 * since somebody else wrote it, is Other, so that the states stay few.
 */
export function tally(connectors: Iterable<PersonalConnector>): Tally[] {
  const tallies = new Map<string, Tally>();
  for (const { spec, status } of connectors) {
    const condition = status?.conditions?.find(({ type }) => type === 'Ready');
    const ready = condition?.status ?? 'Unknown';
    const known: readonly string[] = CONDITIONS.Ready[ready];
    const reason = !condition ? 'Pending' : known.includes(condition.reason) ? condition.reason : 'Other';
    const key = `${spec.type} ${ready} ${reason}`;
    const same = tallies.get(key) ?? { type: spec.type, ready, reason, count: 0 };
    same.count += 1;
    tallies.set(key, same);
  }
  return [...tallies.values()];
}
