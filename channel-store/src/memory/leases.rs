//! Leases, indexes and the directory in memory. Nothing expires: a process has few incarnations.

use super::{Channels, Now};
use crate::lease::{
    Declared, DroppedBy, IndexEntry, Indexed, LeaseState, Leases, Place, Presence, Renewed, Term,
};
use crate::name::{ChannelName, Incarnation, SessionId, User};
use crate::{Shard, StoreError};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The slot of the directory.
const DIRECTORY: &str = "connectors";

pub(super) struct MemoryLeases {
    pub(super) channels: Arc<Channels>,
    pub(super) available: watch::Receiver<bool>,
}

/// What all incarnations have.
#[derive(Clone, Default)]
pub(super) struct Registered {
    leases: HashMap<Incarnation, Lease>,
    /// Each with a number that is another one after each note.
    directory: BTreeMap<Incarnation, u64>,
}

#[derive(Clone)]
struct Lease {
    continuity: Continuity,
    beat: u64,
    length: Duration,
    index: BTreeMap<Place, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Continuity {
    Live,
    Provisional,
    Dead,
}

impl Lease {
    /// One that nobody has renewed yet.
    fn new(continuity: Continuity, length: Duration) -> Self {
        Self {
            continuity,
            beat: 0,
            length,
            index: BTreeMap::new(),
        }
    }

    /// Gives it another beat, by the clock of its server.
    fn beats(mut self, clock: u64) -> Self {
        self.beat = clock.max(self.beat + 1);
        self
    }

    fn state(&self) -> LeaseState {
        LeaseState {
            dead: self.continuity == Continuity::Dead,
            provisional: self.continuity == Continuity::Provisional,
            beat: self.beat,
            length: self.length,
        }
    }
}

impl MemoryLeases {
    fn registered(&self) -> &Mutex<Registered> {
        &self.channels.registered
    }

    /// The time of the server that has an incarnation's slot, in microseconds.
    fn clock(&self, incarnation: &Incarnation) -> u64 {
        self.channels.clocks.microseconds(incarnation.as_str())
    }

    /// A lease that was lost and comes back.
    fn provisional(&self, incarnation: &Incarnation) -> Lease {
        let length = self.channels.options.lease;
        Lease::new(Continuity::Provisional, length).beats(self.clock(incarnation))
    }
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn schedule(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        let now = self.channels.clocks.microseconds(DIRECTORY);
        let directory = &mut self.registered().lock().directory;
        let noted = directory.entry(incarnation.clone()).or_default();
        *noted = now.max(*noted + 1);
        Ok(())
    }

    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let clock = self.clock(incarnation);
        let length = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let until = (clock / 1_000).saturating_add(length);
        let lifetime = self.channels.registry.lock().server.lifetime.clone();
        let mut registered = self.registered().lock();
        let known = registered.leases.get(incarnation).map(|it| it.continuity);
        if known == Some(Continuity::Dead) {
            return Ok(Renewed::Dead);
        }
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert_with(|| Lease::new(Continuity::Live, lease));
        held.continuity = Continuity::Live;
        held.length = lease;
        held.beat = clock.max(held.beat + 1);
        let term = Term {
            until,
            indexed: held.index.len() as u64,
            lifetime,
        };
        Ok(match known {
            Some(Continuity::Live) => Renewed::Live(term),
            _ => Renewed::Lost(term),
        })
    }

    async fn index_add(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        let mut registered = self.registered().lock();
        let held = registered.leases.get_mut(incarnation);
        Ok(match held {
            Some(held) if held.continuity == Continuity::Live => {
                let entries = entries.iter().map(|it| (it.place.clone(), it.nonce));
                held.index.extend(entries);
                Indexed::Yes
            }
            Some(held) if held.continuity == Continuity::Dead => Indexed::Dead,
            _ => Indexed::Lost,
        })
    }

    async fn index_drop(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        let mut registered = self.registered().lock();
        let Some(held) = registered.leases.get_mut(incarnation) else {
            return Ok(0);
        };
        if (by == DroppedBy::Reaper) != (held.continuity == Continuity::Dead) {
            return Ok(0);
        }
        let before = held.index.len();
        for IndexEntry { place, nonce } in entries {
            if held.index.get(place) == Some(nonce) {
                held.index.remove(place);
            }
        }
        Ok((before - held.index.len()) as u64)
    }

    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        let registered = self.registered().lock();
        let index = registered.leases.get(incarnation).map(|it| &it.index);
        let entries = index.into_iter().flatten();
        let entry = |(place, nonce): (&Place, &u64)| IndexEntry {
            place: place.clone(),
            nonce: *nonce,
        };
        Ok(entries.map(entry).collect())
    }

    async fn presence(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError> {
        let now = Now::new().instant;
        let look = |name| match self.channels.find(name) {
            Some(channel) => channel.look(incarnation, now),
            None => Presence {
                sessions: 0,
                tombstoned: false,
                overdue: false,
                lifetime: self.channels.lifetime(),
            },
        };
        Ok(channels.iter().map(look).collect())
    }

    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        let channel = self.channels.find(channel);
        Ok(channel.map(|it| it.list(incarnation)).unwrap_or_default())
    }

    async fn resign(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        let mut registered = self.registered().lock();
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert_with(|| Lease::new(Continuity::Dead, Duration::ZERO));
        held.continuity = Continuity::Dead;
        Ok(())
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        Ok(self.registered().lock().directory.clone())
    }

    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        let channel = self.channels.find(channel);
        Ok(channel.map(|it| it.incarnations()).unwrap_or_default())
    }

    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Vec<Result<Option<LeaseState>, StoreError>> {
        let registered = self.registered().lock();
        let state = |incarnation| Ok(registered.leases.get(incarnation).map(Lease::state));
        incarnations.iter().map(state).collect()
    }

    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_beat: u64,
    ) -> Result<Declared, StoreError> {
        let provisional = self.provisional(incarnation);
        let mut registered = self.registered().lock();
        let Some(held) = registered.leases.get_mut(incarnation) else {
            registered.leases.insert(incarnation.clone(), provisional);
            return Ok(Declared::Provisional);
        };
        if held.continuity != Continuity::Dead && held.beat != seen_beat {
            return Ok(Declared::Alive);
        }
        held.continuity = Continuity::Dead;
        Ok(Declared::Dead)
    }

    async fn restore(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError> {
        let provisional = self.provisional(incarnation);
        let mut registered = self.registered().lock();
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert(provisional);
        let entry = held.index.entry(place.clone());
        entry.or_insert_with(IndexEntry::random_nonce);
        Ok(held.state())
    }

    async fn unschedule(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError> {
        let directory = &mut self.registered().lock().directory;
        if directory.get(incarnation) == Some(&seen) {
            directory.remove(incarnation);
        }
        Ok(())
    }

    fn shard(&self, _: &Place) -> Shard {
        Shard::default()
    }

    fn home(&self, _incarnation: &Incarnation) -> Shard {
        Shard::default()
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }
}
