/** The namespaces that are watched, each by itself: one that may not be looked at keeps no other from being worked on. */

import { isForbidden } from '../kube/errors.ts';
import type { Reflector } from '../kube/reflector.ts';
import type { CONFIG_MAPS, SECRETS } from './references.ts';
import {
  type Enqueue,
  type ReflectorsOptions,
  type Stores,
  startReferenceReflector,
  startReflectors,
} from './stores.ts';

/** How often it is told that something may not be looked at, as long as that is so. */
const REMINDER_MS = 600_000;

/** What the API server keeps from the operator. */
export interface Refusal {
  /** undefined: all namespaces, which are watched as one. */
  namespace: string | undefined;
  resources: string[];
  /** Whether the namespace is worked on all the same: it lacks nothing but what probes and hosted servers read. */
  isOpen: boolean;
  error: unknown;
}

export interface NamespacesOptions extends Omit<ReflectorsOptions, 'namespace' | 'onStanding'> {
  /** Empty means all, which then are watched as one. */
  names: readonly string[];
  /** What is watched beside, and what a namespace is worked on without. */
  references: readonly (typeof SECRETS | typeof CONFIG_MAPS)[];
  enqueue: Enqueue;
  /** Told when a namespace (undefined: all) was opened or closed. */
  onTurn: (namespace: string | undefined, isOpen: boolean) => void;
  /** Told once when it begins or grows, and then every 10 minutes. */
  onRefused: (refusal: Refusal) => void;
  now?: () => number;
}

export interface Namespaces {
  /**
   * Resolves when each namespace is open or may not be looked at, and one at least is open. Without that one the operator
   * is of no use.
   */
  ready: Promise<void>;
  /**
   * Whether a namespace may be worked on: all that there is in it was told, and nothing of it is refused. What the caches
   * of a namespace that is not open lack may be there all the same.
   */
  isOpen(namespace: string): boolean;
  reflectors: readonly Reflector[];
  /**
   * One that no namespace is worked on without and that made no progress for so long. A server that says no is alive, and so
   * is who asks it.
   */
  silent(ms: number): Reflector | undefined;
  /** Resolves when all have stopped after the signal. */
  done: Promise<void>;
}

interface Scope {
  isOpen(): boolean;
  /** Whether of each resource there is an answer. */
  isSettled(): boolean;
  needed: readonly Reflector[];
  beside: readonly Reflector[];
}

/** Starts to watch: one watch of each resource in each namespace, or one for all of them. */
export function watchNamespaces(stores: Stores, options: NamespacesOptions): Namespaces {
  const { names, references, enqueue, onTurn, onRefused, now = () => performance.now() } = options;
  const { promise: ready, resolve: markReady } = Promise.withResolvers<void>();
  const scopes = new Map((names.length > 0 ? names : [undefined]).map(name => [name, watch(name)]));

  function watch(namespace: string | undefined): Scope {
    let isOpen = false;
    let refusals = 0;
    let told: string[] = [];
    let remindAt = 0;
    const { client, signal, observer } = options;
    const common: ReflectorsOptions = {
      client,
      namespace,
      signal,
      onError: (resource, error) => (isForbidden(error) ? tell(error) : options.onError(resource, error)),
      ...(observer && { observer }),
    };
    const needed = startReflectors(stores, { ...common, onStanding: look });
    const beside = references.map(type => startReferenceReflector(stores, type, { ...common, enqueue }));

    function look(): void {
      const wasOpen = isOpen;
      isOpen = needed.every(({ standing }) => standing() === 'filled');
      if (isOpen) told = [];
      if (isOpen !== wasOpen) onTurn(namespace, isOpen);
      const all = [...scopes.values()];
      if (all.every(({ isSettled }) => isSettled()) && all.some(scope => scope.isOpen())) markReady();
    }

    function tell(error: unknown): void {
      refusals += 1;
      const all = [...needed, ...beside];
      // What is asked at the same time is told together, unless an answer stays away.
      if (refusals <= all.length && all.some(({ standing }) => standing() === 'filling')) return;
      const resources = all.filter(({ standing }) => standing() === 'refused').map(({ resource }) => resource);
      if (now() < remindAt && resources.every(resource => told.includes(resource))) return;
      told = resources;
      remindAt = now() + REMINDER_MS;
      onRefused({ namespace, resources, isOpen, error });
    }

    return {
      isOpen: () => isOpen,
      isSettled: () => needed.every(({ standing }) => standing() !== 'filling'),
      needed,
      beside,
    };
  }

  const all = [...scopes.values()];
  const reflectors = all.flatMap(({ needed, beside }) => [...needed, ...beside]);
  return {
    ready,
    isOpen: namespace => (scopes.get(namespace) ?? scopes.get(undefined))?.isOpen() ?? false,
    reflectors,
    silent: ms =>
      all
        .flatMap(({ needed }) => needed)
        .find(({ standing, lastProgress }) => standing() !== 'refused' && now() - lastProgress() > ms),
    done: Promise.all(reflectors.map(({ done }) => done)).then(() => {}),
  };
}
