/**
 * `npm run generate:chart`: what is made of the chart by its own tools: the README (helm-docs), the install manifest and
 * the table of permissions (Helm). Apart from `npm run generate`, since these tools may have to be built first.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { loadAll } from 'js-yaml';
import { resolveBinaries } from '../test/cluster/binaries.ts';

const root = dirname(import.meta.dirname);
export const CHART = join(root, 'charts', 'personal-connector-operator');
/** Of the release, where nobody chose others. */
export const RELEASE = 'personal-connector-operator';
export const NAMESPACE = 'connectors-system';
const exec = promisify(execFile);

/** What the chart gives with these further arguments, such as `--set replicas=2`. */
export async function render(helm: string, ...args: string[]): Promise<string> {
  const { stdout } = await exec(helm, ['template', RELEASE, CHART, '--namespace', NAMESPACE, ...args], {
    maxBuffer: 64 * 1024 * 1024,
  });
  return stdout;
}

/** What `npm run generate:chart` writes, by path from the project's root: a test compares it with what is there. */
export async function generateChart(tools: Record<'helm' | 'helm-docs', string>): Promise<Record<string, string>> {
  const everything = await render(tools.helm, '--set', 'rbac.readSecrets=true,rbac.readConfigMaps=true');
  const standard = await render(tools.helm);
  return {
    'charts/personal-connector-operator/README.md': await chartPage(tools['helm-docs']),
    'manifests/install/install.yaml': installManifest(standard),
    'docs/permissions.md': permissionsPage(rulesIn(standard), rulesIn(everything)),
  };
}

/** helm-docs writes beside the chart that it reads: it gets a copy. */
async function chartPage(helmDocs: string): Promise<string> {
  const copy = mkdtempSync(join(tmpdir(), 'pco-chart-'));
  try {
    cpSync(CHART, copy, { recursive: true });
    await exec(helmDocs, ['--chart-search-root', copy, '--sort-values-order', 'file', '--log-level', 'error']);
    return readFileSync(join(copy, 'README.md'), 'utf8');
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

/** The rendered chart as a manifest of its own: with its namespace, and without what only a release of Helm needs. */
function installManifest(rendered: string): string {
  const lines = rendered
    .split('\n')
    .filter(line => !/^\s+(helm\.sh\/chart: |app\.kubernetes\.io\/managed-by: Helm$)|^# Source: /.test(line));
  return `# Generated from the chart by \`npm run generate:chart\`. Do not edit; manifests/overlay shows how to change it.
apiVersion: v1
kind: Namespace
metadata:
  name: ${NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
${lines.join('\n')}`;
}

interface Rule {
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
  verbs: string[];
}

interface Role {
  kind: string;
  metadata: { name: string };
  rules: Rule[];
}

function rulesIn(rendered: string): Record<'ClusterRole' | 'Role', Rule[]> {
  const objects = loadAll(rendered).filter((object): object is Role => object !== null);
  const of = (kind: string): Rule[] => objects.filter(object => object.kind === kind).flatMap(({ rules }) => rules);
  return { ClusterRole: of('ClusterRole'), Role: of('Role') };
}

/** Why each right is needed, by what it is on. */
const REASONS: Record<string, string> = {
  personalconnectors: 'what is wanted; never written',
  'personalconnectors/status': 'what was found, and nothing else of a connector',
  deployments:
    'hosted servers: made, kept as they should be, taken away. `get` is for one that a watch did not show yet',
  services: 'their addresses',
  networkpolicies: 'who may connect to them',
  poddisruptionbudgets: 'with two and more Pods',
  pods: 'why a hosted server does not run; only Pods with the label of a connector are looked at',
  events: 'what happened, on the connector',
  secrets:
    'values of `spec.probe.headers` and `caBundle`; new Pods when credentials change. Their metadata alone is watched',
  configmaps: 'the same for `caBundle` and environments from ConfigMaps',
  leases: 'which of several replicas works, and on what',
};

function permissionsPage(
  standard: Record<'ClusterRole' | 'Role', Rule[]>,
  everything: Record<'ClusterRole' | 'Role', Rule[]>,
): string {
  const always = new Set(standard.ClusterRole.map(rule => JSON.stringify(rule)));
  const asked = everything.ClusterRole.filter(rule => !always.has(JSON.stringify(rule)));
  const values: Record<string, string> = { secrets: '`rbac.readSecrets`', configmaps: '`rbac.readConfigMaps`' };
  const rows = (rules: Rule[], when: (rule: Rule) => string): string[] =>
    rules.map(rule => {
      const { apiGroups, resources, resourceNames, verbs } = rule;
      const why = resources.map(resource => REASONS[resource] ?? 'unknown').join('; ');
      const named = resourceNames ? ` named ${series(resourceNames)}` : '';
      const group = apiGroups.map(name => (name === '' ? 'core' : name)).join(', ');
      return `| ${resources.map(resource => `\`${resource}\``).join(', ')}${named} | ${group} | ${verbs.join(', ')} | ${when(rule)} | ${why} |`;
    });
  const head = ['| on | API group | verbs | given | why |', '| --- | --- | --- | --- | --- |'];
  return [
    '<!-- Generated from the chart by `npm run generate:chart`. Do not edit. -->',
    '# Permissions',
    'What the chart lets the operator do. Nothing more is needed, and nothing is granted by wildcard.',
    '## Where it looks after connectors',
    'A ClusterRole; with `watchNamespaces` a Role in each of these namespaces and no ClusterRole at all.',
    [
      ...head,
      ...rows(standard.ClusterRole, () => 'always'),
      ...rows(asked, ({ resources }) => resources.map(resource => values[resource] ?? 'unknown').join()),
    ].join('\n'),
    '## In its own namespace',
    [...head, ...rows(standard.Role, () => 'always')].join('\n'),
    [
      'It has no right to read logs, to read Secrets unasked, to write connectors, or to grant rights. But Deployments are Pods',
      'at one remove: who takes the operator over can run Pods, with any Secret and ServiceAccount there, wherever it looks',
      'after connectors. Guard its namespace accordingly; `watchNamespaces` draws the line closer.',
    ].join('\n'),
    [
      'Who may make connectors in a namespace may have the images of the catalog, and those that `allowedImages` names, run',
      'there with the Secrets of that namespace: as who may make Pods there can.',
    ].join('\n'),
    `${standard.ClusterRole.length} rules always, ${asked.length} more on request, ${standard.Role.length} for the Leases.`,
    '',
  ].join('\n\n');
}

/** Names for a reader: of many that are counted up, the first ones and the last. */
function series(names: string[]): string {
  const quoted = names.map(name => `\`${name}\``);
  return quoted.length > 3 ? `${quoted.slice(0, 2).join(', ')} to ${quoted.at(-1)}` : quoted.join(', ');
}

if (import.meta.main) {
  const { signal } = new AbortController();
  const tools = await resolveBinaries(['helm', 'helm-docs'], { signal, progress: line => console.error(line) });
  for (const [path, text] of Object.entries(await generateChart(tools))) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`wrote ${path}`);
  }
}
