/** What processes and the API server used, as the kernel and the API server themselves tell. */
import { readFileSync, writeFileSync } from 'node:fs';
import { requests } from '../../support/audit.ts';

/** USER_HZ, which is 100 on every Linux. */
const TICKS_A_SECOND = 100;

export interface Usage {
  cpuSeconds: number;
  /** Since `resetPeak`. */
  peakRssMib: number;
  rssMib: number;
}

/** Linux only: elsewhere it throws, as there is no /proc. */
export function usageOf(pid: number): Usage {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The command, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [user, system] = [Number(fields[11]), Number(fields[12])];
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  return {
    cpuSeconds: (user + system) / TICKS_A_SECOND,
    peakRssMib: kib('VmHWM') / 1024,
    rssMib: kib('VmRSS') / 1024,
  };
}

/** Has the peak of a process' memory begin anew. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** Requests by `verb resource/subresource` that came from a client whose user agent begins like this, from a line on. */
export function requestsOf(auditLog: string, userAgent: string, since = 0): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { verb, resource, subresource, userAgent: agent } of requests(auditLog).slice(since)) {
    if (!agent.startsWith(userAgent)) continue;
    const what = `${verb} ${resource}${subresource ? `/${subresource}` : ''}`;
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  return counts;
}

/** The value below which this share of the times lies; NaN of none. */
export function percentile(times: readonly number[], share: number): number {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}
