/** A bridge in this process, before a server that does as it is told, and a client that sees each byte of HTTP. */

import { readdir, readFile } from 'node:fs/promises';
import { Agent, request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { createParser } from 'eventsource-parser';
import { it } from 'vitest';
import { createLog } from '../../../src/bridge/log.ts';
import { type Bridge, type BridgeOptions, startBridge } from '../../../src/bridge/main.ts';

const SERVER = join(import.meta.dirname, '..', '..', 'support', 'stdio-server.ts');

export interface Started extends Bridge, AsyncDisposable {
  /** All that was logged. */
  logged: string[];
  client: Client;
}

/** Starts one, and waits until its server has answered unless that is not to be expected. */
export async function start({
  habit = 'none',
  env = {},
  awaited = true,
  ...options
}: Partial<BridgeOptions> & { habit?: string; env?: NodeJS.ProcessEnv; awaited?: boolean } = {}): Promise<Started> {
  const logged: string[] = [];
  const log = createLog(env, [], text => void logged.push(text));
  const bridge = await startBridge({
    command: [process.execPath, SERVER, habit],
    port: 0,
    host: '127.0.0.1',
    path: '/mcp',
    stateless: false,
    processes: 1,
    maxSessions: 4,
    idleMs: 60_000,
    quietMs: 0,
    log,
    ...options,
  });
  bridge.done.catch(() => {});
  if (awaited) await until(() => bridge.trouble() === undefined);
  const client = createClient(bridge.port);
  const stop = async (): Promise<void> => {
    client.close();
    await bridge.stop();
  };
  return { ...bridge, logged, client, [Symbol.asyncDispose]: stop };
}

/** Waits for what no event tells; the test's own time limit ends it. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise(resolve => setTimeout(resolve, 5));
}

/** What looks at processes by /proc; elsewhere they are skipped: the bridge runs on Linux only. */
export const onLinux = it.skipIf(process.platform !== 'linux');

/** Whether a process is there; one that has ended and that nobody has asked for is not. */
export async function isAlive(pid: number): Promise<boolean> {
  const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  return state !== undefined && !/\) Z /.test(state);
}

/** The processes that a process has started. */
export async function childrenOf(pid: number): Promise<number[]> {
  const tasks = `/proc/${pid}/task`;
  const lists = (await readdir(tasks)).map(task => readFile(join(tasks, task, 'children'), 'utf8').catch(() => ''));
  return (await Promise.all(lists)).join(' ').split(' ').filter(Boolean).map(Number);
}

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** Of a JSON body, or all events of a stream. */
  messages: Message[];
  text: string;
}

// biome-ignore lint/suspicious/noExplicitAny: answers are what a test looks into
export type Message = Record<string, any>;

export interface Client {
  /** Sends a message, or bytes; `onMessage` is told of each message of a stream as it comes. */
  post(
    message: object | string,
    headers?: Record<string, string>,
    options?: { onMessage?: (message: Message) => void; signal?: AbortSignal },
  ): Promise<Answer>;
  send(
    method: string,
    headers?: Record<string, string>,
    options?: { path?: string; body?: string; onMessage?: (message: Message) => void; signal?: AbortSignal },
  ): Promise<Answer>;
  /** Begins a session and gives its header. */
  initialize(params?: object): Promise<{ session: Record<string, string>; answer: Answer }>;
  /** Calls a tool and gives what it returned. */
  call(session: Record<string, string>, name: string, args?: object): Promise<unknown>;
  close(): void;
}

export const INITIALIZE = {
  protocolVersion: '2025-11-25',
  capabilities: { sampling: {} },
  clientInfo: { name: 'test', version: '1' },
};
const BOTH = { 'content-type': 'application/json', accept: 'application/json, text/event-stream' };
let ids = 0;
export const rpc = (
  method: string,
  params?: object,
): { jsonrpc: '2.0'; id: number; method: string; params?: object } => ({
  jsonrpc: '2.0',
  id: ++ids,
  method,
  ...(params && { params }),
});
export const calling = (name: string, args: object = {}, meta?: object) =>
  rpc('tools/call', { name, arguments: args, ...(meta && { _meta: meta }) });

function createClient(port: number): Client {
  const agent = new Agent({ keepAlive: true });
  const client: Client = {
    send: (method, headers = {}, { path = '/mcp', body, onMessage, signal } = {}) =>
      new Promise((resolve, reject) => {
        const request = httpRequest({ port, host: '127.0.0.1', path, method, headers, agent, signal }, response => {
          const messages: Message[] = [];
          let text = '';
          const take = (message: Message): void => {
            messages.push(message);
            onMessage?.(message);
          };
          const parser = createParser({ onEvent: ({ data }) => take(JSON.parse(data)) });
          const isStream = response.headers['content-type'] === 'text/event-stream';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => {
            text += chunk;
            if (isStream) parser.feed(chunk);
          });
          response.on('error', reject);
          response.on('end', () => {
            if (response.headers['content-type'] === 'application/json') take(JSON.parse(text));
            resolve({ status: response.statusCode ?? 0, headers: response.headers, messages, text });
          });
        });
        request.on('error', reject);
        request.end(body);
      }),
    post: (message, headers = {}, options = {}) =>
      client.send(
        'POST',
        { ...BOTH, ...headers },
        { ...options, body: typeof message === 'string' ? message : JSON.stringify(message) },
      ),
    async initialize(params = INITIALIZE) {
      const answer = await client.post(rpc('initialize', params));
      const session = { 'mcp-session-id': String(answer.headers['mcp-session-id']) };
      await client.post({ jsonrpc: '2.0', method: 'notifications/initialized' }, session);
      return { session, answer };
    },
    async call(session, name, args = {}) {
      const { messages } = await client.post(calling(name, args), session);
      return messages.at(-1)?.result?.value;
    },
    close: () => agent.destroy(),
  };
  return client;
}
