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
  const schemes = serverType === 'websocket' ? ['ws:', 'wss:'] : ['http:', 'https:'];
  const url = URL.canParse(serverUrl) ? new URL(serverUrl) : undefined;
  if (!url || !schemes.includes(url.protocol)) {
    const [kind, example] =
      serverType === 'websocket'
        ? ['ws or wss', 'wss://mcp.example.com/mcp']
        : ['http or https', 'https://mcp.example.com/mcp'];
    return rejected('InvalidSpec', `spec.serverUrl ${shown} is no ${kind} URL: set it to one such as ${example}`);
  }
  if (url.username || url.password || url.hash) {
    return rejected(
      'InvalidSpec',
      `spec.serverUrl ${shown} holds a user name, password or fragment: remove it, and give credentials as spec.probe.headers`,
    );
  }
  const denied = guard.denyUrl(url);
  if (denied !== undefined) return rejected('AddressDenied', `spec.serverUrl: ${denied}`);
  if (probe?.headers?.length && ['http:', 'ws:'].includes(url.protocol) && !guard.vouchesFor(url.hostname)) {
    return rejected(
      'InvalidSpec',
      `spec.probe.headers would be sent in clear to ${url.host}: use an ${serverType === 'websocket' ? 'wss' : 'https'} URL, or have the operator's admin name the host in addressPolicy`,
    );
  }
  return ACCEPTED;
}
