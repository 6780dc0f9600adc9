import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { KubeClient, ListPage } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { type Reflector, startReflector } from '../../../src/kube/reflector.ts';
import { fakeClient } from '../support.ts';

// The clock of vitest has no hold of timers/promises: the same on the global timer, which it has.
vi.mock('node:timers/promises', () => ({
  setTimeout: (ms: number, value: unknown, { signal }: { signal: AbortSignal }) =>
    new Promise((resolve, reject) => {
      if (signal.aborted) reject(signal.reason);
      const timer = setTimeout(() => resolve(value), ms);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    }),
}));

const THINGS = { group: '', version: 'v1', plural: 'things', kind: 'Thing' };

interface Thing {
  metadata: { name: string; namespace: string; uid: string; resourceVersion: string };
  note?: string;
}

const thing = (name: string, version: number, note?: string): Thing => ({
  metadata: { name, namespace: 'n', uid: name, resourceVersion: String(version) },
  ...(note !== undefined && { note }),
});
const line = (type: string, object: object): string => `${JSON.stringify({ type, object })}\n`;
const page = (version: number, items: Thing[] = [], next?: string): ListPage<Thing> => ({
  metadata: { resourceVersion: String(version), ...(next !== undefined && { continue: next }) },
  items,
});

/** A watch that was opened: the test says what comes of it. */
interface Watch {
  scope: Parameters<KubeClient['watch']>[1];
  push(...chunks: (string | Buffer)[]): void;
  end(): void;
  fail(error: unknown): void;
}

function startFake({ lists, refuse = [] }: { lists: (ListPage<Thing> | Error)[]; refuse?: Error[] }) {
  const calls: string[] = [];
  const watches: Watch[] = [];
  const errors: string[] = [];
  const store: string[] = [];
  const abort = new AbortController();

  const client = fakeClient({
    list: (async (_type, scope) => {
      calls.push(`list${scope.continue ? ` after ${scope.continue}` : ''}`);
      const answer = lists.shift() ?? new Error('no more lists');
      if (answer instanceof Error) throw answer;
      return answer;
    }) as KubeClient['list'],
    async watch(_type, scope, signal) {
      calls.push(`watch from ${scope.resourceVersion}`);
      const refused = refuse.shift();
      if (refused) throw refused;
      const queue: (Buffer | Error | undefined)[] = [];
      let wake = (): void => {};
      signal.addEventListener('abort', () => wake());
      const put = (...parts: (Buffer | Error | undefined)[]): void => {
        queue.push(...parts);
        wake();
      };
      watches.push({
        scope,
        push: (...chunks) => put(...chunks.map(chunk => Buffer.from(chunk))),
        end: () => put(undefined),
        fail: error => put(error as Error),
      });
      async function* stream(): AsyncGenerator<Buffer> {
        for (;;) {
          if (signal.aborted) throw signal.reason;
          if (queue.length === 0) {
            await new Promise<void>(resolve => {
              wake = resolve;
            });
            continue;
          }
          const next = queue.shift();
          if (next === undefined) return;
          if (next instanceof Error) throw next;
          yield next;
        }
      }
      return stream();
    },
  });

  const reflector: Reflector = startReflector<Thing>({
    client,
    type: THINGS,
    scope: { namespace: 'n', labelSelector: 'a=b' },
    store: {
      replace: (things, version) => void store.push(`replace ${things.map(names).join(' ')} @${version}`),
      upsert: object => void store.push(`upsert ${names(object)}${object.note === undefined ? '' : ` ${object.note}`}`),
      remove: object => void store.push(`remove ${names(object)}`),
      progress: version => void store.push(`progress ${version}`),
    },
    project: (raw: Thing) => raw,
    signal: abort.signal,
    onError: error => void errors.push((error as Error).message),
    // The middle: back-offs are three quarters of their most, watches last 450 s.
    random: () => 0.5,
  });
  const last = (): Watch => {
    const watch = watches.at(-1);
    if (!watch) throw new Error('no watch was opened');
    return watch;
  };
  return { reflector, calls, watches, last, errors, store, abort };
}

const names = ({ metadata }: Thing): string => `${metadata.name}@${metadata.resourceVersion}`;
const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** Ends a fake, so that nothing of it outlives the test. */
async function stop({ abort, reflector }: ReturnType<typeof startFake>): Promise<void> {
  abort.abort();
  await reflector.done;
}

describe('a reflector', () => {
  it('lists, then watches from there', async () => {
    const fake = startFake({ lists: [page(7, [thing('a', 3)])] });
    expect(fake.reflector.lastProgress()).toBe(0);
    await fake.reflector.synced;
    await settle();
    expect(fake.calls).toEqual(['list', 'watch from 7']);
    expect(fake.store).toEqual(['replace a@3 @7']);
    expect(fake.reflector.lastProgress()).toBe(Date.now());
    expect(fake.last().scope).toEqual({
      namespace: 'n',
      labelSelector: 'a=b',
      resourceVersion: '7',
      timeoutSeconds: 450,
    });
    await stop(fake);
  });

  it('reads all pages of a list before it replaces the store', async () => {
    const fake = startFake({ lists: [page(7, [thing('a', 1)], 'token'), page(7, [thing('b', 2)])] });
    await settle();
    expect(fake.calls).toEqual(['list', 'list after token', 'watch from 7']);
    expect(fake.store).toEqual(['replace a@1 b@2 @7']);
    await stop(fake);
  });

  it('is not synced before a list succeeds', async () => {
    const fake = startFake({ lists: [new Error('down'), page(7)] });
    let synced = false;
    void fake.reflector.synced.then(() => {
      synced = true;
    });
    await settle();
    expect([synced, fake.errors]).toEqual([false, ['down']]);
    await vi.advanceTimersByTimeAsync(375);
    expect([synced, fake.calls]).toEqual([true, ['list', 'list', 'watch from 7']]);
    await stop(fake);
  });

  it('gives events to the store in their order', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake
      .last()
      .push(
        line('ADDED', thing('a', 8)) + line('MODIFIED', thing('a', 9)),
        line('DELETED', thing('a', 10)),
        line('BOOKMARK', { metadata: { resourceVersion: '11' } }),
      );
    await settle();
    expect(fake.store.slice(1)).toEqual(['upsert a@8', 'upsert a@9', 'remove a@10', 'progress 11']);
    await stop(fake);
  });

  it.each([
    ['an event', line('MODIFIED', thing('a', 9)), '9'],
    ['a deletion', line('DELETED', thing('a', 10)), '10'],
    ['a bookmark', line('BOOKMARK', { metadata: { resourceVersion: '11' } }), '11'],
  ])('goes on after %s where it was when the watch ends, without a new list', async (_what, event, version) => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(event);
    fake.last().end();
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.calls).toEqual(['list', 'watch from 7', `watch from ${version}`]);
    expect(fake.errors).toEqual([]);
    await stop(fake);
  });

  it('goes on where it was when the connection breaks, and tells of it', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(line('ADDED', thing('a', 8)));
    fake.last().fail(new Error('reset'));
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'watch from 8']);
    expect(fake.errors).toEqual(['reset']);
    await stop(fake);
  });

  it.each([
    ['a watch is refused with 410', [new ApiError('GET', 410, '{}')], undefined],
    ['an ERROR event says 410', [], line('ERROR', { code: 410, reason: 'Expired', message: 'too old' })],
  ])('lists anew when %s', async (_what, refuse, event) => {
    const fake = startFake({ lists: [page(7), page(20, [thing('b', 19)])], refuse });
    await settle();
    if (event) fake.last().push(event);
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'list', 'watch from 20']);
    expect(fake.store).toEqual(['replace  @7', 'replace b@19 @20']);
    // It is how the API is meant to work: nobody needs to hear of it.
    expect(fake.errors).toEqual([]);
    await stop(fake);
  });

  it('begins a list anew when the next page has expired', async () => {
    const fake = startFake({
      lists: [page(7, [thing('a', 1)], 'token'), new ApiError('GET', 410, '{}'), page(9, [thing('a', 8)])],
    });
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.calls).toEqual(['list', 'list after token', 'list', 'watch from 9']);
    expect(fake.store).toEqual(['replace a@8 @9']);
    await stop(fake);
  });

  it('tells of another ERROR event and goes on where it was', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake
      .last()
      .push(line('ADDED', thing('a', 8)) + line('ERROR', { code: 500, reason: 'InternalError', message: 'boom' }));
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'watch from 8']);
    expect(fake.errors).toEqual(['watch of things: 500 boom']);
    await stop(fake);
  });

  it('tells of a malformed line, keeps what came before it, and goes on from there', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(`${line('ADDED', thing('a', 8))}{"type":"ADD\n${line('ADDED', thing('b', 9))}`);
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.store.slice(1)).toEqual(['upsert a@8']);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'watch from 8']);
    expect(fake.errors).toEqual([expect.stringContaining('JSON')]);
    await stop(fake);
  });
});

describe('the lines of a watch', () => {
  const text = line('ADDED', thing('a', 8, 'grüße 🦊 ￿')) + line('ADDED', thing('b', 9, '語'));

  it('may be cut anywhere, also within a character', async () => {
    const bytes = Buffer.from(text);
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(...Array.from(bytes, (_byte, at) => bytes.subarray(at, at + 1)));
    await settle();
    expect(fake.store.slice(1)).toEqual(['upsert a@8 grüße 🦊 ￿', 'upsert b@9 語']);
    await stop(fake);
  });

  it('may come together, with blank ones between', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(`\n \r\n${text}\n${line('DELETED', thing('a', 10))}`);
    await settle();
    expect(fake.store.slice(1)).toEqual(['upsert a@8 grüße 🦊 ￿', 'upsert b@9 語', 'remove a@10']);
    await stop(fake);
  });

  it('are left out when the stream ends within one', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    fake.last().push(text.slice(0, -5));
    fake.last().end();
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.store.slice(1)).toEqual(['upsert a@8 grüße 🦊 ￿']);
    expect(fake.calls.at(-1)).toBe('watch from 8');
    await stop(fake);
  });

  it('are at most 8 MiB long', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    const mebibyte = Buffer.alloc(1024 * 1024, 'x');
    fake.last().push(...Array.from({ length: 9 }, () => mebibyte));
    await vi.advanceTimersByTimeAsync(375);
    expect(fake.errors).toEqual(['watch: an event is larger than 8388608 bytes']);
    await stop(fake);
  });
});

describe('the back-off of a reflector', () => {
  it('doubles from 0.5 s up to 30 s, jittered downwards, and ends with the first event', async () => {
    const refuse = Array.from({ length: 9 }, () => new Error('down'));
    const fake = startFake({ lists: [page(7)], refuse });
    await settle();
    const waits: number[] = [];
    while (fake.watches.length === 0) {
      const before = fake.calls.length;
      let waited = 0;
      for (; fake.calls.length === before; waited += 25) await vi.advanceTimersByTimeAsync(25);
      waits.push(waited);
    }
    expect(waits).toEqual([375, 750, 1_500, 3_000, 6_000, 12_000, 22_500, 22_500, 22_500]);

    fake.last().push(line('ADDED', thing('a', 8)));
    fake.last().fail(new Error('down'));
    await vi.advanceTimersByTimeAsync(374);
    expect(fake.watches).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(fake.watches).toHaveLength(2);
    await stop(fake);
  });
});

describe('the watchdog of a watch', () => {
  it('opens it anew after 150 s of silence', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    await vi.advanceTimersByTimeAsync(149_999);
    expect(fake.watches).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1 + 375);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'watch from 7']);
    expect(fake.errors).toEqual(['watch of things: silent for 150 s, reconnecting']);
    await stop(fake);
  });

  it('is content with a bookmark a minute', async () => {
    const fake = startFake({ lists: [page(7)] });
    await settle();
    for (let minute = 8; minute < 18; minute += 1) {
      await vi.advanceTimersByTimeAsync(60_000);
      fake.last().push(line('BOOKMARK', { metadata: { resourceVersion: String(minute) } }));
      await settle();
      expect(fake.reflector.lastProgress()).toBe(Date.now());
    }
    expect(fake.watches).toHaveLength(1);
    await stop(fake);
  });
});

describe('a reflector that is aborted', () => {
  it.each([
    ['while it watches', async () => {}],
    ['while it backs off', async (fake: ReturnType<typeof startFake>) => fake.last().fail(new Error('down'))],
  ])('%s ends and calls nothing any more', async (_when, prepare) => {
    const fake = startFake({ lists: [page(7), page(8)] });
    await settle();
    await prepare(fake);
    await settle();
    const before = { calls: [...fake.calls], errors: [...fake.errors], store: [...fake.store] };
    fake.abort.abort();
    await fake.reflector.done;
    fake.last().push(line('ADDED', thing('late', 9)));
    await vi.advanceTimersByTimeAsync(600_000);
    expect({ calls: fake.calls, errors: fake.errors, store: fake.store }).toEqual(before);
  });

  it('before it began never lists', async () => {
    const abort = new AbortController();
    abort.abort();
    const reflector = startReflector<Thing>({
      client: fakeClient(),
      type: THINGS,
      scope: {},
      store: { replace() {}, upsert() {}, remove() {}, progress() {} },
      project: (raw: Thing) => raw,
      signal: abort.signal,
      onError: error => expect.unreachable(String(error)),
    });
    await reflector.done;
  });
});

describe('regressions', () => {
  it('gives nothing more to the store once it is aborted, also of a chunk that it has', async () => {
    const abort = new AbortController();
    const taken: string[] = [];
    async function* events(): AsyncGenerator<Buffer> {
      yield Buffer.from(line('ADDED', thing('a', 8)) + line('ADDED', thing('b', 9)));
    }
    const reflector = startReflector<Thing>({
      client: fakeClient({
        list: (async () => page(7)) as unknown as KubeClient['list'],
        watch: async () => events(),
      }),
      type: THINGS,
      scope: {},
      store: {
        replace() {},
        upsert(object) {
          taken.push(names(object));
          abort.abort();
        },
        remove() {},
        progress() {},
      },
      project: (raw: Thing) => raw,
      signal: abort.signal,
      onError: () => {},
    });
    await reflector.done;
    expect(taken).toEqual(['a@8']);
  });

  it('does not spin when each watch ends at once without a word', async () => {
    // A proxy that ends long answers does this: run() backs off after errors only.
    const abort = new AbortController();
    let opened = 0;
    async function* silent(): AsyncGenerator<Buffer> {}
    const reflector = startReflector<Thing>({
      client: fakeClient({
        list: (async () => page(7)) as unknown as KubeClient['list'],
        async watch() {
          opened += 1;
          // The end of a loop that would else never let go.
          if (opened === 1_000) abort.abort();
          return silent();
        },
      }),
      type: THINGS,
      scope: {},
      store: { replace() {}, upsert() {}, remove() {}, progress() {} },
      project: (raw: Thing) => raw,
      signal: abort.signal,
      onError: () => {},
    });
    await vi.advanceTimersByTimeAsync(10_000);
    abort.abort();
    await reflector.done;
    expect(opened).toBeLessThan(50);
  });
});
