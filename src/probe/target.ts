/** What to probe and how: everything that a probe needs to know of a connector. */

import type { Challenge, ToolFacts } from './outcome.ts';

export interface Target {
  url: string;
  /** True for a server that the operator hosts: its URL was built by the operator, and the address guard lets it pass. */
  trusted: boolean;
  /** Changes when a result for the old target says nothing of the new one. */
  fingerprint: string;
  /** Whose probe it is, for a fair share of slots: the namespace. */
  tenant: string;
  /** Targets with equal fingerprints and audiences see the same of a server: the namespace of the credentials, or empty. */
  audience: string;
  intervalMs: number;
  timeoutMs: number;
  failureThreshold: number;
  successThreshold: number;
  /** Any new value asks for a probe at once. */
  recheck: string | undefined;
  /** Of what `secrets` reads: a new one asks for a probe at once. Empty where nobody knows. */
  secretsVersion: string;
  /** Whether `secrets` gives headers. */
  sendsCredentials: boolean;
  /** Read before each probe, so that a rotated credential works at once. Throws CredentialsMissing. */
  secrets: ((signal: AbortSignal) => Promise<Secrets>) | undefined;
}

/** `modern`: 2026-07-28 and later; `legacy`: earlier ones over Streamable HTTP; `sse`: 2024-11-05 over HTTP+SSE. */
export type Era = 'modern' | 'legacy' | 'sse';

/** What is known of a server from one probe to the next; empty at first, and when a recheck asks for all anew. */
export interface Memory {
  /** How the server wanted to be spoken to, and since when that is known, in ms of performance.now(). */
  era?: { kind: Era; learntAt: number } | undefined;
  /** Which era to try first, when all the time of the last probe went by with the other one. */
  guess?: Era | undefined;
  /** What of its protected resource metadata (RFC 9728) is shown, and where a challenge had named it; empty where it has none. */
  metadata?: { named: string | undefined; facts: Challenge; freshUntil: number } | undefined;
  /** A digest of the credentials that were sent: others may see other tools. */
  credentials?: string;
  tools?: ToolMemory | undefined;
}

export interface ToolMemory {
  facts: ToolFacts;
  /** Told to be good until then, in ms of performance.now(). */
  freshUntil: number;
  /** Of all that the server sent: as long as it sends the same, the facts are the same. */
  digest: string;
}

export interface Secrets {
  /** Sent to the origin of `url` only. */
  headers: Readonly<Record<string, string>>;
  /** PEM certificates of authorities to trust beside the well-known ones. */
  ca: string | undefined;
}

/** A Secret or ConfigMap that the probe needs is missing, lacks the key, or may not be read. */
export class CredentialsMissing extends Error {
  override name = 'CredentialsMissing';
}
