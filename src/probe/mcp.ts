/** One probe: a real MCP client connects, asks who is there and which tools it has, and leaves nothing open. */

import { createHash } from 'node:crypto';
import {
  Client,
  extractWWWAuthenticateParams,
  StreamableHTTPClientTransport,
  UnsupportedProtocolVersionError,
} from '@modelcontextprotocol/client';
import { openExchange, type Seen, UnreadableAnswer } from './fetch.ts';
import { AddressDenied, type Guard } from './guard.ts';
import type { Challenge, Outcome, ServerFacts } from './outcome.ts';
import { CredentialsMissing, type Target } from './target.ts';
import { cleanText } from './text.ts';

/** As many names as the status holds (design: tools ≤ 128). */
const MAX_TOOL_NAMES = 128;
const MAX_PAGES = 32;

export interface ProbeOptions {
  /** For URLs that people wrote. */
  guard: Guard;
  /** For URLs that the operator built. */
  trustedGuard: Guard;
  client: { name: string; version: string };
  userAgent: string;
}

/** Makes the function that probes a target. It never throws, and ends within the target's timeout and 2 s. */
export function createProbe({ guard, trustedGuard, client: identity, userAgent }: ProbeOptions) {
  return async function probe(target: Target, signal: AbortSignal): Promise<Outcome> {
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(target.timeoutMs)]);
    let secrets: Awaited<ReturnType<NonNullable<Target['secrets']>>> | undefined;
    try {
      secrets = await target.secrets?.(deadline);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      return { kind: error instanceof CredentialsMissing ? 'credentials-missing' : 'broken', why };
    }
    const exchange = openExchange({
      url: target.url,
      guard: target.trusted ? trustedGuard : guard,
      headers: secrets?.headers ?? {},
      ca: secrets?.ca,
      userAgent,
      timeoutMs: target.timeoutMs,
      signal: deadline,
    });
    const transport = new StreamableHTTPClientTransport(new URL(target.url), { fetch: exchange.fetch });
    const client = new Client(identity, { versionNegotiation: { mode: 'auto' }, listMaxPages: MAX_PAGES });
    const limits = { signal: deadline, timeout: target.timeoutMs };
    try {
      await client.connect(transport, limits);
      const tools = client.getServerCapabilities()?.tools
        ? await listTools(client, limits)
        : { names: [], count: 0, hash: hashTools([]) };
      return { kind: 'answered', server: describeServer(client, tools) };
    } catch (error) {
      return classify(error, exchange.seen, target, deadline);
    } finally {
      await exchange.endSession(client.getNegotiatedProtocolVersion());
      await client.close().catch(() => {});
      await exchange.close();
    }
  };
}

async function listTools(
  client: Client,
  limits: { signal: AbortSignal; timeout: number },
): Promise<ServerFacts['tools']> {
  try {
    const { tools } = await client.listTools(undefined, { ...limits, cacheMode: 'bypass' });
    const names = tools.map(tool => cleanText(tool.name, 128)).sort();
    return { names: names.slice(0, MAX_TOOL_NAMES), count: names.length, hash: hashTools(tools) };
  } catch {
    // It has proved to be an MCP server; that it will not list its tools now (429, a stall) does not undo that.
    return undefined;
  }
}

/** sha256 over the tools' names, descriptions and input schemas, whatever order the server gives them in. */
export function hashTools(
  tools: readonly { name: string; description?: string | undefined; inputSchema?: unknown }[],
): string {
  const canonical = tools
    .map(({ name, description, inputSchema }) => JSON.stringify([name, description ?? '', sortKeys(inputSchema)]))
    .sort();
  return `sha256:${createHash('sha256').update(canonical.join('\n')).digest('hex')}`;
}

function sortKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortKeys);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, child]) => [key, sortKeys(child)]),
  );
}

function describeServer(client: Client, tools: ServerFacts['tools']): ServerFacts {
  const info = client.getServerVersion();
  return {
    ...(info?.name && { name: cleanText(info.name, 128) }),
    ...(info?.title && { title: cleanText(info.title, 128) }),
    ...(info?.version && { version: cleanText(info.version, 64) }),
    protocolVersion: cleanText(client.getNegotiatedProtocolVersion() ?? '', 32),
    capabilities: Object.keys(client.getServerCapabilities() ?? {})
      .map(name => cleanText(name, 64))
      .sort()
      .slice(0, 32),
    ...(tools && { tools }),
  };
}

/** Turns a failed connection into an outcome, from what was seen on the wire rather than from the client's words. */
export function classify(
  error: unknown,
  seen: Seen,
  target: Pick<Target, 'url' | 'timeoutMs'>,
  deadline: AbortSignal,
): Outcome {
  if (seen.error !== undefined) {
    const outcome = classifyNetwork(seen.error, target);
    if (outcome) return outcome;
  }
  if (deadline.aborted) return { kind: 'timeout', afterMs: target.timeoutMs };
  const { status } = seen;
  if (status === undefined) return { kind: 'broken', why: message(seen.error ?? error) };
  if (error instanceof UnsupportedProtocolVersionError || /protocol version is not supported/i.test(message(error))) {
    return { kind: 'protocol-mismatch', why: cleanText(message(error), 256) };
  }
  if (status === 401) return { kind: 'unauthorized', challenge: parseChallenge(seen) };
  if (status === 403 && parseError(seen) === 'insufficient_scope') {
    return { kind: 'insufficient-scope', challenge: parseChallenge(seen) ?? {} };
  }
  if (status === 408) return { kind: 'timeout', afterMs: target.timeoutMs };
  if (status === 429) return { kind: 'rate-limited', retryAfterMs: retryAfterMs(seen.retryAfter) };
  if (status === 403 || status === 404 || status === 410 || status === 421 || status >= 500)
    return { kind: 'http-error', status };
  if (status >= 300 && status < 400) return { kind: 'redirected', to: redirectTarget(seen.location, target.url) };
  if (status >= 400) {
    if (/already initialized/i.test(rpcErrorMessage(seen.errorBody))) return { kind: 'busy' };
    return { kind: 'not-mcp', why: `it answers ${status} to an MCP request` };
  }
  const type = cleanText(seen.contentType.split(';')[0] ?? '', 64);
  if (!/^(application\/json|text\/event-stream)$/i.test(type))
    return { kind: 'not-mcp', why: `it answers ${type || 'without a content type'}` };
  return { kind: 'not-mcp', why: `its ${type} answer is no MCP message` };
}

const DNS = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'ENODATA', 'ESERVFAIL']);
const TIMEOUTS = new Set(['UND_ERR_CONNECT_TIMEOUT', 'UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT', 'ETIMEDOUT']);
const RESETS = new Set(['ECONNRESET', 'UND_ERR_SOCKET', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH', 'EADDRNOTAVAIL']);
const UNREADABLE = new Set(['UND_ERR_HEADERS_OVERFLOW', 'UND_ERR_RES_EXCEEDED_MAX_SIZE', 'UND_ERR_RESPONSE']);

function classifyNetwork(error: unknown, { timeoutMs }: Pick<Target, 'timeoutMs'>): Outcome | undefined {
  for (const cause of causes(error)) {
    if (cause instanceof AddressDenied) return { kind: 'address-denied', why: cause.message };
    if (cause instanceof UnreadableAnswer) return { kind: 'not-mcp', why: cause.message };
    const code = (cause as { code?: unknown }).code;
    if ((cause as { name?: unknown }).name === 'HTTPParserError')
      return { kind: 'not-mcp', why: 'its answer is not HTTP' };
    if ((cause as { name?: unknown }).name === 'TimeoutError') return { kind: 'timeout', afterMs: timeoutMs };
    if (typeof code !== 'string') continue;
    if (DNS.has(code)) return { kind: 'dns', code };
    if (code === 'ECONNREFUSED') return { kind: 'refused' };
    if (RESETS.has(code)) return { kind: 'reset', code };
    if (TIMEOUTS.has(code)) return { kind: 'timeout', afterMs: timeoutMs };
    if (UNREADABLE.has(code)) return { kind: 'not-mcp', why: `its answer is too large or malformed (${code})` };
    if (code.startsWith('HPE_')) return { kind: 'not-mcp', why: 'its answer is not HTTP' };
    if (/CERT|^ERR_SSL_|^ERR_TLS_|SELF_SIGNED|UNABLE_TO_|EPROTO|CRL/.test(code)) return { kind: 'tls', code };
  }
  return undefined;
}

/** The error, its causes, and the parts of aggregate errors (one per address that was tried). */
function* causes(error: unknown, depth = 0): Generator<object> {
  if (typeof error !== 'object' || error === null || depth > 5) return;
  yield error;
  if (error instanceof AggregateError) for (const part of error.errors) yield* causes(part, depth + 1);
  yield* causes((error as { cause?: unknown }).cause, depth + 1);
}

function parseChallenge(seen: Seen): Challenge | undefined {
  if (!seen.wwwAuthenticate) return undefined;
  const { resourceMetadataUrl, scope } = extractWWWAuthenticateParams(challengeResponse(seen));
  const scopes = scope
    ?.split(' ')
    .filter(Boolean)
    .slice(0, 32)
    .map(part => cleanText(part, 128))
    .sort();
  return {
    ...(resourceMetadataUrl && { resourceMetadataUrl: cleanText(resourceMetadataUrl.href, 2048) }),
    ...(scopes?.length && { scopes }),
  };
}

function parseError(seen: Seen): string | undefined {
  return seen.wwwAuthenticate ? extractWWWAuthenticateParams(challengeResponse(seen)).error : undefined;
}

function challengeResponse({ wwwAuthenticate }: Seen): Response {
  return new Response(null, { headers: { 'www-authenticate': wwwAuthenticate } });
}

/** Retry-After in ms, from seconds or an HTTP date; at most a day. */
export function retryAfterMs(header: string, now = Date.now()): number | undefined {
  if (header === '') return undefined;
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(wait) && wait >= 0 ? Math.min(wait, 86_400_000) : undefined;
}

/** Where a redirect points, without its query, which may hold secrets. */
function redirectTarget(location: string, base: string): string {
  try {
    const { origin, pathname } = new URL(location, base);
    return cleanText(origin + pathname, 512);
  } catch {
    return 'nowhere that can be read';
  }
}

function rpcErrorMessage(body: string): string {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: unknown } };
    return typeof error?.message === 'string' ? error.message : '';
  } catch {
    return '';
  }
}

/** What went wrong at the bottom of it; the client's own words above it say only that it failed. */
function message(error: unknown): string {
  const [deepest] = [...causes(error)].reverse();
  const { message: text = String(error), code } = (deepest ?? {}) as { message?: string; code?: unknown };
  return cleanText(typeof code === 'string' && !text.includes(code) ? `${code}: ${text}` : text, 256);
}
