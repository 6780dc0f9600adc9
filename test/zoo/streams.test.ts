/** Event streams: what the SSE format allows, what servers send before the answer, and streams that give none. */
import { describe, expect, it } from 'vitest';
import { probe } from './probing.ts';
import {
  type Answer,
  drip,
  events,
  fill,
  flood,
  json,
  legacy,
  legacyBy,
  openEvents,
  RESULTS,
  startHttp,
  status,
} from './servers.ts';
import { type Case, NOT_MCP, RESET, SHORT, TIMEOUT, testCases, VERIFIED, verdictOf } from './verdicts.ts';

const LEGACY = { server: { name: 'zoo', protocolVersion: '2025-11-25', tools: { names: ['feed'] } } };
const PING = 'data: {"jsonrpc":"2.0","id":"ping-1","method":"ping"}\n\n';
const NOTIFICATION =
  'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"…"}}\n\n';
const request = (method: string): string =>
  `data: {"jsonrpc":"2.0","id":"server-1","method":"${method}","params":{"messages":[],"maxTokens":1}}\n\n`;

/** The bytes of a text, cut in the middle of its first character beyond ASCII. */
function cutInCharacter(text: string): [Uint8Array, Uint8Array] {
  const bytes = Buffer.from(text);
  const at = bytes.findIndex(byte => byte > 0x7f) + 1;
  return [bytes.subarray(0, at), bytes.subarray(at)];
}

const prettyAnswer: Answer = call => {
  const lines = JSON.stringify(JSON.parse(fill('$ANSWER', call)), null, 2).split('\n');
  return events(`event: message\n${lines.map(line => `data: ${line}\n`).join('')}\n`)(call);
};

const GOOD: Record<string, Answer> = {
  'the least there is': events('data: $ANSWER\n\n'),
  'an event, an id and a retry': events('event: message\nid: 1\nretry: 100\ndata: $ANSWER\n\n'),
  'no blank after the colon': events('event:message\ndata:$ANSWER\n\n'),
  'comments before it': events(': hello\n\n', ':\n', ': keep-alive\n\n', 'data: $ANSWER\n\n'),
  CRLF: events('event: message\r\ndata: $ANSWER\r\n\r\n'),
  CR: events('event: message\rdata: $ANSWER\r\r'),
  'CRLF cut in two': events('event: message\r', '\ndata: $ANSWER\r', '\n\r', '\n'),
  'a byte order mark': events('\ufeffdata: $ANSWER\n\n'),
  'data of many lines': prettyAnswer,
  'fields that nobody knows': events('foo: bar\nbaz\ndata: $ANSWER\n\n'),
  'one byte at a time': call =>
    events(...[...Buffer.from(fill('data: $ANSWER\n\n', call))].map(byte => Buffer.of(byte)))(call),
  'a cut in the middle of a character': call => {
    const named = JSON.stringify({
      jsonrpc: '2.0',
      id: call.id,
      result: { ...RESULTS[call.method], note: 'žirafa 🦒' },
    });
    return events(...cutInCharacter(`data: ${named}\n\n`))(call);
  },
  'an empty event before it': events('event: message\ndata:\n\n', 'data: $ANSWER\n\n'),
  'events of other types before it': events('event: ping\ndata: 2026-11-23\n\n', 'event: message\ndata: $ANSWER\n\n'),
  'a notification before it': events(NOTIFICATION, 'data: $ANSWER\n\n'),
  'a thousand notifications before it': events(NOTIFICATION.repeat(1_000), 'data: $ANSWER\n\n'),
  'a ping before it': events(PING, 'data: $ANSWER\n\n'),
  'roots/list before it': events(request('roots/list'), 'data: $ANSWER\n\n'),
  'sampling/createMessage before it': events(request('sampling/createMessage'), 'data: $ANSWER\n\n'),
  'an answer to somebody else before it': events(
    'data: {"jsonrpc":"2.0","id":4711,"result":{}}\n\n',
    'data: $ANSWER\n\n',
  ),
  'what is no JSON before it': events('data: hello\n\n', 'data: $ANSWER\n\n'),
  'itself twice': events('data: $ANSWER\n\n', 'data: $ANSWER\n\n'),
  'a notification after it': events('data: $ANSWER\n\n', NOTIFICATION),
  'no end after it': openEvents('data: $ANSWER\n\n'),
};

describe('an answer in an event stream, with', () => {
  testCases(
    Object.fromEntries(
      Object.entries(GOOD).map(([name, answer]): [string, Case] => [
        name,
        // Answers to the server's own requests come on top.
        { server: legacyBy(answer), verdict: VERIFIED, outcome: LEGACY, most: 14 },
      ]),
    ),
  );

  it.each(['initialize', 'tools/list'])(
    'a ping that must be answered before %s is given (2025-11-25: the receiver must respond promptly)',
    async method => {
      let answered = (): void => {};
      await using animal = await startHttp({
        ...legacy,
        async [method](call) {
          const ponged = new Promise<void>(resolve => {
            answered = resolve;
          });
          await openEvents(PING)(call);
          await ponged;
          call.response.end(fill('data: $ANSWER\n\n', call));
        },
        response(call) {
          if (call.id === 'ping-1') answered();
          return status(202)(call);
        },
      });
      const probed = await probe(animal.url, { timeoutMs: 2_000 });
      expect(verdictOf(probed)).toEqual(VERIFIED);
      expect(probed.outcome).toMatchObject({ kind: 'answered', ...LEGACY });
      await animal.quiet();
    },
  );
});

describe('an event stream that gives no answer', () => {
  testCases({
    'and stays open': { server: { '*': openEvents() }, target: SHORT, verdict: TIMEOUT },
    'and stays open with comments': {
      server: {
        '*': async call => {
          await openEvents()(call);
          drip(call.response, call.socket, 20, () => ': keep-alive\n\n');
        },
      },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'but three thousand notifications': {
      server: { '*': events(NOTIFICATION.repeat(3_000), 'data: $ANSWER\n\n') },
      verdict: NOT_MCP,
      outcome: { why: 'it sends more than 2048 messages that are no answer' },
    },
    'and stays open with notifications': {
      server: {
        '*': async call => {
          await openEvents()(call);
          drip(call.response, call.socket, 20, () => NOTIFICATION);
        },
      },
      target: SHORT,
      verdict: TIMEOUT,
    },
    'but notifications as fast as they can be read': {
      server: {
        '*': async call => {
          await openEvents()(call);
          flood(call.response, () => NOTIFICATION);
        },
      },
      target: { timeoutMs: 3_000 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'but one line without an end': {
      server: {
        '*': async call => {
          await openEvents('data: ')(call);
          flood(call.response, () => 'x'.repeat(65_536));
        },
      },
      target: { timeoutMs: 3_000 },
      verdict: [NOT_MCP, TIMEOUT],
    },
    'but one to another id, and ends': {
      server: legacyBy(events('data: {"jsonrpc":"2.0","id":4711,"result":{}}\n\n')),
      verdict: NOT_MCP,
    },
    'but one to another id, and stays open': {
      server: legacyBy(openEvents('data: {"jsonrpc":"2.0","id":4711,"result":{}}\n\n')),
      target: SHORT,
      verdict: TIMEOUT,
    },
    'and ends after a notification': { server: legacyBy(events(NOTIFICATION)), verdict: NOT_MCP },
    'and ends in the middle of it': {
      server: legacyBy(events('data: {"jsonrpc":"2.0","id":$ID,"result":{')),
      verdict: NOT_MCP,
    },
    // The format drops an event that no blank line ends.
    'and ends without the blank line after it': {
      server: legacyBy(events('data: $ANSWER')),
      verdict: [NOT_MCP, VERIFIED],
    },
    'and breaks': {
      server: legacyBy(async call => {
        await openEvents(NOTIFICATION)(call);
        call.socket.resetAndDestroy();
      }),
      verdict: [RESET, NOT_MCP],
    },
    'but names an event id and ends, for ever': {
      server: { ...legacyBy(events('id: 1\nretry: 1\ndata:\n\n')), GET: events('id: 1\nretry: 1\ndata:\n\n') },
      target: SHORT,
      verdict: [NOT_MCP, TIMEOUT],
      most: 1_000,
    },
    'but names an event id to come back with in an hour': {
      server: { ...legacyBy(events('id: 1\nretry: 3600000\ndata:\n\n')), GET: events('data: too late\n\n') },
      target: SHORT,
      verdict: [NOT_MCP, TIMEOUT],
      after: animal => expect(animal.methods()).not.toContain('GET'),
    },
  });
});

describe('a stream that ends before the answer and names an event id (2025-11-25)', () => {
  for (const method of ['initialize', 'tools/list']) {
    it(`is resumed by GET with Last-Event-ID: ${method}`, async () => {
      let waiting: string | undefined;
      await using animal = await startHttp({
        ...legacy,
        initialize: json('$ANSWER', 200, { 'mcp-session-id': 's1' }),
        [method](call) {
          waiting = fill('data: $ANSWER\n\n', call);
          call.response.setHeader('mcp-session-id', 's1');
          return events('id: stream-1/0\nretry: 10\ndata:\n\n')(call);
        },
        GET: call =>
          (call.headers['last-event-id'] === 'stream-1/0' ? events(`id: stream-1/1\n${waiting}`) : status(405))(call),
      });
      const { outcome } = await probe(animal.url);
      expect(outcome).toMatchObject({ kind: 'answered', ...LEGACY });
      const resumed = animal.requests.find(({ verb }) => verb === 'GET');
      expect(resumed?.headers).toMatchObject({
        'last-event-id': 'stream-1/0',
        accept: expect.stringContaining('text/event-stream'),
        'mcp-session-id': 's1',
      });
      await animal.quiet();
    });
  }
});
