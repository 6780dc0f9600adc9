import { describe, expect, it } from 'vitest';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import { ACCEPTED, type Plan, type Progress, rejected } from '../../../src/connector/plan.ts';
import { createReferenceStores, type ReferenceStores } from '../../../src/connector/references.ts';
import { duration, targetOf } from '../../../src/connector/target.ts';
import type { KubeClient } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { CredentialsMissing, type Target } from '../../../src/probe/target.ts';
import { fakeClient, makeConnector, makePolicy } from '../support.ts';

const PLAN: Plan = {
  accepted: ACCEPTED,
  children: [],
  serverUrl: 'https://mcp.example.com/mcp',
  serverType: 'http',
};
const PROGRESS: Progress = { probeable: true, trusted: false, revision: '' };

interface Setup {
  plan?: Partial<Plan>;
  progress?: Partial<Progress>;
  annotations?: Record<string, string>;
  readSecrets?: boolean;
  client?: KubeClient;
  references?: ReferenceStores;
}

function find(spec: Partial<PersonalConnectorSpec> = {}, setup: Setup = {}) {
  const { plan, progress, annotations, readSecrets = true, client = fakeClient() } = setup;
  const { references = createReferenceStores() } = setup;
  return targetOf(
    makeConnector('custom', spec, annotations ? { metadata: { annotations } } : {}),
    { ...PLAN, ...plan },
    { ...PROGRESS, ...progress },
    makePolicy({ readSecrets, probe: { intervalSeconds: 120, timeoutSeconds: 7 } }),
    client,
    references,
  );
}

function target(...args: Parameters<typeof find>): Target {
  const found = find(...args);
  if ('why' in found) throw new Error(`no target: ${found.why}`);
  return found;
}

describe('a target', () => {
  it("has the operator's defaults", () => {
    expect(target()).toEqual({
      url: 'https://mcp.example.com/mcp',
      trusted: false,
      tenant: 'team',
      audience: '',
      fingerprint: JSON.stringify(['https://mcp.example.com/mcp', '', [], undefined]),
      intervalMs: 120_000,
      timeoutMs: 7_000,
      failureThreshold: 3,
      successThreshold: 1,
      recheck: undefined,
      secretsVersion: '',
      sendsCredentials: false,
      secrets: undefined,
    });
  });

  it("has the spec's settings before them", () => {
    const probe = { interval: '1m30s', timeout: '500ms', failureThreshold: 5, successThreshold: 2 };
    expect(
      target(
        { probe },
        {
          progress: { trusted: true },
          annotations: { 'connectors.aitronos.com/recheck': 'now' },
        },
      ),
    ).toMatchObject({
      trusted: true,
      intervalMs: 90_000,
      timeoutMs: 500,
      failureThreshold: 5,
      successThreshold: 2,
      recheck: 'now',
    });
  });

  const header = { name: 'Authorization', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } };
  it.each<[string, Partial<PersonalConnectorSpec>, Setup, boolean]>([
    ['another URL', {}, { plan: { serverUrl: 'https://other.example.com' } }, true],
    ['another revision of what serves', {}, { progress: { revision: '2' } }, true],
    ['another header', { probe: { headers: [header] } }, {}, true],
    ['another bundle', { probe: { caBundle: { configMapKeyRef: { name: 'c', key: 'k' } } } }, {}, true],
    ['another interval', { probe: { interval: '1h' } }, {}, false],
    ['another timeout', { probe: { timeout: '1s' } }, {}, false],
    ['a recheck', {}, { annotations: { 'connectors.aitronos.com/recheck': '1' } }, false],
    ['another description', { description: 'x' }, {}, false],
  ])('with %s makes old results worthless: %#', (_what, spec, setup, expected) => {
    expect(target(spec, setup).fingerprint !== target().fingerprint).toBe(expected);
  });

  it('has a version of what it reads, which changes with each of it, once all of it is known', () => {
    const references = createReferenceStores();
    const put = (kind: 'Secret' | 'ConfigMap', namespace: string, name: string, resourceVersion: string): void =>
      references[kind].upsert({ metadata: { namespace, name, uid: `uid-${name}`, resourceVersion } });
    const probe = { headers: [header], caBundle: { configMapKeyRef: { name: 'c', key: 'k' } } };
    const version = () => target({ probe }, { references }).secretsVersion;
    references.Secret.within('team').replace([], '4');
    references.ConfigMap.within('other').replace([], '5');
    put('Secret', 'team', 's', '5');
    expect(version()).toBe('');
    references.ConfigMap.within('team').replace([], '5');
    const seen = [version()];
    const change = (...args: Parameters<typeof put>): void => {
      put(...args);
      seen.push(version());
    };
    change('ConfigMap', 'team', 'c', '6');
    change('Secret', 'team', 's', '7');
    expect(new Set(seen).size).toBe(3);
    for (const [kind, namespace, name] of [
      ['Secret', 'other', 's'],
      ['Secret', 'team', 'c'],
      ['ConfigMap', 'team', 's'],
    ] as const)
      change(kind, namespace, name, '8');
    expect(new Set(seen).size).toBe(3);
    references.Secret.remove({ metadata: { namespace: 'team', name: 's', uid: 'uid-s', resourceVersion: '9' } });
    expect(seen).not.toContain(version());
    expect(target({}, { references }).secretsVersion).toBe('');
  });

  it.each<[string, Partial<PersonalConnectorSpec>, Setup, object]>([
    [
      'in maintenance',
      { lifecycle: 'maintenance', probe: { enabled: false } },
      {},
      { why: 'Maintenance', message: 'not probed while spec.lifecycle is maintenance' },
    ],
    [
      'switched off',
      { probe: { enabled: false } },
      { plan: { accepted: rejected('InvalidSpec', 'x') } },
      { why: 'ProbeDisabled', message: 'not probed, since spec.probe.enabled is false' },
    ],
    [
      'not accepted',
      {},
      { plan: { accepted: rejected('InvalidSpec', 'x') } },
      { why: 'Pending', message: 'not probed before the spec is accepted' },
    ],
    [
      'without a URL',
      {},
      { plan: { serverUrl: undefined } },
      { why: 'Pending', message: 'not probed before the spec is accepted' },
    ],
    ['not ready', {}, { progress: { probeable: 'waiting' } }, { why: 'Pending', message: 'waiting' }],
  ])('is none while %s', (_what, spec, setup, expected) => {
    expect(find(spec, setup)).toEqual(expected);
  });

  it.each(['active', 'deprecated'] as const)('is one while %s', lifecycle => {
    expect(find({ lifecycle })).toHaveProperty('url');
  });
});

describe('duration', () => {
  it.each([
    [undefined, undefined],
    ['10s', 10_000],
    ['5m', 300_000],
    ['24h', 86_400_000],
    ['500ms', 500],
    ['1h30m15s', 5_415_000],
    ['1m500ms', 60_500],
  ])('of %s is %s ms', (text, expected) => {
    expect(duration(text)).toBe(expected);
  });
});

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const secretHeader = (name: string, key = 'token', secret = 'creds') => ({
  name,
  valueFrom: { secretKeyRef: { name: secret, key } },
});

/** A client that knows these Secrets and ConfigMaps, and tells what was read. */
function objects(known: Record<string, Record<string, string> | Error>) {
  const read: string[] = [];
  const client = fakeClient({
    get: (async (type, { namespace, name }) => {
      read.push(`${type.kind} ${namespace}/${name}`);
      const data = known[`${type.kind} ${name}`] ?? new ApiError('GET', 404, '{}');
      if (data instanceof Error) throw data;
      return { metadata: { name, namespace }, data };
    }) as KubeClient['get'],
  });
  return { client, read };
}

describe('the secrets of a target', () => {
  const live = new AbortController().signal;

  it('are read from the namespace of the connector, each time', async () => {
    const { client, read } = objects({
      'Secret creds': { token: base64(' Bearer x\n'), id: base64('7') },
      'ConfigMap ca': { 'ca.crt': 'PEM' },
    });
    const { secrets, sendsCredentials } = target(
      {
        probe: {
          headers: [secretHeader('Authorization'), secretHeader('X-Id', 'id')],
          caBundle: { configMapKeyRef: { name: 'ca', key: 'ca.crt' } },
        },
      },
      { client },
    );
    expect(sendsCredentials).toBe(true);
    expect(read).toEqual([]);
    expect(await secrets?.(live)).toEqual({ headers: { Authorization: 'Bearer x', 'X-Id': '7' }, ca: 'PEM' });
    await secrets?.(live);
    expect(read).toEqual([
      'Secret team/creds',
      'Secret team/creds',
      'ConfigMap team/ca',
      'Secret team/creds',
      'Secret team/creds',
      'ConfigMap team/ca',
    ]);
  });

  it('may be a bundle alone, which is no credential and needs no right to read Secrets', async () => {
    const { client } = objects({ 'ConfigMap ca': { 'ca.crt': 'PEM' } });
    const { secrets, sendsCredentials } = target(
      { probe: { caBundle: { configMapKeyRef: { name: 'ca', key: 'ca.crt' } } } },
      { client, readSecrets: false },
    );
    expect(sendsCredentials).toBe(false);
    expect(await secrets?.(live)).toEqual({ headers: {}, ca: 'PEM' });
  });

  it('may be a bundle in a Secret', async () => {
    const { client } = objects({ 'Secret ca': { 'ca.crt': base64('PEM\n') } });
    const { secrets } = target({ probe: { caBundle: { secretKeyRef: { name: 'ca', key: 'ca.crt' } } } }, { client });
    expect(await secrets?.(live)).toEqual({ headers: {}, ca: 'PEM\n' });
  });

  const HEADER = { headers: [secretHeader('Authorization')] };
  it.each<
    [string, NonNullable<PersonalConnectorSpec['probe']>, Record<string, Record<string, string> | Error>, string]
  >([
    ['a Secret', HEADER, {}, 'spec.probe.headers[Authorization] names Secret creds, which does not exist: create it'],
    [
      'a key',
      HEADER,
      { 'Secret creds': { other: 'x' } },
      'spec.probe.headers[Authorization] names key token of Secret creds, which it lacks: add it',
    ],
    [
      'the right to read it',
      HEADER,
      { 'Secret creds': new ApiError('GET', 403, '{}') },
      'spec.probe.headers[Authorization] names Secret creds, which the operator may not read: have its admin set rbac.readSecrets',
    ],
    [
      'a bundle',
      { caBundle: { configMapKeyRef: { name: 'ca', key: 'ca.crt' } } },
      {},
      'spec.probe.caBundle names ConfigMap ca, which does not exist: create it',
    ],
    [
      'a key of a bundle',
      { caBundle: { configMapKeyRef: { name: 'ca', key: 'ca.crt' } } },
      { 'ConfigMap ca': {} },
      'spec.probe.caBundle names key ca.crt of ConfigMap ca, which it lacks: add it',
    ],
    [
      'characters that a header may hold (a line break)',
      HEADER,
      { 'Secret creds': { token: base64('x\r\nEvil: 1') } },
      'spec.probe.headers[Authorization]: key token of Secret creds holds characters that no HTTP header may hold',
    ],
    [
      'characters that a header may hold (beyond Latin)',
      HEADER,
      { 'Secret creds': { token: base64('語') } },
      'spec.probe.headers[Authorization]: key token of Secret creds holds characters that no HTTP header may hold',
    ],
  ])('tell when %s is missing, and show no value', async (_what, probe, known, message) => {
    const { client } = objects(known);
    const reading = target({ probe }, { client }).secrets?.(live);
    await expect(reading).rejects.toThrow(CredentialsMissing);
    await expect(reading).rejects.toThrow(message);
  });

  it('tell when the operator may read no Secrets, without asking', async () => {
    const { client, read } = objects({ 'Secret creds': { token: base64('x') } });
    const reading = target({ probe: HEADER }, { client, readSecrets: false }).secrets?.(live);
    await expect(reading).rejects.toThrow(
      'spec.probe.headers[Authorization] names Secret creds, but the operator may not read Secrets: have its admin set rbac.readSecrets',
    );
    await expect(reading).rejects.toThrow(CredentialsMissing);
    expect(read).toEqual([]);
  });

  it('that cannot be read for another reason say nothing of the connector', async () => {
    const failure = new ApiError('GET', 500, '{}');
    const { client } = objects({ 'Secret creds': failure });
    await expect(target({ probe: HEADER }, { client }).secrets?.(live)).rejects.toBe(failure);
  });

  it('are read with the signal of the probe', async () => {
    const abort = AbortSignal.abort();
    let seen: AbortSignal | undefined;
    const client = fakeClient({
      get: (async (_type, _at, signal) => {
        seen = signal;
        throw signal.reason;
      }) as KubeClient['get'],
    });
    await expect(target({ probe: HEADER }, { client }).secrets?.(abort)).rejects.toBe(abort.reason);
    expect(seen).toBe(abort);
  });
});
