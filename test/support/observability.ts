/** The chart's alerts and dashboard as data, for the tests that check them and those that run their queries. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { load } from 'js-yaml';
import { documentedMetrics } from '../../scripts/metrics.ts';

const root = join(import.meta.dirname, '..', '..');
const files = join(root, 'charts', 'personal-connector-operator', 'files');
export const ALERTS_FILE = join(files, 'alerts.yaml');

export interface Alert {
  alert: string;
  expr: string;
  for?: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export function readAlerts(): Alert[] {
  const { groups } = load(readFileSync(ALERTS_FILE, 'utf8')) as { groups: { rules: Alert[] }[] };
  return groups.flatMap(({ rules }) => rules);
}

export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  datasource?: { type: string; uid: string };
  fieldConfig?: { defaults: { unit?: string } };
  targets?: { refId: string; expr: string; datasource: { uid: string }; instant?: boolean }[];
}

export interface Dashboard {
  uid: string;
  schemaVersion: number;
  templating: { list: { name: string; type: string; allValue?: string; definition?: string }[] };
  panels: Panel[];
}

export function readDashboard(): Dashboard {
  return JSON.parse(readFileSync(join(files, 'dashboard.json'), 'utf8')) as Dashboard;
}

/** All queries of the dashboard, with its variables at "All" and rates over `interval`. */
export function dashboardQueries(interval: string): { title: string; expr: string; instant: boolean }[] {
  const { panels } = readDashboard();
  return panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ refId, expr, instant = false }) => ({
      title: `${title} (${refId})`,
      expr: expr.replaceAll('$__rate_interval', interval).replaceAll(/\$(namespace|job)\b/g, '.*'),
      instant,
    })),
  );
}

const documented = new Set(
  documentedMetrics().flatMap(({ name, type }) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  ),
);

/** The names in a query that look like metrics of the operator and that it does not have. */
export function unknownMetrics(expr: string): string[] {
  const names =
    expr.match(
      /\b(personal_connector|controller_runtime|workqueue|leader_|rest_client|reflector|process_|nodejs_)\w*/g,
    ) ?? [];
  return names.filter(name => !documented.has(name));
}

/** The anchors of the headings of a Markdown page, as GitHub makes them. */
export function anchorsOf(page: string): string[] {
  const headings = readFileSync(join(root, page), 'utf8').match(/^#+ .*/gm) ?? [];
  return headings.map(heading =>
    heading
      .replace(/^#+ /, '')
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );
}
