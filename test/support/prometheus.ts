/** A real Prometheus that scrapes what a test tells it to, and answers queries. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dump } from 'js-yaml';
import { resolveBinaries } from '../cluster/binaries.ts';
import { startDaemon, until } from '../cluster/process.ts';

/** A series with its newest value. */
export interface Sample {
  metric: Record<string, string>;
  value: number;
}

export interface Rule {
  name: string;
  state: string;
  health: string;
  lastError?: string;
}

export interface Prometheus {
  /** Throws what Prometheus has against the query. */
  query(expr: string): Promise<Sample[]>;
  rules(): Promise<Rule[]>;
  close(): Promise<void>;
}

/** Starts it at a free port; resolves when it is ready. It scrapes every 500 ms, and so often evaluates `rules`. */
export async function startPrometheus(options: {
  target: string;
  labels: Record<string, string>;
  rules: string;
}): Promise<Prometheus> {
  const { target, labels, rules } = options;
  const { signal } = new AbortController();
  const { prometheus: command } = await resolveBinaries(['prometheus'], { signal, progress: console.log });
  const dir = mkdtempSync(join(tmpdir(), 'pco-prometheus-'));
  const interval = '500ms';
  const { job, ...others } = labels;
  const config = {
    global: { scrape_interval: interval, scrape_timeout: interval, evaluation_interval: interval },
    rule_files: [rules],
    scrape_configs: [{ job_name: job, static_configs: [{ targets: [target], labels: others }] }],
  };
  writeFileSync(join(dir, 'prometheus.yaml'), dump(config));
  const daemon = startDaemon({
    name: 'prometheus',
    command,
    args: [
      `--config.file=${join(dir, 'prometheus.yaml')}`,
      `--storage.tsdb.path=${join(dir, 'data')}`,
      '--web.listen-address=127.0.0.1:0',
    ],
    log: join(dir, 'log'),
  });
  const close = async (): Promise<void> => {
    await daemon.kill();
    rmSync(dir, { recursive: true, force: true });
  };

  async function get<T>(url: string): Promise<T> {
    const response = await fetch(url);
    const answer = (await response.json()) as { status: string; error?: string; data: T };
    if (answer.status !== 'success') throw new Error(`${decodeURIComponent(url)}: ${answer.error}`);
    return answer.data;
  }

  try {
    const base = await until(
      'Prometheus to listen',
      async () => {
        const [, address] = /msg="Listening on".* address=(\S+)/.exec(readFileSync(daemon.log, 'utf8')) ?? [];
        return address && (await fetch(`http://${address}/-/ready`)).ok && `http://${address}/api/v1`;
      },
      { signal: daemon.ended, timeoutMs: 30_000 },
    );
    return {
      async query(expr) {
        const { result } = await get<{ result: { metric: Sample['metric']; value: [number, string] }[] }>(
          `${base}/query?query=${encodeURIComponent(expr)}`,
        );
        return result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }));
      },
      async rules() {
        const { groups } = await get<{ groups: { rules: Rule[] }[] }>(`${base}/rules`);
        return groups.flatMap(each => each.rules);
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
