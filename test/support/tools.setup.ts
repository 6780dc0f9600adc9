/** Gets the programs that tests run, before the tests: a first build takes minutes. */
import { type Binary, resolveBinaries } from '../cluster/binaries.ts';

/** What the tests of the chart and of what is applied by GitOps tools need, by project. */
const TOOLS: Record<string, readonly Binary[]> = {
  chart: ['helm', 'helm-unittest', 'helm-docs', 'promtool', 'gitops-health', 'netpol'],
  api: ['helm', 'kubectl', 'kubeconform', 'prometheus', 'gitops-health'],
};

export async function setup({ name }: { name: string }): Promise<void> {
  const abort = new AbortController();
  await resolveBinaries(TOOLS[name] ?? [], { signal: abort.signal, progress: line => console.log(line) });
}
