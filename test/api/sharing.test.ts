/** Operators that share the work, with the rights that the chart gives them and no others. */
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import { LEASES, type Lease } from '../../src/kube/lease.ts';
import { type Operator, startOperator } from '../../src/main.ts';
import { requests } from '../support/audit.ts';
import { accountOf, configOf, grant, type Rendered, renderFor } from '../support/granted.ts';
import { createSandbox, type Sandbox, until } from '../support/kube.ts';

let home: Sandbox;
const running = new Set<Operator>();
const users = new Set<string>();

beforeAll(async () => {
  home = await createSandbox(inject('kubeconfig'));
});
afterAll(async () => {
  await Promise.all([...running].map(operator => operator.stop()));
  await home?.dispose();
});

/** The chart with these values, granted. */
async function install(values: string): Promise<Rendered[]> {
  const rendered = await renderFor(home, `watchNamespaces={${home.namespace}},${values}`);
  await grant(rendered, home);
  return rendered;
}

async function start(rendered: Rendered[], podName: string): Promise<Operator> {
  const { user, kubeConfig } = await accountOf(rendered, home);
  users.add(user);
  const config = configOf(rendered, home, podName);
  const operator = await startOperator({ kubeConfig, config, log: pino({ level: 'fatal' }) });
  running.add(operator);
  await operator.ready;
  return operator;
}

async function stop(operator: Operator): Promise<void> {
  running.delete(operator);
  await operator.stop();
}

/** How many connectors an operator looks after. */
async function ownedBy({ port }: Operator): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(/^personal_connectors_owned (\d+)$/m.exec(text)?.[1]);
}

const COUNT = 20;
/** Changes all connectors, and waits until the status of each tells of it. */
async function change(version: string): Promise<void> {
  const names = Array.from({ length: COUNT }, (_, nth) => `c-${nth}`);
  for (const name of names)
    await home.applyConnector(name, {
      name: 'Plain',
      type: 'custom',
      connectorId: 'plain',
      version,
      serverUrl: 'https://192.0.2.1/mcp',
      probe: { enabled: false },
    });
  for (const name of names)
    await home.until<PersonalConnector>(PERSONAL_CONNECTORS, name, found =>
      Boolean(found && found.status?.observedGeneration === found.metadata.generation),
    );
}

describe('the chart grants what is needed', () => {
  it('to share the work, to take over, and to have one lead again: nothing is refused', async () => {
    const sharing = await install('sharding.replicas=2');
    const first = await start(sharing, 'first');
    await change('1.0.0');
    const second = await start(sharing, 'second');
    await change('2.0.0');
    const owned = await Promise.all([first, second].map(ownedBy));
    expect(Math.min(...owned)).toBeGreaterThan(0);
    expect(owned.reduce((sum, count) => sum + count)).toBe(COUNT);
    await stop(first);
    await change('3.0.0');
    // One that died with a seat beyond those that there are to be.
    const name = 'personal-connector-operator-4';
    await home.apply<Lease>(LEASES, {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: {
        name,
        namespace: home.namespace,
        labels: { 'connectors.aitronos.com/lease': 'personal-connector-operator' },
      },
      spec: { holderIdentity: 'dead', leaseDurationSeconds: 1 },
    });
    const leading = await start(await install('replicas=1'), 'leader');
    await stop(second);
    await change('4.0.0');
    expect(await ownedBy(leading)).toBe(COUNT);
    await until<Lease>(home, LEASES, { namespace: home.namespace }, name, found => found?.spec?.holderIdentity === '');
    const refused = requests(inject('auditLog')).filter(({ user, code }) => users.has(user) && code === 403);
    expect(refused).toEqual([]);
  });
});
