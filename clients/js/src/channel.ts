import { Call } from './call.js';
import { request, type Connection, type Push, type Reply } from './connection.js';
import { Emitter } from './emitter.js';
import { ChatError, failure } from './errors.js';
import { Outbox, type Budget } from './outbox.js';
import { pending } from './pending.js';
import { Reader } from './reader.js';
import type { Store } from './store.js';
import { Typing } from './typing.js';
import type {
  ChannelEvent,
  ChannelEvents,
  HistoryOptions,
  JoinResult,
  LostEvent,
  Member,
  Position,
  SendOptions,
  Sent,
} from './types.js';

const PUBLISH = 'chat.handler.publish';
/** While so many requests wait for an answer, an ephemeral message is not worth the wait. */
const BUSY = 100;

/** What a channel needs of its chat. */
export interface Host {
  /** Set while logged in. */
  readonly _online: Connection | undefined;
  /** Set once the chat is closed. */
  readonly _closed: ChatError | undefined;
  readonly _store: Store;
  readonly _budget: Budget;
  readonly _longestPauseMs: number;
  readonly _keyLifeMs: number;
  /** A key that no other message has. */
  _newKey(): string;
}

/** A join that somebody waits for. */
interface Joining {
  promise?: Promise<JoinResult>;
  readonly resolve: (result: JoinResult) => void;
  readonly reject: (why: ChatError) => void;
}

const isSame = (one: Position, other: Position) => one.epoch === other.epoch && one.offset === other.offset;

/** What a publication is to the app. `undefined`: nothing. */
function logged({ route, body, epoch, offset, time }: any): ChannelEvent | undefined {
  const { userId, info } = body ?? {};
  const where = { userId, epoch, offset, time };
  // Without a route it only keeps the place of a message of our own that was for the others.
  if (!route || route === 'onDeleted') return undefined;
  if (route === 'onJoin') return { type: 'join', ...where, ...(info && { info }) };
  if (route === 'onLeave') return { type: 'leave', ...where };
  return { type: 'message', route, body, ...where };
}

/**
 * One channel. `join` makes the session a member, and from then on it stays one through every reconnect, until `leave`. Each
 * message, join and leave is given exactly once and in the order of the channel. If that is impossible, `lost` says so.
 */
export class Channel implements AsyncIterable<ChannelEvent> {
  readonly name: string;
  readonly #host: Host;
  readonly #emitter = new Emitter<ChannelEvents>();
  readonly #readers = new Set<Reader>();
  readonly #outbox: Outbox;
  readonly #typing: Typing;
  /** What is asked about the channel, and may be asked again. */
  readonly #calls = new Set<Call>();
  /** We want to be a member. */
  #isWanted = false;
  /** We are a member, on this connection. */
  #isIn = false;
  /** We have been a member, and were not told that this has ended. */
  #wasIn = false;
  /** The log says that the channel was deleted, and nothing has come since. */
  #isDeleted = false;
  #joining: Joining | undefined;
  #join: Call | undefined;
  #leave: { call: Call; done: () => void } | undefined;

  /** @internal */
  constructor(name: string, host: Host) {
    this.name = name;
    this.#host = host;
    this.#outbox = new Outbox(host._budget, host._longestPauseMs, host._keyLifeMs, () => this.#ready);
    this.#typing = new Typing((userId, typing) => this.#emitter._emit('typing', { userId, typing }));
  }

  /** Calls a function for each event of this name. Returns a function that ends this. */
  on<Name extends keyof ChannelEvents>(name: Name, call: (event: ChannelEvents[Name]) => unknown): () => void {
    return this.#emitter._on(name, call);
  }

  /** The messages, joins, leaves and losses from now on, until we are out of the channel. At most 10,000 wait for the loop. */
  [Symbol.asyncIterator](): AsyncIterableIterator<ChannelEvent> {
    const reader = new Reader((it) => this.#readers.delete(it));
    if (this.#host._closed) reader._end();
    else this.#readers.add(reader);
    return reader;
  }

  /**
   * Becomes a member, and stays one. Fulfilled once this is so; it waits while there is no connection. Fails with the reason
   * for which the server refuses it for good, with `LEFT`, or with `CLOSED`.
   *
   * The channel begins after `since`, or where an earlier page of the same storage was, or now. If we are a member already,
   * `since` does not count.
   */
  join({ since }: { since?: Position | undefined } = {}): Promise<JoinResult> {
    if (this.#host._closed) return Promise.reject(this.#host._closed);
    if (this.#isIn) return Promise.resolve({ position: this.#position!, recovered: true, replayed: 0 });
    if (!this.#joining) {
      const promise = pending<JoinResult>((resolve, reject) => (this.#joining = { resolve, reject }));
      Object.assign(this.#joining!, { promise });
    }
    // What was asked for first counts: it may be under way.
    if (since && !this.#isWanted) this.#position = since;
    this.#isWanted = true;
    this.#enter();
    return this.#joining!.promise!;
  }

  /**
   * Ends the membership. Nothing comes from this channel any more, from the call on. Fulfilled when the others were told, or
   * when the connection ended, which has the same effect a little later.
   */
  async leave(): Promise<void> {
    const connection = this.#isIn || this.#join ? this.#host._online : undefined;
    this.#out(failure('LEFT', 'leave() was called'));
    if (connection) {
      await pending<void>((resolve, reject) => {
        const done = () => {
          this.#leave?.call._stop();
          this.#leave = undefined;
          resolve();
          this.#enter();
        };
        const call = this.#call('chat.handler.leave', {}, ({ code, reason, ...rest }) => {
          done();
          // In both cases we are out.
          if (code && reason !== 'NOT_JOINED' && reason !== 'LEAVE_PENDING') reject(new ChatError({ code, reason, ...rest }));
        });
        this.#leave = { call, done };
        call._start(connection);
      });
    }
  }

  /**
   * Sends a message. Fulfilled when it is stored. While there is no connection it waits. Messages of one channel are stored
   * in the order of the calls, each once, however often the connection is lost.
   *
   * Fails with the reason for which the server refuses it, or with `UNKNOWN`, `QUEUE_FULL`, `TOO_BIG`, `CLOSED`.
   */
  send(body: object, { excludeSelf }: SendOptions = {}): Sent {
    const key = this.#host._newKey();
    const promise = pending<{ key: string }>((resolve, reject) => {
      if (this.#host._closed) throw this.#host._closed;
      if (!body || typeof body !== 'object') throw failure('INVALID_BODY', 'the body of a message must be an object');
      // Made into text now, so the caller may go on using the object.
      const text = request(PUBLISH, { channel: this.name, body, excludeSelf }, key);
      this.#outbox._add(text, () => resolve({ key }), reject);
    });
    return Object.assign(promise, { key });
  }

  /**
   * Sends a message that is not kept, to those who are there now. True if it was given to the connection. It is never kept
   * for later and never repeated.
   */
  ephemeral(body: object): boolean {
    return this.#ephemeral(body);
  }

  /**
   * Tells the others that we are typing, or are not any more. Call it for each key that is pressed: it sends at most one sign
   * in three seconds.
   */
  typing(on = true): void {
    if (this.#isIn && this.#typing._say(on)) this.#ephemeral({ typing: on }, true);
  }

  /** Everybody who is in the channel. */
  async members(): Promise<Member[]> {
    const members: Member[] = [];
    let pageToken = '';
    do {
      const page = await this.#ask('chat.handler.members', { pageToken, pageSize: 1_000 });
      members.push(...page.members);
      pageToken = page.nextPageToken;
    } while (pageToken);
    return members;
  }

  /**
   * What the log holds, page by page, as the loop goes on. If a page does not continue what came before, `lost` stands at
   * this place.
   */
  async *history({ newestFirst = true, from, pageSize }: HistoryOptions = {}): AsyncGenerator<ChannelEvent, void, void> {
    for (let at = from, more = true; more; ) {
      const page: Reply = await this.#ask('chat.handler.history', { newestFirst, from: at, pageSize });
      if (at && page.continuity !== 'contiguous') yield { type: 'lost', reason: page.continuity, from: at, to: page.position };
      for (const publication of page.publications) {
        const { epoch, offset } = publication;
        at = { epoch, offset };
        const event = logged(publication);
        if (event) yield event;
      }
      more = page.more && page.publications.length;
    }
  }

  get #position(): Position | undefined {
    return this.#host._store._position(this.name);
  }

  set #position(position: Position | undefined) {
    this.#host._store._move(this.name, position);
  }

  /** The chat is logged in. @internal */
  _online(): void {
    this.#enter();
    this.#go();
  }

  /** The connection has ended. @internal */
  _offline(): void {
    this.#isIn = false;
    this.#isDeleted = false;
    this.#stopJoining();
    this.#leave?.done();
    this.#outbox._stop();
    for (const call of this.#calls) call._stop();
  }

  /** The chat is closed for good. @internal */
  _close(why: ChatError): void {
    this.#outbox._fail(why);
    this.#out(why, true);
  }

  /** A back end, or our token, has made us a member. @internal */
  _added(position: Position): void {
    // We have asked to leave, so this is over.
    if (this.#leave) return;
    this.#stopJoining();
    this.#isWanted = true;
    const from = this.#position;
    this.#position = position;
    if (from && !isSame(from, position)) this.#lost('gap', from);
    this.#entered({ position, recovered: !!from && isSame(from, position), replayed: 0 });
  }

  /** A back end has ended our membership. @internal */
  _removed(): void {
    if (this.#isIn) this.#part(this.#isDeleted ? 'DELETED' : 'REMOVED');
  }

  /** Something came in this channel. @internal */
  _push({ route, body, offset, time, ephemeral }: Push): void {
    // We have left by now, or are about to join.
    if (!this.#isIn) return;
    const from = this.#position!;
    if (route === 'onPosition') {
      this.#position = { epoch: body.epoch, offset: body.offset };
      if (body.reason !== 'new-epoch') this.#lost(body.reason, from);
      this.#emitter._emit('position', this.#position);
    } else if (ephemeral) {
      const { userId, typing } = body;
      if (typeof typing === 'boolean') this.#typing._heard(userId, typing);
      else this.#emitter._emit('ephemeral', { route: route!, body, userId, time });
    } else if (offset! > from.offset) {
      const { epoch } = from;
      if (offset !== from.offset + 1) {
        this.#position = { epoch, offset: offset! - 1 };
        this.#lost('gap', from);
      }
      // It counts as given before it is given: a listener may leave and join again.
      this.#position = { epoch, offset: offset! };
      this.#isDeleted = route === 'onDeleted';
      const event = logged({ route, body, epoch, offset, time });
      if (event) {
        if (event.type === 'message') this.#typing._heard(event.userId, false);
        this.#tell(event);
      }
      this.#emitter._emit('position', { epoch, offset: offset! });
    }
  }

  #tell(event: ChannelEvent): void {
    this.#emitter._emit(event.type, event as never);
    for (const reader of this.#readers) reader._push(event);
  }

  #lost(reason: LostEvent['reason'], from: Position): void {
    this.#tell({ type: 'lost', reason, from, to: this.#position! });
  }

  #ephemeral(body: object, excludeSelf?: boolean): boolean {
    const connection = this.#host._online;
    if (!this.#isIn || !connection || connection._unanswered >= BUSY) return false;
    connection._ask(request(PUBLISH, { channel: this.name, body, ephemeral: true, excludeSelf }), () => {});
    return true;
  }

  #call(route: string, body: object, answered: (reply: Reply) => void): Call {
    return new Call(request(route, { channel: this.name, ...body }), this.#host._longestPauseMs, answered);
  }

  /** Asks something that may be asked again, when we are in the channel. */
  #ask(route: string, body: object): Promise<Reply> {
    return pending((resolve, reject) => {
      if (this.#host._closed) throw this.#host._closed;
      const call = this.#call(route, body, (reply) => {
        this.#calls.delete(call);
        if (reply.code) reject(new ChatError(reply));
        else resolve(reply);
      });
      this.#calls.add(call);
      this.#go();
    });
  }

  /** Where the channel can be used: not before we are in, if we want to be. Otherwise the server knows best why it refuses. */
  get #ready(): Connection | undefined {
    return this.#isWanted && !this.#isIn ? undefined : this.#host._online;
  }

  /** Does what waits for the membership. */
  #go(): void {
    const connection = this.#ready;
    this.#outbox._next();
    if (connection) for (const call of this.#calls) call._start(connection);
  }

  /** Asks to become a member, if this is wanted and not under way. */
  #enter(): void {
    const connection = this.#host._online;
    if (!connection || !this.#isWanted || this.#isIn || this.#join || this.#leave) return;
    const since = this.#position;
    const call = this.#call('chat.handler.join', since ? { since } : { positions: true }, (reply) => {
      this.#stopJoining();
      if (!reply.code) {
        // With a position of our own we go on from there: what was missed comes next.
        if (!since) this.#position = reply.position;
        this.#entered(reply as unknown as JoinResult);
      } else this.#part(reply.reason!, reply);
    });
    this.#join = call;
    call._start(connection);
  }

  #entered({ position, recovered, replayed }: JoinResult): void {
    this.#isIn = this.#wasIn = true;
    this.#joining?.resolve({ position, recovered, replayed });
    this.#joining = undefined;
    this.#emitter._emit('joined', { position, recovered });
    this.#go();
  }

  /** We are out, although we did not leave. */
  #part(reason: string, reply?: Reply): void {
    const wasIn = this.#wasIn;
    this.#out(new ChatError(reply ?? { reason }));
    if (wasIn) this.#emitter._emit('parted', { reason, ...(reply?.message && { message: reply.message }) });
    this.#go();
  }

  /** Forgets the membership. */
  #out(why: ChatError, keepPosition = false): void {
    this.#isWanted = this.#isIn = this.#wasIn = false;
    this.#stopJoining();
    if (!keepPosition) this.#position = undefined;
    this.#joining?.reject(why);
    this.#joining = undefined;
    this.#typing._clear();
    for (const reader of this.#readers) reader._end();
  }

  #stopJoining(): void {
    this.#join?._stop();
    this.#join = undefined;
  }
}
