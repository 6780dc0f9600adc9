/**
 * `npm run bench [-- --objects 100,1000 --rounds 3 --only remote --peer toolhive --idle 120 --json --svg FILE]`: the operator
 * beside the floor, which makes the same writes over as many connections and does nothing else, and beside a peer. Each run has
 * a control plane of its own, and they take turns. What was asked of the API server is told by its audit log, what a process
 * used by the kernel.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { installCrd } from '../support/control-plane.setup.ts';
import { FLOOR, type Recorded } from './scale/floor.ts';
import { record } from './scale/record.ts';
import { plot, summarize, table } from './scale/report.ts';
import { type Contender, type Row, run, withCluster } from './scale/run.ts';
import { startFloor, startMcpServer, startOurs } from './scale/subjects.ts';
import { toolhive } from './scale/toolhive.ts';
import { type OwnWorkload, ownWorkloads, type Workload } from './scale/workloads.ts';

const { values: flags } = parseArgs({
  options: {
    objects: { type: 'string', default: '100,1000' },
    rounds: { type: 'string', default: '1' },
    /** Names of workloads. */
    only: { type: 'string' },
    /** Another operator that does the same. */
    peer: { type: 'string' },
    /** Who is measured; all, if absent. */
    subjects: { type: 'string' },
    /** Seconds at rest that are measured. */
    idle: { type: 'string', default: '120' },
    json: { type: 'boolean', default: false },
    /** Where to draw the times. */
    svg: { type: 'string' },
  },
});

const abort = new AbortController();
const { signal } = abort;
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => abort.abort(new Error(`ended by ${name}`)));
const progress = (line: string): void => console.error(line);

await using mcp = await startMcpServer();
const workloads = ownWorkloads(mcp.port).filter(({ name }) => !flags.only || flags.only.split(',').includes(name));
const recorded = new Map<string, Recorded>();

const install: Contender['install'] = ({ kubeconfig }) => installCrd(kubeconfig);
const ours: Contender<OwnWorkload> = {
  name: 'ours',
  userAgent: 'personal-connector-operator/',
  workloads,
  install,
  start: (cluster, { policy }) => startOurs(cluster, policy),
};
const floor: Contender<OwnWorkload> = {
  name: 'floor',
  userAgent: FLOOR,
  workloads,
  install,
  async start(cluster, { name }) {
    const writes = recorded.get(name);
    if (!writes) throw new Error(`nothing was recorded of ${name}`);
    return await startFloor(cluster, writes);
  },
  // It neither watches nor begins anew.
  steps: ['created', 'edited', 'edited at rest'],
};

if (flags.peer !== undefined && flags.peer !== 'toolhive')
  throw new Error(`--peer ${flags.peer}: the only one that is known is toolhive`);
const peer = flags.peer && toolhive(new Set(workloads.map(({ name }) => name)));
const isAsked = ({ name }: { name: string }): boolean => flags.subjects?.split(',').includes(name) ?? true;
const contenders = ([floor, ours, ...(peer ? [peer] : [])] as Contender[]).filter(isAsked);

for (const workload of contenders.some(({ name }) => name === 'floor') ? workloads : []) {
  const writes = await withCluster(signal, async (cluster, client) => {
    await install(cluster, client);
    return await record(cluster, workload);
  });
  recorded.set(workload.name, writes);
  progress(`${workload.name}: ${writes.created.length} writes for a creation, ${writes.edited.length} for an edit`);
}

const rows: Row[] = [];
for (const objects of flags.objects.split(',').map(Number)) {
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const contender of round % 2 === 0 ? contenders : contenders.toReversed()) {
      for (const workload of contender.workloads) rows.push(...(await measured(contender, workload, objects)));
    }
  }
}
const figures = summarize(rows);
if (flags.json) console.log(JSON.stringify({ rows, figures }, null, 2));
else console.log(table(figures));
if (flags.svg) writeFileSync(flags.svg, plot(figures));

async function measured(contender: Contender, workload: Workload, objects: number): Promise<Row[]> {
  const found = await run(contender, workload, { objects, idleSeconds: Number(flags.idle), signal });
  const times = found.map(({ step, seconds }) => `${step} ${seconds.toFixed(1)}`).join(', ');
  progress(`${workload.name}, ${objects} objects, ${contender.name}: ${times} s`);
  return found;
}
