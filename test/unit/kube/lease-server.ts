/** An API server as far as Leases go: create, replace, get, watch; and the network between it and each process. */
import type { Declared } from '../../../src/api/meta.ts';
import { INITIAL_EVENTS_END, type KubeClient, type Scope } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import type { Lease } from '../../../src/kube/lease.ts';
import type { Process, World } from '../processes.ts';
import { fakeClient } from '../support.ts';

/** What the network does to a request at the moment in which it is sent. */
export interface Network {
  /** How long the request, and its answer, are on their way, in ms. */
  there: number;
  back: number;
  /** Lost on its way there, or its answer lost: the process hears nothing. */
  lost?: 'request' | 'answer';
  /** Whether watches tell anything. */
  watches: boolean;
}

/** A request that reached the server. */
export interface Reached {
  at: number;
  from: string;
  /** Such as `PUT 200`. */
  what: string;
}

interface WatchEvent {
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  version: number;
  object: Lease;
}

export interface LeaseServer {
  /** What there is, of this name or of the one that most tests speak of. */
  lease(name?: string): Lease | undefined;
  log: Reached[];
  /** May throw what is answered instead. */
  before?: (what: string) => void;
  /** Told of each request that was taken. */
  reached?: (one: Reached) => void;
  /** As another client would; a merge of the given parts. Bypasses the network. */
  edit(change: (lease: Lease) => Lease, name?: string): void;
  remove(name?: string): void;
  client(process: Process, network: () => Network): KubeClient;
}

const MICRO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/;
const BOOKMARK_MS = 60_000;
const NAME = 'operator';

/** Which Leases a list or watch speaks of: the one of a name, or those with a label, `key=value`. */
function within({ name, labelSelector }: Scope): (lease: Lease) => boolean {
  const [key = '', value] = labelSelector?.split('=') ?? [];
  return ({ metadata }) => (name === undefined ? metadata.labels?.[key] === value : metadata.name === name);
}

export function createLeaseServer(world: World): LeaseServer {
  let version = 100;
  let uids = 0;
  const stored = new Map<string, Lease>();
  const history: WatchEvent[] = [];
  const watchers = new Set<(event: WatchEvent) => void>();

  const refused = (status: number, reason: string): ApiError =>
    new ApiError('leases', status, JSON.stringify({ reason, message: reason }));

  function put(type: WatchEvent['type'], object: Lease): Lease {
    version += 1;
    // What is answered, watched and stored shares nothing.
    const next = structuredClone({
      ...object,
      metadata: { ...object.metadata, resourceVersion: String(version) },
    });
    if (type === 'DELETED') stored.delete(next.metadata.name);
    else stored.set(next.metadata.name, next);
    const event = { type, version, object: next };
    history.push(event);
    for (const watcher of [...watchers]) watcher(event);
    return next;
  }

  function validate(lease: Lease): void {
    const { acquireTime, renewTime, leaseDurationSeconds, leaseTransitions } = lease.spec ?? {};
    for (const time of [acquireTime, renewTime])
      if (time !== undefined && !MICRO_TIME.test(time)) throw refused(400, `BadRequest: ${time} is no MicroTime`);
    if (leaseDurationSeconds !== undefined && leaseDurationSeconds <= 0) throw refused(422, 'Invalid');
    if (leaseTransitions !== undefined && leaseTransitions < 0) throw refused(422, 'Invalid');
  }

  const handlers = {
    GET(name: string): Lease {
      const found = stored.get(name);
      if (!found) throw refused(404, 'NotFound');
      return found;
    },
    POST(object: Declared): Lease {
      validate(object as Lease);
      if (object.metadata.resourceVersion !== undefined) throw refused(400, 'BadRequest');
      if (stored.has(object.metadata.name)) throw refused(409, 'AlreadyExists');
      uids += 1;
      const creationTimestamp = '2026-01-01T00:00:00Z';
      return put('ADDED', {
        ...object,
        metadata: { ...object.metadata, uid: `uid-${uids}`, creationTimestamp, resourceVersion: '' },
      } as Lease);
    },
    PUT(object: Declared): Lease {
      validate(object as Lease);
      const { name, resourceVersion, uid } = object.metadata;
      const { metadata } = handlers.GET(name);
      if (resourceVersion !== metadata.resourceVersion) throw refused(409, 'Conflict');
      if (uid !== undefined && uid !== metadata.uid) throw refused(409, 'Conflict');
      return put('MODIFIED', object as Lease);
    },
  };

  const server: LeaseServer = {
    lease: (name = NAME) => stored.get(name),
    log: [],
    edit: (change, name = NAME) => void put('MODIFIED', change(structuredClone(handlers.GET(name)))),
    remove(name = NAME) {
      const gone = stored.get(name);
      if (gone) put('DELETED', gone);
    },
    client(process, network) {
      function handle<T>(what: keyof typeof handlers | 'LIST' | 'WATCH', answer: () => T): () => T {
        let status = 200;
        let given: () => T;
        try {
          server.before?.(what);
          const value = structuredClone(answer());
          given = () => value;
        } catch (error) {
          status = error instanceof ApiError ? error.status : 0;
          given = () => {
            throw error;
          };
        }
        const reached = { at: world.now(), from: process.name, what: `${what} ${status || 'no answer'}` };
        server.log.push(reached);
        server.reached?.(reached);
        return given;
      }

      function send<T>(what: keyof typeof handlers | 'LIST', answer: () => T, signal: AbortSignal): Promise<T> {
        const { there, back, lost } = network();
        return new Promise<T>((resolve, reject) => {
          if (signal.aborted) reject(signal.reason);
          signal.addEventListener('abort', () => reject(signal.reason), { once: true });
          if (signal.aborted || lost === 'request') return;
          // What was sent arrives, whether or not somebody still waits for the answer.
          world.after(there, undefined, () => {
            const answered = handle(what, answer);
            if (lost === 'answer') return;
            world.after(back, process, () => {
              try {
                resolve(answered());
              } catch (error) {
                reject(error);
              }
            });
          });
        });
      }

      return fakeClient({
        get: (_type, { name }, signal) => send('GET', () => handlers.GET(name), signal) as Promise<never>,
        create: (_type, object, signal) => {
          const sent = structuredClone(object);
          return send('POST', () => handlers.POST(sent), signal) as Promise<never>;
        },
        replace: (_type, object, signal) => {
          const sent = structuredClone(object);
          return send('PUT', () => handlers.PUT(sent), signal) as Promise<never>;
        },
        list: (_type, scope, signal) =>
          send(
            'LIST',
            () => ({
              metadata: { resourceVersion: String(version) },
              items: [...stored.values()].filter(within(scope)),
            }),
            signal,
          ) as Promise<never>,
        async watch(_type, { resourceVersion, timeoutSeconds, ...scope }, signal) {
          const isMeant = within(scope);
          const pending: (string | undefined)[] = [];
          let wake = (): void => {};
          signal.addEventListener('abort', () => wake());
          const tell = (type: string, object: object | undefined): void => {
            const { back, watches } = network();
            if (!watches) return;
            world.after(back, process, () => {
              pending.push(object && `${JSON.stringify({ type, object })}\n`);
              wake();
            });
          };
          const told = (event: WatchEvent): void => {
            if (isMeant(event.object)) tell(event.type, event.object);
          };
          const mark = (annotations?: Record<string, string>): void =>
            tell('BOOKMARK', { kind: 'Lease', metadata: { resourceVersion: String(version), annotations } });
          handle('WATCH', () => {})();
          if (resourceVersion === undefined) {
            for (const lease of stored.values()) if (isMeant(lease)) tell('ADDED', lease);
            mark({ [INITIAL_EVENTS_END]: 'true' });
          } else for (const event of history) if (event.version > Number(resourceVersion)) told(event);
          watchers.add(told);
          const bookmark = (): void => {
            if (!watchers.has(told)) return;
            mark();
            world.after(BOOKMARK_MS, undefined, bookmark);
          };
          world.after(BOOKMARK_MS, undefined, bookmark);
          world.after(timeoutSeconds * 1000, undefined, () => {
            if (watchers.delete(told)) tell('', undefined);
          });
          async function* stream(): AsyncGenerator<Buffer> {
            try {
              for (;;) {
                signal.throwIfAborted();
                if (pending.length === 0) {
                  await new Promise<void>(resolve => {
                    wake = resolve;
                  });
                  continue;
                }
                const next = pending.shift();
                if (next === undefined) return;
                yield Buffer.from(next);
              }
            } finally {
              watchers.delete(told);
            }
          }
          return stream();
        },
      } as Partial<KubeClient>);
    },
  };
  return server;
}
