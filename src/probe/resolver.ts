/**
 * Resolves names as a container's libc does, by /etc/hosts and the search list of /etc/resolv.conf; but where libc keeps
 * a thread until a server answers that never will, here nothing is held, so that dead zones are nobody else's trouble.
 */

import { Resolver } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Lookup } from './guard.ts';

/** For each of two tries, the second twice as long; less than most probes take, so that they can say why. */
const FIRST_TRY_MS = 1_500;
/** As many as glibc took in its days of fewer. */
const MAX_SEARCH = 16;
/** Errors after which the next name of the search list may do better; after others nobody answers at all. */
const NEXT = new Set(['ENOTFOUND', 'ENODATA', 'ESERVFAIL']);

export interface ResolverOptions {
  /** Texts of the two files. */
  hosts?: string;
  resolvConf?: string;
  /** Instead of those of /etc/resolv.conf: `address:port`. */
  servers?: readonly string[];
}

/** Rejects with an error whose `code` is one of DNS, such as ENOTFOUND, ESERVFAIL or ETIMEOUT. */
export function createResolver({
  hosts = read('/etc/hosts'),
  resolvConf = read('/etc/resolv.conf'),
  servers,
}: ResolverOptions = {}): Lookup {
  const resolver = new Resolver({ timeout: FIRST_TRY_MS, tries: 2 });
  if (servers) resolver.setServers(servers);
  const known = parseHosts(hosts);
  const { search, ndots } = parseResolvConf(resolvConf);

  async function ask(name: string): Promise<string[]> {
    const [four, six] = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const found = [four, six].flatMap(answer => (answer.status === 'fulfilled' ? answer.value : []));
    if (found.length > 0) return found;
    // That one kind of address is missing says less than why the other one could not be asked for.
    const codes = [four, six].map(answer => (answer.status === 'rejected' ? String(answer.reason.code) : 'ENODATA'));
    throw failure(name, codes.find(code => !NEXT.has(code)) ?? codes.find(code => code !== 'ENODATA') ?? 'ENODATA');
  }

  return async name => {
    const listed = known.get(name);
    if (listed) return listed;
    const longer = search.map(domain => `${name}.${domain}`);
    const dots = name.split('.').length - 1;
    let code = 'ENOTFOUND';
    for (const candidate of dots >= ndots ? [name, ...longer] : [...longer, name]) {
      try {
        return await ask(candidate);
      } catch (error) {
        const why = (error as { code: string }).code;
        if (!NEXT.has(why)) throw failure(name, why);
        if (why === 'ESERVFAIL') code = why;
      }
    }
    throw failure(name, code);
  };
}

function failure(name: string, code: string): Error {
  return Object.assign(new Error(`${name} could not be resolved: ${code}`), { code });
}

/** Name → addresses, of each kind in the order of the file. */
function parseHosts(text: string): Map<string, string[]> {
  const known = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/);
    if (isIP(address) === 0) continue;
    for (const name of names) {
      const addresses = known.get(name.toLowerCase()) ?? [];
      if (!addresses.includes(address)) known.set(name.toLowerCase(), [...addresses, address]);
    }
  }
  return known;
}

function parseResolvConf(text: string): { search: string[]; ndots: number } {
  let search: string[] = [];
  let ndots = 1;
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line
      .replace(/[#;].*/, '')
      .trim()
      .split(/\s+/);
    // The last one counts.
    if (keyword === 'search' || keyword === 'domain') {
      search = values.map(value => value.replace(/\.$/, '').toLowerCase()).filter(value => value !== '');
    }
    for (const option of keyword === 'options' ? values : []) {
      const [, value] = /^ndots:(\d+)$/.exec(option) ?? [];
      if (value !== undefined) ndots = Math.min(15, Number(value));
    }
  }
  return { search: search.slice(0, MAX_SEARCH), ndots };
}

/** Empty where there is no such file. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
