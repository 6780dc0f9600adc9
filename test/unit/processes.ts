/**
 * Processes that share one simulated clock. Within them setTimeout, performance.now, Date and AbortSignal.timeout are of
 * that clock, which moves only when the test says so. A process can be paused, as by SIGSTOP or a long stop of its event loop:
 * its own clock goes on meanwhile, and what should have happened to it happens when it is resumed.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { vi } from 'vitest';

export interface Process {
  name: string;
  /** Its monotonic clock: it begins anywhere, and need not be as quick as others. */
  now(): number;
  /** Runs code of this process: its timers are the process's, from here on. */
  run<T>(code: () => T): T;
  pause(): void;
  /** `first`: which of what is due comes first; in Node that are the timers, but for those in the middle of a turn. */
  resume(first?: 'timers' | 'answers'): void;
  /** Ends it without a word: nothing happens in it any more. */
  kill(): void;
  readonly alive: boolean;
}

export interface ProcessOptions {
  /** Added to the time of the world. */
  offsetMs?: number;
  /** Seconds of its own in a second of the world. */
  rate?: number;
  /** How wrong its calendar is, and how quick: 0 if it stands still. */
  dateOffsetMs?: number;
  dateRate?: number;
}

export interface World {
  /** Milliseconds since the world began. */
  now(): number;
  start(name: string, options?: ProcessOptions): Process;
  /** Something that comes from outside, such as an answer: to a process, or to nobody in particular. */
  after(ms: number, process: Process | undefined, act: () => void): void;
  /** Lets time pass. `look` is called after each thing that happened. */
  advance(ms: number, look?: () => void): Promise<void>;
  /** Gives the timers back to Node. */
  end(): void;
}

/** When the world begins. */
const EPOCH = Date.parse('2026-03-01T10:00:00Z');

interface Happening {
  at: number;
  nth: number;
  kind: 'timers' | 'answers';
  process: Process | undefined;
  act: () => void;
}

export function createWorld(): World {
  const running = new AsyncLocalStorage<Process>();
  const held = new Map<Process, Happening[]>();
  const dead = new Set<Process>();
  const settle = (): Promise<void> => new Promise(resolve => setImmediate(resolve));
  let agenda: Happening[] = [];
  let time = 0;
  let count = 0;

  function plan(ms: number, kind: Happening['kind'], process: Process | undefined, act: () => void): Happening {
    count += 1;
    const happening = { at: time + Math.max(0, ms), nth: count, kind, process, act };
    // What is planned last is often what comes last.
    let place = agenda.length;
    while (place > 0 && (agenda[place - 1]?.at ?? 0) > happening.at) place -= 1;
    agenda.splice(place, 0, happening);
    return happening;
  }

  function cancel(happening: Happening): void {
    agenda = agenda.filter(one => one !== happening);
    for (const [process, waiting] of held)
      held.set(
        process,
        waiting.filter(one => one !== happening),
      );
  }

  async function happen(happening: Happening): Promise<void> {
    const { process, act } = happening;
    if (process && dead.has(process)) return;
    const waiting = process && held.get(process);
    if (waiting) waiting.push(happening);
    else if (process) process.run(act);
    else act();
    await settle();
  }

  class Timer {
    #happening: Happening;
    readonly #plan: () => Happening;
    constructor(act: () => void, ms: number) {
      const process = running.getStore();
      // Node's timers know whole milliseconds, and no 0.
      this.#plan = () => plan(Math.max(1, Math.trunc(ms)), 'timers', process, act);
      this.#happening = this.#plan();
    }
    refresh(): this {
      cancel(this.#happening);
      this.#happening = this.#plan();
      return this;
    }
    clear(): void {
      cancel(this.#happening);
    }
  }

  vi.useFakeTimers({ toFake: ['Date'], now: EPOCH });
  vi.stubGlobal('setTimeout', (act: () => void, ms = 0) => new Timer(act, ms));
  vi.stubGlobal('clearTimeout', (timer: Timer | undefined) => timer?.clear());
  vi.spyOn(performance, 'now').mockImplementation(() => running.getStore()?.now() ?? time);
  vi.spyOn(AbortSignal, 'timeout').mockImplementation(ms => {
    const abort = new AbortController();
    new Timer(() => abort.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError')), ms);
    return abort.signal;
  });

  return {
    now: () => time,
    start(name, { offsetMs = 0, rate = 1, dateOffsetMs = 0, dateRate = 1 } = {}) {
      const process: Process = {
        name,
        now: () => offsetMs + rate * time,
        run(code) {
          // What it goes on with after an await sees this as well: nothing else happens until then.
          vi.setSystemTime(EPOCH + dateOffsetMs + dateRate * time);
          return running.run(process, code);
        },
        pause: () => void (held.has(process) || held.set(process, [])),
        resume(first = 'timers') {
          const waiting = held.get(process) ?? [];
          held.delete(process);
          // All at once in the order in which they were due, before anything new.
          const order = (one: Happening): number => (one.kind === first ? 0 : 1);
          const due = waiting.sort((a, b) => order(a) - order(b) || a.at - b.at || a.nth - b.nth);
          agenda.unshift(...due.map(one => Object.assign(one, { at: time })));
        },
        kill: () => void dead.add(process),
        get alive() {
          return !dead.has(process);
        },
      };
      return process;
    },
    after: (ms, process, act) => void plan(ms, 'answers', process, act),
    async advance(ms, look = () => {}) {
      const until = time + ms;
      let instant = 0;
      await settle();
      look();
      for (let next = agenda[0]; next && next.at <= until; next = agenda[0]) {
        agenda.shift();
        instant = next.at > time ? 0 : instant + 1;
        if (instant > 10_000) throw new Error(`a loop without end at ${time} ms`);
        time = Math.max(time, next.at);
        await happen(next);
        look();
      }
      time = until;
      look();
    },
    end() {
      vi.useRealTimers();
      vi.unstubAllGlobals();
      vi.restoreAllMocks();
    },
  };
}
