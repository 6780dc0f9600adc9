/** JSON-RPC 2.0 as MCP uses it. */

import { NotMcp, type RpcError } from './failure.ts';

export type Message =
  | { kind: 'result'; id: unknown; result: Record<string, unknown>; text: string }
  | { kind: 'error'; id: unknown; error: RpcError }
  | { kind: 'request'; id: unknown; method: string }
  | { kind: 'notification'; method: string };

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET] = [0x7b, 0x7d, 0x5b, 0x5d];
/** Deeper than any answer that makes sense. */
const MAX_DEPTH = 128;
/** Shorter ones are parsed faster than they are searched for their depth. */
const LONG_TEXT = 16 * 1024;

/** What was asked for, and the text that it came in. */
export type Reply = Pick<Message & { kind: 'result' }, 'result' | 'text'>;

/** The messages of a text: one, or since 2025-03-26 and until 2025-06-18 an array of them. Throws NotMcp. */
export function parseMessages(text: string): Message[] {
  if (text.length > LONG_TEXT && isDeep(text)) throw new NotMcp(`its answer is nested deeper than ${MAX_DEPTH}`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new NotMcp('its answer is no JSON');
  }
  return Array.isArray(json) ? json.map(part => parseMessage(part, text)) : [parseMessage(json, text)];
}

/** Whether a JSON text nests deeper than it should: V8 takes 50 times as long for a megabyte of brackets as for tools. */
function isDeep(text: string): boolean {
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) quoted = !quoted;
    else if (code === BACKSLASH) at += 1;
    else if (quoted) continue;
    else if (code === OPEN_BRACE || code === OPEN_BRACKET) depth += 1;
    else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) depth -= 1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
}

function parseMessage(json: unknown, text: string): Message {
  if (!isRecord(json) || json.jsonrpc !== '2.0') throw new NotMcp('its answer is no JSON-RPC message');
  const { id, method, result, error } = json;
  if (typeof method === 'string')
    return 'id' in json ? { kind: 'request', id, method } : { kind: 'notification', method };
  if (isRecord(result) && isAbsent(error)) return { kind: 'result', id, result, text };
  if (isRecord(error) && isAbsent(result) && Number.isInteger(error.code)) {
    const { code, message, data } = error;
    return {
      kind: 'error',
      id,
      error: { code: code as number, message: typeof message === 'string' ? message : '', data },
    };
  }
  throw new NotMcp('its answer is neither a result nor an error of JSON-RPC');
}

/**
 * The answer to a request among messages. An error may come without an id, when the server could not read the request;
 * where the messages answer one request alone, a result for another one is a lie.
 */
export function answerTo(id: number, messages: readonly Message[], alone: boolean): Message | undefined {
  for (const message of messages) {
    if (message.kind === 'request' || message.kind === 'notification') continue;
    // Some servers make a text of it.
    if (message.id === id || message.id === String(id)) return message;
    if (message.kind === 'error' && (message.id === null || message.id === undefined)) return message;
    if (alone) throw new NotMcp('its answer has the id of another request');
  }
  return undefined;
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
