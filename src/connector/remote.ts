/** `official` and `custom`: somebody else hosts the server, and the operator only looks. */

import type { Finding } from '../api/connector.ts';
import type { PersonalConnectorSpec } from '../api/generated.ts';
import type { Guard } from '../probe/guard.ts';
import { ACCEPTED, rejected, type Strategy } from './plan.ts';

export const remote: Strategy = {
  plan: ({ spec }, { guard }) => ({
    accepted: accept(spec, guard),
    children: [],
    serverUrl: spec.serverUrl,
    serverType: spec.serverType === 'websocket' ? 'websocket' : 'http',
  }),
  progress: () => ({ probeable: true, trusted: false, revision: '' }),
};

function accept({ serverUrl = '', serverType, probe }: PersonalConnectorSpec, guard: Guard): Finding<'Accepted'> {
  const shown = JSON.stringify(serverUrl.replace(/\/\/[^/?#]*@/, '//…@'));
  if (serverType === 'websocket') {
    return rejected(
      'InvalidSpec',
      'spec.serverType websocket cannot be probed by this version of the operator: use the http endpoint of the server',
    );
  }
  const url = URL.canParse(serverUrl) ? new URL(serverUrl) : undefined;
  if (!url || !['http:', 'https:'].includes(url.protocol)) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl ${shown} is no http or https URL: set it to one such as https://mcp.example.com/mcp`,
    );
  }
  if (url.username || url.password || url.hash) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl ${shown} holds a user name, password or fragment: remove it, and give credentials as spec.probe.headers`,
    );
  }
  const denied = guard.denyLiteral(url.hostname);
  if (denied !== undefined) return rejected('AddressDenied', `spec.serverUrl: ${denied}`);
  if (probe?.headers?.length && url.protocol === 'http:' && !guard.vouchesFor(url.hostname)) {
    return rejected(
      'InvalidSpec',
      `spec.probe.headers would be sent in clear to ${url.host}: use an https URL, or have the operator's admin name the host in addressPolicy`,
    );
  }
  return ACCEPTED;
}
