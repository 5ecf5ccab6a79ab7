//! What operators are told about a connector's process, and how they stop it.

use super::Commands;
use crate::chat_client::Chat;
use crate::membership::incarnation::HeldLease;
use crate::metering::{LAG, REQUESTS};
use proto::chat::v1::AgeBucket;
use proto::connector::v1::Described;
use proto::time::{now, timestamp};
use runtime::{Metrics, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The process of a connector.
pub(crate) struct Process {
    /// When it started: milliseconds since 1970, by its own clock.
    started: u64,
    /// Open connections of clients.
    connections: AtomicU64,
    /// It has begun to stop.
    draining: AtomicBool,
    /// Requested when a back end wants the process to stop.
    stop: Shutdown,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            started: now(),
            connections: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stop: Shutdown::new(),
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

    /// True once it has begun to stop, or is about to.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns once a back end wants the process to stop.
    pub(crate) async fn is_to_stop(&self) {
        self.stop.requested().await;
    }
}

/// Stops the process when it is dropped. So the process stops after the answer was sent, also if the command is given up
/// before that.
pub(super) struct Stops<'a>(&'a Process);

impl<'a> Stops<'a> {
    pub(super) fn soon(process: &'a Process) -> Self {
        // An operator who looks right after the answer sees it.
        process.drains();
        Self(process)
    }
}

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop.request();
    }
}

impl Commands {
    pub(super) fn describe(&self, lease: &HeldLease, chat: &Chat) -> Described {
        let process = &self.process;
        Described {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(timestamp(process.started)),
            connections: process.connections.load(Ordering::Relaxed),
            sessions: lease.sessions(),
            draining: process.is_draining(),
            rules_hash: chat.rules().text(),
            requests: observed(REQUESTS).last().map_or(0, |(_, all)| *all),
            delivery_lag: observed(LAG).into_iter().map(bucket).collect(),
        }
    }
}

/// What was observed in a family of histograms. See [`Metrics::observations`].
fn observed(family: &str) -> Vec<(f64, u64)> {
    Metrics::installed().map_or_else(Vec::new, |it| it.observations(family))
}

fn bucket((bound, count): (f64, u64)) -> AgeBucket {
    AgeBucket {
        at_most: std::time::Duration::try_from_secs_f64(bound)
            .ok()
            .and_then(|it| it.try_into().ok()),
        count,
    }
}
