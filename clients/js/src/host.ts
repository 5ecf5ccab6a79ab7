import type { Connection } from './connection.js';
import type { ChatError } from './errors.js';
import type { Store } from './store.js';
import type { AddedEvent, Options } from './types.js';

/** The options that have a default. */
export const DEFAULTS = {
  storageKey: 'global-channels',
  queueBytes: 2 ** 20,
  pingMs: 10_000,
  silenceMs: 5_000,
  longestPauseMs: 20_000,
  keyLifeMs: 300_000,
};

export type Settings = Options & typeof DEFAULTS;

/** What the channels of a chat need of it. */
export interface Host {
  readonly _settings: Settings;
  readonly _store: Store;
  /** Makes keys that no other message has. */
  readonly _newKey: () => string;
  /** Set while logged in. */
  readonly _online: Connection | undefined;
  /** Set once the chat is closed. */
  readonly _closed: ChatError | undefined;
  /**
   * Takes the bytes that this text needs, of those that all messages which wait may have. Returns a function that gives them
   * back. Throws `QUEUE_FULL`, or `CLOSED`.
   */
  _reserve(text: string): () => void;
  _emit(name: 'added', event: AddedEvent): void;
}
