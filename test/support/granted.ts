/** The operator as the chart runs it in a namespace: with its environment, and with the rights that it is granted and no others. */
import { KubeConfig } from '@kubernetes/client-node';
import { loadAll } from 'js-yaml';
import { render } from '../../scripts/install.ts';
import type { Declared, ResourceType } from '../../src/api/meta.ts';
import { type Config, readConfig } from '../../src/config.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import type { Sandbox } from './kube.ts';

const rbac = (plural: string, kind: string): ResourceType => ({
  group: 'rbac.authorization.k8s.io',
  version: 'v1',
  plural,
  kind,
});
const GRANTS: Record<string, ResourceType> = {
  Role: rbac('roles', 'Role'),
  RoleBinding: rbac('rolebindings', 'RoleBinding'),
  ServiceAccount: { group: '', version: 'v1', plural: 'serviceaccounts', kind: 'ServiceAccount' },
};

export interface Rendered extends Declared {
  rules?: { resources: string[] }[];
  spec?: { template: { spec: { containers: { env: { name: string; value?: string }[] }[] } } };
}

/** What the chart makes with these values, installed at `home`. */
export async function renderFor(home: Sandbox, values: string): Promise<Rendered[]> {
  const { helm } = await resolveBinaries(['helm'], { signal: home.signal, progress: console.log });
  const manifest = await render(helm, '--namespace', home.namespace, '--set', values);
  return loadAll(manifest).filter((object): object is Rendered => object !== null);
}

/** Applies what the chart grants in a namespace, but for some. */
export async function grant(
  rendered: readonly Rendered[],
  sandbox: Sandbox,
  withheld: readonly string[] = [],
): Promise<void> {
  for (const object of rendered) {
    const type = GRANTS[object.kind];
    if (!type || object.metadata.namespace !== sandbox.namespace) continue;
    const rules = object.rules?.filter(({ resources }) => !resources.some(resource => withheld.includes(resource)));
    await sandbox.apply(type, { ...object, ...(rules && { rules }) });
  }
}

/** The ServiceAccount, by its name to the API server and with a token. */
export async function accountOf(
  rendered: readonly Rendered[],
  home: Sandbox,
): Promise<{ user: string; kubeConfig: KubeConfig }> {
  const account = rendered.find(({ kind }) => kind === 'ServiceAccount')?.metadata;
  const { status } = await home.transport.call<{ status: { token: string } }>({
    method: 'POST',
    path: `/api/v1/namespaces/${home.namespace}/serviceaccounts/${account?.name}/token`,
    body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } },
    signal: home.signal,
  });
  const cluster = home.kubeConfig.getCurrentCluster();
  if (!cluster) throw new Error('the kubeconfig names no cluster');
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromOptions({
    clusters: [cluster],
    users: [{ name: 'operator', token: status.token }],
    contexts: [{ name: 'operator', cluster: cluster.name, user: 'operator' }],
    currentContext: 'operator',
  });
  return { user: `system:serviceaccount:${home.namespace}:${account?.name}`, kubeConfig };
}

/** The settings by the Deployment's environment, without its file. */
export function configOf(rendered: readonly Rendered[], home: Sandbox, podName: string): Config {
  const [container] = rendered.find(({ kind }) => kind === 'Deployment')?.spec?.template.spec.containers ?? [];
  const env = Object.fromEntries((container?.env ?? []).map(({ name, value }) => [name, value]));
  const where = { ...env, CONFIG_FILE: '', POD_NAME: podName, POD_NAMESPACE: home.namespace };
  const config = readConfig(['--host', '127.0.0.1', '--port', '0'], where);
  if (config === 'help') throw new Error('unreachable');
  return config;
}
