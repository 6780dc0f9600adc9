/** `npm run build`: bundles the operator into one file that runs on a bare Node. */
import { rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';

const root = dirname(import.meta.dirname);

/** Writes dist/operator.mjs and gives its path. */
export async function bundle(): Promise<string> {
  const outfile = join(root, 'dist', 'operator.mjs');
  rmSync(dirname(outfile), { recursive: true, force: true });
  await build({
    entryPoints: [join(root, 'src', 'main.ts')],
    outfile,
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
  return outfile;
}

if (import.meta.main) {
  const file = await bundle();
  console.log(`${file}: ${(statSync(file).size / 1e6).toFixed(2)} MB`);
}
