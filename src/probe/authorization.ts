/** What a server says of how to get in: its challenge, and its protected resource metadata (RFC 9728). */

import type { Refused } from './failure.ts';
import type { Exchange } from './http.ts';
import type { Challenge, Outcome, Refusal } from './outcome.ts';
import { isRecord } from './rpc.ts';
import type { Memory, Target } from './target.ts';
import { cleanText, MAX_URL } from './text.ts';

const MAX_METADATA_BYTES = 64 * 1024;
const METADATA_KNOWN_FOR_MS = 24 * 3_600_000;
/** What could not be had may be there later. */
const METADATA_MISSED_FOR_MS = 600_000;
/** It is for display: a probe does not wait long for it. */
const METADATA_MS = 3_000;
const MAX_ISSUERS = 8;
const MAX_SCOPES = 32;

/** Whether a refusal is one of authorization, and the challenge that comes with it. */
export function authorizationOf(refused: Refused): Refusal | undefined {
  const header = refused.header('www-authenticate');
  const bearer = parameters(header);
  const kind =
    refused.status === 401
      ? 'unauthorized'
      : refused.status === 403 && bearer.error === 'insufficient_scope'
        ? 'insufficient-scope'
        : undefined;
  if (!kind) return undefined;
  const { resource_metadata: metadata = '', scope = '' } = bearer;
  const scopes = listOf(scope.split(' '));
  const url = safeUrl(metadata);
  const challenge = { ...(url !== undefined && { resourceMetadataUrl: url }), ...(scopes.length > 0 && { scopes }) };
  return { kind, challenge: header === '' ? undefined : challenge };
}

/**
 * Adds to a refusal what the server's metadata says, if it has any; never a reason to fail. It is looked up once a day,
 * and where it could not be had, again after 10 minutes.
 */
export async function withMetadata(
  exchange: Exchange,
  outcome: Outcome,
  target: Target,
  memory: Memory,
): Promise<Outcome> {
  if (outcome.kind === 'answered') {
    const { refusal } = outcome;
    if (!refusal) return outcome;
    return {
      ...outcome,
      refusal: { ...refusal, challenge: await complete(exchange, refusal.challenge, target, memory) },
    };
  }
  if (outcome.kind !== 'unauthorized' && outcome.kind !== 'insufficient-scope') return outcome;
  return { ...outcome, challenge: await complete(exchange, outcome.challenge, target, memory) };
}

async function complete(
  exchange: Exchange,
  challenge: Challenge | undefined,
  target: Target,
  memory: Memory,
): Promise<Challenge | undefined> {
  const named = challenge?.resourceMetadataUrl;
  const places = named === undefined ? wellKnown(new URL(target.url)) : [named];
  const now = performance.now();
  const known = memory.metadata?.named === named ? memory.metadata : undefined;
  if (!known || now >= known.freshUntil) {
    const found = await firstOf(exchange, places, new URL(target.url));
    // Once had, it counts until there is another answer.
    const facts = found ?? known?.facts ?? {};
    memory.metadata = { named, facts, freshUntil: now + (found ? METADATA_KNOWN_FOR_MS : METADATA_MISSED_FOR_MS) };
  }
  const complete = { ...memory.metadata?.facts, ...challenge };
  return Object.keys(complete).length > 0 || challenge ? complete : undefined;
}

/** Where metadata is that no challenge names: for the path first, then for the whole host. */
function wellKnown({ protocol, host, pathname }: URL): string[] {
  const root = `${protocol.replace('ws', 'http')}//${host}/.well-known/oauth-protected-resource`;
  return pathname === '/' ? [root] : [`${root}${pathname.replace(/\/$/, '')}`, root];
}

/** What the first of the places says that has any; nothing, if none has; undefined, if one did not answer the question. */
async function firstOf(exchange: Exchange, places: readonly string[], target: URL): Promise<Challenge | undefined> {
  const signal = AbortSignal.any([exchange.signal, AbortSignal.timeout(METADATA_MS)]);
  let missed = false;
  for (const place of places) {
    try {
      const url = new URL(place);
      const answer = await exchange.ask({
        method: 'GET',
        url,
        anonymous: true,
        headers: { accept: 'application/json' },
        what: 'GET its authorization metadata',
        signal,
      });
      if (answer.status === 429 || answer.status >= 500) missed = true;
      const metadata: unknown = answer.status === 200 ? JSON.parse(await answer.text(MAX_METADATA_BYTES)) : undefined;
      answer.drop();
      if (!isRecord(metadata) || !covers(metadata.resource, target)) continue;
      const authorizationServers = listOf(metadata.authorization_servers, safeUrl).slice(0, MAX_ISSUERS);
      const scopes = listOf(metadata.scopes_supported);
      return {
        resourceMetadataUrl: place,
        ...(authorizationServers.length > 0 && { authorizationServers }),
        ...(scopes.length > 0 && { scopes }),
      };
    } catch (error) {
      // The next one, then; this is only for display.
      if (!(error instanceof SyntaxError)) missed = true;
    }
  }
  return missed ? undefined : {};
}

/** Metadata speaks of the resource that it names (RFC 9728, section 3.3): this URL, or a path above it. */
function covers(resource: unknown, target: URL): boolean {
  if (typeof resource !== 'string' || !URL.canParse(resource)) return false;
  const { origin, pathname } = new URL(resource);
  const path = pathname.replace(/\/$/, '');
  return (
    origin === target.origin.replace(/^ws/, 'http') &&
    (target.pathname === path || target.pathname.startsWith(`${path}/`))
  );
}

/** An http or https URL that may be shown: no user name, no fragment, not too long. */
function safeUrl(text: string): string | undefined {
  if (text.length > MAX_URL || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  url.hash = '';
  const { protocol, username, password, href } = url;
  return /^https?:$/.test(protocol) && username === '' && password === '' ? cleanText(href, MAX_URL) : undefined;
}

function listOf(values: unknown, keep: (text: string) => string | undefined = scopeOf): string[] {
  if (!Array.isArray(values)) return [];
  const kept = values.map(value => (typeof value === 'string' ? keep(value) : undefined));
  return [...new Set(kept.filter(value => value !== undefined))].sort().slice(0, MAX_SCOPES);
}

function scopeOf(text: string): string | undefined {
  return cleanText(text, 128) || undefined;
}

/** The next token of a header, with its value if it has one, or else one character (RFC 9110, section 11.6.1). */
const PART = /([!#$%&'*+.^_`|~\w-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?|./gsy;

/** The parameters of the Bearer challenge of a header; of several with one name, the first. */
function parameters(header: string): Record<string, string> {
  const found: Record<string, string> = Object.create(null);
  let scheme = '';
  for (const [, name, quoted, token] of header.matchAll(PART)) {
    if (name === undefined) continue;
    const value = quoted?.replaceAll(/\\(.)/gs, '$1') ?? token;
    if (value === undefined) scheme = name.toLowerCase();
    else if (scheme === 'bearer') found[name.toLowerCase()] ??= value;
  }
  return found;
}
