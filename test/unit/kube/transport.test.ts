import type { RequestListener } from 'node:http';
import { KubeConfig } from '@kubernetes/client-node';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ApiError } from '../../../src/kube/errors.ts';
import { createTransport, type Transport } from '../../../src/kube/transport.ts';
import { startHttp, type TestServer } from '../../support/servers.ts';

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const close of closing.splice(0).reverse()) await close();
});

interface Options {
  path?: string;
  user?: Record<string, unknown>;
  now?: () => number;
}

const userOf = (user: Record<string, unknown>) => ({
  clusters: [{ name: 'c', server: 'http://127.0.0.1:1', skipTLSVerify: true }],
  users: [{ name: 'u', ...user }],
  contexts: [{ name: 'x', cluster: 'c', user: 'u' }],
  currentContext: 'x',
});

async function connect(
  handler: RequestListener,
  { path = '', user = {}, now }: Options = {},
): Promise<{ server: TestServer; transport: Transport; kubeConfig: KubeConfig }> {
  const server = await startHttp(handler);
  closing.push(server.close);
  const kubeConfig = new KubeConfig();
  const options = userOf(user);
  for (const cluster of options.clusters) cluster.server = `http://127.0.0.1:${server.port}${path}`;
  kubeConfig.loadFromOptions(options);
  const transport = createTransport(kubeConfig, 'the-operator/1.0', now);
  closing.push(transport.close);
  return { server, transport, kubeConfig };
}

/** Answers JSON that tells the request. */
const echo: RequestListener = async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(
    JSON.stringify({
      method: request.method,
      url: request.url,
      type: request.headers['content-type'],
      body: Buffer.concat(chunks).toString(),
    }),
  );
};

const answer =
  (status: number, body = '', headers: Record<string, string> = {}): RequestListener =>
  (_request, response) => {
    response.writeHead(status, headers);
    response.end(body);
  };

const live = (): AbortSignal => new AbortController().signal;
const failure = (error: unknown): unknown => error;

describe('a call', () => {
  it.each(['', '/', '/k8s/clusters/c-1', '/k8s/clusters/c-1/'])('keeps the path %j of the server', async path => {
    const { transport } = await connect(echo, { path });
    expect(await transport.call({ method: 'GET', path: '/api/v1/pods?limit=5', signal: live() })).toEqual({
      method: 'GET',
      url: `${path.replace(/\/$/, '')}/api/v1/pods?limit=5`,
      body: '',
    });
  });

  it('says who it is and that it wants JSON', async () => {
    const { server, transport } = await connect(echo);
    await transport.call({ method: 'GET', path: '/api', signal: live() });
    expect(server.requests[0]?.headers).toMatchObject({ 'user-agent': 'the-operator/1.0', accept: 'application/json' });
    expect(server.requests[0]?.headers).not.toHaveProperty('authorization');
  });

  it.each([
    [undefined, 'application/json'],
    ['application/apply-patch+yaml', 'application/apply-patch+yaml'],
  ])('sends a body as JSON, of content type %s', async (contentType, type) => {
    const { transport } = await connect(echo);
    const request = { method: 'PATCH', path: '/x', body: { a: 'grüße' }, signal: live() } as const;
    expect(await transport.call({ ...request, ...(contentType && { contentType }) })).toEqual({
      method: 'PATCH',
      url: '/x',
      type,
      body: '{"a":"grüße"}',
    });
  });

  it('throws what the API server said', async () => {
    const status = JSON.stringify({ kind: 'Status', message: 'the name is taken', reason: 'AlreadyExists' });
    const { transport } = await connect(answer(409, status));
    const error = await transport
      .call({ method: 'POST', path: '/x?secret=1', body: {}, signal: live() })
      .catch(failure);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({
      message: 'POST /x: 409 the name is taken',
      status: 409,
      reason: 'AlreadyExists',
      retryAfterMs: undefined,
    });
  });

  it('tells how long the server asks to wait', async () => {
    const { transport } = await connect(answer(429, '{}', { 'retry-after': '7' }));
    const error = await transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    expect(error).toMatchObject({ status: 429, retryAfterMs: 7_000 });
  });

  it('ends with its signal, also while it waits for the body', async () => {
    const begun = Promise.withResolvers<void>();
    const { transport } = await connect((_request, response) => {
      response.writeHead(200);
      response.write('{');
      begun.resolve();
    });
    const abort = new AbortController();
    const call = transport.call({ method: 'GET', path: '/x', signal: abort.signal }).catch(failure);
    await begun.promise;
    abort.abort(new Error('enough'));
    expect(await call).toMatchObject({ message: 'enough' });
  });

  it('ends after 30 s', async () => {
    const timeout = vi.spyOn(AbortSignal, 'timeout').mockImplementation(() => AbortSignal.abort(new Error('too late')));
    const { transport } = await connect(() => {});
    const call = transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    expect(await call).toMatchObject({ message: 'too late' });
    expect(timeout).toHaveBeenCalledExactlyOnceWith(30_000);
  });
});

describe('the credentials of calls', () => {
  const call = (transport: Transport) => transport.call({ method: 'GET', path: '/x', signal: live() });
  const sent = ({ requests }: TestServer) => requests.map(({ headers }) => headers.authorization);

  it.each([
    ['a token', { token: 't1' }, 'Bearer t1'],
    ['a name and password', { username: 'me', password: 'pw' }, `Basic ${Buffer.from('me:pw').toString('base64')}`],
  ])('are %s', async (_what, user, expected) => {
    const { server, transport } = await connect(echo, { user });
    await call(transport);
    expect(sent(server)).toEqual([expected]);
  });

  it('are read again after 30 s', async () => {
    let time = 1_000_000;
    const { server, transport, kubeConfig } = await connect(echo, { user: { token: 't1' }, now: () => time });
    await call(transport);
    kubeConfig.loadFromOptions(userOf({ token: 't2' }));
    time += 29_999;
    await call(transport);
    time += 1;
    await call(transport);
    expect(sent(server)).toEqual(['Bearer t1', 'Bearer t1', 'Bearer t2']);
  });

  it('are read again after a 401', async () => {
    const { server, transport, kubeConfig } = await connect(answer(401, '{}'), { user: { token: 't1' } });
    expect(await call(transport).catch(failure)).toMatchObject({ status: 401 });
    kubeConfig.loadFromOptions(userOf({ token: 't2' }));
    await call(transport).catch(failure);
    expect(sent(server)).toEqual(['Bearer t1', 'Bearer t2']);
  });

  it('are read once for calls that come together', async () => {
    const { transport, kubeConfig } = await connect(echo, { user: { token: 't1' } });
    const read = vi.spyOn(kubeConfig, 'applyToHTTPSOptions');
    await Promise.all([call(transport), call(transport), call(transport)]);
    expect(read).toHaveBeenCalledTimes(1);
  });
});

describe('a stream', () => {
  it('gives the bytes as they come, and ends with its signal', async () => {
    const { transport } = await connect((_request, response) => {
      response.writeHead(200);
      response.write('one\n');
    });
    const abort = new AbortController();
    const stream = await transport.stream({ method: 'GET', path: '/x', signal: abort.signal });
    const seen: string[] = [];
    const error = await (async () => {
      for await (const chunk of stream) {
        seen.push(chunk.toString());
        abort.abort(new Error('enough'));
      }
    })().catch(failure);
    expect(seen).toEqual(['one\n']);
    expect(error).toMatchObject({ message: 'enough' });
  });

  it('throws what the API server said', async () => {
    const { transport } = await connect(answer(410, JSON.stringify({ message: 'too old', reason: 'Expired' })));
    const error = await transport.stream({ method: 'GET', path: '/x?watch=true', signal: live() }).catch(failure);
    expect(error).toMatchObject({ status: 410, reason: 'Expired', message: 'GET /x: 410 too old' });
  });

  it('holds up no call, however many are open', async () => {
    const { transport } = await connect((request, response) => {
      response.writeHead(200);
      if (request.url === '/x') response.end('{}');
      else response.write('\n');
    });
    const abort = new AbortController();
    const open = Array.from({ length: 40 }, () =>
      transport.stream({ method: 'GET', path: '/watch', signal: abort.signal }),
    );
    const streams = await Promise.all(open);
    expect(await transport.call({ method: 'GET', path: '/x', signal: live() })).toEqual({});
    abort.abort();
    for (const stream of streams) await (stream as unknown as { dump(): Promise<void> }).dump().catch(failure);
  });
});

describe('a transport', () => {
  it('ends what is under way when it is closed', async () => {
    const asked = Promise.withResolvers<void>();
    const { transport } = await connect(() => asked.resolve());
    const call = transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    await asked.promise;
    await transport.close();
    expect(await call).toBeInstanceOf(Error);
  });

  it('can be closed before it was used', async () => {
    const { transport } = await connect(echo);
    await transport.close();
  });

  it('is not made of a kubeconfig without a cluster', () => {
    expect(() => createTransport(new KubeConfig(), 'x')).toThrow(
      'kubeconfig: the current context names no cluster; set one, or set KUBECONFIG',
    );
  });
});
