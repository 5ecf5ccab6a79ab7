//! What a client of a stream asks goes by posts.

use super::{ROOM, address};
use serde_json::json;
use testkit::sse::{Stream, post, post_text};
use testkit::system::{Plan, System};
use testkit::{SOON, wait};
use tokio::task::JoinSet;

const SEND: &str = "chat.handler.send";

#[tokio::test]
async fn the_reply_to_a_post_is_the_json_of_a_websocket() {
    let system = Plan::of(1, 1).start().await;
    let at = address(&system, 0);
    let stream = Stream::of(at, "reader", &[ROOM]).await;
    let session = stream.session();
    let said = json!({"id": 9, "route": SEND, "body": {"content": "hi"}, "key": "k1"});
    let (status, reply) = post(at, &session, &said).await;
    let ok = json!({"id": 9, "body": {"code": 0, "message": "发送成功"}});
    assert_eq!((status, reply), (200, ok.clone()));
    let event = stream.until("onMessage").await;
    assert_eq!(event.data["body"]["userId"], "reader");
    // With the same key it is stored once.
    assert_eq!(post(at, &session, &said).await, (200, ok));
    // Without an id there is no id in the reply.
    let ping = json!({"route": "connector.handler.ping"});
    let (status, reply) = post(at, &session, &ping).await;
    assert_eq!((status, reply), (200, json!({"body": {"code": 0}})));
    // A refusal is a reply like any other.
    let unknown = json!({"id": 1, "route": "chat.handler.none"});
    let (status, reply) = post(at, &session, &unknown).await;
    assert_eq!(status, 200);
    assert_eq!(reply["body"]["reason"], "UNKNOWN_ROUTE");
    let again = json!({"id": 1, "route": "connector.handler.login", "body": {"userId": "other"}});
    let (_, reply) = post(at, &session, &again).await;
    assert_eq!(reply["body"]["reason"], "ALREADY_LOGGED_IN");
    wait::eventually("nothing came twice", SOON, async || {
        stream.contents() == ["hi"]
    })
    .await;
}

/// Each gets its own, although all have the same id.
#[tokio::test]
async fn posts_at_the_same_time_get_their_own_replies() {
    let system = Plan::of(1, 1).start().await;
    let at = address(&system, 0);
    let stream = Stream::of(at, "reader", &[ROOM]).await;
    let session = stream.session();
    let mut posts = JoinSet::new();
    for number in 0..40 {
        let session = session.clone();
        posts.spawn(async move {
            let channel = format!("other-{number}");
            let request = match number % 2 {
                0 => json!({"id": 1, "route": SEND, "body": {"content": number.to_string()}}),
                _ => {
                    json!({"id": 1, "route": "chat.handler.history", "body": {"channel": channel}})
                }
            };
            (number, post(at, &session, &request).await)
        });
    }
    for (number, (status, reply)) in posts.join_all().await {
        assert_eq!((status, &reply["id"]), (200, &json!(1)));
        if number % 2 == 0 {
            assert_eq!(reply["body"]["code"], 0, "{reply}");
        } else {
            assert_eq!(reply["body"]["reason"], "NOT_JOINED", "{reply}");
        }
    }
    let expected: Vec<_> = (0..40).step_by(2).map(|it| it.to_string()).collect();
    wait::eventually("each comes once", SOON, async || {
        let mut contents = stream.contents();
        contents.sort_by_key(|it| it.parse::<u32>().expect("a number"));
        contents == expected
    })
    .await;
}

/// So that a balancer with sticky sessions, or a client, can do right.
#[tokio::test]
async fn another_connector_names_the_one_that_holds_the_stream() {
    let system = System::start().await;
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM]).await;
    let session = stream.session();
    let said = json!({"id": 1, "route": SEND, "body": {"content": "hi"}});
    let (status, answer) = post(address(&system, 1), &session, &said).await;
    assert_eq!(status, 421, "{answer}");
    assert_eq!(answer["reason"], "OTHER_CONNECTOR");
    assert_eq!(answer["connector"], "connector-1");
    assert_eq!(answer["retry"], false);
    assert_eq!(post(address(&system, 0), &session, &said).await.0, 200);
    stream.until("onMessage").await;
    assert_eq!(stream.contents(), ["hi"], "nothing was done there");

    // What nobody was given, and what is over.
    let mut forged = session.clone();
    forged.replace_range(..1, if session.starts_with('x') { "y" } else { "x" });
    for unknown in ["", "nothing", &forged, "~connector-1"] {
        let (status, answer) = post(address(&system, 0), unknown, &said).await;
        assert_eq!(status, 404, "{unknown}: {answer}");
        assert_eq!(answer["reason"], "UNKNOWN_SESSION");
    }
    drop(stream);
    wait::eventually("the session is unknown", SOON, async || {
        post(address(&system, 0), &session, &said).await.0 == 404
    })
    .await;
}

#[tokio::test]
async fn a_post_that_is_no_request_or_too_long_is_refused_and_the_stream_goes_on() {
    let system = Plan::of(1, 1).start().await;
    let at = address(&system, 0);
    let stream = Stream::of(at, "reader", &[ROOM]).await;
    let session = stream.session();
    for text in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"id":-1,"route":"a"}"#,
        r#"{"route":"a","route":"b"}"#,
    ] {
        let (status, answer) = post_text(at, &session, text).await;
        assert_eq!(status, 400, "{text}: {answer}");
        assert!(answer.contains("INVALID_REQUEST"), "{answer}");
    }
    let long = json!({"route": SEND, "body": {"content": "x".repeat(200_000)}});
    assert_eq!(post(at, &session, &long).await.0, 413);
    let said = json!({"route": SEND, "body": {"content": "hi"}});
    assert_eq!(post(at, &session, &said).await.0, 200);
    stream.until("onMessage").await;
}
