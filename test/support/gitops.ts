/** What GitOps tools make of objects, by the libraries that they themselves use (test/cluster/go/gitops). */
import { readFileSync } from 'node:fs';
import { load } from 'js-yaml';
import { HEALTH } from '../../scripts/gitops.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { run } from '../cluster/process.ts';

export interface Verdict {
  status?: string;
  message?: string;
  error?: string;
}
export type Verdicts = Record<'argocd' | 'flux' | 'kstatus', Verdict>;

export interface HealthCheck {
  apiVersion: string;
  kind: string;
  inProgress: string;
  failed: string;
  current: string;
}

const kustomization = load(readFileSync('manifests/gitops/flux/kustomization.yaml', 'utf8')) as {
  spec: { healthCheckExprs: [HealthCheck] };
};
/** What the sample for Flux asks of connectors. */
export const [FLUX] = kustomization.spec.healthCheckExprs;

/** What each tool makes of each object: Argo CD by our script, Flux by `exprs`. */
export async function judged(objects: unknown[], exprs: HealthCheck = FLUX): Promise<Verdicts[]> {
  return (await ask({ lua: readFileSync(`${HEALTH}/health.lua`, 'utf8'), flux: exprs, objects })).verdicts;
}

/** What is wrong with objects of Flux's API, for each; empty if nothing is. */
export async function faultsOf(manifests: unknown[]): Promise<string[]> {
  return (await ask({ flux: FLUX, manifests })).faults;
}

async function ask(request: object): Promise<{ verdicts: Verdicts[]; faults: string[] }> {
  const signal = AbortSignal.timeout(60_000);
  const { 'gitops-health': program } = await resolveBinaries(['gitops-health'], { signal, progress: console.log });
  return JSON.parse(await run(program, [], { signal, input: JSON.stringify(request) }));
}
