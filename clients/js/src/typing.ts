import { now } from './clock.js';

/** The shortest time between two signs that we are typing. */
const EVERY_MS = 3_000;
/** Who gives no sign for so long has stopped. */
const LASTS_MS = 6_000;
/** Of more people at once nobody wants to know that they are typing. */
const MOST = 1_000;
const NEVER = -Infinity;

/** Who is typing in a channel: ourselves, towards the others, and the others, towards us. */
export class Typing {
  readonly #tell: (userId: string | number, typing: boolean) => void;
  readonly #others = new Map<string | number, ReturnType<typeof setTimeout>>();
  /** When we told the others last that we are typing. They have forgotten it, or never knew, if this is `NEVER`. */
  #saidAt = NEVER;

  constructor(tell: (userId: string | number, typing: boolean) => void) {
    this.#tell = tell;
  }

  /** Whether the others should be told that we are typing, or are not any more. */
  _isDue(on: boolean): boolean {
    return on ? now() - this.#saidAt >= EVERY_MS : this.#saidAt > NEVER;
  }

  /** The others were told, or know it because a message of ours came. */
  _said(on: boolean): void {
    this.#saidAt = on ? now() : NEVER;
  }

  /** A user gives a sign, or has sent what was typed. */
  _heard(userId: string | number, on: boolean): void {
    const timer = this.#others.get(userId);
    clearTimeout(timer);
    if (on && (timer || this.#others.size < MOST)) {
      this.#others.set(userId, setTimeout(() => this._heard(userId, false), LASTS_MS));
      if (!timer) this.#tell(userId, true);
    } else if (this.#others.delete(userId)) {
      this.#tell(userId, false);
    }
  }

  /** Nobody is typing, because we are out of the channel. */
  _clear(): void {
    this._said(false);
    for (const userId of [...this.#others.keys()]) this._heard(userId, false);
  }
}
