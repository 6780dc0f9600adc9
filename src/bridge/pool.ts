/** Processes that serve the same to all clients. Where there are several, each answers one request at a time. */

import type { Refusal } from './messages.ts';
import { type Answer, type Peer, type Request, unavailable } from './peer.ts';
import type { Message } from './process.ts';
import { pause, supervise } from './supervise.ts';

/** What the server answered to the bridge's own initialize. */
export type Introduction = Record<string, unknown>;

export interface PoolOptions {
  size: number;
  /** Starts a process, and resolves when it has answered. */
  begin: () => Promise<{ peer: Peer; introduction: Introduction }>;
  /** Told of each process that ended or did not begin, and how long it takes until it is started again. */
  onFailure: (why: string, waitMs: number) => void;
  /** Told when one is ended because it does not answer any more. */
  onSilence: () => void;
  /** Makes why a process ended fit for clients. */
  clean: (text: string) => string;
  signal: AbortSignal;
}

export interface Pool {
  /** What the one said that began last. Throws Refusal before the first. */
  introduction(): Introduction;
  /** As that of a peer. Rejects with Refusal when none is there for a while. */
  ask: Peer['ask'];
  /** Why there is none, or undefined. */
  trouble(): string | undefined;
  /** Rejects when one of them is no use to start again. */
  done: Promise<void>;
}

interface Serving {
  peer: Peer;
  inHand: number;
  /** Was asked whether it is still there, and has not answered yet. */
  isDoubted: boolean;
}

/** Who has answered and lived for so long is sound: when it ends, failures are counted anew. */
const SOUND_MS = 5_000;
/** As long as clients usually wait: what is lost with a process that says nothing for so long would have been lost anyhow. */
const SILENT_MS = 60_000;
/** Who asks while one is started again waits for it: so long that it most often is there, and that a probe learns why not. */
const PATIENCE_MS = 4_000;

export function createPool({ size, begin, onFailure, onSilence, clean, signal }: PoolOptions): Pool {
  const serving = new Set<Serving>();
  let introduction: Introduction | undefined;
  /** Resolves when one that was not free may be. */
  let change = Promise.withResolvers<void>();
  const changed = (): void => {
    change.resolve();
    change = Promise.withResolvers();
  };

  // One after the other: they share the Pod's CPU, and the first is to answer soon.
  let lastBegin: Promise<unknown> = Promise.resolve();
  const beginInTurn: typeof begin = () => {
    const begun = lastBegin.then(begin);
    lastBegin = begun.catch(() => {});
    return begun;
  };
  const attempt = async (): Promise<{ over: Promise<string> }> => {
    const begun = await beginInTurn();
    introduction = begun.introduction;
    const one = { peer: begun.peer, inHand: 0, isDoubted: false };
    serving.add(one);
    changed();
    return {
      over: one.peer.ended.finally(() => {
        serving.delete(one);
        changed();
      }),
    };
  };
  const supervisors = Array.from({ length: size }, () =>
    supervise({ attempt, onFailure, soundAfterMs: SOUND_MS, signal }),
  );

  function trouble(): string | undefined {
    if (serving.size > 0) return undefined;
    return supervisors.map(supervisor => supervisor.trouble()).find(why => why !== undefined) ?? 'it starts';
  }

  const absent = (): Refusal => unavailable(`the server is not there: ${clean(trouble() ?? 'it starts')}`);

  /** Whoever has least to do, and may have more: who answers one at a time is not asked what it cannot begin. */
  function free(): Serving | undefined {
    const most = size > 1 ? 1 : Number.POSITIVE_INFINITY;
    const [one] = [...serving]
      .filter(({ isDoubted, inHand }) => !isDoubted && inHand < most)
      .sort((a, b) => a.inHand - b.inHand);
    return one;
  }

  /** Waits for its turn. Rejects with Refusal when none has been there for a while, or with the signal's reason. */
  async function take(signal: AbortSignal | undefined): Promise<Serving> {
    let absentSince: number | undefined;
    for (;;) {
      signal?.throwIfAborted();
      const one = free();
      if (one) return one;
      if (serving.size > 0) absentSince = undefined;
      else absentSince ??= performance.now();
      const patience = absentSince === undefined ? undefined : absentSince + PATIENCE_MS - performance.now();
      if (patience !== undefined && patience <= 0) throw absent();
      await pause(patience, signal, change.promise);
    }
  }

  /** Who goes on with what nobody waits for and who hangs look alike, until they are asked. */
  async function doubt(one: Serving): Promise<void> {
    if (one.isDoubted) return;
    one.isDoubted = true;
    const enough = new AbortController();
    const late = setTimeout(() => enough.abort(), SILENT_MS);
    late.unref();
    try {
      await one.peer.ask({ method: 'ping' }, { signal: enough.signal });
      one.isDoubted = false;
      changed();
    } catch {
      if (!enough.signal.aborted) return;
      onSilence();
      await one.peer.end();
    } finally {
      clearTimeout(late);
    }
  }

  async function ask(
    request: Request,
    options: { onProgress?: (message: Message) => void; signal?: AbortSignal },
  ): Promise<Answer> {
    const one = await take(options.signal);
    one.inHand += 1;
    try {
      return await one.peer.ask(request, options);
    } finally {
      one.inHand -= 1;
      if (options.signal?.aborted) void doubt(one);
      changed();
    }
  }

  const done = Promise.all(supervisors.map(supervisor => supervisor.done)).then(() => {});
  return {
    introduction() {
      if (!introduction) throw absent();
      return introduction;
    },
    ask,
    trouble,
    done,
  };
}
