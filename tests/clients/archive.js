// Writes everything that is published in channels whose names begin with a prefix to a file: each publication once, and
// those of a channel in their order. `node archive.js PREFIX FILE http://HOST:PORT…` takes chats; one that runs is enough.
//
// Each line of the file is an event of Watch: a publication (bodyJson is its body in base64), a gap if publications are
// missing, or the end of a channel. The file also says where to go on. There is no second file that could disagree with it.
const fs = require('node:fs');
const [prefix, file, ...chats] = process.argv.slice(2);

async function* lines(stream) {
  let rest = Buffer.alloc(0);
  for await (const chunk of stream) {
    rest = Buffer.concat([rest, chunk]);
    for (let end; (end = rest.indexOf('\n')) >= 0; rest = rest.subarray(end + 1)) yield rest.subarray(0, end);
  }
}

async function storedPlaces() {
  let [places, complete] = [new Map(), 0];
  for await (const line of lines(fs.createReadStream(file, { flags: 'a+' }))) {
    const [{ channel, publication, position = publication?.position }] = Object.values(JSON.parse(line));
    if (position?.epoch) places.set(channel, { channel, position });
    else places.delete(channel); // It has ended. Its next life is given from the first publication.
    complete += line.length + 1;
  }
  fs.truncateSync(file, complete); // A crash may have left half a line.
  return [...places.values()];
}

async function archive(chat) {
  const body = JSON.stringify({ prefix, resume: true, places: await storedPlaces() });
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${chat}/chat.v1.ChatService/Watch`, { method: 'POST', headers, body });
  if (!response.ok) throw new Error(await response.text());
  for await (const line of lines(response.body)) {
    const { error, publication, gap, ended } = JSON.parse(line);
    if (error) throw new Error(error.message);
    if (publication || gap || ended) fs.appendFileSync(file, `${line}\n`);
  }
}

(async function loop(turn) {
  await archive(chats[turn % chats.length]).catch((error) => console.error('going to the next chat:', error.message));
  setTimeout(loop, 100 + 200 * Math.random(), turn + 1);
})(0);
