/** Random walks: what may happen to a connector, drawn by fast-check and told in words. */
import fc from 'fast-check';
import type { HostingSpec, PersonalConnectorSpec } from '../../src/api/generated.ts';
import { DEPLOYMENTS, NETWORK_POLICIES, SERVICES } from '../../src/connector/children.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { closedPort, startMcp, startStatic } from '../support/servers.ts';

/** What a spec needs to know to name servers that are there: ports on the loopback address. */
export interface World {
  /** Two MCP servers that tell different names. */
  ports: readonly [number, number];
  /** A web server that speaks no MCP. */
  web: number;
  /** Nothing listens here. */
  closed: number;
}

/** Starts the servers of a world. */
export async function startWorld(): Promise<{ world: World; close(): Promise<unknown> }> {
  const [first, second, web, closed] = await Promise.all([
    startMcp({ name: 'first' }),
    startMcp({ name: 'second', tools: ['gamma'] }),
    startStatic(200, { 'content-type': 'text/html' }, '<html></html>'),
    closedPort(),
  ]);
  return {
    world: { ports: [first.port, second.port], web: web.port, closed },
    close: () => Promise.all([first, second, web].map(server => server.close())),
  };
}

/** The operator's settings under which the specs below mean what they say. */
export function policyFor({ ports }: World): PolicyInput {
  return {
    catalog: {
      jira: { image: 'example.com/jira', defaultVersion: '1.0.0', port: ports[0], env: { B: '2', A: '1' } },
      teams: {
        image: 'example.com/teams',
        defaultVersion: '3.1.0',
        port: ports[1],
        env: { A: '1' },
        args: ['--stateless'],
      },
    },
    allowedImages: ['example.com/*'],
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
    // All servers are on one address.
    probe: { perHost: 32, perHostPerSecond: 1000 },
  };
}

/** A spec but for the ports and the connector's own name, on which the names of its Services depend. */
export interface SpecChoice {
  type: 'official' | 'custom' | 'aitronos_built';
  /** What all types have. */
  common: Pick<PersonalConnectorSpec, 'description' | 'metadata' | 'category' | 'version' | 'lifecycle' | 'replacedBy'>;
  probe: boolean;
  suspend: boolean;
  server: 'first' | 'second';
  remote: { answers: 'mcp' | 'web' | 'closed' };
  hosted: {
    connectorId: 'jira' | 'teams';
    /** Which Service the URL names; absent: none is named. */
    service?: 'a' | 'b';
    hosting: HostingSpec;
  };
  /** A reason to reject a hosted connector; absent: it is valid. */
  wrong?: 'unknown connectorId' | 'image not allowed' | 'Service elsewhere' | 'refused by the API server';
}

export function specOf(choice: SpecChoice, connector: string, world: World): PersonalConnectorSpec {
  const { type, common, probe, suspend, remote, hosted, wrong } = choice;
  const port = world.ports[choice.server === 'first' ? 0 : 1];
  const both = {
    name: 'Walker',
    ...common,
    ...(suspend && { suspend }),
    ...(!probe && { probe: { enabled: false } }),
  };
  if (type !== 'aitronos_built') {
    const remotePort = { mcp: port, web: world.web, closed: world.closed }[remote.answers];
    return { ...both, type, connectorId: 'github', serverUrl: `http://127.0.0.1:${remotePort}/mcp` };
  }
  const { connectorId, service } = hosted;
  const { image, ...hosting } = hosted.hosting;
  const host = wrong === 'Service elsewhere' ? 'api.kube-system.svc' : service && `${connector}-${service}`;
  const chosen: HostingSpec = {
    ...hosting,
    ...(image !== undefined && wrong !== 'unknown connectorId' && { image }),
    ...(wrong === 'image not allowed' && { image: 'docker.example.org/miner' }),
    ...(wrong === 'refused by the API server' && { resources: { requests: { cpu: '2' }, limits: { cpu: '1' } } }),
  };
  return {
    ...both,
    type,
    connectorId: wrong === 'unknown connectorId' ? 'nosuch' : connectorId,
    ...(host && { serverUrl: `http://${host}:${port}/mcp` }),
    // Server-side apply makes null of a map that becomes empty, which the API server refuses; and a list that was
    // empty stays. So the specs here hold neither.
    ...(Object.keys(chosen).length > 0 && { hosting: chosen }),
  };
}

export const CHILDREN = { Deployment: DEPLOYMENTS, Service: SERVICES, NetworkPolicy: NETWORK_POLICIES } as const;
export type ChildName = keyof typeof CHILDREN;

/** Edits of fields that the operator sets: it must take each back. As JSON merge patches. */
export const EDITS = {
  'another image': {
    child: 'Deployment',
    patch: container({}),
  },
  'another port of the Pod': { child: 'Deployment', patch: container({ ports: [{ name: 'mcp', containerPort: 1 }] }) },
  'another kind of volume': {
    child: 'Deployment',
    patch: { spec: { template: { spec: { volumes: [{ name: 'tmp', configMap: { name: 'other' } }] } } } },
  },
  'another kind of probe': {
    child: 'Deployment',
    patch: container({ readinessProbe: { httpGet: { path: '/', port: 1 } } }),
  },
  'a variable from elsewhere': {
    child: 'Deployment',
    patch: container({ env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] }),
  },
  'another strategy': { child: 'Deployment', patch: { spec: { strategy: { type: 'Recreate', rollingUpdate: null } } } },
  'a privileged Pod': { child: 'Deployment', patch: { spec: { template: { spec: { securityContext: null } } } } },
  'another target': { child: 'Service', patch: { spec: { selector: { app: 'other' } } } },
  'another port': { child: 'Service', patch: { spec: { ports: [{ name: 'mcp', port: 1, targetPort: 1 }] } } },
  'a port on each node': { child: 'Service', patch: { spec: { type: 'NodePort' } } },
  'all let in': { child: 'NetworkPolicy', patch: { spec: { ingress: [{}] } } },
  'others guarded': {
    child: 'NetworkPolicy',
    patch: { spec: { podSelector: { matchLabels: { app: 'other' } }, policyTypes: ['Ingress', 'Egress'] } },
  },
} as const satisfies Record<string, { child: ChildName; patch: object }>;

/** Says all of the container anew, as `kubectl replace` does. */
function container(fields: object): object {
  const containers = [{ name: 'server', image: 'example.com/evil:1', ...fields }];
  return { spec: { template: { spec: { containers } } } };
}

/** Prefix of what "somebody else" adds. */
export const FOREIGN = 'example.com';

export type Happening =
  | { do: 'apply'; spec: SpecChoice }
  | { do: 'make anew'; spec: SpecChoice }
  | { do: 'orphan and make anew' }
  | { do: 'recheck' }
  | { do: 'delete'; child: ChildName }
  | { do: 'edit'; edit: keyof typeof EDITS }
  | {
      do: 'add label and annotation' | 'lose labels' | 'lose owner' | 'lose hash' | 'lie about labels';
      child: ChildName;
    }
  | { do: 'restart Pods' }
  | { do: 'scale'; replicas: number }
  | { do: 'put something else in place'; child: ChildName }
  | { do: 'hold by a finalizer'; child: ChildName }
  | { do: 'let go' };

export interface Step {
  happening: Happening;
  /** Whether the next step waits until this one has come to rest. */
  settle: boolean;
}

export interface Walk {
  first: SpecChoice;
  steps: Step[];
}

const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(arbitrary, { nil: undefined, freq: 2 });

/** An object without the keys whose value is undefined. */
function defined<T extends object>(value: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(value).filter(([, held]) => held !== undefined)) as T;
}

const env = fc.uniqueArray(
  fc.record({ name: fc.constantFrom('A', 'LOG', 'TZ'), value: fc.constantFrom('', '0', 'x y') }),
  { selector: ({ name }) => name, minLength: 1, maxLength: 3 },
);

const hosting = fc
  .record({
    image: maybe(fc.constantFrom('example.com/own:1', 'example.com/own:2@sha256:00', 'example.com/own')),
    env: maybe(env),
    args: maybe(fc.constantFrom<string[]>(['--verbose'], ['--quiet'])),
    replicas: maybe(fc.constantFrom(1, 2, 0)),
    tolerations: maybe(fc.constant<HostingSpec['tolerations'] & object>([{ key: 'mcp', operator: 'Exists' }])),
    allowFrom: maybe(
      fc.constantFrom<(HostingSpec['allowFrom'] & object)[]>(
        [{ namespaceSelector: {} }],
        [{ podSelector: { matchLabels: { app: 'chat' } } }],
      ),
    ),
    resources: maybe(
      fc.constantFrom<(HostingSpec['resources'] & object)[]>(
        { requests: { cpu: '10m' } },
        { limits: { cpu: 1, memory: '1Gi' } },
      ),
    ),
  })
  .map(defined<HostingSpec>);

/** Any valid spec. */
export const spec: fc.Arbitrary<SpecChoice> = fc.record({
  type: fc.constantFrom('aitronos_built' as const, 'aitronos_built' as const, 'custom' as const, 'official' as const),
  common: fc
    .record({
      description: maybe(fc.constantFrom('one', 'two')),
      metadata: maybe(fc.constantFrom({ team: 'x', nested: { deep: [1, null] } }, { team: 'y' })),
      category: maybe(fc.constantFrom('development' as const, 'design' as const)),
      version: maybe(fc.constantFrom('1.1.0', '2.0.0-rc.1+build.7')),
      lifecycle: maybe(fc.constantFrom('active' as const, 'deprecated' as const, 'maintenance' as const)),
      replacedBy: maybe(fc.constant('pcon_better')),
    })
    .map(defined<SpecChoice['common']>),
  probe: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  suspend: fc.oneof({ weight: 6, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
  server: fc.constantFrom('first' as const, 'second' as const),
  remote: fc.record({ answers: fc.constantFrom('mcp' as const, 'mcp' as const, 'web' as const, 'closed' as const) }),
  hosted: fc
    .record({
      connectorId: fc.constantFrom('jira' as const, 'teams' as const),
      service: maybe(fc.constantFrom('a' as const, 'b' as const)),
      hosting,
    })
    .map(({ service, ...rest }) => ({ ...rest, ...(service && { service }) })),
});

const wrongSpec: fc.Arbitrary<SpecChoice> = fc
  .tuple(
    spec,
    fc.constantFrom(
      'unknown connectorId' as const,
      'image not allowed' as const,
      'Service elsewhere' as const,
      'refused by the API server' as const,
    ),
  )
  .map(([choice, wrong]) => ({ ...choice, type: 'aitronos_built', wrong }));

const child = fc.constantFrom('Deployment' as const, 'Service' as const, 'NetworkPolicy' as const);
const about = <T extends string>(what: T) => child.map(name => ({ do: what, child: name }));

const happening: fc.Arbitrary<Happening> = fc.oneof(
  { weight: 10, arbitrary: spec.map(choice => ({ do: 'apply' as const, spec: choice })) },
  { weight: 2, arbitrary: wrongSpec.map(choice => ({ do: 'apply' as const, spec: choice })) },
  { weight: 2, arbitrary: spec.map(choice => ({ do: 'make anew' as const, spec: choice })) },
  { weight: 1, arbitrary: fc.constant({ do: 'orphan and make anew' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'recheck' as const }) },
  { weight: 2, arbitrary: about('delete') },
  {
    weight: 3,
    arbitrary: fc
      .constantFrom(...(Object.keys(EDITS) as (keyof typeof EDITS)[]))
      .map(edit => ({ do: 'edit' as const, edit })),
  },
  { weight: 1, arbitrary: about('add label and annotation') },
  { weight: 1, arbitrary: about('lose labels') },
  { weight: 1, arbitrary: about('lose owner') },
  { weight: 1, arbitrary: about('lose hash') },
  { weight: 1, arbitrary: about('lie about labels') },
  { weight: 1, arbitrary: fc.constant({ do: 'restart Pods' as const }) },
  { weight: 1, arbitrary: fc.constantFrom(1, 3).map(replicas => ({ do: 'scale' as const, replicas })) },
  { weight: 1, arbitrary: about('put something else in place') },
  { weight: 1, arbitrary: about('hold by a finalizer') },
  { weight: 1, arbitrary: fc.constant({ do: 'let go' as const }) },
);

export const walk: fc.Arbitrary<Walk> = fc
  .record({
    first: spec,
    steps: fc.array(fc.record({ happening, settle: fc.boolean() }), {
      minLength: 1,
      maxLength: 7,
      // Else most walks are short.
      size: 'max',
    }),
  })
  .map(drawn => ({ ...drawn, [fc.toStringMethod]: () => describe(drawn) }));

/** A walk in words, a step a line. */
export function describe({ first, steps }: Walk): string {
  const lines = steps.map(
    ({ happening: { do: what, ...rest }, settle }, index) =>
      `  ${index + 2}. ${what}${tell(rest)}${settle ? ', and wait until it settled' : ''}`,
  );
  return `\n  1. apply ${tellSpec(first)}\n${lines.join('\n')}\n`;
}

function tell(rest: object): string {
  return Object.entries(rest)
    .map(([key, value]) => ` ${key === 'spec' ? tellSpec(value as SpecChoice) : value}`)
    .join('');
}

/** Only what matters for the type, so that two specs can be told apart by eye. */
function tellSpec({ type, common, probe, suspend, server, remote, hosted, wrong }: SpecChoice): string {
  return [
    type,
    ...(wrong ? [`(${wrong})`] : []),
    ...(type === 'aitronos_built'
      ? [hosted.connectorId, hosted.service ? `at Service ${hosted.service}` : '', JSON.stringify(hosted.hosting)]
      : [`at ${remote.answers}`]),
    `${server} server`,
    JSON.stringify(common),
    ...(probe ? [] : ['without probes']),
    ...(suspend ? ['suspended'] : []),
  ]
    .filter(Boolean)
    .join(' ');
}
