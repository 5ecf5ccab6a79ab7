// The metrics of this chat: the text of Prometheus, read every few seconds, and what changed meanwhile.

/** For how long samples are kept. */
export const KEPT_FOR = 10 * 60_000;
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** All series of a text: the family's name, and its labels with their values. */
export function parse(text) {
  const families = new Map();
  for (const line of text.split('\n')) {
    const found = line.startsWith('#') ? null : LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? '').matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, '$1');
    if (!families.has(found[1])) families.set(found[1], new Map());
    families.get(found[1]).set(found[2] ?? '', { labels, value: Number(found[3]) });
  }
  return families;
}

/** Samples of the last ten minutes. */
export class Measured {
  #samples = [];

  /** Adds a sample. A process that has started anew begins from nothing. */
  add(time, families) {
    const last = this.#samples.at(-1);
    if (last && total(families, 'chat_calls_total') < total(last.families, 'chat_calls_total')) this.#samples = [];
    this.#samples.push({ time, families });
    while (this.#samples[0].time < time - KEPT_FOR) this.#samples.shift();
  }

  /** The newest value of a family, all its series together. */
  now(family) {
    const last = this.#samples.at(-1);
    return last?.families.has(family) ? total(last.families, family) : undefined;
  }

  /** The newest values of a family, with their labels. */
  each(family) {
    return [...(this.#samples.at(-1)?.families.get(family)?.values() ?? [])];
  }

  /** How much a counter grew in the last seconds, by the values of a label. */
  growth(family, label, seconds) {
    const [from, to] = this.#ends(seconds);
    const grown = new Map();
    for (const [key, { labels, value }] of to?.families.get(family) ?? []) {
      const by = value - (from.families.get(family)?.get(key)?.value ?? 0);
      grown.set(labels[label], (grown.get(labels[label]) ?? 0) + by);
    }
    return grown;
  }

  /** A counter's growth in a second, between each two samples. */
  rates(family) {
    return this.#steps((from, to, seconds) => (total(to, family) - total(from, family)) / seconds);
  }

  /** A gauge in each sample. */
  values(family) {
    return this.#samples.map(({ time, families }) => [time, total(families, family)]);
  }

  /** A quantile of a histogram, in seconds, between each two samples. There is none where nothing was observed. */
  quantiles(family, quantile, filter = {}) {
    return this.#steps((from, to) => quantileOf(buckets(from, to, family, filter), quantile));
  }

  /** The same over the last seconds, by the values of a label, with how often there was something to observe in a second. */
  slowest(family, label, quantile, seconds) {
    const [from, to] = this.#ends(seconds);
    if (!to || from === to) return [];
    const rows = [];
    const names = new Set([...(to.families.get(`${family}_count`)?.values() ?? [])].map(({ labels }) => labels[label]));
    for (const name of names) {
      const counted = buckets(from.families, to.families, family, { [label]: name });
      const count = counted.at(-1)?.count ?? 0;
      if (count > 0) {
        const rate = (count * 1000) / (to.time - from.time);
        rows.push({ name, rate, half: quantileOf(counted, 0.5), most: quantileOf(counted, quantile) });
      }
    }
    return rows.sort((a, b) => b.most - a.most);
  }

  #ends(seconds) {
    const to = this.#samples.at(-1);
    const from = this.#samples.find(({ time }) => time >= to.time - seconds * 1000);
    return [from, to];
  }

  #steps(of) {
    const steps = [];
    for (let at = 1; at < this.#samples.length; at += 1) {
      const [from, to] = [this.#samples[at - 1], this.#samples[at]];
      steps.push([to.time, of(from.families, to.families, (to.time - from.time) / 1000)]);
    }
    return steps;
  }
}

function total(families, family) {
  let sum = 0;
  for (const { value } of families.get(family)?.values() ?? []) sum += value;
  return sum;
}

/** How many observations were at most as large as each bound, between two samples. */
function buckets(from, to, family, filter) {
  const counts = new Map();
  for (const [key, { labels, value }] of to.get(`${family}_bucket`) ?? []) {
    if (Object.entries(filter).some(([name, wanted]) => labels[name] !== wanted)) continue;
    const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
    const before = from.get(`${family}_bucket`)?.get(key)?.value ?? 0;
    counts.set(bound, (counts.get(bound) ?? 0) + value - before);
  }
  return [...counts].map(([bound, count]) => ({ bound, count })).sort((a, b) => a.bound - b.bound);
}

/** A quantile of what was counted up to each bound, as Prometheus does it: evenly spread within a bucket, and the highest bound for what is beyond it. */
export function quantileOf(counted, quantile) {
  const all = counted.at(-1)?.count ?? 0;
  if (all === 0) return undefined;
  const wanted = all * quantile;
  let low = { bound: 0, count: 0 };
  for (const high of counted) {
    if (high.count >= wanted) {
      if (high.bound === Infinity) return low.bound;
      const share = high.count === low.count ? 1 : (wanted - low.count) / (high.count - low.count);
      return low.bound + (high.bound - low.bound) * share;
    }
    low = high;
  }
  return low.bound;
}
