// A node: the control plane and all that runs Pods, inside a sandbox of its own. Linux, root.

import { Resolver } from 'node:dns/promises';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dump } from 'js-yaml';
import { request } from 'undici';
import { type Api, createApi, isReady, untilPodsAreAllowed } from './api.ts';
import { resolveBinaries } from './binaries.ts';
import { type Cluster, type ClusterOptions, clusterOf } from './cluster.ts';
import {
  apiServerFlags,
  controllerManagerFlags,
  etcdFlags,
  type Files,
  kubeconfigPath,
  NODE_NAME,
  schedulerFlags,
  type User,
  users,
  writeFiles,
  writeKubeconfig,
} from './components.ts';
import { pauseImage } from './images.ts';
import { createLifetime } from './lifetime.ts';
import { ensurePackages } from './packages.ts';
import { type RunOptions, run, until, youngestChild } from './process.ts';
import { createSandbox, type Sandbox } from './sandbox.ts';

export interface Node extends Cluster {
  /** This machine's address as Pods see it: what listens there, or on all addresses, they can reach. */
  hostAddress: string;
  /** Puts the image of an archive (OCI or docker) where the kubelet finds it (imagePullPolicy IfNotPresent or Never). */
  loadImage(archive: string): Promise<void>;
  /** Runs a command of this machine inside the cluster's namespaces, where Service addresses work; gives its stdout. */
  exec(command: string, args: readonly string[], options?: RunOptions): Promise<string>;
  /** What to run to run a command there. */
  enter: Sandbox['enter'];
}

export interface NodeOptions extends ClusterOptions {
  /** Lets Pods reach, and resolve, what this machine can. Otherwise nothing leaves the cluster. */
  internet?: boolean;
}

const PORT = 6443;
const POD_CIDR = '10.244.0.0/16';
const PROXY_HEALTH_PORT = 10256;
const DNS_IP = '10.96.0.10';
const CONTAINERD_SOCKET = '/run/containerd/containerd.sock';
const START_TIMEOUT_MS = 90_000;

/** The command that puts an archive's image where the kubelet finds it; for inside the cluster. */
export function importImage(archive: string): [string, ...string[]] {
  return ['ctr', '-a', CONTAINERD_SOCKET, '-n', 'k8s.io', 'images', 'import', archive];
}

/** A whole cluster with one node. Ready when Pods run, Services work and DNS answers. */
export async function startNode(options: NodeOptions): Promise<Node> {
  const { internet = false, signal, progress = () => {} } = options;
  if (process.platform !== 'linux' || process.getuid?.() !== 0) {
    throw new Error('a node needs Linux and root; the control plane alone needs neither');
  }
  await ensurePackages(['containerd', 'runc', 'containernetworking-plugins', 'iptables', 'conntrack', 'iproute2'], {
    signal,
    progress,
  });
  const binaries = await resolveBinaries(
    ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kube-proxy', 'coredns'],
    { signal, progress },
  );
  const pause = await pauseImage({ signal, progress });

  const sandbox = await createSandbox({ internet, signal });
  const { directory, address } = sandbox;
  const lifetime = createLifetime({
    signal,
    running: [sandbox.init],
    end: sandbox.end,
    cleanup: directory.remove,
  });
  try {
    const files = writeFiles(directory.path, [address]);
    const server = `https://${address}:${PORT}`;
    for (const user of Object.keys(users) as User[]) writeKubeconfig(files, user, server);
    const config = writeConfigs(files, sandbox, { internet, pause: pause.image });
    const start = (name: string, command: string, args: string[]) =>
      lifetime.start({ name, ...sandbox.enter(command, args), log: join(files.dir, 'log', `${name}.log`) });
    const exec: Node['exec'] = (command, args, runOptions) => {
      const inside = sandbox.enter(command, args);
      return run(inside.command, inside.args, { signal: lifetime.signal, ...runOptions });
    };
    const loadImage = async (archive: string) => {
      const [command, ...args] = importImage(archive);
      await exec(command, args);
    };
    const wait = { signal: lifetime.signal, timeoutMs: START_TIMEOUT_MS };

    start('etcd', binaries.etcd, etcdFlags(files));
    const apiServer = start(
      'kube-apiserver',
      binaries['kube-apiserver'],
      apiServerFlags(files, { bindAddress: '0.0.0.0', port: PORT, advertise: address }),
    );
    start('containerd', 'containerd', ['--config', config.containerd]);
    await using api = createApi({ server, ca: files.ca, token: files.tokens.admin, signal: lifetime.signal });
    await until('kube-apiserver to be ready', () => api.call('GET', '/readyz'), wait);
    start('kube-controller-manager', binaries['kube-controller-manager'], controllerManagerFlags(files));
    start('kube-scheduler', binaries['kube-scheduler'], schedulerFlags(files));
    await until('kube-system', () => api.call('GET', '/api/v1/namespaces/kube-system'), wait);
    await createNodeObjects(api, address);
    start('coredns', binaries.coredns, ['-conf', config.coredns]);
    start('kube-proxy', binaries['kube-proxy'], [`--config=${config.proxy}`]);
    await until('containerd', () => loadImage(pause.archive).then(() => true), { ...wait, everyMs: 200 });
    start('kubelet', binaries.kubelet, kubeletFlags(files, config.kubelet, address));

    await untilPodsAreAllowed(api, wait);
    await until('the node to be Ready', async () => isReady(await api.call('GET', `/api/v1/nodes/${NODE_NAME}`)), wait);
    await until('DNS to answer', () => resolve(address, 'kubernetes.default.svc.cluster.local'), wait);
    await until(
      'kube-proxy to have written its rules',
      () => isHealthy(`http://${address}:${PROXY_HEALTH_PORT}`),
      wait,
    );
    // nsenter stays in this machine's PID namespace and waits for the process that it runs.
    const cluster = clusterOf(files, server, youngestChild(apiServer.pid), lifetime);
    return { ...cluster, hostAddress: sandbox.hostAddress, loadImage, exec, enter: sandbox.enter };
  } catch (error) {
    await lifetime.stop();
    throw lifetime.signal.aborted ? lifetime.signal.reason : error;
  }
}

/** What must be there before the kubelet: its Node, else CSINode times out; and the DNS Service that Pods are told. */
async function createNodeObjects(api: Api, address: string): Promise<void> {
  await api.call('POST', '/api/v1/nodes', {
    metadata: { name: NODE_NAME, labels: { 'kubernetes.io/hostname': NODE_NAME, 'kubernetes.io/os': 'linux' } },
  });
  const ports = [
    { name: 'dns', protocol: 'UDP', port: 53 },
    { name: 'dns-tcp', protocol: 'TCP', port: 53 },
  ];
  const metadata = { name: 'kube-dns', namespace: 'kube-system' };
  await api.call('POST', '/api/v1/namespaces/kube-system/services', { metadata, spec: { clusterIP: DNS_IP, ports } });
  await api.call('POST', '/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices', {
    metadata: { ...metadata, labels: { 'kubernetes.io/service-name': 'kube-dns' } },
    addressType: 'IPv4',
    endpoints: [{ addresses: [address] }],
    ports,
  });
  const rbac = '/apis/rbac.authorization.k8s.io/v1';
  const name = 'system:coredns';
  await api.call('POST', `${rbac}/clusterroles`, {
    metadata: { name },
    rules: [
      { apiGroups: [''], resources: ['services', 'pods', 'namespaces'], verbs: ['list', 'watch'] },
      { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
    ],
  });
  await api.call('POST', `${rbac}/clusterrolebindings`, {
    metadata: { name },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name },
    subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name: users.coredns.user }],
  });
}

/** kube-proxy is healthy when it has written its rules once. */
async function isHealthy(url: string): Promise<boolean> {
  const { statusCode, body } = await request(`${url}/healthz`);
  await body.dump();
  return statusCode === 200;
}

/** A Resolver per question: one remembers a server that did not answer yet. */
async function resolve(server: string, name: string): Promise<string[]> {
  const resolver = new Resolver({ timeout: 500, tries: 1 });
  resolver.setServers([server]);
  return await resolver.resolve4(name);
}

interface Configs {
  containerd: string;
  coredns: string;
  kubelet: string;
  proxy: string;
}

/** Writes the configuration files and gives their paths. */
function writeConfigs(files: Files, { address, cgroup }: Sandbox, node: { internet: boolean; pause: string }): Configs {
  const { dir } = files;
  const write = (name: string, content: string) => {
    writeFileSync(join(dir, name), content);
    return join(dir, name);
  };
  mkdirSync(join(dir, 'cni'));
  write(
    'cni/10-bridge.conflist',
    JSON.stringify({
      cniVersion: '1.0.0',
      name: 'bridge',
      plugins: [
        {
          type: 'bridge',
          bridge: 'cni0',
          isGateway: true,
          ipMasq: true,
          hairpinMode: true,
          ipam: { type: 'host-local', ranges: [[{ subnet: POD_CIDR }]], routes: [{ dst: '0.0.0.0/0' }] },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    }),
  );
  const resolvConf = write('resolv.conf', `nameserver ${address}\n`);
  return {
    containerd: write(
      'containerd.toml',
      `version = 2
root = "${join(dir, 'containerd')}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "${CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${node.pause}"
# Without CAP_SYS_RESOURCE, as in many virtual machines and containers, runc may not lower a score and fails.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "${CNI_PLUGINS}"
conf_dir = "${join(dir, 'cni')}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`,
    ),
    coredns: write(
      'Corefile',
      // Blocks of their own, as the template plugin would answer before the kubernetes plugin.
      `cluster.local in-addr.arpa ip6.arpa {
  bind ${address}
  errors
  kubernetes {
    kubeconfig ${kubeconfigPath(files, 'coredns')}
  }
}
. {
  bind ${address}
  errors
  ${node.internet ? `forward . ${hostResolvers().join(' ')}` : 'template ANY ANY {\n    rcode NXDOMAIN\n  }'}
}
`,
    ),
    kubelet: write(
      'kubelet.yaml',
      dump({
        apiVersion: 'kubelet.config.k8s.io/v1beta1',
        kind: 'KubeletConfiguration',
        containerRuntimeEndpoint: `unix://${CONTAINERD_SOCKET}`,
        cgroupDriver: 'cgroupfs',
        cgroupRoot: cgroup,
        failCgroupV1: false,
        failSwapOn: false,
        enforceNodeAllocatable: [],
        // The disk and the memory are the machine's: how full they are is not this node's to decide on.
        evictionHard: { 'memory.available': '50Mi', 'nodefs.available': '0%', 'imagefs.available': '0%' },
        imageGCHighThresholdPercent: 100,
        authentication: { x509: { clientCAFile: join(dir, 'ca.crt') }, anonymous: { enabled: false } },
        clusterDNS: [DNS_IP],
        clusterDomain: 'cluster.local',
        resolvConf,
        podLogsDir: join(dir, 'pods'),
        volumePluginDir: join(dir, 'volume-plugins'),
        staticPodPath: '',
        maxPods: 250,
        registerNode: true,
        serializeImagePulls: false,
      }),
    ),
    proxy: write(
      'kube-proxy.yaml',
      dump({
        apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
        kind: 'KubeProxyConfiguration',
        clientConnection: { kubeconfig: kubeconfigPath(files, 'proxy') },
        hostnameOverride: NODE_NAME,
        mode: 'iptables',
        healthzBindAddress: `${address}:${PROXY_HEALTH_PORT}`,
        clusterCIDR: POD_CIDR,
        // These are settings of the whole machine.
        conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
        iptables: { minSyncPeriod: '100ms' },
      }),
    ),
  };
}

const CNI_PLUGINS = '/usr/lib/cni';

function kubeletFlags(files: Files, config: string, address: string): string[] {
  return [
    `--config=${config}`,
    `--kubeconfig=${kubeconfigPath(files, 'kubelet')}`,
    `--root-dir=${join(files.dir, 'kubelet')}`,
    `--hostname-override=${NODE_NAME}`,
    `--node-ip=${address}`,
  ];
}

/** This machine's name servers, but for local stubs, which only the machine itself can ask. */
function hostResolvers(): string[] {
  for (const file of ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf']) {
    if (!existsSync(file)) continue;
    const servers = [...readFileSync(file, 'utf8').matchAll(/^nameserver\s+(\S+)/gm)].map(match => match[1] ?? '');
    const usable = servers.filter(server => !server.startsWith('127.') && server !== '::1');
    if (usable.length > 0) return usable;
  }
  throw new Error(
    'internet: /etc/resolv.conf names no resolver that the cluster could ask; give one that is not loopback',
  );
}
