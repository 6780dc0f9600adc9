// Container images without a registry: bases from the distribution's packages, Dockerfiles built by buildah over them,
// archives in the cache. Linux with apt-get, root.
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheDir, type Progress } from './binaries.ts';
import { lock } from './lock.ts';
import { ensurePackages } from './packages.ts';
import { run } from './process.ts';

export interface BuildOptions {
  signal: AbortSignal;
  progress: Progress;
}

export interface Image {
  /** What a Pod names, with imagePullPolicy IfNotPresent or Never. */
  image: string;
  /** For Node.loadImage(): a docker archive, its layers uncompressed. */
  archive: string;
}

export interface ImageSource {
  /** Letters, digits, dashes. */
  name: string;
  /** The Dockerfile's path. */
  dockerfile: string;
  /** A folder; every file in it, but `.git` and `node_modules`, counts for whether the image must be built again. */
  context: string;
  buildArgs?: Record<string, string>;
  /** Build argument → the base image that it names. */
  bases?: Record<string, BaseName>;
}

const REPOSITORY = 'localhost/personal-connector-operator';

interface Base {
  /** Debian packages; what they depend on comes with them. */
  packages: readonly string[];
  node?: true;
  python?: true;
  /** For build stages: a shell, and npm when there is Node. */
  builds?: true;
}

/**
 * What a Dockerfile's FROM may name. `node`: Node 26 at /usr/bin/node and what it links to. `python`: the
 * distribution's python3. Neither has a shell; their `-build` siblings have one (busybox), and npm or venv with pip.
 */
const bases = {
  pause: { packages: ['busybox-static'] },
  node: { packages: ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1', 'ca-certificates'], node: true },
  'node-build': {
    packages: ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1', 'ca-certificates', 'busybox-static'],
    node: true,
    builds: true,
  },
  python: { packages: ['python3', 'ca-certificates'], python: true },
  'python-build': { packages: ['python3', 'python3-venv', 'ca-certificates', 'busybox-static'], builds: true },
} satisfies Record<string, Base>;

export type BaseName = keyof typeof bases;

/** Builds an image unless the cache has it for the same Dockerfile, context, arguments and bases. */
export async function buildImage(source: ImageSource, options: BuildOptions): Promise<Image> {
  const { name, dockerfile, context } = source;
  const baseArgs = Object.entries(source.bases ?? {}).map(([arg, base]) => [arg, baseReference(base)]);
  const buildArgs = { ...source.buildArgs, ...Object.fromEntries(baseArgs) };
  const key = hash([readFileSync(dockerfile), JSON.stringify(buildArgs), ...contents(context)]);
  const image = `${REPOSITORY}/${name}:${key}`;
  const archive = join(cacheDir(), 'images', `${name}@${key}.tar`);
  if (existsSync(archive)) return { image, archive };

  await ensurePackages(['buildah', 'ca-certificates'], options);
  using _ = await lock(join(storage(), 'lock'), options.signal, () => {
    options.progress('another process is building images…');
  });
  if (existsSync(archive)) return { image, archive };
  using temporary = temporaryDir();
  for (const base of new Set(Object.values(source.bases ?? {}))) await makeBase(base, temporary.path, options);

  const started = Date.now();
  options.progress(`building the image ${name}…`);
  const args = [
    ...(await registryMounts(source, temporary.path, options)),
    ...Object.entries(buildArgs).flatMap(([arg, value]) => ['--build-arg', `${arg}=${value}`]),
  ];
  await build([...args, '-t', image, '-f', dockerfile, context], temporary.path, options);
  const made = join(temporary.path, 'image.tar');
  // Not oci-archive: buildah compresses its layers whatever it is told, which costs time here and again in the node.
  await buildah(['push', image, `docker-archive:${made}:${image}`], temporary.path, options);
  await buildah(['rmi', image], temporary.path, options);
  mkdirSync(dirname(archive), { recursive: true });
  for (const other of readdirSync(dirname(archive))) {
    if (other.startsWith(`${name}@`)) rmSync(join(dirname(archive), other));
  }
  renameSync(made, archive);
  options.progress(`built the image ${name} in ${Math.round((Date.now() - started) / 1_000)} s`);
  return { image, archive };
}

/** What containerd runs as the first container of every Pod: it only has to wait. */
export async function pauseImage(options: BuildOptions): Promise<Image> {
  const context = join(dirname(fileURLToPath(import.meta.url)), 'images', 'pause');
  return await buildImage(
    { name: 'pause', dockerfile: join(context, 'Dockerfile'), context, bases: { BASE: 'pause' } },
    options,
  );
}

// Change it when what is done with a base's packages changes.
const RECIPE = 3;

function baseReference(name: BaseName): string {
  const base: Base = bases[name];
  const node = base.node ? process.version : '';
  return `${REPOSITORY}/base-${name}:${hash([JSON.stringify([RECIPE, base, node]), readFileSync('/etc/os-release')])}`;
}

const COMPILE = `
import compileall, py_compile, sysconfig
how = py_compile.PycInvalidationMode.UNCHECKED_HASH
compileall.compile_dir(sysconfig.get_path("stdlib"), quiet=1, invalidation_mode=how)
`;

async function makeBase(name: BaseName, temporary: string, options: BuildOptions): Promise<void> {
  const image = baseReference(name);
  const found = await buildah(['images', '--quiet', '--filter', `reference=${image}`], temporary, options);
  if (found.trim() !== '') return;
  options.progress(`making the base image ${name}…`);
  const context = join(temporary, `base-${name}`);
  const root = join(context, 'root');
  mkdirSync(root, { recursive: true });
  const base: Base = bases[name];
  await unpack(base.packages, root, context, options);
  finish(root, base);
  // Debian compiles its Python when it is installed.
  if (base.python) await run('chroot', [root, '/usr/bin/python3', '-c', COMPILE], options);
  const dockerfile = join(context, 'Dockerfile');
  writeFileSync(dockerfile, 'FROM scratch\nCOPY root/ /\nENV PATH=/usr/bin:/bin\n');
  await build(['-t', image, '-f', dockerfile, context], temporary, options);
}

/** Unpacks packages and all that they depend on. Their install scripts do not run. */
async function unpack(
  packages: readonly string[],
  root: string,
  temporary: string,
  { signal }: BuildOptions,
): Promise<void> {
  const debs = join(temporary, 'debs');
  mkdirSync(join(debs, 'partial'), { recursive: true });
  // With an empty list of installed packages apt resolves every dependency, down to libc.
  writeFileSync(join(temporary, 'status'), '');
  const download = [
    ...['-o', `Dir::State::status=${join(temporary, 'status')}`, '-o', `Dir::Cache::Archives=${debs}`],
    ...['-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User=root'],
    ...['install', '-qy', '--no-install-recommends', '--download-only', ...packages],
  ];
  try {
    await run('apt-get', download, { signal });
  } catch {
    // An old list names package versions that the mirrors no longer have.
    await run('apt-get', ['update', '-q'], { signal });
    await run('apt-get', download, { signal });
  }
  for (const deb of readdirSync(debs)) {
    const name = deb.split('_')[0] ?? '';
    if (deb.endsWith('.deb') && !INSTALLERS.has(name)) await run('dpkg', ['-x', join(debs, deb), root], { signal });
  }
}

const BUILD_COMMANDS = 'cat chmod chown cp env find grep ln ls mkdir mv rm sed sh tar touch xargs'.split(' ');

/** Wanted by install scripts only. */
const INSTALLERS = new Set(['debconf', 'dpkg', 'openssl', 'tar']);

/** Does what the packages' install scripts would have done, and adds Node. */
function finish(root: string, base: Base): void {
  const at = (path: string) => join(root, path);
  for (const dir of ['etc', 'tmp', 'usr/bin', 'bin', 'proc', 'sys', 'dev', 'root'])
    mkdirSync(at(dir), { recursive: true });
  chmodSync(at('tmp'), 0o1777);
  writeFileSync(at('etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/false\n');
  writeFileSync(at('etc/group'), 'root:x:0:\nnonroot:x:65532:\n');
  writeFileSync(at('etc/nsswitch.conf'), 'hosts: files dns\n');
  for (const unused of ['usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/share/info']) {
    rmSync(at(unused), { recursive: true, force: true });
  }
  const authorities = at('usr/share/ca-certificates/mozilla');
  if (existsSync(authorities)) {
    const bundle = readdirSync(authorities).map(file => readFileSync(join(authorities, file), 'utf8'));
    mkdirSync(at('etc/ssl/certs'), { recursive: true });
    writeFileSync(at('etc/ssl/certs/ca-certificates.crt'), bundle.join(''));
  }
  if (base.node) cpSync(nodeBinary(), at('usr/bin/node'));
  if (!base.builds) return;
  for (const applet of BUILD_COMMANDS) symlinkSync('/bin/busybox', at(`usr/bin/${applet}`));
  symlinkSync('/bin/busybox', at('bin/sh'));
  writeFileSync(at(PIP_CONFIG), '');
  if (!base.node) return;
  cpSync(npmDir(), at('usr/lib/npm'), { recursive: true });
  symlinkSync('/usr/lib/npm/bin/npm-cli.js', at('usr/bin/npm'));
}

const CA_BUNDLE = '/etc/ssl/certs/ca-certificates.crt';
const NPM_CONFIG = '/usr/lib/npm/npmrc';
const PIP_CONFIG = '/etc/pip.conf';

/**
 * How RUN steps reach the package registries: as this machine does, with its certificates and addresses. They are
 * mounted, not copied, so that no image holds them.
 */
async function registryMounts(source: ImageSource, temporary: string, { signal }: BuildOptions): Promise<string[]> {
  const used = new Set(Object.values(source.bases ?? {}));
  const mount = (from: string, to: string) => ['-v', `${from}:${to}:ro`];
  const args = mount(CA_BUNDLE, CA_BUNDLE);
  if (used.has('node-build')) {
    const registry = (await run('npm', ['config', 'get', 'registry'], { signal, cwd: temporary })).trim();
    const file = join(temporary, 'npmrc');
    writeFileSync(file, `registry=${registry}\ncafile=${CA_BUNDLE}\nupdate-notifier=false\naudit=false\nfund=false\n`);
    args.push(...mount(file, NPM_CONFIG));
  }
  if (used.has('python-build')) {
    const file = join(temporary, 'pip.conf');
    const index = process.env.PIP_INDEX_URL;
    const own = existsSync(PIP_CONFIG) && !index ? readFileSync(PIP_CONFIG, 'utf8') : '[global]\n';
    const lines = [own.trimEnd(), ...(/^cert\b/m.test(own) ? [] : [`cert = ${CA_BUNDLE}`])];
    writeFileSync(file, `${[...lines, ...(index ? [`index-url = ${index}`] : [])].join('\n')}\n`);
    args.push(...mount(file, PIP_CONFIG));
  }
  return args;
}

/** The Node that the project runs on: ours if it is the npm package's, as scripts/run.mjs finds it. */
function nodeBinary(): string {
  const require = createRequire(import.meta.url);
  const name = `node-${process.platform}-${process.arch}`;
  try {
    return join(dirname(require.resolve(`${name}/package.json`)), 'bin', 'node');
  } catch {
    return process.execPath;
  }
}

function npmDir(): string {
  for (const dir of (process.env.PATH ?? '').split(':')) {
    const npm = join(dir, 'npm');
    if (dir !== '' && existsSync(npm)) return dirname(dirname(realpathSync(npm)));
  }
  throw new Error('npm is not on the PATH: the base image node-build takes its npm from there');
}

function storage(): string {
  return join(cacheDir(), 'buildah');
}

async function build(args: readonly string[], temporary: string, options: BuildOptions): Promise<void> {
  const always = ['--isolation', 'chroot', '--network', 'host', '--pull-never', '--format', 'oci'];
  await buildah(['bud', ...always, ...args], temporary, options);
}

/** In namespaces of its own: whatever ends buildah, its mounts and its RUN steps end with it. */
async function buildah(args: readonly string[], temporary: string, { signal }: BuildOptions): Promise<string> {
  const [command = '', ...rest] = args;
  const own = ['--root', join(storage(), 'root'), '--runroot', join(storage(), 'run'), '--storage-driver', 'overlay'];
  const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  return await run('unshare', [...namespaces, 'buildah', ...own, command, ...rest], {
    signal,
    env: { ...process.env, TMPDIR: temporary },
  });
}

/** A folder in the cache: images are large, and /tmp may be memory. */
function temporaryDir(): Disposable & { path: string } {
  const parent = join(storage(), 'tmp');
  // We hold the storage's lock: what is there was left by a build that was killed.
  rmSync(parent, { recursive: true, force: true });
  mkdirSync(parent, { recursive: true });
  const path = mkdtempSync(join(parent, 'build-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Every file's path, mode and content, in an order that does not depend on the file system. */
function contents(dir: string): (string | Buffer)[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .map(entry => ({ entry, path: join(entry.parentPath, entry.name) }))
    .filter(
      ({ path }) =>
        !relative(dir, path)
          .split('/')
          .some(part => part === '.git' || part === 'node_modules'),
    )
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .flatMap(({ entry, path }) => {
      if (entry.isSymbolicLink()) return [relative(dir, path), readlinkSync(path)];
      return entry.isFile() ? [`${relative(dir, path)} ${statSync(path).mode}`, readFileSync(path)] : [];
    });
}

function hash(parts: readonly (string | Buffer)[]): string {
  const sum = createHash('sha256');
  for (const part of parts) sum.update(`${part.length} `).update(part);
  return sum.digest('hex').slice(0, 16);
}
