/** The operator as a process that can be killed, stopped and continued. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { build } from 'esbuild';
import { SINGLE_FILE } from '../../scripts/build.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { run, until } from '../cluster/process.ts';

export interface Executable extends AsyncDisposable {
  /** Starts a process, and waits until it serves its metrics. */
  start(options: StartOptions): Promise<OperatorProcess>;
}

export interface StartOptions {
  /** Path of the kubeconfig. */
  kubeconfig: string;
  /** The only namespace that it looks at; absent means all. */
  namespace?: string;
  policy?: PolicyInput;
  /** More flags. */
  args?: readonly string[];
  env?: Record<string, string>;
  /** What its heap may grow to: more than usual for more connectors than usual. */
  heapMib?: number;
}

export interface OperatorProcess extends AsyncDisposable {
  pid: number;
  /** Of /healthz, /readyz and /metrics. */
  port: number;
  /** What it has logged. */
  lines: readonly LogLine[];
  /** The first line of its log with this text, be it there already or yet to come. Rejects if it ends without. */
  logged(text: string): Promise<LogLine>;
  /** Resolves once its caches are filled. */
  ready: Promise<unknown>;
  /** Sends a signal, and waits for the end of the process where the signal is one that ends it at once. */
  kill(signal: NodeJS.Signals): Promise<void>;
  exited: Promise<Exit>;
  /** Aborted, with an Error that says how, when it has ended. */
  ended: AbortSignal;
  /** Asks it to end in good order. */
  terminate(): Promise<Exit>;
  /** Its figures, by name and labels as Prometheus writes them. */
  metrics(): Promise<Map<string, number>>;
  /** Resolves when it has nothing in hand and nothing waits; looks so often, and each look costs it a scrape. */
  idle(everyMs?: number): Promise<void>;
}

export interface LogLine {
  msg: string;
  [field: string]: unknown;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** As in test/cluster/process.ts: the process dies with this one, whatever ends it, and be it stopped by SIGSTOP. */
const GUARD = '(read -r ended <&3 && exit; kill -KILL -$$) >/dev/null 2>&1 & exec "$@" 3<&-';

/** As in the image, in a container with the memory that the chart gives it: 60 % of 256 MiB. */
const HEAP_MIB = 154;

const IDLE = [
  'workqueue_depth{name="personalconnector"}',
  'controller_runtime_active_workers{controller="personalconnector"}',
];

/** Makes the operator one file: it starts four times as fast as from its sources. */
export async function buildOperator(kubeconfig: string): Promise<Executable> {
  // Beside the kubeconfig: the cluster's directory is removed whatever ends this process.
  const dir = mkdtempSync(join(dirname(kubeconfig), 'operator-'));
  const file = join(dir, 'operator.mjs');
  const env = { ...process.env, NODE_COMPILE_CACHE: join(dir, 'cache') };
  const processes = new Set<OperatorProcess>();
  await build({
    entryPoints: [join(import.meta.dirname, 'operator.ts')],
    outfile: file,
    ...SINGLE_FILE,
    legalComments: 'none',
    // In one file, the product's main module would take itself for the one that was started.
    define: { 'import.meta.main': 'false' },
  });
  // Fills the compile cache.
  await run(process.execPath, [file, '--help'], { env });

  return {
    async start({ policy = {}, ...options }) {
      const config = join(mkdtempSync(join(dir, 'run-')), 'config.json');
      writeFileSync(config, JSON.stringify(policy));
      const operator = await startProcess(file, ['--config', config], { ...options, env: { ...env, ...options.env } });
      processes.add(operator);
      void operator.exited.then(() => processes.delete(operator));
      return operator;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...processes].map(operator => operator[Symbol.asyncDispose]()));
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function startProcess(
  file: string,
  settings: readonly string[],
  { kubeconfig, namespace, args = [], env = {}, heapMib = HEAP_MIB }: StartOptions,
): Promise<OperatorProcess> {
  const where = namespace === undefined ? [] : ['--namespace', namespace];
  const nodeFlags = ['--max-semi-space-size=4', `--max-old-space-size=${heapMib}`];
  const flags = ['--host', '127.0.0.1', '--port', '0', ...where, ...settings, ...args];
  const child = spawn('/bin/sh', ['-c', GUARD, 'sh', process.execPath, ...nodeFlags, file, ...flags], {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: { ...env, KUBECONFIG: kubeconfig },
  });
  const owner = child.stdio[3];
  const { pid, stdout, stderr } = child;
  if (pid === undefined || !(owner instanceof Writable) || !stdout || !stderr) throw new Error('/bin/sh: not started');
  owner.on('error', () => {}); // EPIPE when the watcher is gone before us.

  const lines: LogLine[] = [];
  const waiting = new Set<(line: LogLine | undefined) => void>();
  const tell = (line: LogLine | undefined): void => {
    for (const listener of [...waiting]) listener(line);
  };
  const take = (text: string): void => {
    const line: LogLine = text.startsWith('{') ? (JSON.parse(text) as LogLine) : { msg: text };
    lines.push(line);
    tell(line);
  };
  createInterface({ input: stdout }).on('line', take);
  createInterface({ input: stderr }).on('line', take);
  const { promise: exited, resolve: exit } = Promise.withResolvers<Exit>();
  const ending = new AbortController();
  let ended = false;
  child.on('exit', (code, signal) => {
    owner.end('ended\n');
    ending.abort(new Error(`the operator ended: ${signal ?? `exit code ${code}`}`));
    exit({ code, signal });
  });
  // Once its output is read to the end as well.
  child.on('close', () => {
    ended = true;
    tell(undefined);
  });

  function logged(text: string): Promise<LogLine> {
    const { promise, resolve, reject } = Promise.withResolvers<LogLine>();
    const look = (line: LogLine | undefined): void => {
      if (line?.msg.includes(text)) resolve(line);
      else if (!line)
        reject(new Error(`the operator ended without saying ${JSON.stringify(text)}:\n${lastWords(lines)}`));
      else return;
      waiting.delete(look);
    };
    waiting.add(look);
    const there = lines.find(({ msg }) => msg.includes(text));
    if (there || ended) look(there);
    return promise;
  }

  const ready = logged('reconciling begins');
  ready.catch(() => {}); // Told to whom waits for it.
  const { port } = (await logged('started')) as LogLine & { port: number };

  const operator: OperatorProcess = {
    pid,
    port,
    lines,
    logged,
    ready,
    exited,
    ended: ending.signal,
    async kill(signal) {
      child.kill(signal);
      if (signal === 'SIGKILL') await exited;
    },
    terminate() {
      child.kill('SIGTERM');
      return exited;
    },
    async metrics() {
      const response = await fetch(`http://127.0.0.1:${port}/metrics`);
      return parseMetrics(await response.text());
    },
    async idle(everyMs = 20) {
      const look = async (): Promise<boolean> => {
        const metrics = await operator.metrics();
        return IDLE.every(name => metrics.get(name) === 0);
      };
      await until('the operator to be idle', look, { signal: ending.signal, timeoutMs: 600_000, everyMs });
    },
    async [Symbol.asyncDispose]() {
      await operator.kill('SIGKILL');
    },
  };
  return operator;
}

/** The figures of Prometheus' text format: name and labels → value. */
export function parseMetrics(text: string): Map<string, number> {
  const rows = text.split('\n').filter(line => line !== '' && !line.startsWith('#'));
  return new Map(rows.map(row => [row.slice(0, row.lastIndexOf(' ')), Number(row.slice(row.lastIndexOf(' ') + 1))]));
}

export function lastWords(lines: readonly LogLine[]): string {
  return lines
    .slice(-20)
    .map(line => JSON.stringify(line))
    .join('\n');
}
