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

/** What nobody may see, in lower case, by how it begins; of the same beginning the longest first. */
export type Secrets = ReadonlyMap<string, readonly string[]>;

/**
 * Those of some values, and of their lines, that are long enough to be a secret: as they are, as they stand in a URL, and
 * as JSON has them.
 */
export function secretsOf(values: readonly string[]): Secrets {
  const each = values.flatMap(value => [value, ...value.split(/\r?\n/)]).map(value => value.trim().toWellFormed());
  const forms = [...new Set(each)]
    .flatMap(value => [value, encodeURIComponent(value), inJson(value), inAsciiJson(value)])
    .map(lower)
    // Of a long one a part may be told.
    .flatMap(value => [value, ...(value.match(/.{1,1024}/gs) ?? [])])
    .filter(({ length }) => length >= MIN_SECRET);
  const longestFirst = [...new Set(forms)].sort((a, b) => b.length - a.length);
  return Map.groupBy(longestFirst, secret => beginningOf(secret, 0));
}

/** The same of headers, whose values may hold a scheme beside the secret. */
export function secretsIn(headers: Readonly<Record<string, string>>): Secrets {
  return secretsOf(Object.values(headers).flatMap(value => [value, ...value.split(/\s+/)]));
}

const MIN_SECRET = 8;
const beginningOf = (text: string, at: number): string => text.slice(at, at + MIN_SECRET);

const inJson = (text: string): string => JSON.stringify(text).slice(1, -1);

function inAsciiJson(text: string): string {
  return inJson(text).replaceAll(/[^ -~]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** The same without secrets in any text of it, in any case: a server may say back what it was sent. */
export function withoutSecrets<T>(value: T, secrets: Secrets): T {
  if (secrets.size === 0) return value;
  const clean = (part: unknown): unknown => {
    if (typeof part === 'string') return masked(part, secrets);
    if (Array.isArray(part)) return part.map(clean);
    if (typeof part !== 'object' || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, child]) => [key, clean(child)]));
  };
  return clean(value) as T;
}

/**
 * No pattern: that of a long secret does not compile, and its error would say the secret. One look at each place, however
 * many secrets there are.
 */
function masked(text: string, secrets: Secrets): string {
  const searched = lower(text);
  let clean = '';
  let from = 0;
  let at = 0;
  while (at + MIN_SECRET <= searched.length) {
    const found = secrets.get(beginningOf(searched, at))?.find(secret => searched.startsWith(secret, at));
    if (found === undefined) {
      at += 1;
      continue;
    }
    clean += `${text.slice(from, at)}…`;
    at += found.length;
    from = at;
  }
  return clean + text.slice(from);
}

/** Of ASCII alone: no text gets longer by it. */
function lower(text: string): string {
  return text.replaceAll(/[A-Z]+/g, letters => letters.toLowerCase());
}
