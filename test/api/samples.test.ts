/** Samples whose end needs no Pod and no server: each becomes what its comment says. `npm start` shows all of them. */
import { readFileSync } from 'node:fs';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { PersonalConnector } from '../../src/api/connector.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import type { Operator } from '../../src/main.ts';
import { readSamples } from '../demo/samples.ts';
import { createSandbox, readyOf, type Sandbox } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';

const SAMPLES = readSamples('.', false);
const FINAL = new Set(['DNSFailure', 'ProbeDisabled', 'ImageNotAllowed', 'CatalogEntryMissing', 'SecretNotFound']);

let cluster: Sandbox;
let operator: Operator;
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  const values = load(readFileSync('charts/personal-connector-operator/values.yaml', 'utf8')) as PolicyInput;
  // On a real node the kubelet tells of a Secret that is missing; here the operator looks for itself.
  operator = await runOperator(cluster, { catalog: values.catalog, readSecrets: true });
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
});

describe('the samples', () => {
  it('have all types, and names of their own', () => {
    const types = new Set(SAMPLES.map(({ connector }) => connector.spec.type));
    expect(types).toEqual(new Set(['official', 'aitronos_built', 'custom']));
    const names = SAMPLES.map(({ connector }) => connector.metadata.name);
    expect(new Set(names).size).toBe(names.length);
  });

  it.each(SAMPLES.filter(({ expected }) => FINAL.has(expected.reason)))(
    'have $connector.metadata.name become $expected.status $expected.reason',
    async ({ connector, expected }) => {
      const { name } = connector.metadata;
      await cluster.applyConnector(name, connector.spec);
      const settled: PersonalConnector = await cluster.untilReady(name, expected.status, expected.reason);
      expect(readyOf(settled)?.message).toMatch(/\S/);
    },
  );

  it('are tried here for each of these reasons', () => {
    expect(new Set(SAMPLES.map(({ expected }) => expected.reason)).isSupersetOf(FINAL)).toBe(true);
  });
});
