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
  /** This machine's, if absent. What RUN steps start must run here all the same. */
  architecture?: Architecture;
}

/** As OCI, Debian and Go call it. */
export type Architecture = 'amd64' | 'arm64';

export const OWN_ARCHITECTURE = process.arch === 'x64' ? 'amd64' : (process.arch as Architecture);

const REPOSITORY = 'localhost/personal-connector-operator';

interface Base {
  /** Debian packages; what they depend on comes with them. */
  packages: readonly string[];
  architecture?: Architecture;
  node?: true;
  python?: true;
  /** For build stages: a shell, and npm when there is Node. */
  builds?: true;
}

const NODE_LIBRARIES = ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1'];

/**
 * What a Dockerfile's FROM may name. `node`: Node 26 in /usr/local, where Node's own images have it, and what it links
 * to. `python`: the distribution's python3. Neither has a shell; their `-build` siblings have one (busybox), and npm or
 * venv with pip.
 */
const bases = {
  pause: { packages: ['busybox-static'] },
  node: { packages: [...NODE_LIBRARIES, 'ca-certificates'], node: true },
  'node-amd64': { packages: NODE_LIBRARIES, node: true, architecture: 'amd64' },
  'node-arm64': { packages: NODE_LIBRARIES, node: true, architecture: 'arm64' },
  'node-build': {
    packages: [...NODE_LIBRARIES, 'ca-certificates', 'busybox-static'],
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
  const key = hash([readFileSync(dockerfile), JSON.stringify(argumentsOf(source)), ...contents(context)]);
  const image = `${REPOSITORY}/${name}:${key}`;
  const archive = join(cacheDir(), 'images', `${name}@${key}.tar`);
  if (existsSync(archive)) return { image, archive };

  using store = await openStore(options);
  if (existsSync(archive)) return { image, archive };
  const started = Date.now();
  const made = join(store.temporary, 'image.tar');
  // Not oci-archive: buildah compresses its layers whatever it is told, which costs time here and again in the node.
  await make(source, image, `docker-archive:${made}:${image}`, store.temporary, options);
  mkdirSync(dirname(archive), { recursive: true });
  for (const other of readdirSync(dirname(archive))) {
    if (other.startsWith(`${name}@`)) rmSync(join(dirname(archive), other));
  }
  renameSync(made, archive);
  options.progress(`built the image ${name} in ${Math.round((Date.now() - started) / 1_000)} s`);
  return { image, archive };
}

/** Builds an image, whatever the cache has, into an OCI archive: what a registry would get, byte by byte. */
export async function exportImage(source: ImageSource, archive: string, options: BuildOptions): Promise<void> {
  using store = await openStore(options);
  await make(source, `${REPOSITORY}/${source.name}:export`, `oci-archive:${archive}`, store.temporary, options);
}

function argumentsOf({ buildArgs, bases = {} }: ImageSource): Record<string, string> {
  return {
    ...buildArgs,
    ...Object.fromEntries(Object.entries(bases).map(([arg, base]) => [arg, baseReference(base)])),
  };
}

/** Builds an image, pushes it to where it is wanted, and leaves nothing of it but its bases. */
async function make(
  source: ImageSource,
  image: string,
  to: string,
  temporary: string,
  options: BuildOptions,
): Promise<void> {
  const { name, dockerfile, context, bases = {}, architecture = OWN_ARCHITECTURE } = source;
  for (const base of new Set(Object.values(bases))) await makeBase(base, temporary, options);
  options.progress(`building the image ${name}…`);
  const args = [
    ...(await registryMounts(source, temporary, options)),
    // buildah 1.28 does not set BUILDPLATFORM by itself.
    ...Object.entries({ BUILDPLATFORM: `linux/${OWN_ARCHITECTURE}`, ...argumentsOf(source) }).flatMap(
      ([arg, value]) => ['--build-arg', `${arg}=${value}`],
    ),
    // Images of one content have one digest, whenever they are built and by which version of buildah.
    ...['--timestamp', '0', '--identity-label=false', '--platform', `linux/${architecture}`],
  ];
  await build([...args, '-t', image, '-f', dockerfile, context], temporary, options);
  await buildah(['push', image, to], temporary, options);
  await buildah(['rmi', image], temporary, options);
}

/** What is built with: nobody else builds meanwhile. */
async function openStore(options: BuildOptions): Promise<Disposable & { temporary: string }> {
  await ensurePackages(['buildah', 'ca-certificates'], options);
  const held = await lock(join(storage(), 'lock'), options.signal, () => {
    options.progress('another process is building images…');
  });
  const parent = join(storage(), 'tmp');
  // What is there was left by a build that was killed. A folder in the cache: images are large, /tmp may be memory.
  rmSync(parent, { recursive: true, force: true });
  mkdirSync(parent, { recursive: true });
  const temporary = mkdtempSync(join(parent, 'build-'));
  return {
    temporary,
    [Symbol.dispose]() {
      rmSync(temporary, { recursive: true, force: true });
      held[Symbol.dispose]();
    },
  };
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
const RECIPE = 4;

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
  await unpack(base, root, context, options);
  finish(root, base);
  if (base.node) await addNode(root, base, temporary, options);
  // Debian compiles its Python when it is installed.
  if (base.python) await run('chroot', [root, '/usr/bin/python3', '-c', COMPILE], options);
  const dockerfile = join(context, 'Dockerfile');
  writeFileSync(dockerfile, 'FROM scratch\nCOPY root/ /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n');
  const platform = ['--platform', `linux/${base.architecture ?? OWN_ARCHITECTURE}`];
  await build([...platform, '-t', image, '-f', dockerfile, context], temporary, options);
}

/** Unpacks packages and all that they depend on. Their install scripts do not run. */
async function unpack(
  { packages, architecture = OWN_ARCHITECTURE }: Base,
  root: string,
  temporary: string,
  { signal }: BuildOptions,
): Promise<void> {
  const debs = join(temporary, 'debs');
  mkdirSync(join(debs, 'partial'), { recursive: true });
  // With an empty list of installed packages apt resolves every dependency, down to libc.
  writeFileSync(join(temporary, 'status'), '');
  const settings = [
    ...['-o', `Dir::State::status=${join(temporary, 'status')}`, '-o', `Dir::Cache::Archives=${debs}`],
    ...['-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User=root'],
  ];
  if (architecture !== OWN_ARCHITECTURE) {
    // This machine's own lists and architectures stay as they are.
    const lists = join(temporary, 'lists');
    mkdirSync(join(lists, 'partial'), { recursive: true });
    settings.push('-o', `APT::Architecture=${architecture}`, '-o', `APT::Architectures=${architecture}`);
    settings.push('-o', `Dir::State::Lists=${lists}`, '-o', 'Dir::Cache::pkgcache=', '-o', 'Dir::Cache::srcpkgcache=');
  }
  const download = [...settings, 'install', '-qy', '--no-install-recommends', '--download-only', ...packages];
  try {
    await run('apt-get', download, { signal });
  } catch {
    // An old list names package versions that the mirrors no longer have; a new one names none yet.
    await run('apt-get', [...settings, 'update', '-q'], { signal });
    await run('apt-get', download, { signal });
  }
  const dpkg = join(root, 'var', 'lib', 'dpkg');
  mkdirSync(join(dpkg, 'info'), { recursive: true });
  const stanzas: string[] = [];
  for (const file of readdirSync(debs).sort()) {
    const name = file.split('_')[0] ?? '';
    if (!file.endsWith('.deb') || INSTALLERS.has(name)) continue;
    const deb = join(debs, file);
    await run('dpkg', ['-x', deb, root], { signal });
    // As dpkg would have it: who wants to know what a file belongs to looks there.
    stanzas.push(await run('dpkg-deb', ['--field', deb], { signal }));
    const sums = await run('dpkg-deb', ['--info', deb, 'md5sums'], { signal });
    writeFileSync(join(dpkg, 'info', `${name}.list`), sums.replace(/^\S+ +/gm, '/'));
  }
  writeFileSync(join(dpkg, 'status'), stanzas.join('\n'));
}

const BUILD_COMMANDS = 'cat chmod chown cp env find grep ln ls mkdir mv rm sed sh tar touch xargs'.split(' ');

/** Wanted by install scripts only. */
const INSTALLERS = new Set(['debconf', 'dpkg', 'openssl', 'tar']);

/** Does what the packages' install scripts would have done. */
function finish(root: string, base: Base): void {
  const at = (path: string) => join(root, path);
  for (const dir of ['etc', 'tmp', 'usr/bin', 'bin', 'proc', 'sys', 'dev', 'root'])
    mkdirSync(at(dir), { recursive: true });
  chmodSync(at('tmp'), 0o1777);
  writeFileSync(at('etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/false\n');
  writeFileSync(at('etc/group'), 'root:x:0:\nnonroot:x:65532:\n');
  writeFileSync(at('etc/nsswitch.conf'), 'hosts: files dns\n');
  writeFileSync(at('etc/os-release'), readFileSync('/etc/os-release'));
  for (const unused of ['usr/share/man', 'usr/share/locale', 'usr/share/info']) {
    rmSync(at(unused), { recursive: true, force: true });
  }
  const authorities = at('usr/share/ca-certificates/mozilla');
  if (existsSync(authorities)) {
    const bundle = readdirSync(authorities).map(file => readFileSync(join(authorities, file), 'utf8'));
    mkdirSync(at('etc/ssl/certs'), { recursive: true });
    writeFileSync(at('etc/ssl/certs/ca-certificates.crt'), bundle.join(''));
  }
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
const NPM_CACHE = '/var/cache/npm';
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
    const settings = {
      registry,
      cafile: CA_BUNDLE,
      cache: NPM_CACHE,
      'update-notifier': false,
      audit: false,
      fund: false,
    };
    writeFileSync(
      file,
      Object.entries(settings)
        .map(setting => `${setting.join('=')}\n`)
        .join(''),
    );
    const cache = join(cacheDir(), 'npm');
    mkdirSync(cache, { recursive: true });
    args.push(...mount(file, NPM_CONFIG), '-v', `${cache}:${NPM_CACHE}`);
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

/** Adds the Node that the project runs on, with its licence, from the npm package that package-lock.json pins. */
async function addNode(root: string, base: Base, temporary: string, { signal }: BuildOptions): Promise<void> {
  const { architecture = OWN_ARCHITECTURE } = base;
  const name = `node-linux-${architecture === 'amd64' ? 'x64' : architecture}`;
  const lockFile = join(import.meta.dirname, '..', '..', 'package-lock.json');
  const { packages } = JSON.parse(readFileSync(lockFile, 'utf8')) as {
    packages: Record<string, { version: string; integrity: string }>;
  };
  const locked = packages[`node_modules/${name}`];
  if (!locked) throw new Error(`package-lock.json has no ${name}: npm ci`);
  let dir = join(import.meta.dirname, '..', '..', 'node_modules', name);
  if (!existsSync(dir)) {
    await run('npm', ['pack', '--silent', `${name}@${locked.version}`], { signal, cwd: temporary });
    const packed = join(temporary, `${name}-${locked.version}.tgz`);
    const sum = createHash('sha512').update(readFileSync(packed)).digest('base64');
    if (locked.integrity !== `sha512-${sum}`)
      throw new Error(`${name} ${locked.version} is sha512-${sum}, but package-lock.json says ${locked.integrity}`);
    await run('tar', ['-xzf', packed, '-C', temporary], { signal });
    dir = join(temporary, 'package');
  }
  const local = join(root, 'usr', 'local');
  cpSync(join(dir, 'bin', 'node'), join(local, 'bin', 'node'));
  cpSync(join(dir, 'LICENSE'), join(local, 'LICENSE'));
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
