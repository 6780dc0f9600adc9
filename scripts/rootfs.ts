/**
 * `node scripts/rootfs.ts BASE TO`: makes the file system of the operator's image, for the Dockerfile. TO/runtime changes
 * with Node: it holds Node and the libraries that it needs, as they are in BASE, an unpacked image of Debian packages with
 * Node, which is only read, so that it may be of another architecture. TO/app is the operator.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { bundle } from './build.ts';
import { type Component, nodeComponent, notices, npmComponents, sourceDate, spdx } from './sbom.ts';

const root = dirname(import.meta.dirname);

/** Where Debian and what is made of it has libraries, by the machine that an ELF file is for; also what OCI calls it. */
const MACHINES: Record<number, { architecture: string; triplet: string }> = {
  62: { architecture: 'amd64', triplet: 'x86_64-linux-gnu' },
  183: { architecture: 'arm64', triplet: 'aarch64-linux-gnu' },
};

export interface Elf {
  machine: number;
  /** The program that loads it: programs that are linked dynamically have one, libraries need none. */
  interpreter?: string;
  /** Names of libraries. */
  needed: string[];
  /** What is behind it in the file is not there when it runs. */
  loadedBytes: number;
}

const LOAD = 1;
const DYNAMIC = 2;
const INTERPRETER = 3;
const NEEDED = 1n;
const STRING_TABLE = 5n;

/** Reads what a program or library needs to run. https://gabi.xinuos.com */
export function readElf(file: Buffer): Elf {
  const is64BitLittleEndian = file[4] === 2 && file[5] === 1;
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || !is64BitLittleEndian)
    throw new Error('not a 64-bit little-endian ELF file');
  const word = (at: number): number => Number(file.readBigUInt64LE(at));
  const text = (at: number): string => file.toString('latin1', at, file.indexOf(0, at));
  const segments = Array.from({ length: file.readUInt16LE(56) }, (_, index) => {
    const at = word(32) + index * file.readUInt16LE(54);
    return { type: file.readUInt32LE(at), offset: word(at + 8), address: word(at + 16), size: word(at + 32) };
  });
  const loads = segments.filter(({ type }) => type === LOAD);
  const offsetOf = (address: number): number => {
    const load = loads.find(one => address >= one.address && address < one.address + one.size);
    if (!load) throw new Error(`the address ${address} is in no segment of the ELF file`);
    return address - load.address + load.offset;
  };

  const dynamic = segments.find(({ type }) => type === DYNAMIC);
  const entries = Array.from({ length: (dynamic?.size ?? 0) / 16 }, (_, index) => {
    const at = (dynamic?.offset ?? 0) + index * 16;
    return { tag: file.readBigUInt64LE(at), value: word(at + 8) };
  });
  const strings = entries.find(({ tag }) => tag === STRING_TABLE);
  const names = entries.filter(({ tag }) => tag === NEEDED);
  const interpreter = segments.find(({ type }) => type === INTERPRETER);
  return {
    machine: file.readUInt16LE(18),
    ...(interpreter && { interpreter: text(interpreter.offset) }),
    needed: strings ? names.map(({ value }) => text(offsetOf(strings.value) + value)) : [],
    loadedBytes: Math.max(...loads.map(({ offset, size }) => offset + size)),
  };
}

/**
 * Without the sections that nothing loads, symbols and debug information: a fifth of Node, which every Pod with a bridge
 * copies. Node's own stack traces are the same without them, and the build id stays, by which a debugger takes the rest
 * from Node's release.
 */
export function strip(file: Buffer): Buffer {
  const stripped = Buffer.from(file.subarray(0, readElf(file).loadedBytes));
  // Where the section headers were, how many, and which of them has their names.
  stripped.writeBigUInt64LE(0n, 40);
  stripped.writeUInt32LE(0, 60);
  return stripped;
}

/** Where a path of BASE leads to, links followed as they would be there; undefined when nothing is there. */
function follow(base: string, path: string): string | undefined {
  let found = '/';
  const steps = path.split('/').filter(Boolean);
  for (let step = steps.shift(); step !== undefined; step = steps.shift()) {
    const next = join(found, step);
    const stat = lstatSync(join(base, next), { throwIfNoEntry: false });
    if (!stat) return undefined;
    if (!stat.isSymbolicLink()) {
      found = next;
      continue;
    }
    const target = readlinkSync(join(base, next));
    if (target.startsWith('/')) found = '/';
    steps.unshift(...target.split('/').filter(Boolean));
  }
  return found;
}

/** The first of the paths that is there. */
function find(base: string, what: string, paths: readonly string[]): string {
  for (const path of paths) {
    const found = follow(base, path);
    if (found !== undefined) return found;
  }
  throw new Error(
    `${base} has no ${what}: looked for ${paths.join(', ')}. Use a Debian image with Node, such as node:26-slim`,
  );
}

interface DebianPackage {
  name: string;
  version: string;
  /** As dpkg keeps it. */
  stanza: string;
  /** The packages made of the same source, itself among them: they have one licence. */
  kin: string[];
}

/** Which package of BASE brought a file. */
function createOwners(base: string): (path: string) => DebianPackage {
  const dpkg = join(base, 'var', 'lib', 'dpkg');
  // What dpkg calls /lib/… is at /usr/lib/… where /lib is a link.
  const plain = (path: string): string => path.replace(/^\/usr\//, '/');
  const owners = new Map<string, string>();
  const info = join(dpkg, 'info');
  for (const file of existsSync(info) ? readdirSync(info) : []) {
    if (!file.endsWith('.list')) continue;
    const name = file.replace(/(:[^:]+)?\.list$/, '');
    for (const path of readFileSync(join(info, file), 'utf8').split('\n')) owners.set(plain(path), name);
  }
  const status = owners.size === 0 ? '' : readFileSync(join(dpkg, 'status'), 'utf8');
  const packages = status.split('\n\n').map(stanza => {
    const field = (name: string): string => new RegExp(`^${name}: (\\S+)`, 'm').exec(stanza)?.[1] ?? '';
    const name = field('Package');
    return { name, version: field('Version'), source: field('Source') || name, stanza: stanza.trim() };
  });
  return path => {
    const name = owners.get(plain(path));
    const owner = packages.find(one => one.name === name);
    if (!owner) throw new Error(`${path} of ${base} is of no Debian package: nobody could tell its version or licence`);
    const { version, stanza, source } = owner;
    return {
      name: owner.name,
      version,
      stanza,
      kin: packages.filter(one => one.source === source).map(one => one.name),
    };
  };
}

/** Writes Node, its libraries, and what makes a file system of them. Gives what it took, for the SBOM. */
export function writeRuntime(base: string, to: string): Component[] {
  const put = (path: string, content: string | Buffer, mode = 0o644): void => {
    mkdirSync(dirname(join(to, path)), { recursive: true });
    writeFileSync(join(to, path), content, { mode });
  };
  const read = (path: string): Buffer => readFileSync(join(base, path));

  const nodePath = find(base, 'Node', ['/usr/local/bin/node', '/usr/bin/node']);
  const node = read(nodePath);
  // The SBOM, and whoever reads a stack trace, take the Node that builds for the one that runs.
  if (!node.includes(`node.js/${process.version}`))
    throw new Error(
      `${join(base, nodePath)} is not Node ${process.version}, which builds it: use images of one version`,
    );
  const { machine, interpreter, needed } = readElf(node);
  const target = MACHINES[machine];
  if (!target || !interpreter)
    throw new Error(`${join(base, nodePath)} is for the ELF machine ${machine}: amd64 and arm64 can be built`);
  put('usr/local/bin/node', strip(node), 0o755);
  put('usr/share/doc/node/LICENSE', read(find(base, 'licence of Node', [join(nodePath, '..', '..', 'LICENSE')])));

  const libraries = new Map([[basename(interpreter), find(base, 'loader', [interpreter])]]);
  for (const queue = [...needed]; queue.length > 0; ) {
    const name = queue.shift() ?? '';
    if (libraries.has(name)) continue;
    const places = ['/lib', '/usr/lib'].map(dir => `${dir}/${target.triplet}/${name}`);
    const path = find(base, name, places);
    libraries.set(name, path);
    queue.push(...readElf(read(path)).needed);
  }
  const ownerOf = createOwners(base);
  const owners = new Map<string, DebianPackage>();
  for (const [name, path] of libraries) {
    put(
      path === libraries.get(basename(interpreter)) ? interpreter : `lib/${target.triplet}/${name}`,
      read(path),
      0o755,
    );
    const owner = ownerOf(path);
    owners.set(owner.name, owner);
  }

  const osRelease = read(find(base, 'name of its distribution', ['/etc/os-release', '/usr/lib/os-release']));
  put('etc/os-release', osRelease);
  put('etc/passwd', 'nonroot:x:65532:65532:nonroot:/:/nonexistent\n');
  put('etc/group', 'nonroot:x:65532:\n');
  put('etc/nsswitch.conf', 'hosts: files dns\n');
  put('etc/ssl/certs/ca-certificates.crt', `${rootCertificates.join('\n')}\n`);
  const distribution = /^ID="?([^"\n]*)/m.exec(osRelease.toString())?.[1] ?? 'debian';
  const packages = [...owners.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return packages.map(({ name, version, stanza, kin }) => {
    // Where scanners look when there is no dpkg.
    put(`var/lib/dpkg/status.d/${name}`, `${stanza}\n`);
    const copyrightOf = (one: string): string => `/usr/share/doc/${one}/copyright`;
    const copyright = copyrightOf(name);
    // Slim images lack the links to the licence of another package that some packages have instead of their own.
    put(copyright, read(find(base, `licence of ${name}`, [name, ...kin].map(copyrightOf))));
    return {
      name,
      version,
      comment: `See ${copyright} in the image.`,
      purl: `pkg:deb/${distribution}/${name}@${encodeURIComponent(version)}?arch=${target.architecture}`,
      kind: 'runtime',
    };
  });
}

/** Writes the operator, its bridge, their licences, and the SBOM of all that is in the image. */
async function writeApp(to: string, runtime: readonly Component[]): Promise<void> {
  const { dir, packages } = await bundle();
  const app = join(to, 'app');
  const doc = join(to, 'usr', 'share', 'doc', 'personal-connector-operator');
  const sbom = join(to, 'usr', 'share', 'sbom');
  for (const folder of [app, doc, sbom]) mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(dir)) copyFileSync(join(dir, file), join(app, file));
  copyFileSync(join(root, 'LICENSE'), join(doc, 'LICENSE'));
  writeFileSync(join(doc, 'THIRD-PARTY-NOTICES'), notices(packages));
  const components = [...npmComponents(packages), nodeComponent(), ...runtime];
  writeFileSync(join(sbom, 'personal-connector-operator.spdx.json'), spdx(components, sourceDate()));
}

/**
 * Modes and times that depend neither on the builder's umask nor on its clock. The times are not $SOURCE_DATE_EPOCH: the
 * layer of Node is the same, and is pulled once, as long as Node is.
 */
function settle(dir: string): void {
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const isExecutable = entry.isDirectory() || (lstatSync(path).mode & 0o100) !== 0;
    chmodSync(path, isExecutable ? 0o755 : 0o644);
    utimesSync(path, 0, 0);
  }
}

if (import.meta.main) {
  const [base, to] = process.argv.slice(2);
  if (!base || !to) throw new Error('usage: node scripts/rootfs.ts BASE TO');
  const runtime = [join(to, 'runtime'), join(to, 'app')] as const;
  await writeApp(runtime[1], writeRuntime(base, runtime[0]));
  for (const dir of runtime) settle(dir);
}
