//! A chat that blocks the user: it writes the block, looks for sessions, and has them closed. The command to a connector may be
//! lost, and then the connector is named to the caller.

use super::{Closed, Kind, Logins, Message, Phase, Process, State, Step, bit, has};
use Kind::{Chance, Duty};

/// How far the chat has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Stage {
    /// Nobody has asked for a block.
    #[default]
    Calm,
    /// The block is to be written.
    Write,
    /// The entries of the user are to be read.
    Look,
    /// Connectors are asked to close the sessions.
    Ask,
    /// The caller has the answer.
    Answered,
}

/// The chat that blocks the user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Chat {
    stage: Stage,
    /// Incarnations whose answers are awaited.
    asked: u8,
    /// Incarnations that have not answered.
    unanswered: u8,
}

impl Logins {
    pub(super) fn blocking_steps(
        &self,
        state: &State,
        push: &mut impl FnMut(Kind, Step, &dyn Fn(&mut State)),
    ) {
        let (first, then) = if self.rules.block_before_look {
            (Stage::Write, Stage::Answered)
        } else {
            (Stage::Look, Stage::Write)
        };
        match state.chat.stage {
            Stage::Calm if state.budget.block > 0 => push(Chance, Step::BeginBlock, &|n| {
                n.budget.block -= 1;
                n.chat.stage = first;
            }),
            Stage::Write if !state.network.contains(&Message::Block) => {
                push(Duty, Step::SendBlock, &|n| n.network.push(Message::Block));
            }
            Stage::Look => push(Duty, Step::LookForSessions, &|n| {
                n.chat.stage = Stage::Ask;
                for (s, seat) in self.cast() {
                    let incarnation = seat.incarnation as u8;
                    if n.user.entries[s].is_some() && !has(n.chat.asked, seat.incarnation) {
                        n.chat.asked |= bit(seat.incarnation);
                        n.network.push(Message::CloseAll { incarnation });
                    }
                }
            }),
            Stage::Ask if state.chat.asked == 0 => {
                push(Duty, Step::GoOnAfterAnswers, &|n| n.chat.stage = then);
            }
            Stage::Calm | Stage::Write | Stage::Ask | Stage::Answered => {}
        }
    }

    pub(super) fn deliver_block(&self, state: &mut State, is_answered: bool) {
        state.user.blocked = true;
        if is_answered && state.chat.stage == Stage::Write {
            state.chat.stage = if self.rules.block_before_look {
                Stage::Look
            } else {
                Stage::Answered
            };
        }
    }

    pub(super) fn deliver_close_all(&self, state: &mut State, i: usize, is_answered: bool) {
        let is_heard = state.process[i] == Process::Up;
        for (s, seat) in self.cast() {
            let session = &mut state.sessions[s];
            let is_told = session.phase == Phase::In || self.rules.block_closes_logins;
            if is_heard && seat.incarnation == i && session.is_known() && is_told {
                session.close(Closed::Blocked);
            }
        }
        if is_heard && is_answered {
            state.chat.asked &= !bit(i);
        } else {
            Self::is_unanswered(state, i);
        }
    }

    /// The command to an incarnation, or its answer, is lost.
    pub(super) fn is_unanswered(state: &mut State, i: usize) {
        state.chat.unanswered |= state.chat.asked & bit(i);
        state.chat.asked &= !bit(i);
    }

    /// True if a login or claim is refused because the user is blocked.
    pub(super) fn is_forbidden(&self, state: &State) -> bool {
        self.rules.block_checked && state.user.blocked
    }

    /// The caller was told that all sessions are closed but those of connectors that were named.
    pub(super) fn is_as_answered(&self, state: &State) -> bool {
        let is_certain = state.chat.stage == Stage::Answered && !state.data_lost;
        let is_there = |s: usize| {
            let session = &state.sessions[s];
            session.is_open() && matches!(session.phase, Phase::Joining | Phase::In)
        };
        let is_excused =
            |i: usize| has(state.chat.unanswered, i) || state.lease_dead[i] || state.user.dead[i];
        let mut cast = self.cast();
        !is_certain || !cast.any(|(s, seat)| is_there(s) && !is_excused(seat.incarnation))
    }
}
