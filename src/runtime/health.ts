/** The HTTP server for the kubelet and Prometheus: /healthz, /readyz and /metrics. */

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Gives what is wrong, or undefined when all is well. */
export type Check = () => string | undefined;

export interface HealthOptions {
  /** All addresses, IPv4 and IPv6, if absent. */
  host: string | undefined;
  /** 0 takes a free one. */
  port: number;
  alive: Check;
  ready: Check;
  metrics: { contentType: string; metrics(): Promise<string> };
}

export interface HealthServer {
  port: number;
  close(): Promise<void>;
}

/** Starts to listen. Rejects when the port is taken. */
export async function startHealthServer({ host, port, alive, ready, metrics }: HealthOptions): Promise<HealthServer> {
  const answer = (check: Check): [number, string] => {
    const wrong = check();
    return wrong === undefined ? [200, 'ok\n'] : [503, `${wrong}\n`];
  };
  const server = createServer(async (request, response) => {
    const path = request.url?.split('?')[0];
    let status = 404;
    let body = 'not found: try /healthz, /readyz or /metrics\n';
    let contentType = 'text/plain; charset=utf-8';
    if (request.method !== 'GET' && request.method !== 'HEAD') [status, body] = [405, 'only GET is answered\n'];
    else if (path === '/healthz') [status, body] = answer(alive);
    else if (path === '/readyz') [status, body] = answer(ready);
    else if (path === '/metrics') {
      try {
        [status, body, contentType] = [200, await metrics.metrics(), metrics.contentType];
      } catch (error) {
        [status, body] = [500, `${String(error)}\n`];
      }
    }
    response.writeHead(status, { 'content-type': contentType });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  server.headersTimeout = 5_000;
  server.requestTimeout = 10_000;
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.once('error', cause => {
      reject(
        new Error(`cannot serve health and metrics at port ${port}: choose another with --port or HEALTH_PORT`, {
          cause,
        }),
      );
    });
    server.listen({ port, ...(host && { host }) }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
