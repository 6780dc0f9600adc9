/** The prober as the client of a conformance scenario: `node conformance-client.ts URL`. */
import { makeTarget } from '../unit/support.ts';
import { prober } from './prober.ts';

const url = process.argv[2] ?? '';
const outcome = await prober()(makeTarget({ url, timeoutMs: 10_000 }), {}, new AbortController().signal);
console.log(JSON.stringify(outcome));
process.exitCode = outcome.kind === 'answered' ? 0 : 1;
