//! Another server lifetime, as a restart or a failover of Redis begins one: for tests and simulations, which want its
//! consequences without a server. No call fails meanwhile, and each channel changes over on its own.

use super::channel::Kept;
use super::leases::Registered;
use super::registry::Users;
use super::{Channels, MemoryStore, Now};
use crate::FeedConnection;
use crate::name::ChannelName;
use std::collections::BTreeMap;

/// What was held at some time: logs, members, idempotency keys and tombstones of all channels, leases and logins. The
/// default holds nothing.
#[derive(Clone, Default)]
pub struct Snapshot {
    channels: BTreeMap<ChannelName, Kept>,
    registered: Registered,
    users: Users,
}

impl Snapshot {
    /// With the leases, indexes and directory of another: they lie in slots of their own, which may be lost alone.
    #[must_use]
    pub fn with_leases_of(mut self, other: &Self) -> Self {
        self.registered = other.registered.clone();
        self
    }

    /// With the logins of another: the same goes for each user.
    #[must_use]
    pub fn with_logins_of(mut self, other: &Self) -> Self {
        self.users = other.users.clone();
        self
    }
}

impl MemoryStore {
    /// What is held now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.channels.snapshot()
    }

    /// Begins another server lifetime: on the data that is there, or on a snapshot's, whereupon what came after it is
    /// lost. The next publication of each channel begins an epoch. Feeds get a new connection, and confirm on it what
    /// they follow.
    ///
    /// What this store takes at random comes from [`fastrand`]: seeded, all of it repeats.
    pub fn restart(&self, on: Option<Snapshot>) {
        self.channels.restart(on);
    }
}

/// The lifetime after that of a number.
pub(super) fn next(number: u64) -> FeedConnection {
    FeedConnection {
        number: number + 1,
        lifetime: format!("memory:{:016x}", fastrand::u64(..)).into(),
    }
}

impl Channels {
    fn snapshot(&self) -> Snapshot {
        let registered = self.registered.lock().clone();
        let users = self.users.lock().clone();
        let registry = self.registry.lock();
        let channels = registry.by_name.iter();
        Snapshot {
            channels: channels
                .map(|(name, it)| (name.clone(), it.kept()))
                .collect(),
            registered,
            users,
        }
    }

    fn restart(&self, mut on: Option<Snapshot>) {
        let now = Now::new().instant;
        let (server, mut names) = {
            let mut registry = self.registry.lock();
            registry.server = next(registry.server.number);
            let names: Vec<_> = registry.by_name.keys().cloned().collect();
            (registry.server.clone(), names)
        };
        if let Some(snapshot) = &on {
            names.extend(snapshot.channels.keys().cloned());
            *self.registered.lock() = snapshot.registered.clone();
            *self.users.lock() = snapshot.users.clone();
        }
        // In an order that repeats, and each once.
        names.sort();
        names.dedup();
        for name in names {
            let kept = on.as_mut().map(|snapshot| {
                let kept = snapshot.channels.remove(&name);
                kept.unwrap_or_else(|| {
                    Kept::new(self.clocks.started(), &self.options, &server.lifetime)
                })
            });
            self.find_or_create(&name, now).restart(&server, kept);
        }
    }
}
