/** What the bridge and its server say, in the Pod's log, without what the environment holds of secrets. */

import { pino } from 'pino';
import { secretsOf, withoutSecrets } from '../probe/text.ts';

export interface Log {
  /** A text without secrets, for who is not to read the log. */
  clean(text: string): string;
  /** A line of the server's own: as it is, so that whoever reads logs of that server can read this one. */
  line(text: string): void;
  info(message: string, facts?: object): void;
  warn(message: string, facts?: object): void;
  /** The last one: it says why the bridge ends. */
  fatal(message: string): void;
}

/** Cut after it was cleaned: a secret must not be cut in two. */
const MOST_LINE = 8 * 1024;
/** Variables that everybody has and that hold no secret. */
const KNOWN = /^(PATH|HOME|HOSTNAME|PWD|OLDPWD|TERM|LANG|LC_.*|TZ|SHLVL|NODE_ENV|PYTHON.*|KUBERNETES_.*)$/;

/** `plain`: variables beside well-known ones that hold no secret. */
export function createLog(
  env: NodeJS.ProcessEnv,
  plain: readonly string[],
  write: (text: string) => void = text => void process.stdout.write(text),
): Log {
  const values = Object.entries(env).filter(([name]) => !KNOWN.test(name) && !plain.includes(name));
  const secrets = secretsOf(values.map(([, value = '']) => value));
  const clean = (text: string): string => withoutSecrets(text, secrets);
  const log = pino(
    { base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: level => ({ level }) } },
    { write: text => write(clean(text)) },
  );
  return {
    clean,
    line: text => write(`${clean(text).slice(0, MOST_LINE)}\n`),
    info: (message, facts) => log.info(facts ?? {}, message),
    warn: (message, facts) => log.warn(facts ?? {}, message),
    fatal: message => log.fatal(message),
  };
}
