import { describe, expect, it } from 'vitest';
import { lastWords } from '../../../src/connector/last-words.ts';

describe('the last words of a container', () => {
  it.each<[string, string, string]>([
    ['the last line', 'starting\nError: no JIRA_URL\n', 'Error: no JIRA_URL'],
    ['the last that says something', 'ValueError: bad port\n\n  }\n---\n', 'ValueError: bad port'],
    ['nothing', '\n \n', ''],
    ['the message of a JSON entry', '{"level":60,"msg":"the server is of no use"}', 'the server is of no use'],
    ['the message of another kind of it', '{"severity":"ERROR","message":"no route"}', 'no route'],
    ['JSON without a message', '{"a":1}', '{"a":1}'],
    ['no control characters', 'a\u001b[31mred\u202e', 'a [31mred'],
    ['no more than 300 characters', 'word '.repeat(200), `${'word '.repeat(200).slice(0, 299)}…`],
  ])('are %s', (_name, text, expected) => {
    expect(lastWords(text)).toBe(expected);
  });

  it.each<[string, string]>([
    ['login failed: password=hunter2 for jane', 'login failed: password=… for jane'],
    ['{"token": "abc"}', '{"token": "…"}'],
    ['API_KEY is pk_1', 'API_KEY is …'],
    ['Authorization: Bearer abc.def.ghi', 'Authorization: …'],
    ['sent Bearer abcdef123 to it', 'sent Bearer … to it'],
    ['cannot reach https://jane:pw@jira.example.com/rest?x=1', 'cannot reach https://…@jira.example.com/rest?…'],
    ['key pk_49213847_ZQ8K1B0N2M7R4T6Y is unknown', 'key … is unknown'],
    ['ghp_16C7e42F292c6912E7710c838347Ae178B4a', '…'],
    ['eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U', '….….…'],
  ])('keep no secret: %s', (text, expected) => {
    expect(lastWords(text)).toBe(expected);
  });

  it.each([
    'ModuleNotFoundError: No module named mcp',
    'cannot listen at 0.0.0.0:8000',
    'TypeError: x is not a function at /app/node_modules/foo/index.js:12:3',
  ])('keep what is none: %s', text => {
    expect(lastWords(text)).toBe(text);
  });
});
