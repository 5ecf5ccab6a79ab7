//! Reaps dead connectors: their members and logins are taken out, and each leave is published once.
//!
//! Every chat watches the leases of all incarnations, and keeps nothing that would be missed. If one chat ends, the others
//! go on; and any number of chats may reap the same connector at once, because each step is a script that may be repeated.
//!
//! A chat declares a connector dead when the beat of its lease has not changed for the length of the lease and a margin, by
//! the time that has passed in this process. No clock is read, so a clock that is set declares nobody dead. An outage of the
//! store declares nobody dead either: the time in which this process could not see the lease does not count.

use super::places::PlaceReaper;
use crate::metering::{DEATHS, HANDOVERS};
use channel_store::{
    ChannelName, Declared, DroppedBy, Incarnation, IndexEntry, LeaseState, Leases, Place,
    SETTLE_TIME, StoreError, UserId, UserRegistry,
};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use metrics::counter;
use runtime::backoff::pause;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// The time between two looks at the directory and all leases.
const POLL: Duration = Duration::from_secs(1);
/// The least time between two looks, also when a lease will soon have been silent for long enough, or the store is slow.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// A lease must have been silent for so much longer than its length, because its owner may have to connect to the store
/// again first.
const MARGIN: Duration = Duration::from_millis(1_500);
/// If a lease was not seen for longer than this, its observation begins anew. This process or the store may have stood still,
/// and so may the lease's owner.
const LONGEST_GAP: Duration = Duration::from_millis(1_500);
/// The pause before reaping that failed begins again.
const RETRY: Duration = Duration::from_secs(1);
/// How many places of one connector are reaped at once.
const PLACES_AT_ONCE: usize = 16;
/// How many places are checked in one call.
const CHECKED_AT_ONCE: usize = 500;

/// Watches leases and reaps dead connectors until it is dropped.
pub(crate) struct Reaper {
    _task: AbortOnDropHandle<()>,
}

impl Reaper {
    /// Begins to watch these leases.
    #[must_use]
    pub(crate) fn begin(
        places: Arc<PlaceReaper>,
        leases: Arc<dyn Leases>,
        registry: Arc<dyn UserRegistry>,
    ) -> Self {
        let shared = Arc::new(Shared {
            places,
            leases,
            registry,
        });
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(watch(shared))),
        }
    }
}

/// What reaping needs, for every connector.
struct Shared {
    places: Arc<PlaceReaper>,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
}

/// How this chat learned that an incarnation is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its lease ran out, and this chat declared it dead.
    DeclaredHere,
    /// It had ended and left its lease to itself, for the grace. The lease ran out, and this chat declared it dead.
    LeftToItself,
    /// Its lease ran out, and another chat was faster.
    DeclaredElsewhere,
    /// It was dead before this chat had seen it silent for long. For example, a connector that stops resigns.
    Found,
}

/// What was seen so far of a lease that is not dead.
#[derive(Debug, Clone, Copy)]
struct Observation {
    beat: u64,
    length: Duration,
    /// When the first answer with this beat arrived.
    since: Instant,
    /// When the last answer with this beat arrived.
    seen: Instant,
}

#[derive(Default)]
struct Watch {
    observed: HashMap<Incarnation, Observation>,
    reaping: HashMap<Incarnation, AbortOnDropHandle<()>>,
}

async fn watch(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    // Chats that started together should not all look at the same moment.
    sleep(POLL.mul_f64(fastrand::f64())).await;
    loop {
        let polled = Instant::now();
        if let Err(error) = watch.poll(&shared).await {
            tracing::debug!(%error, "cannot read the directory of connectors");
            // The observations so far say nothing about the time in between.
            watch.observed.clear();
        }
        let earliest = Instant::now() + SHORTEST_PAUSE;
        sleep_until(watch.next_poll(polled).max(earliest)).await;
    }
}

impl Watch {
    /// The next look comes a second after the last one, or as soon as a lease has been silent for long enough.
    fn next_poll(&self, polled: Instant) -> Instant {
        let ripe = self.observed.values().map(Observation::ripe);
        ripe.fold(polled + POLL, Instant::min)
    }

    async fn poll(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        self.reaping.retain(|_, task| !task.is_finished());
        let directory = shared.leases.directory().await?;
        let mut directory: Vec<_> = directory.into_iter().collect();
        // Connectors that nobody has heard of for longest come first.
        directory.sort_by_key(|(_, number)| *number);
        let names: Vec<_> = directory.iter().map(|(name, _)| name.clone()).collect();
        let asked = Instant::now();
        let states = shared.leases.observe(&names).await;
        let answered = Instant::now();
        let (mut observed, mut silent) = (HashMap::new(), Vec::new());
        for ((incarnation, number), state) in directory.into_iter().zip(states) {
            let known = self.observed.remove(&incarnation);
            match state {
                // This process cannot see the lease, so it cannot know that it is silent. The observation begins anew.
                Err(error) => {
                    let name = incarnation.as_str();
                    tracing::debug!(%error, incarnation = name, "cannot read a lease");
                }
                Ok(Some(state)) if state.dead => {
                    let was_silent = known.is_some_and(|it| it.has_ended(asked));
                    self.begin_reaping(shared, incarnation, number, Death::seen(was_silent));
                }
                Ok(Some(state)) => {
                    let observation = Observation::after(known, &state, answered);
                    if observation.is_ripe(asked) {
                        let death = if state.ended {
                            Death::LeftToItself
                        } else {
                            Death::DeclaredHere
                        };
                        silent.push((incarnation, number, state.beat, death));
                    } else {
                        observed.insert(incarnation, observation);
                    }
                }
                // The store has lost it. Its owner writes it again, and then it is observed.
                Ok(None) => silent.push((incarnation, number, 0, Death::Found)),
            }
        }
        self.observed = observed;
        let declared = silent.iter().map(|(incarnation, _, beat, _)| {
            let leases = &shared.leases;
            leases.declare_dead(incarnation, *beat)
        });
        let declared = join_all(declared).await;
        for ((incarnation, number, _, death), declared) in silent.into_iter().zip(declared) {
            match declared {
                Ok(Declared::Dead) => self.begin_reaping(shared, incarnation, number, death),
                Ok(Declared::Alive | Declared::Provisional) => {}
                Err(error) => {
                    let name = incarnation.as_str();
                    tracing::debug!(%error, incarnation = name, "not declared dead");
                }
            }
        }
        Ok(())
    }

    /// Reaps the incarnation in a task of its own, unless that is going on already.
    fn begin_reaping(
        &mut self,
        shared: &Arc<Shared>,
        incarnation: Incarnation,
        number: u64,
        death: Death,
    ) {
        let task = self.reaping.entry(incarnation.clone());
        task.or_insert_with(|| {
            death.count();
            let reaping = Arc::clone(shared).reap(incarnation, number, death);
            AbortOnDropHandle::new(tokio::spawn(reaping))
        });
    }
}

impl Death {
    /// The death was written by another chat or by the connector itself. Every chat waits for longer than the lease before it
    /// declares a death, and a connector that resigns has renewed its lease shortly before. So a lease that was silent for its
    /// length was declared dead by another chat.
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
            Self::LeftToItself | Self::Found => counter!(HANDOVERS).increment(1),
        }
    }
}

impl Observation {
    /// The observation after another look. It begins anew if the lease was renewed, or was not seen for too long.
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

    /// True if the lease has been silent for long enough, given that a question asked at that time has found the same beat.
    fn is_ripe(&self, asked: Instant) -> bool {
        asked >= self.ripe()
    }

    /// True if the owner has let the lease run out.
    fn has_ended(&self, asked: Instant) -> bool {
        asked >= self.since + self.length
    }
}

impl Shared {
    /// Reaps one incarnation. If this fails, a later poll begins it again.
    async fn reap(self: Arc<Self>, incarnation: Incarnation, number: u64, death: Death) {
        let name = incarnation.as_str();
        // Only the chat that declared the death logs it for operators. A connector that resigns logs it itself.
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
        match self.reap_all(&incarnation, number).await {
            Ok(()) if death == Death::DeclaredHere => {
                tracing::info!(incarnation = name, "nothing is left of the dead connector");
            }
            Ok(()) => tracing::debug!(incarnation = name, "nothing is left of the connector"),
            Err(error) => {
                tracing::warn!(incarnation = name, %error, "could not take out everything that a connector left; trying again");
                pause(RETRY).await;
            }
        }
    }

    /// Reaps until the index of the incarnation is empty, and has been empty for the settle time.
    async fn reap_all(&self, incarnation: &Incarnation, number: u64) -> Result<(), StoreError> {
        loop {
            let mut index = self.leases.index(incarnation).await?;
            let was_empty = index.is_empty();
            // Other chats that reap the same connector begin elsewhere.
            fastrand::shuffle(&mut index);
            let reaps = index.iter();
            let reaps = reaps.map(|it| self.places.reap(&it.place, incarnation));
            // All places are tried, even if some fail: a server that is away does not hold up the channels of others.
            let reaped = stream::iter(reaps.collect::<Vec<_>>()).buffer_unordered(PLACES_AT_ONCE);
            let reaped: Vec<_> = reaped.collect().await;
            reaped.into_iter().collect::<Result<(), _>>()?;
            sleep(SETTLE_TIME).await;
            if was_empty && self.leases.index(incarnation).await?.is_empty() {
                return self.leases.unschedule(incarnation, number).await;
            }
            for some in index.chunks(CHECKED_AT_ONCE) {
                self.drop_clean(incarnation, some).await?;
            }
        }
    }

    /// Drops index entries of places where nothing is left, in a second look. If the tombstone there is gone, the store has lost
    /// the reaping as well, and the place is reaped again.
    async fn drop_clean(
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

/// The entries for which it is true.
fn which(entries: &[&IndexEntry], is_true: impl Iterator<Item = bool>) -> Vec<IndexEntry> {
    let entries = entries.iter().zip(is_true);
    let entries = entries.filter(|(_, is_true)| *is_true);
    entries.map(|(entry, _)| (*entry).clone()).collect()
}

#[cfg(test)]
mod tests;
