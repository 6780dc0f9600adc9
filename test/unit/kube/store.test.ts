import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Change, createStore, isNewer } from '../../../src/kube/store.ts';

interface Thing {
  metadata: { name: string; namespace: string; uid: string; resourceVersion: string };
  tags: string[];
}

const thing = (name: string, version: number, tags: string[] = [], uid = `uid-${name}`, namespace = 'n'): Thing => ({
  metadata: { name, namespace, uid, resourceVersion: String(version) },
  tags,
});

function make() {
  const store = createStore<Thing, 'tag'>({ tag: ({ tags }) => tags });
  const told: string[] = [];
  const describeOne = (object: Thing | undefined): string => object?.metadata.resourceVersion ?? '-';
  store.subscribe(({ previous, current }: Change<Thing>) => {
    const { name } = (current ?? previous ?? thing('?', 0)).metadata;
    told.push(`${name} ${describeOne(previous)}>${describeOne(current)}`);
  });
  const tagged = (tag: string): string[] => store.byIndex('tag', tag).map(({ metadata }) => metadata.name);
  const versions = (): string[] =>
    [...store.values()].map(({ metadata }) => `${metadata.name}@${metadata.resourceVersion}`);
  return { store, told, tagged, versions };
}

describe('isNewer', () => {
  it.each([
    ['2', '1', true],
    ['1', '2', false],
    ['5', '5', false],
    ['10', '9', true],
    ['9', '10', false],
    ['9007199254740993', '9007199254740992', true],
    ['1', '0', true],
  ])('of %s to %s is %s', (a, b, expected) => {
    expect(isNewer(a, b)).toBe(expected);
  });
});

describe('an index', () => {
  it('follows an object as its values change', () => {
    const { store, tagged } = make();
    store.upsert(thing('a', 1, ['red', 'big']));
    store.upsert(thing('b', 2, ['red']));
    expect([tagged('red'), tagged('big'), tagged('none')]).toEqual([['a', 'b'], ['a'], []]);
    store.upsert(thing('a', 3, ['blue']));
    expect([tagged('red'), tagged('big'), tagged('blue')]).toEqual([['b'], [], ['a']]);
    store.remove(thing('a', 4, ['blue']));
    expect([tagged('red'), tagged('blue')]).toEqual([['b'], []]);
  });

  it('follows what was written', () => {
    const { store, tagged } = make();
    store.upsert(thing('a', 1, ['red']));
    store.written(thing('a', 2, ['blue']));
    expect([tagged('red'), tagged('blue')]).toEqual([[], ['a']]);
  });

  it('follows a new list', () => {
    const { store, tagged } = make();
    store.replace([thing('a', 1, ['red']), thing('b', 2, ['red'])], '2');
    store.replace([thing('b', 3, ['blue'])], '4');
    expect([tagged('red'), tagged('blue')]).toEqual([[], ['b']]);
  });
});

describe('what a write answered', () => {
  it('is there at once and told to no subscriber, nor is its echo', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1));
    store.written(thing('a', 2));
    expect(store.get('n/a')?.metadata.resourceVersion).toBe('2');
    store.upsert(thing('a', 2));
    expect(told).toEqual(['a ->1']);
  });

  it('is ignored when the watch has told something newer of the object', () => {
    const { store } = make();
    store.upsert(thing('a', 5));
    store.written(thing('a', 4));
    expect(store.get('n/a')?.metadata.resourceVersion).toBe('5');
  });

  it('is not outdone by an older event of the watch', () => {
    const { store } = make();
    store.written(thing('a', 5));
    store.upsert(thing('a', 3));
    expect(store.get('n/a')?.metadata.resourceVersion).toBe('5');
  });

  it('makes no ghost of an object that the watch has told to be gone', () => {
    const { store } = make();
    store.upsert(thing('a', 5));
    store.remove(thing('a', 7));
    store.written(thing('a', 6));
    expect(store.get('n/a')).toBeUndefined();
  });

  it('makes no ghost of an object that went before a list', () => {
    const { store } = make();
    store.replace([], '9');
    store.written(thing('a', 8));
    expect(store.size()).toBe(0);
  });

  it('makes no ghost of an object that went before a bookmark', () => {
    const { store } = make();
    store.progress('9');
    store.written(thing('a', 8));
    expect(store.size()).toBe(0);
    store.written(thing('a', 10));
    expect(store.size()).toBe(1);
  });

  it('stays when an older object of its name goes', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1, [], 'first'));
    store.written(thing('a', 8, [], 'second'));
    store.remove(thing('a', 7, [], 'first'));
    expect(store.get('n/a')?.metadata.uid).toBe('second');
    expect(told).toEqual(['a ->1', 'a 1>8']);
  });
});

describe('a change of somebody else that came with what we wrote', () => {
  it('is told once the watch brings it, as a change from what was told before', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1));
    store.written(thing('a', 3));
    store.upsert(thing('a', 2));
    store.upsert(thing('a', 3));
    expect(told).toEqual(['a ->1', 'a 1>3']);
  });

  it('is told when the watch was replaced by a list, which may leave it out', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1));
    store.written(thing('a', 3));
    store.replace([thing('a', 3)], '3');
    store.replace([thing('a', 3)], '4');
    expect(told).toEqual(['a ->1', 'a 1>3']);
  });

  it('is told when it is the end of what we made, before any watch told of that', () => {
    const { store, told } = make();
    store.written(thing('a', 3));
    store.replace([], '4');
    store.written(thing('b', 5));
    store.remove(thing('b', 6));
    expect(told).toEqual(['a 3>-', 'b 5>-']);
  });

  it('is told after several writes as one change', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1));
    store.written(thing('a', 3));
    store.written(thing('a', 5));
    store.replace([thing('a', 6)], '6');
    expect(told).toEqual(['a ->1', 'a 1>6']);
  });
});

describe('replace', () => {
  it('tells what is new, changed and gone, and nothing of what is the same', () => {
    const { store, told, versions } = make();
    for (const object of [thing('same', 1), thing('changed', 2), thing('gone', 3)]) store.upsert(object);
    told.length = 0;
    store.replace([thing('same', 1), thing('changed', 4), thing('new', 5)], '6');
    expect(told).toEqual(['gone 3>-', 'changed 2>4', 'new ->5']);
    expect(versions()).toEqual(['same@1', 'changed@4', 'new@5']);
  });

  it('keeps what was written after the list was made', () => {
    const { store, versions } = make();
    store.written(thing('created', 8));
    store.upsert(thing('changed', 2));
    store.written(thing('changed', 9));
    store.replace([thing('changed', 2)], '7');
    expect(versions().sort()).toEqual(['changed@9', 'created@8']);
  });

  it('shows a handler the store as it is after the change that it is told', () => {
    const { store } = make();
    const sizes: number[] = [];
    store.subscribe(() => void sizes.push(store.size()));
    store.replace([thing('a', 1), thing('b', 2)], '2');
    store.replace([], '3');
    expect(sizes).toEqual([1, 2, 1, 0]);
  });
});

describe('replace, when the server was set back', () => {
  it('leaves what the list says, older or not, and tells what that changes', () => {
    const { store, told, versions } = make();
    for (const object of [thing('same', 3), thing('changed', 8), thing('made', 9)]) store.upsert(object);
    told.length = 0;
    store.replace([thing('same', 3), thing('changed', 2), thing('gone', 4)], '5');
    expect(told).toEqual(['made 9>-', 'same 3>3', 'changed 8>2', 'gone ->4']);
    expect(versions().sort()).toEqual(['changed@2', 'gone@4', 'same@3']);
  });

  it('drops what was written before, which never was by now', () => {
    const { store, versions } = make();
    store.upsert(thing('a', 3));
    store.written(thing('a', 9));
    store.written(thing('b', 10));
    store.progress('11');
    store.replace([thing('a', 3)], '5');
    expect(versions()).toEqual(['a@3']);
  });

  it('keeps indexes in step', () => {
    const { store, tagged } = make();
    store.upsert(thing('a', 9, ['new']));
    store.upsert(thing('b', 10, ['new']));
    store.replace([thing('a', 2, ['old'])], '5');
    expect([tagged('new'), tagged('old')]).toEqual([[], ['a']]);
  });

  it('goes on from there: later events and writes count, although they are older than what there was', () => {
    const { store, versions } = make();
    store.upsert(thing('a', 90));
    store.replace([thing('a', 2)], '5');
    store.upsert(thing('a', 6));
    store.written(thing('b', 7));
    store.upsert(thing('c', 8));
    store.remove(thing('c', 9));
    store.written(thing('c', 8));
    expect(versions()).toEqual(['a@6', 'b@7']);
  });

  it('takes what was told of another time line for what it is: the same version may be another object', () => {
    const { store, told } = make();
    store.upsert(thing('a', 4, ['first']));
    store.progress('9');
    told.length = 0;
    store.replace([thing('a', 4, ['second'])], '5');
    expect([told, store.get('n/a')?.tags]).toEqual([['a 4>4'], ['second']]);
  });

  it('and has caught up meanwhile: a complete list is right about all that is not newer than it', () => {
    const { store, versions } = make();
    store.upsert(thing('a', 90));
    store.upsert(thing('b', 80));
    store.progress('100');
    // Restored to 50, and written to since.
    store.replace([thing('a', 40), thing('b', 110)], '120');
    expect(versions().sort()).toEqual(['a@40', 'b@110']);
  });
});

describe('a namespace that is watched by itself', () => {
  const one = (name: string, version: number) => thing(name, version, [], `uid-${name}`, 'one');
  const other = (name: string, version: number) => thing(name, version, [], `uid-${name}`, 'other');

  it('is replaced alone', () => {
    const { store, told, versions } = make();
    store.within('one').replace([one('a', 3), one('b', 4)], '5');
    store.within('other').replace([other('a', 6)], '7');
    told.length = 0;
    store.within('one').replace([one('b', 8)], '9');
    expect(told).toEqual(['a 3>-', 'b 4>8']);
    expect(versions()).toEqual(['b@8', 'a@6']);
  });

  it('knows by itself how far it is: what is written there is taken although the other one is further', () => {
    const { store } = make();
    store.within('one').replace([], '5');
    store.within('other').replace([], '90');
    store.within('other').progress('100');
    store.written(one('a', 50));
    store.written(other('a', 50));
    expect([store.get('one/a'), store.get('other/a')]).toEqual([one('a', 50), undefined]);
    // A list there that is older than what the other one has told is no setback.
    store.within('one').replace([], '40');
    expect(store.get('one/a')).toEqual(one('a', 50));
  });

  it('is filled by itself; all are, where all are watched as one', () => {
    const { store } = make();
    const filled = () => ['one', 'other'].map(store.filledIn);
    store.within('one').upsert(one('a', 1));
    expect(filled()).toEqual([false, false]);
    store.within('one').replace([], '2');
    expect(filled()).toEqual([true, false]);
    store.replace([], '3');
    expect(filled()).toEqual([true, true]);
  });

  it('is kept as if there were no other, whatever is told and written in whatever order', () => {
    const NAMESPACES = ['n', 'm'];
    const step = fc.record({
      at: fc.constantFrom(...NAMESPACES),
      do: fc.constantFrom(
        'upsert' as const,
        'remove' as const,
        'replace' as const,
        'progress' as const,
        'written' as const,
      ),
      names: fc.subarray(['a', 'b', 'c'], { minLength: 1 }),
      version: fc.integer({ min: 1, max: 30 }),
      tags,
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const together = make();
        const alone = new Map(NAMESPACES.map(namespace => [namespace, make()]));
        const read = ({ store, tagged }: ReturnType<typeof make>, at: string) => ({
          objects: [...store.values()].filter(({ metadata }) => metadata.namespace === at),
          tagged: ['x', 'y', 'z'].map(tag => tagged(tag).length),
        });
        for (const { at, do: what, names, version, tags } of steps) {
          const { store } = alone.get(at) as ReturnType<typeof make>;
          const objects = names.map(name => thing(name, version, tags, `uid-${name}`, at));
          const told = together.told.length;
          const toldAlone = alone.get(at)?.told.length;
          for (const [target, view] of [
            [together.store, together.store.within(at)],
            [store, store],
          ] as const) {
            if (what === 'replace') view.replace(objects, String(version));
            else if (what === 'progress') view.progress(String(version));
            else for (const object of objects) (what === 'written' ? target : view)[what as 'upsert'](object);
          }
          expect(together.told.slice(told)).toEqual(alone.get(at)?.told.slice(toldAlone));
        }
        const [n, m] = NAMESPACES.map(at => read(alone.get(at) as ReturnType<typeof make>, at));
        expect(NAMESPACES.map(at => read(together, at).objects)).toEqual([n?.objects, m?.objects]);
        expect(read(together, 'n').tagged).toEqual(n?.tagged.map((count, index) => count + (m?.tagged[index] ?? 0)));
      }),
    );
  });
});

describe('remove', () => {
  it('of what is not there tells nothing', () => {
    const { store, told } = make();
    store.remove(thing('a', 1));
    expect(told).toEqual([]);
  });

  it('tells the object that went', () => {
    const { store, told } = make();
    store.upsert(thing('a', 1));
    store.remove(thing('a', 2));
    expect(told).toEqual(['a ->1', 'a 1>-']);
    expect(store.size()).toBe(0);
  });
});

const names = fc.constantFrom('a', 'b', 'c');
const tags = fc.subarray(['x', 'y', 'z']);

/** What is in the store, by way of its values and of its index. */
function contents({ store, tagged }: ReturnType<typeof make>) {
  return {
    objects: [...store.values()].map(({ metadata, tags }) => [metadata.name, metadata.resourceVersion, tags]).sort(),
    index: ['x', 'y', 'z'].map(tag => tagged(tag).sort()),
    size: store.size(),
  };
}

function expected(model: Map<string, Thing>) {
  const all = [...model.values()];
  return {
    objects: all.map(({ metadata, tags }) => [metadata.name, metadata.resourceVersion, tags]).sort(),
    index: ['x', 'y', 'z'].map(tag =>
      all
        .filter(({ tags }) => tags.includes(tag))
        .map(({ metadata }) => metadata.name)
        .sort(),
    ),
    size: all.length,
  };
}

describe('a store in step with a server', () => {
  it('equals a plain map after each upsert, remove and replace', () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('upsert' as const), name: names, tags }),
      fc.record({ do: fc.constant('remove' as const), name: names, tags }),
      fc.record({ do: fc.constant('replace' as const), keep: fc.subarray(['a', 'b', 'c']), tags }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const made = make();
        const model = new Map<string, Thing>();
        let version = 0;
        for (const step of steps) {
          version += 1;
          if (step.do === 'upsert') {
            model.set(step.name, thing(step.name, version, step.tags));
            made.store.upsert(thing(step.name, version, step.tags));
          } else if (step.do === 'remove') {
            model.delete(step.name);
            made.store.remove(thing(step.name, version, step.tags));
          } else {
            const list = step.keep.map(name => model.get(name) ?? thing(name, version, step.tags));
            model.clear();
            for (const object of list) model.set(object.metadata.name, object);
            made.store.replace(list, String(version));
          }
          expect(contents(made)).toEqual(expected(model));
        }
      }),
    );
  });

  it('equals it when the watch has told all, however late it was, whatever was written, and whenever it was set back', () => {
    const step = fc.oneof(
      fc.record({ do: fc.constantFrom('put' as const, 'delete' as const, 'write' as const), name: names, tags }),
      fc.record({ do: fc.constant('tell' as const), count: fc.nat(4) }),
      fc.record({ do: fc.constant('relist' as const) }),
      fc.record({ do: fc.constant('backup' as const) }),
      fc.record({ do: fc.constant('restore' as const) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), steps => {
        const made = make();
        const server = new Map<string, Thing>();
        /** The last change of each object by somebody else, and the last that subscribers were told. */
        const foreign = new Map<string, number>();
        const told = new Map<string, number>();
        made.store.subscribe(({ previous, current }) => {
          const { name, resourceVersion } = (current ?? previous ?? thing('?', 0)).metadata;
          told.set(name, current ? Number(resourceVersion) : Number.POSITIVE_INFINITY);
        });
        let version = 1;
        let untold: (() => void)[] = [];
        let backup = { objects: [...server], version };
        const tell = (count: number): void => {
          for (const event of untold.splice(0, count)) event();
        };
        for (const step of steps) {
          if (step.do === 'tell') tell(step.count);
          else if (step.do === 'relist') {
            untold = [];
            made.store.replace([...server.values()], String(version));
          } else if (step.do === 'backup') {
            backup = { objects: [...server], version };
          } else if (step.do === 'restore') {
            // What nobody was told of before could as well have been written after the list that follows.
            tell(untold.length);
            made.store.progress(String(version));
            server.clear();
            for (const [name, object] of backup.objects) server.set(name, object);
            version = backup.version;
            foreign.clear();
            // The reflector notices it, and reads all anew.
            untold = [];
            made.store.replace([...server.values()], String(version));
          } else {
            version += 1;
            const object = thing(step.name, version, step.tags);
            if (step.do !== 'write') foreign.set(step.name, version);
            if (step.do === 'delete') {
              if (!server.delete(step.name)) {
                foreign.delete(step.name);
                continue;
              }
              untold.push(() => made.store.remove(object));
            } else {
              server.set(step.name, object);
              untold.push(() => made.store.upsert(object));
              if (step.do === 'write') {
                made.store.written(object);
                // What was just written is what the next reconcile reads.
                expect(made.store.get(`n/${step.name}`)).toBe(object);
              }
            }
          }
        }
        tell(untold.length);
        expect(contents(made)).toEqual(expected(server));
        for (const [name, version] of foreign) {
          // Made and gone between two lists: nobody ever knew of it.
          if (server.has(name) || told.has(name)) expect(told.get(name)).toBeGreaterThanOrEqual(version);
        }
      }),
    );
  });
});

describe('regressions', () => {
  it('tells of a change by others that the answer of a later write of ours holds already', () => {
    // A person changes the spec (8) while our status write is on its way; its answer (9) holds both. Neither event of
    // the watch is told then, and the new generation is never reconciled.
    const { store, told } = make();
    store.upsert(thing('a', 7));
    told.length = 0;
    store.written(thing('a', 9));
    store.upsert(thing('a', 8));
    store.upsert(thing('a', 9));
    expect(told).not.toEqual([]);
  });
});
