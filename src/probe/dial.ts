/** The one place that opens sockets for probes: only to addresses that the guard has judged, also through a proxy. */

import { X509Certificate } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { unescape as percentDecode } from 'node:querystring';
import tls from 'node:tls';
import type { buildConnector } from 'undici';
import { canonicalHost, type Guard, portOf } from './guard.ts';

export interface Destination {
  protocol: 'http:' | 'https:' | 'ws:' | 'wss:';
  /** Of a URL: a name, or a literal with or without brackets. */
  hostname: string;
  port: number;
  /** PEM certificates of authorities to trust beside the well-known ones. */
  ca: string | undefined;
  /** Ends the dialling; a socket that was handed over is its owner's. */
  signal: AbortSignal;
}

/**
 * Gives a connected socket; for https and wss a TLSSocket whose certificate was verified. Rejects with AddressDenied,
 * InvalidCa, ProxyRefused, what resolver or connection failed with, or the signal's reason; then nothing stays open.
 */
export type Dialer = (destination: Destination) => Promise<net.Socket>;

/** The authorities to trust cannot be read. */
export class InvalidCa extends Error {
  override name = 'InvalidCa';
  readonly code = 'INVALID_CA';
}

/** The proxy cannot be reached, or did not connect us. The message names neither it nor what it said. */
export class ProxyRefused extends Error {
  override name = 'ProxyRefused';
  readonly code = 'PROXY_REFUSED';
}

export interface DialerOptions {
  guard: Guard;
  /** An http or https URL to send CONNECT to. It is the admin's word and not judged; HTTP_PROXY and the like are not read. */
  proxy?: string | undefined;
}

/** For each of several addresses: Node gives an attempt up when it begins the next one, and one lost SYN takes 1 s. */
const ATTEMPT_MS = 2_000;
const MAX_PROXY_HEADER_BYTES = 16 * 1024;

export function createDialer({ guard, proxy }: DialerOptions): Dialer {
  const via = proxy === undefined ? undefined : new URL(proxy);
  return async ({ protocol, hostname, port, ca, signal }) => {
    signal.throwIfAborted();
    const name = canonicalHost(hostname);
    const secure = isSecure(protocol);
    const addresses = await unlessAborted(guard.resolve(name, port), signal);
    const trust = secure && ca !== undefined ? trusting(ca) : undefined;
    const socket = await (via ? connectVia(via, addresses[0], port, signal) : connect(name, addresses, port, signal));
    return secure ? startTls(socket, name, trust, signal) : socket;
  };
}

/** Dials for undici. */
export function connector(dial: Dialer, { ca, signal }: Pick<Destination, 'ca' | 'signal'>): buildConnector.connector {
  return ({ hostname, port, ...options }, callback) => {
    const protocol = options.protocol === 'https:' ? 'https:' : 'http:';
    dial({ protocol, hostname, port: portOf({ protocol, port }), ca, signal }).then(
      socket => callback(null, socket),
      error => callback(error, null),
    );
  };
}

/** Dials for node:http and what builds on it, such as `ws`: each request has a connection of its own. */
export function agent(
  dial: Dialer,
  { protocol, ca, signal }: Pick<Destination, 'protocol' | 'ca' | 'signal'>,
): http.Agent {
  // Node refuses an http agent for https requests. A socket that a callback gives is used as it is: no second TLS.
  const made = isSecure(protocol) ? new https.Agent() : new http.Agent();
  made.createConnection = ({ host, port }, callback) => {
    dial({ protocol, hostname: host ?? '', port: Number(port), ca, signal }).then(
      socket => callback?.(null, socket),
      // Its type does not know that there is no stream then.
      error => callback?.(error, undefined as never),
    );
    return undefined;
  };
  return made;
}

const isSecure = (protocol: Destination['protocol']): boolean => protocol === 'https:' || protocol === 'wss:';

/** Connects to whichever of the addresses of a name answers; nobody asks a resolver again. */
async function connect(
  name: string,
  addresses: readonly string[],
  port: number,
  signal: AbortSignal,
): Promise<net.Socket> {
  const answers = addresses.map(address => ({ address, family: net.isIP(address) }));
  const lookup: net.LookupFunction = (_name, _options, done) => done(null, answers);
  const host = addresses.length === 1 ? addresses[0] : name;
  const socket = net.connect({
    host,
    port,
    lookup,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: ATTEMPT_MS,
    noDelay: true,
  });
  await until(socket, 'connect', signal);
  return socket;
}

/** Connects to an address through a proxy. One address is enough: the proxy says too late, or never, that one is dead. */
async function connectVia(proxy: URL, address: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  const { protocol, hostname, username, password } = proxy;
  const name = canonicalHost(hostname);
  const to = `${net.isIPv6(address) ? `[${address}]` : address}:${port}`;
  const user = Buffer.from(`${percentDecode(username)}:${percentDecode(password)}`).toString('base64');
  try {
    const plain = net.connect({ host: name, port: portOf(proxy), noDelay: true });
    await until(plain, 'connect', signal);
    const socket = protocol === 'https:' ? await startTls(plain, name, undefined, signal) : plain;
    socket.write(
      `CONNECT ${to} HTTP/1.1\r\nHost: ${to}\r\n${username && `Proxy-Authorization: Basic ${user}\r\n`}\r\n`,
    );
    await until(socket, 'readable', signal, proxyAnswer(socket));
    return socket;
  } catch (error) {
    if (signal.aborted || error instanceof ProxyRefused) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new ProxyRefused(`the proxy cannot be used: ${code}`, { cause: error });
  }
}

/** Reads the proxy's answer and no further, and says whether it is there. Throws ProxyRefused. */
function proxyAnswer(socket: net.Socket): () => boolean {
  let seen = Buffer.alloc(0);
  return () => {
    seen = Buffer.concat([seen, socket.read() ?? Buffer.alloc(0)]);
    const end = seen.indexOf('\r\n\r\n');
    if ((end < 0 ? seen.length : end) > MAX_PROXY_HEADER_BYTES) {
      throw new ProxyRefused(`the proxy's answer is longer than ${MAX_PROXY_HEADER_BYTES / 1024} KiB`);
    }
    if (end < 0) return false;
    const [, status] = /^HTTP\/1\.[01] (\d{3})\b/.exec(seen.toString('latin1', 0, end)) ?? [];
    if (status === undefined) throw new ProxyRefused('the proxy does not answer in HTTP');
    if (!status.startsWith('2')) throw new ProxyRefused(`the proxy answered ${status}`);
    socket.unshift(seen.subarray(end + 4));
    return true;
  };
}

async function startTls(
  socket: net.Socket,
  name: string,
  trust: tls.SecureContext | undefined,
  signal: AbortSignal,
): Promise<tls.TLSSocket> {
  const secure = tls.connect({
    socket,
    // Without a server name, as for literals, the certificate is checked against the host.
    host: name,
    servername: net.isIP(name) ? '' : name,
    secureContext: trust,
    ALPNProtocols: ['http/1.1'],
    rejectUnauthorized: true,
  });
  await until(secure, 'secureConnect', signal);
  return secure;
}

/** The last bundles, oldest first: most clusters have one or two, and to read one takes 25 ms of the CPU. */
const trusted = new Map<string, tls.SecureContext>();
const MAX_TRUSTED = 8;
/** All well-known authorities together are half as long. */
const MAX_PEM = 512 * 1024;

/** Trusts the well-known authorities and those of a PEM bundle. Throws InvalidCa. */
function trusting(pem: string): tls.SecureContext {
  const context = trusted.get(pem) ?? readAuthorities(pem);
  trusted.delete(pem);
  trusted.set(pem, context);
  for (const oldest of trusted.keys()) if (trusted.size > MAX_TRUSTED) trusted.delete(oldest);
  return context;
}

function readAuthorities(pem: string): tls.SecureContext {
  if (pem.length > MAX_PEM) throw new InvalidCa(`the CA bundle is longer than ${MAX_PEM / 1024} KiB`);
  // Node would pass over in silence what it cannot read.
  const own = pem.match(/-----BEGIN CERTIFICATE-----[^-]*(-----END CERTIFICATE-----)?/g) ?? [];
  try {
    if (own.length === 0) throw new Error('no certificate');
    for (const certificate of own) new X509Certificate(certificate);
    return tls.createSecureContext({ ca: [...tls.getCACertificates('default'), ...own] });
  } catch (cause) {
    throw new InvalidCa(
      'the CA bundle cannot be read: it must hold PEM certificates, each between BEGIN CERTIFICATE and END CERTIFICATE',
      { cause },
    );
  }
}

/** Waits for an event of a socket at which `arrived` is true. If anything else comes first, the socket is destroyed. */
async function until(
  socket: net.Socket,
  event: 'connect' | 'readable' | 'secureConnect',
  signal: AbortSignal,
  arrived = () => true,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onEvent = (): void => {
    try {
      if (!arrived()) return;
      // At once: what `arrived` puts back is for somebody else to read.
      socket.off(event, onEvent);
      resolve();
    } catch (error) {
      reject(error);
    }
  };
  const onClose = (): void =>
    reject(Object.assign(new Error('the connection was closed before it could be used'), { code: 'ECONNRESET' }));
  socket.on(event, onEvent).on('error', reject).on('close', onClose);
  try {
    await unlessAborted(promise, signal);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    socket.off(event, onEvent).off('error', reject).off('close', onClose);
  }
}

/** What a promise gives, unless the signal aborts before anybody could take it; undici notices an abort only once connected. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort);
  try {
    if (signal.aborted) onAbort();
    const result = await Promise.race([work, promise]);
    signal.throwIfAborted();
    return result;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
