/** One conversation with a server, by whichever transport: one request at a time, and nothing is left open. */

import { setTimeout as sleep } from 'node:timers/promises';
import { createParser } from 'eventsource-parser';
import { NotMcp, Redirected, Refused, type RpcError } from './failure.ts';
import type { Answer, Exchange } from './http.ts';
import { answerTo, isRecord, type Message, parseMessages, type Reply } from './rpc.ts';
import { cleanText, MAX_URL } from './text.ts';

export interface Call {
  method: string;
  params: object;
  /** Headers of this request alone, where the transport has any. */
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal;
}

export interface Channel {
  /** Throws Refused, NotMcp, Redirected, or what the connection met. */
  request(call: Call): Promise<Reply>;
  /** Tells the server something; whether it hears is its own affair. */
  notify(method: string): Promise<void>;
  /** From here on the server expects to be spoken to in this revision. */
  agreed(version: string): void;
  /** Ends the session, if there is one. Never throws. */
  end(): Promise<void>;
}

/** How much of the body of a refusal is looked at. */
const MAX_REFUSAL_BYTES = 16 * 1024;
/** How long a server may make us wait for nothing: for its word that it got a notification or an answer. */
const ASIDE_MS = 2_000;
const NOTICE_MS = 500;
/** One is usual; some servers begin one with each request that names none. */
const MAX_SESSIONS = 4;
/** Requests of the server itself that are answered during one probe. */
export const MAX_REPLIES = 8;
/** Of a stream, or a websocket: who says so much else has no answer. */
const MAX_EVENTS = 2_048;
/** How often a stream that broke off before the answer is taken up again. */
const MAX_RESUMES = 3;
const FIRST_RETRY_MS = 500;
/** Longer than any probe. */
const MAX_RETRY_MS = 3_600_000;

const JSON_TYPE = 'application/json';
const EVENT_STREAM = 'text/event-stream';

/** Streamable HTTP: each message is a POST of its own (2025-03-26 and later). */
export function openStreamable(exchange: Exchange, target: URL): Channel {
  let url = target;
  let session: string | undefined;
  let version: string | undefined;
  let replies = 0;
  /** Each costs the server something until it is ended. */
  const sessions = new Set<string>();

  const context = (): Record<string, string> => ({
    ...(session !== undefined && { 'mcp-session-id': session }),
    ...(version !== undefined && { 'mcp-protocol-version': version }),
  });

  async function post(what: string, message: object, { headers, signal }: Partial<Call> = {}): Promise<Answer> {
    const answer = await exchange.ask({
      method: 'POST',
      url,
      headers: {
        'content-type': JSON_TYPE,
        accept: `${JSON_TYPE}, ${EVENT_STREAM}`,
        // An initialize begins a session, in a revision that is still to be found.
        ...(what !== 'initialize' && context()),
        ...headers,
      },
      body: JSON.stringify({ jsonrpc: '2.0', ...message }),
      what: `POST ${what}`,
      ...(signal && { signal }),
    });
    url = answer.url;
    // A proxy may have repeated it.
    const given = answer.headers['mcp-session-id']?.split(', ', 1)[0]?.trim();
    // Nothing else than visible ASCII (2025-11-25, Session Management) could be sent back.
    if (given !== undefined && /^[\x21-\x7e]+$/.test(given)) {
      sessions.add(given);
      if (what === 'initialize') session = given;
    }
    return answer;
  }

  async function answerRequest(request: Message): Promise<void> {
    replies += 1;
    if (request.kind !== 'request' || replies > MAX_REPLIES) return;
    await aside(async () => (await post(`answer to ${cleanText(request.method, 64)}`, replyTo(request))).drop());
  }

  async function fromStream(id: number, first: Answer, signal: AbortSignal): Promise<Message> {
    const cursor: Cursor = { lastId: '', retryMs: FIRST_RETRY_MS };
    let answer = first;
    for (let resumes = 0; ; resumes++) {
      try {
        for await (const messages of messagesOf(answer, cursor)) {
          const found = answerTo(id, messages, false);
          if (found) return found;
          for (const message of messages) if (message.kind === 'request') await answerRequest(message);
        }
      } catch (error) {
        if (error instanceof NotMcp || signal.aborted || cursor.lastId === '') throw error;
      }
      if (cursor.lastId === '' || resumes === MAX_RESUMES) throw new NotMcp('its stream ends without an answer');
      // Since 2025-11-25 a server may close a connection and have its client come back for the rest.
      await sleep(cursor.retryMs, undefined, { signal });
      answer = await exchange.ask({
        method: 'GET',
        url,
        headers: { accept: EVENT_STREAM, 'last-event-id': cursor.lastId, ...context() },
        what: 'GET the rest of the answer',
        signal,
      });
      if (answer.status !== 200 || typeOf(answer) !== EVENT_STREAM) throw await refusal(answer);
    }
  }

  return {
    async request(call) {
      const id = exchange.nextId();
      const { method, params, signal = exchange.signal } = call;
      const answer = await post(method, { id, method, params }, call);
      if (answer.status < 200 || answer.status >= 300) throw await refusal(answer);
      switch (typeOf(answer)) {
        case JSON_TYPE:
          return resultOf(answerTo(id, parseMessages(await answer.text()), true), answer);
        case EVENT_STREAM:
          return resultOf(await fromStream(id, answer, signal), answer);
        default:
          answer.drop();
          throw notMcpType(answer);
      }
    },
    notify: method => aside(async () => (await post(method, { method })).drop()),
    agreed(agreed) {
      version = agreed;
    },
    async end() {
      const endAll = (signal: AbortSignal): Promise<unknown> =>
        Promise.all(
          [...sessions].slice(0, MAX_SESSIONS).map(async session => {
            const headers = { ...context(), 'mcp-session-id': session };
            (await exchange.ask({ method: 'DELETE', url, headers, what: 'DELETE the session', signal })).drop();
          }),
        );
      if (sessions.size > 0) await exchange.afterwards(endAll);
      sessions.clear();
    },
  };
}

/** The stream of an HTTP+SSE server. Throws as a request does. */
export async function getEventStream(exchange: Exchange, url: URL): Promise<Answer> {
  const headers = { accept: EVENT_STREAM };
  const answer = await exchange.ask({ method: 'GET', url, headers, what: 'GET an event stream' });
  if (answer.status < 200 || answer.status >= 300) throw await refusal(answer);
  if (typeOf(answer) === EVENT_STREAM) return answer;
  answer.drop();
  throw notMcpType(answer);
}

/** HTTP+SSE (2024-11-05): one stream brings all answers, and says where to post requests. Throws as a request does. */
export async function openSse(exchange: Exchange, answer: Answer): Promise<Channel> {
  const stream = eventsOf(answer, { lastId: '', retryMs: 0 });
  const endpoint = await endpointOf(stream, answer.url).catch(error => {
    answer.drop();
    throw error;
  });
  let replies = 0;

  async function post(what: string, message: object, signal = exchange.signal): Promise<void> {
    const posted = await exchange.ask({
      method: 'POST',
      url: endpoint,
      headers: { 'content-type': JSON_TYPE, accept: `${JSON_TYPE}, ${EVENT_STREAM}` },
      body: JSON.stringify({ jsonrpc: '2.0', ...message }),
      what: `POST ${what}`,
      signal,
    });
    if (posted.status < 200 || posted.status >= 300) throw await refusal(posted);
    posted.drop();
  }

  async function untilAnswered(id: number): Promise<Message> {
    for (;;) {
      const { done, value } = await stream.next();
      if (done) throw new NotMcp('its stream ends without an answer');
      if (value.event !== 'message') continue;
      const messages = messagesIn(value.data);
      const found = answerTo(id, messages, false);
      if (found) return found;
      for (const message of messages) {
        if (message.kind !== 'request' || replies++ >= MAX_REPLIES) continue;
        await post(`answer to ${cleanText(message.method, 64)}`, replyTo(message)).catch(() => {});
      }
    }
  }

  return {
    async request({ method, params }) {
      const id = exchange.nextId();
      // Both at once: a server may not get to say that it took the question before its answer is read.
      const answered = new AbortController();
      const signal = AbortSignal.any([exchange.signal, answered.signal]);
      const refused = post(method, { id, method, params }, signal).then(() => new Promise<never>(() => {}));
      try {
        return resultOf(await Promise.race([untilAnswered(id), refused]), answer);
      } finally {
        answered.abort();
      }
    },
    // What the answer to it is told by is the stream: some servers let the POST wait.
    notify: method => aside(() => post(method, { method }), NOTICE_MS),
    agreed() {},
    async end() {
      answer.drop();
    },
  };
}

async function endpointOf(stream: AsyncGenerator<ServerEvent>, base: URL): Promise<URL> {
  for (;;) {
    const { done, value } = await stream.next();
    if (done) throw new NotMcp('its event stream ends before it says where to post');
    if (value.event !== 'endpoint') continue;
    const isUrl = value.data.length <= MAX_URL && URL.canParse(value.data, base.href);
    const endpoint = isUrl ? new URL(value.data, base) : undefined;
    if (endpoint?.origin !== base.origin || endpoint.username !== '' || endpoint.password !== '')
      throw new NotMcp('its event stream names no place of the same host to post to');
    return endpoint;
  }
}

interface ServerEvent {
  event: string;
  data: string;
}

interface Cursor {
  /** Of the last event that has one; empty as long as there is none. */
  lastId: string;
  retryMs: number;
}

async function* messagesOf(answer: Answer, cursor: Cursor): AsyncGenerator<Message[]> {
  for await (const { event, data } of eventsOf(answer, cursor)) {
    if (event === 'endpoint') throw new NotMcp('it answers a POST with the stream of HTTP+SSE');
    if (event === 'message') yield messagesIn(data);
  }
}

async function* eventsOf({ body }: Answer, cursor: Cursor): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  const ready: ServerEvent[] = [];
  const countEvent = eventCounter();
  const parser = createParser({
    onEvent({ event = 'message', data }) {
      countEvent();
      ready.push({ event, data });
    },
    onId(id) {
      // As with sessions: others cannot be sent back.
      if (/^[\x21-\x7e]{0,4096}$/.test(id)) cursor.lastId = id;
    },
    onRetry(ms) {
      cursor.retryMs = Math.min(ms, MAX_RETRY_MS);
    },
  });
  for await (const chunk of body) {
    parser.feed(decoder.decode(chunk, { stream: true }));
    while (ready.length > 0) yield ready.shift() as ServerEvent;
  }
}

/** Throws NotMcp when it was called too often. */
export function eventCounter(): () => void {
  let events = 0;
  return () => {
    events += 1;
    if (events > MAX_EVENTS) throw new NotMcp(`it sends more than ${MAX_EVENTS} messages that are no answer`);
  };
}

/** An event without data only gives its id; one that makes no sense may be followed by one that does. */
function messagesIn(data: string): Message[] {
  try {
    return data === '' ? [] : parseMessages(data);
  } catch {
    return [];
  }
}

function resultOf(message: Message | undefined, { status, headers }: Answer): Reply {
  if (message?.kind === 'result') return message;
  if (message?.kind === 'error') throw new Refused(status, headers, message.error);
  throw new NotMcp('its answer holds no answer to the request');
}

/** What an answer means that is not one of success. */
export async function refusal(answer: Answer): Promise<Error> {
  const { url, status, headers } = answer;
  if (status >= 300 && status < 400) {
    answer.drop();
    return new Redirected(redirectTarget(headers.location, url));
  }
  const text = await answer.text(MAX_REFUSAL_BYTES);
  return new Refused(status, headers, rpcErrorOf(text));
}

function rpcErrorOf(text: string): RpcError | undefined {
  try {
    const json: unknown = JSON.parse(text);
    const error = isRecord(json) ? json.error : undefined;
    if (!isRecord(json) || json.jsonrpc !== '2.0') return undefined;
    if (!isRecord(error) || !Number.isInteger(error.code)) return undefined;
    const { code, message, data } = error;
    return { code: code as number, message: typeof message === 'string' ? message : '', data };
  } catch {
    return undefined;
  }
}

function redirectTarget(location: string | undefined, base: URL): string {
  if (location === undefined || !URL.canParse(location, base.href)) return 'nowhere that can be read';
  const { protocol, host, pathname } = new URL(location, base);
  return cleanText(`${protocol}//${host}${pathname}`, 512);
}

/** What a probe has to say to a server that asks it something: it is there, and it can do nothing else. */
export function replyTo({ id, method }: Message & { kind: 'request' }): object {
  if (method === 'ping') return { id, result: {} };
  return { id, error: { code: -32601, message: 'Method not found' } };
}

/** Does what is not worth a failure, and not worth a long wait either: it goes on beside the next request, which will tell. */
async function aside(work: () => Promise<unknown>, mostMs = ASIDE_MS): Promise<void> {
  const waited = Promise.withResolvers<void>();
  const timer = setTimeout(waited.resolve, mostMs);
  await Promise.race([work().catch(() => {}), waited.promise]);
  clearTimeout(timer);
}

function typeOf({ headers }: Answer): string {
  return (headers['content-type'] ?? '').split(/[;,]/, 1)[0]?.trim().toLowerCase() ?? '';
}

function notMcpType(answer: Answer): NotMcp {
  return new NotMcp(`it answers ${cleanText(typeOf(answer), 64) || `${answer.status} without a content type`}`);
}
