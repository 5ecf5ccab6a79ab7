// The page: who is logged in, which channels are open, and which one is shown. What connects and repeats is the client library,
// client.js.

import { connect } from '../client.js';
import { aloud } from './aloud.js';
import * as banner from './banner.js';
import { compose } from './composer.js';
import { at, avatar, many, nameOf } from './dom.js';
import { askWho, busy, whenAsked } from './login.js';
import { People } from './people.js';
import { Room } from './room.js';
import { remember, remembered, storage } from './session.js';
import { showChannels, showPeople, showTyping } from './side.js';
import { inWords } from './words.js';

/** What changes within this time is shown together. */
const TOGETHER_MS = 30;

let chat;
let session;
let rooms = new Map(); // the name of a channel → its room
let shown;
let wasAway = false;
/** The rooms that have not caught up yet, and what was found so far. */
let catching;
/** What could not be sent: who has written it, and the texts by channel. */
let unsent = { texts: new Map() };

const nobody = new People();
const composer = compose(() => shown);

/** Shows what may have changed of the shown room and of the lists. */
let drawing;
function draw() {
  clearTimeout(drawing);
  drawing = undefined;
  if (!session) return;
  showChannels(rooms, shown, choose);
  at('empty').hidden = !!shown;
  at('log').hidden = at('leave').hidden = !shown;
  at('say').hidden = !shown || !!shown.parted;
  at('out').hidden = !shown?.parted;
  at('here').textContent = shown?.name ?? 'Channels';
  if (shown?.parted) at('out').firstElementChild.textContent = `You are not in this channel any more: ${inWords(shown.parted)}.`;
  showPeople(shown?.people ?? nobody, session.user);
  showTyping(shown?.typing ?? new Set());
  const { unread = 0, isAway = false } = shown ?? {};
  at('newest').hidden = !isAway;
  at('newest').textContent = unread ? `↓ ${many(unread, 'new message')}` : '↓ Newest messages';
}
const drawSoon = () => (drawing ??= setTimeout(draw, TOGETHER_MS));

const told = {
  changed: drawSoon,

  said(room, { userId, route, body }) {
    if (room === shown) aloud(`${userId ?? route}: ${typeof body.content === 'string' ? body.content : route}`);
  },

  caught(room, { messages, loss }) {
    if (!catching) {
      if (loss) banner.missing([room.name]);
      return;
    }
    catching.messages += messages;
    if (loss) catching.gaps.push(room.name);
    catching.rooms.delete(room);
    if (catching.rooms.size) return;
    banner.back(catching.messages, catching.gaps);
    catching = undefined;
  },
};

function choose(room) {
  if (shown) shown.draft = composer.draft;
  shown?.hide();
  shown = room;
  at('log').replaceChildren();
  draw();
  room?.show();
  composer.show(room?.draft ?? '');
  if (at('side').matches(':popover-open')) at('side').hidePopover();
  if (room) composer.focus();
  else (at('further').checkVisibility() ? at('further') : at('menu')).focus();
  store();
}

/** What a reload shall bring back. */
function store() {
  if (!session) return;
  session.channels = [...rooms.keys()];
  session.shown = shown?.name;
  remember(session);
}

/** Opens a channel, and says why if that is refused. */
async function open(name) {
  const room = new Room(chat.channel(name), session.user, at('log'), told);
  rooms.set(name, room);
  room.keepUnsent(unsent.texts.get(name) ?? []);
  unsent.texts.delete(name);
  draw();
  try {
    await room.enter();
  } catch (why) {
    // It was closed or left, and that was told.
    if (rooms.get(name) !== room || why.reason === 'CLOSED') return;
    remove(room);
    at('unjoined').textContent = `${name} could not be joined: ${inWords(why)}.`;
  }
  store();
}

function remove(room) {
  room.end();
  rooms.delete(room.name);
  catching?.rooms.delete(room);
  if (room === shown) {
    shown = undefined;
    choose(rooms.values().next().value);
  }
  draw();
  store();
}

/** Begins a session: a new one, or one from before a reload. */
function begin(wanted) {
  end();
  session = wanted;
  if (unsent.user !== session.user) unsent = { texts: new Map() };
  const { user, token } = session;
  busy(true);
  chat = connect(location.origin, { user, storage, token: token && (() => token) });
  const mine = chat;
  chat.on('state', (event) => mine === chat && states[event.state](event));
  chat.on('added', ({ channel }) => {
    if (mine !== chat || rooms.has(channel)) return;
    open(channel);
    if (!shown) choose(rooms.get(channel));
  });
}

/** Ends the session on this side. What was not sent stays, for the next session of the same user. */
function end() {
  if (session) unsent = { user: session.user, texts: new Map() };
  for (const room of rooms.values()) {
    unsent.texts.set(room.name, room.takeUnsent());
    room.end();
  }
  const before = chat;
  chat = session = shown = catching = undefined;
  wasAway = false;
  rooms = new Map();
  banner.quiet();
  showChannels(rooms);
  before?.close({ forget: true });
}

/** The first login: the page becomes a chat. */
function enter() {
  at('welcome').hidden = true;
  at('chat').hidden = false;
  at('self').replaceChildren(avatar(session.user), nameOf(session.user));
  at('unjoined').textContent = '';
  const { channels, shown: first } = session;
  channels.forEach(open);
  choose(rooms.get(first) ?? rooms.values().next().value);
}

function status(state, ...text) {
  at('chat').dataset.state = state;
  at('status').replaceChildren(...text);
}

const states = {
  connecting: () => status('away', 'Connecting…'),

  online() {
    status('online', 'Online as ', nameOf(session.user));
    if (at('chat').hidden) return enter();
    if (!wasAway) return;
    wasAway = false;
    const waiting = new Set([...rooms.values()].filter((room) => room.isIn && !room.parted));
    if (!waiting.size) return banner.back(0, []);
    catching = { rooms: waiting, messages: 0, gaps: [] };
  },

  away(event) {
    wasAway = true;
    status('away', 'Reconnecting…');
    banner.away(event);
    if (!at('chat').hidden) return;
    // After a reload: somebody may want to be somebody else meanwhile.
    if (at('login').hidden) askWho({ before: session });
    busy(true);
    at('refused').textContent = `Not logged in yet: ${inWords(event)}. Trying again…`;
  },

  closed(event) {
    const before = session;
    end();
    remember(undefined);
    const why = `Not logged in: ${inWords(event)}.`;
    askWho({ why, before, wantsToken: /^(NO_)?token/i.test(event.reason) });
  },
};

whenAsked(begin);

at('join').onsubmit = (event) => {
  event.preventDefault();
  const { channel } = event.target.elements;
  const name = channel.value.trim();
  at('unjoined').textContent = name ? '' : 'Enter the name of a channel.';
  if (!name) return channel.focus();
  channel.value = '';
  if (!rooms.has(name)) open(name);
  choose(rooms.get(name));
};

at('leave').onclick = () => {
  const { channel } = shown;
  remove(shown);
  channel.leave().catch(() => {});
};

at('rejoin').onclick = () => {
  const { name } = shown;
  unsent.texts.set(name, shown.takeUnsent());
  shown.end();
  shown = undefined;
  open(name);
  choose(rooms.get(name));
};

at('logout').onclick = () => {
  const before = session;
  end();
  remember(undefined);
  unsent = { texts: new Map() };
  askWho({ before });
};

at('newest').onclick = () => {
  shown.toEnd();
  composer.focus();
};

at('log').onscroll = () => shown?.scrolled();
new ResizeObserver(() => shown?.resized()).observe(at('log'));
document.onvisibilitychange = () => !document.hidden && shown?.scrolled();

onbeforeunload = (event) => {
  if ([...rooms.values()].some(({ isBusy }) => isBusy)) event.preventDefault();
};

const before = remembered();
if (before) {
  at('login').hidden = true;
  at('opening').hidden = false;
  begin(before);
}
