//! `Ack::Replica`: a publication is acknowledged only when replicas have it, too.

use crate::support::{Subject, eventually, message, session, with_key};
use channel_store::{Ack, Restriction, StoreError, StoreOptions, UserId, When};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use testkit::redis::Redis;

/// A store that acknowledges what one replica has, and that replica.
async fn with_one_replica() -> (Subject, Redis) {
    let server = Redis::without_persistence().await;
    let replica = Redis::replica_of(server.address()).await;
    let options = StoreOptions {
        ack: Ack::Replica { replicas: 1 },
        ..StoreOptions::default()
    };
    let subject = Subject::on(server, options).await;
    (subject, replica)
}

#[tokio::test]
async fn a_publication_that_no_replica_has_is_not_acknowledged_even_if_it_is_repeated() {
    let (subject, replica) = with_one_replica().await;
    let said = |body: &str| with_key(message("4", "u", body), body);
    let first = subject.publish_until_acknowledged(said("first")).await;
    assert!(
        replica.keys().contains(&"gc:{4}:l".to_owned()),
        "the replica has it"
    );

    replica.freeze();
    let start = Instant::now();
    for _ in 0..2 {
        let answer = subject.publish(said("second")).await;
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
    }
    // It was published long ago, but whether replicas have it cannot be known now.
    let answer = subject.publish(said("first")).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    // A refusal does not depend on replicas.
    let answer = subject
        .publish(with_key(message("4", "u", "other"), "first"))
        .await;
    assert_eq!(answer, Err(StoreError::KeyReused));
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "each waits for half a second"
    );
    // A join does not wait for replicas, and it does not wait for publications that do.
    let waiting = join_all((0..3).map(|_| subject.publish(said("third"))));
    let joining = async {
        let start = Instant::now();
        subject.join("4", "u", session("s", 1)).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(400));
    };
    futures_util::future::join(waiting, joining).await;
    assert!(*subject.store.available().borrow());

    replica.thaw();
    let again = subject.publish_until_acknowledged(said("second")).await;
    assert!(again.repeated);
    assert_eq!(again.position.offset, first.position.offset + 1);
}

#[tokio::test]
async fn a_block_that_no_replica_has_is_not_acknowledged() {
    let (subject, replica) = with_one_replica().await;
    let block = Restriction::Block {
        until: When::After(Duration::from_secs(600)),
        reason: String::new(),
    };
    let user = UserId::new("u").unwrap();
    eventually("the replica has it", async || {
        subject.store.restrict(&user, &block).await.is_ok()
    })
    .await;
    let key = "gc:{u}:user:restrictions".to_owned();
    assert!(replica.keys().contains(&key));
    replica.freeze();
    let answer = subject.store.restrict(&user, &block).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    replica.thaw();
}
