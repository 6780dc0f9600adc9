/**
 * One probe: finds out which revision of MCP a server speaks, asks who it is and which tools it has, and leaves nothing
 * open. The eras and how to tell them: https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning
 */

import { hash } from 'node:crypto';
import { authorizationOf, withMetadata } from './authorization.ts';
import { type Call, type Channel, getEventStream, openSse, openStreamable } from './channel.ts';
import { classify, patienceFor } from './classify.ts';
import type { Dialer } from './dial.ts';
import { isReset, NotMcp, Refused, VersionMismatch } from './failure.ts';
import { canonicalHost, portOf } from './guard.ts';
import { type Exchange, openExchange, type Step } from './http.ts';
import type { Outcome, ServerFacts, ToolFacts } from './outcome.ts';
import { isRecord } from './rpc.ts';
import { CredentialsMissing, type Era, type Memory, type Target } from './target.ts';
import { cleanText, secretsIn, withoutSecrets } from './text.ts';
import { hashTools, listTools } from './tools.ts';
import { openWebSocket } from './websocket.ts';

/** Revisions in which each request says all that there is to know, newest first. */
const MODERN = ['2026-07-28'] as const;
/** Revisions that begin with an `initialize`, newest first. */
const LEGACY: readonly [string, ...string[]] = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05', '2024-10-07'];
/** Errors that only a modern server gives: of headers, of capabilities, of versions. */
const MODERN_ERRORS = new Set([-32020, -32021, -32022]);
const UNSUPPORTED_VERSION = -32022;
/** For the head of an event stream, which comes at once where there is one. */
const MOST_GLANCE_MS = 3_000;
/** A server that was modern once may speak both eras today. */
const ERA_KNOWN_FOR_MS = 24 * 3_600_000;

export interface ProbeOptions {
  /** For URLs that people wrote. */
  dial: Dialer;
  /** For URLs that the operator built. */
  dialTrusted: Dialer;
  client: { name: string; version: string };
  userAgent: string;
  /** Told of each step, as it is done. */
  onStep?: (step: Step) => void;
}

/** Makes the function that probes a target. It never throws, and ends within the target's timeout and 2 s. */
export function createProbe({ dial, dialTrusted, client, userAgent, onStep }: ProbeOptions) {
  return async function probe(target: Target, memory: Memory, signal: AbortSignal): Promise<Outcome> {
    // One signal for all that ends a probe: composed ones cost more than all else that a probe does.
    const ending = new AbortController();
    const abort = (): void => ending.abort(signal.reason);
    const late = setTimeout(
      () => ending.abort(new DOMException('the probe took too long', 'TimeoutError')),
      target.timeoutMs,
    );
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
    try {
      return await probeUntil(ending, target, memory);
    } finally {
      clearTimeout(late);
      signal.removeEventListener('abort', abort);
    }
  };

  async function probeUntil(ending: AbortController, target: Target, memory: Memory): Promise<Outcome> {
    let secrets: Awaited<ReturnType<NonNullable<Target['secrets']>>> | undefined;
    try {
      secrets = await target.secrets?.(ending.signal);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      return { kind: error instanceof CredentialsMissing ? 'credentials-missing' : 'broken', why };
    }
    const credentials = hash('sha256', JSON.stringify(secrets?.headers ?? {}));
    if (memory.credentials !== credentials) {
      memory.credentials = credentials;
      memory.tools = undefined;
      memory.metadata = undefined;
    }
    const exchange = openExchange({
      url: new URL(target.url),
      dial: target.trusted ? trusting(new URL(target.url)) : dial,
      credentials: secrets?.headers ?? {},
      ca: secrets?.ca,
      userAgent,
      ending,
      onStep,
    });
    try {
      const found = await converse(exchange, { target, memory, client }).catch(error =>
        classify(error, target, exchange.signal),
      );
      return withoutSecrets(await withMetadata(exchange, found, target, memory), secretsIn(secrets?.headers ?? {}));
    } finally {
      await exchange.close();
    }
  }

  /** The operator built this URL, and no other one that its server may name. */
  function trusting(url: URL): Dialer {
    const host = canonicalHost(url.hostname);
    return to => (to.port === portOf(url) && canonicalHost(to.hostname) === host ? dialTrusted : dial)(to);
  }
}

interface Circumstances {
  target: Target;
  memory: Memory;
  client: ProbeOptions['client'];
  /** Of the first request; absent, as long as the probe lasts. */
  limit?: AbortSignal;
}

/** Finds the era and talks to the server. Throws what it ran into. */
async function converse(exchange: Exchange, circumstances: Circumstances): Promise<Outcome> {
  const { target, memory } = circumstances;
  const url = new URL(target.url);
  if (url.protocol === 'ws:' || url.protocol === 'wss:') {
    return talk(await openWebSocket(exchange, url), channel => initialize(channel, circumstances));
  }
  const { era, guess } = memory;
  const isKnown = era !== undefined && performance.now() - era.learntAt < ERA_KNOWN_FOR_MS;
  const first = isKnown ? era.kind : guess;
  try {
    if (first) {
      const found = await ATTEMPTS[first](exchange, url, circumstances);
      memory.era = isKnown ? era : { kind: first, learntAt: performance.now() };
      return found;
    }
  } catch (error) {
    // It may have changed, or the guess was wrong: another probe begins at the beginning, or this one.
    if (!isStatus(error, 429)) memory.era = undefined;
    memory.guess = isKnown ? undefined : otherThan(first);
    if (exchange.signal.aborted || !maySpeakOtherwise(error)) throw error;
  }
  try {
    const [kind, found] = await detect(exchange, url, circumstances);
    memory.era = { kind, learntAt: performance.now() };
    return found;
  } catch (error) {
    // Where one era took all the time, the next probe gives all of its own to one of them.
    memory.guess = exchange.signal.aborted ? otherThan(first) : undefined;
    throw error;
  }
}

function otherThan(era: Era | undefined): Era {
  return era === 'modern' ? 'legacy' : 'modern';
}

const ATTEMPTS: Record<Era, (exchange: Exchange, url: URL, circumstances: Circumstances) => Promise<Outcome>> = {
  modern: (exchange, url, circumstances) =>
    talk(openStreamable(exchange, url), channel => discover(channel, circumstances)),
  legacy: (exchange, url, circumstances) =>
    talk(openStreamable(exchange, url), channel => initialize(channel, circumstances)),
  sse: async (exchange, url, circumstances) =>
    talk(await openSse(exchange, await getEventStream(exchange, url)), channel => initialize(channel, circumstances)),
};

async function talk(channel: Channel, conversation: (channel: Channel) => Promise<Outcome>): Promise<Outcome> {
  try {
    return await conversation(channel);
  } finally {
    await channel.end();
  }
}

/** Tries one era after the other: the newest first, as an older one may be served beside it. */
async function detect(exchange: Exchange, url: URL, circumstances: Circumstances): Promise<[Era, Outcome]> {
  // Some servers let a request hang that they do not know: half of the time is left for one that they do.
  const halfMs = circumstances.target.timeoutMs / 2;
  const patience = AbortSignal.timeout(halfMs);
  const limit = AbortSignal.any([exchange.signal, patience]);
  let first: unknown;
  try {
    return ['modern', await ATTEMPTS.modern(exchange, url, { ...circumstances, limit })];
  } catch (error) {
    if (exchange.signal.aborted || !(patience.aborted || maySpeakOtherwise(error))) throw error;
    first = error;
  }
  let second: unknown;
  try {
    return ['legacy', await ATTEMPTS.legacy(exchange, url, circumstances)];
  } catch (error) {
    const saidMore = isModernError(error) || isModernError(first) || first instanceof VersionMismatch;
    second = (saidMore || isStatus(first, 401)) && !isStatus(error, 401) ? first : error;
    if (exchange.signal.aborted || isStatus(error, 401, 429) || !maySpeakOtherwise(error)) throw second;
    // It is modern, and was only slow, or its connection broke.
    if (patience.aborted || (isModernError(error) && isReset(first)))
      return ['modern', await ATTEMPTS.modern(exchange, url, circumstances)];
    if (saidMore) throw second;
  }
  // Until 2025-06-18 any 4xx may mean that a server speaks HTTP+SSE; in the wild, anything. That there is no event stream
  // either says less than why there is no answer to a POST.
  const asking = getEventStream(exchange, url);
  const stream = await soon(asking, Math.min(MOST_GLANCE_MS, halfMs / 2)).catch(error => {
    asking.then(late => late.drop()).catch(() => {});
    throw isStatus(error, 401, 403, 429) ? error : second;
  });
  return ['sse', await talk(await openSse(exchange, stream), channel => initialize(channel, circumstances))];
}

/** Rejects when a promise takes longer. */
async function soon<T>(promise: Promise<T>, ms: number): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(reject, ms, new Error(`nothing for ${ms} ms`));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Whether another era may be worth a try: 429 and what happens before HTTP would be said again. */
function maySpeakOtherwise(error: unknown): boolean {
  if (error instanceof NotMcp || error instanceof VersionMismatch) return true;
  return error instanceof Refused ? error.status !== 429 : isReset(error);
}

function isModernError(error: unknown): boolean {
  return error instanceof Refused && error.rpc !== undefined && MODERN_ERRORS.has(error.rpc.code);
}

function isStatus(error: unknown, ...statuses: number[]): boolean {
  return error instanceof Refused && statuses.includes(error.status);
}

/** The conversation of the modern era. */
async function discover(channel: Channel, circumstances: Circumstances): Promise<Outcome> {
  const { client, limit } = circumstances;
  const [version] = MODERN;
  const envelope = (method: string, params: object): Call => ({
    method,
    params: {
      ...params,
      _meta: {
        'io.modelcontextprotocol/protocolVersion': version,
        'io.modelcontextprotocol/clientInfo': client,
        'io.modelcontextprotocol/clientCapabilities': {},
      },
    },
    headers: { 'mcp-protocol-version': version, 'mcp-method': method },
  });
  const ask = async (): Promise<{ result?: Record<string, unknown>; supported: unknown }> => {
    try {
      const { result } = await channel.request({ ...envelope('server/discover', {}), ...(limit && { signal: limit }) });
      return { result, supported: result.supportedVersions };
    } catch (error) {
      if (!(error instanceof Refused) || error.rpc?.code !== UNSUPPORTED_VERSION) throw error;
      return { supported: isRecord(error.rpc.data) ? error.rpc.data.supported : undefined };
    }
  };
  let { result, supported } = await ask();
  // Refused, and offered in one breath: the specification has a client take the offer.
  if (!result && versionsOf(supported).includes(version)) ({ result, supported } = await ask());
  if (result && versionsOf(supported).includes(version)) {
    const { [SERVER_INFO]: info } = isRecord(result._meta) ? result._meta : {};
    return describe(channel, envelope, version, info, result, circumstances);
  }
  const versions = versionsOf(supported);
  if (Array.isArray(supported) && !versions.some(known => LEGACY.includes(known))) throw mismatch(versions);
  throw new NotMcp('it does not speak the newest revision of MCP');
}

/** The conversation of the earlier era. */
async function initialize(channel: Channel, circumstances: Circumstances): Promise<Outcome> {
  const ask = (protocolVersion: string) =>
    channel.request({
      method: 'initialize',
      params: { protocolVersion, capabilities: {}, clientInfo: circumstances.client },
    });
  const [newest] = LEGACY;
  const { result } = await ask(newest).catch(error => {
    // Instead of answering with a revision of its own, as it should.
    const offered = error instanceof Refused && isRecord(error.rpc?.data) ? versionsOf(error.rpc.data.supported) : [];
    // One that speaks newer revisions alone says so in an error, which tells that to who asked.
    if (offered.length === 0 || offered.some(version => MODERN.includes(version as never))) throw error;
    const common = LEGACY.find(known => known !== newest && offered.includes(known));
    if (common === undefined) throw mismatch(offered);
    return ask(common);
  });
  const version = result.protocolVersion;
  if (typeof version !== 'string') throw new NotMcp('its answer to initialize names no revision of MCP');
  if (!LEGACY.includes(version)) throw mismatch([version]);
  channel.agreed(version);
  await channel.notify('notifications/initialized');
  return describe(channel, (method, params) => ({ method, params }), version, result.serverInfo, result, circumstances);
}

/** Who the server is and what it can do, from its answer to the first request and its list of tools. */
async function describe(
  channel: Channel,
  envelope: (method: string, params: object) => Call,
  protocolVersion: string,
  serverInfo: unknown,
  { capabilities, instructions }: Record<string, unknown>,
  { memory }: Circumstances,
): Promise<Outcome> {
  const { name, title, version } = isRecord(serverInfo) ? serverInfo : {};
  const can = isRecord(capabilities) ? Object.keys(capabilities) : [];
  const server: ServerFacts = {
    ...words('name', name, 128),
    ...words('title', title, 128),
    ...words('version', version, 64),
    protocolVersion,
    capabilities: can
      .map(capability => cleanText(capability, 64))
      .sort()
      .slice(0, 32),
    ...(typeof instructions === 'string' && instructions !== '' && { instructionsLength: instructions.length }),
  };
  if (!can.includes('tools')) return { kind: 'answered', server: { ...server, tools: NO_TOOLS } };
  if (memory.tools && performance.now() < memory.tools.freshUntil)
    return { kind: 'answered', server: { ...server, tools: memory.tools.facts } };
  try {
    memory.tools = await listTools(channel, envelope, memory.tools);
    return { kind: 'answered', server: { ...server, tools: memory.tools.facts } };
  } catch (error) {
    // It has proved to be an MCP server; that it will not list its tools now (429, a stall) does not undo that.
    if (!(error instanceof Refused)) return { kind: 'answered', server };
    const refusal = authorizationOf(error);
    const forbidden = !refusal && error.status === 403;
    return {
      kind: 'answered',
      server,
      ...(refusal && { refusal }),
      ...(forbidden && { forbidden }),
      ...patienceFor(error),
    };
  }
}

const SERVER_INFO = 'io.modelcontextprotocol/serverInfo';
const NO_TOOLS: ToolFacts = { names: [], count: 0, hash: hashTools([]) };

function words<K extends string>(key: K, value: unknown, most: number): { [P in K]?: string } {
  const text = typeof value === 'string' ? cleanText(value, most) : '';
  return text === '' ? {} : ({ [key]: text } as { [P in K]?: string });
}

function versionsOf(list: unknown): string[] {
  return Array.isArray(list) ? list.filter(version => typeof version === 'string') : [];
}

function mismatch(versions: readonly string[]): VersionMismatch {
  const theirs = versions.slice(0, 8).map(version => cleanText(version, 32));
  return new VersionMismatch(
    `the server speaks ${theirs.join(', ') || 'none that it names'}, and the operator ${[...MODERN, ...LEGACY].join(', ')}`,
  );
}
