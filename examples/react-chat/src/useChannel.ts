// A channel for components: what was said, who is there, who is typing, what is on its way, and what was lost.

import { ChatError } from 'global-channels-client';
import type { Channel, ChannelEvent, Chat, JoinEvent, LeaveEvent, LostEvent, Position, State } from 'global-channels-client';
import { useSyncExternalStore } from 'react';

/** What is shown of a channel, in its order: messages, joins, leaves, and where something is missing. */
export interface Entry {
  key: number;
  event: ChannelEvent;
  /** The server has lost it, so nobody else can read it. */
  isGone: boolean;
}

/** A message of our own that has not come back to us yet. */
export interface Outgoing {
  id: string;
  text: string;
  /** `stored`: it is in the log, and comes back to us at its place there. */
  state: 'pending' | 'stored' | 'failed';
  /** Why it has failed. With `UNKNOWN`, it may have been stored. */
  reason?: string;
}

export interface ChannelState {
  connection: State;
  entries: readonly Entry[];
  members: readonly string[];
  typing: readonly string[];
  outbox: readonly Outgoing[];
  /** Why we are not in the channel, if the server has said so. */
  parted?: string | undefined;
}

const EMPTY = { entries: [], members: [], typing: [], outbox: [], parted: undefined };
/** How many older entries are loaded, and how many are shown at most. */
const OLDER = 50;
const MOST = 1_000;

/** Names a message of ours, so that we know it when it comes. Only the members of one channel see it. */
const newId = () => Math.random().toString(36).slice(2);

const reasonOf = (error: unknown) => (error instanceof ChatError ? error.reason : String(error));

/** One channel, as long as a component uses it. */
class Room {
  #state: ChannelState;
  #keys = 0;
  readonly #listeners = new Set<() => void>();
  #stops: (() => void)[] = [];
  /** The joins and leaves that come while the members are being loaded. The list may be older or newer than those. */
  #meanwhile: (JoinEvent | LeaveEvent)[] | undefined;

  constructor(
    readonly chat: Chat,
    readonly channel: Channel,
  ) {
    this.#state = { connection: chat.state, ...EMPTY };
  }

  readonly state = () => this.#state;

  /** The first component that uses the channel joins it, and the last one leaves it. */
  readonly subscribe = (listener: () => void) => {
    this.#listeners.add(listener);
    if (!this.#stops.length) void this.join();
    return () => {
      this.#listeners.delete(listener);
      // In StrictMode, React ends each effect and begins it again at once. That is no reason to leave.
      queueMicrotask(() => this.#listeners.size || this.#leave());
    };
  };

  readonly join = async () => {
    const { chat, channel } = this;
    this.#stop();
    this.#stops = [
      chat.on('state', ({ state }) => this.#set({ connection: state })),
      channel.on('message', (event) => {
        // With it, a message of our own is no longer on its way.
        const outbox = this.#state.outbox.filter(({ id }) => id !== event.body.id);
        this.#set({ outbox, entries: this.#with(event) });
      }),
      channel.on('join', (event) => this.#saw(event)),
      channel.on('leave', (event) => this.#saw(event)),
      channel.on('lost', (event) => this.#lost(event)),
      channel.on('typing', ({ userId, typing }) => {
        const others = this.#state.typing.filter((user) => user !== String(userId));
        this.#set({ typing: typing ? [...others, String(userId)] : others });
      }),
      channel.on('joined', () => void this.#loadMembers()),
      channel.on('parted', ({ reason }) => this.#set({ parted: reason, members: [], typing: [] })),
    ];
    this.#set({ connection: chat.state, entries: [], parted: undefined });
    try {
      const { position, replayed } = await channel.join();
      // What we have missed since before a reload of the tab comes by itself. This loads what was before.
      void this.#loadOlder({ ...position, offset: position.offset - replayed + 1 });
    } catch (error) {
      const reason = reasonOf(error);
      if (reason !== 'LEFT') this.#set({ parted: reason });
    }
  };

  readonly send = (text: string) => this.#send({ id: newId(), text, state: 'pending' });

  readonly retry = ({ id, text }: Outgoing) => this.#send({ id, text, state: 'pending' });

  readonly discard = ({ id }: Outgoing) => this.#set({ outbox: this.#state.outbox.filter((it) => it.id !== id) });

  readonly typing = (on: boolean) => this.channel.typing(on);

  async #send(message: Outgoing) {
    this.discard(message);
    this.#set({ outbox: [...this.#state.outbox, message] });
    const become = (change: Partial<Outgoing>) =>
      this.#set({ outbox: this.#state.outbox.map((it) => (it.id === message.id ? { ...it, ...change } : it)) });
    try {
      await this.channel.send({ content: message.text, id: message.id });
      become({ state: 'stored' });
    } catch (error) {
      become({ state: 'failed', reason: reasonOf(error) });
    }
  }

  #leave() {
    this.#stop();
    this.channel.leave().catch(() => {});
    this.#set(EMPTY);
  }

  #stop() {
    for (const stop of this.#stops) stop();
    this.#stops = [];
  }

  #set(change: Partial<ChannelState>) {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }

  #entry = (event: ChannelEvent): Entry => ({ key: this.#keys++, event, isGone: false });

  #with = (event: ChannelEvent) => [...this.#state.entries, this.#entry(event)].slice(-MOST);

  #saw(event: JoinEvent | LeaveEvent) {
    this.#meanwhile?.push(event);
    this.#set({ entries: this.#with(event), members: after(this.#state.members, event) });
  }

  #lost(event: LostEvent) {
    // After a reload of the tab, nothing is shown yet. What is loaded then has everything that the server still has.
    if (!this.#state.entries.length) return;
    const { reason, from, to } = event;
    const isGone = ({ event: it }: Entry) =>
      reason === 'diverged' && it.type !== 'lost' && it.epoch === from.epoch && it.offset > to.offset;
    const entries = this.#with(event).map((it) => (isGone(it) ? { ...it, isGone: true } : it));
    // A message that was stored does not come back to us if it is among what is missing.
    this.#set({ entries, outbox: this.#state.outbox.filter(({ state }) => state !== 'stored') });
  }

  async #loadOlder(from: Position) {
    const older: Entry[] = [];
    try {
      for await (const event of this.channel.history({ from, pageSize: OLDER })) {
        older.unshift(this.#entry(event));
        if (older.length === OLDER) break;
      }
    } catch {
      // We may not read it, or have left.
    }
    this.#set({ entries: [...older, ...this.#state.entries] });
  }

  async #loadMembers() {
    const meanwhile: (JoinEvent | LeaveEvent)[] = (this.#meanwhile = []);
    try {
      const members = await this.channel.members();
      // After a reconnect, they are being loaded again.
      if (meanwhile !== this.#meanwhile) return;
      this.#meanwhile = undefined;
      this.#set({ members: meanwhile.reduce(after, members.map(({ userId }) => userId)) });
    } catch {
      // We may not read the list. Then it has those who come and go.
    }
  }
}

/** The members after one has come or gone. */
function after(members: readonly string[], { type, userId }: JoinEvent | LeaveEvent): string[] {
  const others = members.filter((it) => it !== String(userId));
  return type === 'join' ? [...others, String(userId)] : others;
}

const rooms = new WeakMap<Channel, Room>();

/** Joins a channel as long as the component is there. Several components may use the same one. */
export function useChannel(chat: Chat, name: string) {
  const channel = chat.channel(name);
  let room = rooms.get(channel);
  if (!room) rooms.set(channel, (room = new Room(chat, channel)));
  const { join, send, retry, discard, typing } = room;
  return { ...useSyncExternalStore(room.subscribe, room.state), join, send, retry, discard, sendTyping: typing };
}
