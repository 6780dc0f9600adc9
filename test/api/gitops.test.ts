/** GitOps tools and the operator on one API server: they never conflict, and nothing drifts. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import {
  ANNOTATION,
  FIELD_MANAGER,
  PERSONAL_CONNECTORS,
  type PersonalConnector,
  STATUS_FIELD_MANAGER,
} from '../../src/api/connector.ts';
import type { HostingSpec, PersonalConnectorSpec, ProbeSpec } from '../../src/api/generated.ts';
import type { KubeObject } from '../../src/api/meta.ts';
import { DEPLOYMENTS, type Deployment, SERVICES } from '../../src/connector/children.ts';
import { CONFIG_MAPS } from '../../src/connector/references.ts';
import type { Operator } from '../../src/main.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { createAuthority } from '../cluster/certificates.ts';
import { run } from '../cluster/process.ts';
import { operatorWrites } from '../support/audit.ts';
import { judged } from '../support/gitops.ts';
import { createSandbox, readyOf, type Sandbox, SECRETS } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { startMcp } from '../support/servers.ts';

const ROUNDS = 20;

let cluster: Sandbox;
let operator: Operator;
let server: Awaited<ReturnType<typeof startMcp>>;
let kubectl: (args: string[], input?: string) => Promise<string>;
const temporary = mkdtempSync(join(tmpdir(), 'pco-gitops-'));

beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'));
  server = await startMcp({ name: 'jira-mcp' });
  operator = await runOperator(cluster, {
    catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', port: server.port } },
    allowedImages: ['example.com/*'],
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
    readSecrets: true,
    readConfigMaps: true,
    probe: { perHost: 32, perHostPerSecond: 1000 },
  });
  const { signal } = cluster;
  const programs = await resolveBinaries(['kubectl'], { signal, progress: console.log });
  const env = { ...process.env, KUBECONFIG: inject('kubeconfig'), KUBECACHEDIR: temporary };
  kubectl = (args, input) => run(programs.kubectl, ['-n', cluster.namespace, ...args], { signal, env, input });
  await kubectl(['label', 'node', '--all', 'example.com/gitops=yes', '--overwrite']);
  const { namespace } = cluster;
  const put = (type: typeof SECRETS | typeof CONFIG_MAPS, data: object) =>
    cluster.apply(type, { apiVersion: 'v1', kind: type.kind, metadata: { name: 'inputs', namespace }, ...data });
  await put(SECRETS, { stringData: { token: 'x' } });
  await put(CONFIG_MAPS, { data: { ca: createAuthority('test').certificate, level: 'info' } });
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
  await server?.close();
  rmSync(temporary, { recursive: true, force: true });
});

/** What stands in Git. */
interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; labels?: Record<string, string>; annotations?: Record<string, string> };
  spec: PersonalConnectorSpec;
}

interface Tool {
  /** Of its field manager. */
  name: string;
  apply(manifests: Manifest[]): Promise<unknown>;
  /** What is there and what it would make of it, as the tool compares them: equal when nothing drifted. */
  compare(manifests: Manifest[]): Promise<[there: unknown, wanted: unknown]>;
}

type Live = PersonalConnector & { metadata: { managedFields?: { manager: string; subresource?: string }[] } };

/** Without force, so that a field of another manager which it would change is a conflict; a dry run asks for all the same. */
function serverSideApply(fieldManager: string, { metadata, ...rest }: Manifest, dryRun = false): Promise<Live> {
  const { namespace, transport, signal } = cluster;
  const path = `/apis/connectors.aitronos.com/v1/namespaces/${namespace}/personalconnectors/${metadata.name}`;
  return transport.call<Live>({
    method: 'PATCH',
    path: `${path}?fieldManager=${fieldManager}&${dryRun ? 'force=true&dryRun=All' : 'force=false'}`,
    body: { ...rest, metadata: { ...metadata, namespace } },
    contentType: 'application/apply-patch+yaml',
    signal,
  });
}

const live = ({ metadata: { name } }: Manifest): Promise<Live> => cluster.get<Live>(PERSONAL_CONNECTORS, name);

/** A tool that applies and compares on the server: `seen` is what it compares of an object. */
function serverSide(name: string, mark: Partial<Manifest['metadata']>, seen: (object: Live) => unknown): Tool {
  const marked = ({ metadata, ...rest }: Manifest): Manifest => ({
    ...rest,
    metadata: {
      ...metadata,
      labels: { ...metadata.labels, ...mark.labels },
      annotations: { ...metadata.annotations, ...mark.annotations },
    },
  });
  return {
    name,
    apply: manifests => Promise.all(manifests.map(manifest => serverSideApply(name, marked(manifest)))),
    compare: async manifests => {
      const there = await Promise.all(manifests.map(live));
      const wanted = await Promise.all(manifests.map(manifest => serverSideApply(name, marked(manifest), true)));
      return [there.map(seen), wanted.map(seen)];
    },
  };
}

const TOOLS: Tool[] = [
  // Everything but the status, which it ignores of custom resources, and who manages what.
  serverSide(
    'argocd-controller',
    {
      annotations: { 'argocd.argoproj.io/tracking-id': 'connectors:connectors.aitronos.com/PersonalConnector:team/x' },
    },
    ({ metadata: { managedFields: _, resourceVersion: __, ...metadata }, status: ___, ...rest }) => ({
      ...rest,
      metadata,
    }),
  ),
  // Labels, annotations, and everything but metadata and status.
  serverSide(
    'kustomize-controller',
    {
      labels: {
        'kustomize.toolkit.fluxcd.io/name': 'connectors',
        'kustomize.toolkit.fluxcd.io/namespace': 'flux-system',
      },
    },
    ({ metadata: { labels, annotations }, status: _, ...rest }) => ({ ...rest, labels, annotations }),
  ),
  {
    name: 'kubectl-client-side-apply',
    apply: manifests => kubectl(['apply', '-f', '-'], list(manifests)),
    // Ends with an error, and the difference in it, where there is one.
    compare: async manifests => ['', await kubectl(['diff', '-f', '-'], list(manifests)).catch(String)],
  },
];

const list = (items: Manifest[]): string => JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

/** Every field of spec.hosting. */
const HOSTING: HostingSpec = {
  image: 'example.com/own:1',
  command: ['/server'],
  args: ['--verbose'],
  path: '/mcp',
  env: [
    { name: 'PLAIN', value: '' },
    { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'inputs', key: 'token', optional: false } } },
    { name: 'LEVEL', valueFrom: { configMapKeyRef: { name: 'inputs', key: 'level' } } },
  ],
  envFrom: [{ prefix: 'X_', secretRef: { name: 'inputs' } }, { configMapRef: { name: 'inputs', optional: true } }],
  replicas: 2,
  resources: { requests: { cpu: '0.1', memory: '0.5Gi' }, limits: { cpu: 1, memory: '1024Mi' } },
  imagePullSecrets: [{ name: 'inputs' }],
  nodeSelector: { 'example.com/gitops': 'yes' },
  tolerations: [{ key: 'mcp', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 60 }],
  allowFrom: [
    { namespaceSelector: {}, podSelector: { matchLabels: { app: 'chat' } } },
    { podSelector: { matchExpressions: [{ key: 'app', operator: 'In', values: ['a', 'b'] }] } },
    { ipBlock: { cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] } },
  ],
};

/** Every field of spec.probe but approvedToolsHash: the tools change here. */
const PROBE: ProbeSpec = {
  enabled: true,
  interval: '1h0m0s',
  timeout: '10s',
  failureThreshold: 3,
  successThreshold: 1,
  headers: [{ name: 'Authorization', valueFrom: { secretKeyRef: { name: 'inputs', key: 'token' } } }],
  caBundle: { configMapKeyRef: { name: 'inputs', key: 'ca' } },
};

const pick = <T>(round: number, ...choices: T[]): T => choices[round % choices.length] as T;

/** What is in Git in a round: connectors of all three types, whose optional fields come, change and go. */
function manifests(prefix: string, round: number): Manifest[] {
  const common = {
    description: `as of round ${round}`,
    metadata: { round, nested: { deep: [1, 'two', null, { three: 3.5 }] } },
    ...pick(
      round,
      {},
      { lifecycle: 'active' },
      { lifecycle: 'deprecated', replacedBy: 'other' },
      {},
      { lifecycle: 'maintenance' },
    ),
    ...pick(round, {}, { category: 'development' }, { category: 'design', iconUrl: 'https://example.com/icon.svg' }),
  } as Partial<PersonalConnectorSpec>;
  const manifest = (name: string, spec: PersonalConnectorSpec): Manifest => ({
    apiVersion: 'connectors.aitronos.com/v1',
    kind: 'PersonalConnector',
    metadata: {
      name: `${prefix}-${name}`,
      labels: { team: 'platform', ...pick(round, {}, { extra: 'yes' }) },
      annotations: { 'example.com/round': String(round) },
    },
    spec: { ...common, ...spec },
  });
  const hosting = pick<HostingSpec | undefined>(
    round,
    HOSTING,
    { env: [{ name: 'PLAIN', value: String(round) }] },
    undefined,
  );
  return [
    manifest('official', {
      id: `pcon_${prefix}`,
      name: 'GitHub',
      type: 'official',
      connectorId: 'github',
      serverUrl: server.url,
      createdBy: 'user_1',
    }),
    manifest('custom', {
      name: 'Mine',
      type: 'custom',
      connectorId: 'custom_mcp',
      serverUrl: server.url,
      ...pick(round, {}, { serverType: 'http' }),
      ...pick(round, {}, { probe: PROBE }, { probe: { enabled: false } }, { probe: { timeout: '5s' } }),
    }),
    manifest('hosted', {
      name: 'Jira',
      type: 'aitronos_built',
      connectorId: 'jira',
      ...pick(round, {}, { version: '1.1.0' }, { serverUrl: `http://${prefix}-hosted:${server.port}/mcp` }),
      ...(hosting && { hosting }),
    }),
  ];
}

/** What happens on the other side meanwhile: to what the operator made, to the server, to the connectors themselves. */
async function meddle(prefix: string, round: number): Promise<void> {
  const hosted = { metadata: { name: `${prefix}-hosted`, namespace: cluster.namespace } };
  switch (round % 3) {
    case 0:
      await cluster.remove(SERVICES, hosted.metadata.name);
      break;
    case 1: {
      const containers = [{ name: 'server', image: 'example.com/evil:1' }];
      const patch = { spec: { replicas: 3, template: { metadata: { labels: { odd: 'yes' } }, spec: { containers } } } };
      await kubectl(['patch', 'deployment', hosted.metadata.name, '--patch', JSON.stringify(patch)]);
      break;
    }
    default:
      server.tools.push(`tool-${prefix}-${round}`);
  }
  const recheck = `${ANNOTATION.recheck}=${round}`;
  const names = manifests(prefix, round).map(({ metadata: { name } }) => `personalconnectors/${name}`);
  await kubectl(['annotate', '--overwrite', ...names, recheck]);
}

/** Waits until the operator has said what has become of it. */
const settled = (name: string): Promise<PersonalConnector> =>
  cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, name, connector => {
    const ready = readyOf(connector);
    return ready?.status !== 'Unknown' && ready?.observedGeneration === connector?.metadata.generation;
  });

describe('twenty rounds of edits on both sides', () => {
  it.concurrent.for(TOOLS)(
    'end without a conflict and without a difference: $name',
    { timeout: 300_000 },
    async ({ name, apply, compare }, { expect }) => {
      const prefix = name.split('-')[0] as string;
      for (let round = 0; round < ROUNDS; round += 1) {
        const wanted = manifests(prefix, round);
        const names = wanted.map(({ metadata }) => metadata.name);
        await Promise.all([apply(wanted), ...(round > 0 ? [meddle(prefix, round)] : [])]);
        const expected = wanted.map(({ spec: { lifecycle, probe } }) => {
          if (lifecycle === 'maintenance') return 'True Maintenance';
          return probe?.enabled === false ? 'True ProbeDisabled' : 'True Ready';
        });
        const found = (await Promise.all(names.map(settled))).map(readyOf);
        expect(
          found.map(ready => `${ready?.status} ${ready?.reason}`),
          `round ${round}`,
        ).toEqual(expected);

        const [there, would] = await compare(wanted);
        expect(would, `round ${round}`).toEqual(there);
        const versions = async () =>
          (await Promise.all(wanted.map(live))).map(({ metadata }) => metadata.resourceVersion);
        // The operator may still have something to report of the children: that is no answer to an apply.
        await expect
          .poll(
            async () => {
              const before = await versions();
              await apply(wanted);
              return isDeepStrictEqual(await versions(), before);
            },
            { timeout: 10_000 },
          )
          .toBe(true);
      }

      const last = manifests(prefix, ROUNDS - 1);
      for (const manifest of last) {
        const { metadata, spec } = await live(manifest);
        expect(spec).toMatchObject(manifest.spec);
        expect(metadata.labels).toMatchObject(manifest.metadata.labels ?? {});
        expect(metadata).not.toHaveProperty('finalizers');
        expect(metadata).not.toHaveProperty('ownerReferences');
        // A person's recheck is the only thing that neither Git nor the operator's status holds.
        const managers = (metadata.managedFields ?? []).map(({ manager, subresource }) => [manager, subresource]);
        expect(managers.filter(([manager]) => manager !== 'kubectl-annotate').sort()).toEqual(
          [
            [name, undefined],
            [STATUS_FIELD_MANAGER, 'status'],
          ].sort(),
        );
      }
      // A difference would have been seen.
      const [{ metadata }] = last as [Manifest];
      await kubectl(['patch', 'pcon', metadata.name, '--type=merge', '--patch', '{"spec":{"description":"by hand"}}']);
      const [there, would] = await compare(last);
      expect(would).not.toEqual(there);

      await cluster.until<Deployment>(
        DEPLOYMENTS,
        `${prefix}-hosted`,
        found => found?.spec.template?.spec?.containers?.[0]?.image === 'example.com/jira:1.1.0',
      );
    },
  );

  it('have the operator write nothing of a connector but its status', () => {
    const writes = operatorWrites(inject('auditLog'), cluster.namespace);
    const own = new Set(writes.filter(write => write.includes('personalconnectors')));
    expect(own).toEqual(new Set(['patch personalconnectors/status']));
    expect(FIELD_MANAGER).not.toBe(STATUS_FIELD_MANAGER);
  });
});

describe('what the API server holds', () => {
  it('is told apart by the tools', async () => {
    const live = (name: string): Promise<PersonalConnector> => cluster.get(PERSONAL_CONNECTORS, name);
    const said = async (name: string) => {
      const [verdicts] = await judged([await live(name)]);
      return Object.values(verdicts ?? {}).map(({ status, error }) => status ?? error);
    };
    const spec = { name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl: server.url } as const;

    const { status } = await cluster.applyConnector('unseen', { ...spec, suspend: true });
    expect(status).toEqual({ observedGeneration: -1 });
    expect(await said('unseen')).toEqual(['Suspended', 'InProgress', 'InProgress']);

    await cluster.applyConnector('well', spec);
    await settled('well');
    expect(await said('well')).toEqual(['Healthy', 'Current', 'Current']);
    await kubectl(['wait', '--for=condition=Ready', 'personalconnector/well', '--timeout=10s']);

    await cluster.applyConnector('well', { ...spec, suspend: true });
    expect(await said('well')).toEqual(['Suspended', 'InProgress', 'InProgress']);
    // It goes by the generation too: a Ready of before is no answer.
    const waiting = kubectl(['wait', '--for=condition=Ready', 'personalconnector/well', '--timeout=1s']);
    await expect(waiting).rejects.toThrow('timed out waiting');

    await cluster.applyConnector('stalled', { name: 'X', type: 'aitronos_built', connectorId: 'nosuch' });
    await settled('stalled');
    expect(await said('stalled')).toEqual(['Degraded', 'Failed', 'Failed']);
  });
});

describe('a connector that is no longer in Git', () => {
  it('goes without waiting for anybody, and what was made for it is collected', async () => {
    const [, , hosted] = manifests('pruned', 0) as [Manifest, Manifest, Manifest];
    await serverSideApply('kustomize-controller', hosted);
    await settled(hosted.metadata.name);
    await cluster.remove(PERSONAL_CONNECTORS, hosted.metadata.name);
    const gone = (object: KubeObject | undefined): boolean => object === undefined;
    await cluster.until(PERSONAL_CONNECTORS, hosted.metadata.name, gone);
    await cluster.until(DEPLOYMENTS, hosted.metadata.name, gone);
    await cluster.until(SERVICES, hosted.metadata.name, gone);
    // The garbage collector of Kubernetes comes to know a new CRD within half a minute.
  }, 120_000);
});

describe('the ConfigMap of Argo CD', () => {
  it('is patched with the health script, and keeps what it has', async () => {
    const patch = 'manifests/gitops/argocd/argocd-cm.yaml';
    await kubectl(['create', 'configmap', 'argocd-cm', '--from-literal=url=https://argocd.example.com']);
    await kubectl(['patch', 'configmap', 'argocd-cm', '--patch-file', patch]);
    const { data } = await cluster.get<KubeObject & { data: object }>(CONFIG_MAPS, 'argocd-cm');
    const added = load(readFileSync(patch, 'utf8')) as { data: object };
    expect(data).toEqual({ url: 'https://argocd.example.com', ...added.data });
  });
});
