//! How one reader of a channel stays contiguous.
//!
//! A feed brings publications as they are published, and may miss some: between two connections, or when a server fell
//! back to older data. A [`Follower`] decides what to do with each of them. Within its own epoch the next publication
//! is delivered, and one that was seen is dropped. Everything else is settled by reading the log. So a reader gets a
//! run of one log without a gap, or is told what it lost. `docs/design/log.md` explains why this is enough.
//!
//! A follower does no I/O. Its owner calls it with what the feed brings, and reads the log when it says so.

mod ring;
mod shared_reads;

pub use ring::Ring;
pub use shared_reads::SharedReads;

use crate::{
    Continuity, Ephemeral, Epoch, FeedConnection, Head, LogPage, Position, Publication,
    ServerLifetime, Since,
};
use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::VecDeque;
use std::mem;

/// Publications that wait while the log is read, in bytes. If there are more, they are dropped and read from the log.
const QUEUE: usize = 1 << 20;

/// What a follower hands on, in order.
pub trait Deliver {
    /// The next publication of the log. `own` is the position of the reader before it.
    fn deliver(&mut self, own: Option<&Position>, publication: Publication);

    /// Something that is not in the log, for readers that stand exactly here. By default it is passed over.
    fn ephemeral(&mut self, _: Ephemeral) {}

    /// The reader stands here from now on. Without `lost` it begins to follow here. With `lost` the log does not go on
    /// from where the reader stood: something is missing, or the reader saw what this log does not have.
    fn locate(&mut self, position: &Position, lost: Option<Continuity>);

    /// The feed has missed something, or somebody doubts that the reader is at the end. So the log will be read.
    fn gap(&mut self);

    /// The publication that is delivered right after this comes from the log, because the feed did not bring it in
    /// time.
    fn repaired(&mut self);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The feed has not confirmed the subscription.
    Subscribing,
    /// The subscription is confirmed, and the end of the log is being asked for.
    Locating,
    /// Every publication up to the position was delivered, and the feed is expected to bring the next one.
    Live,
    /// What follows the position is being read from the log.
    Reading,
    /// Nobody wants publications any more.
    Stopped,
}

/// What the owner has to do after a confirmed subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// Nothing. If a read is under way, one more follows it.
    Nothing,
    /// Read the log.
    Read,
    /// Compare the end of the log, and give the answer to [`Follower::compared`]. Most likely nothing was missed, and
    /// then no read is needed.
    Compare,
}

/// What the task that reads the log does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read again.
    Read,
    /// Read again, but not at once: the answer came from another server than the one that the feed listens to.
    ReadLater,
    /// Stop reading: the reader is live, or was stopped.
    Done,
}

/// Keeps one reader of a channel contiguous. At most one task may read the log for it at a time, and only after the
/// follower has asked for it.
#[derive(Debug)]
pub struct Follower {
    phase: Phase,
    /// The number of the feed connection that confirmed the subscription last.
    connection: u64,
    lifetime: Option<ServerLifetime>,
    position: Option<Position>,
    queue: VecDeque<Queued>,
    queued: usize,
    /// Something happened while the log was read, so it must be read once more.
    read_again: bool,
}

/// Something that came while the log was read.
#[derive(Debug)]
enum Queued {
    Publication(Publication),
    /// `looked`: the log is read because of it already. If the reader does not stand at its place after that, it is dropped.
    Ephemeral {
        it: Ephemeral,
        looked: bool,
    },
}

impl Queued {
    fn bytes(&self) -> usize {
        let payload = match self {
            Self::Publication(publication) => &publication.payload,
            Self::Ephemeral { it, .. } => &it.payload,
        };
        payload.as_bytes().len()
    }
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            phase: Phase::Subscribing,
            connection: 0,
            lifetime: None,
            position: None,
            queue: VecDeque::new(),
            queued: 0,
            read_again: false,
        }
    }
}

impl Follower {
    /// The position of the reader; `None` until the end of the log is known.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// From now on nothing is delivered.
    pub fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.clear_queue();
    }

    /// The feed has confirmed the subscription on this connection.
    pub fn subscribed(&mut self, connection: &FeedConnection) -> Confirmed {
        self.connection = connection.number;
        self.lifetime = Some(connection.lifetime.clone());
        // A failover may have lost what an earlier connection brought. If it stayed in the queue, it could be delivered
        // as the next publication.
        self.clear_queue();
        match self.phase {
            Phase::Stopped => Confirmed::Nothing,
            Phase::Subscribing => {
                self.phase = Phase::Locating;
                Confirmed::Read
            }
            Phase::Live => {
                self.phase = Phase::Reading;
                Confirmed::Compare
            }
            Phase::Locating | Phase::Reading => {
                self.read_again = true;
                Confirmed::Nothing
            }
        }
    }

    /// Takes publications of the feed, each of which follows the one before it. True: the owner must read the log now.
    pub fn publications(
        &mut self,
        connection: u64,
        run: &mut dyn Iterator<Item = Publication>,
        to: &mut impl Deliver,
    ) -> bool {
        if self.connection != connection {
            return false;
        }
        let mut must_read = false;
        for publication in run {
            must_read |= self.take(publication, to);
        }
        must_read
    }

    fn take(&mut self, publication: Publication, to: &mut impl Deliver) -> bool {
        match self.phase {
            Phase::Stopped | Phase::Subscribing => false,
            Phase::Locating | Phase::Reading => {
                self.enqueue(Queued::Publication(publication));
                false
            }
            Phase::Live => !self.advance(publication, to),
        }
    }

    /// Takes something of the feed that is not in the log. True: the owner must read the log now.
    ///
    /// It is handed on only while the reader stands exactly at its place. A reader that is behind that place, or in another
    /// epoch, reads first. If it is elsewhere then, the ephemeral is dropped: nobody can tell any more where it belongs.
    pub fn ephemeral(
        &mut self,
        connection: u64,
        ephemeral: Ephemeral,
        to: &mut impl Deliver,
    ) -> bool {
        if self.connection != connection {
            return false;
        }
        match self.phase {
            Phase::Stopped | Phase::Subscribing => false,
            Phase::Locating | Phase::Reading => {
                self.enqueue(Queued::Ephemeral {
                    it: ephemeral,
                    looked: false,
                });
                false
            }
            Phase::Live => !self.give_ephemeral(ephemeral, false, to),
        }
    }

    fn enqueue(&mut self, item: Queued) {
        self.queued += item.bytes();
        self.queue.push_back(item);
        if self.queued > QUEUE {
            self.clear_queue();
            self.read_again = true;
        }
    }

    /// Hands on an ephemeral or drops it. False: the log must be read first, and until then it waits before all others.
    fn give_ephemeral(&mut self, it: Ephemeral, looked: bool, to: &mut impl Deliver) -> bool {
        let own = self.position.as_ref();
        let own = own.filter(|own| own.epoch == it.place.epoch);
        match own.map(|own| it.place.offset.cmp(&own.offset)) {
            Some(Equal) => to.ephemeral(it),
            Some(Less) => {}
            Some(Greater) | None if looked => {}
            Some(Greater) | None => {
                to.gap();
                self.phase = Phase::Reading;
                let item = Queued::Ephemeral { it, looked: true };
                self.queued += item.bytes();
                self.queue.push_front(item);
                return false;
            }
        }
        true
    }

    /// The position from which the log must be read; `None` if no read is needed.
    #[must_use]
    pub fn since(&self) -> Option<Since> {
        match (self.phase, &self.position) {
            (Phase::Locating, _) => Some(Since::Head),
            (Phase::Reading, Some(position)) => Some(Since::Position(position.clone())),
            _ => None,
        }
    }

    /// Takes the answer to a read.
    pub fn read(&mut self, page: LogPage, to: &mut impl Deliver) -> Next {
        match (self.phase, page.continuity) {
            (Phase::Locating, _) => {
                to.locate(&page.position, None);
                self.position = Some(page.position);
            }
            (Phase::Reading, Continuity::Contiguous) => {
                let last = page.entries.last();
                let more = last.is_some_and(|it| it.position.offset < page.last);
                for publication in page.entries {
                    to.repaired();
                    self.deliver(publication, to);
                }
                if more {
                    return Next::Read;
                }
            }
            (Phase::Reading, lost) => {
                // What is lost can't be delivered. Go on with what follows the log's position.
                to.locate(&page.position, Some(lost));
                self.position = Some(page.position);
                return Next::Read;
            }
            (Phase::Stopped | Phase::Live | Phase::Subscribing, _) => return Next::Done,
        }
        let foreign = self.lifetime.as_ref() != Some(&page.lifetime);
        if foreign || mem::take(&mut self.read_again) {
            self.phase = Phase::Reading;
            return if foreign { Next::ReadLater } else { Next::Read };
        }
        self.phase = Phase::Live;
        while let Some(item) = self.queue.pop_front() {
            self.queued -= item.bytes();
            let goes_on = match item {
                Queued::Publication(publication) => self.advance(publication, to),
                Queued::Ephemeral { it, looked } => self.give_ephemeral(it, looked, to),
            };
            if !goes_on {
                return Next::Read;
            }
        }
        Next::Done
    }

    /// Takes the end of the log, as the feed's own server told it instead of a read. If the reader stands there,
    /// nothing was missed.
    pub fn compared(&mut self, head: Option<Head>, to: &mut impl Deliver) -> Next {
        match (self.since(), head) {
            (Some(Since::Position(own)), Some(head)) if own == head.position => {
                let page = LogPage {
                    continuity: Continuity::Contiguous,
                    lifetime: head.lifetime,
                    last: head.position.offset,
                    position: head.position,
                    entries: Vec::new(),
                };
                self.read(page, to)
            }
            _ => Next::Read,
        }
    }

    /// The channel was to expire and has, so nothing is missing: the reader now stands before the first publication of the
    /// next life. False: the reader is not live, so it finds out by reading.
    pub fn expired(&mut self, to: &mut impl Deliver) -> bool {
        if self.phase != Phase::Live {
            return false;
        }
        let start = Position {
            epoch: Epoch::new(""),
            offset: 0,
        };
        to.locate(&start, None);
        self.position = Some(start);
        true
    }

    /// Takes the end of the log while the reader is live. True: the reader is not there, so the owner must read.
    ///
    /// If question and answer use the feed's connection, what was published before the answer has been delivered before
    /// it. So a live reader may be ahead of the answer. If it is behind, it has missed something.
    pub fn touched(&mut self, head: Option<&Head>, to: &mut impl Deliver) -> bool {
        let is_there = match (&self.position, head) {
            (Some(own), Some(Head { position: end, .. })) => {
                own.epoch == end.epoch && own.offset >= end.offset
            }
            _ => false,
        };
        self.phase == Phase::Live && !is_there && self.doubt(to)
    }

    /// Somebody found that the log goes on beyond the reader's position. True: the owner must read. False: a read is
    /// under way, and one more will follow.
    pub fn doubt(&mut self, to: &mut impl Deliver) -> bool {
        if self.phase == Phase::Live {
            to.gap();
            self.phase = Phase::Reading;
            return true;
        }
        self.read_again = true;
        false
    }

    /// Delivers the next publication, and drops one that was seen. False: the log must be read.
    fn advance(&mut self, publication: Publication, to: &mut impl Deliver) -> bool {
        let next = match &self.position {
            Some(own) if own.epoch == publication.position.epoch => {
                if publication.position.offset <= own.offset {
                    return true;
                }
                publication.position.offset == own.offset + 1
            }
            _ => false,
        };
        if next {
            self.deliver(publication, to);
        } else {
            to.gap();
            self.phase = Phase::Reading;
        }
        next
    }

    fn deliver(&mut self, publication: Publication, to: &mut impl Deliver) {
        let position = publication.position.clone();
        to.deliver(self.position.as_ref(), publication);
        self.position = Some(position);
    }

    fn clear_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    /// Records what a reader delivers: publications by epoch and offset, and everything else that it reports.
    #[derive(Default)]
    struct Record(Vec<String>);

    impl Deliver for Record {
        fn deliver(&mut self, _: Option<&Position>, publication: Publication) {
            let Position { epoch, offset } = publication.position;
            self.0.push(format!("{}{offset}", epoch.as_str()));
        }

        fn ephemeral(&mut self, it: Ephemeral) {
            let Position { epoch, offset } = it.place;
            self.0.push(format!("~{}{offset}", epoch.as_str()));
        }

        fn locate(&mut self, position: &Position, lost: Option<Continuity>) {
            let Position { epoch, offset } = position;
            self.0
                .push(format!("at {}{offset} {lost:?}", epoch.as_str()));
        }

        fn gap(&mut self) {
            self.0.push("gap".to_owned());
        }

        fn repaired(&mut self) {
            self.0.push("read".to_owned());
        }
    }

    impl Record {
        fn take(&mut self) -> Vec<String> {
            mem::take(&mut self.0)
        }
    }

    fn at(epoch: &str, offset: u64) -> Position {
        Position {
            epoch: Epoch::new(epoch),
            offset,
        }
    }

    fn publication(epoch: &str, offset: u64, size: usize) -> Publication {
        let payload = [b"onMessage\0u\0".as_slice(), &vec![b'x'; size]].concat();
        Publication {
            position: at(epoch, offset),
            time: 0,
            payload: Payload::parse(payload.into()).unwrap(),
        }
    }

    fn connection(number: u64) -> FeedConnection {
        FeedConnection {
            number,
            lifetime: "server".into(),
        }
    }

    fn page(continuity: Continuity, position: Position, offsets: &[u64], last: u64) -> LogPage {
        let epoch = position.epoch.clone();
        let entries = offsets.iter();
        LogPage {
            continuity,
            lifetime: "server".into(),
            last,
            position,
            entries: entries
                .map(|offset| publication(epoch.as_str(), *offset, 1))
                .collect(),
        }
    }

    /// A reader that is live at the fourth publication.
    fn live(told: &mut Record) -> Follower {
        let mut follower = Follower::default();
        assert_eq!(follower.subscribed(&connection(1)), Confirmed::Read);
        assert_eq!(follower.since(), Some(Since::Head));
        let head = page(Continuity::Contiguous, at("e", 4), &[], 4);
        assert_eq!(follower.read(head, told), Next::Done);
        assert_eq!(told.take(), ["at e4 None"]);
        follower
    }

    fn feed(follower: &mut Follower, told: &mut Record, offsets: &[u64]) -> bool {
        let mut run = offsets.iter().map(|offset| publication("e", *offset, 1));
        follower.publications(1, &mut run, told)
    }

    #[test]
    fn the_next_publication_is_delivered_and_one_that_was_seen_is_dropped() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(!feed(&mut follower, &mut told, &[3, 4, 5, 5, 6]));
        assert_eq!(told.take(), ["e5", "e6"]);
        assert_eq!(follower.position(), Some(&at("e", 6)));
    }

    #[test]
    fn a_gap_is_read_from_the_log_before_anything_newer_is_delivered() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(feed(&mut follower, &mut told, &[7]));
        assert!(
            !feed(&mut follower, &mut told, &[8]),
            "a read is already under way"
        );
        assert_eq!(follower.since(), Some(Since::Position(at("e", 4))));
        let first = page(Continuity::Contiguous, at("e", 4), &[5, 6], 7);
        assert_eq!(follower.read(first, &mut told), Next::Read);
        let second = page(Continuity::Contiguous, at("e", 6), &[7], 7);
        assert_eq!(follower.read(second, &mut told), Next::Done);
        assert_eq!(
            told.take(),
            ["gap", "read", "e5", "read", "e6", "read", "e7", "e8"]
        );
    }

    #[test]
    fn a_loss_is_reported_and_the_reader_goes_on_from_the_position_of_the_log() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(feed(&mut follower, &mut told, &[9]));
        let lost = page(Continuity::Trimmed, at("e", 7), &[], 9);
        assert_eq!(follower.read(lost, &mut told), Next::Read);
        let rest = page(Continuity::Contiguous, at("e", 7), &[8, 9], 9);
        assert_eq!(follower.read(rest, &mut told), Next::Done);
        assert_eq!(
            told.take(),
            ["gap", "at e7 Some(Trimmed)", "read", "e8", "read", "e9"]
        );
    }

    fn bring(follower: &mut Follower, told: &mut Record, place: Position) -> bool {
        let it = Ephemeral {
            place,
            time: 0,
            payload: publication("e", 1, 1).payload,
        };
        follower.ephemeral(1, it, told)
    }

    #[test]
    fn an_ephemeral_is_given_where_it_was_published_and_dropped_when_that_place_is_passed() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(!bring(&mut follower, &mut told, at("e", 4)));
        assert!(!bring(&mut follower, &mut told, at("e", 3)));
        assert!(!feed(&mut follower, &mut told, &[5]));
        assert!(!bring(&mut follower, &mut told, at("e", 4)));
        assert!(!bring(&mut follower, &mut told, at("e", 5)));
        assert_eq!(told.take(), ["~e4", "e5", "~e5"]);
        assert_eq!(follower.position(), Some(&at("e", 5)), "it moves nobody");
    }

    #[test]
    fn an_ephemeral_beyond_the_reader_is_given_after_a_read_that_ends_at_its_place() {
        for (offsets, given) in [(&[5, 6][..], true), (&[5, 6, 7], false), (&[5], false)] {
            let mut told = Record::default();
            let mut follower = live(&mut told);
            assert!(bring(&mut follower, &mut told, at("e", 6)));
            let last = offsets[offsets.len() - 1];
            let read = page(Continuity::Contiguous, at("e", 4), offsets, last);
            assert_eq!(follower.read(read, &mut told), Next::Done);
            let told = told.take();
            assert_eq!(told.contains(&"~e6".to_owned()), given, "{told:?}");
            assert_eq!(follower.queued, 0);
        }
    }

    #[test]
    fn an_ephemeral_of_another_epoch_is_read_for_once_and_given_only_if_the_reader_comes_there() {
        for (read, given) in [
            (page(Continuity::Contiguous, at("e", 4), &[], 4), false),
            (page(Continuity::Diverged, at("f", 4), &[], 4), true),
        ] {
            let mut told = Record::default();
            let mut follower = live(&mut told);
            assert!(bring(&mut follower, &mut told, at("f", 4)));
            let mut next = follower.read(read, &mut told);
            if next == Next::Read {
                let end = page(Continuity::Contiguous, at("f", 4), &[], 4);
                next = follower.read(end, &mut told);
            }
            assert_eq!(next, Next::Done);
            assert_eq!(told.take().contains(&"~f4".to_owned()), given);
        }
    }

    #[test]
    fn an_ephemeral_that_comes_during_a_read_waits_and_is_looked_for_once_more() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(feed(&mut follower, &mut told, &[6]));
        // This read was asked for before the ephemeral came. So it may end before its place.
        assert!(!bring(&mut follower, &mut told, at("e", 7)));
        assert!(!feed(&mut follower, &mut told, &[8]));
        let early = page(Continuity::Contiguous, at("e", 4), &[5, 6], 6);
        assert_eq!(follower.read(early, &mut told), Next::Read);
        let end = page(Continuity::Contiguous, at("e", 6), &[7], 7);
        assert_eq!(follower.read(end, &mut told), Next::Done);
        let told = told.take();
        let order: Vec<_> = told
            .iter()
            .filter(|it| !it.starts_with(['g', 'r']))
            .collect();
        assert_eq!(order, ["e5", "e6", "e7", "~e7", "e8"]);
        assert_eq!(follower.queued, 0);
    }

    #[test]
    fn an_ephemeral_of_an_earlier_connection_is_not_taken() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert_eq!(follower.subscribed(&connection(2)), Confirmed::Compare);
        assert!(!bring(&mut follower, &mut told, at("e", 4)));
        let head = Head {
            position: at("e", 4),
            lifetime: "server".into(),
        };
        assert_eq!(follower.compared(Some(head), &mut told), Next::Done);
        assert_eq!(told.take(), [""; 0]);
    }

    #[test]
    fn a_publication_of_another_epoch_is_never_delivered_as_the_next_one() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        let mut run = [publication("f", 5, 1)].into_iter();
        assert!(follower.publications(1, &mut run, &mut told));
        assert_eq!(told.take(), ["gap"]);
    }

    #[test]
    fn the_queue_during_a_read_is_bounded_and_what_it_drops_is_read_again() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(feed(&mut follower, &mut told, &[6]));
        for offset in 7..=9 {
            let mut run = [publication("e", offset, QUEUE / 2)].into_iter();
            follower.publications(1, &mut run, &mut told);
        }
        assert!(follower.queued <= QUEUE, "{}", follower.queued);
        let all = page(Continuity::Contiguous, at("e", 4), &[5, 6], 6);
        assert_eq!(follower.read(all, &mut told), Next::Read);
        let rest = page(Continuity::Contiguous, at("e", 6), &[7, 8, 9], 9);
        assert_eq!(follower.read(rest, &mut told), Next::Done);
        assert_eq!(follower.position(), Some(&at("e", 9)));
    }

    #[test]
    fn publications_of_an_earlier_connection_are_ignored() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert_eq!(follower.subscribed(&connection(2)), Confirmed::Compare);
        assert!(!feed(&mut follower, &mut told, &[5]));
        let head = Head {
            position: at("e", 4),
            lifetime: "server".into(),
        };
        assert_eq!(follower.compared(Some(head), &mut told), Next::Done);
        assert_eq!(told.take(), [""; 0]);
    }

    #[test]
    fn after_an_answer_of_another_server_the_log_is_read_again() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(feed(&mut follower, &mut told, &[6]));
        let other = LogPage {
            lifetime: "replica".into(),
            ..page(Continuity::Contiguous, at("e", 4), &[5], 5)
        };
        assert_eq!(follower.read(other, &mut told), Next::ReadLater);
        assert!(follower.since().is_some());
    }

    #[test]
    fn if_the_log_is_ahead_of_a_live_reader_it_is_read() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        let head = |offset| Head {
            position: at("e", offset),
            lifetime: "server".into(),
        };
        assert!(!follower.touched(Some(&head(4)), &mut told));
        assert!(
            !follower.touched(Some(&head(3)), &mut told),
            "the reader is ahead"
        );
        assert!(follower.touched(Some(&head(5)), &mut told));
        assert!(!follower.doubt(&mut told), "a read is already under way");
    }

    #[test]
    fn a_reader_whose_channel_has_expired_stands_before_the_next_life() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        assert!(follower.expired(&mut told));
        assert_eq!(told.take(), ["at 0 None"]);
        let mut run = [publication("f", 1, 1)].into_iter();
        assert!(follower.publications(1, &mut run, &mut told));
        assert_eq!(follower.since(), Some(Since::Position(at("", 0))));
        assert!(!follower.expired(&mut told), "it reads");
        let first = page(Continuity::Contiguous, at("f", 0), &[1], 1);
        assert_eq!(follower.read(first, &mut told), Next::Done);
        assert_eq!(told.take(), ["gap", "read", "f1"]);
    }

    #[test]
    fn nothing_is_delivered_after_the_reader_was_stopped() {
        let mut told = Record::default();
        let mut follower = live(&mut told);
        follower.stop();
        assert!(!feed(&mut follower, &mut told, &[5, 9]));
        assert_eq!(follower.since(), None);
        assert_eq!(told.take(), [""; 0]);
    }
}
