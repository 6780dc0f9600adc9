import { describe, expect, it } from 'vitest';
import { CONDITIONS, type PersonalConnector } from '../../../src/api/connector.ts';
import { tally } from '../../../src/connector/tally.ts';
import { makeConnector } from '../support.ts';

type Status = 'True' | 'False' | 'Unknown';

function connector(type: 'official' | 'aitronos_built' | 'custom', status: Status, reason: string): PersonalConnector {
  const common = { message: '', lastTransitionTime: '2026-01-01T00:00:00Z', observedGeneration: 1 };
  const accepted = { type: 'Accepted', status: 'True', reason: 'Accepted', ...common } as const;
  return makeConnector(type, {}, { status: { conditions: [accepted, { type: 'Ready', status, reason, ...common }] } });
}

describe('a tally', () => {
  it('counts connectors by type, and by status and reason of Ready', () => {
    expect(
      tally([
        connector('custom', 'True', 'Ready'),
        connector('custom', 'False', 'Timeout'),
        connector('official', 'True', 'Ready'),
        connector('custom', 'True', 'Ready'),
        connector('custom', 'True', 'AuthorizationRequired'),
      ]),
    ).toEqual([
      { type: 'custom', ready: 'True', reason: 'Ready', count: 2 },
      { type: 'custom', ready: 'False', reason: 'Timeout', count: 1 },
      { type: 'official', ready: 'True', reason: 'Ready', count: 1 },
      { type: 'custom', ready: 'True', reason: 'AuthorizationRequired', count: 1 },
    ]);
  });

  it('calls those without a status yet Pending', () => {
    expect(tally([makeConnector('custom')])).toEqual([
      { type: 'custom', ready: 'Unknown', reason: 'Pending', count: 1 },
    ]);
  });

  it('gives the same few reasons whatever others write into a status', () => {
    const made = Array.from({ length: 1_000 }, (_, index) => connector('custom', 'False', `Mine${index}`));
    expect(tally([...made, connector('custom', 'True', 'Timeout')])).toEqual([
      { type: 'custom', ready: 'False', reason: 'Other', count: 1_000 },
      { type: 'custom', ready: 'True', reason: 'Other', count: 1 },
    ]);
  });

  it.each(['True', 'False', 'Unknown'] as const)('keeps every reason that Ready can have when it is %s', status => {
    const reasons: readonly string[] = CONDITIONS.Ready[status];
    const told = tally(reasons.map(reason => connector('official', status, reason)));
    expect(told.map(({ reason }) => reason)).toEqual(reasons);
  });
});
