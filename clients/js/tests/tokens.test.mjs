// How tokens are asked for, shown, and refreshed.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { later, LOGIN, never, REFRESH, settled, World } from './world.mjs';

/** A source of tokens t1, t2, …; `next` may be replaced. */
function source() {
  const it = { count: 0, next: () => `t${it.count}` };
  it.token = () => {
    it.count += 1;
    return it.next();
  };
  return it;
}

async function refuse(world, refusal) {
  await world.socket.open();
  await world.socket.answer(LOGIN, refusal);
}

test('each login shows a token that was asked for just before; a user need not be named', async (t) => {
  const world = new World(t);
  const { token } = source();
  await world.connect({ token, user: undefined });
  const { token: shown, userId } = await world.letIn();
  assert.deepEqual([shown, userId], ['t1', undefined]);
  await world.socket.end();
  await world.pass(500);
  assert.equal((await world.letIn()).token, 't2');
});

test('a token that cannot be had is asked for again later', async (t) => {
  const world = new World(t);
  const tokens = source();
  tokens.next = async () => {
    throw new Error('503');
  };
  const chat = await world.connect({ token: tokens.token });
  assert.deepEqual([chat.state, world.states.at(-1).reason, world.sockets.length], ['away', 'TOKEN_FAILED', 0]);
  assert.match(world.states.at(-1).message, /503/);
  tokens.next = () => 'at last';
  await world.pass(500);
  assert.equal((await world.letIn()).token, 'at last');
});

test('a token that does not come is given up', async (t) => {
  const world = new World(t);
  const tokens = source();
  tokens.next = () => new Promise(() => {});
  const chat = await world.connect({ token: tokens.token });
  await world.pass(19_999);
  assert.equal(chat.state, 'connecting');
  await world.pass(1);
  assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', 'TOKEN_FAILED']);
});

test('an app that has no token any more closes the chat', async (t) => {
  const world = new World(t);
  const chat = await world.connect({ token: () => null });
  assert.deepEqual([chat.state, world.states.at(-1).reason, world.sockets.length], ['closed', 'NO_TOKEN', 0]);
});

test('a token that is refused is replaced once, and the second refusal is the end', async (t) => {
  for (const reason of ['TOKEN_EXPIRED', 'TOKEN_INVALID', 'TOKEN_REVOKED']) {
    await t.test(reason, async (t) => {
      const world = new World(t);
      const tokens = source();
      const chat = await world.connect({ token: tokens.token });
      await refuse(world, never(reason, 401));
      assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', reason]);
      await world.pass(500);
      assert.equal(tokens.count, 2);
      await refuse(world, never(reason, 401));
      assert.deepEqual([chat.state, world.states.at(-1).reason, tokens.count], ['closed', reason, 2]);
    });
  }
});

test('without a source of tokens, a refused one is the end at once', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  await refuse(world, never('TOKEN_INVALID', 401));
  assert.equal(chat.state, 'closed');
});

test('a session whose token has ended goes on with a new one, as often as that works', async (t) => {
  const world = new World(t);
  const tokens = source();
  const chat = await world.online({ token: tokens.token });
  for (const reason of ['token expired', 'token revoked', 'token expired']) {
    await world.socket.kick({ reason, reconnect: false });
    assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', reason]);
    await world.pass(world.states.at(-1).retryInMs);
    await world.letIn();
  }
  await world.socket.kick({ reason: 'token revoked', reconnect: false });
  await world.pass(world.states.at(-1).retryInMs);
  await refuse(world, never('TOKEN_REVOKED', 401));
  assert.equal(chat.state, 'closed');
});

test('a token is refreshed before it ends, not at the same time as those of all others', async (t) => {
  for (const [random, after] of [
    [0, 80],
    [1, 70],
  ]) {
    await t.test(`with ${random}`, async (t) => {
      const world = new World(t);
      world.random = random;
      await world.connect({ token: source().token, pingMs: 10_000_000 });
      await world.letIn({ ttl: 100 });
      await world.pass(after * 1_000 - 1);
      assert.equal(world.socket.of(REFRESH).length, 0);
      await world.pass(1);
      assert.deepEqual(world.socket.last(REFRESH).body, { token: 't2' });
      await world.socket.answer(REFRESH, { code: 0, ttl: 10 });
      await world.pass(after * 100);
      assert.deepEqual(world.socket.last(REFRESH).body, { token: 't3' });
    });
  }
});

test('a token that has expired is refreshed at once', async (t) => {
  const world = new World(t);
  await world.online({ token: source().token });
  await world.socket.say({ route: 'onExpired', body: { closesIn: 25 } });
  await world.pass(1);
  assert.deepEqual(world.socket.last(REFRESH).body, { token: 't2' });
});

test('a refresh that fails is repeated with a new token, and the session goes on', async (t) => {
  const world = new World(t);
  const tokens = source();
  const chat = await world.online({ token: tokens.token });
  await world.socket.say({ route: 'onExpired', body: { closesIn: 25 } });
  await world.pass(1);
  await world.socket.answer(REFRESH, later('UNAVAILABLE', 1_000));
  await world.pass(1_500);
  assert.deepEqual(world.socket.last(REFRESH).body, { token: 't3' });
  await world.socket.answer(REFRESH, never('TOKEN_INVALID', 401));
  tokens.next = () => {
    throw new Error('503');
  };
  await world.pass(1_000);
  tokens.next = () => 'good';
  await world.pass(2_000);
  assert.deepEqual([chat.state, world.socket.last(REFRESH).body], ['online', { token: 'good' }]);
});

test('a refresh that finds no token closes the chat', async (t) => {
  const world = new World(t);
  const tokens = source();
  const chat = await world.online({ token: tokens.token });
  tokens.next = () => null;
  await world.socket.say({ route: 'onExpired', body: { closesIn: 25 } });
  await world.pass(1);
  assert.deepEqual([chat.state, world.states.at(-1).reason], ['closed', 'NO_TOKEN']);
});

test('nobody asks for a token that nobody needs any more', async (t) => {
  const world = new World(t);
  const tokens = source();
  const chat = await world.connect({ token: tokens.token });
  await world.letIn({ ttl: 1 });
  await world.socket.kick({ reason: 'shutdown', reconnect: true, reconnectAfterMs: 5_000 });
  await world.pass(5_000);
  assert.equal(tokens.count, 1);
  await world.pass(500);
  await world.letIn({ ttl: 1 });
  chat.close();
  await world.pass(5_000);
  assert.equal(tokens.count, 2);
});

test('a token that comes when the connection has ended is not shown on the next one', async (t) => {
  const world = new World(t);
  const tokens = source();
  await world.online({ token: tokens.token });
  let give;
  tokens.next = () => new Promise((resolve) => (give = resolve));
  await world.socket.say({ route: 'onExpired', body: { closesIn: 25 } });
  await world.pass(1);
  const late = give;
  tokens.next = () => 'newer';
  await world.socket.end();
  await world.pass(500);
  await world.letIn();
  late('older');
  await world.pass(9_000);
  assert.deepEqual([world.socket.of(REFRESH).length, world.states.at(-1).state], [0, 'online']);
});

test('a token that lives for months does not make a timer run over', async (t) => {
  const world = new World(t);
  await world.connect({ token: source().token });
  await world.letIn({ ttl: 90 * 24 * 3_600 });
  await world.pass(1_000);
  assert.equal(world.socket.of(REFRESH).length, 0);
});
