/** The whole operator in this process, looking at one namespace: what main.ts wires, with a resolver for hosted names. */
import { pino } from 'pino';
import { readConfig } from '../../src/config.ts';
import type { PolicyInput } from '../../src/connector/policy.ts';
import { policySchema } from '../../src/connector/policy.ts';
import { type Operator, startOperator } from '../../src/main.ts';
import type { Lookup } from '../../src/probe/guard.ts';
import type { Sandbox } from './kube.ts';

/** No Pod has an address here: what the operator hosts is answered by servers of the test on the loopback address. */
export const lookupHosted: Lookup = async host => {
  if (host.endsWith('.svc.cluster.local')) return ['127.0.0.1'];
  throw Object.assign(new Error(`getaddrinfo ENOTFOUND ${host}`), { code: 'ENOTFOUND' });
};

export async function runOperator(
  { kubeConfig, namespace }: Sandbox,
  policy: PolicyInput = {},
  lookup: Lookup = lookupHosted,
): Promise<Operator> {
  const config = readConfig(['--host', '127.0.0.1', '--port', '0', '--namespace', namespace], {});
  if (config === 'help') throw new Error('unreachable');
  const operator = await startOperator({
    kubeConfig,
    config: { ...config, policy: policySchema.parse(policy) },
    log: pino({ level: process.env.TEST_LOG_LEVEL ?? 'fatal' }),
    lookup,
  });
  await operator.ready;
  return operator;
}
