/**
 * `npm run bench:bridge [-- --json]`: what the bridge adds to a call, against the same server over its own HTTP, in one run
 * and in alternating order; what a session costs; what is left of 1,000 sessions of which many end by kill -9; and what it
 * takes to put the bridge into a Pod.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent, request } from 'undici';
import { bundle } from '../../scripts/build.ts';
import { createLog } from '../../src/bridge/log.ts';
import { startBridge } from '../../src/bridge/main.ts';
import { closedPort } from '../support/servers.ts';
import { installNpm, npmServers, start } from '../zoo/real.ts';

const CALLS = 500;
const ROUNDS = 5;
const AT_A_TIME = 32;
const SESSIONS = 1_000;
const OPEN_AT_A_TIME = 20;
const { signal } = new AbortController();

const INITIALIZE = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'bench', version: '0.0.0' } };
const ECHO = { name: 'echo', arguments: { message: 'hello' } };
const agent = new Agent({ connections: AT_A_TIME });
let ids = 0;

interface Client {
  call(): Promise<void>;
  end(): Promise<void>;
  session: string;
}

/** A client of Streamable HTTP that does no more than it must. */
async function open(url: string): Promise<Client> {
  const send = async (message: object, headers: Record<string, string> = {}) => {
    const {
      statusCode,
      headers: answered,
      body,
    } = await request(url, {
      dispatcher: agent,
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
      body: JSON.stringify({ jsonrpc: '2.0', ...message }),
    });
    const text = await body.text();
    if (statusCode >= 300) throw new Error(`${statusCode} ${text}`);
    return { answered, text };
  };
  const { answered } = await send({ id: ++ids, method: 'initialize', params: INITIALIZE });
  const session = String(answered['mcp-session-id'] ?? '');
  const headers = { 'mcp-protocol-version': '2025-11-25', ...(session && { 'mcp-session-id': session }) };
  await send({ method: 'notifications/initialized' }, headers);
  return {
    session,
    async call() {
      const { text } = await send({ id: ++ids, method: 'tools/call', params: ECHO }, headers);
      if (!text.includes('hello')) throw new Error(`no echo: ${text}`);
    },
    async end() {
      const { body } = await request(url, { dispatcher: agent, method: 'DELETE', headers });
      await body.dump();
    },
  };
}

const percentile = (sorted: readonly number[], part: number): number =>
  sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
const round = (value: number, digits = 2): number => Number(value.toFixed(digits));

/** Milliseconds of calls one after the other, sorted, and calls a second when many are under way. */
async function measure(url: string): Promise<{ times: number[]; perSecond: number }> {
  const client = await open(url);
  for (let warm = 0; warm < 50; warm++) await client.call();
  const times: number[] = [];
  for (let at = 0; at < CALLS; at++) {
    const since = performance.now();
    await client.call();
    times.push(performance.now() - since);
  }
  const since = performance.now();
  let left = CALLS * 2;
  await Promise.all(
    Array.from({ length: AT_A_TIME }, async () => {
      while (left-- > 0) await client.call();
    }),
  );
  const perSecond = (CALLS * 2 * 1_000) / (performance.now() - since);
  await client.end();
  return { times: times.sort((a, b) => a - b), perSecond };
}

/** A process and all below it, by /proc; empty when it is gone. */
function family(pid: number): number[] {
  const tasks = `/proc/${pid}/task`;
  try {
    const children = readdirSync(tasks).flatMap(task => readFileSync(join(tasks, task, 'children'), 'utf8').split(' '));
    return [pid, ...children.filter(Boolean).map(Number).flatMap(family)];
  } catch {
    return [];
  }
}

const rssMiB = (pid: number): number => {
  const [, kB] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kB) / 1024;
};

async function latency(installed: string): Promise<object[]> {
  const servers = npmServers(installed);
  const kinds = {
    'its own HTTP': 'server-everything over Streamable HTTP',
    'the bridge, in sessions': 'server-everything behind our bridge, in sessions',
    'the bridge, stateless': 'server-everything behind our bridge, stateless',
  };
  const running = await Promise.all(
    Object.entries(kinds).map(async ([kind, name]) => {
      const real = servers[name];
      if (!real) throw new Error(`there is no ${name}`);
      return {
        kind,
        server: await start(name, real.command, signal),
        times: [] as number[],
        perSecond: [] as number[],
      };
    }),
  );
  try {
    for (let at = 0; at < ROUNDS; at++) {
      for (const one of at % 2 === 0 ? running : running.toReversed()) {
        const { times, perSecond } = await measure(`http://127.0.0.1:${one.server.port}/mcp`);
        one.times.push(...times);
        one.perSecond.push(perSecond);
      }
    }
    const rows = running.map(({ kind, times, perSecond }) => {
      times.sort((a, b) => a - b);
      return {
        kind,
        p50: percentile(times, 0.5),
        p99: percentile(times, 0.99),
        perSecond: percentile(
          perSecond.sort((a, b) => a - b),
          0.5,
        ),
      };
    });
    const own = rows[0];
    return rows.map(({ kind, p50, p99, perSecond }) => ({
      'server-everything over': kind,
      'p50, ms': round(p50),
      'p99, ms': round(p99),
      'added p50, ms': round(p50 - (own?.p50 ?? 0)),
      'calls/s, 32 at a time': round(perSecond, 0),
      ratio: round(perSecond / (own?.perSecond ?? 1)),
    }));
  } finally {
    for (const { server } of running) await server[Symbol.asyncDispose]();
  }
}

/** Sessions that end by DELETE, or whose server is killed, or that nobody ends. */
async function sessions(): Promise<object> {
  const fixture = join(import.meta.dirname, '..', 'support', 'stdio-server.ts');
  const before = new Set(family(process.pid));
  const bridge = await startBridge({
    command: [process.execPath, fixture],
    port: 0,
    host: '127.0.0.1',
    path: '/mcp',
    stateless: false,
    processes: 1,
    maxSessions: OPEN_AT_A_TIME * 2,
    idleMs: 2_000,
    quietMs: 0,
    log: createLog({}, [], () => {}),
  });
  const url = `http://127.0.0.1:${bridge.port}/mcp`;
  let left = SESSIONS;
  let killed = 0;
  let failed = 0;
  const rss: number[] = [];
  const use = async (at: number): Promise<void> => {
    const client = await open(url);
    await client.call();
    const servers = family(process.pid).filter(pid => !before.has(pid));
    const victim = servers[at % servers.length];
    if (victim === undefined) return;
    // One that has just ended has none.
    const size = rssMiB(victim);
    if (size > 0) rss.push(size);
    if (at % 3 === 0) await client.end();
    // Whose it is, is left to chance: its own, another one's in the middle of a call, or one that is just beginning.
    if (at % 3 === 1) process.kill(victim, 'SIGKILL');
    killed += Number(at % 3 === 1);
  };
  await Promise.all(
    Array.from({ length: OPEN_AT_A_TIME }, async () => {
      while (left > 0) {
        left -= 1;
        await use(left).catch(() => {
          failed += 1;
        });
      }
    }),
  );
  await bridge.stop();
  const after = family(process.pid).filter(pid => !before.has(pid));
  return {
    sessions: SESSIONS,
    'servers killed -9': killed,
    'uses that failed for it': failed,
    'processes left': after.length,
    'RSS of a session’s (bare Node) server, MiB': round(rss.reduce((sum, one) => sum + one, 0) / rss.length, 0),
  };
}

/** What the bridge itself takes, and what it takes to bring it. */
async function injection(): Promise<object> {
  const { dir: dist } = await bundle();
  const folder = mkdtempSync(join(tmpdir(), 'pco-bridge-'));
  try {
    const since = performance.now();
    await new Promise((resolve, reject) => {
      spawn(process.execPath, [join(dist, 'bridge.mjs'), 'inject', folder], { stdio: 'inherit' }).on('exit', code =>
        code === 0 ? resolve(undefined) : reject(new Error(`inject ended with ${code}`)),
      );
    });
    const ms = performance.now() - since;
    const bytes = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
    const fixture = join(import.meta.dirname, '..', 'support', 'stdio-server.ts');
    const args = ['--library-path', join(folder, 'lib'), join(folder, 'node'), join(folder, 'bridge.mjs')];
    const port = await closedPort();
    const started = performance.now();
    const bridge = spawn(join(folder, 'loader'), [
      ...args,
      '--port',
      String(port),
      '--stateless',
      '--',
      process.execPath,
      fixture,
    ]);
    for (;;) {
      const { statusCode } = await request(`http://127.0.0.1:${port}/.bridge/ready`).catch(() => ({ statusCode: 0 }));
      if (statusCode === 200) break;
    }
    const readyMs = performance.now() - started;
    const rss = rssMiB(bridge.pid ?? 0);
    const ended = new Promise(resolve => bridge.on('exit', resolve));
    bridge.kill('SIGTERM');
    await ended;
    return {
      'bundle, MB': round(statSync(join(dist, 'bridge.mjs')).size / 1e6),
      'injected, MB': round(bytes / 1e6, 0),
      'injection, ms': round(ms, 0),
      'start → ready, ms': round(readyMs, 0),
      'RSS of the bridge, MiB': round(rss, 0),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const report = {
  injection: await injection(),
  latency: await latency(await installNpm(signal)),
  sessions: await sessions(),
};
await agent.close();
if (process.argv.includes('--json')) console.log(JSON.stringify(report, null, 2));
else {
  console.table([report.injection]);
  console.table(report.latency);
  console.table([report.sessions]);
}
