/** `aitronos_built`: the operator runs the server in the connector's namespace. */

import { hash } from 'node:crypto';
import type { Finding, PersonalConnector } from '../api/connector.ts';
import { ANNOTATION } from '../api/connector.ts';
import type { HostingSpec, Resources } from '../api/generated.ts';
import { type CatalogEntry, isBad } from './catalog.ts';
import { type Child, type Deployment, type Pod, TEMPLATE_HASH } from './children.ts';
import { desiredChildren, type Settings } from './desired.ts';
import { lastWords } from './last-words.ts';
import { childName, credentialsSecret } from './names.ts';
import { ACCEPTED, type Context, type Progress, rejected, type Strategy } from './plan.ts';
import { imageAllowed } from './policy.ts';
import type { Inputs } from './references.ts';

const DEFAULT_RESOURCES: Resources = {
  requests: { cpu: '50m', memory: '128Mi' },
  limits: { cpu: '1', memory: '512Mi' },
};

export const hosted: Strategy = {
  plan(connector, context, { deployment, inputs = new Map() } = {}) {
    const settings = settle(connector, context);
    if ('reason' in settings)
      return { accepted: settings, children: undefined, serverUrl: undefined, serverType: undefined };
    const missing = missingInput(settings, inputs);
    const { path, service, servicePort } = settings;
    const host = `${service}.${connector.metadata.namespace}.svc.${context.policy.clusterDomain}`;
    return {
      accepted: missing === undefined ? ACCEPTED : rejected('SecretNotFound', missing),
      // What runs with what was there goes on.
      children:
        missing === undefined
          ? desiredChildren(connector, { ...settings, inputs: digestOf(settings, inputs, deployment) }, deployment)
          : undefined,
      serverUrl: serviceUrl(`http://${host}:${servicePort}`, path),
      serverType: 'http',
    };
  },

  progress({ deployment, service, pods }) {
    const revision = `${deployment?.metadata.uid ?? ''} ${deployment?.metadata.annotations?.[ANNOTATION.applied] ?? ''}`;
    const { deployed, secretMissing } = deploymentState(deployment, pods);
    return {
      deployed,
      ...(secretMissing && { secretMissing }),
      ...(deployment && { hosting: hostingStatus(deployment, service) }),
      probeable: deployed.reason === 'Available' ? true : isServing(deployment) ? 'as before' : deployed.message,
      trusted: true,
      revision,
    };
  },
};

/** Puts the catalog's entry and the spec together, or says why that cannot be served. */
function settle({ metadata, spec }: PersonalConnector, context: Context): Settings | Finding<'Accepted'> {
  const { policy, operatorNamespace, bridgeImage } = context;
  const hosting: HostingSpec = spec.hosting ?? {};
  const entry = Object.hasOwn(policy.catalog, spec.connectorId) ? policy.catalog[spec.connectorId] : undefined;

  if (!entry && !hosting.image) {
    const known = Object.keys(policy.catalog).sort().slice(0, 20).join(', ') || 'none';
    return rejected(
      'CatalogEntryMissing',
      `spec.connectorId ${JSON.stringify(spec.connectorId)} is not in the operator's catalog (known: ${known}): use one of these, have the operator's admin add it, or set spec.hosting.image`,
    );
  }
  if (entry && isBad(entry)) {
    return rejected(
      'CatalogEntryMissing',
      `spec.connectorId ${JSON.stringify(spec.connectorId)}: its entry in the operator's catalog is not valid (${entry.fault}): have the operator's admin mend it`,
    );
  }
  const serverType = spec.serverType ?? entry?.serverType ?? 'http';
  if (serverType === 'websocket') {
    return rejected(
      'InvalidSpec',
      'spec.serverType websocket cannot be hosted: use an image that speaks http or stdio, or a connector of type custom',
    );
  }
  // Of its own image the catalog knows better.
  if (entry && !hosting.image && serverType !== entry.serverType) {
    return rejected(
      'InvalidSpec',
      `spec.serverType ${serverType}: the catalog's ${spec.connectorId} speaks ${entry.serverType}: remove the field`,
    );
  }
  const port = hosting.port ?? entry?.port ?? 8000;
  const address = parseServiceUrl(spec.serverUrl, metadata.namespace, policy.clusterDomain);
  if (address && 'reason' in address) return address;

  const tag = (spec.version ?? entry?.defaultVersion ?? '').replaceAll('+', '_');
  const image = hosting.image ?? `${entry?.image}:${tag}`;
  // Another command in the catalog's image is another program: it takes the same leave as another image.
  const chosen = (['image', 'command', 'args'] as const).filter(field => hosting[field]?.length);
  if (chosen.length > 0 && !imageAllowed(image, policy.allowedImages)) {
    return rejected(
      'ImageNotAllowed',
      `spec.hosting.${chosen.join(', ')}: the image ${JSON.stringify(image)} matches nothing in allowedImages: have the operator's admin add it there, or remove ${chosen.length === 1 ? 'the field' : 'the fields'}`,
    );
  }
  const command = hosting.command ?? entry?.command ?? [];
  const bridge = serverType === 'stdio' ? bridgeImage : undefined;
  if (serverType === 'stdio' && command.length === 0) {
    return rejected(
      'InvalidSpec',
      'spec.hosting.command must name the program of a stdio server, such as [node, /app/server.js]: the operator cannot see what its image would start',
    );
  }
  if (serverType === 'stdio' && bridge === undefined) {
    return rejected(
      'InvalidSpec',
      "spec.serverType stdio cannot be hosted: have the operator's admin set BRIDGE_IMAGE to the operator's image",
    );
  }
  const catalogued: Partial<CatalogEntry> = hosting.image ? {} : (entry ?? {});
  const { stateless = false, processes = 1, maxSessions = 16, idleSeconds = 900 } = catalogued;
  return {
    deployment: childName(metadata.name),
    service: address?.service ?? childName(metadata.name),
    servicePort: address?.port ?? port,
    image,
    version: spec.version ?? (hosting.image ? imageTag(hosting.image) : tag),
    port,
    path: address?.path ?? hosting.path ?? entry?.path ?? '/mcp',
    operatorNamespace,
    bridge: bridge === undefined ? undefined : { image: bridge, processes, maxSessions, idleSeconds },
    stateless,
    command,
    args: hosting.args ?? entry?.args ?? [],
    ...environment(metadata.name, hosting, entry),
    resources: hosting.resources ?? entry?.resources ?? DEFAULT_RESOURCES,
    replicas: hosting.replicas,
    paused: spec.lifecycle === 'maintenance',
    imagePullSecrets: hosting.imagePullSecrets ?? [],
    nodeSelector: hosting.nodeSelector,
    tolerations: hosting.tolerations ?? [],
    allowFrom: hosting.allowFrom ?? [],
  };
}

/**
 * Environment in a fixed order. The Secret of an entry with required keys gives all of its keys; the required ones are
 * named as well, since only of a named key the kubelet tells that it is missing.
 */
function environment(
  name: string,
  hosting: HostingSpec,
  entry: CatalogEntry | undefined,
): Pick<Settings, 'env' | 'envFrom'> {
  const own = hosting.env ?? [];
  const taken = new Set(own.map(variable => variable.name));
  const secret = credentialsSecret(name);
  const named = hosting.envFrom ?? [];
  const required = named.length > 0 ? [] : (entry?.requiredSecretKeys ?? []);
  return {
    env: [
      ...Object.entries(entry?.env ?? {})
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .filter(([key]) => !taken.has(key) && !required.includes(key))
        .map(([key, value]) => ({ name: key, value })),
      ...required
        .filter(key => !taken.has(key))
        .map(key => ({ name: key, valueFrom: { secretKeyRef: { name: secret, key } } })),
      ...own,
    ],
    envFrom: required.length > 0 ? [{ secretRef: { name: secret } }] : named,
  };
}

/** A Secret or ConfigMap that the environment of a server is made of, and which key of it, if one is named. */
interface Need {
  /** As inputs name it. */
  object: string;
  key?: string;
  optional?: boolean;
}

function needsOf({ env, envFrom }: Pick<Settings, 'env' | 'envFrom'>): Need[] {
  const needs: Need[] = [];
  const add = (kind: string, reference: ({ name: string } & Omit<Need, 'object'>) | undefined): void => {
    if (reference) needs.push({ ...reference, object: `${kind}/${reference.name}` });
  };
  for (const { secretRef, configMapRef } of envFrom) {
    add('Secret', secretRef);
    add('ConfigMap', configMapRef);
  }
  for (const { valueFrom } of env) {
    add('Secret', valueFrom?.secretKeyRef);
    add('ConfigMap', valueFrom?.configMapKeyRef);
  }
  return needs;
}

/** What a server cannot start without, in words; undefined if nothing is missing, as far as the operator may know. */
function missingInput(settings: Settings, inputs: Inputs): string | undefined {
  const needs = needsOf(settings);
  for (const { object, key, optional } of needs) {
    const contents = inputs.get(object);
    if (optional || !contents || contents === 'pending') continue;
    const what = `the ${object.replace('/', ' ')}`;
    if (contents === 'missing') {
      const keys = needs.flatMap(need => (need.object === object && need.key !== undefined ? [need.key] : []));
      const which = keys.length > 0 ? ` with ${[...new Set(keys)].join(', ')}` : '';
      return `${what} does not exist: create it${which}, and the server starts by itself`;
    }
    if (key !== undefined && !contents.keys.has(key))
      return `${what} has no key ${key}: add it, and the server starts by itself`;
  }
  return undefined;
}

/** Of all that the environment is made of; where the operator does not know it, or not yet, what the Pods have. */
function digestOf(settings: Settings, inputs: Inputs, live: Deployment | undefined): string | undefined {
  const used = [...new Set(needsOf(settings).map(({ object }) => object))].sort();
  const known = used.flatMap(object => {
    const contents = inputs.get(object);
    if (!contents || contents === 'pending') return [];
    return [[object, contents === 'missing' ? '' : contents.digest]];
  });
  // Half of it, as after a start, would have new Pods made twice.
  const isWhole = used.every(object => inputs.get(object) !== 'pending');
  if (isWhole && known.length > 0) return hash('sha256', JSON.stringify(known)).slice(0, 16);
  return used.length > 0 ? live?.spec.template?.metadata?.annotations?.[ANNOTATION.inputs] : undefined;
}

interface ServiceAddress {
  service: string;
  port: number;
  path: string | undefined;
}

/** Reads `http://clickup-mcp:8000/mcp` as the Service to make; undefined when the spec names none. */
function parseServiceUrl(
  url: string | undefined,
  namespace: string,
  domain: string,
): ServiceAddress | Finding<'Accepted'> | undefined {
  if (url === undefined) return undefined;
  if (!URL.canParse(url) || new URL(url).port === '0') {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl ${JSON.stringify(url)} is no URL with a port from 1 to 65535: set it to one such as http://clickup-mcp:8000/mcp, or remove the field`,
    );
  }
  const { hostname, port, pathname } = new URL(url);
  const [service = '', ...rest] = hostname.split('.');
  const suffix = rest.join('.');
  if (!['', namespace, `${namespace}.svc`, `${namespace}.svc.${domain}`].includes(suffix)) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl: the host ${JSON.stringify(hostname)} is outside of the connector's namespace: name a Service only, such as http://${service}:8000, or remove the field`,
    );
  }
  if (service.length > 63 || !/^[a-z]([a-z0-9-]*[a-z0-9])?$/.test(service)) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl: ${JSON.stringify(service)} cannot name a Service: use at most 63 lower-case letters, digits and -, with a letter first`,
    );
  }
  return { service, port: port === '' ? 80 : Number(port), path: pathname === '/' ? undefined : pathname };
}

/** The tag of an image reference, else a part of its digest, else `latest`, as container runtimes read it. */
function imageTag(image: string): string {
  const [name = '', digest] = image.split('@');
  const last = name.slice(name.lastIndexOf('/') + 1);
  if (last.includes(':')) return last.slice(last.indexOf(':') + 1);
  return digest === undefined ? 'latest' : digest.replace(/^sha256:/, '').slice(0, 12);
}

/** The URL of a path of a Service. The path is only ever a path: `//elsewhere/` does not become the host. */
function serviceUrl(origin: string, path: string): string {
  const url = new URL(origin);
  url.pathname = path;
  return url.href;
}

function hostingStatus(deployment: Deployment, service: Child | undefined): NonNullable<Progress['hosting']> {
  return {
    deployment: deployment.metadata.name,
    ...(service && { service: service.metadata.name }),
    image: deployment.spec.template?.spec?.containers?.[0]?.image ?? '',
    replicas: deployment.spec.replicas ?? 1,
    readyReplicas: deployment.status?.readyReplicas ?? 0,
  };
}

interface DeploymentState {
  deployed: Finding<'Deployed'>;
  secretMissing?: string;
}

/** What a Deployment and its Pods amount to. Messages hold nothing that changes by itself, such as times or counts. */
export function deploymentState(deployment: Deployment | undefined, pods: readonly Pod[]): DeploymentState {
  if (!deployment) return progressing('the Deployment is being created');
  const { spec, status = {}, metadata } = deployment;
  const wanted = spec.replicas ?? 1;
  const { updatedReplicas = 0, availableReplicas = 0, replicas = 0 } = status;
  const waiting = progressing(
    wanted === 0
      ? 'the Deployment is being scaled to zero'
      : wanted === 1
        ? 'waiting for the Pod to become ready'
        : `waiting for all of ${wanted} Pods to become ready`,
  );
  if ((status.observedGeneration ?? 0) < (metadata.generation ?? 0)) return waiting;
  if (wanted === 0) return found('True', 'ScaledToZero', 'the hosted server is scaled to zero: scale it up to use it');
  if (availableReplicas >= wanted && updatedReplicas === replicas) {
    return found('True', 'Available', wanted === 1 ? 'the Pod is ready' : `all ${wanted} Pods are ready`);
  }
  const trouble = podsTrouble(deployment, pods);
  if (updatedReplicas === replicas && availableReplicas > 0) {
    // It serves as declared, if with less than all Pods: one is being moved, say, or an autoscaler wants more.
    const remark = trouble ? `; ${trouble.deployed.message}` : '';
    return found('True', 'Available', `${availableReplicas} of ${wanted} Pods are ready${remark}`);
  }
  if (trouble) return trouble;
  const progress = condition(deployment, 'Progressing');
  if (progress?.status === 'False' && progress.reason === 'ProgressDeadlineExceeded') {
    return found(
      'False',
      'RolloutFailed',
      `no progress within the Deployment's deadline: see the Pods of Deployment ${metadata.name}`,
    );
  }
  return waiting;
}

/** Why Pods cannot be made, or the first of the newest will not become ready by waiting alone. */
function podsTrouble(deployment: Deployment, pods: readonly Pod[]): DeploymentState | undefined {
  const failure = condition(deployment, 'ReplicaFailure');
  if (failure?.status !== 'True')
    return newest(pods)
      .map(podTrouble)
      .find(trouble => trouble !== undefined);
  const text = failure.message ?? failure.reason ?? '';
  const reason = /exceeded quota|is forbidden|denied/.test(text) ? 'QuotaExceeded' : 'RolloutFailed';
  // What follows tells how much is used at the moment.
  return found('False', reason, `Pods cannot be created: ${text.replace(/, requested: .*$/s, '')}`);
}

/** Whether Pods of an earlier template serve while new ones come up. */
function isServing(deployment: Deployment | undefined): boolean {
  return (deployment?.status?.availableReplicas ?? 0) > 0 && deployment?.spec.replicas !== 0;
}

/** The Pods of the newest template, by name: what is wrong with older ones is being mended. */
function newest(pods: readonly Pod[]): Pod[] {
  const age = ({ metadata }: Pod): string => `${metadata.creationTimestamp} ${metadata.name}`;
  const [latest] = [...pods].sort((a, b) => (age(a) < age(b) ? 1 : -1));
  const template = latest?.metadata.labels?.[TEMPLATE_HASH];
  return pods
    .filter(({ metadata, status }) => metadata.labels?.[TEMPLATE_HASH] === template && status.phase !== 'Failed')
    .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
}

const OUT_OF_MEMORY = 'it needs more memory than spec.hosting.resources.limits gives it';

/** Why a Pod will not become ready by waiting alone, or undefined. */
function podTrouble({ metadata, status }: Pod): DeploymentState | undefined {
  if (metadata.deletionTimestamp) return undefined;
  const scheduled = status.conditions?.find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status === 'False' && scheduled.reason === 'Unschedulable') {
    // Without the numbers of nodes, which come and go.
    const why = (scheduled.message ?? '')
      .replace(/^\d+\/\d+ nodes are available:? ?/, '')
      .replace(/ ?preemption: .*$/s, '')
      .replaceAll(/\b\d+ (?=node)/g, '');
    return found('False', 'Unschedulable', `no node can take Pod ${metadata.name}: ${why || 'see its events'}`);
  }
  for (const container of [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])]) {
    const { reason, message = '' } = container.state?.waiting ?? {};
    switch (reason) {
      case 'ErrImagePull':
      case 'ImagePullBackOff':
      case 'ErrImageNeverPull':
      case 'InvalidImageName':
        return found(
          'False',
          'ImagePullFailed',
          `Pod ${metadata.name}: the image ${container.image} cannot be pulled: check its name, tag and spec.hosting.imagePullSecrets`,
        );
      case 'CreateContainerConfigError':
        if (/^(secret|configmap) ".*" not found|^couldn't find key /.test(message)) {
          const missing = `${message}: create it, and the Pod starts by itself`;
          return { ...progressing(`Pod ${metadata.name} waits: ${message}`), secretMissing: missing };
        }
        return found('False', 'RolloutFailed', `Pod ${metadata.name} cannot start: ${message}`);
      case 'CreateContainerError':
      case 'RunContainerError':
        return found('False', 'RolloutFailed', `Pod ${metadata.name} cannot start: ${reason}`);
    }
    // Between two crashes a container runs for a while: until it is ready, the last crash is what matters.
    const ended = container.state?.terminated ?? container.lastState?.terminated;
    if (!container.ready && ended && (container.restartCount > 0 || reason === 'CrashLoopBackOff')) {
      const why = ended.reason === 'OOMKilled' ? OUT_OF_MEMORY : lastWords(ended.message ?? '') || 'see its log';
      return found(
        'False',
        'CrashLooping',
        `Pod ${metadata.name}: the ${container.name} ends again and again, last with exit code ${ended.exitCode ?? 'unknown'} (${ended.reason ?? 'Error'}): ${why}`,
      );
    }
  }
  return undefined;
}

function condition({ status }: Deployment, type: string) {
  return status?.conditions?.find(candidate => candidate.type === type);
}

function found<S extends Finding<'Deployed'>['status']>(
  status: S,
  reason: Extract<Finding<'Deployed'>, { status: S }>['reason'],
  message: string,
): DeploymentState {
  return { deployed: { status, reason, message } as Finding<'Deployed'> };
}

function progressing(message: string): DeploymentState {
  return found('Unknown', 'Progressing', message);
}
