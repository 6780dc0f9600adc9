/** All Prometheus metrics, under the names that dashboards for Kubernetes controllers know. */

import { totalmem } from 'node:os';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ControllerObserver, Result } from './controller.ts';
import type { Queue, QueueObserver } from './queue.ts';

/** 1 ms to 60 s: a reconcile without writes takes well below a millisecond, one with retries of a slow API seconds. */
const SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** Of our own queue and its workers, among those of other operators. */
const CONTROLLER = 'personalconnector';

/** Connectors that are alike. None of its texts comes from a user: their number is bounded. */
export interface Tally {
  type: string;
  /** Status and reason of the condition Ready. */
  ready: string;
  reason: string;
  count: number;
}

/** What is asked at each scrape, and costs no more than a look into memory. */
export interface MetricSources {
  version: string;
  /** Name of the Lease. */
  election: string;
  isLeader(): boolean;
  /** How many operators may work at a time. */
  seats: number;
  /** How many connectors this one looks after. */
  owned(): number;
  queue(): Queue;
  connectors(): Tally[];
  probes(): { running(): number; waiting(): number; longestWaitMs(): number };
  /** Watches, each with the time for which nothing came from it. */
  watches(): { resource: string; silentMs: number }[];
  /** All that a probe can find. */
  outcomes: readonly string[];
}

export interface Metrics {
  registry: Registry;
  queue: QueueObserver;
  controller: ControllerObserver;
  hotLoop(): void;
  reflector(resource: string): { filled(how: string): void; watched(): void; failed(): void };
  probes: { probed(outcome: string, seconds: number): void };
  toolsChanged(): void;
  /** `code`: the status, or undefined if no answer came. */
  api: { requested(method: string, code: number | undefined, seconds: number): void };
}

/** Makes every metric of the operator, and of its process; counters start at 0. The reference page lists these. */
export function createMetrics(sources: MetricSources): Metrics {
  const registry = new Registry();
  const registers = [registry];
  buildInfo(registers, sources.version);
  connectorMetrics(registers, sources.connectors);
  leaderMetric(registers, sources.election, sources.isLeader);
  shareMetrics(registers, sources);
  const metrics = {
    registry,
    probes: probeMetrics(registers, sources),
    toolsChanged: toolsMetric(registers),
    controller: controllerMetrics(registers),
    hotLoop: hotLoopMetric(registers),
    queue: queueMetrics(registers, sources.queue),
    reflector: reflectorMetrics(registers, sources.watches),
    api: apiMetrics(registers),
  };
  memoryLimit(registers);
  collectDefaultMetrics({ register: registry });
  return metrics;
}

function buildInfo(registers: Registry[], version: string): void {
  new Gauge({
    name: 'personal_connector_build_info',
    help: 'Always 1; the label says which version runs.',
    labelNames: ['version'],
    registers,
  }).set({ version }, 1);
}

function connectorMetrics(registers: Registry[], tallies: () => Tally[]): void {
  new Gauge({
    name: 'personal_connectors',
    help: 'Connectors, by type and by the status and reason of their condition Ready. Each replica tells of all of them.',
    labelNames: ['type', 'ready', 'reason'],
    registers,
    collect() {
      this.reset();
      for (const { count, ...labels } of tallies()) this.set(labels, count);
    },
  });
}

function controllerMetrics(registers: Registry[]): ControllerObserver {
  const controller = CONTROLLER;
  const total = new Counter({
    name: 'controller_runtime_reconcile_total',
    help: 'Reconciles, by result.',
    labelNames: ['controller', 'result'],
    registers,
  });
  const errors = new Counter({
    name: 'controller_runtime_reconcile_errors_total',
    help: 'Reconciles that ended with an error.',
    labelNames: ['controller'],
    registers,
  });
  const seconds = new Histogram({
    name: 'controller_runtime_reconcile_time_seconds',
    help: 'Time that a reconcile took.',
    labelNames: ['controller'],
    buckets: SECONDS,
    registers,
  });
  const active = new Gauge({
    name: 'controller_runtime_active_workers',
    help: 'Workers that reconcile at the moment.',
    labelNames: ['controller'],
    registers,
  });
  for (const result of ['success', 'error', 'requeue_after'] satisfies Result[]) {
    total.inc({ controller, result }, 0);
  }
  errors.inc({ controller }, 0);
  seconds.zero({ controller });
  active.set({ controller }, 0);
  return {
    active: workers => active.set({ controller }, workers),
    reconciled(result, took) {
      total.inc({ controller, result });
      if (result === 'error') errors.inc({ controller });
      seconds.observe({ controller }, took);
    },
  };
}

function queueMetrics(registers: Registry[], queue: () => Queue): QueueObserver {
  const name = CONTROLLER;
  const labelNames = ['name'] as const;
  const depth = new Gauge({ name: 'workqueue_depth', help: 'Keys that wait.', labelNames, registers });
  const adds = new Counter({ name: 'workqueue_adds_total', help: 'Keys that were added.', labelNames, registers });
  const retries = new Counter({ name: 'workqueue_retries_total', help: 'Keys that back off.', labelNames, registers });
  const waits = new Histogram({
    name: 'workqueue_queue_duration_seconds',
    help: 'Time that keys waited.',
    labelNames,
    buckets: SECONDS,
    registers,
  });
  const works = new Histogram({
    name: 'workqueue_work_duration_seconds',
    help: 'Time that work on a key took.',
    labelNames,
    buckets: SECONDS,
    registers,
  });
  new Gauge({
    name: 'workqueue_longest_running_processor_seconds',
    help: 'Age of the oldest unfinished work.',
    labelNames,
    registers,
    collect() {
      this.set({ name }, queue().unfinished()[0] ?? 0);
    },
  });
  new Gauge({
    name: 'workqueue_unfinished_work_seconds',
    help: 'Ages of all unfinished work, added up.',
    labelNames,
    registers,
    collect() {
      this.set(
        { name },
        queue()
          .unfinished()
          .reduce((sum, seconds) => sum + seconds, 0),
      );
    },
  });
  depth.set({ name }, 0);
  adds.inc({ name }, 0);
  retries.inc({ name }, 0);
  waits.zero({ name });
  works.zero({ name });
  return {
    added: () => adds.inc({ name }),
    depth: waiting => depth.set({ name }, waiting),
    retried: () => retries.inc({ name }),
    waited: seconds => waits.observe({ name }, seconds),
    worked: seconds => works.observe({ name }, seconds),
  };
}

function reflectorMetrics(registers: Registry[], watches: MetricSources['watches']): Metrics['reflector'] {
  const filled = new Counter({
    name: 'reflector_lists_total',
    help: 'Times that all objects of a resource were read, in pages or as the beginning of a watch: once per start, and hardly ever again.',
    labelNames: ['resource', 'how'],
    registers,
  });
  const watched = new Counter({
    name: 'reflector_watches_total',
    help: 'Watches that were opened.',
    labelNames: ['resource'],
    registers,
  });
  const failed = new Counter({
    name: 'reflector_failures_total',
    help: 'Lists and watches that broke and were tried again.',
    labelNames: ['resource'],
    registers,
  });
  new Gauge({
    name: 'personal_connector_watch_silence_seconds',
    help: 'Time since the watch of a resource, of several the quietest, was last seen to be alive; the API server tells something about once a minute.',
    labelNames: ['resource'],
    registers,
    collect() {
      const longest = new Map<string, number>();
      for (const { resource, silentMs } of watches())
        longest.set(resource, Math.max(silentMs, longest.get(resource) ?? 0));
      for (const [resource, silentMs] of longest) this.set({ resource }, silentMs / 1000);
    },
  });
  return resource => {
    watched.inc({ resource }, 0);
    failed.inc({ resource }, 0);
    return {
      filled: how => filled.inc({ resource, how }),
      watched: () => watched.inc({ resource }),
      failed: () => failed.inc({ resource }),
    };
  };
}

function leaderMetric(registers: Registry[], name: string, isLeader: () => boolean): void {
  new Gauge({
    name: 'leader_election_master_status',
    help: '1 while this process leads, or works on its share; 0 while it stands by.',
    labelNames: ['name'],
    registers,
    collect() {
      this.set({ name }, isLeader() ? 1 : 0);
    },
  });
}

function shareMetrics(registers: Registry[], { seats, owned }: MetricSources): void {
  new Gauge({
    name: 'personal_connector_seats',
    help: 'Replicas that may work at the same time: 1, or as many as the work is shared out over.',
    registers,
  }).set(seats);
  new Gauge({
    name: 'personal_connectors_owned',
    help: 'Connectors that this replica looks after.',
    registers,
    collect() {
      this.set(owned());
    },
  });
}

function hotLoopMetric(registers: Registry[]): () => void {
  const controller = CONTROLLER;
  const total = new Counter({
    name: 'personal_connector_hot_loops_total',
    help: 'Minutes in which one connector was reconciled too often though its spec had not changed.',
    labelNames: ['controller'],
    registers,
  });
  total.inc({ controller }, 0);
  return () => total.inc({ controller });
}

function probeMetrics(registers: Registry[], { probes, outcomes }: MetricSources): Metrics['probes'] {
  const total = new Counter({
    name: 'personal_connector_probes_total',
    help: 'Probes, by what they found. Connectors with the same target and credentials share one.',
    labelNames: ['outcome'],
    registers,
  });
  const seconds = new Histogram({
    name: 'personal_connector_probe_seconds',
    help: 'Time that a probe took.',
    buckets: SECONDS,
    registers,
  });
  new Gauge({
    name: 'personal_connector_probes_running',
    help: 'Probes that run at the moment.',
    registers,
    collect() {
      this.set(probes().running());
    },
  });
  new Gauge({
    name: 'personal_connector_probes_waiting',
    help: 'Probes that are due and wait for a slot, or for the rate limit of their host.',
    registers,
    collect() {
      this.set(probes().waiting());
    },
  });
  new Gauge({
    name: 'personal_connector_probe_longest_wait_seconds',
    help: 'Time that the probe has waited that waits longest.',
    registers,
    collect() {
      this.set(probes().longestWaitMs() / 1000);
    },
  });
  for (const outcome of outcomes) total.inc({ outcome }, 0);
  return {
    probed(outcome, took) {
      total.inc({ outcome });
      seconds.observe(took);
    },
  };
}

function toolsMetric(registers: Registry[]): () => void {
  const total = new Counter({
    name: 'personal_connector_tools_changed_total',
    help: 'Times that a server was found to offer other tools, descriptions or input schemas than before.',
    registers,
  });
  return () => total.inc();
}

/** The names are those of client-go. */
function apiMetrics(registers: Registry[]): Metrics['api'] {
  const total = new Counter({
    name: 'rest_client_requests_total',
    help: 'Requests to the API server, by HTTP method and status; the code is `<error>` if no answer came.',
    labelNames: ['method', 'code'],
    registers,
  });
  const seconds = new Histogram({
    name: 'rest_client_request_duration_seconds',
    help: 'Time until the API server began to answer. `verb` is the HTTP method.',
    labelNames: ['verb'],
    buckets: SECONDS,
    registers,
  });
  return {
    requested(method, code, took) {
      total.inc({ method, code: code ?? '<error>' });
      seconds.observe({ verb: method }, took);
    },
  };
}

function memoryLimit(registers: Registry[]): void {
  // Without a limit Node gives 0, or a number beyond all memory.
  const limit = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  new Gauge({
    name: 'personal_connector_memory_limit_bytes',
    help: "Memory that the process may use: its container's limit, or all that the machine has.",
    registers,
  }).set(limit);
}
