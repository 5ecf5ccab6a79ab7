//! Requests that a client has sent and that are not carried out yet.

use std::collections::VecDeque;
use tokio::time::Instant;
use wire::{Disconnect, Input};

/// When this many bytes of requests wait for the one under way, the socket is not read any more.
const BACKLOG: usize = 64 << 10;

/// The requests of one read, and what becomes of the connection after them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) inputs: Vec<Input>,
    /// The bytes of the messages that held them.
    pub(super) bytes: usize,
    /// The bytes of all messages of the read that are not in the body of a request.
    pub(super) beside: usize,
    /// When they were read. `None` if there are none.
    pub(super) received: Option<Instant>,
    pub(super) end: Option<End>,
}

/// How a client's side of a connection ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The connection is closed for this reason, and the client is told.
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
    /// The bytes of all batches, and of the batch that is being carried out.
    pub(super) bytes: usize,
    /// Bytes that are not in the body of a request, and were not counted for the session yet.
    pub(super) beside: usize,
    /// Nothing more is read, because the last batch ends the connection.
    pub(super) ended: bool,
}

impl Backlog {
    pub(super) fn has_room(&self) -> bool {
        !self.ended && self.bytes < BACKLOG
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.ended |= batch.end.is_some();
        self.bytes += batch.bytes;
        self.beside += batch.beside;
        if !batch.is_empty() {
            self.batches.push_back(batch);
        }
    }
}
