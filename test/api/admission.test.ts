/** The chart's admission policies, rendered by Helm and judged by a real API server: who is refused what, and told why. */
import { KubeConfig } from '@kubernetes/client-node';
import { loadAll } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { Declared, KubeObject, ResourceType } from '../../src/api/meta.ts';
import { ApiError } from '../../src/kube/errors.ts';
import { createTransport, type Transport } from '../../src/kube/transport.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { run } from '../cluster/process.ts';
import { operatorRequests } from '../support/audit.ts';
import { connect, createSandbox, type Sandbox, until } from '../support/kube.ts';
import { runOperator } from '../support/operator.ts';
import { startMcp } from '../support/servers.ts';

const CHART = 'charts/personal-connector-operator';
const POLICIES = [
  'ValidatingAdmissionPolicy',
  'ValidatingAdmissionPolicyBinding',
  'MutatingAdmissionPolicy',
  'MutatingAdmissionPolicyBinding',
].map(kind => ({
  group: 'admissionregistration.k8s.io',
  version: 'v1',
  plural: kind.toLowerCase().replace(/y$/, 'ie').concat('s'),
  kind,
}));
const [LIMITS] = POLICIES as [ResourceType];

const admin = connect(inject('kubeconfig'));
const opened: { dispose(): Promise<void> }[] = [{ dispose: admin.close }];
const { helm, kubectl } = await resolveBinaries(['helm', 'kubectl'], { signal: admin.signal, progress: console.log });
afterAll(async () => {
  for (const { dispose } of opened.reverse()) await dispose();
});

interface Admission {
  limits?: Record<string, unknown>;
  stampCreatedBy?: { create: boolean };
}

function render(release: string, admission: Admission, more: object): Promise<string> {
  const values = Object.entries({ ...more, admission }).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  const sets = values.flatMap(value => ['--set-json', value]);
  const apis = ['--api-versions', 'admissionregistration.k8s.io/v1/MutatingAdmissionPolicy'];
  return run(helm, ['template', release, CHART, '--show-only', 'templates/admission.yaml', ...apis, ...sets]);
}

/** For some seconds after a CRD is made, the API server has no schema for policies that change its objects. */
function unready(error: unknown): undefined {
  if (!(error instanceof ApiError) || error.status !== 503) throw error;
}

/** A namespace of its own in which anybody may do anything with connectors. */
async function createNamespace(labels: Record<string, string> = {}): Promise<Sandbox> {
  const sandbox = await createSandbox(inject('kubeconfig'), labels);
  opened.push(sandbox);
  const rbac = { group: 'rbac.authorization.k8s.io', version: 'v1' };
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  const metadata = { name: 'everybody', namespace: sandbox.namespace };
  const rules = [{ apiGroups: ['connectors.aitronos.com'], resources: ['*'], verbs: ['*'] }];
  await sandbox.apply({ ...rbac, plural: 'roles', kind: 'Role' }, { apiVersion, kind: 'Role', metadata, rules });
  await sandbox.apply(
    { ...rbac, plural: 'rolebindings', kind: 'RoleBinding' },
    {
      apiVersion,
      kind: 'RoleBinding',
      metadata,
      roleRef: { apiGroup: rbac.group, kind: 'Role', name: 'everybody' },
      subjects: [{ apiGroup: rbac.group, kind: 'Group', name: 'system:authenticated' }],
    },
  );
  const forbidden = async () => (await refusal(connectorsIn(sandbox).remove('nothing'))).includes(' is forbidden: ');
  await vi.waitUntil(async () => !(await forbidden()), { timeout: 10_000 });
  return sandbox;
}

/** Installs what Helm renders, and waits until `effective` sees it at work. */
async function install(admission: Admission, more: object, effective: () => Promise<boolean>): Promise<void> {
  const release = `a${opened.length}`;
  const objects = loadAll(await render(release, admission, more)) as Declared[];
  for (const object of objects) {
    const type = POLICIES.find(({ kind }) => kind === object.kind) as ResourceType;
    await admin.client.apply(type, object, { fieldManager: 'helm' }, admin.signal);
    opened.push({ dispose: () => admin.client.remove(type, object as KubeObject, AbortSignal.timeout(10_000)) });
  }
  await vi.waitUntil(effective, { timeout: 30_000 });
}

const sessions = new Map<string, Transport>();

/** The API as this user sees it. */
function session(user: string, group = 'people'): Transport {
  const key = JSON.stringify([user, group]);
  const known = sessions.get(key);
  if (known) return known;
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(inject('kubeconfig'));
  const authenticate = kubeConfig.applyToHTTPSOptions.bind(kubeConfig);
  kubeConfig.applyToHTTPSOptions = async options => {
    await authenticate(options);
    options.headers = { ...options.headers, 'Impersonate-User': user, 'Impersonate-Group': group };
  };
  const transport = createTransport(kubeConfig, { userAgent: 'personal-connector-operator-test' });
  sessions.set(key, transport);
  opened.push({ dispose: () => transport.close() });
  return transport;
}

type Who = readonly [user: string, group?: string];
const ALICE: Who = ['alice'];
const BOSS: Who = ['boss', 'platform "team" \\x'];

const remote = {
  name: 'GitHub',
  type: 'official',
  connectorId: 'github',
  serverUrl: 'https://mcp.example.com/mcp',
} as const;
const hosted = { name: 'Jira', type: 'aitronos_built', connectorId: 'jira' } as const;
const manifest = (name: string, spec: unknown) => ({
  apiVersion: 'connectors.aitronos.com/v1',
  kind: 'PersonalConnector',
  metadata: { name },
  spec,
});

/** What users do with the connectors of a namespace. */
function connectorsIn({ namespace, signal }: Sandbox) {
  const path = `/apis/connectors.aitronos.com/v1/namespaces/${namespace}/personalconnectors`;
  const send =
    (method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', at: string, body?: unknown, contentType?: string) =>
    ([user, group]: Who) =>
      session(user, group).call<PersonalConnector>({
        method,
        path: `${path}${at}`,
        signal,
        ...(body !== undefined && { body }),
        ...(contentType && { contentType }),
      });
  return {
    create: (name: string, spec: unknown) => send('POST', '', manifest(name, spec)),
    tryOut: (spec: unknown) => send('POST', '?dryRun=All', manifest('tried', spec)),
    replace: (object: PersonalConnector) => send('PUT', `/${object.metadata.name}`, object),
    merge: (name: string, patch: object) => send('PATCH', `/${name}`, patch, 'application/merge-patch+json'),
    patch: (name: string, patch: object) => send('PATCH', `/${name}`, patch, 'application/json-patch+json'),
    mergeStatus: (name: string, patch: object) =>
      send('PATCH', `/${name}/status`, patch, 'application/merge-patch+json'),
    apply: (name: string, spec: unknown, fieldManager: string, dryRun = '') =>
      send(
        'PATCH',
        `/${name}?fieldManager=${fieldManager}${dryRun}`,
        manifest(name, spec),
        'application/apply-patch+yaml',
      ),
    remove: (name: string) => send('DELETE', `/${name}`),
  };
}

/** What a user is told who is refused, without what names the request and the policy. */
async function refusal(request: (who: Who) => Promise<unknown>, who: Who = ALICE): Promise<string> {
  try {
    await request(who);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return error.message.replace(/^.*denied request: /s, `${error.status} `);
  }
  return 'let through';
}

describe('limits', () => {
  let cluster: Sandbox;
  let users: ReturnType<typeof connectorsIn>;
  beforeAll(async () => {
    cluster = await createNamespace();
    users = connectorsIn(cluster);
    const limits = {
      create: true,
      types: ['official', 'aitronos_built'],
      hosts: ['mcp.example.com', '*.Tools.example.com.', '[2001:DB8::1]', '192.0.2.7', 'xn--bcher-kva.example'],
      images: ['registry.example.com/mcp/*', 'ghcr.io/o\'"\\brien:1.*', 'example.com/exact:1.0'],
      createdBySelf: true,
      createdByGroups: ['connector-admins'],
      exemptUsers: ['system:serviceaccount:flux-system:kustomize-controller', 'o\'"\\brien'],
      exemptGroups: ['platform "team" \\x'],
    };
    const refused = users.tryOut({ ...remote, type: 'custom' });
    await install({ limits }, { watchNamespaces: [cluster.namespace] }, async () =>
      (await refusal(refused)).startsWith('403'),
    );
  });

  const at = (serverUrl: string) => ({ ...remote, serverUrl });
  const image = (name: string) => ({ ...hosted, hosting: { image: name } });
  const by = (createdBy: string) => ({ ...remote, createdBy });

  it.each<[what: string, spec: object, who?: Who]>([
    ['a type that is allowed', remote],
    ['a host in capitals', at('HTTPS://MCP.Example.COM/mcp')],
    ['a host with a port', at('https://mcp.example.com:8443/mcp')],
    ['a host with a trailing dot', at('https://mcp.example.com./mcp')],
    ['a name below a host', at('https://a.b.tools.example.com/mcp')],
    ['an IPv6 address, however it is spelled', at('https://[2001:db8:0:0::1]:8443/mcp')],
    ['an IPv4 address', at('https://192.0.2.7/mcp')],
    ['a host that is written as it is dialled', at('https://xn--bcher-kva.example/mcp')],
    ['a websocket', { ...at('wss://mcp.example.com/mcp'), serverType: 'websocket' }],
    ['a hosted server, whose URL names a Service', { ...hosted, serverUrl: 'http://jira-mcp:8000/mcp' }],
    ['a hosted server of the catalog', hosted],
    ['a hosted server with an empty hosting', { ...hosted, hosting: {} }],
    ['an image that a pattern covers', image('registry.example.com/mcp/team/jira:1.2.3')],
    ['an image that a pattern with quotes covers', image('ghcr.io/o\'"\\brien:1.2')],
    ['oneself as creator', by('alice')],
    ['oneself as creator, with an odd name', by('o\'"\\b'), ['o\'"\\b']],
    ['somebody else as creator, by who may', by('bob'), ['carol', 'connector-admins']],
    ['anything, by a user that is exempt', { ...remote, type: 'custom' }, ['o\'"\\brien']],
    ['anything, by a group that is exempt', { ...at('https://evil.example.org/'), createdBy: 'bob' }, BOSS],
  ])('let through %s', async (_what, spec, who = ALICE) => {
    expect(await refusal(users.tryOut(spec), who)).toBe('let through');
  });

  const HOSTS =
    'is not allowed here: use one of mcp.example.com, *.Tools.example.com., [2001:DB8::1], 192.0.2.7, ' +
    "xn--bcher-kva.example, or have the cluster's admin add it to admission.limits.hosts";
  const IMAGES =
    'is not allowed here: use one of registry.example.com/mcp/*, ghcr.io/o\'"\\brien:1.*, example.com/exact:1.0, or ' +
    "have the cluster's admin add it to admission.limits.images";
  const CREATOR = ': leave it out, or put in your own name';

  it.each<[what: string, spec: object, message: string, who?: Who]>([
    [
      'a type that is not allowed',
      { ...remote, type: 'custom' },
      "spec.type custom is not allowed here: use official or aitronos_built, or have the cluster's admin add it to admission.limits.types",
    ],
    ['another host', at('https://evil.example.org/mcp'), `spec.serverUrl: the host "evil.example.org" ${HOSTS}`],
    [
      'a name below an exact host',
      at('https://a.mcp.example.com/'),
      `spec.serverUrl: the host "a.mcp.example.com" ${HOSTS}`,
    ],
    ['the suffix itself', at('https://tools.example.com/'), `spec.serverUrl: the host "tools.example.com" ${HOSTS}`],
    [
      'a host that only ends alike',
      at('https://eviltools.example.com/'),
      `spec.serverUrl: the host "eviltools.example.com" ${HOSTS}`,
    ],
    [
      'an allowed host in the path',
      at('https://evil.org/mcp.example.com'),
      `spec.serverUrl: the host "evil.org" ${HOSTS}`,
    ],
    [
      'an allowed host in the query',
      at('https://evil.org?x.tools.example.com'),
      `spec.serverUrl: the host "evil.org" ${HOSTS}`,
    ],
    [
      'an allowed host as the beginning',
      at('https://mcp.example.com.evil.org/'),
      `spec.serverUrl: the host "mcp.example.com.evil.org" ${HOSTS}`,
    ],
    ['another IPv6 address', at('https://[2001:db8::2]/'), `spec.serverUrl: the host "2001:db8::2" ${HOSTS}`],
    ['an address in hexadecimal', at('https://0xc0000207/'), `spec.serverUrl: the host "0xc0000207" ${HOSTS}`],
    ['a host in Unicode', at('https://bücher.example/'), `spec.serverUrl: the host "bücher.example" ${HOSTS}`],
    ['letters that look alike', at('https://mcp.exаmple.com/'), `spec.serverUrl: the host "mcp.exаmple.com" ${HOSTS}`],
    ['full-width letters', at('https://ｍcp.example.com/'), `spec.serverUrl: the host "ｍcp.example.com" ${HOSTS}`],
    ['bytes that are no text', at('https://%ff.example.org/'), `spec.serverUrl: the host "�.example.org" ${HOSTS}`],
    ['another image', image('evil.example.org/x'), `spec.hosting.image "evil.example.org/x" ${IMAGES}`],
    [
      'an image whose dots are others',
      image('registryxexample.com/mcp/x'),
      `spec.hosting.image "registryxexample.com/mcp/x" ${IMAGES}`,
    ],
    [
      'an image that a pattern covers in part',
      image('evil/registry.example.com/mcp/x'),
      `spec.hosting.image "evil/registry.example.com/mcp/x" ${IMAGES}`,
    ],
    [
      'an image that begins like one',
      image('example.com/exact:1.0-evil'),
      `spec.hosting.image "example.com/exact:1.0-evil" ${IMAGES}`,
    ],
    [
      'an image of two lines',
      image('evil\nregistry.example.com/mcp/x'),
      `spec.hosting.image "evil\\nregistry.example.com/mcp/x" ${IMAGES}`,
    ],
    ['somebody else as creator', by('bob'), `spec.createdBy "bob" may not be set by "alice"${CREATOR}`],
    [
      'somebody else as creator, by who has quotes in the name',
      by('bob'),
      `spec.createdBy "bob" may not be set by "mal\\"'\\\\"${CREATOR}`,
      ['mal"\'\\'],
    ],
    [
      'another user with the name of a group',
      by('bob'),
      `spec.createdBy "bob" may not be set by "connector-admins"${CREATOR}`,
      ['connector-admins'],
    ],
  ])('refuse %s', async (_what, spec, message, who = ALICE) => {
    expect(await refusal(users.tryOut(spec), who)).toBe(`403 ${message}`);
  });

  it.each([
    'https://mcp.example.com\\@evil.org/',
    'https://evil.org\\.tools.example.com/',
    'https://mcp.example.com@evil.org/',
    'https://evil.org\t.tools.example.com/',
    'https://evil.org%2f.tools.example.com/',
    'https:evil.org/',
    'https:/evil.org/',
    'https:///evil.org/',
    'https://mcp.example.com:443:evil.org/',
  ])('let no other reading of a URL lead elsewhere: %j', async serverUrl => {
    // By the CRD, which asks before the limits do.
    expect(await refusal(users.tryOut(at(serverUrl)))).toMatch(/ 422 .* spec.serverUrl must /);
  });

  describe('judge what a request changes:', () => {
    const name = 'early';
    beforeAll(async () => {
      const early = { ...at('https://evil.example.org/mcp'), type: 'custom', createdBy: 'bob' };
      await users.create(name, early)(BOSS);
    });

    it('labels and other fields of what was let in earlier', async () => {
      expect(await refusal(users.merge(name, { metadata: { labels: { a: 'b' } } }))).toBe('let through');
      expect(await refusal(users.merge(name, { spec: { description: 'Mine.' } }))).toBe('let through');
    });

    it('its status', async () => {
      const status = { observedGeneration: 1, serverUrl: 'https://evil.example.org/mcp' };
      const { metadata } = await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, name);
      const written = await users.mergeStatus(name, { status })(ALICE);
      expect(written.status).toMatchObject(status);
      expect(written.metadata.generation).toBe(metadata.generation);
    });

    it('a replacement by the same', async () => {
      const same = await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, name);
      expect(await refusal(users.replace(same))).toBe('let through');
    });

    it('another bad value in place of a bad one', async () => {
      const patch = { spec: { serverUrl: 'https://worse.example.org/mcp' } };
      expect(await refusal(users.merge(name, patch))).toBe(`403 spec.serverUrl: the host "worse.example.org" ${HOSTS}`);
    });

    it('the URL, once another type makes it count', async () => {
      expect(await refusal(users.merge(name, { spec: { type: 'official' } }))).toContain('the host "evil.example.org"');
      await users.create('sleeper', { ...hosted, serverUrl: 'http://evil.example.org:8000/mcp' })(ALICE);
      expect(await refusal(users.merge('sleeper', { spec: { type: 'official' } }))).toContain(
        'the host "evil.example.org"',
      );
    });

    it('what is mended', async () => {
      expect(
        await refusal(users.merge(name, { spec: { type: 'official', serverUrl: 'https://mcp.example.com/mcp' } })),
      ).toBe('let through');
    });

    it('an image that is added, or changed', async () => {
      await users.create('pictured', image('evil.example.org/x'))(BOSS);
      expect(await refusal(users.merge('pictured', { spec: { hosting: { port: 9000 } } }))).toBe('let through');
      expect(await refusal(users.merge('pictured', { spec: { hosting: { image: 'evil.example.org/y' } } }))).toContain(
        'spec.hosting.image "evil.example.org/y"',
      );
      await users.create('plain', hosted)(ALICE);
      expect(await refusal(users.merge('plain', { spec: { hosting: { image: 'evil.example.org/x' } } }))).toContain(
        'spec.hosting.image "evil.example.org/x"',
      );
    });

    it('a creator that is put in later', async () => {
      await users.create('nobodys', remote)(ALICE);
      expect(await refusal(users.merge('nobodys', { spec: { createdBy: 'bob' } }))).toContain(
        'spec.createdBy "bob" may not be set by "alice"',
      );
      expect(await refusal(users.merge('nobodys', { spec: { createdBy: 'alice' } }))).toBe('let through');
      expect(await refusal(users.merge('nobodys', { spec: { description: 'Not mine.' } }), ['dave'])).toBe(
        'let through',
      );
    });

    it('no removal', async () => {
      await users.create('goes', { ...remote, type: 'custom' })(BOSS);
      expect(await refusal(users.remove('goes'))).toBe('let through');
    });
  });

  it('hold in the namespaces that are watched, and in no other', async () => {
    const other = connectorsIn(await createNamespace());
    expect(await refusal(other.tryOut({ ...at('https://evil.example.org/'), type: 'custom', createdBy: 'bob' }))).toBe(
      'let through',
    );
  });

  it('are well typed for the API server', async () => {
    interface Policy extends KubeObject {
      spec: { matchConstraints: { namespaceSelector: { matchExpressions?: { values: string[] }[] } } };
      status?: { observedGeneration?: number; typeChecking?: object };
    }
    const policies = await admin.client.list<Policy>(LIMITS, {}, admin.signal);
    const ours = policies.items.find(({ spec }) =>
      spec.matchConstraints.namespaceSelector.matchExpressions?.some(({ values }) =>
        values.includes(cluster.namespace),
      ),
    ) as Policy;
    const checked = await until<Policy>(admin, LIMITS, {}, ours.metadata.name, policy => {
      return policy?.status?.observedGeneration === policy?.metadata.generation;
    });
    expect(checked.status?.typeChecking).toEqual({});
  });
});

describe('limits that are few', () => {
  it('hold where a label selector says, and let all else be', async () => {
    const label = { 'example.com/tenant': 'yes' };
    const [limited, free] = [await createNamespace(label), await createNamespace()];
    const limits = { create: true, hosts: ['mcp.example.com'], namespaceSelector: { matchLabels: label } };
    const refused = connectorsIn(limited).tryOut({ ...remote, serverUrl: 'https://evil.example.org/' });
    // Both: the selector and the watched namespaces.
    const watchNamespaces = [limited.namespace, free.namespace];
    await install({ limits }, { watchNamespaces }, async () => (await refusal(refused)).startsWith('403'));
    expect(await refusal(refused)).toMatchInlineSnapshot(
      `"403 spec.serverUrl: the host "evil.example.org" is not allowed here: use one of mcp.example.com, or have the cluster's admin add it to admission.limits.hosts"`,
    );
    expect(await refusal(connectorsIn(limited).tryOut({ ...remote, type: 'custom', createdBy: 'bob' }))).toBe(
      'let through',
    );
    expect(await refusal(connectorsIn(free).tryOut({ ...remote, serverUrl: 'https://evil.example.org/' }))).toBe(
      'let through',
    );
  });

  it('let only some groups name creators, and tell at most a thousand characters of what is allowed', async () => {
    const cluster = await createNamespace();
    const users = connectorsIn(cluster);
    const hosts = Array.from({ length: 200 }, (_, index) => `server-${index}.a-rather-long-name.example.com`);
    const limits = { create: true, createdByGroups: ['connector-admins'], hosts: [...hosts, 'mcp.example.com'] };
    const refused = users.tryOut({ ...remote, createdBy: 'alice' });
    await install({ limits }, { watchNamespaces: [cluster.namespace] }, async () =>
      (await refusal(refused)).startsWith('403'),
    );
    expect(await refusal(refused)).toMatchInlineSnapshot(
      `"403 spec.createdBy "alice" may not be set by "alice": leave it out, or have it set by a member of admission.limits.createdByGroups"`,
    );
    expect(await refusal(refused, ['dave', 'connector-admins'])).toBe('let through');
    const elsewhere = await refusal(users.tryOut({ ...remote, serverUrl: 'https://evil.example.org/' }));
    expect(elsewhere).toMatch(
      /^403 spec.serverUrl: the host "evil.example.org" is not allowed here: use one of server-0/,
    );
    expect(elsewhere).toMatch(/…, or have the cluster's admin add it to admission.limits.hosts$/);
  });
});

describe('the stamp', () => {
  let cluster: Sandbox;
  let users: ReturnType<typeof connectorsIn>;
  const stamped = async (who: Who) => (await users.tryOut(remote)(who)).spec.createdBy;
  beforeAll(async () => {
    cluster = await createNamespace();
    users = connectorsIn(cluster);
    // With limits that know nothing of oneself: who is stamped has not set it.
    const limits = { create: true, createdByGroups: ['connector-admins'] };
    await install(
      { stampCreatedBy: { create: true }, limits },
      { watchNamespaces: [cluster.namespace] },
      async () =>
        (await stamped(ALICE).catch(unready)) === 'alice' &&
        (await refusal(users.tryOut({ ...remote, createdBy: 'bob' }))).startsWith('403'),
    );
  });

  const creatorOf = async (name: string) =>
    (await cluster.get<PersonalConnector>(PERSONAL_CONNECTORS, name)).spec.createdBy;

  /** kubectl as a user, with a manifest on its stdin. */
  const kubectlAs = (user: string, args: string[], object: object): Promise<string> =>
    run(kubectl, ['--kubeconfig', inject('kubeconfig'), '-n', cluster.namespace, '--as', user, ...args, '-f', '-'], {
      input: JSON.stringify(object),
    });

  it.each(['alice', 'system:serviceaccount:argocd:argocd-application-controller', 'quo"te\'s and \\backslashes'])(
    'names who creates: %s',
    async user => {
      expect(await stamped([user])).toBe(user);
    },
  );

  it('leaves a creator that is named', async () => {
    const created = await users.tryOut({ ...remote, createdBy: 'bob' })(['carol', 'connector-admins']);
    expect(created.spec.createdBy).toBe('bob');
  });

  it('refuses a wrong creator all the same', async () => {
    expect(await refusal(users.tryOut({ ...remote, createdBy: 'bob' }))).toBe(
      '403 spec.createdBy "bob" may not be set by "alice": leave it out, or put in your own name',
    );
  });

  it('leaves out a name that is longer than the field', async () => {
    expect(await stamped(['u'.repeat(256)])).toBe('u'.repeat(256));
    expect(await stamped(['u'.repeat(257)])).toBeUndefined();
  });

  it.each([
    ['no spec', undefined, 'spec: Required value'],
    ['a spec that is none', 'text', 'must be of type object: "string"'],
    ['a list as spec', [1], 'must be of type object: "array"'],
    ['null as spec', null, 'spec'],
    ['an empty creator', { ...remote, createdBy: '' }, 'spec.createdBy in body should be at least 1 chars long'],
  ])('leaves it to the CRD to refuse %s', async (_what, spec, message) => {
    const said = await refusal(users.tryOut(spec));
    expect(said).toContain(message);
    expect(said).toContain('422');
  });

  it('keeps the creator through each way to change a connector', async () => {
    const name = 'changed';
    const created = await users.create(name, remote)(ALICE);
    expect(created.spec.createdBy).toBe('alice');
    const bob: Who = ['bob'];
    const { createdBy: _, ...without } = created.spec;

    await users.replace({ ...created, spec: { ...without, description: 'replaced' } })(bob);
    expect(await creatorOf(name)).toBe('alice');
    await users.merge(name, { spec: { createdBy: null, description: 'merged' } })(bob);
    expect(await creatorOf(name)).toBe('alice');
    await users.patch(name, [{ op: 'remove', path: '/spec/createdBy' }])(bob);
    expect(await creatorOf(name)).toBe('alice');
    await kubectlAs('bob', ['replace'], manifest(name, { ...remote, description: 'by kubectl' }));
    expect(await creatorOf(name)).toBe('alice');
    expect(await refusal(users.merge(name, { spec: { createdBy: 'bob' } }), bob)).toContain(
      'spec.createdBy cannot be changed once it is set',
    );
  });

  it.each([
    ['kubectl apply', ['apply']],
    ['kubectl apply --server-side', ['apply', '--server-side']],
    ['kubectl create', ['create', '--save-config']],
  ])('shows no drift to %s', async (what, args) => {
    const object = manifest(what.replaceAll(/[^a-z]+/g, '-'), remote);
    await kubectlAs('alice', args, object);
    expect(await creatorOf(object.metadata.name)).toBe('alice');
    const again = args.includes('--server-side') ? ['diff', '--server-side'] : ['diff'];
    // It fails when there is a difference.
    expect(await kubectlAs('bob', again, object)).toBe('');
    const changed = manifest(object.metadata.name, { ...remote, description: 'changed' });
    await kubectlAs('bob', args[0] === 'create' ? ['apply'] : args, changed);
    expect(await creatorOf(object.metadata.name)).toBe('alice');
  });

  it("is nobody's field: GitOps tools that apply on the server see no drift, and take it with no conflict", async () => {
    const flux: Who = ['system:serviceaccount:flux-system:kustomize-controller'];
    const name = 'gitops';
    const created = await users.apply(name, remote, 'kustomize-controller')(flux);
    expect(created.spec.createdBy).toBe(flux[0]);
    const owners = (connector: PersonalConnector) =>
      (connector.metadata as unknown as { managedFields: { manager: string; fieldsV1: object }[] }).managedFields
        .filter(({ fieldsV1 }) => JSON.stringify(fieldsV1).includes('f:createdBy'))
        .map(({ manager }) => manager);
    expect(owners(created)).toEqual([]);

    const predicted = await users.apply(name, remote, 'kustomize-controller', '&dryRun=All')(flux);
    expect(predicted).toEqual(created);
    // The first time, the API server writes what it has anew, with a stamp or without.
    const applied = await users.apply(name, remote, 'kustomize-controller')(flux);
    const again = await users.apply(name, remote, 'kustomize-controller')(flux);
    expect(again.metadata.resourceVersion).toBe(applied.metadata.resourceVersion);

    // Somebody names the creator in Git, and leaves it out again.
    const named = await users.apply(name, { ...remote, createdBy: flux[0] }, 'kustomize-controller')(flux);
    expect(owners(named)).toEqual(['kustomize-controller']);
    const unnamed = await users.apply(name, remote, 'kustomize-controller')(flux);
    expect(unnamed.spec.createdBy).toBe(flux[0]);
    expect(owners(unnamed)).toEqual([]);
    const settled = await users.apply(name, remote, 'kustomize-controller')(flux);
    expect(settled.metadata.resourceVersion).toBe(unnamed.metadata.resourceVersion);
  });

  it('does not make a creator of who only changes a connector', async () => {
    const anonymous = 'u'.repeat(257);
    await users.create('old', remote)([anonymous]);
    const changed = await users.merge('old', { spec: { description: 'changed' } })(ALICE);
    expect(changed.spec.createdBy).toBeUndefined();
  });

  it('is set in the namespaces that are watched, and in no other', async () => {
    const other = connectorsIn(await createNamespace());
    expect((await other.tryOut(remote)(ALICE)).spec.createdBy).toBeUndefined();
  });
});

it('lets the operator work as ever, also for connectors beyond the limits', async () => {
  const cluster = await createNamespace();
  const users = connectorsIn(cluster);
  const server = await startMcp();
  opened.push({ dispose: () => server.close() });
  const limits = {
    create: true,
    types: ['official'],
    hosts: ['mcp.example.com'],
    images: ['none'],
    createdBySelf: true,
  };
  const custom = { ...remote, type: 'custom', serverUrl: server.url };
  await users.create('early', custom)(ALICE);
  await users.create('hosted', { ...hosted, hosting: { image: 'registry.example.com/mcp/jira:1' } })(ALICE);
  await install(
    { limits, stampCreatedBy: { create: true } },
    { watchNamespaces: [cluster.namespace] },
    async () =>
      (await refusal(users.tryOut(custom))).startsWith('403') &&
      (await users.tryOut(remote)(ALICE).catch(unready))?.spec.createdBy === 'alice',
  );
  const operator = await runOperator(cluster, {
    addressPolicy: { allowCidrs: ['127.0.0.0/8'] },
    allowedImages: ['registry.example.com/*'],
  });
  opened.push({ dispose: () => operator.stop() });
  const early = await cluster.untilReady('early', 'True', 'Ready');
  expect(early.spec.createdBy).toBeUndefined();
  await cluster.until<PersonalConnector>(PERSONAL_CONNECTORS, 'hosted', connector =>
    Boolean(connector?.status?.hosting?.deployment),
  );
  await users.merge('early', { spec: { description: 'changed' } })(ALICE);
  await cluster.untilReady('early', 'True', 'Ready');
  await users.remove('hosted')(ALICE);
  await cluster.until(PERSONAL_CONNECTORS, 'hosted', connector => connector === undefined);
  const requests = operatorRequests(inject('auditLog'), cluster.namespace);
  expect(requests.filter(({ verb }) => verb === 'patch').length).toBeGreaterThan(2);
  // Beside what others change at the same time.
  expect(requests.filter(({ code }) => code >= 400 && code !== 404 && code !== 409)).toEqual([]);
});
