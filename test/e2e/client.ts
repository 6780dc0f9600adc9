/**
 * A client of hosted servers, for inside the cluster. `client.ts use URL` prints what the official SDK finds there, in each
 * era. `client.ts poll URL kept|fresh many|all` asks on and on until its stdin ends, on connections that are kept alive or
 * on a fresh one each time, and prints how often, and what failed: always a new client each time, with `all` also one of
 * each era that is the same throughout. It prints an empty line first, when each of them was answered once.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { Client, SdkHttpError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { Agent, fetch as undiciFetch } from 'undici';

type Era = 'auto' | 'legacy';

export interface Used {
  /** The revision agreed on. */
  version: string;
  server: string;
  tools: string[];
}

export interface Polled {
  asked: number;
  /** How often a session was gone: then a client begins a new one, as the protocol has it. */
  renewed: number;
  failed: string[];
}

const FRESH = 'fresh';

async function connected(url: string, era: Era, connections?: string) {
  const client = new Client(
    { name: 'e2e', version: '1.0.0' },
    era === 'auto' ? { versionNegotiation: { mode: 'auto' } } : {},
  );
  // Servers may close a connection that is kept alive as a request is on its way: no rollout is to blame for that.
  const dispatcher = new Agent({ pipelining: 0 });
  const fetch = (input: string | URL, init?: object) => undiciFetch(input, { ...init, dispatcher }) as never;
  const transport = new StreamableHTTPClientTransport(new URL(url), connections === FRESH ? { fetch } : {});
  await client.connect(transport);
  return {
    client,
    async [Symbol.asyncDispose]() {
      await transport.terminateSession().catch(() => {});
      await client.close();
      await dispatcher.close();
    },
  };
}

async function use(url: string, era: Era, connections?: string): Promise<Used> {
  await using to = await connected(url, era, connections);
  const { tools } = await to.client.listTools();
  return {
    version: to.client.getNegotiatedProtocolVersion() ?? '',
    server: to.client.getServerVersion()?.name ?? '',
    tools: tools.map(({ name }) => name),
  };
}

function isSessionGone(error: unknown): boolean {
  return error instanceof SdkHttpError && error.status === 404 && error.message.includes('no such session');
}

const PAUSE_MS = 10;

async function poll(url: string, connections: string, clients: string): Promise<Polled> {
  const polled: Polled = { asked: 0, renewed: 0, failed: [] };
  const stopped = new AbortController();
  process.stdin.on('end', () => stopped.abort()).resume();
  let unanswered = clients === 'all' ? 3 : 1;
  const onAndOn = async (what: string, ask: () => Promise<unknown>): Promise<void> => {
    let answers = 0;
    while (!stopped.signal.aborted) {
      polled.asked += 1;
      try {
        await ask();
        answers += 1;
        if (answers === 1 && --unanswered === 0) process.stdout.write('\n');
      } catch (error) {
        if (isSessionGone(error)) polled.renewed += 1;
        else polled.failed.push(`${what}: ${error}`);
      }
      await sleep(PAUSE_MS);
    }
  };
  const lasting = async (era: Era): Promise<void> => {
    await using to = await connected(url, era, connections);
    await onAndOn(`the same client, ${era}`, () => to.client.request({ method: 'tools/list' }));
  };
  await Promise.all([
    onAndOn('a new client', () => use(url, 'legacy', connections)),
    ...(clients === 'all' ? [lasting('auto'), lasting('legacy')] : []),
  ]);
  return polled;
}

const [command, url = '', connections = 'kept', clients = 'many'] = process.argv.slice(2);
const result =
  command === 'poll'
    ? await poll(url, connections, clients)
    : { auto: await use(url, 'auto'), legacy: await use(url, 'legacy') };
// An exit would cut off what a pipe does not take at once.
process.stdout.write(JSON.stringify(result), () => process.exit(0));
