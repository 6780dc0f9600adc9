/** A server that speaks MCP over stdio, as a child process: messages in, messages out, and an end that leaves nothing behind. */

import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { CODES, isRecord, parseJson } from './messages.ts';

/** A JSON-RPC message as it came: nothing but the outermost shape is known. */
export type Message = { jsonrpc: '2.0'; [field: string]: unknown };

export interface ServerProcess {
  /** Sends one message; to no avail once the process has ended. */
  send(message: object): void;
  /** Bytes of messages that it has yet to read. */
  backlog(): number;
  /**
   * Closes its stdin, and if that does not end it, sends SIGTERM after 3 s and SIGKILL 3 s later, to it and to all that it
   * started. Resolves when it is gone.
   */
  end(): Promise<void>;
  /** Resolves when it is gone, with how it ended: `it ended with exit code 1`. */
  ended: Promise<string>;
}

export interface ServerProcessOptions {
  /** The program, and what it is given. No shell reads it. */
  command: readonly [string, ...string[]];
  onMessage: (message: Message) => void;
  /** Told of each line of its stderr, and of what on its stdout is no message. */
  onLine: (line: string, from: 'stderr' | 'stdout') => void;
}

/** Larger than any answer that makes sense: images and files come in base64. */
const MAX_MESSAGE_BYTES = 32 * 2 ** 20;
const MAX_LOG_LINE_BYTES = 64 * 1024;
const GRACE_MS = 3_000;
/** For what it has said last, should something that it started keep the pipes open. */
const LAST_WORDS_MS = 500;

export function startProcess({ command, onMessage, onLine }: ServerProcessOptions): ServerProcess {
  const [program, ...args] = command;
  const { promise: ended, resolve } = Promise.withResolvers<string>();
  // With a process group of its own, whatever it starts can be ended with it.
  const mark = `${MARK}=${crypto.randomUUID()}`;
  const env = { ...process.env, [MARK]: mark.slice(MARK.length + 1) };
  const child = spawn(program, args, { stdio: 'pipe', detached: true, env });
  let why: string | undefined;
  let isOver = false;
  let isEnding = false;

  function kill(signal: NodeJS.Signals): void {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      // It is gone.
    }
  }

  child.on('error', error => {
    if (child.pid === undefined) resolve(`it cannot be started: ${error.message}`);
  });
  // No file was left to make its pipes with.
  if (!child.stdin) return { send() {}, backlog: () => 0, async end() {}, ended };
  child.stdin.on('error', () => {}); // It ended: told below.
  // One that does not read or say anything any more is of no use, though it may run on.
  const deaf = (what: string): void => {
    if (isOver || isEnding) return;
    setTimeout(() => {
      if (isOver) return;
      why = `it closed its ${what}`;
      kill('SIGKILL');
    }, LAST_WORDS_MS).unref();
  };
  child.stdin.on('close', () => deaf('stdin'));
  child.stdout.on('end', () => deaf('stdout'));
  child.on('exit', async (code, signal) => {
    isOver = true;
    kill('SIGKILL');
    killMarked(mark);
    const closed = new Promise(done => child.once('close', done));
    await Promise.race([closed, sleep(LAST_WORDS_MS)]);
    child.stdout.destroy();
    child.stderr.destroy();
    resolve(why ?? (signal ? `it was ended by ${signal}` : `it ended with exit code ${code}`));
  });

  const tooLarge = `it sent a message of more than ${MAX_MESSAGE_BYTES / 2 ** 20} MiB`;
  let isSkipping = false;
  readLines(child.stdout, MAX_MESSAGE_BYTES, (line, isWhole) => {
    if (!isWhole || isSkipping) {
      const id = isSkipping ? undefined : idAhead(line);
      if (id !== undefined) onMessage({ jsonrpc: '2.0', id, error: { code: CODES.internal, message: tooLarge } });
      else if (!isSkipping) {
        why = tooLarge;
        kill('SIGKILL');
      }
      isSkipping = !isWhole;
      return;
    }
    const messages = parse(line);
    if (messages) for (const message of messages) onMessage(message);
    else if (line.length > 0) onLine(textOf(line.subarray(0, MAX_LOG_LINE_BYTES)), 'stdout');
  });
  readLines(child.stderr, MAX_LOG_LINE_BYTES, line => onLine(textOf(line), 'stderr'));

  return {
    send(message) {
      if (!isOver && child.stdin.writable) child.stdin.write(`${JSON.stringify(message)}\n`);
    },
    backlog: () => child.stdin.writableLength,
    async end() {
      isEnding = true;
      child.stdin.end();
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        const late = new AbortController();
        const waited = sleep(GRACE_MS, 'late', { signal: late.signal }).catch(() => undefined);
        const isLate = (await Promise.race([ended, waited])) === 'late';
        late.abort();
        if (!isLate) return;
        kill(signal);
      }
      await ended;
    },
    ended,
  };
}

/** In the environment of a server and of all that it starts, whatever group that is in. */
const MARK = 'MCP_BRIDGE_SERVER';

/** Kills what is left of a server. Only Linux tells; elsewhere its own group has to do. */
function killMarked(mark: string): void {
  for (const pid of existsSync('/proc/self/environ') ? readdirSync('/proc') : []) {
    try {
      if (/^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark))
        process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It is gone, or another user's.
    }
  }
}

const NEWLINE = 0x0a;

/** Gives each line; one that is too long in pieces of `most` bytes, of which the last alone is whole. */
function readLines(stream: Readable, most: number, onLine: (line: Buffer, isWhole: boolean) => void): void {
  let parts: Buffer[] = [];
  let size = 0;
  const flush = (isWhole: boolean): void => {
    const [first, ...others] = parts;
    const line = first && others.length === 0 ? first : Buffer.concat(parts);
    parts = [];
    size = 0;
    onLine(line, isWhole);
  };
  stream.on('data', (chunk: Buffer) => {
    for (let rest = chunk; rest.length > 0; ) {
      const end = rest.indexOf(NEWLINE);
      const part = rest.subarray(0, Math.min(end < 0 ? rest.length : end, most - size));
      parts.push(part);
      size += part.length;
      const isWhole = part.length === end;
      if (isWhole || size === most) flush(isWhole);
      rest = rest.subarray(isWhole ? end + 1 : part.length);
    }
  });
  stream.on('end', () => {
    if (size > 0) flush(true);
  });
  stream.on('error', () => {});
}

/** The id of an answer of which only the beginning is there, if it says it first, as most do. */
function idAhead(line: Buffer): number | undefined {
  const [, id] =
    /^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*,/.exec(textOf(line.subarray(0, 200))) ?? [];
  return id === undefined ? undefined : Number(id);
}

/** The messages of a line: one, or since 2025-03-26 and until 2025-06-18 an array of them; undefined if it is none. */
function parse(line: Buffer): Message[] | undefined {
  try {
    const json = parseJson(line.toString());
    const all = Array.isArray(json) ? json : [json];
    return all.every(isMessage) ? all : undefined;
  } catch {
    return undefined;
  }
}

function isMessage(json: unknown): json is Message {
  return isRecord(json) && json.jsonrpc === '2.0';
}

function textOf(line: Buffer): string {
  return line.toString().trimEnd();
}
