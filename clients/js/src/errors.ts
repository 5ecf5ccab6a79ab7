import type { Reply } from './message.js';

/**
 * Why something failed. Decide by `reason`, which never changes its meaning. `message` is for people who write programs.
 *
 * The reasons of the server are in its protocol. The library adds:
 * - `CLOSED`: the chat is closed.
 * - `UNKNOWN`: the connection ended before the answer, and it is too late to repeat the request. It may have been done.
 * - `QUEUE_FULL`: the messages that wait have `queueBytes` already.
 * - `TOO_BIG`: the message is larger than the server's limit.
 * - `LEFT`: `leave()` was called before `join()` was done.
 * - `LOST`, `NO_ANSWER`, `OFFLINE`, `TOKEN_FAILED`, `NO_TOKEN`: why there is no connection.
 */
export class ChatError extends Error {
  declare readonly reason: string;
  /** The code of the server's refusal; 0 if the library has refused. */
  declare readonly code: number;
  /** True if the same may succeed later. */
  declare readonly retry: boolean;
  /** Everything that the server said, such as `until` with `BLOCKED`. */
  declare readonly details: { readonly [name: string]: any };

  /** @internal */
  constructor(reply: Omit<Reply, 'code'> & { code?: number }) {
    super(reply.message ?? reply.reason);
    const { reason = 'REFUSED', code = 0, retry = false } = reply;
    Object.assign(this, { name: 'ChatError', reason, code, retry, details: reply });
  }
}

/** An error of the library's own. */
export const failure = (reason: string, message: string, retry = false): ChatError =>
  new ChatError({ reason, message, retry });
