/**
 * `npm run sbom`: says what the operator is made of, as SPDX, and under which terms. What is in the bundle decides, not
 * what is installed; the lock file knows versions, licences and checksums.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { bundle } from './build.ts';

const root = dirname(import.meta.dirname);
const project = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<
  'name' | 'version' | 'homepage' | 'license',
  string
>;

/** Something that the operator contains or runs on. */
export interface Component {
  name: string;
  version: string;
  /** An SPDX expression; absent: what `comment` says of it. */
  license?: string;
  comment?: string;
  /** https://github.com/package-url/purl-spec */
  purl: string;
  cpe?: string;
  /** Of the package as it is published. */
  sha512?: string;
  kind: 'bundled' | 'runtime';
}

/** Licences whose code may be in a program under Apache-2.0 with no terms beyond a notice. */
const COMPATIBLE = new Set(['0BSD', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'MIT', 'Unlicense']);

interface LockEntry {
  version?: string;
  license?: string;
  integrity?: string;
}

/** The packages of the bundle. Throws when the lock file does not know one, or its licence is not one of those that we take. */
export function npmComponents(packages: readonly string[], lock: Record<string, LockEntry> = readLock()): Component[] {
  return packages.map(path => {
    const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
    const { version, license, integrity } = lock[path] ?? {};
    if (!version || !integrity)
      throw new Error(`${path} is in the bundle, but package-lock.json has no version and integrity for it: npm ci`);
    if (!license || !COMPATIBLE.has(license)) {
      throw new Error(
        `${name} ${version} is in the bundle under the licence ${license ?? '(none)'}: do without it, or, if its terms ` +
          'are compatible with Apache-2.0, add it to COMPATIBLE in scripts/sbom.ts',
      );
    }
    const [algorithm, base64 = ''] = integrity.split('-');
    if (algorithm !== 'sha512') throw new Error(`${path}: its integrity in package-lock.json is not a sha512`);
    return {
      name,
      version,
      license,
      purl: `pkg:npm/${name.replace('@', '%40')}@${encodeURIComponent(version)}`,
      sha512: Buffer.from(base64, 'base64').toString('hex'),
      kind: 'bundled',
    };
  });
}

function readLock(): Record<string, LockEntry> {
  return (JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, LockEntry> })
    .packages;
}

/** The Node that runs us: image builds see to it that it is the version of the image as well. */
export function nodeComponent(): Component {
  const version = process.version.slice(1);
  return {
    name: 'node',
    version,
    license: 'MIT',
    comment: 'What it contains itself, such as V8 and OpenSSL, is listed in its own licence file.',
    purl: `pkg:generic/node@${version}`,
    cpe: `cpe:2.3:a:nodejs:node.js:${version}:*:*:*:*:*:*:*`,
    kind: 'runtime',
  };
}

/** When what is built says it was made: $SOURCE_DATE_EPOCH, or the beginning of time. */
export function sourceDate(): Date {
  const epoch = process.env.SOURCE_DATE_EPOCH || '0';
  if (!/^\d+$/.test(epoch)) throw new Error(`SOURCE_DATE_EPOCH is ${JSON.stringify(epoch)}: give seconds since 1970`);
  return new Date(Number(epoch) * 1000);
}

/** The SPDX 2.3 document: the same text for the same components and date. */
export function spdx(components: readonly Component[], created: Date): string {
  const self = {
    name: project.name,
    SPDXID: 'SPDXRef-operator',
    versionInfo: project.version,
    downloadLocation: 'NOASSERTION',
    homepage: project.homepage,
    filesAnalyzed: false,
    licenseConcluded: project.license,
    licenseDeclared: project.license,
    copyrightText: 'NOASSERTION',
    primaryPackagePurpose: 'APPLICATION',
  };
  const packages = components.map(({ name, version, license = 'NOASSERTION', comment, purl, cpe, sha512 }) => ({
    name,
    SPDXID: idOf(purl),
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    ...(sha512 && { checksums: [{ algorithm: 'SHA512', checksumValue: sha512 }] }),
    licenseConcluded: license,
    licenseDeclared: license,
    ...(comment && { licenseComments: comment }),
    copyrightText: 'NOASSERTION',
    externalRefs: [
      { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl },
      ...(cpe ? [{ referenceCategory: 'SECURITY', referenceType: 'cpe23Type', referenceLocator: cpe }] : []),
    ],
  }));
  const relationships = [
    { spdxElementId: 'SPDXRef-DOCUMENT', relationshipType: 'DESCRIBES', relatedSpdxElement: self.SPDXID },
    ...components.map(({ purl, kind }) => ({
      spdxElementId: self.SPDXID,
      relationshipType: kind === 'bundled' ? 'CONTAINS' : 'DEPENDS_ON',
      relatedSpdxElement: idOf(purl),
    })),
  ];
  const body = { packages: [self, ...packages], relationships };
  // Two documents that differ must not have one name.
  const digest = createHash('sha256')
    .update(JSON.stringify([body, created]))
    .digest('hex');
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${project.name}-${project.version}`,
    documentNamespace: `${project.homepage}/spdx/${project.name}-${project.version}-${digest.slice(0, 32)}`,
    creationInfo: {
      created: created.toISOString().replace('.000Z', 'Z'),
      creators: [`Tool: ${project.name}-sbom-${project.version}`],
    },
    ...body,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** An SPDX id may have letters, digits, dots and dashes. */
function idOf(purl: string): string {
  return `SPDXRef-${purl
    .replace(/^pkg:|\?.*$/g, '')
    .replace(/%40/g, '')
    .replace(/[^A-Za-z0-9.]+/g, '-')}`;
}

/** The licence texts of the packages in the bundle: most of them ask to be passed on with the code. */
export function notices(packages: readonly string[]): string {
  const texts = npmComponents(packages).map(({ name, version, license }, index) => {
    const dir = join(root, packages[index] ?? '');
    const files = readdirSync(dir).filter(file => /^(licen[cs]e|notice|copying)/i.test(file));
    const texts = files.sort().map(file => readFileSync(join(dir, file), 'utf8').trim());
    return [`${name} ${version} (${license})`, ...texts].join('\n\n');
  });
  const head = `${project.name} contains code of these packages.`;
  return `${[head, ...texts].join(`\n\n${'-'.repeat(80)}\n\n`)}\n`;
}

if (import.meta.main) {
  const { dir, packages } = await bundle();
  const components = [...npmComponents(packages), nodeComponent()];
  const files = { 'sbom.spdx.json': spdx(components, sourceDate()), 'THIRD-PARTY-NOTICES': notices(packages) };
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(dir, name), text);
    console.log(`wrote ${join(dir, name)}`);
  }
}
