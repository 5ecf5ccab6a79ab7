/**
 * Makes keys that no other message has. Platforms without `crypto.randomUUID` (such as pages without https) have only
 * `Math.random`, which was not made for this. But a key is compared only with those of the last minutes.
 */
export function keys(): () => string {
  const chat = globalThis.crypto?.randomUUID?.() ?? `${Math.random()}${Math.random()}`;
  let last = 0;
  return () => `${chat}-${++last}`;
}
