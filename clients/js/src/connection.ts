import { failure, type ChatError } from './errors.js';
import { now } from './clock.js';
import { ignore } from './ignore.js';
import type { Push, Reply } from './message.js';
import type { Socket } from './types.js';

/** What a connection tells its owner. */
export interface Owner {
  _opened(): void;
  _pushed(push: Push): void;
  /** The connection has proved useful: it has lasted. */
  _lasted(): void;
  /** The connection is dead. The owner calls `_end`. */
  _lost(why: ChatError): void;
}

/** Told the answer; `undefined` if the connection ended before there was one. */
export type Answered = (reply: Reply | undefined) => void;

const OPEN = 1;
const TOO_BIG = 1009;

/** How many bytes a JSON text has in UTF-8. Not every platform has an encoder. */
export const bytes = (text: string): number => encodeURI(text).replace(/%../g, '_').length;

/** A request as text, without the id, which each attempt has its own of. */
export const request = (route: string, body?: object, key?: string): string =>
  JSON.stringify({ route, key, body }).slice(1);

/** The life of one socket: requests and their answers, and whether it is alive. */
export class Connection {
  readonly #socket: Socket;
  readonly #owner: Owner;
  readonly #pingMs: number;
  readonly #silenceMs: number;
  readonly #asked = new Map<number, { text: string; answered: Answered }>();
  #lastId = 0;
  #hasLasted = false;
  /** What the server said when it closed the connection because of a message that was too large. */
  #tooBig: string | undefined;
  /** When to ask for a sign of life. */
  #pingAt: number | undefined;
  /** Until when something must come, because something was asked. */
  #deadline: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the timer should fire. */
  #due = 0;
  /** True if the timer fired much too late, and nothing has come since. */
  #hasOverslept = false;

  constructor(socket: Socket, owner: Owner, pingMs: number, silenceMs: number) {
    this.#socket = socket;
    this.#owner = owner;
    this.#pingMs = pingMs;
    this.#silenceMs = silenceMs;
    // To open a connection takes several round trips.
    this.#expect(2 * silenceMs);
    socket.onopen = () => {
      this.#hear();
      owner._opened();
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      if (code === TOO_BIG) this.#tooBig = reason;
      owner._lost(failure('LOST', `connection lost (${code} ${reason})`, true));
    };
    // Always followed by onclose.
    socket.onerror = ignore;
  }

  /** The number of requests that were not answered yet. */
  get _unanswered(): number {
    return this.#asked.size;
  }

  /** Sends what `request` has made. True if it was given to the socket. */
  _ask(text: string, answered: Answered): boolean {
    const id = ++this.#lastId;
    this.#asked.set(id, { text, answered });
    if (!this.#deadline) this.#expect(this.#silenceMs);
    // A socket that is closing takes nothing. Its onclose follows.
    const isOpen = this.#socket.readyState === OPEN;
    if (isOpen) this.#socket.send(`{"id":${id},${text}`);
    return isOpen;
  }

  _ping(): void {
    if (this.#socket.readyState !== OPEN) this.#expect(this.#silenceMs);
    else this._ask(request('connector.handler.ping'), (reply) => reply && this._prove());
  }

  /** Something shows that the connection is useful. */
  _prove(): void {
    this.#hasLasted = true;
    this.#pingAt = now() + this.#pingMs;
    this.#owner._lasted();
  }

  /**
   * Drops the socket, and ends all requests. It does not wait for the server: on a dead network a socket takes minutes to
   * close.
   */
  _end(code?: number): void {
    const socket = this.#socket;
    // onerror stays: some libraries throw an error that nobody listens to.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
    clearTimeout(this.#timer);
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    if (this.#tooBig !== undefined) {
      // The server does not say which message was too large. Sent again, it would end the next connection, too.
      const sizes = asked.map(({ text }) => bytes(text));
      const [largest] = asked.splice(sizes.indexOf(Math.max(...sizes)), 1);
      largest?.answered({ code: TOO_BIG, reason: 'TOO_BIG', message: this.#tooBig });
    }
    for (const { answered } of asked) answered(undefined);
  }

  #receive(data: string): void {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.#owner._lost(failure('LOST', 'what came was not JSON', true));
      return;
    }
    const asked = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    this.#hear();
    if (asked) asked.answered(message.body);
    else if (message.id === undefined) this.#owner._pushed(message);
  }

  #hear(): void {
    const at = now();
    this.#hasOverslept = false;
    this.#deadline = this.#asked.size ? at + this.#silenceMs : undefined;
    // Until a connection has lasted it is pinged even if much comes, because this shows that it lasts.
    if (this.#hasLasted || !this.#pingAt) this.#pingAt = at + this.#pingMs;
  }

  /** Within this time, something must come. */
  #expect(ms: number): void {
    this.#deadline = now() + ms;
    this.#watch();
  }

  /** One timer does all: it is not set again for each message, but looks when it fires. */
  #watch(): void {
    clearTimeout(this.#timer);
    this.#due = this.#deadline ?? this.#pingAt ?? 0;
    this.#timer = setTimeout(() => this.#look(), this.#due - now());
  }

  #look(): void {
    const at = now();
    // The machine slept, or the page was frozen. What came meanwhile may not have been read yet, so it gets time.
    const hasSlept = at > this.#due + this.#silenceMs && !this.#hasOverslept;
    if (hasSlept || (!this.#deadline && at >= this.#pingAt!)) {
      this.#hasOverslept = hasSlept;
      this.#deadline = undefined;
      this._ping();
    } else if (this.#deadline && at >= this.#deadline) {
      this.#owner._lost(failure('NO_ANSWER', 'the server does not answer', true));
    } else {
      this.#watch();
    }
  }
}
