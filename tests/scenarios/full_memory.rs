//! A full Redis refuses writes with a clear reason, and nobody sees a message that was refused.

use std::time::Duration;
use testkit::follower::Leaving;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use testkit::redis::Redis;
use testkit::system::Plan;
use testkit::{SOON, wait};
use tonic::Code;

/// Publishing and joining are refused, and only stored messages are fanned out. With room again, everything works.
#[tokio::test]
async fn a_full_redis_refuses_every_publication_and_join_and_fans_nothing_out() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    let api = services.api(0);
    followers.start_sending();
    followers.until_each_acknowledged(30).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = followers.count(Outcome::Unknown);
    wait::eventually("sends are refused", SOON, async || {
        followers.count(Outcome::Unknown) > refused + 20
    })
    .await;
    let full = redis.published(ROOM).await;
    followers.until_offset(full).await;
    let refused = followers.count(Outcome::Unknown);
    let send = api.send(ROOM, "herald", "{}", "").await;
    let join = api.join(ROOM, "carol").await;
    for status in [send.expect_err("it is full"), join.expect_err("it is full")] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("STORE_FULL"), "{details}");
    }
    let visitor = Client::connect(services.connectors[0].address()).await;
    let login = serde_json::json!({ "userId": "carol", "lessonId": ROOM });
    let refusal = visitor.request(LOGIN, login).await;
    assert_eq!(refusal["code"], 500, "{refusal}");
    assert_eq!(refusal["retry"], true, "{refusal}");
    wait::eventually("many more are refused", SOON, async || {
        followers.count(Outcome::Unknown) > refused + 200
    })
    .await;
    assert_eq!(redis.published(ROOM).await, full);
    // Nobody has received anything.
    followers.until_offset(full).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    followers.until_each_acknowledged(30).await;
    let history = followers.stop_and_collect(&api, redis.address()).await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// Members stay, members that disconnect leave, and a dead connector is reaped.
#[tokio::test]
async fn with_a_full_redis_leases_are_renewed_and_leaves_and_reaping_go_on() {
    const LEASE: Duration = Duration::from_secs(1);
    const REAPING: Duration = Duration::from_secs(4);
    let lease = ["--lease", "1s"];
    let plan = Plan::of(2, 2).alone().connector_flags(&lease);
    let plan = plan.chat_flags(&[WHOLE_LOG, lease].concat());
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 8).await;
    let api = services.api(0);
    followers.start_sending();
    followers.until_each_acknowledged(20).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let is_refusing = async || {
        let refused = followers.count(Outcome::Unknown);
        wait::eventually("sends are refused", SOON, async || {
            followers.count(Outcome::Unknown) > refused + 20
        })
        .await;
    };
    is_refusing().await;
    let full = redis.published(ROOM).await;
    wait::stays("all members stay", 3 * LEASE, async || {
        let listed = api.members(ROOM).await;
        followers.sum(|notes| notes.disconnected) == 0
            && listed.is_ok_and(|listed| listed == followers.live())
    })
    .await;

    let leaver = &followers.all()[5];
    leaver.disconnect(Leaving::Closing).await;
    let reset = &followers.all()[7];
    reset.disconnect(Leaving::Breaking).await;
    followers.until_listed(SOON, &api).await;

    services.connectors[0].kill();
    for member in followers.at(0) {
        member.begin_move(Leaving::Breaking, None);
    }
    let took = followers.until_listed(LEASE + REAPING, &api).await;
    println!("reaped after {took:?}");
    is_refusing().await;
    let gone = 2 + followers.at(0).count();
    assert_eq!(
        redis.published(ROOM).await,
        full + gone as u64,
        "only leaves are published"
    );

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let there = services.connectors[1].address();
    for member in followers.at(0).chain([leaver, reset]) {
        member.begin_move(Leaving::Breaking, Some(there));
    }
    followers.until_online().await;
    followers.until_each_acknowledged(20).await;
    let history = followers.stop_and_collect(&api, redis.address()).await;
    println!("{}", followers.report());
    assert_consistent(&history, &[]);
    for witness in followers.at(1) {
        assert_eq!(witness.notes().read().disconnected, 0);
    }
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
}

/// A Redis that evicts keys when it is full does no harm yet, so services work with it. They warn as soon as they
/// connect, long before anything is lost.
#[tokio::test]
async fn a_service_warns_if_its_redis_evicts_keys_when_it_is_full() {
    let plan = Plan::of(1, 1);
    let _permit = plan.permit().await;
    for (policy, is_told) in [("allkeys-lru", true), ("noeviction", false)] {
        let redis = Redis::with(&["--maxmemory-policy", policy]).await;
        let services = plan.services(&redis.url(), &redis.url()).await;
        let (chat, connector) = (&services.chats[0], &services.connectors[0]);
        for (name, service) in [("chat", &**chat), ("connector", &**connector)] {
            // It is ready, so it has connected and has written its warnings.
            let warnings = service.warnings();
            let told = warnings.iter().any(|line| {
                line.contains("evicts keys")
                    && line.contains(policy)
                    && line.contains("maxmemory-policy noeviction")
            });
            assert_eq!(told, is_told, "{name}, {policy}: {warnings:?}");
        }
    }
}
