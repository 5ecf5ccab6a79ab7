// The lists beside the log: the channels with what is unread, and the people.

import { at, avatar, element, many, nameOf } from './dom.js';
import { timeOf } from './line.js';

/** Of a longer list, the rest is told as a number. */
const MOST_PEOPLE = 200;

const items = new Map(); // room → its line in the list. Each stays the same element, so that it keeps the focus.

function itemOf(room, choose) {
  const count = element('span', 'badge');
  const open = element('button', '', nameOf(room.name), count);
  open.type = 'button';
  open.onclick = () => choose(room);
  return { line: element('li', '', open), open, count };
}

export function showChannels(rooms, shown, choose) {
  for (const [room, { line }] of items) {
    if (rooms.get(room.name) === room) continue;
    line.remove();
    items.delete(room);
  }
  let unread = 0;
  for (const room of rooms.values()) {
    if (!items.has(room)) {
      items.set(room, itemOf(room, choose));
      at('channels').append(items.get(room).line);
    }
    const { open, count } = items.get(room);
    open.setAttribute('aria-current', room === shown);
    open.classList.toggle('dim', !room.isIn || !!room.parted);
    if (count.dataset.count !== String(room.unread)) {
      count.dataset.count = room.unread;
      count.hidden = !room.unread;
      count.replaceChildren(room.unread > 99 ? '99+' : String(room.unread), element('span', 'unseen', ' unread'));
    }
    unread += room.unread;
  }
  const elsewhere = unread - (shown?.unread ?? 0);
  at('elsewhere').hidden = !elsewhere;
  at('elsewhere').textContent = elsewhere > 99 ? '99+' : elsewhere;
  document.title = `${unread ? `(${unread}) ` : ''}${shown?.name ?? 'Channels'}`;
}

function person(name, me, ...more) {
  const you = name === me ? [element('span', 'dim', 'you')] : [];
  return element('li', '', avatar(name), nameOf(name), ...you, ...more);
}

export function showPeople({ here, gone }, me) {
  // We stand first, and all others by name.
  const names = [...here.keys()].sort((one, other) => (other === me) - (one === me) || one.localeCompare(other));
  const people = names.slice(0, MOST_PEOPLE).map((name) => person(name, me));
  if (names.length > people.length) people.push(element('li', 'dim', `and ${many(names.length - people.length, 'more', 'more')}`));
  at('count').textContent = at('present').textContent = names.length || '';
  at('members').replaceChildren(...people);
  at('before').hidden = !gone.size;
  at('gone').replaceChildren(...[...gone].reverse().map(([name, time]) => person(name, me, timeOf(time))));
}

export function showTyping(names) {
  const [one, other] = [...names].map(nameOf);
  const texts = [[], [one, ' is typing'], [one, ' and ', other, ' are typing'], ['Several people are typing']];
  at('typing').replaceChildren(...texts[Math.min(names.size, 3)]);
}
