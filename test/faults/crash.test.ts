/** The operator is killed at every single write, before and after it is committed, and starts again: all must be as if nothing had been. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { isConflict } from '../../src/kube/errors.ts';
import { LEASES, type Lease } from '../../src/kube/lease.ts';
import { messageOf } from '../cluster/process.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { startMcp, type TestServer } from '../support/servers.ts';
import { LONG, note } from './figures.ts';
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
/** The same for pairs of them: who is kept from renewing a Lease for 10 s loses it. */
const PAIRS_AT_A_TIME = 3;

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

const LEASE = 'shared';
/** Those in which one of two is killed when there is little time: each kind of write is among theirs. */
const SHARED = [
  'a hosted connector is made',
  'a hosted connector gets another version, environment, number of Pods and Service',
];

const MOMENTS = { before: dropBefore, after: dropAfter };

/** Where the operator is killed: at which write, counted from the change on. */
interface Crash {
  write: number;
  moment: keyof typeof MOMENTS;
}

/** An operator whose Lease tells who it is. */
type Named = OperatorProcess & { name: string };

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

/**
 * Brings a change about, with a crash or without; after a crash all must become as it was `expected`. One operator is
 * started again after a crash; of several that share the work another one takes over.
 */
async function live(scenario: Scenario, count: number, crash?: Crash, expected?: Outcome): Promise<Outcome> {
  await using cleanup = new AsyncDisposableStack();
  const cluster = cleanup.adopt(await createSandbox(inject('kubeconfig')), sandbox => sandbox.dispose());
  const { namespace } = cluster;
  const proxies = await Promise.all(Array.from({ length: count }, () => startProxy(inject('kubeconfig'))));
  for (const proxy of proxies) cleanup.use(proxy);
  const sharing = ['--lease', LEASE, '--lease-namespace', namespace, '--share', String(count)];
  let started = 0;
  const start = async (): Promise<Named[]> => {
    const operators = await Promise.all(
      proxies.map(async ({ kubeconfig }) => {
        started += 1;
        const name = `operator-${started}`;
        const args = count > 1 ? sharing : [];
        const operator = await executable.start({
          kubeconfig,
          namespace,
          policy: POLICY,
          args,
          env: { POD_NAME: name },
        });
        return Object.assign(operator, { name });
      }),
    );
    for (const operator of operators) cleanup.use(operator);
    await Promise.all(operators.map(({ ready }) => ready));
    return operators;
  };
  /** Waits for the end of a change and of all work for it. */
  const settle = async (operators: OperatorProcess[], end?: Snapshot): Promise<void> => {
    try {
      if (end) await untilSame(cluster, NAME, end);
      else if ((await snapshot(cluster, NAME)).connector) await untilSettled(cluster, NAME);
      else await untilGone(cluster, NAME);
    } catch (error) {
      const words = operators.map(({ lines }) => lastWords(lines)).join('\n\n');
      throw new Error(`${messageOf(error)}\nThe operator's last words:\n${words}`, { cause: error });
    }
    await Promise.all(operators.map(operator => operator.idle()));
  };
  const operators = await start();
  if (scenario.before) {
    await cluster.applyConnector(NAME, scenario.before());
    await settle(operators);
  }
  const writes = countWrites(proxies);
  let killed: OperatorProcess | undefined;
  let isEnding = false;
  // Only the one whose own the connector is writes.
  const isIt = nthWrite(crash?.write ?? 0);
  const rules = operators.map((operator, nth) => {
    const kill = (): Promise<void> => {
      killed = operator;
      return operator.kill('SIGKILL');
    };
    return crash && proxies[nth]?.rule(isIt, MOMENTS[crash.moment](kill), 1);
  });
  await scenario.change(cluster);
  // A graceful end writes what is still to be written, Events: only then it is sure that there was no such write.
  const undisturbed = settle(operators, scenario.meanwhile ? undefined : expected?.found).then(() => {
    isEnding = true;
    return end(operators);
  });
  // What waits for an operator that is killed meanwhile fails.
  await Promise.race([undisturbed.catch(() => {}), ...operators.map(({ exited }) => exited)]);
  const killedAt = rules.flatMap(rule => rule?.hits ?? [])[0];
  await (killedAt ? killed?.exited : undisturbed);
  await scenario.meanwhile?.(cluster);
  if (killedAt || scenario.meanwhile) {
    const later = countWrites(proxies);
    const others = operators.filter(operator => operator !== killed);
    // Who ends with it takes nothing over.
    if (isEnding) await Promise.all(others.map(({ exited }) => exited));
    if (count > 1) await freeSeats(cluster, isEnding ? [] : others);
    const next = isEnding || others.length === 0 || scenario.meanwhile ? await start() : others;
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

/** Frees what the dead hold, and nobody would take for 15 s. */
async function freeSeats(cluster: Sandbox, alive: Named[]): Promise<void> {
  for (const { metadata } of await cluster.list<Lease>(LEASES)) {
    // The others may write to it as well.
    for (let isFree = false; !isFree; ) {
      const lease = await cluster.get<Lease>(LEASES, metadata.name);
      const holder = lease.spec?.holderIdentity ?? '';
      if (holder === '' || alive.some(({ name }) => holder.startsWith(`${name}_`))) break;
      const free = { ...lease, kind: LEASES.kind, spec: { ...lease.spec, holderIdentity: '' } };
      isFree = await cluster.client.replace<Lease>(LEASES, free, cluster.signal).then(
        () => true,
        error => {
          if (!isConflict(error)) throw error;
          return false;
        },
      );
    }
  }
}

function countWrites(proxies: FaultProxy[]): () => Call[] {
  const from = proxies.map(({ log }) => log.length);
  return () => proxies.flatMap(({ log }, nth) => log.slice(from[nth]).filter(({ isWrite }) => isWrite));
}

/** Asks the operator to end; it must do so in good order, unless it is killed at that. */
async function end(operators: OperatorProcess[]): Promise<void> {
  for (const { code, signal } of await Promise.all(operators.map(operator => operator.terminate())))
    if (signal !== 'SIGKILL') expect(code, 'exit code of the operator').toBe(0);
}

/** A minute and a half on two idle cores, more where others work as well. */
const TIMEOUT_MS = 600_000;

const WAYS: { who: string; count: number; of: Scenario[] }[] = [
  { who: 'the operator', count: 1, of: scenarios },
  {
    who: 'one of two that share the work',
    count: 2,
    of: scenarios.filter(({ title, meanwhile }) => !meanwhile && (LONG || SHARED.includes(title))),
  },
];

describe.each(WAYS)(
  'killed at every write, before and after it is committed, $who comes to the same end',
  ({ who, count, of }) => {
    /** Over all scenarios. */
    const turn = inTurn(count === 1 ? AT_A_TIME : PAIRS_AT_A_TIME);

    it.concurrent.each(of)(
      'when $title',
      async scenario => {
        const expected = await turn(() => live(scenario, count));
        expect(childrenOf(expected.found)).toEqual(CHILDREN[scenario.end]);
        const failures: string[] = [];
        let tried = 0;
        const attempt = (crash: Crash): Promise<boolean> =>
          turn(async () => {
            let at: string | undefined;
            try {
              const outcome = await live(scenario, count, crash, expected);
              at = outcome.killedAt ? describeCall(outcome.killedAt) : 'never reached';
              expect(differences(outcome.found, expected.found), 'differences from the state without a crash').toEqual(
                [],
              );
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
            scenario: count === 1 ? scenario.title : `${scenario.title}; ${who} is killed`,
            writes: expected.writes.length,
            'crash points': tried,
            passed: tried - failures.length,
          },
        });
        expect(failures).toEqual([]);
      },
      TIMEOUT_MS,
    );
  },
);

function describeCall({ verb, resource, subresource }: Call): string {
  return `${verb} ${resource}${subresource ? `/${subresource}` : ''}`;
}
