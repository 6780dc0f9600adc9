/** What the measured rows say: medians, ratios, growth; as a table for a terminal and as a picture for the docs. */
import type { Row, Step } from './run.ts';

/** One subject at one step with so many objects, over all rounds. */
export interface Figure extends Omit<Row, 'requests'> {
  rounds: number;
  /** By `verb resource`, of one round. */
  requests: Record<string, number>;
  /** Time per object, as a ratio to what the floor takes; NaN where there is none. */
  ofFloor: number;
  /** How many times as long the peer takes per object. */
  peer: number;
  /** The exponent of growth of the time, from the next smaller number of objects: 1 is linear. */
  exponent: number;
}

type Numbers = { [K in keyof Row as Row[K] extends number ? K : never]: number };

/** Of several rounds the median, with what follows from it. */
export function summarize(rows: readonly Row[]): Figure[] {
  const groups = Map.groupBy(rows, row => [row.workload, row.objects, row.step, row.subject].join(' '));
  const medians = [...groups.values()].map(same => ({ ...median(same), rounds: same.length }));
  const find = (like: Row, other: Partial<Row>) =>
    medians.find(row => keys(row) === keys({ ...like, ...other }) && row.objects === (other.objects ?? like.objects));
  return medians.map(row => {
    const smaller = medians
      .filter(other => keys(other) === keys(row) && other.objects < row.objects)
      .sort((a, b) => b.objects - a.objects)[0];
    const peers = medians.filter(
      other => !['ours', 'floor'].includes(other.subject) && other.workload === row.workload && other.step === row.step,
    );
    const peer = peers.find(({ objects }) => objects === row.objects) ?? peers[0];
    const perObject = ({ seconds, objects }: Row): number => seconds / objects;
    return {
      ...row,
      ofFloor:
        row.subject === 'floor' ? Number.NaN : row.seconds / (find(row, { subject: 'floor' })?.seconds ?? Number.NaN),
      peer: row.subject === 'ours' && peer ? perObject(peer) / perObject(row) : Number.NaN,
      exponent: smaller
        ? Math.log(row.seconds / smaller.seconds) / Math.log(row.objects / smaller.objects)
        : Number.NaN,
    };
  });
}

const keys = ({ workload, step, subject }: Pick<Row, 'workload' | 'step' | 'subject'>): string =>
  [workload, step, subject].join(' ');

function median(rows: readonly Row[]): Row {
  const [first] = rows;
  if (!first) throw new Error('a group without rows');
  const middle = (name: keyof Numbers): number => {
    const sorted = rows.map(row => row[name]).sort((a, b) => a - b);
    return sorted[(sorted.length - 1) >> 1] ?? Number.NaN;
  };
  const numbers = Object.entries(first).filter(([, value]) => typeof value === 'number');
  return { ...first, ...Object.fromEntries(numbers.map(([name]) => [name, middle(name as keyof Numbers)])) };
}

/** Steps whose time grows with the number of objects. */
const GROWING: readonly Step[] = ['created', 'edited'];

const COLUMNS: readonly [title: string, show: (figure: Figure) => string][] = [
  ['objects', ({ objects }) => String(objects)],
  ['step', ({ step }) => step],
  ['subject', ({ subject }) => subject],
  ['seconds', ({ seconds }) => shown(seconds, 2)],
  ['× floor', ({ ofFloor, step }) => (GROWING.includes(step) ? shown(ofFloor, 2) : '')],
  ['peer ×', ({ peer, step }) => (GROWING.includes(step) ? shown(peer, 1) : '')],
  ['growth', ({ exponent, step }) => (GROWING.includes(step) ? shown(exponent, 2) : '')],
  ['p50 ms', ({ p50Ms }) => shown(p50Ms, 0)],
  ['p99 ms', ({ p99Ms }) => shown(p99Ms, 0)],
  ['CPU s', ({ cpuSeconds }) => shown(cpuSeconds, 2)],
  ['API server', ({ apiServerCpuSeconds }) => shown(apiServerCpuSeconds, 2)],
  ['MiB', ({ apiServerRssMib }) => shown(apiServerRssMib, 0)],
  ['etcd w MiB', ({ etcdWrittenMib }) => shown(etcdWrittenMib, 1)],
  ['size', ({ etcdSizeMib }) => shown(etcdSizeMib, 0)],
  ['RSS MiB', ({ rssMib }) => shown(rssMib, 0)],
  ['peak', ({ peakRssMib }) => shown(peakRssMib, 0)],
  ['MiB r+w', ({ mib }) => shown(mib, 1)],
  ['lag p99 ms', ({ lagP99Ms }) => shown(lagP99Ms, 0)],
  ['requests', ({ requests }) => String(Object.values(requests).reduce((sum, count) => sum + count, 0))],
];

function shown(value: number, digits: number): string {
  return Number.isNaN(value) ? '' : value.toFixed(digits);
}

/** A table of each workload, and the operator's requests by kind. */
export function table(figures: readonly Figure[]): string {
  return [...Map.groupBy(figures, ({ workload }) => workload)]
    .map(([workload, rows]) => {
      const cells = [COLUMNS.map(([title]) => title), ...rows.map(row => COLUMNS.map(([, show]) => show(row)))];
      const widths = COLUMNS.map((_, column) => Math.max(...cells.map(row => row[column]?.length ?? 0)));
      const lines = cells.map(row => row.map((cell, column) => cell.padStart(widths[column] ?? 0)).join('  '));
      const asked = rows
        .filter(({ subject, requests }) => subject !== 'floor' && Object.keys(requests).length > 0)
        .map(row => `  ${row.objects} ${row.step}, ${row.subject}: ${requestsOf(row)}`);
      return [workload, ...lines, 'requests', ...asked, ''].join('\n');
    })
    .join('\n');
}

function requestsOf({ requests }: Figure): string {
  return Object.entries(requests)
    .sort(([, a], [, b]) => b - a)
    .map(([what, count]) => `${count} ${what}`)
    .join(', ');
}

const WIDTH = 300;
const HEIGHT = 220;
const MARGIN = { left: 46, top: 30, right: 12, bottom: 34 };
/** Told apart by their dashes as well as by their colours. */
const LINES: Record<string, string> = { ours: '#2f7de1', floor: '#8a8a8a', peer: '#d9762b' };
const DASHES: Record<string, string> = { ours: '', floor: '4 3', peer: '1 3' };

/** Time over number of objects, both logarithmic: a plot for each workload and step, beside each other. */
export function plot(figures: readonly Figure[]): string {
  const growing = figures.filter(({ step, objects }) => GROWING.includes(step) && objects > 0);
  const plots = [...Map.groupBy(growing, ({ workload, step }) => `${workload}, ${step}`)];
  const xs = growing.map(({ objects }) => Math.log10(objects));
  const ys = growing.map(({ seconds }) => Math.log10(seconds));
  const range = (values: number[]): [number, number] => [
    Math.floor(Math.min(...values)),
    Math.ceil(Math.max(...values)),
  ];
  const [[left, right], [low, high]] = [range(xs), range(ys)];
  const columns = 2;
  const x = (value: number): number =>
    MARGIN.left + ((value - left) / (right - left || 1)) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (value: number): number =>
    HEIGHT - MARGIN.bottom - ((value - low) / (high - low || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const one = ([title, rows]: [string, Figure[]], index: number): string => {
    const at = `translate(${(index % columns) * WIDTH} ${Math.floor(index / columns) * HEIGHT})`;
    const grid = [
      ...steps(left, right).map(
        tick =>
          `<path class="grid" d="M${x(tick)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}"/><text x="${x(tick)}" y="${HEIGHT - MARGIN.bottom + 14}" text-anchor="middle">${10 ** tick}</text>`,
      ),
      ...steps(low, high).map(
        tick =>
          `<path class="grid" d="M${MARGIN.left} ${y(tick)}H${WIDTH - MARGIN.right}"/><text x="${MARGIN.left - 5}" y="${y(tick) + 4}" text-anchor="end">${10 ** tick} s</text>`,
      ),
    ];
    const lines = [...Map.groupBy(rows, ({ subject }) => subject)].map(([subject, of]) => {
      const style = subject in LINES ? subject : 'peer';
      const points = of
        .toSorted((a, b) => a.objects - b.objects)
        .map(row => [x(Math.log10(row.objects)), y(Math.log10(row.seconds))].map(value => value.toFixed(1)));
      const dots = points.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="2.5" fill="${LINES[style]}"/>`).join('');
      const [endX, endY] = points.at(-1) ?? [];
      return `<path fill="none" stroke="${LINES[style]}" stroke-width="1.6" stroke-dasharray="${DASHES[style]}" d="M${points.map(point => point.join(' ')).join('L')}"/>${dots}<text x="${endX}" y="${Number(endY) - 7}" text-anchor="end" fill="${LINES[style]}">${subject}</text>`;
    });
    return `<g transform="${at}"><text class="title" x="${MARGIN.left}" y="18">${title}</text>${grid.join('')}${lines.join('')}</g>`;
  };
  const size = { width: WIDTH * columns, height: HEIGHT * Math.ceil(plots.length / columns) };
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="Time over the number of connectors">
<style>text{font:11px system-ui,sans-serif;fill:#666}.title{font-weight:600;fill:#444}.grid{stroke:#9995;stroke-width:.6}@media(prefers-color-scheme:dark){text{fill:#aaa}.title{fill:#ddd}}</style>
${plots.map(one).join('\n')}
</svg>
`;
}

function steps(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}
