/** The operator's settings: environment and flags for where it runs, a file for what its admin decides. */

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { loadAll } from 'js-yaml';
import * as z from 'zod';
import { type Policy, policySchema } from './connector/policy.ts';
import { MOST_SEATS } from './kube/membership.ts';

const settingsSchema = z.object({
  logLevel: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  /** Address (all, if absent) and port of /healthz, /readyz and /metrics. */
  host: z.string().optional(),
  port: z.coerce.number().int().min(0).max(65535).default(8080),
  /** Reconciles at a time. */
  workers: z.coerce.number().int().min(1).max(256).default(16),
  /** The only namespaces to look at; none means all. */
  namespaces: z
    .array(z.string().regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, 'must be the name of a namespace, such as team-a'))
    .transform((names): readonly string[] => [...new Set(names)]),
  /** Image that brings the bridge into the Pods of stdio servers: the operator's own. */
  bridgeImage: z.string().min(1).optional(),
  /** Name and namespace of the Pod that this is, when it is one. */
  podName: z.string().min(1).default('local'),
  podNamespace: z.string().min(1).optional(),
  /** Of several operators, the one that holds this Lease writes. Absent: this is the only one. */
  leaseName: z.string().min(1).max(63, 'must be 63 characters at most: it is the value of a label too').optional(),
  leaseNamespace: z.string().min(1).optional(),
  /** In how many parts the work is shared out over such operators; 0: one of them does all of it. */
  share: z.coerce
    .number()
    .int()
    .min(0)
    .max(MOST_SEATS)
    .refine(seats => seats !== 1, 'must be 0, so that one works and the others stand by, or 2 and more')
    .default(0),
  /** So many reconciles of one connector in a minute, without a change of its spec, are a hot loop. */
  hotLoopPerMinute: z.coerce.number().int().min(1).default(120),
});

export type Config = Readonly<z.infer<typeof settingsSchema> & { policy: Policy }>;

/** A setting that cannot be used; its message is for the person who starts the operator. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

export const USAGE = `personal-connector-operator [options]
personal-connector-operator probe URL [options]      what it would find at a URL: see probe --help

  --config FILE         settings file (YAML): catalog, allowedImages, addressPolicy, probe, …  [CONFIG_FILE]
  --catalog FILE        catalog file (YAML: connectorId → entry), instead of the settings file's catalog
  --allow-cidr RANGE    let probes reach this range, such as 10.0.0.0/8 (again for more)
  --allow-host NAME     let probes reach this host, or with *.NAME all below it (again for more)
  --allow-image PATTERN let spec.hosting.image name images like this, * for anything (again for more)
  --namespace NAME      look at this namespace only (again for more; a,b in the variable)      [WATCH_NAMESPACE]
  --bridge-image IMAGE  the operator's own image: hosted stdio servers get their bridge from it [BRIDGE_IMAGE]
  --host ADDRESS        where /healthz, /readyz and /metrics are served                        [HEALTH_HOST]
  --port PORT           … and at which port; 0 takes a free one                                [HEALTH_PORT]
  --workers N           reconciles at a time                                                   [WORKERS]
  --lease NAME          run beside others: only the holder of this Lease writes                [LEASE_NAME]
  --lease-namespace NAME   … which is in this namespace; else in that of the Pod                [LEASE_NAMESPACE]
  --share N             … or N of them share the work out; the others stand by                 [SHARE_AMONG]
  --hot-loop N          warn of more reconciles of one connector in a minute than this (120)   [HOT_LOOP]
  --log-level LEVEL     trace, debug, info, warn, error, fatal or silent                       [LOG_LEVEL]
  --help

The cluster is that of KUBECONFIG, of ~/.kube/config, or the one it runs in.
`;

const multiple = { type: 'string', multiple: true } as const;
const single = { type: 'string' } as const;

/** Reads the settings. Flags come before the environment, both before the file. Throws ConfigError; 'help' asks for USAGE. */
export function readConfig(args: string[], env: NodeJS.ProcessEnv): Config | 'help' {
  const flags = readFlags(args);
  if (flags.help) return 'help';
  /** An empty variable is as good as none: a manifest may set it so. */
  const variable = (name: string): string | undefined => env[name] || undefined;
  const file = flags.config ?? variable('CONFIG_FILE');
  const settings = check('a flag or environment variable', settingsSchema, {
    logLevel: flags['log-level'] ?? variable('LOG_LEVEL'),
    host: flags.host ?? variable('HEALTH_HOST'),
    port: flags.port ?? variable('HEALTH_PORT'),
    workers: flags.workers ?? variable('WORKERS'),
    namespaces:
      flags.namespace ??
      variable('WATCH_NAMESPACE')
        ?.split(',')
        .map(name => name.trim()) ??
      [],
    bridgeImage: flags['bridge-image'] ?? variable('BRIDGE_IMAGE'),
    podName: variable('POD_NAME'),
    podNamespace: variable('POD_NAMESPACE'),
    leaseName: flags.lease ?? variable('LEASE_NAME'),
    leaseNamespace: flags['lease-namespace'] ?? variable('LEASE_NAMESPACE') ?? variable('POD_NAMESPACE'),
    share: flags.share ?? variable('SHARE_AMONG'),
    hotLoopPerMinute: flags['hot-loop'] ?? variable('HOT_LOOP'),
  });
  if (settings.leaseName !== undefined && settings.leaseNamespace === undefined)
    throw new ConfigError('--lease needs --lease-namespace, or POD_NAMESPACE, to say where the Lease is');
  if (settings.share > 0 && settings.leaseName === undefined)
    throw new ConfigError('--share needs --lease, by which those who share know each other');
  const policy = check(file ?? 'the settings', policySchema, file === undefined ? {} : readYaml(file));
  const { addressPolicy, allowedImages } = policy;
  return Object.freeze({
    ...settings,
    policy: {
      ...policy,
      ...(flags.catalog !== undefined && {
        catalog: check(flags.catalog, policySchema.shape.catalog, readYaml(flags.catalog)),
      }),
      allowedImages: [...allowedImages, ...(flags['allow-image'] ?? [])],
      addressPolicy: {
        ...addressPolicy,
        allowCidrs: [...addressPolicy.allowCidrs, ...(flags['allow-cidr'] ?? [])],
        allowHosts: [...addressPolicy.allowHosts, ...(flags['allow-host'] ?? [])],
      },
    },
  });
}

function readFlags(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        config: single,
        catalog: single,
        'allow-cidr': multiple,
        'allow-host': multiple,
        'allow-image': multiple,
        namespace: multiple,
        'bridge-image': single,
        host: single,
        port: single,
        workers: single,
        lease: single,
        'lease-namespace': single,
        share: single,
        'hot-loop': single,
        'log-level': single,
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new ConfigError(`${(error as Error).message}; see --help`);
  }
}

function readYaml(file: string): unknown {
  try {
    // A file without a document, such as one of comments only, says nothing.
    return loadAll(readFileSync(file, 'utf8'), { filename: file })[0] ?? {};
  } catch (error) {
    throw new ConfigError(`${file} cannot be read: ${(error as Error).message}`);
  }
}

function check<T>(where: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues.map(({ path, message }) => {
    const seen = path.reduce<unknown>(
      (found, key) => (found as Record<PropertyKey, unknown> | undefined)?.[key],
      value,
    );
    const shown = seen === undefined || typeof seen === 'object' ? '' : ` (it is ${JSON.stringify(seen)})`;
    return `  ${path.join('.') || '(top)'}: ${message}${shown}`;
  });
  throw new ConfigError(`${where} is not valid:\n${faults.join('\n')}`);
}
