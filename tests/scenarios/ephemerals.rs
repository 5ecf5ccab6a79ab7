//! Messages for those who are there: they reach every protocol and every connector, and nobody later.

use proto::chat::v1::SendRequest;
use proto::chat::v1::send_request::Content;
use serde_json::{Value, json};
use testkit::json::Client;
use testkit::pomelo::{LOGIN, SENT};
use testkit::system::System;

const PUBLISH: &str = "chat.handler.publish";
const HISTORY: &str = "chat.handler.history";

async fn member(system: &System, connector: usize, user: &str, since: Option<Value>) -> Client {
    let client = Client::connect(system.connectors[connector].address()).await;
    let mut body = json!({ "userId": user, "lessonId": "room", "positions": true });
    if let Some(since) = since {
        body["since"] = since;
    }
    let reply = client.request(LOGIN, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client
}

/// What a client was given in order: the body's `n`, negative if it is ephemeral.
fn given(pushes: &[Value]) -> Vec<i64> {
    let messages = pushes.iter().filter(|push| push["route"] == "onMessage");
    let given = messages.map(|push| {
        let number = push["body"]["n"].as_i64().expect("a number");
        let is_ephemeral = push["ephemeral"] == true;
        assert_eq!(push.get("offset").is_none(), is_ephemeral, "{push}");
        if is_ephemeral { -number } else { number }
    });
    given.collect()
}

#[tokio::test]
async fn an_ephemeral_message_reaches_all_who_are_there_in_its_place_and_nobody_later() {
    let system = System::start().await;
    let speaker = member(&system, 0, "speaker", None).await;
    let pomelo = system.member(1, "pomelo", "room").await;
    let listener = member(&system, 1, "listener", None).await;
    let publish = async |n: u64, ephemeral: bool| {
        let body = json!({ "body": { "n": n }, "ephemeral": ephemeral });
        let reply = speaker.request(PUBLISH, body).await;
        assert_eq!(reply, serde_json::from_str::<Value>(SENT).expect("JSON"));
    };
    publish(1, false).await;
    publish(2, true).await;
    publish(3, false).await;
    let request = SendRequest {
        channel: "room".into(),
        user: "bot".into(),
        content: Some(Content::BodyJson(r#"{"n":4}"#.into())),
        ephemeral: true,
        ..SendRequest::default()
    };
    let sent = system.api(0).client().send(request).await;
    let position = sent.expect("it is given").into_inner().position;
    let position = position.expect("where the log ended");
    publish(5, false).await;

    for (client, joins) in [(&speaker, 3), (&listener, 1)] {
        let pushes = client.until_pushes(joins + 5).await;
        assert_eq!(given(&pushes), [1, -2, 3, -4, 5]);
    }
    let bodies = (1..=5).map(|n| {
        let user = if n == 4 { "bot" } else { "speaker" };
        format!(r#"onMessage {{"n":{n},"userId":"{user}"}}"#)
    });
    let bodies: Vec<_> = bodies.collect();
    pomelo.until_push(&bodies[4]).await;
    let pushes = pomelo.pushes();
    assert!(pushes.ends_with(&bodies), "{pushes:?}");

    let page = speaker.request(HISTORY, json!({})).await;
    let logged = page["publications"].as_array().expect("publications");
    let logged: Vec<_> = logged
        .iter()
        .filter_map(|it| it["body"]["n"].as_i64())
        .collect();
    assert_eq!(logged, [1, 3, 5]);
    // From right before the first message.
    let since = json!({ "epoch": position.epoch, "offset": position.offset - 2 });
    let late = member(&system, 0, "late", Some(since)).await;
    assert_eq!(given(&late.until_pushes(4).await), [1, 3, 5]);
}
