import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Lease } from '../../../src/kube/lease.ts';
import { type Membership, startMembership } from '../../../src/kube/membership.ts';
import { createWorld, type Process, type ProcessOptions, type World } from '../processes.ts';
import { createLeaseServer, type LeaseServer, type Network } from './lease-server.ts';

vi.mock('node:timers/promises', () => import('../timers.ts'));

const HEALTHY: Network = { there: 5, back: 5, watches: true };
const SECOND = 1_000;
const KEYS = Array.from({ length: 24 }, (_, nth) => `team/connector-${nth}`);

interface Member {
  process: Process;
  membership: Membership;
  share: number;
  network: Network;
  /** How long its work goes on that it should leave to another. */
  drainMs: number;
  /** Work that it has not ended yet though it should. */
  hand: Set<string>;
  /** Keys that it took up and let go of, since it was last looked at. */
  gained: string[];
  dropped: string[];
  lost: string[];
  errors: unknown[];
  /** For whom it was told that it waits. */
  waits: string[];
  released: boolean;
}

let world: World;
let server: LeaseServer;
let members: Member[];

beforeEach(() => setUp());
afterEach(tearDown);

function setUp(): void {
  world = createWorld();
  let chance = 0;
  // Any, but the same each time.
  vi.spyOn(Math, 'random').mockImplementation(() => {
    chance = (chance + 0.37) % 1;
    return chance;
  });
  server = createLeaseServer(world);
  members = [];
}

async function tearDown(): Promise<void> {
  for (const { process, membership } of members) {
    process.resume();
    process.run(() => void membership.release());
  }
  await world.advance(60_000);
  world.end();
}

function enter(name: string, share: number, options: ProcessOptions & Partial<Member> = {}): Member {
  const process = world.start(name, options);
  const member: Member = {
    process,
    membership: undefined as never,
    share,
    network: options.network ?? HEALTHY,
    drainMs: options.drainMs ?? 0,
    hand: new Set(),
    gained: [],
    dropped: [],
    lost: [],
    errors: [],
    waits: [],
    released: false,
  };
  process.run(() => {
    member.membership = startMembership({
      client: server.client(process, () => member.network),
      namespace: 'system',
      name: 'operator',
      identity: name,
      share,
      now: process.now,
      onTurn(owned) {
        const { owns } = member.membership;
        for (const key of KEYS) {
          if (owned(key) && !owns(key)) {
            member.dropped.push(key);
            // It is in the middle of it.
            member.hand.add(key);
          }
          if (!owned(key) && owns(key)) member.gained.push(key);
        }
      },
      async drain() {
        const leaving = [...member.hand].filter(key => !member.membership.owns(key));
        if (leaving.length === 0) return;
        await sleep(member.drainMs);
        for (const key of leaving) member.hand.delete(key);
      },
      onWait: holders => void member.waits.push(holders),
      onLost: why => void member.lost.push(why),
      onError: error => void member.errors.push(error),
    });
  });
  members.push(member);
  return member;
}

async function release(member: Member): Promise<void> {
  member.process.run(() =>
    member.membership.release().then(() => {
      member.released = true;
    }),
  );
  await world.advance(100);
}

/** Whether it may send a write for a key at this moment. */
function mayTouch({ process, membership, hand }: Member, key: string): boolean {
  return process.alive && membership.mayWrite() && (membership.owns(key) || hand.has(key));
}

/** Lets time pass, and sees to it that no key is worked on by two. */
const pass = (ms: number): Promise<void> =>
  world.advance(ms, () => {
    const able = members.filter(({ process, membership }) => process.alive && membership.mayWrite());
    if (able.length < 2) return;
    for (const key of KEYS) {
      const now = able.filter(member => mayTouch(member, key));
      if (now.length > 1)
        throw new Error(`${now.map(({ process }) => process.name).join(' and ')} work on ${key} at ${world.now()}`);
    }
  });

/** Who works on each key: nobody is an empty name. */
const owners = (): string[] =>
  KEYS.map(key =>
    members
      .filter(({ process, membership }) => process.alive && membership.isWorking() && membership.owns(key))
      .map(({ process }) => process.name)
      .join(' '),
  );
const workers = (): string[] => [...new Set(owners())].sort();

async function untilServed(mostMs: number): Promise<number> {
  const start = world.now();
  while (owners().includes('')) {
    if (world.now() - start >= mostMs) throw new Error(`${owners()} after ${mostMs} ms`);
    await pass(10);
  }
  return world.now() - start;
}

/** So many that share, all settled. */
async function sharing(count: number, share = count): Promise<Member[]> {
  const all = Array.from({ length: count }, (_, nth) => enter(`m${nth}`, share));
  await pass(5 * SECOND);
  for (const member of all) {
    member.gained = [];
    member.dropped = [];
  }
  server.log.length = 0;
  return all;
}

const names = (...of: Member[]): string[] => of.map(({ process }) => process.name).sort();
const holders = (): (string | undefined)[] =>
  ['operator', 'operator-1', 'operator-2', 'operator-3', 'operator-4'].map(
    name => server.lease(name)?.spec?.holderIdentity,
  );

describe('processes that share', () => {
  it.each([2, 3, 5])('%i of them: each key is one’s own, and each has some', async count => {
    const all = await sharing(count);
    expect(workers()).toEqual(names(...all));
    expect(all.flatMap(({ errors, lost }) => [...errors, ...lost])).toEqual([]);
    expect(holders().slice(0, count).sort()).toEqual(names(...all));
  });

  it('say on their Leases who they are, and label them so that others find them', async () => {
    await sharing(2);
    const [first, second] = [server.lease('operator'), server.lease('operator-1')];
    const view = { operator: first?.spec?.holderIdentity, 'operator-1': second?.spec?.holderIdentity };
    for (const lease of [first, second])
      expect(JSON.parse(lease?.metadata.annotations?.['connectors.aitronos.com/members'] ?? '')).toEqual(view);
    expect(second?.metadata.labels).toEqual({ 'connectors.aitronos.com/lease': 'operator' });
    expect(first?.metadata.labels).toBeUndefined();
  });

  it('write nothing but renewals while nothing changes', async () => {
    const all = await sharing(3);
    await pass(60 * SECOND);
    const writes = server.log.filter(({ what }) => /^(PUT|POST)/.test(what));
    expect(writes.length).toBeLessThanOrEqual(90);
    expect(writes.length).toBeGreaterThan(80);
    expect(all.flatMap(({ gained, dropped }) => [...gained, ...dropped])).toEqual([]);
  });

  it('take over what one had that was killed, within its Lease, and nothing else moves', async () => {
    const [killed, ...others] = await sharing(3);
    const its = KEYS.filter(key => killed?.membership.owns(key));
    killed?.process.kill();
    const took = await untilServed(17 * SECOND);
    expect(took).toBeGreaterThan(12 * SECOND);
    expect(others.flatMap(({ gained }) => gained).sort()).toEqual(its.sort());
    expect(others.flatMap(({ dropped }) => dropped)).toEqual([]);
    expect(workers()).toEqual(names(...others));
  });

  it('take over within a second what one had that ended in order', async () => {
    const [first, ...others] = await sharing(3);
    await release(first as Member);
    expect(await untilServed(SECOND)).toBeLessThanOrEqual(600);
    expect(others.flatMap(({ dropped }) => dropped)).toEqual([]);
    expect(first?.released).toBe(true);
  });

  it('do not take over from one that is paused for less than its Lease', async () => {
    const [paused, ...others] = await sharing(3);
    paused?.process.pause();
    await pass(7 * SECOND);
    paused?.process.resume();
    await pass(20 * SECOND);
    expect(others.flatMap(({ gained }) => gained)).toEqual([]);
    expect(paused?.lost).toEqual([]);
  });

  it.each(['timers', 'answers'] as const)('end one that was paused for longer (%s first)', async first => {
    const [paused, ...others] = await sharing(3);
    paused?.process.pause();
    await pass(20 * SECOND);
    expect(workers()).toEqual(names(...others));
    paused?.process.resume(first);
    await pass(SECOND);
    expect(paused?.lost).toHaveLength(1);
    expect(workers()).toEqual(names(...others));
  });

  it.each([5, 400])('leave others their keys whose renewals one does not hear of, %i ms from the server', async ms => {
    const [blind, ...others] = await sharing(3);
    (blind as Member).network = { there: ms, back: ms, watches: false };
    await pass(60 * SECOND);
    expect([blind, ...others].flatMap(member => [...(member?.gained ?? []), ...(member?.lost ?? [])])).toEqual([]);
  });

  it('let one more stand by, which takes the seat of one that goes, and nobody else gets a key in between', async () => {
    const [first, ...others] = await sharing(3);
    const more = enter('more', 3);
    await pass(20 * SECOND);
    expect([more.membership.mayWrite(), workers()]).toEqual([false, names(first as Member, ...others)]);
    const its = KEYS.filter(key => first?.membership.owns(key));
    await release(first as Member);
    expect(await untilServed(SECOND)).toBeLessThanOrEqual(500);
    expect(more.gained).toEqual(its);
    expect(others.flatMap(({ gained, dropped }) => [...gained, ...dropped])).toEqual([]);
  });

  it('give a newcomer its keys once they have nothing of them in hand, and go on with the others', async () => {
    const [first, second] = (await sharing(2, 3)) as [Member, Member];
    first.drainMs = 3_000;
    const newcomer = enter('newcomer', 3);
    while (first.dropped.length === 0) await pass(1);
    await pass(2_900);
    expect(workers()).toEqual(['', ...names(first, second)]);
    expect(newcomer.membership.isWorking()).toBe(false);
    await untilServed(200);
    expect(newcomer.gained.sort()).toEqual([...first.dropped, ...second.dropped].sort());
    expect([...first.gained, ...second.gained]).toEqual([]);
  });

  it('give two newcomers their keys, of which one comes while they let go of those of the other', async () => {
    const old = await sharing(2, 4);
    for (const member of old) member.drainMs = 3_000;
    const newcomers = [enter('first', 4)];
    await pass(1_500);
    newcomers.push(enter('second', 4));
    await untilServed(10 * SECOND);
    expect(workers()).toEqual(names(...old, ...newcomers));
  });

  it('take in a newcomer within seconds that one of them is not told of', async () => {
    const [deaf] = await sharing(2, 3);
    (deaf as Member).network = { ...HEALTHY, watches: false };
    const newcomer = enter('newcomer', 3);
    while (newcomer.gained.length === 0 && world.now() < 20 * SECOND) await pass(10);
    // 5 s until it says so, and 2 s until the next renewal of the other one.
    expect(world.now()).toBeLessThan(13 * SECOND);
    expect(newcomer.waits).toEqual([deaf?.process.name]);
    expect(owners()).not.toContain('');
    await pass(10 * SECOND);
    for (const name of ['operator', 'operator-1', 'operator-2'])
      expect(server.lease(name)?.metadata.annotations).not.toHaveProperty('connectors.aitronos.com/waiting');
  });

  it('go on while a newcomer does not get on', async () => {
    const all = await sharing(2, 3);
    const newcomer = enter('newcomer', 3);
    while (server.lease('operator-2')?.spec?.holderIdentity !== 'newcomer') await pass(1);
    newcomer.network = { ...HEALTHY, lost: 'request', watches: false };
    for (let second = 0; second < 30; second += 1) {
      await pass(SECOND);
      expect(owners()).not.toContain('');
    }
    expect(all.flatMap(({ dropped }) => dropped)).toEqual([]);
  });
});

describe('who leads, and who shares,', () => {
  it('wait for each other: one that leads goes first, and those who share follow', async () => {
    const leader = enter('leader', 0);
    const standby = enter('standby', 0);
    await pass(2 * SECOND);
    const all = [1, 2, 3].map(nth => enter(`s${nth}`, 3));
    await pass(30 * SECOND);
    expect(workers()).toEqual(['leader']);
    // Two of them have a seat.
    expect(all.flatMap(({ waits }) => waits)).toEqual(['leader', 'leader']);
    await release(standby);
    await release(leader);
    await untilServed(5 * SECOND);
    expect(workers()).toEqual(names(...all));
  });

  it('wait for each other: those who share go first, and one that leads follows', async () => {
    const all = await sharing(3);
    const leaders = [enter('leader', 0), enter('standby', 0)];
    await pass(20 * SECOND);
    expect(workers()).toEqual(names(...all));
    for (const member of all) {
      await release(member);
      await untilServed(SECOND);
    }
    expect(workers()).toEqual([expect.stringMatching(/leader|standby/)]);
    expect(leaders.flatMap(({ errors }) => errors)).toEqual([]);
  });

  it('have one that leads wait for those who still work', async () => {
    const all = await sharing(3);
    for (const member of all) member.drainMs = 2_000;
    const leader = enter('leader', 0);
    const first = all.find(({ process }) => process.name === server.lease()?.spec?.holderIdentity) as Member;
    await release(first);
    await pass(1_500);
    expect([leader.membership.mayWrite(), leader.membership.isWorking()]).toEqual([true, false]);
    await untilServed(2_000);
    expect(workers()).toEqual(['leader']);
  });

  it('have those who share stop for a leader of a version that knows nothing of sharing', async () => {
    const all = await sharing(3);
    const first = all.find(({ process }) => process.name === server.lease()?.spec?.holderIdentity) as Member;
    await release(first);
    const old = (lease: Lease): Lease => ({
      ...lease,
      spec: { ...lease.spec, holderIdentity: 'old', leaseDurationSeconds: 15 },
    });
    server.edit(old);
    await pass(SECOND);
    expect(workers()).toEqual(['']);
    expect(owners().every(owner => owner === '')).toBe(true);
  });

  it('have the dead of the other kind freed: one that leads takes the place of all who shared', async () => {
    const all = await sharing(3);
    for (const { process } of all) process.kill();
    enter('leader', 0);
    await untilServed(20 * SECOND);
    expect([workers(), holders()]).toEqual([['leader'], ['leader', '', '', undefined, undefined]]);
  });
});

describe('when there are to be other seats,', () => {
  it.each([
    [2, 3],
    [3, 5],
    [5, 3],
    [3, 2],
  ])('%i → %i, one after another is replaced, and all keys find one', async (before, after) => {
    const old = await sharing(before);
    const next = Array.from({ length: after }, (_, nth) => enter(`n${nth}`, after));
    await pass(3 * SECOND);
    for (const member of old) {
      await release(member);
      await untilServed(5 * SECOND);
    }
    await pass(20 * SECOND);
    expect(workers()).toEqual(names(...next));
  });
});

describe('whatever happens to processes that share, and to some that lead,', () => {
  const who = fc.nat(3);
  const delay = fc.oneof({ weight: 3, arbitrary: fc.nat(50) }, fc.nat(6_000), fc.nat(20_000));
  const lost = fc.option(fc.constantFrom('request' as const, 'answer' as const), { freq: 3, nil: undefined });
  const first = fc.constantFrom('timers' as const, 'answers' as const);
  const share = fc.constantFrom(0, 2, 3, 3, 3, 5);
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('network' as const), who, there: delay, back: delay, lost }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('heal' as const), who }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('blind' as const), who }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('pause' as const), who }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('resume' as const), who, first }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant('stall' as const), who, ms: fc.nat(22_000), first, lost }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('kill' as const), who, share }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('release' as const), who, share }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('surge' as const), who, share }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('drain' as const), who, ms: fc.nat(8_000) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('annotate' as const), seat: fc.nat(4) }) },
  );
  const steps = fc.array(fc.tuple(fc.oneof(fc.nat(200), fc.nat(2_500), fc.nat(15_000)), step), { maxLength: 25 });
  const clock = fc.record({
    offsetMs: fc.integer({ min: -1e9, max: 1e9 }),
    dateOffsetMs: fc.integer({ min: -1e9, max: 1e9 }),
    dateRate: fc.constantFrom(1, 0, -1),
    rate: fc.double({ min: 0.95, max: 1.05, noNaN: true }),
    share,
  });
  const clocks = fc.tuple(clock, clock, clock, clock);

  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

  /** Does all steps with four processes; one that has ended is started again under another name, as a Pod would be. */
  async function play(clocks: (ProcessOptions & { share: number })[], steps: [number, Step][]): Promise<void> {
    let count = 0;
    const start = (nth: number, share: number, network = HEALTHY): Member => {
      count += 1;
      return enter(`m${count}`, share, { ...clocks[nth], network });
    };
    const pods = clocks.map(({ share }, nth) => start(nth, share));
    const replaceEnded = (): void => {
      for (const [nth, { lost, network, process, share }] of pods.entries())
        if (lost.length > 0 || !process.alive) pods[nth] = start(nth, share, network);
    };
    for (const [ms, step] of steps) {
      await pass(ms);
      replaceEnded();
      const nth = 'who' in step ? step.who : 0;
      const pod = pods[nth] as Member;
      switch (step.do) {
        case 'network':
          pod.network = {
            watches: pod.network.watches,
            there: step.there,
            back: step.back,
            ...(step.lost && { lost: step.lost }),
          };
          break;
        case 'heal':
          pod.network = HEALTHY;
          break;
        case 'blind':
          pod.network = { ...pod.network, watches: false };
          break;
        case 'pause':
          pod.process.pause();
          break;
        case 'resume':
          pod.process.resume(step.first);
          break;
        case 'stall': {
          // It stops in the moment in which a write of it was taken, and may be cut off when it goes on.
          server.reached = ({ from, what }) => {
            if (from !== pod.process.name || !/^(PUT|POST) 200/.test(what)) return;
            pod.process.pause();
            delete server.reached;
          };
          await pass(step.ms);
          delete server.reached;
          pod.network = { ...HEALTHY, ...(step.lost && { lost: step.lost }) };
          pod.process.resume(step.first);
          break;
        }
        case 'kill':
          pod.process.kill();
          pods[nth] = start(nth, step.share, pod.network);
          break;
        case 'release':
          pod.process.run(() => void pod.membership.release());
          pods[nth] = start(nth, step.share, pod.network);
          break;
        case 'surge':
          // The new one is there before the old one is told to go.
          pods[nth] = start(nth, step.share);
          await pass(SECOND);
          pod.process.run(() => void pod.membership.release());
          break;
        case 'drain':
          pod.drainMs = step.ms;
          break;
        case 'annotate': {
          const name = step.seat === 0 ? 'operator' : `operator-${step.seat}`;
          if (server.lease(name))
            server.edit(
              ({ metadata, ...lease }) => ({
                ...lease,
                metadata: { ...metadata, annotations: { ...metadata.annotations, at: String(world.now()) } },
              }),
              name,
            );
          break;
        }
      }
    }
    // All is well again: soon each key is served, and stays where it is.
    for (const { process } of members) process.resume();
    for (const member of members) {
      member.network = HEALTHY;
      member.drainMs = 0;
    }
    for (let round = 0; round < 4; round += 1) {
      await pass(10 * SECOND);
      replaceEnded();
    }
    const settled = owners();
    expect(settled).not.toContain('');
    await pass(30 * SECOND);
    expect(owners()).toEqual(settled);
  }

  it('never do two of them work on one key, and each key has one when all is well', async () => {
    await fc.assert(
      fc.asyncProperty(clocks, steps, play).beforeEach(async () => {
        await tearDown();
        setUp();
      }),
      { numRuns: Number(process.env.RUNS ?? 60) },
    );
  }, 240_000);
});
