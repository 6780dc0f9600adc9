import diagnostics from 'node:diagnostics_channel';
import { EventEmitter, getEventListeners, once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import tls from 'node:tls';
import { Agent, fetch } from 'undici';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { agent, connector, createDialer, type Destination, InvalidCa, ProxyRefused } from '../../../src/probe/dial.ts';
import { AddressDenied, type AddressPolicy, createGuard, type Lookup } from '../../../src/probe/guard.ts';
import { type Certificate, createAuthority, createSelfSigned } from '../../cluster/certificates.ts';
import { closedPort } from '../../support/servers.ts';
import { CLOSED } from '../support.ts';

const LOOPBACK: AddressPolicy = { ...CLOSED, allowCidrs: ['127.0.0.0/8', '::1/128'] };
const PUBLIC = '93.184.216.34';

const authority = createAuthority('test');
const server = authority.issue({ commonName: 'x', names: ['mcp.example', '127.0.0.1'] });
const forName = authority.issue({ commonName: 'x', names: ['mcp.example'] });
const selfSigned = createSelfSigned({ commonName: 'mcp.example', names: ['mcp.example'] });
const expired = inThePast(() => authority.issue({ commonName: 'x', names: ['mcp.example'] }));

function inThePast<T>(make: () => T): T {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 2 * 365 * 24 * 60 * 60 * 1_000 });
  try {
    return make();
  } finally {
    vi.useRealTimers();
  }
}

/** Every client socket of the test, and the servers, which end only when nobody is connected any more. */
const sockets: net.Socket[] = [];
const servers: net.Server[] = [];
const signals: AbortSignal[] = [];
const made = new EventEmitter();
const onSocket = (message: unknown): void => {
  const { socket } = message as { socket: net.Socket };
  sockets.push(socket);
  made.emit('socket', socket);
};
beforeEach(() => diagnostics.subscribe('net.client.socket', onSocket));
afterEach(async () => {
  diagnostics.unsubscribe('net.client.socket', onSocket);
  made.removeAllListeners();
  await Promise.all(servers.splice(0).map(open => new Promise(resolve => open.close(resolve))));
  expect(sockets.splice(0).filter(({ destroyed }) => !destroyed).length).toBe(0);
  expect(signals.splice(0).flatMap(signal => getEventListeners(signal, 'abort')).length).toBe(0);
});

interface Listening {
  port: number;
  /** Connections that were accepted. */
  accepted: net.Socket[];
}

async function listen(listening: net.Server, host = '127.0.0.1'): Promise<Listening> {
  const accepted: net.Socket[] = [];
  listening.on('connection', socket => {
    accepted.push(socket);
    socket.on('error', () => {});
  });
  listening.listen(0, host);
  await once(listening, 'listening');
  servers.push(listening);
  return { port: (listening.address() as net.AddressInfo).port, accepted };
}

/** A server that ends a connection when its client does. */
const plain = (onConnection?: (socket: net.Socket) => void): Promise<Listening> =>
  listen(
    net.createServer(socket => {
      socket.resume();
      onConnection?.(socket);
    }),
  );

const secured = ({ certificate: cert, key }: Certificate): tls.Server => {
  const made = tls.createServer({ cert, key, ALPNProtocols: ['h2', 'http/1.1'] }, socket => {
    socket.on('error', () => {});
    socket.end(`${socket.servername} ${socket.alpnProtocol}`);
  });
  return made.on('tlsClientError', () => {});
};

interface Options extends Partial<Destination> {
  policy?: AddressPolicy;
  lookup?: Lookup;
  proxy?: string;
}

const resolvesTo =
  (...addresses: string[]): Lookup =>
  async () =>
    addresses;

function dial({ policy = LOOPBACK, lookup = resolvesTo('127.0.0.1'), proxy, ...destination }: Options) {
  const dialer = createDialer({ guard: createGuard(policy, lookup), proxy });
  const { signal = new AbortController().signal } = destination;
  signals.push(signal);
  return dialer({ protocol: 'http:', hostname: 'mcp.example', port: 80, ca: undefined, ...destination, signal });
}

/** What the other side says until it ends; then the socket is closed. */
async function heard(socket: net.Socket): Promise<string> {
  const chunks = await socket.toArray();
  socket.destroy();
  return Buffer.concat(chunks).toString();
}

describe('an address', () => {
  it.each(['127.0.0.1', '127.1', '2130706433', '0x7f.1', '127.0.0.1.', '[::ffff:127.0.0.1]', '::1', '[::1]'])(
    'that is denied is not connected to, spelled %s',
    async hostname => {
      const { port, accepted } = await plain();
      await expect(dial({ hostname, port, policy: CLOSED })).rejects.toThrow(AddressDenied);
      expect([accepted.length, sockets.length]).toEqual([0, 0]);
    },
  );

  it('of a port that is not allowed is not connected to', async () => {
    const { port, accepted } = await plain();
    const policy = { ...LOOPBACK, ports: ['80'] };
    await expect(dial({ hostname: '127.0.0.1', port, policy })).rejects.toThrow(`port ${port} is not probed`);
    expect([accepted.length, sockets.length]).toEqual([0, 0]);
  });

  it.each(['127.0.0.1', '127.1', '[::ffff:127.0.0.1]'])(
    'that is allowed is connected to, spelled %s',
    async hostname => {
      const { port } = await plain(socket => socket.end('hello'));
      const lookup = (): never => expect.unreachable('asked the resolver');
      expect(await heard(await dial({ hostname, port, lookup }))).toBe('hello');
    },
  );

  it('where nobody listens is refused by its own code', async () => {
    await expect(dial({ port: await closedPort() })).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });
});

describe('a name', () => {
  it('is resolved once: a second answer has no say (rebinding)', async () => {
    const { port } = await plain(socket => socket.end('hello'));
    const lookup = vi.fn<Lookup>().mockResolvedValueOnce(['127.0.0.1']).mockResolvedValue(['169.254.169.254']);
    expect(await heard(await dial({ port, lookup }))).toBe('hello');
    expect(lookup.mock.calls).toEqual([['mcp.example']]);
  });

  it('with one denied address among others is not connected to', async () => {
    const { port, accepted } = await plain();
    const lookup = resolvesTo('127.0.0.1', '10.0.0.1');
    await expect(dial({ port, lookup })).rejects.toThrow('mcp.example (10.0.0.1) is not a public address (private)');
    expect([accepted.length, sockets.length]).toEqual([0, 0]);
  });

  it('of which the first address is dead is connected to by another, and by that one only', async () => {
    const { port, accepted } = await plain(socket => socket.end('hello'));
    expect(await heard(await dial({ port, lookup: resolvesTo('::1', '127.0.0.1') }))).toBe('hello');
    expect(accepted.length).toBe(1);
  });

  it('of which all addresses are dead fails by all their errors, and a code', async () => {
    const failure = dial({ port: await closedPort(), lookup: resolvesTo('::1', '127.0.0.1') });
    await expect(failure).rejects.toThrow(AggregateError);
    await expect(failure).rejects.toMatchObject({ code: expect.stringMatching(/^E/) });
  });

  it('that does not resolve fails as the resolver says', async () => {
    const lookup = async (): Promise<never> => {
      throw Object.assign(new Error('no such name'), { code: 'ENOTFOUND' });
    };
    await expect(dial({ lookup })).rejects.toMatchObject({ code: 'ENOTFOUND' });
    await expect(dial({ lookup: resolvesTo() })).rejects.toMatchObject({ code: 'ENOTFOUND' });
  });
});

describe('over TLS', () => {
  const ca = authority.certificate;

  it.each<[string, string, Certificate, string]>([
    ['mcp.example', 'a name', server, 'mcp.example http/1.1'],
    ['MCP.example.', 'a name as people spell it', server, 'mcp.example http/1.1'],
    ['127.0.0.1', 'a literal, which is never sent as server name', server, 'false http/1.1'],
  ])('%s is verified: %s', async (hostname, _what, certificate, said) => {
    const { port } = await listen(secured(certificate));
    const socket = await dial({ protocol: 'https:', hostname, port, ca });
    expect((socket as tls.TLSSocket).authorized).toBe(true);
    expect(await heard(socket)).toBe(said);
  });

  it.each<[string, Options, Certificate, string]>([
    ['another host', { hostname: 'other.example' }, server, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    [
      'another host, although its address is right',
      { hostname: 'other.example.' },
      server,
      'ERR_TLS_CERT_ALTNAME_INVALID',
    ],
    ['a name only, dialled by address', { hostname: '127.0.0.1' }, forName, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['a time that is over', {}, expired, 'CERT_HAS_EXPIRED'],
    ['an authority that nobody named', { ca: undefined }, server, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ['another authority', { ca: createAuthority('other').certificate }, server, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ['a server that nobody vouches for', {}, selfSigned, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
  ])('a certificate for %s is refused', async (_what, options, certificate, code) => {
    const { port } = await listen(secured(certificate));
    await expect(dial({ protocol: 'wss:', port, ca, ...options })).rejects.toMatchObject({ code });
  });

  it('a bad certificate is refused whatever the environment says', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    try {
      const { port } = await listen(secured(server));
      await expect(dial({ protocol: 'https:', port })).rejects.toMatchObject({
        code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      });
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('the well-known authorities stay trusted beside the given ones', async () => {
    const { port } = await listen(secured(server));
    await withWellKnown(authority.certificate, async () => {
      expect(await heard(await dial({ protocol: 'https:', port }))).toContain('mcp.example');
      const other = createAuthority('other').certificate;
      expect(await heard(await dial({ protocol: 'https:', port, ca: other }))).toContain('mcp.example');
    });
  });

  it('all certificates of a bundle are trusted, with what people write between them', async () => {
    const { port } = await listen(secured(server));
    const bundle = `# one\n${createAuthority('other').certificate}\n# two\n${ca.replaceAll('\n', '\r\n')}`;
    expect(await heard(await dial({ protocol: 'https:', port, ca: bundle }))).toContain('mcp.example');
  });

  it('each of many bundles is trusted for who brings it, and for nobody else', async () => {
    const { port } = await listen(secured(server));
    const other = createAuthority('other').certificate;
    for (let round = 0; round < 20; round++) {
      const note = `# ${round % 10}\n`;
      expect(await heard(await dial({ protocol: 'https:', port, ca: note + ca }))).toContain('mcp.example');
      await expect(dial({ protocol: 'https:', port, ca: note + other })).rejects.toMatchObject({
        code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      });
    }
  });

  it.each([
    ['nothing', ''],
    ['no PEM', 'garbage'],
    ['no certificate', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'],
    ['one that is cut off', `${ca}-----BEGIN CERTIFICATE-----\nMIIB`],
    ['a key', authority.key],
  ])('a bundle of authorities that holds %s is refused before anything is dialled', async (_what, bundle) => {
    const refusal = dial({ protocol: 'https:', ca: bundle });
    await expect(refusal).rejects.toThrow(InvalidCa);
    await expect(refusal).rejects.toThrow('the CA bundle cannot be read: it must hold PEM certificates');
    expect(sockets.length).toBe(0);
  });

  it('a server that speaks something else fails by the code of OpenSSL', async () => {
    const { port } = await plain(socket => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    await expect(dial({ protocol: 'https:', port, ca })).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_SSL_/),
    });
  });

  it.each<[string, (socket: net.Socket) => void]>([
    ['closes', socket => socket.end()],
    ['resets', socket => socket.resetAndDestroy()],
  ])('a server that %s the connection in the handshake fails it', async (_what, leave) => {
    const { port } = await plain(socket => socket.once('data', () => leave(socket)));
    await expect(dial({ protocol: 'https:', port, ca })).rejects.toMatchObject({ code: 'ECONNRESET' });
  });
});

/** While `during` runs, this authority is one of the well-known ones. */
async function withWellKnown(certificate: string, during: () => Promise<void>): Promise<void> {
  const before = tls.getCACertificates('default');
  tls.setDefaultCACertificates([...before, certificate]);
  try {
    await during();
  } finally {
    tls.setDefaultCACertificates(before);
  }
}

describe('an abort', () => {
  const reason = new Error('enough');

  it('that came before stops all', async () => {
    const lookup = vi.fn<Lookup>();
    await expect(dial({ lookup, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(lookup).not.toHaveBeenCalled();
  });

  it.each(['that answers', 'that fails'])('while a name is resolved leaves a resolver %s alone', async what => {
    const owner = new AbortController();
    const answer = Promise.withResolvers<string[]>();
    const dialling = dial({ lookup: () => answer.promise, signal: owner.signal });
    owner.abort(reason);
    await expect(dialling).rejects.toBe(reason);
    if (what === 'that answers') answer.resolve(['127.0.0.1']);
    else answer.reject(new Error('late'));
    await new Promise(setImmediate);
    expect(sockets.length).toBe(0);
  });

  it.each([
    ['one', ['127.0.0.1']],
    ['several', ['127.0.0.1', '::1']],
  ] as const)('while %s addresses are connected to destroys the socket', async (_what, addresses) => {
    const { port } = await plain();
    const owner = new AbortController();
    made.once('socket', () => queueMicrotask(() => owner.abort(reason)));
    await expect(dial({ port, lookup: resolvesTo(...addresses), signal: owner.signal })).rejects.toBe(reason);
    expect(sockets.map(({ destroyed }) => destroyed)).toEqual([true]);
  });

  it('in the moment of success destroys the socket', async () => {
    const { port } = await plain();
    const owner = new AbortController();
    made.once('socket', (socket: net.Socket) => socket.on('connect', () => queueMicrotask(() => owner.abort(reason))));
    await expect(dial({ port, signal: owner.signal })).rejects.toBe(reason);
  });

  it('in the TLS handshake destroys the socket', async () => {
    const owner = new AbortController();
    const { port, accepted } = await plain(socket => socket.once('data', () => owner.abort(reason)));
    await expect(dial({ protocol: 'https:', port, signal: owner.signal })).rejects.toBe(reason);
    expect(accepted.length).toBe(1);
  });

  it('while the proxy is asked destroys the socket', async () => {
    const owner = new AbortController();
    const { port } = await plain(socket => socket.once('data', () => owner.abort(reason)));
    const proxy = `http://127.0.0.1:${port}`;
    await expect(dial({ proxy, signal: owner.signal })).rejects.toBe(reason);
  });

  it('in the TLS handshake with the proxy, or within it, destroys the socket', async () => {
    const outer = new AbortController();
    const mute = await plain(socket => socket.once('data', () => outer.abort(reason)));
    await expect(dial({ proxy: `https://127.0.0.1:${mute.port}`, signal: outer.signal })).rejects.toBe(reason);

    const inner = new AbortController();
    const target = await plain(socket => socket.once('data', () => inner.abort(reason)));
    const proxy = await startProxy({ to: target.port, certificate: server });
    await withWellKnown(authority.certificate, async () => {
      await expect(dial({ protocol: 'https:', proxy: proxy.url, signal: inner.signal })).rejects.toBe(reason);
    });
  });

  it('afterwards is no matter of the dialler', async () => {
    const owner = new AbortController();
    const { port } = await plain();
    const socket = await dial({ port, signal: owner.signal });
    owner.abort(reason);
    expect(socket.destroyed).toBe(false);
    socket.destroy();
  });
});

interface Proxy {
  url: string;
  /** What it was asked for: the target, and the credentials. */
  asked: [target: string | undefined, authorization?: string][];
}

/** A proxy that connects to a port of the loopback address whatever it is asked for. */
async function startProxy({ to, certificate }: { to: number; certificate?: Certificate }): Promise<Proxy> {
  const asked: Proxy['asked'] = [];
  const proxy = certificate
    ? https.createServer({ cert: certificate.certificate, key: certificate.key })
    : http.createServer();
  proxy.on('connect', ({ url, headers }: http.IncomingMessage, client: net.Socket) => {
    const authorization = headers['proxy-authorization'];
    asked.push(authorization === undefined ? [url] : [url, authorization]);
    const onward = net.connect(to, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n');
      client.pipe(onward).pipe(client);
    });
    client.on('error', () => onward.destroy()).on('close', () => onward.destroy());
    onward.on('error', () => client.destroy()).on('close', () => client.destroy());
  });
  const { port } = await listen(proxy);
  return { url: `${certificate ? 'https' : 'http'}://127.0.0.1:${port}`, asked };
}

describe('through a proxy', () => {
  const lookup = resolvesTo(PUBLIC, '93.184.216.35');

  it('the checked address is asked for, never the name', async () => {
    const target = await plain(socket => socket.end('hello'));
    const { url: proxy, asked } = await startProxy({ to: target.port });
    expect(await heard(await dial({ proxy, policy: CLOSED, lookup }))).toBe('hello');
    const v6 = resolvesTo('2606:4700:4700::1111');
    expect(await heard(await dial({ proxy, policy: CLOSED, lookup: v6, port: 8080 }))).toBe('hello');
    expect(asked).toEqual([[`${PUBLIC}:80`], ['[2606:4700:4700::1111]:8080']]);
  });

  it.each<[string, Options]>([
    ['a private address', { hostname: '10.0.0.1' }],
    ['a name of a private address', { lookup: resolvesTo(PUBLIC, '10.0.0.1') }],
    ['the address of the proxy itself', { hostname: '127.0.0.1' }],
    ['a port that is not probed', { hostname: PUBLIC, port: 22 }],
  ])('%s is still denied', async (_what, options) => {
    const target = await plain();
    const { url: proxy, asked } = await startProxy({ to: target.port });
    await expect(dial({ proxy, policy: CLOSED, ...options })).rejects.toThrow(AddressDenied);
    expect([asked, sockets.length]).toEqual([[], 0]);
  });

  it.each([undefined, server])('TLS is spoken with the server and verified for its name', async certificate => {
    const target = await listen(secured(server));
    const { url: proxy, asked } = await startProxy({ to: target.port, ...(certificate && { certificate }) });
    const options: Options = { proxy, policy: CLOSED, lookup, protocol: 'wss:', port: 443 };
    await withWellKnown(authority.certificate, async () => {
      expect(await heard(await dial(options))).toBe('mcp.example http/1.1');
      await expect(dial({ ...options, hostname: 'other.example' })).rejects.toMatchObject({
        code: 'ERR_TLS_CERT_ALTNAME_INVALID',
      });
    });
    expect(asked).toEqual([[`${PUBLIC}:443`], [`${PUBLIC}:443`]]);
  });

  it('the authorities of the target do not vouch for the proxy', async () => {
    const target = await listen(secured(server));
    const { url: proxy, asked } = await startProxy({ to: target.port, certificate: server });
    await expect(dial({ proxy, protocol: 'https:', ca: authority.certificate })).rejects.toMatchObject({
      code: 'PROXY_REFUSED',
      message: 'the proxy cannot be used: UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    });
    expect(asked).toEqual([]);
  });

  it('credentials of its URL are sent', async () => {
    const target = await plain(socket => socket.end('hello'));
    const { url, asked } = await startProxy({ to: target.port });
    const proxy = url.replace('//', '//user:p%40ss%zz@');
    expect(await heard(await dial({ proxy }))).toBe('hello');
    expect(asked).toEqual([['127.0.0.1:80', `Basic ${Buffer.from('user:p@ss%zz').toString('base64')}`]]);
  });

  it.each([
    ['a short answer', 'HTTP/1.1 200 OK\r\n\r\nhello', 'hello'],
    ['an answer with nothing after it', 'HTTP/1.0 204 x\r\nContent-Length: 5\r\n\r\n', ''],
    ['a long answer', `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(16_000)}\r\n\r\nhello`, 'hello'],
  ])('what comes after %s is not lost', async (_what, answer, rest) => {
    for (const step of [answer.length, 7, 1]) {
      const { port } = await plain(socket => trickle(socket, answer, step));
      expect(await heard(await dial({ proxy: `http://127.0.0.1:${port}` }))).toBe(rest);
    }
  });

  it.each([
    ['a refusal', 'HTTP/1.1 403 Forbidden by secret-host\r\n\r\nsecret', 'the proxy answered 403'],
    ['a demand for credentials', 'HTTP/1.1 407 Proxy Authentication Required\r\n\r\n', 'the proxy answered 407'],
    ['a redirect', 'HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n', 'the proxy answered 302'],
    ['no status', 'HTTP/1.1 2000 OK\r\n\r\n', 'the proxy does not answer in HTTP'],
    ['another HTTP', 'HTTP/2 200\r\n\r\n', 'the proxy does not answer in HTTP'],
    ['another protocol', '220 mail.example ESMTP\r\n\r\n', 'the proxy does not answer in HTTP'],
    ['an empty header', '\r\n\r\n', 'the proxy does not answer in HTTP'],
    ['half a header', 'HTTP/1.1 200 OK\r\n', 'the proxy cannot be used: ECONNRESET'],
    ['nothing', '', 'the proxy cannot be used: ECONNRESET'],
    ['a book', `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(17_000)}\r\n\r\n`, "the proxy's answer is longer than 16 KiB"],
  ])('%s is taken for no connection', async (_what, answer, message) => {
    const { port } = await plain(socket => trickle(socket, answer, 4_096));
    const refusal = dial({ proxy: `http://127.0.0.1:${port}` });
    await expect(refusal).rejects.toThrow(ProxyRefused);
    await expect(refusal).rejects.toMatchObject({ code: 'PROXY_REFUSED', message });
  });

  it('endless headers end', async () => {
    let sent = 0;
    const { port } = await plain(socket => {
      socket.resume().write('HTTP/1.1 200 OK\r\n');
      const more = (): void => {
        sent += 1_024;
        if (!socket.destroyed) socket.write(`X: ${'x'.repeat(1_019)}\r\n`, () => setImmediate(more));
      };
      more();
    });
    await expect(dial({ proxy: `http://127.0.0.1:${port}` })).rejects.toThrow('longer than 16 KiB');
    expect(sent).toBeGreaterThan(16 * 1024);
  });

  it('that is down, it is the proxy that cannot be used, and not the server', async () => {
    const proxy = `http://127.0.0.1:${await closedPort()}`;
    await expect(dial({ proxy })).rejects.toMatchObject({
      code: 'PROXY_REFUSED',
      message: 'the proxy cannot be used: ECONNREFUSED',
    });
  });
});

/** Says something in pieces once it was spoken to, and ends. */
function trickle(socket: net.Socket, text: string, step: number): void {
  socket.setNoDelay().once('data', () => {
    let at = 0;
    const next = (): void => {
      if (at >= text.length) socket.end();
      else socket.write(text.slice(at, at + step), () => setImmediate(next));
      at += step;
    };
    next();
  });
}

describe('undici', () => {
  async function get(url: string, options: Options = {}): Promise<string> {
    const { policy = LOOPBACK, lookup = resolvesTo('127.0.0.1'), ca = authority.certificate, proxy } = options;
    const { signal } = new AbortController();
    signals.push(signal);
    const dialer = createDialer({ guard: createGuard(policy, lookup), proxy });
    const dispatcher = new Agent({ connect: connector(dialer, { ca, signal }) });
    try {
      return await (await fetch(url, { dispatcher })).text();
    } finally {
      await dispatcher.destroy();
    }
  }
  const answer: http.RequestListener = ({ headers }, response) => response.end(`hello ${headers.host}`);
  const encrypted = (): https.Server =>
    https.createServer({ cert: server.certificate, key: server.key }, answer).on('tlsClientError', () => {});

  it('dials by name and literal, plain and over TLS', async () => {
    const { port } = await listen(http.createServer(answer));
    const { port: securePort } = await listen(encrypted());
    for (const url of [`http://mcp.example:${port}`, `http://127.1:${port}`, `https://mcp.example:${securePort}`]) {
      expect(await get(url)).toBe(`hello ${new URL(url).host}`);
    }
  });

  it('dials through a proxy, at the default ports', async () => {
    const { port } = await listen(http.createServer(answer));
    const { port: securePort } = await listen(encrypted());
    const [clear, secure] = [await startProxy({ to: port }), await startProxy({ to: securePort })];
    const behind = { policy: CLOSED, lookup: resolvesTo(PUBLIC) };
    expect(await get('http://mcp.example', { ...behind, proxy: clear.url })).toBe('hello mcp.example');
    expect(await get('https://mcp.example', { ...behind, proxy: secure.url })).toBe('hello mcp.example');
    expect([...clear.asked, ...secure.asked]).toEqual([[`${PUBLIC}:80`], [`${PUBLIC}:443`]]);
  });

  it('is told why not', async () => {
    const { port } = await listen(encrypted());
    await expect(get('http://[::1]/', { policy: CLOSED })).rejects.toMatchObject({
      cause: { code: 'ADDRESS_DENIED' },
    });
    await expect(get(`https://other.example:${port}`)).rejects.toMatchObject({
      cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' },
    });
  });
});

describe('ws', () => {
  /** A server that says what it heard, over either. */
  async function echo(secure: boolean): Promise<Listening> {
    const base = secure ? https.createServer({ cert: server.certificate, key: server.key }) : http.createServer();
    base.on('tlsClientError', () => {});
    new WebSocketServer({ server: base }).on('connection', socket =>
      socket.on('message', data => socket.send(`heard ${data}`)),
    );
    return listen(base);
  }

  function open(url: string, { proxy, ...options }: Options = {}): WebSocket {
    const { policy = LOOPBACK, lookup = resolvesTo('127.0.0.1'), ca = authority.certificate } = options;
    const { signal = new AbortController().signal } = options;
    signals.push(signal);
    const dialer = createDialer({ guard: createGuard(policy, lookup), proxy });
    const protocol = new URL(url).protocol as Destination['protocol'];
    return new WebSocket(url, { agent: agent(dialer, { protocol, ca, signal }) });
  }

  async function talk(socket: WebSocket): Promise<string> {
    await once(socket, 'open');
    socket.send('hello');
    const [data] = await once(socket, 'message');
    socket.close();
    await once(socket, 'close');
    return String(data);
  }

  it.each(['ws', 'wss'])('talks over %s, directly and through a proxy', async scheme => {
    const { port, accepted } = await echo(scheme === 'wss');
    const { url: proxy, asked } = await startProxy({ to: port });
    expect(await talk(open(`${scheme}://mcp.example:${port}/mcp`))).toBe('heard hello');
    expect(await talk(open(`${scheme}://127.0.0.1:${port}/mcp`))).toBe('heard hello');
    const behind = { proxy, policy: CLOSED, lookup: resolvesTo(PUBLIC) };
    expect(await talk(open(`${scheme}://mcp.example/mcp`, behind))).toBe('heard hello');
    expect(asked).toEqual([[`${PUBLIC}:${scheme === 'wss' ? 443 : 80}`]]);
    expect(accepted.length).toBe(3);
  });

  it('is told why not', async () => {
    const { port } = await echo(true);
    const [denied] = await once(open('ws://10.0.0.1/mcp'), 'error');
    expect(denied).toMatchObject({ code: 'ADDRESS_DENIED' });
    const [untrusted] = await once(
      open(`wss://mcp.example:${port}`, { ca: createAuthority('x').certificate }),
      'error',
    );
    expect(untrusted).toMatchObject({ code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
  });

  it('that gave up before it was connected keeps no socket', async () => {
    const { port } = await echo(false);
    const answer = Promise.withResolvers<string[]>();
    const socket = open(`ws://mcp.example:${port}`, { lookup: () => answer.promise });
    const failed = once(socket, 'error');
    socket.terminate();
    await failed;
    answer.resolve(['127.0.0.1']);
    const [dialled] = await once(made, 'socket');
    await once(dialled, 'close');
  });
});
