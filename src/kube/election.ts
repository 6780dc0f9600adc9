/**
 * Election: each process competes for a seat, of which there is one or several. Who has none keeps looking; who had one
 * and cannot prove it any more ends.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeClient, Scope } from './client.ts';
import { isConflict, isNotFound } from './errors.ts';
import { createSeat, LEASES, type Lease, type Seat } from './lease.ts';
import { type Reflector, startReflector } from './reflector.ts';
import { createStore } from './store.ts';

/** How long a holder goes on without having renewed: others begin 5 s or more after it sent its last write. */
const RENEW_DEADLINE_MS = 10_000;
const RETRY_MS = 2_000;
const REQUEST_TIMEOUT_MS = 4_000;

export interface ElectionOptions {
  /** Its requests must be sent whether or not this process leads. */
  client: KubeClient;
  namespace: string;
  /** Name of the Lease of the first seat; those of the others end in -1, -2 and so on. */
  name: string;
  /** For how many seats it competes. */
  seats?: number;
  /** Label by which the Leases of all seats but the first are found: its value is `name`. Absent: there are no others. */
  label?: string;
  /** Unlike that of any other process, ever. */
  identity: string;
  /** What is written into the Lease of the seat that it takes or has. */
  annotations?: (seat: string) => Record<string, string | undefined>;
  /** Told when anything was seen of any seat. */
  onSeen?: () => void;
  /** Told once, when this process held a seat and does not any more: it may finish nothing, and should end. */
  onLost: (why: string) => void;
  /** Told who hold the seats whenever those are all others, and not the ones that were last told. */
  onFollow?: (holders: string) => void;
  /** Told of each failure; the election goes on by itself. */
  onError: (error: unknown) => void;
  /** Milliseconds that no change of the clock moves, and that go on while the process is stopped. */
  now?: () => number;
}

export interface Election {
  /** Resolves with its seat when this process has one; never, if it is stopped before. */
  leading: Promise<Seat>;
  /** Whether this process may write at this moment. */
  isLeader(): boolean;
  /** Whether a Lease was ever seen: who cannot read or write one will never lead. */
  hasSeen(): boolean;
  /** All seats that were ever seen, or that it competes for. */
  seats(): Iterable<Seat>;
  /** Sees all seats as the server has them at this moment. */
  lookAround(): Promise<void>;
  /** Renews without waiting for the time to. */
  renew(): void;
  /** Ends the candidacy, and gives up the seat so that another one need not wait; after the last write. */
  release(): Promise<void>;
}

export function startElection(options: ElectionOptions): Election {
  const {
    client,
    namespace,
    name,
    seats: count = 1,
    label,
    identity,
    annotations,
    now = () => performance.now(),
  } = options;
  const { onSeen, onLost, onFollow, onError } = options;
  const stop = new AbortController();
  const { signal } = stop;
  const { promise: leading, resolve: markLeading } = Promise.withResolvers<Seat>();
  const seats = new Map<string, Seat>();
  /** The seat that it tries to take, or has. */
  let mine: Seat | undefined;
  let hasSeen = false;
  /** Whom `onFollow` told last. */
  let followed = '';
  let state: 'candidate' | 'leader' | 'ended' = 'candidate';
  /** When the request was sent that renewed the Lease last. */
  let renewedAt = 0;
  let deadline: NodeJS.Timeout | undefined;
  let changed = Promise.withResolvers<void>();
  /** Resolved when the next renewal is not to wait. */
  let hurried = Promise.withResolvers<void>();

  const wanted = Array.from({ length: count }, (_, nth) => seatOf(nth === 0 ? name : `${name}-${nth}`));
  const others: Scope = { namespace, labelSelector: `${label}=${name}` };
  const reflectors = [watch({ namespace, name }), ...(label === undefined ? [] : [watch(others)])];

  function seatOf(its: string): Seat {
    const known = seats.get(its);
    if (known) return known;
    const marks = {
      ...(label !== undefined && its !== name && { labels: { [label]: name } }),
      ...(annotations && { annotations: () => annotations(its) }),
    };
    const seat = createSeat({ client, namespace, name: its, identity, marks, onSeen: () => look(seat), now });
    seats.set(its, seat);
    return seat;
  }

  function watch(scope: Scope): Reflector {
    const store = createStore<Lease>();
    store.subscribe(({ previous, current }) => {
      const its = (current ?? previous)?.metadata.name;
      if (its !== undefined) seatOf(its).told(current);
    });
    return startReflector<Lease>({ client, type: LEASES, scope, store, project: (raw: Lease) => raw, signal, onError });
  }

  /** Takes in that something was seen of a seat. */
  function look(seat: Seat): void {
    if (seat.lease()) hasSeen = true;
    const holder = seat.lease()?.spec?.holderIdentity;
    if (state === 'leader' && seat === mine && seat.lease() && holder !== identity)
      lose(`${holder || 'nobody'} holds the Lease now`);
    const holders = wanted.map(({ lease }) => lease()?.spec?.holderIdentity);
    const follows = state === 'candidate' && holders.every(one => one && one !== identity) ? holders.join(', ') : '';
    if (follows !== '' && follows !== followed) onFollow?.(follows);
    followed = follows;
    onSeen?.();
    changed.resolve();
    changed = Promise.withResolvers();
  }

  /** Takes the seat or keeps it. A conflict says that it changed since it was seen. */
  async function hold(seat: Seat): Promise<void> {
    const sentAt = now();
    hurried = Promise.withResolvers();
    if (!(await seat.hold())) return;
    // An answer that comes too late, after a stop of the process say, proves nothing any more.
    if (state === 'ended' || now() - sentAt >= RENEW_DEADLINE_MS) return;
    renewedAt = sentAt;
    clearTimeout(deadline);
    deadline = setTimeout(expire, renewedAt + RENEW_DEADLINE_MS - now());
    if (state === 'leader') return;
    state = 'leader';
    markLeading(seat);
  }

  function expire(): void {
    lose(`the Lease could not be renewed for ${RENEW_DEADLINE_MS / 1000} s`);
  }

  function lose(why: string): void {
    if (state === 'ended') return;
    const led = state === 'leader';
    state = 'ended';
    clearTimeout(deadline);
    stop.abort();
    if (led) onLost(why);
  }

  /** One that is ours already, as the answer to our own write was lost; else, of those to be had first, one by chance. */
  function choose(): { seat: Seat; waitMs: number } {
    const own = wanted.find(({ holder }) => holder() === identity);
    if (own) return { seat: own, waitMs: 0 };
    const waits = wanted.map(seat => ({ seat, waitMs: seat.takenForMs() }));
    const least = Math.min(...waits.map(({ waitMs }) => waitMs));
    const first = waits.filter(({ waitMs }) => waitMs === least);
    return first[Math.floor(Math.random() * first.length)] as (typeof first)[number];
  }

  /** One try to get or to keep a seat; gives how long to wait before the next one, in ms. */
  async function attempt(seat: Seat): Promise<number> {
    if (state === 'leader' && now() - renewedAt >= RENEW_DEADLINE_MS) expire();
    if (state === 'candidate' && !seat.lease()) await seat.look();
    if (signal.aborted || (state === 'candidate' && seat.takenForMs() > 0)) return 0;
    try {
      await hold(seat);
      return RETRY_MS;
    } catch (error) {
      if (!isConflict(error) && !(isNotFound(error) && seat.lease())) throw error;
      // Somebody wrote to our Lease: there may be more that the watches have not told.
      await (state === 'leader' && label !== undefined ? lookAround() : seat.look());
      // Candidates that are as quick as each other do not try in step for ever.
      return state === 'leader' ? 0 : (RETRY_MS / 4) * (1 + Math.random());
    }
  }

  async function lookAround(): Promise<void> {
    const limit = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    // Ours is looked at by its name as well: somebody may have taken its label off.
    const named = new Set([seatOf(name), ...(mine ? [mine] : [])]);
    const [{ items }] = await Promise.all([
      client.list<Lease>(LEASES, others, limit),
      ...Array.from(named, seat => seat.look()),
    ]);
    for (const lease of items) seatOf(lease.metadata.name).told(lease);
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      if (state === 'candidate') {
        const { seat, waitMs } = choose();
        if (waitMs > 0) {
          await rest(waitMs, changed.promise);
          continue;
        }
        mine = seat;
      }
      const waitMs = await attempt(mine as Seat).catch(error => {
        if (!signal.aborted) onError(error);
        return RETRY_MS / 2;
      });
      await rest(waitMs, hurried.promise);
    }
  }

  /** Waits; ends before its time when the promise resolves, or the candidacy ends. */
  async function rest(ms: number, early: Promise<void>): Promise<void> {
    const over = new AbortController();
    try {
      await Promise.race([
        early,
        sleep(ms, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => {}),
      ]);
    } finally {
      over.abort();
    }
  }

  async function giveUp(): Promise<void> {
    if (mine?.lease()?.spec?.holderIdentity === identity) await mine.free();
  }

  const done = run();

  return {
    leading,
    // Who never saw a Lease that was deleted may make one at once.
    isLeader: () => state === 'leader' && mine?.lease() !== undefined && now() - renewedAt < RENEW_DEADLINE_MS,
    hasSeen: () => hasSeen,
    seats: () => seats.values(),
    lookAround,
    renew() {
      hurried.resolve();
    },
    async release() {
      state = 'ended';
      clearTimeout(deadline);
      stop.abort();
      await Promise.all([done, ...reflectors.map(reflector => reflector.done)]);
      await giveUp()
        .catch(async error => {
          if (!isConflict(error)) throw error;
          // Somebody annotated it, say.
          await mine?.look();
          await giveUp();
        })
        .catch(error =>
          onError(new Error('the Lease could not be given up: others wait until it expires', { cause: error })),
        );
    },
  };
}
