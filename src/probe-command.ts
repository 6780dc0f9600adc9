/** `personal-connector-operator probe URL`: what the operator would find at a URL, told before there is a manifest. */

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { parseArgs } from 'node:util';
import type { PersonalConnector } from './api/connector.ts';
import type { PersonalConnectorSpec, PersonalConnectorStatus } from './api/generated.ts';
import { type Policy, policySchema } from './connector/policy.ts';
import { remote } from './connector/remote.ts';
import { statusOf } from './connector/status.ts';
import { duration } from './connector/target.ts';
import { createDialer } from './probe/dial.ts';
import { createGuard, portOf } from './probe/guard.ts';
import type { Step } from './probe/http.ts';
import { createProbe } from './probe/mcp.ts';
import type { Secrets, Target } from './probe/target.ts';
import { judge } from './probe/verdict.ts';

export const PROBE_USAGE = `personal-connector-operator probe URL [options]

Probes an MCP server as the operator would, and says what it finds and why.

  --server-type TYPE    http or websocket; absent, what the URL's scheme says
  --header 'NAME: VALUE' send this header, such as an Authorization (again for more)
  --ca FILE             trust the certificate authorities of this file (PEM) as well
  --timeout DURATION    deadline of the whole probe, from 1s to 60s (10s)
  --allow RANGE|HOST    let it reach this address range or host, as addressPolicy does (again for more)
  --port PORT|RANGE     let it reach this port, as addressPolicy.ports does (again for more)
  --proxy URL           go through this HTTP proxy
  --json                print one JSON object: ready, reason, conditions, server, authorization, steps
  --help

Exit code: 0 when the connector would be Ready, 1 when it would not, 2 when it was not asked rightly.
`;

/** What is to be probed is not said rightly; the message is for the person who asked. */
class UsageError extends Error {}

export interface CommandOptions {
  args: string[];
  client: { name: string; version: string };
  userAgent: string;
  stdout: Pick<NodeJS.WritableStream, 'write'>;
  stderr: Pick<NodeJS.WritableStream, 'write'>;
}

/** Runs the command, and gives its exit code. */
export async function runProbeCommand(options: CommandOptions): Promise<0 | 1 | 2> {
  const { args, stdout, stderr } = options;
  try {
    const asked = readArguments(args);
    if (asked === 'help') {
      stdout.write(PROBE_USAGE);
      return 0;
    }
    const report = await probeOnce(asked, options);
    stdout.write(asked.json ? `${JSON.stringify(report, null, 2)}\n` : describe(asked.url, report));
    return report.ready ? 0 : 1;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    stderr.write(`${error.message}; see personal-connector-operator probe --help\n`);
    return 2;
  }
}

interface Asked {
  url: URL;
  serverType: 'http' | 'websocket';
  headers: Record<string, string>;
  ca: string | undefined;
  timeoutMs: number;
  allow: string[];
  ports: string[];
  proxy: string | undefined;
  json: boolean;
}

type Conditions = Pick<
  NonNullable<PersonalConnectorStatus['conditions']>[number],
  'type' | 'status' | 'reason' | 'message'
>[];

/** What `--json` prints. */
export interface Report {
  ready: boolean;
  reason: string;
  /** As they would be on the resource. */
  conditions: Conditions;
  server?: PersonalConnectorStatus['server'];
  authorization?: PersonalConnectorStatus['authorization'];
  steps: Step[];
}

function readArguments(args: string[]): Asked | 'help' {
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(args);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const { values, positionals } = parsed;
  if (values.help) return 'help';
  const [text] = positionals;
  if (text === undefined || positionals.length > 1) throw new UsageError('one URL is wanted');
  if (!URL.canParse(text))
    throw new UsageError(`${JSON.stringify(text)} is no URL: give one such as https://mcp.example.com/mcp`);
  const url = new URL(text);
  const isWebSocket = /^wss?:$/.test(url.protocol);
  const serverType = values['server-type'] ?? (isWebSocket ? 'websocket' : 'http');
  if (serverType !== 'http' && serverType !== 'websocket')
    throw new UsageError(`--server-type ${serverType}: give http or websocket`);
  const timeoutMs = duration(values.timeout);
  if (!/^(\d+(ms|s|m|h))+$/.test(values.timeout) || timeoutMs === undefined || timeoutMs < 1_000 || timeoutMs > 60_000)
    throw new UsageError(`--timeout ${values.timeout}: give a duration from 1s to 60s`);
  return {
    url,
    serverType,
    headers: Object.fromEntries((values.header ?? []).map(readHeader)),
    ca: values.ca === undefined ? undefined : readCa(values.ca),
    timeoutMs,
    allow: values.allow ?? [],
    ports: values.port ?? [],
    proxy: values.proxy,
    json: values.json ?? false,
  };
}

function parse(args: string[]) {
  return parseArgs({
    args,
    allowPositionals: true,
    options: {
      'server-type': { type: 'string' },
      header: { type: 'string', multiple: true },
      ca: { type: 'string' },
      timeout: { type: 'string', default: '10s' },
      allow: { type: 'string', multiple: true },
      port: { type: 'string', multiple: true },
      proxy: { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
}

/** As the resource's own rule says it. */
const OWN_HEADERS =
  /^(host|connection|content-.*|transfer-encoding|te|trailer|upgrade|keep-alive|proxy-.*|accept|mcp-.*|expect)$/i;

function readHeader(text: string): [name: string, value: string] {
  const [, name, value] = /^([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/.exec(text) ?? [];
  // What stands there may be a secret: it is not shown.
  if (name === undefined || value === undefined) throw new UsageError(`a --header is not of the form 'Name: value'`);
  if (OWN_HEADERS.test(name)) throw new UsageError(`--header ${name}: the probe sets it itself`);
  return [name, value.trim()];
}

function readCa(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`--ca: ${(error as Error).message}`);
  }
}

async function probeOnce(asked: Asked, { client, userAgent }: CommandOptions): Promise<Report> {
  const { url, serverType, headers, ca, timeoutMs, allow, ports } = asked;
  const { addressPolicy, ...policy } = readPolicy(asked);
  const isAddress = (text: string): boolean => isIP(text.split('/')[0] ?? '') !== 0;
  const ranges = allow
    .filter(isAddress)
    .map(text => (text.includes('/') ? text : `${text}/${isIP(text) === 4 ? 32 : 128}`));
  const hosts = allow.filter(text => !isAddress(text));
  const guard = guardOf({
    ...addressPolicy,
    allowCidrs: ranges,
    allowHosts: hosts,
    ports: [...addressPolicy.ports, ...ports],
  });

  const connector = connectorOf(url, serverType, Object.keys(headers));
  const context = { policy: { ...policy, addressPolicy }, guard, operatorNamespace: undefined, bridgeImage: undefined };
  const plan = remote.plan(connector, context);
  const secrets: Secrets = { headers, ca };
  const target: Target = {
    url: url.href,
    trusted: false,
    fingerprint: '',
    tenant: '',
    audience: '',
    intervalMs: 0,
    timeoutMs,
    failureThreshold: 1,
    successThreshold: 1,
    recheck: undefined,
    secretsVersion: '',
    sendsCredentials: Object.keys(headers).length > 0,
    secrets: async () => secrets,
  };
  const steps: Step[] = [];
  const dial = createDialer({ guard, proxy: policy.probe.proxy });
  const probe = createProbe({ dial, dialTrusted: dial, client, userAgent, onStep: step => steps.push(step) });
  const isAccepted = plan.accepted.status === 'True';
  const outcome = isAccepted ? await probe(target, {}, new AbortController().signal) : undefined;
  const verdict = outcome && judge(outcome, { url: url.href, credentials: target.sendsCredentials }).verdict;
  const {
    conditions = [],
    server,
    authorization,
  } = statusOf({
    connector,
    plan,
    obstacle: undefined,
    progress: remote.progress({ deployment: undefined, service: undefined, pods: [] }),
    target: isAccepted ? target : { why: 'Pending', message: 'not probed before the spec is accepted' },
    result: verdict && { fingerprint: '', recheck: undefined, verdict },
    now: new Date(),
  });
  const ready = conditions.find(({ type }) => type === 'Ready');
  return {
    ready: ready?.status === 'True',
    reason: ready?.reason ?? '',
    conditions: conditions.map(({ type, status, reason, message }) => ({ type, status, reason, message })),
    ...(server && { server }),
    ...(authorization && { authorization }),
    steps,
  };
}

function readPolicy({ proxy }: Asked): Policy {
  const { success, data, error } = policySchema.safeParse({ probe: { proxy } });
  if (!success) throw new UsageError(`--proxy: ${error.issues[0]?.message}`);
  return data;
}

function guardOf(policy: Parameters<typeof createGuard>[0]): ReturnType<typeof createGuard> {
  try {
    return createGuard(policy);
  } catch (error) {
    throw new UsageError(`--allow or --port: ${(error as Error).message}`);
  }
}

/** The connector that a manifest with this URL would make. */
function connectorOf(url: URL, serverType: 'http' | 'websocket', headers: string[]): PersonalConnector {
  const spec: PersonalConnectorSpec = {
    name: 'probe',
    type: 'custom',
    connectorId: 'probe',
    serverUrl: url.href,
    serverType,
    probe: {
      headers: headers.map(name => ({ name, valueFrom: { secretKeyRef: { name: 'probe', key: name } } })),
    },
  };
  const nothing = { uid: 'probe', resourceVersion: '', creationTimestamp: '' };
  const metadata = { name: 'probe', namespace: 'default', generation: 1, ...nothing };
  return { apiVersion: 'connectors.aitronos.com/v1', kind: 'PersonalConnector', metadata, spec };
}

function describe(url: URL, { reason, conditions, server, authorization, steps }: Report): string {
  const facts = [
    ['server', [server?.title ?? server?.name, server?.version].filter(Boolean).join(' ')],
    ['protocol', server?.protocolVersion],
    ['capabilities', server?.capabilities?.join(', ')],
    ['tools', server?.toolCount === undefined ? undefined : `${server.toolCount}: ${(server.tools ?? []).join(', ')}`],
    ['tools hash', server?.toolsHash],
    ['authorize at', authorization?.authorizationServers?.join(', ')],
    ['metadata', authorization?.resourceMetadataUrl],
    ['scopes', authorization?.scopes?.join(' ')],
  ].filter((fact): fact is [string, string] => Boolean(fact[1]));
  const asked = steps.map(step => [step.asked, step.answered, `${step.ms} ms`, step.url === url.href ? '' : step.url]);
  const found = conditions.map(({ type, status, reason, message }) => [type, status, reason, message]);
  const sections = [
    // A password is for nobody who looks over a shoulder.
    url.href.replace(/\/\/[^/?#]*@/, '//…@'),
    steps.length > 0 && table([['STEP', 'ANSWER', 'TIME', ''], ...asked]),
    table([['CONDITION', 'STATUS', 'REASON', 'MESSAGE'], ...found]),
    facts.length > 0 && table(facts),
    reason === 'AddressDenied' &&
      `To have it probed from here: ${conditions.some(({ message }) => message.includes('addressPolicy.ports')) ? `--port ${portOf(url)}` : `--allow ${url.hostname.replace(/^\[|\]$/g, '')}`}`,
  ];
  return `${sections.filter(section => section !== false).join('\n\n')}\n`;
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = rows.reduce<number[]>(
    (most, row) => row.map((cell, column) => Math.max(most[column] ?? 0, cell.length)),
    [],
  );
  return rows
    .map(row =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
