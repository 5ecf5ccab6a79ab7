//! What is searched: which rules, how much may go wrong, and who takes part.

use crate::detached::{self, Detached};
use crate::logins::{self, Logins, Policy, Seat};
use crate::membership::{self, Membership};
use crate::search::{self, Model, Report};

/// How long a search takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Size {
    /// Seconds at most: every run of the tests has it.
    Small,
    /// Up to some minutes, and some gigabytes.
    Large,
}

/// A set of rules in a world in which so much may go wrong.
pub struct Scenario {
    /// Which part of the protocol, and what is special.
    pub name: String,
    /// Who takes part, and how often each fault may happen.
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

    fn new(name: String, bounds: String, model: impl Model + Send + Sync + 'static) -> Self {
        Self {
            name,
            bounds,
            holds: true,
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

    fn wrong(self) -> Self {
        Self {
            holds: false,
            ..self
        }
    }
}

/// Reads "crash, rollback 2": what may happen, once or as often as it says.
fn chances(text: &str) -> impl Iterator<Item = (&str, u8)> {
    let words = text.split(", ").filter(|word| !word.is_empty());
    words.map(|word| match word.split_once(' ') {
        Some((name, number)) => (name, number.parse().unwrap_or(1)),
        None => (word, 1),
    })
}

/// All scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = membership();
    all.extend(wrong_memberships());
    all.extend(logins());
    all.extend(wrong_logins());
    all.extend(detached());
    all
}

/// One session; one user on two connectors; two users on one connector; one user with three sessions; two users, two
/// connectors and two channels.
mod cast {
    use crate::membership::Cast;

    pub(super) const ONE: Cast = [Some((0, 0, 0)), None, None];
    pub(super) const BOTH: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), None];
    pub(super) const SIDE_BY_SIDE: Cast = [Some((0, 0, 0)), Some((0, 1, 0)), None];
    pub(super) const TABS: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), Some((0, 0, 0))];
    pub(super) const WIDE: Cast = [Some((0, 0, 0)), Some((1, 0, 0)), Some((0, 1, 1))];
}

/// Without loss of data nothing may depend on repairs: they are off.
fn plain() -> membership::Rules {
    let repairs = [
        "reconcile",
        "restoring",
        "owner_second_look",
        "reaper_second_look",
    ];
    let all = membership::Rules::ALL;
    repairs.iter().fold(all, |rules, it| rules.with(it, false))
}

fn in_channels(
    name: &str,
    rules: membership::Rules,
    bounds: &str,
    cast: membership::Cast,
    grace: bool,
) -> Scenario {
    let none = membership::Budget::ALL;
    let budget = chances(bounds).fold(none, |budget, (name, value)| budget.with(name, value));
    let (sessions, with) = (
        cast.iter().flatten().count(),
        if grace { ", grace" } else { "" },
    );
    Scenario::new(
        format!("membership/{name}"),
        format!("{sessions} sessions{with}; {bounds}"),
        Membership {
            rules,
            budget,
            cast,
            grace,
        },
    )
}

fn membership() -> Vec<Scenario> {
    use cast::{BOTH, ONE, TABS, WIDE};
    let (plain, sound) = (plain(), membership::Rules::ALL);
    let reconciled = plain.with("reconcile", true);
    let hold = |name, rules, bounds, cast| in_channels(name, rules, bounds, cast, false);
    let lingering = |name, rules, bounds, cast| in_channels(name, rules, bounds, cast, true);
    let small = [
        hold("dying connectors", plain, "crash, freeze", BOTH),
        hold(
            "a starved lease and a copy",
            plain,
            "starve, duplicate",
            BOTH,
        ),
        hold("three sessions", plain, "crash", TABS),
        hold("two channels", plain, "crash", WIDE),
        hold("tombstones expire", plain, "forget, crash, freeze", ONE),
        hold(
            "joining again",
            plain,
            "change_mind 2, give_up, duplicate, lost_answer",
            ONE,
        ),
        hold(
            "joining again, ghosts looked for",
            reconciled,
            "change_mind 2, give_up, looks, drop, lost_answer",
            ONE,
        ),
        hold(
            "joining again, dying",
            reconciled,
            "change_mind 2, looks, crash, freeze",
            ONE,
        ),
        hold(
            "joining again, slot rollback",
            sound,
            "change_mind 2, give_up, rollback",
            ONE,
        ),
        hold(
            "joining again, flush",
            sound,
            "change_mind 2, give_up, flush",
            ONE,
        ),
        lingering(
            "grace",
            reconciled,
            "lost_answer, duplicate, crash, freeze",
            ONE,
        ),
        lingering("grace, slot rollback", sound, "rollback, crash", ONE),
        hold(
            "clocks step",
            reconciled,
            "clock, forget, change_mind, crash, freeze",
            ONE,
        ),
        hold("clocks step, two connectors", plain, "clock, freeze", BOTH),
        hold("slot rollback", sound, "rollback, crash", BOTH),
        hold(
            "channel rollback, nobody restores leases",
            sound.with("restoring", false),
            "channel_rollback, crash",
            BOTH,
        ),
        hold("node rollback", sound, "node_rollback, crash", BOTH),
        hold("flush", sound, "flush, crash", BOTH),
    ];
    let large = [
        hold("faults", plain, "crash, freeze, starve, duplicate", BOTH),
        hold("faults, three sessions", plain, "crash, freeze", TABS),
        hold("faults, two channels", plain, "crash, freeze", WIDE),
        hold(
            "tombstones expire, copies",
            plain,
            "forget, duplicate, crash",
            BOTH,
        ),
        hold(
            "joining again, everything",
            reconciled,
            "change_mind 2, give_up, looks, drop, lost_answer, crash",
            ONE,
        ),
        hold(
            "joining again, two connectors",
            reconciled,
            "change_mind 2, looks, crash",
            BOTH,
        ),
        hold(
            "joining again, two rollbacks",
            sound,
            "change_mind 2, give_up, rollback 2",
            ONE,
        ),
        lingering(
            "grace, two connectors",
            reconciled,
            "lost_answer, crash, freeze",
            BOTH,
        ),
        hold(
            "clocks step, tombstones expire",
            plain,
            "clock, forget, crash, freeze",
            BOTH,
        ),
        hold(
            "clocks step, slot rollback",
            sound,
            "clock, rollback, crash",
            BOTH,
        ),
        hold(
            "slot rollback, dying",
            sound,
            "rollback, crash, freeze",
            BOTH,
        ),
        hold(
            "slot rollback, two channels",
            sound,
            "rollback, crash",
            WIDE,
        ),
        hold("two rollbacks", sound, "rollback 2, crash", BOTH),
        hold("node rollback, dying", sound, "node_rollback, freeze", BOTH),
        hold("flush, dying", sound, "flush, freeze", BOTH),
        hold("flush and rollback", sound, "flush, rollback, crash", BOTH),
    ];
    let large = large.map(Scenario::large);
    small.into_iter().chain(large).collect()
}

fn wrong_memberships() -> Vec<Scenario> {
    use cast::{BOTH, ONE, SIDE_BY_SIDE};
    let (plain, sound) = (plain(), membership::Rules::ALL);
    let (reconciled, unrestored) = (
        plain.with("reconcile", true),
        sound.with("restoring", false),
    );
    let without = |rule, name, rules: membership::Rules, bounds, cast| {
        in_channels(name, rules.with(rule, false), bounds, cast, false).wrong()
    };
    let faults = "crash, freeze, starve, duplicate";
    vec![
        without(
            "number_at_end",
            "a leave is numbered when it is sent",
            plain,
            "give_up",
            ONE,
        ),
        without(
            "number_before_list",
            "a ghost's leave is numbered after the list",
            reconciled,
            "change_mind 2, looks",
            ONE,
        ),
        without(
            "join_rewrites",
            "a later join leaves the record as it was",
            plain,
            "change_mind 2",
            ONE,
        ),
        without(
            "renewal_before_retry",
            "a late join is repeated without a renewal",
            reconciled,
            "freeze, forget",
            ONE,
        ),
        without(
            "beat_compared",
            "dead without comparing the beat",
            plain,
            "freeze",
            ONE,
        ),
        without("own_time", "dead by the clock", plain, "clock", ONE),
        without(
            "tombstone",
            "no tombstone of the incarnation",
            plain,
            faults,
            BOTH,
        ),
        without(
            "index_first",
            "the index comes after the join",
            plain,
            faults,
            BOTH,
        ),
        without(
            "sealed_index",
            "a dead lease's index grows",
            plain,
            faults,
            BOTH,
        ),
        without(
            "careful_unindex",
            "unindexed while a join flies",
            plain,
            faults,
            SIDE_BY_SIDE,
        ),
        without(
            "index_nonce",
            "index entries without nonces",
            plain,
            faults,
            SIDE_BY_SIDE,
        ),
        without(
            "left_fence",
            "no tombstone of the session",
            plain,
            faults,
            BOTH,
        ),
        without(
            "retry_counts",
            "repeated joins are not fenced",
            plain,
            faults,
            BOTH,
        ),
        without(
            "leave_fence",
            "a leave ends any membership",
            plain,
            "change_mind 2, duplicate",
            ONE,
        ),
        without(
            "deadline",
            "joins without deadlines",
            plain,
            "forget, crash",
            BOTH,
        ),
        without(
            "per_session",
            "users are counted, not sessions",
            plain,
            faults,
            BOTH,
        ),
        without("by_incarnation", "leases by name", plain, faults, BOTH),
        without(
            "reconcile",
            "nobody reconciles",
            sound,
            "rollback, crash, freeze",
            BOTH,
        ),
        without(
            "restoring",
            "nobody restores leases",
            sound,
            "rollback, crash, freeze",
            BOTH,
        ),
        without(
            "owner_second_look",
            "the owner looks once",
            unrestored,
            "channel_rollback, crash, freeze",
            BOTH,
        ),
        without(
            "reaper_second_look",
            "the reaper looks once",
            unrestored,
            "channel_rollback, crash, freeze",
            BOTH,
        ),
        without(
            "missing_is_lost",
            "a missing lease means death",
            sound,
            "flush",
            BOTH,
        ),
    ]
}

const fn seat(incarnation: usize, secret: Option<u8>) -> Option<Seat> {
    at_home(incarnation, secret, 0)
}

const fn at_home(incarnation: usize, secret: Option<u8>, home: usize) -> Option<Seat> {
    Some(Seat {
        incarnation,
        secret,
        home,
    })
}

/// A client that comes back, once and twice; sessions that know nothing of each other, two and three; and a client that
/// comes back, and a stranger.
const KIN: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), None];
const ELSEWHERE: logins::Cast = [seat(0, Some(0)), at_home(1, Some(0), 1), None];
const THRICE: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(0, Some(0))];
const STRANGERS: logins::Cast = [seat(0, None), seat(1, None), None];
const THREE_STRANGERS: logins::Cast = [seat(0, None), seat(1, None), seat(0, None)];
const AND_A_STRANGER: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(1, None)];

/// How many channels each session joins, and whether those that are gone linger.
#[derive(Clone, Copy)]
enum With {
    Channels(usize),
    Grace(usize),
}
use With::{Channels, Grace};

fn of_one_user(
    policy: Policy,
    name: &str,
    rules: logins::Rules,
    bounds: &str,
    cast: logins::Cast,
    with: With,
) -> Scenario {
    let none = logins::Budget::ALL;
    let budget = chances(bounds).fold(none, |budget, (name, value)| budget.with(name, value));
    let (channels, grace, lingering) = match with {
        Channels(number) => (number, false, ""),
        Grace(number) => (number, true, ", grace"),
    };
    let sessions = cast.iter().flatten().count();
    Scenario::new(
        format!("logins/{policy:?}: {name}"),
        format!("{sessions} sessions, {channels} channels{lingering}; {bounds}"),
        Logins {
            policy,
            rules,
            budget,
            cast,
            channels,
            grace,
        },
    )
}

fn logins() -> Vec<Scenario> {
    use Policy::{Allow, KickOld, Reject};
    let mut all = Vec::new();
    for policy in [Reject, KickOld, Allow] {
        let hold = |name, bounds, cast, with| {
            of_one_user(policy, name, logins::Rules::ALL, bounds, cast, with)
        };
        all.extend([
            hold("kin", "crash, give_up", KIN, Channels(1)),
            hold("kin, lost answers", "lost_answer", KIN, Grace(1)),
            hold("kin, copies", "duplicate", KIN, Channels(1)),
            hold("kin, elsewhere", "", ELSEWHERE, Channels(2)),
            hold("kin, two channels", "", KIN, Channels(2)),
            hold("kin, slot rollback", "rollback", KIN, Channels(1)),
            hold("kin, flush", "flush", KIN, Channels(1)),
            hold("kin and a stranger", "", AND_A_STRANGER, Channels(0)),
            hold("strangers", "crash, give_up", STRANGERS, Channels(1)),
            hold("strangers, grace", "give_up", STRANGERS, Grace(1)),
            hold("strangers, freeze", "freeze", STRANGERS, Channels(0)),
            hold(
                "strangers, slot rollback",
                "rollback",
                STRANGERS,
                Channels(1),
            ),
        ]);
        let large = [
            hold("kin, freeze", "freeze, give_up", KIN, Grace(1)),
            hold("kin, dying", "crash, freeze", KIN, Channels(1)),
            hold(
                "kin, lossy",
                "drop, duplicate, lost_answer",
                KIN,
                Channels(1),
            ),
            hold("kin, two channels, grace", "lost_answer", KIN, Grace(2)),
            hold(
                "kin, two channels, slot rollback",
                "rollback",
                KIN,
                Channels(2),
            ),
            hold(
                "kin, elsewhere, lost answers",
                "lost_answer",
                ELSEWHERE,
                Channels(2),
            ),
            hold(
                "kin, elsewhere, copies",
                "duplicate",
                ELSEWHERE,
                Channels(2),
            ),
            hold("kin, elsewhere, flush", "flush", ELSEWHERE, Channels(2)),
            hold(
                "kin, flush and rollback",
                "flush, rollback",
                KIN,
                Channels(1),
            ),
            hold("kin, flush and crash", "flush, crash", KIN, Grace(1)),
            hold(
                "kin, rollback and crash",
                "rollback, crash",
                KIN,
                Channels(1),
            ),
            hold("kin, thrice", "flush", THRICE, Channels(0)),
            hold("kin, thrice, in a channel", "", THRICE, Channels(1)),
            hold(
                "kin and a stranger, flush",
                "flush",
                AND_A_STRANGER,
                Channels(0),
            ),
            hold(
                "kin and a stranger, rollback",
                "rollback",
                AND_A_STRANGER,
                Channels(0),
            ),
            hold(
                "kin and a stranger, in a channel",
                "",
                AND_A_STRANGER,
                Channels(1),
            ),
            hold(
                "strangers, faults",
                "crash, freeze, starve, duplicate",
                STRANGERS,
                Channels(0),
            ),
            hold("strangers, dying", "crash, freeze", STRANGERS, Channels(1)),
            hold("strangers, flush", "flush, crash", STRANGERS, Grace(1)),
            hold(
                "three strangers, flush",
                "flush",
                THREE_STRANGERS,
                Channels(0),
            ),
        ];
        all.extend(large.map(Scenario::large));
    }
    let sound = logins::Rules::ALL;
    // A clock that is behind after a loss gives ranks again.
    let counted = sound.with("rank_by_clock", false);
    for policy in [Reject, KickOld, Allow] {
        let of_one = |name, cast| of_one_user(policy, name, counted, "flush", cast, Channels(0));
        all.push(of_one("strangers, ranks come again", STRANGERS));
        all.push(of_one("kin, ranks come again", KIN));
    }
    let name = "kin and a stranger, grace";
    all.push(of_one_user(Reject, name, sound, "", AND_A_STRANGER, Grace(1)).large());
    all
}

fn wrong_logins() -> Vec<Scenario> {
    use Policy::{Allow, KickOld, Reject};
    let sound = logins::Rules::ALL;
    let unrepaired = sound.with("reconcile", false);
    // One rule covers for another: a claim that should not have been sent marks nobody.
    let unchecked = sound.with("late_claim_marks_nobody", false);
    let without = |rule, policy, name, rules: logins::Rules, bounds, cast, with| {
        of_one_user(policy, name, rules.with(rule, false), bounds, cast, with).wrong()
    };
    let (faults, one) = ("crash, freeze, starve, duplicate", Channels(1));
    let mut all = Vec::new();
    for (policy, cast) in [(KickOld, STRANGERS), (Reject, KIN), (Allow, KIN)] {
        all.extend([
            without(
                "claim_by_owner",
                policy,
                "the login marks",
                sound,
                "",
                cast,
                one,
            ),
            without(
                "claim_after_join",
                policy,
                "hint before the join",
                sound,
                "",
                cast,
                one,
            ),
            without(
                "repair_waits_for_join",
                policy,
                "the reconciler claims before the join",
                sound,
                "",
                cast,
                one,
            ),
            without(
                "failed_claims_nothing",
                policy,
                "the reconciler claims for a login that failed",
                sound,
                "give_up",
                cast,
                one,
            ),
        ]);
    }
    for policy in [KickOld, Reject] {
        let name = "a lingering session still claims";
        let rule = "lingering_claims_nothing";
        all.push(without(
            rule,
            policy,
            name,
            unchecked,
            "",
            STRANGERS,
            Grace(1),
        ));
    }
    all.extend([
        without(
            "replaced_fence",
            Allow,
            "no tombstones of predecessors",
            sound,
            "",
            KIN,
            one,
        ),
        without(
            "stale_closes",
            Allow,
            "stale joins are ignored",
            sound,
            "",
            KIN,
            one,
        ),
        without(
            "replaced_lingers",
            Allow,
            "a replaced session leaves at once",
            sound,
            "",
            KIN,
            Channels(2),
        ),
        without(
            "late_claim_marks_nobody",
            Reject,
            "the late claim of a lingering session marks",
            sound,
            "",
            AND_A_STRANGER,
            Grace(1),
        ),
        without(
            "older_kin_named",
            Reject,
            "a repeated login names newer sessions",
            sound,
            "lost_answer",
            ELSEWHERE,
            Channels(2),
        ),
        without(
            "newer_kin_stays",
            Reject,
            "the policy decides between kin",
            sound,
            "",
            KIN,
            one,
        ),
        without(
            "lingering_named",
            Reject,
            "lingering sessions hold others off",
            sound,
            "",
            STRANGERS,
            Grace(1),
        ),
    ]);
    let old = |rule, policy, name, rules, bounds, cast| {
        without(rule, policy, name, rules, bounds, cast, Channels(0))
    };
    all.extend([
        old(
            "close_own",
            Reject,
            "close removes all entries",
            unrepaired,
            "freeze",
            STRANGERS,
        ),
        old(
            "closed_fence",
            Reject,
            "close leaves no tombstone",
            unrepaired,
            "duplicate",
            STRANGERS,
        ),
        old(
            "tombstone",
            Reject,
            "no tombstone of the incarnation",
            unrepaired,
            "crash",
            STRANGERS,
        ),
        old(
            "holder_checked",
            Reject,
            "nobody looks at the holders",
            sound,
            faults,
            STRANGERS,
        ),
        old(
            "evict_reaps",
            Reject,
            "evicting without reaping",
            sound,
            faults,
            STRANGERS,
        ),
        old(
            "kick_is_written",
            KickOld,
            "a kick is only a message",
            unrepaired,
            "freeze",
            STRANGERS,
        ),
        old(
            "names_decide",
            KickOld,
            "equal ranks, and nothing decides",
            sound.with("rank_by_clock", false),
            "flush",
            THREE_STRANGERS,
        ),
        old(
            "ranks_compared",
            KickOld,
            "the last claim wins",
            sound,
            "flush",
            THREE_STRANGERS,
        ),
        old(
            "patient",
            Reject,
            "giving way at once",
            sound,
            "rollback",
            STRANGERS,
        ),
        old(
            "own_rank",
            KickOld,
            "a claim keeps the rank that it finds",
            sound,
            "flush, duplicate",
            STRANGERS,
        ),
        old(
            "one_policy",
            Reject,
            "two policies",
            unchecked,
            "",
            STRANGERS,
        ),
    ]);
    all
}

fn detached() -> Vec<Scenario> {
    let of_a_chat = |name: &str, rules, bounds: &str| {
        let none = detached::Budget::ALL;
        let budget = chances(bounds).fold(none, |budget, (name, value)| budget.with(name, value));
        let name = format!("detached/{name}");
        Scenario::new(name, bounds.to_owned(), Detached { rules, budget })
    };
    let sound = detached::Rules::ALL;
    let plain = sound.with("touch", false);
    let faults = "joins 3, expiries 2, crash";
    let without = |rule, name| of_a_chat(name, plain.with(rule, false), faults).wrong();
    vec![
        of_a_chat("faults", plain, faults),
        of_a_chat(
            "slot rollback",
            sound,
            "joins 2, expiries 1, crash, rollback",
        ),
        of_a_chat("flush", sound, "joins 2, expiries 1, crash, flush"),
        of_a_chat(
            "slot rollback and flush",
            sound,
            "joins 3, expiries 2, crash, rollback, flush",
        )
        .large(),
        without("schedule_first", "the schedule comes after the member"),
        without("compare_nonce", "entries without nonces"),
        without("unique_nonce", "nonces start again"),
        without("second_look", "a sweeper looks once"),
        without("deadline", "joins without deadlines"),
        of_a_chat(
            "nobody touches",
            plain,
            "joins 3, expiries 2, crash, rollback",
        )
        .wrong(),
    ]
}
