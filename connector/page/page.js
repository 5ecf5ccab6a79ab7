// What people see of the client. Everything that comes from others is put into the page as text, never as markup.

import { Client, remembered } from './client.js';

const at = (id) => document.getElementById(id);
const element = (name, className, ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};

/** The words for people, by the reason that a program gets. */
const words = {
  ALREADY_JOINED: 'you are there already',
  INVALID_PARAMETER: 'the name is too long, or has characters that are not allowed',
  LEAVE_PENDING: 'others are told a little later',
  LOGGED_OUT: 'you have logged out',
  LOST: 'the connection was lost',
  MISSING_PARAMETER: 'the name is empty',
  NO_ANSWER: 'the server does not answer',
  NOT_JOINED: 'you are not in this channel',
  OFFLINE: 'there is no network',
  RATE_LIMITED: 'that was too much at once',
  STORE_FULL: 'the server has no room',
  TOO_BIG: 'the message is too long',
  TOO_MANY_CHANNELS: 'you are in too many channels; leave one first',
  TRY_LATER: 'the server is busy',
  UNAVAILABLE: 'the server has a problem',
  UNKNOWN_OUTCOME: 'the server has a problem',
  USER_LOGGED_IN: 'somebody is logged in under this name. Close the other window, or try again in a minute',
  'connector restarted': 'the server was restarted',
  attack: 'the server took this for an attack',
  idle: 'you were not logged in in time',
  displaced: 'another connection took your place',
  kick: 'you have logged in elsewhere',
  malformed: 'the server did not understand this page',
  replaced: 'you have gone on in another window',
  shutdown: 'the server is being restarted',
  slow: 'the connection was too slow',
};
const inWords = ({ reason, message }) => words[reason] ?? message ?? reason ?? 'the server has a problem';

let client;
let shown; // the channel on display
const rooms = new Map(); // channel → { log, members, unread }

const states = {
  connecting: () => 'Connecting…',
  online: () => `Online as ${client.user}`,
  away: (why) => `Reconnecting: ${inWords(why)}`,
  over: (why) => `Logged out: ${inWords(why)}`,
};

const on = {
  state(name, why) {
    at('status').textContent = states[name](why);
    at('status').dataset.state = name;
    if (name === 'over') {
      at('refused').textContent = `Not logged in: ${inWords(why)}.`;
      at('chat').hidden = true;
      at('login').hidden = false;
      at('login').elements.user.focus();
    }
  },

  async joined(channel, position) {
    const room = { log: document.createDocumentFragment(), lines: [], members: new Set(), unread: 0 };
    rooms.set(channel, room);
    at('login').hidden = true;
    at('chat').hidden = false;
    show(channel);
    await Promise.allSettled([readMembers(channel, room), readHistory(channel, room, position)]);
  },

  parted(channel, why) {
    add(channel, element('li', 'note gap', `You are not in this channel any more: ${inWords(why)}.`));
  },

  push(channel, { route, body, time }) {
    const room = rooms.get(channel);
    if (route === 'onJoin') room.members.add(String(body.userId));
    if (route === 'onLeave') room.members.delete(String(body.userId));
    add(channel, line(route, body, time));
    if (channel === shown) showMembers();
    else if (route === 'onMessage' && ++room.unread) showChannels();
  },

  gap(channel, reason) {
    const texts = {
      diverged: 'The server has lost the last messages above.',
      trimmed: 'Some messages are missing here: they are no longer kept.',
      unknown: 'The channel has begun anew here.',
    };
    add(channel, element('li', 'note gap', texts[reason] ?? reason));
    // The missing messages may be joins and leaves.
    const room = rooms.get(channel);
    room?.members.clear();
    if (room) readMembers(channel, room).catch(() => {});
  },

  sent(key) {
    pending.get(key)?.remove();
    pending.delete(key);
  },

  refused(key, why) {
    const item = pending.get(key);
    item?.classList.replace('pending', 'failed');
    item?.append(` (not sent: ${inWords(why)})`);
    pending.delete(key);
  },
};

const pending = new Map(); // key → the line of a message that is not confirmed yet

async function readMembers(channel, room) {
  let pageToken = '';
  do {
    const page = await client.ask('chat.handler.members', { channel, pageToken });
    if (page.code !== 0) return;
    for (const { userId } of page.members) room.members.add(userId);
    pageToken = page.nextPageToken;
  } while (pageToken);
  if (channel === shown) showMembers();
}

/** Shows what was said before we joined. */
async function readHistory(channel, room, { epoch, offset }) {
  const from = { epoch, offset: offset + 1 };
  const page = await client.ask('chat.handler.history', { channel, newestFirst: true, from });
  if (page.code !== 0) return;
  const older = page.publications.reverse().map(({ route, body, time }) => line(route, body, time));
  room.lines.unshift(...older);
  if (channel === shown) {
    at('log').prepend(...older);
    scroll();
  }
}

function line(route, body, time) {
  const when = element('time', '', new Date(time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }));
  when.dateTime = new Date(time).toISOString();
  if (route === 'onJoin') return element('li', 'note', `${body.userId} joined`, when);
  if (route === 'onLeave') return element('li', 'note', `${body.userId} left`, when);
  const text = typeof body.content === 'string' ? body.content : JSON.stringify(body);
  const own = String(body.userId) === client.user ? ' own' : '';
  return element('li', `message${own}`, element('span', 'who', String(body.userId ?? route)), text, when);
}

function add(channel, item) {
  rooms.get(channel)?.lines.push(item);
  if (channel === shown) {
    const { scrollTop, scrollHeight, clientHeight } = at('log');
    const following = scrollHeight - scrollTop - clientHeight < 80;
    // Messages that are not confirmed stay last.
    const first = [...pending.values()].find((it) => it.isConnected);
    at('log').insertBefore(item, first ?? null);
    if (following) scroll();
  }
}

const scroll = () => at('log').scrollTo(0, at('log').scrollHeight);

function show(channel) {
  shown = channel;
  const room = rooms.get(channel);
  room.unread = 0;
  at('here').textContent = channel;
  at('log').replaceChildren(...room.lines);
  scroll();
  showMembers();
  showChannels();
}

function showMembers() {
  const members = [...rooms.get(shown).members].sort();
  at('count').textContent = members.length;
  at('members').replaceChildren(...members.map((member) => element('li', '', member)));
}

function showChannels() {
  const items = [...rooms].map(([channel, { unread }]) => {
    const button = element('button', '', element('span', '', channel));
    if (unread) button.append(element('span', 'unread', `${unread} new`));
    button.type = 'button';
    button.setAttribute('aria-current', channel === shown);
    button.onclick = () => {
      show(channel);
      at('here').focus();
    };
    return element('li', '', button);
  });
  at('channels').replaceChildren(...items);
  at('leave').hidden = rooms.size < 2;
}

at('login').onsubmit = (event) => {
  event.preventDefault();
  const { user, channel } = event.target.elements;
  at('refused').textContent = '';
  rooms.clear();
  const url = new URL('/ws', location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  client = new Client(url, user.value, channel.value, on);
  client.connect();
};

at('join').onsubmit = async (event) => {
  event.preventDefault();
  const { channel } = event.target.elements;
  at('unjoined').textContent = '';
  if (rooms.has(channel.value)) {
    show(channel.value);
  } else {
    const reply = await client.join(channel.value).catch(({ message }) => ({ message }));
    if (reply.code !== 0) return (at('unjoined').textContent = `Not joined: ${inWords(reply)}`);
  }
  channel.value = '';
};

at('leave').onclick = async () => {
  const channel = shown;
  rooms.delete(channel);
  show(rooms.keys().next().value);
  await client.leave(channel).catch(() => {});
};

at('say').onsubmit = (event) => {
  event.preventDefault();
  const { content } = event.target.elements;
  const key = client.say(shown, { type: 1, content: content.value });
  pending.set(key, element('li', 'message own pending', content.value));
  at('log').append(pending.get(key));
  content.value = '';
  scroll();
};

// After a reload the form shows the user from before, who gets the same place again.
const before = remembered();
if (before) {
  const { user, channel } = at('login').elements;
  user.value = before.user;
  channel.value = before.home;
  user.select();
}

// On a phone the list of members is closed at first.
if (matchMedia('(max-width: 48rem)').matches) at('present').open = false;
