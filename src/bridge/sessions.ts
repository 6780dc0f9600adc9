/**
 * A process for each session, of a server that keeps what concerns one client alone. All passes as it is, both ways, in
 * the revision that client and server agree on; revisions without sessions are not served.
 */

import type { IncomingMessage } from 'node:http';
import type { Handler, Reply } from './http.ts';
import { type ClientRequest, CODES, LEGACY, Refusal } from './messages.ts';
import { answerServer, type Peer, refusalOf, unavailable } from './peer.ts';
import type { Message } from './process.ts';

export interface SessionsOptions {
  /** Starts a server of its own for a session; it gets what the server says unasked. */
  start: (onMessage: (message: Message) => void) => Peer;
  most: number;
  /** A session that was not used for so long is ended. */
  idleMs: number;
  /** Told when a server ended before it answered its first request. */
  onStillborn: (why: string) => void;
}

interface Session {
  id: string;
  peer: Peer;
  /** What ends a request that runs, by the client's id of it; and its reply. */
  running: Map<string | number, { cancel: AbortController; reply: Reply }>;
  /** The stream for what the server says unasked. */
  stream: Reply | undefined;
  /** What the server said while there was no stream to say it in, and how long that is. */
  unsaid: Message[];
  unsaidLength: number;
  usedAt: number;
  idle: NodeJS.Timeout | undefined;
}

/** Requests of one session that run at a time. */
const MAX_PENDING = 64;
const MAX_UNSAID = 256;
const MAX_UNSAID_LENGTH = 2 ** 20;
/** When there is no room for one more, a session that was not used for so long makes some. */
const EVICT_AFTER_MS = 30_000;

export function createSessions({ start, most, idleMs, onStillborn }: SessionsOptions): Handler {
  const sessions = new Map<string, Session>();
  /** Servers of sessions, also of such that are still to begin. */
  const all = new Set<Peer>();

  function sessionOf(headers: IncomingMessage['headers']): Session {
    const id = headers['mcp-session-id'];
    if (id === undefined)
      throw new Refusal(400, CODES.invalidRequest, 'the header Mcp-Session-Id is missing: begin with initialize');
    const session = sessions.get(String(id));
    if (!session)
      throw new Refusal(404, CODES.sessionNotFound, 'there is no such session: begin a new one with initialize');
    use(session);
    return session;
  }

  function use(session: Session, at = performance.now()): void {
    session.usedAt = at;
    clearTimeout(session.idle);
    session.idle = setTimeout(() => {
      if (session.stream || isRunning(session)) use(session, session.usedAt);
      else void remove(session);
    }, idleMs);
    session.idle.unref();
  }

  async function remove(session: Session): Promise<void> {
    clearTimeout(session.idle);
    sessions.delete(session.id);
    session.stream?.close();
    session.stream = undefined;
    await session.peer.end();
  }

  function makeRoom(): void {
    if (all.size < most) return;
    // One whose client still listens has a longer grace.
    const graceOf = ({ stream }: Session): number => (stream ? idleMs : EVICT_AFTER_MS);
    const [oldest] = [...sessions.values()]
      .filter(session => !isRunning(session) && performance.now() - session.usedAt >= graceOf(session))
      .sort((a, b) => Number(a.stream !== undefined) - Number(b.stream !== undefined) || a.usedAt - b.usedAt);
    if (!oldest) throw unavailable(`all of ${most} sessions are in use: end one with DELETE, or try again later`);
    all.delete(oldest.peer);
    void remove(oldest);
  }

  /** Begins a session, which there is once the server has agreed to it. */
  async function initialize({ id, method, params }: ClientRequest, reply: Reply): Promise<void> {
    makeRoom();
    const peer = start(message => deliver(session, message));
    const session: Session = {
      id: crypto.randomUUID(),
      peer,
      running: new Map(),
      stream: undefined,
      unsaid: [],
      unsaidLength: 0,
      usedAt: performance.now(),
      idle: undefined,
    };
    all.add(peer);
    void peer.ended.then(() => {
      all.delete(peer);
      if (sessions.get(session.id) === session) void remove(session);
    });
    try {
      reply.head({ 'mcp-session-id': session.id });
      const answer = await peer.ask({ method, params }, { signal: reply.gone });
      if ('result' in answer) {
        sessions.set(session.id, session);
        use(session);
        reply.end({ jsonrpc: '2.0', id, ...answer }, { 'mcp-session-id': session.id });
        return;
      }
      void peer.end();
      reply.end({ jsonrpc: '2.0', id, ...answer });
    } catch (error) {
      void peer.end();
      if (reply.gone.aborted) return;
      const refusal = refusalOf(error);
      if (refusal !== error) onStillborn(String((error as Error).message));
      throw refusal;
    }
  }

  async function ask(session: Session, { id, method, params }: ClientRequest, reply: Reply): Promise<void> {
    if (session.running.has(id))
      throw new Refusal(400, CODES.invalidRequest, `a request with the id ${id} runs already`);
    if (session.running.size >= MAX_PENDING) throw unavailable(`${MAX_PENDING} requests of this session run already`);
    const cancel = new AbortController();
    session.running.set(id, { cancel, reply });
    // What waits may well be what this request is about.
    flush(session, reply);
    try {
      const onProgress = (message: Message): void => void reply.event(message);
      const answer = await session.peer.ask({ method, params }, { signal: cancel.signal, onProgress });
      reply.end({ jsonrpc: '2.0', id, ...answer });
    } catch (error) {
      if (!cancel.signal.aborted) throw refusalOf(error);
      reply.close();
    } finally {
      session.running.delete(id);
      if (sessions.has(session.id)) use(session);
    }
  }

  return {
    async post(message, headers, reply) {
      if (message.kind === 'request' && message.method === 'initialize') return initialize(message, reply);
      checkVersion(headers, message.kind === 'request');
      const session = sessionOf(headers);
      if (message.kind === 'request') return ask(session, message, reply);
      if (message.kind === 'notification' && message.method === 'notifications/cancelled') {
        const { requestId, reason } = message.params ?? {};
        const why = new DOMException(String(reason ?? 'cancelled by the client'), 'AbortError');
        session.running.get(requestId as string | number)?.cancel.abort(why);
      } else {
        tell(session, message.raw);
      }
      reply.close();
    },
    listen(headers, reply) {
      const session = sessionOf(headers);
      // The newest one counts: a client whose connection broke does not wait until that is noticed here.
      session.stream?.close();
      session.stream = reply;
      reply.gone.addEventListener('abort', () => {
        if (session.stream === reply) session.stream = undefined;
      });
      flush(session, reply);
    },
    hush() {
      for (const session of sessions.values()) {
        session.stream?.close();
        session.stream = undefined;
      }
    },
    async remove(headers) {
      const session = sessionOf(headers);
      // Its client wants no answers any more; that of a process that ends by itself does.
      const why = new DOMException('the client ended the session', 'AbortError');
      for (const { cancel } of session.running.values()) cancel.abort(why);
      await remove(session);
    },
  };
}

function isRunning({ running }: Session): boolean {
  // No one can get an answer whose client is gone.
  return [...running.values()].some(({ reply }) => !reply.gone.aborted);
}

/**
 * Passes on what the server says unasked. Over stdio nothing tells what it belongs to: requests and log messages are most
 * likely about the request that runs, all else about none.
 */
function deliver(session: Session, message: Message): void {
  const replies = [...session.running.values()].map(({ reply }) => reply).reverse();
  const streams = session.stream ? [session.stream] : [];
  const isAbout = 'id' in message || message.method === 'notifications/message';
  const places = isAbout ? [...replies, ...streams] : [...streams, ...replies];
  if (places.some(place => place.event(message))) return;
  const { length } = JSON.stringify(message);
  if (session.unsaid.length < MAX_UNSAID && session.unsaidLength + length <= MAX_UNSAID_LENGTH) {
    session.unsaid.push(message);
    session.unsaidLength += length;
  } else if ('id' in message) {
    const error = { code: CODES.server, message: 'the client does not listen' };
    answerServer(session.peer, { jsonrpc: '2.0', id: message.id, error });
  }
}

function flush(session: Session, reply: Reply): void {
  while (session.unsaid[0] && reply.event(session.unsaid[0])) session.unsaid.shift();
  if (session.unsaid.length === 0) session.unsaidLength = 0;
}

/** Throws Refusal. */
function tell({ peer }: Session, message: object): void {
  try {
    peer.tell(message);
  } catch (error) {
    throw refusalOf(error);
  }
}

/** Revisions without sessions are told apart by their header. Throws Refusal. */
function checkVersion(headers: IncomingMessage['headers'], isRequest: boolean): void {
  const version = headers['mcp-protocol-version'];
  if (version === undefined || LEGACY.includes(String(version))) return;
  if (!isRequest) throw new Refusal(400, CODES.invalidRequest, `the revision ${version} is not served`);
  // No error of the newest era: a client that speaks both takes this for a server of the earlier one, as it should.
  throw new Refusal(400, CODES.server, `the revision ${version} is not served: begin a session with initialize`);
}
