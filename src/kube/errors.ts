/** The longest that a server's Retry-After is heeded: one that asks for a day would stop us for a day. */
const MOST_RETRY_AFTER_MS = 300_000;

/** What the API server said, from the Status object of its answer; never the request, its headers or its raw body. */
export class ApiError extends Error {
  override name = 'ApiError';
  /** HTTP status. */
  readonly status: number;
  /** `reason` of the Status object, such as NotFound, Conflict, Invalid; empty when the answer was no Status. */
  readonly reason: string;
  /** How long the server asks to be left alone, from Retry-After in seconds or as a date; 5 minutes at most. */
  readonly retryAfterMs: number | undefined;

  constructor(request: string, status: number, body: string, retryAfter?: string) {
    const parsed = parseStatus(body);
    super(`${request}: ${status} ${parsed.message ?? parsed.reason ?? 'without a message'}`);
    this.status = status;
    this.reason = parsed.reason ?? '';
    this.retryAfterMs = parseRetryAfter(retryAfter);
  }
}

/** The process may not write any more (or not yet): it does not hold the Lease. */
export class NotLeading extends Error {
  override name = 'NotLeading';
}

export const isNotFound = (error: unknown): error is ApiError => error instanceof ApiError && error.status === 404;
/** Another version or another object is there: a resourceVersion or UID did not match, or a name is taken. */
export const isConflict = (error: unknown): error is ApiError => error instanceof ApiError && error.status === 409;
/** The list or watch cannot go on from the given resourceVersion (410 Gone). */
export const isExpired = (error: unknown): error is ApiError => error instanceof ApiError && error.status === 410;
/** The object breaks a rule of the API: sending it again cannot help. */
export const isInvalid = (error: unknown): error is ApiError =>
  error instanceof ApiError && (error.status === 400 || error.status === 422);
export const isForbidden = (error: unknown): error is ApiError => error instanceof ApiError && error.status === 403;
/** Whether trying again may help: the server is busy or broken, or was not reached. */
export const isTransient = (error: unknown): boolean =>
  !(error instanceof NotLeading) && (!(error instanceof ApiError) || error.status === 429 || error.status >= 500);

/** How long the server asked to be left alone, in ms; 0 if it did not. */
export function retryAfterOf(error: unknown): number {
  return error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
}

/** One line for logs and conditions: the message, with the cause where there is one. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = (error as { code?: unknown }).code;
  const cause =
    error.cause instanceof Error && error.cause.message !== error.message ? ` (${error.cause.message})` : '';
  return `${typeof code === 'string' && !error.message.includes(code) ? `${code}: ` : ''}${error.message}${cause}`;
}

function parseStatus(body: string): { message?: string; reason?: string } {
  try {
    const { message, reason } = JSON.parse(body) as { message?: unknown; reason?: unknown };
    return {
      ...(typeof message === 'string' && { message: message.slice(0, 2048) }),
      ...(typeof reason === 'string' && { reason }),
    };
  } catch {
    return {};
  }
}

function parseRetryAfter(header: string | undefined): number | undefined {
  if (!header) return undefined;
  // Date.parse finds a date in much that is none, such as -1.
  const date = header.endsWith('GMT') ? Date.parse(header) - Date.now() : Number.NaN;
  const ms = /^\d+(\.\d+)?$/.test(header) ? Number(header) * 1000 : date;
  return Number.isNaN(ms) ? undefined : Math.min(MOST_RETRY_AFTER_MS, Math.max(0, ms));
}
