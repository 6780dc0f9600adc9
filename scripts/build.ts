/** `npm run build`: bundles the operator and its bridge into a file each that runs on a bare Node. */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';

const root = dirname(import.meta.dirname);

/** Writes dist/operator.mjs and dist/bridge.mjs, and gives their folder. */
export async function bundle(): Promise<string> {
  const outdir = join(root, 'dist');
  rmSync(outdir, { recursive: true, force: true });
  await build({
    entryPoints: { operator: join(root, 'src', 'main.ts'), bridge: join(root, 'src', 'bridge', 'main.ts') },
    outdir,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'esm',
    minifySyntax: true,
    legalComments: 'external',
    logLevel: 'error',
    // CommonJS dependencies ask for Node's own modules by `require`.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  });
  return outdir;
}

if (import.meta.main) {
  const dir = await bundle();
  for (const name of readdirSync(dir).filter(name => name.endsWith('.mjs')))
    console.log(`${join(dir, name)}: ${(statSync(join(dir, name)).size / 1e6).toFixed(2)} MB`);
}
