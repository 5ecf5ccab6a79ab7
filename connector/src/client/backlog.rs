//! Requests that a client has sent and that are not carried out yet.

use std::collections::VecDeque;
use tokio::time::Instant;
use wire::{Disconnect, Input};

/// Requests of so many bytes may wait for the one under way. From there on the socket is not read.
const BACKLOG: usize = 64 << 10;

/// Requests of one read, and what is to become of the connection after them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) inputs: Vec<Input>,
    /// Bytes of the messages that they came in.
    pub(super) bytes: usize,
    /// When they were read.
    pub(super) received: Option<Instant>,
    pub(super) end: Option<End>,
}

/// How a client's side of a connection ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// For this reason, which the client is told.
    Because(Disconnect),
    /// The client has closed its side without a farewell.
    Gone,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.end.is_none()
    }
}

/// What was read while a request was under way, in order.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) batches: VecDeque<Batch>,
    /// Bytes of all of it, and of the batch that is being carried out.
    pub(super) bytes: usize,
    /// Nothing more is read: the last batch says why.
    pub(super) ended: bool,
}

impl Backlog {
    pub(super) fn has_room(&self) -> bool {
        !self.ended && self.bytes < BACKLOG
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.ended |= batch.end.is_some();
        self.bytes += batch.bytes;
        if !batch.is_empty() {
            self.batches.push_back(batch);
        }
    }
}
