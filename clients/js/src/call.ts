import { Backoff } from './backoff.js';
import { now } from './clock.js';
import type { Connection } from './connection.js';
import type { Reply } from './message.js';

/** A message is not repeated when so much of the life of its key is over. The rest is for clocks and for the way. */
const SAFE_PART = 0.9;

/**
 * A request that is repeated until it is answered for good: after a refusal that may pass, and on the next connection. Its
 * owner starts it there.
 */
export class Call {
  readonly #text: string;
  readonly #answered: (reply: Reply) => void;
  readonly #pauses: Backoff;
  readonly #keyLifeMs: number | undefined;
  /** Where it is under way. */
  #connection: Connection | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The time of the first attempt that may have been carried out without our knowing. */
  #doubtfulSince: number | undefined;

  /** With `keyLifeMs` it is repeated only as long as the server remembers its key. */
  constructor(text: string, longestPauseMs: number, answered: (reply: Reply) => void, keyLifeMs?: number) {
    this.#text = text;
    this.#pauses = new Backoff(longestPauseMs);
    this.#answered = answered;
    this.#keyLifeMs = keyLifeMs;
  }

  /** Begins on this connection, unless it has begun there. */
  _start(connection: Connection): void {
    if (this.#connection === connection) return;
    this.#connection = connection;
    this.#try(connection);
  }

  /** Stops it, because the connection has ended, or because nobody needs it any more. */
  _stop(): void {
    clearTimeout(this.#timer);
    this.#connection = undefined;
  }

  #try(connection: Connection): void {
    const wasDoubtful = this.#doubtfulSince !== undefined;
    this.#doubtfulSince ??= now();
    if (this.#keyLifeMs && now() - this.#doubtfulSince > this.#keyLifeMs * SAFE_PART) {
      this.#giveUp('not answered, and too old to repeat');
      return;
    }
    connection._ask(this.#text, (reply) => {
      // Without an answer the connection has ended, and the owner starts again on the next one.
      if (!reply || this.#connection !== connection) return;
      if (reply.code && reply.retry) {
        // This attempt has done nothing. But one before may have done something.
        if (!wasDoubtful && reply.reason !== 'UNKNOWN_OUTCOME') this.#doubtfulSince = undefined;
        this.#timer = setTimeout(() => this.#try(connection), this.#pauses._next(reply.retryAfterMs));
      } else if (reply.code && this.#keyLifeMs && wasDoubtful && reply.reason !== 'TOO_BIG') {
        this.#giveUp(`not answered, then refused (${reply.reason})`);
      } else {
        this.#answered(reply);
      }
    });
  }

  #giveUp(why: string): void {
    this.#answered({ code: 500, reason: 'UNKNOWN', message: `it may have been stored: ${why}` });
  }
}
