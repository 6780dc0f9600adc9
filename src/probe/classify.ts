/** Turns what a probe ran into into an outcome, from what was seen on the wire. */

import { authorizationOf } from './authorization.ts';
import { InvalidCa, ProxyRefused } from './dial.ts';
import { causes, NotMcp, RESETS, Redirected, Refused, VersionMismatch } from './failure.ts';
import { AddressDenied, DnsFailure } from './guard.ts';
import type { Outcome } from './outcome.ts';
import type { Target } from './target.ts';
import { cleanText } from './text.ts';

/** Where the statuses that are no MCP answer point to something else than a server of another kind. */
const REFUSALS = new Set([402, 403, 404, 407, 408, 410, 421, 451]);
const INTERNAL_ERROR = -32603;
/** Headers or capabilities that a modern server misses in a request. */
const UNMET = new Set([-32020, -32021]);
const LONGEST_WAIT_MS = 24 * 3_600_000;

const UNREADABLE = new Set(['UND_ERR_HEADERS_OVERFLOW', 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH', 'UND_ERR_RESPONSE']);

export function classify(error: unknown, { timeoutMs }: Pick<Target, 'timeoutMs'>, deadline: AbortSignal): Outcome {
  if (deadline.reason instanceof NotMcp) return { kind: 'not-mcp', why: deadline.reason.message };
  if (deadline.aborted) return { kind: 'timeout', afterMs: timeoutMs };
  if (error instanceof NotMcp) return { kind: 'not-mcp', why: error.message };
  if (error instanceof VersionMismatch) return { kind: 'protocol-mismatch', why: error.message };
  if (error instanceof Redirected) return { kind: 'redirected', to: error.to };
  if (error instanceof Refused) return classifyRefusal(error);
  for (const cause of causes(error)) {
    const outcome = classifyNetwork(cause, timeoutMs);
    if (outcome) return outcome;
  }
  return { kind: 'broken', why: told(error) };
}

function classifyRefusal(refused: Refused): Outcome {
  const { status, rpc } = refused;
  const authorization = authorizationOf(refused);
  if (authorization) return authorization;
  if (status === 429) return { kind: 'rate-limited', ...patienceFor(refused) };
  if (status < 500 && /already initialized/i.test(rpc?.message ?? '')) return { kind: 'busy' };
  if (status >= 500 || REFUSALS.has(status)) return { kind: 'http-error', status, ...patienceFor(refused) };
  if (rpc?.code === INTERNAL_ERROR) return { kind: 'http-error', status: 500 };
  if (rpc && UNMET.has(rpc.code))
    return { kind: 'protocol-mismatch', why: `it wants what the operator does not send (JSON-RPC error ${rpc.code})` };
  if (rpc) return { kind: 'not-mcp', why: `it refuses to begin a conversation (JSON-RPC error ${rpc.code})` };
  return { kind: 'not-mcp', why: `it answers ${status} to an MCP request` };
}

function classifyNetwork(cause: object, timeoutMs: number): Outcome | undefined {
  if (cause instanceof ProxyRefused) return { kind: 'broken', why: cause.message };
  if (cause instanceof InvalidCa) return { kind: 'credentials-missing', why: `spec.probe.caBundle: ${cause.message}` };
  if (cause instanceof DnsFailure) return { kind: 'dns', code: cause.code };
  if (cause instanceof AddressDenied) return { kind: 'address-denied', why: cause.message };
  const { name, code } = cause as { name?: unknown; code?: unknown };
  if (name === 'HTTPParserError') return { kind: 'not-mcp', why: 'its answer is not HTTP' };
  if (name === 'TimeoutError') return { kind: 'timeout', afterMs: timeoutMs };
  if (typeof code !== 'string') return undefined;
  if (code === 'ECONNREFUSED') return { kind: 'refused' };
  if (RESETS.has(code) || code.startsWith('WS_CLOSED_')) return { kind: 'reset', code };
  // By the kernel, before our own time was over.
  if (code === 'ETIMEDOUT') return { kind: 'timeout', afterMs: timeoutMs };
  if (UNREADABLE.has(code)) return { kind: 'not-mcp', why: `its answer is too large or malformed (${code})` };
  if (code.startsWith('HPE_')) return { kind: 'not-mcp', why: 'its answer is not HTTP' };
  if (
    /CERT|^ERR_SSL_|^ERR_TLS_|SELF_SIGNED|UNABLE_TO_|EPROTO|CRL|^INVALID_|PATH_LENGTH|HOSTNAME|^UNSPECIFIED$/.test(code)
  )
    return { kind: 'tls', code };
  return undefined;
}

/** What went wrong at the bottom of it. */
function told(error: unknown): string {
  const [deepest] = [...causes(error)].reverse();
  const { message: text = String(error), code } = (deepest ?? {}) as { message?: string; code?: unknown };
  return cleanText(typeof code === 'string' && !text.includes(code) ? `${code}: ${text}` : text, 256);
}

/** How long the server wants to be left alone, if it says so. */
export function patienceFor(refused: Refused): { retryAfterMs?: number } {
  const ms = [429, 503].includes(refused.status) ? retryAfterMs(refused.header('retry-after')) : undefined;
  return ms === undefined ? {} : { retryAfterMs: ms };
}

/** Retry-After in ms, from seconds or an HTTP date; at most a day. */
export function retryAfterMs(header: string, now = Date.now()): number | undefined {
  if (header === '') return undefined;
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(wait) && wait >= 0 ? Math.min(wait, LONGEST_WAIT_MS) : undefined;
}
