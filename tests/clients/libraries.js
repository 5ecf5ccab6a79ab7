'use strict';

// The client libraries under test behind one face: where they differ is how one gets a client and what a callback takes.

const NodePomelo = require('pomelo-nodejsclient-websocket');
const openPage = require('./page');

const quiet = () => {};
const logger = { debug: quiet, info: quiet, warn: quiet, error: quiet, trace: quiet };

module.exports = [
  {
    name: 'pomelo-nodejsclient-websocket',
    create: () => new NodePomelo({ logger }),
    request: (client, route, body, answered) => client.request(route, body, (error, answer) => answered(answer)),
  },
  {
    name: 'pomelo-jsclient-websocket',
    create: openPage,
    request: (client, route, body, answered) => client.request(route, body, answered),
  },
];
