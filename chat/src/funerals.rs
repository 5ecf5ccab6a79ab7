//! Funerals: the members and logins of connectors that are no more are taken out, and each leave is published once.
//!
//! Every chat looks after all incarnations, and remembers nothing that would be missed: whichever ends, others go on,
//! and any number at once does no harm, because each step is a script that may be repeated (MEMBERSHIP.md). An outage of
//! the store kills nobody: a lease is declared over only after it was seen unchanged through a stretch of answers.

use crate::metering::{DEATHS, HANDOVERS};
use crate::reaper::Reaper;
use channel_store::{
    ChannelName, Declared, DroppedBy, Incarnation, IndexEntry, Leases, Place, SETTLE_TIME,
    StoreError, UserId, UserRegistry,
};
use futures_util::stream::{self, StreamExt};
use metrics::counter;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks at the directory.
const POLL: Duration = Duration::from_millis(500);
/// So long, and in so many answers, a lease that is past its end is seen unchanged before it is declared over: its owner
/// may have to connect again first, as this process had to.
const OBSERVATION: Duration = Duration::from_millis(1_500);
const POLLS: u32 = 3;
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
    /// It was over before this chat had anything to observe, as when a connector resigns.
    Found,
}

/// A lease past its noted time, as it was seen so far.
struct Observation {
    until: u64,
    since: Instant,
    polls: u32,
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
    let mut polled = Instant::now();
    loop {
        if polled.elapsed() > OBSERVATION {
            // This process stood still, and so perhaps did those that it looks after.
            watch.observed.clear();
        }
        polled = Instant::now();
        if let Err(error) = watch.poll(&parlour).await {
            tracing::debug!(%error, "the directory is out of sight");
            // What was seen before says nothing about the time in between.
            watch.observed.clear();
        }
        sleep(POLL).await;
    }
}

impl Watch {
    async fn poll(&mut self, parlour: &Arc<Parlour>) -> Result<(), StoreError> {
        self.under_way.retain(|_, funeral| !funeral.is_finished());
        let due = parlour.leases.due().await?;
        let names: Vec<_> = due.iter().map(|(name, _)| name.clone()).collect();
        let states = parlour.leases.observe(&names).await?;
        let mut observed = HashMap::new();
        for ((incarnation, noted), state) in due.into_iter().zip(states) {
            let death = match state {
                Some(state) if state.dead => {
                    let was_observed = self.observed.contains_key(&incarnation);
                    Some(if was_observed {
                        Death::DeclaredElsewhere
                    } else {
                        Death::Found
                    })
                }
                Some(state) => {
                    let known = self.observed.remove(&incarnation);
                    let known = known.filter(|known| known.until == state.until);
                    let observation = known
                        .unwrap_or_else(|| Observation::of(state.until))
                        .again();
                    if !observation.is_enough() {
                        observed.insert(incarnation, observation);
                        continue;
                    }
                    let is_dead = parlour.declare_dead(&incarnation, state.until).await?;
                    is_dead.then_some(Death::DeclaredHere)
                }
                // Lost: it comes back for a full time.
                None => {
                    let is_dead = parlour.declare_dead(&incarnation, 0).await?;
                    is_dead.then_some(Death::Found)
                }
            };
            if let Some(death) = death {
                let funeral = self.under_way.entry(incarnation.clone());
                funeral.or_insert_with(|| {
                    death.count();
                    let held = Arc::clone(parlour).hold(incarnation, noted, death);
                    AbortOnDropHandle::new(tokio::spawn(held))
                });
            }
        }
        self.observed = observed;
        Ok(())
    }
}

impl Death {
    fn count(self) {
        match self {
            Self::DeclaredHere => counter!(DEATHS).increment(1),
            Self::DeclaredElsewhere => {}
            Self::Found => counter!(HANDOVERS).increment(1),
        }
    }
}

impl Observation {
    fn of(until: u64) -> Self {
        Self {
            until,
            since: Instant::now(),
            polls: 0,
        }
    }

    fn again(self) -> Self {
        Self {
            polls: self.polls + 1,
            ..self
        }
    }

    fn is_enough(&self) -> bool {
        self.polls >= POLLS && self.since.elapsed() >= OBSERVATION
    }
}

impl Parlour {
    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        until: u64,
    ) -> Result<bool, StoreError> {
        let declared = self.leases.declare_dead(incarnation, until).await?;
        Ok(declared == Declared::Dead)
    }

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
                return self.leases.strike(incarnation, noted).await;
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
        let looks = self.leases.look(incarnation, &channels).await?;
        let is_clean = looks.iter().map(|it| it.sessions == 0 && it.tombstoned);
        let mut clean = which(&of_channels, is_clean);
        let looks = self.registry.look(incarnation, &users).await?;
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
