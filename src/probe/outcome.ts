/** What a probe can find, before anybody judges it. */

export interface ServerFacts {
  name?: string;
  title?: string;
  version?: string;
  protocolVersion: string;
  capabilities: string[];
  /** Characters of the instructions that it gives to models; what they say is not kept. */
  instructionsLength?: number;
  /** Absent when the server has tools and did not list them this time. */
  tools?: ToolFacts;
}

export interface ToolFacts {
  /** Sorted, at most as many as a status holds. */
  names: string[];
  count: number;
  hash: string;
}

/** How a server says that one may get in. Shown, and never trusted for more. */
export interface Challenge {
  resourceMetadataUrl?: string;
  authorizationServers?: string[];
  scopes?: string[];
}

/** It wants to know on whose behalf it is asked, or that they may do more. */
export type Refusal = { kind: 'unauthorized' | 'insufficient-scope'; challenge: Challenge | undefined };

/** How long a server wants to be left alone, where it says so (Retry-After): a day at most. */
interface Patience {
  retryAfterMs?: number | undefined;
}

export type Outcome =
  /**
   * `refusal`: it says who it is, but wants authorization before it shows its tools; `forbidden`: it answers 403 when it
   * is asked for them, and not why.
   */
  | ({ kind: 'answered'; server: ServerFacts; refusal?: Refusal; forbidden?: true } & Patience)
  /** A server that serves one session at a time and has one already: it speaks MCP, and says no more. */
  | { kind: 'busy' }
  | Refusal
  | ({ kind: 'rate-limited' } & Patience)
  | ({ kind: 'http-error'; status: number } & Patience)
  | { kind: 'redirected'; to: string }
  | { kind: 'not-mcp'; why: string }
  | { kind: 'protocol-mismatch'; why: string }
  | { kind: 'dns'; code: string }
  | { kind: 'refused' }
  | { kind: 'reset'; code: string }
  | { kind: 'tls'; code: string }
  | { kind: 'timeout'; afterMs: number }
  | { kind: 'address-denied'; why: string }
  | { kind: 'credentials-missing'; why: string }
  /** The probe itself failed in a way that says nothing of the server. */
  | { kind: 'broken'; why: string };

/** What each kind means to people. The metrics page is generated from it. */
export const OUTCOMES: Readonly<Record<Outcome['kind'], string>> = {
  answered: 'It speaks MCP and told what it is.',
  busy: 'It speaks MCP, and serves somebody else at the moment.',
  unauthorized: 'It wants its users to authorize, or rejects the credentials that it was shown.',
  'insufficient-scope': 'The credentials lack a scope that it wants.',
  'rate-limited': 'It asked to be left alone for a while.',
  'http-error': 'It answered with an HTTP status that is an error.',
  redirected: 'It redirects elsewhere.',
  'not-mcp': 'What answered does not speak MCP.',
  'protocol-mismatch': 'It speaks no revision of MCP that the operator knows.',
  dns: 'Its host name does not resolve.',
  refused: 'Nothing listens at the address.',
  reset: 'The connection broke before an answer came.',
  tls: 'Its certificate cannot be trusted.',
  timeout: 'No answer came in time.',
  'address-denied': 'The address policy forbids to connect.',
  'credentials-missing': 'A Secret or ConfigMap that the probe needs is missing, lacks a key, or may not be read.',
  broken: 'The probe itself failed; that says nothing of the server.',
};
