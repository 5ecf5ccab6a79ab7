// What one event of a channel looks like. A line also carries what stands above it: the day, if the one before is of another
// day, and the mark of what is new.

import { avatar, element, nameOf } from './dom.js';

/** Messages of one person that follow each other so closely are shown as one group. */
const GROUP_MS = 5 * 60_000;

const clock = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit' });
const exact = new Intl.DateTimeFormat([], { dateStyle: 'full', timeStyle: 'medium' });
const day = new Intl.DateTimeFormat([], { weekday: 'long', day: 'numeric', month: 'long' });
const dayOfAnotherYear = new Intl.DateTimeFormat([], { dateStyle: 'full' });

function dayInWords(time) {
  const then = new Date(time);
  const now = new Date();
  const yesterday = new Date();
  yesterday.setDate(now.getDate() - 1);
  const date = (then.getFullYear() === now.getFullYear() ? day : dayOfAnotherYear).format(then);
  if (then.toDateString() === now.toDateString()) return `Today, ${date}`;
  if (then.toDateString() === yesterday.toDateString()) return `Yesterday, ${date}`;
  return date;
}

export function timeOf(time) {
  const when = element('time', '', clock.format(time));
  when.dateTime = new Date(time).toISOString();
  when.title = exact.format(time);
  return when;
}

/** What somebody has said. What is no text of a chat is shown as it is. */
export function textOf(body) {
  if (typeof body.content === 'string') return element('p', 'text', body.content);
  const { userId, ...rest } = body;
  return element('p', 'text code', JSON.stringify(rest, undefined, 1));
}

/** A bubble: of somebody else with the name and the disc, our own without. */
export function bubble(userId, isOwn, route, body, ...meta) {
  const from = userId ?? 'service';
  const who = element('p', 'who', isOwn ? element('span', 'unseen', 'You') : nameOf(from));
  // Back ends may send messages under routes of their own.
  if (route !== 'onMessage') who.append(element('code', 'route', route));
  const text = textOf(body);
  text.dir = 'auto';
  return element('div', 'said', avatar(from), element('div', 'bubble', who, text, element('p', 'meta', ...meta)));
}

const kinds = {
  message: ({ userId, route, body, time }, isOwn) => bubble(userId, isOwn, route, body, timeOf(time)),
  join: ({ userId, time }) => element('p', 'note', nameOf(userId), ' joined ', timeOf(time)),
  leave: ({ userId, time }) => element('p', 'note', nameOf(userId), ' left ', timeOf(time)),
  note: ({ text }) => element('p', 'note warn', text),
};

/** An entry of a log: the event with its line. */
export function entryOf(event, me) {
  const isOwn = event.type === 'message' && String(event.userId) === me;
  const line = element('li', `${event.type}${isOwn ? ' own' : ''}`, kinds[event.type](event, isOwn));
  return { ...event, isOwn, line };
}

/** Puts above a line what depends on the one before. May be called again when that has changed. */
export function decorate(entry, before, isFresh = false) {
  const { line, time, type, userId } = entry;
  for (const old of line.querySelectorAll(':scope > .day, :scope > .fresh')) old.remove();
  const isNewDay = time && new Date(time).toDateString() !== (before?.time && new Date(before.time).toDateString());
  if (isFresh) line.prepend(element('p', 'fresh', element('span', '', 'New messages')));
  if (isNewDay) line.prepend(element('p', 'day', element('span', '', dayInWords(time))));
  const goesOn = type === 'message' && before?.type === 'message' && String(before.userId) === String(userId);
  line.classList.toggle('goes-on', goesOn && !isNewDay && !isFresh && time - before.time < GROUP_MS && before.route === entry.route);
}
