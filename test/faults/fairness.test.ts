/** One namespace is busy beyond measure, and another one hardly notices. */
import { expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import { until as untilAsked } from '../cluster/process.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { buildOperator } from './process.ts';
import { type Call, startProxy } from './proxy.ts';
import { inTurn, patchObject } from './settled.ts';

const CROWD = Array.from({ length: 1_000 }, (_, index) => `crowd-${index}`);
const custom = (name: string) => ({
  name,
  type: 'custom' as const,
  connectorId: 'custom_mcp',
  serverUrl: `https://${name}.example.com/mcp`,
  probe: { enabled: false },
});
const isStatus = ({ resource, subresource, isWrite }: Call): boolean =>
  isWrite && resource === PERSONAL_CONNECTORS.plural && subresource === 'status';

it('a thousand connectors that change in one namespace let another one have every second turn', async context => {
  const crowd = await createSandbox(inject('kubeconfig'));
  const alone = await createSandbox(inject('kubeconfig'));
  const executable = await buildOperator(inject('kubeconfig'));
  const proxy = await startProxy(inject('kubeconfig'));
  context.onTestFinished(async () => {
    await executable[Symbol.asyncDispose]();
    await proxy.close();
    await crowd.dispose();
    await alone.dispose();
  });
  const turns = inTurn(16);
  const eachOfCrowd = (work: (name: string) => Promise<unknown>): Promise<unknown> =>
    Promise.all(CROWD.map(name => turns(() => work(name))));
  const edit = (cluster: Sandbox, name: string): Promise<unknown> =>
    patchObject(cluster, PERSONAL_CONNECTORS, name, { spec: { description: 'edited' } });

  await eachOfCrowd(name => crowd.applyConnector(name, custom(name)));
  // The only worker has a status in its hands that it cannot write; all else comes to wait.
  const gate = Promise.withResolvers<void>();
  const shut = proxy.rule(
    isStatus,
    async ({ pass }) => {
      await gate.promise;
      await pass();
    },
    1,
  );
  const operator = await executable.start({
    kubeconfig: proxy.kubeconfig,
    namespace: crowd.namespace,
    args: ['--namespace', alone.namespace, '--workers', '1'],
  });
  await shut.hit;
  await eachOfCrowd(name => edit(crowd, name));
  await alone.applyConnector('edited', custom('edited'));
  await edit(alone, 'edited');
  await alone.applyConnector('fresh', custom('fresh'));
  // Each waits anew when its change raises it, but for the one in hand, and the fresh one.
  const added = 2 * (CROWD.length + 1);
  await untilAsked(
    'all changes to be known',
    async () => {
      const metrics = await operator.metrics();
      return metrics.get('workqueue_adds_total{name="personalconnector"}') === added;
    },
    { signal: crowd.signal, timeoutMs: 60_000 },
  );
  const before = proxy.log.length;
  gate.resolve();
  await alone.untilReady('edited', 'True', 'ProbeDisabled');
  await alone.untilReady('fresh', 'True', 'ProbeDisabled');

  const served = proxy.log
    .slice(before)
    .filter(isStatus)
    .map(({ namespace, name }) => (namespace === alone.namespace ? name : 'one of the crowd'));
  expect(served.indexOf('edited')).toBe(1);
  // Behind nine high ones, as low ones are; of which some may find that there is nothing to write.
  expect(served).toContain('fresh');
  expect(served.indexOf('fresh')).toBeLessThanOrEqual(9);
});
