//! Leaves land in the end, whatever happens in between.

use super::*;
use crate::chat_client::tests::chat_of;
use crate::membership::LeaseKeeper;
use crate::testing::chat::{Instance, Sends};
use crate::testing::logged::Logged;
use crate::testing::{let_run, soon};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelName, LoginPolicy, SessionId, StoreOptions, User, UserId};
use proto::connector::v1::LeaveResponse;
use std::collections::{HashMap, HashSet};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::Level;

/// A channel in another shard.
const ELSEWHERE: &str = "elsewhere";

fn shard(place: &Place) -> Shard {
    match place {
        Place::Channel(channel) if channel.as_str() == ELSEWHERE => Shard::new(1),
        _ => Shard::default(),
    }
}

/// The end of a session that has joined.
async fn leaving(user: &str) -> EndedSession {
    leaving_from("4", user).await
}

async fn leaving_from(channel: &str, user: &str) -> EndedSession {
    let leases = MemoryStore::new(StoreOptions::default()).leases();
    let lease = LeaseKeeper::new("c", Duration::from_secs(10), leases, Arc::default()).unwrap();
    lease.take().await;
    let guard = Arc::new(lease.enter(Vec::new()).await.unwrap());
    let channel = ChannelName::new(channel).unwrap();
    let id = UserId::new(user).unwrap();
    let user = User {
        id,
        is_number: false,
    };
    EndedSession {
        memberships: vec![Membership::begin(
            &Arc::default(),
            guard,
            channel,
            user,
            SessionId::new("s").unwrap(),
            None,
        )],
        ..EndedSession::default()
    }
}

async fn leaves() -> (PendingLeaves, Instance, Sends) {
    leaves_with_grace(Duration::ZERO).await
}

async fn leaves_with_grace(grace: Duration) -> (PendingLeaves, Instance, Sends) {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let store = MemoryStore::new(StoreOptions::default());
    let logins = Logins::new(
        LoginPolicy::Allow,
        store.registry(),
        store.hints(),
        store.leases(),
    );
    let leaves = PendingLeaves::new(&chat, &logins, shard, grace);
    let stream = instance.stream().await;
    let_run().await;
    (leaves, instance, stream)
}

async fn is_waiting(leaves: &PendingLeaves) {
    tokio::select! {
        biased;
        () = leaves.landed() => panic!("the leave has not landed"),
        () = let_run() => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_leave_is_repeated_unchanged_until_it_lands() {
    let (leaves, mut instance, _stream) = leaves().await;
    soon(leaves.landed()).await;
    leaves.add(leaving("u").await);
    is_waiting(&leaves).await;
    for _ in 0..200 {
        let call = instance.leave().await;
        assert_eq!(call.answer(Err(Status::unavailable(""))).user, "u");
    }
    // A leave that is never answered does not end it either.
    drop(instance.leave().await);
    let unanswered = instance.leave().await;
    let call = instance.leave().await;
    is_waiting(&leaves).await;
    drop(unanswered);
    call.answer(Ok(LeaveResponse::default()));
    soon(leaves.landed()).await;
    instance.nobody_calls().await;
}

/// If the store loses the leave in a failover, it lists the member again. If the membership were still known here, the
/// reconciler would not remove it.
#[tokio::test(start_paused = true)]
async fn a_membership_is_forgotten_as_soon_as_its_leave_has_landed() {
    let (leaves, mut instance, _stream) = leaves().await;
    let mut ended = leaving("u").await;
    ended.memberships.extend(leaving("u").await.memberships);
    let memberships: Vec<_> = ended.memberships.iter().map(Arc::downgrade).collect();
    leaves.add(ended);
    let call = instance.leave().await;
    call.answer(Ok(LeaveResponse::default()));
    let _unanswered = instance.leave().await;
    let_run().await;
    let known: Vec<_> = memberships.iter().map(|it| it.strong_count()).collect();
    assert_eq!(known, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_leave_survives_a_time_without_any_chat() {
    let (leaves, mut instance, stream) = leaves().await;
    stream.fail();
    let_run().await;
    leaves.add(leaving("u").await);
    let long = tokio::time::sleep(Duration::from_secs(30));
    crate::chat_client::tests::while_refusing(&mut instance, long).await;
    is_waiting(&leaves).await;
    let _stream = instance.stream().await;
    let call = instance.leave().await;
    assert_eq!(call.answer(Ok(LeaveResponse::default())).user, "u");
    soon(leaves.landed()).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_64_leaves_are_sent_at_once_and_none_is_forgotten() {
    let (leaves, mut instance, _stream) = leaves().await;
    for user in 0..100 {
        leaves.add(leaving(&user.to_string()).await);
    }
    let mut under_way = Vec::new();
    for _ in 0..AT_ONCE {
        under_way.push(instance.leave().await);
    }
    instance.nobody_calls().await;
    let mut landed = HashSet::new();
    for call in under_way {
        landed.insert(call.answer(Ok(LeaveResponse::default())).user);
        is_waiting(&leaves).await;
    }
    while landed.len() < 100 {
        let call = instance.leave().await;
        is_waiting(&leaves).await;
        landed.insert(call.answer(Ok(LeaveResponse::default())).user);
    }
    soon(leaves.landed()).await;
}

#[tokio::test(start_paused = true)]
async fn leaves_of_one_shard_that_hang_delay_no_leave_of_another() {
    let (leaves, mut instance, _stream) = leaves().await;
    let mut hanging = Vec::new();
    for user in 0..2 * AT_ONCE {
        leaves.add(leaving_from(ELSEWHERE, &user.to_string()).await);
    }
    for _ in 0..AT_ONCE {
        hanging.push(instance.leave().await);
    }
    leaves.add(leaving("healthy").await);
    let call = instance.leave().await;
    assert_eq!(call.answer(Ok(LeaveResponse::default())).user, "healthy");
    is_waiting(&leaves).await;
}

#[tokio::test(start_paused = true)]
async fn a_join_that_is_undone_leaves_at_once_whatever_the_grace() {
    let (leaves, mut instance, _stream) = leaves_with_grace(Duration::from_secs(60)).await;
    let membership = leaving("u").await.memberships.remove(0);
    drop(Rollback::of(&leaves, membership));
    let call = instance.leave().await;
    assert_eq!(call.answer(Ok(LeaveResponse::default())).user, "u");
    soon(leaves.landed()).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_grace_the_leave_is_still_older_than_a_join_in_between() {
    const GRACE: Duration = Duration::from_secs(5);
    let (leaves, mut instance, _stream) = leaves_with_grace(GRACE).await;
    let session = leaving("u").await;
    let ended = Arc::clone(&session.memberships[0]);
    leaves.add(session);
    let next = ended.again();
    let leave = instance.leave().await;
    let leave = leave.answer(Ok(LeaveResponse::default()));
    let join = next.join().operation;
    assert!(leave.operation < join);
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_a_bounded_number_of_leaves() {
    let (leaves, _instance, _stream) = leaves().await;
    let one = leaving("u").await;
    let again = || EndedSession {
        memberships: one.memberships.clone(),
        ..EndedSession::default()
    };
    for _ in 1..ROOM {
        leaves.add(again());
    }
    let_run().await;
    assert!(leaves.has_room());
    leaves.add(again());
    assert!(!leaves.has_room(), "leaves under way count, too");
}

#[tokio::test(start_paused = true)]
async fn a_leave_that_chat_refuses_is_dropped_with_an_error_in_the_log() {
    let errors = Logged::at(Level::ERROR);
    let (leaves, mut instance, _stream) = leaves().await;
    leaves.add(leaving("u").await);
    let reason = ErrorDetails::with_error_info("CONNECTOR_DEAD", "chat.v1", HashMap::new());
    let dead = Status::with_error_details(Code::FailedPrecondition, "", reason);
    instance.leave().await.answer(Err(dead));
    soon(leaves.landed()).await;
    instance.nobody_calls().await;
    assert_eq!(errors.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_client_is_gone_stays_until_its_grace_is_over() {
    const GRACE: Duration = Duration::from_secs(5);
    let (leaves, mut instance, _stream) = leaves_with_grace(GRACE).await;
    for user in ["first", "second"] {
        leaves.add(leaving(user).await);
        tokio::time::sleep(GRACE / 5).await;
    }
    soon(leaves.landed()).await;
    for user in ["first", "second"] {
        tokio::time::sleep(GRACE / 10).await;
        instance.nobody_calls().await;
        let began = Instant::now();
        let call = instance.leave().await;
        assert!(began.elapsed() < GRACE);
        assert_eq!(call.answer(Ok(LeaveResponse::default())).user, user);
    }
}

/// The client has another session, which may still join the channels of this one.
#[tokio::test(start_paused = true)]
async fn a_replaced_session_stays_for_a_moment_whatever_the_grace() {
    for (grace, stays) in [(0, 5), (3, 5), (20, 20)] {
        let grace = Duration::from_secs(grace);
        let (leaves, mut instance, _stream) = leaves_with_grace(grace).await;
        // A session that stays longer does not delay the end of another one.
        let (replaced, other) = (leaving("replaced").await, leaving("other").await);
        leaves.add(EndedSession {
            succeeded: true,
            ..replaced
        });
        if !grace.is_zero() {
            leaves.add(other);
        }
        let began = Instant::now();
        let mut left = Vec::new();
        for _ in 0..1 + usize::from(!grace.is_zero()) {
            let call = instance.leave().await;
            let user = call.answer(Ok(LeaveResponse::default())).user;
            left.push((user, began.elapsed().as_secs()));
        }
        left.sort();
        let mut expected = vec![("replaced".to_owned(), stays)];
        if !grace.is_zero() {
            expected.insert(0, ("other".to_owned(), grace.as_secs()));
        }
        assert_eq!(left, expected);
    }
}
