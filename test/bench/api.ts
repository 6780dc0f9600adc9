/**
 * `npm run bench:api [-- --objects 1000 --rounds 3 --json]`: how statuses are best written: over how many connections, by which
 * version of HTTP, and by which kind of request. All ways take turns on one control plane, each with new objects.
 */
import { parseArgs } from 'node:util';
import type { PersonalConnector } from '../../src/api/connector.ts';
import { installCrd } from '../support/control-plane.setup.ts';
import { type BareClient, bareClient, forEach } from './scale/client.ts';
import { GENERATION, NAME, UID } from './scale/floor.ts';
import { usageOf } from './scale/measure.ts';
import { record } from './scale/record.ts';
import { withCluster } from './scale/run.ts';
import { CONNECTIONS } from './scale/subjects.ts';
import { type OwnWorkload, ownWorkloads } from './scale/workloads.ts';

const { values: flags } = parseArgs({
  options: {
    objects: { type: 'string', default: '1000' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
});

type Ask = (client: BareClient, path: string, found: PersonalConnector, status: Status) => Promise<unknown>;
type Status = Pick<PersonalConnector, 'apiVersion' | 'kind' | 'metadata' | 'status'>;

interface Way {
  request: string;
  http: 1 | 2;
  connections: number;
  /** Requests under way. */
  atATime: number;
  ask: Ask;
}

const patch =
  (type: string, options: string, body: (status: Status) => object): Ask =>
  (client, path, _, status) =>
    client.call('PATCH', `${path}/status?fieldManager=bench${options}`, body(status), `application/${type}`);
const apply = patch('apply-patch+yaml', '&force=true', status => status);
const REQUESTS: Record<string, Ask> = {
  'merge patch': patch('merge-patch+json', '', ({ status }) => ({ status })),
  update: (client, path, found, { status }) =>
    client.call('PUT', `${path}/status?fieldManager=bench`, { ...found, status }),
  'no write, a read': (client, path) => client.call('GET', path),
};
const WAYS: readonly Way[] = [
  ...[1, 4, 16, 64].map(connections => ({ http: 1, connections, atATime: connections }) as const),
  ...[1, 4].map(connections => ({ http: 2, connections, atATime: CONNECTIONS }) as const),
]
  .map((way): Way => ({ ...way, request: 'apply patch', ask: apply }))
  .concat(
    Object.entries(REQUESTS).map(([request, ask]) => ({
      request,
      http: 1,
      connections: CONNECTIONS,
      atATime: CONNECTIONS,
      ask,
    })),
  );

interface Row extends Omit<Way, 'ask'> {
  seconds: number;
  clientCpuSeconds: number;
  apiServerCpuSeconds: number;
}

const abort = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => abort.abort(new Error(`ended by ${name}`)));
const workload = ownWorkloads(0)[0] as OwnWorkload;

const rows = await withCluster(abort.signal, async (cluster, helper) => {
  await installCrd(cluster.kubeconfig);
  const [recorded] = (await record(cluster, workload)).created;
  if (recorded?.path.endsWith('/status') !== true) throw new Error(`the first write is no status: ${recorded?.path}`);
  const statusOf = ({ metadata: { name, uid } }: PersonalConnector): Status =>
    JSON.parse(recorded.body.replaceAll(NAME, name).replaceAll(UID, uid).replaceAll(GENERATION, '1'));

  async function measure({ ask, ...way }: Way, turn: number): Promise<Row> {
    await using client = bareClient(cluster, way.connections, { http2: way.http === 2 });
    const path = (name: string): string => `${workload.path}/${name}`;
    const objects: PersonalConnector[] = [];
    await forEach(Array(Number(flags.objects)).keys(), CONNECTIONS, async index => {
      objects.push(await helper.call('POST', workload.path, workload.object(`t${turn}-${index}`)));
    });
    // Its connections are there when it begins to count.
    await forEach(objects.slice(0, way.atATime), way.atATime, async () => void (await client.call('GET', '/version')));
    const apiServer = () => usageOf(cluster.apiServerPid).cpuSeconds;
    const [before, apiServerBefore, began] = [process.cpuUsage(), apiServer(), performance.now()];
    await forEach(objects, way.atATime, async found => {
      await ask(client, path(found.metadata.name), found, statusOf(found));
    });
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(before);
    const apiServerCpuSeconds = apiServer() - apiServerBefore;
    await forEach(
      objects,
      CONNECTIONS,
      async ({ metadata }) => void (await helper.call('DELETE', path(metadata.name))),
    );
    return { ...way, seconds, clientCpuSeconds: (user + system) / 1e6, apiServerCpuSeconds };
  }

  const rows: Row[] = [];
  // The API server is slow with what it meets for the first time.
  for (const way of WAYS) await measure(way, 0);
  for (let round = 1; round <= Number(flags.rounds); round++) {
    for (const [index, way] of [...(round % 2 === 1 ? WAYS : WAYS.toReversed()).entries()])
      rows.push(await measure(way, round * WAYS.length + index));
    console.error(`round ${round} of ${flags.rounds}`);
  }
  return rows;
});

function median(of: readonly Row[], figure: (row: Row) => number): number {
  const sorted = of.map(figure).toSorted((a, b) => a - b);
  return Number((sorted[(sorted.length - 1) >> 1] ?? Number.NaN).toFixed(2));
}

if (flags.json) console.log(JSON.stringify(rows, null, 2));
else
  console.table(
    [...Map.groupBy(rows, row => [row.request, row.http, row.connections].join()).values()].map(same => {
      const { request, http, connections, atATime } = same[0] as Row;
      return {
        request,
        HTTP: http,
        connections,
        'at a time': atATime,
        seconds: median(same, ({ seconds }) => seconds),
        'client CPU s': median(same, ({ clientCpuSeconds }) => clientCpuSeconds),
        'API server CPU s': median(same, ({ apiServerCpuSeconds }) => apiServerCpuSeconds),
      };
    }),
  );
console.error(`${flags.objects} statuses each, medians of ${flags.rounds} rounds`);
