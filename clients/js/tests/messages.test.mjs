// How messages are stored once, in order, or not at all with a reason.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPending, JOIN, later, never, PUBLISH, reasonOf, settled, World } from './world.mjs';

const MINUTE = 60_000;
const back = { code: 0, position: { epoch: 'e', offset: 10 }, recovered: true, replayed: 0 };

test('a message has its key at once, and is done when the server has stored it', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const sent = chat.channel('room').send({ content: 'hello' });
  const request = world.socket.last(PUBLISH);
  assert.deepEqual(request.body, { channel: 'room', body: { content: 'hello' } });
  assert.equal(request.key, sent.key);
  assert.ok(await isPending(sent));
  await world.socket.answer(PUBLISH);
  assert.deepEqual(await sent, { key: sent.key });
});

test('each message has a key of its own, also among several chats', async (t) => {
  const world = new World(t);
  const keys = new Set();
  for (let count = 0; count < 3; count += 1) {
    const chat = await world.online();
    for (const name of ['room', 'other']) keys.add(chat.channel(name).send({}).key).add(chat.channel(name).send({}).key);
  }
  assert.equal(keys.size, 12);
});

test('a message may be for the others alone', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  void chat.channel('room').send({}, { excludeSelf: true });
  assert.equal(world.socket.last(PUBLISH).body.excludeSelf, true);
});

test('while there is no connection, messages wait, until the channel is joined again', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.socket.end();
  const sent = chat.channel('room').send({ content: 'away' });
  await world.pass(500);
  await world.letIn();
  assert.equal(world.socket.of(PUBLISH).length, 0);
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH);
  await sent;
});

test('messages of one channel go one by one, in the order of the calls; other channels do not wait', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.enter(chat.channel('other'));
  const sent = [1, 2, 3].map((n) => chat.channel('room').send({ n }));
  void chat.channel('other').send({ n: 9 });
  const order = () => world.socket.of(PUBLISH).map(({ body }) => body.body.n);
  assert.deepEqual(order(), [1, 9]);
  for (const expected of [[1, 9, 2], [1, 9, 2, 3]]) {
    await world.socket.answer(world.socket.of(PUBLISH).filter(({ body }) => body.channel === 'room').at(-1));
    assert.deepEqual(order(), expected);
  }
  await world.socket.answer(PUBLISH);
  await Promise.all(sent);
});

test('what is refused for now is repeated first, with the same key, later and later', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const first = chat.channel('room').send({ n: 1 });
  void chat.channel('room').send({ n: 2 });
  for (const pause of [1_500, 2_000, 3_000]) {
    const count = world.socket.of(PUBLISH).length;
    await world.socket.answer(PUBLISH, later('STORE_FULL', 1_000));
    await world.pass(pause - 1);
    assert.equal(world.socket.of(PUBLISH).length, count);
    await world.pass(1);
    assert.deepEqual([world.socket.last(PUBLISH).key, world.socket.last(PUBLISH).body.body.n], [first.key, 1]);
  }
  await world.socket.answer(PUBLISH);
  await first;
  assert.equal(world.socket.last(PUBLISH).body.body.n, 2);
});

test('what is refused for good fails with the reason, is not repeated, and does not stop the next one', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const refused = reasonOf(chat.channel('room').send({ n: 1 }));
  void chat.channel('room').send({ n: 2 });
  await world.socket.answer(PUBLISH, never('NOT_ALLOWED', 403));
  assert.equal(await refused, 'NOT_ALLOWED');
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body.n), [1, 2]);
});

test('a message that waits for its repetition is sent on the new connection, and only there', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  void chat.channel('room').send({ n: 1 });
  await world.socket.answer(PUBLISH, later('UNAVAILABLE', 3_000));
  await world.reconnect();
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH);
  await world.pass(9_000);
  // The old repetition would ask a connection that is dead, and find that it does not answer.
  assert.deepEqual([world.sockets.length, chat.state], [2, 'online']);
});

test('a message whose answer was lost is sent again with its key and its text, before all others', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const body = { n: 1 };
  const sent = chat.channel('room').send(body);
  body.n = 'changed since';
  void chat.channel('room').send({ n: 2 });
  await world.reconnect();
  await world.socket.answer(JOIN, back);
  const again = world.socket.last(PUBLISH);
  assert.deepEqual([again.key, again.body.body], [sent.key, { n: 1 }]);
  await world.socket.answer(PUBLISH);
  await sent;
  assert.equal(world.socket.last(PUBLISH).body.body.n, 2);
});

test('a message of which the server may have forgotten the key is told as unknown, and not repeated', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const doubtful = reasonOf(chat.channel('room').send({ n: 1 }));
  const next = chat.channel('room').send({ n: 2 });
  await world.socket.end();
  world.sleep(4.5 * MINUTE + 1);
  await world.pass(500);
  await world.letIn();
  await world.socket.answer(JOIN, back);
  assert.equal(await doubtful, 'UNKNOWN');
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body.n), [2]);
  await world.socket.answer(PUBLISH);
  await next;
});

test('a clock that is set back does not make a key younger', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const doubtful = reasonOf(chat.channel('room').send({ n: 1 }));
  await world.socket.end();
  world.sleep(-10 * MINUTE);
  world.steady = 5 * MINUTE;
  await world.pass(10 * MINUTE + 500);
  await world.letIn();
  await world.socket.answer(JOIN, back);
  assert.equal(await doubtful, 'UNKNOWN');
});

test('a message is repeated as long as the server remembers its key', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const sent = chat.channel('room').send({ n: 1 });
  await world.socket.end();
  world.sleep(4.4 * MINUTE);
  await world.pass(500);
  await world.letIn();
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH);
  await sent;
});

test('a message that no socket has taken may wait for ever', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.socket.end();
  const sent = chat.channel('room').send({ n: 1 });
  world.sleep(24 * 60 * MINUTE);
  await world.pass(500);
  await world.letIn();
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH);
  await sent;
});

test('an outage longer than the life of a key costs nothing if the server says that it did nothing', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const sent = chat.channel('room').send({ n: 1 });
  await world.socket.answer(PUBLISH, later('UNAVAILABLE', 6 * MINUTE));
  await world.idle(6 * MINUTE + 1_000);
  void chat.channel('room').send({ n: 2 });
  await world.reconnect();
  await world.socket.answer(JOIN, back);
  assert.equal(world.socket.last(PUBLISH).body.body.n, 1);
  await world.socket.answer(PUBLISH);
  await sent;
});

test('if the server does not know either, the life of the key counts', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const doubtful = reasonOf(chat.channel('room').send({ n: 1 }));
  await world.socket.answer(PUBLISH, later('UNKNOWN_OUTCOME', 6 * MINUTE));
  await world.idle(6 * MINUTE + 1_000);
  assert.equal(await doubtful, 'UNKNOWN');
});

test('a repetition that is refused does not make the first attempt undone', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  // For now: the life of the key still counts from the first attempt.
  const old = reasonOf(chat.channel('room').send({ n: 1 }));
  await world.reconnect();
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH, later('UNAVAILABLE', 6 * MINUTE));
  await world.idle(6 * MINUTE + 1_000);
  assert.equal(await old, 'UNKNOWN');
  // For good: it may be stored all the same.
  const refused = reasonOf(chat.channel('room').send({ n: 2 }));
  await world.reconnect();
  await world.socket.answer(JOIN, back);
  await world.socket.answer(PUBLISH, never('NOT_ALLOWED', 403));
  assert.equal(await refused, 'UNKNOWN');
});

test('of messages under way, the largest one is given up when the server finds one too large', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.enter(chat.channel('other'));
  const small = chat.channel('other').send({ content: 'small' });
  // Fewer characters than the next one, and more bytes.
  const large = reasonOf(chat.channel('room').send({ content: '中'.repeat(500) }));
  const request = reasonOf(chat.request('game.move', { content: 'x'.repeat(1_000) }));
  const waits = chat.channel('room').send({ content: 'waits' });
  await world.socket.end(1009, 'message too big: the limit is 131072 bytes');
  assert.equal(await large, 'TOO_BIG');
  assert.equal(await request, 'UNKNOWN');
  await world.pass(500);
  await world.letIn();
  for (const join of world.socket.of(JOIN)) await world.socket.answer(join, back);
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body.content).sort(), ['small', 'waits']);
  for (const publish of world.socket.of(PUBLISH)) await world.socket.answer(publish);
  await Promise.all([small, waits]);
});

test('a request that is too large fails as such, and takes no message with it', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const sent = chat.channel('room').send({ n: 1 });
  const large = reasonOf(chat.request('game.move', { content: 'x'.repeat(1_000) }));
  await world.socket.end(1009, 'message too big');
  assert.equal(await large, 'TOO_BIG');
  assert.ok(await isPending(sent));
});

test('what waits is bounded, and what is settled makes room', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside({ queueBytes: 1_000 });
  const channel = chat.channel('room');
  const body = { content: 'x'.repeat(300) };
  const sent = [channel.send(body), channel.send(body)];
  assert.equal(await reasonOf(channel.send(body)), 'QUEUE_FULL');
  assert.equal(await reasonOf(chat.channel('other').send(body)), 'QUEUE_FULL');
  assert.equal(await reasonOf(chat.request('game.move', body)), 'QUEUE_FULL');
  await world.socket.answer(PUBLISH);
  await sent[0];
  void channel.send(body);
  const refused = reasonOf(sent[1]);
  await world.socket.answer(PUBLISH, never('NOT_ALLOWED'));
  assert.equal(await refused, 'NOT_ALLOWED');
  const request = chat.request('game.move', body);
  await world.socket.answer('game.move', { code: 0 });
  await request;
  void channel.send(body);
  const full = await channel.send(body).catch((error) => error);
  assert.deepEqual([full.reason, full.retry], ['QUEUE_FULL', true]);
  // There is never room for this one, so it is useless to try again.
  const large = await channel.send({ content: 'x'.repeat(1_000) }).catch((error) => error);
  assert.deepEqual([large.reason, large.retry], ['QUEUE_FULL', false]);
});

test('a body that is no object fails at once, and so does one that is no JSON', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  for (const body of [undefined, null, 'hello', 5]) assert.equal(await reasonOf(channel.send(body)), 'INVALID_BODY');
  const circle = {};
  circle.circle = circle;
  await assert.rejects(channel.send(circle), TypeError);
  assert.equal(world.socket.of(PUBLISH).length, 0);
});

test('when the chat is closed, everything that waits fails, and nobody has to look', async (t) => {
  const world = new World(t);
  const unhandled = [];
  const listen = (error) => unhandled.push(error.reason);
  process.on('unhandledRejection', listen);
  t.after(() => process.off('unhandledRejection', listen));
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  const failed = [channel.send({}), channel.send({}), chat.request('game.move')].map(reasonOf);
  void channel.send({});
  void chat.channel('other').join();
  void chat.request('game.move');
  chat.close();
  assert.deepEqual(await Promise.all(failed), ['CLOSED', 'CLOSED', 'CLOSED']);
  assert.equal(await reasonOf(channel.send({})), 'CLOSED');
  void channel.send({});
  void channel.join();
  void chat.online();
  void chat.request('game.move');
  await settled();
  assert.deepEqual(unhandled, []);
});

test('when the server has closed the chat, what waits fails as closed', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const failed = reasonOf(chat.channel('room').send({}));
  await world.socket.kick({ reason: 'blocked', reconnect: false });
  assert.equal(await failed, 'CLOSED');
});

test('in a channel that was never joined, the server says what is wrong', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const sent = reasonOf(chat.channel('room').send({}));
  await world.socket.answer(PUBLISH, never('NOT_JOINED'));
  assert.equal(await sent, 'NOT_JOINED');
});

test('a request of the app is asked once, and is unknown if the connection ends before the answer', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const moved = chat.request('game.move', { x: 1 }, { key: 'k' });
  const { route, body, key } = world.socket.last('game.move');
  assert.deepEqual({ route, body, key }, { route: 'game.move', body: { x: 1 }, key: 'k' });
  // What the handler answers is the app's, whatever its code is.
  await world.socket.answer('game.move', { code: 7, score: 3 });
  assert.deepEqual(await moved, { code: 7, score: 3 });
  const unknown = reasonOf(chat.request('game.move'));
  await world.reconnect();
  assert.equal(await unknown, 'UNKNOWN');
  assert.equal(world.socket.of('game.move').length, 0);
});

test('a request waits for the connection, and fails with the reason of the server', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  const moved = reasonOf(chat.request('game.move'));
  await world.letIn();
  await world.socket.answer('game.move', later('UNAVAILABLE'));
  assert.equal(await moved, 'UNAVAILABLE');
});
