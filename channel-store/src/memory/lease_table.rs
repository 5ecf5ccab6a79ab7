//! The leases of all incarnations, their indexes, and the directory.

use crate::lease::{LeaseState, Place};
use crate::name::Incarnation;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Nothing here expires, because a process has few incarnations.
#[derive(Clone, Default)]
pub(super) struct LeaseTable {
    pub(super) leases: HashMap<Incarnation, Lease>,
    /// The incarnations to look after. The number of each changes whenever it is noted.
    pub(super) directory: BTreeMap<Incarnation, u64>,
}

#[derive(Clone)]
pub(super) struct Lease {
    pub(super) status: Status,
    /// Grows with each renewal.
    pub(super) beat: u64,
    pub(super) length: Duration,
    /// The places where something of the incarnation may be, each with the nonce of its entry.
    pub(super) index: BTreeMap<Place, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Live,
    /// The lease was lost, and somebody who met the incarnation has put it back.
    Provisional,
    Dead,
}

impl Lease {
    pub(super) fn new(status: Status, beat: u64, length: Duration) -> Self {
        Self {
            status,
            beat,
            length,
            index: BTreeMap::new(),
        }
    }

    /// As others see it.
    pub(super) fn state(&self) -> LeaseState {
        LeaseState {
            dead: self.status == Status::Dead,
            provisional: self.status == Status::Provisional,
            beat: self.beat,
            length: self.length,
        }
    }
}
