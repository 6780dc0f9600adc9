/** The catalog: which aitronos_built connectors there are, and how their servers are run. */

import * as z from 'zod';

const quantities = z.record(z.string(), z.union([z.string(), z.number()]));

/** One aitronos_built connector: how to host the server that `connectorId` names. */
export const catalogEntrySchema = z
  .strictObject({
    image: z
      .string()
      .regex(/^([^\s@]+\/)?[^\s@:/]+$/, 'must be an image without tag, digest or spaces')
      .describe('Image without tag: `spec.version`, or else `defaultVersion`, is the tag.'),
    defaultVersion: z
      .string()
      .regex(/^[\w][\w.-]{0,127}$/, 'must be an image tag')
      .describe('Tag to run when `spec.version` is absent.'),
    serverType: z
      .enum(['http', 'stdio'])
      .default('http')
      .describe('What the server speaks. `stdio`: a bridge in its Pod serves it over Streamable HTTP.'),
    port: z.int().min(1).max(65535).default(8000).describe('Port that it is served at in its Pod.'),
    path: z.string().startsWith('/').default('/mcp').describe('Path of MCP.'),
    command: z
      .array(z.string())
      .min(1)
      .optional()
      .describe("Program of the server, instead of the image's own. Needed for stdio: no shell reads it."),
    args: z.array(z.string()).optional().describe('Arguments of the program.'),
    env: z.record(z.string(), z.string()).default({}).describe('Environment variables. No secrets.'),
    requiredSecretKeys: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Keys that the Secret `<name of the connector>-credentials` must have; all of its keys become environment variables.',
      ),
    resources: z
      .strictObject({ requests: quantities.exactOptional(), limits: quantities.exactOptional() })
      .optional()
      .describe('Requests and limits of the server, of all processes of it where it speaks stdio.'),
    stateless: z
      .boolean()
      .default(false)
      .describe(
        'Whether the server keeps nothing between requests that concerns one client alone, so that any Pod may answer any of them. A stdio server then has the same `processes` for all clients, also for those that speak the newest revision of MCP; else each session has its own.',
      ),
    processes: z
      .int()
      .min(1)
      .max(64)
      .optional()
      .describe(
        'stateless stdio only: processes in a Pod that share the requests, for a server that answers one at a time: of several, each is asked one thing at a time. Absent, 1.',
      ),
    maxSessions: z
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe('stdio with sessions only: sessions, and so processes, that a Pod has at most. Absent, 16.'),
    idleSeconds: z
      .int()
      .min(1)
      .max(86_400)
      .optional()
      .describe('stdio with sessions only: a session that was not used for so long is ended. Absent, 900.'),
  })
  .superRefine((entry, { addIssue }) => {
    if (entry.serverType === 'stdio' && !entry.command) {
      addIssue({ code: 'custom', path: ['command'], message: 'must name the program of a stdio server' });
    }
    const isStdio = entry.serverType === 'stdio';
    for (const field of ['processes', 'maxSessions', 'idleSeconds'] as const) {
      const ofStateless = field === 'processes';
      if (entry[field] === undefined || (isStdio && entry.stateless === ofStateless)) continue;
      const message = `is for a serverType of stdio ${ofStateless ? 'that is' : 'that is not'} stateless`;
      addIssue({ code: 'custom', path: [field], message });
    }
  });

export type CatalogEntry = z.infer<typeof catalogEntrySchema>;

/** An entry that cannot be used: it says why, and keeps no other one from being used. */
export interface BadEntry {
  fault: string;
}

/** connectorId → entry. */
export type Catalog = Readonly<Record<string, CatalogEntry | BadEntry>>;

export const catalogSchema = z.record(z.string(), z.unknown()).transform(
  (entries): Catalog =>
    Object.fromEntries(
      Object.entries(entries).map(([connectorId, entry]) => {
        if (!/^[a-z0-9][a-z0-9_-]{0,62}$/.test(connectorId))
          return [connectorId, { fault: 'no connectorId is written like this: use a-z, 0-9, _ and -' }];
        const { success, data, error } = catalogEntrySchema.safeParse(entry);
        return [connectorId, success ? data : { fault: faultsOf(error, entry) }];
      }),
    ),
);

/** Which fields are wrong, what they say and what they should. */
function faultsOf({ issues }: z.ZodError, entry: unknown): string {
  return issues
    .map(({ path, message }) => {
      const seen = path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], entry);
      const shown = seen === undefined || typeof seen === 'object' ? '' : ` (it is ${JSON.stringify(seen)})`;
      return `${path.join('.') || 'the entry'}: ${message}${shown}`;
    })
    .join('; ');
}

export function isBad(entry: CatalogEntry | BadEntry): entry is BadEntry {
  return 'fault' in entry;
}
