'use strict';

// A real Chromium. Two people use the connectors' own page, and one of them loses the network. Then a page uses the
// original's browser library. The connectors drop silent clients sooner than the page's own five seconds, so a user may
// log in again by then.
//
// CONNECTORS as in chat.test.js. CHROMIUM is the browser's program, OUTPUT the folder for screenshots.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');
const should = require('should');
const { chromium } = require('playwright-core');

const [first, second] = process.env.CONNECTORS.split(',');
const output = process.env.OUTPUT;

/** A relay to a connector. It can be cut, or drop everything silently, as a network can. */
class Relay {
  #sockets = new Set();
  #isCut = false;

  static async to(address) {
    const relay = new Relay();
    const [host, port] = address.split(':');
    relay.server = net.createServer((client) => {
      if (relay.#isCut) return client.destroy();
      const server = net.connect(Number(port), host);
      for (const [from, to] of [[client, server], [server, client]]) {
        relay.#sockets.add(from);
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.on('close', () => to.destroy());
      }
    });
    await new Promise((resolve) => relay.server.listen(0, '127.0.0.1', resolve));
    relay.url = `http://127.0.0.1:${relay.server.address().port}/`;
    return relay;
  }

  /** Drops everything on the open connections, without an error. New connections pass. */
  swallow() {
    for (const socket of this.#sockets) {
      socket.unpipe();
      socket.removeAllListeners('close');
      socket.resume();
    }
  }

  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  mend() {
    this.#isCut = false;
  }
}

/** Records everything that the status line shows, because some of it is shown only for a moment. */
async function watchStatus(page) {
  await page.evaluate(() => {
    const status = document.querySelector('[role=status]');
    const told = (window.statuses = []);
    const note = () => told.push(status.textContent);
    new MutationObserver(note).observe(status, { childList: true, characterData: true, subtree: true });
  });
}

async function wasTold(page, text) {
  await page.waitForFunction((text) => window.statuses.some((told) => told.includes(text)), text);
}

/** Longer than anything may take on a machine whose cores have other work, too. */
const PATIENCE = 90_000;

let browser;

before('a browser', async function () {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
});

after(async function () {
  await browser?.close();
});

describe("the connectors' own page", function () {
  const problems = [];
  let relay;
  let anna;
  let ben;

  async function open(url, size) {
    const context = await browser.newContext({ viewport: size });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('console', (message) => {
      // While the network is away, the browser reports that it cannot connect.
      if (message.type() === 'error' && !/WebSocket connection to/.test(message.text())) problems.push(message.text());
    });
    await page.goto(url);
    return page;
  }

  /** Uses the keyboard alone, like somebody without a mouse. */
  async function logIn(page, user) {
    await page.keyboard.type(user);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.getByRole('status').filter({ hasText: `Online as ${user}` }).waitFor();
  }

  async function say(page, text) {
    await page.getByLabel('Message', { exact: true }).fill(text);
    await page.keyboard.press('Enter');
  }

  /** All lines of the log, without their times. */
  const lines = (page) =>
    page.locator('#log li').evaluateAll((items) =>
      items.map((item) => [...item.childNodes].filter((it) => it.nodeName !== 'TIME').map((it) => it.textContent).join(' ')),
    );

  async function until(page, expected) {
    let seen;
    for (const end = Date.now() + PATIENCE; Date.now() < end; ) {
      seen = await lines(page);
      if (JSON.stringify(seen) === JSON.stringify(expected)) return;
      await page.waitForTimeout(20);
    }
    seen.should.eql(expected);
  }

  const picture = (page, name) => page.screenshot({ path: path.join(output, `${name}.png`) });

  before(async function () {
    relay = await Relay.to(first);
    anna = await open(relay.url, { width: 1000, height: 640 });
    ben = await open(`http://${second}/`, { width: 390, height: 760 });
  });

  after(function () {
    relay.cut();
    relay.server.close();
  });

  it('logs two people in on two connectors, and shows who is there and what was said', async function () {
    await picture(anna, 'login');
    await logIn(anna, 'anna');
    await say(anna, 'hello, is anybody there?');
    await until(anna, ['anna joined', 'anna hello, is anybody there?']);
    await logIn(ben, 'ben');
    await until(ben, ['anna joined', 'anna hello, is anybody there?', 'ben joined']);
    await say(ben, 'yes: <b>me</b> 😀');
    for (const page of [anna, ben]) {
      await until(page, ['anna joined', 'anna hello, is anybody there?', 'ben joined', 'ben yes: <b>me</b> 😀']);
      (await page.locator('#members li').allTextContents()).should.eql(['anna', 'ben']);
    }
    await picture(anna, 'chat');
    await picture(ben, 'phone');
  });

  it('comes back from a lost network and shows exactly what it missed', async function () {
    relay.cut();
    await anna.getByRole('status').filter({ hasText: 'Reconnecting' }).waitFor();
    await until(ben, [...(await lines(anna)), 'anna left']);
    for (const text of ['one', 'two', 'three']) await say(ben, text);
    // She sends this while she is disconnected. It arrives once, when she is back.
    await say(anna, 'still here');
    await anna.getByLabel('Another channel').fill('elsewhere');
    await anna.getByRole('button', { name: 'Join' }).click();
    await anna.getByRole('alert').filter({ hasText: 'Not joined: not connected' }).waitFor();
    await picture(anna, 'away');
    relay.mend();
    const all = [
      ...['anna joined', 'anna hello, is anybody there?', 'ben joined', 'ben yes: <b>me</b> 😀'],
      ...['anna left', 'ben one', 'ben two', 'ben three', 'anna joined', 'anna still here'],
    ];
    await until(anna, all);
    await until(ben, all);
    await anna.getByRole('status').filter({ hasText: 'Online as anna' }).waitFor();
    await picture(anna, 'back');
  });

  it('is in several channels, tells what is new in the others, and leaves', async function () {
    for (const page of [anna, ben]) {
      await page.getByLabel('Another channel').fill('garden');
      await page.getByRole('button', { name: 'Join' }).click();
      await page.getByRole('heading', { name: 'garden' }).waitFor();
    }
    await anna.getByRole('button', { name: 'lobby' }).click();
    await say(ben, 'nice roses');
    await anna.getByRole('button', { name: 'garden 1 new' }).click();
    await until(anna, ['anna joined', 'ben joined', 'ben nice roses']);
    await picture(anna, 'channels');
    await ben.getByRole('button', { name: 'Leave' }).click();
    await until(anna, ['anna joined', 'ben joined', 'ben nice roses', 'ben left']);
    (await anna.locator('#members li').allTextContents()).should.eql(['anna']);
  });

  it('gives a dead connection up by itself, and nothing is lost or said twice', async function () {
    const before = await lines(anna);
    await ben.getByLabel('Another channel').fill('garden');
    await ben.getByRole('button', { name: 'Join' }).click();
    await until(anna, [...before, 'ben joined']);
    await watchStatus(anna);
    relay.swallow();
    // It waits for five seconds, and not until the old socket ends.
    await say(anna, 'into the void');
    await wasTold(anna, 'Reconnecting: the server does not answer');
    await ben.locator('#log li').filter({ hasText: 'anna left' }).waitFor();
    await say(ben, 'meanwhile');
    await anna.getByRole('status').filter({ hasText: 'Online as anna' }).waitFor();
    const all = [...before, 'ben joined', 'anna left', 'ben meanwhile', 'anna joined', 'anna into the void'];
    await until(anna, all);
    (await lines(ben)).slice(-4).should.eql(all.slice(-4));
  });

  it('notices a dead connection also when nobody says anything', async function () {
    await watchStatus(anna);
    relay.swallow();
    await wasTold(anna, 'Reconnecting: the server does not answer');
    await anna.getByRole('status').filter({ hasText: 'Online as anna' }).waitFor();
  });

  it('logs in again at once after a reload, while the server does not know yet that the old connection is gone', async function () {
    relay.swallow();
    await anna.reload();
    (await anna.getByLabel('Your name').inputValue()).should.equal('anna');
    (await anna.getByLabel('Channel', { exact: true }).inputValue()).should.equal('lobby');
    await anna.keyboard.press('Enter');
    // If the login is refused, the form says so and stays.
    const refused = anna.getByRole('alert').filter({ hasText: 'Not logged in' });
    const online = anna.getByRole('status').filter({ hasText: 'Online as anna' });
    await online.or(refused).waitFor();
    (await online.count()).should.equal(1);
    await anna.getByLabel('Another channel').fill('garden');
    await anna.getByRole('button', { name: 'Join' }).click();
    await anna.getByRole('heading', { name: 'garden' }).waitFor();
    await say(anna, 'back again');
    await ben.locator('#log li').filter({ hasText: 'back again' }).waitFor();
  });

  it('gives up a message that is too long, and does not loop', async function () {
    const before = await lines(ben);
    await anna.evaluate(() => document.getElementById('content').removeAttribute('maxlength'));
    await say(anna, 'x'.repeat(200_000));
    await anna.locator('#log .failed').filter({ hasText: '(not sent: the message is too long)' }).waitFor();
    await anna.getByRole('status').filter({ hasText: 'Online as anna' }).waitFor();
    await say(anna, 'short');
    // One leave and one join: the message did not end the next connection, too.
    await until(ben, [...before, 'anna left', 'anna joined', 'anna short']);
  });

  it('gives up a message that is refused for good', async function () {
    await anna.evaluate(async () => {
      const { Client } = await import('/client.js');
      const url = new URL('/ws', location.href);
      url.protocol = 'ws:';
      const told = (window.told = []);
      const ignore = () => {};
      const on = { joined: ignore, parted: ignore, push: ignore, gap: ignore, sent: ignore };
      on.refused = (key, why) => told.push(why.reason);
      on.state = (name) => {
        if (name !== 'online') return;
        client.say('nowhere', { content: 'x' });
        client.say('lobby', [1]);
      };
      const client = new Client(url, 'carl', 'lobby', on);
      client.connect();
    });
    await anna.waitForFunction(() => window.told.length === 2);
    (await anna.evaluate(() => window.told)).should.eql(['NOT_JOINED', 'INVALID_PARAMETER']);
  });

  it('says why somebody is not let in', async function () {
    const other = await open(`http://${second}/`, { width: 390, height: 760 });
    await other.keyboard.type('anna');
    await other.keyboard.press('Enter');
    await other.getByRole('alert').filter({ hasText: 'somebody is logged in under this name' }).waitFor();
    await other.context().close();
  });

  it('needs not be written by hand: what README.md and the banner print can be pasted at once', async function () {
    for (const [file, pattern, user] of [
      ['README.md', /```js\n([^]*?)```/, 'dora'],
      ['standalone/src/try_next.txt', /^ {2}(s = .*)$/m, 'emil'],
    ]) {
      const text = fs.readFileSync(path.join(__dirname, '../..', file), 'utf8');
      const code = text.match(pattern)[1].replace(/ws:\/\/(127.0.0.1:3010|CLIENTS)\//, `ws://${second}/`).replace('"me"', `"${user}"`);
      const page = await open(`http://${second}/`, { width: 390, height: 760 });
      const sent = page.waitForEvent('console', (message) => message.text().includes('发送成功'));
      await page.evaluate(code);
      await sent;
      await page.context().close();
    }
  });

  it('breaks neither its own policy nor anything else', function () {
    should(problems).eql([]);
  });
});

describe("the original's browser library in a browser", function () {
  const scripts = ['pomelo-protocol/lib/protocol.js', 'pomelo-jsclient-websocket/lib/pomelo-client.js'];

  let site;

  before('a site of its own, whose origin the connectors allow', async function () {
    site = http.createServer((request, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html>'));
    await new Promise((resolve) => site.listen(Number(process.env.SITE), '127.0.0.1', resolve));
  });

  after(function () {
    site.closeAllConnections();
    site.close();
  });

  /** What such a page includes before the scripts: an emitter, and what its module loader provides. */
  function prepare() {
    window.module = { exports: {} };
    window.EventEmitter = class {
      on(name, listener) {
        ((this.listeners ??= {})[name] ??= []).push(listener);
      }
      emit(name, ...values) {
        for (const listener of this.listeners?.[name] ?? []) listener(...values);
      }
      removeAllListeners() {}
    };
    window.EventEmitter.prototype.once = window.EventEmitter.prototype.on;
  }

  async function open() {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE);
    await page.goto(`http://127.0.0.1:${site.address().port}/`);
    await page.evaluate(prepare);
    for (const script of scripts) {
      await page.addScriptTag({ content: fs.readFileSync(require.resolve(script), 'utf8') });
    }
    return page;
  }

  const logIn = (page, address, userId) =>
    page.evaluate(
      async ([address, userId]) => {
        const [host, port] = address.split(':');
        window.told = [];
        for (const route of ['onJoin', 'onMessage', 'onLeave']) {
          window.pomelo.on(route, (body) => window.told.push([route, body.content ?? body.userId]));
        }
        await new Promise((resolve) => window.pomelo.init({ host, port, user: {} }, resolve));
        window.ask = (route, body) => new Promise((resolve) => window.pomelo.request(route, body, resolve));
        return window.ask('connector.handler.login', { userId, lessonId: 'library' });
      },
      [address, userId],
    );

  it('logs in, sends, receives and sees others leave', async function () {
    const here = await open();
    const there = await open();
    (await logIn(there, second, 'there')).should.eql({ code: 0, message: '登录成功' });
    (await logIn(here, first, 'here')).should.eql({ code: 0, message: '登录成功' });
    const sent = await here.evaluate(() => window.ask('chat.handler.send', { type: 1, content: '哈哈 😀' }));
    sent.should.eql({ message: '发送成功', code: 0 });
    await there.waitForFunction(() => window.told.length === 3);
    await here.evaluate(() => window.pomelo.disconnect());
    await there.waitForFunction(() => window.told.length === 4);
    (await there.evaluate(() => window.told)).should.eql([
      ['onJoin', 'there'],
      ['onJoin', 'here'],
      ['onMessage', '哈哈 😀'],
      ['onLeave', 'here'],
    ]);
  });
});
