/**
 * The floor: a process that does nothing but the writes that the operator makes, over as many connections. It reads an
 * Order from the first line of its stdin, and a Task from each other one.
 */
import { createInterface } from 'node:readline';
import { type Access, bareClient } from './client.ts';

/** A write as it was seen, with NAME, UID and GENERATION in the place of one connector's. */
export interface Write {
  method: string;
  path: string;
  contentType: string;
  body: string;
}

export interface Order {
  access: Access;
  writes: Recorded;
  connections: number;
}

/** What is written for one connector, in order. */
export interface Recorded {
  /** From its creation until nothing more is written. */
  created: readonly Write[];
  /** After an edit of its spec. */
  edited: readonly Write[];
}

/** A connector, and what was done to it. */
export interface Task {
  name: string;
  uid: string;
  generation: number;
  done: keyof Recorded;
}

interface Body {
  kind: string;
  metadata: { name: string };
}

export const FLOOR = 'floor';
export const NAME = '@name@';
export const UID = '@uid@';
export const GENERATION = '@generation@';

if (import.meta.main) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { access, writes, connections } = JSON.parse((await lines.next()).value ?? '') as Order;
  const client = bareClient(access, connections, { userAgent: FLOOR });
  const waiting: Task[] = [];
  const idle: (() => void)[] = [];

  let written = 0;
  /** Of an Event there is one of its name; of all else one for each connector. */
  const unique = (body: Body, method: string): Body =>
    method === 'POST' && body.kind === 'Event'
      ? { ...body, metadata: { ...body.metadata, name: `${body.metadata.name}.${written}` } }
      : body;

  async function work(): Promise<void> {
    for (;;) {
      const next = waiting.shift();
      if (!next) {
        await new Promise<void>(resolve => idle.push(resolve));
        continue;
      }
      const fill = (text: string): string =>
        text.replaceAll(NAME, next.name).replaceAll(UID, next.uid).replaceAll(GENERATION, String(next.generation));
      written += 1;
      for (const { method, path, contentType, body } of writes[next.done])
        await client.call(method, fill(path), unique(JSON.parse(fill(body)) as Body, method), contentType);
    }
  }
  for (let index = 0; index < connections; index++) void work();
  process.stdout.write('ready\n');
  for await (const line of { [Symbol.asyncIterator]: () => lines }) {
    waiting.push(JSON.parse(line) as Task);
    idle.shift()?.();
  }
  process.exit(0);
}
