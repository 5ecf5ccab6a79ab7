// An invented server, and a clock that the test moves. So nothing here waits.

import assert from 'node:assert/strict';
import { mock } from 'node:test';
import { connect } from '../dist/index.js';

export const LOGIN = 'connector.handler.login';
export const REFRESH = 'connector.handler.refresh';
export const PING = 'connector.handler.ping';
export const JOIN = 'chat.handler.join';
export const LEAVE = 'chat.handler.leave';
export const PUBLISH = 'chat.handler.publish';

/** Refused for now. */
export const later = (reason, retryAfterMs = 1_000) => ({ code: 500, reason, retry: true, retryAfterMs });
/** Refused for good. */
export const never = (reason, code = 1) => ({ code, reason, message: `no: ${reason}`, retry: false });

/** Waits until everything has run that needs no time. */
export const settled = () => new Promise(setImmediate);

/** The server's end of one WebSocket of the library. */
class Socket {
  readyState = 0;
  /** What the library has sent. */
  asked = [];
  closedWith;

  constructor(url) {
    this.url = url;
  }

  send(text) {
    assert.equal(this.readyState, 1, 'a socket that is not open takes nothing');
    this.asked.push(JSON.parse(text));
  }

  close(...code) {
    this.readyState = 2;
    this.closedWith = code[0];
  }

  async open() {
    this.readyState = 1;
    this.onopen();
    await settled();
  }

  /** All requests of this route. */
  of(route) {
    return this.asked.filter((request) => request.route === route);
  }

  /** The last one. */
  last(route) {
    return this.of(route).at(-1);
  }

  /** Sends what is given, all in one go, as a network may. */
  async say(...messages) {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
    await settled();
  }

  /** Answers a request: the last one of its route unless it is given. */
  async answer(request, body = { code: 0 }) {
    const { id } = typeof request === 'string' ? this.last(request) : request;
    await this.say({ id, body });
  }

  /** The connection ends. */
  async end(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose?.({ code, reason });
    await settled();
  }

  async kick(body) {
    await this.say({ route: 'onKick', body });
  }
}

/** A storage as a browser has it. */
export class Storage {
  items = new Map();
  writes = 0;
  getItem = (key) => this.items.get(key) ?? null;
  setItem = (key, text) => {
    this.writes += 1;
    this.items.set(key, text);
  };
  removeItem = (key) => this.items.delete(key);
}

/** One test's world. */
export class World {
  sockets = [];
  chats = [];
  /** What all chats have told of their state. */
  states = [];

  constructor(t) {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: Date.now() });
    // Time is only what the test moves.
    this.steady = 0;
    mock.method(performance, 'now', () => this.steady);
    this.random = 1;
    mock.method(Math, 'random', () => this.random);
    t.after(async () => {
      for (const chat of this.chats) chat.close();
      await settled();
      mock.timers.reset();
      mock.restoreAll();
    });
  }

  /** A chat whose connections are sockets of this world. */
  async connect(options = {}, url = 'ws://server/ws') {
    const { sockets } = this;
    const WebSocket = function (...given) {
      sockets.push(new Socket(...given));
      return sockets.at(-1);
    };
    const chat = connect(url, { user: 'ann', WebSocket, ...options });
    this.chats.push(chat);
    chat.on('state', ({ error: _, ...event }) => this.states.push(event));
    await settled();
    return chat;
  }

  /** The newest socket. */
  get socket() {
    return this.sockets.at(-1);
  }

  /** Lets the newest socket's login succeed. Returns what the login said. */
  async letIn(more = {}) {
    await this.socket.open();
    const { body } = this.socket.last(LOGIN);
    await this.socket.answer(LOGIN, { code: 0, resume: 'secret', ...more });
    return body;
  }

  /** A chat that is logged in. */
  async online(options, url) {
    const chat = await this.connect(options, url);
    await this.letIn();
    return chat;
  }

  /** A chat that is logged in, and a channel in which it is. */
  async inside(options, offset = 10) {
    const chat = await this.online(options);
    const channel = chat.channel('room');
    const seen = watch(channel);
    await this.enter(channel, offset);
    return { chat, channel, seen };
  }

  /** Joins a channel. */
  async enter(channel, offset = 10) {
    const joined = channel.join();
    await settled();
    await this.socket.answer(JOIN, { code: 0, position: { epoch: 'e', offset }, recovered: false, replayed: 0 });
    return joined;
  }

  /** Loses the connection, and opens and logs in the next one. Returns the join that it sent last. */
  async reconnect() {
    await this.socket.end();
    await this.pass(this.states.at(-1).retryInMs);
    await this.letIn();
    return this.socket.last(JOIN);
  }

  /** Moves the time. In small steps, because a timer that fires late looks like a machine that slept. */
  async pass(ms) {
    for (let left = ms; left > 0; ) {
      const step = left > 100_000 ? 1_000 : 1;
      mock.timers.tick(step);
      left -= step;
      if (left % 100 === 0) await settled();
    }
    await settled();
  }

  /** Moves only the clock, as if the machine slept. Timers that are due fire when it wakes. */
  sleep(ms) {
    mock.timers.setTime(Date.now() + ms);
  }

  /** Passes time in which the server answers pings. */
  async idle(ms) {
    for (let left = ms; left > 0; left -= 5_000) {
      await this.pass(Math.min(left, 5_000));
      for (const ping of this.socket.of(PING)) await this.socket.answer(ping);
    }
  }
}

/** Collects the events of a channel as `[name, event]`. */
export function watch(channel, names = ['message', 'join', 'leave', 'lost', 'joined', 'parted', 'ephemeral', 'typing']) {
  const seen = [];
  for (const name of names) channel.on(name, (event) => seen.push([name, event]));
  return seen;
}

/** The names alone, or with one field of each. */
export const names = (seen, field) => seen.map(([name, event]) => (field ? [name, event[field]] : name));

/** A push of a message. */
export const message = (offset, content = `m${offset}`, channel = 'room') => ({
  route: 'onMessage',
  channel,
  offset,
  time: 1_000 + offset,
  body: { content, userId: 'ben' },
});

/** The reason for which a promise fails. */
export const reasonOf = (promise) =>
  promise.then(
    (value) => assert.fail(`it did not fail: ${JSON.stringify(value)}`),
    ({ reason }) => reason,
  );

/** Whether a promise is settled, without waiting. */
export async function isPending(promise) {
  const no = {};
  await settled();
  return (await Promise.race([promise.catch(() => {}), no])) === no;
}
