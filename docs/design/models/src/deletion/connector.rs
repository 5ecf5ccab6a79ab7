//! What connectors do: sessions that join and leave, the reading of the log, and the reconciler.

use super::store::{Answer, Beginning, Continuity};
use super::{
    Chance, Current, Deleting, Duty, Ended, Hub, Message, Push, State, Step, Steps, Truth,
};

/// Every deletion comes after this offset.
const BEFORE_ALL: u8 = 0;
/// Of a membership of which the connector does not know any more where it began. The reconciler finds out.
const UNKNOWN: u8 = u8::MAX;

impl Deleting {
    pub(super) fn client_steps(&self, state: &State, out: &mut Steps<Self>) {
        for (s, connector) in self.cast() {
            let session = state.sessions[s];
            let mut push = |kind, step, change: &dyn Fn(&mut State)| {
                let mut next = state.clone();
                change(&mut next);
                out.push((kind, step, next));
            };
            if session.open.is_none() {
                push(Chance, Step::ClientOpens(s), &|n| {
                    n.sessions[s].open = Some(true);
                });
            }
            if session.open == Some(true) {
                push(Chance, Step::ClientCloses(s), &|n| {
                    n.sessions[s].open = Some(false);
                });
                if state.budget.change_mind > 0 {
                    push(Chance, Step::ChangesMind(s), &|n| {
                        n.budget.change_mind -= 1;
                        n.sessions[s].wants ^= true;
                    });
                }
            }
            match session.current {
                Some(current) => self.current_steps(state, s, current, &mut push),
                None if session.is_wanted() && session.has_room() => {
                    push(Duty, Step::SendJoin(s), &|n| self.begin(n, s, connector));
                }
                None => {}
            }
            for k in 0..session.ended.len() {
                Self::ended_steps(state, s, k, &mut push);
            }
        }
    }

    /// The connector first follows the channel, and then sends the join.
    fn begin(&self, n: &mut State, s: usize, connector: usize) {
        if n.hubs[connector].is_none() {
            n.hubs[connector] = Some(Hub {
                at: n.slot.locate(&mut n.ids),
                met: 0,
                deletion: 0,
            });
        }
        let op = n.sessions[s].draw();
        n.sessions[s].current = Some(Current {
            op,
            began: None,
            joined: BEFORE_ALL,
            met: 0,
            copied: false,
            is_out: false,
            refused: false,
            truth: Truth::default(),
        });
        Self::send_join(n, s, op, None);
    }

    fn send_join(n: &mut State, s: usize, op: u8, repair: Option<Beginning>) {
        n.network.push(Message::Join {
            session: s as u8,
            op,
            repair,
            awaited: true,
        });
    }

    /// A join is on its way, or its answer.
    fn is_asked(state: &State, s: usize, op: u8) -> bool {
        state.network.iter().any(|m| match *m {
            Message::Join {
                session,
                op: its,
                awaited,
                ..
            } => awaited && (usize::from(session), its) == (s, op),
            Message::Answer {
                session, op: its, ..
            } => (usize::from(session), its) == (s, op),
            _ => false,
        })
    }

    fn current_steps(&self, state: &State, s: usize, current: Current, push: &mut Push<'_>) {
        let session = state.sessions[s];
        if current.began.is_none() && session.is_wanted() {
            if !Self::is_asked(state, s, current.op) {
                push(Duty, Step::SendJoinAgain(s), &|n| {
                    if let Some(it) = n.sessions[s].current_with(current.op) {
                        it.copied = true;
                    }
                    Self::send_join(n, s, current.op, None);
                });
            }
            if state.budget.give_up > 0 && session.has_room() {
                push(Chance, Step::GivesUp(s), &|n| {
                    n.budget.give_up -= 1;
                    self.end(n, s, current, true);
                });
            }
        }
        if !session.has_room() {
            return;
        }
        if !session.is_wanted() {
            // A leave that the client asked for does not wait for the grace. Neither does the end of a join that never worked.
            let lingers = self.grace && session.open == Some(false) && current.began.is_some();
            push(Duty, Step::Ends(s), &|n| self.end(n, s, current, !lingers));
        } else if current.is_out {
            push(Duty, Step::DeletionEnds(s), &|n| {
                let Truth {
                    life,
                    deleted,
                    lost,
                    ..
                } = current.truth;
                let may_end = deleted || (lost && life == n.slot.life);
                if !may_end {
                    n.wrong = Some("a deletion that came before its join has ended a membership");
                }
                n.sessions[s].wants = false;
                self.end(n, s, current, true);
                if !self.rules.leave_sent {
                    for ended in &mut n.sessions[s].ended {
                        *ended = ended.filter(|it| it.op != current.op);
                    }
                } else if !self.rules.leave_fenced
                    && let Some(ended) = n.sessions[s].ended_with(current.op)
                {
                    ended.fence = false;
                }
            });
        }
    }

    fn end(&self, n: &mut State, s: usize, current: Current, left: bool) {
        let session = &mut n.sessions[s];
        session.current = None;
        let leave = session.draw();
        session.end(Ended {
            op: current.op,
            leave,
            fence: current.copied || current.began.is_none(),
            left,
            began: current.began.filter(|_| !left && !current.refused),
            truth: current.truth,
        });
        for connector in 0..n.hubs.len() {
            if self.of(connector).all(|s| n.sessions[s].current.is_none()) {
                n.hubs[connector] = None;
            }
        }
    }

    fn ended_steps(state: &State, s: usize, k: usize, push: &mut Push<'_>) {
        let Some(ended) = state.sessions[s].ended[k] else {
            return;
        };
        if !ended.left {
            push(Duty, Step::GraceEnds(s), &|n| {
                if let Some(it) = n.sessions[s].ended_with(ended.op) {
                    (it.left, it.began) = (true, None);
                }
            });
            return;
        }
        let leave = Message::Leave {
            session: s as u8,
            op: ended.leave,
            fence: ended.fence,
        };
        let flies = state.network.iter().any(|m| {
            matches!(*m, Message::Leave { session, op, .. } if (usize::from(session), op) == (s, ended.leave))
        });
        if !flies {
            push(Duty, Step::SendLeave(s), &|n| n.network.push(leave));
        }
    }

    // ---- answers, and the log ----

    pub(super) fn take_answer(&self, state: &mut State, s: usize, op: u8, answer: Answer) {
        let connector = self.cast[s].map_or(0, |(connector, _)| connector);
        let hub = state.hubs[connector];
        let session = &mut state.sessions[s];
        if let Some(ended) = session.ended_with(op)
            && ended.began.is_some()
        {
            match answer {
                Answer::Joined(began) if self.rules.repair_moves_beginning => {
                    ended.began = Some(began);
                }
                Answer::Deleted if self.rules.refusal_ends => ended.began = None,
                _ => {}
            }
        }
        let Some(current) = session.current_with(op) else {
            return;
        };
        match answer {
            Answer::Joined(began) if current.began.is_some() => {
                if self.rules.repair_moves_beginning {
                    current.began = Some(began);
                }
            }
            Answer::Joined(began) => {
                current.began = Some(began);
                current.joined = began.at.offset;
                let Some(hub) = hub else { return };
                let met = if self.rules.met_since_sent {
                    current.met
                } else {
                    hub.met
                };
                current.is_out = self.rules.answer_compared && current.joined < met;
                let is_over = hub.deletion != 0 && current.truth.over & (1 << hub.deletion) != 0;
                if is_over && !current.truth.unsure && !current.is_out {
                    state.wrong = Some("a member is given what follows the deletion that ended it");
                }
            }
            Answer::Deleted if self.rules.refusal_ends => {
                (current.is_out, current.refused) = (true, true);
            }
            Answer::Deleted | Answer::Stale => {}
        }
    }

    /// A connector reads the log up to its end, and hands on what follows its own position.
    fn read_log(&self, n: &mut State, connector: usize) {
        let Some(mut hub) = n.hubs[connector] else {
            return;
        };
        n.slot.locate(&mut n.ids);
        let continuity = n.slot.judge(hub.at);
        let (Continuity::Contiguous(from)
        | Continuity::Diverged(from)
        | Continuity::Trimmed(from)
        | Continuity::Unknown(from)) = continuity;
        let goes_on = matches!(
            continuity,
            Continuity::Contiguous(_) | Continuity::Trimmed(_)
        );
        hub.at = n.slot.end();
        if !goes_on {
            hub.deletion = 0;
        }
        if let Continuity::Unknown(_) = continuity {
            hub.met = 0;
            let joined = if self.rules.unknown_ends_nobody {
                UNKNOWN
            } else {
                BEFORE_ALL
            };
            for s in self.of(connector) {
                let current = n.sessions[s].current.as_mut();
                if let Some(current) = current.filter(|it| it.began.is_some()) {
                    (current.joined, current.truth.unsure) = (joined, true);
                }
            }
        }
        let met = n.slot.deletion_after(from);
        if let Some(offset) = met {
            (hub.met, hub.deletion) = (offset, n.slot.deletion);
        }
        for s in self.of(connector) {
            let Some(current) = &mut n.sessions[s].current else {
                continue;
            };
            let Some(offset) = met else { continue };
            if current.began.is_none() {
                (current.met, current.truth.deleted) = (offset, true);
                continue;
            }
            current.is_out |= self.rules.meeting_ends && current.joined < offset;
            let is_over = current.truth.over & (1 << n.slot.deletion) != 0;
            if is_over && !current.is_out && !current.truth.unsure && goes_on {
                n.wrong = Some("a member is given what follows the deletion that ended it");
            }
        }
        n.hubs[connector] = Some(hub);
    }

    // ---- the reconciler ----

    /// The beginning of a session's membership that the store should list, and its number.
    fn present(state: &State, s: usize) -> Option<(u8, Beginning)> {
        let session = &state.sessions[s];
        let current = session.current.filter(|it| !it.refused);
        let current = current.and_then(|it| Some((it.op, it.began?)));
        let mut lingering = session.ended.iter().flatten();
        current.or_else(|| lingering.find_map(|it| Some((it.op, it.began?))))
    }

    pub(super) fn connector_steps(&self, state: &State, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((kind, step, next));
        };
        for (connector, hub) in state.hubs.iter().enumerate() {
            if hub.is_some_and(|it| it.at != state.slot.end()) {
                push(Duty, Step::ReadLog(connector), &|n| {
                    self.read_log(n, connector);
                });
            }
            if self.rules.reconcile {
                self.reconcile(state, connector, &mut push);
            }
        }
    }

    fn reconcile(&self, state: &State, connector: usize, push: &mut Push<'_>) {
        for s in self.of(connector) {
            let is_listed = state.slot.members[s].is_some();
            match Self::present(state, s) {
                Some((op, began)) if !is_listed && !Self::is_asked(state, s, op) => {
                    push(Duty, Step::RepairJoin(s), &|n| {
                        let session = &mut n.sessions[s];
                        if let Some(current) = session.current_with(op) {
                            current.copied = true;
                        }
                        if let Some(ended) = session.ended_with(op) {
                            ended.fence = true;
                        }
                        Self::send_join(n, s, op, Some(began));
                    });
                }
                None if is_listed && state.sessions[s].is_idle() => {
                    let flies = state.network.iter().any(|m| {
                        matches!(*m, Message::Leave { session, .. } if usize::from(session) == s)
                    });
                    if !flies {
                        push(Duty, Step::LeaveGhost(s), &|n| {
                            let op = n.sessions[s].draw();
                            n.network.push(Message::Leave {
                                session: s as u8,
                                op,
                                fence: true,
                            });
                        });
                    }
                }
                _ => {}
            }
        }
    }
}
