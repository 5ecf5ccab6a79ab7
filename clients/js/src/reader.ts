import type { ChannelEvent, Position } from './types.js';

/** How many events wait for a loop. */
export const MOST = 10_000;
/** How many events wait as long as there is no loop. */
const MOST_BEFORE = 1_000;

/** The position before an event. */
const start = (event: ChannelEvent): Position =>
  event.type === 'lost' ? event.from : { epoch: event.epoch, offset: event.offset - 1 };

/** The events of a channel for one `for await`. It may be slow: what is too much for it is told as lost. */
export class Reader {
  /** How many events wait at most. @internal */
  _most = MOST_BEFORE;
  #events: ChannelEvent[] = [];
  #hasEnded = false;
  /** Goes on with the loop that waits for an event. */
  #wake: (() => void) | undefined;

  _push(event: ChannelEvent): void {
    const [first] = this.#events;
    if (this.#events.length >= this._most) {
      this.#events = [{ type: 'lost', reason: 'overflow', from: start(first!), to: start(event) }];
    }
    this.#events.push(event);
    this.#wake?.();
  }

  /** What was not read yet can still be read. */
  _end(): void {
    this.#hasEnded = true;
    this.#wake?.();
  }

  /** `left` is called when the loop is left. */
  async *_read(left: () => void): AsyncGenerator<ChannelEvent, void, void> {
    try {
      for (;;) {
        const event = this.#events.shift();
        if (event) yield event;
        else if (this.#hasEnded) return;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      left();
    }
  }
}
