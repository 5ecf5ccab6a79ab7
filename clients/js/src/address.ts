const EXAMPLE = 'write an address such as "wss://chat.example/ws" or "https://chat.example"';

/** The WebSocket address that an app means. Not every platform has `URL`, so a pattern reads it. */
function address(url: unknown): string {
  const parts = /^(?:ws|http)(s?):\/\/([^\s/?#]+)(\/[^\s?#]*)?(\?[^\s#]*)?$/i.exec(String(url));
  if (!parts) throw new Error(`${url} is no address of a chat: ${EXAMPLE}`);
  const [, secure, host, path = '/', query = ''] = parts;
  return `ws${secure!.toLowerCase()}://${host}${path === '/' ? '/ws' : path}${query}`;
}

/** All addresses, in the order in which they are tried. */
export function addresses(url: string | readonly string[]): string[] {
  const all = [url].flat();
  if (!all.length) throw new Error(`there is no address of a chat: ${EXAMPLE}`);
  return all.map(address);
}
