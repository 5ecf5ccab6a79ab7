//! Membership, leases and reaping.
//!
//! A connector's incarnation owns a lease and an index of its channels (slot `{incarnation}`). A channel owns its members,
//! its log and its tombstones (slot `{channel}`). The directory of incarnations is a slot of its own. Every Lua script is one
//! step. Commands travel through a network, which stands for chat processes, too: it delays and reorders without limit, and
//! a budget lets it duplicate, drop, and lose answers.
//!
//! A session may leave and join again while its earlier leaves have not landed. Operation numbers are counted by session
//! here, because only the order among one session's numbers matters.

use crate::named::named;
use crate::search::{Kind, Model, Steps};
use Kind::{Chance, Duty};

pub(crate) const INCARNATIONS: usize = 2;
pub(crate) const SESSIONS: usize = 3;
pub(crate) const CHANNELS: usize = 2;
/// Memberships of one session whose leaves have not landed. Nobody joins again while there are so many.
const PENDING: usize = 2;

named! {
    /// The rules under test. Each can be switched off to see what it is for.
    pub(crate) struct Rules: bool = true {
        /// The index is written before the join is sent.
        index_first,
        /// A dead lease refuses to grow its index.
        sealed_index,
        /// The reaper leaves a tombstone of the incarnation in the channel, and joins obey it.
        tombstone,
        /// A leave leaves a tombstone of the session unless its join was answered at the first try, and joins obey it.
        left_fence,
        /// A repeated join counts as a further try, a repair included.
        retry_counts,
        /// A leave removes only a membership that is older than itself.
        leave_fence,
        /// The number of a leave is drawn when the membership ends; off: when the leave is sent.
        number_at_end,
        /// The number of a ghost's leave is drawn before the list is read; off: when the leave is sent.
        number_before_list,
        /// A join on a record with a smaller number rewrites it; off: the record stays.
        join_rewrites,
        /// A join carries a deadline: the end of the lease as last renewed. Tombstones live longer.
        deadline,
        /// A join that came too late is sent once more only after a renewal.
        renewal_before_retry,
        /// Members are a set of sessions; off: a bare count for each user.
        per_session,
        /// Leases and tombstones are of the incarnation; off: of the connector's name.
        by_incarnation,
        /// A live connector drops an index entry only when nothing of it is under way there.
        careful_unindex,
        /// The owner drops an index entry only on a second look, when replication has settled.
        owner_second_look,
        /// So does the reaper.
        reaper_second_look,
        /// An index entry is dropped only if it is still the one that was looked at.
        index_nonce,
        /// A live connector compares its own sessions with the channels in its index.
        reconcile,
        /// Chat restores what is missing of the incarnations that it finds in a channel: lease, index entry, directory entry.
        restoring,
        /// A missing lease means lost data; off: it means death.
        missing_is_lost,
        /// A death is declared of the beat that was watched, and of no other.
        beat_compared,
        /// Observers measure by their own time; off: by the clock of the lease's server.
        own_time,
    }
}

named! {
    /// How often each fault may happen.
    pub(crate) struct Budget: u8 = 0 {
        crash,
        freeze,
        /// A running connector fails to renew its lease for too long.
        starve,
        duplicate,
        drop,
        /// A command takes effect, and its answer is lost.
        lost_answer,
        /// A session changes its mind: it leaves while its client is there, or joins again.
        change_mind,
        /// A join is given up because it took too long; the client tries again.
        give_up,
        /// The reconciler looks at a channel that is only about to be right.
        looks,
        /// So much time passes that tombstones expire.
        forget,
        /// The clock of a slot's server is set forward.
        clock,
        /// One slot falls back to an earlier state: a failover to a replica that was behind.
        rollback,
        /// The same, but only a channel's slot.
        channel_rollback,
        /// The same, all slots at once: they share a server.
        node_rollback,
        /// All slots lose everything.
        flush,
    }
}

/// Incarnation, user and channel of each session that takes part.
pub(crate) type Cast = [Option<(usize, usize, usize)>; SESSIONS];

pub(crate) struct Membership {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    pub(crate) cast: Cast,
    /// Sessions whose clients are gone stay members for a while.
    pub(crate) grace: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Process {
    Up,
    Frozen,
    /// Killed, or its sockets are closed because it was declared dead.
    Gone,
}

/// What became of a join that came too late by the clock of the channel's server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Late {
    No,
    /// It was refused.
    Refused,
    /// The lease was renewed since: it may be sent once more.
    Renewed,
    /// It was sent once more.
    SentAgain,
}

/// A membership that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Current {
    op: u8,
    joined: bool,
    /// A copy of its join may be under way.
    fence: bool,
    late: Late,
}

/// A membership that has ended, until its leave has landed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Ended {
    op: u8,
    /// Of its leave; 0: not drawn.
    leave: u8,
    fence: bool,
    /// Its leave is on its way, so its join is not repeated any more.
    left: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Session {
    /// None: not connected yet. False: the socket has closed.
    open: Option<bool>,
    wants: bool,
    /// The last number that was drawn.
    op: u8,
    current: Option<Current>,
    ended: [Option<Ended>; PENDING],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Lease {
    #[default]
    Missing,
    /// Live or provisional. Beats are compared only for being equal, so their numbers are used again when nobody knows
    /// them any more.
    Live {
        beat: u8,
    },
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct IncarnationSlot {
    lease: Lease,
    /// The nonce of each entry; 0: none.
    index: [u8; CHANNELS],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct ChannelSlot {
    /// 0: no member, else the number of the join that made it one.
    members: [u8; SESSIONS],
    /// Tombstones of sessions: numbers of leaves.
    left: [u8; SESSIONS],
    dead: [bool; INCARNATIONS],
    /// A bare count for each user, where `per_session` is off.
    count: [i8; 2],
    /// The last entry of the log about each user is onJoin.
    joined: [bool; 2],
    /// The log holds two onJoin or two onLeave in a row.
    broken_log: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Message {
    Join {
        session: u8,
        op: u8,
        late: bool,
    },
    Leave {
        session: u8,
        op: u8,
        fence: bool,
    },
    Reap {
        incarnation: u8,
        channel: u8,
    },
    Unindex {
        incarnation: u8,
        channel: u8,
        nonce: u8,
        by_owner: bool,
    },
    DeclareDead {
        incarnation: u8,
        beat: u8,
        silent: bool,
    },
    Unschedule {
        incarnation: u8,
    },
}

/// The reconciler's look at one channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Look {
    /// The numbers of leaves are drawn, and the list is asked for.
    Asked { ops: [u8; SESSIONS] },
    /// These sessions are listed.
    Listed {
        ops: [u8; SESSIONS],
        listed: [bool; SESSIONS],
    },
    /// These are listed, and unknown to their connector.
    Ghosts {
        ops: [u8; SESSIONS],
        ghosts: [bool; SESSIONS],
    },
}

/// What a slot held when writes began that are not replicated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Window {
    Channel(usize, ChannelSlot),
    Incarnation(usize, IncarnationSlot),
    Directory([bool; INCARNATIONS]),
    Node(
        [ChannelSlot; CHANNELS],
        [IncarnationSlot; INCARNATIONS],
        [bool; INCARNATIONS],
    ),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    process: [Process; INCARNATIONS],
    told_dead: [bool; INCARNATIONS],
    /// Its last renewal is so long ago that its deadlines are over.
    overdue: [bool; INCARNATIONS],
    /// The clock of this channel's server is ahead of that of the leases by more than the margin.
    ahead: [bool; CHANNELS],
    /// The connector's own copy of its index.
    own_index: [[bool; CHANNELS]; INCARNATIONS],
    /// Nonces given so far.
    nonces: [[u8; CHANNELS]; INCARNATIONS],
    looks: [[Option<Look>; CHANNELS]; INCARNATIONS],
    sessions: [Session; SESSIONS],
    slot: [IncarnationSlot; INCARNATIONS],
    channel: [ChannelSlot; CHANNELS],
    directory: [bool; INCARNATIONS],
    network: Vec<Message>,
    window: Option<Window>,
    budget: Budget,
    // What the checker remembers, unknown to the system.
    ever_dead: [bool; INCARNATIONS],
    data_lost: bool,
    wrong: Option<Wrong>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Wrong {
    ClosedForNothing,
    DeadThoughRenewed,
    LiveIsStale,
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a trace shows the fields")]
pub(crate) enum Step {
    ClientOpens(usize),
    ClientCloses(usize),
    ChangesMind(usize),
    SendJoin(usize),
    IndexAfterJoin(usize),
    SendJoinAgain(usize),
    RetryLateJoin(usize),
    GivesUp(usize),
    Ends(usize),
    GraceEnds(usize),
    SendLeave(usize, usize),
    Deliver(Message),
    LoseAnswer(Message),
    Duplicate(Message),
    Drop(Message),
    Crash(usize),
    Freeze(usize),
    Thaw(usize),
    Renew(usize),
    CloseSockets(usize),
    WatchedSilence(usize),
    ProvisionalLease(usize),
    SendReap(usize, usize),
    SendUnindex {
        incarnation: usize,
        channel: usize,
        by_owner: bool,
    },
    SendUnschedule(usize),
    RepairIndex(usize, usize),
    AdoptIndex(usize, usize),
    RepairJoin(usize),
    BeginLook(usize, usize),
    ReadList(usize, usize),
    Compare(usize, usize),
    LeaveGhosts(usize, usize),
    Restore(usize, usize),
    TombstonesExpire(usize),
    ChannelClockJumps(usize),
    LeaseClockJumps(usize),
    OpenWindow(Window),
    Failover,
    Replicated,
    FlushAll,
}

const OUT: Session = Session {
    open: None,
    wants: true,
    op: 0,
    current: None,
    ended: [None; PENDING],
};

impl Session {
    fn draw(&mut self) -> u8 {
        self.op += 1;
        self.op
    }

    fn is_idle(&self) -> bool {
        self.current.is_none() && self.ended.iter().all(Option::is_none)
    }

    fn has_room(&self) -> bool {
        self.ended.iter().any(Option::is_none)
    }

    fn end(&mut self, ended: Ended) {
        if let Some(free) = self.ended.iter_mut().find(|it| it.is_none()) {
            *free = Some(ended);
        }
    }
}

impl Membership {
    fn cast(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + '_ {
        let cast = self.cast.iter().enumerate();
        cast.filter_map(|(s, it)| it.map(|(i, u, c)| (s, i, u, c)))
    }

    fn of(&self, session: u8) -> (usize, usize, usize) {
        self.cast[usize::from(session)].unwrap_or_default()
    }

    fn of_place(&self, i: usize, c: usize) -> impl Iterator<Item = usize> + '_ {
        let here = self
            .cast()
            .filter(move |&(_, incarnation, _, channel)| (incarnation, channel) == (i, c));
        here.map(|(s, ..)| s)
    }

    /// Sessions of an incarnation that a channel lists.
    fn is_listed(&self, state: &State, i: usize, c: usize) -> bool {
        self.of_place(i, c)
            .any(|s| state.channel[c].members[s] != 0)
    }

    // ---- scripts of the channel's slot ----

    fn append(channel: &mut ChannelSlot, user: usize, join: bool) {
        channel.broken_log |= channel.joined[user] == join;
        channel.joined[user] = join;
    }

    fn add_member(&self, channel: &mut ChannelSlot, session: usize, user: usize, op: u8) {
        let is_first = if self.rules.per_session {
            self.user_count(channel, user) == 0
        } else {
            channel.count[user] == 0
        };
        let was = channel.members[session];
        if was == 0 || !self.rules.per_session {
            channel.count[user] += 1;
            if is_first {
                Self::append(channel, user, true);
            }
        }
        if was == 0 || self.rules.join_rewrites {
            channel.members[session] = was.max(op);
        }
    }

    fn remove_member(&self, channel: &mut ChannelSlot, session: usize, user: usize) {
        channel.members[session] = 0;
        channel.count[user] -= 1;
        let is_last = if self.rules.per_session {
            self.user_count(channel, user) == 0
        } else {
            channel.count[user] == 0
        };
        if is_last {
            Self::append(channel, user, false);
        }
    }

    fn user_count(&self, channel: &ChannelSlot, user: usize) -> usize {
        let members = self
            .cast()
            .filter(|&(s, _, u, _)| u == user && channel.members[s] != 0);
        members.count()
    }

    fn deliver(&self, state: &mut State, message: Message, is_answered: bool) {
        match message {
            Message::Join { session, op, late } => {
                self.deliver_join(state, session, op, late, is_answered);
            }
            Message::Leave { session, op, fence } => {
                let (_, user, c) = self.of(session);
                let s = usize::from(session);
                let channel = &mut state.channel[c];
                let listed = channel.members[s] != 0 || !self.rules.per_session;
                if listed && (channel.members[s] < op || !self.rules.leave_fence) {
                    self.remove_member(channel, s, user);
                }
                if fence && self.rules.left_fence {
                    channel.left[s] = channel.left[s].max(op);
                }
                if is_answered {
                    let mut ended = state.sessions[s].ended.iter_mut();
                    if let Some(landed) = ended.find(|it| it.is_some_and(|it| it.leave == op)) {
                        *landed = None;
                    }
                }
            }
            Message::Unindex {
                incarnation,
                channel,
                nonce,
                by_owner,
            } => {
                let slot = &mut state.slot[usize::from(incarnation)];
                let entry = &mut slot.index[usize::from(channel)];
                let may = by_owner != (slot.lease == Lease::Dead);
                if may && (*entry == nonce || !self.rules.index_nonce) {
                    *entry = 0;
                }
            }
            Message::DeclareDead {
                incarnation,
                beat,
                silent,
            } => {
                let i = usize::from(incarnation);
                let Lease::Live { beat: now } = state.slot[i].lease else {
                    return;
                };
                if now == beat || !self.rules.beat_compared {
                    state.slot[i].lease = Lease::Dead;
                    state.ever_dead[i] = true;
                    if !silent && !state.data_lost {
                        state.wrong = Some(Wrong::DeadThoughRenewed);
                    }
                }
            }
            Message::Unschedule { incarnation } => {
                state.directory[usize::from(incarnation)] = false;
            }
            Message::Reap {
                incarnation,
                channel,
            } => {
                // One chunk: the tombstone first, then one session at most.
                let (incarnation, c) = (usize::from(incarnation), usize::from(channel));
                let is_reaped = |i: usize| i == incarnation || !self.rules.by_incarnation;
                for i in (0..INCARNATIONS).filter(|&i| is_reaped(i)) {
                    state.channel[c].dead[i] |= self.rules.tombstone;
                }
                let members = state.channel[c].members;
                let mut cast = self.cast();
                let next = cast.find(|&(s, i, _, ch)| ch == c && is_reaped(i) && members[s] != 0);
                if let Some((s, _, user, _)) = next {
                    self.remove_member(&mut state.channel[c], s, user);
                }
            }
        }
    }

    fn deliver_join(&self, state: &mut State, session: u8, op: u8, late: bool, is_answered: bool) {
        let (incarnation, user, c) = self.of(session);
        let s = usize::from(session);
        let channel = &mut state.channel[c];
        if channel.dead[incarnation] {
            state.told_dead[incarnation] |= state.process[incarnation] != Process::Gone;
            return;
        }
        let session = &mut state.sessions[s];
        let awaited = session
            .current
            .as_mut()
            .filter(|it| is_answered && it.op == op);
        if late && self.rules.deadline {
            let Some(current) = awaited else { return };
            current.late = match current.late {
                Late::No => Late::Refused,
                // The second try was too late as well: the client is told of a failure. Nothing was done.
                Late::SentAgain if !current.joined && !current.fence => {
                    session.current = None;
                    session.wants = false;
                    return;
                }
                Late::SentAgain => Late::Refused,
                late => late,
            };
            return;
        }
        if channel.left[s] > op {
            if awaited.is_some() {
                state.wrong = Some(Wrong::LiveIsStale);
            }
            return;
        }
        self.add_member(channel, s, user, op);
        if let Some(current) = awaited {
            current.joined = true;
            current.late = Late::No;
        }
    }

    // ---- connectors ----

    /// Writes an index entry, with a nonce of its own.
    fn index(state: &mut State, incarnation: usize, channel: usize) {
        let nonce = &mut state.nonces[incarnation][channel];
        *nonce += 1;
        state.slot[incarnation].index[channel] = *nonce;
    }

    /// Gives a lease a beat that nobody knows.
    fn renew(state: &mut State, incarnation: usize) {
        let is_known = |beat: u8| {
            let flies = state.network.iter().any(|m| match *m {
                Message::DeclareDead {
                    incarnation: i,
                    beat: watched,
                    ..
                } => (usize::from(i), watched) == (incarnation, beat),
                _ => false,
            });
            let stands = |slot: &IncarnationSlot| slot.lease == Lease::Live { beat };
            flies
                || match &state.window {
                    Some(Window::Incarnation(i, slot)) => *i == incarnation && stands(slot),
                    Some(Window::Node(_, slots, _)) => stands(&slots[incarnation]),
                    _ => false,
                }
        };
        let beat = (0..=u8::MAX)
            .find(|&beat| !is_known(beat))
            .unwrap_or_default();
        state.slot[incarnation].lease = Lease::Live { beat };
        // The checker remembers which observations are over, whatever the beats say.
        for message in &mut state.network {
            if let Message::DeclareDead {
                incarnation: i,
                silent,
                ..
            } = message
            {
                *silent &= usize::from(*i) != incarnation;
            }
        }
    }

    fn is_buried(state: &State, rules: &Rules, incarnation: usize, channel: usize) -> bool {
        state.channel[channel].dead[incarnation] || !rules.tombstone
    }

    fn is_settled(state: &State, channel: usize) -> bool {
        match state.window {
            Some(Window::Channel(c, _)) => c != channel,
            Some(Window::Node(..)) => false,
            _ => true,
        }
    }

    /// The deadline of a join that is sent now is over by the clock of the channel's server.
    fn is_late(state: &State, i: usize, c: usize) -> bool {
        state.overdue[i] || state.ahead[c]
    }

    fn client_steps(&self, state: &State, out: &mut Steps<Self>) {
        for (s, i, _, c) in self.cast() {
            let session = state.sessions[s];
            let is_up = state.process[i] == Process::Up;
            let mut push = |kind, step, change: &dyn Fn(&mut State)| {
                let mut next = state.clone();
                change(&mut next);
                out.push((kind, step, next));
            };
            if session.open.is_none() && is_up {
                push(Chance, Step::ClientOpens(s), &|n| {
                    n.sessions[s].open = Some(true);
                });
            }
            if session.open == Some(true) {
                push(Chance, Step::ClientCloses(s), &|n| {
                    n.sessions[s].open = Some(false);
                });
                if state.budget.change_mind > 0 && is_up {
                    push(Chance, Step::ChangesMind(s), &|n| {
                        n.budget.change_mind -= 1;
                        n.sessions[s].wants ^= true;
                    });
                }
            }
            if !is_up {
                continue;
            }
            self.current_steps(state, s, i, c, &mut push);
            self.ended_steps(state, s, c, &mut push);
        }
    }

    fn current_steps(
        &self,
        state: &State,
        s: usize,
        i: usize,
        c: usize,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let session = state.sessions[s];
        let is_wanted = session.open == Some(true) && session.wants;
        let is_late = Self::is_late(state, i, c);
        let join = |op, late| Message::Join {
            session: s as u8,
            op,
            late,
        };
        let Some(current) = session.current else {
            if !is_wanted || !session.has_room() {
                return;
            }
            let send = |n: &mut State| {
                let session = &mut n.sessions[s];
                let op = session.draw();
                session.current = Some(Current {
                    op,
                    joined: false,
                    fence: false,
                    late: Late::No,
                });
                n.network.push(join(op, is_late));
            };
            if state.own_index[i][c] || !self.rules.index_first {
                return push(Duty, Step::SendJoin(s), &send);
            }
            match state.slot[i].lease {
                Lease::Dead if self.rules.sealed_index => {
                    push(Duty, Step::SendJoin(s), &|n| n.told_dead[i] = true);
                }
                // Lost: it is renewed first.
                Lease::Missing => {}
                Lease::Live { .. } | Lease::Dead => push(Duty, Step::SendJoin(s), &|n| {
                    Self::index(n, i, c);
                    n.own_index[i][c] = true;
                    send(n);
                }),
            }
            return;
        };
        let flies = state.network.iter().any(|m| {
            matches!(*m, Message::Join { session, op, .. } if (usize::from(session), op) == (s, current.op))
        });
        let ends = |n: &mut State, left: bool| {
            let session = &mut n.sessions[s];
            let leave = if self.rules.number_at_end {
                session.draw()
            } else {
                0
            };
            let Current {
                op, joined, fence, ..
            } = current;
            let fence = fence || !joined;
            session.current = None;
            session.end(Ended {
                op,
                leave,
                fence,
                left,
            });
        };
        if !session.has_room() {
            return;
        }
        if !is_wanted {
            // A leave that was asked for waits for no grace, and neither does what never worked.
            let lingers = self.grace && session.open == Some(false) && current.joined;
            push(Duty, Step::Ends(s), &|n| ends(n, !lingers));
        } else if !current.joined && state.budget.give_up > 0 {
            push(Chance, Step::GivesUp(s), &|n| {
                n.budget.give_up -= 1;
                ends(n, true);
            });
        }
        let is_lost = state.channel[c].members[s] == 0;
        let is_repaired = self.rules.reconcile && state.own_index[i][c] && is_lost;
        let may_retry = match current.late {
            Late::Renewed => true,
            Late::Refused => !self.rules.renewal_before_retry,
            Late::No | Late::SentAgain => false,
        };
        let set = |n: &mut State, change: &dyn Fn(&mut Current)| {
            if let Some(current) = &mut n.sessions[s].current {
                change(current);
            }
        };
        if flies {
            return;
        }
        if may_retry && (!current.joined || is_repaired) {
            push(Duty, Step::RetryLateJoin(s), &|n| {
                set(n, &|it| it.late = Late::SentAgain);
                n.network.push(join(current.op, false));
            });
        } else if current.late == Late::Refused {
            // It waits for a renewal.
        } else if !current.joined {
            push(Duty, Step::SendJoinAgain(s), &|n| {
                set(n, &|it| it.fence |= self.rules.retry_counts);
                n.network.push(join(current.op, is_late));
            });
        } else if is_repaired {
            push(Duty, Step::RepairJoin(s), &|n| {
                set(n, &|it| it.fence |= self.rules.retry_counts);
                n.network.push(join(current.op, is_late));
            });
        }
        if !self.rules.index_first && current.joined && !state.own_index[i][c] {
            push(Duty, Step::IndexAfterJoin(s), &|n| {
                Self::index(n, i, c);
                n.own_index[i][c] = true;
            });
        }
    }

    fn ended_steps(
        &self,
        state: &State,
        s: usize,
        c: usize,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let session = state.sessions[s];
        let (i, ..) = self.of(s as u8);
        for (k, ended) in session.ended.iter().enumerate() {
            let Some(ended) = *ended else { continue };
            let set = |n: &mut State, change: &dyn Fn(&mut Ended)| {
                if let Some(ended) = &mut n.sessions[s].ended[k] {
                    change(ended);
                }
            };
            if !ended.left {
                push(Duty, Step::GraceEnds(s), &|n| set(n, &|it| it.left = true));
                let flies = state.network.iter().any(|m| {
                    matches!(*m, Message::Join { session, op, .. } if (usize::from(session), op) == (s, ended.op))
                });
                let is_lost = state.channel[c].members[s] == 0;
                if self.rules.reconcile
                    && state.own_index[i][c]
                    && is_lost
                    && !flies
                    && !Self::is_late(state, i, c)
                {
                    push(Duty, Step::RepairJoin(s), &|n| {
                        set(n, &|it| it.fence |= self.rules.retry_counts);
                        let (session, op) = (s as u8, ended.op);
                        n.network.push(Message::Join {
                            session,
                            op,
                            late: false,
                        });
                    });
                }
                continue;
            }
            let flies = ended.leave != 0
                && state.network.iter().any(|m| {
                    matches!(*m, Message::Leave { session, op, .. } if (usize::from(session), op) == (s, ended.leave))
                });
            if !flies {
                push(Duty, Step::SendLeave(s, k), &|n| {
                    let op = if ended.leave == 0 {
                        n.sessions[s].draw()
                    } else {
                        ended.leave
                    };
                    set(n, &|it| it.leave = op);
                    let (session, fence) = (s as u8, ended.fence);
                    n.network.push(Message::Leave { session, op, fence });
                });
            }
        }
    }

    /// The reconciler looks for sessions that are listed and over.
    fn look_steps(&self, state: &State, i: usize, c: usize, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let here = || self.of_place(i, c);
        match state.looks[i][c] {
            None => {
                if !state.own_index[i][c] {
                    return;
                }
                let is_listed = |s: usize| state.channel[c].members[s] != 0;
                let is_ghost = |s: usize| is_listed(s) && state.sessions[s].is_idle();
                let is_leaving = |s: usize| is_listed(s) && state.sessions[s].current.is_none();
                let leave_flies = |s: usize| {
                    let mut network = state.network.iter();
                    network.any(|m| matches!(*m, Message::Leave { session, .. } if usize::from(session) == s))
                };
                let begin = |n: &mut State| {
                    let mut ops = [0; SESSIONS];
                    if self.rules.number_before_list {
                        here().for_each(|s| ops[s] = n.sessions[s].draw());
                    }
                    n.looks[i][c] = Some(Look::Asked { ops });
                };
                if here().any(|s| is_ghost(s) && !leave_flies(s)) {
                    push(Duty, Step::BeginLook(i, c), &begin);
                } else if state.budget.looks > 0 && here().any(is_leaving) {
                    push(Chance, Step::BeginLook(i, c), &|n| {
                        n.budget.looks -= 1;
                        begin(n);
                    });
                }
            }
            Some(Look::Asked { ops }) => push(Duty, Step::ReadList(i, c), &|n| {
                let listed = n.channel[c].members.map(|op| op != 0);
                n.looks[i][c] = Some(Look::Listed { ops, listed });
            }),
            Some(Look::Listed { ops, listed }) => push(Duty, Step::Compare(i, c), &|n| {
                let mut ghosts = [false; SESSIONS];
                here().for_each(|s| ghosts[s] = listed[s] && n.sessions[s].is_idle());
                let is_clean = ghosts == [false; SESSIONS];
                n.looks[i][c] = (!is_clean).then_some(Look::Ghosts { ops, ghosts });
            }),
            Some(Look::Ghosts { ops, ghosts }) => push(Duty, Step::LeaveGhosts(i, c), &|n| {
                n.looks[i][c] = None;
                for s in here().filter(|&s| ghosts[s]) {
                    let op = if ops[s] == 0 {
                        n.sessions[s].draw()
                    } else {
                        ops[s]
                    };
                    n.network.push(Message::Leave {
                        session: s as u8,
                        op,
                        fence: true,
                    });
                }
            }),
        }
    }

    fn network_steps(&self, state: &State, out: &mut Steps<Self>) {
        for (at, &message) in state.network.iter().enumerate() {
            if at > 0 && state.network[at - 1] == message {
                continue;
            }
            let mut dropped = state.clone();
            dropped.network.remove(at);
            let mut next = dropped.clone();
            self.deliver(&mut next, message, true);
            out.push((Duty, Step::Deliver(message), next));
            let is_asked = matches!(message, Message::Join { .. } | Message::Leave { .. });
            if state.budget.lost_answer > 0 && is_asked {
                let mut next = dropped.clone();
                next.budget.lost_answer -= 1;
                self.deliver(&mut next, message, false);
                out.push((Chance, Step::LoseAnswer(message), next));
            }
            if state.budget.drop > 0 {
                dropped.budget.drop -= 1;
                out.push((Chance, Step::Drop(message), dropped));
            }
            if state.budget.duplicate > 0 {
                let mut next = state.clone();
                next.budget.duplicate -= 1;
                if let Message::Join { session, op, .. } = message {
                    let session = &mut next.sessions[usize::from(session)];
                    let counts = self.rules.retry_counts;
                    for current in session.current.iter_mut().filter(|it| it.op == op) {
                        current.fence |= counts;
                    }
                    for ended in session.ended.iter_mut().flatten().filter(|it| it.op == op) {
                        ended.fence |= counts;
                    }
                }
                next.network.push(message);
                out.push((Chance, Step::Duplicate(message), next));
            }
        }
    }

    fn incarnation_steps(&self, state: &State, out: &mut Steps<Self>) {
        for i in 0..INCARNATIONS {
            if !self.cast().any(|(_, incarnation, ..)| incarnation == i) {
                continue;
            }
            self.process_steps(state, i, out);
            self.lease_steps(state, i, out);
            for c in 0..CHANNELS {
                self.place_steps(state, i, c, out);
            }
        }
    }

    /// What a connector does and suffers.
    fn process_steps(&self, state: &State, i: usize, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let (process, lease) = (state.process[i], state.slot[i].lease);
        match process {
            Process::Up => {
                if state.budget.freeze > 0 {
                    push(Chance, Step::Freeze(i), &|n| {
                        n.budget.freeze -= 1;
                        n.process[i] = Process::Frozen;
                    });
                }
                if state.told_dead[i] {
                    push(Duty, Step::CloseSockets(i), &|n| {
                        if !n.ever_dead[i] {
                            n.wrong = Some(Wrong::ClosedForNothing);
                        }
                        self.lose_process(n, i);
                    });
                }
                push(Duty, Step::Renew(i), &|n| match lease {
                    Lease::Dead => n.told_dead[i] = true,
                    Lease::Missing if !self.rules.missing_is_lost => n.told_dead[i] = true,
                    Lease::Missing | Lease::Live { .. } => {
                        n.directory[i] = true; // It is written first.
                        Self::renew(n, i);
                        n.overdue[i] = false;
                        for (s, incarnation, ..) in self.cast() {
                            let current = n.sessions[s].current.as_mut();
                            if let Some(current) = current.filter(|_| incarnation == i)
                                && current.late == Late::Refused
                            {
                                current.late = Late::Renewed;
                            }
                        }
                    }
                });
            }
            Process::Frozen => push(Duty, Step::Thaw(i), &|n| n.process[i] = Process::Up),
            Process::Gone => {}
        }
        if process != Process::Gone && state.budget.crash > 0 {
            push(Chance, Step::Crash(i), &|n| {
                n.budget.crash -= 1;
                self.lose_process(n, i);
            });
        }
    }

    /// What observers make of a lease.
    fn lease_steps(&self, state: &State, i: usize, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let (process, lease) = (state.process[i], state.slot[i].lease);
        let declaration_flies = (state.network.iter())
            .any(|m| matches!(*m, Message::DeclareDead { incarnation, .. } if usize::from(incarnation) == i));
        if let Lease::Live { beat } = lease
            && state.directory[i]
        {
            let declare = |n: &mut State, silent| {
                let incarnation = i as u8;
                n.network.push(Message::DeclareDead {
                    incarnation,
                    beat,
                    silent,
                });
            };
            // The beat was watched for longer than the lease.
            match process {
                _ if declaration_flies => {}
                Process::Gone => push(Duty, Step::WatchedSilence(i), &|n| declare(n, true)),
                Process::Frozen => push(Chance, Step::WatchedSilence(i), &|n| declare(n, true)),
                Process::Up if state.budget.starve > 0 => {
                    push(Chance, Step::WatchedSilence(i), &|n| {
                        n.budget.starve -= 1;
                        declare(n, true);
                    });
                }
                Process::Up => {}
            }
            if state.budget.clock > 0 && !self.rules.own_time {
                push(Chance, Step::LeaseClockJumps(i), &|n| {
                    n.budget.clock -= 1;
                    declare(n, false);
                });
            }
        }
        if state.directory[i] && lease == Lease::Missing {
            push(Duty, Step::ProvisionalLease(i), &|n| Self::renew(n, i));
        }
        let is_settled = match state.window {
            Some(Window::Incarnation(at, _)) => at != i,
            Some(Window::Node(..)) => false,
            _ => true,
        };
        let unschedule = Message::Unschedule {
            incarnation: i as u8,
        };
        let is_empty = lease == Lease::Dead && state.slot[i].index == [0; CHANNELS];
        let may_unschedule = is_settled || !self.rules.reaper_second_look;
        if is_empty && state.directory[i] && may_unschedule && !state.network.contains(&unschedule)
        {
            push(Duty, Step::SendUnschedule(i), &|n| {
                n.network.push(unschedule);
            });
        }
    }

    /// What is done about one channel of an incarnation: by reapers, by its owner, and by whoever meets it there.
    fn place_steps(&self, state: &State, i: usize, c: usize, out: &mut Steps<Self>) {
        let (process, lease) = (state.process[i], state.slot[i].lease);
        let is_up = process == Process::Up;
        if self.rules.reconcile && is_up {
            self.look_steps(state, i, c, out);
        }
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let reap = Message::Reap {
            incarnation: i as u8,
            channel: c as u8,
        };
        let is_indexed = state.slot[i].index[c] != 0;
        let is_listed = self.is_listed(state, i, c);
        let is_reaping = state.network.contains(&reap);
        let is_unindexing = state.network.iter().any(|m| {
            matches!(*m, Message::Unindex { incarnation, channel, .. }
                if (usize::from(incarnation), usize::from(channel)) == (i, c))
        });
        let unindex = |n: &mut State, by_owner| {
            let nonce = n.slot[i].index[c];
            let (incarnation, channel) = (i as u8, c as u8);
            n.network.push(Message::Unindex {
                incarnation,
                channel,
                nonce,
                by_owner,
            });
        };
        if state.directory[i] && lease == Lease::Dead && is_indexed && !is_reaping {
            let is_clean = !is_listed && Self::is_buried(state, &self.rules, i, c);
            let is_settled = Self::is_settled(state, c) || !self.rules.reaper_second_look;
            if !is_clean {
                push(Duty, Step::SendReap(i, c), &|n| n.network.push(reap));
            } else if !is_unindexing && is_settled {
                let step = Step::SendUnindex {
                    incarnation: i,
                    channel: c,
                    by_owner: false,
                };
                push(Duty, step, &|n| unindex(n, false));
            }
        }
        let owns = state.own_index[i][c];
        if is_up && owns && self.owner_may_unindex(state, i, c) {
            let step = Step::SendUnindex {
                incarnation: i,
                channel: c,
                by_owner: true,
            };
            push(Duty, step, &|n| {
                n.own_index[i][c] = false;
                unindex(n, true);
            });
        }
        let lives = matches!(lease, Lease::Live { .. });
        if self.rules.reconcile && is_up && owns && !is_indexed && lives {
            push(Duty, Step::RepairIndex(i, c), &|n| Self::index(n, i, c));
        }
        if self.rules.reconcile
            && is_up
            && !owns
            && is_indexed
            && !is_unindexing
            && lease != Lease::Dead
        {
            push(Duty, Step::AdoptIndex(i, c), &|n| n.own_index[i][c] = true);
        }
        if self.rules.restoring && is_listed {
            push(Duty, Step::Restore(i, c), &|n| {
                n.directory[i] = true;
                if !is_indexed {
                    Self::index(n, i, c);
                }
                if lease == Lease::Missing {
                    Self::renew(n, i); // Provisional, until its owner renews it.
                }
            });
        }
    }

    /// The owner drops an index entry when nothing of it is there or under way, and nothing is listed. Joins in flight end
    /// with their deadlines, and replication settles meanwhile.
    fn owner_may_unindex(&self, state: &State, incarnation: usize, channel: usize) -> bool {
        let mut mine = self.of_place(incarnation, channel);
        if !self.rules.careful_unindex {
            return mine.all(|s| !state.sessions[s].current.is_some_and(|it| it.joined));
        }
        let flies = |s: usize| {
            state.network.iter().any(|m| {
                matches!(*m, Message::Join { session, late, .. }
                    if usize::from(session) == s && !(late && self.rules.deadline))
            })
        };
        let is_looking = state.looks[incarnation][channel].is_some();
        mine.all(|s| {
            state.sessions[s].is_idle() && !flies(s) && state.channel[channel].members[s] == 0
        }) && (Self::is_settled(state, channel) || !self.rules.owner_second_look)
            && !is_looking
    }

    fn lose_process(&self, state: &mut State, incarnation: usize) {
        state.process[incarnation] = Process::Gone;
        state.told_dead[incarnation] = false;
        state.overdue[incarnation] = false;
        state.own_index[incarnation] = [false; CHANNELS];
        state.looks[incarnation] = [None; CHANNELS];
        for (s, i, ..) in self.cast() {
            if i == incarnation {
                state.sessions[s] = Session {
                    open: Some(false),
                    ..OUT
                };
            }
        }
    }

    /// Tombstones of a channel expire, and deadlines are over: all of them, or those of joins to this channel.
    fn time_passes(&self, state: &mut State, c: usize, everywhere: bool) {
        state.channel[c].dead = [false; INCARNATIONS];
        state.channel[c].left = [0; SESSIONS];
        let is_meant = |session: u8| everywhere || self.of(session).2 == c;
        for message in &mut state.network {
            if let Message::Join { session, late, .. } = message {
                *late |= is_meant(*session);
            }
        }
        for (s, ..) in self.cast() {
            if let Some(current) = state.sessions[s]
                .current
                .as_mut()
                .filter(|_| is_meant(s as u8))
                && current.late == Late::Renewed
            {
                current.late = Late::Refused;
            }
        }
    }

    fn loss_steps(&self, state: &State, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let channels = || (0..CHANNELS).filter(|&c| self.cast().any(|(.., channel)| channel == c));
        for c in channels() {
            if state.budget.forget > 0 {
                push(Chance, Step::TombstonesExpire(c), &|n| {
                    n.budget.forget -= 1;
                    self.time_passes(n, c, true);
                    n.overdue = [true; INCARNATIONS];
                });
            }
            if state.budget.clock > 0 && !state.ahead[c] {
                push(Chance, Step::ChannelClockJumps(c), &|n| {
                    n.budget.clock -= 1;
                    self.time_passes(n, c, false);
                    n.ahead[c] = true;
                });
            }
        }
        match state.window {
            None if state.budget.node_rollback > 0 => {
                let window = Window::Node(state.channel, state.slot, state.directory);
                push(Chance, Step::OpenWindow(window), &|n| {
                    n.budget.node_rollback -= 1;
                    n.window = Some(window);
                });
            }
            None if state.budget.rollback + state.budget.channel_rollback > 0 => {
                let mut windows: Vec<_> = channels()
                    .map(|c| Window::Channel(c, state.channel[c]))
                    .collect();
                if state.budget.rollback > 0 {
                    let is_cast =
                        |i: usize| self.cast().any(|(_, incarnation, ..)| incarnation == i);
                    let incarnations = (0..INCARNATIONS).filter(|&i| is_cast(i));
                    windows.extend(incarnations.map(|i| Window::Incarnation(i, state.slot[i])));
                    windows.push(Window::Directory(state.directory));
                }
                for window in windows {
                    push(Chance, Step::OpenWindow(window), &|n| {
                        let budget = &mut n.budget;
                        if budget.rollback > 0 {
                            budget.rollback -= 1;
                        } else {
                            budget.channel_rollback -= 1;
                        }
                        n.window = Some(window);
                    });
                }
            }
            None => {}
            Some(window) => {
                push(Duty, Step::Replicated, &|n| n.window = None);
                push(Chance, Step::Failover, &|n| {
                    n.window = None;
                    n.data_lost = true;
                    match window {
                        Window::Channel(c, was) => n.channel[c] = was,
                        Window::Incarnation(i, was) => n.slot[i] = was,
                        Window::Directory(was) => n.directory = was,
                        Window::Node(channel, slot, directory) => {
                            (n.channel, n.slot, n.directory) = (channel, slot, directory);
                        }
                    }
                });
            }
        }
        if state.budget.flush > 0 {
            push(Chance, Step::FlushAll, &|n| {
                n.budget.flush -= 1;
                n.window = None;
                n.data_lost = true;
                n.channel = Default::default();
                n.slot = Default::default();
                n.directory = Default::default();
            });
        }
    }
}

impl Model for Membership {
    type State = State;
    type Step = Step;

    fn init(&self) -> State {
        let slot = IncarnationSlot {
            lease: Lease::Live { beat: 0 },
            index: [0; CHANNELS],
        };
        State {
            process: [Process::Up; INCARNATIONS],
            told_dead: [false; INCARNATIONS],
            overdue: [false; INCARNATIONS],
            ahead: [false; CHANNELS],
            own_index: Default::default(),
            nonces: Default::default(),
            looks: Default::default(),
            sessions: [OUT; SESSIONS],
            slot: [slot; INCARNATIONS],
            channel: Default::default(),
            directory: [true; INCARNATIONS],
            network: Vec::new(),
            window: None,
            budget: self.budget,
            ever_dead: Default::default(),
            data_lost: false,
            wrong: None,
        }
    }

    fn steps(&self, state: &State, out: &mut Steps<Self>) {
        self.client_steps(state, out);
        self.network_steps(state, out);
        self.incarnation_steps(state, out);
        self.loss_steps(state, out);
        for (_, _, next) in out.iter_mut() {
            next.network.sort_unstable();
        }
    }

    fn always(&self, state: &State) -> Result<(), &'static str> {
        for channel in &state.channel {
            if channel.broken_log {
                return Err("two onJoin or two onLeave of a user in a row");
            }
            for user in 0..2 {
                let is_there = self.user_count(channel, user) > 0;
                if self.rules.per_session && channel.joined[user] != is_there {
                    return Err("the log disagrees with the members");
                }
            }
        }
        match state.wrong {
            Some(Wrong::ClosedForNothing) => {
                return Err("a connector that nobody declared dead closed its sockets");
            }
            Some(Wrong::DeadThoughRenewed) => {
                return Err("a connector was declared dead that had not been silent");
            }
            Some(Wrong::LiveIsStale) => {
                return Err("a session that has not ended was told that it has left");
            }
            None => {}
        }
        for (s, i, _, c) in self.cast() {
            if state.data_lost || state.ever_dead[i] {
                continue;
            }
            let session = state.sessions[s];
            let listed = state.channel[c].members[s];
            if state.process[i] != Process::Gone && session.is_idle() && listed != 0 {
                return Err("a session that had left is listed again");
            }
            let joined = session.current.filter(|it| it.joined);
            if joined.is_some_and(|_| listed == 0) {
                return Err("a session that had joined is not listed");
            }
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), &'static str> {
        for (s, i, user, c) in self.cast() {
            let session = state.sessions[s];
            let is_live =
                state.process[i] == Process::Up && session.open == Some(true) && session.wants;
            match (is_live, state.channel[c].members[s] != 0) {
                (true, false) => return Err("a live session is missing from its channel"),
                (false, true) => return Err("ghost: a dead session is listed"),
                _ => {}
            }
            let count = self.user_count(&state.channel[c], user);
            if !self.rules.per_session && i64::from(state.channel[c].count[user]) != count as i64 {
                return Err("the count disagrees with the sessions");
            }
        }
        Ok(())
    }
}
