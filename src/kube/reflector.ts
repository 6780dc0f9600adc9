/** Keeps a store in step with the API server: all that is there, then each change, for as long as it lives. */

import { setTimeout as sleep } from 'node:timers/promises';
import { keyOf, type ResourceType } from '../api/meta.ts';
import { INITIAL_EVENTS_END, type KubeClient, type Scope, type WatchEvent } from './client.ts';
import { ApiError, isExpired, isForbidden, isInvalid, retryAfterOf } from './errors.ts';
import { isNewer, type Stored, type StoreWriter } from './store.ts';

/** A watch is asked to end by itself after 300–600 s, at random, so that reconnections spread out. */
const WATCH_SECONDS = { min: 300, spread: 300 };
/** Bookmarks come about once a minute: silence beyond this means that the connection is dead though nobody said so. */
const IDLE_MS = 150_000;
/** What a watch begins with comes without a pause: the whole of it is in the API server's memory. */
const FILL_IDLE_MS = 30_000;
/**
 * Some proxies hand on an answer only when it has ended. After a watch that was silent for too long, watches end by
 * themselves this soon, for so long.
 */
const BUFFERED = { seconds: 30, forMs: 3_600_000 };
const BACKOFF_MS = { first: 500, most: 30_000 };
/** A watch that ends sooner than this is not opened again at once; for longer and longer if it told nothing new. */
const SHORT_MS = 10_000;
/** After so many watches in a row that told nothing but an error, all is read anew: it may lie in what they go on from. */
const MOST_ERRORS = 3;
/** All is read anew from time to time, should a change ever have been lost on the way: 10–20 h. */
const REFILL_MS = { min: 36_000_000, spread: 36_000_000 };
/** A line of a watch is one object; etcd takes at most 1.5 MiB, and JSON may double it. */
const MAX_LINE_BYTES = 8 * 1024 * 1024;
const VERSION = /^[1-9]\d*$/;

export interface ReflectorObserver {
  /** All was read: in pages, or as the beginning of a watch. */
  filled(how: 'list' | 'watch-list'): void;
  watched(): void;
  failed(): void;
}

export interface ReflectorOptions<T extends Stored> {
  client: KubeClient;
  type: ResourceType;
  scope: Scope;
  store: StoreWriter<T>;
  /** Takes the part of a raw object that is kept. */
  project: (raw: never) => T;
  signal: AbortSignal;
  /** Told of each failure; the reflector goes on by itself. */
  onError: (error: unknown) => void;
  /** Told when its standing is another one, before `onError` is told why. */
  onStanding?: () => void;
  observer?: ReflectorObserver;
  random?: () => number;
  /** Milliseconds that no change of the clock moves. */
  now?: () => number;
}

/**
 * Not all that there is was told yet, or not since it was refused for long; it was; or the server's last word was that it
 * may not be told (403).
 */
export type Standing = 'filling' | 'filled' | 'refused';

export interface Reflector {
  resource: string;
  /** The only one that it looks at; undefined means all. */
  namespace: string | undefined;
  standing(): Standing;
  /** Resolves when the store holds all that there is; never rejects. */
  synced: Promise<void>;
  /** When it was last seen to be alive, or else was started, by `now`. */
  lastProgress(): number;
  /** Resolves when it has stopped after its signal. */
  done: Promise<void>;
}

/** What a watch told makes no sense, or says that the server was set back: all must be read anew. */
class Spoiled extends Error {
  override name = 'Spoiled';
}

/** An error that a watch told in mid-stream. */
class WatchError extends ApiError {}

export function startReflector<T extends Stored>(options: ReflectorOptions<T>): Reflector {
  const { client, type, scope, store, signal, onError, onStanding, observer } = options;
  const { random = Math.random, now = () => performance.now() } = options;
  const { promise: synced, resolve: markSynced } = Promise.withResolvers<void>();
  let progressAt = now();
  let standing: Standing = 'filling';
  /** The store holds all up to this version; empty when all must be read (anew). */
  let version = '';
  /** The version that the try in hand began with, or that it was filled with. */
  let from = '';
  let refillAt = 0;
  /** Until then all is read by lists: the server cannot begin a watch with all that is there, or something holds it back. */
  let listsUntil = Number.NEGATIVE_INFINITY;
  let bufferedUntil = Number.NEGATIVE_INFINITY;

  function stand(next: Standing): void {
    if (next === standing) return;
    // What was not heard of while it was refused is no sign of death.
    if (standing === 'refused') progressAt = now();
    standing = next;
    onStanding?.();
  }

  /** Where it was kept out for so long that all must be read anew, the store holds what was there once. */
  function welcome(): void {
    if (standing === 'refused') stand(version === '' ? 'filling' : 'filled');
  }

  function fill(objects: readonly T[], resourceVersion: string, how: 'list' | 'watch-list'): void {
    store.replace(objects, resourceVersion);
    version = resourceVersion;
    from = version;
    refillAt = now() + REFILL_MS.min + random() * REFILL_MS.spread;
    observer?.filled(how);
    stand('filled');
    markSynced();
  }

  async function list(): Promise<void> {
    const objects: T[] = [];
    let next: string | undefined;
    let resourceVersion: string;
    do {
      const page = await client.list<unknown>(type, { ...scope, ...(next && { continue: next }) }, signal);
      if (!Array.isArray(page.items) || typeof page.metadata?.resourceVersion !== 'string')
        throw new Error(`list of ${type.plural}: the answer is no list`);
      for (const raw of page.items) {
        const object = take(raw);
        if (object) objects.push(object);
      }
      resourceVersion = page.metadata.resourceVersion;
      next = page.metadata.continue;
      progressAt = now();
    } while (next);
    fill(objects, resourceVersion, 'list');
  }

  /** Watches until the server ends the stream, or throws: from `version`, or from all that there is. */
  async function watch(): Promise<void> {
    /** What there is, until all of it was told. */
    let filling: Map<string, T> | undefined = version === '' ? new Map() : undefined;
    let told = false;
    const idle = new AbortController();
    const patience = (ms: number): NodeJS.Timeout =>
      setTimeout(() => idle.abort(new Error(`watch of ${type.plural}: silent for ${ms / 1000} s, reconnecting`)), ms);
    let watchdog = patience(filling ? FILL_IDLE_MS : IDLE_MS);
    const buffered = now() < bufferedUntil;
    const timeoutSeconds = buffered
      ? BUFFERED.seconds
      : Math.round(WATCH_SECONDS.min + random() * WATCH_SECONDS.spread);
    try {
      const stream = await client.watch(
        type,
        { ...scope, ...(!filling && { resourceVersion: version }), timeoutSeconds },
        AbortSignal.any([signal, idle.signal]),
      );
      observer?.watched();
      welcome();
      for await (const line of lines(stream)) {
        if (signal.aborted) return;
        told = true;
        watchdog.refresh();
        const event = parse(line);
        if (filling) {
          filling = collect(filling, event);
          if (filling) continue;
          clearTimeout(watchdog);
          watchdog = patience(IDLE_MS);
        } else apply(event);
        progressAt = now();
      }
      if (filling) throw new Error(`watch of ${type.plural}: it ended before all was told`);
    } catch (error) {
      // A stream that says nothing may be held back by a proxy until it ends; a list is not.
      if (idle.signal.aborted && filling) listsUntil = now() + BUFFERED.forMs;
      if (idle.signal.aborted && !filling && !told) bufferedUntil = now() + BUFFERED.forMs;
      throw idle.signal.aborted ? idle.signal.reason : error;
    } finally {
      clearTimeout(watchdog);
    }
  }

  /** Adds an event to what there is; gives undefined when that was all. */
  function collect(filling: Map<string, T>, event: WatchEvent<unknown>): Map<string, T> | undefined {
    switch (event.type) {
      case 'ADDED':
      case 'MODIFIED':
      case 'DELETED': {
        const object = take(event.object);
        if (object && event.type !== 'DELETED') filling.set(keyOf(object), object);
        else filling.delete(keyOf(event.object as T));
        return filling;
      }
      case 'BOOKMARK':
        if (event.object.metadata.annotations?.[INITIAL_EVENTS_END] !== 'true') return filling;
        fill([...filling.values()], event.object.metadata.resourceVersion, 'watch-list');
        return undefined;
      case 'ERROR':
        throw failure(event.object);
    }
  }

  function apply(event: WatchEvent<unknown>): void {
    if (event.type === 'ERROR') throw failure(event.object);
    const object = event.type === 'BOOKMARK' ? undefined : take(event.object);
    const resourceVersion = (event.object as Partial<Stored> | null)?.metadata?.resourceVersion ?? '';
    if (!VERSION.test(resourceVersion)) throw new Spoiled(`watch of ${type.plural}: a bookmark without a version`);
    // Within a watch versions only grow (KEP-5504): this server, or its etcd, was set back, or something reorders events.
    if (isNewer(version, resourceVersion))
      throw new Spoiled(`watch of ${type.plural}: version ${resourceVersion} came after ${version}`);
    if (event.type === 'BOOKMARK') store.progress(resourceVersion);
    else if (object && event.type !== 'DELETED') store.upsert(object);
    else store.remove(event.object as T);
    version = resourceVersion;
  }

  function parse(line: string): WatchEvent<unknown> {
    let event: WatchEvent<unknown> | undefined;
    try {
      event = JSON.parse(line) as WatchEvent<unknown>;
    } catch {
      // Told below.
    }
    const told = event?.type === 'ERROR' || typeof event?.object === 'object';
    if (!event || !told || !['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK', 'ERROR'].includes(event.type))
      throw new Spoiled(`watch of ${type.plural}: what it told is no event`);
    return event;
  }

  /** The part of a raw object that is kept. One that is not what its type says counts as gone; it must not stop the others. */
  function take(raw: unknown): T | undefined {
    const { metadata } = (raw ?? {}) as { metadata?: Partial<Stored['metadata']> };
    const { namespace, name, uid, resourceVersion } = metadata ?? {};
    if (!name || !uid || !VERSION.test(resourceVersion ?? ''))
      throw new Spoiled(`${type.plural}: an object without a name, UID or version was told`);
    try {
      return project(raw);
    } catch (cause) {
      onError(new Error(`${type.plural}: ${namespace}/${name} makes no sense and is passed over`, { cause }));
      return undefined;
    }
  }

  const project = options.project as (raw: unknown) => T;

  function failure(status: { code?: number } | undefined): WatchError {
    return new WatchError(`watch of ${type.plural}`, status?.code ?? 500, JSON.stringify(status ?? {}));
  }

  async function run(): Promise<void> {
    /** In a row: tries that came to nothing, and errors that watches told and nothing else. */
    let failures = 0;
    let errors = 0;
    while (!signal.aborted) {
      // Silence may mean that the server was set back: it tells nothing until it has caught up with our version.
      if (now() > refillAt || now() - progressAt > IDLE_MS) version = '';
      from = version;
      const start = now();
      const isFutile = (): boolean => version === from && now() - start < SHORT_MS;
      let waitMs = 0;
      try {
        if (version === '' && now() < listsUntil) await list();
        await watch();
        errors = 0;
        failures = isFutile() ? failures + 1 : 0;
      } catch (error) {
        if (signal.aborted) return;
        if (version === '' && now() >= listsUntil && isInvalid(error)) {
          listsUntil = Number.POSITIVE_INFINITY;
          continue;
        }
        failures = isFutile() ? failures + 1 : 1;
        errors = error instanceof WatchError && version === from ? errors + 1 : 0;
        const expired = isExpired(error);
        if (expired || error instanceof Spoiled || errors >= MOST_ERRORS) {
          version = '';
          errors = 0;
        }
        observer?.failed();
        if (isForbidden(error)) stand('refused');
        if (!expired) onError(error);
        waitMs = retryAfterOf(error);
      }
      // A server that ends watches at once is left alone for longer and longer, as one that fails.
      if (failures > 0) waitMs = Math.max(waitMs, Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** (failures - 1)));
      else if (now() - start < SHORT_MS) waitMs = BACKOFF_MS.first;
      if (waitMs > 0) await sleep(waitMs * (1 + random() / 2), undefined, { signal }).catch(() => {});
    }
  }

  return {
    resource: type.plural,
    namespace: scope.namespace,
    standing: () => standing,
    synced,
    lastProgress: () => progressAt,
    done: run(),
  };
}

/** Splits a byte stream into its non-empty lines. Throws when a line grows beyond 8 MiB. */
async function* lines(stream: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let pending: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      pending.push(chunk.subarray(start, end));
      const line = (pending.length === 1 ? pending[0] : Buffer.concat(pending))?.toString('utf8') ?? '';
      pending = [];
      size = 0;
      start = end + 1;
      if (line.trim() !== '') yield line;
    }
    pending.push(chunk.subarray(start));
    size += chunk.length - start;
    if (size > MAX_LINE_BYTES) throw new Error(`watch: an event is larger than ${MAX_LINE_BYTES} bytes`);
  }
}
