'use strict';

// The steps that the original's author tried with his client: connect, log in, send a message. And what a member on
// another connector sees of it.
//
// LIBRARY names the client library (libraries.js); CONNECTORS names two running connectors of one fresh system:
// `host:port,host:port`.

const should = require('should');
const libraries = require('./libraries');

const connectors = (process.env.CONNECTORS || '').split(',').map((address) => {
  const [host, port] = address.split(':');
  return { host, port: Number(port) };
});

if (connectors.length < 2 || connectors.some(({ port }) => !port)) {
  throw new Error('CONNECTORS must name two running connectors: host:port,host:port');
}

/** Records the pushes that a client receives. `until` is a promise for one of them. */
function record(client, routes) {
  const told = [];
  const waiting = [];
  for (const route of routes) {
    client.on(route, (body) => {
      told.push({ route, body });
      for (const check of waiting.splice(0)) check();
    });
  }
  return {
    told,
    until: (route, user) =>
      new Promise((resolve) => {
        const check = () => {
          const found = told.find((push) => push.route === route && push.body.userId === user);
          if (found) resolve(found.body);
          else waiting.push(check);
        };
        check();
      }),
  };
}

const library = libraries.find(({ name }) => name === process.env.LIBRARY);

if (!library) {
  throw new Error(`LIBRARY must be one of: ${libraries.map(({ name }) => name).join(', ')}`);
}

describe(library.name, function () {
  const routes = ['onJoin', 'onMessage', 'onLeave'];
  const lessonId = 4;
  const request = (client, route, body) =>
    new Promise((resolve) => library.request(client, route, body, resolve));
  const connect = (client, connector) =>
    new Promise((resolve) => client.init({ ...connector, user: {} }, () => resolve()));

  const here = library.create();
  const there = library.create();
  let seenHere;
  let seenThere;

  before('somebody listens on the other connector', async function () {
    seenThere = record(there, routes);
    await connect(there, connectors[1]);
    const answer = await request(there, 'connector.handler.login', { userId: 'listener', lessonId });
    answer.should.have.property('code', 0);
    await seenThere.until('onJoin', 'listener');
  });

  after(function () {
    here.disconnect();
    there.disconnect();
  });

  it('connects', async function () {
    seenHere = record(here, routes);
    await connect(here, connectors[0]);
  });

  it('logs in and is told of its own joining', async function () {
    const answer = await request(here, 'connector.handler.login', { userId: 'xialei', lessonId });
    answer.should.eql({ code: 0, message: '登录成功' });
    const joined = await seenHere.until('onJoin', 'xialei');
    joined.should.eql({ userId: 'xialei' });
  });

  it('sends and receives what it sent', async function () {
    const answer = await request(here, 'chat.handler.send', { type: 1, content: '哈哈' });
    answer.should.eql({ message: '发送成功', code: 0 });
    const message = await seenHere.until('onMessage', 'xialei');
    message.should.eql({ type: 1, content: '哈哈', userId: 'xialei' });
  });

  it('is seen by the member on the other connector, and seen to go', async function () {
    await seenThere.until('onJoin', 'xialei');
    const message = await seenThere.until('onMessage', 'xialei');
    message.should.have.property('content', '哈哈');
    here.disconnect();
    const left = await seenThere.until('onLeave', 'xialei');
    left.should.eql({ userId: 'xialei' });
    seenThere.told.map(({ route }) => route).should.eql(['onJoin', 'onJoin', 'onMessage', 'onLeave']);
  });

  it('uses the transport that it has chosen', async function () {
    if (!library.transport) return;
    while (there.transport !== library.transport) await new Promise(setImmediate);
  });

  it('is told why it is kicked', async function () {
    const kicked = library.create();
    const reason = new Promise((resolve) => kicked.on('onKick', resolve));
    await connect(kicked, connectors[1]);
    await request(kicked, 'connector.handler.login', { userId: 'attacker', lessonId: 5 });
    library.request(kicked, 'connector.handler.constructor', {}, () => {});
    // One of the libraries does not say why.
    if (library.tellsReason ?? true) (await reason).should.have.property('reason', 'attack');
    else await reason;
  });

  it('is told nothing twice', function () {
    should(seenHere.told.map(({ route }) => route)).eql(['onJoin', 'onMessage']);
  });
});
