//! The file of tokens changes while chat runs.

use super::{Guarded, With, line};
use crate::log::Log;
use crate::support::{message, reason};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::{SendStreamRequest, WatchPlace, WatchRequest, WatchResponse};
use serde_json::json;
use std::fs;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Longer than any change takes. Only a test that fails waits so long.
const LONG: Duration = Duration::from_secs(20);

type Client = ChatServiceClient<tonic::service::interceptor::InterceptedService<Channel, With>>;

async fn client(chat: &Guarded, name: &'static str) -> Client {
    ChatServiceClient::with_interceptor(chat.channel().await, With(name))
}

/// Waits until a call with this token is answered with this status.
async fn until(chat: &Guarded, name: &str, status: u16) {
    let request = json!({"channel": "4"});
    let changed = async {
        loop {
            let answer = chat.call(name, "ChatService/ListMembers", &request).await;
            if answer.status == status {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let changed = timeout(LONG, changed).await;
    changed.unwrap_or_else(|_| panic!("{name} is never answered with {status}"));
}

async fn watch(client: &mut Client) -> Streaming<WatchResponse> {
    let places = vec![WatchPlace {
        channel: "4".into(),
        position: None,
    }];
    let request = WatchRequest {
        places,
        ..WatchRequest::default()
    };
    client.watch(request).await.unwrap().into_inner()
}

/// The status that a stream ends with, after whatever it has given.
async fn end<T>(mut stream: Streaming<T>) -> Option<Status> {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    timeout(LONG, ended).await.expect("the stream ends")
}

#[tokio::test]
async fn a_token_is_valid_as_long_as_its_line_is_in_the_file() {
    let chat = Guarded::start(&[("old", "read")]).await;
    until(&chat, "old", 200).await;
    until(&chat, "new", 401).await;
    chat.rewrite(&[("old", "read"), ("new", "read")]);
    until(&chat, "new", 200).await;
    until(&chat, "old", 200).await;
    chat.rewrite(&[("new", "read")]);
    until(&chat, "old", 401).await;
    until(&chat, "new", 200).await;
    chat.rewrite(&[("new", "send")]);
    until(&chat, "new", 403).await;
    // A comment alone says that there is to be no token.
    fs::write(&chat.file, "# nobody\n").unwrap();
    until(&chat, "new", 401).await;
}

#[tokio::test]
async fn streams_end_when_their_token_is_taken_out_and_others_go_on() {
    let lines = [("leaver", "send,read"), ("stayer", "send,read")];
    let chat = Guarded::start(&lines).await;
    let (mut leaver, mut stayer) = (client(&chat, "leaver").await, client(&chat, "stayer").await);
    let watched = watch(&mut leaver).await;
    let mut kept = watch(&mut stayer).await;
    let (frames, receiver) = mpsc::channel(8);
    let sends = leaver.send_stream(ReceiverStream::new(receiver)).await;
    let mut sends = sends.unwrap().into_inner();
    let frame = || SendStreamRequest {
        messages: vec![message("{}")],
    };
    frames.send(frame()).await.unwrap();
    let answer = sends.message().await.unwrap().unwrap();
    assert!(matches!(answer.outcomes[0].outcome, Some(Outcome::Sent(_))));

    chat.rewrite(&lines[1..]);
    for status in [end(watched).await, end(sends).await] {
        let status = status.expect("a reason");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert_eq!(reason(&status), "TOKEN_REFUSED");
    }
    // The other watch goes on: it is given what is published now.
    stayer.send(message(r#"{"last":1}"#)).await.unwrap();
    let heard = async {
        while !format!("{:?}", kept.message().await.unwrap().unwrap()).contains("last") {}
    };
    timeout(LONG, heard).await.expect("the watch goes on");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_may_do_less() {
    let chat = Guarded::start(&[("reader", "read")]).await;
    let watched = watch(&mut client(&chat, "reader").await).await;
    chat.rewrite(&[("reader", "read game:*")]);
    let status = end(watched).await.expect("a reason");
    assert_eq!(reason(&status), "TOKEN_REFUSED");
    until(&chat, "reader", 403).await;
}

/// Other lines may be added, and comments, without any caller noticing.
#[tokio::test]
async fn a_stream_goes_on_while_other_lines_change() {
    let chat = Guarded::start(&[("reader", "read"), ("other", "send")]).await;
    let mut reader = client(&chat, "reader").await;
    let mut watched = watch(&mut reader).await;
    let text = [
        "# A comment\n\n",
        &line("third", "read"),
        &line("reader", "read"),
    ];
    fs::write(&chat.file, text.concat()).unwrap();
    until(&chat, "third", 200).await;
    until(&chat, "other", 401).await;
    let started = watched.message().await.unwrap();
    assert!(started.is_some());
    chat.rewrite(&[("reader", "read"), ("other", "send")]);
    until(&chat, "other", 403).await;
    client(&chat, "other")
        .await
        .send(message(r#"{"last":1}"#))
        .await
        .unwrap();
    let heard = async {
        while !format!("{:?}", watched.message().await.unwrap().unwrap()).contains("last") {}
    };
    timeout(LONG, heard).await.expect("the watch goes on");
}

#[tokio::test]
async fn a_broken_or_missing_file_leaves_the_tokens_as_they_were() {
    let (log, _guard) = Log::begin();
    let errors = |log: &Log| {
        let text = log.text();
        let mut lines = text.lines();
        let is_error = |it: &&str| it.contains("file of tokens") && it.contains("ERROR");
        lines.by_ref().filter(is_error).count()
    };
    let chat = Guarded::start(&[("old", "read")]).await;
    let broken = [line("new", "read"), "old nothing\n".to_owned()].concat();
    fs::write(&chat.file, &broken).unwrap();
    log.until_that(|log| errors(log) == 1).await;
    assert!(log.text().contains("line 2: "), "{}", log.text());
    until(&chat, "old", 200).await;
    until(&chat, "new", 401).await;
    fs::remove_file(&chat.file).unwrap();
    log.until_that(|log| errors(log) >= 2).await;
    until(&chat, "old", 200).await;
    fs::write(&chat.file, "").unwrap();
    log.until_that(|log| log.text().contains("is empty now"))
        .await;
    until(&chat, "old", 200).await;
    // What is wrong is said once, and not at every look.
    assert_eq!(errors(&log), 3);
    chat.rewrite(&[("new", "read")]);
    until(&chat, "new", 200).await;
    until(&chat, "old", 401).await;
    assert_eq!(errors(&log), 3);
}

#[tokio::test]
async fn chat_does_not_begin_with_a_file_that_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let open = || {
        chat::Access::by_tokens(&file, LONG)
            .unwrap_err()
            .to_string()
    };
    assert!(open().contains("cannot read"), "{}", open());
    for (text, reason) in [
        ("# nothing\n", "has no token in it"),
        ("a b c\n", "line 1: the second word is no SHA-256"),
    ] {
        fs::write(&file, text).unwrap();
        let error = open();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("tokens"), "{error}");
    }
    fs::write(&file, b"# \xff\n").unwrap();
    assert!(open().contains("UTF-8"), "{}", open());
}
