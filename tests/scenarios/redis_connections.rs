//! Connections to Redis break, hang, or receive nothing, while Redis itself works.

use std::time::Duration;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::resp::Value;
use testkit::system::Plan;
use testkit::{SOON, long, wait};
use tokio::time::Instant;

/// How often a connector checks that its feed receives something.
const PROBE: Duration = Duration::from_secs(1);
/// The extra time that a busy machine needs to notice it.
const SLACK: Duration = Duration::from_millis(700);

/// How long an acknowledgement may take from Redis to its sender.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Redis closes connections of a service, or makes them wait. Nobody is disconnected, and nothing is lost.
#[tokio::test]
async fn redis_connections_that_are_killed_or_paused_cost_no_message_and_no_session() {
    let rounds = if long() { 20 } else { 3 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    let mut killed = 0;
    for _ in 0..rounds {
        for kind in ["pubsub", "normal"] {
            followers.until_each_acknowledged(10).await;
            let count = redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
            let Value::Integer(count @ 1..) = count else {
                panic!("no connection of type {kind} was killed: {count:?}");
            };
            killed += count;
        }
        for (kind, milliseconds) in [("WRITE", 500), ("ALL", 500), ("ALL", 1_500)] {
            followers.until_each_acknowledged(10).await;
            let time = milliseconds.to_string();
            // Measured from here, because on a busy machine the answer may come when half of the pause is over.
            let asked = Instant::now();
            redis.command(&["CLIENT", "PAUSE", &time, kind]).await;
            // Earlier answers may still be on their way.
            let paused = Instant::now() + ON_ITS_WAY;
            followers.until_acknowledged_since(paused).await;
            let again = asked.elapsed();
            println!("paused {kind} for {milliseconds} ms: on after {again:?}");
            assert!(
                again > Duration::from_millis(milliseconds) / 2,
                "there was no pause"
            );
        }
    }
    followers.until_each_acknowledged(10).await;
    services.ready().await;
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{killed} connections killed; {}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// The last messages are published while the feed is disconnected. When it is back, it finds them by itself.
#[tokio::test]
async fn messages_sent_while_a_feed_is_disconnected_arrive_without_further_messages() {
    let plan = Plan::of(2, 1).chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 2, 4).await;
    let api = services.api(0);
    followers.until_offset(redis.published(ROOM).await).await;
    for round in 0..5 {
        relay.refuse();
        for number in 0..2 {
            let body = format!(r#"{{"n":{}}}"#, 2 * round + number);
            let sent = api.send(ROOM, "herald", &body, "").await;
            sent.expect("chat's own connection is well");
        }
        let missed = redis.published(ROOM).await;
        let behind = followers.positions();
        relay.admit();
        assert!(
            behind.iter().flatten().all(|at| at.offset + 2 == missed),
            "{behind:?}"
        );
        followers.until_offset(missed).await;
    }
    let history = followers.collect_history(&api, redis.address()).await;
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// A few publications do not arrive on a connection that stays open. The next one shows what is missing.
#[tokio::test]
async fn publications_that_a_feed_misses_now_and_then_are_read_from_the_log() {
    let rounds = if long() { 100 } else { 15 };
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to_redis(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    followers.start_sending();
    for _ in 0..rounds {
        followers.until_each_acknowledged(5).await;
        let dropped = relay.dropped();
        relay.drop_pushes(true);
        wait::eventually("some are missed", SOON, async || {
            relay.dropped() > dropped + 2
        })
        .await;
        relay.drop_pushes(false);
    }
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{} pushes dropped; {}", relay.dropped(), followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// Redis answers, but no publication arrives. The connector says so, and misses nothing.
#[tokio::test]
async fn a_feed_that_receives_nothing_is_detected_and_replaced() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to_redis(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    followers.start_sending();
    for round in 0..if long() { 5 } else { 2 } {
        followers.until_each_acknowledged(20).await;
        relay.drop_pushes(true);
        let began = Instant::now();
        for connector in &services.connectors {
            wait::eventually(
                "a connector whose feed receives nothing is not ready",
                2 * PROBE + SLACK,
                async || connector.readyz().await == Some(503),
            )
            .await;
        }
        let noticed = began.elapsed();
        followers.until_each_acknowledged(20).await;
        let dropped = relay.dropped();
        assert!(dropped > 0, "no push was dropped");
        relay.drop_pushes(false);
        services.ready().await;
        println!("round {round}: noticed after {noticed:?}, {dropped} pushes dropped so far");
    }
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_eq!(followers.count(Outcome::Unknown), 0);
    assert_consistent(&history, &[]);
}
