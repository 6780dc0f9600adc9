/**
 * Random walks: whatever happened to a connector, and in whatever order, the end is what a fresh connector of its last
 * spec would be. A failure is told with its seed and path: WALK_SEED=… WALK_PATH=… tries that walk alone.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { ANNOTATION, LABEL, OPERATOR, PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { Declared, KubeObject } from '../../src/api/meta.ts';
import type { Child } from '../../src/connector/children.ts';
import { childName } from '../../src/connector/names.ts';
import { isConflict, isInvalid, isNotFound } from '../../src/kube/errors.ts';
import type { Operator } from '../../src/main.ts';
import { createSandbox, type Sandbox } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { LONG, note } from './figures.ts';
import { patchObject } from './settled.ts';
import { isSettled, readiness, type Snapshot, untilAsFresh, untilCollecting, untilSnapshot } from './snapshot.ts';
import {
  CHILDREN,
  type ChildName,
  EDITS,
  FOREIGN,
  type Happening,
  policyFor,
  type SpecChoice,
  specOf,
  startWorld,
  type Walk,
  type World,
  walk,
} from './specs.ts';

const SEED = 20_260_701;
/** Walks that go on at a time, each lane with a seed of its own: the API server is kept busy, not overrun. */
const LANES = 12;
const WALKS = LONG ? 1_008 : 60;
/** A connector comes to rest within tens of ms; what is not there after this never comes. While a failure is being
 * shrunk, which takes many failures, less has to do. */
const PATIENCE_MS = { first: 30_000, shrinking: 10_000 };
/** How long a failure is shrunk. */
const SHRINK_MS = LONG ? 600_000 : 120_000;
const LIMIT_MS = LONG ? 3_600_000 : 600_000;

let cluster: Sandbox;
let operator: Operator;
let world: World;
/** Resolves when connectors may be deleted. */
let collecting: Promise<void>;
let servers: Awaited<ReturnType<typeof startWorld>>;
beforeAll(async () => {
  cluster = await createSandbox(inject('kubeconfig'), { 'pod-security.kubernetes.io/enforce': 'restricted' });
  servers = await startWorld();
  world = servers.world;
  operator = await runOperator(cluster, policyFor(world));
  collecting = untilCollecting(cluster, { name: 'X', type: 'aitronos_built', connectorId: 'jira' });
  collecting.catch(() => {}); // Told to whom waits for it.
});
afterAll(async () => {
  await operator?.stop();
  await cluster?.dispose();
  await servers?.close();
});

const total = { walks: 0, steps: 0 };

it('wherever a walk leads, its end is a fresh apply of its last spec', {
  timeout: LONG ? 3_600_000 : 600_000,
}, async () => {
  const { WALK_SEED, WALK_PATH } = process.env;
  const lanes = Array.from({ length: WALK_SEED ? 1 : LANES }, (_, lane) =>
    runLane(lane, {
      seed: WALK_SEED ? Number(WALK_SEED) : SEED + lane,
      numRuns: WALKS / LANES,
      ...(WALK_PATH && { path: WALK_PATH }),
    }).then(why => {
      // Not only at the end, which may be an hour away.
      if (why !== undefined) console.error(why);
      return why;
    }),
  );
  const failed = (await Promise.all(lanes)).filter(why => why !== undefined);
  note({
    table: 'Random walks',
    row: { walks: total.walks, steps: total.steps, failures: failed.length, seed: WALK_SEED ?? SEED },
  });
  expect(failed.join('\n\n')).toBe('');
});

const plain: SpecChoice = {
  type: 'aitronos_built',
  common: {},
  probe: true,
  suspend: false,
  server: 'first',
  remote: { answers: 'mcp' },
  hosted: { connectorId: 'jira', hosting: {} },
};

describe.concurrent('an edit of what the operator made is taken back:', () => {
  it.for(Object.keys(EDITS) as (keyof typeof EDITS)[])('%s', async edit => {
    const walker = createWalker(`walk-${edit.toLowerCase().replaceAll(' ', '-')}`, PATIENCE_MS.first);
    const steps = [
      { happening: { do: 'recheck' }, settle: true },
      { happening: { do: 'edit', edit }, settle: true },
    ] as const;
    await walker.go({ first: plain, steps: [...steps] }).finally(walker.leave);
  });
});

/** Tries walks one after another and gives what fast-check has to say of the first that fails. */
async function runLane(lane: number, parameters: fc.Parameters<[Walk]>): Promise<string | undefined> {
  let count = 0;
  let failedAt: number | undefined;
  const property = fc.asyncProperty(walk, async drawn => {
    count += 1;
    fc.pre(failedAt === undefined || performance.now() - failedAt < SHRINK_MS);
    if (failedAt === undefined) {
      total.walks += 1;
      total.steps += drawn.steps.length + 1;
    }
    const walker = createWalker(
      `walk-${lane}-${count}`,
      failedAt === undefined ? PATIENCE_MS.first : PATIENCE_MS.shrinking,
    );
    try {
      await walker.go(drawn);
    } catch (error) {
      failedAt ??= performance.now();
      throw error;
    } finally {
      await walker.leave();
    }
  });
  const result = await fc.check(property, {
    ...parameters,
    interruptAfterTimeLimit: LIMIT_MS,
    markInterruptAsFailure: true,
  });
  if (!result.failed) return undefined;
  return `${fc.defaultReportMessage(result)}\n\n${result.errorInstance}`;
}

/** One connector that all sorts of things happen to. */
function createWalker(name: string, timeoutMs: number) {
  /** The spec that was applied last. */
  let now = plain;
  let rechecks = 0;
  /** Whether a finalizer or an object of somebody else may be in the way. */
  let hindered = false;

  const until = (what: string, wanted: (snapshot: Snapshot) => boolean): Promise<Snapshot> =>
    untilSnapshot(cluster, name, wanted, { what, timeoutMs });

  async function apply(choice: SpecChoice, annotations?: Record<string, string>): Promise<void> {
    await cluster.applyConnector(name, specOf(choice, name, world), annotations);
    now = choice;
  }

  async function settle(): Promise<void> {
    // Nobody looks after a suspended connector, and what is hindered may be at rest or not.
    if (now.suspend || hindered) return;
    if (now.wrong) {
      // What is there already of its children stays as it is, which no fresh one has.
      await until(`${now.wrong} to be said`, found => isSettled(found) && readiness(found).startsWith('False'));
      return;
    }
    const choice = now;
    await untilAsFresh(cluster, name, twin => specOf(choice, twin, world), { comparable, timeoutMs });
  }

  async function happen(happening: Happening): Promise<void> {
    switch (happening.do) {
      case 'apply':
        return apply(happening.spec);
      case 'make anew':
        await collecting;
        await cluster.remove(PERSONAL_CONNECTORS, name);
        return apply(happening.spec);
      case 'orphan and make anew':
        // A child that lost its labels, and now its owner too, would be nobody's: first all must be whole again.
        if (now.suspend || now.wrong || hindered) return;
        await Promise.all([settle(), collecting]);
        await removeWithoutChildren();
        await until('it to be gone', ({ connector }) => connector === null);
        return apply(now);
      case 'recheck':
        rechecks += 1;
        return apply(now, { [ANNOTATION.recheck]: String(rechecks) });
      case 'delete':
        return change(happening.child, (at, type) => cluster.remove(type, at.metadata.name));
      case 'edit': {
        const { child, patch: edit } = EDITS[happening.edit];
        return change(child, at => patch(child, at, edit));
      }
      case 'add label and annotation':
        return change(happening.child, at =>
          patch(happening.child, at, {
            metadata: { labels: { [`${FOREIGN}/team`]: 'x' }, annotations: { [`${FOREIGN}/note`]: 'y' } },
          }),
        );
      case 'lose labels':
        return loseLabels(happening.child);
      case 'lie about labels':
        return meddle(happening.child, { labels: { [LABEL.connector]: 'other', [LABEL.version]: '0' } });
      case 'lose owner':
        return meddle(happening.child, { ownerReferences: null });
      case 'lose hash':
        return meddle(happening.child, { annotations: { [ANNOTATION.applied]: null } });
      case 'restart Pods':
        return change('Deployment', at =>
          patch('Deployment', at, {
            spec: { template: { metadata: { annotations: { [RESTARTED]: new Date().toISOString() } } } },
          }),
        );
      case 'scale':
        return change('Deployment', at => patch('Deployment', at, { spec: { replicas: happening.replicas } }));
      case 'hold by a finalizer':
        return change(happening.child, async at => {
          await patch(happening.child, at, { metadata: { finalizers: [`${FOREIGN}/hold`] } });
          hindered = true;
        });
      case 'put something else in place':
        return replace(happening.child);
      case 'let go':
        return letGo();
      default:
        happening satisfies never;
    }
  }

  /** As `kubectl delete --cascade=orphan` does. */
  async function removeWithoutChildren(): Promise<void> {
    const { group, version, plural } = PERSONAL_CONNECTORS;
    await cluster.transport.call({
      method: 'DELETE',
      path: `/apis/${group}/${version}/namespaces/${cluster.namespace}/${plural}/${name}`,
      body: { propagationPolicy: 'Orphan' },
      signal: cluster.signal,
    });
  }

  /** Does something to the child that is there now, if there is one; what the operator does first makes it void. */
  async function change(
    child: ChildName,
    act: (at: Child, type: (typeof CHILDREN)[ChildName]) => Promise<unknown>,
  ): Promise<void> {
    const type = CHILDREN[child];
    try {
      await act(await cluster.get<Child>(type, nameOf(child)), type);
    } catch (error) {
      if (!isNotFound(error) && !isConflict(error)) throw error;
    }
  }

  /** Takes away a part of what tells that a child is ours; a child that lost two such parts is ours no longer. */
  async function meddle(child: ChildName, metadata: object): Promise<void> {
    const { metadata: connector } = await cluster.get(PERSONAL_CONNECTORS, name);
    await change(child, async at => {
      const { labels, annotations, ownerReferences, resourceVersion } = at.metadata;
      const whole =
        labels?.[LABEL.connector] === name &&
        labels[LABEL.managedBy] === OPERATOR &&
        annotations?.[ANNOTATION.applied] !== undefined &&
        ownerReferences?.[0]?.uid === connector.uid;
      if (whole) await patch(child, at, { metadata: { ...metadata, resourceVersion } });
    });
  }

  /**
   * No watch tells of a child without labels; that it is there, its connector's status tells. Before that only its end is
   * sure, which is that of its owner.
   */
  async function loseLabels(child: ChildName): Promise<void> {
    const { status } = await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, name);
    const told = child === 'Service' ? status?.hosting?.service : status?.hosting?.deployment;
    if (told === nameOf(child)) await meddle(child, { labels: null });
  }

  /** Puts an object of somebody else where a child is or could be; gives up when the operator is always quicker. */
  async function replace(child: ChildName): Promise<void> {
    const type = CHILDREN[child];
    for (let attempt = 0; attempt < 5; attempt += 1) {
      await change(child, at => cluster.remove(type, at.metadata.name));
      try {
        await cluster.client.create(type, foreign(child, nameOf(child), cluster.namespace), cluster.signal);
        hindered = true;
        return;
      } catch (error) {
        if (!isConflict(error)) throw error;
      }
    }
  }

  /** Takes away all that hinders, and tells the operator, which no watch tells of what is not its own. */
  async function letGo(): Promise<void> {
    if (!hindered) return;
    for (const child of Object.keys(CHILDREN) as ChildName[]) {
      for (const candidate of new Set([childName(name), `${name}-a`, `${name}-b`])) {
        const at = await cluster.get<Child & Held>(CHILDREN[child], candidate).catch(missing);
        if (at?.metadata.finalizers?.length) await patch(child, at, { metadata: { finalizers: null } }).catch(missing);
        if (at?.metadata.labels?.[`${FOREIGN}/foreign`])
          await cluster.remove(CHILDREN[child], candidate).catch(missing);
      }
    }
    hindered = false;
    rechecks += 1;
    await apply(now, { [ANNOTATION.recheck]: String(rechecks) });
  }

  function nameOf(child: ChildName): string {
    const { service } = now.hosted;
    return child === 'Service' && service && now.type === 'aitronos_built' ? `${name}-${service}` : childName(name);
  }

  return {
    async go({ first, steps }: Walk): Promise<void> {
      await apply(first);
      for (const { happening, settle: wait } of steps) {
        await happen(happening);
        if (wait) await settle();
      }
      await letGo();
      const { wrong, ...valid } = now;
      if (now.suspend || wrong) await apply({ ...valid, suspend: false });
      await settle();
      // It stays so when it is looked at once more.
      await apply(now, { [ANNOTATION.recheck]: 'at the end' });
      await cluster.until<PersonalConnector>(
        PERSONAL_CONNECTORS,
        name,
        connector => connector?.status?.lastHandledRecheck === 'at the end',
      );
      await settle();
    },
    async leave(): Promise<void> {
      hindered = true;
      await letGo().catch(missing);
      await cluster.remove(PERSONAL_CONNECTORS, name).catch(missing);
    },
  };
}

type Held = KubeObject & { metadata: { finalizers?: string[] } };

const RESTARTED = 'kubectl.kubernetes.io/restartedAt';

function missing(error: unknown): undefined {
  if (!isNotFound(error)) throw error;
}

/** An object that has nothing to do with the operator. */
function foreign(child: ChildName, name: string, namespace: string): Declared {
  const labels = { [`${FOREIGN}/foreign`]: 'yes' };
  const match = { matchLabels: { app: 'foreign' } };
  const template = {
    metadata: { labels: match.matchLabels },
    spec: { containers: [{ name: 'other', image: 'example.com/other' }] },
  };
  const spec = {
    Deployment: { replicas: 0, selector: match, template },
    Service: { ports: [{ port: 1234 }] },
    NetworkPolicy: { podSelector: match },
  }[child];
  const { group, version, kind } = CHILDREN[child];
  return {
    apiVersion: group === '' ? version : `${group}/${version}`,
    kind,
    metadata: { name, namespace, labels },
    spec,
  } as Declared;
}

/** Patches as a person would; what cannot be changed (a selector) stays. */
async function patch(child: ChildName, at: KubeObject, body: object): Promise<void> {
  try {
    await patchObject(cluster, CHILDREN[child], at.metadata.name, body);
  } catch (error) {
    if (!isInvalid(error)) throw error;
  }
}

/** A snapshot without what the operator leaves to others by design. */
function comparable(found: Snapshot): Snapshot {
  const copy = structuredClone(found);
  const spec = copy.connector?.spec;
  // An autoscaler or a person may have scaled it, where the spec leaves the number open.
  const openReplicas = spec?.lifecycle !== 'maintenance' && spec?.hosting?.replicas === undefined;
  for (const child of copy.children) {
    // Labels and annotations that the operator does not set are other people's: a team's, a tool's.
    for (const map of [child.labels, child.annotations]) {
      for (const key of Object.keys(map)) if (key.startsWith(`${FOREIGN}/`)) delete map[key];
    }
    if (child.kind !== 'Deployment') continue;
    const deployment = child.spec as { replicas?: unknown; template?: { metadata?: { annotations?: object } } };
    if (openReplicas) deployment.replicas = '<open>';
    // How `kubectl rollout restart` works; a later template without it would restart the Pods once more.
    delete deployment.template?.metadata?.annotations;
  }
  const status = copy.connector?.status;
  if (status?.hosting && openReplicas) {
    Object.assign(status.hosting, { replicas: '<open>', readyReplicas: '<open>' });
    for (const condition of status.conditions) {
      if (condition.reason === 'Available') condition.message = '<open>';
    }
  }
  return copy;
}
