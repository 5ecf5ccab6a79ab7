// Where people write. Enter sends, and Shift+Enter begins a new line.

import { at, many } from './dom.js';

/** More than this is nothing for a chat. It is told, and nothing is cut. */
const LONGEST = 10_000;

const field = at('content');

/** `room()` is the channel that is shown. */
export function compose(room) {
  const fit = () => {
    field.style.height = 'auto';
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
    const excess = field.value.length - LONGEST;
    field.setAttribute('aria-invalid', excess > 0);
    const text = excess > 0 ? `This is too long by ${many(excess, 'character')}. Shorten it, or send it in parts.` : '';
    // Screen readers would say it again for each key.
    if (!text || !at('length').textContent) at('length').textContent = text;
    else at('length').firstChild.data = text;
  };

  field.oninput = () => {
    fit();
    room()?.channel.typing(field.value.trim() !== '');
  };

  field.onkeydown = (event) => {
    // While an input method composes, Enter belongs to it.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    at('say').requestSubmit();
  };

  at('say').onsubmit = (event) => {
    event.preventDefault();
    field.focus();
    if (!field.value.trim() || field.value.length > LONGEST) return;
    room().say(field.value.trim());
    field.value = '';
    fit();
  };

  return {
    /** Each channel has its own draft. */
    show(draft) {
      field.value = draft;
      fit();
    },
    get draft() {
      return field.value;
    },
    focus() {
      // On a phone, the keyboard would cover what is to be read.
      if (matchMedia('(pointer: coarse)').matches) at('here').closest('h2').focus();
      else field.focus();
    },
  };
}
