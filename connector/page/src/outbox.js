// Our own messages of one channel that have not come back to us yet. They are shown at once, below everything else.

import { button, element } from './dom.js';
import { bubble } from './line.js';
import { inWords } from './words.js';

/** Names a message, so that we know it when it comes. It is not secret, and only the members of one channel use it. */
const newNonce = () => Math.random().toString(36).slice(2);

export class Outbox {
  node = element('ol', 'lines outbox');
  #waiting = new Map(); // nonce → { body, line, state }
  #me;
  #send;

  /** `send(body)` returns a promise, which is fulfilled when the message is stored. */
  constructor(me, send) {
    this.#me = me;
    this.#send = send;
    this.node.setAttribute('aria-label', 'Messages on their way');
  }

  /** True while something could be lost by closing the page. */
  get isBusy() {
    return [...this.#waiting.values()].some(({ state }) => state === 'pending');
  }

  async add(content) {
    const body = { type: 1, content, nonce: newNonce() };
    const message = { body, line: element('li', 'message own') };
    this.#waiting.set(body.nonce, message);
    this.node.append(message.line);
    this.#show(message, 'pending', 'sending…');
    try {
      await this.#send(body);
      this.#show(message, 'sent', 'sent');
    } catch (why) {
      this.#fail(message, why);
    }
  }

  /** A message has come. If it is one of these, it is no longer on its way. */
  heard({ nonce }) {
    this.#waiting.get(nonce)?.line.remove();
    this.#waiting.delete(nonce);
  }

  /** Takes out what was stored, but will not come because the channel has a gap. */
  takeStored() {
    const stored = [...this.#waiting.values()].filter(({ state }) => state === 'sent');
    for (const { body } of stored) this.heard(body);
    return stored.map(({ body }) => body);
  }

  /** Takes out the texts that were not sent. */
  takeUnsent() {
    const unsent = [...this.#waiting.values()].filter(({ state }) => state !== 'sent');
    for (const { body } of unsent) this.heard(body);
    return unsent.map(({ body }) => body.content);
  }

  /** Shows a text that an earlier session could not send. */
  keep(content) {
    const body = { type: 1, content, nonce: newNonce() };
    const message = { body, line: element('li', 'message own') };
    this.#waiting.set(body.nonce, message);
    this.node.append(message.line);
    this.#fail(message, { reason: 'CLOSED' });
  }

  #fail(message, why) {
    const { body } = message;
    const text = why.reason === 'UNKNOWN' ? 'It is not known whether this was sent.' : `Not sent: ${inWords(why)}.`;
    const leave = (then) => {
      this.heard(body);
      then?.();
      document.getElementById('content').focus();
    };
    const again = button('Send again', () => leave(() => this.add(body.content)));
    this.#show(message, 'failed', element('span', 'why', text), again, button('Discard', () => leave()));
    message.line.querySelector('.why').setAttribute('role', 'alert');
  }

  #show(message, state, ...meta) {
    message.state = state;
    message.line.className = `message own ${state}`;
    message.line.replaceChildren(bubble(this.#me, true, 'onMessage', message.body, ...meta));
  }
}
