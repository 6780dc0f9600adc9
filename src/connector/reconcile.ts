/** Brings one connector to its declared state and tells the truth about it. */

import { ANNOTATION, PERSONAL_CONNECTORS, type PersonalConnector, STATUS_FIELD_MANAGER } from '../api/connector.ts';
import type { PersonalConnectorStatus } from '../api/generated.ts';
import { apiVersionOf, type Key } from '../api/meta.ts';
import type { KubeClient } from '../kube/client.ts';
import type { EventRecorder } from '../kube/events.ts';
import type { Health, ProbeScheduler } from '../probe/schedule.ts';
import type { Outcome } from '../runtime/controller.ts';
import { checkIdentifier } from './accept.ts';
import { createApplier, type Obstacle } from './apply.ts';
import { type Deployment, labelIndex, projectConnector } from './children.ts';
import { labelValue } from './names.ts';
import type { Context, Observed, Plan } from './plan.ts';
import { createInputReader, type Inputs } from './references.ts';
import { differs, eventsOf, statusOf, stillStands, toolsChanged } from './status.ts';
import type { Stores } from './stores.ts';
import { strategyOf } from './strategy.ts';
import { targetOf } from './target.ts';

export interface ReconcilerOptions {
  client: KubeClient;
  stores: Stores;
  probes: ProbeScheduler;
  events: EventRecorder;
  context: Context;
  /** Whether the caches hold all that there is in a namespace, and are kept in step with it. */
  isOpen: (namespace: string) => boolean;
  /** Whether a connector is this process's own to look after. */
  owns: (key: Key) => boolean;
  /** Told when a server offers other tools than before. */
  onToolsChanged?: () => void;
  now?: () => Date;
}

export function createReconciler({
  client,
  stores,
  probes,
  events,
  context,
  isOpen,
  owns,
  onToolsChanged,
  now = () => new Date(),
}: ReconcilerOptions) {
  const applier = createApplier(client, stores.children);
  const inputsOf = createInputReader(client, stores.references);

  return async function reconcile(key: Key, signal: AbortSignal): Promise<Outcome> {
    const connector = stores.connectors.get(key);
    const { metadata, spec } = connector ?? {};
    const isIdle = !connector || metadata?.deletionTimestamp || spec?.suspend;
    if (isIdle || !owns(key) || !isOpen(connector.metadata.namespace)) {
      // Children go with their owner; of a suspended connector, of another process's own, and where nobody may look,
      // everything stays as it is.
      probes.set(key, undefined);
      return {};
    }
    const plan = decide(connector, await inputsOf(connector, signal));
    const obstacle = await act(connector, plan, signal);
    // Another's by now: what there is to probe and to tell of it is up to that one.
    if (!owns(key)) return {};
    await report(
      key,
      connector,
      obstacle?.accepted ? { ...plan, accepted: obstacle.accepted } : plan,
      obstacle,
      signal,
    );
    return next(obstacle);
  };

  /** What should be, by the spec, the policy and the other connectors alone. */
  function decide(connector: PersonalConnector, inputs: Inputs): Plan {
    const deployment = deploymentOf(connector);
    const plan = strategyOf(connector).plan(connector, context, { deployment, inputs });
    const conflict = checkIdentifier(connector, stores.connectors);
    return conflict ? { ...plan, accepted: conflict, children: undefined } : plan;
  }

  async function act(
    connector: PersonalConnector,
    { children }: Plan,
    signal: AbortSignal,
  ): Promise<Obstacle | undefined> {
    return children && (await applier.act(connector, children, signal));
  }

  /** Looks at what is there now, has it probed, and writes the status if it says something new. */
  async function report(
    key: Key,
    connector: PersonalConnector,
    plan: Plan,
    obstacle: Obstacle | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const progress = strategyOf(connector).progress(observe(connector, plan));
    const target = targetOf(connector, plan, progress, context.policy, client, stores.references);
    if (!('why' in target)) probes.set(key, target, foundBefore(connector, plan));
    else if (target.why !== 'as before') probes.set(key, undefined);
    const result = probes.result(key);
    const status = statusOf({ connector, plan, obstacle, progress, target, result, now: now() });
    if (!differs(status, connector.status)) return;
    await writeStatus(connector, status, signal);
    if (toolsChanged(connector.status, status) !== undefined) onToolsChanged?.();
    for (const event of eventsOf(connector, status)) events.record(connector, event);
  }

  function deploymentOf({ metadata }: PersonalConnector): Deployment | undefined {
    return stores.children.Deployment.byIndex('owner', metadata.uid)[0] as Deployment | undefined;
  }

  function observe(connector: PersonalConnector, { children = [] }: Plan): Observed {
    const { metadata } = connector;
    const { Service } = stores.children;
    const service = children.find(({ type }) => type.kind === 'Service')?.object.metadata.name;
    const services = Service.byIndex('owner', metadata.uid);
    return {
      deployment: deploymentOf(connector),
      // While it moves to another name there are two.
      service: services.find(({ metadata: { name } }) => name === service) ?? services[0],
      pods: stores.pods.byIndex('connector', labelIndex(metadata.namespace, labelValue(metadata.name))),
    };
  }

  /**
   * Throws a conflict or NotFound when the connector is not what the cache says: the next try finds in the cache what it
   * is, or that it is gone.
   */
  async function writeStatus(
    connector: PersonalConnector,
    status: PersonalConnectorStatus,
    signal: AbortSignal,
  ): Promise<void> {
    const { name, namespace, uid } = connector.metadata;
    const intent = {
      apiVersion: apiVersionOf(PERSONAL_CONNECTORS),
      kind: PERSONAL_CONNECTORS.kind,
      metadata: { name, namespace, uid },
      status,
    };
    const options = { fieldManager: STATUS_FIELD_MANAGER, subresource: 'status' } as const;
    const written = await client.apply<PersonalConnector>(PERSONAL_CONNECTORS, intent, options, signal);
    stores.connectors.written(projectConnector(written));
  }
}

/** What the last probe that an earlier life of the operator reported found, if it answers what is asked now. */
function foundBefore(connector: PersonalConnector, plan: Plan): Health {
  const { status, metadata } = connector;
  const recheck = metadata.annotations?.[ANNOTATION.recheck];
  if (!stillStands(connector, plan) || (recheck !== undefined && recheck !== status?.lastHandledRecheck))
    return undefined;
  const of = (type: string) => status?.conditions?.find(condition => condition.type === type);
  const [reachable, verified, authorized] = [of('Reachable'), of('Verified'), of('Authorized')];
  // What the tools are is compared anew each time: the server itself was well.
  const wrong = [reachable, verified?.reason === 'ToolsChanged' ? undefined : verified, authorized];
  if (wrong.some(condition => condition?.status === 'False')) return 'failed';
  return reachable?.status === 'True' ? 'healthy' : undefined;
}

/** Errors go back to the queue, which tries again later; all else waits for its event or its time. */
function next(obstacle: Obstacle | undefined): Outcome {
  if (obstacle?.error !== undefined) throw obstacle.error;
  return obstacle?.retryAfterMs === undefined ? {} : { requeueAfterMs: obstacle.retryAfterMs };
}
