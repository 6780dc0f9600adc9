/** Of a URL that a server names. */
export const MAX_URL = 2048;

/** Makes a server's words fit to be shown: one line, no control or invisible formatting characters, at most `most` long. */
export function cleanText(text: unknown, most: number): string {
  const clean = String(text)
    .slice(0, most * 4)
    .replaceAll(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim();
  const characters = [...clean];
  return characters.length <= most ? clean : `${characters.slice(0, most - 1).join('')}…`;
}

/**
 * Finds any of some values that are long enough to be a secret, and their lines: in any case, as they stand in a URL, and
 * as JSON has them. Undefined if there is none.
 */
export function masking(values: readonly string[]): RegExp | undefined {
  const secrets = values
    .flatMap(value => [value, ...value.split(/\r?\n/)])
    .map(value => value.trim().toWellFormed())
    .flatMap(value => [value, encodeURIComponent(value), inJson(value), inAsciiJson(value)])
    // Longer literals do not compile: all pieces of one are found.
    .flatMap(value => value.match(/.{1,1024}/gs) ?? [])
    .filter(({ length }) => length >= MIN_SECRET);
  if (secrets.length === 0) return undefined;
  const longestFirst = [...new Set(secrets)].sort((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map(RegExp.escape).join('|'), 'gi');
}

const inJson = (text: string): string => JSON.stringify(text).slice(1, -1);

function inAsciiJson(text: string): string {
  return inJson(text).replaceAll(/[^ -~]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** The same of headers, whose values may hold a scheme beside the secret. */
export function secretsIn(headers: Readonly<Record<string, string>>): RegExp | undefined {
  return masking(Object.values(headers).flatMap(value => [value, ...value.split(/\s+/)]));
}

const MIN_SECRET = 8;

/** The same without secrets in any text of it: a server may say back what it was sent. */
export function withoutSecrets<T>(value: T, secrets: RegExp | undefined): T {
  if (!secrets) return value;
  const clean = (part: unknown): unknown => {
    if (typeof part === 'string') return part.replaceAll(secrets, '…');
    if (Array.isArray(part)) return part.map(clean);
    if (typeof part !== 'object' || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, child]) => [key, clean(child)]));
  };
  return clean(value) as T;
}
