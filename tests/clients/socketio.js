'use strict';

// Pomelo's client for `sioconnector`, on any version of socket.io-client. It sends and understands what the original
// author's own client did, as recorded (siofix-01, siofix-02).

const { EventEmitter } = require('node:events');

/**
 * Makes clients on a version of the library that are restricted to these transports. They do not reconnect, unless
 * other options of the library are given.
 */
module.exports = (io, transports, options = { reconnection: false }) =>
  class Client extends EventEmitter {
    #socket;
    #lastId = 1;
    #waiting = new Map();

    init({ scheme = 'http', host, port }, connected) {
      this.#socket = io(`${scheme}://${host}:${port}`, { transports, forceNew: true, ...options });
      this.#socket.on('connect', () => connected());
      this.#socket.on('message', (text) => this.#receive(JSON.parse(text)));
      this.#socket.on('disconnect', (reason) => this.emit('disconnect', reason));
    }

    request(route, body, answered) {
      const id = ++this.#lastId;
      this.#waiting.set(id, answered);
      this.#send(id, route, body);
    }

    notify(route, body) {
      this.#send(0, route, body);
    }

    disconnect() {
      this.#socket.disconnect();
    }

    /** The transport that carries the messages now. */
    get transport() {
      return this.#socket.io.engine.transport.name;
    }

    #send(id, route, body) {
      const bytes = [id >> 24, id >> 16, id >> 8, id, route.length].map((byte) => byte & 0xff);
      this.#socket.send(String.fromCharCode(...bytes) + route + JSON.stringify(body));
    }

    #receive({ id, route, body, ...rest }) {
      if (id) {
        this.#waiting.get(id)(body);
        this.#waiting.delete(id);
      } else {
        this.emit(route, body ?? rest);
      }
    }
  };
