import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { INITIAL_EVENTS_END, type KubeClient, type ListPage } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { type Reflector, startReflector } from '../../../src/kube/reflector.ts';
import { fakeClient } from '../support.ts';

vi.mock('node:timers/promises', () => import('../timers.ts'));

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
const bookmark = (version: number): string => line('BOOKMARK', { metadata: { resourceVersion: String(version) } });
/** The bookmark that ends what was there when the watch began. */
const filled = (version: number): string =>
  line('BOOKMARK', { metadata: { resourceVersion: String(version), annotations: { [INITIAL_EVENTS_END]: 'true' } } });
const page = (version: number, items: Thing[] = [], next?: string): ListPage<Thing> => ({
  metadata: { resourceVersion: String(version), ...(next !== undefined && { continue: next }) },
  items,
});
const answer = (status: number, retryAfter?: string): ApiError => new ApiError('GET /things', status, '{}', retryAfter);

/** A watch that was opened: the test says what comes of it. */
interface Watch {
  scope: Parameters<KubeClient['watch']>[1];
  push(...chunks: (string | Buffer)[]): void;
  end(): void;
  fail(error: unknown): void;
}

interface Setup {
  /** What lists answer, one after another. A server that is asked for none begins watches with all that there is. */
  lists?: (ListPage<Thing> | Error)[];
  /** What watches are refused with, one after another; undefined lets one through. */
  refuse?: (Error | undefined)[];
  now?: () => number;
}

function startFake({ lists, refuse = [], now }: Setup = {}) {
  const calls: string[] = [];
  const watches: Watch[] = [];
  const errors: string[] = [];
  const store: string[] = [];
  const observed: string[] = [];
  const standings: string[] = [];
  const abort = new AbortController();

  const client = fakeClient({
    list: (async (_type, scope) => {
      calls.push(`list${scope.continue ? ` after ${scope.continue}` : ''}`);
      const next = lists?.shift() ?? new Error('no more lists');
      if (next instanceof Error) throw next;
      return next;
    }) as KubeClient['list'],
    async watch(_type, scope, signal) {
      if (lists && scope.resourceVersion === undefined) throw answer(422);
      calls.push(scope.resourceVersion === undefined ? 'watch-list' : `watch from ${scope.resourceVersion}`);
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
    project(raw: Thing) {
      if (raw.note === 'poison') throw new TypeError('it has no spec');
      return raw;
    },
    signal: abort.signal,
    onError: error => void errors.push((error as Error).message),
    onStanding: () => void standings.push(reflector.standing()),
    observer: {
      filled: how => void observed.push(`filled by ${how}`),
      watched: () => void observed.push('watched'),
      failed: () => void observed.push('failed'),
    },
    // The middle: waits are a quarter longer than their least, watches last 450 s, all is read anew after 15 h.
    random: () => 0.5,
    ...(now && { now }),
  });
  let synced = false;
  void reflector.synced.then(() => {
    synced = true;
  });
  const last = (): Watch => {
    const watch = watches.at(-1);
    if (!watch) throw new Error('no watch was opened');
    return watch;
  };
  return { reflector, calls, watches, last, errors, store, observed, standings, abort, synced: () => synced };
}

type Fake = ReturnType<typeof startFake>;

const names = ({ metadata }: Thing): string => `${metadata.name}@${metadata.resourceVersion}`;
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
const settle = (): Promise<unknown> => pass(0);
/** The first wait of the back-off: 500 ms and half of the jitter. */
const FIRST_WAIT = 625;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** Ends a fake, so that nothing of it outlives the test. */
async function stop({ abort, reflector }: Pick<Fake, 'abort' | 'reflector'>): Promise<void> {
  abort.abort();
  await reflector.done;
}

/** A fake that has been told all, which is nothing as of version 7, by a watch that goes on. */
async function startWatching(setup: Setup = {}): Promise<Fake> {
  const fake = startFake(setup);
  await settle();
  if (!setup.lists) fake.last().push(filled(7));
  await settle();
  expect(fake.store).toEqual(['replace  @7']);
  fake.calls.length = 0;
  fake.store.length = 0;
  fake.observed.length = 0;
  return fake;
}

describe('a reflector', () => {
  it('begins with a watch that tells all that there is, up to a bookmark', async () => {
    const fake = startFake();
    expect(fake.reflector.lastProgress()).toBe(0);
    await pass(10);
    expect(fake.last().scope).toEqual({ namespace: 'n', labelSelector: 'a=b', timeoutSeconds: 450 });
    fake.last().push(line('ADDED', thing('a', 5)), line('ADDED', thing('b', 3)));
    await settle();
    expect([fake.store, fake.synced()]).toEqual([[], false]);
    fake.last().push(filled(7));
    await settle();
    expect([fake.store, fake.synced()]).toEqual([['replace a@5 b@3 @7'], true]);
    expect(fake.reflector.lastProgress()).toBe(10);
    fake.last().push(line('MODIFIED', thing('a', 8)));
    await settle();
    expect([fake.store.slice(1), fake.calls, fake.errors]).toEqual([['upsert a@8'], ['watch-list'], []]);
    expect(fake.observed).toEqual(['watched', 'filled by watch-list']);
    await stop(fake);
  });

  it('publishes all at once, as it is when all was told: also what changed and went meanwhile', async () => {
    const fake = startFake();
    await settle();
    fake
      .last()
      .push(
        line('ADDED', thing('a', 1)) + line('ADDED', thing('b', 2)) + line('ADDED', thing('c', 3)),
        line('MODIFIED', thing('a', 8)) + line('DELETED', thing('b', 9)) + line('DELETED', thing('c', 10)),
        line('ADDED', thing('c', 11)),
        filled(11),
      );
    await settle();
    expect(fake.store).toEqual(['replace a@8 c@11 @11']);
    await stop(fake);
  });

  it.each([
    ['without annotations', bookmark(6)],
    ['with other annotations', line('BOOKMARK', { metadata: { resourceVersion: '6', annotations: { a: 'b' } } })],
    [
      'that says that it is not the end',
      line('BOOKMARK', { metadata: { resourceVersion: '6', annotations: { [INITIAL_EVENTS_END]: 'false' } } }),
    ],
  ])('takes no bookmark %s for the end of what there is', async (_which, plain) => {
    const fake = startFake();
    await settle();
    fake.last().push(line('ADDED', thing('a', 1)), plain, line('ADDED', thing('b', 2)));
    await settle();
    expect([fake.store, fake.synced()]).toEqual([[], false]);
    fake.last().push(filled(7));
    await settle();
    expect(fake.store).toEqual(['replace a@1 b@2 @7']);
    await stop(fake);
  });

  it.each([400, 422])('lists at once, and tells of no error, when the server answers %i to that', async status => {
    const fake = startFake({ refuse: [answer(status), new Error('down')] });
    await settle();
    expect(fake.calls).toEqual(['watch-list', 'list']);
    // That of the list, which this server cannot either.
    expect([fake.errors, fake.observed]).toEqual([['no more lists'], ['failed']]);
    await stop(fake);
  });

  it('lists, then watches from there, when the server cannot begin a watch with all that there is', async () => {
    const fake = startFake({ lists: [page(7, [thing('a', 3)])] });
    await settle();
    expect(fake.calls).toEqual(['list', 'watch from 7']);
    expect([fake.store, fake.synced(), fake.errors]).toEqual([['replace a@3 @7'], true, []]);
    expect(fake.observed).toEqual(['filled by list', 'watched']);
    expect(fake.last().scope).toEqual({
      namespace: 'n',
      labelSelector: 'a=b',
      resourceVersion: '7',
      timeoutSeconds: 450,
    });
    await stop(fake);
  });

  it('remembers that the server cannot', async () => {
    const fake = startFake({ lists: [page(7), page(20)], refuse: [answer(410)] });
    await pass(FIRST_WAIT);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'list', 'watch from 20']);
    await stop(fake);
  });

  it('lists when nothing is told for 30 s, as behind a proxy that hands on an answer when it has ended', async () => {
    const fake = startFake();
    await pass(29_999);
    expect(fake.calls).toEqual(['watch-list']);
    await pass(1 + FIRST_WAIT);
    expect(fake.calls).toEqual(['watch-list', 'list']);
    expect(fake.errors[0]).toBe('watch of things: silent for 30 s, reconnecting');
    await stop(fake);
  });

  it('begins with watches again an hour after such a silence', async () => {
    const fake = startFake();
    await pass(30_000 + FIRST_WAIT);
    expect(fake.calls).toEqual(['watch-list', 'list']);
    await pass(3_660_000);
    expect(fake.calls.filter(call => call !== 'list')).toEqual(['watch-list', 'watch-list']);
    await stop(fake);
  });

  it('waits for the rest of what there is as long as something comes, and 150 s for more once it has all', async () => {
    const fake = startFake();
    await settle();
    for (let version = 1; version < 5; version += 1) {
      await pass(29_999);
      fake.last().push(line('ADDED', thing('a', version)));
    }
    await pass(29_999);
    fake.last().push(filled(7));
    await pass(149_999);
    expect([fake.calls, fake.errors]).toEqual([['watch-list'], []]);
    await pass(1);
    expect(fake.errors).toEqual(['watch of things: silent for 150 s, reconnecting']);
    await stop(fake);
  });

  it('tries again when a watch ends before all was told, and publishes nothing of it', async () => {
    const fake = startFake();
    await settle();
    fake.last().push(line('ADDED', thing('a', 1)), bookmark(6));
    fake.last().end();
    await pass(FIRST_WAIT);
    expect([fake.calls, fake.store]).toEqual([['watch-list', 'watch-list'], []]);
    expect(fake.errors).toEqual(['watch of things: it ended before all was told']);
    fake.last().push(line('ADDED', thing('b', 2)), filled(7));
    await settle();
    expect(fake.store).toEqual(['replace b@2 @7']);
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
    await settle();
    expect([fake.synced(), fake.errors, fake.observed]).toEqual([false, ['down'], ['failed']]);
    await pass(FIRST_WAIT);
    expect([fake.synced(), fake.calls]).toEqual([true, ['list', 'list', 'watch from 7']]);
    await stop(fake);
  });

  it('gives events to the store in their order', async () => {
    const fake = await startWatching();
    fake
      .last()
      .push(
        line('ADDED', thing('a', 8)) + line('MODIFIED', thing('a', 9)),
        line('DELETED', thing('a', 10)),
        bookmark(11),
      );
    await settle();
    expect(fake.store).toEqual(['upsert a@8', 'upsert a@9', 'remove a@10', 'progress 11']);
    await stop(fake);
  });

  it.each([
    ['an event', line('MODIFIED', thing('a', 9)), '9'],
    ['a deletion', line('DELETED', thing('a', 10)), '10'],
    ['a bookmark', bookmark(11), '11'],
  ])('goes on after %s where it was when the watch ends, without reading all anew', async (_what, event, version) => {
    const fake = await startWatching();
    await pass(100_000);
    fake.last().push(event);
    fake.last().end();
    await settle();
    expect([fake.calls, fake.errors]).toEqual([[`watch from ${version}`], []]);
    await stop(fake);
  });

  it('goes on at once when a watch ends after its time, also when it told nothing new', async () => {
    const fake = await startWatching();
    for (let watch = 0; watch < 10; watch += 1) {
      for (let minute = 0; minute < 7; minute += 1) {
        await pass(60_000);
        // A resource in which nothing happens: bookmarks repeat the version.
        fake.last().push(bookmark(7));
      }
      fake.last().end();
      await settle();
      expect(fake.calls).toHaveLength(watch + 1);
    }
    expect(new Set(fake.calls)).toEqual(new Set(['watch from 7']));
    expect(fake.errors).toEqual([]);
    await stop(fake);
  });

  it('goes on where it was when the connection breaks, and tells of it', async () => {
    const fake = await startWatching();
    fake.last().push(line('ADDED', thing('a', 8)));
    fake.last().fail(new Error('reset'));
    await pass(FIRST_WAIT);
    expect([fake.calls, fake.errors]).toEqual([['watch from 8'], ['reset']]);
    await stop(fake);
  });

  it.each([
    ['a watch is refused with 410', [answer(410)], undefined],
    ['an ERROR event says 410', [], line('ERROR', { code: 410, reason: 'Expired', message: 'too old' })],
  ])('reads all anew when %s', async (_what, refuse, event) => {
    const fake = await startWatching({ refuse: [undefined, ...refuse] });
    if (event) fake.last().push(event);
    else fake.last().fail(new Error('reset'));
    await pass(FIRST_WAIT + (event ? 0 : 2 * FIRST_WAIT));
    expect(fake.calls).toEqual(event ? ['watch-list'] : ['watch from 7', 'watch-list']);
    fake.last().push(line('ADDED', thing('b', 19)), filled(20));
    await settle();
    expect(fake.store).toEqual(['replace b@19 @20']);
    // It is how the API is meant to work: nobody needs to hear of it.
    expect(fake.errors).toEqual(event ? [] : ['reset']);
    await stop(fake);
  });

  it.each([
    ['a watch is refused with 410', [answer(410)], undefined],
    ['an ERROR event says 410', [], line('ERROR', { code: 410, reason: 'Expired', message: 'too old' })],
  ])('lists anew when %s and the server can only list', async (_what, refuse, event) => {
    const fake = startFake({ lists: [page(7), page(20, [thing('b', 19)])], refuse });
    await settle();
    if (event) fake.last().push(event);
    await pass(FIRST_WAIT);
    expect(fake.calls).toEqual(['list', 'watch from 7', 'list', 'watch from 20']);
    expect(fake.store).toEqual(['replace  @7', 'replace b@19 @20']);
    expect(fake.errors).toEqual([]);
    await stop(fake);
  });

  it('begins a list anew when the next page has expired', async () => {
    const fake = startFake({ lists: [page(7, [thing('a', 1)], 'token'), answer(410), page(9, [thing('a', 8)])] });
    await pass(FIRST_WAIT);
    expect(fake.calls).toEqual(['list', 'list after token', 'list', 'watch from 9']);
    expect(fake.store).toEqual(['replace a@8 @9']);
    await stop(fake);
  });

  it('tells of another ERROR event and goes on where it was', async () => {
    const fake = await startWatching();
    fake
      .last()
      .push(line('ADDED', thing('a', 8)) + line('ERROR', { code: 500, reason: 'InternalError', message: 'boom' }));
    await pass(FIRST_WAIT);
    expect([fake.calls, fake.errors]).toEqual([['watch from 8'], ['watch of things: 500 boom']]);
    await stop(fake);
  });

  it('reads all anew after three watches in a row that told an error: it may lie in what they go on from', async () => {
    const fake = await startWatching();
    for (const wait of [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]) {
      fake.last().push(line('ERROR', { code: 500, message: 'boom' }));
      await pass(wait);
    }
    expect(fake.calls).toEqual(['watch from 7', 'watch from 7', 'watch-list']);
    expect(fake.errors).toEqual(Array(3).fill('watch of things: 500 boom'));
    fake.last().push(filled(7));
    await settle();
    // It has three tries again from what it has now.
    for (const wait of [8, 16].map(times => times * FIRST_WAIT)) {
      fake.last().push(line('ERROR', { code: 500, message: 'boom' }));
      await pass(wait);
    }
    expect(fake.calls.slice(3)).toEqual(['watch from 7', 'watch from 7']);
    await stop(fake);
  });

  it('does not add up errors with a watch between them that ended in order', async () => {
    const fake = await startWatching();
    for (let round = 0; round < 6; round += 1) {
      fake.last().push(line('ERROR', { code: 500, message: 'boom' }));
      await pass(60_000);
      fake.last().push(bookmark(8 + round));
      await pass(60_000);
      fake.last().end();
      await pass(FIRST_WAIT);
    }
    expect(fake.calls).not.toContain('watch-list');
    await stop(fake);
  });
});

describe('what makes no sense', () => {
  it.each<[string, string, string]>([
    ['a malformed line', '{"type":"ADD\n', 'what it told is no event'],
    ['a line that is no object', 'null\n', 'what it told is no event'],
    ['text', 'upstream timed out\n', 'what it told is no event'],
    ['an event of an unknown type', line('MOVED', thing('b', 9)), 'what it told is no event'],
    ['an event without an object', '{"type":"ADDED"}\n', 'what it told is no event'],
  ])('as %s is told of; what came before it is kept, and all is read anew', async (_what, text, message) => {
    const fake = await startWatching();
    fake.last().push(`${line('ADDED', thing('a', 8))}${text}${line('ADDED', thing('c', 10))}`);
    await pass(FIRST_WAIT);
    expect([fake.store, fake.calls]).toEqual([['upsert a@8'], ['watch-list']]);
    expect(fake.errors).toEqual([`watch of things: ${message}`]);
    await stop(fake);
  });

  it('as an object that is not what its type says is told of and counts as gone; it does not stop what comes after', async () => {
    const fake = await startWatching();
    const poison = thing('b', 9, 'poison');
    fake.last().push(line('ADDED', poison), line('DELETED', poison), line('ADDED', thing('c', 10)));
    await settle();
    expect([fake.store, fake.calls]).toEqual([['remove b@9', 'remove b@9', 'upsert c@10'], []]);
    expect(new Set(fake.errors)).toEqual(new Set(['things: n/b makes no sense and is passed over']));
    await stop(fake);
  });

  it.each([true, false])('as such an object is left out of what there is, too (of a list: %s)', async listed => {
    const objects = [thing('a', 5), thing('b', 6, 'poison')];
    const fake = startFake(listed ? { lists: [page(7, objects)] } : {});
    await settle();
    if (!listed) fake.last().push(...objects.map(object => line('ADDED', object)), filled(7));
    await settle();
    expect([fake.store, fake.errors.length]).toEqual([['replace a@5 @7'], 1]);
    await stop(fake);
  });

  const broken = (metadata: object): object => ({ metadata: { ...thing('b', 9).metadata, ...metadata } });
  it.each<[string, object | null]>([
    ['without a UID', broken({ uid: undefined })],
    ['with an empty UID', broken({ uid: '' })],
    ['without a name', broken({ name: undefined })],
    ['without a version', broken({ resourceVersion: undefined })],
    ['with an empty version', broken({ resourceVersion: '' })],
    ['of version 0', broken({ resourceVersion: '0' })],
    ['with a version that is no number', broken({ resourceVersion: 'abc' })],
    ['without metadata', {}],
    ['that is none', null],
  ])('as an object %s never reaches the store, by whatever way it comes', async (_what, object) => {
    const message = 'things: an object without a name, UID or version was told';
    for (const type of ['ADDED', 'MODIFIED', 'DELETED']) {
      const watching = await startWatching();
      watching.last().push(line(type, object as object));
      await pass(FIRST_WAIT);
      expect([watching.store, watching.calls, watching.errors]).toEqual([[], ['watch-list'], [message]]);
      await stop(watching);

      const filling = startFake();
      await settle();
      filling.last().push(line(type, object as object), filled(10));
      await pass(FIRST_WAIT);
      expect([filling.store, filling.synced(), filling.errors]).toEqual([[], false, [message]]);
      await stop(filling);
    }
    const listing = startFake({ lists: [page(7, [object as Thing]), page(8)] });
    await pass(FIRST_WAIT);
    expect([listing.store, listing.errors]).toEqual([['replace  @8'], [message]]);
    await stop(listing);
  });

  it.each<[string, object | null]>([
    ['without a version', { metadata: {} }],
    ['with a version that is no number', { metadata: { resourceVersion: 'abc' } }],
    ['without metadata', {}],
    ['of nothing', null],
  ])('as a bookmark %s has all read anew', async (_what, object) => {
    const fake = await startWatching();
    fake.last().push(line('BOOKMARK', object as object));
    await pass(FIRST_WAIT);
    expect([fake.store, fake.calls, fake.errors.length]).toEqual([[], ['watch-list'], 1]);
    await stop(fake);
  });

  it.each<[string, unknown]>([
    ['has no items', { metadata: { resourceVersion: '7' } }],
    ['has no version', { metadata: {}, items: [] }],
    ['has no metadata', { items: [] }],
    ['is another object', { kind: 'Status', status: 'Success' }],
  ])('as a list that %s is told of and tried again', async (_what, list) => {
    const fake = startFake({ lists: [list as ListPage<Thing>, page(8)] });
    await pass(FIRST_WAIT);
    expect(fake.errors).toEqual(['list of things: the answer is no list']);
    expect([fake.store, fake.calls]).toEqual([['replace  @8'], ['list', 'list', 'watch from 8']]);
    await stop(fake);
  });
});

describe('a server that was set back, its etcd restored from a backup', () => {
  it.each([
    ['an addition', line('ADDED', thing('b', 5)), 5],
    ['a change', line('MODIFIED', thing('b', 5)), 5],
    ['a deletion', line('DELETED', thing('b', 5)), 5],
    ['a bookmark', bookmark(5), 5],
  ])('is noticed by %s of an older version: all is read anew, and nothing of it is taken', async (_what, event) => {
    const fake = await startWatching();
    fake.last().push(line('ADDED', thing('a', 9)), event, line('ADDED', thing('c', 6)));
    await pass(FIRST_WAIT);
    expect([fake.store, fake.calls]).toEqual([['upsert a@9'], ['watch-list']]);
    expect(fake.errors).toEqual(['watch of things: version 5 came after 9']);
    fake.last().push(line('ADDED', thing('b', 4)), filled(6));
    await settle();
    fake.last().push(line('ADDED', thing('d', 8)));
    await settle();
    expect(fake.store.slice(1)).toEqual(['replace b@4 @6', 'upsert d@8']);
    await stop(fake);
  });

  it('is not suspected when a version is told twice', async () => {
    const fake = await startWatching();
    fake.last().push(line('ADDED', thing('a', 9)), bookmark(9), line('MODIFIED', thing('b', 9)), bookmark(10));
    await settle();
    expect(fake.store).toEqual(['upsert a@9', 'progress 9', 'upsert b@9', 'progress 10']);
    await stop(fake);
  });

  it('is noticed although its watches tell nothing until it has caught up: silence has all read anew', async () => {
    const fake = await startWatching();
    await pass(150_000 + FIRST_WAIT);
    expect(fake.calls).toEqual(['watch-list']);
    fake.last().push(line('ADDED', thing('a', 4)), filled(5));
    await settle();
    expect(fake.store).toEqual(['replace a@4 @5']);
    await stop(fake);
  });

  it('is suspected after an outage of 150 s', async () => {
    const fake = await startWatching({ refuse: [undefined, ...Array.from({ length: 9 }, () => new Error('down'))] });
    fake.last().fail(new Error('down'));
    await pass(100_000);
    expect(new Set(fake.calls)).toEqual(new Set(['watch from 7']));
    await pass(100_000);
    expect(fake.calls.at(-1)).toBe('watch-list');
    await stop(fake);
  });

  it('is noticed also while watches are short because of a proxy that holds answers back', async () => {
    const fake = await startWatching();
    await pass(150_000 + FIRST_WAIT);
    fake.last().push(filled(7));
    await settle();
    fake.calls.length = 0;
    for (let watch = 0; watch < 7; watch += 1) {
      await pass(30_000);
      fake.last().end();
      await settle();
    }
    expect(fake.calls.filter(call => call === 'watch-list')).toHaveLength(1);
    expect(fake.calls.indexOf('watch-list')).toBeGreaterThanOrEqual(5);
    await stop(fake);
  });
});

describe('the lines of a watch', () => {
  const text = line('ADDED', thing('a', 8, 'grüße 🦊 ￿')) + line('ADDED', thing('b', 9, '語'));

  it('may be cut anywhere, also within a character', async () => {
    const bytes = Buffer.from(text);
    const fake = await startWatching();
    fake.last().push(...Array.from(bytes, (_byte, at) => bytes.subarray(at, at + 1)));
    await settle();
    expect(fake.store).toEqual(['upsert a@8 grüße 🦊 ￿', 'upsert b@9 語']);
    await stop(fake);
  });

  it('may come together, with blank ones between', async () => {
    const fake = await startWatching();
    fake.last().push(`\n \r\n${text}\n${line('DELETED', thing('a', 10))}`);
    await settle();
    expect(fake.store).toEqual(['upsert a@8 grüße 🦊 ￿', 'upsert b@9 語', 'remove a@10']);
    await stop(fake);
  });

  it('are left out when the stream ends within one', async () => {
    const fake = await startWatching();
    fake.last().push(text.slice(0, -5));
    fake.last().end();
    await pass(FIRST_WAIT);
    expect(fake.store).toEqual(['upsert a@8 grüße 🦊 ￿']);
    expect(fake.calls).toEqual(['watch from 8']);
    await stop(fake);
  });

  it('are at most 8 MiB long', async () => {
    const fake = await startWatching();
    const mebibyte = Buffer.alloc(1024 * 1024, 'x');
    fake.last().push(...Array.from({ length: 9 }, () => mebibyte));
    await pass(FIRST_WAIT);
    expect(fake.errors).toEqual(['watch: an event is larger than 8388608 bytes']);
    await stop(fake);
  });
});

describe('the back-off of a reflector', () => {
  /** How long it waits before each call, until a watch is opened. */
  async function waitsOf(fake: Fake): Promise<number[]> {
    const waits: number[] = [];
    const before = fake.watches.length;
    while (fake.watches.length === before) {
      const calls = fake.calls.length;
      let waited = 0;
      for (; fake.calls.length === calls; waited += 125) await pass(125);
      waits.push(waited);
    }
    return waits;
  }

  it('doubles from 0.5 s up to 30 s, jittered upwards, and ends with the first event', async () => {
    const fake = await startWatching({ refuse: [undefined, ...Array.from({ length: 7 }, () => new Error('down'))] });
    fake.last().fail(new Error('down'));
    await settle();
    expect(await waitsOf(fake)).toEqual([625, 1_250, 2_500, 5_000, 10_000, 20_000, 37_500, 37_500]);

    fake.last().push(line('ADDED', thing('a', 8)));
    fake.last().fail(new Error('down'));
    await pass(FIRST_WAIT - 1);
    expect(fake.watches).toHaveLength(2);
    await pass(1);
    expect(fake.watches).toHaveLength(3);
    await stop(fake);
  });

  it.each<[string, Setup]>([
    ['a watch', { refuse: [answer(429, '60')] }],
    ['a list', { lists: [answer(429, '60'), page(7)] }],
  ])('is as long as the server asks for %s', async (_what, setup) => {
    const fake = startFake(setup);
    await pass(74_999);
    expect(fake.calls).toHaveLength(1);
    await pass(1);
    expect(fake.calls.length).toBeGreaterThan(1);
    expect(fake.errors).toEqual(['GET /things: 429 without a message']);
    await stop(fake);
  });

  it('does not get shorter by a server that asks for less', async () => {
    const fake = startFake({ refuse: Array.from({ length: 6 }, () => answer(503, '1')) });
    await settle();
    expect(await waitsOf(fake)).toEqual([1_250, 1_250, 2_500, 5_000, 10_000, 20_000]);
    await stop(fake);
  });
});

describe('what goes on for ever', () => {
  const MINUTES_10 = 600_000;
  type Told = (string | Error | undefined)[];

  /**
   * What is asked within 10 minutes of a server that always does the same. A watch tells what `watch` gives for it, and
   * then ends, breaks with an error, or goes on without a word.
   */
  async function asked(server: {
    /** What a watch that begins with all that there is does: undefined at the end keeps it open. */
    watchList?: () => Told | Error;
    list?: () => ListPage<Thing> | Error;
    watch?: (from: number) => Told | Error;
  }): Promise<{ requests: number; fills: number }> {
    const abort = new AbortController();
    let requests = 0;
    let fills = 0;
    const open = async (told: Told | Error, signal: AbortSignal): Promise<AsyncIterable<Buffer>> => {
      if (told instanceof Error) throw told;
      async function* stream(): AsyncGenerator<Buffer> {
        for (const one of told as Told) {
          if (one instanceof Error) throw one;
          if (one !== undefined) yield Buffer.from(one);
          else {
            await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }));
            throw signal.reason;
          }
        }
      }
      return stream();
    };
    const reflector = startReflector<Thing>({
      client: fakeClient({
        list: (async () => {
          requests += 1;
          const answered = server.list?.() ?? answer(500);
          if (answered instanceof Error) throw answered;
          return answered;
        }) as unknown as KubeClient['list'],
        watch(_type, { resourceVersion }, signal) {
          requests += 1;
          // The end of a loop that would else never let go.
          if (requests > 5_000) abort.abort();
          return open(
            resourceVersion === undefined
              ? (server.watchList?.() ?? answer(422))
              : (server.watch?.(Number(resourceVersion)) ?? answer(500)),
            signal,
          );
        },
      }),
      type: THINGS,
      scope: {},
      store: {
        replace() {
          fills += 1;
        },
        upsert() {},
        remove() {},
        progress() {},
      },
      project: (raw: Thing) => raw,
      signal: abort.signal,
      onError: () => {},
      random: () => 0,
    });
    await pass(MINUTES_10);
    abort.abort();
    await reflector.done;
    return { requests, fills };
  }

  const down = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
  const error500 = line('ERROR', { code: 500, message: 'boom' });
  const error410 = line('ERROR', { code: 410, message: 'too old' });
  const statuses = [400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504];
  /** What a watch may go on with after it was filled, or from a version, without telling anything new. */
  const ends: [string, Told][] = [
    ['ends at once', []],
    ['breaks', [down]],
    ['tells an error', [error500]],
    ['tells that its version expired', [error410]],
    ['tells what is no event', ['nonsense\n']],
    ['tells an older version', [line('ADDED', thing('b', 3))]],
    ['tells an object without a UID', [line('ADDED', { metadata: { name: 'b', resourceVersion: '99' } })]],
    ['tells too much', [Buffer.alloc(9 * 1024 * 1024, 'x').toString()]],
    ['repeats its version and ends', [bookmark(7)]],
  ];

  it.each([
    ...statuses.map(status => [`is answered ${status}`, () => answer(status)] as const),
    ['is not answered', () => down] as const,
  ])('is no storm: each request %s', async (_what, refuse) => {
    expect((await asked({ watchList: refuse, list: refuse, watch: refuse })).requests).toBeLessThanOrEqual(60);
  });

  it.each([
    ...statuses.map(status => [`is answered ${status}`, () => answer(status)] as const),
    ['is not answered', () => down] as const,
  ])('is no storm, nor reads all over and over: a list is taken, but each watch %s', async (_what, refuse) => {
    const { requests, fills } = await asked({ list: () => page(7, [thing('a', 1)]), watch: refuse });
    expect(requests).toBeLessThanOrEqual(60);
    expect(fills).toBeLessThanOrEqual(30);
  });

  it.each(ends)('is no storm, nor reads all over and over: a watch is filled, and %s', async (_what, told) => {
    const { requests, fills } = await asked({
      watchList: () => [line('ADDED', thing('a', 1)), filled(7), ...told],
      watch: () => told,
    });
    expect(requests).toBeLessThanOrEqual(60);
    expect(fills).toBeLessThanOrEqual(30);
  });

  it.each(ends)('is no storm, nor reads all over and over: a list is taken, and a watch %s', async (_what, told) => {
    const { requests, fills } = await asked({ list: () => page(7), watch: () => told });
    expect(requests).toBeLessThanOrEqual(60);
    expect(fills).toBeLessThanOrEqual(30);
  });

  it.each<[string, Told]>([
    ...ends,
    ['tells some of it and ends', [line('ADDED', thing('a', 1)), bookmark(6)]],
    ['tells some of it and breaks', [line('ADDED', thing('a', 1)), down]],
  ])('is no storm: a watch that is to tell all %s', async (_what, told) => {
    expect((await asked({ watchList: () => told })).requests).toBeLessThanOrEqual(60);
  });

  it.each<[string, Told]>([
    ['is silent', [undefined]],
    ['is silent once it is filled', [filled(7), undefined]],
  ])('is no storm: a watch %s', async (_what, told) => {
    const { requests } = await asked({ watchList: () => told, list: () => page(7), watch: () => [undefined] });
    expect(requests).toBeLessThanOrEqual(20);
  });

  it.each<[string, (version: number) => Told]>([
    ['ends', version => [line('ADDED', thing('a', version))]],
    ['breaks', version => [line('ADDED', thing('a', version)), down]],
    ['tells an error', version => [line('ADDED', thing('a', version)), error500]],
  ])('is no flood: each watch tells one thing more and %s; two requests a second at most', async (_what, told) => {
    const { requests, fills } = await asked({ list: () => page(7), watch: from => told(from + 1) });
    expect(requests).toBeLessThanOrEqual(1_205);
    expect(fills).toBe(1);
  });
});

describe('the watchdog of a watch', () => {
  it('opens it anew after 150 s of silence', async () => {
    const fake = await startWatching();
    await pass(149_999);
    expect(fake.watches).toHaveLength(1);
    await pass(1 + FIRST_WAIT);
    expect(fake.watches).toHaveLength(2);
    expect(fake.errors).toEqual(['watch of things: silent for 150 s, reconnecting']);
    await stop(fake);
  });

  it('is content with a bookmark a minute', async () => {
    const fake = await startWatching();
    for (let minute = 8; minute < 18; minute += 1) {
      await pass(60_000);
      fake.last().push(bookmark(minute));
      await settle();
      expect(fake.reflector.lastProgress()).toBe(performance.now());
    }
    expect(fake.watches).toHaveLength(1);
    await stop(fake);
  });
});

describe('behind a proxy that hands on an answer only when it has ended', () => {
  /** A fake whose last watch was silent for 150 s; it can list. */
  async function startBuffered(): Promise<Fake> {
    const fake = startFake({ lists: Array.from({ length: 99 }, () => page(7)) });
    await pass(150_000 + FIRST_WAIT);
    fake.calls.length = 0;
    fake.store.length = 0;
    fake.errors.length = 0;
    return fake;
  }

  it('watches end by themselves after 30 s once one was silent, and what they tell then is taken', async () => {
    const fake = await startBuffered();
    expect(fake.watches.map(({ scope }) => scope.timeoutSeconds)).toEqual([450, 30]);
    await pass(30_000);
    fake.last().push(line('ADDED', thing('a', 8)), bookmark(9));
    fake.last().end();
    await settle();
    expect(fake.store).toEqual(['upsert a@8', 'progress 9']);
    expect([fake.calls, fake.last().scope.timeoutSeconds]).toEqual([['watch from 9'], 30]);
    await stop(fake);
  });

  it('one follows the other without a gap, also while nothing happens', async () => {
    const fake = await startBuffered();
    for (let watch = 0; watch < 20; watch += 1) {
      await pass(30_000);
      fake.last().push(bookmark(8));
      fake.last().end();
      await settle();
      expect(fake.calls).toHaveLength(watch + 1);
    }
    expect(fake.errors).toEqual([]);
    await stop(fake);
  });

  it('the watch is tried at its full length again after an hour', async () => {
    const fake = await startBuffered();
    const lengths: (number | undefined)[] = [];
    for (let watch = 0; watch < 122; watch += 1) {
      await pass(30_000);
      fake.last().push(bookmark(8 + watch));
      fake.last().end();
      await settle();
      lengths.push(fake.last().scope.timeoutSeconds);
    }
    expect(lengths.slice(0, 118)).toEqual(Array(118).fill(30));
    expect(lengths.at(-1)).toBe(450);
    await stop(fake);
  });

  it('no watch is short because of one that told something before it fell silent', async () => {
    const fake = startFake({ lists: Array.from({ length: 9 }, () => page(7)) });
    await settle();
    fake.last().push(bookmark(8));
    await pass(150_000 + FIRST_WAIT);
    expect(fake.watches.map(({ scope }) => scope.timeoutSeconds)).toEqual([450, 450]);
    await stop(fake);
  });

  it('watches are short also when it holds back that they were opened', async () => {
    const lengths: number[] = [];
    const abort = new AbortController();
    const reflector = startReflector<Thing>({
      client: fakeClient({
        list: (async () => page(7)) as unknown as KubeClient['list'],
        watch(_type, { resourceVersion, timeoutSeconds }, signal) {
          if (resourceVersion === undefined) return Promise.reject(answer(422));
          lengths.push(timeoutSeconds);
          return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
        },
      }),
      type: THINGS,
      scope: {},
      store: { replace() {}, upsert() {}, remove() {}, progress() {} },
      project: (raw: Thing) => raw,
      signal: abort.signal,
      onError: () => {},
      random: () => 0.5,
    });
    await pass(150_000 + FIRST_WAIT);
    expect(lengths).toEqual([450, 30]);
    await stop({ abort, reflector });
  });
});

describe('from time to time', () => {
  const HOUR = 3_600_000;

  it('all is read anew, after 10–20 h, when a watch ends', async () => {
    let skew = 0;
    const fake = await startWatching({ now: () => performance.now() + skew });
    for (const [hours, call] of [
      [14.9, 'watch from 8'],
      [0.2, 'watch-list'],
    ] as const) {
      skew += hours * HOUR;
      fake.last().push(bookmark(8));
      fake.last().end();
      await settle();
      expect(fake.calls.splice(0)).toEqual([call]);
    }
    fake.last().push(line('ADDED', thing('a', 5)), filled(9));
    await settle();
    expect(fake.store.at(-1)).toBe('replace a@5 @9');
    // And then not again for as long.
    skew += 14.9 * HOUR;
    fake.last().push(bookmark(9));
    fake.last().end();
    await settle();
    expect(fake.calls).toEqual(['watch from 9']);
    await stop(fake);
  });

  it('progress is told: for a health check that kills a process that hears nothing for 10 minutes', async () => {
    // A resource in which nothing happens, whose server has nothing to say about it.
    const fake = await startWatching();
    let known = fake.last();
    for (let second = 0; second < 3_600; second += 10) {
      await pass(10_000);
      const watch = fake.last();
      if (watch !== known && watch.scope.resourceVersion === undefined) watch.push(filled(7));
      else if (watch.scope.timeoutSeconds === 30) watch.end();
      known = watch;
      expect(performance.now() - fake.reflector.lastProgress()).toBeLessThan(600_000);
    }
    expect(fake.calls.filter(call => call === 'watch-list').length).toBeGreaterThan(5);
    await stop(fake);
  });
});

describe('the standing of a reflector', () => {
  it('is that it fills, until it is filled', async () => {
    const fake = startFake();
    await settle();
    fake.last().push(line('ADDED', thing('a', 1)));
    await settle();
    expect(fake.reflector.standing()).toBe('filling');
    fake.last().push(filled(7));
    await settle();
    expect([fake.reflector.standing(), fake.standings, fake.reflector.namespace]).toEqual(['filled', ['filled'], 'n']);
    await stop(fake);
  });

  it('is that it is refused, until it is let in: it tries for as long as it takes, and then fills', async () => {
    const fake = startFake({ refuse: Array.from({ length: 40 }, () => answer(403)) });
    await settle();
    expect([fake.reflector.standing(), fake.errors.length]).toEqual(['refused', 1]);
    while (fake.watches.length === 0) await pass(1_000);
    expect([fake.calls.length, fake.standings]).toEqual([41, ['refused', 'filling']]);
    expect(performance.now()).toBeGreaterThan(1_000_000);
    // Long ago it was last told something; that was no fault of the watch that is open now.
    expect(performance.now() - fake.reflector.lastProgress()).toBeLessThan(600_000);
    fake.last().push(filled(7));
    await settle();
    expect([fake.standings, fake.synced()]).toEqual([['refused', 'filling', 'filled'], true]);
    await stop(fake);
  });

  it('is that it is refused when it was filled before, and filled again when it may go on', async () => {
    const fake = await startWatching({ refuse: [undefined, answer(403), answer(500)] });
    fake.last().fail(new Error('down'));
    await pass(FIRST_WAIT);
    expect(fake.standings).toEqual(['filled', 'refused']);
    // That it is broken is no answer to whether it may be looked at.
    await pass(2 * FIRST_WAIT);
    expect([fake.errors.length, fake.standings]).toEqual([3, ['filled', 'refused']]);
    await pass(4 * FIRST_WAIT);
    expect([fake.calls.at(-1), fake.standings]).toEqual(['watch from 7', ['filled', 'refused', 'filled']]);
    await stop(fake);
  });

  it('is that it fills when it was refused for so long that all is read anew: what it knows may be gone', async () => {
    const fake = await startWatching({ refuse: [undefined, ...Array.from({ length: 12 }, () => answer(403))] });
    fake.last().fail(new Error('down'));
    while (fake.watches.length === 1) await pass(1_000);
    expect([fake.calls.at(-1), fake.standings]).toEqual(['watch-list', ['filled', 'refused', 'filling']]);
    fake.last().push(filled(9));
    await settle();
    expect(fake.standings.slice(3)).toEqual(['filled']);
    await stop(fake);
  });

  it('is that it is refused when a list is, and filled when one is taken', async () => {
    const fake = startFake({ lists: [answer(403), page(7)] });
    await pass(FIRST_WAIT);
    expect(fake.standings).toEqual(['refused', 'filled']);
    await stop(fake);
  });

  it.each([401, 404, 410, 429, 500, 503])('is not changed by an answer %i', async status => {
    const fake = await startWatching({ refuse: [undefined, answer(status)] });
    fake.last().end();
    await pass(FIRST_WAIT);
    expect(fake.calls).toHaveLength(1);
    expect(fake.standings).toEqual(['filled']);
    await stop(fake);
  });
});

describe('a reflector that is aborted', () => {
  it.each<[string, (fake: Fake) => void]>([
    ['while it watches', () => {}],
    ['while it backs off', fake => fake.last().fail(new Error('down'))],
    ['while it heeds a server that wants to be left alone', fake => fake.last().fail(answer(429, '300'))],
  ])('%s ends and calls nothing any more', async (_when, prepare) => {
    const fake = await startWatching();
    prepare(fake);
    await settle();
    const before = { calls: [...fake.calls], errors: [...fake.errors], store: [...fake.store] };
    fake.abort.abort();
    await fake.reflector.done;
    fake.last().push(line('ADDED', thing('late', 9)));
    await pass(600_000);
    expect({ calls: fake.calls, errors: fake.errors, store: fake.store }).toEqual(before);
  });

  it('while it is being filled publishes nothing', async () => {
    const fake = startFake();
    await settle();
    fake.last().push(line('ADDED', thing('a', 1)));
    await settle();
    fake.last().push(filled(7));
    fake.abort.abort();
    await fake.reflector.done;
    expect([fake.store, fake.synced(), fake.errors]).toEqual([[], false, []]);
  });

  it('before it began asks for nothing', async () => {
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
      yield Buffer.from(filled(7) + line('ADDED', thing('a', 8)) + line('ADDED', thing('b', 9)));
    }
    const reflector = startReflector<Thing>({
      client: fakeClient({ watch: async () => events() }),
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
});
