/** The tools of a server: listed page by page, named and hashed, whatever a server sends. */

import { hash } from 'node:crypto';
import type { Call, Channel } from './channel.ts';
import { NotMcp } from './failure.ts';
import type { ToolFacts } from './outcome.ts';
import { isRecord } from './rpc.ts';
import type { ToolMemory } from './target.ts';
import { cleanText } from './text.ts';

/** As many names as the status holds (design: tools ≤ 128). */
const MAX_NAMES = 128;
const MAX_PAGES = 32;
const MAX_CURSOR = 4096;
/** Deeper than any schema that a person wrote. */
const MAX_DEPTH = 64;
/** What a server says it will not change for a longer time is looked at all the same. */
const MAX_TTL_MS = 3_600_000;

export interface Tool {
  name: string;
  description: string;
  inputSchema: unknown;
}

/** Lists all tools; `envelope` is what the revision wants with each request. Throws as a request does. */
export async function listTools(
  channel: Channel,
  envelope: (method: string, params: object) => Call,
  known?: ToolMemory,
): Promise<ToolMemory> {
  const tools: Tool[] = [];
  const digests: string[] = [];
  let ttlMs = MAX_TTL_MS;
  let cursor: string | undefined;
  for (let page = 1; page <= MAX_PAGES; page++) {
    const { result, text } = await channel.request(envelope('tools/list', cursor === undefined ? {} : { cursor }));
    if (!Array.isArray(result.tools)) throw new NotMcp('its list of tools is none');
    for (const tool of result.tools) if (isRecord(tool) && typeof tool.name === 'string') tools.push(toTool(tool));
    digests.push(hash('sha256', text));
    ttlMs = Math.min(ttlMs, typeof result.ttlMs === 'number' && result.ttlMs > 0 ? result.ttlMs : 0);
    const next = result.nextCursor;
    if (typeof next !== 'string' || next === '' || next === cursor) {
      const digest = digests.join();
      const facts = digest === known?.digest ? known.facts : factsOf(tools);
      return { facts, digest, freshUntil: performance.now() + ttlMs };
    }
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

/** sha256 over the tools' names, descriptions and input schemas, in whatever order the server gives them and their keys. */
export function hashTools(tools: readonly { name: string; description?: string; inputSchema?: unknown }[]): string {
  const lines = tools.map(
    ({ name, description = '', inputSchema = null }) =>
      `[${JSON.stringify(name)},${JSON.stringify(description)},${canonical(inputSchema)}]`,
  );
  return `sha256:${hash('sha256', lines.sort().join('\n'))}`;
}

/** JSON with sorted keys. */
function canonical(value: unknown, depth = 0): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (depth > MAX_DEPTH) throw new NotMcp(`an input schema of its tools is nested deeper than ${MAX_DEPTH}`);
  if (Array.isArray(value)) return `[${value.map(part => canonical(part, depth + 1)).join()}]`;
  const record = value as Record<string, unknown>;
  const keys = Object.keys(record).sort();
  return `{${keys.map(key => `${JSON.stringify(key)}:${canonical(record[key], depth + 1)}`).join()}}`;
}
