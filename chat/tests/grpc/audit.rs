//! The audit log: what stands in it, and what never does.

use crate::access::{Guarded, With, token};
use crate::log::Log;
use crate::support::message;
use proto::chat::v1::SendStreamRequest;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use serde_json::{Value, json};

fn said(channel: &str, user: &str) -> Value {
    json!({"channel": channel, "user": user, "body": {"text": "a secret of two"}})
}

#[tokio::test]
async fn a_call_that_writes_is_noted_with_its_token_channel_user_and_code() {
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("writer", "send,read,members")]).await;
    let send = said("game \"1\"", "nancy");
    assert_eq!(
        chat.call("writer", "ChatService/Send", &send).await.status,
        200
    );
    let read = json!({"channel": "4"});
    assert_eq!(
        chat.call("writer", "ChatService/ListMembers", &read)
            .await
            .status,
        200
    );
    let wrong = json!({"channel": "4", "user": "nancy"});
    assert_eq!(
        chat.call("writer", "ChatService/Send", &wrong).await.status,
        400
    );
    let lines = log.until(2).await;
    assert_eq!(lines.len(), 2, "the read is not noted: {lines:?}");
    let line = &lines[0];
    assert_eq!(line["token"], "writer");
    assert_eq!(line["method"], "chat.v1.ChatService/Send");
    assert_eq!(line["channels"], r#"["game \"1\""]"#);
    assert_eq!(line["users"], r#"["nancy"]"#);
    assert_eq!(line["code"], "OK");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(lines[1]["code"], "INVALID_ARGUMENT");
    let text = log.text();
    assert!(!text.contains("a secret of two"), "{text}");
    assert!(!text.contains(&token("writer")), "{text}");
}

#[tokio::test]
async fn each_refusal_is_noted_with_its_reason() {
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("narrow", "read game:*")]).await;
    let read = json!({"channel": "4"});
    for (name, method) in [
        ("narrow", "ChatService/Send"),
        ("narrow", "ChatService/History"),
        ("stranger", "ChatService/History"),
    ] {
        chat.call(name, method, &read).await;
    }
    let lines = log.until(3).await;
    let told = |line: &Value| {
        let told = ["token", "method", "channels", "code", "reason"];
        told.map(|field| line[field].as_str().unwrap_or_default().to_owned())
    };
    let lines: Vec<_> = lines.iter().map(told).collect();
    let (send, history) = ("chat.v1.ChatService/Send", "chat.v1.ChatService/History");
    let denied = "PERMISSION_DENIED";
    let expected = [
        ["narrow", send, "[]", denied, "SCOPE_MISSING"],
        ["narrow", history, r#"["4"]"#, denied, "CHANNEL_NOT_ALLOWED"],
        ["", history, "", "UNAUTHENTICATED", "TOKEN_REFUSED"],
    ];
    assert_eq!(lines, expected);
    let text = log.text();
    assert!(!text.contains(&token("stranger")), "{text}");
}

#[tokio::test]
async fn a_batch_says_how_many_of_its_messages_named_a_channel_that_is_not_allowed() {
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("narrow", "send game:*")]).await;
    let channels = ["lobby", "game:1", "lobby"];
    let messages = channels.map(|channel| said(channel, "nancy"));
    let batch = json!({ "messages": messages });
    let answer = chat.call("narrow", "ChatService/BatchSend", &batch).await;
    assert_eq!(answer.status, 200);
    let broadcast = json!({"channels": ["lobby"], "user": "nancy", "body": {}});
    chat.call("narrow", "ChatService/Broadcast", &broadcast)
        .await;
    let lines = log.until(2).await;
    let told: Vec<_> = lines
        .iter()
        .map(|it| [&it["code"], &it["denied"]])
        .collect();
    let expected = [[json!("OK"), json!(2)], [json!("OK"), json!(1)]];
    assert_eq!(told, expected.each_ref().map(|it| it.each_ref()));
}

#[tokio::test]
async fn a_block_is_noted_with_its_user() {
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("moderator", "admin")]).await;
    let user = json!({"user": "nancy"});
    let block = json!({"user": "nancy", "duration": "60s", "reason": "spam"});
    for (method, request) in [
        ("UserService/BlockUser", &block),
        ("UserService/UnblockUser", &user),
        ("UserService/RevokeTokens", &user),
    ] {
        chat.call("moderator", method, request).await;
    }
    for line in log.until(3).await {
        assert_eq!(line["token"], "moderator");
        assert_eq!(line["users"], r#"["nancy"]"#);
        assert_eq!(line["code"], "OK");
    }
}

#[tokio::test]
async fn a_stream_is_noted_when_it_begins_and_when_it_ends_with_a_bounded_number_of_channels() {
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("writer", "send")]).await;
    let channel = chat.channel().await;
    let mut client = ChatServiceClient::with_interceptor(channel, With("writer"));
    let messages = (0..50).map(|number| {
        let mut message = message("{}");
        message.channel = format!("c{number}");
        message
    });
    let frame = SendStreamRequest {
        messages: messages.collect(),
    };
    let mut answers = client
        .send_stream(tokio_stream::once(frame))
        .await
        .unwrap()
        .into_inner();
    while answers.message().await.unwrap().is_some() {}
    let lines = log.until(2).await;
    assert_eq!(lines[0]["code"], "BEGUN");
    assert_eq!(lines[1]["code"], "OK");
    let channels = lines[1]["channels"].as_str().unwrap();
    assert_eq!(channels.matches("\"c").count(), 8, "{channels}");
    assert_eq!(lines[1]["more_channels"], true);
    assert_eq!(lines[1]["users"], r#"["nancy"]"#);
}

#[tokio::test]
async fn calls_of_connectors_and_an_open_port_leave_no_lines() {
    use proto::connector::v1::JoinRequest;
    use proto::connector::v1::session_service_client::SessionServiceClient;
    let (log, _guard) = Log::begin();
    let chat = Guarded::start(&[("connector", "connector")]).await;
    let channel = chat.channel().await;
    let mut client = SessionServiceClient::with_interceptor(channel, With("connector"));
    client.join(JoinRequest::default()).await.unwrap_err();
    let open = crate::support::Chat::start().await;
    open.client().await.send(message("{}")).await.unwrap();
    assert_eq!(log.audit(), Vec::<Value>::new());
}
