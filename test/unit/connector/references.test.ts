import { describe, expect, it } from 'vitest';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import { createInputReader, createReferenceStores, referencesOf } from '../../../src/connector/references.ts';
import type { KubeClient } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { fakeClient, makeConnector } from '../support.ts';

const { signal } = new AbortController();

/** A namespace with Secrets and ConfigMaps, of which the operator sees metadata, and may get them. */
function make(status = 200) {
  const stores = createReferenceStores();
  const objects = new Map<string, object>();
  const reads: string[] = [];
  let version = 0;
  const get = async (type: { kind: string }, { name }: { name: string }) => {
    reads.push(`${type.kind}/${name}`);
    const found = objects.get(`${type.kind}/${name}`);
    if (status !== 200 || !found) throw new ApiError('get', status === 200 ? 404 : status, '{}');
    return found;
  };
  const read = createInputReader(fakeClient({ get: get as KubeClient['get'] }), stores);
  return {
    stores,
    reads,
    put(kind: 'Secret' | 'ConfigMap', name: string, content: object, uid = 'u') {
      version += 1;
      const metadata = { name, namespace: 'team', uid, resourceVersion: String(version) };
      objects.set(`${kind}/${name}`, { metadata, ...content });
      if (!stores[kind].filledIn('team')) stores[kind].within('team').replace([], '0');
      stores[kind].upsert({ metadata } as never);
    },
    remove(kind: 'Secret' | 'ConfigMap', name: string) {
      objects.delete(`${kind}/${name}`);
      version += 1;
      stores[kind].remove({
        metadata: { name, namespace: 'team', uid: 'u', resourceVersion: String(version) },
      } as never);
    },
    inputs: async (spec: Partial<PersonalConnectorSpec> = {}) =>
      Object.fromEntries(await read(makeConnector('aitronos_built', spec), signal)),
  };
}

const OWN = {
  hosting: {
    env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'settings', key: 'a' } } }],
    envFrom: [{ secretRef: { name: 'own' } }],
  },
};

describe('what a hosted server is given', () => {
  it('is read once for each version of it', async () => {
    const { put, inputs, reads } = make();
    put('Secret', 'clickup-credentials', { data: { TOKEN: 'eA==' } });
    const first = await inputs();
    expect(first).toEqual({
      'Secret/clickup-credentials': { keys: new Set(['TOKEN']), digest: expect.stringMatching(/^[0-9a-f]{64}$/) },
    });
    expect(await inputs()).toEqual(first);
    expect(reads).toEqual(['Secret/clickup-credentials']);
    // A label is no other content.
    put('Secret', 'clickup-credentials', { data: { TOKEN: 'eA==' } });
    expect(await inputs()).toEqual(first);
    put('Secret', 'clickup-credentials', { data: { TOKEN: 'eQ==' } });
    expect(await inputs()).not.toEqual(first);
    expect(reads).toHaveLength(3);
  });

  it('has the same digest in whatever order it comes, and another one in another object', async () => {
    const { put, inputs } = make();
    put('Secret', 'clickup-credentials', { data: { A: '1', B: '2' } });
    const first = await inputs();
    put('Secret', 'clickup-credentials', { data: { B: '2', A: '1' } });
    expect(await inputs()).toEqual(first);
    put('Secret', 'clickup-credentials', { data: { A: '1', B: '2' } }, 'another');
    expect(await inputs()).not.toEqual(first);
  });

  it('is all that its environment names', async () => {
    const { put, inputs } = make();
    put('Secret', 'own', { data: {} });
    put('ConfigMap', 'settings', { data: { a: '1' }, binaryData: { b: 'AA==' } });
    expect(await inputs(OWN)).toMatchObject({
      'Secret/clickup-credentials': 'missing',
      'Secret/own': { keys: new Set() },
      'ConfigMap/settings': { keys: new Set(['a', 'b']) },
    });
  });

  it('is missing when it is gone, also before the watch tells', async () => {
    const { put, remove, inputs, stores } = make();
    put('Secret', 'clickup-credentials', { data: { A: '1' } });
    await inputs();
    remove('Secret', 'clickup-credentials');
    expect(await inputs()).toEqual({ 'Secret/clickup-credentials': 'missing' });
    const metadata = { name: 'clickup-credentials', namespace: 'team', uid: 'u', resourceVersion: '77' };
    stores.Secret.upsert({ metadata } as never);
    expect(await inputs()).toEqual({ 'Secret/clickup-credentials': 'missing' });
  });

  it('is not known without the right to watch it, or to get it', async () => {
    expect(await make().inputs(OWN)).toEqual({});
    const { put, inputs } = make(403);
    put('Secret', 'clickup-credentials', { data: {} });
    expect(await inputs()).toEqual({});
  });

  it('is pending as long as the watch has not told of all', async () => {
    const { inputs, stores } = make();
    stores.Secret.watched = true;
    stores.ConfigMap.watched = true;
    stores.Secret.within('other').replace([], '1');
    expect(await inputs(OWN)).toEqual({
      'Secret/clickup-credentials': 'pending',
      'Secret/own': 'pending',
      'ConfigMap/settings': 'pending',
    });
  });

  it('that cannot be had is tried again', async () => {
    const { put, inputs } = make(500);
    put('Secret', 'clickup-credentials', { data: {} });
    await expect(inputs()).rejects.toThrow();
  });
});

describe('a connector is looked at again', () => {
  it('when any object changes that it names', () => {
    const probe = { headers: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'probing', key: 'k' } } }] };
    expect(referencesOf(makeConnector('aitronos_built', { ...OWN, probe })).sort()).toEqual([
      'ConfigMap/team/settings',
      'Secret/team/clickup-credentials',
      'Secret/team/own',
      'Secret/team/probing',
    ]);
    expect(referencesOf(makeConnector('custom', { probe }))).toEqual(['Secret/team/probing']);
  });
});
