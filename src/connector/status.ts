/** The one place where a connector's whole status comes from, and the Events that its changes are worth. */

import { isDeepStrictEqual } from 'node:util';
import {
  ANNOTATION,
  type Aspect,
  CONDITIONS,
  type ConditionType,
  connectorIdentifier,
  type Finding,
  type PersonalConnector,
} from '../api/connector.ts';
import type { Condition, PersonalConnectorSpec, PersonalConnectorStatus } from '../api/generated.ts';
import type { EventRecord } from '../kube/events.ts';
import type { ProbeResult } from '../probe/schedule.ts';
import type { Verdict } from '../probe/verdict.ts';
import type { Obstacle } from './apply.ts';
import type { Plan, Progress } from './plan.ts';
import type { targetOf } from './target.ts';

export interface Findings {
  connector: PersonalConnector;
  plan: Plan;
  obstacle: Obstacle | undefined;
  progress: Progress;
  target: ReturnType<typeof targetOf>;
  result: ProbeResult | undefined;
  now: Date;
}

/** What the status says of the server: of a probe, of an earlier life of the operator, or that nothing is known yet. */
type Aspects = Pick<Verdict, 'reachable' | 'verified' | 'authorized'> & {
  server?: NonNullable<PersonalConnectorStatus['server']>;
  authorization?: NonNullable<PersonalConnectorStatus['authorization']>;
};

/** The whole status. Pure; equal findings at another time give an equal status. */
export function statusOf(findings: Findings): PersonalConnectorStatus {
  const { connector, plan, obstacle, progress, target, result, now } = findings;
  const { metadata, spec, status: previous } = connector;
  const generation = metadata.generation ?? 0;

  const accepted = acceptedOf(findings);
  // Of a spec that is rejected, only what is there already can be told.
  const applies = plan.accepted.status === 'True' || progress.hosting !== undefined;
  const deployed = applies ? (obstacle?.deployed ?? progress.deployed) : undefined;
  const { server, authorization, ...aspects } = aspectsOf(findings);
  const summed = [accepted, deployed, aspects.reachable, aspects.verified, aspects.authorized];
  const ready = readyOf(
    connector,
    summed.filter(finding => finding !== undefined),
    obstacle,
    server,
  );

  const found: Partial<Record<ConditionType, Finding<ConditionType>>> = {
    Ready: ready,
    Accepted: accepted,
    ...(deployed && { Deployed: deployed }),
    Reachable: aspects.reachable,
    Verified: aspects.verified,
    Authorized: aspects.authorized,
    ...(ready.status === 'Unknown' && {
      Reconciling: { status: 'True', reason: 'Progressing', message: ready.message },
    }),
    ...(isStalled(accepted) && { Stalled: { status: 'True', reason: 'Stalled', message: accepted.message } }),
  };
  // A hosted server's address is told once something serves it, and then stays.
  const served = plan.accepted.status === 'True' && (deployed?.status ?? 'True') === 'True';
  const told = plan.accepted.status === 'True' && previous?.serverUrl === plan.serverUrl;
  // Where there is nothing to probe, a reconcile is all that a recheck can ask for.
  const asked = 'why' in target && target.why !== 'as before' ? metadata.annotations?.[ANNOTATION.recheck] : undefined;
  const recheck = asked ?? result?.recheck ?? previous?.lastHandledRecheck;

  // What could not be removed yet is found by its name.
  const left = obstacle?.error === undefined ? undefined : previous?.hosting;
  const hosting = left
    ? { ...left, ...progress.hosting, ...(left.service !== undefined && { service: left.service }) }
    : progress.hosting;

  return {
    observedGeneration: generation,
    id: connectorIdentifier({ metadata, spec }),
    ...((served || told) && plan.serverUrl !== undefined && { serverUrl: plan.serverUrl }),
    ...(plan.serverType && { serverType: plan.serverType }),
    updatedAt: previous?.observedGeneration === generation && previous.updatedAt ? previous.updatedAt : isoSeconds(now),
    conditions: Object.entries(found).map(([type, { status, reason, message }]) => {
      const before = previous?.conditions?.find(condition => condition.type === type);
      return {
        type,
        status,
        observedGeneration: generation,
        lastTransitionTime: before?.status === status ? before.lastTransitionTime : isoSeconds(now),
        reason,
        message,
      };
    }),
    ...(hosting && { hosting }),
    ...(server && { server }),
    ...(authorization && { authorization }),
    ...(recheck !== undefined && { lastHandledRecheck: recheck }),
  };
}

function acceptedOf({ plan, progress, result }: Findings): Finding<'Accepted'> {
  const secret = progress.secretMissing ?? result?.verdict.credentialsMissing;
  if (plan.accepted.status === 'True' && secret) return { status: 'False', reason: 'SecretNotFound', message: secret };
  return plan.accepted;
}

/** Only a change of a spec or of the configuration helps against a rejection, except that a Secret may come. */
function isStalled(accepted: Finding<'Accepted'>): boolean {
  return accepted.status === 'False' && accepted.reason !== 'SecretNotFound';
}

function aspectsOf({ connector, plan, target, result }: Findings): Aspects {
  const { spec, status: previous } = connector;
  if ('why' in target && target.why !== 'as before') {
    const { why: reason, message } = target;
    const unknown = { status: 'Unknown', reason, message } as const;
    return { reachable: unknown, verified: unknown, authorized: unknown };
  }
  if (!result || ('fingerprint' in target && result.fingerprint !== target.fingerprint)) {
    const kept = previous && stillStands(connector, plan) ? keptAspects(previous) : undefined;
    const unknown = { status: 'Unknown', reason: 'Pending', message: 'the first probe is on its way' } as const;
    return kept ?? { reachable: unknown, verified: unknown, authorized: unknown };
  }
  const { reachable, verified, authorized, authorization } = result.verdict;
  const server = serverOf(result.verdict, previous && stillStands(connector, plan) ? previous.server : undefined);
  const approved = spec.probe?.approvedToolsHash;
  const changed: Finding<'Verified'> = {
    status: 'False',
    reason: 'ToolsChanged',
    message: `the tools have the hash ${server?.toolsHash} and not the approved one: review them, then copy the hash to spec.probe.approvedToolsHash`,
  };
  // An approval that is not compared would be worth nothing: a server need only refuse to list its tools.
  const uncompared: Finding<'Verified'> = {
    status: 'Unknown',
    reason: 'Pending',
    message: 'the tools could not be listed this time, so they cannot be compared with spec.probe.approvedToolsHash',
  };
  const listed = result.verdict.server?.tools;
  const approval = !listed ? uncompared : listed.hash === approved ? verified : changed;
  return {
    reachable,
    verified: approved && verified.status === 'True' ? approval : verified,
    authorized,
    ...(server && { server }),
    ...(authorization && { authorization }),
  };
}

/**
 * What is known of the server. One that is healthy but busy, or would not list its tools this time, is still what it was
 * found to be before.
 */
function serverOf({ healthy, server, verified }: Verdict, before: Aspects['server']): Aspects['server'] {
  if (!healthy || verified.status !== 'True') return undefined;
  if (!server) return before;
  const { tools, ...facts } = server;
  if (tools) return { ...facts, toolCount: tools.count, toolsHash: tools.hash, tools: tools.names };
  const { toolCount, toolsHash, tools: names } = before ?? {};
  return {
    ...facts,
    ...(toolCount !== undefined && { toolCount }),
    ...(toolsHash !== undefined && { toolsHash }),
    ...(names && { tools: names }),
  };
}

/** Whether what an earlier life of the operator wrote still speaks of this spec. */
export function stillStands({ metadata, status }: PersonalConnector, plan: Plan): boolean {
  return status?.observedGeneration === metadata.generation && status?.serverUrl === plan.serverUrl;
}

function keptAspects({ conditions = [], server, authorization }: PersonalConnectorStatus): Aspects | undefined {
  const find = <T extends ConditionType>(type: T): Finding<T> | undefined => {
    const condition = conditions.find(candidate => candidate.type === type);
    const reasons: readonly string[] = condition ? CONDITIONS[type][condition.status] : [];
    if (!condition || !reasons.includes(condition.reason)) return undefined;
    return { status: condition.status, reason: condition.reason, message: condition.message } as Finding<T>;
  };
  const [reachable, verified, authorized] = [find('Reachable'), find('Verified'), find('Authorized')];
  if (
    !reachable ||
    !verified ||
    !authorized ||
    reachable.reason === 'Maintenance' ||
    reachable.reason === 'ProbeDisabled'
  )
    return undefined;
  return { reachable, verified, authorized, ...(server && { server }), ...(authorization && { authorization }) };
}

/** Reasons that leave open whether the connector can be used. */
const UNSETTLED = new Set<string>(['Progressing', 'Pending', 'RateLimited', 'ScaledToZero']);

/** The summary: the first thing that is wrong, else what is still unknown, else that all is well. */
function readyOf(
  { spec }: PersonalConnector,
  findings: readonly Finding<Aspect>[],
  obstacle: Obstacle | undefined,
  server: PersonalConnectorStatus['server'],
): Finding<'Ready'> {
  const wrong = findings.find(finding => finding.status === 'False');
  if (wrong) return wrong;
  if (obstacle?.error !== undefined) {
    const text = obstacle.error instanceof Error ? obstacle.error.message : String(obstacle.error);
    return { status: 'Unknown', reason: 'Progressing', message: `trying again: ${text}` };
  }
  if (spec.lifecycle === 'maintenance') {
    return { status: 'True', reason: 'Maintenance', message: 'paused, since spec.lifecycle is maintenance' };
  }
  const reasons = new Set(findings.map(({ reason }) => reason));
  const unknown = findings.find(({ reason }) => UNSETTLED.has(reason));
  if (unknown) return { status: 'Unknown', reason: 'Progressing', message: unknown.message };
  if (reasons.has('ProbeDisabled')) {
    return { status: 'True', reason: 'ProbeDisabled', message: 'taken as ready, since spec.probe.enabled is false' };
  }
  const deprecated =
    spec.lifecycle === 'deprecated' ? `; deprecated${spec.replacedBy ? `: use ${spec.replacedBy} instead` : ''}` : '';
  if (reasons.has('AuthorizationRequired')) {
    const message = `the server is up and wants its users to authorize${deprecated}`;
    return { status: 'True', reason: 'AuthorizationRequired', message };
  }
  const name = [server?.name ?? 'the server', server?.version].filter(Boolean).join(' ');
  const tools =
    server?.toolCount === undefined ? '' : ` with ${server.toolCount} ${server.toolCount === 1 ? 'tool' : 'tools'}`;
  return {
    status: 'True',
    reason: 'Ready',
    message: `${name} speaks MCP${server?.protocolVersion ? ` ${server.protocolVersion}` : ''}${tools}${deprecated}`,
  };
}

/** Whether writing `next` would change what is there; conditions that others wrote do not count. */
export function differs(next: PersonalConnectorStatus, previous: PersonalConnectorStatus | undefined): boolean {
  if (!previous) return true;
  const types = new Set<string>(Object.keys(CONDITIONS));
  const byType = (conditions: Condition[] = []): Record<string, Condition> =>
    Object.fromEntries(conditions.filter(({ type }) => types.has(type)).map(condition => [condition.type, condition]));
  return !isDeepStrictEqual(
    { ...next, conditions: byType(next.conditions) },
    { ...previous, conditions: byType(previous.conditions) },
  );
}

/** The Events that a change of status is worth: what went wrong, what came right, and a warning when it is deprecated. */
export function eventsOf(connector: PersonalConnector, next: PersonalConnectorStatus): EventRecord[] {
  const before = connector.status;
  const events: EventRecord[] = [];
  for (const { type, status, reason, message } of next.conditions ?? []) {
    if (type === 'Reconciling' || type === 'Stalled') continue;
    const old = before?.conditions?.find(condition => condition.type === type);
    if (old?.status === status && old.reason === reason) continue;
    if (status === 'False' && type !== 'Ready') events.push({ type: 'Warning', reason, action: type, note: message });
    // Of a new connector that nobody looks at there is nothing to tell: it is as it was made.
    const isNews = reason !== 'ProbeDisabled' || before?.conditions !== undefined;
    if (status === 'True' && type === 'Ready' && isNews)
      events.push({ type: 'Normal', reason, action: type, note: message });
  }
  const tools = toolsChanged(before, next);
  // Against an approval, that is a condition and has its Event.
  if (tools !== undefined && !events.some(({ reason }) => reason === 'ToolsChanged'))
    events.push({ type: 'Normal', reason: 'ToolsChanged', action: 'Verified', note: tools });
  const version = versionDiffers(connector.spec, next);
  if (version !== undefined && version !== versionDiffers(connector.spec, before))
    events.push({ type: 'Normal', reason: 'VersionDiffers', action: 'Verified', note: version });
  const { lifecycle, replacedBy } = connector.spec;
  const told = before?.conditions?.some(({ message }) => message.includes('; deprecated'));
  if (lifecycle === 'deprecated' && before?.observedGeneration !== next.observedGeneration && !told) {
    const note = `this connector is deprecated${replacedBy ? `: use ${replacedBy} instead` : ''}`;
    events.push({ type: 'Warning', reason: 'Deprecated', action: 'Lifecycle', note });
  }
  return events;
}

/**
 * How the version that a hosted server tells differs from the one that was asked for, in words; undefined if it does not, or
 * one of them is not known. That is no fault: servers tell what they like, some that of a library.
 */
function versionDiffers(
  { version }: PersonalConnectorSpec,
  { hosting, server, conditions = [] }: PersonalConnectorStatus = {},
): string | undefined {
  const tag = /:([^:/@]+)$/.exec(hosting?.image ?? '')?.[1];
  const said = server?.version;
  // While Pods are replaced, what was said before is no word of the new ones.
  const isSettled = conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
  if (said === undefined || tag === undefined || !isSettled) return undefined;
  const plain = (text: string): string => text.replace(/^v(?=\d)/, '').replace(/[+_].*$/, '');
  const wanted = version ?? (/^v?\d+(\.\d+)+/.test(tag) ? tag : undefined);
  if (wanted === undefined || plain(wanted) === plain(said)) return undefined;
  const source = version === undefined ? 'its image has the tag' : 'spec.version is';
  return `the server says that its version is ${said}, and ${source} ${wanted} (image ${hosting?.image})`;
}

/** What is new of a server's tools, in words; undefined if nothing is, or it is another server. */
export function toolsChanged(
  before: PersonalConnectorStatus | undefined,
  next: PersonalConnectorStatus,
): string | undefined {
  const [old, now] = [before?.server, next.server];
  if (before?.serverUrl !== next.serverUrl || !old?.toolsHash || !now?.toolsHash || old.toolsHash === now.toolsHash)
    return undefined;
  const news = (some: string[] = [], others: string[] = []): string[] => some.filter(name => !others.includes(name));
  const [added, removed] = [news(now.tools, old.tools), news(old.tools, now.tools)];
  const parts = [
    added.length > 0 && `added ${shortList(added)}`,
    removed.length > 0 && `removed ${shortList(removed)}`,
  ].filter(part => part !== false);
  const what = parts.length > 0 ? parts.join('; ') : 'descriptions or input schemas';
  return `the tools of the server changed: ${what}; their hash is ${now.toolsHash}`;
}

function shortList(names: readonly string[]): string {
  const most = 5;
  const more = names.length > most ? ` and ${names.length - most} more` : '';
  return names.slice(0, most).join(', ') + more;
}

function isoSeconds(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, 'Z');
}
