import { describe, expect, it, vi } from 'vitest';
import { type Client, calling, INITIALIZE, type Message, rpc, type Started, start, until } from './support.ts';

const META = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' },
  'io.modelcontextprotocol/clientCapabilities': {},
};

/** A request of the newest revision, with the headers that repeat it. */
function modern(
  client: Client,
  message: ReturnType<typeof rpc>,
  options: Parameters<Client['post']>[2] = {},
  more = {},
) {
  const { params = {} } = message as { params?: Message };
  const name = params.name ?? params.uri;
  return client.post(
    { ...message, params: { ...params, _meta: { ...META, ...params._meta } } },
    {
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': message.method,
      ...(name !== undefined && { 'mcp-name': name }),
      ...more,
    },
    options,
  );
}

const SHARED = { stateless: true };

/** A test that sets the timers of bridge and pool forward; all else takes the time that it takes. */
const inFakeTime = (test: () => Promise<void>) => async (): Promise<void> => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'], shouldAdvanceTime: true });
  try {
    await test();
  } finally {
    vi.useRealTimers();
  }
};

/** Waits until two processes answer, each one call. */
async function twoPids({ client }: Started): Promise<Set<unknown>> {
  const pids = new Set<unknown>();
  await until(async () => {
    pids.clear();
    for (const pid of await Promise.all([client.call({}, 'pid'), client.call({}, 'pid')])) pids.add(pid);
    return pids.size === 2;
  });
  return pids;
}

describe('a client of an earlier revision', () => {
  it('is introduced without asking the server again, in its own revision', async () => {
    await using bridge = await start(SHARED);
    const { answer, session } = await bridge.client.initialize({ ...INITIALIZE, protocolVersion: '2025-03-26' });
    expect(answer.messages[0]?.result).toMatchObject({
      protocolVersion: '2025-03-26',
      serverInfo: { name: 'fixture', version: '1.0.0' },
      instructions: 'Be kind.',
      // What needs a session is not offered.
      capabilities: { tools: {}, resources: {} },
      asked: { clientInfo: { name: 'personal-connector-bridge' } },
    });
    expect(answer.messages[0]?.result.capabilities).toEqual({ tools: {}, resources: {} });
    const pid = await bridge.client.call(session, 'pid');
    expect(await bridge.client.call((await bridge.client.initialize()).session, 'pid')).toBe(pid);
  });

  it('gets the newest of them for one that nobody knows', async () => {
    await using bridge = await start(SHARED);
    const { answer } = await bridge.client.initialize({ ...INITIALIZE, protocolVersion: '2031-01-01' });
    expect(answer.messages[0]?.result.protocolVersion).toBe('2025-11-25');
  });

  it('needs no session, and may go on with one that another Pod gave it', async () => {
    await using bridge = await start(SHARED);
    expect(await bridge.client.call({}, 'echo', { a: 1 })).toEqual({ a: 1 });
    expect(await bridge.client.call({ 'mcp-session-id': 'of-another-pod' }, 'echo', { a: 2 })).toEqual({ a: 2 });
    expect((await bridge.client.send('DELETE', { 'mcp-session-id': 'of-another-pod' })).status).toBe(204);
    expect((await bridge.client.send('GET', { accept: 'text/event-stream' })).status).toBe(405);
  });

  it('is answered with its own id, also when others have the same', async () => {
    await using bridge = await start(SHARED);
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, n) => bridge.client.post({ ...calling('echo', { n }), id: 1 })),
    );
    expect(answers.map(({ messages: [message] }) => [message?.id, message?.result.value.n])).toEqual(
      Array.from({ length: 50 }, (_, n) => [1, n]),
    );
  });

  it('gets the progress of its own call', async () => {
    await using bridge = await start(SHARED);
    const call = calling('progress', {}, { progressToken: 0 });
    const answers = await Promise.all([bridge.client.post(call), bridge.client.post(call)]);
    for (const { messages } of answers)
      expect(messages.map(({ params }) => params?.progressToken)).toEqual([0, 0, undefined]);
  });

  it('cancels its own call, and no other one of that id', async () => {
    await using bridge = await start(SHARED);
    const call = calling('wait');
    const [mine, other] = [{ 'mcp-session-id': 'mine' }, { 'mcp-session-id': 'other' }];
    const waiting = bridge.client.post(call, mine);
    const others = bridge.client.post(call, other);
    const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: call.id } };
    let over = 0;
    void waiting.then(() => {
      over += 1;
    });
    await until(async () => {
      await bridge.client.post(cancelled, mine);
      return over === 1;
    });
    expect((await waiting).messages).toEqual([]);
    await until(async () => (await bridge.client.call({}, 'count')) === 2);
    await bridge.client.post(cancelled, other);
    await others;
  });

  it.each(['logging/setLevel', 'resources/subscribe'])('is told that %s is not served', async method => {
    await using bridge = await start(SHARED);
    const { status, messages } = await bridge.client.post(rpc(method, {}));
    expect([status, messages[0]?.error?.code]).toEqual([200, -32601]);
  });

  it('is answered a ping, and every notification taken', async () => {
    await using bridge = await start(SHARED);
    expect((await bridge.client.post(rpc('ping'))).messages[0]?.result).toEqual({});
    for (const method of ['notifications/initialized', 'notifications/roots/list_changed', 'notifications/cancelled'])
      expect((await bridge.client.post({ jsonrpc: '2.0', method })).status).toBe(202);
  });
});

describe('a client of the newest revision', () => {
  it('discovers what the server is', async () => {
    await using bridge = await start(SHARED);
    const { status, messages, headers } = await modern(bridge.client, rpc('server/discover'));
    expect(status).toBe(200);
    expect(headers['mcp-session-id']).toBeUndefined();
    expect(messages[0]?.result).toEqual({
      resultType: 'complete',
      supportedVersions: ['2026-07-28', '2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05', '2024-10-07'],
      capabilities: { tools: {}, resources: {} },
      instructions: 'Be kind.',
      asked: expect.anything(),
      ttlMs: 0,
      cacheScope: 'private',
      _meta: { 'io.modelcontextprotocol/serverInfo': { name: 'fixture', version: '1.0.0' } },
    });
  });

  it('lists and calls tools of a server that knows only earlier ones', async () => {
    await using bridge = await start(SHARED);
    const list = await modern(bridge.client, rpc('tools/list'));
    expect(list.messages[0]?.result).toMatchObject({
      resultType: 'complete',
      ttlMs: 0,
      cacheScope: 'private',
      tools: [{ name: 'echo', 'x-own': 1 }],
    });
    const call = calling('echo', { a: 1 }, { progressToken: 't', traceparent: '00-1' });
    const { messages } = await modern(bridge.client, call);
    // The server sees nothing of a revision that it does not know.
    expect(messages[0]?.result).toMatchObject({
      resultType: 'complete',
      value: { a: 1 },
      meta: { traceparent: '00-1', progressToken: expect.any(Number) },
    });
    expect(messages[0]?.result).not.toHaveProperty('ttlMs');
  });

  it('gets progress on the stream of its call', async () => {
    await using bridge = await start(SHARED);
    const { messages } = await modern(bridge.client, calling('progress', {}, { progressToken: 'mine' }));
    expect(messages.map(({ params }) => params?.progressToken)).toEqual(['mine', 'mine', undefined]);
  });

  it('cancels a call by going away', async () => {
    await using bridge = await start(SHARED);
    const leaving = new AbortController();
    const waiting = modern(bridge.client, calling('wait'), { signal: leaving.signal });
    await modern(bridge.client, calling('count'));
    leaving.abort();
    await expect(waiting).rejects.toThrow();
    await until(async () => Number(await bridge.client.call({}, 'count')) >= 3);
  });

  it.each([
    'initialize',
    'ping',
    'logging/setLevel',
    'tasks/list',
    'subscriptions/listen',
    'resources/subscribe',
    'own/method',
  ])('is told with 404 that %s is not served', async method => {
    await using bridge = await start(SHARED);
    const { status, messages } = await modern(bridge.client, rpc(method));
    expect([status, messages[0]?.error?.code]).toEqual([404, -32601]);
  });

  it.each<[string, object]>([
    ['another method', { 'mcp-method': 'tools/list' }],
    ['another name', { 'mcp-name': 'other' }],
    ['another version', { 'mcp-protocol-version': '2025-11-25' }],
    ['no name that can be read', { 'mcp-name': '=?base64?w6Q=?=' }],
    ['a method in base64', { 'mcp-method': '=?base64?dG9vbHMvY2FsbA==?=' }],
  ])('is refused when its headers say %s', async (_name, headers) => {
    await using bridge = await start(SHARED);
    const { status, messages } = await modern(bridge.client, calling('echo'), {}, headers);
    expect([status, messages[0]?.error?.code]).toEqual([400, -32020]);
  });

  it('may encode a name', async () => {
    await using bridge = await start(SHARED);
    const { messages } = await modern(
      bridge.client,
      calling('echo', { a: 1 }),
      {},
      { 'mcp-name': '=?base64?ZWNobw==?=' },
    );
    expect(messages[0]?.result.value).toEqual({ a: 1 });
  });

  it('is refused when it does not say what it can', async () => {
    await using bridge = await start(SHARED);
    const message = rpc('tools/list', { _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } });
    const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/list' };
    const { status, messages } = await bridge.client.post(message, headers);
    expect([status, messages[0]?.error?.code]).toEqual([400, -32602]);
  });

  it('of a revision to come is told which there are', async () => {
    await using bridge = await start(SHARED);
    const { status, messages } = await bridge.client.post(rpc('tools/list'), { 'mcp-protocol-version': '2031-01-01' });
    expect([status, messages[0]?.error?.code]).toEqual([400, -32022]);
    expect(messages[0]?.error.data).toMatchObject({
      requested: '2031-01-01',
      supported: expect.arrayContaining(['2026-07-28']),
    });
  });
});

describe('a client that goes away', () => {
  it(
    'has its call cancelled a minute later, which frees its place',
    inFakeTime(async () => {
      await using bridge = await start(SHARED);
      const leaving = new AbortController();
      const waiting = bridge.client.post(calling('wait'), {}, { signal: leaving.signal });
      await bridge.client.call({}, 'echo');
      leaving.abort();
      await expect(waiting).rejects.toThrow();
      await bridge.client.call({}, 'echo');
      await vi.advanceTimersByTimeAsync(61_000);
      await until(async () => Number(await bridge.client.call({}, 'count')) >= 2);
    }),
  );
});

it('an error that a method of the server gives is no missing method, whatever its code', async () => {
  await using bridge = await start(SHARED);
  const { status, messages } = await modern(bridge.client, calling('answer', { kind: 'unknown' }));
  expect([status, messages[0]?.error?.code]).toEqual([200, -32601]);
});

describe('several processes', () => {
  const headers = { 'mcp-session-id': 'mine' };
  const cancel = ({ id }: ReturnType<typeof rpc>) => ({
    jsonrpc: '2.0',
    method: 'notifications/cancelled',
    params: { requestId: id },
  });

  it(
    'share the requests: one that hangs holds nobody up, and is ended once nobody waits for it',
    inFakeTime(async () => {
      await using bridge = await start({ ...SHARED, processes: 2 });
      const pids = await twoPids(bridge);
      const hanging = calling('hang');
      const waiting = bridge.client.post(hanging, headers);
      const free = await bridge.client.call({}, 'pid');
      await vi.advanceTimersByTimeAsync(100_000);
      expect(bridge.logged.join('')).not.toContain('does not answer');
      await bridge.client.post(cancel(hanging), headers);
      await waiting;
      // Not even when it has less to do than the other.
      for (const _ of [1, 2, 3]) expect(await bridge.client.call({}, 'pid')).toBe(free);
      await vi.advanceTimersByTimeAsync(61_000);
      expect(bridge.logged.join('')).toContain('the server does not answer any more: it is ended');
      await until(async () => {
        await vi.advanceTimersByTimeAsync(1_000);
        const found = await Promise.all([bridge.client.call({}, 'pid'), bridge.client.call({}, 'pid')]);
        return found.some(pid => !pids.has(pid));
      });
      expect(bridge.trouble()).toBeUndefined();
    }),
  );

  it('are each asked one thing at a time: who comes next waits for the first that is free', async () => {
    await using bridge = await start({ ...SHARED, processes: 2 });
    await twoPids(bridge);
    const call = calling('wait');
    const waiting = bridge.client.post(call, headers);
    const answers = await Promise.all(Array.from({ length: 20 }, () => bridge.client.call({}, 'pid')));
    expect(new Set(answers).size).toBe(1);
    await bridge.client.post(cancel(call), headers);
    await waiting;
  });

  it(
    'go on when a call of theirs is cancelled',
    inFakeTime(async () => {
      await using bridge = await start(SHARED);
      const pid = await bridge.client.call({}, 'pid');
      const call = calling('wait');
      const waiting = bridge.client.post(call, headers);
      await bridge.client.call({}, 'echo');
      await bridge.client.post(cancel(call), headers);
      await waiting;
      await bridge.client.call({}, 'echo');
      await vi.advanceTimersByTimeAsync(61_000);
      expect(await bridge.client.call({}, 'pid')).toBe(pid);
    }),
  );

  it('serve as long as one of them is there', async () => {
    await using bridge = await start({ ...SHARED, processes: 2 });
    await twoPids(bridge);
    process.kill(Number(await bridge.client.call({}, 'pid')), 'SIGKILL');
    const { status } = await bridge.client.post(calling('pid'));
    expect([status, bridge.trouble()]).toEqual([200, undefined]);
  });
});

describe('the end', () => {
  it('sends clients to other Pods with the next answer, and cuts nobody off', async () => {
    const bridge = await start(SHARED);
    const leaving = new AbortController();
    const waiting = bridge.client.post(calling('wait'), { 'mcp-session-id': 'mine' }, { signal: leaving.signal });
    await bridge.client.call({}, 'echo');
    const stopped = bridge.stop();
    const { status, headers } = await bridge.client.post(rpc('initialize', INITIALIZE));
    expect([status, headers.connection]).toEqual([200, 'close']);
    leaving.abort();
    await expect(waiting).rejects.toThrow();
    await stopped;
    bridge.client.close();
  });
});

describe('the server', () => {
  it('that ends is started again; who waits is told, and others wait for it', async () => {
    await using bridge = await start(SHARED);
    const before = await bridge.client.call({}, 'pid');
    const waiting = bridge.client.post(calling('wait'));
    process.kill(Number(before), 'SIGKILL');
    const { status, messages } = await waiting;
    expect([status, messages[0]?.error?.message]).toEqual([
      200,
      'the server ended before it answered: it was ended by SIGKILL',
    ]);
    expect((await bridge.client.send('GET', {}, { path: '/.bridge/ready' })).status).toBe(503);
    const discovered = await modern(bridge.client, rpc('server/discover'));
    expect(discovered.status).toBe(200);
    expect(bridge.trouble()).toBe('it was ended by SIGKILL');
    const after = await Promise.all([bridge.client.call({}, 'pid'), bridge.client.call({}, 'pid')]);
    expect(after).toEqual([expect.any(Number), after[0]]);
    expect(after[0]).not.toBe(before);
    expect(bridge.trouble()).toBeUndefined();
    expect(bridge.logged.join('')).toContain('the server is not there: it was ended by SIGKILL; starting it again');
  });

  it('that does not come back soon is waited for no longer', async () => {
    await using bridge = await start({ ...SHARED, habit: 'mute', awaited: false });
    const { status, headers, messages } = await bridge.client.post(calling('pid'));
    expect([status, headers['retry-after']]).toEqual([503, '1']);
    expect(messages[0]?.error?.message).toBe('the server is not there: the server has not answered yet');
  });

  it('cannot ask a client, and is told so', async () => {
    await using bridge = await start(SHARED);
    const { messages } = await bridge.client.post(calling('ask', { method: 'sampling/createMessage' }));
    expect(messages[0]?.result.value).toEqual({ error: { code: -32601, message: 'Method not found' } });
    const ping = await bridge.client.post(calling('ask', { method: 'ping' }));
    expect(ping.messages[0]?.result.value).toEqual({ result: {} });
  });

  it.each([
    ['nothing', 'empty'],
    ['null', 'null'],
    ['a list', 'list'],
  ])('that answers with %s is told of as such', async (_what, kind) => {
    await using bridge = await start(SHARED);
    const { messages } = await bridge.client.post(calling('answer', { kind }));
    expect(messages[0]?.error).toEqual({ code: -32603, message: 'the server answers neither a result nor an error' });
  });

  it('may answer in an array, and without an id what it cannot read', async () => {
    await using bridge = await start(SHARED);
    expect((await bridge.client.post(calling('answer', { kind: 'batch' }))).messages[0]?.result).toEqual({ a: 1 });
    const { messages } = await bridge.client.post(calling('answer', { kind: 'anonymous' }));
    expect(messages[0]?.error).toEqual({ code: -32700, message: 'what?' });
  });

  it('speaks to nobody unasked', async () => {
    await using bridge = await start(SHARED);
    const { messages } = await bridge.client.post(calling('tell', { method: 'notifications/message' }));
    expect(messages).toHaveLength(1);
  });
});
