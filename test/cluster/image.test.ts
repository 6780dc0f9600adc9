import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };
import { readElf } from '../../scripts/rootfs.ts';
import { BRIDGE_COMMAND, BRIDGE_DIR, INJECT_COMMAND } from '../../src/bridge/layout.ts';
import { type Architecture, exportImage, OWN_ARCHITECTURE } from './images.ts';
import { operatorSource } from './operator-image.ts';
import { ensurePackages } from './packages.ts';
import { run } from './process.ts';

const canBuild = process.platform === 'linux' && process.getuid?.() === 0;
// The first build on a machine makes the base images and fills npm's cache.
const BUILD_MS = 20 * 60_000;
const MOST_COMPRESSED_MB = 50;

const TARGETS = {
  amd64: {
    machine: 62,
    triplet: 'x86_64-linux-gnu',
    loader: 'lib64/ld-linux-x86-64.so.2',
    emulator: 'qemu-x86_64-static',
  },
  arm64: {
    machine: 183,
    triplet: 'aarch64-linux-gnu',
    loader: 'lib/ld-linux-aarch64.so.1',
    emulator: 'qemu-aarch64-static',
  },
} satisfies Record<Architecture, object>;

interface Entry {
  path: string;
  mode: string;
  owner: string;
  time: string;
}

interface Built {
  digest: string;
  compressedMb: number;
  config: { architecture: string; os: string; created: string; config: Record<string, unknown> };
  /** As the layers have them. */
  entries: Entry[];
  /** Where the layers are unpacked. */
  root: string;
}

let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'pco-image-test-'));
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function build(name: string, architecture: Architecture): Promise<Built> {
  const archive = join(dir, `${name}.tar`);
  using source = operatorSource(architecture);
  const progress = (line: string): void => console.log(line);
  await exportImage(source, archive, { signal: AbortSignal.timeout(BUILD_MS), progress });

  const layout = join(dir, name);
  const root = join(layout, 'root');
  mkdirSync(root, { recursive: true });
  await run('tar', ['-xf', archive, '-C', layout]);
  const blob = (digest: string): string => join(layout, 'blobs', ...digest.split(':'));
  const json = (file: string): unknown => JSON.parse(readFileSync(file, 'utf8'));
  const index = json(join(layout, 'index.json')) as { manifests: [{ digest: string }] };
  const [{ digest }] = index.manifests;
  const manifest = json(blob(digest)) as { config: { digest: string }; layers: { digest: string; size: number }[] };
  const entries: Entry[] = [];
  for (const layer of manifest.layers) {
    const list = await run('tar', ['-tvzf', blob(layer.digest), '--numeric-owner', '--full-time'], {
      env: { ...process.env, TZ: 'UTC' },
    });
    for (const line of list.trim().split('\n')) {
      const [mode = '', owner = '', , date = '', clock = '', ...path] = line.split(/ +/);
      entries.push({ path: path.join(' '), mode, owner, time: `${date} ${clock}` });
    }
    await run('tar', ['-xzpf', blob(layer.digest), '-C', root]);
  }
  return {
    digest,
    compressedMb: manifest.layers.reduce((sum, { size }) => sum + size, 0) / 1e6,
    config: json(blob(manifest.config.digest)) as Built['config'],
    entries,
    root,
  };
}

/**
 * The command in a root that it cannot write to, as nobody, with nothing but what the image sets and any container has;
 * and with an emulator, where this machine is of another architecture.
 */
async function runIn(
  root: string,
  architecture: Architecture,
  [program = '', ...args]: readonly string[],
  writable?: { from: string; at: string },
): Promise<string> {
  const emulated = architecture !== OWN_ARCHITECTURE;
  const mounts = { '/proc': '/proc', ...(writable && { [writable.at]: writable.from }) };
  const script = [
    'mount --bind "$ROOT" "$ROOT"',
    ...Object.entries(mounts).map(([at, from]) => `mkdir -p "$ROOT${at}" && mount --bind "${from}" "$ROOT${at}"`),
    ...(emulated
      ? [`touch "$ROOT/emulator" && mount --bind /usr/bin/${TARGETS[architecture].emulator} "$ROOT/emulator"`]
      : []),
    'mount -o remount,ro,bind "$ROOT"',
    'exec chroot --userspec=65532:65532 "$ROOT" "$@"',
  ].join(' && ');
  const command = emulated ? ['/emulator', program === 'node' ? '/usr/local/bin/node' : program] : [program];
  return await run('unshare', ['--mount', 'sh', '-c', script, 'sh', ...command, ...args], {
    env: { PATH: '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', ROOT: root },
  });
}

function regularFiles(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name));
}

describe.runIf(canBuild).each(['amd64', 'arm64'] as const)('the image for %s', architecture => {
  const target = TARGETS[architecture];
  let built: Built;

  beforeAll(async () => {
    if (architecture !== OWN_ARCHITECTURE)
      await ensurePackages(['qemu-user-static'], { signal: AbortSignal.timeout(BUILD_MS), progress: console.log });
    built = await build(architecture, architecture);
    console.log(`the image for ${architecture}: ${built.compressedMb.toFixed(1)} MB compressed, ${built.digest}`);
  }, BUILD_MS);

  it('tells what it is, and runs as nobody', () => {
    expect(built.config).toMatchObject({ architecture, os: 'linux', created: '1970-01-01T00:00:00Z' });
    expect(built.config.config).toEqual({
      User: '65532:65532',
      ExposedPorts: { '8080/tcp': {} },
      Env: ['PATH=/usr/local/bin', 'NODE_ENV=production', 'SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt'],
      Entrypoint: ['node', '--max-semi-space-size=4', '--max-old-space-size-percentage=60', '/app/operator.mjs'],
      Labels: {
        'org.opencontainers.image.title': packageJson.name,
        'org.opencontainers.image.description': packageJson.description,
        'org.opencontainers.image.url': packageJson.homepage,
        'org.opencontainers.image.licenses': packageJson.license,
        'org.opencontainers.image.version': packageJson.version,
        'org.opencontainers.image.revision': 'unknown',
        'org.opencontainers.image.created': '1970-01-01T00:00:00Z',
      },
    });
  });

  it('has Node, its libraries and two files: no shell, no npm, nothing else', () => {
    const files = built.entries.filter(({ mode }) => !mode.startsWith('d')).map(({ path }) => path);
    const libraries = `lib/${target.triplet}/`;
    expect(files.filter(path => !path.startsWith(libraries)).toSorted()).toEqual(
      [
        'app/bridge.mjs',
        'app/operator.mjs',
        'app/operator.mjs.LEGAL.txt',
        'etc/group',
        'etc/nsswitch.conf',
        'etc/os-release',
        'etc/passwd',
        'etc/ssl/certs/ca-certificates.crt',
        target.loader,
        'usr/local/bin/node',
        'usr/share/doc/libatomic1/copyright',
        'usr/share/doc/libc6/copyright',
        'usr/share/doc/libgcc-s1/copyright',
        'usr/share/doc/libstdc++6/copyright',
        'usr/share/doc/node/LICENSE',
        'usr/share/doc/personal-connector-operator/LICENSE',
        'usr/share/doc/personal-connector-operator/THIRD-PARTY-NOTICES',
        'usr/share/sbom/personal-connector-operator.spdx.json',
        'var/lib/dpkg/status.d/libatomic1',
        'var/lib/dpkg/status.d/libc6',
        'var/lib/dpkg/status.d/libgcc-s1',
        'var/lib/dpkg/status.d/libstdc++6',
      ].toSorted(),
    );
    const names = files.filter(path => path.startsWith(libraries)).map(path => path.slice(libraries.length));
    expect(names.filter(name => !/^lib[a-z_+]+\.so\.\d+$/.test(name))).toEqual([]);
  });

  it('belongs to root, can be changed by nobody else, and has nothing setuid, linked or dated', () => {
    const plain = built.entries.map(({ mode, owner, time }) => `${mode} ${owner} ${time}`);
    expect([...new Set(plain)].toSorted()).toEqual([
      '-rw-r--r-- 0/0 1970-01-01 00:00:00',
      '-rwxr-xr-x 0/0 1970-01-01 00:00:00',
      'drwxr-xr-x 0/0 1970-01-01 00:00:00',
    ]);
  });

  it('has every library that Node and the libraries need, for its machine', () => {
    const elves = regularFiles(built.root).filter(path => (statSync(path).mode & 0o100) !== 0);
    const found = new Set(elves.map(path => basename(path)));
    expect(found.size).toBeGreaterThan(5);
    for (const path of elves) {
      const { machine, needed, interpreter } = readElf(readFileSync(path));
      expect(machine, path).toBe(target.machine);
      expect(
        needed.filter(name => !found.has(name)),
        path,
      ).toEqual([]);
      if (basename(path) === 'node') expect(interpreter).toBe(`/${target.loader}`);
    }
  });

  it('lists in its SBOM the packages that its libraries are of, and its Node', () => {
    const path = join(built.root, 'usr/share/sbom/personal-connector-operator.spdx.json');
    const { packages } = JSON.parse(readFileSync(path, 'utf8')) as {
      packages: { versionInfo: string; externalRefs?: [{ referenceLocator: string }] }[];
    };
    const purls = packages.flatMap(({ externalRefs }) => externalRefs?.[0].referenceLocator ?? []);
    const debian = purls.filter(purl => purl.startsWith('pkg:deb/'));
    for (const name of readdirSync(join(built.root, 'var/lib/dpkg/status.d'))) {
      const stanza = readFileSync(join(built.root, 'var/lib/dpkg/status.d', name), 'utf8');
      const version = encodeURIComponent(/^Version: (.*)$/m.exec(stanza)?.[1] ?? '');
      expect(debian.filter(purl => purl.includes(`/${name}@${version}?arch=${architecture}`))).toHaveLength(1);
    }
    const [node] = purls.filter(purl => purl.startsWith('pkg:generic/node@'));
    const version = node?.split('@')[1];
    expect(readFileSync(join(built.root, 'usr/local/bin/node')).includes(`node.js/v${version}`)).toBe(true);
    expect(purls.filter(purl => purl.startsWith('pkg:npm/')).length).toBe(purls.length - debian.length - 1);
  });

  it(`takes less than ${MOST_COMPRESSED_MB} MB compressed`, () => {
    expect(built.compressedMb).toBeLessThan(MOST_COMPRESSED_MB);
  });

  it('runs as nobody in a root that cannot be written to', async () => {
    const help = await runIn(built.root, architecture, ['node', '/app/operator.mjs', '--help']);
    expect(help).toMatch(/^personal-connector-operator \[options\]/);
    // It ends with 1: the server cannot be used.
    const probe = runIn(built.root, architecture, [
      'node',
      '/app/operator.mjs',
      'probe',
      '--json',
      'http://127.0.0.1:8080/mcp',
    ]);
    await expect(probe).rejects.toThrow('"reason": "AddressDenied"');
    expect(await runIn(built.root, architecture, ['node', '-p', 'process.getuid()'])).toBe('65532\n');
    await expect(runIn(built.root, architecture, ['node', '-e', 'fs.writeFileSync("/x", "")'])).rejects.toThrow(
      'EROFS',
    );
  });

  it('has the bridge that runs where there is nothing else', async () => {
    const bridge = join(dir, `bridge-${architecture}`);
    mkdirSync(bridge);
    // As an emptyDir is for a Pod that sets no fsGroup.
    await run('chmod', ['0777', bridge]);
    await runIn(built.root, architecture, INJECT_COMMAND, { from: bridge, at: BRIDGE_DIR });
    const empty = join(dir, `empty-${architecture}`);
    mkdirSync(empty);
    const [loader, ...args] = BRIDGE_COMMAND;
    const command = [loader, ...args.slice(0, -1), '-p', 'process.version'];
    expect(await runIn(empty, architecture, command, { from: bridge, at: BRIDGE_DIR })).toBe(`${process.version}\n`);
    const injected = readFileSync(join(bridge, 'bridge.mjs'));
    expect(injected.equals(readFileSync(join(built.root, 'app/bridge.mjs')))).toBe(true);
  });

  it(
    'has one digest, however often it is built',
    async () => {
      const again = await build(`${architecture}-again`, architecture);
      expect(again.digest).toBe(built.digest);
    },
    BUILD_MS,
  );
});
