/** Notices keys that are reconciled over and over although nothing new was asked of them, and slows them down. */

/** What kept a key busy. */
export interface HotLoop {
  key: string;
  /** Reconciles within the minute so far. */
  reconciles: number;
  /** What woke the key, and how often, the most frequent first. */
  causes: Record<string, number>;
}

export interface HotLoopGuard {
  /** Something woke a key: a name such as the kind of object that changed. */
  woken(key: string, cause: string): void;
  /** A key is about to be reconciled. Gives for how long it must wait first, in ms: 0 unless it is hot. */
  reconciling(key: string): number;
}

export interface HotLoopOptions {
  /** So many reconciles of a key in a minute, without a change of its input, are too many. */
  perMinute: number;
  /** Names what was asked of a key, such as the generation of its spec. Another input starts the count anew. */
  inputOf: (key: string) => string;
  /** Told once a minute of each key that is hot. */
  onHot: (hot: HotLoop) => void;
  now?: () => number;
}

const WINDOW_MS = 60_000;
/** A hot key is reconciled so often at most: soon enough for a person, too slow to burden the API server. */
const PACE_MS = 1_000;

interface Count {
  input: string;
  reconciles: number;
  causes: Record<string, number>;
  lastAt: number;
}

export function createHotLoopGuard(options: HotLoopOptions): HotLoopGuard {
  const { perMinute, inputOf, onHot, now = () => performance.now() } = options;
  let records = new Map<string, Count>();
  let windowEnds = now() + WINDOW_MS;

  function recordOf(key: string): Count {
    // What was counted is forgotten every minute, so that memory is bounded by the keys that are busy.
    if (now() >= windowEnds) {
      records = new Map();
      windowEnds = now() + WINDOW_MS;
    }
    const input = inputOf(key);
    let record = records.get(key);
    if (record?.input !== input) {
      record = { input, reconciles: 0, causes: {}, lastAt: Number.NEGATIVE_INFINITY };
      records.set(key, record);
    }
    return record;
  }

  return {
    woken(key, cause) {
      const { causes } = recordOf(key);
      causes[cause] = (causes[cause] ?? 0) + 1;
    },
    reconciling(key) {
      const record = recordOf(key);
      if (record.reconciles > perMinute) {
        const wait = record.lastAt + PACE_MS - now();
        if (wait > 0) return wait;
      }
      record.reconciles += 1;
      record.lastAt = now();
      if (record.reconciles === perMinute + 1) {
        const causes = Object.fromEntries(Object.entries(record.causes).sort(([, a], [, b]) => b - a));
        onHot({ key, reconciles: record.reconciles, causes });
      }
      return 0;
    },
  };
}
