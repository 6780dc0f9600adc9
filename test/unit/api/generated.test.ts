import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { load } from 'js-yaml';
import { describe, expect, it } from 'vitest';
import { generate } from '../../../scripts/generate.ts';
import { gitopsFiles } from '../../../scripts/gitops.ts';
import { CONDITIONS, REASONS } from '../../../src/api/connector.ts';

const root = join(import.meta.dirname, '..', '..', '..');

interface Schema {
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: Schema | boolean;
}

/** Each property below a schema, with its path. */
function* properties(schema: Schema, path: string): Generator<[string, Schema]> {
  for (const [name, child] of Object.entries(schema.properties ?? {})) {
    yield [`${path}.${name}`, child];
    yield* properties(child, `${path}.${name}`);
  }
  if (schema.items) yield* properties(schema.items, `${path}[]`);
  if (typeof schema.additionalProperties === 'object') yield* properties(schema.additionalProperties, `${path}.*`);
}

describe('what is generated from the CRD', () => {
  it('is what is on disk (else run: npm run generate)', async () => {
    const generated = await generate();
    expect(Object.keys(generated)).toEqual([
      'src/api/generated.ts',
      'charts/personal-connector-operator/templates/crd.yaml',
      'charts/personal-connector-operator/values.schema.json',
      'charts/personal-connector-operator/Chart.yaml',
      'docs/reference/personalconnector.md',
      'docs/reference/conditions.md',
      'docs/reference/catalog.md',
      'docs/reference/metrics.md',
      'docs/reliability.md',
      ...Object.keys(gitopsFiles()),
    ]);
    for (const [path, text] of Object.entries(generated)) {
      expect(readFileSync(join(root, path), 'utf8'), path).toBe(text);
    }
  });
});

describe('the CRD', () => {
  it('describes every property', () => {
    const files = readdirSync(join(root, 'crds')).filter(file => file.endsWith('.yaml'));
    const all = files.flatMap(file => {
      const crd = load(readFileSync(join(root, 'crds', file), 'utf8')) as {
        spec: { versions: { name: string; schema: { openAPIV3Schema: Schema } }[] };
      };
      return crd.spec.versions.flatMap(({ name, schema }) => [...properties(schema.openAPIV3Schema, name)]);
    });
    expect(all.length).toBeGreaterThan(100);
    const bare = all.filter(([path, { description }]) => path !== 'v1.metadata' && !description?.trim());
    expect(bare.map(([path]) => path)).toEqual([]);
  });
});

describe('conditions and reasons', () => {
  const used = Object.entries(CONDITIONS).flatMap(([type, { True, False, Unknown }]) =>
    [...True, ...False, ...Unknown].map(reason => [type, reason] as const),
  );

  it.each(Object.entries(CONDITIONS))('%s has a meaning', (_type, { meaning }) => {
    expect(meaning).toMatch(/\S.*\.$/);
  });

  it.each(used)('%s can be %s, which has a meaning', (_type, reason) => {
    expect(REASONS[reason]).toMatch(/\S.*\.$/);
  });

  it('holds no reason that neither a condition nor an Event gives', () => {
    const reasons = new Set<string>(used.map(([, reason]) => reason));
    const unused = Object.keys(REASONS).filter(reason => !reasons.has(reason));
    expect(unused).toEqual(['Deprecated']);
  });

  it('lets Ready be False for every reason for which a condition that it sums up is', () => {
    const { Accepted, Deployed, Reachable, Verified, Authorized } = CONDITIONS;
    const summed = [Accepted, Deployed, Reachable, Verified, Authorized].flatMap(({ False }): string[] => [...False]);
    expect(new Set(summed)).toEqual(new Set<string>(CONDITIONS.Ready.False));
  });
});
