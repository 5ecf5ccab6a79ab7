// The console: which view is shown, and what is asked for every two seconds while somebody looks.

import { hasToken, setToken } from './calls.js';
import { Channel, Channels } from './channels.js';
import { Measured, parse } from './measured.js';
import { Overview } from './overview.js';
import { answered } from './parts.js';
import { User, Users } from './users.js';

const EVERY = 2_000;

const main = document.getElementById('main');
const state = document.getElementById('state');
const measured = new Measured();
const overview = new Overview(measured);
let view;
let conditions = [];
/** Ends the pause before the next look. */
let wake = () => {};

/** Shows the view that the address names: `#channels/lobby`. */
function show() {
  const [kind, ...rest] = location.hash.slice(1).split('/');
  let subject = rest.join('/');
  try {
    subject = decodeURIComponent(subject);
  } catch {
    // Somebody has typed it by hand.
  }
  view?.close?.();
  if (kind === 'channels') view = subject ? new Channel(subject) : new Channels();
  else if (kind === 'users') view = subject ? new User(subject) : new Users();
  else view = overview;
  main.replaceChildren(view.element);
  for (const tab of document.querySelectorAll('nav a')) {
    const isCurrent = tab.hash === `#${kind || 'overview'}`;
    if (isCurrent) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  document.title = `${view.title} – Console`;
  if (view.focus) view.focus();
  view.update?.(conditions);
}

/** What chat says of its readiness: lines such as `redis: ok`. */
function readConditions(text) {
  const lines = text.split('\n').filter((it) => it !== '');
  return lines.map((line) => ({ text: line, isMet: /: ok$/.test(line) }));
}

async function look() {
  try {
    const [metrics, ready] = await Promise.all([fetch('/metrics'), fetch('/readyz')]);
    if (!metrics.ok) throw new Error(await metrics.text());
    measured.add(Date.now(), parse(await metrics.text()));
    conditions = readConditions(await ready.text());
    const unmet = conditions.filter((it) => !it.isMet);
    state.textContent = ready.ok ? 'This chat is ready' : `Not ready: ${unmet.map((it) => it.text).join('; ')}`;
    state.className = ready.ok ? 'good' : 'bad';
  } catch {
    state.textContent = `This chat does not answer since ${new Date().toLocaleTimeString()}`;
    state.className = 'bad';
    conditions = [{ text: 'It does not answer', isMet: false }];
  }
  await view?.update?.(conditions);
}

/** Looks as long as somebody can see the page. */
async function keepLooking() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, EVERY);
    });
  }
}

async function askForToken() {
  const dialog = document.getElementById('ask');
  const isNear = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
  dialog.querySelector('#ask-plain').hidden = location.protocol === 'https:' || isNear;
  const form = await answered(dialog);
  if (!form) return;
  setToken(form.elements.token.value.trim());
  form.reset();
  showToken();
  location.reload();
}

function showToken() {
  document.getElementById('token').textContent = hasToken() ? 'Token ✓' : 'Token';
}

document.getElementById('token').addEventListener('click', askForToken);
addEventListener('hashchange', show);
document.addEventListener('visibilitychange', () => wake());
addEventListener('keydown', (event) => {
  const isTyping = /^(input|textarea)$/.test(event.target.localName);
  if (event.key === '/' && !isTyping && !document.querySelector('dialog[open]')) {
    event.preventDefault();
    location.hash = '#channels';
  }
});
showToken();
show();
keepLooking();
