/** Keys that wait in lines. The lines take turns, so that a long one keeps no other waiting. */

export interface Turns {
  size(): number;
  /** Since when a key waits; undefined if it does not. */
  since(key: string): number | undefined;
  /** Puts a key that does not wait at the end of its line. */
  add(key: string, since: number): void;
  remove(key: string): void;
  /** Takes the first key of the line whose turn it is. */
  take(): { key: string; since: number } | undefined;
  clear(): void;
}

/** `lineOf`: the line of a key. Lines in which nothing waits are forgotten. */
export function createTurns(lineOf: (key: string) => string): Turns {
  let lines = createFifo<Fifo<number>>();
  let size = 0;

  return {
    size: () => size,
    since: key => lines.entries.get(lineOf(key))?.entries.get(key),
    add(key, since) {
      const name = lineOf(key);
      let line = lines.entries.get(name);
      if (!line) {
        line = createFifo();
        lines.entries.set(name, line);
      }
      line.entries.set(key, since);
      size += 1;
    },
    remove(key) {
      const name = lineOf(key);
      const line = lines.entries.get(name);
      if (!line?.entries.delete(key)) return;
      if (line.entries.size === 0) lines.entries.delete(name);
      size -= 1;
    },
    take() {
      const [name, line] = lines.shift() ?? [];
      const [key, since] = line?.shift() ?? [];
      if (name === undefined || line === undefined || key === undefined || since === undefined) return undefined;
      if (line.entries.size > 0) lines.entries.set(name, line);
      size -= 1;
      return { key, since };
    },
    clear() {
      lines = createFifo();
      size = 0;
    },
  };
}

interface Fifo<T> {
  /** In the order in which they came. */
  entries: Map<string, T>;
  shift(): [string, T] | undefined;
}

/**
 * First in, first out. It goes on reading where it was: a reader that begins anew passes over all that was deleted at the
 * front of the Map, each time.
 */
function createFifo<T>(): Fifo<T> {
  const entries = new Map<string, T>();
  let reader = entries.entries();
  return {
    entries,
    shift() {
      let { value, done } = reader.next();
      // What came to its end stays there, whatever is added.
      if (done) {
        reader = entries.entries();
        value = reader.next().value;
      }
      if (value) entries.delete(value[0]);
      return value;
    },
  };
}
