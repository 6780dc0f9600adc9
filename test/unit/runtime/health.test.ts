import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { type Check, type HealthServer, startHealthServer } from '../../../src/runtime/health.ts';

const open: HealthServer[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map(server => server.close()));
});

interface Setup {
  alive?: Check;
  ready?: Check;
  metrics?: () => Promise<string>;
  port?: number;
}

async function start({ alive = () => undefined, ready = () => undefined, metrics, port = 0 }: Setup = {}) {
  const server = await startHealthServer({
    host: '127.0.0.1',
    port,
    alive,
    ready,
    metrics: { contentType: 'text/plain; version=0.0.4', metrics: metrics ?? (async () => 'up 1\n') },
  });
  open.push(server);
  const get = async (path: string, method = 'GET') => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, { method });
    return [response.status, response.headers.get('content-type'), await response.text()];
  };
  return { server, get };
}

const TEXT = 'text/plain; charset=utf-8';

describe('the health server', () => {
  it.each([
    ['GET', '/healthz', [200, TEXT, 'ok\n']],
    ['GET', '/readyz', [200, TEXT, 'ok\n']],
    ['GET', '/readyz?verbose', [200, TEXT, 'ok\n']],
    ['HEAD', '/healthz', [200, TEXT, '']],
    ['GET', '/metrics', [200, 'text/plain; version=0.0.4', 'up 1\n']],
    ['GET', '/', [404, TEXT, 'not found: try /healthz, /readyz or /metrics\n']],
    ['POST', '/healthz', [405, TEXT, 'only GET is answered\n']],
  ])('answers %s %s', async (method, path, expected) => {
    const { get } = await start();
    expect(await get(path, method)).toEqual(expected);
  });

  it('tells what is wrong, of life and readiness apart, and as it is now', async () => {
    let alive: string | undefined;
    let ready: string | undefined = 'the caches are empty';
    const { get } = await start({ alive: () => alive, ready: () => ready });
    expect(await get('/healthz')).toEqual([200, TEXT, 'ok\n']);
    expect(await get('/readyz')).toEqual([503, TEXT, 'the caches are empty\n']);
    alive = 'a watch is dead';
    ready = undefined;
    expect(await get('/healthz')).toEqual([503, TEXT, 'a watch is dead\n']);
    expect(await get('/readyz')).toEqual([200, TEXT, 'ok\n']);
  });

  it('answers 500 when the metrics cannot be made', async () => {
    const { get } = await start({ metrics: () => Promise.reject(new Error('boom')) });
    expect(await get('/metrics')).toEqual([500, TEXT, 'Error: boom\n']);
  });

  it('does not start on a port that is taken', async () => {
    const { server } = await start();
    await expect(start({ port: server.port })).rejects.toMatchObject({
      message: `cannot serve health and metrics at port ${server.port}: choose another with --port or HEALTH_PORT`,
      cause: { code: 'EADDRINUSE' },
    });
  });

  it('is gone when it is closed, connections that idle included', async () => {
    const { server } = await start();
    const socket = connect(server.port, '127.0.0.1');
    await new Promise(resolve => socket.once('connect', resolve));
    const ended = new Promise(resolve => socket.once('close', resolve));
    socket.on('error', () => {});
    await server.close();
    await ended;
    await expect(fetch(`http://127.0.0.1:${server.port}/healthz`)).rejects.toThrow();
  });
});
