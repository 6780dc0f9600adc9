/** The alerts: what they say, and that each fires when it should and not before, by promtool. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { dump } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveBinaries } from '../cluster/binaries.ts';
import { ALERTS_FILE, anchorsOf, readAlerts, unknownMetrics } from '../support/observability.ts';

const exec = promisify(execFile);
const temporary = mkdtempSync(join(tmpdir(), 'pco-alerts-'));
let promtool: string;

beforeAll(async () => {
  const { signal } = new AbortController();
  ({ promtool } = await resolveBinaries(['promtool'], { signal, progress: console.log }));
});
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const alerts = readAlerts();
const names = alerts.map(({ alert }) => alert);

describe('the alerts', () => {
  it('are valid to promtool, which finds no fault in their style', async () => {
    const { stdout } = await exec(promtool, ['check', 'rules', '--lint=all', '--lint-fatal', ALERTS_FILE]);
    expect(stdout).toContain(`SUCCESS: ${alerts.length} rules found`);
  });

  it.each(alerts)(
    '$alert says how bad it is, what it means and where one reads what to do',
    ({ labels, annotations }) => {
      expect(labels.severity).toMatch(/^(critical|warning)$/);
      expect(Object.keys(annotations)).toEqual(['summary', 'description', 'runbook_url']);
      expect(annotations.summary).toMatch(/^[^{]+\.$/);
      const [page, anchor] = annotations.runbook_url?.split('#') ?? [];
      expect(page).toBe('docs/alerts.md');
      expect(anchorsOf('docs/alerts.md')).toContain(anchor);
    },
  );

  it.each(alerts)('$alert asks for metrics that the operator has', ({ expr }) => {
    expect(unknownMetrics(expr)).toEqual([]);
  });

  it('have a section each on their page, which tells of metrics that the operator has', () => {
    const page = readFileSync('docs/alerts.md', 'utf8');
    expect(page.match(/^## (.*)/gm)).toEqual(names.map(name => `## ${name}`));
    expect(page.match(/^\*\*(Means|Impact|Look|Mend)\.\*\*/gm)).toHaveLength(4 * names.length);
    expect(unknownMetrics(page)).toEqual([]);
  });

  it('have no anchor or metric that would be found missing only by chance', () => {
    expect(anchorsOf('docs/alerts.md')).not.toContain('personalconnectornothing');
    expect(unknownMetrics('rate(workqueue_deep[5m]) + workqueue_depth + process_heap_bytes_count')).toEqual([
      'workqueue_deep',
      'process_heap_bytes_count',
    ]);
  });
});

interface Case {
  title: string;
  /** Series → its samples, one a minute, in promtool's notation. */
  series: Record<string, string>;
  /** Minutes at which it is looked at. */
  at: number;
  /** The labels that it fires with, beside its severity, and how it shows its value; absent: it does not fire. */
  fires?: { labels: Record<string, string>; value?: string };
}

/** A series of the replica `instance` of an installation. */
const of = (metric: string, instance = 'a', job = 'operator'): string => {
  const target = `namespace="ns",job="${job}",instance="${instance}"`;
  return metric.includes('{') ? metric.replace('}', `,${target}}`) : `${metric}{${target}}`;
};
const target = { namespace: 'ns', job: 'operator' };
const build = 'personal_connector_build_info{version="1"}';
const leads = 'leader_election_master_status{name="x"}';
/** One that works, and is one of so many that may. */
const replica = (instance: string, { seats = 1, works = '1x9', job = 'operator' } = {}): Record<string, string> => ({
  [of(build, instance, job)]: '1x9',
  [of(leads, instance, job)]: works,
  [of('personal_connector_seats', instance, job)]: `${seats}x9`,
});
const errors = 'controller_runtime_reconcile_errors_total{controller="personalconnector"}';
const reconciles = (result: string): string =>
  `controller_runtime_reconcile_total{controller="personalconnector",result="${result}"}`;
const depth = 'workqueue_depth{name="personalconnector"}';
const silence = 'personal_connector_watch_silence_seconds{resource="pods"}';
const connectors = (type: string, ready: string, reason: string): string =>
  `personal_connectors{type="${type}",ready="${ready}",reason="${reason}"}`;

const cases: Record<string, Case[]> = {
  PersonalConnectorOperatorDown: [
    { title: 'nothing is scraped', series: {}, at: 5, fires: { labels: {} } },
    { title: 'nothing was scraped for less than 5 minutes', series: {}, at: 4 },
    {
      title: 'all stand by',
      series: { [of(build)]: '1x9', [of(leads)]: '0x9', [of(build, 'b')]: '1x9', [of(leads, 'b')]: '0x9' },
      at: 6,
      fires: { labels: target },
    },
    {
      title: 'the leader is gone and the other stands by',
      series: {
        [of(build)]: '1 1 1 stale',
        [of(leads)]: '1 1 1 stale',
        [of(build, 'b')]: '1x9',
        [of(leads, 'b')]: '0x9',
      },
      at: 9,
      fires: { labels: target },
    },
    {
      title: 'one leads and one stands by',
      series: { [of(build)]: '1x9', [of(leads)]: '1x9', [of(build, 'b')]: '1x9', [of(leads, 'b')]: '0x9' },
      at: 9,
    },
    {
      title: 'nobody led for 3 minutes',
      series: { [of(build)]: '1x12', [of(leads)]: '1 1 0 0 0 1 1 1 1 1 1' },
      at: 9,
    },
    {
      title: 'another program of the same name of metric does not lead',
      series: { [of(build)]: '1x9', [of(leads)]: '1x9', [of(leads, 'c', 'other')]: '0x9' },
      at: 9,
    },
  ],
  PersonalConnectorOperatorSeveralLeaders: [
    {
      title: 'two lead',
      series: { ...replica('a'), ...replica('b') },
      at: 3,
      fires: { labels: target, value: '2' },
    },
    {
      title: 'one takes over between two scrapes',
      series: { ...replica('a', { works: '1 1 1 0 0 0 0' }), ...replica('b', { works: '0 0 1x6' }) },
      at: 2,
    },
    {
      title: 'two installations have a leader each',
      series: { ...replica('a'), ...replica('b', { job: 'second' }) },
      at: 9,
    },
    {
      title: 'another program behind the same job leads as well',
      series: { ...replica('a'), [of(leads, 'c')]: '1x9' },
      at: 9,
    },
    {
      title: 'three share the work, and a fourth stands by',
      series: {
        ...replica('a', { seats: 3 }),
        ...replica('b', { seats: 3 }),
        ...replica('c', { seats: 3 }),
        ...replica('d', { seats: 3, works: '0x9' }),
      },
      at: 9,
    },
    {
      title: 'three work where two share',
      series: { ...replica('a', { seats: 2 }), ...replica('b', { seats: 2 }), ...replica('c', { seats: 2 }) },
      at: 3,
      fires: { labels: target, value: '3' },
    },
    {
      title: 'there are to be fewer, and those of before still work',
      series: {
        ...replica('a', { seats: 3 }),
        ...replica('b', { seats: 3 }),
        ...replica('c', { seats: 2 }),
      },
      at: 9,
    },
  ],
  PersonalConnectorReconcileErrors: [
    {
      title: 'a fifth fails',
      series: { [of(errors)]: '0+2x60', [of(reconciles('success'))]: '0+8x60', [of(reconciles('error'))]: '0+2x60' },
      at: 40,
      fires: { labels: target, value: '20%' },
    },
    {
      title: 'a twentieth fails',
      series: { [of(errors)]: '0+1x60', [of(reconciles('success'))]: '0+19x60', [of(reconciles('error'))]: '0+1x60' },
      at: 40,
    },
    {
      title: 'all failed for 5 minutes',
      series: {
        [of(errors)]: '0x10 10+10x5 60x60',
        [of(reconciles('success'))]: '0+10x10 100x5 110+10x60',
        [of(reconciles('error'))]: '0x10 10+10x5 60x60',
      },
      at: 24,
    },
    {
      title: 'nothing is reconciled at all',
      series: { [of(errors)]: '5x60', [of(reconciles('success'))]: '9x60', [of(reconciles('error'))]: '5x60' },
      at: 40,
    },
  ],
  PersonalConnectorQueueNotDraining: [
    { title: 'keys always wait', series: { [of(depth)]: '1x30' }, at: 16, fires: { labels: target, value: '1' } },
    { title: 'it was empty once', series: { [of(depth)]: '3x12 0 3x12' }, at: 24 },
    { title: "it is another operator's queue", series: { 'workqueue_depth{name="other"}': '3x30' }, at: 20 },
  ],
  PersonalConnectorWatchSilent: [
    {
      title: 'nothing comes',
      series: { [of(silence)]: '0+60x20' },
      at: 9,
      fires: { labels: { ...target, resource: 'pods' }, value: '9m 0s' },
    },
    {
      title: 'nothing came, and a restart began the count again',
      series: { [of(silence)]: '0+60x10 0+60x10' },
      at: 14,
      fires: { labels: { ...target, resource: 'pods' }, value: '10m 0s' },
    },
    { title: 'bookmarks come', series: { [of(silence)]: '0 50 5 55 10 60 15 50 5 55 10 60 15' }, at: 10 },
    { title: 'it has been silent for 6 minutes', series: { [of(silence)]: '0+60x20' }, at: 6 },
  ],
  PersonalConnectorHotLoop: [
    {
      title: 'one goes on and on',
      series: { [of('personal_connector_hot_loops_total{controller="personalconnector"}')]: '0+1x60' },
      at: 30,
      fires: { labels: target, value: '15' },
    },
    {
      title: 'there was one for two minutes',
      series: { [of('personal_connector_hot_loops_total{controller="personalconnector"}')]: '0x5 1 2x30' },
      at: 12,
    },
  ],
  PersonalConnectorsNotReady: [
    {
      title: 'three of eight of a type are not Ready, which two replicas tell',
      series: Object.fromEntries(
        ['a', 'b'].flatMap(instance => [
          [of(connectors('custom', 'False', 'Timeout'), instance), '2x60'],
          [of(connectors('custom', 'False', 'DNSFailure'), instance), '1x60'],
          [of(connectors('custom', 'True', 'Ready'), instance), '4x60'],
          [of(connectors('custom', 'Unknown', 'Progressing'), instance), '1x60'],
          [of(connectors('official', 'False', 'Timeout'), instance), '1x60'],
          [of(connectors('official', 'True', 'Ready'), instance), '9x60'],
        ]),
      ),
      at: 31,
      fires: { labels: { ...target, type: 'custom' }, value: '37.5%' },
    },
    {
      title: 'many were not Ready for 20 minutes',
      series: {
        [of(connectors('custom', 'False', 'Timeout'))]: '3x20 stale',
        [of(connectors('custom', 'True', 'Ready'))]: '5x20 8x60',
      },
      at: 20,
    },
    { title: 'all are Ready', series: { [of(connectors('custom', 'True', 'Ready'))]: '5x60' }, at: 50 },
  ],
  PersonalConnectorProbesLate: [
    {
      title: 'there is always one that waits for long',
      series: { [of('personal_connector_probe_longest_wait_seconds')]: '150x30' },
      at: 16,
      fires: { labels: target, value: '2m 30s' },
    },
    {
      title: 'a rush has been going on for 10 minutes',
      series: { [of('personal_connector_probe_longest_wait_seconds')]: '0+60x10 0x30' },
      at: 10,
    },
    {
      title: 'there is always one that waits for less than 2 minutes',
      series: { [of('personal_connector_probe_longest_wait_seconds')]: '110x30' },
      at: 20,
    },
  ],
  PersonalConnectorOperatorMemory: [
    {
      title: 'one of two is at 95 %',
      series: {
        [of('process_resident_memory_bytes')]: '95x30',
        [of('personal_connector_memory_limit_bytes')]: '100x30',
        [of('process_resident_memory_bytes', 'b')]: '50x30',
        [of('personal_connector_memory_limit_bytes', 'b')]: '100x30',
      },
      at: 16,
      fires: { labels: target, value: '95%' },
    },
    {
      title: 'it has been at 95 % for 10 minutes',
      series: {
        [of('process_resident_memory_bytes')]: '95x40',
        [of('personal_connector_memory_limit_bytes')]: '100x40',
      },
      at: 10,
    },
    {
      title: 'it stays at 85 %',
      series: {
        [of('process_resident_memory_bytes')]: '85x40',
        [of('personal_connector_memory_limit_bytes')]: '100x40',
      },
      at: 30,
    },
  ],
};

describe('each alert', () => {
  it('is seen both to fire and not to', () => {
    expect(Object.keys(cases)).toEqual(names);
    for (const name of names)
      expect(new Set(cases[name]?.map(({ fires }) => fires !== undefined)), name).toEqual(new Set([true, false]));
  });

  it.each(
    Object.entries(cases).flatMap(([alert, its]) =>
      its.map(each => [alert, each.fires ? 'fires' : 'does not fire', each.title, each] as const),
    ),
  )('%s %s when %s', async (name, _verb, _title, { series, at, fires }) => {
    const alert = alerts.find(each => each.alert === name);
    const shown = (text: string): string =>
      text
        .replaceAll(/\{\{ \$value[^}]*\}\}/g, fires?.value ?? '')
        .replaceAll(/\{\{ \$labels\.(\w+) \}\}/g, (_, label: string) => fires?.labels[label] ?? '');
    const { summary = '', description = '', runbook_url } = alert?.annotations ?? {};
    const expected = fires && {
      exp_labels: { ...fires.labels, ...alert?.labels },
      exp_annotations: { summary, description: shown(description), runbook_url },
    };
    const file = join(temporary, `${name}.yaml`);
    const test = {
      interval: '1m',
      input_series: Object.entries(series).map(([series, values]) => ({ series, values })),
      alert_rule_test: [{ eval_time: `${at}m`, alertname: name, exp_alerts: expected ? [expected] : [] }],
    };
    writeFileSync(file, dump({ rule_files: [ALERTS_FILE], evaluation_interval: '1m', tests: [test] }));
    const failure = await exec(promtool, ['test', 'rules', file]).then(
      () => undefined,
      ({ stdout, stderr }: { stdout: string; stderr: string }) => stdout + stderr,
    );
    expect(failure).toBeUndefined();
  });
});
