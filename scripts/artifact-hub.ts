/** The annotations of Chart.yaml that Artifact Hub reads: what the package holds, from where that is written. */
import { dump, load, loadAll } from 'js-yaml';

interface Sources {
  /** Text of Chart.yaml, of which what stands before its annotations is kept. */
  chart: string;
  changelog: string;
  crd: string;
  /** Texts of manifests that show how connectors are written. */
  samples: readonly string[];
  /** The image that the chart runs, without its tag. */
  repository: string;
}

/** Sections of CHANGELOG.md, and what Artifact Hub calls them. */
const KINDS = ['added', 'changed', 'deprecated', 'removed', 'fixed', 'security'];

/** The text of Chart.yaml. Throws when the changelog says nothing of the chart's version, nor of what is unreleased. */
export function chartYaml({ chart, changelog, crd, samples, repository }: Sources): string {
  const [head = ''] = chart.split(/^annotations:/m);
  const { version, appVersion } = load(head) as { version: string; appVersion: string };
  const { metadata, spec } = load(crd) as {
    metadata: { name: string };
    spec: {
      names: { kind: string };
      versions: { name: string; schema: { openAPIV3Schema: { description: string } } }[];
    };
  };
  const lists = {
    changes: changesOf(changelog, version),
    crds: spec.versions.map(({ name, schema }) => ({
      kind: spec.names.kind,
      version: name,
      name: metadata.name,
      displayName: 'Personal connector',
      description: schema.openAPIV3Schema.description,
    })),
    crdsExamples: samples.flatMap(text =>
      loadAll(text).filter(object => (object as { kind?: string } | null)?.kind === spec.names.kind),
    ),
    images: [{ name: 'operator', image: `${repository}:${appVersion}`, platforms: ['linux/amd64', 'linux/arm64'] }],
  };
  const annotations = {
    'artifacthub.io/category': 'ai-machine-learning',
    'artifacthub.io/license': 'Apache-2.0',
    'artifacthub.io/operator': 'true',
    'artifacthub.io/operatorCapabilities': 'Seamless Upgrades',
    ...Object.fromEntries(
      Object.entries(lists).map(([name, list]) => [`artifacthub.io/${name}`, dump(list, { lineWidth: 116 })]),
    ),
  };
  return `${head.trimEnd()}\nannotations:\n${block(annotations)}`;
}

/** Values of several lines as literal blocks, which people can read. */
function block(annotations: Record<string, string>): string {
  return Object.entries(annotations)
    .map(([name, value]) =>
      value.includes('\n')
        ? `  ${name}: |\n${value
            .trimEnd()
            .split('\n')
            .map(line => (line === '' ? '' : `    ${line}`))
            .join('\n')}\n`
        : `  ${name}: ${JSON.stringify(value)}\n`,
    )
    .join('');
}

/** What changed, in a list: of this version, or of what will be it. */
function changesOf(changelog: string, version: string): { kind: string; description: string }[] {
  const sections = changelog.split(/^## /m).slice(1);
  const section =
    sections.find(text => text.startsWith(`[${version}]`) || text.startsWith(version)) ??
    sections.find(text => text.startsWith('Unreleased'));
  if (section === undefined) throw new Error(`CHANGELOG.md says nothing of ${version}, nor of what is unreleased`);
  return section
    .split(/^### /m)
    .slice(1)
    .flatMap(part => {
      const [title = '', ...lines] = part.split('\n');
      const kind = title.trim().toLowerCase();
      if (!KINDS.includes(kind)) throw new Error(`CHANGELOG.md: "### ${title}" is none of ${KINDS.join(', ')}`);
      return lines
        .join('\n')
        .split(/^- /m)
        .slice(1)
        .map(text => ({ kind, description: text.replaceAll(/\s+/g, ' ').replaceAll('`', '').trim() }));
    });
}
