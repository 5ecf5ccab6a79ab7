//! A channel is deleted. That is an event in its log, after which only new members and new publications count.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, expecting, from_session, message, name, no_position, offsets, read, said,
    session, session_of, text_user, until_available_is, with_key,
};
use channel_store::{
    Beginning, ChannelStore, Continuity, HistoryRange, IdempotencyKey, Join, Joined, LogRule,
    Membership, ON_DELETED, Pattern, Position, StoreError, StoreOptions,
};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use testkit::redis::Redis;
use testkit::resp::Value;

conformance! {
    a_deletion_is_all_that_the_log_holds_and_nobody_is_a_member
    who_follows_meets_the_deletion_in_its_place
    a_reader_that_was_behind_is_told_so
    what_there_is_not_cannot_be_deleted
    a_channel_that_begins_again_is_found_and_may_be_deleted_again
    a_repeated_deletion_with_its_key_spares_what_has_begun_since
    a_membership_from_before_the_deletion_is_not_repaired
    late_joins_of_those_who_had_left_are_still_refused
    a_leave_after_the_deletion_finds_nothing
    messages_from_before_the_deletion_are_still_known_by_their_keys
    a_channel_with_silent_joins_can_be_deleted
    of_many_deletions_at_once_one_has_an_effect
}

async fn delete(subject: &Subject, channel: &str) -> Option<Position> {
    subject.store.delete(&name(channel), None).await.unwrap()
}

async fn delete_by_key(subject: &Subject, channel: &str, key: &str) -> Option<Position> {
    let key = IdempotencyKey::new(key).unwrap();
    let deleted = subject.store.delete(&name(channel), Some(&key)).await;
    deleted.unwrap()
}

async fn exists(subject: &Subject, channel: &str) -> bool {
    let summaries = subject.store.summaries(&[name(channel)]).await;
    summaries.unwrap().remove(0).is_some()
}

async fn is_listed(subject: &Subject, channel: &str) -> bool {
    let page = subject.store.channels("", None, 100).await.unwrap();
    page.channels.iter().any(|(it, _)| *it == name(channel))
}

/// Repairs a membership that began with this answer.
async fn repair(
    subject: &Subject,
    user: &str,
    as_: Membership,
    began: &Joined,
) -> Result<Joined, StoreError> {
    let join = Join {
        repairs: Some(Beginning {
            life: began.life.clone(),
            deletion: began.deletion.clone(),
        }),
        ..Join::new(name("4"), text_user(user), as_)
    };
    subject.store.join(join).await
}

async fn a_deletion_is_all_that_the_log_holds_and_nobody_is_a_member(kind: Kind) {
    let subject = Subject::new(kind).await;
    for (of, session, number) in [("c1:1", "s", 1), ("c2:1", "t", 2), ("c2:1", "v", 3)] {
        let as_ = session_of(of, session, number);
        subject.join("4", session, as_).await.unwrap();
    }
    subject
        .join("4", "bot", Membership::Detached)
        .await
        .unwrap();
    let last = subject.publish(message("4", "s", "{}")).await.unwrap();

    let deleted = delete(&subject, "4").await.unwrap();
    assert_eq!(deleted.offset, last.position.offset + 1);
    assert_ne!(deleted.epoch, last.position.epoch, "an epoch begins");
    let log = subject.log("4").await;
    assert_eq!((log.len(), &log[0].position), (1, &deleted));
    assert!(log[0].payload.is_deletion());
    assert_eq!(
        (
            log[0].payload.route(),
            log[0].payload.sender(),
            log[0].payload.body()
        ),
        (ON_DELETED, "", &b"{}"[..])
    );
    assert_eq!(subject.members("4").await, []);
    let expired = subject.store.expire(&name("4")).await;
    assert_eq!(expired, Ok(None), "the detached member is out, too");
    assert!(!exists(&subject, "4").await && !is_listed(&subject, "4").await);
    let say = from_session(message("4", "s", "{}"), "s");
    assert_eq!(subject.publish(say).await, Err(StoreError::NotMember));

    // Everybody may come again at once.
    for (of, session, number) in [("c1:1", "s", 4), ("c2:1", "t", 5)] {
        let as_ = session_of(of, session, number);
        let joined = subject.join("4", session, as_).await.unwrap();
        assert!(joined.published && joined.position.offset > deleted.offset);
    }
    let say = from_session(message("4", "s", "{}"), "s");
    subject.publish(say).await.unwrap();
    assert_eq!(
        said(&subject.log("4").await),
        [
            "onDeleted {}",
            r#"onJoin {"userId":"s"}"#,
            r#"onJoin {"userId":"t"}"#,
            "onMessage {}"
        ],
    );
    assert!(exists(&subject, "4").await && is_listed(&subject, "4").await);
}

async fn who_follows_meets_the_deletion_in_its_place(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, ear) = subject.follow("4").await;
    let before = subject.publish(message("4", "u", "{}")).await.unwrap();
    let deleted = delete(&subject, "4").await.unwrap();
    subject.publish(message("4", "u", "{}")).await.unwrap();
    let heard = ear.until_publications("4", 3).await;
    assert_eq!(offsets(&heard), [1, 2, 3]);
    assert_eq!(heard[1].position, deleted);
    assert!(heard[1].payload.is_deletion());
    // A reader at the end has missed nothing.
    let page = read(&*feed, "4", &before.position, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    assert_eq!(offsets(&page.entries), [2, 3]);
}

async fn a_reader_that_was_behind_is_told_so(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _ear) = subject.feed().await;
    let mut positions = Vec::new();
    for _ in 0..5 {
        let published = subject.publish(message("4", "u", "{}")).await.unwrap();
        positions.push(published.position);
    }
    let deleted = delete(&subject, "4").await.unwrap();
    for position in [&positions[0], &positions[3], &no_position()] {
        let page = read(&*feed, "4", position, 10).await;
        assert_eq!(page.continuity, Continuity::Trimmed, "{position:?}");
        assert_eq!(offsets(&page.entries), [6]);
    }
    let page = read(&*feed, "4", &deleted, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    let upto = HistoryRange::UpTo(positions[4].clone());
    let page = subject.store.history(&name("4"), &upto, 10).await.unwrap();
    assert!(page.entries.is_empty() && !page.more);
    // Some deletions ago is too long ago to say more than that it is unknown.
    for _ in 0..2 {
        subject.publish(message("4", "u", "{}")).await.unwrap();
        delete(&subject, "4").await.unwrap();
    }
    let page = read(&*feed, "4", &positions[3], 10).await;
    assert_eq!(page.continuity, Continuity::Unknown);
    // A connector must not give what was removed from its own memory, either.
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!(joined.trimmed, 9);
}

async fn what_there_is_not_cannot_be_deleted(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert_eq!(delete(&subject, "4").await, None);
    assert_eq!(delete_by_key(&subject, "4", "k").await, None);
    let (feed, _ear) = subject.follow("4").await;
    assert_eq!(
        delete(&subject, "4").await,
        None,
        "an empty epoch is nothing"
    );
    subject.publish(message("4", "u", "{}")).await.unwrap();
    assert!(delete(&subject, "4").await.is_some());
    assert_eq!(delete(&subject, "4").await, None, "it is deleted already");
    let trimmed = subject.store.trim(&name("4"), &no_position()).await;
    assert_eq!(trimmed, Ok(None));
    drop(feed);
}

async fn a_channel_that_begins_again_is_found_and_may_be_deleted_again(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 1..=3 {
        let published = subject.publish(message("4", "u", "{}")).await.unwrap();
        assert_eq!(published.position.offset, 2 * n - 1, "offsets go on");
        assert!(is_listed(&subject, "4").await);
        let deleted = delete(&subject, "4").await.unwrap();
        assert_eq!(deleted.offset, 2 * n);
        assert!(!is_listed(&subject, "4").await);
        // Who expects the end of the log may be the first again.
        if n == 3 {
            let first = expecting(with_key(message("4", "u", "{}"), "k"), &deleted);
            assert_eq!(subject.publish(first).await.unwrap().position.offset, 7);
        }
    }
}

async fn a_repeated_deletion_with_its_key_spares_what_has_begun_since(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let deleted = delete_by_key(&subject, "4", "k").await.unwrap();
    subject.join("4", "u", session("s", 2)).await.unwrap();
    subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(delete_by_key(&subject, "4", "k").await, Some(deleted));
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(offsets(&subject.log("4").await), [2, 3, 4]);
    // A user's keys are not those of deletions, and those of another channel aren't, either.
    let say = with_key(message("4", "u", "{}"), "k");
    assert!(!subject.publish(say).await.unwrap().repeated);
    subject.publish(message("5", "u", "{}")).await.unwrap();
    let other = delete_by_key(&subject, "5", "k").await.unwrap();
    assert_eq!(other.offset, 2);
    let again = delete_by_key(&subject, "4", "l").await.unwrap();
    assert_eq!(again.offset, 6, "another key is another deletion");
}

async fn a_membership_from_before_the_deletion_is_not_repaired(kind: Kind) {
    let subject = Subject::new(kind).await;
    let began = subject.join("4", "u", session("s", 1)).await.unwrap();
    let at_the_end = subject.join("4", "u", session("t", 2)).await.unwrap();
    assert_eq!(at_the_end.position.offset, 1);
    delete(&subject, "4").await.unwrap();
    for (as_, began) in [(session("s", 1), &began), (session("t", 2), &at_the_end)] {
        let repaired = repair(&subject, "u", as_, began).await;
        assert_eq!(repaired, Err(StoreError::ChannelDeleted));
    }
    assert_eq!(subject.members("4").await, []);

    // A membership that began afterwards is repaired.
    let anew = subject.join("4", "u", session("s", 3)).await.unwrap();
    assert_eq!(anew.life, began.life);
    assert_ne!(anew.deletion, began.deletion);
    assert!(subject.leave("4", "u", session("s", 4)).await);
    assert!(repair(&subject, "u", session("s", 3), &anew).await.is_ok());
    // And so is one of another life, because its deletion was of other members.
    let elsewhere = Joined {
        life: subject.join("5", "u", session("s", 1)).await.unwrap().life,
        ..began
    };
    assert!(subject.leave("4", "u", session("s", 5)).await);
    assert!(
        repair(&subject, "u", session("s", 3), &elsewhere)
            .await
            .is_ok()
    );
}

async fn late_joins_of_those_who_had_left_are_still_refused(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.leave_fenced("4", "u", session("s", 2), true).await;
    subject
        .store
        .reap(&name("4"), &crate::support::incarnation("dead:1"))
        .await
        .unwrap();
    delete(&subject, "4").await.unwrap();
    let late = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    let dead = subject.join("4", "u", session_of("dead:1", "t", 1)).await;
    assert_eq!(dead, Err(StoreError::ConnectorDead));
}

async fn a_leave_after_the_deletion_finds_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    delete(&subject, "4").await.unwrap();
    assert!(!subject.leave("4", "u", session("s", 2)).await);
    assert_eq!(offsets(&subject.log("4").await), [2], "no onLeave");
    // The leave of the old membership spares the new one.
    subject.join("4", "u", session("s", 4)).await.unwrap();
    assert!(!subject.leave("4", "u", session("s", 3)).await);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
}

async fn messages_from_before_the_deletion_are_still_known_by_their_keys(kind: Kind) {
    let subject = Subject::new(kind).await;
    let say = || with_key(message("4", "u", "{}"), "k");
    let first = subject.publish(say()).await.unwrap();
    delete(&subject, "4").await.unwrap();
    let again = subject.publish(say()).await.unwrap();
    assert_eq!((again.repeated, again.position), (true, first.position));
    assert_eq!(offsets(&subject.log("4").await), [2]);
}

async fn a_channel_with_silent_joins_can_be_deleted(kind: Kind) {
    let options = StoreOptions {
        log_rules: vec![LogRule {
            pattern: Pattern::new("4").unwrap(),
            announce_members: Some(false),
            ..LogRule::default()
        }],
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let began = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!(began.position.offset, 0);
    assert_eq!(delete(&subject, "4").await.unwrap().offset, 1);
    let repaired = repair(&subject, "u", session("s", 1), &began).await;
    assert_eq!(repaired, Err(StoreError::ChannelDeleted));
    assert_eq!(subject.members("4").await, []);
}

async fn of_many_deletions_at_once_one_has_an_effect(kind: Kind) {
    let subject = Subject::new(kind).await;
    for connector in 0..20 {
        let as_ = session_of(&format!("c{connector}:1"), &format!("s{connector}"), 1);
        subject
            .join("4", &format!("u{connector}"), as_)
            .await
            .unwrap();
    }
    let deletions = join_all((0..10).map(|_| delete(&subject, "4"))).await;
    assert_eq!(deletions.iter().flatten().count(), 1);
    assert_eq!(offsets(&subject.log("4").await), [21]);
}

/// A failover loses the deletion, or only what came before or after it.
async fn repairs_after_a_loss(subject: &Subject, began: &Joined, is_deleted: bool) {
    let repaired = repair(subject, "u", session("s", 1), began).await;
    match is_deleted {
        true => assert_eq!(repaired, Err(StoreError::ChannelDeleted)),
        false => assert!(repaired.is_ok(), "{repaired:?}"),
    }
}

#[tokio::test]
async fn in_memory_a_lost_deletion_ends_no_membership() {
    let subject = Subject::new(Kind::Memory).await;
    let began = subject.join("4", "u", session("s", 1)).await.unwrap();
    let snapshot = subject.memory().snapshot();
    delete(&subject, "4").await.unwrap();
    subject.memory().restart(Some(snapshot));
    repairs_after_a_loss(&subject, &began, false).await;
}

/// A join is lost in a failover, and before it is repaired, the channel is deleted.
#[tokio::test]
async fn in_memory_a_deletion_ends_memberships_whose_beginning_was_lost() {
    let subject = Subject::new(Kind::Memory).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    let snapshot = subject.memory().snapshot();
    for _ in 0..10 {
        subject.publish(message("4", "u", "{}")).await.unwrap();
    }
    let began = subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.memory().restart(Some(snapshot));
    assert_eq!(delete(&subject, "4").await.unwrap().offset, 2);
    repairs_after_a_loss(&subject, &began, true).await;
}

#[tokio::test]
async fn in_redis_a_lost_deletion_ends_no_membership_and_a_kept_one_does() {
    const SOON: Duration = Duration::from_secs(10);
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    subject.server().say("SAVE");
    for _ in 0..10 {
        subject.publish(message("4", "u", "{}")).await.unwrap();
    }
    let began = subject.join("4", "u", session("s", 1)).await.unwrap();
    delete(&subject, "4").await.unwrap();
    subject.server().kill();
    until_available_is(subject.store.available(), false, SOON).await;
    subject.server().restart().await;
    until_available_is(subject.store.available(), true, SOON).await;
    repairs_after_a_loss(&subject, &began, false).await;

    // Now the beginning is of a part of the log that was lost, and a later deletion holds for it.
    assert_eq!(delete(&subject, "4").await.unwrap().offset, 3);
    repairs_after_a_loss(&subject, &began, true).await;
}

#[tokio::test]
async fn what_a_deletion_leaves_in_redis_expires() {
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    let store: Arc<dyn ChannelStore> = Arc::clone(&subject.store);
    for connector in 0..3 {
        let as_ = session_of(&format!("c{connector}:1"), &format!("s{connector}"), 1);
        subject.join("4", "u", as_).await.unwrap();
    }
    let key = IdempotencyKey::new("k").unwrap();
    store.delete(&name("4"), Some(&key)).await.unwrap();
    let Value::List(keys) = subject.server().say("KEYS gc:{4}:*") else {
        panic!("no list");
    };
    assert_eq!(keys.len(), 3, "meta, the log and the key: {keys:?}");
    for key in keys {
        let Value::Text(key) = key else {
            panic!("no text");
        };
        let ask = format!("TTL {}", String::from_utf8(key).unwrap());
        let life = subject.server().say(&ask);
        assert!(matches!(life, Value::Integer(1..)), "{ask}: {life:?}");
    }
}
