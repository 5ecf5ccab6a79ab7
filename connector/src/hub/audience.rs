//! The local members of one channel, and what is pending for their sockets.
//!
//! A publication is encoded once for each wire format that somebody here has; a flush gives the same bytes to all of
//! them. A member that is told where it stands outlives the loss of its position; any other is disconnected, with a
//! reason to reconnect.

use super::counters::HubMetrics;
use super::ring::Ring;
use crate::transport::Connection;
use bytes::Bytes;
use channel_store::{ChannelName, Epoch, Position, Publication};
use slab::Slab;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::ops::Range;
use std::sync::Arc;
use wire::{Disconnect, Moved, WireFormat};

/// A buffer that grows beyond this is flushed at once; one that did so often does not keep its memory.
const BATCH: usize = 64 << 10;
const KEPT_BUFFER: usize = 4 << 10;

/// A connection, and the form in which it wants this channel.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) connection: Arc<Connection>,
    pub(super) format: WireFormat,
}

impl Receiver {
    /// Moves it to a position, of which it is told or for which it is closed; true if it goes on from there.
    pub(super) fn tell(&self, channel: &ChannelName, position: &Position, moved: Moved) -> bool {
        if !self.format.tells_positions() {
            self.connection.close(Disconnect::PositionsLost);
            return false;
        }
        let mut frames = Vec::new();
        wire::position(self.format, channel, position, moved, &mut frames);
        self.connection.send(&frames, &mut None);
        true
    }
}

enum Slot {
    /// Registered; its join is under way, or it is being brought up to date.
    Attached(Receiver),
    /// Begins after this position, which has not been reached yet.
    Waiting(Receiver, Position),
    /// Its crowd, and its key there.
    Live(usize, usize),
}

/// What an append did to the buffers.
pub(super) struct Appended {
    /// Something is pending now, and nothing was before: a flush is to be ordered.
    pub(super) first: bool,
    /// There is so much that it should be flushed at once.
    pub(super) full: bool,
}

/// Those who have begun and want one form, in which everything is encoded once.
struct EncodingGroup {
    format: WireFormat,
    live: Slab<Arc<Connection>>,
    pending: Vec<u8>,
    /// What is in there and not for all.
    exclusions: Vec<Exclusion>,
}

/// A publication that its sender's own sockets skip.
struct Exclusion {
    publication: Publication,
    /// Where it stands among the pending bytes.
    bytes: Range<usize>,
}

impl EncodingGroup {
    /// Appends publications that follow each other, from a position in this epoch on.
    fn append<'a>(
        &mut self,
        channel: &ChannelName,
        mut epoch: &'a Epoch,
        publications: impl IntoIterator<Item = &'a Publication>,
    ) {
        for publication in publications {
            let next = &publication.position;
            if next.epoch != *epoch {
                epoch = &next.epoch;
                wire::begin_epoch(self.format, channel, next, &mut self.pending);
            }
            let begin = self.pending.len();
            wire::push(self.format, channel, publication, &mut self.pending);
            if publication.payload.excluded().is_some() {
                self.exclusions.push(Exclusion {
                    publication: publication.clone(),
                    bytes: begin..self.pending.len(),
                });
            }
        }
    }

    /// What is pending, as it is for this user; `None`: as for all.
    fn pending_for(&self, channel: &ChannelName, user: Option<&str>) -> Option<Vec<u8>> {
        let user = user?;
        let is_own = |it: &&Exclusion| it.publication.payload.excluded() == Some(user);
        let mut own = self.exclusions.iter().filter(is_own).peekable();
        own.peek()?;
        let mut frames = Vec::with_capacity(self.pending.len());
        let mut given = 0;
        for Exclusion { publication, bytes } in own {
            frames.extend_from_slice(&self.pending[given..bytes.start]);
            wire::skip(self.format, channel, &publication.position, &mut frames);
            given = bytes.end;
        }
        frames.extend_from_slice(&self.pending[given..]);
        Some(frames)
    }

    /// Hands everything pending to the sockets.
    fn flush(&mut self, channel: &ChannelName) {
        let mut shared: Option<Bytes> = None;
        for (_, connection) in &self.live {
            let own = if self.exclusions.is_empty() {
                None
            } else {
                self.pending_for(channel, connection.user())
            };
            match own {
                Some(frames) => connection.send(&frames, &mut None),
                None => connection.send(&self.pending, &mut shared),
            }
        }
        self.clear();
        if self.pending.capacity() > KEPT_BUFFER {
            self.pending = Vec::new();
        }
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.exclusions.clear();
    }
}

pub(super) struct Audience {
    slots: Slab<Slot>,
    waiting: usize,
    /// One for each form that somebody has had here: there are few.
    groups: Vec<EncodingGroup>,
    /// The position before the first pending publication, while some are.
    flushed: Option<Position>,
    metrics: HubMetrics,
}

impl Audience {
    pub(super) fn new(metrics: HubMetrics) -> Self {
        Self {
            slots: Slab::new(),
            waiting: 0,
            groups: Vec::new(),
            flushed: None,
            metrics,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn attach(&mut self, receiver: Receiver) -> usize {
        self.slots.insert(Slot::Attached(receiver))
    }

    pub(super) fn detach(&mut self, member: usize) {
        match self.slots.try_remove(member) {
            Some(Slot::Live(group, key)) => {
                let group = &mut self.groups[group];
                group.live.try_remove(key);
                if group.live.is_empty() {
                    // From here on nothing is appended: what is there would have a hole when the next one comes.
                    group.clear();
                }
            }
            Some(Slot::Waiting(..)) => self.waiting -= 1,
            Some(Slot::Attached(_)) | None => {}
        }
    }

    /// The member that has not begun yet and has this connection.
    fn attached(&self, member: usize, connection: &Arc<Connection>) -> Option<Receiver> {
        match self.slots.get(member) {
            Some(Slot::Attached(receiver)) if Arc::ptr_eq(&receiver.connection, connection) => {
                Some(receiver.clone())
            }
            _ => None,
        }
    }

    /// Lets a member begin right after `start`, where the hub stands at `position`. `false`: the ring does not have it.
    pub(super) fn begin(
        &mut self,
        channel: &ChannelName,
        (member, connection): (usize, &Arc<Connection>),
        start: &Position,
        position: &Position,
        ring: &Ring,
    ) -> bool {
        let Some(receiver) = self.attached(member, connection) else {
            return true;
        };
        if start.epoch == position.epoch && start.offset > position.offset {
            self.wait(member, connection, start);
            return true;
        }
        let Some(missed) = ring.after(start) else {
            return false;
        };
        let mut frames = Vec::new();
        let (format, user) = (receiver.format, receiver.connection.user());
        match self.flushed.clone() {
            // Everything pending is new to it, and comes with the others' flush.
            Some(flushed) if ring.after(&flushed).is_some() && start.offset <= flushed.offset => {
                let missed = missed.take_while(|p| p.position.offset <= flushed.offset);
                wire::run(format, channel, user, &start.epoch, missed, &mut frames);
                // Nothing is pending in a format that nobody had.
                let group = self.group(format);
                let group = &mut self.groups[group];
                if group.live.is_empty() {
                    let pending = ring.after(&flushed).into_iter().flatten();
                    group.append(channel, &flushed.epoch, pending);
                }
            }
            _ => {
                wire::run(format, channel, user, &start.epoch, missed, &mut frames);
                self.flush(channel);
            }
        }
        if !frames.is_empty() {
            receiver.connection.send(&frames, &mut None);
        }
        self.go_live(member, receiver);
        true
    }

    /// Lets a member begin when the hub reaches `start`.
    pub(super) fn wait(&mut self, member: usize, connection: &Arc<Connection>, start: &Position) {
        if let Some(receiver) = self.attached(member, connection) {
            self.slots[member] = Slot::Waiting(receiver, start.clone());
            self.waiting += 1;
        }
    }

    /// Adds the publication that follows `own`, for all that are live.
    pub(super) fn append(
        &mut self,
        channel: &ChannelName,
        own: Option<&Position>,
        publication: &Publication,
    ) -> Appended {
        let next = &publication.position;
        if self.waiting > 0 {
            if let Some(own) = own {
                self.pass_over(channel, own, next);
            }
            self.wake(channel, |start| {
                start.epoch == next.epoch && start.offset < next.offset
            });
        }
        let epoch = own.map_or(&next.epoch, |own| &own.epoch);
        let (mut pending, mut full) = (false, false);
        for group in &mut self.groups {
            if !group.live.is_empty() {
                group.append(channel, epoch, [publication]);
                self.metrics.encodings.increment(1);
                full |= group.pending.len() >= BATCH;
                pending = true;
            }
        }
        let first = pending && self.flushed.is_none();
        if first {
            self.flushed = own.cloned();
        }
        Appended { first, full }
    }

    /// The hub stands here now. Who waits for that begins: the next one may be of another epoch, and would not know
    /// them any more.
    pub(super) fn reached(&mut self, channel: &ChannelName, position: &Position) {
        if self.waiting > 0 {
            self.wake(channel, |start| start == position);
        }
    }

    /// Hands everything pending to the sockets of all live members.
    pub(super) fn flush(&mut self, channel: &ChannelName) {
        self.flushed = None;
        for group in &mut self.groups {
            if !group.pending.is_empty() {
                group.flush(channel);
                self.metrics.writes.increment(group.live.len() as u64);
            }
        }
    }

    /// Moves everybody who has begun to a position that the log goes on from.
    pub(super) fn tell(&mut self, channel: &ChannelName, position: &Position, moved: Moved) {
        self.flush(channel);
        for EncodingGroup { format, live, .. } in &self.groups {
            for (_, connection) in live {
                let receiver = Receiver {
                    connection: Arc::clone(connection),
                    format: *format,
                };
                receiver.tell(channel, position, moved);
                self.metrics.lost(moved);
            }
        }
        // What somebody waits for may still come: that shows when the hub gets there.
        self.move_waiting(channel, position, |start| {
            let is_same = start.epoch == position.epoch;
            match start.offset.cmp(&position.offset) {
                Less if is_same => Some(Moved::Trimmed),
                Less => Some(Moved::Unknown),
                Greater if is_same && moved == Moved::Diverged => Some(moved),
                Equal | Greater => None,
            }
        });
        self.reached(channel, position);
    }

    /// Moves those who wait for what is not in this log, now that `next` follows `own`: it would never come.
    fn pass_over(&mut self, channel: &ChannelName, own: &Position, next: &Position) {
        self.move_waiting(channel, own, |start| {
            if start.epoch == next.epoch {
                None
            } else if start.epoch == own.epoch {
                Some(Moved::Diverged)
            } else {
                (start.offset < next.offset).then_some(Moved::Unknown)
            }
        });
    }

    fn move_waiting(
        &mut self,
        channel: &ChannelName,
        position: &Position,
        moved: impl Fn(&Position) -> Option<Moved>,
    ) {
        if self.waiting == 0 {
            return;
        }
        for (member, receiver, moved) in self.waiting_for(moved) {
            self.metrics.lost(moved);
            self.waiting -= 1;
            if receiver.tell(channel, position, moved) {
                self.flush(channel);
                self.go_live(member, receiver);
            } else {
                self.slots[member] = Slot::Attached(receiver);
            }
        }
    }

    /// Those who are due get what comes from now on, and nothing that is pending.
    fn wake(&mut self, channel: &ChannelName, is_due: impl Fn(&Position) -> bool) {
        for (member, receiver, ()) in self.waiting_for(|start| is_due(start).then_some(())) {
            self.flush(channel);
            self.waiting -= 1;
            self.go_live(member, receiver);
        }
    }

    fn waiting_for<T>(&self, pick: impl Fn(&Position) -> Option<T>) -> Vec<(usize, Receiver, T)> {
        let picked = self.slots.iter().filter_map(|(member, slot)| match slot {
            Slot::Waiting(receiver, start) => Some((member, receiver.clone(), pick(start)?)),
            Slot::Attached(_) | Slot::Live(..) => None,
        });
        picked.collect()
    }

    fn go_live(&mut self, member: usize, receiver: Receiver) {
        let group = self.group(receiver.format);
        let key = self.groups[group].live.insert(receiver.connection);
        self.slots[member] = Slot::Live(group, key);
    }

    /// The index of the crowd that wants this form.
    fn group(&mut self, format: WireFormat) -> usize {
        let known = self.groups.iter().position(|it| it.format == format);
        known.unwrap_or_else(|| {
            self.groups.push(EncodingGroup {
                format,
                live: Slab::new(),
                pending: Vec::new(),
                exclusions: Vec::new(),
            });
            self.groups.len() - 1
        })
    }
}
