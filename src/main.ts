/** Wires the operator together and ends it in order. */

import { randomUUID } from 'node:crypto';
import { KubeConfig } from '@kubernetes/client-node';
import { type Logger, pino } from 'pino';
import packageJson from '../package.json' with { type: 'json' };
import { ANNOTATION, OPERATOR } from './api/connector.ts';
import { keyOf, namespaceOf } from './api/meta.ts';
import { type Config, ConfigError, readConfig, USAGE } from './config.ts';
import { isBad } from './connector/catalog.ts';
import { type Refusal, watchNamespaces } from './connector/namespaces.ts';
import { createReconciler } from './connector/reconcile.ts';
import { CONFIG_MAPS, SECRETS } from './connector/references.ts';
import { connectorsIn, createStores, watchChanges } from './connector/stores.ts';
import { tally } from './connector/tally.ts';
import { createClient } from './kube/client.ts';
import { describeError, isConflict, isNotFound, NotLeading, retryAfterOf } from './kube/errors.ts';
import { createEventRecorder } from './kube/events.ts';
import { type Membership, startMembership } from './kube/membership.ts';
import { createTransport } from './kube/transport.ts';
import { createDialer } from './probe/dial.ts';
import { createGuard, type Lookup, openGuard } from './probe/guard.ts';
import { createLimiter, partOf } from './probe/limiter.ts';
import { createProbe } from './probe/mcp.ts';
import { OUTCOMES } from './probe/outcome.ts';
import { createResolver } from './probe/resolver.ts';
import { createProbeScheduler } from './probe/schedule.ts';
import { runProbeCommand } from './probe-command.ts';
import { type Controller, startController } from './runtime/controller.ts';
import { startHealthServer } from './runtime/health.ts';
import { createHotLoopGuard } from './runtime/hot-loop.ts';
import { createMetrics } from './runtime/metrics.ts';
import { createQueue, type Priority, type Queue } from './runtime/queue.ts';

export interface Operator {
  /** Port of /healthz, /readyz and /metrics. */
  port: number;
  /** Resolves when the caches hold the cluster: it works now, or stands by to. */
  ready: Promise<void>;
  /** Ends it: unready, watches closed, work in hand finished within 30 s, the Lease given up, connections closed. */
  stop(): Promise<void>;
}

export interface OperatorOptions {
  kubeConfig: KubeConfig;
  config: Config;
  log: Logger;
  /** Resolves host names for probes; the system's resolver if absent. */
  lookup?: Lookup;
  /**
   * Told when another process may lead now: this one has been cut off from the API server, can write nothing more, and
   * should end at once.
   */
  onLost?: () => void;
}

/** As the API server and the servers that are probed get to know it. */
const IDENTITY = {
  client: { name: OPERATOR, version: packageJson.version },
  userAgent: `${OPERATOR}/${packageJson.version} (+${packageJson.homepage})`,
};
const DRAIN_MS = 30_000;
/** The same for work on what has become another operator's: that one waits for it. */
const HAND_OVER_MS = 3_000;
/** In a row, with back-off between them: the cache had the time to learn what is there. */
const MOST_OVERTAKEN = 4;
/** A watch brings a bookmark about once a minute, and is opened anew after 150 s of silence. */
const WATCH_DEAD_MS = 600_000;

export async function startOperator(options: OperatorOptions): Promise<Operator> {
  const { kubeConfig, config, log, lookup = createResolver(), onLost } = options;
  const { policy } = config;
  const { client: probeClient, userAgent } = IDENTITY;
  /** Ends the watches; `hard` aborts the work in hand as well. */
  const watching = new AbortController();
  const hard = new AbortController();

  const metrics = createMetrics({
    version: packageJson.version,
    election: config.leaseName ?? OPERATOR,
    isLeader: () => alone || (membership?.isWorking() ?? false),
    seats: Math.max(1, config.share),
    owned: () => countOwned(),
    queue: () => queue,
    connectors: () => tally(stores.connectors.values()),
    probes: () => limiter,
    watches: () =>
      namespaces.reflectors.map(({ resource, lastProgress }) => ({
        resource,
        silentMs: performance.now() - lastProgress(),
      })),
    outcomes: Object.keys(OUTCOMES),
  });
  const transport = createTransport(kubeConfig, { userAgent, mayWrite: () => mayWrite(), observer: metrics.api });
  const client = createClient(transport);
  let membership: Membership | undefined;
  let controller: Controller | undefined;
  const alone = config.leaseName === undefined;
  const mayWrite = (): boolean => alone || (membership?.mayWrite() ?? false);
  const owns = (key: string): boolean => alone || (membership?.owns(key) ?? false);

  const queue: Queue = createQueue(metrics.queue, { lineOf: namespaceOf });
  const hotLoops = createHotLoopGuard({
    perMinute: config.hotLoopPerMinute,
    inputOf: key => {
      const { generation, annotations } = stores.connectors.get(key)?.metadata ?? {};
      return `${generation} ${annotations?.[ANNOTATION.recheck]}`;
    },
    onHot({ key, reconciles, causes }) {
      metrics.hotLoop();
      log.warn(
        { key, reconciles, causes },
        'reconciled over and over although its spec did not change: something undoes what the operator does, or what it waits for changes all the time; it is slowed down to once a second for the rest of the minute',
      );
    },
  });
  const wake = (key: string, cause: string, priority?: Priority): void => {
    // Who stands by does not hoard: all is looked at when it takes over.
    if (!controller || !owns(key)) return;
    hotLoops.woken(key, cause);
    queue.add(key, priority);
  };
  const guard = createGuard(policy.addressPolicy, lookup);
  const { concurrency: total, perHost, perHostPerSecond } = policy.probe;
  const limiter = createLimiter(partOf({ total, perHost, perHostPerSecond }, config.share));
  const probes = createProbeScheduler({
    probe: createProbe({
      dial: createDialer({ guard, proxy: policy.probe.proxy }),
      dialTrusted: createDialer({ guard: openGuard(lookup) }),
      client: probeClient,
      userAgent,
    }),
    limiter,
    onResult: key => wake(key, 'probe'),
    onError: error => log.error({ error: describeError(error) }, 'the outcome of a probe could not be taken in'),
    observer: metrics.probes,
  });
  const events = createEventRecorder({
    client,
    controller: OPERATOR,
    instance: config.podName,
    signal: hard.signal,
    onError: error => log.warn({ error: describeError(error) }, 'an Event could not be written'),
  });

  for (const [connectorId, entry] of Object.entries(policy.catalog)) {
    if (isBad(entry))
      log.error({ connectorId, fault: entry.fault }, 'an entry of the catalog is not valid: it is not served');
  }

  const stores = createStores();
  const enqueue = (key: string, priority: Priority, cause: string): void => wake(key, cause, priority);
  watchChanges(stores, enqueue);
  let synced = false;
  const namespaces = watchNamespaces(stores, {
    names: config.namespaces,
    references: [...(policy.readSecrets ? [SECRETS] : []), ...(policy.readConfigMaps ? [CONFIG_MAPS] : [])],
    client,
    signal: watching.signal,
    onError: (resource, error) =>
      log.warn({ resource, error: describeError(error) }, 'a watch had trouble; it goes on'),
    observer: metrics.reflector,
    enqueue,
    onTurn(namespace, isOpen) {
      if (synced && isOpen) log.info({ namespace }, 'the namespace may be looked at: its connectors are looked after');
      // Those of one that was closed are probed no more.
      for (const connector of connectorsIn(stores.connectors, namespace)) enqueue(keyOf(connector), 'low', 'Namespace');
    },
    onRefused: refusal => log.warn({ ...refusal, error: describeError(refusal.error) }, remedyOf(refusal)),
  });

  const health = await startHealthServer({
    host: config.host,
    port: config.port,
    alive: () => {
      const dead = namespaces.silent(WATCH_DEAD_MS);
      const where = dead?.namespace === undefined ? '' : ` in ${dead.namespace}`;
      return dead && `the watch of ${dead.resource}${where} made no progress for ${WATCH_DEAD_MS / 60_000} minutes`;
    },
    ready() {
      if (watching.signal.aborted) return 'shutting down';
      if (!synced) return 'the caches are not filled yet';
      return alone || membership?.hasSeen() ? undefined : `the Lease ${config.leaseName} could not be read or made yet`;
    },
    metrics: metrics.registry,
  });

  const reconcile = createReconciler({
    client,
    stores,
    probes,
    events,
    context: { policy, guard, operatorNamespace: config.podNamespace, bridgeImage: config.bridgeImage },
    isOpen: namespaces.isOpen,
    owns,
    onToolsChanged: metrics.toolsChanged,
  });
  const ready = namespaces.ready.then(() => {
    if (watching.signal.aborted) return;
    synced = true;
    log.info({ connectors: stores.connectors.size() }, 'the caches are filled');
    // Who could not work does not lead.
    membership = startCandidacy();
    if (!membership) return work();
    void membership.working.then(work);
  });

  function work(): void {
    if (watching.signal.aborted) return;
    log.info({ sinceStartMs: Math.round(performance.now()) }, 'reconciling begins');
    controller = startController({
      queue,
      reconcile,
      workers: config.workers,
      signal: hard.signal,
      onError: (key, error, failures) => {
        // That somebody else was quicker is in the nature of things; but not over and over.
        const overtaken = (isConflict(error) || isNotFound(error)) && failures < MOST_OVERTAKEN;
        const expected = overtaken || error instanceof NotLeading;
        const details = { key, failures, error: describeError(error) };
        log[expected ? 'debug' : 'error'](details, 'a reconcile failed; it is tried again');
      },
      retryAfter: retryAfterOf,
      observer: metrics.controller,
      hotLoops,
    });
    for (const key of keys()) if (owns(key)) queue.add(key, 'low');
  }

  function* keys(): Generator<string> {
    for (const connector of stores.connectors.values()) yield keyOf(connector);
  }

  function countOwned(): number {
    let count = 0;
    for (const key of keys()) if (owns(key)) count += 1;
    return count;
  }

  /** Takes up what has become this operator's own, and lets go of what is another's now. */
  function turn(owned: (key: string) => boolean): void {
    if (!controller) return;
    let gained = 0;
    let lost = 0;
    for (const key of keys()) {
      const before = owned(key);
      if (owns(key) === before) continue;
      if (before) {
        lost += 1;
        probes.set(key, undefined);
      } else {
        gained += 1;
        wake(key, 'Share', 'low');
      }
    }
    if (gained + lost > 0) log.info({ gained, lost }, 'the connectors are shared out anew');
  }

  function startCandidacy(): Membership | undefined {
    const { leaseName: name, leaseNamespace: namespace, podName, share } = config;
    if (name === undefined || namespace === undefined) return undefined;
    return startMembership({
      client: createClient(transport, { unfenced: true }),
      namespace,
      name,
      // A Pod whose container starts again has the same name, and must not take the earlier one's Lease for its own.
      identity: `${podName}_${randomUUID()}`,
      share,
      onTurn: turn,
      drain: async () => controller?.drain(owns, HAND_OVER_MS),
      onLost(why) {
        transport.reset();
        hard.abort();
        log.fatal({ lease: name, why }, 'lost the Lease: another operator may lead now; this one ends');
        onLost?.();
      },
      onWait: holders =>
        log.info({ lease: name, holders }, 'waiting: others lead, or have not let go of connectors yet'),
      onFollow: leader => log.info({ lease: name, leader }, 'standing by: another operator holds the Lease'),
      onError: error => log.warn({ lease: name, error: describeError(error) }, 'the Lease could not be looked after'),
    });
  }

  async function end(): Promise<void> {
    watching.abort();
    queue.close();
    const late = setTimeout(() => {
      // What is still on its way must not arrive after the Lease was given up.
      transport.reset();
      hard.abort();
    }, DRAIN_MS);
    await controller?.done;
    // Probes write nothing: nobody who takes over need wait for their last words.
    const probing = probes.close();
    await events.flush();
    clearTimeout(late);
    hard.abort();
    await Promise.all([probing, membership?.release(), namespaces.done]);
    await Promise.all([transport.close(), health.close()]);
  }

  let ended: Promise<void> | undefined;
  return {
    port: health.port,
    ready,
    stop() {
      ended ??= end();
      return ended;
    },
  };
}

/** What follows from a refusal, and what to do. */
function remedyOf({ namespace, isOpen }: Refusal): string {
  const rights =
    namespace === undefined
      ? 'bind the ClusterRole of the chart to its ServiceAccount, or name namespaces in watchNamespaces'
      : 'make sure that the namespace exists and bind the Role of the chart to its ServiceAccount there, or take the namespace out of watchNamespaces';
  return isOpen
    ? `the operator may not watch what probes and hosted servers read: it sees no changes of that; ${rights}, or turn rbac.readSecrets or rbac.readConfigMaps off`
    : `the operator may not watch what it must, and leaves the connectors there alone until it may: ${rights}`;
}

/** Runs the operator as a process: it ends in order on SIGTERM and SIGINT, and at once when it lost the Lease. */
export async function runProcess(config: Config, lookup?: Lookup): Promise<void> {
  const log = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromDefault();
  const operator = await startOperator({
    kubeConfig,
    config,
    log,
    ...(lookup && { lookup }),
    onLost: () => process.exit(1),
  });
  log.info(
    { version: packageJson.version, port: operator.port, server: kubeConfig.getCurrentCluster()?.server },
    'started',
  );
  const stop = async (signal: string): Promise<void> => {
    log.info({ signal }, 'stopping');
    await operator.stop();
    log.info('stopped');
    process.exit(0);
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
}

/** Why the process ends before it has begun, for the person who started it. */
export function fail(error: unknown): never {
  process.stderr.write(`${OPERATOR}: ${error instanceof ConfigError ? error.message : describeError(error)}\n`);
  process.exit(1);
}

if (import.meta.main) {
  try {
    const [command, ...args] = process.argv.slice(2);
    if (command === 'probe')
      process.exit(await runProbeCommand({ ...IDENTITY, args, stdout: process.stdout, stderr: process.stderr }));
    const config = readConfig(process.argv.slice(2), process.env);
    if (config === 'help') process.stdout.write(USAGE);
    else await runProcess(config);
  } catch (error) {
    fail(error);
  }
}
