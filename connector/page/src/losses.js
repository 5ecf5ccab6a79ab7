// What to tell when a part of a channel is missing, as exactly as it is known.

import { many } from './dom.js';

/** How many entries a channel has between two positions, as far as they can be compared. */
const between = ({ from, to }) => (from.epoch === to.epoch ? to.offset - from.offset : 0);

/** Which of the shown entries the server has lost. */
export const lostOf = ({ reason, from, to }, entries) =>
  reason === 'diverged' ? entries.filter((it) => it.epoch === from.epoch && it.offset > to.offset) : [];

export function lossInWords(loss, lost) {
  const count = between(loss);
  const entries = count ? many(count, 'entry is', 'entries are') : 'Some messages are';
  switch (loss.reason) {
    case 'diverged': {
      const messages = lost.filter(({ type }) => type === 'message').length;
      if (messages) return `The server has lost ${many(messages, 'message')}, marked above. Nobody else can read what is marked.`;
      return 'The server has lost its last entries. None of them was a message that you have seen.';
    }
    case 'trimmed':
      return `${entries} missing here: you were away for longer than the server keeps them.`;
    case 'unknown':
      return 'The server has begun this channel anew. It keeps nothing of what is above, and something may be missing in between.';
    case 'skipped':
      return `${entries} left out here, because this channel gives only the newest to those who come back.`;
    default:
      return `${entries} missing here.`;
  }
}
