import { describe, expect, it } from 'vitest';
import { CONDITIONS, type PersonalConnector } from '../../../src/api/connector.ts';
import type { Condition, PersonalConnectorSpec, PersonalConnectorStatus } from '../../../src/api/generated.ts';
import { ACCEPTED, type Plan, type Progress, rejected } from '../../../src/connector/plan.ts';
import { differs, eventsOf, type Findings, statusOf, stillStands } from '../../../src/connector/status.ts';
import type { Outcome } from '../../../src/probe/outcome.ts';
import type { ProbeResult } from '../../../src/probe/schedule.ts';
import { judge } from '../../../src/probe/verdict.ts';
import { makeConnector, makeTarget, UID } from '../support.ts';

const NOW = '2026-03-01T10:00:00Z';
const EARLIER = '2026-02-01T10:00:00Z';
const URL_ = 'https://mcp.example.com/mcp';
const ID = `pcon_${UID.replaceAll('-', '')}`;

const TOOLS = { names: ['a', 'b'], count: 2, hash: 'sha256:new' };
const SERVER = {
  name: 'GitHub',
  title: 'GitHub MCP',
  version: '1.0.0',
  protocolVersion: '2025-11-25',
  capabilities: ['tools'],
};

const result = (outcome: Outcome, more: Partial<ProbeResult> = {}, credentials = false): ProbeResult => ({
  fingerprint: 'one',
  recheck: undefined,
  verdict: judge(outcome, { url: URL_, credentials }).verdict,
  ...more,
});
const ANSWERED = result({ kind: 'answered', server: { ...SERVER, tools: TOOLS } });
const REMOTE: Plan = { accepted: ACCEPTED, children: [], serverUrl: URL_, serverType: 'http' };
const AVAILABLE: NonNullable<Progress['deployed']> = {
  status: 'True',
  reason: 'Available',
  message: 'the Pod is ready',
};
const HOSTING = { deployment: 'clickup', service: 'clickup', image: 'i:1', replicas: 1, readyReplicas: 1 };
const hostedProgress = (progress: Partial<Progress> = {}): Progress => ({
  deployed: AVAILABLE,
  hosting: HOSTING,
  probeable: true,
  trusted: true,
  revision: 'r',
  ...progress,
});
const WAITING = hostedProgress({
  deployed: { status: 'Unknown', reason: 'Progressing', message: 'waiting for the Pod to become ready' },
  probeable: 'waiting for the hosted server',
});
const PENDING = { why: 'Pending', message: 'waiting for the hosted server' } as const;
const MAINTENANCE = { why: 'Maintenance', message: 'not probed while spec.lifecycle is maintenance' } as const;
const DISABLED = { why: 'ProbeDisabled', message: 'not probed, since spec.probe.enabled is false' } as const;

interface Setup extends Partial<Omit<Findings, 'connector' | 'now'>> {
  connector?: PersonalConnector;
  spec?: Partial<PersonalConnectorSpec>;
  status?: PersonalConnectorStatus;
  generation?: number;
  now?: string;
}

function findings({ connector, spec, status, generation = 1, now = NOW, ...more }: Setup = {}): Findings {
  return {
    connector:
      connector ?? makeConnector('custom', spec, { metadata: { generation }, ...(status !== undefined && { status }) }),
    plan: REMOTE,
    obstacle: undefined,
    progress: { probeable: true, trusted: false, revision: '' },
    target: makeTarget(),
    result: ANSWERED,
    now: new Date(now),
    ...more,
  };
}

const find = (setup: Setup = {}): PersonalConnectorStatus => statusOf(findings(setup));
const condition = (status: PersonalConnectorStatus, type: string): Condition | undefined =>
  status.conditions?.find(candidate => candidate.type === type);

describe('the whole status', () => {
  const of = (type: string, status: string, reason: string, message: string) => ({
    type,
    status,
    observedGeneration: 3,
    lastTransitionTime: NOW,
    reason,
    message,
  });

  it('of a healthy remote connector', () => {
    expect(find({ generation: 3 })).toStrictEqual({
      observedGeneration: 3,
      id: ID,
      serverUrl: URL_,
      serverType: 'http',
      updatedAt: NOW,
      conditions: [
        of('Ready', 'True', 'Ready', 'GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools'),
        of('Accepted', 'True', 'Accepted', 'the spec is valid and is served'),
        of('Reachable', 'True', 'Answered', 'the server answers'),
        of('Verified', 'True', 'MCPVerified', 'the server speaks MCP 2025-11-25'),
        of('Authorized', 'True', 'NotRequired', 'the server answers without credentials'),
      ],
      server: { ...SERVER, toolCount: 2, toolsHash: 'sha256:new', tools: ['a', 'b'] },
    });
  });

  it('of an OAuth server', () => {
    const challenge = { resourceMetadataUrl: 'https://mcp.example.com/meta', scopes: ['read'] };
    const status = find({ generation: 3, result: result({ kind: 'unauthorized', challenge }) });
    expect(status).toMatchObject({
      authorization: challenge,
      conditions: [
        of('Ready', 'True', 'AuthorizationRequired', 'the server is up and wants its users to authorize'),
        { type: 'Accepted' },
        { type: 'Reachable', status: 'True' },
        { type: 'Verified', status: 'Unknown', reason: 'AuthorizationRequired' },
        { type: 'Authorized', status: 'Unknown', reason: 'AuthorizationRequired' },
      ],
    });
    expect(status).not.toHaveProperty('server');
  });

  it('of a hosted connector that is being brought up tells no address yet', () => {
    expect(find({ generation: 3, progress: WAITING, target: PENDING, result: undefined })).toStrictEqual({
      observedGeneration: 3,
      id: ID,
      serverType: 'http',
      updatedAt: NOW,
      conditions: [
        of('Ready', 'Unknown', 'Progressing', 'waiting for the Pod to become ready'),
        of('Accepted', 'True', 'Accepted', 'the spec is valid and is served'),
        of('Deployed', 'Unknown', 'Progressing', 'waiting for the Pod to become ready'),
        of('Reachable', 'Unknown', 'Pending', 'waiting for the hosted server'),
        of('Verified', 'Unknown', 'Pending', 'waiting for the hosted server'),
        of('Authorized', 'Unknown', 'Pending', 'waiting for the hosted server'),
        of('Reconciling', 'True', 'Progressing', 'waiting for the Pod to become ready'),
      ],
      hosting: HOSTING,
    });
  });

  it('names what is there yet as long as something stands in the way: it is found by its name later', () => {
    const status = { hosting: { ...HOSTING, service: 'old' } };
    const error = new Error('503');
    const progress = hostedProgress();
    expect(find({ status, obstacle: { error }, plan: REMOTE }).hosting).toEqual(status.hosting);
    expect(find({ status, obstacle: { error }, progress }).hosting?.service).toBe('old');
    expect(find({ status, progress }).hosting?.service).toBe('clickup');
    expect(find({ status, plan: REMOTE })).not.toHaveProperty('hosting');
  });

  it('of a spec that is not accepted', () => {
    const message = 'spec.connectorId "x" is not in the catalog';
    const plan: Plan = {
      accepted: rejected('CatalogEntryMissing', message),
      children: undefined,
      serverUrl: undefined,
      serverType: undefined,
    };
    const target = { why: 'Pending', message: 'not probed before the spec is accepted' } as const;
    expect(find({ generation: 3, plan, target, result: undefined })).toStrictEqual({
      observedGeneration: 3,
      id: ID,
      updatedAt: NOW,
      conditions: [
        of('Ready', 'False', 'CatalogEntryMissing', message),
        of('Accepted', 'False', 'CatalogEntryMissing', message),
        of('Reachable', 'Unknown', 'Pending', target.message),
        of('Verified', 'Unknown', 'Pending', target.message),
        of('Authorized', 'Unknown', 'Pending', target.message),
        of('Stalled', 'True', 'Stalled', message),
      ],
    });
  });

  it('takes the id of the spec before its own', () => {
    expect(find({ spec: { id: 'pcon_github' } }).id).toBe('pcon_github');
  });
});

describe('Ready', () => {
  const deployed = (reason: string): Progress =>
    hostedProgress({
      deployed: { status: 'False', reason, message: `bad: ${reason}` } as NonNullable<Progress['deployed']>,
    });
  const failing = (outcome: Outcome, credentials = false): Setup => ({ result: result(outcome, {}, credentials) });
  const secret = 'secret "x" not found';

  it.each<[string, Setup, string, string | RegExp]>([
    ['all is well', {}, 'True Ready', 'GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools'],
    ['all is well with what is hosted', { progress: hostedProgress() }, 'True Ready', /^GitHub 1\.0\.0/],
    [
      'the server has one tool',
      { result: result({ kind: 'answered', server: { ...SERVER, tools: { names: ['a'], count: 1, hash: 'x' } } }) },
      'True Ready',
      'GitHub 1.0.0 speaks MCP 2025-11-25 with 1 tool',
    ],
    [
      'the server tells little of itself',
      { result: result({ kind: 'answered', server: { protocolVersion: '', capabilities: [] } }) },
      'True Ready',
      'the server speaks MCP',
    ],
    ['the server is busy', failing({ kind: 'busy' }), 'True Ready', 'the server speaks MCP'],
    [
      'it is deprecated',
      { spec: { lifecycle: 'deprecated' } },
      'True Ready',
      'GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools; deprecated',
    ],
    [
      'it is deprecated and replaced',
      { spec: { lifecycle: 'deprecated', replacedBy: 'github2' } },
      'True Ready',
      'GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools; deprecated: use github2 instead',
    ],
    [
      'users have to authorize with what is deprecated',
      { ...failing({ kind: 'unauthorized', challenge: undefined }), spec: { lifecycle: 'deprecated' } },
      'True AuthorizationRequired',
      'the server is up and wants its users to authorize; deprecated',
    ],
    // Accepted comes first, whatever else is wrong.
    [
      'the spec is rejected and nothing answers',
      { plan: { ...REMOTE, accepted: rejected('IdConflict', 'taken') }, ...failing({ kind: 'refused' }) },
      'False IdConflict',
      'taken',
    ],
    [
      'a name is taken',
      { plan: { ...REMOTE, accepted: rejected('NameConflict', 'taken') } },
      'False NameConflict',
      'taken',
    ],
    ['a Pod waits for a Secret', { progress: { ...WAITING, secretMissing: secret } }, 'False SecretNotFound', secret],
    [
      'the probe lacks credentials',
      failing({ kind: 'credentials-missing', why: 'create it' }, true),
      'False SecretNotFound',
      'create it',
    ],
    // Then what is hosted.
    ...(['RolloutFailed', 'ImagePullFailed', 'CrashLooping', 'Unschedulable', 'QuotaExceeded'] as const).map(
      (reason): [string, Setup, string, string] => [
        `Deployed is False, ${reason}, and the probe failed as well`,
        { progress: deployed(reason), ...failing({ kind: 'refused' }) },
        `False ${reason}`,
        `bad: ${reason}`,
      ],
    ),
    [
      'the quota forbids an object',
      {
        progress: WAITING,
        target: PENDING,
        obstacle: { deployed: { status: 'False', reason: 'QuotaExceeded', message: 'no' }, error: new Error('no') },
      },
      'False QuotaExceeded',
      'no',
    ],
    [
      'children of an earlier connector are on their way out',
      { obstacle: { deployed: { status: 'Unknown', reason: 'Progressing', message: 'waiting until it is gone' } } },
      'Unknown Progressing',
      'waiting until it is gone',
    ],
    [
      'Pods are coming',
      { progress: WAITING, target: PENDING },
      'Unknown Progressing',
      'waiting for the Pod to become ready',
    ],
    // Then the probe.
    ['the name does not resolve', failing({ kind: 'dns', code: 'ENOTFOUND' }), 'False DNSFailure', /mcp\.example\.com/],
    ['nothing listens', failing({ kind: 'refused' }), 'False ConnectionRefused', /:443/],
    ['the connection breaks', failing({ kind: 'reset', code: 'EPIPE' }), 'False ConnectionReset', /EPIPE/],
    ['no answer comes', failing({ kind: 'timeout', afterMs: 1_000 }), 'False Timeout', /1 s/],
    ['the certificate is bad', failing({ kind: 'tls', code: 'X' }), 'False TLSInvalid', /X/],
    ['the server is broken', failing({ kind: 'http-error', status: 500 }), 'False ServerError', /500/],
    ['the path is wrong', failing({ kind: 'http-error', status: 404 }), 'False NotFound', /404/],
    ['the server lets nobody in', failing({ kind: 'http-error', status: 403 }), 'False Forbidden', /403/],
    ['the server redirects', failing({ kind: 'redirected', to: 'https://x' }), 'False Redirected', /https:\/\/x/],
    ['the address is denied', failing({ kind: 'address-denied', why: 'private' }), 'False AddressDenied', 'private'],
    ['it is no MCP server', failing({ kind: 'not-mcp', why: 'HTML' }), 'False NotMCP', /HTML/],
    ['it is of another age', failing({ kind: 'protocol-mismatch', why: '1999' }), 'False ProtocolMismatch', /1999/],
    [
      'credentials are rejected',
      failing({ kind: 'unauthorized', challenge: undefined }, true),
      'False CredentialsRejected',
      /401/,
    ],
    [
      'a scope is missing',
      failing({ kind: 'insufficient-scope', challenge: {} }, true),
      'False InsufficientScope',
      /scope/,
    ],
    [
      'the tools are others than approved',
      { spec: { probe: { approvedToolsHash: 'sha256:old' } } },
      'False ToolsChanged',
      'the tools have the hash sha256:new and not the approved one: review them, then copy the hash to spec.probe.approvedToolsHash',
    ],
    [
      'the tools are the approved ones',
      { spec: { probe: { approvedToolsHash: 'sha256:new' } } },
      'True Ready',
      /2 tools/,
    ],
    ['the first probe is on its way', { result: undefined }, 'Unknown Progressing', 'the first probe is on its way'],
    [
      'a result is of another target',
      { result: { ...ANSWERED, fingerprint: 'old' } },
      'Unknown Progressing',
      'the first probe is on its way',
    ],
    [
      'the server wants to be left alone',
      failing({ kind: 'rate-limited', retryAfterMs: 1 }),
      'Unknown Progressing',
      /429/,
    ],
    ['the probe broke', failing({ kind: 'broken', why: 'x' }), 'Unknown Progressing', 'the probe could not be made: x'],
    // What is wrong with the API server hides what is well.
    ['a write failed', { obstacle: { error: new Error('boom') } }, 'Unknown Progressing', 'trying again: boom'],
    ['a write failed in another way', { obstacle: { error: 'boom' } }, 'Unknown Progressing', 'trying again: boom'],
    // What people switched off is ready.
    [
      'it is in maintenance',
      { spec: { lifecycle: 'maintenance' }, target: MAINTENANCE, result: undefined },
      'True Maintenance',
      'paused, since spec.lifecycle is maintenance',
    ],
    [
      'it is in maintenance and its Pods are still going',
      { spec: { lifecycle: 'maintenance' }, target: MAINTENANCE, result: undefined, progress: WAITING },
      'True Maintenance',
      'paused, since spec.lifecycle is maintenance',
    ],
    [
      'it is in maintenance and rejected',
      {
        spec: { lifecycle: 'maintenance' },
        target: MAINTENANCE,
        plan: { ...REMOTE, accepted: rejected('IdConflict', 'taken') },
      },
      'False IdConflict',
      'taken',
    ],
    [
      'it is not probed',
      { target: DISABLED, result: undefined },
      'True ProbeDisabled',
      'taken as ready, since spec.probe.enabled is false',
    ],
    [
      'it is not probed and its Pods are coming',
      { target: DISABLED, result: undefined, progress: WAITING },
      'Unknown Progressing',
      'waiting for the Pod to become ready',
    ],
    [
      'it is not probed and scaled to zero',
      {
        target: DISABLED,
        result: undefined,
        progress: hostedProgress({ deployed: { status: 'True', reason: 'ScaledToZero', message: 'scaled to zero' } }),
      },
      'Unknown Progressing',
      'scaled to zero',
    ],
  ])('when %s', (_what, setup, expected, message) => {
    const status = find(setup);
    const ready = condition(status, 'Ready');
    expect(`${ready?.status} ${ready?.reason}`).toBe(expected);
    if (typeof message === 'string') expect(ready?.message).toBe(message);
    else expect(ready?.message).toMatch(message);
    // kstatus: Reconciling exactly while Ready is Unknown.
    expect(condition(status, 'Reconciling') !== undefined).toBe(ready?.status === 'Unknown');
    // No condition says what the API does not know.
    for (const { type, status: is, reason } of status.conditions ?? []) {
      expect(CONDITIONS[type as keyof typeof CONDITIONS][is] as readonly string[]).toContain(reason);
    }
  });

  it.each([
    ['InvalidSpec', true],
    ['IdConflict', true],
    ['CatalogEntryMissing', true],
    ['ImageNotAllowed', true],
    ['AddressDenied', true],
    ['SecretNotFound', false],
  ] as const)('is Stalled when Accepted is False for %s: %s', (reason, expected) => {
    const status = find({ plan: { ...REMOTE, accepted: rejected(reason, 'x') } });
    expect(condition(status, 'Stalled') !== undefined).toBe(expected);
  });

  it('is not Stalled while nothing but the server is wrong', () => {
    expect(condition(find({ result: result({ kind: 'refused' }) }), 'Stalled')).toBeUndefined();
  });
});

describe('what time does to a status', () => {
  it('is nothing: equal findings at another time give an equal status', () => {
    const first = find();
    const second = find({ status: first, now: '2027-01-01T00:00:00Z' });
    expect(second).toEqual(first);
    expect(differs(second, first)).toBe(false);
  });

  it('keeps lastTransitionTime while the status stays, whatever the reason', () => {
    const before = find({ now: EARLIER, result: result({ kind: 'refused' }) });
    const after = find({ status: before, result: result({ kind: 'timeout', afterMs: 1 }) });
    expect(condition(after, 'Ready')).toMatchObject({ reason: 'Timeout', lastTransitionTime: EARLIER });
    expect(condition(after, 'Reachable')).toMatchObject({ reason: 'Timeout', lastTransitionTime: EARLIER });
  });

  it('moves lastTransitionTime of what changed, and of nothing else', () => {
    const before = find({ now: EARLIER });
    const after = find({ status: before, result: result({ kind: 'refused' }) });
    const times = Object.fromEntries(
      (after.conditions ?? []).map(({ type, lastTransitionTime }) => [type, lastTransitionTime]),
    );
    expect(times).toEqual({ Ready: NOW, Accepted: EARLIER, Reachable: NOW, Verified: NOW, Authorized: NOW });
  });

  it('keeps updatedAt while the generation stays, and moves it with a new one', () => {
    const before = find({ now: EARLIER });
    expect(find({ status: before, result: undefined }).updatedAt).toBe(EARLIER);
    expect(find({ status: before, generation: 2 }).updatedAt).toBe(NOW);
  });

  it('is written down in whole seconds', () => {
    expect(find({ now: '2026-03-01T10:00:00.999Z' }).updatedAt).toBe('2026-03-01T10:00:00Z');
  });

  it('begins when the operator sees a connector that the API server gave its first status', () => {
    const status = find({ status: { observedGeneration: -1 } });
    expect([status.observedGeneration, status.updatedAt]).toEqual([1, NOW]);
  });
});

describe('the address of a hosted server', () => {
  const previous = (serverUrl: string): PersonalConnectorStatus => ({ observedGeneration: 1, serverUrl });
  it.each<[string, Setup, string | undefined]>([
    ['is told once something serves it', { progress: hostedProgress() }, URL_],
    ['is not told before', { progress: WAITING, target: PENDING }, undefined],
    ['stays while its Pods are replaced', { progress: WAITING, target: PENDING, status: previous(URL_) }, URL_],
    [
      'is not told of a new address before',
      { progress: WAITING, target: PENDING, status: previous('http://old') },
      undefined,
    ],
    [
      'is told when there are no Pods on purpose',
      { progress: hostedProgress({ deployed: { status: 'True', reason: 'ScaledToZero', message: 'x' } }) },
      URL_,
    ],
  ])('%s', (_what, setup, expected) => {
    expect(find(setup).serverUrl).toBe(expected);
  });
});

describe('after a restart of the operator', () => {
  const before = find({ now: EARLIER });

  it('what was known stands until the first probe', () => {
    expect(find({ status: before, result: undefined })).toEqual(before);
  });

  it('a failure that was known stands as well', () => {
    const failed = find({ now: EARLIER, result: result({ kind: 'refused' }) });
    expect(find({ status: failed, result: undefined })).toEqual(failed);
  });

  it('what a server said about authorization stands as well', () => {
    const challenge = { resourceMetadataUrl: 'https://mcp.example.com/meta' };
    const oauth = find({ now: EARLIER, result: result({ kind: 'unauthorized', challenge }) });
    expect(find({ status: oauth, result: undefined })).toEqual(oauth);
  });

  it.each<[string, Setup]>([
    ['another generation', { status: before, generation: 2 }],
    ['another URL', { status: before, plan: { ...REMOTE, serverUrl: 'https://other.example.com' } }],
    ['a time without probes', { status: find({ target: DISABLED, result: undefined }) }],
    ['a maintenance', { status: find({ target: MAINTENANCE, result: undefined }) }],
    [
      'reasons that this version of the operator does not know',
      {
        status: {
          ...before,
          conditions: (before.conditions ?? []).map(one =>
            one.type === 'Verified' ? { ...one, reason: 'Magic' } : one,
          ),
        },
      },
    ],
    ['a lost condition', { status: { ...before, conditions: (before.conditions ?? []).slice(0, 3) } }],
  ])('what was known of %s does not stand', (_what, setup) => {
    const status = find({ result: undefined, ...setup });
    expect(condition(status, 'Reachable')).toMatchObject({ status: 'Unknown', reason: 'Pending' });
    expect(status).not.toHaveProperty('server');
  });

  it.each([
    [{ observedGeneration: 1, serverUrl: URL_ }, true],
    [{ observedGeneration: 0, serverUrl: URL_ }, false],
    [{ observedGeneration: 1, serverUrl: 'https://other' }, false],
    [{ observedGeneration: 1 }, false],
    [undefined, false],
  ])('a status %j still stands: %s', (status, expected) => {
    expect(stillStands(makeConnector('custom', {}, status ? { status } : {}), REMOTE)).toBe(expected);
  });
});

describe('a recheck', () => {
  it('is told once a probe has answered it, and stays', () => {
    const answered = find({ result: { ...ANSWERED, recheck: 'r1' } });
    expect(answered.lastHandledRecheck).toBe('r1');
    expect(find({ status: answered, result: undefined }).lastHandledRecheck).toBe('r1');
    expect(find({ status: answered, result: { ...ANSWERED, recheck: 'r2' } }).lastHandledRecheck).toBe('r2');
    expect(find()).not.toHaveProperty('lastHandledRecheck');
  });
});

describe('whether a status differs', () => {
  const status = find();
  const foreign: Condition = { type: 'Theirs', status: 'True', lastTransitionTime: NOW, reason: 'X', message: 'x' };
  it.each<[string, PersonalConnectorStatus | undefined, boolean]>([
    ['from nothing', undefined, true],
    ['from the first one', { observedGeneration: -1 }, true],
    ['from itself', structuredClone(status), false],
    ['from itself in another order', { ...status, conditions: [...(status.conditions ?? [])].reverse() }, false],
    ['from one with a condition of others', { ...status, conditions: [...(status.conditions ?? []), foreign] }, false],
    ['from one that lacks a condition', { ...status, conditions: (status.conditions ?? []).slice(1) }, true],
    [
      'from one with another message',
      { ...status, conditions: (status.conditions ?? []).map(one => ({ ...one, message: 'x' })) },
      true,
    ],
    [
      'from one with a condition of ours that no longer applies',
      { ...status, conditions: [...(status.conditions ?? []), { ...foreign, type: 'Stalled' }] },
      true,
    ],
    ['from one of another generation', { ...status, observedGeneration: 0 }, true],
    ['from one with other tools', { ...status, server: { ...status.server, toolsHash: 'x' } }, true],
  ])('%s', (_what, previous, expected) => {
    expect(differs(status, previous)).toBe(expected);
  });
});

describe('the Events of a change', () => {
  const events = (
    next: PersonalConnectorStatus,
    before?: PersonalConnectorStatus,
    spec: Partial<PersonalConnectorSpec> = {},
  ) =>
    eventsOf(makeConnector('custom', spec, before ? { status: before } : {}), next).map(
      ({ type, reason, action, note }) => `${type} ${action} ${reason}: ${note}`,
    );
  describe('of the version', () => {
    const at = (
      image: string,
      version: string,
      more: Partial<PersonalConnectorStatus> = {},
    ): PersonalConnectorStatus => ({
      ...find(),
      hosting: { deployment: 'd', image, replicas: 1, readyReplicas: 1 },
      server: { version, protocolVersion: '2025-11-25' },
      ...more,
    });
    const told = (...args: Parameters<typeof events>): string[] =>
      events(...args).filter(event => event.includes('VersionDiffers'));

    it.each<[string, PersonalConnectorStatus, Partial<PersonalConnectorSpec>, string[]]>([
      [
        'that the spec names and the server does not',
        at('r/jira:1.0.0', '2.0.0'),
        { version: '1.0.0' },
        ['the server says that its version is 2.0.0, and spec.version is 1.0.0 (image r/jira:1.0.0)'],
      ],
      [
        'of the image that is another one',
        at('r/jira:v1.0.0', '2.0.0'),
        {},
        ['the server says that its version is 2.0.0, and its image has the tag v1.0.0 (image r/jira:v1.0.0)'],
      ],
      ['that agrees', at('r/jira:v1.0.0_build.5', '1.0.0'), { version: '1.0.0+build.5' }, []],
      ['of an image without one', at('localhost:5000/jira@sha256:0', '2.0.0'), {}, []],
      ['of an image whose tag is no version', at('r/jira:latest', '2.0.0'), {}, []],
      ['of one that is being replaced', at('r/jira:1.0.0', '2.0.0', { conditions: [] }), {}, []],
    ])('%s', (_what, next, spec, expected) => {
      expect(told(next, undefined, spec)).toEqual(expected.map(text => `Normal Verified VersionDiffers: ${text}`));
    });

    it('is told once', () => {
      const status = at('r/jira:1.0.0', '2.0.0');
      expect(told(status, status)).toEqual([]);
      expect(told(at('r/jira:1.0.0', '3.0.0'), status)).toHaveLength(1);
    });
  });

  const good = find();
  const bad = find({ result: result({ kind: 'refused' }) });
  const worse = find({ result: result({ kind: 'timeout', afterMs: 1_000 }) });
  const unprobed = find({ target: DISABLED, result: undefined });

  it.each<[string, PersonalConnectorStatus, PersonalConnectorStatus | undefined, string[]]>([
    ['for the better', good, bad, ['Normal Ready Ready: GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools']],
    ['from nothing to good', good, undefined, ['Normal Ready Ready: GitHub 1.0.0 speaks MCP 2025-11-25 with 2 tools']],
    ['from nothing to what nobody looks at', unprobed, undefined, []],
    [
      'from being made to what nobody looks at',
      unprobed,
      find({ result: undefined }),
      ['Normal Ready ProbeDisabled: taken as ready, since spec.probe.enabled is false'],
    ],
    [
      'for the worse is told once, by the condition that says why',
      bad,
      good,
      [
        'Warning Reachable ConnectionRefused: nothing listens at mcp.example.com:443: check the port, and that the server runs',
      ],
    ],
    ['of the reason', worse, bad, ['Warning Reachable Timeout: mcp.example.com:443 gave no MCP answer within 1 s']],
    ['that is none', good, good, []],
    [
      'of a message alone',
      { ...bad, conditions: (bad.conditions ?? []).map(one => ({ ...one, message: 'x' })) },
      bad,
      [],
    ],
    ['to not knowing', find({ result: undefined }), good, []],
    [
      'to rejected',
      find({ plan: { ...REMOTE, accepted: rejected('IdConflict', 'taken') } }),
      good,
      ['Warning Accepted IdConflict: taken'],
    ],
  ])('%s', (_what, next, before, expected) => {
    expect(events(next, before)).toEqual(expected);
  });

  describe('of the tools', () => {
    const offering = (hash: string, names: string[]) =>
      find({
        result: result({ kind: 'answered', server: { ...SERVER, tools: { names, count: names.length, hash } } }),
      });
    const before = offering('sha256:1', ['a', 'b', 'c']);

    it.each<[string, string[], string]>([
      ['names what came and went', ['b', 'c', 'd'], 'added d; removed a'],
      ['names five of many', ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'], 'added d, e, f, g, h and 1 more'],
      ['says so when only their descriptions changed', ['a', 'b', 'c'], 'descriptions or input schemas'],
    ])('%s', (_what, names, words) => {
      expect(events(offering('sha256:2', names), before)).toEqual([
        `Normal Verified ToolsChanged: the tools of the server changed: ${words}; their hash is sha256:2`,
      ]);
    });

    it('is told once, as what is wrong, where others were approved', () => {
      const spec = { probe: { approvedToolsHash: 'sha256:1' } };
      const tools = { names: ['z'], count: 1, hash: 'sha256:2' };
      const changed = find({ spec, result: result({ kind: 'answered', server: { ...SERVER, tools } }) });
      expect(events(changed, before, spec)).toEqual([expect.stringMatching(/^Warning Verified ToolsChanged: /)]);
    });

    it.each<[string, PersonalConnectorStatus | undefined]>([
      ['nothing was known', undefined],
      ['they are the same', offering('sha256:2', ['z'])],
      ['it was another server', { ...before, serverUrl: 'https://other.example.com/mcp' }],
    ])('is no news when %s', (_what, old) => {
      expect(events(offering('sha256:2', ['z']), old).filter(event => event.includes('ToolsChanged'))).toEqual([]);
    });
  });

  it('tell once that a connector is deprecated, and what to use', () => {
    const spec = { lifecycle: 'deprecated', replacedBy: 'github2' } as const;
    const first = find({ spec });
    const warning = 'Warning Lifecycle Deprecated: this connector is deprecated: use github2 instead';
    expect(events(first, undefined, spec)).toContain(warning);
    expect(events(first, first, spec)).toEqual([]);
    expect(events({ ...first, observedGeneration: 2 }, first, spec)).toEqual([]);
    expect(events(first, { observedGeneration: -1 }, { lifecycle: 'deprecated' })).toContain(
      'Warning Lifecycle Deprecated: this connector is deprecated',
    );
  });
});

describe('regressions', () => {
  it('lets the tools that are not approved stay unapproved when the server would not list them this time', () => {
    const spec = { probe: { approvedToolsHash: 'sha256:old' } };
    const changed = find({ spec });
    expect(condition(changed, 'Verified')?.reason).toBe('ToolsChanged');
    const silent = find({ spec, status: changed, result: result({ kind: 'answered', server: SERVER }) });
    expect(condition(silent, 'Verified')?.status).not.toBe('True');
  });
});
