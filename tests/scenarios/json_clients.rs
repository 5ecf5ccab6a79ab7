//! JSON over WebSocket at `/ws`, which websocat and twenty lines in a browser can speak.

use serde_json::{Value, json};
use testkit::SOON;
use testkit::json::Client;
use testkit::link::End;
use testkit::pomelo::{LOGIN, SEND, SENT};
use testkit::system::{Plan, System};

async fn member(system: &System, connector: usize, user: &str) -> Client {
    let client = Client::connect(system.connectors[connector].address()).await;
    let body = json!({ "userId": user, "lessonId": "room" });
    let reply = client.request(LOGIN, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client.until_pushes(1).await;
    client
}

/// Clients of both protocols share channels, and JSON pushes have positions.
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
async fn a_send_that_is_retried_with_its_key_is_one_message() {
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

#[tokio::test]
async fn an_unparsable_text_is_answered_and_the_connection_stays() {
    let system = Plan::of(1, 1).start().await;
    let client = Client::connect(system.connectors[0].address()).await;
    client.text("nonsense").await;
    let answer = client.until_reply_without_id().await;
    assert_eq!(answer["body"]["code"], 400, "{answer}");
    assert_eq!(answer["body"]["reason"], "INVALID_REQUEST", "{answer}");
    let answer = client.request("connector.handler.nosuch", json!({})).await;
    assert_eq!(answer["reason"], "UNKNOWN_ROUTE", "{answer}");
    assert_eq!(client.ended(), None);
}

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

/// The client is told the reason twice: in `onKick`, and by a close code for programs.
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

/// A body is passed on as it was written, and not as a JSON library would write it.
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

/// A refusal says whether a retry may succeed, so a client that obeys `retry` never loops.
#[tokio::test]
async fn a_refusal_that_is_final_says_so() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "json").await;
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let keyed = |id: u64, key: &str, content: &str| {
        json!({ "id": id, "route": SEND, "key": key, "body": { "content": content } }).to_string()
    };
    client.text(&keyed(1_000, "k", "first")).await;
    let texts = [
        (1_001, keyed(1_001, "k", "another"), "KEY_REUSED"),
        (1_002, keyed(1_002, "", "x"), "INVALID_KEY"),
        (1_003, keyed(1_003, &"k".repeat(129), "x"), "INVALID_KEY"),
        (
            1_004,
            format!(r#"{{"id":1004,"route":"{SEND}","body":[1]}}"#),
            "INVALID_BODY",
        ),
        (
            1_005,
            format!(r#"{{"id":1005,"route":"{SEND}","body":{deep}}}"#),
            "INVALID_BODY",
        ),
        (
            1_006,
            format!(r#"{{"id":1006,"route":"{SEND}","body":{{"n":1e999}}}}"#),
            "INVALID_BODY",
        ),
    ];
    for (id, text, reason) in &texts {
        client.text(text).await;
        let reply = client.inbox().until(SOON, |received| {
            let mut replies = received.replies.iter();
            replies.find(|reply| reply["id"] == *id).cloned()
        });
        let reply = reply.await.expect("an answer")["body"].take();
        assert_eq!(reply["reason"], *reason, "{reply}");
        assert_eq!(reply["retry"], false, "{reply}");
        assert!(
            reply["message"].as_str().is_some_and(str::is_ascii),
            "{reply}"
        );
    }
}

/// If a text was cut in the middle of an emoji, members receive a text that every parser can read.
#[tokio::test]
async fn half_of_a_surrogate_pair_reaches_nobody() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "json").await;
    client
        .text(&format!(
            r#"{{"id":1000,"route":"{SEND}","body":{{"content":"cut \ud83d"}}}}"#
        ))
        .await;
    let pushes = client.until_pushes(2).await;
    assert_eq!(pushes[1]["body"]["content"], "cut \u{fffd}");
}

/// A client that logs in without a channel may join one later. A user is still logged in only once.
#[tokio::test]
async fn a_client_may_log_in_without_a_channel() {
    let system = Plan::of(1, 1).start().await;
    let client = Client::connect(system.connectors[0].address()).await;
    let ping = "connector.handler.ping";
    assert_eq!(client.request(ping, json!({})).await, json!({ "code": 0 }));
    let login = json!({ "userId": "wanderer" });
    assert_eq!(client.request(LOGIN, login.clone()).await["code"], 0);
    assert_eq!(client.request(ping, json!({})).await, json!({ "code": 0 }));
    let refusal = client.request(SEND, json!({ "content": "x" })).await;
    assert_eq!(refusal["reason"], "NOT_JOINED", "{refusal}");
    let other = Client::connect(system.connectors[0].address()).await;
    let refusal = other.request(LOGIN, login.clone()).await;
    assert_eq!(refusal["reason"], "USER_LOGGED_IN", "{refusal}");
    assert_eq!(refusal["retry"], true);
    assert!(refusal["retryAfterMs"].is_u64());
    let join = json!({ "channel": "garden" });
    assert_eq!(client.request("chat.handler.join", join).await["code"], 0);
    client.until_pushes(1).await;
    client.close().await;
    testkit::wait::eventually("the user may log in again", SOON, async || {
        other.request(LOGIN, login.clone()).await["code"] == 0
    })
    .await;
}
