/**
 * The whole product on a real node: images built here, the chart installed by Helm, servers to connect to. What
 * `npm start` shows and the e2e tests use.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { dump } from 'js-yaml';
import { resolveBinaries } from '../cluster/binaries.ts';
import { buildImage, type Image } from '../cluster/images.ts';
import { type Node, startNode } from '../cluster/node.ts';
import { operatorSource } from '../cluster/operator-image.ts';

const root = dirname(dirname(import.meta.dirname));
export const OPERATOR_NAMESPACE = 'connectors-system';
export const OPERATOR_DEPLOYMENT = 'personal-connector-operator';

export const CHART = join(root, 'charts', 'personal-connector-operator');

/** Of `helm install`, for the operator that everybody here shares. */
export function installArgs(values: string): string[] {
  return [OPERATOR_DEPLOYMENT, CHART, '-n', OPERATOR_NAMESPACE, '-f', values, '--wait', '--timeout', '120s'];
}

export interface DemoOptions {
  internet?: boolean;
  /** Instead of the chart's default. */
  probeIntervalSeconds?: number;
  signal: AbortSignal;
  progress: (line: string) => void;
}

export interface Demo {
  node: Node;
  images: Images;
  /** Image and catalog values that this machine's images need; pass them to further `helm` calls. */
  values: string;
  kubectl(...args: string[]): Promise<string>;
  kubectlApply(manifest: string): Promise<void>;
  helm(...args: string[]): Promise<string>;
  stop(): Promise<void>;
}

/** Brings everything up; ready when the operator is Available and the other servers answer. */
export async function startDemo(options: DemoOptions): Promise<Demo> {
  const { internet = false, probeIntervalSeconds, signal, progress } = options;
  const [images, { kubectl, helm }, node] = await settle(
    [
      buildImages({ signal, progress }),
      resolveBinaries(['kubectl', 'helm'], { signal, progress }),
      startNode({ internet, signal, progress }),
    ] as const,
    started => started.stop(),
  );

  const temporary = mkdtempSync(join(tmpdir(), 'pco-demo-'));
  const stop = async (): Promise<void> => {
    rmSync(temporary, { recursive: true, force: true });
    await node.stop();
  };
  try {
    const values = join(temporary, 'values.yaml');
    writeFileSync(
      values,
      dump({
        ...chartValues(images),
        ...(probeIntervalSeconds && { probe: { intervalSeconds: probeIntervalSeconds } }),
      }),
    );
    const env = {
      ...process.env,
      KUBECONFIG: node.kubeconfig,
      HELM_CACHE_HOME: temporary,
      HELM_CONFIG_HOME: temporary,
      HELM_DATA_HOME: temporary,
    };
    const run =
      (command: string) =>
      (...args: string[]) =>
        node.exec(command, args, { env });
    const demo: Demo = {
      node,
      images,
      values,
      kubectl: run(kubectl),
      helm: run(helm),
      kubectlApply: async manifest => {
        await node.exec(kubectl, ['apply', '--server-side', '-f', '-'], { env, input: manifest });
      },
      stop,
    };

    progress('loading the images into the node…');
    await Promise.all(Object.values(images).map(({ archive }) => node.loadImage(archive)));
    await demo.kubectl('create', 'namespace', OPERATOR_NAMESPACE);
    await demo.kubectl('label', 'namespace', OPERATOR_NAMESPACE, 'pod-security.kubernetes.io/enforce=restricted');
    await demo.kubectlApply(
      readFileSync(join(import.meta.dirname, 'tools.yaml'), 'utf8').replaceAll('IMAGE', images.everything.image),
    );
    progress('installing the operator with Helm…');
    await demo.helm('install', ...installArgs(values));
    await demo.kubectl('-n', 'tools', 'wait', '--for=condition=Available', 'deployment', '--all', '--timeout=120s');
    return demo;
  } catch (error) {
    await stop();
    throw node.failed.aborted ? node.failed.reason : error;
  }
}

export type Images = Record<'operator' | 'jira' | 'clickup' | 'teams' | 'everything' | 'static', Image>;

async function buildImages(options: { signal: AbortSignal; progress: (line: string) => void }): Promise<Images> {
  const dir = (name: string): string => join(root, 'test', 'cluster', 'images', name);
  const source = (name: string, context: string, bases: Parameters<typeof buildImage>[0]['bases']) => ({
    name,
    context,
    dockerfile: join(context, 'Dockerfile'),
    ...(bases && { bases }),
  });
  const everything = await buildImage(
    source('everything', dir('everything'), { BASE: 'node', BUILD: 'node-build' }),
    options,
  );
  const python = { BASE: 'python', BUILD: 'python-build' } as const;
  const jira = await buildImage(source('jira', dir('jira'), python), options);
  const clickup = await buildImage(source('clickup', dir('clickup'), python), options);
  const teams = await buildImage(source('teams', dir('teams'), { BASE: 'node', BUILD: 'node-build' }), options);
  using ours = operatorSource();
  const operator = await buildImage(ours, options);
  const bare = await buildImage(source('static', dir('static'), { BASE: 'pause' }), options);
  return { operator, jira, clickup, teams, everything, static: bare };
}

/** What differs from the chart's defaults: images that are here, and leave to reach the servers in namespace `tools`. */
function chartValues({ operator, everything, static: bare, ...hosted }: Images): object {
  const split = ({ image }: Image): [string, string] => {
    const colon = image.lastIndexOf(':');
    return [image.slice(0, colon), image.slice(colon + 1)];
  };
  const [repository, tag] = split(operator);
  return {
    image: { repository, tag },
    catalog: Object.fromEntries(
      Object.entries(hosted).map(([connectorId, built]) => {
        const [image, defaultVersion] = split(built);
        return [connectorId, { image, defaultVersion }];
      }),
    ),
    addressPolicy: { allowHosts: ['*.tools.svc.cluster.local'] },
    allowedImages: [everything, bare].map(({ image }) => `${image.split(':')[0]}:*`).concat('registry.invalid/*'),
  };
}

/** Like Promise.all, but when one fails the last one, if it came up, is ended. */
async function settle<A, B, C>(
  promises: readonly [Promise<A>, Promise<B>, Promise<C>],
  end: (started: C) => Promise<void>,
): Promise<[A, B, C]> {
  try {
    return await Promise.all(promises);
  } catch (error) {
    await promises[2].then(end, () => {});
    throw error;
  }
}
