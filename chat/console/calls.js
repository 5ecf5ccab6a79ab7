// The calls of the contract, through the admin port. They go to the same services as the calls of back ends.

/** Why a call failed: `code` and `message` as chat gives them. */
export class CallError extends Error {
  constructor(code, message) {
    super(message || code);
    this.code = code;
  }
}

const KEPT = 'console-token';
/** Chat ends a connection of the admin port after ten seconds, so a watch is renewed before that, where it stands. */
const WATCH_FOR = 8_000;
/** Longer than any call may take in chat. */
const CALL_FOR = 9_000;

let token = sessionStorage.getItem(KEPT) ?? '';

export function hasToken() {
  return token !== '';
}

export function setToken(text) {
  token = text;
  if (text === '') sessionStorage.removeItem(KEPT);
  else sessionStorage.setItem(KEPT, text);
}

async function ask(method, request, signal) {
  const headers = { 'content-type': 'application/json' };
  if (token !== '') headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(`/console/call/chat.v1.${method}`, { method: 'POST', headers, body: JSON.stringify(request), signal });
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new CallError('unavailable', 'chat does not answer');
  }
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  throw new CallError(refusal.code ?? `http ${answer.status}`, refusal.message);
}

/** Makes a call, for example `ChatService/GetChannel`. Throws a `CallError`. */
export async function call(method, request = {}) {
  const late = AbortSignal.timeout(CALL_FOR);
  try {
    return await (await ask(method, request, late)).json();
  } catch (error) {
    if (error instanceof CallError) throw error;
    throw new CallError('deadline_exceeded', 'chat did not answer in time');
  }
}

/** What happens in a channel, from a position or from now on, until `signal` is aborted. Throws a `CallError`. */
export async function* watch(channel, position, signal) {
  let resume = position !== undefined;
  while (!signal.aborted) {
    const renewed = AbortSignal.any([signal, AbortSignal.timeout(WATCH_FOR)]);
    try {
      const answer = await ask('ChatService/Watch', { places: [{ channel, position }], resume, bodyAsStruct: true }, renewed);
      for await (const event of lines(answer.body)) {
        if (event.error) throw new CallError(event.error.code, event.error.message);
        const told = event.opened ?? event.gap ?? event.publication?.publication;
        if (told?.position) {
          position = told.position;
          resume = true;
        }
        yield event;
      }
    } catch (error) {
      if (error instanceof CallError) throw error;
      if (!renewed.aborted) throw new CallError('unavailable', 'the connection to chat broke');
    }
  }
}

/** The objects of a body with one in each line. */
async function* lines(body) {
  const decoder = new TextDecoder();
  let rest = '';
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const complete = rest.split('\n');
      rest = complete.pop();
      for (const line of complete) if (line !== '') yield JSON.parse(line);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
