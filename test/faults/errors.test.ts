/** What goes wrong is said on the status; once it is mended, by the spec or by the cause, nothing of it is left. */
import { describe, inject, it } from 'vitest';
import { ANNOTATION, PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { Declared, KubeObject, ResourceType } from '../../src/api/meta.ts';
import { DEPLOYMENTS, SERVICES } from '../../src/connector/children.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { ApiError, isNotFound } from '../../src/kube/errors.ts';
import type { Operator } from '../../src/main.ts';
import { until } from '../cluster/process.ts';
import { createSandbox, type Sandbox, SECRETS } from '../support/kube.ts';
import { lookupHosted, runOperator } from '../support/operator.ts';
import { closedPort, startMcp, startStatic, type TestServer } from '../support/servers.ts';
import { LONG } from './figures.ts';
import { readiness, type Snapshot, untilAsFresh, untilSnapshot } from './snapshot.ts';

const QUOTAS = { group: '', version: 'v1', plural: 'resourcequotas', kind: 'ResourceQuota' } as const;
const LIMITS = { group: '', version: 'v1', plural: 'limitranges', kind: 'LimitRange' } as const;
const POLICIES = {
  group: 'admissionregistration.k8s.io',
  version: 'v1',
  plural: 'validatingadmissionpolicies',
  kind: 'ValidatingAdmissionPolicy',
} as const;
const BINDINGS = {
  ...POLICIES,
  plural: 'validatingadmissionpolicybindings',
  kind: 'ValidatingAdmissionPolicyBinding',
} as const;

/** Back-off makes the operator, or Kubernetes, look again later the longer an error lasted; here it lasts a moment. */
const MEND_MS = 90_000;
const LIMIT_MS = 150_000;

/** A namespace with an operator that looks at it, and an MCP server for all that is to be well. */
interface Place {
  cluster: Sandbox;
  server: TestServer;
  hosted(more?: Partial<PersonalConnectorSpec>): PersonalConnectorSpec;
  remote(url: string): PersonalConnectorSpec;
  /** Ends the operator and starts one with other settings. */
  restart(policy: PolicyInput): Promise<void>;
  /** Lets this name resolve from now on. */
  resolve(host: string): void;
  serve<T extends TestServer>(server: Promise<T>): Promise<T>;
  /** Has this done when the test is over. */
  atEnd(end: () => Promise<unknown>): void;
}

async function createPlace(atEnd: Place['atEnd']): Promise<Place> {
  const servers: TestServer[] = [];
  const serve: Place['serve'] = async starting => {
    const server = await starting;
    servers.push(server);
    return server;
  };
  const names = new Set<string>();
  let operator: Operator | undefined;
  const cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  atEnd(async () => {
    await operator?.stop();
    await cluster.dispose();
    await Promise.all(servers.map(server => server.close()));
  });
  const server = await serve(startMcp());
  const start = async (policy: PolicyInput = {}): Promise<void> => {
    operator = await runOperator(
      cluster,
      {
        catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', port: server.port } },
        allowedImages: ['example.com/*'],
        addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
        readSecrets: true,
        // So that it is seen at once when a server comes back: what a person would wait for is the interval.
        probe: { intervalSeconds: 0.5, perHost: 32, perHostPerSecond: 1000 },
        ...policy,
      },
      async host => (names.has(host) ? ['127.0.0.1'] : lookupHosted(host)),
    );
  };
  await start();
  return {
    cluster,
    server,
    hosted: more => ({ name: 'Jira', type: 'aitronos_built', connectorId: 'jira', ...more }),
    remote: serverUrl => ({ name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl }),
    async restart(policy) {
      await operator?.stop();
      await start(policy);
    },
    resolve: host => void names.add(host),
    serve,
    atEnd,
  };
}

type Spec = (connector: string) => PersonalConnectorSpec;

interface Trouble {
  what: string;
  /** Ready's status and reason while it lasts, and whether it waits for somebody to do something (Stalled). */
  reason: string;
  stalled: boolean;
  /** What alone can mend it; absent: both can. */
  only?: 'spec' | 'cause';
  /** Brings it about for the connector `troubled`. */
  arrange(place: Place): Promise<Arranged> | Arranged;
}

interface Arranged {
  bad: Spec;
  /** A spec that has no such trouble; the bad one if no spec can mend it. */
  good: Spec;
  /** Takes the cause away, so that the bad spec is as good as any. */
  mend(): Promise<unknown>;
}

const nothing = async (): Promise<void> => {};

const troubles: Trouble[] = [
  {
    what: 'a connectorId that the catalog lacks',
    reason: 'False CatalogEntryMissing',
    stalled: true,
    arrange: ({ hosted, restart, server }) => {
      const entry = { image: 'example.com/jira', defaultVersion: '1.0.0', port: server.port };
      return {
        bad: () => hosted({ connectorId: 'linear' }),
        good: () => hosted(),
        mend: () => restart({ catalog: { jira: entry, linear: entry } }),
      };
    },
  },
  {
    what: 'an image that is not allowed',
    reason: 'False ImageNotAllowed',
    stalled: true,
    arrange: ({ hosted, restart, server }) => ({
      bad: () => hosted({ hosting: { image: 'docker.example.org/mine:1', port: server.port } }),
      good: () => hosted(),
      mend: () => restart({ allowedImages: ['docker.example.org/*'] }),
    }),
  },
  {
    what: 'a URL of a hosted server that leads to another namespace',
    reason: 'False InvalidSpec',
    stalled: true,
    only: 'spec',
    arrange: ({ hosted, server }) => ({
      bad: () => hosted({ serverUrl: `http://jira.kube-system.svc:${server.port}/mcp` }),
      good: () => hosted(),
      mend: nothing,
    }),
  },
  {
    what: 'what the API server refuses of a Deployment',
    reason: 'False InvalidSpec',
    stalled: true,
    only: 'spec',
    arrange: ({ hosted }) => ({
      bad: () => hosted({ hosting: { resources: { requests: { cpu: '2' }, limits: { cpu: '1' } } } }),
      good: () => hosted(),
      mend: nothing,
    }),
  },
  {
    what: 'an address that is not allowed',
    reason: 'False AddressDenied',
    stalled: true,
    async arrange({ remote, hosted, server, restart }) {
      await restart({ addressPolicy: {} });
      return {
        bad: () => remote(server.url),
        good: () => hosted(),
        mend: () => restart({ addressPolicy: { allowCidrs: ['127.0.0.0/8'] } }),
      };
    },
  },
  {
    what: 'a port on which nothing listens',
    reason: 'False ConnectionRefused',
    stalled: false,
    async arrange({ remote, server, serve }) {
      const port = await closedPort();
      return {
        bad: () => remote(`http://127.0.0.1:${port}/mcp`),
        good: () => remote(server.url),
        mend: () => serve(startMcp({ port })),
      };
    },
  },
  {
    what: 'a name that does not resolve',
    reason: 'False DNSFailure',
    stalled: false,
    arrange: ({ remote, server, resolve }) => ({
      bad: () => remote(`http://mcp.example.com:${server.port}/mcp`),
      good: () => remote(server.url),
      mend: async () => resolve('mcp.example.com'),
    }),
  },
  {
    what: 'a server that speaks no MCP',
    reason: 'False NotMCP',
    stalled: false,
    async arrange({ remote, server, serve }) {
      const web = await serve(startStatic(200, { 'content-type': 'text/html' }, '<html></html>'));
      return {
        bad: () => remote(web.url),
        good: () => remote(server.url),
        async mend() {
          await web.close();
          await serve(startMcp({ port: web.port }));
        },
      };
    },
  },
  {
    what: 'a Service of somebody else under its name',
    reason: 'False NameConflict',
    stalled: true,
    async arrange({ cluster, hosted, server }) {
      await cluster.apply(SERVICES, make(SERVICES, 'mcp-troubled', { ports: [{ port: 1234 }] }));
      const at = (service: string) => hosted({ serverUrl: `http://${service}:${server.port}/mcp` });
      return {
        bad: name => at(`mcp-${name}`),
        good: name => at(`other-${name}`),
        async mend() {
          // Else the Pods that are on their way would have the operator look again.
          const isServed = ({ connector }: Snapshot): boolean => connector?.status?.hosting?.readyReplicas === 1;
          await untilSnapshot(cluster, 'troubled', isServed, { what: 'its Pods to be ready', timeoutMs: 30_000 });
          await cluster.remove(SERVICES, 'mcp-troubled');
          // By itself the operator looks again within a minute: nothing tells it of what is not its own.
          if (!LONG) await cluster.applyConnector('troubled', at('mcp-troubled'), { [ANNOTATION.recheck]: 'mended' });
        },
      };
    },
  },
  ...[DEPLOYMENTS, SERVICES].map(
    (type): Trouble => ({
      what: `a quota on ${type.plural}`,
      reason: 'False QuotaExceeded',
      stalled: false,
      async arrange({ cluster, hosted, remote, server }) {
        const resource = type.group === '' ? type.plural : `count/${type.plural}.${type.group}`;
        await setQuota(cluster, { [resource]: '0' });
        return {
          bad: () => hosted(),
          good: () => remote(server.url),
          mend: () => setQuota(cluster, { [resource]: '9' }),
        };
      },
    }),
  ),
  {
    what: 'a quota on Pods',
    reason: 'False QuotaExceeded',
    stalled: false,
    async arrange({ cluster, hosted, remote, server }) {
      await setQuota(cluster, { pods: '0' });
      return {
        bad: () => hosted(),
        good: () => remote(server.url),
        mend: () => setQuota(cluster, { pods: '9' }),
      };
    },
  },
  {
    what: 'a LimitRange that wants larger Pods',
    reason: 'False QuotaExceeded',
    stalled: false,
    async arrange({ cluster, hosted }) {
      await cluster.apply(LIMITS, make(LIMITS, 'large', { limits: [{ type: 'Container', min: { memory: '256Mi' } }] }));
      const enough = { requests: { memory: '256Mi' }, limits: { memory: '256Mi' } };
      return {
        bad: () => hosted(),
        good: () => hosted({ hosting: { resources: enough } }),
        mend: () => cluster.remove(LIMITS, 'large'),
      };
    },
  },
  {
    what: 'an admission policy that denies the Deployment',
    reason: 'False QuotaExceeded',
    stalled: false,
    async arrange(place) {
      const { hosted, server } = place;
      const lift = await denyDeployments(place, 'example.com/jira:1.0.0');
      return {
        bad: () => hosted(),
        good: () => hosted({ hosting: { image: 'example.com/other:1', port: server.port } }),
        mend: lift,
      };
    },
  },
  {
    what: 'an id that an older connector pins',
    reason: 'False IdConflict',
    stalled: true,
    // An id cannot be changed.
    only: 'cause',
    async arrange({ cluster, remote, server }) {
      const pinned = (name: string) => ({ ...remote(server.url), id: `pcon_${name.replaceAll('-', '')}` });
      await cluster.applyConnector('older', pinned('troubled'));
      await cluster.untilReady('older', 'True', 'Ready');
      return { bad: pinned, good: pinned, mend: () => cluster.remove(PERSONAL_CONNECTORS, 'older') };
    },
  },
  {
    what: 'a Secret for the headers of probes that is missing',
    reason: 'False SecretNotFound',
    stalled: false,
    async arrange({ cluster, remote, server, serve }) {
      const guarded = await serve(startMcp({ authorization: 'Bearer sesame' }));
      const headers = [{ name: 'Authorization', valueFrom: { secretKeyRef: { name: 'token', key: 'header' } } }];
      return {
        bad: () => ({ ...remote(guarded.url), probe: { headers } }),
        good: () => remote(server.url),
        mend: () => cluster.apply(SECRETS, { ...make(SECRETS, 'token'), stringData: { header: 'Bearer sesame' } }),
      };
    },
  },
];

describe.concurrent('an error is told, and a change of the spec alone mends it without a trace:', () => {
  const troubled = troubles.filter(({ only }) => only !== 'cause');
  it.for(troubled)('$what', { timeout: LIMIT_MS }, async ({ reason, stalled, arrange }, { onTestFinished }) => {
    const place = await createPlace(end => onTestFinished(async () => void (await end())));
    const { bad, good } = await arrange(place);
    await place.cluster.applyConnector('troubled', bad('troubled'));
    await untilTold(place.cluster, reason, stalled);
    await place.cluster.applyConnector('troubled', good('troubled'));
    await untilAsFresh(place.cluster, 'troubled', good, { comparable });
  });
});

describe.concurrent('an error is told, and ends without a trace once its cause is gone:', () => {
  const troubled = troubles.filter(({ only }) => only !== 'spec');
  it.for(troubled)('$what', { timeout: LIMIT_MS }, async ({ reason, stalled, arrange }, { onTestFinished }) => {
    const place = await createPlace(end => onTestFinished(async () => void (await end())));
    const { bad, mend } = await arrange(place);
    await place.cluster.applyConnector('troubled', bad('troubled'));
    await untilTold(place.cluster, reason, stalled);
    await mend();
    await untilSnapshot(place.cluster, 'troubled', found => readiness(found).startsWith('True'), {
      what: 'it to be Ready',
      timeoutMs: MEND_MS,
    });
    await untilAsFresh(place.cluster, 'troubled', bad, { comparable });
  });
});

async function untilTold(cluster: Sandbox, reason: string, stalled: boolean): Promise<void> {
  const isTold = (found: Snapshot): boolean => {
    const conditions = found.connector?.status?.conditions ?? [];
    return readiness(found) === reason && conditions.some(({ type }) => type === 'Stalled') === stalled;
  };
  await untilSnapshot(cluster, 'troubled', isTold, {
    what: `${reason}${stalled ? ' and Stalled' : ''}`,
    timeoutMs: 30_000,
  });
}

/** Two connectors cannot pin one id. */
function comparable(found: Snapshot): Snapshot {
  const { connector } = found;
  if (connector?.spec.id === undefined || connector.spec.id !== connector.status?.id) return found;
  const { spec, status } = connector;
  return { ...found, connector: { ...connector, spec: { ...spec, id: '<id>' }, status: { ...status, id: '<id>' } } };
}

type Json = Declared & Record<string, unknown>;

/** An object as JSON; the sandbox puts it into its namespace. */
function make({ group, version, kind }: ResourceType, name: string, spec?: object): Json {
  const apiVersion = group === '' ? version : `${group}/${version}`;
  return { apiVersion, kind, metadata: { name, namespace: '' }, ...(spec && { spec }) };
}

/** Sets a quota and waits until it is in force. */
async function setQuota(cluster: Sandbox, hard: Record<string, string>): Promise<void> {
  interface Quota extends KubeObject {
    status?: { hard?: Record<string, string> };
  }
  await cluster.apply(QUOTAS, make(QUOTAS, 'quota', { hard }));
  await cluster.until<Quota>(QUOTAS, 'quota', quota =>
    Object.entries(hard).every(([resource, most]) => quota?.status?.hard?.[resource] === most),
  );
}

/** Denies Deployments of an image in the namespace, and gives what ends that. */
async function denyDeployments({ cluster, atEnd }: Place, image: string): Promise<() => Promise<void>> {
  const { client, namespace, signal } = cluster;
  const put = (type: ResourceType, spec: object) => {
    const { metadata: _, ...object } = make(type, namespace, spec);
    return client.apply(
      type,
      { ...object, metadata: { name: namespace } } as Declared,
      { fieldManager: 'test' },
      signal,
    );
  };
  const remove = async (type: ResourceType): Promise<void> => {
    const path = `/apis/${type.group}/${type.version}/${type.plural}/${namespace}`;
    await cluster.transport.call({ method: 'DELETE', path, signal }).catch(error => {
      if (!isNotFound(error)) throw error;
    });
  };
  const lift = async (): Promise<void> => {
    await remove(BINDINGS);
    await remove(POLICIES);
  };
  await put(POLICIES, {
    matchConstraints: {
      resourceRules: [
        { apiGroups: ['apps'], apiVersions: ['v1'], operations: ['CREATE', 'UPDATE'], resources: ['deployments'] },
      ],
    },
    validations: [
      {
        expression: `!object.spec.template.spec.containers.exists(c, c.image == ${JSON.stringify(image)})`,
        message: 'this image is not wanted here',
      },
    ],
  });
  await put(BINDINGS, {
    policyName: namespace,
    validationActions: ['Deny'],
    matchResources: { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } } },
  });
  atEnd(lift);
  // Nothing tells when the API server has taken up a policy: it is asked, and changes nothing by that.
  const labels = { app: 'asked' };
  const template = { metadata: { labels }, spec: { containers: [{ name: 'asked', image }] } };
  const asked = make(DEPLOYMENTS, 'asked', { selector: { matchLabels: labels }, template });
  const isDenied = async (): Promise<boolean> => {
    try {
      const path = `/apis/apps/v1/namespaces/${namespace}/deployments?dryRun=All`;
      const body = { ...asked, metadata: { name: 'asked', namespace } };
      await cluster.transport.call({ method: 'POST', path, body, signal });
      return false;
    } catch (error) {
      if (error instanceof ApiError && error.message.includes('not wanted here')) return true;
      throw error;
    }
  };
  await until('the admission policy to be in force', isDenied, { signal, timeoutMs: 30_000 });
  return lift;
}
