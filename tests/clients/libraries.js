'use strict';

// The client libraries under test with one interface. They differ in how a client is made and in what a callback takes.

const NodePomelo = require('pomelo-nodejsclient-websocket');
const openPage = require('./page');
const socketIo = require('./socketio');

const quiet = () => {};
const logger = { debug: quiet, info: quiet, warn: quiet, error: quiet, trace: quiet };

const socketIoClients = ['socket.io-client-1', 'socket.io-client-2', 'socket.io-client-4'].flatMap((version) =>
  [['websocket'], ['polling'], ['polling', 'websocket']].map((transports) => {
    const Client = socketIo(require(version), transports);
    return {
      name: `${version} by ${transports.join(' then ')}`,
      create: () => new Client(),
      request: (client, route, body, answered) => client.request(route, body, answered),
      // The transport that it has to use in the end.
      transport: transports.at(-1),
    };
  }),
);

module.exports = [
  {
    name: 'pomelo-nodejsclient-websocket',
    create: () => new NodePomelo({ logger }),
    tellsReason: false,
    request: (client, route, body, answered) => client.request(route, body, (error, answer) => answered(answer)),
  },
  {
    name: 'pomelo-jsclient-websocket',
    create: openPage,
    request: (client, route, body, answered) => client.request(route, body, answered),
  },
  ...socketIoClients,
];
