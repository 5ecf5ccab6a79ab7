// A chart of lines over the time since the page was opened, at most ten minutes. It can be read with the pointer, with the arrow keys, and by a screen reader.

import { duration, make } from './parts.js';

const SVG = 'http://www.w3.org/2000/svg';
/** As long as the chart is not on the page, it has no width. */
const [USUAL_WIDTH, HEIGHT] = [480, 150];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 8, 8, 20];
const [SHORTEST, LONGEST] = [60_000, 10 * 60_000];
/** More lines than this cannot be told apart. The first ones are shown. */
const MOST_LINES = 6;

function draw(name, attributes, text) {
  const drawn = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) drawn.setAttribute(key, value);
  if (text !== undefined) drawn.textContent = text;
  return drawn;
}

/** The next number at or above `value` that is good to read on an axis. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].find((it) => it * power >= value * 0.999) * power;
}

export class Chart {
  #lines = [];
  #surplus = 0;
  #format;
  #title;
  #svg = draw('svg', { role: 'img', tabindex: 0 });
  #legend = make('ul', { className: 'legend' });
  /** How long ago the reader looks, in milliseconds. Nothing: now. */
  #looksAt;
  #span = SHORTEST;
  #width = USUAL_WIDTH;
  element;

  /** `format` makes a text of a value. */
  constructor(title, format) {
    this.#title = title;
    this.#format = format;
    this.element = make('figure', { className: 'chart' }, make('figcaption', {}, title), this.#svg, this.#legend);
    this.#svg.addEventListener('pointermove', (event) => {
      const box = this.#svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.#width;
      this.#look(((this.#width - RIGHT - x) / (this.#width - LEFT - RIGHT)) * this.#span);
    });
    this.#svg.addEventListener('pointerleave', () => this.#look(undefined));
    this.#svg.addEventListener('blur', () => this.#look(undefined));
    this.#svg.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: 10_000, ArrowRight: -10_000 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.#look((this.#looksAt ?? 0) + step);
    });
  }

  /** Shows these lines: each a name and a list of times with values. A line that has no value somewhere has a gap there. */
  show(lines) {
    this.#lines = lines.slice(0, MOST_LINES);
    this.#surplus = lines.length - this.#lines.length;
    this.#render();
  }

  #look(ago) {
    this.#looksAt = ago === undefined ? undefined : Math.min(Math.max(ago, 0), this.#span);
    this.#render();
  }

  #render() {
    const now = Math.max(0, ...this.#lines.map(({ points }) => points.at(-1)?.[0] ?? 0));
    const first = Math.min(now, ...this.#lines.map(({ points }) => points[0]?.[0] ?? now));
    const span = Math.min(Math.max(now - first, SHORTEST), LONGEST);
    const width = this.#svg.clientWidth || USUAL_WIDTH;
    [this.#span, this.#width] = [span, width];
    this.#svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const values = this.#lines.flatMap(({ points }) => points.map(([, value]) => value)).filter(Number.isFinite);
    const most = Math.max(0, ...values);
    const top = most > 0 ? rounded(most) : 1;
    const x = (time) => width - RIGHT - ((now - time) / span) * (width - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
    const drawn = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(top * share);
      drawn.push(draw('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      drawn.push(draw('text', { x: LEFT - 6, y: at + 4, 'text-anchor': 'end' }, values.length ? this.#format(top * share) : ''));
    }
    for (const [ago, text, anchor] of [[span, `−${duration(span / 1000)}`, 'start'], [0, 'now', 'end']]) {
      drawn.push(draw('text', { x: x(now - ago), y: HEIGHT - 4, 'text-anchor': anchor }, text));
    }
    const looked = this.#looksAt === undefined ? now : now - this.#looksAt;
    if (this.#looksAt !== undefined) {
      drawn.push(draw('line', { class: 'look', x1: x(looked), x2: x(looked), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    const told = [];
    const legend = this.#lines.map(({ name, points }, at) => {
      drawn.push(draw('path', { class: `line line-${at}`, d: path(points, x, y) }));
      const value = nearest(points, looked);
      const text = value === undefined ? '–' : this.#format(value);
      told.push(`${name} ${text}`);
      return make('li', { className: `line-${at}` }, make('bdi', {}, name), ' ', make('b', {}, text));
    });
    if (this.#surplus > 0) legend.push(make('li', { className: 'dim' }, `and ${this.#surplus} more`));
    this.#svg.replaceChildren(...drawn);
    this.#svg.setAttribute('aria-label', `${this.#title}: ${told.join(', ') || 'no data yet'}`);
    this.#legend.replaceChildren(...legend);
  }
}

/** A line with a gap wherever a value is missing. */
function path(points, x, y) {
  let isDown = false;
  let drawn = '';
  for (const [time, value] of points) {
    if (Number.isFinite(value)) drawn += `${isDown ? 'L' : 'M'}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    isDown = Number.isFinite(value);
  }
  return drawn;
}

function nearest(points, time) {
  let best;
  for (const point of points) if (!best || Math.abs(point[0] - time) <= Math.abs(best[0] - time)) best = point;
  return best && Number.isFinite(best[1]) ? best[1] : undefined;
}
