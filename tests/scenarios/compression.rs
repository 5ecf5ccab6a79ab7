//! permessage-deflate from end to end. The clients that offer it here check strictly that a message of 256 bytes or
//! more comes compressed, and a smaller one does not (F13).

use serde_json::{Value, json};
use testkit::json::Client;
use testkit::link::End;
use testkit::pomelo::{self, LOGIN, SEND};
use testkit::system::{Plan, System};
use testkit::websocket::{self, TEXT, Terms};

const DEFLATE: Terms = Terms {
    receive_buffer: None,
    deflates: true,
    forwarded_for: None,
};

async fn enter(system: &System, connector: usize, user: &str, terms: Terms) -> Client {
    let client = Client::connect_on(system.connectors[connector].address(), terms).await;
    let body = json!({ "userId": user, "lessonId": "room", "positions": true });
    let reply = client.request(LOGIN, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client
}

fn long(what: &str) -> String {
    format!("{what}: {}", "哈哈, and once more. ".repeat(100))
}

/// The contents of the messages that a member received.
fn contents(pushes: &[Value]) -> Vec<&Value> {
    let messages = pushes.iter().filter(|push| push["route"] == "onMessage");
    messages.map(|push| &push["body"]["content"]).collect()
}

#[tokio::test]
async fn clients_with_and_without_compression_receive_the_same_messages() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let plain = enter(&system, 0, "plain", Terms::default()).await;
    let packed = enter(&system, 0, "packed", DEFLATE).await;
    let far = enter(&system, 1, "far", DEFLATE).await;
    let connector = system.connectors[1].address();
    let original = pomelo::Client::dial_on(connector, DEFLATE).await;
    original.shake_hands().await;
    original.enter("original", "room").await;
    let said = [long("one"), "two".to_owned(), long("three")];
    for (client, content) in [&plain, &packed, &far].into_iter().zip(&said) {
        let reply = client.request(SEND, json!({ "content": content })).await;
        assert_eq!(reply["code"], 0, "{reply}");
    }
    for (client, others) in [(&plain, 4), (&packed, 3), (&far, 2)] {
        let pushes = client.until_pushes(others + said.len()).await;
        assert_eq!(contents(&pushes), [&said[0], &said[1], &said[2]]);
    }
    for (content, sender) in said.iter().zip(["plain", "packed", "far"]) {
        let content = Value::from(&**content);
        let push = format!(r#"onMessage {{"content":{content},"userId":"{sender}"}}"#);
        original.until_push(&push).await;
    }
    // A client that comes back gets what it missed in the same form.
    let reply = far.inbox().read().replies[0].clone();
    let since = json!({ "epoch": reply["body"]["position"]["epoch"], "offset": reply["body"]["position"]["offset"] });
    far.close().await;
    let back = Client::connect_on(connector, DEFLATE).await;
    let body = json!({ "userId": "far", "lessonId": "room", "since": since });
    let reply = back.request(LOGIN, body).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    let replayed = reply["replayed"].as_u64().expect("a number") as usize;
    let pushes = back.until_pushes(replayed).await;
    assert_eq!(contents(&pushes), [&said[0], &said[1], &said[2]]);
}

#[tokio::test]
async fn a_message_that_inflates_beyond_the_limit_is_cut_off_and_costs_little_memory() {
    let system = Plan::of(1, 1).alone().start().await;
    let connector = &system.connectors[0];
    let before = connector.memory().peak;
    // 64 MiB that travel as 64 KiB.
    let bomb = vec![b' '; 64 << 20];
    for _ in 0..4 {
        let client = Client::connect_on(connector.address(), DEFLATE).await;
        client.frame(TEXT, &bomb).await;
        let end = client.end(testkit::SOON).await;
        assert!(matches!(end, End::Closed { code: 1009, .. }), "{end:?}");
    }
    let grown = connector.memory().peak - before;
    assert!(grown < 8 << 20, "{grown} bytes for what was refused");
}

#[tokio::test]
async fn an_operator_can_turn_compression_off() {
    let plan = Plan::of(1, 1).connector_flags(&["--no-deflate"]);
    let system = plan.start().await;
    let address = system.connectors[0].address();
    let Err(error) = websocket::connect(address, "/ws", DEFLATE).await else {
        panic!("the offer was accepted");
    };
    let answer = error.to_string().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(!answer.contains("extensions"), "{answer}");
    let client = enter(&system, 0, "plain", Terms::default()).await;
    let content = long("all the same");
    let reply = client.request(SEND, json!({ "content": content })).await;
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!(contents(&client.until_pushes(2).await), [&content]);
}
