import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readElf, strip, writeRuntime } from '../../../scripts/rootfs.ts';

function temporary(): string {
  const dir = mkdtempSync(join(tmpdir(), 'pco-rootfs-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

describe.runIf(process.platform === 'linux')('the ELF file of this Node', () => {
  const node = readFileSync(process.execPath);
  const { sharedObjects } = process.report.getReport() as { sharedObjects: string[] };
  const loaded = sharedObjects.map(path => basename(path));

  it('names its loader and libraries, which are those that are loaded', () => {
    const { interpreter, needed } = readElf(node);
    expect(needed).toContain('libc.so.6');
    expect(loaded).toEqual(expect.arrayContaining([...needed, basename(interpreter ?? '')]));
  });

  it('runs as it did, and is smaller, without what is not loaded', () => {
    const file = join(temporary(), 'node');
    const stripped = strip(node);
    writeFileSync(file, stripped);
    chmodSync(file, 0o755);
    expect(stripped.length).toBeLessThan(node.length);
    expect(readElf(stripped)).toEqual(readElf(node));
    // Of sections that are no longer there, nothing is told.
    expect([stripped.readBigUInt64LE(40), stripped.readUInt32LE(60)]).toEqual([0n, 0]);
    const { stdout } = spawnSync(
      file,
      ['-p', '[process.version, crypto.randomUUID().length, new Intl.DateTimeFormat("de").format(0)].join()'],
      {
        encoding: 'utf8',
      },
    );
    expect(stdout).toBe(`${process.version},36,1.1.1970\n`);
  });

  it('gives the same bytes when it was stripped before', () => {
    expect(strip(strip(node)).equals(strip(node))).toBe(true);
  });
});

it.each([
  ['a script', Buffer.from('#!/bin/sh\n'.repeat(20))],
  ['a file that is too short', Buffer.from('\x7fELF\x02\x01')],
  ['a 32-bit program', Buffer.concat([Buffer.from('\x7fELF\x01\x01'), Buffer.alloc(100)])],
])('%s is not read as ELF', (_name, file) => {
  expect(() => readElf(file)).toThrow('not a 64-bit little-endian ELF file');
});

/** A base image with a Node that is its headers alone: what it needs, and the version that it tells. */
function makeBase(options: { needed?: string[]; machine?: number; version?: string } = {}): string {
  const base = temporary();
  const put = (path: string, content: string | Buffer): void => {
    mkdirSync(join(base, dirname(path)), { recursive: true });
    writeFileSync(join(base, path), content);
  };
  const { needed = ['libc.so.6'], machine = 62, version = process.version } = options;
  put(
    'usr/local/bin/node',
    elf({ interpreter: '/lib64/ld-linux-x86-64.so.2', needed, machine, tail: `node.js/${version}` }),
  );
  put('usr/local/LICENSE', 'licence of Node');
  put('usr/lib/x86_64-linux-gnu/libc-2.36.so', elf({ needed: ['ld-linux-x86-64.so.2'] }));
  put('usr/lib/x86_64-linux-gnu/ld-2.36.so', elf({ needed: [] }));
  put('usr/share/doc/libc6/copyright', 'licence of libc');
  put('usr/lib/os-release', 'ID=debian\nVERSION_ID="12"\n');
  // As merged /usr has it: links that lead elsewhere unless they are followed within the base.
  mkdirSync(join(base, 'usr/lib64'));
  mkdirSync(join(base, 'etc'));
  for (const [path, target] of Object.entries({
    lib: 'usr/lib',
    lib64: '/usr/lib64',
    'usr/lib64/ld-linux-x86-64.so.2': '/lib/x86_64-linux-gnu/ld-2.36.so',
    'usr/lib/x86_64-linux-gnu/libc.so.6': 'libc-2.36.so',
    'etc/os-release': '../usr/lib/os-release',
  }))
    symlinkSync(target, join(base, path));
  put(
    'var/lib/dpkg/info/libc6:amd64.list',
    '/.\n/lib/x86_64-linux-gnu/ld-2.36.so\n/lib/x86_64-linux-gnu/libc-2.36.so\n',
  );
  put(
    'var/lib/dpkg/status',
    'Package: other\nVersion: 1\n\nPackage: libc6\nStatus: install ok installed\nVersion: 1:2.36-9+deb12u1\n',
  );
  return base;
}

/** An ELF file of one segment, that holds all. */
function elf(has: { interpreter?: string; needed: string[]; machine?: number; tail?: string }): Buffer {
  const { interpreter = '', needed, machine = 62, tail = '' } = has;
  const strings = `\0${needed.map(name => `${name}\0`).join('')}`;
  const entries = needed.map(name => [1, strings.indexOf(`\0${name}\0`) + 1]);
  const [headers, dynamicAt] = [3, 64 + 3 * 56];
  const stringsAt = dynamicAt + (entries.length + 2) * 16;
  const interpreterAt = stringsAt + strings.length;
  const text = Buffer.from(`${strings}${interpreter}\0${tail}`);
  const file = Buffer.alloc(stringsAt + text.length);
  file.write('\x7fELF\x02\x01', 'latin1');
  file.writeUInt16LE(machine, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(headers, 56);
  // Loaded elsewhere than where it is in the file.
  const address = 0x40_0000;
  const segments = [
    { type: 1, offset: 0, size: file.length },
    { type: 2, offset: dynamicAt, size: (entries.length + 2) * 16 },
    { type: interpreter === '' ? 0 : 3, offset: interpreterAt, size: interpreter.length + 1 },
  ];
  for (const [index, { type, offset, size }] of segments.entries()) {
    const at = 64 + index * 56;
    file.writeUInt32LE(type, at);
    for (const [field, value] of [
      [8, offset],
      [16, address + offset],
      [32, size],
    ] as const)
      file.writeBigUInt64LE(BigInt(value), at + field);
  }
  for (const [index, [tag = 0, value = 0]] of [...entries, [5, address + stringsAt]].entries()) {
    file.writeBigUInt64LE(BigInt(tag), dynamicAt + index * 16);
    file.writeBigUInt64LE(BigInt(value), dynamicAt + index * 16 + 8);
  }
  text.copy(file, stringsAt);
  return file;
}

describe('what the runtime is taken from', () => {
  it('gives Node and what it needs, links followed within it, and the packages that these are of', () => {
    const to = temporary();
    expect(writeRuntime(makeBase(), to)).toEqual([
      {
        name: 'libc6',
        version: '1:2.36-9+deb12u1',
        comment: 'See /usr/share/doc/libc6/copyright in the image.',
        purl: 'pkg:deb/debian/libc6@1%3A2.36-9%2Bdeb12u1?arch=amd64',
        kind: 'runtime',
      },
    ]);
    const read = (path: string): string => readFileSync(join(to, path), 'utf8');
    expect(readElf(readFileSync(join(to, 'usr/local/bin/node'))).needed).toEqual(['libc.so.6']);
    expect(readElf(readFileSync(join(to, 'lib/x86_64-linux-gnu/libc.so.6'))).needed).toEqual(['ld-linux-x86-64.so.2']);
    expect(readElf(readFileSync(join(to, 'lib64/ld-linux-x86-64.so.2'))).needed).toEqual([]);
    expect(read('etc/passwd')).toMatch(/^nonroot:x:65532:65532:/);
    expect(read('etc/ssl/certs/ca-certificates.crt').match(/BEGIN CERTIFICATE/g)?.length).toBeGreaterThan(100);
    expect(read('usr/share/doc/libc6/copyright')).toBe('licence of libc');
    expect(read('usr/share/doc/node/LICENSE')).toBe('licence of Node');
    expect(read('var/lib/dpkg/status.d/libc6')).toMatch(/^Package: libc6\n/);
  });

  it('gives the licence of a package that is made of the same source, where a package has none', () => {
    const base = makeBase();
    mkdirSync(join(base, 'usr/share/doc/libc-bin'));
    renameSync(join(base, 'usr/share/doc/libc6/copyright'), join(base, 'usr/share/doc/libc-bin/copyright'));
    expect(() => writeRuntime(base, temporary())).toThrow('has no licence of libc6');
    const status = join(base, 'var/lib/dpkg/status');
    const text = readFileSync(status, 'utf8').replace('Package: libc6\n', 'Package: libc6\nSource: glibc (2.36-9)\n');
    writeFileSync(status, `${text}\nPackage: libc-bin\nSource: glibc\nVersion: 1\n`);
    const to = temporary();
    writeRuntime(base, to);
    expect(readFileSync(join(to, 'usr/share/doc/libc6/copyright'), 'utf8')).toBe('licence of libc');
  });

  it.each([
    ['has another Node than the one that builds', { version: 'v1.2.3' }, `is not Node ${process.version}`],
    [
      'lacks a library',
      { needed: ['libnone.so.1'] },
      'has no libnone.so.1: looked for /lib/x86_64-linux-gnu/libnone.so.1',
    ],
    [
      'is for a machine that the image is not made for',
      { machine: 243 },
      'is for the ELF machine 243: amd64 and arm64',
    ],
  ])('is refused when it %s', (_what, options, message) => {
    const base = makeBase(options);
    expect(() => writeRuntime(base, temporary())).toThrow(message);
  });

  it('is refused when a library is of no package', () => {
    const base = makeBase();
    rmSync(join(base, 'var/lib/dpkg'), { recursive: true });
    expect(() => writeRuntime(base, temporary())).toThrow(/ld-2\.36\.so of .* is of no Debian package/);
  });

  it('is refused when it has no Node', () => {
    expect(() => writeRuntime(temporary(), temporary())).toThrow(
      'has no Node: looked for /usr/local/bin/node, /usr/bin/node',
    );
  });
});
