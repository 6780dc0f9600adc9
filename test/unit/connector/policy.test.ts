import { describe, expect, it } from 'vitest';
import { imageAllowed, policySchema } from '../../../src/connector/policy.ts';

describe('a policy', () => {
  it('is closed and complete when nothing is said', () => {
    expect(policySchema.parse({})).toEqual({
      catalog: {},
      allowedImages: [],
      addressPolicy: {
        allowCidrs: [],
        allowHosts: [],
        denyCidrs: [],
        denyHosts: [],
        ports: ['80', '443', '1024-65535'],
      },
      readSecrets: false,
      readConfigMaps: false,
      clusterDomain: 'cluster.local',
      probe: { intervalSeconds: 300, timeoutSeconds: 10, concurrency: 32, perHost: 2, perHostPerSecond: 5 },
    });
  });

  it('fills in what a catalog entry leaves out', () => {
    const { catalog } = policySchema.parse({
      catalog: { jira: { image: 'r.example.com/jira', defaultVersion: '2.0' } },
    });
    expect(catalog).toEqual({
      jira: {
        image: 'r.example.com/jira',
        defaultVersion: '2.0',
        serverType: 'http',
        port: 8000,
        path: '/mcp',
        env: {},
        requiredSecretKeys: [],
        stateless: false,
      },
    });
  });

  it('keeps all that a catalog entry says', () => {
    const jira = {
      image: 'localhost:5000/jira',
      defaultVersion: 'v2.0.0-rc.1',
      serverType: 'http',
      port: 9000,
      path: '/',
      command: ['node'],
      args: ['--mcp'],
      env: { A: '1' },
      requiredSecretKeys: ['TOKEN'],
      stateless: true,
      resources: { requests: { cpu: 1 }, limits: { memory: '1Gi' } },
    };
    expect(policySchema.parse({ catalog: { jira } }).catalog).toEqual({ jira });
  });

  it('takes ports as YAML gives them, one or a range', () => {
    expect(policySchema.parse({ addressPolicy: { ports: [443, '8000-9000'] } }).addressPolicy.ports).toEqual([
      '443',
      '8000-9000',
    ]);
  });

  it('takes the proxy that probes go through, and an empty one for none', () => {
    const proxy = 'https://user:secret@proxy.example.com:3128';
    expect(policySchema.parse({ probe: { proxy } }).probe.proxy).toBe(proxy);
    expect(policySchema.parse({ probe: { proxy: '' } }).probe.proxy).toBeUndefined();
  });

  const entry = { image: 'r.example.com/jira', defaultVersion: '2.0' };
  const stdio = { ...entry, serverType: 'stdio', command: ['x'] };
  it.each<[string, unknown, string]>([
    ['a missing image', { defaultVersion: '1' }, 'image'],
    ['an image with a digest', { ...entry, image: 'a@sha256:0' }, 'image'],
    ['an image with a space', { ...entry, image: 'a b' }, 'image'],
    ['a missing version', { image: 'a' }, 'defaultVersion'],
    ['a version that is no tag', { ...entry, defaultVersion: '1+2' }, 'defaultVersion'],
    ['an unknown server type', { ...entry, serverType: 'grpc' }, 'serverType'],
    ['a port that is none', { ...entry, port: 70_000 }, 'port'],
    ['a port in quotes', { ...entry, port: '8000' }, 'port'],
    ['a path without a slash', { ...entry, path: 'mcp' }, 'path'],
    ['a command that is no list', { ...entry, command: 'node' }, 'command'],
    ['a number as variable', { ...entry, env: { PORT: 1 } }, 'env.PORT'],
    ['an empty key', { ...entry, requiredSecretKeys: ['A', ''] }, 'requiredSecretKeys.1'],
    ['an unknown kind of resources', { ...entry, resources: { limit: {} } }, 'resources'],
    ['a field that does not exist', { ...entry, imge: 'x' }, 'the entry'],
    ['nothing in it', null, 'the entry'],
    ['no command for stdio', { ...entry, serverType: 'stdio' }, 'command'],
    ['sessions for http', { ...entry, maxSessions: 3 }, 'maxSessions'],
    ['sessions where there are none', { ...stdio, stateless: true, idleSeconds: 3 }, 'idleSeconds'],
    ['processes for http', { ...entry, stateless: true, processes: 3 }, 'processes'],
    ['processes for sessions', { ...stdio, processes: 3 }, 'processes'],
    ['no processes', { ...stdio, stateless: true, processes: 0 }, 'processes'],
    ['no sessions', { ...stdio, maxSessions: 0 }, 'maxSessions'],
  ])('with an entry with %s does without that entry, and names its field', (_what, jira, field) => {
    const { catalog } = policySchema.parse({ catalog: { github: entry, jira } });
    expect(catalog.github).toMatchObject(entry);
    expect(catalog.jira).toEqual({ fault: expect.stringMatching(new RegExp(`^${field}: [^;]*$`)) });
  });

  it('with an entry of which much is wrong names all of it, and what it is', () => {
    const { catalog } = policySchema.parse({ catalog: { jira: { ...entry, port: 70_000, path: 'mcp' } } });
    expect(catalog.jira).toEqual({
      fault: expect.stringMatching(/^port: .* \(it is 70000\); path: .* \(it is "mcp"\)$/),
    });
  });

  it('with a connectorId that no connector can have does without it', () => {
    const { catalog } = policySchema.parse({ catalog: { Jira: entry } });
    expect(catalog.Jira).toEqual({ fault: 'no connectorId is written like this: use a-z, 0-9, _ and -' });
  });

  it.each<[string, object, string, RegExp]>([
    ['a field that does not exist', { katalog: {} }, '', /katalog/],
    ['a field below that does not exist', { addressPolicy: { allowCidr: [] } }, 'addressPolicy', /allowCidr/],
    ['no time between probes', { probe: { intervalSeconds: 0 } }, 'probe.intervalSeconds', /0/],
    ['a proxy that is no URL', { probe: { proxy: 'proxy:3128' } }, 'probe.proxy', /such as http:\/\/proxy/],
    ['a proxy that speaks no HTTP', { probe: { proxy: 'socks5://proxy:1080' } }, 'probe.proxy', /http or https URL/],
    ['no probes at a time', { probe: { concurrency: 0 } }, 'probe.concurrency', /0/],
    ['no probes of a host', { probe: { perHostPerSecond: 0 } }, 'probe.perHostPerSecond', /0/],
    ['an empty image pattern', { allowedImages: [''] }, 'allowedImages.0', /1/],
    ['a text for a truth', { readSecrets: 'yes' }, 'readSecrets', /boolean/],
  ])('with %s is refused, naming it', (_what, input, path, message) => {
    const issues = policySchema.safeParse(input).error?.issues ?? [];
    expect(issues.map(issue => issue.path.join('.'))).toEqual([path]);
    expect(issues[0]?.message).toMatch(message);
  });
});

describe('imageAllowed', () => {
  it.each([
    ['ghcr.io/a/b:1', ['ghcr.io/a/b:1'], true],
    ['ghcr.io/a/b:1', ['ghcr.io/a/*'], true],
    ['ghcr.io/a/b:1', ['ghcr.io/a/b:*'], true],
    ['ghcr.io/a/b:1', ['*'], true],
    ['ghcr.io/a/b:1', ['*/b:*'], true],
    ['ghcr.io/a/b:1', ['quay.io/*', 'ghcr.io/*'], true],
    ['ghcr.io/a/b@sha256:0', ['ghcr.io/a/*@sha256:*'], true],
    ['ghcr.io/a/b:1', [], false],
    ['ghcr.io/a/b:1', [''], false],
    ['ghcr.io/a/b:1', ['ghcr.io/a/b'], false],
    ['ghcr.io/a/b:1', ['io/a/b:1'], false],
    ['ghcr.io/a/b:12', ['ghcr.io/a/b:1'], false],
    ['evil.io/ghcr.io/a/b:1', ['ghcr.io/*'], false],
    ['ghcrxio/a/b:1', ['ghcr.io/*'], false],
    ['ghcr.io.evil.example/a', ['ghcr.io/*'], false],
    ['GHCR.io/a', ['ghcr.io/*'], false],
    ['ghcr.io/a\nevil', ['ghcr.io/*'], false],
    // None of these means anything but itself.
    ['aab', ['a+b'], false],
    ['a+b', ['a+b'], true],
    ['ab', ['a?b'], false],
    ['a', ['[a]'], false],
    ['[a]', ['[a]'], true],
    ['a', ['(a|b)'], false],
    ['(a|b)', ['(a|b)'], true],
    ['a', ['^a$'], false],
    ['aa', ['a{2}'], false],
    ['a\\d', ['a\\d'], true],
    ['a1', ['a\\d'], false],
  ])('of %j by %j is %s', (image, patterns, expected) => {
    expect(imageAllowed(image, patterns)).toBe(expected);
  });
});

describe('regressions', () => {
  it.each(['ghcr.io/a/jira:1.0', 'localhost:5000/jira:latest'])(
    'does without an entry of the image %s, whose tag would come twice',
    image => {
      const { catalog } = policySchema.parse({ catalog: { jira: { image, defaultVersion: '2.0' } } });
      expect(catalog.jira).toEqual({ fault: expect.stringMatching(/^image: /) });
    },
  );
});
