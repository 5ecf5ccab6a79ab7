// A program that uses the library as it is told, for tests that run the same scenarios against every client library.
//
// It reads commands from its standard input, and writes answers and events to its standard output, one JSON object a line.
// `client` names a chat of this process. The end of the input closes all chats.
//
//   {"id":1,"client":"ann","do":"connect","url":"ws://…","user":"ann"}     {"answer":1,"ok":null}
//   {"id":2,"client":"ann","do":"join","channel":"4"}                      {"answer":2,"ok":{"position":…}}
//   {"id":3,"client":"ann","do":"send","channel":"4","body":{…}}           {"answer":3,"ok":{"key":…}}
//                                                                          {"client":"ann","channel":"4","event":"message",…}

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { connect } from '../dist/index.js';

// Node before 22 has no WebSocket of its own.
const WebSocket = globalThis.WebSocket ?? (await import('ws')).default;

const clients = new Map();

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Keeps everything in one file, and reads it again each time, as a page that is loaded anew would. */
function fileStorage(file) {
  const read = () => {
    try {
      return JSON.parse(readFileSync(file, 'utf8'));
    } catch {
      return {};
    }
  };
  const write = (items) => {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, JSON.stringify(items));
  };
  return {
    getItem: (key) => read()[key] ?? null,
    setItem: (key, text) => write({ ...read(), [key]: text }),
    removeItem(key) {
      const { [key]: _, ...rest } = read();
      if (Object.keys(rest).length) write(rest);
      else rmSync(file, { force: true });
    },
  };
}

/** A chat, and what has come in its channels. With `quiet`, that is not printed event by event. With `loops`, nobody listens. */
class Client {
  #name;
  #quiet;
  #loops;
  /** By name: what has come, in its order. */
  #seen = new Map();

  constructor({ client, url, user, tokenFile, storageFile, options = {}, quiet = false, loops = false }) {
    this.#name = client;
    this.#quiet = quiet;
    this.#loops = loops;
    this.chat = connect(url, {
      ...options,
      WebSocket,
      ...(user !== undefined && { user }),
      // An empty file or none: there is no token.
      ...(tokenFile && { token: () => readFileSync(tokenFile, 'utf8').trim() }),
      ...(storageFile && { storage: fileStorage(storageFile) }),
    });
    this.chat.on('state', (event) => this.#tell({ event: 'state', ...event, error: undefined }));
    this.chat.on('push', (event) => this.#tell({ event: 'push', ...event }));
  }

  channel(name) {
    const channel = this.chat.channel(name);
    if (!this.#loops && !this.#seen.has(channel.name)) {
      this.#seen.set(channel.name, []);
      this.#watch(channel);
    }
    return channel;
  }

  /** All messages of a channel as `[epoch, offset, userId, content]`, and `["lost", reason]` where something was lost. */
  seen(name) {
    this.channel(name);
    return this.#seen.get(String(name));
  }

  #watch(channel) {
    const seen = this.#seen.get(channel.name);
    channel.on('message', ({ epoch, offset, userId, body }) => seen.push([epoch, offset, userId, body.content]));
    channel.on('lost', ({ reason }) => seen.push(['lost', reason]));
    if (this.#quiet) return;
    for (const name of ['message', 'join', 'leave', 'ephemeral', 'typing', 'joined', 'parted', 'lost', 'position']) {
      channel.on(name, (event) => this.#tell({ channel: channel.name, ...event, event: name, type: undefined }));
    }
  }

  #tell(what) {
    say({ client: this.#name, ...what });
  }
}

/** Sends that many messages without waiting in between, and counts how they ended. */
async function bulk(channel, count, text) {
  const sent = Array.from({ length: count }, (_, number) => channel.send({ content: `${text} ${number}` }));
  const failed = {};
  let stored = 0;
  for (const { status, reason } of await Promise.allSettled(sent)) {
    if (status === 'fulfilled') stored += 1;
    else failed[reason.reason ?? String(reason)] = (failed[reason.reason ?? String(reason)] ?? 0) + 1;
  }
  return { stored, failed };
}

async function carryOut(command) {
  const { client: name, channel, body } = command;
  if (command.do === 'memory') {
    // Twice, because what the first one frees may hold more.
    globalThis.gc?.();
    await new Promise(setImmediate);
    globalThis.gc?.();
    return process.memoryUsage().heapUsed;
  }
  if (command.do === 'connect') {
    clients.set(name, new Client(command));
    return null;
  }
  const client = clients.get(name);
  if (!client) throw new Error(`there is no client ${name}: connect it first`);
  switch (command.do) {
    case 'online':
      return client.chat.online();
    case 'state':
      return client.chat.state;
    case 'join':
      return client.channel(channel).join(command.since ? { since: command.since } : {});
    case 'leave':
      return client.channel(channel).leave();
    case 'send':
      return client.channel(channel).send(body, command.options);
    case 'bulk':
      return bulk(client.channel(channel), command.count, command.text);
    case 'ephemeral':
      return client.channel(channel).ephemeral(body, command.options);
    case 'typing':
      return client.channel(channel).typing(command.on);
    case 'members':
      return client.channel(channel).members();
    case 'history': {
      const { newestFirst, from, pageSize, limit = Infinity } = command;
      const given = Object.entries({ newestFirst, from, pageSize }).filter(([, value]) => value !== undefined);
      const publications = [];
      for await (const publication of client.channel(channel).history(Object.fromEntries(given))) {
        if (publications.push(publication) >= limit) break;
      }
      return publications;
    }
    case 'loop': {
      const contents = [];
      for await (const { type, body } of client.channel(channel)) {
        if (type === 'message') contents.push(body.content);
        if (contents.at(-1) === command.until) break;
      }
      return contents;
    }
    case 'request':
      return client.chat.request(command.route, body, command.key === undefined ? {} : { key: command.key });
    case 'seen':
      return client.seen(channel);
    case 'close':
      clients.delete(name);
      return client.chat.close();
    default:
      throw new Error(`there is no command ${command.do}`);
  }
}

async function answer(line) {
  const command = JSON.parse(line);
  try {
    say({ answer: command.id, ok: (await carryOut(command)) ?? null });
  } catch ({ reason, message, code, retry }) {
    say({ answer: command.id, error: { reason: reason ?? 'ERROR', message, code, retry } });
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => line.trim() && void answer(line));
lines.on('close', () => {
  for (const { chat } of clients.values()) chat.close();
  // What was said before is written first.
  process.stdout.write('', () => process.exit(0));
});
