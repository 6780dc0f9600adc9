/** Keeps a store in step with the API server: list, then watch from there, for as long as it lives. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { ResourceType } from '../api/meta.ts';
import type { KubeClient, Scope, WatchEvent } from './client.ts';
import { ApiError, isExpired } from './errors.ts';
import type { Stored, StoreWriter } from './store.ts';

/** A watch is asked to end by itself after 300–600 s, at random, so that reconnections spread out. */
const WATCH_SECONDS = { min: 300, spread: 300 };
/** Bookmarks come about once a minute: silence beyond this means that the connection is dead though nobody said so. */
const IDLE_MS = 150_000;
const BACKOFF_MS = { first: 500, most: 30_000 };
/** A line of a watch is one object; etcd takes at most 1.5 MiB, and JSON may double it. */
const MAX_LINE_BYTES = 8 * 1024 * 1024;

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
  random?: () => number;
}

export interface Reflector {
  /** Resolves when the store holds the first complete list; never rejects. */
  synced: Promise<void>;
  /** When the watch last proved to be alive, in ms since the epoch; 0 before the first list. */
  lastProgress(): number;
  /** Resolves when it has stopped after its signal. */
  done: Promise<void>;
}

export function startReflector<T extends Stored>(options: ReflectorOptions<T>): Reflector {
  const { client, type, scope, store, signal, onError, random = Math.random } = options;
  const project = options.project as (raw: unknown) => T;
  const { promise: synced, resolve: markSynced } = Promise.withResolvers<void>();
  let progressAt = 0;
  let failures = 0;
  /** The store holds all up to this version; empty before the first list. */
  let version = '';

  async function list(): Promise<void> {
    const objects: T[] = [];
    let next: string | undefined;
    let resourceVersion: string;
    do {
      const page = await client.list<unknown>(type, { ...scope, ...(next && { continue: next }) }, signal);
      for (const raw of page.items) objects.push(project(raw));
      resourceVersion = page.metadata.resourceVersion;
      next = page.metadata.continue;
    } while (next);
    store.replace(objects, resourceVersion);
    version = resourceVersion;
    progressAt = Date.now();
    markSynced();
  }

  /** Watches from `version` until the server ends the stream, or throws. Tells whether any event came. */
  async function watch(): Promise<boolean> {
    let told = false;
    const idle = new AbortController();
    const watchdog = setTimeout(
      () => idle.abort(new Error(`watch of ${type.plural}: silent for ${IDLE_MS / 1000} s, reconnecting`)),
      IDLE_MS,
    );
    try {
      const timeoutSeconds = Math.round(WATCH_SECONDS.min + random() * WATCH_SECONDS.spread);
      const stream = await client.watch(
        type,
        { ...scope, resourceVersion: version, timeoutSeconds },
        AbortSignal.any([signal, idle.signal]),
      );
      for await (const line of lines(stream)) {
        if (signal.aborted) return told;
        told = true;
        watchdog.refresh();
        take(JSON.parse(line) as WatchEvent<unknown>);
        progressAt = Date.now();
        failures = 0;
      }
    } catch (error) {
      throw idle.signal.aborted ? idle.signal.reason : error;
    } finally {
      clearTimeout(watchdog);
    }
    return told;
  }

  function take(event: WatchEvent<unknown>): void {
    switch (event.type) {
      case 'ADDED':
      case 'MODIFIED': {
        const object = project(event.object);
        store.upsert(object);
        version = object.metadata.resourceVersion;
        break;
      }
      case 'DELETED': {
        const object = project(event.object);
        store.remove(object);
        version = object.metadata.resourceVersion;
        break;
      }
      case 'BOOKMARK':
        version = event.object.metadata.resourceVersion;
        store.progress(version);
        break;
      case 'ERROR':
        throw new ApiError(`watch of ${type.plural}`, event.object.code ?? 500, JSON.stringify(event.object));
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        if (version === '') await list();
        if (await watch()) continue;
        // A server that ends watches at once is left alone for longer and longer, as one that fails.
      } catch (error) {
        if (signal.aborted) return;
        // Only a version that the server no longer has needs a new list; else the watch goes on where it was.
        if (isExpired(error)) version = '';
        else onError(error);
      }
      failures += 1;
      const backoff = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** (failures - 1)) * (0.5 + random() / 2);
      await sleep(backoff, undefined, { signal }).catch(() => {});
    }
  }

  return { synced, lastProgress: () => progressAt, done: run() };
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
