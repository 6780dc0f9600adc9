import { describe, expect, it } from 'vitest';
import type { Declared, KubeObject, OwnerReference } from '../../../src/api/meta.ts';
import {
  belongsTo,
  CHILD_SELECTOR,
  type Child,
  createChildStores,
  createPodStore,
  DEPLOYMENTS,
  holds,
  isOverruled,
  labelIndex,
  ownersOf,
  projectChild,
  projectConnector,
  projectPod,
  SERVICES,
  withHash,
} from '../../../src/connector/children.ts';
import { selectorLabels } from '../../../src/connector/names.ts';
import { CREATED, makeConnector, UID } from '../support.ts';

describe('what a live object holds', () => {
  it.each<[string, unknown, unknown, boolean]>([
    ['the same', { a: 1, b: 'x' }, { a: 1, b: 'x' }, true],
    ['another value', { a: 1 }, { a: 2 }, false],
    ['another type of value', { a: '1' }, { a: 1 }, false],
    ['nothing of it', undefined, { a: 1 }, false],
    ['null', { a: null }, { a: { b: 1 } }, false],
    ['a text instead of a map', { a: 'x' }, { a: { b: 1 } }, false],
    ['a default beside it', { a: 1, restartPolicy: 'Always' }, { a: 1 }, true],
    ['a default within it', { a: { b: 1, c: 2 } }, { a: { b: 1 } }, true],
    ['a label that another added', { labels: { ours: '1', theirs: '2' } }, { labels: { ours: '1' } }, true],
    ['less than it', { a: { b: 1 } }, { a: { b: 1, c: 2 } }, false],
    // Lists.
    ['the same list', [1, 2], [1, 2], true],
    ['a list in another order', [2, 1], [1, 2], false],
    ['a longer list', [1, 2, 3], [1, 2], false],
    ['a shorter list', [1], [1, 2], false],
    ['no list', { 0: 1 }, [1], false],
    ['a list whose items have defaults', [{ name: 'a', protocol: 'TCP' }], [{ name: 'a' }], true],
    ['a list whose items lack something', [{ name: 'a' }], [{ name: 'a', value: '1' }], false],
    // The API server leaves out what says nothing.
    ['no empty map', {}, { emptyDir: {} }, true],
    ['no map of an empty map', {}, { a: { b: {} } }, false],
    ['something in an empty map', { emptyDir: { sizeLimit: '1' } }, { emptyDir: {} }, true],
    // Fields that Kubernetes owns as a whole.
    ['the same selector', { selector: { app: 'x' } }, { selector: { app: 'x' } }, true],
    ['a selector with more', { selector: { app: 'x', v: '1' } }, { selector: { app: 'x' } }, false],
    ['a nodeSelector with more', { nodeSelector: { a: '1', b: '2' } }, { nodeSelector: { a: '1' } }, false],
    [
      'a podSelector with more',
      { podSelector: { matchLabels: { a: '1', b: '2' } } },
      { podSelector: { matchLabels: { a: '1' } } },
      false,
    ],
    [
      'a toleration with more',
      { tolerations: [{ key: 'a', effect: 'NoExecute' }] },
      { tolerations: [{ key: 'a' }] },
      false,
    ],
    ['an ingress rule with more', { ingress: [{ from: [{}], ports: [] }] }, { ingress: [{ from: [{}] }] }, false],
    ['more policy types', { policyTypes: ['Ingress', 'Egress'] }, { policyTypes: ['Ingress'] }, false],
    ['no selector', {}, { selector: { app: 'x' } }, false],
  ])('%s', (_what, live, declared, expected) => {
    expect(holds(live, declared)).toBe(expected);
  });

  it('is all of a Deployment as the API server gives it back', () => {
    const declared = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'a', namespace: 'n', labels: { a: '1' } },
      spec: {
        selector: { matchLabels: { a: '1' } },
        template: {
          metadata: { labels: { a: '1' } },
          spec: {
            containers: [{ name: 'server', image: 'i', ports: [{ containerPort: 1 }] }],
            volumes: [{ name: 't', emptyDir: {} }],
          },
        },
      },
    };
    const live = structuredClone(declared) as Record<string, unknown> & typeof declared;
    Object.assign(live.metadata, {
      uid: 'u',
      resourceVersion: '1',
      annotations: { 'deployment.kubernetes.io/revision': '1' },
    });
    Object.assign(live.spec, { replicas: 1, progressDeadlineSeconds: 600 });
    Object.assign(live.spec.template.metadata, { creationTimestamp: null });
    Object.assign(live.spec.template.spec, { dnsPolicy: 'ClusterFirst', schedulerName: 'default-scheduler' });
    Object.assign(live.spec.template.spec.containers[0] ?? {}, { imagePullPolicy: 'IfNotPresent' });
    expect(holds({ ...live, status: { replicas: 1 } }, declared)).toBe(true);
  });
});

describe('the hash of a wish', () => {
  const wish = (spec: object, labels?: Record<string, string>): Declared & { spec: object } => ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'a', namespace: 'n', ...(labels && { labels }) },
    spec,
  });
  const hash = (object: Declared) => object.metadata.annotations?.['connectors.aitronos.com/applied'];

  it('is an annotation beside the others, and the wish itself stays as it is', () => {
    const object = { ...wish({ a: 1 }), metadata: { name: 'a', namespace: 'n', annotations: { b: '1' } } };
    expect(withHash(object)).toEqual({
      ...object,
      metadata: {
        name: 'a',
        namespace: 'n',
        annotations: { b: '1', 'connectors.aitronos.com/applied': expect.stringMatching(/^a\.[0-9a-f]{16}$/) },
      },
    });
    expect(object.metadata.annotations).toEqual({ b: '1' });
  });

  it('is the same for the same wish', () => {
    expect(hash(withHash(wish({ a: 1 })))).toBe(hash(withHash(wish({ a: 1 }))));
  });

  it.each([
    ['a field more', wish({ a: 1, b: 2 })],
    ['another value', wish({ a: 2 })],
    ['a label', wish({ a: 1 }, { x: 'y' })],
    ['another name', { ...wish({ a: 1 }), metadata: { name: 'b', namespace: 'n' } }],
  ])('changes with %s', (_what, other) => {
    expect(hash(withHash(other))).not.toBe(hash(withHash(wish({ a: 1 }))));
  });

  it('shows a field that is no longer wanted, though the live object holds all that still is', () => {
    const before = withHash(wish({ a: 1, b: 2 }));
    const now = withHash(wish({ a: 1 }));
    expect(holds(before, wish({ a: 1 }))).toBe(true);
    expect(holds(before, now)).toBe(false);
  });
});

const owner = (reference: Partial<OwnerReference> = {}): OwnerReference => ({
  apiVersion: 'connectors.aitronos.com/v1',
  kind: 'PersonalConnector',
  name: 'clickup',
  uid: UID,
  controller: true,
  ...reference,
});

const child = (metadata: Partial<KubeObject['metadata']> = {}): Child => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: {
    name: 'clickup',
    namespace: 'team',
    uid: 'c',
    resourceVersion: '5',
    creationTimestamp: CREATED,
    ...metadata,
  },
});

describe('a variable', () => {
  it.each<[string, object, object, boolean, boolean]>([
    ['is as declared', { name: 'A', value: 'x' }, { name: 'A', value: 'x' }, true, false],
    ['that is empty is left out by the API server', { name: 'A' }, { name: 'A', value: '' }, true, false],
    ['has another value', { name: 'A', value: 'y' }, { name: 'A', value: '' }, false, false],
    ['is taken from elsewhere instead', { name: 'A', valueFrom: {} }, { name: 'A', value: '' }, false, true],
    ['is from elsewhere, as declared', { name: 'A', valueFrom: {} }, { name: 'A', valueFrom: {} }, true, false],
  ])('that %s', (_what, live, declared, held, overruled) => {
    expect(holds({ env: [live] }, { env: [declared] })).toBe(held);
    expect(isOverruled({ env: [live] }, { env: [declared] })).toBe(overruled);
  });
});

describe('whether an object belongs to a connector', () => {
  const connector = makeConnector('aitronos_built');
  const labels = selectorLabels(connector.metadata);
  const annotations = { 'connectors.aitronos.com/applied': `${child({}).metadata.name}.x` };

  it.each<[string, Partial<KubeObject['metadata']>, boolean]>([
    ['one that it owns', { ownerReferences: [owner()] }, true],
    ['one that it owns beside others', { ownerReferences: [owner({ uid: 'o', controller: false }), owner()] }, true],
    ['one of a newer API version', { ownerReferences: [owner({ apiVersion: 'connectors.aitronos.com/v2' })] }, true],
    [
      'one of an earlier connector of its name',
      { ownerReferences: [owner({ uid: 'earlier' })], labels, annotations },
      false,
    ],
    ['one of a Helm release', { labels: { 'app.kubernetes.io/managed-by': 'Helm' } }, false],
    ['one without anything', {}, false],
    ['one that lost its owner', { labels, annotations }, true],
    ['one that lost its owner and has other labels too', { labels: { ...labels, x: 'y' }, annotations }, true],
    ['one with its labels that the operator never applied', { labels }, false],
    [
      'a copy that somebody made under another name',
      { labels, annotations: { 'connectors.aitronos.com/applied': 'clickup-other.x' } },
      false,
    ],
    [
      'one that was made for another connector',
      { labels: { ...labels, 'connectors.aitronos.com/connector': 'jira' }, annotations },
      false,
    ],
    [
      'one with another controller',
      {
        labels,
        annotations,
        ownerReferences: [{ apiVersion: 'x/v1', kind: 'X', name: 'x', uid: 'x', controller: true }],
      },
      false,
    ],
    [
      'one with an owner that is no controller',
      { labels, annotations, ownerReferences: [{ apiVersion: 'x/v1', kind: 'X', name: 'x', uid: 'x' }] },
      true,
    ],
    ['one whose owner has its UID and another kind', { ownerReferences: [owner({ kind: 'Other' })] }, false],
    [
      'one whose owner has its UID and another group',
      { ownerReferences: [owner({ apiVersion: 'example.com/v1' })] },
      false,
    ],
  ])('%s: %#', (_what, metadata, expected) => {
    expect(belongsTo(child(metadata), connector, labels)).toBe(expected);
  });

  it('is told by owners of our kind and group only', () => {
    const references = [owner(), owner({ kind: 'Other' }), owner({ apiVersion: 'connectors.aitronos.com.evil/v1' })];
    expect(ownersOf(child({ ownerReferences: references }))).toEqual([owner()]);
  });
});

describe('the caches', () => {
  it('find a child by the UID of its owner', () => {
    const { Deployment } = createChildStores();
    Deployment.upsert(child({ ownerReferences: [owner({ uid: 'a' })] }));
    expect(Deployment.byIndex('owner', 'a')).toHaveLength(1);
    expect(Deployment.byIndex('owner', UID)).toEqual([]);
  });

  it('find a Pod by its namespace and the label of its connector', () => {
    const store = createPodStore();
    store.upsert(projectPod({ ...child({ labels: { 'connectors.aitronos.com/connector': 'mine' } }), kind: 'Pod' }));
    expect(store.byIndex('connector', labelIndex('team', 'mine'))).toHaveLength(1);
    expect(store.byIndex('connector', labelIndex('other', 'mine'))).toEqual([]);
    expect(store.byIndex('connector', labelIndex('team', undefined))).toEqual([]);
  });

  it('ask for what carries our labels only', () => {
    expect(CHILD_SELECTOR).toBe(
      'app.kubernetes.io/managed-by=personal-connector-operator,connectors.aitronos.com/connector',
    );
  });
});

describe('what is kept of an object', () => {
  const metadata = {
    name: 'clickup',
    namespace: 'team',
    uid: 'c',
    resourceVersion: '5',
    creationTimestamp: CREATED,
    generation: 2,
    deletionTimestamp: CREATED,
    labels: { 'connectors.aitronos.com/connector': 'clickup', app: 'x' },
    annotations: { 'connectors.aitronos.com/applied': 'clickup.1' },
    ownerReferences: [owner()],
  };
  const raw = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: {
      ...metadata,
      annotations: { ...metadata.annotations, 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
      managedFields: [{}],
      selfLink: '/x',
      finalizers: ['f'],
    },
    spec: { replicas: 1 },
    status: { replicas: 1 },
  };

  it('is all of a Deployment but its managed fields and the annotations of others', () => {
    expect(projectChild(DEPLOYMENTS)(raw)).toStrictEqual({
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: { replicas: 1 },
      status: { replicas: 1 },
    });
  });

  it('is no status of others, and the type that items of a list lack', () => {
    const { apiVersion: _version, kind: _kind, ...item } = raw;
    expect(projectChild(SERVICES)(item as typeof raw)).toStrictEqual({
      apiVersion: 'v1',
      kind: 'Service',
      metadata,
      spec: { replicas: 1 },
    });
  });

  it('is spec and status of a connector', () => {
    const { labels: _labels, ownerReferences: _owners, ...kept } = metadata;
    const connector = makeConnector('custom', {}, { metadata: kept, status: { observedGeneration: 2 } });
    const withMore = { ...connector, metadata: { ...connector.metadata, ...raw.metadata } };
    expect(projectConnector(withMore)).toStrictEqual(connector);
  });

  it('is of a Pod what tells why it does not run', () => {
    const containerStatuses = [{ name: 'server', ready: true, restartCount: 0, image: 'i' }];
    const pod = {
      ...raw,
      kind: 'Pod',
      status: { phase: 'Running', conditions: [], containerStatuses, hostIP: '10.0.0.1', qosClass: 'Burstable' },
    };
    expect(projectPod(pod)).toStrictEqual({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name: 'clickup',
        namespace: 'team',
        uid: 'c',
        resourceVersion: '5',
        creationTimestamp: CREATED,
        deletionTimestamp: CREATED,
        labels: { 'connectors.aitronos.com/connector': 'clickup' },
      },
      status: { phase: 'Running', conditions: [], containerStatuses },
    });
  });

  it('is little of a Pod that has just been made', () => {
    const { status: _status, ...young } = {
      ...raw,
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'n', uid: 'u', resourceVersion: '1', creationTimestamp: CREATED },
    };
    expect(projectPod(young)).toStrictEqual({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'n', uid: 'u', resourceVersion: '1', creationTimestamp: CREATED },
      status: {},
    });
  });
});

describe('regressions', () => {
  it.each([
    ['an empty nodeSelector', {}, { nodeSelector: {} }],
    ['no tolerations', {}, { tolerations: [] }],
    ['no arguments', {}, { args: [] }],
  ])(
    'takes %s, which the API server leaves out, for what is there: else each start of the operator applies it again',
    (_what, live, declared) => {
      expect(holds(live, declared)).toBe(true);
    },
  );
});
