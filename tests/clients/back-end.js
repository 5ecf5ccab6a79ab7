'use strict';

/** Returns a function that makes one call as a back end, without a token, at the gRPC port of this chat or standalone. */
module.exports = (address) =>
  async function call(method, request) {
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(`http://${address}/chat.v1.${method}`, { method: 'POST', headers, body: JSON.stringify(request) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method}: ${answer.status} ${text}`);
    return JSON.parse(text);
  };
