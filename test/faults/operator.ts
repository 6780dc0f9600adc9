/** The operator in a process of its own, as main.ts runs it, but for the names of hosted servers: tests serve these. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { readConfig, USAGE } from '../../src/config.ts';
import { fail, runProcess } from '../../src/main.ts';
import { lookupHosted } from '../support/operator.ts';

const REQUEST = 'undici:request:create';

// For the test that wants an event loop that hangs, and in the worst moment: with a write in its hands that it sends before
// it looks at its timers.
process.once('SIGUSR2', () => {
  const hang = (message: unknown): void => {
    if ((message as { request: { method: string } }).request.method !== 'PATCH') return;
    unsubscribe(REQUEST, hang);
    console.log('hangs');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.STALL_MS ?? 0));
  };
  subscribe(REQUEST, hang);
  console.log('will hang');
});

try {
  const config = readConfig(process.argv.slice(2), process.env);
  if (config === 'help') process.stdout.write(USAGE);
  else await runProcess(config, lookupHosted);
} catch (error) {
  fail(error);
}
