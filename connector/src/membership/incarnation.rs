//! What a connector knows of one incarnation.

use super::index::Index;
use crate::random::unguessable;
use crate::suspects::Suspects;
use channel_store::{
    ChannelName, DEADLINE_MARGIN, Incarnation, Place, ServerLifetime, SessionId, User,
};
use parking_lot::Mutex;
use proto::connector::v1::{LeaveRequest, Session as WireSession};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The shard of a lease counts as away when it has not answered for this long. This is half of the time that a login
/// has until its join, so a login that finds the shard silent still gets into another incarnation.
pub(super) const SILENCE: Duration = Duration::from_millis(500);

/// No incarnation can be made of the connector's name.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The name is not allowed.
    #[error("--id {0}")]
    Id(#[from] channel_store::NameError),
    /// The system gives no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(#[from] getrandom::Error),
}

/// An incarnation: the operator's name for the connector, and an id that is never used again. So nothing that was meant
/// for an earlier process can touch this one.
///
/// # Errors
/// [`NameError`].
pub fn new_incarnation(id: &str) -> Result<Incarnation, NameError> {
    let random = unguessable::<6>()?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Incarnation::new(format!("{id}:{hex}"))?)
}

/// The lease and the index of one incarnation, and what was noticed about them.
pub(super) struct HeldLease {
    pub(super) incarnation: Incarnation,
    length: Duration,
    /// The end of the lease and the margin after it, by the store's clock in milliseconds. A join or login that arrives
    /// later is refused.
    deadline: AtomicU64,
    /// When the last renewal began that found the incarnation alive.
    pub(super) renewed: Mutex<Option<Instant>>,
    /// What the clock of the store's server was at the last renewal, in milliseconds since 1970.
    clock: Mutex<Option<(Instant, u64)>>,
    /// Told after each renewal. Not a `watch`, which wakes the waiting tasks in any order.
    renewal: Notify,
    pub(super) index: Mutex<Index>,
    /// Places of this incarnation that must be looked at soon.
    pub(super) suspects: Suspects,
    /// Sessions whose clients were told that they are logged in, and are not gone.
    sessions: AtomicU64,
    /// The last operation number. Joins and leaves are counted upwards.
    operations: AtomicU64,
    /// Server lifetimes that have answered so far.
    pub(super) lifetimes: Mutex<HashSet<ServerLifetime>>,
    /// Told when the lease must be renewed at once.
    pub(super) renew_now: Notify,
    /// Told when something else than a renewal shows that the incarnation was declared dead.
    pub(super) found_dead: Notify,
    /// The incarnation was scheduled in the directory at least once.
    pub(super) scheduled: AtomicBool,
    /// The incarnation is dead. Nothing may begin in its name any more.
    pub(super) over: AtomicBool,
    /// Whether the shard of its lease answers.
    questions: Mutex<ShardQuestions>,
}

/// The questions to the shard of a lease.
#[derive(Default)]
struct ShardQuestions {
    /// The number of questions that are not answered yet.
    asked: usize,
    /// Since when the shard has been asked without an answer. A question that was given up counts until the next
    /// answer.
    since: Option<Instant>,
}

/// A question to the shard of a lease. If it is dropped, it was given up, or has failed.
#[must_use]
pub(super) struct Asking<'a> {
    lease: &'a HeldLease,
    answered: bool,
}

impl Asking<'_> {
    /// The shard has answered, whatever the answer is. True if it was away before.
    pub(super) fn answered(mut self) -> bool {
        self.answered = true;
        self.lease.is_silent()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut questions = self.lease.questions.lock();
        questions.asked -= 1;
        if self.answered {
            questions.since = (questions.asked > 0).then(Instant::now);
        } else {
            // It may take long until the shard is asked again. A renewal finds out now.
            self.lease.renew_now.notify_one();
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
            clock: Mutex::default(),
            renewal: Notify::new(),
            index: Mutex::default(),
            sessions: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            lifetimes: Mutex::default(),
            renew_now: Notify::new(),
            found_dead: Notify::new(),
            scheduled: AtomicBool::new(false),
            over: AtomicBool::new(false),
            questions: Mutex::default(),
        }
    }

    /// Notes that the shard of the lease is being asked.
    pub(super) fn ask(&self) -> Asking<'_> {
        let mut questions = self.questions.lock();
        questions.asked += 1;
        questions.since.get_or_insert_with(Instant::now);
        Asking {
            lease: self,
            answered: false,
        }
    }

    /// When the shard of the lease begins to count as away, unless it answers before; `None` if nothing was asked since
    /// its last answer.
    pub(super) fn silent_from(&self) -> Option<Instant> {
        self.questions.lock().since.map(|since| since + SILENCE)
    }

    /// True if the shard of its lease is away.
    pub(super) fn is_silent(&self) -> bool {
        let from = self.silent_from();
        from.is_some_and(|from| from <= Instant::now())
    }

    /// Notes the lifetime of a server that has answered. True: it is a further one, so the server may have begun on
    /// older data. Then every place in the index is suspected.
    pub(super) fn note_lifetime(&self, lifetime: &ServerLifetime) -> bool {
        let mut lifetimes = self.lifetimes.lock();
        let is_new = lifetimes.insert(lifetime.clone()) && lifetimes.len() > 1;
        if is_new {
            self.suspects.extend(self.index.lock().places());
        }
        is_new
    }

    /// The number of live sessions.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Joins and logins that arrive later are refused: by the store's clock, in milliseconds.
    pub(super) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// A renewal that began at `began` has found the incarnation alive.
    pub(super) fn renewed(&self, began: Instant, until: u64) {
        let deadline = until.saturating_add(milliseconds(DEADLINE_MARGIN));
        self.deadline.store(deadline, Ordering::Relaxed);
        *self.renewed.lock() = Some(began);
        *self.clock.lock() = Some((began, until.saturating_sub(milliseconds(self.length))));
        self.renewal.notify_waiters();
    }

    /// How long ago it was this time by the clock of the store's server, as far as that is known from the last renewal.
    /// The own clock goes on while the process is frozen. `None`: the lease was never renewed.
    pub(super) fn age(&self, time: u64) -> Option<Duration> {
        let (at, clock) = (*self.clock.lock())?;
        let now = clock.saturating_add(milliseconds(at.elapsed()));
        Some(Duration::from_millis(now.saturating_sub(time)))
    }

    /// A join or login was refused as late by the clock of its server. If the incarnation is found alive until `until`,
    /// returns by how many milliseconds a second try may be later than the time that came with the refusal.
    ///
    /// The lease is renewed first. A process that was frozen for long may have been declared dead and reaped, and its
    /// tombstones may have expired. Without the renewal, the second try could create a member that nobody looks for.
    pub(super) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        let asked = Instant::now();
        self.renew_now.notify_one();
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

    /// A request that ends the session's membership, if its join has a smaller number.
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
            session: Some(self.wire_session(session)),
            operation,
            fence,
        }
    }

    pub(super) fn wire_session(&self, session: &SessionId) -> WireSession {
        WireSession {
            incarnation: self.incarnation.to_string(),
            id: session.to_string(),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts a live session of an incarnation while it exists.
pub(super) struct LiveSession(Arc<HeldLease>);

impl LiveSession {
    pub(super) fn begin(guard: &IndexGuard) -> Self {
        guard.lease.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&guard.lease))
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a session at its places. While it exists, the entries of these places stay in the index of the session's
/// incarnation.
pub(crate) struct IndexGuard {
    pub(super) lease: Arc<HeldLease>,
    pub(super) places: Vec<Place>,
}

impl IndexGuard {
    /// Counts the session. The entries may have to be written yet.
    pub(super) fn begin(lease: Arc<HeldLease>, mut places: Vec<Place>) -> Self {
        places.shrink_to_fit();
        {
            let mut index = lease.index.lock();
            for place in &places {
                index.enter(place);
            }
        }
        Self { lease, places }
    }

    /// A join that arrives later must have no effect: by the store's clock, in milliseconds.
    pub(crate) fn deadline(&self) -> u64 {
        self.lease.deadline()
    }

    /// For a second try of a call that was refused as [`channel_store::StoreError::Late`]: by how many milliseconds its
    /// deadline may be later than the time that came with the refusal. `None` unless the incarnation is found alive in
    /// time.
    pub(crate) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        self.lease.time_if_alive(until).await
    }

    /// The incarnation of the session.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.lease.incarnation
    }

    /// True if the incarnation is dead, so that nothing new may begin in its name.
    pub(crate) fn is_over(&self) -> bool {
        self.lease.is_over()
    }

    /// Something shows that the incarnation was declared dead.
    pub(crate) fn found_dead(&self) {
        self.lease.found_dead.notify_one();
    }

    /// The places that must be looked at.
    #[cfg(test)]
    pub(crate) fn suspects(&self) -> &crate::suspects::Suspects {
        &self.lease.suspects
    }

    /// Lets the reconciler look at this place soon.
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
