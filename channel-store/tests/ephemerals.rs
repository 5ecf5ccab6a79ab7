//! Messages for those who are there at this moment. They are heard in their place and stand no_position.

use crate::conformance::conformance;
use crate::support::{
    Kind, RecordingSink, Subject, ephemeral, expecting, from_member, from_session, message,
    no_position, said, session, with_key,
};
use channel_store::{Membership, StoreError, StoreOptions};
use futures_util::future::join_all;
use testkit::redis::Redis;

conformance! {
    an_ephemeral_message_is_heard_in_its_place_and_stands_nowhere
    an_ephemeral_message_moves_no_end_and_uses_no_key
    a_condition_holds_for_an_ephemeral_message_too
    an_ephemeral_message_begins_nothing
}

/// Waits for a publication that was sent last, and answers everything that was told.
async fn told_until(subject: &Subject, sink: &RecordingSink, publications: usize) -> Vec<String> {
    subject.publish(message("4", "u", "end")).await.unwrap();
    sink.until_publications("4", publications + 1).await;
    sink.in_order("4")
}

async fn an_ephemeral_message_is_heard_in_its_place_and_stands_nowhere(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let batch = vec![
        message("4", "u", "a"),
        ephemeral(message("4", "u", "x")),
        ephemeral(message("4", "u", "y")),
        message("4", "u", "b"),
        message("4", "u", "c"),
        ephemeral(message("4", "u", "z")),
    ];
    let publisher = subject.store.publisher().unwrap();
    let outcomes = publisher.publish(batch).await.unwrap();
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let shown: Vec<_> = outcomes
        .iter()
        .map(|it| (it.position.offset, it.ephemeral, it.reached, it.repeated))
        .collect();
    let logged = |offset| (offset, false, 1, false);
    let given = |offset| (offset, true, 1, false);
    let expected = [
        logged(1),
        given(1),
        given(1),
        logged(2),
        logged(3),
        given(3),
    ];
    assert_eq!(shown, expected);
    assert_eq!(outcomes[1].position, outcomes[0].position);
    assert!(outcomes[1].time > 1_700_000_000_000);
    let alone = subject.publish(ephemeral(message("4", "u", "w"))).await;
    assert_eq!(alone.unwrap().position, outcomes[4].position);
    assert_eq!(
        told_until(&subject, &sink, 3).await,
        ["1 a", "~1 x", "~1 y", "2 b", "3 c", "~3 z", "~3 w", "4 end"]
    );
    let stored = ["onMessage a", "onMessage b", "onMessage c", "onMessage end"];
    assert_eq!(said(&subject.log("4").await), stored);
}

async fn an_ephemeral_message_moves_no_end_and_uses_no_key(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let end = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    for _ in 0..2 {
        let given = ephemeral(with_key(message("4", "u", "x"), "k"));
        assert!(!subject.publish(given).await.unwrap().repeated);
    }
    let next = with_key(expecting(message("4", "u", "b"), &end), "k");
    assert!(!subject.publish(next.clone()).await.unwrap().repeated);
    // A key that stands for another message counts for nothing, either.
    let given = ephemeral(with_key(message("4", "u", "y"), "k"));
    assert!(subject.publish(given).await.unwrap().ephemeral);
    assert!(subject.publish(next).await.unwrap().repeated);
    assert_eq!(
        told_until(&subject, &sink, 2).await,
        ["1 a", "~1 x", "~1 x", "2 b", "~2 y", "3 end"]
    );
}

async fn a_condition_holds_for_an_ephemeral_message_too(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let attempt = || ephemeral(message("4", "v", "x"));
    for refused in [from_session(attempt(), "s"), from_member(attempt())] {
        assert_eq!(subject.publish(refused).await, Err(StoreError::NotMember));
    }
    subject.join("4", "v", session("s", 1)).await.unwrap();
    let end = subject
        .join("4", "v", Membership::Detached)
        .await
        .unwrap()
        .position;
    let elsewhere = subject.publish(expecting(attempt(), &no_position())).await;
    assert_eq!(
        elsewhere,
        Err(StoreError::PositionMismatch { end: end.clone() })
    );
    for given in [
        from_session(attempt(), "s"),
        from_member(attempt()),
        expecting(attempt(), &end),
    ] {
        subject.publish(given).await.unwrap();
    }
    let join = r#"1 {"userId":"v"}"#;
    assert_eq!(
        told_until(&subject, &sink, 1).await,
        [join, "~1 x", "~1 x", "~1 x", "2 end"]
    );
}

async fn an_ephemeral_message_begins_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    let given = subject.publish(ephemeral(message("4", "u", "x"))).await;
    let given = given.unwrap();
    assert_eq!((given.position, given.reached), (no_position(), 0));
    let first = subject.publish(message("4", "u", "a")).await.unwrap();
    assert_eq!(first.position.offset, 1);
}

#[tokio::test]
async fn in_redis_an_ephemeral_message_leaves_no_key() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    subject
        .publish(ephemeral(message("4", "u", "x")))
        .await
        .unwrap();
    assert_eq!(subject.server().keys(), ["gc:schema"]);
}

#[tokio::test]
async fn in_another_server_lifetime_an_ephemeral_message_begins_no_epoch() {
    let subject = Subject::new(Kind::Memory).await;
    let end = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    subject.memory().restart(None);
    let given = subject.publish(ephemeral(message("4", "u", "x"))).await;
    assert_eq!(given.unwrap().position, end);
    let next = subject.publish(message("4", "u", "b")).await.unwrap();
    assert_ne!(next.position.epoch, end.epoch);
}
