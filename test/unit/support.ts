/** What unit tests share: connectors and policies with sensible defaults, and an API client that does only what it is told. */
import type { PersonalConnector } from '../../src/api/connector.ts';
import type { PersonalConnectorSpec, PersonalConnectorStatus } from '../../src/api/generated.ts';
import type { Declared, KubeObject, ObjectMeta, ResourceType } from '../../src/api/meta.ts';
import type { Context } from '../../src/connector/plan.ts';
import { type Policy, type PolicyInput, policySchema } from '../../src/connector/policy.ts';
import type { KubeClient } from '../../src/kube/client.ts';
import { ApiError } from '../../src/kube/errors.ts';
import type { AddressPolicy } from '../../src/probe/guard.ts';
import { createGuard } from '../../src/probe/guard.ts';
import type { Target } from '../../src/probe/target.ts';

export const UID = '0b1d6f3e-1f0a-4c53-9d7c-5a6b7c8d9e0f';
export const CREATED = '2026-01-01T00:00:00Z';

const NAMES = { official: 'github', aitronos_built: 'clickup', custom: 'custom_mcp' } as const;

interface Overrides {
  metadata?: Partial<ObjectMeta>;
  status?: PersonalConnectorStatus;
}

/** A connector of a type, complete by the CRD's rules; `spec` adds to it or replaces. */
export function makeConnector(
  type: PersonalConnectorSpec['type'],
  spec: Partial<PersonalConnectorSpec> = {},
  { metadata, status }: Overrides = {},
): PersonalConnector {
  return {
    apiVersion: 'connectors.aitronos.com/v1',
    kind: 'PersonalConnector',
    metadata: {
      name: NAMES[type],
      namespace: 'team',
      uid: UID,
      resourceVersion: '10',
      generation: 1,
      creationTimestamp: CREATED,
      ...metadata,
    },
    spec: {
      name: 'A connector',
      type,
      connectorId: NAMES[type],
      ...(type !== 'aitronos_built' && { serverUrl: 'https://mcp.example.com/mcp' }),
      ...spec,
    },
    ...(status && { status }),
  };
}

export function makePolicy(input: PolicyInput = {}): Policy {
  return policySchema.parse({
    catalog: { clickup: { image: 'registry.example.com/clickup-mcp', defaultVersion: '1.2.0' } },
    ...input,
  });
}

export function makeContext(
  input: PolicyInput = {},
  where: Partial<Pick<Context, 'operatorNamespace' | 'bridgeImage'>> = {},
): Context {
  const policy = makePolicy(input);
  const guard = createGuard(policy.addressPolicy, async () => ['203.0.113.1']);
  return { policy, guard, operatorNamespace: undefined, bridgeImage: undefined, ...where };
}

/** A client of which only the given calls work; any other call rejects, and so fails the test that makes it. */
export function fakeClient(calls: Partial<KubeClient> = {}): KubeClient {
  const unexpected = (name: string) => async (): Promise<never> => {
    throw new Error(`unexpected ${name}`);
  };
  return {
    get: unexpected('get'),
    list: unexpected('list'),
    watch: unexpected('watch'),
    apply: unexpected('apply'),
    create: unexpected('create'),
    replace: unexpected('replace'),
    patch: unexpected('patch'),
    remove: unexpected('remove'),
    ...calls,
  };
}

/** Lets nothing through but public addresses, at the ports that are usual. */
export const CLOSED: AddressPolicy = policySchema.parse({}).addressPolicy;

export function makeTarget(target: Partial<Target> = {}): Target {
  return {
    url: 'https://mcp.example.com/mcp',
    trusted: false,
    fingerprint: 'one',
    tenant: 'default',
    audience: '',
    intervalMs: 60_000,
    timeoutMs: 5_000,
    failureThreshold: 1,
    successThreshold: 1,
    recheck: undefined,
    secretsVersion: '',
    sendsCredentials: false,
    secrets: undefined,
    ...target,
  };
}

export type Raw = KubeObject & { spec?: object; status?: object };

/**
 * An API server as far as writes go: server-side apply with its preconditions, get, patch of metadata and remove.
 * `calls` tells each write and read; `before` may throw what the server is to answer instead; `admit` may change what is
 * stored.
 */
export function fakeApi() {
  const objects = new Map<string, Raw>();
  const calls: string[] = [];
  const sent: Declared[] = [];
  let version = 100;
  const hooks: { before?: (call: string) => void; admit?: (object: Raw) => Raw } = {};
  const at = (type: ResourceType, { namespace, name }: { namespace: string; name: string }): string =>
    `${type.kind} ${namespace}/${name}`;
  const failed = (call: string, status: number, reason: string): ApiError =>
    new ApiError(call, status, JSON.stringify({ message: reason, reason }));
  const called = (call: string): void => {
    calls.push(call);
    hooks.before?.(call);
  };

  const client = fakeClient({
    async get<T extends KubeObject>(type: ResourceType, where: { namespace: string; name: string }): Promise<T> {
      const call = `get ${at(type, where)}`;
      called(call);
      const object = objects.get(at(type, where));
      if (!object) throw failed(call, 404, 'NotFound');
      return object as unknown as T;
    },
    async apply<T extends KubeObject>(
      type: ResourceType,
      object: Declared,
      { subresource, dryRun }: { fieldManager: string; subresource?: 'status'; dryRun?: boolean },
    ): Promise<T> {
      const { uid, resourceVersion, ...metadata } = object.metadata;
      const call = `apply ${at(type, object.metadata)}${subresource ? `/${subresource}` : ''}`;
      called(call);
      if (dryRun) return object as never;
      sent.push(object);
      const there = objects.get(at(type, object.metadata));
      if (!there && (uid !== undefined || subresource)) throw failed(call, subresource ? 404 : 409, 'NotFound');
      if (there && resourceVersion !== undefined && resourceVersion !== there.metadata.resourceVersion)
        throw failed(call, 409, 'Conflict');
      if (there && uid !== undefined && uid !== there.metadata.uid) throw failed(call, 409, 'Conflict');
      version += 1;
      const merged = {
        ...there,
        ...object,
        metadata: {
          uid: `uid-${version}`,
          creationTimestamp: CREATED,
          generation: 1,
          ...there?.metadata,
          ...metadata,
          resourceVersion: String(version),
        },
      } as Raw;
      const stored = hooks.admit?.(merged) ?? merged;
      objects.set(at(type, object.metadata), stored);
      return stored as unknown as T;
    },
    async patch<T extends KubeObject>(
      type: ResourceType,
      where: { namespace: string; name: string },
      patch: object,
    ): Promise<T> {
      called(`patch ${at(type, where)}`);
      const there = objects.get(at(type, where)) as Raw;
      const patched = { ...there, metadata: { ...there.metadata, ...(patch as Raw).metadata } };
      objects.set(at(type, where), patched);
      return patched as unknown as T;
    },
    async remove(type, object) {
      const call = `remove ${at(type, object.metadata)} ${object.metadata.uid}`;
      called(call);
      const there = objects.get(at(type, object.metadata));
      if (!there) throw failed(call, 404, 'NotFound');
      if (there.metadata.uid !== object.metadata.uid) throw failed(call, 409, 'Conflict');
      objects.delete(at(type, object.metadata));
    },
  });
  return { client, objects, calls, sent, hooks, failed };
}
