/**
 * Who works on what, of processes that share the work: pure, of what each of them sees.
 *
 * A member holds a seat. Its view is which members there are, and it publishes that on its own Lease. A key is its own if
 * its seat has the highest hash for that key among the seats of its view; or all keys are one member's, who leads. It works
 * on its keys only if each member of its view has published a view with it.
 *
 * So two members never work on one key. Say that A and B do:
 * - each has the other in its view: then they agree on which of their two seats has the higher hash, and only one is right;
 * - A has not B, but B has A: then A has published B, for B works; so A had it, and has dropped it since. It does that only
 *   when the Lease of B names another holder or none, and then B has lost it, or gave it up;
 * - neither has the other: one of them, say B, took its seat later, and read all Leases after that. It found A there and
 *   began with A in its view; to drop it, A must have lost its seat.
 * A member that takes another into its view publishes that only when it has nothing in hand any more that is not its own.
 *
 * And no key is nobody's for longer than a Lease lasts: a member that is silent loses its seat to whoever finds its Lease
 * expired, by a write that only one of the two can win, and so leaves all views.
 */

/** One seat, as seen. */
export interface Sight {
  seat: string;
  /** Empty: nobody. */
  holder: string;
  /** What its holder has published: seat → identity. Undefined: nothing, so it is one that leads. */
  published: Published | undefined;
}

export type Published = Readonly<Record<string, string>>;

export interface Self {
  seat: string;
  identity: string;
  /** Whether it shares nothing: all keys are its own. */
  leads: boolean;
}

interface Member {
  identity: string;
  leads: boolean;
  /** Hash of its seat. */
  salt: number;
  /** When its seat was first seen to be nobody's. */
  vacantSince?: number;
}

/** Seat → who holds it, as far as the work is shared by it. */
export type View = ReadonlyMap<string, Member>;

/**
 * How long a seat that is nobody's keeps its keys, in ms: who stands by takes it within that time, and then no others have
 * had them in between.
 */
export const VACANCY_MS = 500;

/**
 * What a member's view becomes by what it sees. One that `joins`, and has seen all seats since it took its own, takes all
 * others in. Afterwards it takes in who has it in its own view already, so that no newcomer makes it wait.
 */
export function nextView(view: View, sights: Iterable<Sight>, self: Self, joins: boolean, now: number): View {
  const next = new Map<string, Member>();
  const add = (seat: string, identity: string, leads: boolean): void =>
    void next.set(seat, { identity, leads, salt: view.get(seat)?.salt ?? hashOf(seat) });
  add(self.seat, self.identity, self.leads);
  for (const { seat, holder, published } of sights) {
    if (seat === self.seat) continue;
    const known = view.get(seat);
    if (holder === '') {
      const vacantSince = known?.vacantSince ?? now;
      if (known && now - vacantSince < VACANCY_MS) next.set(seat, { ...known, vacantSince });
      continue;
    }
    const leads = published === undefined;
    if (joins || leads || known?.identity === holder || published[self.seat] === self.identity)
      add(seat, holder, leads);
    // The earlier holder is gone; its keys wait for the new one, who will have seen us soon.
    else if (known) add(seat, known.identity, known.leads);
  }
  return next;
}

/** Whether the work is shared out in the same way, and among the same. */
export function isSame(one: View, other: View): boolean {
  if (one.size !== other.size) return false;
  for (const [seat, { identity, leads }] of one) {
    const its = other.get(seat);
    if (its?.identity !== identity || its.leads !== leads) return false;
  }
  return true;
}

/** The seats of those in its view who have not published this member. One that is gone, or leads, need not. */
export function unaware(view: View, sights: Iterable<Sight>, { seat: own, identity }: Self): string[] {
  return Array.from(sights)
    .filter(({ seat, holder, published }) => {
      const member = seat === own ? undefined : view.get(seat);
      return member?.identity === holder && !member.leads && published?.[own] !== identity;
    })
    .map(({ seat }) => seat);
}

/** Whether all others of its view know that this member is there, and none of them leads. */
export function mayWork(view: View, sights: Iterable<Sight>, self: Self): boolean {
  const hasLeader = [...view].some(([seat, { leads }]) => leads && seat !== self.seat);
  return !hasLeader && unaware(view, sights, self).length === 0;
}

/** The seat that a key belongs to: that of who leads, or else the one with the highest hash. */
export function seatOf(key: string, view: View): string | undefined {
  const hash = hashOf(key);
  let first: string | undefined;
  let highest = -1;
  for (const [seat, { leads, salt }] of view) {
    if (leads) return seat;
    const rank = mix(hash ^ salt);
    if (rank <= highest) continue;
    first = seat;
    highest = rank;
  }
  return first;
}

/** What is to be published of a view. */
export function publish(view: View): Published {
  return Object.fromEntries(Array.from(view, ([seat, { identity }]) => [seat, identity]));
}

/** What a holder has published, in its annotation; one that another holder left behind counts for nothing. */
export function readPublished(text: string | undefined, seat: string, holder: string): Published | undefined {
  try {
    const value: unknown = JSON.parse(text ?? 'null');
    if (typeof value !== 'object' || value === null) return undefined;
    const published = value as Published;
    return holder !== '' && published[seat] === holder ? published : undefined;
  } catch {
    return undefined;
  }
}

/** FNV-1a, 32 bits, of the UTF-16 units. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return hash;
}

/** The finalizer of MurmurHash3: each bit of what goes in moves half of those that come out. */
function mix(value: number): number {
  let hash = value ^ (value >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
