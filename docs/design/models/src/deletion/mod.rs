//! The deletion of a channel.
//!
//! A deletion is an event in the log: it begins an epoch and ends all memberships. Connectors meet it when they read the log.
//! Meanwhile joins, leaves and repairs of the reconciler are under way, and a failover may lose the deletion again. One
//! channel, and connectors that live for ever: `membership.rs` has crashes, leases and deadlines.

mod connector;
mod store;

use crate::named::named;
use crate::search::{Kind, Model, Steps};
use Kind::{Chance, Duty};
use store::{Answer, Beginning, Position, Slot};

const CONNECTORS: usize = 2;
pub(crate) const SESSIONS: usize = 2;
const USERS: usize = 2;
/// Memberships of one session whose leaves have not landed. Nobody joins again while there are so many.
const PENDING: usize = 2;

named! {
    /// The rules under test. Each can be switched off to see what it is for.
    pub(crate) struct Rules: bool = true {
        /// A repair says when the membership began, and the store refuses it if it was deleted since.
        repair_says_when,
        /// A repair names the last deletion before the membership began, and is refused if the store knows another one; off: the
        /// offset where it began is compared with that of the deletion.
        by_name,
        /// A beginning is compared with the deletion only within one life of the channel.
        same_life,
        /// A repair that the store has accepted moves the beginning to where the answer says.
        repair_moves_beginning,
        /// A repair that is refused because of a deletion ends the membership.
        refusal_ends,
        /// A connector that meets the deletion ends the memberships that began before it.
        meeting_ends,
        /// The answer to a join is compared with the deletions that the connector has met meanwhile.
        answer_compared,
        /// Only with those that it has met since the join was sent; off: with the last one that it has ever met.
        met_since_sent,
        /// If the log does not know a connector's position, the deletion that it holds by then ends no membership there; off:
        /// it ends all of them.
        unknown_ends_nobody,
        /// A leave is sent for a membership that a deletion has ended.
        leave_sent,
        /// It leaves a tombstone if a copy of the join may be under way.
        leave_fenced,
        /// The reconciler compares the store with what the connector knows.
        reconcile,
        /// A deletion is remembered under its key.
        key,
        /// A deletion removes no tombstones.
        tombstones_stay,
    }
}

named! {
    /// How often each thing may happen.
    pub(crate) struct Budget: u8 = 0 {
        /// Different deletions, each with a key of its own.
        delete,
        /// A command is copied: a call that is repeated looks the same.
        duplicate,
        drop,
        /// A command takes effect, and its answer is lost.
        lost_answer,
        /// A session changes its mind: it leaves while its client is there, or joins again.
        change_mind,
        /// A join is given up because it took too long.
        give_up,
        /// Something is published.
        publish,
        /// The log is trimmed.
        trim,
        /// The server restarts and loses nothing: another lifetime.
        restart,
        /// The slot of the channel falls back to an earlier state.
        rollback,
        /// The slot loses everything. A failover after that may bring back what another server still has.
        flush,
    }
}

/// Connector and user of each session that takes part.
pub(crate) type Cast = [Option<(usize, usize)>; SESSIONS];

pub(crate) struct Deleting {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    pub(crate) cast: Cast,
    /// Sessions whose clients are gone stay members for a while. Their connector does not follow the channel for them.
    pub(crate) grace: bool,
}

/// What the model remembers of a membership to check it. The system does not know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Truth {
    /// The life of the channel in which it is or was listed; 0: its join has not landed.
    life: u8,
    /// The deletions in this life since its join landed, one bit for each.
    over: u8,
    /// Since its join was sent, there was a deletion, or its connector has met one.
    deleted: bool,
    /// The store has lost it, and has not got it back.
    lost: bool,
    /// The store has lost it once, or its connector has lost its place in the log. So its connector may not notice a deletion,
    /// and leaves it to the reconciler.
    unsure: bool,
}

/// A membership that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Current {
    op: u8,
    /// `None`: the join is not answered.
    began: Option<Beginning>,
    /// The offset of its join, as it is compared with deletions.
    joined: u8,
    /// The last deletion that the connector has met since the join was sent.
    met: u8,
    /// A copy of its join may be under way.
    copied: bool,
    /// The connector knows that a deletion has ended it.
    is_out: bool,
    /// The store has refused its repair.
    refused: bool,
    truth: Truth,
}

/// A membership that has ended, until its leave has landed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Ended {
    op: u8,
    leave: u8,
    fence: bool,
    /// It is not lingering: its leave is on its way.
    left: bool,
    /// `None`: it is not repaired.
    began: Option<Beginning>,
    truth: Truth,
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

/// A connector's place in the log, while it has sessions there that are connected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Hub {
    at: Position,
    /// The offset of the last deletion that it has met.
    met: u8,
    /// Which one that was. The system does not know it.
    deletion: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Message {
    Join {
        session: u8,
        op: u8,
        repair: Option<Beginning>,
        /// False: this is a copy, and nobody waits for its answer.
        awaited: bool,
    },
    Answer {
        session: u8,
        op: u8,
        answer: Answer,
    },
    Leave {
        session: u8,
        op: u8,
        fence: bool,
    },
    Delete {
        key: u8,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    slot: Slot,
    hubs: [Option<Hub>; CONNECTORS],
    sessions: [Session; SESSIONS],
    network: Vec<Message>,
    /// What the slot held when writes began that are not replicated.
    window: Option<Box<Slot>>,
    /// The last id of an epoch.
    ids: u8,
    budget: Budget,
    // What the model remembers to check it.
    deletions: u8,
    data_lost: bool,
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a trace shows the fields")]
pub(crate) enum Step {
    ClientOpens(usize),
    ClientCloses(usize),
    ChangesMind(usize),
    SendJoin(usize),
    SendJoinAgain(usize),
    GivesUp(usize),
    Ends(usize),
    DeletionEnds(usize),
    GraceEnds(usize),
    SendLeave(usize),
    RepairJoin(usize),
    LeaveGhost(usize),
    ReadLog(usize),
    SendDelete(u8),
    Deliver(Message),
    LoseAnswer(Message),
    Duplicate(Message),
    Drop(Message),
    Publish,
    Trim,
    Restart,
    OpenWindow,
    Failover,
    Replicated,
    Flush,
}

type Push<'a> = dyn FnMut(Kind, Step, &dyn Fn(&mut State)) + 'a;

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

    fn is_wanted(&self) -> bool {
        self.open == Some(true) && self.wants
    }

    fn end(&mut self, ended: Ended) {
        if let Some(free) = self.ended.iter_mut().find(|it| it.is_none()) {
            *free = Some(ended);
        }
    }

    fn current_with(&mut self, op: u8) -> Option<&mut Current> {
        self.current.as_mut().filter(|it| it.op == op)
    }

    fn ended_with(&mut self, op: u8) -> Option<&mut Ended> {
        self.ended.iter_mut().flatten().find(|it| it.op == op)
    }

    /// Every membership that its connector knows: its number, whether its join was sent, and the truth about it.
    fn truths(&mut self) -> impl Iterator<Item = (u8, &mut Truth)> {
        let current = self.current.iter_mut().map(|it| (it.op, &mut it.truth));
        let ended = self.ended.iter_mut().flatten();
        current.chain(ended.map(|it| (it.op, &mut it.truth)))
    }
}

impl Deleting {
    fn cast(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let cast = self.cast.iter().enumerate();
        cast.filter_map(|(s, it)| it.map(|(connector, _)| (s, connector)))
    }

    fn of(&self, connector: usize) -> impl Iterator<Item = usize> + '_ {
        let here = self.cast().filter(move |&(_, c)| c == connector);
        here.map(|(s, _)| s)
    }

    fn users(&self) -> store::Users {
        self.cast.map(|it| it.map_or(0, |(_, user)| user))
    }

    // ---- commands arrive ----

    fn deliver(&self, state: &mut State, message: Message, is_answered: bool) {
        match message {
            Message::Join {
                session,
                op,
                repair,
                awaited,
            } => {
                let answer = self.land_join(state, usize::from(session), op, repair);
                if awaited && is_answered {
                    state.network.push(Message::Answer {
                        session,
                        op,
                        answer,
                    });
                }
            }
            Message::Answer {
                session,
                op,
                answer,
            } => self.take_answer(state, usize::from(session), op, answer),
            Message::Leave { session, op, fence } => {
                let s = usize::from(session);
                let (slot, ids) = (&mut state.slot, &mut state.ids);
                slot.leave(s, op, fence, &self.users(), ids);
                if is_answered {
                    let mut ended = state.sessions[s].ended.iter_mut();
                    if let Some(landed) = ended.find(|it| it.is_some_and(|it| it.leave == op)) {
                        *landed = None;
                    }
                }
            }
            Message::Delete { key } => self.land_delete(state, key),
        }
    }

    fn land_join(&self, state: &mut State, s: usize, op: u8, repair: Option<Beginning>) -> Answer {
        let was = state.slot.members[s].map(|it| it.op);
        let (slot, ids) = (&mut state.slot, &mut state.ids);
        let answer = slot.join((s, op), repair, &self.users(), &self.rules, ids);
        let (life, deletion) = (state.slot.life, state.slot.deletion);
        let is_new = was.is_none_or(|was| was < op);
        let is_listed_anew = matches!(answer, Answer::Joined(_)) && is_new;
        for (its, truth) in state.sessions[s].truths() {
            if its != op || !is_listed_anew {
                continue;
            }
            let is_over = truth.life == life && truth.over & (1 << deletion) != 0;
            if repair.is_none() || truth.life != life {
                (truth.life, truth.over) = (life, 0);
            } else if deletion != 0 && is_over {
                state.wrong =
                    Some("the reconciler has brought back a member whom a deletion ended");
            }
            truth.lost = false;
        }
        if answer == Answer::Stale && state.sessions[s].current_with(op).is_some() {
            state.wrong = Some("a session that has not ended was told that it has left");
        }
        answer
    }

    fn land_delete(&self, state: &mut State, key: u8) {
        let Some(deletion) = state.slot.delete(key, &self.rules, &mut state.ids) else {
            return;
        };
        state.deletions += 1;
        state.slot.deletion = state.deletions;
        for session in &mut state.sessions {
            for (_, truth) in session.truths() {
                truth.deleted = true;
                if truth.life != 0 {
                    truth.over |= 1 << state.deletions;
                }
            }
        }
        if deletion.ends_new_ones {
            state.wrong = Some("a repeated deletion has ended memberships that began after it");
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
            let is_asked = matches!(
                message,
                Message::Join { awaited: true, .. } | Message::Leave { .. }
            );
            if state.budget.lost_answer > 0 && is_asked {
                let mut next = dropped.clone();
                next.budget.lost_answer -= 1;
                self.deliver(&mut next, message, false);
                out.push((Chance, Step::LoseAnswer(message), next));
            }
            if state.budget.drop > 0 && is_asked {
                let mut next = dropped.clone();
                next.budget.drop -= 1;
                out.push((Chance, Step::Drop(message), next));
            }
            if state.budget.duplicate > 0 && !matches!(message, Message::Answer { .. }) {
                let mut next = state.clone();
                next.budget.duplicate -= 1;
                next.network.push(Self::copy(&mut next.sessions, message));
                out.push((Chance, Step::Duplicate(message), next));
            }
        }
    }

    /// The sender of a join knows that there may be a copy.
    fn copy(sessions: &mut [Session; SESSIONS], message: Message) -> Message {
        let Message::Join {
            session,
            op,
            repair,
            ..
        } = message
        else {
            return message;
        };
        let its = &mut sessions[usize::from(session)];
        if let Some(current) = its.current_with(op) {
            current.copied = true;
        }
        if let Some(ended) = its.ended_with(op) {
            ended.fence = true;
        }
        Message::Join {
            session,
            op,
            repair,
            awaited: false,
        }
    }

    // ---- back ends and the world ----

    fn world_steps(&self, state: &State, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        let budget = state.budget;
        if budget.delete > 0 {
            push(Chance, Step::SendDelete(budget.delete), &|n| {
                n.budget.delete -= 1;
                n.network.push(Message::Delete { key: budget.delete });
            });
        }
        if budget.publish > 0 {
            push(Chance, Step::Publish, &|n| {
                n.budget.publish -= 1;
                n.slot.append(&mut n.ids);
            });
        }
        if budget.trim > 0 && state.slot.may_trim() {
            push(Chance, Step::Trim, &|n| {
                n.budget.trim -= 1;
                n.slot.trim();
            });
        }
        if budget.restart > 0 && state.slot.life != 0 {
            push(Chance, Step::Restart, &|n| {
                n.budget.restart -= 1;
                n.slot.restarted = true;
            });
        }
        if state.window.is_some() {
            push(Duty, Step::Replicated, &|n| n.window = None);
            push(Chance, Step::Failover, &|n| {
                let Some(was) = n.window.take() else { return };
                n.slot = *was;
                n.slot.restarted = true;
                Self::note_loss(n);
            });
        } else if budget.rollback > 0 {
            push(Chance, Step::OpenWindow, &|n| {
                n.budget.rollback -= 1;
                n.window = Some(Box::new(n.slot.clone()));
            });
        }
        if budget.flush > 0 {
            push(Chance, Step::Flush, &|n| {
                n.budget.flush -= 1;
                n.slot = Slot::default();
                Self::note_loss(n);
            });
        }
    }

    fn note_loss(state: &mut State) {
        state.data_lost = true;
        for (session, member) in state.sessions.iter_mut().zip(&state.slot.members) {
            for (op, truth) in session.truths() {
                truth.lost |= truth.life != 0 && member.is_none_or(|it| it.op != op);
                truth.unsure |= truth.lost;
            }
        }
    }
}

impl Model for Deleting {
    type State = State;
    type Step = Step;

    fn init(&self) -> State {
        State {
            slot: Slot::default(),
            hubs: [None; CONNECTORS],
            sessions: [OUT; SESSIONS],
            network: Vec::new(),
            window: None,
            ids: 0,
            budget: self.budget,
            deletions: 0,
            data_lost: false,
            wrong: None,
        }
    }

    fn steps(&self, state: &State, out: &mut Steps<Self>) {
        self.client_steps(state, out);
        self.connector_steps(state, out);
        self.network_steps(state, out);
        self.world_steps(state, out);
        for (_, _, next) in out.iter_mut() {
            next.network.sort_unstable();
        }
    }

    fn always(&self, state: &State) -> Result<(), &'static str> {
        if let Some(wrong) = state.wrong {
            return Err(wrong);
        }
        if state.slot.broken_log {
            return Err("two onJoin or two onLeave of a user in a row");
        }
        if !state.slot.agrees(&self.users()) {
            return Err("the log disagrees with the members");
        }
        for (s, _) in self.cast() {
            let (session, listed) = (state.sessions[s], state.slot.members[s]);
            if !state.data_lost && session.is_idle() && listed.is_some() {
                return Err("a session that is out is listed again");
            }
            let member = session.current.filter(|it| it.began.is_some());
            if member.is_some_and(|it| it.truth.over == 0 && !it.truth.lost) && listed.is_none() {
                return Err("a session that joined after the deletion is not listed");
            }
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), &'static str> {
        for (s, _) in self.cast() {
            let (session, listed) = (state.sessions[s], state.slot.members[s].is_some());
            match (session.is_wanted(), listed) {
                (true, false) => return Err("a live session is missing from its channel"),
                (false, true) => return Err("ghost: a session that is over is listed"),
                _ => {}
            }
            let truth = session.current.map(|it| it.truth).unwrap_or_default();
            let is_over = truth.over & (1 << state.slot.deletion) != 0;
            if listed && is_over && truth.life == state.slot.life && state.slot.deletion != 0 {
                return Err("a session that the deletion ended is a member");
            }
        }
        Ok(())
    }
}
