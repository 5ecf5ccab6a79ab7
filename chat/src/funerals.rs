//! Funerals: the members and logins of connectors that are no more are taken out, and each leave is published once.
//!
//! Every chat looks after all incarnations, and remembers nothing that would be missed: whichever ends, others go on,
//! and any number at once does no harm, because each step is a script that may be repeated. A lease is declared over when
//! its beat has not changed for its length and a margin, by the time that passed here. No clock is asked, so one that is
//! set kills nobody; and neither does an outage of the store, because what this process did not see does not count.

use crate::metering::{DEATHS, HANDOVERS};
use crate::reaper::Reaper;
use channel_store::{
    ChannelName, Declared, DroppedBy, Incarnation, IndexEntry, LeaseState, Leases, Place,
    SETTLE_TIME, StoreError, UserId, UserRegistry,
};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use metrics::counter;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks at the directory and all leases.
const POLL: Duration = Duration::from_secs(1);
/// Between two looks at least, also when a lease is about to have been silent for long enough, or the store is slow.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// For so much longer than its length a lease must have been silent: its owner may have to connect again first, as this
/// process had to.
const MARGIN: Duration = Duration::from_millis(1_500);
/// Whoever has not seen a lease for longer than this begins to observe it anew: this process may have stood still, or the
/// store, and so perhaps did the lease's owner.
const LONGEST_GAP: Duration = Duration::from_millis(1_500);
/// Before a funeral that broke off begins again.
const RETRY: Duration = Duration::from_secs(1);
/// Runs of the script that reaps, at once, for one funeral.
const REAPS_OF_ONE: usize = 16;
/// Places that are looked at together.
const LOOKS: usize = 500;

/// Holds funerals until it is dropped.
pub(crate) struct Funerals {
    _task: AbortOnDropHandle<()>,
}

impl Funerals {
    /// Begins to look after the incarnations that these leases are of.
    #[must_use]
    pub(crate) fn begin(
        reaper: Arc<Reaper>,
        leases: Arc<dyn Leases>,
        registry: Arc<dyn UserRegistry>,
    ) -> Self {
        let parlour = Arc::new(Parlour {
            reaper,
            leases,
            registry,
        });
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(watch(parlour))),
        }
    }
}

/// What all funerals of this process share.
struct Parlour {
    reaper: Arc<Reaper>,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
}

/// How this chat came to know that an incarnation is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its lease ran out, and this chat said so.
    DeclaredHere,
    /// Its lease ran out, and another chat was faster.
    DeclaredElsewhere,
    /// It was over before this chat had seen it silent for long, as when a connector resigns.
    Found,
}

/// A lease that is not dead, as it was seen so far.
#[derive(Debug, Clone, Copy)]
struct Observation {
    beat: u64,
    length: Duration,
    /// When the answer had arrived that showed this beat for the first time.
    since: Instant,
    /// When the last such answer had arrived.
    seen: Instant,
}

#[derive(Default)]
struct Watch {
    observed: HashMap<Incarnation, Observation>,
    under_way: HashMap<Incarnation, AbortOnDropHandle<()>>,
}

async fn watch(parlour: Arc<Parlour>) {
    let mut watch = Watch::default();
    // Chats that began together need not look together.
    sleep(POLL.mul_f64(fastrand::f64())).await;
    loop {
        let polled = Instant::now();
        if let Err(error) = watch.poll(&parlour).await {
            tracing::debug!(%error, "the directory is out of sight");
            // What was seen before says nothing about the time in between.
            watch.observed.clear();
        }
        let earliest = Instant::now() + SHORTEST_PAUSE;
        sleep_until(watch.next_poll(polled).max(earliest)).await;
    }
}

impl Watch {
    /// A second after the last one, or as soon as a lease has been silent for long enough.
    fn next_poll(&self, polled: Instant) -> Instant {
        let ripe = self.observed.values().map(Observation::ripe);
        ripe.fold(polled + POLL, Instant::min)
    }

    async fn poll(&mut self, parlour: &Arc<Parlour>) -> Result<(), StoreError> {
        self.under_way.retain(|_, funeral| !funeral.is_finished());
        let directory = parlour.leases.directory().await?;
        let mut directory: Vec<_> = directory.into_iter().collect();
        // Those of whom nobody has heard for longest come first.
        directory.sort_by_key(|(_, noted)| *noted);
        let names: Vec<_> = directory.iter().map(|(name, _)| name.clone()).collect();
        let asked = Instant::now();
        let states = parlour.leases.observe(&names).await;
        let answered = Instant::now();
        let (mut observed, mut silent) = (HashMap::new(), Vec::new());
        for ((incarnation, noted), state) in directory.into_iter().zip(states) {
            let known = self.observed.remove(&incarnation);
            match state {
                // Whoever does not see it can't know that it is silent: it is observed anew.
                Err(error) => {
                    let name = incarnation.as_str();
                    tracing::debug!(%error, incarnation = name, "a lease is out of sight");
                }
                Ok(Some(state)) if state.dead => {
                    let was_silent = known.is_some_and(|it| it.has_ended(asked));
                    self.begin_funeral(parlour, incarnation, noted, Death::seen(was_silent));
                }
                Ok(Some(state)) => {
                    let observation = Observation::after(known, &state, answered);
                    if observation.is_ripe(asked) {
                        silent.push((incarnation, noted, state.beat, Death::DeclaredHere));
                    } else {
                        observed.insert(incarnation, observation);
                    }
                }
                // Lost: it comes back, and is observed from then on.
                Ok(None) => silent.push((incarnation, noted, 0, Death::Found)),
            }
        }
        self.observed = observed;
        let declared = silent.iter().map(|(incarnation, _, beat, _)| {
            let leases = &parlour.leases;
            leases.declare_dead(incarnation, *beat)
        });
        let declared = join_all(declared).await;
        for ((incarnation, noted, _, death), declared) in silent.into_iter().zip(declared) {
            match declared {
                Ok(Declared::Dead) => self.begin_funeral(parlour, incarnation, noted, death),
                Ok(Declared::Alive | Declared::Provisional) => {}
                Err(error) => {
                    let name = incarnation.as_str();
                    tracing::debug!(%error, incarnation = name, "not declared dead");
                }
            }
        }
        Ok(())
    }

    /// Unless it is under way.
    fn begin_funeral(
        &mut self,
        parlour: &Arc<Parlour>,
        incarnation: Incarnation,
        noted: u64,
        death: Death,
    ) {
        let funeral = self.under_way.entry(incarnation.clone());
        funeral.or_insert_with(|| {
            death.count();
            let held = Arc::clone(parlour).hold(incarnation, noted, death);
            AbortOnDropHandle::new(tokio::spawn(held))
        });
    }
}

impl Death {
    /// Another chat or its owner has written it. Other chats begin to observe at another moment, but all of them wait for
    /// longer than the lease; an owner that resigns has renewed it shortly before.
    fn seen(was_silent: bool) -> Self {
        if was_silent {
            Self::DeclaredElsewhere
        } else {
            Self::Found
        }
    }

    fn count(self) {
        match self {
            Self::DeclaredHere => counter!(DEATHS).increment(1),
            Self::DeclaredElsewhere => {}
            Self::Found => counter!(HANDOVERS).increment(1),
        }
    }
}

impl Observation {
    /// What is known after another look. It begins anew when the lease was renewed, and when it was out of sight for too
    /// long.
    fn after(known: Option<Self>, state: &LeaseState, seen: Instant) -> Self {
        let LeaseState { beat, length, .. } = *state;
        let is_same = |it: &Self| (it.beat, it.length) == (beat, length);
        let is_close = |it: &Self| seen.duration_since(it.seen) <= LONGEST_GAP;
        let known = known.filter(|it| is_same(it) && is_close(it));
        Self {
            beat,
            length,
            since: known.map_or(seen, |it| it.since),
            seen,
        }
    }

    /// When the lease will have been silent for long enough.
    fn ripe(&self) -> Instant {
        self.since + self.length + MARGIN
    }

    /// True if a question that was asked then, and found the same beat, shows that it was silent for long enough.
    fn is_ripe(&self, asked: Instant) -> bool {
        asked >= self.ripe()
    }

    /// True if its owner has missed the lease's end.
    fn has_ended(&self, asked: Instant) -> bool {
        asked >= self.since + self.length
    }
}

impl Parlour {
    /// One funeral. If it breaks off, a later poll begins it again.
    async fn hold(self: Arc<Self>, incarnation: Incarnation, noted: u64, death: Death) {
        let name = incarnation.as_str();
        // A death is told once, by the chat that declared it. A connector that resigns says so itself.
        if death == Death::DeclaredHere {
            tracing::info!(
                incarnation = name,
                "connector declared dead: taking its members out"
            );
        } else {
            tracing::debug!(
                incarnation = name,
                ?death,
                "looking for what a connector left"
            );
        }
        match self.bury(&incarnation, noted).await {
            Ok(()) if death == Death::DeclaredHere => {
                tracing::info!(incarnation = name, "nothing is left of the dead connector");
            }
            Ok(()) => tracing::debug!(incarnation = name, "nothing is left of the connector"),
            Err(error) => {
                tracing::warn!(incarnation = name, %error, "taking out what a connector left has to begin again");
                sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }

    /// Until its index is empty, and has been for the settle time.
    async fn bury(&self, incarnation: &Incarnation, noted: u64) -> Result<(), StoreError> {
        loop {
            let mut index = self.leases.index(incarnation).await?;
            let was_empty = index.is_empty();
            // Whoever else is at it begins elsewhere.
            fastrand::shuffle(&mut index);
            let reaps = index.iter();
            let reaps = reaps.map(|it| self.reaper.reap(&it.place, incarnation));
            // All of them, whichever fail: one server that is away holds up no other's channels.
            let reaped = stream::iter(reaps.collect::<Vec<_>>()).buffer_unordered(REAPS_OF_ONE);
            let reaped: Vec<_> = reaped.collect().await;
            reaped.into_iter().collect::<Result<(), _>>()?;
            sleep(SETTLE_TIME).await;
            if was_empty && self.leases.index(incarnation).await?.is_empty() {
                return self.leases.unschedule(incarnation, noted).await;
            }
            for some in index.chunks(LOOKS) {
                self.drop_what_is_clean(incarnation, some).await?;
            }
        }
    }

    /// The second look. A tombstone that is gone says that the reaping was lost, too.
    async fn drop_what_is_clean(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<(), StoreError> {
        let (mut channels, mut users) = (Vec::new(), Vec::new());
        for entry in entries {
            match &entry.place {
                Place::Channel(channel) => channels.push((entry, channel.clone())),
                Place::User(user) => users.push((entry, user.clone())),
            }
        }
        let (of_channels, channels): (Vec<_>, Vec<ChannelName>) = channels.into_iter().unzip();
        let (of_users, users): (Vec<_>, Vec<UserId>) = users.into_iter().unzip();
        let looks = self.leases.presence(incarnation, &channels).await?;
        let is_clean = looks.iter().map(|it| it.sessions == 0 && it.tombstoned);
        let mut clean = which(&of_channels, is_clean);
        let looks = self.registry.entries(incarnation, &users).await?;
        let is_clean = looks.iter().map(|look| {
            let mut entries = look.entries.iter();
            look.tombstoned && entries.all(|it| it.incarnation != *incarnation)
        });
        clean.extend(which(&of_users, is_clean));
        let dropped = self
            .leases
            .index_drop(incarnation, &clean, DroppedBy::Reaper);
        dropped.await.map(drop)
    }
}

/// Those entries of which it is true.
fn which(entries: &[&IndexEntry], is_true: impl Iterator<Item = bool>) -> Vec<IndexEntry> {
    let entries = entries.iter().zip(is_true);
    let entries = entries.filter(|(_, is_true)| *is_true);
    entries.map(|(entry, _)| (*entry).clone()).collect()
}

#[cfg(test)]
mod tests;
