// teams-mcp takes its token from a file that only an interactive login writes, and says on stdout, where messages belong,
// when it has expired. Here it comes from the environment, and such words go to stderr.
import { writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const token = process.env.TEAMS_ACCESS_TOKEN?.trim();
if (!token) {
  console.error('TEAMS_ACCESS_TOKEN is not set: give an access token for Microsoft Graph');
  process.exit(1);
}
console.log = console.error;
writeFileSync(join(homedir(), '.msgraph-mcp-auth.json'), JSON.stringify({ authenticated: true, token }), {
  mode: 0o600,
});
delete process.env.TEAMS_ACCESS_TOKEN;
await import('@floriscornel/teams-mcp');
