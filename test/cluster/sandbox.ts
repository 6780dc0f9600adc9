// One set of Linux namespaces for all of a node: when its first process ends, the kernel ends every other process in
// it, and with them its mounts, its network and the veth pair that leads to it.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { cacheDir } from './binaries.ts';
import { SERVICE_CIDR } from './components.ts';
import { createDirectory, type Directory, PREFIX } from './directory.ts';
import { lock } from './lock.ts';
import { type Daemon, run, startDaemon, until, youngestChild } from './process.ts';

export interface Sandbox {
  directory: Directory;
  init: Daemon;
  /** Ends everything inside. */
  end(): Promise<void>;
  /** The sandbox's address, which this machine reaches, and this machine's, as the sandbox sees it. */
  address: string;
  hostAddress: string;
  /** For the kubelet: the cgroup, in every hierarchy, that holds all of the sandbox. */
  cgroup: string;
  /** A command line that runs another one inside. */
  enter(command: string, args: readonly string[]): { command: string; args: string[] };
}

const CGROUPS = '/sys/fs/cgroup';

const FORWARDING_WAS_OFF = 'ip_forward was 0';

// $1: the cluster's directory, $2: its name. cgroup.procs first: what still runs there has lost its owner.
const CLEANUP = `
i=0
while dirs=$(find ${CGROUPS} -maxdepth 2 -type d -name "$2") && [ -n "$dirs" ] && [ $i -lt 100 ]; do
  for dir in $dirs; do
    find "$dir" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | while read -r pid; do kill -KILL "$pid"; done
    find "$dir" -depth -type d -exec rmdir {} \\;
  done 2>/dev/null
  i=$((i + 1)); sleep 0.05
done
ip link delete "$2" 2>/dev/null
if [ -e "$1/internet" ]; then
  for table in nat filter; do
    iptables-save -t $table | grep -F -e "--comment $2 " | sed 's/^-A/-D/' | while read -r rule; do
      eval "iptables -w -t $table $rule"
    done
  done
  if grep -q '${FORWARDING_WAS_OFF}' "$1/internet" && ! iptables-save -t nat | grep -q -e '--comment ${PREFIX}'; then
    echo 0 > /proc/sys/net/ipv4/ip_forward
  fi
fi
`;

// Runs in the new namespaces. What the kubelet, containerd and the CNI plugins write outside of the directories that
// they are told lands on tmpfs. The kubelet sets sysctls of the whole machine; here it sets files.
const INIT = `
set -e
dir=$1
echo node > /proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/own /run/upper /run/work /run/sysctl /run/lock
mount --bind "$dir" /run/own
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib
mkdir -p "$dir"
mount --move /run/own "$dir"
mount -t tmpfs tmpfs /var/log
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \\
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  [ -e "/proc/sys/\${setting%=*}" ] || continue
  file=/run/sysctl/$(echo "\${setting%=*}" | tr / .)
  echo "\${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/\${setting%=*}"
done
ip link set lo up
echo ready > "$dir/sandbox"
while :; do sleep 1000000 & wait; done
`;

/** Makes the namespaces, the cgroups and the network between the sandbox and this machine. Needs root. */
export async function createSandbox({
  internet,
  signal,
}: {
  internet: boolean;
  signal: AbortSignal;
}): Promise<Sandbox> {
  const directory = await createDirectory(join(cacheDir(), 'clusters'), { signal, cleanup: CLEANUP });
  const { path, name } = directory;
  let started: Daemon | undefined;
  try {
    mkdirSync(join(path, 'log'));
    const inCgroup = createCgroups(path, name);
    writeFileSync(join(path, 'init'), INIT);
    const namespaces = ['--pid', '--fork', '--kill-child', '--mount', '--mount-proc', '--net', '--ipc', '--uts'];
    const init = startDaemon({
      name: 'sandbox',
      ...inCgroup('unshare', [...namespaces, '/bin/sh', join(path, 'init'), path]),
      log: join(path, 'log', 'sandbox.log'),
    });
    started = init;
    await until('the sandbox', () => existsSync(join(path, 'sandbox')), {
      signal: AbortSignal.any([signal, init.ended]),
      timeoutMs: 10_000,
      everyMs: 10,
    });
    const of = `/proc/${init.pid}/ns`;
    const into = [`--mount=${of}/mnt`, `--net=${of}/net`, `--ipc=${of}/ipc`, `--uts=${of}/uts`];
    const enter: Sandbox['enter'] = (command, args) =>
      inCgroup('nsenter', [`--pid=${of}/pid_for_children`, ...into, '--', command, ...args]);
    const network = await connect({ directory, pid: init.pid, enter, internet, signal });
    return { directory, init, end: () => endSandbox(init), ...network, cgroup: `/${name}`, enter };
  } catch (error) {
    await started?.kill();
    await directory.remove();
    throw error;
  }
}

const END_TIMEOUT_MS = 5_000;

/**
 * Kills the first process inside, and so all others. Each nsenter collects its child, and unshare the first process;
 * were they killed too, that would be left to this machine's init, and the namespace would wait for it.
 */
async function endSandbox(init: Daemon): Promise<void> {
  if (init.ended.aborted) return;
  process.kill(youngestChild(init.pid), 'SIGKILL');
  const { signal } = new AbortController();
  const ended = until('the sandbox to end', () => init.ended.aborted, {
    signal,
    timeoutMs: END_TIMEOUT_MS,
    everyMs: 10,
  });
  await ended.catch(() => {}); // Then its caller's kill() has to do.
}

/** Makes the sandbox's cgroup in every hierarchy, of v1 or v2; the result puts a command line into it. */
function createCgroups(path: string, name: string): Sandbox['enter'] {
  const mounts = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
    .filter(([, path, type]) => path?.startsWith(CGROUPS) && (type === 'cgroup' || type === 'cgroup2'))
    .map(([, path = '']) => path);
  if (mounts.length === 0) throw new Error(`no cgroups are mounted at ${CGROUPS}: a node can't run here`);
  const procs = [...new Set(mounts)].map(mount => {
    const own = join(mount, name);
    // A v2 cgroup whose controllers are on for its children holds no processes itself, hence the second level.
    const daemons = join(own, 'daemons');
    makeCgroup(own, mount);
    makeCgroup(daemons, own);
    return join(daemons, 'cgroup.procs');
  });
  const script = join(path, 'in-cgroup');
  writeFileSync(script, `for procs in ${procs.join(' ')}; do echo $$ > $procs; done\nexec "$@"\n`);
  return (command, args) => ({ command: '/bin/sh', args: [script, command, ...args] });
}

function makeCgroup(dir: string, parent: string): void {
  mkdirSync(dir);
  // v1: a new cpuset is empty, and an empty one takes no process.
  if (existsSync(join(parent, 'cpuset.cpus')) && !existsSync(join(parent, 'cgroup.controllers'))) {
    for (const file of ['cpuset.cpus', 'cpuset.mems']) writeFileSync(join(dir, file), readFileSync(join(parent, file)));
  }
  // v2: a controller works in a cgroup only when its parent turns it on.
  if (existsSync(join(parent, 'cgroup.controllers'))) {
    const controllers = readFileSync(join(parent, 'cgroup.controllers'), 'utf8').trim().split(' ').filter(Boolean);
    for (const controller of controllers) writeFileSync(join(parent, 'cgroup.subtree_control'), `+${controller}`);
  }
}

interface Connection {
  directory: Directory;
  pid: number;
  enter: Sandbox['enter'];
  internet: boolean;
  signal: AbortSignal;
}

async function connect({ directory: { path, name }, pid, enter, internet, signal }: Connection) {
  const inside = (...words: string[]) => {
    const { command, args } = enter('ip', words);
    return run(command, args, { signal });
  };
  // From the choice of a subnet to the address on the interface that shows others that it is taken.
  using _ = await lock(join(cacheDir(), 'subnets.lock'), signal);
  const { host, sandbox } = freeSubnet();
  await run('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)], { signal });
  await run('ip', ['address', 'add', `${host}/30`, 'dev', name], { signal });
  await run('ip', ['link', 'set', name, 'up'], { signal });
  await inside('address', 'add', `${sandbox}/30`, 'dev', 'eth0');
  await inside('link', 'set', 'eth0', 'up');
  // Without internet there is no default route: what is outside is unreachable at once instead of after a time-out.
  // Services need a route until kube-proxy's rules, which come later in the packet's way, have rewritten the address.
  await inside('route', 'add', internet ? 'default' : SERVICE_CIDR, 'via', host);
  if (internet) await openInternet(path, name, sandbox, signal);
  return { address: sandbox, hostAddress: host };
}

/** The first free /30 of 198.19.0.0/16, a range (RFC 2544) that is in nobody's network. */
function freeSubnet(): { host: string; sandbox: string } {
  const taken = new Set(
    Object.values(networkInterfaces()).flatMap(addresses => addresses?.map(({ address }) => address) ?? []),
  );
  for (let subnet = 0; subnet < 2 ** 14; subnet++) {
    const address = (last: number) => `198.19.${subnet >> 6}.${((subnet & 63) << 2) + last}`;
    if (!taken.has(address(1))) return { host: address(1), sandbox: address(2) };
  }
  throw new Error('all of 198.19.0.0/16 is taken by other clusters: `npm run cluster -- status` shows them');
}

const IP_FORWARD = '/proc/sys/net/ipv4/ip_forward';

/** Lets the sandbox out through this machine. The cleanup reads `internet` and undoes it. */
async function openInternet(path: string, name: string, address: string, signal: AbortSignal): Promise<void> {
  const siblings = readdirSync(join(path, '..')).map(sibling => join(path, '..', sibling, 'internet'));
  const wasOff =
    readFileSync(IP_FORWARD, 'utf8').trim() === '0' ||
    siblings.some(file => existsSync(file) && readFileSync(file, 'utf8') === FORWARDING_WAS_OFF);
  writeFileSync(join(path, 'internet'), wasOff ? FORWARDING_WAS_OFF : '');
  writeFileSync(IP_FORWARD, '1');
  const comment = ['-m', 'comment', '--comment', name];
  for (const rule of [
    ['-t', 'nat', '-A', 'POSTROUTING', '-s', address, ...comment, '-j', 'MASQUERADE'],
    ['-I', 'FORWARD', '-i', name, ...comment, '-j', 'ACCEPT'],
    ['-I', 'FORWARD', '-o', name, ...comment, '-j', 'ACCEPT'],
  ]) {
    await run('iptables', ['-w', ...rule], { signal });
  }
}
