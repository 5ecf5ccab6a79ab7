import { report } from './emitter.js';
import type { Position, TextStorage } from './types.js';

/** At most so often, positions are written. So a crash repeats what was given in this time. */
const EVERY_MS = 1_000;
/** A session is in no more channels. Positions of others are older. */
const MOST = 100;

const isPosition = (it: any): it is Position =>
  typeof it?.epoch === 'string' && Number.isSafeInteger(it.offset) && it.offset >= 0;

/** What must outlive a connection: the secret of our place and our position in each channel. And a reload, if the app wants it. */
export class Store {
  /** Proves that the place of an earlier session is ours. */
  _secret: string | undefined;
  readonly #positions = new Map<string, Position>();
  readonly #storage: TextStorage | undefined;
  readonly #key: string;
  /** 5 and "5" are one. Without a user, tokens alone say who it is. */
  readonly #user: string;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What is written last must be what is kept, also where writing takes a while. */
  #writing: Promise<any> = Promise.resolve();
  #hasFailed = false;

  constructor(storage: TextStorage | undefined, key: string, user: string | number | undefined) {
    this.#storage = storage;
    this.#key = key;
    this.#user = String(user);
  }

  /** Reads what an earlier page has left. It never fails: contents that cannot be read, or are of somebody else, do not count. */
  async _load(): Promise<void> {
    try {
      const { user, secret, positions } = JSON.parse((await this.#storage!.getItem(this.#key))!);
      if (user !== this.#user) return;
      if (typeof secret === 'string') this._secret = secret;
      for (const [name, position] of Object.entries(positions)) {
        if (isPosition(position)) this.#positions.set(name, position);
      }
    } catch {
      // There is no storage, or nothing of ours in it.
    }
  }

  _position(channel: string): Position | undefined {
    return this.#positions.get(channel);
  }

  /** `undefined`: we are not in the channel. */
  _move(channel: string, position: Position | undefined): void {
    if (position) this.#positions.set(channel, position);
    else this.#positions.delete(channel);
    this._changed();
  }

  /** Something is to be written soon, as long as there is a session. */
  _changed(): void {
    if (this.#storage && this._secret) this.#timer ??= setTimeout(() => this._flush(), EVERY_MS);
  }

  /** Where we are in each channel. */
  get _positions(): Record<string, Position> {
    return Object.fromEntries([...this.#positions].slice(-MOST));
  }

  /** Writes what was not written yet. */
  _flush(): void {
    if (this.#timer) this.#write();
  }

  /** The session is over. The next one begins where this one ends, or with nothing. Fulfilled when that is written. */
  _end(forget: boolean): Promise<void> {
    this._secret = undefined;
    this.#write(forget || !this.#positions.size);
    return this.#writing;
  }

  #write(forget?: boolean): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const storage = this.#storage;
    if (!storage) return;
    const text = JSON.stringify({ user: this.#user, secret: this._secret, positions: this._positions });
    const write = () => (forget ? storage.removeItem(this.#key) : storage.setItem(this.#key, text));
    // A storage may be full or forbidden. Then a reload begins anew, and the app hears of it once.
    this.#writing = this.#writing.then(write).catch((error) => (this.#hasFailed ||= (report(error), true)));
  }
}
