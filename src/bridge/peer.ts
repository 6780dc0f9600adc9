/** JSON-RPC with a server process: each request has its answer, whoever asked. */

import { CODES, isRecord, Refusal } from './messages.ts';
import type { Message, ServerProcess } from './process.ts';

/** What a client says it is asked for, and what it is to get. */
export interface Request {
  method: string;
  params?: Record<string, unknown> | undefined;
}

/** `result` or `error` of a response. */
export type Answer = { result: Record<string, unknown> } | { error: unknown };

export interface Peer {
  /**
   * Asks the server. Progress comes with the token that the request names. Rejects with ServerGone; when the signal aborts,
   * the server is told that the request is cancelled, and the signal's reason is thrown.
   */
  ask(request: Request, options: { onProgress?: (message: Message) => void; signal?: AbortSignal }): Promise<Answer>;
  /** Passes a notification or a response on as it is. Throws ServerBusy. */
  tell(message: object): void;
  end(): Promise<void>;
  /** Resolves with why, when the server has ended. */
  ended: Promise<string>;
}

/** The server ended before it answered. */
export class ServerGone extends Error {
  override name = 'ServerGone';
}

/** It does not read what it is sent. */
export class ServerBusy extends Error {
  override name = 'ServerBusy';
}

const MAX_BACKLOG_BYTES = 16 * 2 ** 20;

interface Asked {
  answer: (answer: Answer) => void;
  fail: (why: unknown) => void;
  onProgress: ((message: Message) => void) | undefined;
  /** That the client gave. */
  token: unknown;
}

/** `start` starts the server with what takes its messages; `onMessage` gets all that answers no request. */
export function createPeer(
  start: (onMessage: (message: Message) => void) => ServerProcess,
  onMessage: (message: Message) => void,
): Peer {
  /** By the id that the server knows: those of clients may be equal. */
  const asked = new Map<number, Asked>();
  let lastId = 0;
  let gone: ServerGone | undefined;

  const server = start(message => {
    if ('method' in message) {
      if (!passProgress(message)) onMessage(message);
      return;
    }
    // An error of what the server could not read has no id: it is about the only request that there is, if there is one.
    const isNobodys = message.id === null && 'error' in message && asked.size === 1;
    const id = isNobodys ? Number([...asked.keys()][0]) : Number(message.id);
    const request = asked.get(id);
    asked.delete(id);
    if ('error' in message) request?.answer({ error: message.error });
    else if (isRecord(message.result)) request?.answer({ result: message.result });
    else
      request?.answer({ error: { code: CODES.internal, message: 'the server answers neither a result nor an error' } });
  });

  void server.ended.then(why => {
    gone = new ServerGone(why);
    for (const { fail } of asked.values()) fail(gone);
  });

  function checkBacklog(): void {
    if (server.backlog() > MAX_BACKLOG_BYTES) throw new ServerBusy('the server does not read what it is sent');
  }

  function passProgress(message: Message): boolean {
    if (message.method !== 'notifications/progress') return false;
    const params = message.params as { progressToken?: unknown } | undefined;
    const request = asked.get(Number(params?.progressToken));
    request?.onProgress?.({ ...message, params: { ...params, progressToken: request.token } });
    return true;
  }

  return {
    async ask({ method, params }, { onProgress, signal }) {
      signal?.throwIfAborted();
      if (gone) throw gone;
      checkBacklog();
      lastId += 1;
      const id = lastId;
      const { promise, resolve: answer, reject: fail } = Promise.withResolvers<Answer>();
      const onAbort = (): void => {
        const params = { requestId: id, reason: String(signal?.reason?.message ?? signal?.reason) };
        // Clients may not cancel it either (2025-11-25, Cancellation).
        if (method !== 'initialize') server.send({ jsonrpc: '2.0', method: 'notifications/cancelled', params });
        fail(signal?.reason);
      };
      const token = (params?._meta as { progressToken?: unknown } | undefined)?.progressToken;
      asked.set(id, { answer, fail, onProgress: token === undefined ? undefined : onProgress, token });
      signal?.addEventListener('abort', onAbort, { once: true });
      try {
        const named =
          token === undefined ? params : { ...params, _meta: { ...(params?._meta as object), progressToken: id } };
        server.send({ jsonrpc: '2.0', id, method, ...(named && { params: named }) });
        return await promise;
      } finally {
        asked.delete(id);
        signal?.removeEventListener('abort', onAbort);
      }
    },
    tell(message) {
      checkBacklog();
      server.send(message);
    },
    end: () => server.end(),
    ended: server.ended,
  };
}

/** Answers what the server asked, in no client's name. One that floods and does not read gets no answer. */
export function answerServer(peer: Peer, answer: object): void {
  try {
    peer.tell(answer);
  } catch (error) {
    if (!(error instanceof ServerBusy)) throw error;
  }
}

/** What a client gets for an error of `ask`. */
export function refusalOf(error: unknown): unknown {
  // No status that has clients and proxies send it again: the server may have done what it was asked for.
  if (error instanceof ServerGone)
    return new Refusal(200, CODES.server, `the server ended before it answered: ${error.message}`);
  return error instanceof ServerBusy ? unavailable(error.message) : error;
}

/** Nothing was done; it may be tried again. */
export function unavailable(why: string): Refusal {
  return new Refusal(503, CODES.server, why, { headers: { 'retry-after': '1' } });
}
