/** JSON-RPC 2.0 as MCP uses it. */

import { NotMcp, type RpcError } from './failure.ts';

export type Message =
  | { kind: 'result'; id: unknown; result: Record<string, unknown> }
  | { kind: 'error'; id: unknown; error: RpcError }
  | { kind: 'request'; id: unknown; method: string }
  | { kind: 'notification'; method: string };

/** The messages of a text: one, or since 2025-03-26 and until 2025-06-18 an array of them. Throws NotMcp. */
export function parseMessages(text: string): Message[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new NotMcp('its answer is no JSON');
  }
  return (Array.isArray(json) ? json : [json]).map(parseMessage);
}

function parseMessage(json: unknown): Message {
  if (!isRecord(json) || json.jsonrpc !== '2.0') throw new NotMcp('its answer is no JSON-RPC message');
  const { id, method, result, error } = json;
  if (typeof method === 'string')
    return 'id' in json ? { kind: 'request', id, method } : { kind: 'notification', method };
  if (isRecord(result) && error === undefined) return { kind: 'result', id, result };
  if (isRecord(error) && result === undefined && Number.isInteger(error.code)) {
    const { code, message, data } = error;
    return { kind: 'error', id, error: { code: code as number, message: String(message ?? ''), data } };
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
    if (message.id === id) return message;
    if (message.kind === 'error' && (message.id === null || message.id === undefined)) return message;
    if (alone) throw new NotMcp('its answer has the id of another request');
  }
  return undefined;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
