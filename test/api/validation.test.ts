/** Each rule of the CRD, tried on a real API server: what is refused says which field and what to do. */
import { readFileSync } from 'node:fs';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import { ApiError } from '../../src/kube/errors.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';

let cluster: Sandbox;
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'));
});
afterAll(() => cluster.dispose());

const remote = {
  name: 'GitHub',
  type: 'official',
  connectorId: 'github',
  serverUrl: 'https://mcp.example.com/mcp',
} as const;
const hosted = { name: 'Jira', type: 'aitronos_built', connectorId: 'jira' } as const;

async function refusal(spec: unknown, name = 'refused'): Promise<string> {
  try {
    await cluster.applyConnector(name, spec as PersonalConnectorSpec);
  } catch (error) {
    expect(error).toBeInstanceOf(ApiError);
    expect((error as ApiError).status).toBe(422);
    return (error as ApiError).message;
  }
  throw new Error(`accepted: ${JSON.stringify(spec).slice(0, 300)}`);
}

const IMMUTABLE = ['spec.id cannot be changed once it is set', 'spec.createdBy cannot be changed once it is set'];

/** The messages of all CEL rules in a part of the CRD. */
function messagesIn(schema: unknown): string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  return Object.entries(schema).flatMap(([key, value]) =>
    key === 'x-kubernetes-validations' ? value.map((rule: { message: string }) => rule.message) : messagesIn(value),
  );
}

const header = (name: string) => ({ name, valueFrom: { secretKeyRef: { name: 's', key: 'k' } } });

const REFUSED: [what: string, spec: object, message: string][] = [
  ['without a name', { ...remote, name: undefined }, 'spec.name: Required value'],
  ['with an empty name', { ...remote, name: '' }, 'spec.name in body should be at least 1 chars long'],
  [
    'with a name of 129 characters',
    { ...remote, name: 'n'.repeat(129) },
    'spec.name: Too long: may not be more than 128',
  ],
  ['without a type', { ...remote, type: undefined }, 'spec.type: Required value'],
  ['with an unknown type', { ...remote, type: 'other' }, 'supported values: "official", "aitronos_built", "custom"'],
  ['without a connectorId', { ...remote, connectorId: undefined }, 'spec.connectorId: Required value'],
  [
    'with a connectorId in capitals',
    { ...remote, connectorId: 'GitHub' },
    'spec.connectorId must start with a lower-case letter or digit',
  ],
  ['with an id of another form', { ...remote, id: 'github' }, 'spec.id must be pcon_ followed by letters and digits'],
  [
    'with an icon that is no URL',
    { ...remote, iconUrl: 'icon.svg' },
    'spec.iconUrl must be an absolute http or https URL',
  ],
  [
    'with an icon of another scheme',
    { ...remote, iconUrl: 'data:image/png;base64,AA' },
    'spec.iconUrl must be an absolute http or https URL',
  ],
  ['with an unknown category', { ...remote, category: 'fun' }, 'spec.category: Unsupported value: "fun"'],
  [
    'with a version that has a v',
    { ...remote, version: 'v1.0.0' },
    'spec.version must be a semantic version (SemVer 2.0.0) without a leading v',
  ],
  ['with a version of two parts', { ...remote, version: '1.0' }, 'spec.version must be a semantic version'],
  ['with a version with leading zeros', { ...remote, version: '1.02.3' }, 'spec.version must be a semantic version'],
  [
    'with an unknown lifecycle',
    { ...remote, lifecycle: 'retired' },
    'supported values: "active", "deprecated", "maintenance"',
  ],
  [
    'official without a URL',
    { ...remote, serverUrl: undefined },
    'spec.serverUrl is required when spec.type is official or custom',
  ],
  [
    'custom without a URL',
    { ...remote, type: 'custom', serverUrl: undefined },
    'spec.serverUrl is required when spec.type is official or custom',
  ],
  [
    'with a relative URL',
    { ...remote, serverUrl: '/mcp' },
    'spec.serverUrl must be an absolute http, https, ws or wss URL',
  ],
  [
    'with a URL of another scheme',
    { ...remote, serverUrl: 'ftp://example.com/' },
    'spec.serverUrl must be an absolute http, https, ws or wss URL',
  ],
  [
    'with a URL without a host',
    { ...remote, serverUrl: 'https:///mcp' },
    'spec.serverUrl must be an absolute http, https, ws or wss URL',
  ],
  [
    'with a password in the URL',
    { ...remote, serverUrl: 'https://me:secret@example.com/mcp' },
    'spec.serverUrl must not hold a user name or password',
  ],
  [
    'with a password in a URL in capitals',
    { ...remote, serverUrl: 'HTTPS://me:secret@example.com/mcp' },
    'spec.serverUrl must not hold a user name or password',
  ],
  [
    'with a WSS URL in capitals and no serverType',
    { ...remote, serverUrl: 'WSS://example.com/mcp' },
    'needs spec.serverType websocket',
  ],
  [
    'with a fragment in the URL',
    { ...remote, serverUrl: 'https://example.com/mcp#top' },
    'spec.serverUrl must not hold a fragment',
  ],
  [
    'with a URL of 2,049 characters',
    { ...remote, serverUrl: `https://example.com/${'a'.repeat(2029)}` },
    'spec.serverUrl: Too long',
  ],
  [
    'with a ws URL and no serverType',
    { ...remote, serverUrl: 'wss://example.com/mcp' },
    'needs spec.serverType websocket',
  ],
  [
    'with websocket and an https URL',
    { ...remote, serverType: 'websocket' },
    'spec.serverUrl must start with ws:// or wss:// when spec.serverType is websocket',
  ],
  [
    'official with stdio',
    { ...remote, serverType: 'stdio' },
    'spec.serverType stdio is for spec.type aitronos_built only',
  ],
  ['official with hosting', { ...remote, hosting: { port: 80 } }, 'spec.hosting is for spec.type aitronos_built only'],
  [
    'hosted with an https URL',
    { ...hosted, serverUrl: 'https://jira-mcp:8000' },
    'names the Service to create, as in http://clickup-mcp:8000/mcp',
  ],
  [
    'hosted with a query in the URL',
    { ...hosted, serverUrl: 'http://jira-mcp:8000/mcp?a=b' },
    'names the Service to create',
  ],
  [
    'hosted with an address as host',
    { ...hosted, serverUrl: 'http://10.0.0.1:8000/mcp' },
    'names the Service to create',
  ],
  [
    'with a port of 0',
    { ...hosted, hosting: { port: 0 } },
    'spec.hosting.port in body should be greater than or equal to 1',
  ],
  ['with a path without a slash', { ...hosted, hosting: { path: 'mcp' } }, 'spec.hosting.path must start with /'],
  [
    'with 101 replicas',
    { ...hosted, hosting: { replicas: 101 } },
    'spec.hosting.replicas in body should be less than or equal to 100',
  ],
  [
    'with an odd variable name',
    { ...hosted, hosting: { env: [{ name: '1A', value: 'x' }] } },
    'the name of an entry of spec.hosting.env',
  ],
  [
    'with a bad exception from a range',
    { ...hosted, hosting: { allowFrom: [{ ipBlock: { cidr: '192.0.2.0/24', except: ['x'] } }] } },
    'except in spec.hosting.allowFrom must hold address ranges',
  ],
  [
    'with a variable of two origins',
    {
      ...hosted,
      hosting: { env: [{ name: 'A', value: 'x', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } }] },
    },
    'may have value or valueFrom, not both',
  ],
  [
    'with a variable from nowhere',
    { ...hosted, hosting: { env: [{ name: 'A', valueFrom: {} }] } },
    'needs exactly one of secretKeyRef and configMapKeyRef',
  ],
  [
    'with an empty envFrom',
    { ...hosted, hosting: { envFrom: [{}] } },
    'needs exactly one of secretRef and configMapRef',
  ],
  [
    'with a bad quantity',
    { ...hosted, hosting: { resources: { limits: { memory: 'much' } } } },
    'spec.hosting.resources.limits.memory',
  ],
  [
    'with an unknown taint effect',
    { ...hosted, hosting: { tolerations: [{ effect: 'Never' }] } },
    'spec.hosting.tolerations[0].effect: Unsupported value',
  ],
  [
    'with a peer of two kinds',
    { ...hosted, hosting: { allowFrom: [{ podSelector: {}, ipBlock: { cidr: '192.0.2.0/24' } }] } },
    'may have ipBlock or selectors, not both',
  ],
  ['with a peer of none', { ...hosted, hosting: { allowFrom: [{}] } }, 'spec.hosting.allowFrom[0]'],
  [
    'with a bad range',
    { ...hosted, hosting: { allowFrom: [{ ipBlock: { cidr: '192.0.2.0' } }] } },
    'must be an address range such as 192.0.2.0/24',
  ],
  [
    'with an interval of 1 s',
    { ...remote, probe: { interval: '1s' } },
    'spec.probe.interval must be a duration from 10s to 24h',
  ],
  [
    'with an interval that is none',
    { ...remote, probe: { interval: 'often' } },
    'spec.probe.interval must be a duration from 10s to 24h',
  ],
  [
    'with a timeout of 2 min',
    { ...remote, probe: { timeout: '2m' } },
    'spec.probe.timeout must be a duration from 1s to 60s',
  ],
  [
    'with a threshold of 0',
    { ...remote, probe: { failureThreshold: 0 } },
    'spec.probe.failureThreshold in body should be greater than or equal to 1',
  ],
  [
    'with a hash that is none',
    { ...remote, probe: { approvedToolsHash: 'abc' } },
    'copy it from status.server.toolsHash',
  ],
  [
    'with a header that the probe sets',
    { ...remote, probe: { headers: [header('Host')] } },
    'must be a valid HTTP header that the probe does not set itself',
  ],
  [
    'with a header of the protocol',
    { ...remote, probe: { headers: [header('Mcp-Session-Id')] } },
    'must be a valid HTTP header that the probe does not set itself',
  ],
  [
    'with a header name with a space',
    { ...remote, probe: { headers: [header('X Y')] } },
    'must be a valid HTTP header',
  ],
  [
    'with an empty caBundle',
    { ...remote, probe: { caBundle: {} } },
    'spec.probe.caBundle needs exactly one of secretKeyRef and configMapKeyRef',
  ],
  // What the cases above leave of rules that ask for several things.
  ['with an id that has no end', { ...remote, id: 'pcon_-' }, 'spec.id must be pcon_ followed by letters and digits'],
  ['with a connectorId that begins with -', { ...remote, connectorId: '-github' }, 'spec.connectorId must start with'],
  ['with a connectorId with a dot', { ...remote, connectorId: 'git.hub' }, 'and hold only lower-case letters, digits'],
  ['with an icon without a host', { ...remote, iconUrl: 'https:///icon.svg' }, 'spec.iconUrl must be an absolute'],
  ['with a pre-release of 01', { ...remote, version: '1.0.0-01' }, 'spec.version must be a semantic version'],
  ['with a version without its build', { ...remote, version: '1.0.0+' }, 'spec.version must be a semantic version'],
  ['custom with stdio', { ...remote, type: 'custom', serverType: 'stdio' }, 'spec.serverType stdio is for spec.type'],
  [
    'custom with hosting',
    { ...remote, type: 'custom', hosting: {} },
    'spec.hosting is for spec.type aitronos_built only',
  ],
  [
    'with http and a ws URL',
    { ...remote, serverType: 'http', serverUrl: 'ws://example.com/mcp' },
    'needs spec.serverType websocket',
  ],
  [
    'hosted with a Service in capitals',
    { ...hosted, serverUrl: 'http://Jira-mcp:8000' },
    'names the Service to create',
  ],
  ['with a path with a query', { ...hosted, hosting: { path: '/mcp?a=b' } }, 'spec.hosting.path must start with /'],
  ['with a path with a fragment', { ...hosted, hosting: { path: '/mcp#a' } }, 'spec.hosting.path must start with /'],
  [
    'with a variable of both references',
    {
      ...hosted,
      hosting: {
        env: [
          { name: 'A', valueFrom: { secretKeyRef: { name: 's', key: 'k' }, configMapKeyRef: { name: 'c', key: 'k' } } },
        ],
      },
    },
    'valueFrom of spec.hosting.env needs exactly one of secretKeyRef and configMapKeyRef',
  ],
  [
    'with an envFrom of two origins',
    { ...hosted, hosting: { envFrom: [{ secretRef: { name: 's' }, configMapRef: { name: 'c' } }] } },
    'needs exactly one of secretRef and configMapRef',
  ],
  [
    'with a peer of a range and namespaces',
    { ...hosted, hosting: { allowFrom: [{ namespaceSelector: {}, ipBlock: { cidr: '192.0.2.0/24' } }] } },
    'may have ipBlock or selectors, not both',
  ],
  ['with an interval of 25 h', { ...remote, probe: { interval: '25h' } }, 'must be a duration from 10s to 24h'],
  ['with a negative interval', { ...remote, probe: { interval: '-10s' } }, 'must be a duration from 10s to 24h'],
  ['with a timeout of 0.5 s', { ...remote, probe: { timeout: '500ms' } }, 'must be a duration from 1s to 60s'],
  ['with a timeout that is none', { ...remote, probe: { timeout: '10' } }, 'must be a duration from 1s to 60s'],
  [
    'with a hash in capitals',
    { ...remote, probe: { approvedToolsHash: `sha256:${'A'.repeat(64)}` } },
    'spec.probe.approvedToolsHash must be sha256: and 64 hexadecimal digits',
  ],
  [
    'with a header of the body',
    { ...remote, probe: { headers: [header('content-type')] } },
    'must be a valid HTTP header that the probe does not set itself',
  ],
  [
    'with a caBundle of two origins',
    {
      ...remote,
      probe: { caBundle: { secretKeyRef: { name: 's', key: 'k' }, configMapKeyRef: { name: 'c', key: 'k' } } },
    },
    'spec.probe.caBundle needs exactly one of secretKeyRef and configMapKeyRef',
  ],
];

describe('a spec is refused, and told which field and what to do,', () => {
  it.each(REFUSED)('%s', async (_what, spec, message) => {
    expect(await refusal(spec)).toContain(message);
  });

  it('by each rule that the CRD has', () => {
    const tried = [...REFUSED.map(([, , message]) => message), ...IMMUTABLE];
    const crd = readFileSync('crds/personalconnectors.connectors.aitronos.com.yaml', 'utf8');
    const rules = messagesIn(load(crd));
    expect(rules.length).toBeGreaterThan(20);
    expect(rules.filter(rule => !tried.some(message => rule.includes(message)))).toEqual([]);
  });

  it('when its id or creator is changed or removed', async () => {
    const spec = { ...remote, id: 'pcon_fixed1', createdBy: 'user_1' };
    await cluster.applyConnector('immutable', spec);
    expect(await refusal({ ...spec, id: 'pcon_fixed2' }, 'immutable')).toContain(IMMUTABLE[0]);
    expect(await refusal({ ...spec, id: undefined }, 'immutable')).toContain(IMMUTABLE[0]);
    expect(await refusal({ ...spec, createdBy: 'user_2' }, 'immutable')).toContain(IMMUTABLE[1]);
    expect(await refusal({ ...spec, createdBy: undefined }, 'immutable')).toContain(IMMUTABLE[1]);
  });
});

describe('a spec is let through', () => {
  it.each<[string, PersonalConnectorSpec]>([
    ['of a hosted connector in three lines', hosted],
    ['of the seed, with its Service', { ...hosted, serverUrl: 'http://clickup-mcp:8000' }],
    ['with a name in any script', { ...remote, name: '看板 🚀 Ünïcode' }],
    ['with a long pre-release version', { ...remote, version: '1.0.0-rc.1+build.5' }],
    ['over websocket', { ...remote, serverType: 'websocket', serverUrl: 'wss://example.com/mcp' }],
    ['with an IPv6 host', { ...remote, serverUrl: 'https://[2001:db8::1]:8443/mcp' }],
    ['with metadata of any shape', { ...remote, metadata: { a: [1, { b: null }], 'x/y': true } }],
  ])('%s', async (_name, spec) => {
    const accepted = await cluster.applyConnector('accepted', spec);
    expect(accepted.spec).toEqual({ lifecycle: 'active', ...spec });
    await cluster.remove(PERSONAL_CONNECTORS, 'accepted');
  });

  it('and its fresh status says that nobody has seen it', async () => {
    const fresh = await cluster.applyConnector('fresh', remote);
    expect(fresh.status).toEqual({ observedGeneration: -1 });
  });

  it('and another type may be chosen later', async () => {
    await cluster.applyConnector('switch', remote);
    const { spec } = await cluster.applyConnector('switch', hosted);
    expect(spec.type).toBe('aitronos_built');
    expect((await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, 'switch')).metadata.generation).toBe(2);
  });
});
