/** HTTP for one probe: guarded, bounded, and remembering what it saw, since an MCP client's errors tell too little. */

import { isIP } from 'node:net';
import { getCACertificates } from 'node:tls';
import { Agent, buildConnector, fetch as undiciFetch } from 'undici';
import { AddressDenied, type Guard } from './guard.ts';

/** All answers of one probe together; lists of a few hundred tools stay below 1 MiB. */
const MAX_PROBE_BYTES = 4 * 1024 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;
/** How much of an error's body is looked at. */
const MAX_ERROR_BODY = 16 * 1024;

/** What the last answer, or the lack of one, looked like. Headers are the server's own words: untrusted. */
export interface Seen {
  status: number | undefined;
  contentType: string;
  location: string;
  wwwAuthenticate: string;
  retryAfter: string;
  /** Body of an answer ≥ 400, at most 16 KiB. */
  errorBody: string;
  /** Why no answer came. */
  error: unknown;
  /** The session that the server opened, and where. */
  session: { id: string; url: string } | undefined;
}

/** An answer that is not read to its end; the message says why, after 'what answers'. */
export class UnreadableAnswer extends Error {
  override name = 'UnreadableAnswer';
}

export interface ExchangeOptions {
  url: string;
  guard: Guard;
  headers: Readonly<Record<string, string>>;
  ca: string | undefined;
  userAgent: string;
  timeoutMs: number;
  signal: AbortSignal;
}

export interface Exchange {
  fetch: typeof globalThis.fetch;
  seen: Seen;
  /** Ends the MCP session that was opened, if any. Waits 2 s at most and never throws. */
  endSession(protocolVersion: string | undefined): Promise<void>;
  close(): Promise<void>;
}

export function openExchange({ url, guard, headers, ca, userAgent, timeoutMs, signal }: ExchangeOptions): Exchange {
  const { origin } = new URL(url);
  const dispatcher = new Agent({
    allowH2: false,
    connections: 2,
    maxResponseSize: MAX_PROBE_BYTES,
    maxHeaderSize: MAX_HEADER_BYTES,
    connect: guardedConnector(guard, ca, timeoutMs),
  });
  const seen: Seen = {
    status: undefined,
    contentType: '',
    location: '',
    wwwAuthenticate: '',
    retryAfter: '',
    errorBody: '',
    error: undefined,
    session: undefined,
  };

  async function send(input: string, init: Parameters<typeof undiciFetch>[1], limit: AbortSignal) {
    const request = new Headers(init?.headers as Record<string, string>);
    request.set('user-agent', userAgent);
    // Nothing is gained by compression here, and a bomb cannot go off.
    request.set('accept-encoding', 'identity');
    for (const [name, value] of Object.entries(headers)) request.set(name, value);
    return undiciFetch(input, {
      ...init,
      headers: [...request],
      redirect: 'manual',
      dispatcher,
      signal: init?.signal ? AbortSignal.any([init.signal, limit]) : limit,
    });
  }

  let received = 0;
  /** Counts what comes in, and breaks off when one probe has read enough. */
  const budget = (): TransformStream<Uint8Array, Uint8Array> =>
    new TransformStream({
      transform(chunk, controller) {
        received += chunk.byteLength;
        if (received <= MAX_PROBE_BYTES) controller.enqueue(chunk);
        else {
          seen.error = new UnreadableAnswer(`it is larger than ${MAX_PROBE_BYTES / 2 ** 20} MiB`);
          controller.error(seen.error);
        }
      },
    });

  async function probeFetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
    // A stream of the server's own messages is no use to a probe, and would stay open: say that there is none.
    if ((init?.method ?? 'GET') === 'GET') return new Response(null, { status: 405 });
    const target = String(input instanceof Request ? input.url : input);
    // The client follows redirects within a host; to another scheme or port of it the secrets would not go along.
    if (new URL(target).origin !== origin) throw new Error(`not followed: ${origin} redirects elsewhere`);
    try {
      const response = await send(target, init as Parameters<typeof undiciFetch>[1], signal);
      seen.error = undefined;
      seen.status = response.status;
      seen.contentType = response.headers.get('content-type') ?? '';
      seen.location = response.headers.get('location') ?? '';
      seen.wwwAuthenticate = response.headers.get('www-authenticate') ?? '';
      seen.retryAfter = response.headers.get('retry-after') ?? '';
      const sessionId = response.headers.get('mcp-session-id');
      if (sessionId) seen.session = { id: sessionId, url: target };
      seen.errorBody = '';
      const encoding = response.headers.get('content-encoding') ?? 'identity';
      if (encoding !== 'identity') {
        throw new UnreadableAnswer(`it is encoded (${encoding}) although that was not accepted`);
      }
      const { body: stream, status, headers: answered } = response;
      const bounded = new Response(stream && (stream as ReadableStream<Uint8Array>).pipeThrough(budget()), {
        status,
        headers: [...answered],
      });
      if (status < 400) return bounded;
      const body = (await bounded.text()).slice(0, MAX_ERROR_BODY);
      seen.errorBody = body;
      return new Response(body, { status, headers: [...answered] });
    } catch (error) {
      seen.error = error;
      throw error;
    }
  }

  return {
    fetch: probeFetch as typeof globalThis.fetch,
    seen,
    async endSession(protocolVersion) {
      if (!seen.session) return;
      const answer = await send(
        seen.session.url,
        {
          method: 'DELETE',
          headers: {
            'mcp-session-id': seen.session.id,
            ...(protocolVersion && { 'mcp-protocol-version': protocolVersion }),
          },
        },
        AbortSignal.timeout(2_000),
      ).catch(() => undefined);
      await answer?.body?.cancel().catch(() => {});
    },
    close: () => dispatcher.destroy(),
  };
}

/** Dials only what the guard lets pass: literals are judged as they stand, names by the addresses they resolve to. */
function guardedConnector(guard: Guard, ca: string | undefined, timeout: number): buildConnector.connector {
  const tls = ca === undefined ? {} : { ca: [...getCACertificates('default'), ca] };
  const lookup = (host: string, options: { all?: boolean }, done: (...answer: unknown[]) => void): void => {
    guard.resolve(host).then(
      addresses => {
        const answers = addresses.map(address => ({ address, family: isIP(address) }));
        if (options.all) done(null, answers);
        else done(null, answers[0]?.address, answers[0]?.family);
      },
      error => done(error),
    );
  };
  const connect = buildConnector({ ...tls, timeout, lookup: lookup as never });
  return (options, callback) => {
    const denied = guard.denyLiteral(options.hostname);
    if (denied) callback(new AddressDenied(denied), null);
    else connect(options, callback);
  };
}
