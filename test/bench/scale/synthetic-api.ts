/**
 * A process that plays an API server which holds any number of connectors, all alike but for their names: it begins watches
 * with all of them, takes statuses and Events, and tells of edits. For what no real control plane on one machine holds. It
 * reads an Order from the first line of its stdin, then lines `edit COUNT`; each is answered by a line once as many statuses
 * came.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import { INITIAL_EVENTS_END } from '../../../src/kube/client.ts';

/** In a template they stand for the name and the UID of a connector, which its children's are made of, and for a version. */
export const NAME = 'template-connector';
export const UID = 'template-uid';
export const VERSION = 'template-version';

export interface Order {
  connectors: number;
  /** Plural → an object of that kind, as JSON. Kinds without one have no objects. */
  templates: Record<string, string>;
}

const CONNECTORS = 'personalconnectors';
const BOOKMARK_MS = 60_000;

if (import.meta.main) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { connectors, templates } = JSON.parse((await lines.next()).value ?? '') as Order;
  let version = 1_000;
  /** Of connectors that were edited. */
  const generations = new Map<string, number>();
  /** Connector → the status that was written, as JSON. */
  const statuses = new Map<string, string>();
  const watches = new Map<string, Set<ServerResponse>>();
  let wanted = 0;
  let reached = (): void => {};

  const object = (plural: string, name: string, at: number): string => {
    const generation = (plural === CONNECTORS && generations.get(name)) || 1;
    const text = (templates[plural] ?? '')
      .replaceAll(NAME, name)
      .replaceAll(UID, `uid-${name}`)
      .replaceAll(VERSION, String(at));
    const status = plural === CONNECTORS ? statuses.get(name) : undefined;
    if (generation === 1 && status === undefined) return text;
    const raw = JSON.parse(text) as { metadata: object; status: object };
    return JSON.stringify({
      ...raw,
      metadata: { ...raw.metadata, generation },
      ...(status !== undefined && { status: JSON.parse(status) }),
    });
  };
  const nameOf = (index: number): string => `connector-${index}`;

  const bookmark = (plural: string, isInitial: boolean): string => {
    const annotations = isInitial ? `,"annotations":{"${INITIAL_EVENTS_END}":"true"}` : '';
    return `{"type":"BOOKMARK","object":{"kind":"${plural}","metadata":{"resourceVersion":"${version}"${annotations}}}}\n`;
  };

  async function watch(plural: string, isFilled: boolean, response: ServerResponse): Promise<void> {
    response.writeHead(200, { 'content-type': 'application/json' });
    const all = templates[plural] && !isFilled ? connectors : 0;
    for (let index = 0; index < all; index++) {
      const more = response.write(`{"type":"ADDED","object":${object(plural, nameOf(index), 1 + index)}}\n`);
      if (!more) await new Promise(resolve => response.once('drain', resolve));
    }
    response.write(bookmark(plural, !isFilled));
    const same = watches.get(plural) ?? new Set();
    watches.set(plural, same.add(response));
    response.on('close', () => same.delete(response));
  }

  async function take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    response.setHeader('content-type', 'application/json');
    const name = /\/personalconnectors\/([^/]+)\/status/.exec(request.url ?? '')?.[1];
    if (name === undefined) return void response.writeHead(201).end(text);
    version += 1;
    const { status } = JSON.parse(text) as { status: object };
    statuses.set(name, JSON.stringify(status));
    const written = object(CONNECTORS, name, version);
    response.end(written);
    for (const each of watches.get(CONNECTORS) ?? []) each.write(`{"type":"MODIFIED","object":${written}}\n`);
    wanted -= 1;
    if (wanted === 0) reached();
  }

  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://localhost');
    if (request.method !== 'GET') return void take(request, response);
    const plural = url.pathname.split('/').at(-1) ?? '';
    if (url.searchParams.get('watch') !== 'true') return void response.writeHead(404).end('{}');
    void watch(plural, url.searchParams.has('resourceVersion'), response);
  });
  setInterval(() => {
    for (const [plural, responses] of watches) for (const each of responses) each.write(bookmark(plural, false));
  }, BOOKMARK_MS).unref();
  server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));

  for await (const line of { [Symbol.asyncIterator]: () => lines }) {
    const count = Number(/^edit (\d+)$/.exec(line)?.[1]);
    const written = new Promise<void>(resolve => {
      reached = resolve;
    });
    wanted = count;
    for (let index = 0; index < count; index++) {
      const name = nameOf(index);
      version += 1;
      generations.set(name, (generations.get(name) ?? 1) + 1);
      const edited = object(CONNECTORS, name, version);
      for (const each of watches.get(CONNECTORS) ?? []) each.write(`{"type":"MODIFIED","object":${edited}}\n`);
    }
    await written;
    console.log('done');
  }
  process.exit(0);
}
