//! How many calls one service may have under way. A service that hangs fills its own places, and no others.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The most calls that are under way to one service, unless the operator says otherwise.
pub(crate) const CALLS: usize = 1_024;
/// The most bytes of their requests.
pub(crate) const BYTES: usize = 16 << 20;

/// The places for the calls of one service.
pub(super) struct Places {
    calls: Semaphore,
    bytes: Semaphore,
}

/// The place of one call. Dropping it gives the place back, also if the call is cancelled.
pub(super) struct Place<'a> {
    _call: SemaphorePermit<'a>,
    _bytes: SemaphorePermit<'a>,
}

impl Places {
    /// For so many calls at once.
    pub(super) fn new(calls: usize) -> Self {
        Self {
            calls: Semaphore::new(calls),
            bytes: Semaphore::new(BYTES),
        }
    }

    /// Takes the place for a call whose request has this many bytes. `None`: there is no room.
    pub(super) fn take(&self, bytes: usize) -> Option<Place<'_>> {
        let bytes = u32::try_from(bytes).ok()?;
        Some(Place {
            _call: self.calls.try_acquire().ok()?,
            _bytes: self.bytes.try_acquire_many(bytes).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_their_bytes_are_bounded_until_they_are_over() {
        let places = Places::new(CALLS);
        let mut taken: Vec<_> = (0..CALLS).map(|_| places.take(1).unwrap()).collect();
        assert!(places.take(1).is_none());
        taken.pop();
        assert!(places.take(BYTES).is_none());
        taken.clear();
        let all = places.take(BYTES).unwrap();
        assert!(places.take(1).is_none());
        drop(all);
        assert!(places.take(BYTES).is_some());
        assert!(places.take(BYTES + 1).is_none());
    }
}
