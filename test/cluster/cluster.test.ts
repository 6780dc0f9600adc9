import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { networkInterfaces, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { resolveBinaries, versionOf } from './binaries.ts';
import { startControlPlane } from './cluster.ts';
import { createDirectory, PREFIX } from './directory.ts';
import { pauseImage } from './images.ts';
import { tryLock } from './lock.ts';
import { type Node, startNode } from './node.ts';
import { aborted, messageOf, run, until } from './process.ts';

// The first run on a machine may have to build the binaries from source.
const FIRST_RUN_MS = 20 * 60_000;
const canRunNode = process.platform === 'linux' && process.getuid?.() === 0;
const progress = (line: string) => console.error(line);

let signal: AbortSignal;
let dir: string;

beforeEach(context => {
  signal = context.signal;
  dir = mkdtempSync(join(tmpdir(), 'cluster-test-'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true, force: true });
});

describe('binaries', () => {
  const platform = { os: process.platform, arch: process.arch === 'x64' ? 'amd64' : process.arch };
  const kubectlPath = `/dl.k8s.io/${versionOf('kubernetes')}/bin/${platform.os}/${platform.arch}/kubectl`;
  const kubectl = Buffer.from('#!/bin/sh\necho kubectl\n');

  it('come from KUBEBUILDER_ASSETS first', async () => {
    writeFileSync(join(dir, 'kubectl'), kubectl, { mode: 0o755 });
    vi.stubEnv('KUBEBUILDER_ASSETS', dir);
    const found = await resolveBinaries(['kubectl'], { signal, progress, cache: join(dir, 'cache') });
    expect(found).toEqual({ kubectl: join(dir, 'kubectl') });
  });

  it('are downloaded once, when the checksum beside them is right', async () => {
    await using server = await serve({ [kubectlPath]: kubectl, [`${kubectlPath}.sha256`]: sha256(kubectl) });
    const options = { signal, progress, cache: join(dir, 'cache'), downloadBase: server.url };
    const first = await resolveBinaries(['kubectl'], options);
    expect(await run(first.kubectl, [], { signal })).toBe('kubectl\n');
    expect(await resolveBinaries(['kubectl'], options)).toEqual(first);
    expect(server.asked).toEqual([`${kubectlPath}.sha256`, kubectlPath]);
  });

  it('are taken out of archives, whose checksum stands in a list', async () => {
    const version = versionOf('etcd');
    const release = `/github.com/etcd-io/etcd/releases/download/${version}`;
    const name = `etcd-${version}-${platform.os}-${platform.arch}`;
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, 'etcd'), '#!/bin/sh\necho etcd\n');
    await run('tar', ['-czf', join(dir, 'etcd.tar.gz'), '-C', dir, name], { signal });
    const archive = readFileSync(join(dir, 'etcd.tar.gz'));
    await using server = await serve({
      [`${release}/${name}.tar.gz`]: archive,
      [`${release}/SHA256SUMS`]: `${'0'.repeat(64)}  other.tar.gz\n${sha256(archive)}  ${name}.tar.gz\n`,
    });
    const options = { signal, progress, cache: join(dir, 'cache'), downloadBase: server.url };
    const { etcd } = await resolveBinaries(['etcd'], options);
    expect(await run(etcd, [], { signal })).toBe('etcd\n');
  });

  it('are refused when the checksum is wrong, and nothing is kept', async () => {
    await using server = await serve({ [kubectlPath]: kubectl, [`${kubectlPath}.sha256`]: sha256('something else') });
    const cache = join(dir, 'cache');
    const resolving = resolveBinaries(['kubectl'], { signal, progress, cache, downloadBase: server.url });
    await expect(resolving).rejects.toThrow(/SHA-256 is [0-9a-f]{64}, but .*kubectl\.sha256 says/);
    expect(readdirSync(cache, { recursive: true }).filter(file => /kubectl$/.test(String(file)))).toEqual([]);
  });

  it('are built when the host has nothing, which is asked once; without Go the error says what to install', async () => {
    await using server = await serve({});
    vi.stubEnv('PATH', '/nowhere');
    const options = { signal, progress, cache: join(dir, 'cache'), downloadBase: server.url };
    await expect(resolveBinaries(['kubectl'], options)).rejects.toThrow(
      /HTTP 404.*Install Go .* or set KUBEBUILDER_ASSETS/,
    );
    await expect(resolveBinaries(['kube-proxy'], options)).rejects.toThrow(/there is no `go`/);
    expect(server.asked).toHaveLength(1);
  });
});

describe('a lock', () => {
  it('is one holder’s at a time, and free when its holder is killed', async () => {
    const file = join(dir, 'lock');
    await using holder = await startOwner(
      `import { tryLock } from './lock.ts'; const held = tryLock(${JSON.stringify(file)}); tell(held !== undefined);`,
    );
    expect(holder.told).toBe(true);
    expect(tryLock(file)).toBeUndefined();
    await holder.kill();
    const held = tryLock(file);
    expect(held).toBeDefined();
    held?.[Symbol.dispose]();
  });
});

describe('a cluster’s directory', () => {
  it('is swept by the next start when its owner and its janitor were killed, and no other directory is', async () => {
    mkdirSync(join(dir, `${PREFIX}others`));
    const create = `import { createDirectory } from './directory.ts';
      const { path } = await createDirectory(${JSON.stringify(dir)}, { signal: new AbortController().signal });
      tell(path);`;
    await using dead = await startOwner(create);
    await using living = await startOwner(create);
    const abandoned = String(dead.told);
    const janitors = await run('pgrep', ['-f', `^/bin/sh -c read.* ${abandoned} `], { signal });
    for (const pid of janitors.trim().split('\n')) process.kill(Number(pid), 'SIGKILL');
    await dead.kill();
    expect(existsSync(abandoned)).toBe(true);

    const next = await createDirectory(dir, { signal });
    expect(readdirSync(dir).sort()).toEqual([`${PREFIX}others`, basename(String(living.told)), next.name].sort());
    await next.remove();
  });
});

describe('a control plane', { timeout: FIRST_RUN_MS }, () => {
  it('with kwok runs a Deployment on its fake node, and audits each write', async () => {
    await using cluster = await startControlPlane({ kwok: true, signal, progress });
    const kubectl = await kubectlOf(cluster);
    await kubectl('create', 'deployment', 'web', '--image=any', '--replicas=3');
    await kubectl('wait', 'deployment/web', '--for=condition=Available', '--timeout=60s');
    const audited = readFileSync(cluster.auditLog, 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as { verb: string; user: { username: string }; objectRef?: { resource: string } })
      .filter(
        ({ verb, user, objectRef }) =>
          verb === 'create' && user.username === 'admin' && objectRef?.resource === 'deployments',
      );
    expect(audited).toHaveLength(1);
  });

  it('does not meet another that starts at the same time', async () => {
    const [one, two] = await Promise.all([
      startControlPlane({ signal, progress }),
      startControlPlane({ signal, progress }),
    ]);
    await using _ = one;
    await using __ = two;
    const [kubectlOne, kubectlTwo] = [await kubectlOf(one), await kubectlOf(two)];
    await kubectlOne('create', 'namespace', 'only-in-one');
    expect(await kubectlTwo('get', 'namespaces', '-o', 'name')).not.toContain('only-in-one');
  });

  it('tells which process died, and shows its last output', async () => {
    await using cluster = await startControlPlane({ signal, progress });
    process.kill(cluster.apiServerPid, 'SIGKILL');
    await aborted(cluster.failed);
    expect(messageOf(cluster.failed.reason)).toMatch(/^kube-apiserver \(pid \d+\) ended: SIGKILL\n.+/);
  });

  it('leaves nothing when it is stopped', async () => {
    const cluster = await startControlPlane({ signal, progress });
    await cluster.stop();
    expect(await leftovers(cluster.dir)).toEqual([]);
  });

  it('leaves nothing when its start is aborted', async () => {
    vi.stubEnv('TMPDIR', dir);
    const starting = new AbortController();
    const cluster = startControlPlane({ signal: AbortSignal.any([signal, starting.signal]), progress });
    await until('its directory', () => readdirSync(dir).length > 0, { signal, timeoutMs: FIRST_RUN_MS });
    starting.abort(new Error('enough'));
    await expect(cluster).rejects.toThrow('enough');
    expect(readdirSync(dir)).toEqual([]);
  });

  it('leaves nothing when its owner is killed', async () => {
    await using owner = await startOwner(
      `import { startControlPlane } from './cluster.ts';
import { createDirectory, PREFIX } from './directory.ts';
       const cluster = await startControlPlane({ signal: new AbortController().signal });
       tell(cluster.dir);`,
    );
    const clusterDir = String(owner.told);
    expect(await leftovers(clusterDir)).not.toEqual([]);
    await owner.kill();
    await untilNothingIsLeft(clusterDir);
  });

  it('is kept by the command line until it is taken down', async () => {
    const cli = (...args: string[]) =>
      run(process.execPath, [join(import.meta.dirname, 'cli.ts'), ...args], { signal });
    const name = `test-${process.pid}`;
    const printed = await cli('up', '--shape', 'control-plane', '--name', name);
    const path = (await cli('kubeconfig', '--name', name)).trim();
    expect(printed).toContain(`export KUBECONFIG=${path}\n`);
    expect(await cli('status')).toMatch(new RegExp(`^${name} +control-plane +ready .*${path}$`, 'm'));
    expect(await cli('down', '--name', name)).toBe(`${name}: gone\n`);
    expect(existsSync(path)).toBe(false);
    expect(await cli('down', '--name', name)).toBe(`${name}: is not up\n`);
  });
});

describe.runIf(canRunNode)('a node', { timeout: FIRST_RUN_MS }, () => {
  it('runs Pods that find each other by name and nobody else', async () => {
    await using node = await startNode({ signal, progress });
    await runPod(node, 'probe');
    const kubectl = await kubectlOf(node);
    const lookup = (name: string) => kubectl('exec', 'probe', '--', '/bin/busybox', 'nslookup', name);
    expect(await lookup('kubernetes.default.svc.cluster.local')).toContain('Address: 10.96.0.1\n');
    const asked = Date.now();
    await expect(lookup('example.com')).rejects.toThrow(/NXDOMAIN/);
    expect(Date.now() - asked).toBeLessThan(2_000);
    expect(await kubectl('logs', 'probe')).toBe('hello\n');
    // The Service address, from the cluster's own namespaces.
    const ask = "fetch('https://10.96.0.1/readyz').then(r => r.text()).then(console.log)";
    const env = { ...process.env, NODE_TLS_REJECT_UNAUTHORIZED: '0' };
    expect(await node.exec(process.execPath, ['--eval', ask], { env })).toBe('ok\n');
  });

  it('does not meet another that starts at the same time', async () => {
    const [one, two] = await Promise.all([startNode({ signal, progress }), startNode({ signal, progress })]);
    await using _ = one;
    await using __ = two;
    await Promise.all([runPod(one, 'probe'), runPod(two, 'probe')]);
    expect(one.server).not.toBe(two.server);
    await one.stop();
    expect(await leftovers(one.dir)).toEqual([]);
    const kubectl = await kubectlOf(two);
    expect(await kubectl('exec', 'probe', '--', '/bin/busybox', 'echo', 'still here')).toBe('still here\n');
  });

  it('leaves nothing when its owner is killed, not even with Pods and a way out', async () => {
    const forwarding = readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8');
    await using owner = await startOwner(
      `import { startNode } from './node.ts';
       const { dir, kubeconfig, server } = await startNode({ internet: true, signal: new AbortController().signal });
       tell({ dir, kubeconfig, server });`,
    );
    const node = owner.told as Node;
    await runPod(node, 'probe');
    expect((await leftovers(node.dir)).join('\n')).toMatch(/containerd-shim.*interface.*cgroup.*iptables/s);
    await owner.kill();
    await untilNothingIsLeft(node.dir);
    expect(readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8')).toBe(forwarding);
  });
});

async function kubectlOf({ kubeconfig }: { kubeconfig: string }) {
  const { kubectl } = await resolveBinaries(['kubectl'], { signal, progress });
  return (...args: string[]) => run(kubectl, ['--kubeconfig', kubeconfig, ...args], { signal });
}

async function runPod(node: { kubeconfig: string }, name: string): Promise<void> {
  const kubectl = await kubectlOf(node);
  const { image } = await pauseImage({ signal, progress });
  const script = '/bin/busybox echo hello; exec /bin/busybox sleep 100000';
  await kubectl('run', name, `--image=${image}`, '--command', '--', '/bin/busybox', 'sh', '-c', script);
  await kubectl('wait', `pod/${name}`, '--for=condition=Ready', '--timeout=60s');
}

/** Runs a module beside this one in a process of its own and waits for what it tells. */
async function startOwner(code: string) {
  const script = `const tell = told => { console.log(JSON.stringify(told)); setInterval(() => {}, 2 ** 30); };\n${code}`;
  const child = spawn(
    process.execPath,
    ['--input-type=module', '--eval', script.replaceAll("'./", `'${import.meta.dirname}/`)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = once(child, 'exit');
  const kill = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  for await (const line of createInterface(child.stdout)) {
    return { told: JSON.parse(line) as unknown, kill, [Symbol.asyncDispose]: kill };
  }
  throw new Error('it ended before it told anything');
}

/** What this machine still has of a cluster. */
async function leftovers(clusterDir: string): Promise<string[]> {
  const name = basename(clusterDir);
  const lines = (await run('ps', ['-eo', 'pid,stat,args'], { signal })).split('\n');
  const processes = lines
    .filter(line => !/^ *\d+ Z/.test(line))
    .filter(line => {
      // What runs in a node is known by its cgroup, whatever its command line.
      const cgroup = `/proc/${line.trim().split(' ')[0]}/cgroup`;
      return line.includes(name) || (existsSync(cgroup) && readFileSync(cgroup, 'utf8').includes(name));
    });
  const cgroups = canRunNode ? await run('find', ['/sys/fs/cgroup', '-maxdepth', '2', '-name', name], { signal }) : '';
  const mounts = existsSync('/proc/mounts') ? readFileSync('/proc/mounts', 'utf8').split('\n') : [];
  const rules = canRunNode ? (await run('iptables-save', [], { signal })).split('\n') : [];
  return [
    ...processes,
    ...(existsSync(clusterDir) ? [clusterDir] : []),
    ...mounts.filter(line => line.includes(name)),
    ...Object.keys(networkInterfaces())
      .filter(device => device === name)
      .map(device => `interface ${device}`),
    ...cgroups
      .split('\n')
      .filter(Boolean)
      .map(path => `cgroup ${path}`),
    ...rules.filter(line => line.includes(name)).map(rule => `iptables ${rule}`),
  ];
}

async function untilNothingIsLeft(clusterDir: string): Promise<void> {
  const check = async () => {
    const left = await leftovers(clusterDir);
    if (left.length > 0) throw new Error(left.join('\n'));
    return true;
  };
  await until('nothing to be left', check, { signal, timeoutMs: 30_000 });
}

function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

async function serve(files: Record<string, string | Buffer>) {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    asked.push(path);
    response.writeHead(path in files ? 200 : 404).end(files[path]);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    url: `http://127.0.0.1:${address.port}`,
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
