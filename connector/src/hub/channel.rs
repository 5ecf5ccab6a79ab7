//! One channel on this connector: the hub's position in its log, and the local members.
//!
//! A [`Follower`] keeps the channel contiguous. What it delivers goes to the members and into the ring. Members that
//! come back within moments begin from the ring.

use super::arriving::Arriving;
use super::audience::{Appended, Audience, Receiver};
use super::counters::HubMetrics;
use super::flusher::{Flusher, Pending};
use super::pacing::{Flush, Pacing};
use crate::suspects::Suspects;
use crate::transport::Connection;
use channel_store::follow::{Confirmed, Deliver, Follower, Next, Ring, SharedReads};
use channel_store::{
    ChannelName, Continuity, Ephemeral, FeedConnection, Head, LogPage, Place, Position,
    Publication, Since, Traced,
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;
use wire::PositionReason;

/// One channel with at least one local member.
pub(super) struct LocalChannel {
    name: ChannelName,
    flusher: Arc<Flusher>,
    /// Told when an epoch begins: the store may have forgotten members of the last one.
    suspects: Arc<Suspects>,
    metrics: HubMetrics,
    state: Mutex<State>,
    /// Notified when the position is known.
    located: Notify,
    /// Reads of the log for single members.
    pub(super) reads: SharedReads,
}

struct State {
    follower: Follower,
    ring: Option<Ring>,
    audience: Audience,
    pacing: Pacing,
    /// When the first publication of those that are pending was published, if that is measured.
    measured: Option<u64>,
    arriving: Arriving,
}

/// Passes on what the follower delivers.
struct Members<'a> {
    channel: &'a Arc<LocalChannel>,
    ring: &'a mut Option<Ring>,
    audience: &'a mut Audience,
    pacing: &'a mut Pacing,
    measured: &'a mut Option<u64>,
    arriving: &'a mut Arriving,
}

impl Members<'_> {
    /// Orders a flush, or flushes at once, as far as that is needed. What was appended was published at this time. `is_news`: it
    /// can wait.
    fn order_flush(
        &mut self,
        appended: &Appended,
        published: Option<u64>,
        is_news: impl FnOnce() -> bool,
    ) {
        if !appended.pending {
            return;
        }
        let channel = self.channel;
        let is_measured = match self.pacing.appended(is_news) {
            Some(Flush::Soon) => channel.flusher.add(channel.clone()),
            Some(Flush::Later) => {
                channel.flusher.add_later(channel.clone());
                false
            }
            None => false,
        };
        if is_measured {
            *self.measured = published;
        }
        if appended.full {
            channel.flush(self.audience, self.pacing, self.measured);
        }
    }
}

impl Deliver for Members<'_> {
    fn deliver(&mut self, own: Option<&Position>, publication: Publication) {
        let LocalChannel {
            name,
            flusher,
            suspects,
            ..
        } = &**self.channel;
        let step = self.arriving.begin(Some(publication.position.offset));
        let appended = self.audience.append(name, own, &publication);
        self.audience.follow(step);
        flusher.note_arrival();
        let position = publication.position.clone();
        let (is_deletion, time) = (publication.payload.is_deletion(), publication.time);
        let goes_on = own.is_none_or(|own| own.epoch == position.epoch);
        let can_wait = goes_on && !appended.awaited && !is_deletion;
        if !goes_on {
            suspects.add(Place::Channel(name.clone()));
        }
        self.order_flush(&appended, Some(time), || {
            can_wait && !publication.payload.is_message()
        });
        if let Some(ring) = &mut self.ring {
            ring.push(publication);
        }
        self.audience.reached(name, &position);
        if is_deletion {
            self.audience.delete(name, position.offset);
        }
    }

    /// It is neither in the ring nor anybody's position.
    fn ephemeral(&mut self, ephemeral: Ephemeral) {
        let LocalChannel { name, flusher, .. } = &**self.channel;
        let step = self.arriving.begin(None);
        let appended = self.audience.append_ephemeral(name, &ephemeral);
        self.audience.follow(step);
        flusher.note_arrival();
        self.order_flush(&appended, None, || false);
    }

    fn locate(&mut self, position: &Position, lost: Option<Continuity>) {
        *self.ring = Some(Ring::new(position.clone()));
        let LocalChannel { name, suspects, .. } = &**self.channel;
        match lost.and_then(PositionReason::of) {
            None => self.channel.located.notify_waiters(),
            Some(moved) => {
                let reason = moved.reason();
                tracing::warn!(channel = name.as_str(), reason, "positions lost");
                suspects.add(Place::Channel(name.clone()));
                self.audience.tell(name, position, moved);
            }
        }
    }

    fn gap(&mut self) {
        self.channel.metrics.gaps.increment(1);
    }

    fn repaired(&mut self) {
        self.channel.metrics.repaired.increment(1);
    }
}

impl LocalChannel {
    pub(super) fn new(
        name: ChannelName,
        flusher: Arc<Flusher>,
        suspects: Arc<Suspects>,
        metrics: HubMetrics,
    ) -> Arc<Self> {
        let state = State {
            follower: Follower::default(),
            ring: None,
            audience: Audience::new(metrics.clone()),
            pacing: Pacing::default(),
            measured: None,
            arriving: Arriving::default(),
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

    /// Registers a member. It gets nothing yet.
    pub(super) fn attach(&self, receiver: Receiver) -> usize {
        self.state.lock().audience.attach(receiver)
    }

    /// Removes a member. True: it was the last one, so the channel is no longer followed.
    pub(super) fn detach(&self, member: usize) -> bool {
        let mut state = self.state.lock();
        state.audience.detach(member);
        let is_last = state.audience.is_empty();
        if is_last {
            state.follower.stop();
        }
        is_last
    }

    /// Returns when the subscription is confirmed and the end of the log is known.
    pub(super) async fn wait_until_located(&self) {
        loop {
            let located = self.located.notified();
            tokio::pin!(located);
            // Enabled before the state is checked. Otherwise a notification in between would be missed.
            located.as_mut().enable();
            if self.state.lock().follower.position().is_some() {
                return;
            }
            located.await;
        }
    }

    /// Calls the follower, which delivers to the ring and the members.
    fn follow<T>(self: &Arc<Self>, call: impl FnOnce(&mut Follower, &mut Members<'_>) -> T) -> T {
        let mut state = self.state.lock();
        let State {
            follower,
            ring,
            audience,
            pacing,
            measured,
            arriving,
        } = &mut *state;
        let mut members = Members {
            channel: self,
            ring,
            audience,
            pacing,
            measured,
            arriving,
        };
        call(follower, &mut members)
    }

    /// Writes what is pending to the sockets. Returns to how many.
    fn flush(
        &self,
        audience: &mut Audience,
        pacing: &mut Pacing,
        measured: &mut Option<u64>,
    ) -> u64 {
        let writes = audience.flush(&self.name);
        pacing.written();
        if let Some(published) = measured.take() {
            self.metrics.written(published);
        }
        writes
    }

    /// Some of what arrives next belongs to traces that are kept.
    pub(super) fn traced(&self, marks: Vec<Traced>) {
        self.state.lock().arriving.expect(marks);
    }

    /// See [`Follower::subscribed`].
    pub(super) fn subscribed(&self, connection: &FeedConnection) -> Confirmed {
        self.state.lock().follower.subscribed(connection)
    }

    /// See [`Follower::publications`].
    pub(super) fn publications(
        self: &Arc<Self>,
        connection: u64,
        run: &mut dyn Iterator<Item = Publication>,
    ) -> bool {
        self.follow(|follower, members| follower.publications(connection, run, members))
    }

    /// See [`Follower::ephemeral`].
    pub(super) fn ephemeral(self: &Arc<Self>, connection: u64, ephemeral: Ephemeral) -> bool {
        self.follow(|follower, members| follower.ephemeral(connection, ephemeral, members))
    }

    /// See [`Audience::has_joined`].
    pub(super) fn has_joined(&self, member: usize, offset: Option<u64>) {
        self.state.lock().audience.has_joined(member, offset);
    }

    /// See [`Audience::ends_with`].
    pub(super) fn ends_with(&self, member: usize, deleted: u64) -> bool {
        self.state.lock().audience.ends_with(member, deleted)
    }

    /// See [`Audience::is_out`].
    pub(super) fn is_out(&self, member: usize) -> bool {
        self.state.lock().audience.is_out(member)
    }

    /// See [`Follower::since`].
    pub(super) fn since(&self) -> Option<Since> {
        self.state.lock().follower.since()
    }

    /// See [`Follower::read`].
    pub(super) fn read(self: &Arc<Self>, page: LogPage) -> Next {
        self.follow(|follower, members| follower.read(page, members))
    }

    /// See [`Follower::compared`].
    pub(super) fn compared(self: &Arc<Self>, head: Option<Head>) -> Next {
        self.follow(|follower, members| follower.compared(head, members))
    }

    /// See [`Follower::touched`].
    pub(super) fn touched(self: &Arc<Self>, head: Option<&Head>) -> bool {
        self.follow(|follower, members| follower.touched(head, members))
    }

    /// See [`Follower::doubt`].
    pub(super) fn doubt(self: &Arc<Self>) -> bool {
        self.follow(|follower, members| follower.doubt(members))
    }

    /// The hub's position in the log, once it is known.
    pub(super) fn position(&self) -> Option<Position> {
        self.state.lock().follower.position().cloned()
    }

    /// True if the ring proves that `position` is in the log that ends at `end`. The hub must be in the epoch of `end`:
    /// otherwise it has not noticed yet that the log has changed.
    pub(super) fn knows(&self, position: &Position, end: &Position) -> bool {
        let state = self.state.lock();
        let is_same = |own: &Position| own.epoch == end.epoch;
        state.follower.position().is_some_and(is_same)
            && (state.ring.as_ref()).is_some_and(|ring| ring.after(position).is_some())
    }

    /// The newest message that the ring has at `end` or before it, but after `trimmed`. `None` as well if the hub may have missed
    /// something up to there.
    pub(super) fn newest_message(&self, end: &Position, trimmed: u64) -> Option<Publication> {
        let state = self.state.lock();
        let own = state.follower.position()?;
        if own.epoch != end.epoch || own.offset < end.offset {
            return None;
        }
        let is_held = |it: &&Publication| {
            (trimmed + 1..=end.offset).contains(&it.position.offset) && it.payload.is_message()
        };
        state.ring.as_ref()?.entries().rev().find(is_held).cloned()
    }

    /// Lets a member begin right after a position. `false`: neither the hub's position nor its ring has it. The caller
    /// reads a page of the log from there and tries again.
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
        let (Some(position), Some(ring)) = (state.follower.position(), &state.ring) else {
            return false;
        };
        let member = (member, connection);
        let waits = state.pacing.is_late();
        state
            .audience
            .begin(&self.name, member, start, (position, ring), waits)
    }

    /// Lets a member begin when the hub reaches `start`, where the log ended. `false`: the hub has passed `start`
    /// meanwhile, and the member would miss what is in between.
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
        if state.follower.position().is_some_and(is_ahead) {
            return false;
        }
        state.audience.wait(member, connection, start);
        true
    }
}

impl Pending for LocalChannel {
    fn flush(&self) -> u64 {
        let mut state = self.state.lock();
        let State {
            audience,
            pacing,
            measured,
            ..
        } = &mut *state;
        Self::flush(self, audience, pacing, measured)
    }

    fn flush_news(&self) {
        self.state.lock().pacing.later_comes();
        Pending::flush(self);
    }
}
