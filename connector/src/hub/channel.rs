//! One channel on this connector: where it stands in the log, and the local members it is delivered to.
//!
//! The state machine of RECOVERY.md, section 4: within its own epoch the next publication is delivered, one that was
//! seen is dropped, and everything else is settled by reading the log. So each member sees a run of one log. Delivery
//! only appends to a buffer, once for each wire format in use; a flush hands the buffer to every member's socket.

use super::HubMetrics;
use super::flusher::Flusher;
use super::ring::Ring;
use crate::codec::{self, WireFormat};
use crate::connection::Connection;
use crate::disconnect::Disconnect;
use bytes::Bytes;
use channel_store::{
    ChannelName, FeedConnection, Generation, LogPage, Position, Publication, Since, Standing,
};
use parking_lot::Mutex;
use slab::Slab;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use tokio::sync::Notify;

/// A buffer that grows beyond this is flushed at once; one that did so often does not keep its memory.
const BATCH: usize = 64 << 10;
const KEPT_BUFFER: usize = 4 << 10;
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

enum Slot {
    /// Registered; its join is under way.
    Attached(Arc<Connection>),
    /// Begins after this position, which has not been reached yet.
    Waiting(Arc<Connection>, Position),
    /// Key in `live`.
    Live(WireFormat, usize),
}

/// One channel with at least one local member.
pub(super) struct LocalChannel {
    name: ChannelName,
    flusher: Arc<Flusher>,
    metrics: HubMetrics,
    state: Mutex<State>,
    /// Notified when the position is known.
    located: Notify,
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
    slots: Slab<Slot>,
    waiting: usize,
    live: [Slab<Arc<Connection>>; WireFormat::COUNT],
    pending: [Vec<u8>; WireFormat::COUNT],
    /// The position before the first pending publication, while some are.
    flushed: Option<Position>,
}

impl LocalChannel {
    pub(super) fn new(name: ChannelName, flusher: Arc<Flusher>, metrics: HubMetrics) -> Arc<Self> {
        let state = State {
            phase: Phase::Subscribing,
            connection: 0,
            generation: None,
            position: None,
            ring: None,
            queue: VecDeque::new(),
            queued: 0,
            owed: false,
            slots: Slab::new(),
            waiting: 0,
            live: Default::default(),
            pending: Default::default(),
            flushed: None,
        };
        Arc::new(Self {
            name,
            flusher,
            metrics,
            state: Mutex::new(state),
            located: Notify::new(),
        })
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Registers a member that gets nothing yet.
    pub(super) fn attach(&self, connection: &Arc<Connection>) -> usize {
        self.state
            .lock()
            .slots
            .insert(Slot::Attached(Arc::clone(connection)))
    }

    /// Takes a member out; true if it was the last, and the channel is off from now on.
    pub(super) fn detach(&self, member: usize) -> bool {
        let mut state = self.state.lock();
        match state.slots.try_remove(member) {
            Some(Slot::Live(format, key)) => {
                state.live[format.index()].try_remove(key);
                if state.live[format.index()].is_empty() {
                    // From here on nothing is appended: what is there would have a hole when the next one comes.
                    state.pending[format.index()].clear();
                }
            }
            Some(Slot::Waiting(..)) => state.waiting -= 1,
            Some(Slot::Attached(_)) | None => {}
        }
        if state.slots.is_empty() {
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

    /// The feed has confirmed the subscription. True: somebody must read the log now.
    pub(super) fn subscribed(&self, connection: &FeedConnection) -> bool {
        let mut state = self.state.lock();
        state.connection = connection.number;
        state.generation = Some(Arc::clone(&connection.generation));
        // What an earlier connection brought may have been lost in between: it must not pass as the next one.
        state.clear_queue();
        match state.phase {
            Phase::Off => false,
            Phase::Subscribing => {
                state.phase = Phase::Attaching;
                true
            }
            Phase::Live => {
                state.phase = Phase::Reading;
                true
            }
            Phase::Attaching | Phase::Reading => {
                state.owed = true;
                false
            }
        }
    }

    /// A publication from the feed. True: somebody must read the log now.
    pub(super) fn publication(self: &Arc<Self>, connection: u64, publication: Publication) -> bool {
        let mut state = self.state.lock();
        if state.connection != connection {
            return false;
        }
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
            Phase::Live => !self.advance(&mut state, publication),
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
        match (state.phase, page.standing) {
            (Phase::Attaching, _) => {
                state.ring = Some(Ring::new(page.position.clone()));
                state.position = Some(page.position);
                self.located.notify_waiters();
            }
            (Phase::Reading, Standing::Exact) => {
                let more = page
                    .entries
                    .last()
                    .is_some_and(|last| last.position.offset < page.last);
                for publication in page.entries {
                    self.deliver(&mut state, publication);
                }
                if more {
                    return Next::Read;
                }
            }
            (Phase::Reading, standing) => {
                // Members can't be given what is lost, so each is told; what follows is read from where the log stands.
                tracing::warn!(channel = %self.name, ?standing, "positions lost");
                self.metrics.positions_lost.increment(1);
                state.flush(&self.metrics);
                state.tell_positions_lost();
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

    /// Lets a member begin right after a position. `false`: neither the hub's position nor its ring has it; read from
    /// there and come again.
    pub(super) fn start(&self, member: usize, start: &Position) -> bool {
        self.start_in(&mut self.state.lock(), member, start)
    }

    fn start_in(&self, state: &mut State, member: usize, start: &Position) -> bool {
        let connection = match state.slots.get(member) {
            Some(Slot::Attached(connection)) => Arc::clone(connection),
            Some(Slot::Waiting(..) | Slot::Live(..)) | None => return true,
        };
        let (Some(position), Some(ring)) = (&state.position, &state.ring) else {
            return false;
        };
        if start.epoch == position.epoch && start.offset > position.offset {
            state.slots[member] = Slot::Waiting(connection, start.clone());
            state.waiting += 1;
            return true;
        }
        let Some(missed) = ring.after(start) else {
            return false;
        };
        let mut frames = Vec::new();
        let format = connection.format();
        match state.flushed.clone() {
            // Everything pending is new to it, and comes with the others' flush.
            Some(flushed) if ring.after(&flushed).is_some() && start.offset <= flushed.offset => {
                for publication in missed.take_while(|p| p.position.offset <= flushed.offset) {
                    codec::push(format, &self.name, publication, &mut frames);
                }
                // Nothing is pending in a format that nobody had.
                if state.live[format.index()].is_empty() {
                    for publication in ring.after(&flushed).into_iter().flatten() {
                        codec::push(
                            format,
                            &self.name,
                            publication,
                            &mut state.pending[format.index()],
                        );
                    }
                }
            }
            _ => {
                for publication in missed {
                    codec::push(format, &self.name, publication, &mut frames);
                }
                state.flush(&self.metrics);
            }
        }
        if !frames.is_empty() {
            connection.send(&frames, &mut None);
        }
        state.go_live(member, connection);
        true
    }

    /// A member could not be brought to where the hub stands: one of the two is behind. True: somebody must read.
    pub(super) fn doubt(&self) -> bool {
        let mut state = self.state.lock();
        if state.phase == Phase::Live {
            state.phase = Phase::Reading;
            return true;
        }
        state.owed = true;
        false
    }

    /// Lets a member begin after a position that the log ends with, when the hub reaches it. `false`: the hub has
    /// gone beyond it meanwhile, and the member would miss what is in between.
    pub(super) fn wait_for(&self, member: usize, start: &Position) -> bool {
        let mut state = self.state.lock();
        if self.start_in(&mut state, member, start) {
            return true;
        }
        let is_ahead = |own: &Position| own.offset > start.offset;
        if state.position.as_ref().is_some_and(is_ahead) {
            return false;
        }
        if let Some(Slot::Attached(connection)) = state.slots.get(member) {
            state.slots[member] = Slot::Waiting(Arc::clone(connection), start.clone());
            state.waiting += 1;
        }
        true
    }

    /// Hands everything pending to the sockets of all live members.
    pub(super) fn flush(&self) {
        self.state.lock().flush(&self.metrics);
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
        if state.waiting > 0 {
            let position = &publication.position;
            state.close_passed_over(position);
            state.wake_waiting(&self.metrics, |start| {
                start.epoch == position.epoch && start.offset < position.offset
            });
        }
        let mut full = false;
        let mut pending = false;
        for format in WireFormat::ALL {
            if !state.live[format.index()].is_empty() {
                let buffer = &mut state.pending[format.index()];
                codec::push(format, &self.name, &publication, buffer);
                self.metrics.encodings.increment(1);
                full |= buffer.len() >= BATCH;
                pending = true;
            }
        }
        let before = state.position.replace(publication.position.clone());
        if let Some(ring) = &mut state.ring {
            ring.push(publication);
        }
        if pending && state.flushed.is_none() {
            state.flushed = before;
            self.flusher.add(Arc::clone(self));
        }
        if full {
            state.flush(&self.metrics);
        }
        if state.waiting > 0 {
            // The next one may be of another epoch, and would not know them any more.
            let reached = state.position.clone();
            state.wake_waiting(&self.metrics, |start| Some(start) == reached.as_ref());
        }
    }
}

impl State {
    fn clear_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    fn flush(&mut self, metrics: &HubMetrics) {
        self.flushed = None;
        for (buffer, live) in self.pending.iter_mut().zip(&self.live) {
            if buffer.is_empty() {
                continue;
            }
            let mut shared: Option<Bytes> = None;
            for (_, connection) in live {
                connection.send(buffer, &mut shared);
            }
            metrics.writes.increment(live.len() as u64);
            buffer.clear();
            if buffer.capacity() > KEPT_BUFFER {
                *buffer = Vec::new();
            }
        }
    }

    fn go_live(&mut self, member: usize, connection: Arc<Connection>) {
        let format = connection.format();
        let key = self.live[format.index()].insert(connection);
        self.slots[member] = Slot::Live(format, key);
    }

    /// Those who are due get what comes from now on, and nothing that is pending.
    fn wake_waiting(&mut self, metrics: &HubMetrics, is_due: impl Fn(&Position) -> bool) {
        let due: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Waiting(_, start) if is_due(start)))
            .map(|(member, _)| member)
            .collect();
        if due.is_empty() {
            return;
        }
        self.flush(metrics);
        for member in due {
            if let Slot::Waiting(connection, _) = &self.slots[member] {
                let connection = Arc::clone(connection);
                self.waiting -= 1;
                self.go_live(member, connection);
            }
        }
    }

    /// Closes those who wait for what is not in this log, now that this position follows the present one: it would
    /// never come.
    fn close_passed_over(&self, next: &Position) {
        let ended = self.position.as_ref().map(|own| &own.epoch);
        for (_, slot) in &self.slots {
            if let Slot::Waiting(connection, start) = slot
                && start.epoch != next.epoch
                && (start.offset < next.offset || Some(&start.epoch) == ended)
            {
                connection.close(Disconnect::PositionsLost);
            }
        }
    }

    fn tell_positions_lost(&self) {
        for (_, slot) in &self.slots {
            match slot {
                Slot::Live(format, key) => {
                    self.live[format.index()][*key].close(Disconnect::PositionsLost);
                }
                Slot::Waiting(connection, _) => connection.close(Disconnect::PositionsLost),
                Slot::Attached(_) => {}
            }
        }
    }
}
