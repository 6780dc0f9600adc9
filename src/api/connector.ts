/** The PersonalConnector API in names: kind, labels, annotations, condition types and reasons. */

import type { Condition, PersonalConnectorSpec, PersonalConnectorStatus } from './generated.ts';
import type { KubeObject, ResourceType } from './meta.ts';

export interface PersonalConnector extends KubeObject {
  spec: PersonalConnectorSpec;
  status?: PersonalConnectorStatus;
}

export type ConnectorType = PersonalConnectorSpec['type'];

export const PERSONAL_CONNECTORS = {
  group: 'connectors.aitronos.com',
  version: 'v1',
  plural: 'personalconnectors',
  kind: 'PersonalConnector',
} as const satisfies ResourceType;

/** The product's name: field manager of children, `managed-by` label, user agent, reporting controller of Events. */
export const OPERATOR = 'personal-connector-operator';
export const FIELD_MANAGER = OPERATOR;
export const STATUS_FIELD_MANAGER = `${OPERATOR}-status`;
/** Of the number of Pods, where the spec leaves it to others: written once, at both ends of a maintenance. */
export const SCALE_FIELD_MANAGER = `${OPERATOR}-scale`;

export const LABEL = {
  name: 'app.kubernetes.io/name',
  instance: 'app.kubernetes.io/instance',
  version: 'app.kubernetes.io/version',
  component: 'app.kubernetes.io/component',
  managedBy: 'app.kubernetes.io/managed-by',
  connector: 'connectors.aitronos.com/connector',
} as const;

export const ANNOTATION = {
  /** On a connector, set by people: any new value makes the operator reconcile and probe at once. */
  recheck: 'connectors.aitronos.com/recheck',
  /** On a child: hash of what the operator last applied, so that a field which is no longer wanted shows as a change. */
  applied: 'connectors.aitronos.com/applied',
  /** On the Pods of a hosted server: digest of the Secrets and ConfigMaps of their environment, so that a change rolls. */
  inputs: 'connectors.aitronos.com/inputs',
  /** On a Deployment whose number of Pods is the spec's. */
  replicas: 'connectors.aitronos.com/spec-replicas',
  /** On a Deployment in maintenance: how many Pods it had of others, and is to have again. */
  resume: 'connectors.aitronos.com/replicas-before-maintenance',
} as const;

type Status = Condition['status'];
type Table = Record<string, { meaning: string } & Record<Status, readonly Reason[]>>;

/** Every reason that a condition or Event can give, with its meaning. The reference page is generated from it. */
export const REASONS = {
  Accepted: 'The spec is valid and the operator can serve it.',
  InvalidSpec: 'The spec cannot be served as it is; the message names the field and the fix.',
  IdConflict: 'Another, older connector pins the same spec.id.',
  CatalogEntryMissing:
    "The operator's catalog has no entry for spec.connectorId, and spec.hosting does not say enough.",
  ImageNotAllowed: "spec.hosting.image matches nothing in the operator's allowedImages.",
  AddressDenied: "The operator's address policy forbids to connect to this address.",
  SecretNotFound: 'A Secret that the connector needs is missing, lacks a key, or may not be read.',
  NameConflict: 'An object that the connector needs exists already and belongs to somebody else.',
  Available: 'The hosted server has the Pods that it should have, and they are ready.',
  ScaledToZero: 'The hosted server is meant to have no Pods.',
  Progressing: 'Work is under way; nothing is known to be wrong.',
  RolloutFailed: 'The Pods of the hosted server could not be brought up in time.',
  ImagePullFailed: "A Pod's image cannot be pulled.",
  CrashLooping: "A Pod's container keeps ending.",
  Unschedulable: 'No node can take a Pod.',
  QuotaExceeded: 'A resource quota or admission policy of the namespace forbids the Pods.',
  Answered: 'The server answered.',
  DNSFailure: "The host name of the server's URL does not resolve.",
  ConnectionRefused: 'Nothing listens at the address.',
  ConnectionReset: 'The connection broke before an answer came.',
  Timeout: 'No answer came in time.',
  TLSInvalid: "The server's certificate cannot be trusted.",
  ServerError: 'The server answered with a 5xx status.',
  NotFound: 'The server knows nothing at this path.',
  Forbidden: 'The server refused the request whoever makes it.',
  Redirected: 'The server redirects elsewhere.',
  Pending: 'Not known yet.',
  ProbeDisabled: 'spec.probe.enabled is false.',
  Maintenance: 'spec.lifecycle is maintenance.',
  MCPVerified: 'The server speaks MCP.',
  NotMCP: 'What answered is not an MCP server.',
  ProtocolMismatch: 'The server speaks no MCP revision that the operator knows.',
  ToolsChanged: 'The tools are not those of spec.probe.approvedToolsHash.',
  AuthorizationRequired: 'The server wants its users to authorize first, as a healthy OAuth server does.',
  RateLimited: 'The server asked to be left alone for a while.',
  NotRequired: 'The server answers without credentials.',
  CredentialsAccepted: 'The server accepted the headers of spec.probe.headers.',
  CredentialsRejected: 'The server rejected the headers of spec.probe.headers.',
  InsufficientScope: 'The credentials lack a scope that the server wants.',
  Ready: 'The connector can be used.',
  Deprecated: 'spec.lifecycle is deprecated: the connector works, and its users should move on.',
  Stalled: 'Only a change of spec or configuration can mend it.',
} as const;

export type Reason = keyof typeof REASONS;

/** What can be said of a connector, aspect by aspect. */
const ASPECTS = {
  Accepted: {
    meaning: 'The operator can serve the spec.',
    True: ['Accepted'],
    False: [
      'InvalidSpec',
      'IdConflict',
      'CatalogEntryMissing',
      'ImageNotAllowed',
      'AddressDenied',
      'SecretNotFound',
      'NameConflict',
    ],
    Unknown: [],
  },
  Deployed: {
    meaning: 'The hosted server runs as wanted (aitronos_built only).',
    True: ['Available', 'ScaledToZero'],
    False: ['RolloutFailed', 'ImagePullFailed', 'CrashLooping', 'Unschedulable', 'QuotaExceeded'],
    Unknown: ['Progressing'],
  },
  Reachable: {
    meaning: "The server's URL answers.",
    True: ['Answered'],
    False: [
      'DNSFailure',
      'ConnectionRefused',
      'ConnectionReset',
      'Timeout',
      'TLSInvalid',
      'ServerError',
      'NotFound',
      'Forbidden',
      'Redirected',
      'AddressDenied',
    ],
    Unknown: ['Pending', 'ProbeDisabled', 'Maintenance'],
  },
  Verified: {
    meaning: 'What answers speaks MCP.',
    True: ['MCPVerified'],
    False: ['NotMCP', 'ProtocolMismatch', 'ToolsChanged'],
    Unknown: ['Pending', 'AuthorizationRequired', 'ProbeDisabled', 'RateLimited', 'Maintenance'],
  },
  Authorized: {
    meaning: 'The server lets the operator in.',
    True: ['NotRequired', 'CredentialsAccepted'],
    False: ['CredentialsRejected', 'InsufficientScope'],
    Unknown: ['AuthorizationRequired', 'Pending', 'ProbeDisabled', 'Maintenance'],
  },
} as const satisfies Table;

/** An aspect whose conditions Ready sums up. */
export type Aspect = keyof typeof ASPECTS;

/** The condition types and, for each status, the reasons it can give: the contract that status.ts is typed against. */
export const CONDITIONS = {
  ...ASPECTS,
  Ready: {
    meaning: 'The connector can be used. It sums up the conditions above, and is all that a consumer needs.',
    True: ['Ready', 'AuthorizationRequired', 'Maintenance', 'ProbeDisabled'],
    False: [...new Set(Object.values(ASPECTS).flatMap(aspect => aspect.False))],
    Unknown: ['Progressing'],
  },
  Reconciling: {
    meaning: 'There only while the operator is still bringing about what the spec says (kstatus).',
    True: ['Progressing'],
    False: [],
    Unknown: [],
  },
  Stalled: {
    meaning: 'There only while nothing but a change of spec or configuration can help (kstatus).',
    True: ['Stalled'],
    False: [],
    Unknown: [],
  },
} as const satisfies Table;

export type ConditionType = keyof typeof CONDITIONS;

/** The reasons that a condition of this type and status can give. */
export type ReasonOf<T extends ConditionType, S extends Status> = (typeof CONDITIONS)[T][S][number];

/** What the operator finds about one aspect, before it becomes a condition with a time. */
export type Finding<T extends ConditionType> = {
  [S in Status]: { status: S; reason: ReasonOf<T, S>; message: string };
}[Status];

/**
 * The connector's identifier: `spec.id`, else derived from the UID alone, so that it is the same again whatever
 * happens to the status. Matches `^pcon_[A-Za-z0-9]+$`.
 */
export function connectorIdentifier({ metadata, spec }: Pick<PersonalConnector, 'metadata' | 'spec'>): string {
  return spec.id ?? `pcon_${metadata.uid.replaceAll(/[^A-Za-z0-9]/g, '')}`;
}
