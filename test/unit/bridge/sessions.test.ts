import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, expect, it, vi } from 'vitest';
import { parseJson } from '../../../src/bridge/messages.ts';
import { calling, childrenOf, INITIALIZE, isAlive, type Message, onLinux, rpc, start, until } from './support.ts';

const GET = { accept: 'text/event-stream' };

describe('a session', () => {
  it('begins with what client and server say to each other, as they say it', async () => {
    await using bridge = await start();
    const params = { ...INITIALIZE, protocolVersion: '2025-03-26', extra: { of: 'the client' } };
    const { answer } = await bridge.client.initialize(params);
    expect(answer.status).toBe(200);
    expect(answer.headers['mcp-session-id']).toMatch(/^[\x21-\x7e]{20,}$/);
    expect(answer.messages).toEqual([
      {
        jsonrpc: '2.0',
        id: expect.any(Number),
        result: expect.objectContaining({
          protocolVersion: '2025-03-26',
          serverInfo: { name: 'fixture', version: '1.0.0' },
          instructions: 'Be kind.',
          asked: params,
        }),
      },
    ]);
  });

  it('passes on what no revision knows, both ways', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const list = await bridge.client.post({ ...rpc('tools/list'), id: 'a string' }, session);
    expect(list.messages).toEqual([
      {
        jsonrpc: '2.0',
        id: 'a string',
        result: { tools: [{ name: 'echo', inputSchema: { type: 'object' }, 'x-own': 1 }], odd: true },
      },
    ]);
    const unknown = await bridge.client.post(rpc('own/method', { deep: [{ er: null }] }), session);
    expect(unknown.status).toBe(200);
    expect(unknown.messages[0]?.error).toEqual({
      code: -32601,
      message: 'no own/method',
      data: { params: { deep: [{ er: null }] } },
    });
    const call = await bridge.client.post(calling('echo', { text: 'ä€𝄞\n' }, { 'example.com/x': [1] }), session);
    expect(call.messages[0]?.result).toEqual({
      content: [],
      value: { text: 'ä€𝄞\n' },
      meta: { 'example.com/x': [1] },
    });
  });

  it('has a process of its own', async () => {
    await using bridge = await start();
    const [a, b] = await Promise.all([bridge.client.initialize(), bridge.client.initialize()]);
    expect(await bridge.client.call(a.session, 'count')).toBe(1);
    expect(await bridge.client.call(a.session, 'count')).toBe(2);
    expect(await bridge.client.call(b.session, 'count')).toBe(1);
    await bridge.client.post(rpc('logging/setLevel', { level: 'error' }), a.session);
    expect(await bridge.client.call(a.session, 'level')).toBe('error');
    expect(await bridge.client.call(b.session, 'level')).toBe(null);
  });

  onLinux('ends with DELETE, and all that its server started with it', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const pid = Number(await bridge.client.call(session, 'pid'));
    const started = [pid];
    for (const detached of [false, true])
      started.push(Number(await bridge.client.call(session, 'spawn', { detached })));
    expect(await Promise.all(started.map(isAlive))).toEqual([true, true, true]);
    expect((await bridge.client.send('DELETE', session)).status).toBe(204);
    await until(async () => !(await Promise.all(started.map(isAlive))).includes(true));
    const after = await bridge.client.post(rpc('tools/list'), session);
    expect(after.status).toBe(404);
    expect(after.messages[0]?.error).toEqual({
      code: -32001,
      message: 'there is no such session: begin a new one with initialize',
    });
  });

  it('ends with its server: who waits is told why', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const [waiting, last] = await Promise.all([
      bridge.client.post(calling('wait'), session),
      bridge.client.post(calling('exit'), session),
    ]);
    for (const { status, messages } of [waiting, last]) {
      expect(status).toBe(200);
      expect(messages[0]?.error).toEqual({
        code: -32000,
        message: 'the server ended before it answered: it ended with exit code 1',
      });
    }
    expect((await bridge.client.post(rpc('tools/list'), session)).status).toBe(404);
    // One client's session is no trouble of the others.
    expect(bridge.trouble()).toBeUndefined();
    await bridge.client.initialize();
  });

  it('ends when its server does not listen any more, though it lives', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const { messages } = await bridge.client.post(calling('answer', { kind: 'deaf' }), session);
    expect(messages[0]?.error?.message).toBe('the server ended before it answered: it closed its stdout');
  });

  it('ends when its client left in the middle of a call, and is idle from then on', async () => {
    await using bridge = await start({ idleMs: 100, maxSessions: 1 });
    const { session } = await bridge.client.initialize();
    const leaving = new AbortController();
    const waiting = bridge.client.post(calling('wait'), session, { signal: leaving.signal });
    await bridge.client.call(session, 'count');
    leaving.abort();
    await expect(waiting).rejects.toThrow();
    await until(async () => (await bridge.client.post(rpc('initialize', INITIALIZE))).status === 200);
  });

  // Longer than it takes for an answer to become a stream, twice: once to try the server out.
  it('begins also where the server takes its time', { timeout: 30_000 }, async () => {
    await using bridge = await start({ habit: 'slow' });
    const { session, answer } = await bridge.client.initialize();
    expect(answer.headers).toMatchObject({
      'content-type': 'text/event-stream',
      'mcp-session-id': expect.stringMatching(/.{20}/),
    });
    expect(await bridge.client.call(session, 'count')).toBe(1);
  });

  it('may have an answer of megabytes on a stream, too', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const large = calling('large', { size: 20_000_000 }, { progressToken: 1 });
    const { messages } = await bridge.client.post(large, session);
    expect(messages).toHaveLength(2);
    expect(messages[1]?.result.value).toHaveLength(20_000_000);
  });

  it('passes numbers on as they are written', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const exact = await bridge.client.post(calling('answer', { kind: 'exact' }), session);
    expect(exact.text).toContain('"n":12345678901234567890');
  });

  it('ends when its server sends half a message and is gone', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const { messages } = await bridge.client.post(calling('half'), session);
    expect(messages[0]?.error?.code).toBe(-32000);
  });

  onLinux('ends when it was idle for too long, but not while it is used', async () => {
    await using bridge = await start({ idleMs: 150 });
    const { session } = await bridge.client.initialize();
    const pid = Number(await bridge.client.call(session, 'pid'));
    const stream = bridge.client.send('GET', { ...session, ...GET });
    for (let i = 0; i < 30; i++) expect(await bridge.client.call(session, 'count')).toBe(i + 1);
    await bridge.client.send('DELETE', session);
    await stream;
    const { session: idle } = await bridge.client.initialize();
    const left = Number(await bridge.client.call(idle, 'pid'));
    await until(async () => (await bridge.client.send('DELETE', { 'mcp-session-id': 'x' })).status === 404);
    for (const one of [pid, left]) await until(async () => !(await isAlive(one)));
    expect((await bridge.client.post(rpc('tools/list'), idle)).status).toBe(404);
  });

  it('is refused when there are as many as there may be, until one was idle for long', async () => {
    await using bridge = await start({ maxSessions: 2 });
    const first = await bridge.client.initialize();
    const second = await bridge.client.initialize();
    const refused = await bridge.client.post(rpc('initialize', INITIALIZE));
    expect(refused.status).toBe(503);
    expect(refused.headers['retry-after']).toBe('1');
    expect(refused.messages[0]?.error?.message).toBe(
      'all of 2 sessions are in use: end one with DELETE, or try again later',
    );
    const now = performance.now();
    vi.spyOn(performance, 'now').mockImplementation(() => now + 31_000);
    try {
      await bridge.client.call(first.session, 'count');
      expect((await bridge.client.initialize()).answer.status).toBe(200);
    } finally {
      vi.restoreAllMocks();
    }
    expect((await bridge.client.post(rpc('tools/list'), first.session)).status).toBe(200);
    expect((await bridge.client.post(rpc('tools/list'), second.session)).status).toBe(404);
  });

  it('whose client listens, and is silent, makes room for another one after the idle time alone', async () => {
    await using bridge = await start({ maxSessions: 1, idleMs: 60_000 });
    const silent = await bridge.client.initialize();
    const stream = bridge.client.send('GET', { ...silent.session, ...GET });
    await bridge.client.call(silent.session, 'count');
    const now = performance.now();
    try {
      vi.spyOn(performance, 'now').mockImplementation(() => now + 31_000);
      expect((await bridge.client.post(rpc('initialize', INITIALIZE))).status).toBe(503);
      vi.spyOn(performance, 'now').mockImplementation(() => now + 62_000);
      expect((await bridge.client.initialize()).answer.status).toBe(200);
    } finally {
      vi.restoreAllMocks();
    }
    await stream;
  });

  it('whose server refuses it has none', async () => {
    await using bridge = await start({ habit: 'refuses', awaited: false });
    const { answer } = await bridge.client.initialize();
    expect(answer.messages[0]?.error).toEqual({ code: -32000, message: 'not today' });
    expect(answer.headers['mcp-session-id']).toBeUndefined();
  });
});

describe('what the server says on its own', () => {
  it('is listened for by who has a session alone', async () => {
    await using bridge = await start();
    expect((await bridge.client.send('GET', { ...GET, 'mcp-session-id': 'x' })).status).toBe(404);
    expect((await bridge.client.send('GET', GET)).status).toBe(400);
  });

  it('passes as a request on the stream of the call that it is about, and its answer back', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const heard: Message[] = [];
    const { messages } = await bridge.client.post(calling('ask', { method: 'sampling/createMessage' }), session, {
      onMessage: message => {
        heard.push(message);
        if (message.method)
          void bridge.client.post({ jsonrpc: '2.0', id: message.id, result: { role: 'assistant' } }, session);
      },
    });
    expect(heard[0]).toEqual({
      jsonrpc: '2.0',
      id: 'q-1',
      method: 'sampling/createMessage',
      params: { of: 'the server' },
    });
    expect(messages.at(-1)?.result.value).toEqual({ result: { role: 'assistant' } });
  });

  it('passes an error of the client back', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const error = { code: -1, message: 'declined' };
    const { messages } = await bridge.client.post(calling('ask', { method: 'elicitation/create' }), session, {
      onMessage: ({ id, method }) => void (method && bridge.client.post({ jsonrpc: '2.0', id, error }, session)),
    });
    expect(messages.at(-1)?.result.value).toEqual({ error });
  });

  it('comes on the stream for it, or waits for one', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    // A client that reads JSON alone gets nothing beside its answer.
    const told = calling('tell', { method: 'notifications/tools/list_changed' });
    await bridge.client.post(told, { ...session, accept: 'application/json' });
    const heard = Promise.withResolvers<Message>();
    const stream = bridge.client.send('GET', { ...session, ...GET }, { onMessage: heard.resolve });
    expect(await heard.promise).toEqual({
      jsonrpc: '2.0',
      method: 'notifications/tools/list_changed',
      params: { from: 'the server' },
    });
    await bridge.client.send('DELETE', session);
    expect((await stream).status).toBe(200);
  });

  it('comes once, on the newest stream', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const first = bridge.client.send('GET', { ...session, ...GET });
    await until(async () => true);
    const heard: Message[] = [];
    const second = bridge.client.send(
      'GET',
      { ...session, ...GET },
      { onMessage: message => void heard.push(message) },
    );
    expect((await first).messages).toEqual([]);
    const { messages } = await bridge.client.post(
      calling('tell', { method: 'notifications/tools/list_changed' }),
      session,
    );
    expect(messages).toHaveLength(1);
    await until(() => heard.length > 0);
    await bridge.client.send('DELETE', session);
    expect((await second).messages).toHaveLength(1);
  });

  it('is progress with the token that the client gave, on the stream of its call', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const { messages } = await bridge.client.post(calling('progress', {}, { progressToken: 'mine' }), session);
    expect(messages.slice(0, 2).map(({ method, params }) => [method, params])).toEqual([
      ['notifications/progress', { progressToken: 'mine', progress: 1 }],
      ['notifications/progress', { progressToken: 'mine', progress: 2 }],
    ]);
    expect(messages).toHaveLength(3);
  });

  it('is a call that ends, when the client cancels it', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const call = calling('wait');
    const waiting = bridge.client.post(call, session);
    await until(async () => {
      await bridge.client.post(
        { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: call.id, reason: 'enough' } },
        session,
      );
      return (await bridge.client.call(session, 'count')) === 2;
    });
    expect((await waiting).messages).toEqual([]);
  });

  it('is not passed on where it is no message, and logged', async () => {
    await using bridge = await start({ env: { TOKEN: 'a-secret-of-mine', PLAIN: 'short' } });
    const { session } = await bridge.client.initialize();
    await bridge.client.call(session, 'noise', { text: 'my token is A-SECRET-OF-MINE, a-secret-of-mine!' });
    await until(() => bridge.logged.some(line => line.includes('my token')));
    const all = bridge.logged.join('');
    expect(all).toContain('my token is …, …!\n');
    expect(all).toContain('this is no message\n');
    expect(all).not.toMatch(/a-secret-of-mine/i);
  });
});

describe('a request', () => {
  it.each<[string, string | object, Record<string, string>, number, number]>([
    ['that is no JSON', '{', {}, 400, -32700],
    ['that is a batch', [rpc('ping')], {}, 400, -32600],
    ['that is no JSON-RPC', { id: 1, method: 'ping' }, {}, 400, -32600],
    ['that is of version 1', { jsonrpc: '1.0', id: 1, method: 'ping' }, {}, 400, -32600],
    ['whose params are a list', { jsonrpc: '2.0', id: 1, method: 'ping', params: [] }, {}, 400, -32600],
    ['whose id is null', { jsonrpc: '2.0', id: null, method: 'ping' }, {}, 400, -32600],
    ['that is empty', '', {}, 400, -32700],
    ['that is a page’s', rpc('initialize', INITIALIZE), { origin: 'https://example.com' }, 403, -32600],
    ['that is of no origin', rpc('initialize', INITIALIZE), { origin: 'null' }, 403, -32600],
    ['of another type', rpc('ping'), { 'content-type': 'text/plain' }, 415, -32600],
    ['that accepts HTML alone', rpc('ping'), { accept: 'text/html' }, 406, -32600],
    ['without a session', rpc('ping'), {}, 400, -32600],
    ['of a session that is not', rpc('ping'), { 'mcp-session-id': 'x' }, 404, -32001],
    ['of the newest revision', rpc('server/discover'), { 'mcp-protocol-version': '2026-07-28' }, 400, -32000],
    ['of a revision that is none', rpc('tools/list'), { 'mcp-protocol-version': 'x' }, 400, -32000],
    ['of 8 MiB and more', JSON.stringify(rpc('x', { a: 'a'.repeat(2 ** 23) })), {}, 413, -32600],
  ])('%s is refused', async (_name, body, headers, status, code) => {
    await using bridge = await start();
    const answer = await bridge.client.post(body, headers);
    expect([answer.status, answer.messages[0]?.error?.code]).toEqual([status, code]);
    // It still serves, on whatever connection.
    expect((await bridge.client.initialize()).answer.status).toBe(200);
  });

  it.each([
    ['PUT', '/mcp', 405],
    ['GET', '/', 404],
    ['POST', '/mcp/x', 404],
    ['GET', '/mcp', 406],
  ])('by %s at %s gets %d', async (method, path, status) => {
    await using bridge = await start();
    expect((await bridge.client.send(method, { accept: 'text/html' }, { path })).status).toBe(status);
  });

  it('of a page of localhost is served, and at the path with a slash', async () => {
    await using bridge = await start();
    const headers = { 'content-type': 'application/json', origin: 'http://localhost:6274' };
    const body = JSON.stringify(rpc('initialize', INITIALIZE));
    expect((await bridge.client.send('POST', headers, { path: '/mcp/', body })).status).toBe(200);
  });

  it('with an id that runs already is refused', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const call = calling('wait');
    const waiting = bridge.client.post(call, session);
    await until(async () => (await bridge.client.post({ ...call, method: 'x' }, session)).status === 400);
    await bridge.client.send('DELETE', session);
    await waiting;
  });

  it('may have an answer of megabytes', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    expect(await bridge.client.call(session, 'large', { size: 5_000_000 })).toHaveLength(5_000_000);
  });

  it('whose answer is larger than 32 MiB is told so, and costs nobody else anything', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const { messages } = await bridge.client.post(calling('large', { size: 2 ** 26 + 5 }), session);
    expect(messages[0]?.error?.message).toBe('it sent a message of more than 32 MiB');
    expect(await bridge.client.call(session, 'echo', { a: 1 })).toEqual({ a: 1 });
  });

  it('costs the session when what is too large does not say whose it is', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const { messages } = await bridge.client.post(calling('answer', { kind: 'endless' }), session);
    expect(messages[0]?.error?.message).toBe(
      'the server ended before it answered: it sent a message of more than 32 MiB',
    );
  });

  it('is answered with nothing when its client ends the session', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    const waiting = bridge.client.post(calling('wait'), session);
    await bridge.client.call(session, 'echo');
    await bridge.client.send('DELETE', session);
    expect(await waiting).toMatchObject({ status: 202, text: '' });
  });

  it('of a server that asks on and on, and reads nothing, ends with that server alone', async () => {
    await using bridge = await start();
    const { session } = await bridge.client.initialize();
    // Nobody can be asked, so that the bridge answers.
    const flooding = bridge.client.post(calling('flood'), { ...session, accept: 'application/json' });
    await flooding.catch(() => {});
    expect(bridge.trouble()).toBeUndefined();
    const other = await bridge.client.initialize();
    expect(await bridge.client.call(other.session, 'echo', { a: 1 })).toEqual({ a: 1 });
    await bridge.client.send('DELETE', session);
  });

  it.each([
    ['many fractions', `[${'0.12345678901234567,'.repeat(200_000)}1]`, 1],
    ['many words that look like powers', `["${'1e2 '.repeat(500_000)}"]`, 1],
  ])('is read at once though it has %s', (_what, text) => {
    const since = performance.now();
    JSON.parse(text);
    const plain = performance.now() - since;
    const started = performance.now();
    parseJson(text);
    expect(performance.now() - started).toBeLessThan(10 * plain + 20);
  });
});

describe('readiness', () => {
  const READY = { path: '/.bridge/ready' };

  it('comes when the server has answered', async () => {
    await using bridge = await start();
    expect(await bridge.client.send('GET', {}, READY)).toMatchObject({ status: 200, text: 'ok\n' });
  });

  it('never comes for a server that does not answer', async () => {
    await using bridge = await start({ habit: 'mute', awaited: false });
    // So long another one takes.
    await using _other = await start();
    expect(await bridge.client.send('GET', {}, READY)).toMatchObject({
      status: 503,
      text: 'the server has not answered yet\n',
    });
  });

  it.each([
    [
      'ends',
      { habit: 'exits' },
      'the server is of no use: it ended with exit code 3; it said last: cannot find what I need',
    ],
    [
      'is not there',
      { command: ['/no/such/thing'] as [string] },
      /^the server is of no use: it cannot be started: .*ENOENT/,
    ],
    ['refuses', { habit: 'refuses' }, /^the server is of no use: it answers initialize with an error: .*not today/],
  ])('is given up for a server that %s at the start', async (_name, options, why) => {
    await using bridge = await start({ ...options, awaited: false });
    await expect(bridge.done).rejects.toThrow(why);
  });
});

describe('a server that is killed as it begins', () => {
  onLinux('costs no other session, however often', async () => {
    await using bridge = await start({ maxSessions: 20 });
    const { session } = await bridge.client.initialize();
    const own = Number(await bridge.client.call(session, 'pid'));
    for (let round = 0; round < 8; round++) {
      const beginning = bridge.client.post(rpc('initialize', INITIALIZE));
      let victim: number | undefined;
      await until(async () => {
        victim = (await childrenOf(process.pid)).find(pid => pid !== own);
        return victim !== undefined;
      });
      process.kill(victim ?? 0, 'SIGKILL');
      await beginning;
      await until(() => bridge.trouble() === undefined);
    }
    expect(await bridge.client.call(session, 'count')).toBe(1);
  });
});

describe('many connections', () => {
  it('are answered as many as there may be, however many more are tried', async () => {
    await using bridge = await start({ stateless: true });
    const sockets = Array.from({ length: 1_060 }, () => connect({ port: bridge.port, host: '127.0.0.1' }));
    const outcomes = await Promise.all(
      sockets.map(async socket => {
        let text = '';
        const over = Promise.race([once(socket, 'close'), once(socket, 'data')]);
        socket.setEncoding('utf8').on('data', chunk => {
          text += chunk;
        });
        socket.on('error', () => {});
        socket.write('GET /.bridge/ready HTTP/1.1\r\nhost: x\r\n\r\n');
        await over.catch(() => {});
        return text.startsWith('HTTP/1.1 200');
      }),
    );
    expect(outcomes.filter(Boolean).length).toBeGreaterThanOrEqual(1_000);
    for (const socket of sockets) socket.destroy();
  });

  it('that do not read what they are answered are cut off, the first ones first', { timeout: 60_000 }, async () => {
    await using bridge = await start({ stateless: true });
    const body = JSON.stringify(calling('large', { size: 16_000_000 }));
    const head = `POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const sockets: Socket[] = [];
    let closed = 0;
    await until(async () => {
      const socket = connect({ port: bridge.port, host: '127.0.0.1' });
      socket
        .on('error', () => {})
        .on('close', () => {
          closed += 1;
        });
      socket.pause();
      socket.write(head + body);
      sockets.push(socket);
      await bridge.client.call({}, 'echo');
      return sockets.length >= 16;
    });
    await until(async () => {
      // A paused socket does not see that it is closed.
      for (const socket of sockets.slice(0, 2)) socket.resume();
      await bridge.client.call({}, 'echo');
      return closed >= 2;
    });
    expect(closed).toBeLessThan(12);
    for (const socket of sockets) socket.destroy();
  });
});

describe('the end', () => {
  it('lets sessions go on, nobody listen, and sends clients to other Pods with each answer', async () => {
    const bridge = await start();
    const { session } = await bridge.client.initialize();
    const call = calling('wait');
    const waiting = bridge.client.post(call, session);
    await bridge.client.call(session, 'count');
    const stopped = bridge.stop();
    expect((await bridge.client.send('GET', { ...session, ...GET })).status).toBe(503);
    // As long as there is no other Pod it is sent who asks.
    expect((await bridge.client.send('GET', {}, { path: '/.bridge/ready' })).status).toBe(200);
    const late = await bridge.client.initialize();
    expect(late.answer.headers.connection).toBe('close');
    expect((await bridge.client.send('DELETE', late.session)).status).toBe(204);
    const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: call.id } };
    expect((await bridge.client.post(cancelled, session)).status).toBe(202);
    await waiting;
    await stopped;
    bridge.client.close();
  });

  it('closes the connection of an answer that it waited for', async () => {
    const bridge = await start();
    const { session } = await bridge.client.initialize();
    const call = calling('ask', { method: 'roots/list' });
    let stopped: Promise<void> | undefined;
    const answer = await bridge.client.post(
      call,
      { ...session, accept: 'application/json, text/event-stream' },
      {
        onMessage: async ({ id, method }) => {
          if (!method) return;
          stopped = bridge.stop();
          await bridge.client.post({ jsonrpc: '2.0', id, result: {} }, session);
        },
      },
    );
    expect(answer.messages).toHaveLength(2);
    const later = await start();
    const { session: other } = await later.client.initialize();
    const slow = calling('wait');
    const waiting = later.client.post(slow, other);
    await later.client.call(other, 'echo');
    const ending = later.stop();
    const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: slow.id } };
    await later.client.post(cancelled, other);
    expect((await waiting).headers.connection).toBe('close');
    await Promise.all([stopped, ending]);
    for (const { client } of [bridge, later]) client.close();
  });

  it('comes when nobody has asked for a while, but for the kubelet', async () => {
    const bridge = await start({ quietMs: 300 });
    const { session } = await bridge.client.initialize();
    const since = performance.now();
    let asked = 0;
    let lastAsked = 0;
    let isOver = false;
    const stopped = bridge.stop().then(() => {
      isOver = true;
    });
    while (!isOver) {
      const isClient = performance.now() - since < 600;
      const asking = isClient
        ? bridge.client.call(session, 'count')
        : bridge.client.send('GET', {}, { path: '/.bridge/ready' });
      await asking.then(
        () => {
          if (isClient) asked += 1;
          if (isClient) lastAsked = performance.now() - since;
        },
        () => {},
      );
    }
    await stopped;
    const took = performance.now() - since;
    expect(asked).toBeGreaterThan(1);
    expect(took - lastAsked).toBeGreaterThan(280);
    expect(took).toBeLessThan(10_000);
    bridge.client.close();
  });

  // A server that heeds neither the end of its stdin nor SIGTERM has 6 s.
  onLinux('answers what is in hand, and leaves no process', { timeout: 20_000 }, async () => {
    const bridge = await start({ habit: 'stubborn' });
    const { session } = await bridge.client.initialize();
    const pid = Number(await bridge.client.call(session, 'pid'));
    const grandchild = Number(await bridge.client.call(session, 'spawn'));
    const stream = bridge.client.send('GET', { ...session, ...GET });
    const answers: unknown[] = [];
    const answering = bridge.client
      .post(calling('ask', { method: 'roots/list' }), session, {
        onMessage: async ({ id, method }) => {
          if (!method) return;
          stopping = bridge.stop();
          await bridge.client.post({ jsonrpc: '2.0', id, result: {} }, session).catch(() => {});
        },
      })
      .then(({ messages }) => answers.push(messages.at(-1)?.result));
    let stopping: Promise<void> | undefined;
    await Promise.all([answering, stream]);
    await stopping;
    expect(answers).toEqual([expect.objectContaining({ value: { result: {} } })]);
    expect([await isAlive(pid), await isAlive(grandchild)]).toEqual([false, false]);
    bridge.client.close();
  });
});
