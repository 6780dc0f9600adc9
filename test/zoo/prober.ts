/** The prober as the product makes it. */
import { createDialer } from '../../src/probe/dial.ts';
import { type AddressPolicy, createGuard, openGuard } from '../../src/probe/guard.ts';
import { createProbe } from '../../src/probe/mcp.ts';
import { CLOSED } from '../unit/support.ts';

export const LOOPBACK: AddressPolicy = { ...CLOSED, allowCidrs: ['127.0.0.0/8', '::1/128'] };
export const USER_AGENT = 'zoo/0.0.0 (+https://example.com)';

/** The operator's prober, which lets this policy decide which addresses it reaches. */
export function prober(policy: AddressPolicy = LOOPBACK): ReturnType<typeof createProbe> {
  return createProbe({
    dial: createDialer({ guard: createGuard(policy) }),
    dialTrusted: createDialer({ guard: openGuard() }),
    client: { name: 'zoo', version: '0.0.0' },
    userAgent: USER_AGENT,
  });
}
