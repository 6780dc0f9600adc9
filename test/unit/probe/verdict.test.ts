import { describe, expect, it } from 'vitest';
import { CONDITIONS } from '../../../src/api/connector.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import { type Judgement, judge } from '../../../src/probe/verdict.ts';

const ANSWERED = { status: 'True', reason: 'Answered', message: 'the server answers' };
const NOT_ASKED = { status: 'Unknown', reason: 'Pending', message: 'the server could not be asked' };

const unreachable = (reason: string, message: string) => ({
  conclusive: true,
  verdict: {
    reachable: { status: 'False', reason, message },
    verified: NOT_ASKED,
    authorized: NOT_ASKED,
    healthy: false,
  },
});
const unverified = (reason: string, message: string) => ({
  conclusive: true,
  verdict: {
    reachable: ANSWERED,
    verified: { status: 'False', reason, message },
    authorized: { status: 'Unknown', reason: 'Pending', message: 'not known before the server speaks MCP' },
    healthy: false,
  },
});
const VERIFIED = { status: 'True', reason: 'MCPVerified', message: 'the server speaks MCP 2025-11-25' };
const NOT_REQUIRED = { status: 'True', reason: 'NotRequired', message: 'the server answers without credentials' };
const ACCEPTED = {
  status: 'True',
  reason: 'CredentialsAccepted',
  message: 'the server accepts the headers of spec.probe.headers',
};

const server = {
  name: 'GitHub',
  version: '1.0.0',
  protocolVersion: '2025-11-25',
  capabilities: ['tools'],
  tools: { names: ['a'], count: 1, hash: 'sha256:x' },
};
const challenge = { resourceMetadataUrl: 'https://mcp.example.com/meta', scopes: ['read', 'write'] };

interface Case {
  outcome: Outcome;
  credentials?: boolean;
  url?: string;
  expected: object;
}

const CASES: Record<string, Case> = {
  'an MCP server that wants authorization before it lists its tools': {
    outcome: { kind: 'answered', server, refusal: { kind: 'unauthorized', challenge } },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server answers 401 and says how to authorize: each user signs in with their client',
        },
        healthy: true,
        server,
        authorization: challenge,
      },
    },
  },
  'an MCP server that rejects the credentials when it is asked for its tools': {
    outcome: { kind: 'answered', server, refusal: { kind: 'unauthorized', challenge: undefined } },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: {
          status: 'False',
          reason: 'CredentialsRejected',
          message: 'the server answers 401 to the headers of spec.probe.headers: renew the Secret they come from',
        },
        healthy: false,
        server,
      },
    },
  },
  'an MCP server': {
    outcome: { kind: 'answered', server },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: NOT_REQUIRED,
        healthy: true,
        server,
      },
    },
  },
  'an MCP server that answers 403 for its tools': {
    outcome: { kind: 'answered', server, forbidden: true },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: NOT_REQUIRED,
        healthy: true,
        server,
      },
    },
  },
  'an MCP server that answers 403 to the credentials when it is asked for its tools': {
    outcome: { kind: 'answered', server, forbidden: true },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: {
          status: 'Unknown',
          reason: 'Pending',
          message:
            'the server answers 403 when it is asked for its tools: the headers of spec.probe.headers may not suffice for that',
        },
        healthy: true,
        server,
      },
    },
  },
  'an MCP server that took the credentials': {
    outcome: { kind: 'answered', server },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: VERIFIED,
        authorized: ACCEPTED,
        healthy: true,
        server,
      },
    },
  },
  'an MCP server that is busy': {
    outcome: { kind: 'busy' },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: {
          status: 'True',
          reason: 'MCPVerified',
          message: 'the server speaks MCP; it serves one session at a time and has one now',
        },
        authorized: NOT_REQUIRED,
        healthy: true,
      },
    },
  },
  'a 401 that says how to authorize': {
    outcome: { kind: 'unauthorized', challenge },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server wants authorization before it shows whether it speaks MCP',
        },
        authorized: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server answers 401 and says how to authorize: each user signs in with their client',
        },
        healthy: true,
        authorization: challenge,
      },
    },
  },
  'a bare 401': {
    outcome: { kind: 'unauthorized', challenge: undefined },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server wants authorization before it shows whether it speaks MCP',
        },
        authorized: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server answers 401 and does not say how to authorize',
        },
        healthy: true,
      },
    },
  },
  'a 401 to credentials': {
    outcome: { kind: 'unauthorized', challenge },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: { status: 'Unknown', reason: 'Pending', message: 'the server wants other credentials first' },
        authorized: {
          status: 'False',
          reason: 'CredentialsRejected',
          message: 'the server answers 401 to the headers of spec.probe.headers: renew the Secret they come from',
        },
        healthy: false,
        authorization: challenge,
      },
    },
  },
  'credentials that lack scopes': {
    outcome: { kind: 'insufficient-scope', challenge },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: { status: 'Unknown', reason: 'Pending', message: 'the server wants wider credentials first' },
        authorized: {
          status: 'False',
          reason: 'InsufficientScope',
          message: 'the credentials lack a scope that the server wants: read write',
        },
        healthy: false,
        authorization: challenge,
      },
    },
  },
  'credentials that lack a scope that is not named': {
    outcome: { kind: 'insufficient-scope', challenge: {} },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: { status: 'Unknown', reason: 'Pending', message: 'the server wants wider credentials first' },
        authorized: {
          status: 'False',
          reason: 'InsufficientScope',
          message: 'the credentials lack a scope that the server wants',
        },
        healthy: false,
        authorization: {},
      },
    },
  },
  'a 403 that wants a scope of who has shown nothing': {
    outcome: { kind: 'insufficient-scope', challenge: { scopes: ['read'] } },
    expected: {
      conclusive: true,
      verdict: {
        reachable: ANSWERED,
        verified: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message: 'the server wants authorization before it shows whether it speaks MCP',
        },
        authorized: {
          status: 'Unknown',
          reason: 'AuthorizationRequired',
          message:
            'the server answers 403 (insufficient_scope) and says how to authorize: each user signs in with their client',
        },
        healthy: true,
        authorization: { scopes: ['read'] },
      },
    },
  },
  'a 429': {
    outcome: { kind: 'rate-limited', retryAfterMs: 7_000 },
    expected: {
      conclusive: false,
      retryAfterMs: 7_000,
      verdict: {
        reachable: ANSWERED,
        verified: {
          status: 'Unknown',
          reason: 'RateLimited',
          message: 'the server answers 429 (too many requests); asking again later',
        },
        authorized: {
          status: 'Unknown',
          reason: 'Pending',
          message: 'the server answers 429 (too many requests); asking again later',
        },
        healthy: false,
      },
    },
  },
  'a 404': {
    outcome: { kind: 'http-error', status: 404 },
    expected: unreachable(
      'NotFound',
      'mcp.example.com answers 404 at this path: check the path of spec.serverUrl, often /mcp',
    ),
  },
  'a 410': {
    outcome: { kind: 'http-error', status: 410 },
    expected: unreachable(
      'NotFound',
      'mcp.example.com answers 410 at this path: check the path of spec.serverUrl, often /mcp',
    ),
  },
  'a 403': {
    outcome: { kind: 'http-error', status: 403 },
    expected: unreachable(
      'Forbidden',
      'mcp.example.com answers 403: it refuses this client, by its Host, Origin or address; allow the operator there',
    ),
  },
  'a 421': {
    outcome: { kind: 'http-error', status: 421 },
    expected: unreachable(
      'Forbidden',
      'mcp.example.com answers 421: it refuses this client, by its Host, Origin or address; allow the operator there',
    ),
  },
  'a 500': {
    outcome: { kind: 'http-error', status: 500 },
    expected: unreachable('ServerError', "mcp.example.com answers 500: look into the server's own logs"),
  },
  'a redirect': {
    outcome: { kind: 'redirected', to: 'https://login.example.com/' },
    expected: unreachable(
      'Redirected',
      'mcp.example.com redirects to https://login.example.com/: set spec.serverUrl to the URL that answers',
    ),
  },
  HTML: {
    outcome: { kind: 'not-mcp', why: 'it answers text/html' },
    expected: unverified(
      'NotMCP',
      'what answers at mcp.example.com is no MCP server: it answers text/html; check spec.serverUrl',
    ),
  },
  'an unknown revision': {
    outcome: { kind: 'protocol-mismatch', why: '1999-01-01' },
    expected: unverified('ProtocolMismatch', 'the server speaks no MCP revision that the operator knows: 1999-01-01'),
  },
  'a name that does not resolve': {
    outcome: { kind: 'dns', code: 'ENOTFOUND' },
    expected: unreachable(
      'DNSFailure',
      "the name mcp.example.com does not resolve (ENOTFOUND): check spec.serverUrl and the cluster's DNS",
    ),
  },
  'a closed port': {
    outcome: { kind: 'refused' },
    expected: unreachable(
      'ConnectionRefused',
      'nothing listens at mcp.example.com:443: check the port, and that the server runs',
    ),
  },
  'a closed port that the URL names': {
    outcome: { kind: 'refused' },
    url: 'http://mcp.example.com:8000/mcp',
    expected: unreachable(
      'ConnectionRefused',
      'nothing listens at mcp.example.com:8000: check the port, and that the server runs',
    ),
  },
  'a closed port of plain HTTP': {
    outcome: { kind: 'refused' },
    url: 'http://mcp.example.com/mcp',
    expected: unreachable(
      'ConnectionRefused',
      'nothing listens at mcp.example.com:80: check the port, and that the server runs',
    ),
  },
  'a closed port of a secure WebSocket': {
    outcome: { kind: 'refused' },
    url: 'wss://mcp.example.com/mcp',
    expected: unreachable(
      'ConnectionRefused',
      'nothing listens at mcp.example.com:443: check the port, and that the server runs',
    ),
  },
  'a broken connection': {
    outcome: { kind: 'reset', code: 'ECONNRESET' },
    expected: unreachable(
      'ConnectionReset',
      'the connection to mcp.example.com:443 broke (ECONNRESET): check the network between, and whether the port speaks https://',
    ),
  },
  'a certificate of an unknown authority': {
    outcome: { kind: 'tls', code: 'SELF_SIGNED_CERT_IN_CHAIN' },
    expected: unreachable(
      'TLSInvalid',
      'the certificate of mcp.example.com cannot be trusted (SELF_SIGNED_CERT_IN_CHAIN): renew it, or name its authority in spec.probe.caBundle',
    ),
  },
  'no answer': {
    outcome: { kind: 'timeout', afterMs: 2_500 },
    expected: unreachable('Timeout', 'mcp.example.com:443 gave no MCP answer within 2.5 s'),
  },
  'a denied address': {
    outcome: { kind: 'address-denied', why: '10.0.0.1 is not a public address (private): ask' },
    expected: unreachable('AddressDenied', '10.0.0.1 is not a public address (private): ask'),
  },
  'missing credentials': {
    outcome: { kind: 'credentials-missing', why: 'Secret x lacks key y' },
    credentials: true,
    expected: {
      conclusive: true,
      verdict: {
        reachable: { status: 'Unknown', reason: 'Pending', message: 'Secret x lacks key y' },
        verified: { status: 'Unknown', reason: 'Pending', message: 'Secret x lacks key y' },
        authorized: { status: 'Unknown', reason: 'Pending', message: 'Secret x lacks key y' },
        healthy: false,
        credentialsMissing: 'Secret x lacks key y',
      },
    },
  },
  'a probe that broke': {
    outcome: { kind: 'broken', why: 'out of sockets' },
    expected: {
      conclusive: false,
      verdict: {
        reachable: { status: 'Unknown', reason: 'Pending', message: 'the probe could not be made: out of sockets' },
        verified: { status: 'Unknown', reason: 'Pending', message: 'the probe could not be made: out of sockets' },
        authorized: { status: 'Unknown', reason: 'Pending', message: 'the probe could not be made: out of sockets' },
        healthy: false,
      },
    },
  },
};

const judged = ({ outcome, credentials = false, url = 'https://mcp.example.com/mcp' }: Case): Judgement =>
  judge(outcome, { url, credentials });

describe('the verdict on', () => {
  it.each(Object.entries(CASES))('%s', (_name, one) => {
    expect(judged(one)).toStrictEqual(one.expected);
  });

  it('a 429 without Retry-After names no time', () => {
    const judgement = judge(
      { kind: 'rate-limited', retryAfterMs: undefined },
      { url: 'https://mcp.example.com', credentials: false },
    );
    expect('retryAfterMs' in judgement).toBe(false);
  });

  it('each kind of outcome is in the table', () => {
    // Complete by type: a new kind does not compile until it is here, and then fails until the table has it.
    const kinds: Record<Outcome['kind'], true> = {
      answered: true,
      busy: true,
      unauthorized: true,
      'insufficient-scope': true,
      'rate-limited': true,
      'http-error': true,
      redirected: true,
      'not-mcp': true,
      'protocol-mismatch': true,
      dns: true,
      refused: true,
      reset: true,
      tls: true,
      timeout: true,
      'address-denied': true,
      'credentials-missing': true,
      broken: true,
    };
    expect(new Set(Object.values(CASES).map(({ outcome }) => outcome.kind))).toEqual(new Set(Object.keys(kinds)));
  });
});

describe('the reasons of verdicts', () => {
  /** Given by the spec alone, before anything is probed, or by comparing with the spec. */
  const OF_THE_SPEC = ['ProbeDisabled', 'Maintenance', 'ToolsChanged'];
  const verdicts = Object.values(CASES).map(one => judged(one).verdict);

  it.each([
    ['Reachable', 'reachable'],
    ['Verified', 'verified'],
    ['Authorized', 'authorized'],
  ] as const)('reach all that %s can say, and nothing else', (type, aspect) => {
    const given = new Set(verdicts.map(verdict => `${verdict[aspect].status} ${verdict[aspect].reason}`));
    const { True, False, Unknown } = CONDITIONS[type];
    const known = Object.entries({ True, False, Unknown }).flatMap(([status, reasons]) =>
      reasons.filter(reason => !OF_THE_SPEC.includes(reason)).map(reason => `${status} ${reason}`),
    );
    expect(given).toEqual(new Set(known));
  });
});
