import { describe, expect, it } from 'vitest';
import type { PersonalConnector } from '../../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import { type Child, projectPod } from '../../../src/connector/children.ts';
import { createStores, watchChanges } from '../../../src/connector/stores.ts';
import { makeConnector, UID } from '../support.ts';

function make() {
  const stores = createStores();
  const queued: string[] = [];
  const causes: string[] = [];
  watchChanges(stores, (key, priority, cause) => {
    queued.push(`${key} ${priority}`);
    causes.push(cause);
  });
  let version = 10;
  const connector = (name: string, spec: Partial<PersonalConnectorSpec> = {}): PersonalConnector => {
    version += 1;
    return makeConnector('custom', spec, { metadata: { name, uid: `uid-${name}`, resourceVersion: String(version) } });
  };
  return { ...stores, queued, causes, connector };
}

const child = (owner: { name: string; kind?: string; apiVersion?: string } | undefined, version = '5'): Child => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: {
    name: 'clickup',
    namespace: 'team',
    uid: 'child',
    resourceVersion: version,
    creationTimestamp: '2026-01-01T00:00:00Z',
    ...(owner && {
      ownerReferences: [
        { apiVersion: 'connectors.aitronos.com/v1', kind: 'PersonalConnector', uid: UID, controller: true, ...owner },
      ],
    }),
  },
});

const pod = (namespace: string, name: string, version: string) =>
  projectPod({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'p',
      namespace,
      uid: 'p',
      resourceVersion: version,
      creationTimestamp: '2026-01-01T00:00:00Z',
      labels: { app: 'x', 'connectors.aitronos.com/connector': name },
    },
  });

describe('a change', () => {
  it('of a Secret or ConfigMap concerns the connectors of its namespace whose probes read it', () => {
    const { connectors, references, queued, causes, connector } = make();
    const secretKeyRef = { name: 'token', key: 'k' };
    const headers = [{ name: 'Authorization', valueFrom: { secretKeyRef } }];
    connectors.upsert(connector('a', { probe: { headers } }));
    connectors.upsert(connector('b', { probe: { caBundle: { secretKeyRef } } }));
    connectors.upsert(connector('c', { probe: { caBundle: { configMapKeyRef: secretKeyRef } } }));
    connectors.upsert(connector('d'));
    const changes: [string, string[]][] = [];
    for (const [kind, namespace, name] of [
      ['Secret', 'team', 'token'],
      ['ConfigMap', 'team', 'token'],
      ['Secret', 'other', 'token'],
      ['Secret', 'team', 'other'],
    ] as const) {
      queued.length = 0;
      references[kind].upsert({ metadata: { namespace, name, uid: 'u', resourceVersion: '5' } });
      changes.push([`${kind} ${namespace}/${name}`, [...queued]]);
    }
    expect(changes).toEqual([
      ['Secret team/token', ['team/a high', 'team/b high']],
      ['ConfigMap team/token', ['team/c high']],
      ['Secret other/token', []],
      ['Secret team/other', []],
    ]);
    expect(causes.slice(-3)).toEqual(['Secret', 'Secret', 'ConfigMap']);
    connectors.upsert(connector('a'));
    queued.length = 0;
    references.Secret.remove({ metadata: { namespace: 'team', name: 'token', uid: 'u', resourceVersion: '6' } });
    expect(queued).toEqual(['team/b high']);
  });

  it('names the kind of what changed as its cause', () => {
    const { connectors, children, pods, causes, connector } = make();
    connectors.upsert(connector('a', { id: 'pcon_x' }));
    connectors.upsert(connector('b', { id: 'pcon_x' }));
    children.Deployment.upsert(child({ name: 'a' }));
    children.Service.upsert(child({ name: 'a' }));
    children.NetworkPolicy.upsert(child({ name: 'a' }));
    pods.upsert(pod('team', 'a', '5'));
    expect(causes).toEqual([
      'PersonalConnector',
      'PersonalConnector',
      // A namesake by id.
      'PersonalConnector',
      'Deployment',
      'Service',
      'NetworkPolicy',
      'Pod',
    ]);
  });

  it('of a connector concerns it: low at first sight, high later', () => {
    const { connectors, queued, connector } = make();
    connectors.upsert(connector('a'));
    connectors.upsert(connector('a'));
    connectors.remove(connector('a'));
    expect(queued).toEqual(['team/a low', 'team/a high', 'team/a high']);
  });

  it('of a pinned id concerns all that pin the old or the new one', () => {
    const { connectors, queued, connector } = make();
    for (const [name, id] of [
      ['a', 'pcon_x'],
      ['b', 'pcon_x'],
      ['c', 'pcon_y'],
      ['d', 'pcon_z'],
    ] as const) {
      connectors.upsert(connector(name, { id }));
    }
    queued.length = 0;
    connectors.upsert(connector('a', { id: 'pcon_y' }));
    expect(new Set(queued)).toEqual(new Set(['team/a high', 'team/b high', 'team/c high']));
    queued.length = 0;
    connectors.remove(connector('a', { id: 'pcon_y' }));
    expect(new Set(queued)).toEqual(new Set(['team/a high', 'team/c high']));
    queued.length = 0;
    connectors.upsert(connector('b', { id: 'pcon_x', description: 'new' }));
    expect(queued).toEqual(['team/b high']);
  });

  it('of a child concerns its owners, the one that it lost as well', () => {
    const { children, queued } = make();
    children.Deployment.upsert(child({ name: 'a' }, '5'));
    children.Deployment.upsert(child({ name: 'b' }, '6'));
    children.Deployment.upsert(child(undefined, '7'));
    children.Deployment.upsert(child({ name: 'a' }, '8'));
    children.Deployment.remove(child({ name: 'a' }, '9'));
    expect(queued).toEqual(['team/a high', 'team/a high', 'team/b high', 'team/b high', 'team/a high', 'team/a high']);
  });

  it.each([
    ['of another kind', { name: 'a', kind: 'Deployment', apiVersion: 'apps/v1' }],
    ['of another group', { name: 'a', apiVersion: 'example.com/v1' }],
    ['of a group whose name begins like ours', { name: 'a', apiVersion: 'connectors.aitronos.com.evil.example/v1' }],
  ])('of a child with an owner %s concerns nobody', (_what, owner) => {
    const { children, queued } = make();
    children.Service.upsert(child(owner));
    expect(queued).toEqual([]);
  });

  it('of a Pod concerns the connector that it runs for, in its own namespace', () => {
    const { connectors, pods, queued, connector } = make();
    connectors.upsert(connector('a'));
    connectors.upsert(connector('b'));
    queued.length = 0;
    pods.upsert(pod('team', 'a', '5'));
    pods.remove(pod('team', 'a', '6'));
    pods.upsert(pod('other', 'a', '7'));
    pods.upsert(pod('team', 'unknown', '8'));
    expect(queued).toEqual(['team/a high', 'team/a high']);
  });
});

describe('regressions', () => {
  it('lets the first sight of a connector with a pinned id wait behind changes as well', () => {
    const { connectors, queued, connector } = make();
    connectors.upsert(connector('a', { id: 'pcon_x' }));
    expect(queued).toEqual(['team/a low']);
  });
});
