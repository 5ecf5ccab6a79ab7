// A bot for one channel: it answers !help, !who and !last N, and greets whoever joins.

import { connect } from 'global-channels-client';
import WebSocket from 'ws'; // Node 22 has a WebSocket of its own. Then leave this out.
import { fileStorage } from './file-storage.js';

const { CHAT_URL = 'http://127.0.0.1:3010', CHANNEL = 'lobby', BOT = 'node-bot', FOLDER = '.' } = process.env;

const chat = connect(CHAT_URL, { user: BOT, storage: fileStorage(FOLDER), WebSocket });
const room = chat.channel(CHANNEL);
const nameOf = ({ userId }) => userId ?? 'the server';
/** Two bots may repeat each other, so an answer must not hold the whole of others. */
const MOST_CHARACTERS = 200;

const commands = {
  help: () => 'I answer !help, !who and !last N.',
  who: async () => `Here are ${(await room.members()).map(nameOf).join(', ')}.`,
  last: async ({ epoch, offset }, count) => {
    const lines = [];
    const most = Math.min(Number(count) || 5, 20);
    for await (const event of room.history({ from: { epoch, offset } })) {
      if (event.type === 'message') lines.unshift(`${nameOf(event)}: ${event.body.content}`.slice(0, MOST_CHARACTERS));
      if (lines.length === most) break;
    }
    return lines.join('\n') || 'Nothing was said before.';
  },
};

room.on('message', async (event) => {
  const [, command, count] = /^!(help|who|last)\b\s*(\d*)/.exec(event.body.content) ?? [];
  if (command && event.userId !== BOT) await room.send({ content: await commands[command](event, count) });
});
room.on('join', async (event) => {
  if (event.userId !== BOT) await room.send({ content: `Welcome, ${nameOf(event)}! Say !help to see what I can do.` });
});
room.on('lost', ({ reason }) => {
  console.error(`lost (${reason}): I was not given all messages, so I may not have answered some.`);
});
room.on('joined', () => console.log(`${BOT} is in ${CHANNEL}.`));
room.on('parted', ({ reason }) => {
  console.error(`I am out of the channel (${reason}).`);
  process.exitCode = 1;
  chat.close();
});
chat.on('state', ({ state, reason = '' }) => {
  console.error(state, reason);
  if (state === 'closed' && reason !== 'CLOSED') process.exitCode = 1;
});

// The storage keeps where the bot was, so the next start answers what was asked meanwhile.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => chat.close());

room.join();
