//! What is searched: which rules, how much may go wrong, and who takes part.

use crate::deletion::{self, Deleting};
use crate::detached::{self, Detached};
use crate::log::{self, Log};
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
    let mut all = logs();
    all.extend(wrong_logs());
    all.extend(membership());
    all.extend(wrong_memberships());
    all.extend(logins());
    all.extend(wrong_logins());
    all.extend(detached());
    all.extend(deletions());
    all.extend(wrong_deletions());
    all
}

/// Clients that have joined, a log that keeps everything, and four publications, unless a scenario says otherwise.
fn log(name: &str, rules: log::Rules, bounds: &str, change: impl FnOnce(&mut Log)) -> Scenario {
    let none = log::Budget::ALL;
    let mut model = Log {
        rules,
        budget: chances(bounds).fold(none, |budget, (name, value)| budget.with(name, value)),
        publications: 4,
        kept: 9,
        clients: 2,
        acknowledges: false,
        begun: true,
    };
    change(&mut model);
    let Log {
        publications,
        clients,
        ..
    } = model;
    let bounds = format!("{clients} clients, {publications} publications; {bounds}");
    Scenario::new(format!("log/{name}"), bounds, model)
}

/// One client, and so many publications.
fn alone(publications: u8) -> impl FnOnce(&mut Log) {
    move |model| {
        model.clients = 1;
        model.publications = publications;
    }
}

/// The clients have not joined yet.
fn from_the_beginning(model: &mut Log) {
    model.publications = 3;
    model.begun = false;
}

fn acknowledged(model: &mut Log) {
    alone(3)(model);
    model.acknowledges = true;
}

fn coming_and_going(model: &mut Log) {
    model.clients = 1;
    model.begun = false;
}

fn logs() -> Vec<Scenario> {
    let hold = |name, bounds, change: fn(&mut Log)| log(name, log::Rules::ALL, bounds, change);
    let small = [
        hold("coming and going", "comes_back 2", coming_and_going),
        hold("broken feeds", "comes_back, feed_break, loss", |_| {}),
        hold("acknowledged", "failover 2, retry", acknowledged),
        log("two failovers", log::Rules::ALL, "failover 2", alone(5)),
    ];
    let large = [
        hold("joining, a feed breaks", "feed_break", from_the_beginning),
        hold("joining, coming back", "comes_back", from_the_beginning),
        hold("failover, coming back", "failover, comes_back", |_| {}),
        log(
            "two failovers, coming back",
            log::Rules::ALL,
            "failover 2, comes_back",
            alone(3),
        ),
        hold("two failovers, two clients", "failover 2", |_| {}),
        hold(
            "failover, broken feeds",
            "failover, feed_break, loss",
            |_| {},
        ),
        log(
            "wiped",
            log::Rules::ALL,
            "failover, wipe, comes_back",
            alone(3),
        ),
        hold("trimmed", "comes_back, feed_break, lost_log", |model| {
            model.publications = 5;
            model.kept = 2;
        }),
    ];
    let large = large.map(Scenario::large);
    small.into_iter().chain(large).collect()
}

fn wrong_logs() -> Vec<Scenario> {
    let without = |rule, name, bounds, change: fn(&mut Log)| {
        log(name, log::Rules::ALL.with(rule, false), bounds, change).wrong()
    };
    let (faults, one): (_, fn(&mut Log)) = ("failover 2, comes_back", |it| alone(3)(it));
    vec![
        without("epochs", "offsets without epochs", faults, one),
        without("unique_epochs", "epochs are counted", faults, one),
        without(
            "end_compared",
            "a read ignores the end of the epoch",
            faults,
            one,
        ),
        without("reads_append_nothing", "reads begin epochs", faults, one),
        without(
            "epoch_compared",
            "the hub compares offsets alone",
            "failover 2",
            |it| {
                alone(5)(it);
            },
        ),
        without(
            "subscribe_first",
            "the hub reads before it subscribes",
            "comes_back 2",
            coming_and_going,
        ),
        without(
            "read_after_confirmation",
            "no read after a confirmation",
            faults,
            one,
        ),
        without(
            "earlier_connections_dropped",
            "an earlier connection is heard",
            faults,
            one,
        ),
        without(
            "lifetime_checked",
            "the lifetime is not checked",
            faults,
            one,
        ),
        without(
            "answers_compared",
            "any server may answer a read",
            faults,
            one,
        ),
        without(
            "keys_remembered",
            "keys are forgotten",
            "retry",
            acknowledged,
        ),
        without(
            "replicas_waited_for",
            "acknowledged by the primary alone",
            "failover",
            acknowledged,
        ),
    ]
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

/// A client that comes back, once and twice; sessions that know nothing of each other, two and three, of which the last two are on
/// one connector in `MOVING`; and a client that comes back, and another client.
const ONE_CLIENT: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), None];
const ELSEWHERE: logins::Cast = [seat(0, Some(0)), at_home(1, Some(0), 1), None];
const THRICE: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(0, Some(0))];
const TWO_CLIENTS: logins::Cast = [seat(0, None), seat(1, None), None];
const THREE_CLIENTS: logins::Cast = [seat(0, None), seat(1, None), seat(0, None)];
const MOVING: logins::Cast = [seat(0, None), seat(1, None), seat(1, None)];
const AND_ANOTHER: logins::Cast = [seat(0, Some(0)), seat(1, Some(0)), seat(1, None)];

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
            hold("one client", "crash, give_up", ONE_CLIENT, Channels(1)),
            hold(
                "one client, lost answers",
                "lost_answer",
                ONE_CLIENT,
                Grace(1),
            ),
            hold("one client, copies", "duplicate", ONE_CLIENT, Channels(1)),
            hold("one client, elsewhere", "", ELSEWHERE, Channels(2)),
            hold("one client, two channels", "", ONE_CLIENT, Channels(2)),
            hold(
                "one client, slot rollback",
                "rollback",
                ONE_CLIENT,
                Channels(1),
            ),
            hold("one client, flush", "flush", ONE_CLIENT, Channels(1)),
            hold("one client and another", "", AND_ANOTHER, Channels(0)),
            hold("two clients", "crash, give_up", TWO_CLIENTS, Channels(1)),
            hold("two clients, grace", "give_up", TWO_CLIENTS, Grace(1)),
            hold("two clients, stop", "stop 2", TWO_CLIENTS, Grace(1)),
            hold("two clients, freeze", "freeze", TWO_CLIENTS, Channels(0)),
            hold(
                "blocked, lost commands",
                "block, drop, lost_answer",
                TWO_CLIENTS,
                Channels(0),
            ),
            hold("blocked, freeze", "block, freeze", TWO_CLIENTS, Channels(0)),
            hold(
                "blocked, copies",
                "block, duplicate, give_up",
                ONE_CLIENT,
                Channels(0),
            ),
            hold("blocked in a channel", "block", TWO_CLIENTS, Grace(1)),
            hold(
                "blocked, slot rollback",
                "block, rollback",
                TWO_CLIENTS,
                Channels(0),
            ),
            hold(
                "two clients, slot rollback",
                "rollback",
                TWO_CLIENTS,
                Channels(1),
            ),
        ]);
        let large = [
            hold(
                "blocked, dying",
                "block, crash, freeze",
                TWO_CLIENTS,
                Channels(0),
            ),
            hold(
                "one client, freeze",
                "freeze, give_up",
                ONE_CLIENT,
                Grace(1),
            ),
            hold(
                "one client, dying",
                "crash, freeze",
                ONE_CLIENT,
                Channels(1),
            ),
            hold(
                "one client, lossy",
                "drop, duplicate, lost_answer",
                ONE_CLIENT,
                Channels(1),
            ),
            hold(
                "one client, two channels, grace",
                "lost_answer",
                ONE_CLIENT,
                Grace(2),
            ),
            hold(
                "one client, two channels, slot rollback",
                "rollback",
                ONE_CLIENT,
                Channels(2),
            ),
            hold(
                "one client, elsewhere, lost answers",
                "lost_answer",
                ELSEWHERE,
                Channels(2),
            ),
            hold(
                "one client, elsewhere, copies",
                "duplicate",
                ELSEWHERE,
                Channels(2),
            ),
            hold(
                "one client, elsewhere, flush",
                "flush",
                ELSEWHERE,
                Channels(2),
            ),
            hold(
                "one client, flush and rollback",
                "flush, rollback",
                ONE_CLIENT,
                Channels(1),
            ),
            hold(
                "one client, flush and crash",
                "flush, crash",
                ONE_CLIENT,
                Grace(1),
            ),
            hold(
                "one client, rollback and crash",
                "rollback, crash",
                ONE_CLIENT,
                Channels(1),
            ),
            hold("one client, thrice", "flush", THRICE, Channels(0)),
            hold("one client, thrice, in a channel", "", THRICE, Channels(1)),
            hold(
                "one client and another, flush",
                "flush",
                AND_ANOTHER,
                Channels(0),
            ),
            hold(
                "one client and another, rollback",
                "rollback",
                AND_ANOTHER,
                Channels(0),
            ),
            hold(
                "one client and another, in a channel",
                "",
                AND_ANOTHER,
                Channels(1),
            ),
            hold(
                "two clients, faults",
                "crash, freeze, starve, duplicate",
                TWO_CLIENTS,
                Channels(0),
            ),
            hold(
                "two clients, dying",
                "crash, freeze",
                TWO_CLIENTS,
                Channels(1),
            ),
            hold("two clients, flush", "flush, crash", TWO_CLIENTS, Grace(1)),
            hold("moving, stop", "stop", MOVING, Grace(1)),
            hold("three clients, flush", "flush", THREE_CLIENTS, Channels(0)),
        ];
        all.extend(large.map(Scenario::large));
    }
    let sound = logins::Rules::ALL;
    // A clock that is behind after a loss gives ranks again.
    let counted = sound.with("rank_by_clock", false);
    for policy in [Reject, KickOld, Allow] {
        let of_one = |name, cast| of_one_user(policy, name, counted, "flush", cast, Channels(0));
        all.push(of_one("two clients, ranks come again", TWO_CLIENTS));
        all.push(of_one("one client, ranks come again", ONE_CLIENT));
    }
    let name = "one client and another, grace";
    all.push(of_one_user(Reject, name, sound, "", AND_ANOTHER, Grace(1)).large());
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
    for (rule, name, bounds) in [
        (
            "block_before_look",
            "looking before the block is written",
            "block",
        ),
        ("block_checked", "logins do not see the block", "block"),
        (
            "block_closes_logins",
            "a block spares those who are logging in",
            "block",
        ),
        (
            "block_reconciled",
            "the reconciler does not see the block",
            "block, drop",
        ),
    ] {
        let none = Channels(0);
        all.push(without(rule, Allow, name, sound, bounds, TWO_CLIENTS, none));
    }
    for (policy, cast) in [
        (KickOld, TWO_CLIENTS),
        (Reject, ONE_CLIENT),
        (Allow, ONE_CLIENT),
    ] {
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
            TWO_CLIENTS,
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
            ONE_CLIENT,
            one,
        ),
        without(
            "stale_closes",
            Allow,
            "stale joins are ignored",
            sound,
            "",
            ONE_CLIENT,
            one,
        ),
        without(
            "replaced_lingers",
            Allow,
            "a replaced session leaves at once",
            sound,
            "",
            ONE_CLIENT,
            Channels(2),
        ),
        without(
            "late_claim_marks_nobody",
            Reject,
            "the late claim of a lingering session marks",
            sound,
            "",
            AND_ANOTHER,
            Grace(1),
        ),
        without(
            "only_older_named",
            Reject,
            "a repeated login names newer sessions",
            sound,
            "lost_answer",
            ELSEWHERE,
            Channels(2),
        ),
        without(
            "newer_of_client_stays",
            Reject,
            "the policy decides between sessions of one client",
            sound,
            "",
            ONE_CLIENT,
            one,
        ),
        without(
            "lingering_named",
            Reject,
            "lingering sessions hold others off",
            sound,
            "",
            TWO_CLIENTS,
            Grace(1),
        ),
        without(
            "superseded_yields",
            Reject,
            "superseded sessions hold others off",
            sound,
            "stop",
            MOVING,
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
            TWO_CLIENTS,
        ),
        old(
            "closed_fence",
            Reject,
            "close leaves no tombstone",
            unrepaired,
            "duplicate",
            TWO_CLIENTS,
        ),
        old(
            "tombstone",
            Reject,
            "no tombstone of the incarnation",
            unrepaired,
            "crash",
            TWO_CLIENTS,
        ),
        old(
            "holder_checked",
            Reject,
            "nobody looks at the holders",
            sound,
            faults,
            TWO_CLIENTS,
        ),
        old(
            "evict_reaps",
            Reject,
            "evicting without reaping",
            sound,
            faults,
            TWO_CLIENTS,
        ),
        old(
            "kick_is_written",
            KickOld,
            "a kick is only a message",
            unrepaired,
            "freeze",
            TWO_CLIENTS,
        ),
        old(
            "names_decide",
            KickOld,
            "equal ranks, and nothing decides",
            sound.with("rank_by_clock", false),
            "flush",
            THREE_CLIENTS,
        ),
        old(
            "ranks_compared",
            KickOld,
            "the last claim wins",
            sound,
            "flush",
            THREE_CLIENTS,
        ),
        old(
            "patient",
            Reject,
            "giving way at once",
            sound,
            "rollback",
            TWO_CLIENTS,
        ),
        old(
            "own_rank",
            KickOld,
            "a claim keeps the rank that it finds",
            sound,
            "flush, duplicate",
            TWO_CLIENTS,
        ),
        old(
            "one_policy",
            Reject,
            "two policies",
            unchecked,
            "",
            TWO_CLIENTS,
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

/// One session; two users on one connector; two users on two; and one user on two connectors.
mod deleting {
    use crate::deletion::Cast;

    pub(super) const ONE: Cast = [Some((0, 0)), None];
    pub(super) const SIDE_BY_SIDE: Cast = [Some((0, 0)), Some((0, 1))];
    pub(super) const APART: Cast = [Some((0, 0)), Some((1, 1))];
    pub(super) const ONE_USER: Cast = [Some((0, 0)), Some((1, 0))];
}

fn of_deletion(
    name: &str,
    rules: deletion::Rules,
    bounds: &str,
    cast: deletion::Cast,
    grace: bool,
) -> Scenario {
    let none = deletion::Budget::ALL;
    let budget = chances(bounds).fold(none, |budget, (name, value)| budget.with(name, value));
    let sessions = cast.iter().flatten().count();
    let with = if grace { ", grace" } else { "" };
    Scenario::new(
        format!("deletion/{name}"),
        format!("{sessions} sessions{with}; {bounds}"),
        Deleting {
            rules,
            budget,
            cast,
            grace,
        },
    )
}

fn deletions() -> Vec<Scenario> {
    use deleting::{APART, ONE, ONE_USER, SIDE_BY_SIDE};
    let sound = deletion::Rules::ALL;
    let hold = |name, bounds, cast| of_deletion(name, sound, bounds, cast, false);
    let lingering = |name, bounds, cast| of_deletion(name, sound, bounds, cast, true);
    let small = [
        hold("copies", "delete, duplicate", SIDE_BY_SIDE),
        hold("joining again", "delete 2, duplicate, change_mind", ONE),
        hold("lost answers", "delete, lost_answer, give_up", ONE),
        hold("one user", "delete", ONE_USER),
        hold("trimmed", "delete, trim, change_mind, duplicate", ONE),
        hold("slot rollback", "delete, rollback, change_mind", ONE),
        hold(
            "slot rollback, restart",
            "delete, rollback, restart, publish",
            ONE,
        ),
        hold("flush", "delete, flush, change_mind", ONE),
        lingering("grace", "delete 2, duplicate", ONE),
        lingering("grace, slot rollback", "delete 2, rollback", ONE),
    ];
    let large = [
        hold(
            "slot rollback, side by side",
            "delete, rollback",
            SIDE_BY_SIDE,
        ),
        hold("slot rollback, apart", "delete, rollback", APART),
        hold("slot rollback, one user", "delete, rollback", ONE_USER),
        hold("flush, side by side", "delete, flush", SIDE_BY_SIDE),
        hold(
            "trimmed, side by side",
            "delete, trim, change_mind",
            SIDE_BY_SIDE,
        ),
        hold(
            "two deletions and a slot rollback",
            "delete 2, rollback, restart, publish 2",
            ONE,
        ),
        hold(
            "lost answers, drops",
            "delete 2, drop, lost_answer, give_up",
            ONE,
        ),
        hold(
            "flush and slot rollback",
            "delete 2, rollback, flush, publish",
            ONE,
        ),
        hold(
            "joining again, everything",
            "delete 2, duplicate, change_mind 2, lost_answer, trim",
            ONE,
        ),
        lingering(
            "grace, side by side",
            "delete, duplicate, change_mind",
            SIDE_BY_SIDE,
        ),
    ];
    let large = large.map(Scenario::large);
    small.into_iter().chain(large).collect()
}

fn wrong_deletions() -> Vec<Scenario> {
    use deleting::{ONE, SIDE_BY_SIDE};
    let without = |rule, name, bounds, cast| {
        let rules = deletion::Rules::ALL.with(rule, false);
        of_deletion(name, rules, bounds, cast, false).wrong()
    };
    let lossless = "delete 2, duplicate, change_mind";
    let lossy = "delete, rollback, restart, publish 2";
    vec![
        without(
            "repair_says_when",
            "repairs do not say when the membership began",
            lossless,
            ONE,
        ),
        without(
            "by_name",
            "offsets say what began before a deletion",
            "delete, rollback, publish 2",
            ONE,
        ),
        without(
            "same_life",
            "beginnings are compared across lives",
            "delete, flush, rollback, publish",
            ONE,
        ),
        without(
            "repair_moves_beginning",
            "a repair leaves the beginning as it was",
            "delete, flush",
            ONE,
        ),
        without(
            "refusal_ends",
            "a refused repair ends nothing",
            "delete, trim",
            ONE,
        ),
        without(
            "meeting_ends",
            "only the reconciler ends what was deleted",
            lossless,
            ONE,
        ),
        without(
            "answer_compared",
            "a late answer is not compared with deletions",
            lossless,
            ONE,
        ),
        without(
            "met_since_sent",
            "a late answer is compared with old deletions",
            "delete, rollback",
            SIDE_BY_SIDE,
        ),
        without(
            "unknown_ends_nobody",
            "an old deletion ends members after a loss",
            lossy,
            ONE,
        ),
        without("leave_sent", "no leave after a deletion", lossless, ONE),
        without(
            "leave_fenced",
            "the leave after a deletion is not fenced",
            lossless,
            ONE,
        ),
        without(
            "reconcile",
            "nobody reconciles after a deletion",
            "delete, trim",
            ONE,
        ),
        without("key", "deletions have no keys", lossless, ONE),
        without(
            "tombstones_stay",
            "a deletion removes tombstones",
            lossless,
            ONE,
        ),
    ]
}
