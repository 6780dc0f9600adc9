/** HTTP to the API server over pooled connections, with the credentials of a kubeconfig or a service account. */

import { readFileSync } from 'node:fs';
import type { RequestOptions } from 'node:https';
import type { KubeConfig } from '@kubernetes/client-node';
import { Agent, type buildConnector, type Dispatcher, ProxyAgent } from 'undici';
import { createConnector, type ResettingSocket } from './connect.ts';
import { ApiError, NotLeading } from './errors.ts';
import { fence } from './fence.ts';

/** Calls share few connections; each watch holds one, so watches have an agent of their own. */
const CALL_CONNECTIONS = 16;
const UNFENCED_CONNECTIONS = 2;
/** How long credentials are trusted before the files they come from are read again (a kubelet renews tokens hourly). */
const CREDENTIALS_TTL_MS = 30_000;
const CALL_TIMEOUT_MS = 30_000;

export interface ApiRequest {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path and query, starting with `/`. */
  path: string;
  body?: unknown;
  contentType?: string;
  /** Absent: the whole of what is asked for, as JSON. */
  accept?: string;
  signal: AbortSignal;
  /** Ends a call earlier than after 30 s. */
  timeoutMs?: number;
  /** For the election itself: sent whether or not this process leads. */
  unfenced?: boolean;
}

export interface Transport {
  /**
   * Sends a request and gives the parsed JSON answer. Throws ApiError on a status ≥ 400, and NotLeading, before a byte
   * is sent, when `mayWrite` forbids it. Ends within 30 s. Sends nothing twice but what a 401 turned away.
   */
  call<T>(request: ApiRequest): Promise<T>;
  /** Opens a long answer; the caller must read it to its end or abort the signal. Throws ApiError on a status ≥ 400. */
  stream(request: ApiRequest): Promise<AsyncIterable<Buffer>>;
  /**
   * Resets the connections of all calls (RST, not FIN): what was sent and has not arrived never will. For who has lost
   * the right to write. A call that ends before it was answered resets its own. Not through an HTTP proxy.
   */
  reset(): void;
  close(): Promise<void>;
}

export interface TransportOptions {
  userAgent: string;
  /** Asked in the moment in which a write goes to its socket, after any wait for a connection. Absent: always. */
  mayWrite?: () => boolean;
  now?: () => number;
  observer?: TransportObserver;
}

export interface TransportObserver {
  /** A request was answered with the status `code`, or with none (undefined). */
  requested(method: ApiRequest['method'], code: number | undefined, seconds: number): void;
}

/** Each has connections of its own: renewals of the Lease (unfenced) do not wait behind other calls. */
const LANES = ['calls', 'watches', 'unfenced'] as const;
type Lane = (typeof LANES)[number];

interface Connection extends Record<Lane, Dispatcher> {
  headers: Record<string, string>;
  /** The TLS material in use, to see when it changed. */
  tls: string;
  readAt: number;
}

/** Makes a transport to the current cluster of a kubeconfig. Throws when the kubeconfig names no cluster. */
export function createTransport(
  kubeConfig: KubeConfig,
  { userAgent, mayWrite = () => true, now = () => performance.now(), observer }: TransportOptions,
): Transport {
  const cluster = kubeConfig.getCurrentCluster();
  if (!cluster) throw new Error('kubeconfig: the current context names no cluster; set one, or set KUBECONFIG');
  const { origin, pathname } = new URL(cluster.server);
  const prefix = pathname.replace(/\/$/, '');
  /** Connections of calls that are open. */
  const sockets = new Set<ResettingSocket>();
  let current: Connection | undefined;
  let pending: Promise<Connection> | undefined;
  let closed = false;

  async function readCredentials(): Promise<Connection> {
    const options: RequestOptions = {};
    await kubeConfig.applyToHTTPSOptions(options);
    const headers = { 'user-agent': userAgent, accept: 'application/json', ...basicAuth(options) } as Record<
      string,
      string
    >;
    for (const [name, value] of Object.entries(options.headers ?? {})) headers[name.toLowerCase()] = String(value);
    // The client library would give a token that it read up to a minute ago.
    const tokenFile: unknown = kubeConfig.getCurrentUser()?.authProvider?.config?.tokenFile;
    if (typeof tokenFile === 'string') headers.authorization = `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`;
    const connect = {
      ca: options.ca,
      cert: options.cert,
      key: options.key,
      servername: options.servername,
      rejectUnauthorized: options.rejectUnauthorized ?? true,
    };
    const tls = JSON.stringify(Object.values(connect).map(String));
    if (current?.tls === tls) return { ...current, headers, readAt: now() };
    const retired = current;
    const agent = (connections: number | null, opened = new Set<ResettingSocket>()): Dispatcher => {
      const pool = { connections, allowH2: false, bodyTimeout: 0, keepAliveTimeout: 60_000 };
      return cluster?.proxyUrl
        ? new ProxyAgent({ ...pool, uri: cluster.proxyUrl, requestTls: connect as never })
        : new Agent({ ...pool, connect: createConnector(connect as buildConnector.BuildOptions, opened) });
    };
    const next = {
      calls: agent(CALL_CONNECTIONS, sockets).compose(fence(mayWrite)),
      watches: agent(null),
      unfenced: agent(UNFENCED_CONNECTIONS, sockets),
      headers,
      tls,
      readAt: now(),
    };
    // Graceful: what is under way ends first. Watches of the retired agent end by their own time limit.
    for (const lane of LANES) void retired?.[lane].close();
    return next;
  }

  async function connection(): Promise<Connection> {
    if (closed) throw new Error('the connection to the API server is closed');
    if (current && now() - current.readAt < CREDENTIALS_TTL_MS) return current;
    pending ??= readCredentials().finally(() => {
      pending = undefined;
    });
    const fresh = await pending;
    if (closed) throw new Error('the connection to the API server is closed');
    current = fresh;
    return fresh;
  }

  /** Makes the next request read the credentials anew: they, or the CA, may have been replaced before our copy ran out. */
  function distrust(used: Connection): void {
    if (current?.readAt === used.readAt) current.readAt = Number.NEGATIVE_INFINITY;
  }

  async function send(request: ApiRequest, lane: Lane, signal: AbortSignal, again = false) {
    const used = await within(signal, connection());
    const start = now();
    const observe = (code?: number): void => observer?.requested(request.method, code, (now() - start) / 1000);
    const response = await within(
      signal,
      used[lane].request({
        origin,
        path: prefix + request.path,
        method: request.method,
        headers: {
          ...used.headers,
          ...(request.accept !== undefined && { accept: request.accept }),
          ...(request.body !== undefined && { 'content-type': request.contentType ?? 'application/json' }),
        },
        body: request.body === undefined ? null : JSON.stringify(request.body),
        signal,
      }),
    ).catch(error => {
      if (!(error instanceof NotLeading)) {
        distrust(used);
        observe();
      }
      throw error;
    });
    observe(response.statusCode);
    if (response.statusCode < 400) return response.body;
    const text = await response.body.text();
    if (response.statusCode === 401) {
      distrust(used);
      // Nothing was done for a request that was turned away at the door.
      const fresh = again ? used : await within(signal, connection());
      if (fresh.headers.authorization !== used.headers.authorization) return send(request, lane, signal, true);
    }
    const retryAfter = response.headers['retry-after'];
    throw new ApiError(
      describe(request),
      response.statusCode,
      text,
      Array.isArray(retryAfter) ? retryAfter[0] : retryAfter,
    );
  }

  return {
    async call<T>(request: ApiRequest): Promise<T> {
      const lane = request.unfenced ? 'unfenced' : 'calls';
      const limit = limited(request.signal, request.timeoutMs ?? CALL_TIMEOUT_MS);
      try {
        const body = await send(request, lane, limit.signal);
        return (await body.json()) as T;
      } catch (cause) {
        if (!(cause instanceof SyntaxError)) throw cause;
        throw new Error(`${describe(request)}: the answer is no JSON`, { cause });
      } finally {
        limit.end();
      }
    },
    stream: request => send(request, 'watches', request.signal),
    reset() {
      for (const socket of sockets) socket.destroy();
    },
    async close() {
      closed = true;
      const closing = current;
      current = undefined;
      const ended = Promise.all(LANES.map(lane => closing?.[lane].destroy()));
      // undici waits for connections that are being made.
      for (const socket of sockets) socket.destroy();
      await ended;
    },
  };
}

/**
 * A signal that aborts with another one or after a time. AbortSignal.any and .timeout would do, but keep 5 KB for each call
 * until its time is over, however early it ended.
 */
function limited(parent: AbortSignal, ms: number): { signal: AbortSignal; end(): void } {
  const limit = new AbortController();
  const late = setTimeout(() => limit.abort(new DOMException('the request took too long', 'TimeoutError')), ms);
  const follow = (): void => limit.abort(parent.reason);
  if (parent.aborted) follow();
  parent.addEventListener('abort', follow, { once: true });
  return {
    signal: limit.signal,
    end() {
      clearTimeout(late);
      parent.removeEventListener('abort', follow);
    },
  };
}

/** Gives a promise up when the signal aborts; undici itself notices only once the request has a connection. */
async function within<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function describe({ method, path }: ApiRequest): string {
  return `${method} ${path.split('?')[0]}`;
}

function basicAuth(options: RequestOptions): { authorization?: string } {
  return options.auth ? { authorization: `Basic ${Buffer.from(options.auth).toString('base64')}` } : {};
}
