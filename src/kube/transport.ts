/** HTTP to the API server over pooled connections, with the credentials of a kubeconfig or a service account. */

import type { RequestOptions } from 'node:https';
import type { KubeConfig } from '@kubernetes/client-node';
import { Agent, type Dispatcher, ProxyAgent } from 'undici';
import { ApiError } from './errors.ts';

/** Calls share few connections; each watch holds one, so watches have an agent of their own. */
const CALL_CONNECTIONS = 16;
/** How long credentials are trusted before the files they come from are read again (a kubelet renews tokens hourly). */
const CREDENTIALS_TTL_MS = 30_000;
const CALL_TIMEOUT_MS = 30_000;

export interface ApiRequest {
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** Path and query, starting with `/`. */
  path: string;
  body?: unknown;
  contentType?: string;
  signal: AbortSignal;
}

export interface Transport {
  /** Sends a request and gives the parsed JSON answer. Throws ApiError on a status ≥ 400. Ends within 30 s. */
  call<T>(request: ApiRequest): Promise<T>;
  /** Opens a long answer; the caller must read it to its end or abort the signal. Throws ApiError on a status ≥ 400. */
  stream(request: ApiRequest): Promise<AsyncIterable<Buffer>>;
  close(): Promise<void>;
}

interface Connection {
  calls: Dispatcher;
  watches: Dispatcher;
  headers: Record<string, string>;
  /** The TLS material in use, to see when it changed. */
  tls: string;
  readAt: number;
}

/** Makes a transport to the current cluster of a kubeconfig. Throws when the kubeconfig names no cluster. */
export function createTransport(kubeConfig: KubeConfig, userAgent: string, now = Date.now): Transport {
  const cluster = kubeConfig.getCurrentCluster();
  if (!cluster) throw new Error('kubeconfig: the current context names no cluster; set one, or set KUBECONFIG');
  const { origin, pathname } = new URL(cluster.server);
  const prefix = pathname.replace(/\/$/, '');
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
    const agent = (connections: number | null): Dispatcher => {
      const pool = { connections, allowH2: false, bodyTimeout: 0, keepAliveTimeout: 60_000 };
      return cluster?.proxyUrl
        ? new ProxyAgent({ ...pool, uri: cluster.proxyUrl, requestTls: connect as never })
        : new Agent({ ...pool, connect: connect as never });
    };
    const next = { calls: agent(CALL_CONNECTIONS), watches: agent(null), headers, tls, readAt: now() };
    // Graceful: what is under way ends first. Watches of the retired agent end by their own time limit.
    void retired?.calls.close();
    void retired?.watches.close();
    return next;
  }

  async function connection(): Promise<Connection> {
    if (closed) throw new Error('the connection to the API server is closed');
    if (current && now() - current.readAt < CREDENTIALS_TTL_MS) return current;
    pending ??= readCredentials().finally(() => {
      pending = undefined;
    });
    current = await pending;
    return current;
  }

  async function send(request: ApiRequest, kind: 'calls' | 'watches', signal: AbortSignal) {
    const { [kind]: dispatcher, headers } = await connection();
    const response = await dispatcher.request({
      origin,
      path: prefix + request.path,
      method: request.method,
      headers:
        request.body === undefined
          ? headers
          : { ...headers, 'content-type': request.contentType ?? 'application/json' },
      body: request.body === undefined ? null : JSON.stringify(request.body),
      signal,
    });
    if (response.statusCode >= 400) {
      // A service account's token may have been renewed on disk before our copy of it ran out.
      if (response.statusCode === 401 && current) current.readAt = 0;
      const body = await response.body.text();
      const retryAfter = response.headers['retry-after'];
      throw new ApiError(
        `${request.method} ${request.path.split('?')[0]}`,
        response.statusCode,
        body,
        Array.isArray(retryAfter) ? retryAfter[0] : retryAfter,
      );
    }
    return response.body;
  }

  return {
    async call<T>(request: ApiRequest): Promise<T> {
      const body = await send(
        request,
        'calls',
        AbortSignal.any([request.signal, AbortSignal.timeout(CALL_TIMEOUT_MS)]),
      );
      return (await body.json()) as T;
    },
    stream: request => send(request, 'watches', request.signal),
    async close() {
      closed = true;
      const closing = (await pending?.catch(() => undefined)) ?? current;
      current = undefined;
      await Promise.all([closing?.calls.destroy(), closing?.watches.destroy()]);
    },
  };
}

function basicAuth(options: RequestOptions): { authorization?: string } {
  return options.auth ? { authorization: `Basic ${Buffer.from(options.auth).toString('base64')}` } : {};
}
