import { totalmem } from 'node:os';
import { describe, expect, it } from 'vitest';
import { createMetrics, type MetricSources, type Tally } from '../../../src/runtime/metrics.ts';
import { createQueue, type Queue } from '../../../src/runtime/queue.ts';

function make() {
  const state = {
    leads: false,
    now: 0,
    running: 0,
    waiting: 0,
    longestWaitMs: 0,
    owned: 0,
    connectors: [] as Tally[],
    watches: [] as ReturnType<MetricSources['watches']>,
  };
  const metrics = createMetrics({
    version: '1.2.3',
    election: 'operator',
    isLeader: () => state.leads,
    seats: 3,
    owned: () => state.owned,
    queue: () => queue,
    connectors: () => state.connectors,
    probes: () => ({
      running: () => state.running,
      waiting: () => state.waiting,
      longestWaitMs: () => state.longestWaitMs,
    }),
    watches: () => state.watches,
    outcomes: ['answered', 'timeout'],
  });
  const { registry } = metrics;
  const queue: Queue = createQueue(metrics.queue, { now: () => state.now });
  /** The samples of the operator's own metrics, histograms by their count and sum. */
  const samples = async (): Promise<string[]> =>
    (await registry.metrics())
      .split('\n')
      .filter(line =>
        /^(controller_runtime|workqueue|personal_connectors?|reflector|leader_election|rest_client)[_{]/.test(line),
      )
      .filter(line => !line.includes('_bucket{') && !line.startsWith('personal_connector_memory_limit'));
  return { ...metrics, state, queue, samples };
}

describe('metrics', () => {
  it('start at 0 under the names that dashboards know', async () => {
    const { reflector, samples } = make();
    reflector('pods');
    expect(await samples()).toEqual([
      'personal_connector_build_info{version="1.2.3"} 1',
      'leader_election_master_status{name="operator"} 0',
      'personal_connector_seats 3',
      'personal_connectors_owned 0',
      'personal_connector_probes_total{outcome="answered"} 0',
      'personal_connector_probes_total{outcome="timeout"} 0',
      'personal_connector_probe_seconds_sum 0',
      'personal_connector_probe_seconds_count 0',
      'personal_connector_probes_running 0',
      'personal_connector_probes_waiting 0',
      'personal_connector_probe_longest_wait_seconds 0',
      'personal_connector_tools_changed_total 0',
      'controller_runtime_reconcile_total{controller="personalconnector",result="success"} 0',
      'controller_runtime_reconcile_total{controller="personalconnector",result="error"} 0',
      'controller_runtime_reconcile_total{controller="personalconnector",result="requeue_after"} 0',
      'controller_runtime_reconcile_errors_total{controller="personalconnector"} 0',
      'controller_runtime_reconcile_time_seconds_sum{controller="personalconnector"} 0',
      'controller_runtime_reconcile_time_seconds_count{controller="personalconnector"} 0',
      'controller_runtime_active_workers{controller="personalconnector"} 0',
      'personal_connector_hot_loops_total{controller="personalconnector"} 0',
      'workqueue_depth{name="personalconnector"} 0',
      'workqueue_adds_total{name="personalconnector"} 0',
      'workqueue_retries_total{name="personalconnector"} 0',
      'workqueue_queue_duration_seconds_sum{name="personalconnector"} 0',
      'workqueue_queue_duration_seconds_count{name="personalconnector"} 0',
      'workqueue_work_duration_seconds_sum{name="personalconnector"} 0',
      'workqueue_work_duration_seconds_count{name="personalconnector"} 0',
      'workqueue_longest_running_processor_seconds{name="personalconnector"} 0',
      'workqueue_unfinished_work_seconds{name="personalconnector"} 0',
      'reflector_watches_total{resource="pods"} 0',
      'reflector_failures_total{resource="pods"} 0',
    ]);
  });

  it('are declared even while they have no sample, and the process itself is among them', async () => {
    const text = await make().registry.metrics();
    for (const name of [
      'personal_connectors gauge',
      'personal_connector_watch_silence_seconds gauge',
      'reflector_lists_total counter',
      'rest_client_requests_total counter',
      'rest_client_request_duration_seconds histogram',
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
    const { reflector, samples } = make();
    const pods = reflector('pods');
    const services = reflector('services');
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

  it('count hot loops, and changes of tools', async () => {
    const { hotLoop, toolsChanged, samples } = make();
    hotLoop();
    hotLoop();
    toolsChanged();
    expect(await samples()).toEqual(
      expect.arrayContaining([
        'personal_connector_hot_loops_total{controller="personalconnector"} 2',
        'personal_connector_tools_changed_total 1',
      ]),
    );
  });

  it('tell how many connectors are in which state now, and forget states that nobody is in any more', async () => {
    const { state, samples } = make();
    const connectors = async (): Promise<string[]> =>
      (await samples()).filter(line => line.startsWith('personal_connectors{'));
    state.connectors = [
      { type: 'custom', ready: 'False', reason: 'Timeout', count: 2 },
      { type: 'official', ready: 'True', reason: 'Ready', count: 7 },
    ];
    expect(await connectors()).toEqual([
      'personal_connectors{type="custom",ready="False",reason="Timeout"} 2',
      'personal_connectors{type="official",ready="True",reason="Ready"} 7',
    ]);
    state.connectors = [{ type: 'custom', ready: 'True', reason: 'Ready', count: 2 }];
    expect(await connectors()).toEqual(['personal_connectors{type="custom",ready="True",reason="Ready"} 2']);
  });

  it('tell how long the quietest watch of each resource has been silent', async () => {
    const { state, samples } = make();
    state.watches = [
      { resource: 'pods', silentMs: 1_500 },
      { resource: 'pods', silentMs: 61_000 },
      { resource: 'pods', silentMs: 2_000 },
      { resource: 'services', silentMs: 0 },
    ];
    expect((await samples()).filter(line => line.includes('watch_silence'))).toEqual([
      'personal_connector_watch_silence_seconds{resource="pods"} 61',
      'personal_connector_watch_silence_seconds{resource="services"} 0',
    ]);
  });

  it('count requests to the API server by method and status, or that no answer came', async () => {
    const { api, samples } = make();
    api.requested('PATCH', 200, 0.25);
    api.requested('PATCH', 409, 0.25);
    api.requested('GET', undefined, 30);
    expect((await samples()).filter(line => line.startsWith('rest_client_'))).toEqual([
      'rest_client_requests_total{method="PATCH",code="200"} 1',
      'rest_client_requests_total{method="PATCH",code="409"} 1',
      'rest_client_requests_total{method="GET",code="<error>"} 1',
      'rest_client_request_duration_seconds_sum{verb="PATCH"} 0.5',
      'rest_client_request_duration_seconds_count{verb="PATCH"} 2',
      'rest_client_request_duration_seconds_sum{verb="GET"} 30',
      'rest_client_request_duration_seconds_count{verb="GET"} 1',
    ]);
  });

  it('tell a limit of memory that is no more than there is', async () => {
    const [, limit] = /^personal_connector_memory_limit_bytes (.*)$/m.exec(await make().registry.metrics()) ?? [];
    expect(Number(limit)).toBeGreaterThan(0);
    expect(Number(limit)).toBeLessThanOrEqual(totalmem());
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

  it('tell at each scrape how many probes run and wait, and how long', async () => {
    const { state, samples } = make();
    Object.assign(state, { running: 2, waiting: 7, longestWaitMs: 2_500 });
    expect(await samples()).toEqual(
      expect.arrayContaining([
        'personal_connector_probes_running 2',
        'personal_connector_probes_waiting 7',
        'personal_connector_probe_longest_wait_seconds 2.5',
      ]),
    );
  });
});
