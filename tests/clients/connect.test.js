'use strict';

// Connect's own client library, unmodified, calls a running chat over each of its protocols. It gets the services from the
// descriptors of the contract, without generated code.
//
// CHAT is the address of a running chat: `host:port`.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const should = require('should');
const { createFileRegistry, fromBinary } = require('@bufbuild/protobuf');
const { FileDescriptorSetSchema } = require('@bufbuild/protobuf/wkt');
const { Code, ConnectError, createClient } = require('@connectrpc/connect');
const {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} = require('@connectrpc/connect-node');

const contract = fs.readFileSync(path.join(__dirname, '../../proto/contract.binpb'));
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, contract));
const service = registry.getService('chat.v1.ChatService');
const baseUrl = `http://${process.env.CHAT}`;

const transports = {
  'Connect, JSON, HTTP/1.1': createConnectTransport({ baseUrl, httpVersion: '1.1' }),
  'Connect, JSON, HTTP/2': createConnectTransport({ baseUrl, httpVersion: '2' }),
  'Connect, protobuf, HTTP/1.1': createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat: true }),
  'Connect, protobuf, HTTP/2': createConnectTransport({ baseUrl, httpVersion: '2', useBinaryFormat: true }),
  'grpc-web, HTTP/1.1': createGrpcWebTransport({ baseUrl, httpVersion: '1.1' }),
  'grpc-web, HTTP/2': createGrpcWebTransport({ baseUrl, httpVersion: '2' }),
  gRPC: createGrpcTransport({ baseUrl }),
};

for (const [name, transport] of Object.entries(transports)) {
  describe(name, () => {
    const client = createClient(service, transport);
    const channel = name;

    it('joins, sends, reads and leaves', async () => {
      const joined = await client.join({ channel, user: 'bot' });
      joined.published.should.equal(true);
      const body = { text: 'hello 哈哈', list: [1, 2.5, null, true, { a: {} }] };
      const sent = await client.send({ channel, user: 'bot', content: { case: 'body', value: body } });
      sent.position.offset.should.equal(2n);
      sent.position.epoch.should.equal(joined.position.epoch);
      Number(sent.publishTime.seconds).should.be.approximately(Date.now() / 1000, 60);

      const page = await client.history({ channel, newestFirst: true, pageSize: 1, bodyAsStruct: true });
      page.publications.length.should.equal(1);
      page.publications[0].content.value.should.deepEqual({ ...body, userId: 'bot' });
      page.nextPageToken.should.not.equal('');

      const { members } = await client.listMembers({ channel }, { timeoutMs: 10_000 });
      members.map(({ user, sessions }) => [user, sessions]).should.deepEqual([['bot', 1]]);
      (await client.leave({ channel, user: 'bot' })).left.should.equal(true);
    });

    it('gets an error with its code, its words and its details', async () => {
      const failed = client.send({ channel, content: { case: 'body', value: {} } });
      const error = await failed.then(() => null, (it) => it);
      should(error).be.instanceof(ConnectError);
      error.code.should.equal(Code.InvalidArgument);
      error.rawMessage.should.startWith('user: ');
      error.details.map(({ type }) => type).should.containEql('google.rpc.BadRequest');
    });
  });
}

// It calls what only reads by GET. Here it calls through a proxy that sees with which methods.
for (const [name, useBinaryFormat] of [['JSON', false], ['protobuf', true]]) {
  describe(`Connect, ${name}, by GET`, () => {
    const seen = [];
    const proxy = http.createServer((request, response) => {
      seen.push([request.method, request.url.split('?')[0].split('/').pop()]);
      const { method, url: path, headers } = request;
      const [host, port] = process.env.CHAT.split(':');
      request.pipe(http.request({ host, port, method, path, headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      }));
    });
    let client;

    before(async () => {
      await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
      const baseUrl = `http://127.0.0.1:${proxy.address().port}`;
      client = createClient(service, createConnectTransport({ baseUrl, httpVersion: '1.1', useHttpGet: true, useBinaryFormat }));
    });

    after(() => {
      proxy.closeAllConnections();
      proxy.close();
    });

    it('reads, and gets errors', async () => {
      const channel = `GET 哈哈 ${name}`;
      await client.send({ channel, user: 'bot', content: { case: 'body', value: { text: '?&+ 哈' } } });
      const page = await client.history({ channel, bodyAsStruct: true });
      page.publications.map(({ content }) => content.value.text).should.deepEqual(['?&+ 哈']);
      const error = await client.listMembers({}).then(() => null, (it) => it);
      should(error).be.instanceof(ConnectError);
      error.rawMessage.should.startWith('channel: ');
      seen.should.deepEqual([['POST', 'Send'], ['GET', 'History'], ['GET', 'ListMembers']]);
    });
  });
}
