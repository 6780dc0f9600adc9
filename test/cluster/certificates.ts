// X.509 certificates for a cluster of one machine. Node makes keys and signatures but no certificates, and the
// openssl command is not on every machine; the DER of RFC 5280 that is needed here is small.
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import { isIP } from 'node:net';

export interface KeyPair {
  privateKey: KeyObject;
  publicKey: KeyObject;
}

export interface Certificate {
  /** PEM. */
  certificate: string;
  /** PEM, PKCS #8. */
  key: string;
}

export interface Authority extends Certificate {
  issue(subject: Subject): Certificate;
}

export interface Subject {
  commonName: string;
  /** Kubernetes reads a client's groups from here. */
  organization?: string;
  /** DNS names and IPv4 addresses that a server answers for. */
  names?: readonly string[];
  /** In ms since 1970; a year from now unless given. */
  validity?: { from: number; until: number };
}

const VALID_MS = 365 * 24 * 60 * 60 * 1_000;
const CLOCK_SKEW_MS = 60 * 60 * 1_000;

/** A new certificate authority: ECDSA P-256, valid for a year. */
export function createAuthority(commonName: string): Authority {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const authority = { name: nameOf({ commonName }), pair };
  return {
    certificate: certificatePem(authority, { commonName }, pair, true),
    key: keyPem(pair.privateKey),
    issue(subject) {
      const leaf = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      return { certificate: certificatePem(authority, subject, leaf, false), key: keyPem(leaf.privateKey) };
    },
  };
}

/** A server's certificate that nobody but itself vouches for. */
export function createSelfSigned(subject: Subject): Certificate {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const self = { name: nameOf(subject), pair };
  return { certificate: certificatePem(self, subject, pair, false), key: keyPem(pair.privateKey) };
}

export function keyPem(key: KeyObject): string {
  return key.export({ type: key.type === 'public' ? 'spki' : 'pkcs8', format: 'pem' }).toString();
}

function certificatePem(
  issuer: { name: Buffer; pair: KeyPair },
  subject: Subject,
  pair: KeyPair,
  isAuthority: boolean,
): string {
  const now = Date.now();
  const { from, until } = subject.validity ?? { from: now - CLOCK_SKEW_MS, until: now + VALID_MS };
  const spki = pair.publicKey.export({ type: 'spki', format: 'der' });
  const toBeSigned = sequence(
    tagged(0, integer(Buffer.from([2]))), // v3
    integer(Buffer.concat([Buffer.from([1]), randomBytes(15)])),
    ECDSA_WITH_SHA256,
    issuer.name,
    sequence(time(from), time(until)),
    nameOf(subject),
    spki,
    tagged(3, sequence(...extensions(subject, isAuthority, issuer.pair, pair))),
  );
  const signature = sign('sha256', toBeSigned, issuer.pair.privateKey);
  const der = sequence(toBeSigned, ECDSA_WITH_SHA256, bitString(signature));
  return `-----BEGIN CERTIFICATE-----\n${der.toString('base64').replace(/.{1,64}/g, '$&\n')}-----END CERTIFICATE-----\n`;
}

function extensions(subject: Subject, isAuthority: boolean, issuer: KeyPair, own: KeyPair): Buffer[] {
  const keyIds = [
    extension('2.5.29.14', false, der(0x04, keyId(own))),
    extension('2.5.29.35', false, sequence(der(0x80, keyId(issuer)))),
  ];
  if (isAuthority) {
    return [
      extension('2.5.29.19', true, sequence(der(0x01, Buffer.from([0xff])))), // basicConstraints: CA
      extension('2.5.29.15', true, der(0x03, Buffer.from([1, 0x06]))), // keyUsage: keyCertSign, cRLSign
      ...keyIds,
    ];
  }
  const names = (subject.names ?? []).map(name =>
    isIP(name) === 4 ? der(0x87, Buffer.from(name.split('.').map(Number))) : der(0x82, Buffer.from(name, 'ascii')),
  );
  return [
    extension('2.5.29.15', true, der(0x03, Buffer.from([7, 0x80]))), // keyUsage: digitalSignature
    // extKeyUsage: serverAuth, clientAuth
    extension('2.5.29.37', false, sequence(oid('1.3.6.1.5.5.7.3.1'), oid('1.3.6.1.5.5.7.3.2'))),
    ...keyIds,
    ...(names.length > 0 ? [extension('2.5.29.17', false, sequence(...names))] : []),
  ];
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [der(0x01, Buffer.from([0xff]))] : []), der(0x04, value));
}

function nameOf({ commonName, organization }: Subject): Buffer {
  const attribute = (id: string, value: string) => der(0x31, sequence(oid(id), der(0x0c, Buffer.from(value))));
  return sequence(
    ...(organization === undefined ? [] : [attribute('2.5.4.10', organization)]),
    attribute('2.5.4.3', commonName),
  );
}

function keyId(pair: KeyPair): Buffer {
  return createHash('sha1')
    .update(pair.publicKey.export({ type: 'spki', format: 'der' }))
    .digest();
}

function der(tag: number, ...contents: Buffer[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  const header = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...header]), content]);
}

function sequence(...contents: Buffer[]): Buffer {
  return der(0x30, ...contents);
}

function tagged(number: number, content: Buffer): Buffer {
  return der(0xa0 + number, content);
}

/** The bytes are the number itself, big-endian, its first bit 0. */
function integer(bytes: Buffer): Buffer {
  return der(0x02, bytes);
}

function bitString(bytes: Buffer): Buffer {
  return der(0x03, Buffer.from([0]), bytes);
}

/** UTCTime; fit until 2049, as RFC 5280 wants. */
function time(ms: number): Buffer {
  return der(0x17, Buffer.from(`${new Date(ms).toISOString().replace(/\D/g, '').slice(2, 14)}Z`, 'ascii'));
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const part of rest) {
    const septets = [part & 0x7f];
    for (let left = part >> 7; left > 0; left >>= 7) septets.unshift((left & 0x7f) | 0x80);
    bytes.push(...septets);
  }
  return der(0x06, Buffer.from(bytes));
}

const ECDSA_WITH_SHA256 = sequence(oid('1.2.840.10045.4.3.2'));
