/** The operator's image, by the Dockerfile that users build it with. */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type Architecture, type ImageSource, OWN_ARCHITECTURE } from './images.ts';

const own = dirname(dirname(import.meta.dirname));

/**
 * What to build it from: a copy of the files that .dockerignore lets through, so that nothing else makes it another.
 * `root`: of a checkout, this one unless given.
 */
export function operatorSource(
  architecture: Architecture = OWN_ARCHITECTURE,
  root: string = own,
): Disposable & ImageSource {
  const context = mkdtempSync(join(tmpdir(), 'pco-image-'));
  const lines = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n');
  const files = lines.filter(line => line.startsWith('!')).map(line => line.slice(1));
  for (const file of files) cpSync(join(root, file), join(context, file), { recursive: true });
  return {
    name: 'operator',
    dockerfile: join(root, 'Dockerfile'),
    context,
    bases: { NODE_IMAGE: `node-${architecture}`, BUILD_IMAGE: 'node-build' },
    architecture,
    [Symbol.dispose]: () => rmSync(context, { recursive: true, force: true }),
  };
}
