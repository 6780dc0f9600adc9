/**
 * What connectors cost the API server, by its own audit log. Counts and no times: they are the same on any machine, however
 * busy it is.
 */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import { CHILD_TYPES, PODS } from '../../src/connector/children.ts';
import { until as untilAsked } from '../cluster/process.ts';
import { type Audited, operatorRequests } from '../support/audit.ts';
import { createSandbox, readyOf, type Sandbox, watchObjects } from '../support/kube.ts';
import { startMcp, type TestServer } from '../support/servers.ts';
import { buildOperator, type Executable, type OperatorProcess } from './process.ts';
import { type FaultProxy, isWatch, startProxy } from './proxy.ts';
import { inTurn, patchObject } from './settled.ts';

const EACH = 50;
/** Probes of each connector that are waited for where nothing must come of them. */
const PROBES = 3;
const VERSION = '1.0.0';
const WATCHED = [...CHILD_TYPES, PODS, PERSONAL_CONNECTORS].map(({ plural }) => plural);

const KINDS = {
  unprobed: name => ({ serverUrl: `https://${name}.example.com/mcp`, probe: { enabled: false } }),
  remote: name => ({ serverUrl: `${server.url}/${name}` }),
  hosted: () => ({ type: 'aitronos_built', connectorId: 'jira' }),
} satisfies Record<string, (name: string) => Partial<PersonalConnectorSpec>>;
type Kind = keyof typeof KINDS;
const kinds = Object.keys(KINDS) as Kind[];
const connectors = kinds.flatMap(kind =>
  Array.from({ length: EACH }, (_, index) => ({ kind, name: `${kind}-${index}` })),
);
const fromTheStart = WATCHED.map(plural => `${plural} from the start`);

type Counts = Partial<Record<Kind, Record<string, number | { atMost: number }>>>;
const STATUS = 'patch personalconnectors/status';
const EVENT = 'create events';
/** Requests for one connector. */
const EXPECTED = {
  created: {
    // What is true at once.
    unprobed: { [STATUS]: 1 },
    // That the first probe is on its way, and what it found.
    remote: { [STATUS]: 2, [EVENT]: 1 },
    hosted: {
      'patch deployments': 1,
      'patch services': 1,
      'patch networkpolicies': 1,
      // That it is being made, that it is there and probed, and what the probe found. Where the Pod, or the probe, is quicker
      // than the status before it, two are one.
      [STATUS]: { atMost: 3 },
      [EVENT]: 1,
    },
  },
  // That this generation was seen: nothing else of it changed.
  edited: { unprobed: { [STATUS]: 1 }, remote: { [STATUS]: 1 }, hosted: { [STATUS]: 1 } },
  nothing: {},
} satisfies Record<string, Counts>;

let cluster: Sandbox;
let server: TestServer;
let executable: Executable;
let proxy: FaultProxy;
let operator: OperatorProcess;
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  server = await startMcp({ version: VERSION });
  executable = await buildOperator(inject('kubeconfig'));
  proxy = await startProxy(inject('kubeconfig'));
  operator = await start();
});
afterAll(async () => {
  await executable?.[Symbol.asyncDispose]();
  await proxy?.close();
  await cluster?.dispose();
  await server?.close();
});

async function start(): Promise<OperatorProcess> {
  const started = await executable.start({
    kubeconfig: proxy.kubeconfig,
    namespace: cluster.namespace,
    policy: {
      catalog: { jira: { image: 'example.com/jira', defaultVersion: VERSION, port: server.port } },
      addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
      probe: { intervalSeconds: 2, perHost: 32, perHostPerSecond: 1000 },
    },
  });
  await started.ready;
  return started;
}

const asked = (): Audited[] => operatorRequests(inject('auditLog'), cluster.namespace);
/** Requests that were counted already: nothing is left out from one count to the next. */
let counted = 0;
/** What was asked for connectors of each kind, from one request to another one. */
function countsOf(from: number, to: number): Record<string, Record<string, number>> {
  const counts: Record<string, Record<string, number>> = {};
  for (const { verb, resource, subresource, name = '' } of asked().slice(from, to)) {
    // A watch is told of when it ends.
    if (verb === 'watch') continue;
    const what = `${verb} ${resource}${subresource ? `/${subresource}` : ''}`;
    const kind = name.split('-')[0] ?? '';
    counts[kind] = { ...counts[kind], [what]: (counts[kind]?.[what] ?? 0) + 1 };
  }
  return counts;
}

/** All that was asked since this was called the last time is what is expected, for each connector of each kind. */
async function expectCounts(expected: Counts): Promise<void> {
  await operator.idle();
  const wanted = Object.fromEntries(
    Object.entries(expected).map(([kind, counts]) => [
      kind,
      Object.fromEntries(
        Object.entries(counts).map(([what, count]) => [
          what,
          typeof count === 'number' ? count * EACH : expect.toSatisfy((found: number) => found <= count.atMost * EACH),
        ]),
      ),
    ]),
  );
  const from = counted;
  // Events come after the statuses that they tell of. What comes later still is counted the next time.
  await expect
    .poll(
      () => {
        counted = asked().length;
        return countsOf(from, counted);
      },
      { timeout: 20_000 },
    )
    .toEqual(wanted);
}

/** Waits until each connector's status speaks of this generation, and it is Ready. */
async function untilAllReady(generation: number, which = connectors): Promise<void> {
  const all = Promise.withResolvers<void>();
  const names = new Set(which.map(({ name }) => name));
  const view = watchObjects<PersonalConnector>(
    cluster,
    PERSONAL_CONNECTORS,
    { namespace: cluster.namespace },
    objects => {
      const isDone = (connector: PersonalConnector): boolean =>
        names.has(connector.metadata.name) &&
        connector.status?.observedGeneration === generation &&
        readyOf(connector)?.status === 'True';
      if (objects.filter(isDone).length === which.length) all.resolve();
    },
  );
  await all.promise;
  await view.stop();
}

/** Waits until each connector that is probed was probed so many times more. */
async function untilProbed(times: number): Promise<void> {
  const from = server.requests.length;
  const look = async (): Promise<boolean> => {
    const probes = new Map<string, number>();
    for (const { path, headers } of server.requests.slice(from)) {
      if (headers['mcp-method'] !== 'tools/list') continue;
      const target = `${headers.host}${path}`;
      probes.set(target, (probes.get(target) ?? 0) + 1);
    }
    return probes.size === 2 * EACH && [...probes.values()].every(count => count >= times);
  };
  await untilAsked('each connector to be probed', look, { signal: cluster.signal, timeoutMs: 120_000 });
}

async function edit(which: readonly { name: string }[], description: string): Promise<void> {
  const turns = inTurn(8);
  await Promise.all(
    which.map(({ name }) => turns(() => patchObject(cluster, PERSONAL_CONNECTORS, name, { spec: { description } }))),
  );
}

/**
 * The watches that have ended since so many requests, in words. How often that of connectors went on is left out: the API
 * server makes the storage of a young CRD anew, and refuses and ends watches with it.
 */
function watches(from: number): string[] {
  return asked()
    .slice(from)
    .filter(({ verb, code }) => verb === 'watch' && code === 200)
    .map(({ resource, uri }) => `${resource} ${uri.includes('sendInitialEvents=true') ? 'from the start' : 'going on'}`)
    .filter(what => what !== `${PERSONAL_CONNECTORS.plural} going on`)
    .sort();
}

describe('connectors cost the API server', () => {
  it('what their creation needs', async () => {
    const turns = inTurn(8);
    const spec = ({ kind, name }: (typeof connectors)[number]): PersonalConnectorSpec => ({
      name,
      type: 'custom',
      connectorId: 'custom_mcp',
      ...(KINDS[kind](name) as Partial<PersonalConnectorSpec>),
    });
    await Promise.all(connectors.map(one => turns(() => cluster.applyConnector(one.name, spec(one)))));
    await untilAllReady(1);
    await expectCounts(EXPECTED.created);
  });

  it('nothing while they are probed and are what they were', async () => {
    await untilProbed(PROBES);
    await expectCounts(EXPECTED.nothing);
  });

  it('one status when what does not matter to a server is edited', async () => {
    await edit(connectors, 'edited');
    await untilAllReady(2);
    await expectCounts(EXPECTED.edited);
  });

  it('nothing but a watch of each resource when the server ends all watches', async () => {
    const before = proxy.log.length;
    proxy.cut(isWatch);
    const again = (): string[] => [
      ...new Set(proxy.log.slice(before).map(({ verb, resource }) => `${verb} ${resource}`)),
    ];
    await expect
      .poll(() => again().sort(), { timeout: 20_000 })
      .toEqual(WATCHED.map(plural => `watch ${plural}`).sort());
    await untilProbed(PROBES);
    await expectCounts(EXPECTED.nothing);
  });

  it('no more after that than before', async () => {
    await edit(connectors, 'again');
    await untilAllReady(3);
    await expectCounts(EXPECTED.edited);
  });

  it('a watch of each resource in the whole life of an operator, and one for each that ended', async () => {
    await operator.terminate();
    const others = WATCHED.filter(plural => plural !== PERSONAL_CONNECTORS.plural);
    await expect
      .poll(() => watches(0), { timeout: 20_000 })
      .toEqual([...fromTheStart, ...others.map(plural => `${plural} going on`)].sort());
  });

  it('nothing but a watch of each resource when the operator starts again', async () => {
    const before = asked().length;
    operator = await start();
    await untilProbed(PROBES);
    await expectCounts(EXPECTED.nothing);
    await operator.terminate();
    await expect.poll(() => watches(before), { timeout: 20_000 }).toEqual(fromTheStart.toSorted());
    expect(countsOf(counted, asked().length)).toEqual({});
  });
});
