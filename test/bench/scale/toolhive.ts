/**
 * The peer: ToolHive's operator, as its own chart starts it. All of it comes from its Go module: the binary, its CRDs and
 * its settings. A remote connector is an MCPServerEntry there, a hosted one an MCPServer.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { load } from 'js-yaml';
import type { KubeObject } from '../../../src/api/meta.ts';
import { moduleFiles, resolveBinaries } from '../../cluster/binaries.ts';
import { type ControlPlane, freePort } from '../../cluster/cluster.ts';
import { run, startDaemon, until } from '../../cluster/process.ts';
import { parseMetrics } from '../../faults/process.ts';
import { installCrd } from '../../support/control-plane.setup.ts';
import { forEach } from './client.ts';
import type { Contender } from './run.ts';
import { CONNECTIONS, type Subject } from './subjects.ts';
import { NAMESPACE, type Workload } from './workloads.ts';

const API = `/apis/toolhive.stacklok.dev/v1beta1/namespaces/${NAMESPACE}`;
const GROUPS = `${API}/mcpgroups`;
/** Each MCPServerEntry has to be in one. */
const GROUP = 'bench';
/** Those that a workload keeps busy. */
const CONTROLLERS = ['mcpgroup', 'mcpserver', 'mcpserverentry'];

interface Server extends KubeObject {
  status?: { observedGeneration?: number; phase?: string; url?: string };
}

interface PeerWorkload extends Workload<Server> {
  /** What somebody else makes for each of them. */
  beside?: { path: string; object(name: string): object };
}

const isCurrent = ({ metadata, status }: Server): boolean => status?.observedGeneration === metadata.generation;

const object = (kind: string, name: string, spec: object) => ({
  apiVersion: 'toolhive.stacklok.dev/v1beta1',
  kind,
  metadata: { name, namespace: NAMESPACE },
  spec,
});

const WORKLOADS: readonly PeerWorkload[] = [
  {
    name: 'remote',
    path: `${API}/mcpserverentries`,
    object: name =>
      object('MCPServerEntry', name, {
        remoteUrl: `https://${name}.example.com/mcp`,
        transport: 'streamable-http',
        groupRef: { name: GROUP },
      }),
    edit: note => ({ spec: { headerForward: { addPlaintextHeaders: { 'X-Note': note } } } }),
    isSettled: entry => isCurrent(entry) && entry.status?.phase === 'Valid',
  },
  {
    name: 'hosted',
    path: `${API}/mcpservers`,
    object: name =>
      object('MCPServer', name, { image: 'bench/mcp:1.0.0', transport: 'streamable-http', mcpPort: 8000 }),
    // Whatever is edited, its Pods are rolled out anew: the generation stands in a file of theirs.
    edit: note => ({ spec: { args: [note] } }),
    // The URL is written once the last child was created.
    isSettled: server => isCurrent(server) && server.status?.url !== undefined,
    // A real proxy makes it when it starts. Fake Pods do not, and without it the operator would restart them again and
    // again.
    beside: {
      path: `/apis/apps/v1/namespaces/${NAMESPACE}/statefulsets`,
      object: name => ({
        metadata: { name, labels: { toolhive: 'true', 'toolhive-name': name } },
        spec: {
          replicas: 0,
          selector: { matchLabels: { app: name } },
          template: {
            metadata: { labels: { app: name } },
            spec: { containers: [{ name: 'mcp', image: 'bench/mcp:1.0.0' }] },
          },
        },
      }),
    },
  },
];

/** ToolHive's operator, with those of its workloads that have one of these names. */
export function toolhive(names: ReadonlySet<string>): Contender<PeerWorkload> {
  return {
    name: 'toolhive',
    userAgent: 'thv-operator/',
    workloads: WORKLOADS.filter(({ name }) => names.has(name)),
    async install(cluster, client) {
      const crds = join(await charts(cluster), 'operator-crds', 'files', 'crds');
      for (const file of readdirSync(crds)) await installCrd(cluster.kubeconfig, join(crds, file));
      await client.call('POST', GROUPS, object('MCPGroup', GROUP, {}));
    },
    async prepare(client, { beside }, objects) {
      await forEach(beside ? objects : [], CONNECTIONS, async name => {
        await client.call('POST', beside?.path ?? '', beside?.object(name));
      });
    },
    start,
  };
}

async function start(cluster: ControlPlane): Promise<Subject> {
  const signal = cluster.failed;
  const binaries = await resolveBinaries(['thv-operator', 'helm'], { signal, progress: console.error });
  const env = await settingsOf(binaries.helm, await charts(cluster), signal);
  const port = await freePort();
  const startedAt = performance.now();
  const daemon = startDaemon({
    name: 'thv-operator',
    command: binaries['thv-operator'],
    args: ['--metrics-bind-address', `127.0.0.1:${port}`, '--health-probe-bind-address', '0'],
    log: join(cluster.dir, 'log', `thv-operator-${port}.log`),
    env: { ...process.env, ...env, KUBECONFIG: cluster.kubeconfig },
  });
  const wait = { signal: AbortSignal.any([signal, daemon.ended]), timeoutMs: 60_000, everyMs: 5 };
  const working = (): boolean => {
    const lines = readFileSync(daemon.log, 'utf8').split('\n');
    return CONTROLLERS.every(name =>
      lines.some(line => line.includes('Starting workers') && new RegExp(`controller\\W+${name}\\b`).test(line)),
    );
  };
  await until("the peer's controllers to work", working, wait);
  const startMs = Math.round(performance.now() - startedAt);
  return {
    startMs,
    pid: daemon.pid,
    ended: daemon.ended,
    told() {},
    async idle() {
      const look = async (): Promise<boolean> => {
        const metrics = parseMetrics(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text());
        const busy = /^(workqueue_depth|controller_runtime_active_workers)\{/;
        return [...metrics].every(([name, value]) => !busy.test(name) || value === 0);
      };
      await until('the peer to be idle', look, { ...wait, timeoutMs: 600_000, everyMs: 20 });
    },
    [Symbol.asyncDispose]: () => daemon.kill(),
  };
}

async function charts({ failed }: ControlPlane): Promise<string> {
  return join(await moduleFiles('toolhive', 'github.com/stacklok/toolhive', failed), 'deploy', 'charts');
}

/** The environment that its chart gives its operator. */
async function settingsOf(helm: string, dir: string, signal: AbortSignal): Promise<Record<string, string>> {
  const only = 'templates/deployment.yaml';
  const rendered = await run(helm, ['template', 'toolhive', join(dir, 'operator'), '--show-only', only], { signal });
  const { spec } = load(rendered) as {
    spec: { template: { spec: { containers: { env: { name: string; value?: string }[] }[] } } };
  };
  const env = spec.template.spec.containers.flatMap(container => container.env);
  const given = env.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]]));
  // It would ask its makers for a newer version.
  return { ...Object.fromEntries(given), POD_NAMESPACE: NAMESPACE, TOOLHIVE_SKIP_UPDATE_CHECK: 'true' };
}
