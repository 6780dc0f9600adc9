import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { describe, expect, it } from 'vitest';
import { AddressDenied, type AddressPolicy, canonicalHost, createGuard, openGuard } from '../../../src/probe/guard.ts';
import { CLOSED } from '../support.ts';

const allow = (...allowCidrs: string[]): AddressPolicy => ({ ...CLOSED, allowCidrs });
const allowHost = (...allowHosts: string[]): AddressPolicy => ({ ...CLOSED, allowHosts });
/** Allows all that can be allowed. */
const WIDE = allow('0.0.0.0/0', '::/0');

/** A resolver that knows some names and fails on others. */
const dns = (names: Record<string, string[]>) => async (host: string) => {
  const addresses = names[host];
  if (!addresses) throw Object.assign(new Error(`no such name: ${host}`), { code: 'ENOTFOUND' });
  return addresses;
};

/** What a guard says of the host of a URL, as a string of this URL's author. */
function judge(hostname: string, policy: AddressPolicy): string | undefined {
  return createGuard(policy, dns({})).denyUrl({ protocol: 'https:', hostname, port: '' });
}

describe('an address literal', () => {
  it.each([
    '8.8.8.8',
    // NAT64 of a public address: how IPv6-only clusters reach the rest.
    '64:ff9b::8.8.8.8',
    '1.1.1.1',
    '172.15.0.1',
    '172.32.0.1',
    '100.128.0.1',
    '169.253.0.1',
    '2606:4700:4700::1111',
    '[2606:4700:4700::1111]',
  ])('%s is public', host => {
    expect(judge(host, CLOSED)).toBeUndefined();
  });

  it.each([
    // Loopback, in every spelling that a URL or a resolver understands.
    ['127.0.0.1', 'loopback'],
    ['127.255.255.254', 'loopback'],
    ['127.1', 'loopback'],
    ['127.0.1', 'loopback'],
    ['2130706433', 'loopback'],
    ['0x7f000001', 'loopback'],
    ['0X7F.1', 'loopback'],
    ['0177.0.0.1', 'loopback'],
    ['017700000001', 'loopback'],
    ['127.0.0.1.', 'loopback'],
    ['127.0.0.1..', 'loopback'],
    ['127.1...', 'loopback'],
    ['0x7F.0.0.0x1', 'loopback'],
    ['000000177.1', 'loopback'],
    ['127\u00ad.0.0.1', 'loopback'],
    ['127.0.0.1%lo', 'loopback'],
    ['[::1]', 'loopback'],
    ['::1', 'loopback'],
    ['::1%lo', 'loopback'],
    ['0:0:0:0:0:0:0:1', 'loopback'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['[::FFFF:7F00:1]', 'loopback'],
    ['0:0:0:0:0:ffff:127.0.0.1', 'loopback'],
    ['①②⑦.0.0.1', 'loopback'],
    ['127。0。0。1', 'loopback'],
    ['%31%32%37.0.0.1', 'loopback'],
    // Private networks.
    ['10.0.0.1', 'private'],
    ['10.1', 'private'],
    ['0x0a000001', 'private'],
    ['012.0.0.1', 'private'],
    ['167772161', 'private'],
    ['172.16.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.1.1', 'private'],
    ['192.168.257', 'private'],
    ['::ffff:10.0.0.1', 'private'],
    ['100.64.0.1', 'carrierGradeNat'],
    ['100.127.255.255', 'carrierGradeNat'],
    ['fd00::1', 'uniqueLocal'],
    ['FC00::1', 'uniqueLocal'],
    ['[fdff::1]', 'uniqueLocal'],
    ['fec0::1', 'deprecatedSiteLocal'],
    // Addresses that carry an IPv4 address.
    ['64:ff9b::10.0.0.1', 'rfc6052'],
    ['64:ff9b:1::10.0.0.1', 'rfc6052'],
    ['64:ff9b:1::8.8.8.8', 'rfc6052'],
    ['64:ff9b:1:808:8:808:808:808', 'rfc6052'],
    ['2606:4700::5efe:10.0.0.1', 'unicast'],
    ['2606:4700::200:5efe:10.0.0.1', 'unicast'],
    ['::a00:1', 'unicast'],
    ['::ffff:0:10.0.0.1', 'rfc6145'],
    // What is reserved.
    ['192.0.2.1', 'reserved'],
    ['198.18.0.1', 'reserved'],
    ['240.0.0.1', 'reserved'],
    ['2001:db8::1', 'reserved'],
    ['3fff::1', 'reserved'],
    ['2001:1::1', 'reserved'],
    ['2001:2::1', 'benchmarking'],
    ['2001:10::1', 'deprecatedOrchid'],
    ['2001:20::1', 'orchid2'],
    ['2001:30::1', 'droneRemoteIdProtocolEntityTags'],
    ['5f00::1', 'segmentRouting'],
    ['100::1', 'discard'],
    ['4000::1', 'unicast'],
  ])('%s is not, being %s, and can be allowed by a range', (host, range) => {
    expect(judge(host, CLOSED)).toMatch(new RegExp(`is not a public address \\(${range}\\): .*addressPolicy`));
    expect(judge(host, WIDE)).toBeUndefined();
  });

  it.each([
    ['0.0.0.0'],
    ['0'],
    ['0.1.2.3'],
    ['::'],
    ['[::]'],
    ['169.254.0.1'],
    ['169.254.169.254'],
    ['2852039166'],
    ['0xa9fea9fe'],
    ['0xA9.0376.43518'],
    ['0251.0376.0251.0376'],
    ['169.254.43518'],
    ['169。254。169。254'],
    ['::ffff:169.254.169.254'],
    ['[::ffff:a9fe:a9fe]'],
    ['169.254.170.2'],
    ['fe80::1'],
    ['fe80::1%eth0'],
    ['[FE80::1%25eth0]'],
    ['169.254.170.23'],
    ['fd00:ec2::254'],
    ['fd00:ec2::23'],
    ['fd20:ce::254'],
    ['fd00:c1::a9fe:a9fe'],
    ['fd00:42::42'],
    ['fd00:a9fe:a9fe::1'],
    ['fd00:100::100:200'],
    ['192.0.0.192'],
    ['FD00:0EC2:0:0:0:0:0:0254'],
    ['[fd00:ec2::254]'],
    ['168.63.129.16'],
    ['2822734096'],
    ['::ffff:168.63.129.16'],
    ['100.100.100.200'],
    ['::ffff:100.100.100.200'],
    ['224.0.0.1'],
    ['ff02::1'],
    ['255.255.255.255'],
    ['4294967295'],
    // Tunnels to an IPv4 address.
    ['2002:0a00:0001::'],
    ['2002:808:808::1'],
    ['2001:0:0a00:1::'],
  ])('%s is never probed, whatever is allowed', host => {
    expect(judge(host, WIDE)).toMatch(/ is never probed: /);
  });

  it('is told apart from a name, of which only its addresses are judged', () => {
    for (const host of ['localhost', 'example.com', '10.0.0.1.example.com', 'fe80', '1.2.3.4.5']) {
      expect(judge(host, CLOSED)).toBeUndefined();
    }
  });

  it.each([
    ['10.1.2.3', allow('10.0.0.0/8'), true],
    ['10.1.2.3', allow('10.1.2.3/32'), true],
    ['10.1.2.3', allow('10.9.9.9/8'), true],
    ['::ffff:10.1.2.3', allow('10.0.0.0/8'), true],
    ['11.0.0.1', allow('10.0.0.0/8'), true],
    ['192.168.0.1', allow('10.0.0.0/8', '192.168.0.0/24'), true],
    ['192.168.1.1', allow('10.0.0.0/8', '192.168.0.0/24'), false],
    ['10.1.2.3', allow('::/0'), false],
    ['fd00::1', allow('0.0.0.0/0'), false],
    ['fd00::1', allow('fd00::/64'), true],
    ['fd00:0:0:1::1', allow('fd00::/64'), false],
    ['8.8.8.8', { ...CLOSED, denyCidrs: ['8.8.8.0/24'] }, false],
    ['8.8.9.8', { ...CLOSED, denyCidrs: ['8.8.8.0/24'] }, true],
    ['::ffff:8.8.8.8', { ...CLOSED, denyCidrs: ['8.8.8.0/24'] }, false],
    ['64:ff9b::8.8.8.8', { ...CLOSED, denyCidrs: ['8.8.8.0/24'] }, false],
    ['64:ff9b:1::10.1.2.3', { ...WIDE, denyCidrs: ['10.0.0.0/8'] }, false],
    ['2606:4700::1', { ...CLOSED, denyCidrs: ['2606:4700::/32'] }, false],
    ['2606:4701::1', { ...CLOSED, denyCidrs: ['2606:4700::/32'] }, true],
    ['10.1.2.3', { ...allow('10.0.0.0/8'), denyCidrs: ['10.1.0.0/16'] }, false],
    ['10.2.2.3', { ...allow('10.0.0.0/8'), denyCidrs: ['10.1.0.0/16'] }, true],
    ['10.1.2.3', { ...allow('10.1.2.3/32'), denyCidrs: ['0.0.0.0/0'] }, false],
  ])('%s with %j may be probed: %s', (host, policy, expected) => {
    expect(judge(host, policy) === undefined).toBe(expected);
  });

  it('is resolved to itself, without a resolver', async () => {
    const guard = createGuard(CLOSED, () => expect.unreachable('asked the resolver'));
    expect(await guard.resolve('[2606:4700:4700:0::1111]', 443)).toEqual(['2606:4700:4700::1111']);
    expect(await guard.resolve('134744072', 443)).toEqual(['8.8.8.8']);
    expect(await guard.resolve('::ffff:8.8.8.8', 443)).toEqual(['8.8.8.8']);
    await expect(guard.resolve('127.1', 443)).rejects.toThrow(AddressDenied);
  });
});

describe('a name', () => {
  const names = dns({
    'good.example': ['8.8.8.8', '2606:4700:4700::1111'],
    'bad.example': ['127.0.0.1'],
    'mixed.example': ['8.8.8.8', '10.0.0.1', '1.1.1.1'],
    'mixed6.example': ['8.8.8.8', 'fd00::1'],
    'mapped.example': ['::ffff:192.168.0.1'],
    'zoned.example': ['fe80::1%eth0'],
    'barred.example': ['8.8.8.8', '9.9.9.9'],
    'metadata.example': ['169.254.169.254'],
    'mcp.team.svc': ['10.0.0.1'],
    svc: ['10.0.0.1'],
    'evilteam.svc': ['10.0.0.1'],
    'xn--bcher-kva.example': ['10.0.0.1'],
  });

  it('of public addresses gives them all', async () => {
    const guard = createGuard(CLOSED, names);
    expect(await guard.resolve('good.example', 443)).toEqual(['8.8.8.8', '2606:4700:4700::1111']);
    expect(await guard.resolve('GOOD.example..', 443)).toEqual(['8.8.8.8', '2606:4700:4700::1111']);
  });

  it.each([
    ['bad.example', 'bad.example (127.0.0.1) is not a public address (loopback)'],
    ['mixed.example', 'mixed.example (10.0.0.1) is not a public address (private)'],
    ['mixed6.example', 'mixed6.example (fd00::1) is not a public address (uniqueLocal)'],
    ['mapped.example', 'mapped.example (192.168.0.1) is not a public address (private)'],
    ['zoned.example', 'zoned.example (fe80::1) is never probed: a linkLocal address'],
    ['metadata.example', 'metadata.example (169.254.169.254) is never probed: a linkLocal address'],
  ])('%s is denied for one bad address', async (host, message) => {
    const refusal = createGuard(CLOSED, names).resolve(host, 443);
    await expect(refusal).rejects.toThrow(AddressDenied);
    await expect(refusal).rejects.toThrow(message);
    await expect(refusal).rejects.toMatchObject({ code: 'ADDRESS_DENIED' });
  });

  it.each([
    ['mcp.team.svc', allowHost('mcp.team.svc'), true],
    ['MCP.Team.svc.', allowHost('mcp.team.svc'), true],
    ['mcp.team.svc', allowHost('MCP.team.SVC.'), true],
    ['mcp.team.svc', allowHost('*.team.svc'), true],
    ['mcp.team.svc', allowHost('*.svc'), true],
    ['mcp.team.svc', allowHost('*.SVC.'), true],
    ['svc', allowHost('*.svc'), false],
    ['evilteam.svc', allowHost('*.team.svc'), false],
    ['evilteam.svc', allowHost('team.svc'), false],
    ['mcp.team.svc', allowHost('team.svc'), false],
    ['mcp.team.svc', allow('10.0.0.0/8'), true],
    ['bücher.example', allowHost('xn--bcher-kva.example'), true],
    ['metadata.example', allowHost('metadata.example'), false],
    ['metadata.example', { ...allow('0.0.0.0/0'), allowHosts: ['*.example'] }, false],
    ['good.example', { ...CLOSED, denyHosts: ['good.example'] }, false],
    ['GOOD.example.', { ...CLOSED, denyHosts: ['good.EXAMPLE'] }, false],
    ['good.example', { ...CLOSED, denyHosts: ['*.example'] }, false],
    ['good.example', { ...CLOSED, denyHosts: ['example', '*.good.example', 'bad.example'] }, true],
    ['mcp.team.svc', { ...allowHost('mcp.team.svc'), denyHosts: ['*.svc'] }, false],
    ['bücher.example', { ...WIDE, denyHosts: ['bücher.example'] }, false],
    ['barred.example', { ...CLOSED, denyCidrs: ['9.9.9.9/32'] }, false],
    ['mcp.team.svc', { ...allowHost('mcp.team.svc'), denyCidrs: ['10.0.0.0/24'] }, false],
  ])('%s with %j may be probed: %s', async (host, policy, expected) => {
    const reached = await createGuard(policy, names)
      .resolve(host, 443)
      .then(
        () => true,
        () => false,
      );
    expect(reached).toBe(expected);
  });

  it('is asked for once: what was checked is what is dialled', async () => {
    const answers = [['8.8.8.8'], ['127.0.0.1']];
    const guard = createGuard(CLOSED, async () => answers.shift() ?? []);
    expect(await guard.resolve('rebind.example', 443)).toEqual(['8.8.8.8']);
    expect(answers).toEqual([['127.0.0.1']]);
    await expect(guard.resolve('rebind.example', 443)).rejects.toThrow(AddressDenied);
  });

  it('is asked for once by all who want it at the same time, and anew by those who come later', async () => {
    const answers: PromiseWithResolvers<readonly string[]>[] = [];
    const guard = createGuard(CLOSED, () => {
      const answer = Promise.withResolvers<readonly string[]>();
      answers.push(answer);
      return answer.promise;
    });
    const together = [guard.resolve('a.example.com', 443), guard.resolve('A.example.com.', 8443)];
    answers[0]?.resolve(['8.8.8.8']);
    expect(await Promise.all(together)).toEqual([['8.8.8.8'], ['8.8.8.8']]);
    const failing = [guard.resolve('a.example.com', 443), guard.resolve('a.example.com', 443)];
    answers[1]?.reject(new Error('no'));
    expect(await Promise.allSettled(failing)).toMatchObject([{ status: 'rejected' }, { status: 'rejected' }]);
    const later = guard.resolve('a.example.com', 443);
    answers[2]?.resolve(['10.0.0.1']);
    await expect(later).rejects.toThrow(AddressDenied);
    expect(answers).toHaveLength(3);
  });

  it('that does not resolve fails as the resolver says', async () => {
    const empty = createGuard(WIDE, async () => []);
    for (const refusal of [createGuard(WIDE, names).resolve('nowhere.example', 443), empty.resolve('x.example', 443)]) {
      await expect(refusal).rejects.toMatchObject({ code: 'ENOTFOUND' });
    }
  });

  it('is judged as the resolver spells an address, and dialled as that was understood', async () => {
    const guard = createGuard(CLOSED, async () => ['::ffff:8.8.8.8', '2606:4700:0::1%eth0']);
    expect(await guard.resolve('x.example', 443)).toEqual(['8.8.8.8', '2606:4700::1']);
  });

  it('that is barred is not even resolved', async () => {
    const guard = createGuard({ ...CLOSED, denyHosts: ['*.example'] }, () => expect.unreachable('asked the resolver'));
    await expect(guard.resolve('x.example', 443)).rejects.toThrow('x.example is barred by addressPolicy: ');
    await expect(guard.resolve('y.invalid', 22)).rejects.toThrow('port 22 is not probed: ');
  });
});

describe('a port', () => {
  it.each([
    ['https://mcp.example', CLOSED.ports, true],
    ['http://mcp.example', CLOSED.ports, true],
    ['http://mcp.example:8000', CLOSED.ports, true],
    ['http://mcp.example:65535', CLOSED.ports, true],
    ['http://mcp.example:1024', CLOSED.ports, true],
    ['http://mcp.example:1023', CLOSED.ports, false],
    ['http://mcp.example:22', CLOSED.ports, false],
    ['http://8.8.8.8:25', CLOSED.ports, false],
    ['http://mcp.example:0', CLOSED.ports, false],
    ['https://mcp.example', ['443'], true],
    ['wss://mcp.example', ['443'], true],
    ['http://mcp.example', ['443'], false],
    ['ws://mcp.example', ['443'], false],
    ['ws://mcp.example', ['80'], true],
    ['http://mcp.example:22', ['20-22'], true],
    ['http://mcp.example', [], false],
  ])('of %s with %j may be probed: %s', async (url, ports, expected) => {
    const guard = createGuard({ ...CLOSED, ports }, async () => ['8.8.8.8']);
    expect(guard.denyUrl(new URL(url)) === undefined).toBe(expected);
  });

  it('that is denied says which are not', () => {
    expect(createGuard(CLOSED).denyUrl(new URL('https://mcp.example:22'))).toBe(
      "port 22 is not probed: use one of 80, 443, 1024-65535, or have the operator's admin add it to addressPolicy.ports",
    );
  });
});

describe('a policy', () => {
  const HOSTS = [
    '',
    '*',
    '*.',
    'https://a.example',
    'a.example:443',
    'a.example/x',
    'a.*.example',
    '*a.example',
    'a b',
  ];
  it.each<[keyof AddressPolicy, string[], string]>([
    [
      'allowCidrs',
      [
        '10.0.0.0',
        '10.0.0.0/33',
        '::/129',
        'example.com',
        '',
        '10.0.0.0/-1',
        '10/8',
        '0x0a.0.0.0/8',
        '::ffff:10.0.0.0/104',
      ],
      'no address range: write it like 10.0.0.0/8 or fd00::/8',
    ],
    ['denyCidrs', ['10.0.0.1', '10/8'], 'no address range: write it like 10.0.0.0/8 or fd00::/8'],
    [
      'allowHosts',
      [...HOSTS, '10.0.0.1', '::1', '[::1]', '*.10.0.0.1'],
      'no host name: write it like mcp.example.com, or *.example.com for all below it; ranges of addresses go to allowCidrs',
    ],
    [
      'denyHosts',
      [...HOSTS, '10.0.0.1', '0x7f.1', '10.0.0.0/8'],
      'no host name: write it like mcp.example.com, or *.example.com for all below it; ranges of addresses go to denyCidrs',
    ],
    [
      'ports',
      ['', '0', '65536', '443-80', '-1', '1-', '80,443', '443 ', 'https', '1e3', '0x50', '0-65535'],
      'no port: write it like 443, or 1024-65535 for a range',
    ],
  ])('with a bad entry in %s is refused, naming it and the fix', (list, entries, fault) => {
    for (const entry of entries) {
      expect(() => createGuard({ ...CLOSED, [list]: [...CLOSED[list], entry] })).toThrow(
        `addressPolicy.${list}: ${JSON.stringify(entry)} is ${fault}`,
      );
    }
  });

  it.each([
    ['mcp.team.svc', allowHost('*.svc'), true],
    ['10.1.2.3', allow('10.0.0.0/8'), true],
    ['0xa.1.2.3', allow('10.0.0.0/8'), true],
    ['[::ffff:10.1.2.3]', allow('10.0.0.0/8'), true],
    ['8.8.8.8', CLOSED, false],
    ['mcp.example', allow('0.0.0.0/0'), false],
  ])('vouches for %s, being %j: %s', (host, policy, expected) => {
    expect(createGuard(policy).vouchesFor(host)).toBe(expected);
  });
});

describe('canonicalHost', () => {
  it.each([
    ['Example.COM.', 'example.com'],
    ['example.com..', 'example.com'],
    ['example。com', 'example.com'],
    ['exa%6Dple.com', 'example.com'],
    ['a..b', 'a..b'],
    ['', ''],
    ['[::FFFF:7F00:1]', '127.0.0.1'],
    ['::1%25lo', '::1'],
    ['example.com:443', 'example.com:443'],
    ['example.com/x', 'example.com/x'],
    ['x@example.com', 'x@example.com'],
    ['[::1]', '::1'],
    ['0x7f.1', '127.0.0.1'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['ＥＸＡＭＰＬＥ.com', 'example.com'],
    ['a b', 'a b'],
  ])('of %s is %s', (host, expected) => {
    expect(canonicalHost(host)).toBe(expected);
  });
});

describe('the open guard', () => {
  it('lets everything pass as it resolves', async () => {
    const guard = openGuard(dns({ svc: ['10.0.0.1'] }));
    expect(guard.denyUrl(new URL('http://127.0.0.1:22'))).toBeUndefined();
    expect(await guard.resolve('svc', 1)).toEqual(['10.0.0.1']);
  });
});

/** Random addresses of ranges that the registries of IANA call anything but global, and spellings of them. */
describe('an address in a random spelling', () => {
  type Bytes = number[];

  const NOT_PUBLIC_4 = [
    ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24'],
    ...['192.0.2.0/24', '192.88.99.0/24', '192.168.0.0/16', '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24'],
    ...['224.0.0.0/4', '240.0.0.0/4', '168.63.129.16/32'],
  ];
  const NEVER_4 = ['0.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '168.63.129.16/32', '100.100.100.200/32'];
  const NOT_PUBLIC_6 = [
    ...[
      '::1/128',
      '::/128',
      '100::/8',
      '200::/7',
      '400::/6',
      '800::/5',
      '1000::/4',
      '4000::/2',
      '8000::/2',
      'c000::/3',
    ],
    ...['e000::/4', 'f000::/5', 'fc00::/7', 'fe80::/10', 'fec0::/10', 'ff00::/8', '2001::/23', '2001:db8::/32'],
    ...['2002::/16', '3fff::/20'],
  ];
  const NEVER_6 = ['::/128', 'fe80::/10', 'ff00::/8', '2002::/16', '2001::/32', 'fd00:ec2::/32', 'fd20:ce::254/128'];

  /** Any address of a range: its prefix, and then random bits. */
  const within = (ranges: string[]): fc.Arbitrary<Bytes> =>
    fc.constantFrom(...ranges).chain(range => {
      const [net, bits] = ipaddr.parseCIDR(range);
      const prefix = net.toByteArray();
      return fc.uint8Array({ minLength: prefix.length, maxLength: prefix.length }).map(random =>
        prefix.map((byte, index) => {
          const kept = Math.min(8, Math.max(0, bits - 8 * index));
          const mask = (0xff00 >> kept) & 0xff;
          return (byte & mask) | ((random[index] as number) & ~mask & 0xff);
        }),
      );
    });

  const inRange = (bytes: Bytes, ranges: string[]): boolean =>
    ranges.some(range => ipaddr.fromByteArray(bytes).match(ipaddr.parseCIDR(range) as never));

  /** Where an IPv4 address may stand in an IPv6 one, beside the tunnels that are never probed anyway. */
  const carry: ((v4: Bytes) => Bytes)[] = [
    v4 => [...ipaddr.parse('::').toByteArray().slice(4), ...v4],
    v4 => [...ipaddr.parse('::ffff:0:0:0').toByteArray().slice(0, 12), ...v4],
    v4 => [...ipaddr.parse('64:ff9b::').toByteArray().slice(0, 12), ...v4],
    v4 => [...ipaddr.parse('64:ff9b:1:fffe::').toByteArray().slice(0, 12), ...v4],
    v4 => [...ipaddr.parse('2606:4700::200:5efe:0:0').toByteArray().slice(0, 12), ...v4],
    ([a = 0, b = 0, c = 0, d = 0]) => [0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d, 0, 0, 0, 0, 0],
    ([a = 0, b = 0, c = 0, d = 0]) => [0, 0x64, 0xff, 0x9b, 0, 1, 7, a, 0, b, c, d, 0, 0, 0, 0],
    ([a = 0, b = 0, c = 0, d = 0]) => [0, 0x64, 0xff, 0x9b, 0, 1, 7, 7, 0, a, b, c, d, 0, 0, 0],
  ];
  const mapped = (v4: Bytes): Bytes => [...ipaddr.parse('::ffff:0:0').toByteArray().slice(0, 12), ...v4];

  const RADIX = [
    (value: number) => String(value),
    (value: number) => `0x${value.toString(16)}`,
    (value: number) => `0X000${value.toString(16).toUpperCase()}`,
    (value: number) => `00${value.toString(8)}`,
  ];
  /** One to four numbers, each decimal, hexadecimal or octal, in what characters a URL may have for them. */
  const spelled4 = (bytes: Bytes): fc.Arbitrary<string> =>
    fc
      .record({
        numbers: fc.integer({ min: 1, max: 4 }),
        radix: fc.array(fc.constantFrom(...RADIX), { minLength: 4, maxLength: 4 }),
        dot: fc.constantFrom('.', '。', '．', '｡', '%2e'),
        letters: fc.constantFrom(
          (text: string) => text,
          (text: string) => text.replace(/./g, char => `%${char.charCodeAt(0).toString(16)}`),
          (text: string) => text.replace(/[0-9A-Za-z]/g, char => String.fromCharCode(char.charCodeAt(0) + 0xfee0)),
          (text: string) => text.replace(/^./, '$&\u00ad'),
        ),
        end: fc.constantFrom('', '.', '..', '...'),
      })
      .map(({ numbers, radix, dot, letters, end }) => {
        const last = bytes.slice(numbers - 1).reduce((sum, byte) => sum * 256 + byte, 0);
        const values = [...bytes.slice(0, numbers - 1), last];
        return (
          values.map((value, index) => letters((radix[index] as (value: number) => string)(value))).join(dot) + end
        );
      });

  /** Eight groups or fewer, any run of zeros left out, in any case and with any zeros before, perhaps IPv4 at the end. */
  const spelled6 = (bytes: Bytes): fc.Arbitrary<string> =>
    fc
      .record({
        pad: fc.boolean(),
        upper: fc.boolean(),
        dotted: fc.boolean(),
        from: fc.nat(7),
        zone: fc.constantFrom('', '%eth0', '%25lo'),
        brackets: fc.boolean(),
      })
      .map(({ pad, upper, dotted, from, zone, brackets }) => {
        const groups = Array.from({ length: 8 }, (_, index) => {
          const group = (((bytes[2 * index] as number) << 8) | (bytes[2 * index + 1] as number)).toString(16);
          return pad ? group.padStart(4, '0') : group;
        });
        if (dotted) groups.splice(6, 2, bytes.slice(12).join('.'));
        let to = from;
        while (/^0+$/.test(groups[to] ?? '')) to += 1;
        const short =
          to > from ? `${groups.slice(0, from).join(':')}::${groups.slice(to).join(':')}` : groups.join(':');
        const text = (upper ? short.toUpperCase() : short) + zone;
        return brackets ? `[${text}]` : text;
      });

  const v4 = (ranges: string[]): fc.Arbitrary<string> => within(ranges).chain(spelled4);
  const v6 = (ranges: string[]): fc.Arbitrary<string> => within(ranges).chain(spelled6);
  const carried = (ranges: string[]): fc.Arbitrary<string> =>
    fc.tuple(within(ranges), fc.constantFrom(mapped, ...carry)).chain(([bytes, into]) => spelled6(into(bytes)));

  /** Judges a host in each way in which one comes: from a URL, as it stands, and as the answer of a resolver. */
  async function verdicts(host: string, policy: AddressPolicy): Promise<(string | undefined)[]> {
    const guard = createGuard(policy, () => expect.unreachable(`${host} is taken for a name`));
    const url = `https://${host}/mcp`;
    return [
      guard.denyUrl({ protocol: 'https:', hostname: host, port: '' }),
      ...(URL.canParse(url) ? [guard.denyUrl(new URL(url))] : []),
      await guard.resolve(host, 443).then(
        () => undefined,
        (error: AddressDenied) => error.message,
      ),
    ];
  }

  it.each([
    ['IPv4', v4(NOT_PUBLIC_4)],
    ['IPv6', v6(NOT_PUBLIC_6)],
    ['IPv4 in IPv6', carried(NOT_PUBLIC_4)],
  ])('of %s that is not public is denied', async (_what, hosts) => {
    await fc.assert(
      fc.asyncProperty(hosts, async host => {
        for (const denied of await verdicts(host, CLOSED)) expect(denied).toMatch(/is not a public|is never probed/);
      }),
      { numRuns: 1_000 },
    );
  });

  it.each([
    ['IPv4', v4(NEVER_4)],
    ['IPv6', v6(NEVER_6)],
    ['IPv4 in IPv6', carried(NEVER_4.slice(1))],
  ])('of %s that is never probed is denied whatever is allowed', async (_what, hosts) => {
    await fc.assert(
      fc.asyncProperty(hosts, async host => {
        for (const denied of await verdicts(host, WIDE)) expect(denied).toMatch(/is never probed/);
      }),
      { numRuns: 1_000 },
    );
  });

  it('of IPv4 or IPv6 that is public is not denied, unless its range is', async () => {
    const bytes4 = within(['0.0.0.0/0']).filter(
      bytes => !inRange(bytes, [...NOT_PUBLIC_4, '192.31.196.0/24', '192.52.193.0/24', '192.175.48.0/24']),
    );
    const bytes6 = within(['2400::/8', '2600::/9', '2a00::/8']).filter(([, , , , , , , , ...id]) => id[2] !== 0x5e);
    const hosts = fc.oneof(
      bytes4.chain(spelled4),
      bytes4.chain(bytes => spelled6(mapped(bytes))),
      bytes4.chain(bytes => spelled6((carry[2] as (v4: Bytes) => Bytes)(bytes))),
      bytes6.chain(spelled6),
    );
    await fc.assert(
      fc.asyncProperty(hosts, async host => {
        for (const denied of await verdicts(host, CLOSED)) expect(denied).toBeUndefined();
        const barred = { ...WIDE, denyCidrs: ['0.0.0.0/0', '::/0'] };
        for (const denied of await verdicts(host, barred)) expect(denied).toMatch(/is barred by addressPolicy/);
      }),
      { numRuns: 1_000 },
    );
  });

  it('that a resolver answers with is denied as well', async () => {
    const answers = fc.oneof(within(NOT_PUBLIC_4), within(NOT_PUBLIC_6)).map(bytes => ipaddr.fromByteArray(bytes));
    await fc.assert(
      fc.asyncProperty(answers, async address => {
        const guard = createGuard(CLOSED, async () => ['8.8.8.8', address.toString()]);
        await expect(guard.resolve('mcp.example', 443)).rejects.toThrow(AddressDenied);
      }),
    );
  });
});

describe('regressions', () => {
  // A cluster with IPv6 only reaches IPv4 by NAT64, so its admin has to allow the prefix.
  it.each([
    ['64:ff9b::169.254.169.254', '64:ff9b::/96'],
    ['64:ff9b::a83f:8110', '64:ff9b::/96'],
    ['64:ff9b:1::169.254.169.254', '64:ff9b:1::/48'],
    ['64:ff9b:1:a9fe:00a9:fe00::', '64:ff9b:1::/48'],
    ['64:ff9b:1:00a9:00fe:a9fe::', '64:ff9b:1::/48'],
    ['64:ff9b:1::a9:fea9:fe00:0', '64:ff9b:1::/48'],
    ['2606:4700::5efe:169.254.169.254', '::/0'],
    ['2002:a9fe:a9fe::', '2002::/16'],
    ['::ffff:0:169.254.169.254', '::/0'],
  ])('never lets %s pass, which carries a metadata address, also with %s allowed', (host, cidr) => {
    expect(judge(host, allow(cidr))).toMatch(/ is never probed: /);
  });

  it('does not take an IPv4-compatible address for a public one', () => {
    expect(judge('[::a9fe:a9fe]', CLOSED)).toBeDefined();
  });

  it.each(['100.100.100.200', 'fd00:ec2::254'])('says of %s that it is a metadata address', host => {
    expect(judge(host, WIDE)).toBe(`${host} is never probed: a cloud metadata address`);
  });

  it('refuses a range that is cut short, since 10/8 would mean 0.0.0.10/8', () => {
    expect(() => createGuard(allow('10/8'))).toThrow('"10/8" is no address range');
  });

  it('knows an allowed host in the spelling of people, as it knows the host of a URL', async () => {
    const guard = createGuard(allowHost('bücher.example'), dns({ 'xn--bcher-kva.example': ['10.0.0.1'] }));
    expect(await guard.resolve('xn--bcher-kva.example', 443)).toEqual(['10.0.0.1']);
  });
});
