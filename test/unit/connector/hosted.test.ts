import { describe, expect, it } from 'vitest';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import type { Declared } from '../../../src/api/meta.ts';
import type { Child, Deployment, Pod } from '../../../src/connector/children.ts';
import { deploymentState, hosted } from '../../../src/connector/hosted.ts';
import type { Plan } from '../../../src/connector/plan.ts';
import type { PolicyInput } from '../../../src/connector/policy.ts';
import { CREATED, makeConnector, makeContext, UID } from '../support.ts';

function plan(
  spec: Partial<PersonalConnectorSpec> = {},
  { bridgeImage, ...policy }: PolicyInput & { bridgeImage?: string } = {},
  name = 'clickup',
): Plan {
  return hosted.plan(
    makeConnector('aitronos_built', spec, { metadata: { name } }),
    makeContext(policy, { bridgeImage }),
  );
}

const HASH = { 'connectors.aitronos.com/applied': expect.stringMatching(/^(clickup|my-service)\.[0-9a-f]{16}$/) };

const OWNERS = (name: string) => [
  {
    apiVersion: 'connectors.aitronos.com/v1',
    kind: 'PersonalConnector',
    name,
    uid: UID,
    controller: true,
    blockOwnerDeletion: false,
  },
];

const SELECTOR = (name: string) => ({
  'app.kubernetes.io/managed-by': 'personal-connector-operator',
  'connectors.aitronos.com/connector': name,
});

/** What every Pod has, whatever the connector. */
const POD = {
  automountServiceAccountToken: false,
  enableServiceLinks: false,
  securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
  terminationGracePeriodSeconds: 30,
  topologySpreadConstraints: [
    {
      maxSkew: 1,
      topologyKey: 'kubernetes.io/hostname',
      whenUnsatisfiable: 'ScheduleAnyway',
      labelSelector: { matchLabels: SELECTOR('clickup') },
      matchLabelKeys: ['pod-template-hash'],
    },
  ],
  volumes: [{ name: 'tmp', emptyDir: { sizeLimit: '256Mi' } }],
};

const CONTAINER = {
  imagePullPolicy: 'IfNotPresent',
  name: 'server',
  securityContext: {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  },
  volumeMounts: [{ name: 'tmp', mountPath: '/tmp' }],
  lifecycle: { preStop: { sleep: { seconds: 5 } } },
  terminationMessagePolicy: 'FallbackToLogsOnError',
  startupProbe: { tcpSocket: { port: 'mcp' }, periodSeconds: 1, failureThreshold: 120 },
  readinessProbe: { tcpSocket: { port: 'mcp' }, periodSeconds: 5, failureThreshold: 2 },
};

const ROLLOUT = {
  revisionHistoryLimit: 3,
  progressDeadlineSeconds: 300,
  strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
};

describe('the children of a connector that says no more than its type', () => {
  const labels = {
    'app.kubernetes.io/name': 'clickup',
    'app.kubernetes.io/instance': 'clickup',
    'app.kubernetes.io/version': '1.2.0',
    'app.kubernetes.io/component': 'mcp-server',
    ...SELECTOR('clickup'),
  };
  const metadata = {
    name: 'clickup',
    namespace: 'team',
    labels,
    ownerReferences: OWNERS('clickup'),
    annotations: HASH,
  };

  it('are these', () => {
    const { accepted, children, serverUrl, serverType } = plan();
    expect({ accepted, serverUrl, serverType }).toEqual({
      accepted: { status: 'True', reason: 'Accepted', message: 'the spec is valid and is served' },
      serverUrl: 'http://clickup.team.svc.cluster.local:8000/mcp',
      serverType: 'http',
    });
    expect(children?.map(({ object }) => object)).toStrictEqual([
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata,
        spec: {
          ...ROLLOUT,
          selector: { matchLabels: SELECTOR('clickup') },
          template: {
            metadata: { labels },
            spec: {
              ...POD,
              containers: [
                {
                  ...CONTAINER,
                  image: 'registry.example.com/clickup-mcp:1.2.0',
                  ports: [{ name: 'mcp', containerPort: 8000, protocol: 'TCP' }],
                  resources: {
                    requests: { cpu: '50m', memory: '128Mi' },
                    limits: { cpu: '1', memory: '512Mi' },
                  },
                },
              ],
            },
          },
        },
      },
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata,
        spec: {
          type: 'ClusterIP',
          selector: SELECTOR('clickup'),
          sessionAffinity: 'ClientIP',
          ports: [{ name: 'mcp', port: 8000, targetPort: 'mcp', protocol: 'TCP' }],
        },
      },
      {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata,
        spec: {
          podSelector: { matchLabels: SELECTOR('clickup') },
          policyTypes: ['Ingress'],
          ingress: [{ from: [{ podSelector: {} }], ports: [{ port: 8000, protocol: 'TCP' }] }],
        },
      },
    ]);
  });

  it('are of the types that they say', () => {
    for (const { type, object } of plan().children ?? []) expect(type.kind).toBe(object.kind);
  });

  it('are the same each time, hash and all', () => {
    expect(plan()).toEqual(plan());
  });

  it.each([
    ['registry.example.com/mine:3', 'IfNotPresent'],
    ['registry.example.com:5000/mine', 'Always'],
    ['registry.example.com/mine:latest', 'Always'],
    ['registry.example.com/mine@sha256:00', 'IfNotPresent'],
    ['registry.example.com/mine:latest@sha256:00', 'IfNotPresent'],
  ])('pull %s %s, as Kubernetes would choose for a new Deployment', (image, policy) => {
    const { children } = plan({ hosting: { image } }, { allowedImages: ['*'] });
    expect(JSON.stringify(children?.[0]?.object)).toContain(`"imagePullPolicy":"${policy}"`);
  });

  it('never set the number of Pods, which an autoscaler may own', () => {
    expect(deploymentOf(plan()).spec).not.toHaveProperty('replicas');
  });
});

describe('the children of a connector that says everything', () => {
  const policy: PolicyInput = {
    catalog: {
      clickup: {
        image: 'registry.example.com/clickup-mcp',
        defaultVersion: '1.2.0',
        port: 9000,
        path: '/catalog',
        command: ['catalog'],
        args: ['catalog'],
        env: { OVERRIDDEN: 'catalog', FROM_CATALOG: 'yes' },
        requiredSecretKeys: ['TOKEN'],
        resources: { limits: { cpu: '9' } },
      },
    },
    allowedImages: ['registry.example.com/mine:*'],
    clusterDomain: 'corp.internal',
  };
  const tolerations = [{ key: 'gpu', operator: 'Exists' as const, effect: 'NoSchedule' as const }];
  const spec: Partial<PersonalConnectorSpec> = {
    version: '2.0.0+build.5',
    serverType: 'http',
    serverUrl: 'http://my-service.team.svc:80/from-url',
    hosting: {
      image: 'registry.example.com/mine:3',
      command: ['/bin/server'],
      args: ['--mcp'],
      port: 7000,
      path: '/from-hosting',
      env: [
        { name: 'OVERRIDDEN', value: 'mine' },
        { name: 'KEY', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
      ],
      envFrom: [{ prefix: 'P_', secretRef: { name: 'all' } }, { configMapRef: { name: 'cm', optional: true } }],
      replicas: 3,
      resources: { requests: { cpu: 1 } },
      imagePullSecrets: [{ name: 'pull' }],
      nodeSelector: { disk: 'ssd' },
      tolerations,
      allowFrom: [{ namespaceSelector: { matchLabels: { team: 'chat' } } }, { ipBlock: { cidr: '10.0.0.0/8' } }],
    },
  };
  const made = hosted.plan(
    makeConnector('aitronos_built', spec),
    makeContext(policy, { operatorNamespace: 'operator-system' }),
  );
  const [deployment, service, networkPolicy, budget] = made.children?.map(({ object }) => object) ?? [];

  it('are at the address that it names', () => {
    expect(made.serverUrl).toBe('http://my-service.team.svc.corp.internal/from-url');
    expect(made.serverType).toBe('http');
  });

  it('are a Deployment of its settings, which come before those of the catalog', () => {
    expect(deployment?.metadata.name).toBe('clickup');
    expect(deployment?.metadata.labels?.['app.kubernetes.io/version']).toMatch(/^[a-zA-Z0-9]([\w.-]*[a-zA-Z0-9])?$/);
    expect((deployment as { spec?: unknown }).spec).toStrictEqual({
      ...ROLLOUT,
      replicas: 3,
      selector: { matchLabels: SELECTOR('clickup') },
      template: {
        metadata: { labels: deployment?.metadata.labels },
        spec: {
          ...POD,
          imagePullSecrets: [{ name: 'pull' }],
          nodeSelector: { disk: 'ssd' },
          tolerations,
          containers: [
            {
              ...CONTAINER,
              image: 'registry.example.com/mine:3',
              command: ['/bin/server'],
              args: ['--mcp'],
              ports: [{ name: 'mcp', containerPort: 7000, protocol: 'TCP' }],
              env: [
                { name: 'FROM_CATALOG', value: 'yes' },
                { name: 'OVERRIDDEN', value: 'mine' },
                { name: 'KEY', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
              ],
              envFrom: [{ prefix: 'P_', secretRef: { name: 'all' } }, { configMapRef: { name: 'cm', optional: true } }],
              resources: { requests: { cpu: 1 } },
            },
          ],
        },
      },
    });
  });

  it('are the Service that it names, at the port that it names', () => {
    expect(service).toStrictEqual({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { ...deployment?.metadata, name: 'my-service', annotations: HASH },
      spec: {
        type: 'ClusterIP',
        selector: SELECTOR('clickup'),
        sessionAffinity: 'ClientIP',
        ports: [{ name: 'mcp', port: 80, targetPort: 'mcp', protocol: 'TCP' }],
      },
    });
  });

  it('are a PodDisruptionBudget, as it has several Pods', () => {
    expect(budget).toStrictEqual({
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { ...deployment?.metadata, annotations: HASH },
      spec: {
        maxUnavailable: 1,
        unhealthyPodEvictionPolicy: 'AlwaysAllow',
        selector: { matchLabels: SELECTOR('clickup') },
      },
    });
  });

  it('are a NetworkPolicy that lets in its namespace, the operator and whom it names, to the port of the Pod', () => {
    expect((networkPolicy as { spec?: unknown }).spec).toStrictEqual({
      podSelector: { matchLabels: SELECTOR('clickup') },
      policyTypes: ['Ingress'],
      ingress: [
        {
          from: [
            { podSelector: {} },
            {
              namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'operator-system' } },
              podSelector: {
                matchLabels: {
                  'app.kubernetes.io/component': 'operator',
                  'app.kubernetes.io/name': 'personal-connector-operator',
                },
              },
            },
            { namespaceSelector: { matchLabels: { team: 'chat' } } },
            { ipBlock: { cidr: '10.0.0.0/8' } },
          ],
          ports: [{ port: 7000, protocol: 'TCP' }],
        },
      ],
    });
  });
});

describe('the Pod of a server that speaks stdio', () => {
  const entry = {
    image: 'r.example.com/teams',
    defaultVersion: '1.0',
    serverType: 'stdio',
    command: ['node', '/app/teams.js'],
    args: ['--quiet'],
    env: { LOG: 'warn' },
    requiredSecretKeys: ['TOKEN'],
    port: 9000,
    path: '/teams',
  };
  const policy = { catalog: { clickup: entry }, bridgeImage: 'r.example.com/operator:1.2.3' };
  const made = plan({ hosting: { env: [{ name: 'LANG', value: 'C' }] } }, policy);
  const READY = { path: '/.bridge/ready', port: 'mcp' };
  const podOf = (made: Plan) => (deploymentOf(made).spec as { template: { spec: object } }).template.spec;

  it('is served over HTTP by a bridge that an init container brings', () => {
    expect(made).toMatchObject({ serverUrl: 'http://clickup.team.svc.cluster.local:9000/teams', serverType: 'http' });
    expect(podOf(made)).toStrictEqual({
      ...POD,
      shareProcessNamespace: true,
      volumes: [...POD.volumes, { name: 'bridge', emptyDir: { sizeLimit: '256Mi' } }],
      initContainers: [
        {
          name: 'bridge',
          image: 'r.example.com/operator:1.2.3',
          imagePullPolicy: 'IfNotPresent',
          command: ['node', '/app/bridge.mjs', 'inject', '/bridge'],
          resources: { requests: { cpu: '10m', memory: '64Mi' }, limits: { cpu: '1', memory: '256Mi' } },
          securityContext: CONTAINER.securityContext,
          volumeMounts: [{ name: 'bridge', mountPath: '/bridge' }],
          terminationMessagePolicy: 'FallbackToLogsOnError',
        },
      ],
      containers: [
        {
          ...CONTAINER,
          lifecycle: undefined,
          image: 'r.example.com/teams:1.0',
          command: ['/bridge/loader', '--library-path', '/bridge/lib', '/bridge/node', '/bridge/bridge.mjs'],
          args: [
            ...['--port', '9000', '--path', '/teams', '--max-sessions', '16', '--idle', '900'],
            ...['--plain', 'LOG', '--plain', 'LANG', '--', 'node', '/app/teams.js', '--quiet'],
          ],
          ports: [{ name: 'mcp', containerPort: 9000, protocol: 'TCP' }],
          env: [
            { name: 'LOG', value: 'warn' },
            { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'clickup-credentials', key: 'TOKEN' } } },
            { name: 'LANG', value: 'C' },
          ],
          envFrom: [{ secretRef: { name: 'clickup-credentials' } }],
          resources: { requests: { cpu: '50m', memory: '128Mi' }, limits: { cpu: '1', memory: '512Mi' } },
          volumeMounts: [...CONTAINER.volumeMounts, { name: 'bridge', mountPath: '/bridge', readOnly: true }],
          startupProbe: { ...CONTAINER.startupProbe, tcpSocket: undefined, httpGet: READY, timeoutSeconds: 5 },
          readinessProbe: { ...CONTAINER.readinessProbe, tcpSocket: undefined, httpGet: READY, timeoutSeconds: 5 },
        },
      ].map(withoutUndefined),
    });
  });

  it.each([
    [{ stateless: true }, ['--stateless', '--processes', '1']],
    [{ stateless: true, processes: 3 }, ['--stateless', '--processes', '3']],
    [{ maxSessions: 4, idleSeconds: 60 }, ['--max-sessions', '4', '--idle', '60']],
  ])('is told by the catalog how sessions are served: %j', (more, args) => {
    const { containers } = podOf(plan({}, { ...policy, catalog: { clickup: { ...entry, ...more } } })) as {
      containers: [{ args: string[] }];
    };
    expect(containers[0].args.slice(4, 4 + args.length)).toEqual(args);
  });

  it('may be of an image and a command of its own', () => {
    const hosting = { image: 'own/server:2', command: ['/server'], args: ['stdio'] };
    const own = plan({ serverType: 'stdio', hosting }, { ...policy, allowedImages: ['own/*'], catalog: {} });
    const { containers } = podOf(own) as { containers: [{ image: string; args: string[] }] };
    expect(containers[0].image).toBe('own/server:2');
    expect(containers[0].args.slice(-3)).toEqual(['--', '/server', 'stdio']);
  });

  /** What is said not to be there is not. */
  function withoutUndefined<T>(value: T): T {
    return JSON.parse(JSON.stringify(value)) as T;
  }
});

interface Container {
  image: string;
  env?: { name: string }[];
  envFrom?: object[];
}

function deploymentOf({ children }: Plan): Declared & { spec: Record<string, unknown> } {
  const found = children?.find(({ type }) => type.kind === 'Deployment')?.object;
  if (!found) throw new Error('no Deployment is planned');
  return found as Declared & { spec: Record<string, unknown> };
}

function containerOf(made: Plan): Container {
  const { template } = deploymentOf(made).spec as { template: { spec: { containers: [Container] } } };
  return template.spec.containers[0];
}

const catalogOf = (entry: object): PolicyInput => ({
  catalog: { clickup: { image: 'r/clickup', defaultVersion: '1', ...entry } },
});

/** A Deployment as it is in the cluster, with so many Pods, and as many to come back to. */
const liveOf = (replicas: number, before?: string, specs?: string): Deployment => {
  const live = deployment(READY, { replicas });
  live.metadata.annotations = {
    ...(before !== undefined && { 'connectors.aitronos.com/replicas-before-maintenance': before }),
    ...(specs !== undefined && { 'connectors.aitronos.com/spec-replicas': specs }),
  };
  return live;
};

describe('the number of Pods that the spec leaves open', () => {
  const scaleOf = (lifecycle: 'active' | 'maintenance', live: Deployment | undefined, replicas?: number) => {
    const spec = { lifecycle, ...(replicas !== undefined && { hosting: { replicas } }) };
    const { children = [] } = hosted.plan(makeConnector('aitronos_built', spec), makeContext(), { deployment: live });
    const [first] = children;
    const declared = (deploymentOf({ children } as Plan).spec as { replicas?: number }).replicas;
    return first?.fieldManager === 'personal-connector-operator-scale'
      ? {
          declared: (children[1]?.object as { spec?: { replicas?: number } } | undefined)?.spec?.replicas,
          scaled: (first.object as { spec?: { replicas?: number } }).spec?.replicas,
          before: Object.values(first.object.metadata.annotations ?? {})[0],
        }
      : { declared };
  };

  it.each<[string, 'active' | 'maintenance', Deployment | undefined, number | undefined, object]>([
    ['is nobody’s at first', 'active', undefined, undefined, { declared: undefined }],
    ['is let be', 'active', liveOf(3), undefined, { declared: undefined }],
    ['is none of one that is made in maintenance', 'maintenance', undefined, undefined, { declared: 0 }],
    ['is kept for later', 'maintenance', liveOf(3), undefined, { declared: undefined, scaled: 0, before: '3' }],
    ['stays kept', 'maintenance', liveOf(0, '3'), undefined, { declared: undefined }],
    [
      'is none that the spec said',
      'maintenance',
      liveOf(3, undefined, '3'),
      undefined,
      { declared: undefined, scaled: 0, before: '1' },
    ],
    ['stays none of it', 'maintenance', liveOf(0), undefined, { declared: 0 }],
    [
      'is kept anew after a hand’s edit',
      'maintenance',
      liveOf(2, '3'),
      undefined,
      { declared: undefined, scaled: 0, before: '2' },
    ],
    ['comes back', 'active', liveOf(0, '3'), undefined, { declared: undefined, scaled: 3, before: undefined }],
    ['is the spec’s if it says one', 'active', liveOf(5), 2, { declared: 2 }],
    [
      'is forgotten when the spec says one',
      'maintenance',
      liveOf(0, '3'),
      2,
      { declared: 0, scaled: undefined, before: undefined },
    ],
    ['is the spec’s none, then', 'maintenance', liveOf(2), 2, { declared: 0 }],
  ])('%s', (_what, lifecycle, live, replicas, expected) => {
    expect(scaleOf(lifecycle, live, replicas)).toEqual(expected);
  });
});

describe('Secrets and ConfigMaps that the operator may read', () => {
  const CATALOG = catalogOf({ requiredSecretKeys: ['TOKEN', 'URL'] });
  const contents = (digest: string, ...keys: string[]) => ({ digest, keys: new Set(keys) });
  const planned = (
    inputs: Record<string, ReturnType<typeof contents> | 'missing' | 'pending'>,
    hosting = {},
    live?: Deployment,
  ) =>
    hosted.plan(makeConnector('aitronos_built', { hosting }), makeContext(CATALOG), {
      inputs: new Map(Object.entries(inputs)),
      deployment: live,
    });
  const digest = (made: Plan): unknown =>
    (deploymentOf(made).spec as { template: { metadata: { annotations?: object } } }).template.metadata.annotations;
  const SECRET = 'Secret/clickup-credentials';

  it.each<[string, Parameters<typeof planned>[0], object, string]>([
    [
      'there is none',
      { [SECRET]: 'missing' },
      {},
      'the Secret clickup-credentials does not exist: create it with TOKEN, URL, and the server starts by itself',
    ],
    [
      'it lacks a key',
      { [SECRET]: contents('a', 'TOKEN') },
      {},
      'the Secret clickup-credentials has no key URL: add it, and the server starts by itself',
    ],
    [
      'there is no ConfigMap',
      { 'ConfigMap/own': 'missing' },
      { envFrom: [{ configMapRef: { name: 'own' } }] },
      'the ConfigMap own does not exist: create it, and the server starts by itself',
    ],
    [
      'a variable names a key that is not there',
      { [SECRET]: contents('a', 'TOKEN', 'URL'), 'Secret/own': contents('b', 'X') },
      { env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'own', key: 'A' } } }] },
      'the Secret own has no key A: add it, and the server starts by itself',
    ],
  ])('keep a server from being made when %s', (_what, inputs, hosting, message) => {
    expect(planned(inputs, hosting)).toMatchObject({
      accepted: { status: 'False', reason: 'SecretNotFound', message },
      children: undefined,
    });
  });

  it('may be missing where they are optional, or not known', () => {
    const optional = { env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'own', key: 'A', optional: true } } }] };
    const there = { [SECRET]: contents('a', 'TOKEN', 'URL') };
    expect(planned({ ...there, 'Secret/own': 'missing' }, optional).accepted.status).toBe('True');
    expect(planned({}).accepted.status).toBe('True');
    expect(planned({ [SECRET]: 'pending' }).accepted.status).toBe('True');
  });

  it('make no new Pods as long as half of them is not known yet, as after a start', () => {
    const both = { env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'settings', key: 'k' } } }] };
    const known = { [SECRET]: contents('a', 'TOKEN', 'URL'), 'ConfigMap/settings': contents('b', 'k') };
    const annotations = digest(planned(known, both)) as Record<string, string>;
    const live = liveOf(1);
    live.spec.template = { ...live.spec.template, metadata: { annotations } };
    expect(digest(planned({ ...known, 'ConfigMap/settings': 'pending' }, both, live))).toEqual(annotations);
    expect(digest(planned({ ...known, [SECRET]: 'pending' }, both, live))).toEqual(annotations);
    expect(digest(planned({ ...known, [SECRET]: contents('c', 'TOKEN', 'URL') }, both, live))).not.toEqual(annotations);
  });

  it('make new Pods when they change, and only then', () => {
    const one = digest(planned({ [SECRET]: contents('a', 'TOKEN', 'URL') }));
    expect(one).toEqual({ 'connectors.aitronos.com/inputs': expect.stringMatching(/^[0-9a-f]{16}$/) });
    expect(digest(planned({ [SECRET]: contents('a', 'URL', 'TOKEN') }))).toEqual(one);
    expect(digest(planned({ [SECRET]: contents('b', 'TOKEN', 'URL') }))).not.toEqual(one);
    // What the server does not use is none of its business.
    expect(digest(planned({ [SECRET]: contents('a', 'TOKEN', 'URL'), 'Secret/x': contents('c') }))).toEqual(one);
  });

  it('make no new Pods while nobody knows what they hold', () => {
    const annotations = { 'connectors.aitronos.com/inputs': '0123456789abcdef' };
    const live = liveOf(1);
    live.spec.template = { ...live.spec.template, metadata: { annotations } };
    expect(digest(planned({}, {}, live))).toEqual(annotations);
    expect(digest(planned({}))).toBeUndefined();
  });
});

describe('the image', () => {
  it.each<[string, Partial<PersonalConnectorSpec>, string, string]>([
    ["has the catalog's tag", {}, 'registry.example.com/clickup-mcp:1.2.0', '1.2.0'],
    ['has the version as tag', { version: '2.0.0-rc.1' }, 'registry.example.com/clickup-mcp:2.0.0-rc.1', '2.0.0-rc.1'],
    ['is the one of the spec', { hosting: { image: 'mine/x:7' } }, 'mine/x:7', '7'],
    [
      'is the one of the spec, which the version only labels',
      { version: '2.0.0', hosting: { image: 'mine/x:7' } },
      'mine/x:7',
      '2.0.0',
    ],
    ['of the spec without a tag is the latest', { hosting: { image: 'mine/x' } }, 'mine/x', 'latest'],
    ['of the spec may have a port', { hosting: { image: 'mine:5000/x' } }, 'mine:5000/x', 'latest'],
    ['of the spec may have tag and digest', { hosting: { image: 'mine/x:7@sha256:0' } }, 'mine/x:7@sha256:0', '7'],
  ])('%s', (_what, spec, image, version) => {
    const made = plan(spec, { allowedImages: ['mine*'] });
    expect(containerOf(made).image).toBe(image);
    expect(deploymentOf(made).metadata.labels?.['app.kubernetes.io/version']).toBe(version);
  });

  it('has a tag that is one, also of a version with build metadata', () => {
    expect(containerOf(plan({ version: '2.0.0+build.5' })).image).toBe(
      'registry.example.com/clickup-mcp:2.0.0_build.5',
    );
  });
});

describe('the environment', () => {
  const env = (spec: Partial<PersonalConnectorSpec>, entry: object) => {
    const { env, envFrom } = containerOf(plan(spec, catalogOf(entry), 'mine'));
    return { env, envFrom };
  };
  const key = (name: string, secret = 'mine-credentials') => ({
    name,
    valueFrom: { secretKeyRef: { name: secret, key: name } },
  });

  it('is absent when nobody gives any', () => {
    expect(containerOf(plan())).not.toHaveProperty('env');
    expect(containerOf(plan())).not.toHaveProperty('envFrom');
  });

  it("has the catalog's variables in the order of their names, whatever the order of the file", () => {
    expect(env({}, { env: { B: '2', A: '1' } }).env).toEqual([
      { name: 'A', value: '1' },
      { name: 'B', value: '2' },
    ]);
  });

  it("takes required keys from the connector's own Secret, and all of its other keys", () => {
    expect(env({}, { requiredSecretKeys: ['TOKEN', 'ID'] })).toEqual({
      env: [key('TOKEN'), key('ID')],
      envFrom: [{ secretRef: { name: 'mine-credentials' } }],
    });
  });

  it('takes them from what envFrom names instead, where it does', () => {
    const hosting = { envFrom: [{ secretRef: { name: 'other' } }] };
    expect(env({ hosting }, { requiredSecretKeys: ['TOKEN'] })).toEqual({
      env: undefined,
      envFrom: [{ secretRef: { name: 'other' } }],
    });
  });

  it('has each name once: the spec comes before required keys, and those before the catalog', () => {
    const hosting = { env: [{ name: 'A', value: 'spec' }, { name: 'B' }] };
    expect(
      env(
        { hosting },
        { env: { A: 'catalog', B: 'catalog', C: 'catalog', D: 'catalog' }, requiredSecretKeys: ['A', 'C'] },
      ).env,
    ).toEqual([{ name: 'D', value: 'catalog' }, key('C'), { name: 'A', value: 'spec' }, { name: 'B' }]);
  });
});

describe('the address', () => {
  it.each<[string | undefined, string, string, number]>([
    [undefined, 'clickup', 'http://clickup.team.svc.cluster.local:8000/mcp', 8000],
    ['http://clickup-mcp:8000', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local:8000/mcp', 8000],
    ['http://clickup-mcp:8000/', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local:8000/mcp', 8000],
    ['http://clickup-mcp:9000/x/y', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local:9000/x/y', 9000],
    ['http://clickup-mcp', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local/mcp', 80],
    ['http://clickup-mcp.team:8000', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local:8000/mcp', 8000],
    ['http://clickup-mcp.team.svc:8000', 'clickup-mcp', 'http://clickup-mcp.team.svc.cluster.local:8000/mcp', 8000],
    [
      'http://clickup-mcp.team.svc.cluster.local:8000',
      'clickup-mcp',
      'http://clickup-mcp.team.svc.cluster.local:8000/mcp',
      8000,
    ],
  ])('of serverUrl %s is Service %s and URL %s', (serverUrl, service, url, port) => {
    const made = plan(serverUrl === undefined ? {} : { serverUrl });
    expect(made.serverUrl).toBe(url);
    expect(made.children?.[1]?.object).toMatchObject({
      metadata: { name: service },
      spec: { ports: [{ port, targetPort: 'mcp' }] },
    });
    // The Pod listens where the catalog says, whatever the Service's port.
    expect(containerOf(made)).toMatchObject({ ports: [{ containerPort: 8000 }] });
  });

  it.each<[string, Partial<PersonalConnectorSpec>, object, string, string]>([
    [
      "the catalog's port and path",
      {},
      { port: 9000, path: '/x' },
      'http://clickup.team.svc.cluster.local:9000/x',
      'http',
    ],
    [
      "the spec's before them",
      { hosting: { port: 7000, path: '/y' } },
      { port: 9000, path: '/x' },
      'http://clickup.team.svc.cluster.local:7000/y',
      'http',
    ],
  ])('has %s', (_what, spec, entry, url, type) => {
    const made = plan(spec, catalogOf(entry));
    expect([made.serverUrl, made.serverType]).toEqual([url, type]);
  });

  it('is fit for a Service also when the name of the connector is not', () => {
    const made = plan({}, {}, 'team.clickup');
    expect(made.serverUrl).toBe('http://team-clickup-248d5a97cf.team.svc.cluster.local:8000/mcp');
  });
});

describe('the number of Pods', () => {
  it.each<[string, Partial<PersonalConnectorSpec>, number | undefined]>([
    ['is nobody’s unless said', {}, undefined],
    ['is the one of the spec', { hosting: { replicas: 2 } }, 2],
    ['may be none', { hosting: { replicas: 0 } }, 0],
    ['is none in maintenance', { lifecycle: 'maintenance', hosting: { replicas: 2 } }, 0],
    ['is as ever when deprecated', { lifecycle: 'deprecated', hosting: { replicas: 2 } }, 2],
  ])('%s', (_what, spec, expected) => {
    expect(deploymentOf(plan(spec)).spec.replicas).toBe(expected);
  });
});

describe('a spec that cannot be served', () => {
  const reject = (reason: string, message: string) => ({
    accepted: { status: 'False', reason, message },
    children: undefined,
    serverUrl: undefined,
    serverType: undefined,
  });

  it.each<[string, Partial<PersonalConnectorSpec>, PolicyInput, object]>([
    [
      'has a connectorId that the catalog lacks',
      { connectorId: 'jira' },
      { catalog: { b: { image: 'i', defaultVersion: '1' }, a: { image: 'i', defaultVersion: '1' } } },
      reject(
        'CatalogEntryMissing',
        'spec.connectorId "jira" is not in the operator\'s catalog (known: a, b): use one of these, have the operator\'s admin add it, or set spec.hosting.image',
      ),
    ],
    [
      'asks an empty catalog',
      { connectorId: 'jira' },
      { catalog: {} },
      reject(
        'CatalogEntryMissing',
        'spec.connectorId "jira" is not in the operator\'s catalog (known: none): use one of these, have the operator\'s admin add it, or set spec.hosting.image',
      ),
    ],
    [
      'names what every object has',
      { connectorId: 'constructor' },
      { catalog: {} },
      reject(
        'CatalogEntryMissing',
        'spec.connectorId "constructor" is not in the operator\'s catalog (known: none): use one of these, have the operator\'s admin add it, or set spec.hosting.image',
      ),
    ],
    [
      'has an image that is not allowed',
      { hosting: { image: 'evil/x:1' } },
      { allowedImages: ['good/*'] },
      reject(
        'ImageNotAllowed',
        'spec.hosting.image: the image "evil/x:1" matches nothing in allowedImages: have the operator\'s admin add it there, or remove the field',
      ),
    ],
    [
      'has an image while none is allowed',
      { connectorId: 'jira', hosting: { image: 'good/x:1' } },
      {},
      reject(
        'ImageNotAllowed',
        'spec.hosting.image: the image "good/x:1" matches nothing in allowedImages: have the operator\'s admin add it there, or remove the field',
      ),
    ],
    [
      'has a host of another namespace',
      { serverUrl: 'http://clickup.other:8000' },
      {},
      reject(
        'InvalidSpec',
        'spec.serverUrl: the host "clickup.other" is outside of the connector\'s namespace: name a Service only, such as http://clickup:8000, or remove the field',
      ),
    ],
    [
      'has a host of the internet',
      { serverUrl: 'http://mcp.example.com' },
      {},
      reject(
        'InvalidSpec',
        'spec.serverUrl: the host "mcp.example.com" is outside of the connector\'s namespace: name a Service only, such as http://mcp:8000, or remove the field',
      ),
    ],
    [
      'has a host of another cluster domain',
      { serverUrl: 'http://clickup.team.svc.evil.example' },
      {},
      reject(
        'InvalidSpec',
        'spec.serverUrl: the host "clickup.team.svc.evil.example" is outside of the connector\'s namespace: name a Service only, such as http://clickup:8000, or remove the field',
      ),
    ],
    [
      'has a host that cannot name a Service',
      { serverUrl: `http://${'x'.repeat(64)}:8000` },
      {},
      reject(
        'InvalidSpec',
        `spec.serverUrl: "${'x'.repeat(64)}" cannot name a Service: use at most 63 lower-case letters, digits and -, with a letter first`,
      ),
    ],
    [
      'has a host that ends with a dash',
      { serverUrl: 'http://clickup-:8000' },
      {},
      reject(
        'InvalidSpec',
        'spec.serverUrl: "clickup-" cannot name a Service: use at most 63 lower-case letters, digits and -, with a letter first',
      ),
    ],
  ])('%s', (_what, spec, policy, expected) => {
    expect(plan(spec, policy)).toEqual(expected);
  });

  it('names twenty entries of a long catalog at most', () => {
    const entry = { image: 'i', defaultVersion: '1' };
    const catalog = Object.fromEntries(Array.from({ length: 30 }, (_none, at) => [`c${10 + at}`, entry]));
    expect(plan({ connectorId: 'jira' }, { catalog }).accepted.message).toContain('c28, c29)');
  });

  const STDIO = { image: 'r.example.com/teams', defaultVersion: '1.0', serverType: 'stdio', command: ['teams'] };
  it.each<[string, Partial<PersonalConnectorSpec>, Parameters<typeof plan>[1], string, string]>([
    ['speaks websocket', { serverType: 'websocket' }, {}, 'InvalidSpec', 'spec.serverType websocket cannot be hosted'],
    [
      'says stdio of a server that the catalog knows to speak http',
      { serverType: 'stdio' },
      {},
      'InvalidSpec',
      "spec.serverType stdio: the catalog's clickup speaks http: remove the field",
    ],
    [
      'says http of a server that the catalog knows to speak stdio',
      { serverType: 'http' },
      { catalog: { clickup: STDIO } },
      'InvalidSpec',
      "spec.serverType http: the catalog's clickup speaks stdio: remove the field",
    ],
    [
      'speaks stdio, and nothing brings a bridge',
      {},
      { catalog: { clickup: STDIO } },
      'InvalidSpec',
      "spec.serverType stdio cannot be hosted: have the operator's admin set BRIDGE_IMAGE",
    ],
    [
      'speaks stdio with an image of its own and no command',
      { serverType: 'stdio', hosting: { image: 'own/image:1' } },
      { allowedImages: ['own/*'], bridgeImage: 'operator:1' },
      'InvalidSpec',
      'spec.hosting.command must name the program of a stdio server',
    ],
    [
      'is named by an entry that is not valid',
      {},
      { catalog: { clickup: { image: 'a b', defaultVersion: '1' } } },
      'CatalogEntryMissing',
      'spec.connectorId "clickup": its entry in the operator\'s catalog is not valid (image: must be an image without tag, digest or spaces (it is "a b")): have the operator\'s admin mend it',
    ],
  ])('%s', (_what, spec, policy, reason, message) => {
    expect(plan(spec, policy).accepted).toMatchObject({ reason, message: expect.stringContaining(message) });
  });
});

function deployment(
  status: Deployment['status'] = {},
  {
    replicas,
    generation = 1,
    deletionTimestamp,
  }: { replicas?: number; generation?: number; deletionTimestamp?: string } = {},
): Deployment {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: {
      name: 'clickup',
      namespace: 'team',
      uid: 'd',
      resourceVersion: '1',
      creationTimestamp: CREATED,
      generation,
      annotations: { 'connectors.aitronos.com/applied': 'hash' },
      ...(deletionTimestamp && { deletionTimestamp }),
    },
    spec: { ...(replicas !== undefined && { replicas }), template: { spec: { containers: [{ image: 'i:1' }] } } },
    status: { observedGeneration: generation, ...status },
  };
}

const READY = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
const WAITING = { replicas: 1, updatedReplicas: 1 };

type ContainerStatus = NonNullable<Pod['status']['containerStatuses']>[number];

function pod(container: Partial<ContainerStatus> = {}, status: Partial<Pod['status']> = {}, deleted = false): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'p',
      namespace: 'team',
      uid: 'p',
      resourceVersion: '1',
      creationTimestamp: CREATED,
      ...(deleted && { deletionTimestamp: CREATED }),
    },
    status: {
      containerStatuses: [{ name: 'server', ready: false, restartCount: 0, image: 'i:1', ...container }],
      ...status,
    },
  };
}
const waiting = (reason: string, message?: string): Partial<ContainerStatus> => ({
  state: { waiting: { reason, ...(message !== undefined && { message }) } },
});

const PROGRESSING = (message: string) => ({ deployed: { status: 'Unknown', reason: 'Progressing', message } });
const FAILED = (reason: string, message: string) => ({ deployed: { status: 'False', reason, message } });
const PULL = FAILED(
  'ImagePullFailed',
  'Pod p: the image i:1 cannot be pulled: check its name, tag and spec.hosting.imagePullSecrets',
);
const CRASH = (code: number | string, reason: string) =>
  FAILED(
    'CrashLooping',
    `Pod p: the server ends again and again, last with exit code ${code} (${reason}): ${reason === 'OOMKilled' ? 'it needs more memory than spec.hosting.resources.limits gives it' : 'see its log'}`,
  );

describe('the state of a Deployment', () => {
  it.each<[string, Deployment | undefined, Pod[], object]>([
    ['that is not there yet', undefined, [], PROGRESSING('the Deployment is being created')],
    [
      'that nobody has looked at',
      deployment({ observedGeneration: 0 }),
      [],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'whose new generation nobody has looked at, though the old one is available',
      deployment({ ...READY, observedGeneration: 1 }, { generation: 2 }),
      [],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'that is available',
      deployment(READY),
      [pod({ ready: true })],
      { deployed: { status: 'True', reason: 'Available', message: 'the Pod is ready' } },
    ],
    [
      'that is available with several Pods',
      deployment({ replicas: 3, updatedReplicas: 3, availableReplicas: 3 }, { replicas: 3 }),
      [],
      { deployed: { status: 'True', reason: 'Available', message: 'all 3 Pods are ready' } },
    ],
    [
      'that has a Pod too many yet',
      deployment({ replicas: 2, updatedReplicas: 1, availableReplicas: 1 }),
      [],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'that lacks a Pod yet',
      deployment({ replicas: 3, updatedReplicas: 3, availableReplicas: 2 }, { replicas: 3 }),
      [],
      { deployed: { status: 'True', reason: 'Available', message: '2 of 3 Pods are ready' } },
    ],
    [
      'that serves with Pods of the old revision yet',
      deployment({ replicas: 1, updatedReplicas: 0, availableReplicas: 1 }),
      [],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'that is meant to have no Pods',
      deployment({}, { replicas: 0 }),
      [],
      {
        deployed: {
          status: 'True',
          reason: 'ScaledToZero',
          message: 'the hosted server is scaled to zero: scale it up to use it',
        },
      },
    ],
    [
      'whose Pods the quota forbids',
      deployment({
        conditions: [
          { type: 'ReplicaFailure', status: 'True', message: 'pods "x" is forbidden: exceeded quota: q, requested: 1' },
        ],
      }),
      [],
      FAILED('QuotaExceeded', 'Pods cannot be created: pods "x" is forbidden: exceeded quota: q'),
    ],
    [
      'whose Pods a webhook denies',
      deployment({
        conditions: [{ type: 'ReplicaFailure', status: 'True', message: 'admission webhook "w" denied the request' }],
      }),
      [],
      FAILED('QuotaExceeded', 'Pods cannot be created: admission webhook "w" denied the request'),
    ],
    [
      'whose Pods cannot be created otherwise',
      deployment({ conditions: [{ type: 'ReplicaFailure', status: 'True', reason: 'FailedCreate' }] }),
      [],
      FAILED('RolloutFailed', 'Pods cannot be created: FailedCreate'),
    ],
    [
      'whose Pods could not be created before',
      deployment({ conditions: [{ type: 'ReplicaFailure', status: 'False', reason: 'x' }] }),
      [],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'whose deadline passed',
      deployment({
        ...WAITING,
        conditions: [{ type: 'Progressing', status: 'False', reason: 'ProgressDeadlineExceeded' }],
      }),
      [pod()],
      FAILED('RolloutFailed', "no progress within the Deployment's deadline: see the Pods of Deployment clickup"),
    ],
    [
      'whose Pod no node takes',
      deployment(WAITING),
      [
        pod(
          {},
          {
            containerStatuses: [],
            conditions: [
              {
                type: 'PodScheduled',
                status: 'False',
                reason: 'Unschedulable',
                message:
                  "0/3 nodes are available: 2 node(s) didn't match Pod's node selector, 1 node(s) had a taint. preemption: 0/3 nodes are available: 3 no.",
              },
            ],
          },
        ),
      ],
      FAILED('Unschedulable', "no node can take Pod p: node(s) didn't match Pod's node selector, node(s) had a taint."),
    ],
    [
      'whose Pod waits for its gates',
      deployment(WAITING),
      [pod({}, { conditions: [{ type: 'PodScheduled', status: 'False', reason: 'SchedulingGated' }] })],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    ...['ErrImagePull', 'ImagePullBackOff', 'ErrImageNeverPull', 'InvalidImageName'].map(
      (reason): [string, Deployment, Pod[], object] => [
        `whose image cannot be pulled (${reason})`,
        deployment(WAITING),
        [pod(waiting(reason, 'unauthorized'))],
        PULL,
      ],
    ),
    [
      'whose Pod lacks a Secret',
      deployment(WAITING),
      [pod(waiting('CreateContainerConfigError', 'secret "clickup-credentials" not found'))],
      {
        ...PROGRESSING('Pod p waits: secret "clickup-credentials" not found'),
        secretMissing: 'secret "clickup-credentials" not found: create it, and the Pod starts by itself',
      },
    ],
    [
      'whose Pod lacks a key',
      deployment(WAITING),
      [pod(waiting('CreateContainerConfigError', "couldn't find key TOKEN in Secret team/clickup-credentials"))],
      {
        ...PROGRESSING("Pod p waits: couldn't find key TOKEN in Secret team/clickup-credentials"),
        secretMissing:
          "couldn't find key TOKEN in Secret team/clickup-credentials: create it, and the Pod starts by itself",
      },
    ],
    [
      'whose Pod would run as root',
      deployment(WAITING),
      [pod(waiting('CreateContainerConfigError', 'container has runAsNonRoot and image will run as root'))],
      FAILED('RolloutFailed', 'Pod p cannot start: container has runAsNonRoot and image will run as root'),
    ],
    ...['CreateContainerError', 'RunContainerError'].map((reason): [string, Deployment, Pod[], object] => [
      `whose Pod cannot start (${reason})`,
      deployment(WAITING),
      [pod(waiting(reason, 'exec: "x": not found'))],
      FAILED('RolloutFailed', `Pod p cannot start: ${reason}`),
    ]),
    [
      'whose Pod is being made',
      deployment(WAITING),
      [pod(waiting('ContainerCreating'))],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'whose server keeps ending and waits',
      deployment(WAITING),
      [
        pod({
          ...waiting('CrashLoopBackOff'),
          restartCount: 4,
          lastState: { terminated: { exitCode: 1, reason: 'Error' } },
        }),
      ],
      CRASH(1, 'Error'),
    ],
    [
      'whose server keeps ending and has just ended',
      deployment(WAITING),
      [pod({ state: { terminated: { exitCode: 137, reason: 'OOMKilled' } }, restartCount: 1 })],
      CRASH(137, 'OOMKilled'),
    ],
    [
      'whose server keeps ending and runs for a moment',
      deployment(WAITING),
      [pod({ state: {}, restartCount: 1, lastState: { terminated: {} } })],
      CRASH('unknown', 'Error'),
    ],
    [
      'whose server ended once',
      deployment(WAITING),
      [pod({ state: { terminated: { exitCode: 1 } } })],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'whose server ended long ago and is ready again, while another Pod is not',
      deployment({ replicas: 2, updatedReplicas: 2, availableReplicas: 1 }, { replicas: 2 }),
      [pod({ ready: true, restartCount: 3, lastState: { terminated: { exitCode: 1 } } }), pod()],
      { deployed: { status: 'True', reason: 'Available', message: '1 of 2 Pods are ready' } },
    ],
    [
      'whose Pod of trouble is on its way out',
      deployment(WAITING),
      [pod(waiting('ImagePullBackOff'), {}, true)],
      PROGRESSING('waiting for the Pod to become ready'),
    ],
    [
      'that has one Pod of trouble among good ones',
      deployment({ replicas: 2, updatedReplicas: 2, availableReplicas: 1 }, { replicas: 2 }),
      [pod({ ready: true }), pod(waiting('ErrImagePull'))],
      {
        deployed: {
          status: 'True',
          reason: 'Available',
          message:
            '1 of 2 Pods are ready; Pod p: the image i:1 cannot be pulled: check its name, tag and spec.hosting.imagePullSecrets',
        },
      },
    ],
    [
      'that is available though an old Pod is in trouble',
      deployment(READY),
      [pod(waiting('ErrImagePull'))],
      {
        deployed: { status: 'True', reason: 'Available', message: 'the Pod is ready' },
      },
    ],
  ])('%s', (_what, one, pods, expected) => {
    expect(deploymentState(one, pods)).toEqual(expected);
  });
});

describe('the progress of a hosted connector', () => {
  const service: Child = {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'svc', namespace: 'team', uid: 's', resourceVersion: '1', creationTimestamp: CREATED },
  };

  it('is nothing before there is a Deployment', () => {
    expect(hosted.progress({ deployment: undefined, service: undefined, pods: [] })).toEqual({
      deployed: { status: 'Unknown', reason: 'Progressing', message: 'the Deployment is being created' },
      probeable: 'the Deployment is being created',
      trusted: true,
      revision: ' ',
    });
  });

  it('tells what runs, and that it can be probed once it is available', () => {
    expect(hosted.progress({ deployment: deployment(READY), service, pods: [] })).toEqual({
      deployed: { status: 'True', reason: 'Available', message: 'the Pod is ready' },
      hosting: { deployment: 'clickup', service: 'svc', image: 'i:1', replicas: 1, readyReplicas: 1 },
      probeable: true,
      trusted: true,
      revision: 'd hash',
    });
  });

  it('tells what it waits for', () => {
    const pods = [pod(waiting('CreateContainerConfigError', 'secret "x" not found'))];
    expect(hosted.progress({ deployment: deployment(WAITING, { replicas: 2 }), service: undefined, pods })).toEqual({
      deployed: { status: 'Unknown', reason: 'Progressing', message: 'Pod p waits: secret "x" not found' },
      secretMissing: 'secret "x" not found: create it, and the Pod starts by itself',
      hosting: { deployment: 'clickup', image: 'i:1', replicas: 2, readyReplicas: 0 },
      probeable: 'Pod p waits: secret "x" not found',
      trusted: true,
      revision: 'd hash',
    });
  });
});

describe('regressions', () => {
  // The URL of a hosted server is trusted: the address guard lets it pass, so its host must be the operator's own doing.
  it.each<[string, Partial<PersonalConnectorSpec>]>([
    ['spec.hosting.path', { hosting: { path: '//169.254.169.254/latest' } }],
    ['spec.hosting.path with a backslash', { hosting: { path: '/\\169.254.169.254/latest' } }],
    ['the path of spec.serverUrl', { serverUrl: 'http://clickup:8000//169.254.169.254/latest' }],
  ])('never lets %s name the host that is probed', (_what, spec) => {
    const { accepted, serverUrl } = plan(spec);
    const host = accepted.status === 'True' ? new URL(serverUrl ?? '').host : 'rejected';
    expect(['rejected', 'clickup.team.svc.cluster.local:8000']).toContain(host);
  });

  it.each(['http://clickup:99999', 'http://clickup:0'])(
    'rejects %s, which the CRD lets through, instead of throwing or making what the API refuses',
    serverUrl => {
      expect(plan({ serverUrl }).accepted).toMatchObject({
        status: 'False',
        reason: 'InvalidSpec',
        message: expect.stringContaining('spec.serverUrl'),
      });
    },
  );

  it('still requires the keys of the catalog when spec.hosting.envFrom is an empty list, which names nothing', () => {
    const made = plan({ hosting: { envFrom: [] } }, catalogOf({ requiredSecretKeys: ['TOKEN'] }));
    expect(containerOf(made).env).toEqual([
      { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'clickup-credentials', key: 'TOKEN' } } },
    ]);
  });

  it('does not wait for Pods of a Deployment that is about to have none', () => {
    const one = deployment({ ...READY, observedGeneration: 1 }, { replicas: 0, generation: 2 });
    expect(deploymentState(one, []).deployed).toMatchObject({
      status: 'Unknown',
      reason: 'Progressing',
      message: expect.not.stringContaining('ready'),
    });
  });

  it('says of a server that is scaled to zero that this is why it is not probed', () => {
    const { probeable } = hosted.progress({
      deployment: deployment({}, { replicas: 0 }),
      service: undefined,
      pods: [],
    });
    expect(probeable).toContain('scaled to zero');
  });
});
