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
 * What of headers nobody may see: their values, and the words of these that are long enough to be a secret, also as they
 * stand in a URL. In lower case, the longest first.
 */
export function secretsIn(headers: Readonly<Record<string, string>>): string[] {
  const words = Object.values(headers).flatMap(value => [value, ...value.split(/\s+/)]);
  const secrets = words.flatMap(word => [word, encodeURIComponent(word)]).filter(word => word.length >= MIN_SECRET);
  return [...new Set(secrets.map(lower))].sort((a, b) => b.length - a.length);
}

const MIN_SECRET = 8;

/** The same without secrets in any text of it, in any case: a server may say back what it was sent. */
export function withoutSecrets<T>(value: T, secrets: readonly string[]): T {
  if (secrets.length === 0) return value;
  const clean = (part: unknown): unknown => {
    if (typeof part === 'string') return secrets.reduce(without, part);
    if (Array.isArray(part)) return part.map(clean);
    if (typeof part !== 'object' || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, child]) => [key, clean(child)]));
  };
  return clean(value) as T;
}

/** No pattern: that of a long secret does not compile, and its error would say the secret. */
function without(text: string, secret: string): string {
  const searched = lower(text);
  const kept: string[] = [];
  let from = 0;
  for (let at = searched.indexOf(secret); at >= 0; at = searched.indexOf(secret, from)) {
    kept.push(text.slice(from, at));
    from = at + secret.length;
  }
  return [...kept, text.slice(from)].join('…');
}

/** Of ASCII alone: no text gets longer by it. */
function lower(text: string): string {
  return text.replaceAll(/[A-Z]+/g, letters => letters.toLowerCase());
}
