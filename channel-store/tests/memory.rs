//! What time does to channels in memory. Redis's own clock can't be turned; the rules are the same.

use crate::support::{Kind, Subject, message, name, read, session, with_key};
use channel_store::{Since, Standing, StoreError, StoreOptions};
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_key_is_remembered_for_its_life_and_forgotten_after_twice_that() {
    let subject = Subject::new(Kind::Memory).await;
    let life = subject.options.key_life;
    let publish = || with_key(message("4", "u", "a"), "k");
    let first = subject.publish(publish()).await.unwrap();
    advance(life - Duration::from_millis(1)).await;
    assert_eq!(
        subject.publish(publish()).await.unwrap().position,
        first.position
    );
    advance(life + Duration::from_millis(1)).await;
    assert_eq!(subject.publish(publish()).await.unwrap().position.offset, 2);
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_ends_with_its_time() {
    let subject = Subject::new(Kind::Memory).await;
    let life = subject.options.tombstone_life;
    subject.leave_fenced("4", "u", session("s", 2), true).await;
    advance(life - Duration::from_millis(1)).await;
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await,
        Err(StoreError::StaleOperation)
    );
    advance(Duration::from_millis(1)).await;
    assert!(subject.join("4", "u", session("s", 1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_old_log_loses_its_content_and_goes_on_counting() {
    let options = StoreOptions {
        log_life: Duration::from_secs(10),
        ..StoreOptions::default()
    };
    let subject = Subject::with(Kind::Memory, options).await;
    let (feed, _ear) = subject.feed().await;
    let first = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    let second = subject
        .publish(message("4", "u", "b"))
        .await
        .unwrap()
        .position;
    advance(Duration::from_secs(10)).await;
    assert_eq!(
        read(&*feed, "4", &first, 10).await.standing,
        Standing::Trimmed
    );
    assert_eq!(
        read(&*feed, "4", &second, 10).await.standing,
        Standing::Exact
    );
    let head = feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    assert_eq!(head.position, second);
    assert_eq!(
        subject
            .publish(message("4", "u", "c"))
            .await
            .unwrap()
            .position
            .offset,
        3
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_with_a_member_is_never_forgotten() {
    let subject = Subject::new(Kind::Memory).await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    for _ in 0..10 {
        advance(subject.options.channel_life).await;
        subject.publish(message("5", "u", "a")).await.unwrap();
    }
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await.unwrap(),
        joined
    );
}
