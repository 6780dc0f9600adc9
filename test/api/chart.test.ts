/** All that the chart and the manifests give, before a real API server: its own schemas, and its own judgement. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { loadAll } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { CHART, NAMESPACE, render } from '../../scripts/install.ts';
import { moduleFiles, resolveBinaries } from '../cluster/binaries.ts';
import { connect } from '../support/kube.ts';
import { SCHEMA_FILE, schemasOf } from '../support/schemas.ts';

const root = join(import.meta.dirname, '..', '..');
const temporary = mkdtempSync(join(tmpdir(), 'pco-schemas-'));
const exec = promisify(execFile);
const { signal } = new AbortController();
/** Those that the profiles and the manifests name. */
const namespaces = [NAMESPACE, 'team-a', 'team-b'];
let tools: Record<'helm' | 'kubeconform' | 'kubectl', string>;

beforeAll(async () => {
  const progress = console.log;
  tools = await resolveBinaries(['helm', 'kubeconform', 'kubectl'], { signal, progress });
  // The kinds of the Prometheus operator, so that the API server knows them too.
  const crds = await moduleFiles('prometheus-operator', 'github.com/prometheus-operator/prometheus-operator', signal);
  for (const name of ['servicemonitors', 'podmonitors', 'prometheusrules'])
    await kubectl(
      'apply',
      '--server-side',
      '-f',
      join(crds, 'example', 'prometheus-operator-crd', `monitoring.coreos.com_${name}.yaml`),
    );
  await kubectl('wait', '--for=condition=Established', 'crd', '--all', '--timeout=30s');
  for (const namespace of namespaces) await kubectl('create', 'namespace', namespace);
  const api = connect(inject('kubeconfig'));
  const openapi = await api.transport.call<object>({ method: 'GET', path: '/openapi/v2', signal });
  await api.close();
  for (const [name, schema] of schemasOf(openapi)) writeFileSync(join(temporary, `${name}.json`), schema);
}, 300_000);
afterAll(async () => {
  rmSync(temporary, { recursive: true, force: true });
  await kubectl('delete', 'namespace', '--wait=false', ...namespaces);
});

function kubectl(...args: string[]): Promise<{ stdout: string }> {
  return exec(tools.kubectl, ['--kubeconfig', inject('kubeconfig'), ...args], { maxBuffer: 1e8 });
}

/** Name → arguments of Helm: the profiles, and what none of them has. */
const renderings: Record<string, string[]> = {
  'its defaults': [],
  ...Object.fromEntries(readdirSync(join(CHART, 'ci')).map(name => [name, ['--values', join(CHART, 'ci', name)]])),
  'a PodMonitor and a stamp': [
    ...['--set', 'metrics.podMonitor.enabled=true,admission.stampCreatedBy.create=true'],
    ...['--api-versions', 'admissionregistration.k8s.io/v1/MutatingAdmissionPolicy'],
  ],
};

/** Where a manifest is, once it is rendered. */
async function rendered(name: string, text: Promise<string> | string): Promise<string> {
  const file = join(temporary, `${name}.yaml`);
  writeFileSync(file, await text);
  return file;
}

async function judge(file: string): Promise<string> {
  const location = join(temporary, SCHEMA_FILE);
  const { stdout } = await exec(tools.kubeconform, ['-strict', '-summary', '-schema-location', location, file]).catch(
    ({ stdout }: { stdout: string }) => ({ stdout }),
  );
  return stdout;
}

describe.each(Object.entries(renderings))('the chart with %s', (name, args) => {
  const file = (): Promise<string> => rendered(`chart-${name.replaceAll(/\W/g, '-')}`, render(tools.helm, ...args));

  it('is what the API server says that its objects are', async () => {
    const path = await file();
    const summary = await judge(path);
    const count = loadAll(readFileSync(path, 'utf8')).filter(Boolean).length;
    expect(summary).toContain(`Valid: ${count}, Invalid: 0, Errors: 0, Skipped: 0`);
  });

  it('would be taken by the API server, to the last field', async () => {
    const path = await file();
    const { stdout } = await kubectl('apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', path);
    const count = loadAll(readFileSync(path, 'utf8')).filter(Boolean).length;
    expect(stdout.trim().split('\n')).toHaveLength(count);
  });
});

it('every kind that a template can make is among these', async () => {
  const texts = await Promise.all(Object.values(renderings).map(args => render(tools.helm, ...args)));
  const made = texts.flatMap(text => loadAll(text).map(object => (object as { kind?: string } | null)?.kind));
  const templates = join(CHART, 'templates');
  const written = readdirSync(templates).flatMap(name =>
    // Of a kind that is chosen, both are named.
    [...readFileSync(join(templates, name), 'utf8').matchAll(/^kind: (.*)$/gm)].flatMap(([, kind = '']) =>
      kind.startsWith('{{') ? [...kind.matchAll(/"(\w+)"/g)].map(([, choice]) => choice) : [kind],
    ),
  );
  expect(written.length).toBeGreaterThan(15);
  expect(new Set(made.filter(Boolean))).toEqual(new Set(written));
});

it('kubeconform would notice a field that there is not', async () => {
  const text = await render(tools.helm);
  const summary = await judge(await rendered('typo', text.replace('\n  replicas:', '\n  replica:')));
  expect(summary).toMatch(/Invalid: 1.*Skipped: 0/);
});

describe('the manifests', () => {
  const install = join(root, 'manifests', 'install');
  const overlay = join(root, 'manifests', 'overlay');
  const samples = readdirSync(join(root, 'manifests', 'samples')).map(name => join(root, 'manifests', 'samples', name));

  it.each([
    ['install.yaml', () => readFileSync(join(install, 'install.yaml'), 'utf8')],
    ['kustomize manifests/install', async () => (await kubectl('kustomize', install)).stdout],
    ['kustomize manifests/overlay', async () => (await kubectl('kustomize', overlay)).stdout],
  ] as const)('%s is valid, and would be taken', async (name, text) => {
    const path = await rendered(name.replaceAll(/\W/g, '-'), text());
    expect(await judge(path)).toContain('Invalid: 0, Errors: 0, Skipped: 0');
    await kubectl('apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', path);
  });

  it('have a folder of your own settings, whose change makes new Pods and whose image brings the bridge', async () => {
    const { stdout } = await kubectl('kustomize', overlay);
    const objects = loadAll(stdout) as { kind: string; metadata: { name: string }; spec: Workload }[];
    const settings = objects.filter(({ kind }) => kind === 'ConfigMap').map(({ metadata }) => metadata.name);
    expect(settings).toEqual([expect.stringMatching(/^personal-connector-operator-config-\w+$/)]);
    const { containers, volumes } = objects.find(({ kind }) => kind === 'Deployment')?.spec.template.spec ?? {};
    expect(volumes?.[0]?.configMap.name).toBe(settings[0]);
    const { image, env } = containers?.[0] ?? {};
    expect(image).toBe('registry.example.com/personal-connector-operator:0.1.0');
    expect(env).toContainEqual({ name: 'BRIDGE_IMAGE', value: image });
  });

  it.each(samples.map(path => [path.split('/').at(-1), path] as const))('sample %s is taken', async (_name, path) => {
    expect(await judge(path)).toContain('Invalid: 0, Errors: 0, Skipped: 0');
    await kubectl('apply', '-n', 'team-a', '--server-side', '--dry-run=server', '--validate=strict', '-f', path);
  });
});

interface Workload {
  template: {
    spec: {
      containers: { image: string; env: { name: string; value?: string }[] }[];
      volumes: { configMap: { name: string } }[];
    };
  };
}
