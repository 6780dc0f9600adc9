/** What to probe and how: everything that a probe needs to know of a connector. */

export interface Target {
  url: string;
  /** True for a server that the operator hosts: its URL was built by the operator, and the address guard lets it pass. */
  trusted: boolean;
  /** Changes when a result for the old target says nothing of the new one. */
  fingerprint: string;
  intervalMs: number;
  timeoutMs: number;
  failureThreshold: number;
  successThreshold: number;
  /** Any new value asks for a probe at once. */
  recheck: string | undefined;
  /** Whether `secrets` gives headers. */
  sendsCredentials: boolean;
  /** Read before each probe, so that a rotated credential works at once. Throws CredentialsMissing. */
  secrets: ((signal: AbortSignal) => Promise<Secrets>) | undefined;
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
