/** What processes and the API server used, as the kernel and the API server themselves tell. */
import { closeSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';

/** USER_HZ, which is 100 on every Linux. */
const TICKS_A_SECOND = 100;

export interface Usage {
  cpuSeconds: number;
  rssMib: number;
  /** Since `resetPeak`. */
  peakRssMib: number;
  /** Files and sockets. */
  bytesRead: number;
  bytesWritten: number;
}

/** Linux only: elsewhere it throws, as there is no /proc. */
export function usageOf(pid: number): Usage {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The command, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [user, system] = [Number(fields[11]), Number(fields[12])];
  const number = (text: string, name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const io = readFileSync(`/proc/${pid}/io`, 'utf8');
  return {
    cpuSeconds: (user + system) / TICKS_A_SECOND,
    rssMib: number(status, 'VmRSS') / 1024,
    peakRssMib: number(status, 'VmHWM') / 1024,
    bytesRead: number(io, 'rchar'),
    bytesWritten: number(io, 'wchar'),
  };
}

/** Has the peak of a process' memory begin anew. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** Counts requests by `verb resource/subresource`, of clients whose user agent begins like this. */
export interface RequestCounter {
  /** Those that were answered since it was asked last. */
  take(): Record<string, number>;
}

/** Reads each line of an audit log once, from where it ends now. */
export function countRequests(auditLog: string, userAgent: string): RequestCounter {
  const chunk = Buffer.alloc(1 << 20);
  const decoder = new StringDecoder('utf8');
  let at = 0;
  let rest = '';

  function read(count: (line: string) => void): void {
    const file = openSync(auditLog, 'r');
    try {
      for (let size = readSync(file, chunk, 0, chunk.length, at); size > 0; ) {
        at += size;
        const lines = (rest + decoder.write(chunk.subarray(0, size))).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) count(line);
        size = readSync(file, chunk, 0, chunk.length, at);
      }
    } finally {
      closeSync(file);
    }
  }
  read(() => {});

  return {
    take() {
      const counts: Record<string, number> = {};
      read(line => {
        const { verb, userAgent: agent = '', objectRef = {} } = JSON.parse(line);
        if (!agent.startsWith(userAgent)) return;
        const what = `${verb} ${objectRef.resource}${objectRef.subresource ? `/${objectRef.subresource}` : ''}`;
        counts[what] = (counts[what] ?? 0) + 1;
      });
      return counts;
    },
  };
}

/** The value below which this share of the numbers lies; NaN of none. */
export function percentile(numbers: readonly number[], share: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}
