import type { ChatError } from './errors.js';

const ignore = () => {};

/**
 * A promise. If it fails because the chat was closed, nobody needs to handle that: the app has closed it, or was told its
 * state. Otherwise Node would end a process that does not wait for its last messages. `begin` may throw, but must not call
 * `reject` at once.
 */
export function pending<T>(begin: (resolve: (value: T) => void, reject: (why: ChatError) => void) => void): Promise<T> {
  const promise = new Promise<T>((resolve, reject) =>
    begin(resolve, (why) => {
      if (why.reason === 'CLOSED') promise.catch(ignore);
      reject(why);
    }),
  );
  return promise;
}

/** All who wait for the same. */
export class Waiters<T> {
  readonly #waiting: [(value: T) => void, (why: ChatError) => void][] = [];

  _wait(): Promise<T> {
    return pending((...both) => this.#waiting.push(both));
  }

  _resolve(value: T): void {
    for (const [resolve] of this.#waiting.splice(0)) resolve(value);
  }

  _reject(why: ChatError): void {
    for (const [, reject] of this.#waiting.splice(0)) reject(why);
  }
}
