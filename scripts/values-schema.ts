/** The schema of the chart's values: what the operator itself takes, and what the templates do. */
import { z } from 'zod';
import { catalogEntrySchema } from '../src/connector/catalog.ts';
import { policySchema } from '../src/connector/policy.ts';
import { MOST_SEATS } from '../src/kube/membership.ts';

interface JsonSchema {
  type?: string;
  description?: string;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  [keyword: string]: unknown;
}

const name = z.string().regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
const port = z.int().min(1).max(65535);
/** Parts of Kubernetes objects: the API server knows what may stand in them. */
const object = z.record(z.string(), z.unknown());
const objects = z.array(object);
const names = z.array(z.string().min(1));
const strings = z.record(z.string(), z.string());
const duration = z.string().regex(/^([0-9]+(ms|[smh]))*$/);
const monitor = z.strictObject({
  enabled: z.boolean(),
  labels: strings,
  interval: duration,
  scrapeTimeout: duration,
  relabelings: objects,
  metricRelabelings: objects,
});
const cidrs = z.array(z.string().regex(/^[0-9a-fA-F:.]+\/[0-9]{1,3}$/));
const hosts = z.array(z.string().regex(/^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$/));
/** One or a range; the chart says if a range ends before it begins, or beyond 65535. */
const portRange = z.string().regex(/^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$/);
const { allowedImages, addressPolicy, clusterDomain, probe } = policySchema.shape;

const valuesSchema = z.strictObject({
  fullnameOverride: z.string().regex(/^([a-z]([-a-z0-9]{0,61}[a-z0-9])?)?$/),
  commonLabels: strings,
  image: z.strictObject({
    repository: catalogEntrySchema.shape.image,
    tag: z.string().regex(/^([\w][\w.-]{0,127})?$/),
    digest: z.string().regex(/^(sha256:[0-9a-f]{64})?$/),
    pullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']),
  }),
  imagePullSecrets: z.array(z.strictObject({ name })),
  crds: z.strictObject({ install: z.boolean() }),
  serviceAccount: z.strictObject({ create: z.boolean(), name: z.string(), annotations: strings }),
  rbac: z.strictObject({
    create: z.boolean(),
    readSecrets: z.boolean(),
    readConfigMaps: z.boolean(),
    aggregateRoles: z.boolean(),
  }),
  watchNamespaces: z.array(name.max(63)),
  replicas: z.int().min(0),
  sharding: z.strictObject({ replicas: z.int().min(0).max(MOST_SEATS) }),
  topologySpreadConstraints: objects,
  networkPolicy: z.strictObject({
    enabled: z.boolean(),
    apiServerPorts: z.array(port).min(1),
    metricsFrom: objects,
  }),
  logLevel: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']),
  workers: z.int().min(1).max(256),
  clusterDomain,
  probe: probe.unwrap().extend({ proxy: z.string().regex(/^(https?:\/\/\S+)?$/) }),
  addressPolicy: addressPolicy.unwrap().extend({
    allowCidrs: cidrs,
    allowHosts: hosts,
    denyCidrs: cidrs,
    denyHosts: hosts,
    ports: z.array(z.union([portRange, port])).min(1),
  }),
  allowedImages,
  catalog: z.record(z.string().regex(/^[a-z0-9][a-z0-9_-]{0,62}$/), catalogEntrySchema),
  metrics: z.strictObject({
    service: z.strictObject({ enabled: z.boolean() }),
    serviceMonitor: monitor,
    podMonitor: monitor,
    prometheusRule: z.strictObject({
      enabled: z.boolean(),
      labels: strings,
      annotations: strings,
      runbooks: z.string().regex(/^[^\s#]+$/),
    }),
    dashboard: z.strictObject({ enabled: z.boolean(), labels: strings, annotations: strings }),
  }),
  resources: object,
  /** `null` takes it away, so it may be absent. */
  runAsUser: z.int().min(1).optional(),
  deploymentAnnotations: strings,
  podAnnotations: strings,
  podLabels: strings,
  extraEnv: z.array(z.looseObject({ name: z.string().min(1) })),
  extraVolumes: z.array(z.looseObject({ name })),
  extraVolumeMounts: z.array(z.looseObject({ name, mountPath: z.string().min(1) })),
  nodeSelector: strings,
  tolerations: objects,
  affinity: object,
  priorityClassName: z.string(),
  admission: z.strictObject({
    limits: z.strictObject({
      create: z.boolean(),
      types: z.array(z.enum(['official', 'aitronos_built', 'custom'])),
      hosts: names,
      images: names,
      createdBySelf: z.boolean(),
      createdByGroups: names,
      namespaceSelector: object,
      exemptUsers: names,
      exemptGroups: names,
    }),
    stampCreatedBy: z.strictObject({ create: z.boolean() }),
  }),
  /** What a chart that has this one as a part gives to all of its parts. */
  global: object.optional(),
});

/**
 * The text of values.schema.json. `values` is the text of values.yaml, whose comments become descriptions, and `defaults`
 * what it holds: each of its keys is required, so that a value which is taken away by `null` is told, and no template has
 * to fear it.
 */
export function valuesSchemaText(values: string, defaults: object): string {
  const schema = z.toJSONSchema(valuesSchema, { io: 'input', target: 'draft-07' }) as JsonSchema;
  describeAndRequire(schema, '', descriptionsOf(values), defaults);
  schema.title = 'Values of the chart personal-connector-operator';
  return `${JSON.stringify(schema, null, 2)}\n`;
}

function describeAndRequire(
  schema: JsonSchema,
  path: string,
  descriptions: ReadonlyMap<string, string>,
  defaults: unknown,
): void {
  const { properties } = schema;
  if (properties && typeof defaults === 'object' && defaults !== null) {
    // What may be taken away by `null`.
    const required = Object.keys(properties).filter(key => key in defaults && key !== 'runAsUser');
    if (required.length > 0) schema.required = required;
    for (const [key, child] of Object.entries(properties))
      describeAndRequire(child, `${path}.${key}`, descriptions, (defaults as Record<string, unknown>)[key]);
  }
  // Names of connectors are patterns of properties: a fault in one is then told with its path.
  if (schema.propertyNames) {
    const { pattern } = schema.propertyNames as { pattern?: string };
    delete schema.propertyNames;
    if (pattern !== undefined) {
      schema.patternProperties = { [pattern]: schema.additionalProperties };
      schema.additionalProperties = false;
    }
  }
  delete schema.default;
  const description = descriptions.get(path);
  if (description) schema.description = description;
}

/** What the comments `# -- …` of values.yaml say, by path such as `.image.tag`. */
function descriptionsOf(values: string): Map<string, string> {
  const found = new Map<string, string>();
  const path: string[] = [];
  let comment: string[] = [];
  for (const line of values.split('\n')) {
    const [, text] = /^\s*# ?(.*)$/.exec(line) ?? [];
    if (text !== undefined) {
      if (text.startsWith('-- ')) comment = [text.slice(3).replace(/^\(\w+\) /, '')];
      else if (comment.length > 0 && !text.startsWith('@')) comment.push(text);
      continue;
    }
    const [, indent, key] = /^( *)([\w-]+):/.exec(line) ?? [];
    if (indent !== undefined && key !== undefined) {
      path.length = indent.length / 2;
      path.push(key);
      if (comment.length > 0) found.set(`.${path.join('.')}`, comment.join(' '));
    }
    comment = [];
  }
  return found;
}
