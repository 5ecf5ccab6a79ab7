//! One channel on this connector: where it stands in the log, and the local members it is delivered to.
//!
//! The state machine of RECOVERY.md, section 4: within its own epoch the next publication is delivered, one that was
//! seen is dropped, and everything else is settled by reading the log. So each member sees a run of one log, or is told
//! in between.

use super::HubMetrics;
use super::audience::{Audience, Receiver};
use super::flusher::Flusher;
use super::reader::SharedReads;
use super::ring::Ring;
use crate::suspects::Suspects;
use crate::transport::Connection;
use channel_store::{
    ChannelName, FeedConnection, Generation, Head, LogPage, Place, Position, Publication, Since,
    Standing,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use tokio::sync::Notify;
use wire::Moved;

/// Publications that wait, in bytes, while the log is read. Beyond it they are dropped and read again.
const QUEUE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not confirmed by the feed.
    Subscribing,
    /// Confirmed; the end of the log is being asked for.
    Attaching,
    /// Every publication up to `position` was delivered, and the next one is expected from the feed.
    Live,
    /// What follows `position` is being read from the log.
    Reading,
    /// Nobody is here any more.
    Off,
}

/// What the task that reads the log does next.
pub(super) enum Next {
    Read,
    /// Read again, but not at once: the answer came from another server than the one that the feed listens to.
    ReadLater,
    Done,
}

/// What a confirmed subscription asks for.
pub(super) enum Confirmed {
    Nothing,
    /// The log is to be read.
    Read,
    /// The end of the log is to be looked at: most likely nothing was missed.
    Look,
}

/// One channel with at least one local member.
pub(super) struct LocalChannel {
    name: ChannelName,
    flusher: Arc<Flusher>,
    /// Told when an epoch begins: who was a member in the last one may be none any more.
    suspects: Arc<Suspects>,
    metrics: HubMetrics,
    state: Mutex<State>,
    /// Notified when the position is known.
    located: Notify,
    /// What members read for themselves.
    pub(super) reads: SharedReads,
}

struct State {
    phase: Phase,
    /// The feed's connection that the last confirmation came from.
    connection: u64,
    generation: Option<Generation>,
    position: Option<Position>,
    ring: Option<Ring>,
    queue: VecDeque<Publication>,
    queued: usize,
    /// Something happened while the log was read: read once more.
    owed: bool,
    audience: Audience,
}

impl LocalChannel {
    pub(super) fn new(
        name: ChannelName,
        flusher: Arc<Flusher>,
        suspects: Arc<Suspects>,
        metrics: HubMetrics,
    ) -> Arc<Self> {
        let state = State {
            phase: Phase::Subscribing,
            connection: 0,
            generation: None,
            position: None,
            ring: None,
            queue: VecDeque::new(),
            queued: 0,
            owed: false,
            audience: Audience::new(metrics.clone()),
        };
        Arc::new(Self {
            name,
            flusher,
            suspects,
            metrics,
            state: Mutex::new(state),
            located: Notify::new(),
            reads: SharedReads::default(),
        })
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Registers a member that gets nothing yet.
    pub(super) fn attach(&self, receiver: Receiver) -> usize {
        self.state.lock().audience.attach(receiver)
    }

    /// Takes a member out; true if it was the last, and the channel is off from now on.
    pub(super) fn detach(&self, member: usize) -> bool {
        let mut state = self.state.lock();
        state.audience.detach(member);
        if state.audience.is_empty() {
            state.phase = Phase::Off;
        }
        state.phase == Phase::Off
    }

    /// Returns when the feed is confirmed and the end of the log known.
    pub(super) async fn wait_until_located(&self) {
        loop {
            let located = self.located.notified();
            tokio::pin!(located);
            // Registered before the look, so that no notification falls in between.
            located.as_mut().enable();
            if self.state.lock().position.is_some() {
                return;
            }
            located.await;
        }
    }

    /// The feed has confirmed the subscription.
    pub(super) fn subscribed(&self, connection: &FeedConnection) -> Confirmed {
        let mut state = self.state.lock();
        state.connection = connection.number;
        state.generation = Some(Arc::clone(&connection.generation));
        // What an earlier connection brought may have been lost in between: it must not pass as the next one.
        state.clear_queue();
        match state.phase {
            Phase::Off => Confirmed::Nothing,
            Phase::Subscribing => {
                state.phase = Phase::Attaching;
                Confirmed::Read
            }
            Phase::Live => {
                state.phase = Phase::Reading;
                Confirmed::Look
            }
            Phase::Attaching | Phase::Reading => {
                state.owed = true;
                Confirmed::Nothing
            }
        }
    }

    /// Publications from the feed, which follow one another. True: somebody must read the log now.
    pub(super) fn publications(
        self: &Arc<Self>,
        connection: u64,
        run: &mut dyn Iterator<Item = Publication>,
    ) -> bool {
        let mut state = self.state.lock();
        if state.connection != connection {
            return false;
        }
        let mut must_read = false;
        for publication in run {
            must_read |= self.take(&mut state, publication);
        }
        must_read
    }

    fn take(self: &Arc<Self>, state: &mut State, publication: Publication) -> bool {
        match state.phase {
            Phase::Off | Phase::Subscribing => false,
            Phase::Attaching | Phase::Reading => {
                state.queued += publication.payload.as_bytes().len();
                state.queue.push_back(publication);
                if state.queued > QUEUE {
                    state.clear_queue();
                    state.owed = true;
                }
                false
            }
            Phase::Live => !self.advance(state, publication),
        }
    }

    /// From where the log is to be read; `None` if nobody needs it.
    pub(super) fn since(&self) -> Option<Since> {
        let state = self.state.lock();
        match (state.phase, &state.position) {
            (Phase::Attaching, _) => Some(Since::Head),
            (Phase::Reading, Some(position)) => Some(Since::Position(position.clone())),
            _ => None,
        }
    }

    /// Takes what was read.
    pub(super) fn read(self: &Arc<Self>, page: LogPage) -> Next {
        let mut state = self.state.lock();
        match (state.phase, Moved::of(page.standing)) {
            (Phase::Attaching, _) => {
                state.ring = Some(Ring::new(page.position.clone()));
                state.position = Some(page.position);
                self.located.notify_waiters();
            }
            (Phase::Reading, None) => {
                let more = page
                    .entries
                    .last()
                    .is_some_and(|last| last.position.offset < page.last);
                for publication in page.entries {
                    self.metrics.repaired.increment(1);
                    self.deliver(&mut state, publication);
                }
                if more {
                    return Next::Read;
                }
            }
            (Phase::Reading, Some(moved)) => {
                // Members can't be given what is lost, so each is told; what follows is read from where the log stands.
                tracing::warn!(
                    channel = self.name.as_str(),
                    reason = moved.reason(),
                    "positions lost"
                );
                self.suspects.add(Place::Channel(self.name.clone()));
                state.audience.tell(&self.name, &page.position, moved);
                state.ring = Some(Ring::new(page.position.clone()));
                state.position = Some(page.position);
                return Next::Read;
            }
            (Phase::Off | Phase::Live | Phase::Subscribing, _) => return Next::Done,
        }
        let foreign = state.generation.as_ref() != Some(&page.generation);
        if foreign || mem::take(&mut state.owed) {
            state.phase = Phase::Reading;
            return if foreign { Next::ReadLater } else { Next::Read };
        }
        state.phase = Phase::Live;
        while let Some(publication) = state.queue.pop_front() {
            state.queued -= publication.payload.as_bytes().len();
            if !self.advance(&mut state, publication) {
                return Next::Read;
            }
        }
        Next::Done
    }

    /// Takes where the log ends, as the feed's own server said when it was asked instead of a read. If that is where
    /// the hub stands, nothing was missed.
    pub(super) fn looked(self: &Arc<Self>, head: Option<Head>) -> Next {
        match (self.since(), head) {
            (Some(Since::Position(own)), Some(head)) if own == head.position => {
                self.read(LogPage {
                    standing: Standing::Exact,
                    generation: head.generation,
                    last: head.position.offset,
                    position: head.position,
                    entries: Vec::new(),
                })
            }
            _ => Next::Read,
        }
    }

    /// Takes where the log ends while the channel is live. True: the hub is not there, so somebody must read.
    ///
    /// What was published before the question was answered has been delivered before the answer is taken, if both came
    /// over one connection; so a live hub may be ahead, but never behind.
    pub(super) fn touched(&self, head: Option<&Head>) -> bool {
        let is_there = |state: &State| {
            state.position.as_ref().is_some_and(|own| {
                head.is_some_and(|head| {
                    own.epoch == head.position.epoch && own.offset >= head.position.offset
                })
            })
        };
        let state = self.state.lock();
        let is_behind = state.phase == Phase::Live && !is_there(&state);
        drop(state);
        is_behind && self.doubt()
    }

    /// True if the last deliveries tell that a position stands in the log that ends at `end`: they are of its epoch.
    pub(super) fn knows(&self, position: &Position, end: &Position) -> bool {
        let state = self.state.lock();
        let is_same = |own: &Position| own.epoch == end.epoch;
        state.position.as_ref().is_some_and(is_same)
            && (state.ring.as_ref()).is_some_and(|ring| ring.after(position).is_some())
    }

    /// Lets a member begin right after a position. `false`: neither the hub's position nor its ring has it; read from
    /// there and come again.
    pub(super) fn start(
        &self,
        member: usize,
        connection: &Arc<Connection>,
        start: &Position,
    ) -> bool {
        self.start_in(&mut self.state.lock(), member, connection, start)
    }

    fn start_in(
        &self,
        state: &mut State,
        member: usize,
        connection: &Arc<Connection>,
        start: &Position,
    ) -> bool {
        let (Some(position), Some(ring)) = (&state.position, &state.ring) else {
            return false;
        };
        let member = (member, connection);
        state
            .audience
            .begin(&self.name, member, start, position, ring)
    }

    /// A member could not be brought to where the hub stands: one of the two is behind. True: somebody must read.
    pub(super) fn doubt(&self) -> bool {
        let mut state = self.state.lock();
        if state.phase == Phase::Live {
            self.metrics.gaps.increment(1);
            state.phase = Phase::Reading;
            return true;
        }
        state.owed = true;
        false
    }

    /// Lets a member begin after a position that the log ends with, when the hub reaches it. `false`: the hub has
    /// gone beyond it meanwhile, and the member would miss what is in between.
    pub(super) fn wait_for(
        &self,
        member: usize,
        connection: &Arc<Connection>,
        start: &Position,
    ) -> bool {
        let mut state = self.state.lock();
        if self.start_in(&mut state, member, connection, start) {
            return true;
        }
        let is_ahead = |own: &Position| own.offset > start.offset;
        if state.position.as_ref().is_some_and(is_ahead) {
            return false;
        }
        state.audience.wait(member, connection, start);
        true
    }

    /// Hands everything pending to the sockets of all live members.
    pub(super) fn flush(&self) {
        self.state.lock().audience.flush(&self.name);
    }

    /// By the rules of the live phase: delivered, dropped, or (false) to be read.
    fn advance(self: &Arc<Self>, state: &mut State, publication: Publication) -> bool {
        let next = match &state.position {
            Some(own) if own.epoch == publication.position.epoch => {
                if publication.position.offset <= own.offset {
                    return true;
                }
                publication.position.offset == own.offset + 1
            }
            _ => false,
        };
        if next {
            self.deliver(state, publication);
        } else {
            self.metrics.gaps.increment(1);
            state.phase = Phase::Reading;
        }
        next
    }

    fn deliver(self: &Arc<Self>, state: &mut State, publication: Publication) {
        let own = state.position.as_ref();
        let appended = state.audience.append(&self.name, own, &publication);
        self.flusher.note_arrival();
        let position = publication.position.clone();
        if own.is_some_and(|own| own.epoch != position.epoch) {
            self.suspects.add(Place::Channel(self.name.clone()));
        }
        if let Some(ring) = &mut state.ring {
            ring.push(publication);
        }
        if appended.first {
            self.flusher.add(Arc::clone(self));
        }
        if appended.full {
            state.audience.flush(&self.name);
        }
        state.audience.reached(&self.name, &position);
        state.position = Some(position);
    }
}

impl State {
    fn clear_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }
}
