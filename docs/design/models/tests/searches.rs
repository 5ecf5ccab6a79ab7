//! The right rules hold, and each rule that is switched off is found to be missed.

use model::{Scenario, Size, Violation, scenarios};

/// States of one search at most: the large ones take up to some gigabytes.
const LIMIT: usize = 60_000_000;

fn all_of(part: &str, holds: bool, size: Size) -> impl Iterator<Item = Scenario> {
    let all = scenarios().into_iter();
    let chosen = all.filter(move |it| it.holds == holds && it.size == size);
    let mut chosen = chosen
        .filter(move |it| it.name.starts_with(part))
        .peekable();
    assert!(chosen.peek().is_some(), "no scenario of {part}");
    chosen
}

fn show(scenario: &Scenario, violation: &Violation) -> String {
    let Scenario { name, bounds, .. } = scenario;
    let history = violation.trace.join("\n    ");
    format!("{name} [{bounds}]: {}\n    {history}", violation.what)
}

#[track_caller]
fn they_hold(part: &str, size: Size) {
    for scenario in all_of(part, true, size) {
        let report = scenario.search(LIMIT);
        if let Some(violation) = &report.violation {
            panic!("{}", show(&scenario, violation));
        }
        assert!(report.complete, "{} was not finished", scenario.name);
        // A rule that forbids everything holds as well.
        assert!(
            report.at_rest > 10,
            "{}: hardly anything happens",
            scenario.name
        );
    }
}

#[track_caller]
fn each_is_found(part: &str) {
    for scenario in all_of(part, false, Size::Small) {
        let report = scenario.search(LIMIT);
        match &report.violation {
            Some(violation) => println!("{}", show(&scenario, violation)),
            None => panic!("{} [{}] breaks nothing", scenario.name, scenario.bounds),
        }
    }
}

#[test]
fn the_rules_of_the_log_hold() {
    they_hold("log/", Size::Small);
}

#[test]
fn each_wrong_rule_of_the_log_is_found() {
    each_is_found("log/");
}

#[test]
fn the_rules_of_membership_hold() {
    they_hold("membership/", Size::Small);
}

#[test]
fn each_wrong_rule_of_membership_is_found() {
    each_is_found("membership/");
}

#[test]
fn the_rules_of_logins_hold() {
    they_hold("logins/", Size::Small);
}

#[test]
fn each_wrong_rule_of_logins_is_found() {
    each_is_found("logins/");
}

#[test]
fn the_rules_of_detached_members_hold() {
    they_hold("detached/", Size::Small);
}

#[test]
fn each_wrong_rule_of_detached_members_is_found() {
    each_is_found("detached/");
}

#[test]
fn the_rules_of_deletions_hold() {
    they_hold("deletion/", Size::Small);
}

#[test]
fn each_wrong_rule_of_deletions_is_found() {
    each_is_found("deletion/");
}

#[test]
#[ignore = "takes minutes: ./tests/run --long"]
fn the_rules_hold_in_larger_worlds() {
    they_hold("", Size::Large);
}
