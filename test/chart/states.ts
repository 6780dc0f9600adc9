/**
 * The states that a connector can be in, as the operator itself reports them, and what GitOps tools are to make of each.
 * One table for Argo CD, Flux and kstatus; the test data of Argo CD's health script are generated from it.
 */
import type { PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import { checkIdentifier } from '../../src/connector/accept.ts';
import type { Deployment, Pod } from '../../src/connector/children.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { createReferenceStores } from '../../src/connector/references.ts';
import { statusOf } from '../../src/connector/status.ts';
import { strategyOf } from '../../src/connector/strategy.ts';
import { targetOf } from '../../src/connector/target.ts';
import type { Outcome } from '../../src/probe/outcome.ts';
import { judge } from '../../src/probe/verdict.ts';
import { fakeClient, makeConnector, makeContext } from '../unit/support.ts';

export interface State {
  /** Also the name of its file in Argo CD's test data. */
  name: string;
  connector: PersonalConnector;
  /** Absent: Argo CD does not ask its script. */
  argocd?: { status: 'Healthy' | 'Progressing' | 'Degraded' | 'Suspended'; message: string };
  kstatus: 'Current' | 'InProgress' | 'Failed' | 'Terminating';
  /** By the expressions of manifests/gitops/flux/kustomization.yaml. Absent: as kstatus. */
  flux?: 'Current' | 'InProgress' | 'Failed';
}

interface Setup {
  spec?: Partial<PersonalConnectorSpec>;
  policy?: PolicyInput;
  /** What the probe found; absent: there was none yet. */
  outcome?: Outcome;
  /** How the hosted server's Deployment fares; absent: there is none. */
  deployment?: Deployment['status'];
  /** What the kubelet says of its container. */
  container?: { reason: string; message?: string };
  /** An older connector that pins the same id. */
  older?: PersonalConnector;
}

const SEEN = new Date('2026-01-01T00:00:05Z');
const SERVER = {
  name: 'github-mcp-server',
  version: '1.4.0',
  protocolVersion: '2025-11-25',
  capabilities: ['tools'],
  tools: { names: ['create_issue', 'search'], count: 2, hash: 'sha256:2a97' },
};
const ANSWERED: Outcome = { kind: 'answered', server: SERVER };
const AVAILABLE = { observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
const STARTING = { observedGeneration: 1, replicas: 1, updatedReplicas: 1 };

/** A connector with the status that the operator gives it: its own functions, with nothing but what they look at made up. */
function reported(name: string, type: PersonalConnectorSpec['type'], setup: Setup = {}): PersonalConnector {
  const { spec, policy, outcome, deployment, container, older } = setup;
  const connector = unseen(name, type, spec);
  const context = makeContext(policy);
  const strategy = strategyOf(connector);
  const planned = strategy.plan(connector, context);
  const conflict = older && checkIdentifier(connector, { byIndex: () => [older] });
  const plan = conflict ? { ...planned, accepted: conflict, children: undefined } : planned;

  const child = (kind: string) => plan.children?.find(({ type }) => type.kind === kind)?.object as never;
  const progress = strategy.progress({
    deployment: deployment && alive(child('Deployment'), deployment),
    service: deployment && child('Service'),
    pods: container && deployment ? [pod(name, container)] : [],
  });
  const target = targetOf(connector, plan, progress, context.policy, fakeClient(), createReferenceStores());
  const probed = outcome && 'url' in target && { ...target, outcome };
  const result = probed && {
    fingerprint: probed.fingerprint,
    recheck: undefined,
    verdict: judge(probed.outcome, { url: probed.url, credentials: false }).verdict,
  };
  return {
    ...connector,
    status: statusOf({
      connector,
      plan,
      obstacle: undefined,
      progress,
      target,
      result: result || undefined,
      now: SEEN,
    }),
  };
}

/** As the API server gives it to the operator for the first time. */
function unseen(
  name: string,
  type: PersonalConnectorSpec['type'],
  spec: Partial<PersonalConnectorSpec> = {},
): PersonalConnector {
  const defaults = { lifecycle: 'active' } as const;
  return makeConnector(type, { ...defaults, ...spec }, { metadata: { name }, status: { observedGeneration: -1 } });
}

function alive(declared: Deployment, status: Deployment['status']): Deployment {
  return {
    ...declared,
    metadata: { ...declared.metadata, uid: 'd', generation: 1 },
    ...(status && { status: status as NonNullable<Deployment['status']> }),
  };
}

function pod(name: string, { reason, message }: NonNullable<Setup['container']>): Pod {
  const image = 'registry.example.com/clickup-mcp:1.2.0';
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: `${name}-6d4cf56db6-x2x7k`,
      namespace: 'team',
      uid: 'p',
      resourceVersion: '11',
      creationTimestamp: '2026-01-01T00:00:02Z',
    },
    status: {
      phase: 'Pending',
      containerStatuses: [
        {
          name: 'server',
          ready: false,
          restartCount: 0,
          image,
          state: { waiting: { reason, ...(message !== undefined && { message }) } },
        },
      ],
    },
  };
}

/** A connector after an edit of its spec that the operator has not seen. */
function edited(name: string, before: PersonalConnector, spec: Partial<PersonalConnectorSpec>): PersonalConnector {
  return { ...before, metadata: { ...before.metadata, name, generation: 2 }, spec: { ...before.spec, ...spec } };
}

const SUSPENDED = {
  status: 'Suspended',
  message: 'spec.suspend is true: the operator changes and probes nothing',
} as const;
const UNSEEN = { status: 'Progressing', message: 'the operator has not seen the latest spec yet' } as const;

type Verdicts = [argocd: NonNullable<State['argocd']>['status'], kstatus: State['kstatus']];

/** A connector that the operator has reported on: Argo CD shows what Ready says. */
function state([argocd, kstatus]: Verdicts, connector: PersonalConnector): State {
  const ready = connector.status?.conditions?.find(({ type }) => type === 'Ready');
  const message = ready?.message ?? '';
  return { name: connector.metadata.name, connector, argocd: { status: argocd, message }, kstatus };
}

const WELL: Verdicts = ['Healthy', 'Current'];
const UNDER_WAY: Verdicts = ['Progressing', 'InProgress'];
/** It may come right without anybody changing the connector, so whoever waits may wait on. */
const AILING: Verdicts = ['Degraded', 'InProgress'];
/** Only a change of spec or configuration helps. */
const STALLED: Verdicts = ['Degraded', 'Failed'];

const ready = reported('ready', 'official', { outcome: ANSWERED });
const elsewhere = { serverUrl: 'http://api.kube-system:443/' };

export const STATES: State[] = [
  { name: 'fresh', connector: unseen('fresh', 'official'), argocd: UNSEEN, kstatus: 'InProgress' },
  state(UNDER_WAY, reported('first-probe', 'official')),
  state(WELL, ready),
  state(
    WELL,
    reported('authorization-required', 'official', {
      outcome: { kind: 'unauthorized', challenge: { scopes: ['repo'] } },
    }),
  ),
  state(
    WELL,
    reported('deprecated', 'custom', {
      spec: { lifecycle: 'deprecated', replacedBy: 'github' },
      outcome: ANSWERED,
    }),
  ),
  state(WELL, reported('probe-disabled', 'custom', { spec: { probe: { enabled: false } } })),
  state(['Suspended', 'Current'], reported('maintenance', 'custom', { spec: { lifecycle: 'maintenance' } })),
  state(UNDER_WAY, reported('rate-limited', 'official', { outcome: { kind: 'rate-limited' } })),
  state(AILING, reported('connection-refused', 'custom', { outcome: { kind: 'refused' } })),
  state(AILING, reported('not-mcp', 'custom', { outcome: { kind: 'not-mcp', why: 'it answers with a web page' } })),
  state(
    AILING,
    reported('tools-changed', 'custom', {
      spec: { probe: { approvedToolsHash: 'sha256:0000' } },
      outcome: ANSWERED,
    }),
  ),
  state(STALLED, reported('address-denied', 'custom', { spec: { serverUrl: 'http://169.254.169.254/mcp' } })),
  state(
    STALLED,
    reported('id-conflict', 'custom', {
      spec: { id: 'pcon_github' },
      older: makeConnector(
        'official',
        { id: 'pcon_github' },
        { metadata: { uid: '0', creationTimestamp: '2025-01-01T00:00:00Z' } },
      ),
    }),
  ),

  state(UNDER_WAY, reported('hosted-created', 'aitronos_built')),
  state(UNDER_WAY, reported('hosted-starting', 'aitronos_built', { deployment: STARTING })),
  state(WELL, reported('hosted-ready', 'aitronos_built', { deployment: AVAILABLE, outcome: ANSWERED })),
  state(
    ['Suspended', 'Current'],
    reported('hosted-maintenance', 'aitronos_built', {
      spec: { lifecycle: 'maintenance' },
      deployment: { observedGeneration: 1 },
    }),
  ),
  state(
    AILING,
    reported('image-pull-failed', 'aitronos_built', {
      deployment: STARTING,
      container: { reason: 'ImagePullBackOff' },
    }),
  ),
  state(
    AILING,
    reported('secret-not-found', 'aitronos_built', {
      deployment: STARTING,
      container: { reason: 'CreateContainerConfigError', message: 'secret "clickup-credentials" not found' },
    }),
  ),
  state(STALLED, reported('invalid-spec', 'aitronos_built', { spec: elsewhere })),
  state(STALLED, reported('catalog-entry-missing', 'aitronos_built', { spec: { connectorId: 'nosuch' } })),
  state(
    STALLED,
    reported('image-not-allowed', 'aitronos_built', { spec: { hosting: { image: 'docker.example.org/miner' } } }),
  ),

  {
    name: 'edited',
    connector: edited('edited', ready, { description: 'Another one' }),
    argocd: UNSEEN,
    kstatus: 'InProgress',
  },
  {
    name: 'mended',
    connector: edited('mended', reported('mended', 'aitronos_built', { spec: elsewhere }), {
      serverUrl: 'http://clickup:8000',
    }),
    argocd: UNSEEN,
    kstatus: 'InProgress',
  },
  // What follows the generation alone waits for a report that the operator, hands off, does not make.
  {
    name: 'suspended',
    connector: edited('suspended', ready, { suspend: true }),
    argocd: SUSPENDED,
    kstatus: 'InProgress',
  },
  {
    name: 'suspended-from-the-start',
    connector: unseen('suspended-from-the-start', 'custom', { suspend: true }),
    argocd: SUSPENDED,
    kstatus: 'InProgress',
  },
  {
    name: 'deleted',
    connector: { ...ready, metadata: { ...ready.metadata, deletionTimestamp: '2026-01-01T00:01:00Z' } },
    kstatus: 'Terminating',
    // The status is all that expressions see.
    flux: 'Current',
  },
];
