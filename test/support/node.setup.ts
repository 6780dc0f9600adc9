/** Brings up the product on a real node for the e2e tests; says in one line why not, where that cannot be. */
import type { TestProject } from 'vitest/node';
import { startDemo } from '../demo/demo.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** Why there is no node; the tests are skipped then. */
    noNode: string | undefined;
    everythingImage: string;
    staticImage: string;
    /** A file of values that the chart needs here: images and addresses. */
    chartValues: string;
    /** What to run before a command that is to run where Service addresses work. */
    insideCluster: readonly [string, ...string[]];
  }
}

export async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const why = process.platform !== 'linux' ? 'it needs Linux' : process.getuid?.() !== 0 ? 'it needs root' : undefined;
  project.provide('noNode', why);
  if (why) {
    console.log(
      `e2e tests are skipped: ${why} (a kubelet with real Pods); run them as root on Linux: sudo npm run test:e2e`,
    );
    return undefined;
  }
  const abort = new AbortController();
  const demo = await startDemo({ signal: abort.signal, progress: line => console.log(line) });
  project.provide('kubeconfig', demo.node.kubeconfig);
  project.provide('auditLog', demo.node.auditLog);
  project.provide('everythingImage', demo.images.everything.image);
  project.provide('staticImage', demo.images.static.image);
  project.provide('chartValues', demo.values);
  const { command, args } = demo.node.enter('', []);
  project.provide('insideCluster', [command, ...args.slice(0, -1)]);
  return async () => {
    await demo.stop();
    abort.abort();
  };
}
