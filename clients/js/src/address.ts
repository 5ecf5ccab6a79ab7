/** The WebSocket address that an app means. Not every platform has `URL`, so a pattern reads it. */
function address(url: unknown): string {
  const parts = /^(?:ws|http)(s?):\/\/([^\s/?#]+)(\/[^\s?#]*)?(\?[^\s#]*)?$/i.exec(String(url));
  if (!parts) throw new Error(`"${url}" is no address of a chat, such as "https://chat.example" or "wss://chat.example/ws"`);
  const [, secure, host, path = '/', query = ''] = parts;
  return `ws${secure!.toLowerCase()}://${host}${path === '/' ? '/ws' : path}${query}`;
}

/** All addresses, in the order in which they are tried. */
export function addresses(url: string | readonly string[]): string[] {
  // Of an empty list, its first address is no address.
  return (url.length ? [url].flat() : ['']).map(address);
}
