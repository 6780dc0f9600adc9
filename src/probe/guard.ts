/**
 * The address guard: decides at dial time which addresses and ports a probe may connect to, so that a connector's author
 * cannot use the operator to reach what they cannot (SSRF). Names are resolved here and the addresses that were judged
 * are the ones that are dialled, so that a second DNS answer cannot swap them (rebinding).
 */

import { lookup as dnsLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** What the admin allows and bars. What is barred stays so, whatever else allows it. */
export interface AddressPolicy {
  /** Ranges that may be reached beyond the public internet, such as 10.0.0.0/8. */
  allowCidrs: readonly string[];
  /** Host names that may resolve to such ranges: `name` itself, or with a leading `*.` all below it. */
  allowHosts: readonly string[];
  /** Ranges that are not reached although they are public or allowed. */
  denyCidrs: readonly string[];
  /** Host names that are not reached, written like allowHosts. */
  denyHosts: readonly string[];
  /** Ports that may be reached: one such as `443`, or a range such as `1024-65535`. */
  ports: readonly string[];
}

export class AddressDenied extends Error {
  override name = 'AddressDenied';
  readonly code = 'ADDRESS_DENIED';
}

/** A name does not resolve; `code` says why in the words of the resolver. */
export class DnsFailure extends Error {
  override name = 'DnsFailure';
  readonly code: string;

  constructor(host: string, code: string, cause?: unknown) {
    super(`${host} does not resolve: ${code}`, { cause });
    this.code = code;
  }
}

export type Lookup = (host: string) => Promise<readonly string[]>;

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Range = readonly [Address, bits: number];

/**
 * Ranges of ipaddr.js that are never reached, whatever the policy says. 6to4 and Teredo are tunnels to an IPv4 address
 * that stands in the IPv6 one (for Teredo with its bits flipped); they are out of use, and no server is to be found there.
 */
const NEVER_RANGES = new Set(['linkLocal', 'multicast', 'unspecified', 'broadcast', '6to4', 'teredo']);
/**
 * What clouds tell their machines, credentials among it, at addresses that are not link-local. Their names, such as
 * metadata.google.internal, resolve to one of these or to a link-local one: names need no check of their own.
 */
const METADATA = [
  '168.63.129.16/32', // Azure: WireServer
  '100.100.100.200/32', // Alibaba Cloud
  'fd00:100::100:200/128', // the same
  '192.0.0.192/32', // Oracle Cloud Classic
  'fd00:c1::a9fe:a9fe/128', // Oracle Cloud
  'fd00:ec2::/32', // AWS: instance metadata (::254), credentials of EKS Pods (::23), DNS, time
  'fd20:ce::254/128', // Google Cloud
  'fd00:42::42/128', // Scaleway
  'fd00:a9fe:a9fe::1/128', // Akamai
].map(cidr => ipaddr.parseCIDR(cidr));
/** Global unicast as allocated by IANA (RFC 4291), and NAT64 (RFC 6052): all other IPv6 is somebody's own. */
const PUBLIC_IPV6 = ['2000::/3', '64:ff9b::/96'].map(cidr => ipaddr.parseCIDR(cidr));

export interface Guard {
  /**
   * The addresses to dial for a host, a name or a literal in any spelling, and port. One denied address denies the name.
   * Throws AddressDenied or DnsFailure.
   */
  resolve(host: string, port: number): Promise<readonly [string, ...string[]]>;
  /** Why a URL is not probed, as far as that shows before its host is resolved, or undefined. */
  denyUrl(url: Pick<URL, 'protocol' | 'hostname' | 'port'>): string | undefined;
  /** Whether the policy names this host, or the range of this address: the admin vouches for the network to it. */
  vouchesFor(host: string): boolean;
}

/** For the servers that the operator hosts, whose URLs it built itself: denies only what is never reached. */
export function openGuard(lookup: Lookup = resolveAll): Guard {
  const all = { allowCidrs: ['0.0.0.0/0', '::/0'], allowHosts: [], denyCidrs: [], denyHosts: [], ports: ['1-65535'] };
  return createGuard(all, lookup);
}

/** Makes a guard. Throws when an entry of the policy makes no sense. */
export function createGuard(policy: AddressPolicy, lookup: Lookup = resolveAll): Guard {
  const { ports } = policy;
  const allowedRange = matchRanges('allowCidrs', policy.allowCidrs);
  const allowedHost = matchHosts('allowHosts', policy.allowHosts);
  const barredRange = matchRanges('denyCidrs', policy.denyCidrs);
  const barredHost = matchHosts('denyHosts', policy.denyHosts);
  const allowedPort = matchPorts(ports);
  /** Lookups under way, by name. */
  const asked = new Map<string, Promise<readonly string[]>>();

  /** Asks once for all who want to know. Rejects with DnsFailure. */
  function addressesOf(name: string): Promise<readonly string[]> {
    let answer = asked.get(name);
    if (!answer) {
      answer = lookup(name)
        .catch(cause => {
          throw new DnsFailure(name, String(cause?.code ?? 'EAI_FAIL'), cause);
        })
        .finally(() => asked.delete(name));
      asked.set(name, answer);
    }
    return answer;
  }

  /** Why a host may not be dialled whatever its addresses are. */
  function denyHost(name: string, port: number): string | undefined {
    if (!allowedPort(port)) {
      return `port ${port} is not probed: use one of ${ports.join(', ')}, or have the operator's admin add it to addressPolicy.ports`;
    }
    if (barredHost(name)) return barred(name);
    return undefined;
  }

  /** Why an address of a host may not be dialled. */
  function denyAddress(name: string, address: Address): string | undefined {
    const named = name === address.toString() ? name : `${name} (${address})`;
    const parts = [address, ...embedded(address)];
    for (const part of parts) {
      if (METADATA.some(range => contains(range, part))) return `${named} is never probed: a cloud metadata address`;
      // Where no IPv4 address is embedded, zeros are read as one: ::1 holds 0.0.0.1.
      if (part !== address && part.range() === 'unspecified') continue;
      if (NEVER_RANGES.has(part.range())) return `${named} is never probed: a ${part.range()} address`;
    }
    if (parts.some(barredRange)) return barred(named);
    if (parts.every(isPublic) || allowedHost(name) || allowedRange(address)) return undefined;
    return `${named} is not a public address (${address.range()}): use a public one, or have the operator's admin allow it in addressPolicy`;
  }

  return {
    async resolve(host, port) {
      const name = canonicalHost(host);
      const deniedHost = denyHost(name, port);
      if (deniedHost) throw new AddressDenied(deniedHost);
      const [first, ...others] = isIP(name) ? [name] : await addressesOf(name);
      if (first === undefined) throw new DnsFailure(name, 'ENOTFOUND');
      const judged = (answer: string): string => {
        const address = ipaddr.process(withoutZone(answer));
        const denied = denyAddress(name, address);
        if (denied) throw new AddressDenied(denied);
        // As it was understood here, and not as it was spelled: what is dialled is what was judged.
        return address.toString();
      };
      return [judged(first), ...others.map(judged)];
    },
    denyUrl(url) {
      const name = canonicalHost(url.hostname);
      const literal = isIP(name) ? denyAddress(name, ipaddr.process(name)) : undefined;
      return denyHost(name, portOf(url)) ?? literal;
    },
    vouchesFor(host) {
      const name = canonicalHost(host);
      return allowedHost(name) || (isIP(name) !== 0 && allowedRange(ipaddr.process(name)));
    },
  };
}

const barred = (host: string): string =>
  `${host} is barred by addressPolicy: use another server, or have the operator's admin change it`;

/** The port of a URL, also where it names none. */
export function portOf({ protocol, port }: Pick<URL, 'protocol' | 'port'>): number {
  if (port !== '') return Number(port);
  return protocol === 'https:' || protocol === 'wss:' ? 443 : 80;
}

function contains([net, bits]: Range, address: Address): boolean {
  return net.kind() === address.kind() && address.match(net as never, bits);
}

function isPublic(address: Address): boolean {
  if (address.kind() === 'ipv4') return address.range() === 'unicast';
  return ['unicast', 'rfc6052'].includes(address.range()) && PUBLIC_IPV6.some(range => contains(range, address));
}

function badEntry(list: keyof AddressPolicy, entry: string, fault: string): Error {
  return new Error(`addressPolicy.${list}: ${JSON.stringify(entry)} is ${fault}`);
}

function matchRanges(list: 'allowCidrs' | 'denyCidrs', cidrs: readonly string[]): (address: Address) => boolean {
  const ranges = cidrs.map(cidr => {
    // ipaddr.js would read 10/8 as 0.0.0.10/8.
    const known = ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr) || ipaddr.IPv6.isValidCIDR(cidr);
    const range = known ? ipaddr.parseCIDR(cidr) : undefined;
    // No address is ever taken for an IPv4-mapped one: such a range would match nothing.
    if (!range || range[0].range() === 'ipv4Mapped') {
      throw badEntry(list, cidr, 'no address range: write it like 10.0.0.0/8 or fd00::/8');
    }
    return range;
  });
  return address => ranges.some(range => contains(range, address));
}

function matchHosts(list: 'allowHosts' | 'denyHosts', hosts: readonly string[]): (name: string) => boolean {
  const patterns = hosts.map(host => {
    const below = host.startsWith('*.');
    const name = canonicalHost(below ? host.slice(2) : host);
    // An address that is barred by a name of its own could still be reached by any other.
    if (isIP(name) || !/^[a-z\d_-]+(\.[a-z\d_-]+)*$/.test(name)) {
      const cidrs = list === 'allowHosts' ? 'allowCidrs' : 'denyCidrs';
      throw badEntry(
        list,
        host,
        `no host name: write it like mcp.example.com, or *.example.com for all below it; ranges of addresses go to ${cidrs}`,
      );
    }
    return below ? `.${name}` : name;
  });
  return name => patterns.some(pattern => (pattern.startsWith('.') ? name.endsWith(pattern) : name === pattern));
}

function matchPorts(ports: AddressPolicy['ports']): (port: number) => boolean {
  const ranges = ports.map(entry => {
    const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(entry) ?? [];
    const [low, high] = [Number(first), Number(last)];
    if (low >= 1 && low <= high && high <= 65535) return { low, high };
    throw badEntry('ports', entry, 'no port: write it like 443, or 1024-65535 for a range');
  });
  return port => ranges.some(({ low, high }) => low <= port && port <= high);
}

const TAIL = [12, 13, 14, 15];
/** Prefixes whose addresses carry an IPv4 address, which a gateway would dial, and the bytes at which it stands. */
const CARRIERS = (
  [
    ['::/96', TAIL], // IPv4-compatible, deprecated (RFC 4291)
    ['::ffff:0:0:0/96', TAIL], // SIIT (RFC 7915)
    ['64:ff9b::/96', TAIL], // NAT64 (RFC 6052)
    // NAT64 of one's own (RFC 8215), which tells no length of its prefix: all that RFC 6052 knows.
    ['64:ff9b:1::/48', [6, 7, 9, 10]],
    ['64:ff9b:1::/48', [7, 9, 10, 11]],
    ['64:ff9b:1::/48', [9, 10, 11, 12]],
    ['64:ff9b:1::/48', TAIL],
  ] as const
).map(([cidr, bytes]) => ({ range: ipaddr.parseCIDR(cidr), bytes }));

/** The IPv4 addresses that an IPv6 address may carry. */
function embedded(address: Address): ipaddr.IPv4[] {
  if (address.kind() === 'ipv4') return [];
  const all = address.toByteArray();
  const places = CARRIERS.filter(({ range }) => contains(range, address)).map(({ bytes }) => bytes);
  // ISATAP (RFC 5214): any network, and then 0000:5efe or 0200:5efe and the IPv4 address.
  if (/^0[02]005efe/.test(Buffer.from(all.slice(8)).toString('hex'))) places.push(TAIL);
  return places.map(bytes => new ipaddr.IPv4(bytes.map(index => all[index] as number)));
}

/** A zone says by which interface to go, which only means something to link-local addresses. */
function withoutZone(address: string): string {
  return address.replace(/%.*$/, '');
}

/**
 * A host as it is dialled: lower case, no brackets, no zone, no trailing dots. Each address has one spelling only: IPv4 in
 * decimal, hex, octal or as IPv4-mapped IPv6 becomes the dotted form. What is no host at all stays as it is.
 */
export function canonicalHost(host: string): string {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  const unzoned = withoutZone(bare);
  if (isIP(unzoned)) return ipaddr.process(unzoned).toString();
  // Of these, the URL parser would take a part for the host.
  if (/[/:?#@\\]/.test(bare)) return bare;
  try {
    return new URL(`http://${bare.replace(/\.+$/, '')}/`).hostname.replace(/\.+$/, '');
  } catch {
    return bare;
  }
}

async function resolveAll(host: string): Promise<string[]> {
  const answers = await dnsLookup(host, { all: true, verbatim: true });
  return answers.map(({ address }) => address);
}
