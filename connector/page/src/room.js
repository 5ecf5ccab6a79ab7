// One channel as it is seen: its log, who is there, what is unread, what is on its way. It keeps its part of the page while
// another channel is shown.

import { element } from './dom.js';
import { decorate, entryOf } from './line.js';
import { lossInWords, lostOf } from './losses.js';
import { Outbox } from './outbox.js';
import { People } from './people.js';

/** A log shows no more entries, so that a page that is open for weeks stays fast. */
const MOST = 1_000;
/** So many older entries are loaded at once. */
const PAGE = 50;
/** What was missed has come by then. */
const CATCH_UP_MS = 5_000;
/** Who is so close to the end follows it. */
const CLOSE_PX = 60;

export class Room {
  people = new People();
  typing = new Set();
  unread = 0;
  draft = '';
  /** Why we are out of the channel, if we are. */
  parted;
  /** True from the first successful join on. */
  isIn = false;
  /** The part of the page. */
  node = element('div');
  #start = element('p', 'start');
  #list = element('ol', 'lines');
  #outbox;
  #entries = [];
  #me;
  #log;
  #told;
  #stops;
  #isShown = false;
  #scrollTop = 0;
  /** The end of the log is in sight, so what is new is scrolled to. */
  #follows = true;
  /** The end is about to be scrolled to. */
  #scrolling;
  /** The newest entries are not there, because older ones have taken their place. */
  #isPast = false;
  /** The first entry that is new. */
  #fresh;
  #older;
  #isLoading = false;
  /** Up to here, everything was given. */
  #at;
  /** Set while what was missed is coming. */
  #catching;

  /**
   * `log` is the element in which it is shown. `told` gets `changed(room)`, `said(room, event)` for a new message of somebody
   * else, and `caught(room, { messages, loss })` when everything that was missed has come.
   */
  constructor(channel, me, log, told) {
    Object.assign(this, { channel, name: channel.name });
    this.#me = me;
    this.#log = log;
    this.#told = told;
    this.#outbox = new Outbox(me, (body) => channel.send(body));
    this.#list.setAttribute('aria-label', 'Messages');
    this.node.append(this.#start, this.#list, this.#outbox.node);
    const hear = {
      message: (event) => this.#heard(event),
      join: (event) => this.#saw(event),
      leave: (event) => this.#saw(event),
      lost: (loss) => this.#lost(loss),
      typing: (event) => this.#types(event),
      joined: (event) => this.#joined(event),
      parted: (event) => this.#parted(event),
      position: (position) => this.#moved(position),
    };
    this.#stops = Object.entries(hear).map(([name, call]) => channel.on(name, call));
  }

  get isBusy() {
    return this.#outbox.isBusy;
  }

  /** The end is not in sight. */
  get isAway() {
    return this.#isPast || !this.#follows;
  }

  async enter() {
    const { position, replayed } = await this.channel.join();
    this.isIn = true;
    this.#at = position;
    // What was missed since before a reload comes by itself. Here is what was before.
    this.#older = this.#history({ ...position, offset: position.offset - replayed + 1 });
    this.#told.changed(this);
    await Promise.all([this.#readPeople(), this.loadOlder()]);
  }

  say(content) {
    this.#unmark();
    if (this.#isPast) this.toEnd();
    this.#follows = true;
    this.#change(() => this.#outbox.add(content));
  }

  keepUnsent(contents) {
    this.#change(() => contents.forEach((content) => this.#outbox.keep(content)));
  }

  takeUnsent() {
    return this.#outbox.takeUnsent();
  }

  /** Ends it. The channel may get another room later. */
  end() {
    for (const stop of this.#stops) stop();
    this.node.remove();
  }

  show() {
    this.#isShown = true;
    this.#log.replaceChildren(this.node);
    this.#log.scrollTop = this.#follows ? this.#log.scrollHeight : this.#scrollTop;
    // Who has missed much begins where it begins.
    const fresh = this.#fresh?.line.offsetTop ?? Infinity;
    if (this.#follows && fresh < this.#log.scrollTop) this.#log.scrollTop = fresh - 8;
    this.scrolled();
  }

  hide() {
    this.#isShown = false;
    if (!this.unread) this.#unmark();
  }

  /** The log was scrolled, or the page is seen again. */
  scrolled() {
    if (this.#scrolling) this.resized();
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    this.#scrollTop = scrollTop;
    this.#follows = scrollHeight - scrollTop - clientHeight < CLOSE_PX;
    if (this.#isSeen) this.unread = 0;
    this.#told.changed(this);
    if (scrollTop < clientHeight) this.loadOlder();
  }

  /** The log has another size, or more in it. */
  resized() {
    cancelAnimationFrame(this.#scrolling);
    this.#scrolling = undefined;
    if (this.#isShown && this.#follows) this.#log.scrollTop = this.#log.scrollHeight;
  }

  /** Goes to the newest message. */
  toEnd() {
    this.#follows = true;
    if (this.#isPast) {
      this.#isPast = false;
      this.#entries = [];
      this.#list.replaceChildren();
      this.#older = this.#history({ ...this.#at, offset: this.#at.offset + 1 });
      this.loadOlder();
    }
    this.#log.scrollTop = this.#log.scrollHeight;
    this.scrolled();
  }

  async loadOlder() {
    if (this.#isLoading || !this.#older) return;
    this.#isLoading = true;
    const older = this.#older;
    const events = [];
    let isAll = false;
    let hasFailed = false;
    this.#start.textContent = 'Loading…';
    try {
      while (events.length < PAGE && !isAll) {
        const { value, done } = await older.next();
        // Where a page does not continue the one before, what lies before is of another time.
        isAll = done || value.type === 'lost';
        if (!isAll) events.push(value);
      }
    } catch (why) {
      // It goes on from here later, unless we may not read it.
      isAll = !why.retry && why.reason !== 'CLOSED';
      hasFailed = true;
    }
    this.#isLoading = false;
    // Meanwhile it was begun anew.
    if (older !== this.#older) return void this.loadOlder();
    if (isAll) this.#older = undefined;
    else if (hasFailed) this.#older = this.#history(events.at(-1) ?? this.#entries.find(({ epoch }) => epoch) ?? this.#at);
    this.#start.textContent = isAll ? 'Nothing older is kept.' : '';
    this.#prepend(events);
    // Joins and leaves are small: there may still be room above.
    if (events.length && this.#isShown && this.#log.scrollHeight <= this.#log.clientHeight) await this.loadOlder();
  }

  get #isSeen() {
    return this.#isShown && !document.hidden && !this.isAway;
  }

  #history(from) {
    const { epoch, offset } = from;
    return this.channel.history({ from: { epoch, offset }, pageSize: PAGE });
  }

  async #readPeople() {
    // It may not be allowed. Then those are shown who come and go.
    await this.people.read(this.channel).catch(() => {});
    this.#told.changed(this);
  }

  #heard(event) {
    this.typing.delete(String(event.userId));
    const isOwn = String(event.userId) === this.#me;
    const isSeen = this.#isSeen;
    this.#change(() => {
      if (isOwn) this.#outbox.heard(event.body);
      const entry = this.#append(event);
      if (isOwn || isSeen) return;
      if (!this.unread) this.#mark(entry);
      this.unread++;
    });
    if (!isOwn && this.#catching) this.#catching.messages++;
    else if (!isOwn) this.#told.said(this, event);
    this.#told.changed(this);
  }

  #saw(event) {
    this.people.saw(event);
    this.#change(() => this.#append(event));
    this.#told.changed(this);
  }

  #lost(loss) {
    const lost = lostOf(loss, this.#entries);
    for (const { line } of lost) line.classList.add('gone');
    let note;
    this.#change(() => {
      const { time } = this.#entries.at(-1) ?? {};
      for (const body of this.#outbox.takeStored()) {
        this.#append({ type: 'message', route: 'onMessage', userId: this.#me, body, time: time ?? Date.now() });
      }
      note = this.#append({ type: 'note', text: lossInWords(loss, lost), time });
    });
    if (this.#catching) this.#catching.loss = loss;
    else if (this.isIn) this.#told.caught(this, { messages: 0, loss });
    if (this.isIn) this.#readPeople();
    if (loss.reason === 'gap') this.#fill(loss, note);
  }

  /** The server has said nothing of this gap, so its log may still have what is missing. */
  async #fill({ from, to }, note) {
    try {
      for await (const event of this.channel.history({ newestFirst: false, from })) {
        const place = this.#entries.indexOf(note);
        if (event.type === 'lost' || place < 0) return;
        if (event.offset > to.offset) break;
        this.#change(() => this.#insert(place, [entryOf(event, this.#me)]));
      }
      const place = this.#entries.indexOf(note);
      if (place >= 0) this.#change(() => this.#remove(place, 1));
    } catch {
      // The note stays.
    }
  }

  #types({ userId, typing }) {
    if (typing) this.typing.add(String(userId));
    else this.typing.delete(String(userId));
    this.#told.changed(this);
  }

  /** After the first time, this is a return. */
  #joined({ position, recovered }) {
    if (!this.isIn) return;
    const catching = (this.#catching = { target: position, messages: 0 });
    this.#moved(this.#at);
    // Where the log goes on in another epoch and nothing was missed, nothing comes that says so.
    setTimeout(() => catching === this.#catching && this.#caught(), CATCH_UP_MS);
    if (!recovered) this.#readPeople();
    this.#told.changed(this);
  }

  #parted(event) {
    this.parted = event;
    this.people = new People();
    this.typing.clear();
    this.#caught();
    this.#told.changed(this);
  }

  #moved(position) {
    this.#at = position;
    const { target } = this.#catching ?? {};
    if (target && position.epoch === target.epoch && position.offset >= target.offset) this.#caught();
  }

  #caught() {
    const catching = this.#catching;
    this.#catching = undefined;
    if (catching) this.#told.caught(this, catching);
  }

  /** Changes the log. Who follows its end still does. Who reads above stays where they are. */
  #change(change, isAbove = false) {
    if (!this.#isShown) return void change();
    const log = this.#log;
    if (this.#follows) {
      change();
      // Once for all that comes together: to measure a long log for each message would be slow.
      this.#scrolling ??= requestAnimationFrame(() => this.resized());
    } else if (isAbove) {
      const { scrollHeight, scrollTop } = log;
      change();
      log.scrollTop = scrollTop + log.scrollHeight - scrollHeight;
    } else {
      change();
    }
  }

  #append(event) {
    // Who reads what is old is not disturbed. Going to the end loads it.
    if (this.#entries.length >= MOST && this.#isShown && !this.#follows) this.#isPast = true;
    const entry = entryOf(event, this.#me);
    if (this.#isPast) return entry;
    this.#insert(this.#entries.length, [entry]);
    const tooMany = this.#entries.length - MOST;
    if (tooMany > 0) {
      this.#remove(0, tooMany);
      this.#older = this.#history(this.#entries.find(({ epoch }) => epoch));
      this.#start.textContent = '';
    }
    return entry;
  }

  #prepend(events) {
    const known = new Set(this.#entries.map(({ epoch, offset }) => `${epoch}:${offset}`));
    const fresh = events.filter(({ epoch, offset }) => !known.has(`${epoch}:${offset}`)).reverse();
    this.#change(() => this.#insert(0, fresh.map((event) => entryOf(event, this.#me))), true);
    const tooMany = this.#entries.length - MOST;
    if (tooMany > 0) {
      this.#isPast = true;
      this.#remove(MOST, tooMany);
    }
  }

  #insert(place, entries) {
    const next = this.#entries[place];
    this.#entries.splice(place, 0, ...entries);
    const lines = document.createDocumentFragment();
    lines.append(...entries.map(({ line }) => line));
    this.#list.insertBefore(lines, next?.line ?? null);
    this.#decorate(place, place + entries.length + 1);
  }

  #remove(place, count) {
    for (const { line } of this.#entries.splice(place, count)) line.remove();
    this.#decorate(place, place + 1);
  }

  #decorate(from, to) {
    for (let place = from; place < Math.min(to, this.#entries.length); place++) {
      const entry = this.#entries[place];
      decorate(entry, this.#entries[place - 1], entry === this.#fresh);
    }
  }

  #mark(entry) {
    const old = this.#fresh;
    this.#fresh = entry;
    for (const it of [old, entry]) {
      const place = this.#entries.indexOf(it);
      if (place >= 0) this.#decorate(place, place + 1);
    }
  }

  #unmark() {
    this.#mark(undefined);
  }
}
