import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Election, startElection } from '../../../src/kube/election.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import type { Lease } from '../../../src/kube/lease.ts';
import { createWorld, type Process, type ProcessOptions, type World } from '../processes.ts';
import { createLeaseServer, type LeaseServer, type Network } from './lease-server.ts';

vi.mock('node:timers/promises', () => import('../timers.ts'));

const HEALTHY: Network = { there: 5, back: 5, watches: true };
const SECOND = 1_000;

interface Candidate {
  process: Process;
  election: Election;
  /** What the network does to its requests from now on. */
  network: Network;
  /** Why it lost the Lease, each time that it was told so. */
  lost: string[];
  errors: unknown[];
  /** Whether it was ever told to lead. */
  led: boolean;
  released: boolean;
}

let world: World;
let server: LeaseServer;
let candidates: Candidate[];

beforeEach(() => setUp());
afterEach(tearDown);

function setUp(): void {
  world = createWorld();
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  server = createLeaseServer(world);
  candidates = [];
}

async function tearDown(): Promise<void> {
  for (const { process, election } of candidates) {
    process.resume();
    process.run(() => void election.release());
  }
  await world.advance(60_000);
  world.end();
}

/** Starts a process that wants to lead. */
function enter(name: string, options: ProcessOptions & { network?: Network } = {}): Candidate {
  const process = world.start(name, options);
  const candidate: Candidate = {
    process,
    election: undefined as never,
    network: options.network ?? HEALTHY,
    lost: [],
    errors: [],
    led: false,
    released: false,
  };
  process.run(() => {
    candidate.election = startElection({
      client: server.client(process, () => candidate.network),
      namespace: 'system',
      name: 'operator',
      identity: name,
      onLost: why => void candidate.lost.push(why),
      onError: error => void candidate.errors.push(error),
      now: process.now,
    });
    void candidate.election.leading.then(() => {
      candidate.led = true;
    });
  });
  candidates.push(candidate);
  return candidate;
}

/** Asks a candidate to release, and lets it. */
async function release(candidate: Candidate): Promise<void> {
  candidate.process.run(() =>
    candidate.election.release().then(() => {
      candidate.released = true;
    }),
  );
  await world.advance(100);
}

/** Who leads by its own clock at this moment: also one that is paused, whose clock goes on. */
const leaders = (): string[] =>
  candidates.filter(({ process, election }) => process.alive && election.isLeader()).map(({ process }) => process.name);

/** Lets time pass and sees to it that nobody leads beside another. */
const pass = (ms: number): Promise<void> =>
  world.advance(ms, () => {
    const now = leaders();
    if (now.length > 1) throw new Error(`${now.join(' and ')} lead at ${world.now()}`);
  });

/** Lets time pass until this candidate leads; gives how long that took. */
async function untilLeads(candidate: Candidate, mostMs: number): Promise<number> {
  const start = world.now();
  while (!candidate.election.isLeader()) {
    if (world.now() - start >= mostMs) throw new Error(`${candidate.process.name} does not lead after ${mostMs} ms`);
    await pass(10);
  }
  return world.now() - start;
}

const spec = (): NonNullable<Lease['spec']> => server.lease()?.spec ?? {};
const writes = (from?: string): string[] =>
  server.log
    .filter(one => /^(POST|PUT)/.test(one.what) && (from === undefined || one.from === from))
    .map(({ what }) => what);

/** A Lease as another client would make it. */
async function makeLease(its: Lease['spec'], metadata: Partial<Lease['metadata']> = {}): Promise<void> {
  const other = world.start('kubectl');
  const client = server.client(other, () => HEALTHY);
  const made = client.create(
    { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', kind: 'Lease' },
    {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { name: 'operator', namespace: 'system', ...metadata },
      spec: its,
    } as never,
    new AbortController().signal,
  );
  await world.advance(20);
  await made;
  server.log.length = 0;
}

/** How another candidate's record looks. */
const record = (its: Lease['spec'] = {}): Lease['spec'] => ({
  holderIdentity: 'other',
  leaseDurationSeconds: 15,
  acquireTime: '2026-01-01T00:00:00.000000Z',
  renewTime: '2026-01-01T00:00:00.000000Z',
  leaseTransitions: 3,
  ...its,
});

describe('a candidate that is alone', () => {
  it('makes the Lease and leads', async () => {
    const a = enter('a');
    expect(a.election.isLeader()).toBe(false);
    await pass(100);
    expect([a.led, leaders(), a.lost, a.errors]).toEqual([true, ['a'], [], []]);
    expect(server.lease()).toMatchObject({
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { name: 'operator', namespace: 'system' },
      spec: { holderIdentity: 'a', leaseDurationSeconds: 15, leaseTransitions: 0 },
    });
  });

  it('writes times with six digits of a second, as the API demands', async () => {
    enter('a');
    await pass(100);
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    expect(spec()).toMatchObject({ acquireTime: time, renewTime: time });
  });

  it('renews every 2 s, and keeps since when it holds the Lease', async () => {
    enter('a');
    await pass(100);
    const { acquireTime } = spec();
    server.edit(lease => ({ ...lease, spec: { ...lease.spec, renewTime: '2000-01-01T00:00:00.000000Z' } }));
    server.log.length = 0;
    await pass(60 * SECOND);
    // 2 s and the time that a request takes.
    expect(writes().filter(what => what === 'PUT 200')).toHaveLength(29);
    expect(spec()).toMatchObject({ acquireTime, leaseTransitions: 0 });
    expect(spec().renewTime).not.toBe('2000-01-01T00:00:00.000000Z');
    expect(leaders()).toEqual(['a']);
  });

  it('asks for little: renewals, and a watch now and then', async () => {
    enter('a');
    await pass(600 * SECOND);
    const others = server.log.filter(({ what }) => !what.startsWith('PUT'));
    expect(others.length).toBeLessThan(10);
    expect(writes().length).toBeLessThanOrEqual(301);
  });

  it.each([
    ['nobody, as one that was given up', { holderIdentity: '', leaseDurationSeconds: 1 }],
    ['nobody, and that says nothing else', {}],
    ['nobody, without a spec', undefined],
  ])('takes a Lease of %s at once', async (_whose, its) => {
    await makeLease(its);
    const a = enter('a');
    expect(await untilLeads(a, 100)).toBeLessThan(50);
    expect(spec()).toMatchObject({ holderIdentity: 'a', leaseDurationSeconds: 15, leaseTransitions: 1 });
  });

  it('keeps what others wrote into the Lease: labels, annotations, and fields of the spec that it does not know', async () => {
    const foreign = { strategy: 'OldestEmulationVersion', preferredHolder: 'somebody' };
    const metadata = { labels: { team: 'x' }, annotations: { note: 'y' }, finalizers: ['keep/this'] };
    await makeLease({ ...record({ holderIdentity: '' }), ...foreign } as Lease['spec'], metadata);
    const a = enter('a');
    await pass(10 * SECOND);
    await release(a);
    expect(server.lease()).toMatchObject({ metadata, spec: { ...foreign, holderIdentity: '' } });
  });
});

describe('a Lease of another', () => {
  it('is taken 15 s after it was first seen, and not before', async () => {
    await makeLease(record());
    const a = enter('a');
    await pass(15 * SECOND);
    expect([a.led, writes()]).toEqual([false, []]);
    expect(await untilLeads(a, 100)).toBeLessThanOrEqual(50);
    expect(spec()).toMatchObject({ holderIdentity: 'a', leaseTransitions: 4 });
    expect(spec().acquireTime).not.toBe(record()?.acquireTime);
  });

  it.each([
    ['long past', '1970-01-01T00:00:00.000000Z'],
    ['far in the future', '2999-01-01T00:00:00.000000Z'],
    ['no time', undefined],
  ])('is taken after the same 15 s when its renewTime is %s: its clock is not believed', async (_when, renewTime) => {
    await makeLease(record({ ...(renewTime && { renewTime }), acquireTime: '2999-01-01T00:00:00.000000Z' }));
    const a = enter('a', { offsetMs: 5_000_000_000 });
    await pass(15 * SECOND);
    expect(writes()).toEqual([]);
    await untilLeads(a, 100);
  });

  it('is not taken as long as it is renewed, by whatever clock', async () => {
    await makeLease(record());
    const a = enter('a');
    for (let renewal = 0; renewal < 20; renewal += 1) {
      await pass(14 * SECOND);
      // A clock that runs backwards.
      const renewTime = `2026-01-01T00:00:${String(59 - renewal).padStart(2, '0')}.000000Z`;
      server.edit(lease => ({ ...lease, spec: { ...lease.spec, renewTime } }));
    }
    expect([a.led, writes(), leaders()]).toEqual([false, [], []]);
    await pass(15 * SECOND);
    expect(writes()).toEqual([]);
    await untilLeads(a, 100);
  });

  it('is taken no later when something else of it is changed all the time', async () => {
    await makeLease(record());
    const a = enter('a');
    for (let second = 0; second < 16; second += 1) {
      await pass(SECOND);
      server.edit(lease => ({ ...lease, metadata: { ...lease.metadata, annotations: { second: String(second) } } }));
    }
    expect(await untilLeads(a, SECOND)).toBeLessThan(SECOND);
    expect(server.lease()?.metadata.annotations).toEqual({ second: '15' });
  });

  it.each([
    [5, 5],
    [15, 15],
    [60, 60],
    [600, 600],
    // One that asks for a year is not given it.
    [31_536_000, 600],
    [undefined, 15],
  ])('that says that it lasts %j s is taken after %i s', async (leaseDurationSeconds, seconds) => {
    await makeLease(record({ leaseDurationSeconds: leaseDurationSeconds as number }));
    const a = enter('a');
    await pass(seconds * SECOND);
    expect(a.led).toBe(false);
    await untilLeads(a, SECOND);
  });

  it('is taken at once when it is given up', async () => {
    const a = enter('a');
    await pass(SECOND);
    const b = enter('b');
    const c = enter('c');
    await pass(30 * SECOND);
    expect([leaders(), writes('b'), writes('c')]).toEqual([['a'], [], []]);
    await release(a);
    expect([a.released, leaders()]).toEqual([true, [expect.stringMatching(/^[bc]$/)]]);
    expect([b.led, c.led].filter(Boolean)).toHaveLength(1);
    expect(spec()).toMatchObject({ leaseDurationSeconds: 15, leaseTransitions: 1 });
  });

  it('is taken 15 s after the last renewal of its holder, which died, by one of two', async () => {
    const a = enter('a');
    await pass(SECOND);
    enter('b', { offsetMs: 1_000_000 });
    enter('c', { offsetMs: -5_000 });
    await pass(31 * SECOND);
    a.process.kill();
    const renewedAt = server.log.findLast(({ what }) => what === 'PUT 200')?.at ?? 0;
    await pass(renewedAt + 15 * SECOND - world.now());
    expect(leaders()).toEqual([]);
    await pass(SECOND);
    expect(leaders()).toEqual([expect.stringMatching(/^[bc]$/)]);
    await pass(60 * SECOND);
    expect(leaders()).toHaveLength(1);
    expect(spec().leaseTransitions).toBe(1);
  });
});

describe('several that begin at once', () => {
  it.each([2, 3, 8])('%i of them have one leader, and keep it', async count => {
    for (let nth = 0; nth < count; nth += 1) enter(`c${nth}`, { offsetMs: nth * 1_000_000 });
    await pass(SECOND);
    const [first] = leaders();
    expect(leaders()).toHaveLength(1);
    await pass(120 * SECOND);
    expect(leaders()).toEqual([first]);
    expect(spec()).toMatchObject({ holderIdentity: first, leaseTransitions: 0 });
    expect(candidates.flatMap(({ errors }) => errors)).toEqual([]);
  });

  it('may be of one name only if they are one process: an identity is taken for oneself', async () => {
    await makeLease(record({ holderIdentity: 'a' }));
    const a = enter('a');
    expect(await untilLeads(a, 100)).toBeLessThan(50);
    // It holds it since when it says, and it has not changed hands.
    expect(spec()).toMatchObject({ acquireTime: '2026-01-01T00:00:00.000000Z', leaseTransitions: 3 });
  });
});

describe('a leader', () => {
  /** One that leads, and what the server has heard since. */
  async function lead(name = 'a'): Promise<Candidate> {
    const candidate = enter(name);
    await pass(SECOND);
    expect(leaders()).toEqual([name]);
    server.log.length = 0;
    return candidate;
  }

  it('goes on when somebody else annotates the Lease, also just before a renewal', async () => {
    const a = await lead();
    a.network = { ...HEALTHY, watches: false };
    for (let edit = 0; edit < 20; edit += 1) {
      server.edit(lease => ({ ...lease, metadata: { ...lease.metadata, annotations: { edit: String(edit) } } }));
      await pass(2 * SECOND);
    }
    expect(writes()).toContain('PUT 409');
    expect([leaders(), a.lost, a.errors]).toEqual([['a'], [], []]);
    expect(server.lease()).toMatchObject({ metadata: { annotations: { edit: '19' } }, spec: { leaseTransitions: 0 } });
  });

  it.each([
    ['seen by its watch', true],
    ['noticed by its next renewal', false],
  ])('ends when another is written into the Lease: %s', async (_how, watches) => {
    const a = await lead();
    a.network = { ...HEALTHY, watches };
    server.edit(lease => ({ ...lease, spec: { ...lease.spec, holderIdentity: 'kubectl' } }));
    await pass(watches ? 10 : 3 * SECOND);
    expect([leaders(), a.lost]).toEqual([[], ['kubectl holds the Lease now']]);
    const before = server.log.length;
    await pass(60 * SECOND);
    // It is told once, and leaves the Lease alone.
    expect([a.lost.length, server.log.length, spec().holderIdentity]).toEqual([1, before, 'kubectl']);
    await release(a);
    expect(writes().slice(-1)).not.toContain('PUT 200');
    expect(spec().holderIdentity).toBe('kubectl');
  });

  it('ends when its name is taken out of the Lease', async () => {
    const a = await lead();
    server.edit(lease => ({ ...lease, spec: { ...lease.spec, holderIdentity: '' } }));
    await pass(10);
    expect([leaders(), a.lost]).toEqual([[], ['nobody holds the Lease now']]);
  });

  it.each<[string, Partial<Network>]>([
    ['its requests are lost', { lost: 'request' }],
    ['all answers are lost', { lost: 'answer' }],
    ['each answer takes 5 s', { back: 5_000 }],
    ['each request takes 5 s', { there: 5_000 }],
  ])('ends 10 s after its last renewal when %s', async (_what, network) => {
    const a = await lead();
    await pass(990);
    const renewedAt = server.log.findLast(({ what }) => what === 'PUT 200')?.at ?? 0;
    a.network = { ...HEALTHY, ...network };
    await pass(renewedAt + 9_900 - world.now());
    expect([leaders(), a.lost]).toEqual([['a'], []]);
    await pass(150);
    expect([leaders(), a.lost]).toEqual([[], ['the Lease could not be renewed for 10 s']]);
    await pass(60 * SECOND);
    expect(a.lost).toHaveLength(1);
  });

  it.each<[string, Error]>([
    ['the server is broken', new ApiError('PUT', 500, '{}')],
    ['the server has too much to do', new ApiError('PUT', 429, '{}', '300')],
    ['it lost its permission', new ApiError('PUT', 403, '{}')],
  ])('ends when it cannot renew for 10 s because %s, and tells of each failure', async (_why, error) => {
    const a = await lead();
    server.before = what => {
      if (what === 'PUT') throw error;
    };
    await pass(11 * SECOND);
    expect([leaders(), a.lost]).toEqual([[], ['the Lease could not be renewed for 10 s']]);
    expect(a.errors.length).toBeGreaterThan(3);
    expect(new Set(a.errors)).toEqual(new Set([error]));
    expect(writes().length).toBeLessThanOrEqual(12);
  });

  it.each([
    ['stands still', 0],
    ['runs backwards', -1],
  ])('is left alone by others while its calendar %s: each renewal is a change', async (_how, dateRate) => {
    const a = enter('a', { dateRate });
    await pass(SECOND);
    const b = enter('b');
    await pass(120 * SECOND);
    expect([leaders(), a.lost, b.led]).toEqual([['a'], [], false]);
  });

  it('survives a pause of the API server of 8 s', async () => {
    const a = await lead();
    server.before = what => {
      if (what === 'PUT') throw new ApiError('PUT', 503, '{}');
    };
    await pass(8 * SECOND);
    delete server.before;
    await pass(30 * SECOND);
    expect([leaders(), a.lost]).toEqual([['a'], []]);
  });

  it('does not wait for a renewal that hangs: another one comes in time', async () => {
    const a = await lead();
    a.network = { ...HEALTHY, lost: 'request' };
    // 4 s until it is given up, 1 s until the next one.
    await pass(3_500);
    a.network = HEALTHY;
    await pass(30 * SECOND);
    expect([leaders(), a.lost]).toEqual([['a'], []]);
  });

  it('knows that it does not lead any more although its event loop stands still, before any timer tells it', async () => {
    const a = await lead();
    await pass(1_990);
    const renewedAt = server.log.findLast(({ what }) => what === 'PUT 200')?.at ?? 0;
    a.process.pause();
    await pass(renewedAt - 10 + 9_990 - world.now());
    expect(a.election.isLeader()).toBe(true);
    await pass(20);
    expect([a.election.isLeader(), a.lost]).toEqual([false, []]);
    await pass(60 * SECOND);
    a.process.resume();
    await pass(1);
    expect(a.lost).toEqual(['the Lease could not be renewed for 10 s']);
  });

  it.each(['timers', 'answers'] as const)(
    'that was stopped for 20 s with a renewal on its way does not lead again (%s first)',
    async first => {
      const a = await lead();
      const b = enter('b');
      await pass(SECOND);
      a.network = { ...HEALTHY, back: 500 };
      const before = server.log.length;
      while (server.log.length === before) await pass(10);
      a.process.pause();
      await pass(20 * SECOND);
      expect(leaders()).toEqual(['b']);
      a.process.resume(first);
      await pass(SECOND);
      expect([leaders(), a.lost.length, b.lost]).toEqual([['b'], 1, []]);
    },
  );

  it('leads for 10 s from when it sent a renewal, not from when that was answered', async () => {
    const a = await lead();
    a.network = { ...HEALTHY, back: 100 };
    const before = writes().length;
    while (writes().length === before) await pass(1);
    const sentAt = world.now() - HEALTHY.there;
    a.process.pause();
    await pass(9 * SECOND);
    a.network = { ...HEALTHY, lost: 'request' };
    a.process.resume('answers');
    await pass(sentAt + 9_990 - world.now());
    expect([leaders(), a.lost]).toEqual([['a'], []]);
    await pass(10);
    expect([leaders(), a.lost]).toEqual([[], ['the Lease could not be renewed for 10 s']]);
  });

  it('makes the Lease again when it was deleted', async () => {
    const a = await lead();
    server.remove();
    await pass(3 * SECOND);
    expect([leaders(), a.lost, a.errors]).toEqual([['a'], [], []]);
    expect(spec()).toMatchObject({ holderIdentity: 'a' });
    await pass(60 * SECOND);
    expect([leaders(), a.lost]).toEqual([['a'], []]);
  });

  it('may not write while it knows that the Lease is gone: one that begins now would make it at once', async () => {
    const a = await lead();
    server.remove();
    while (a.election.isLeader()) await pass(10);
    expect([server.lease(), a.lost]).toEqual([undefined, []]);
    expect(await untilLeads(a, 3 * SECOND)).toBeLessThanOrEqual(3 * SECOND);
    expect([spec().holderIdentity, a.lost]).toEqual(['a', []]);
  });

  it('makes the Lease again before another one dares to, when it was deleted', async () => {
    const a = await lead();
    const b = enter('b');
    for (let deletion = 0; deletion < 10; deletion += 1) {
      await pass(2_700);
      server.remove();
    }
    await pass(30 * SECOND);
    expect([leaders(), a.lost, b.led]).toEqual([['a'], [], false]);
  });

  it('that is cut off is not replaced before its time is over when the Lease is deleted', async () => {
    const a = await lead();
    const b = enter('b');
    await pass(SECOND);
    a.network = { ...HEALTHY, lost: 'request', watches: false };
    await pass(SECOND);
    server.remove();
    // `pass` sees to it that they never lead together.
    await untilLeads(b, 20 * SECOND);
    expect(a.election.isLeader()).toBe(false);
  });

  it('elects safely without a watch: conflicts tell what it would have told', async () => {
    const blind: Network = { ...HEALTHY, watches: false };
    const a = enter('a', { network: blind });
    await pass(100);
    const b = enter('b', { network: blind });
    await pass(120 * SECOND);
    expect([leaders(), a.lost, b.led]).toEqual([['a'], [], false]);
    // About one conflict in 15 s.
    expect(writes('b').length).toBeLessThanOrEqual(9);
    a.process.kill();
    await pass(31 * SECOND);
    expect(leaders()).toEqual(['b']);
  });
});

describe('a candidate whose acquiring write', () => {
  it('was taken, but whose answer was lost, takes its own Lease without waiting', async () => {
    await makeLease(record({ holderIdentity: '' }));
    const a = enter('a');
    await pass(9);
    a.network = { ...HEALTHY, lost: 'answer' };
    await pass(10);
    expect([writes(), spec().holderIdentity, leaders()]).toEqual([['PUT 200'], 'a', []]);
    a.network = HEALTHY;
    // 4 s until it is given up, 1 s until the next try.
    expect(await untilLeads(a, 6 * SECOND)).toBeLessThanOrEqual(5_100);
    expect(spec()).toMatchObject({ leaseTransitions: 4 });
  });

  it('was taken, but whose answer was lost, finds that out by a conflict without a watch', async () => {
    await makeLease(record({ holderIdentity: '' }));
    const a = enter('a', { network: { ...HEALTHY, watches: false } });
    await pass(9);
    a.network = { ...HEALTHY, lost: 'answer', watches: false };
    await pass(10);
    a.network = { ...HEALTHY, watches: false };
    expect(await untilLeads(a, 8 * SECOND)).toBeLessThanOrEqual(6_500);
  });

  it.each(['timers', 'answers'] as const)(
    'is answered after a pause of 20 s does not lead by it, nor end (%s first)',
    async first => {
      const a = enter('a');
      while (!writes('a').includes('POST 200')) await pass(1);
      a.process.pause();
      await pass(20 * SECOND);
      a.process.resume(first);
      await pass(0);
      expect([leaders(), a.led, a.lost]).toEqual([[], false, []]);
      // The Lease is its own: it renews it, and leads by that.
      await untilLeads(a, 3 * SECOND);
      expect(a.lost).toEqual([]);
    },
  );

  it.each(['timers', 'answers'] as const)(
    'is answered after a pause of 20 s, in which another one took over, never leads (%s first)',
    async first => {
      const a = enter('a');
      while (!writes('a').includes('POST 200')) await pass(1);
      a.process.pause();
      const b = enter('b');
      await pass(20 * SECOND);
      expect(leaders()).toEqual(['b']);
      a.process.resume(first);
      await pass(60 * SECOND);
      expect([leaders(), a.led, a.lost, b.lost]).toEqual([['b'], false, [], []]);
    },
  );

  it('arrives 12 s late at the server does not lead by it', async () => {
    await makeLease(record({ holderIdentity: '' }));
    const a = enter('a');
    await pass(9);
    a.network = { ...HEALTHY, there: 12_000 };
    await pass(10);
    a.network = { ...HEALTHY, lost: 'request' };
    await pass(15 * SECOND);
    expect([writes(), spec().holderIdentity, a.led]).toEqual([['PUT 200'], 'a', false]);
    a.network = HEALTHY;
    await untilLeads(a, 6 * SECOND);
    expect(a.lost).toEqual([]);
  });
});

describe('an election that cannot be', () => {
  /** What a candidate asks within a minute while everything is answered so. */
  async function minute(error: ApiError): Promise<Candidate> {
    server.before = () => {
      throw error;
    };
    const a = enter('a');
    await pass(60 * SECOND);
    return a;
  }

  it.each<[string, ApiError]>([
    ['the namespace is missing', new ApiError('leases', 404, '{"reason":"NotFound"}')],
    ['it is forbidden', new ApiError('leases', 403, '{}')],
    ['the credentials are refused', new ApiError('leases', 401, '{}')],
    ['the server is broken', new ApiError('leases', 500, '{}')],
    ['the server has too much to do', new ApiError('leases', 429, '{}', '1')],
    ['each write is refused as invalid', new ApiError('leases', 422, '{}')],
    ['each write conflicts', new ApiError('leases', 409, '{}')],
  ])('because %s is told of, does not storm, and begins as soon as it can', async (_why, error) => {
    const a = await minute(error);
    expect([a.led, leaders(), a.election.hasSeen()]).toEqual([false, [], false]);
    expect(a.errors.length).toBeGreaterThan(0);
    expect(new Set(a.errors.filter(one => one !== error)).size).toBe(0);
    expect(server.log.length).toBeLessThanOrEqual(150);
    delete server.before;
    expect(await untilLeads(a, 3 * SECOND)).toBeLessThanOrEqual(2 * SECOND);
    expect(a.election.hasSeen()).toBe(true);
  });

  it('because nothing is answered is told of, and does not storm', async () => {
    const a = enter('a', { network: { ...HEALTHY, lost: 'request' } });
    await pass(60 * SECOND);
    expect(a.errors.length).toBeGreaterThan(5);
    expect(a.errors.length).toBeLessThanOrEqual(20);
    a.network = HEALTHY;
    await untilLeads(a, 6 * SECOND);
  });

  it('because the Lease is made in vain by others all the time does not storm', async () => {
    await makeLease(record({ holderIdentity: '' }));
    server.before = what => {
      if (what === 'PUT') throw new ApiError('PUT', 409, '{}');
    };
    const a = enter('a', { network: { ...HEALTHY, watches: false } });
    await pass(60 * SECOND);
    expect(a.led).toBe(false);
    expect(writes().length).toBeGreaterThan(50);
    // A look follows each try.
    expect(server.log.length).toBeLessThanOrEqual(2 * 120 + 5);
  });
});

describe('a release', () => {
  it('gives the Lease up, so that its record says that nobody holds it', async () => {
    const a = enter('a');
    await pass(5 * SECOND);
    await release(a);
    expect([a.released, leaders(), a.lost, a.errors]).toEqual([true, [], [], []]);
    expect(spec()).toMatchObject({ holderIdentity: '', leaseDurationSeconds: 1, leaseTransitions: 0 });
    const before = server.log.length;
    await pass(600 * SECOND);
    expect(server.log).toHaveLength(before);
  });

  it('waits for a renewal that is on its way, and gives up what it made', async () => {
    const a = enter('a');
    await pass(SECOND);
    a.network = { ...HEALTHY, there: 1_000, back: 1_000 };
    const before = writes().length;
    await pass(1_500);
    expect(writes()).toHaveLength(before);
    a.process.run(() =>
      a.election.release().then(() => {
        a.released = true;
      }),
    );
    expect(a.election.isLeader()).toBe(false);
    await pass(SECOND);
    expect([spec().holderIdentity, a.released]).toEqual(['a', false]);
    await pass(4 * SECOND);
    expect([spec().holderIdentity, a.released, a.errors]).toEqual(['', true, []]);
    expect(writes().slice(before)).toEqual(['PUT 200', 'PUT 200']);
  });

  it('waits for an acquiring write that is on its way, and gives up what it made', async () => {
    const a = enter('a', { network: { ...HEALTHY, there: 500, back: 500 } });
    await pass(1_200);
    expect(writes()).toEqual([]);
    await release(a);
    await pass(5 * SECOND);
    expect([a.released, a.led, leaders()]).toEqual([true, false, []]);
    expect([writes(), spec().holderIdentity]).toEqual([['POST 200', 'PUT 200'], '']);
  });

  it.each([
    ['stands by', 'other'],
    ['waits for nobody', undefined],
  ])('of one that %s writes nothing', async (_what, holderIdentity) => {
    if (holderIdentity) await makeLease(record({ holderIdentity }));
    else {
      server.before = () => {
        throw new ApiError('leases', 403, '{}');
      };
    }
    const a = enter('a');
    await pass(5 * SECOND);
    await release(a);
    expect([a.released, writes().filter(what => what.endsWith('200'))]).toEqual([true, []]);
    const before = server.log.length;
    await pass(600 * SECOND);
    expect([server.log.length, a.led]).toEqual([before, false]);
  });

  it('is repeated when the Lease was changed meanwhile, by an annotation say', async () => {
    const a = enter('a', { network: { ...HEALTHY, watches: false } });
    await pass(SECOND);
    server.edit(lease => ({ ...lease, metadata: { ...lease.metadata, annotations: { by: 'somebody' } } }));
    await release(a);
    await pass(SECOND);
    expect([a.released, spec().holderIdentity, a.errors]).toEqual([true, '', []]);
    expect(writes().slice(-2)).toEqual(['PUT 409', 'PUT 200']);
  });

  it('that is not taken is told of; the others wait until the Lease expires', async () => {
    const a = enter('a');
    await pass(SECOND);
    const b = enter('b');
    await pass(SECOND);
    a.network = { ...HEALTHY, lost: 'request' };
    await release(a);
    await pass(5 * SECOND);
    expect(a.released).toBe(true);
    expect(a.errors).toEqual([
      expect.objectContaining({ message: 'the Lease could not be given up: others wait until it expires' }),
    ]);
    expect(await untilLeads(b, 20 * SECOND)).toBeGreaterThan(8 * SECOND);
  });

  it('of one that has lost leaves the Lease to its holder', async () => {
    const a = enter('a');
    await pass(SECOND);
    const b = enter('b');
    await pass(SECOND);
    a.process.pause();
    await untilLeads(b, 20 * SECOND);
    a.process.resume();
    await pass(SECOND);
    await release(a);
    expect([a.released, leaders(), spec().holderIdentity, b.lost]).toEqual([true, ['b'], 'b', []]);
  });
});

describe('whatever happens to three candidates', () => {
  const who = fc.nat(2);
  /** Mostly a network as it should be; times reach beyond the time limits of requests and of the Lease. */
  const delay = fc.oneof({ weight: 3, arbitrary: fc.nat(50) }, fc.nat(6_000), fc.nat(20_000));
  const lost = fc.option(fc.constantFrom('request' as const, 'answer' as const), { freq: 3, nil: undefined });
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('network' as const), who, there: delay, back: delay, lost }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('heal' as const), who }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('blind' as const), who }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('pause' as const), who }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant('resume' as const), who, first: fc.constantFrom('timers', 'answers') }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('stall' as const),
        who,
        ms: fc.nat(22_000),
        first: fc.constantFrom('timers', 'answers'),
        lost,
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('kill' as const), who }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('release' as const), who }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('annotate' as const) }) },
  );
  const steps = fc.array(fc.tuple(fc.oneof(fc.nat(2_500), fc.nat(15_000)), step), { maxLength: 25 });
  const clocks = fc.tuple(
    ...[0, 1, 2].map(() =>
      fc.record({
        offsetMs: fc.integer({ min: -1e9, max: 1e9 }),
        dateOffsetMs: fc.integer({ min: -1e9, max: 1e9 }),
        dateRate: fc.constantFrom(1, 0, -1),
        rate: fc.double({ min: 0.95, max: 1.05, noNaN: true }),
      }),
    ),
  );

  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

  /** Does all steps with three candidates; one that has ended is started again under another name, as a Pod would be. */
  async function play(clocks: ProcessOptions[], steps: [number, Step][]): Promise<void> {
    let names = 0;
    const start = (nth: number, network = HEALTHY): Candidate => {
      names += 1;
      return enter(`c${names}`, { ...clocks[nth], network });
    };
    const seats = [0, 1, 2].map(nth => start(nth));
    const replaceEnded = (): void => {
      for (const [nth, { lost, network, process }] of seats.entries())
        if (lost.length > 0 || !process.alive) seats[nth] = start(nth, network);
    };
    for (const [ms, step] of steps) {
      await pass(ms);
      replaceEnded();
      const seat = seats['who' in step ? step.who : 0] as Candidate;
      switch (step.do) {
        case 'network':
          seat.network = {
            watches: seat.network.watches,
            there: step.there,
            back: step.back,
            ...(step.lost && { lost: step.lost }),
          };
          break;
        case 'heal':
          seat.network = HEALTHY;
          break;
        case 'blind':
          seat.network = { ...seat.network, watches: false };
          break;
        case 'pause':
          seat.process.pause();
          break;
        case 'resume':
          seat.process.resume(step.first);
          break;
        case 'stall': {
          // It stops in the moment in which a write of it was taken, and may be cut off when it goes on.
          server.reached = ({ from, what }) => {
            if (from !== seat.process.name || !/^(PUT|POST) 200/.test(what)) return;
            seat.process.pause();
            delete server.reached;
          };
          await pass(step.ms);
          delete server.reached;
          seat.network = { ...HEALTHY, ...(step.lost && { lost: step.lost }) };
          seat.process.resume(step.first);
          break;
        }
        case 'kill':
          seat.process.kill();
          break;
        case 'release':
          seat.process.run(() => void seat.election.release());
          seats[step.who] = start(step.who, seat.network);
          break;
        case 'annotate':
          if (server.lease())
            server.edit(({ metadata, ...lease }) => ({
              ...lease,
              metadata: { ...metadata, annotations: { at: String(world.now()) } },
            }));
          break;
      }
    }
    // All is well again: soon one of them leads, and goes on.
    for (const { process } of candidates) process.resume();
    for (const candidate of candidates) candidate.network = HEALTHY;
    for (let round = 0; round < 4; round += 1) {
      await pass(10 * SECOND);
      replaceEnded();
    }
    const [leader] = leaders();
    expect(leader).toBeDefined();
    await pass(30 * SECOND);
    expect(leaders()).toEqual([leader]);
  }

  it('never two of them lead at one moment, and one does when all is well', async () => {
    await fc.assert(
      fc.asyncProperty(clocks, steps, play).beforeEach(async () => {
        await tearDown();
        setUp();
      }),
      { numRuns: 60 },
    );
  }, 60_000);
});
