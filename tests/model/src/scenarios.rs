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
    let mut all = membership();
    all.extend(logins());
    all.extend(detached());
    all
}

fn membership() -> Vec<Scenario> {
    use crate::membership::{Budget, Cast, Membership, Rules, SOUND};
    const NONE: Budget = Budget {
        crash: 0,
        freeze: 0,
        starve: 0,
        duplicate: 0,
        drop: 0,
        lost_answer: 0,
        change_mind: 0,
        give_up: 0,
        looks: 0,
        forget: 0,
        clock: 0,
        rollback: 0,
        channel_rollback: 0,
        node_rollback: 0,
        flush: 0,
    };
    // Incarnation, user, channel.
    let one: Cast = [Some((0, 0, 0)), None, None];
    let both: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), None]; // one user on two connectors
    let side_by_side: Cast = [Some((0, 0, 0)), Some((0, 1, 0)), None]; // two users on one connector
    let tabs: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), Some((0, 0, 0))]; // one user, three sessions
    let wide: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), Some((0, 1, 1))]; // two users, two channels
    // Without loss of data nothing may depend on repairs: they are off.
    let plain = Rules {
        patrol: false,
        vouching: false,
        owner_second_look: false,
        reaper_second_look: false,
        ..SOUND
    };
    let faults = Budget {
        crash: 1,
        freeze: 1,
        starve: 1,
        duplicate: 1,
        ..NONE
    };
    let dying = Budget {
        crash: 1,
        freeze: 1,
        ..NONE
    };
    let build = |name: &str, holds: bool, rules: Rules, budget: Budget, cast: Cast, grace: bool| {
        let sessions = cast.iter().flatten().count();
        Scenario::new(
            format!("membership/{name}"),
            holds,
            format!("{sessions} sessions; {}", bounds(budget)),
            Membership {
                rules,
                budget,
                cast,
                grace,
            },
        )
    };
    let make = |name: &str, holds, rules, budget, cast| build(name, holds, rules, budget, cast, false);
    let lingering = |name: &str, rules, budget, cast| build(name, true, rules, budget, cast, true);
    let patrolled = Rules {
        patrol: true,
        ..plain
    };
    let again = Budget {
        change_mind: 2,
        give_up: 1,
        ..NONE
    };
    let hold = |name, rules, budget, cast| make(name, true, rules, budget, cast);
    let fails = |name, rules, budget, cast| make(name, false, rules, budget, cast);
    let mut all = vec![
        hold("dying connectors", plain, dying, both),
        hold("a starved lease and a copy", plain, Budget { starve: 1, duplicate: 1, ..NONE }, both),
        hold("three sessions", plain, Budget { crash: 1, ..NONE }, tabs),
        hold("two channels", plain, Budget { crash: 1, ..NONE }, wide),
        hold("tombstones expire", plain, Budget { forget: 1, ..dying }, one),
        hold("joining again", plain, Budget { duplicate: 1, lost_answer: 1, ..again }, one),
        hold("joining again, ghosts looked for", patrolled, Budget { looks: 1, drop: 1, lost_answer: 1, ..again }, one),
        hold("joining again, dying", patrolled, Budget { looks: 1, change_mind: 2, ..dying }, one),
        hold("joining again, slot rollback", SOUND, Budget { rollback: 1, ..again }, one),
        hold("joining again, flush", SOUND, Budget { flush: 1, ..again }, one),
        lingering("grace", patrolled, Budget { lost_answer: 1, duplicate: 1, ..dying }, one),
        lingering("grace, slot rollback", SOUND, Budget { rollback: 1, crash: 1, ..NONE }, one),
        hold("clocks step", patrolled, Budget { clock: 1, forget: 1, change_mind: 1, ..dying }, one),
        hold("clocks step, two connectors", plain, Budget { clock: 1, freeze: 1, ..NONE }, both),
        hold("slot rollback", SOUND, Budget { rollback: 1, crash: 1, ..NONE }, both),
        hold("channel rollback, nobody vouches", Rules { vouching: false, ..SOUND }, Budget { channel_rollback: 1, crash: 1, ..NONE }, both),
        hold("node rollback", SOUND, Budget { node_rollback: 1, crash: 1, ..NONE }, both),
        hold("flush", SOUND, Budget { flush: 1, crash: 1, ..NONE }, both),
    ];
    all.extend([
        hold("faults", plain, faults, both),
        hold("faults, three sessions", plain, dying, tabs),
        hold("faults, two channels", plain, dying, wide),
        hold("expiring tombstones and copies", plain, Budget { forget: 1, duplicate: 1, ..dying }, both),
        hold("joining again, everything", patrolled, Budget { looks: 1, drop: 1, lost_answer: 1, duplicate: 1, forget: 1, ..Budget { crash: 1, freeze: 1, ..again } }, one),
        hold("joining again, two connectors", patrolled, Budget { looks: 1, crash: 1, ..again }, both),
        hold("joining again, two rollbacks", SOUND, Budget { rollback: 2, ..again }, one),
        lingering("grace, two connectors", patrolled, Budget { lost_answer: 1, ..dying }, both),
        hold("clocks step and tombstones expire", plain, Budget { clock: 1, forget: 1, ..dying }, both),
        hold("clocks step, slot rollback", SOUND, Budget { clock: 1, rollback: 1, crash: 1, ..NONE }, both),
        hold("slot rollback, dying", SOUND, Budget { rollback: 1, ..dying }, both),
        hold("slot rollback and copies", SOUND, Budget { rollback: 1, duplicate: 1, ..dying }, both),
        hold("slot rollback, two channels", SOUND, Budget { rollback: 1, crash: 1, ..NONE }, wide),
        hold("two rollbacks", SOUND, Budget { rollback: 2, crash: 1, ..NONE }, both),
        hold("node rollback, dying", SOUND, Budget { node_rollback: 1, ..dying }, both),
        hold("flush, dying", SOUND, Budget { flush: 1, ..dying }, both),
        hold("flush and rollback", SOUND, Budget { flush: 1, rollback: 1, crash: 1, ..NONE }, both),
    ].map(Scenario::large));
    all.extend([
        fails("the leave's number is drawn when it is sent", Rules { number_at_end: false, ..plain }, Budget { give_up: 1, ..NONE }, one),
        fails("a ghost's leave is numbered after the list", Rules { number_before_list: false, ..patrolled }, Budget { change_mind: 2, looks: 1, ..NONE }, one),
        fails("a later join leaves the record as it was", Rules { join_rewrites: false, ..plain }, Budget { change_mind: 2, ..NONE }, one),
        fails("a late join is repeated without a renewal", Rules { renewal_before_retry: false, ..patrolled }, Budget { freeze: 1, forget: 1, ..NONE }, one),
        fails("dead without comparing the beat", Rules { beat_compared: false, ..plain }, Budget { freeze: 1, ..NONE }, one),
        fails("dead by the clock", Rules { own_time: false, ..plain }, Budget { clock: 1, ..NONE }, one),
        fails("without the incarnation's tombstone", Rules { tombstone: false, ..plain }, faults, both),
        fails("without index first", Rules { index_first: false, ..plain }, faults, both),
        fails("without a sealed index", Rules { sealed_index: false, ..plain }, faults, both),
        fails("without careful unindexing", Rules { careful_unindex: false, ..plain }, faults, side_by_side),
        fails("without the nonce of index entries", Rules { index_nonce: false, ..plain }, faults, side_by_side),
        fails("without the session's tombstone", Rules { left_fence: false, ..plain }, faults, both),
        fails("repeated joins are not fenced", Rules { retry_counts: false, ..plain }, faults, both),
        fails("a leave ends any membership", Rules { leave_fence: false, ..plain }, Budget { change_mind: 2, duplicate: 1, ..NONE }, one),
        fails("without deadlines", Rules { deadline: false, ..plain }, Budget { forget: 1, crash: 1, ..NONE }, both),
        fails("counting users, not sessions", Rules { per_session: false, ..plain }, faults, both),
        fails("by name, not by incarnation", Rules { by_incarnation: false, ..plain }, faults, both),
        fails("nobody reconciles", Rules { patrol: false, ..SOUND }, Budget { rollback: 1, ..dying }, both),
        fails("nobody vouches", Rules { vouching: false, ..SOUND }, Budget { rollback: 1, ..dying }, both),
        fails("without the owner's second look", Rules { owner_second_look: false, vouching: false, ..SOUND }, Budget { channel_rollback: 1, ..dying }, both),
        fails("without the reaper's second look", Rules { reaper_second_look: false, vouching: false, ..SOUND }, Budget { channel_rollback: 1, ..dying }, both),
        fails("a missing lease means death", Rules { missing_is_lost: false, ..SOUND }, Budget { flush: 1, ..NONE }, both),
    ]);
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
    let thrice: Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(0, Some(0))];
    let and_a_stranger: Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(1, None)];
    let three_strangers: Cast = [seat(0, None), seat(1, None), seat(0, None)];
    let dying = Budget {
        crash: 1,
        freeze: 1,
        ..NONE
    };
    let faults = Budget {
        starve: 1,
        duplicate: 1,
        ..dying
    };
    let mut all = Vec::new();
    for policy in [Reject, KickOld, Allow] {
        let hold = |name: &str, budget, cast, channels, grace| {
            make(name, true, policy, SOUND, budget, cast, channels, grace)
        };
        all.extend([
            hold("a client comes back", Budget { crash: 1, give_up: 1, ..NONE }, kin, 1, false),
            hold("a client comes back, lost answers", Budget { lost_answer: 1, ..NONE }, kin, 1, true),
            hold("a client comes back, copies", Budget { duplicate: 1, ..NONE }, kin, 1, false),
            hold("a client comes back to two channels", NONE, kin, 2, true),
            hold("a client comes back, slot rollback", Budget { rollback: 1, ..NONE }, kin, 1, false),
            hold("a client comes back, flush", Budget { flush: 1, ..NONE }, kin, 1, true),
            hold("strangers", Budget { crash: 1, give_up: 1, ..NONE }, strangers, 1, true),
            hold("strangers, a freeze", Budget { freeze: 1, ..NONE }, strangers, 0, false),
            hold("strangers, slot rollback", Budget { rollback: 1, ..NONE }, strangers, 1, true),
            hold("three strangers, flush", Budget { flush: 1, ..NONE }, three_strangers, 0, false),
            hold("a client comes back, and a stranger", NONE, and_a_stranger, 0, false),
        ]);
        all.extend([
            hold("a client comes back, a freeze", Budget { freeze: 1, give_up: 1, ..NONE }, kin, 1, true),
            hold("a client comes back, dying", dying, kin, 1, false),
            hold("a client comes back, lossy", Budget { drop: 1, duplicate: 1, lost_answer: 1, ..NONE }, kin, 1, false),
            hold("a client comes back to two channels, slot rollback", Budget { rollback: 1, ..NONE }, kin, 2, false),
            hold("a client comes back, flush and rollback", Budget { flush: 1, rollback: 1, ..NONE }, kin, 1, false),
            hold("a client comes back, flush and crash", Budget { flush: 1, crash: 1, ..NONE }, kin, 1, true),
            hold("a client comes back, rollback and crash", Budget { rollback: 1, crash: 1, ..NONE }, kin, 1, false),
            hold("a client comes back twice", Budget { flush: 1, ..NONE }, thrice, 0, false),
            hold("a client comes back, and a stranger, flush", Budget { flush: 1, ..NONE }, and_a_stranger, 0, false),
            hold("a client comes back, and a stranger, rollback", Budget { rollback: 1, ..NONE }, and_a_stranger, 0, false),
            hold("a client comes back, and a stranger, in a channel", NONE, and_a_stranger, 1, true),
            hold("strangers, faults", faults, strangers, 0, false),
            hold("strangers, dying", dying, strangers, 1, false),
        ].map(Scenario::large));
        all.push(hold("a client comes back twice, in a channel", NONE, thrice, 1, false).large());
    }
    let give_up = Budget { give_up: 1, ..NONE };
    let fails = |name: &str, policy, rules, budget, cast, channels, grace| {
        make(name, false, policy, rules, budget, cast, channels, grace)
    };
    for (policy, cast) in [(KickOld, strangers), (Reject, kin), (Allow, kin)] {
        all.extend([
            fails("the login marks", policy, Rules { claim_by_owner: false, ..SOUND }, NONE, cast, 1, false),
            fails("claim and hint before the join", policy, Rules { claim_after_join: false, ..SOUND }, NONE, cast, 1, false),
            fails("the reconciler claims before the join", policy, Rules { repair_waits_for_join: false, ..SOUND }, NONE, cast, 1, false),
            fails("the reconciler claims for a login that failed", policy, Rules { failed_claims_nothing: false, ..SOUND }, give_up, cast, 1, false),
        ]);
    }
    all.extend([
        fails("a lingering session still claims", Reject, Rules { lingering_claims_nothing: false, ..SOUND }, NONE, strangers, 1, true),
        fails("a lingering session still claims", KickOld, Rules { lingering_claims_nothing: false, ..SOUND }, NONE, strangers, 1, true),
        fails("without tombstones of predecessors", Allow, Rules { replaced_fence: false, ..SOUND }, NONE, kin, 1, false),
        fails("stale joins are ignored", Allow, Rules { stale_closes: false, ..SOUND }, NONE, kin, 1, false),
        fails("a replaced session leaves at once", Allow, Rules { replaced_lingers: false, ..SOUND }, NONE, kin, 2, false),
        fails("the policy decides between kin", Reject, Rules { newer_kin_stays: false, ..SOUND }, NONE, kin, 1, false),
        fails("a login names no lingering sessions", Reject, Rules { lingering_named: false, ..SOUND }, NONE, strangers, 1, true),
        fails("close removes all entries", Reject, Rules { close_own: false, patrol: false, ..SOUND }, Budget { freeze: 1, ..NONE }, strangers, 0, false),
        fails("close leaves no tombstone", Reject, Rules { closed_fence: false, patrol: false, ..SOUND }, Budget { duplicate: 1, ..NONE }, strangers, 0, false),
        fails("without the incarnation's tombstone", Reject, Rules { tombstone: false, patrol: false, ..SOUND }, Budget { crash: 1, ..NONE }, strangers, 0, false),
        fails("nobody looks at the holders", Reject, Rules { holder_checked: false, ..SOUND }, faults, strangers, 0, false),
        fails("evicting without burying", Reject, Rules { evict_buries: false, ..SOUND }, faults, strangers, 0, false),
        fails("a kick is only a message", KickOld, Rules { kick_is_written: false, patrol: false, ..SOUND }, Budget { freeze: 1, ..NONE }, strangers, 0, false),
        fails("ranks from a counter", KickOld, Rules { rank_by_clock: false, ..SOUND }, Budget { flush: 1, ..NONE }, three_strangers, 0, false),
        fails("the last claim wins", KickOld, Rules { ranks_compared: false, ..SOUND }, Budget { flush: 1, ..NONE }, three_strangers, 0, false),
        fails("giving way at once", Reject, Rules { patient: false, ..SOUND }, Budget { rollback: 1, ..NONE }, strangers, 0, false),
        fails("a claim keeps the rank that it finds", KickOld, Rules { own_rank: false, ..SOUND }, Budget { flush: 1, duplicate: 1, ..NONE }, strangers, 0, false),
        fails("two policies", Reject, Rules { one_policy: false, ..SOUND }, NONE, strangers, 0, false),
    ]);
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
