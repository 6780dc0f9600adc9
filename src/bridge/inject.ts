/**
 * Puts the bridge into a folder that it shares with the server's container, with all that it needs to run in any image,
 * also in one without Node, a shell or a libc: Node itself, the libraries that it links to, and their loader.
 */

import { chmodSync, copyFileSync, mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';

/** `bridge` is its bundled file. Throws when this Node cannot be copied with its loader, as one that is linked statically. */
export function inject(folder: string, bridge: string): void {
  const report = process.report.getReport() as { sharedObjects?: string[] };
  const libraries = (report.sharedObjects ?? []).filter(path => path.startsWith('/'));
  const loader = libraries.find(path => /^ld[-.]/.test(basename(path)));
  if (loader === undefined) throw new Error('this Node tells of no dynamic loader: use the image of the operator');
  const put = (from: string, ...to: string[]): void => {
    const file = join(folder, ...to);
    // What runs cannot be written to, but replaced.
    rmSync(file, { force: true });
    copyFileSync(from, file);
    chmodSync(file, 0o755);
  };
  mkdirSync(join(folder, 'lib'), { recursive: true });
  for (const library of libraries) put(library, 'lib', basename(library));
  put(loader, 'loader');
  put(process.execPath, 'node');
  put(bridge, 'bridge.mjs');
}
