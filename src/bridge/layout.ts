/** Where the bridge is in a server's Pod, how it is started there, and where it says whether the server can be used. */

/** The folder that an init container fills, in the containers of the Pod. */
export const BRIDGE_DIR = '/bridge';

/** Answers GET with 200 when the server has answered, else with 503. No path of MCP is like it. */
export const READY_PATH = '/.bridge/ready';

/** Fills the folder; in the operator's image. */
export const INJECT_COMMAND = ['node', '/app/bridge.mjs', 'inject', BRIDGE_DIR] as const;

/** Starts it from there, with its own loader and libraries. */
export const BRIDGE_COMMAND = [
  `${BRIDGE_DIR}/loader`,
  '--library-path',
  `${BRIDGE_DIR}/lib`,
  `${BRIDGE_DIR}/node`,
  `${BRIDGE_DIR}/bridge.mjs`,
] as const;
