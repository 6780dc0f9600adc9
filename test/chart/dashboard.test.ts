/** The Grafana dashboard as a file; that its queries give data is seen in test/api/observability.test.ts. */
import { load } from 'js-yaml';
import { describe, expect, it } from 'vitest';
import { render } from '../../scripts/install.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { readAlerts, readDashboard, unknownMetrics } from '../support/observability.ts';

const dashboard = readDashboard();
const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const queries = panels.flatMap(({ title, targets = [] }) => targets.map(target => ({ title, ...target })));

describe('the dashboard', () => {
  it('has rows of panels, none over another and none beyond the edge', () => {
    expect(dashboard.panels.filter(({ type }) => type === 'row').map(({ title }) => title)).toEqual([
      'Connectors',
      'Probes',
      'Reconciles and their queue',
      'API server',
      'Process',
    ]);
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
    const taken = new Set<string>();
    for (const { title, gridPos } of dashboard.panels) {
      const { x, y, w, h } = gridPos;
      expect(x + w, title).toBeLessThanOrEqual(24);
      for (let cell = 0; cell < w * h; cell += 1) {
        const at = `${x + (cell % w)},${y + Math.floor(cell / w)}`;
        expect(taken, `${title} at ${at}`).not.toContain(at);
        taken.add(at);
      }
    }
  });

  it('asks which Prometheus, namespace and job are meant', () => {
    expect(dashboard.templating.list.map(({ name, type }) => `${name}: ${type}`)).toEqual([
      'datasource: datasource',
      'namespace: query',
      'job: query',
    ]);
    expect(dashboard.templating.list.flatMap(({ definition = '' }) => unknownMetrics(definition))).toEqual([]);
  });

  it.each(panels)(
    'says of "$title" what one sees, in which unit',
    ({ title, description, fieldConfig, targets = [] }) => {
      expect(title).not.toBe('');
      expect(description).toMatch(/^[A-Za-z].*\.$/);
      expect(fieldConfig?.defaults.unit).toMatch(/^(short|percentunit|s|bytes|ops|reqps)$/);
      expect(targets.length).toBeGreaterThan(0);
    },
  );

  it.each(queries)(
    'asks for "$title" the chosen Prometheus, for metrics of the operator and of the chosen job',
    query => {
      expect(query.datasource.uid).toBe('$datasource');
      expect(unknownMetrics(query.expr)).toEqual([]);
      const selectors = query.expr.match(/\{[^}]*\}/g) ?? [];
      expect(selectors.length).toBeGreaterThan(0);
      for (const selector of selectors) expect(selector).toMatch(/namespace=~"\$namespace", job=~"\$job"\}$/);
    },
  );

  it('names each alert at the figure that it is about, and none that there is not', () => {
    const named = panels.flatMap(({ description }) => description?.match(/PersonalConnectors?[A-Z]\w+/g) ?? []);
    expect([...new Set(named)].sort()).toEqual(
      readAlerts()
        .map(({ alert }) => alert)
        .sort(),
    );
  });

  it('is in the ConfigMap as it is in its file', async () => {
    const { signal } = new AbortController();
    const { helm } = await resolveBinaries(['helm'], { signal, progress: console.log });
    const args = ['--set', 'metrics.dashboard.enabled=true', '--show-only', 'templates/dashboard.yaml'];
    const { data } = load(await render(helm, ...args)) as { data: Record<string, string> };
    expect(JSON.parse(data['personal-connector-operator.json'] ?? '')).toEqual(dashboard);
  });
});
