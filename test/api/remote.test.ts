/** Official and custom connectors: probed where they are, with their true state on the resource. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { ANNOTATION, PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { KubeObject } from '../../src/api/meta.ts';
import { toPersonalConnector } from '../../src/api/object.ts';
import type { Operator } from '../../src/main.ts';
import { operatorWrites } from '../support/audit.ts';
import { conditionOf, createSandbox, EVENTS, type Sandbox, SECRETS } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { closedPort, startMcp, startStatic, startWebSocketMcp, type TestServer } from '../support/servers.ts';

let cluster: Sandbox;
let operator: Operator;
const open: TestServer[] = [];
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'));
  operator = await runOperator(cluster, {
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
    readSecrets: true,
    // So often that a test sees many probes.
    probe: { intervalSeconds: 0.05, perHostPerSecond: 1000 },
  });
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
  await Promise.all(open.map(server => server.close()));
});

async function serve<T extends TestServer>(server: Promise<T>): Promise<T> {
  const started = await server;
  open.push(started);
  return started;
}

const custom = (serverUrl: string) => ({ name: 'Mine', type: 'custom', connectorId: 'custom_mcp', serverUrl }) as const;

interface EventObject extends KubeObject {
  type: string;
  reason: string;
  note: string;
  regarding: { name: string };
}

const expectedEvents = new Map<string, string[]>();

async function eventsAbout(name: string): Promise<string[]> {
  const events = await cluster.list<EventObject>(EVENTS);
  return events
    .filter(({ regarding }) => regarding.name === name)
    .map(({ type, reason }) => `${type} ${reason}`)
    .sort();
}

/** The Events about a connector become these; the last test sees that they stayed these. */
async function expectEvents(name: string, expected: string[]): Promise<void> {
  expectedEvents.set(name, expected);
  await expect.poll(() => eventsAbout(name), { timeout: 10_000 }).toEqual(expected);
}

describe('a connector to a healthy server', () => {
  it('becomes Ready and shows what the server is', async () => {
    const server = await serve(startMcp({ tools: ['alpha', 'beta'] }));
    await cluster.applyConnector('healthy', custom(server.url));
    const { status, metadata } = await cluster.untilReady('healthy', 'True', 'Ready');
    expect(status).toEqual({
      observedGeneration: 1,
      id: `pcon_${metadata.uid.replaceAll('-', '')}`,
      serverUrl: server.url,
      serverType: 'http',
      updatedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
      conditions: [
        ['Ready', 'True', 'Ready', 'test-server 1.2.3 speaks MCP 2026-07-28 with 2 tools'],
        ['Accepted', 'True', 'Accepted', 'the spec is valid and is served'],
        ['Reachable', 'True', 'Answered', 'the server answers'],
        ['Verified', 'True', 'MCPVerified', 'the server speaks MCP 2026-07-28'],
        ['Authorized', 'True', 'NotRequired', 'the server answers without credentials'],
      ].map(([type, state, reason, message]) => ({
        type,
        status: state,
        reason,
        message,
        observedGeneration: 1,
        lastTransitionTime: expect.any(String),
      })),
      server: {
        name: 'test-server',
        version: '1.2.3',
        protocolVersion: '2026-07-28',
        capabilities: ['tools'],
        toolCount: 2,
        toolsHash: expect.stringMatching(/^sha256:/),
        tools: ['alpha', 'beta'],
      },
    });
  });

  it('is the object that clients of the API know', async () => {
    const server = await serve(startMcp());
    const spec = {
      ...custom(server.url),
      id: 'pcon_known1',
      category: 'custom',
      version: '1.0.0',
      createdBy: 'user_1',
    } as const;
    await cluster.applyConnector('object', { ...spec, metadata: { team: 'x' } });
    const connector = await cluster.untilReady('object', 'True', 'Ready');
    expect(toPersonalConnector(connector)).toEqual({
      id: 'pcon_known1',
      object: 'personal_connector',
      name: 'Mine',
      type: 'custom',
      connector_id: 'custom_mcp',
      category: 'custom',
      version: '1.0.0',
      status: 'active',
      server_url: server.url,
      server_type: 'http',
      metadata: { team: 'x' },
      created_at: connector.metadata.creationTimestamp,
      updated_at: connector.status?.updatedAt,
      created_by: 'user_1',
    });
  });

  it('shows a change of tools, and refuses one that was not approved', async () => {
    const server = await serve(startMcp({ tools: ['alpha'] }));
    await cluster.applyConnector('tools', custom(server.url));
    const before = await cluster.untilReady('tools', 'True', 'Ready');
    const approvedToolsHash = before.status?.server?.toolsHash ?? '';
    await cluster.applyConnector('tools', { ...custom(server.url), probe: { approvedToolsHash } });
    await cluster.untilReady('tools', 'True', 'Ready');
    server.tools.push('beta');
    const changed = await cluster.untilReady('tools', 'False', 'ToolsChanged');
    expect(changed.status?.server?.tools).toEqual(['alpha', 'beta']);
    expect(conditionOf(changed, 'Verified')?.message).toContain(changed.status?.server?.toolsHash ?? 'none');
  });
});

describe('a connector tells the truth of', () => {
  it.each<[string, () => Promise<string>, string, string]>([
    [
      'HTML',
      async () => (await serve(startStatic(200, { 'content-type': 'text/html' }, '<p>hi'))).url,
      'False',
      'NotMCP',
    ],
    ['a closed port', async () => `http://127.0.0.1:${await closedPort()}/mcp`, 'False', 'ConnectionRefused'],
    ['an unknown name', async () => 'https://nowhere.example.com/mcp', 'False', 'DNSFailure'],
    ['a wrong path', async () => (await serve(startStatic(404, {}, ''))).url, 'False', 'NotFound'],
    ['a failing server', async () => (await serve(startStatic(500, {}, ''))).url, 'False', 'ServerError'],
    [
      'a server that wants authorization',
      async () => (await serve(startMcp({ authorization: 'x' }))).url,
      'True',
      'AuthorizationRequired',
    ],
    ['a private address', async () => 'http://10.1.2.3/mcp', 'False', 'AddressDenied'],
    ['a metadata address', async () => 'http://169.254.169.254/mcp', 'False', 'AddressDenied'],
  ])('%s', async (name, url, status, reason) => {
    const connector = `truth-${name.replaceAll(' ', '-').toLowerCase()}`;
    await cluster.applyConnector(connector, custom(await url()));
    await cluster.untilReady(connector, status, reason);
    await expectEvents(connector, [`${status === 'False' ? 'Warning' : 'Normal'} ${reason}`]);
  });

  it('a server that comes up late and goes down again', async () => {
    const port = await closedPort();
    const spec = { ...custom(`http://127.0.0.1:${port}/mcp`), probe: { failureThreshold: 1 } };
    await cluster.applyConnector('late', spec);
    await cluster.untilReady('late', 'False', 'ConnectionRefused');
    const server = await serve(startMcp({ port }));
    await cluster.untilReady('late', 'True', 'Ready');
    await server.close();
    await cluster.untilReady('late', 'False', 'ConnectionRefused');
  });

  it('credentials: accepted, rotated, rejected, missing', async () => {
    const server = await serve(startMcp({ authorization: 'Bearer good' }));
    const token = (value: string) =>
      cluster.apply(SECRETS, {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'token', namespace: cluster.namespace },
        stringData: { header: value },
      });
    const headers = [{ name: 'Authorization', valueFrom: { secretKeyRef: { name: 'token', key: 'header' } } }];
    await cluster.applyConnector('credentials', { ...custom(server.url), probe: { headers, failureThreshold: 1 } });
    const missing = await cluster.untilReady('credentials', 'False', 'SecretNotFound');
    expect(conditionOf(missing, 'Accepted')?.message).toBe(
      'spec.probe.headers[Authorization] names Secret token, which does not exist: create it',
    );
    await token('Bearer good');
    const accepted = await cluster.untilReady('credentials', 'True', 'Ready');
    expect(conditionOf(accepted, 'Authorized')?.reason).toBe('CredentialsAccepted');
    await token('Bearer stale');
    await cluster.untilReady('credentials', 'False', 'CredentialsRejected');
    expect(JSON.stringify(await cluster.list(EVENTS))).not.toContain('stale');
  });

  it('credentials that change count at once, however long the interval is', async () => {
    const server = await serve(startMcp({ authorization: 'Bearer good' }));
    const put = (data: Record<string, string>) =>
      cluster.apply(SECRETS, {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'rotated', namespace: cluster.namespace },
        stringData: data,
      });
    const headers = [{ name: 'Authorization', valueFrom: { secretKeyRef: { name: 'rotated', key: 'header' } } }];
    const probe = { headers, interval: '24h', failureThreshold: 1 };
    await put({ header: 'Bearer good' });
    await cluster.applyConnector('rotated', { ...custom(server.url), probe });
    await cluster.untilReady('rotated', 'True', 'Ready');
    await put({ header: 'Bearer stale' });
    await cluster.untilReady('rotated', 'False', 'CredentialsRejected');
    await cluster.remove(SECRETS, 'rotated');
    await cluster.untilReady('rotated', 'False', 'SecretNotFound');
    await put({ header: 'Bearer good' });
    await cluster.untilReady('rotated', 'True', 'Ready');
  });
});

it('a websocket server is spoken to over a websocket', async () => {
  const server = await serve(startWebSocketMcp({ name: 'socket' }));
  await cluster.applyConnector('websocket', { ...custom(server.url), serverType: 'websocket' });
  const { status } = await cluster.untilReady('websocket', 'True', 'Ready');
  expect(status).toMatchObject({ serverType: 'websocket', server: { name: 'socket', tools: ['alpha'] } });
});

it('tools that change show as an Event', async () => {
  const server = await serve(startMcp({ tools: ['alpha'] }));
  await cluster.applyConnector('changing', custom(server.url));
  const before = await cluster.untilReady('changing', 'True', 'Ready');
  server.tools.push('beta');
  await cluster.applyConnector('changing', custom(server.url), { [ANNOTATION.recheck]: '1' });
  await cluster.until<PersonalConnector>(
    PERSONAL_CONNECTORS,
    'changing',
    found =>
      found?.status?.server?.toolCount === 2 && found.status.server.toolsHash !== before.status?.server?.toolsHash,
  );
  await expectEvents('changing', ['Normal Ready', 'Normal ToolsChanged']);
});

describe('people decide', () => {
  it('that it is not probed', async () => {
    await cluster.applyConnector('unprobed', {
      ...custom('https://nowhere.example.com/mcp'),
      probe: { enabled: false },
    });
    await cluster.untilReady('unprobed', 'True', 'ProbeDisabled');
  });

  it('that it is in maintenance', async () => {
    const server = await serve(startMcp());
    await cluster.applyConnector('paused', { ...custom(server.url), lifecycle: 'maintenance' });
    await cluster.untilReady('paused', 'True', 'Maintenance');
    expect(server.requests).toEqual([]);
    await cluster.applyConnector('paused', custom(server.url));
    await cluster.untilReady('paused', 'True', 'Ready');
  });

  it('that it is deprecated, which one Event and the summary say', async () => {
    const server = await serve(startMcp());
    await cluster.applyConnector('old', { ...custom(server.url), lifecycle: 'deprecated', replacedBy: 'new' });
    const old = await cluster.untilReady('old', 'True', 'Ready');
    expect(conditionOf(old, 'Ready')?.message).toContain('deprecated: use new instead');
    await expectEvents('old', ['Normal Ready', 'Warning Deprecated']);
  });

  it('that it is looked at again now', async () => {
    const server = await serve(startMcp());
    const spec = { ...custom(server.url), probe: { interval: '24h' } };
    await cluster.applyConnector('again', spec);
    await cluster.untilReady('again', 'True', 'Ready');
    const probed = server.requests.length;
    await cluster.applyConnector('again', spec, { [ANNOTATION.recheck]: '1' });
    await cluster.until<PersonalConnector>(
      PERSONAL_CONNECTORS,
      'again',
      connector => connector?.status?.lastHandledRecheck === '1',
    );
    expect(server.requests.length).toBeGreaterThan(probed);
  });

  it('that it is left alone', async () => {
    const server = await serve(startMcp());
    await cluster.applyConnector('suspended', { ...custom(server.url), suspend: true });
    await cluster.applyConnector('after-suspended', custom(server.url));
    await cluster.untilReady('after-suspended', 'True', 'Ready');
    const { status } = await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, 'suspended');
    expect(status).toEqual({ observedGeneration: -1 });
    await cluster.applyConnector('suspended', custom(server.url));
    await cluster.untilReady('suspended', 'True', 'Ready');
  });

  it('on an id that an older connector has, and get it when that one is gone', async () => {
    const server = await serve(startMcp());
    await cluster.applyConnector('first', { ...custom(server.url), id: 'pcon_same' });
    await cluster.untilReady('first', 'True', 'Ready');
    await cluster.applyConnector('second', { ...custom(server.url), id: 'pcon_same' });
    const second = await cluster.untilReady('second', 'False', 'IdConflict');
    expect(conditionOf(second, 'Accepted')?.message).toContain('taken by the older connector first');
    expect(conditionOf(second, 'Stalled')?.status).toBe('True');
    await cluster.remove(PERSONAL_CONNECTORS, 'first');
    await cluster.untilReady('second', 'True', 'Ready');
  });
});

describe('nothing crashes it:', () => {
  it('metadata of 1 MB', async () => {
    const server = await serve(startMcp());
    await cluster.applyConnector('large', { ...custom(server.url), metadata: { blob: 'x'.repeat(1_000_000) } });
    await cluster.untilReady('large', 'True', 'Ready');
  });

  it('a name of 253 characters, and one in any script', async () => {
    const server = await serve(startMcp());
    const name = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(61)}`;
    await cluster.applyConnector(name, { ...custom(server.url), name: '看板 🚀' });
    await cluster.untilReady(name, 'True', 'Ready');
    await expectEvents(name, ['Normal Ready']);
  });
});

it('tells each Event once', async () => {
  expect(expectedEvents.size).toBeGreaterThan(5);
  for (const [name, expected] of expectedEvents) expect(await eventsAbout(name), name).toEqual(expected);
});

it('writes nothing but statuses and Events', () => {
  expect(new Set(operatorWrites(inject('auditLog'), cluster.namespace))).toEqual(
    new Set(['patch personalconnectors/status', 'create events']),
  );
});
