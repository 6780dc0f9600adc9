/** What the API server said, from the Status object of its answer; never the request, its headers or its raw body. */
export class ApiError extends Error {
  override name = 'ApiError';
  /** HTTP status. */
  readonly status: number;
  /** `reason` of the Status object, such as NotFound, Conflict, Invalid; empty when the answer was no Status. */
  readonly reason: string;
  /** Whole milliseconds that the server asks to wait, from Retry-After. */
  readonly retryAfterMs: number | undefined;

  constructor(request: string, status: number, body: string, retryAfter?: string) {
    const parsed = parseStatus(body);
    super(`${request}: ${status} ${parsed.message ?? parsed.reason ?? 'without a message'}`);
    this.status = status;
    this.reason = parsed.reason ?? '';
    const seconds = Number(retryAfter);
    this.retryAfterMs = retryAfter && Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
  }
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
