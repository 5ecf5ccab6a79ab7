'use strict';

// handler.js 127.0.0.1:5001: the game of handler.py as a handler in Node. Start a connector with --route
// 'game.*=http://127.0.0.1:5001'. It needs @grpc/grpc-js, @grpc/proto-loader and the folder proto/ of this project.

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const folder = path.join(__dirname, '../../../proto');
const contract = protoLoader.loadSync('route/v1/route_handler.proto', { includeDirs: [folder], keepCase: true });
const { RouteHandler } = grpc.loadPackageDefinition(contract).route.v1;
const places = new Map(); // user → where it stands

function move(user, { x, y }) {
  if (!Number.isInteger(x) || !Number.isInteger(y)) {
    // What is wrong in the game is an answer like any other.
    return { code: 1, message: 'x and y must be whole numbers' };
  }
  places.set(user, [x, y]);
  return { code: 0, at: [x, y], players: places.size };
}

const routes = { 'game.handler.move': move };

function handle({ request }, answered) {
  if (!Object.hasOwn(routes, request.route)) {
    // The client is told that the handler has failed; the connector logs why.
    return answered({ code: grpc.status.UNIMPLEMENTED, details: `no such route: ${request.route}` });
  }
  const answer = routes[request.route](request.user, JSON.parse(request.body_json));
  answered(null, { body_json: Buffer.from(JSON.stringify(answer)) });
}

const server = new grpc.Server();
server.addService(RouteHandler.service, { Handle: handle });
const address = process.argv[2];
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening at ${address.replace(/:\d+$/, '')}:${port}`);
});
