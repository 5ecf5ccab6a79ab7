// Small parts that all views use.

/** An element. Text is never taken as HTML. Properties that begin with `on` are listeners. */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== 'list') made[key] = value;
    else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.filter((it) => it !== undefined));
  return made;
}

/** A name that somebody chose. It may run from right to left, and must not turn its neighbours around. */
export function name(text) {
  return make('bdi', {}, text);
}

export function link(view, text) {
  return make('a', { href: `#${view}/${encodeURIComponent(text)}` }, name(text));
}

/** A table. `columns` are the headings; those that begin with # are numbers. Rows are lists of cells. */
export function table(caption, columns, rows, empty = 'Nothing to show') {
  const head = columns.map((it) => make('th', { scope: 'col', className: it.startsWith('#') ? 'number' : '' }, it.replace(/^#/, '')));
  const cells = (row) => row.map((cell, at) => make('td', { className: columns[at].startsWith('#') ? 'number' : '' }, cell ?? '–'));
  const body = rows.map((row) => make('tr', {}, ...cells(row)));
  if (rows.length === 0) body.push(make('tr', {}, make('td', { colSpan: columns.length, className: 'dim' }, empty)));
  return make(
    'div',
    { className: 'scrolls', tabIndex: 0, role: 'region', ariaLabel: caption },
    make('table', {}, make('caption', { className: 'unseen' }, caption), make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...body)),
  );
}

/** Puts new children in place of the old ones, unless they would look the same: so a selection of text stays. The focus stays, too. */
export function replace(parent, children) {
  if (make(parent.localName, {}, ...children).innerHTML === parent.innerHTML) return;
  const focused = parent.contains(document.activeElement) ? labelOf(document.activeElement) : undefined;
  parent.replaceChildren(...children);
  if (focused === undefined) return;
  const candidates = [...parent.querySelectorAll('a, button, [tabindex]')];
  (candidates.find((it) => labelOf(it) === focused) ?? candidates[0])?.focus({ preventScroll: true });
}

function labelOf(element) {
  return `${element.localName} ${element.ariaLabel ?? element.textContent}`;
}

/** Facts: each a term and what it is now. For a `dl` with the class `tiles`. */
export function facts(list) {
  return list.map(([term, value]) => make('div', {}, make('dt', {}, term), make('dd', {}, value)));
}

const WHOLE = new Intl.NumberFormat('en');

/** A number with at most three digits that count, as people read it. */
export function count(value) {
  if (value === undefined || Number.isNaN(value)) return '–';
  if (Number.isInteger(value)) return WHOLE.format(value);
  return value >= 100 ? WHOLE.format(Math.round(value)) : value.toPrecision(value >= 1 ? 3 : 2);
}

/** Bytes, as people read them. */
export function bytes(value) {
  const powers = Math.min(Math.floor(Math.log2(Math.max(value, 1)) / 10), 4);
  return `${count(Number((value / 1024 ** powers).toPrecision(3)))} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][powers]}`;
}

/** Seconds, as people read them. */
export function duration(seconds) {
  if (seconds === undefined || Number.isNaN(seconds)) return '–';
  if (seconds === 0) return '0';
  if (seconds < 0.001) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 1) return `${count(Number((seconds * 1000).toPrecision(3)))} ms`;
  if (seconds < 90) return `${count(Number(seconds.toPrecision(3)))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

/** How long ago a time of the contract was, by this machine's clock. */
export function ago(text) {
  return text ? duration(Math.max(0, (Date.now() - Date.parse(text)) / 1000)) : '–';
}

/** A time of the contract, with the date if it is not of today. */
export function time(text) {
  if (!text) return '–';
  const at = new Date(text);
  const isToday = at.toDateString() === new Date().toDateString();
  const shown = isToday ? at.toLocaleTimeString() : at.toLocaleString();
  return make('time', { dateTime: text, title: text }, shown);
}

/** Asks the operator before something is done that cannot be taken back. */
export function confirmed(title, text, doIt) {
  const dialog = document.getElementById('confirm');
  dialog.querySelector('h2').textContent = title;
  dialog.querySelector('#confirm-text').textContent = text;
  dialog.querySelector('.danger').textContent = doIt;
  return answered(dialog).then((form) => form !== undefined);
}

/** Shows a dialog. The form if it was sent, nothing if it was cancelled. */
export function answered(dialog) {
  return new Promise((resolve) => {
    const form = dialog.querySelector('form');
    let sent;
    form.onsubmit = (event) => {
      event.preventDefault();
      sent = form;
      dialog.close();
    };
    form.querySelector('[value=cancel]').onclick = () => dialog.close();
    dialog.onclose = () => resolve(sent);
    dialog.showModal();
  });
}

/** A line that tells what became of something: of an error at once, of a success politely. */
export function outcome() {
  const line = make('p', { className: 'outcome', role: 'status' });
  return {
    line,
    show(text, isBad = false) {
      line.textContent = text;
      line.classList.toggle('bad', isBad);
    },
  };
}

/** Says why a call failed. */
export function explain(error) {
  if (error.code === 'unauthenticated') return `${error.message}. Enter a token with the button at the top`;
  return error.code && error.code !== error.message ? `${error.message} (${error.code})` : error.message;
}
