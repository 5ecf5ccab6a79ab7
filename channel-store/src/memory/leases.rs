//! Leases, indexes and the directory in memory. Nothing expires: a process has few incarnations.

use super::{Channels, Now};
use crate::lease::{
    Declared, DroppedBy, IndexEntry, Indexed, LeaseState, Leases, Look, Place, Renewed, Shard, Term,
};
use crate::name::{ChannelName, Incarnation, SessionId, User};
use crate::store::StoreError;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct MemoryLeases {
    pub(super) channels: Arc<Channels>,
    pub(super) available: watch::Receiver<bool>,
}

/// What all incarnations have.
#[derive(Clone, Default)]
pub(super) struct Registered {
    leases: HashMap<Incarnation, Lease>,
    /// When to look after each.
    directory: BTreeMap<Incarnation, u64>,
}

#[derive(Clone)]
struct Lease {
    standing: Standing,
    until: u64,
    index: BTreeMap<Place, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Live,
    Provisional,
    Dead,
}

impl Lease {
    fn provisional(until: u64) -> Self {
        Self {
            standing: Standing::Provisional,
            until,
            index: BTreeMap::new(),
        }
    }

    fn state(&self) -> LeaseState {
        LeaseState {
            dead: self.standing == Standing::Dead,
            provisional: self.standing == Standing::Provisional,
            until: self.until,
        }
    }
}

impl MemoryLeases {
    fn registered(&self) -> &Mutex<Registered> {
        &self.channels.registered
    }

    fn after(&self, time: Duration) -> u64 {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.channels.clock().saturating_add(time)
    }
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn note(&self, incarnation: &Incarnation, lease: Duration) -> Result<(), StoreError> {
        let due = self.after(lease);
        let directory = &mut self.registered().lock().directory;
        directory.insert(incarnation.clone(), due);
        Ok(())
    }

    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let until = self.after(lease);
        let generation = self.channels.registry.lock().server.generation.clone();
        let mut registered = self.registered().lock();
        let known = registered.leases.get(incarnation).map(|it| it.standing);
        if known == Some(Standing::Dead) {
            return Ok(Renewed::Dead);
        }
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert_with(|| Lease {
            standing: Standing::Live,
            until,
            index: BTreeMap::new(),
        });
        held.standing = Standing::Live;
        held.until = until;
        let term = Term {
            until,
            indexed: held.index.len() as u64,
            generation,
        };
        Ok(match known {
            Some(Standing::Live) => Renewed::Live(term),
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
            Some(held) if held.standing == Standing::Live => {
                let entries = entries.iter().map(|it| (it.place.clone(), it.nonce));
                held.index.extend(entries);
                Indexed::Yes
            }
            Some(held) if held.standing == Standing::Dead => Indexed::Dead,
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
        if (by == DroppedBy::Reaper) != (held.standing == Standing::Dead) {
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

    async fn look(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Look>, StoreError> {
        let now = Now::new().instant;
        let look = |name| match self.channels.find(name) {
            Some(channel) => channel.look(incarnation, now),
            None => Look {
                sessions: 0,
                tombstoned: false,
                overdue: false,
                generation: self.channels.generation(),
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
        let until = self.channels.clock();
        let mut registered = self.registered().lock();
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert_with(|| Lease {
            standing: Standing::Dead,
            until,
            index: BTreeMap::new(),
        });
        held.standing = Standing::Dead;
        Ok(())
    }

    async fn due(&self) -> Result<Vec<(Incarnation, u64)>, StoreError> {
        let now = self.channels.clock();
        let registered = self.registered().lock();
        let due = registered.directory.iter().filter(|(_, due)| **due <= now);
        Ok(due.map(|(it, due)| (it.clone(), *due)).collect())
    }

    async fn directory(&self) -> Result<HashSet<Incarnation>, StoreError> {
        let registered = self.registered().lock();
        Ok(registered.directory.keys().cloned().collect())
    }

    async fn present(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        let channel = self.channels.find(channel);
        Ok(channel.map(|it| it.incarnations()).unwrap_or_default())
    }

    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Result<Vec<Option<LeaseState>>, StoreError> {
        let registered = self.registered().lock();
        let state = |incarnation| registered.leases.get(incarnation).map(Lease::state);
        Ok(incarnations.iter().map(state).collect())
    }

    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_until: u64,
    ) -> Result<Declared, StoreError> {
        let (now, full) = (
            self.channels.clock(),
            self.after(self.channels.options.lease),
        );
        let mut registered = self.registered().lock();
        let Some(held) = registered.leases.get_mut(incarnation) else {
            let lease = Lease::provisional(full);
            registered.leases.insert(incarnation.clone(), lease);
            return Ok(Declared::Provisional);
        };
        if held.standing != Standing::Dead && (held.until != seen_until || now <= held.until) {
            return Ok(Declared::Alive);
        }
        held.standing = Standing::Dead;
        Ok(Declared::Dead)
    }

    async fn vouch(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError> {
        let until = self.after(self.channels.options.lease);
        let mut registered = self.registered().lock();
        let held = registered.leases.entry(incarnation.clone());
        let held = held.or_insert_with(|| Lease::provisional(until));
        let entry = held.index.entry(place.clone());
        entry.or_insert_with(IndexEntry::random_nonce);
        Ok(held.state())
    }

    async fn strike(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError> {
        let directory = &mut self.registered().lock().directory;
        if directory.get(incarnation) == Some(&seen) {
            directory.remove(incarnation);
        }
        Ok(())
    }

    fn shard(&self, _: &Place) -> Shard {
        Shard::default()
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }
}
