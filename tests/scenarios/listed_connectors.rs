//! Operators see which connectors are there, and what they do.

use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::{Connector, ConnectorState, ListConnectorsRequest};
use serde_json::json;
use std::time::Duration;
use testkit::pomelo::LOGIN;
use testkit::system::{Plan, System};
use testkit::{SOON, json as ws, wait};

async fn connectors(system: &System) -> Vec<Connector> {
    let mut nodes = NodeServiceClient::new(system.api(0).channel());
    let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
    listed.expect("a list").into_inner().connectors
}

/// Waits until the connectors are in these states.
async fn until(system: &System, what: &str, expected: &[(&str, ConnectorState)]) {
    wait::eventually(what, SOON, async || {
        let listed = connectors(system).await;
        let states = listed.iter().map(|it| (&*it.name, it.state()));
        states.eq(expected.iter().copied())
    })
    .await;
}

#[tokio::test]
async fn connectors_tell_how_much_they_have_done_and_how_old_messages_were() {
    let system = Plan::of(2, 1).start().await;
    let client = ws::Client::connect(system.connectors[0].address()).await;
    let answer = client.request(LOGIN, json!({ "userId": "nancy", "lessonId": 4 }));
    assert_eq!(answer.await["code"], 0);
    let before = connectors(&system).await;
    let listed = wait::some("some writes were measured", SOON, async || {
        for _ in 0..10 {
            let said = client.request("chat.handler.send", json!({ "content": "hi" }));
            assert_eq!(said.await["code"], 0);
        }
        let listed = connectors(&system).await;
        let last = listed[0].delivery_lag.last();
        last.is_some_and(|it| it.count > 0).then_some(listed)
    })
    .await;
    let done = listed[0].requests - before[0].requests;
    assert!(done >= 10 && done % 10 == 0, "{done} requests");
    assert_eq!(listed[1].requests, 0);

    let ages = &listed[0].delivery_lag;
    assert!(ages.is_sorted_by_key(|it| it.count), "{ages:?}");
    let bounds: Vec<_> = ages.iter().map(|it| it.at_most).collect();
    let (last, bounds) = bounds.split_last().expect("buckets");
    assert_eq!(*last, None, "the last bucket has no bound");
    let seconds = |it: &Option<prost_types::Duration>| it.map(|it| (it.seconds, it.nanos));
    assert_eq!(bounds.first().map(seconds), Some(Some((0, 10_000))));
    assert_eq!(bounds.last().map(seconds), Some(Some((10, 0))));
}

#[tokio::test]
async fn connectors_are_listed_as_they_live_freeze_stop_and_die() {
    use ConnectorState::{Dead, Live, Unanswered};
    let lease = ["--lease", "2s"];
    let plan = Plan::of(3, 1).connector_flags(&lease).chat_flags(&lease);
    let mut system = plan.start().await;
    let client = ws::Client::connect(system.connectors[0].address()).await;
    let _visitor = ws::Client::connect(system.connectors[0].address()).await;
    let answer = client.request(LOGIN, json!({ "userId": "nancy" })).await;
    assert_eq!(answer["code"], 0);
    let live = ["connector-1", "connector-2", "connector-3"].map(|name| (name, Live));
    until(&system, "all are live", &live).await;
    let listed = wait::some("the clients are counted", SOON, async || {
        let listed = connectors(&system).await;
        (listed[0].connections == 2).then_some(listed)
    })
    .await;
    assert_eq!((listed[0].sessions, listed[1].sessions), (1, 0));
    assert_eq!(listed[1].connections, 0);
    for it in &listed {
        assert_eq!(it.version, env!("CARGO_PKG_VERSION"));
        assert!(it.start_time.is_some());
        assert!(it.incarnation.starts_with(&format!("{}:", it.name)));
    }
    system.connectors[1].freeze();
    let frozen = [
        ("connector-1", Live),
        ("connector-2", Unanswered),
        ("connector-3", Live),
    ];
    until(&system, "a frozen one does not answer", &frozen).await;
    let dead = [
        ("connector-1", Live),
        ("connector-2", Dead),
        ("connector-3", Live),
    ];
    until(&system, "a frozen one is declared dead", &dead).await;

    system.connectors[2].terminate();
    system.connectors[2]
        .ended_within(Duration::from_secs(10))
        .await;
    wait::eventually(
        "one that has ended is dead, and then gone",
        SOON,
        async || {
            let listed = connectors(&system).await;
            let mut third = listed.iter().filter(|it| it.name == "connector-3");
            third.all(|it| it.state() == Dead)
        },
    )
    .await;
    drop(client);
}
