/** The operator is killed at every single write, before and after it is committed, and starts again: all must be as if nothing had been. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { messageOf } from '../cluster/process.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { startMcp, type TestServer } from '../support/servers.ts';
import { note } from './figures.ts';
import { buildOperator, type Executable, lastWords, type OperatorProcess } from './process.ts';
import { type Call, dropAfter, dropBefore, type FaultProxy, startProxy } from './proxy.ts';
import { childrenOf, childrenWritten, inTurn, nthWrite, untilGone, untilSame, untilSettled } from './settled.ts';
import { differences, type Snapshot, snapshot } from './snapshot.ts';

const NAME = 'crashed';
const POLICY: PolicyInput = {
  catalog: { jira: { image: 'example.com/jira', defaultVersion: '1.0.0', env: { B: '2', A: '1' } } },
  allowedImages: ['example.com/*'],
  addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
};
/** How many operators live at a time, on a machine of two cores. */
const AT_A_TIME = 8;

let server: TestServer;
let executable: Executable;
beforeAll(async () => {
  [server, executable] = await Promise.all([startMcp({ name: 'jira-mcp' }), buildOperator(inject('kubeconfig'))]);
});
afterAll(async () => {
  await executable?.[Symbol.asyncDispose]();
  await server?.close();
});

interface Scenario {
  title: string;
  /** What is there, and settled, before; absent: nothing. */
  before?: () => PersonalConnectorSpec;
  change(cluster: Sandbox): Promise<unknown>;
  /** Happens while the operator is dead. */
  meanwhile?(cluster: Sandbox): Promise<unknown>;
  /** What there is in the end: the Service of a hosted connector that is well, a remote one that is, or nothing. */
  end: 'old' | 'new' | 'remote' | 'gone';
}

const hosted = (more: Partial<PersonalConnectorSpec> = {}): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'aitronos_built',
  connectorId: 'jira',
  serverUrl: `http://${NAME}-old:${server.port}/mcp`,
  hosting: { replicas: 1 },
  ...more,
});
const remote = (): PersonalConnectorSpec => ({
  name: 'Jira',
  type: 'custom',
  connectorId: 'jira',
  serverUrl: server.url,
});
const apply = (spec: () => PersonalConnectorSpec) => (cluster: Sandbox) => cluster.applyConnector(NAME, spec());
const remove = (cluster: Sandbox) => cluster.remove(PERSONAL_CONNECTORS, NAME);

const scenarios: Scenario[] = [
  { title: 'a hosted connector is made', change: apply(hosted), end: 'old' },
  { title: 'a remote connector is made', change: apply(remote), end: 'remote' },
  {
    title: 'a hosted connector gets another version, environment, number of Pods and Service',
    before: hosted,
    change: apply(() =>
      hosted({
        version: '2.0.0',
        serverUrl: `http://${NAME}-new:${server.port}/mcp`,
        hosting: { replicas: 2, env: [{ name: 'C', value: '3' }] },
      }),
    ),
    end: 'new',
  },
  { title: 'a hosted connector becomes a remote one', before: hosted, change: apply(remote), end: 'remote' },
  { title: 'a remote connector becomes a hosted one', before: remote, change: apply(hosted), end: 'old' },
  {
    title: 'a hosted connector goes into maintenance',
    before: hosted,
    change: apply(() => hosted({ lifecycle: 'maintenance' })),
    end: 'old',
  },
  {
    title: 'a hosted connector comes back from maintenance',
    before: () => hosted({ lifecycle: 'maintenance' }),
    change: apply(hosted),
    end: 'old',
  },
  { title: 'a hosted connector is deleted', before: hosted, change: remove, end: 'gone' },
  {
    title: 'a hosted connector is made, and deleted while the operator is dead',
    change: apply(hosted),
    meanwhile: remove,
    end: 'gone',
  },
];

const CHILDREN: Record<Scenario['end'], string[]> = {
  old: ['Deployment <name>', 'NetworkPolicy <name>', 'Service <name>-old'],
  // Of two Pods.
  new: ['Deployment <name>', 'NetworkPolicy <name>', 'PodDisruptionBudget <name>', 'Service <name>-new'],
  remote: [],
  gone: [],
};

const MOMENTS = { before: dropBefore, after: dropAfter };

/** Where the operator is killed: at which write, counted from the change on. */
interface Crash {
  write: number;
  moment: keyof typeof MOMENTS;
}

/** What came of a scenario. */
interface Outcome {
  found: Snapshot;
  /** Of the operator that saw the change. */
  writes: Call[];
  created: number;
  deleted: number;
  /** The write at which it was killed; absent: it never came so far. */
  killedAt?: Call;
}

/** Brings a change about, with a crash or without; after a crash all must become as it was `expected`. */
async function live(scenario: Scenario, crash?: Crash, expected?: Outcome): Promise<Outcome> {
  await using cleanup = new AsyncDisposableStack();
  const cluster = cleanup.adopt(await createSandbox(inject('kubeconfig')), sandbox => sandbox.dispose());
  const proxy = cleanup.use(await startProxy(inject('kubeconfig')));
  const start = async (): Promise<OperatorProcess> => {
    const { namespace } = cluster;
    return cleanup.use(await executable.start({ kubeconfig: proxy.kubeconfig, namespace, policy: POLICY }));
  };
  /** Waits for the end of a change and of all work for it. */
  const settle = async (operator: OperatorProcess, end?: Snapshot): Promise<void> => {
    try {
      if (end) await untilSame(cluster, NAME, end);
      else if ((await snapshot(cluster, NAME)).connector) await untilSettled(cluster, NAME);
      else await untilGone(cluster, NAME);
    } catch (error) {
      throw new Error(`${messageOf(error)}\nThe operator's last words:\n${lastWords(operator.lines)}`, {
        cause: error,
      });
    }
    await operator.idle();
  };
  const operator = await start();
  await operator.ready;
  if (scenario.before) {
    await cluster.applyConnector(NAME, scenario.before());
    await settle(operator);
  }
  const writes = countWrites(proxy);
  const kill = (): Promise<void> => operator.kill('SIGKILL');
  const rule = crash && proxy.rule(nthWrite(crash.write), MOMENTS[crash.moment](kill), 1);
  await scenario.change(cluster);
  // A graceful end writes what is still to be written, Events: only then it is sure that there was no such write.
  const undisturbed = settle(operator, scenario.meanwhile ? undefined : expected?.found).then(() => end(operator));
  // What waits for an operator that is killed meanwhile fails.
  await Promise.race([undisturbed.catch(() => {}), operator.exited]);
  const killedAt = rule?.hits[0];
  await (killedAt ? operator.exited : undisturbed);
  await scenario.meanwhile?.(cluster);
  if (killedAt || scenario.meanwhile) {
    const later = countWrites(proxy);
    const next = await start();
    await settle(next, expected?.found);
    await end(next);
    if (scenario.end === 'gone') expect(later().map(describeCall), 'writes for what is gone').toEqual([]);
  }

  return {
    // Once more, and from the API server itself: the last operator has ended, so this is how it stays.
    found: await snapshot(cluster, NAME),
    writes: writes(),
    ...childrenWritten(cluster, inject('auditLog')),
    ...(killedAt && { killedAt }),
  };
}

function countWrites({ log }: FaultProxy): () => Call[] {
  const from = log.length;
  return () => log.slice(from).filter(({ isWrite }) => isWrite);
}

/** Asks the operator to end; it must do so in good order, unless it is killed at that. */
async function end(operator: OperatorProcess): Promise<void> {
  const { code, signal } = await operator.terminate();
  if (signal !== 'SIGKILL') expect(code, 'exit code of the operator').toBe(0);
}

/** Over all scenarios. */
const turn = inTurn(AT_A_TIME);

/** A minute and a half on two idle cores, more where others work as well. */
const TIMEOUT_MS = 600_000;

describe.concurrent('killed at every write, before and after it is committed, the operator comes to the same end when', {
  timeout: TIMEOUT_MS,
}, () => {
  it.each(scenarios)('$title', async scenario => {
    const expected = await turn(() => live(scenario));
    expect(childrenOf(expected.found)).toEqual(CHILDREN[scenario.end]);
    const failures: string[] = [];
    let tried = 0;
    const attempt = (crash: Crash): Promise<boolean> =>
      turn(async () => {
        let at: string | undefined;
        try {
          const outcome = await live(scenario, crash, expected);
          at = outcome.killedAt ? describeCall(outcome.killedAt) : 'never reached';
          expect(differences(outcome.found, expected.found), 'differences from the state without a crash').toEqual([]);
          // What was deleted while it was being made was not made whole.
          if (!scenario.meanwhile)
            expect(outcome).toMatchObject({ created: expected.created, deleted: expected.deleted });
          return outcome.killedAt !== undefined;
        } catch (error) {
          failures.push(`killed ${crash.moment} write ${crash.write} (${at}): ${messageOf(error)}`);
          return false;
        } finally {
          if (at !== 'never reached') tried += 1;
        }
      });
    const both = (write: number): Promise<boolean[]> =>
      Promise.all([attempt({ write, moment: 'before' }), attempt({ write, moment: 'after' })]);
    await Promise.all(expected.writes.map((_, index) => both(index + 1)));
    // Status writes may be more or fewer from run to run: on until there is no such write any more.
    for (let write = expected.writes.length + 1; (await both(write)).includes(true); write += 1);
    note({
      table: 'Crash points',
      row: {
        scenario: scenario.title,
        writes: expected.writes.length,
        'crash points': tried,
        passed: tried - failures.length,
      },
    });
    expect(failures).toEqual([]);
  });
});

function describeCall({ verb, resource, subresource }: Call): string {
  return `${verb} ${resource}${subresource ? `/${subresource}` : ''}`;
}
