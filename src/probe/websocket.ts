/**
 * MCP over a websocket with the subprotocol `mcp`: in no revision of the specification, but spoken by some servers and
 * bridges. Each frame is one message, in the order of a conversation over stdio.
 */

import { type RawData, WebSocket } from 'ws';
import { type Channel, eventCounter, MAX_REPLIES, refusal, replyTo } from './channel.ts';
import { NotMcp, Refused } from './failure.ts';
import { type Exchange, MAX_BYTES } from './http.ts';
import { answerTo, type Message, parseMessages } from './rpc.ts';

const SUBPROTOCOL = 'mcp';
const CLOSE_MS = 1_000;

/** A websocket that the server closed, with the code that it gave. */
export class WebSocketClosed extends Error {
  override name = 'WebSocketClosed';
  readonly code: string;

  constructor(code: number) {
    super(`the server closed the websocket (${code})`);
    this.code = `WS_CLOSED_${code}`;
  }
}

/** Opens one. Throws as a request does. */
export async function openWebSocket(exchange: Exchange, url: URL): Promise<Channel> {
  const { signal, headers } = exchange;
  signal.throwIfAborted();
  const since = performance.now();
  const socket = new WebSocket(url, SUBPROTOCOL, {
    agent: exchange.agent(),
    headers,
    followRedirects: false,
    perMessageDeflate: false,
    maxPayload: MAX_BYTES,
  });
  const opened = Promise.withResolvers<void>();
  /** Rejects with what ended the connection. */
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => {});
  const fail = (error: unknown): void => {
    opened.reject(error);
    ended.reject(error);
    socket.terminate();
  };
  const abort = (): void => fail(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  socket.on('open', () => opened.resolve());
  socket.on('unexpected-response', (_, response) => {
    const told = Object.entries(response.headers).map(([name, value]) => [name, String(value)]);
    const answer = {
      url,
      status: response.statusCode ?? 0,
      headers: Object.fromEntries(told),
      ...exchange.bodyOf(response),
    };
    if (answer.status < 300) fail(new NotMcp(`it answers ${answer.status}, and opens no websocket`));
    else refusal(answer).then(fail, fail);
  });
  socket.on('error', error =>
    fail(isNetwork(error) ? error : new NotMcp(`it opens no websocket for the subprotocol ${SUBPROTOCOL}`)),
  );
  socket.on('close', code => fail(new WebSocketClosed(code)));

  const told: Message[] = [];
  let news = Promise.withResolvers<void>();
  const countMessage = eventCounter();
  socket.on('message', (data: RawData, isBinary) => {
    try {
      const text = String(data);
      countMessage();
      exchange.count(Buffer.byteLength(text));
      if (isBinary) throw new NotMcp('it answers in binary frames');
      told.push(...parseMessages(text));
    } catch (error) {
      fail(error);
    }
    news.resolve();
    news = Promise.withResolvers();
  });

  try {
    await opened.promise;
    exchange.step('open a websocket', url, `101, subprotocol ${socket.protocol}`, since);
  } catch (error) {
    signal.removeEventListener('abort', abort);
    exchange.step('open a websocket', url, String(error), since);
    throw error;
  }

  let replies = 0;
  return {
    async request({ method, params }) {
      const id = exchange.nextId();
      const asked = performance.now();
      socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }));
      for (;;) {
        const messages = told.splice(0);
        const found = answerTo(id, messages, false);
        if (found) exchange.step(method, url, found.kind, asked);
        if (found?.kind === 'result') return found;
        if (found?.kind === 'error') throw new Refused(200, {}, found.error);
        for (const message of messages) {
          if (message.kind === 'request' && replies++ < MAX_REPLIES)
            socket.send(JSON.stringify({ jsonrpc: '2.0', ...replyTo(message) }), () => {});
        }
        await Promise.race([news.promise, ended.promise]);
      }
    },
    async notify(method) {
      socket.send(JSON.stringify({ jsonrpc: '2.0', method }), () => {});
    },
    agreed() {},
    async end() {
      signal.removeEventListener('abort', abort);
      socket.close(1000);
      const late = setTimeout(() => socket.terminate(), CLOSE_MS);
      await ended.promise.catch(() => {});
      clearTimeout(late);
    },
  };
}

/** Errors of the handshake have no code, and those of frames one of the library's own. */
function isNetwork(error: Error & { code?: unknown }): boolean {
  return typeof error.code === 'string' && !error.code.startsWith('WS_ERR_');
}
