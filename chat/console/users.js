// Finds a user: the sessions on all connectors, and what keeps the user out. Sessions can be ended from here.

import { ago, confirmed, count, explain, link, make, name, outcome, replace, table, time } from './parts.js';
import { call } from './calls.js';

const ASK_EVERY = 4_000;

/** Asks for a user. */
export class Users {
  title = 'Users';
  element;
  #input = make('input', { type: 'search', id: 'user', autocomplete: 'off', spellcheck: false, required: true, maxLength: 256 });

  constructor() {
    const form = make('form', { className: 'row', role: 'search' }, make('label', { htmlFor: 'user' }, 'User '), this.#input, make('button', {}, 'Find'));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      location.hash = `#users/${encodeURIComponent(this.#input.value)}`;
    });
    this.element = make('section', {}, make('h2', {}, 'Users'), form, make('p', { className: 'dim' }, 'The name exactly as the user logs in. Members of a channel lead here, too.'));
  }

  focus() {
    this.#input.focus();
  }
}

/** One user. */
export class User {
  title;
  element;
  #user;
  #sessions = make('div');
  #kept = make('p');
  #outcome = outcome();
  #asked = 0;
  #live = [];

  constructor(user) {
    this.#user = user;
    this.title = user;
    const form = make(
      'form',
      { className: 'row' },
      make('label', {}, 'Reason that clients are told ', make('input', { name: 'reason', maxLength: 64, placeholder: 'disconnected', autocomplete: 'off' })),
      make('label', { className: 'check' }, make('input', { name: 'reconnect', type: 'checkbox' }), ' tell them to connect again'),
      make('button', { className: 'danger' }, 'Disconnect all sessions'),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#disconnect(form.elements.reason.value, form.elements.reconnect.checked);
    });
    this.element = make(
      'div',
      {},
      make('p', {}, make('a', { href: '#users' }, '← Another user')),
      make('section', {}, make('h2', {}, name(user)), this.#kept, this.#sessions, form, this.#outcome.line),
    );
  }

  async update() {
    if (Date.now() - this.#asked < ASK_EVERY) return;
    this.#asked = Date.now();
    try {
      const { sessions = [], unansweredConnectors = [] } = await call('UserService/ListSessions', { user: this.#user, pageSize: 100 });
      this.#live = sessions;
      const rows = sessions.map((it) => [name(it.connector), it.protocol, it.address || 'unix socket', time(it.loginTime), ago(it.loginTime), channels(it.channels ?? []), make('code', {}, it.session)]);
      const missing = `These connectors did not answer, so their sessions are missing: ${unansweredConnectors.join(', ')}`;
      replace(this.#sessions, [
        table('Sessions', ['Connector', 'Protocol', 'Address', 'Since', '#For', 'Channels', 'Session'], rows, 'The user is not connected'),
        unansweredConnectors.length > 0 ? make('p', { className: 'warning' }, missing) : '',
      ]);
      const kept = await call('UserService/GetRestrictions', { user: this.#user });
      this.#kept.replaceChildren(...(kept.blockedUntil ? [make('span', { className: 'state warning' }, 'blocked'), ' until ', time(kept.blockedUntil), kept.blockReason ? `: ${kept.blockReason}` : ''] : []));
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
  }

  async #disconnect(reason, reconnect) {
    const sure = await confirmed(
      `Disconnect ${this.#user}?`,
      `${count(this.#live.length)} sessions are closed, on all connectors. ${reconnect ? 'The clients come back on their own.' : 'The clients do not come back on their own, but the user may log in again.'}`,
      'Disconnect',
    );
    if (!sure) return;
    try {
      const { closed = [], unansweredConnectors = [] } = await call('UserService/Disconnect', { users: [this.#user], reason, reconnect });
      const missing = unansweredConnectors.length > 0 ? ` These connectors did not answer: ${unansweredConnectors.join(', ')}.` : '';
      this.#outcome.show(`${count(closed.length)} sessions were closed.${missing}`, missing !== '');
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
    this.#asked = 0;
  }
}

/** The channels of a session. Somebody may be in thousands. */
function channels(names) {
  const shown = names.slice(0, 20).flatMap((it) => [link('channels', it), ' ']);
  if (names.length > 20) shown.push(`and ${count(names.length - 20)} more`);
  return make('span', {}, ...shown);
}
