/** Who reaches whom where NetworkPolicies are enforced, as a judge that is none of ours reads them. */
import { dirname, join } from 'node:path';
import { loadAll } from 'js-yaml';
import { beforeAll, describe, expect, it } from 'vitest';
import type { HostingSpec } from '../../src/api/generated.ts';
import type { Declared } from '../../src/api/meta.ts';
import { hosted } from '../../src/connector/hosted.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { run } from '../cluster/process.ts';
import { makeConnector, makeContext } from '../unit/support.ts';

const chart = join(dirname(dirname(import.meta.dirname)), 'charts', 'personal-connector-operator');
const SYSTEM = 'connectors-system';

/** A Pod, or without a namespace an address outside of the cluster. */
interface Peer {
  namespace?: string;
  namespaceLabels?: Record<string, string>;
  labels?: Record<string, string>;
  ip: string;
}

interface Traffic {
  from: Peer;
  to: Peer;
  port: number;
  portName?: string;
  protocol?: 'TCP' | 'UDP';
}

/** Whether the receiver's policies let it in, and the sender's let it out. */
interface Verdict {
  ingress: boolean;
  egress: boolean;
}

let nextAddress = 1;
function pod(namespace: string, labels: Record<string, string> = {}, more: Record<string, string> = {}): Peer {
  // As Kubernetes labels every namespace.
  const namespaceLabels = { 'kubernetes.io/metadata.name': namespace, ...more };
  return { namespace, namespaceLabels, labels, ip: `10.244.0.${nextAddress++}` };
}

const outside = (ip: string): Peer => ({ ip });

/** What an admin may have put into any namespace: nothing in, nothing out. */
const denyAll = (namespace: string) => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name: 'deny-all', namespace },
  spec: { podSelector: {}, policyTypes: ['Ingress', 'Egress'] },
});

interface Workload extends Declared {
  spec: { template: { metadata: { labels: Record<string, string> } } };
}

let tools: { helm: string; netpol: string };

async function judge(policies: readonly object[], traffic: readonly Traffic[], signal: AbortSignal) {
  const input = JSON.stringify({ policies, traffic: traffic.map(one => ({ protocol: 'TCP', ...one })) });
  return JSON.parse(await run(tools.netpol, [], { input, signal })) as Verdict[];
}

/** What the chart renders with these values. */
async function render(values: object, signal: AbortSignal): Promise<Declared[]> {
  const args = ['template', 'connectors', chart, '-n', SYSTEM, '-f', '-'];
  return loadAll(await run(tools.helm, args, { input: JSON.stringify(values), signal })).filter(Boolean) as Declared[];
}

/** The operator's Pod as the chart makes it. */
function operatorOf(rendered: readonly Declared[]): Peer {
  const deployment = rendered.find(({ kind }) => kind === 'Deployment') as Workload | undefined;
  if (deployment?.metadata.namespace === undefined) throw new Error('the chart renders no Deployment with a namespace');
  return pod(deployment.metadata.namespace, deployment.spec.template.metadata.labels);
}

const policiesOf = (rendered: readonly Declared[]) => rendered.filter(({ kind }) => kind === 'NetworkPolicy');

beforeAll(async () => {
  tools = await resolveBinaries(['helm', 'netpol'], { signal: AbortSignal.timeout(60_000), progress: console.log });
});

describe('a hosted server, where all around is denied,', () => {
  const PORT = 7000;
  let operator: Peer;

  interface Hosted {
    server: Peer;
    /** Its own, and a deny-all in every namespace around. */
    policies: object[];
    own: object[];
  }

  function host(hosting: HostingSpec = {}): Hosted {
    const connector = makeConnector('aitronos_built', { hosting: { port: PORT, ...hosting } });
    const children = (hosted.plan(connector, makeContext({}, { operatorNamespace: SYSTEM })).children ?? []).map(
      ({ object }) => object,
    );
    const deployment = children.find(({ kind }) => kind === 'Deployment') as Workload;
    const { namespace } = connector.metadata;
    const own = children.filter(({ kind }) => kind === 'NetworkPolicy');
    return {
      server: pod(namespace, deployment.spec.template.metadata.labels),
      policies: [...own, ...[namespace, SYSTEM, 'clients', 'chat'].map(denyAll)],
      own,
    };
  }

  /** For each of them, whether the server's policies let it in. */
  async function letIn(
    { server, policies }: Hosted,
    peers: Record<string, Peer | [Peer, number]>,
    signal: AbortSignal,
  ): Promise<Record<string, boolean | undefined>> {
    const traffic = Object.values(peers).map(peer => {
      const [from, port] = Array.isArray(peer) ? peer : ([peer, PORT] as const);
      return { from, to: server, port, portName: port === PORT ? 'mcp' : '' };
    });
    const verdicts = await judge(policies, traffic, signal);
    return Object.fromEntries(Object.keys(peers).map((name, i) => [name, verdicts[i]?.ingress]));
  }

  beforeAll(async () => {
    operator = operatorOf(await render({}, AbortSignal.timeout(60_000)));
  });

  it("is reached by its namespace and by the operator's probe, and by nobody else", async ({ signal }) => {
    const made = host();
    expect(
      await letIn(
        made,
        {
          neighbour: pod('team', { app: 'agent' }),
          'neighbour without labels': pod('team'),
          operator,
          "another Pod of the operator's namespace": pod(SYSTEM, { app: 'other' }),
          'a Pod elsewhere with the labels of the operator': pod('clients', operator.labels),
          'a Pod elsewhere with the labels of the server': pod('clients', made.server.labels),
          'a client elsewhere': pod('clients', { app: 'agent' }),
          node: outside('192.168.7.2'),
          internet: outside('198.51.100.7'),
        },
        signal,
      ),
    ).toEqual({
      neighbour: true,
      'neighbour without labels': true,
      operator: true,
      "another Pod of the operator's namespace": false,
      'a Pod elsewhere with the labels of the operator': false,
      'a Pod elsewhere with the labels of the server': false,
      'a client elsewhere': false,
      node: false,
      internet: false,
    });
  });

  it('is reached at its port alone, also by those who may', async ({ signal }) => {
    const made = host();
    const neighbour = pod('team');
    const ports = await letIn(
      made,
      { 'its port': [neighbour, PORT], 'the one above': [neighbour, PORT + 1], 'of the operator': [operator, 8080] },
      signal,
    );
    expect(ports).toEqual({ 'its port': true, 'the one above': false, 'of the operator': false });
    const [udp] = await judge(
      made.policies,
      [{ from: neighbour, to: made.server, port: PORT, portName: 'mcp', protocol: 'UDP' }],
      signal,
    );
    expect(udp?.ingress).toBe(false);
  });

  it('is reached by whom spec.hosting.allowFrom names, and by no others like them', async ({ signal }) => {
    const made = host({
      allowFrom: [
        { namespaceSelector: { matchLabels: { team: 'chat' } }, podSelector: { matchLabels: { app: 'agent' } } },
        { podSelector: { matchLabels: { app: 'local' } } },
        { ipBlock: { cidr: '10.9.0.0/16', except: ['10.9.9.0/24'] } },
      ],
    });
    const chat = { team: 'chat' };
    expect(
      await letIn(
        made,
        {
          'Pod and namespace as named': pod('chat', { app: 'agent' }, chat),
          'another Pod of that namespace': pod('chat', { app: 'other' }, chat),
          'such a Pod of another namespace': pod('clients', { app: 'agent' }),
          "a Pod that is named without a namespace, in the connector's": pod('team', { app: 'local' }),
          'the same, elsewhere': pod('clients', { app: 'local' }),
          'an address of the block': outside('10.9.1.1'),
          'one that is excepted': outside('10.9.9.1'),
          operator,
        },
        signal,
      ),
    ).toEqual({
      'Pod and namespace as named': true,
      'another Pod of that namespace': false,
      'such a Pod of another namespace': false,
      "a Pod that is named without a namespace, in the connector's": true,
      'the same, elsewhere': false,
      'an address of the block': true,
      'one that is excepted': false,
      operator: true,
    });
  });

  it('leaves its own neighbours alone: the policy is of its Pods', async ({ signal }) => {
    const { server, own } = host();
    const other = pod('team', { app: 'website' });
    const [toOther, toServer] = await judge(
      own,
      [other, server].map(to => ({ from: pod('clients'), to, port: PORT })),
      signal,
    );
    expect([toOther?.ingress, toServer?.ingress]).toEqual([true, false]);
  });

  it('may go where it wants, unless its namespace says otherwise: what it connects to is its own business', async ({
    signal,
  }) => {
    const { server, policies, own } = host();
    const traffic = [{ from: server, to: outside('198.51.100.7'), port: 443 }];
    expect((await judge(own, traffic, signal))[0]?.egress).toBe(true);
    expect((await judge(policies, traffic, signal))[0]?.egress).toBe(false);
  });
});

describe('the operator, where all around is denied,', () => {
  const prometheus = pod('monitoring', { app: 'prometheus' });
  const agent = pod('team', { app: 'agent' });
  const node = outside('192.168.7.2');
  const dns = pod('kube-system', { 'k8s-app': 'kube-dns' });
  const internet = outside('198.51.100.7');

  async function install(values: object, signal: AbortSignal) {
    const rendered = await render(values, signal);
    const policies = [...policiesOf(rendered), ...[SYSTEM, 'team', 'monitoring'].map(denyAll)];
    const operator = operatorOf(rendered);
    const judged = async (
      peers: Record<string, Pick<Traffic, 'port' | 'protocol'> & { peer: Peer }>,
      outwards: boolean,
    ) => {
      const traffic = Object.values(peers).map(({ peer, port, protocol }) => {
        const [from, to] = outwards ? [operator, peer] : [peer, operator];
        // The name of the operator's own port only.
        const named = !outwards && port === 8080 && { portName: 'http' };
        return { from, to, port, ...named, ...(protocol && { protocol }) };
      });
      const verdicts = await judge(policies, traffic, signal);
      const side = outwards ? 'egress' : 'ingress';
      return Object.fromEntries(Object.keys(peers).map((name, i) => [name, verdicts[i]?.[side]]));
    };
    return {
      policies,
      operator,
      letsIn: (peers: Parameters<typeof judged>[0]) => judged(peers, false),
      mayReach: (peers: Parameters<typeof judged>[0]) => judged(peers, true),
    };
  }

  it('answers for its health and metrics, and for nothing else', async ({ signal }) => {
    const { letsIn } = await install({}, signal);
    expect(
      await letsIn({
        'the kubelet': { peer: node, port: 8080 },
        Prometheus: { peer: prometheus, port: 8080 },
        'Prometheus at another port': { peer: prometheus, port: 9229 },
        'the kubelet at another port': { peer: node, port: 22 },
        'metrics by UDP': { peer: prometheus, port: 8080, protocol: 'UDP' },
      }),
    ).toEqual({
      'the kubelet': true,
      Prometheus: true,
      'Prometheus at another port': false,
      'the kubelet at another port': false,
      'metrics by UDP': false,
    });
  });

  it('tells its metrics to whom metricsFrom names, where it names somebody', async ({ signal }) => {
    const metricsFrom = [{ namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'monitoring' } } }];
    const { letsIn } = await install({ networkPolicy: { metricsFrom } }, signal);
    expect(
      await letsIn({ Prometheus: { peer: prometheus, port: 8080 }, 'somebody else': { peer: agent, port: 8080 } }),
    ).toEqual({ Prometheus: true, 'somebody else': false });
  });

  it('reaches DNS, the API server, hosted servers and what may be probed, and no other ports', async ({ signal }) => {
    const { mayReach } = await install({}, signal);
    const server = pod('team', { 'app.kubernetes.io/managed-by': 'personal-connector-operator' });
    expect(
      await mayReach({
        DNS: { peer: dns, port: 53, protocol: 'UDP' },
        'DNS by TCP': { peer: dns, port: 53 },
        'the API server': { peer: node, port: 6443 },
        'the API server by its Service': { peer: outside('10.96.0.1'), port: 443 },
        'a hosted server': { peer: server, port: 8000 },
        'a hosted server at any port': { peer: server, port: 81 },
        'https elsewhere': { peer: internet, port: 443 },
        'http elsewhere': { peer: internet, port: 80 },
        'a high port elsewhere': { peer: internet, port: 65_535 },
        'a server in the cluster that is none of its own': { peer: agent, port: 3000 },
        'ssh elsewhere': { peer: internet, port: 22 },
        'mail elsewhere': { peer: internet, port: 25 },
        'HTTP/3 elsewhere': { peer: internet, port: 443, protocol: 'UDP' },
      }),
    ).toEqual({
      DNS: true,
      'DNS by TCP': true,
      'the API server': true,
      'the API server by its Service': true,
      'a hosted server': true,
      'a hosted server at any port': true,
      'https elsewhere': true,
      'http elsewhere': true,
      'a high port elsewhere': true,
      'a server in the cluster that is none of its own': true,
      'ssh elsewhere': false,
      'mail elsewhere': false,
      'HTTP/3 elsewhere': false,
    });
  });

  it('reaches no more ports than addressPolicy has, but its API server and hosted servers', async ({ signal }) => {
    const { mayReach } = await install({ addressPolicy: { ports: ['443', '8443-8444'] } }, signal);
    const server = pod('team', { 'app.kubernetes.io/managed-by': 'personal-connector-operator' });
    expect(
      await mayReach({
        '443': { peer: internet, port: 443 },
        '8442': { peer: internet, port: 8442 },
        '8443': { peer: internet, port: 8443 },
        '8444': { peer: internet, port: 8444 },
        '8445': { peer: internet, port: 8445 },
        '80': { peer: internet, port: 80 },
        'the API server': { peer: node, port: 6443 },
        'a hosted server': { peer: server, port: 8000 },
      }),
    ).toEqual({
      '443': true,
      '8442': false,
      '8443': true,
      '8444': true,
      '8445': false,
      '80': false,
      'the API server': true,
      'a hosted server': true,
    });
  });

  it.each([
    ['http://proxy.corp.example.com:3128', 3128],
    ['http://user:secret@proxy.corp.example.com:312', 312],
    ['http://proxy.corp.example.com', 80],
    ['https://proxy.corp.example.com:8081/', 8081],
  ])('reaches the proxy %s', async (proxy, port) => {
    const signal = AbortSignal.timeout(60_000);
    const { mayReach } = await install({ probe: { proxy }, addressPolicy: { ports: ['8443'] } }, signal);
    const reached = await mayReach({ proxy: { peer: agent, port }, 'the port above': { peer: agent, port: port + 1 } });
    expect(reached).toEqual({ proxy: true, 'the port above': false });
  });

  it('reaches a hosted server from end to end, at a port that it may not probe elsewhere', async ({ signal }) => {
    const { operator, policies } = await install({ addressPolicy: { ports: ['443'] } }, signal);
    const connector = makeConnector('aitronos_built', { hosting: { port: 81 } });
    const { children = [] } = hosted.plan(connector, makeContext({}, { operatorNamespace: operator.namespace }));
    const made = children.map(({ object }) => object);
    const deployment = made.find(({ kind }) => kind === 'Deployment') as Workload;
    const server = pod('team', deployment.spec.template.metadata.labels);
    const traffic = [server, agent].map(to => ({ from: operator, to, port: 81, portName: 'mcp' }));
    const [verdict, elsewhere] = await judge([...policies, ...policiesOf(made)], traffic, signal);
    expect(verdict).toEqual({ ingress: true, egress: true });
    expect(elsewhere?.egress).toBe(false);
  });

  it('is as open as its namespace where the policy is off', async ({ signal }) => {
    expect(policiesOf(await render({ networkPolicy: { enabled: false } }, signal))).toEqual([]);
  });
});
