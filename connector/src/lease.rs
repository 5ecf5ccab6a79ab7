//! The connector's lease: what says that its members are no ghosts (MEMBERSHIP.md).
//!
//! One incarnation after another holds it. While one lives, its lease is renewed, and every channel where anything of it
//! may be stands in its index before a join is sent there. Once it was declared dead, as happens to a process that was
//! frozen, every socket is closed with a reason to reconnect, and the next incarnation begins. An outage of the store
//! closes nothing, and neither does a clock that is set: others declare it dead when they saw no renewal for long enough,
//! and a lease that is missing is taken again.

mod index;
mod patrol;
mod roster;

pub(crate) use patrol::count_repair;
pub(crate) use roster::Membership;

use crate::chat::Chat;
use crate::config::{ConfigError, new_incarnation};
use crate::metering::{DECLARED_DEAD, LEASE_AGE, LEASES_LOST};
use crate::registry::Registry;
use crate::suspects::Suspects;
use channel_store::{
    ChannelName, DEADLINE_MARGIN, Generation, Incarnation, Indexed, LEASE_MEMORY, Leases, Place,
    Renewed, SessionId, Shard, StoreError, User,
};
use index::Index;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use proto::v1::{LeaveRequest, Session as WireSession};
use roster::Roster;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;
/// After a renewal without an answer: well within the time that others observe a lease before they declare it over.
const RETRY: Duration = Duration::from_millis(150);
/// Between tries to index a channel for somebody who waits.
const INDEX_RETRY: Duration = Duration::from_millis(25);
/// How long a parting word may take.
const RESIGN: Duration = Duration::from_millis(500);

/// Holds a lease, by one incarnation after another.
pub struct Lease {
    id: String,
    length: Duration,
    leases: Arc<dyn Leases>,
    suspects: Arc<Suspects>,
    /// Bounds the calls of repairs.
    calls: Semaphore,
    tenure: Mutex<Option<Arc<Tenure>>>,
    /// Told when there is one.
    taken: Notify,
}

/// One incarnation's time.
struct Tenure {
    incarnation: Incarnation,
    length: Duration,
    /// By the store's clock, milliseconds: joins later than this have no effect.
    deadline: AtomicU64,
    /// When the last renewal began that found the incarnation alive.
    renewed: Mutex<Option<Instant>>,
    /// Told when there is another one. Not a `watch`, which wakes those who wait in any order.
    renewal: Notify,
    index: Mutex<Index>,
    roster: Roster,
    suspects: Arc<Suspects>,
    /// Joins and leaves are counted upwards.
    operations: AtomicU64,
    /// Server lifetimes that have answered so far.
    generations: Mutex<HashSet<Generation>>,
    /// Told when the lease is to be renewed at once.
    hurry: Notify,
    /// Told when it is known to be dead otherwise than by a renewal.
    condemned: Notify,
    /// It was noted in the directory once.
    noted: AtomicBool,
}

/// An incarnation that was declared dead.
#[must_use]
pub(crate) struct Dead(Arc<Tenure>);

/// A session's stay in some places, from before it comes there until nothing more is to be said of it: as long, they
/// stand in the index.
pub(crate) struct Stay {
    tenure: Arc<Tenure>,
    places: Vec<Place>,
}

impl Lease {
    /// Nothing is held before the connector serves. `length`: how long the store is to wait for a sign of life.
    ///
    /// # Errors
    /// [`ConfigError`]: the connector's name makes no incarnation.
    pub fn new(
        id: &str,
        length: Duration,
        leases: Arc<dyn Leases>,
        suspects: Arc<Suspects>,
    ) -> Result<Arc<Self>, ConfigError> {
        new_incarnation(id)?;
        Ok(Arc::new(Self {
            id: id.to_owned(),
            length,
            leases,
            suspects,
            calls: Semaphore::new(patrol::CALLS),
            tenure: Mutex::default(),
            taken: Notify::new(),
        }))
    }

    /// Tells which shard of the store holds a place.
    pub(crate) fn shards(&self) -> impl Fn(&Place) -> Shard + Send + Sync + 'static {
        let leases = Arc::clone(&self.leases);
        move |place| leases.shard(place)
    }

    /// Keeps the lease by a new incarnation, until that is dead: then everything of it is to be closed.
    pub(crate) async fn keep(&self, chat: &Chat, registry: &Registry) -> Dead {
        let tenure = loop {
            match new_incarnation(&self.id) {
                Ok(incarnation) => {
                    break Arc::new(self.tenure_of(incarnation));
                }
                Err(error) => tracing::error!(%error, "no new incarnation"),
            }
            sleep(RETRY).await;
        };
        tokio::select! {
            biased;
            () = self.renew_until_dead(&tenure) => {}
            never = self.patrol(&tenure, chat, registry) => match never {},
            () = self.listen(&tenure, registry) => {}
            () = tenure.condemned.notified() => {}
        }
        counter!(DECLARED_DEAD).increment(1);
        tracing::error!(incarnation = %tenure.incarnation, "declared dead");
        self.tenure.lock().take();
        Dead(tenure)
    }

    /// Nothing of a dead incarnation is left here: whatever is in the store may be buried.
    pub(crate) async fn give_up(&self, Dead(tenure): Dead) {
        self.resign(&tenure).await;
    }

    /// The connector ends: whatever is left of it may be buried at once, or after a grace.
    pub(crate) async fn end(&self, grace: Duration) {
        let Some(tenure) = self.tenure.lock().take() else {
            return;
        };
        if grace.is_zero() {
            return self.resign(&tenure).await;
        }
        let incarnation = &tenure.incarnation;
        let renewed = async {
            self.leases.renew(incarnation, grace).await?;
            self.leases.note(incarnation).await
        };
        match timeout(RESIGN, renewed).await {
            Ok(Ok(())) => tracing::info!(%incarnation, ?grace, "the lease ends by itself"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease ends when it ends"),
            Err(_) => tracing::warn!("the lease ends when it ends"),
        }
    }

    /// Returns when a session of the present incarnation may come to these places; `None`: not now.
    pub(crate) async fn enter(&self, places: Vec<Place>) -> Option<Stay> {
        let tenure = self.present().await;
        for place in &places {
            tenure.index.lock().enter(place);
        }
        let stay = Stay { tenure, places };
        let Stay { tenure, places } = &stay;
        loop {
            let entries = tenure.index.lock().unwritten(places);
            if entries.is_empty() {
                return Some(stay);
            }
            let added = self.leases.index_add(&tenure.incarnation, &entries).await;
            match added {
                Ok(Indexed::Yes) => {
                    tenure.index.lock().written(&entries);
                    return Some(stay);
                }
                Ok(Indexed::Dead) => {
                    tenure.condemned.notify_one();
                    return None;
                }
                Ok(Indexed::Lost) => tenure.hurry.notify_one(),
                Err(StoreError::Full) => return None,
                Err(error) => tracing::debug!(%error, "not indexed"),
            }
            sleep(INDEX_RETRY.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// The present tenure, as soon as there is one: who waits for it is served in turn.
    async fn present(&self) -> Arc<Tenure> {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if let Some(tenure) = self.tenure.lock().clone() {
                return tenure;
            }
            taken.await;
        }
    }

    /// Looks at whomever other connectors hint at.
    async fn listen(&self, tenure: &Tenure, registry: &Registry) {
        let mut hints = registry.listen(&tenure.incarnation);
        while let Some(user) = hints.recv().await {
            self.suspects.add(Place::User(user));
        }
        std::future::pending::<()>().await;
    }

    async fn renew_until_dead(&self, tenure: &Arc<Tenure>) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < LEASE_MEMORY / 2 {
            let began = Instant::now();
            let pause = match self.renew(tenure).await {
                Ok(true) => {
                    renewed = began;
                    (self.length / RENEWALS).saturating_sub(began.elapsed())
                }
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "not renewed");
                    RETRY.mul_f64(0.5 + fastrand::f64())
                }
            };
            gauge!(LEASE_AGE).set(renewed.elapsed().as_secs_f64());
            // Whichever comes first.
            let _ = timeout(pause, tenure.hurry.notified()).await;
        }
    }

    /// False if it is dead.
    async fn renew(&self, tenure: &Arc<Tenure>) -> Result<bool, StoreError> {
        let Tenure { incarnation, .. } = &**tenure;
        let noted = self.leases.note(incarnation).await;
        // Once it stands in the directory, a server that has lost that must not keep the lease from being renewed.
        if !tenure.noted.load(Ordering::Relaxed) {
            noted?;
            tenure.noted.store(true, Ordering::Relaxed);
        }
        let began = Instant::now();
        let (term, was_lost) = match self.leases.renew(incarnation, self.length).await? {
            Renewed::Dead => return Ok(false),
            Renewed::Live(term) => (term, false),
            Renewed::Lost(term) => (term, true),
        };
        let is_first = self.tenure.lock().is_none();
        if was_lost && !is_first {
            counter!(LEASES_LOST).increment(1);
            tracing::warn!(%incarnation, "the store has lost the lease: taken again");
        }
        let expected = tenure.index.lock().len_written();
        if term.indexed != expected || self.meet(tenure, &term.generation) {
            self.reconcile(tenure).await?;
        }
        if was_lost {
            self.suspects.extend(tenure.index.lock().places());
        }
        let deadline = term.until.saturating_add(milliseconds(DEADLINE_MARGIN));
        tenure.deadline.store(deadline, Ordering::Relaxed);
        *tenure.renewed.lock() = Some(began);
        tenure.renewal.notify_waiters();
        if is_first {
            tracing::info!(%incarnation, "lease taken");
            *self.tenure.lock() = Some(Arc::clone(tenure));
            self.taken.notify_waiters();
        }
        Ok(true)
    }

    /// Makes the index in the store what it is here: writes what is missing, and looks after what is unknown.
    async fn reconcile(&self, tenure: &Tenure) -> Result<(), StoreError> {
        let found = self.leases.index(&tenure.incarnation).await?;
        let missing = tenure.index.lock().reconcile(found);
        match self.leases.index_add(&tenure.incarnation, &missing).await? {
            Indexed::Yes => tenure.index.lock().written(&missing),
            Indexed::Lost => tenure.hurry.notify_one(),
            Indexed::Dead => tenure.condemned.notify_one(),
        }
        Ok(())
    }

    /// Said once: without it the lease ends by itself.
    async fn resign(&self, tenure: &Tenure) {
        let resign = async {
            self.leases.resign(&tenure.incarnation).await?;
            self.leases.note(&tenure.incarnation).await
        };
        match timeout(RESIGN, resign).await {
            Ok(Ok(())) => tracing::info!(incarnation = %tenure.incarnation, "resigned"),
            Ok(Err(error)) => tracing::warn!(%error, "not resigned"),
            Err(_) => tracing::warn!("not resigned in time"),
        }
    }

    fn tenure_of(&self, incarnation: Incarnation) -> Tenure {
        Tenure::new(incarnation, self.length, Arc::clone(&self.suspects))
    }

    /// One renewal, and nothing else.
    #[cfg(test)]
    pub(crate) async fn take(&self) -> Incarnation {
        let incarnation = new_incarnation(&self.id).unwrap();
        let tenure = Arc::new(self.tenure_of(incarnation.clone()));
        assert!(self.renew(&tenure).await.unwrap());
        incarnation
    }
}

impl Tenure {
    fn new(incarnation: Incarnation, length: Duration, suspects: Arc<Suspects>) -> Self {
        Self {
            incarnation,
            length,
            suspects,
            deadline: AtomicU64::new(0),
            renewed: Mutex::default(),
            renewal: Notify::new(),
            index: Mutex::default(),
            roster: Roster::default(),
            operations: AtomicU64::new(0),
            generations: Mutex::default(),
            hurry: Notify::new(),
            condemned: Notify::new(),
            noted: AtomicBool::new(false),
        }
    }

    /// A join or login was refused because its deadline is over by the clock of the server that it came to. If the
    /// incarnation is found alive in time: by how many milliseconds the deadline of another try may be later than what
    /// that clock showed.
    ///
    /// The lease is renewed first. A process that was frozen for long may have been declared dead, reaped, and forgotten by
    /// the place that it asks: without the renewal the other try would make a member that nobody looks for any more.
    async fn time_if_alive(&self, until: Instant) -> Option<u64> {
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

    fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What ends those of a session's memberships whose joins have smaller numbers.
    fn leave(
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

    fn wire_session(&self, session: &SessionId, operation: u64) -> WireSession {
        WireSession {
            incarnation: self.incarnation.to_string(),
            id: session.to_string(),
            operation,
        }
    }
}

impl Stay {
    /// Later than this, by the store's clock, a join must have no effect.
    pub(crate) fn deadline(&self) -> u64 {
        self.tenure.deadline.load(Ordering::Relaxed)
    }

    /// For one more try of what was refused as [`StoreError::Late`]: by how many milliseconds its deadline may be later
    /// than the time that came with the refusal. `None` unless the incarnation is found alive in time.
    pub(crate) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        self.tenure.time_if_alive(until).await
    }

    /// Whose session it is.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.tenure.incarnation
    }

    /// The incarnation was found to be declared dead.
    pub(crate) fn condemn(&self) {
        self.tenure.condemned.notify_one();
    }

    /// What the store has there may have to be put right.
    pub(crate) fn suspect(&self, place: Place) {
        self.tenure.suspects.add(place);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut index = self.tenure.index.lock();
        for place in &self.places {
            index.exit(place);
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
