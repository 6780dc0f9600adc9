/** The version before this one, as its users have it: its chart and its image, for tests of upgrades. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cacheDir } from '../cluster/binaries.ts';
import { type BuildOptions, buildImage, type Image, type ImageSource, OWN_ARCHITECTURE } from '../cluster/images.ts';
import { lock } from '../cluster/lock.ts';
import { operatorSource } from '../cluster/operator-image.ts';
import { run } from '../cluster/process.ts';

const root = dirname(dirname(import.meta.dirname));
/** What counts as released while no version is tagged. Its Dockerfile wants the bundle made before. */
const BEFORE_THE_FIRST_TAG = '184099b936af5965c9c71a95f9a570e27a816ae8';

export interface Previous {
  commit: string;
  /** The chart's folder. Others use it as well: copy it before you change it. */
  chart: string;
  image: Image;
}

/** Builds it, or takes it from the cache. A string says why it is not to be had. */
export async function buildPrevious(options: BuildOptions): Promise<Previous | string> {
  const { signal, progress } = options;
  const commit = await previousCommit(signal);
  if (commit === undefined) {
    return (
      `this checkout has neither a tag of an earlier version nor the commit ${BEFORE_THE_FIRST_TAG.slice(0, 12)}: ` +
      'clone the repository with its history and tags (git fetch --unshallow --tags)'
    );
  }
  const source = join(cacheDir(), 'previous', commit);
  if (!existsSync(source)) {
    using _ = await lock(`${source}.lock`, signal, () => progress('another process gets the version before this one…'));
    if (!existsSync(source)) await checkOut(commit, source, options);
  }
  using files = commit === BEFORE_THE_FIRST_TAG ? bundledSource(source) : operatorSource(OWN_ARCHITECTURE, source);
  const image = await buildImage({ ...files, name: 'operator-previous' }, options);
  return { commit, chart: join(source, 'charts', 'personal-connector-operator'), image };
}

/** That of the last tag before HEAD; undefined when the history is not here. */
async function previousCommit(signal: AbortSignal): Promise<string | undefined> {
  const git = async (...args: string[]): Promise<string> => (await run('git', args, { cwd: root, signal })).trim();
  const commitOf = (name: string): Promise<string> => git('rev-parse', '--verify', '--quiet', `${name}^{commit}`);
  try {
    return await commitOf(await git('describe', '--tags', '--abbrev=0', '--match', 'v[0-9]*', 'HEAD^'));
  } catch {
    return await commitOf(BEFORE_THE_FIRST_TAG).catch(() => undefined);
  }
}

async function checkOut(commit: string, to: string, { signal, progress }: BuildOptions): Promise<void> {
  progress(`getting the version before this one, ${commit.slice(0, 12)}…`);
  mkdirSync(dirname(to), { recursive: true });
  const temporary = mkdtempSync(join(dirname(to), '.checkout-'));
  try {
    const source = join(temporary, 'source');
    const archive = join(temporary, 'source.tar');
    mkdirSync(source);
    await run('git', ['archive', '--output', archive, commit], { cwd: root, signal });
    await run('tar', ['-xf', archive, '-C', source], { signal });
    if (commit === BEFORE_THE_FIRST_TAG) await bundle(source, signal);
    renameSync(source, to);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

async function bundle(source: string, signal: AbortSignal): Promise<void> {
  const modules = join(source, 'node_modules');
  const lockFile = (dir: string): string => readFileSync(join(dir, 'package-lock.json'), 'utf8');
  if (lockFile(source) === lockFile(root)) symlinkSync(join(root, 'node_modules'), modules);
  else await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: source, signal });
  await run(process.execPath, [join('scripts', 'build.ts')], { cwd: source, signal });
  rmSync(modules, { recursive: true });
}

function bundledSource(source: string): Disposable & ImageSource {
  const context = mkdtempSync(join(dirname(source), '.image-'));
  for (const file of ['Dockerfile', 'dist/operator.mjs', 'dist/bridge.mjs'])
    cpSync(join(source, file), join(context, file));
  return {
    name: 'operator',
    dockerfile: join(context, 'Dockerfile'),
    context,
    bases: { BASE: 'node' },
    [Symbol.dispose]: () => rmSync(context, { recursive: true, force: true }),
  };
}
