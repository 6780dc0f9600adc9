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

function accept({ serverUrl = '', serverType }: PersonalConnectorSpec, guard: Guard): Finding<'Accepted'> {
  if (serverType === 'websocket') {
    return rejected(
      'InvalidSpec',
      'spec.serverType websocket cannot be probed by this version of the operator: use the http endpoint of the server',
    );
  }
  if (!URL.canParse(serverUrl)) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl ${JSON.stringify(serverUrl)} is no URL: set it to one such as https://mcp.example.com/mcp`,
    );
  }
  const { hostname } = new URL(serverUrl);
  const denied = guard.denyLiteral(hostname);
  return denied === undefined ? ACCEPTED : rejected('AddressDenied', `spec.serverUrl: ${denied}`);
}
