/** The objects that a hosted server needs, complete and in one place: pure functions of the connector and its settings. */

import {
  ANNOTATION,
  LABEL,
  OPERATOR,
  PERSONAL_CONNECTORS,
  type PersonalConnector,
  SCALE_FIELD_MANAGER,
} from '../api/connector.ts';
import type { HostingSpec, Resources } from '../api/generated.ts';
import type { Declared, ObjectMeta } from '../api/meta.ts';
import { BRIDGE_COMMAND, BRIDGE_DIR, INJECT_COMMAND, READY_PATH } from '../bridge/layout.ts';
import {
  DEPLOYMENTS,
  type Deployment,
  NETWORK_POLICIES,
  POD_DISRUPTION_BUDGETS,
  SERVICES,
  TEMPLATE_HASH,
  withHash,
} from './children.ts';
import { labelValue, selectorLabels } from './names.ts';
import type { Desired } from './plan.ts';

/** All that must be known to host a server, after the catalog and the spec were put together. Empty lists say nothing. */
export interface Settings {
  deployment: string;
  service: string;
  servicePort: number;
  image: string;
  version: string;
  port: number;
  /** The operator's namespace, from which probes come; undefined when it runs outside of the cluster. */
  operatorNamespace: string | undefined;
  /** What serves a stdio server over HTTP in its Pod; undefined for one that speaks HTTP itself. */
  bridge: Bridge | undefined;
  path: string;
  /** Whether any Pod may answer any request. */
  stateless: boolean;
  command: string[];
  args: string[];
  env: NonNullable<HostingSpec['env']>;
  envFrom: NonNullable<HostingSpec['envFrom']>;
  resources: Resources;
  /** Absent leaves the number to Kubernetes, an autoscaler or a person. */
  replicas: number | undefined;
  /** Digest of the Secrets and ConfigMaps of its environment; undefined where nobody knows. */
  inputs?: string | undefined;
  /** Has no Pods for now. */
  paused: boolean;
  imagePullSecrets: NonNullable<HostingSpec['imagePullSecrets']>;
  nodeSelector: Record<string, string> | undefined;
  tolerations: NonNullable<HostingSpec['tolerations']>;
  allowFrom: NonNullable<HostingSpec['allowFrom']>;
}

export interface Bridge {
  /** That brings it. */
  image: string;
  processes: number;
  maxSessions: number;
  idleSeconds: number;
}

/** The name of the server's port and container. */
const PORT_NAME = 'mcp';
const CONTAINER = 'server';

/** The children of a hosted connector, in the order in which they are made. `live`: its Deployment, if there is one. */
export function desiredChildren(connector: PersonalConnector, settings: Settings, live?: Deployment): Desired[] {
  return [
    ...scale(connector, settings, live),
    { type: DEPLOYMENTS, object: withHash(deployment(connector, settings, live)) },
    { type: SERVICES, object: withHash(service(connector, settings)) },
    { type: NETWORK_POLICIES, object: withHash(networkPolicy(connector, settings)) },
    ...((settings.replicas ?? 1) > 1
      ? [{ type: POD_DISRUPTION_BUDGETS, object: withHash(disruptionBudget(connector, settings)) }]
      : []),
  ];
}

/**
 * The number of Pods at both ends of a maintenance, where others set it at all other times: by a field manager of its own,
 * so that the number stays when it is not declared any more. It is the first wish: the Deployment's must not take it away.
 */
function scale({ metadata }: PersonalConnector, settings: Settings, live?: Deployment): Desired[] {
  if (live?.metadata.name !== settings.deployment) return [];
  const { annotations = {} } = live.metadata;
  const before = annotations[ANNOTATION.resume];
  const now = live.spec.replicas ?? 1;
  const isOpen = settings.replicas === undefined;
  const wish = (spec: object, kept?: number): Desired[] => {
    const object = {
      apiVersion: 'apps/v1',
      kind: DEPLOYMENTS.kind,
      metadata: {
        name: settings.deployment,
        namespace: metadata.namespace,
        ...(kept !== undefined && { annotations: { [ANNOTATION.resume]: String(kept) } }),
      },
      spec,
    };
    return [{ type: DEPLOYMENTS, object, fieldManager: SCALE_FIELD_MANAGER }];
  };
  if (settings.paused && isOpen) {
    // What the spec said once, it does not say any more: then it is Kubernetes' own number.
    return now === 0 ? [] : wish({ replicas: 0 }, annotations[ANNOTATION.replicas] === undefined ? now : 1);
  }
  if (before === undefined) return [];
  return wish(isOpen ? { replicas: Number(before) } : {});
}

/** Whether it has no Pods because the Deployment itself says so: that of others is not known, and there is none to keep. */
function isBornPaused({ paused, replicas }: Settings, live: Deployment | undefined): boolean {
  if (!paused || replicas !== undefined) return false;
  return !live || (live.spec.replicas === 0 && live.metadata.annotations?.[ANNOTATION.resume] === undefined);
}

function deployment(
  connector: PersonalConnector,
  settings: Settings,
  live: Deployment | undefined,
): Declared & { spec: object } {
  const labels = labelsOf(connector, settings);
  const isZero = isBornPaused(settings, live) || (settings.paused && settings.replicas !== undefined);
  const replicas = isZero ? 0 : settings.replicas;
  return {
    apiVersion: 'apps/v1',
    kind: DEPLOYMENTS.kind,
    metadata: {
      ...meta(connector, settings.deployment, labels),
      ...(settings.replicas !== undefined && { annotations: { [ANNOTATION.replicas]: String(settings.replicas) } }),
    },
    spec: {
      ...(replicas !== undefined && { replicas }),
      revisionHistoryLimit: 3,
      progressDeadlineSeconds: 300,
      // A new Pod serves before the old one goes: no gap, also with one replica.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      selector: { matchLabels: selectorLabels(connector.metadata) },
      template: {
        metadata: {
          labels,
          ...(settings.inputs !== undefined && { annotations: { [ANNOTATION.inputs]: settings.inputs } }),
        },
        spec: { ...podSpec(settings), ...spread(connector) },
      },
    },
  };
}

/** Several Pods go to several nodes, if they can; those of another template do not count. */
function spread({ metadata }: PersonalConnector): object {
  const constraint = {
    maxSkew: 1,
    topologyKey: 'kubernetes.io/hostname',
    whenUnsatisfiable: 'ScheduleAnyway',
    labelSelector: { matchLabels: selectorLabels(metadata) },
    matchLabelKeys: [TEMPLATE_HASH],
  };
  return { topologySpreadConstraints: [constraint] };
}

/** A Pod that meets the Pod Security Standard `restricted`, without rights in the cluster and with a read-only root. */
function podSpec(settings: Settings): object {
  const { image, bridge, port, env, envFrom, resources } = settings;
  const { imagePullSecrets, nodeSelector, tolerations } = settings;
  const [command, args] = bridge
    ? [[...BRIDGE_COMMAND], bridgeArgs(bridge, settings)]
    : [settings.command, settings.args];
  const probe = bridge
    ? // A large answer may keep the bridge busy for a moment.
      { httpGet: { path: READY_PATH, port: PORT_NAME }, timeoutSeconds: 5 }
    : { tcpSocket: { port: PORT_NAME } };
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    // Whatever a stdio server leaves behind is reaped by the Pod's first process, as it is by no bridge.
    ...(bridge && { shareProcessNamespace: true }),
    terminationGracePeriodSeconds: 30,
    ...(imagePullSecrets.length > 0 && { imagePullSecrets }),
    ...(nodeSelector && Object.keys(nodeSelector).length > 0 && { nodeSelector }),
    ...(tolerations.length > 0 && { tolerations }),
    ...(bridge && { initContainers: [bridgeInjector(bridge)] }),
    containers: [
      {
        name: CONTAINER,
        image,
        imagePullPolicy: pullPolicy(image),
        ...(command.length > 0 && { command }),
        ...(args.length > 0 && { args }),
        ports: [{ name: PORT_NAME, containerPort: port, protocol: 'TCP' }],
        ...(env.length > 0 && { env }),
        ...(envFrom.length > 0 && { envFrom }),
        resources,
        securityContext: CONFINED,
        volumeMounts: [
          { name: 'tmp', mountPath: '/tmp' },
          ...(bridge ? [{ name: 'bridge', mountPath: BRIDGE_DIR, readOnly: true }] : []),
        ],
        // Who is on the way to this Pod while it ends still finds it. The bridge sees to that itself.
        ...(!bridge && { lifecycle: { preStop: { sleep: { seconds: 5 } } } }),
        // The kubelet keeps the last lines of a crash, so that nobody needs a right to read logs.
        terminationMessagePolicy: 'FallbackToLogsOnError',
        // MCP servers answer POST only, so the kubelet looks at the port; whether MCP is spoken there, the probe tells. The
        // bridge knows whether its server has answered.
        startupProbe: { ...probe, periodSeconds: 1, failureThreshold: 120 },
        readinessProbe: { ...probe, periodSeconds: 5, failureThreshold: 2 },
      },
    ],
    volumes: [
      { name: 'tmp', emptyDir: { sizeLimit: '256Mi' } },
      ...(bridge ? [{ name: 'bridge', emptyDir: { sizeLimit: '256Mi' } }] : []),
    ],
  };
}

const CONFINED = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
};

/** Copies the bridge, with its own Node, from the operator's image to where the server's container finds it. */
function bridgeInjector({ image }: Bridge): object {
  return {
    name: 'bridge',
    image,
    imagePullPolicy: pullPolicy(image),
    command: [...INJECT_COMMAND],
    resources: { requests: { cpu: '10m', memory: '64Mi' }, limits: { cpu: '1', memory: '256Mi' } },
    securityContext: CONFINED,
    volumeMounts: [{ name: 'bridge', mountPath: BRIDGE_DIR }],
    terminationMessagePolicy: 'FallbackToLogsOnError',
  };
}

function bridgeArgs(bridge: Bridge, { port, path, stateless, command, args, env }: Settings): string[] {
  // What the manifest shows is no secret: the bridge need not keep it out of the log.
  const plain = env.filter(({ valueFrom }) => !valueFrom).map(({ name }) => name);
  return [
    ...['--port', String(port), '--path', path],
    ...(stateless
      ? ['--stateless', '--processes', String(bridge.processes)]
      : ['--max-sessions', String(bridge.maxSessions), '--idle', String(bridge.idleSeconds)]),
    ...plain.flatMap(name => ['--plain', name]),
    '--',
    ...command,
    ...args,
  ];
}

/**
 * What Kubernetes would choose for this image. It chooses only once: left to itself, a Deployment would keep the policy of
 * the image that it was made with.
 */
function pullPolicy(image: string): 'Always' | 'IfNotPresent' {
  const [name = '', digest] = image.split('@');
  const tag = name.slice(name.lastIndexOf('/') + 1).split(':')[1] ?? 'latest';
  return tag === 'latest' && digest === undefined ? 'Always' : 'IfNotPresent';
}

function service(connector: PersonalConnector, settings: Settings): Declared & { spec: object } {
  return {
    apiVersion: 'v1',
    kind: SERVICES.kind,
    metadata: meta(connector, settings.service, labelsOf(connector, settings)),
    spec: {
      type: 'ClusterIP',
      selector: selectorLabels(connector.metadata),
      // A session lives in one Pod: also while a rollout has two of them.
      sessionAffinity: settings.stateless ? 'None' : 'ClientIP',
      ports: [{ name: PORT_NAME, port: settings.servicePort, targetPort: PORT_NAME, protocol: 'TCP' }],
    },
  };
}

/** Lets in the connector's own namespace, the operator's probe, and whom the spec names. */
function networkPolicy(connector: PersonalConnector, settings: Settings): Declared & { spec: object } {
  const { operatorNamespace, port, allowFrom } = settings;
  const operator = operatorNamespace && {
    namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': operatorNamespace } },
    podSelector: { matchLabels: { [LABEL.name]: OPERATOR, [LABEL.component]: 'operator' } },
  };
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: NETWORK_POLICIES.kind,
    metadata: meta(connector, settings.deployment, labelsOf(connector, settings)),
    spec: {
      podSelector: { matchLabels: selectorLabels(connector.metadata) },
      policyTypes: ['Ingress'],
      ingress: [
        {
          from: [{ podSelector: {} }, ...(operator ? [operator] : []), ...allowFrom],
          ports: [{ port, protocol: 'TCP' }],
        },
      ],
    },
  };
}

/** Of several Pods, one at a time may be evicted, as when nodes are drained. One that is not ready serves nobody. */
function disruptionBudget(connector: PersonalConnector, settings: Settings): Declared & { spec: object } {
  return {
    apiVersion: 'policy/v1',
    kind: POD_DISRUPTION_BUDGETS.kind,
    metadata: meta(connector, settings.deployment, labelsOf(connector, settings)),
    spec: {
      maxUnavailable: 1,
      unhealthyPodEvictionPolicy: 'AlwaysAllow',
      selector: { matchLabels: selectorLabels(connector.metadata) },
    },
  };
}

function meta(
  { metadata }: PersonalConnector,
  name: string,
  labels: Record<string, string>,
): Pick<ObjectMeta, 'name' | 'namespace' | 'labels' | 'ownerReferences'> & { labels: Record<string, string> } {
  return {
    name,
    namespace: metadata.namespace,
    labels,
    ownerReferences: [
      {
        apiVersion: `${PERSONAL_CONNECTORS.group}/${PERSONAL_CONNECTORS.version}`,
        kind: PERSONAL_CONNECTORS.kind,
        name: metadata.name,
        uid: metadata.uid,
        controller: true,
        // Blocking would need a right on the finalizers of the connector, and would hold up nothing that matters.
        blockOwnerDeletion: false,
      },
    ],
  };
}

function labelsOf({ metadata, spec }: PersonalConnector, { version }: Settings): Record<string, string> {
  return {
    [LABEL.name]: labelValue(spec.connectorId),
    [LABEL.instance]: labelValue(metadata.name),
    [LABEL.version]: labelValue(version),
    [LABEL.component]: 'mcp-server',
    ...selectorLabels(metadata),
  };
}
