import { Call } from './call.js';
import type { Connection, Reply } from './connection.js';
import { bytes } from './connection.js';
import { ChatError, failure } from './errors.js';

/** What all messages of a chat that wait may hold. */
export class Budget {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  /** Takes what this text needs, and returns a function that gives it back. Throws `QUEUE_FULL`. */
  _take(text: string): () => void {
    const size = bytes(text);
    if (size > this.#left) throw failure('QUEUE_FULL', 'too much waits to be sent already', true);
    this.#left -= size;
    return () => void (this.#left += size);
  }
}

interface Waiting {
  readonly call: Call;
  readonly fail: (why: ChatError) => void;
}

/**
 * The messages of one channel that are not known to be stored. One is under way at a time: the next one is sent when the one
 * before was answered, so they are stored in their order although some are refused for now.
 */
export class Outbox {
  readonly #budget: Budget;
  readonly #longestPauseMs: number;
  readonly #keyLifeMs: number;
  /** In the order in which they are stored. A set, because taking the first one off a long array is slow. */
  readonly #waiting = new Set<Waiting>();
  readonly #ready: () => Connection | undefined;

  /** `ready` says where messages can be sent at the moment. */
  constructor(budget: Budget, longestPauseMs: number, keyLifeMs: number, ready: () => Connection | undefined) {
    this.#ready = ready;
    this.#budget = budget;
    this.#longestPauseMs = longestPauseMs;
    this.#keyLifeMs = keyLifeMs;
  }

  /** Sends a message when it is its turn. Throws `QUEUE_FULL`. */
  _add(text: string, stored: () => void, failed: (why: ChatError) => void): void {
    const giveBack = this.#budget._take(text);
    const settle = (reply: Reply) => {
      this.#waiting.delete(waiting);
      giveBack();
      if (reply.code) failed(new ChatError(reply));
      else {
        this.#ready()?._prove();
        stored();
      }
      this._next();
    };
    const fail = (why: ChatError) => {
      waiting.call._stop();
      giveBack();
      failed(why);
    };
    const waiting = { call: new Call(text, this.#longestPauseMs, settle, this.#keyLifeMs), fail };
    this.#waiting.add(waiting);
    this._next();
  }

  /** The connection has ended. */
  _stop(): void {
    for (const { call } of this.#waiting) call._stop();
  }

  /** Gives up all messages. */
  _fail(why: ChatError): void {
    const all = [...this.#waiting];
    this.#waiting.clear();
    for (const { fail } of all) fail(why);
  }

  /** Sends the first message, if one waits, and if it can be sent. */
  _next(): void {
    const [first] = this.#waiting;
    const connection = this.#ready();
    if (first && connection) first.call._start(connection);
  }
}
