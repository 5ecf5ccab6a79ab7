'use strict';

// EventSource in a real Chromium, on a page of another origin. Its network breaks off again and again, and it comes back by itself, each
// time at another connector.
//
// CONNECTORS as in chat.test.js. CHROMIUM is the browser's program, SITE the port of the page, which the connectors allow.

const http = require('node:http');
const should = require('should');
const { chromium } = require('playwright-core');
const WebSocket = require('ws');
const Relay = require('./relay');

const connectors = process.env.CONNECTORS.split(',');
const ROUNDS = 8;
const EACH = 10;
/** Longer than anything may take on a machine whose cores have other work, too. */
const PATIENCE = 90_000;

/** Somebody with a WebSocket. */
class Speaker {
  #replies = new Map();
  #last = 0;

  async connect(address, user) {
    this.socket = new WebSocket(`ws://${address}/ws`);
    this.socket.on('message', (text) => {
      const { id, body } = JSON.parse(text);
      this.#replies.get(id)?.(body);
    });
    await new Promise((resolve) => this.socket.on('open', resolve));
    should((await this.ask('connector.handler.login', { userId: user, lessonId: 'room' })).code).equal(0);
  }

  ask(route, body) {
    const id = ++this.#last;
    this.socket.send(JSON.stringify({ id, route, body }));
    return new Promise((resolve) => this.#replies.set(id, resolve));
  }

  async say(number) {
    should((await this.ask('chat.handler.send', { number })).code).equal(0);
  }
}

describe('EventSource', function () {
  let relay;
  let target = 0;
  const speaker = new Speaker();
  let site;
  let browser;
  let page;

  before(async function () {
    site = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html>'));
    await new Promise((resolve) => site.listen(Number(process.env.SITE), '127.0.0.1', resolve));
    relay = await Relay.to(connectors[0]);
    await speaker.connect(connectors[0], 'speaker');
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
    page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE);
    await page.goto(`http://127.0.0.1:${process.env.SITE}/`);
    await page.evaluate((url) => {
      window.events = [];
      window.source = new EventSource(`${url}/sse?userId=reader&channel=room&channel=side`);
      for (const name of ['onSession', 'onMessage', 'onPosition', 'onRefused', 'onKick']) {
        source.addEventListener(name, ({ data, lastEventId }) => {
          events.push({ name, lastEventId, ...JSON.parse(data) });
        });
      }
    }, relay.url);
    await page.waitForFunction(() => events.some(({ name }) => name === 'onSession'));
  });

  after(async function () {
    await browser?.close();
    site?.close();
  });

  /** The connections break off, and new ones go to the next connector. */
  function moveOn() {
    target = (target + 1) % connectors.length;
    relay.address = connectors[target];
    relay.drop();
  }

  const numbers = () =>
    page.evaluate(() => events.filter(({ name }) => name === 'onMessage').map(({ body }) => body.number));

  it('misses nothing and gets nothing twice, however often its network breaks off', async function () {
    let next = 0;
    for (let round = 0; round < ROUNDS; round++) {
      for (let count = 0; count < EACH; count++) {
        if (count === EACH / 2) moveOn();
        await speaker.say(next++);
      }
      await page.waitForFunction(
        (next) => events.some(({ name, body }) => name === 'onMessage' && body.number === next - 1),
        next,
      );
    }
    should(await numbers()).eql([...Array(ROUNDS * EACH).keys()]);
    const told = await page.evaluate(() => events.filter(({ name }) => name === 'onPosition' || name === 'onKick'));
    should(told).eql([]);
    const sessions = await page.evaluate(() => events.filter(({ name }) => name === 'onSession').map(({ body }) => body));
    should(sessions.length).equal(ROUNDS + 1);
    should(new Set(sessions.map(({ connector }) => connector)).size).equal(connectors.length);
    for (const { channels } of sessions.slice(1)) {
      should(channels.map(({ recovered }) => recovered)).eql([true, true]);
    }
    // It was one member all the time.
    const members = await speaker.ask('chat.handler.members', {});
    should(members.members.find(({ userId }) => userId === 'reader').sessions).equal(1);
  });

  it('lets the page ask by posts', async function () {
    const reply = await page.evaluate(async (url) => {
      const { body } = events.findLast(({ name }) => name === 'onSession');
      const request = { id: 1, route: 'chat.handler.send', body: { number: -1 } };
      const headers = { 'content-type': 'application/json' };
      const init = { method: 'POST', headers, body: JSON.stringify(request) };
      return (await fetch(`${url}/sse/${body.session}`, init)).json();
    }, relay.url);
    should(reply).eql({ id: 1, body: { code: 0, message: '发送成功' } });
    await page.waitForFunction(() => events.some(({ name, body }) => name === 'onMessage' && body.number === -1));
  });

  it('stops for good when it is told to', async function () {
    const newer = new Speaker();
    await newer.connect(connectors[1], 'reader');
    await page.waitForFunction(() => events.some(({ name }) => name === 'onKick'));
    await page.waitForFunction(() => source.readyState === EventSource.CLOSED);
    const kick = await page.evaluate(() => events.find(({ name }) => name === 'onKick').body);
    should(kick).eql({ reason: 'kick', reconnect: false });
  });

  it('gives up at once if another try is useless', async function () {
    const states = await page.evaluate(async (url) => {
      const refused = new EventSource(`${url}/sse?channel=room`);
      await new Promise((resolve) => (refused.onerror = resolve));
      return refused.readyState;
    }, relay.url);
    should(states).equal(2);
  });
});
