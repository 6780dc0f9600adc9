/** A process that serves MCP until its stdin ends: what the operator's probes cost is not to be mixed with what they find. */
import { startModernServer } from '../probe-servers.ts';

if (import.meta.main) {
  console.log(await startModernServer());
  process.stdin.on('end', () => process.exit(0)).resume();
}
