//! A Redis that is full: it refuses, clearly, and what it refuses nobody sees.

use tests::crowd::{Crowd, ROOM, WHOLE_LOG, holds};
use tests::history::Outcome;
use tests::json::Client;
use tests::pomelo::LOGIN;
use tests::redis::Redis;
use tests::system::Plan;
use tests::{SOON, wait};
use tonic::Code;

/// Publishing and joining are refused; nothing is fanned out that isn't stored; with room again everything works.
#[tokio::test]
async fn a_full_redis_refuses_every_publication_and_join_and_fans_nothing_out() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _turn = plan.turn().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let crowd = Crowd::gather(&services.addresses(), 4, 4).await;
    let api = services.api(0);
    crowd.speak();
    crowd.goes_on(30).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = crowd.count(Outcome::Unknown);
    wait::eventually("sends are refused", SOON, async || {
        crowd.count(Outcome::Unknown) > refused + 20
    })
    .await;
    let full = redis.published(ROOM).await;
    crowd.reaches(full).await;
    let refused = crowd.count(Outcome::Unknown);
    let send = api.send(ROOM, "herald", "{}", "").await;
    let join = api.join(ROOM, "carol").await;
    for status in [send.expect_err("it is full"), join.expect_err("it is full")] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("STORE_FULL"), "{details}");
    }
    let visitor = Client::connect(services.connectors[0].address()).await;
    let login = serde_json::json!({ "userId": "carol", "lessonId": ROOM });
    assert_eq!(
        visitor.request(LOGIN, login).await,
        serde_json::json!({ "code": 500 })
    );
    wait::eventually("many more are refused", SOON, async || {
        crowd.count(Outcome::Unknown) > refused + 200
    })
    .await;
    assert_eq!(redis.published(ROOM).await, full);
    // Nobody has received anything.
    crowd.reaches(full).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    crowd.goes_on(30).await;
    let history = crowd.comes_to_rest(&api, redis.address()).await;
    println!("{}", crowd.report());
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    holds(&history, &[]);
}
