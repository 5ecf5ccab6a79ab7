//! What the connector holds for its clients at most: every bound, and what is counted for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a client may take nothing of what waits for it, unless somebody says otherwise.
const STALL: Duration = Duration::from_secs(50);

/// How many bytes may wait for clients that do not read, and for how long.
#[derive(Debug)]
pub struct QueueLimits {
    /// For one connection.
    pub connection: usize,
    /// For all of the process together. Half of it at most may be messages and requests that come in.
    pub process: usize,
    /// A client that takes nothing of what waits for it for so long is cut off.
    pub stall: Duration,
    held: AtomicUsize,
}

impl QueueLimits {
    /// Bounds in bytes, nothing held yet.
    #[must_use]
    pub fn new(connection: usize, process: usize) -> Arc<Self> {
        Self::with_stall(connection, process, STALL)
    }

    /// The same with another time for clients that take nothing.
    #[must_use]
    pub fn with_stall(connection: usize, process: usize, stall: Duration) -> Arc<Self> {
        Arc::new(Self {
            connection,
            process,
            stall,
            held: AtomicUsize::new(0),
        })
    }

    /// Bytes that are held for all clients of the process: queues, mailboxes, unfinished messages, requests that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts what comes in from one client anew. False: it has grown, and there is no room for that. It is counted all
    /// the same: the client is to be cut off.
    pub(crate) fn recount(&self, counted: &mut usize, bytes: usize) -> bool {
        let before = std::mem::replace(counted, bytes);
        if bytes <= before {
            self.remove(before - bytes);
            return true;
        }
        self.add(bytes - before);
        self.queued() <= self.process / 2
    }
}
