// The cluster's binaries: each from the first of $KUBEBUILDER_ASSETS, the cache, the official download and a Go build
// of the pinned modules in go/. The versions stand in go/<group>/go.mod and nowhere else.
import { createHash, hash } from 'node:crypto';
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { chmod, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EnvHttpProxyAgent, fetch } from 'undici';
import { lock } from './lock.ts';
import { messageOf, run } from './process.ts';

export type Progress = (line: string) => void;

export interface ResolveOptions {
  signal: AbortSignal;
  progress: Progress;
  /** Where binaries are kept: the cache of `cacheDir()` unless given. */
  cache?: string;
  /** Instead of https://HOST/PATH, downloads ask for BASE/HOST/PATH. Default: $CLUSTER_DOWNLOAD_BASE. */
  downloadBase?: string | undefined;
}

interface Target {
  os: string;
  arch: string;
}

interface Download {
  url: string;
  /** A file that holds `<sha256>` alone, or lines of `<sha256>  <file name>`. */
  checksums: string;
  /** The binary's path inside the archive; absent: the file is the binary. */
  member?: string;
}

interface Group {
  /** Whose version counts. Absent: the group's own main.go is built, and what it is made of counts. */
  module?: string;
  /** Binary → its Go package. */
  packages: Record<string, string>;
  ldflags(version: string): string;
  /** Build tags, with commas. */
  tags?: string;
  /** Undefined: its project publishes no checksum beside it, so it is never downloaded. */
  download?(binary: string, version: string, target: Target): Download;
  /** A cold build on two cores. */
  minutes: Record<string, number>;
}

const NO_FLAGS = () => '';

const groups = {
  etcd: {
    module: 'go.etcd.io/etcd/server/v3',
    packages: { etcd: 'go.etcd.io/etcd/server/v3' },
    ldflags: NO_FLAGS,
    download(_, version, { os, arch }) {
      const name = `etcd-${version}-${os}-${arch}`;
      const release = `https://github.com/etcd-io/etcd/releases/download/${version}`;
      return { url: `${release}/${name}.tar.gz`, checksums: `${release}/SHA256SUMS`, member: `${name}/etcd` };
    },
    minutes: { etcd: 1 },
  },
  kubernetes: {
    module: 'k8s.io/kubernetes',
    packages: Object.fromEntries(
      ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kube-proxy', 'kubectl'].map(name => [
        name,
        `k8s.io/kubernetes/cmd/${name}`,
      ]),
    ),
    ldflags(version) {
      const [major, minor] = version.slice(1).split('.');
      return Object.entries({ gitVersion: version, gitMajor: major, gitMinor: minor })
        .map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`)
        .join(' ');
    },
    download(binary, version, { os, arch }) {
      const url = `https://dl.k8s.io/${version}/bin/${os}/${arch}/${binary}`;
      return { url, checksums: `${url}.sha256` };
    },
    minutes: { 'kube-apiserver': 6, 'kube-controller-manager': 2 },
  },
  kwok: {
    module: 'sigs.k8s.io/kwok',
    packages: { kwok: 'sigs.k8s.io/kwok/cmd/kwok' },
    ldflags: NO_FLAGS,
    minutes: { kwok: 2 },
  },
  helm: {
    module: 'helm.sh/helm/v4',
    packages: { helm: 'helm.sh/helm/v4/cmd/helm' },
    ldflags: version => `-X helm.sh/helm/v4/internal/version.version=${version}`,
    download(_, version, { os, arch }) {
      const url = `https://get.helm.sh/helm-${version}-${os}-${arch}.tar.gz`;
      return { url, checksums: `${url}.sha256sum`, member: `${os}-${arch}/helm` };
    },
    minutes: { helm: 2 },
  },
  coredns: {
    module: 'github.com/coredns/coredns',
    packages: { coredns: 'github.com/coredns/coredns' },
    ldflags: NO_FLAGS,
    download(_, version, { os, arch }) {
      const release = `https://github.com/coredns/coredns/releases/download/${version}`;
      const url = `${release}/coredns_${version.slice(1)}_${os}_${arch}.tgz`;
      return { url, checksums: `${url}.sha256`, member: 'coredns' };
    },
    minutes: { coredns: 2 },
  },
  kubeconform: {
    module: 'github.com/yannh/kubeconform',
    packages: { kubeconform: 'github.com/yannh/kubeconform/cmd/kubeconform' },
    ldflags: NO_FLAGS,
    minutes: {},
  },
  prometheus: {
    module: 'github.com/prometheus/prometheus',
    packages: {
      prometheus: 'github.com/prometheus/prometheus/cmd/prometheus',
      promtool: 'github.com/prometheus/prometheus/cmd/promtool',
    },
    ldflags: NO_FLAGS,
    // Targets are given to it: without the clients of two dozen clouds it builds in a third of the time.
    tags: 'remove_all_sd',
    download(binary, version, { os, arch }) {
      // The module v0.316.0 is Prometheus 3.16.0.
      const release = version.replace(/^v0\.(\d)(\d\d)\./, (_, major, minor) => `${major}.${Number(minor)}.`);
      const name = `prometheus-${release}.${os}-${arch}`;
      const base = `https://github.com/prometheus/prometheus/releases/download/v${release}`;
      return { url: `${base}/${name}.tar.gz`, checksums: `${base}/sha256sums.txt`, member: `${name}/${binary}` };
    },
    minutes: { promtool: 2, prometheus: 2 },
  },
  'helm-unittest': {
    module: 'github.com/helm-unittest/helm-unittest',
    packages: { 'helm-unittest': 'github.com/helm-unittest/helm-unittest/cmd/helm-unittest' },
    ldflags: NO_FLAGS,
    minutes: {},
  },
  'helm-docs': {
    module: 'github.com/norwoodj/helm-docs',
    packages: { 'helm-docs': 'github.com/norwoodj/helm-docs/cmd/helm-docs' },
    ldflags: NO_FLAGS,
    minutes: {},
  },
  gitops: {
    packages: { 'gitops-health': '.' },
    ldflags: NO_FLAGS,
    minutes: { 'gitops-health': 1 },
  },
  netpol: { packages: { netpol: '.' }, ldflags: NO_FLAGS, minutes: { netpol: 2 } },
  // The peer of `npm run bench -- --peer toolhive`; nothing else asks for it.
  toolhive: {
    module: 'github.com/stacklok/toolhive',
    packages: { 'thv-operator': 'github.com/stacklok/toolhive/cmd/thv-operator' },
    ldflags: NO_FLAGS,
    minutes: { 'thv-operator': 3 },
  },
} satisfies Record<string, Group>;

export type Binary =
  | 'etcd'
  | 'kube-apiserver'
  | 'kube-controller-manager'
  | 'kube-scheduler'
  | 'kubelet'
  | 'kube-proxy'
  | 'kubectl'
  | 'kwok'
  | 'helm'
  | 'coredns'
  | 'kubeconform'
  | 'prometheus'
  | 'promtool'
  | 'helm-unittest'
  | 'helm-docs'
  | 'gitops-health'
  | 'netpol'
  | 'thv-operator';

/** `${XDG_CACHE_HOME:-~/.cache}/personal-connector-operator`. */
export function cacheDir(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'personal-connector-operator');
}

/**
 * Finds or makes the binaries, one after another in the order given: the first build takes minutes, so ask first for
 * what is needed first. Concurrent callers, in this process or another, build each binary once.
 */
export async function resolveBinaries<Name extends Binary>(
  names: readonly Name[],
  options: ResolveOptions,
): Promise<Record<Name, string>> {
  const paths: Partial<Record<Name, string>> = {};
  for (const name of names) paths[name] = await resolveBinary(name, options);
  return paths as Record<Name, string>;
}

/** The version of a group of binaries, such as v1.37.2, as its go.mod pins it; of an own program, a hash of what it is. */
export function versionOf(key: keyof typeof groups): string {
  const file = join(moduleDir(key), 'go.mod');
  const { module }: Group = groups[key];
  if (module === undefined) {
    const parts = ['main.go', 'go.mod', 'go.sum'].map(name => readFileSync(join(moduleDir(key), name)));
    return hash('sha256', Buffer.concat(parts)).slice(0, 12);
  }
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    const [path, version] = line
      .replace(/^require /, '')
      .trim()
      .split(' ');
    if (path === module && version?.startsWith('v')) return version;
  }
  throw new Error(`${file} requires no ${module}: run \`go get ${module}@<version>\` there`);
}

/**
 * The folder of what a Go module holds beside code, at the version that go/<group>/go.mod pins: it needs `go`, and a
 * module proxy where the module was never fetched before.
 */
export async function moduleFiles(group: string, module: string, signal: AbortSignal): Promise<string> {
  const stdout = await run('go', ['mod', 'download', '-json', module], {
    cwd: moduleDir(group),
    env: { ...process.env, GOFLAGS: '-mod=readonly' },
    signal,
  });
  return (JSON.parse(stdout) as { Dir: string }).Dir;
}

async function resolveBinary(name: Binary, options: ResolveOptions): Promise<string> {
  const { signal, progress } = options;
  const assets = process.env.KUBEBUILDER_ASSETS;
  if (assets && isExecutable(join(assets, name))) return join(assets, name);

  const key = groupOf(name);
  const group: Group = groups[key];
  const version = versionOf(key);
  const target = { os: process.platform, arch: process.arch === 'x64' ? 'amd64' : process.arch };
  const dir = join(options.cache ?? join(cacheDir(), 'bin'), `${key}-${version}-${target.os}-${target.arch}`);
  const path = join(dir, name);
  if (isExecutable(path)) return path;

  using _ = await lock(join(dir, `.${name}.lock`), signal, () => progress(`${name}: another process is getting it…`));
  if (isExecutable(path)) return path;
  const temporary = join(dir, `.${name}.${process.pid}`);
  const source = group.download?.(name, version, target);
  try {
    const failure = source ? await download(source, temporary, name, options) : 'its project publishes no checksum';
    if (failure !== undefined) await build(key, name, version, temporary, failure, options);
    await chmod(temporary, 0o755);
    await rename(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
  return path;
}

const CONNECT_TIMEOUT_MS = 5_000;
const unreachable = new Set<string>();

/** Gives undefined when the verified binary is at `to`, else why it can't be had. A wrong checksum is an error. */
async function download(
  { url, checksums, member }: Download,
  to: string,
  name: string,
  { signal, progress, downloadBase = process.env.CLUSTER_DOWNLOAD_BASE }: ResolveOptions,
): Promise<string | undefined> {
  const where = (official: string) =>
    downloadBase ? `${downloadBase.replace(/\/$/, '')}/${official.replace('https://', '')}` : official;
  const { origin } = new URL(where(url));
  if (unreachable.has(origin)) return `${origin} can't be reached`;
  const dispatcher = new EnvHttpProxyAgent({
    connect: { timeout: CONNECT_TIMEOUT_MS },
    headersTimeout: 2 * CONNECT_TIMEOUT_MS,
    bodyTimeout: 30_000,
  });
  const get = async (from: string) => {
    const response = await fetch(from, { dispatcher, signal });
    if (!response.ok) throw new Error(`${from}: HTTP ${response.status}`);
    return response;
  };
  try {
    const listed = await (await get(where(checksums))).text();
    progress(`downloading ${name} from ${where(url)}`);
    const file = Buffer.from(await (await get(where(url))).arrayBuffer());
    const expected = checksumOf(url, listed);
    const seen = createHash('sha256').update(file).digest('hex');
    if (seen !== expected) {
      throw new ChecksumError(
        `${where(url)}: SHA-256 is ${seen}, but ${where(checksums)} says ${expected ?? 'nothing about it'}. ` +
          'Nothing was kept; try again, or set KUBEBUILDER_ASSETS to a folder with binaries that you trust',
      );
    }
    if (member === undefined) {
      await writeFile(to, file);
    } else {
      const archive = `${to}.tar.gz`;
      try {
        await writeFile(archive, file);
        mkdirSync(`${to}.d`);
        await run('tar', ['-xzf', archive, '-C', `${to}.d`, member], { signal });
        await rename(join(`${to}.d`, member), to);
      } finally {
        rmSync(archive, { force: true });
        rmSync(`${to}.d`, { recursive: true, force: true });
      }
    }
    return undefined;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof ChecksumError) throw error;
    unreachable.add(origin);
    return `${origin}: ${messageOf(error instanceof Error && error.cause ? error.cause : error)}`;
  } finally {
    await dispatcher.destroy();
  }
}

class ChecksumError extends Error {}

/** Exported for its tests. */
export function checksumOf(url: string, listed: string): string | undefined {
  const file = new URL(url).pathname.split('/').at(-1);
  for (const line of listed.split('\n')) {
    const [sum, name] = line.trim().split(/\s+\*?/);
    if (sum && /^[0-9a-f]{64}$/.test(sum) && (name === undefined || name.split('/').at(-1) === file)) return sum;
  }
  return undefined;
}

const TICK_MS = 15_000;

async function build(
  key: keyof typeof groups,
  name: Binary,
  version: string,
  to: string,
  noDownload: string,
  { signal, progress }: ResolveOptions,
): Promise<void> {
  const group: Group = groups[key];
  const started = Date.now();
  const minutes = group.minutes[name] ?? 0.5;
  const estimate = minutes < 1 ? 'half a minute' : `${minutes} minute${minutes > 1 ? 's' : ''}`;
  progress(`building ${name} ${version} from source, about ${estimate} the first time (no download: ${noDownload})`);
  const seconds = () => Math.round((Date.now() - started) / 1_000);
  const ticker = setInterval(() => progress(`  … ${name}: ${seconds()} s`), TICK_MS);
  try {
    const ldflags = `-s -w ${group.ldflags(version)}`.trim();
    const tags = group.tags === undefined ? [] : ['-tags', group.tags];
    await run('go', ['build', '-trimpath', '-ldflags', ldflags, ...tags, '-o', to, group.packages[name] ?? ''], {
      cwd: moduleDir(key),
      env: { ...process.env, GOFLAGS: '-mod=readonly', CGO_ENABLED: '0' },
      signal,
    });
    progress(`built ${name} in ${seconds()} s`);
  } catch (error) {
    signal.throwIfAborted();
    if (!isOnPath('go')) {
      throw new Error(
        `${name} ${version} is nowhere to be had: not in KUBEBUILDER_ASSETS or the cache, no download (${noDownload}), ` +
          'and there is no `go` to build it. Install Go 1.26 or newer (https://go.dev/dl), or set KUBEBUILDER_ASSETS ' +
          'to a folder that holds the binary',
      );
    }
    throw new Error(`${name} ${version} could not be built: ${messageOf(error)}`);
  } finally {
    clearInterval(ticker);
  }
}

function groupOf(name: Binary): keyof typeof groups {
  for (const key of Object.keys(groups) as (keyof typeof groups)[]) {
    if (Object.hasOwn(groups[key].packages, name)) return key;
  }
  throw new Error(`${name}: no group of test/cluster/binaries.ts has it`);
}

function moduleDir(group: string): string {
  return join(dirname(fileURLToPath(import.meta.url)), 'go', group);
}

export function isOnPath(command: string): boolean {
  return (process.env.PATH ?? '').split(':').some(dir => dir !== '' && isExecutable(join(dir, command)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return existsSync(path);
  } catch {
    return false;
  }
}
