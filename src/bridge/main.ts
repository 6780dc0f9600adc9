/**
 * The bridge: runs in the Pod of a server that speaks MCP over stdio, starts it, and serves it over Streamable HTTP.
 * `node bridge.mjs [options] -- COMMAND [ARGUMENT…]`
 */

import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { startEndpoint } from './http.ts';
import { inject } from './inject.ts';
import { createLog, type Log } from './log.ts';
import { isRecord, LEGACY } from './messages.ts';
import { answerServer, createPeer, type Peer } from './peer.ts';
import { createPool, type Introduction } from './pool.ts';
import { type Message, startProcess } from './process.ts';
import { createSessions } from './sessions.ts';
import { createStateless } from './stateless.ts';
import { supervise } from './supervise.ts';

const USAGE = `bridge [options] -- COMMAND [ARGUMENT…]
bridge inject FOLDER       copies it, with the Node that it runs on, to where a container of any image can start it

  --port PORT            port to serve at (8000)
  --path PATH            path of MCP (/mcp)
  --stateless            the same processes for all clients, instead of one for each session
  --processes NUMBER     stateless: how many share the requests (1)
  --max-sessions NUMBER  sessions at a time (32)
  --idle SECONDS         how long a session may be idle (900)
  --plain NAME           a variable of the environment that is no secret (again for more)
`;

export interface BridgeOptions {
  command: readonly [string, ...string[]];
  port: number;
  host?: string;
  path: string;
  stateless: boolean;
  /** Stateless: how many. */
  processes: number;
  maxSessions: number;
  idleMs: number;
  /** At the end it serves on until nobody has asked for so long. */
  quietMs: number;
  log: Log;
}

export interface Bridge {
  port: number;
  /** Why the server cannot be used, or undefined. */
  trouble(): string | undefined;
  /** Rejects with why, when it is no use to go on. */
  done: Promise<void>;
  /** Answers what is in hand, ends the server and all connections. */
  stop(): Promise<void>;
}

/** The server's first answer may need packages and caches to be loaded. */
const INITIALIZE_MS = 60_000;
/** At the end of a Pod it takes a moment until nobody is sent to it any more. */
const QUIET_MS = 5_000;
/** What is in hand may take so long at the end: less than the Pod's grace. */
const DRAIN_MS = 15_000;

export async function startBridge(options: BridgeOptions): Promise<Bridge> {
  const { command, port, host, path, log } = options;
  const stopping = new AbortController();
  const { signal } = stopping;

  /** All that run, or end: none outlives the bridge. */
  const peers = new Set<Peer>();
  const close = async (): Promise<void> => void (await Promise.all([...peers].map(peer => peer.end())));

  /** Of any of its processes: why one ended is most likely there. */
  let lastSaid = '';
  const start = (onMessage: (message: Message) => void): Peer => {
    let noise = 0;
    const onLine = (line: string, from: 'stderr' | 'stdout'): void => {
      if (from === 'stdout' && noise++ === 0)
        log.warn('the server says on stdout what is no MCP message: it is logged, and not passed on');
      log.line(line);
      if (/\w/.test(line)) lastSaid = line;
    };
    const peer = createPeer(take => startProcess({ command, onMessage: take, onLine }), onMessage);
    peers.add(peer);
    void peer.ended.then(() => peers.delete(peer));
    return peer;
  };

  /** Starts a server and introduces the bridge to it. */
  async function begin(): Promise<{ peer: Peer; introduction: Introduction }> {
    // Nobody is there whom the server could ask.
    const peer: Peer = start(message => {
      if (!('id' in message)) return;
      const answer =
        message.method === 'ping' ? { result: {} } : { error: { code: -32601, message: 'Method not found' } };
      answerServer(peer, { jsonrpc: '2.0', id: message.id, ...answer });
    });
    try {
      const late = AbortSignal.any([signal, AbortSignal.timeout(INITIALIZE_MS)]);
      const clientInfo = { name: 'personal-connector-bridge', version: packageJson.version };
      const params = { protocolVersion: LEGACY[0], capabilities: {}, clientInfo };
      const answer = await peer.ask({ method: 'initialize', params }, { signal: late }).catch(error => {
        if (!late.aborted || signal.aborted) throw error;
        throw new Error(`it did not answer initialize within ${INITIALIZE_MS / 1000} s`);
      });
      if ('error' in answer) throw new Error(`it answers initialize with an error: ${JSON.stringify(answer.error)}`);
      if (!isRecord(answer.result)) throw new Error('its answer to initialize is no result');
      peer.tell({ jsonrpc: '2.0', method: 'notifications/initialized' });
      return { peer, introduction: answer.result };
    } catch (error) {
      await peer.end();
      throw error;
    }
  }

  const onFailure = (why: string, waitMs: number): void =>
    log.warn(`the server is not there: ${why}; starting it again`, { waitSeconds: waitMs / 1000 });

  /** Some servers for all. */
  function serveStateless() {
    const onSilence = (): void => log.warn('the server does not answer any more: it is ended');
    const { processes: size } = options;
    const pool = createPool({ size, begin, onFailure, onSilence, clean: log.clean, signal });
    return { handler: createStateless(pool), supervisor: pool };
  }

  /** One for each session; whether it answers at all is tried out before the first, and when one did not. */
  function serveSessions() {
    let suspect = Promise.withResolvers<string>();
    const tryOut = async (): Promise<void> => {
      const { peer } = await begin();
      void peer.end();
    };
    /** Resolves when a server does not answer the bridge either: what one client did to its own is no trouble of others. */
    async function doubt(): Promise<string> {
      for (;;) {
        suspect = Promise.withResolvers();
        const why = await suspect.promise;
        if (signal.aborted) return why;
        try {
          await tryOut();
        } catch (error) {
          return error instanceof Error ? error.message : String(error);
        }
      }
    }
    const attempt = async (): Promise<{ over: Promise<string> }> => {
      await tryOut();
      return { over: doubt() };
    };
    const supervisor = supervise({ attempt, onFailure, soundAfterMs: 0, signal });
    const { maxSessions: most, idleMs } = options;
    const handler = createSessions({ start, most, idleMs, onStillborn: why => suspect.resolve(why) });
    return { handler, supervisor };
  }

  const { handler, supervisor } = options.stateless ? serveStateless() : serveSessions();
  const trouble = (): string | undefined => {
    const why = supervisor.trouble();
    return why === undefined ? undefined : log.clean(why);
  };
  const endpoint = await startEndpoint({
    port,
    host,
    path,
    handler,
    trouble,
    onError: error =>
      log.warn(`a request could not be served: ${error instanceof Error ? error.stack : String(error)}`),
  }).catch(async error => {
    supervisor.done.catch(() => {});
    stopping.abort();
    await close();
    throw error;
  });
  return {
    port: endpoint.port,
    trouble,
    done: supervisor.done.catch(async error => {
      await close();
      const why = error instanceof Error ? error.message : String(error);
      throw new Error(`the server is of no use: ${why}${lastSaid && `; it said last: ${lastSaid}`}`);
    }),
    async stop() {
      await endpoint.close({ quietMs: options.quietMs, mostMs: DRAIN_MS });
      stopping.abort();
      await close();
    },
  };
}

function readOptions(args: string[]): Omit<BridgeOptions, 'log'> & { plain: string[] } {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      port: { type: 'string', default: '8000' },
      path: { type: 'string', default: '/mcp' },
      stateless: { type: 'boolean', default: false },
      processes: { type: 'string', default: '1' },
      'max-sessions': { type: 'string', default: '32' },
      idle: { type: 'string', default: '900' },
      plain: { type: 'string', multiple: true, default: [] },
    },
  });
  const [program, ...rest] = positionals;
  if (program === undefined) throw new Error('no command is given');
  const number = (name: 'port' | 'processes' | 'max-sessions' | 'idle'): number => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} ${values[name]}: give a whole number`);
    return value;
  };
  return {
    command: [program, ...rest],
    port: number('port'),
    path: values.path.replace(/(?<=.)\/$/, ''),
    stateless: values.stateless,
    processes: number('processes'),
    maxSessions: number('max-sessions'),
    idleMs: number('idle') * 1000,
    quietMs: QUIET_MS,
    plain: values.plain,
  };
}

if (import.meta.main) {
  let log: Log | undefined;
  try {
    const [command, folder] = process.argv.slice(2);
    if (command === 'inject' && folder !== undefined) {
      inject(folder, fileURLToPath(import.meta.url));
      process.exit(0);
    }
    const { plain, ...options } = readOptions(process.argv.slice(2));
    log = createLog(process.env, plain);
    const starting = startBridge({ ...options, log });
    // From the start: nothing that was started is left behind.
    let isStopping = false;
    const stop = async (signal: string): Promise<void> => {
      if (isStopping) return;
      isStopping = true;
      log?.info('stopping', { signal });
      await (await starting).stop();
      process.exit(0);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
    const bridge = await starting;
    log.info('serving', { port: bridge.port, path: options.path, stateless: options.stateless });
    await bridge.done;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    if (log) log.fatal(why);
    else process.stderr.write(`bridge: ${why}\n\n${USAGE}`);
    process.exit(1);
  }
}
