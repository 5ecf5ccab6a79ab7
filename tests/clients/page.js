'use strict';

// A browser page, as far as pomelo-jsclient-websocket needs one: the scripts that such a page includes, unmodified and
// in their usual order, in a global object of their own. Each page has one client, because the library allows only one.

const { EventEmitter } = require('node:events');
const fs = require('node:fs');
const vm = require('node:vm');
const WebSocket = require('ws');

const SCRIPTS = ['pomelo-protocol/lib/protocol.js', 'pomelo-jsclient-websocket/lib/pomelo-client.js'].map((path) => {
  const filename = require.resolve(path);
  return new vm.Script(fs.readFileSync(filename, 'utf8'), { filename });
});

const quiet = () => {};

/** The library writes `ws:` into each URL. */
class SecureWebSocket extends WebSocket {
  constructor(url) {
    super(url.replace(/^ws:/, 'wss:'));
  }
}

/** Opens a page and returns its `pomelo`. With `secure` its WebSockets use TLS. */
module.exports = function open({ secure = false } = {}) {
  const page = {
    // What a browser has. The data types are those of this realm, so that a test can compare what it gets.
    ArrayBuffer,
    JSON,
    Uint8Array,
    WebSocket: secure ? SecureWebSocket : WebSocket,
    clearTimeout,
    console: { error: quiet, log: quiet, warn: quiet },
    setTimeout,
    // What the page's module loader and its emitter script provide.
    EventEmitter,
    module: { exports: {} },
  };
  page.window = page;
  vm.createContext(page);
  for (const script of SCRIPTS) {
    script.runInContext(page);
  }
  return page.pomelo;
};
