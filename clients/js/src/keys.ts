/**
 * Makes keys for messages that nobody else makes. A platform without `crypto` has only `Math.random`, which is not made for
 * this: then two clients of one user could, with bad luck, make the same.
 */
export function keys(): () => string {
  const parts = globalThis.crypto?.getRandomValues(new Uint32Array(4)) ?? Array.from('1234', () => Math.random() * 2 ** 32);
  const chat = Array.from(parts, (part) => Math.floor(part).toString(36)).join('');
  let last = 0;
  return () => `${chat}-${++last}`;
}
