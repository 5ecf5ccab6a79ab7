//! Messages that are stored only under a condition: the log ends where the sender says, or the sender is a member.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, expecting, from_member, from_session, message, no_position, said, session,
    until_available_is, with_key,
};
use channel_store::{Epoch, Membership, Position, Published, StoreError, StoreOptions};
use futures_util::future::join_all;
use std::time::Duration;
use testkit::redis::Redis;

conformance! {
    a_message_is_stored_only_if_the_log_ends_where_its_sender_expects
    joins_and_leaves_move_the_end_that_a_sender_expects
    a_retry_is_answered_as_the_first_try_wherever_the_log_ends_now
    a_mismatch_leaves_the_key_unused
    each_message_of_a_call_sees_the_end_that_those_before_it_left
    of_many_senders_who_expect_the_same_end_one_wins
    a_user_who_must_be_a_member_may_have_any_session_or_none
    a_sender_who_is_no_member_is_told_so_and_not_where_the_log_ends
}

fn mismatch(end: &Position) -> Result<Published, StoreError> {
    Err(StoreError::PositionMismatch { end: end.clone() })
}

/// The next position of the same epoch.
fn next(position: &Position) -> Position {
    Position {
        epoch: position.epoch.clone(),
        offset: position.offset + 1,
    }
}

async fn a_message_is_stored_only_if_the_log_ends_where_its_sender_expects(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let unknown = Position {
        epoch: Epoch::new("another\n7"),
        offset: 0,
    };
    let attempt =
        |body: &str, end: &Position| subject.publish(expecting(message("4", "u", body), end));
    assert_eq!(attempt("x", &unknown).await, mismatch(&no_position()));
    let first = attempt("a", &no_position()).await.unwrap().position;
    assert_eq!(first.offset, 1);
    let elsewhere = Position {
        epoch: unknown.epoch,
        offset: 1,
    };
    for wrong in [no_position(), next(&first), elsewhere] {
        assert_eq!(attempt("x", &wrong).await, mismatch(&first), "{wrong:?}");
    }
    let second = attempt("b", &first).await.unwrap().position;
    assert_eq!(second, next(&first));
    assert_eq!(attempt("x", &first).await, mismatch(&second));
    subject.publish(message("4", "u", "c")).await.unwrap();
    assert_eq!(attempt("x", &second).await, mismatch(&next(&second)));
    let stored = ["onMessage a", "onMessage b", "onMessage c"];
    assert_eq!(said(&subject.log("4").await), stored);
    assert_eq!(said(&sink.until_publications("4", 3).await), stored);
}

async fn joins_and_leaves_move_the_end_that_a_sender_expects(kind: Kind) {
    let subject = Subject::new(kind).await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let attempt = |end: &Position| subject.publish(expecting(message("4", "v", "a"), end));
    assert_eq!(attempt(&no_position()).await, mismatch(&joined.position));
    let said = attempt(&joined.position).await.unwrap().position;
    assert!(subject.leave("4", "u", session("s", 2)).await);
    assert_eq!(attempt(&said).await, mismatch(&next(&said)));
    attempt(&next(&said)).await.unwrap();
}

async fn a_retry_is_answered_as_the_first_try_wherever_the_log_ends_now(kind: Kind) {
    let subject = Subject::new(kind).await;
    let end = subject.publish(message("4", "u", "a")).await.unwrap();
    let attempt = || with_key(expecting(message("4", "u", "b"), &end.position), "k");
    let first = subject.publish(attempt()).await.unwrap();
    subject.publish(message("4", "u", "c")).await.unwrap();
    let again = subject.publish(attempt()).await.unwrap();
    assert_eq!((again.position, again.repeated), (first.position, true));
    // In one call, too.
    let batch = vec![message("4", "u", "d"), attempt()];
    let publisher = subject.store.publisher().unwrap();
    let outcomes = publisher.publish(batch).await.unwrap();
    assert!(outcomes[1].as_ref().unwrap().repeated);
    assert_eq!(subject.log("4").await.len(), 4);
}

async fn a_mismatch_leaves_the_key_unused(kind: Kind) {
    let subject = Subject::new(kind).await;
    let end = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    let attempt = |body: &str, end: &Position| {
        let message = expecting(message("4", "u", body), end);
        subject.publish(with_key(message, "k"))
    };
    for _ in 0..2 {
        assert_eq!(attempt("b", &no_position()).await, mismatch(&end));
    }
    let stored = attempt("another", &end).await.unwrap();
    assert!(!stored.repeated);
    assert_eq!(stored.position, next(&end));
}

async fn each_message_of_a_call_sees_the_end_that_those_before_it_left(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject
        .publish(message("4", "u", "1"))
        .await
        .unwrap()
        .position;
    let second = next(&first);
    let fourth = next(&next(&second));
    let batch = vec![
        expecting(message("4", "u", "2"), &first),
        expecting(message("4", "v", "x"), &first),
        expecting(message("4", "v", "3"), &second),
        message("4", "u", "4"),
        expecting(message("4", "v", "5"), &fourth),
        expecting(message("5", "v", "1"), &no_position()),
    ];
    let publisher = subject.store.publisher().unwrap();
    let outcomes = publisher.publish(batch).await.unwrap().into_iter();
    let outcomes: Vec<_> = outcomes
        .map(|it| it.map(|published| published.position.offset))
        .collect();
    let end = second.clone();
    let refused = Err(StoreError::PositionMismatch { end });
    assert_eq!(outcomes, [Ok(2), refused, Ok(3), Ok(4), Ok(5), Ok(1)]);
    let stored = said(&subject.log("4").await);
    assert_eq!(
        stored,
        ["1", "2", "3", "4", "5"].map(|it| format!("onMessage {it}"))
    );
}

async fn of_many_senders_who_expect_the_same_end_one_wins(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut end = no_position();
    for round in 0..20 {
        let attempts = (0..20).map(|sender| {
            let message = message("4", &format!("u{sender}"), &format!("{round}"));
            subject.publish(with_key(expecting(message, &end), &format!("{round}")))
        });
        let outcomes = join_all(attempts).await;
        let won: Vec<_> = outcomes.iter().filter_map(|it| it.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        end = won[0].position.clone();
        let lost = outcomes.iter().filter(|it| **it == mismatch(&end));
        assert_eq!(lost.count(), 19, "all others are told the new end");
    }
    assert_eq!(subject.log("4").await.len(), 20);
}

async fn a_user_who_must_be_a_member_may_have_any_session_or_none(kind: Kind) {
    let subject = Subject::new(kind).await;
    let attempt = |user: &str, key: &str| {
        subject.publish(with_key(from_member(message("4", user, "a")), key))
    };
    subject.join("4", "other", session("o", 1)).await.unwrap();
    assert_eq!(attempt("u", "1").await, Err(StoreError::NotMember));
    subject.join("4", "u", Membership::Detached).await.unwrap();
    let first = attempt("u", "2").await.unwrap();
    subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(subject.leave("4", "u", Membership::Detached).await);
    attempt("u", "3").await.unwrap();
    assert!(subject.leave("4", "u", session("s", 2)).await);
    assert_eq!(attempt("u", "4").await, Err(StoreError::NotMember));
    let again = attempt("u", "2").await.unwrap();
    assert_eq!(again.position, first.position, "the key comes first");
    // The sender must be one, and the session that is named, too.
    let of_another = from_session(from_member(message("4", "other", "a")), "s");
    assert_eq!(
        subject.publish(of_another).await,
        Err(StoreError::NotMember)
    );
    let of_its_own = from_session(from_member(message("4", "other", "a")), "o");
    subject.publish(of_its_own).await.unwrap();
}

async fn a_sender_who_is_no_member_is_told_so_and_not_where_the_log_ends(kind: Kind) {
    let subject = Subject::new(kind).await;
    let end = subject
        .publish(message("4", "v", "a"))
        .await
        .unwrap()
        .position;
    for expected in [&end, &no_position()] {
        let message = from_member(expecting(message("4", "u", "b"), expected));
        assert_eq!(subject.publish(message).await, Err(StoreError::NotMember));
    }
    subject.join("4", "v", Membership::Detached).await.unwrap();
    let attempt = |end: &Position| {
        let message = from_member(expecting(message("4", "v", "b"), end));
        subject.publish(message)
    };
    assert_eq!(attempt(&end).await, mismatch(&next(&end)));
    attempt(&next(&end)).await.unwrap();
}

/// Publishes so many messages. Answers the last position.
async fn publish_some(subject: &Subject, count: u64) -> Position {
    let mut last = no_position();
    for n in 0..count {
        let message = message("4", "u", &format!("{n}"));
        last = subject.publish(message).await.unwrap().position;
    }
    last
}

/// What holds after a server lifetime that ended at `seen`, and lost what came after `kept`.
async fn only_who_has_seen_what_is_kept_goes_on(
    subject: &Subject,
    seen: &Position,
    kept: &Position,
) {
    let attempt = |body: &str, end: &Position| {
        let message = expecting(message("4", "u", body), end);
        subject.publish(with_key(message, body))
    };
    if seen != kept {
        assert_eq!(attempt("x", seen).await, mismatch(kept));
    }
    let first = attempt("new", kept).await.unwrap().position;
    assert_eq!(first.offset, kept.offset + 1);
    assert_ne!(first.epoch, kept.epoch, "another server lifetime");
    // The offset is the same as that of what was lost, and the epoch is another.
    for old in [seen, &next(kept)] {
        assert_eq!(attempt("x", old).await, mismatch(&first), "{old:?}");
    }
    attempt("newer", &first).await.unwrap();
}

#[tokio::test]
async fn in_memory_an_expected_end_holds_over_a_restart_unless_something_after_it_is_lost() {
    for lost in [0, 2] {
        let subject = Subject::new(Kind::Memory).await;
        let kept = publish_some(&subject, 3).await;
        let snapshot = subject.memory().snapshot();
        let seen = if lost > 0 {
            publish_some(&subject, lost).await
        } else {
            kept.clone()
        };
        subject.memory().restart((lost > 0).then_some(snapshot));
        only_who_has_seen_what_is_kept_goes_on(&subject, &seen, &kept).await;
    }
}

#[tokio::test]
async fn in_redis_an_expected_end_holds_over_a_restart_unless_something_after_it_is_lost() {
    const SOON: Duration = Duration::from_secs(10);
    for lost in [0, 2] {
        let mut subject =
            Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
        let kept = publish_some(&subject, 3).await;
        subject.server().say("SAVE");
        let seen = if lost > 0 {
            publish_some(&subject, lost).await
        } else {
            kept.clone()
        };
        subject.server().kill();
        until_available_is(subject.store.available(), false, SOON).await;
        subject.server().restart().await;
        until_available_is(subject.store.available(), true, SOON).await;
        only_who_has_seen_what_is_kept_goes_on(&subject, &seen, &kept).await;
    }
}
