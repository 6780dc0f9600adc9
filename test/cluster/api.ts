// The few requests that a cluster needs to become ready. The tests' own client is elsewhere.
import { Agent, request } from 'undici';
import { until, type WaitOptions } from './process.ts';

export interface Api extends AsyncDisposable {
  /** Gives the answer's body, parsed if it is JSON. An answer that is not 2xx is an error. */
  call(method: 'GET' | 'POST', path: string, body?: object): Promise<unknown>;
}

export interface ApiOptions {
  server: string;
  /** PEM. */
  ca: string;
  token: string;
  signal: AbortSignal;
}

const TIMEOUT_MS = 10_000;

export function createApi({ server, ca, token, signal }: ApiOptions): Api {
  const dispatcher = new Agent({
    connect: { ca, timeout: 2_000 },
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  });
  return {
    async call(method, path, body) {
      const { statusCode, body: answer } = await request(new URL(path, server), {
        method,
        dispatcher,
        signal,
        headers: {
          authorization: `Bearer ${token}`,
          ...(body && { 'content-type': 'application/json' }),
        },
        ...(body && { body: JSON.stringify(body) }),
      });
      const text = await answer.text();
      if (statusCode >= 300) throw new Error(`${method} ${path}: HTTP ${statusCode} ${text.slice(0, 500)}`);
      return text.startsWith('{') ? JSON.parse(text) : text;
    },
    [Symbol.asyncDispose]: () => dispatcher.destroy(),
  };
}

/** Whether an object's status has the condition Ready=True. */
export function isReady(object: unknown): boolean {
  const conditions = (object as { status?: { conditions?: { type: string; status: string }[] } }).status?.conditions;
  return conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}

/** Waits for the first work of the controller manager; before it is done, Pods are refused. */
export async function untilPodsAreAllowed(api: Api, wait: WaitOptions): Promise<void> {
  const account = '/api/v1/namespaces/default/serviceaccounts/default';
  await until('the ServiceAccount default/default', () => api.call('GET', account), wait);
}
