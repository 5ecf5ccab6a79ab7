// What outlives a page, and what a page tells of itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JOIN, later, LEAVE, LOGIN, message, never, PING, settled, Storage, World } from './world.mjs';

const kept = (storage, key = 'global-channels') => JSON.parse(storage.items.get(key) ?? 'null');

/** A page with `addEventListener`, `document` and what it fires. */
function page(t) {
  const target = new EventTarget();
  const document = new EventTarget();
  document.hidden = false;
  let listeners = 0;
  for (const it of [target, document]) {
    const { addEventListener, removeEventListener } = it;
    it.addEventListener = (...what) => ((listeners += 1), addEventListener.apply(it, what));
    it.removeEventListener = (...what) => ((listeners -= 1), removeEventListener.apply(it, what));
  }
  Object.assign(globalThis, {
    document,
    addEventListener: target.addEventListener,
    removeEventListener: target.removeEventListener,
  });
  t.after(() => {
    for (const name of ['document', 'addEventListener', 'removeEventListener']) delete globalThis[name];
  });
  return {
    document,
    fire: async (name, at = target) => {
      at.dispatchEvent(new Event(name));
      await settled();
    },
    get listeners() {
      return listeners;
    },
  };
}

test('secret, user and positions are written at most once a second', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  await world.inside({ storage, user: 5 });
  await world.pass(1_000);
  const { writes } = storage;
  for (let offset = 11; offset < 61; offset += 1) {
    await world.pass(20);
    await world.socket.say(message(offset));
  }
  await world.pass(1_000);
  assert.ok(storage.writes - writes <= 2, `${storage.writes - writes} writes`);
  assert.deepEqual(kept(storage), { user: '5', secret: 'secret', positions: { room: { epoch: 'e', offset: 60 } } });
});

test('a page that is loaded again goes on as the same session, where it was', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  await world.inside({ storage });
  await world.socket.say(message(11));
  await world.pass(1_000);
  const again = await world.connect({ storage });
  assert.equal((await world.letIn()).resume, 'secret');
  void again.channel('room').join();
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', since: { epoch: 'e', offset: 11 } });
});

test('a storage may take its time', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const slow = Object.fromEntries(
    ['getItem', 'setItem', 'removeItem'].map((name) => [
      name,
      async (...given) => {
        await settled();
        return storage[name](...given);
      },
    ]),
  );
  await world.connect({ storage: slow });
  await settled();
  await world.letIn();
  await world.pass(1_000);
  assert.equal(kept(storage).secret, 'secret');
});

test('what is written last is what stays, also if a write takes long', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  let write;
  const setItem = (...given) => new Promise((resolve) => (write = () => resolve(storage.setItem(...given))));
  const chat = await world.online({ storage: { ...storage, setItem } });
  await world.pass(1_000);
  chat.close();
  await settled();
  write();
  await settled();
  assert.equal(kept(storage), null);
});

test('what somebody else has left in the storage does not count', async (t) => {
  for (const [contents, options] of [
    [{ user: 'ben', secret: 'x', positions: {} }, {}],
    [{ secret: 'x', positions: {} }, {}],
    [{ user: 'ann', secret: 'x', positions: {} }, { storageKey: 'other' }],
    [{ user: 'ann', secret: 5, positions: {} }, {}],
    ['"text"', {}],
    ['{broken', {}],
    ['null', {}],
  ]) {
    await t.test(JSON.stringify(contents), async (t) => {
      const world = new World(t);
      const storage = new Storage();
      storage.setItem('global-channels', typeof contents === 'string' ? contents : JSON.stringify(contents));
      await world.connect({ storage, ...options });
      assert.equal((await world.letIn()).resume, undefined);
    });
  }
});

test('positions that are none do not count', async (t) => {
  for (const position of [null, 5, {}, { epoch: 5, offset: 1 }, { epoch: 'e', offset: -1 }, { epoch: 'e', offset: 1.5 }, { epoch: 'e' }]) {
    await t.test(JSON.stringify(position), async (t) => {
      const world = new World(t);
      const storage = new Storage();
      storage.setItem('global-channels', JSON.stringify({ user: 'ann', secret: 'x', positions: { room: position } }));
      const chat = await world.online({ storage });
      void chat.channel('room').join();
      assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', positions: true });
    });
  }
});

test('a secret that the server cannot read is forgotten, and the login repeated once', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  storage.setItem('global-channels', JSON.stringify({ user: 'ann', secret: '?', positions: {} }));
  const chat = await world.connect({ storage });
  await world.socket.open();
  await world.socket.answer(LOGIN, never('INVALID_PARAMETER'));
  await world.pass(500);
  await world.socket.open();
  assert.equal(world.socket.last(LOGIN).body.resume, undefined);
  await world.socket.answer(LOGIN, never('INVALID_PARAMETER'));
  assert.equal(chat.state, 'closed');
});

test('a storage that fails is as good as none, and that is reported once', async (t) => {
  const world = new World(t);
  const reported = [];
  globalThis.reportError = ({ message }) => reported.push(message);
  t.after(() => delete globalThis.reportError);
  const fail = () => {
    throw new Error('forbidden');
  };
  const { chat } = await world.inside({ storage: { getItem: fail, setItem: fail, removeItem: fail } });
  assert.deepEqual(reported, []);
  await world.pass(1_000);
  assert.equal(chat.state, 'online');
  await world.socket.say(message(11));
  await world.pass(1_000);
  await chat.close();
  assert.deepEqual(reported, ['forbidden']);
});

test('who waits for the end of a chat finds everything in the storage', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const slow = Object.fromEntries(
    ['getItem', 'setItem', 'removeItem'].map((name) => [name, async (...given) => (await settled(), storage[name](...given))]),
  );
  const { chat } = await world.inside({ storage: slow });
  await world.socket.say(message(11));
  await chat.close();
  assert.deepEqual(kept(storage), { user: 'ann', positions: { room: { epoch: 'e', offset: 11 } } });
  await chat.close({ forget: true });
  assert.equal(kept(storage), null);
});

test('a chat that was closed is not there any more, and the next one goes on where it was', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const { chat } = await world.inside({ storage });
  await world.socket.say(message(11));
  chat.close();
  await settled();
  assert.deepEqual(kept(storage), { user: 'ann', positions: { room: { epoch: 'e', offset: 11 } } });
  const next = await world.connect({ storage });
  assert.equal((await world.letIn()).resume, undefined);
  void next.channel('room').join();
  assert.deepEqual(world.socket.last(JOIN).body, { channel: 'room', since: { epoch: 'e', offset: 11 } });
});

test('a chat that is nowhere leaves nothing in the storage', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const chat = await world.online({ storage });
  await world.pass(1_000);
  chat.close();
  await settled();
  assert.equal(kept(storage), null);
});

test('close with forget leaves nothing, also after the server has ended the chat, and leave forgets the position', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const { chat } = await world.inside({ storage });
  await world.pass(1_000);
  void chat.channel('room').leave();
  await world.socket.answer(LEAVE);
  await world.pass(1_000);
  assert.deepEqual(kept(storage).positions, {});
  await world.enter(chat.channel('room'));
  await world.socket.kick({ reason: 'kick', reconnect: false });
  assert.notEqual(kept(storage), null);
  chat.close({ forget: true });
  void chat.channel('room').leave();
  await world.pass(5_000);
  assert.equal(kept(storage), null);
});

test('an end by the server keeps the positions for the next login', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  await world.inside({ storage });
  await world.socket.say(message(11));
  await world.socket.kick({ reason: 'disconnected', reconnect: false });
  await settled();
  assert.equal(kept(storage).positions.room.offset, 11);
});

test('positions of no more channels are kept than a session can have', async (t) => {
  const world = new World(t);
  const storage = new Storage();
  const chat = await world.online({ storage });
  for (let number = 0; number < 103; number += 1) await world.enter(chat.channel(number));
  await world.pass(1_000);
  assert.equal(Object.keys(kept(storage).positions).length, 100);
});

test('a page that is hidden writes at once', async (t) => {
  const { fire, document } = page(t);
  const world = new World(t);
  const storage = new Storage();
  await world.inside({ storage });
  await world.pass(1_000);
  await world.socket.say(message(11));
  await fire('pagehide');
  assert.equal(kept(storage).positions.room.offset, 11);
  await world.socket.say(message(12));
  document.hidden = true;
  await fire('visibilitychange', document);
  assert.equal(kept(storage).positions.room.offset, 12);
});

test('a page that is seen again, or has a network again, asks at once whether the server is there', async (t) => {
  const { fire, document } = page(t);
  const world = new World(t);
  await world.online();
  let count = 0;
  for (const [name, at] of [['online'], ['pageshow'], ['visibilitychange', document]]) {
    await fire(name, at);
    count += 1;
    assert.equal(world.socket.of(PING).length, count, name);
  }
});

test('while it waits, it connects at once, but not before the server wants it', async (t) => {
  const { fire } = page(t);
  const world = new World(t);
  await world.online();
  await world.socket.end();
  await fire('online');
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
  await world.socket.open();
  await world.socket.answer(LOGIN, later('TRY_LATER', 3_000));
  await world.pass(1_000);
  await fire('pageshow');
  await world.pass(1_999);
  assert.equal(world.sockets.length, 2);
  await world.pass(1);
  assert.equal(world.sockets.length, 3);
});

test('without a network it is away at once, and goes on trying', async (t) => {
  const { fire } = page(t);
  const world = new World(t);
  const chat = await world.online();
  await fire('offline');
  assert.deepEqual([chat.state, world.states.at(-1).reason], ['away', 'OFFLINE']);
  await world.pass(500);
  await world.letIn();
  assert.equal(chat.state, 'online');
});

test('nothing listens to the page after close, whatever has ended the chat', async (t) => {
  const it = page(t);
  const world = new World(t);
  const chat = await world.online();
  assert.equal(it.listeners, 5);
  chat.close();
  assert.equal(it.listeners, 0);
  await world.online();
  await world.socket.kick({ reason: 'kick', reconnect: false });
  assert.equal(it.listeners, 0);
  await it.fire('online');
  await world.pass(1_000);
  assert.equal(world.sockets.length, 2);
});
