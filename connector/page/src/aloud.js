// What a screen reader says of new messages. The log itself is not announced, because it also grows by a thousand old ones.

import { at, many } from './dom.js';

/** What comes within this time is said together. */
const TOGETHER_MS = 800;
/** Of more at once, only the number is said. */
const MOST = 3;

let waiting = [];
let timer;

function say() {
  timer = undefined;
  at('aloud').textContent = waiting.length > MOST ? many(waiting.length, 'new message') : waiting.join('. ');
  waiting = [];
}

export function aloud(text) {
  waiting.push(text.slice(0, 300));
  // The same text twice in a row is said twice, too.
  at('aloud').textContent = '';
  timer ??= setTimeout(say, TOGETHER_MS);
}
