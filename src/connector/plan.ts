/** What a strategy is asked and what it answers. */

import type { Finding, PersonalConnector } from '../api/connector.ts';
import type { Declared, ResourceType } from '../api/meta.ts';
import type { Guard } from '../probe/guard.ts';
import type { Child, Deployment, Pod } from './children.ts';
import type { Policy } from './policy.ts';
import type { Inputs } from './references.ts';

/** What a strategy may know beside the connector. */
export interface Context {
  policy: Policy;
  guard: Guard;
  /** The operator's own namespace, when it runs in the cluster: hosted servers let it in. */
  operatorNamespace: string | undefined;
  /** Image that brings the bridge into the Pods of stdio servers: the operator's own. Without one they cannot be hosted. */
  bridgeImage: string | undefined;
}

export interface Desired {
  type: ResourceType;
  object: Declared;
  /** Who applies it, where that is not the manager of all that the operator makes: planned only when there is cause. */
  fieldManager?: string;
}

/** What is there that a plan depends on. */
export interface Seen {
  deployment?: Deployment | undefined;
  /** What the environment of a hosted server is made of, where the operator may read it. */
  inputs?: Inputs;
}

/** What is to be, by the spec and the policy, and by little of what is there. */
export interface Plan {
  accepted: Finding<'Accepted'>;
  /** The objects that should exist, and no others; undefined leaves what is there (the spec is not accepted). */
  children: Desired[] | undefined;
  /** The URL that clients use. */
  serverUrl: string | undefined;
  serverType: 'http' | 'websocket' | undefined;
}

/** What is there of a connector's children. */
export interface Observed {
  deployment: Deployment | undefined;
  service: Child | undefined;
  pods: readonly Pod[];
}

/** How far a plan has come true in the cluster. Absent findings do not apply to the type. */
export interface Progress {
  deployed?: Finding<'Deployed'>;
  /** A Secret or key that a Pod waits for. */
  secretMissing?: string;
  hosting?: { deployment: string; service?: string; image: string; replicas: number; readyReplicas: number };
  /** Whether the server can be probed; if not, why. `as before`: what served before still does, while it is replaced. */
  probeable: true | 'as before' | (string & {});
  /** Whether the operator itself built the URL. */
  trusted: boolean;
  /** Changes when what serves the URL was replaced. */
  revision: string;
}

export interface Strategy {
  plan(connector: PersonalConnector, context: Context, seen?: Seen): Plan;
  progress(observed: Observed): Progress;
}

export const ACCEPTED: Finding<'Accepted'> = {
  status: 'True',
  reason: 'Accepted',
  message: 'the spec is valid and is served',
};

export function rejected(
  reason: Extract<Finding<'Accepted'>, { status: 'False' }>['reason'],
  message: string,
): Finding<'Accepted'> {
  return { status: 'False', reason, message };
}
