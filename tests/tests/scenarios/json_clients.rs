//! JSON over WebSocket at `/ws`: what websocat and twenty lines in a browser speak.

use serde_json::{Value, json};
use tests::SOON;
use tests::json::Client;
use tests::link::End;
use tests::pomelo::{LOGIN, SEND, SENT};
use tests::system::{Plan, System};

async fn member(system: &System, connector: usize, user: &str) -> Client {
    let client = Client::connect(system.connectors[connector].address()).await;
    let body = json!({ "userId": user, "lessonId": "room" });
    let reply = client.request(LOGIN, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client.until_pushes(1).await;
    client
}

/// Both protocols are one chat, and JSON pushes tell where they stand.
#[tokio::test]
async fn json_and_pomelo_clients_are_members_of_one_channel() {
    let system = System::start().await;
    let json = member(&system, 0, "json").await;
    let pomelo = system.member(1, "pomelo", "room").await;
    let answer = json.request(SEND, json!({ "content": "哈哈" })).await;
    assert_eq!(
        answer.to_string(),
        serde_json::from_str::<Value>(SENT)
            .expect("JSON")
            .to_string()
    );
    pomelo
        .until_push(r#"onMessage {"content":"哈哈","userId":"json"}"#)
        .await;
    assert_eq!(pomelo.say("hello").await, SENT);
    pomelo.close().await;

    let pushes = json.until_pushes(5).await;
    let routes: Vec<_> = pushes.iter().map(|push| &push["route"]).collect();
    assert_eq!(
        routes,
        ["onJoin", "onJoin", "onMessage", "onMessage", "onLeave"]
    );
    for (push, offset) in pushes.iter().zip(1..) {
        assert_eq!(push["channel"], "room");
        assert_eq!(push["offset"], offset);
        assert!(push["time"].as_u64() > Some(1_600_000_000_000), "{push}");
    }
    assert_eq!(
        pushes[3]["body"],
        json!({ "content": "hello", "userId": "pomelo" })
    );
    assert_eq!(pushes[4]["body"], json!({ "userId": "pomelo" }));
}

/// A key makes a retry safe: the same message is published once.
#[tokio::test]
async fn a_send_repeated_with_its_key_is_one_message() {
    let system = System::start().await;
    let client = member(&system, 0, "json").await;
    for _ in 0..3 {
        let request = json!({ "route": SEND, "body": { "content": "once" }, "key": "k1" });
        assert_eq!(client.ask(request).await["code"], 0);
    }
    assert_eq!(
        client.request(SEND, json!({ "content": "end" })).await["code"],
        0
    );
    let pushes = client.until_pushes(3).await;
    let contents: Vec<_> = pushes[1..]
        .iter()
        .map(|push| &push["body"]["content"])
        .collect();
    assert_eq!(contents, ["once", "end"]);
}

/// A text that is no request is answered, and the connection stays.
#[tokio::test]
async fn an_unparsable_text_is_answered_and_the_connection_stays() {
    let system = Plan::of(1, 1).start().await;
    let client = Client::connect(system.connectors[0].address()).await;
    client.text("nonsense").await;
    let answer = client.until_nameless_reply().await;
    assert_eq!(answer, json!({ "body": { "code": 400 } }));
    let answer = client.request("connector.handler.nosuch", json!({})).await;
    assert_eq!(answer, json!({ "code": 500 }));
    assert_eq!(client.ended(), None);
}

/// No id: no reply.
#[tokio::test]
async fn a_request_without_an_id_is_carried_out_without_an_answer() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "json").await;
    client
        .text(&json!({ "route": SEND, "body": { "content": "psst" } }).to_string())
        .await;
    client.until_pushes(2).await;
    assert_eq!(client.inbox().read().replies.len(), 1);
}

/// A kick tells its reason twice: in `onKick` and by a close code that programs know.
#[tokio::test]
async fn a_kick_is_told_with_its_reason_and_a_code_of_its_own() {
    let system = Plan::of(1, 1).start().await;
    let client = Client::connect(system.connectors[0].address()).await;
    client
        .text(&json!({ "id": 1, "route": "connector.handler.constructor", "body": {} }).to_string())
        .await;
    let End::Closed { code, .. } = client.end(SOON).await else {
        panic!("dropped without a close");
    };
    assert!((4000..5000).contains(&code), "{code}");
    let received = client.inbox().read();
    let kick = received.pushes.last().expect("a push");
    assert_eq!(kick["route"], "onKick");
    assert_eq!(kick["body"]["reason"], "attack");
}

/// A body passes as it was written, whatever a JSON library would make of it.
#[tokio::test]
async fn a_body_keeps_its_bytes() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "json").await;
    let request = format!(r#"{{"id":99,"route":"{SEND}","body":{{"n":1.0,"s":"\u54c8"}}}}"#);
    client.text(&request).await;
    client.until_pushes(2).await;
    let received = client.inbox().read();
    let kept = r#"{"n":1.0,"s":"\u54c8","userId":"json"}"#;
    let found = received.texts.iter().any(|text| text.contains(kept));
    assert!(found, "{:?}", received.texts);
}
