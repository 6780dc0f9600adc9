/** An operator that may look at some namespaces only, with the rights that the chart gives it there and no others. */
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { DEPLOYMENTS } from '../../src/connector/children.ts';
import { policySchema } from '../../src/connector/policy.ts';
import { type Operator, startOperator } from '../../src/main.ts';
import { requests } from '../support/audit.ts';
import { accountOf, configOf, grant, type Rendered, renderFor } from '../support/granted.ts';
import { conditionOf, createSandbox, readyOf, type Sandbox, SECRETS } from '../support/kube.ts';
import { lookupHosted } from '../support/operator.ts';
import { startMcp, type TestServer } from '../support/servers.ts';

interface LogLine {
  msg: string;
  namespace?: string;
  resources?: string[];
}

/**
 * In `full` all is granted, in `bare` all but Secrets and ConfigMaps, in `half` all but Pods; `late` has its Role later; nobody
 * watches `outside`.
 */
let full: Sandbox;
let bare: Sandbox;
let half: Sandbox;
let late: Sandbox;
let outside: Sandbox;
let home: Sandbox;
let server: TestServer;
let operator: Operator;
let user: string;
let rendered: Rendered[];
const log: LogLine[] = [];

beforeAll(async () => {
  const sandboxes = await Promise.all(Array.from({ length: 6 }, () => createSandbox(inject('kubeconfig'))));
  [full, bare, half, late, outside, home] = sandboxes as [Sandbox, Sandbox, Sandbox, Sandbox, Sandbox, Sandbox];
  server = await startMcp({ name: 'jira-mcp' });
  const watched = [full, bare, half, late].map(({ namespace }) => namespace).join();
  const values = `watchNamespaces={${watched}},rbac.readSecrets=true,rbac.readConfigMaps=true`;
  rendered = await renderFor(home, values);
  expect(rendered.map(({ kind }) => kind)).not.toContain('ClusterRole');
  for (const sandbox of [full, home]) await grant(rendered, sandbox);
  await grant(rendered, bare, ['secrets', 'configmaps']);
  await grant(rendered, half, ['pods']);
  await half.applyConnector('mine', jira('mine'));
  for (const name of ['one', 'two']) await late.applyConnector(name, name === 'one' ? custom() : jira('two'));
  operator = await start();
});

afterAll(async () => {
  await operator?.stop();
  await Promise.all([full, bare, half, late, outside, home].map(sandbox => sandbox?.dispose()));
  await server?.close();
});

/** The operator as the chart's Deployment starts it, with the token of its ServiceAccount. */
async function start(): Promise<Operator> {
  const account = await accountOf(rendered, home);
  ({ user } = account);
  const config = configOf(rendered, home, 'operator-1');
  const started = await startOperator({
    kubeConfig: account.kubeConfig,
    config: {
      ...config,
      policy: policySchema.parse({
        catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', requiredSecretKeys: ['TOKEN'] } },
        addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
        readSecrets: true,
        readConfigMaps: true,
      }),
    },
    log: pino(
      { level: 'info' },
      new Writable({
        write(line, _encoding, done) {
          log.push(JSON.parse(String(line)) as LogLine);
          done();
        },
      }),
    ),
    lookup: lookupHosted,
  });
  await started.ready;
  return started;
}

const custom = (id?: string) =>
  ({ name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl: server.url, ...(id && { id }) }) as const;

const jira = (service: string) =>
  ({
    name: 'Jira',
    type: 'aitronos_built',
    connectorId: 'jira',
    serverUrl: `http://${service}:${server.port}/mcp`,
  }) as const;

const putToken = (sandbox: Sandbox, name: string) =>
  sandbox.apply(SECRETS, {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name, namespace: sandbox.namespace },
    stringData: { TOKEN: 'x' },
  });

const refusalsOf = ({ namespace }: Sandbox): LogLine[] =>
  log.filter(line => line.namespace === namespace && line.msg.startsWith('the operator may not watch'));

/** What the API server was asked by the operator. */
const asked = () => requests(inject('auditLog')).filter(request => request.user === user);

describe('connectors of the watched namespaces', () => {
  it('become what they should, remote and hosted', async () => {
    await full.applyConnector('remote', custom());
    await bare.applyConnector('remote', custom());
    await bare.applyConnector('hosted', jira('hosted'));
    await full.untilReady('remote', 'True', 'Ready');
    await bare.untilReady('remote', 'True', 'Ready');
    await bare.untilReady('hosted', 'True', 'Ready');
  });

  it('have their Secrets looked at where that is granted, and else wait for nothing', async () => {
    await full.applyConnector('hosted', jira('hosted'));
    const missing = await full.untilReady('hosted', 'False', 'SecretNotFound');
    expect(readyOf(missing)?.message).toContain('the Secret hosted-credentials does not exist');
    await putToken(full, 'hosted-credentials');
    await full.untilReady('hosted', 'True', 'Ready');
    // Told once all watches were answered, and those of a young CRD may be put off.
    await expect
      .poll(() => refusalsOf(bare).map(({ resources }) => resources), { timeout: 20_000 })
      .toEqual([['secrets', 'configmaps']]);
    expect(refusalsOf(bare)[0]?.msg).toContain('rbac.readSecrets');
  });

  it('share their ids: the younger of two that pin one is told so', async () => {
    await full.applyConnector('first', custom('pcon_shared'));
    await full.untilReady('first', 'True', 'Ready');
    await bare.applyConnector('second', custom('pcon_shared'));
    const second = await bare.untilReady('second', 'False', 'IdConflict');
    expect(readyOf(second)?.message).toContain('an older connector in another namespace');
    await full.remove(PERSONAL_CONNECTORS, 'first');
    await bare.untilReady('second', 'True', 'Ready');
  });
});

describe('a namespace without its Role', () => {
  it('keeps the others from nothing, is told once, and is taken up when the Role comes', async () => {
    await bare.applyConnector('meanwhile', custom());
    await bare.untilReady('meanwhile', 'True', 'Ready');
    for (const path of ['healthz', 'readyz'])
      expect((await fetch(`http://127.0.0.1:${operator.port}/${path}`)).status).toBe(200);
    for (const name of ['one', 'two'])
      expect((await late.get<PersonalConnector>(PERSONAL_CONNECTORS, name)).status).toEqual({ observedGeneration: -1 });
    await expect
      .poll(() => asked().filter(({ namespace, code }) => namespace === late.namespace && code === 403).length, {
        timeout: 30_000,
      })
      .toBeGreaterThan(16);
    expect(refusalsOf(late)).toHaveLength(1);
    expect(new Set(refusalsOf(late)[0]?.resources)).toEqual(
      new Set([
        'deployments',
        'services',
        'networkpolicies',
        'poddisruptionbudgets',
        'pods',
        'personalconnectors',
        'secrets',
        'configmaps',
      ]),
    );
    expect(refusalsOf(late)[0]?.msg).toMatch(/bind the Role of the chart to its ServiceAccount there.*watchNamespaces/);

    await putToken(late, 'two-credentials');
    await grant(rendered, late);
    await late.untilReady('one', 'True', 'Ready');
    await late.untilReady('two', 'True', 'Ready');
    expect(
      log.filter(({ namespace, msg }) => namespace === late.namespace && msg.includes('looked after')),
    ).toHaveLength(1);
  });
});

describe('a namespace of which a part may not be looked at', () => {
  it('is left alone until all of it may be: what is not seen may be there', async () => {
    const before = await half.get<PersonalConnector>(PERSONAL_CONNECTORS, 'mine');
    expect(before.status).toEqual({ observedGeneration: -1 });
    expect(refusalsOf(half).map(({ resources }) => resources)).toEqual([['pods']]);
    await expect(half.get(DEPLOYMENTS, 'mine')).rejects.toThrow(/404/);
    await putToken(half, 'mine-credentials');
    await grant(rendered, half);
    await half.untilReady('mine', 'True', 'Ready');
  });
});

describe('a namespace that is not watched', () => {
  it('stays as it is, and nothing is asked there or of the whole cluster', async () => {
    await outside.applyConnector('remote', custom());
    await outside.applyConnector('hosted', jira('hosted'));
    // What comes after it elsewhere is seen to.
    await full.applyConnector('after', custom());
    await full.untilReady('after', 'True', 'Ready');
    const found = await outside.get<PersonalConnector>(PERSONAL_CONNECTORS, 'remote');
    expect([found.status, conditionOf(found, 'Ready')]).toEqual([{ observedGeneration: -1 }, undefined]);
    await expect(outside.get(DEPLOYMENTS, 'hosted')).rejects.toThrow(/404/);
    const mine = new Set([full, bare, half, late, home].map(({ namespace }) => namespace));
    const all = asked();
    expect(all.length).toBeGreaterThan(30);
    expect(all.filter(({ namespace }) => !mine.has(namespace ?? ''))).toEqual([]);
    // What the chart grants is enough.
    const refused = all.filter(({ code, namespace }) => code === 403 && namespace !== late.namespace);
    expect(new Set(refused.map(({ namespace, verb, resource }) => `${namespace} ${verb} ${resource}`))).toEqual(
      new Set([
        `${bare.namespace} watch secrets`,
        `${bare.namespace} watch configmaps`,
        `${half.namespace} watch pods`,
      ]),
    );
  });
});
