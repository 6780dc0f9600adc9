/** What clients send: single JSON-RPC messages, and the errors that they get for what makes no sense. */

export interface ClientRequest {
  kind: 'request';
  id: string | number;
  method: string;
  params: Record<string, unknown> | undefined;
}

export interface ClientNotification {
  kind: 'notification';
  method: string;
  params: Record<string, unknown> | undefined;
}

/** An answer to a request of the server. */
export interface ClientResponse {
  kind: 'response';
}

export type ClientMessage = (ClientRequest | ClientNotification | ClientResponse) & {
  /** As it came. */
  raw: object;
};

/** An answer of the bridge itself: an HTTP status, and a JSON-RPC error that says why. */
export class Refusal extends Error {
  override name = 'Refusal';
  readonly status: number;
  readonly code: number;
  readonly data: unknown;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: number,
    message: string,
    { data, headers = {} }: { data?: unknown; headers?: Record<string, string> } = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.data = data;
    this.headers = headers;
  }
}

/** Codes of JSON-RPC, and of MCP (2026-07-28, Error Codes). */
export const CODES = {
  parse: -32700,
  invalidRequest: -32600,
  methodNotFound: -32601,
  invalidParams: -32602,
  internal: -32603,
  server: -32000,
  sessionNotFound: -32001,
  headerMismatch: -32020,
  unsupportedVersion: -32022,
} as const;

/** Revisions that begin with an `initialize`, newest first. */
export const LEGACY: readonly string[] = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05', '2024-10-07'];
/** Revisions in which each request says all that there is to know. */
export const MODERN: readonly string[] = ['2026-07-28'];

/**
 * JSON whose integers stay as they are written, also where a double cannot hold them; of fractions nobody expects more.
 * Throws SyntaxError.
 */
export function parseJson(text: string): unknown {
  if (!/(?<![\d.])\d{16}|\d[eE]\+?\d{3}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_key, value: unknown, { source }: { source?: string } = {}) =>
    typeof value === 'number' && source !== undefined && String(value) !== source ? RawJson.rawJSON(source) : value,
  );
}

/** Newer than the types. */
const RawJson = JSON as unknown as { rawJSON(text: string): unknown };

/** Reads one message. Throws Refusal. */
export function readMessage(text: string): ClientMessage {
  let json: unknown;
  try {
    json = parseJson(text);
  } catch {
    throw new Refusal(400, CODES.parse, 'the body is no JSON');
  }
  if (Array.isArray(json))
    throw new Refusal(400, CODES.invalidRequest, 'send one message at a time: batches are not served');
  if (!isRecord(json) || json.jsonrpc !== '2.0')
    throw new Refusal(400, CODES.invalidRequest, 'the body is no JSON-RPC 2.0 message');
  const { id, method } = json;
  const params = json.params ?? undefined;
  if (params !== undefined && !isRecord(params))
    throw new Refusal(400, CODES.invalidRequest, 'params must be an object');
  if (typeof method === 'string') {
    if (id === undefined) return { kind: 'notification', method, params, raw: json };
    if (typeof id === 'string' || typeof id === 'number') return { kind: 'request', id, method, params, raw: json };
  } else if ((typeof id === 'string' || typeof id === 'number') && ('result' in json || 'error' in json)) {
    return { kind: 'response', raw: json };
  }
  throw new Refusal(400, CODES.invalidRequest, 'the body is neither a request nor a notification nor a response');
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
