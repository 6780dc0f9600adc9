/**
 * `npm run test:mutations [-- words]`: breaks the operator in one place at a time and runs the suite that must notice.
 * With words, only mutations whose title holds one of them. All of them write their figures to docs/reliability.md.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { transformSync } from 'esbuild';
import { keepFigures } from '../../scripts/reliability.ts';

interface Mutation {
  /** What is broken, in a word or two. */
  title: string;
  file: string;
  /** Source that is there once, and what takes its place. */
  from: string;
  to: string;
  /** File of the suite, and a part of the names of the tests that are run. */
  suite: string;
  tests?: string;
}

const MUTATIONS: Mutation[] = [
  {
    title: 'children that are not wanted any more stay',
    file: 'src/connector/apply.ts',
    from: 'await prune(connector, desired, signal);',
    to: '',
    suite: 'environment',
    tests: 'set right when it starts',
  },
  {
    title: 'drift is not mended',
    file: 'src/connector/apply.ts',
    from: 'if (holds(live, object) || futile',
    to: 'if (live.metadata.uid || futile',
    suite: 'walks',
    tests: 'is taken back',
  },
  {
    title: 'a conflict is swallowed',
    file: 'src/connector/apply.ts',
    from: 'if (isConflict(error)) throw error;\n        return obstacle',
    to: 'if (isConflict(error)) return undefined;\n        return obstacle',
    suite: 'http',
    tests: 'HTTP 409',
  },
  {
    title: 'what failed is not tried again',
    file: 'src/runtime/controller.ts',
    from: 'const failures = queue.retry(key, retryAfter?.(error));',
    to: 'const failures = 1;',
    suite: 'http',
    tests: 'HTTP 503',
  },
  {
    title: 'a watch that cannot go on does not read all anew',
    file: 'src/kube/reflector.ts',
    from: "if (expired || error instanceof Spoiled || errors >= MOST_ERRORS) {\n          version = '';",
    to: 'if (expired || error instanceof Spoiled || errors >= MOST_ERRORS) {',
    suite: 'http',
    tests: 'HTTP 410',
  },
  {
    title: 'children are made over what is there',
    file: 'src/connector/apply.ts',
    from: 'await send({ resourceVersion: MUST_NOT_EXIST });',
    to: 'await send({} as never);',
    suite: 'errors',
    tests: 'Service of somebody',
  },
  {
    title: 'children are deleted by name alone',
    file: 'src/kube/client.ts',
    from: 'preconditions: { uid, ...(unchanged && { resourceVersion }) },',
    to: '',
    suite: 'sieve',
    tests: 'stale state',
  },
  {
    title: 'a status is written although it says nothing new',
    file: 'src/connector/reconcile.ts',
    from: 'if (!differs(status, connector.status)) return;',
    to: '',
    suite: 'environment',
    tests: 'once all is settled',
  },
  {
    title: 'who lost the Lease may write',
    file: 'src/main.ts',
    from: 'mayWrite: () => mayWrite()',
    to: 'mayWrite: () => true',
    suite: 'leader',
    tests: 'sends nothing afterwards',
  },
  {
    title: 'owners are told apart by name and not by UID',
    file: 'src/connector/children.ts',
    from: 'if (ownersOf(object).some(({ uid }) => uid === connector.metadata.uid)) return true;',
    to: 'if (ownersOf(object).some(({ name }) => name === connector.metadata.name)) return true;',
    suite: 'sieve',
    tests: 'stale state',
  },
  {
    title: 'versions that go back are believed',
    file: 'src/kube/reflector.ts',
    from: 'if (isNewer(version, resourceVersion))',
    to: 'if (isNewer(version, "0") && isNewer("0", version))',
    suite: 'http',
    tests: 'a watch shows all there is',
  },
  {
    title: 'the Lease is not given up at the end',
    file: 'src/main.ts',
    from: 'await Promise.all([membership?.release(), ',
    to: 'await Promise.all([',
    suite: 'leader',
    tests: 'SIGTERM',
  },
];

const root = dirname(dirname(import.meta.dirname));
const words = process.argv.slice(2).filter(arg => arg !== '--');
const chosen = MUTATIONS.filter(({ title }) => words.length === 0 || words.some(word => title.includes(word)));
for (const { file, from } of MUTATIONS) {
  const count = readFileSync(join(root, file), 'utf8').split(from).length - 1;
  if (count !== 1) throw new Error(`${file}: ${JSON.stringify(from)} is there ${count} times and not once`);
}
const dir = mkdtempSync(join(tmpdir(), 'pco-mutations-'));
const unnoticed: string[] = [];
const figures: string[] = [];
try {
  for (const mutation of chosen) {
    const seen = run(mutation);
    console.log(`${seen ? '✔' : '✘'} ${mutation.title}: ${seen ? `noticed by ${seen}` : 'NOT noticed'}`);
    if (!seen) unnoticed.push(mutation.title);
    const row = { 'what is broken': mutation.title, 'noticed by': seen ?? 'nothing' };
    figures.push(JSON.stringify({ table: 'Broken on purpose', row }));
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
if (words.length === 0) keepFigures(figures.join('\n'), 'npm run test:mutations');
console.log(`\n${chosen.length - unnoticed.length} of ${chosen.length} noticed`);
process.exitCode = unnoticed.length === 0 && chosen.length > 0 ? 0 : 1;

/** The first test that fails on a copy with the mutation; undefined if none does. */
function run({ file, from, to, suite, tests }: Mutation): string | undefined {
  const copy = mkdtempSync(join(dir, 'copy-'));
  const left = new Set(['node_modules', '.git', 'dist']);
  cpSync(root, copy, { recursive: true, filter: source => !left.has(basename(source)) });
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  const source = readFileSync(join(root, file), 'utf8');
  const broken = source.replace(from, () => to);
  // What does not compile would be noticed by anything.
  transformSync(broken, { loader: 'ts' });
  writeFileSync(join(copy, file), broken);
  const report = join(copy, 'report.json');
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const filters = [`test/faults/${suite}.test.ts`, '--bail', '1', ...(tests ? ['-t', tests] : [])];
  const reporters = ['--reporter', 'json', `--outputFile.json=${report}`];
  spawnSync(process.execPath, [vitest, 'run', '--project', 'faults', ...reporters, ...filters], {
    cwd: copy,
    stdio: 'ignore',
    timeout: 900_000,
    env: { ...process.env, FAULTS_FIGURES: '' },
  });
  interface Report {
    testResults: { assertionResults: { fullName: string; status: string }[] }[];
  }
  const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as Report;
  const results = testResults.flatMap(({ assertionResults }) => assertionResults);
  rmSync(copy, { recursive: true, force: true });
  const failed = results.find(({ status }) => status === 'failed');
  return failed && `${suite}: ${failed.fullName}`;
}
