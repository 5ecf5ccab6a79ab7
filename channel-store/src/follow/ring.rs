//! The last deliveries of a channel. A reader that begins or comes back within moments begins from them, without a read of
//! the store.

use crate::publication::{Position, Publication};
use std::collections::VecDeque;

/// The bounds of a ring: publications, and bytes.
const ENTRIES: usize = 512;
const BYTES: usize = 128 << 10;

/// A run of one log without a gap. It holds at most 512 publications, and 128 KiB of them.
#[derive(Debug)]
pub struct Ring {
    /// The position right before the first entry.
    floor: Position,
    entries: VecDeque<Publication>,
    bytes: usize,
}

impl Ring {
    /// An empty run, which begins after this position.
    #[must_use]
    pub fn new(floor: Position) -> Self {
        Self {
            floor,
            entries: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The bytes of its publications.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next publication. The oldest ones make room for it.
    pub fn push(&mut self, publication: Publication) {
        self.bytes += publication.payload.as_bytes().len();
        self.entries.push_back(publication);
        while self.entries.len() > ENTRIES || self.bytes > BYTES {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= oldest.payload.as_bytes().len();
            self.floor = oldest.position;
        }
    }

    /// Its publications, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Publication> {
        self.entries.iter()
    }

    /// The publications after a position, if the ring knows that position. It knows the positions of its own entries,
    /// and the one before each entry in the same epoch: a new member starts right before its own onJoin.
    #[must_use]
    pub fn after(&self, position: &Position) -> Option<impl Iterator<Item = &Publication>> {
        let start = if *position == self.floor {
            0
        } else {
            // Offsets rise from entry to entry.
            let at = self
                .entries
                .partition_point(|entry| entry.position.offset <= position.offset);
            let is_own = at > 0 && self.entries[at - 1].position == *position;
            let precedes = self.entries.get(at).is_some_and(|next| {
                next.position.epoch == position.epoch && next.position.offset == position.offset + 1
            });
            if !is_own && !precedes {
                return None;
            }
            at
        };
        Some(self.entries.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::{Epoch, Payload};

    fn at(epoch: &str, offset: u64) -> Position {
        Position {
            epoch: Epoch::new(epoch),
            offset,
        }
    }

    fn publication(epoch: &str, offset: u64, size: usize) -> Publication {
        let payload = [b"onMessage\0u\0".as_slice(), &vec![b'x'; size]].concat();
        let payload = Payload::parse(payload.into()).unwrap();
        Publication {
            position: at(epoch, offset),
            time: 0,
            payload,
        }
    }

    fn offsets(ring: &Ring, position: &Position) -> Option<Vec<u64>> {
        Some(
            ring.after(position)?
                .map(|entry| entry.position.offset)
                .collect(),
        )
    }

    #[test]
    fn the_ring_answers_from_positions_of_its_run_and_from_no_others() {
        let mut ring = Ring::new(at("a", 4));
        assert_eq!(offsets(&ring, &at("a", 4)), Some(vec![]));
        ring.push(publication("a", 5, 10));
        ring.push(publication("b", 6, 10));
        ring.push(publication("b", 7, 10));
        assert_eq!(offsets(&ring, &at("a", 4)), Some(vec![5, 6, 7]));
        assert_eq!(offsets(&ring, &at("a", 5)), Some(vec![6, 7]));
        assert_eq!(offsets(&ring, &at("b", 7)), Some(vec![]));
        assert_eq!(offsets(&ring, &at("a", 3)), None);
        assert_eq!(offsets(&ring, &at("b", 8)), None);
        assert_eq!(
            offsets(&ring, &at("a", 6)),
            None,
            "offset 6 of epoch a was lost, and epoch b has another one"
        );
        assert_eq!(offsets(&ring, &at("c", 6)), None);
        assert_eq!(
            offsets(&ring, &at("b", 5)),
            Some(vec![6, 7]),
            "the position right before the first publication of epoch b"
        );
    }

    #[test]
    fn the_ring_is_bounded_in_entries_and_bytes() {
        let mut ring = Ring::new(at("a", 0));
        for offset in 1..=2_000 {
            ring.push(publication("a", offset, 1_000));
        }
        assert!(ring.bytes <= BYTES);
        let first = ring.entries[0].position.offset;
        assert_eq!(
            offsets(&ring, &at("a", first - 1)).map(|all| all.len()),
            Some(ring.entries.len())
        );
        assert_eq!(offsets(&ring, &at("a", first - 2)), None);
    }
}
