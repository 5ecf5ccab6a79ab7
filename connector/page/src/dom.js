// What all parts of the page need to make elements. Everything that comes from others is put into the page as text, never as
// markup.

export const at = (id) => document.getElementById(id);

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A name of somebody or of a channel. It may be written from right to left, and must not turn what stands beside it around. */
export const nameOf = (name) => element('bdi', '', String(name));

export function button(text, pressed) {
  const made = element('button', '', text);
  made.type = 'button';
  made.onclick = pressed;
  return made;
}

/** A coloured disc with the first letter of a name: the same colour for the same name, everywhere. */
export function avatar(name) {
  const [letter = ''] = String(name).trim();
  const made = element('span', 'avatar', letter.toUpperCase());
  let hue = 0;
  for (const sign of String(name)) hue = (hue * 31 + sign.codePointAt(0)) % 360;
  made.style.setProperty('--hue', hue);
  made.setAttribute('aria-hidden', 'true');
  return made;
}

/** "3 messages", "1 message" */
export const many = (count, one, more = `${one}s`) => `${count.toLocaleString('en')} ${count === 1 ? one : more}`;
