/** `npm run build`: bundles the operator and its bridge into a file each that runs on a bare Node. */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type BuildOptions, build, type Plugin } from 'esbuild';

const root = dirname(import.meta.dirname);

export interface Bundle {
  /** Has operator.mjs, bridge.mjs, and the comments about licences that were in their sources. */
  dir: string;
  /** The packages whose code is in them, as package-lock.json calls them: `node_modules/…`, sorted. */
  packages: string[];
}

/**
 * Of the client library nothing is used but how it reads kubeconfigs. Its API, generated from all of Kubernetes' types, has no
 * side effects, though its package does not say so: 13 MiB of memory and a quarter of the start were its maps of types.
 */
const unusedApi: Plugin = {
  name: 'unused-api',
  setup({ onResolve, resolve }) {
    const theirs = '@kubernetes/client-node';
    onResolve({ filter: /^(\.|@kubernetes\/client-node)/ }, async ({ path, pluginData, ...where }) => {
      if (pluginData === theirs || !(path === theirs || where.importer.includes(`/${theirs}/`))) return undefined;
      return { ...(await resolve(path, { ...where, pluginData: theirs })), sideEffects: false };
    });
  },
};

/** How a file is made that runs on a bare Node, with all that it needs in it. */
export const SINGLE_FILE = {
  bundle: true,
  platform: 'node',
  target: 'node26',
  format: 'esm',
  minifySyntax: true,
  // Names stay: traces of errors are read by people.
  minifyWhitespace: true,
  logLevel: 'error',
  plugins: [unusedApi],
  // CommonJS dependencies ask for Node's own modules by `require`.
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
} as const satisfies BuildOptions;

/** Writes operator.mjs and bridge.mjs into a folder that it empties first. `readable`: as the sources are laid out. */
export async function bundle(dir = join(root, 'dist'), { readable = false } = {}): Promise<Bundle> {
  rmSync(dir, { recursive: true, force: true });
  const { metafile } = await build({
    entryPoints: { operator: join(root, 'src', 'main.ts'), bridge: join(root, 'src', 'bridge', 'main.ts') },
    // Comments in the output name the sources by their path from here.
    absWorkingDir: root,
    outdir: dir,
    outExtension: { '.js': '.mjs' },
    ...SINGLE_FILE,
    minifyWhitespace: !readable,
    legalComments: 'external',
    metafile: true,
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
