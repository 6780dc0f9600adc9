/** Bounds how many probes run at a time, in all, to one host and of one tenant, and how many a host sees per second. */

export interface Limiter {
  /**
   * Resolves to the function that gives the slot back. Waiting ends with the signal's reason when it aborts.
   *
   * Of those who could start, the tenant with the fewest running is served first; of equals, the one that has waited
   * longest since it came or was served. Within a tenant hosts take turns, and each is first come, first served.
   */
  acquire(place: { host: string; tenant: string }, signal: AbortSignal): Promise<() => void>;
  /** How many slots are taken. */
  running(): number;
  /** How many wait for one. */
  waiting(): number;
  /** How long the one has waited that waits longest; 0 if nobody does. */
  longestWaitMs(): number;
}

export interface LimiterOptions {
  /** Slots, in all and for one host. */
  total: number;
  perHost: number;
  /** How many may start at a host per second, and as many at once after a rest; without a bound if absent. */
  perHostPerSecond?: number;
  /** Milliseconds that no change of the clock moves. */
  now?: () => number;
}

type Limits = Required<Pick<LimiterOptions, 'total' | 'perHost' | 'perHostPerSecond'>>;

/** What each of several processes keeps to, so that together they keep to the limits; 0 of them share nothing. */
export function partOf({ total, perHost, perHostPerSecond }: Limits, processes: number): Limits {
  const parts = Math.max(1, processes);
  return {
    total: Math.max(1, Math.floor(total / parts)),
    perHost: Math.max(1, Math.floor(perHost / parts)),
    perHostPerSecond: perHostPerSecond / parts,
  };
}

interface Host {
  name: string;
  running: number;
  waiting: number;
  /** When its token bucket is full again; the bucket's state in one number (generic cell rate algorithm). */
  fullAt: number;
  /** For the next token; runs only while somebody waits for it. */
  timer: NodeJS.Timeout | undefined;
}

interface Tenant {
  name: string;
  running: number;
  /** Who waits, by host; the host whose turn it is comes first. */
  lines: Map<Host, Set<Waiter>>;
}

/** Takes its slot. */
type Waiter = () => void;

/** Of all slots, as many may be one tenant's, so that slow hosts of one never stop all others. */
const TENANT_SHARE = 3 / 4;

export function createLimiter(options: LimiterOptions): Limiter {
  const { total, perHost, perHostPerSecond = Number.POSITIVE_INFINITY, now = () => performance.now() } = options;
  const perTenant = Math.max(1, Math.floor(total * TENANT_SHARE));
  const msPerToken = 1000 / perHostPerSecond;
  /** A bucket holds the tokens of a second, and at least one: so long before it is full it has one to give. */
  const burstMs = Math.max(0, 1000 - msPerToken);

  /** Where and for whom something runs or waits. */
  const hosts = new Map<string, Host>();
  const tenants = new Map<string, Tenant>();
  /** The tenants that wait; the one whose turn it is comes first. */
  const turns = new Set<Tenant>();
  /** The hosts that could serve one of those who wait for them. */
  const open = new Set<Host>();
  /** When the buckets that are not full will be, by host, in the order of their last start. */
  const spent = new Map<string, number>();
  /** Who waits, and since when; who has waited longest comes first. */
  const waiting = new Map<Waiter, number>();
  let running = 0;

  /** Serves all who can start. */
  function serve(): void {
    for (let turn = next(); turn; turn = next()) {
      const { tenant, host, line, waiter } = turn;
      // Who was served goes to the end.
      tenant.lines.delete(host);
      tenant.lines.set(host, line);
      turns.delete(tenant);
      turns.add(tenant);
      leave(tenant, host, waiter);
      waiter();
    }
  }

  /** It passes over tenants at work, which are few, and those who wait only for hosts that cannot serve them. */
  function next(): { tenant: Tenant; host: Host; line: Set<Waiter>; waiter: Waiter } | undefined {
    if (running >= total || open.size === 0) return undefined;
    let best: { tenant: Tenant; host: Host } | undefined;
    for (const tenant of turns) {
      if (tenant.running >= (best?.tenant.running ?? perTenant)) continue;
      for (const host of tenant.lines.keys()) {
        if (!open.has(host)) continue;
        best = { tenant, host };
        break;
      }
      if (best?.tenant.running === 0) break;
    }
    const line = best?.tenant.lines.get(best.host);
    const [waiter] = line ?? [];
    return best && line && waiter && { ...best, line, waiter };
  }

  function start(tenant: Tenant, host: Host): () => void {
    running += 1;
    tenant.running += 1;
    host.running += 1;
    spend(host);
    look(host);
    let given = false;
    return () => {
      if (given) return;
      given = true;
      running -= 1;
      tenant.running -= 1;
      host.running -= 1;
      look(host);
      forget(tenant, host);
      serve();
    };
  }

  function spend(host: Host): void {
    const at = now();
    for (const [name, fullAt] of spent) {
      if (fullAt > at) break;
      spent.delete(name);
    }
    host.fullAt = Math.max(host.fullAt, at) + msPerToken;
    spent.delete(host.name);
    spent.set(host.name, host.fullAt);
  }

  function enter(tenant: Tenant, host: Host, waiter: Waiter): void {
    const line = tenant.lines.get(host);
    if (line) line.add(waiter);
    else tenant.lines.set(host, new Set([waiter]));
    turns.add(tenant);
    host.waiting += 1;
    waiting.set(waiter, now());
    look(host);
  }

  function leave(tenant: Tenant, host: Host, waiter: Waiter): void {
    const line = tenant.lines.get(host);
    line?.delete(waiter);
    if (line?.size === 0) tenant.lines.delete(host);
    if (tenant.lines.size === 0) turns.delete(tenant);
    host.waiting -= 1;
    waiting.delete(waiter);
    look(host);
  }

  function forget(tenant: Tenant, host: Host): void {
    if (tenant.running === 0 && tenant.lines.size === 0) tenants.delete(tenant.name);
    if (host.running === 0 && host.waiting === 0) hosts.delete(host.name);
  }

  /** Files a host after a change. One that lacks only a token is looked at again when it has one. */
  function look(host: Host): void {
    clearTimeout(host.timer);
    host.timer = undefined;
    open.delete(host);
    if (host.waiting === 0 || host.running >= perHost) return;
    const wait = host.fullAt - burstMs - now();
    if (wait <= 0) open.add(host);
    else {
      host.timer = setTimeout(() => {
        look(host);
        serve();
      }, Math.ceil(wait));
    }
  }

  return {
    acquire(place, signal) {
      if (signal.aborted) return Promise.reject(signal.reason);
      const host = hosts.get(place.host) ?? {
        name: place.host,
        running: 0,
        waiting: 0,
        fullAt: spent.get(place.host) ?? Number.NEGATIVE_INFINITY,
        timer: undefined,
      };
      const tenant = tenants.get(place.tenant) ?? { name: place.tenant, running: 0, lines: new Map() };
      hosts.set(host.name, host);
      tenants.set(tenant.name, tenant);
      return new Promise((resolve, reject) => {
        const waiter = (): void => {
          signal.removeEventListener('abort', giveUp);
          resolve(start(tenant, host));
        };
        const giveUp = (): void => {
          leave(tenant, host, waiter);
          forget(tenant, host);
          reject(signal.reason);
        };
        signal.addEventListener('abort', giveUp, { once: true });
        enter(tenant, host, waiter);
        serve();
      });
    },
    running: () => running,
    waiting: () => waiting.size,
    longestWaitMs() {
      for (const since of waiting.values()) return now() - since;
      return 0;
    },
  };
}
