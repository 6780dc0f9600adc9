/** `npm run check`: types, lint, format and what is generated. `npm run fix` mends what can be mended. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { generate } from './generate.ts';

const root = dirname(import.meta.dirname);
const fix = process.argv.includes('--fix');

function tool(name: string, args: string[]): boolean {
  const { status } = spawnSync(join(root, 'node_modules', '.bin', name), args, { cwd: root, stdio: 'inherit' });
  return status === 0;
}

/** Whether the generated files are those that the CRD gives; says which are not. */
async function upToDate(): Promise<boolean> {
  const stale = Object.entries(await generate()).filter(
    ([path, text]) => !existsSync(join(root, path)) || readFileSync(join(root, path), 'utf8') !== text,
  );
  for (const [path] of stale) console.error(`${path} is not what the CRD gives: npm run generate`);
  return stale.length === 0;
}

const checks: [string, () => boolean | Promise<boolean>][] = [
  ['lint and format', () => tool('biome', ['check', '--error-on-warnings', ...(fix ? ['--write'] : []), '.'])],
  ['types', () => tool('tsc', ['-p', '.'])],
  ['generated files', upToDate],
];
let failed = 0;
for (const [name, check] of checks) {
  const ok = await check();
  console.log(`${ok ? '✔' : '✘'} ${name}`);
  if (!ok) failed += 1;
}
process.exitCode = failed === 0 ? 0 : 1;
