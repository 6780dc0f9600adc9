// Real Kubernetes on one machine. Nothing of it outlives the process that starts it, whatever ends that process.
import { once } from 'node:events';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Api, createApi, isReady, untilPodsAreAllowed } from './api.ts';
import { type Progress, resolveBinaries } from './binaries.ts';
import {
  apiServerFlags,
  caData,
  controllerManagerFlags,
  etcdFlags,
  type Files,
  kubeconfigPath,
  kwokFlags,
  schedulerFlags,
  writeFiles,
  writeKubeconfig,
} from './components.ts';
import { createDirectory } from './directory.ts';
import { createLifetime, type Lifetime } from './lifetime.ts';
import { messageOf, until } from './process.ts';

export interface Cluster extends AsyncDisposable {
  /** The admin's kubeconfig: a path, mode 0600. */
  kubeconfig: string;
  /** The API server's URL as this machine reaches it. */
  server: string;
  /** The API server's CA: base64 of PEM, as `certificate-authority-data` wants it. */
  caData: string;
  /** The admin's bearer token. */
  token: string;
  /** All that the cluster has on disk; gone after stop(). */
  dir: string;
  /** One JSON line (audit.k8s.io/v1 Event, level Metadata) for each answered request, written before its answer. */
  auditLog: string;
  apiServerPid: number;
  /** Aborted, with an Error that shows its last output, when a process of the cluster ends though nobody asked it to. */
  failed: AbortSignal;
  /** Ends all processes and removes all that the cluster had; may be called more than once. */
  stop(): Promise<void>;
}

export interface ControlPlane extends Cluster {
  etcdPid: number;
  /** SIGKILL to the API server. */
  killApiServer(): Promise<void>;
  /** Starts it again, at its address and on what etcd holds. Resolves when it is ready. */
  startApiServer(): Promise<void>;
}

export interface ClusterOptions {
  /** Aborted while the cluster starts: the start fails and leaves nothing. Later: the cluster stops. */
  signal: AbortSignal;
  progress?: Progress;
}

export interface ControlPlaneOptions extends ClusterOptions {
  /** Adds the scheduler, kwok and one fake node with room for a million Pods, which run as soon as they are bound. */
  kwok?: boolean;
}

const START_TIMEOUT_MS = 60_000;
const PORT_ATTEMPTS = 3;

/** etcd, kube-apiserver and kube-controller-manager on loopback, as any user. Ready when Pods can be created. */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await attemptControlPlane(options);
    } catch (error) {
      // Between our look for a free port and the API server's bind somebody else took it.
      if (attempt === PORT_ATTEMPTS || !/address already in use/.test(messageOf(error))) throw error;
    }
  }
}

async function attemptControlPlane({
  kwok = false,
  signal,
  progress = () => {},
}: ControlPlaneOptions): Promise<ControlPlane> {
  const binaries = await resolveBinaries(['etcd', 'kube-apiserver', 'kube-controller-manager'], { signal, progress });
  const fake = kwok ? await resolveBinaries(['kube-scheduler', 'kwok'], { signal, progress }) : undefined;
  const directory = await createDirectory(tmpdir(), { signal });
  const lifetime = createLifetime({ signal, cleanup: directory.remove });
  try {
    const files = writeFiles(directory.path, []);
    const start = (name: string, command: string, args: string[]) =>
      lifetime.start({ name, command, args, log: join(files.dir, 'log', `${name}.log`) });
    const wait = { signal: lifetime.signal, timeoutMs: START_TIMEOUT_MS };

    const port = await freePort();
    const server = `https://127.0.0.1:${port}`;
    for (const user of ['admin', 'controller-manager', 'scheduler', 'kwok'] as const) {
      writeKubeconfig(files, user, server);
    }
    const etcd = start('etcd', binaries.etcd, etcdFlags(files));
    const startApiServer = () =>
      start('kube-apiserver', binaries['kube-apiserver'], apiServerFlags(files, { bindAddress: '127.0.0.1', port }));
    let apiServer = startApiServer();
    const access = { server, ca: files.ca, token: files.tokens.admin, signal: lifetime.signal };
    await using api = createApi(access);
    const untilReady = (asked: Api) => until('kube-apiserver to be ready', () => asked.call('GET', '/readyz'), wait);
    await untilReady(api);
    start('kube-controller-manager', binaries['kube-controller-manager'], controllerManagerFlags(files));
    if (fake) {
      start('kube-scheduler', fake['kube-scheduler'], schedulerFlags(files));
      start('kwok', fake.kwok, kwokFlags(files, KWOK_STAGES));
      await api.call('POST', '/api/v1/nodes', { metadata: { name: 'fake' } });
      await until('the fake node to be Ready', async () => isReady(await api.call('GET', '/api/v1/nodes/fake')), wait);
    }
    await untilPodsAreAllowed(api, wait);
    return {
      ...clusterOf(files, server, apiServer.pid, lifetime),
      etcdPid: etcd.pid,
      killApiServer: () => apiServer.kill(),
      async startApiServer() {
        apiServer = startApiServer();
        await using again = createApi(access);
        await untilReady(again);
      },
    };
  } catch (error) {
    await lifetime.stop();
    throw lifetime.signal.aborted ? lifetime.signal.reason : error;
  }
}

/** What a caller gets of a cluster that is ready. */
export function clusterOf(files: Files, server: string, apiServerPid: number, { failed, stop }: Lifetime): Cluster {
  return {
    kubeconfig: kubeconfigPath(files, 'admin'),
    server,
    caData: caData(files),
    token: files.tokens.admin,
    dir: files.dir,
    auditLog: files.auditLog,
    apiServerPid,
    failed,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

const KWOK_STAGES = join(dirname(fileURLToPath(import.meta.url)), 'kwok-stages.yaml');

/** A TCP port of 127.0.0.1 that nobody had a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no free TCP port on 127.0.0.1');
  return address.port;
}
