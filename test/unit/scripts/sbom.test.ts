import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Bundle, bundle } from '../../../scripts/build.ts';
import { nodeComponent, notices, npmComponents, sourceDate, spdx } from '../../../scripts/sbom.ts';

const root = join(import.meta.dirname, '..', '..', '..');
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
  packages: Record<string, { version: string; license: string; integrity: string; dev?: true }>;
};

interface Document {
  documentNamespace: string;
  creationInfo: { created: string };
  packages: {
    name: string;
    SPDXID: string;
    versionInfo: string;
    licenseDeclared: string;
    checksums?: { algorithm: string; checksumValue: string }[];
    externalRefs?: { referenceType: string; referenceLocator: string }[];
  }[];
  relationships: { spdxElementId: string; relationshipType: string; relatedSpdxElement: string }[];
}

let built: Bundle;
let readable: Bundle;
let text: string;
let document: Document;

beforeAll(async () => {
  built = await bundle(mkdtempSync(join(tmpdir(), 'pco-bundle-')));
  readable = await bundle(mkdtempSync(join(tmpdir(), 'pco-bundle-')), { readable: true });
  text = spdx([...npmComponents(built.packages), nodeComponent()], new Date(0));
  document = JSON.parse(text) as Document;
}, 60_000);

afterAll(() => {
  for (const { dir } of [built, readable]) rmSync(dir, { recursive: true, force: true });
});

describe('the SBOM', () => {
  it('lists each package whose code is in the bundle, and nothing else', () => {
    // Independent of the build's own list: a readable bundle names the source of every piece of it in a comment.
    const bundled = ['operator.mjs', 'bridge.mjs'].flatMap(file =>
      [...readFileSync(join(readable.dir, file), 'utf8').matchAll(/^\/\/ (node_modules\/.+)\/[^/\n]+$/gm)].map(
        ([, path = '']) => /^(?:.*\/)?node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(`${path}/`)?.[1],
      ),
    );
    const listed = document.packages.map(({ name }) => name);
    expect(bundled.length).toBeGreaterThan(100);
    expect(new Set(listed)).toEqual(new Set([...bundled, 'node', 'personal-connector-operator']));
  });

  it('has the version, licence and checksum of each from the lock file', () => {
    for (const path of built.packages) {
      const name = path.replace(/^.*node_modules\//, '');
      const { version, license, integrity } = lock.packages[path] ?? {};
      const listed = document.packages.find(one => one.name === name && one.versionInfo === version);
      expect(listed?.licenseDeclared, name).toBe(license);
      expect(listed?.checksums, name).toEqual([
        { algorithm: 'SHA512', checksumValue: Buffer.from(integrity?.slice(7) ?? '', 'base64').toString('hex') },
      ]);
      expect(listed?.externalRefs?.[0]?.referenceLocator, name).toBe(`pkg:npm/${name.replace('@', '%40')}@${version}`);
    }
  });

  it('lists no package that only developers need', () => {
    expect(built.packages.filter(path => lock.packages[path]?.dev)).toEqual([]);
  });

  it('names the Node that it was made for', () => {
    const node = document.packages.find(({ name }) => name === 'node');
    expect(node?.versionInfo).toBe(process.versions.node);
    expect(node?.externalRefs?.map(({ referenceType }) => referenceType)).toEqual(['purl', 'cpe23Type']);
  });

  it('relates everything to the operator, by ids that are unique and allowed', () => {
    const ids = document.packages.map(({ SPDXID }) => SPDXID);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^SPDXRef-[A-Za-z0-9.-]+$/);
    const related = document.relationships.map(({ relatedSpdxElement }) => relatedSpdxElement);
    expect(related.toSorted()).toEqual(ids.toSorted());
  });

  it('is the same text every time, and has another name when it says something else', () => {
    const components = [...npmComponents(built.packages), nodeComponent()];
    expect(spdx(components, new Date(0))).toBe(text);
    const other = JSON.parse(spdx(components.slice(1), new Date(0))) as Document;
    expect(other.documentNamespace).not.toBe(document.documentNamespace);
  });
});

describe('a package in the bundle', () => {
  const entry = { version: '1.0.0', integrity: 'sha512-AAAA' };

  it.each(['GPL-3.0', 'MPL-2.0', 'UNLICENSED', undefined])('fails the build under the licence %s', license => {
    const made = { 'node_modules/x': { ...entry, ...(license && { license }) } };
    expect(() => npmComponents(['node_modules/x'], made)).toThrow(`x 1.0.0 is in the bundle under the licence`);
  });

  it('fails the build when the lock file does not know it', () => {
    expect(() => npmComponents(['node_modules/x'], {})).toThrow(
      'node_modules/x is in the bundle, but package-lock.json',
    );
  });

  it('is called by its own name when it is within another', () => {
    const made = { 'node_modules/x/node_modules/@y/z': { ...entry, license: 'MIT' } };
    expect(npmComponents(Object.keys(made), made)).toMatchObject([{ name: '@y/z', purl: 'pkg:npm/%40y/z@1.0.0' }]);
  });
});

describe('the notices', () => {
  it('have the licence text of each package that has one', () => {
    const written = notices(built.packages);
    for (const { name, version } of npmComponents(built.packages)) expect(written).toContain(`${name} ${version} (`);
    // Of 45 packages, one is in the public domain and has none.
    const texts = written.match(
      /Permission (is hereby granted|to use)|Apache License\s+Version 2\.0|Redistribution and use/g,
    );
    expect(texts?.length).toBeGreaterThanOrEqual(built.packages.length - 1);
  });
});

describe('SOURCE_DATE_EPOCH', () => {
  it('is what the SBOM says when it was made, and must be a number', ({ onTestFinished }) => {
    const before = process.env.SOURCE_DATE_EPOCH;
    onTestFinished(() => {
      if (before === undefined) delete process.env.SOURCE_DATE_EPOCH;
      else process.env.SOURCE_DATE_EPOCH = before;
    });
    process.env.SOURCE_DATE_EPOCH = '1700000000';
    const { creationInfo } = JSON.parse(spdx([], sourceDate())) as Document;
    expect(creationInfo.created).toBe('2023-11-14T22:13:20Z');
    process.env.SOURCE_DATE_EPOCH = 'yesterday';
    expect(sourceDate).toThrow('SOURCE_DATE_EPOCH is "yesterday"');
  });
});

it('has the version and the description of package.json on the image', () => {
  const { version, description } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<
    string,
    string
  >;
  const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8');
  expect(dockerfile).toContain(`ARG VERSION=${version}\n`);
  expect(dockerfile).toContain(`org.opencontainers.image.description="${description}"`);
});
