/**
 * The three patterns of perturbation by which Sieve (Sun et al., OSDI '22) finds bugs in controllers, on the operator as
 * a process: it sees a state of the past, it misses states, and it dies between the writes of one change.
 */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { ANNOTATION, PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { Declared, KubeObject, OwnerReference } from '../../src/api/meta.ts';
import { CHILD_TYPES, type Child, DEPLOYMENTS, SERVICES } from '../../src/connector/children.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { messageOf } from '../cluster/process.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { startMcp, type TestServer } from '../support/servers.ts';
import { LONG, note } from './figures.ts';
import { buildOperator, type Executable, type OperatorProcess } from './process.ts';
import {
  type Call,
  compact,
  dropAfter,
  type FaultProxy,
  goBack,
  hang,
  isWatch,
  refuse,
  startProxy,
  stream,
} from './proxy.ts';
import {
  childrenOf,
  childrenWritten,
  inTurn,
  nthWrite,
  patchObject,
  untilGone,
  untilHit,
  untilSame,
  untilSettled,
  untilState,
} from './settled.ts';
import { differences, readiness, type Snapshot, snapshot } from './snapshot.ts';

const NAME = 'sieved';
const POLICY: PolicyInput = {
  catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0' } },
  addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
};
/** How many worlds there are at a time, on a machine of two cores. */
const turn = inTurn(6);
const TIMEOUT_MS = 600_000;

let server: TestServer;
let executable: Executable;
beforeAll(async () => {
  [server, executable] = await Promise.all([startMcp({ name: 'jira-mcp' }), buildOperator(inject('kubeconfig'))]);
});
afterAll(async () => {
  await executable?.[Symbol.asyncDispose]();
  await server?.close();
});

const hosted = (more: Partial<PersonalConnectorSpec> = {}): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'aitronos_built',
  connectorId: 'jira',
  serverUrl: `http://${NAME}-server:${server.port}/mcp`,
  hosting: { replicas: 1 },
  ...more,
});
const custom = (): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'custom',
  connectorId: 'jira',
  serverUrl: server.url,
});

// ── What all tests need ─────────────────────────────────────────────────────────────────────────────────────────────

interface World extends AsyncDisposable {
  cluster: Sandbox;
  proxy: FaultProxy;
  start(): Promise<OperatorProcess>;
  /** Fills the proxy's memory with all that there is now, and gives the moment for goBack. Changes nothing. */
  remember(): Promise<number>;
}

async function createWorld(): Promise<World> {
  await using cleanup = new AsyncDisposableStack();
  const cluster = cleanup.adopt(await createSandbox(inject('kubeconfig')), sandbox => sandbox.dispose());
  const proxy = cleanup.use(await startProxy(inject('kubeconfig')));
  const all = cleanup.move();
  const { namespace } = cluster;
  const start = async (): Promise<OperatorProcess> =>
    all.use(await executable.start({ kubeconfig: proxy.kubeconfig, namespace, policy: POLICY }));
  return {
    cluster,
    proxy,
    start,
    async remember() {
      const rule = proxy.rule(({ isWrite }) => isWrite, refuse(503));
      const reader = await start();
      await reader.ready;
      const moment = proxy.log.length;
      await reader.kill('SIGKILL');
      rule.end();
      return moment;
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** A test in a world of its own, noted in the table. */
function sieve(pattern: string, title: string, work: (world: World) => Promise<void>): void {
  it.concurrent(title, { timeout: TIMEOUT_MS }, () =>
    turn(async () => {
      let passed = 0;
      try {
        await using world = await createWorld();
        await work(world);
        passed = 1;
      } finally {
        note({ table: 'Sieve patterns', row: { pattern, case: title, tries: 1, passed } });
      }
    }),
  );
}

/** Applies a connector to a live operator, and waits until all is as it will stay. */
async function settle({ cluster }: World, operator: OperatorProcess, spec: PersonalConnectorSpec): Promise<Snapshot> {
  await cluster.applyConnector(NAME, spec);
  const found = await untilSettled(cluster, NAME);
  await operator.idle();
  return found;
}

async function uidOf({ cluster }: World): Promise<string> {
  return (await cluster.get(PERSONAL_CONNECTORS, NAME)).metadata.uid;
}

/** Deletes the connector, waits until nothing of it is left, and makes it anew. */
async function makeAnew(world: World, spec: PersonalConnectorSpec): Promise<void> {
  await world.cluster.remove(PERSONAL_CONNECTORS, NAME);
  await untilGone(world.cluster, NAME);
  await world.cluster.applyConnector(NAME, spec);
}

const isRead = (call: Call): boolean => call.verb === 'list' || isWatch(call);
const isChild = ({ resource }: Call): boolean => CHILD_TYPES.some(({ plural }) => plural === resource);
const isConnector = ({ resource }: Call): boolean => resource === PERSONAL_CONNECTORS.plural;

/** How often each child of the connector that lives now was made: once each is as it should be. */
async function timesMade(world: World): Promise<Record<string, number>> {
  const uid = await uidOf(world);
  const times: Record<string, number> = {};
  for (const { resource, name, status, body } of world.proxy.log) {
    const { ownerReferences } =
      (body as { metadata?: { ownerReferences?: OwnerReference[] } } | undefined)?.metadata ?? {};
    if (status !== 201 || !ownerReferences?.some(owner => owner.uid === uid)) continue;
    times[`${resource} ${name}`] = (times[`${resource} ${name}`] ?? 0) + 1;
  }
  return times;
}

const ONCE = {
  [`deployments ${NAME}`]: 1,
  [`services ${NAME}-server`]: 1,
  [`networkpolicies ${NAME}`]: 1,
};

/** UIDs of what the operator removed. */
function removed({ log }: FaultProxy): string[] {
  return log
    .filter(({ verb, status }) => verb === 'delete' && status === 200)
    .map(({ body }) => (body as { preconditions?: { uid?: string } }).preconditions?.uid ?? 'whatever it was');
}

/** What the operator did to children since the proxy had seen so many calls. */
function childWrites({ log }: FaultProxy, from: number): string[] {
  const writes = log.slice(from).filter(call => call.isWrite && isChild(call));
  return writes.map(({ verb, resource, name, status }) => `${verb} ${resource} ${name}: ${status}`);
}

async function childUids({ cluster }: World): Promise<string[]> {
  const lists = await Promise.all(CHILD_TYPES.map(type => cluster.list<KubeObject>(type)));
  return lists.flat().map(({ metadata }) => metadata.uid);
}

// ── Stale state ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the operator sees as it was, while it sees the rest as it is. */
const STALE: [string, (call: Call) => boolean][] = [
  ['everything as it was', isRead],
  ['the connector as it was', call => isRead(call) && isConnector(call)],
  ['the children as they were', call => isRead(call) && isChild(call)],
];

/** Has a new operator see the past and act on it; then its view begins to catch up. */
async function startInThePast(
  { proxy, start }: World,
  stale: (call: Call) => boolean,
  moment: number,
): Promise<OperatorProcess> {
  const rule = proxy.rule(stale, goBack(moment));
  const operator = await start();
  await operator.ready;
  await operator.idle();
  rule.end();
  // What it watches next goes on from the version that it was shown, and tells all that happened since.
  proxy.cut(stale);
  return operator;
}

describe('stale state: an operator that starts and sees the past', () => {
  const pattern = 'stale state';

  for (const [what, stale] of STALE) {
    sieve(pattern, `${what} before the connector was made anew under its name, does no harm`, async world => {
      const first = await world.start();
      const expected = await settle(world, first, hosted());
      await first.kill('SIGKILL');
      const moment = await world.remember();
      await makeAnew(world, hosted());
      const operator = await startInThePast(world, stale, moment);
      await untilSame(world.cluster, NAME, expected);
      await operator.idle();
      expect(removed(world.proxy)).toEqual([]);
      expect(await timesMade(world)).toEqual(ONCE);
    });

    sieve(
      pattern,
      `${what} when the connector of another UID had no use for its children, keeps those that are there now`,
      async world => {
        const first = await world.start();
        const expected = await settle(world, first, hosted());
        await first.kill('SIGKILL');
        // The connector of the past wants no children, and has some that are called as those of the present are.
        await world.cluster.applyConnector(NAME, custom());
        const moment = await world.remember();
        await makeAnew(world, hosted());
        const second = await world.start();
        await untilSame(world.cluster, NAME, expected);
        await second.idle();
        await second.kill('SIGKILL');
        const living = await childUids(world);
        const operator = await startInThePast(world, stale, moment);
        await untilSame(world.cluster, NAME, expected);
        await operator.idle();
        expect(await childUids(world)).toEqual(living);
        expect(removed(world.proxy).filter(uid => living.includes(uid))).toEqual([]);
        expect(await timesMade(world)).toEqual(ONCE);
      },
    );

    sieve(
      pattern,
      `${what}, while children of the deleted connector are still terminating, waits for their end`,
      async world => {
        const first = await world.start();
        const expected = await settle(world, first, hosted());
        const held = [
          [DEPLOYMENTS, NAME],
          [SERVICES, `${NAME}-server`],
        ] as const;
        for (const [type, name] of held) {
          await patchObject(world.cluster, type, name, { metadata: { finalizers: ['example.com/hold'] } });
        }
        await first.idle();
        await first.kill('SIGKILL');
        const moment = await world.remember();
        await world.cluster.remove(PERSONAL_CONNECTORS, NAME);
        for (const [type, name] of held) {
          await world.cluster.until<Child>(type, name, child => child?.metadata.deletionTimestamp !== undefined);
        }
        await world.cluster.applyConnector(NAME, hosted());
        const operator = await startInThePast(world, stale, moment);
        await untilState(
          world.cluster,
          NAME,
          'the wait for the children that end',
          ({ connector }) =>
            connector?.status?.conditions.some(({ message }) =>
              /waiting until the Deployment .* is gone/.test(message),
            ) ?? false,
        );
        expect(removed(world.proxy)).toEqual([]);
        for (const [type, name] of held)
          await patchObject(world.cluster, type, name, { metadata: { finalizers: null } });
        await untilSame(world.cluster, NAME, expected);
        await operator.idle();
        expect(await timesMade(world)).toEqual(ONCE);
      },
    );
  }

  sieve(
    pattern,
    'everything as it was before the connector was made anew, told by lists for want of WatchList, does no harm',
    async world => {
      const { cluster, proxy } = world;
      proxy.rule(({ verb }) => verb === 'watch-list', refuse(422));
      const first = await world.start();
      const expected = await settle(world, first, hosted());
      await first.kill('SIGKILL');
      const moment = await world.remember();
      await makeAnew(world, hosted());
      // Else it would catch up at once.
      const blinded = proxy.rule(({ verb }) => verb === 'watch', hang);
      const operator = await startInThePast(world, ({ verb }) => verb === 'list', moment);
      await untilHit(blinded);
      blinded.end();
      proxy.cut(isWatch);
      await untilSame(cluster, NAME, expected);
      await operator.idle();
      expect(removed(proxy)).toEqual([]);
      expect(await timesMade(world)).toEqual(ONCE);
    },
  );

  sieve(
    pattern,
    'everything as it was before there were children, makes none anew and takes none over',
    async world => {
      const { cluster, proxy } = world;
      await cluster.applyConnector(NAME, hosted());
      const moment = await world.remember();
      const first = await world.start();
      const expected = await untilSettled(cluster, NAME);
      await makeAnew(world, hosted());
      await untilSame(cluster, NAME, expected);
      await first.idle();
      await first.kill('SIGKILL');
      const from = proxy.log.length;
      const operator = await startInThePast(world, isRead, moment);
      await untilSame(cluster, NAME, expected);
      await operator.idle();
      // It asks for children that must not exist, and is refused.
      expect(childWrites(proxy, from).filter(write => !write.endsWith(': 409'))).toEqual([]);
      expect(await timesMade(world)).toEqual(ONCE);
    },
  );
});

/** Has an operator that lives read all anew, and shows it the past at first; then its view begins to catch up. */
async function fallBack({ proxy }: World, operator: OperatorProcess, moment: number): Promise<void> {
  // Whoever answers first is behind; who is asked once more is not.
  const told = [PERSONAL_CONNECTORS, ...CHILD_TYPES].flatMap(({ plural }) => [
    proxy.rule(call => isRead(call) && call.resource === plural, goBack(moment), 1),
    proxy.rule(call => call.verb === 'watch' && call.resource === plural, refuse(410), 1),
  ]);
  proxy.cut(call => isWatch(call) && (isConnector(call) || isChild(call)));
  await untilHit(...told);
  await operator.idle();
  proxy.cut(isWatch);
}

describe('stale state: an operator that lives, and after a 410 reads all anew', () => {
  const pattern = 'stale state';

  sieve(pattern, 'at first as it was before the connector was made anew under its name, does no harm', async world => {
    const operator = await world.start();
    const expected = await settle(world, operator, hosted());
    const moment = await world.remember();
    await makeAnew(world, hosted());
    await untilSame(world.cluster, NAME, expected);
    await operator.idle();
    const living = await childUids(world);
    await fallBack(world, operator, moment);
    await untilSame(world.cluster, NAME, expected);
    await operator.idle();
    expect(await childUids(world)).toEqual(living);
    expect(removed(world.proxy)).toEqual([]);
    expect(await timesMade(world)).toEqual(ONCE);
  });

  // An API server that answers consistent reads as it must never tells this; one that does is believed (docs/adr/0007).
  // What it is believed for a moment may undo the change, but not cost a child its life.
  sieve(
    pattern,
    'at first as it was before the last change of the spec, comes back to that change with the same children',
    async world => {
      const operator = await world.start();
      await settle(world, operator, hosted());
      const moment = await world.remember();
      const expected = await settle(world, operator, hosted({ version: '2.0.0' }));
      const living = await childUids(world);
      const from = world.proxy.log.length;
      await fallBack(world, operator, moment);
      await untilSame(world.cluster, NAME, expected);
      await operator.idle();
      expect(await childUids(world)).toEqual(living);
      expect(childWrites(world.proxy, from).filter(write => !/^patch .*: 200$/.test(write))).toEqual([]);
      expect(await timesMade(world)).toEqual(ONCE);
    },
  );
});

// ── Unobserved states ───────────────────────────────────────────────────────────────────────────────────────────────

/** From now on the operator sees nothing of these. What it gives lets it see what is left of all that happened. */
function blind({ proxy }: World, what: (call: Call) => boolean): () => Promise<void> {
  const affected = (call: Call): boolean => isWatch(call) && what(call);
  const refused = proxy.rule(affected, refuse(503));
  const watches = proxy.cut(affected);
  return async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    let shown = 0;
    const onShown = (): void => {
      shown += 1;
      if (shown === watches) resolve();
    };
    proxy.rule(affected, stream(compact(300, onShown)), watches);
    refused.end();
    await promise;
  };
}

describe('unobserved states: an operator that misses what happened in between', () => {
  const pattern = 'unobserved states';

  const orders: [string, ((call: Call) => boolean)[]][] = [
    ['all at once', [call => isConnector(call) || isChild(call)]],
    ['the connector first, and its children later', [isConnector, isChild]],
    ['the end of the children first, and the connector later', [isChild, isConnector]],
  ];
  for (const [order, parts] of orders) {
    sieve(pattern, `sees a connector that was made anew as one that changed its UID: ${order}`, async world => {
      const operator = await world.start();
      const expected = await settle(world, operator, hosted());
      const blinds = parts.map(part => blind(world, part));
      await makeAnew(world, hosted({ version: '2.0.0' }));
      await world.cluster.applyConnector(NAME, hosted());
      for (const see of blinds) {
        await see();
        await operator.idle();
      }
      await untilSame(world.cluster, NAME, expected);
      await operator.idle();
      expect(removed(world.proxy)).toEqual([]);
      expect(await timesMade(world)).toEqual(ONCE);
    });
  }

  sieve(
    pattern,
    'sees a spec that changed there and back as one that did not change, and writes no child',
    async world => {
      const operator = await world.start();
      const expected = await settle(world, operator, hosted());
      const from = world.proxy.log.length;
      const see = blind(world, isConnector);
      await world.cluster.applyConnector(NAME, hosted({ version: '2.0.0', serverUrl: `http://${NAME}-other:80/mcp` }));
      await world.cluster.applyConnector(NAME, hosted());
      await see();
      await untilSame(world.cluster, NAME, expected);
      await operator.idle();
      expect(childWrites(world.proxy, from)).toEqual([]);
    },
  );

  sieve(
    pattern,
    'misses that somebody put another object in the place of a child, and leaves that alone',
    async world => {
      const operator = await world.start();
      await settle(world, operator, hosted());
      const see = blind(world, isChild);
      await world.cluster.remove(SERVICES, `${NAME}-server`);
      const foreign = await world.cluster.apply<Child>(SERVICES, {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: `${NAME}-server`, namespace: world.cluster.namespace },
        spec: { ports: [{ port: 1234 }] },
      } as Declared & Record<string, unknown>);
      await see();
      await untilState(world.cluster, NAME, 'a conflict', found => readiness(found) === 'False NameConflict');
      await operator.idle();
      const { metadata } = await world.cluster.get<Child>(SERVICES, `${NAME}-server`);
      expect(metadata).toMatchObject({ uid: foreign.metadata.uid, resourceVersion: foreign.metadata.resourceVersion });
    },
  );

  sieve(pattern, 'misses that somebody restored a child from a backup, and takes it back as it is', async world => {
    const operator = await world.start();
    const expected = await settle(world, operator, hosted());
    const { metadata, spec } = await world.cluster.get<Child>(SERVICES, `${NAME}-server`);
    const see = blind(world, isChild);
    await world.cluster.remove(SERVICES, `${NAME}-server`);
    const { name, namespace, labels, annotations } = metadata;
    const { clusterIP: _, clusterIPs: __, ...rest } = spec as Record<string, unknown>;
    const restored = await world.cluster.apply<Child>(SERVICES, {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name, namespace, labels, annotations: { [ANNOTATION.applied]: annotations?.[ANNOTATION.applied] } },
      spec: rest,
    } as Declared & Record<string, unknown>);
    await see();
    await untilSame(world.cluster, NAME, expected);
    await operator.idle();
    expect((await world.cluster.get<Child>(SERVICES, name)).metadata.uid).toBe(restored.metadata.uid);
    expect(removed(world.proxy)).toEqual([]);
  });
});

// ── Intermediate states ─────────────────────────────────────────────────────────────────────────────────────────────

describe('intermediate states: an operator that died between the writes of one change, while the spec changed again', () => {
  const pattern = 'intermediate states';
  const moved = (): PersonalConnectorSpec =>
    hosted({ version: '2.0.0', serverUrl: `http://${NAME}-moved:${server.port}/mcp` });
  /** The change that it dies in, what is wanted by the time it starts again, and the Service that there is in the end. */
  const cases: [string, () => PersonalConnectorSpec, () => PersonalConnectorSpec, string | undefined][] = [
    [
      'a move to another Service, and on to a third',
      moved,
      () => hosted({ serverUrl: `http://${NAME}-third:${server.port}/mcp` }),
      'third',
    ],
    ['a move to another Service, and back', moved, hosted, 'server'],
    ['a move to another Service, and to somebody else who hosts it', moved, custom, undefined],
    ['a switch to somebody else who hosts it, and back', custom, hosted, 'server'],
  ];

  it.concurrent.each(cases)('%s', { timeout: TIMEOUT_MS }, async (title, during, then, service) => {
    const expected = await turn(() => undisturbed(then()));
    expect(childrenOf(expected)).toEqual(
      service === undefined ? [] : ['Deployment <name>', 'NetworkPolicy <name>', `Service <name>-${service}`],
    );
    const failures: string[] = [];
    let tries = 0;
    /** Gives whether there was such a write. */
    const attempt = (write: number): Promise<boolean> =>
      turn(async () => {
        try {
          const reached = await disturbed(write, during(), then(), expected);
          if (reached) tries += 1;
          return reached;
        } catch (error) {
          tries += 1;
          failures.push(`killed after write ${write}: ${messageOf(error)}`);
          return false;
        }
      });
    // Four at a time, until there is no such write any more; the first four are those to the children.
    for (let write = 1; ; write += 4) {
      const reached = await Promise.all([0, 1, 2, 3].map(more => attempt(write + more)));
      if (reached.includes(false) || !LONG) break;
    }
    expect(tries).toBeGreaterThanOrEqual(4);
    note({ table: 'Sieve patterns', row: { pattern, case: title, tries, passed: tries - failures.length } });
    expect(failures).toEqual([]);
  });

  /** What the end is like when the spec changes once and the operator lives on. */
  async function undisturbed(spec: PersonalConnectorSpec): Promise<Snapshot> {
    await using world = await createWorld();
    const operator = await world.start();
    await settle(world, operator, hosted());
    return await settle(world, operator, spec);
  }

  async function disturbed(
    write: number,
    during: PersonalConnectorSpec,
    then: PersonalConnectorSpec,
    expected: Snapshot,
  ): Promise<boolean> {
    await using world = await createWorld();
    const { cluster, proxy } = world;
    const operator = await world.start();
    await settle(world, operator, hosted());
    const rule = proxy.rule(
      nthWrite(write),
      dropAfter(() => operator.kill('SIGKILL')),
      1,
    );
    await cluster.applyConnector(NAME, during);
    const ended = untilSettled(cluster, NAME)
      .then(() => operator.idle())
      .then(() => operator.terminate());
    // What waits for an operator that is killed meanwhile fails.
    await Promise.race([ended.catch(() => {}), operator.exited]);
    await (rule.hits.length > 0 ? operator.exited : ended);
    await cluster.applyConnector(NAME, then);
    const next = await world.start();
    await untilSame(cluster, NAME, expected);
    await next.idle();
    expect((await next.terminate()).code).toBe(0);
    const found = await snapshot(cluster, NAME);
    expect(differences(found, expected)).toEqual([]);
    const { created, deleted } = childrenWritten(cluster, inject('auditLog'));
    // Nothing was made for nothing, and nothing is left over.
    expect(created - deleted).toBe(found.children.length);
    return rule.hits.length > 0;
  }
});
