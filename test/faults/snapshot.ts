/** What there is of a connector, in a form in which one can be compared with another, or with itself at another time. */
import { isDeepStrictEqual } from 'node:util';
import type { PersonalConnector } from '../../src/api/connector.ts';
import { ANNOTATION, connectorIdentifier, LABEL, PERSONAL_CONNECTORS } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec, PersonalConnectorStatus } from '../../src/api/generated.ts';
import { type KubeObject, keyOf, type OwnerReference, type ResourceType } from '../../src/api/meta.ts';
import { CHILD_TYPES, type Child, ownersOf } from '../../src/connector/children.ts';
import { childName, labelValue } from '../../src/connector/names.ts';
import { startReflector } from '../../src/kube/reflector.ts';
import { type Change, createStore, type Store, type StoreWriter } from '../../src/kube/store.ts';
import { messageOf } from '../cluster/process.ts';
import type { Sandbox } from '../support/kube.ts';

/** Plain JSON: a field that is undefined is not there. The connector is called `<name>`, its namespace `<namespace>`. */
export interface Snapshot {
  /** Null: there is no connector of this name. */
  connector: ConnectorSnapshot | null;
  /** By kind and name; whatever carries the connector's label, names it as its owner, or is called like its child. */
  children: ChildSnapshot[];
}

export interface ConnectorSnapshot {
  spec: PersonalConnectorSpec;
  deleting: boolean;
  /** Null: none was written yet. */
  status: StatusSnapshot | null;
}

/** The status, with times and the derived id replaced by what can be said of them. */
export interface StatusSnapshot
  extends Omit<PersonalConnectorStatus, 'observedGeneration' | 'conditions' | 'lastHandledRecheck'> {
  /** Whether it speaks of the spec that is there. */
  current: boolean;
  /** Whether the recheck that was asked for last, if any, was answered. */
  rechecked: boolean;
  /** By type. */
  conditions: {
    type: string;
    status: string;
    reason: string;
    message: string;
    current: boolean;
    lastTransitionTime: string;
  }[];
}

export interface ChildSnapshot {
  kind: string;
  name: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  owners: (Omit<OwnerReference, 'uid'> & { is: 'the living connector' | 'something else' })[];
  finalizers: string[];
  deleting: boolean;
  spec: object;
}

/** Reads it from the API server. */
export async function snapshot(cluster: Sandbox, connector: string): Promise<Snapshot> {
  const { client, namespace, signal } = cluster;
  const read = async <T extends KubeObject>(type: ResourceType): Promise<T[]> => {
    const objects: T[] = [];
    let next: string | undefined;
    do {
      const page = await client.list<T>(type, { namespace, ...(next && { continue: next }) }, signal);
      objects.push(...page.items.map(object => ({ ...object, kind: type.kind })));
      next = page.metadata.continue;
    } while (next);
    return objects;
  };
  const [connectors, ...children] = await Promise.all([
    read<PersonalConnector>(PERSONAL_CONNECTORS),
    ...CHILD_TYPES.map(type => read<Child>(type)),
  ]);
  return take(
    connector,
    connectors.find(({ metadata }) => metadata.name === connector),
    children.flat(),
  );
}

/**
 * Waits until the snapshot is as wanted and gives it. Watches; the test's own time limit ends it, or `timeoutMs` with
 * an Error that shows the last snapshot.
 */
export async function untilSnapshot(
  cluster: Sandbox,
  connector: string,
  wanted: (snapshot: Snapshot) => boolean,
  { what = 'what was wanted', timeoutMs = 90_000 }: { what?: string; timeoutMs?: number } = {},
): Promise<Snapshot> {
  const view = viewOf(cluster);
  const { promise, resolve, reject } = Promise.withResolvers<Snapshot>();
  let synced = false;
  const look = (): void => {
    if (!synced) return;
    const found = view.take(connector);
    try {
      if (wanted(found)) resolve(found);
    } catch (error) {
      reject(error);
    }
  };
  const give = (why: string): void =>
    reject(
      new Error(
        `${connector}: ${why} for ${what}; it is\n${JSON.stringify(view.take(connector), undefined, 2)}${view.trouble()}`,
      ),
    );
  const late = setTimeout(() => give(`waited ${timeoutMs / 1000} s`), timeoutMs);
  const closed = (): void => give('the sandbox was closed while waiting');
  cluster.signal.addEventListener('abort', closed, { once: true });
  const leave = view.listen(changed => changed.some(object => isOf(object, connector)) && look());
  void view.synced.then(() => {
    synced = true;
    look();
  });
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    cluster.signal.removeEventListener('abort', closed);
    leave();
  }
}

/**
 * Waits until the garbage collector takes the children of deleted connectors. It looks for new resource types twice a
 * minute: until it has seen the CRD it leaves them, and should the CRD go before, for ever.
 */
export async function untilCollecting(cluster: Sandbox, hosted: PersonalConnectorSpec): Promise<void> {
  const name = 'to-be-collected';
  await cluster.applyConnector(name, hosted);
  await untilSnapshot(cluster, name, ({ children }) => children.length > 0);
  await cluster.remove(PERSONAL_CONNECTORS, name);
  await untilSnapshot(cluster, name, ({ connector, children }) => connector === null && children.length === 0);
}

/**
 * Whether the operator has said its last word on the spec that is there, be it that all is well or what is wrong, and
 * all the Pods are there that should be.
 */
export function isSettled({ connector }: Snapshot): boolean {
  const status = connector?.status;
  if (!connector || !status?.current || !status.rechecked || connector.deleting) return false;
  const [ready, deployed] = ['Ready', 'Deployed'].map(name => status.conditions.find(({ type }) => type === name));
  if (!ready?.current || deployed?.status === 'Unknown') return false;
  if (status.hosting && deployed?.status === 'True' && status.hosting.readyReplicas !== status.hosting.replicas) {
    return false;
  }
  // Of a server that is meant to have no Pods nothing more will ever be known.
  return ready.status !== 'Unknown' || deployed?.reason === 'ScaledToZero';
}

/** Reason of Ready, such as `True Ready`, for messages and conditions of tests. */
export function readiness({ connector }: Snapshot): string {
  const ready = connector?.status?.conditions.find(({ type }) => type === 'Ready');
  return `${ready?.status} ${ready?.reason}`;
}

let twins = 0;

/**
 * Waits until a connector is what a fresh one of its spec is, to which nothing ever happened; says where they differ if
 * that takes longer than `timeoutMs`. `specOf` gives the spec for a connector's name; `comparable` leaves out what may
 * differ.
 */
export async function untilAsFresh(
  cluster: Sandbox,
  connector: string,
  specOf: (name: string) => PersonalConnectorSpec,
  { comparable = same, timeoutMs = 30_000 }: { comparable?: (found: Snapshot) => Snapshot; timeoutMs?: number } = {},
): Promise<void> {
  twins += 1;
  const twin = `twin-${twins}`;
  await cluster.applyConnector(twin, specOf(twin));
  let expected: Snapshot;
  try {
    const settled = () => untilSnapshot(cluster, twin, isSettled, { what: 'a fresh connector to settle', timeoutMs });
    const { server, conditions = [] } = (await settled()).connector?.status ?? {};
    const isLate = conditions.some(({ type, reason }) => type === 'Ready' && reason === 'Timeout');
    if (isLate || (server && server.toolCount === undefined)) {
      // On a busy machine the first probe may come to no end, or to no tools; the next one is minutes away.
      await cluster.applyConnector(twin, specOf(twin), { [ANNOTATION.recheck]: 'on a busy machine' });
      await settled();
    }
    // The status may have come before a child that it speaks of: each has a watch of its own.
    expected = comparable(await snapshot(cluster, twin));
  } finally {
    await cluster.remove(PERSONAL_CONNECTORS, twin);
  }
  let last: Snapshot | undefined;
  const equals = (found: Snapshot): boolean => {
    last = comparable(found);
    return isDeepStrictEqual(last, expected);
  };
  try {
    await untilSnapshot(cluster, connector, equals, { what: 'a fresh apply', timeoutMs });
  } catch (error) {
    const found = differences(last, expected);
    if (found.length === 0) throw error;
    throw new Error(`${connector} is not what a fresh connector of its spec is:\n${found.join('\n')}`);
  }
}

const same = (found: Snapshot): Snapshot => found;

/** Where two snapshots differ, a line for each place: for messages. */
export function differences(is: unknown, should: unknown, at = ''): string[] {
  if (isDeepStrictEqual(is, should)) return [];
  if (isObject(is) && isObject(should)) {
    const keys = [...new Set([...Object.keys(is), ...Object.keys(should)])];
    return keys.flatMap(key => differences(is[key], should[key], at === '' ? key : `${at}.${key}`));
  }
  const shown = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 300);
  return [`${at}: is ${shown(is)} and should be ${shown(should)}`];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object';
}

interface View {
  take(connector: string): Snapshot;
  /** Tells of each change what was and what is. Gives the function that ends it. */
  listen(listener: (changed: KubeObject[]) => void): () => void;
  /** For messages: why a watch broke last; empty if none ever did. Many a test wants it so. */
  trouble(): string;
  synced: Promise<unknown>;
}

/** One set of watches for each sandbox, however many connectors are waited for; it ends with the sandbox. */
const views = new WeakMap<Sandbox, View>();

function viewOf(cluster: Sandbox): View {
  const existing = views.get(cluster);
  if (existing) return existing;
  const { client, namespace, signal } = cluster;
  const listeners = new Set<(changed: KubeObject[]) => void>();
  let trouble = '';
  const tell = ({ previous, current }: Change<KubeObject>): void => {
    const changed = [previous, current].filter(object => object !== undefined);
    for (const listener of [...listeners]) listener(changed);
  };
  const follow = <T extends KubeObject>(type: ResourceType, store: Store<T> & StoreWriter<T>): Promise<void> => {
    store.subscribe(tell);
    const project = (raw: T): T => ({ ...raw, kind: type.kind });
    const onError = (error: unknown): void => {
      trouble = `\nlast trouble of a watch: ${type.plural}: ${messageOf(error)}`;
    };
    return startReflector<T>({ client, type, scope: { namespace }, store, project, signal, onError }).synced;
  };
  const connectors = createStore<PersonalConnector>();
  const stores = CHILD_TYPES.map(type => ({ type, store: createStore<Child>() }));
  const view: View = {
    take: name =>
      take(
        name,
        connectors.get(keyOf({ metadata: { namespace, name } })),
        stores.flatMap(({ store }) => [...store.values()]),
      ),
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    trouble: () => trouble,
    synced: Promise.all([
      follow(PERSONAL_CONNECTORS, connectors),
      ...stores.map(({ type, store }) => follow(type, store)),
    ]),
  };
  views.set(cluster, view);
  return view;
}

/** Whether an object is the connector or may be a child of it: by label, by owner's name or by its own name. */
function isOf(object: KubeObject, connector: string): boolean {
  const { name, labels } = object.metadata;
  if (object.kind === PERSONAL_CONNECTORS.kind) return name === connector;
  return (
    labels?.[LABEL.connector] === labelValue(connector) ||
    ownersOf(object).some(owner => owner.name === connector) ||
    name === childName(connector) ||
    // Tests call the Services of a connector so; one that lost its labels and its owner is found by its name alone.
    name.startsWith(`${connector}-`)
  );
}

function take(name: string, connector: PersonalConnector | undefined, objects: readonly Child[]): Snapshot {
  const children = objects
    .filter(object => isOf(object, name))
    .map(object => childSnapshot(object, connector))
    .sort((one, other) => (`${one.kind} ${one.name}` < `${other.kind} ${other.name}` ? -1 : 1));
  const found: Snapshot = { connector: connector ? connectorSnapshot(connector) : null, children };
  return anonymous(found, name, (connector ?? objects[0])?.metadata.namespace);
}

function connectorSnapshot(connector: PersonalConnector): ConnectorSnapshot {
  const { metadata, spec, status } = connector;
  return {
    spec,
    deleting: metadata.deletionTimestamp !== undefined,
    status: status?.conditions ? statusSnapshot(connector, status) : null,
  };
}

function statusSnapshot(
  { metadata, spec }: PersonalConnector,
  { observedGeneration, conditions = [], lastHandledRecheck, ...rest }: PersonalConnectorStatus,
): StatusSnapshot {
  const asked = metadata.annotations?.[ANNOTATION.recheck];
  return {
    ...rest,
    ...(rest.id === connectorIdentifier({ metadata, spec }) && { id: spec.id ?? '<derived from the UID>' }),
    ...(rest.updatedAt !== undefined && { updatedAt: time(rest.updatedAt) }),
    current: observedGeneration === metadata.generation,
    rechecked: asked === undefined || asked === lastHandledRecheck,
    conditions: conditions
      .map(condition => ({
        type: condition.type,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
        current: condition.observedGeneration === metadata.generation,
        lastTransitionTime: time(condition.lastTransitionTime),
      }))
      .sort((one, other) => (one.type < other.type ? -1 : 1)),
  };
}

function childSnapshot(child: Child & { metadata: { finalizers?: string[] } }, connector?: PersonalConnector) {
  const { name, labels = {}, annotations = {}, ownerReferences = [], finalizers = [] } = child.metadata;
  // How many Pods it had before a maintenance is its own story, as long as that lasts.
  const { [REVISION]: _, [ANNOTATION.applied]: applied, [ANNOTATION.resume]: resume, ...others } = annotations;
  return {
    kind: child.kind,
    name,
    labels,
    // The hash covers the owner's UID.
    annotations: {
      ...others,
      ...(resume !== undefined && connector?.spec.lifecycle !== 'maintenance' && { [ANNOTATION.resume]: '<kept>' }),
      ...(applied !== undefined && { [ANNOTATION.applied]: '<hash>' }),
    },
    owners: ownerReferences.map(({ uid, ...reference }) => ({
      ...reference,
      is: uid === connector?.metadata.uid ? ('the living connector' as const) : ('something else' as const),
    })),
    finalizers,
    deleting: child.metadata.deletionTimestamp !== undefined,
    spec: child.kind === 'Service' ? withoutAddresses(child.spec) : (child.spec ?? {}),
  };
}

/** The Deployment controller counts templates here: it tells the past and not what is. */
const REVISION = 'deployment.kubernetes.io/revision';

function withoutAddresses({ clusterIP, clusterIPs, ...spec }: { clusterIP?: string; clusterIPs?: string[] } = {}) {
  return {
    ...spec,
    ...(clusterIP !== undefined && { clusterIP: clusterIP === 'None' ? clusterIP : '<address>' }),
    ...(clusterIPs && { clusterIPs: clusterIPs.map(ip => (ip === 'None' ? ip : '<address>')) }),
  };
}

/** What is no time stays as it is, and shows. */
function time(text: string): string {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(text) ? '<time>' : text;
}

/** The same with the name and the namespace replaced wherever they are a word of a text. */
function anonymous(value: Snapshot, name: string, namespace: string | undefined): Snapshot {
  const word = (text: string): RegExp => new RegExp(`(?<![a-z0-9])${RegExp.escape(text)}(?![a-z0-9])`, 'g');
  let json = JSON.stringify(value).replaceAll(word(name), '<name>');
  if (namespace !== undefined) json = json.replaceAll(word(namespace), '<namespace>');
  return JSON.parse(json) as Snapshot;
}
