import { describe, expect, it } from 'vitest';
import {
  ApiError,
  describeError,
  isConflict,
  isExpired,
  isForbidden,
  isInvalid,
  isNotFound,
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
    ['-1', undefined],
    ['soon', undefined],
    ['Infinity', undefined],
  ])('reads Retry-After %j as %j ms', (header, expected) => {
    expect(new ApiError('GET /x', 429, '', header).retryAfterMs).toBe(expected);
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
