'use strict';

// One client of each library, all in one room, with the library's own settings. Nothing here reconnects: when a library
// says that it is connected, its client logs in and sends a message, and that is all.
//
//   node reconnecting.js HOST:PORT ROOM
//
// Each line of output is a JSON array: a client's name, an event, and its details.

const NodePomelo = require('pomelo-nodejsclient-websocket');
const openPage = require('./page');
const socketIo = require('./socketio');

const [host, port] = process.argv[2].split(':');
const room = process.argv[3];

const quiet = () => {};
const logger = { debug: quiet, info: quiet, warn: quiet, error: quiet, trace: quiet };

/** `create` makes a client. `request` returns the answer's body to `answered`. `options` are for its `init`. */
const libraries = [
  {
    name: 'pomelo-nodejsclient-websocket',
    create: () => new NodePomelo({ logger }),
    request: (client, route, body, answered) => client.request(route, body, (error, answer) => answered(answer)),
    ends: ['close', 'heartbeat timeout'],
    // It goes on sending heartbeats into the closed socket, which throws, until its application calls this.
    ended: (client) => client.disconnect(),
  },
  {
    name: 'pomelo-jsclient-websocket',
    create: openPage,
    request: (client, ...rest) => client.request(...rest),
    ends: ['disconnect', 'heartbeat timeout'],
  },
  {
    name: 'pomelo-jsclient-websocket with reconnect',
    create: openPage,
    request: (client, ...rest) => client.request(...rest),
    ends: ['disconnect', 'heartbeat timeout'],
    options: { reconnect: true },
  },
  ...['socket.io-client-1', 'socket.io-client-2', 'socket.io-client-4'].flatMap((version) =>
    [['websocket'], ['polling'], ['polling', 'websocket']].map((transports) => {
      const Client = socketIo(require(version), transports, {});
      return {
        name: `${version} by ${transports.join(' then ')}`,
        create: () => new Client(),
        request: (client, ...rest) => client.request(...rest),
        ends: ['disconnect'],
      };
    }),
  ),
];

for (const { name, create, request, ends, ended, options } of libraries) {
  const tell = (event, what) => console.log(JSON.stringify([name, event, what]));
  const client = create();
  let connections = 0;
  client.on('onMessage', ({ content }) => tell('heard', content));
  client.on('onKick', (body) => tell('kicked', body));
  client.on('error', (error) => tell('error', String(error)));
  for (const end of ends) client.on(end, (event) => tell(end, event?.code ?? event));
  if (ended) client.on(ends[0], () => ended(client));
  client.init({ host, port, user: {}, ...options }, () => {
    connections += 1;
    tell('connected', connections);
    request(client, 'connector.handler.login', { userId: name, lessonId: room }, (answer) => {
      tell('login', answer.code);
      request(client, 'chat.handler.send', { type: 1, content: `${name}: ${connections}` }, (sent) =>
        tell('sent', sent.code),
      );
    });
  });
}
