import { describe, expect, it } from 'vitest';
import {
  controllerMetrics,
  createRegistry,
  hotLoopMetric,
  leaderMetric,
  probeMetrics,
  queueMetrics,
  reflectorMetrics,
} from '../../../src/runtime/metrics.ts';
import { createQueue, type Queue } from '../../../src/runtime/queue.ts';

function make() {
  const registry = createRegistry();
  const state = { leads: false, now: 0, running: 0, waiting: 0 };
  const controller = controllerMetrics(registry, 'personalconnector');
  const queue: Queue = createQueue(
    queueMetrics(registry, 'personalconnector', () => queue),
    { now: () => state.now },
  );
  const probes = probeMetrics(registry, { running: () => state.running, waiting: () => state.waiting });
  const reflectors = reflectorMetrics(registry);
  const countHotLoop = hotLoopMetric(registry, 'personalconnector');
  leaderMetric(registry, 'operator', () => state.leads);
  /** The samples of the operator's own metrics, histograms by their count and sum. */
  const samples = async (): Promise<string[]> =>
    (await registry.metrics())
      .split('\n')
      .filter(line => /^(controller_runtime|workqueue|personal_connector|reflector|leader_election)_/.test(line))
      .filter(line => !line.includes('_bucket{'));
  return { registry, state, controller, queue, probes, reflectors, countHotLoop, samples };
}

describe('metrics', () => {
  it('start at 0 under the names that dashboards know', async () => {
    const { reflectors, samples } = make();
    reflectors('pods');
    expect(await samples()).toEqual([
      'controller_runtime_reconcile_total{controller="personalconnector",result="success"} 0',
      'controller_runtime_reconcile_total{controller="personalconnector",result="error"} 0',
      'controller_runtime_reconcile_total{controller="personalconnector",result="requeue_after"} 0',
      'controller_runtime_reconcile_errors_total{controller="personalconnector"} 0',
      'controller_runtime_active_workers{controller="personalconnector"} 0',
      'workqueue_depth{name="personalconnector"} 0',
      'workqueue_adds_total{name="personalconnector"} 0',
      'workqueue_retries_total{name="personalconnector"} 0',
      'workqueue_longest_running_processor_seconds{name="personalconnector"} 0',
      'workqueue_unfinished_work_seconds{name="personalconnector"} 0',
      'personal_connector_probe_seconds_sum 0',
      'personal_connector_probe_seconds_count 0',
      'personal_connector_probes_running 0',
      'personal_connector_probes_waiting 0',
      'reflector_watches_total{resource="pods"} 0',
      'reflector_failures_total{resource="pods"} 0',
      'personal_connector_hot_loops_total{controller="personalconnector"} 0',
      'leader_election_master_status{name="operator"} 0',
    ]);
  });

  it('are declared even while they have no sample, and the process itself is among them', async () => {
    const text = await make().registry.metrics();
    for (const name of [
      'controller_runtime_reconcile_time_seconds histogram',
      'workqueue_queue_duration_seconds histogram',
      'workqueue_work_duration_seconds histogram',
      'personal_connector_probes_total counter',
      'reflector_lists_total counter',
      'process_resident_memory_bytes gauge',
    ]) {
      expect(text).toContain(`# TYPE ${name}\n`);
    }
  });

  it.each([
    ['success', 0],
    ['requeue_after', 0],
    ['error', 1],
  ] as const)('count a reconcile that ended with %s, errors: %i', async (result, errors) => {
    const { controller, samples } = make();
    controller.active(3);
    controller.reconciled(result, 0.5);
    expect(await samples()).toEqual(
      expect.arrayContaining([
        `controller_runtime_reconcile_total{controller="personalconnector",result="${result}"} 1`,
        `controller_runtime_reconcile_errors_total{controller="personalconnector"} ${errors}`,
        'controller_runtime_active_workers{controller="personalconnector"} 3',
        'controller_runtime_reconcile_time_seconds_sum{controller="personalconnector"} 0.5',
        'controller_runtime_reconcile_time_seconds_count{controller="personalconnector"} 1',
      ]),
    );
  });

  it('follow the queue', async () => {
    const { queue, samples } = make();
    queue.add('a');
    queue.add('b');
    await queue.take();
    queue.retry('c');
    queue.done('a');
    queue.close();
    expect(await samples()).toEqual(
      expect.arrayContaining([
        'workqueue_depth{name="personalconnector"} 1',
        'workqueue_adds_total{name="personalconnector"} 2',
        'workqueue_retries_total{name="personalconnector"} 1',
        'workqueue_queue_duration_seconds_count{name="personalconnector"} 1',
        'workqueue_work_duration_seconds_count{name="personalconnector"} 1',
      ]),
    );
  });

  it('tell when they are asked how old the oldest work is, and all of it together', async () => {
    const { queue, state, samples } = make();
    const ages = async (): Promise<string[]> =>
      (await samples()).filter(line => /longest_running|unfinished/.test(line)).map(line => line.split(' ')[1] ?? '');
    queue.add('a');
    queue.add('b');
    await queue.take();
    state.now = 2_000;
    await queue.take();
    state.now = 5_500;
    expect(await ages()).toEqual(['5.5', '9']);
    queue.done('a');
    expect(await ages()).toEqual(['3.5', '3.5']);
    queue.done('b');
    expect(await ages()).toEqual(['0', '0']);
  });

  it('follow each reflector by the resource that it reads', async () => {
    const { reflectors, samples } = make();
    const pods = reflectors('pods');
    const services = reflectors('services');
    pods.filled('watch-list');
    pods.filled('list');
    pods.filled('list');
    pods.watched();
    services.watched();
    services.watched();
    services.failed();
    expect((await samples()).filter(line => line.startsWith('reflector_'))).toEqual([
      'reflector_lists_total{resource="pods",how="watch-list"} 1',
      'reflector_lists_total{resource="pods",how="list"} 2',
      'reflector_watches_total{resource="pods"} 1',
      'reflector_watches_total{resource="services"} 2',
      'reflector_failures_total{resource="pods"} 0',
      'reflector_failures_total{resource="services"} 1',
    ]);
  });

  it('tell at the moment in which they are asked whether this process leads', async () => {
    const { state, samples } = make();
    for (const leads of [true, false]) {
      state.leads = leads;
      expect(await samples()).toContain(`leader_election_master_status{name="operator"} ${leads ? 1 : 0}`);
    }
  });

  it('count hot loops', async () => {
    const { countHotLoop, samples } = make();
    countHotLoop();
    countHotLoop();
    expect(await samples()).toContain('personal_connector_hot_loops_total{controller="personalconnector"} 2');
  });

  it('count probes by what they found', async () => {
    const { probes, samples } = make();
    probes.probed('answered', 0.1);
    probes.probed('timeout', 10);
    probes.probed('answered', 0.2);
    expect(await samples()).toEqual(
      expect.arrayContaining([
        'personal_connector_probes_total{outcome="answered"} 2',
        'personal_connector_probes_total{outcome="timeout"} 1',
        'personal_connector_probe_seconds_count 3',
      ]),
    );
  });

  it('tell at each scrape how many probes run and wait', async () => {
    const { state, samples } = make();
    Object.assign(state, { running: 2, waiting: 7 });
    expect(await samples()).toEqual(
      expect.arrayContaining(['personal_connector_probes_running 2', 'personal_connector_probes_waiting 7']),
    );
  });
});
