/** The cluster around the operator does what clusters do: namespaces end, servers start anew, clocks jump. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, inject, it, type TestContext, vi } from 'vitest';
import { PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { KubeObject, ResourceType } from '../../src/api/meta.ts';
import { CHILD_TYPES, PODS, SERVICES } from '../../src/connector/children.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { isNotFound } from '../../src/kube/errors.ts';
import type { Operator } from '../../src/main.ts';
import { type ControlPlane, startControlPlane } from '../cluster/cluster.ts';
import { until as untilAsked } from '../cluster/process.ts';
import { type Audited, operatorRequests } from '../support/audit.ts';
import { installCrd } from '../support/control-plane.setup.ts';
import { CRDS, createSandbox, EVENTS, NAMESPACES, type Sandbox, until } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { closedPort, startMcp, startStatic, type TestServer } from '../support/servers.ts';
import { LONG, note } from './figures.ts';
import { patchObject } from './settled.ts';
import { isSettled, readiness, type Snapshot, untilAsFresh, untilCollecting, untilSnapshot } from './snapshot.ts';

/** A namespace with an operator that looks at it. */
interface Place {
  cluster: Sandbox;
  operator: Operator;
  /** Starts another operator, once the first one was stopped. */
  restart(): Promise<void>;
  server: TestServer;
  hosted(more?: Partial<PersonalConnectorSpec>): PersonalConnectorSpec;
  remote(url?: string): PersonalConnectorSpec;
  /** What the operator asked of the API server since the place is there, or since `after` requests. */
  requests(after?: number): Audited[];
}

interface PlaceOptions {
  policy?: PolicyInput;
  at?: { kubeconfig: string; auditLog: string };
}

type Context = Pick<TestContext, 'onTestFinished'>;

async function createPlace({ onTestFinished }: Context, { policy, at }: PlaceOptions = {}): Promise<Place> {
  const { kubeconfig, auditLog } = at ?? { kubeconfig: inject('kubeconfig'), auditLog: inject('auditLog') };
  const cluster = await createSandbox(kubeconfig, { 'pod-security.kubernetes.io/enforce': 'restricted' });
  const server = await startMcp();
  const start = (): Promise<Operator> =>
    runOperator(cluster, {
      catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', port: server.port } },
      addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
      ...policy,
      probe: { intervalSeconds: 0.5, perHost: 32, perHostPerSecond: 1000, ...policy?.probe },
    });
  const operators = [await start()];
  onTestFinished(async () => {
    for (const operator of operators) await operator.stop();
    await cluster.dispose();
    await server.close();
  });
  return {
    cluster,
    operator: operators[0] as Operator,
    restart: async () => void operators.push(await start()),
    server,
    hosted: more => ({ name: 'Jira', type: 'aitronos_built', connectorId: 'jira', ...more }),
    remote: (serverUrl = server.url) => ({ name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl }),
    requests: (after = 0) => operatorRequests(auditLog, cluster.namespace).slice(after),
  };
}

const namesOf = (count: number, prefix: string): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
const isGone = ({ connector, children }: Snapshot): boolean => connector === null && children.length === 0;
const isReady = (found: Snapshot): boolean => isSettled(found) && readiness(found) === 'True Ready';
const isRefused = ({ code }: Audited): boolean => code >= 400;
const told = (requests: readonly Audited[]): string[] =>
  requests.map(({ verb, resource, subresource, name, code }) => `${verb} ${resource}/${name} ${subresource} ${code}`);

/** Whether each watch of the operator broke so many times. */
async function haveAllFailed({ port }: Operator, times: number): Promise<boolean> {
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const counts = [...metrics.matchAll(/^reflector_failures_total\{.*\} (\d+)$/gm)].map(([, count]) => Number(count));
  return counts.length > 0 && counts.every(count => count >= times);
}

/** How long nothing may happen where nothing should: several rounds of whatever would turn in a circle. */
const QUIET_MS = 3_000;

/** What the operator asks of the API server in such a time, beside its watches. */
async function requestsIn(ms: number, { requests }: Place): Promise<string[]> {
  const before = requests().length;
  await sleep(ms);
  return told(requests(before).filter(({ verb }) => verb !== 'watch'));
}

/** What was in hand comes to its end, the last Event is written, and then there is peace. */
async function expectPeace(place: Place): Promise<void> {
  let requests: string[] = [];
  for (let round = 0; round < 8; round += 1) {
    requests = await requestsIn(QUIET_MS, place);
    if (requests.length === 0) return;
  }
  expect(requests).toEqual([]);
}

function row(what: string, place: Place, connectors: number, since: number): void {
  const requests = place.requests();
  note({
    table: 'Environment',
    row: {
      what,
      connectors,
      requests: requests.length,
      'of these refused': requests.filter(isRefused).length,
      'until all is right, s': Math.round((performance.now() - since) / 100) / 10,
    },
  });
}

describe.concurrent('a control plane', { timeout: 420_000 }, () => {
  const start = async ({ onTestFinished }: Context): Promise<ControlPlane> => {
    const abort = new AbortController();
    const plane = await startControlPlane({ kwok: true, signal: abort.signal });
    onTestFinished(async () => {
      await plane.stop();
      abort.abort();
    });
    await installCrd(plane.kubeconfig);
    return plane;
  };

  it('whose API server is killed and comes back serves what was changed around that moment', async context => {
    const plane = await start(context);
    const place = await createPlace(context, { at: plane });
    const { cluster, operator, hosted, remote, server } = place;
    const { signal } = cluster;
    const names = namesOf(20, 'change');
    const specs = (version: string) => (index: number) =>
      index % 2 === 0 ? hosted({ version }) : { ...remote(), version, description: version };
    const apply = (specOf: (index: number) => PersonalConnectorSpec) =>
      Promise.allSettled(names.map((name, index) => cluster.applyConnector(name, specOf(index))));
    await apply(specs('1.0.0'));
    await Promise.all(names.map(name => untilSnapshot(cluster, name, isReady)));
    // The first of these come through, the last do not.
    const changing = apply(specs('2.0.0'));
    await untilSnapshot(cluster, 'change-0', ({ connector }) => connector?.spec.version === '2.0.0');
    await plane.killApiServer();
    await changing;
    await untilAsked('every watch to have failed more than once', () => haveAllFailed(operator, 2), {
      signal,
      timeoutMs: 60_000,
    });
    const since = performance.now();
    await plane.startApiServer();
    for (const result of await apply(specs('3.0.0'))) expect(result.status).toBe('fulfilled');
    await Promise.all(
      names.map((name, index) => untilAsFresh(cluster, name, () => specs('3.0.0')(index), { timeoutMs: 120_000 })),
    );
    row('the API server is killed and starts again', place, 20, since);
    await expectPeace(place);
    expect(server.requests.length).toBeGreaterThan(0);
  });

  it('whose CRD is removed and restored loses the connectors and their children, and serves new ones', async context => {
    const plane = await start(context);
    const place = await createPlace(context, { at: plane });
    const { cluster, operator, hosted, remote, server } = place;
    const { transport, signal, namespace } = cluster;
    const names = namesOf(6, 'lost');
    const specOf = (index: number) => (index % 2 === 0 ? hosted() : remote());
    const apply = () => Promise.all(names.map((name, index) => cluster.applyConnector(name, specOf(index))));
    await Promise.all([apply(), untilCollecting(cluster, hosted())]);
    await Promise.all(names.map(name => untilSnapshot(cluster, name, isReady)));
    const lost = performance.now();
    const crd = 'personalconnectors.connectors.aitronos.com';
    await transport.call({ method: 'DELETE', path: `/apis/apiextensions.k8s.io/v1/${CRDS.plural}/${crd}`, signal });
    await until(cluster, CRDS, {}, crd, object => object === undefined);
    for (const { plural, ...type } of CHILD_TYPES) {
      const none = async () => (await cluster.list({ plural, ...type })).length === 0;
      await untilAsked(`no ${plural} in ${namespace}`, none, { signal, timeoutMs: 180_000 });
    }
    const collected = Math.round((performance.now() - lost) / 100) / 10;
    // What no longer is, is not probed: ten intervals.
    const probed = server.requests.length;
    await sleep(5_000);
    expect(server.requests.length).toBe(probed);
    expect((await fetch(`http://127.0.0.1:${operator.port}/healthz`)).status).toBe(200);

    const since = performance.now();
    await installCrd(plane.kubeconfig);
    const served = () =>
      apply().catch(error => {
        if (!isNotFound(error)) throw error;
      });
    await untilAsked('the API server to take connectors', served, { signal, timeoutMs: 60_000 });
    await Promise.all(
      names.map((name, index) => untilAsFresh(cluster, name, () => specOf(index), { timeoutMs: 120_000 })),
    );
    row(`the CRD is removed (children gone after ${collected} s) and restored`, place, 6, since);
  });
});

describe.concurrent('a namespace that is deleted', () => {
  const remove = async ({ transport, namespace, signal }: Sandbox): Promise<void> => {
    await transport.call({ method: 'DELETE', path: `/api/v1/namespaces/${namespace}`, signal });
  };
  const gone = (cluster: Sandbox): Promise<KubeObject> =>
    until(cluster, NAMESPACES, {}, cluster.namespace, namespace => namespace === undefined);

  it('is gone soon though its connectors are being reconciled, and nobody runs against the wall', async context => {
    const place = await createPlace(context);
    const { cluster, hosted, remote, requests } = place;
    const [early, late] = [namesOf(10, 'early'), namesOf(10, 'late')];
    const apply = (names: string[]) =>
      Promise.all(names.map((name, index) => cluster.applyConnector(name, index % 5 === 0 ? remote() : hosted())));
    await apply(early);
    await Promise.all(early.map(name => untilSnapshot(cluster, name, isReady)));
    const since = performance.now();
    await apply(late);
    await remove(cluster);
    await gone(cluster);
    row('a namespace is deleted in mid-reconcile', place, 20, since);
    await expectPeace(place);
    const refused = requests().filter(isRefused);
    expect(refused.length, told(refused).join('\n')).toBeLessThanOrEqual(20 * 4);
  });

  it('is gone as soon with the operator stopped: nothing waits for it', async context => {
    const place = await createPlace(context);
    const { cluster, hosted, operator } = place;
    const names = namesOf(5, 'left');
    await Promise.all(names.map(name => cluster.applyConnector(name, hosted())));
    await Promise.all(names.map(name => untilSnapshot(cluster, name, isReady)));
    await operator.stop();
    const since = performance.now();
    await remove(cluster);
    await gone(cluster);
    row('a namespace is deleted while the operator is stopped', place, 5, since);
  });
});

describe.concurrent('children that somebody holds by a finalizer', () => {
  const hold = async ({ cluster }: Place, finalizers: string[] | null): Promise<void> => {
    // One Pod has no budget.
    for (const type of CHILD_TYPES.filter(({ kind }) => kind !== 'PodDisruptionBudget'))
      await patchObject(cluster, type, 'held', { metadata: { finalizers } });
  };
  const allDeleting = ({ children }: Snapshot): boolean =>
    children.length === 3 && children.every(({ deleting }) => deleting);
  const arrange = async (context: Context): Promise<Place> => {
    const place = await createPlace(context);
    await place.cluster.applyConnector('held', place.hosted());
    await untilSnapshot(place.cluster, 'held', isReady);
    await hold(place, ['example.com/hold']);
    return place;
  };

  it('are deleted once, waited for in peace, and gone at last', async context => {
    const place = await arrange(context);
    const { cluster, remote, requests } = place;
    await cluster.applyConnector('held', remote());
    await untilSnapshot(cluster, 'held', found => isReady(found) && allDeleting(found));
    await expectPeace(place);
    expect(requests().filter(({ verb }) => verb === 'delete')).toHaveLength(3);
    await hold(place, null);
    await untilAsFresh(cluster, 'held', () => remote());
  });

  it('come back when they are wanted again before they are gone', async context => {
    const place = await arrange(context);
    const { cluster, remote, hosted } = place;
    await cluster.applyConnector('held', remote());
    await untilSnapshot(cluster, 'held', found => isReady(found) && allDeleting(found));
    await cluster.applyConnector('held', hosted());
    await untilSnapshot(cluster, 'held', ({ connector }) => connector?.status?.current === true);
    await hold(place, null);
    await untilAsFresh(cluster, 'held', () => hosted());
  });

  it('keep a connector of the same name waiting, which is told, until they are gone', async context => {
    const place = await arrange(context);
    const { cluster, hosted } = place;
    await cluster.remove(PERSONAL_CONNECTORS, 'held');
    await untilSnapshot(cluster, 'held', allDeleting);
    await cluster.applyConnector('held', hosted({ version: '2.0.0' }));
    await untilSnapshot(cluster, 'held', ({ connector }) =>
      Boolean(connector?.status?.conditions.some(({ message }) => message.startsWith('waiting until the Deployment'))),
    );
    await expectPeace(place);
    await hold(place, null);
    await untilAsFresh(cluster, 'held', () => hosted({ version: '2.0.0' }));
  });
});

describe.concurrent('what happened to children while the operator was stopped is set right when it starts:', () => {
  const AWAY: { what: string; patch: object; kind: (typeof CHILD_TYPES)[number]['kind'] }[] = [
    { what: 'a Deployment without its labels', patch: { labels: null }, kind: 'Deployment' },
    { what: 'a Service without its labels', patch: { labels: null }, kind: 'Service' },
    { what: 'a Deployment without its owner', patch: { ownerReferences: null }, kind: 'Deployment' },
    { what: 'a Service without its owner', patch: { ownerReferences: null }, kind: 'Service' },
  ];
  const cases = AWAY.flatMap(away => [
    { ...away, now: 'still wanted' },
    { ...away, now: 'no longer wanted' },
  ]);

  it.for(cases)('$what, $now', async ({ patch, kind, now }, context) => {
    const place = await createPlace(context);
    const { cluster, operator, hosted, remote, restart } = place;
    await cluster.applyConnector('away', hosted());
    await untilSnapshot(cluster, 'away', isReady);
    await operator.stop();
    const type = CHILD_TYPES.find(child => child.kind === kind) as ResourceType;
    await patchObject(cluster, type, 'away', { metadata: patch });
    const spec = now === 'still wanted' ? hosted({ version: '2.0.0' }) : remote();
    await cluster.applyConnector('away', spec);
    await restart();
    await untilAsFresh(cluster, 'away', () => spec);
  });
});

it.concurrent('connectors that are deleted in mid-reconcile leave nothing behind', async context => {
  const place = await createPlace(context);
  const { cluster, hosted, requests } = place;
  const names = namesOf(30, 'brief');
  const since = performance.now();
  await Promise.all(
    names.map(async name => {
      await cluster.applyConnector(name, hosted());
      // At different points of their first reconcile.
      const child = CHILD_TYPES[Number(name.split('-')[1]) % 3]?.kind;
      await untilSnapshot(cluster, name, ({ children }) => children.some(({ kind }) => kind === child));
      await cluster.remove(PERSONAL_CONNECTORS, name);
    }),
  );
  await Promise.all(names.map(name => untilSnapshot(cluster, name, isGone)));
  row('connectors are deleted in mid-reconcile', place, 30, since);
  await expectPeace(place);
  const refused = requests().filter(isRefused);
  expect(refused.length, told(refused).join('\n')).toBeLessThanOrEqual(30 * 2);
});

it.concurrent('Events that are lost are not missed, and the next are written', async context => {
  const place = await createPlace(context);
  const { cluster, remote } = place;
  const { namespace, transport, signal } = cluster;
  await cluster.applyConnector('noted', remote());
  await cluster.until(PERSONAL_CONNECTORS, 'noted', () => true);
  await untilSnapshot(cluster, 'noted', isReady);
  await transport.call({ method: 'DELETE', path: `/apis/events.k8s.io/v1/namespaces/${namespace}/events`, signal });
  await expectPeace(place);
  await cluster.applyConnector('noted', remote(`http://127.0.0.1:${await closedPort()}/mcp`));
  await untilSnapshot(cluster, 'noted', found => readiness(found) === 'False ConnectionRefused');
  const isTold = async (): Promise<boolean> => {
    const events = await cluster.list<KubeObject & { reason?: string }>(EVENTS);
    return events.some(({ reason }) => reason === 'ConnectionRefused');
  };
  await untilAsked('the Event', isTold, { signal, timeoutMs: 10_000 });
});

it.concurrent('once all is settled, nothing of ours is ever written again while probes go on', {
  timeout: 300_000,
}, async context => {
  const windowMs = LONG ? 120_000 : 20_000;
  const intervalSeconds = 5;
  const place = await createPlace(context, { policy: { probe: { intervalSeconds } } });
  const { cluster, server, hosted, remote, requests } = place;
  const others = await Promise.all([
    startStatic(200, { 'content-type': 'text/html' }, '<html></html>'),
    startStatic(503, {}, ''),
    startMcp({ era: 'legacy' }),
    startMcp({ authorization: 'Bearer other' }),
  ]);
  context.onTestFinished(async () => void (await Promise.all(others.map(other => other.close()))));
  const [web, broken, legacy, guarded] = others.map(({ url }) => url);
  await cluster.apply(SERVICES, {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'taken', namespace: cluster.namespace },
    spec: { ports: [{ port: 1 }] },
  });
  const specs: Record<string, [spec: PersonalConnectorSpec, readiness: string]> = {
    hosted: [hosted(), 'True Ready'],
    scaled: [hosted({ hosting: { replicas: 2 } }), 'True Ready'],
    asleep: [hosted({ lifecycle: 'maintenance' }), 'True Maintenance'],
    conflicting: [hosted({ serverUrl: `http://taken:${server.port}/mcp` }), 'False NameConflict'],
    unknown: [hosted({ connectorId: 'nosuch' }), 'False CatalogEntryMissing'],
    remote: [remote(), 'True Ready'],
    deprecated: [{ ...remote(), lifecycle: 'deprecated', replacedBy: 'remote' }, 'True Ready'],
    paused: [{ ...remote(), lifecycle: 'maintenance' }, 'True Maintenance'],
    unprobed: [{ ...remote(), probe: { enabled: false } }, 'True ProbeDisabled'],
    legacy: [remote(legacy), 'True Ready'],
    guarded: [remote(guarded), 'True AuthorizationRequired'],
    web: [remote(web), 'False NotMCP'],
    broken: [remote(broken), 'False ServerError'],
    refused: [remote(`http://127.0.0.1:${await closedPort()}/mcp`), 'False ConnectionRefused'],
  };
  const names = Object.keys(specs);
  for (const [name, [spec]] of Object.entries(specs)) await cluster.applyConnector(name, spec);
  for (const [name, [, wanted]] of Object.entries(specs)) {
    await untilSnapshot(cluster, name, found => isSettled(found) && readiness(found) === wanted, { what: wanted });
  }
  await expectPeace(place);

  const versions = async (): Promise<Record<string, string>> => {
    const types: ResourceType[] = [PERSONAL_CONNECTORS, ...CHILD_TYPES, PODS, EVENTS];
    const found = await Promise.all(
      types.map(async ({ kind, ...type }) =>
        (await cluster.list<KubeObject>({ kind, ...type }))
          // Kubernetes' own Events of scaling and scheduling are none of ours.
          .filter(object => kind !== 'Event' || isOurs(object))
          .map(({ metadata }) => [`${kind} ${metadata.name}`, metadata.resourceVersion] as const),
      ),
    );
    return Object.fromEntries(found.flat());
  };
  const before = await versions();
  const asked = requests().length;
  const probed = server.requests.length;
  await sleep(windowMs);
  expect(await versions()).toEqual(before);
  const since = requests(asked);
  const isWrite = ({ verb, code }: Audited): boolean => !['get', 'list', 'watch'].includes(verb) && code < 300;
  expect(told(since.filter(isWrite))).toEqual([]);
  expect(server.requests.length).toBeGreaterThan(probed);
  note({
    table: 'Eventually stable',
    row: {
      connectors: names.length,
      'quiet for, s': windowMs / 1000,
      'probe interval, s': intervalSeconds,
      'requests of probes': server.requests.length - probed,
      writes: since.filter(isWrite).length,
      'looks at a taken name': since.filter(({ verb }) => verb !== 'watch').length,
    },
  });
});

// Last: while the clock is wrong, nobody else may look at it.
describe('a clock that jumps', () => {
  const HOUR_MS = 3_600_000;
  afterAll(() => void vi.useRealTimers());

  it.for([
    { way: 'forward', jump: HOUR_MS },
    { way: 'back', jump: -HOUR_MS },
  ])('an hour $way changes nothing: no write, as many probes as ever, and it lives', async ({ jump }, context) => {
    const place = await createPlace(context);
    const { cluster, operator, server, hosted, remote, requests } = place;
    await cluster.applyConnector('hosted', hosted());
    await cluster.applyConnector('remote', remote());
    await cluster.applyConnector('refused', remote(`http://127.0.0.1:${await closedPort()}/mcp`));
    for (const name of ['hosted', 'remote', 'refused']) await untilSnapshot(cluster, name, isSettled);
    await expectPeace(place);
    const windowMs = 3_000;
    const probesIn = async (ms: number): Promise<number> => {
      const before = server.requests.length;
      await sleep(ms);
      return server.requests.length - before;
    };
    const usual = await probesIn(windowMs);
    const written = requests().length;

    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + jump });
    context.onTestFinished(() => void vi.useRealTimers());
    const after = await probesIn(windowMs);
    expect(after).toBeLessThanOrEqual(usual * 2);
    // Not a single one too late, on a busy machine either.
    const known = server.requests.length;
    await expect.poll(() => server.requests.length, { timeout: 20_000 }).toBeGreaterThan(known + usual / 2);
    expect(told(requests(written).filter(({ verb }) => verb !== 'watch'))).toEqual([]);
    expect((await fetch(`http://127.0.0.1:${operator.port}/healthz`)).status).toBe(200);
    // What is changed now is served now.
    await cluster.applyConnector('remote', { ...remote(), lifecycle: 'maintenance' });
    await untilSnapshot(cluster, 'remote', found => readiness(found) === 'True Maintenance');
    await cluster.applyConnector('remote', remote());
    await untilSnapshot(cluster, 'remote', isReady);
  });
});

function isOurs(event: KubeObject & { reportingController?: string }): boolean {
  return event.reportingController === 'personal-connector-operator';
}
