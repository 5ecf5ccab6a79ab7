'use strict';

// Client libraries over TLS: `ws`, Socket.IO over each transport, the original's library, and the page in a Chromium.
//
// CONNECTORS names a running connector, `host:port`, whose port has a certificate. NODE_EXTRA_CA_CERTS is its authority.
// CHROMIUM is the browser's program.

const should = require('should');
const WebSocket = require('ws');
const { chromium } = require('playwright-core');
const libraries = require('./libraries');

const [host, port] = process.env.CONNECTORS.split(',')[0].split(':');

describe('over TLS', function () {
  it('ws logs in and sends', async function () {
    const socket = new WebSocket(`wss://${host}:${port}/ws`);
    const heard = [];
    socket.on('message', (text) => heard.push(JSON.parse(text)));
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject));
    const ask = (id, route, body) => socket.send(JSON.stringify({ id, route, body }));
    ask(1, 'connector.handler.login', { userId: 'ws', lessonId: 'ws' });
    ask(2, 'chat.handler.send', { type: 1, content: 'x'.repeat(50_000) });
    while (!heard.some(({ id }) => id === 2)) await new Promise((resolve) => socket.once('message', resolve));
    heard.find(({ id }) => id === 1).body.should.have.property('code', 0);
    heard.find(({ id }) => id === 2).body.should.have.property('code', 0);
    socket.close();
    const [code] = await new Promise((resolve) => socket.on('close', (...end) => resolve(end)));
    code.should.equal(1000);
  });

  for (const library of libraries.filter(({ name }) => name.startsWith('socket.io'))) {
    it(`${library.name} logs in and hears what it says`, async function () {
      const client = library.create();
      const request = (route, body) => new Promise((resolve) => library.request(client, route, body, resolve));
      const message = new Promise((resolve) => client.on('onMessage', resolve));
      await new Promise((resolve) => client.init({ scheme: 'https', host, port }, resolve));
      const userId = library.name;
      const answer = await request('connector.handler.login', { userId, lessonId: userId.replaceAll(' ', '-') });
      answer.should.have.property('code', 0);
      await request('chat.handler.send', { type: 1, content: '哈哈' });
      (await message).should.have.property('content', '哈哈');
      client.transport.should.equal(library.transport);
      client.disconnect();
    });
  }

  it("the original's library logs in over a secure WebSocket", async function () {
    const library = libraries.find(({ name }) => name === 'pomelo-jsclient-websocket');
    const client = library.create({ secure: true });
    const request = (route, body) => new Promise((resolve) => library.request(client, route, body, resolve));
    await new Promise((resolve) => client.init({ host, port, user: {} }, resolve));
    const answer = await request('connector.handler.login', { userId: 'original', lessonId: 'original' });
    answer.should.have.property('code', 0);
    client.disconnect();
  });

  it('the page in a browser logs in and chats over a secure WebSocket', async function () {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
    try {
      const context = await browser.newContext({ ignoreHTTPSErrors: true });
      const page = await context.newPage();
      page.setDefaultTimeout(60_000);
      const sockets = [];
      page.on('websocket', (socket) => sockets.push(socket.url()));
      await page.goto(`https://${host}:${port}/`);
      await page.keyboard.type('anna');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await page.locator('#status').filter({ hasText: 'Online as anna' }).waitFor();
      await page.getByLabel('Message', { exact: true }).fill('over TLS');
      await page.keyboard.press('Enter');
      await page.locator('#log li').filter({ hasText: 'over TLS' }).waitFor();
      sockets[0].should.startWith(`wss://${host}:${port}/`);
    } finally {
      await browser.close();
    }
  });
});
