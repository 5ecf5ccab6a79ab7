// What the logs of channels take in the store, added up by the beginnings of their names.

import { call } from './calls.js';
import { bytes, count, explain, make, name, outcome, table } from './parts.js';

const PAGE = 1_000;
/** The most beginnings that are told apart. */
const MOST = 200;
const OTHERS = 'all others';

export class Sizes {
  element;
  #prefix;
  #button = make('button', { type: 'button', className: 'quiet' }, 'Add up');
  #outcome = outcome();
  #found = make('div');
  /** Ends the adding up that is under way. */
  #running;

  /** `prefix` says which channels are meant: those whose names begin with it. */
  constructor(prefix) {
    this.#prefix = prefix;
    this.#button.addEventListener('click', () => (this.#running ? this.stop() : this.#addUp()));
    this.element = make(
      'section',
      { ariaLabel: 'What the logs take' },
      make('div', { className: 'row' }, make('h3', {}, 'What the logs take'), this.#button),
      make('p', { className: 'dim' }, 'Adds up the logs of all channels above, by their names up to the next colon. With many channels that takes a while.'),
      this.#outcome.line,
      this.#found,
    );
  }

  stop() {
    this.#running?.abort();
    this.#running = undefined;
    this.#button.textContent = 'Add up';
  }

  async #addUp() {
    const prefix = this.#prefix();
    const running = new AbortController();
    this.#running = running;
    this.#button.textContent = 'Stop';
    const sums = new Map();
    let [channels, pageToken] = [0, ''];
    try {
      do {
        const page = await call('ChatService/ListChannels', { prefix, pageSize: PAGE, pageToken });
        for (const it of page.channels ?? []) add(sums, prefix, it);
        channels += page.channels?.length ?? 0;
        pageToken = page.nextPageToken ?? '';
        this.#show(sums);
        const goesOn = pageToken !== '' && !running.signal.aborted;
        const whole = pageToken === '' ? 'These are all.' : 'There are more.';
        this.#outcome.show(`${count(channels)} channels were added up. ${goesOn ? 'It goes on …' : whole}`);
      } while (pageToken !== '' && !running.signal.aborted);
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
    if (this.#running === running) this.stop();
  }

  #show(sums) {
    const largest = [...sums].sort(([, a], [, b]) => b.bytes - a.bytes);
    const rows = largest.map(([beginning, it]) => [name(beginning), count(it.channels), count(it.held), bytes(it.bytes)]);
    this.#found.replaceChildren(table('What the logs take', ['Beginning', '#Channels', '#Publications', '#Bytes'], rows, 'There is no such channel'));
  }
}

function add(sums, prefix, { name: channel, held = 0, heldBytes = 0 }) {
  const colon = channel.indexOf(':', prefix.length);
  let beginning = colon < 0 ? `${prefix}… (no colon)` : channel.slice(0, colon + 1);
  if (!sums.has(beginning) && sums.size >= MOST) beginning = OTHERS;
  const sum = sums.get(beginning) ?? { channels: 0, held: 0, bytes: 0 };
  sum.channels += 1;
  sum.held += Number(held);
  sum.bytes += Number(heldBytes);
  sums.set(beginning, sum);
}
