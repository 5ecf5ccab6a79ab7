// How a session becomes a member of channels, and stays one.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPending, JOIN, later, LEAVE, LOGIN, message, names, never, PUBLISH, reasonOf, settled, watch, World } from './world.mjs';

const at = (offset, epoch = 'e') => ({ epoch, offset });

test('a channel is one object for one name, and 4 and "4" are one name', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  assert.equal(chat.channel(4), chat.channel('4'));
  assert.notEqual(chat.channel(4), chat.channel(5));
});

test('a join waits for the connection, and tells where the channel stands', async (t) => {
  const world = new World(t);
  const chat = await world.connect();
  const channel = chat.channel('room');
  const seen = watch(channel);
  const joined = channel.join();
  await world.letIn();
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', positions: true });
  assert.ok(await isPending(joined));
  await world.socket.answer(JOIN, { code: 0, position: at(4), recovered: false, replayed: 0 });
  assert.deepEqual(await joined, { position: at(4), recovered: false, replayed: 0 });
  assert.deepEqual(seen, [['joined', { position: at(4), recovered: false }]]);
  // Once in, nothing is asked again.
  assert.deepEqual(await channel.join(), { position: at(4), recovered: true, replayed: 0 });
  assert.equal(world.socket.of(JOIN).length, 1);
});

test('a join goes on from a position that the app gives', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const joined = chat.channel('room').join({ since: at(7) });
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', since: at(7) });
  await world.socket.answer(JOIN, { code: 0, position: at(9), recovered: true, replayed: 2 });
  assert.deepEqual(await joined, { position: at(9), recovered: true, replayed: 2 });
});

test('of two joins at once, the position of the first one counts', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const channel = chat.channel('room');
  const seen = watch(channel);
  const both = [channel.join({ since: at(7) }), channel.join({ since: at(9) })];
  await world.socket.answer(JOIN, { code: 0, position: at(9), recovered: true, replayed: 2 });
  await Promise.all(both);
  await world.socket.say(message(8), message(9));
  assert.deepEqual([world.socket.of(JOIN).length, names(seen)], [1, ['joined', 'message', 'message']]);
});

test('after a reconnect, all channels are joined again in one go, each from the last push that came', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.enter(chat.channel('other'), 3);
  await world.socket.say(message(11), message(4, 'hello', 'other'), message(5, 'hello', 'other'));
  await world.reconnect();
  assert.deepEqual(world.socket.of(JOIN).map(({ body }) => body), [
    { channel: 'room', since: at(11) },
    { channel: 'other', since: at(5) },
  ]);
});

test('coming back, the position goes on from our own, not from where the channel stands', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.reconnect();
  // The answer and what was missed come in one go, and the connection is lost in the middle of it.
  const { id } = world.socket.last(JOIN);
  await world.socket.say({ id, body: { code: 0, position: at(19, 'new'), recovered: true, replayed: 9 } }, message(11), message(12));
  assert.deepEqual(names(seen, 'offset').slice(-2), [['message', 11], ['message', 12]]);
  assert.deepEqual((await world.reconnect()).body.since, at(12));
});

test('a join that is refused for now is repeated as late as the server wants, with a random part on top', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const joined = chat.channel('room').join();
  for (const pause of [1_500, 2_000, 3_000]) {
    const count = world.socket.of(JOIN).length;
    await world.socket.answer(JOIN, later('TRY_LATER', 1_000));
    await world.pass(pause - 1);
    assert.equal(world.socket.of(JOIN).length, count);
    await world.pass(1);
    assert.equal(world.socket.of(JOIN).length, count + 1);
  }
  await world.socket.answer(JOIN, { code: 0, position: at(1), recovered: false, replayed: 0 });
  await joined;
});

test('a join that waits for its repetition is made at once on a new connection, and only there', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  void chat.channel('room').join();
  const first = world.socket;
  await first.answer(JOIN, later('TRY_LATER', 1_000));
  await world.reconnect();
  assert.equal(world.socket.of(JOIN).length, 1);
  await world.socket.answer(JOIN, { code: 0, position: at(1), recovered: false, replayed: 0 });
  await world.pass(9_000);
  assert.deepEqual([first.of(JOIN).length, world.socket.of(JOIN).length, chat.state], [1, 1, 'online']);
});

test('a join that is refused for good fails, and is not repeated', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const channel = chat.channel('room');
  const seen = watch(channel);
  const failed = reasonOf(channel.join());
  await world.socket.answer(JOIN, never('NOT_ALLOWED', 403));
  assert.equal(await failed, 'NOT_ALLOWED');
  assert.equal(await world.reconnect(), undefined);
  assert.deepEqual(seen, []);
});

test('a membership that is refused later is told as parted', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.reconnect();
  await world.socket.answer(JOIN, never('NOT_ALLOWED', 403));
  assert.deepEqual(seen.at(-1), ['parted', { reason: 'NOT_ALLOWED', message: 'no: NOT_ALLOWED' }]);
  assert.equal(await world.reconnect(), undefined);
});

test('a back end may add the session to a channel, and it stays there', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  let seen;
  chat.on('added', ({ channel }) => (seen = watch(chat.channel(channel))));
  await world.socket.say(
    { route: 'onAdded', body: { channel: 'garden', position: at(4) } },
    { ...message(5), channel: 'garden' },
  );
  assert.deepEqual(names(seen), ['joined', 'message']);
  assert.deepEqual((await world.reconnect()).body, { channel: 'garden', since: at(5) });
});

test('who is added may leave at once', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const seen = watch(chat.channel('garden'));
  chat.on('added', ({ channel }) => void chat.channel(channel).leave());
  await world.socket.say({ route: 'onAdded', body: { channel: 'garden', position: at(4) } }, { ...message(5), channel: 'garden' });
  assert.deepEqual(world.socket.last(LEAVE).body, { channel: 'garden' });
  await world.socket.answer(LEAVE);
  assert.deepEqual(seen, []);
  assert.equal(await world.reconnect(), undefined);
});

test('a join under way is fulfilled when a back end was faster', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const joined = chat.channel('room').join();
  await world.socket.say({ route: 'onAdded', body: { channel: 'room', position: at(4) } });
  await world.socket.answer(JOIN, never('ALREADY_JOINED'));
  assert.deepEqual((await joined).position, at(4));
});

test('with tokens, which may name channels, a login says where we were, so that we go on there', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside({ token: () => 'token' });
  assert.deepEqual(world.socket.last(LOGIN).body.positions, {});
  await world.reconnect();
  assert.deepEqual(world.socket.last(LOGIN).body.positions, { room: at(10) });
  const added = { channel: 'room', position: at(12), recovered: true, replayed: 2 };
  await world.socket.say({ route: 'onAdded', body: added }, message(11), message(12));
  await world.socket.answer(JOIN, never('ALREADY_JOINED'));
  assert.equal(world.socket.of(LEAVE).length, 0);
  assert.deepEqual(seen.slice(-3).map(([name, event]) => [name, event.offset ?? event]), [
    ['joined', { position: at(12), recovered: true }],
    ['message', 11],
    ['message', 12],
  ]);
});

test('a login says where we were in a hundred channels at most', async (t) => {
  const world = new World(t);
  const names = Array.from({ length: 150 }, (_, number) => `room ${number}`);
  const positions = Object.fromEntries(names.map((name) => [name, at(1)]));
  const stored = JSON.stringify({ user: 'ann', secret: 'x', positions });
  const storage = { getItem: () => stored, setItem() {}, removeItem() {} };
  await world.connect({ storage, token: () => 'token' });
  await settled();
  await world.socket.open();
  assert.deepEqual(Object.keys(world.socket.last(LOGIN).body.positions), names.slice(50));
});

test('who comes back by a token is told what is lost', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside({ token: () => 'token' });
  await world.reconnect();
  const added = { channel: 'room', position: at(30), recovered: false, replayed: 1 };
  const moved = { route: 'onPosition', channel: 'room', body: { ...at(29), reason: 'trimmed' } };
  await world.socket.say({ route: 'onAdded', body: added }, moved, message(30));
  assert.deepEqual(names(seen).slice(-3), ['joined', 'lost', 'message']);
  assert.deepEqual([seen.at(-2)[1].from, seen.at(-2)[1].to], [at(10), at(29)]);
});

test('who is let in before it could say where it was comes in again from there', async (t) => {
  const world = new World(t);
  const { seen } = await world.inside();
  await world.reconnect();
  await world.socket.say({ route: 'onAdded', body: { channel: 'room', position: at(14) } });
  await world.socket.answer(JOIN, never('ALREADY_JOINED'));
  assert.equal(world.socket.of(LEAVE).length, 1);
  await world.socket.say(message(15));
  await world.socket.answer(LEAVE);
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', since: at(10) });
  await world.socket.answer(JOIN, { code: 0, position: at(15), recovered: true, replayed: 5 });
  await world.socket.say(...[11, 12, 13, 14, 15].map((offset) => message(offset)));
  assert.deepEqual(names(seen, 'offset').filter(([name]) => name === 'message').map(([, offset]) => offset), [11, 12, 13, 14, 15]);
  assert.ok(!names(seen).includes('lost'));
});

test('a back end may end the membership, and it is not asked for again', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  await world.socket.say({ route: 'onRemoved', body: { channel: 'room' } }, message(11));
  assert.deepEqual(seen.slice(1), [['parted', { reason: 'REMOVED', message: undefined }]]);
  assert.equal(await world.reconnect(), undefined);
  // One may join again. What was is over.
  void chat.channel('room').join();
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', positions: true });
});

test('a channel that was deleted is told as such, and a later removal is not', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  const removed = { route: 'onRemoved', body: { channel: 'room' } };
  await world.socket.say({ route: 'onDeleted', channel: 'room', offset: 11, time: 1, body: {} }, removed);
  assert.equal(seen.at(-1)[1].reason, 'DELETED');
  await world.enter(chat.channel('room'), 12);
  await world.socket.say({ route: 'onDeleted', channel: 'room', offset: 13, time: 1, body: {} }, message(14), removed);
  assert.equal(seen.at(-1)[1].reason, 'REMOVED');
});

test('after leave nothing comes any more, and the channel is not joined again', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  const left = chat.channel('room').leave();
  assert.deepEqual(world.socket.last(LEAVE).body, { channel: 'room' });
  await world.socket.say(message(11));
  assert.ok(await isPending(left));
  await world.socket.answer(LEAVE);
  await left;
  assert.deepEqual(names(seen), ['joined']);
  assert.equal(await world.reconnect(), undefined);
});

test('a leave is done when the server says that we are out, or when the connection has ended', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  const first = channel.leave();
  await world.socket.answer(LEAVE, later('RATE_LIMITED', 1_000));
  await world.pass(1_500);
  await world.socket.answer(LEAVE, never('LEAVE_PENDING', 500));
  await first;
  await world.enter(channel);
  const second = channel.leave();
  await world.socket.end();
  await second;
  // While away there is nothing to ask.
  await channel.leave();
});

test('a join during a leave makes the session a member afterwards', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const channel = chat.channel('room');
  void channel.leave();
  await world.socket.answer(LEAVE, later('RATE_LIMITED', 1_000));
  const joined = channel.join();
  await settled();
  assert.equal(world.socket.of(JOIN).length, 1);
  await world.pass(1_500);
  await world.socket.answer(LEAVE);
  assert.equal(world.socket.of(JOIN).length, 2);
  await world.socket.answer(JOIN, { code: 0, position: at(20), recovered: false, replayed: 0 });
  assert.deepEqual((await joined).position, at(20));
});

test('a back end that added us before we left has no say', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  void chat.channel('room').leave();
  await world.socket.say({ route: 'onAdded', body: { channel: 'room', position: at(12) } }, message(13));
  await world.socket.answer(LEAVE);
  assert.deepEqual(names(seen), ['joined']);
});

test('a join that is not done fails when the channel is left or the chat is closed', async (t) => {
  const world = new World(t);
  const chat = await world.online();
  const left = reasonOf(chat.channel('room').join());
  void chat.channel('room').leave();
  assert.equal(await left, 'LEFT');
  const closed = reasonOf(chat.channel('other').join());
  chat.close();
  assert.equal(await closed, 'CLOSED');
  assert.equal(await reasonOf(chat.channel('room').join()), 'CLOSED');
});

test('a listener may leave in the middle of what comes', async (t) => {
  const world = new World(t);
  const { chat, seen } = await world.inside();
  const channel = chat.channel('room');
  channel.on('lost', () => void channel.leave());
  await world.socket.say(message(15), message(16));
  assert.deepEqual(names(seen), ['joined', 'lost']);
  await world.socket.answer(LEAVE);
  void channel.join();
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', positions: true });
});

test('members are all pages, and are asked for again on the next connection', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const MEMBERS = 'chat.handler.members';
  const members = chat.channel('room').members();
  await world.socket.answer(MEMBERS, { code: 0, members: [{ userId: 'ann', sessions: 1 }], nextPageToken: 'more' });
  assert.equal(world.socket.last(MEMBERS).body.pageToken, 'more');
  await world.reconnect();
  // Not before we are a member again.
  assert.equal(world.socket.of(MEMBERS).length, 0);
  await world.socket.answer(JOIN, { code: 0, position: at(10), recovered: true, replayed: 0 });
  assert.equal(world.socket.last(MEMBERS).body.pageToken, 'more');
  await world.socket.answer(MEMBERS, { code: 0, members: [{ userId: 'ben', sessions: 2 }], nextPageToken: '' });
  assert.deepEqual((await members).map(({ userId }) => userId), ['ann', 'ben']);
});

test('what is asked of a channel fails with the reason of the server, and when the chat is closed', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  const refused = reasonOf(chat.channel('room').members());
  await world.socket.answer('chat.handler.members', never('NOT_ALLOWED', 403));
  assert.equal(await refused, 'NOT_ALLOWED');
  const closed = reasonOf(chat.channel('room').members());
  chat.close();
  assert.equal(await closed, 'CLOSED');
  assert.equal(await reasonOf(chat.channel('room').members()), 'CLOSED');
});

test('a session that was removed may still ask, and the server says why not', async (t) => {
  const world = new World(t);
  const { chat } = await world.inside();
  await world.reconnect();
  const sent = reasonOf(chat.channel('room').send({}));
  await settled();
  assert.equal(world.socket.of(PUBLISH).length, 0);
  await world.socket.answer(JOIN, never('NOT_ALLOWED', 403));
  await world.socket.answer(PUBLISH, never('NOT_JOINED'));
  assert.equal(await sent, 'NOT_JOINED');
});
