/**
 * `npm run test:alarms -- [--minutes N] [--json]`: probes well-behaved servers, as the operator does, for a long time, and
 * counts false alarms; and beside them servers that lead to an address that the policy denies, and counts who gets there.
 * From 30 minutes on the figures go to docs/reliability.md.
 */
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { keepFigures } from '../../scripts/reliability.ts';
import { createDialer } from '../../src/probe/dial.ts';
import { type AddressPolicy, createGuard, type Lookup } from '../../src/probe/guard.ts';
import { createLimiter } from '../../src/probe/limiter.ts';
import { createProbe } from '../../src/probe/mcp.ts';
import type { Outcome } from '../../src/probe/outcome.ts';
import { createProbeScheduler } from '../../src/probe/schedule.ts';
import { judge } from '../../src/probe/verdict.ts';
import { startMcp, startWebSocketMcp } from '../support/servers.ts';
import { CLOSED, makeTarget } from '../unit/support.ts';
import { sending } from './probing.ts';
import {
  installNpm,
  installPython,
  npmServers,
  pythonServers,
  type Real,
  start,
  startProtected,
  whyNoPython,
} from './real.ts';
import { type Animal, events, legacy, listen, type Script, startHttp, status } from './servers.ts';

const { values: flags } = parseArgs({
  options: { minutes: { type: 'string', default: '60' }, json: { type: 'boolean', default: false } },
});
const minutes = Number(flags.minutes);
if (!(minutes > 0)) {
  process.stderr.write(`alarms: --minutes ${JSON.stringify(flags.minutes)} is no number above 0\n`);
  process.exit(2);
}
/** Connectors of each server, with credentials of their own each, so that none shares another's probes. */
const CONNECTORS = 5;
const INTERVAL_MS = 30_000;
/** The operator's default. */
const TIMEOUT_MS = 10_000;
const PROGRESS_MS = 60_000;
/** A run as long as this is worth a place in the docs. */
const KEPT_MINUTES = 30;
/** One address of this machine may be reached, and this one may not. */
const DENIED = '127.0.0.2';
const POLICY: AddressPolicy = { ...CLOSED, allowCidrs: ['127.0.0.1/32'] };

const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => abort.abort(new Error(signal)));
const open = new AsyncDisposableStack();
const say = (line: string): void => void process.stderr.write(`${line}\n`);

interface Watched {
  name: string;
  url: string;
  probes: number;
  failures: string[];
  slowestMs: number;
}

/** Servers that people run, and those of the official SDK. */
async function goodServers(): Promise<[name: string, url: string, options?: object][]> {
  const { signal } = abort;
  const found: [string, string, object?][] = [];
  const add = async (servers: Record<string, Real>): Promise<void> => {
    for (const [name, { command, path = '/mcp', transport, headers }] of Object.entries(servers)) {
      const server = open.use(await start(name, command, signal));
      const scheme = transport === 'ws' ? 'ws' : 'http';
      found.push([name, `${scheme}://127.0.0.1:${server.port}${path}`, headers ? sending(headers) : {}]);
    }
  };
  await add(npmServers(await installNpm(signal)));
  const why = whyNoPython();
  if (why) say(why);
  else await add(pythonServers(await installPython(signal)));
  for (const era of ['modern', 'legacy', 'both'] as const) {
    const server = await startMcp({ era });
    open.defer(() => server.close());
    found.push([`official SDK, ${era}`, server.url]);
  }
  const socket = await startWebSocketMcp();
  open.defer(() => socket.close());
  found.push(['official SDK over a websocket', socket.url]);
  const guarded = open.use(await startProtected('good'));
  found.push(['protected by OAuth, no credentials', guarded.url]);
  found.push(['protected by OAuth, good credentials', guarded.url, sending({ authorization: 'Bearer good' })]);
  return found;
}

/** Ways to a server at an address that the policy denies. */
async function ways(to: Animal): Promise<[name: string, url: string][]> {
  const script = async (answers: Script): Promise<string> => open.use(await startHttp(answers)).url;
  const port = new URL(to.url).port;
  const location = (code: number) => status(code, { location: to.url });
  const challenge = {
    'www-authenticate': `Bearer resource_metadata="${to.origin}/.well-known/oauth-protected-resource"`,
  };
  const stream = events(`event: endpoint\ndata: ${to.url}\n\n`);
  return [
    ['the address itself', to.url],
    ['a name of it', `http://denied.example:${port}/mcp`],
    ['a name that has it among others', `http://mixed.example:${port}/mcp`],
    ['a name that turns into it (rebinding)', `http://rebinding.example:${port}/mcp`],
    ...['2130706434', '0x7f000002', '0177.0.0.2', '127.2', '[::ffff:127.0.0.2]', '[64:ff9b::7f00:2]'].map(
      (spelled): [string, string] => [`it, spelled ${spelled}`, `http://${spelled}:${port}/mcp`],
    ),
    ...(await Promise.all(
      [301, 302, 303, 307, 308].map(
        async (code): Promise<[string, string]> => [`a redirect, ${code}`, await script({ '*': location(code) })],
      ),
    )),
    ['the metadata of a challenge', await script({ '*': status(401, challenge) })],
    ['the endpoint of an event stream', await script({ GET: stream, '*': status(405) })],
    ['a redirect of the tools', await script({ ...legacy, 'tools/list': location(307) })],
    ['a redirect of the metadata', await script({ GET: location(302), '*': status(401) })],
  ];
}

let asked = 0;
const lookup: Lookup = async name => {
  asked += 1;
  if (name === 'denied.example') return [DENIED];
  if (name === 'mixed.example') return ['127.0.0.1', DENIED];
  return [asked % 2 === 0 ? '127.0.0.1' : DENIED];
};

const run = createProbe({
  dial: createDialer({ guard: createGuard(POLICY, lookup) }),
  dialTrusted: () => Promise.reject(new Error('nothing here is hosted by the operator')),
  client: { name: 'alarms', version: '0.0.0' },
  userAgent: 'alarms/0.0.0 (+https://example.com)',
});

try {
  let reached = 0;
  const denied = open.use(
    await listen(
      createServer((_, response) => void response.end()),
      { host: DENIED },
    ),
  );
  await fetch(denied.url);
  /** Besides this one, which shows that it would be noticed. */
  const visitors = (): number => denied.connections() - 1;
  if (visitors() !== 0) throw new Error('who gets to the denied address is not counted');
  const good = await goodServers();
  const bad = await ways(denied);
  const watched = new Map<string, Watched>();
  const of = (fingerprint: string): Watched | undefined => watched.get(fingerprint.replace(/ #\d+$/, ''));
  const outcomes: Record<string, number> = {};
  const scheduler = createProbeScheduler({
    async probe(target, memory, signal): Promise<Outcome> {
      const since = performance.now();
      const outcome = await run(target, memory, signal);
      const one = of(target.fingerprint);
      if (!one || signal.aborted) return outcome;
      one.probes += 1;
      one.slowestMs = Math.max(one.slowestMs, performance.now() - since);
      outcomes[outcome.kind] = (outcomes[outcome.kind] ?? 0) + 1;
      const { verdict } = judge(outcome, { url: target.url, credentials: target.sendsCredentials });
      if (!verdict.healthy) one.failures.push(`${new Date().toISOString()} ${JSON.stringify(outcome)}`);
      return outcome;
    },
    limiter: createLimiter({ total: 32, perHost: 32 }),
    onResult: () => {},
  });
  for (const [name, url, options] of [...good, ...bad] as [string, string, object?][]) {
    watched.set(name, { name, url, probes: 0, failures: [], slowestMs: 0 });
    for (let index = 0; index < CONNECTORS; index++) {
      const fingerprint = `${name} #${index}`;
      scheduler.set(
        fingerprint,
        makeTarget({ url, fingerprint, intervalMs: INTERVAL_MS, timeoutMs: TIMEOUT_MS, ...options }),
      );
    }
  }
  say(`alarms: ${good.length} servers, ${bad.length} ways to a denied address, ${CONNECTORS} connectors each`);
  const end = performance.now() + minutes * 60_000;
  const all = [...watched.values()];
  const goods = all.slice(0, good.length);
  const sum = (some: Watched[], of: (one: Watched) => number): number =>
    some.reduce((total, one) => total + of(one), 0);
  while (performance.now() < end && !abort.signal.aborted) {
    await sleep(Math.min(PROGRESS_MS, end - performance.now()), undefined, { signal: abort.signal }).catch(() => {});
    reached = visitors();
    const left = Math.max(0, Math.round((end - performance.now()) / 60_000));
    const probes = sum(all, ({ probes }) => probes);
    say(
      `alarms: ${probes} probes, ${sum(goods, ({ failures }) => failures.length)} false alarms, ${reached} times there; ${left} min left`,
    );
  }
  await scheduler.close();
  reached = visitors();

  const rows = goods.map(({ name, probes, failures, slowestMs }) => ({
    server: name,
    probes,
    'false alarms': failures.length,
    'slowest, ms': Math.round(slowestMs),
  }));
  const total = {
    server: 'all',
    probes: sum(goods, ({ probes }) => probes),
    'false alarms': sum(goods, ({ failures }) => failures.length),
    'slowest, ms': Math.round(Math.max(...goods.map(({ slowestMs }) => slowestMs))),
  };
  const astray = all.slice(good.length).map(({ name, probes }) => ({ 'way to a denied address': name, probes }));
  if (flags.json)
    console.log(JSON.stringify({ minutes, servers: [...rows, total], ways: astray, reached, outcomes }, null, 2));
  else {
    console.table([...rows, total]);
    console.table(astray);
    console.log(`denied addresses reached: ${reached}`);
  }
  for (const { failures } of goods) for (const failure of failures.slice(0, 5)) say(failure);
  const unprobed = all.filter(({ probes }) => probes === 0);
  if (unprobed.length > 0) say(`alarms: never probed: ${unprobed.map(({ name }) => name).join(', ')}`);
  if (minutes >= KEPT_MINUTES && !abort.signal.aborted) {
    const lines = [
      ...[...rows, total].map(row => ({ table: 'False alarms', row })),
      {
        table: 'Denied addresses',
        row: { 'ways to one': astray.length, probes: sum(all.slice(good.length), ({ probes }) => probes), reached },
      },
    ];
    keepFigures(lines.map(line => JSON.stringify(line)).join('\n'), `npm run test:alarms -- --minutes ${minutes}`);
  }
  process.exitCode = total['false alarms'] === 0 && reached === 0 && unprobed.length === 0 ? 0 : 1;
} finally {
  await open.disposeAsync();
}
