import { Call } from './call.js';
import { Calls } from './calls.js';
import { request, type Connection } from './connection.js';
import { Emitter } from './emitter.js';
import { ChatError, failure } from './errors.js';
import type { Host } from './host.js';
import { ignore } from './ignore.js';
import type { Push, Reply } from './message.js';
import { MOST, Reader } from './reader.js';
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
import { pending, Waiters } from './waiters.js';

/** While so many requests wait for an answer, an ephemeral message is not worth the wait. */
const BUSY = 100;

/** What a publication is to the app. `undefined`: nothing. */
function logged({ route, body, epoch, offset, time }: any): ChannelEvent | undefined {
  const { userId, info } = body ?? {};
  const where = { userId, epoch, offset, time };
  // Without a route it only keeps the place of a message of our own that was for the others.
  if (!route || route === 'onDeleted') return undefined;
  if (route === 'onJoin') return { type: 'join', ...where, info };
  if (route === 'onLeave') return { type: 'leave', ...where };
  return { type: 'message', route, body, ...where };
}

/**
 * One channel. `join` makes the session a member, and from then on it stays one through every reconnect, until `leave`. Each
 * message, join and leave is given exactly once and in the order of the channel. If that is impossible, `lost` says so.
 */
export class Channel extends Emitter<ChannelEvents> implements AsyncIterable<ChannelEvent> {
  readonly name: string;
  readonly #host: Host;
  readonly #readers = new Set<Reader>();
  /** For the first loop, if nobody listened when we became a member: what has come until it begins. */
  #first: Reader | undefined;
  readonly #messages: Calls;
  /** What is asked about the channel. */
  readonly #reads: Calls;
  readonly #typing: Typing;
  /** We want to be a member. */
  #isWanted = false;
  /** We are a member, on this connection. */
  #isIn = false;
  /** We have been a member, and were not told that this has ended. */
  #wasIn = false;
  /** The log says that the channel was deleted, and nothing has come since. */
  #isDeleted = false;
  /** Who waits for the membership, and for its end. */
  readonly #joining = new Waiters<JoinResult>();
  readonly #leaving = new Waiters<void>();
  /** What is under way of both. */
  #join: Call | undefined;
  #leave: Call | undefined;

  /** @internal */
  constructor(name: string, host: Host) {
    super();
    this.name = name;
    this.#host = host;
    const ready = () => this.#ready;
    this.#messages = new Calls(host, ready, host._settings.keyLifeMs);
    this.#reads = new Calls(host, ready);
    this.#typing = new Typing((userId, typing) => this._emit('typing', { userId, typing }));
  }

  /**
   * The messages, joins, leaves and losses from now on, until we are out of the channel. At most 10,000 wait for the loop. If
   * nobody listened when we became a member, the first loop begins there, and at most 1,000 wait until it does.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<ChannelEvent> {
    const reader = this.#first ?? new Reader();
    this.#first = undefined;
    reader._most = MOST;
    if (this.#host._closed) reader._end();
    this.#readers.add(reader);
    return reader._read(() => this.#readers.delete(reader));
  }

  /**
   * Becomes a member, and stays one. Fulfilled once this is so; it waits while there is no connection. Fails with the reason
   * for which the server refuses it for good, with `LEFT`, or with `CLOSED`.
   *
   * The channel begins after `since`, or where an earlier page of the same storage was, or now. If we are a member already,
   * `since` does not count.
   */
  join({ since }: { since?: Position | undefined } = {}): Promise<JoinResult> {
    if (this.#isIn) return Promise.resolve({ position: this.#position!, recovered: true, replayed: 0 });
    const { _closed } = this.#host;
    if (!_closed) {
      // What was asked for first counts: it may be under way.
      if (since && !this.#isWanted) this.#position = since;
      this.#isWanted = true;
      this.#enter();
    }
    return this.#joining._wait(_closed);
  }

  /**
   * Ends the membership. Nothing comes from this channel any more, from the call on. Fulfilled when the others were told, or
   * when the connection ended, which has the same effect a little later.
   */
  async leave(): Promise<void> {
    const wasIn = this.#isIn || this.#join;
    this.#out(failure('LEFT', 'leave() was called'));
    if (wasIn) this.#exit();
    if (this.#leave) await this.#leaving._wait();
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
      if (Object(body) !== body) throw failure('INVALID_BODY', 'a message must be an object');
      // Made into text now, so the caller may go on using the object.
      const text = this.#request('publish', { body, excludeSelf }, key);
      const stored = () => {
        this.#host._online?._prove();
        resolve({ key });
      };
      this.#messages._add(text, stored, reject);
      this.#typing._said(false);
    });
    return Object.assign(promise, { key });
  }

  /**
   * Sends a message that is not kept, to those who are there now. True if it was given to the connection. It never waits, and
   * is never repeated.
   */
  ephemeral(body: object, { excludeSelf }: SendOptions = {}): boolean {
    const connection = this.#isIn && this.#host._online;
    if (!connection || connection._unanswered >= BUSY) return false;
    return connection._ask(this.#request('publish', { body, ephemeral: true, excludeSelf }), ignore);
  }

  /**
   * Tells the others that we are typing, or are not any more. Call it for each key that is pressed: it sends at most one sign
   * in three seconds, and one at once after a message.
   */
  typing(on = true): void {
    if (this.#typing._isDue(on) && this.ephemeral({ typing: on }, { excludeSelf: true })) this.#typing._said(on);
  }

  /** Everybody who is in the channel. */
  async members(): Promise<Member[]> {
    const members: Member[] = [];
    let pageToken = '';
    do {
      const page = await this.#ask('members', { pageToken, pageSize: 1_000 });
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
      const page: Reply = await this.#ask('history', { newestFirst, from: at, pageSize });
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
  _loggedIn(): void {
    this.#enter();
    this.#go();
  }

  /** The connection has ended, or the chat as a whole. @internal */
  _ended(): void {
    this.#isIn = false;
    this.#stopJoining();
    this.#left();
    const { _closed } = this.#host;
    for (const calls of [this.#messages, this.#reads]) calls._stop(_closed);
    if (_closed) this.#out(_closed, true);
  }

  /** A back end, or our token, has made us a member. @internal */
  _added(result: JoinResult): void {
    // We have asked to leave, so this is over.
    if (this.#leave) return;
    this.#isWanted = true;
    this.#host._emit('added', { channel: this.name });
    this.#stopJoining();
    // A listener may have left. Or we are in before we could say where we were: to get what we missed, we come in again.
    if (!this.#isWanted || (this.#position && result.recovered === undefined)) this.#exit();
    else this.#entered(result);
  }

  /** A back end has ended our membership. @internal */
  _removed(): void {
    if (this.#isIn) this.#part({ reason: this.#isDeleted ? 'DELETED' : 'REMOVED' });
  }

  /** Something came in this channel. @internal */
  _push({ route, body, offset, time, ephemeral }: Push): void {
    // We have left by now, or are about to join.
    if (!this.#isIn) return;
    const from = this.#position!;
    if (route === 'onPosition') {
      const { epoch, offset, reason } = body;
      const position = (this.#position = { epoch, offset });
      if (reason !== 'new-epoch') this.#lost(reason, from);
      this._emit('position', position);
    } else if (ephemeral) {
      const { userId, typing } = body;
      if (typeof typing === 'boolean') this.#typing._heard(userId, typing);
      else this._emit('ephemeral', { route: route!, body, userId, time });
    } else if (offset! > from.offset) {
      const { epoch } = from;
      if (offset !== from.offset + 1) {
        this.#position = { epoch, offset: offset! - 1 };
        this.#lost('gap', from);
        // A listener may have left.
        if (!this.#isIn) return;
      }
      // It counts as given before it is given: a listener may leave and join again.
      this.#position = { epoch, offset: offset! };
      this.#isDeleted = route === 'onDeleted';
      const event = logged({ route, body, epoch, offset, time });
      if (event) {
        if (event.type !== 'join') this.#typing._heard(body.userId, false);
        this.#tell(event);
      }
      this._emit('position', { epoch, offset: offset! });
    }
  }

  #tell(event: ChannelEvent): void {
    this._emit(event.type, event as never);
    for (const reader of this.#readers) reader._push(event);
  }

  #lost(reason: LostEvent['reason'], from: Position): void {
    this.#tell({ type: 'lost', reason, from, to: this.#position! });
  }

  #request(route: string, body: object, key?: string): string {
    return request(`chat.handler.${route}`, { channel: this.name, ...body }, key);
  }

  #call(route: string, body: object, answered: (reply: Reply) => void): Call {
    return new Call(this.#request(route, body), this.#host._settings.longestPauseMs, answered);
  }

  /** Asks something that may be asked again, when we are in the channel. */
  #ask(route: string, body: object): Promise<Reply> {
    return pending((...both) => this.#reads._add(this.#request(route, body), ...both));
  }

  /** Where the channel can be used: not before we are in, if we want to be. Otherwise the server knows best why it refuses. */
  get #ready(): Connection | undefined {
    return this.#isWanted && !this.#isIn ? undefined : this.#host._online;
  }

  /** Does what waits for the membership. */
  #go(): void {
    this.#messages._next();
    this.#reads._next();
  }

  /** Asks to become a member, if this is wanted and not under way. */
  #enter(): void {
    const connection = this.#host._online;
    if (!connection || !this.#isWanted || this.#isIn || this.#join || this.#leave) return;
    const since = this.#position;
    const call = this.#call('join', since ? { since } : { positions: true }, (reply) => {
      this.#stopJoining();
      if (reply.code) this.#part(reply);
      else this.#entered(reply as unknown as JoinResult);
    });
    this.#join = call;
    call._start(connection);
  }

  /** Asks to be a member no more. */
  #exit(): void {
    this.#leave = this.#call('leave', {}, () => this.#left());
    this.#leave._start(this.#host._online!);
  }

  /** The connection has ended, or the server has answered. If it refuses a leave for good, we are out, too. */
  #left(): void {
    this.#leave?._stop();
    this.#leave = undefined;
    this.#leaving._resolve();
    this.#enter();
  }

  #entered({ position, recovered = false, replayed = 0 }: JoinResult): void {
    // With a position of our own we go on from there: what was missed comes next.
    this.#position ??= position;
    if (!this.#wasIn && !this.#readers.size && !this._hears('message')) this.#readers.add((this.#first = new Reader()));
    this.#isIn = this.#wasIn = true;
    this.#joining._resolve({ position, recovered, replayed });
    this._emit('joined', { position, recovered });
    this.#go();
  }

  /** We are out, although we did not leave. */
  #part(reply: Omit<Reply, 'code'>): void {
    const wasIn = this.#wasIn;
    const why = new ChatError(reply);
    this.#out(why);
    if (wasIn) this._emit('parted', { reason: why.reason, message: reply.message });
    this.#go();
  }

  /** Forgets the membership. */
  #out(why: ChatError, keepPosition = false): void {
    this.#isWanted = this.#isIn = this.#wasIn = false;
    this.#stopJoining();
    if (!keepPosition) this.#position = this.#first = undefined;
    this.#joining._reject(why);
    this.#typing._clear();
    for (const reader of this.#readers) reader._end();
    this.#readers.clear();
  }

  #stopJoining(): void {
    this.#join?._stop();
    this.#join = undefined;
  }
}
