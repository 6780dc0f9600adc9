import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { keyOf } from '../../../src/api/meta.ts';
import { type Namespaces, watchNamespaces } from '../../../src/connector/namespaces.ts';
import { CONFIG_MAPS, SECRETS } from '../../../src/connector/references.ts';
import { createStores } from '../../../src/connector/stores.ts';
import { INITIAL_EVENTS_END, type KubeClient } from '../../../src/kube/client.ts';
import { ApiError } from '../../../src/kube/errors.ts';
import { fakeClient, makeConnector } from '../support.ts';

vi.mock('node:timers/promises', () => import('../timers.ts'));

const NEEDED = [
  'deployments',
  'services',
  'networkpolicies',
  'poddisruptionbudgets',
  'pods',
  'personalconnectors',
] as const;

/** What a watch is answered with: all that there is, an error, or nothing at all. */
type Answer = 'told' | 'silent' | number;

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
const MINUTE = 60_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** A server that answers as `answers` says, for `namespace/resource`, `namespace` or else with all: a connector in each. */
function make(
  names: string[],
  answers: Record<string, Answer> = {},
  references: (typeof SECRETS | typeof CONFIG_MAPS)[] = [],
) {
  const asked: string[] = [];
  const queued: string[] = [];
  const turns: string[] = [];
  const refusals: object[] = [];
  const errors: string[] = [];
  const ends: (() => void)[] = [];
  const abort = new AbortController();
  const stores = createStores();
  const watch: KubeClient['watch'] = async ({ plural }, { namespace }, signal) => {
    const at = `${namespace ?? '*'}/${plural}`;
    asked.push(at);
    const answer = answers[at] ?? answers[namespace ?? '*'] ?? 'told';
    if (typeof answer === 'number') throw new ApiError(`GET ${at}`, answer, '{}');
    const lines: object[] = [];
    if (plural === 'personalconnectors') {
      const metadata = { name: 'mine', namespace: namespace ?? 'team', resourceVersion: '5' };
      lines.push({ type: 'ADDED', object: makeConnector('aitronos_built', {}, { metadata }) });
    }
    const end = { resourceVersion: '7', annotations: { [INITIAL_EVENTS_END]: 'true' } };
    lines.push({ type: 'BOOKMARK', object: { metadata: end } });
    async function* stream(): AsyncGenerator<Buffer> {
      if (answer === 'told') yield Buffer.from(lines.map(line => `${JSON.stringify(line)}\n`).join(''));
      await new Promise<void>(resolve => {
        ends.push(resolve);
        signal.addEventListener('abort', () => resolve());
      });
    }
    return stream();
  };
  const namespaces: Namespaces = watchNamespaces(stores, {
    names,
    references,
    client: fakeClient({ watch }),
    signal: abort.signal,
    enqueue: (key, priority, cause) => void queued.push(`${key} ${priority} ${cause}`),
    onError: (resource, error) => void errors.push(`${resource}: ${(error as Error).message}`),
    onTurn: (namespace, isOpen) => void turns.push(`${namespace ?? '*'} ${isOpen ? 'opened' : 'closed'}`),
    onRefused: ({ error, ...refusal }) => void refusals.push(refusal),
  });
  let ready = false;
  void namespaces.ready.then(() => {
    ready = true;
  });
  return {
    namespaces,
    stores,
    answers,
    asked,
    queued,
    turns,
    refusals,
    errors,
    isReady: () => ready,
    /** Ends all streams in order, so that each is opened anew. */
    end: () => {
      for (const end of ends.splice(0)) end();
    },
    async stop() {
      abort.abort();
      await namespaces.done;
    },
  };
}

describe('the watches', () => {
  it('are one of each resource for all namespaces where none is named', async () => {
    const { namespaces, asked, turns, stores, isReady, stop } = make([]);
    await pass(0);
    expect(asked).toEqual(NEEDED.map(resource => `*/${resource}`));
    expect([isReady(), turns, namespaces.isOpen('any')]).toEqual([true, ['* opened'], true]);
    expect([...stores.connectors.values()].map(keyOf)).toEqual(['team/mine']);
    await stop();
  });

  it('are one of each resource in each namespace that is named, and none of all', async () => {
    const { namespaces, asked, turns, stores, isReady, stop } = make(['a', 'b'], {}, [SECRETS]);
    await pass(0);
    expect(asked).toEqual(['a', 'b'].flatMap(name => [...NEEDED, 'secrets'].map(resource => `${name}/${resource}`)));
    expect([isReady(), turns]).toEqual([true, ['a opened', 'b opened']]);
    expect(['a', 'b', 'c'].map(namespaces.isOpen)).toEqual([true, true, false]);
    expect([...stores.connectors.values()].map(keyOf)).toEqual(['a/mine', 'b/mine']);
    await stop();
  });
});

describe('a namespace', () => {
  it.each(NEEDED)('is not open before all %s there are told, and the operator not ready', async resource => {
    const { namespaces, isReady, turns, stop } = make(['a', 'b'], { [`a/${resource}`]: 'silent' });
    await pass(1_000);
    expect([isReady(), turns, ['a', 'b'].map(namespaces.isOpen)]).toEqual([false, ['b opened'], [false, true]]);
    await stop();
  });

  it.each(NEEDED)(
    'whose %s are refused keeps the operator from no other, and is opened when it may be looked at',
    async resource => {
      const { namespaces, answers, isReady, turns, refusals, errors, stop } = make(['a', 'b'], {
        [`a/${resource}`]: 403,
      });
      await pass(1_000);
      expect([isReady(), turns, ['a', 'b'].map(namespaces.isOpen)]).toEqual([true, ['b opened'], [false, true]]);
      expect([refusals, errors]).toEqual([[{ namespace: 'a', resources: [resource], isOpen: false }], []]);
      answers[`a/${resource}`] = 'told';
      await pass(MINUTE);
      expect([turns, namespaces.isOpen('a')]).toEqual([['b opened', 'a opened'], true]);
      await stop();
    },
  );

  it('that is broken in another way is waited for, and that is told each time', async () => {
    const { isReady, turns, refusals, errors, stop } = make(['a', 'b'], { 'a/pods': 500 });
    await pass(1_000);
    expect([isReady(), turns, refusals]).toEqual([false, ['b opened'], []]);
    expect(errors).toEqual(['pods: GET a/pods: 500 without a message', 'pods: GET a/pods: 500 without a message']);
    await stop();
  });

  it('is closed when it may be looked at no more, and opened again when it may', async () => {
    const { namespaces, answers, turns, refusals, end, stop } = make(['a', 'b']);
    await pass(MINUTE);
    answers['a/pods'] = 403;
    end();
    await pass(1_000);
    expect([turns.slice(2), ['a', 'b'].map(namespaces.isOpen)]).toEqual([['a closed'], [false, true]]);
    expect(refusals).toEqual([{ namespace: 'a', resources: ['pods'], isOpen: false }]);
    answers['a/pods'] = 'told';
    await pass(MINUTE);
    expect([turns.slice(3), namespaces.isOpen('a')]).toEqual([['a opened'], true]);
    // Soon after, and yet it is news.
    answers['a/pods'] = 403;
    end();
    await pass(1_000);
    expect(refusals).toHaveLength(2);
    await stop();
  });

  it('alone, or with others of which none may be looked at, leaves the operator unready', async () => {
    for (const names of [[], ['a'], ['a', 'b']]) {
      const { answers, isReady, stop } = make(names, { a: 403, b: 403, '*': 403 });
      await pass(1_000);
      expect(isReady()).toBe(false);
      answers.a = 'told';
      answers['*'] = 'told';
      await pass(MINUTE);
      expect(isReady()).toBe(true);
      await stop();
    }
  });
});

describe('a refusal', () => {
  it('is told with all that is refused, and then every ten minutes as long as it lasts', async () => {
    const { refusals, asked, stop } = make(['a', 'b'], { a: 403 }, [SECRETS, CONFIG_MAPS]);
    await pass(1_000);
    const resources = [...NEEDED, 'secrets', 'configmaps'];
    expect(refusals).toEqual([{ namespace: 'a', resources, isOpen: false }]);
    await pass(9 * MINUTE);
    expect([refusals.length, asked.length > 80]).toEqual([1, true]);
    await pass(2 * MINUTE);
    expect(refusals).toHaveLength(2);
    await pass(30 * MINUTE);
    expect(refusals.length).toBeGreaterThanOrEqual(4);
    expect(refusals.length).toBeLessThanOrEqual(5);
    await stop();
  });

  it('is told although something else of that namespace gets no answer', async () => {
    const { refusals, stop } = make(['a', 'b'], { 'a/services': 403, 'a/pods': 'silent' });
    await pass(5_000);
    expect(refusals).toEqual([]);
    await pass(2 * MINUTE);
    expect(refusals).toEqual([{ namespace: 'a', resources: ['services'], isOpen: false }]);
    await stop();
  });

  it('of what probes and hosted servers read closes nothing', async () => {
    const { namespaces, isReady, refusals, turns, stores, stop } = make(['a', 'b'], { 'a/secrets': 403 }, [SECRETS]);
    await pass(1_000);
    expect([isReady(), turns, namespaces.isOpen('a')]).toEqual([true, ['a opened', 'b opened'], true]);
    expect(refusals).toEqual([{ namespace: 'a', resources: ['secrets'], isOpen: true }]);
    expect(['a', 'b'].map(stores.references.Secret.filledIn)).toEqual([false, true]);
    await stop();
  });
});

describe('a watch that nothing comes from', () => {
  it.each<[Answer, string | undefined]>([
    ['silent', 'a/pods'],
    [500, 'a/pods'],
    [403, undefined],
    ['told', undefined],
  ])('when it is answered %j is dead after ten minutes: %s', async (answer, expected) => {
    const { namespaces, stop, end } = make(['a', 'b'], { 'a/pods': answer, 'b/secrets': 'silent' }, [SECRETS]);
    const dead = (): string | undefined => {
      const found = namespaces.silent(10 * MINUTE);
      return found && `${found.namespace}/${found.resource}`;
    };
    for (let minute = 0; minute < 10; minute += 1) {
      await pass(MINUTE);
      end();
    }
    expect(dead()).toBeUndefined();
    await pass(MINUTE);
    expect(dead()).toBe(expected);
    await stop();
  });
});

describe('the Secrets of a namespace', () => {
  it('wake its connectors that name some once all are told, and no others', async () => {
    const { answers, queued, stop } = make(['a', 'b'], { 'a/secrets': 403, 'b/secrets': 403 }, [SECRETS]);
    await pass(0);
    expect(queued).toEqual([]);
    answers['a/secrets'] = 'told';
    await pass(MINUTE);
    expect(queued).toEqual(['a/mine low Secret']);
    await stop();
  });
});
