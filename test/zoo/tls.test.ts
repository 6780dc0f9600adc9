/** TLS: who may be trusted, and handshakes that come to nothing. */
import { DEFAULT_CIPHERS } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { createAuthority, createSelfSigned } from '../cluster/certificates.ts';
import { probe, sending, trusting } from './probing.ts';
import { drip, legacy, modern, startHttp, startRaw, startTcp } from './servers.ts';
import { type Case, NOT_MCP, RESET, SHORT, TIMEOUT, TLS, testCases, VERIFIED, verdictOf } from './verdicts.ts';

const DAY = 86_400_000;
const authority = createAuthority('zoo');
const stranger = createAuthority('stranger');
const NAMES = { commonName: 'zoo', names: ['127.0.0.1', 'localhost'] };
const good = authority.issue(NAMES);
const expired = authority.issue({ ...NAMES, validity: { from: Date.now() - 2 * DAY, until: Date.now() - DAY } });
const early = authority.issue({ ...NAMES, validity: { from: Date.now() + DAY, until: Date.now() + 2 * DAY } });
const elsewhere = authority.issue({ commonName: '127.0.0.1', names: ['mcp.example.com', '10.0.0.1'] });
const own = createSelfSigned(NAMES);

const serve =
  ({ certificate: cert, key }: { certificate: string; key: string }, options: object = {}) =>
  () =>
    startHttp(legacy, { tls: { cert, key, ...options } });
const KNOWN = trusting(authority.certificate);

describe('a server behind TLS', () => {
  testCases({
    'of a private authority that is given': { server: serve(good), target: KNOWN, verdict: VERIFIED },
    'of a private authority among several that are given': {
      server: serve(good),
      target: trusting(`${stranger.certificate}${authority.certificate}`),
      verdict: VERIFIED,
    },
    'of a private authority that is not given': { server: serve(good), verdict: TLS },
    'of another authority than the one given': {
      server: serve(good),
      target: trusting(stranger.certificate),
      verdict: TLS,
    },
    ...Object.fromEntries(
      (['TLSv1.2', 'TLSv1.3'] as const).map((version): [string, Case] => [
        `that wants a certificate of its clients (${version})`,
        {
          server: serve(good, {
            requestCert: true,
            rejectUnauthorized: true,
            ca: authority.certificate,
            minVersion: version,
            maxVersion: version,
          }),
          target: KNOWN,
          verdict: TLS,
          outcome: { code: expect.stringContaining('ALERT') },
        },
      ]),
    ),
    'that is self-signed': {
      server: serve(own),
      verdict: TLS,
      outcome: { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' },
    },
    'of a certificate that is for authorities, not for servers': {
      server: serve(authority),
      target: KNOWN,
      verdict: TLS,
    },
    'of another name': {
      server: serve(elsewhere),
      target: KNOWN,
      verdict: TLS,
      outcome: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' },
    },
    'that has expired': { server: serve(expired), target: KNOWN, verdict: TLS, outcome: { code: 'CERT_HAS_EXPIRED' } },
    'that is not valid yet': {
      server: serve(early),
      target: KNOWN,
      verdict: TLS,
      outcome: { code: 'CERT_NOT_YET_VALID' },
    },
    'of TLS 1.0 and 1.1 only': {
      server: serve(good, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: `${DEFAULT_CIPHERS}:@SECLEVEL=0` }),
      target: KNOWN,
      verdict: TLS,
    },
    'of TLS 1.2 only': { server: serve(good, { maxVersion: 'TLSv1.2' }), target: KNOWN, verdict: VERIFIED },
    'of TLS 1.3 only': { server: serve(good, { minVersion: 'TLSv1.3' }), target: KNOWN, verdict: VERIFIED },
    // The public web's authorities only; the operator has no certificate of its own to show.
    'that wants a certificate of the client': {
      server: serve(good, { requestCert: true, ca: stranger.certificate }),
      target: KNOWN,
      verdict: [TLS, RESET],
    },
    'that speaks HTTP/2 as well': {
      server: () => startHttp(legacy, { tls: { cert: good.certificate, key: good.key }, h2: true }),
      target: KNOWN,
      verdict: VERIFIED,
    },
    'whose handshake never ends': { server: () => startTcp(() => {}, 'https'), target: SHORT, verdict: TIMEOUT },
    'whose handshake comes byte by byte': {
      server: () =>
        startTcp(socket => {
          socket.once('data', () => {
            // A record of 16 KiB, of which the bytes never end.
            socket.write(Buffer.from('1603034000', 'hex'));
            drip(socket, socket, 20, () => '\u0002');
          });
        }, 'https'),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'that closes in the handshake': {
      server: async () => {
        const animal = await startRaw(socket => void socket.end());
        return { ...animal, url: animal.url.replace('http:', 'https:') };
      },
      verdict: [RESET, TLS],
    },
    'that answers with an alert': {
      // A fatal alert, handshake_failure.
      server: () =>
        startTcp(socket => socket.once('data', () => socket.end(Buffer.from('15030300020228', 'hex'))), 'https'),
      verdict: TLS,
    },
    'that speaks none': {
      server: async () => {
        const animal = await startHttp(legacy);
        return { ...animal, url: animal.url.replace('http:', 'https:') };
      },
      verdict: TLS,
    },
    'that is spoken to without': {
      // Which of them, depends on how the server ends what it does not understand.
      server: async () => {
        const animal = await serve(good)();
        return { ...animal, url: animal.url.replace('https:', 'http:') };
      },
      verdict: [RESET, NOT_MCP],
    },
  });

  it('gets no secrets when it is not trusted', async () => {
    await using animal = await startHttp(modern, { tls: { cert: own.certificate, key: own.key } });
    expect(verdictOf(await probe(animal.url, sending({ authorization: 'Bearer s3cret' })))).toEqual(TLS);
    expect(animal.requests).toEqual([]);
  });

  it('is trusted for its own name, whatever address that resolves to', async () => {
    await using animal = await startHttp(modern, { host: 'localhost', tls: { cert: good.certificate, key: good.key } });
    expect(verdictOf(await probe(animal.url, KNOWN))).toEqual(VERIFIED);
  });

  it('of a bundle that is no certificate is not taken for trusted', async () => {
    await using animal = await serve(good)();
    const { outcome } = await probe(animal.url, trusting('hello'));
    expect(outcome.kind).toBeOneOf(['tls', 'credentials-missing', 'broken']);
  });
});
