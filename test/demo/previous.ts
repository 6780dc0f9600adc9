/** The version before this one, as its users have it: its chart and its image, for tests of upgrades. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cacheDir } from '../cluster/binaries.ts';
import { type BuildOptions, buildImage, type Image } from '../cluster/images.ts';
import { lock } from '../cluster/lock.ts';
import { run } from '../cluster/process.ts';

const root = dirname(dirname(import.meta.dirname));
/** What counts as released while no version is tagged. */
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
  const made = join(cacheDir(), 'previous', commit);
  if (!existsSync(made)) {
    using _ = await lock(`${made}.lock`, signal, () => progress('another process builds the version before…'));
    if (!existsSync(made)) await build(commit, made, options);
  }
  const context = join(made, 'image');
  const source = { name: 'operator-previous', context, dockerfile: join(context, 'Dockerfile') };
  return {
    commit,
    chart: join(made, 'chart'),
    image: await buildImage({ ...source, bases: { BASE: 'node' } }, options),
  };
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

async function build(commit: string, to: string, { signal, progress }: BuildOptions): Promise<void> {
  progress(`building the version before this one, ${commit.slice(0, 12)}…`);
  mkdirSync(dirname(to), { recursive: true });
  const temporary = mkdtempSync(join(dirname(to), '.build-'));
  try {
    const source = join(temporary, 'source');
    const made = join(temporary, 'made');
    mkdirSync(source);
    const archive = join(temporary, 'source.tar');
    await run('git', ['archive', '--output', archive, commit], { cwd: root, signal });
    await run('tar', ['-xf', archive, '-C', source], { signal });
    const lockFile = (dir: string): string => readFileSync(join(dir, 'package-lock.json'), 'utf8');
    if (lockFile(source) === lockFile(root)) symlinkSync(join(root, 'node_modules'), join(source, 'node_modules'));
    else await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: source, signal });
    await run(process.execPath, [join('scripts', 'build.ts')], { cwd: source, signal });
    for (const file of ['operator.mjs', 'bridge.mjs'])
      cpSync(join(source, 'dist', file), join(made, 'image', 'dist', file));
    cpSync(join(source, 'Dockerfile'), join(made, 'image', 'Dockerfile'));
    cpSync(join(source, 'charts', 'personal-connector-operator'), join(made, 'chart'), { recursive: true });
    renameSync(made, to);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
