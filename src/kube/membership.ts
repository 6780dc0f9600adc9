/** A process among others: one that has a seat, knows who has the others, and what of the work is its own (view.ts). */

import { setTimeout as sleep } from 'node:timers/promises';
import { type ElectionOptions, startElection } from './election.ts';
import { isConflict, isNotFound } from './errors.ts';
import type { Seat } from './lease.ts';
import {
  isSame,
  mayWork,
  nextView,
  type Published,
  publish,
  readPublished,
  type Self,
  type Sight,
  seatOf,
  unaware,
  VACANCY_MS,
  type View,
} from './view.ts';

/** On the Leases of all seats but the first. */
const LEASE_LABEL = 'connectors.aitronos.com/lease';
/** What a member publishes on its Lease. */
const MEMBERS_ANNOTATION = 'connectors.aitronos.com/members';
/** What another one writes there that waits for it. */
const WAITING_ANNOTATION = 'connectors.aitronos.com/waiting';
/** How long a member waits for others to publish it before it tells them so: they have up to 3 s to end what they do. */
const PATIENCE_MS = 5_000;
/** Seats that there can be: the operator's rights name the Lease of each. */
export const MOST_SEATS = 16;
const RETRY_MS = 1_000;

export interface MembershipOptions extends Omit<ElectionOptions, 'seats' | 'label' | 'annotations' | 'onSeen'> {
  /** In how many seats the work is shared; 0: one process does all of it, and leads. */
  share: number;
  /**
   * Told after each change of what is this process's own, with what was before. All of it that is not its own any more
   * must have ended when `drain` resolves.
   */
  onTurn: (owned: (key: string) => boolean) => void;
  /** Told who keep this process from working, whenever those are others than before and have done so for 5 s. */
  onWait?: (holders: string) => void;
  /** Resolves when nothing is in hand any more that is not this process's own; never rejects. */
  drain: () => Promise<void>;
}

export interface Membership {
  /** Resolves when this process works for the first time; never, if it is stopped before. */
  working: Promise<void>;
  /** Whether it may write at this moment: it holds a seat, for sure. */
  mayWrite(): boolean;
  /** Whether it works at this moment: it may write, and the others know of it. */
  isWorking(): boolean;
  /** Whether a key is its own. */
  owns(key: string): boolean;
  /** Whether a Lease was ever seen: who cannot read or write one will never work. */
  hasSeen(): boolean;
  /** Ends it, and gives up the seat so that another one need not wait; after the last write. */
  release(): Promise<void>;
}

export function startMembership({ share, onTurn, onWait, drain, ...options }: MembershipOptions): Membership {
  const { identity, onError, now = () => performance.now() } = options;
  const { promise: working, resolve: markWorking } = Promise.withResolvers<void>();
  const stop = new AbortController();
  const { signal } = stop;
  let self: Self | undefined;
  let view: View = new Map();
  /** Counts the views that share the work out in another way. */
  let turns = 0;
  let works = false;
  /** What of the view is kept to already: nothing else is in hand. */
  let kept: Published = {};
  /** Seats of others that are being written to. */
  const settling = new Set<Seat>();
  let timer: NodeJS.Timeout | undefined;
  /** Since when it waits for others to publish it, or has told them so. */
  let waitsSince = 0;
  /** Whom `onWait` told last. */
  let waitsFor = '';

  const election = startElection({
    ...options,
    seats: Math.max(1, share),
    label: LEASE_LABEL,
    annotations: seat => ({
      [MEMBERS_ANNOTATION]: share > 0 ? JSON.stringify({ ...kept, [seat]: identity }) : undefined,
      [WAITING_ANNOTATION]: undefined,
    }),
    onSeen: () => look(),
    onLost(why) {
      end();
      options.onLost(why);
    },
  });
  void election.leading.then(join);

  /** Begins to look at the others, once all of them have been seen that were there when the seat was taken. */
  async function join({ name: seat }: Seat): Promise<void> {
    while (!signal.aborted) {
      try {
        await election.lookAround();
        break;
      } catch (error) {
        onError(error);
        await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
      }
    }
    if (signal.aborted) return;
    self = { seat, identity, leads: share === 0 };
    waitsSince = now();
    look('joins');
  }

  function sights(): Sight[] {
    return Array.from(election.seats(), ({ name, lease, holder }) => ({
      seat: name,
      holder: holder(),
      published: readPublished(lease()?.metadata.annotations?.[MEMBERS_ANNOTATION], name, holder()),
    }));
  }

  /** Takes in what there is to be seen now. */
  function look(joins?: 'joins'): void {
    if (!self || signal.aborted) return;
    const seen = sights();
    const next = nextView(view, seen, self, joins !== undefined, now());
    const worked = mayWork(next, seen, self);
    const isNew = !isSame(next, view);
    const owned = ownedBy(view, works, self);
    view = next;
    if (isNew || worked !== works) {
      works = worked;
      onTurn(owned);
      if (works) markWorking();
    }
    if (isNew) {
      turns += 1;
      void keepTo(turns);
    }
    wait();
  }

  function ownedBy(of: View, worked: boolean, { seat }: Self): (key: string) => boolean {
    return key => worked && seatOf(key, of) === seat;
  }

  /** Publishes a view once nothing is in hand that it does not give to this process. */
  async function keepTo(turn: number): Promise<void> {
    await drain();
    if (turn !== turns || signal.aborted) return;
    kept = publish(view);
    if (share > 0) election.renew();
  }

  /** Looks again when a vacancy has lasted, or when a Lease has expired. */
  function wait(): void {
    clearTimeout(timer);
    const others = [...election.seats()].filter(({ name, holder }) => name !== self?.seat && holder() !== '');
    const waits = others.map(seat => seat.takenForMs() || RETRY_MS);
    if (!works) waits.push(waitsSince + PATIENCE_MS - now());
    for (const { vacantSince } of view.values())
      if (vacantSince !== undefined) waits.push(vacantSince + VACANCY_MS - now());
    if (waits.length > 0) timer = setTimeout(wake, Math.max(0, Math.min(...waits)));
  }

  /** Frees the seats of those who are silent, and looks. */
  function wake(): void {
    for (const seat of election.isLeader() ? election.seats() : [])
      if (seat.name !== self?.seat && seat.holder() !== '' && seat.takenForMs() === 0) void settle(seat, seat.free);
    if (self && !works && now() - waitsSince >= PATIENCE_MS) knock(self);
    look();
  }

  /**
   * Tells of those for whom this process waits, and makes those look who should know it and do not see it: their watches
   * may be silent, their renewals are not.
   */
  function knock(its: Self): void {
    waitsSince = now();
    const names = unaware(view, sights(), its);
    const seats = [...election.seats()].filter(
      ({ name }) => names.includes(name) || (name !== its.seat && view.get(name)?.leads),
    );
    const holders = seats.map(({ holder }) => holder()).join(', ');
    if (holders !== '' && holders !== waitsFor) onWait?.(holders);
    waitsFor = holders;
    for (const seat of seats)
      if (names.includes(seat.name) && seat.lease())
        void settle(seat, () => seat.annotate({ [WAITING_ANNOTATION]: identity }));
  }

  /** Of several who write to a Lease one succeeds; its holder, who was not silent though we saw nothing, is not harmed. */
  async function settle(seat: Seat, write: () => Promise<void>): Promise<void> {
    if (settling.has(seat)) return;
    settling.add(seat);
    await write()
      .catch(error => {
        if (!isConflict(error) && !isNotFound(error)) throw error;
        return seat.look();
      })
      .catch(onError);
    settling.delete(seat);
  }

  function end(): void {
    stop.abort();
    clearTimeout(timer);
  }

  return {
    working,
    mayWrite: election.isLeader,
    isWorking: () => works && election.isLeader(),
    owns: key => self !== undefined && ownedBy(view, works, self)(key),
    hasSeen: election.hasSeen,
    release() {
      end();
      return election.release();
    },
  };
}
