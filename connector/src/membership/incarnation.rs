//! One incarnation's time.

use super::index::Index;
use crate::random::unguessable;
use crate::suspects::Suspects;
use channel_store::{
    ChannelName, DEADLINE_MARGIN, Incarnation, Place, ServerLifetime, SessionId, User,
};
use parking_lot::Mutex;
use proto::v1::{LeaveRequest, Session as WireSession};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The shard of a lease is away when it has not answered for so long. It is half of the time that a login has until its
/// join: who finds the shard silent still gets into another incarnation.
pub(super) const SILENCE: Duration = Duration::from_millis(500);

/// The connector's name makes no incarnation.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Not a name.
    #[error("--id {0}")]
    Id(#[from] channel_store::NameError),
    /// No randomness to be had.
    #[error("no random numbers from the system: {0}")]
    Random(#[from] getrandom::Error),
}

/// The operator's name for a connector with an id that is new with each start, so that nothing which was meant for an
/// earlier process can touch this one.
///
/// # Errors
/// [`NameError`].
pub fn new_incarnation(id: &str) -> Result<Incarnation, NameError> {
    let random = unguessable::<6>()?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Incarnation::new(format!("{id}:{hex}"))?)
}

/// What is known of one incarnation: its lease, its index, its members.
pub(super) struct HeldLease {
    pub(super) incarnation: Incarnation,
    length: Duration,
    /// By the store's clock, milliseconds: joins later than this have no effect.
    deadline: AtomicU64,
    /// When the last renewal began that found the incarnation alive.
    pub(super) renewed: Mutex<Option<Instant>>,
    /// Told when there is another one. Not a `watch`, which wakes those who wait in any order.
    renewal: Notify,
    pub(super) index: Mutex<Index>,
    /// Places of its own that are to be looked at.
    pub(super) suspects: Suspects,
    /// Joins and leaves are counted upwards.
    operations: AtomicU64,
    /// Server lifetimes that have answered so far.
    pub(super) lifetimes: Mutex<HashSet<ServerLifetime>>,
    /// Told when the lease is to be renewed at once.
    pub(super) hurry: Notify,
    /// Told when it is known to be dead otherwise than by a renewal.
    pub(super) condemned: Notify,
    /// It was noted in the directory once.
    pub(super) noted: AtomicBool,
    /// It is dead: nothing begins in its name any more.
    pub(super) over: AtomicBool,
    /// Whether the shard of its lease answers.
    line: Mutex<Line>,
}

/// Questions to the shard of a lease.
#[derive(Default)]
struct Line {
    /// Those that are not answered yet.
    asked: usize,
    /// Since when the shard has been asked and has not answered. A question that was given up counts, too, until the next
    /// answer.
    since: Option<Instant>,
}

/// A question to the shard of a lease. Dropped, it was given up, or failed.
#[must_use]
pub(super) struct Asking<'a> {
    lease: &'a HeldLease,
    answered: bool,
}

impl Asking<'_> {
    /// The shard has answered, whatever it said. True if it was away before.
    pub(super) fn answered(mut self) -> bool {
        self.answered = true;
        self.lease.is_silent()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut line = self.lease.line.lock();
        line.asked -= 1;
        if self.answered {
            line.since = (line.asked > 0).then(Instant::now);
        } else {
            // Nobody may ask again for a while: a renewal finds out.
            self.lease.hurry.notify_one();
        }
    }
}

impl HeldLease {
    pub(super) fn new(incarnation: Incarnation, length: Duration) -> Self {
        Self {
            incarnation,
            length,
            suspects: Suspects::default(),
            deadline: AtomicU64::new(0),
            renewed: Mutex::default(),
            renewal: Notify::new(),
            index: Mutex::default(),
            operations: AtomicU64::new(0),
            lifetimes: Mutex::default(),
            hurry: Notify::new(),
            condemned: Notify::new(),
            noted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            line: Mutex::default(),
        }
    }

    /// The shard of its lease is about to be asked something.
    pub(super) fn ask(&self) -> Asking<'_> {
        let mut line = self.line.lock();
        line.asked += 1;
        line.since.get_or_insert_with(Instant::now);
        Asking {
            lease: self,
            answered: false,
        }
    }

    /// From when on the shard of its lease counts as away, unless it answers before; `None` if nothing was asked since its
    /// last answer.
    pub(super) fn silent_from(&self) -> Option<Instant> {
        self.line.lock().since.map(|since| since + SILENCE)
    }

    /// True if the shard of its lease is away.
    pub(super) fn is_silent(&self) -> bool {
        let from = self.silent_from();
        from.is_some_and(|from| from <= Instant::now())
    }

    /// Another lifetime of a server may have begun on older data, wherever that server is asked: true if this one was
    /// not known.
    pub(super) fn meet(&self, lifetime: &ServerLifetime) -> bool {
        let mut lifetimes = self.lifetimes.lock();
        let is_new = lifetimes.insert(lifetime.clone()) && lifetimes.len() > 1;
        if is_new {
            self.suspects.extend(self.index.lock().places());
        }
        is_new
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// By the store's clock, milliseconds: joins later than this have no effect.
    pub(super) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// A renewal that began then has found it alive.
    pub(super) fn renewed(&self, began: Instant, until: u64) {
        let deadline = until.saturating_add(milliseconds(DEADLINE_MARGIN));
        self.deadline.store(deadline, Ordering::Relaxed);
        *self.renewed.lock() = Some(began);
        self.renewal.notify_waiters();
    }

    /// A join or login was refused because its deadline is over by the clock of the server that it came to. If the
    /// incarnation is found alive in time: by how many milliseconds the deadline of another try may be later than what
    /// that clock showed.
    ///
    /// The lease is renewed first. A process that was frozen for long may have been declared dead, reaped, and forgotten by
    /// the place that it asks: without the renewal the other try would make a member that nobody looks for any more.
    pub(super) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        let asked = Instant::now();
        self.hurry.notify_one();
        let is_alive = async {
            loop {
                let renewal = self.renewal.notified();
                tokio::pin!(renewal);
                renewal.as_mut().enable();
                if self.renewed.lock().is_some_and(|began| began >= asked) {
                    return;
                }
                renewal.await;
            }
        };
        timeout_at(until, is_alive).await.ok()?;
        Some(milliseconds(self.length + DEADLINE_MARGIN))
    }

    pub(super) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What ends those of a session's memberships whose joins have smaller numbers.
    pub(super) fn leave(
        &self,
        channel: &ChannelName,
        user: &User,
        session: &SessionId,
        operation: u64,
        fence: bool,
    ) -> LeaveRequest {
        LeaveRequest {
            channel: channel.to_string(),
            user: user.id.to_string(),
            user_is_number: user.is_number,
            session: Some(self.wire_session(session, operation)),
            fence,
        }
    }

    pub(super) fn wire_session(&self, session: &SessionId, operation: u64) -> WireSession {
        WireSession {
            incarnation: self.incarnation.to_string(),
            id: session.to_string(),
            operation,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As long as it exists, its places stand in the index of the incarnation to which its session belongs.
pub(crate) struct IndexGuard {
    pub(super) lease: Arc<HeldLease>,
    pub(super) places: Vec<Place>,
}

impl IndexGuard {
    /// From now on these places are to stand in the index.
    pub(super) fn begin(lease: Arc<HeldLease>, places: Vec<Place>) -> Self {
        {
            let mut index = lease.index.lock();
            for place in &places {
                index.enter(place);
            }
        }
        Self { lease, places }
    }

    /// Later than this, by the store's clock, a join must have no effect.
    pub(crate) fn deadline(&self) -> u64 {
        self.lease.deadline()
    }

    /// For one more try of what was refused as [`channel_store::StoreError::Late`]: by how many milliseconds its deadline
    /// may be later than the time that came with the refusal. `None` unless the incarnation is found alive in time.
    pub(crate) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        self.lease.time_if_alive(until).await
    }

    /// Whose session it is.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.lease.incarnation
    }

    /// True once the incarnation is over: nothing new may begin in its name.
    pub(crate) fn is_over(&self) -> bool {
        self.lease.is_over()
    }

    /// The incarnation was found to be declared dead.
    pub(crate) fn condemn(&self) {
        self.lease.condemned.notify_one();
    }

    /// What is to be looked at.
    #[cfg(test)]
    pub(crate) fn suspects(&self) -> &crate::suspects::Suspects {
        &self.lease.suspects
    }

    /// What the store has there may have to be put right.
    pub(crate) fn suspect(&self, place: Place) {
        self.lease.suspects.add(place);
    }
}

impl Drop for IndexGuard {
    fn drop(&mut self) {
        let mut index = self.lease.index.lock();
        for place in &self.places {
            index.exit(place);
        }
    }
}
