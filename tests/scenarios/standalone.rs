//! Standalone: one process with both services and without Redis, to try the system.

use testkit::chat_api::ChatApi;
use testkit::http;
use testkit::json;
use testkit::permit::Permit;
use testkit::pomelo::{Client, LOGIN, SENT, heard, joined, left};
use testkit::service::Standalone;

#[tokio::test]
async fn a_standalone_serves_sockets_and_back_ends_from_one_process() {
    let _permit = Permit::shared().await;
    let standalone = Standalone::start().await;
    let alice = Client::join(standalone.address(), "alice", "room").await;
    let bob = json::Client::connect(standalone.address()).await;
    let login = serde_json::json!({ "userId": "bob", "lessonId": "room" });
    assert_eq!(bob.request(LOGIN, login).await["code"], 0);
    alice.until_push(&joined("bob")).await;

    let chat = ChatApi::at(standalone.grpc());
    let members = chat.members("room").await.expect("chat answers");
    assert_eq!(members, [("alice".to_owned(), 1), ("bob".to_owned(), 1)]);
    let sent = chat.send("room", "bot", r#"{"content":"beep"}"#, "").await;
    let sent = sent.expect("chat publishes").position.expect("a position");
    assert_eq!(sent.offset, 3);
    alice.until_push(&heard("bot", "beep")).await;
    assert_eq!(alice.say("hello").await, SENT);
    let pushes = bob.until_pushes(3).await;
    assert_eq!(pushes[2]["body"]["content"], "hello");

    bob.close().await;
    alice.until_push(&left("bob")).await;
}

#[tokio::test]
async fn a_standalone_serves_its_health_and_metrics() {
    let _permit = Permit::shared().await;
    let standalone = Standalone::start().await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = http::get(standalone.admin(), path).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
    }
}
