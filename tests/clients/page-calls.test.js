'use strict';

// A real Chromium. A page calls chat over HTTP, with Connect's library for browsers, unmodified. Only the page of the allowed
// origin gets an answer.
//
// CHAT is the address of a running chat: `host:port`. CHROMIUM is the browser's program. PAGE is the port at which the page is
// served here; chat allows the origin http://127.0.0.1:PAGE.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const should = require('should');
const { chromium } = require('playwright-core');

const chat = `http://${process.env.CHAT}`;
const port = Number(process.env.PAGE);
const modules = path.join(__dirname, 'node_modules');
const contract = path.join(__dirname, '../../proto/contract.binpb');

// Where the browser finds the modules that the libraries import by name.
const imports = {};
for (const name of ['', '/codegenv2', '/wire', '/wkt', '/reflect']) {
  imports[`@bufbuild/protobuf${name}`] = `/node_modules/@bufbuild/protobuf/dist/esm${name}/index.js`;
}
for (const name of ['', '/protocol', '/protocol-connect', '/protocol-grpc-web']) {
  imports[`@connectrpc/connect${name}`] = `/node_modules/@connectrpc/connect/dist/esm${name}/index.js`;
}
imports['@connectrpc/connect-web'] = '/node_modules/@connectrpc/connect-web/dist/esm/index.js';

const page = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<script type="importmap">${JSON.stringify({ imports })}</script>
<script type="module">
  import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
  import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
  import { createClient } from '@connectrpc/connect';
  import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';

  const contract = new Uint8Array(await (await fetch('/contract.binpb')).arrayBuffer());
  const service = createFileRegistry(fromBinary(FileDescriptorSetSchema, contract)).getService('chat.v1.ChatService');
  const transports = { connect: createConnectTransport, 'grpc-web': createGrpcWebTransport };

  /** What a call ends with, as text. */
  window.call = async (protocol, method, request) => {
    const client = createClient(service, transports[protocol]({ baseUrl: ${JSON.stringify(chat)} }));
    try {
      const answer = await client[method](request);
      return String(answer.position?.offset ?? answer.left);
    } catch (error) {
      return error.message;
    }
  };

  /** Follows a channel without any library. What has come so far, and how it has ended. */
  window.watch = (channel) => {
    const message = encodeURIComponent(JSON.stringify({ places: [{ channel }], bodyAsStruct: true }));
    const url = ${JSON.stringify(chat)} + '/chat.v1.ChatService/Watch?connect=v1&encoding=json&message=' + message;
    const events = new EventSource(url);
    window.watched = [];
    events.onmessage = ({ data }) => watched.push(Object.keys(JSON.parse(data))[0], JSON.parse(data).publication?.publication.body);
    events.onerror = () => watched.push(events.readyState === EventSource.CLOSED ? 'refused' : 'comes again');
  };
</script>`;

function serve(request, response) {
  const file = request.url === '/contract.binpb' ? contract : path.join(__dirname, path.normalize(request.url));
  if (request.url === '/') {
    response.setHeader('content-type', 'text/html');
    response.end(page);
  } else if (file === contract || file.startsWith(modules)) {
    response.setHeader('content-type', file.endsWith('.js') ? 'text/javascript' : 'application/octet-stream');
    fs.createReadStream(file).pipe(response);
  } else {
    response.statusCode = 404;
    response.end();
  }
}

describe('a page', () => {
  const server = http.createServer(serve);
  let browser;

  before(async () => {
    await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  });

  after(async () => {
    await browser.close();
    server.close();
  });

  async function open(host) {
    const tab = await browser.newPage();
    await tab.goto(`http://${host}:${port}/`);
    await tab.waitForFunction('window.call');
    const run = (...call) => tab.evaluate((call) => window.call(...call), call);
    return Object.assign(run, { tab });
  }

  for (const protocol of ['connect', 'grpc-web']) {
    it(`of an allowed origin calls over ${protocol}`, async () => {
      const call = await open('127.0.0.1');
      const request = { channel: protocol, user: 'page' };
      (await call(protocol, 'join', request)).should.equal('1');
      (await call(protocol, 'send', { ...request, content: { case: 'body', value: { a: 1 } } })).should.equal('2');
      (await call(protocol, 'leave', request)).should.equal('true');
      (await call(protocol, 'send', request)).should.startWith('[invalid_argument] content: ');
    });

    it(`of another origin gets nothing over ${protocol}`, async () => {
      const call = await open('localhost');
      const request = { channel: protocol, user: 'stranger' };
      (await call(protocol, 'join', request)).should.match(/Failed to fetch/);
    });
  }

  it('of an allowed origin follows a channel with EventSource', async () => {
    const call = await open('127.0.0.1');
    const request = { channel: 'watched', user: 'page' };
    await call.tab.evaluate(() => window.watch('watched'));
    await call.tab.waitForFunction(() => window.watched.includes('started'));
    await call('connect', 'send', { ...request, content: { case: 'body', value: { a: '哈' } } });
    await call.tab.waitForFunction(() => window.watched.some((it) => it?.a === '哈' && it.userId === 'page'));
    (await call.tab.evaluate(() => window.watched)).should.not.containEql('comes again');
  });

  it('of another origin cannot follow it', async () => {
    const call = await open('localhost');
    await call.tab.evaluate(() => window.watch('watched'));
    await call.tab.waitForFunction(() => window.watched.length > 0);
    (await call.tab.evaluate(() => window.watched)).should.deepEqual(['refused']);
  });
});
