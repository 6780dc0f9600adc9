// The Debian packages that a node, image builds and servers written in Python need.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir, isOnPath, type Progress } from './binaries.ts';
import { lock } from './lock.ts';
import { run } from './process.ts';

/** Package → what tells that it is there: a command, or a file when it has a slash. */
const packages = {
  containerd: 'containerd',
  runc: 'runc',
  'containernetworking-plugins': '/usr/lib/cni/bridge',
  iptables: 'iptables',
  conntrack: 'conntrack',
  iproute2: 'ip',
  buildah: 'buildah',
  'busybox-static': 'busybox',
  'python3-venv': '/var/lib/dpkg/info/python3-venv.list',
  'qemu-user-static': '/usr/bin/qemu-aarch64-static',
  'ca-certificates': '/etc/ssl/certs/ca-certificates.crt',
};

export type Package = keyof typeof packages;

/** Installs what is missing: as root, where there is apt-get. Otherwise an error that names it. */
export async function ensurePackages(
  names: readonly Package[],
  { signal, progress }: { signal: AbortSignal; progress: Progress },
): Promise<void> {
  if (missing(names).length === 0) return;
  using _ = await lock(join(cacheDir(), 'apt.lock'), signal, () => progress('another process is installing packages…'));
  const wanted = missing(names);
  if (wanted.length === 0) return;
  const command = `apt-get install ${wanted.join(' ')}`;
  if (process.getuid?.() !== 0 || !isOnPath('apt-get')) {
    throw new Error(`missing: ${wanted.map(name => packages[name]).join(', ')}. Install it (Debian: \`${command}\`)`);
  }
  progress(`installing ${wanted.join(' ')} (apt-get)…`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  await run('apt-get', ['update', '-q'], { signal, env });
  await run('apt-get', ['install', '-qy', '--no-install-recommends', ...wanted], { signal, env });
}

function missing(names: readonly Package[]): Package[] {
  return names.filter(name => {
    const sign = packages[name];
    return sign.includes('/') ? !existsSync(sign) : !isOnPath(sign);
  });
}
