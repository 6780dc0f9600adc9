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
  await alone.applyConnector('edited', custom('edited'));
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
  const { name: first } = await shut.hit;
  await eachOfCrowd(name => edit(crowd, name));
  await edit(alone, 'edited');
  await alone.applyConnector('fresh', custom('fresh'));
  // Each of what waited was raised by its change and so counts twice, but for what is in hand, and for the fresh one.
  const added = 2 * (CROWD.length + 1);
  await untilAsked(
    'all changes to be known',
    async () => {
      const metrics = await operator.metrics();
      return metrics.get('workqueue_adds_total{name="personalconnector"}') === added;
    },
    { signal: crowd.signal, timeoutMs: 60_000 },
  );
  gate.resolve();
  await alone.untilReady('edited', 'True', 'ProbeDisabled');
  await alone.untilReady('fresh', 'True', 'ProbeDisabled');

  const served = proxy.log.filter(isStatus).map(({ namespace, name }) => `${namespace}/${name}`);
  expect(served[0]).toContain(`/${first}`);
  // The namespace whose turn it is comes first, and high before low but for one in ten.
  expect(served.indexOf(`${alone.namespace}/edited`)).toBeLessThanOrEqual(2);
  expect(served.indexOf(`${alone.namespace}/fresh`)).toBeLessThanOrEqual(10);
});
