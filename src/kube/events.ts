/** Kubernetes Events: what `kubectl describe` shows of an object's history. */

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Declared, KubeObject, ResourceType } from '../api/meta.ts';
import type { KubeClient } from './client.ts';
import { isConflict, isTransient, NotLeading, retryAfterOf } from './errors.ts';

const EVENTS = {
  group: 'events.k8s.io',
  version: 'v1',
  plural: 'events',
  kind: 'Event',
} as const satisfies ResourceType;
/** Limit of `note` in events.k8s.io/v1, in bytes. */
const MAX_NOTE = 1024;
/** When to try again what the API server did not take: an Event that comes later than that helps nobody. */
const RETRY_MS = [1_000, 4_000, 15_000];
/** Events on their way; beyond it they are dropped, so that an API server that is down does not fill the memory. */
const MOST_WRITING = 1_000;
/** Requests at a time: Events leave the connections to writes that matter more. */
const MOST_SENDING = 4;

export interface EventRecord {
  type: 'Normal' | 'Warning';
  /** In one word why, such as the reason of the condition that changed. */
  reason: string;
  /** What was done or seen, in one word, such as Probe. */
  action: string;
  note: string;
}

export interface EventRecorder {
  /** Writes an Event about an object. Never throws: an Event that cannot be written is reported and left. */
  record(about: KubeObject, event: EventRecord): void;
  /** Tries what waits for another try at once and for the last time. Resolves when all is written or given up. */
  flush(): Promise<void>;
}

export interface EventRecorderOptions {
  client: KubeClient;
  /** Name of the controller, such as the operator's. */
  controller: string;
  /** Name of this instance, such as the Pod's. */
  instance: string;
  signal: AbortSignal;
  onError: (error: unknown) => void;
  now?: () => Date;
}

export function createEventRecorder(options: EventRecorderOptions): EventRecorder {
  const { client, controller, instance, signal, onError, now = () => new Date() } = options;
  const writing = new Set<Promise<void>>();
  let sending = 0;
  let dropped = 0;
  /** Who waits for one of the others to be sent. */
  const turns: (() => void)[] = [];
  let flushing = new AbortController();

  /** Told once the flood is over: a line for each would be another one. */
  function tell(): void {
    if (dropped === 0 || writing.size > MOST_WRITING / 2) return;
    onError(new Error(`${dropped} Events were dropped: ${MOST_WRITING} others were on their way`));
    dropped = 0;
  }

  async function send(event: Declared): Promise<void> {
    if (sending < MOST_SENDING) sending += 1;
    else await new Promise<void>(resolve => turns.push(resolve));
    try {
      await client.create(EVENTS, event, signal);
    } finally {
      const next = turns.shift();
      if (next) next();
      else sending -= 1;
    }
  }

  async function write(event: Declared): Promise<void> {
    const flushed = flushing.signal;
    for (const wait of [...RETRY_MS, undefined]) {
      const isLast = wait === undefined || flushed.aborted;
      try {
        return await send(event);
      } catch (error) {
        // The answer to an earlier try was lost: its name is nobody else's.
        if (isConflict(error) && wait !== RETRY_MS[0]) return;
        // A leader whose Lease was deleted makes it again.
        const mayHelp = isTransient(error) || error instanceof NotLeading;
        if (isLast || signal.aborted || !mayHelp) throw error;
        const waitMs = Math.max(wait * (1 + Math.random() / 2), retryAfterOf(error));
        await sleep(waitMs, undefined, { signal: AbortSignal.any([signal, flushed]) }).catch(() => {});
      }
    }
  }

  return {
    record(about, { type, reason, action, note }) {
      const { namespace, name, uid } = about.metadata;
      // The API wants microseconds: a date of three digits is refused.
      const eventTime = now().toISOString().replace('Z', '000Z');
      const event: Declared & Record<string, unknown> = {
        apiVersion: 'events.k8s.io/v1',
        kind: EVENTS.kind,
        metadata: { namespace, name: eventName(name) },
        eventTime,
        type,
        reason,
        action,
        note: truncateBytes(note, MAX_NOTE),
        reportingController: controller,
        reportingInstance: instance.slice(0, 128),
        regarding: { apiVersion: about.apiVersion, kind: about.kind, namespace, name, uid },
      };
      if (writing.size >= MOST_WRITING) {
        dropped += 1;
        return;
      }
      const written = write(event).catch(onError);
      writing.add(written);
      void written.finally(() => {
        writing.delete(written);
        tell();
      });
    },
    async flush() {
      flushing.abort();
      flushing = new AbortController();
      await Promise.allSettled(writing);
    },
  };
}

/** A unique name within the limit of 253 characters, of which each part between dots ends with a letter or digit. */
function eventName(about: string): string {
  return `${about.slice(0, 220).replace(/[-.]+$/, '')}.${randomBytes(8).toString('hex')}`;
}

function truncateBytes(text: string, most: number): string {
  if (Buffer.byteLength(text) <= most) return text;
  // A cut through a character leaves U+FFFD at the end.
  return `${Buffer.from(text)
    .subarray(0, most - 6)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')}…`;
}
