// npm run cluster: local clusters that stay until they are taken down.
import { parseArgs } from 'node:util';
import { isOnPath, resolveBinaries } from './binaries.ts';
import { find, type Kept, keep, list, release, type Shape } from './keeper.ts';
import { messageOf } from './process.ts';

const HELP = `Usage: npm run cluster -- COMMAND [--name NAME]

Real Kubernetes on this machine. Clusters of different names do not meet.

  up          start a cluster, wait until it is ready, print how to go on
  down        end it and wait until nothing of it is left
  status      show the clusters that are up
  kubeconfig  print the path of its kubeconfig

  --name NAME     which cluster (default: default)
  --shape SHAPE   up: \`node\` runs real Pods and needs Linux and root; \`control-plane\` needs neither and runs none
                  (default: node where it can run)
  --internet      up: let the node's Pods reach what this machine can reach
`;

class UsageError extends Error {}

const signal = new AbortController();
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(name, () => signal.abort(new Error(`interrupted (${name}); the cluster is taken down`)));
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(`cluster: ${messageOf(error)}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

async function main(argv: string[]): Promise<void> {
  const { values, positionals } = parse(argv);
  const [command, ...rest] = positionals;
  if (values.help || command === undefined) {
    console.log(HELP);
    return;
  }
  if (rest.length > 0) throw new UsageError(`${JSON.stringify(rest[0])}: one command at a time; try --help`);
  const { name } = values;
  if (!/^[a-z0-9][a-z0-9-]{0,30}$/.test(name)) {
    throw new UsageError(`--name ${JSON.stringify(name)}: up to 31 of a-z, 0-9 and dashes, a dash not first`);
  }
  switch (command) {
    case 'up':
      return await up(name, shapeOf(values.shape), values.internet);
    case 'down':
      console.log((await release(name, signal.signal)) ? `${name}: gone` : `${name}: is not up`);
      return;
    case 'status':
      return status(list());
    case 'kubeconfig':
      console.log(readyOrThrow(name).kubeconfig);
      return;
    default:
      throw new UsageError(`${JSON.stringify(command)}: not a command; one of up, down, status, kubeconfig`);
  }
}

async function up(name: string, shape: Shape, internet: boolean): Promise<void> {
  if (internet && shape !== 'node') throw new UsageError('--internet: a control plane has no Pods to let out');
  const started = Date.now();
  const progress = (line: string) => console.error(line);
  const options = { signal: signal.signal, progress };
  if (find(name)) {
    progress(`${name}: is up already`);
  } else {
    progress(`starting the cluster ${name} (${shape})…`);
    await keep({ name, shape, internet }, options);
    progress(`${name}: ready after ${Math.round((Date.now() - started) / 1_000)} s`);
  }
  const { kubeconfig } = readyOrThrow(name);
  const kubectl = isOnPath('kubectl') ? 'kubectl' : (await resolveBinaries(['kubectl'], options)).kubectl;
  const named = name === 'default' ? '' : ` --name ${name}`;
  console.log(`export KUBECONFIG=${kubeconfig}
${kubectl} get all -A
npm run cluster -- down${named}`);
}

function status(clusters: readonly Kept[]): void {
  if (clusters.length === 0) {
    console.log('no cluster is up; `npm run cluster -- up` starts one');
    return;
  }
  const rows = clusters.map(({ name, shape, internet, since, ready }) => [
    name,
    shape + (internet ? ', internet' : ''),
    ready ? 'ready' : 'starting',
    `${Math.round((Date.now() - Date.parse(since)) / 60_000)} min`,
    ready?.server ?? '',
    ready?.kubeconfig ?? '',
  ]);
  const table = [['NAME', 'SHAPE', 'STATE', 'AGE', 'SERVER', 'KUBECONFIG'], ...rows];
  const widths = (table[0] ?? []).map((_, column) => Math.max(...table.map(row => row[column]?.length ?? 0)));
  for (const row of table)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

function readyOrThrow(name: string): NonNullable<Kept['ready']> {
  const kept = find(name);
  if (!kept) throw new Error(`${name}: is not up; \`npm run cluster -- up\` starts it`);
  if (!kept.ready) throw new Error(`${name}: is still starting; \`npm run cluster -- status\` shows when it is ready`);
  return kept.ready;
}

function shapeOf(value: string | undefined): Shape {
  if (value === 'node' || value === 'control-plane') return value;
  if (value !== undefined) throw new UsageError(`--shape ${JSON.stringify(value)}: node or control-plane`);
  if (process.platform === 'linux' && process.getuid?.() === 0) return 'node';
  console.error('a node needs Linux and root, so this will be a control plane without Pods');
  return 'control-plane';
}

function parse(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        name: { type: 'string', default: 'default' },
        shape: { type: 'string' },
        internet: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}
