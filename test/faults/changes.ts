/** Connectors that change all the time, and cost no more than a write for each change. */
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { type Sandbox, watchObjects } from '../support/kube.ts';

/** A connector that costs one write of its status for each change. */
export const plain = (version: string) =>
  ({
    name: 'Plain',
    type: 'custom',
    connectorId: 'plain',
    version,
    serverUrl: 'http://127.0.0.1:1/mcp',
    probe: { enabled: false },
  }) as const;

/** Whether the status tells of the last change. */
export const isTold = ({ metadata, status }: PersonalConnector): boolean =>
  status?.observedGeneration === metadata.generation;

/** Changes one connector after another, until told to stop; then waits until the status of each one tells of its last change. */
export function keepChanging(cluster: Sandbox, count: number): { stop(): Promise<void> } {
  let stopped = false;
  const change = async (first: number): Promise<void> => {
    for (let turn = 0; !stopped; turn++) {
      await cluster.applyConnector(`c-${(first + turn * 4) % count}`, plain(`1.0.${turn}`));
    }
  };
  const changing = Promise.all([0, 1, 2, 3].map(change));
  changing.catch(() => {}); // Told to whom stops it.
  return {
    async stop() {
      stopped = true;
      await changing;
      const allTold = Promise.withResolvers<void>();
      const view = watchObjects<PersonalConnector>(
        cluster,
        PERSONAL_CONNECTORS,
        { namespace: cluster.namespace },
        objects => {
          if (objects.every(isTold)) allTold.resolve();
        },
      );
      await allTold.promise;
      await view.stop();
    },
  };
}
