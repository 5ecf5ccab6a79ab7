/** Pauses between attempts. They grow with each failure, and are random, because other clients fail at the same moment. */
export class Backoff {
  #failures = 0;
  readonly #longestMs: number;

  constructor(longestMs: number) {
    this.#longestMs = longestMs;
  }

  /** The next pause in milliseconds: what the server asks for, and full jitter on top. */
  _next(atLeastMs = 0): number {
    return atLeastMs + Math.random() * Math.min(this.#longestMs, 500 * 2 ** this.#failures++);
  }

  _reset(): void {
    this.#failures = 0;
  }
}
