//! What an accepted socket counts for in the connector's bounds.

use crate::limits::addresses::AddressPermit;
use crate::limits::{Bound, ConnectionPermit, HalfOpen, Seat, Seats};
use parking_lot::Mutex;
use std::sync::Arc;

/// What an accepted socket counts for in the connector's bounds. Dropping this gives all of it back.
pub(crate) struct Pass {
    counts_as: Mutex<CountsAs>,
    half_open: Mutex<Option<HalfOpen>>,
    /// What it counts for among the connections of its client's address.
    address: Mutex<Option<AddressPermit>>,
}

/// What a socket counts as.
enum CountsAs {
    /// There was no place for the socket, because of this bound.
    Nothing(Bound),
    /// A connection.
    Connection { _place: ConnectionPermit },
    /// One of the connections that a polling client counts as.
    Seat(Seat),
}

impl Pass {
    /// For a socket that has a place, and whose handshake begins.
    pub(crate) fn new(place: ConnectionPermit, half_open: HalfOpen) -> Arc<Self> {
        Self::with(CountsAs::Connection { _place: place }, half_open)
    }

    /// For a socket that has no place. It is served only if it gets a [seat](Seats) of a polling client.
    pub(crate) fn without_permit(bound: Bound, half_open: HalfOpen) -> Arc<Self> {
        Self::with(CountsAs::Nothing(bound), half_open)
    }

    fn with(counts_as: CountsAs, half_open: HalfOpen) -> Arc<Self> {
        Arc::new(Self {
            counts_as: Mutex::new(counts_as),
            half_open: Mutex::new(Some(half_open)),
            address: Mutex::default(),
        })
    }

    /// Lets the socket count as one of this client's from now on, if the client has a free seat.
    pub(crate) fn use_seat(&self, seats: &Seats) {
        let mut counts_as = self.counts_as.lock();
        if matches!(&*counts_as, CountsAs::Seat(seat) if seat.is_of(seats)) {
            return;
        }
        if let Some(seat) = seats.take() {
            let before = std::mem::replace(&mut *counts_as, CountsAs::Seat(seat));
            drop(counts_as);
            drop(before);
        }
    }

    /// The socket counts among the connections of this address, too.
    pub(crate) fn counts_for(&self, address: AddressPermit) {
        let before = self.address.lock().replace(address);
        drop(before);
    }

    /// The bound because of which the socket has no place. `None`: it has one.
    pub(crate) fn refused_by(&self) -> Option<Bound> {
        match &*self.counts_as.lock() {
            CountsAs::Nothing(bound) => Some(*bound),
            CountsAs::Connection { .. } | CountsAs::Seat(_) => None,
        }
    }

    /// To be called when the handshake is over.
    pub(crate) fn handshake_done(&self) {
        let half_open = self.half_open.lock().take();
        drop(half_open);
    }

    /// Sets how the socket is closed if too many are half open. `end` must not call this pass, because it may be called
    /// while the pass is locked.
    pub(crate) fn ends_by(&self, end: impl FnOnce() + Send + 'static) {
        if let Some(half_open) = &*self.half_open.lock() {
            half_open.ends_by(end);
        }
    }
}
