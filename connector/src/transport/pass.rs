//! What an accepted socket counts for in the connector's bounds.

use crate::limits::{HalfOpen, Place, Seat, Seats};
use parking_lot::Mutex;
use std::sync::Arc;

/// What an accepted socket counts for in the connector's bounds. Dropping this gives all of it back.
pub(crate) struct Pass {
    room: Mutex<Room>,
    half_open: Mutex<Option<HalfOpen>>,
}

/// What a socket counts as.
enum Room {
    /// There was no place for the socket.
    None,
    /// A connection.
    Place { _place: Place },
    /// One of the connections that a polling client counts as.
    Seat(Seat),
}

impl Pass {
    /// For a socket that has a place, and whose handshake begins.
    pub(crate) fn new(place: Place, half_open: HalfOpen) -> Arc<Self> {
        Self::with(Room::Place { _place: place }, half_open)
    }

    /// For a socket that has no place. It is served only if it gets a [seat](Seats) of a polling client.
    pub(crate) fn at_the_door(half_open: HalfOpen) -> Arc<Self> {
        Self::with(Room::None, half_open)
    }

    fn with(room: Room, half_open: HalfOpen) -> Arc<Self> {
        Arc::new(Self {
            room: Mutex::new(room),
            half_open: Mutex::new(Some(half_open)),
        })
    }

    /// Lets the socket count as one of this client's from now on, if the client has a free seat.
    pub(crate) fn sit(&self, seats: &Seats) {
        let mut room = self.room.lock();
        if matches!(&*room, Room::Seat(seat) if seat.is_of(seats)) {
            return;
        }
        if let Some(seat) = seats.take() {
            let before = std::mem::replace(&mut *room, Room::Seat(seat));
            drop(room);
            drop(before);
        }
    }

    /// False if the socket has no place.
    pub(crate) fn has_room(&self) -> bool {
        !matches!(&*self.room.lock(), Room::None)
    }

    /// To be called when the handshake is over.
    pub(crate) fn opened(&self) {
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
