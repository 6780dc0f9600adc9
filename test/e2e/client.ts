/**
 * A client of hosted servers, for inside the cluster: `client.ts use URL` prints what the official SDK finds there, in each
 * era; `client.ts poll URL [fresh]` asks on and on until its stdin ends, each request on a fresh connection if so told,
 * and prints how often, and what failed.
 */

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
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
  failed: string[];
}

async function use(url: string, era: Era, fresh = false): Promise<Used> {
  const client = new Client(
    { name: 'e2e', version: '1.0.0' },
    era === 'auto' ? { versionNegotiation: { mode: 'auto' } } : {},
  );
  // Servers may close a connection that is kept alive as a request is on its way: no rollout is to blame for that.
  const dispatcher = new Agent({ pipelining: 0 });
  const fetch = (input: string | URL, init?: object) => undiciFetch(input, { ...init, dispatcher }) as never;
  const transport = new StreamableHTTPClientTransport(new URL(url), fresh ? { fetch } : {});
  await client.connect(transport);
  try {
    const { tools } = await client.listTools();
    return {
      version: client.getNegotiatedProtocolVersion() ?? '',
      server: client.getServerVersion()?.name ?? '',
      tools: tools.map(({ name }) => name),
    };
  } finally {
    await transport.terminateSession().catch(() => {});
    await client.close();
    await dispatcher.close();
  }
}

async function poll(url: string, fresh: boolean): Promise<Polled> {
  const polled: Polled = { asked: 0, failed: [] };
  let isOver = false;
  process.stdin.on('end', () => {
    isOver = true;
  });
  process.stdin.resume();
  while (!isOver) {
    polled.asked += 1;
    await use(url, 'legacy', fresh).catch(error => polled.failed.push(String(error)));
  }
  return polled;
}

const [command, url = '', connections] = process.argv.slice(2);
const result =
  command === 'poll'
    ? await poll(url, connections === 'fresh')
    : { auto: await use(url, 'auto'), legacy: await use(url, 'legacy') };
process.stdout.write(JSON.stringify(result));
process.exit(0);
