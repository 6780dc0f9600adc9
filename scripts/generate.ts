/** `npm run generate`: derives the types, the chart's CRD template and the reference pages from their sources. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { dump, load } from 'js-yaml';
import { compile, type JSONSchema } from 'json-schema-to-typescript';
import { z } from 'zod';
import { CONDITIONS, REASONS } from '../src/api/connector.ts';
import { catalogEntrySchema } from '../src/connector/catalog.ts';
import { chartYaml } from './artifact-hub.ts';
import { gitopsFiles } from './gitops.ts';
import { metricsPage } from './metrics.ts';
import { reliabilityPage } from './reliability.ts';
import { valuesSchemaText } from './values-schema.ts';

const root = dirname(import.meta.dirname);
const CRD = 'crds/personalconnectors.connectors.aitronos.com.yaml';
const VALUES = 'charts/personal-connector-operator/values.yaml';

/** Names of the interfaces that code refers to; every other object is inlined where it stands. */
const TITLES: Record<string, string> = {
  spec: 'PersonalConnectorSpec',
  'spec.hosting': 'HostingSpec',
  'spec.hosting.resources': 'Resources',
  'spec.probe': 'ProbeSpec',
  'spec.probe.caBundle': 'CaBundle',
  status: 'PersonalConnectorStatus',
  'status.conditions[]': 'Condition',
};

interface Structural extends JSONSchema {
  properties?: Record<string, Structural>;
  items?: Structural;
  required?: string[];
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  'x-kubernetes-int-or-string'?: boolean;
  'x-kubernetes-validations'?: { message: string }[];
}

/** What `npm run generate` writes, by path from the project's root: a test compares it with what is there. */
export async function generate(): Promise<Record<string, string>> {
  const text = read(CRD);
  const crd = load(text) as {
    spec: { versions: [{ schema: { openAPIV3Schema: { properties: Record<'spec' | 'status', Structural> } } }] };
  };
  const { spec, status } = crd.spec.versions[0].schema.openAPIV3Schema.properties;
  const types = await compile(
    {
      title: 'PersonalConnectorSchema',
      type: 'object',
      required: ['spec'],
      properties: { spec: plain(spec, 'spec'), status: plain(status, 'status') },
      additionalProperties: false,
    },
    'PersonalConnectorSchema',
    {
      bannerComment: `// Generated from ${CRD} by \`npm run generate\`. Do not edit.`,
      style: { singleQuote: true, printWidth: 120 },
    },
  );
  return {
    'src/api/generated.ts': types,
    'charts/personal-connector-operator/templates/crd.yaml': chartTemplate(text),
    'charts/personal-connector-operator/values.schema.json': valuesSchema(),
    'charts/personal-connector-operator/Chart.yaml': chartYaml({
      chart: read('charts/personal-connector-operator/Chart.yaml'),
      changelog: read('CHANGELOG.md'),
      crd: text,
      samples: ['official-github', 'hosted-jira', 'custom'].map(name => read(`manifests/samples/${name}.yaml`)),
      repository: (load(read(VALUES)) as { image: { repository: string } }).image.repository,
    }),
    'docs/reference/personalconnector.md': fieldsPage({ spec, status }),
    'docs/reference/conditions.md': conditionsPage(),
    'docs/reference/catalog.md': catalogPage(),
    'docs/reference/metrics.md': metricsPage(NOTICE),
    'docs/reliability.md': reliabilityPage(NOTICE),
    ...gitopsFiles(),
  };
}

/** The JSON Schema of a structural OpenAPI schema: unknown fields are pruned by the API server, so there are none. */
function plain(schema: Structural, path: string): JSONSchema {
  const { description, type, enum: values, required, properties, items, additionalProperties } = schema;
  const out: JSONSchema = {};
  if (TITLES[path]) out.title = TITLES[path];
  if (description) out.description = description;
  if (schema['x-kubernetes-int-or-string']) return { ...out, type: ['integer', 'string'] };
  if (type) out.type = type;
  if (values) out.enum = values;
  if (required) out.required = required;
  if (items) out.items = plain(items, `${path}[]`);
  if (type === 'object') {
    out.properties = Object.fromEntries(
      Object.entries(properties ?? {}).map(([name, child]) => [name, plain(child, `${path}.${name}`)]),
    );
    out.additionalProperties =
      typeof additionalProperties === 'object'
        ? plain(additionalProperties as Structural, `${path}.*`)
        : schema['x-kubernetes-preserve-unknown-fields'] === true;
  }
  return out;
}

/** The CRD as a template: upgraded with the chart, kept when the chart is uninstalled, left out on request. */
function chartTemplate(crd: string): string {
  const [, body = ''] = crd.split(/^(?=apiVersion:)/m);
  const annotated = body.replace('\nmetadata:\n', '\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n');
  return `{{- /* Generated from ${CRD} by \`npm run generate\`. Do not edit. */}}\n{{- if .Values.crds.install }}\n${annotated}{{- end }}\n`;
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

function valuesSchema(): string {
  const text = read(VALUES);
  return valuesSchemaText(text, load(text) as object);
}

const NOTICE = '<!-- Generated by `npm run generate`. Do not edit. -->';

function fieldsPage(top: Record<'spec' | 'status', Structural>): string {
  const rows = Object.entries(top).flatMap(([name, schema]) => fields(name, schema, false));
  return [
    NOTICE,
    '# Fields of a PersonalConnector',
    '`apiVersion: connectors.aitronos.com/v1`, `kind: PersonalConnector`, short name `pcon`. **Bold** fields are required.',
    ['| field | type | meaning |', '| --- | --- | --- |', ...rows].join('\n'),
    '',
  ].join('\n\n');
}

/** A table row for a field and each field in it. */
function fields(path: string, schema: Structural, required: boolean): string[] {
  const { properties = {}, items, description = '', default: standard, 'x-kubernetes-validations': rules } = schema;
  const limits = (rules ?? []).map(({ message }) => `<br>Rule: ${message}`).join('');
  const preset = standard === undefined ? '' : `<br>Default: \`${JSON.stringify(standard)}\``;
  const name = required ? `**\`${path}\`**` : `\`${path}\``;
  const row = `| ${name} | ${typeOf(schema)} | ${`${description}${preset}${limits}`.replaceAll('|', '\\|')} |`;
  const inner = items?.properties ? items : { properties, required: schema.required };
  return [
    row,
    ...Object.entries(inner.properties ?? {}).flatMap(([child, value]) =>
      fields(`${path}${items?.properties ? '[]' : ''}.${child}`, value, inner.required?.includes(child) ?? false),
    ),
  ];
}

function typeOf({ type, enum: values, items, additionalProperties, format, ...rest }: Structural): string {
  if (values) return values.map(value => `\`${value}\``).join(', ');
  if (rest['x-kubernetes-int-or-string']) return 'quantity';
  if (type === 'array' && items) return `list of ${typeOf(items)}`;
  if (typeof additionalProperties === 'object') return `map of ${typeOf(additionalProperties as Structural)}`;
  return format === 'date-time' ? 'time' : String(type ?? 'any');
}

function catalogPage(): string {
  const { properties = {}, required } = z.toJSONSchema(catalogEntrySchema, { io: 'input' }) as Structural;
  const values = load(read(VALUES)) as { catalog: object };
  const rows = Object.entries(properties).flatMap(([name, schema]) =>
    fields(name, { ...schema, properties: {} }, required?.includes(name) ?? false),
  );
  return [
    NOTICE,
    '# The catalog',
    'An `aitronos_built` connector needs to say no more than its `connectorId`: the catalog says how its server is run. The catalog is the value `catalog` of the chart, connectorId → entry. **Bold** fields are required.',
    ['| field | type | meaning |', '| --- | --- | --- |', ...rows].join('\n'),
    'An entry that is not valid keeps no other one from being used: connectors that name it have `Accepted` False, `CatalogEntryMissing`, with a message that names the field, and the operator says so in its log when it starts. An entry of your own replaces those fields of one of the chart that it names; `null` removes an entry.',
    '## In the chart',
    `\`\`\`yaml\n${dump(values.catalog, { lineWidth: 120 })}\`\`\``,
    '',
  ].join('\n\n');
}

function conditionsPage(): string {
  const conditions = Object.entries(CONDITIONS).map(([type, { meaning, ...states }]) => {
    const cell = (status: 'True' | 'False' | 'Unknown'): string =>
      states[status].map(reason => `\`${reason}\``).join('<br>');
    return `| \`${type}\` | ${meaning} | ${cell('True')} | ${cell('False')} | ${cell('Unknown')} |`;
  });
  const reasons = Object.entries(REASONS).map(([reason, meaning]) => `| \`${reason}\` | ${meaning} |`);
  return [
    NOTICE,
    '# Conditions and reasons',
    'The state of a connector is in `status.conditions`. A consumer needs only `Ready`.',
    ['| condition | says | True | False | Unknown |', '| --- | --- | --- | --- | --- |', ...conditions].join('\n'),
    '## Reasons',
    ['| reason | meaning |', '| --- | --- |', ...reasons].join('\n'),
    '',
  ].join('\n\n');
}

if (import.meta.main) {
  for (const [path, text] of Object.entries(await generate())) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`wrote ${path}`);
  }
}
