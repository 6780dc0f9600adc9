import { describe, expect, it } from 'vitest';
import type { PersonalConnector } from '../../../src/api/connector.ts';
import { checkIdentifier } from '../../../src/connector/accept.ts';
import { createStores } from '../../../src/connector/stores.ts';
import { makeConnector } from '../support.ts';

const pinned = (id: string | undefined, name: string, created: string, uid = `uid-${name}`): PersonalConnector =>
  makeConnector('custom', id === undefined ? {} : { id }, {
    metadata: { name, namespace: `ns-${name}`, uid, creationTimestamp: created },
  });

const JAN = '2026-01-01T00:00:00Z';
const FEB = '2026-02-01T00:00:00Z';
const MAR = '2026-03-01T00:00:00Z';

/** Who of some connectors is rejected. */
function rejected(...connectors: PersonalConnector[]): string[] {
  const { connectors: store } = createStores();
  for (const connector of connectors) store.upsert(connector);
  return connectors.filter(connector => checkIdentifier(connector, store)).map(({ metadata }) => metadata.name);
}

describe('a pinned id', () => {
  it.each<[string, PersonalConnector[], string[]]>([
    ['is fine when nobody else has it', [pinned('pcon_a', 'a', JAN), pinned('pcon_b', 'b', JAN)], []],
    ['is refused to the younger of two', [pinned('pcon_a', 'young', FEB), pinned('pcon_a', 'old', JAN)], ['young']],
    [
      'is refused to all but the oldest',
      [pinned('pcon_a', 'mid', FEB), pinned('pcon_a', 'young', MAR), pinned('pcon_a', 'old', JAN)],
      ['mid', 'young'],
    ],
    [
      'goes to the smaller UID when both are of one second',
      [pinned('pcon_a', 'second', JAN, '2'), pinned('pcon_a', 'first', JAN, '1')],
      ['second'],
    ],
    ['is no matter of those that pin none', [pinned(undefined, 'a', JAN), pinned(undefined, 'b', FEB)], []],
  ])('%s', (_what, connectors, expected) => {
    expect(rejected(...connectors)).toEqual(expected);
  });

  it('that is taken names its holder, and what to do', () => {
    const { connectors: store } = createStores();
    store.upsert(pinned('pcon_a', 'old', JAN));
    expect(checkIdentifier(pinned('pcon_a', 'young', MAR), store)).toEqual({
      status: 'False',
      reason: 'IdConflict',
      message:
        'spec.id "pcon_a" is taken by an older connector in another namespace: make this one anew with another id, or delete that one',
    });
  });

  it('stays with whoever was accepted already when both are of one second', () => {
    const accepted = (status: 'True' | 'False') => ({
      conditions: [{ type: 'Accepted', status, lastTransitionTime: JAN, reason: 'x', message: 'x' }],
    });
    const holder = { ...pinned('pcon_a', 'holder', JAN, '2'), status: accepted('True') };
    const other = { ...pinned('pcon_a', 'other', JAN, '1'), status: accepted('False') };
    const newer = { ...pinned('pcon_a', 'newer', FEB, '0'), status: accepted('True') };
    expect(rejected(holder, other, newer)).toEqual(['other', 'newer']);
  });

  it('is free again when its holder is gone or gave it up', () => {
    const { connectors: store } = createStores();
    const young = pinned('pcon_a', 'young', MAR);
    const old = pinned('pcon_a', 'old', JAN);
    store.upsert(old);
    expect(checkIdentifier(young, store)).toBeDefined();
    store.remove({ ...old, metadata: { ...old.metadata, resourceVersion: '11' } });
    expect(checkIdentifier(young, store)).toBeUndefined();
  });
});

describe('regressions', () => {
  it('names the same holder whichever of them was seen last, so that the message does not flap', () => {
    const { connectors: store } = createStores();
    const messages = new Set<string | undefined>();
    for (const [name, created, version] of [
      ['old', JAN, '1'],
      ['mid', FEB, '2'],
      ['old', JAN, '3'],
    ] as const) {
      const connector = pinned('pcon_a', name, created);
      store.upsert({ ...connector, metadata: { ...connector.metadata, resourceVersion: version } });
      messages.add(checkIdentifier(pinned('pcon_a', 'young', MAR), store)?.message);
    }
    expect(messages.size).toBe(1);
  });
});
