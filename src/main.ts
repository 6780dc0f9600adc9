/** Wires the operator together and ends it in order. */

import { KubeConfig } from '@kubernetes/client-node';
import { type Logger, pino } from 'pino';
import packageJson from '../package.json' with { type: 'json' };
import { OPERATOR } from './api/connector.ts';
import { type Config, ConfigError, readConfig, USAGE } from './config.ts';
import { createReconciler } from './connector/reconcile.ts';
import { createStores, startReflectors, watchChanges } from './connector/stores.ts';
import { createClient } from './kube/client.ts';
import { describeError } from './kube/errors.ts';
import { createEventRecorder } from './kube/events.ts';
import { createTransport } from './kube/transport.ts';
import { createGuard, type Lookup, openGuard } from './probe/guard.ts';
import { createLimiter } from './probe/limiter.ts';
import { createProbe } from './probe/mcp.ts';
import { createProbeScheduler } from './probe/schedule.ts';
import { startController } from './runtime/controller.ts';
import { startHealthServer } from './runtime/health.ts';
import { controllerMetrics, createRegistry, probeMetrics, queueMetrics } from './runtime/metrics.ts';
import { createQueue, type Queue } from './runtime/queue.ts';

export interface Operator {
  /** Port of /healthz, /readyz and /metrics. */
  port: number;
  /** Resolves when the caches hold the cluster and work has begun. */
  ready: Promise<void>;
  /** Ends it: unready, watches closed, work in hand finished within 30 s, connections closed. */
  stop(): Promise<void>;
}

export interface OperatorOptions {
  kubeConfig: KubeConfig;
  config: Config;
  log: Logger;
  /** Resolves host names for probes; the system's resolver if absent. */
  lookup?: Lookup;
}

const DRAIN_MS = 30_000;
/** A watch brings a bookmark about once a minute, and is opened anew after 150 s of silence. */
const WATCH_DEAD_MS = 600_000;

export async function startOperator({ kubeConfig, config, log, lookup }: OperatorOptions): Promise<Operator> {
  const { policy } = config;
  const { version, homepage } = packageJson;
  const userAgent = `${OPERATOR}/${version} (+${homepage})`;
  /** Ends the watches; `hard` aborts the work in hand as well. */
  const watching = new AbortController();
  const hard = new AbortController();

  const registry = createRegistry();
  const transport = createTransport(kubeConfig, userAgent);
  const client = createClient(transport);
  const queue: Queue = createQueue(queueMetrics(registry, 'personalconnector', () => queue));
  const guard = createGuard(policy.addressPolicy, lookup);
  const probes = createProbeScheduler({
    probe: createProbe({ guard, trustedGuard: openGuard(lookup), client: { name: OPERATOR, version }, userAgent }),
    limiter: createLimiter({ total: policy.probe.concurrency, perHost: policy.probe.perHost }),
    onResult: key => queue.add(key),
    observer: probeMetrics(registry),
  });
  const events = createEventRecorder({
    client,
    controller: OPERATOR,
    instance: config.podName,
    signal: hard.signal,
    onError: error => log.warn({ error: describeError(error) }, 'an Event could not be written'),
  });

  const stores = createStores();
  watchChanges(stores, (key, priority) => queue.add(key, priority));
  const reflectors = startReflectors(stores, {
    client,
    namespace: config.namespace,
    signal: watching.signal,
    onError: (resource, error) =>
      log.warn({ resource, error: describeError(error) }, 'a watch broke; it is opened again'),
  });

  let synced = false;
  const health = await startHealthServer({
    host: config.host,
    port: config.port,
    alive: () => {
      const dead = reflectors.some(({ lastProgress }) => synced && Date.now() - lastProgress() > WATCH_DEAD_MS);
      return dead ? 'a watch made no progress for 10 minutes' : undefined;
    },
    ready: () => (watching.signal.aborted ? 'shutting down' : synced ? undefined : 'the caches are not filled yet'),
    metrics: registry,
  });

  const reconcile = createReconciler({
    client,
    stores,
    probes,
    events,
    context: { policy, guard, operatorNamespace: config.podNamespace },
  });
  let controller: { done: Promise<void> } | undefined;
  const ready = Promise.all(reflectors.map(reflector => reflector.synced)).then(() => {
    if (watching.signal.aborted) return;
    synced = true;
    const sinceStartMs = Math.round(performance.now());
    log.info({ connectors: stores.connectors.size(), sinceStartMs }, 'the caches are filled; reconciling begins');
    controller = startController({
      queue,
      reconcile,
      workers: config.workers,
      signal: hard.signal,
      onError: (key, error) => log.error({ key, error: describeError(error) }, 'a reconcile failed; it is tried again'),
      observer: controllerMetrics(registry, 'personalconnector'),
    });
  });

  return {
    port: health.port,
    ready,
    async stop() {
      watching.abort();
      probes.close();
      queue.close();
      const drained = Promise.all([controller?.done, events.flush()]);
      const late = setTimeout(() => hard.abort(), DRAIN_MS);
      await drained;
      clearTimeout(late);
      hard.abort();
      await Promise.all(reflectors.map(({ done }) => done));
      await Promise.all([transport.close(), health.close()]);
    },
  };
}

async function main(): Promise<void> {
  const config = readConfig(process.argv.slice(2), process.env);
  if (config === 'help') {
    process.stdout.write(USAGE);
    return;
  }
  const log = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromDefault();
  const operator = await startOperator({ kubeConfig, config, log });
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

if (import.meta.main) {
  main().catch(error => {
    process.stderr.write(`${OPERATOR}: ${error instanceof ConfigError ? error.message : describeError(error)}\n`);
    process.exit(1);
  });
}
