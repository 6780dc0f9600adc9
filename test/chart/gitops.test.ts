/** What GitOps tools make of connectors: Argo CD, Flux and kstatus by their own libraries. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { load, loadAll } from 'js-yaml';
import { beforeAll, describe, expect, it } from 'vitest';
import { HEALTH } from '../../scripts/gitops.ts';
import { FLUX, faultsOf, judged, type Verdict, type Verdicts } from '../support/gitops.ts';
import { STATES, type State } from './states.ts';

const GITOPS = 'manifests/gitops';
const read = (...path: string[]): string => readFileSync(join(...path), 'utf8');

const told = new Map<State, Verdicts>();
beforeAll(async () => {
  const answers = await judged(STATES.map(({ connector }) => connector));
  for (const [index, state] of STATES.entries()) told.set(state, answers[index] as Verdicts);
});

describe('kstatus', () => {
  it.each(STATES)('calls $name $kstatus', state => {
    expect(told.get(state)?.kstatus).toMatchObject({ status: state.kstatus });
  });

  it('takes an object without status for Current, which is why the CRD gives it a first one', async () => {
    const { status: _, ...bare } = (STATES[0] as State).connector;
    const [answer] = await judged([bare]);
    expect(answer?.kstatus.status).toBe('Current');
  });
});

describe('Flux', () => {
  it('asks its expressions about connectors', () => {
    expect(FLUX).toMatchObject({ apiVersion: 'connectors.aitronos.com/v1', kind: 'PersonalConnector' });
  });

  it.each(STATES.map(state => [state.name, state.flux ?? state.kstatus, state] as const))(
    'calls %s %s by its expressions',
    (_name, expected, state) => {
      expect(told.get(state)?.flux).toEqual({ status: expected });
    },
  );

  it('fails at once on whatever is wrong, where the page says how', async () => {
    const [, failed] = /^ *failed: (.*Ready.*)$/m.exec(read('docs/gitops.md')) ?? [];
    const answers = await judged(
      STATES.map(({ connector }) => connector),
      { ...FLUX, failed: failed ?? '' },
    );
    for (const [index, { name, argocd, flux: byFlux, kstatus }] of STATES.entries()) {
      const expected = argocd?.status === 'Degraded' ? 'Failed' : (byFlux ?? kstatus);
      expect(answers[index]?.flux, name).toEqual({ status: expected });
    }
  });
});

describe('Argo CD', () => {
  const table = load(read(HEALTH, 'health_test.yaml')) as {
    tests: { healthStatus: Verdict; inputPath: string }[];
  };

  it.each(table.tests)('says of $inputPath: $healthStatus.status', async ({ healthStatus, inputPath }) => {
    const [answer] = await judged([load(read(HEALTH, inputPath))]);
    expect(answer?.argocd).toEqual(healthStatus);
  });

  it('has a test of each state of which it asks its script', () => {
    const asked = STATES.filter(({ argocd }) => argocd).map(({ name }) => `testdata/${name}.yaml`);
    expect(table.tests.map(({ inputPath }) => inputPath)).toEqual(asked);
    expect(new Set(table.tests.map(({ healthStatus }) => healthStatus.status))).toEqual(
      new Set(['Healthy', 'Progressing', 'Degraded', 'Suspended']),
    );
  });

  it('is told the same by the ConfigMap', () => {
    const { data } = load(read(GITOPS, 'argocd/argocd-cm.yaml')) as { data: Record<string, string> };
    expect(data).toEqual({
      'resource.customizations.health.connectors.aitronos.com_PersonalConnector': read(HEALTH, 'health.lua'),
    });
  });

  it('never fails, whatever the object looks like', async () => {
    const odd = fc.oneof(
      { maxDepth: 2 },
      fc.constantFrom(null, '', '1', 1, -1, 1.5, true, [], {}, [null], 'True', 'Ready'),
      fc.jsonValue(),
    );
    const some = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
    const condition = fc.record({
      type: fc.oneof(fc.constant('Ready'), fc.constant('Stalled'), odd),
      status: some(fc.oneof(fc.constantFrom('True', 'False', 'Unknown'), odd)),
      reason: some(fc.oneof(fc.constant('Maintenance'), odd)),
      message: some(fc.oneof(fc.constant('words'), odd)),
    });
    const type = {
      apiVersion: fc.constant('connectors.aitronos.com/v1'),
      kind: fc.constant('PersonalConnector'),
    };
    const object = fc.record({
      ...type,
      metadata: fc.record({ name: fc.constant('odd'), generation: some(fc.oneof(fc.constant(1), odd)) }),
      spec: some(fc.oneof(fc.record({ suspend: some(fc.oneof(fc.boolean(), odd)) }), odd)),
      status: some(
        fc.oneof(
          fc.record({
            observedGeneration: some(fc.oneof(fc.constant(1), odd)),
            conditions: some(fc.oneof(fc.array(fc.oneof(condition, odd)), odd)),
          }),
          odd,
        ),
      ),
    });
    // So that each answer is given, whatever chance does.
    const plain = fc.record({
      ...type,
      metadata: fc.constant({ name: 'plain', generation: 1 }),
      spec: fc.constant({}),
      status: fc.record({
        observedGeneration: fc.constant(1),
        conditions: fc.tuple(
          fc.record({ type: fc.constant('Ready'), status: fc.constantFrom('True', 'False'), message: some(odd) }),
        ),
      }),
    });
    const objects = fc.sample(fc.oneof({ weight: 9, arbitrary: object }, { weight: 1, arbitrary: plain }), 2_000);
    const answers = await judged(objects);
    const failures = answers.flatMap(({ argocd }, index) => (argocd.error ? [[argocd.error, objects[index]]] : []));
    expect(failures).toEqual([]);
    expect(new Set(answers.map(({ argocd }) => argocd.status)).size).toBe(4);
  });
});

describe('the samples', () => {
  interface Manifest {
    apiVersion: string;
    kind: string;
    metadata: { name: string };
    spec: object;
  }
  const all = (path: string) => loadAll(read(GITOPS, path)) as Manifest[];

  it('are what the API of Flux takes', async () => {
    const manifests = ['flux/kustomization.yaml', 'flux/operator.yaml']
      .flatMap(all)
      .filter(({ apiVersion }) => apiVersion !== 'v1');
    expect(manifests.map(({ kind }) => kind)).toEqual(['Kustomization', 'OCIRepository', 'HelmRelease']);
    const typo = { ...manifests[0], spec: { ...manifests[0]?.spec, healthCheckExpr: [] } };
    expect(await faultsOf([...manifests, typo])).toEqual([
      '',
      '',
      '',
      expect.stringContaining('unknown field "healthCheckExpr"'),
    ]);
  });

  it('let Argo CD ignore no difference', () => {
    for (const { kind, spec } of all('argocd/application.yaml')) {
      expect(kind).toBe('Application');
      expect(spec).toMatchObject({ syncPolicy: { syncOptions: expect.arrayContaining(['ServerSideApply=true']) } });
      expect(spec).not.toHaveProperty('ignoreDifferences');
    }
  });
});
