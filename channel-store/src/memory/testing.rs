//! What tests and simulations do to a store in memory: they restart it, take it back to what it held earlier, and set clocks.
//!
//! A restart stands for a restart or a failover of Redis. Tests see its consequences without a server. No call fails.

use super::channel::{Channel, Content, Context};
use super::lease_table::LeaseTable;
use super::shared::lifetime;
use super::store::MemoryStore;
use super::user_table::UserTable;
use crate::name::ChannelName;
use std::collections::BTreeMap;

/// What a store held at some moment: logs, members, idempotency keys and tombstones of all channels, leases and logins. The
/// default holds nothing.
#[derive(Clone, Default)]
pub struct Snapshot {
    channels: BTreeMap<ChannelName, Content>,
    leases: LeaseTable,
    users: UserTable,
}

impl Snapshot {
    /// With the leases, indexes and directory of another snapshot. In a cluster they are in slots of their own, so a failover
    /// may take them alone back to an earlier state.
    #[must_use]
    pub fn with_leases_of(mut self, other: &Self) -> Self {
        self.leases = other.leases.clone();
        self
    }

    /// With the logins of another snapshot. Each user is in a slot of its own, too.
    #[must_use]
    pub fn with_logins_of(mut self, other: &Self) -> Self {
        self.users = other.users.clone();
        self
    }
}

impl MemoryStore {
    /// What the store holds now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.with(|state| {
            let channels = state.channels.iter();
            Snapshot {
                channels: channels
                    .map(|(name, channel)| (name.clone(), channel.content.clone()))
                    .collect(),
                leases: state.leases.clone(),
                users: state.users.clone(),
            }
        })
    }

    /// Begins another server lifetime. The store keeps its data, or goes back to a snapshot and loses what came after it. The
    /// next publication of each channel begins an epoch. Each feed gets another connection, on which it confirms the channels
    /// that it follows.
    ///
    /// The store takes random numbers from [`fastrand`]: with a seed, everything repeats.
    pub fn restart(&self, on: Option<Snapshot>) {
        self.shared.with(|state| {
            let server = &mut state.context.server;
            *server = lifetime(server.number + 1);
            // The names in an order that repeats.
            let mut names: Vec<_> = state.channels.keys().cloned().collect();
            let mut earlier = None;
            if let Some(snapshot) = on {
                state.leases = snapshot.leases;
                state.users = snapshot.users;
                names.extend(snapshot.channels.keys().cloned());
                earlier = Some(snapshot.channels);
            }
            names.sort();
            names.dedup();
            for name in &names {
                let content = earlier.as_mut().map(|channels| channels.remove(name));
                let restart = |channel: &mut Channel, at: &Context| {
                    if let Some(content) = content {
                        channel.content = content.unwrap_or_else(|| Content::new(at));
                    }
                    channel.outbox.reconnect(&at.server);
                };
                state.in_any(name, restart);
            }
        });
        // What was noted may be lost.
        for slot in self.shared.with(|state| state.births.clone()) {
            slot.missed();
        }
    }

    /// Sets a clock forward by so many milliseconds, or back: the clock of the server that holds one name (of a channel, a user
    /// or an incarnation), or the clocks of all. Only what the clock shows changes: nothing becomes older by it.
    pub fn set_clock(&self, name: Option<&str>, by: i64) {
        self.shared.with(|state| {
            let offsets = &mut state.context.clock.offsets;
            *match name {
                Some(name) => offsets.by_name.entry(name.to_owned()).or_default(),
                None => &mut offsets.all,
            } += by;
        });
    }

    /// What that clock shows: milliseconds since 1970.
    #[must_use]
    pub fn clock(&self, name: &str) -> u64 {
        self.shared
            .with(|state| state.context.clock.milliseconds(name))
    }
}
