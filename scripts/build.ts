/** `npm run build`: bundles the operator and its bridge into a file each that runs on a bare Node. */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';

const root = dirname(import.meta.dirname);

export interface Bundle {
  /** Has operator.mjs, bridge.mjs, and the comments about licences that were in their sources. */
  dir: string;
  /** The packages whose code is in them, as package-lock.json calls them: `node_modules/…`, sorted. */
  packages: string[];
}

/** Writes operator.mjs and bridge.mjs into a folder that it empties first. */
export async function bundle(dir = join(root, 'dist')): Promise<Bundle> {
  rmSync(dir, { recursive: true, force: true });
  const { metafile } = await build({
    entryPoints: { operator: join(root, 'src', 'main.ts'), bridge: join(root, 'src', 'bridge', 'main.ts') },
    // Comments in the output name the sources by their path from here.
    absWorkingDir: root,
    outdir: dir,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'esm',
    minifySyntax: true,
    legalComments: 'external',
    metafile: true,
    logLevel: 'error',
    // CommonJS dependencies ask for Node's own modules by `require`.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  });
  const files = Object.values(metafile.outputs).flatMap(({ inputs }) =>
    Object.keys(inputs).filter(file => (inputs[file]?.bytesInOutput ?? 0) > 0),
  );
  // Of a package within a package, the inner one.
  const packages = files.map(file => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0]);
  return { dir, packages: [...new Set(packages.filter(name => name !== undefined))].sort() };
}

if (import.meta.main) {
  const { dir } = await bundle();
  for (const name of readdirSync(dir).filter(name => name.endsWith('.mjs')))
    console.log(`${join(dir, name)}: ${(statSync(join(dir, name)).size / 1e6).toFixed(2)} MB`);
}
