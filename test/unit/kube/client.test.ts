import { describe, expect, it } from 'vitest';
import { createClient, type KubeClient, type RequestDefaults } from '../../../src/kube/client.ts';
import type { ApiRequest } from '../../../src/kube/transport.ts';
import { makeConnector, UID } from '../support.ts';

const PODS = { group: '', version: 'v1', plural: 'pods', kind: 'Pod' };
const CONNECTORS = {
  group: 'connectors.aitronos.com',
  version: 'v1',
  plural: 'personalconnectors',
  kind: 'PersonalConnector',
};
const live = new AbortController().signal;
const at = { namespace: 'team', name: 'mine' };
const object = makeConnector('custom', {}, { metadata: { name: 'mine' } });
const COLLECTION = '/apis/connectors.aitronos.com/v1/namespaces/team/personalconnectors';

/** The one request that a call makes, with the query apart. */
async function asked(call: (client: KubeClient) => Promise<unknown>, defaults: RequestDefaults = {}): Promise<object> {
  const requests: (ApiRequest & { how: string })[] = [];
  await call(
    createClient(
      {
        async call<T>(request: ApiRequest): Promise<T> {
          requests.push({ ...request, how: 'call' });
          return {} as T;
        },
        async stream(request) {
          requests.push({ ...request, how: 'stream' });
          return (async function* () {})();
        },
        reset() {},
        async close() {},
      },
      defaults,
    ),
  );
  expect(requests).toHaveLength(1);
  return requests.map(({ path, signal, ...rest }) => {
    expect(signal).toBe(live);
    const [pathname, query] = path.split('?');
    return { path: pathname, ...(query && { query: Object.fromEntries(new URLSearchParams(query)) }), ...rest };
  })[0] as object;
}

describe('a client', () => {
  it.each<[string, (client: KubeClient) => Promise<unknown>, object]>([
    [
      'gets an object of the core API',
      client => client.get(PODS, at, live),
      { how: 'call', method: 'GET', path: '/api/v1/namespaces/team/pods/mine' },
    ],
    [
      'gets an object of a group',
      client => client.get(CONNECTORS, at, live),
      { how: 'call', method: 'GET', path: `${COLLECTION}/mine` },
    ],
    [
      'escapes names',
      client => client.get(PODS, { namespace: 'a/b', name: '../c?d' }, live),
      { how: 'call', method: 'GET', path: '/api/v1/namespaces/a%2Fb/pods/..%2Fc%3Fd' },
    ],
    [
      'lists all namespaces, 500 objects at a time',
      client => client.list(PODS, {}, live),
      { how: 'call', method: 'GET', path: '/api/v1/pods', query: { limit: '500' } },
    ],
    [
      'lists on, in one namespace and by label',
      client => client.list(PODS, { namespace: 'team', labelSelector: 'a=b,c', continue: 'x+/=' }, live),
      {
        how: 'call',
        method: 'GET',
        path: '/api/v1/namespaces/team/pods',
        query: { limit: '500', labelSelector: 'a=b,c', continue: 'x+/=' },
      },
    ],
    [
      'watches with bookmarks, by a stream',
      client => client.watch(CONNECTORS, { namespace: 'team', resourceVersion: '7', timeoutSeconds: 300 }, live),
      {
        how: 'stream',
        method: 'GET',
        path: COLLECTION,
        query: { watch: 'true', allowWatchBookmarks: 'true', timeoutSeconds: '300', resourceVersion: '7' },
      },
    ],
    [
      'watches what there is as well when it has no version to go on from',
      client => client.watch(CONNECTORS, { timeoutSeconds: 300 }, live),
      {
        how: 'stream',
        method: 'GET',
        path: '/apis/connectors.aitronos.com/v1/personalconnectors',
        query: {
          watch: 'true',
          allowWatchBookmarks: 'true',
          timeoutSeconds: '300',
          sendInitialEvents: 'true',
          resourceVersionMatch: 'NotOlderThan',
        },
      },
    ],
    [
      'lists one object by its name',
      client => client.list(PODS, { namespace: 'team', name: 'mine' }, live),
      {
        how: 'call',
        method: 'GET',
        path: '/api/v1/namespaces/team/pods',
        query: { limit: '500', fieldSelector: 'metadata.name=mine' },
      },
    ],
    [
      'watches one object by its name',
      client => client.watch(PODS, { ...at, resourceVersion: '7', timeoutSeconds: 300 }, live),
      {
        how: 'stream',
        method: 'GET',
        path: '/api/v1/namespaces/team/pods',
        query: {
          watch: 'true',
          allowWatchBookmarks: 'true',
          timeoutSeconds: '300',
          resourceVersion: '7',
          fieldSelector: 'metadata.name=mine',
        },
      },
    ],
    [
      'replaces an object whole',
      client => client.replace(CONNECTORS, object, live),
      { how: 'call', method: 'PUT', path: `${COLLECTION}/mine`, body: object },
    ],
    [
      'applies by server-side apply, taking its own fields',
      client => client.apply(CONNECTORS, object, { fieldManager: 'me' }, live),
      {
        how: 'call',
        method: 'PATCH',
        path: `${COLLECTION}/mine`,
        query: { fieldManager: 'me', force: 'true' },
        contentType: 'application/apply-patch+yaml',
        body: object,
      },
    ],
    [
      'applies a status apart',
      client => client.apply(CONNECTORS, object, { fieldManager: 'me', subresource: 'status' }, live),
      {
        how: 'call',
        method: 'PATCH',
        path: `${COLLECTION}/mine/status`,
        query: { fieldManager: 'me', force: 'true' },
        contentType: 'application/apply-patch+yaml',
        body: object,
      },
    ],
    [
      'creates in the namespace of the object',
      client => client.create(CONNECTORS, object, live),
      { how: 'call', method: 'POST', path: COLLECTION, body: object },
    ],
    [
      'removes the object of this UID only',
      client => client.remove(CONNECTORS, object, live),
      {
        how: 'call',
        method: 'DELETE',
        path: `${COLLECTION}/mine`,
        body: {
          apiVersion: 'v1',
          kind: 'DeleteOptions',
          preconditions: { uid: UID },
          propagationPolicy: 'Background',
        },
      },
    ],
  ])('%s', async (_what, call, expected) => {
    expect(await asked(call)).toEqual(expected);
  });

  it.each<[string, (client: KubeClient) => Promise<unknown>]>([
    ['get', client => client.get(PODS, at, live)],
    ['list', client => client.list(PODS, {}, live)],
    ['apply', client => client.apply(CONNECTORS, object, { fieldManager: 'me' }, live)],
    ['create', client => client.create(CONNECTORS, object, live)],
    ['replace', client => client.replace(CONNECTORS, object, live)],
    ['remove', client => client.remove(CONNECTORS, object, live)],
  ])('sends all as it was told to, such as past the fence: %s', async (_what, call) => {
    expect(await asked(call, { unfenced: true, timeoutMs: 4_000 })).toMatchObject({ unfenced: true, timeoutMs: 4_000 });
    expect(await asked(call)).not.toHaveProperty('unfenced');
  });
});
