/** What tests do with a cluster: connect, make namespaces and objects, and wait for what they should become. */
import { randomBytes } from 'node:crypto';
import { KubeConfig } from '@kubernetes/client-node';
import { PERSONAL_CONNECTORS, type PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../src/api/generated.ts';
import type { Declared, KubeObject, ResourceType } from '../../src/api/meta.ts';
import { createClient, type KubeClient, type Scope } from '../../src/kube/client.ts';
import { startReflector } from '../../src/kube/reflector.ts';
import { createStore } from '../../src/kube/store.ts';
import { createTransport, type Transport } from '../../src/kube/transport.ts';

export const CRDS = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  plural: 'customresourcedefinitions',
  kind: 'CustomResourceDefinition',
} as const;
export const NAMESPACES = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace' } as const;
export const EVENTS = { group: 'events.k8s.io', version: 'v1', plural: 'events', kind: 'Event' } as const;
export const SECRETS = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret' } as const;

export interface Api {
  kubeConfig: KubeConfig;
  client: KubeClient;
  transport: Transport;
  /** Ends with `close`. */
  signal: AbortSignal;
  close(): Promise<void>;
}

export function connect(kubeconfig: string): Api {
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(kubeconfig);
  const transport = createTransport(kubeConfig, { userAgent: 'personal-connector-operator-test' });
  const abort = new AbortController();
  return {
    kubeConfig,
    transport,
    client: createClient(transport),
    signal: abort.signal,
    async close() {
      abort.abort();
      await transport.close();
    },
  };
}

/** Keeps telling what objects there are, at once and after each change, until stopped. */
export function watchObjects<T extends KubeObject>(
  api: Api,
  type: ResourceType,
  scope: Scope,
  tell: (objects: T[]) => void,
): { stop(): Promise<void> } {
  const store = createStore<T>();
  const stop = new AbortController();
  // Before the first list is complete, what is not in the store may be there all the same.
  let synced = false;
  const look = (): void => {
    if (synced) tell([...store.values()]);
  };
  store.subscribe(look);
  const reflector = startReflector<T>({
    client: api.client,
    type,
    scope,
    store,
    // Cluster-scoped objects have no namespace; list items no kind.
    project: (raw: T) => ({
      ...raw,
      kind: type.kind,
      metadata: { ...raw.metadata, namespace: String(scope.namespace) },
    }),
    signal: AbortSignal.any([stop.signal, api.signal]),
    onError: error => console.error(`watch of ${type.plural}:`, error),
  });
  void reflector.synced.then(() => {
    synced = true;
    look();
  });
  return {
    stop() {
      stop.abort();
      return reflector.done;
    },
  };
}

/**
 * Waits until the object of this name is as wanted (undefined: it is not there) and gives it. Watches; the test's own
 * time limit ends it.
 */
export async function until<T extends KubeObject>(
  api: Api,
  type: ResourceType,
  scope: Scope,
  name: string,
  wanted: (object: T | undefined) => boolean,
): Promise<T> {
  const found = Promise.withResolvers<T>();
  const view = watchObjects<T>(api, type, scope, objects => {
    const object = objects.find(({ metadata }) => metadata.name === name);
    if (wanted(object)) found.resolve(object as T);
  });
  try {
    return await found.promise;
  } finally {
    await view.stop();
  }
}

export interface Sandbox extends Api {
  namespace: string;
  /** Applies a connector as kubectl's server-side apply would. */
  applyConnector(
    name: string,
    spec: PersonalConnectorSpec,
    annotations?: Record<string, string>,
  ): Promise<PersonalConnector>;
  apply<T extends KubeObject>(type: ResourceType, object: Declared & Record<string, unknown>): Promise<T>;
  remove(type: ResourceType, name: string): Promise<void>;
  get<T extends KubeObject>(type: ResourceType, name: string): Promise<T>;
  list<T extends KubeObject>(type: ResourceType): Promise<T[]>;
  until<T extends KubeObject>(type: ResourceType, name: string, wanted: (object: T | undefined) => boolean): Promise<T>;
  /** Waits until Ready has this status and reason for the current generation. */
  untilReady(name: string, status: string, reason: string): Promise<PersonalConnector>;
  dispose(): Promise<void>;
}

/** A namespace of its own for a test file. */
export async function createSandbox(kubeconfig: string, labels: Record<string, string> = {}): Promise<Sandbox> {
  const api = connect(kubeconfig);
  const { client, signal } = api;
  const namespace = `t-${randomBytes(5).toString('hex')}`;
  const fieldManager = 'gitops';
  await api.transport.call({
    method: 'POST',
    path: '/api/v1/namespaces',
    body: { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels } },
    signal,
  });
  const sandbox: Sandbox = {
    ...api,
    namespace,
    applyConnector: (name, spec, annotations) =>
      client.apply<PersonalConnector>(
        PERSONAL_CONNECTORS,
        {
          apiVersion: 'connectors.aitronos.com/v1',
          kind: 'PersonalConnector',
          metadata: { name, namespace, ...(annotations && { annotations }) },
          spec,
        } as Declared,
        { fieldManager },
        signal,
      ),
    apply: (type, object) =>
      client.apply(type, { ...object, metadata: { ...object.metadata, namespace } }, { fieldManager }, signal),
    remove: async (type, name) => client.remove(type, await client.get(type, { namespace, name }, signal), signal),
    get: (type, name) => client.get(type, { namespace, name }, signal),
    list: async <T extends KubeObject>(type: ResourceType) => (await client.list<T>(type, { namespace }, signal)).items,
    until: (type, name, wanted) => until(api, type, { namespace }, name, wanted),
    untilReady: (name, status, reason) =>
      sandbox.until<PersonalConnector>(PERSONAL_CONNECTORS, name, connector => {
        const ready = readyOf(connector);
        return (
          ready?.status === status &&
          ready.reason === reason &&
          ready.observedGeneration === connector?.metadata.generation
        );
      }),
    async dispose() {
      await api.transport
        .call({ method: 'DELETE', path: `/api/v1/namespaces/${namespace}`, signal: AbortSignal.timeout(10_000) })
        .catch(() => {});
      await api.close();
    },
  };
  return sandbox;
}

export function readyOf(connector: PersonalConnector | undefined) {
  return conditionOf(connector, 'Ready');
}

export function conditionOf(connector: PersonalConnector | undefined, type: string) {
  return connector?.status?.conditions?.find(condition => condition.type === type);
}
