/**
 * `npm run bench:probes [-- --json]`: probes a second against a local server, as a ratio to bare undici making the same
 * requests over connections of its own, in one run and in alternating order; and what 200 hostile servers cost, at once and
 * through the operator's slots.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Agent } from 'undici';
import { createDialer } from '../../src/probe/dial.ts';
import { createGuard } from '../../src/probe/guard.ts';
import { createLimiter } from '../../src/probe/limiter.ts';
import { createProbe } from '../../src/probe/mcp.ts';
import type { Outcome } from '../../src/probe/outcome.ts';
import type { Memory, Target } from '../../src/probe/target.ts';
import { HOSTILE, startServers } from './probe-servers.ts';

const LOOPBACK = { allowCidrs: ['127.0.0.0/8'], allowHosts: [], denyCidrs: [], denyHosts: [], ports: ['1-65535'] };
const CONCURRENT = [100, 1_000];
const ROUNDS = 5;
const HOSTILE_AT_ONCE = 200;
/** Of the operator, unless its policy says otherwise. */
const SLOTS = 32;

const dial = createDialer({ guard: createGuard(LOOPBACK) });
const client = { name: 'bench', version: '0.0.0' };
const probe = createProbe({ dial, dialTrusted: dial, client, userAgent: 'bench/0.0.0 (+https://example.com)' });

const target = (url: string, timeoutMs = 60_000): Target => ({
  url,
  trusted: false,
  fingerprint: '',
  tenant: '',
  audience: '',
  intervalMs: 300_000,
  timeoutMs,
  failureThreshold: 1,
  successThreshold: 1,
  recheck: undefined,
  secretsVersion: '',
  sendsCredentials: false,
  secrets: undefined,
});

/** The requests of one probe of a server whose era is known, and nothing else. */
const BARE: Record<'modern' | 'legacy', (url: URL) => Promise<void>> = {
  async modern(url) {
    await using agent = await openAgent();
    const ask = (method: string) =>
      post(
        agent,
        url,
        { 'mcp-protocol-version': '2026-07-28', 'mcp-method': method },
        { id: 1, method, params: { _meta: META } },
      );
    await ask('server/discover');
    await ask('tools/list');
  },
  async legacy(url) {
    await using agent = await openAgent();
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: client };
    const headers = await post(agent, url, {}, { id: 1, method: 'initialize', params });
    const session = { 'mcp-session-id': String(headers['mcp-session-id']), 'mcp-protocol-version': '2025-11-25' };
    await post(agent, url, session, { method: 'notifications/initialized' });
    await post(agent, url, session, { id: 2, method: 'tools/list', params: {} });
    const { body } = await agent.request({
      origin: url.origin,
      path: url.pathname,
      method: 'DELETE',
      headers: session,
    });
    await body.text();
  },
};

const META = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': client,
  'io.modelcontextprotocol/clientCapabilities': {},
};

async function openAgent(): Promise<Agent & AsyncDisposable> {
  const agent = new Agent({ connections: 1, allowH2: false });
  return Object.assign(agent, { [Symbol.asyncDispose]: () => agent.destroy() });
}

async function post(agent: Agent, { origin, pathname }: URL, headers: Record<string, string>, message: object) {
  const { headers: answered, body } = await agent.request({
    origin,
    path: pathname,
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
    body: JSON.stringify({ jsonrpc: '2.0', ...message }),
  });
  await body.text();
  return answered;
}

interface Row {
  [column: string]: string | number;
}

/** Wall time and CPU of this process for `count` of them at a time, in ms each. */
async function measure(work: () => Promise<unknown>, count: number): Promise<{ wall: number; cpu: number }> {
  const [start, before] = [performance.now(), process.cpuUsage()];
  await Promise.all(Array.from({ length: count }, work));
  const { user, system } = process.cpuUsage(before);
  return { wall: (performance.now() - start) / count, cpu: (user + system) / 1000 / count };
}

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
const round = (value: number): number => Math.round(value * 100) / 100;

async function throughput(urls: Record<'modern' | 'legacy', string>): Promise<Row[]> {
  const rows: Row[] = [];
  for (const era of ['modern', 'legacy'] as const) {
    const url = new URL(urls[era]);
    const memory: Memory = {};
    const ours = async (): Promise<void> => {
      const outcome = await probe(target(url.href), memory, new AbortController().signal);
      if (outcome.kind !== 'answered' || !outcome.server.tools?.count) throw new Error(JSON.stringify(outcome));
    };
    const bare = (): Promise<void> => BARE[era](url);
    for (const count of CONCURRENT) {
      const taken: Record<'ours' | 'bare', { wall: number; cpu: number }[]> = { ours: [], bare: [] };
      await measure(ours, count);
      await measure(bare, count);
      for (let turn = 0; turn < ROUNDS; turn++) {
        taken.ours.push(await measure(ours, count));
        taken.bare.push(await measure(bare, count));
      }
      const of = (who: 'ours' | 'bare', what: 'wall' | 'cpu'): number => median(taken[who].map(one => one[what]));
      rows.push({
        era,
        'at a time': count,
        'probes/s': Math.round(1000 / of('ours', 'wall')),
        'bare, probes/s': Math.round(1000 / of('bare', 'wall')),
        'time, ratio': round(of('ours', 'wall') / of('bare', 'wall')),
        'CPU ms/probe': round(of('ours', 'cpu')),
        'CPU, ratio': round(of('ours', 'cpu') / of('bare', 'cpu')),
      });
    }
  }
  return rows;
}

/** What they cost that mean harm, with so many slots for probes. */
async function hostile(urls: Record<string, string>, slots: number): Promise<Row> {
  const kinds = Object.values(urls);
  const limiter = createLimiter({ total: slots, perHost: slots });
  const one = async (index: number): Promise<Outcome> => {
    const { signal } = new AbortController();
    const release = await limiter.acquire({ host: `${index}`, tenant: `${index % 20}` }, signal);
    try {
      return await probe(target(kinds[index % kinds.length] ?? '', 5_000), {}, signal);
    } finally {
      release();
    }
  };
  globalThis.gc?.();
  const before = process.memoryUsage.rss();
  let peak = before;
  const sampling = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 20);
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  const start = performance.now();
  const outcomes = await Promise.all(Array.from({ length: HOSTILE_AT_ONCE }, (_, index) => one(index)));
  delay.disable();
  clearInterval(sampling);
  return {
    'hostile servers': outcomes.length,
    'at a time': slots,
    'taken for MCP': outcomes.filter(({ kind }) => kind === 'answered').length,
    'seconds (timeout 5)': round((performance.now() - start) / 1000),
    'RSS before, MiB': Math.round(before / 2 ** 20),
    'RSS peak, MiB': Math.round(peak / 2 ** 20),
    'loop lag p50, ms': round(delay.percentile(50) / 1e6),
    'loop lag p99, ms': round(delay.percentile(99) / 1e6),
    'loop lag max, ms': round(delay.max / 1e6),
  };
}

if (process.argv[2] === 'serve') {
  process.send?.(await startServers());
} else {
  const server = fork(import.meta.filename, ['serve']);
  try {
    const [urls] = (await once(server, 'message')) as [Record<string, string>];
    // First, while the memory is that of an operator that has just begun.
    const harm = Object.fromEntries(HOSTILE.map(name => [name, urls[name] ?? '']));
    const cost = [await hostile(harm, SLOTS), await hostile(harm, HOSTILE_AT_ONCE)];
    const rows = await throughput({ modern: urls.modern ?? '', legacy: urls.legacy ?? '' });
    if (process.argv.includes('--json')) console.log(JSON.stringify({ throughput: rows, hostile: cost }, null, 2));
    else {
      console.table(rows);
      console.table(cost);
    }
  } finally {
    server.kill('SIGKILL');
  }
}
