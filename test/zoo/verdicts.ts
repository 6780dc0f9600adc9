/** The verdicts that a probe can end in, and the tables that expect them. */
import { expect, it } from 'vitest';
import type { Outcome } from '../../src/probe/outcome.ts';
import type { Target } from '../../src/probe/target.ts';
import { type Probed, probe } from './probing.ts';
import { type Animal, type Script, startHttp } from './servers.ts';

/** The outcome's kind, and the reasons of the conditions that the judge makes of it. */
export interface Verdict {
  kind: Outcome['kind'];
  reachable: string;
  verified: string;
  authorized: string;
}

const verdict = (kind: Outcome['kind'], reachable: string, verified = 'Pending', authorized = 'Pending'): Verdict => ({
  kind,
  reachable,
  verified,
  authorized,
});

export const VERIFIED = verdict('answered', 'Answered', 'MCPVerified', 'NotRequired');
export const ACCEPTED = verdict('answered', 'Answered', 'MCPVerified', 'CredentialsAccepted');
export const BUSY = verdict('busy', 'Answered', 'MCPVerified', 'NotRequired');
export const NOT_MCP = verdict('not-mcp', 'Answered', 'NotMCP');
export const MISMATCH = verdict('protocol-mismatch', 'Answered', 'ProtocolMismatch');
export const UNAUTHORIZED = verdict('unauthorized', 'Answered', 'AuthorizationRequired', 'AuthorizationRequired');
export const REJECTED = verdict('unauthorized', 'Answered', 'Pending', 'CredentialsRejected');
export const SCOPE = verdict('insufficient-scope', 'Answered', 'Pending', 'InsufficientScope');
export const LIMITED = verdict('rate-limited', 'Answered', 'RateLimited');
export const NOT_FOUND = verdict('http-error', 'NotFound');
export const FORBIDDEN = verdict('http-error', 'Forbidden');
export const SERVER_ERROR = verdict('http-error', 'ServerError');
export const REDIRECTED = verdict('redirected', 'Redirected');
export const DNS = verdict('dns', 'DNSFailure');
export const REFUSED = verdict('refused', 'ConnectionRefused');
export const RESET = verdict('reset', 'ConnectionReset');
export const TLS = verdict('tls', 'TLSInvalid');
export const TIMEOUT = verdict('timeout', 'Timeout');
export const DENIED = verdict('address-denied', 'AddressDenied');

/** Enough for a server on loopback that never answers. */
export const SHORT = { timeoutMs: 400 } as const satisfies Partial<Target>;

export type After = (animal: Animal, probed: Probed) => void | Promise<void>;

export interface Case {
  server: Script | (() => Promise<Animal>);
  /** One verdict, or all that would be true. */
  verdict: Verdict | readonly Verdict[];
  /** Part of the outcome. */
  outcome?: object;
  target?: Partial<Target> | ((animal: Animal) => Partial<Target>);
  /** What else must hold, when the probe is over. */
  after?: After;
  /** How many requests a probe may make of it. */
  most?: number;
}

/** A probe of one server: discover, initialize, initialized, one page of tools, DELETE, and as many again for fallbacks. */
const MOST_REQUESTS = 10;

/** Makes each case a test: probes its server, and finds no connection open afterwards. */
export function testCases(cases: Record<string, Case>): void {
  for (const [name, { server, verdict, outcome, target = {}, after, most = MOST_REQUESTS }] of Object.entries(cases)) {
    it(name, async () => {
      await using animal = await (typeof server === 'function' ? server() : startHttp(server));
      const probed = await probe(animal.url, typeof target === 'function' ? target(animal) : target);
      expect(verdictOf(probed), JSON.stringify(probed.outcome).slice(0, 500)).toBeOneOf([verdict].flat());
      if (outcome) expect(probed.outcome).toMatchObject(outcome);
      await after?.(animal, probed);
      expect(animal.requests.length, 'requests made').toBeLessThanOrEqual(most);
      await animal.quiet();
    });
  }
}

export function verdictOf({ outcome, judgement: { verdict } }: Probed): Verdict {
  return {
    kind: outcome.kind,
    reachable: verdict.reachable.reason,
    verified: verdict.verified.reason,
    authorized: verdict.authorized.reason,
  };
}
