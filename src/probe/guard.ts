/**
 * The address guard: decides at dial time which addresses a probe may connect to, so that a connector's author cannot
 * use the operator to reach what they cannot (SSRF). Names are resolved here and the address that was checked is the
 * one that is dialled, so that a second DNS answer cannot swap it (rebinding).
 */

import { lookup as dnsLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

export interface AddressPolicy {
  /** Ranges that may be reached beyond the public internet, such as 10.0.0.0/8. */
  allowCidrs: readonly string[];
  /** Host names that may resolve to such ranges: `name` itself, or with a leading `*.` all below it. */
  allowHosts: readonly string[];
}

export class AddressDenied extends Error {
  override name = 'AddressDenied';
  readonly code = 'ADDRESS_DENIED';
}

export type Lookup = (host: string) => Promise<readonly string[]>;

/** Never reached, whatever the policy says: ranges of ipaddr.js, and clouds' metadata addresses in other ranges. */
const NEVER_RANGES = new Set(['linkLocal', 'multicast', 'unspecified', 'broadcast']);
const METADATA_ADDRESSES = new Set(['168.63.129.16', '100.100.100.200', 'fd00:ec2::254']);
/** Global unicast as allocated by IANA (RFC 4291): all other IPv6 is somebody's own. */
const PUBLIC_IPV6 = ipaddr.parseCIDR('2000::/3') as [ipaddr.IPv6, number];

export interface Guard {
  /** The addresses to dial for a host of a URL, a name or a literal in any spelling. Throws AddressDenied. */
  resolve(host: string): Promise<readonly string[]>;
  /** Whether the policy names this host, or the range of this address: the admin vouches for the network to it. */
  vouchesFor(host: string): boolean;
  /** What is wrong with a host that is an address literal; undefined for names, which are judged when dialled. */
  denyLiteral(host: string): string | undefined;
}

/** For the servers that the operator hosts, whose URLs it built itself: denies only what is never reached. */
export function openGuard(lookup: Lookup = resolveAll): Guard {
  return createGuard({ allowCidrs: ['0.0.0.0/0', '::/0'], allowHosts: [] }, lookup);
}

/** Makes a guard. Throws when the policy holds a range that is none. */
export function createGuard(policy: AddressPolicy, lookup: Lookup = resolveAll): Guard {
  const ranges = policy.allowCidrs.map(cidr => {
    // ipaddr.js would read 10/8 as 0.0.0.10/8.
    if (!ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr) && !ipaddr.IPv6.isValidCIDR(cidr)) {
      throw new Error(`address policy: ${JSON.stringify(cidr)} is no address range; write it like 10.0.0.0/8`);
    }
    return ipaddr.parseCIDR(cidr);
  });
  const allowedHosts = policy.allowHosts.map(host =>
    host.startsWith('*.') ? `.${canonicalHost(host.slice(2))}` : canonicalHost(host),
  );
  const hostAllowed = (host: string): boolean =>
    allowedHosts.some(allowed => (allowed.startsWith('.') ? host.endsWith(allowed) : host === allowed));

  const inRanges = (address: ipaddr.IPv4 | ipaddr.IPv6): boolean =>
    ranges.some(([net, bits]) => net.kind() === address.kind() && address.match(net as never, bits));

  /** Why an address may not be dialled, or undefined. */
  function deny(host: string, literal: string): string | undefined {
    // `process` turns IPv4-mapped IPv6 addresses into the IPv4 address that would be dialled.
    const address = ipaddr.process(literal.split('%')[0] ?? literal);
    const named = host === literal ? literal : `${host} (${literal})`;
    const inner = embeddedIPv4(address);
    for (const part of inner ? [address, inner] : [address]) {
      if (METADATA_ADDRESSES.has(part.toString())) return `${named} is never probed: a cloud metadata address`;
      if (NEVER_RANGES.has(part.range())) return `${named} is never probed: a ${part.range()} address`;
    }
    // NAT64 is how an IPv6-only cluster reaches the public IPv4 internet.
    if (isPublic(address.range() === 'rfc6052' && inner ? inner : address)) return undefined;
    if (hostAllowed(host)) return undefined;
    if (inRanges(address)) return undefined;
    return `${named} is not a public address (${address.range()}): use a public one, or have the operator's admin allow it in addressPolicy`;
  }

  return {
    async resolve(host) {
      const name = canonicalHost(host);
      const addresses = isIP(name) ? [name] : await lookup(name);
      for (const address of addresses) {
        const reason = deny(name, address);
        if (reason) throw new AddressDenied(reason);
      }
      return addresses;
    },
    vouchesFor(host) {
      const name = canonicalHost(host);
      return hostAllowed(name) || (isIP(name) !== 0 && inRanges(ipaddr.process(name)));
    },
    denyLiteral(host) {
      const name = canonicalHost(host);
      return isIP(name) ? deny(name, name) : undefined;
    },
  };
}

function isPublic(address: ipaddr.IPv4 | ipaddr.IPv6): boolean {
  if (address.range() !== 'unicast') return false;
  return address.kind() === 'ipv4' || (address as ipaddr.IPv6).match(PUBLIC_IPV6);
}

/** Prefixes whose addresses carry an IPv4 address, which a gateway would dial, and the byte at which it stands. */
const CARRIERS: [prefix: [ipaddr.IPv6, number], byte: number][] = [
  ['::/96', 12], // IPv4-compatible, deprecated (RFC 4291)
  ['64:ff9b::/96', 12], // NAT64 (RFC 6052)
  ['64:ff9b:1::/48', 12], // NAT64 of one's own (RFC 8215)
  ['::ffff:0:0:0/96', 12], // SIIT (RFC 6145)
  ['2002::/16', 2], // 6to4 (RFC 3056)
].map(([prefix, byte]) => [ipaddr.parseCIDR(prefix as string) as [ipaddr.IPv6, number], byte as number]);

function embeddedIPv4(address: ipaddr.IPv4 | ipaddr.IPv6): ipaddr.IPv4 | undefined {
  if (address.kind() === 'ipv4' || address.range() === 'loopback' || address.range() === 'unspecified')
    return undefined;
  const carrier = CARRIERS.find(([prefix]) => (address as ipaddr.IPv6).match(prefix));
  if (!carrier) return undefined;
  return new ipaddr.IPv4(address.toByteArray().slice(carrier[1], carrier[1] + 4));
}

/**
 * A host as it is dialled: lower case, no brackets, no trailing dot; IPv4 in decimal, hex or octal spelling becomes the
 * dotted form, as the WHATWG URL parser makes it.
 */
export function canonicalHost(host: string): string {
  const bare = host
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '')
    .toLowerCase();
  if (isIP(bare.split('%')[0] ?? bare)) return bare;
  try {
    return new URL(`http://${bare}/`).hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '');
  } catch {
    return bare;
  }
}

async function resolveAll(host: string): Promise<string[]> {
  const answers = await dnsLookup(host, { all: true, verbatim: true });
  return answers.map(({ address }) => address);
}
