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

/** What of headers nobody may see: their values, and the words of these that are long enough to be a secret. */
export function secretsIn(headers: Readonly<Record<string, string>>): string[] {
  const words = Object.values(headers).flatMap(value => [value, ...value.split(/\s+/)]);
  return [...new Set(words)].filter(word => word.length >= MIN_SECRET).sort((a, b) => b.length - a.length);
}

const MIN_SECRET = 8;

/** The same without secrets in any text of it: a server may say back what it was sent. */
export function withoutSecrets<T>(value: T, secrets: readonly string[]): T {
  if (secrets.length === 0) return value;
  const clean = (part: unknown): unknown => {
    if (typeof part === 'string') return secrets.reduce((text, secret) => text.replaceAll(secret, '…'), part);
    if (Array.isArray(part)) return part.map(clean);
    if (typeof part !== 'object' || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, child]) => [key, clean(child)]));
  };
  return clean(value) as T;
}
