/** What a probe can run into; errors of sockets, names and certificates keep their own codes beside these. */

export interface RpcError {
  code: number;
  message: string;
  data: unknown;
}

/** An answer that is no result: an HTTP status that is none of success, or a JSON-RPC error. All of it is untrusted. */
export class Refused extends Error {
  override name = 'Refused';
  readonly status: number;
  readonly rpc: RpcError | undefined;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(status: number, headers: Readonly<Record<string, string>>, rpc?: RpcError) {
    super(rpc ? `HTTP ${status}, JSON-RPC error ${rpc.code}` : `HTTP ${status}`);
    this.status = status;
    this.rpc = rpc;
    this.#headers = headers;
  }

  /** Empty when the answer has no such header. */
  header(name: string): string {
    return this.#headers[name] ?? '';
  }
}

/** What answers does not speak MCP; the message says why, after 'what answers'. */
export class NotMcp extends Error {
  override name = 'NotMcp';
}

/** The server and this client have no revision of the protocol in common; the message names those of the server. */
export class VersionMismatch extends Error {
  override name = 'VersionMismatch';
}

/** A redirect that is not followed. */
export class Redirected extends Error {
  override name = 'Redirected';
  /** Without its query, which may hold secrets. */
  readonly to: string;

  constructor(to: string) {
    super(`redirected to ${to}`);
    this.to = to;
  }
}

/** Codes of connections that broke, and were there before. */
export const RESETS = new Set([
  'ECONNRESET',
  'UND_ERR_SOCKET',
  'EPIPE',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'ECONNABORTED',
]);

/** Whether it is what the other side of a TLS connection says when it ends it: with TLS 1.3 also after the handshake. */
export function isTlsAlert(code: string | undefined): boolean {
  return /^ERR_SSL_.*ALERT/.test(code ?? '');
}

/** Whether a connection broke that was there. */
export function isReset(error: unknown): boolean {
  return [...causes(error)].some(cause => RESETS.has(String((cause as { code?: unknown }).code)));
}

/** The error, its causes, and the parts of aggregate errors (one per address that was tried). */
export function* causes(error: unknown, depth = 0): Generator<object> {
  if (typeof error !== 'object' || error === null || depth > 5) return;
  yield error;
  if (error instanceof AggregateError) for (const part of error.errors) yield* causes(part, depth + 1);
  yield* causes((error as { cause?: unknown }).cause, depth + 1);
}
