/**
 * A server that speaks MCP over stdio, and does as its tools are told: a child of the bridge in tests. Its first argument
 * may name a habit that it has from the start.
 */
import { spawn } from 'node:child_process';
import { closeSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

interface Message {
  id?: unknown;
  method?: string;
  params?: {
    name?: string;
    arguments?: Record<string, unknown>;
    _meta?: { progressToken?: unknown };
    requestId?: unknown;
  };
  result?: unknown;
  error?: unknown;
}

const [habit] = process.argv.slice(2);
const send = (message: object): void =>
  void process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
const say = (text: string): void => void process.stderr.write(`${text}\n`);
/** What the server asked the client, and who waits for the answer. */
const asked = new Map<unknown, (answer: Message) => void>();
/** Calls that can be cancelled, by id. */
const cancelled = new Map<unknown, () => void>();
let count = 0;
let level: unknown;

if (habit === 'exits') {
  say('cannot find what I need');
  process.exit(3);
}
if (habit === 'stubborn') process.on('SIGTERM', () => say('not yet'));
if (habit === 'mute') setInterval(() => {}, 60_000);
const SLOW_MS = 6_000;

/** Without an event loop that could read in between. */
function writeAll(text: string): void {
  for (let rest = Buffer.from(text); rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
  }
}

const tools: Record<string, (args: Record<string, unknown>, call: Message) => unknown> = {
  echo: args => args,
  count: () => ++count,
  pid: () => process.pid,
  level: () => level ?? null,
  exit: () => process.exit(1),
  noise: args => {
    process.stdout.write('this is no message\n');
    say(String(args.text));
    return null;
  },
  large: (args, { params }) => {
    const { progressToken } = params?._meta ?? {};
    if (progressToken !== undefined) send({ method: 'notifications/progress', params: { progressToken, progress: 1 } });
    return 'x'.repeat(Number(args.size));
  },
  /** Starts a process that outlives its parent's stdin. */
  spawn: ({ detached }) => {
    const options = { stdio: 'ignore', detached: detached === true } as const;
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 60_000)'], options);
    return child.pid;
  },
  /** Half a message, and the end. */
  half: () => {
    writeSync(1, '{"jsonrpc":"2.0","id":');
    process.exit(1);
  },
  ask: async args => {
    const answered = new Promise<Message>(resolve => asked.set('q-1', resolve));
    send({ id: 'q-1', method: String(args.method), params: { of: 'the server' } });
    const { result, error } = await answered;
    return { result, error };
  },
  tell: args => {
    send({ method: String(args.method), params: { from: 'the server' } });
    return null;
  },
  progress: (_args, { params }) => {
    const { progressToken } = params?._meta ?? {};
    for (const progress of [1, 2]) send({ method: 'notifications/progress', params: { progressToken, progress } });
    return progressToken;
  },
  /** Asks more than anybody can answer, and reads nothing meanwhile. */
  flood: () => {
    const ask = `${JSON.stringify({ jsonrpc: '2.0', id: 'x'.repeat(60_000), method: 'sampling/createMessage' })}\n`;
    for (let at = 0; at < 600; at++) writeAll(ask);
    return null;
  },
  /** Answers nobody any more. */
  hang: () => {
    for (;;);
  },
  /** Never ends, unless it is cancelled. */
  wait: (_args, { id }) =>
    new Promise(resolve => {
      cancelled.set(id, () => {
        count += 1;
        resolve(null);
      });
    }),
};

/** Answers as no server should. */
const odd: Record<string, (id: unknown) => void> = {
  empty: id => send({ id }),
  null: id => send({ id, result: null }),
  list: id => send({ id, result: [1] }),
  batch: id => void process.stdout.write(`${JSON.stringify([{ jsonrpc: '2.0', id, result: { a: 1 } }])}\n`),
  unknown: id => send({ id, error: { code: -32601, message: 'no such tool' } }),
  anonymous: () => send({ id: null, error: { code: -32700, message: 'what?' } }),
  exact: id => void process.stdout.write(`{"jsonrpc":"2.0","id":${id},"result":{"n":12345678901234567890}}\n`),
  deaf: () => closeSync(1),
  endless: () => void process.stdout.write(`{"x":"${'x'.repeat(2 ** 25)}`),
};

async function answer(message: Message): Promise<void> {
  const { id, method, params = {} } = message;
  switch (method) {
    case undefined:
      asked.get(id)?.(message);
      return;
    case 'notifications/cancelled':
      cancelled.get(params.requestId)?.();
      return;
    case 'initialize': {
      if (habit === 'mute') return;
      if (habit === 'slow') await new Promise(resolve => setTimeout(resolve, SLOW_MS));
      if (habit === 'refuses') return send({ id, error: { code: -32000, message: 'not today' } });
      const { protocolVersion } = params as { protocolVersion?: string };
      const capabilities = { tools: { listChanged: true }, logging: {}, resources: { subscribe: true } };
      const serverInfo = { name: 'fixture', version: '1.0.0' };
      return send({
        id,
        result: { protocolVersion, capabilities, serverInfo, instructions: 'Be kind.', asked: params },
      });
    }
    case 'tools/list':
      return send({
        id,
        result: { tools: [{ name: 'echo', inputSchema: { type: 'object' }, 'x-own': 1 }], odd: true },
      });
    case 'logging/setLevel':
      level = (params as { level?: unknown }).level;
      return send({ id, result: {} });
    case 'tools/call': {
      if (params.name === 'answer') return odd[String(params.arguments?.kind)]?.(id);
      const value = await tools[params.name ?? '']?.(params.arguments ?? {}, message);
      return send({ id, result: { content: [], value, meta: params._meta } });
    }
    default:
      if (id !== undefined) send({ id, error: { code: -32601, message: `no ${method}`, data: { params } } });
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', line => void answer(JSON.parse(line) as Message));
lines.on('close', () => {
  if (habit !== 'stubborn') process.exit(0);
  setInterval(() => {}, 60_000);
});
