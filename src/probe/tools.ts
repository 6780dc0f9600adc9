/** The tools of a server: listed page by page, named and hashed, whatever a server sends. */

import { createHash } from 'node:crypto';
import type { Call, Channel } from './channel.ts';
import { NotMcp } from './failure.ts';
import type { ToolFacts } from './outcome.ts';
import { isRecord } from './rpc.ts';
import { cleanText } from './text.ts';

/** As many names as the status holds (design: tools ≤ 128). */
const MAX_NAMES = 128;
const MAX_PAGES = 32;
const MAX_CURSOR = 4096;
/** Deeper than any schema that a person wrote. */
const MAX_DEPTH = 64;
/** What a server says it will not change for a longer time is looked at all the same. */
const MAX_TTL_MS = 24 * 3_600_000;

export interface Tool {
  name: string;
  description: string;
  inputSchema: unknown;
}

/** Lists all tools; `envelope` is what the revision wants with each request. Throws as a request does. */
export async function listTools(
  channel: Channel,
  envelope: (method: string, params: object) => Call,
): Promise<{ facts: ToolFacts; ttlMs: number }> {
  const tools: Tool[] = [];
  let ttlMs = MAX_TTL_MS;
  let cursor: string | undefined;
  for (let page = 1; page <= MAX_PAGES; page++) {
    const result = await channel.request(envelope('tools/list', cursor === undefined ? {} : { cursor }));
    if (!Array.isArray(result.tools)) throw new NotMcp('its list of tools is none');
    for (const tool of result.tools) if (isRecord(tool) && typeof tool.name === 'string') tools.push(toTool(tool));
    ttlMs = Math.min(ttlMs, typeof result.ttlMs === 'number' && result.ttlMs > 0 ? result.ttlMs : 0);
    const next = result.nextCursor;
    if (typeof next !== 'string' || next === cursor) return { facts: factsOf(tools), ttlMs };
    if (next.length > MAX_CURSOR) throw new NotMcp('the cursor of its list of tools is too long');
    cursor = next;
  }
  throw new NotMcp(`its list of tools has more than ${MAX_PAGES} pages`);
}

function toTool({ name, description, inputSchema }: Record<string, unknown>): Tool {
  return { name: String(name), description: typeof description === 'string' ? description : '', inputSchema };
}

function factsOf(tools: readonly Tool[]): ToolFacts {
  const names = tools.map(({ name }) => cleanText(name, 128)).sort();
  return { names: names.slice(0, MAX_NAMES), count: names.length, hash: hashTools(tools) };
}

/** sha256 over the tools' names, descriptions and input schemas, whatever order the server gives them in. */
export function hashTools(tools: readonly { name: string; description?: string; inputSchema?: unknown }[]): string {
  const canonical = tools
    .map(({ name, description = '', inputSchema }) => JSON.stringify([name, description, sortKeys(inputSchema)]))
    .sort();
  return `sha256:${createHash('sha256').update(canonical.join('\n')).digest('hex')}`;
}

function sortKeys(value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH) throw new NotMcp(`an input schema of its tools is nested deeper than ${MAX_DEPTH}`);
  if (Array.isArray(value)) return value.map(part => sortKeys(part, depth + 1));
  if (!isRecord(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, child]) => [key, sortKeys(child, depth + 1)]),
  );
}
