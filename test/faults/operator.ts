/** The operator in a process of its own, as main.ts runs it, but for the names of hosted servers: tests serve these. */
import { readConfig, USAGE } from '../../src/config.ts';
import { fail, runProcess } from '../../src/main.ts';
import { lookupHosted } from '../support/operator.ts';

// An event loop that hangs, for the test that wants one.
process.on('SIGUSR2', () => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.STALL_MS ?? 0));
});

try {
  const config = readConfig(process.argv.slice(2), process.env);
  if (config === 'help') process.stdout.write(USAGE);
  else await runProcess(config, lookupHosted);
} catch (error) {
  fail(error);
}
