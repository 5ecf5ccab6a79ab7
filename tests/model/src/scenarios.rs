//! What is searched: which rules, how much may go wrong, and who takes part.

use crate::search::{self, Model, Report};
use std::fmt::Debug;

/// How long a search takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Size {
    /// Seconds: every run of the tests has it.
    Small,
    /// Minutes, and up to some gigabytes.
    Large,
}

/// A set of rules in a world in which so much may go wrong.
pub struct Scenario {
    /// Which part of the protocol, and what is special.
    pub name: String,
    /// Who takes part, and how often chance may strike.
    pub bounds: String,
    /// True for the right rules; false for a wrong one, whose fault must be found.
    pub holds: bool,
    /// How long it takes.
    pub size: Size,
    run: Box<dyn Fn(usize) -> Report + Send + Sync>,
}

impl Scenario {
    /// Searches until a violation is found, everything was seen, or more than `limit` states.
    #[must_use]
    pub fn search(&self, limit: usize) -> Report {
        (self.run)(limit)
    }

    /// True if a report says what is expected.
    #[must_use]
    pub fn expects(&self, report: &Report) -> bool {
        if self.holds {
            report.complete && report.violation.is_none()
        } else {
            report.violation.is_some()
        }
    }

    fn new<M: Model + Send + Sync + 'static>(
        name: String,
        holds: bool,
        bounds: String,
        model: M,
    ) -> Self {
        Self {
            name,
            bounds,
            holds,
            size: Size::Small,
            run: Box::new(move |limit| search::search(&model, limit)),
        }
    }

    fn large(self) -> Self {
        Self {
            size: Size::Large,
            ..self
        }
    }
}

/// The fields of a budget that are not zero.
fn bounds(budget: impl Debug) -> String {
    let text = format!("{budget:?}");
    let fields = text
        .trim_start_matches("Budget { ")
        .trim_end_matches(" }")
        .split(", ");
    let fields = fields.filter(|field| !field.ends_with(": 0"));
    let fields: Vec<_> = fields.map(|field| field.replace(": ", " ")).collect();
    fields.join(", ")
}

/// All scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = logins();
    all.extend(detached());
    all
}

fn logins() -> Vec<Scenario> {
    use crate::logins::Policy::{Allow, KickOld, Reject};
    use crate::logins::{Budget, Cast, Logins, Policy, Rules, SOUND, Seat};
    const fn seat(incarnation: usize, secret: Option<u8>) -> Option<Seat> {
        Some(Seat {
            incarnation,
            secret,
        })
    }
    const NONE: Budget = Budget {
        crash: 0,
        freeze: 0,
        starve: 0,
        duplicate: 0,
        drop: 0,
        lost_answer: 0,
        give_up: 0,
        rollback: 0,
        flush: 0,
    };
    // A client that comes back; and two that know nothing of each other.
    let kin: Cast = [seat(0, Some(0)), seat(1, Some(0)), None];
    let strangers: Cast = [seat(0, None), seat(1, None), None];
    let make = |name: &str,
                holds: bool,
                policy: Policy,
                rules: Rules,
                budget: Budget,
                cast: Cast,
                channels: usize,
                grace: bool| {
        let sessions = cast.iter().flatten().count();
        let with = if grace { ", grace" } else { "" };
        Scenario::new(
            format!("logins/{policy:?}: {name}"),
            holds,
            format!("{sessions} sessions, {channels} channels{with}; {}", bounds(budget)),
            Logins {
                policy,
                rules,
                budget,
                cast,
                channels,
                grace,
            },
        )
    };
    let mut all = Vec::new();
    for policy in [Reject, KickOld, Allow] {
        for (what, cast) in [("kin", kin), ("strangers", strangers)] {
            for grace in [false, true] {
                for (why, budget) in [
                    ("calm", NONE),
                    ("freeze", Budget { freeze: 1, ..NONE }),
                    ("crash", Budget { crash: 1, ..NONE }),
                    ("give up", Budget { give_up: 1, ..NONE }),
                    ("lost", Budget { lost_answer: 1, ..NONE }),
                    ("dup", Budget { duplicate: 1, ..NONE }),
                    ("rollback", Budget { rollback: 1, ..NONE }),
                    ("flush", Budget { flush: 1, ..NONE }),
                ] {
                    let name = format!("{what} {why} {grace}");
                    all.push(make(&name, true, policy, SOUND, budget, cast, 1, grace));
                }
            }
        }
    }
    all
}

fn detached() -> Vec<Scenario> {
    use crate::detached::{Budget, Detached, Rules, SOUND};
    let calls = Budget {
        joins: 3,
        expiries: 2,
        crash: 1,
        rollback: 0,
        flush: 0,
    };
    let plain = Rules {
        touch: false,
        ..SOUND
    };
    let make = |name: &str, holds, rules, budget: Budget| {
        Scenario::new(
            format!("detached/{name}"),
            holds,
            bounds(budget),
            Detached { rules, budget },
        )
    };
    let wrong = |name: &str, rules| make(name, false, rules, calls);
    vec![
        make("faults", true, plain, calls),
        make(
            "slot rollback and flush",
            true,
            SOUND,
            Budget {
                rollback: 1,
                flush: 1,
                ..calls
            },
        )
        .large(),
        wrong(
            "without agenda first",
            Rules {
                agenda_first: false,
                ..plain
            },
        ),
        wrong(
            "without nonce",
            Rules {
                compare_nonce: false,
                ..plain
            },
        ),
        wrong(
            "nonce starts again",
            Rules {
                unique_nonce: false,
                ..plain
            },
        ),
        wrong(
            "without second look",
            Rules {
                second_look: false,
                ..plain
            },
        ),
        wrong(
            "without deadline",
            Rules {
                deadline: false,
                ..plain
            },
        ),
        make(
            "without touch",
            false,
            plain,
            Budget {
                rollback: 1,
                ..calls
            },
        ),
    ]
}
