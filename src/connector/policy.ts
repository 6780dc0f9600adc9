/** What the operator's admin decides: the catalog, which images and addresses are allowed, and the defaults of probes. */

import * as z from 'zod';
import { catalogSchema } from './catalog.ts';

const seconds = z.number().positive();

/** The file that the chart mounts. Everything is optional: an absent file means an empty catalog and a closed network. */
export const policySchema = z.strictObject({
  catalog: catalogSchema.prefault({}),
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
