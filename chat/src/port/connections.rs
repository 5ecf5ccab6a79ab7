//! The connections of chat's port: how many there are, what each of them has under way, and when one is ended.
//!
//! A connection costs a file descriptor and memory, and its other end may be silent, slow or hostile. So their number is
//! bounded, and chat ends a connection that never speaks HTTP/2 and makes no request in HTTP/1.1 either, that makes no call for a
//! long time, that does not take an answer, or that has become too old ([`super::age`]). If there is no room for another connection, chat ends the one that has been without a call for longest. A caller
//! whose connection was ended connects again.

use super::age::{Age, Retirement};
use super::share::Holding;
use super::stream::Stream;
use super::version::Version;
use crate::metering;
use parking_lot::Mutex;
use runtime::pace::Pace;
use runtime::tls::{ClientCertificate, ServerTls};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// How often a connection checks whether its time is over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How much a connection in HTTP/1.1 reads at once. This must be less than hyper's first buffer, which hyper makes fifty times
/// larger, and keeps so, for a caller that fills it.
const READ_AT_ONCE: usize = 4 * 1024;
/// The most bytes that a connection in HTTP/1.1 may send without a call: those of a head. HTTP/2 has the same bound.
const LONGEST_HEAD: usize = 16 * 1024;

/// After which time connections are ended.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    /// From the start of the connection to the end of its greeting: of HTTP/2's, or of the first request's head in HTTP/1.1.
    pub(crate) greeting: Duration,
    /// Without any call.
    pub(crate) idle: Duration,
    /// While an answer waits and the caller takes no part of it.
    pub(crate) answer: Duration,
}

/// Why chat ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The caller never greeted.
    Silent,
    /// The head of a request in HTTP/1.1 was too long.
    LongHead,
    /// There was no call for long.
    Idle,
    /// The caller did not take an answer.
    Unread,
    /// Another connection needed the room.
    NoRoom,
    /// It was retired, and still had calls when the grace was over.
    TooOld,
}

impl End {
    fn label(self) -> &'static str {
        let [silent, long_head, idle, unread, no_room, too_old] = metering::CONNECTION_ENDS;
        match self {
            Self::Silent => silent,
            Self::LongHead => long_head,
            Self::Idle => idle,
            Self::Unread => unread,
            Self::NoRoom => no_room,
            Self::TooOld => too_old,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it neither spoke HTTP/2 nor made a request in HTTP/1.1 in time",
            Self::LongHead => "the head of its request was too long",
            Self::Idle => "it had no call for long",
            Self::Unread => "it did not take an answer in time",
            Self::NoRoom => "another connection needed its place",
            Self::TooOld => {
                "it was older than --max-connection-age, and had calls for longer than the grace"
            }
        })
    }
}

/// All connections.
pub(crate) struct Connections {
    most: usize,
    timeouts: Timeouts,
    age: Option<Age>,
    next: AtomicU64,
    present: Mutex<BTreeMap<u64, Arc<Caller>>>,
}

/// The other end of one connection, and what it has under way. Requests carry it in their extensions.
pub(crate) struct Caller {
    /// Its address. `None` if it is in the same process.
    peer: Option<SocketAddr>,
    /// Its certificate, if the port asks for one.
    certificate: OnceLock<Arc<ClientCertificate>>,
    began: Instant,
    pub(crate) calls: Arc<Holding>,
    pub(crate) streams: Arc<Holding>,
    pub(crate) watches: Arc<Holding>,
    pub(crate) other: Arc<Holding>,
    pub(crate) requests: Arc<Holding>,
    pub(crate) answers: Arc<Holding>,
    /// How fast it is given pages.
    pub(crate) pages: Mutex<Pace>,
    state: Mutex<State>,
    no_room: CancellationToken,
    retirement: Option<Retirement>,
    /// Set when the connection is retired, and when it is over.
    retired: CancellationToken,
}

struct State {
    /// Calls of any kind, from their heads to the ends of their answers.
    open: usize,
    calls: u64,
    /// When the last of them ended.
    since: Instant,
    /// Answers that wait to be taken, with the time when a part was taken last.
    untaken: BTreeMap<u64, Instant>,
    numbers: u64,
}

impl Connections {
    pub(crate) fn new(most: usize, timeouts: Timeouts, age: Option<Age>) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            timeouts,
            age,
            next: AtomicU64::new(0),
            present: Mutex::default(),
        })
    }

    /// Admits a connection. If there is no room, another one that has no call is ended. `None` if all of them have calls.
    pub(crate) fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<&ServerTls>,
    ) -> Option<Socket> {
        let caller = Caller::new(Some(peer), self.age.map(Age::begin));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut present = self.present.lock();
            if present.len() >= self.most {
                let longest = present.iter().filter_map(|(id, caller)| {
                    let state = caller.state.lock();
                    (state.open == 0).then_some(((state.calls > 0, state.since), *id))
                });
                let (_, ended) = longest.min()?;
                // Its socket ends in a moment. Until then there is one connection more than allowed.
                if let Some(ended) = present.remove(&ended) {
                    ended.no_room.cancel();
                }
            }
            present.insert(id, Arc::clone(&caller));
        }
        metering::connections(1.0);
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(Socket {
            no_room: Box::pin(caller.no_room.clone().cancelled_owned()),
            stream: Stream::new(stream, tls),
            caller,
            version: Version::Unknown { seen: 0 },
            end: None,
            check,
            connections: Arc::clone(self),
            id,
        })
    }
}

impl Caller {
    fn new(peer: Option<SocketAddr>, retirement: Option<Retirement>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            peer,
            certificate: OnceLock::new(),
            began: now,
            calls: Arc::default(),
            streams: Arc::default(),
            watches: Arc::default(),
            other: Arc::default(),
            requests: Arc::default(),
            answers: Arc::default(),
            pages: Mutex::default(),
            state: Mutex::new(State {
                open: 0,
                calls: 0,
                since: now,
                untaken: BTreeMap::new(),
                numbers: 0,
            }),
            no_room: CancellationToken::new(),
            retirement,
            retired: CancellationToken::new(),
        })
    }

    /// A caller at another port than chat's own, which bounds its connections itself.
    pub(crate) fn at(peer: SocketAddr) -> Arc<Self> {
        Self::new(Some(peer), None)
    }

    /// A caller in the same process.
    pub(crate) fn in_process() -> Arc<Self> {
        Self::new(None, None)
    }

    /// The caller of a request with these extensions. `None` if it comes without a connection.
    pub(crate) fn of(extensions: &http::Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    /// True if the caller is in the same process.
    pub(crate) fn is_in_process(&self) -> bool {
        self.peer.is_none()
    }

    /// Its address, for logs.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Its certificate. `None` if the port does not ask for one.
    pub(crate) fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        self.certificate.get().cloned()
    }

    /// Notes a call, which lasts until the answer is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> OpenCall {
        let mut state = self.state.lock();
        state.open += 1;
        state.calls += 1;
        drop(state);
        OpenCall(Arc::clone(self))
    }

    /// Notes an answer that waits for this caller to take it. If the caller takes no part of it for too long, the connection is
    /// ended.
    pub(crate) fn untaken(self: &Arc<Self>) -> Untaken {
        let mut state = self.state.lock();
        state.numbers += 1;
        let number = state.numbers;
        state.untaken.insert(number, Instant::now());
        drop(state);
        Untaken {
            caller: Arc::clone(self),
            number,
        }
    }

    /// Returns once the caller is asked to open another connection. Nothing that could last for ever may go on over this one.
    pub(crate) async fn retired(&self) {
        self.retired.cancelled().await;
    }

    fn has_call(&self) -> bool {
        self.state.lock().open > 0
    }

    /// Retires the connection when it is too old. Returns why it is to be ended now, if it is.
    fn end(&self, timeouts: &Timeouts, version: &Version) -> Option<End> {
        let now = Instant::now();
        let is_old = self.retirement.is_some_and(|it| it.at <= now);
        if is_old && !self.retired.is_cancelled() {
            metering::connection_retired();
            self.retired.cancel();
        }
        let state = self.state.lock();
        let is_greeted = match version {
            Version::Unknown { .. } => false,
            Version::Http1 { .. } => state.calls > 0,
            Version::Http2 { missing } => *missing == 0,
        };
        let unread = |at: &Instant| now.duration_since(*at) >= timeouts.answer;
        if !is_greeted && now.duration_since(self.began) >= timeouts.greeting {
            Some(End::Silent)
        } else if state.open == 0 && now.duration_since(state.since) >= timeouts.idle {
            Some(End::Idle)
        } else if state.untaken.values().any(unread) {
            Some(End::Unread)
        } else if self.retirement.is_some_and(|it| it.end <= now) {
            Some(End::TooOld)
        } else {
            None
        }
    }
}

/// A call that is under way.
pub(crate) struct OpenCall(Arc<Caller>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.since = Instant::now();
    }
}

/// An answer that its caller has not taken yet.
pub(crate) struct Untaken {
    caller: Arc<Caller>,
    number: u64,
}

impl Untaken {
    /// A part of the answer was taken.
    pub(crate) fn step(&self) {
        let mut state = self.caller.state.lock();
        if let Some(at) = state.untaken.get_mut(&self.number) {
            *at = Instant::now();
        }
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.caller.state.lock().untaken.remove(&self.number);
    }
}

/// A connection's socket. Reading and writing fail once chat has ended the connection.
pub(crate) struct Socket {
    stream: Stream,
    caller: Arc<Caller>,
    version: Version,
    end: Option<End>,
    check: Interval,
    no_room: Pin<Box<WaitForCancellationFutureOwned>>,
    connections: Arc<Connections>,
    id: u64,
}

impl Socket {
    /// Fails once the connection is ended, and wakes the task when it may have to be.
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.is_none() && self.no_room.as_mut().poll(cx).is_ready() {
            self.finish(End::NoRoom);
        }
        while self.end.is_none() && self.check.poll_tick(cx).is_ready() {
            if let Some(end) = self.caller.end(&self.connections.timeouts, &self.version) {
                self.finish(end);
            }
        }
        match self.end {
            None => Ok(()),
            Some(end) => Err(io::Error::new(io::ErrorKind::TimedOut, end.to_string())),
        }
    }

    /// Returns once the connection may be used: it has not ended, and the handshake of TLS is over.
    fn poll_usable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        let opened = ready!(self.stream.poll_open(cx));
        if let (Err(error), Some(peer)) = (&opened, self.caller.peer) {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
        }
        if opened? && let Some(names) = ClientCertificate::of(self.stream.certificates()) {
            // The handshake is over once.
            let _ = self.caller.certificate.set(Arc::new(names));
        }
        Poll::Ready(Ok(()))
    }

    /// Who is at the other end.
    pub(crate) fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.caller)
    }

    fn finish(&mut self, end: End) {
        self.end = Some(end);
        metering::connection_ended(end.label());
        if let Some(peer) = self.caller.peer {
            tracing::info!(%peer, "ended a connection: {end}");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.caller.retired.cancel();
        self.connections.present.lock().remove(&self.id);
        metering::connections(-1.0);
    }
}

impl Connected for Socket {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.caller)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_usable(cx))?;
        let before = buffer.filled().len();
        if self.version == (Version::Http2 { missing: 0 }) {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut part = [0; READ_AT_ONCE];
        let length = READ_AT_ONCE.min(buffer.remaining());
        let mut part = ReadBuf::new(&mut part[..length]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        let this = &mut *self;
        let bytes = &buffer.filled()[before..];
        this.version.follow(bytes, || this.caller.has_call());
        match this.version {
            Version::Http1 { without_call } if without_call > LONGEST_HEAD => {
                this.finish(End::LongHead);
                this.check_end(cx)?;
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A caller that reads nothing could otherwise keep the task here for ever.
        ready!(self.poll_usable(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_usable(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS, what was written may wait here for a caller that reads nothing.
        ready!(self.poll_usable(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
