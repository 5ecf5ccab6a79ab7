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
    pub(super) state: LeaseState,
    /// The places where something of the incarnation may be, each with the nonce of its entry.
    pub(super) index: BTreeMap<Place, u64>,
}

impl Lease {
    /// A lease that is live, with an empty index.
    pub(super) fn new(beat: u64, length: Duration) -> Self {
        Self {
            state: LeaseState {
                dead: false,
                provisional: false,
                beat,
                length,
                ended: false,
            },
            index: BTreeMap::new(),
        }
    }
}
