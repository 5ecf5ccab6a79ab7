import { addresses } from './address.js';
import { Backoff } from './backoff.js';
import { Channel } from './channel.js';
import { now } from './clock.js';
import { bytes, Connection, request, type Owner } from './connection.js';
import { Emitter } from './emitter.js';
import { ChatError, failure } from './errors.js';
import { DEFAULTS, type Settings } from './host.js';
import { keys } from './keys.js';
import type { Push, Reply } from './message.js';
import { watchPage } from './page.js';
import { Store } from './store.js';
import type { Body, ChatEvents, Options, State } from './types.js';
import { pending, Waiters } from './waiters.js';

/** Timers of some platforms fire at once if they are to wait for longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** After this time the server has noticed that a connection is gone. */
const GHOST_MS = 60_000;

/** A session that stays logged in, whatever happens to its connection, until `close`. */
export class Chat extends Emitter<ChatEvents> {
  /** Where it stands. The event `state` tells each change. */
  readonly state: State = 'connecting';
  /** @internal */
  readonly _settings: Settings;
  /** @internal */
  readonly _store: Store;
  /** @internal */
  readonly _newKey = keys();
  /** @internal */
  _online: Connection | undefined;
  /** @internal */
  _closed: ChatError | undefined;
  readonly #urls: string[];
  readonly #channels = new Map<string, Channel>();
  readonly #pauses: Backoff;
  readonly #refreshPauses: Backoff;
  readonly #stopWatchingPage: () => void;
  /** Who waits for the login. */
  readonly #onlines = new Waiters<void>();
  /** How many bytes more may wait to be sent. */
  #room: number;
  /** Why it is closed. */
  #end: ChatError | undefined;
  #connection: Connection | undefined;
  /** How many connections were begun. */
  #tries = 0;
  /** Which attempt this is: what an earlier one still waits for does not count. */
  #attempt = 0;
  /** For the next attempt. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The server does not want to see us before. */
  #notBefore = 0;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  /** Until then, a session may live that we do not know of, because the answer to its login was lost. */
  #ghostUntil = 0;
  /** The last token was refused, so one more is asked for, and no third. */
  #isTokenDoubted = false;

  /** @internal */
  constructor(url: string | readonly string[], options: Options) {
    super();
    // An option that is undefined is one that was not given.
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    const settings: Settings = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...Object.fromEntries(given) };
    const { storage, storageKey, user, token, longestPauseMs } = settings;
    if (!settings.WebSocket) throw new Error('there is no WebSocket here: pass that of the package "ws"');
    if (user === undefined && !token) throw new Error('pass the option user or token');
    this.#urls = addresses(url);
    this._settings = settings;
    this._store = new Store(storage, storageKey, user);
    this.#room = settings.queueBytes;
    this.#pauses = new Backoff(longestPauseMs);
    this.#refreshPauses = new Backoff(longestPauseMs);
    this.#stopWatchingPage = watchPage({
      _woke: () => this.#wake(),
      _offline: () => this.#lose(failure('OFFLINE', 'there is no network', true)),
      _hidden: () => this._store._flush(),
    });
    void this._store._load().then(() => void (this.#attempt || this.#connect()));
  }

  /** Fulfilled when the chat is online, perhaps at once. Fails with the reason for which it was closed. */
  online(): Promise<void> {
    return this._online ? Promise.resolve() : this.#onlines._wait(this.#end);
  }

  /** The channel of this name: always the same object. 4 and "4" are one channel. It does not join it. */
  channel(name: string | number): Channel {
    const text = String(name);
    let channel = this.#channels.get(text);
    if (!channel) this.#channels.set(text, (channel = new Channel(text, this)));
    return channel;
  }

  /**
   * Asks a handler of the operator. Fulfilled with its answer, whatever `code` the handler has given it. While there is no
   * connection it waits. It is sent once: if the connection ends before the answer it fails with `UNKNOWN`.
   */
  request(route: string, body: object = {}, { key }: { key?: string | undefined } = {}): Promise<Body> {
    return pending((resolve, reject) => {
      const text = request(route, body, key);
      const giveBack = this._reserve(text);
      const fail = (why: ChatError) => {
        giveBack();
        reject(this._closed ?? why);
      };
      const send = (): void => {
        // A listener may have closed the connection again, so this may wait a second time.
        if (!this._online) return void this.online().then(send, fail);
        this._online._ask(text, (reply) => {
          if (!reply) return fail(failure('UNKNOWN', 'it may have been done: there was no answer'));
          // What the server refuses has a reason. What a handler answers is the app's.
          if (reply.code && reply.reason) return fail(new ChatError(reply));
          giveBack();
          resolve(reply);
        });
      };
      send();
    });
  }

  /**
   * Logs out: the others see us leave, and everything that waits fails with `CLOSED`. The storage keeps the positions, so that
   * the next chat begins where this one ends. With `forget` it keeps nothing. Fulfilled when the storage has been written.
   */
  close({ forget = false }: { forget?: boolean | undefined } = {}): Promise<void> {
    const written = this._store._end(forget);
    this.#lose(failure('CLOSED', 'close() was called'));
    return written;
  }

  /** @internal */
  _reserve(text: string): () => void {
    const size = bytes(text);
    if (this._closed) throw this._closed;
    if (size > this.#room) throw failure('QUEUE_FULL', 'too much waits to be sent', size <= this._settings.queueBytes);
    this.#room -= size;
    return () => (this.#room += size);
  }

  async #connect(): Promise<void> {
    clearTimeout(this.#timer);
    const attempt = ++this.#attempt;
    this.#to('connecting');
    // A listener may have closed the chat.
    if (attempt !== this.#attempt) return;
    try {
      const { WebSocket, pingMs, silenceMs, longestPauseMs } = this._settings;
      const late = failure('TOKEN_FAILED', 'token() did not answer', true);
      this.#timer = setTimeout(() => this.#lose(late), longestPauseMs);
      const token = await this.#token();
      if (attempt !== this.#attempt) return;
      clearTimeout(this.#timer);
      const owner: Owner = {
        _opened: () => this.#login(token),
        _pushed: (push) => this.#push(push),
        _lasted: () => this.#pauses._reset(),
        _lost: (why) => this.#lose(why),
      };
      const url = this.#urls[this.#tries++ % this.#urls.length]!;
      this.#connection = new Connection(new WebSocket!(url), owner, pingMs, silenceMs);
    } catch (error) {
      if (attempt === this.#attempt) this.#lose(error instanceof ChatError ? error : failure('LOST', `no connection: ${error}`, true));
    }
  }

  /** Gets a token of the app, if it has any. Fails with `TOKEN_FAILED` or `NO_TOKEN`. */
  async #token(): Promise<string | null | undefined> {
    const { token } = this._settings;
    let got;
    try {
      got = await token?.();
    } catch (cause) {
      throw failure('TOKEN_FAILED', `token() failed: ${cause}`, true);
    }
    if (token && !got) throw failure('NO_TOKEN', 'token() returned nothing');
    return got;
  }

  #login(token: string | null | undefined): void {
    const connection = this.#connection!;
    const { _store } = this;
    const body = { userId: this._settings.user, token, positions: token ? _store._positions : true, resume: _store._secret };
    connection._ask(request('connector.handler.login', body), (reply) => {
      if (!reply) {
        // The connection has ended, and its end was told. But we may be logged in.
        this.#ghostUntil = now() + GHOST_MS;
        return;
      }
      const why = new ChatError(reply);
      if (!reply.code) this.#loggedIn(connection, reply);
      else if (why.reason === 'INVALID_PARAMETER' && _store._secret) {
        // The storage may hold a secret that is none. Without one, this is not repeated.
        _store._secret = undefined;
        this.#lose(why, true);
      } else if (why.reason === 'USER_LOGGED_IN' && !_store._secret && now() >= this.#ghostUntil) {
        // We have no session, so it is somebody else who is in under this name.
        this.#lose(why, false);
      } else this.#doubtToken(why);
    });
  }

  #loggedIn(connection: Connection, { resume, ttl }: Reply): void {
    this.#isTokenDoubted = false;
    this._store._secret = resume;
    this._store._changed();
    this._online = connection;
    this.#refreshBefore(ttl);
    // All join again in one go.
    for (const channel of this.#channels.values()) channel._loggedIn();
    this.#onlines._resolve();
    this.#to('online');
  }

  /** The server does not want us. If that is because of the token, another one is tried, once. */
  #doubtToken(why: ChatError): void {
    const isOther = !!this._settings.token && !this.#isTokenDoubted && /^token[ _]/i.test(why.reason);
    this.#isTokenDoubted ||= isOther;
    this.#lose(why, isOther || why.retry);
  }

  #push(push: Push): void {
    const { route, channel, offset, body } = push;
    if (channel !== undefined) this.#channels.get(channel)?._push(push);
    else if (route === 'onAdded') this.channel(body.channel)._added(body);
    else if (route === 'onRemoved') this.#channels.get(body.channel)?._removed();
    else if (route === 'onExpired') this.#refreshAfter(0);
    else if (route === 'onKick') {
      const { reason, reconnect, reconnectAfterMs: retryAfterMs } = body;
      // A login of ours that we gave up may have arrived late, and have taken our place. It is not there to stay.
      const isGhost = reason === 'replaced' && now() < this.#ghostUntil;
      if (isGhost) this.#ghostUntil = 0;
      const retry = reconnect !== false || isGhost;
      this.#doubtToken(new ChatError({ reason, message: `closed by the server: ${reason}`, retry, retryAfterMs }));
    } else if (route && offset === undefined) this._emit('push', { route, body });
  }

  /** A refresh comes well before the token expires, and not at the same moment as that of all others. */
  #refreshBefore(ttl: number | undefined): void {
    if (ttl) this.#refreshAfter(ttl * 1_000 * (0.8 - 0.1 * Math.random()));
  }

  #refreshAfter(ms: number): void {
    clearTimeout(this.#refresh);
    if (this._settings.token) this.#refresh = setTimeout(() => this.#refreshToken(), Math.min(ms, LONGEST_TIMER_MS));
  }

  async #refreshToken(): Promise<void> {
    const connection = this._online;
    // The old token still holds. If no new one comes in time, the server closes the connection, and says so.
    const again = (atLeastMs?: number) => this.#refreshAfter(this.#refreshPauses._next(atLeastMs));
    try {
      const token = await this.#token();
      if (connection !== this._online) return;
      connection?._ask(request('connector.handler.refresh', { token }), (reply) => {
        if (!reply) return;
        if (reply.code) return again(reply.retryAfterMs);
        this.#refreshPauses._reset();
        this.#refreshBefore(reply.ttl);
      });
    } catch (error) {
      if (connection !== this._online) return;
      if ((error as ChatError).retry) again();
      else this.#lose(error as ChatError);
    }
  }

  #wake(): void {
    this._online?._ping();
    if (this.state === 'away') this.#connectIn(this.#notBefore - now());
  }

  #connectIn(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), ms);
  }

  /** Gives up the connection. Makes another one later, or ends everything. */
  #lose(why: ChatError, goesOn = why.retry): void {
    if (this._closed || (goesOn && this.state === 'away')) return;
    clearTimeout(this.#timer);
    clearTimeout(this.#refresh);
    this.#attempt++;
    this._online = undefined;
    if (!goesOn) {
      this.#end = why;
      this._closed = failure('CLOSED', `the chat is closed: ${why.reason}`);
    }
    this.#connection?._end(goesOn ? undefined : 1000);
    this.#connection = undefined;
    for (const channel of this.#channels.values()) channel._ended();
    if (goesOn) {
      const atLeastMs = why.details.retryAfterMs ?? 0;
      const pause = this.#pauses._next(atLeastMs);
      this.#notBefore = now() + atLeastMs;
      this.#connectIn(pause);
      this.#to('away', why, pause);
    } else {
      this.#stopWatchingPage();
      this._store._flush();
      this.#onlines._reject(why);
      this.#to('closed', why);
    }
  }

  #to(state: State, error?: ChatError, retryInMs?: number): void {
    (this as { state: State }).state = state;
    this._emit('state', { state, reason: error?.reason, message: error?.message, retryInMs, error });
  }
}
