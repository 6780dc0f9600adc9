/** Prometheus metrics under the names that dashboards for Kubernetes controllers know. */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ControllerObserver, Result } from './controller.ts';
import type { Queue, QueueObserver } from './queue.ts';

/** 1 ms to 60 s: a reconcile without writes takes well below a millisecond, one with retries of a slow API seconds. */
const SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** A registry with the figures of the process itself. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

/** The figures of one controller, all started at 0. */
export function controllerMetrics(registry: Registry, controller: string): ControllerObserver {
  const registers = [registry];
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

/** The figures of one queue. `queue` is asked for at each scrape. */
export function queueMetrics(registry: Registry, name: string, queue: () => Queue): QueueObserver {
  const registers = [registry];
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
  return {
    added: () => adds.inc({ name }),
    depth: waiting => depth.set({ name }, waiting),
    retried: () => retries.inc({ name }),
    waited: seconds => waits.observe({ name }, seconds),
    worked: seconds => works.observe({ name }, seconds),
  };
}

/** The figures of reflectors, by resource. */
export function reflectorMetrics(registry: Registry): (resource: string) => {
  filled(how: string): void;
  watched(): void;
  failed(): void;
} {
  const registers = [registry];
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

/** Whether this process leads, under the name that Kubernetes' own controllers use. */
export function leaderMetric(registry: Registry, name: string, isLeader: () => boolean): void {
  new Gauge({
    name: 'leader_election_master_status',
    help: '1 while this process leads, 0 while it stands by.',
    labelNames: ['name'],
    registers: [registry],
    collect() {
      this.set({ name }, isLeader() ? 1 : 0);
    },
  });
}

/** Keys that were reconciled over and over although nothing was asked of them. */
export function hotLoopMetric(registry: Registry, controller: string): () => void {
  const total = new Counter({
    name: 'personal_connector_hot_loops_total',
    help: 'Minutes in which one connector was reconciled too often though its spec had not changed.',
    labelNames: ['controller'],
    registers: [registry],
  });
  total.inc({ controller }, 0);
  return () => total.inc({ controller });
}

/** Figures of probes: what they found, and how busy the `slots` are, which are asked at each scrape. */
export function probeMetrics(
  registry: Registry,
  slots: { running(): number; waiting(): number },
): { probed(outcome: string, seconds: number): void } {
  const registers = [registry];
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
      this.set(slots.running());
    },
  });
  new Gauge({
    name: 'personal_connector_probes_waiting',
    help: 'Probes that are due and wait for a slot, or for the rate limit of their host.',
    registers,
    collect() {
      this.set(slots.waiting());
    },
  });
  return {
    probed(outcome, took) {
      total.inc({ outcome });
      seconds.observe(took);
    },
  };
}

/** Servers that came to offer other tools than before. */
export function toolsMetric(registry: Registry): () => void {
  const total = new Counter({
    name: 'personal_connector_tools_changed_total',
    help: 'Times that a server was found to offer other tools, descriptions or input schemas than before.',
    registers: [registry],
  });
  return () => total.inc();
}
