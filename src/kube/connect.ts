/** Connections that end by RST and never by FIN: what was sent on them and has not arrived never will. */

import { Socket } from 'node:net';
import { buildConnector } from 'undici';

const CONNECT_TIMEOUT_MS = 5_000;

/**
 * A TCP socket that is reset wherever another one would be closed. A connection that is merely closed goes on delivering
 * what is in its send buffer, minutes later if the network comes back then.
 */
export class ResettingSocket extends Socket {
  #reset = false;
  #why: Error | undefined;

  override destroy(error?: Error): this {
    if (this.#reset || this.destroyed || this.connecting || this.pending) return super.destroy(error ?? this.#why);
    this.#reset = true;
    this.#why = error;
    // Comes back here to end the socket.
    return this.resetAndDestroy();
  }
}

/** Connects as undici does, over resetting sockets; those that are open are in `opened`. */
export function createConnector(
  tls: buildConnector.BuildOptions,
  opened: Set<ResettingSocket>,
): buildConnector.connector {
  const keepAlive = { keepAlive: true, keepAliveInitialDelay: 30_000 };
  const secure = buildConnector({ ...tls, ...keepAlive, allowH2: false, timeout: CONNECT_TIMEOUT_MS });
  return (options, callback) => {
    const socket = new ResettingSocket().setNoDelay(true).setKeepAlive(true, keepAlive.keepAliveInitialDelay);
    opened.add(socket);
    const late = setTimeout(
      () => socket.destroy(new Error(`no connection within ${CONNECT_TIMEOUT_MS / 1000} s`)),
      CONNECT_TIMEOUT_MS,
    );
    // The socket may fail, or be reset by us, at any stage; undici is told once.
    let failure = new Error('the connection was closed before it could be used');
    let answered = false;
    const answer: typeof callback = (...result) => {
      clearTimeout(late);
      if (!answered) callback(...result);
      answered = true;
    };
    socket.on('error', error => {
      failure = error;
    });
    socket.once('close', () => {
      opened.delete(socket);
      answer(failure, null);
    });
    // Not before: while several addresses of a name are tried, Node replaces the handle that TLS would hold on to.
    socket.once('connect', () => {
      if (options.protocol !== 'https:') return answer(null, socket);
      clearTimeout(late);
      try {
        secure({ ...options, httpSocket: socket }, (...result) => {
          if (!result[1]) socket.destroy();
          answer(...result);
        });
      } catch (error) {
        // A client certificate that makes no sense, as while its file is replaced.
        socket.destroy(error as Error);
      }
    });
    socket.connect({
      host: options.hostname.replace(/^\[|\]$/g, ''),
      port: Number(options.port || (options.protocol === 'https:' ? 443 : 80)),
    });
  };
}
