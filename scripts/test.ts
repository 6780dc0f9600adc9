/**
 * `npm test [-- parts] [--long]`: runs the parts one after another and ends with the line `N passed, N failed[, N skipped]`.
 * `--long` makes the fault suite try all that it can, and write what it found to docs/reliability.md.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { keepFigures } from './reliability.ts';

const PARTS = ['unit', 'zoo', 'cluster', 'chart', 'api', 'faults', 'e2e'];

const root = dirname(import.meta.dirname);
const long = process.argv.includes('--long');
const args = process.argv.slice(2).filter(arg => arg !== '--long' && arg !== '--');
const named = args.filter(arg => PARTS.includes(arg));
const rest = args.filter(arg => !PARTS.includes(arg));
const dir = mkdtempSync(join(tmpdir(), 'pco-test-'));
/** Where the fault suite notes its figures, a JSON object a line. */
const figures = join(dir, 'figures.jsonl');
const total = { passed: 0, failed: 0, skipped: 0 };
// Ctrl-C reaches vitest as well, which takes down what its tests started; we go on to say what was counted.
process.on('SIGINT', () => {});

for (const part of named.length > 0 ? named : PARTS) {
  const report = join(dir, `${part}.json`);
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const run = ['run', '--project', part, '--reporter', 'default', '--reporter', 'json', `--outputFile.json=${report}`];
  console.log(`\n── ${part} ${'─'.repeat(60 - part.length)}`);
  const { status, signal } = spawnSync(process.execPath, [vitest, ...run, ...rest], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, FAULTS_FIGURES: figures, ...(long && { FAULTS_LONG: '1' }) },
  });
  const counted = count(report);
  total.passed += counted.passed;
  total.failed += counted.failed;
  total.skipped += counted.skipped;
  // A run that broke without a failed test (a setup that threw, say) counts as one failure.
  if (status !== 0 && counted.failed === 0) total.failed += 1;
  if (signal === 'SIGINT' || status === 130) break;
}
if (long && existsSync(figures)) {
  const tables = keepFigures(readFileSync(figures, 'utf8'), 'npm run test:faults -- --long');
  console.log(`\ndocs/reliability.md has new figures: ${tables.join(', ')}`);
}
rmSync(dir, { recursive: true, force: true });
console.log(`\n${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ''}`);
process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1;

function count(report: string): typeof total {
  try {
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = JSON.parse(readFileSync(report, 'utf8'));
    return { passed: numPassedTests, failed: numFailedTests, skipped: numPendingTests + numTodoTests };
  } catch {
    return { passed: 0, failed: 0, skipped: 0 };
  }
}
