import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { RequestListener } from 'node:http';
import { createServer as createHttps, type Server as HttpsServer } from 'node:https';
import {
  type AddressInfo,
  connect as connectTcp,
  createServer as createTcp,
  type Socket,
  type Server as TcpServer,
} from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createTls } from 'node:tls';
import { KubeConfig } from '@kubernetes/client-node';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ApiError, NotLeading } from '../../../src/kube/errors.ts';
import {
  type ApiRequest,
  createTransport,
  type Transport,
  type TransportObserver,
} from '../../../src/kube/transport.ts';
import { createAuthority } from '../../cluster/certificates.ts';
import { closedPort, startHttp, type TestServer } from '../../support/servers.ts';

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const close of closing.splice(0).reverse()) await close();
});

interface Options {
  path?: string;
  user?: Record<string, unknown>;
  now?: () => number;
  mayWrite?: () => boolean;
  observer?: TransportObserver;
}

const userOf = (user: Record<string, unknown>) => ({
  clusters: [{ name: 'c', server: 'http://127.0.0.1:1', skipTLSVerify: true }],
  users: [{ name: 'u', ...user }],
  contexts: [{ name: 'x', cluster: 'c', user: 'u' }],
  currentContext: 'x',
});

async function connect(
  handler: RequestListener,
  { path = '', user = {}, now, mayWrite, observer }: Options = {},
): Promise<{ server: TestServer; transport: Transport; kubeConfig: KubeConfig }> {
  const server = await startHttp(handler);
  closing.push(server.close);
  const kubeConfig = new KubeConfig();
  const options = userOf(user);
  for (const cluster of options.clusters) cluster.server = `http://127.0.0.1:${server.port}${path}`;
  kubeConfig.loadFromOptions(options);
  const transport = createTransport(kubeConfig, {
    userAgent: 'the-operator/1.0',
    ...(now && { now }),
    ...(mayWrite && { mayWrite }),
    ...(observer && { observer }),
  });
  closing.push(transport.close);
  return { server, transport, kubeConfig };
}

/** A transport to a server that is none of the above; `cluster` may name its CA. */
function connectTo(server: string, cluster: object = { skipTLSVerify: true }): Transport {
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromOptions({ ...userOf({}), clusters: [{ name: 'c', server, ...cluster }] });
  const transport = createTransport(kubeConfig, { userAgent: 'x' });
  closing.push(transport.close);
  return transport;
}

/** A directory of the test's own. */
function directory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'pco-transport-'));
  closing.push(async () => rmSync(dir, { recursive: true }));
  return dir;
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
    const { transport } = await connect(() => {});
    const real = setTimeout;
    vi.spyOn(globalThis, 'setTimeout').mockImplementation(((run: () => void, ms: number) =>
      real(run, ms === 30_000 ? 0 : ms)) as typeof setTimeout);
    const call = transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    expect(await call).toMatchObject({ name: 'TimeoutError', message: 'the request took too long' });
  });

  it('leaves nothing behind that waits for its time limit', async () => {
    const { transport } = await connect(echo);
    const { signal } = new AbortController();
    const added = vi.spyOn(signal, 'addEventListener');
    const removed = vi.spyOn(signal, 'removeEventListener');
    const started = vi.spyOn(globalThis, 'setTimeout');
    const cleared = vi.spyOn(globalThis, 'clearTimeout');
    await transport.call({ method: 'GET', path: '/x', signal });
    const limits = started.mock.results.filter((_, nth) => started.mock.calls[nth]?.[1] === 30_000);
    expect(limits).toHaveLength(1);
    expect(cleared).toHaveBeenCalledWith(limits[0]?.value);
    expect(removed.mock.calls.map(([, listener]) => listener)).toEqual(
      added.mock.calls.map(([, listener]) => listener),
    );
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
    expect(sent(server)).toEqual(['Bearer t1', 'Bearer t1', 'Bearer t2']);
  });

  it('are read once for calls that come together', async () => {
    const { transport, kubeConfig } = await connect(echo, { user: { token: 't1' } });
    const read = vi.spyOn(kubeConfig, 'applyToHTTPSOptions');
    await Promise.all([call(transport), call(transport), call(transport)]);
    expect(read).toHaveBeenCalledTimes(1);
  });
});

describe('a token in a file', () => {
  /** A server that knows one token, and a transport whose token is in a file that can be replaced. */
  async function startWithFile(valid: string, options: Options = {}) {
    const file = join(directory(), 'token');
    const seen: string[] = [];
    const server = await connect(
      async (request, response) => {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        const { authorization = '' } = request.headers;
        seen.push(`${request.method} ${authorization} ${Buffer.concat(chunks)}`.trim());
        response.writeHead(authorization === `Bearer ${valid}` ? 200 : 401);
        response.end(JSON.stringify({ message: 'Unauthorized' }));
      },
      { ...options, user: { authProvider: { name: 'tokenFile', config: { tokenFile: file } } } },
    );
    return { ...server, seen, replace: (token: string) => writeFileSync(file, `${token}\n`) };
  }
  const get: ApiRequest = { method: 'GET', path: '/x', signal: live() };
  const post: ApiRequest = { method: 'POST', path: '/x', body: { a: 1 }, signal: live() };

  it('is read again when it is turned away, and the request is repeated with the new one', async () => {
    const { transport, seen, replace } = await startWithFile('t2');
    replace('t1');
    await expect(transport.call(get)).rejects.toMatchObject({ status: 401 });
    replace('t2');
    seen.length = 0;
    await transport.call(post);
    expect(seen).toEqual(['POST Bearer t1 {"a":1}', 'POST Bearer t2 {"a":1}']);
    await transport.call(get);
    expect(seen.slice(2)).toEqual(['GET Bearer t2']);
  });

  it('lets a watch be opened like this, too', async () => {
    const { transport, seen, replace } = await startWithFile('t2');
    replace('t1');
    await transport.call(get).catch(failure);
    replace('t2');
    for await (const _chunk of await transport.stream(get));
    expect(seen).toEqual(['GET Bearer t1', 'GET Bearer t1', 'GET Bearer t2']);
  });

  it('is not tried again while it is the same', async () => {
    const { transport, seen, replace } = await startWithFile('t9');
    replace('t1');
    for (let call = 0; call < 3; call += 1)
      await expect(transport.call(get)).rejects.toMatchObject({ status: 401, message: 'GET /x: 401 Unauthorized' });
    expect(seen).toEqual(Array(3).fill('GET Bearer t1'));
  });

  it('is tried again once only, also when it is replaced all the time', async () => {
    const { transport, seen, server, replace } = await startWithFile('t9');
    replace('t0');
    await transport.call(get).catch(failure);
    seen.length = 0;
    let tokens = 0;
    Object.defineProperty(server.requests, 'push', {
      value: () => {
        tokens += 1;
        replace(`t${tokens}`);
      },
    });
    await expect(transport.call(get)).rejects.toMatchObject({ status: 401 });
    expect(seen).toEqual(['GET Bearer t0', 'GET Bearer t1']);
  });

  it('is not tried again by a write that may not be sent any more', async () => {
    const may = vi.fn<() => boolean>().mockReturnValueOnce(true).mockReturnValue(false);
    const { transport, seen, replace } = await startWithFile('t2', { mayWrite: may });
    replace('t1');
    await transport.call(get).catch(failure);
    replace('t2');
    await expect(transport.call(post)).rejects.toThrow(NotLeading);
    expect(seen).toEqual(['GET Bearer t1', 'POST Bearer t1 {"a":1}']);
  });

  it('that cannot be read fails the call and not the process, and is read again by the next one', async () => {
    const { transport, replace } = await startWithFile('t1');
    await expect(transport.call(get)).rejects.toMatchObject({ code: 'ENOENT' });
    replace('t1');
    await transport.call(get);
  });
});

describe('a write', () => {
  const WRITES = ['POST', 'PUT', 'PATCH', 'DELETE'] as const;
  const request = (method: ApiRequest['method'], more: Partial<ApiRequest> = {}): ApiRequest => ({
    method,
    path: `/${method}`,
    ...(method !== 'GET' && { body: { a: 1 } }),
    signal: live(),
    ...more,
  });

  /** A server that answers nothing to /hold until it is let go; all connections of calls are held there. */
  async function startFull(options: Options) {
    const held: (() => void)[] = [];
    const full = Promise.withResolvers<void>();
    const made = await connect((incoming, response) => {
      if (incoming.url !== '/hold') return void echo(incoming, response);
      held.push(() => response.end('{}'));
      if (held.length === 16) full.resolve();
    }, options);
    const holding = Array.from({ length: 16 }, () => made.transport.call(request('GET', { path: '/hold' })));
    await full.promise;
    return {
      ...made,
      async letGo() {
        for (const end of held.splice(0)) end();
        await Promise.all(holding);
      },
      paths: () => made.server.requests.map(({ path }) => path).filter(path => path !== '/hold'),
    };
  }

  it.each(WRITES)('(%s) is not sent by a process that may not write', async method => {
    const { transport, server } = await connect(echo, { mayWrite: () => false });
    const error = await transport.call(request(method)).catch(failure);
    expect(error).toBeInstanceOf(NotLeading);
    expect(error).toMatchObject({ message: 'not sent: this process does not hold the Lease' });
    expect(server.requests).toEqual([]);
  });

  it.each(WRITES)('(%s) that waited for a connection while the right to write was lost is not sent', async method => {
    let may = true;
    const { transport, letGo, paths } = await startFull({ mayWrite: () => may });
    const waiting = transport.call(request(method)).catch(failure);
    // A read that waits behind it tells when it would have been sent.
    const reading = transport.call(request('GET'));
    await new Promise(setImmediate);
    may = false;
    await letGo();
    expect(await waiting).toBeInstanceOf(NotLeading);
    await reading;
    expect(paths()).toEqual(['/GET']);
  });

  it('that waited for a connection until the right to write was gained is sent', async () => {
    let may = false;
    const { transport, letGo, paths } = await startFull({ mayWrite: () => may });
    const waiting = transport.call(request('POST'));
    await new Promise(setImmediate);
    may = true;
    await letGo();
    expect(await waiting).toMatchObject({ method: 'POST', body: '{"a":1}' });
    expect(paths()).toEqual(['/POST']);
  });

  it('does not break the connection that it would have had', async () => {
    let may = false;
    const { transport, server } = await connect(echo, { mayWrite: () => may });
    const ports = new Set<unknown>();
    for (let call = 0; call < 5; call += 1) {
      await transport.call(request('POST')).catch(failure);
      await transport.call(request('GET'));
      ports.add(server.requests.at(-1)?.headers.host);
    }
    may = true;
    expect(await transport.call(request('POST'))).toMatchObject({ body: '{"a":1}' });
    expect(server.requests.map(({ method }) => method)).toEqual([...Array(5).fill('GET'), 'POST']);
  });

  it.each<[string, ApiRequest]>([
    ['a read', request('GET')],
    ['what the election writes', request('PUT', { unfenced: true })],
  ])('asks for a right that %s needs not', async (_what, free) => {
    const mayWrite = vi.fn(() => false);
    const { transport } = await connect(echo, { mayWrite });
    expect(await transport.call(free)).toMatchObject({ method: free.method });
    expect(mayWrite).not.toHaveBeenCalled();
  });
});

describe('a reset', () => {
  /** A server of bytes. */
  async function listen(server: TcpServer): Promise<number> {
    const sockets = new Set<Socket>();
    server.on('connection', socket => sockets.add(socket));
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    closing.push(
      () =>
        new Promise(resolve => {
          server.close(() => resolve());
          for (const socket of sockets) socket.destroy();
        }),
    );
    return (server.address() as AddressInfo).port;
  }

  /** A server that takes requests, answers nothing, and tells how its connections end. */
  async function startMute(kind: 'tcp' | 'tls') {
    const ends: string[] = [];
    const asked = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    const { key, certificate: cert } = createAuthority('test').issue({ commonName: 'x', names: ['127.0.0.1'] });
    const tls = await listen(createTls({ key, cert }, secured => void secured.on('data', () => asked.resolve())));
    // How TCP ends is seen by what lies before TLS.
    const port = await listen(
      createTcp(socket => {
        if (kind === 'tls') {
          const inner = connectTcp(tls, '127.0.0.1').on('error', () => {});
          socket.pipe(inner).pipe(socket);
          closing.push(async () => void inner.destroy());
        } else socket.on('data', () => asked.resolve());
        socket.on('end', () => ends.push('FIN'));
        socket.on('error', (error: NodeJS.ErrnoException) => ends.push(String(error.code)));
        socket.on('close', () => ended.resolve());
      }),
    );
    const scheme = kind === 'tcp' ? 'http' : 'https';
    return { url: `${scheme}://127.0.0.1:${port}`, ends, asked: asked.promise, ended: ended.promise };
  }

  it.each(['tcp', 'tls'] as const)(
    'over %s ends the connections of calls so that the server sees no orderly end',
    async kind => {
      const server = await startMute(kind);
      const transport = connectTo(server.url);
      const call = transport.call({ method: 'POST', path: '/x', body: { a: 1 }, signal: live() }).catch(failure);
      await server.asked;
      transport.reset();
      expect(await call).toBeInstanceOf(Error);
      await server.ended;
      expect(server.ends).toEqual(['ECONNRESET']);
    },
  );

  it.each(['tcp', 'tls'] as const)('over %s is what a call ends by that is given up, too', async kind => {
    const server = await startMute(kind);
    const transport = connectTo(server.url);
    const given = new AbortController();
    const call = transport.call({ method: 'POST', path: '/x', body: { a: 1 }, signal: given.signal }).catch(failure);
    await server.asked;
    given.abort(new Error('given up'));
    expect(await call).toMatchObject({ message: 'given up' });
    await server.ended;
    expect(server.ends).toEqual(['ECONNRESET']);
  });

  it.each(['tcp', 'tls'] as const)('over %s is what the deadline of a call ends it by, too', async kind => {
    const server = await startMute(kind);
    const transport = connectTo(server.url);
    const call = transport
      .call({ method: 'POST', path: '/x', body: {}, signal: live(), timeoutMs: 200 })
      .catch(failure);
    await server.asked;
    expect(await call).toMatchObject({ name: 'TimeoutError' });
    await server.ended;
    expect(server.ends).toEqual(['ECONNRESET']);
  });

  it('ends also a call whose connection is not yet made', async () => {
    // It takes the TCP connection, and says nothing to the TLS handshake.
    const server = await startMute('tcp');
    const transport = connectTo(server.url.replace('http', 'https'));
    const call = transport.call({ method: 'POST', path: '/x', body: {}, signal: live() }).catch(failure);
    await server.asked;
    transport.reset();
    expect(await call).toBeInstanceOf(Error);
    await server.ended;
    expect(server.ends).toEqual(['ECONNRESET']);
  });

  it('leaves watches alone, and the transport of use', async () => {
    const { transport } = await connect((request, response) => {
      if (request.url === '/watch') response.write('one\n');
      else response.end('{}');
    });
    const stream = await transport.stream({ method: 'GET', path: '/watch', signal: live() });
    await transport.call({ method: 'GET', path: '/x', signal: live() });
    transport.reset();
    expect(await transport.call({ method: 'GET', path: '/x', signal: live() })).toEqual({});
    for await (const chunk of stream) {
      expect(chunk.toString()).toBe('one\n');
      break;
    }
  });

  it('may come when there is nothing to reset', async () => {
    connectTo('http://127.0.0.1:1').reset();
  });
});

describe('the CA of the API server', () => {
  /** A server with a certificate of an authority; a taken port may be given. */
  async function startHttps(authority: ReturnType<typeof createAuthority>, port = 0): Promise<HttpsServer> {
    const { key, certificate: cert } = authority.issue({ commonName: 'kubernetes', names: ['127.0.0.1'] });
    const server = createHttps({ key, cert }, (_request, response) => void response.end('{"ok":true}'));
    await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve));
    return server;
  }
  const stop = (server: HttpsServer): Promise<void> =>
    new Promise(resolve => {
      server.close(() => resolve());
      server.closeAllConnections();
    });

  it('is read again after a connection that failed: a server that has a new one is reached by the next call', async () => {
    const file = join(directory(), 'ca.crt');
    const [first, second] = [createAuthority('one'), createAuthority('two')];
    writeFileSync(file, first.certificate);
    const before = await startHttps(first);
    const { port } = before.address() as AddressInfo;
    const transport = connectTo(`https://127.0.0.1:${port}`, { caFile: file });
    const call = () => transport.call({ method: 'GET', path: '/x', signal: live() });
    expect(await call()).toEqual({ ok: true });

    await stop(before);
    const after = await startHttps(second, port);
    closing.push(() => stop(after));
    // The server may have it before the file does.
    await expect(call()).rejects.toThrow(/certificate/);
    writeFileSync(file, second.certificate);
    await call().catch(failure);
    expect(await call()).toEqual({ ok: true });
    // And it stays with it: no server of the old one is believed.
    const old = await startHttps(first);
    closing.push(() => stop(old));
    const other = connectTo(`https://127.0.0.1:${(old.address() as AddressInfo).port}`, { caFile: file });
    await expect(other.call({ method: 'GET', path: '/x', signal: live() })).rejects.toThrow(/certificate/);
  });

  it('is demanded: a certificate of nobody’s is not believed', async () => {
    const server = await startHttps(createAuthority('one'));
    closing.push(() => stop(server));
    const transport = connectTo(`https://127.0.0.1:${(server.address() as AddressInfo).port}`, {});
    await expect(transport.call({ method: 'GET', path: '/x', signal: live() })).rejects.toThrow(/certificate/);
  });

  it('fails the call and not the process when a client certificate makes no sense, as while its file is replaced', async () => {
    const server = await startHttps(createAuthority('one'));
    closing.push(() => stop(server));
    const kubeConfig = new KubeConfig();
    const nonsense = Buffer.from('-----BEGIN').toString('base64');
    kubeConfig.loadFromOptions({
      ...userOf({ certData: nonsense, keyData: nonsense }),
      clusters: [
        { name: 'c', server: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, skipTLSVerify: true },
      ],
    });
    const transport = createTransport(kubeConfig, { userAgent: 'x' });
    closing.push(transport.close);
    await expect(transport.call({ method: 'GET', path: '/x', signal: live() })).rejects.toThrow(/PEM|start line/i);
  });

  it.each(['http', 'https'])('is not waited for when nobody listens (%s): the call fails at once', async scheme => {
    const transport = connectTo(`${scheme}://127.0.0.1:${await closedPort()}`);
    const start = performance.now();
    const error = await transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    expect(error).toMatchObject({ code: 'ECONNREFUSED' });
    expect(performance.now() - start).toBeLessThan(4_000);
  });
});

describe('the deadline of a call', () => {
  const TIMEOUT = { name: 'TimeoutError' };

  it('holds while it waits for a connection; it is never sent then', async () => {
    const full = Promise.withResolvers<void>();
    const held: (() => void)[] = [];
    const { transport, server } = await connect((_request, response) => {
      held.push(() => response.end('{}'));
      if (held.length === 16) full.resolve();
    });
    const holding = Array.from({ length: 16 }, () => transport.call({ method: 'GET', path: '/hold', signal: live() }));
    await full.promise;
    const call = transport.call({ method: 'POST', path: '/x', body: {}, signal: live(), timeoutMs: 20 });
    await expect(call).rejects.toMatchObject(TIMEOUT);
    for (const end of held.splice(0)) end();
    await Promise.all(holding);
    const last = transport.call({ method: 'GET', path: '/last', signal: live() });
    while (held.length === 0) await new Promise(setImmediate);
    held[0]?.();
    await last;
    expect(server.requests.map(({ path }) => path).filter(path => path !== '/hold')).toEqual(['/last']);
  });

  it('holds while it connects', async () => {
    const server = createTcp(socket => void socket.on('error', () => {}).resume());
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => new Promise(resolve => server.close(() => resolve())));
    const transport = connectTo(`https://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const start = performance.now();
    const call = transport.call({ method: 'GET', path: '/x', signal: live(), timeoutMs: 20 });
    await expect(call).rejects.toMatchObject(TIMEOUT);
    // Sooner than the time limit of connections.
    expect(performance.now() - start).toBeLessThan(4_000);
    await transport.close();
  });

  it.each<[string, RequestListener]>([
    ['an answer', () => {}],
    ['the rest of an answer', (_request, response) => void response.write('{')],
    ['the rest of an error', (_request, response) => void response.writeHead(500).write('{')],
  ])('holds while it waits for %s', async (_what, handler) => {
    const { transport } = await connect(handler);
    const call = transport.call({ method: 'GET', path: '/x', signal: live(), timeoutMs: 20 });
    await expect(call).rejects.toMatchObject(TIMEOUT);
  });

  it('holds while credentials are fetched, as by a command that hangs', async () => {
    const { transport, kubeConfig } = await connect(echo);
    vi.spyOn(kubeConfig, 'applyToHTTPSOptions').mockReturnValue(new Promise(() => {}));
    const call = transport.call({ method: 'GET', path: '/x', signal: live(), timeoutMs: 20 });
    await expect(call).rejects.toMatchObject(TIMEOUT);
  });
});

describe('an answer that is none', () => {
  it.each([
    ['HTML', '<html>login</html>'],
    ['nothing', ''],
    ['half of it', '{"a":'],
    ['noise', '\u0000\u0001'],
  ])('(%s) is an error that names the request and shows nothing of the answer', async (_what, body) => {
    const { transport } = await connect(answer(200, body));
    const error = await transport.call({ method: 'GET', path: '/x?secret=1', signal: live() }).catch(failure);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ message: 'GET /x: the answer is no JSON', cause: expect.any(SyntaxError) });
  });

  it('because the connection broke within it is an error of the connection', async () => {
    const { transport } = await connect((_request, response) => {
      response.writeHead(200, { 'content-length': '100' });
      response.write('{"a":1}', () => response.destroy());
    });
    const error = await transport.call({ method: 'GET', path: '/x', signal: live() }).catch(failure);
    expect(error).toBeInstanceOf(Error);
    expect(error).not.toMatchObject({ message: expect.stringContaining('JSON') });
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

  it('sends nothing once it is closed, also what waited for credentials', async () => {
    const { server, transport, kubeConfig } = await connect(echo);
    const fetched = Promise.withResolvers<void>();
    vi.spyOn(kubeConfig, 'applyToHTTPSOptions').mockReturnValue(fetched.promise);
    const call = transport.call({ method: 'POST', path: '/x', body: {}, signal: live() }).catch(failure);
    await transport.close();
    fetched.resolve();
    const message = 'the connection to the API server is closed';
    expect(await call).toMatchObject({ message });
    await expect(transport.call({ method: 'GET', path: '/x', signal: live() })).rejects.toThrow(message);
    expect(server.requests).toEqual([]);
  });

  it('tells of each request that it sent how it was answered, and after which time', async () => {
    const told: unknown[] = [];
    const state = { now: 0, mayWrite: true };
    const { transport } = await connect(
      (request, response) => {
        state.now += 250;
        if (request.url === '/broken') request.socket.destroy();
        else void answer(request.url === '/conflict' ? 409 : 200, '{}')(request, response);
      },
      {
        now: () => state.now,
        mayWrite: () => state.mayWrite,
        observer: { requested: (...request) => told.push(request) },
      },
    );
    const call = (method: ApiRequest['method'], path: string): Promise<unknown> =>
      transport.call({ method, path, signal: live() }).catch(failure);
    await call('GET', '/');
    await call('PATCH', '/conflict');
    await call('GET', '/broken');
    for await (const _ of await transport.stream({ method: 'GET', path: '/watch', signal: live() }));
    state.mayWrite = false;
    expect(await call('POST', '/')).toBeInstanceOf(NotLeading);
    expect(told).toEqual([
      ['GET', 200, 0.25],
      ['PATCH', 409, 0.25],
      ['GET', undefined, 0.25],
      ['GET', 200, 0.25],
    ]);
  });

  it('can be closed before it was used', async () => {
    const { transport } = await connect(echo);
    await transport.close();
  });

  it('is not made of a kubeconfig without a cluster', () => {
    expect(() => createTransport(new KubeConfig(), { userAgent: 'x' })).toThrow(
      'kubeconfig: the current context names no cluster; set one, or set KUBECONFIG',
    );
  });
});
