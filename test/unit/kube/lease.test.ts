import { describe, expect, it } from 'vitest';
import type { Declared } from '../../../src/api/meta.ts';
import { createSeat, type Lease, type Marks } from '../../../src/kube/lease.ts';
import { fakeClient } from '../support.ts';

const lease = (holderIdentity: string, resourceVersion: string, metadata: Partial<Lease['metadata']> = {}): Lease => ({
  apiVersion: 'coordination.k8s.io/v1',
  kind: 'Lease',
  metadata: { name: 'seat', namespace: 'system', uid: 'u', resourceVersion, ...metadata } as Lease['metadata'],
  spec: { holderIdentity, leaseDurationSeconds: 15, leaseTransitions: 4 },
});

/** A seat, what it writes, and the answers to what it asks, which the test gives. */
function make(marks: Marks = {}) {
  const written: Declared[] = [];
  const answers: ((found: Lease) => void)[] = [];
  const seat = createSeat({
    client: fakeClient({
      get: () => new Promise<never>(resolve => answers.push(found => resolve(found as never))),
      replace: async (_, object) => {
        written.push(object);
        return { ...object, metadata: { ...object.metadata, resourceVersion: '100' } } as never;
      },
    }),
    namespace: 'system',
    name: 'seat',
    identity: 'me',
    marks,
    onSeen: () => {},
    now: () => 0,
  });
  return { seat, written, answers };
}

describe('a seat', () => {
  it('is what was told last, also when an answer comes that is older', async () => {
    const { seat, answers } = make();
    seat.told(lease('a', '7'));
    const looking = seat.look();
    seat.told(lease('b', '9'));
    answers[0]?.(lease('', '8'));
    await looking;
    expect(seat.holder()).toBe('b');
    seat.told(lease('a', '7'));
    expect(seat.holder()).toBe('b');
  });

  it('is what the server has when it was set back, and nothing was told meanwhile', async () => {
    const { seat, answers } = make();
    seat.told(lease('a', '7'));
    const looking = seat.look();
    answers[0]?.(lease('b', '3'));
    await looking;
    expect(seat.holder()).toBe('b');
  });

  it('is still its holder’s when the Lease is gone', () => {
    const { seat } = make();
    seat.told(lease('a', '7'));
    seat.told(undefined);
    expect([seat.lease(), seat.holder(), seat.takenForMs()]).toEqual([undefined, 'a', 15_000]);
  });

  it('has the marks of its holder, and those that others made', async () => {
    const annotations = { mine: 'new', gone: undefined };
    const { seat, written } = make({ labels: { of: 'us' }, annotations: () => annotations });
    seat.told(lease('', '7', { labels: { team: 'x' }, annotations: { mine: 'old', gone: 'soon', theirs: 'y' } }));
    expect(await seat.hold()).toBe(true);
    expect(written[0]).toMatchObject({ spec: { holderIdentity: 'me', leaseTransitions: 5 } });
    expect(written[0]?.metadata).toMatchObject({ labels: { team: 'x', of: 'us' }, resourceVersion: '7' });
    expect(written[0]?.metadata.annotations).toEqual({ mine: 'new', theirs: 'y' });
  });

  it('that is freed is nobody’s, and has no other marks', async () => {
    const { seat, written } = make({ labels: { of: 'us' }, annotations: () => ({ mine: 'new' }) });
    seat.told(lease('dead', '7', { annotations: { mine: 'old' } }));
    await seat.free();
    expect(written[0]).toMatchObject({ spec: { holderIdentity: '', leaseDurationSeconds: 1, leaseTransitions: 4 } });
    expect(written[0]?.metadata).toMatchObject({ labels: { of: 'us' }, annotations: { mine: 'old' } });
    expect(seat.holder()).toBe('');
  });

  it('that is written to by another one stays its holder’s, as it is', async () => {
    const { seat, written } = make({ annotations: () => ({ mine: 'new' }) });
    const its = lease('a', '7', { annotations: { theirs: 'y' } });
    seat.told(its);
    await seat.annotate({ waiting: 'me' });
    expect(written[0]?.metadata.annotations).toEqual({ theirs: 'y', waiting: 'me' });
    expect(written[0]).toMatchObject({ spec: its.spec, metadata: { resourceVersion: '7' } });
  });
});
