/** Judges an outcome: pure, one line of meaning for each kind. */

import type { Finding } from '../api/connector.ts';
import { portOf } from './guard.ts';
import type { Challenge, Outcome, Refusal, ServerFacts } from './outcome.ts';

export interface Verdict {
  reachable: Finding<'Reachable'>;
  verified: Finding<'Verified'>;
  authorized: Finding<'Authorized'>;
  /** Whether a client could use the server as it is, an authorization by its user aside. */
  healthy: boolean;
  server?: ServerFacts;
  authorization?: Challenge;
  /** What is missing for a probe to be made at all: the connector's own fault, not the server's. */
  credentialsMissing?: string;
}

/** What the judge must know of the probe besides its outcome. */
export interface Circumstances {
  url: string;
  /** Whether spec.probe.headers were sent. */
  credentials: boolean;
}

export interface Judgement {
  /** False for outcomes that say nothing new of the server: whatever was known before still holds. */
  conclusive: boolean;
  verdict: Verdict;
  /** How long the server wants to be left alone. */
  retryAfterMs?: number;
}

const answered: Finding<'Reachable'> = { status: 'True', reason: 'Answered', message: 'the server answers' };
const pendingVerified = (message: string): Finding<'Verified'> => ({ status: 'Unknown', reason: 'Pending', message });
const pendingAuthorized = (message: string): Finding<'Authorized'> => ({
  status: 'Unknown',
  reason: 'Pending',
  message,
});

export function judge(outcome: Outcome, circumstances: Circumstances): Judgement {
  const judgement = judgeKind(outcome, circumstances);
  const { retryAfterMs } = outcome as { retryAfterMs?: number };
  return retryAfterMs === undefined ? judgement : { ...judgement, retryAfterMs };
}

function judgeKind(outcome: Outcome, { url, credentials }: Circumstances): Judgement {
  const { host, hostname, port, protocol } = new URL(url);
  const place = `${hostname}:${portOf({ port, protocol })}`;

  const unreachable = (
    reason: Extract<Finding<'Reachable'>, { status: 'False' }>['reason'],
    text: string,
  ): Judgement => ({
    conclusive: true,
    verdict: {
      reachable: { status: 'False', reason, message: text },
      verified: pendingVerified('the server could not be asked'),
      authorized: pendingAuthorized('the server could not be asked'),
      healthy: false,
    },
  });
  const unverified = (reason: 'NotMCP' | 'ProtocolMismatch', text: string): Judgement => ({
    conclusive: true,
    verdict: {
      reachable: answered,
      verified: { status: 'False', reason, message: text },
      authorized: pendingAuthorized('not known before the server speaks MCP'),
      healthy: false,
    },
  });
  const usable = (verified: string, found: Partial<Outcome & { kind: 'answered' }> = {}): Judgement => ({
    conclusive: true,
    verdict: {
      reachable: answered,
      verified: { status: 'True', reason: 'MCPVerified', message: verified },
      ...(found.refusal ? refused(found.refusal) : { authorized: admitted(found.forbidden), healthy: true }),
      ...(found.server && { server: found.server }),
    },
  });
  const admitted = (forbidden: true | undefined): Finding<'Authorized'> => {
    if (!credentials)
      return { status: 'True', reason: 'NotRequired', message: 'the server answers without credentials' };
    if (forbidden)
      return pendingAuthorized(
        'the server answers 403 when it is asked for its tools: the headers of spec.probe.headers may not suffice for that',
      );
    return {
      status: 'True',
      reason: 'CredentialsAccepted',
      message: 'the server accepts the headers of spec.probe.headers',
    };
  };
  /** What it means for the connector that a server wants authorization, or more of it. */
  const refused = ({ kind, challenge }: Refusal): Pick<Verdict, 'authorized' | 'healthy' | 'authorization'> => ({
    ...(credentials && kind === 'insufficient-scope'
      ? {
          authorized: {
            status: 'False',
            reason: 'InsufficientScope',
            message: `the credentials lack a scope that the server wants${challenge?.scopes ? `: ${challenge.scopes.join(' ')}` : ''}`,
          },
          healthy: false,
        }
      : credentials
        ? {
            authorized: {
              status: 'False',
              reason: 'CredentialsRejected',
              message: 'the server answers 401 to the headers of spec.probe.headers: renew the Secret they come from',
            },
            healthy: false,
          }
        : {
            authorized: {
              status: 'Unknown',
              reason: 'AuthorizationRequired',
              message: `the server answers ${kind === 'unauthorized' ? '401' : '403 (insufficient_scope)'} and ${challenge ? 'says how to authorize: each user signs in with their client' : 'does not say how to authorize'}`,
            },
            healthy: true,
          }),
    ...(challenge && { authorization: challenge }),
  });
  const unknown = (text: string, reason: 'Pending' | 'RateLimited' = 'Pending'): Judgement => ({
    conclusive: false,
    verdict: {
      reachable: reason === 'RateLimited' ? answered : { status: 'Unknown', reason: 'Pending', message: text },
      verified: { status: 'Unknown', reason, message: text },
      authorized: pendingAuthorized(text),
      healthy: false,
    },
  });

  switch (outcome.kind) {
    case 'answered':
      return usable(`the server speaks MCP ${outcome.server.protocolVersion}`, outcome);
    case 'busy':
      return usable('the server speaks MCP; it serves one session at a time and has one now');
    case 'unauthorized':
    case 'insufficient-scope':
      return {
        conclusive: true,
        verdict: {
          reachable: answered,
          verified: !credentials
            ? {
                status: 'Unknown',
                reason: 'AuthorizationRequired',
                message: 'the server wants authorization before it shows whether it speaks MCP',
              }
            : pendingVerified(
                `the server wants ${outcome.kind === 'unauthorized' ? 'other' : 'wider'} credentials first`,
              ),
          ...refused(outcome),
        },
      };
    case 'rate-limited':
      return unknown('the server answers 429 (too many requests); asking again later', 'RateLimited');
    case 'http-error':
      if (outcome.status === 404 || outcome.status === 410) {
        return unreachable(
          'NotFound',
          `${host} answers ${outcome.status} at this path: check the path of spec.serverUrl, often /mcp`,
        );
      }
      if (outcome.status === 408)
        return unreachable('Timeout', `${host} answers 408: it waited for the request in vain`);
      if (outcome.status === 402) return unreachable('Forbidden', `${host} answers 402: it wants to be paid first`);
      if (outcome.status < 500) {
        return unreachable(
          'Forbidden',
          `${host} answers ${outcome.status}: it refuses this client, by its Host, Origin or address; allow the operator there`,
        );
      }
      return unreachable('ServerError', `${host} answers ${outcome.status}: look into the server's own logs`);
    case 'redirected':
      return unreachable(
        'Redirected',
        `${host} redirects to ${outcome.to}: set spec.serverUrl to the URL that answers`,
      );
    case 'not-mcp':
      return unverified('NotMCP', `what answers at ${host} is no MCP server: ${outcome.why}; check spec.serverUrl`);
    case 'protocol-mismatch':
      return unverified(
        'ProtocolMismatch',
        `the server speaks no MCP revision that the operator knows: ${outcome.why}`,
      );
    case 'dns':
      return unreachable(
        'DNSFailure',
        `the name ${hostname} does not resolve (${outcome.code}): check spec.serverUrl and the cluster's DNS`,
      );
    case 'refused':
      return unreachable('ConnectionRefused', `nothing listens at ${place}: check the port, and that the server runs`);
    case 'reset':
      return unreachable(
        'ConnectionReset',
        `the connection to ${place} broke (${outcome.code}): check the network between, and whether the port speaks ${protocol}//`,
      );
    case 'tls':
      return unreachable(
        'TLSInvalid',
        outcome.code.startsWith('ERR_SSL_')
          ? `${place} makes no TLS connection (${outcome.code}): it may want a client certificate, which probes do not have, or TLS older than 1.2, or speak none`
          : `the certificate of ${host} cannot be trusted (${outcome.code}): renew it, or name its authority in spec.probe.caBundle`,
      );
    case 'timeout':
      return unreachable('Timeout', `${place} gave no MCP answer within ${outcome.afterMs / 1000} s`);
    case 'address-denied':
      return unreachable('AddressDenied', outcome.why);
    case 'credentials-missing':
      return { conclusive: true, verdict: { ...unknown(outcome.why).verdict, credentialsMissing: outcome.why } };
    case 'broken':
      return unknown(`the probe could not be made: ${outcome.why}`);
    default:
      return assertNever(outcome);
  }
}

function assertNever(value: never): never {
  throw new Error(`unexpected ${JSON.stringify(value)}`);
}
