import { defineConfig } from 'vitest/config';

const project = (name: string, options: object) => ({
  test: { name, include: [`test/${name}/**/*.test.ts`], ...options },
});

export default defineConfig({
  test: {
    projects: [
      project('unit', {}),
      project('zoo', {
        testTimeout: 30_000,
        // The first run installs the real servers.
        hookTimeout: 600_000,
      }),
      project('chart', {
        globalSetup: ['test/support/tools.setup.ts'],
        testTimeout: 60_000,
        hookTimeout: 60_000,
      }),
      project('api', {
        globalSetup: ['test/support/tools.setup.ts', 'test/support/control-plane.setup.ts'],
        testTimeout: 60_000,
        hookTimeout: 60_000,
      }),
      project('faults', {
        globalSetup: ['test/support/control-plane.setup.ts'],
        // Hundreds of operators live and die in some of them.
        testTimeout: 600_000,
        hookTimeout: 60_000,
      }),
      project('cluster', { testTimeout: 300_000, hookTimeout: 300_000, fileParallelism: false }),
      project('e2e', {
        globalSetup: ['test/support/node.setup.ts'],
        testTimeout: 180_000,
        hookTimeout: 300_000,
        fileParallelism: false,
      }),
    ],
  },
});
