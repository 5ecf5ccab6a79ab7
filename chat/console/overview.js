// What an operator looks at first: what needs attention, what is slow, and which connectors there are.

import { call } from './calls.js';
import { Chart } from './chart.js';
import { Connectors, isThere } from './connectors.js';
import { ago, confirmed, count, duration, explain, facts, make, name, outcome, replace, table } from './parts.js';

const STATES = {
  CONNECTOR_STATE_LIVE: 'live',
  CONNECTOR_STATE_DRAINING: 'draining',
  CONNECTOR_STATE_UNANSWERED: 'does not answer',
  CONNECTOR_STATE_DEAD: 'dead',
};
const DAY = 86_400;

export class Overview {
  title = 'Overview';
  element;
  #measured;
  #connectors = new Connectors();
  #attention = make('ul', { className: 'attention' });
  #tiles = make('dl', { className: 'tiles' });
  #slow = make('div');
  #listed = make('div');
  #outcome = outcome();
  #charts = {
    messages: new Chart('Messages stored by this chat, in a second', count),
    calls: new Chart('Time of its calls', duration),
    connections: new Chart('Clients of each connector', count),
    requests: new Chart('Requests to each connector, in a second', count),
    lags: new Chart('Age of messages at the sockets of each connector, 99 % below', duration),
    refused: new Chart('Calls that this chat refused, in a second', count),
  };

  constructor(measured) {
    this.#measured = measured;
    const charts = Object.values(this.#charts).map((it) => it.element);
    this.element = make(
      'div',
      {},
      make('section', { ariaLabel: 'What needs attention' }, make('h2', {}, 'What needs attention'), this.#attention),
      make('section', { ariaLabel: 'Now' }, this.#tiles),
      make('section', { className: 'charts', ariaLabel: 'The last ten minutes' }, ...charts),
      make('section', {}, make('h2', {}, 'Connectors'), this.#listed, this.#outcome.line),
      make('section', {}, make('h2', {}, 'Slowest calls of this chat in the last minute'), this.#slow),
    );
  }

  /** Shows what was measured last. `conditions` are those of readiness. */
  async update(conditions) {
    await this.#connectors.ask();
    this.#showAttention(conditions);
    this.#showTiles();
    this.#showCharts();
    this.#showConnectors();
    this.#showSlow();
  }

  #showAttention(conditions) {
    const lines = [];
    const bad = (...parts) => lines.push(make('li', { className: 'bad' }, ...parts));
    const warn = (...parts) => lines.push(make('li', { className: 'warning' }, ...parts));
    for (const { text } of conditions.filter((it) => !it.isMet)) bad(`This chat is not ready. ${text}.`);
    const { list, rulesHash, refusal } = this.#connectors;
    if (refusal) warn(`The connectors cannot be listed: ${explain(refusal)}`);
    for (const it of list) {
      if (it.state === 'CONNECTOR_STATE_DEAD') warn('Connector ', name(it.name), ' has ended or was declared dead; what it left behind is being removed.');
      if (it.state === 'CONNECTOR_STATE_UNANSWERED') bad('Connector ', name(it.name), ' does not answer.');
      if (it.state === 'CONNECTOR_STATE_DRAINING') warn('Connector ', name(it.name), ' is draining.');
      if (it.rulesHash && it.rulesHash !== rulesHash) bad('Connector ', name(it.name), ' has other rules of channels than this chat.');
    }
    const versions = new Set(list.map((it) => it.version).filter(Boolean));
    if (versions.size > 1) warn(`Connectors of several versions run: ${[...versions].join(', ')}.`);
    for (const [reason, times] of this.#measured.growth('chat_refusals_total', 'reason', 60)) {
      if (times > 0) warn(`Refused ${count(times)} times in the last minute: ${reason}.`);
    }
    for (const [reason, times] of this.#measured.growth('redis_connections_lost_total', 'reason', 300)) {
      if (times > 0) bad(`Connections to Redis lost in the last five minutes: ${count(times)} (${reason}).`);
    }
    const limits = new Map(this.#measured.each('redis_memory_limit_bytes').map(({ labels, value }) => [labels.server, value]));
    for (const { labels, value } of this.#measured.each('redis_memory_used_bytes')) {
      const share = value / limits.get(labels.server);
      if (share > 0.8 && share < Infinity) bad(`Redis ${labels.server} uses ${Math.round(share * 100)} % of its memory. When that is full, it refuses every message.`);
    }
    for (const { labels, value } of this.#measured.each('certificate_expiry_timestamp_seconds')) {
      const left = value - Date.now() / 1000;
      if (value > 0 && left < 30 * DAY) bad(left > 0 ? `The certificate ${labels.role} of this chat ends in ${duration(left)}.` : `The certificate ${labels.role} of this chat has ended.`);
    }
    if (lines.length === 0) lines.push(make('li', { className: 'good' }, 'Nothing stands out.'));
    replace(this.#attention, lines);
  }

  #showTiles() {
    const there = this.#connectors.there();
    const sum = (field) => there.reduce((all, it) => all + Number(it[field] ?? 0), 0);
    const rate = (family) => this.#measured.rates(family).at(-1)?.[1];
    const sends = this.#measured.quantiles('chat_call_duration_seconds', 0.99, { method: 'chat.v1.ChatService/Send' });
    const known = this.#connectors.refusal === undefined;
    const tiles = [
      ['Connectors', known ? count(there.length) : '–'],
      ['Clients', known ? count(sum('connections')) : '–'],
      ['Sessions', known ? count(sum('sessions')) : '–'],
      ['Messages/s', count(rate('chat_publications_total'))],
      ['Calls/s', count(rate('chat_calls_total'))],
      ['Sends of back ends, p99', duration(sends.at(-1)?.[1])],
      ['Watchers', count(this.#measured.now('chat_watchers'))],
    ];
    replace(this.#tiles, facts(tiles));
  }

  #showCharts() {
    const m = this.#measured;
    const { messages, calls, connections, requests, lags, refused } = this.#charts;
    messages.show([
      { name: 'stored', points: m.rates('chat_publications_total') },
      { name: 'ephemeral', points: m.rates('chat_ephemerals_total') },
    ]);
    calls.show([
      { name: 'half below', points: m.quantiles('chat_call_duration_seconds', 0.5, {}) },
      { name: '99 % below', points: m.quantiles('chat_call_duration_seconds', 0.99, {}) },
    ]);
    connections.show(this.#connectors.connections());
    requests.show(this.#connectors.requests());
    lags.show(this.#connectors.lags());
    refused.show([{ name: 'refused', points: m.rates('chat_refusals_total') }]);
  }

  #showConnectors() {
    const { list, refusal } = this.#connectors;
    const rows = list.map((it) => {
      const { requests, lag } = this.#connectors.now(it);
      const state = STATES[it.state] ?? it.state;
      const drain = make('button', { type: 'button', className: 'quiet', onclick: () => this.#drain(it), ariaLabel: `Drain ${it.name}` }, 'Drain');
      return [
        name(it.name),
        make('span', { className: `state ${it.state === 'CONNECTOR_STATE_LIVE' ? 'good' : 'warning'}` }, state),
        it.connections === undefined && !isThere(it) ? '–' : count(Number(it.connections ?? 0)),
        count(Number(it.sessions ?? 0)),
        count(requests),
        duration(lag),
        it.startTime ? ago(it.startTime) : '–',
        it.version || '–',
        it.state === 'CONNECTOR_STATE_LIVE' ? drain : '',
      ];
    });
    replace(this.#listed, [
      table('Connectors', ['Name', 'State', '#Clients', '#Sessions', '#Requests/s', '#Age, 99 %', '#Runs for', 'Version', ''], rows, refusal ? 'Not known' : 'There is no connector'),
    ]);
  }

  async #drain(connector) {
    const { name: text, incarnation } = connector;
    const clients = count(Number(connector.connections ?? 0));
    const sure = await confirmed(`Drain ${text}?`, `Its process stops. Its ${clients} clients are told to connect elsewhere, one after another.`, 'Drain it');
    if (!sure) return;
    try {
      await call('NodeService/DrainConnector', { connector: text, incarnation });
      this.#outcome.show(`${text} drains.`);
    } catch (error) {
      this.#outcome.show(explain(error), true);
    }
    this.#connectors.askAgain();
  }

  #showSlow() {
    const rows = this.#measured.slowest('chat_call_duration_seconds', 'method', 0.99, 60);
    const shown = rows.filter(({ name: method }) => !/Watch$|SendStream$/.test(method)).slice(0, 10);
    const redis = this.#measured.slowest('redis_call_duration_seconds', 'script', 0.99, 60).slice(0, 10);
    const cells = ({ name: method, rate, half, most }) => [method, count(rate), duration(half), duration(most)];
    const tables = [table('Slowest calls', ['Call', '#In a second', '#Half below', '#99 % below'], shown.map(cells), 'There was no call')];
    if (redis.length > 0) tables.push(table('Slowest scripts of Redis', ['Script of Redis', '#In a second', '#Half below', '#99 % below'], redis.map(cells)));
    replace(this.#slow, tables);
  }
}
