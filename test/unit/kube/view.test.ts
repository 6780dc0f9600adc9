import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  isSame,
  mayWork,
  nextView,
  publish,
  readPublished,
  type Self,
  type Sight,
  seatOf,
  VACANCY_MS,
  type View,
} from '../../../src/kube/view.ts';

const self: Self = { seat: 'lease', identity: 'me', leads: false };
const NOBODY: View = new Map();

/** A seat whose holder has published that it knows these identities of ours. */
const sight = (seat: string, holder: string, knows = 'me'): Sight => ({
  seat,
  holder,
  published: { [seat]: holder, lease: knows },
});
const seen = (...sights: Sight[]) => nextView(NOBODY, sights, self, true, 0);
const viewOf = (...seats: string[]): View => {
  const [first = '', ...others] = seats;
  const sights = others.map(seat => sight(seat, `of ${seat}`));
  return nextView(NOBODY, sights, { seat: first, identity: `of ${first}`, leads: false }, true, 0);
};
const seatsOf = (count: number): string[] =>
  Array.from({ length: count }, (_, nth) => (nth === 0 ? 'pco' : `pco-${nth}`));
const keys = Array.from({ length: 10_000 }, (_, nth) => `team-${nth % 17}/connector-${nth}`);

describe('the seat of a key', () => {
  it.each([2, 3, 4, 5, 8, 16])('is each of %i for about as many keys', count => {
    const view = viewOf(...seatsOf(count));
    const counts = new Map<string, number>();
    for (const key of keys) counts.set(seatOf(key, view) ?? '', (counts.get(seatOf(key, view) ?? '') ?? 0) + 1);
    expect([...counts.keys()].sort()).toEqual(seatsOf(count).sort());
    // Four standard deviations of as many throws of a die.
    const fair = keys.length / count;
    const most = 4 * Math.sqrt(fair * (1 - 1 / count));
    for (const each of counts.values()) expect(Math.abs(each - fair)).toBeLessThan(most);
  });

  it.each([2, 3, 7])('changes for none but those that move, when a seat is added to %i or taken away', count => {
    const few = viewOf(...seatsOf(count));
    const added = `pco-${count}`;
    const many = viewOf(...seatsOf(count + 1));
    for (const key of keys) {
      const now = seatOf(key, many);
      if (now !== added) expect(now).toBe(seatOf(key, few));
    }
  });

  it('is the same for all who have the same view, whoever of them asks', () => {
    fc.assert(
      fc.property(fc.string(), fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1 }), (key, seats) => {
        expect(seatOf(key, viewOf(...seats.toReversed()))).toBe(seatOf(key, viewOf(...seats)));
      }),
    );
  });

  it('is that of who leads', () => {
    const view = nextView(
      NOBODY,
      [{ seat: 'pco', holder: 'leader', published: undefined }, sight('pco-2', 'third', 'second')],
      { seat: 'pco-1', identity: 'second', leads: false },
      true,
      0,
    );
    expect(new Set(keys.map(key => seatOf(key, view)))).toEqual(new Set(['pco']));
  });

  it('is none of nobody’s', () => {
    expect(seatOf('a/b', NOBODY)).toBeUndefined();
  });
});

describe('a view', () => {
  it('of one that joins has all who hold a seat, whether or not they know it', () => {
    expect(publish(seen(sight('lease-1', 'b', 'another'), sight('lease-2', ''), sight('lease-3', 'd')))).toEqual({
      lease: 'me',
      'lease-1': 'b',
      'lease-3': 'd',
    });
  });

  it('of one that has joined takes in a newcomer who has it, and no other', () => {
    const view = seen();
    const stranger = nextView(view, [sight('lease-1', 'b', 'another')], self, false, 0);
    expect(isSame(stranger, view)).toBe(true);
    expect(publish(nextView(view, [sight('lease-1', 'b')], self, false, 0))).toEqual({ lease: 'me', 'lease-1': 'b' });
  });

  it('takes in one that leads at once', () => {
    const leader: Sight = { seat: 'lease-0', holder: 'l', published: undefined };
    expect(publish(nextView(seen(), [leader], self, false, 0))).toEqual({ lease: 'me', 'lease-0': 'l' });
  });

  it('keeps a seat that is nobody’s for so long that who stands by can take it', () => {
    const view = seen(sight('lease-1', 'b'));
    const vacant = nextView(view, [sight('lease-1', '')], self, false, 1_000);
    expect(isSame(vacant, view)).toBe(true);
    const later = nextView(vacant, [sight('lease-1', '')], self, false, 1_000 + VACANCY_MS - 1);
    expect(isSame(later, view)).toBe(true);
    expect(publish(nextView(later, [sight('lease-1', 'c')], self, false, 2_000))).toEqual({
      lease: 'me',
      'lease-1': 'c',
    });
    expect(publish(nextView(later, [sight('lease-1', '')], self, false, 1_000 + VACANCY_MS))).toEqual({ lease: 'me' });
  });

  it('keeps the seat of one that is gone while its successor has not seen us', () => {
    const view = seen(sight('lease-1', 'b'));
    const successor = [sight('lease-1', 'c', 'another')];
    const next = nextView(view, successor, self, false, 0);
    expect(publish(next)).toEqual({ lease: 'me', 'lease-1': 'b' });
    // Who is gone need not know us.
    expect(mayWork(next, successor, self)).toBe(true);
  });
});

describe('a member works', () => {
  it.each<[string, Sight[], boolean]>([
    ['when it is alone', [], true],
    ['when all know it', [sight('lease-1', 'b'), sight('lease-2', 'c')], true],
    ['not before all know it', [sight('lease-1', 'b'), sight('lease-2', 'c', 'another')], false],
    ['not beside one that leads', [{ seat: 'lease-1', holder: 'b', published: undefined }], false],
  ])('%s', (_when, sights, works) => {
    expect(mayWork(seen(...sights), sights, self)).toBe(works);
  });
});

describe('what a holder has published', () => {
  it.each<[string, string | undefined, string]>([
    ['nothing', undefined, 'a'],
    ['no JSON', '{', 'a'],
    ['no object', '"a"', 'a'],
    ['null', 'null', 'a'],
    ['what an earlier holder left behind', '{"lease":"b"}', 'a'],
    ['what the last holder left behind', '{}', ''],
  ])('is nothing when it is %s', (_what, text, holder) => {
    expect(readPublished(text, 'lease', holder)).toBeUndefined();
  });

  it('is what it publishes', () => {
    const view = seen(sight('lease-1', 'b'));
    expect(readPublished(JSON.stringify(publish(view)), 'lease', 'me')).toEqual({ lease: 'me', 'lease-1': 'b' });
  });
});
