/** The objects that a hosted server needs, complete and in one place: pure functions of the connector and its settings. */

import { LABEL, OPERATOR, PERSONAL_CONNECTORS, type PersonalConnector } from '../api/connector.ts';
import type { HostingSpec, Resources } from '../api/generated.ts';
import type { Declared, ObjectMeta } from '../api/meta.ts';
import { DEPLOYMENTS, NETWORK_POLICIES, SERVICES, withHash } from './children.ts';
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
  command: string[];
  args: string[];
  env: NonNullable<HostingSpec['env']>;
  envFrom: NonNullable<HostingSpec['envFrom']>;
  resources: Resources;
  /** Absent leaves the number to Kubernetes, an autoscaler or a person. */
  replicas: number | undefined;
  imagePullSecrets: NonNullable<HostingSpec['imagePullSecrets']>;
  nodeSelector: Record<string, string> | undefined;
  tolerations: NonNullable<HostingSpec['tolerations']>;
  allowFrom: NonNullable<HostingSpec['allowFrom']>;
}

/** The name of the server's port and container. */
const PORT_NAME = 'mcp';
const CONTAINER = 'server';

/** The children of a hosted connector, in the order in which they are made. */
export function desiredChildren(connector: PersonalConnector, settings: Settings): Desired[] {
  return [
    { type: DEPLOYMENTS, object: withHash(deployment(connector, settings)) },
    { type: SERVICES, object: withHash(service(connector, settings)) },
    { type: NETWORK_POLICIES, object: withHash(networkPolicy(connector, settings)) },
  ];
}

function deployment(connector: PersonalConnector, settings: Settings): Declared & { spec: object } {
  const labels = labelsOf(connector, settings);
  return {
    apiVersion: 'apps/v1',
    kind: DEPLOYMENTS.kind,
    metadata: meta(connector, settings.deployment, labels),
    spec: {
      ...(settings.replicas !== undefined && { replicas: settings.replicas }),
      revisionHistoryLimit: 3,
      progressDeadlineSeconds: 300,
      // A new Pod serves before the old one goes: no gap, also with one replica.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      selector: { matchLabels: selectorLabels(connector.metadata) },
      template: { metadata: { labels }, spec: podSpec(settings) },
    },
  };
}

/** A Pod that meets the Pod Security Standard `restricted`, without rights in the cluster and with a read-only root. */
function podSpec(settings: Settings): object {
  const { image, command, args, port, env, envFrom, resources } = settings;
  const { imagePullSecrets, nodeSelector, tolerations } = settings;
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    terminationGracePeriodSeconds: 30,
    ...(imagePullSecrets.length > 0 && { imagePullSecrets }),
    ...(nodeSelector && Object.keys(nodeSelector).length > 0 && { nodeSelector }),
    ...(tolerations.length > 0 && { tolerations }),
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
        securityContext: {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        },
        volumeMounts: [{ name: 'tmp', mountPath: '/tmp' }],
        // The kubelet keeps the last lines of a crash, so that nobody needs a right to read logs.
        terminationMessagePolicy: 'FallbackToLogsOnError',
        // MCP servers answer POST only, so the kubelet looks at the port; whether MCP is spoken there, the probe tells.
        startupProbe: { tcpSocket: { port: PORT_NAME }, periodSeconds: 1, failureThreshold: 120 },
        readinessProbe: { tcpSocket: { port: PORT_NAME }, periodSeconds: 5, failureThreshold: 2 },
      },
    ],
    volumes: [{ name: 'tmp', emptyDir: { sizeLimit: '256Mi' } }],
  };
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
      ports: [{ name: PORT_NAME, port: settings.servicePort, targetPort: PORT_NAME, protocol: 'TCP' }],
    },
  };
}

/** Lets in the connector's own namespace, the operator's probe, and whom the spec names. */
function networkPolicy(connector: PersonalConnector, settings: Settings): Declared & { spec: object } {
  const { operatorNamespace, port, allowFrom } = settings;
  const operator = operatorNamespace && {
    namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': operatorNamespace } },
    podSelector: { matchLabels: { [LABEL.name]: OPERATOR } },
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
