/** JSON Schemas of all that an API server knows, made of its OpenAPI document, for kubeconform. */

interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: Schema | boolean;
  'x-kubernetes-int-or-string'?: boolean;
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  'x-kubernetes-group-version-kind'?: { group: string; version: string; kind: string }[];
  [keyword: string]: unknown;
}

/** Where kubeconform is to look for the schemas in a folder, named by `schemasOf`. */
export const SCHEMA_FILE = '{{ .ResourceKind }}_{{ .Group }}_{{ .ResourceAPIVersion }}.json';

/** Each kind's schema, strict: a field that the kind does not have is a fault. By the name of its file, without .json. */
export function schemasOf(openapi: object): Map<string, string> {
  const { definitions } = openapi as { definitions: Record<string, Schema> };
  const schemas = new Map<string, string>();
  for (const [name, definition] of Object.entries(definitions)) {
    for (const { group, version, kind } of definition['x-kubernetes-group-version-kind'] ?? []) {
      const used: Record<string, Schema> = {};
      take(name, definitions, used);
      // Of apiVersion: v1, kubeconform takes v1 for the group.
      const file = `${kind.toLowerCase()}_${group || version}_${version}`;
      schemas.set(file, JSON.stringify({ $ref: `#/definitions/${name}`, definitions: used }));
    }
  }
  return schemas;
}

function take(name: string, definitions: Record<string, Schema>, used: Record<string, Schema>): void {
  const definition = definitions[name];
  if (!definition || used[name]) return;
  // Held before it is looked into: some kinds hold themselves.
  used[name] = {};
  used[name] = strict(definition, reference => take(reference, definitions, used));
}

function strict(schema: Schema, refer: (name: string) => void): Schema {
  const { $ref, type, format, properties, items, additionalProperties } = schema;
  if ($ref) {
    refer($ref.replace('#/definitions/', ''));
    return { $ref };
  }
  if (schema['x-kubernetes-int-or-string'] || format === 'int-or-string') return { type: ['string', 'integer'] };
  // Quantities are strings that may be written as numbers.
  if (String(schema.description).startsWith('Quantity is')) return { type: ['string', 'number'] };
  const out: Schema = { ...(type && { type }), ...pick(schema, ['required', 'enum', 'minimum', 'maximum', 'pattern']) };
  if (properties) {
    out.properties = Object.fromEntries(Object.entries(properties).map(([key, child]) => [key, strict(child, refer)]));
    if (!schema['x-kubernetes-preserve-unknown-fields'] && additionalProperties === undefined)
      out.additionalProperties = false;
  }
  if (items) out.items = strict(items, refer);
  if (typeof additionalProperties === 'object') out.additionalProperties = strict(additionalProperties, refer);
  return out;
}

function pick(schema: Schema, keywords: readonly string[]): object {
  return Object.fromEntries(Object.entries(schema).filter(([keyword]) => keywords.includes(keyword)));
}
