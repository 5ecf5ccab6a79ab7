//! A detached member has no connector. It has a time to live, which is renewed by joining again.
//!
//! No chat scans all channels. The schedule says when to look after which channel; it is in a slot of its own, and any chat
//! sweeps it.

use crate::named::named;
use crate::search::{Kind, Model, Steps};
use Kind::{Chance, Duty};

pub(crate) const SWEEPERS: usize = 2;

named! {
    /// The rules under test. Each can be switched off to see what it is for.
    pub(crate) struct Rules: bool = true {
        /// The schedule is written before the member.
        schedule_first,
        /// A sweeper changes an entry of the schedule only if it is still the one that it has seen, by its nonce.
        compare_nonce,
        /// A nonce never comes again; off: it counts from one whenever the entry is new.
        unique_nonce,
        /// An entry is dropped on a second look, later than any join's deadline and than replication.
        second_look,
        /// A join carries a deadline.
        deadline,
        /// Every script of the channel expires what is due, and its caller puts a missing entry back.
        touch,
    }
}

named! {
    /// How often each fault may happen.
    pub(crate) struct Budget: u8 = 0 {
        /// Calls of Join.
        joins,
        /// How often a time to live runs out.
        expiries,
        /// Chats that die between the two steps of a join.
        crash,
        rollback,
        flush,
    }
}

pub(crate) struct Detached {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Member {
    Listed,
    Due,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Look {
    Pending,
    FoundEmpty,
    Settled,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    nonce: u8,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Sweeper {
    Idle,
    Polled(Entry),
    Visited(Entry, bool),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Call {
    /// Neither step is done.
    Begun,
    /// One step is done, and the other is on its way.
    Half { late: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Channel {
    member: Option<Member>,
    joined: bool,
    broken_log: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Window {
    Channel(Channel),
    Schedule(Option<Entry>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    channel: Channel,
    schedule: Option<Entry>,
    sweepers: [Sweeper; SWEEPERS],
    calls: Vec<Call>,
    window: Option<Window>,
    nonces: u8,
    budget: Budget,
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a trace shows the fields")]
pub(crate) enum Step {
    CallJoin,
    WriteSchedule(Call),
    WriteMember(Call),
    ChatDies(Call),
    TimeToLiveEnds,
    Poll(usize),
    Visit(usize),
    Report(usize),
    SettleTimePasses,
    Touch,
    OpenWindow,
    Failover,
    Replicated,
    FlushAll,
}

impl Detached {
    fn log(channel: &mut Channel, join: bool) {
        channel.broken_log |= channel.joined == join;
        channel.joined = join;
    }

    fn write_schedule(&self, state: &mut State) {
        state.nonces += 1;
        let nonce = if self.rules.unique_nonce {
            state.nonces
        } else {
            state.schedule.map_or(1, |e| e.nonce + 1)
        };
        state.schedule = Some(Entry {
            nonce,
            look: Look::Pending,
        });
    }

    fn write_member(state: &mut State) {
        if state.channel.member.is_none() {
            Self::log(&mut state.channel, true);
        }
        state.channel.member = Some(Member::Listed);
    }

    fn expire(channel: &mut Channel) {
        if channel.member == Some(Member::Due) {
            channel.member = None;
            Self::log(channel, false);
        }
    }
}

impl Model for Detached {
    type State = State;
    type Step = Step;

    fn init(&self) -> State {
        State {
            channel: Channel::default(),
            schedule: None,
            sweepers: [Sweeper::Idle; SWEEPERS],
            calls: Vec::new(),
            window: None,
            nonces: 0,
            budget: self.budget,
        }
    }

    fn steps(&self, state: &State, out: &mut Steps<Self>) {
        let mut push = |kind, step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            next.calls.sort_unstable();
            out.push((kind, step, next));
        };
        if state.budget.joins > 0 {
            push(Chance, Step::CallJoin, &|n| {
                n.budget.joins -= 1;
                n.calls.push(Call::Begun);
            });
        }
        for (at, &call) in state.calls.iter().enumerate() {
            if self.rules.schedule_first == (call == Call::Begun) {
                push(Duty, Step::WriteSchedule(call), &|n| {
                    self.write_schedule(n);
                    n.calls.remove(at);
                    if call == Call::Begun {
                        n.calls.push(Call::Half { late: false });
                    }
                });
            } else {
                push(Duty, Step::WriteMember(call), &|n| {
                    n.calls.remove(at);
                    if !(self.rules.deadline && call == Call::Half { late: true }) {
                        Self::write_member(n);
                    }
                    if call == Call::Begun {
                        n.calls.push(Call::Half { late: false });
                    }
                });
            }
            if state.budget.crash > 0 {
                push(Chance, Step::ChatDies(call), &|n| {
                    n.budget.crash -= 1;
                    n.calls.remove(at);
                });
            }
        }
        if state.channel.member == Some(Member::Listed) && state.budget.expiries > 0 {
            push(Chance, Step::TimeToLiveEnds, &|n| {
                n.budget.expiries -= 1;
                n.channel.member = Some(Member::Due);
            });
        }
        for k in 0..SWEEPERS {
            match (state.sweepers[k], state.schedule) {
                (Sweeper::Idle, Some(entry)) => {
                    let due = match entry.look {
                        Look::Pending => state.channel.member != Some(Member::Listed),
                        Look::FoundEmpty => false,
                        Look::Settled => true,
                    };
                    if due {
                        push(Duty, Step::Poll(k), &|n| {
                            n.sweepers[k] = Sweeper::Polled(entry);
                        });
                    }
                }
                (Sweeper::Idle, None) => {}
                (Sweeper::Polled(entry), _) => push(Duty, Step::Visit(k), &|n| {
                    Self::expire(&mut n.channel);
                    n.sweepers[k] = Sweeper::Visited(entry, n.channel.member.is_none());
                }),
                (Sweeper::Visited(seen, empty), _) => push(Duty, Step::Report(k), &|n| {
                    n.sweepers[k] = Sweeper::Idle;
                    let Some(entry) = n.schedule else { return };
                    let same =
                        entry == seen || (!self.rules.compare_nonce && entry.look == seen.look);
                    n.schedule = match (same, empty) {
                        (false, _) => Some(entry),
                        (true, false) => Some(Entry {
                            look: Look::Pending,
                            ..entry
                        }),
                        (true, true) if seen.look == Look::Pending && self.rules.second_look => {
                            Some(Entry {
                                look: Look::FoundEmpty,
                                ..entry
                            })
                        }
                        (true, true) => None,
                    };
                }),
            }
        }
        if let Some(entry) = state
            .schedule
            .filter(|e| e.look == Look::FoundEmpty && state.window.is_none())
        {
            push(Duty, Step::SettleTimePasses, &|n| {
                n.schedule = Some(Entry {
                    look: Look::Settled,
                    ..entry
                });
                for call in &mut n.calls {
                    if let Call::Half { late } = call {
                        *late = true;
                    }
                }
            });
        }
        if self.rules.touch {
            push(Duty, Step::Touch, &|n| {
                Self::expire(&mut n.channel);
                if n.channel.member.is_some() && n.schedule.is_none() {
                    self.write_schedule(n);
                }
            });
        }
        match state.window {
            None if state.budget.rollback > 0 => {
                for window in [
                    Window::Channel(state.channel),
                    Window::Schedule(state.schedule),
                ] {
                    push(Chance, Step::OpenWindow, &|n| {
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
                    match window {
                        Window::Channel(was) => n.channel = was,
                        Window::Schedule(was) => n.schedule = was,
                    }
                });
            }
        }
        if state.budget.flush > 0 {
            push(Chance, Step::FlushAll, &|n| {
                n.budget.flush -= 1;
                n.window = None;
                n.channel = Channel::default();
                n.schedule = None;
            });
        }
    }

    fn always(&self, state: &State) -> Result<(), &'static str> {
        if state.channel.broken_log {
            return Err("two onJoin or two onLeave in a row");
        }
        if state.channel.joined != state.channel.member.is_some() {
            return Err("the log disagrees with the members");
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), &'static str> {
        match (state.channel.member, state.schedule) {
            (Some(Member::Due), _) => Err("ghost: an expired detached member is listed"),
            (Some(Member::Listed), None) => Err("a detached member that nobody will ever expire"),
            (None, Some(_)) => Err("an entry of the schedule is left for ever"),
            _ => Ok(()),
        }
    }
}
