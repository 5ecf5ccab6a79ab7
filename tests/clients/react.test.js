'use strict';

// The chat of examples/react-chat in a real Chromium: as a newcomer starts it, with React's StrictMode, and as it is built.
//
// FOLDER is a copy of the repository, as far as the example needs it, and LINE the command that the example's README gives.
// SERVERS are two servers that know nothing of each other, and CHAT is the first one's port for back ends. CHROMIUM is the browser's
// program, OUTPUT the folder for screenshots.

const { spawn } = require('node:child_process');
const path = require('node:path');
const axe = require('axe-core');
const should = require('should');
const WebSocket = require('ws');
const { chromium } = require('playwright-core');
const backEnd = require('./back-end');
const Relay = require('./relay');

const { FOLDER, LINE, CHAT, CHROMIUM, OUTPUT } = process.env;
const [first, second] = process.env.SERVERS.split(',');

/** Longer than anything may take on a machine whose cores have other work, too. */
const PATIENCE = 90_000;
const DESKTOP = { viewport: { width: 1100, height: 720 } };
const PHONE = { viewport: { width: 390, height: 760 }, hasTouch: true, isMobile: true };
const BANNER = 'Connecting again… You can go on writing.';

/** Starts a site that passes on to this server, and returns the site's address. It ends with the group of this process. */
async function site(line, folder, server) {
  const shell = spawn('bash', ['-c', `${line} -- --port 0`], { cwd: folder, env: { ...process.env, VITE_CHAT_URL: server } });
  let output = '';
  return new Promise((resolve, reject) => {
    for (const stream of [shell.stdout, shell.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
        const [, url] = /Local:.*(http:\/\/localhost:\d+)/.exec(output.replace(/\x1b\[\d*m/g, '')) ?? [];
        if (url) resolve(url);
      });
    }
    shell.on('close', (code) => reject(new Error(`${line} has ended (${code}):\n${output}`)));
  });
}

/** Somebody without the example, who sees what the server says. */
async function witness(server, channel, userId = 'witness') {
  const socket = new WebSocket(`ws://${server}/ws`);
  await new Promise((resolve) => socket.on('open', resolve));
  const pushes = [];
  const answers = new Map();
  let id = 0;
  socket.on('message', (text) => {
    const message = JSON.parse(text);
    if (message.id) answers.get(message.id)(message.body);
    else pushes.push(message);
  });
  const ask = (route, body) => {
    const answer = new Promise((resolve) => answers.set(++id, resolve));
    socket.send(JSON.stringify({ id, route, body }));
    return answer;
  };
  (await ask('connector.handler.login', { userId, lessonId: channel })).code.should.equal(0);
  const heard = (route, user) => pushes.filter((it) => it.route === route && it.body.userId === user);
  const say = async (content) => (await ask('chat.handler.send', { content })).code.should.equal(0);
  return { ask, heard, say, close: () => socket.close() };
}

describe('the chat in React', function () {
  const problems = [];
  let browser;
  let relay;
  let witnessed;
  let anna;
  let ben;

  async function open(url, options) {
    const page = await (await browser.newContext(options)).newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('console', (message) => {
      // While the server is away, the browser reports that it cannot connect.
      if (message.type() === 'error' && !/WebSocket connection to/.test(message.text())) problems.push(message.text());
    });
    await page.goto(url);
    return page;
  }

  /** Uses the keyboard alone. The field for the name has the focus. */
  async function logIn(page, user) {
    await page.getByLabel('Your name').waitFor();
    await page.keyboard.type(user);
    await page.keyboard.press('Enter');
    await page.getByRole('complementary').getByText(user, { exact: true }).waitFor();
  }

  /** So does this: the field for messages has the focus. */
  async function say(page, text) {
    await page.keyboard.type(text);
    await page.keyboard.press('Enter');
  }

  /** All lines of the log, without times. A message on its way says how it stands. */
  const lines = (page) =>
    page.getByRole('log').locator('li').evaluateAll((items) =>
      items.map((it) => {
        if (!it.matches('.message')) return it.textContent;
        const state = it.matches('.failed') ? 'failed' : it.querySelector('time') ? '' : it.querySelector('small').textContent;
        return `${it.querySelector('b').textContent}: ${it.querySelector('.text').textContent}${state && ` (${state})`}`;
      }),
    );
  const lastLines = (count) => async (page) => (await lines(page)).slice(-count);
  const members = async (page) => (await page.getByRole('complementary').getByRole('listitem').allTextContents()).sort();
  const banner = (page) => page.getByRole('status').textContent();
  const typing = (page) => page.locator('.typing').textContent();

  async function until(page, look, expected) {
    let seen;
    for (const end = Date.now() + PATIENCE; Date.now() < end; ) {
      seen = await look(page);
      if (JSON.stringify(seen) === JSON.stringify(expected)) return;
      await page.waitForTimeout(20);
    }
    should(seen).eql(expected);
  }

  /** Gives a test what the page itself imports, under the same addresses, so that there is one React. */
  const openParts = (page) =>
    page.evaluate(async () => {
      const hook = await (await fetch('/src/useChannel.ts')).text();
      const main = await (await fetch('/src/main.tsx')).text();
      const imported = (source, name) => import(new RegExp(`from "([^"]*${name}[^"]*)"`).exec(source)[1]);
      const { default: React } = await imported(hook, '/react\\.js');
      const { default: dom } = await imported(main, 'react-dom_client');
      const { connect } = await imported(hook, 'clients/js');
      window.parts = { React, dom, connect, ...(await import('/src/useChannel.ts')), ...(await import('/src/Room.tsx')) };
    });

  /** The tab remembers that everything up to here was given. */
  const stored = (page, channel, offset) =>
    page.waitForFunction(
      ([channel, offset]) => JSON.parse(sessionStorage['global-channels']).positions[channel]?.offset === offset,
      [channel, offset],
    );

  const picture = (page, name) => page.screenshot({ path: path.join(OUTPUT, `${name}.png`) });

  /** Looks for what keeps people out who do not see the page, or use it with the keyboard. */
  async function judge(page) {
    for (const colorScheme of ['dark', 'light']) {
      await page.emulateMedia({ colorScheme });
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => window.axe.run());
      const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
      should(serious.map(({ id, nodes }) => `${id}: ${nodes.map((it) => it.html).join(' ')}`)).eql([]);
    }
  }

  before('the line of the README, and a site as it is built', async function () {
    this.timeout(600_000);
    relay = await Relay.to(first);
    witnessed = await witness(first, 'garden');
    const development = await site(LINE, FOLDER, relay.url);
    const built = await site('npm run build && npm run preview', path.join(FOLDER, 'examples/react-chat'), `http://${first}`);
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
    anna = await open(`${development}/?room=garden`, DESKTOP);
    ben = await open(`${built}/?room=garden`, PHONE);
  });

  after(async function () {
    await browser?.close();
    relay?.server.close();
  });

  it('asks for a name, and joins the channel of the address once, also in StrictMode', async function () {
    await picture(anna, 'login');
    await judge(anna);
    await logIn(anna, 'anna');
    await until(anna, members, ['anna', 'witness']);
    await logIn(ben, 'ben');
    for (const page of [anna, ben]) {
      await until(page, lines, ['witness has joined.', 'anna has joined.', 'ben has joined.']);
      await until(page, members, ['anna', 'ben', 'witness']);
      await until(page, banner, '');
    }
    witnessed.heard('onJoin', 'anna').length.should.equal(1);
    const { members: seen } = await witnessed.ask('chat.handler.members', { channel: 'garden' });
    seen.map(({ sessions }) => sessions).should.eql([1, 1, 1]);
  });

  it('shows messages to both, and marks the own ones', async function () {
    await say(anna, 'hello');
    await until(ben, lastLines(1), ['anna: hello']);
    await say(ben, 'hello, anna');
    await until(anna, lastLines(2), ['You: hello', 'ben: hello, anna']);
    await until(ben, lastLines(2), ['anna: hello', 'You: hello, anna']);
  });

  it('shows who is typing, until the message comes', async function () {
    await anna.keyboard.type('I am about to');
    await until(ben, typing, 'anna typing…');
    await picture(ben, 'typing');
    await anna.keyboard.press('Enter');
    await until(ben, typing, '');
    await until(ben, lastLines(1), ['anna: I am about to']);
    await until(anna, lastLines(1), ['You: I am about to']);
  });

  it('says that it is cut off, keeps what is written meanwhile, and sends it exactly once', async function () {
    const before = await lines(anna);
    relay.cut();
    await until(anna, banner, BANNER);
    await say(anna, 'one');
    await say(anna, 'two');
    await until(anna, lines, [...before, 'You: one (sending…)', 'You: two (sending…)']);
    await picture(anna, 'away');
    await judge(anna);
    await say(ben, 'meanwhile');
    await until(ben, lastLines(1), ['You: meanwhile']);
    relay.mend();
    await until(anna, banner, '');
    await say(anna, 'three');
    await until(anna, lastLines(1), ['You: three']);
    await until(ben, lastLines(1), ['anna: three']);
    // The server has noticed the cut, so anna has left and joined.
    const expected = ['anna has left.', 'ben: meanwhile', 'anna has joined.', 'You: one', 'You: two', 'You: three'];
    const sorted = (all) => all.slice(before.length).sort();
    sorted(await lines(anna)).should.eql([...expected].sort());
    (await lines(anna)).filter((it) => it.startsWith('You: ')).slice(-3).should.eql(['You: one', 'You: two', 'You: three']);
    await until(anna, members, ['anna', 'ben', 'witness']);
    await picture(anna, 'chat');
  });

  it('goes on after a reload, also if the server has not noticed that the connection is gone', async function () {
    const before = await lines(anna);
    const joins = witnessed.heard('onJoin', 'anna').length;
    await stored(anna, 'garden', before.length);
    relay.swallow();
    await anna.goto('about:blank');
    await say(ben, 'nobody is there');
    await until(ben, lastLines(1), ['You: nobody is there']);
    await anna.goBack();
    await until(anna, lines, [...before, 'ben: nobody is there']);
    await say(anna, 'I am');
    await until(ben, lastLines(1), ['anna: I am']);
    witnessed.heard('onJoin', 'anna').length.should.equal(joins);
  });

  it('says what could not be sent, and sends it again or discards it', async function () {
    await anna.getByLabel('Message', { exact: true }).fill('x'.repeat(5_000));
    await anna.keyboard.press('Enter');
    await anna.getByRole('alert').filter({ hasText: 'Not sent (TOO_BIG).' }).waitFor();
    await judge(anna);
    relay.cut();
    await until(anna, banner, BANNER);
    await anna.getByRole('button', { name: 'Send again' }).click();
    await anna.getByText('sending…').waitFor();
    relay.mend();
    await anna.getByRole('button', { name: 'Discard' }).click();
    await anna.locator('.failed').waitFor({ state: 'detached' });
    await anna.getByLabel('Message', { exact: true }).click();
    await say(anna, 'short');
    await until(ben, lastLines(1), ['anna: short']);
  });

  it('says that a back end has removed one from the channel, and joins again', async function () {
    const removed = anna.getByRole('alert').filter({ hasText: 'You are not in this channel (REMOVED).' });
    await backEnd(CHAT)('UserService/RemoveFromChannel', { channel: 'garden', user: 'anna' });
    await removed.waitFor();
    await until(anna, members, []);
    await until(ben, members, ['ben', 'witness']);
    await judge(anna);
    await picture(anna, 'removed');
    await anna.getByRole('button', { name: 'Join again' }).click();
    await until(anna, members, ['anna', 'ben', 'witness']);
    (await removed.count()).should.equal(0);
    await until(anna, lastLines(1), ['anna has joined.']);
    // What was said before is shown once.
    (await lines(anna)).filter((it) => it === 'You: short').length.should.equal(1);
    await say(anna, 'here again');
    await until(ben, lastLines(1), ['anna: here again']);
  });

  it('marks what the server has lost, after it went on with an older state', async function () {
    const page = await open(anna.url(), DESKTOP);
    await openParts(page);
    await page.evaluate(() => {
      const { React, dom, Room } = window.parts;
      // A client whose server does what is told here.
      const listeners = {};
      const on = (name, listener) => ((listeners[name] = listener), () => {});
      const end = { epoch: 'e', offset: 2 };
      const channel = {
        on,
        join: async () => (listeners.joined(), { position: end, replayed: 0 }),
        leave: async () => {},
        members: async () => [{ userId: 'dora' }],
        async *history() {},
        send: async () => ({ key: 'k' }),
        typing: () => {},
      };
      const chat = { state: 'online', on: () => () => {}, channel: () => channel };
      const container = document.body.appendChild(document.createElement('section'));
      dom.createRoot(container).render(React.createElement(Room, { chat, user: 'dora', name: 'attic', onLogOut() {} }));
      window.give = (name, event) => listeners[name]({ type: name, ...event });
    });
    const room = page.locator('section');
    const said = (offset, epoch = 'e') =>
      page.evaluate(([epoch, offset]) => give('message', { epoch, offset, time: 0, userId: 'carl', body: { content: `no. ${offset}` } }), [epoch, offset]);
    const marked = () => room.locator('.gone .text').allTextContents();
    await room.getByText('Here: 1').waitFor();
    await said(9, 'before');
    for (const offset of [3, 4, 5]) await said(offset);
    await room.getByLabel('Message', { exact: true }).fill('mine');
    await room.getByLabel('Message', { exact: true }).press('Enter');
    await room.getByText('sent').waitFor();
    should(await marked()).eql([]);
    await page.evaluate(() => give('lost', { reason: 'diverged', from: { epoch: 'e', offset: 5 }, to: { epoch: 'e', offset: 3 } }));
    await room.getByText('The server has lost what is marked above.').waitFor();
    should(await marked()).eql(['no. 4', 'no. 5']);
    // What was stored and has not come back was lost, too.
    (await room.getByText('mine').count()).should.equal(0);
    // What takes the places of those is not marked.
    await said(4);
    await said(5, 'another');
    should(await marked()).eql(['no. 4', 'no. 5']);
    (await room.locator('.message').count()).should.equal(6);
    await page.context().close();
  });

  it('has a hook that joins once for all components of a page, and leaves with the last one', async function () {
    const channel = 'terrace';
    const other = await witness(first, channel, 'neighbour');
    const page = await open(anna.url(), DESKTOP);
    await openParts(page);
    await page.evaluate(async (channel) => {
      const { React, dom, connect, useChannel } = window.parts;
      const chat = connect(location.origin, { user: 'carl' });
      await chat.online();
      const Part = () => React.createElement('p', null, useChannel(chat, channel).members.join());
      const part = React.createElement(Part);
      const container = document.body.appendChild(document.createElement('section'));
      window.root = dom.createRoot(container);
      window.show = (...parts) => window.root.render(React.createElement(React.StrictMode, null, ...parts));
      window.show(part, part);
      window.part = part;
    }, channel);
    const texts = () => page.locator('section p').allTextContents();
    await until(page, texts, ['neighbour,carl', 'neighbour,carl']);
    await page.evaluate(() => window.show(window.part));
    await until(page, texts, ['neighbour,carl']);
    await other.say('still there');
    const { members: seen } = await other.ask('chat.handler.members', { channel });
    seen.map(({ sessions }) => sessions).should.eql([1, 1]);
    should(['onJoin', 'onLeave'].map((route) => other.heard(route, 'carl').length)).eql([1, 0]);
    await page.evaluate(() => window.root.unmount());
    await until(page, () => other.heard('onLeave', 'carl').length, 1);
    other.heard('onJoin', 'carl').length.should.equal(1);
    other.close();
    await page.context().close();
  });

  it('says what it has missed', async function () {
    await anna.goto(anna.url().replace('garden', 'newest-only'));
    await until(anna, members, ['anna']);
    relay.cut();
    await until(anna, banner, BANNER);
    const other = await witness(first, 'newest-only', 'chatter');
    for (let number = 1; number <= 5; number++) await other.say(`message ${number}`);
    relay.mend();
    await anna.getByText(/^\d+ entries are missing here\.$/).waitFor();
    await other.say('again');
    await until(anna, lastLines(1), ['chatter: again']);
    (await lines(anna)).should.not.containEql('chatter: message 1');
    await picture(anna, 'lost');
    await judge(anna);
    // After a reload, the log is shown as the server has it. Nothing is missing there.
    await anna.goto('about:blank');
    await other.say('more');
    await anna.goBack();
    await anna.getByText('message 1').waitFor();
    await anna.getByText('more').waitFor();
    (await lines(anna)).join().should.not.match(/missing/);
    other.close();
    await anna.goBack();
    await until(anna, members, ['anna', 'ben', 'witness']);
  });

  it('says when the server has forgotten the channel, and goes on with what is there now', async function () {
    const other = await witness(second, 'garden');
    relay.cut();
    await until(anna, banner, BANNER);
    await say(anna, 'to the new one');
    relay.address = second;
    relay.mend();
    await anna.getByText('The server has begun this channel anew. Something may be missing here.').waitFor();
    await until(anna, lastLines(1), ['You: to the new one']);
    await until(anna, members, ['anna', 'witness']);
    const { publications } = await other.ask('chat.handler.history', { channel: 'garden' });
    publications.filter(({ body }) => body.content === 'to the new one').length.should.equal(1);
  });

  it('says why a session has ended, and logs out', async function () {
    await ben.getByRole('button', { name: 'Log out' }).click();
    await ben.getByLabel('Your name').waitFor();
    await until(ben, async () => witnessed.heard('onLeave', 'ben').length, 1);
    await ben.keyboard.type('witness');
    await ben.keyboard.press('Enter');
    await ben.getByRole('alert').filter({ hasText: 'Somebody is in the chat under this name.' }).waitFor();
    await judge(ben);
  });

  it('can be used on a phone', async function () {
    await ben.getByLabel('Your name').fill('ben');
    await ben.keyboard.press('Enter');
    await until(ben, members, ['ben', 'witness']);
    await ben.emulateMedia({ colorScheme: 'dark' });
    await picture(ben, 'phone');
    await judge(ben);
    should(await ben.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).equal(true);
  });

  it('has no errors', function () {
    should(problems).eql([]);
  });
});
