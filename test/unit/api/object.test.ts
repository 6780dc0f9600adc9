import { describe, expect, it } from 'vitest';
import type { PersonalConnectorSpec } from '../../../src/api/generated.ts';
import { toPersonalConnector } from '../../../src/api/object.ts';
import { CREATED, makeConnector, UID } from '../support.ts';

/** All fields of the object, in the order in which its documentation lists them. */
const FIELDS = [
  'id',
  'object',
  'name',
  'type',
  'connector_id',
  'description',
  'icon_url',
  'category',
  'version',
  'status',
  'server_url',
  'server_type',
  'metadata',
  'created_at',
  'updated_at',
  'created_by',
];

const FULL: Partial<PersonalConnectorSpec> = {
  id: 'pcon_github',
  name: 'GitHub',
  connectorId: 'github',
  description: 'Issues and pull requests',
  iconUrl: 'https://example.com/github.svg',
  category: 'development',
  version: '1.0.0',
  lifecycle: 'deprecated',
  serverUrl: 'https://github-mcp.example.com',
  serverType: 'http',
  metadata: { team: 'platform', nested: { list: [1, null, 'x'] } },
  createdBy: 'user_1',
};

describe('toPersonalConnector', () => {
  it('gives an official connector with every field', () => {
    const resource = makeConnector('official', FULL, {
      status: { observedGeneration: 1, updatedAt: '2026-02-03T04:05:06Z' },
    });
    expect(toPersonalConnector(resource)).toStrictEqual({
      id: 'pcon_github',
      object: 'personal_connector',
      name: 'GitHub',
      type: 'official',
      connector_id: 'github',
      description: 'Issues and pull requests',
      icon_url: 'https://example.com/github.svg',
      category: 'development',
      version: '1.0.0',
      status: 'deprecated',
      server_url: 'https://github-mcp.example.com',
      server_type: 'http',
      metadata: { team: 'platform', nested: { list: [1, null, 'x'] } },
      created_at: CREATED,
      updated_at: '2026-02-03T04:05:06Z',
      created_by: 'user_1',
    });
  });

  it('keeps the order of the documentation', () => {
    expect(Object.keys(toPersonalConnector(makeConnector('official', FULL)))).toEqual(FIELDS);
  });

  it('gives an aitronos_built connector with the address that the operator made', () => {
    const resource = makeConnector(
      'aitronos_built',
      { name: 'ClickUp', serverUrl: 'http://clickup-mcp:8000', serverType: 'stdio' },
      {
        status: {
          observedGeneration: 1,
          serverUrl: 'http://clickup-mcp.team.svc.cluster.local:8000/mcp',
          serverType: 'http',
          updatedAt: CREATED,
        },
      },
    );
    expect(toPersonalConnector(resource)).toStrictEqual({
      id: 'pcon_0b1d6f3e1f0a4c539d7c5a6b7c8d9e0f',
      object: 'personal_connector',
      name: 'ClickUp',
      type: 'aitronos_built',
      connector_id: 'clickup',
      status: 'active',
      server_url: 'http://clickup-mcp.team.svc.cluster.local:8000/mcp',
      server_type: 'http',
      created_at: CREATED,
      updated_at: CREATED,
    });
  });

  it('gives a custom connector, and leaves out what nobody said', () => {
    const resource = makeConnector('custom', { name: 'Mine', serverUrl: 'https://my-custom-server.com/mcp' });
    expect(toPersonalConnector(resource)).toStrictEqual({
      id: 'pcon_0b1d6f3e1f0a4c539d7c5a6b7c8d9e0f',
      object: 'personal_connector',
      name: 'Mine',
      type: 'custom',
      connector_id: 'custom_mcp',
      status: 'active',
      server_url: 'https://my-custom-server.com/mcp',
      created_at: CREATED,
      updated_at: CREATED,
    });
  });

  it('derives the same id from the UID whatever the status says', () => {
    const without = toPersonalConnector(makeConnector('custom'));
    const withAnother = toPersonalConnector(
      makeConnector('custom', {}, { status: { observedGeneration: 1, id: 'pcon_other' } }),
    );
    expect(without.id).toMatch(/^pcon_[A-Za-z0-9]+$/);
    expect(without.id).toBe(`pcon_${UID.replaceAll('-', '')}`);
    expect(withAnother.id).toBe(without.id);
  });

  it('takes nothing about the server from the status of an earlier generation', () => {
    const resource = makeConnector(
      'official',
      { serverUrl: 'https://new.example.com/mcp' },
      {
        metadata: { generation: 2 },
        status: {
          observedGeneration: 1,
          serverUrl: 'https://old.example.com/mcp',
          serverType: 'websocket',
          updatedAt: '2026-02-03T04:05:06Z',
        },
      },
    );
    const object = toPersonalConnector(resource);
    expect(object.server_url).toBe('https://new.example.com/mcp');
    expect('server_type' in object).toBe(false);
    expect(object.updated_at).toBe('2026-02-03T04:05:06Z');
  });

  it('was updated when it was created until the operator has seen it', () => {
    const resource = makeConnector('custom', {}, { status: { observedGeneration: -1 } });
    expect(toPersonalConnector(resource).updated_at).toBe(CREATED);
  });

  it.each(['active', 'deprecated', 'maintenance'] as const)('tells the lifecycle %s as status', lifecycle => {
    expect(toPersonalConnector(makeConnector('custom', { lifecycle })).status).toBe(lifecycle);
  });
});
