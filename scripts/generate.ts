/** `npm run generate`: derives src/api/generated.ts and the chart's CRD template from the CRD. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { load } from 'js-yaml';
import { compile, type JSONSchema } from 'json-schema-to-typescript';

const root = dirname(import.meta.dirname);
const CRD = 'crds/personalconnectors.connectors.aitronos.com.yaml';

/** Names of the interfaces that code refers to; every other object is inlined where it stands. */
const TITLES: Record<string, string> = {
  spec: 'PersonalConnectorSpec',
  'spec.hosting': 'HostingSpec',
  'spec.hosting.resources': 'Resources',
  'spec.probe': 'ProbeSpec',
  'spec.probe.caBundle': 'CaBundle',
  status: 'PersonalConnectorStatus',
  'status.conditions[]': 'Condition',
  'status.hosting': 'HostingStatus',
  'status.server': 'ServerStatus',
  'status.authorization': 'AuthorizationStatus',
};

interface Structural extends JSONSchema {
  properties?: Record<string, Structural>;
  items?: Structural;
  'x-kubernetes-preserve-unknown-fields'?: boolean;
}

/** What `npm run generate` writes, by path from the project's root: a test compares it with what is there. */
export async function generate(): Promise<Record<string, string>> {
  const text = readFileSync(join(root, CRD), 'utf8');
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
  };
}

/** The JSON Schema of a structural OpenAPI schema: unknown fields are pruned by the API server, so there are none. */
function plain(schema: Structural, path: string): JSONSchema {
  const { description, type, enum: values, required, properties, items, additionalProperties } = schema;
  const out: JSONSchema = {};
  if (TITLES[path]) out.title = TITLES[path];
  if (description) out.description = description;
  if (schema['x-kubernetes-int-or-string' as never]) return { ...out, type: ['integer', 'string'] };
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

if (import.meta.main) {
  for (const [path, text] of Object.entries(await generate())) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`wrote ${path}`);
  }
}
