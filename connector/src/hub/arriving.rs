//! Traces of what the feed is about to bring: which publications they belong to.

use channel_store::Traced;
use std::sync::Arc;
use traces::{Kind, Span};

/// The most marks that wait for their publications. The feed brings a publication right after its mark, but the hub may read the log
/// first.
const MOST: usize = 64;

/// The marks that have come, and whose publications have not.
#[derive(Default)]
pub(super) struct Arriving {
    marks: Vec<Traced>,
}

impl Arriving {
    /// Takes marks from the feed. If too many wait, the oldest are forgotten: then their traces end with the feed.
    pub(super) fn expect(&mut self, marks: Vec<Traced>) {
        self.marks.extend(marks);
        let surplus = self.marks.len().saturating_sub(MOST);
        self.marks.drain(..surplus);
    }

    /// Begins the hub's step of a publication at this offset, or of an ephemeral message, if it belongs to a trace.
    pub(super) fn begin(&mut self, offset: Option<u64>) -> Option<Arc<Span>> {
        if self.marks.is_empty() {
            return None;
        }
        let at = self.marks.iter().position(|mark| mark.offset == offset);
        let mark = at.map(|at| self.marks.remove(at));
        // What comes after this has greater offsets. Marks of smaller ones are of publications that the hub had already.
        if offset.is_some() {
            self.marks.retain(|mark| mark.offset > offset);
        }
        Span::child(Some(mark?.context), "hub", Kind::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::Parent;

    fn mark(offset: Option<u64>) -> Traced {
        let trace = Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        Traced {
            offset,
            context: trace.unwrap().context,
        }
    }

    #[test]
    fn a_mark_waits_for_its_own_publication_and_not_for_ever() {
        traces::begin(0.0);
        let mut arriving = Arriving::default();
        assert!(arriving.begin(Some(1)).is_none());
        arriving.expect(vec![mark(Some(5)), mark(Some(7))]);
        assert!(arriving.begin(Some(4)).is_none());
        assert!(arriving.begin(Some(5)).is_some());
        assert!(arriving.begin(Some(5)).is_none());
        // The hub goes past it, because it has read the log.
        assert!(arriving.begin(Some(8)).is_none());
        assert!(arriving.begin(Some(7)).is_none());

        arriving.expect(vec![mark(None), mark(Some(12))]);
        assert!(arriving.begin(None).is_some());
        assert!(arriving.begin(None).is_none());
        assert!(arriving.begin(Some(12)).is_some());
        arriving.expect((0..1_000).map(|offset| mark(Some(offset))).collect());
        assert_eq!(arriving.marks.len(), MOST);
    }
}
