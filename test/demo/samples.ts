/** manifests/samples: each says in its comment what becomes of it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadAll } from 'js-yaml';
import type { PersonalConnector } from '../../src/api/connector.ts';
import type { Declared } from '../../src/api/meta.ts';

export interface Expectation {
  status: string;
  reason: string;
}

export interface Sample {
  file: string;
  connector: PersonalConnector;
  /** Everything in the file, the connector included. */
  objects: Declared[];
  expected: Expectation;
}

/** Reads all samples. Throws when one does not say what to expect. `internet`: whether the cluster can reach it. */
export function readSamples(root: string, internet: boolean): Sample[] {
  const dir = join(root, 'manifests', 'samples');
  return readdirSync(dir)
    .filter(name => name.endsWith('.yaml'))
    .sort()
    .map(name => {
      const text = readFileSync(join(dir, name), 'utf8');
      const objects = loadAll(text) as Declared[];
      const connector = objects.find(({ kind }) => kind === 'PersonalConnector') as PersonalConnector | undefined;
      if (!connector) throw new Error(`manifests/samples/${name} holds no PersonalConnector`);
      return { file: `manifests/samples/${name}`, connector, objects, expected: expectation(name, text, internet) };
    });
}

function expectation(name: string, text: string, internet: boolean): Expectation {
  const said = (when: string) => new RegExp(`^# expect${when}: Ready=(True|False|Unknown) (\\w+)$`, 'm').exec(text);
  const [, status, reason] = (internet && said(' with --internet')) || said('') || [];
  if (!status || !reason)
    throw new Error(`manifests/samples/${name} needs a comment such as "# expect: Ready=True Ready"`);
  return { status, reason };
}
