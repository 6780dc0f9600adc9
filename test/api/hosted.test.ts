/** aitronos_built connectors: what the operator makes for them, keeps as it should be, and takes away again. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import {
  ANNOTATION,
  FIELD_MANAGER,
  LABEL,
  PERSONAL_CONNECTORS,
  type PersonalConnector,
} from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { Declared, KubeObject } from '../../src/api/meta.ts';
import { type Child, DEPLOYMENTS, type Deployment, NETWORK_POLICIES, SERVICES } from '../../src/connector/children.ts';
import type { Operator } from '../../src/main.ts';
import { operatorRequests } from '../support/audit.ts';
import { conditionOf, createSandbox, readyOf, type Sandbox } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { startMcp, type TestServer } from '../support/servers.ts';

let cluster: Sandbox;
let operator: Operator;
let server: TestServer;
/** A hosted connector whose Service is, to the operator's resolver, our server on the loopback address. */
let spec: (service: string, more?: Partial<PersonalConnectorSpec>) => PersonalConnectorSpec;

beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  server = await startMcp({ name: 'jira-mcp' });
  spec = (service, more) => ({
    name: 'Jira',
    type: 'aitronos_built',
    connectorId: 'jira',
    serverUrl: `http://${service}:${server.port}/mcp`,
    ...more,
  });
  operator = await runOperator(cluster, {
    catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', env: { B: '2', A: '1' } } },
    allowedImages: ['example.com/*'],
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
  });
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
  await server?.close();
});

const gone = (object: KubeObject | undefined): boolean => object === undefined;
const imageOf = (object: Child | undefined): string | undefined =>
  (object as Deployment | undefined)?.spec.template?.spec?.containers?.[0]?.image;

/** What the operator wrote for a connector whose children carry these names, in order. */
function writesFor(...names: string[]): string[] {
  return operatorRequests(inject('auditLog'), cluster.namespace)
    .filter(({ verb, name }) => verb !== 'get' && names.includes(name ?? ''))
    .map(({ verb, resource, subresource }) => `${verb} ${resource}${subresource ? `/${subresource}` : ''}`);
}

/** Changes a child as a person would, who knows nothing of the operator. */
async function meddle(
  type: typeof SERVICES | typeof DEPLOYMENTS | typeof NETWORK_POLICIES,
  name: string,
  patch: object,
): Promise<void> {
  const root = type.group === '' ? '/api/v1' : `/apis/${type.group}/v1`;
  await cluster.transport.call({
    method: 'PATCH',
    path: `${root}/namespaces/${cluster.namespace}/${type.plural}/${name}`,
    body: patch,
    contentType: 'application/merge-patch+json',
    signal: cluster.signal,
  });
}

describe('a hosted connector', () => {
  it('gets a Deployment, a Service and a NetworkPolicy, and becomes Ready with at most six writes', async () => {
    await cluster.applyConnector('jira', spec('jira-mcp'));
    const { status, metadata } = await cluster.untilReady('jira', 'True', 'Ready');
    expect(status).toMatchObject({
      serverUrl: `http://jira-mcp.${cluster.namespace}.svc.cluster.local:${server.port}/mcp`,
      serverType: 'http',
      hosting: {
        deployment: 'jira',
        service: 'jira-mcp',
        image: 'example.com/jira:1.0.0',
        replicas: 1,
        readyReplicas: 1,
      },
      server: { name: 'jira-mcp', toolCount: 2 },
    });
    expect(status?.conditions?.map(({ type, status: state, reason }) => `${type}=${state} ${reason}`)).toEqual([
      'Ready=True Ready',
      'Accepted=True Accepted',
      'Deployed=True Available',
      'Reachable=True Answered',
      'Verified=True MCPVerified',
      'Authorized=True NotRequired',
    ]);
    for (const [type, name] of [
      [DEPLOYMENTS, 'jira'],
      [SERVICES, 'jira-mcp'],
      [NETWORK_POLICIES, 'jira'],
    ] as const) {
      const child = await cluster.get<Child>(type, name);
      expect(child.metadata.ownerReferences).toMatchObject([
        { kind: 'PersonalConnector', name: 'jira', uid: metadata.uid, controller: true },
      ]);
    }
    const writes = writesFor('jira', 'jira-mcp');
    expect(writes.slice(0, 4).sort()).toEqual([
      'patch deployments',
      'patch networkpolicies',
      'patch personalconnectors/status',
      'patch services',
    ]);
    expect(writes.length).toBeLessThanOrEqual(6);
    expect(new Set(writes.slice(4))).toEqual(new Set(['patch personalconnectors/status']));
  });

  it('tells its address only once something serves it', async () => {
    const seen: (string | undefined)[] = [];
    const ready = cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, 'addressed', connector => {
      if (connector?.status?.serverUrl && conditionOf(connector, 'Deployed')?.status !== 'True')
        seen.push(connector.status.serverUrl);
      return readyOf(connector)?.status === 'True';
    });
    await cluster.applyConnector('addressed', spec('addressed'));
    await ready;
    expect(seen).toEqual([]);
  });

  it('follows its spec', async () => {
    await cluster.applyConnector('follows', spec('follows'));
    await cluster.untilReady('follows', 'True', 'Ready');
    await cluster.applyConnector('follows', spec('follows', { version: '2.0.0' }));
    await cluster.until<Child>(DEPLOYMENTS, 'follows', child => imageOf(child) === 'example.com/jira:2.0.0');
    const { status } = await cluster.untilReady('follows', 'True', 'Ready');
    expect(status?.hosting?.image).toBe('example.com/jira:2.0.0');
  });

  it('drops what the spec no longer says', async () => {
    await cluster.applyConnector(
      'drops',
      spec('drops', { hosting: { nodeSelector: { disk: 'ssd' }, env: [{ name: 'X', value: 'y' }] } }),
    );
    const has = (object: Child | undefined): boolean => JSON.stringify(object?.spec ?? {}).includes('ssd');
    await cluster.until<Child>(DEPLOYMENTS, 'drops', has);
    await cluster.applyConnector('drops', spec('drops'));
    const { spec: left } = await cluster.until<Child>(
      DEPLOYMENTS,
      'drops',
      child => child !== undefined && !has(child),
    );
    expect(JSON.stringify(left)).not.toContain('"X"');
  });

  it('moves to another Service when its URL names one, and leaves none behind', async () => {
    await cluster.applyConnector('moves', spec('moves-old'));
    await cluster.untilReady('moves', 'True', 'Ready');
    await cluster.applyConnector('moves', spec('moves-new'));
    await cluster.until(SERVICES, 'moves-old', gone);
    const { status } = await cluster.untilReady('moves', 'True', 'Ready');
    expect(status?.hosting?.service).toBe('moves-new');
  });

  it('never fights over the number of Pods that the spec leaves open', async () => {
    await cluster.applyConnector('scaled', spec('scaled'));
    await cluster.untilReady('scaled', 'True', 'Ready');
    await meddle(DEPLOYMENTS, 'scaled', { spec: { replicas: 3 } });
    await cluster.until<PersonalConnector>(
      PERSONAL_CONNECTORS,
      'scaled',
      connector => connector?.status?.hosting?.readyReplicas === 3,
    );
    expect((await cluster.get<Deployment>(DEPLOYMENTS, 'scaled')).spec.replicas).toBe(3);
  });

  it('goes to sleep in maintenance, and wakes up', async () => {
    await cluster.applyConnector('sleeps', spec('sleeps'));
    await cluster.untilReady('sleeps', 'True', 'Ready');
    await cluster.applyConnector('sleeps', spec('sleeps', { lifecycle: 'maintenance' }));
    const { status } = await cluster.untilReady('sleeps', 'True', 'Maintenance');
    expect(status?.hosting?.replicas).toBe(0);
    await cluster.applyConnector('sleeps', spec('sleeps'));
    await cluster.untilReady('sleeps', 'True', 'Ready');
    expect((await cluster.get<Deployment>(DEPLOYMENTS, 'sleeps')).spec.replicas).toBe(1);
  });

  it('has as many Pods after a maintenance as somebody else gave it before', async () => {
    await cluster.applyConnector('resumes', spec('resumes'));
    await cluster.untilReady('resumes', 'True', 'Ready');
    await meddle(DEPLOYMENTS, 'resumes', { spec: { replicas: 3 } });
    const replicasOf = async (): Promise<number | undefined> =>
      (await cluster.get<Deployment>(DEPLOYMENTS, 'resumes')).spec.replicas;
    await cluster.until<Deployment>(DEPLOYMENTS, 'resumes', found => found?.spec.replicas === 3);
    await cluster.applyConnector('resumes', spec('resumes', { lifecycle: 'maintenance' }));
    await cluster.untilReady('resumes', 'True', 'Maintenance');
    await cluster.until<Deployment>(DEPLOYMENTS, 'resumes', found => found?.spec.replicas === 0);
    await cluster.applyConnector('resumes', spec('resumes'));
    await cluster.until<Deployment>(DEPLOYMENTS, 'resumes', found => found?.spec.replicas === 3);
    await cluster.untilReady('resumes', 'True', 'Ready');
    const { annotations } = (await cluster.get<Deployment>(DEPLOYMENTS, 'resumes')).metadata;
    expect(annotations).not.toHaveProperty([ANNOTATION.resume]);
    // From here on it is nobody's business but theirs again.
    await meddle(DEPLOYMENTS, 'resumes', { spec: { replicas: 2 } });
    await cluster.until<PersonalConnector>(
      PERSONAL_CONNECTORS,
      'resumes',
      connector => connector?.status?.hosting?.readyReplicas === 2,
    );
    expect(await replicasOf()).toBe(2);
  });

  it.each([1, 2])('has the %d Pods of its spec after a maintenance that kept others', async replicas => {
    const name = `decides-${replicas}`;
    await cluster.applyConnector(name, spec(name));
    await cluster.untilReady(name, 'True', 'Ready');
    await cluster.applyConnector(name, spec(name, { lifecycle: 'maintenance' }));
    await cluster.until<Deployment>(DEPLOYMENTS, name, found => found?.spec.replicas === 0);
    await cluster.untilReady(name, 'True', 'Maintenance');
    await cluster.applyConnector(name, spec(name, { hosting: { replicas } }));
    await cluster.untilReady(name, 'True', 'Ready');
    const { metadata, spec: has } = await cluster.get<Deployment>(DEPLOYMENTS, name);
    expect([has.replicas, metadata.annotations?.[ANNOTATION.resume]]).toEqual([replicas, undefined]);
  });

  it('that is made in maintenance has no Pods, and one afterwards', async () => {
    await cluster.applyConnector('later', spec('later', { lifecycle: 'maintenance' }));
    await cluster.untilReady('later', 'True', 'Maintenance');
    const { metadata } = await cluster.get<Deployment>(DEPLOYMENTS, 'later');
    await cluster.applyConnector('later', spec('later', { lifecycle: 'maintenance', description: 'still' }));
    await cluster.untilReady('later', 'True', 'Maintenance');
    expect((await cluster.get<Deployment>(DEPLOYMENTS, 'later')).spec.replicas).toBe(0);
    await cluster.applyConnector('later', spec('later'));
    await cluster.untilReady('later', 'True', 'Ready');
    const after = await cluster.get<Deployment>(DEPLOYMENTS, 'later');
    expect([after.metadata.uid, after.spec.replicas]).toEqual([metadata.uid, 1]);
  });

  it('takes its children with it', async () => {
    await cluster.applyConnector('leaves', spec('leaves'));
    await cluster.untilReady('leaves', 'True', 'Ready');
    await cluster.remove(PERSONAL_CONNECTORS, 'leaves');
    await Promise.all([DEPLOYMENTS, SERVICES, NETWORK_POLICIES].map(type => cluster.until(type, 'leaves', gone)));
  });

  it('has children of valid and unique names whatever it is called', async () => {
    const long = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.`;
    const names = [`${long}${'d'.repeat(61)}`, `${long}${'d'.repeat(60)}e`, '0.starts.with.a.digit'];
    for (const name of names) {
      const { serverUrl: _, ...withoutUrl } = spec('unused');
      await cluster.applyConnector(name, { ...withoutUrl, probe: { enabled: false } });
    }
    const ready = await Promise.all(names.map(name => cluster.untilReady(name, 'True', 'ProbeDisabled')));
    expect(new Set(ready.map(({ status }) => status?.hosting?.deployment)).size).toBe(3);
    expect(new Set(ready.map(({ status }) => status?.hosting?.service)).size).toBe(3);
  });
});

describe('drift is mended:', () => {
  beforeAll(async () => {
    await cluster.applyConnector('drift', spec('drift'));
    await cluster.untilReady('drift', 'True', 'Ready');
  });

  it.each([DEPLOYMENTS, SERVICES, NETWORK_POLICIES])('a deleted $kind comes back', async type => {
    const { metadata } = await cluster.get(type, 'drift');
    await cluster.remove(type, 'drift');
    await cluster.until(type, 'drift', child => child !== undefined && child.metadata.uid !== metadata.uid);
    await cluster.untilReady('drift', 'True', 'Ready');
  });

  it('another image', async () => {
    const containers = [{ name: 'server', image: 'example.com/evil' }];
    await meddle(DEPLOYMENTS, 'drift', { spec: { template: { spec: { containers } } } });
    await cluster.until<Child>(DEPLOYMENTS, 'drift', child => imageOf(child) === 'example.com/jira:1.0.0');
  });

  it('a Service that points elsewhere, and one that selects more', async () => {
    const selectorOf = (object: Child | undefined) =>
      (object?.spec as { selector?: Record<string, string> } | undefined)?.selector;
    const { selector } = (await cluster.get<Child>(SERVICES, 'drift')).spec as { selector: Record<string, string> };
    for (const drifted of [{ [LABEL.connector]: 'other' }, { more: 'x' }]) {
      await meddle(SERVICES, 'drift', { spec: { selector: drifted } });
      await cluster.until<Child>(
        SERVICES,
        'drift',
        child => JSON.stringify(selectorOf(child)) === JSON.stringify(selector),
      );
    }
  });

  it('a NetworkPolicy that lets more in', async () => {
    const { spec: wanted } = await cluster.get<Child>(NETWORK_POLICIES, 'drift');
    await meddle(NETWORK_POLICIES, 'drift', { spec: { ingress: [{}] } });
    await cluster.until<Child>(
      NETWORK_POLICIES,
      'drift',
      child => JSON.stringify(child?.spec) === JSON.stringify(wanted),
    );
  });

  it('lost labels and lost owners', async () => {
    await meddle(SERVICES, 'drift', { metadata: { labels: null } });
    await cluster.until<Child>(SERVICES, 'drift', child => child?.metadata.labels?.[LABEL.connector] === 'drift');
    await meddle(SERVICES, 'drift', { metadata: { ownerReferences: null } });
    await cluster.until<Child>(SERVICES, 'drift', child => child?.metadata.ownerReferences?.[0]?.name === 'drift');
  });
});

describe('a switch of type', () => {
  it('to custom takes the children away, and back makes them again', async () => {
    const custom = { name: 'Jira', type: 'custom', connectorId: 'jira', serverUrl: server.url } as const;
    await cluster.applyConnector('switch', spec('switch'));
    await cluster.untilReady('switch', 'True', 'Ready');
    await cluster.applyConnector('switch', custom);
    await Promise.all([DEPLOYMENTS, SERVICES, NETWORK_POLICIES].map(type => cluster.until(type, 'switch', gone)));
    const { status } = await cluster.untilReady('switch', 'True', 'Ready');
    expect(status?.hosting).toBeUndefined();
    expect(conditionOf({ status } as PersonalConnector, 'Deployed')).toBeUndefined();
    await cluster.applyConnector('switch', spec('switch'));
    const again = await cluster.untilReady('switch', 'True', 'Ready');
    expect(again.status?.hosting?.deployment).toBe('switch');
  });
});

describe('what cannot be served is said on the status:', () => {
  it('a connectorId that the catalog lacks', async () => {
    await cluster.applyConnector('unknown', { name: 'X', type: 'aitronos_built', connectorId: 'nosuch' });
    const connector = await cluster.untilReady('unknown', 'False', 'CatalogEntryMissing');
    expect(readyOf(connector)?.message).toContain('known: jira');
    expect(conditionOf(connector, 'Stalled')?.status).toBe('True');
    await cluster.applyConnector('unknown', spec('unknown'));
    await cluster.untilReady('unknown', 'True', 'Ready');
  });

  it('an image that is not allowed', async () => {
    await cluster.applyConnector('image', spec('image', { hosting: { image: 'docker.example.org/miner' } }));
    await cluster.untilReady('image', 'False', 'ImageNotAllowed');
    expect(await cluster.list(DEPLOYMENTS)).not.toContainEqual(
      expect.objectContaining({ metadata: expect.objectContaining({ name: 'image' }) }),
    );
  });

  it('a URL whose host is in another namespace', async () => {
    await cluster.applyConnector('elsewhere', spec('jira.kube-system.svc'));
    await cluster.untilReady('elsewhere', 'False', 'InvalidSpec');
  });

  it('a Service name that somebody else has, and it is left untouched', async () => {
    const foreign = await cluster.apply<Child>(SERVICES, {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'taken', namespace: cluster.namespace },
      spec: { ports: [{ port: 1234 }] },
    } as Declared & Record<string, unknown>);
    await cluster.applyConnector('taker', spec('taken'));
    const connector = await cluster.untilReady('taker', 'False', 'NameConflict');
    expect(readyOf(connector)?.message).toBe(
      'the Service taken exists and belongs to somebody else: delete it, or name another Service in spec.serverUrl',
    );
    expect((await cluster.get(SERVICES, 'taken')).metadata.resourceVersion).toBe(foreign.metadata.resourceVersion);
  });

  it('what the API server refuses of it', async () => {
    await cluster.applyConnector(
      'refused',
      spec('refused', { hosting: { resources: { requests: { cpu: '2' }, limits: { cpu: '1' } } } }),
    );
    const connector = await cluster.untilReady('refused', 'False', 'InvalidSpec');
    expect(readyOf(connector)?.message).toContain('must be less than or equal to cpu limit');
  });
});

it('a restart finds everything as it is and writes nothing', async () => {
  await cluster.applyConnector('restart', spec('restart'));
  await cluster.untilReady('restart', 'True', 'Ready');
  await operator.stop();
  const before = operatorRequests(inject('auditLog'), cluster.namespace).length;
  operator = await runOperator(cluster, {
    catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', env: { B: '2', A: '1' } } },
    allowedImages: ['example.com/*'],
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
  });
  // A fresh connector waits behind the others in the queue: once it is served, they have been looked at.
  await cluster.applyConnector('after-restart', spec('after-restart'));
  await cluster.untilReady('after-restart', 'True', 'Ready');
  const since = operatorRequests(inject('auditLog'), cluster.namespace).slice(before);
  // What the API server refused, and names that others have, can only be tried again; watches show neither.
  const tried = ['taken', 'refused'];
  const others = since.filter(
    ({ verb, name = '' }) =>
      verb !== 'list' && verb !== 'watch' && !tried.includes(name) && !name.startsWith('after-restart'),
  );
  expect(others.map(({ verb, resource, name }) => `${verb} ${resource} ${name}`)).toEqual([]);
});

it('children belong to the operator by server-side apply alone', async () => {
  await cluster.applyConnector('managed', spec('managed'));
  await cluster.untilReady('managed', 'True', 'Ready');
  interface Managed extends KubeObject {
    metadata: KubeObject['metadata'] & { managedFields: { manager: string; operation: string }[] };
  }
  for (const type of [DEPLOYMENTS, SERVICES, NETWORK_POLICIES]) {
    const { metadata } = await cluster.get<Managed>(type, 'managed');
    expect(metadata.managedFields).toContainEqual(
      expect.objectContaining({ manager: FIELD_MANAGER, operation: 'Apply' }),
    );
  }
});
