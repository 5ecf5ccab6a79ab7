// All connectors as they are now, and what they have told over the last ten minutes.

import { CallError, call } from './calls.js';
import { KEPT_FOR, quantileOf } from './measured.js';

/** Asking every connector costs each of them something, so it is done less often than reading this chat's own metrics. */
const ASK_EVERY = 5_000;

/** Whether a connector has clients, or may have them. */
export function isThere({ state }) {
  return state === 'CONNECTOR_STATE_LIVE' || state === 'CONNECTOR_STATE_DRAINING';
}

export class Connectors {
  list = [];
  rulesHash = '';
  /** Why they cannot be listed. */
  refusal;
  #asked = 0;
  /** What each incarnation has told, oldest first. */
  #told = new Map();

  /** Asks them, if the last time is long enough ago. */
  async ask() {
    const now = Date.now();
    if (now - this.#asked < ASK_EVERY) return;
    this.#asked = now;
    try {
      const { connectors = [], rulesHash = '' } = await call('NodeService/ListConnectors');
      [this.list, this.rulesHash, this.refusal] = [connectors, rulesHash, undefined];
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      [this.list, this.refusal] = [[], error];
      return;
    }
    for (const it of this.there()) {
      if (!this.#told.has(it.incarnation)) this.#told.set(it.incarnation, { name: it.name, samples: [] });
      this.#told.get(it.incarnation).samples.push(sample(now, it));
    }
    for (const [incarnation, { samples }] of this.#told) {
      while (samples[0]?.time < now - KEPT_FOR) samples.shift();
      if (samples.length === 0) this.#told.delete(incarnation);
    }
  }

  /** They are asked again at the next opportunity. */
  askAgain() {
    this.#asked = 0;
  }

  there() {
    return this.list.filter(isThere);
  }

  /** Requests in a second, and below what age 99 % of the messages were, both since it was asked before. */
  now({ incarnation }) {
    const samples = this.#told.get(incarnation)?.samples ?? [];
    const [from, to] = samples.slice(-2);
    return to ? { requests: requests(from, to), lag: lag(from, to) } : {};
  }

  /** For charts: a line for each connector. Those with the largest values at present come first. */
  connections() {
    return this.#lines((samples) => samples.map(({ time, connections }) => [time, connections]));
  }

  requests() {
    return this.#lines((samples) => steps(samples, requests));
  }

  lags() {
    return this.#lines((samples) => steps(samples, lag));
  }

  #lines(points) {
    const lines = [...this.#told.values()].map(({ name, samples }) => ({ name, points: points(samples) }));
    const last = ({ points: told }) => told.at(-1)?.[1] ?? -1;
    return lines.sort((a, b) => last(b) - last(a));
  }
}

function sample(time, { connections = 0, requests: over = 0, deliveryLag = [] }) {
  const lags = deliveryLag.map(({ atMost, count = 0 }) => ({
    bound: atMost === undefined ? Infinity : Number(atMost.replace('s', '')),
    count: Number(count),
  }));
  return { time, connections: Number(connections), requests: Number(over), lags };
}

function steps(samples, of) {
  return samples.slice(1).map((to, at) => [to.time, of(samples[at], to)]);
}

function requests(from, to) {
  return ((to.requests - from.requests) * 1000) / (to.time - from.time);
}

function lag(from, to) {
  const before = new Map(from.lags.map(({ bound, count }) => [bound, count]));
  const counted = to.lags.map(({ bound, count }) => ({ bound, count: count - (before.get(bound) ?? 0) }));
  return quantileOf(counted, 0.99);
}
