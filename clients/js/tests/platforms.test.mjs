// Where the library runs: also where there is next to nothing.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { createContext, runInContext } from 'node:vm';
import * as esm from '../dist/index.js';
import { settled } from './world.mjs';

const cjs = new URL('../dist/cjs/index.js', import.meta.url);

test('import and require give the same names', () => {
  const names = Object.keys(esm).sort();
  assert.deepEqual(names, ['ChatError', 'connect']);
  assert.deepEqual(Object.keys(createRequire(import.meta.url)(cjs.pathname)).sort(), names);
});

test('a WebSocket and timers are enough', async () => {
  const sent = [];
  const sockets = [];
  class WebSocket {
    readyState = 1;
    constructor() {
      sockets.push(this);
    }
    send(text) {
      sent.push(JSON.parse(text));
    }
    close() {}
  }
  const module = { exports: {} };
  runInContext(readFileSync(cjs, 'utf8'), createContext({ WebSocket, setTimeout, clearTimeout, module }));
  const chat = module.exports.connect('ws://server', { user: 'ann' });
  await settled();
  const [socket] = sockets;
  socket.onopen();
  const answer = (body) => socket.onmessage({ data: JSON.stringify({ id: sent.at(-1).id, body }) });
  answer({ code: 0, resume: 'secret' });
  assert.equal(chat.state, 'online');
  const stored = chat.channel('room').send({ content: 'hello' });
  assert.match(stored.key, /^[0-9.]+-1$/);
  answer({ code: 0 });
  await stored;
  // There is nobody to tell of the error of a listener.
  chat.on('state', () => {
    throw new Error('ignored');
  });
  chat.close();
  await settled();
});

test('nothing keeps a program alive after close', async () => {
  const { chat } = await new Promise((resolve) => {
    class WebSocket {
      readyState = 0;
      close() {}
    }
    const chat = esm.connect('ws://server', { user: 'ann', WebSocket, token: () => 'x' });
    chat.on('state', () => setImmediate(resolve, { chat }));
  });
  chat.close();
  assert.deepEqual(process.getActiveResourcesInfo().filter((it) => it === 'Timeout'), []);
});
