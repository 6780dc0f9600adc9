import { describe, expect, it, vi } from 'vitest';
import {
  ApiError,
  describeError,
  isConflict,
  isExpired,
  isForbidden,
  isInvalid,
  isNotFound,
  isTransient,
  NotLeading,
  retryAfterOf,
} from '../../../src/kube/errors.ts';

const status = (message?: unknown, reason?: unknown): string => JSON.stringify({ kind: 'Status', message, reason });

describe('ApiError', () => {
  it.each([
    ['a Status', status('pods "x" not found', 'NotFound'), 'GET /x: 404 pods "x" not found', 'NotFound'],
    ['a Status without a message', status(undefined, 'NotFound'), 'GET /x: 404 NotFound', 'NotFound'],
    ['a Status with a message that is none', status({ a: 1 }, 5), 'GET /x: 404 without a message', ''],
    ['HTML', '<html>secret</html>', 'GET /x: 404 without a message', ''],
    ['nothing', '', 'GET /x: 404 without a message', ''],
    ['null', 'null', 'GET /x: 404 without a message', ''],
    ['text in quotes', '"gone"', 'GET /x: 404 without a message', ''],
  ])('reads %s and shows no raw body', (_what, body, message, reason) => {
    const error = new ApiError('GET /x', 404, body);
    expect({ message: error.message, reason: error.reason, status: error.status, name: error.name }).toEqual({
      message,
      reason,
      status: 404,
      name: 'ApiError',
    });
  });

  it('cuts an endless message', () => {
    expect(new ApiError('GET /x', 500, status('x'.repeat(9_999))).message).toHaveLength('GET /x: 500 '.length + 2048);
  });

  it.each([
    [undefined, undefined],
    ['', undefined],
    ['0', 0],
    ['1', 1_000],
    ['1.5', 1_500],
    ['300', 300_000],
    // A server that asks for a day, or for longer than a number holds, is heeded for 5 minutes.
    ['301', 300_000],
    ['86400', 300_000],
    ['9'.repeat(400), 300_000],
    ['-1', undefined],
    ['soon', undefined],
    ['soon 5', undefined],
    ['1 2', undefined],
    ['0x10', undefined],
    ['Infinity', undefined],
    ['NaN', undefined],
    ['Sun, 01 Mar 2026 10:00:07 GMT', 7_000],
    ['Sun, 01 Mar 2026 10:00:00 GMT', 0],
    // The past, the far future, and a date that is none.
    ['Sun, 01 Mar 2026 09:59:00 GMT', 0],
    ['Thu, 01 Jan 1970 00:00:00 GMT', 0],
    ['Fri, 01 Jan 2100 00:00:00 GMT', 300_000],
    ['Sun, 99 Mar 2026 10:00:07 GMT', undefined],
    ['GMT', undefined],
  ])('reads Retry-After %j as %j ms', (header, expected) => {
    vi.useFakeTimers({ now: Date.parse('2026-03-01T10:00:00Z'), toFake: ['Date'] });
    const error = new ApiError('GET /x', 429, '', header);
    vi.useRealTimers();
    expect(error.retryAfterMs).toBe(expected);
    expect(retryAfterOf(error)).toBe(expected ?? 0);
  });
});

describe('how long to leave a server alone', () => {
  it.each([
    ['an error of no answer', new Error('ECONNRESET')],
    ['an answer that does not say', new ApiError('GET /x', 503, '{}')],
    ['no leadership', new NotLeading('x')],
    ['a text', 'boom'],
    ['nothing', undefined],
  ])('is said by no %s', (_what, error) => {
    expect(retryAfterOf(error)).toBe(0);
  });
});

describe('trying again', () => {
  it.each<[string, unknown, boolean]>([
    ['429', new ApiError('GET /x', 429, ''), true],
    ['500', new ApiError('GET /x', 500, ''), true],
    ['503', new ApiError('GET /x', 503, ''), true],
    ['504', new ApiError('GET /x', 504, ''), true],
    ['a connection that broke', Object.assign(new Error('reset'), { code: 'ECONNRESET' }), true],
    ['a request that took too long', new DOMException('too late', 'TimeoutError'), true],
    ['400', new ApiError('GET /x', 400, ''), false],
    ['401', new ApiError('GET /x', 401, ''), false],
    ['403', new ApiError('GET /x', 403, ''), false],
    ['404', new ApiError('GET /x', 404, ''), false],
    ['409', new ApiError('GET /x', 409, ''), false],
    ['410', new ApiError('GET /x', 410, ''), false],
    ['422', new ApiError('GET /x', 422, ''), false],
    ['the lack of leadership', new NotLeading('x'), false],
  ])('after %s may help or not', (_what, error, expected) => {
    expect(isTransient(error)).toBe(expected);
  });
});

describe('the kinds of errors', () => {
  const kinds = { isNotFound, isConflict, isExpired, isInvalid, isForbidden };
  it.each([
    [404, 'isNotFound'],
    [409, 'isConflict'],
    [410, 'isExpired'],
    [400, 'isInvalid'],
    [422, 'isInvalid'],
    [403, 'isForbidden'],
    [500, undefined],
  ])('%i is %s and no other', (code, expected) => {
    const error = new ApiError('GET /x', code, '');
    const found = Object.entries(kinds).filter(([, is]) => is(error));
    expect(found.map(([name]) => name)).toEqual(expected === undefined ? [] : [expected]);
  });

  it('are of the API server only', () => {
    const other = Object.assign(new Error('not found'), { status: 404 });
    expect(Object.values(kinds).some(is => is(other) || is(undefined))).toBe(false);
  });
});

describe('describeError', () => {
  it.each([
    ['an error', new Error('boom'), 'boom'],
    ['a code', Object.assign(new Error('boom'), { code: 'ECONNRESET' }), 'ECONNRESET: boom'],
    [
      'a code that the message holds',
      Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }),
      'connect ECONNREFUSED',
    ],
    ['a code that is a number', Object.assign(new Error('boom'), { code: 20 }), 'boom'],
    ['a cause', new Error('fetch failed', { cause: new Error('no route') }), 'fetch failed (no route)'],
    ['a cause that says the same', new Error('boom', { cause: new Error('boom') }), 'boom'],
    ['a cause that is no error', new Error('boom', { cause: 'why' }), 'boom'],
    ['a text', 'boom', 'boom'],
    ['nothing', undefined, 'undefined'],
  ])('tells %s in one line', (_what, error, expected) => {
    expect(describeError(error)).toBe(expected);
  });
});
