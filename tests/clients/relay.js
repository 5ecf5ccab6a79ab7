'use strict';

const net = require('node:net');

/** A relay to a connector. It can be cut, drop everything silently, as a network can, and choose another connector. */
module.exports = class Relay {
  #sockets = new Set();
  #isCut = false;

  static async to(address) {
    const relay = new Relay();
    relay.address = address;
    relay.server = net.createServer((client) => relay.#pass(client));
    await new Promise((resolve) => relay.server.listen(0, '127.0.0.1', resolve));
    relay.url = `http://127.0.0.1:${relay.server.address().port}`;
    return relay;
  }

  #pass(client) {
    if (this.#isCut) return client.destroy();
    const [host, port] = this.address.split(':');
    const server = net.connect(Number(port), host);
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#sockets.add(from);
      from.pipe(to);
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
    }
  }

  /** Drops everything on the open connections, without an error. New connections pass. */
  swallow() {
    for (const socket of this.#sockets) {
      socket.unpipe();
      socket.removeAllListeners('close');
      socket.resume();
    }
  }

  /** Ends the open connections. New ones pass. */
  drop() {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  /** Ends each new connection, until `mend`. */
  refuse() {
    this.#isCut = true;
  }

  /** Ends the open connections, and each new one, until `mend`. */
  cut() {
    this.refuse();
    this.drop();
  }

  mend() {
    this.#isCut = false;
  }
};
