/** What the operator writes for one connector, seen by a proxy: the floor is to write the same. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../../src/api/connector.ts';
import type { ControlPlane } from '../../cluster/cluster.ts';
import { startProxy } from '../../faults/proxy.ts';
import { connect, until } from '../../support/kube.ts';
import { GENERATION, NAME, type Recorded, UID, type Write } from './floor.ts';
import { startOurs } from './subjects.ts';
import { NAMESPACE, type OwnWorkload } from './workloads.ts';

const RECORDED = 'recorded-connector';

export async function record(cluster: ControlPlane, workload: OwnWorkload): Promise<Recorded> {
  const proxy = await startProxy(cluster.kubeconfig);
  await using _ = proxy;
  const api = connect(cluster.kubeconfig);
  await using _operator = await startOurs({ ...cluster, kubeconfig: proxy.kubeconfig }, workload.policy);
  try {
    const { spec, ...connector } = workload.object(RECORDED) as { spec: object };
    const apply = (spec: object): Promise<PersonalConnector> =>
      api.client.apply<PersonalConnector>(
        PERSONAL_CONNECTORS,
        { ...connector, spec } as never,
        { fieldManager: 'bench' },
        api.signal,
      );
    const settled = (): Promise<PersonalConnector> =>
      until<PersonalConnector>(
        api,
        PERSONAL_CONNECTORS,
        { namespace: NAMESPACE },
        RECORDED,
        object => object !== undefined && workload.isAtRest(object),
      );
    const { metadata } = await apply(spec);
    await settled();
    await quiet(proxy);
    const taken = (from: number): Write[] =>
      proxy.log
        .slice(from)
        .filter(({ isWrite }) => isWrite)
        .map(({ method, path, body }) => ({
          method,
          path: path.replaceAll(RECORDED, NAME),
          contentType: method === 'PATCH' ? 'application/apply-patch+yaml' : 'application/json',
          body: JSON.stringify(body)
            .replaceAll(RECORDED, NAME)
            .replaceAll(metadata.uid, UID)
            .replaceAll(/"observedGeneration":[12]\b/g, `"observedGeneration":${GENERATION}`),
        }));
    const created = taken(0);
    const seen = proxy.log.length;
    await apply({ ...spec, ...(workload.edit('edited') as { spec: object }).spec });
    await settled();
    await quiet(proxy);
    return { created, edited: taken(seen) };
  } finally {
    await api.client.remove(
      PERSONAL_CONNECTORS,
      await api.client.get(PERSONAL_CONNECTORS, { namespace: NAMESPACE, name: RECORDED }, api.signal),
      api.signal,
    );
    await api.close();
  }
}

/** Until nothing was asked for a second: Events come after the status that they tell of. */
async function quiet({ log }: { log: readonly unknown[] }): Promise<void> {
  for (let seen = -1; seen !== log.length; ) {
    seen = log.length;
    await sleep(1_000);
  }
}
