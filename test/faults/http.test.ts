/** Every way in which HTTP can fail, on every kind of request that the operator makes: it comes to the same end, and storms nobody. */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { Declared, KubeObject } from '../../src/api/meta.ts';
import { CHILD_TYPES, PODS, SERVICES } from '../../src/connector/children.ts';
import { messageOf, until } from '../cluster/process.ts';
import { connect, createSandbox, EVENTS, type Sandbox, SECRETS } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { startMcp, type TestServer } from '../support/servers.ts';
import { LONG, note } from './figures.ts';
import {
  buffer,
  type Call,
  cutWithinLine,
  dropAfter,
  dropBefore,
  duplicate,
  expire,
  type Fault,
  type FaultProxy,
  garbage,
  hang,
  hold,
  isWatch,
  malformed,
  type Rule,
  refuse,
  type StreamFault,
  slow,
  startProxy,
  stream,
  swap,
  truncate,
} from './proxy.ts';
import { inTurn, untilHit, untilSame, untilSettled } from './settled.ts';
import type { Snapshot } from './snapshot.ts';

/** Up to two hangs of 30 s each, and back-off. */
const TIMEOUT_MS = LONG ? 1_200_000 : 400_000;
/**
 * What a machine of two cores does at a time: connectors that have a fault each, and operators of their own. More of it
 * would only wait for each other, and be late for the answers.
 */
const callsInTurn = inTurn(24);
const placesInTurn = inTurn(16);

interface HttpFault {
  title: string;
  fault: Fault;
  /** How often in a row it happens, beside once. */
  burst: number;
  /**
   * What the short run tries of it, where that is not once: the burst alone, which ends as a single failure does, or
   * nothing, since the operator treats it like a fault that is tried. The long run tries each fault once and in a burst.
   */
  short?: 'burst' | 'nothing';
  /** Faults that keep workers and connections busy have an operator of their own. */
  lane: 'quick' | 'slow' | 'hanging';
}

const quick = (title: string, fault: Fault): HttpFault => ({ title, fault, burst: 5, lane: 'quick' });

const FAULTS: HttpFault[] = [
  { ...quick('HTTP 409', refuse(409)), short: 'burst' },
  quick('HTTP 410', refuse(410)),
  { ...quick('HTTP 429', refuse(429)), short: 'nothing' },
  quick('HTTP 429 with Retry-After', refuse(429, 1)),
  { ...quick('HTTP 500', refuse(500)), short: 'nothing' },
  { ...quick('HTTP 503', refuse(503)), short: 'burst' },
  { ...quick('HTTP 504', refuse(504)), short: 'nothing' },
  { ...quick('a reset before it is sent on', dropBefore()), short: 'burst' },
  quick('a reset after it is committed', dropAfter()),
  quick('half an answer', truncate),
  quick('an answer that is no JSON', garbage),
  { title: 'a slow answer', fault: slow(3_000), burst: 5, lane: 'slow' },
  // Each lasts the 30 s that the operator waits for an answer.
  { title: 'no answer', fault: hang, burst: 2, lane: 'hanging' },
];

let server: TestServer;
/** Lets nobody in without the header of a Secret. */
let guarded: TestServer;
/**
 * What the tests of this file look at, by title. It all begins at once, before the first test: most of the time is spent
 * waiting, by us or by the operator.
 */
const runs = new Map<string, Promise<Findings>>();
const starters: (() => void)[] = [];
beforeAll(async () => {
  [server, guarded] = await Promise.all([startMcp(), startMcp({ authorization: 'Bearer sesame' })]);
  for (const start of starters) start();
});
afterAll(async () => {
  await Promise.all(runs.values());
  await Promise.all([server?.close(), guarded?.close()]);
}, TIMEOUT_MS);

/** Has something run with the others, and gives what came of it once it is asked for. */
function begin(title: string, work: () => Promise<Findings>): () => Promise<Findings> {
  starters.push(() => {
    runs.set(title, findingsOf(work));
  });
  return () => runs.get(title) ?? Promise.reject(new Error(`${title}: it was not begun`));
}

interface Place extends AsyncDisposable {
  cluster: Sandbox;
  proxy: FaultProxy;
  /** Starts an operator behind the proxy, and waits until its caches are filled. */
  startOperator(): Promise<void>;
}

async function createPlace(): Promise<Place> {
  await using cleanup = new AsyncDisposableStack();
  const cluster = cleanup.adopt(await createSandbox(inject('kubeconfig')), sandbox => sandbox.dispose());
  const proxy = cleanup.use(await startProxy(inject('kubeconfig')));
  const through = cleanup.adopt(connect(proxy.kubeconfig), api => api.close());
  const all = cleanup.move();
  return {
    cluster,
    proxy,
    async startOperator() {
      const operator = await runOperator(
        { ...cluster, kubeConfig: through.kubeConfig },
        {
          catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0' } },
          addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
          readSecrets: true,
          probe: { perHost: 32, perHostPerSecond: 1000 },
        },
      );
      // It ends before what it speaks with does.
      all.defer(() => operator.stop());
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

const hosted = (connector: string, more: Partial<PersonalConnectorSpec> = {}): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'aitronos_built',
  connectorId: 'jira',
  serverUrl: `http://${connector}-server:8000/mcp`,
  probe: { enabled: false },
  ...more,
});
const remote = (): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'custom',
  connectorId: 'jira',
  serverUrl: server.url,
});

const TOKEN = { name: 'Authorization', key: 'header' };
const authorized = (connector: string): PersonalConnectorSpec => ({
  ...remote(),
  serverUrl: guarded.url,
  probe: {
    interval: '10s',
    headers: [{ name: TOKEN.name, valueFrom: { secretKeyRef: { name: `${connector}-token`, key: TOKEN.key } } }],
  },
});

/** What came of a fault: a line for each thing that is wrong. */
type Findings = string[];

/** Kind of request → fault → how often it was withstood, of how many times. */
const results = new Map<string, Map<string, { passed: number; of: number }>>();

function count(kind: string, fault: string, passed: boolean): void {
  const row = results.get(kind) ?? new Map<string, { passed: number; of: number }>();
  results.set(kind, row);
  const cell = row.get(fault) ?? { passed: 0, of: 0 };
  row.set(fault, { passed: cell.passed + (passed ? 1 : 0), of: cell.of + 1 });
}

afterAll(() => {
  for (const [kind, row] of results) {
    const cells = FAULTS.map(({ title }) => {
      const { passed, of } = row.get(title) ?? { passed: 0, of: 0 };
      return [title, of === 0 ? '–' : `${passed}/${of}`];
    });
    note({ table: 'Faults by kind', row: { request: kind, ...Object.fromEntries(cells) } });
  }
});

/** A fault on a kind of request, so many times in a row. */
interface Case {
  kind: string;
  fault: HttpFault;
  times: number;
}

/** Silence on an open watch may be peace: it takes 150 s until it is taken for death. */
const LONG_ONLY = new Set(['watch reconnect: no answer']);

function casesOf(kind: string, mostInARow = Number.POSITIVE_INFINITY): Case[] {
  return FAULTS.flatMap(fault => {
    const once = { kind, fault, times: 1 };
    const burst = { kind, fault, times: Math.min(fault.burst, mostInARow) };
    if (LONG) return [once, burst];
    if (fault.short === 'nothing' || LONG_ONLY.has(`${kind}: ${fault.title}`)) return [];
    return [fault.short === 'burst' ? burst : once];
  });
}

function testsOf(kind: string, run: (one: Case) => Promise<Findings>, mostInARow?: number): void {
  describe(kind, { timeout: TIMEOUT_MS }, () => {
    const cases = casesOf(kind, mostInARow).map(one => ({
      fault: one.fault.title,
      times: one.times,
      findings: begin(`${kind}: ${one.fault.title}, ${one.times}`, () => run(one)),
    }));
    it.each(cases)('$fault, $times in a row', async ({ fault, findings }) => {
      const found = await findings();
      count(kind, fault, found.length === 0);
      expect(found).toEqual([]);
    });
  });
}

/** What hangs takes long and costs nothing: it waits for nobody. */
function unlessHanging<T>(turn: <R>(work: () => Promise<R>) => Promise<R>, { fault }: Case, work: () => Promise<T>) {
  return fault.lane === 'hanging' ? work() : turn(work);
}

async function findingsOf(work: () => Promise<Findings>): Promise<Findings> {
  try {
    return await work();
  } catch (error) {
    return [messageOf(error)];
  }
}

// ── Calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────

interface CallKind {
  kind: string;
  before?(cluster: Sandbox, connector: string): Promise<unknown>;
  change(cluster: Sandbox, connector: string): Promise<unknown>;
  /** Whether it is the call that goes wrong. */
  on(call: Call, connector: string): boolean;
  /** How often at most the operator makes it again soon. */
  mostInARow?: number;
  /** What a snapshot does not show. */
  check?(place: Place, connector: string, one: Case): Promise<Findings>;
}

const settled = (spec: (connector: string) => PersonalConnectorSpec) => async (cluster: Sandbox, connector: string) => {
  await cluster.applyConnector(connector, spec(connector));
  await untilSettled(cluster, connector);
};
const applied = (spec: (connector: string) => PersonalConnectorSpec) => (cluster: Sandbox, connector: string) =>
  cluster.applyConnector(connector, spec(connector));
/** The connector that a call is about. */
function aboutOf({ resource, name, body }: Call): string | undefined {
  const event = body as { regarding?: { name?: string } } | undefined;
  return resource === 'events' ? event?.regarding?.name : name?.replace(/-(server|token).*$/, '');
}

/** What is no failure of the moment: an Event that is refused like this is given up. */
const FINAL = new Set(['HTTP 409', 'HTTP 410']);

/** The tries of an Event are 30 s apart in the end, or end after as long without an answer. */
const EVENT_MS = 120_000;

const isReadyEvent = (call: Call, connector: string): boolean =>
  call.resource === 'events' &&
  aboutOf(call) === connector &&
  (call.body as { action?: string } | undefined)?.action === 'Ready';

/** The Event of a connector that became ready is there once, however often it was tried. */
async function eventOnce({ cluster, proxy }: Place, connector: string, { fault, times }: Case): Promise<Findings> {
  const isFinal = FINAL.has(fault.title);
  const wanted = isFinal || fault.lane === 'slow' ? 1 : times + 1;
  const tries = () => proxy.log.filter(call => isReadyEvent(call, connector));
  const isOver = (): boolean => tries().length >= wanted && tries().at(-1)?.status !== undefined;
  await until(`${wanted} tries of an Event`, isOver, { signal: cluster.signal, timeoutMs: EVENT_MS, everyMs: 250 });
  const events = await cluster.list<KubeObject & { action: string; regarding: { name: string } }>(EVENTS);
  const there = events.filter(({ action, regarding }) => action === 'Ready' && regarding.name === connector).length;
  const found = `${there} Events after ${tries().length} tries`;
  const right = `${isFinal ? 0 : 1} Events after ${wanted} tries`;
  return found === right ? [] : [`${found} instead of ${right}`];
}

const CALLS: CallKind[] = [
  {
    kind: 'child create',
    change: applied(hosted),
    on: ({ verb, resource, name }, connector) =>
      verb === 'patch' && resource === 'services' && name === `${connector}-server`,
  },
  {
    kind: 'child update',
    before: settled(hosted),
    change: applied(connector => hosted(connector, { version: '2.0.0' })),
    on: ({ verb, resource, name }, connector) => verb === 'patch' && resource === 'deployments' && name === connector,
  },
  {
    kind: 'child delete',
    before: settled(hosted),
    change: applied(connector => hosted(connector, { serverUrl: `http://${connector}-server-new:8000/mcp` })),
    on: ({ verb, resource, name }, connector) =>
      verb === 'delete' && resource === 'services' && name === `${connector}-server`,
  },
  {
    kind: 'status write',
    change: applied(remote),
    on: ({ resource, subresource, name }, connector) =>
      resource === PERSONAL_CONNECTORS.plural && subresource === 'status' && name === connector,
  },
  {
    kind: 'event create',
    change: applied(remote),
    on: isReadyEvent,
    mostInARow: 3,
    check: eventOnce,
  },
  {
    kind: 'get of a Secret',
    before: (cluster, connector) =>
      cluster.apply(SECRETS, {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: `${connector}-token`, namespace: cluster.namespace },
        stringData: { [TOKEN.key]: 'Bearer sesame' },
      } as Declared & Record<string, unknown>),
    change: applied(authorized),
    on: ({ verb, resource, name }, connector) =>
      verb === 'get' && resource === 'secrets' && name === `${connector}-token`,
    // It is read again with the next probe.
    mostInARow: 2,
  },
  {
    kind: 'get of a Service',
    // A Service of that name which is somebody else's: no watch of the operator's shows it.
    before: (cluster, connector) =>
      cluster.apply(SERVICES, {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: `${connector}-server`, namespace: cluster.namespace },
        spec: { ports: [{ port: 1234 }] },
      } as Declared & Record<string, unknown>),
    change: applied(hosted),
    on: ({ verb, name }, connector) => verb === 'get' && name === `${connector}-server`,
  },
];

describe('a call that fails is made again until it succeeds, with back-off:', () => {
  /** An operator for each lane, with what it makes of each kind of change when nothing fails. */
  const lanes = new Map<HttpFault['lane'], Promise<{ place: Place; calm: Map<string, Promise<Snapshot>> }>>();
  const laneOf = (lane: HttpFault['lane']) => {
    const there = lanes.get(lane);
    if (there) return there;
    const made = (async () => {
      const place = await createPlace();
      await place.startOperator();
      return { place, calm: new Map(CALLS.map(call => [call.kind, withoutFault(place, call)])) };
    })();
    lanes.set(lane, made);
    return made;
  };
  afterAll(async () => {
    for (const lane of lanes.values()) await (await lane).place[Symbol.asyncDispose]();
  });

  async function withoutFault({ cluster }: Place, { kind, before, change }: CallKind): Promise<Snapshot> {
    const connector = `calm${CALLS.findIndex(call => call.kind === kind)}`;
    await before?.(cluster, connector);
    await change(cluster, connector);
    return untilSettled(cluster, connector);
  }

  let count = 0;
  async function withFault(call: CallKind, one: Case): Promise<Findings> {
    const { fault, times } = one;
    const { place, calm } = await laneOf(fault.lane);
    const { cluster, proxy } = place;
    const end = await calm.get(call.kind);
    if (!end) throw new Error(`${call.kind}: unknown`);
    count += 1;
    const connector = `f${count}`;
    await call.before?.(cluster, connector);
    const rule = proxy.rule(candidate => call.on(candidate, connector), fault.fault, times);
    await call.change(cluster, connector);
    await untilHit(rule);
    await untilSame(cluster, connector, end);
    const found = (await call.check?.(place, connector, one)) ?? [];
    const requests = proxy.log.filter(candidate => aboutOf(candidate) === connector).length;
    rule.end();
    // The writes that there are anyhow, a look at each step of the Pods, and for each failure the writes of another try.
    const most = 20 + 4 * rule.hits.length;
    return requests > most ? [...found, `${requests} requests for ${rule.hits.length} failures`] : found;
  }

  for (const call of CALLS) {
    testsOf(call.kind, one => unlessHanging(callsInTurn, one, () => withFault(call, one)), call.mostInARow);
  }
});

// ── Reads that fill the caches ──────────────────────────────────────────────────────────────────────────────────────

interface ReadKind {
  kind: string;
  on(call: Call): boolean;
  /** Whether the operator knows all before the fault begins. */
  later: boolean;
  /** Whether the API server cannot begin a watch with all that there is. */
  old?: boolean;
}

const CACHED = [...CHILD_TYPES, PODS, PERSONAL_CONNECTORS].map(({ plural }) => plural);

const READS: ReadKind[] = [
  { kind: 'first read, by a watch', on: ({ verb }) => verb === 'watch-list', later: false },
  { kind: 'first read, by a list', on: ({ verb }) => verb === 'list', later: false, old: true },
  { kind: 'watch reconnect', on: ({ verb }) => verb === 'watch', later: true },
];

/** After these all is read anew (docs/adr/0007); after all others the watch goes on from where it was. */
const ANEW = new Set(['HTTP 410', 'an answer that is no JSON', 'no answer']);

/** Silence that is no peace lasts 150 s, twice. */
const NOTICE_MS = LONG ? 500_000 : 90_000;

/** What becomes of a connector that was there and of one that comes later. */
async function readThrough({ on, later, old }: ReadKind, { fault, times }: Case): Promise<Findings> {
  await using place = await createPlace();
  const { cluster, proxy } = place;
  if (old) proxy.rule(({ verb }) => verb === 'watch-list', refuse(422));
  const breakAll = (): Rule[] =>
    CACHED.map(plural => proxy.rule(call => on(call) && call.resource === plural, fault.fault, times));
  let rules: Rule[];
  await cluster.applyConnector('early', hosted('early'));
  if (later) {
    await place.startOperator();
    await untilSettled(cluster, 'early');
    rules = breakAll();
    proxy.cut(isWatch);
    // What nobody watches must be noticed afterwards.
    const { metadata } = await cluster.get(SERVICES, 'early-server');
    await cluster.remove(SERVICES, 'early-server');
    await untilHit(...rules);
    const isAnew = async () => (await cluster.get(SERVICES, 'early-server')).metadata.uid !== metadata.uid;
    await until('the Service anew', isAnew, { signal: cluster.signal, timeoutMs: NOTICE_MS, everyMs: 200 });
  } else {
    rules = breakAll();
    await Promise.all([place.startOperator(), untilHit(...rules)]);
  }
  await cluster.applyConnector('late', hosted('late'));
  await untilSame(cluster, 'early', await untilSettled(cluster, 'late'));
  const failures = rules.flatMap(({ hits }) => hits).length;
  const isRead = (call: Call): boolean =>
    (isWatch(call) || call.verb === 'list') && (CACHED as string[]).includes(call.resource);
  const reads = proxy.log.filter(isRead).length;
  // What fills a cache and the watch that follows, at the beginning, and again after each failure.
  const most = 2 * (CACHED.length + failures) + (old ? CACHED.length : 0);
  const found = reads > most ? [`${reads} reads after ${failures} failures`] : [];
  if (!later) return found;
  const filled = CACHED.filter((plural, index) => {
    const first = rules[index]?.hits[0]?.n ?? Number.POSITIVE_INFINITY;
    return proxy.log.some(({ n, verb, resource }) => n > first && verb === 'watch-list' && resource === plural);
  });
  const due = ANEW.has(fault.title) ? CACHED : [];
  return isDeepStrictEqual(filled, due) ? found : [...found, `read anew: ${filled.join(', ') || 'nothing'}`];
}

describe('a read that fails is tried again until the caches hold all there is, with back-off:', () => {
  for (const read of READS) {
    testsOf(read.kind, one => unlessHanging(placesInTurn, one, () => readThrough(read, one)));
  }
});

// ── Watches that are under way ──────────────────────────────────────────────────────────────────────────────────────

const LONGEST_TIMER_MS = 2 ** 31 - 1;

interface WatchFault {
  title: string;
  through: StreamFault;
  times?: number;
  /** Whether the operator has no reason to open another watch. */
  harmless?: true;
  long?: true;
}

const STREAMS: WatchFault[] = [
  { title: 'cut within a line', through: cutWithinLine(2), times: 10 },
  { title: 'every event twice', through: duplicate, harmless: true },
  { title: 'neighbouring events in the wrong order', through: swap },
  {
    title: 'lines that are no events',
    through: malformed('', '{', 'null', '42', '{"type":"MODIFIED"}', '{"type":"NEWS","object":{}}'),
    times: 10,
  },
  {
    title: 'objects without a name or a version',
    through: malformed('{"type":"ADDED","object":{"metadata":{}}}'),
    times: 10,
  },
  { title: 'an ERROR event that says 410', through: expire(2), times: 10 },
  { title: 'a proxy that hands on all at once, every 3 s', through: buffer(3_000) },
  {
    title: 'a proxy that hands on nothing before the end of an answer',
    through: buffer(LONGEST_TIMER_MS),
    long: true,
  },
  {
    title: 'a connection that is dead though nobody said so',
    through: hold(0),
    times: 5,
    long: true,
  },
];

describe('a watch shows all there is in the end, whatever is on the way:', { timeout: TIMEOUT_MS }, () => {
  async function watchThrough({ through, times, harmless }: WatchFault): Promise<Findings> {
    await using place = await createPlace();
    const { cluster, proxy } = place;
    await cluster.applyConnector('calm', hosted('calm'));
    await place.startOperator();
    const calm = await untilSettled(cluster, 'calm');
    const from = proxy.log.length;
    const rule = proxy.rule(isWatch, stream(through), times);
    proxy.cut(isWatch);
    await untilHit(rule);
    await cluster.applyConnector('shaken', hosted('shaken', { version: '2.0.0' }));
    // So that some events come at the same time.
    const others = Array.from({ length: 5 }, (_, index) => `gone${index}`);
    await Promise.all(others.map(name => cluster.applyConnector(name, hosted(name, { hosting: { replicas: 0 } }))));
    await Promise.all(others.map(name => cluster.remove(PERSONAL_CONNECTORS, name)));
    await cluster.applyConnector('shaken', hosted('shaken', { serverUrl: 'http://shaken-elsewhere:8000/mcp' }));
    await cluster.applyConnector('shaken', hosted('shaken'));
    await untilSame(cluster, 'shaken', calm);
    await untilSame(cluster, 'calm', calm);
    rule.end();
    const reads = proxy.log.slice(from).filter(call => isWatch(call) || call.verb === 'list').length;
    // Watches that end at once, and with them all that is read anew, are followed by back-off.
    if (reads > 60) return [`${reads} reads`];
    // The operator must have noticed, or there was no fault.
    return !harmless && reads <= CACHED.length ? ['all watches held'] : [];
  }

  const streams = STREAMS.filter(({ long }) => LONG || !long).map(fault => ({
    title: fault.title,
    findings: begin(fault.title, () => placesInTurn(() => watchThrough(fault))),
  }));
  it.each(streams)('$title', async ({ title, findings }) => {
    const found = await findings();
    note({ table: 'Faults of watches', row: { fault: title, passed: found.length === 0 ? 1 : 0, of: 1 } });
    expect(found).toEqual([]);
  });
});

// ── Storms ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const stormless = begin('storm', async () => {
  await using place = await createPlace();
  const { cluster, proxy } = place;
  await place.startOperator();
  const names = Array.from({ length: 20 }, (_, index) => `s${index}`);
  const rule = proxy.rule(({ isWrite, verb }) => isWrite || verb === 'get', refuse(503));
  await Promise.all(names.map(name => cluster.applyConnector(name, hosted(name))));
  await untilHit(rule);
  await sleep(10_000);
  const each = rule.hits.length / names.length;
  rule.end();
  const since = performance.now();
  await Promise.all(names.map(name => untilSettled(cluster, name)));
  note({
    table: 'Environment',
    row: {
      what: 'the API server refuses all writes for 10 s',
      connectors: names.length,
      requests: proxy.log.filter(call => !isWatch(call)).length,
      'of these refused': rule.hits.length,
      'until all is right, s': Math.round((performance.now() - since) / 100) / 10,
    },
  });
  // At once, and after 1 s, 2 s and 4 s (jittered): each time a child, and the status that tells of it.
  return each > 10 ? [`${each} requests for each connector`] : [];
});

it('an API server that refuses everything for 10 s is asked ever less often', { timeout: TIMEOUT_MS }, async () => {
  expect(await stormless()).toEqual([]);
});
