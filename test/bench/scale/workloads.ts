/** What is asked of those who are measured. */
import type { PersonalConnector } from '../../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import type { PolicyInput } from '../../../src/connector/policy.ts';

export const NAMESPACE = 'bench';

export interface Workload {
  name: string;
  /** What one row of it is about, for people. */
  title: string;
  policy: PolicyInput;
  object(name: string): { apiVersion: string; kind: string; metadata: object; spec: PersonalConnectorSpec };
  /** Whether all that a row waits for has been done for a connector, as it is now. */
  isSettled(connector: PersonalConnector): boolean;
  /** Whether nothing more will be written for it. */
  isAtRest(connector: PersonalConnector): boolean;
}

function workload(
  name: string,
  title: string,
  policy: PolicyInput,
  spec: (name: string) => Partial<PersonalConnectorSpec>,
  isSettled: Workload['isSettled'],
  isAtRest = isSettled,
): Workload {
  return {
    name,
    title,
    policy,
    object: name => ({
      apiVersion: 'connectors.aitronos.com/v1',
      kind: 'PersonalConnector',
      metadata: { name, namespace: NAMESPACE },
      spec: { name, type: 'custom', connectorId: 'custom_mcp', ...spec(name) },
    }),
    isSettled,
    isAtRest,
  };
}

const isCurrent = ({ metadata, status }: PersonalConnector): boolean =>
  status?.observedGeneration === metadata.generation;

function conditionOf({ status }: PersonalConnector, type: string): string | undefined {
  return status?.conditions?.find(condition => condition.type === type)?.status;
}

export const WORKLOADS: readonly Workload[] = [
  workload(
    'remote',
    'remote, probes off: created at once → each status written',
    {},
    name => ({ serverUrl: `https://${name}.example.com/mcp`, probe: { enabled: false } }),
    isCurrent,
  ),
  workload(
    'hosted',
    'hosted: created at once → each has its children, and its URL in its status',
    {
      catalog: {
        bench: { image: 'bench/mcp', defaultVersion: '1.0.0', resources: { requests: { cpu: '1m', memory: '1Mi' } } },
      },
    },
    () => ({ type: 'aitronos_built', connectorId: 'bench', probe: { enabled: false } }),
    connector => isCurrent(connector) && connector.status?.serverUrl !== undefined,
    connector => isCurrent(connector) && conditionOf(connector, 'Deployed') === 'True',
  ),
];
