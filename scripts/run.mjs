// The one door for every npm script. It runs on any Node >= 20 and has no dependencies: it installs the project's
// own packages when they are missing or out of date, finds the Node that the project needs, and hands over to it.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const NODE_MAJOR = 26;
/** The package as npm publishes it holds the built operator, and neither sources nor lock file. */
const isPublished = !existsSync(join(root, 'package-lock.json'));

/** What each npm script runs, by the project's own Node. */
const tasks = {
  start: ['scripts/start.ts'],
  test: ['scripts/test.ts'],
  check: ['scripts/check.ts'],
  fix: ['scripts/check.ts', '--fix'],
  build: ['scripts/build.ts'],
  sbom: ['scripts/sbom.ts'],
  generate: ['scripts/generate.ts'],
  'generate:chart': ['scripts/install.ts'],
  operator: [isPublished ? 'dist/operator.mjs' : 'src/main.ts'],
  cluster: ['test/cluster/cli.ts'],
  alarms: ['test/zoo/alarms.ts'],
  bench: ['test/bench/scale.ts'],
  'bench:caches': ['test/bench/caches.ts'],
  'bench:api': ['test/bench/api.ts'],
  'bench:probes': ['--expose-gc', 'test/bench/probes.ts'],
  'bench:restart': ['test/bench/restart.ts'],
  'bench:bridge': ['test/bench/bridge.ts'],
  figures: ['test/bench/figures.ts'],
  soak: ['test/faults/soak.ts'],
  mutations: ['test/faults/mutations.ts'],
};

const [task, ...args] = process.argv.slice(2);
if (!task || !Object.hasOwn(tasks, task)) {
  console.error(`run.mjs: unknown task ${JSON.stringify(task ?? '')}; one of: ${Object.keys(tasks).join(', ')}`);
  process.exit(2);
}

if (!isPublished) install();
const child = spawn(projectNode(), [...tasks[task].map(inProject), ...args], {
  cwd: task === 'operator' ? process.cwd() : root,
  stdio: 'inherit',
});
// The terminal sends Ctrl-C to the child as well; the child decides when it is done, and we end as it ended.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
  });
}
child.on('error', error => {
  console.error(`run.mjs: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 1)));

/** The path of a file of the project, whatever the working directory is; flags stay as they are. */
function inProject(argument) {
  return argument.startsWith('-') ? argument : join(root, argument);
}

/** Runs `npm ci` when node_modules does not hold what package-lock.json says. */
function install() {
  const lock = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const stamp = join(root, 'node_modules', '.installed-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  console.error('Installing the packages of package-lock.json (npm ci)…');
  // npm's engine warnings speak of the Node that starts us, not of the one that the project runs on.
  const npm = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (npm.status !== 0) {
    console.error('run.mjs: `npm ci` failed; its output is above. It needs a reachable npm registry.');
    process.exit(1);
  }
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, lock);
}

/** The path of a Node >= NODE_MAJOR: the one that runs us if it is new enough, else the one npm installed. */
function projectNode() {
  if (Number(process.versions.node.split('.')[0]) >= NODE_MAJOR) return process.execPath;
  const require = createRequire(join(root, 'package.json'));
  const { platform, arch } = process;
  for (const name of [`node-${platform}-${arch}`, `node-bin-${platform}-${arch}`]) {
    try {
      return join(dirname(require.resolve(`${name}/package.json`)), 'bin', 'node');
    } catch {
      // Not published for this platform under this name.
    }
  }
  console.error(
    `run.mjs: this project runs on Node ${NODE_MAJOR}; npm has no Node binary for ${platform}-${arch}, ` +
      `and this one is ${process.version}. Install Node ${NODE_MAJOR} and try again.`,
  );
  process.exit(1);
}
