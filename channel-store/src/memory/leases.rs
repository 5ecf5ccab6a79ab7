//! Leases, indexes and the directory.

use super::lease_table::Lease;
use super::shared::{Shared, State};
use crate::error::StoreError;
use crate::lease::{
    Declared, DroppedBy, IndexEntry, Indexed, LeaseState, Leases, Place, Presence, Renewed, Term,
};
use crate::name::{ChannelName, Incarnation, SessionId, User};
use crate::server::Shard;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// The name under which the directory has its clock.
const DIRECTORY: &str = "connectors";

impl State {
    /// A lease that was lost, as a chat restores it that meets members of its incarnation.
    fn provisional(&self, incarnation: &Incarnation) -> Lease {
        let at = &self.context;
        let beat = at.clock.microseconds(incarnation.as_str()).max(1);
        let mut lease = Lease::new(beat, at.options.lease);
        lease.state.provisional = true;
        lease
    }
}

#[async_trait]
impl Leases for Shared {
    async fn schedule(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        self.with(|state| {
            let now = state.context.clock.microseconds(DIRECTORY);
            let directory = &mut state.leases.directory;
            let number = directory.entry(incarnation.clone()).or_default();
            *number = now.max(*number + 1);
        });
        Ok(())
    }

    async fn renew(
        &self,
        incarnation: &Incarnation,
        length: Duration,
    ) -> Result<Renewed, StoreError> {
        Ok(self.with(|state| {
            let at = &state.context;
            let clock = at.clock.microseconds(incarnation.as_str());
            let leases = &mut state.leases.leases;
            let before = leases.get(incarnation).map(|it| it.state);
            if before.is_some_and(|it| it.dead) {
                return Renewed::Dead;
            }
            let lease = leases.entry(incarnation.clone());
            let lease = lease.or_insert_with(|| Lease::new(0, length));
            lease.state.provisional = false;
            lease.state.length = length;
            lease.state.beat = clock.max(lease.state.beat + 1);
            let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let term = Term {
                until: (clock / 1_000).saturating_add(length),
                indexed: lease.index.len() as u64,
                lifetime: at.server.lifetime.clone(),
            };
            match before {
                Some(it) if !it.provisional => Renewed::Live(term),
                _ => Renewed::Lost(term),
            }
        }))
    }

    async fn renew_last(
        &self,
        incarnation: &Incarnation,
        length: Duration,
    ) -> Result<Renewed, StoreError> {
        let renewed = self.renew(incarnation, length).await?;
        self.with(|state| {
            if let Some(lease) = state.leases.leases.get_mut(incarnation) {
                lease.state.ended = true;
            }
        });
        Ok(renewed)
    }

    async fn index_add(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        Ok(
            self.with(|state| match state.leases.leases.get_mut(incarnation) {
                Some(lease) if lease.state.dead => Indexed::Dead,
                Some(lease) if !lease.state.provisional => {
                    let entries = entries.iter().map(|it| (it.place.clone(), it.nonce));
                    lease.index.extend(entries);
                    Indexed::Yes
                }
                _ => Indexed::Lost,
            }),
        )
    }

    async fn index_drop(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        Ok(self.with(|state| {
            let lease = state.leases.leases.get_mut(incarnation);
            let may_drop = |it: &&mut Lease| (by == DroppedBy::Reaper) == it.state.dead;
            let Some(Lease { index, .. }) = lease.filter(may_drop) else {
                return 0;
            };
            let before = index.len();
            for IndexEntry { place, nonce } in entries {
                if index.get(place) == Some(nonce) {
                    index.remove(place);
                }
            }
            (before - index.len()) as u64
        }))
    }

    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        Ok(self.with(|state| {
            let lease = state.leases.leases.get(incarnation);
            let entries = lease.into_iter().flat_map(|it| &it.index);
            let entry = |(place, nonce): (&Place, &u64)| IndexEntry {
                place: place.clone(),
                nonce: *nonce,
            };
            entries.map(entry).collect()
        }))
    }

    async fn presence(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError> {
        // One by one, because each look counts the members of its channel.
        let look = |name| {
            self.with(|state| {
                let found = state.in_known(name, |it, at| it.look(incarnation, at));
                found.unwrap_or_else(|| Presence {
                    sessions: 0,
                    tombstoned: false,
                    overdue: false,
                    lifetime: state.context.server.lifetime.clone(),
                })
            })
        };
        Ok(channels.iter().map(look).collect())
    }

    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        Ok(self.with(|state| {
            let channel = state.channels.get(channel);
            let sessions = channel.map(|it| it.members().sessions_of(incarnation));
            sessions.unwrap_or_default()
        }))
    }

    async fn resign(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        self.with(|state| {
            let lease = state.leases.leases.entry(incarnation.clone());
            let lease = lease.or_insert_with(|| Lease::new(0, Duration::ZERO));
            lease.state.dead = true;
        });
        Ok(())
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        Ok(self.with(|state| state.leases.directory.clone()))
    }

    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        Ok(self.with(|state| {
            let channel = state.channels.get(channel);
            let present = channel.map(|it| it.members().incarnations());
            present.into_iter().flatten().collect()
        }))
    }

    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Vec<Result<Option<LeaseState>, StoreError>> {
        self.with(|state| {
            let leases = &state.leases.leases;
            let observe = |incarnation| Ok(leases.get(incarnation).map(|it| it.state));
            incarnations.iter().map(observe).collect()
        })
    }

    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_beat: u64,
    ) -> Result<Declared, StoreError> {
        Ok(self.with(|state| {
            let provisional = state.provisional(incarnation);
            let leases = &mut state.leases.leases;
            let Some(lease) = leases.get_mut(incarnation) else {
                leases.insert(incarnation.clone(), provisional);
                return Declared::Provisional;
            };
            if !lease.state.dead && lease.state.beat != seen_beat {
                return Declared::Alive;
            }
            lease.state.dead = true;
            Declared::Dead
        }))
    }

    async fn restore(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError> {
        Ok(self.with(|state| {
            let provisional = state.provisional(incarnation);
            let lease = state.leases.leases.entry(incarnation.clone());
            let lease = lease.or_insert(provisional);
            let entry = lease.index.entry(place.clone());
            entry.or_insert_with(IndexEntry::random_nonce);
            lease.state
        }))
    }

    async fn unschedule(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError> {
        self.with(|state| {
            let directory = &mut state.leases.directory;
            if directory.get(incarnation) == Some(&seen) {
                directory.remove(incarnation);
            }
        });
        Ok(())
    }

    fn shard(&self, _: &Place) -> Shard {
        Shard::default()
    }

    fn home(&self, _: &Incarnation) -> Shard {
        Shard::default()
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}
