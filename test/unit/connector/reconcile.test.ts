import { describe, expect, it } from 'vitest';
import { ANNOTATION, type PersonalConnector } from '../../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import { CHILD_TYPES, projectChild, projectConnector } from '../../../src/connector/children.ts';
import type { PolicyInput } from '../../../src/connector/policy.ts';
import { createReconciler } from '../../../src/connector/reconcile.ts';
import { createStores } from '../../../src/connector/stores.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import type { EventRecord } from '../../../src/kube/events.ts';
import type { Outcome as Probed } from '../../../src/probe/outcome.ts';
import type { ProbeResult } from '../../../src/probe/schedule.ts';
import type { Target } from '../../../src/probe/target.ts';
import { judge } from '../../../src/probe/verdict.ts';
import { fakeApi, makeConnector, makeContext, type Raw, UID } from '../support.ts';

const live = new AbortController().signal;

/** A reconciler over an API server that holds these connectors; probes are the test's to answer. */
function make(connectors: PersonalConnector[], policy: PolicyInput = {}) {
  const api = fakeApi();
  const stores = createStores();
  const probes = new Map<string, Target | undefined>();
  const known: (string | undefined)[] = [];
  const results = new Map<string, ProbeResult>();
  const events: string[] = [];
  const closed = new Set<string>();
  const others = new Set<string>();
  const put = (connector: PersonalConnector): void => {
    const { namespace, name } = connector.metadata;
    api.objects.set(`PersonalConnector ${namespace}/${name}`, connector);
    stores.connectors.upsert(connector);
  };
  for (const connector of connectors) put(connector);
  const reconcile = createReconciler({
    client: api.client,
    stores,
    probes: {
      set(key, target, as) {
        probes.set(key, target);
        known.push(as);
      },
      result: key => results.get(key),
      async close() {},
    },
    events: {
      record: (about, { type, reason }: EventRecord) => void events.push(`${about.metadata.name} ${type} ${reason}`),
      flush: async () => {},
    },
    context: makeContext(policy),
    isOpen: namespace => !closed.has(namespace),
    owns: key => !others.has(key),
    now: () => new Date('2026-03-01T10:00:00Z'),
  });
  /** Brings the caches up to date, as the watches would. */
  const watch = (): void => {
    for (const type of CHILD_TYPES) {
      const objects = [...api.objects.values()].filter(({ kind }) => kind === type.kind);
      stores.children[type.kind].replace(objects.map(projectChild(type)), '9999');
    }
  };
  /** The status as the API server has it. */
  const status = (name: string) => (api.objects.get(`PersonalConnector team/${name}`) as PersonalConnector).status;
  const ready = (name: string): string | undefined => {
    const found = status(name)?.conditions?.find(({ type }) => type === 'Ready');
    return found && `${found.status} ${found.reason}`;
  };
  return {
    ...api,
    stores,
    probes,
    known,
    results,
    events,
    closed,
    others,
    put,
    watch,
    status,
    ready,
    reconcile: (name: string) => reconcile(`team/${name}`, live),
  };
}

const remote = (spec: Partial<PersonalConnectorSpec> = {}, metadata = {}): PersonalConnector =>
  makeConnector('custom', spec, { metadata: { name: 'mine', ...metadata } });

const answered = (
  target: Target | undefined,
  outcome: Probed = { kind: 'answered', server: { protocolVersion: '2025-11-25', capabilities: [] } },
): ProbeResult => ({
  fingerprint: target?.fingerprint ?? '',
  recheck: undefined,
  verdict: judge(outcome, { url: 'https://mcp.example.com', credentials: false }).verdict,
});

describe('a remote connector', () => {
  it('has its status written once, and is handed to the prober', async () => {
    const { reconcile, calls, sent, probes, ready, events } = make([remote()]);
    expect(await reconcile('mine')).toEqual({});
    expect(calls).toEqual(['apply PersonalConnector team/mine/status']);
    expect(sent[0]).toMatchObject({
      apiVersion: 'connectors.aitronos.com/v1',
      kind: 'PersonalConnector',
      // The UID, so that no status is written to another of its name; and nothing of anybody's labels.
      metadata: { name: 'mine', namespace: 'team', uid: UID },
    });
    expect(Object.keys(sent[0]?.metadata ?? {}).sort()).toEqual(['name', 'namespace', 'uid']);
    expect(probes.get('team/mine')).toMatchObject({ url: 'https://mcp.example.com/mcp', trusted: false });
    expect([ready('mine'), events]).toEqual(['Unknown Progressing', []]);
  });

  it('has nothing written while nothing is new, also before a watch tells of the last write', async () => {
    const { reconcile, calls } = make([remote()]);
    await reconcile('mine');
    calls.length = 0;
    await reconcile('mine');
    await reconcile('mine');
    expect(calls).toEqual([]);
  });

  it('has written what a probe found, with an Event', async () => {
    const { reconcile, results, probes, ready, events, calls } = make([remote()]);
    await reconcile('mine');
    results.set('team/mine', answered(probes.get('team/mine')));
    await reconcile('mine');
    expect([ready('mine'), events]).toEqual(['True Ready', ['mine Normal Ready']]);
    calls.length = 0;
    await reconcile('mine');
    expect([calls, events]).toEqual([[], ['mine Normal Ready']]);
  });

  const GOOD: Probed = {
    kind: 'answered',
    server: { protocolVersion: '2025-11-25', capabilities: [], tools: { names: [], count: 0, hash: 'sha256:1' } },
  };
  const BAD: Probed = { kind: 'refused' };
  it.each<[string, Probed, { recheck?: string; asked?: string; generation?: number }, string | undefined]>([
    ['healthy', GOOD, {}, 'healthy'],
    ['healthy, with a user to authorize', { kind: 'unauthorized', challenge: undefined }, {}, 'healthy'],
    ['not at MCP', { kind: 'not-mcp', why: 'x' }, {}, 'failed'],
    ['not to be reached', BAD, {}, 'failed'],
    ['for those who sign in', { kind: 'insufficient-scope', challenge: {} }, {}, 'healthy'],
    ['unknown', { kind: 'broken', why: 'x' }, {}, undefined],
    ['healthy by another spec', GOOD, { generation: 2 }, undefined],
    ['not to be reached by another spec', BAD, { generation: 2 }, undefined],
    ['healthy, and was rechecked', GOOD, { recheck: 'r1', asked: 'r1' }, 'healthy'],
    ['not to be reached, and was rechecked', BAD, { recheck: 'r1', asked: 'r1' }, 'failed'],
    ['healthy before a recheck that nobody answered', GOOD, { recheck: 'r1', asked: 'r2' }, undefined],
    ['not to be reached before such a recheck', BAD, { asked: 'r2' }, undefined],
    ['healthy, with a recheck that is not asked any more', GOOD, { recheck: 'r1' }, 'healthy'],
  ])(
    'is told to the prober with what the status of an earlier life says: %s',
    async (_what, outcome, { recheck, asked, generation = 1 }, known) => {
      const first = make([remote()]);
      await first.reconcile('mine');
      const target = first.probes.get('team/mine');
      first.results.set('team/mine', { ...answered(target, outcome), recheck });
      await first.reconcile('mine');
      const status = first.status('mine') ?? {};

      const annotations = asked === undefined ? {} : { [ANNOTATION.recheck]: asked };
      const second = make([{ ...remote({}, { generation, annotations }), status }]);
      await second.reconcile('mine');
      expect(second.known).toEqual([known]);
      // What was known stays on the status until a probe says otherwise.
      if (known) expect(second.calls).toEqual([]);
    },
  );

  it('whose tools have changed is told to the prober as healthy: they are compared anew each time', async () => {
    const spec = { probe: { approvedToolsHash: `sha256:${'0'.repeat(64)}` } };
    const first = make([remote(spec)]);
    await first.reconcile('mine');
    first.results.set('team/mine', answered(first.probes.get('team/mine'), GOOD));
    await first.reconcile('mine');
    expect(first.ready('mine')).toBe('False ToolsChanged');
    const second = make([{ ...remote(spec), status: first.status('mine') ?? {} }]);
    await second.reconcile('mine');
    expect(second.known).toEqual(['healthy']);
  });

  it.each<[string, Partial<PersonalConnectorSpec>, string]>([
    ['is no URL', { serverUrl: 'https://exa mple' }, 'False InvalidSpec'],
    ['is denied by the policy', { serverUrl: 'http://169.254.169.254/' }, 'False AddressDenied'],
    ['has a port that is denied', { serverUrl: 'https://mcp.example.com:22/' }, 'False AddressDenied'],
    ['is denied in another spelling', { serverUrl: 'http://0x7f.1/' }, 'False AddressDenied'],
  ])('whose URL %s is rejected and not probed', async (_what, spec, expected) => {
    const { reconcile, probes, ready, events } = make([remote(spec)]);
    await reconcile('mine');
    expect([ready('mine'), probes.get('team/mine')]).toEqual([expected, undefined]);
    expect(events).toEqual([`mine Warning ${expected.split(' ')[1]}`]);
  });

  it.each<[string, Partial<PersonalConnectorSpec>, string]>([
    ['in maintenance', { lifecycle: 'maintenance' }, 'True Maintenance'],
    ['with its probe switched off', { probe: { enabled: false } }, 'True ProbeDisabled'],
  ])('%s is not probed and is ready', async (_what, spec, expected) => {
    const { reconcile, probes, ready } = make([remote(spec)]);
    await reconcile('mine');
    expect([ready('mine'), probes.get('team/mine')]).toEqual([expected, undefined]);
  });
});

describe('a connector that is not to be touched', () => {
  it.each<[string, PersonalConnector[]]>([
    ['is gone', []],
    ['is going', [remote({}, { deletionTimestamp: '2026-03-01T00:00:00Z' })]],
    ['is suspended', [remote({ suspend: true })]],
    ['is hosted and suspended', [makeConnector('aitronos_built', { suspend: true }, { metadata: { name: 'mine' } })]],
  ])('because it %s is neither probed nor written', async (_what, connectors) => {
    const { reconcile, calls, probes, events } = make(connectors);
    probes.set('team/mine', {} as Target);
    expect(await reconcile('mine')).toEqual({});
    expect([calls, probes.get('team/mine'), events]).toEqual([[], undefined, []]);
  });

  it.each([
    ['a remote one', remote()],
    ['a hosted one', makeConnector('aitronos_built', {}, { metadata: { name: 'mine' } })],
  ])(
    'while its namespace is closed, %s is neither probed nor written, and is looked after when it opens',
    async (_, connector) => {
      const { reconcile, calls, probes, events, closed } = make([connector]);
      closed.add('team');
      probes.set('team/mine', {} as Target);
      expect(await reconcile('mine')).toEqual({});
      expect([calls, probes.get('team/mine'), events]).toEqual([[], undefined, []]);
      closed.clear();
      closed.add('other');
      await reconcile('mine');
      expect(calls.at(-1)).toMatch(/^apply PersonalConnector team.mine/);
    },
  );

  it.each([
    ['a remote one', remote()],
    ['a hosted one', makeConnector('aitronos_built', {}, { metadata: { name: 'mine' } })],
  ])('while it is another process’s own, %s is neither probed nor written', async (_, connector) => {
    const { reconcile, calls, probes, events, others } = make([connector]);
    others.add('team/mine');
    probes.set('team/mine', {} as Target);
    expect(await reconcile('mine')).toEqual({});
    expect([calls, probes.get('team/mine'), events]).toEqual([[], undefined, []]);
    others.clear();
    await reconcile('mine');
    expect(calls.at(-1)).toMatch(/^apply PersonalConnector team.mine/);
  });

  it('is neither probed nor told of when it became another process’s own while its children were made', async () => {
    const { reconcile, hooks, calls, probes, events, others } = make([
      makeConnector('aitronos_built', {}, { metadata: { name: 'mine' } }),
    ]);
    hooks.before = () => void others.add('team/mine');
    expect(await reconcile('mine')).toEqual({});
    expect(calls.length).toBeGreaterThan(0);
    expect([calls.filter(call => call.includes('PersonalConnector')), probes.get('team/mine'), events]).toEqual([
      [],
      undefined,
      [],
    ]);
  });
});

describe('a status that cannot be written', () => {
  it.each([
    ['because the connector is gone', 404],
    ['because another of its name is there', 409],
    ['because the server is broken', 500],
  ])('%s is an error, has no Event, and is tried again', async (_why, status) => {
    const { reconcile, hooks, events } = make([remote({ lifecycle: 'maintenance' })]);
    hooks.before = call => {
      throw new ApiError(call, status, '{}');
    };
    await expect(reconcile('mine')).rejects.toMatchObject({ name: 'ApiError', status });
    expect(events).toEqual([]);
    delete hooks.before;
    await reconcile('mine');
    expect(events).toEqual(['mine Normal Maintenance']);
  });

  it('because the connector is gone is no error any more once the cache says so', async () => {
    const { reconcile, hooks, stores, events } = make([remote({ lifecycle: 'maintenance' })]);
    hooks.before = call => {
      throw new ApiError(call, 404, '{}');
    };
    await expect(reconcile('mine')).rejects.toMatchObject({ status: 404 });
    stores.connectors.remove(remote({}, { resourceVersion: '11' }));
    expect(await reconcile('mine')).toEqual({});
    expect(events).toEqual([]);
  });
});

describe('a pinned id that is taken', () => {
  it('is rejected, hosted or not, and what is there is left alone', async () => {
    const older = remote({ id: 'pcon_x' }, { name: 'older', uid: 'older', creationTimestamp: '2025-01-01T00:00:00Z' });
    const hosted = makeConnector('aitronos_built', { id: 'pcon_x' }, { metadata: { name: 'mine' } });
    const { reconcile, calls, ready, probes } = make([older, hosted]);
    await reconcile('mine');
    expect([ready('mine'), probes.get('team/mine')]).toEqual(['False IdConflict', undefined]);
    expect(calls).toEqual(['apply PersonalConnector team/mine/status']);
  });
});

const hosted = (spec: Partial<PersonalConnectorSpec> = {}): PersonalConnector =>
  makeConnector('aitronos_built', spec, { metadata: { name: 'mine' } });
const AVAILABLE = {
  observedGeneration: 1,
  replicas: 1,
  updatedReplicas: 1,
  readyReplicas: 1,
  availableReplicas: 1,
};
/** What the Deployment controller would do. */
const available = ({ objects, watch }: ReturnType<typeof make>): void => {
  const deployment = objects.get('Deployment team/mine') as Raw;
  const metadata = { ...deployment.metadata, resourceVersion: '9000' };
  objects.set('Deployment team/mine', { ...deployment, metadata, status: AVAILABLE });
  watch();
};

describe('a hosted connector', () => {
  it('has its children made before its status says so', async () => {
    const { reconcile, calls, status, probes } = make([hosted()]);
    await reconcile('mine');
    expect(calls).toEqual([
      'apply Deployment team/mine',
      'apply Service team/mine',
      'apply NetworkPolicy team/mine',
      'apply PersonalConnector team/mine/status',
    ]);
    expect(status('mine')).toMatchObject({
      hosting: { deployment: 'mine', service: 'mine', image: 'registry.example.com/clickup-mcp:1.2.0', replicas: 1 },
      conditions: expect.arrayContaining([expect.objectContaining({ type: 'Deployed', status: 'Unknown' })]),
    });
    expect(status('mine')).not.toHaveProperty('serverUrl');
    expect(probes.get('team/mine')).toBeUndefined();
  });

  it('is probed at its own address once it is available', async () => {
    const made = make([hosted()]);
    await made.reconcile('mine');
    available(made);
    await made.reconcile('mine');
    expect(made.probes.get('team/mine')).toMatchObject({
      url: 'http://mine.team.svc.cluster.local:8000/mcp',
      trusted: true,
    });
    expect(made.status('mine')?.serverUrl).toBe('http://mine.team.svc.cluster.local:8000/mcp');
  });

  it('loses its children when it becomes a remote one', async () => {
    const made = make([hosted()]);
    await made.reconcile('mine');
    made.watch();
    made.put(remote({}, { generation: 2, resourceVersion: '9001' }));
    await made.reconcile('mine');
    expect([...made.objects.keys()]).toEqual(['PersonalConnector team/mine']);
    expect(made.status('mine')).not.toHaveProperty('hosting');
  });

  it('keeps its children while its spec is rejected', async () => {
    const made = make([hosted()]);
    await made.reconcile('mine');
    made.watch();
    const broken = hosted({ connectorId: 'unknown' });
    made.put({ ...broken, metadata: { ...broken.metadata, generation: 2, resourceVersion: '9001' } });
    await made.reconcile('mine');
    expect(made.ready('mine')).toBe('False CatalogEntryMissing');
    expect(made.objects.has('Deployment team/mine')).toBe(true);
  });

  it('tells of an obstacle first, and then has the queue try again', async () => {
    const { reconcile, hooks, ready } = make([hosted()]);
    hooks.before = call => {
      if (call.startsWith('apply Service')) throw new ApiError(call, 500, '{"message":"boom"}');
    };
    await expect(reconcile('mine')).rejects.toThrow('boom');
    expect(ready('mine')).toBe('Unknown Progressing');
  });

  it('looks again in a minute at a name that is taken', async () => {
    const { reconcile, objects, ready } = make([hosted()]);
    objects.set('Deployment team/mine', {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'mine', namespace: 'team', uid: 'x', resourceVersion: '2', creationTimestamp: '' },
    });
    expect(await reconcile('mine')).toEqual({ requeueAfterMs: 60_000 });
    expect(ready('mine')).toBe('False NameConflict');
  });
});

describe('regressions', () => {
  it('has nobody else’s server probed or told as its own while the name of its Service is taken', async () => {
    // The URL is trusted, so the guard lets it pass: a Service of type ExternalName would lead anywhere.
    const made = make([hosted({ serverUrl: 'http://foreign:8000' })]);
    made.objects.set('Service team/foreign', {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'foreign', namespace: 'team', uid: 'x', resourceVersion: '2', creationTimestamp: '' },
      spec: { type: 'ExternalName', externalName: 'metadata.google.internal' },
    });
    await made.reconcile('mine');
    const deployment = projectChild(CHILD_TYPES[0])({
      ...(made.objects.get('Deployment team/mine') as Raw),
      status: AVAILABLE,
    });
    made.stores.children.Deployment.replace(
      [{ ...deployment, metadata: { ...deployment.metadata, resourceVersion: '9000' } }],
      '9000',
    );
    await made.reconcile('mine');
    expect(made.ready('mine')).toBe('False NameConflict');
    expect(made.probes.get('team/mine')).toBeUndefined();
    expect(made.status('mine')?.serverUrl).toBeUndefined();
  });

  it('is reconciled again when its spec changed while its status was being written', async () => {
    const made = make([remote()]);
    const queued: string[] = [];
    made.stores.connectors.subscribe(({ current }) => void queued.push(String(current?.metadata.generation)));
    const changed = remote({ serverUrl: 'https://new.example.com' }, { generation: 2, resourceVersion: '11' });
    made.hooks.before = () => void made.objects.set('PersonalConnector team/mine', changed);
    await made.reconcile('mine');
    // Now the watch tells, of the change and of the write after it.
    made.stores.connectors.upsert(changed);
    made.stores.connectors.upsert(
      projectConnector(made.objects.get('PersonalConnector team/mine') as PersonalConnector),
    );
    expect(queued).toContain('2');
  });
});
