'use strict';

// A real Chromium. People use the connectors' own page as they would: two of them in different tabs and on different connectors,
// one of whom loses the network, closes the laptop, and is sent away by a connector that stops. Then a page uses the original's
// browser library. The connectors drop silent clients sooner than the client library's own five seconds, so others see that
// somebody is gone.
//
// CONNECTORS as in chat.test.js; the first one ends in these tests. CHAT is a chat for back ends, and SECURE a connector that
// accepts the tokens of ISSUER, which are signed with SECRET. CHROMIUM is the browser's program, OUTPUT the folder for screenshots.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const axe = require('axe-core');
const should = require('should');
const WebSocket = require('ws');
const { chromium } = require('playwright-core');
const backEnd = require('./back-end');
const Relay = require('./relay');

const { CHAT, SECURE, ISSUER, SECRET } = process.env;
const [first, second] = process.env.CONNECTORS.split(',');
const output = process.env.OUTPUT;
const call = backEnd(CHAT);

/** Records everything that is told about the connection, because some of it is shown only for a moment. */
async function listen(page) {
  await page.evaluate(() => {
    const news = document.getElementById('news');
    const told = (window.told = []);
    new MutationObserver(() => told.push(news.textContent)).observe(news, { childList: true, characterData: true, subtree: true });
  });
}

const wasTold = (page, text) => page.waitForFunction((text) => window.told.some((told) => told.includes(text)), text);

/** A token that ends at this time, which is in seconds since 1970, or after this time. */
async function tokenOf(user, end = '1h') {
  const { SignJWT } = await import('jose');
  const token = new SignJWT().setSubject(user).setIssuer(ISSUER).setAudience('chat').setExpirationTime(end);
  return token.setProtectedHeader({ alg: 'HS256' }).sign(Buffer.from(SECRET));
}

/** Somebody who says much in a channel, and goes. */
async function chatter(channel, texts) {
  const socket = new WebSocket(`ws://${second}/ws`);
  await new Promise((resolve) => socket.on('open', resolve));
  let done;
  const all = new Promise((resolve) => (done = resolve));
  socket.on('message', (text) => JSON.parse(text).id === texts.length && done());
  const ask = (id, route, body) => socket.send(JSON.stringify({ id, route, body }));
  ask(0, 'connector.handler.login', { userId: 'chatter', lessonId: channel });
  texts.forEach((content, number) => ask(number + 1, 'chat.handler.send', { content }));
  await all;
  socket.close();
}

/** Longer than anything may take on a machine whose cores have other work, too. */
const PATIENCE = 90_000;
const DESKTOP = { viewport: { width: 1100, height: 720 } };
const PHONE = { viewport: { width: 390, height: 760 }, hasTouch: true, isMobile: true };

let browser;

before('a browser', async function () {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
});

after(async function () {
  await browser?.close();
});

describe('the client library in a page', function () {
  it('refreshes its token before it expires, on the same connection', async function () {
    const page = await browser.newPage();
    await page.goto(`http://${SECURE}/`);
    // The first token is made now, because it does not last for long.
    const expires = Math.ceil(Date.now() / 1_000) + 10;
    const tokens = [await tokenOf('tom', expires), await tokenOf('tom')];
    const states = await page.evaluate(
      async ([expires, ...tokens]) => {
        const { connect } = await import('/client.js');
        const chat = connect(location.origin, { token: () => tokens.shift() });
        const states = [];
        chat.on('state', ({ state, reason }) => states.push(reason ?? state));
        const room = chat.channel('room');
        await room.join();
        const isOver = (resolve) => (Date.now() > expires * 1_000 ? resolve() : setTimeout(isOver, 100, resolve));
        await new Promise(isOver);
        await room.send({ content: 'still here' });
        chat.close();
        return [...states, tokens.length];
      },
      [expires, ...tokens],
    );
    states.should.eql(['connecting', 'online', 'CLOSED', 0]);
    await page.close();
  });
});

describe("the connectors' own page", function () {
  const problems = [];
  let relay;
  let anna;
  let ben;

  function watch(page) {
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('console', (message) => {
      // While the network is away, the browser reports that it cannot connect.
      if (message.type() === 'error' && !/WebSocket connection to/.test(message.text())) problems.push(message.text());
    });
    return page;
  }

  async function open(url, options) {
    const context = await browser.newContext(options);
    const page = watch(await context.newPage());
    await page.goto(url);
    return page;
  }

  const online = (page, user) => page.locator('#status').filter({ hasText: `Online as ${user}` }).waitFor();
  const news = (page, text) => page.getByRole('status').filter({ hasText: text }).waitFor();
  const refusal = (page, text) => page.getByRole('alert').filter({ hasText: text }).waitFor();
  const field = (page) => page.getByLabel('Message', { exact: true });
  const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.tagName);

  /** Uses the keyboard alone, like somebody without a mouse. */
  async function logIn(page, user, channel = 'lobby') {
    await page.keyboard.type(user);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Control+A');
    await page.keyboard.type(channel);
    await page.keyboard.press('Enter');
    await online(page, user);
  }

  async function say(page, text) {
    await field(page).fill(text);
    await field(page).press('Enter');
  }

  const present = (page) => page.locator('#members bdi').allTextContents();

  /** All lines of the log, without their times. Of what is on its way, also how it stands. */
  const lines = (page) =>
    page.locator('#log li').evaluateAll((items) =>
      items.map((item) => {
        const note = item.querySelector('.note');
        if (note) return [...note.childNodes].map((it) => (it.nodeName === 'TIME' ? '' : it.textContent)).join('').trim();
        const state = item.closest('.outbox') ? ` (${item.className.split(' ').at(-1)})` : '';
        return `${item.querySelector('.who').firstChild.textContent}: ${item.querySelector('.text').textContent}${state}`;
      }),
    );

  async function until(page, expected, look = lines) {
    let seen;
    for (const end = Date.now() + PATIENCE; Date.now() < end; ) {
      seen = await look(page);
      if (JSON.stringify(seen) === JSON.stringify(expected)) return;
      await page.waitForTimeout(20);
    }
    seen.should.eql(expected);
  }

  async function join(page, channel) {
    const menu = page.getByRole('button', { name: 'Channels' });
    if (await menu.isVisible()) await menu.click();
    await page.getByLabel('Another channel').fill(channel);
    await page.getByRole('button', { name: 'Join', exact: true }).click();
    await page.getByRole('heading', { name: channel }).waitFor();
    // It may be used once the server has let us in.
    await page.locator('#log li').first().waitFor();
  }

  async function picture(page, name) {
    await page.evaluate(() => Promise.all(document.getAnimations().map((it) => it.playState === 'running' && it.effect.getTiming().iterations === 1 && it.finished)));
    await page.screenshot({ path: path.join(output, `${name}.png`) });
  }

  /** Looks for what keeps people out who do not see the page, or use it with the keyboard. */
  async function judge(page) {
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => window.axe.run());
    const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    should(serious.map(({ id, nodes }) => `${id}: ${nodes.map((it) => it.html).join(' ')}`)).eql([]);
  }

  before(async function () {
    relay = await Relay.to(first);
    anna = await open(`${relay.url}/`, DESKTOP);
    ben = await open(`http://${second}/`, PHONE);
  });

  after(function () {
    relay.cut();
    relay.server.close();
  });

  it('refuses a name of blanks', async function () {
    await anna.keyboard.type('   ');
    await anna.keyboard.press('Enter');
    await refusal(anna, 'Enter your name.');
    (await focused(anna)).should.equal('user');
    await anna.reload();
    await picture(anna, 'login');
  });

  it('logs two people in on two connectors, and shows who is there and what was said', async function () {
    await logIn(anna, 'anna');
    (await focused(anna)).should.equal('content');
    await say(anna, 'hello, is anybody there?');
    await until(anna, ['anna joined', 'You: hello, is anybody there?']);
    await logIn(ben, 'ben');
    await until(ben, ['anna joined', 'anna: hello, is anybody there?', 'ben joined']);
    await say(ben, 'yes: <b>me</b> 😀');
    const all = ['anna joined', 'anna: hello, is anybody there?', 'ben joined', 'ben: yes: <b>me</b> 😀'];
    await until(anna, all.map((it) => it.replace('anna: ', 'You: ')));
    await until(ben, all.map((it) => it.replace('ben: ', 'You: ')));
    await until(anna, ['anna', 'ben'], present);
    await until(ben, ['ben', 'anna'], present);
    await picture(anna, 'chat');
    await picture(ben, 'phone');
  });

  it('tells a screen reader of new messages, but not of those that were there', async function () {
    await until(anna, 'ben: yes: <b>me</b> 😀', () => anna.locator('[aria-live=polite]').textContent());
    (await ben.locator('[aria-live=polite]').textContent()).should.equal('');
    (await anna.locator('#log').getAttribute('aria-live')).should.equal('off');
    const live = anna.locator('#chat [role=status], [aria-live]:not([aria-live=off])');
    (await live.evaluateAll((found) => found.map((it) => it.id))).should.eql(['news', 'aloud']);
  });

  it('shows names and texts that are written from right to left in their own direction', async function () {
    const noa = await open(`http://${second}/`, { ...DESKTOP, colorScheme: 'dark' });
    await logIn(noa, 'נועה (1)');
    await say(noa, 'שלום 1, 2!\nand in English');
    const text = anna.locator('#log .text').last();
    await text.filter({ hasText: 'שלום' }).waitFor();
    (await text.getAttribute('dir')).should.equal('auto');
    (await text.evaluate((it) => getComputedStyle(it).unicodeBidi)).should.equal('plaintext');
    // Names stand apart from what is beside them.
    const names = await anna.locator('#log .note, #members li, #log .who, #status').evaluateAll((items) =>
      items.filter((it) => it.textContent.includes('נועה')).map((it) => it.querySelector('bdi').textContent),
    );
    should(names).eql(['נועה (1)', 'נועה (1)', 'נועה (1)']);
    await picture(noa, 'dark');
    await judge(noa);
    await noa.getByRole('button', { name: 'Log out' }).click();
    await anna.locator('#gone bdi').filter({ hasText: 'נועה (1)' }).waitFor();
    await noa.context().close();
  });

  it('says who is typing', async function () {
    // Also if the last message of the same person came a moment ago.
    await say(ben, 'one moment');
    await field(ben).pressSequentially('I am');
    await anna.locator('#typing').filter({ hasText: 'ben is typing' }).waitFor();
    await picture(anna, 'typing');
    await field(ben).fill('');
    await until(anna, '', () => anna.locator('#typing').textContent());
  });

  it('sends by Enter, and takes several lines', async function () {
    await field(anna).pressSequentially('one');
    await field(anna).press('Shift+Enter');
    await field(anna).pressSequentially('two');
    await field(anna).press('Enter');
    await ben.locator('#log .text').filter({ hasText: /^one\ntwo$/ }).waitFor();
    (await field(anna).inputValue()).should.equal('');
    // Blanks are no message.
    await say(anna, ' \n ');
    (await anna.locator('.outbox li').count()).should.equal(0);
  });

  it('says that a text is too long, and does not cut it', async function () {
    const text = `${'a long story '.repeat(1_000)}end`;
    await field(anna).fill(text);
    await field(anna).press('Enter');
    await refusal(anna, 'This is too long by 3,003 characters.');
    (await field(anna).inputValue()).should.equal(text);
    await field(anna).fill('');
    (await anna.locator('#length').textContent()).should.equal('');
  });

  it('comes back from a lost network, shows what it missed, and says that nothing is missing', async function () {
    relay.cut();
    await news(anna, 'Connecting again: the connection was lost.');
    await ben.locator('#log .note').filter({ hasText: 'anna left' }).waitFor();
    const before = await lines(anna);
    for (const text of ['one', 'two', 'three']) await say(ben, text);
    // She sends this while she is disconnected. It arrives once, when she is back, wherever she has looked meanwhile.
    await say(anna, 'still here');
    await until(anna, [...before, 'You: still here (pending)']);
    await anna.getByLabel('Another channel').fill('elsewhere');
    await anna.getByRole('button', { name: 'Join', exact: true }).click();
    await anna.getByRole('heading', { name: 'elsewhere' }).waitFor();
    await anna.getByRole('button', { name: 'lobby' }).click();
    await until(anna, [...before, 'You: still here (pending)']);
    await picture(anna, 'away');
    relay.mend();
    await news(anna, 'You are back. You missed nothing: 3 messages came meanwhile.');
    const missed = ['anna left', 'ben: one', 'ben: two', 'ben: three', 'anna joined', 'You: still here'];
    await until(anna, [...before, ...missed]);
    await picture(anna, 'back');
    await until(ben, ['anna joined', 'anna: still here'], async () => (await lines(ben)).slice(-2));
    await online(anna, 'anna');
    // What was wanted meanwhile is done, too.
    await anna.getByRole('button', { name: 'elsewhere' }).click();
    await until(anna, ['anna joined']);
    (await focused(anna)).should.equal('content');
    await anna.getByRole('button', { name: 'Leave' }).click();
    await anna.getByRole('heading', { name: 'lobby' }).waitFor();
    (await focused(anna)).should.equal('content');
  });

  it('says exactly what was lost', async function () {
    relay.cut();
    await news(anna, 'Connecting again');
    for (const text of ['gone 1', 'gone 2', 'kept']) await say(ben, text);
    await ben.locator('#log li:last-child').filter({ hasText: 'kept' }).waitFor();
    await until(ben, 0, () => ben.locator('.outbox li').count());
    const { publications } = await call('ChatService/History', { channel: 'lobby', newestFirst: true, pageSize: 2 });
    await call('ChatService/TrimHistory', { channel: 'lobby', position: publications[1].position });
    relay.mend();
    await news(anna, 'You are back, but something is missing in lobby.');
    await until(anna, ['ben: kept', 'anna joined'], async () => (await lines(anna)).slice(-2));
    const end = (await lines(anna)).slice(-3);
    end[0].should.match(/^[34] entries are missing here: you were away for longer than the server keeps them\.$/);
    await picture(anna, 'lost');
  });

  it('is in several channels, tells what is new in the others, keeps drafts, and leaves', async function () {
    for (const page of [anna, ben]) await join(page, 'garden');
    await field(anna).fill('a draft');
    await anna.getByRole('button', { name: 'lobby' }).click();
    (await field(anna).inputValue()).should.equal('');
    await say(ben, 'nice roses');
    await say(ben, 'and tulips');
    await anna.getByRole('button', { name: 'garden 2 unread' }).waitFor();
    await until(anna, '(2) lobby', () => anna.title());
    await picture(anna, 'channels');
    await anna.getByRole('button', { name: 'garden 2 unread' }).click();
    await until(anna, ['anna joined', 'ben joined', 'ben: nice roses', 'ben: and tulips']);
    (await field(anna).inputValue()).should.equal('a draft');
    (await anna.locator('#log li').filter({ hasText: 'New messages' }).allTextContents()).should.have.length(1);
    (await anna.locator('#log li').nth(2).textContent()).should.containEql('New messages');
    await until(anna, 'garden', () => anna.title());
    await field(anna).fill('');
    await ben.getByRole('button', { name: 'Leave' }).click();
    await until(anna, ['anna joined', 'ben joined', 'ben: nice roses', 'ben: and tulips', 'ben left']);
    await until(anna, ['anna'], present);
    await until(anna, ['ben'], () => anna.locator('#gone bdi').allTextContents());
  });

  it('shows what back ends send with the name of its route, and says when one ends the membership', async function () {
    await call('ChatService/Send', { channel: 'garden', user: 'weather', route: 'onForecast', body: { rain: 0.5 } });
    const line = anna.locator('#log li').filter({ hasText: 'onForecast' });
    (await line.locator('.text').textContent()).should.match(/^\{\s*"rain": 0\.5\s*\}$/);
    await call('UserService/RemoveFromChannel', { channel: 'garden', user: 'anna' });
    await anna.locator('#out').filter({ hasText: 'You are not in this channel any more: you were removed from it.' }).waitFor();
    await picture(anna, 'removed');
    await anna.getByRole('button', { name: 'Join again' }).click();
    await say(anna, 'here again');
    await until(anna, 'You: here again', async () => (await lines(anna)).at(-1));
  });

  it('shows a channel to which a back end adds the user', async function () {
    await call('UserService/AddToChannel', { channel: 'attic', user: 'anna' });
    await call('ChatService/Send', { channel: 'attic', user: 'weather', body: { content: 'dust' } });
    await anna.getByRole('button', { name: 'attic 1 unread' }).click();
    await until(anna, ['anna joined', 'weather: dust']);
    await say(anna, 'is it warm?');
    await until(anna, ['anna joined', 'weather: dust', 'You: is it warm?']);
    await anna.getByRole('button', { name: 'Leave' }).click();
    await anna.getByRole('button', { name: 'garden' }).click();
    (await anna.locator('#channels button').allTextContents()).should.not.containEql('attic');
  });

  it('gives a dead connection up by itself, and nothing is lost or said twice', async function () {
    const before = await lines(anna);
    await join(ben, 'garden');
    await until(anna, [...before, 'ben joined']);
    await listen(anna);
    relay.swallow();
    relay.refuse();
    // It waits for five seconds, and not until the old socket ends.
    await say(anna, 'into the void');
    await until(ben, 'anna left', async () => (await lines(ben)).at(-1));
    await wasTold(anna, 'Connecting again: the server does not answer.');
    await say(ben, 'meanwhile');
    await ben.locator('#log .text').filter({ hasText: 'meanwhile' }).waitFor();
    await until(ben, 0, () => ben.locator('.outbox li').count());
    relay.mend();
    await until(anna, [...before, 'ben joined', 'anna left', 'ben: meanwhile', 'anna joined', 'You: into the void']);
    await until(ben, ['anna joined', 'anna: into the void'], async () => (await lines(ben)).slice(-2));
  });

  it('notices a dead connection also when nobody says anything', async function () {
    await listen(anna);
    relay.swallow();
    await wasTold(anna, 'Connecting again: the server does not answer.');
    await online(anna, 'anna');
  });

  it('goes on after the laptop was closed', async function () {
    const before = await lines(anna);
    const devtools = await anna.context().newCDPSession(anna);
    await devtools.send('Debugger.enable');
    // Nothing of the page runs any more from its next step on, which is when the first message comes.
    await devtools.send('Debugger.pause');
    for (const text of ['you', 'are', 'asleep']) await say(ben, text);
    await until(ben, 0, () => ben.locator('.outbox li').count());
    const expression = "document.querySelectorAll('#log li').length";
    (await devtools.send('Runtime.evaluate', { expression })).result.value.should.equal(before.length);
    // A laptop also loses its connections, and nobody tells it.
    relay.swallow();
    await until(ben, 'anna left', async () => (await lines(ben)).at(-1));
    await devtools.send('Debugger.disable');
    await until(anna, [...before, 'ben: you', 'ben: are', 'ben: asleep', 'anna left', 'anna joined']);
    await devtools.detach();
  });

  it('goes on after a reload, in the same channels, while the server does not know yet that the old connection is gone', async function () {
    relay.swallow();
    await anna.reload();
    await online(anna, 'anna');
    await anna.getByRole('heading', { name: 'garden' }).waitFor();
    await anna.getByRole('button', { name: 'lobby' }).waitFor();
    (await focused(anna)).should.equal('content');
    await say(anna, 'back again');
    await ben.locator('#log li').filter({ hasText: 'back again' }).waitFor();
    // What was said before the reload is there, and once.
    for (const text of ['ben: nice roses', 'ben: asleep', 'You: back again']) {
      await until(anna, [text], async () => (await lines(anna)).filter((it) => it === text));
    }
  });

  it('gives up a message that is too long for the server, does not loop, and lets one try again or let it be', async function () {
    const before = await lines(ben);
    // The page counts characters, and the server bytes.
    const text = '哈'.repeat(9_000);
    await say(anna, text);
    const failed = anna.locator('.outbox .failed').filter({ hasText: 'Not sent: the message is too long for this server.' });
    await failed.waitFor();
    await online(anna, 'anna');
    await anna.getByRole('button', { name: 'lobby' }).click();
    await anna.getByRole('button', { name: 'garden' }).click();
    await failed.scrollIntoViewIfNeeded();
    await picture(anna, 'failed');
    await failed.getByRole('button', { name: 'Send again' }).click();
    await failed.waitFor();
    await failed.getByRole('button', { name: 'Discard' }).click();
    (await focused(anna)).should.equal('content');
    (await anna.locator('.outbox li').count()).should.equal(0);
    await say(anna, 'short');
    // A leave and a join for each time: the message did not end the next connection, too.
    const again = ['anna left', 'anna joined'];
    await until(ben, [...before, ...again, ...again, 'anna: short']);
  });

  it('shows older messages when one scrolls up, and keeps no more than some of them', async function () {
    const log = anna.locator('#log');
    const count = () => anna.locator('#log li').count();
    const aloud = () => anna.locator('[aria-live=polite]').textContent();
    const said = await aloud();
    await chatter('archive', Array.from({ length: 1_400 }, (_, number) => `number ${number}`));
    await join(anna, 'archive');
    await until(anna, true, async () => (await count()) >= 50);
    (await count()).should.be.below(110);
    (await aloud()).should.equal(said);
    // What is read stays where it is while older messages come above.
    await log.focus();
    await anna.keyboard.press('PageUp');
    await anna.keyboard.press('PageUp');
    const newest = anna.getByRole('button', { name: 'Newest messages' });
    await newest.waitFor();
    await until(
      anna,
      true,
      async () => {
        await log.evaluate((it) => (it.scrollTop = 0));
        return (await anna.locator('#log .text').filter({ hasText: /^number 0$/ }).count()) === 1;
      },
    );
    (await count()).should.be.belowOrEqual(1_000);
    await log.evaluate((it) => (it.scrollTop = 0));
    await picture(anna, 'older');
    // What comes meanwhile does not disturb, and is told.
    await chatter('archive', ['news']);
    await anna.getByRole('button', { name: '1 new message' }).click();
    await until(anna, true, async () => (await lines(anna)).includes('chatter: news'));
    (await count()).should.be.below(160);
    await until(anna, ['chatter joined', 'chatter: news', 'chatter left'], async () => (await lines(anna)).slice(-3));
    await anna.getByRole('button', { name: 'Leave' }).click();
  });

  it('keeps no more than some messages also when they keep coming', async function () {
    const zoe = await open(`http://${second}/`, DESKTOP);
    await logIn(zoe, 'zoe', 'torrent');
    await chatter('torrent', Array.from({ length: 1_200 }, (_, number) => `number ${number}`));
    await until(zoe, 'chatter left', async () => (await lines(zoe)).at(-1));
    const seen = await lines(zoe);
    seen.length.should.equal(1_000);
    seen.at(-2).should.equal('chatter: number 1199');
    // Scrolling up loads again what was taken away.
    await zoe.locator('#log').evaluate((it) => (it.scrollTop = 0));
    await until(zoe, true, async () => (await lines(zoe))[0] !== seen[0]);
    (await lines(zoe)).length.should.equal(1_000);
    await zoe.context().close();
  });

  it('shows on which day something was said', async function () {
    const context = await browser.newContext(DESKTOP);
    const page = watch(await context.newPage());
    await page.clock.setFixedTime(Date.now() + 24 * 3_600_000);
    await page.goto(`http://${second}/`);
    await logIn(page, 'tomorrow', 'archive');
    (await page.locator('.day').first().textContent()).should.match(/^Yesterday, \w+, \w+ \d+$/);
    (await page.locator('#log time').first().getAttribute('title')).should.match(/\d{4}/);
    await context.close();
  });

  it('is one session for each tab', async function () {
    const url = `http://${second}/`;
    const one = await open(url, DESKTOP);
    await logIn(one, 'tabby');
    const other = watch(await one.context().newPage());
    await other.goto(url);
    await other.keyboard.type('tabby');
    await other.keyboard.press('Enter');
    await refusal(other, 'Not logged in: somebody is logged in under this name.');
    await one.waitForFunction(() => sessionStorage.getItem('global-channels'));
    // A tab that was duplicated has the session of the first one, and goes on in its place.
    const [copy] = await Promise.all([one.context().waitForEvent('page'), one.evaluate(() => void window.open(location.href))]);
    watch(copy);
    await online(copy, 'tabby');
    await refusal(one, 'you have gone on in another window');
    await say(copy, 'I am the copy');
    await until(copy, 'You: I am the copy', async () => (await lines(copy)).at(-1));
    await one.context().close();
  });

  it('logs out, and forgets who it was', async function () {
    const page = await open(`http://${second}/`, DESKTOP);
    await logIn(page, 'carl');
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByRole('heading', { name: 'Channels' }).waitFor();
    (await focused(page)).should.equal('user');
    await ben.getByRole('button', { name: 'Channels' }).click();
    await ben.getByRole('button', { name: 'lobby' }).or(ben.getByLabel('Another channel')).first().waitFor();
    await ben.keyboard.press('Escape');
    await page.reload();
    await page.getByLabel('Your name').waitFor();
    (await page.evaluate(() => sessionStorage.length)).should.equal(0);
    await page.context().close();
  });

  it('asks for a token where the server wants one', async function () {
    const token = await tokenOf('tess');
    const page = await open(`http://${SECURE}/`, DESKTOP);
    await page.getByLabel('Token').waitFor({ state: 'hidden' });
    await page.keyboard.type('tess');
    await page.keyboard.press('Enter');
    await refusal(page, 'this server wants a token that it accepts');
    (await focused(page)).should.equal('token');
    await picture(page, 'token');
    await page.keyboard.type('nonsense');
    await page.keyboard.press('Enter');
    await refusal(page, 'this server wants a token that it accepts');
    await page.getByLabel('Token').fill(token);
    await page.keyboard.press('Enter');
    await online(page, 'tess');
    await page.reload();
    await online(page, 'tess');
    await page.context().close();
    // It may also come with the address, which is clean afterwards.
    const invited = await open(`http://${SECURE}/#token=${token}`, DESKTOP);
    (await invited.getByLabel('Your name').inputValue()).should.equal('tess');
    invited.url().should.equal(`http://${SECURE}/`);
    await invited.keyboard.press('Enter');
    await online(invited, 'tess');
    await invited.context().close();
  });

  it('can be used by all: no serious findings of axe, and nothing moves for those who do not want it', async function () {
    const page = await open(`http://${second}/`, { ...DESKTOP, reducedMotion: 'reduce' });
    for (const scheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
      await judge(page);
    }
    await page.context().close();
    await judge(anna);
    await anna.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' });
    await judge(anna);
    (await anna.evaluate(() => getComputedStyle(document.getElementById('banner')).animationName)).should.equal('none');
    await anna.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' });
    await judge(ben);
    for (const [name, drawer] of [['Channels', 'side'], ['Members', 'people']]) {
      await ben.getByRole('button', { name }).click();
      await ben.locator(`#${drawer}`).waitFor();
      await judge(ben);
      await picture(ben, `phone-${drawer}`);
      await ben.keyboard.press('Escape');
      await ben.locator(`#${drawer}`).waitFor({ state: 'hidden' });
    }
  });

  it('goes to another connector when its own one stops, and misses nothing', async function () {
    relay.address = second;
    await anna.getByRole('button', { name: 'garden' }).click();
    const before = await lines(anna);
    await listen(anna);
    await call('NodeService/DrainConnector', { connector: 'connector-1' });
    await wasTold(anna, 'You are back. You missed nothing');
    await wasTold(anna, 'Connecting again: the server is being restarted.');
    await say(anna, 'on another connector');
    await ben.locator('#log li').filter({ hasText: 'on another connector' }).waitFor();
    await until(anna, 1, async () => (await lines(anna)).filter((it) => it === 'You: on another connector').length);
    should((await lines(anna)).slice(0, before.length)).eql(before);
  });

  it('needs not be written by hand: what README.md and the banner print can be pasted at once', async function () {
    for (const [file, pattern, user] of [
      ['README.md', /```js\n([^]*?)```/, 'dora'],
      ['standalone/src/try_next.txt', /^ {2}(s = .*)$/m, 'emil'],
    ]) {
      const text = fs.readFileSync(path.join(__dirname, '../..', file), 'utf8');
      const code = text.match(pattern)[1].replace(/ws:\/\/(127.0.0.1:3010|CLIENTS)\//, `ws://${second}/`).replace('"me"', `"${user}"`);
      const page = await open(`http://${second}/`, PHONE);
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
    (await logIn(here, second, 'here')).should.eql({ code: 0, message: '登录成功' });
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
