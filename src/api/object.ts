import { connectorIdentifier, type PersonalConnector } from './connector.ts';

/** The personal connector as clients of the Aitronos API know it, in its field names and order. */
export interface PersonalConnectorObject {
  /** Unique identifier, `pcon_` and letters and digits. */
  id: string;
  object: 'personal_connector';
  name: string;
  type: 'official' | 'aitronos_built' | 'custom';
  connector_id: string;
  description?: string;
  icon_url?: string;
  category?: 'productivity' | 'development' | 'communication' | 'design' | 'custom';
  /** Semantic version. */
  version?: string;
  status: 'active' | 'deprecated' | 'maintenance';
  server_url?: string;
  server_type?: 'http' | 'websocket' | 'stdio';
  metadata?: Record<string, unknown>;
  /** ISO 8601. */
  created_at: string;
  /** ISO 8601. */
  updated_at: string;
  created_by?: string;
}

/**
 * Gives the personal connector that a resource stands for. What the operator found for this generation (the effective
 * URL and type) comes before what the spec says; an optional field that neither has is absent, not null.
 */
export function toPersonalConnector(resource: PersonalConnector): PersonalConnectorObject {
  const { metadata, spec, status } = resource;
  const found = status?.observedGeneration === metadata.generation ? status : undefined;
  return withoutAbsent<PersonalConnectorObject>({
    id: connectorIdentifier(resource),
    object: 'personal_connector',
    name: spec.name,
    type: spec.type,
    connector_id: spec.connectorId,
    description: spec.description,
    icon_url: spec.iconUrl,
    category: spec.category,
    version: spec.version,
    status: spec.lifecycle ?? 'active',
    server_url: found?.serverUrl ?? spec.serverUrl,
    server_type: found?.serverType ?? spec.serverType,
    metadata: spec.metadata,
    created_at: metadata.creationTimestamp,
    updated_at: status?.updatedAt ?? metadata.creationTimestamp,
    created_by: spec.createdBy,
  });
}

type Absent<T> = { [K in keyof T]: T[K] | undefined };

function withoutAbsent<T extends object>(object: Absent<T>): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}
