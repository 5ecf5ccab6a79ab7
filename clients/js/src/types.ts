import type { ChatError } from './errors.js';

/** A place in the log of a channel. Give it back as it is; do not look into `epoch`. */
export interface Position {
  readonly epoch: string;
  readonly offset: number;
}

/** Who somebody is, in the type that the user's own client uses. 5 and "5" are one user. */
export type UserId = string | number;

/** What a sender has put into a message. Only the app knows its fields. */
// With `unknown`, every app would have to write casts.
export type Body = { readonly [name: string]: any };

/** What a platform's WebSocket must have. */
export interface Socket {
  readonly readyState: number;
  onopen: ((event: any) => unknown) | null;
  onmessage: ((event: any) => unknown) | null;
  onclose: ((event: any) => unknown) | null;
  onerror: ((event: any) => unknown) | null;
  send(text: string): void;
  close(code?: number): void;
}

/** A class of WebSockets. */
export type SocketClass = new (url: string) => Socket;

/** Keeps a text, as `localStorage` and `sessionStorage` do. Each function may also return a promise. */
export interface TextStorage {
  getItem(key: string): string | null | undefined | Promise<string | null | undefined>;
  setItem(key: string, text: string): unknown;
  removeItem(key: string): unknown;
}

/** How to connect. An option that is undefined counts as absent. */
export interface Options {
  /** Who you are. Needed, unless there is a `token`. */
  user?: UserId | undefined;
  /**
   * Gets a token for each login and each refresh. It may keep the token as long as it is valid. If it fails, or needs more
   * than `longestPauseMs`, it is called again later. If it returns null, the chat is closed (`NO_TOKEN`).
   */
  token?: (() => string | null | undefined | Promise<string | null | undefined>) | undefined;
  /** Keeps the session through a reload, for example `sessionStorage`. Without it, everything is in memory. */
  storage?: TextStorage | undefined;
  /** The key in the storage. Two chats that share a storage need two. Default: `global-channels`. */
  storageKey?: string | undefined;
  /** For platforms without a `WebSocket` of their own, as Node before 22: the one of the package `ws`. */
  WebSocket?: SocketClass | undefined;
  /** How many bytes all messages that wait may have. Default: 1 MiB. */
  queueBytes?: number | undefined;
  /** Asks for a sign of life when nothing came for so long. Default: 10,000. */
  pingMs?: number | undefined;
  /** Gives a connection up when it does not answer for so long. Default: 5,000. */
  silenceMs?: number | undefined;
  /** The longest pause between attempts. Default: 20,000. */
  longestPauseMs?: number | undefined;
  /** How long the server remembers the key of a message. Default: 300,000, which is what the server does. */
  keyLifeMs?: number | undefined;
}

/** `connecting`, `online` (logged in), `away` (the next attempt comes), or `closed` (for good). */
export type State = 'connecting' | 'online' | 'away' | 'closed';

export interface StateEvent {
  readonly state: State;
  /** Why, with `away` and `closed`. */
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
  /** When the next attempt comes, with `away`. */
  readonly retryInMs?: number | undefined;
  /** The same as an error, with all details. */
  readonly error?: ChatError | undefined;
}

/** A message of a back end for this session alone. */
export interface PushEvent {
  readonly route: string;
  readonly body: Body;
}

/** A back end, or your token, has made you a member of this channel. */
export interface AddedEvent {
  readonly channel: string;
}

export interface ChatEvents {
  state: StateEvent;
  push: PushEvent;
  /** You did not ask for this membership. Listen to the channel now: `joined` and what it holds for you follow at once. */
  added: AddedEvent;
}

/** What all that is in the log of a channel has in common. */
interface Logged extends Position {
  readonly userId: UserId;
  /** When it was published, in milliseconds since 1970. For people: the order is that of the offsets. */
  readonly time: number;
}

export interface ChannelMessage extends Logged {
  readonly type: 'message';
  /** `onMessage`, or what a back end has named. */
  readonly route: string;
  readonly body: Body;
}

/** A user's first session has come. */
export interface JoinEvent extends Logged {
  readonly type: 'join';
  /** What the user's token or a back end tells everybody about the user. */
  readonly info?: Body | undefined;
}

/** A user's last session has gone. */
export interface LeaveEvent extends Logged {
  readonly type: 'leave';
}

/**
 * Something is missing, so reload what you show:
 * - `diverged`: the server has lost its last publications. Forget what came after `to`.
 * - `trimmed`: what you missed is no longer kept.
 * - `unknown`: the log has begun again.
 * - `skipped`: the operator has set that those who come back do not get everything.
 * - `gap`: publications are missing, and nobody said why.
 * - `overflow`: this reader was too slow. Only `for await` says this.
 */
export interface LostEvent {
  readonly type: 'lost';
  readonly reason: 'diverged' | 'trimmed' | 'unknown' | 'skipped' | 'gap' | 'overflow';
  /** Up to here, nothing is missing. */
  readonly from: Position;
  /** From here on, nothing is missing. */
  readonly to: Position;
}

/** What `for await` gives. */
export type ChannelEvent = ChannelMessage | JoinEvent | LeaveEvent | LostEvent;

/** A message that is not kept. */
export interface EphemeralEvent {
  readonly route: string;
  readonly body: Body;
  readonly userId: UserId;
  readonly time: number;
}

export interface TypingEvent {
  readonly userId: UserId;
  readonly typing: boolean;
}

export interface JoinedEvent {
  /** Where the channel stands. What was missed up to there comes next. */
  readonly position: Position;
  /** True: nothing is missing since the last time. */
  readonly recovered: boolean;
}

export interface PartedEvent {
  /** `REMOVED`, `DELETED`, or the reason for which the server refused to let us in again. */
  readonly reason: string;
  readonly message?: string | undefined;
}

export interface ChannelEvents {
  message: ChannelMessage;
  join: JoinEvent;
  leave: LeaveEvent;
  lost: LostEvent;
  ephemeral: EphemeralEvent;
  typing: TypingEvent;
  /** We are in the channel, for the first time or again. */
  joined: JoinedEvent;
  /** We are out of the channel, although we did not leave. */
  parted: PartedEvent;
  /** Up to here, everything was given. */
  position: Position;
}

export interface JoinResult extends JoinedEvent {
  /** How many publications come to bring you up to date. */
  readonly replayed: number;
}

export interface Member {
  readonly userId: string;
  /** The number of the user's connections in this channel. */
  readonly sessions: number;
  readonly info?: Body;
}

export interface SendOptions {
  /** All members get the message, but not your own connections. */
  excludeSelf?: boolean | undefined;
}

/** Fulfilled when the message is stored. `key` names the message, and is known at once. */
export type Sent = Promise<{ readonly key: string }> & { readonly key: string };

export interface HistoryOptions {
  /** True (the default): from the newest backwards. False: what follows `from`. */
  newestFirst?: boolean | undefined;
  /** Begins before this position, or after it. */
  from?: Position | undefined;
  /** How many publications each request asks for: 1 to 1,000. Default: 50. */
  pageSize?: number | undefined;
}
