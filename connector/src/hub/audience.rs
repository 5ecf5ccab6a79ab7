//! The local members of one channel, and what is pending for their sockets.
//!
//! A publication is encoded once for each wire format that a member here uses, and a flush gives the same bytes to all
//! members with that format. When the log loses a position, a member whose format tells positions is told the new one.
//! Any other member is disconnected, with a reason to reconnect.
//!
//! Ephemerals are encoded with the publications, at their place among them. Members for whom some of them are not meant get
//! the same bytes without those. That holds for members whose connection lags, too: as long as anything is queued for it, a
//! connection gets no ephemerals, because it would get them late and in place of something that counts.

use super::counters::HubMetrics;
use crate::transport::Connection;
use bytes::Bytes;
use channel_store::follow::Ring;
use channel_store::{ChannelName, Ephemeral, Epoch, Position, Publication};
use slab::Slab;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use traces::{Kind, Span};
use wire::{Disconnect, PositionReason, WireFormat};

/// Pending bytes beyond this are flushed at once.
const BATCH: usize = 64 << 10;
/// A buffer with a larger capacity is freed after a flush. Otherwise each channel would keep the memory of its busiest
/// moment.
const KEPT_BUFFER: usize = 4 << 10;

/// A connection, and the wire format in which it wants this channel.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) connection: Arc<Connection>,
    pub(super) format: WireFormat,
    /// Where the log ended right after its join. Ephemerals from before this offset are not for the member, and a deletion of the
    /// channel after it ends the membership. `None`: the join is not answered yet, or the log has begun anew since. Then the
    /// reconciler finds out whether a deletion has ended the membership.
    pub(super) joined: Option<u64>,
}

impl Receiver {
    /// The offset of the first of these publications with which the membership ends, if there is one.
    fn deleted_among<'a>(
        &self,
        publications: impl IntoIterator<Item = &'a Publication>,
    ) -> Option<u64> {
        let joined = self.joined?;
        let mut publications = publications.into_iter();
        let ends = |it: &&Publication| it.payload.is_deletion() && it.position.offset > joined;
        publications.find(ends).map(|it| it.position.offset)
    }

    /// Tells the member its new position, or closes it if its format does not tell positions. True: it is still there.
    pub(super) fn tell(
        &self,
        channel: &ChannelName,
        position: &Position,
        moved: PositionReason,
    ) -> bool {
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
    /// Registered. The join is under way, or the member is being brought up to date.
    Attached(Receiver),
    /// The member begins after this position, which the hub has not reached yet.
    Waiting(Receiver, Position),
    /// The index of the member's encoding group, and the key in that group.
    Live(usize, usize),
    /// The channel was deleted after the member had joined. It gets nothing any more.
    Out,
}

/// What the caller of [`Audience::append`] has to do next.
pub(super) struct Appended {
    /// Something is pending: a flush must be ordered.
    pub(super) pending: bool,
    /// So many bytes are pending that they should be flushed at once.
    pub(super) full: bool,
    /// A member here waits for this publication: it is its own onJoin.
    pub(super) awaited: bool,
}

/// The live members that use one wire format. Everything is encoded once for all of them.
struct EncodingGroup {
    format: WireFormat,
    live: Slab<Live>,
    pending: Vec<u8>,
    /// Members that came while something was pending, which they had been given: their keys, and where the bytes begin that they lack.
    late: Vec<(usize, usize)>,
    /// What is pending and must not be given to some members, in order.
    exclusions: Vec<Exclusion>,
}

/// A live member.
struct Live {
    connection: Arc<Connection>,
    /// See [`Receiver::joined`].
    joined: Option<u64>,
}

/// Something that some members must not get.
struct Exclusion {
    what: Excluded,
    /// Its place among the pending bytes.
    bytes: Range<usize>,
}

enum Excluded {
    /// A publication that is not sent to the user who published it.
    Publication(Publication),
    Ephemeral(Ephemeral),
}

impl Exclusion {
    /// True if it concerns this member. A member that lags gets no ephemerals.
    fn concerns(&self, member: &Live, lags: bool) -> bool {
        let user = member.connection.user();
        let is_own = |excluded: Option<&str>| excluded.is_some() && excluded == user;
        match &self.what {
            Excluded::Publication(it) => is_own(it.payload.excluded()),
            Excluded::Ephemeral(it) => {
                lags || member.joined.is_some_and(|joined| it.place.offset < joined)
                    || is_own(it.payload.excluded())
            }
        }
    }
}

impl EncodingGroup {
    /// Appends publications that follow each other. Before the first one, the members are in this epoch.
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
                    what: Excluded::Publication(publication.clone()),
                    bytes: begin..self.pending.len(),
                });
            }
        }
    }

    fn append_ephemeral(&mut self, channel: &ChannelName, ephemeral: &Ephemeral) {
        let begin = self.pending.len();
        wire::ephemeral(self.format, channel, ephemeral, &mut self.pending);
        self.exclusions.push(Exclusion {
            what: Excluded::Ephemeral(ephemeral.clone()),
            bytes: begin..self.pending.len(),
        });
    }

    fn has_ephemerals(&self) -> bool {
        let mut pending = self.exclusions.iter();
        pending.any(|it| matches!(it.what, Excluded::Ephemeral(_)))
    }

    /// The pending bytes for this member from a place on, if they differ from those for everybody else.
    fn pending_for(
        &self,
        channel: &ChannelName,
        member: &Live,
        lags: bool,
        from: usize,
    ) -> Option<Vec<u8>> {
        let its = |it: &&Exclusion| it.bytes.start >= from && it.concerns(member, lags);
        let mut its = self.exclusions.iter().filter(its).peekable();
        if from == 0 {
            its.peek()?;
        }
        let mut frames = Vec::with_capacity(self.pending.len() - from);
        let mut given = from;
        for Exclusion { what, bytes } in its {
            frames.extend_from_slice(&self.pending[given..bytes.start]);
            if let Excluded::Publication(publication) = what {
                wire::skipped(self.format, channel, &publication.position, &mut frames);
            }
            given = bytes.end;
        }
        frames.extend_from_slice(&self.pending[given..]);
        Some(frames)
    }

    /// Hands all pending bytes to the connections. Returns to how many.
    fn flush(&mut self, channel: &ChannelName) -> u64 {
        let mut shared: Option<Bytes> = None;
        let has_ephemerals = self.has_ephemerals();
        self.late.sort_unstable();
        let mut late = self.late.iter().peekable();
        let mut written = 0;
        for (key, member) in &self.live {
            let came_late = late.next_if(|(late, _)| *late == key);
            let from = came_late.map_or(0, |(_, from)| *from);
            if from == self.pending.len() {
                continue;
            }
            written += 1;
            let own = if from == 0 && self.exclusions.is_empty() {
                None
            } else {
                let lags = has_ephemerals && member.connection.lags();
                self.pending_for(channel, member, lags, from)
            };
            match own {
                Some(frames) => member.connection.send(&frames, &mut None),
                None => member.connection.send(&self.pending, &mut shared),
            }
        }
        self.clear();
        if self.pending.capacity() > KEPT_BUFFER {
            self.pending = Vec::new();
        }
        written
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.late.clear();
        self.exclusions.clear();
    }

    fn remove(&mut self, key: usize) -> Option<Live> {
        let member = self.live.try_remove(key);
        self.late.retain(|(late, _)| *late != key);
        if self.live.is_empty() {
            // Without a live member nothing is appended. If these bytes stayed, they would have a hole before the next
            // publication.
            self.clear();
        }
        member
    }
}

pub(super) struct Audience {
    slots: Slab<Slot>,
    waiting: usize,
    /// One group for each format that a member has had here. There are few formats.
    groups: Vec<EncodingGroup>,
    /// The position before the first pending publication; `None` while nothing is pending. What follows it is pending in each group
    /// that has live members.
    flushed: Option<Position>,
    /// The offset of the hub's position, as far as it was told here.
    reached: u64,
    /// Offsets of the members' own joins that the hub has not reached yet.
    awaited: Vec<u64>,
    /// The steps of traces to which some of the pending publications belong. They last until those are written.
    steps: Vec<Arc<Span>>,
    metrics: HubMetrics,
}

impl Audience {
    pub(super) fn new(metrics: HubMetrics) -> Self {
        Self {
            slots: Slab::new(),
            waiting: 0,
            groups: Vec::new(),
            flushed: None,
            reached: 0,
            awaited: Vec::new(),
            steps: Vec::new(),
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
                self.groups[group].remove(key);
            }
            Some(Slot::Waiting(..)) => self.waiting -= 1,
            Some(Slot::Attached(_) | Slot::Out) | None => {}
        }
    }

    /// The receiver of this member, if it has not begun yet and still has this connection.
    fn attached(&self, member: usize, connection: &Arc<Connection>) -> Option<Receiver> {
        match self.slots.get(member) {
            Some(Slot::Attached(receiver)) if Arc::ptr_eq(&receiver.connection, connection) => {
                Some(receiver.clone())
            }
            _ => None,
        }
    }

    /// Lets a member begin right after `start`, while the hub stands at `position`. `waits`: what is pending waits for longer than
    /// a moment. `false`: the ring does not hold `start`.
    pub(super) fn begin(
        &mut self,
        channel: &ChannelName,
        (member, connection): (usize, &Arc<Connection>),
        start: &Position,
        (position, ring): (&Position, &Ring),
        waits: bool,
    ) -> bool {
        self.reached = position.offset;
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
        if let Some(deleted) = receiver.deleted_among(ring.after(start).into_iter().flatten()) {
            let missed = missed.take_while(|p| p.position.offset <= deleted);
            wire::publications(format, channel, user, &start.epoch, missed, &mut frames);
            receiver.connection.send(&frames, &mut None);
            self.ends_with(member, deleted);
            return true;
        }
        match self.flushed.clone() {
            // The member lacks everything that is pending, so it gets that with the flush for all.
            Some(flushed)
                if !waits
                    && ring.after(&flushed).is_some()
                    && start.offset <= flushed.offset
                    && !self.groups.iter().any(EncodingGroup::has_ephemerals) =>
            {
                let missed = missed.take_while(|p| p.position.offset <= flushed.offset);
                wire::publications(format, channel, user, &start.epoch, missed, &mut frames);
                // Nothing is pending in a format without live members, so it is encoded now.
                let group = self.group(format);
                let group = &mut self.groups[group];
                if group.live.is_empty() {
                    let pending = ring.after(&flushed).into_iter().flatten();
                    group.append(channel, &flushed.epoch, pending);
                }
                if !frames.is_empty() {
                    receiver.connection.send(&frames, &mut None);
                }
                self.go_live(member, receiver);
            }
            _ => {
                wire::publications(format, channel, user, &start.epoch, missed, &mut frames);
                if !frames.is_empty() {
                    receiver.connection.send(&frames, &mut None);
                }
                self.go_live_without_pending(channel, member, receiver);
            }
        }
        true
    }

    /// Lets a member begin when the hub reaches `start`.
    pub(super) fn wait(&mut self, member: usize, connection: &Arc<Connection>, start: &Position) {
        if let Some(receiver) = self.attached(member, connection) {
            self.slots[member] = Slot::Waiting(receiver, start.clone());
            self.waiting += 1;
        }
    }

    /// Appends the publication that follows `own`, for all live members.
    pub(super) fn append(
        &mut self,
        channel: &ChannelName,
        own: Option<&Position>,
        publication: &Publication,
    ) -> Appended {
        let next = &publication.position;
        self.reached = own.map_or(0, |own| own.offset);
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
        if pending && self.flushed.is_none() {
            self.flushed = own.cloned();
        }
        let awaited = self.awaited.contains(&next.offset);
        self.awaited.retain(|joined| *joined > next.offset);
        Appended {
            pending,
            full,
            awaited,
        }
    }

    /// Appends something that is not in the log, for all live members. The hub stands at its place.
    pub(super) fn append_ephemeral(
        &mut self,
        channel: &ChannelName,
        ephemeral: &Ephemeral,
    ) -> Appended {
        let (mut pending, mut full) = (false, false);
        for group in &mut self.groups {
            if !group.live.is_empty() {
                group.append_ephemeral(channel, ephemeral);
                self.metrics.encodings.increment(1);
                full |= group.pending.len() >= BATCH;
                pending = true;
            }
        }
        if pending && self.flushed.is_none() {
            self.flushed = Some(ephemeral.place.clone());
        }
        Appended {
            pending,
            full,
            awaited: false,
        }
    }

    /// See [`Receiver::joined`], for a member that has not begun yet.
    pub(super) fn has_joined(&mut self, member: usize, offset: Option<u64>) {
        if let Some(Slot::Attached(receiver)) = self.slots.get_mut(member) {
            receiver.joined = offset;
        }
    }

    /// Takes a member out that has not begun yet, if it had joined before the deletion at this offset. True: it is out.
    pub(super) fn ends_with(&mut self, member: usize, deleted: u64) -> bool {
        match self.slots.get(member) {
            Some(Slot::Attached(receiver)) if receiver.joined.is_some_and(|it| it < deleted) => {
                receiver.connection.note_out();
                self.slots[member] = Slot::Out;
                true
            }
            Some(Slot::Out) | None => true,
            Some(Slot::Attached(_) | Slot::Waiting(..) | Slot::Live(..)) => false,
        }
    }

    /// True if the channel was deleted after the member had joined.
    pub(super) fn is_out(&self, member: usize) -> bool {
        matches!(self.slots.get(member), Some(Slot::Out))
    }

    /// The hub has delivered a deletion of the channel, at this offset. Members that had joined before are out: they get the
    /// deletion, and then nothing any more. Members whose joins are not answered yet may have joined after it. If they have not,
    /// they meet the deletion when they begin. A member that waits for a later place has joined after it.
    pub(super) fn delete(&mut self, channel: &ChannelName, offset: u64) {
        self.flush(channel);
        for (_, slot) in &mut self.slots {
            let connection = match slot {
                Slot::Live(group, key) => {
                    let group = &mut self.groups[*group];
                    let ends = |member: &Live| member.joined.is_some_and(|it| it < offset);
                    if !group.live.get(*key).is_some_and(ends) {
                        continue;
                    }
                    match group.remove(*key) {
                        Some(member) => member.connection,
                        None => continue,
                    }
                }
                Slot::Attached(receiver) if receiver.joined.is_some_and(|it| it < offset) => {
                    Arc::clone(&receiver.connection)
                }
                Slot::Waiting(..) | Slot::Attached(_) | Slot::Out => continue,
            };
            *slot = Slot::Out;
            connection.note_out();
        }
    }

    /// The hub stands at `position` now. Members that wait for it begin at once: the next publication may be of another
    /// epoch, and then their position would no longer be found.
    pub(super) fn reached(&mut self, channel: &ChannelName, position: &Position) {
        self.reached = position.offset;
        if self.waiting > 0 {
            self.wake(channel, |start| start == position);
        }
    }

    /// Hands all pending bytes to the connections of all live members. Returns to how many.
    pub(super) fn flush(&mut self, channel: &ChannelName) -> u64 {
        self.flushed = None;
        let steps = mem::take(&mut self.steps);
        if !steps.is_empty() {
            return self.flush_traced(channel, &steps);
        }
        self.flush_all(channel)
    }

    fn flush_all(&mut self, channel: &ChannelName) -> u64 {
        let mut writes = 0;
        for group in &mut self.groups {
            if !group.pending.is_empty() {
                writes += group.flush(channel);
            }
        }
        self.metrics.writes.increment(writes);
        writes
    }

    /// What was appended last belongs to this step of a trace. If nobody is sent it, the step ends.
    pub(super) fn follow(&mut self, step: Option<Arc<Span>>) {
        let is_pending = |group: &EncodingGroup| !group.pending.is_empty();
        if let Some(step) = step
            && self.groups.iter().any(is_pending)
        {
            self.steps.push(step);
        }
    }

    /// Does the same as [`flush_all`](Self::flush_all), as the last step of these traces.
    fn flush_traced(&mut self, channel: &ChannelName, steps: &[Arc<Span>]) -> u64 {
        let writes = steps
            .iter()
            .filter_map(|step| Span::child(Some(step.context()), "socket write", Kind::Internal));
        let writes: Vec<_> = writes.collect();
        let live = |group: &EncodingGroup| group.live.len();
        let bytes = |group: &EncodingGroup| group.pending.len() * group.live.len();
        let sockets: usize = self.groups.iter().map(live).sum();
        let bytes: usize = self.groups.iter().map(bytes).sum();
        let written = self.flush_all(channel);
        // These clients do not read fast enough. The rest of what they get is queued.
        let all = self.groups.iter().flat_map(|group| &group.live);
        let lagging = all.filter(|(_, member)| member.connection.lags()).count();
        for write in &writes {
            write.set("channel", channel.as_str());
            write.set("sockets", sockets);
            write.set("bytes", bytes);
            write.set("lagging", lagging);
        }
        written
    }

    /// Moves all live members to a position from which the log goes on.
    pub(super) fn tell(
        &mut self,
        channel: &ChannelName,
        position: &Position,
        moved: PositionReason,
    ) {
        self.flush(channel);
        self.awaited.clear();
        for EncodingGroup { format, live, .. } in &mut self.groups {
            for (_, Live { connection, joined }) in live {
                if moved == PositionReason::Unknown {
                    // The offsets have begun again, so the one of the own join means nothing any more.
                    *joined = None;
                }
                let receiver = Receiver {
                    connection: Arc::clone(connection),
                    format: *format,
                    joined: None,
                };
                receiver.tell(channel, position, moved);
                self.metrics.lost(moved);
            }
        }
        // A member that waits for a later position keeps waiting: only when the hub gets there is it known whether that
        // position exists.
        self.move_waiting(channel, position, |start| {
            let is_same = start.epoch == position.epoch;
            match start.offset.cmp(&position.offset) {
                Less if is_same => Some(PositionReason::Trimmed),
                Less => Some(PositionReason::Unknown),
                Greater if is_same && moved == PositionReason::Diverged => Some(moved),
                Equal | Greater => None,
            }
        });
        self.reached(channel, position);
    }

    /// Moves the members that wait for a position which is not in this log. `next` follows `own`, so they would wait
    /// for ever.
    fn pass_over(&mut self, channel: &ChannelName, own: &Position, next: &Position) {
        self.move_waiting(channel, own, |start| {
            if start.epoch == next.epoch {
                None
            } else if start.epoch == own.epoch {
                Some(PositionReason::Diverged)
            } else {
                (start.offset < next.offset).then_some(PositionReason::Unknown)
            }
        });
    }

    fn move_waiting(
        &mut self,
        channel: &ChannelName,
        position: &Position,
        moved: impl Fn(&Position) -> Option<PositionReason>,
    ) {
        if self.waiting == 0 {
            return;
        }
        for (member, mut receiver, moved) in self.waiting_for(moved) {
            self.metrics.lost(moved);
            self.waiting -= 1;
            if moved == PositionReason::Unknown {
                receiver.joined = None;
            }
            if receiver.tell(channel, position, moved) {
                self.go_live_without_pending(channel, member, receiver);
            } else {
                self.slots[member] = Slot::Attached(receiver);
            }
        }
    }

    /// Members for which `is_due` is true begin now. They get nothing that is pending.
    fn wake(&mut self, channel: &ChannelName, is_due: impl Fn(&Position) -> bool) {
        for (member, receiver, ()) in self.waiting_for(|start| is_due(start).then_some(())) {
            self.waiting -= 1;
            self.go_live_without_pending(channel, member, receiver);
        }
    }

    fn waiting_for<T>(&self, pick: impl Fn(&Position) -> Option<T>) -> Vec<(usize, Receiver, T)> {
        let picked = self.slots.iter().filter_map(|(member, slot)| match slot {
            Slot::Waiting(receiver, start) => Some((member, receiver.clone(), pick(start)?)),
            Slot::Attached(_) | Slot::Live(..) | Slot::Out => None,
        });
        picked.collect()
    }

    /// Lets a member begin that has everything which is pending, or must not get it.
    fn go_live_without_pending(
        &mut self,
        channel: &ChannelName,
        member: usize,
        receiver: Receiver,
    ) {
        let group = self.group(receiver.format);
        if self.groups[group].live.is_empty() {
            // In this format, nothing is pending that others lack. From now on, something would be.
            self.flush(channel);
        }
        let (group, key) = self.go_live(member, receiver);
        let group = &mut self.groups[group];
        if !group.pending.is_empty() {
            group.late.push((key, group.pending.len()));
        }
    }

    /// Lets a member begin. It is given what is pending.
    fn go_live(&mut self, member: usize, receiver: Receiver) -> (usize, usize) {
        let group = self.group(receiver.format);
        let Receiver {
            connection, joined, ..
        } = receiver;
        self.awaited
            .extend(joined.filter(|joined| *joined > self.reached));
        let key = self.groups[group].live.insert(Live { connection, joined });
        self.slots[member] = Slot::Live(group, key);
        (group, key)
    }

    /// The index of the encoding group for this format.
    fn group(&mut self, format: WireFormat) -> usize {
        let known = self.groups.iter().position(|it| it.format == format);
        known.unwrap_or_else(|| {
            self.groups.push(EncodingGroup {
                format,
                live: Slab::new(),
                pending: Vec::new(),
                late: Vec::new(),
                exclusions: Vec::new(),
            });
            self.groups.len() - 1
        })
    }
}
