/** Which strategy answers for which type of connector: the one place that asks. */

import type { ConnectorType, PersonalConnector } from '../api/connector.ts';
import { hosted } from './hosted.ts';
import type { Strategy } from './plan.ts';
import { remote } from './remote.ts';

const STRATEGIES: Record<ConnectorType, Strategy> = { official: remote, custom: remote, aitronos_built: hosted };

export function strategyOf({ spec }: PersonalConnector): Strategy {
  return STRATEGIES[spec.type];
}
