import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { childName, credentialsSecret, labelValue, selectorLabels } from '../../../src/connector/names.ts';

const LABEL = /^[a-z]([a-z0-9-]*[a-z0-9])?$/;
const LABEL_VALUE = /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;

/** What may be a connector's name: a DNS subdomain (RFC 1123) of at most 253 characters. */
const names = fc
  .array(fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,70}[a-z0-9])?$/), { minLength: 1, maxLength: 6 })
  .map(parts =>
    parts
      .join('.')
      .slice(0, 253)
      .replace(/[.-]+$/, ''),
  );

/** Any code points; fc.string with `unit: 'binary'` takes seconds to begin. */
const texts = fc
  .array(fc.integer({ min: 0, max: 0x10ffff }), { maxLength: 300 })
  .map(points => String.fromCodePoint(...points));

describe('the name of a child', () => {
  it.each([
    ['clickup', 'clickup'],
    ['a', 'a'],
    ['a-1', 'a-1'],
    ['x'.repeat(63), 'x'.repeat(63)],
  ])('is the name of the connector %s where that is a label', (connector, expected) => {
    expect(childName(connector)).toBe(expected);
  });

  it.each([
    ['team.clickup', /^team-clickup-[0-9a-f]{10}$/],
    ['1password', /^password-[0-9a-f]{10}$/],
    ['123', /^c-[0-9a-f]{10}$/],
    ['x'.repeat(64), /^x{52}-[0-9a-f]{10}$/],
    [`${'x'.repeat(51)}.${'y'.repeat(20)}`, /^x{51}-[0-9a-f]{10}$/],
  ])('is a readable part of %s and a hash, else', (connector, expected) => {
    expect(childName(connector)).toMatch(expected);
  });

  it('is the same each time, since what exists is found by it', () => {
    expect(childName('team.clickup')).toBe('team-clickup-248d5a97cf');
  });

  it('is a valid label for any connector', () => {
    fc.assert(
      fc.property(names, name => {
        expect(name).toMatch(SUBDOMAIN);
        expect(childName(name)).toMatch(LABEL);
        expect(childName(name).length).toBeLessThanOrEqual(63);
      }),
    );
  });

  it('is another for another connector', () => {
    fc.assert(
      fc.property(fc.uniqueArray(names, { minLength: 2, maxLength: 5 }), all => {
        expect(new Set(all.map(childName)).size).toBe(all.length);
      }),
    );
  });

  it('tells connectors apart that differ only where it is cut or cleaned', () => {
    const all = ['a.b', 'a-b', 'a.b.', '1a', '2a', 'a', `${'x'.repeat(70)}a`, `${'x'.repeat(70)}b`];
    expect(new Set(all.map(childName)).size).toBe(all.length);
  });
});

describe('a label value', () => {
  it.each(['clickup', 'custom_mcp', '1.2.3', 'A.b_c-d', 'x'.repeat(63)])(
    'is the text %s itself where it is fit',
    text => {
      expect(labelValue(text)).toBe(text);
    },
  );

  it('is valid for any text', () => {
    fc.assert(
      fc.property(fc.oneof(names, fc.string({ maxLength: 300 }), texts), text => {
        expect(labelValue(text)).toMatch(LABEL_VALUE);
        expect(labelValue(text).length).toBeLessThanOrEqual(63);
      }),
    );
  });

  it('is another for another text', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.oneof(names, fc.string()), { minLength: 2, maxLength: 8 }), all => {
        expect(new Set(all.map(labelValue)).size).toBe(all.length);
      }),
    );
  });
});

describe('the Secret with credentials', () => {
  it('is named after the connector', () => {
    expect(credentialsSecret('clickup')).toBe('clickup-credentials');
    expect(credentialsSecret('team.clickup')).toBe('team.clickup-credentials');
  });

  it('has a valid name for any connector', () => {
    fc.assert(
      fc.property(names, name => {
        expect(credentialsSecret(name)).toMatch(SUBDOMAIN);
        expect(credentialsSecret(name).length).toBeLessThanOrEqual(253);
      }),
    );
  });

  it('is another for connectors whose names are too long to keep', () => {
    const [a, b] = ['a', 'b'].map(end => credentialsSecret(`${'x.'.repeat(125)}x${end}`));
    expect(a).not.toBe(b);
  });
});

describe('what selects Pods', () => {
  it('is the operator and the name of the connector', () => {
    expect(selectorLabels({ name: 'clickup' })).toEqual({
      'app.kubernetes.io/managed-by': 'personal-connector-operator',
      'connectors.aitronos.com/connector': 'clickup',
    });
  });
});

describe('regressions', () => {
  it.each([
    ['child names', childName, 'a.b'],
    ['label values', labelValue, 'x'.repeat(64)],
  ])('gives no two connectors the same of %s, also when one is called what another becomes', (_what, make, name) => {
    const namesake = make(name);
    expect(namesake).not.toBe(name);
    expect(make(namesake)).not.toBe(make(name));
  });

  it('keeps a version readable in its label, of which the digits come first', () => {
    expect(labelValue('1.2.0+build.5')).toMatch(/^1\.2\.0-build\.5-[0-9a-f]{10}$/);
  });
});
