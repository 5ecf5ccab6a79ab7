import type { ChatError } from './errors.js';

const ignore = () => {};

/**
 * A promise that fails later at most. If it fails because the chat was closed, nobody needs to handle that: the app has closed
 * it, or was told its state. Otherwise Node would end a process that did not wait for its last messages.
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
