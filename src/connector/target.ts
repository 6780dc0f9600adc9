/** What to probe for a connector, from its spec and the operator's defaults. */

import { ANNOTATION, type PersonalConnector } from '../api/connector.ts';
import type { CaBundle, ProbeSpec } from '../api/generated.ts';
import type { KubeObject } from '../api/meta.ts';
import type { KubeClient } from '../kube/client.ts';
import { isForbidden, isNotFound } from '../kube/errors.ts';
import { CredentialsMissing, type Secrets, type Target } from '../probe/target.ts';
import type { Plan, Progress } from './plan.ts';
import type { Policy } from './policy.ts';
import { CONFIG_MAPS, type ReferenceStores, SECRETS, versionOf } from './references.ts';

const DEFAULT_FAILURE_THRESHOLD = 3;
const DEFAULT_SUCCESS_THRESHOLD = 1;

/** The target to probe, or why there is none; `as before` leaves the probes as they are. */
export function targetOf(
  connector: PersonalConnector,
  plan: Plan,
  progress: Progress,
  policy: Policy,
  client: KubeClient,
  references: ReferenceStores,
): Target | { why: 'Maintenance' | 'ProbeDisabled' | 'Pending' | 'as before'; message: string } {
  const { metadata, spec } = connector;
  const probe: ProbeSpec = spec.probe ?? {};
  if (spec.lifecycle === 'maintenance')
    return { why: 'Maintenance', message: 'not probed while spec.lifecycle is maintenance' };
  if (probe.enabled === false)
    return { why: 'ProbeDisabled', message: 'not probed, since spec.probe.enabled is false' };
  if (plan.accepted.status !== 'True' || plan.serverUrl === undefined) {
    return { why: 'Pending', message: 'not probed before the spec is accepted' };
  }
  if (progress.probeable === 'as before') return { why: 'as before', message: 'the first probe is on its way' };
  if (progress.probeable !== true) return { why: 'Pending', message: progress.probeable };
  const { headers = [], caBundle } = probe;
  return {
    url: plan.serverUrl,
    trusted: progress.trusted,
    fingerprint: JSON.stringify([plan.serverUrl, progress.revision, headers, caBundle]),
    tenant: metadata.namespace,
    audience: headers.length > 0 || caBundle ? metadata.namespace : '',
    intervalMs: duration(probe.interval) ?? policy.probe.intervalSeconds * 1000,
    timeoutMs: duration(probe.timeout) ?? policy.probe.timeoutSeconds * 1000,
    failureThreshold: probe.failureThreshold ?? DEFAULT_FAILURE_THRESHOLD,
    successThreshold: probe.successThreshold ?? DEFAULT_SUCCESS_THRESHOLD,
    recheck: metadata.annotations?.[ANNOTATION.recheck],
    secretsVersion: versionOf(connector, references),
    sendsCredentials: headers.length > 0,
    secrets:
      headers.length > 0 || caBundle
        ? signal =>
            readSecrets({
              namespace: metadata.namespace,
              headers,
              caBundle,
              readable: policy.readSecrets,
              client,
              signal,
            })
        : undefined,
  };
}

interface Reading {
  namespace: string;
  headers: NonNullable<ProbeSpec['headers']>;
  caBundle: CaBundle | undefined;
  readable: boolean;
  client: KubeClient;
  signal: AbortSignal;
}

/** Reads what a probe needs, always from the connector's own namespace. */
async function readSecrets({ namespace, headers, caBundle, readable, client, signal }: Reading): Promise<Secrets> {
  const read = async (
    type: typeof SECRETS | typeof CONFIG_MAPS,
    { name, key }: { name: string; key: string },
    field: string,
  ) => {
    const what = `${type.kind} ${name}`;
    if (type === SECRETS && !readable) {
      throw new CredentialsMissing(
        `${field} names ${what}, but the operator may not read Secrets: have its admin set rbac.readSecrets`,
      );
    }
    let data: Record<string, string> | undefined;
    try {
      ({ data } = await client.get<KubeObject & { data?: Record<string, string> }>(type, { namespace, name }, signal));
    } catch (error) {
      if (isNotFound(error)) throw new CredentialsMissing(`${field} names ${what}, which does not exist: create it`);
      if (isForbidden(error))
        throw new CredentialsMissing(
          `${field} names ${what}, which the operator may not read: have its admin set rbac.${type === SECRETS ? 'readSecrets' : 'readConfigMaps'}`,
        );
      throw error;
    }
    const value = data?.[key];
    if (value === undefined)
      throw new CredentialsMissing(`${field} names key ${key} of ${what}, which it lacks: add it`);
    return type === SECRETS ? Buffer.from(value, 'base64').toString('utf8') : value;
  };

  const sent: Record<string, string> = {};
  for (const { name, valueFrom } of headers) {
    const value = (await read(SECRETS, valueFrom.secretKeyRef, `spec.probe.headers[${name}]`)).trim();
    if (/[^\t\x20-\x7e\x80-\xff]/.test(value)) {
      const { name: secret, key } = valueFrom.secretKeyRef;
      throw new CredentialsMissing(
        `spec.probe.headers[${name}]: key ${key} of Secret ${secret} holds characters that no HTTP header may hold`,
      );
    }
    sent[name] = value;
  }
  const ca = caBundle?.secretKeyRef
    ? await read(SECRETS, caBundle.secretKeyRef, 'spec.probe.caBundle')
    : caBundle?.configMapKeyRef && (await read(CONFIG_MAPS, caBundle.configMapKeyRef, 'spec.probe.caBundle'));
  return { headers: sent, ca };
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Milliseconds of a duration such as 1m30s; the CRD lets through only such. */
export function duration(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  let total = 0;
  for (const [, number, unit] of text.matchAll(/(\d+)(ms|s|m|h)/g))
    total += Number(number) * (UNIT_MS[unit ?? ''] ?? 0);
  return total;
}
