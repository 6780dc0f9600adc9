/** What was really asked of the API server, by its own audit log. */
import { readFileSync } from 'node:fs';

export interface Audited {
  verb: string;
  resource: string;
  subresource: string | undefined;
  namespace: string | undefined;
  name: string | undefined;
  code: number;
  userAgent: string;
}

const WRITES = new Set(['create', 'update', 'patch', 'delete', 'deletecollection']);

/** The operator's requests in a namespace, in order. */
export function operatorRequests(auditLog: string, namespace: string): Audited[] {
  return (
    readFileSync(auditLog, 'utf8')
      .split('\n')
      // The API server may still be writing the last line.
      .slice(0, -1)
      .map(line => {
        const { verb, objectRef = {}, responseStatus = {}, userAgent = '' } = JSON.parse(line);
        const { resource = '', subresource, namespace: ns, name } = objectRef;
        return { verb, resource, subresource, namespace: ns, name, code: responseStatus.code ?? 0, userAgent };
      })
      .filter(
        ({ userAgent, namespace: ns }) => userAgent.startsWith('personal-connector-operator/') && ns === namespace,
      )
  );
}

/** Of these, the writes, as `patch deployments`, `patch personalconnectors/status`. */
export function operatorWrites(auditLog: string, namespace: string): string[] {
  return operatorRequests(auditLog, namespace)
    .filter(({ verb }) => WRITES.has(verb))
    .map(({ verb, resource, subresource }) => `${verb} ${resource}${subresource ? `/${subresource}` : ''}`);
}
