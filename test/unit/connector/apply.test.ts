import { describe, expect, it } from 'vitest';
import type { PersonalConnector } from '../../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import type { ResourceType } from '../../../src/api/meta.ts';
import { createApplier } from '../../../src/connector/apply.ts';
import { CHILD_TYPES, createChildStores, projectChild, SERVICES } from '../../../src/connector/children.ts';
import { hosted } from '../../../src/connector/hosted.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { fakeApi, makeConnector, makeContext, type Raw, UID } from '../support.ts';

const live = new AbortController().signal;

const wishes = (connector: PersonalConnector) => hosted.plan(connector, makeContext()).children ?? [];

function make() {
  const api = fakeApi();
  const stores = createChildStores();
  const applier = createApplier(api.client, stores);
  /** Brings the caches up to date, as the watches would. */
  const watch = (): void => {
    for (const type of CHILD_TYPES) {
      const objects = [...api.objects.values()].filter(({ kind }) => kind === type.kind);
      stores[type.kind].replace(objects.map(projectChild(type)), '9999');
    }
  };
  const act = (connector: PersonalConnector, desired = wishes(connector)) => applier.act(connector, desired, live);
  /** Makes all children, and forgets the calls that it took. */
  const settle = async (connector: PersonalConnector): Promise<void> => {
    await act(connector);
    watch();
    api.calls.length = 0;
    api.sent.length = 0;
  };
  /** Puts an object there that somebody else made, and that no watch of ours tells. */
  const foreign = (type: ResourceType, name: string, metadata: Partial<Raw['metadata']> = {}): Raw => {
    const object: Raw = {
      apiVersion: 'v1',
      kind: type.kind,
      metadata: {
        name,
        namespace: 'team',
        uid: 'foreign',
        resourceVersion: '50',
        creationTimestamp: '2025-01-01T00:00:00Z',
        ...metadata,
      },
      spec: { theirs: true },
    };
    api.objects.set(`${type.kind} team/${name}`, object);
    return object;
  };
  /** Changes an object as somebody else would, and lets the watches tell. */
  const edit = (key: string, changed: (object: Raw) => Partial<Raw>): void => {
    const object = api.objects.get(key) as Raw;
    const next = { ...object, ...changed(object) };
    const resourceVersion = String(Number(next.metadata.resourceVersion) + 1_000);
    api.objects.set(key, { ...next, metadata: { ...next.metadata, resourceVersion } });
    watch();
  };
  return { ...api, stores, act, watch, settle, foreign, edit };
}

const connector = makeConnector('aitronos_built');
const change = (spec: Partial<PersonalConnectorSpec>) => makeConnector('aitronos_built', spec);

describe('children that are not there', () => {
  it('are made in order, and only if nothing is there', async () => {
    const { act, calls, sent, stores } = make();
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual([
      'apply Deployment team/clickup',
      'apply Service team/clickup',
      'apply NetworkPolicy team/clickup',
    ]);
    for (const { metadata } of sent) {
      // No object can have this version, so what is there conflicts.
      expect(metadata.resourceVersion).toBe('1');
      expect(metadata).not.toHaveProperty('uid');
    }
    expect(stores.Deployment.get('team/clickup')).toBeDefined();
  });

  it('are made once, also before a watch has told of them', async () => {
    const { act, calls } = make();
    await act(connector);
    calls.length = 0;
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual([]);
  });

  it('are left alone where they turn out to be there and as wanted', async () => {
    const { act, calls, settle, stores } = make();
    await settle(connector);
    stores.Service.replace([], '9999');
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual(['apply Service team/clickup', 'get Service team/clickup']);
  });

  it('are taken back where they turn out to be there without an owner', async () => {
    const { act, calls, objects, sent, settle, stores } = make();
    await settle(connector);
    const orphan = objects.get('Service team/clickup') as Raw;
    const { ownerReferences: _lost, ...metadata } = orphan.metadata;
    objects.set('Service team/clickup', { ...orphan, metadata });
    stores.Service.replace([], '9999');
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual(['apply Service team/clickup', 'get Service team/clickup', 'apply Service team/clickup']);
    expect(sent.at(-1)?.metadata).toMatchObject({ uid: metadata.uid, ownerReferences: [{ uid: UID }] });
  });
});

describe('children that are there', () => {
  it('are left alone when they are as wanted', async () => {
    const { act, calls, settle } = make();
    await settle(connector);
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual([]);
  });

  it('are changed when they are not, and only the very same ones', async () => {
    const { act, calls, sent, settle, stores } = make();
    await settle(connector);
    const uid = stores.Deployment.get('team/clickup')?.metadata.uid;
    expect(await act(change({ version: '2.0.0' }))).toBeUndefined();
    expect(calls).toEqual([
      'apply Deployment team/clickup',
      'apply Service team/clickup',
      'apply NetworkPolicy team/clickup',
    ]);
    expect(sent[0]?.metadata.uid).toBe(uid);
    expect(sent[0]?.metadata).not.toHaveProperty('resourceVersion');
  });

  it('are mended when somebody changed what is ours', async () => {
    const { act, calls, edit, objects, settle } = make();
    await settle(connector);
    const { spec } = objects.get('Service team/clickup') as Raw;
    edit('Service team/clickup', ({ spec }) => ({ spec: { ...spec, selector: { evil: 'x' } } }));
    await act(connector);
    expect(calls).toEqual(['apply Service team/clickup']);
    expect(objects.get('Service team/clickup')?.spec).toEqual(spec);
  });

  it('are let be when somebody added what is theirs', async () => {
    const { act, calls, edit, settle } = make();
    await settle(connector);
    edit('Service team/clickup', ({ spec, metadata }) => ({
      metadata: { ...metadata, labels: { ...metadata.labels, theirs: 'x' } },
      spec: { ...spec, internalTrafficPolicy: 'Cluster' },
    }));
    await act(connector);
    expect(calls).toEqual([]);
  });

  it('are not changed when another of the name came meanwhile: the conflict is thrown, and tried again', async () => {
    const { act, objects, settle } = make();
    await settle(connector);
    const service = objects.get('Service team/clickup') as Raw;
    objects.set('Service team/clickup', { ...service, metadata: { ...service.metadata, uid: 'another' } });
    await expect(act(change({ version: '2.0.0' }))).rejects.toMatchObject({ name: 'ApiError', status: 409 });
    expect(objects.get('Service team/clickup')?.metadata.uid).toBe('another');
  });
});

describe('an apply that cannot come true', () => {
  /** An admission plugin that has a will of its own. */
  const stubborn = (object: Raw): Raw => {
    if (object.kind !== 'Deployment') return object;
    const changed = structuredClone(object) as Raw & { spec: Record<string, unknown> };
    changed.spec.revisionHistoryLimit = 99;
    return changed;
  };

  it('is made once, and not again while nothing changes', async () => {
    const { act, calls, hooks, settle } = make();
    hooks.admit = stubborn;
    await settle(connector);
    await act(connector);
    await act(connector);
    expect(calls).toEqual([]);
  });

  it('is made again when the object changes', async () => {
    const { act, calls, edit, hooks, settle } = make();
    hooks.admit = stubborn;
    await settle(connector);
    edit('Deployment team/clickup', ({ spec }) => ({ spec: { ...spec, revisionHistoryLimit: 50 } }));
    await act(connector);
    expect(calls).toEqual(['apply Deployment team/clickup']);
  });
});

describe('a name that is taken', () => {
  it.each([
    ['by an object of nobody', {}, 'somebody else'],
    [
      'by an object of another controller',
      { ownerReferences: [{ apiVersion: 'apps/v1', kind: 'X', name: 'x', uid: 'x', controller: true }] },
      'somebody else',
    ],
    [
      'by another connector',
      {
        ownerReferences: [
          {
            apiVersion: 'connectors.aitronos.com/v1',
            kind: 'PersonalConnector',
            name: 'other',
            uid: 'o',
            controller: true,
          },
        ],
      },
      'connector other',
    ],
  ])('%s is never taken over; it is looked at again in a minute', async (_whose, metadata, whom) => {
    const { act, calls, foreign, objects } = make();
    const theirs = foreign(SERVICES, 'clickup', metadata);
    expect(await act(connector)).toEqual({
      accepted: {
        status: 'False',
        reason: 'NameConflict',
        message: `the Service clickup exists and belongs to ${whom}: delete it, or name another Service in spec.serverUrl`,
      },
      retryAfterMs: 60_000,
    });
    expect(objects.get('Service team/clickup')).toBe(theirs);
    expect(calls).toEqual(['apply Deployment team/clickup', 'apply Service team/clickup', 'get Service team/clickup']);
  });

  it('says to rename the connector where nothing else helps', async () => {
    const { act, foreign } = make();
    foreign({ group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment' }, 'clickup');
    expect(await act(connector)).toMatchObject({
      accepted: {
        message: 'the Deployment clickup exists and belongs to somebody else: delete it, or rename the connector',
      },
    });
  });

  it('by a child of a deleted connector of this name is waited for', async () => {
    const { act, calls, settle } = make();
    await settle(makeConnector('aitronos_built', {}, { metadata: { uid: 'earlier' } }));
    expect(await act(connector)).toEqual({
      deployed: {
        status: 'Unknown',
        reason: 'Progressing',
        message: 'waiting until the Deployment clickup of the deleted connector of this name is gone',
      },
      retryAfterMs: 5_000,
    });
    expect(calls).toEqual([]);
  });
});

describe('children that are no longer wanted', () => {
  it('are removed, each by its UID', async () => {
    const { act, calls, objects, settle, stores } = make();
    await settle(connector);
    const uid = stores.Service.get('team/clickup')?.metadata.uid;
    expect(await act(change({ serverUrl: 'http://renamed:8000' }))).toBeUndefined();
    expect(calls).toEqual(['apply Service team/renamed', `remove Service team/clickup ${uid}`]);
    expect([...objects.keys()]).toEqual([
      'Deployment team/clickup',
      'NetworkPolicy team/clickup',
      'Service team/renamed',
    ]);
  });

  it('are all removed when nothing is wanted, as after a change of type', async () => {
    const { act, objects, settle } = make();
    await settle(connector);
    expect(await act(connector, [])).toBeUndefined();
    expect(objects.size).toBe(0);
  });

  it('are never those of others', async () => {
    const { act, objects, settle } = make();
    await settle(makeConnector('aitronos_built', {}, { metadata: { name: 'other', uid: 'other' } }));
    await act(connector, []);
    expect(objects.size).toBe(3);
  });

  it('are not removed twice while they go', async () => {
    const { act, calls, edit, objects, settle } = make();
    await settle(connector);
    for (const key of objects.keys()) {
      edit(key, ({ metadata }) => ({ metadata: { ...metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } }));
    }
    await act(connector, []);
    expect(calls).toEqual([]);
  });

  it('are removed also when they lost their owner, whom the garbage collector would not know', async () => {
    const { act, calls, edit, objects, settle } = make();
    await settle(connector);
    edit('Service team/clickup', ({ metadata: { ownerReferences: _, ...metadata } }) => ({ metadata }));
    expect(await act(connector, [])).toBeUndefined();
    expect(calls).toHaveLength(3);
    expect([...objects.keys()]).toEqual([]);
  });

  it('are removed also when they lost their labels, so that only the status tells of them', async () => {
    const { act, calls, objects, settle, stores } = make();
    await settle(connector);
    const hosting = { deployment: 'clickup', service: 'clickup', image: 'x', replicas: 1, readyReplicas: 1 };
    stores.Deployment.replace([], '9999');
    expect(await act({ ...connector, status: { hosting } }, [])).toBeUndefined();
    expect(calls[0]).toBe('get Deployment team/clickup');
    expect(calls).toHaveLength(4);
    expect([...objects.keys()]).toEqual([]);
    calls.length = 0;
    stores.Service.replace([], '9999');
    stores.NetworkPolicy.replace([], '9999');
    expect(await act({ ...connector, status: { hosting } }, [])).toBeUndefined();
    expect(calls.every(call => call.startsWith('get '))).toBe(true);
  });

  it('may be gone already', async () => {
    const { act, calls, objects, settle } = make();
    await settle(connector);
    objects.delete('Deployment team/clickup');
    expect(await act(connector, [])).toBeUndefined();
    expect(calls).toHaveLength(3);
    expect([...objects.keys()]).toEqual([]);
  });

  it('stay when they are others of their name: the conflict is thrown until the cache knows them', async () => {
    const { act, objects, stores, settle } = make();
    await settle(connector);
    const service = objects.get('Service team/clickup') as Raw;
    const foreign = { ...service, metadata: { ...service.metadata, uid: 'new', resourceVersion: '900' } };
    objects.set('Service team/clickup', foreign);
    await expect(act(connector, [])).rejects.toMatchObject({ name: 'ApiError', status: 409 });
    expect(objects.get('Service team/clickup')).toBe(foreign);

    stores.Service.upsert(
      projectChild(SERVICES)({ ...foreign, metadata: { ...foreign.metadata, ownerReferences: [], annotations: {} } }),
    );
    expect(await act(connector, [])).toBeUndefined();
    expect([...objects.keys()]).toEqual(['Service team/clickup']);
  });
});

describe('what somebody else wrote beside ours', () => {
  const ports = { 'f:ports': { 'k:{"port":1,"protocol":"TCP"}': { '.': {}, 'f:port': {} } } };
  const managedFields = [
    { manager: 'personal-connector-operator', operation: 'Apply', fieldsV1: { 'f:spec': { 'f:type': {} } } },
    {
      manager: 'kubectl-edit',
      operation: 'Update',
      fieldsV1: { 'f:metadata': { 'f:annotations': {} }, 'f:spec': { ...ports, 'f:replicas': {} } },
    },
    { manager: 'autoscaler', operation: 'Update', subresource: 'scale', fieldsV1: { 'f:spec': { 'f:replicas': {} } } },
  ];

  it('is taken away when it makes ours invalid, but for what was scaled and for what is not of the spec', async () => {
    const { act, calls, edit, hooks, objects, failed, settle } = make();
    await settle(connector);
    edit('Service team/clickup', ({ metadata, spec }) => ({
      metadata: { ...metadata, managedFields } as Raw['metadata'],
      spec: { ...spec, type: 'NodePort' },
    }));
    let refused = 0;
    hooks.before = call => {
      if (call === 'apply Service team/clickup' && refused++ === 0) throw failed(call, 422, 'Invalid');
    };
    expect(await act(connector)).toBeUndefined();
    expect(calls).toEqual([
      'apply Service team/clickup',
      'apply Service team/clickup-dry-run',
      'get Service team/clickup',
      'patch Service team/clickup',
      'apply Service team/clickup',
    ]);
    expect(objects.get('Service team/clickup')?.metadata).toMatchObject({
      managedFields: [
        {
          manager: 'kubectl-edit',
          fieldsV1: { 'f:metadata': { 'f:annotations': {} }, 'f:spec': { 'f:replicas': {} } },
        },
        { manager: 'autoscaler' },
        {
          manager: 'personal-connector-operator',
          operation: 'Apply',
          apiVersion: 'v1',
          fieldsV1: { 'f:spec': { 'f:type': {}, ...ports } },
        },
      ],
    });
  });
});

describe('what the API server refuses', () => {
  it('although it would take it alone, and nobody wrote anything beside it, is reported', async () => {
    const { act, calls, edit, hooks, failed, settle } = make();
    await settle(connector);
    edit('Service team/clickup', ({ spec }) => ({ spec: { ...spec, type: 'NodePort' } }));
    hooks.before = call => {
      if (call === 'apply Service team/clickup') throw failed(call, 422, 'Invalid');
    };
    expect((await act(connector))?.accepted?.reason).toBe('InvalidSpec');
    expect(calls.slice(1)).toEqual(['apply Service team/clickup-dry-run', 'get Service team/clickup']);
  });

  it('for the sake of the spec itself takes nothing away that others wrote beside it', async () => {
    const { act, calls, edit, hooks, failed, settle } = make();
    await settle(connector);
    edit('Service team/clickup', ({ spec }) => ({ spec: { ...spec, type: 'NodePort' } }));
    hooks.before = call => {
      if (call.startsWith('apply Service')) throw failed(call, 422, 'Invalid');
    };
    expect((await act(connector))?.accepted?.reason).toBe('InvalidSpec');
    expect(calls).toEqual(['apply Service team/clickup', 'apply Service team/clickup-dry-run']);
  });

  const refuse = async (status: number, message: string) => {
    const { act, hooks } = make();
    hooks.before = () => {
      throw new ApiError('PATCH /x', status, JSON.stringify({ message }));
    };
    return act(connector);
  };
  const quota = 'services "x" is forbidden: exceeded quota: q';
  const webhook = 'admission webhook "w" denied the request: no';

  it.each<[string, number, string, object]>([
    [
      'as invalid is the spec’s fault',
      422,
      'spec.ports: Invalid value',
      {
        accepted: {
          status: 'False',
          reason: 'InvalidSpec',
          message: 'the API server refuses what the spec leads to: PATCH /x: 422 spec.ports: Invalid value',
        },
        retryAfterMs: 300_000,
      },
    ],
    [
      'as malformed is the spec’s fault',
      400,
      'bad quantity',
      {
        accepted: {
          status: 'False',
          reason: 'InvalidSpec',
          message: 'the API server refuses what the spec leads to: PATCH /x: 400 bad quantity',
        },
        retryAfterMs: 300_000,
      },
    ],
    [
      'by quota is told and tried again',
      403,
      quota,
      {
        deployed: { status: 'False', reason: 'QuotaExceeded', message: `PATCH /x: 403 ${quota}` },
        error: expect.any(ApiError),
      },
    ],
    [
      'by a webhook is told and tried again',
      403,
      webhook,
      {
        deployed: { status: 'False', reason: 'QuotaExceeded', message: `PATCH /x: 403 ${webhook}` },
        error: expect.any(ApiError),
      },
    ],
    [
      'because the namespace goes is let be',
      403,
      'deployments.apps "x" is forbidden: unable to create new content in namespace team because it is being terminated',
      {},
    ],
    [
      'for want of a right is tried again',
      403,
      'deployments.apps "x" is forbidden: User "u" cannot patch resource',
      { error: expect.any(ApiError) },
    ],
    ['for its own reasons is tried again', 500, 'boom', { error: expect.any(ApiError) }],
  ])('%s', async (_what, status, message, expected) => {
    expect(await refuse(status, message)).toEqual(expected);
  });

  it('while it removes is tried again', async () => {
    const { act, hooks, settle } = make();
    await settle(connector);
    hooks.before = call => {
      if (call.startsWith('remove')) throw new ApiError('DELETE /x', 500, '{}');
    };
    expect(await act(connector, [])).toEqual({ error: expect.any(ApiError) });
  });

  it('prunes nothing, since what is wanted is not there yet', async () => {
    const { act, calls, hooks, settle } = make();
    await settle(connector);
    hooks.before = call => {
      if (call.startsWith('apply')) throw new ApiError('PATCH /x', 500, '{}');
    };
    await act(change({ serverUrl: 'http://renamed:8000' }));
    expect(calls).toEqual(['apply Service team/renamed']);
  });
});

describe('regressions', () => {
  it('applies a new wish also where the last one could not come true', async () => {
    // The API server writes 1000m as 1, so this wish never comes true to the letter, and no later one is sent.
    const { act, calls, hooks, settle } = make();
    hooks.admit = object => JSON.parse(JSON.stringify(object).replaceAll('"1000m"', '"1"'));
    const resources = { limits: { cpu: '1000m' } };
    await settle(change({ hosting: { resources } }));
    await act(change({ hosting: { resources }, version: '2.0.0' }));
    expect(calls).toContain('apply Deployment team/clickup');
  });
});
