import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Config, ConfigError, readConfig, USAGE } from '../../src/config.ts';
import { policySchema } from '../../src/connector/policy.ts';

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'pco-config-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let files = 0;
function file(text: string): string {
  files += 1;
  const path = join(dir, `${files}.yaml`);
  writeFileSync(path, text);
  return path;
}

function read(args: string[] = [], env: Record<string, string> = {}): Config {
  const config = readConfig(args, env);
  if (config === 'help') throw new Error('asked for help');
  return config;
}

/** The message for the person who starts the operator. */
function complaint(args: string[], env: Record<string, string> = {}): string {
  try {
    readConfig(args, env);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
  throw new Error('nothing was complained about');
}

describe('the settings', () => {
  it('are these when nothing is said', () => {
    expect(read()).toEqual({
      logLevel: 'info',
      host: undefined,
      port: 8080,
      workers: 16,
      namespaces: [],
      podName: 'local',
      share: 0,
      hotLoopPerMinute: 120,
      policy: policySchema.parse({}),
    });
  });

  it('cannot be changed', () => {
    expect(Object.isFrozen(read())).toBe(true);
  });

  it('come from the environment', () => {
    const env = {
      LOG_LEVEL: 'debug',
      HEALTH_HOST: '127.0.0.1',
      HEALTH_PORT: '9090',
      WORKERS: '4',
      WATCH_NAMESPACE: 'team, other',
      BRIDGE_IMAGE: 'operator:1',
      POD_NAME: 'pod-1',
      POD_NAMESPACE: 'system',
      LEASE_NAME: 'operator',
      LEASE_NAMESPACE: 'leases',
      HOT_LOOP: '60',
    };
    expect(read([], env)).toMatchObject({
      logLevel: 'debug',
      host: '127.0.0.1',
      port: 9090,
      workers: 4,
      namespaces: ['team', 'other'],
      bridgeImage: 'operator:1',
      podName: 'pod-1',
      podNamespace: 'system',
      leaseName: 'operator',
      leaseNamespace: 'leases',
      hotLoopPerMinute: 60,
    });
  });

  it('come from flags before the environment', () => {
    const env = {
      LOG_LEVEL: 'debug',
      HEALTH_HOST: '127.0.0.1',
      HEALTH_PORT: '9090',
      WORKERS: '4',
      WATCH_NAMESPACE: 'team,other',
      BRIDGE_IMAGE: 'operator:1',
      CONFIG_FILE: file('clusterDomain: from.env'),
      LEASE_NAME: 'operator',
      LEASE_NAMESPACE: 'leases',
      HOT_LOOP: '60',
    };
    const where = ['--log-level', 'warn', '--host', '::1', '--port', '0', '--workers', '1', '--namespace', 'mine'];
    const flags = [
      ...where,
      '--namespace',
      'too',
      '--bridge-image',
      'operator:2',
      '--lease',
      'other',
      '--lease-namespace',
      'there',
      '--hot-loop',
      '1',
    ];
    expect(read([...flags, '--config', file('clusterDomain: from.flag')], env)).toMatchObject({
      logLevel: 'warn',
      host: '::1',
      port: 0,
      workers: 1,
      namespaces: ['mine', 'too'],
      bridgeImage: 'operator:2',
      leaseName: 'other',
      leaseNamespace: 'there',
      hotLoopPerMinute: 1,
      policy: { clusterDomain: 'from.flag' },
    });
    expect(read([], env).policy.clusterDomain).toBe('from.env');
  });

  it.each<[string, string[], Record<string, string>, string]>([
    ['that of the Pod', ['--lease', 'x'], { POD_NAMESPACE: 'system' }, 'system'],
    ['the one that is named', ['--lease', 'x', '--lease-namespace', 'mine'], { POD_NAMESPACE: 'system' }, 'mine'],
    ['that of the environment', ['--lease', 'x'], { POD_NAMESPACE: 'system', LEASE_NAMESPACE: 'theirs' }, 'theirs'],
  ])('put the Lease into %s', (_which, args, env, namespace) => {
    expect(read(args, env)).toMatchObject({ leaseName: 'x', leaseNamespace: namespace });
  });

  it.each<[string[], Record<string, string>, number]>([
    [['--share', '3'], {}, 3],
    [[], { SHARE_AMONG: '16' }, 16],
    [['--share', '2'], { SHARE_AMONG: '3' }, 2],
    [['--share', '0'], { SHARE_AMONG: '3' }, 0],
    [[], { SHARE_AMONG: '' }, 0],
  ])('%j %j share the work among %i', (args, env, share) => {
    expect(read(['--lease', 'x', '--lease-namespace', 'y', ...args], env).share).toBe(share);
  });

  it('elect nobody when no Lease is named, also in a Pod', () => {
    expect(read([], { POD_NAMESPACE: 'system', LEASE_NAME: '' }).leaseName).toBeUndefined();
  });

  it('are of all namespaces when WATCH_NAMESPACE is empty, as a chart leaves it', () => {
    expect(read([], { WATCH_NAMESPACE: '' }).namespaces).toEqual([]);
  });

  it('name a namespace once, however often it is given', () => {
    expect(read([], { WATCH_NAMESPACE: ' team,other , team' }).namespaces).toEqual(['team', 'other']);
    expect(read(['--namespace', 'team', '--namespace', 'team']).namespaces).toEqual(['team']);
  });
});

describe('the file', () => {
  const FULL = `
    catalog:
      jira: { image: r.example.com/jira, defaultVersion: '2.0' }
    allowedImages: [ghcr.io/a/*]
    addressPolicy: { allowCidrs: [10.0.0.0/8], allowHosts: [a.internal], denyCidrs: [10.1.0.0/16], ports: [443] }
    readSecrets: true
    probe: { intervalSeconds: 60 }
  `;

  it('gives the policy, and defaults what it leaves out', () => {
    expect(read(['--config', file(FULL)]).policy).toMatchObject({
      catalog: { jira: { image: 'r.example.com/jira', port: 8000 } },
      allowedImages: ['ghcr.io/a/*'],
      addressPolicy: { allowCidrs: ['10.0.0.0/8'], allowHosts: ['a.internal'] },
      readSecrets: true,
      probe: { intervalSeconds: 60, timeoutSeconds: 10 },
    });
  });

  it('may say nothing', () => {
    expect(read(['--config', file('{}')])).toEqual(read());
    expect(read(['--config', file('---\n')])).toEqual(read());
  });

  it('is added to by flags that may come again', () => {
    const flags = ['--allow-cidr', 'fd00::/8', '--allow-cidr', '192.168.0.0/16', '--allow-host', '*.corp'];
    const { allowedImages, addressPolicy } = read([
      ...flags,
      '--allow-image',
      'quay.io/*',
      '--config',
      file(FULL),
    ]).policy;
    expect(allowedImages).toEqual(['ghcr.io/a/*', 'quay.io/*']);
    expect(addressPolicy).toEqual({
      allowCidrs: ['10.0.0.0/8', 'fd00::/8', '192.168.0.0/16'],
      allowHosts: ['a.internal', '*.corp'],
      denyCidrs: ['10.1.0.0/16'],
      denyHosts: [],
      ports: ['443'],
    });
  });

  it('has its catalog replaced by the one of --catalog', () => {
    const catalog = file("clickup: { image: r.example.com/clickup, defaultVersion: '1.0' }");
    const { policy } = read(['--config', file(FULL), '--catalog', catalog]);
    expect(Object.keys(policy.catalog)).toEqual(['clickup']);
    expect(policy.readSecrets).toBe(true);
  });
});

describe('a mistake', () => {
  it('in a flag is named', () => {
    expect(complaint(['--wat'])).toMatch(/'--wat'.*; see --help$/s);
    expect(complaint(['--port'])).toMatch(/--port.*; see --help$/s);
    expect(complaint(['stray'])).toMatch(/stray.*; see --help$/s);
  });

  it.each([
    [['--port', '70000'], {}, 'port'],
    [['--port', 'http'], {}, 'port'],
    [['--workers', '0'], {}, 'workers'],
    [['--workers', '1.5'], {}, 'workers'],
    [['--log-level', 'loud'], {}, 'logLevel'],
    [[], { WORKERS: 'many' }, 'workers'],
    [['--namespace', ''], {}, 'namespaces.0'],
    [['--namespace', 'a,b'], {}, 'namespaces.0'],
    [[], { WATCH_NAMESPACE: ',' }, 'namespaces.0'],
    [[], { WATCH_NAMESPACE: ' ' }, 'namespaces.0'],
    [[], { WATCH_NAMESPACE: 'team,' }, 'namespaces.1'],
    [[], { WATCH_NAMESPACE: 'team,Other' }, 'namespaces.1'],
    [[], { WATCH_NAMESPACE: 'team-' }, 'namespaces.0'],
    [[], { WATCH_NAMESPACE: 'x'.repeat(64) }, 'namespaces.0'],
    [['--bridge-image', ''], {}, 'bridgeImage'],
    [['--lease', '', '--lease-namespace', 'x'], {}, 'leaseName'],
    [['--lease', 'x', '--lease-namespace', ''], {}, 'leaseNamespace'],
    [['--lease', 'x'.repeat(64), '--lease-namespace', 'x'], {}, 'leaseName'],
    [['--share', '1'], {}, 'share'],
    [['--share', '17'], {}, 'share'],
    [[], { SHARE_AMONG: '-2' }, 'share'],
    [[], { SHARE_AMONG: 'some' }, 'share'],
    [['--hot-loop', '0'], {}, 'hotLoopPerMinute'],
    [['--hot-loop', '1.5'], {}, 'hotLoopPerMinute'],
    [[], { HOT_LOOP: 'often' }, 'hotLoopPerMinute'],
  ])('in a setting, %j %j, names it', (args, env, path) => {
    expect(complaint(args, env)).toMatch(new RegExp(`^a flag or environment variable is not valid:\n {2}${path}: \\S`));
  });

  it('in a namespace tells what it should be and what it is', () => {
    expect(complaint([], { WATCH_NAMESPACE: 'team,Other' })).toContain(
      'namespaces.1: must be the name of a namespace, such as team-a (it is "Other")',
    );
  });

  it('in where the Lease is says what to do', () => {
    const message = '--lease needs --lease-namespace, or POD_NAMESPACE, to say where the Lease is';
    expect(complaint(['--lease', 'x'])).toBe(message);
    expect(complaint([], { LEASE_NAME: 'x', POD_NAMESPACE: '' })).toBe(message);
  });

  it('in who shares says by what they know each other', () => {
    expect(complaint(['--share', '2'])).toBe('--share needs --lease, by which those who share know each other');
  });

  it('in the file names the file and the path', () => {
    const path = file('clusterDomain: 5\nprobe: { interval: 5 }');
    const lines = complaint(['--config', path]).split('\n');
    expect(lines[0]).toBe(`${path} is not valid:`);
    expect(lines.slice(1).map(line => line.trim().split(':')[0])).toEqual(['clusterDomain', 'probe']);
  });

  it.each([
    ['- a list', '(top)'],
    ['just text', '(top)'],
    ['katalog: {}', '(top)'],
  ])('of the whole file, %j, names the file', (text, where) => {
    const path = file(text);
    expect(complaint([], { CONFIG_FILE: path })).toContain(`${path} is not valid:\n  ${where}: `);
  });

  it('in YAML names the file and the line', () => {
    const path = file('catalog:\n  a: [1\n  b: 2\n');
    expect(complaint(['--config', path])).toMatch(new RegExp(`^${path} cannot be read: [\\s\\S]*\\(?3:`));
  });

  it('in the name of the file is named', () => {
    expect(complaint(['--config', '/no/such/file.yaml'])).toMatch(/^\/no\/such\/file\.yaml cannot be read: ENOENT/);
    expect(complaint(['--catalog', '/no/such/catalog.yaml'])).toMatch(/^\/no\/such\/catalog\.yaml cannot be read/);
  });

  it('in the catalog file names that file, or is left to the entry', () => {
    expect(complaint(['--catalog', file('[jira]')])).toMatch(/ is not valid:\n {2}\(top\): /);
    const path = file("jira: { image: 'a b', defaultVersion: '1' }");
    expect(read(['--catalog', path]).policy.catalog).toEqual({ jira: { fault: expect.stringMatching(/^image: /) } });
  });
});

describe('--help', () => {
  it('comes before every mistake but one in flags', () => {
    expect(readConfig(['--help', '--config', '/no/such/file'], { WORKERS: 'x' })).toBe('help');
  });

  it('tells each flag and variable that is read', () => {
    const flags = [
      '--config FILE',
      '--catalog FILE',
      '--allow-cidr RANGE',
      '--allow-host NAME',
      '--allow-image PATTERN',
      '--namespace NAME',
      '--bridge-image IMAGE',
      '--host ADDRESS',
      '--port PORT',
      '--workers N',
      '--lease NAME',
      '--lease-namespace NAME',
      '--share N',
      '--hot-loop N',
      '--log-level LEVEL',
      '--help',
    ];
    const variables = [
      'CONFIG_FILE',
      'WATCH_NAMESPACE',
      'BRIDGE_IMAGE',
      'HEALTH_HOST',
      'HEALTH_PORT',
      'WORKERS',
      'SHARE_AMONG',
      'LEASE_NAME',
      'LEASE_NAMESPACE',
      'HOT_LOOP',
      'LOG_LEVEL',
    ];
    for (const text of [...flags, ...variables.map(name => `[${name}]`), 'KUBECONFIG']) expect(USAGE).toContain(text);
    for (const line of USAGE.split('\n')) expect(line.length).toBeLessThanOrEqual(120);
  });
});

describe('regressions', () => {
  it.each([
    [['--log-level', 'loud'], {}, 'loud'],
    [['--port', '70000'], {}, '70000'],
    [[], { WORKERS: 'many' }, 'many'],
  ])('shows the value that it complains about: %j %j', (args, env, value) => {
    expect(complaint(args, env)).toContain(value);
  });

  it('shows the value in a file that it complains about', () => {
    const path = file('probe: { perHost: 70.5 }');
    expect(complaint(['--config', path])).toContain('70.5');
  });

  it.each([
    'HEALTH_PORT',
    'WORKERS',
    'LOG_LEVEL',
    'POD_NAME',
    'POD_NAMESPACE',
    'CONFIG_FILE',
    'LEASE_NAME',
    'LEASE_NAMESPACE',
    'BRIDGE_IMAGE',
    'HOT_LOOP',
  ])('takes an empty %s for none, as it does with WATCH_NAMESPACE', name => {
    expect(read([], { [name]: '' })).toEqual(read());
  });

  it.each(['', '# nothing yet\n'])(
    'takes a file of %j, as a ConfigMap may hold it, for one that says nothing',
    text => {
      expect(read(['--config', file(text)])).toEqual(read());
    },
  );
});
