//! Each wrong is found in a history that has it, and nothing in a history that has none.

use super::*;
use crate::log::Log;
use serde_json::json;

fn at(epoch: &str, offset: u64) -> Position {
    Position {
        epoch: epoch.into(),
        offset,
    }
}

fn said(user: &str, number: u64) -> Content {
    Content::new("onMessage", &json!({ "n": number, "userId": user }))
}

fn went(route: &str, user: &str) -> Content {
    Content::new(route, &json!({ "userId": user }))
}

/// Epoch a: alice and bob join, three messages; epoch b from 6: one more each.
fn log() -> Log {
    let contents = [
        went("onJoin", "alice"),
        went("onJoin", "bob"),
        said("alice", 0),
        said("bob", 0),
        said("alice", 1),
        said("bob", 1),
        said("alice", 2),
    ];
    Log {
        epochs: vec![("a".into(), 1), ("b".into(), 6)],
        last: 7,
        entries: (1..).zip(contents).collect(),
    }
}

/// Everything of the log from an offset to another, as a member receives it.
fn run(log: &Log, from: u64, to: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for (&offset, content) in log.entries.range(from..=to) {
        if offset > from && log.epoch(offset) != log.epoch(offset - 1) {
            let position = at(log.epoch(offset), offset - 1);
            events.push(Event::Told(position, Reason::NewEpoch));
        }
        events.push(Event::Received(offset, content.clone()));
    }
    events
}

fn member(name: &str, start: Position, events: Vec<Event>) -> Member {
    Member {
        name: name.into(),
        events: [vec![Event::Entered(start)], events].concat(),
    }
}

fn clean() -> History {
    let log = log();
    let messages = log
        .entries
        .values()
        .filter_map(|content| content.message.clone());
    History {
        members: vec![
            member("alice", at("a", 0), run(&log, 1, 7)),
            member("bob", at("a", 1), run(&log, 2, 7)),
        ],
        sent: messages.map(|m| (m, Outcome::Acknowledged)).collect(),
        listed: listed(&["alice", "bob"]),
        log,
    }
}

/// One session each.
fn listed(users: &[&str]) -> Option<BTreeMap<String, u32>> {
    let users = users.iter();
    Some(users.map(|&user| (user.to_owned(), 1)).collect())
}

/// The kinds of what is found, once each.
fn kinds(history: &History) -> Vec<Kind> {
    let mut kinds: Vec<_> = check(history).iter().map(|finding| finding.kind).collect();
    kinds.dedup();
    kinds
}

/// Replaces what bob, at offset 1, has received.
fn bob(events: Vec<Event>) -> History {
    let mut history = clean();
    history.members[1] = member("bob", at("a", 1), events);
    history
}

fn resumed(since: Position, recovered: bool) -> Event {
    Event::Resumed { since, recovered }
}

#[test]
fn nothing_is_wrong_with_a_clean_history() {
    assert_eq!(check(&clean()), []);
    let log = log();
    let reconnected = [
        run(&log, 2, 3),
        vec![Event::Ended("reset".into()), resumed(at("a", 3), true)],
        run(&log, 4, 7),
    ];
    assert_eq!(check(&bob(reconnected.concat())), []);
    // Who has gone need not reach the end.
    let mut gone = clean();
    gone.members
        .push(member("carol", at("a", 2), run(&log, 3, 4)));
    gone.members[2].events.push(Event::Ended("closed".into()));
    assert_eq!(check(&gone), []);
}

#[test]
fn a_told_loss_is_no_wrong() {
    // It saw a sixth of the old epoch, which was lost, and a seventh.
    let log = log();
    let lost = [
        Event::Received(6, said("carol", 0)),
        Event::Received(7, said("carol", 1)),
    ];
    let told = vec![Event::Told(at("a", 5), Reason::Diverged)];
    let events = [
        run(&log, 2, 5),
        lost.to_vec(),
        told,
        vec![Event::Told(at("b", 5), Reason::NewEpoch)],
        run(&log, 6, 7),
    ];
    assert_eq!(check(&bob(events.concat())), []);
    // It was away for long.
    let mut trimmed = bob([
        run(&log, 2, 3),
        vec![
            resumed(at("a", 3), false),
            Event::Told(at("a", 5), Reason::Trimmed),
            Event::Told(at("b", 5), Reason::NewEpoch),
        ],
        run(&log, 6, 7),
    ]
    .concat());
    trimmed.log.entries = trimmed.log.entries.split_off(&6);
    assert_eq!(check(&trimmed), []);
    // It comes out of another life.
    let other = [
        vec![Event::Told(at("z", 9), Reason::NewEpoch)],
        vec![Event::Told(at("a", 1), Reason::Unknown)],
        run(&log, 2, 7),
    ];
    let mut life = clean();
    life.members[1] = member("bob", at("y", 9), other.concat());
    assert_eq!(check(&life), []);
}

#[test]
fn what_a_member_did_not_see_is_lost() {
    assert_eq!(kinds(&bob(run(&log(), 2, 6))), [Kind::Lost]);
}

#[test]
fn what_a_login_promises_must_come() {
    let events = [
        run(&log(), 2, 5),
        vec![Event::Ended("reset".into()), resumed(at("a", 5), true)],
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Lost]);
}

#[test]
fn what_was_acknowledged_and_is_nowhere_is_forgotten() {
    let mut history = clean();
    history
        .sent
        .insert(("alice".into(), 3), Outcome::Acknowledged);
    history.sent.insert(("alice".into(), 4), Outcome::Unknown);
    assert_eq!(kinds(&history), [Kind::Forgotten]);
}

#[test]
fn what_the_log_does_not_have_and_nobody_told_is_stale() {
    let events = [
        run(&log(), 2, 5),
        vec![Event::Received(6, said("carol", 0))],
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Lost, Kind::Stale]);
}

#[test]
fn an_offset_that_comes_twice_is_duplicated() {
    let events = [run(&log(), 2, 5), run(&log(), 5, 7)];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Duplicated]);
}

#[test]
fn a_message_at_two_places_is_duplicated() {
    let mut history = clean();
    let again = said("alice", 2);
    history.log.entries.insert(8, again.clone());
    history.log.last = 8;
    for member in &mut history.members {
        member.events.push(Event::Received(8, again.clone()));
    }
    assert_eq!(kinds(&history), [Kind::Duplicated]);
}

#[test]
fn two_orders_are_found_even_if_every_offset_fits() {
    let mut events = run(&log(), 2, 7);
    events[1] = Event::Received(3, said("bob", 0));
    events[2] = Event::Received(4, said("alice", 0));
    let found = kinds(&bob(events));
    assert!(found.contains(&Kind::Reordered), "{found:?}");
    assert!(found.contains(&Kind::Inconsistent), "{found:?}");
}

#[test]
fn a_senders_own_order_is_kept_unless_nobody_answered() {
    let mut history = clean();
    history.log.entries.insert(3, said("alice", 1));
    history.log.entries.insert(5, said("alice", 0));
    let log = history.log.clone();
    history.members[0] = member("alice", at("a", 0), run(&log, 1, 7));
    history.members[1] = member("bob", at("a", 1), run(&log, 2, 7));
    assert_eq!(kinds(&history), [Kind::Reordered]);
    history.sent.insert(("alice".into(), 0), Outcome::Unknown);
    assert_eq!(kinds(&history), []);
}

#[test]
fn one_position_with_two_contents_is_found_among_members_alone() {
    let mut history = clean();
    history.log.entries = history.log.entries.split_off(&5);
    let mut events = run(&log(), 2, 7);
    events[1] = Event::Received(3, said("mallory", 0));
    history.members[1] = member("bob", at("a", 1), events);
    assert_eq!(kinds(&history), [Kind::Inconsistent]);
}

#[test]
fn an_offset_that_is_passed_over_is_a_hole() {
    let mut events = run(&log(), 2, 7);
    events.remove(2);
    assert_eq!(kinds(&bob(events)), [Kind::Lost, Kind::Hole]);
    // The same at an epoch's beginning.
    let mut events = run(&log(), 2, 7);
    events.remove(3);
    assert_eq!(kinds(&bob(events)), [Kind::Lost, Kind::Hole]);
}

#[test]
fn recovered_with_a_hole_is_a_kind_of_its_own() {
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 3), true)],
        run(&log(), 5, 7),
    ];
    assert_eq!(
        kinds(&bob(events.concat())),
        [Kind::Lost, Kind::RecoveredWithHole]
    );
}

#[test]
fn who_is_not_recovered_must_be_told() {
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 3), false)],
        run(&log(), 4, 7),
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Hole]);
}

#[test]
fn what_was_refused_must_not_be_seen() {
    let mut history = clean();
    history.sent.insert(("bob".into(), 1), Outcome::Refused);
    assert_eq!(kinds(&history), [Kind::RefusedYetSeen]);
    // Not even by somebody who was told later that it is void.
    let log = log();
    let lost = vec![Event::Received(6, said("carol", 0))];
    let told = vec![
        Event::Told(at("a", 5), Reason::Diverged),
        Event::Told(at("b", 5), Reason::NewEpoch),
    ];
    let mut history = bob([run(&log, 2, 5), lost, told, run(&log, 6, 7)].concat());
    history.sent.insert(("carol".into(), 0), Outcome::Refused);
    assert_eq!(kinds(&history), [Kind::RefusedYetSeen]);
}

#[test]
fn who_lost_nothing_is_told_nothing() {
    for (told, reason) in [
        (at("a", 3), Reason::Diverged),
        (at("a", 3), Reason::Unknown),
        (at("a", 3), Reason::Trimmed),
    ] {
        let events = [
            run(&log(), 2, 3),
            vec![Event::Told(told, reason)],
            run(&log(), 4, 7),
        ];
        assert_eq!(
            kinds(&bob(events.concat())),
            [Kind::ToldForNothing],
            "{reason:?}"
        );
    }
}

#[test]
fn who_is_listed_is_who_has_a_live_socket() {
    for users in [vec!["alice"], vec!["alice", "bob", "carol"]] {
        let mut history = clean();
        history.listed = listed(&users);
        assert_eq!(kinds(&history), [Kind::Membership]);
    }
    let mut history = clean();
    history.listed = Some([("alice".to_owned(), 1), ("bob".to_owned(), 2)].into());
    assert_eq!(kinds(&history), [Kind::Membership]);
}

#[test]
fn who_has_joined_and_not_left_is_who_has_a_live_socket() {
    let mut history = clean();
    history.log.entries.insert(3, went("onJoin", "bob"));
    assert!(kinds(&history).contains(&Kind::Membership));

    // A ghost by the log alone, and by the list alone.
    let mut history = clean();
    history.members[1].events.push(Event::Ended("gone".into()));
    history.listed = listed(&["alice"]);
    assert_eq!(kinds(&history), [Kind::Membership]);
    let mut history = clean();
    let gone = went("onLeave", "bob");
    history.log.entries.insert(8, gone.clone());
    history.log.last = 8;
    history.members[0].events.push(Event::Received(8, gone));
    history.members[1].events.push(Event::Ended("gone".into()));
    assert_eq!(kinds(&history), [Kind::Membership]);
    history.listed = listed(&["alice"]);
    assert_eq!(check(&history), []);
}

#[test]
fn who_has_left_says_nothing() {
    let mut history = clean();
    let entries = [
        went("onLeave", "bob"),
        said("bob", 2),
        went("onJoin", "bob"),
    ];
    for (offset, content) in (8..).zip(entries) {
        history.log.entries.insert(offset, content.clone());
        history.log.last = offset;
        for member in &mut history.members {
            let content = content.clone();
            member.events.push(Event::Received(offset, content));
        }
    }
    assert_eq!(kinds(&history), [Kind::Membership]);
}

#[test]
fn what_the_protocol_forbids_is_found() {
    let mut history = clean();
    history.members[0]
        .events
        .push(Event::Puzzled("a binary frame".into()));
    assert_eq!(kinds(&history), [Kind::Protocol]);
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 2), true)],
        run(&log(), 4, 7),
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Protocol]);
}
