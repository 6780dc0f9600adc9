/** Secrets and ConfigMaps of hosted servers, with an operator that may read them. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { DEPLOYMENTS, type Deployment } from '../../src/connector/children.ts';
import { CONFIG_MAPS } from '../../src/connector/references.ts';
import type { Operator } from '../../src/main.ts';
import { conditionOf, createSandbox, readyOf, type Sandbox, SECRETS } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { startMcp, type TestServer } from '../support/servers.ts';

let cluster: Sandbox;
let operator: Operator;
let server: TestServer;
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'));
  server = await startMcp({ name: 'jira-mcp' });
  operator = await startOperator();
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
  await server?.close();
});

const startOperator = (): Promise<Operator> =>
  runOperator(cluster, {
    catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', requiredSecretKeys: ['URL', 'TOKEN'] } },
    readSecrets: true,
    readConfigMaps: true,
  });

const jira = (service: string, hosting = {}) =>
  ({
    name: 'Jira',
    type: 'aitronos_built',
    connectorId: 'jira',
    serverUrl: `http://${service}:${server.port}/mcp`,
    hosting,
  }) as const;

const put = (type: typeof SECRETS | typeof CONFIG_MAPS, name: string, data: Record<string, string>, labels = {}) =>
  cluster.apply(type, {
    apiVersion: 'v1',
    kind: type.kind,
    metadata: { name, namespace: cluster.namespace, labels },
    [type === SECRETS ? 'stringData' : 'data']: data,
  });

const inputsOf = (deployment: Deployment | undefined): string | undefined =>
  deployment?.spec.template?.metadata?.annotations?.['connectors.aitronos.com/inputs'];

describe('a hosted server', () => {
  it('is not made before its Secret is there with all that it needs, and then by itself', async () => {
    await cluster.applyConnector('waits', jira('waits'));
    const missing = await cluster.untilReady('waits', 'False', 'SecretNotFound');
    expect(readyOf(missing)?.message).toBe(
      'the Secret waits-credentials does not exist: create it with URL, TOKEN, and the server starts by itself',
    );
    await put(SECRETS, 'waits-credentials', { URL: 'https://jira.example.com' });
    await cluster.until<PersonalConnector>(
      PERSONAL_CONNECTORS,
      'waits',
      found => conditionOf(found, 'Accepted')?.message?.includes('has no key TOKEN') === true,
    );
    await expect(cluster.get(DEPLOYMENTS, 'waits')).rejects.toThrow(/404/);
    await put(SECRETS, 'waits-credentials', { URL: 'https://jira.example.com', TOKEN: 'one' });
    await cluster.untilReady('waits', 'True', 'Ready');
  });

  it('gets new Pods when what it is given changes, and only then', async () => {
    await put(SECRETS, 'rolls-credentials', { URL: 'https://jira.example.com', TOKEN: 'one' });
    await put(CONFIG_MAPS, 'settings', { level: 'info' });
    const level = { name: 'LEVEL', valueFrom: { configMapKeyRef: { name: 'settings', key: 'level' } } };
    await cluster.applyConnector('rolls', jira('rolls', { env: [level] }));
    await cluster.untilReady('rolls', 'True', 'Ready');
    const first = await cluster.get<Deployment>(DEPLOYMENTS, 'rolls');
    expect(inputsOf(first)).toMatch(/^[0-9a-f]{16}$/);

    await put(SECRETS, 'rolls-credentials', { URL: 'https://jira.example.com', TOKEN: 'two' });
    const second = await cluster.until<Deployment>(DEPLOYMENTS, 'rolls', found => inputsOf(found) !== inputsOf(first));
    await put(CONFIG_MAPS, 'settings', { level: 'debug' });
    const third = await cluster.until<Deployment>(
      DEPLOYMENTS,
      'rolls',
      found => found !== undefined && ![first, second].some(before => inputsOf(before) === inputsOf(found)),
    );
    await cluster.untilReady('rolls', 'True', 'Ready');

    // Neither a label nor a new operator is a change.
    await put(SECRETS, 'rolls-credentials', { URL: 'https://jira.example.com', TOKEN: 'two' }, { team: 'x' });
    await operator.stop();
    operator = await startOperator();
    await cluster.applyConnector('rolls', { ...jira('rolls', { env: [level] }), description: 'seen' });
    await cluster.until<PersonalConnector>(
      PERSONAL_CONNECTORS,
      'rolls',
      found => found?.status?.observedGeneration === found?.metadata.generation,
    );
    const last = await cluster.get<Deployment>(DEPLOYMENTS, 'rolls');
    expect([inputsOf(last), last.metadata.generation]).toEqual([inputsOf(third), third.metadata.generation]);
  });

  it('goes on when its Secret is deleted, and says what it lacks', async () => {
    await put(SECRETS, 'loses-credentials', { URL: 'https://jira.example.com', TOKEN: 'one' });
    await cluster.applyConnector('loses', jira('loses'));
    await cluster.untilReady('loses', 'True', 'Ready');
    const { metadata } = await cluster.get(DEPLOYMENTS, 'loses');
    await cluster.remove(SECRETS, 'loses-credentials');
    await cluster.untilReady('loses', 'False', 'SecretNotFound');
    expect((await cluster.get(DEPLOYMENTS, 'loses')).metadata).toMatchObject({
      uid: metadata.uid,
      generation: metadata.generation,
    });
  });
});
