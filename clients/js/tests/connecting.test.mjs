// How a chat connects, stays connected, and ends.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { connect } from '../dist/index.js';
import { isPending, later, LOGIN, never, PING, PUBLISH, reasonOf, settled, World } from './world.mjs';

const kinds = (world) => world.states.map(({ state }) => state);

test('an address may begin with http, and needs no path', async (t) => {
  const world = new World(t);
  for (const [given, meant] of [
    ['http://server:3010', 'ws://server:3010/ws'],
    ['https://server/', 'wss://server/ws'],
    ['HTTPS://server/?a=b', 'wss://server/ws?a=b'],
    ['ws://server/chat/ws', 'ws://server/chat/ws'],
    ['wss://[::1]:3010/ws?token=x', 'wss://[::1]:3010/ws?token=x'],
  ]) {
    await world.connect({}, given);
    assert.equal(world.socket.url, meant);
  }
});

test('what is no address is an error that shows one', () => {
  for (const wrong of ['server:3010', '/ws', 'ftp://server', 'ws://', 'ws://a b', 'ws://server/ws#top', '', [], undefined, ['ws://a', '']]) {
    assert.throws(() => connect(wrong ?? `${wrong}`, { user: 'ann', WebSocket: class {} }), /wss:\/\/chat\.example\/ws/, String(wrong));
  }
});

test('a chat needs somebody who logs in, and a WebSocket', () => {
  assert.throws(() => connect('ws://server', { WebSocket: class {} }), /option user/);
  if (!globalThis.WebSocket) assert.throws(() => connect('ws://server', { user: 'ann' }), /package "ws"/);
});

test('an option that is undefined was not given', async (t) => {
  const world = new World(t);
  const chat = await world.online({ token: undefined, storage: undefined, queueBytes: undefined, pingMs: undefined });
  void chat.channel('room').send({});
  await world.socket.answer(PUBLISH);
  await world.pass(9_999);
  assert.equal(world.socket.of(PING).length, 0);
  await world.pass(1);
  assert.equal(world.socket.of(PING).length, 1);
});

test('it connects at once, logs in, and tells each state', async (t) => {
  const world = new World(t);
  const chat = await world.connect({ user: 7 });
  assert.equal(chat.state, 'connecting');
  const online = chat.online();
  assert.ok(await isPending(online));
  const { userId, positions, resume } = await world.letIn();
  assert.deepEqual({ userId, positions, resume }, { userId: 7, positions: true, resume: undefined });
  await online;
  await chat.online();
  assert.equal(chat.state, 'online');
  await world.socket.end();
  assert.equal(chat.state, 'away');
  assert.deepEqual(kinds(world), ['connecting', 'online', 'away']);
  assert.deepEqual([world.states[2].reason, world.states[2].retryInMs], ['LOST', 500]);
});

test('each attempt is at the next address', async (t) => {
  const world = new World(t);
  await world.connect({}, ['ws://one', 'ws://two']);
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await world.socket.end();
    await world.pass(world.states.at(-1).retryInMs);
  }
  assert.deepEqual(world.sockets.map(({ url }) => url), ['ws://one/ws', 'ws://two/ws', 'ws://one/ws', 'ws://two/ws']);
});

test('pauses are random between nothing and a bound that doubles up to the longest pause', async (t) => {
  const world = new World(t);
  await world.connect();
  for (const longest of [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]) {
    await world.socket.end();
    assert.equal(world.states.at(-1).retryInMs, longest);
    const count = world.sockets.length;
    await world.pass(longest - 1);
    assert.equal(world.sockets.length, count, `sooner than after ${longest} ms`);
    await world.pass(1);
    assert.equal(world.sockets.length, count + 1);
  }
  world.random = 0;
  await world.socket.end();
  assert.equal(world.states.at(-1).retryInMs, 0);
});

test('pauses begin anew only after a connection that has lasted: a login alone does not count', async (t) => {
  const world = new World(t);
  const pause = async () => {
    await world.socket.end();
    const { retryInMs } = world.states.at(-1);
    await world.pass(retryInMs);
    return retryInMs;
  };
  const chat = await world.connect();
  for (const expected of [500, 1_000, 2_000]) {
    await world.letIn();
    assert.equal(await pause(), expected);
  }
  // An answered ping shows that it lasts,
  await world.letIn();
  await world.pass(10_000);
  await world.socket.answer(PING);
  assert.equal(await pause(), 500);
  await world.letIn();
  assert.equal(await pause(), 1_000);
  // and so does a stored message.
  await world.letIn();
  void chat.channel('room').send({});
  await world.socket.answer(PUBLISH);
  assert.equal(await pause(), 500);
});

test('a busy connection is pinged once, because only that shows that it lasts', async (t) => {
  const world = new World(t);
  await world.online();
  for (let second = 0; second < 30; second += 1) {
    await world.pass(1_000);
    await world.socket.say({ route: 'onNews', body: {} });
    if (world.socket.last(PING) && second < 12) await world.socket.answer(PING);
  }
  assert.equal(world.socket.of(PING).length, 1);
});

test('when the server says when to come back, it is not sooner', async (t) => {
  const world = new World(t);
  await world.online();
  await world.socket.kick({ reason: 'shutdown', reconnect: true, reconnectAfterMs: 30_000 });
  assert.deepEqual([world.states.at(-1).reason, world.states.at(-1).retryInMs], ['shutdown', 30_500]);
  await world.pass(30_500);
  await world.socket.open();
  await world.socket.answer(LOGIN, later('TRY_LATER', 7_000));
  assert.deepEqual([world.states.at(-1).reason, world.states.at(-1).retryInMs], ['TRY_LATER', 8_000]);
});

test('a kick that is final closes the chat, and another one does not', async (t) => {
  for (const [reason, reconnect, state] of [
    ['connector restarted', true, 'away'],
    ['slow', true, 'away'],
    ['replaced', false, 'closed'],
    ['kick', false, 'closed'],
    ['token expired', false, 'closed'],
  ]) {
    const world = new World(t);
    const chat = await world.online();
    await world.socket.kick({ reason, reconnect });
    assert.deepEqual([chat.state, world.states.at(-1).reason], [state, reason]);
    const count = world.sockets.length;
    await world.pass(60_000);
    assert.equal(world.sockets.length > count, state === 'away', reason);
    assert.equal(world.sockets[0].closedWith, state === 'away' ? undefined : 1000);
    chat.close();
    mock.timers.reset();
    mock.restoreAll();
  }
});

test('a refusal that may pass is repeated, and a final one closes the chat and says all that the server said', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  const online = chat.online();
  const failed = assert.rejects(online, ({ name, reason, code, retry, details }) => {
    assert.deepEqual([name, reason, code, retry, details.until], ['ChatError', 'BLOCKED', 401, false, 1_234]);
    return true;
  });
  await world.socket.open();
  await world.socket.answer(LOGIN, later('UNAVAILABLE'));
  assert.equal(chat.state, 'away');
  await world.pass(1_500);
  await world.socket.open();
  await world.socket.answer(LOGIN, { ...never('BLOCKED', 401), until: 1_234 });
  assert.equal(chat.state, 'closed');
  await failed;
  assert.equal(await reasonOf(chat.online()), 'BLOCKED');
  await world.pass(60_000);
  assert.equal(world.sockets.length, 2);
});

test('somebody else under this name ends a first login, but our own old session does not', async (t) => {
  const world = new World(t);
  const first = await world.connect();
  await world.socket.open();
  await world.socket.answer(LOGIN, later('USER_LOGGED_IN', 2_000));
  assert.equal(first.state, 'closed');
  const second = await world.online();
  await world.socket.end();
  await world.pass(500);
  await world.socket.open();
  await world.socket.answer(LOGIN, later('USER_LOGGED_IN', 2_000));
  assert.equal(second.state, 'away');
});

test('a session whose login was answered into a broken connection is our own, for a minute', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  await world.socket.open();
  await world.socket.end();
  for (const state of ['away', 'closed']) {
    await world.pass(world.states.at(-1).retryInMs);
    await world.socket.open();
    await world.socket.answer(LOGIN, later('USER_LOGGED_IN', 60_000));
    assert.equal(chat.state, state);
  }
});

test('a login that we gave up may come late and take our place: we take it back, once', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  await world.socket.end();
  await world.pass(500);
  await world.socket.open();
  // This login is on its way for longer than we wait.
  await world.pass(5_000);
  for (const state of ['away', 'closed']) {
    await world.pass(world.states.at(-1).retryInMs);
    await world.letIn();
    await world.socket.kick({ reason: 'replaced', reconnect: false });
    assert.equal(chat.state, state);
  }
});

test('the secret of the place is shown at the next login', async (t) => {
  const world = new World(t);
  await world.online();
  await world.socket.end();
  await world.pass(500);
  assert.equal((await world.letIn()).resume, 'secret');
});

test('it asks for a sign of life when nothing has come for a while, and not otherwise', async (t) => {
  const world = new World(t);
  await world.online();
  await world.pass(9_999);
  assert.equal(world.socket.of(PING).length, 0);
  await world.pass(1);
  assert.equal(world.socket.of(PING).length, 1);
  await world.socket.answer(PING);
  await world.pass(6_000);
  await world.socket.say({ route: 'onNews', body: {} });
  await world.pass(9_999);
  assert.equal(world.socket.of(PING).length, 1);
  await world.pass(1);
  assert.equal(world.socket.of(PING).length, 2);
});

test('a server that does not answer is given up without waiting for its close, and not heard any more', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const dead = world.socket;
  await world.pass(10_000);
  await world.pass(4_999);
  assert.equal(chat.state, 'online');
  await world.pass(1);
  assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', 'NO_ANSWER']);
  assert.equal(dead.readyState, 2);
  await dead.answer(PING);
  await dead.end();
  await world.pass(500);
  await world.letIn();
  assert.deepEqual(kinds(world), ['connecting', 'online', 'away', 'connecting', 'online']);
});

test('anything that comes shows that the server is alive', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  await world.pass(10_000);
  for (let second = 0; second < 12; second += 4) {
    await world.pass(4_000);
    await world.socket.say({ route: 'onNews', body: {} });
  }
  assert.equal(chat.state, 'online');
});

test('a connection that does not open is given up after twice the time, because it takes several round trips', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  await world.pass(9_999);
  assert.equal(chat.state, 'connecting');
  await world.pass(1);
  assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', 'NO_ANSWER']);
});

test('after a sleep it asks at once, and gives the server time to answer', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  await world.pass(10_000);
  await world.socket.answer(PING);
  world.sleep(3_600_000);
  await world.pass(1);
  assert.deepEqual([chat.state, world.socket.of(PING).length], ['online', 2]);
  await world.pass(4_000);
  assert.equal(chat.state, 'online');
  await world.pass(1_000);
  assert.equal(chat.state, 'away');
});

test('a sleep in the middle of a question is no silence of the server', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  await world.pass(10_000);
  world.sleep(3_600_000);
  await world.pass(1);
  assert.deepEqual([chat.state, world.socket.of(PING).length], ['online', 2]);
  for (const ping of world.socket.of(PING)) await world.socket.answer(ping);
  await world.pass(5_000);
  assert.equal(chat.state, 'online');
});

test('timers that are always late, as in a hidden page, do not keep a dead connection alive', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  for (let minute = 0; minute < 2; minute += 1) {
    world.sleep(60_000);
    await world.pass(1);
  }
  assert.equal(chat.state, 'away');
});

test('what is not JSON ends the connection, and no more', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  world.socket.onmessage({ data: '<html>' });
  await world.pass(500);
  await world.letIn();
  assert.equal(chat.state, 'online');
});

test('a WebSocket that cannot be made is tried again', async (t) => {
  const world = new World(t);
  let count = 0;
  const WebSocket = function () {
    count += 1;
    throw new Error('the policy of the page forbids it');
  };
  const chat = await world.connect({ WebSocket });
  assert.equal(chat.state, 'away');
  assert.match(world.states.at(-1).message, /policy of the page/);
  await world.pass(500);
  assert.equal(count, 2);
});

test('close logs out: it says so to the server, and nothing is left that could wake', async (t) => {
  const world = new World(t);
  const chat = await world.online({ token: () => 'x' });
  await chat.online();
  chat.close();
  assert.deepEqual([chat.state, world.states.at(-1).reason, world.socket.closedWith], ['closed', 'CLOSED', 1000]);
  assert.equal(await reasonOf(chat.online()), 'CLOSED');
  const { onopen, onmessage, onclose } = world.socket;
  assert.deepEqual([onopen, onmessage, onclose], [null, null, null]);
  chat.close();
  await world.pass(600_000);
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(kinds(world), ['connecting', 'online', 'closed']);
});

test('close ends whatever is under way: a connection, a pause, a token', async (t) => {
  const world = new World(t);
  const connecting = await world.connect();
  connecting.close();
  const waiting = await world.connect();
  await world.socket.end();
  waiting.close();
  let give;
  const asking = await world.connect({ token: () => new Promise((resolve) => (give = resolve)) });
  asking.close();
  give('late');
  const listening = await world.connect();
  await world.socket.end();
  listening.on('state', () => listening.close());
  const { length } = world.sockets;
  await world.pass(600_000);
  assert.equal(world.sockets.length, length);
});

test('a listener that fails disturbs nobody, and its error is reported', async (t) => {
  const world = new World(t);
  const reported = [];
  mock.method(console, 'error', (error) => reported.push(error.message));
  const chat = await world.connect();
  chat.on('state', () => {
    throw new Error('at once');
  });
  chat.on('state', async () => {
    await settled();
    throw new Error('later');
  });
  let told = 0;
  chat.on('state', () => (told += 1));
  await world.letIn();
  await settled();
  assert.deepEqual([chat.state, told, reported], ['online', 1, ['at once', 'later']]);
});

test('a listener that was removed is not called, even if another one has just removed it', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  const told = [];
  const listen = (event) => told.push(event.state);
  chat.on('state', () => stop());
  const stop = chat.on('state', listen);
  chat.on('state', listen);
  await world.letIn();
  assert.deepEqual(told, ['online']);
});

test('a listener that comes in the middle of an event begins with the next one', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  const told = [];
  chat.on('state', () => chat.on('state', (event) => told.push(event.state)));
  await world.letIn();
  assert.deepEqual(told, []);
  await world.socket.end();
  assert.deepEqual(told, ['away']);
});

test('pushes for this session alone are told, and those of the protocol are not', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const told = [];
  chat.on('push', (event) => told.push(event));
  await world.socket.say({ route: 'onMail', body: { unread: 3 } }, { route: 'onExpired', body: { closesIn: 25 } }, { body: { code: 400 } });
  assert.deepEqual(told, [{ route: 'onMail', body: { unread: 3 } }]);
});
