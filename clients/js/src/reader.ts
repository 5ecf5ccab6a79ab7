import type { ChannelEvent, Position } from './types.js';

/** How many events wait for a slow reader. */
const MOST = 10_000;

/** The position before an event. */
const start = (event: ChannelEvent): Position =>
  event.type === 'lost' ? event.from : { epoch: event.epoch, offset: event.offset - 1 };

/** The events of a channel for one `for await`. It may be slow: what is too much for it is told as lost. */
export class Reader implements AsyncIterableIterator<ChannelEvent> {
  readonly #ended: (reader: Reader) => void;
  #events: ChannelEvent[] = [];
  /** Calls of `next` that wait for an event. */
  #waiting: ((result: IteratorResult<ChannelEvent>) => void)[] = [];
  #hasEnded = false;

  constructor(ended: (reader: Reader) => void) {
    this.#ended = ended;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<ChannelEvent>> {
    return new Promise((resolve) => {
      const value = this.#events.shift();
      if (value) resolve({ value });
      else if (this.#hasEnded) resolve({ value, done: true });
      else this.#waiting.push(resolve);
    });
  }

  /** Called by the platform when the loop is left. */
  async return(): Promise<IteratorResult<ChannelEvent>> {
    this.#events = [];
    this._end();
    return { value: undefined, done: true };
  }

  _push(event: ChannelEvent): void {
    const waiting = this.#waiting.shift();
    if (waiting) return waiting({ value: event });
    const first = this.#events[0];
    if (first && this.#events.length >= MOST) {
      this.#events = [{ type: 'lost', reason: 'overflow', from: start(first), to: start(event) }];
    }
    this.#events.push(event);
  }

  /** What was not read yet can still be read. */
  _end(): void {
    this.#hasEnded = true;
    for (const resolve of this.#waiting.splice(0)) resolve({ value: undefined, done: true });
    this.#ended(this);
  }
}
