import { addresses } from './address.js';
import { Backoff } from './backoff.js';
import { Channel, type Host } from './channel.js';
import { Connection, request, type Owner, type Push, type Reply } from './connection.js';
import { now } from './clock.js';
import { Emitter } from './emitter.js';
import { ChatError, failure } from './errors.js';
import { keys } from './keys.js';
import { Budget } from './outbox.js';
import { watchPage } from './page.js';
import { pending } from './pending.js';
import { Store } from './store.js';
import type { Body, ChatEvents, Options, State } from './types.js';

/** Timers of some platforms fire at once if they are to wait for longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Reasons for which a new token may help. */
const isOfToken = (reason = ''): boolean => /^token[ _]/i.test(reason);

const DEFAULTS = {
  storageKey: 'global-channels',
  queueBytes: 2 ** 20,
  pingMs: 10_000,
  silenceMs: 5_000,
  longestPauseMs: 20_000,
  keyLifeMs: 300_000,
};

/** A request of the app that is not repeated. */
interface Waiting {
  readonly send: (connection: Connection) => void;
  readonly fail: (why: ChatError) => void;
}

/** A session that stays logged in, whatever happens to its connection, until `close`. */
export class Chat {
  readonly #options: Options & typeof DEFAULTS;
  readonly #urls: string[];
  readonly #emitter = new Emitter<ChatEvents>();
  readonly #channels = new Map<string, Channel>();
  readonly #store: Store;
  readonly #pauses: Backoff;
  readonly #refreshPauses: Backoff;
  readonly #host: Host & { _online: Connection | undefined; _closed: ChatError | undefined };
  readonly #stopWatchingPage: () => void;
  #closedBy: ChatError | undefined;
  #state: State = 'connecting';
  /** What makes `online()` wait. */
  #onlines: { resolve: () => void; reject: (why: ChatError) => void }[] = [];
  /** Requests that wait for a connection. */
  readonly #waiting = new Set<Waiting>();
  #connection: Connection | undefined;
  /** How many connections were begun. */
  #tries = 0;
  /** Which attempt this is: what an earlier one still waits for does not count. */
  #attempt = 0;
  /** For the next attempt, or for a token that does not come. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The server does not want to see us before. */
  #notBefore = 0;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  /** The last token was refused, so one more is asked for, and no third. */
  #isTokenDoubted = false;
  /** The secret comes from the storage, and the server has not accepted it yet. */
  #isSecretDoubted = true;

  /** @internal */
  constructor(url: string | readonly string[], options: Options) {
    const { WebSocket, ...given } = options;
    this.#urls = addresses(url);
    const Socket = WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new Error('this platform has no WebSocket: install the package "ws", and pass it as the option WebSocket');
    if (given.user === undefined && !given.token) throw new Error('pass the option user or the option token: without them, nobody logs in');
    this.#options = { ...DEFAULTS, ...given, WebSocket: Socket };
    const { storage, storageKey, user, longestPauseMs, keyLifeMs, queueBytes } = this.#options;
    this.#store = new Store(storage, storageKey, user);
    this.#pauses = new Backoff(longestPauseMs);
    this.#refreshPauses = new Backoff(longestPauseMs);
    this.#host = {
      _online: undefined,
      _closed: undefined,
      _store: this.#store,
      _budget: new Budget(queueBytes),
      _longestPauseMs: longestPauseMs,
      _keyLifeMs: keyLifeMs,
      _newKey: keys(),
    };
    this.#stopWatchingPage = watchPage({
      _woke: () => this.#wake(),
      _offline: () => this.#drop(failure('OFFLINE', 'there is no network', true)),
      _hidden: () => this.#store._flush(),
    });
    const attempt = this.#attempt;
    // A secret or position that the app has given meanwhile does not come from here.
    void this.#store._load().then(() => (attempt === this.#attempt ? this.#connect() : undefined));
  }

  get state(): State {
    return this.#state;
  }

  /** Calls a function for each event of this name. Returns a function that ends this. */
  on<Name extends keyof ChatEvents>(name: Name, call: (event: ChatEvents[Name]) => unknown): () => void {
    return this.#emitter._on(name, call);
  }

  /** Fulfilled when the chat is online, perhaps at once. Fails with the reason for which it was closed. */
  online(): Promise<void> {
    return pending((resolve, reject) => {
      if (this.#closedBy) throw this.#closedBy;
      if (this.#host._online) resolve();
      else this.#onlines.push({ resolve, reject });
    });
  }

  /** The channel of this name: always the same object. 4 and "4" are one channel. It does not join it. */
  channel(name: string | number): Channel {
    const text = String(name);
    let channel = this.#channels.get(text);
    if (!channel) this.#channels.set(text, (channel = new Channel(text, this.#host)));
    return channel;
  }

  /**
   * Asks a handler of the operator. Fulfilled with its answer, whatever `code` the handler has given it. While there is no
   * connection it waits. It is sent once: if the connection ends before the answer it fails with `UNKNOWN`.
   */
  request(route: string, body: object = {}, { key }: { key?: string } = {}): Promise<Body> {
    return pending((resolve, reject) => {
      if (this.#host._closed) throw this.#host._closed;
      const text = request(route, body, key);
      const giveBack = this.#host._budget._take(text);
      const fail = (why: ChatError) => {
        giveBack();
        reject(this.#host._closed ?? why);
      };
      const send = (connection: Connection) =>
        connection._ask(text, (reply) => {
          if (!reply) return fail(failure('UNKNOWN', 'the connection ended before the answer: it may have been done'));
          // What the server refuses says whether a retry helps. What the handler answers is the app's.
          if (reply.code && reply.reason) return fail(new ChatError(reply));
          giveBack();
          resolve(reply);
        });
      if (this.#host._online) send(this.#host._online);
      else this.#waiting.add({ send, fail });
    });
  }

  /** Logs out. The session is forgotten, and everything that waits fails with `CLOSED`. */
  close(): void {
    this.#store._forget();
    this.#over(failure('CLOSED', 'close() was called'));
  }

  async #connect(): Promise<void> {
    clearTimeout(this.#timer);
    const attempt = ++this.#attempt;
    this.#to('connecting');
    // A listener may have closed the chat.
    if (attempt !== this.#attempt) return;
    try {
      const { token: hasToken, WebSocket, pingMs, silenceMs } = this.#options;
      let token: string | undefined;
      if (hasToken) {
        this.#timer = setTimeout(
          () => this.#drop(failure('TOKEN_FAILED', 'token() has not answered', true)),
          this.#options.longestPauseMs,
        );
        token = await this.#token();
      }
      if (attempt !== this.#attempt) return;
      clearTimeout(this.#timer);
      const owner: Owner = {
        _opened: () => this.#login(token),
        _pushed: (push) => this.#push(push),
        _lasted: () => this.#pauses._reset(),
        _lost: (why) => this.#drop(why),
      };
      const url = this.#urls[this.#tries++ % this.#urls.length]!;
      this.#connection = new Connection(new WebSocket!(url), owner, pingMs, silenceMs);
    } catch (error) {
      if (attempt === this.#attempt) this.#fail(error);
    }
  }

  /** Gets a token of the app. Fails with `TOKEN_FAILED` or `NO_TOKEN`. */
  async #token(): Promise<string> {
    let token;
    try {
      token = await this.#options.token!();
    } catch (cause) {
      throw failure('TOKEN_FAILED', `token() has failed: ${cause}`, true);
    }
    if (!token) throw failure('NO_TOKEN', 'token() has returned nothing');
    return token;
  }

  #fail(error: unknown): void {
    const why = error instanceof ChatError ? error : failure('LOST', `no connection: ${error}`, true);
    if (why.retry) this.#drop(why);
    else this.#over(why);
  }

  #login(token: string | undefined): void {
    const connection = this.#connection!;
    const body = { userId: this.#options.user, token, positions: true, resume: this.#store._secret };
    connection._ask(request('connector.handler.login', body), (reply) => {
      // Without an answer the connection has ended, and its end was told.
      if (reply?.code) this.#refused(reply);
      else if (reply) this.#loggedIn(connection, reply);
    });
  }

  #loggedIn(connection: Connection, { resume, ttl }: Reply): void {
    this.#isTokenDoubted = this.#isSecretDoubted = false;
    this.#store._secret = resume;
    this.#store._changed();
    this.#host._online = connection;
    this.#refreshBefore(ttl);
    // All join again in one go.
    for (const channel of [...this.#channels.values()]) channel._online();
    for (const { send } of this.#waiting) send(connection);
    this.#waiting.clear();
    for (const { resolve } of this.#onlines.splice(0)) resolve();
    this.#to('online');
  }

  #refused(reply: Reply): void {
    const why = new ChatError(reply);
    // Without a session of ours before, it is somebody else who is in under this name.
    const isTaken = why.reason === 'USER_LOGGED_IN' && !this.#store._secret;
    if (why.reason === 'INVALID_PARAMETER' && this.#store._secret && this.#isSecretDoubted) {
      // It may be the secret that somebody else has written there.
      this.#store._secret = undefined;
      this.#drop(why);
    } else if (why.retry && !isTaken) this.#drop(why, reply.retryAfterMs);
    else this.#doubtToken(why);
  }

  /** It is over for good, unless a new token helps. */
  #doubtToken(why: ChatError): void {
    if (isOfToken(why.reason) && this.#options.token && !this.#isTokenDoubted) {
      this.#isTokenDoubted = true;
      this.#drop(why);
    } else this.#over(why);
  }

  #push(push: Push): void {
    const { route, channel, offset, body } = push;
    if (channel !== undefined) this.#channels.get(channel)?._push(push);
    else if (offset === undefined && route) {
      if (route === 'onKick') this.#kicked(body);
      else if (route === 'onAdded') this.channel(body.channel)._added(body.position);
      else if (route === 'onRemoved') this.#channels.get(body.channel)?._removed();
      else if (route === 'onExpired') this.#refreshAfter(0);
      else this.#emitter._emit('push', { route, body });
    }
  }

  #kicked({ reason, reconnect, reconnectAfterMs }: Body): void {
    const why = failure(reason, `the server has closed the connection: ${reason}`, reconnect !== false);
    if (reconnect !== false) this.#drop(why, reconnectAfterMs);
    else this.#doubtToken(why);
  }

  /** A refresh comes well before the token expires, and not at the same moment as that of all others. */
  #refreshBefore(ttl: number | undefined): void {
    if (ttl !== undefined) this.#refreshAfter(ttl * 1_000 * (0.8 - 0.1 * Math.random()));
  }

  #refreshAfter(ms: number): void {
    clearTimeout(this.#refresh);
    if (this.#options.token) this.#refresh = setTimeout(() => this.#refreshToken(), Math.min(ms, LONGEST_TIMER_MS));
  }

  async #refreshToken(): Promise<void> {
    const connection = this.#host._online;
    // The old token still holds. If no new one comes in time, the server closes the connection, and says so.
    const again = (atLeastMs?: number) => this.#refreshAfter(this.#refreshPauses._next(atLeastMs));
    try {
      const token = await this.#token();
      if (connection !== this.#host._online) return;
      connection?._ask(request('connector.handler.refresh', { token }), (reply) => {
        if (!reply) return;
        if (reply.code) return again(reply.retryAfterMs);
        this.#refreshPauses._reset();
        this.#refreshBefore(reply.ttl);
      });
    } catch (error) {
      if (connection !== this.#host._online) return;
      if ((error as ChatError).retry) again();
      else this.#over(error as ChatError);
    }
  }

  #wake(): void {
    if (this.#host._online) this.#host._online._ping();
    else if (this.#state === 'away') {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#connect(), this.#notBefore - now());
    }
  }

  /** Gives up the connection, and makes another one later. */
  #drop(why: ChatError, atLeastMs = 0): void {
    if (this.#host._closed || this.#state === 'away') return;
    this.#detach();
    const pause = this.#pauses._next(atLeastMs);
    this.#notBefore = now() + atLeastMs;
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#to('away', why, pause);
  }

  /** Ends everything, for good. */
  #over(why: ChatError): void {
    if (this.#host._closed) return;
    this.#closedBy = why;
    this.#host._closed = failure('CLOSED', `the chat is closed: ${why.reason}`);
    this.#detach(1000);
    this.#stopWatchingPage();
    this.#store._flush();
    for (const channel of this.#channels.values()) channel._close(this.#host._closed);
    for (const { fail } of this.#waiting) fail(why);
    this.#waiting.clear();
    for (const { reject } of this.#onlines.splice(0)) reject(why);
    this.#to('closed', why);
  }

  #detach(code?: number): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#refresh);
    this.#attempt++;
    this.#host._online = undefined;
    const connection = this.#connection;
    this.#connection = undefined;
    connection?._end(code);
    for (const channel of this.#channels.values()) channel._offline();
  }

  #to(state: State, error?: ChatError, retryInMs?: number): void {
    this.#state = state;
    this.#emitter._emit('state', {
      state,
      ...(error && { reason: error.reason, message: error.message, error }),
      ...(retryInMs !== undefined && { retryInMs }),
    });
  }
}
