'use strict';

// The console of a chat's admin port in a real Chromium, as an operator uses it.
//
// CONNECTORS as in chat.test.js. CONSOLE is the console's address, TOKEN one that may do everything and READER one that may only
// read; both are empty if chat asks for none. CHROMIUM is the browser's program, OUTPUT the folder for screenshots.

const path = require('node:path');
const should = require('should');
const { chromium } = require('playwright-core');
const WebSocket = require('ws');

const { CONSOLE, TOKEN, READER, OUTPUT } = process.env;
const connectors = process.env.CONNECTORS.split(',');

/** Longer than anything may take on a machine whose cores have other work, too. */
const PATIENCE = 90_000;
/** Both would run as a script, or turn the line around, if they were not shown as what they are. */
const HOSTILE_CHANNEL = '<img src=x onerror=alert(1)>';
const RIGHT_TO_LEFT = 'נועה';

/** A client of `/ws`. */
class Client {
  #waiting = new Map();
  #last = 0;
  events = [];

  static async logIn(connector, user, channel) {
    const client = new Client();
    client.socket = new WebSocket(`ws://${connector}/ws`);
    client.closed = new Promise((resolve) => client.socket.on('close', (code, reason) => resolve({ code, reason: String(reason) })));
    client.socket.on('message', (text) => client.#take(JSON.parse(text)));
    await new Promise((resolve, reject) => client.socket.on('open', resolve).on('error', reject));
    (await client.ask('connector.handler.login', { userId: user, lessonId: channel })).code.should.equal(0);
    return client;
  }

  #take(message) {
    if (message.id === undefined) this.events.push(message);
    this.#waiting.get(message.id)?.(message.body);
  }

  ask(route, body) {
    this.#last += 1;
    const id = this.#last;
    const answered = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.socket.send(JSON.stringify({ id, route, body }));
    return answered;
  }
}

let browser;
let page;
const problems = [];

async function open(options = {}) {
  const context = await browser.newContext(options);
  const opened = await context.newPage();
  opened.setDefaultTimeout(PATIENCE);
  opened.on('pageerror', (error) => problems.push(String(error)));
  opened.on('console', (message) => {
    // The browser reports every refusal of a call.
    if (message.type() === 'error' && !/status of 40[13]/.test(message.text())) problems.push(message.text());
  });
  opened.on('dialog', (dialog) => problems.push(`a dialog: ${dialog.message()}`));
  await opened.goto(`http://${CONSOLE}/`);
  return opened;
}

async function enter(on, token) {
  await on.getByRole('button', { name: 'Token' }).click();
  await on.getByRole('textbox', { name: 'Token' }).fill(token);
  await Promise.all([on.waitForNavigation(), on.getByRole('button', { name: 'Use it' }).click()]);
}

const picture = (on, name) => on.screenshot({ path: path.join(OUTPUT, `console-${name}.png`), fullPage: true });

before('a browser', async function () {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  page = await open({ viewport: { width: 1280, height: 900 } });
});

after(async function () {
  await browser?.close();
});

describe('the console', function () {
  const people = [];

  before(async function () {
    for (const [at, user] of ['anna', 'ben', RIGHT_TO_LEFT].entries()) {
      people.push(await Client.logIn(connectors[at % connectors.length], user, 'lobby'));
    }
    people.push(await Client.logIn(connectors[0], 'carl', HOSTILE_CHANNEL));
  });

  it('says that it needs a token, and takes one, if chat asks for tokens', async function () {
    if (TOKEN === '') {
      await page.getByRole('row', { name: 'live' }).first().waitFor();
      return;
    }
    await page.getByText('The connectors cannot be listed').filter({ hasText: 'Enter a token' }).waitFor();
    await enter(page, 'gct_wrong');
    await page.getByText('The connectors cannot be listed').waitFor();
    await enter(page, TOKEN);
    await page.getByRole('row', { name: 'live' }).first().waitFor();
  });

  it('shows every connector with its clients, and that nothing stands out', async function () {
    for (const _ of connectors) await page.getByRole('row', { name: 'live' }).nth(connectors.length - 1).waitFor();
    const total = page.locator('.tiles div', { hasText: 'Sessions' }).locator('dd');
    await total.filter({ hasText: String(people.length) }).waitFor();
    await page.getByRole('status').filter({ hasText: 'This chat is ready' }).waitFor();
  });

  it('shows how much each connector does, and how old messages are at its clients', async function () {
    const talking = setInterval(() => people[0].ask('chat.handler.send', { type: 1, content: 'so much to say' }), 50);
    // Ages are measured in some writes only.
    await page.locator('figure', { hasText: 'Age of messages at the sockets' }).locator('path.line-0[d*=L]').waitFor({ state: 'attached' });
    await page.waitForFunction(() =>
      [...document.querySelectorAll('tr')].some(({ cells }) => {
        const [, state, , , requests, age] = [...cells].map((it) => it.textContent);
        return state === 'live' && Number(requests) > 5 && /^[\d.]+ (µs|ms|s)$/.test(age);
      }),
    );
    clearInterval(talking);
  });

  it('shows live what is published in a channel, and pushes a message to it', async function () {
    await page.keyboard.press('/');
    await page.getByRole('searchbox').waitFor();
    await page.keyboard.type('lob');
    await page.getByRole('link', { name: 'lobby' }).click();
    await page.getByRole('link', { name: RIGHT_TO_LEFT }).first().waitFor();
    await page.locator('.columns .dim', { hasText: 'Live' }).waitFor();
    (await people[0].ask('chat.handler.send', { type: 1, content: 'is anybody here?' })).code.should.equal(0);
    await page.locator('.tail li', { hasText: 'is anybody here?' }).waitFor();

    await page.getByLabel('Body, an object of JSON').fill('{"content": ');
    await page.getByRole('button', { name: 'Send to the channel' }).click();
    await page.getByText('The body is no JSON').waitFor();
    await page.getByLabel('Body, an object of JSON').fill('{"content": "a restart at 3"}');
    await page.getByRole('button', { name: 'Send to the channel' }).click();
    await page.getByText('Stored as number').waitFor();
    await page.locator('.tail li', { hasText: 'a restart at 3' }).waitFor();
    for (const person of people.slice(0, 3)) {
      while (!person.events.some(({ body }) => body?.content === 'a restart at 3')) await page.waitForTimeout(20);
    }
    await picture(page, 'channel');
  });

  it('goes on with a channel for longer than a connection of the admin port lasts, and misses nothing', async function () {
    let renewed = 0;
    page.on('request', (request) => (renewed += request.url().endsWith('/Watch') ? 1 : 0));
    let sent = 0;
    while (renewed < 2) {
      sent += 1;
      await people[1].ask('chat.handler.send', { type: 1, content: `line ${sent}.` });
      await page.waitForTimeout(100); // Slow enough that all lines stay on the page.
    }
    await page.locator('.tail li', { hasText: `line ${sent}.` }).waitFor();
    const lines = await page.locator('.tail li', { hasText: 'line ' }).allTextContents();
    const numbers = lines.map((it) => Number(/line (\d+)\./.exec(it)[1]));
    numbers.should.eql(Array.from({ length: sent }, (_, at) => at + 1));
  });

  it('adds up what the logs take, by the beginnings of the names of channels', async function () {
    for (const channel of ['room:1', 'room:2']) await people[2].ask('chat.handler.join', { channel });
    await page.getByRole('link', { name: '← All channels' }).click();
    await page.getByRole('button', { name: 'Add up' }).click();
    await page.getByText('These are all.').waitFor();
    const row = page.getByRole('region', { name: 'What the logs take' }).getByRole('row', { name: 'room:' });
    (await row.innerText()).should.match(/^room:\s+2\s+2\s+\d{3} B$/);
    await picture(page, 'sizes');
    await page.getByRole('link', { name: 'lobby' }).click();
  });

  it('shows names that somebody has chosen as they are', async function () {
    await page.getByRole('link', { name: '← All channels' }).click();
    await page.getByRole('link', { name: HOSTILE_CHANNEL }).click();
    await page.getByRole('heading', { name: HOSTILE_CHANNEL }).waitFor();
    await page.getByRole('link', { name: 'carl' }).first().waitFor();
  });

  it('shows the sessions of a user, and disconnects them after a question', async function () {
    await page.getByRole('link', { name: 'carl' }).first().click();
    await page.getByRole('row', { name: HOSTILE_CHANNEL }).waitFor();
    await picture(page, 'user');
    await page.getByLabel('Reason that clients are told').fill('go away');
    await page.getByRole('button', { name: 'Disconnect all sessions' }).click();
    await page.keyboard.press('Escape');
    people[3].socket.readyState.should.equal(WebSocket.OPEN);
    await page.getByRole('button', { name: 'Disconnect all sessions' }).click();
    await page.getByRole('button', { name: 'Disconnect', exact: true }).click();
    (await people[3].closed).should.eql({ code: 4015, reason: 'go away' });
    await page.getByText('1 sessions were closed').waitFor();
    await page.getByText('The user is not connected').waitFor();
  });

  it('tells a reader that a token does not allow more', async function () {
    if (READER === '') return;
    const reader = await open();
    await enter(reader, READER);
    await reader.goto(`http://${CONSOLE}/console#channels/lobby`);
    await reader.locator('.tail li').first().waitFor();
    await reader.getByLabel('Body, an object of JSON').fill('{}');
    await reader.getByRole('button', { name: 'Send to the channel' }).click();
    await reader.locator('.outcome.bad').filter({ hasText: 'permission_denied' }).waitFor();
    await reader.context().close();
  });

  it('looks as it should on a desk and on a phone, in light and in the dark', async function () {
    for (const [name, colorScheme, size] of [
      ['desk-light', 'light', { width: 1280, height: 900 }],
      ['desk-dark', 'dark', { width: 1280, height: 900 }],
      ['phone-light', 'light', { width: 390, height: 844 }],
      ['phone-dark', 'dark', { width: 390, height: 844 }],
    ]) {
      const shown = await open({ viewport: size, colorScheme, hasTouch: size.width < 500 });
      if (TOKEN !== '') await enter(shown, TOKEN);
      await shown.getByRole('row', { name: 'live' }).first().waitFor();
      await shown.locator('path.line-0[d*=L]').first().waitFor({ state: 'attached' });
      const fits = await shown.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
      fits.should.be.true(`${name} must not scroll sideways`);
      await picture(shown, name);
      await shown.goto(`http://${CONSOLE}/console#channels/lobby`);
      await shown.locator('.tail li').first().waitFor();
      await picture(shown, `${name}-channel`);
      await shown.context().close();
    }
  });

  it('drains a connector after a question, and shows that it is gone', async function () {
    await page.goto(`http://${CONSOLE}/console#overview`);
    const rows = page.getByRole('row', { name: 'live' });
    await rows.nth(connectors.length - 1).waitFor();
    await rows.first().getByRole('button').click();
    await page.getByRole('button', { name: 'Drain it' }).click();
    await page.getByText(/drains\.$/).waitFor();
    await page.waitForFunction((live) => [...document.querySelectorAll('.state')].filter((it) => it.textContent === 'live').length === live, connectors.length - 1);
  });

  it('had no error on the way', function () {
    problems.should.eql([]);
  });
});
