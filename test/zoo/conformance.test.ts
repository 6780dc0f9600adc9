/**
 * The protocol's own tests of clients (@modelcontextprotocol/conformance). A prober is a client that asks who is there
 * and which tools it has, and calls none: what needs more of a client is left out, by the reasons below.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../cluster/process.ts';
import { installNpm } from './real.ts';

const { signal } = new AbortController();

interface Scenario {
  /** Of the protocol; the scenario's own unless given. */
  version?: string;
  /** Checks that must have succeeded. */
  succeeds: string[];
  /** Checks that fail since no tool is called. */
  excused?: string[];
}

const SCENARIOS: Record<string, Scenario[]> = {
  initialize: [{ succeeds: ['mcp-client-initialization'] }],
  'request-metadata': [
    {
      succeeds: [
        'sep-2575-http-client-sends-version-header',
        'sep-2575-client-populates-meta',
        'sep-2575-client-sends-client-info',
        'sep-2575-http-version-header-matches-meta',
        'sep-2575-client-retry-supported-version',
      ],
    },
  ],
  'http-standard-headers': [{ succeeds: ['sep-2243-client-includes-standard-headers'] }],
  'json-schema-ref-no-deref': [{ succeeds: ['sep-2106-no-network-ref-deref'] }],
  // Run for what it says on the way: that each message sent is valid by the schema of the revision.
  tools_call: ['2025-06-18', '2025-11-25', '2026-07-28'].map(version => ({
    version,
    succeeds: ['wire-schema-valid'],
    excused: ['tool-add-numbers'],
  })),
  'json-schema-2020-12-preservation': ['2025-11-25', '2026-07-28'].map(version => ({
    version,
    succeeds: ['json-schema-2020-12-client-tool-found', 'wire-schema-valid'],
    excused: ['json-schema-2020-12-client-echo-completed'],
  })),
};

/** Why other scenarios say nothing of a prober. */
const LEFT_OUT: [scenarios: RegExp, why: string][] = [
  [/^(sep-2322-client-request-state|http-custom-headers)$/, 'all that it checks are tool calls'],
  [/^http-invalid-tool-headers$/, 'its tools must not be called; a prober calls none'],
  [/^sse-retry$/, 'it breaks the stream of a tool call; streams.test.ts breaks those of initialize and tools/list'],
  [/^elicitation-sep1034-client-defaults$/, 'a prober has no user to ask'],
  [/^auth\//, 'it signs in; a prober tells where one could, which authorization.test.ts checks'],
  [/^sep-2640-client-/, 'it reads skills, which a prober does not'],
];

let cli = '';
let dir = '';
beforeAll(async () => {
  cli = join(await installNpm(signal), 'node_modules', '@modelcontextprotocol', 'conformance', 'dist', 'index.js');
  dir = mkdtempSync(join(tmpdir(), 'pco-conformance-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a scenario; the ids of its checks by how they ended. */
async function conform(scenario: string, version: string | undefined): Promise<Record<string, string[]>> {
  const output = mkdtempSync(join(dir, 'run-'));
  const client = `${process.execPath} ${join(import.meta.dirname, 'conformance-client.ts')}`;
  const args = ['client', '--command', client, '--scenario', scenario, '-o', output];
  // It ends with 1 when a check failed: which, is what counts.
  const said = await run(process.execPath, [cli, ...args, ...(version ? ['--spec-version', version] : [])], {
    signal,
    cwd: dir,
  }).catch(String);
  const [results] = readdirSync(output);
  if (results === undefined) throw new Error(`${scenario} gave no results: ${said}`);
  const checks: { id: string; status: string }[] = JSON.parse(
    readFileSync(join(output, results, 'checks.json'), 'utf8'),
  );
  const idsOf = (status: string): string[] => [
    ...new Set(checks.filter(check => check.status === status).map(({ id }) => id)),
  ];
  return { succeeded: idsOf('SUCCESS'), failed: idsOf('FAILURE'), warned: idsOf('WARNING') };
}

describe('the protocol’s own tests of a client', () => {
  const runs = Object.entries(SCENARIOS).flatMap(([name, all]) =>
    all.map(scenario => ({ name, version: 'its own version', ...scenario })),
  );
  it.each(runs)('$name, $version', async ({ name, version, succeeds, excused = [] }) => {
    const { succeeded, failed = [], warned } = await conform(name, version === 'its own version' ? undefined : version);
    expect(succeeded).toEqual(expect.arrayContaining(succeeds));
    expect(failed.filter(id => !excused.includes(id))).toEqual([]);
    expect(warned).toEqual([]);
  });

  it('are all run, or left out for a reason', async () => {
    const listed = await run(process.execPath, [cli, 'list', '--client'], { signal, cwd: dir });
    const names = [...listed.matchAll(/^ +- (\S+)/gm)].map(([, name = '']) => name);
    expect(names).toEqual(expect.arrayContaining(Object.keys(SCENARIOS)));
    expect(names.filter(name => !(name in SCENARIOS || LEFT_OUT.some(([out]) => out.test(name))))).toEqual([]);
    expect(LEFT_OUT.filter(([out]) => !names.some(name => out.test(name)))).toEqual([]);
  });
});
