/** docs/reliability.md: what the fault suite and the soak test found, from docs/reliability.json, which they write. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import type { Figure } from '../test/faults/figures.ts';

type Row = Figure['row'];
interface Figures {
  /** Title of a table → where it was measured, and its rows. */
  [table: string]: { measured: string; rows: Row[] };
}

const FILE = join(dirname(import.meta.dirname), 'docs', 'reliability.json');

/** What each table shows, in the order of the page. */
const TABLES: Record<string, string> = {
  'Crash points':
    'The operator is killed (`kill -9`) at every single write to the API server, once before the server hears of it and once after it is done and before the answer, and is started again. The end must equal that of a run without a crash, with as many children created and deleted.',
  Failover:
    'Two operators; the one that works ends. Until a change made in that moment has been served by the other one.',
  'Shared work':
    'Three operators that share 60 connectors. Until a change of all of them, made in that moment, has been served.',
  'Writes of a leader that lost its Lease':
    'While 200 connectors change, the leader is made unable to renew its Lease; the other one takes over; the first one goes on. Writes that the first one still got through.',
  Storm:
    'Two replicas are killed, stopped, cut off and ended at random, and started again, while many connectors change. The end must equal a fresh apply of the last specs.',
  'Faults by kind': 'Each fault on each kind of request, once and in a burst. Each cell: passed cases.',
  'Faults of watches':
    'What is on the way changes, holds back or breaks the watches that are open, while connectors are made, changed and deleted.',
  'Sieve patterns':
    'The operator is shown the past, or only a part of what happens, or is stopped in mid-change (after Sieve, OSDI ’22).',
  'Random walks':
    'Random sequences of valid specs and of interference with what the operator made. The end must equal a fresh apply of the last spec, and nothing may be left over.',
  Environment: 'What happens around the operator.',
  'Eventually stable': 'Once all is settled, nothing of ours may be written while probes go on.',
  'False alarms':
    'Servers that people run, and those of the official SDK, probed as the operator does; an alarm is any verdict but that all is well.',
  'Denied addresses':
    'Servers, names and spellings that lead to an address that the policy denies, probed beside them; connections that got there.',
  Soak: 'Random edits, faults and probes for a long time in one process; what it holds afterwards against what it held before.',
};

function read(): Figures {
  return existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Figures) : {};
}

/** Puts what a run has noted (a JSON object a line) in the place of what an earlier one did. Gives the tables' titles. */
export function keepFigures(lines: string, how: string): string[] {
  const fresh: Figures = {};
  const measured = `\`${how}\`, ${availableParallelism()} cores, Node ${process.versions.node}`;
  for (const line of lines.split('\n').filter(Boolean)) {
    const { table, row } = JSON.parse(line) as Figure;
    fresh[table] ??= { measured, rows: [] };
    fresh[table].rows.push(row);
  }
  // Test files run side by side: their order is nobody's.
  for (const { rows } of Object.values(fresh)) rows.sort((a, b) => (titleOf(a) < titleOf(b) ? -1 : 1));
  writeFileSync(FILE, `${JSON.stringify({ ...read(), ...fresh }, null, 2)}\n`);
  // The page is made of it, with all that is generated.
  spawnSync(process.execPath, [join(import.meta.dirname, 'generate.ts')], { stdio: ['ignore', 'ignore', 'inherit'] });
  return Object.keys(fresh);
}

const titleOf = (row: Row): string => String(Object.values(row)[0]);

export function reliabilityPage(notice: string): string {
  const figures = read();
  const known = Object.keys(TABLES);
  const titles = [...known, ...Object.keys(figures).filter(title => !known.includes(title))];
  return [
    notice,
    '# Reliability',
    'What fails around the operator in a cluster, tried against a real kube-apiserver, through a proxy that kills, delays, drops, repeats and reorders. `npm run test:faults -- --long`, `npm run test:soak` and `npm run test:alarms` measure the figures; `npm test` tries the same with fewer repetitions.',
    ...titles.flatMap(title => {
      const table = figures[title];
      if (!table) return [];
      const columns = [...new Set(table.rows.flatMap(row => Object.keys(row)))];
      const line = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;
      const rows = [line(columns), line(columns.map(() => '---'))];
      for (const row of table.rows) rows.push(line(columns.map(column => row[column] ?? '')));
      return [
        `## ${title}`,
        ...(TABLES[title] ? [TABLES[title]] : []),
        rows.join('\n'),
        `Measured by ${table.measured}.`,
      ];
    }),
    '',
  ].join('\n\n');
}
