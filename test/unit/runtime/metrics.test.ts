import { describe, expect, it } from 'vitest';
import { controllerMetrics, createRegistry, probeMetrics, queueMetrics } from '../../../src/runtime/metrics.ts';
import { createQueue, type Queue } from '../../../src/runtime/queue.ts';

function make() {
  const registry = createRegistry();
  const controller = controllerMetrics(registry, 'personalconnector');
  const queue: Queue = createQueue(queueMetrics(registry, 'personalconnector', () => queue));
  const probes = probeMetrics(registry);
  /** The samples of the operator's own metrics, histograms by their count and sum. */
  const samples = async (): Promise<string[]> =>
    (await registry.metrics())
      .split('\n')
      .filter(line => /^(controller_runtime|workqueue|personal_connector)_/.test(line) && !line.includes('_bucket{'));
  return { registry, controller, queue, probes, samples };
}

describe('metrics', () => {
  it('start at 0 under the names that dashboards know', async () => {
    const { samples } = make();
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
      'personal_connector_probe_seconds_sum 0',
      'personal_connector_probe_seconds_count 0',
    ]);
  });

  it('are declared even while they have no sample, and the process itself is among them', async () => {
    const text = await make().registry.metrics();
    for (const name of [
      'controller_runtime_reconcile_time_seconds histogram',
      'workqueue_queue_duration_seconds histogram',
      'workqueue_work_duration_seconds histogram',
      'personal_connector_probes_total counter',
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

  it('tell how old the oldest work is when they are asked', async () => {
    const since = Date.now() - 5_000;
    const registry = createRegistry();
    queueMetrics(registry, 'stuck', () => ({ ...createQueue(), oldestWork: () => since }));
    const metric = registry.getSingleMetric('workqueue_longest_running_processor_seconds');
    const [sample] = (await metric?.get())?.values ?? [];
    expect(sample?.value).toBeGreaterThanOrEqual(5);
    expect(sample?.value).toBeLessThan(60);
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
});
