import type { ChatError } from './errors.js';
import { ignore } from './ignore.js';

/**
 * A promise. It fails with what `begin` throws. If it fails because the chat was closed, nobody needs to handle that: the app
 * has closed it, or was told its state. Otherwise Node would end a process that does not wait for its last messages.
 */
export function pending<T>(begin: (resolve: (value: T) => void, reject: (why: ChatError) => void) => void): Promise<T> {
  let resolve: (value: T) => void, reject: (why: unknown) => void;
  const promise = new Promise<T>((...both) => ([resolve, reject] = both));
  const fail = (why: ChatError) => {
    if (why.reason === 'CLOSED') promise.catch(ignore);
    reject(why);
  };
  try {
    begin(resolve!, fail);
  } catch (why) {
    fail(why as ChatError);
  }
  return promise;
}

/** All who wait for the same. */
export class Waiters<T> {
  readonly #waiting: [(value: T) => void, (why: ChatError) => void][] = [];

  /** With a reason, it fails at once. */
  _wait(why?: ChatError): Promise<T> {
    return pending((...both) => {
      if (why) throw why;
      this.#waiting.push(both);
    });
  }

  _resolve(value: T): void {
    for (const [resolve] of this.#waiting.splice(0)) resolve(value);
  }

  _reject(why: ChatError): void {
    for (const [, reject] of this.#waiting.splice(0)) reject(why);
  }
}
