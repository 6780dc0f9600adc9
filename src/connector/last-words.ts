/** What a container said last, as far as it may be shown: one short line, without what looks like a secret. */

import { cleanText } from '../probe/text.ts';

const MOST = 300;
/** A name of something secret and what is said to be its value; what follows a scheme of Authorization. */
const NAMED =
  /((?:pass(?:word|wd|phrase)?|secret|token|api[-_ ]?key|access[-_ ]?key|credentials?|authorization|cookie)["']?\s*(?:[:=]|\bis\b)\s*["']?)(?:(bearer|basic)\s+)?[^\s"',;]+/gi;
const SCHEME = /\b(bearer|basic)\s+[\w+/=.~-]{6,}/gi;
/** User and password in a URL, and its query. */
const USER_INFO = /\/\/[^\s/@]+@/g;
const QUERY = /(https?:\/\/[^\s?"']+)\?[^\s"']*/gi;
/** Long, and of letters and digits as no word is: keys, tokens, digests. */
const RANDOM = /\b(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[A-Za-z0-9_+/=-]{20,}/g;

/** The last line that says something, of what the kubelet kept; of one that is a JSON log entry, its message. Empty if none does. */
export function lastWords(text: string): string {
  const line =
    text
      .split('\n')
      .map(part => part.trim())
      .filter(part => /\w/.test(part))
      .at(-1) ?? '';
  return cleanText(withoutSecrets(messageOf(line)), MOST);
}

function messageOf(line: string): string {
  try {
    const { msg, message = msg } = JSON.parse(line) as { msg?: unknown; message?: unknown };
    return typeof message === 'string' ? message : line;
  } catch {
    return line;
  }
}

function withoutSecrets(text: string): string {
  return text
    .replaceAll(USER_INFO, '//…@')
    .replaceAll(QUERY, '$1?…')
    .replaceAll(NAMED, '$1…')
    .replaceAll(SCHEME, '$1 …')
    .replaceAll(RANDOM, '…');
}
