/** Turns writes away that may not be sent. */

import type { Dispatcher } from 'undici';
import { NotLeading } from './errors.ts';

/**
 * For `Dispatcher.compose`: asks `mayWrite` in the same turn of the event loop in which the first byte of a write would
 * go to its socket. Requests wait for connections, and a process may be paused while they do.
 */
export function fence(mayWrite: () => boolean): Dispatcher.DispatcherComposeInterceptor {
  return dispatch => (options, handler) =>
    dispatch(options, options.method === 'GET' ? handler : new Fenced(handler, mayWrite));
}

type Handler = Dispatcher.DispatchHandler;
type Told<K extends keyof Handler> = Parameters<NonNullable<Handler[K]>>;

/** Hands everything on, but for the start of a request that may not be sent. */
class Fenced implements Handler {
  readonly #handler: Handler;
  readonly #mayWrite: () => boolean;

  constructor(handler: Handler, mayWrite: () => boolean) {
    this.#handler = handler;
    this.#mayWrite = mayWrite;
  }

  onRequestStart(...told: Told<'onRequestStart'>): void {
    if (!this.#mayWrite()) throw new NotLeading('not sent: this process does not hold the Lease');
    this.#handler.onRequestStart?.(...told);
  }

  onRequestUpgrade(...told: Told<'onRequestUpgrade'>): void {
    this.#handler.onRequestUpgrade?.(...told);
  }

  onResponseStart(...told: Told<'onResponseStart'>): void {
    this.#handler.onResponseStart?.(...told);
  }

  onResponseData(...told: Told<'onResponseData'>): void {
    this.#handler.onResponseData?.(...told);
  }

  onResponseEnd(...told: Told<'onResponseEnd'>): void {
    this.#handler.onResponseEnd?.(...told);
  }

  onResponseError(...told: Told<'onResponseError'>): void {
    this.#handler.onResponseError?.(...told);
  }
}
