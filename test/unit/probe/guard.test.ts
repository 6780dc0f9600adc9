import { describe, expect, it } from 'vitest';
import { AddressDenied, type AddressPolicy, canonicalHost, createGuard, openGuard } from '../../../src/probe/guard.ts';

const CLOSED: AddressPolicy = { allowCidrs: [], allowHosts: [] };
/** Allows all that can be allowed. */
const WIDE: AddressPolicy = { allowCidrs: ['0.0.0.0/0', '::/0'], allowHosts: [] };

const allow = (...allowCidrs: string[]): AddressPolicy => ({ allowCidrs, allowHosts: [] });
const allowHost = (...allowHosts: string[]): AddressPolicy => ({ allowCidrs: [], allowHosts });

/** A resolver that knows some names and fails on others. */
const dns = (names: Record<string, string[]>) => async (host: string) => {
  const addresses = names[host];
  if (!addresses) throw Object.assign(new Error(`no such name: ${host}`), { code: 'ENOTFOUND' });
  return addresses;
};

/** What a guard says of the host of a URL, as a string of this URL's author. */
function judge(host: string, policy: AddressPolicy): string | undefined {
  return createGuard(policy, dns({})).denyLiteral(host);
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
    ['2002:0a00:0001::', '6to4'],
    ['2001:0:0a00:1::', 'teredo'],
    ['::ffff:0:10.0.0.1', 'rfc6145'],
    // What is reserved.
    ['192.0.2.1', 'reserved'],
    ['198.18.0.1', 'reserved'],
    ['240.0.0.1', 'reserved'],
    ['2001:db8::1', 'reserved'],
    ['100::1', 'discard'],
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
    ['fd00:ec2::254'],
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
  ])('%s is never probed, whatever is allowed', host => {
    const policy = { ...WIDE, allowHosts: [host, canonicalHost(host)] };
    expect(judge(host, policy)).toMatch(/ is never probed: /);
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
    ['10.1.2.3', allowHost('10.1.2.3'), true],
    ['10.1.2.4', allowHost('10.1.2.3'), false],
  ])('%s with %j may be probed: %s', (host, policy, expected) => {
    expect(judge(host, policy) === undefined).toBe(expected);
  });

  it('is resolved to itself, without a resolver', async () => {
    const guard = createGuard(CLOSED, () => expect.unreachable('asked the resolver'));
    expect(await guard.resolve('[2606:4700:4700::1111]')).toEqual(['2606:4700:4700::1111']);
    expect(await guard.resolve('134744072')).toEqual(['8.8.8.8']);
    await expect(guard.resolve('127.1')).rejects.toThrow(AddressDenied);
  });
});

describe('a name', () => {
  const names = dns({
    'good.example': ['8.8.8.8', '2606:4700:4700::1111'],
    'bad.example': ['127.0.0.1'],
    'mixed.example': ['8.8.8.8', '10.0.0.1', '1.1.1.1'],
    'mixed6.example': ['8.8.8.8', 'fd00::1'],
    'mapped.example': ['::ffff:192.168.0.1'],
    'metadata.example': ['169.254.169.254'],
    'mcp.team.svc': ['10.0.0.1'],
    svc: ['10.0.0.1'],
    'evilteam.svc': ['10.0.0.1'],
    'xn--bcher-kva.example': ['10.0.0.1'],
  });

  it('of public addresses gives them all', async () => {
    const guard = createGuard(CLOSED, names);
    expect(await guard.resolve('good.example')).toEqual(['8.8.8.8', '2606:4700:4700::1111']);
    expect(await guard.resolve('GOOD.example.')).toEqual(['8.8.8.8', '2606:4700:4700::1111']);
  });

  it.each([
    ['bad.example', 'bad.example (127.0.0.1) is not a public address (loopback)'],
    ['mixed.example', 'mixed.example (10.0.0.1) is not a public address (private)'],
    ['mixed6.example', 'mixed6.example (fd00::1) is not a public address (uniqueLocal)'],
    ['mapped.example', 'mapped.example (::ffff:192.168.0.1) is not a public address (private)'],
    ['metadata.example', 'metadata.example (169.254.169.254) is never probed: a linkLocal address'],
  ])('%s is denied for one bad address', async (host, message) => {
    const refusal = createGuard(CLOSED, names).resolve(host);
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
    ['mcp.team.svc', allowHost('*'), false],
    ['mcp.team.svc', allow('10.0.0.0/8'), true],
    ['bücher.example', allowHost('xn--bcher-kva.example'), true],
    ['metadata.example', allowHost('metadata.example'), false],
    ['metadata.example', { allowCidrs: ['0.0.0.0/0'], allowHosts: ['*.example'] }, false],
  ])('%s with %j may be probed: %s', async (host, policy, expected) => {
    const reached = await createGuard(policy, names)
      .resolve(host)
      .then(
        () => true,
        () => false,
      );
    expect(reached).toBe(expected);
  });

  it('is asked for once: what was checked is what is dialled', async () => {
    const answers = [['8.8.8.8'], ['127.0.0.1']];
    const guard = createGuard(CLOSED, async () => answers.shift() ?? []);
    expect(await guard.resolve('rebind.example')).toEqual(['8.8.8.8']);
    expect(answers).toEqual([['127.0.0.1']]);
    await expect(guard.resolve('rebind.example')).rejects.toThrow(AddressDenied);
  });

  it('that does not resolve fails as the resolver says', async () => {
    await expect(createGuard(WIDE, names).resolve('nowhere.example')).rejects.toMatchObject({ code: 'ENOTFOUND' });
  });
});

describe('a policy', () => {
  it.each(['10.0.0.0', '10.0.0.0/33', '::/129', 'example.com', '', '10.0.0.0/-1'])(
    'with the range %j is refused, naming it',
    cidr => {
      expect(() => createGuard(allow('10.0.0.0/8', cidr))).toThrow(
        `address policy: ${JSON.stringify(cidr)} is no address range; write it like 10.0.0.0/8`,
      );
    },
  );
});

describe('canonicalHost', () => {
  it.each([
    ['Example.COM.', 'example.com'],
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
    expect(guard.denyLiteral('127.0.0.1')).toBeUndefined();
    expect(await guard.resolve('svc')).toEqual(['10.0.0.1']);
  });
});

describe('regressions', () => {
  // A cluster with IPv6 only reaches IPv4 by NAT64, so its admin has to allow the prefix.
  it.each([
    ['64:ff9b::169.254.169.254', '64:ff9b::/96'],
    ['64:ff9b::a83f:8110', '64:ff9b::/96'],
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
    expect(await guard.resolve('xn--bcher-kva.example')).toEqual(['10.0.0.1']);
  });
});
