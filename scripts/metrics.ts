/** The reference page of metrics, from the metrics themselves. */
import { OUTCOMES } from '../src/probe/outcome.ts';
import { createMetrics } from '../src/runtime/metrics.ts';
import { createQueue } from '../src/runtime/queue.ts';

/** Title of a section → what begins the names in it. */
const SECTIONS: Record<string, RegExp> = {
  'Connectors and probes': /^personal_connector(?!_memory|_watch)/,
  'Reconciles and their queue': /^(controller_runtime|workqueue)_/,
  'The API server': /^(rest_client|reflector|leader_election|personal_connector_watch)_/,
  'The process': /^(process|nodejs|personal_connector_memory)_/,
};

interface Documented {
  name: string;
  type: string;
  help: string;
  labelNames: string[];
}

/** All metrics that the operator has. */
export function documentedMetrics(): Documented[] {
  const queue = createQueue();
  const { registry } = createMetrics({
    version: '0.0.0',
    election: '',
    isLeader: () => false,
    seats: 1,
    owned: () => 0,
    queue: () => queue,
    connectors: () => [],
    probes: () => ({ running: () => 0, waiting: () => 0, longestWaitMs: () => 0 }),
    watches: () => [],
    outcomes: [],
  });
  // The library has the labels, and its types do not say so.
  return registry.getMetricsAsArray() as unknown as Documented[];
}

/** docs/reference/metrics.md. Throws when a metric belongs to no section, or to two. */
export function metricsPage(notice: string): string {
  const metrics = documentedMetrics();
  for (const { name } of metrics) {
    const fitting = Object.keys(SECTIONS).filter(title => SECTIONS[title]?.test(name));
    if (fitting.length !== 1)
      throw new Error(`${name} belongs to ${fitting.length} sections of the metrics page: mend SECTIONS`);
  }
  const sections = Object.entries(SECTIONS).flatMap(([title, names]) => [
    `## ${title}`,
    [
      '| metric | type | labels | meaning |',
      '| --- | --- | --- | --- |',
      ...metrics
        .filter(({ name }) => names.test(name))
        .map(({ name, type, labelNames, help }) => {
          const labels = labelNames.map(label => `\`${label}\``).join(', ');
          return `| \`${name}\` | ${type} | ${labels} | ${help.replace(/\.?$/, '.')} |`;
        }),
    ].join('\n'),
  ]);
  const outcomes = Object.entries(OUTCOMES).map(([outcome, meaning]) => `| \`${outcome}\` | ${meaning} |`);
  return [
    notice,
    '# Metrics',
    [
      'The operator serves these at `/metrics` of port 8080, container port `http`, for Prometheus. No label holds the name or',
      'URL of a connector, or anything else that a user writes. A scrape reads memory alone: it costs the API server nothing.',
    ].join('\n'),
    [
      'The reasons of `personal_connectors` are those of [`Ready`](conditions.md); `Pending` means that a connector has no',
      'status yet, `Other` a reason that the operator does not know. Replicas that stand by tell of the same connectors as the',
      'one that leads: take the `max`, not the `sum`, over Pods.',
    ].join('\n'),
    ...sections,
    '## Outcomes of probes',
    ['| `outcome` | meaning |', '| --- | --- |', ...outcomes].join('\n'),
    '',
  ].join('\n\n');
}
