import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Declared } from '../../../src/api/meta.ts';
import type { KubeClient } from '../../../src/kube/client.ts';
import { ApiError, NotLeading } from '../../../src/kube/errors.ts';
import { createEventRecorder } from '../../../src/kube/events.ts';
import { fakeClient, makeConnector, UID } from '../support.ts';

vi.mock('node:timers/promises', () => import('../timers.ts'));

type Written = Declared & { note: string; reportingInstance: string };

function make(create?: KubeClient['create'], instance = 'pod-1') {
  const written: Written[] = [];
  const errors: unknown[] = [];
  const abort = new AbortController();
  const recorder = createEventRecorder({
    client: fakeClient({
      create:
        create ??
        (async (_type, object) => {
          written.push(object as Written);
          return object as never;
        }),
    }),
    controller: 'the-operator',
    instance,
    signal: abort.signal,
    onError: error => void errors.push(error),
    now: () => new Date('2026-01-02T03:04:05.678Z'),
  });
  return { recorder, written, errors, abort };
}

const WARNING = { type: 'Warning', reason: 'NotMCP', action: 'Verified', note: 'it answers HTML' } as const;

async function recorded(name: string, note: string): Promise<Written> {
  const { recorder, written, errors } = make();
  recorder.record(makeConnector('custom', {}, { metadata: { name } }), { ...WARNING, note });
  await recorder.flush();
  expect(errors).toEqual([]);
  const [event] = written;
  if (!event) throw new Error('nothing was written');
  return event;
}

describe('an Event', () => {
  it('says what was seen of which object', async () => {
    const { recorder, written } = make();
    recorder.record(makeConnector('custom', {}, { metadata: { name: 'mine' } }), WARNING);
    await recorder.flush();
    expect(written).toEqual([
      {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { namespace: 'team', name: expect.stringMatching(/^mine\.[0-9a-f]{16}$/) },
        eventTime: '2026-01-02T03:04:05.678000Z',
        type: 'Warning',
        reason: 'NotMCP',
        action: 'Verified',
        note: 'it answers HTML',
        reportingController: 'the-operator',
        reportingInstance: 'pod-1',
        regarding: {
          apiVersion: 'connectors.aitronos.com/v1',
          kind: 'PersonalConnector',
          namespace: 'team',
          name: 'mine',
          uid: UID,
        },
      },
    ]);
  });

  it.each([
    'a',
    'a.b-c.d',
    'x'.repeat(253),
    `${'a'.repeat(219)}.${'b'.repeat(33)}`,
    `${'a'.repeat(218)}--${'b'.repeat(33)}`,
    `${'a.'.repeat(126)}b`,
  ])('about %s has a name that the API takes', async name => {
    const event = await recorded(name, 'x');
    expect(event.metadata.name.length).toBeLessThanOrEqual(253);
    expect(event.metadata.name).toMatch(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/);
  });

  it('has a name of its own each time', async () => {
    const [one, two] = await Promise.all([recorded('a', 'x'), recorded('a', 'x')]);
    expect(one.metadata.name).not.toBe(two.metadata.name);
  });

  it.each([
    ['short', 'grüße', 'grüße'],
    ['just short enough', 'x'.repeat(1024), 'x'.repeat(1024)],
    ['just short enough in bytes', 'é'.repeat(512), 'é'.repeat(512)],
  ])('keeps a note that is %s', async (_what, note, expected) => {
    expect((await recorded('a', note)).note).toBe(expected);
  });

  it.each([
    ['x', 1],
    ['é', 2],
    ['語', 3],
    ['🦊', 4],
  ])('cuts a long note of %s between characters, to 1024 bytes at most', async (character, bytes) => {
    for (const lead of ['', 'a', 'ab', 'abc']) {
      const { note } = await recorded('a', lead + character.repeat(1025));
      const kept = note.slice(lead.length, -1);
      expect(note.endsWith('…')).toBe(true);
      expect(kept).toBe(character.repeat([...kept].length));
      expect(Buffer.byteLength(note)).toBeLessThanOrEqual(1024);
      expect(Buffer.byteLength(note)).toBeGreaterThan(1024 - 6 - bytes);
    }
  });

  it('names at most 128 characters of the instance', async () => {
    const { recorder, written } = make(undefined, 'p'.repeat(200));
    recorder.record(makeConnector('custom'), WARNING);
    await recorder.flush();
    expect(written[0]?.reportingInstance).toBe('p'.repeat(128));
  });
});

describe('an event recorder', () => {
  it('reports what cannot be written, and never throws', async () => {
    const failure = new ApiError('POST /events', 403, '{}');
    const { recorder, errors } = make(async () => {
      throw failure;
    });
    recorder.record(makeConnector('custom'), WARNING);
    await recorder.flush();
    expect(errors).toEqual([failure]);
  });

  it('is flushed when all is written, and not before', async () => {
    const { promise, resolve } = Promise.withResolvers<never>();
    const { recorder } = make(() => promise);
    recorder.record(makeConnector('custom'), WARNING);
    let flushed = false;
    const flush = recorder.flush().then(() => {
      flushed = true;
    });
    await new Promise(setImmediate);
    expect(flushed).toBe(false);
    resolve(undefined as never);
    await flush;
  });

  it('is flushed at once when there is nothing to write', async () => {
    await make().recorder.flush();
  });
});

describe('an Event that the API server does not take', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.restoreAllMocks();
    vi.useRealTimers();
  });

  const answer = (status: number, retryAfter?: string): ApiError =>
    new ApiError('POST /events', status, '{}', retryAfter);
  const reset = Object.assign(new Error('reset'), { code: 'ECONNRESET' });

  /** Records one Event against these answers, the last of which goes on for ever; an undefined one takes the Event. */
  async function tryAgainst(answers: (Error | undefined)[], random = 0) {
    vi.spyOn(Math, 'random').mockReturnValue(random);
    const tries: { at: number; name: string }[] = [];
    const start = performance.now();
    const { recorder, errors, abort } = make(async (_type, object) => {
      tries.push({ at: performance.now() - start, name: object.metadata.name });
      const error = answers.length > 1 ? answers.shift() : answers[0];
      if (error) throw error;
      return object as never;
    });
    recorder.record(makeConnector('custom'), WARNING);
    await vi.advanceTimersByTimeAsync(3_600_000);
    await recorder.flush();
    return { tries: tries.map(({ at }) => at), names: new Set(tries.map(({ name }) => name)), errors, abort };
  }

  it.each<[string, Error]>([
    ['a connection that broke', reset],
    ['429', answer(429)],
    ['500', answer(500)],
    ['503', answer(503)],
    ['504', answer(504)],
    ['the lack of leadership', new NotLeading('not sent')],
  ])(
    'because of %s is tried again under the same name after 1, 4 and 15 s, and given up then',
    async (_what, error) => {
      const { tries, names, errors } = await tryAgainst([error]);
      expect(tries).toEqual([0, 1_000, 5_000, 20_000]);
      expect(names.size).toBe(1);
      expect(errors).toEqual([error]);
    },
  );

  it.each([
    [0, [0, 1_000, 5_000, 20_000]],
    [1, [0, 1_500, 7_500, 30_000]],
  ])('waits up to half as long again, so that many do not come together (random %d)', async (random, expected) => {
    expect((await tryAgainst([reset], random)).tries).toEqual(expected);
  });

  it('is reported by nobody once it is taken', async () => {
    const { tries, errors } = await tryAgainst([reset, answer(500), undefined]);
    expect([tries, errors]).toEqual([[0, 1_000, 5_000], []]);
  });

  it('waits as long as the server asks, when that is longer', async () => {
    const { tries } = await tryAgainst([answer(429, '30'), answer(429, '1'), undefined]);
    expect(tries).toEqual([0, 30_000, 34_000]);
  });

  it('is there already when a repeat is answered 409: the answer to an earlier try was lost', async () => {
    const { tries, errors } = await tryAgainst([reset, answer(409)]);
    expect([tries, errors]).toEqual([[0, 1_000], []]);
  });

  it.each<[string, Error]>([
    ['400', answer(400)],
    ['403, as in a namespace that is going', answer(403)],
    ['404', answer(404)],
    ['409 at the first try', answer(409)],
    ['422', answer(422)],
  ])('because of %s is reported at once and not tried again', async (_what, error) => {
    const { tries, errors } = await tryAgainst([error]);
    expect([tries, errors]).toEqual([[0], [error]]);
  });

  it('is tried once more, at once, when the recorder is flushed while it waits', async () => {
    let tries = 0;
    const { recorder, errors } = make(async () => {
      tries += 1;
      throw reset;
    });
    recorder.record(makeConnector('custom'), WARNING);
    await vi.advanceTimersByTimeAsync(0);
    await recorder.flush();
    expect([tries, errors]).toEqual([2, [reset]]);
    // What comes later is tried as often as ever.
    recorder.record(makeConnector('custom'), WARNING);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect([tries, errors]).toEqual([6, [reset, reset]]);
  });

  it('leaves connections to others: four are sent at a time', async () => {
    const waiting: PromiseWithResolvers<never>[] = [];
    const { recorder, errors } = make(() => {
      const answered = Promise.withResolvers<never>();
      waiting.push(answered);
      return answered.promise;
    });
    for (let event = 0; event < 10; event += 1) recorder.record(makeConnector('custom'), WARNING);
    expect(waiting).toHaveLength(4);
    waiting[1]?.resolve(undefined as never);
    waiting[2]?.reject(answer(403));
    await vi.advanceTimersByTimeAsync(0);
    expect(waiting).toHaveLength(6);
    for (let sent = 0; sent < 10; sent += 1) {
      waiting[sent]?.resolve(undefined as never);
      await vi.advanceTimersByTimeAsync(0);
    }
    await recorder.flush();
    expect([waiting.length, errors.length]).toEqual([10, 1]);
  });

  it('does not fill the memory: of a thousand on their way the next are dropped, and all said to be at once', async () => {
    const waiting: PromiseWithResolvers<never>[] = [];
    const { recorder, errors } = make(() => {
      const answered = Promise.withResolvers<never>();
      waiting.push(answered);
      return answered.promise;
    });
    const connector = makeConnector('custom', {}, { metadata: { name: 'mine' } });
    for (let event = 0; event < 1_003; event += 1) recorder.record(connector, WARNING);
    expect(errors).toEqual([]);

    // As soon as one is through there is room for one.
    waiting[0]?.resolve(undefined as never);
    await vi.advanceTimersByTimeAsync(0);
    recorder.record(connector, WARNING);
    recorder.record(connector, WARNING);
    for (let sent = 1; sent <= 500; sent += 1) {
      expect(errors).toEqual([]);
      waiting[sent]?.resolve(undefined as never);
      await vi.advanceTimersByTimeAsync(0);
    }
    expect(errors.map(error => (error as Error).message)).toEqual([
      '4 Events were dropped: 1000 others were on their way',
    ]);
    for (let sent = 501; sent < 1_001; sent += 1) {
      waiting[sent]?.resolve(undefined as never);
      await vi.advanceTimersByTimeAsync(0);
    }
    await recorder.flush();
    expect([waiting.length, errors.length]).toEqual([1_001, 1]);
  });
});
