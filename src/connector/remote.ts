/** `official` and `custom`: somebody else hosts the server, and the operator only looks. */

import { ACCEPTED, rejected, type Strategy } from './plan.ts';

export const remote: Strategy = {
  plan({ spec }, { guard }) {
    const url = spec.serverUrl ?? '';
    const serverType = spec.serverType === 'websocket' ? 'websocket' : 'http';
    const denied = URL.canParse(url) ? guard.denyLiteral(new URL(url).hostname) : undefined;
    const accepted = !URL.canParse(url)
      ? rejected(
          'InvalidSpec',
          `spec.serverUrl ${JSON.stringify(url)} is no URL: set it to one such as https://mcp.example.com/mcp`,
        )
      : denied !== undefined
        ? rejected('AddressDenied', `spec.serverUrl: ${denied}`)
        : ACCEPTED;
    return { accepted, children: [], serverUrl: url, serverType };
  },
  progress: () => ({ probeable: true, trusted: false, revision: '' }),
};
