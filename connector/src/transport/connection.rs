//! Sends frames to one client, in order: at once if the socket takes them, else from a bounded queue.
//!
//! Sending never waits. Normally a batch of frames goes to the kernel in one write, without a copy, a task or a
//! wake-up. Only what the socket does not take is queued, as a slice of one copy that all lagging members of a channel
//! share. A client that exceeds its bound is cut off with a reason, so it never delays others (F11).

pub use crate::limits::QueueLimits;
use crate::metering::{self, Transport};
use crate::transport::outlet::Outlet;
use crate::transport::socket::WriteHalf;
use bytes::{Buf, Bytes};
use channel_store::{SessionId, UserId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::net::{IpAddr, Shutdown};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use wire::{Carrier, Disconnect, Notice, WireFormat};

/// When more than this many bytes of replies are held, they are sent at once.
const HELD: usize = 16 << 10;
/// Sockets are closed in batches of at least this many, with a pause after each. If all clients reconnected in the same
/// moment, they would overload the other connectors.
const CLOSE_BATCH: usize = 1_000;
pub(crate) const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// There are at most this many batches. So however many connections there are, all are closed after two seconds.
const CLOSE_PAUSES: usize = 40;

/// The way out to one client. It is shared by the client's loop, the hub, and the tasks that answer its requests.
pub struct Connection {
    outlet: Outlet,
    format: WireFormat,
    limits: Arc<QueueLimits>,
    queue: Mutex<Queue>,
    ended: Notify,
    owner: OnceLock<(UserId, SessionId)>,
    /// The client's address, if its socket has one.
    peer: OnceLock<IpAddr>,
    /// A member of this connection asked for positions. So its client reads pushes that the original did not have.
    tells_positions: AtomicBool,
    /// The session is out of a channel, and has not looked after that yet.
    is_out: AtomicBool,
}

/// A token, as the client wrote it. It has no `Debug`, so that no log shows it.
struct ShownToken(Box<str>);

#[derive(Default)]
struct Queue {
    /// What the socket has not taken. Boxed, because nothing waits for most connections.
    waiting: Option<Box<Waiting>>,
    /// Replies that are sent together with the next frames, or in a moment without any.
    held: Vec<u8>,
    /// The token that the client showed when it opened the connection. It is kept until the login.
    token: Option<Box<ShownToken>>,
    draining: bool,
    /// Why the connection is closing. From then on only replies and the farewell are sent.
    closing: Option<Disconnect>,
    /// What a back end wants the client to be told.
    notice: Option<Box<Notice>>,
    /// The client has ended its side without a farewell, so it is sent none.
    ended_plainly: bool,
    /// Nothing is sent any more: the farewell was sent, or there is none.
    concluded: bool,
    /// It does not count among the connections any more.
    is_out_of_count: bool,
}

/// Frames that wait until the socket takes them. There is at least one chunk.
#[derive(Default)]
struct Waiting {
    /// Whole frames. Only the beginning of the first chunk may have been written already.
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    /// How many bytes wait.
    fn bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// True if nothing waits.
    fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }
}

impl Connection {
    /// Sends to `outlet`: the writing half of a socket, the mailbox of a polling client, or a stream of events.
    #[must_use]
    pub fn new(
        outlet: impl Into<Outlet>,
        format: WireFormat,
        limits: Arc<QueueLimits>,
    ) -> Arc<Self> {
        Arc::new(Self {
            outlet: outlet.into(),
            format,
            limits,
            queue: Mutex::default(),
            ended: Notify::new(),
            owner: OnceLock::new(),
            peer: OnceLock::new(),
            tells_positions: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
        })
    }

    /// To be called at the login, with the user and the session.
    pub(crate) fn belongs_to(&self, user: &UserId, session: &SessionId) {
        // A connection has one user for all its life (F5).
        let _ = self.owner.set((user.clone(), session.clone()));
        let token = self.queue.lock().token.take();
        drop(token);
        self.outlet.logged_in();
    }

    /// Keeps the token that the client has shown, until its login.
    pub(crate) fn shows(&self, token: Box<str>) {
        self.queue.lock().token = Some(Box::new(ShownToken(token)));
    }

    /// The token that the client has shown when it opened the connection, until its login.
    pub(crate) fn shown_token(&self) -> Option<String> {
        let queue = self.queue.lock();
        let token = queue.token.as_ref();
        token.map(|token| token.0.to_string())
    }

    /// To be called once the other end of the socket is known.
    pub(crate) fn comes_from(&self, peer: IpAddr) {
        // A client that goes over from polls to a socket keeps the address of its first request.
        let _ = self.peer.set(peer);
    }

    /// The client's address, if its socket has one.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        self.peer.get().copied()
    }

    /// The user, from the login on.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.owner.get().map(|(user, _)| user.as_str())
    }

    /// The session, from the login on.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.owner.get().map(|(_, session)| session.as_str())
    }

    /// To be called when a member of this connection asks for positions.
    pub(crate) fn enable_positions(&self) {
        self.tells_positions.store(true, Ordering::Relaxed);
    }

    /// True if a member of this connection has asked for positions, or if all clients of its protocol are told them.
    pub(crate) fn tells_positions(&self) -> bool {
        self.format.tells_positions() || self.tells_positions.load(Ordering::Relaxed)
    }

    /// The session is out of a channel because the channel was deleted. Its loop looks after that soon.
    pub(crate) fn note_out(&self) {
        self.is_out.store(true, Ordering::Release);
        self.wake();
    }

    /// True if the session is out of a channel since the last [`take_out`](Self::take_out).
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }

    /// The same, and from now on only what comes later counts.
    pub(crate) fn take_out(&self) -> bool {
        self.is_out() && self.is_out.swap(false, Ordering::AcqRel)
    }

    /// The format that this client's frames have.
    #[must_use]
    pub fn format(&self) -> WireFormat {
        self.format
    }

    /// Sends whole frames, after everything that was sent before. `shared` is the copy that lagging receivers of the
    /// same frames share. It is `None` at first, and is made at most once. A connection that is closing sends nothing
    /// more.
    pub fn send(self: &Arc<Self>, frames: &[u8], shared: &mut Option<Bytes>) {
        let mut queue = self.queue.lock();
        if queue.closing.is_some() {
            return;
        }
        self.write_bounded(&mut queue, frames, shared);
    }

    /// Writes, and cuts the client off if it exceeds its bound.
    fn write_bounded(
        self: &Arc<Self>,
        queue: &mut Queue,
        frames: &[u8],
        shared: &mut Option<Bytes>,
    ) {
        self.write(queue, frames, shared);
        if queue.bytes() > self.limits.connection()
            || (self.limits.queued() > self.limits.process()
                && (queue.bytes() > 0 || self.outlet.holds()))
        {
            self.forget_rest(queue);
            queue.closing.get_or_insert(Disconnect::Slow);
            self.say_farewell(queue);
            self.ended.notify_waiters();
        }
    }

    /// Returns when so little is queued that older publications may be added, or when the connection is closing. A
    /// client that reads nothing for the stall time is closed meanwhile.
    pub async fn room(&self) {
        if !self.is_behind() {
            return;
        }
        let space = async {
            while self.is_behind() {
                // The task that writes the queue waits for the same, and must run first.
                if self.outlet.writable().await.is_err() {
                    return;
                }
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = self.closed() => {}
            () = space => {}
        }
    }

    /// True if the client has not taken everything that was sent: something is queued.
    pub(crate) fn lags(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// True if so much is queued that no older publications may be added.
    pub(crate) fn is_behind(&self) -> bool {
        self.queue.lock().bytes() > self.share()
    }

    /// The bounds that the queue counts against.
    pub(crate) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// How many bytes may be queued when older publications are added for a member. The rest of the queue is for what
    /// is published meanwhile.
    #[must_use]
    pub fn share(&self) -> usize {
        self.limits.connection() / 8
    }

    /// Replies to a request. Replies and publications of the same moment leave in one write. A connection that is
    /// closing still replies, until its farewell is sent.
    pub fn reply(self: &Arc<Self>, id: u64, body: &[u8]) {
        if self.outlet.answer(id, body) {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.concluded {
            return;
        }
        let is_first = queue.held.is_empty();
        wire::reply(self.format, id, body, &mut queue.held);
        if queue.held.len() > HELD {
            self.write_bounded(&mut queue, &[], &mut None);
        } else if is_first {
            let connection = Arc::clone(self);
            tokio::spawn(async move {
                yield_now().await;
                connection.send(&[], &mut None);
            });
        }
    }

    /// Begins to close. The first reason counts, and nothing more is pushed. The client's loop answers what it has
    /// carried out already, and then [concludes](Self::conclude).
    pub fn close(&self, reason: Disconnect) {
        self.begin_close(reason, false, None);
    }

    /// Begins to close because a back end has asked for it, and in its words. True: nothing had closed the connection
    /// before.
    pub(crate) fn close_for_back_end(&self, reconnect: bool, notice: &Notice) -> bool {
        self.close_saying(Disconnect::ByBackEnd { reconnect }, notice)
    }

    /// Begins to close for this reason, in the words of a back end. True: nothing had closed the connection before.
    pub(crate) fn close_saying(&self, reason: Disconnect, notice: &Notice) -> bool {
        self.begin_close(reason, false, Some(Box::new(notice.clone())))
    }

    /// Like [`close`](Self::close), but the client has ended its side without a farewell. It is sent replies and
    /// nothing else.
    pub(crate) fn close_plainly(&self) {
        self.begin_close(Disconnect::CLOSED, true, None);
    }

    /// True: nothing had closed it before.
    fn begin_close(&self, reason: Disconnect, plainly: bool, notice: Option<Box<Notice>>) -> bool {
        let mut queue = self.queue.lock();
        if queue.closing.is_some() {
            return false;
        }
        queue.closing = Some(reason);
        queue.ended_plainly = plainly;
        queue.notice = notice;
        self.ended.notify_waiters();
        true
    }

    /// Sends the farewell in the client's protocol, unless that was done, and then ends the sending direction.
    pub fn conclude(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        queue.closing.get_or_insert(Disconnect::CLOSED);
        self.say_farewell(&mut queue);
    }

    /// Returns when everything that was sent has been written, or the socket is broken. To be called after
    /// [`conclude`](Self::conclude).
    pub(crate) async fn flushed(&self) {
        loop {
            // Created before the check, so that a change in between is not missed.
            let ended = self.ended.notified();
            if self.queue.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Why the connection is closing, if it is.
    #[must_use]
    pub fn closing(&self) -> Option<Disconnect> {
        self.queue.lock().closing
    }

    /// Returns once the connection is closing. Any number of tasks may wait for it.
    pub async fn closed(&self) -> Disconnect {
        loop {
            if let Some(reason) = self.closed_or(|| false).await {
                return reason;
            }
        }
    }

    /// Returns once the connection is closing, or once this condition is true: then the result is `None`. The code
    /// that makes the condition true [wakes](Self::wake) the connection.
    pub(crate) async fn closed_or(&self, condition: impl Fn() -> bool) -> Option<Disconnect> {
        loop {
            // Created before the checks, so that a change in between is not missed.
            let ended = self.ended.notified();
            let closing = self.closing();
            if closing.is_some() || condition() {
                return closing;
            }
            ended.await;
        }
    }

    /// Lets those that wait in [`closed_or`](Self::closed_or) look at their conditions.
    pub(crate) fn wake(&self) {
        self.ended.notify_waiters();
    }

    /// Switches from polls to a socket, or lets a stream of events begin on one. What was not fetched, or what the stream begins with, is
    /// sent first.
    pub(crate) fn switch(self: &Arc<Self>, to: impl Into<WriteHalf>) {
        let mut queue = self.queue.lock();
        let polled = self.outlet.polls();
        let rest = self.outlet.switch(to.into());
        if polled && !queue.is_out_of_count {
            let protocol = self.format.protocol();
            metering::connections(protocol, Transport::Polling, -1.0);
            metering::connections(protocol, Transport::WebSocket, 1.0);
        }
        if !rest.is_empty() {
            self.limits.add(rest.len());
            let waiting = queue.waiting.get_or_insert_default();
            waiting.bytes += rest.len();
            waiting.chunks.push_front(rest);
        }
        self.drain_later(&mut queue);
    }

    /// Counts among the connections of its protocol from now on.
    pub(crate) fn enter_count(&self) {
        metering::connections(self.format.protocol(), self.carried_by(), 1.0);
    }

    /// Does not count any more.
    pub(crate) fn leave_count(&self) {
        let mut queue = self.queue.lock();
        queue.is_out_of_count = true;
        metering::connections(self.format.protocol(), self.carried_by(), -1.0);
    }

    fn carried_by(&self) -> Transport {
        match self.format.carrier() {
            Carrier::Stream => Transport::Tcp,
            Carrier::Events => Transport::Events,
            _ if self.outlet.polls() => Transport::Polling,
            _ => Transport::WebSocket,
        }
    }

    /// True if nothing is exchanged with the client any more: the farewell was written and the sending direction ended,
    /// or the socket is broken.
    pub(crate) fn is_concluded(&self) -> bool {
        let queue = self.queue.lock();
        queue.concluded && queue.is_empty()
    }

    /// True if the client polls or reads a stream of events, so that each of its requests may come over a new socket.
    pub(crate) fn is_asked_apart(&self) -> bool {
        self.outlet.is_apart()
    }

    /// Returns when a polling client has fetched everything. For other clients it returns at once.
    pub(crate) async fn fetched(&self) {
        self.outlet.fetched().await;
    }

    /// Ends the socket at once, whatever is queued. Tasks that wait until it is writable end, too.
    pub fn abort(&self) {
        let mut queue = self.queue.lock();
        queue.closing.get_or_insert(Disconnect::CLOSED);
        queue.concluded = true;
        self.forget(&mut queue, 0);
        self.outlet.shut(Shutdown::Both);
        self.ended.notify_waiters();
    }

    fn say_farewell(self: &Arc<Self>, queue: &mut Queue) {
        let Some(reason) = queue.closing.filter(|_| !queue.concluded) else {
            return;
        };
        let mut frames = Vec::new();
        if !queue.ended_plainly {
            let mut format = self.format;
            if self.tells_positions.load(Ordering::Relaxed) {
                format = format.with_positions();
            }
            match &queue.notice {
                Some(notice) => wire::close_with(format, reason, notice, &mut frames),
                None => wire::close(format, reason, &mut frames),
            }
        }
        self.write(queue, &frames, &mut None);
        queue.concluded = true;
        if queue.is_empty() {
            self.outlet.shut(Shutdown::Write);
        }
        self.ended.notify_waiters();
    }

    fn write(self: &Arc<Self>, queue: &mut Queue, frames: &[u8], shared: &mut Option<Bytes>) {
        let held = mem::take(&mut queue.held);
        if held.is_empty() && frames.is_empty() {
            return;
        }
        let mut written = 0;
        if queue.is_empty() {
            let tried = if held.is_empty() {
                self.outlet.try_write(frames)
            } else {
                let both = [IoSlice::new(&held), IoSlice::new(frames)];
                self.outlet.try_write_vectored(&both)
            };
            match tried {
                Ok(count) => written = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.broken(queue, Disconnect::CLOSED);
                    return;
                }
            }
        }
        let mut later = |rest: Bytes| {
            self.limits.add(rest.len());
            let waiting = queue.waiting.get_or_insert_default();
            waiting.bytes += rest.len();
            waiting.chunks.push_back(rest);
        };
        let length = held.len();
        if written < length {
            later(Bytes::from(held).slice(written..));
        }
        let written = written.saturating_sub(length);
        if written < frames.len() {
            let shared = shared.get_or_insert_with(|| Bytes::copy_from_slice(frames));
            later(shared.slice(written..));
        }
        self.drain_later(queue);
    }

    fn drain_later(self: &Arc<Self>, queue: &mut Queue) {
        if !queue.is_empty() && !queue.draining {
            queue.draining = true;
            tokio::spawn(Arc::clone(self).drain());
        }
    }

    /// Writes the queue. This task lives only while something is queued, so idle connections have none. A client that
    /// takes nothing for the stall time is cut off. It is sent no farewell, because it would not take that either.
    async fn drain(self: Arc<Self>) {
        loop {
            let writable = timeout(self.limits.stall, self.outlet.writable()).await;
            let mut queue = self.queue.lock();
            let failed = match writable {
                Err(_) => Some(Disconnect::Slow),
                Ok(writable) => {
                    let written = writable.and_then(|()| self.write_queued(&mut queue));
                    written.err().map(|_| Disconnect::CLOSED)
                }
            };
            if let Some(reason) = failed {
                self.forget(&mut queue, 0);
                self.broken(&mut queue, reason);
            }
            if queue.is_empty() {
                queue.draining = false;
                if queue.concluded {
                    self.outlet.shut(Shutdown::Write);
                    self.ended.notify_waiters();
                }
                return;
            }
        }
    }

    /// To be called when the socket takes nothing any more.
    fn broken(&self, queue: &mut Queue, reason: Disconnect) {
        queue.closing.get_or_insert(reason);
        queue.concluded = true;
        self.ended.notify_waiters();
    }

    fn write_queued(&self, queue: &mut Queue) -> io::Result<()> {
        const AT_ONCE: usize = 64;
        while let Some(waiting) = &queue.waiting {
            let mut slices = [IoSlice::new(&[]); AT_ONCE];
            for (slice, chunk) in slices.iter_mut().zip(&waiting.chunks) {
                *slice = IoSlice::new(chunk);
            }
            let count = waiting.chunks.len().min(AT_ONCE);
            match self.outlet.try_write_vectored(&slices[..count]) {
                Ok(written) => self.advance(queue, written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&self, queue: &mut Queue, written: usize) {
        let Some(waiting) = &mut queue.waiting else {
            return;
        };
        waiting.bytes -= written;
        self.limits.remove(written);
        let mut left = written;
        while let Some(first) = waiting.chunks.front_mut() {
            if left < first.len() {
                first.advance(left);
                return;
            }
            left -= first.len();
            waiting.chunks.pop_front();
        }
        queue.waiting = None;
    }

    /// Drops everything but the frames under way. Those have to be completed, or the client could not read the farewell.
    /// With TLS more than one frame may be under way, because a record may hold several.
    fn forget_rest(&self, queue: &mut Queue) {
        let under_way = self.outlet.under_way();
        let chunks = queue.waiting.iter().flat_map(|waiting| &waiting.chunks);
        let (mut keep, mut bytes) = (0, 0);
        for chunk in chunks {
            if keep > 0 && bytes >= under_way {
                break;
            }
            bytes += chunk.len();
            keep += 1;
        }
        self.forget(queue, keep);
    }

    fn forget(&self, queue: &mut Queue, keep: usize) {
        queue.held = Vec::new();
        let Some(waiting) = &mut queue.waiting else {
            return;
        };
        waiting.chunks.truncate(keep);
        let kept = waiting.chunks.iter().map(Bytes::len).sum();
        self.limits.remove(waiting.bytes - kept);
        waiting.bytes = kept;
        if waiting.chunks.is_empty() {
            queue.waiting = None;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.limits.remove(self.queue.get_mut().bytes());
    }
}

/// Closes connections in batches. However many there are, the last one is closed in time.
pub(crate) async fn close_paced(connections: &[Arc<Connection>], reason: Disconnect) {
    let batch = connections.len().div_ceil(CLOSE_PAUSES).max(CLOSE_BATCH);
    for batch in connections.chunks(batch) {
        for connection in batch {
            connection.close(reason);
        }
        sleep(CLOSE_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
