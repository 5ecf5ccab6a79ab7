//! The connections of chat's port: how many there are, what each of them has under way, and when one is ended.
//!
//! A connection costs a file descriptor and memory, and its other end may be silent, slow or hostile. So there are only so
//! many, and chat ends one that says nothing, that asks for nothing for a long time, or that does not take an answer. When
//! there is no room for another one, the one goes that has been without a call for longest. A caller whose connection was
//! ended connects again.

use crate::metering;
use crate::share::Holding;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// How often a connection looks whether its time is over.
const LOOK: Duration = Duration::from_secs(1);
/// HTTP/2's preface and the head of the frame that has to follow.
const GREETING: usize = 24 + 9;

/// When connections are ended.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// From the connection to the end of the greeting.
    pub(crate) greeting: Duration,
    /// Without any call.
    pub(crate) idle: Duration,
    /// Without a step forward in taking an answer.
    pub(crate) answer: Duration,
}

/// Why chat ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// It never spoke HTTP/2.
    Silent,
    /// It had no call for long.
    Idle,
    /// It did not take an answer.
    Unread,
    /// Another one needed the room.
    NoRoom,
}

impl Over {
    pub(crate) const LABELS: [&'static str; 4] = ["silent", "idle", "unread", "no_room"];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Unread => "unread",
            Self::NoRoom => "no_room",
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it did not speak HTTP/2 in time",
            Self::Idle => "it had no call for long",
            Self::Unread => "it did not take an answer in time",
            Self::NoRoom => "another connection needed its place",
        })
    }
}

/// All connections.
pub(crate) struct Callers {
    most: usize,
    patience: Patience,
    next: AtomicU64,
    present: Mutex<BTreeMap<u64, Arc<Caller>>>,
}

/// One connection, and what it has under way. Requests carry it in their extensions.
pub(crate) struct Caller {
    /// Its other end; `None` in the same process.
    peer: Option<SocketAddr>,
    began: Instant,
    pub(crate) calls: Arc<Holding>,
    pub(crate) streams: Arc<Holding>,
    pub(crate) other: Arc<Holding>,
    pub(crate) requests: Arc<Holding>,
    pub(crate) answers: Arc<Holding>,
    state: Mutex<State>,
    no_room: CancellationToken,
}

struct State {
    /// Calls of any kind, from their heads to the ends of their answers.
    open: usize,
    calls: u64,
    /// When the last of them ended.
    since: Instant,
    /// Answers that are not taken, with the last step forward.
    untaken: BTreeMap<u64, Instant>,
    numbers: u64,
}

impl Callers {
    pub(crate) fn new(most: usize, patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            patience,
            next: AtomicU64::new(0),
            present: Mutex::default(),
        })
    }

    /// Takes a connection in, if need be for another one that has no call; `None` if all of them have.
    pub(crate) fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<Socket> {
        let caller = Caller::new(Some(peer));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut present = self.present.lock();
            if present.len() >= self.most {
                let longest = present.iter().filter_map(|(id, caller)| {
                    let state = caller.state.lock();
                    (state.open == 0).then_some(((state.calls > 0, state.since), *id))
                });
                let (_, ended) = longest.min()?;
                // Its socket ends in a moment; until then there is one more.
                if let Some(ended) = present.remove(&ended) {
                    ended.no_room.cancel();
                }
            }
            present.insert(id, Arc::clone(&caller));
        }
        metering::connections(1.0);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(Socket {
            no_room: Box::pin(caller.no_room.clone().cancelled_owned()),
            stream,
            caller,
            greeting: GREETING,
            over: None,
            look,
            callers: Arc::clone(self),
            id,
        })
    }
}

impl Caller {
    fn new(peer: Option<SocketAddr>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            peer,
            began: now,
            calls: Arc::default(),
            streams: Arc::default(),
            other: Arc::default(),
            requests: Arc::default(),
            answers: Arc::default(),
            state: Mutex::new(State {
                open: 0,
                calls: 0,
                since: now,
                untaken: BTreeMap::new(),
                numbers: 0,
            }),
            no_room: CancellationToken::new(),
        })
    }

    /// A caller in the same process.
    pub(crate) fn here() -> Arc<Self> {
        Self::new(None)
    }

    /// Whose request this is.
    pub(crate) fn of(extensions: &http::Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    /// Its address, for logs.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// A call begins, and lasts until this is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> OpenCall {
        let mut state = self.state.lock();
        state.open += 1;
        state.calls += 1;
        drop(state);
        OpenCall(Arc::clone(self))
    }

    /// Something waits for this caller to take it. If it makes no step forward, the connection is ended.
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

    fn over(&self, patience: &Patience, is_greeted: bool) -> Option<Over> {
        let now = Instant::now();
        let state = self.state.lock();
        let unread = |at: &Instant| now.duration_since(*at) >= patience.answer;
        if !is_greeted && now.duration_since(self.began) >= patience.greeting {
            Some(Over::Silent)
        } else if state.open == 0 && now.duration_since(state.since) >= patience.idle {
            Some(Over::Idle)
        } else if state.untaken.values().any(unread) {
            Some(Over::Unread)
        } else {
            None
        }
    }
}

/// A call that goes on.
pub(crate) struct OpenCall(Arc<Caller>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.since = Instant::now();
    }
}

/// Something that its caller has not taken yet.
pub(crate) struct Untaken {
    caller: Arc<Caller>,
    number: u64,
}

impl Untaken {
    /// A part of it was taken.
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

/// A connection's socket, which fails when chat has had enough of it.
pub(crate) struct Socket {
    stream: TcpStream,
    caller: Arc<Caller>,
    /// Bytes of the greeting that are still to come.
    greeting: usize,
    over: Option<Over>,
    look: Interval,
    no_room: Pin<Box<WaitForCancellationFutureOwned>>,
    callers: Arc<Callers>,
    id: u64,
}

impl Socket {
    /// Fails once the connection is over, and wakes the task when it may be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.over.is_none() && self.no_room.as_mut().poll(cx).is_ready() {
            self.end(Over::NoRoom);
        }
        while self.over.is_none() && self.look.poll_tick(cx).is_ready() {
            let is_greeted = self.greeting == 0;
            if let Some(over) = self.caller.over(&self.callers.patience, is_greeted) {
                self.end(over);
            }
        }
        match self.over {
            None => Ok(()),
            Some(over) => Err(io::Error::new(io::ErrorKind::TimedOut, over.to_string())),
        }
    }

    fn end(&mut self, over: Over) {
        self.over = Some(over);
        metering::connection_ended(over);
        if let Some(peer) = self.caller.peer {
            tracing::info!(%peer, "ended a connection: {over}");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.callers.present.lock().remove(&self.id);
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
        self.check(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.greeting = self.greeting.saturating_sub(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A peer that reads nothing may keep the task here for ever.
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
