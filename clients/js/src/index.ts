import { Chat } from './chat.js';
import type { Options } from './types.js';

export { ChatError } from './errors.js';
export type { Chat } from './chat.js';
export type { Channel } from './channel.js';
export type * from './types.js';

/**
 * Connects, logs in, and stays logged in. If the address is a list, the next one is tried at each attempt. `http` means `ws`, and
 * without a path it is `/ws`.
 *
 * Throws an `Error` if the address or the options cannot work at all.
 */
export const connect = (url: string | readonly string[], options: Options): Chat => new Chat(url, options);
