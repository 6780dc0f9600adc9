/** What is asked of those who are measured. */
import type { PersonalConnector } from '../../../src/api/connector.ts';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import type { KubeObject } from '../../../src/api/meta.ts';
import type { PolicyInput } from '../../../src/connector/policy.ts';

export const NAMESPACE = 'bench';

/** Of any kind of object: a peer has kinds of its own. */
export interface Workload<T extends KubeObject = KubeObject> {
  /** That of a peer which does the same has the same name. */
  name: string;
  /** Path of the collection. */
  path: string;
  object(name: string): object;
  /** A merge patch after which an object is settled anew. */
  edit(text: string): object;
  /** Whether all that is waited for has been done for an object, as it is now. */
  isSettled(object: T): boolean;
}

/** One that the operator is measured with. */
export interface OwnWorkload extends Workload<PersonalConnector> {
  policy: PolicyInput;
  /** Whether nothing more will be written for a connector. */
  isAtRest(connector: PersonalConnector): boolean;
}

/** Resolves to this machine (test/support/operator.ts), a host by itself for each connector. */
const HOSTS = 'bench.svc.cluster.local';

const isCurrent = ({ metadata, status }: PersonalConnector): boolean =>
  status?.observedGeneration === metadata.generation;

const conditionOf = ({ status }: PersonalConnector, type: string): string | undefined =>
  status?.conditions?.find(condition => condition.type === type)?.status;

const isReady = (connector: PersonalConnector): boolean =>
  isCurrent(connector) && conditionOf(connector, 'Ready') === 'True';

/** `mcpPort`: where a real MCP server answers on this machine. */
export function ownWorkloads(mcpPort: number): OwnWorkload[] {
  const workload = (
    name: string,
    spec: (name: string) => Partial<PersonalConnectorSpec>,
    rest: Pick<OwnWorkload, 'isSettled'> & Partial<OwnWorkload>,
  ): OwnWorkload => ({
    name,
    path: `/apis/connectors.aitronos.com/v1/namespaces/${NAMESPACE}/personalconnectors`,
    policy: {},
    object: name => ({
      apiVersion: 'connectors.aitronos.com/v1',
      kind: 'PersonalConnector',
      metadata: { name, namespace: NAMESPACE },
      spec: { name, type: 'custom', connectorId: 'custom_mcp', ...spec(name) },
    }),
    edit: description => ({ spec: { description } }),
    isAtRest: rest.isSettled,
    ...rest,
  });
  return [
    workload('remote', name => ({ serverUrl: `https://${name}.example.com/mcp`, probe: { enabled: false } }), {
      isSettled: isCurrent,
    }),
    workload('probed', name => ({ serverUrl: `http://${name}.${HOSTS}:${mcpPort}/mcp` }), {
      policy: { addressPolicy: { allowHosts: [`*.${HOSTS}`], ports: ['1-65535'] } },
      isSettled: isReady,
    }),
    workload('hosted', () => ({ type: 'aitronos_built', connectorId: 'bench', probe: { enabled: false } }), {
      policy: {
        catalog: {
          bench: { image: 'bench/mcp', defaultVersion: '1.0.0', resources: { requests: { cpu: '1m', memory: '1Mi' } } },
        },
      },
      isSettled: connector => isCurrent(connector) && connector.status?.serverUrl !== undefined,
      isAtRest: connector => isCurrent(connector) && conditionOf(connector, 'Deployed') === 'True',
    }),
  ];
}
