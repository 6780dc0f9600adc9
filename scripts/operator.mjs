#!/usr/bin/env node
// `npx personal-connector-operator …`: the operator's command line, on any Node >= 20.
process.argv.splice(2, 0, 'operator');
await import('./run.mjs');
