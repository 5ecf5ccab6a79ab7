//! SIGTERM: sockets are closed with a reason, every leave is published, and the process exits with 0 within 10 s.

use crate::load::{Load, listeners, senders};
use std::time::Duration;
use testkit::json;
use testkit::link::End;
use testkit::permit::Permit;
use testkit::pomelo::{Client, LOGGED_IN, left};
use testkit::service::Standalone;
use testkit::system::{Plan, System};
use testkit::{SOON, wait};

const GRACE: Duration = Duration::from_secs(10);

/// A connector that stops tells its clients why, and no member stays behind.
#[tokio::test]
async fn a_connector_that_stops_closes_its_sockets_with_a_reason_and_publishes_leaves() {
    let mut system = System::start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let mut pomelo = Vec::new();
    for number in 0..50 {
        pomelo.push(system.member(0, &format!("user{number}"), "room").await);
    }
    let address = system.connectors[0].address();
    let json = json::Client::connect(address).await;
    let login = serde_json::json!({ "userId": "json", "lessonId": "room" });
    assert_eq!(json.request(testkit::pomelo::LOGIN, login).await["code"], 0);
    let visitor = system.visitor(0).await;

    system.connectors[0].terminate();
    let status = system.connectors[0].ended_within(GRACE).await;
    assert!(status.success(), "{status}");

    // A KICK, or the code 1000, would be final for Pomelo's clients.
    for client in pomelo.iter().chain([&visitor]) {
        let end = client.end(SOON).await;
        assert!(matches!(end, End::Closed { code: 1001, .. }), "{end:?}");
        assert_eq!(client.kicked(), None);
    }
    let End::Closed { code, .. } = json.end(SOON).await else {
        panic!("dropped without a close: {:?}", json.ended());
    };
    assert!((4000..5000).contains(&code), "{code}");
    let pushes = json.inbox().read().pushes.clone();
    let kick = pushes.last().expect("a push");
    assert_eq!(kick["route"], "onKick");
    assert_eq!(kick["body"]["reason"], "shutdown");

    for number in 0..50 {
        watcher.until_push(&left(&format!("user{number}"))).await;
    }
    watcher.until_push(&left("json")).await;
    system.until_members("room", &[("watcher", 1)]).await;

    // 51 sessions were closed. A line of one kind is written 50 times, and at the end the log says how many were held
    // back.
    let lines = system.connectors[0].lines();
    let held_back = lines.iter().find(|line| line.contains("held back"));
    let held_back = held_back.expect("the log says what was held back");
    assert!(held_back.contains(r#""lines":1,"#), "{held_back}");
    assert!(held_back.contains("session closed"), "{held_back}");
}

/// The chat answers the requests that it has accepted, and further ones go to the other chat.
#[tokio::test]
async fn a_chat_that_stops_under_load_fails_no_request() {
    let mut system = Plan::of(2, 2).alone().start().await;
    let listeners = listeners(&system, 4).await;
    let load = Load::start(senders(&system, 4).await, 16, usize::MAX);
    load.until_each_acknowledged(100).await;
    system.chats[0].terminate();
    let status = system.chats[0].ended_within(GRACE).await;
    assert!(status.success(), "{status}");
    load.until_each_acknowledged(100).await;
    let outcome = load.finish(true).await;
    assert_eq!(outcome.failed, []);
    outcome.was_seen_by(&listeners).await;
}

/// A third signal ends the process at once, also if something still waits: here leaves without a chat.
#[tokio::test]
async fn a_third_signal_ends_a_connector_at_once() {
    let mut system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    for chat in &mut system.chats {
        chat.kill();
    }
    let connector = &mut system.connectors[0];
    connector.terminate();
    // The socket is closed, so from now on the connector waits for the leave.
    alice.end(GRACE).await;
    assert_eq!(connector.process().poll(), None, "it did not wait");
    for step in ["SIGTERM: draining", "a second SIGTERM"] {
        wait::eventually(step, SOON, async || {
            connector.lines().iter().any(|line| line.contains(step))
        })
        .await;
        connector.terminate();
    }
    connector.ended_within(Duration::from_secs(2)).await;
}

/// It waits ten seconds at most, also if leaves cannot be published.
#[tokio::test]
async fn a_connector_without_any_chat_still_ends_within_ten_seconds() {
    let mut system = System::start().await;
    let _alice = system.member(0, "alice", "room").await;
    for chat in &mut system.chats {
        chat.kill();
    }
    system.connectors[0].terminate();
    let patience = GRACE + Duration::from_secs(2);
    system.connectors[0].ended_within(patience).await;
}

/// The same for a single process that has both services.
#[tokio::test]
async fn a_standalone_that_stops_closes_its_sockets_and_exits_with_success() {
    let _permit = Permit::shared().await;
    let mut standalone = Standalone::start().await;
    let client = Client::connect(standalone.address()).await;
    assert_eq!(client.login("alice", "room").await, LOGGED_IN);
    standalone.terminate();
    let status = standalone.ended_within(GRACE).await;
    assert!(status.success(), "{status}");
    let end = client.end(SOON).await;
    assert!(matches!(end, End::Closed { .. }), "{end:?}");
}
