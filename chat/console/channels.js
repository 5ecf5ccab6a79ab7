// Finds a channel, and shows it: what the store knows of it, its members, and what is published in it, live.

import { call, watch } from './calls.js';
import { bytes, count, explain, facts, link, make, name, outcome, replace, table, time } from './parts.js';
import { Sizes } from './sizes.js';

/** More lines of a tail than this are hard to read, and cost the browser memory. */
const MOST_LINES = 300;
const PAGE = 50;
/** Facts and members are asked for again this often. */
const ASK_EVERY = 4_000;
/** The longest body of a publication that is shown as it is. */
const LONGEST_BODY = 4_000;

/** The list of channels. */
export class Channels {
  title = 'Channels';
  element;
  #found = make('div');
  #outcome = outcome();
  #input = make('input', { type: 'search', id: 'prefix', autocomplete: 'off', spellcheck: false, maxLength: 256 });
  #sizes = new Sizes(() => this.#input.value);
  #asked = 0;

  constructor() {
    const form = make('form', { className: 'row', role: 'search' }, make('label', { htmlFor: 'prefix' }, 'Names that begin with '), this.#input, make('button', { className: 'quiet' }, 'Open this one'));
    this.#input.addEventListener('input', () => this.#search());
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      location.hash = `#channels/${encodeURIComponent(this.#input.value)}`;
    });
    this.element = make('div', {}, make('section', {}, make('h2', {}, 'Channels'), form, this.#outcome.line, this.#found), this.#sizes.element);
    this.#search();
  }

  focus() {
    this.#input.focus();
  }

  close() {
    this.#sizes.stop();
  }

  /** What was typed last wins, whichever answer comes last. */
  async #search(pageToken = '', before = []) {
    this.#asked += 1;
    const asked = this.#asked;
    try {
      const answer = await call('ChatService/ListChannels', { prefix: this.#input.value, pageSize: PAGE, pageToken });
      if (asked !== this.#asked) return;
      const channels = [...before, ...(answer.channels ?? [])].sort((a, b) => Number(b.users ?? 0) - Number(a.users ?? 0));
      const rows = channels.map((it) => [
        link('channels', it.name),
        count(Number(it.users ?? 0)),
        count(Number(it.sessions ?? 0)),
        count(Number(it.position?.offset ?? 0)),
        bytes(Number(it.heldBytes ?? 0)),
        time(it.newestPublishTime),
      ]);
      const more = () => this.#search(answer.nextPageToken, channels);
      this.#found.replaceChildren(
        table('Channels', ['Name', '#Users', '#Sessions', '#Published', '#Log', 'Newest'], rows, 'There is no such channel'),
        answer.nextPageToken ? make('button', { type: 'button', className: 'quiet', onclick: more }, 'More') : '',
      );
      this.#outcome.show('');
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
  }
}

/** One channel. */
export class Channel {
  title;
  element;
  #channel;
  #ended = new AbortController();
  #facts = make('dl', { className: 'tiles' });
  #members = make('div');
  #tail = make('ol', { className: 'tail', tabIndex: 0, role: 'log', ariaLive: 'off', ariaLabel: 'Published in this channel' });
  #state = make('span', { className: 'dim' }, 'Connecting …');
  #outcome = outcome();
  #sent = outcome();
  #oldest;
  #isPaused = false;
  #held = [];
  #asked = 0;

  constructor(channel) {
    this.#channel = channel;
    this.title = channel;
    const pause = make('button', { type: 'button', className: 'quiet', ariaPressed: 'false' }, 'Pause');
    pause.addEventListener('click', () => {
      this.#isPaused = !this.#isPaused;
      pause.ariaPressed = String(this.#isPaused);
      if (!this.#isPaused) this.#held.splice(0).forEach((line) => this.#append(line));
    });
    const older = make('button', { type: 'button', className: 'quiet', onclick: () => this.#older() }, 'Older');
    this.element = make(
      'div',
      {},
      make('p', {}, make('a', { href: '#channels' }, '← All channels')),
      make('section', {}, make('h2', {}, name(channel)), this.#facts, this.#outcome.line),
      make(
        'div',
        { className: 'columns' },
        make('section', { ariaLabel: 'Published' }, make('div', { className: 'row' }, make('h3', {}, 'Published'), this.#state, older, pause), this.#tail),
        make('div', {}, make('section', { ariaLabel: 'Members' }, make('h3', {}, 'Members'), this.#members), make('section', { ariaLabel: 'Push a message' }, this.#form())),
      ),
    );
    this.#follow();
  }

  close() {
    this.#ended.abort();
  }

  async update() {
    if (Date.now() - this.#asked < ASK_EVERY) return;
    this.#asked = Date.now();
    try {
      const [{ channel }, members] = await Promise.all([
        call('ChatService/GetChannel', { channel: this.#channel }),
        call('ChatService/ListMembers', { channel: this.#channel, pageSize: PAGE, infoAsStruct: true }),
      ]);
      this.#showFacts(channel);
      this.#showMembers(members);
      this.#outcome.show('');
    } catch (error) {
      this.#outcome.show(error.code === 'not_found' ? 'The store does not know this channel. It begins with its first member or message.' : explain(error), true);
    }
  }

  #showFacts(it) {
    const tiles = [
      ['Users', count(Number(it.users ?? 0))],
      ['Sessions', count(Number(it.sessions ?? 0))],
      ['Published', count(Number(it.position?.offset ?? 0))],
      ['Held', count(Number(it.held ?? 0))],
      ['They take', bytes(Number(it.heldBytes ?? 0))],
      ['Oldest held', time(it.oldestPublishTime)],
      ['Newest', time(it.newestPublishTime)],
      ['Epoch', it.position?.epoch || '–'],
      ['Rule', it.logRule ? name(it.logRule) : 'general'],
    ];
    this.#facts.replaceChildren(...facts(tiles));
  }

  #showMembers({ members = [], totalUsers = 0 }) {
    const rows = members.map((it) => [link('users', it.user), count(it.sessions), it.info ? make('code', {}, JSON.stringify(it.info)) : '']);
    const missing = Number(totalUsers) - members.length;
    replace(this.#members, [
      table('Members', ['User', '#Sessions', 'Known of the user'], rows, 'Nobody is here'),
      missing > 0 ? make('p', { className: 'dim' }, `and about ${count(missing)} more`) : '',
    ]);
  }

  async #follow() {
    const { signal } = this.#ended;
    try {
      const page = await call('ChatService/History', { channel: this.#channel, newestFirst: true, pageSize: PAGE, bodyAsStruct: true });
      const publications = (page.publications ?? []).toReversed();
      publications.forEach((it) => this.#append(this.#line(it)));
      this.#oldest = publications[0]?.position;
      this.#state.textContent = 'Live';
      const last = publications.at(-1)?.position;
      for await (const { opened, publication, gap, ended } of watch(this.#channel, last, signal)) {
        if (publication) this.#add(this.#line(publication.publication));
        if (gap) this.#add(make('li', { className: 'note' }, `Publications are missing here (${gap.continuity.replace('CONTINUITY_', '').toLowerCase()}).`));
        if (ended) this.#add(make('li', { className: 'note' }, 'The channel has expired.'));
        if (opened) this.#state.textContent = 'Live';
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#state.textContent = `Not live: ${explain(error)}. Tries again …`;
      setTimeout(() => signal.aborted || (this.#tail.replaceChildren(), this.#follow()), 3_000);
    }
  }

  #line(it) {
    const body = it.body === undefined ? atobText(it.bodyJson ?? '') : JSON.stringify(it.body);
    const shown = body.length > LONGEST_BODY ? `${body.slice(0, LONGEST_BODY)} … (${count(body.length)} characters)` : body;
    return make(
      'li',
      {},
      make('span', { className: 'dim' }, `${it.position.offset} `, time(it.publishTime)),
      ' ',
      make('b', {}, name(it.route)),
      ' ',
      it.user ? link('users', it.user) : '',
      ' ',
      make('code', {}, shown),
    );
  }

  #add(line) {
    if (!this.#isPaused) return this.#append(line);
    this.#held.push(line);
    if (this.#held.length > MOST_LINES) this.#held.shift();
    this.#state.textContent = `Paused, ${count(this.#held.length)} more`;
  }

  #append(line) {
    const isAtEnd = this.#tail.scrollHeight - this.#tail.scrollTop - this.#tail.clientHeight < 40;
    this.#tail.append(line);
    while (this.#tail.childElementCount > MOST_LINES) this.#tail.firstElementChild.remove();
    if (isAtEnd) this.#tail.scrollTop = this.#tail.scrollHeight;
    if (!this.#isPaused) this.#state.textContent = 'Live';
  }

  async #older() {
    if (!this.#oldest) return;
    try {
      const page = await call('ChatService/History', { channel: this.#channel, newestFirst: true, from: this.#oldest, pageSize: PAGE, bodyAsStruct: true });
      const found = page.publications ?? [];
      if (found.length === 0) return this.#outcome.show('Nothing older is held.');
      for (const it of found) this.#tail.prepend(this.#line(it));
      this.#oldest = found.at(-1).position;
      this.#tail.scrollTop = 0;
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
  }

  #form() {
    const body = make('textarea', { name: 'body', rows: 3, required: true, spellcheck: false, value: '{"type": 1, "content": ""}' });
    const form = make(
      'form',
      { className: 'push' },
      make('h3', {}, 'Push a message'),
      make('label', {}, 'In the name of ', make('input', { name: 'user', required: true, maxLength: 42, value: 'operator', autocomplete: 'off' })),
      make('label', {}, 'Route ', make('input', { name: 'route', maxLength: 127, placeholder: 'onMessage', autocomplete: 'off' })),
      make('label', {}, 'Body, an object of JSON ', body),
      make('p', { className: 'buttons' }, make('button', {}, 'Send to the channel')),
      this.#sent.line,
    );
    // The same try with the same key is stored once, however often it is sent.
    let key = crypto.getRandomValues(new Uint32Array(4)).join('-');
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      const { user, route } = form.elements;
      try {
        JSON.parse(body.value);
        const bodyJson = btoa(String.fromCharCode(...new TextEncoder().encode(body.value)));
        const sent = await call('ChatService/Send', { channel: this.#channel, user: user.value, route: route.value, bodyJson, idempotencyKey: `console-${key}` });
        key = crypto.getRandomValues(new Uint32Array(4)).join('-');
        this.#sent.show(`Stored as number ${sent.position.offset}. ${count(sent.reached ?? 0)} connectors and watchers followed the channel.`);
      } catch (error) {
        this.#sent.show(error instanceof SyntaxError ? `The body is no JSON: ${error.message}` : explain(error), true);
      }
    });
    return form;
  }
}

/** The text of bytes in base64. */
function atobText(text) {
  return new TextDecoder().decode(Uint8Array.from(atob(text), (it) => it.charCodeAt(0)));
}
