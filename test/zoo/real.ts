/** Real servers: installed once into the cache at pinned versions, started on free ports, watched by a proxy. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { READY_PATH } from '../../src/bridge/layout.ts';
import { cacheDir, isOnPath } from '../cluster/binaries.ts';
import { lock } from '../cluster/lock.ts';
import { ensurePackages } from '../cluster/packages.ts';
import { run, startDaemon, until } from '../cluster/process.ts';
import { closedPort, startMcp } from '../support/servers.ts';
import { type Animal, listen } from './servers.ts';

const HERE = import.meta.dirname;
const START_MS = 60_000;

/** The packages of npm/package-lock.json; resolves to the folder of their node_modules. */
export function installNpm(signal: AbortSignal): Promise<string> {
  const from = join(HERE, 'npm');
  const args = ['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  return install('npm', readFileSync(join(from, 'package-lock.json')), signal, async dir => {
    for (const file of ['package.json', 'package-lock.json']) cpSync(join(from, file), join(dir, file));
    await run('npm', args, { cwd: dir, signal });
  });
}

/** The packages of pypi/requirements.txt in a venv; resolves to its python. */
export async function installPython(signal: AbortSignal): Promise<string> {
  if (!hasPython()) await ensurePackages(['python3-venv'], { signal, progress });
  const requirements = join(HERE, 'pypi', 'requirements.txt');
  const version = await run('python3', ['-c', 'import sys; print(sys.version, sys.base_prefix)'], { signal });
  const dir = await install('pypi', `${version}${readFileSync(requirements)}`, signal, async dir => {
    await run('python3', ['-m', 'venv', dir], { signal });
    const args = ['-q', '--disable-pip-version-check', '--only-binary', ':all:', '-r', requirements];
    await run(join(dir, 'bin', 'python'), ['-m', 'pip', 'install', ...args], { signal });
  });
  return join(dir, 'bin', 'python');
}

function hasPython(): boolean {
  return spawnSync('python3', ['-c', 'import venv, ensurepip, sys; assert sys.version_info >= (3, 11)']).status === 0;
}

/** Why servers written in Python cannot be run here; in CI they must be. */
export function whyNoPython(): string | undefined {
  if (hasPython() || process.env.CI || (process.getuid?.() === 0 && isOnPath('apt-get'))) return undefined;
  return 'servers written in Python are skipped: install Python 3.11 or newer with venv (Debian: python3-venv), then npm run test:zoo -- real';
}

const progress = (line: string): void => console.log(`zoo: ${line}`);

/** Makes a folder of the cache unless it is there for the same `key`. Runs side by side make it once. */
async function install(
  name: string,
  key: string | Buffer,
  signal: AbortSignal,
  make: (dir: string) => Promise<void>,
): Promise<string> {
  const hash = createHash('sha256')
    .update(`${process.platform}-${process.arch}`)
    .update(key)
    .digest('hex')
    .slice(0, 16);
  const dir = join(cacheDir(), 'zoo', `${name}-${hash}`);
  const stamp = join(dir, '.installed');
  if (existsSync(stamp)) return dir;
  using _ = await lock(`${dir}.lock`, signal, () => progress(`another process installs the servers of ${name}…`));
  if (existsSync(stamp)) return dir;
  progress(`installing the servers of ${name}, about half a minute the first time…`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  await make(dir);
  writeFileSync(stamp, '');
  return dir;
}

export interface Command {
  command: string;
  args: (port: number) => readonly string[];
  env?: (port: number) => Record<string, string>;
  /** Path that answers 200 once it can be used; absent, that is when its port answers. */
  ready?: string;
}

export interface RealServer extends AsyncDisposable {
  port: number;
}

/** Starts a server as a process that dies with the tests, and waits until its port answers. */
export async function start(
  name: string,
  { command, args, env, ready }: Command,
  signal: AbortSignal,
): Promise<RealServer> {
  const dir = mkdtempSync(join(tmpdir(), 'pco-zoo-'));
  const port = await closedPort();
  const daemon = startDaemon({
    name,
    command,
    args: args(port),
    log: join(dir, 'log'),
    cwd: dir,
    env: { PATH: process.env.PATH, HOME: dir, ...env?.(port) },
  });
  const close = async (): Promise<void> => {
    await daemon.kill();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const alive = AbortSignal.any([signal, daemon.ended]);
    await until(`${name} at port ${port}`, () => (ready === undefined ? answers(port) : isReady(port, ready)), {
      signal: alive,
      timeoutMs: START_MS,
    });
  } catch (error) {
    await close();
    throw error;
  }
  return { port, [Symbol.asyncDispose]: close };
}

async function isReady(port: number, path: string): Promise<boolean> {
  const { status } = await fetch(`http://127.0.0.1:${port}${path}`);
  return status === 200;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    }).on('error', reject);
  });
}

export interface Proxy extends Animal {
  /** Sessions that the server named, and whether they are over: it agreed to their end, or knew nothing of them by then. */
  sessions: Map<string, boolean>;
}

/** Passes HTTP on to a port of this machine, and notes sessions; `first` may answer instead. */
export async function startProxy(
  port: number,
  first: (request: IncomingMessage, response: ServerResponse) => boolean = () => false,
): Promise<Proxy> {
  const sessions = new Map<string, boolean>();
  const server = createServer((incoming, outgoing) => {
    const { method = '', url: path = '', headers } = incoming;
    animal.requests.push({ verb: method, path, headers, body: '', method: '', params: {} });
    if (first(incoming, outgoing)) return;
    const onward = send({ port, host: '127.0.0.1', method, path, headers });
    onward.on('response', answer => {
      const { statusCode = 0, headers: answered } = answer;
      const opened = answered['mcp-session-id'];
      if (typeof opened === 'string' && !sessions.has(opened)) sessions.set(opened, false);
      const ended = headers['mcp-session-id'];
      if (method === 'DELETE' && typeof ended === 'string') sessions.set(ended, statusCode < 300 || statusCode === 404);
      outgoing.writeHead(statusCode, answered);
      answer.on('error', () => outgoing.destroy()).pipe(outgoing);
    });
    onward.on('error', () => outgoing.destroy());
    outgoing.on('close', () => onward.destroy()).on('error', () => {});
    incoming.pipe(onward);
  });
  const animal: Animal = await listen(server);
  return { ...animal, sessions };
}

/** A server that people run. */
export interface Real {
  command: Command;
  path?: string;
  transport?: 'sse' | 'ws';
  /** Sent by the probe and by the official client. */
  headers?: Record<string, string>;
  facts: object;
  /** Tools that are known to be there. */
  tools: string[];
}

const EVERYTHING = '@modelcontextprotocol/server-everything/dist/index.js';
const MEMORY = '@modelcontextprotocol/server-memory/dist/index.js';

/** A stdio server behind the bridge of this project. */
function ourBridge(...args: string[]): Command {
  const bridge = join(HERE, '..', '..', 'src', 'bridge', 'main.ts');
  return {
    command: process.execPath,
    args: port => [bridge, '--port', String(port), ...args],
    ready: READY_PATH,
  };
}

/** Servers of npm, from where installNpm put them. */
export function npmServers(installed: string): Record<string, Real> {
  const bin = (path: string): string => join(installed, 'node_modules', path);
  const everything = (transport: string): Command => ({
    command: process.execPath,
    args: () => [bin(EVERYTHING), transport],
    env: port => ({ PORT: String(port) }),
  });
  /** A stdio server behind a bridge. */
  const bridged = (server: string, ...args: string[]): Command => ({
    command: process.execPath,
    args: port => [
      bin('supergateway/dist/index.js'),
      '--stdio',
      `${process.execPath} ${bin(server)}`,
      '--port',
      String(port),
      ...args,
    ],
  });
  const facts = { name: 'mcp-servers/everything', protocolVersion: '2025-11-25' };
  const memory = { facts: { name: 'memory-server' }, tools: ['create_entities'] };
  const stdio = [process.execPath, bin(EVERYTHING), 'stdio'];
  return {
    'server-everything behind our bridge, in sessions': { command: ourBridge('--', ...stdio), facts, tools: ['echo'] },
    'server-everything behind our bridge, stateless': {
      command: ourBridge('--stateless', '--', ...stdio),
      facts: { ...facts, protocolVersion: '2026-07-28' },
      tools: ['echo'],
    },
    'server-memory behind our bridge': { command: ourBridge('--', process.execPath, bin(MEMORY)), ...memory },
    'server-everything over Streamable HTTP': { command: everything('streamableHttp'), facts, tools: ['echo'] },
    'server-everything over HTTP+SSE': {
      command: everything('sse'),
      path: '/sse',
      transport: 'sse',
      facts,
      tools: ['echo'],
    },
    'server-everything over a websocket (supergateway)': {
      command: bridged(EVERYTHING, '--outputTransport', 'ws', '--messagePath', '/message'),
      path: '/message',
      transport: 'ws',
      facts,
      tools: ['echo'],
    },
    'server-memory over Streamable HTTP (supergateway, stateless)': {
      command: bridged(MEMORY, '--outputTransport', 'streamableHttp'),
      ...memory,
    },
    'server-memory over Streamable HTTP (supergateway, stateful)': {
      command: bridged(MEMORY, '--outputTransport', 'streamableHttp', '--stateful'),
      ...memory,
    },
    'server-memory over HTTP+SSE (supergateway)': {
      command: bridged(MEMORY, '--outputTransport', 'sse'),
      path: '/sse',
      transport: 'sse',
      ...memory,
    },
  };
}

const JIRA = { JIRA_URL: 'https://jira.example.com', JIRA_PERSONAL_TOKEN: 'x' };

/** mcp-atlassian, by the Python that installPython gave. */
export function atlassian(python: string, env: Record<string, string> = {}): Command {
  const code = 'from mcp_atlassian import main; main()';
  return {
    command: python,
    args: port => [
      '-c',
      code,
      '--transport',
      'streamable-http',
      '--host',
      '127.0.0.1',
      '--port',
      String(port),
      '--path',
      '/mcp',
    ],
    env: () => ({ ...JIRA, ...env }),
  };
}

/** Servers of PyPI, by the Python that installPython gave. */
export function pythonServers(python: string): Record<string, Real> {
  const fastmcp = (mode: string): Command => ({
    command: python,
    args: port => [join(HERE, 'pypi', 'server.py'), String(port), mode],
  });
  const stdio = [python, join(HERE, 'pypi', 'server.py'), '0', 'stdio'];
  const fast = { facts: { name: 'fastmcp-zoo', version: '3.2.1' }, tools: ['count', 'feed'] };
  const jira = { facts: { name: 'Atlassian MCP' }, tools: ['jira_get_issue'] };
  return {
    'FastMCP behind our bridge, in sessions': { command: ourBridge('--', ...stdio), ...fast },
    'FastMCP behind our bridge, stateless': { command: ourBridge('--stateless', '--', ...stdio), ...fast },
    'FastMCP, stateful': { command: fastmcp('http'), ...fast },
    'FastMCP, stateless': { command: fastmcp('stateless'), ...fast },
    'FastMCP, at a path that redirects (Starlette)': { command: fastmcp('http'), path: '/mcp/', ...fast },
    'FastMCP over HTTP+SSE': { command: fastmcp('sse'), path: '/sse', transport: 'sse', ...fast },
    'mcp-atlassian with credentials of its own': {
      command: atlassian(python, { ALLOW_GLOBAL_CRED_FALLBACK: 'true' }),
      ...jira,
    },
    'mcp-atlassian with credentials of the user': {
      command: atlassian(python),
      headers: { authorization: 'Token x' },
      ...jira,
    },
  };
}

const METADATA = '/.well-known/oauth-protected-resource/mcp';
export const ISSUER = 'https://auth.example.com/tenant';

/** A server of the official SDK behind a bearer check, with the metadata of RFC 9728. */
export async function startProtected(token: string): Promise<Proxy> {
  const inner = await startMcp({ era: 'legacy', name: 'protected', tools: ['secret'] });
  const proxy = await startProxy(inner.port, ({ url, headers }, response) => {
    const origin = `http://${headers.host}`;
    if (url === METADATA) {
      const metadata = { resource: `${origin}/mcp`, authorization_servers: [ISSUER], scopes_supported: ['read'] };
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(metadata));
      return true;
    }
    if (headers.authorization === `Bearer ${token}`) return false;
    response.writeHead(401, { 'www-authenticate': `Bearer resource_metadata="${origin}${METADATA}"` }).end();
    return true;
  });
  return {
    ...proxy,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await inner.close();
    },
  };
}
