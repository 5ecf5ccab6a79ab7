// The form before the chat. It asks for a token only where the server wants one.

import { at } from './dom.js';

const form = at('login');
const { user, channel, token } = form.elements;

/** Whom a token names, if it is one that can be read. The server checks it, and not this page. */
function subjectOf(text) {
  try {
    const part = text.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(part), (sign) => sign.charCodeAt(0));
    const { sub } = JSON.parse(new TextDecoder().decode(bytes));
    return sub === undefined ? undefined : String(sub);
  } catch {
    return undefined;
  }
}

function refuse(text, field) {
  at('refused').textContent = text;
  for (const it of [user, channel, token]) it.setAttribute('aria-invalid', it === field);
  field?.focus();
}

export function busy(is) {
  form.querySelector('button').textContent = is ? 'Connecting…' : 'Log in';
}

/** Shows the form. `why` is told; `wantsToken` says that it was because of the token. */
export function askWho({ why = '', wantsToken = false, before } = {}) {
  at('chat').hidden = true;
  at('opening').hidden = true;
  at('welcome').hidden = form.hidden = false;
  document.title = 'Channels';
  busy(false);
  if (before) {
    user.value = before.user;
    channel.value = before.shown ?? channel.value;
  }
  if (wantsToken) at('secret').hidden = false;
  refuse(why, wantsToken ? token : user);
  if (!wantsToken) user.select();
}

/** Calls `logIn` with the name, or the token, of the person who wants to log in. */
export function whenAsked(logIn) {
  // A token may come with the address: after the #, which browsers do not send.
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) {
    history.replaceState(null, '', location.pathname);
    token.value = given;
    at('secret').hidden = false;
    user.value = subjectOf(given) ?? '';
  }
  form.onsubmit = (event) => {
    event.preventDefault();
    const secret = token.value.trim() || undefined;
    const name = (secret && subjectOf(secret)) ?? user.value.trim();
    const first = channel.value.trim();
    if (!name) return refuse('Enter your name.', user);
    if (!first) return refuse('Enter the name of a channel.', channel);
    refuse('');
    logIn({ user: name, token: secret, channels: [first], shown: first });
  };
}
