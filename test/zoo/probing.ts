/** How the zoo probes, and what must hold of every probe. */
import { expect } from 'vitest';
import type { AddressPolicy } from '../../src/probe/guard.ts';
import type { Outcome } from '../../src/probe/outcome.ts';
import type { Target } from '../../src/probe/target.ts';
import { type Judgement, judge } from '../../src/probe/verdict.ts';
import { makeTarget } from '../unit/support.ts';
import { LOOPBACK, prober } from './prober.ts';

/** What a prober may take beyond the target's timeout: 2 s for DELETE and close (createProbe), 0.5 s for a busy machine. */
const GRACE_MS = 2_500;
const MAX_STRING = 4_096;
const MAX_STRINGS = 65_536;

export interface Probed {
  outcome: Outcome;
  judgement: Judgement;
}

/** Probes once, judges, and checks what must hold whatever the server does: an end in time, and words fit to be shown. */
export async function probe(
  url: string,
  options: Partial<Target> = {},
  policy: AddressPolicy = LOOPBACK,
): Promise<Probed> {
  const run = prober(policy);
  const target = makeTarget({ url, ...options });
  const start = performance.now();
  const outcome = await run(target, {}, new AbortController().signal);
  const took = performance.now() - start;
  const judgement = judge(outcome, { url, credentials: target.sendsCredentials });
  expect(took, 'ms that the probe took').toBeLessThan(target.timeoutMs + GRACE_MS);
  expectFitToShow({ outcome, judgement });
  return { outcome, judgement };
}

function expectFitToShow(shown: unknown): void {
  const all = [...strings(shown)];
  for (const text of all) {
    expect(text.length, 'length of a string').toBeLessThanOrEqual(MAX_STRING);
    expect(text).not.toMatch(/[\p{Cc}\p{Bidi_Control}]/u);
    expect(text.isWellFormed(), `${JSON.stringify(text)} is well-formed`).toBe(true);
  }
  expect(all.join('').length, 'length of all strings').toBeLessThanOrEqual(MAX_STRINGS);
}

function* strings(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (typeof value === 'object' && value !== null) {
    for (const [key, child] of Object.entries(value)) {
      yield key;
      yield* strings(child);
    }
  }
}

/** Secrets that are headers, for a target. */
export function sending(headers: Record<string, string>): Partial<Target> {
  return { sendsCredentials: true, secrets: async () => ({ headers, ca: undefined }) };
}

/** An authority of one's own, for a target. */
export function trusting(ca: string): Partial<Target> {
  return { secrets: async () => ({ headers: {}, ca }) };
}
