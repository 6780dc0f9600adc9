/** What was really asked of the API server, by its own audit log. */
import { readFileSync } from 'node:fs';

export interface Audited {
  verb: string;
  resource: string;
  subresource: string | undefined;
  namespace: string | undefined;
  name: string | undefined;
  code: number;
  /** Path and query. */
  uri: string;
  userAgent: string;
  user: string;
}

const WRITES = new Set(['create', 'update', 'patch', 'delete', 'deletecollection']);

/** All requests, in order. */
export function requests(auditLog: string): Audited[] {
  return (
    readFileSync(auditLog, 'utf8')
      .split('\n')
      // The API server may still be writing the last line.
      .slice(0, -1)
      .map(line => {
        const {
          verb,
          objectRef = {},
          responseStatus = {},
          requestURI: uri,
          userAgent = '',
          user = {},
        } = JSON.parse(line);
        const { resource = '', subresource, namespace, name } = objectRef;
        const { code = 0 } = responseStatus;
        return { verb, resource, subresource, namespace, name, code, uri, userAgent, user: user.username ?? '' };
      })
  );
}

/** The operator's requests in a namespace, in order. */
export function operatorRequests(auditLog: string, namespace: string): Audited[] {
  return requests(auditLog).filter(
    ({ userAgent, namespace: ns }) => userAgent.startsWith('personal-connector-operator/') && ns === namespace,
  );
}

/** Of these, the writes, as `patch deployments`, `patch personalconnectors/status`. */
export function operatorWrites(auditLog: string, namespace: string): string[] {
  return operatorRequests(auditLog, namespace)
    .filter(({ verb }) => WRITES.has(verb))
    .map(({ verb, resource, subresource }) => `${verb} ${resource}${subresource ? `/${subresource}` : ''}`);
}
