'use strict';

// The page's client alone, with invented sockets and a clock that the test moves. So nothing here waits for minutes.

const fs = require('node:fs');
const path = require('node:path');
const { mock } = require('node:test');
require('should');

const LOGIN = 'connector.handler.login';
const PUBLISH = 'chat.handler.publish';
const sockets = [];

/** A socket of the client. The test plays the server. */
class Socket {
  static OPEN = 1;
  readyState = 0;
  asked = [];

  constructor() {
    sockets.push(this);
  }

  send(text) {
    this.asked.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = Socket.OPEN;
    this.onopen();
  }

  of(route) {
    return this.asked.filter((request) => request.route === route);
  }

  /** Answers the last request of this route. */
  async answer(route, body) {
    const { id } = this.of(route).at(-1);
    this.onmessage({ data: JSON.stringify({ id, body }) });
    await settled();
  }

  async push(message) {
    this.onmessage({ data: JSON.stringify(message) });
    await settled();
  }

  async end(code) {
    this.readyState = 3;
    this.onclose?.({ code });
    await settled();
  }
}

/** Waits until everything has run that needs no time. */
const settled = () => new Promise(setImmediate);

/** The session storage of a tab. */
class Storage {
  #items = new Map();
  getItem = (name) => this.#items.get(name) ?? null;
  setItem = (name, text) => this.#items.set(name, text);
  removeItem = (name) => this.#items.delete(name);
}

const globals = { WebSocket: Socket, addEventListener: () => {} };
const file = path.join(__dirname, '../../connector/page/client.js');
const module_ = `data:text/javascript,${encodeURIComponent(fs.readFileSync(file, 'utf8'))}`;

describe("the page's client", function () {
  let Client;
  let remembered;
  let told;

  before(async function () {
    Object.assign(globalThis, globals);
    ({ Client, remembered } = await import(module_));
  });

  beforeEach(function () {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    // The longest of the pauses that it may choose.
    mock.method(Math, 'random', () => 1);
    globalThis.sessionStorage = new Storage();
    sockets.length = 0;
    told = [];
  });

  afterEach(function () {
    mock.timers.reset();
    mock.restoreAll();
  });

  function connect(user = 'anna') {
    const on = {};
    for (const name of ['state', 'joined', 'parted', 'push', 'gap', 'sent', 'refused']) {
      on[name] = (...what) => told.push([name, ...what]);
    }
    const client = new Client('ws://server/ws', user, 'lobby', on);
    client.connect();
    return client;
  }

  const states = () => told.filter(([name]) => name === 'state').map(([, state]) => state);

  /** Lets the next login succeed, and returns what it sent. */
  async function letIn() {
    const socket = sockets.at(-1);
    socket.open();
    await socket.answer(LOGIN, { code: 0, resume: 'secret', position: { epoch: 'a', offset: 0 } });
    states().at(-1).should.equal('online');
    return socket.of(LOGIN)[0].body;
  }

  /** Loses its connection and comes back after exactly this time. */
  async function losesItsConnectionFor(pause) {
    const count = sockets.length;
    await sockets.at(-1).end(1006);
    states().at(-1).should.equal('away');
    mock.timers.tick(pause - 1);
    sockets.length.should.equal(count, `sooner than after ${pause} ms`);
    mock.timers.tick(1);
    sockets.length.should.equal(count + 1, `not after ${pause} ms`);
  }

  it('waits longer and longer while connections are of no use, though each login succeeds', async function () {
    connect();
    for (const pause of [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]) {
      await letIn();
      await losesItsConnectionFor(pause);
    }
    // The same when nothing can be opened.
    await losesItsConnectionFor(20_000);
    // A ping that is answered after the login shows that the connection is of use,
    await letIn();
    mock.timers.tick(10_000);
    await sockets.at(-1).answer('connector.handler.ping', { code: 0 });
    await losesItsConnectionFor(500);
    await letIn();
    await losesItsConnectionFor(1_000);
    // and so does a message.
    const client = connect();
    await letIn();
    await losesItsConnectionFor(500);
    await letIn();
    client.say('lobby', { content: 'hello' });
    await sockets.at(-1).answer(PUBLISH, { code: 0 });
    await losesItsConnectionFor(500);
  });

  it('repeats what was refused for now under the same key, and never what was refused for good', async function () {
    const client = connect();
    await letIn();
    const key = client.say('lobby', { content: 'hello' });
    for (const pause of [1_000, 2_000, 4_000]) {
      const socket = sockets.at(-1);
      const count = socket.of(PUBLISH).length;
      await socket.answer(PUBLISH, { code: 500, reason: 'UNAVAILABLE', retry: true, retryAfterMs: 1_000 });
      // It sends the message again after at most half as much more, because other clients wait, too.
      mock.timers.tick(pause * 1.5 - 1);
      socket.of(PUBLISH).length.should.equal(count);
      mock.timers.tick(1);
      socket.of(PUBLISH).length.should.equal(count + 1);
    }
    await sockets.at(-1).answer(PUBLISH, { code: 1, reason: 'KEY_REUSED', retry: false });
    const said = sockets[0].of(PUBLISH);
    said.length.should.equal(4);
    for (const { body } of said) body.key.should.equal(key);
    const refused = () => told.filter(([name]) => name === 'refused').map(([, key, { reason }]) => [key, reason]);
    refused().should.eql([[key, 'KEY_REUSED']]);

    // Neither on this connection nor on the next.
    mock.timers.tick(4_000);
    await losesItsConnectionFor(500);
    await letIn();
    mock.timers.tick(4_000);
    await settled();
    for (const socket of sockets.slice(1)) socket.of(PUBLISH).should.eql([]);
    sockets[0].of(PUBLISH).length.should.equal(4);
    refused().length.should.equal(1);
  });

  it('shows its secret when it comes back, also after a reload, to the same user alone', async function () {
    connect();
    (await letIn()).should.not.have.property('resume');
    await losesItsConnectionFor(500);
    (await letIn()).should.have.property('resume', 'secret');
    remembered().should.eql({ user: 'anna', home: 'lobby', secret: 'secret' });
    // A page that is loaded again knows nothing else.
    connect();
    (await letIn()).should.have.property('resume', 'secret');
    connect('ben');
    (await letIn()).should.not.have.property('resume');
    // Another tab knows nothing.
    globalThis.sessionStorage = new Storage();
    connect();
    (await letIn()).should.not.have.property('resume');
  });

  it('forgets its secret when its session is over, and keeps it as long as it may come back', async function () {
    const kicked = (body) => async () => {
      await sockets.at(-1).push({ route: 'onKick', body });
      await sockets.at(-1).end(4000);
    };
    const refused = (body) => async () => {
      await losesItsConnectionFor(500);
      sockets.at(-1).open();
      await sockets.at(-1).answer(LOGIN, { code: 1, ...body });
    };
    for (const [state, end] of [
      ['over', kicked({ reason: 'kick', reconnect: false })],
      ['over', kicked({ reason: 'replaced', reconnect: false })],
      ['over', refused({ reason: 'INVALID_PARAMETER', retry: false })],
      ['over', (client) => client.close()],
      ['away', kicked({ reason: 'shutdown', reconnect: true })],
      ['away', refused({ reason: 'TRY_LATER', retry: true, retryAfterMs: 1_000 })],
    ]) {
      globalThis.sessionStorage = new Storage();
      const client = connect();
      await letIn();
      await end(client);
      states().at(-1).should.equal(state);
      (remembered() === undefined).should.equal(state === 'over', String(end));
      const count = sockets.length;
      mock.timers.tick(60_000);
      (sockets.length > count).should.equal(state === 'away');
    }
  });

  it('logs in also where a browser keeps nothing', async function () {
    delete globalThis.sessionStorage;
    connect();
    await letIn();
    await losesItsConnectionFor(500);
    (await letIn()).should.have.property('resume', 'secret');
  });
});
