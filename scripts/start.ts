/** `npm start`: brings up a real local cluster with the operator in it, applies the samples and shows what becomes of them. */
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../src/api/connector.ts';
import { startDemo } from '../test/demo/demo.ts';
import { readSamples, type Sample } from '../test/demo/samples.ts';
import { connect, readyOf, watchObjects } from '../test/support/kube.ts';

const USAGE = `npm start [-- options]

  --exit       end when every sample has settled: with 0 if each is what its manifest's comment says
  --internet   let the cluster reach what this machine can
  --help
`;
const root = dirname(import.meta.dirname);
const NAMESPACE = 'samples';
const SETTLE_MS = 180_000;

const flags = readFlags();
if (flags.help) {
  process.stdout.write(USAGE);
  process.exit(0);
}

const started = performance.now();
const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (!abort.signal.aborted) process.stderr.write('\nTaking everything down…\n');
    abort.abort(new Error(`ended by ${signal}`));
  });
}

const missing = process.platform !== 'linux' ? 'Linux' : process.getuid?.() !== 0 ? 'root (sudo npm start)' : undefined;
if (missing) {
  process.stderr.write(`npm start runs a kubelet with real Pods, which needs ${missing}.
Elsewhere, run the operator from source against a cluster of yours (it takes KUBECONFIG):
  kubectl apply -f crds/ && npm run operator\n`);
  process.exit(1);
}

try {
  process.exitCode = await main();
} catch (error) {
  process.exitCode = 1;
  if (!abort.signal.aborted) process.stderr.write(`\nnpm start: ${error instanceof Error ? error.message : error}\n`);
}

async function main(): Promise<number> {
  const demo = await startDemo({ internet: flags.internet, signal: abort.signal, progress: say });
  const api = connect(demo.node.kubeconfig);
  try {
    const samples = readSamples(root, flags.internet);
    say('applying manifests/samples…');
    await demo.kubectl('create', 'namespace', NAMESPACE);
    await demo.kubectl('label', 'namespace', NAMESPACE, 'pod-security.kubernetes.io/enforce=restricted');
    await demo.kubectl('apply', '-n', NAMESPACE, '-f', join(root, 'manifests', 'samples'));

    const current = new Map<string, PersonalConnector>();
    const table = createTable();
    const settled = Promise.withResolvers<void>();
    const all = (): boolean => samples.every(sample => isExpected(sample, current.get(sample.connector.metadata.name)));
    const view = watchObjects<PersonalConnector>(api, PERSONAL_CONNECTORS, { namespace: NAMESPACE }, objects => {
      current.clear();
      for (const object of objects) current.set(object.metadata.name, object);
      table.draw(samples, current);
      if (all()) settled.resolve();
    });
    const late = setTimeout(settled.resolve, SETTLE_MS);
    abort.signal.addEventListener('abort', () => settled.resolve());
    await settled.promise;
    clearTimeout(late);
    table.end(samples, current);
    const right = all();
    if (!abort.signal.aborted) {
      say(
        right
          ? 'every sample is what its comment says'
          : `after ${SETTLE_MS / 1000} s some samples are not what their comments say`,
      );
    }
    if (!flags.exit && !abort.signal.aborted) {
      process.stdout.write(`
  export KUBECONFIG=${demo.node.kubeconfig}
  kubectl get personalconnectors -n ${NAMESPACE}
  kubectl describe personalconnector jira -n ${NAMESPACE}

Ctrl-C takes everything down.
`);
      await new Promise<void>((resolve, reject) => {
        abort.signal.addEventListener('abort', () => resolve());
        demo.node.failed.addEventListener('abort', () => {
          if (!abort.signal.aborted) reject(demo.node.failed.reason);
        });
      });
    }
    await view.stop();
    return right ? 0 : 1;
  } finally {
    await api.close();
    await demo.stop();
  }
}

function isExpected({ expected }: Sample, connector: PersonalConnector | undefined): boolean {
  const ready = readyOf(connector);
  return (
    ready?.status === expected.status &&
    ready.reason === expected.reason &&
    ready.observedGeneration === connector?.metadata.generation
  );
}

function readFlags() {
  const options = {
    exit: { type: 'boolean' },
    internet: { type: 'boolean', default: false },
    help: { type: 'boolean' },
  } as const;
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    process.stderr.write(`npm start: ${error instanceof Error ? error.message : error}\n\n${USAGE}`);
    process.exit(2);
  }
}

function say(line: string): void {
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}\n`);
}

interface Table {
  draw(samples: readonly Sample[], current: ReadonlyMap<string, PersonalConnector>): void;
  /** Draws for the last time, also where no terminal shows each step. */
  end(samples: readonly Sample[], current: ReadonlyMap<string, PersonalConnector>): void;
}

/** A table that is drawn over itself in a terminal; elsewhere it is printed once, at the end. */
function createTable(): Table {
  let height = 0;
  const print = (samples: readonly Sample[], current: ReadonlyMap<string, PersonalConnector>, late: boolean): void => {
    const rows = [
      ['', 'NAME', 'TYPE', 'READY', 'REASON', 'MESSAGE'],
      ...samples.map(sample => {
        const { name } = sample.connector.metadata;
        const connector = current.get(name);
        const ready = readyOf(connector);
        const mark = isExpected(sample, connector) ? '✔' : late ? '✘' : '…';
        return [mark, name, sample.connector.spec.type, ready?.status ?? '', ready?.reason ?? '', ready?.message ?? ''];
      }),
    ];
    const widths = [0, 1, 2, 3, 4].map(column => Math.max(...rows.map(row => row[column]?.length ?? 0)));
    const most = process.stdout.columns ?? 160;
    const lines = rows.map(row =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd()
        .slice(0, most),
    );
    process.stdout.write(`${height > 0 ? `\x1b[${height}A\x1b[J` : ''}${lines.join('\n')}\n`);
    height = process.stdout.isTTY ? lines.length : 0;
  };
  return {
    draw: (samples, current) => {
      if (process.stdout.isTTY) print(samples, current, false);
    },
    end: (samples, current) => print(samples, current, true),
  };
}
