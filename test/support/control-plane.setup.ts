/** Starts one control plane with a fake node for all API tests, and installs the CRD. */
import { readFileSync } from 'node:fs';
import { load } from 'js-yaml';
import type { TestProject } from 'vitest/node';
import type { Declared } from '../../src/api/meta.ts';
import { startControlPlane } from '../cluster/cluster.ts';
import { CRDS, connect, until } from './kube.ts';

declare module 'vitest' {
  interface ProvidedContext {
    kubeconfig: string;
    auditLog: string;
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const abort = new AbortController();
  const cluster = await startControlPlane({ kwok: true, signal: abort.signal, progress: line => console.log(line) });
  await installCrd(cluster.kubeconfig);
  project.provide('kubeconfig', cluster.kubeconfig);
  project.provide('auditLog', cluster.auditLog);
  return async () => {
    await cluster.stop();
    abort.abort();
  };
}

/** Applies a CRD, ours unless another is named, and waits until the API server serves it. */
export async function installCrd(
  kubeconfig: string,
  file = 'crds/personalconnectors.connectors.aitronos.com.yaml',
): Promise<void> {
  const api = connect(kubeconfig);
  const crd = load(readFileSync(file, 'utf8')) as Declared;
  await api.client.apply(CRDS, crd, { fieldManager: 'test' }, api.signal);
  const isEstablished = ({ status }: { status?: { conditions?: { type: string; status: string }[] } }): boolean =>
    status?.conditions?.some(({ type, status }) => type === 'Established' && status === 'True') ?? false;
  await until(api, CRDS, {}, crd.metadata.name, object => object !== undefined && isEstablished(object as never));
  await api.close();
}
