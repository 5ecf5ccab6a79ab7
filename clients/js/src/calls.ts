import { Call } from './call.js';
import type { Connection } from './connection.js';
import { ChatError } from './errors.js';
import type { Host } from './host.js';
import type { Reply } from './message.js';

/** Calls about one channel that were not answered for good, and what to do if one fails. */
export class Calls {
  readonly #host: Host;
  readonly #ready: () => Connection | undefined;
  readonly #keyLifeMs: number | undefined;
  /** In their order. */
  readonly #waiting = new Map<Call, (why: ChatError) => void>();

  /**
   * `ready` says where calls can be made at the moment.
   *
   * With `keyLifeMs` they are messages. One is under way at a time: the next one is sent when the one before was answered, so
   * they are stored in their order although some are refused for now.
   */
  constructor(host: Host, ready: () => Connection | undefined, keyLifeMs?: number) {
    this.#host = host;
    this.#ready = ready;
    this.#keyLifeMs = keyLifeMs;
  }

  /** Makes a call when it is its turn. Throws what `_reserve` throws. */
  _add(text: string, answered: (reply: Reply) => void, failed: (why: ChatError) => void): void {
    const giveBack = this.#host._reserve(text);
    const settle = (reply: Reply) => {
      this.#waiting.delete(call);
      giveBack();
      if (reply.code) failed(new ChatError(reply));
      else answered(reply);
      this._next();
    };
    const call = new Call(text, this.#host._settings.longestPauseMs, settle, this.#keyLifeMs);
    this.#waiting.set(call, failed);
    this._next();
  }

  /** Makes the calls that are to be made, if that is possible. */
  _next(): void {
    for (const call of this.#waiting.keys()) {
      // Looked up each time: it changes when a call is given up.
      const connection = this.#ready();
      if (connection) call._start(connection);
      if (this.#keyLifeMs) return;
    }
  }

  /** The connection has ended. With a reason, all calls are given up. */
  _stop(why?: ChatError): void {
    for (const [call, failed] of this.#waiting) {
      call._stop();
      if (why) failed(why);
    }
    if (why) this.#waiting.clear();
  }
}
