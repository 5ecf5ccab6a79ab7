// What is told about the connection: that it is away and why, and afterwards what was missed.

import { at, many } from './dom.js';
import { inWords } from './words.js';

/** Good news are shown so long. */
const NEWS_MS = 8_000;

let timer;
let ticking;

function show(kind, text) {
  clearTimeout(timer);
  clearInterval(ticking);
  at('wait').textContent = '';
  at('banner').dataset.kind = kind;
  // The same text is not said twice.
  if (at('news').textContent !== text) at('news').textContent = text;
}

export const quiet = () => show('', '');

export function away(event) {
  show('away', `Connecting again: ${inWords(event)}.`);
  // The seconds are for the eye: a screen reader would read each of them.
  const end = Date.now() + event.retryInMs;
  const tick = () => {
    const seconds = Math.ceil((end - Date.now()) / 1000);
    at('wait').textContent = seconds > 1 ? `in ${seconds} s` : '';
  };
  tick();
  ticking = setInterval(tick, 1_000);
}

/** Something is missing in these channels. */
export function missing(channels, start = 'Something') {
  show('gap', `${start} is missing in ${channels.join(', ')}. The log says what.`);
  timer = setTimeout(quiet, 3 * NEWS_MS);
}

/** `messages` is how many came meanwhile, `gaps` are the channels in which something is missing. */
export function back(messages, gaps) {
  if (gaps.length) return missing(gaps, 'You are back, but something');
  const news = messages ? `You missed nothing: ${many(messages, 'message')} came meanwhile.` : 'You missed nothing.';
  show('back', `You are back. ${news}`);
  timer = setTimeout(quiet, NEWS_MS);
}
