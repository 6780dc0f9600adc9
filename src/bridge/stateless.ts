/**
 * For all clients, a server that keeps nothing between requests that concerns one of them alone. Each request stands for
 * itself, in both eras: no session, no stream but that of an answer, and the server cannot ask a client back.
 */

import type { IncomingMessage } from 'node:http';
import type { Handler, Reply } from './http.ts';
import { type ClientMessage, type ClientRequest, CODES, isRecord, LEGACY, MODERN, Refusal } from './messages.ts';
import { type Answer, refusalOf, unavailable } from './peer.ts';
import type { Introduction, Pool } from './pool.ts';

/** As many as there are connections. */
const MAX_PENDING = 1_024;
/** So long a request runs on after its client is gone. */
const GONE_MS = 60_000;
const CLIENT_FACTS = 'io.modelcontextprotocol/';
/** Methods of sessions: of no use, or of no effect, where there are none. */
const OF_SESSIONS = new Set(['logging/setLevel', 'resources/subscribe', 'resources/unsubscribe']);
/** The same in the modern era, where they are no methods any more, or need a stream of what the server says unasked. */
const NOT_MODERN = new Set(['initialize', 'ping', 'subscriptions/listen']);
/** Results that say how long they are good for (2026-07-28, Caching). */
const CACHEABLE = new Set([
  'server/discover',
  'tools/list',
  'prompts/list',
  'resources/list',
  'resources/templates/list',
  'resources/read',
]);
/** Of a resource, before 2026-07-28. */
const NOT_FOUND = -32002;
/** Where the header Mcp-Name repeats what is asked for. */
const NAMED: Readonly<Record<string, 'name' | 'uri'>> = {
  'tools/call': 'name',
  'prompts/get': 'name',
  'resources/read': 'uri',
};

export function createStateless(server: Pick<Pool, 'ask' | 'introduction'>): Handler {
  /** What ends a request that runs, by the client's own name for it: session and id. */
  const running = new Map<string, AbortController>();
  let pending = 0;

  /** Has the server answer a request, until the client cancels it or is gone. */
  async function ask({ method, params }: ClientRequest, cancel: AbortController, reply: Reply): Promise<Answer> {
    if (pending >= MAX_PENDING) throw unavailable(`${MAX_PENDING} requests are being answered already`);
    pending += 1;
    try {
      const { signal } = cancel;
      return await server.ask({ method, params }, { signal, onProgress: message => void reply.event(message) });
    } catch (error) {
      throw refusalOf(error);
    } finally {
      pending -= 1;
    }
  }

  async function legacy(request: ClientRequest, session: string, reply: Reply): Promise<void> {
    const { id, method, params } = request;
    const answer = (rest: object, headers?: Record<string, string>): void =>
      reply.end({ jsonrpc: '2.0', id, ...rest }, headers);
    if (method === 'ping') return answer({ result: {} });
    if (isOfSessions(method)) throw notServed(method, 200);
    if (method === 'initialize') {
      const introduction = server.introduction();
      const wanted = String(params?.protocolVersion);
      const protocolVersion = LEGACY.includes(wanted) ? wanted : introduction.protocolVersion;
      // Only names the client: whoever serves its next request, here or in another Pod, needs to know nothing of it.
      const named = { 'mcp-session-id': crypto.randomUUID() };
      return answer({ result: { ...introduction, protocolVersion, capabilities: reduced(introduction) } }, named);
    }
    const key = JSON.stringify([session, id]);
    const cancel = new AbortController();
    running.set(key, cancel);
    // That it is gone does not cancel a request of these revisions, but nobody can fetch the answer any more.
    let late: NodeJS.Timeout | undefined;
    reply.gone.addEventListener('abort', () => {
      late = setTimeout(() => cancel.abort(reply.gone.reason), GONE_MS);
    });
    try {
      answer(await ask(request, cancel, reply));
    } catch (error) {
      if (!cancel.signal.aborted) throw error;
      reply.close();
    } finally {
      clearTimeout(late);
      if (running.get(key) === cancel) running.delete(key);
    }
  }

  async function modern(request: ClientRequest, reply: Reply): Promise<void> {
    const { id, method, params = {} } = request;
    if (isOfSessions(method) || NOT_MODERN.has(method)) throw notServed(method, 404);
    if (method === 'server/discover') {
      const { serverInfo: _, protocolVersion: __, ...facts } = server.introduction();
      const capabilities = reduced(facts);
      const result = completed(method, { ...facts, capabilities, supportedVersions: [...MODERN, ...LEGACY] });
      return reply.end({ jsonrpc: '2.0', id, result });
    }
    const { _meta, ...others } = params;
    const kept = Object.entries(isRecord(_meta) ? _meta : {}).filter(([name]) => !name.startsWith(CLIENT_FACTS));
    const asked = { ...others, ...(kept.length > 0 && { _meta: Object.fromEntries(kept) }) };
    const cancel = new AbortController();
    const onGone = (): void => cancel.abort(reply.gone.reason);
    reply.gone.addEventListener('abort', onGone, { once: true });
    const answer = await ask({ ...request, params: asked }, cancel, reply).catch(error => {
      if (!cancel.signal.aborted) throw error;
    });
    reply.gone.removeEventListener('abort', onGone);
    if (!answer) return;
    if ('result' in answer) return reply.end({ jsonrpc: '2.0', id, result: completed(method, answer.result) });
    const error =
      isRecord(answer.error) && answer.error.code === NOT_FOUND
        ? { ...answer.error, code: CODES.invalidParams }
        : answer.error;
    // Of a method that it has, a server may say the same, such as of a tool that there is not.
    const isUnknown = isRecord(error) && error.code === CODES.methodNotFound && !isOffered(method);
    reply.end({ jsonrpc: '2.0', id, error }, {}, isUnknown ? 404 : 200);
  }

  function isOffered(method: string): boolean {
    const { capabilities } = server.introduction();
    const [feature = ''] = method.split('/');
    return isRecord(capabilities) && (feature in capabilities || `${feature}s` in capabilities);
  }

  /** A result of an earlier revision as one of the newest. */
  function completed(method: string, result: Record<string, unknown>): Record<string, unknown> {
    const { serverInfo } = server.introduction();
    return {
      resultType: 'complete',
      // The server says nothing of it.
      ...(CACHEABLE.has(method) && { ttlMs: 0, cacheScope: 'private' }),
      ...result,
      ...(serverInfo !== undefined && {
        _meta: { ...(isRecord(result._meta) ? result._meta : {}), [`${CLIENT_FACTS}serverInfo`]: serverInfo },
      }),
    };
  }

  return {
    async post(message, headers, reply) {
      const version = versionOf(message, headers);
      const session = String(headers['mcp-session-id'] ?? '');
      if (message.kind === 'request') {
        if (!MODERN.includes(version)) return legacy(message, session, reply);
        checkHeaders(message, headers);
        return modern(message, reply);
      }
      if (message.kind === 'notification' && message.method === 'notifications/cancelled' && session !== '') {
        const { requestId, reason } = message.params ?? {};
        const why = new DOMException(String(reason ?? 'cancelled by the client'), 'AbortError');
        running.get(JSON.stringify([session, requestId]))?.abort(why);
      }
      // All others concern sessions.
      reply.close();
    },
    async remove() {},
  };
}

function notServed(method: string, status: number): Refusal {
  return new Refusal(
    status,
    CODES.methodNotFound,
    `${method} is not served: all clients share the processes of this server`,
  );
}

/** Tasks are listed for whoever asks: they would be those of all clients. */
function isOfSessions(method: string): boolean {
  return OF_SESSIONS.has(method) || method.startsWith('tasks/');
}

/** What the server can do without a session. */
function reduced({ capabilities }: Introduction): Record<string, unknown> {
  const { logging: _, tasks: __, ...others } = isRecord(capabilities) ? capabilities : {};
  const silent = (value: unknown): unknown => {
    if (!isRecord(value)) return value;
    const { listChanged: _, subscribe: __, ...rest } = value;
    return rest;
  };
  return Object.fromEntries(Object.entries(others).map(([name, value]) => [name, silent(value)]));
}

/** The revision of a message, by its header or else by what it says itself. Throws Refusal. */
function versionOf(message: ClientMessage, headers: IncomingMessage['headers']): string {
  const header = headers['mcp-protocol-version'];
  const meta = message.kind === 'request' ? message.params?._meta : undefined;
  const said = isRecord(meta) ? meta[`${CLIENT_FACTS}protocolVersion`] : undefined;
  if (header !== undefined && said !== undefined && header !== said)
    throw new Refusal(400, CODES.headerMismatch, 'the header mcp-protocol-version does not repeat what the body says');
  const version = String(header ?? said ?? LEGACY[0]);
  if (!MODERN.includes(version) && !LEGACY.includes(version)) {
    throw new Refusal(400, CODES.unsupportedVersion, `the revision ${version} is not served`, {
      data: { supported: [...MODERN, ...LEGACY], requested: version },
    });
  }
  return version;
}

/** The headers of a modern request repeat what its body says (2026-07-28, Server Validation). Throws Refusal. */
function checkHeaders({ method, params }: ClientRequest, headers: IncomingMessage['headers']): void {
  const meta = isRecord(params?._meta) ? params._meta : {};
  if (!isRecord(meta[`${CLIENT_FACTS}clientCapabilities`]))
    throw new Refusal(400, CODES.invalidParams, `params._meta must have ${CLIENT_FACTS}clientCapabilities`);
  const name = NAMED[method];
  const pairs: [string, unknown][] = [
    ['mcp-protocol-version', meta[`${CLIENT_FACTS}protocolVersion`]],
    ['mcp-method', method],
    ...(name ? [['mcp-name', params?.[name]] satisfies [string, unknown]] : []),
  ];
  for (const [header, value] of pairs) {
    const said = header === 'mcp-name' ? decoded(headers[header]) : headers[header];
    if (said === undefined) throw new Refusal(400, CODES.headerMismatch, `the header ${header} is missing`);
    if (said !== value)
      throw new Refusal(400, CODES.headerMismatch, `the header ${header} does not repeat what the body says`);
  }
}

function decoded(header: string | string[] | undefined): string | undefined {
  const [, base64] = /^=\?base64\?(.*)\?=$/.exec(String(header)) ?? [];
  return base64 === undefined ? header?.toString() : Buffer.from(base64, 'base64').toString();
}
