import { describe, expect, it } from 'vitest';
import type { Declared } from '../../../src/api/meta.ts';
import type { KubeClient } from '../../../src/kube/client.ts';
import { createEventRecorder } from '../../../src/kube/events.ts';
import { fakeClient, makeConnector, UID } from '../support.ts';

type Written = Declared & { note: string; reportingInstance: string };

function make(create?: KubeClient['create'], instance = 'pod-1') {
  const written: Written[] = [];
  const errors: unknown[] = [];
  const recorder = createEventRecorder({
    client: fakeClient({
      create:
        create ??
        (async (_type, object) => {
          written.push(object as Written);
        }),
    }),
    controller: 'the-operator',
    instance,
    signal: new AbortController().signal,
    onError: error => void errors.push(error),
    now: () => new Date('2026-01-02T03:04:05.678Z'),
  });
  return { recorder, written, errors };
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
    const failure = new Error('forbidden');
    const { recorder, errors } = make(async () => {
      throw failure;
    });
    recorder.record(makeConnector('custom'), WARNING);
    await recorder.flush();
    expect(errors).toEqual([failure]);
  });

  it('is flushed when all is written, and not before', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { recorder } = make(() => promise);
    recorder.record(makeConnector('custom'), WARNING);
    let flushed = false;
    const flush = recorder.flush().then(() => {
      flushed = true;
    });
    await new Promise(setImmediate);
    expect(flushed).toBe(false);
    resolve();
    await flush;
  });

  it('is flushed at once when there is nothing to write', async () => {
    await make().recorder.flush();
  });
});
