/**
 * The operator as it comes, is upgraded, rolled back and goes, by real Helm, with connectors in place. A cluster has one
 * operator: the one that the other files share is away meanwhile.
 */
import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { dump, load, loadAll } from 'js-yaml';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { ANNOTATION, LABEL, PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { KubeObject } from '../../src/api/meta.ts';
import { type Child, DEPLOYMENTS, PODS, type Pod } from '../../src/connector/children.ts';
import { resolveBinaries } from '../cluster/binaries.ts';
import { importImage } from '../cluster/node.ts';
import { run } from '../cluster/process.ts';
import { CHART, installArgs, OPERATOR_DEPLOYMENT, OPERATOR_NAMESPACE } from '../demo/demo.ts';
import { buildPrevious } from '../demo/previous.ts';
import { operatorWrites } from '../support/audit.ts';
import { createSandbox, type Sandbox, SECRETS } from '../support/kube.ts';
import { FRESH, type How, KEPT, pollAllWhile, SESSIONS, urlOf } from './polling.ts';

const RESTRICTED = { 'pod-security.kubernetes.io/enforce': 'restricted' };
const MANIFESTS = join(dirname(dirname(import.meta.dirname)), 'manifests');
const CRD = `${PERSONAL_CONNECTORS.plural}.${PERSONAL_CONNECTORS.group}`;
const RELEASE = 'connectors';
const EVERYTHING = 'http://everything.tools.svc.cluster.local:8000/mcp';
const GUARDED = 'http://website.tools.svc.cluster.local:8000/guarded';
const SERVER = 'node_modules/@modelcontextprotocol/server-everything/dist/index.js';

interface Declared {
  /** Which of the namespaces it is in. */
  team: number;
  name: string;
  spec: PersonalConnectorSpec;
  reason: 'Ready' | 'AuthorizationRequired';
  /** Hosted: how its clients ask. */
  how?: How;
}

describe.skipIf(inject('noNode'))('the operator', () => {
  let tools: { helm: string; kubectl: string };
  let temporary: string;
  let signal: AbortSignal;
  /** Of the operator under test, one for each test. */
  let home: Sandbox;
  let teams: Sandbox[];

  function tool(name: 'helm' | 'kubectl', args: readonly string[], input?: string): Promise<string> {
    const helmHome = { HELM_CACHE_HOME: temporary, HELM_CONFIG_HOME: temporary, HELM_DATA_HOME: temporary };
    const env = { ...process.env, ...helmHome, KUBECONFIG: inject('kubeconfig') };
    return run(tools[name], args, { env, signal, ...(input !== undefined && { input }) });
  }
  const helm = (...args: string[]): Promise<string> => tool('helm', args);
  const kubectl = (...args: string[]): Promise<string> => tool('kubectl', args);
  const release = (command: string, ...more: string[]): Promise<string> =>
    helm(command, RELEASE, ...more, '-n', home.namespace, '--wait', '--timeout', '120s');
  const values = (): string[] => ['-f', inject('chartValues')];

  /** What Helm leaves by design goes as well, so that any other release may bring it. */
  async function removeCrd(): Promise<void> {
    await kubectl('delete', 'crd', CRD, '--ignore-not-found', '--timeout=100s');
  }

  /** Whatever a test left of a release, also where Helm knows of none. */
  async function sweep(name: string, namespace: string): Promise<void> {
    await helm('uninstall', name, '-n', namespace, '--wait', '--ignore-not-found');
    const left = 'deployment,configmap,serviceaccount,networkpolicy,role,rolebinding,clusterrole,clusterrolebinding';
    await kubectl('-n', namespace, 'delete', left, '-l', `app.kubernetes.io/instance=${name}`, '--ignore-not-found');
  }

  beforeAll(async () => {
    const abort = AbortSignal.timeout(600_000);
    tools = await resolveBinaries(['helm', 'kubectl'], { signal: abort, progress: console.log });
    temporary = mkdtempSync(join(tmpdir(), 'pco-install-'));
    signal = abort;
    await helm('uninstall', OPERATOR_DEPLOYMENT, '-n', OPERATOR_NAMESPACE, '--wait');
    await removeCrd();
  }, 900_000);

  afterAll(async () => {
    signal = AbortSignal.timeout(200_000);
    await helm('install', ...installArgs(inject('chartValues')));
    rmSync(temporary, { recursive: true, force: true });
  });

  beforeEach(async context => {
    signal = context.signal;
    teams = [];
    for (let i = 0; i < 3; i++) {
      const team = await createSandbox(inject('kubeconfig'), RESTRICTED);
      teams.push(team);
      await team.apply(SECRETS, {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'credentials', namespace: team.namespace },
        stringData: {
          JIRA_URL: 'https://jira.example.com',
          JIRA_PERSONAL_TOKEN: 'replace-me',
          TEAMS_ACCESS_TOKEN: 'replace-me',
        },
      });
    }
    home = await createSandbox(inject('kubeconfig'), RESTRICTED);
  });

  afterEach(async () => {
    signal = AbortSignal.timeout(240_000);
    await sweep(RELEASE, home.namespace);
    await removeCrd();
    await Promise.all([...teams, home].map(sandbox => sandbox.dispose()));
  });

  /** Ten connectors of every type in three namespaces. */
  function ten(): Declared[] {
    const credentials = { envFrom: [{ secretRef: { name: 'credentials' } }] };
    const remote = (type: 'official' | 'custom', serverUrl: string): PersonalConnectorSpec => ({
      name: 'Elsewhere',
      type,
      connectorId: type === 'custom' ? 'custom_mcp' : 'everything',
      serverUrl,
    });
    const everything = (more: Partial<PersonalConnectorSpec>): PersonalConnectorSpec => ({
      name: 'Everything',
      type: 'aitronos_built',
      connectorId: 'everything',
      ...more,
    });
    const catalogued = (connectorId: string): PersonalConnectorSpec => ({
      name: connectorId,
      type: 'aitronos_built',
      connectorId,
      hosting: credentials,
    });
    const image = inject('everythingImage');
    const stdio = everything({ serverType: 'stdio', hosting: { image, command: ['node', SERVER, 'stdio'] } });
    return [
      { team: 0, name: 'teams', spec: catalogued('teams'), reason: 'Ready', how: KEPT },
      { team: 0, name: 'official', spec: remote('official', EVERYTHING), reason: 'Ready' },
      { team: 0, name: 'guarded', spec: remote('official', GUARDED), reason: 'AuthorizationRequired' },
      { team: 1, name: 'sessions', spec: stdio, reason: 'Ready', how: SESSIONS },
      { team: 1, name: 'official', spec: remote('official', EVERYTHING), reason: 'Ready' },
      { team: 1, name: 'custom', spec: remote('custom', EVERYTHING), reason: 'Ready' },
      { team: 2, name: 'http', spec: everything({ hosting: { image } }), reason: 'Ready', how: FRESH },
      { team: 2, name: 'jira', spec: catalogued('jira'), reason: 'Ready', how: FRESH },
      { team: 2, name: 'custom', spec: remote('custom', EVERYTHING), reason: 'Ready' },
      { team: 2, name: 'guarded', spec: remote('custom', GUARDED), reason: 'AuthorizationRequired' },
    ];
  }

  const teamOf = ({ team }: Declared): Sandbox => {
    const found = teams[team];
    if (!found) throw new Error(`there is no team ${team}`);
    return found;
  };

  async function apply(declared: readonly Declared[]): Promise<void> {
    await Promise.all(declared.map(one => teamOf(one).applyConnector(one.name, one.spec)));
  }

  async function untilReady(declared: readonly Declared[]): Promise<void> {
    await Promise.all(declared.map(one => teamOf(one).untilReady(one.name, 'True', one.reason)));
  }

  /** Has every connector looked at anew, by whichever operator there is. */
  async function recheck(declared: readonly Declared[]): Promise<void> {
    const token = randomBytes(4).toString('hex');
    const handled = (connector?: PersonalConnector): boolean => connector?.status?.lastHandledRecheck === token;
    await Promise.all(
      declared.map(async one => {
        const team = teamOf(one);
        await team.applyConnector(one.name, one.spec, { [ANNOTATION.recheck]: token });
        await team.until<PersonalConnector>(PERSONAL_CONNECTORS, one.name, handled);
      }),
    );
    await untilReady(declared);
  }

  /** Those that serve, by connector: which they are, and how often they were started again. */
  async function podsOf(declared: readonly Declared[]): Promise<Record<string, string[]>> {
    const found: Record<string, string[]> = {};
    for (const one of declared.filter(({ how }) => how)) {
      const pods = (await teamOf(one).list<Pod>(PODS)).filter(
        ({ metadata }) => metadata.labels?.[LABEL.connector] === one.name && !metadata.deletionTimestamp,
      );
      const restarts = ({ status }: Pod): number => status.containerStatuses?.[0]?.restartCount ?? 0;
      found[`${one.team}/${one.name}`] = pods.map(pod => `${pod.metadata.uid} restarted ${restarts(pod)} times`);
    }
    return found;
  }

  async function statuses(declared: readonly Declared[]) {
    return await Promise.all(
      declared.map(async one => {
        const { status } = await teamOf(one).get<PersonalConnector>(PERSONAL_CONNECTORS, one.name);
        const { lastHandledRecheck: _, ...rest } = status ?? {};
        return rest;
      }),
    );
  }

  /** Clients of all hosted servers ask on and on meanwhile: none of their requests may be lost. */
  async function losingNothing(
    what: string,
    declared: readonly Declared[],
    work: () => Promise<void>,
    replaced = 0,
  ): Promise<void> {
    const asked = await Promise.all(
      declared.flatMap(one => {
        const { how } = one;
        if (!how) return [];
        const connector = teamOf(one).get<PersonalConnector>(PERSONAL_CONNECTORS, one.name);
        return [connector.then(async found => ({ url: await urlOf(teamOf(one), found), how }))];
      }),
    );
    const polled = await pollAllWhile(asked, work);
    const sum = (count: (one: (typeof polled)[number]) => number): number =>
      polled.reduce((n, one) => n + count(one), 0);
    const lost = polled.flatMap(({ failed }) => failed);
    console.log(`${what}: ${sum(one => one.asked)} requests, ${lost.length} lost, ${sum(one => one.renewed)} renewed`);
    expect([...new Set(lost)]).toEqual([]);
    for (const [i, { renewed }] of polled.entries()) {
      // A session that is open as its Pod goes is over: one, or one more that just missed it.
      expect(renewed).toBeLessThanOrEqual(asked[i]?.how === SESSIONS ? 2 * replaced : 0);
    }
  }

  interface OperatorPod extends Pod {
    spec: { containers: { image: string; env: { name: string; value?: string }[] }[] };
  }

  /** The one that is not on its way out. */
  async function operatorPod(): Promise<OperatorPod> {
    const [pod, ...others] = (await home.list<OperatorPod>(PODS)).filter(({ metadata }) => !metadata.deletionTimestamp);
    if (!pod || others.length > 0) throw new Error(`${home.namespace} holds ${others.length + (pod ? 1 : 0)} Pods`);
    return pod;
  }
  const logLevelOf = ({ spec }: OperatorPod): string | undefined =>
    spec.containers[0]?.env.find(({ name }) => name === 'LOG_LEVEL')?.value;

  const seconds = (since: number): string => `${((performance.now() - since) / 1_000).toFixed(1)} s`;

  it('is installed, upgraded with other values, rolled back, uninstalled and installed again, and no server notices', async () => {
    const all = ten();
    const started = performance.now();
    await release('install', CHART, ...values());
    console.log(`helm install --wait: ${seconds(started)}`);
    const applied = performance.now();
    await apply(all);
    await untilReady(all);
    console.log(`10 connectors in 3 namespaces Ready: ${seconds(applied)} later`);
    const pods = await podsOf(all);
    expect(Object.values(pods).map(found => found.length)).toEqual([1, 1, 1, 1]);

    await losingNothing('upgrade with other values', all, async () => {
      const before = await operatorPod();
      await release('upgrade', CHART, ...values(), '--set', 'logLevel=debug');
      await recheck(all);
      const after = await operatorPod();
      expect(after.metadata.uid).not.toBe(before.metadata.uid);
      expect(logLevelOf(after)).toBe('debug');
    });
    expect(await podsOf(all)).toEqual(pods);

    await losingNothing('rollback of the values', all, async () => {
      await release('rollback');
      await recheck(all);
      expect(logLevelOf(await operatorPod())).toBe('info');
    });
    expect(await podsOf(all)).toEqual(pods);

    const found = await statuses(all);
    const writes = (): string[] => teams.flatMap(team => operatorWrites(inject('auditLog'), team.namespace));
    const before = writes().length;
    await losingNothing('uninstall and another install', all, async () => {
      await release('uninstall');
      await kubectl('-n', home.namespace, 'wait', '--for=delete', 'pod', '--all', '--timeout=60s');
      expect(await statuses(all)).toEqual(found);
      await release('install', CHART, ...values());
      await recheck(all);
    });
    expect(await podsOf(all)).toEqual(pods);
    expect(await statuses(all)).toEqual(found);
    // It was told to look again, and says that it did; all else is as it was.
    expect(writes().slice(before)).toEqual(all.map(() => 'patch personalconnectors/status'));
  }, 600_000);

  it('goes with its namespace, as do namespaces with connectors, whether it is there or not', async () => {
    const all = ten().filter(({ name }) => ['teams', 'sessions', 'http'].includes(name));
    await release('install', CHART, ...values());
    await apply(all);
    await untilReady(all);
    const remove = async (what: string, ...namespaces: string[]): Promise<void> => {
      const since = performance.now();
      await kubectl('delete', 'namespace', ...namespaces, '--timeout=60s');
      console.log(`${what}: gone after ${seconds(since)}`);
    };
    const [first, ...rest] = teams.map(({ namespace }) => namespace);
    await remove('a namespace with a connector', first ?? '');
    await remove("the operator's own namespace", home.namespace);
    await remove('two namespaces with connectors, without an operator', ...rest);
  }, 400_000);

  describe('by the names that manifests/install has', () => {
    const where = ['-n', OPERATOR_NAMESPACE] as const;

    /** The namespace stays: it is that of the operator that others share. */
    async function remove(manifest: string): Promise<void> {
      const objects = loadAll(manifest).filter(object => (object as KubeObject | null)?.kind !== 'Namespace');
      await tool('kubectl', ['delete', '-f', '-', '--timeout=100s'], objects.map(object => dump(object)).join('---\n'));
      await removeCrd();
    }

    /** A folder with the manifests, of which the overlay is for this image; `more` changes it further. */
    function manifests(image: Values['image'], more: (overlay: Kustomization, dir: string) => Kustomization): string {
      const copy = mkdtempSync(join(temporary, 'manifests-'));
      for (const name of ['install', 'overlay']) cpSync(join(MANIFESTS, name), join(copy, name), { recursive: true });
      const dir = join(copy, 'overlay');
      const file = join(dir, 'kustomization.yaml');
      const overlay = load(readFileSync(file, 'utf8')) as Kustomization;
      const images = overlay.images.map(({ name }) => ({ name, newName: image.repository, newTag: image.tag }));
      writeFileSync(file, dump(more({ ...overlay, images }, dir)));
      return dir;
    }

    afterEach(async () => {
      signal = AbortSignal.timeout(200_000);
      await sweep(OPERATOR_DEPLOYMENT, OPERATOR_NAMESPACE);
    });

    const untilAvailable = (): Promise<string> =>
      kubectl(...where, 'wait', '--for=condition=Available', 'deployment', OPERATOR_DEPLOYMENT, '--timeout=100s');

    it('is the same by helm install, by helm template and kubectl apply, and by kustomize', async () => {
      const { image } = load(readFileSync(inject('chartValues'), 'utf8')) as Values;
      const set = ['--set-string', `image.repository=${image.repository},image.tag=${image.tag}`];
      const rendered = await helm('template', OPERATOR_DEPLOYMENT, CHART, ...where, ...set);
      const [one] = ten().filter(({ name }) => name === 'custom');
      if (!one) throw new Error('there is no connector custom');
      /** What runs now: it is seen to work. */
      const running = async (): Promise<object[]> => {
        await untilAvailable();
        await teamOf(one).applyConnector(one.name, { ...one.spec, probe: { enabled: false } });
        await teamOf(one).untilReady(one.name, 'True', 'ProbeDisabled');
        const { items } = JSON.parse(await tool('kubectl', ['get', '-f', '-', '-o', 'json'], rendered));
        return items.map(asDeclared);
      };

      await helm('install', OPERATOR_DEPLOYMENT, CHART, ...where, ...set, '--wait', '--timeout', '120s');
      const byHelm = await running();
      expect(byHelm.length).toBeGreaterThan(5);
      await helm('uninstall', OPERATOR_DEPLOYMENT, ...where, '--wait');
      await removeCrd();

      await tool('kubectl', ['apply', '--server-side', '-f', '-'], rendered);
      expect(await running()).toEqual(byHelm);
      await remove(rendered);

      // The image alone is another one: the settings are those of the chart, as above.
      const dir = manifests(image, ({ configMapGenerator: _, patches: __, ...overlay }) => overlay);
      await kubectl('apply', '--server-side', '-k', dir);
      expect(await running()).toEqual(byHelm);
      await remove(rendered);
    }, 400_000);

    it('has the settings of an overlay, and its image for the bridges of servers', async () => {
      const { image } = load(readFileSync(inject('chartValues'), 'utf8')) as Values;
      const rendered = loadAll(await helm('template', OPERATOR_DEPLOYMENT, CHART, ...where, ...values()));
      const config = (rendered as (KubeObject & { data?: Record<string, string> })[]).find(
        object => object?.kind === 'ConfigMap',
      );
      const dir = manifests(image, (overlay, folder) => {
        writeFileSync(join(folder, 'config.yaml'), config?.data?.['config.yaml'] ?? '');
        return overlay;
      });
      await kubectl('apply', '--server-side', '-k', dir);
      await untilAvailable();
      const some = ten().filter(({ name }) => ['sessions', 'custom'].includes(name));
      await apply(some);
      await untilReady(some);
      await remove(await kubectl('kustomize', dir));
    }, 400_000);
  });

  describe('of the version before', () => {
    it('is upgraded and rolled back: nothing is lost, and nothing is replaced but the bridges', async context => {
      const previous = await buildPrevious({ signal: AbortSignal.any([signal]), progress: console.log });
      if (typeof previous === 'string') return context.skip(previous);
      const [program, ...args] = inject('insideCluster');
      await run(program, [...args, ...importImage(previous.image.archive)], { signal });
      const chart = chartWithoutIcons(previous.chart);
      const image = previous.image.image;
      const colon = image.lastIndexOf(':');
      const asBefore = [
        ...['--set-string', `image.repository=${image.slice(0, colon)}`],
        ...['--set-string', `image.tag=${image.slice(colon + 1)}`],
      ];
      await release('install', chart, ...values(), ...asBefore);
      expect((await operatorPod()).spec.containers[0]?.image).toBe(image);
      expect(await knowsIcons()).toBe(false);

      const all = ten().filter(({ name }) => ['teams', 'sessions', 'http', 'custom', 'guarded'].includes(name));
      await apply(all);
      await untilReady(all);
      const before = await podsOf(all);

      await losingNothing(
        'upgrade from the version before',
        all,
        async () => {
          const since = performance.now();
          await release('upgrade', CHART, ...values());
          console.log(`helm upgrade --wait: ${seconds(since)}`);
          expect((await operatorPod()).spec.containers[0]?.image).not.toBe(image);
          await untilBridged(all, image, false);
          await recheck(all);
        },
        1,
      );
      expect(await knowsIcons()).toBe(true);
      const icon = { iconUrl: 'https://example.com/icon.svg' };
      const custom = all.find(({ name }) => name === 'custom');
      if (!custom) throw new Error('there is no connector custom');
      const shown = await teamOf(custom).applyConnector('custom', { ...custom.spec, ...icon });
      expect(shown.spec).toMatchObject(icon);
      const after = await podsOf(all);
      expect(after['2/http']).toEqual(before['2/http']);
      expect(Object.values(after).map(found => found.length)).toEqual([1, 1, 1]);
      // One for each template that there was.
      const replicaSets = all
        .filter(({ how }) => how)
        .map(one => kubectl('-n', teamOf(one).namespace, 'get', 'replicasets', '-o', 'name'));
      expect((await Promise.all(replicaSets)).map(names => names.trim().split('\n').length)).toEqual([2, 2, 1]);

      await losingNothing(
        'rollback to the version before',
        all,
        async () => {
          await release('rollback');
          expect((await operatorPod()).spec.containers[0]?.image).toBe(image);
          await untilBridged(all, image, true);
          await recheck(all);
        },
        1,
      );
      expect((await podsOf(all))['2/http']).toEqual(before['2/http']);
      expect(await knowsIcons()).toBe(false);
    }, 600_000);

    /** A copy of it whose CRD has no spec.iconUrl: a field that the upgrade has to bring. */
    function chartWithoutIcons(chart: string): string {
      const copy = join(temporary, 'chart-before');
      cpSync(chart, copy, { recursive: true });
      const file = join(copy, 'templates', 'crd.yaml');
      const text = readFileSync(file, 'utf8');
      const without = text.replace(/^( +)iconUrl:\n(?:\1 +.*\n)+/m, '');
      if (without === text) throw new Error(`${file} has no spec.iconUrl that could be left out`);
      writeFileSync(file, without);
      return copy;
    }

    async function knowsIcons(): Promise<boolean> {
      return (await kubectl('get', 'crd', CRD, '-o', 'json')).includes('"iconUrl"');
    }

    /** Waits until the bridges of stdio servers come from that image (or, `is` false, from another), and no other Pod is left. */
    async function untilBridged(declared: readonly Declared[], image: string, is: boolean): Promise<void> {
      for (const one of declared.filter(({ name }) => name === 'teams' || name === 'sessions')) {
        await teamOf(one).until<Child>(
          DEPLOYMENTS,
          one.name,
          deployment => JSON.stringify(deployment?.spec).includes(JSON.stringify(image)) === is,
        );
        await kubectl('-n', teamOf(one).namespace, 'rollout', 'status', `deployment/${one.name}`, '--timeout=100s');
        const leaving = (pod: Pod): boolean => pod.metadata.deletionTimestamp !== undefined;
        for (const { metadata } of (await teamOf(one).list<Pod>(PODS)).filter(leaving))
          await teamOf(one).until(PODS, metadata.name, pod => pod === undefined);
      }
    }
  });
});

/** An object without what the API server adds, and without what Helm and kubectl note about themselves, also on Pods. */
function asDeclared({ status: _, ...object }: KubeObject & { status?: object }): object {
  const bookkeeping =
    /^(app\.kubernetes\.io\/managed-by|helm\.sh\/chart|meta\.helm\.sh\/.*|deployment\.kubernetes\.io\/.*)$/;
  const { uid, resourceVersion, creationTimestamp, generation, managedFields, ...metadata } =
    object.metadata as KubeObject['metadata'] & { managedFields?: unknown };
  return JSON.parse(JSON.stringify({ ...object, metadata }), (key, value: unknown) => {
    if (key !== 'labels' && key !== 'annotations') return value;
    const kept = Object.entries(value as object).filter(([name]) => !bookkeeping.test(name));
    return kept.length > 0 ? Object.fromEntries(kept) : undefined;
  }) as object;
}

interface Values {
  image: { repository: string; tag: string };
}

interface Kustomization {
  images: { name: string; newName: string; newTag: string }[];
  configMapGenerator?: object[];
  patches?: object[];
}
