//! The leases that a connector holds.

use super::incarnation::{HeldLease, NameError, new_incarnation};
use super::members::Roster;
use crate::metering::{LEASE_AGE, LEASES_AWAY};
use crate::suspects::Suspects;
#[cfg(test)]
use channel_store::Incarnation;
use channel_store::{Leases, Place, Shard};
use metrics::gauge;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// The most calls that all repairs together have under way.
pub(super) const CALLS: usize = 64;

/// Holds the connector's leases.
pub struct LeaseKeeper {
    pub(super) id: String,
    pub(super) length: Duration,
    pub(super) leases: Arc<dyn Leases>,
    /// Places of this connector that must be looked at soon, whichever incarnation they belong to.
    pub(super) suspects: Arc<Suspects>,
    /// Bounds the calls of the repairs.
    pub(super) calls: Semaphore,
    /// The leases that are held, oldest first.
    pub(super) held: Mutex<Vec<Arc<HeldLease>>>,
    /// Told when a lease is taken, or when its shard answers again.
    pub(super) changed: Notify,
    /// Told when the shard of a lease is being asked.
    pub(super) asked: Notify,
    /// The memberships of all sessions of all incarnations.
    pub(super) roster: Arc<Roster>,
    /// When the last renewal of any lease began.
    pub(super) renewed: watch::Sender<Option<Instant>>,
}

impl LeaseKeeper {
    /// Takes no lease before the connector serves. `length`: how long a lease lives without a renewal.
    ///
    /// # Errors
    /// [`NameError`]: the connector's name makes no incarnation.
    pub fn new(
        id: &str,
        length: Duration,
        leases: Arc<dyn Leases>,
        suspects: Arc<Suspects>,
    ) -> Result<Arc<Self>, NameError> {
        new_incarnation(id)?;
        Ok(Arc::new(Self {
            id: id.to_owned(),
            length,
            leases,
            suspects,
            calls: Semaphore::new(CALLS),
            held: Mutex::default(),
            changed: Notify::new(),
            asked: Notify::new(),
            roster: Arc::default(),
            renewed: watch::Sender::new(None),
        }))
    }

    /// Tells which shard of the store holds a place.
    pub(crate) fn shards(&self) -> impl Fn(&Place) -> Shard + Send + Sync + 'static {
        let leases = Arc::clone(&self.leases);
        move |place| leases.shard(place)
    }

    /// The number of live sessions.
    pub(crate) fn sessions(&self) -> u64 {
        self.held.lock().iter().map(|lease| lease.sessions()).sum()
    }

    /// The memberships of this connector.
    pub(crate) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// True while a lease was renewed within its length. Then nobody declares the connector dead, and new sessions can
    /// come.
    pub fn held(&self) -> watch::Receiver<bool> {
        let (held, is_held) = watch::channel(false);
        let (mut renewed, length) = (self.renewed.subscribe(), self.length);
        tokio::spawn(async move {
            loop {
                let last = *renewed.borrow_and_update();
                let until = last.map(|last| last + length);
                let is_now = until.is_some_and(|until| until > Instant::now());
                held.send_if_modified(|was| std::mem::replace(was, is_now) != is_now);
                let next = renewed.changed();
                let changed = match until.filter(|_| is_now) {
                    Some(until) => timeout_at(until, next).await.unwrap_or(Ok(())),
                    None => next.await,
                };
                if changed.is_err() || held.is_closed() {
                    return;
                }
            }
        });
        is_held
    }

    /// What is wrong with the leases, in words for an operator; `None`: nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let held = self.held.lock();
        if held.is_empty() {
            return Some("no lease could be taken in Redis yet: nobody can log in".to_owned());
        }
        let silent = held.iter().filter(|it| it.is_silent());
        let silent: Vec<_> = silent.map(|it| it.incarnation.as_str()).collect();
        let names = silent.join(", ");
        match (silent.len(), held.len()) {
            (0, _) => None,
            (away, all) if away == all => Some(format!(
                "the lease of {names} can't be renewed in Redis: nobody new can log in"
            )),
            _ => Some(format!(
                "the lease of {names} is on a shard that is away; new sessions belong to another one"
            )),
        }
    }

    /// Sets the metrics.
    pub(super) fn report(&self) {
        let held = self.held.lock();
        let renewed = held.iter().filter_map(|it| *it.renewed.lock());
        if let Some(last) = renewed.max() {
            gauge!(LEASE_AGE).set(last.elapsed().as_secs_f64());
        }
        let away = held.iter().filter(|it| it.is_silent()).count();
        #[expect(clippy::cast_precision_loss, reason = "there are three at most")]
        gauge!(LEASES_AWAY).set(away as f64);
    }

    /// The number of leases that are held.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// Takes a lease by one renewal, and does nothing else.
    #[cfg(test)]
    pub(crate) async fn take(&self) -> Incarnation {
        let incarnation = new_incarnation(&self.id).unwrap();
        let lease = Arc::new(HeldLease::new(incarnation.clone(), self.length));
        assert!(self.renew(&lease).await.unwrap());
        incarnation
    }
}
