/** Owns when each target is probed, and what the outcomes amount to for each connector that has it. */

import type { Key } from '../api/meta.ts';
import { canonicalHost } from './guard.ts';
import type { Limiter } from './limiter.ts';
import type { Outcome } from './outcome.ts';
import type { Memory, Target } from './target.ts';
import { type Judgement, judge, type Verdict } from './verdict.ts';

/** What was last found out for sure of a connector, by this operator or an earlier life of it. */
export type Health = 'healthy' | 'failed' | undefined;

export interface ProbeResult {
  /** The target that it speaks of. */
  fingerprint: string;
  /** The value of `Target.recheck` that it answers: that of when the probe began. */
  recheck: string | undefined;
  verdict: Verdict;
}

export interface ProbeScheduler {
  /**
   * Sets what to probe for a key, or nothing. Keys whose targets see the same of a server share its probes. A new or
   * changed target is probed at once, unless others who have it just were: then their outcome counts, and `result` has
   * it when this returns. A new `recheck` probes at once and keeps the result meanwhile. `known`, of a key that was not
   * set before, says what an earlier life of the operator found, which stands until a probe proves otherwise: the first
   * probe may then come later, so that a restart does not probe everything at once.
   */
  set(key: Key, target: Target | undefined, known?: Health): void;
  result(key: Key): ProbeResult | undefined;
  /** Stops all timers and aborts what runs; resolves when the last probe has ended its sessions and connections. */
  close(): Promise<void>;
}

export interface ProbeObserver {
  /** Once per probe, however many connectors share it. */
  probed(outcome: Outcome['kind'], seconds: number): void;
}

export interface ProbeSchedulerOptions {
  probe: (target: Target, memory: Memory, signal: AbortSignal) => Promise<Outcome>;
  limiter: Limiter;
  /** Told of each key when a probe has ended, whether its result is new or not. */
  onResult: (key: Key) => void;
  observer?: ProbeObserver;
  /** Told of what should not happen: an outcome that could not be taken in. */
  onError?: (error: unknown) => void;
  random?: () => number;
  /** Milliseconds that no change of the clock moves. */
  now?: () => number;
}

/** All connectors that would see the same of a server; they share one probe at a time, at the shortest of their intervals. */
interface Group {
  id: string;
  host: string;
  members: Map<Key, Member>;
  memory: Memory;
  timer: NodeJS.Timeout | undefined;
  /**
   * When the next probe is due, or this one was that runs or waits for a slot, and the time before which the server asked
   * not to be asked; by `now`.
   */
  dueAt: number;
  notBefore: number;
  /** Ends the probe that runs or waits for a slot. Then there is no timer: what comes next depends on the outcome. */
  running: AbortController | undefined;
  latest: { judgement: Judgement; at: number } | undefined;
  course: Course;
}

/** One connector: what it asks, and what it was told. */
interface Member {
  group: Group;
  target: Target;
  standing: Standing;
  /** What a probe has answered of what the target asks. */
  answered: Asked;
}

type Asked = Pick<Target, 'recheck' | 'secretsVersion'>;

/** A connector between its thresholds. */
export interface Standing {
  health: Health;
  /** Probes in a row. */
  failures: number;
  successes: number;
  /** Probes in a row that found it healthy, and not which tools it has. */
  unlisted: number;
  /** Published; undefined while nothing is known, or only what an earlier life of the operator has published. */
  verdict: Verdict | undefined;
}

/** Probes in a row of a group that failed, and that left something open. */
export interface Course {
  failures: number;
  doubts: number;
}

const NEW: Standing = { health: undefined, failures: 0, successes: 0, unlisted: 0, verdict: undefined };
/** After a failure the next probe comes sooner than the interval: 5 s, doubling up to it. */
const FIRST_RETRY_MS = 5_000;
/** The same after a probe that could not be made, or in which the server did not list the tools that it has. */
const FIRST_DOUBT_MS = 20_000;
/** Who had failed in an earlier life of the operator is asked within this time. */
const FAILED_BEFORE_MS = 60_000;
/** That failure goes on with its back-off, above that time: 5 s × 2^4 = 80 s after the next one. */
const FAILURES_BEFORE = 4;
/** Probes are spread by ± 10 %, so that connectors that were made together drift apart. */
const JITTER = 0.1;

export function createProbeScheduler(options: ProbeSchedulerOptions): ProbeScheduler {
  const { probe, limiter, onResult, observer, onError, random = Math.random } = options;
  const { now = () => performance.now() } = options;
  const members = new Map<Key, Member>();
  const groups = new Map<string, Group>();
  const running = new Set<Promise<void>>();
  let closed = false;

  function groupOf(target: Target): Group {
    const { fingerprint, audience, timeoutMs, trusted } = target;
    const id = JSON.stringify([fingerprint, audience, timeoutMs, trusted]);
    const group = groups.get(id) ?? {
      id,
      host: canonicalHost(new URL(target.url).hostname),
      members: new Map(),
      memory: {},
      timer: undefined,
      dueAt: Number.POSITIVE_INFINITY,
      notBefore: 0,
      running: undefined,
      latest: undefined,
      course: { failures: 0, doubts: 0 },
    };
    groups.set(id, group);
    return group;
  }

  function join(key: Key, member: Member, known: Health): void {
    const { group, target } = member;
    group.members.set(key, member);
    const { latest, course } = group;
    // An old outcome is the newest to be had while the server rests.
    if (latest && now() < Math.max(latest.at + target.intervalMs, group.notBefore)) {
      member.standing = advance(member.standing, latest.judgement, target);
      const wait = waitAfter(latest.judgement, course, [member]);
      probeWithin(group, wait * (1 + JITTER), spread(wait));
      return;
    }
    if (known === 'failed' && !latest) course.failures = FAILURES_BEFORE;
    const within = firstWait(known, target.intervalMs);
    probeWithin(group, within, within * random());
  }

  function leave(key: Key, { group }: Member): void {
    group.members.delete(key);
    if (group.members.size > 0) return;
    stop(group);
    groups.delete(group.id);
  }

  function stop(group: Group): void {
    clearTimeout(group.timer);
    group.running?.abort();
  }

  /** Has a group probed after `delayMs`, unless that happens within `withinMs` anyway or the server is to be left alone. */
  function probeWithin(group: Group, withinMs: number, delayMs: number): void {
    if (group.dueAt <= now() + withinMs) return;
    schedule(group, Math.max(delayMs, group.notBefore - now()));
  }

  /** Timers that are all due at once, as after a sleep of the machine, meet in the limiter. */
  function schedule(group: Group, delayMs: number): void {
    clearTimeout(group.timer);
    group.dueAt = now() + delayMs;
    // A timer takes at most 2^31 - 1 ms.
    const timerMs = Math.min(2 ** 31 - 1, delayMs);
    group.timer = setTimeout(() => {
      const run = probeNow(group).catch(error => {
        onError?.(error);
        group.running = undefined;
        if (groups.get(group.id) === group) schedule(group, spread(leastInterval([...group.members.values()])));
      });
      running.add(run);
      void run.finally(() => running.delete(run));
    }, timerMs);
  }

  async function probeNow(group: Group): Promise<void> {
    const abort = new AbortController();
    const { signal } = abort;
    group.running = abort;
    // A timer may be early.
    group.dueAt = now();
    const tenant = tenantOf(group);
    // The wait for a slot ends without one when nobody is left who wants it.
    const release = await limiter.acquire({ host: group.host, tenant }, signal).catch(() => undefined);
    try {
      if (signal.aborted) return;
      const answers = new Map([...group.members.values()].map(member => [member, member.target]));
      if (isAsked(group)) group.memory = {};
      const target = first(group);
      const start = now();
      const outcome = await probe(target, group.memory, signal).catch(
        (error: unknown): Outcome => ({ kind: 'broken', why: error instanceof Error ? error.message : String(error) }),
      );
      if (signal.aborted) return;
      observer?.probed(outcome.kind, (now() - start) / 1000);
      take(group, judge(outcome, { url: target.url, credentials: target.sendsCredentials }), answers);
    } finally {
      release?.();
    }
  }

  /** Gives a judgement to all members, and says when the next probe comes. `answers`: what was asked as it began. */
  function take(group: Group, judgement: Judgement, answers: ReadonlyMap<Member, Asked>): void {
    group.latest = { judgement, at: now() };
    group.course = count(group.course, judgement);
    group.running = undefined;
    const all = [...group.members.values()];
    for (const member of all) {
      member.standing = advance(member.standing, judgement, member.target);
      member.answered = answers.get(member) ?? member.answered;
    }
    // Who is down is asked at each interval all the same: it may be up again sooner than it thought.
    const most = judgement.conclusive && !judgement.verdict.healthy ? leastInterval(all) : Number.POSITIVE_INFINITY;
    const rest = Math.min(most, judgement.retryAfterMs ?? 0);
    // Later, never sooner: others who ask this host were told the same.
    group.notBefore = now() + rest * (1 + JITTER * random());
    const wait = spread(waitAfter(judgement, group.course, all));
    schedule(group, isAsked(group) ? 0 : Math.max(wait, group.notBefore - now()));
    for (const key of group.members.keys()) onResult(key);
  }

  function spread(ms: number): number {
    return ms * (1 - JITTER + 2 * JITTER * random());
  }

  return {
    set(key, target, known) {
      const before = members.get(key);
      if (!target || closed) {
        if (before) leave(key, before);
        members.delete(key);
        return;
      }
      const group = groupOf(target);
      const member = before ?? {
        group,
        target,
        standing: { ...NEW, health: known },
        answered: { recheck: known && target.recheck, secretsVersion: target.secretsVersion },
      };
      members.set(key, member);
      if (member.target.fingerprint !== target.fingerprint) member.standing = NEW;
      member.target = target;
      if (member.answered.secretsVersion === '')
        member.answered = { ...member.answered, secretsVersion: target.secretsVersion };
      if (member.group !== group) {
        leave(key, member);
        member.group = group;
        member.answered = { ...member.answered, secretsVersion: target.secretsVersion };
      }
      if (!group.members.has(key)) join(key, member, before ? undefined : known);
      else probeWithin(group, target.intervalMs * (1 + JITTER), spread(target.intervalMs));
      // A probe that runs is not ended, or who asks all the time would keep the others from any answer. Another follows.
      if (isUnanswered(member) && group.dueAt > now()) schedule(group, 0);
    },
    result(key) {
      const { target, answered, standing } = members.get(key) ?? {};
      return target && standing?.verdict
        ? { fingerprint: target.fingerprint, recheck: answered?.recheck, verdict: standing.verdict }
        : undefined;
    },
    async close() {
      closed = true;
      for (const group of groups.values()) stop(group);
      groups.clear();
      members.clear();
      await Promise.allSettled(running);
    },
  };
}

/** A group has members as long as it is there. */
function first({ members }: Group): Target {
  for (const { target } of members.values()) return target;
  throw new Error('a group without members was not forgotten');
}

/** On whose account it is probed: of several namespaces no single one. */
function tenantOf(group: Group): string {
  const tenants = new Set([...group.members.values()].map(({ target }) => target.tenant));
  return tenants.size === 1 ? first(group).tenant : group.id;
}

function isUnanswered({ target: { recheck, secretsVersion }, answered }: Member): boolean {
  if (recheck !== undefined && recheck !== answered.recheck) return true;
  // As long as it was not known there is nothing to compare.
  return answered.secretsVersion !== '' && secretsVersion !== '' && secretsVersion !== answered.secretsVersion;
}

function isAsked({ members }: Group): boolean {
  return [...members.values()].some(isUnanswered);
}

/** Where a judgement brings a connector; one that is inconclusive changes nothing that was known. */
export function advance(
  before: Standing,
  judgement: Judgement,
  { failureThreshold, successThreshold }: Pick<Target, 'failureThreshold' | 'successThreshold'>,
): Standing {
  const { conclusive, verdict } = judgement;
  if (!conclusive) return before.health === undefined ? { ...before, verdict } : before;
  const failures = verdict.healthy ? 0 : before.failures + 1;
  const successes = verdict.healthy ? before.successes + 1 : 0;
  const open = verdict.healthy
    ? before.health === 'failed' && successes < successThreshold
    : before.health === 'healthy' && failures < failureThreshold;
  const unlisted = forgetsTools(before, verdict) ? before.unlisted + 1 : 0;
  if (open || (unlisted > 0 && unlisted < failureThreshold)) return { ...before, failures, successes, unlisted };
  return { health: verdict.healthy ? 'healthy' : 'failed', failures, successes, unlisted, verdict };
}

function leastInterval(members: readonly Pick<Member, 'target'>[]): number {
  return members.reduce((least, { target }) => Math.min(least, target.intervalMs), Number.POSITIVE_INFINITY);
}

/** Whether a verdict is as good as the one before it, but for the tools, which the server would not list this time. */
function forgetsTools({ health, verdict: before }: Standing, verdict: Verdict): boolean {
  if (health !== 'healthy' || !verdict.healthy || verdict.server?.tools) return false;
  const { reason } = verdict.authorized;
  return before?.server?.tools !== undefined && [before.authorized.reason, 'Pending'].includes(reason);
}

/** How a group goes on with one more judgement. */
export function count({ failures, doubts }: Course, judgement: Judgement): Course {
  const left = leavesOpen(judgement) ? doubts + 1 : 0;
  if (!judgement.conclusive) return { failures, doubts: left };
  return { failures: judgement.verdict.healthy ? 0 : failures + 1, doubts: left };
}

/** Whether it says nothing of the server, or not which tools it has. */
function leavesOpen({ conclusive, verdict: { server } }: Judgement): boolean {
  return !conclusive || (server !== undefined && !server.tools);
}

/**
 * Time from one probe to the next, in ms and before it is spread. Who is between two thresholds is asked as soon as it
 * would be alone, also when it joined others who have failed for long; all others go at the pace of their group.
 */
export function waitAfter(
  judgement: Judgement,
  { failures, doubts }: Course,
  members: readonly Pick<Member, 'standing' | 'target'>[],
): number {
  const intervalMs = leastInterval(members);
  const after = (firstMs: number, times: number): number => Math.min(intervalMs, firstMs * 2 ** Math.max(0, times - 1));
  if (!judgement.conclusive) {
    return judgement.verdict.verified.reason === 'RateLimited' ? intervalMs : after(FIRST_DOUBT_MS, doubts);
  }
  if (judgement.verdict.healthy) {
    if (members.some(({ standing }) => standing.health === 'failed')) return after(FIRST_RETRY_MS, 1);
    return doubts > 0 ? after(FIRST_DOUBT_MS, doubts) : intervalMs;
  }
  const undecided = members.filter(({ standing }) => standing.health === 'healthy');
  const fewest = undecided.reduce((least, { standing }) => Math.min(least, standing.failures), failures);
  return after(FIRST_RETRY_MS, fewest);
}

/** Time in which the first probe is to come, in ms: at once if nothing is known. */
export function firstWait(known: Health, intervalMs: number): number {
  if (known === 'healthy') return intervalMs;
  return known === 'failed' ? Math.min(intervalMs, FAILED_BEFORE_MS) : 0;
}
