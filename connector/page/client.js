// A client for the protocol in docs/protocols/json.md. It stays logged in whatever happens to its connection. It gets
// what it missed, sends nothing twice, notices when the server is gone, and does not repeat what was refused for good.

const PING_MS = 10_000; // Ask this often: a browser hides WebSocket's pings from programs.
const SILENCE_MS = 5_000; // No answer for so long means a dead connection. Answers take 2 s at most.
const LONGEST_PAUSE_MS = 20_000;
const TOO_BIG = 1009; // WebSocket's close code for a message beyond the server's limit.
const KEPT = 'session'; // The key under which a tab stores who is logged in there.

/** Who was logged in before this tab was reloaded: `user`, `home` and `secret`. Each tab is a session of its own. */
export function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? undefined;
  } catch {
    // The browser may not allow storage.
  }
}

function remember(session) {
  try {
    if (session) sessionStorage.setItem(KEPT, JSON.stringify(session));
    else sessionStorage.removeItem(KEPT);
  } catch {
    // As above.
  }
}

export class Client {
  #socket;
  #state = 'connecting';
  #kicked;
  #secret; // for our place: from the first login on, or from before a reload
  #lastId = 0;
  #waiting = new Map(); // id → what to do with the answer
  #unanswered = new Map(); // key → a message whose outcome is not known
  #failures = 0;
  #timers = {};

  /**
   * `on` is told: `state(name, why)` ('connecting', 'online', 'away', 'over'), `joined(channel, position)`,
   * `parted(channel, why)`, `push(channel, push)`, `gap(channel, reason)`, `sent(key)`, `refused(key, why)`. Each `why` has
   * a `reason`: that of a refusal or of onKick, or one of LOST, NO_ANSWER, OFFLINE, TOO_BIG, LOGGED_OUT.
   */
  constructor(url, user, home, on) {
    Object.assign(this, { url, user, home, on, channels: new Map([[home, undefined]]) });
    const before = remembered();
    if (before?.user === user) this.#secret = before.secret;
    addEventListener('offline', () => this.#lost({ reason: 'OFFLINE' }));
    addEventListener('online', () => this.#state === 'away' && this.connect());
  }

  connect() {
    clearTimeout(this.#timers.retry);
    this.#to('connecting');
    this.#kicked = undefined;
    const socket = (this.#socket = new WebSocket(this.url));
    this.#expectSomething();
    socket.onopen = () => this.#enter();
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#closed(code);
  }

  /** Sends a request and returns the body of its answer. Fails if the connection ends first. */
  ask(route, body) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error('not connected'));
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ id, route, body }));
      this.#expectSomething();
    });
  }

  async join(channel) {
    // With a position, the server sends what followed it. Without one, the channel begins now.
    const since = this.channels.get(channel);
    const reply = await this.ask('chat.handler.join', { channel, ...(since ? { since } : { positions: true }) });
    if (reply.code === 0) this.#joined(channel, reply);
    return reply;
  }

  async leave(channel) {
    this.channels.delete(channel);
    return this.ask('chat.handler.leave', { channel });
  }

  /** Sends until the outcome is known. Every try has the same key, so the message is stored once. */
  say(channel, body) {
    const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
    this.#unanswered.set(key, { channel, body, tries: 0 });
    this.#send(key);
    return key;
  }

  close() {
    this.#over({ reason: 'LOGGED_OUT' });
  }

  async #enter() {
    try {
      const since = this.channels.get(this.home);
      const body = { userId: this.user, lessonId: this.home, ...(since ? { since } : { positions: true }) };
      // The secret proves that the lost connection was ours. So its place is ours at once.
      if (this.#secret) body.resume = this.#secret;
      const reply = await this.ask('connector.handler.login', body);
      if (reply.code !== 0) return this.#refused(reply);
      this.#secret = reply.resume;
      remember({ user: this.user, home: this.home, secret: this.#secret });
      this.#joined(this.home, reply);
      for (const channel of [...this.channels.keys()]) {
        if (channel !== this.home) await this.#joinAgain(channel);
      }
      // `on.state` may call `say`, which sends at once. The older messages are listed before, so that none is sent
      // twice.
      const waiting = [...this.#unanswered.keys()];
      this.#to('online');
      for (const key of waiting) this.#send(key);
      this.#timers.ping = setInterval(() => this.#ping(), PING_MS);
    } catch {
      // The connection ended. `#closed` and `#lost` deal with that.
    }
  }

  #refused(why) {
    // USER_LOGGED_IN is worth a retry only if we were in before: then it may be our own old connection, which the
    // server has not yet found to be gone.
    const cameBack = this.channels.get(this.home) !== undefined;
    if (!why.retry || (why.reason === 'USER_LOGGED_IN' && !cameBack)) this.#over(why);
    else this.#lost(why, why.retryAfterMs);
  }

  async #joinAgain(channel) {
    const why = await this.join(channel);
    if (why.code === 0) return;
    if (why.retry) {
      this.#lost(why, why.retryAfterMs);
      throw new Error(why.reason);
    }
    this.channels.delete(channel);
    this.on.parted(channel, why);
  }

  #joined(channel, { position }) {
    // If we gave a position, pushes go on from there.
    if (this.channels.get(channel) === undefined) {
      this.channels.set(channel, position);
      this.on.joined(channel, position);
    }
  }

  #receive({ id, route, channel, offset, body, time }) {
    this.#silenceIsOver();
    if (id !== undefined) {
      this.#waiting.get(id)?.resolve(body);
      this.#waiting.delete(id);
      if (this.#waiting.size > 0) this.#expectSomething();
    } else if (route === 'onKick') {
      this.#kicked = body;
    } else if (!channel || !this.channels.get(channel)) {
      // A push of a channel that we have left by now.
    } else if (route === 'onPosition') {
      this.channels.set(channel, { epoch: body.epoch, offset: body.offset });
      if (body.reason !== 'new-epoch') this.on.gap(channel, body.reason);
    } else {
      this.channels.get(channel).offset = offset;
      // Without a route it stands for a message of our own that was for the others.
      if (route) this.on.push(channel, { route, body, time });
    }
  }

  async #send(key) {
    const message = this.#unanswered.get(key);
    const { channel, body } = message;
    const socket = this.#socket;
    try {
      const asked = this.ask('chat.handler.publish', { channel, body, key });
      message.socket = socket;
      const reply = await asked;
      if (reply.code === 0) {
        this.#failures = 0;
        if (this.#unanswered.delete(key)) this.on.sent(key);
      } else if (reply.retry) {
        // Try again with the same key.
        const pause = Math.min(LONGEST_PAUSE_MS, reply.retryAfterMs * 2 ** message.tries++);
        setTimeout(() => this.#socket === socket && this.#send(key), pause * (1 + Math.random() / 2));
      } else {
        this.#refuse(key, reply);
      }
    } catch {
      // It is sent again when we are connected again.
    }
  }

  #refuse(key, why) {
    if (this.#unanswered.delete(key)) this.on.refused(key, why);
  }

  async #ping() {
    try {
      await this.ask('connector.handler.ping');
      // Only a connection that lasts is a success. That it could be opened says little.
      this.#failures = 0;
    } catch {
      // As above.
    }
  }

  /** After a question, a connection that brings nothing for a while counts as dead, even if its socket is open. */
  #expectSomething() {
    this.#timers.silence ??= setTimeout(() => this.#lost({ reason: 'NO_ANSWER' }), SILENCE_MS);
  }

  #silenceIsOver() {
    clearTimeout(this.#timers.silence);
    this.#timers.silence = undefined;
  }

  #closed(code) {
    if (code === TOO_BIG) this.#giveUpLargest();
    if (this.#kicked?.reconnect === false) this.#over(this.#kicked);
    else this.#lost(this.#kicked ?? { reason: 'LOST', message: `connection lost (${code})` }, this.#kicked?.reconnectAfterMs);
  }

  /** Gives up the largest message of this connection: it was too large, and would end the next connection, too. */
  #giveUpLargest() {
    const sent = [...this.#unanswered].filter(([, { socket }]) => socket === this.#socket);
    const size = ([, { body }]) => JSON.stringify(body).length;
    const largest = sent.sort((one, other) => size(other) - size(one))[0];
    if (largest) this.#refuse(largest[0], { reason: 'TOO_BIG' });
  }

  /** Connects again later. The old socket is dropped at once: on a dead network it may take minutes to close. */
  #lost(why, atLeast = 0) {
    if (!this.#detach()) return;
    // A random pause, longer after each failure, because other clients have lost their connections, too.
    const longest = Math.min(LONGEST_PAUSE_MS, 500 * 2 ** this.#failures++);
    this.#timers.retry = setTimeout(() => this.connect(), atLeast + longest * (0.5 + Math.random() / 2));
    this.#to('away', why);
  }

  #over(why) {
    clearTimeout(this.#timers.retry);
    this.#detach();
    // The place is another session's, or nobody's. It must not be claimed again.
    if (remembered()?.user === this.user) remember(undefined);
    this.#to('over', why);
  }

  /** False if there was no socket. */
  #detach() {
    const socket = this.#socket;
    if (!socket) return false;
    this.#socket = undefined;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#silenceIsOver();
    clearInterval(this.#timers.ping);
    for (const { reject } of this.#waiting.values()) reject(new Error('the connection ended'));
    this.#waiting.clear();
    return true;
  }

  #to(state, why) {
    this.#state = state;
    this.on.state(state, why);
  }
}
