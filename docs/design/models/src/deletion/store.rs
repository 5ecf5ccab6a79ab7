//! What the store holds of the channel, and the scripts that change it. Each script is one step.

use super::{Rules, SESSIONS, USERS};

/// A place in the log. Ids of epochs never repeat.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(super) epoch: u8,
    pub(super) offset: u8,
}

/// Where a membership began, in which life of the channel, and after which deletion (the epoch of it; 0: there was none).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Beginning {
    pub(super) life: u8,
    pub(super) at: Position,
    deletion: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Answer {
    Joined(Beginning),
    Stale,
    Deleted,
}

/// How the log goes on from a position, and the offset from which it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Continuity {
    Contiguous(u8),
    Diverged(u8),
    Trimmed(u8),
    Unknown(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Record {
    pub(super) op: u8,
    at: Position,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Slot {
    /// The first epoch of this life of the channel; 0: there is no channel.
    pub(super) life: u8,
    /// The id of each epoch, and its first offset.
    epochs: Vec<(u8, u8)>,
    last: u8,
    /// The first offset that the log still holds.
    first: u8,
    /// The offset of the last deletion, and its epoch; 0: there was none in this life.
    deleted: u8,
    deletion_epoch: u8,
    /// The server has another lifetime than the newest epoch, so the next publication begins one.
    pub(super) restarted: bool,
    pub(super) members: [Option<Record>; SESSIONS],
    /// Tombstones of sessions: numbers of leaves.
    left: [u8; SESSIONS],
    /// Keys of deletions that are done, one bit for each.
    keys: u8,
    /// Since the deletion, the last entry of the log about each user is onJoin.
    joined: [bool; USERS],
    /// The log holds two onJoin or two onLeave in a row.
    pub(super) broken_log: bool,
    // What the model remembers to check it. The system does not know it.
    /// Which deletion was the last one; 0: there was none.
    pub(super) deletion: u8,
}

/// Who is of which user.
pub(super) type Users = [usize; SESSIONS];

impl Slot {
    fn begin_epoch(&mut self, ids: &mut u8) {
        *ids += 1;
        let end = self.last + 1;
        if self.life == 0 {
            (self.life, self.first) = (*ids, end);
        }
        let next_starts = self.epochs.iter().skip(1).map(|&(_, start)| start);
        let is_used: Vec<bool> = next_starts
            .chain([end])
            .map(|next| next >= self.first)
            .collect();
        let mut is_used = is_used.into_iter();
        self.epochs.retain(|_| is_used.next() == Some(true));
        self.epochs.push((*ids, end));
        self.restarted = false;
    }

    pub(super) fn append(&mut self, ids: &mut u8) {
        if self.life == 0 || self.restarted {
            self.begin_epoch(ids);
        }
        self.last += 1;
    }

    /// The end of the log. A channel that does not exist is given an empty epoch.
    pub(super) fn locate(&mut self, ids: &mut u8) -> Position {
        if self.life == 0 {
            self.begin_epoch(ids);
        }
        self.end()
    }

    pub(super) fn end(&self) -> Position {
        Position {
            epoch: self.epochs.last().map_or(0, |&(id, _)| id),
            offset: self.last,
        }
    }

    /// The last offset of an epoch; `None`: this log does not know it.
    fn end_of(&self, epoch: u8) -> Option<u8> {
        let place = self.epochs.iter().position(|&(id, _)| id == epoch)?;
        let next = self.epochs.get(place + 1);
        Some(next.map_or(self.last, |&(_, start)| start - 1))
    }

    pub(super) fn judge(&self, at: Position) -> Continuity {
        let before_all = self.first.saturating_sub(1);
        match self.end_of(at.epoch) {
            None => Continuity::Unknown(before_all),
            Some(end) if at.offset > end && end < before_all => Continuity::Unknown(before_all),
            Some(end) if at.offset > end => Continuity::Diverged(end),
            Some(_) if at.offset < before_all => Continuity::Trimmed(before_all),
            Some(_) => Continuity::Contiguous(at.offset),
        }
    }

    /// The deletion that a reader meets who goes on from this offset.
    pub(super) fn deletion_after(&self, offset: u8) -> Option<u8> {
        (self.deleted > offset && self.deleted >= self.first).then_some(self.deleted)
    }

    pub(super) fn trim(&mut self) {
        self.first = self.last + 1;
    }

    pub(super) fn may_trim(&self) -> bool {
        self.life != 0 && self.first <= self.last
    }

    pub(super) fn has(&self, user: usize, users: &Users) -> bool {
        (0..SESSIONS).any(|s| users[s] == user && self.members[s].is_some())
    }

    /// True if the log says of each user what the list of members says.
    pub(super) fn agrees(&self, users: &Users) -> bool {
        (0..USERS).all(|user| self.joined[user] == self.has(user, users))
    }

    fn announce(&mut self, user: usize, join: bool, ids: &mut u8) {
        self.append(ids);
        self.broken_log |= self.joined[user] == join;
        self.joined[user] = join;
    }

    /// True if the membership was over before this join, because the channel was deleted after it had begun.
    fn refuses(&self, repair: Beginning, rules: &Rules) -> bool {
        if self.deleted == 0 || (rules.same_life && repair.life != self.life) {
            return false;
        }
        if rules.by_name {
            repair.deletion != self.deletion_epoch
        } else {
            repair.at.offset < self.deleted
        }
    }

    pub(super) fn join(
        &mut self,
        (session, op): (usize, u8),
        repair: Option<Beginning>,
        users: &Users,
        rules: &Rules,
        ids: &mut u8,
    ) -> Answer {
        if self.left[session] > op {
            return Answer::Stale;
        }
        if repair.is_some_and(|it| rules.repair_says_when && self.refuses(it, rules)) {
            return Answer::Deleted;
        }
        let at = match self.members[session] {
            Some(record) if record.op >= op => record.at,
            Some(_) => self.end(),
            None if self.has(users[session], users) => self.locate(ids),
            None => {
                self.announce(users[session], true, ids);
                self.end()
            }
        };
        let was = self.members[session].map_or(0, |it| it.op);
        let op = op.max(was);
        self.members[session] = Some(Record { op, at });
        let (life, deletion) = (self.life, self.deletion_epoch);
        Answer::Joined(Beginning { life, at, deletion })
    }

    pub(super) fn leave(
        &mut self,
        session: usize,
        op: u8,
        fence: bool,
        users: &Users,
        ids: &mut u8,
    ) {
        if self.members[session].is_some_and(|it| it.op < op) {
            self.members[session] = None;
            if !self.has(users[session], users) {
                self.announce(users[session], false, ids);
            }
        }
        if fence {
            self.left[session] = self.left[session].max(op);
        }
    }

    /// Ends everything. `None`: there is nothing to delete, or this is a repeated call.
    pub(super) fn delete(&mut self, key: u8, rules: &Rules, ids: &mut u8) -> Option<Deletion> {
        let is_repeated = self.keys & (1 << key) != 0;
        let is_empty = self.members == [None; SESSIONS];
        if self.life == 0 || (is_repeated && rules.key) || (self.last == self.deleted && is_empty) {
            return None;
        }
        self.begin_epoch(ids);
        self.members = [None; SESSIONS];
        self.joined = [false; USERS];
        self.append(ids);
        (self.deleted, self.first) = (self.last, self.last);
        self.deletion_epoch = self.end().epoch;
        self.keys |= 1 << key;
        if !rules.tombstones_stay {
            self.left = [0; SESSIONS];
        }
        Some(Deletion {
            ends_new_ones: is_repeated && !is_empty,
        })
    }
}

/// What the model remembers of a deletion to check it.
pub(super) struct Deletion {
    /// It was a repeated call, and it has ended memberships that began after the first one.
    pub(super) ends_new_ones: bool,
}
