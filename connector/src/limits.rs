//! All bounds on what clients may cost the connector, and the counters behind them.

pub(crate) mod addresses;

use metrics::counter;
use parking_lot::{Mutex, RwLock};
use runtime::pace::Rate;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The default of [`QueueLimits::stall`].
const STALL: Duration = Duration::from_secs(50);

/// The times and sizes that bound one client.
#[derive(Debug, Clone)]
pub(crate) struct ClientLimits {
    /// The time between heartbeats. A client that is silent for twice as long is dropped (K5).
    pub heartbeat: Duration,
    /// Clients of Socket.IO have times of their own.
    pub socket_io: Heartbeats,
    /// How long the handshake may take, counted from the connection.
    pub handshake: Duration,
    /// How long a client may stay without a login, counted from the connection.
    pub idle: Duration,
    /// The bytes that one message may have.
    pub message: usize,
}

/// How often a session may do things. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SessionRates {
    /// Requests, but for leaves and pings.
    pub requests: Option<Rate>,
    /// Bytes of the bodies of these requests.
    pub bytes: Option<Rate>,
    /// Channels that it joins.
    pub joins: Option<Rate>,
    /// Pages of history and of members.
    pub reads: Option<Rate>,
}

/// The heartbeats of Socket.IO's clients.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeats {
    /// The time between two heartbeats.
    pub interval: Duration,
    /// How long a heartbeat may be overdue.
    pub timeout: Duration,
}

/// How many bytes may wait for clients that do not read, and for how long.
#[derive(Debug)]
pub struct QueueLimits {
    connection: AtomicUsize,
    process: AtomicUsize,
    /// A client is cut off if it takes none of the bytes that wait for it for this long.
    pub stall: Duration,
    held: AtomicUsize,
}

impl QueueLimits {
    /// Bounds in bytes, with the default stall time.
    #[must_use]
    pub fn new(connection: usize, process: usize) -> Arc<Self> {
        Self::with_stall(connection, process, STALL)
    }

    /// Bounds in bytes, with a stall time.
    #[must_use]
    pub fn with_stall(connection: usize, process: usize, stall: Duration) -> Arc<Self> {
        Arc::new(Self {
            connection: AtomicUsize::new(connection),
            process: AtomicUsize::new(process),
            stall,
            held: AtomicUsize::new(0),
        })
    }

    /// The bytes that may wait for one connection.
    #[must_use]
    pub fn connection(&self) -> usize {
        self.connection.load(Ordering::Relaxed)
    }

    /// The bytes that may wait for all connections of the process together. Incoming messages and requests may only
    /// grow while everything that is held, in both directions, is at most half of this.
    #[must_use]
    pub fn process(&self) -> usize {
        self.process.load(Ordering::Relaxed)
    }

    /// Replaces both bounds. What waits already stays, and a queue that is too long now is noticed when it grows.
    pub(crate) fn resize(&self, connection: usize, process: usize) {
        self.connection.store(connection, Ordering::Relaxed);
        self.process.store(process, Ordering::Relaxed);
    }

    /// The bytes that are held for all clients of the process: queues, mailboxes, unfinished messages, and requests
    /// that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Replaces what is counted for the incoming data of one client. Returns false if it has grown and there is no room
    /// for it. The new size is counted in either case. The caller then cuts the client off or refuses its request, and
    /// that gives the bytes back.
    pub(crate) fn recount(&self, counted: &mut usize, bytes: usize) -> bool {
        let before = std::mem::replace(counted, bytes);
        if bytes <= before {
            self.remove(before - bytes);
            return true;
        }
        self.add(bytes - before);
        self.queued() <= self.process() / 2
    }
}

/// The bytes of one post, counted for the process until this is dropped.
pub(crate) struct Counted {
    limits: Arc<QueueLimits>,
    bytes: usize,
}

impl Counted {
    /// Counts no bytes yet.
    pub(crate) fn new(limits: &Arc<QueueLimits>) -> Self {
        Self {
            limits: Arc::clone(limits),
            bytes: 0,
        }
    }

    /// Counts this many bytes from now on. Returns false if there is no room for them.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        self.limits.recount(&mut self.bytes, bytes)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.limits.remove(self.bytes);
    }
}

/// How many clients there may be in each state that costs a client nothing. Without these bounds anybody could fill the
/// connector.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open sockets of clients. A polling client counts as two, however many sockets it has open.
    pub connections: usize,
    /// How many of these sockets may be in their handshake. If there is one too many, the oldest of them is closed.
    pub half_open: usize,
    /// Handshakes in a second. Each accepted socket counts, and each client that begins to poll.
    pub handshakes: u32,
    /// Polling clients that have not logged in.
    pub polling: usize,
}

/// Counts what was refused or cut off because a bound was reached.
pub(crate) const BOUNDS_REACHED: &str = "connector_refused_total";
/// Counts sockets that could not be accepted.
pub(crate) const ACCEPT_ERRORS: &str = "connector_accept_errors_total";
/// A burst may bring as many handshakes as the rate allows in this time. After that they are paced.
const BURST: Duration = Duration::from_millis(100);
/// How many sockets without a place may be open, each until it has sent its first request. One more closes the oldest.
const MOST_WITHOUT_PERMIT: usize = 32;

/// The bounds that are counted when they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Connections,
    HalfOpen,
    Handshakes,
    Polling,
    Memory,
    Write,
    Origin,
    Address,
    AddressRate,
    RequestRate,
    ByteRate,
    JoinRate,
    ReadRate,
}

impl Bound {
    pub(crate) const ALL: [Self; 13] = [
        Self::Connections,
        Self::HalfOpen,
        Self::Handshakes,
        Self::Polling,
        Self::Memory,
        Self::Write,
        Self::Origin,
        Self::Address,
        Self::AddressRate,
        Self::RequestRate,
        Self::ByteRate,
        Self::JoinRate,
        Self::ReadRate,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::HalfOpen => "half-open",
            Self::Handshakes => "handshakes",
            Self::Polling => "polling",
            Self::Memory => "memory",
            Self::Write => "write-timeout",
            Self::Origin => "origin",
            Self::Address => "address",
            Self::AddressRate => "address-rate",
            Self::RequestRate => "request-rate",
            Self::ByteRate => "byte-rate",
            Self::JoinRate => "join-rate",
            Self::ReadRate => "read-rate",
        }
    }

    /// Counts a client or request that was refused or cut off because of this bound.
    pub(crate) fn reached(self) {
        counter!(BOUNDS_REACHED, "bound" => self.label()).increment(1);
    }
}

/// Counts a socket that could not be accepted.
pub(crate) fn accept_failed() {
    counter!(ACCEPT_ERRORS).increment(1);
}

/// Counts clients against [`Bounds`].
pub(crate) struct Limits {
    bounds: RwLock<Bounds>,
    open: AtomicUsize,
    polling: AtomicUsize,
    opening: Arc<Opening>,
    without_permit: Arc<Opening>,
    /// When the next handshake is due at the allowed rate. One that comes before is too early.
    next_handshake: Mutex<Instant>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("bounds", &*self.bounds.read())
            .finish_non_exhaustive()
    }
}

/// Sockets whose handshake is not over. If there is one too many, the oldest is closed. An honest client finishes its
/// handshake within a moment, so an attacker that holds many sockets open loses its own.
struct Opening {
    most: AtomicUsize,
    bound: Bound,
    sockets: Mutex<Sockets>,
}

/// The sockets, in the order in which they came. Each has the closure that closes it, once that is known.
#[derive(Default)]
struct Sockets {
    next: u64,
    ends: BTreeMap<u64, Option<End>>,
}

/// Closes a socket.
type End = Box<dyn FnOnce() + Send>;

impl Limits {
    /// Counts no clients yet.
    #[must_use]
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds: RwLock::new(bounds),
            open: AtomicUsize::new(0),
            polling: AtomicUsize::new(0),
            opening: Opening::new(bounds.half_open.max(1), Bound::HalfOpen),
            without_permit: Opening::new(MOST_WITHOUT_PERMIT, Bound::Connections),
            next_handshake: Mutex::new(Instant::now()),
        })
    }

    /// Replaces the bounds. Nobody who is there is closed, but those who come find no place until enough others are gone.
    pub(crate) fn set(&self, bounds: Bounds) {
        *self.bounds.write() = bounds;
        let half_open = bounds.half_open.max(1);
        self.opening.most.store(half_open, Ordering::Relaxed);
    }

    /// The most connections.
    pub(crate) fn connections(&self) -> usize {
        self.bounds.read().connections
    }

    /// Takes a place for one more connection. `None` if all places are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<ConnectionPermit> {
        take(&self.open, self.bounds.read().connections).then(|| ConnectionPermit(Arc::clone(self)))
    }

    /// Takes a place for one more polling client that has not logged in. `None` if all places are taken.
    pub(crate) fn enter_polling(self: &Arc<Self>) -> Option<PollingPermit> {
        take(&self.polling, self.bounds.read().polling).then(|| PollingPermit(Arc::clone(self)))
    }

    /// Counts a socket whose handshake begins.
    pub(crate) fn begin_handshake(&self) -> HalfOpen {
        self.opening.begin()
    }

    /// Counts a socket for which there is no place.
    pub(crate) fn without_permit(&self) -> HalfOpen {
        self.without_permit.begin()
    }

    /// Counts a handshake, and returns how much too early it came.
    pub(crate) fn handshake(&self) -> Duration {
        let now = Instant::now();
        let mut next = self.next_handshake.lock();
        *next = (*next).max(now - BURST) + self.pace();
        next.saturating_duration_since(now)
    }

    /// Counts a handshake and returns true, unless it came too early.
    pub(crate) fn try_handshake(&self) -> bool {
        let now = Instant::now();
        let mut next = self.next_handshake.lock();
        let after = (*next).max(now - BURST) + self.pace();
        let is_on_time = after <= now;
        if is_on_time {
            *next = after;
        }
        is_on_time
    }

    fn pace(&self) -> Duration {
        Duration::from_secs(1) / self.bounds.read().handshakes.max(1)
    }
}

/// Adds one to a counter, unless that would be more than `most`. Returns whether it did.
fn take(count: &AtomicUsize, most: usize) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    taken.is_ok()
}

/// The place of one connection. Dropping it gives the place back.
pub(crate) struct ConnectionPermit(Arc<Limits>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one polling client that has not logged in. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct PollingPermit(Arc<Limits>);

impl Drop for PollingPermit {
    fn drop(&mut self) {
        self.0.polling.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The places of one polling client, for the sockets that bring its requests. The client keeps them until it is gone,
/// so it can open new sockets for its requests even when the connector is full.
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    places: Arc<[ConnectionPermit; Self::EACH]>,
}

impl Seats {
    /// One place for the client's poll, one for its post.
    pub(crate) const EACH: usize = 2;

    /// Takes the places for a new polling client. `None` if too few are free.
    pub(crate) fn reserve(limits: &Arc<Limits>) -> Option<Self> {
        Some(Self {
            free: Arc::new(Semaphore::new(Self::EACH)),
            places: Arc::new([limits.enter()?, limits.enter()?]),
        })
    }

    /// Takes a place for one socket. `None` if other sockets of the same client have them all.
    pub(crate) fn take(&self) -> Option<Seat> {
        let free = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Seat {
            _free: free,
            places: Arc::clone(&self.places),
        })
    }
}

/// One of a client's [`Seats`]. Dropping it makes room for another socket of the same client. Once the client is gone,
/// its places are given back with the last of these.
pub(crate) struct Seat {
    _free: OwnedSemaphorePermit,
    places: Arc<[ConnectionPermit; Seats::EACH]>,
}

impl Seat {
    /// True if this is one of these seats.
    pub(crate) fn is_of(&self, seats: &Seats) -> bool {
        Arc::ptr_eq(&self.places, &seats.places)
    }
}

impl Opening {
    fn new(most: usize, bound: Bound) -> Arc<Self> {
        let sockets = Mutex::default();
        Arc::new(Self {
            most: AtomicUsize::new(most),
            bound,
            sockets,
        })
    }

    fn begin(self: &Arc<Self>) -> HalfOpen {
        let (key, oldest) = {
            let mut sockets = self.sockets.lock();
            sockets.next += 1;
            let key = sockets.next;
            sockets.ends.insert(key, None);
            let is_full = sockets.ends.len() > self.most.load(Ordering::Relaxed);
            (key, is_full.then(|| sockets.ends.pop_first()).flatten())
        };
        if let Some((_, end)) = oldest {
            self.bound.reached();
            if let Some(end) = end {
                end();
            }
        }
        HalfOpen {
            opening: Arc::clone(self),
            key,
        }
    }
}

/// A socket whose handshake is not over. Dropped when the handshake ends.
pub(crate) struct HalfOpen {
    opening: Arc<Opening>,
    key: u64,
}

impl HalfOpen {
    /// Sets how the socket is closed when there is one too many and it is the oldest. If that has happened already,
    /// `end` is called at once.
    pub(crate) fn ends_by(&self, end: impl FnOnce() + Send + 'static) {
        let mut sockets = self.opening.sockets.lock();
        let Some(place) = sockets.ends.get_mut(&self.key) else {
            drop(sockets);
            return end();
        };
        let before = place.replace(Box::new(end));
        // Dropped outside of the lock, for the same reason as below.
        drop(sockets);
        drop(before);
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let end = self.opening.sockets.lock().ends.remove(&self.key);
        // Dropped outside of the lock, because dropping the closure drops whatever it has captured.
        drop(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use tokio::time::advance;

    fn limits() -> Arc<Limits> {
        Limits::new(Bounds {
            connections: 2,
            half_open: 2,
            handshakes: 1_000,
            polling: 1,
        })
    }

    #[tokio::test]
    async fn a_place_is_taken_until_it_is_returned() {
        let limits = limits();
        let (one, two) = (limits.enter(), limits.enter());
        assert!(one.is_some() && two.is_some());
        assert!(limits.enter().is_none());
        drop(one);
        assert!(limits.enter().is_some());
        let polling = limits.enter_polling();
        assert!(polling.is_some() && limits.enter_polling().is_none());
        drop(polling);
        assert!(limits.enter_polling().is_some());
    }

    #[tokio::test]
    async fn a_client_that_polls_has_its_own_places_until_its_sockets_are_closed() {
        let limits = limits();
        let one = limits.enter();
        assert!(Seats::reserve(&limits).is_none(), "there is one place left");
        drop(one);
        let seats = Seats::reserve(&limits).unwrap();
        assert!(limits.enter().is_none());
        let (poll, post) = (seats.take().unwrap(), seats.take().unwrap());
        assert!(seats.take().is_none() && poll.is_of(&seats));
        drop(post);
        assert!(seats.take().is_some());
        drop(seats);
        assert!(limits.enter().is_none(), "a socket is still open");
        drop(poll);
        let another = Seats::reserve(&limits);
        assert!(another.is_some());
    }

    #[tokio::test]
    async fn if_there_is_one_half_open_socket_too_many_the_oldest_is_ended() {
        let limits = limits();
        let ended = Arc::new(AtomicU32::new(0));
        let open = |digit: u32| {
            let half_open = limits.begin_handshake();
            let ended = Arc::clone(&ended);
            half_open.ends_by(move || {
                ended.fetch_add(digit, Ordering::Relaxed);
            });
            half_open
        };
        let (one, ready) = (open(1), open(10));
        drop(ready);
        let two = open(100);
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        let three = open(1_000);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        // A socket that registers its end too late is ended all the same.
        one.ends_by({
            let ended = Arc::clone(&ended);
            move || {
                ended.fetch_add(5, Ordering::Relaxed);
            }
        });
        assert_eq!(ended.load(Ordering::Relaxed), 6);
        drop((two, three));
        assert!(limits.opening.sockets.lock().ends.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_are_paced_after_a_burst() {
        let limits = limits();
        advance(Duration::from_secs(1)).await;
        let burst = (0..200).filter(|_| limits.try_handshake()).count();
        assert_eq!(burst, 100);
        advance(Duration::from_millis(10)).await;
        let later = (0..200).filter(|_| limits.try_handshake()).count();
        assert_eq!(later, 10);
        assert_eq!(limits.handshake(), Duration::from_millis(1));
        assert_eq!(limits.handshake(), Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_can_be_replaced_and_nobody_who_is_there_is_closed() {
        let limits = limits();
        let before = *limits.bounds.read();
        let inside: Vec<_> = std::iter::from_fn(|| limits.enter()).collect();
        assert_eq!(inside.len(), before.connections);
        limits.set(Bounds {
            connections: before.connections + 1,
            ..before
        });
        let one_more = limits.enter();
        assert!(one_more.is_some() && limits.enter().is_none());
        limits.set(Bounds {
            connections: 1,
            half_open: 1,
            ..before
        });
        drop(one_more);
        assert!(limits.enter().is_none(), "those who are there still count");
        let ended = Arc::new(AtomicUsize::new(0));
        let open = || {
            let (opening, ended) = (limits.begin_handshake(), Arc::clone(&ended));
            opening.ends_by(move || {
                ended.fetch_add(1, Ordering::Relaxed);
            });
            opening
        };
        let both = [open(), open()];
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        drop(both);
        drop(inside);
        assert!(limits.enter().is_some());
    }

    #[test]
    fn the_memory_of_queues_can_be_resized_while_something_waits() {
        let limits = QueueLimits::new(100, 1_000);
        let mut held = 0;
        assert!(limits.recount(&mut held, 500));
        limits.resize(100, 1_200);
        assert!(limits.recount(&mut held, 600));
        limits.resize(100, 400);
        assert!(!limits.recount(&mut held, 601));
        limits.recount(&mut held, 0);
    }

    #[test]
    fn incoming_data_may_take_half_of_the_memory() {
        let limits = QueueLimits::new(100, 1_000);
        let (mut one, mut two) = (0, 0);
        assert!(limits.recount(&mut one, 400));
        assert!(!limits.recount(&mut two, 101));
        assert!(limits.recount(&mut two, 50), "less is always allowed");
        assert_eq!(limits.queued(), 450);
        limits.recount(&mut one, 0);
        limits.recount(&mut two, 0);
        assert_eq!(limits.queued(), 0);
    }
}
