import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { type Answer, decode, encode } from 'dns-packet';
import { afterEach, describe, expect, it } from 'vitest';
import { createResolver } from '../../../src/probe/resolver.ts';

/** Addresses of a name, or what goes wrong with it. */
type Zone = Record<string, string[] | 'SERVFAIL' | 'REFUSED' | 'silence'>;
const RCODE = { NXDOMAIN: 3, SERVFAIL: 2, REFUSED: 5 };

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server[Symbol.asyncDispose]();
});

/** A DNS server on loopback; `asked` holds each name once for its two questions. */
async function serve(zone: Zone) {
  const socket = createSocket('udp4');
  const asked: string[] = [];
  socket.on('message', (message, from) => {
    const { id, questions = [] } = decode(message);
    const [{ name, type } = { name: '', type: 'A' as const }] = questions;
    if (!asked.includes(name)) asked.push(name);
    const found = zone[name.toLowerCase()];
    if (found === 'silence') return;
    const rcode = found === undefined ? 'NXDOMAIN' : typeof found === 'string' ? found : undefined;
    const answers = (Array.isArray(found) ? found : [])
      .filter(address => address.includes(':') === (type === 'AAAA'))
      .map((data): Answer => ({ type: type as 'A' | 'AAAA', name, data, ttl: 1 }));
    const flags = rcode ? RCODE[rcode] : 0;
    socket.send(encode({ type: 'response', id: id ?? 0, flags, questions, answers }), from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  open.push({ [Symbol.asyncDispose]: () => new Promise(resolve => socket.close(resolve)) });
  return { asked, servers: [`127.0.0.1:${(socket.address() as AddressInfo).port}`] };
}

const POD = 'nameserver 10.96.0.10\nsearch team.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n';

async function find(name: string, zone: Zone, { resolvConf = '', hosts = '' } = {}) {
  const { asked, servers } = await serve(zone);
  const resolve = createResolver({ servers, resolvConf, hosts });
  const found = await resolve(name).catch((error: { code: string }) => error.code);
  return { found, asked };
}

describe('a name', () => {
  it('has its addresses of both kinds', async () => {
    const { found, asked } = await find('mcp.example.com', {
      'mcp.example.com': ['192.0.2.1', '2001:db8::1', '192.0.2.2'],
    });
    expect(found).toEqual(['192.0.2.1', '192.0.2.2', '2001:db8::1']);
    expect(asked).toEqual(['mcp.example.com']);
  });

  it.each([
    ['one kind of address', ['2001:db8::1']],
    ['the other kind', ['192.0.2.1']],
  ])('that has only %s has that', async (_, addresses) => {
    expect((await find('mcp.example.com', { 'mcp.example.com': addresses })).found).toEqual(addresses);
  });

  it.each<[string, Zone[string] | undefined, string]>([
    ['that is not there', undefined, 'ENOTFOUND'],
    ['without addresses', [], 'ENOTFOUND'],
    ['whose server has trouble', 'SERVFAIL', 'ESERVFAIL'],
    ['whose server will not say', 'REFUSED', 'EREFUSED'],
  ])('%s gives the code of that', async (_, answer, code) => {
    expect((await find('mcp.example.com', answer === undefined ? {} : { 'mcp.example.com': answer })).found).toBe(code);
  });

  it('whose server is silent is given up in less time than a probe takes', async () => {
    const since = performance.now();
    expect((await find('mcp.example.com', { 'mcp.example.com': 'silence' })).found).toBe('ETIMEOUT');
    expect(performance.now() - since).toBeLessThan(9_000);
  }, 10_000);

  it('is answered beside as many as probes run at a time, and more, that nobody answers', async () => {
    const zone: Zone = { 'good.example.com': ['192.0.2.1'] };
    for (let index = 0; index < 100; index++) zone[`dead-${index}.example.com`] = 'silence';
    const { servers } = await serve(zone);
    const resolve = createResolver({ servers, resolvConf: '', hosts: '' });
    const dead = Array.from({ length: 100 }, (_, index) => resolve(`dead-${index}.example.com`).catch(() => {}));
    expect(await resolve('good.example.com')).toEqual(['192.0.2.1']);
    await Promise.all(dead);
  }, 10_000);
});

describe('the search list', () => {
  it('comes first for a name with few dots, as in a Pod', async () => {
    const { found, asked } = await find('mcp', { 'mcp.team.svc.cluster.local': ['10.0.0.1'] }, { resolvConf: POD });
    expect([found, asked]).toEqual([['10.0.0.1'], ['mcp.team.svc.cluster.local']]);
  });

  it('is gone through to its end, and then the name alone is asked for', async () => {
    const { found, asked } = await find('mcp.example.com', { 'mcp.example.com': ['192.0.2.1'] }, { resolvConf: POD });
    expect(found).toEqual(['192.0.2.1']);
    expect(asked).toEqual([
      'mcp.example.com.team.svc.cluster.local',
      'mcp.example.com.svc.cluster.local',
      'mcp.example.com.cluster.local',
      'mcp.example.com',
    ]);
  });

  it('comes last for a name with many dots', async () => {
    const resolvConf = 'domain old.example\nsearch a.example B.Example. # both\noptions timeout:1 ndots:1';
    const { found, asked } = await find('mcp.x', { 'mcp.x.b.example': ['192.0.2.1'] }, { resolvConf });
    expect([found, asked]).toEqual([['192.0.2.1'], ['mcp.x', 'mcp.x.a.example', 'mcp.x.b.example']]);
  });

  it('goes on where one of its domains has trouble, and tells of it if nothing is found', async () => {
    const zone: Zone = { 'mcp.team.svc.cluster.local': 'SERVFAIL', 'mcp.svc.cluster.local': ['10.0.0.1'] };
    expect((await find('mcp', zone, { resolvConf: POD })).found).toEqual(['10.0.0.1']);
    expect((await find('other', { 'other.cluster.local': 'SERVFAIL' }, { resolvConf: POD })).found).toBe('ESERVFAIL');
  });
});

describe('the hosts file', () => {
  it('knows a name before any server does', async () => {
    const hosts =
      '127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n# 192.0.2.9 mcp\n192.0.2.1 mcp.Example # mine\nnonsense x';
    for (const [name, addresses] of [
      ['localhost', ['127.0.0.1', '::1']],
      ['mcp.example', ['192.0.2.1']],
    ] as const) {
      expect(await find(name, {}, { hosts })).toEqual({ found: addresses, asked: [] });
    }
    expect((await find('x', {}, { hosts })).found).toBe('ENOTFOUND');
  });
});
