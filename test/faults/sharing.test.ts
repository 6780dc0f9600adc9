/** Operators that share the work: each connector is one's own, however they come and go; never do two write for one. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { until as untilTrue } from '../cluster/process.ts';
import { createSandbox, type Sandbox, watchObjects } from '../support/kube.ts';
import { isTold, keepChanging, plain } from './changes.ts';
import { note } from './figures.ts';
import { buildOperator, type Executable, type OperatorProcess } from './process.ts';
import { type FaultProxy, startProxy } from './proxy.ts';

const LEASE = 'the-lease';
const CONNECTORS = 60;

let executable: Executable;
beforeAll(async () => {
  executable = await buildOperator(inject('kubeconfig'));
});
afterAll(() => executable?.[Symbol.asyncDispose]());

/** A write for a connector, as it came out of the network. */
interface Write {
  connector: string;
  from: string;
  at: number;
  /** When the API server had done it. */
  until: number;
}

interface Member extends OperatorProcess {
  name: string;
  writes(): Write[];
  /** How many connectors are its own. */
  owned(): Promise<number>;
}

interface Group extends AsyncDisposable {
  cluster: Sandbox;
  /** Starts one more; `share` 0 is one that leads, or stands by to. */
  start(name: string, share: number): Promise<Member>;
  /** What all that were ever started have written, in order. */
  writes(): Write[];
}

async function createGroup(): Promise<Group> {
  const cluster = await createSandbox(inject('kubeconfig'));
  const members: Member[] = [];
  const proxies: FaultProxy[] = [];
  return {
    cluster,
    async start(name, share) {
      const proxy = await startProxy(inject('kubeconfig'));
      proxies.push(proxy);
      const operator = await executable.start({
        kubeconfig: proxy.kubeconfig,
        namespace: cluster.namespace,
        args: ['--lease', LEASE, '--lease-namespace', cluster.namespace, '--share', String(share)],
        env: { POD_NAME: name },
      });
      const member: Member = Object.assign(operator, {
        name,
        writes: () =>
          proxy.log
            .filter(
              ({ isWrite, resource, forwarded }) => isWrite && forwarded && resource === PERSONAL_CONNECTORS.plural,
            )
            .map(({ name: connector = '', at, answeredAt = at }) => ({ connector, from: name, at, until: answeredAt })),
        owned: async () => (await operator.metrics()).get('personal_connectors_owned') ?? Number.NaN,
      });
      members.push(member);
      return member;
    },
    writes: () => members.flatMap(member => member.writes()).sort((one, other) => one.at - other.at),
    async [Symbol.asyncDispose]() {
      await Promise.all(members.map(member => member[Symbol.asyncDispose]()));
      await Promise.all(proxies.map(proxy => proxy.close()));
      await cluster.dispose();
    },
  };
}

/** So many that share, each at work. */
async function startAll(group: Group, names: string[], share = names.length): Promise<Member[]> {
  const members = await Promise.all(names.map(name => group.start(name, share)));
  await Promise.all(members.map(({ ready }) => ready));
  return members;
}

/** Changes all connectors once, and waits until the status of each one tells of it; gives how long that took, in ms. */
async function changeAll(cluster: Sandbox, version: string): Promise<number> {
  const start = performance.now();
  await Promise.all(Array.from({ length: CONNECTORS }, (_, nth) => cluster.applyConnector(`c-${nth}`, plain(version))));
  const done = Promise.withResolvers<void>();
  const view = watchObjects<PersonalConnector>(
    cluster,
    PERSONAL_CONNECTORS,
    { namespace: cluster.namespace },
    objects => {
      if (objects.every(object => isTold(object) && object.spec.version === version)) done.resolve();
    },
  );
  await done.promise;
  await view.stop();
  return performance.now() - start;
}

/** Connector → who has written for it since a moment. */
function writersSince(group: Group, at: number): Map<string, string> {
  return new Map(group.writes().flatMap(write => (write.at > at ? [[write.connector, write.from]] : [])));
}

/** Waits until these, and no others, have all connectors between them. */
async function untilShared(group: Group, members: Member[], count = CONNECTORS): Promise<number[]> {
  let owned: number[] = [];
  const look = async (): Promise<boolean> => {
    owned = await Promise.all(members.map(member => member.owned()));
    return owned.every(each => each > 0) && owned.reduce((sum, each) => sum + each, 0) === count;
  };
  await untilTrue('the connectors to be shared out', look, {
    signal: group.cluster.signal,
    timeoutMs: 30_000,
    everyMs: 50,
  }).catch(error => {
    throw new Error(`they have ${owned} connectors of ${count}`, { cause: error });
  });
  return owned;
}

/** That never two wrote for a connector at a time, and that it went from one to another as often as it had to at most. */
function expectNeverTwo(group: Group, handOvers: number): void {
  const last = new Map<string, Write>();
  const changes = new Map<string, number>();
  for (const write of group.writes()) {
    const before = last.get(write.connector);
    last.set(write.connector, write);
    if (!before || before.from === write.from) continue;
    expect(write.at, `${write.connector}: ${write.from} wrote while ${before.from} did`).toBeGreaterThan(before.until);
    changes.set(write.connector, (changes.get(write.connector) ?? 0) + 1);
  }
  for (const [connector, count] of changes)
    expect(count, `${connector} went from one to another too often`).toBeLessThanOrEqual(handOvers);
}

const seconds = (ms: number): number => Math.round(ms / 10) / 100;

function noteTime(what: string, ms: number, aim: number): void {
  note({ table: 'Shared work', row: { what, 's until all is served': seconds(ms), 'aim, s': aim } });
}

// Each of these takes as long as a Lease lasts: they may as well wait together.
describe.concurrent('of operators that share the work', () => {
  it('each has its own part, and what one has that is killed is served within 17 s: nothing else moves', async () => {
    await using group = await createGroup();
    const { cluster } = group;
    const [killed, ...others] = (await startAll(group, ['a', 'b', 'c'])) as [Member, Member, Member];
    await changeAll(cluster, '1.0.0');
    await untilShared(group, [killed, ...others]);
    const before = writersSince(group, 0);
    expect(before.size).toBe(CONNECTORS);
    for (const member of [killed, ...others]) {
      expect([...before.values()].filter(from => from === member.name)).toHaveLength(await member.owned());
      expect((await member.metrics()).get(`leader_election_master_status{name="${LEASE}"}`)).toBe(1);
    }
    const at = performance.now();
    await killed.kill('SIGKILL');
    const took = await changeAll(cluster, '2.0.0');
    noteTime('one of three is killed', took, 17);
    expect(took).toBeLessThanOrEqual(17_000);
    const after = writersSince(group, at);
    for (const [connector, from] of before)
      if (from !== killed.name) expect([connector, after.get(connector)]).toEqual([connector, from]);
    expectNeverTwo(group, 1);
  });

  it('one that was stopped beyond its Lease writes nothing when it goes on, and ends', async () => {
    await using group = await createGroup();
    const { cluster } = group;
    const [stopped, ...others] = (await startAll(group, ['a', 'b', 'c'])) as [Member, Member, Member];
    const changes = keepChanging(cluster, CONNECTORS);
    await untilTrue('all to be busy', () => [stopped, ...others].every(member => member.writes().length > 20), {
      signal: cluster.signal,
      timeoutMs: 30_000,
    });
    await stopped.kill('SIGSTOP');
    const since = performance.now();
    await untilShared(group, others);
    await stopped.kill('SIGCONT');
    expect(await stopped.exited).toEqual({ code: 1, signal: null });
    await changes.stop();
    // What was on its way when it was stopped is not counted.
    const late = stopped.writes().filter(({ at }) => at > since + 1_000);
    note({
      table: 'Writes of a leader that lost its Lease',
      row: { how: 'one of three that share, stopped', writes: late.length },
    });
    expect(late).toEqual([]);
    expectNeverTwo(group, 1);
  });
});

describe('of operators that share the work', () => {
  it('one that ends in order hands its part to one that stands by within 3 s: nothing else moves', async () => {
    await using group = await createGroup();
    const { cluster } = group;
    const [ended, ...others] = (await startAll(group, ['a', 'b', 'c'])) as [Member, Member, Member];
    const standby = await group.start('d', 3);
    await standby.logged('standing by');
    await changeAll(cluster, '1.0.0');
    await untilShared(group, [ended, ...others]);
    expect((await fetch(`http://127.0.0.1:${standby.port}/readyz`)).status).toBe(200);
    expect(standby.writes()).toEqual([]);
    const before = writersSince(group, 0);
    const turns = (): number => others.flatMap(({ lines }) => lines).filter(({ msg }) => msg.includes('anew')).length;
    const turnsBefore = turns();
    const at = performance.now();
    await ended.kill('SIGTERM');
    const took = await changeAll(cluster, '2.0.0');
    noteTime('one of three ends in order, and a fourth stands by', took, 3);
    expect(took).toBeLessThanOrEqual(3_000);
    const after = writersSince(group, at);
    for (const [connector, from] of before)
      expect([connector, after.get(connector)]).toEqual([connector, from === ended.name ? standby.name : from]);
    expect(turns(), 'times that the others had connectors come or go').toBe(turnsBefore);
    expectNeverTwo(group, 1);
  });

  it('there may be more of them, and fewer again, while connectors change', async () => {
    await using group = await createGroup();
    const { cluster } = group;
    const old = await startAll(group, ['a', 'b']);
    const changes = keepChanging(cluster, CONNECTORS);
    await untilShared(group, old);
    // As in a rolling update: a new one is there before an old one goes.
    const more: Member[] = [];
    for (const [nth, leaving] of [...old, undefined].entries()) {
      more.push(await group.start(`more-${nth}`, 3));
      await untilTrue('it to be ready', async () => (await fetch(`http://127.0.0.1:${more.at(-1)?.port}/readyz`)).ok, {
        signal: cluster.signal,
        timeoutMs: 10_000,
      });
      await leaving?.terminate();
    }
    await untilShared(group, more);
    const fewer = await Promise.all(['fewer-0', 'fewer-1'].map(name => group.start(name, 2)));
    for (const leaving of more) await leaving.terminate();
    await untilShared(group, fewer);
    await changes.stop();
    // Each that comes or goes may move it.
    expectNeverTwo(group, 10);
  });

  it('one that leads goes before them and after them, while connectors change', async () => {
    await using group = await createGroup();
    const { cluster } = group;
    const first = await group.start('first', 0);
    await first.ready;
    const changes = keepChanging(cluster, CONNECTORS);
    const sharing = await Promise.all(['a', 'b', 'c'].map(name => group.start(name, 3)));
    await untilTrue('the first to be busy', () => first.writes().length > 50, {
      signal: cluster.signal,
      timeoutMs: 30_000,
    });
    await untilShared(group, [first]);
    expect(sharing.flatMap(member => member.writes())).toEqual([]);
    await first.terminate();
    await untilShared(group, sharing);
    const last = await group.start('last', 0);
    await last.logged('standing by');
    for (const member of sharing) await member.terminate();
    await untilShared(group, [last]);
    await changes.stop();
    expectNeverTwo(group, 5);
  });
});
