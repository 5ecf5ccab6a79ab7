//! One user's logins on two connectors, with the channels that these sessions are in.
//!
//! The user's slot holds an entry for each session, and each channel's slot its members. A client that comes back with its
//! secret is another session of the same lineage: it takes over the memberships of the one before. Every Lua script is one
//! step, and reads one slot only. What a process does with an answer from another slot travels as a message, or is a step of
//! its own. The network delays and reorders without limit.
//!
//! Index, directory and deadlines keep these slots findable by the same means as in [`crate::membership`], and are left out
//! here: the reaper finds whatever is left of a dead incarnation.

mod blocking;

use crate::named::named;
use crate::search::{Kind, Model, Steps};
use Kind::{Chance, Duty};

pub(crate) const INCARNATIONS: usize = 2;
pub(crate) const SESSIONS: usize = 3;
pub(crate) const CHANNELS: usize = 2;

/// Which session stays if a user has two that do not have the same secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    /// The older one stays.
    Reject,
    /// The newer one stays.
    KickOld,
    /// Both stay.
    Allow,
}

named! {
    /// The rules under test. Each can be switched off to see what it is for.
    pub(crate) struct Rules: bool = true {
        /// Others are marked by a claim of the owner, which has the login's answer; off: by the login itself.
        claim_by_owner,
        /// The claim and the hint come after the join; off: before it.
        claim_after_join,
        /// The reconciler claims nothing for a login that has not joined yet; off: it does so from the login's answer on.
        repair_waits_for_join,
        /// Nobody claims for a login that has failed while its leaves are pending.
        failed_claims_nothing,
        /// Nobody claims for a session that lingers.
        lingering_claims_nothing,
        /// A claim that arrives when its session lingers, or is superseded itself, marks nobody.
        late_claim_marks_nobody,
        /// A session that was replaced lingers for longer than a login takes; off: it leaves at once.
        replaced_lingers,
        /// A join leaves a tombstone of each session whose place it takes, found or not.
        replaced_fence,
        /// A session that has not ended, and whose join is refused as stale, is closed.
        stale_closes,
        /// Between two sessions of one lineage the newer one stays; off: the policy decides.
        newer_of_client_stays,
        /// A login names no newer sessions of its lineage as predecessors; off: one that is repeated may.
        only_older_named,
        /// A login names lingering sessions as predecessors, and the claim marks them.
        lingering_named,
        /// A superseded entry holds nobody off; off: it does, unless it has the same proof.
        superseded_yields,
        /// Close removes its own session only; off: all entries of the user.
        close_own,
        /// Close leaves a tombstone where a copy of the login or of a claim may still travel.
        closed_fence,
        /// Reaping leaves a tombstone of the incarnation.
        tombstone,
        /// A login that finds the user taken asks whether the holders are dead.
        holder_checked,
        /// Evicting a dead holder leaves the tombstone of its incarnation, as reaping does.
        evict_reaps,
        /// A kick is a mark in the user's slot; off: only a message.
        kick_is_written,
        /// Ranks never go back, even after data loss.
        rank_by_clock,
        /// Of two sessions with one rank their names decide.
        names_decide,
        /// A claim compares ranks; off: whoever claims last wins.
        ranks_compared,
        /// A session that finds a better one waits for that one's owner; off: it gives way at once.
        patient,
        /// A claim writes the owner's own rank over another one.
        own_rank,
        /// Both connectors have one policy; off: the second one has `KickOld`.
        one_policy,
        /// Connectors compare their sessions with the slots, and repair what differs.
        reconcile,
        /// A block is written before anybody looks for sessions; off: after that.
        block_before_look,
        /// Logins and claims are refused while the user is blocked.
        block_checked,
        /// The command that closes the sessions of a blocked user also closes those that are logging in.
        block_closes_logins,
        /// The reconciler closes the sessions of a blocked user.
        block_reconciled,
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
        /// A login is given up although its client is there: it took too long.
        give_up,
        /// One slot falls back to an earlier state.
        rollback,
        flush,
        /// A connector stops in order. Its sessions linger, and its lease lasts until their grace is over.
        stop,
        /// A back end blocks the user.
        block,
    }
}

/// A session that takes part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Seat {
    pub(crate) incarnation: usize,
    /// Sessions with the same secret are of one lineage.
    pub(crate) secret: Option<u8>,
    /// The channel that it joins with its login.
    pub(crate) home: usize,
}

/// One user's sessions. They connect in this order.
pub(crate) type Cast = [Option<Seat>; SESSIONS];

pub(crate) struct Logins {
    pub(crate) policy: Policy,
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    pub(crate) cast: Cast,
    /// Channels that each session joins: its home with its login, the other one afterwards.
    pub(crate) channels: usize,
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

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Out,
    LoggingIn,
    /// These sessions have the user. The leases of their incarnations must be read.
    Taken(u8),
    /// Its login was answered, and its join is on the way.
    Joining,
    /// Its client was told that it is logged in.
    In,
    /// Its client is gone, and it stays a member for a while.
    Lingering,
    /// Its leaves are on their way.
    Leaving,
    /// The removal of its entry is on the way.
    Closing,
    Over,
}

/// How a socket was closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Closed {
    /// Not yet.
    No,
    /// The client left, was refused, or lost its connector. It may come back.
    Gone,
    /// Another session has its place. The client should come back.
    Displaced,
    /// A session of another client took its place. The client should not come back.
    Kicked,
    /// The next session of its own client took its place. The client should not come back.
    Replaced,
    /// The user is blocked.
    Blocked,
}

/// A session in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    /// Not begun, or over.
    None,
    Asked,
    In,
    /// It has ended, and its leave waits; `repaired`: the reconciler still brings it back.
    Lingering {
        repaired: bool,
    },
    Leaving,
    /// Its join was refused as stale.
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Membership {
    stage: Stage,
    /// The sessions whose place it takes.
    replaces: u8,
    /// A copy of its join may be under way.
    fence: bool,
    /// It has begun at least once.
    begun: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Session {
    connected: bool,
    closed: Closed,
    phase: Phase,
    /// The rank from the answer to its login; 0 before that.
    rank: u8,
    predecessors: u8,
    to_claim: bool,
    /// A copy of its login or of a claim may be under way.
    fence: bool,
    /// Its login has failed.
    undone: bool,
    lingers: bool,
    memberships: [Membership; CHANNELS],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Mark {
    Live,
    Superseded,
    Lingering,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    rank: u8,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct UserSlot {
    entries: [Option<Entry>; SESSIONS],
    closed: [bool; SESSIONS],
    dead: [bool; INCARNATIONS],
    counter: u8,
    blocked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct ChannelSlot {
    members: [bool; SESSIONS],
    /// Tombstones of sessions.
    left: [bool; SESSIONS],
    dead: [bool; INCARNATIONS],
    /// The last entry of the log about the user is onJoin.
    joined: bool,
    /// The log holds two onJoin or two onLeave in a row.
    broken_log: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Message {
    Login {
        session: u8,
        reap: u8,
    },
    Claim {
        session: u8,
        rank: u8,
        named: u8,
    },
    Linger {
        session: u8,
    },
    Close {
        session: u8,
        fence: bool,
    },
    ReapUser {
        incarnation: u8,
    },
    Kick {
        session: u8,
    },
    Join {
        session: u8,
        channel: u8,
        replaces: u8,
    },
    Leave {
        session: u8,
        channel: u8,
        fence: bool,
    },
    Reap {
        incarnation: u8,
        channel: u8,
    },
    /// Writes the block.
    Block,
    /// Lets a connector close the sessions of the blocked user.
    CloseAll {
        incarnation: u8,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Window {
    User(UserSlot),
    Channel(usize, ChannelSlot),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    process: [Process; INCARNATIONS],
    lease_dead: [bool; INCARNATIONS],
    told_dead: [bool; INCARNATIONS],
    sessions: [Session; SESSIONS],
    user: UserSlot,
    channels: [ChannelSlot; CHANNELS],
    network: Vec<Message>,
    window: Option<Window>,
    chat: blocking::Chat,
    /// The server's clock, as far as ranks see it.
    clock: u8,
    budget: Budget,
    // What the model remembers to check it. The system does not know it.
    /// Ranks of sessions that were let in while their clients were there.
    let_in: [u8; SESSIONS],
    data_lost: bool,
    has_frozen: bool,
    /// Connectors that have stopped in order.
    stopped: [bool; INCARNATIONS],
    wrong: Option<Wrong>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Wrong {
    LockedOut,
    HeldOff,
    Unjustified,
    Flapped,
    Overtaken,
    CountedTwice,
    Broken,
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a trace shows the fields")]
pub(crate) enum Step {
    ClientConnects(usize),
    ClientCloses(usize),
    SendLogin(usize),
    SendLoginAgain(usize),
    LookAtHolders(usize),
    SendJoin(usize, usize),
    SendJoinAgain(usize, usize),
    ClaimEarly(usize),
    LetIn(usize),
    LoginFails(usize),
    Ends(usize),
    GraceEnds(usize),
    SendLeave(usize, usize),
    SendClose(usize),
    GivesWayAsMarked(usize),
    ClosesAsStale(usize, usize),
    RepairClaim(usize),
    RepairLinger(usize),
    RepairClose(usize),
    RepairJoin(usize, usize),
    RepairLeave(usize, usize),
    Deliver(Message),
    LoseAnswer(Message),
    Duplicate(Message),
    Drop(Message),
    Crash(usize),
    Stop(usize),
    Freeze(usize),
    Thaw(usize),
    DeclareDead(usize),
    Renew(usize),
    CloseSockets(usize),
    ReapUser(usize),
    Reap(usize, usize),
    OpenWindow(Window),
    Failover,
    Replicated,
    FlushAll,
    BeginBlock,
    SendBlock,
    LookForSessions,
    GoOnAfterAnswers,
    ClosesAsBlocked(usize),
}

const NOWHERE: Membership = Membership {
    stage: Stage::None,
    replaces: 0,
    fence: false,
    begun: false,
};

const ABSENT: Session = Session {
    connected: false,
    closed: Closed::No,
    phase: Phase::Out,
    rank: 0,
    predecessors: 0,
    to_claim: false,
    fence: false,
    undone: false,
    lingers: false,
    memberships: [NOWHERE; CHANNELS],
};

fn bit(session: usize) -> u8 {
    1 << session
}

fn has(mask: u8, session: usize) -> bool {
    mask & bit(session) != 0
}

impl Session {
    fn is_open(&self) -> bool {
        self.connected && self.closed == Closed::No
    }

    fn close(&mut self, how: Closed) {
        if self.closed == Closed::No {
            self.closed = how;
        }
    }

    /// Its connector knows it.
    fn is_known(&self) -> bool {
        !matches!(self.phase, Phase::Out | Phase::Over)
    }
}

impl Logins {
    fn cast(&self) -> impl Iterator<Item = (usize, Seat)> + '_ {
        let cast = self.cast.iter().enumerate();
        cast.filter_map(|(s, seat)| seat.map(|seat| (s, seat)))
    }

    fn home(&self, session: usize) -> usize {
        self.cast[session].map_or(0, |seat| seat.incarnation)
    }

    /// The channel that a session joins with its login.
    fn home_of(&self, session: usize) -> usize {
        self.cast[session].map_or(0, |seat| seat.home)
    }

    fn is_of_same_client(&self, a: usize, b: usize) -> bool {
        let secret = |s: usize| self.cast[s].and_then(|seat| seat.secret);
        a != b && secret(a).is_some() && secret(a) == secret(b)
    }

    /// The policy of the connector that holds a session.
    fn policy_of(&self, session: usize) -> Policy {
        if self.rules.one_policy || self.home(session) == 0 {
            self.policy
        } else {
            Policy::KickOld
        }
    }

    /// What decides between two sessions.
    fn place(&self, rank: u8, session: usize) -> (u8, usize) {
        (rank, if self.rules.names_decide { session } else { 0 })
    }

    /// True if the entry with rank `a` stays and the one with rank `b` goes, as the connector of `session` sees it.
    fn outranks(&self, session: usize, a: (u8, usize), b: (u8, usize)) -> bool {
        match self.policy_of(session) {
            Policy::Reject => a < b,
            Policy::KickOld => a > b,
            Policy::Allow => false,
        }
    }

    /// True if a session of this rank drives another entry out, as claim.lua decides.
    fn wins(&self, session: usize, rank: u8, named: u8, other: usize, entry: Entry) -> bool {
        if self.rules.newer_of_client_stays && self.is_of_same_client(session, other) {
            return self.place(rank, session) > self.place(entry.rank, other);
        }
        entry.mark == Mark::Lingering && has(named, other)
            || self.outranks(
                session,
                self.place(rank, session),
                self.place(entry.rank, other),
            )
    }

    // ---- scripts of the user's slot ----

    fn next_rank(&self, state: &mut State) -> u8 {
        let counter = if self.rules.rank_by_clock {
            &mut state.clock
        } else {
            &mut state.user.counter
        };
        *counter += 1;
        *counter
    }

    fn supersede(&self, state: &mut State, session: usize) {
        if self.rules.kick_is_written {
            if let Some(entry) = &mut state.user.entries[session] {
                entry.mark = Mark::Superseded;
            }
        } else {
            state.user.entries[session] = None;
            let session = session as u8;
            let kick = Message::Kick { session };
            if !state.network.contains(&kick) {
                state.network.push(kick);
            }
        }
    }

    fn reap(&self, user: &mut UserSlot, incarnation: usize) {
        user.dead[incarnation] = true;
        for (s, seat) in self.cast() {
            if seat.incarnation == incarnation {
                user.entries[s] = None;
            }
        }
    }

    /// False if a login or claim comes too late.
    fn is_admissible(&self, state: &mut State, session: usize) -> bool {
        let i = self.home(session);
        if state.user.dead[i] && self.rules.tombstone {
            state.told_dead[i] |= state.process[i] != Process::Gone;
            return false;
        }
        !state.user.closed[session]
    }

    fn deliver_login(&self, state: &mut State, s: usize, reap: u8, is_answered: bool) {
        if !self.is_admissible(state, s) {
            return;
        }
        let is_awaited = is_answered && state.sessions[s].phase == Phase::LoggingIn;
        if self.is_forbidden(state) {
            if is_awaited {
                state.sessions[s].close(Closed::Blocked);
                state.sessions[s].phase = Self::after_refusal(state, s);
            }
            return;
        }
        for (o, seat) in self.cast() {
            if has(reap, o) {
                if self.rules.evict_reaps {
                    self.reap(&mut state.user, seat.incarnation);
                } else {
                    state.user.entries[o] = None;
                }
            }
        }
        let (mut predecessors, mut holders, mut others, mut comes_back) = (0, 0, 0, false);
        for (o, entry) in state.user.entries.iter().enumerate() {
            let Some(entry) = entry.filter(|_| o != s) else {
                continue;
            };
            let lingers = entry.mark == Mark::Lingering && self.rules.lingering_named;
            others |= bit(o);
            let is_of_same_client = self.is_of_same_client(s, o);
            let own = state.user.entries[s];
            let is_newer = is_of_same_client && own.is_some_and(|own| own.rank < entry.rank);
            if is_newer && !lingers && self.rules.only_older_named {
                continue;
            }
            if is_of_same_client || lingers {
                predecessors |= bit(o);
                comes_back |= is_of_same_client && entry.mark == Mark::Live;
            } else if entry.mark != Mark::Superseded || !self.rules.superseded_yields {
                holders |= bit(o);
            }
        }
        let own = state.user.entries[s];
        if own.is_none() {
            if !comes_back && self.policy_of(s) == Policy::Reject && holders != 0 {
                let entries = &state.user.entries;
                let lingers = |o: usize| entries[o].is_some_and(|it| it.mark == Mark::Lingering);
                if (0..SESSIONS).all(|o| !has(holders, o) || lingers(o)) {
                    state.wrong = Some(Wrong::LockedOut);
                }
                let mut held_by = (0..SESSIONS).filter(|&o| has(holders, o));
                if !state.data_lost && held_by.all(|o| self.has_ended(state, o)) {
                    state.wrong = Some(Wrong::HeldOff);
                }
                if is_awaited {
                    state.sessions[s].phase = Phase::Taken(holders);
                }
                return;
            }
            let rank = self.next_rank(state);
            state.user.entries[s] = Some(Entry {
                rank,
                mark: Mark::Live,
            });
            if !self.rules.claim_by_owner {
                self.mark_outranked(state, s, rank, predecessors);
            }
        }
        if is_awaited {
            let session = &mut state.sessions[s];
            session.rank = state.user.entries[s].map_or(0, |entry| entry.rank);
            session.predecessors = predecessors;
            session.to_claim =
                predecessors != 0 || others != 0 && self.policy_of(s) == Policy::KickOld;
            session.phase = Phase::Joining;
        }
    }

    /// True if the client of a session is gone, and its connector has said so.
    fn has_ended(&self, state: &State, s: usize) -> bool {
        let is_unsaid = Self::in_flight(
            state,
            |m| matches!(m, Message::Linger { session } if usize::from(*session) == s),
        );
        let lingers = state.sessions[s].phase == Phase::Lingering && !is_unsaid;
        lingers || state.stopped[self.home(s)]
    }

    fn mark_outranked(&self, state: &mut State, s: usize, rank: u8, named: u8) {
        for o in (0..SESSIONS).filter(|&o| o != s) {
            let Some(entry) = state.user.entries[o] else {
                continue;
            };
            let wins = self.wins(s, rank, named, o, entry)
                || !self.rules.ranks_compared && self.policy != Policy::Allow;
            if wins && entry.mark != Mark::Superseded {
                self.supersede(state, o);
            }
        }
    }

    fn deliver_claim(&self, state: &mut State, s: usize, rank: u8, named: u8) {
        if !self.is_admissible(state, s) {
            return;
        }
        if self.is_forbidden(state) {
            return;
        }
        let was = state.user.entries[s];
        let mut own = was.unwrap_or(Entry {
            rank,
            mark: Mark::Live,
        });
        if self.rules.own_rank {
            own.rank = rank;
        }
        if !self.rules.ranks_compared && self.policy != Policy::Allow {
            own.mark = Mark::Live;
        }
        if !self.rules.patient {
            let mut others = (0..SESSIONS).filter(|&o| o != s);
            let is_outranked = others.any(|o| {
                let entry = state.user.entries[o];
                entry.is_some_and(|entry| {
                    self.outranks(s, self.place(entry.rank, o), self.place(rank, s))
                })
            });
            if is_outranked {
                own.mark = Mark::Superseded;
            }
        }
        state.user.entries[s] = Some(own);
        if own.mark == Mark::Live || !self.rules.late_claim_marks_nobody {
            self.mark_outranked(state, s, rank, named);
        }
    }

    // ---- scripts of a channel's slot ----

    /// Appends onJoin or onLeave if the user has come or gone.
    fn settle_log(channel: &mut ChannelSlot, was_there: bool) {
        let is_there = channel.members.contains(&true);
        if is_there != was_there {
            channel.broken_log |= channel.joined == is_there;
            channel.joined = is_there;
        }
    }

    fn deliver_join(&self, state: &mut State, message: Message, is_answered: bool) {
        let Message::Join {
            session,
            channel,
            replaces,
        } = message
        else {
            return;
        };
        let (s, c) = (usize::from(session), usize::from(channel));
        let i = self.home(s);
        let slot = &mut state.channels[c];
        if slot.dead[i] && self.rules.tombstone {
            state.told_dead[i] |= state.process[i] != Process::Gone;
            return;
        }
        if slot.left[s] {
            let membership = &mut state.sessions[s].memberships[c];
            if is_answered && self.rules.stale_closes {
                membership.stage = match membership.stage {
                    Stage::Asked | Stage::In => Stage::Stale,
                    Stage::Lingering { .. } => Stage::Lingering { repaired: false },
                    stage => stage,
                };
            }
            return;
        }
        let was_there = slot.members.contains(&true);
        let rank = state.sessions[s].rank;
        for o in (0..SESSIONS).filter(|&o| o != s && has(replaces, o)) {
            if slot.members[o] && state.let_in[o] > rank && rank > 0 && !state.data_lost {
                state.wrong = Some(Wrong::Overtaken);
            }
            slot.members[o] = false;
            slot.left[o] |= self.rules.replaced_fence;
        }
        let is_replaced =
            |o: usize| slot.members[o] && has(state.sessions[o].memberships[c].replaces, s);
        if !slot.members[s] && !state.data_lost && (0..SESSIONS).any(is_replaced) {
            state.wrong = Some(Wrong::CountedTwice);
        }
        slot.members[s] = true;
        Self::settle_log(slot, was_there);
        let membership = &mut state.sessions[s].memberships[c];
        if is_answered && membership.stage == Stage::Asked {
            membership.stage = Stage::In;
        }
    }

    fn deliver_leave(&self, state: &mut State, message: Message, is_answered: bool) {
        let Message::Leave {
            session,
            channel,
            fence,
        } = message
        else {
            return;
        };
        let (s, c) = (usize::from(session), usize::from(channel));
        let slot = &mut state.channels[c];
        let was_there = slot.members.contains(&true);
        slot.members[s] = false;
        slot.left[s] |= fence;
        Self::settle_log(slot, was_there);
        // If the leave is fenced, the join may not have been answered, so nobody believed that the session was there.
        let has_gone = was_there && !slot.members.contains(&true) && !fence;
        if has_gone && self.is_flap(state, s, c) {
            state.wrong = Some(Wrong::Flapped);
        }
        let membership = &mut state.sessions[s].memberships[c];
        if is_answered && membership.stage == Stage::Leaving {
            membership.stage = Stage::None;
        }
    }

    /// True if a user is announced as gone although its client has come back: its next session is about to join, and
    /// nothing else has happened.
    fn is_flap(&self, state: &State, s: usize, c: usize) -> bool {
        let is_calm = !state.data_lost && !state.has_frozen;
        let was_replaced = state.sessions[s].closed == Closed::Replaced && state.let_in[s] > 0;
        is_calm && was_replaced && self.is_awaited(state, s, c)
    }

    /// True if a newer session of the same client is about to join a channel.
    fn is_awaited(&self, state: &State, s: usize, c: usize) -> bool {
        self.cast().any(|(o, seat)| {
            let session = &state.sessions[o];
            let membership = &session.memberships[c];
            let is_on_its_way = !membership.begun || membership.stage == Stage::Asked;
            self.is_of_same_client(s, o)
                && state.process[seat.incarnation] == Process::Up
                && session.is_open()
                && matches!(session.phase, Phase::Joining | Phase::In)
                && is_on_its_way
                && state.user.entries[o].is_some_and(|entry| entry.mark == Mark::Live)
        })
    }

    fn deliver(&self, state: &mut State, message: Message, is_answered: bool) {
        match message {
            Message::Login { session, reap } => {
                self.deliver_login(state, usize::from(session), reap, is_answered);
            }
            Message::Claim {
                session,
                rank,
                named,
            } => self.deliver_claim(state, usize::from(session), rank, named),
            Message::Linger { session } => {
                let entry = &mut state.user.entries[usize::from(session)];
                if let Some(entry) = entry.as_mut().filter(|it| it.mark == Mark::Live) {
                    entry.mark = Mark::Lingering;
                }
            }
            Message::Close { session, fence } => {
                let s = usize::from(session);
                if self.rules.close_own {
                    state.user.entries[s] = None;
                } else {
                    state.user.entries = Default::default();
                }
                state.user.closed[s] |= fence && self.rules.closed_fence;
                if is_answered && state.sessions[s].phase == Phase::Closing {
                    state.sessions[s].phase = Phase::Over;
                }
            }
            Message::Block => self.deliver_block(state, is_answered),
            Message::CloseAll { incarnation } => {
                self.deliver_close_all(state, usize::from(incarnation), is_answered);
            }
            Message::ReapUser { incarnation } => {
                self.reap(&mut state.user, usize::from(incarnation));
            }
            Message::Kick { session } => {
                let s = usize::from(session);
                // The subscription of a connector that is frozen was cut: the message is lost.
                if state.process[self.home(s)] == Process::Up && state.sessions[s].is_known() {
                    state.sessions[s].close(Closed::Kicked);
                }
            }
            Message::Join { .. } => self.deliver_join(state, message, is_answered),
            Message::Leave { .. } => self.deliver_leave(state, message, is_answered),
            Message::Reap {
                incarnation,
                channel,
            } => {
                let i = usize::from(incarnation);
                let slot = &mut state.channels[usize::from(channel)];
                let was_there = slot.members.contains(&true);
                slot.dead[i] = true;
                for (s, seat) in self.cast() {
                    slot.members[s] &= seat.incarnation != i;
                }
                Self::settle_log(slot, was_there);
            }
        }
    }

    // ---- connectors ----

    /// Why a session whose entry is marked gives way.
    fn reason(&self, state: &State, s: usize) -> Option<Closed> {
        let own = state.user.entries[s].filter(|entry| entry.mark == Mark::Superseded)?;
        let by_own_client = (0..SESSIONS).any(|o| {
            let entry = state.user.entries[o];
            self.is_of_same_client(s, o)
                && entry.is_some_and(|entry| self.place(entry.rank, o) > self.place(own.rank, s))
        });
        Some(match self.policy_of(s) {
            _ if by_own_client => Closed::Replaced,
            Policy::KickOld => Closed::Kicked,
            Policy::Reject | Policy::Allow => Closed::Displaced,
        })
    }

    /// Closes a socket for good. That is right only if another session was let in that stays.
    fn give_way(&self, state: &mut State, s: usize, how: Closed) {
        if !state.sessions[s].is_open() {
            return;
        }
        let rank = state.user.entries[s].map_or(state.sessions[s].rank, |entry| entry.rank);
        let was_let_in = |o: usize| {
            let its = state.let_in[o];
            its > 0 && self.place(its, o) > self.place(rank, s)
        };
        let is_justified = match how {
            // Under this policy the client may be told either reason.
            Closed::Kicked | Closed::Replaced if self.policy == Policy::KickOld => {
                (0..SESSIONS).any(|o| o != s && was_let_in(o))
            }
            Closed::Kicked => false,
            Closed::Replaced => {
                (0..SESSIONS).any(|o| self.is_of_same_client(s, o) && was_let_in(o))
            }
            Closed::No | Closed::Gone | Closed::Displaced | Closed::Blocked => true,
        };
        if !is_justified && !state.data_lost && self.rules.one_policy {
            state.wrong = Some(Wrong::Unjustified);
        }
        state.sessions[s].close(how);
    }

    /// What a session of this connector claims, if it may.
    fn claim(&self, state: &State, s: usize) -> Option<Message> {
        let session = &state.sessions[s];
        let is_over = matches!(session.phase, Phase::Closing | Phase::Over);
        let is_silent = self.rules.lingering_claims_nothing && session.lingers
            || self.rules.failed_claims_nothing && session.undone
            || self.rules.repair_waits_for_join && session.phase == Phase::Joining;
        let has_client = session.is_open() || session.lingers;
        (session.rank > 0 && !is_over && !is_silent && has_client).then_some(Message::Claim {
            session: s as u8,
            rank: session.rank,
            named: session.predecessors,
        })
    }

    fn in_flight(state: &State, is_it: impl Fn(&Message) -> bool) -> bool {
        state.network.iter().any(is_it)
    }

    fn session_steps(&self, state: &State, out: &mut Steps<Self>) {
        for (s, seat) in self.cast() {
            let i = seat.incarnation;
            let mut push = |kind, step, change: &dyn Fn(&mut State)| {
                let mut next = state.clone();
                change(&mut next);
                out.push((kind, step, next));
            };
            let session = state.sessions[s];
            let is_up = state.process[i] == Process::Up;
            let is_next = (0..s).all(|o| state.sessions[o].connected || self.cast[o].is_none());
            if !session.connected && is_up && is_next {
                push(Chance, Step::ClientConnects(s), &|n| {
                    n.sessions[s].connected = true;
                });
            }
            if session.is_open() {
                push(Chance, Step::ClientCloses(s), &|n| {
                    n.sessions[s].close(Closed::Gone);
                });
            }
            if !is_up {
                continue;
            }
            self.phase_steps(state, s, &mut push);
            if self.rules.reconcile {
                self.user_repairs(state, s, &mut push);
            }
            for c in 0..self.channels {
                self.channel_steps(state, s, c, &mut push);
            }
        }
    }

    fn phase_steps(
        &self,
        state: &State,
        s: usize,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let session = state.sessions[s];
        let is_open = session.is_open();
        let login = |reap| Message::Login {
            session: s as u8,
            reap,
        };
        let login_flies = Self::in_flight(
            state,
            |m| matches!(m, Message::Login { session, .. } if usize::from(*session) == s),
        );
        let fails = |n: &mut State| self.fail(n, s);
        match session.phase {
            Phase::Out => {
                if is_open && !state.lease_dead[self.home(s)] {
                    push(Duty, Step::SendLogin(s), &|n| {
                        n.sessions[s].phase = Phase::LoggingIn;
                        n.network.push(login(0));
                    });
                }
            }
            Phase::LoggingIn | Phase::Joining => {
                if !is_open {
                    push(Duty, Step::LoginFails(s), &fails);
                } else if state.budget.give_up > 0 {
                    push(Chance, Step::LoginFails(s), &|n| {
                        n.budget.give_up -= 1;
                        fails(n);
                    });
                }
                if session.phase == Phase::LoggingIn && !login_flies {
                    push(Duty, Step::SendLoginAgain(s), &|n| {
                        n.sessions[s].fence = true;
                        n.network.push(login(0));
                    });
                }
                if session.phase == Phase::Joining && session.to_claim && is_open {
                    let claims_early = !self.rules.claim_after_join;
                    if claims_early {
                        push(Duty, Step::ClaimEarly(s), &|n| Self::send_claim(n, s));
                    }
                }
                let has_joined =
                    self.channels == 0 || session.memberships[self.home_of(s)].stage == Stage::In;
                if session.phase == Phase::Joining && has_joined {
                    push(Duty, Step::LetIn(s), &|n| {
                        n.sessions[s].phase = Phase::In;
                        if is_open {
                            n.let_in[s] = session.rank;
                            if session.to_claim {
                                Self::send_claim(n, s);
                            }
                        }
                    });
                }
            }
            Phase::Taken(holders) => push(Duty, Step::LookAtHolders(s), &|n| {
                let holds = |&(o, _): &(usize, Seat)| has(holders, o);
                let dead: u8 = (self.cast().filter(holds))
                    .filter(|(_, seat)| n.lease_dead[seat.incarnation])
                    .map(|(o, _)| bit(o))
                    .sum();
                if dead != 0 && self.rules.holder_checked {
                    n.sessions[s].phase = Phase::LoggingIn;
                    n.network.push(login(dead));
                    return;
                }
                if dead == holders {
                    n.wrong = Some(Wrong::LockedOut);
                }
                // The client may try again: that is another session.
                n.sessions[s].close(Closed::Gone);
                n.sessions[s].phase = Self::after_refusal(n, s);
            }),
            Phase::In => {
                if !is_open {
                    push(Duty, Step::Ends(s), &|n| self.end(n, s));
                }
            }
            Phase::Lingering => {
                // One that was replaced lingers for longer than its client takes to join again.
                let is_awaited = session.closed == Closed::Replaced
                    && (0..self.channels).any(|c| self.is_awaited(state, s, c));
                if !is_awaited {
                    push(Duty, Step::GraceEnds(s), &|n| {
                        let session = &mut n.sessions[s];
                        session.phase = Phase::Leaving;
                        for membership in &mut session.memberships {
                            if membership.stage != Stage::None {
                                membership.stage = Stage::Leaving;
                            }
                        }
                    });
                }
            }
            Phase::Leaving | Phase::Closing => {
                let has_left = (session.memberships.iter()).all(|it| it.stage == Stage::None);
                let close_flies = Self::in_flight(
                    state,
                    |m| matches!(m, Message::Close { session, .. } if usize::from(*session) == s),
                );
                if has_left && !close_flies {
                    push(Duty, Step::SendClose(s), &|n| {
                        n.sessions[s].phase = Phase::Closing;
                        n.network.push(Message::Close {
                            session: s as u8,
                            fence: session.fence,
                        });
                    });
                }
            }
            Phase::Over => {}
        }
    }

    /// What a session does whose login was refused.
    fn after_refusal(state: &State, s: usize) -> Phase {
        if state.sessions[s].fence {
            Phase::Closing
        } else {
            Phase::Over
        }
    }

    fn send_claim(state: &mut State, s: usize) {
        let session = &mut state.sessions[s];
        session.to_claim = false;
        session.fence = true;
        let (rank, named) = (session.rank, session.predecessors);
        state.network.push(Message::Claim {
            session: s as u8,
            rank,
            named,
        });
    }

    /// A login or its join did not work: what was begun is undone at once.
    fn fail(&self, state: &mut State, s: usize) {
        let session = &mut state.sessions[s];
        session.undone = true;
        session.fence |= session.phase == Phase::LoggingIn;
        session.phase = Phase::Leaving;
        for membership in &mut session.memberships {
            Self::begin_leaving(membership);
        }
    }

    fn begin_leaving(membership: &mut Membership) {
        match membership.stage {
            Stage::None | Stage::Leaving => {}
            // A join that was refused has done nothing.
            Stage::Stale => membership.stage = Stage::None,
            Stage::Asked => {
                membership.fence = true;
                membership.stage = Stage::Leaving;
            }
            Stage::In | Stage::Lingering { .. } => membership.stage = Stage::Leaving,
        }
    }

    /// The client of a session is gone.
    fn end(&self, state: &mut State, s: usize) {
        let session = &mut state.sessions[s];
        let is_replaced = session.closed == Closed::Replaced;
        let lingers = self.grace || is_replaced && self.rules.replaced_lingers;
        let mut is_somewhere = false;
        for membership in &mut session.memberships {
            if membership.stage == Stage::In && lingers {
                membership.stage = Stage::Lingering { repaired: true };
                is_somewhere = true;
            } else {
                Self::begin_leaving(membership);
            }
        }
        if !is_somewhere {
            session.phase = Phase::Leaving;
            return;
        }
        session.phase = Phase::Lingering;
        session.lingers = true;
        if !is_replaced {
            let session = s as u8;
            state.network.push(Message::Linger { session });
        }
    }

    /// What the reconciler finds in the user's slot.
    fn user_repairs(
        &self,
        state: &State,
        s: usize,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let session = state.sessions[s];
        let own = state.user.entries[s];
        let flies = Self::in_flight(state, |m| match *m {
            Message::Login { session, .. }
            | Message::Claim { session, .. }
            | Message::Linger { session }
            | Message::Close { session, .. } => usize::from(session) == s,
            _ => false,
        });
        if !session.is_known() {
            if session.phase == Phase::Over && own.is_some() && !flies {
                push(Duty, Step::RepairClose(s), &|n| {
                    n.network.push(Message::Close {
                        session: s as u8,
                        fence: true,
                    });
                });
            }
            return;
        }
        if state.user.blocked && self.rules.block_reconciled {
            if session.is_open() && !session.undone {
                push(Duty, Step::ClosesAsBlocked(s), &|n| {
                    n.sessions[s].close(Closed::Blocked);
                });
            }
            return;
        }
        if let Some(how) = self.reason(state, s) {
            if session.is_open() && !session.undone {
                push(Duty, Step::GivesWayAsMarked(s), &|n| {
                    self.give_way(n, s, how);
                });
            }
            return;
        }
        let is_over = matches!(session.phase, Phase::Closing | Phase::Over);
        if session.lingers && self.rules.lingering_claims_nothing {
            let is_live = own.is_some_and(|own| own.mark == Mark::Live);
            if is_live && !is_over && !flies {
                push(Duty, Step::RepairLinger(s), &|n| {
                    n.network.push(Message::Linger { session: s as u8 });
                });
            }
            return;
        }
        let is_entered = own.is_some_and(|own| own.rank == session.rank || !self.rules.own_rank);
        let is_unmarked = |o: usize| {
            let entry = state.user.entries[o].filter(|entry| entry.mark != Mark::Superseded);
            o != s
                && entry
                    .is_some_and(|entry| self.wins(s, session.rank, session.predecessors, o, entry))
        };
        let differs = !is_entered || (0..SESSIONS).any(is_unmarked);
        if let Some(claim) = self.claim(state, s).filter(|_| differs && !flies) {
            push(Duty, Step::RepairClaim(s), &|n| {
                n.sessions[s].fence = true;
                n.network.push(claim);
            });
        }
    }

    fn channel_steps(
        &self,
        state: &State,
        s: usize,
        c: usize,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let session = state.sessions[s];
        let membership = session.memberships[c];
        let is_listed = state.channels[c].members[s];
        let flies = Self::in_flight(state, |m| match *m {
            Message::Join {
                session, channel, ..
            }
            | Message::Leave {
                session, channel, ..
            } => (usize::from(session), usize::from(channel)) == (s, c),
            _ => false,
        });
        let leave_flies = Self::in_flight(state, |m| {
            matches!(*m, Message::Leave { session, channel, .. }
                if (usize::from(session), usize::from(channel)) == (s, c))
        });
        let join = |replaces| Message::Join {
            session: s as u8,
            channel: c as u8,
            replaces,
        };
        let is_unknown =
            membership.stage == Stage::None && (membership.begun || session.phase == Phase::Over);
        match membership.stage {
            Stage::None => {
                let may_begin = if c == self.home_of(s) {
                    session.phase == Phase::Joining
                } else {
                    session.phase == Phase::In && session.is_open()
                };
                if may_begin && !membership.begun {
                    push(Duty, Step::SendJoin(s, c), &|n| {
                        // A client that is gone takes nobody's place.
                        let replaces = if session.is_open() {
                            session.predecessors
                        } else {
                            0
                        };
                        n.sessions[s].memberships[c] = Membership {
                            stage: Stage::Asked,
                            replaces,
                            fence: false,
                            begun: true,
                        };
                        n.network.push(join(replaces));
                    });
                }
            }
            Stage::Asked if !flies => push(Duty, Step::SendJoinAgain(s, c), &|n| {
                n.sessions[s].memberships[c].fence = true;
                n.network.push(join(membership.replaces));
            }),
            Stage::In | Stage::Lingering { repaired: true }
                if self.rules.reconcile && !is_listed && !flies =>
            {
                push(Duty, Step::RepairJoin(s, c), &|n| {
                    n.sessions[s].memberships[c].fence = true;
                    n.network.push(join(membership.replaces));
                });
            }
            Stage::Stale => push(Duty, Step::ClosesAsStale(s, c), &|n| {
                let how = self.reason(n, s).unwrap_or(Closed::Displaced);
                self.give_way(n, s, how);
                n.sessions[s].memberships[c].stage = Stage::None;
                // A login whose join was refused has failed.
                if n.sessions[s].phase == Phase::Joining {
                    self.fail(n, s);
                }
            }),
            Stage::Leaving if !leave_flies => push(Duty, Step::SendLeave(s, c), &|n| {
                n.network.push(Message::Leave {
                    session: s as u8,
                    channel: c as u8,
                    fence: membership.fence,
                });
            }),
            _ => {}
        }
        if self.rules.reconcile && is_unknown && is_listed && !flies {
            push(Duty, Step::RepairLeave(s, c), &|n| {
                n.network.push(Message::Leave {
                    session: s as u8,
                    channel: c as u8,
                    fence: true,
                });
            });
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
            if state.budget.lost_answer > 0 {
                let mut next = dropped.clone();
                next.budget.lost_answer -= 1;
                self.deliver(&mut next, message, false);
                out.push((Chance, Step::LoseAnswer(message), next));
            }
            if state.budget.drop > 0 {
                dropped.budget.drop -= 1;
                if let Message::CloseAll { incarnation } = message {
                    Self::is_unanswered(&mut dropped, usize::from(incarnation));
                }
                out.push((Chance, Step::Drop(message), dropped));
            }
            if state.budget.duplicate > 0 {
                let mut next = state.clone();
                next.budget.duplicate -= 1;
                match message {
                    Message::Login { session, .. } | Message::Claim { session, .. } => {
                        next.sessions[usize::from(session)].fence = true;
                    }
                    Message::Join {
                        session, channel, ..
                    } => {
                        let memberships = &mut next.sessions[usize::from(session)].memberships;
                        memberships[usize::from(channel)].fence = true;
                    }
                    _ => {}
                }
                next.network.push(message);
                out.push((Chance, Step::Duplicate(message), next));
            }
        }
    }

    fn incarnation_steps(&self, state: &State, out: &mut Steps<Self>) {
        for i in 0..INCARNATIONS {
            if !self.cast().any(|(_, seat)| seat.incarnation == i) {
                continue;
            }
            let mut push = |kind, step, change: &dyn Fn(&mut State)| {
                let mut next = state.clone();
                change(&mut next);
                out.push((kind, step, next));
            };
            let (process, is_dead) = (state.process[i], state.lease_dead[i]);
            match process {
                Process::Up => {
                    if state.budget.freeze > 0 {
                        push(Chance, Step::Freeze(i), &|n| {
                            n.budget.freeze -= 1;
                            n.has_frozen = true;
                            n.process[i] = Process::Frozen;
                        });
                    }
                    if state.told_dead[i] {
                        push(Duty, Step::CloseSockets(i), &|n| self.lose_process(n, i));
                    } else if is_dead {
                        push(Duty, Step::Renew(i), &|n| n.told_dead[i] = true);
                    }
                }
                Process::Frozen => {
                    push(Duty, Step::Thaw(i), &|n| n.process[i] = Process::Up);
                }
                Process::Gone => {}
            }
            if process != Process::Gone && state.budget.crash > 0 {
                push(Chance, Step::Crash(i), &|n| {
                    n.budget.crash -= 1;
                    self.lose_process(n, i);
                });
            }
            if self.may_stop(state, i) {
                push(Chance, Step::Stop(i), &|n| {
                    n.budget.stop -= 1;
                    n.stopped[i] = true;
                    self.lose_process(n, i);
                });
            }
            if !is_dead {
                let declare = |n: &mut State| n.lease_dead[i] = true;
                match process {
                    Process::Gone => push(Duty, Step::DeclareDead(i), &declare),
                    Process::Frozen => push(Chance, Step::DeclareDead(i), &declare),
                    Process::Up if state.budget.starve > 0 => {
                        push(Chance, Step::DeclareDead(i), &|n| {
                            n.budget.starve -= 1;
                            declare(n);
                        });
                    }
                    Process::Up => {}
                }
                continue;
            }
            let mine = || self.cast().filter(|(_, seat)| seat.incarnation == i);
            let reap = Message::ReapUser {
                incarnation: i as u8,
            };
            let holds = mine().any(|(s, _)| state.user.entries[s].is_some());
            // Without the tombstone, the reaper cannot know that something may come later.
            let is_seen = self.rules.tombstone;
            if (holds && is_seen || !state.user.dead[i]) && !state.network.contains(&reap) {
                push(Duty, Step::ReapUser(i), &|n| n.network.push(reap));
            }
            for c in 0..self.channels {
                let reap = Message::Reap {
                    incarnation: i as u8,
                    channel: c as u8,
                };
                let slot = &state.channels[c];
                let holds = mine().any(|(s, _)| slot.members[s]);
                if (holds && is_seen || !slot.dead[i]) && !state.network.contains(&reap) {
                    push(Duty, Step::Reap(i, c), &|n| n.network.push(reap));
                }
            }
        }
    }

    /// A connector that stops lets its sessions linger, and says so of each of them, before its process ends.
    fn may_stop(&self, state: &State, incarnation: usize) -> bool {
        let mut own = self.cast().filter(|(_, it)| it.incarnation == incarnation);
        let is_up = state.process[incarnation] == Process::Up && !state.lease_dead[incarnation];
        is_up
            && self.grace
            && state.budget.stop > 0
            && own.all(|(s, _)| {
                let session = &state.sessions[s];
                let is_calm =
                    matches!(session.phase, Phase::Out | Phase::Over) && !session.is_open();
                is_calm || self.has_ended(state, s)
            })
    }

    fn lose_process(&self, state: &mut State, incarnation: usize) {
        state.process[incarnation] = Process::Gone;
        state.told_dead[incarnation] = false;
        for (s, seat) in self.cast() {
            if seat.incarnation == incarnation {
                let session = &mut state.sessions[s];
                session.connected = true;
                session.close(Closed::Gone);
                *session = Session {
                    connected: true,
                    closed: session.closed,
                    phase: Phase::Over,
                    ..ABSENT
                };
            }
        }
    }

    fn loss_steps(&self, state: &State, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        match state.window {
            None if state.budget.rollback > 0 => {
                let mut windows = vec![Window::User(state.user)];
                let channels = 0..self.channels;
                windows.extend(channels.map(|c| Window::Channel(c, state.channels[c])));
                for window in windows {
                    push(Chance, Step::OpenWindow(window), &|n| {
                        n.budget.rollback -= 1;
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
                        Window::User(was) => n.user = was,
                        Window::Channel(c, was) => n.channels[c] = was,
                    }
                });
            }
        }
        if state.budget.flush > 0 {
            push(Chance, Step::FlushAll, &|n| {
                n.budget.flush -= 1;
                n.window = None;
                n.data_lost = true;
                n.user = UserSlot::default();
                n.channels = Default::default();
                // A lease that is missing is taken again, or comes back until it is declared dead.
                n.lease_dead = Default::default();
            });
        }
    }
}

impl Model for Logins {
    type State = State;
    type Step = Step;

    fn init(&self) -> State {
        State {
            process: [Process::Up; INCARNATIONS],
            lease_dead: Default::default(),
            told_dead: Default::default(),
            sessions: [ABSENT; SESSIONS],
            user: UserSlot::default(),
            channels: Default::default(),
            network: Vec::new(),
            window: None,
            chat: blocking::Chat::default(),
            clock: 0,
            budget: self.budget,
            let_in: Default::default(),
            data_lost: false,
            has_frozen: false,
            stopped: Default::default(),
            wrong: None,
        }
    }

    fn steps(&self, state: &State, out: &mut Steps<Self>) {
        self.session_steps(state, out);
        self.network_steps(state, out);
        self.incarnation_steps(state, out);
        self.loss_steps(state, out);
        self.blocking_steps(state, &mut |kind, step, change| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        });
        for (_, _, next) in out.iter_mut() {
            next.network.sort_unstable();
            if next.channels.iter().any(|channel| channel.broken_log) {
                next.wrong = Some(Wrong::Broken);
            }
        }
    }

    fn always(&self, state: &State) -> Result<(), &'static str> {
        match state.wrong {
            Some(Wrong::LockedOut) => {
                return Err("a login was refused in favour of sessions that are dead or linger");
            }
            Some(Wrong::HeldOff) => {
                return Err(
                    "a login was refused although every other session has ended or lingers",
                );
            }
            Some(Wrong::Unjustified) => {
                return Err("a session was closed for good, and nobody had come in its place");
            }
            Some(Wrong::Flapped) => {
                return Err("a user was announced as gone whose client had come back");
            }
            Some(Wrong::Overtaken) => {
                return Err("a session lost its place to an older one of the same client");
            }
            Some(Wrong::CountedTwice) => {
                return Err("a session whose place was taken over is a member again");
            }
            Some(Wrong::Broken) => return Err("two onJoin or two onLeave of a user in a row"),
            None => {}
        }
        for channel in &state.channels {
            if channel.joined != channel.members.contains(&true) {
                return Err("the log disagrees with the members");
            }
        }
        if !self.is_as_answered(state) {
            return Err("a session of a blocked user is there, and the caller was told otherwise");
        }
        let is_lossless = !state.data_lost && self.rules.one_policy;
        for (s, _) in self.cast() {
            let has_other_of_client = (0..SESSIONS).any(|o| self.is_of_same_client(s, o));
            let closed = state.sessions[s].closed;
            let is_driven_out = matches!(closed, Closed::Displaced | Closed::Kicked);
            let may_be = self.policy == Policy::KickOld
                || self.policy == Policy::Reject && !is_lossless
                || has_other_of_client;
            if is_driven_out && !may_be {
                return Err("a session was driven out without reason");
            }
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), &'static str> {
        let is_live = |s: usize| state.sessions[s].phase == Phase::In;
        for (s, _) in self.cast() {
            match (is_live(s), state.user.entries[s]) {
                (true, None) => return Err("a live session is missing from the registry"),
                (false, Some(_)) => return Err("a stale entry is left in the registry"),
                _ => {}
            }
            for c in 0..self.channels {
                match (is_live(s), state.channels[c].members[s]) {
                    (true, false) => return Err("a live session is missing from its channel"),
                    (false, true) => return Err("a session that is over is a member"),
                    _ => {}
                }
            }
        }
        let live = || self.cast().map(|(s, _)| s).filter(|&s| is_live(s));
        if state.user.blocked && live().count() > 0 {
            return Err("a blocked user has a live session");
        }
        if self.policy != Policy::Allow && live().count() > 1 {
            return Err("two live sessions of one user");
        }
        if live().any(|s| live().any(|o| self.is_of_same_client(s, o))) {
            return Err("two live sessions of one client");
        }
        let was_let_in = || (0..SESSIONS).filter(|&s| state.let_in[s] > 0);
        let is_final =
            |s: usize| matches!(state.sessions[s].closed, Closed::Kicked | Closed::Replaced);
        if live().count() == 0 && was_let_in().count() > 0 && was_let_in().all(is_final) {
            return Err("the sessions have driven each other out for good");
        }
        // Without a loss of data this also holds for sessions whose clients come back. They would take turns for ever.
        let has_gone = |s: usize| {
            let session = state.sessions[s];
            matches!(session.closed, Closed::Gone | Closed::Blocked) || session.undone
        };
        let is_calm = !state.data_lost && !(0..SESSIONS).any(has_gone);
        if is_calm && live().count() == 0 && was_let_in().count() > 0 {
            return Err("the sessions have driven each other out");
        }
        // The best of the sessions that were let in stays, unless its client or its process has gone.
        let has_other_of_client = |s: usize| (0..SESSIONS).any(|o| self.is_of_same_client(s, o));
        let best = match self.policy {
            Policy::KickOld => was_let_in().max_by_key(|&s| (state.let_in[s], s)),
            // Ranks alone do not order sessions of which two are of one client. After a loss of data, an older session of
            // another client stays, and so does the newer one of the two.
            Policy::Reject if was_let_in().any(has_other_of_client) => None,
            Policy::Reject => was_let_in().min_by_key(|&s| (state.let_in[s], s)),
            Policy::Allow => None,
        };
        // If a login of the same client took a session's place and then failed, the client is told to come back.
        let stays = |s: usize| match state.sessions[s].closed {
            Closed::Gone | Closed::Blocked => true,
            Closed::Displaced => has_other_of_client(s),
            Closed::No | Closed::Kicked | Closed::Replaced => is_live(s),
        };
        if self.rules.one_policy && best.is_some_and(|s| !stays(s)) {
            return Err("the session that should have stayed was closed");
        }
        Ok(())
    }
}
