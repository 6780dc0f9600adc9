// Who lives, who has died, and the one way to the end.
import { type Daemon, type DaemonOptions, startDaemon } from './process.ts';

export interface Lifetime {
  /** Aborted when the start must give up: its caller's signal, or a daemon that ended. */
  signal: AbortSignal;
  /** Aborted, with an Error that shows its last output, when a daemon ends though nobody asked it to. */
  failed: AbortSignal;
  start(options: DaemonOptions): Daemon;
  /** Kills the daemons, then cleans up; once. */
  stop(): Promise<void>;
}

export interface LifetimeOptions {
  /** Aborted at any time: a stop. */
  signal: AbortSignal;
  /** Daemons that run already. */
  running?: readonly Daemon[];
  /** Before the daemons are killed. */
  end?: () => Promise<void>;
  /** After they are. */
  cleanup: () => Promise<void>;
}

export function createLifetime({ signal, running = [], end = async () => {}, cleanup }: LifetimeOptions): Lifetime {
  const daemons: Daemon[] = [];
  const failed = new AbortController();
  let stopped: Promise<void> | undefined;
  const stop = () => {
    signal.removeEventListener('abort', onAbort);
    stopped ??= (async () => {
      await end();
      // What the cluster holds dies with it: nobody needs to be asked to end in good order.
      await Promise.all(daemons.map(daemon => daemon.kill()));
      await cleanup();
    })();
    return stopped;
  };
  const watch = (daemon: Daemon) => {
    daemons.push(daemon);
    daemon.ended.addEventListener('abort', () => {
      if (!stopped && !daemon.killed()) failed.abort(daemon.ended.reason);
    });
    return daemon;
  };
  running.forEach(watch);
  const onAbort = () => void stop().catch(error => failed.abort(error));
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const alive = AbortSignal.any([signal, failed.signal]);
  return {
    signal: alive,
    failed: failed.signal,
    start(options) {
      alive.throwIfAborted(); // After a stop nothing new may begin.
      return watch(startDaemon(options));
    },
    stop,
  };
}
