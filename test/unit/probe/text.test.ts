import { describe, expect, it } from 'vitest';
import { cleanText, secretsIn, secretsOf, withoutSecrets } from '../../../src/probe/text.ts';

describe('cleanText', () => {
  it.each<[string, unknown, number, string]>([
    ['keeps plain words', 'GitHub MCP 1.0 – grüße 語', 40, 'GitHub MCP 1.0 – grüße 語'],
    ['makes one line', 'one\r\ntwo\tthree\u2028four\u2029five', 40, 'one two three four five'],
    ['strips control and escape characters', '\u001b[31mred\u0000\u007f\u009b', 40, '[31mred'],
    ['strips what is invisible or turns text around', 'a\u200bb\u202ec\ufeffd\u00ade', 40, 'a b c d e'],
    ['strips private and half characters', 'a\ue000b\ud800c', 40, 'a b c'],
    ['trims', '  x \n', 40, 'x'],
    ['keeps what just fits', 'x'.repeat(10), 10, 'x'.repeat(10)],
    ['cuts what does not, and shows it', 'x'.repeat(11), 10, `${'x'.repeat(9)}…`],
    ['counts characters and not their halves', '🦊'.repeat(10), 10, '🦊'.repeat(10)],
    ['cuts between characters', '🦊'.repeat(11), 10, `${'🦊'.repeat(9)}…`],
    ['shows what is no text', undefined, 40, 'undefined'],
    ['shows a number', 7, 40, '7'],
    ['may leave nothing', '\u0000\u200b', 40, ''],
  ])('%s', (_what, text, most, expected) => {
    expect(cleanText(text, most)).toBe(expected);
  });

  it('gives at most so many characters, whatever comes', () => {
    for (const text of ['\u0000'.repeat(1_000) + 'x'.repeat(1_000), '🦊\u0000'.repeat(1_000), '\ud83e'.repeat(999)]) {
      const clean = cleanText(text, 20);
      expect([...clean].length).toBeLessThanOrEqual(20);
      expect(clean).toMatch(/^[^\p{C}]*$/u);
    }
  });
});

const masked = (secret: string, text: string): string => withoutSecrets(text, secretsIn({ authorization: secret }));

describe('a text without secrets', () => {
  it.each<[string, string, string, string]>([
    ['a value', 'Bearer s3cret-token', 'not Bearer s3cret-token!', 'not …!'],
    ['a word of it, more than once', 'Bearer s3cret-token', 's3cret-token, s3cret-token', '…, …'],
    ['any case', 'S3cret-Token', 's3CRET-tOKEN', '…'],
    ['a URL', 'pass/word+1', 'https://x/?p=pass%2Fword%2B1', 'https://x/?p=…'],
    ['what makes a pattern', 'a.*(b)+[c]$^|', 'a.*(b)+[c]$^|', '…'],
    ['one line of many', 'first-line\r\nother-line\n', 'it is "other-line"', 'it is "…"'],
    ['JSON', 'quote"back\\slash', '{"p":"quote\\"back\\\\slash"}', '{"p":"…"}'],
    ['JSON of ASCII alone', 'grüße-geheim', '"gr\\u00FC\\u00dfe-geheim"', '"…"'],
    ['the longer of two with one beginning', 's3cret-token s3cret-token-2', 'is s3cret-token-2', 'is …'],
    ['letters that grow in lower case', 's3cret-token', '\u0130\u0130 s3cret-token \u0130', '\u0130\u0130 … \u0130'],
  ])('leaves out %s', (_what, secret, text, expected) => {
    expect(masked(secret, text)).toBe(expected);
  });

  it('leaves out each line of what has many', () => {
    expect(withoutSecrets('it is "other line"', secretsOf(['first line\r\nother line\n']))).toBe('it is "…"');
  });

  it('keeps short words', () => {
    expect(masked('Token abc', 'abc')).toBe('abc');
  });

  it.each([64, 1_024])('can leave out a secret of %d KiB', size => {
    const secret = 'x9Y/'.repeat(size * 256);
    expect(masked(secret, `it is ${secret}.`)).toBe('it is ….');
    expect(masked(secret, 'hello')).toBe('hello');
  });
});
