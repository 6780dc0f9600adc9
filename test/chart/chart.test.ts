import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { load, loadAll } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHART, generateChart, NAMESPACE, render } from '../../scripts/install.ts';
import { resolveBinaries } from '../cluster/binaries.ts';

const root = join(import.meta.dirname, '..', '..');
const exec = promisify(execFile);
const temporary = mkdtempSync(join(tmpdir(), 'pco-chart-test-'));
let tools: Record<'helm' | 'helm-docs' | 'helm-unittest', string>;

beforeAll(async () => {
  const { signal } = new AbortController();
  tools = await resolveBinaries(['helm', 'helm-docs', 'helm-unittest'], { signal, progress: console.log });
});
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

/** What Helm says of a fault, or nothing when there is none. */
async function faultOf(...args: string[]): Promise<string | undefined> {
  try {
    await render(tools.helm, ...args);
    return undefined;
  } catch (error) {
    return (error as { stderr: string }).stderr;
  }
}

const profiles = readdirSync(join(CHART, 'ci'));

describe('the chart', () => {
  it.each(['', ...profiles])('passes helm lint --strict with %s', async profile => {
    const values = profile === '' ? [] : ['--values', join(CHART, 'ci', profile)];
    const { stdout } = await exec(tools.helm, ['lint', '--strict', '--namespace', NAMESPACE, CHART, ...values]);
    expect(stdout).toContain('0 chart(s) failed');
  });

  it('passes its own suites', async () => {
    const { stdout } = await exec(tools['helm-unittest'], ['--strict', '--file', 'tests/*_test.yaml', CHART]).catch(
      ({ stdout }) => ({ stdout }),
    );
    const [, failed, passed] = /Tests: +(?:(\d+) failed, )?(\d+) passed/.exec(stdout) ?? [];
    console.log(`helm-unittest: ${passed} passed`);
    expect(stdout, stdout).not.toContain('FAIL');
    expect(failed).toBeUndefined();
    expect(Number(passed)).toBeGreaterThan(30);
  });

  it('has what is made of it up to date (else run: npm run generate:chart)', async () => {
    for (const [path, text] of Object.entries(await generateChart(tools)))
      expect(readFileSync(join(root, path), 'utf8'), path).toBe(text);
  });

  it('makes new Pods when its settings change, and only then', async () => {
    const template = async (...args: string[]): Promise<unknown> => {
      const objects = loadAll(await render(tools.helm, ...args)) as { kind?: string; spec: { template: unknown } }[];
      return objects.find(object => object?.kind === 'Deployment')?.spec.template;
    };
    const standard = await template();
    expect(standard).toBeDefined();
    for (const setting of ['probe.intervalSeconds=60', 'allowedImages={a}', 'rbac.readSecrets=true'])
      expect(await template('--set', setting), setting).not.toEqual(standard);
    for (const other of ['networkPolicy.enabled=false', 'metrics.service.enabled=true'])
      expect(await template('--set', other), other).toEqual(standard);
  });

  it('describes each of its values', () => {
    const page = readFileSync(join(CHART, 'README.md'), 'utf8');
    const rows = page.split('\n').filter(line => /^\| [\w.]+ \| /.test(line));
    expect(rows.length).toBeGreaterThan(50);
    expect(rows.filter(row => /\| +\|$/.test(row))).toEqual([]);
  });

  it('takes its version from the same place as the operator', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
    expect(load(readFileSync(join(CHART, 'Chart.yaml'), 'utf8'))).toMatchObject({ version, appVersion: version });
  });
});

/** Each value with a mistake that people make, and what Helm must name. */
const mistakes: [string, RegExp][] = [
  ['replica=2', /additional properties 'replica' not allowed/],
  ['image.tagg=1', /image.*additional properties 'tagg' not allowed/s],
  ['image.digest=sha256:123', /image\/digest.*does not match pattern/s],
  ['image.repository=has space', /image\/repository/],
  ['image.repository=registry.example.com/pco:0.1.0', /image\/repository.*does not match pattern/s],
  ['rbac.readSecret=true', /rbac.*additional properties 'readSecret' not allowed/s],
  ['rbac.readSecrets=ja', /rbac\/readSecrets.*got string, want boolean/s],
  ['replicas=two', /replicas.*got string, want integer/s],
  ['replicas=-1', /replicas.*minimum: got -1, want 0/s],
  ['workers=0', /workers.*minimum: got 0, want 1/s],
  ['logLevel=verbose', /logLevel.*value must be one of/s],
  ['watchNamespaces={Team A}', /watchNamespaces\/0.*does not match pattern/s],
  ['addressPolicy.allowCidr={10.0.0.0/8}', /addressPolicy.*additional properties 'allowCidr' not allowed/s],
  ['addressPolicy.allowCidrs={10.0.0.1}', /addressPolicy\/allowCidrs\/0.*does not match pattern/s],
  ['addressPolicy.allowHosts={https://x}', /addressPolicy\/allowHosts\/0.*does not match pattern/s],
  ['addressPolicy.ports={http}', /addressPolicy\/ports\/0/],
  ['addressPolicy.ports={0-80}', /addressPolicy\/ports\/0/],
  ['probe.intervalSeconds=5m', /probe\/intervalSeconds.*got string, want number/s],
  ['probe.interval=5', /probe.*additional properties 'interval' not allowed/s],
  ['probe.proxy=proxy:3128', /probe\/proxy.*does not match pattern/s],
  ['catalog.jira.prot=1', /catalog\/jira.*additional properties 'prot' not allowed/s],
  ['catalog.jira.port=http', /catalog\/jira\/port.*got string, want integer/s],
  ['catalog.jira.image=a:b', /catalog\/jira\/image.*does not match pattern/s],
  ['catalog.own.image=own', /catalog\/own.*missing property 'defaultVersion'/s],
  ['catalog.Own.image=own', /catalog.*additional properties 'Own' not allowed/s],
  ['metrics.serviceMonitor.interval=often', /metrics\/serviceMonitor\/interval.*does not match pattern/s],
  ['networkPolicy.apiServerPorts={}', /networkPolicy\/apiServerPorts/],
  ['runAsUser=0', /runAsUser.*minimum: got 0, want 1/s],
  ['runAsUser=root', /runAsUser.*got string, want integer/s],
  ['extraEnv[0].value=x', /extraEnv\/0.*missing property 'name'/s],
  ['fullnameOverride=No', /fullnameOverride.*does not match pattern/s],
  ['image=null', /missing property 'image'/],
  ['image.tag=null', /image.*missing property 'tag'/s],
  ['probe=null', /missing property 'probe'/],
];

describe('the schema of the values', () => {
  it.each(mistakes)('names what is wrong with %s', async (mistake, expected) => {
    expect(await faultOf('--set', mistake)).toMatch(expected);
  });

  it.each([
    'runAsUser=null',
    'catalog.jira=null',
    'catalog.jira.env.JIRA_SSL_VERIFY=no',
    'image.repository=localhost:5000/team/pco',
    'addressPolicy.ports={443}',
    'addressPolicy.ports={1-65535}',
    'addressPolicy.allowHosts={*.example.com,MCP.example.com}',
    'addressPolicy.allowCidrs={fd00::/8}',
    'probe.proxy=https://user:pw@[fd00::1]:3128',
    'global.anything=1',
  ])('takes %s', async value => {
    expect(await faultOf('--set', value)).toBeUndefined();
  });

  it('takes a file of nothing, and every default typed out', async () => {
    const empty = join(temporary, 'empty.yaml');
    writeFileSync(empty, '');
    expect(await faultOf('--values', empty)).toBeUndefined();
    expect(await faultOf('--values', join(CHART, 'values.yaml'))).toBeUndefined();
  });
});
