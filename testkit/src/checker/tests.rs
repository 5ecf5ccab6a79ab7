//! The checker finds each kind of fault in a history that has it, and nothing in a history that has none.

use super::*;
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
            events.push(Event::PositionTold(position, Reason::NewEpoch));
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
    // A member whose connection has ended need not reach the end.
    let mut gone = clean();
    gone.members
        .push(member("carol", at("a", 2), run(&log, 3, 4)));
    gone.members[2].events.push(Event::Ended("closed".into()));
    assert_eq!(check(&gone), []);
}

#[test]
fn a_loss_that_the_member_was_told_of_is_no_finding() {
    // Bob saw a sixth and a seventh publication of the old epoch, which were lost.
    let log = log();
    let lost = [
        Event::Received(6, said("carol", 0)),
        Event::Received(7, said("carol", 1)),
    ];
    let told = vec![Event::PositionTold(at("a", 5), Reason::Diverged)];
    let events = [
        run(&log, 2, 5),
        lost.to_vec(),
        told,
        vec![Event::PositionTold(at("b", 5), Reason::NewEpoch)],
        run(&log, 6, 7),
    ];
    assert_eq!(check(&bob(events.concat())), []);
    // Bob was away too long.
    let mut trimmed = bob([
        run(&log, 2, 3),
        vec![
            resumed(at("a", 3), false),
            Event::PositionTold(at("a", 5), Reason::Trimmed),
            Event::PositionTold(at("b", 5), Reason::NewEpoch),
        ],
        run(&log, 6, 7),
    ]
    .concat());
    trimmed.log.entries = trimmed.log.entries.split_off(&6);
    assert_eq!(check(&trimmed), []);
    // Bob comes with a position of another life of the channel.
    let other = [
        vec![Event::PositionTold(at("z", 9), Reason::NewEpoch)],
        vec![Event::PositionTold(at("a", 1), Reason::Unknown)],
        run(&log, 2, 7),
    ];
    let mut life = clean();
    life.members[1] = member("bob", at("y", 9), other.concat());
    assert_eq!(check(&life), []);
}

#[test]
fn a_publication_that_a_member_did_not_receive_is_lost() {
    assert_eq!(kinds(&bob(run(&log(), 2, 6))), [Kind::Lost]);
}

#[test]
fn a_recovered_login_without_the_missed_publications_is_a_loss() {
    let events = [
        run(&log(), 2, 5),
        vec![Event::Ended("reset".into()), resumed(at("a", 5), true)],
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Lost]);
}

#[test]
fn an_acknowledged_message_that_nobody_has_is_forgotten() {
    let mut history = clean();
    history
        .sent
        .insert(("alice".into(), 3), Outcome::Acknowledged);
    history.sent.insert(("alice".into(), 4), Outcome::Unknown);
    assert_eq!(kinds(&history), [Kind::Forgotten]);
}

#[test]
fn a_publication_that_is_not_in_the_log_is_stale() {
    let events = [
        run(&log(), 2, 5),
        vec![Event::Received(6, said("carol", 0))],
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Lost, Kind::Stale]);
}

#[test]
fn an_offset_that_is_received_twice_is_duplicated() {
    let events = [run(&log(), 2, 5), run(&log(), 5, 7)];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Duplicated]);
}

#[test]
fn a_message_at_two_offsets_is_duplicated() {
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
fn two_orders_are_found_even_if_all_offsets_are_right() {
    let mut events = run(&log(), 2, 7);
    events[1] = Event::Received(3, said("bob", 0));
    events[2] = Event::Received(4, said("alice", 0));
    let found = kinds(&bob(events));
    assert!(found.contains(&Kind::Reordered), "{found:?}");
    assert!(found.contains(&Kind::Inconsistent), "{found:?}");
}

#[test]
fn messages_of_a_sender_must_be_in_order_unless_one_was_not_answered() {
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
fn one_position_with_two_contents_is_found_even_if_the_log_was_trimmed() {
    let mut history = clean();
    history.log.entries = history.log.entries.split_off(&5);
    let mut events = run(&log(), 2, 7);
    events[1] = Event::Received(3, said("mallory", 0));
    history.members[1] = member("bob", at("a", 1), events);
    assert_eq!(kinds(&history), [Kind::Inconsistent]);
}

#[test]
fn an_offset_that_is_skipped_is_a_gap() {
    let mut events = run(&log(), 2, 7);
    events.remove(2);
    assert_eq!(kinds(&bob(events)), [Kind::Lost, Kind::Gap]);
    // The same at the beginning of an epoch.
    let mut events = run(&log(), 2, 7);
    events.remove(3);
    assert_eq!(kinds(&bob(events)), [Kind::Lost, Kind::Gap]);
}

#[test]
fn a_gap_after_a_recovered_login_is_a_kind_of_its_own() {
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 3), true)],
        run(&log(), 5, 7),
    ];
    assert_eq!(
        kinds(&bob(events.concat())),
        [Kind::Lost, Kind::RecoveredWithGap]
    );
}

#[test]
fn a_member_that_is_not_recovered_must_be_told_of_the_loss() {
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 3), false)],
        run(&log(), 4, 7),
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Gap]);
}

#[test]
fn a_refused_message_must_not_be_received() {
    let mut history = clean();
    history.sent.insert(("bob".into(), 1), Outcome::Refused);
    assert_eq!(kinds(&history), [Kind::RefusedButSeen]);
    // This also holds for a member that was told of the loss later.
    let log = log();
    let lost = vec![Event::Received(6, said("carol", 0))];
    let told = vec![
        Event::PositionTold(at("a", 5), Reason::Diverged),
        Event::PositionTold(at("b", 5), Reason::NewEpoch),
    ];
    let mut history = bob([run(&log, 2, 5), lost, told, run(&log, 6, 7)].concat());
    history.sent.insert(("carol".into(), 0), Outcome::Refused);
    assert_eq!(kinds(&history), [Kind::RefusedButSeen]);
}

#[test]
fn a_member_that_lost_nothing_must_not_be_told_of_a_loss() {
    for (told, reason) in [
        (at("a", 3), Reason::Diverged),
        (at("a", 3), Reason::Unknown),
        (at("a", 3), Reason::Trimmed),
    ] {
        let events = [
            run(&log(), 2, 3),
            vec![Event::PositionTold(told, reason)],
            run(&log(), 4, 7),
        ];
        assert_eq!(
            kinds(&bob(events.concat())),
            [Kind::FalseLoss],
            "{reason:?}"
        );
    }
}

#[test]
fn the_listed_members_must_be_those_with_a_live_socket() {
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
fn the_members_by_the_log_must_be_those_with_a_live_socket() {
    let mut history = clean();
    history.log.entries.insert(3, went("onJoin", "bob"));
    assert!(kinds(&history).contains(&Kind::Membership));

    // A ghost that only the log has, then one that only the list has.
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
fn a_user_that_has_left_must_not_publish() {
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
fn violations_of_the_protocol_are_found() {
    let mut history = clean();
    history.members[0]
        .events
        .push(Event::ProtocolError("a binary frame".into()));
    assert_eq!(kinds(&history), [Kind::Protocol]);
    let events = [
        run(&log(), 2, 3),
        vec![resumed(at("a", 2), true)],
        run(&log(), 4, 7),
    ];
    assert_eq!(kinds(&bob(events.concat())), [Kind::Protocol]);
}
