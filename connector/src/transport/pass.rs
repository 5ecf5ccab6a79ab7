//! What an accepted socket holds of the connector's bounds.

use crate::limits::{HalfOpen, Place, Seat, Seats};
use parking_lot::Mutex;
use std::sync::Arc;

/// What an accepted socket holds of the connector's bounds, until it is dropped.
pub(crate) struct Pass {
    room: Mutex<Room>,
    half_open: Mutex<Option<HalfOpen>>,
}

/// What a socket counts as.
enum Room {
    /// There was no place for it.
    None,
    /// A connection.
    Place { _place: Place },
    /// One of those that a client which polls is counted for.
    Seat(Seat),
}

impl Pass {
    /// Of a socket whose handshake begins.
    pub(crate) fn new(place: Place, half_open: HalfOpen) -> Arc<Self> {
        Self::with(Room::Place { _place: place }, half_open)
    }

    /// Of a socket for which there is no place, unless it is of a client that has [seats](Seats).
    pub(crate) fn at_the_door(half_open: HalfOpen) -> Arc<Self> {
        Self::with(Room::None, half_open)
    }

    fn with(room: Room, half_open: HalfOpen) -> Arc<Self> {
        Arc::new(Self {
            room: Mutex::new(room),
            half_open: Mutex::new(Some(half_open)),
        })
    }

    /// The socket counts as one of this client's from now on, if the client has a seat to spare.
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

    /// False: the socket is one too many.
    pub(crate) fn has_room(&self) -> bool {
        !matches!(&*self.room.lock(), Room::None)
    }

    /// The handshake is over.
    pub(crate) fn opened(&self) {
        let half_open = self.half_open.lock().take();
        drop(half_open);
    }

    /// How the socket is to be ended if too many are half open. `end` must not come back here.
    pub(crate) fn ends_by(&self, end: impl FnOnce() + Send + 'static) {
        if let Some(half_open) = &*self.half_open.lock() {
            half_open.ends_by(end);
        }
    }
}
