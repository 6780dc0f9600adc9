import { describe, expect, it } from 'vitest';
import { NotMcp } from '../../../src/probe/failure.ts';
import { parseMessages } from '../../../src/probe/rpc.ts';

const message = (result: string): string => `{"jsonrpc":"2.0","id":1,"result":{"x":${result}}}`;
const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
/** Longer than texts that are parsed without a look at their depth. */
const padded = (result: string): string => message(result) + ' '.repeat(20_000);

describe('parseMessages', () => {
  it.each([
    ['of 126 levels more', nested(126)],
    ['of many short ones side by side', `[${Array.from({ length: 500 }, () => nested(2)).join()}]`],
    ['of brackets in a text', JSON.stringify('{['.repeat(500))],
    ['of brackets after escaped quotes', JSON.stringify(`"\\"${'{'.repeat(500)}\\`)],
  ])('takes a long answer %s', (_, result) => {
    expect(parseMessages(padded(result))).toMatchObject([{ kind: 'result', id: 1, result: { x: JSON.parse(result) } }]);
  });

  it.each([
    ['one level deeper', nested(127)],
    ['objects in objects', `${'{"a":'.repeat(150_000)}1${'}'.repeat(150_000)}`],
    ['levels that never end', '['.repeat(150_000)],
    ['levels after a text with escapes', `["\\\\",${nested(150)}]`],
  ])('takes none with %s', (_, result) => {
    expect(() => parseMessages(padded(result))).toThrow(new NotMcp('its answer is nested deeper than 128'));
  });

  it('gives the text that a result came in', () => {
    const text = message('[]');
    expect(parseMessages(text)).toMatchObject([{ text }]);
    expect(parseMessages(`[${text}]`)).toMatchObject([{ text: `[${text}]` }]);
  });
});
