// What a channel tells: everything once, in order, or what is lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isPending, JOIN, later, LEAVE, message, names, PUBLISH, settled, watch, World } from './world.mjs';

const at = (offset, epoch = 'e') => ({ epoch, offset });
const HISTORY = 'chat.handler.history';
const position = (offset, reason, epoch = 'e') => ({ route: 'onPosition', channel: 'room', body: { epoch, offset, reason } });
const offsets = (seen) => names(seen, 'offset').slice(1);

test('messages, joins and leaves are told with who, when and where', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(
    message(11, 'hello'),
    { route: 'onJoin', channel: 'room', offset: 12, time: 7, body: { userId: 5, info: { name: 'Five' } } },
    { route: 'onLeave', channel: 'room', offset: 13, time: 8, body: { userId: 5 } },
    { route: 'onScore', channel: 'room', offset: 14, time: 9, body: { score: 3 } },
  );
  assert.deepEqual(seen.slice(1), [
    ['message', { type: 'message', route: 'onMessage', body: { content: 'hello', userId: 'ben' }, userId: 'ben', epoch: 'e', offset: 11, time: 1_011 }],
    ['join', { type: 'join', userId: 5, info: { name: 'Five' }, epoch: 'e', offset: 12, time: 7 }],
    ['leave', { type: 'leave', userId: 5, epoch: 'e', offset: 13, time: 8 }],
    ['message', { type: 'message', route: 'onScore', body: { score: 3 }, userId: undefined, epoch: 'e', offset: 14, time: 9 }],
  ]);
});

test('pushes that come in one go with the answer to the join are given', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const channel = chat.channel('room');
  const seen = watch(channel);
  void channel.join();
  const { id } = world.socket.last(JOIN);
  await world.socket.say(message(3), { id, body: { code: 0, position: at(4), recovered: false, replayed: 0 } }, message(5), message(6));
  assert.deepEqual(offsets(seen), [['message', 5], ['message', 6]]);
});

test('what was given already is not given again', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(message(11), message(11), message(10), message(12));
  assert.deepEqual(offsets(seen), [['message', 11], ['message', 12]]);
});

test('a hole is never passed over in silence', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(message(11), message(15), message(16));
  assert.deepEqual(seen[2], ['lost', { type: 'lost', reason: 'gap', from: at(11), to: at(14) }]);
  assert.deepEqual(names(seen), ['joined', 'message', 'lost', 'message', 'message']);
});

test('the place of a message of our own that was for the others is passed over in silence', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  const positions = [];
  chat.channel('room').on('position', ({ offset }) => positions.push(offset));
  await world.socket.say({ channel: 'room', offset: 11 }, message(12));
  assert.deepEqual([offsets(seen), positions], [[['message', 12]], [11, 12]]);
  assert.deepEqual((await world.reconnect()).body.since, at(12));
});

test('what is lost is told with its bounds, and pushes go on from there', async (t) => {
  for (const [reason, to] of [
    ['diverged', at(8, 'f')],
    ['trimmed', at(20, 'e')],
    ['unknown', at(0, 'g')],
    ['skipped', at(16, 'e')],
  ]) {
    await t.test(reason, async (t) => {
      const world = new World(t);
      const { seen } = await world.inside();
      await world.socket.say(position(to.offset, reason, to.epoch), message(to.offset + 1));
      assert.deepEqual(seen[1], ['lost', { type: 'lost', reason, from: at(10), to }]);
      assert.deepEqual([seen[2][0], seen[2][1].offset, seen[2][1].epoch], ['message', to.offset + 1, to.epoch]);
      assert.equal(seen.length, 3);
    });
  }
});

test('a new epoch alone is no loss', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(position(10, 'new-epoch', 'f'), message(11));
  assert.deepEqual(names(seen, 'epoch').slice(1), [['message', 'f']]);
  assert.deepEqual((await world.reconnect()).body.since, at(11, 'f'));
});

test('a message counts as given before it is given, so a listener that comes in again does not get it twice', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const positions = [];
  chat.channel('room').on('message', () => positions.push(chat.channel('room').join()));
  await world.socket.say(message(11));
  assert.deepEqual((await positions[0]).position, at(11));
});

test('an ephemeral message is told, and has no place', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say({ route: 'onMessage', channel: 'room', ephemeral: true, time: 5, body: { x: 1, userId: 'ben' } });
  assert.deepEqual(seen.slice(1), [['ephemeral', { route: 'onMessage', body: { x: 1, userId: 'ben' }, userId: 'ben', time: 5 }]]);
  assert.deepEqual((await world.reconnect()).body.since, at(10));
});

test('an ephemeral message is sent at once or not at all', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const channel = chat.channel('room');
  assert.equal(channel.ephemeral({ x: 1 }), false);
  await world.enter(channel);
  assert.equal(channel.ephemeral({ x: 2 }), true);
  assert.deepEqual(world.socket.last(PUBLISH).body, { channel: 'room', body: { x: 2 }, ephemeral: true });
  assert.equal(world.socket.last(PUBLISH).key, undefined);
  // While the server is too slow for it, it would only wait.
  while (channel.ephemeral({ x: 3 })) assert.ok(world.socket.asked.length < 200);
  await world.socket.end();
  assert.equal(channel.ephemeral({ x: 4 }), false);
  await world.pass(500);
  await world.letIn();
  assert.equal(world.socket.of(PUBLISH).length, 0);
});

const typing = (on, userId = 'ben') => ({ route: 'onMessage', channel: 'room', ephemeral: true, time: 5, body: { typing: on, userId } });
const signs = (seen) => seen.filter(([name]) => name === 'typing').map(([, event]) => [event.userId, event.typing]);

test('we tell the others at most every three seconds that we are typing, and not ourselves', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  for (let key = 0; key < 31; key += 1) {
    channel.typing();
    await world.pass(100);
  }
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body), [{ typing: true }, { typing: true }]);
  assert.deepEqual([world.socket.last(PUBLISH).body.excludeSelf, world.socket.last(PUBLISH).body.ephemeral], [true, true]);
  channel.typing(false);
  channel.typing(false);
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body.typing), [true, true, false]);
});

test('who types again at once after a message, or after having stopped, is shown as typing at once', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  channel.typing();
  channel.send({ content: 'hello' });
  // The others know that a message ends the typing.
  channel.typing(false);
  channel.typing();
  channel.typing(false);
  channel.typing();
  const signs = world.socket.of(PUBLISH).map(({ body }) => body.body);
  assert.deepEqual(signs.map(({ content, typing }) => content ?? typing), [true, 'hello', true, false, true]);
});

test('a sign that could not be sent is sent with the next key', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  await world.socket.end();
  channel.typing();
  await world.pass(500);
  await world.letIn();
  await world.socket.answer(JOIN, { code: 0, position: { epoch: 'e', offset: 10 }, recovered: true, replayed: 0 });
  channel.typing();
  assert.deepEqual(world.socket.of(PUBLISH).map(({ body }) => body.body), [{ typing: true }]);
});

test('somebody who gives no sign for six seconds is not typing any more', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(typing(true));
  await world.pass(3_000);
  await world.socket.say(typing(true));
  await world.pass(5_999);
  assert.deepEqual(signs(seen), [['ben', true]]);
  await world.pass(1);
  assert.deepEqual(signs(seen), [['ben', true], ['ben', false]]);
  assert.ok(!names(seen).includes('ephemeral'));
});

test('somebody who has left is not typing any more', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  const [joins, leaves] = ['onJoin', 'onLeave'].map((route, at) => ({ route, channel: 'room', offset: 11 + at, time: 1, body: { userId: 'ben' } }));
  await world.socket.say(typing(true), joins, leaves);
  assert.deepEqual(names(seen).slice(1), ['typing', 'join', 'typing', 'leave']);
});

test('somebody has stopped typing when the message comes, or when they say so', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.socket.say(typing(true), message(11), typing(true), typing(false), message(12));
  assert.deepEqual(names(seen).slice(1), ['typing', 'typing', 'message', 'typing', 'typing', 'message']);
  await world.pass(10_000);
  assert.equal(signs(seen).length, 4);
});

test('a loop gives messages, joins, leaves and losses, and ends when the channel is left', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  const got = [];
  const loop = (async () => {
    for await (const event of channel) got.push([event.type, event.offset]);
  })();
  await settled();
  await world.socket.say(message(11), { route: 'onJoin', channel: 'room', offset: 12, time: 1, body: { userId: 'x' } }, typing(true), message(20));
  assert.deepEqual(got, [['message', 11], ['join', 12], ['lost', undefined], ['message', 20]]);
  assert.ok(await isPending(loop));
  await world.socket.say(message(21));
  void channel.leave();
  await loop;
  assert.equal(got.at(-1)[1], 21);
});

test('a loop ends when the chat is closed or the membership is over, after what has come before', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  const [one, two] = [channel[Symbol.asyncIterator](), channel[Symbol.asyncIterator]()];
  await world.socket.say(message(11), { route: 'onRemoved', body: { channel: 'room' } });
  assert.equal((await one.next()).value.offset, 11);
  assert.ok((await one.next()).done);
  assert.equal((await two.next()).value.offset, 11);
  const three = channel[Symbol.asyncIterator]().next();
  chat.close();
  assert.ok((await three).done);
  assert.ok((await channel[Symbol.asyncIterator]().next()).done);
});

test('a loop that is left gets nothing more, and disturbs no other', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const other = chat.channel('room')[Symbol.asyncIterator]();
  const loop = (async () => {
    for await (const { offset } of chat.channel('room')) if (offset === 11) break;
  })();
  await settled();
  await world.socket.say(message(11));
  await loop;
  await world.socket.say(message(12));
  assert.deepEqual([(await other.next()).value.offset, (await other.next()).value.offset], [11, 12]);
});

test('a loop that was left holds nothing', async (t) => {
  const world = new World(t);
  const channel = (await world.online()).channel('room');
  await world.enter(channel);
  let event;
  channel.on('message', (it) => (event = new WeakRef(it)));
  const loop = (async () => {
    for await (const { offset } of channel) if (offset === 11) break;
  })();
  await settled();
  await world.socket.say(message(11));
  await loop;
  await world.socket.say(message(12));
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  assert.equal(event.deref(), undefined);
});

test('a loop that is much too slow is told once what it has lost, and goes on with the newest', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const loop = chat.channel('room')[Symbol.asyncIterator]();
  const all = Array.from({ length: 10_003 }, (_, number) => message(11 + number));
  await world.socket.say(...all);
  const got = [];
  for (let count = 0; count < 4; count += 1) got.push((await loop.next()).value);
  assert.deepEqual(got[0], { type: 'lost', reason: 'overflow', from: at(10), to: at(10_010) });
  assert.deepEqual(got.slice(1).map(({ offset }) => offset), [10_011, 10_012, 10_013]);
});

test('the first loop begins where we became a member, whatever the app does before', async (t) => {
  const world = new World(t);
  const channel = (await world.online()).channel('room');
  await world.enter(channel);
  await world.socket.say(message(11), message(12));
  const first = channel[Symbol.asyncIterator]();
  const second = channel[Symbol.asyncIterator]();
  await world.socket.say(message(13));
  const got = [];
  for (let count = 0; count < 3; count += 1) got.push((await first.next()).value.offset);
  assert.deepEqual([...got, (await second.next()).value.offset], [11, 12, 13, 13]);
});

test('who listens, has a loop, or was a member before gets nothing twice', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const next = async (channel) => (await channel[Symbol.asyncIterator]().next()).value.offset;
  const listening = chat.channel('room');
  listening.on('message', () => {});
  await world.enter(listening);
  await world.socket.say(message(11));
  const listened = next(listening);
  const looping = chat.channel('other');
  const loop = looping[Symbol.asyncIterator]();
  await world.enter(looping);
  await world.socket.say(message(11, 'x', 'other'));
  const looped = next(looping);
  await world.socket.say(message(12), message(12, 'x', 'other'));
  assert.deepEqual(await Promise.all([listened, looped]), [12, 12]);
  assert.equal((await loop.next()).value.offset, 11);
});

test('after a reconnect nothing is held for another loop', async (t) => {
  const world = new World(t);
  const channel = (await world.online()).channel('room');
  await world.enter(channel);
  await world.socket.say(message(11));
  for await (const { offset } of channel) if (offset === 11) break;
  await world.reconnect();
  await world.socket.answer(JOIN, { code: 0, position: at(12), recovered: true, replayed: 1 });
  await world.socket.say(message(12));
  const later = channel[Symbol.asyncIterator]().next();
  await world.socket.say(message(13));
  assert.equal((await later).value.offset, 13);
});

test('without a loop a thousand events wait for it, and more are told as lost', async (t) => {
  const world = new World(t);
  const channel = (await world.online()).channel('room');
  await world.enter(channel);
  await world.socket.say(...Array.from({ length: 1_002 }, (_, number) => message(11 + number)));
  const loop = channel[Symbol.asyncIterator]();
  const got = [];
  for (let count = 0; count < 3; count += 1) got.push((await loop.next()).value);
  assert.deepEqual(got[0], { type: 'lost', reason: 'overflow', from: at(10), to: at(1_010) });
  assert.deepEqual([got[1].offset, got[2].offset], [1_011, 1_012]);
  // From now on it may be as slow as any other.
  await world.socket.say(...Array.from({ length: 9_000 }, (_, number) => message(1_013 + number)));
  assert.equal((await loop.next()).value.offset, 1_013);
});

test('what no loop has read is there after the end of the chat', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const channel = chat.channel('room');
  await world.enter(channel);
  await world.socket.say(message(11), message(12));
  chat.close();
  const got = [];
  for await (const { offset } of channel) got.push(offset);
  assert.deepEqual(got, [11, 12]);
  assert.ok((await channel[Symbol.asyncIterator]().next()).done);
});

test('what no loop has read is not there after a leave, and the next join holds again what comes', async (t) => {
  const world = new World(t);
  const channel = (await world.online()).channel('room');
  const leave = async () => {
    void channel.leave();
    await world.socket.answer(LEAVE, { code: 0 });
  };
  await world.enter(channel);
  await world.socket.say(message(11));
  await leave();
  const early = channel[Symbol.asyncIterator]();
  await world.enter(channel, 20);
  await world.socket.say(message(21));
  assert.equal((await early.next()).value.offset, 21);
  await leave();
  await world.enter(channel, 30);
  await world.socket.say(message(31));
  assert.equal((await channel[Symbol.asyncIterator]().next()).value.offset, 31);
});

const publication = (offset) => ({ route: 'onMessage', epoch: 'e', offset, time: offset, body: { userId: 'ben' } });

test('history goes page by page, newest first unless asked otherwise', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const got = [];
  const loop = (async () => {
    for await (const { type, offset } of chat.channel('room').history({ pageSize: 2 })) got.push([type, offset]);
  })();
  await settled();
  assert.deepEqual(world.socket.last(HISTORY).body, { channel: 'room', newestFirst: true, pageSize: 2 });
  await world.socket.answer(HISTORY, { code: 0, publications: [publication(10), publication(9)], more: true, continuity: 'contiguous', position: at(10) });
  assert.deepEqual(world.socket.last(HISTORY).body.from, at(9));
  await world.socket.answer(HISTORY, later('UNAVAILABLE'));
  await world.pass(1_500);
  await world.socket.answer(HISTORY, { code: 0, publications: [publication(8)], more: false, continuity: 'contiguous', position: at(9) });
  await loop;
  assert.deepEqual(got, [['message', 10], ['message', 9], ['message', 8]]);
});

test('a page of history that does not continue the last one says so', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const got = [];
  const loop = (async () => {
    for await (const event of chat.channel('room').history({ newestFirst: false, from: at(3) })) got.push(event);
  })();
  await settled();
  await world.socket.answer(HISTORY, { code: 0, publications: [publication(4)], more: true, continuity: 'contiguous', position: at(3) });
  await world.socket.answer(HISTORY, { code: 0, publications: [publication(8)], more: false, continuity: 'trimmed', position: at(7) });
  await loop;
  assert.deepEqual(got.map(({ type, offset }) => [type, offset]), [['message', 4], ['lost', undefined], ['message', 8]]);
  assert.deepEqual(got[1], { type: 'lost', reason: 'trimmed', from: at(4), to: at(7) });
});
