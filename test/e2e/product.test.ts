/** The product as its users have it: the operator as a Pod, installed by Helm, on a node that runs real Pods. */
import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { KubeObject } from '../../src/api/meta.ts';
import { type Child, DEPLOYMENTS, NETWORK_POLICIES, PODS, type Pod, SERVICES } from '../../src/connector/children.ts';
import { LEASES, type Lease } from '../../src/kube/lease.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { OPERATOR_DEPLOYMENT, OPERATOR_NAMESPACE } from '../demo/demo.ts';
import { readSamples } from '../demo/samples.ts';
import { conditionOf, createSandbox, NAMESPACES, readyOf, type Sandbox, SECRETS, until } from '../support/kube.ts';

const root = dirname(dirname(import.meta.dirname));
const RESTRICTED = { 'pod-security.kubernetes.io/enforce': 'restricted' };
const CHILD_TYPES = [DEPLOYMENTS, SERVICES, NETWORK_POLICIES];
const EVERYTHING = 'http://everything.tools.svc.cluster.local:8000/mcp';
const gone = (object: KubeObject | undefined): boolean => object === undefined;

describe.skipIf(inject('noNode'))('on a real node', () => {
  let cluster: Sandbox;
  let kubectl: (...args: string[]) => Promise<string>;

  beforeAll(async () => {
    cluster = await createSandbox(inject('kubeconfig'), RESTRICTED);
    const binaries = await resolveBinaries(['kubectl'], { signal: cluster.signal, progress: () => {} });
    kubectl = async (...args) => {
      const { stdout } = await promisify(execFile)(binaries.kubectl, ['--kubeconfig', inject('kubeconfig'), ...args]);
      return stdout;
    };
  });
  afterAll(() => cluster?.dispose());

  /** A hosted connector on the reference server, which starts faster than Jira's. */
  const hosted = (more: Partial<PersonalConnectorSpec['hosting']> = {}): PersonalConnectorSpec => ({
    name: 'Everything',
    type: 'aitronos_built',
    connectorId: 'everything',
    hosting: { image: inject('everythingImage'), ...more },
  });

  describe('every sample', () => {
    const samples = readSamples(root, false);

    it('is what its comment says, and a GitOps tool sees no drift', async () => {
      await kubectl('apply', '-n', cluster.namespace, '-f', join(root, 'manifests', 'samples'));
      await Promise.all(
        samples.map(({ connector, expected }) =>
          cluster.untilReady(connector.metadata.name, expected.status, expected.reason),
        ),
      );
      // Exit code 1 would mean a difference.
      expect(await kubectl('diff', '-n', cluster.namespace, '-f', join(root, 'manifests', 'samples'))).toBe('');
    });

    it('is shown by kubectl get in one line that says why', async () => {
      const table = await kubectl('get', 'pcon', '-n', cluster.namespace);
      expect(table.split('\n')[0]?.split(/\s+/)).toEqual([
        'NAME',
        'TYPE',
        'CONNECTOR',
        'READY',
        'REASON',
        'URL',
        'AGE',
      ]);
      expect(table).toMatch(
        /^jira +aitronos_built +jira +True +Ready +http:\/\/jira\.\S+\.svc\.cluster\.local:8000\/mcp/m,
      );
      expect(table).toMatch(/^closed-port +custom +custom_mcp +False +ConnectionRefused/m);
    });
  });

  it('a hosted server runs in a Pod that has no rights', async () => {
    await cluster.applyConnector('confined', hosted());
    await cluster.untilReady('confined', 'True', 'Ready');
    const [pod] = (await cluster.list<Pod & { spec: Record<string, unknown> }>(PODS)).filter(({ metadata }) =>
      metadata.name.startsWith('confined-'),
    );
    expect(pod?.spec).toMatchObject({
      automountServiceAccountToken: false,
      securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          securityContext: {
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ['ALL'] },
          },
        },
      ],
    });
  });

  it('an edit is followed by the Pods', async () => {
    await cluster.applyConnector('edited', hosted({ env: [{ name: 'COLOUR', value: 'red' }] }));
    await cluster.untilReady('edited', 'True', 'Ready');
    await cluster.applyConnector('edited', hosted({ env: [{ name: 'COLOUR', value: 'blue' }] }));
    await cluster.untilReady('edited', 'True', 'Ready');
    const pods = (await cluster.list<Pod & { spec: object }>(PODS)).filter(
      ({ metadata }) => metadata.name.startsWith('edited-') && !metadata.deletionTimestamp,
    );
    expect(pods.map(({ spec }) => JSON.stringify(spec).match(/"COLOUR","value":"(\w+)"/)?.[1])).toEqual(['blue']);
  });

  it('a switch of type is followed by the children, both ways', async () => {
    await cluster.applyConnector('switch', hosted());
    await cluster.untilReady('switch', 'True', 'Ready');
    await cluster.applyConnector('switch', {
      name: 'Everything',
      type: 'custom',
      connectorId: 'everything',
      serverUrl: EVERYTHING,
    });
    await Promise.all(CHILD_TYPES.map(type => cluster.until(type, 'switch', gone)));
    await cluster.untilReady('switch', 'True', 'Ready');
    await cluster.applyConnector('switch', hosted());
    const { status } = await cluster.untilReady('switch', 'True', 'Ready');
    expect(status?.hosting?.readyReplicas).toBe(1);
  });

  it('children that are deleted or altered are repaired, and serve again', async () => {
    await cluster.applyConnector('drift', hosted());
    await cluster.untilReady('drift', 'True', 'Ready');
    for (const type of CHILD_TYPES) {
      const { metadata } = await cluster.get(type, 'drift');
      await cluster.remove(type, 'drift');
      await cluster.until(type, 'drift', child => child !== undefined && child.metadata.uid !== metadata.uid);
    }
    await kubectl('-n', cluster.namespace, 'set', 'image', 'deployment/drift', 'server=registry.invalid/evil:1');
    await cluster.until<Child>(DEPLOYMENTS, 'drift', child =>
      JSON.stringify(child?.spec).includes(inject('everythingImage')),
    );
    await cluster.untilReady('drift', 'True', 'Ready');
  });

  it('a deleted connector takes its Pods with it', async () => {
    await cluster.applyConnector('deleted', hosted());
    await cluster.untilReady('deleted', 'True', 'Ready');
    const [pod] = (await cluster.list(PODS)).filter(({ metadata }) => metadata.name.startsWith('deleted-'));
    await cluster.remove(PERSONAL_CONNECTORS, 'deleted');
    await Promise.all(CHILD_TYPES.map(type => cluster.until(type, 'deleted', gone)));
    // The reference server ignores SIGTERM, so it is there for its 30 s of grace.
    await cluster.until(
      PODS,
      pod?.metadata.name ?? '',
      found => !found || found.metadata.deletionTimestamp !== undefined,
    );
  });

  describe('the status says why a hosted server does not run, and heals:', () => {
    it('an image that cannot be pulled', async () => {
      await cluster.applyConnector('pull', hosted({ image: 'registry.invalid/none:1' }));
      const failed = await cluster.untilReady('pull', 'False', 'ImagePullFailed');
      expect(readyOf(failed)?.message).toContain('registry.invalid/none:1');
      await cluster.applyConnector('pull', hosted());
      await cluster.untilReady('pull', 'True', 'Ready');
    });

    it('a server that crashes', async () => {
      await cluster.applyConnector('crash', hosted({ command: ['node', '-e', 'process.exit(3)'] }));
      const failed = await cluster.untilReady('crash', 'False', 'CrashLooping');
      expect(readyOf(failed)?.message).toContain('exit code 3');
      await cluster.applyConnector('crash', hosted());
      await cluster.untilReady('crash', 'True', 'Ready');
    });

    it('a Pod that no node can take', async () => {
      await cluster.applyConnector('large', hosted({ nodeSelector: { size: 'huge' } }));
      await cluster.untilReady('large', 'False', 'Unschedulable');
      await cluster.applyConnector('large', hosted());
      await cluster.untilReady('large', 'True', 'Ready');
    });

    it('a Secret that is missing, then one that lacks the key', async () => {
      const secret = (stringData: Record<string, string>) =>
        cluster.apply(SECRETS, {
          apiVersion: 'v1',
          kind: 'Secret',
          metadata: { name: 'late-credentials', namespace: cluster.namespace },
          stringData,
        });
      await cluster.applyConnector('late', { name: 'Jira', type: 'aitronos_built', connectorId: 'jira' });
      const missing = await cluster.untilReady('late', 'False', 'SecretNotFound');
      expect(conditionOf(missing, 'Accepted')?.message).toContain('late-credentials');
      await secret({ OTHER: 'x' });
      await cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, 'late', connector =>
        Boolean(conditionOf(connector, 'Accepted')?.message.includes('JIRA_URL')),
      );
      await secret({ JIRA_URL: 'https://jira.example.com', JIRA_PERSONAL_TOKEN: 'x' });
      await cluster.untilReady('late', 'True', 'Ready');
    });
  });

  it('of two replicas one works, and the other one goes on when it is deleted', async () => {
    const operator = ['-n', OPERATOR_NAMESPACE] as const;
    const scale = async (replicas: number): Promise<void> => {
      await kubectl(...operator, 'scale', 'deployment', OPERATOR_DEPLOYMENT, `--replicas=${replicas}`);
      await kubectl(...operator, 'rollout', 'status', `deployment/${OPERATOR_DEPLOYMENT}`);
    };
    const holder = async (): Promise<string> => {
      const lease = await cluster.client.get<Lease>(
        LEASES,
        { namespace: OPERATOR_NAMESPACE, name: OPERATOR_DEPLOYMENT },
        cluster.signal,
      );
      return lease.spec?.holderIdentity?.split('_')[0] ?? '';
    };
    await scale(2);
    const first = await holder();
    await kubectl(...operator, 'delete', 'pod', first, '--wait=false');
    await cluster.applyConnector('failed-over', { ...hosted(), probe: { enabled: false } });
    await cluster.untilReady('failed-over', 'True', 'ProbeDisabled');
    expect(await holder()).not.toBe(first);
    await scale(1);
  });

  it('a namespace goes, with connectors in it and the operator stopped', async () => {
    const other = await createSandbox(inject('kubeconfig'), RESTRICTED);
    try {
      await other.applyConnector('left', hosted());
      await other.untilReady('left', 'True', 'Ready');
      await kubectl('-n', OPERATOR_NAMESPACE, 'scale', 'deployment', OPERATOR_DEPLOYMENT, '--replicas=0');
      await kubectl(
        '-n',
        OPERATOR_NAMESPACE,
        'wait',
        '--for=delete',
        'pod',
        '-l',
        `app.kubernetes.io/name=${OPERATOR_DEPLOYMENT}`,
      );
      await kubectl('delete', 'namespace', other.namespace, '--wait=false');
      await until(cluster, NAMESPACES, {}, other.namespace, gone);
    } finally {
      await kubectl('-n', OPERATOR_NAMESPACE, 'scale', 'deployment', OPERATOR_DEPLOYMENT, '--replicas=1');
      await kubectl('-n', OPERATOR_NAMESPACE, 'rollout', 'status', `deployment/${OPERATOR_DEPLOYMENT}`);
      await other.close();
    }
    await cluster.applyConnector('afterwards', hosted());
    await cluster.untilReady('afterwards', 'True', 'Ready');
  });
});
