//! Connections to Redis that break, hang, or hear nothing, while Redis itself is well.

use std::time::Duration;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::resp::Value;
use testkit::system::Plan;
use testkit::{SOON, long, wait};
use tokio::time::Instant;

/// How often a connector asks its feed whether it hears.
const PROBE: Duration = Duration::from_secs(1);
/// What a busy machine takes to notice.
const SLACK: Duration = Duration::from_millis(700);

/// An acknowledgement's way from Redis to its sender.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Whoever's connections Redis closes or keeps waiting: nobody is disconnected, nothing is lost.
#[tokio::test]
async fn redis_connections_that_are_killed_or_paused_cost_no_member_anything() {
    let rounds = if long() { 20 } else { 3 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let crowd = Followers::start(&services.addresses(), 8, 4).await;
    crowd.start_sending();
    let mut killed = 0;
    for _ in 0..rounds {
        for kind in ["pubsub", "normal"] {
            crowd.until_each_acknowledged(10).await;
            let count = redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
            let Value::Integer(count @ 1..) = count else {
                panic!("no connection of type {kind} was killed: {count:?}");
            };
            killed += count;
        }
        for (kind, milliseconds) in [("WRITE", 500), ("ALL", 500), ("ALL", 1_500)] {
            crowd.until_each_acknowledged(10).await;
            let time = milliseconds.to_string();
            redis.command(&["CLIENT", "PAUSE", &time, kind]).await;
            // What was answered before may still be on its way.
            let paused = Instant::now() + ON_ITS_WAY;
            let again = ON_ITS_WAY + crowd.until_acknowledged_since(paused).await;
            println!("paused {kind} for {milliseconds} ms: on after {again:?}");
            assert!(
                again > Duration::from_millis(milliseconds) / 2,
                "there was no pause"
            );
        }
    }
    crowd.until_each_acknowledged(10).await;
    services.ready().await;
    let history = crowd
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{killed} connections killed; {}", crowd.report());
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// The last word is said while the feed is away; when it is back it finds that out by itself.
#[tokio::test]
async fn what_is_said_while_a_feed_is_away_comes_though_nobody_says_anything_more() {
    let plan = Plan::of(2, 1).chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let crowd = Followers::start(&services.addresses(), 2, 4).await;
    let api = services.api(0);
    crowd.until_offset(redis.published(ROOM).await).await;
    for round in 0..5 {
        relay.refuse();
        for number in 0..2 {
            let body = format!(r#"{{"n":{}}}"#, 2 * round + number);
            let sent = api.send(ROOM, "herald", &body, "").await;
            sent.expect("chat's own connection is well");
        }
        let missed = redis.published(ROOM).await;
        let behind = crowd.positions();
        relay.admit();
        assert!(
            behind.iter().flatten().all(|at| at.offset + 2 == missed),
            "{behind:?}"
        );
        crowd.until_offset(missed).await;
    }
    let history = crowd.collect_history(&api, redis.address()).await;
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// A few publications don't arrive, and the connection is as it was: the next one shows what is missing.
#[tokio::test]
async fn publications_that_a_feed_misses_now_and_then_are_read_from_the_log() {
    let rounds = if long() { 100 } else { 15 };
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to_redis(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let crowd = Followers::start(&services.addresses(), 4, 4).await;
    crowd.start_sending();
    for _ in 0..rounds {
        crowd.until_each_acknowledged(5).await;
        let dropped = relay.dropped();
        relay.drop_pushes(true);
        wait::eventually("some are missed", SOON, async || {
            relay.dropped() > dropped + 2
        })
        .await;
        relay.drop_pushes(false);
    }
    let history = crowd
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{} pushes dropped; {}", relay.dropped(), crowd.report());
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// Redis answers, and yet no publication arrives: the connector says so, and misses nothing.
#[tokio::test]
async fn a_feed_that_hears_nothing_is_found_out_and_replaced() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let relay = Relay::to_redis(redis.address()).await;
    let services = plan.services(&redis.url(), &relay.url()).await;
    let crowd = Followers::start(&services.addresses(), 4, 4).await;
    crowd.start_sending();
    for round in 0..if long() { 5 } else { 2 } {
        crowd.until_each_acknowledged(20).await;
        relay.drop_pushes(true);
        let deaf = Instant::now();
        for connector in &services.connectors {
            wait::eventually(
                "a deaf connector is not ready",
                2 * PROBE + SLACK,
                async || connector.readyz().await == Some(503),
            )
            .await;
        }
        let noticed = deaf.elapsed();
        crowd.until_each_acknowledged(20).await;
        let dropped = relay.dropped();
        assert!(dropped > 0, "no push was dropped");
        relay.drop_pushes(false);
        services.ready().await;
        println!("round {round}: noticed after {noticed:?}, {dropped} pushes dropped so far");
    }
    let history = crowd
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", crowd.report());
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    assert_eq!(crowd.count(Outcome::Unknown), 0);
    assert_consistent(&history, &[]);
}
