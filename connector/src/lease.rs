//! The connector's leases: what says that its members are no ghosts.
//!
//! An incarnation holds a lease. While it lives, its lease is renewed, and every channel where anything of it may be stands
//! in its index before a join is sent there. Once it was declared dead, as happens to a process that was frozen, the sockets
//! of its sessions are closed with a reason to reconnect, and the next incarnation begins. An outage of the store closes
//! nothing, and neither does a clock that is set: others declare it dead when they saw no renewal for long enough, and a
//! lease that is missing is taken again.
//!
//! Lease and index of an incarnation lie on one shard of the store. While that shard is away, nothing can be indexed there, so
//! nobody new could come in, though all other shards answer. So the connector begins a further incarnation then, whose name
//! falls on a shard that answers, and new sessions belong to that one. A session stays with its incarnation for life. When
//! the first lease is renewed again, new sessions belong to the first incarnation again, and the further one is given up once
//! nothing is left of it.

mod index;
mod patrol;
mod renewal;
mod roster;
mod stay;
mod tenure;

pub(crate) use patrol::count_repair;
pub(crate) use roster::Membership;
pub(crate) use stay::Stay;

use crate::chat::Chat;
use crate::config::{ConfigError, new_incarnation};
use crate::metering::{DECLARED_DEAD, LEASE_AGE, LEASES_AWAY};
use crate::registry::Registry;
use crate::suspects::Suspects;
use channel_store::{Incarnation, Indexed, Leases, Place, Shard, StoreError};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tenure::Tenure;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Incarnations that a connector has at once at most, dead ones included until their sockets are closed.
const MOST: usize = 3;
/// The shard of a lease is away when it has not answered for so long. It is half of the time that a login has until its
/// join: who finds the shard silent still gets into another incarnation.
const SILENCE: Duration = Duration::from_millis(500);
/// Names that are drawn to find one on a shard that answers.
const NAMES: usize = 32;
/// Before another incarnation is tried to begin, after that did not work.
const BEGIN_AGAIN: Duration = Duration::from_millis(500);
/// Between tries to index a channel for somebody who waits.
const INDEX_RETRY: Duration = Duration::from_millis(25);
/// Places under suspicion that are handed on at once.
const SUSPECTS: usize = 500;

/// Holds the connector's leases.
pub struct Lease {
    id: String,
    length: Duration,
    leases: Arc<dyn Leases>,
    /// Places where anything of this connector is in doubt, whichever incarnation's it is.
    suspects: Arc<Suspects>,
    /// Bounds the calls of repairs.
    calls: Semaphore,
    /// Those that are held. The one that was taken first comes first.
    tenures: Mutex<Vec<Arc<Tenure>>>,
    /// Told when a lease is taken, or its shard answers again.
    changed: Notify,
    /// Told when the shard of a lease is asked something.
    asked: Notify,
    /// When a lease was renewed last, whichever it was.
    renewed: watch::Sender<Option<Instant>>,
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
            tenures: Mutex::default(),
            changed: Notify::new(),
            asked: Notify::new(),
            renewed: watch::Sender::new(None),
        }))
    }

    /// Tells which shard of the store holds a place.
    pub(crate) fn shards(&self) -> impl Fn(&Place) -> Shard + Send + Sync + 'static {
        let leases = Arc::clone(&self.leases);
        move |place| leases.shard(place)
    }

    /// Keeps at least one lease that is renewed, as far as the store answers. When an incarnation is declared dead, the
    /// sockets of its sessions are closed, and of no others.
    pub(crate) async fn keep(&self, chat: &Chat, registry: &Registry) -> Infallible {
        let mut begun: Vec<Arc<Tenure>> = Vec::new();
        let mut served = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(over) = served.next() => begun.retain(|it| !Arc::ptr_eq(it, &over)),
                tenure = self.another(&begun) => {
                    begun.push(Arc::clone(&tenure));
                    served.push(self.serve(tenure, chat, registry));
                }
                never = self.hand_on_suspects() => match never {},
            }
        }
    }

    /// One incarnation, until it is dead or given up, and nothing of it is left here.
    async fn serve(&self, tenure: Arc<Tenure>, chat: &Chat, registry: &Registry) -> Arc<Tenure> {
        let is_dead = tokio::select! {
            biased;
            is_dead = self.renew_until_over(&tenure) => is_dead,
            never = self.patrol(&tenure, chat, registry) => match never {},
            never = tenure.listen(registry) => match never {},
            () = tenure.condemned.notified() => true,
        };
        let Tenure { incarnation, .. } = &*tenure;
        if is_dead {
            counter!(DECLARED_DEAD).increment(1);
            tracing::error!(%incarnation, "declared dead");
            // A login that registers from now on sees that it is over. Those that registered before are found below.
            tenure.over.store(true, Ordering::SeqCst);
            self.tenures.lock().retain(|it| !Arc::ptr_eq(it, &tenure));
            self.asked.notify_one();
            registry.close_all_of(incarnation).await;
        } else {
            tracing::info!(%incarnation, "given up: the other lease is renewed again");
        }
        // Nothing of it is left here: whatever is in the store may be buried.
        self.resign(&tenure).await;
        tenure
    }

    /// Another incarnation, as soon as one is wanted: none is there, or none has a shard that answers while another shard
    /// does.
    async fn another(&self, begun: &[Arc<Tenure>]) -> Arc<Tenure> {
        loop {
            self.is_silent(begun).await;
            if begun.len() < MOST {
                match self.name(begun).await {
                    // Meanwhile it may have answered.
                    Some(_) if !is_silent_now(begun) => continue,
                    Some(incarnation) => return Arc::new(Tenure::new(incarnation, self.length)),
                    None => {}
                }
            }
            sleep(BEGIN_AGAIN.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Returns when no incarnation that lives has a shard that answers.
    async fn is_silent(&self, begun: &[Arc<Tenure>]) {
        while !is_silent_now(begun) {
            let living = begun.iter().filter(|it| !it.is_over());
            let from = living
                .map(|it| it.silent_from())
                .collect::<Option<Vec<_>>>();
            match from.and_then(|from| from.into_iter().max()) {
                Some(from) => sleep_until(from).await,
                None => self.asked.notified().await,
            }
        }
    }

    /// A new name on a shard that answers, and on none of those that are known not to. The first incarnation takes any: if
    /// its shard does not answer, another one begins soon.
    async fn name(&self, begun: &[Arc<Tenure>]) -> Option<Incarnation> {
        let draw = || {
            let drawn = new_incarnation(&self.id);
            drawn
                .inspect_err(|error| tracing::error!(%error, "no new incarnation"))
                .ok()
        };
        if begun.iter().all(|it| it.is_over()) {
            return draw();
        }
        let silent = begun.iter().filter(|it| !it.is_over());
        let silent = silent.map(|it| self.leases.home(&it.incarnation));
        let silent: BTreeSet<Shard> = silent.collect();
        let mut names = BTreeMap::new();
        for _ in 0..NAMES {
            let name = draw()?;
            let shard = self.leases.home(&name);
            if !silent.contains(&shard) {
                names.entry(shard).or_insert(name);
            }
        }
        let asked = names.into_values().map(async |name| {
            let lease = self.leases.observe(slice::from_ref(&name));
            let lease = timeout(SILENCE, lease).await;
            matches!(lease.as_deref(), Ok([Ok(None)])).then_some(name)
        });
        let mut answers = asked.collect::<FuturesUnordered<_>>();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// What is suspected by others is looked at by each incarnation that may have something there.
    async fn hand_on_suspects(&self) -> Infallible {
        loop {
            let places = self.suspects.some(SUSPECTS).await;
            let tenures = self.tenures.lock().clone();
            for tenure in tenures {
                let known = tenure.index.lock().among(&places);
                tenure.suspects.extend(known);
            }
        }
    }

    /// The connector ends: whatever is left of it may be buried at once, or after a grace.
    pub(crate) async fn end(&self, grace: Duration) {
        let tenures = std::mem::take(&mut *self.tenures.lock());
        let ended = tenures.iter().map(async |tenure| {
            if grace.is_zero() {
                self.resign(tenure).await;
            } else {
                self.leave_to_itself(tenure, grace).await;
            }
        });
        join_all(ended).await;
    }

    /// Returns when a new session may come to these places; `None`: not now. It belongs to the incarnation that was taken
    /// first among those whose shard answers.
    pub(crate) async fn enter(&self, places: Vec<Place>) -> Option<Stay> {
        loop {
            let stay = self.stay(&places).await;
            tokio::select! {
                biased;
                indexed = self.indexed(&stay) => return indexed.then_some(stay),
                () = self.is_better_elsewhere(&stay.tenure) => {}
            }
        }
    }

    /// The same for a session that is there already: it belongs to its incarnation for life.
    pub(crate) async fn enter_beside(&self, present: &Stay, places: Vec<Place>) -> Option<Stay> {
        let stay = Stay::begin(Arc::clone(&present.tenure), places);
        self.indexed(&stay).await.then_some(stay)
    }

    /// True if a session could not come to this place, but would if its client came again: its own lease is on a shard that
    /// is away, the place is not, and another lease is renewed.
    pub(crate) fn is_better_off_anew(&self, present: &Stay, place: &Place) -> bool {
        let own = &present.tenure;
        let is_elsewhere = || self.leases.shard(place) != self.leases.home(&own.incarnation);
        own.is_silent() && is_elsewhere() && self.other_that_answers(own)
    }

    /// As soon as there is an incarnation: who waits for it is served in turn.
    async fn stay(&self, places: &[Place]) -> Stay {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                // Under the lock, so that none is given up meanwhile.
                let tenures = self.tenures.lock();
                let answers = tenures.iter().find(|it| !it.is_silent());
                if let Some(tenure) = answers.or(tenures.first()) {
                    return Stay::begin(Arc::clone(tenure), places.to_vec());
                }
            }
            changed.await;
        }
    }

    /// Returns when another incarnation's shard answers, and that of this one does not.
    async fn is_better_elsewhere(&self, tenure: &Arc<Tenure>) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if tenure.is_silent() && self.other_that_answers(tenure) {
                return;
            }
            match tenure.silent_from().filter(|_| !tenure.is_silent()) {
                Some(from) => {
                    let _ = timeout_at(from, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn other_that_answers(&self, tenure: &Arc<Tenure>) -> bool {
        let tenures = self.tenures.lock();
        let mut others = tenures.iter().filter(|it| !Arc::ptr_eq(it, tenure));
        others.any(|it| !it.is_silent())
    }

    /// True once the places of a stay stand in the index.
    async fn indexed(&self, stay: &Stay) -> bool {
        let Stay { tenure, places } = stay;
        loop {
            let entries = tenure.index.lock().unwritten(places);
            if entries.is_empty() {
                return true;
            }
            if tenure.is_over() {
                return false;
            }
            let asking = self.ask(tenure);
            let added = self.leases.index_add(&tenure.incarnation, &entries).await;
            if !matches!(added, Err(StoreError::Unavailable(_))) {
                self.answered(asking);
            }
            match added {
                Ok(Indexed::Yes) => {
                    tenure.index.lock().written(&entries);
                    return true;
                }
                Ok(Indexed::Dead) => {
                    tenure.condemned.notify_one();
                    return false;
                }
                Ok(Indexed::Lost) => tenure.hurry.notify_one(),
                Err(StoreError::Full) => return false,
                Err(error) => tracing::debug!(%error, "not indexed"),
            }
            sleep(INDEX_RETRY.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// True while a lease was renewed within its length: then others take the connector for well, and new sessions can
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

    /// What is wrong with the leases, for people; `None`: nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let tenures = self.tenures.lock();
        if tenures.is_empty() {
            return Some("no lease could be taken in Redis yet: nobody can log in".to_owned());
        }
        let silent = tenures.iter().filter(|it| it.is_silent());
        let silent: Vec<_> = silent.map(|it| it.incarnation.as_str()).collect();
        let names = silent.join(", ");
        match (silent.len(), tenures.len()) {
            (0, _) => None,
            (away, all) if away == all => Some(format!(
                "the lease of {names} can't be renewed in Redis: nobody new can log in"
            )),
            _ => Some(format!(
                "the lease of {names} is on a shard that is away; new sessions belong to another one"
            )),
        }
    }

    /// What the metrics tell.
    fn report(&self) {
        let tenures = self.tenures.lock();
        let renewed = tenures.iter().filter_map(|it| *it.renewed.lock());
        if let Some(last) = renewed.max() {
            gauge!(LEASE_AGE).set(last.elapsed().as_secs_f64());
        }
        let away = tenures.iter().filter(|it| it.is_silent()).count();
        #[expect(clippy::cast_precision_loss, reason = "there are three at most")]
        gauge!(LEASES_AWAY).set(away as f64);
    }

    /// How many leases are held.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.tenures.lock().len()
    }

    /// One renewal, and nothing else.
    #[cfg(test)]
    pub(crate) async fn take(&self) -> Incarnation {
        let incarnation = new_incarnation(&self.id).unwrap();
        let tenure = Arc::new(Tenure::new(incarnation.clone(), self.length));
        assert!(self.renew(&tenure).await.unwrap());
        incarnation
    }
}

/// True if none of those that live has a shard that answers.
fn is_silent_now(tenures: &[Arc<Tenure>]) -> bool {
    let mut living = tenures.iter().filter(|it| !it.is_over());
    living.all(|it| it.is_silent())
}

#[cfg(test)]
mod tests;
