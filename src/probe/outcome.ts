/** What a probe can find, before anybody judges it. */

export interface ServerFacts {
  name?: string;
  title?: string;
  version?: string;
  protocolVersion: string;
  capabilities: string[];
  /** Absent when the server has tools and did not list them this time. */
  tools?: { names: string[]; count: number; hash: string };
}

export interface Challenge {
  resourceMetadataUrl?: string;
  scopes?: string[];
}

export type Outcome =
  | { kind: 'answered'; server: ServerFacts }
  /** A server that serves one session at a time and has one already: it speaks MCP, and says no more. */
  | { kind: 'busy' }
  | { kind: 'unauthorized'; challenge: Challenge | undefined }
  | { kind: 'insufficient-scope'; challenge: Challenge }
  | { kind: 'rate-limited'; retryAfterMs: number | undefined }
  | { kind: 'http-error'; status: number }
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
