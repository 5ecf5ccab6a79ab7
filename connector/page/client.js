// A client of docs/protocols/json.md: it stays logged in through whatever happens to its connection, is given what it missed,
// and sends nothing twice.

const LOGGED_IN_ELSEWHERE = '用户已登录';
const ANSWER_MS = 5_000; // The connector answers within 2 s.
const PULSE_MS = 20_000;

export class Client {
  #socket;
  #kicked;
  #lastId = 0;
  #waiting = new Map(); // id → what to do with the answer
  #unanswered = new Map(); // key → a message that may not have arrived
  #failures = 0;
  #timers = {};

  /**
   * `on` is told: `state(name, detail)` ('connecting', 'online', 'away', 'over'), `joined(channel, reply)`,
   * `push(channel, push)`, `gap(channel, reason)`, `sent(key)`, `refused(key, message)`.
   */
  constructor(url, user, home, on) {
    Object.assign(this, { url, user, home, on, channels: new Map([[home, undefined]]) });
    addEventListener('offline', () => this.#socket?.close());
    addEventListener('online', () => this.#retryAt(0));
  }

  connect() {
    clearTimeout(this.#timers.retry);
    this.on.state('connecting');
    this.#kicked = undefined;
    const socket = (this.#socket = new WebSocket(this.url));
    socket.onopen = () => this.#enter();
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#closed(code);
  }

  /** An answer's body; fails if the connection ends first. */
  ask(route, body) {
    if (this.#socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error('not connected'));
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const late = setTimeout(() => this.#socket.close(), ANSWER_MS);
      this.#waiting.set(id, { resolve, reject, late });
      this.#socket.send(JSON.stringify({ id, route, body }));
    });
  }

  async join(channel) {
    // Whoever has a position is given what followed it; the others begin now.
    const since = this.channels.get(channel);
    const reply = await this.ask('chat.handler.join', { channel, ...(since ? { since } : { positions: true }) });
    if (reply.code === 0) this.#joined(channel, reply);
    return reply;
  }

  async leave(channel) {
    this.channels.delete(channel);
    return this.ask('chat.handler.leave', { channel });
  }

  /** Sends until it is known what became of it: with the same key it is the same message. */
  say(channel, body) {
    const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
    this.#unanswered.set(key, { channel, body });
    this.#send(key);
    return key;
  }

  close() {
    this.#kicked = { reason: 'logged out', reconnect: false };
    this.#socket.close(1000);
  }

  async #enter() {
    try {
      const since = this.channels.get(this.home);
      const body = { userId: this.user, lessonId: this.home, ...(since ? { since } : { positions: true }) };
      const reply = await this.ask('connector.handler.login', body);
      if (reply.code !== 0) return this.#refused(reply);
      this.#failures = 0;
      this.#joined(this.home, reply);
      for (const channel of [...this.channels.keys()]) {
        if (channel !== this.home) await this.join(channel);
      }
      this.on.state('online');
      for (const key of [...this.#unanswered.keys()]) this.#send(key);
      this.#pulse();
    } catch {
      // The connection ended, which is dealt with there.
    }
  }

  #refused({ message, code }) {
    const cameBack = this.channels.get(this.home) !== undefined;
    // A connection that was lost may count as there for a while; a failure passes.
    const reconnect = code === 500 || (cameBack && message === LOGGED_IN_ELSEWHERE);
    this.#kicked = { reason: message ?? 'the server has a problem', reconnect };
    this.#socket.close();
  }

  #joined(channel, { position }) {
    // Who gave a position goes on counting from that, by pushes.
    if (this.channels.get(channel) === undefined) {
      this.channels.set(channel, position);
      this.on.joined(channel, position);
    }
  }

  #receive({ id, route, channel, offset, body, time }) {
    if (id !== undefined) {
      const { resolve, late } = this.#waiting.get(id);
      clearTimeout(late);
      this.#waiting.delete(id);
      resolve(body);
    } else if (route === 'onKick') {
      this.#kicked = body;
    } else if (route === 'onPosition') {
      this.channels.set(channel, { epoch: body.epoch, offset: body.offset });
      if (body.reason !== 'new-epoch') this.on.gap(channel, body.reason);
    } else if (this.channels.has(channel)) {
      this.channels.get(channel).offset = offset;
      // Without a route it is a message of our own that was for the others.
      if (route) this.on.push(channel, { route, body, time });
    }
  }

  async #send(key) {
    try {
      const reply = await this.ask('chat.handler.publish', { ...this.#unanswered.get(key), key });
      // A failure is an unknown outcome: once more, under the same key.
      if (reply.code === 500) return setTimeout(() => this.#send(key), 500 + 1_000 * Math.random());
      this.#unanswered.delete(key);
      reply.code === 0 ? this.on.sent(key) : this.on.refused(key, reply.message);
    } catch {
      // It is sent again when we are back.
    }
  }

  /** A connection may be dead without a word: something is asked from time to time, and the answer missed. */
  #pulse() {
    clearInterval(this.#timers.pulse);
    this.#timers.pulse = setInterval(() => this.ask('chat.handler.members', { page_size: 1 }).catch(() => {}), PULSE_MS);
  }

  #closed(code) {
    clearInterval(this.#timers.pulse);
    for (const { reject, late } of this.#waiting.values()) {
      clearTimeout(late);
      reject(new Error('the connection ended'));
    }
    this.#waiting.clear();
    if (this.#kicked?.reconnect === false) return this.on.state('over', this.#kicked.reason);
    // At random, and longer after each failure: others have lost theirs, too.
    const longest = Math.min(20_000, 500 * 2 ** this.#failures++);
    this.on.state('away', this.#kicked?.reason ?? `connection lost (${code})`);
    this.#retryAt(longest * (0.5 + Math.random() / 2));
  }

  #retryAt(pause) {
    if (this.#socket?.readyState !== WebSocket.CLOSED || this.#kicked?.reconnect === false) return;
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.connect(), pause);
  }
}
