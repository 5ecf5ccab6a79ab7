//! What operators are told about a connector.

use super::Commands;
use crate::membership::incarnation::HeldLease;
use proto::connector::v1::Described;
use proto::time::timestamp;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The process of a connector.
pub(crate) struct Process {
    /// When it started: milliseconds since 1970, by its own clock.
    started: u64,
    /// Open connections of clients.
    connections: AtomicU64,
    /// It has begun to stop.
    draining: AtomicBool,
}

impl Default for Process {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = since.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        Self {
            started,
            connections: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        }
    }
}

impl Process {
    /// A connection was opened.
    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is over.
    pub(crate) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The process has begun to stop.
    pub(crate) fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl Commands {
    pub(super) fn describe(&self, lease: &HeldLease) -> Described {
        let Process {
            started,
            connections,
            draining,
        } = &self.process;
        Described {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(timestamp(*started)),
            connections: connections.load(Ordering::Relaxed),
            sessions: lease.sessions(),
            draining: draining.load(Ordering::Relaxed),
        }
    }
}
