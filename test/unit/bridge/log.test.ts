import { describe, expect, it } from 'vitest';
import { createLog } from '../../../src/bridge/log.ts';

/** What is logged of a line, when the environment holds a value. */
function logged(value: string, line: string): string {
  let text = '';
  createLog({ VALUE: value }, [], part => {
    text += part;
  }).line(line);
  return text;
}

describe('the log', () => {
  const PEM = `-----BEGIN KEY-----\n${'abcdefgh'.repeat(8)}\n${'ijklmnop'.repeat(8)}\n-----END KEY-----\n`;
  it.each<[string, string, string]>([
    ['a value', 's3cret-token', 'token s3cret-token is wrong'],
    ['in any case', 'S3cret-Token', 'token s3CRET-tOKEN'],
    ['that ends in a newline', 's3cret-token\n', 'token s3cret-token is wrong'],
    ['a line of a longer one', PEM, `read ${'ijklmnop'.repeat(8)}`],
    ['with characters of patterns', 'a.*(b)+[c]$^|', 'it is a.*(b)+[c]$^|'],
    ['in a URL', 'pass word/1?', 'https://x/?p=pass%20word%2F1%3F'],
    ['in JSON', 'say "hi"\\now', JSON.stringify({ p: 'say "hi"\\now' })],
    ['in ASCII JSON', 'pässwörd-1', '{"p":"p\\u00e4ssw\\u00f6rd-1"}'],
  ])('leaves out %s', (_what, value, line) => {
    const text = logged(value, line);
    expect(text).toContain('…');
    for (const part of value.split('\n').filter(({ length }) => length >= 8))
      expect(text.toLowerCase()).not.toContain(part.toLowerCase());
  });

  it('does so in its own words, too', () => {
    let text = '';
    const log = createLog({ VALUE: 'say "hi" now' }, [], part => {
      text += part;
    });
    log.warn('it said: say "hi" now');
    log.fatal('say "hi" now');
    expect(text).not.toContain('hi');
    expect(log.clean('well, say "hi" now')).toBe('well, …');
  });

  it('can be made of an environment of any size', () => {
    const bundle = 'MIIB+/x9'.repeat(8_000);
    expect(logged(bundle, `read ${bundle.slice(0, 3_000)}`)).not.toContain('MIIB+/x9MIIB+/x9MIIB+/x9'.repeat(100));
    expect(() => logged(bundle, 'x')).not.toThrow();
  });

  it.each([
    ['short ones, which are words', 'info', 'level info'],
    ['what is known to be none', '', 'x'],
  ])('keeps %s', (_what, value, line) => {
    expect(logged(value, line)).toBe(`${line}\n`);
  });

  it('keeps what the manifest shows', () => {
    let text = '';
    createLog({ LEVEL: 'information', PATH: '/usr/local/bin' }, ['LEVEL'], part => {
      text += part;
    }).line('information of /usr/local/bin');
    expect(text).toBe('information of /usr/local/bin\n');
  });

  it('cuts a line after it was cleaned', () => {
    const secret = 's3cret-token-of-some-length';
    const text = logged(secret, `${'x'.repeat(8 * 1024 - 10)}${secret}`);
    expect(text).not.toContain('s3cret');
    expect(text.length).toBeLessThanOrEqual(8 * 1024 + 1);
  });
});
