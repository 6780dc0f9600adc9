/** What the operator's admin decides: the catalog, which images and addresses are allowed, and the defaults of probes. */

import { z } from 'zod';

const quantities = z.record(z.string(), z.union([z.string(), z.number()]));

/** One aitronos_built connector: how to host the server that `connectorId` names. */
const catalogEntry = z.strictObject({
  /** Image without tag. */
  image: z.string().regex(/^([^\s@]+\/)?[^\s@:/]+$/, 'must be an image without tag, digest or spaces'),
  /** Tag to run when spec.version is absent. */
  defaultVersion: z.string().regex(/^[\w][\w.-]{0,127}$/, 'must be an image tag'),
  /** What the server speaks; this version of the operator hosts http only. */
  serverType: z.enum(['http']).default('http'),
  port: z.int().min(1).max(65535).default(8000),
  path: z.string().startsWith('/').default('/mcp'),
  command: z.array(z.string()).optional(),
  args: z.array(z.string()).optional(),
  env: z.record(z.string(), z.string()).default({}),
  /** Keys of the connector's Secret that the server cannot do without; each becomes an environment variable. */
  requiredSecretKeys: z.array(z.string().min(1)).default([]),
  resources: z.strictObject({ requests: quantities.exactOptional(), limits: quantities.exactOptional() }).optional(),
});

export type CatalogEntry = z.infer<typeof catalogEntry>;

const seconds = z.number().positive();

/** The file that the chart mounts. Everything is optional: an absent file means an empty catalog and a closed network. */
export const policySchema = z.strictObject({
  catalog: z.record(z.string(), catalogEntry).default({}),
  /** Patterns of images that spec.hosting.image may name; `*` stands for anything. */
  allowedImages: z.array(z.string().min(1)).default([]),
  addressPolicy: z
    .strictObject({
      allowCidrs: z.array(z.string()).default([]),
      allowHosts: z.array(z.string()).default([]),
      denyCidrs: z.array(z.string()).default([]),
      denyHosts: z.array(z.string()).default([]),
      /** YAML makes a number of one that stands alone. */
      ports: z.array(z.union([z.string(), z.number()]).transform(String)).default(['80', '443', '1024-65535']),
    })
    .prefault({}),
  /** Whether the operator may read Secrets (`rbac.readSecrets` of the chart). */
  readSecrets: z.boolean().default(false),
  /** The same for ConfigMaps (`rbac.readConfigMaps`). */
  readConfigMaps: z.boolean().default(false),
  clusterDomain: z.string().min(1).default('cluster.local'),
  probe: z
    .strictObject({
      intervalSeconds: seconds.default(300),
      timeoutSeconds: seconds.default(10),
      /** Probes that run at a time, in all and to one host. */
      concurrency: z.int().positive().default(32),
      perHost: z.int().positive().default(2),
      /** Probes that one host sees per second, from all connectors together. */
      perHostPerSecond: z.number().positive().default(5),
      /** What probes of servers that others host go through. A value that is not set in the chart is empty. */
      proxy: z
        .union([
          z.literal('').transform(() => undefined),
          z.url({ protocol: /^https?$/, error: 'must be an http or https URL, such as http://proxy.example.com:3128' }),
        ])
        .optional(),
    })
    .prefault({}),
});

export type Policy = z.infer<typeof policySchema>;

/** What a Policy looks like before its defaults. */
export type PolicyInput = z.input<typeof policySchema>;

/** Whether an image is covered by a pattern of allowedImages. */
export function imageAllowed(image: string, patterns: readonly string[]): boolean {
  return patterns.some(pattern => {
    const source = pattern.split('*').map(part => part.replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&'));
    return new RegExp(`^${source.join('.*')}$`).test(image);
  });
}
