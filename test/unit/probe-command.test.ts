import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Report, runProbeCommand } from '../../src/probe-command.ts';
import { closedPort, startMcp, type TestServer } from '../support/servers.ts';

let open: TestServer;
let locked: TestServer;
beforeAll(async () => {
  [open, locked] = await Promise.all([
    startMcp({ era: 'legacy' }),
    startMcp({ era: 'legacy', authorization: 'Bearer good' }),
  ]);
});
afterAll(() => Promise.all([open?.close(), locked?.close()]));

const HERE = ['--allow', '127.0.0.1'];

async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const out: string[] = [];
  const err: string[] = [];
  const into = (texts: string[]) => ({ write: (text: unknown) => texts.push(String(text)) > 0 });
  const code = await runProbeCommand({
    args,
    client: { name: 'probe', version: '0.0.0' },
    userAgent: 'probe/0.0.0 (+https://example.com)',
    stdout: into(out),
    stderr: into(err),
  });
  return { code, out: out.join(''), err: err.join('') };
}

async function report(...args: string[]): Promise<Report & { code: number }> {
  const { code, out } = await run(...args, '--json');
  return { code, ...(JSON.parse(out) as Report) };
}

describe('the command probe', () => {
  it('shows what was asked, what is concluded from it and who answers', async () => {
    const { code, out } = await run(open.url, ...HERE);
    expect(code).toBe(0);
    expect(
      out
        .replaceAll(/\d+ ms/g, 'N ms')
        .replaceAll(/ +/g, ' ')
        .replaceAll(String(open.port), 'PORT'),
    ).toBe(
      `http://127.0.0.1:PORT/mcp

STEP ANSWER TIME
POST server/discover 400 application/json N ms
POST initialize 200 text/event-stream N ms
POST notifications/initialized 202 N ms
POST tools/list 200 text/event-stream N ms
DELETE the session 200 N ms

CONDITION STATUS REASON MESSAGE
Ready True Ready test-server 1.2.3 speaks MCP 2025-11-25 with 2 tools
Accepted True Accepted the spec is valid and is served
Reachable True Answered the server answers
Verified True MCPVerified the server speaks MCP 2025-11-25
Authorized True NotRequired the server answers without credentials

server test-server 1.2.3
protocol 2025-11-25
capabilities tools
tools 2: alpha, beta
tools hash sha256:1e0cfe5c1aac40768bb97520b86622c853934b6fd391a6713b664945d4f8cfc8
`,
    );
  });

  it('gives all of that as one JSON object', async () => {
    const { code, ready, reason, conditions, server, steps } = await report(open.url, ...HERE);
    expect({ code, ready, reason }).toEqual({ code: 0, ready: true, reason: 'Ready' });
    expect(conditions[0]).toEqual({ type: 'Ready', status: 'True', reason: 'Ready', message: expect.any(String) });
    expect(conditions.map(({ type }) => type)).toEqual(['Ready', 'Accepted', 'Reachable', 'Verified', 'Authorized']);
    expect(server).toMatchObject({ name: 'test-server', version: '1.2.3', toolCount: 2, tools: ['alpha', 'beta'] });
    expect(steps[0]).toEqual({
      asked: 'POST server/discover',
      url: open.url,
      answered: '400 application/json',
      ms: expect.any(Number),
    });
  });

  it('is as strict as the operator, and says how to be less so', async () => {
    const { code, out } = await run(open.url);
    expect(code).toBe(1);
    expect(out).toContain('AddressDenied');
    expect(out).toContain('--allow 127.0.0.1\n');
    const port = await run('http://127.0.0.1:22/mcp', ...HERE);
    expect(port.out).toContain('--port 22\n');
    expect(await report('http://127.0.0.1:1/mcp', ...HERE, '--port', '1')).toMatchObject({
      reason: 'ConnectionRefused',
    });
    expect((await run('http://me:s3cret@127.0.0.1/mcp', ...HERE)).out).not.toContain('s3cret');
    expect(await report('http://localhost:1/mcp')).toMatchObject({ code: 1, reason: 'AddressDenied' });
    expect(await report(open.url.replace('127.0.0.1', 'localhost'), '--allow', 'localhost')).toMatchObject({ code: 0 });
  });

  it('tells a server that wants authorization, and sends it what it is given', async () => {
    const without = await report(locked.url, ...HERE);
    expect(without).toMatchObject({
      code: 0,
      reason: 'AuthorizationRequired',
      authorization: { scopes: ['read', 'write'] },
    });
    const header = (value: string) => ['--header', `Authorization: Bearer ${value}`];
    expect(await report(locked.url, ...HERE, ...header('good'))).toMatchObject({ code: 0, reason: 'Ready' });
    const wrong = await report(locked.url, ...HERE, ...header('s3cret'));
    expect(wrong).toMatchObject({ code: 1, ready: false, reason: 'CredentialsRejected' });
    expect(JSON.stringify(wrong)).not.toContain('s3cret');
  });

  it('says what is wrong with a server that is not there', async () => {
    const url = `http://127.0.0.1:${await closedPort()}/mcp`;
    expect(await report(url, ...HERE)).toMatchObject({ code: 1, ready: false, reason: 'ConnectionRefused' });
  });

  describe('when it is not asked rightly, says so', () => {
    const dir = mkdtempSync(join(tmpdir(), 'pco-probe-'));
    afterAll(() => rmSync(dir, { recursive: true, force: true }));
    writeFileSync(join(dir, 'ca.pem'), 'no certificate');

    it.each<[string, string[], string]>([
      ['no URL', [], 'one URL is wanted'],
      ['two URLs', ['https://a.example.com', 'https://b.example.com'], 'one URL is wanted'],
      ['no URL at all', ['nonsense'], '"nonsense" is no URL'],
      ['an unknown flag', ['https://a.example.com', '--nonsense'], "Unknown option '--nonsense'"],
      ['an unknown type', ['https://a.example.com', '--server-type', 'stdio'], '--server-type stdio'],
      ['a timeout without a unit', ['https://a.example.com', '--timeout', '10'], '--timeout 10'],
      ['a timeout that is too long', ['https://a.example.com', '--timeout', '2m'], '--timeout 2m'],
      ['a header without a name', ['https://a.example.com', '--header', 's3cret'], 'a --header is not of the form'],
      ['a header of two lines', ['https://a.example.com', '--header', 'A: s3cret\nB: x'], 'a --header is not of the'],
      ['a CA file that is not there', ['https://a.example.com', '--ca', join(dir, 'none.pem')], '--ca: ENOENT'],
      [
        'a header of the probe itself',
        ['https://a.example.com', '--header', 'Mcp-Session-Id: s3cret'],
        'sets it itself',
      ],
      ['a proxy that is no URL', ['https://a.example.com', '--proxy', 'nonsense'], '--proxy: must be an http or https'],
      [
        'a proxy of another kind',
        ['https://a.example.com', '--proxy', 'socks5://a'],
        '--proxy: must be an http or https',
      ],
      ['a port that is none', ['https://a.example.com', '--port', 'https'], '--allow or --port: '],
      ['a range that is none', ['https://a.example.com', '--allow', '10.0.0.0/99'], '--allow or --port: '],
    ])('%s', async (_what, args, message) => {
      const { code, out, err } = await run(...args);
      expect(code).toBe(2);
      expect(out).toBe('');
      expect(err).toContain(message);
      expect(err).not.toContain('s3cret');
      expect(err).toMatch(/see personal-connector-operator probe --help\n$/);
    });
  });

  // Starts a process from its sources.
  it('is a command of the operator', { timeout: 60_000 }, async () => {
    const main = join(import.meta.dirname, '../../src/main.ts');
    const { stdout } = await promisify(execFile)(process.execPath, [main, 'probe', open.url, ...HERE, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ ready: true });
  });

  it('explains itself', async () => {
    const { code, out } = await run('--help');
    expect(code).toBe(0);
    expect(out).toContain('Exit code: 0 when the connector would be Ready');
  });
});
