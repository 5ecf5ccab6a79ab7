//! Tokens that are only for some channels. Every field that names a channel is tried with one inside and one outside.

use super::{Guarded, With, info};
use crate::support::reason;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{SendRequest, SendStreamRequest, WatchPlace, WatchRequest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tonic::Code;
use tonic_types::RpcStatusExt;

/// Two tokens with all scopes that go with patterns, one with patterns and one without.
async fn chat() -> Guarded {
    let scopes = "send,read,members,users,admin";
    let narrow = format!("{scopes} game:*,lobby");
    let chat = Guarded::start(&[("narrow", &narrow), ("wide", scopes)]).await;
    for channel in ["game:1", "lobby", "chess:1"] {
        let send = json!({"channel": channel, "user": "bot", "body": {}});
        assert_eq!(
            chat.call("wide", "ChatService/Send", &send).await.status,
            200
        );
    }
    chat
}

/// A call, the field that names a channel, the request with a name there, names inside, and names outside.
type Row = (
    &'static str,
    &'static str,
    fn(&str) -> Value,
    &'static [&'static str],
    &'static [&'static str],
);

const NAMES: &[&str] = &["game:1", "lobby"];
const OTHER_NAMES: &[&str] = &["chess:1", "lobby2", "game", "Game:1", " game:1"];
const PREFIXES: &[&str] = &["game:", "game:1"];
/// The last one is the name of an allowed channel, but other channels begin with it, too.
const OTHER_PREFIXES: &[&str] = &["", "g", "chess:", "lobby"];

fn message(channel: &str) -> Value {
    json!({"channel": channel, "user": "bot", "body": {}})
}

fn member(channel: &str) -> Value {
    json!({"channel": channel, "user": "bot"})
}

fn named(channel: &str) -> Value {
    json!({"channel": channel})
}

fn trimmed(channel: &str) -> Value {
    json!({"channel": channel, "position": {"epoch": "", "offset": 0}})
}

fn rows() -> Vec<Row> {
    let count = |channel: &str| json!({"channels": ["game:1", channel]});
    let list = |prefix: &str| json!({"prefix": prefix});
    vec![
        ("ChatService/Send", "channel", message, NAMES, OTHER_NAMES),
        ("ChatService/History", "channel", named, NAMES, OTHER_NAMES),
        ("ChatService/Join", "channel", member, NAMES, OTHER_NAMES),
        ("ChatService/Leave", "channel", member, NAMES, OTHER_NAMES),
        (
            "ChatService/ListMembers",
            "channel",
            named,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "ChatService/CountMembers",
            "channels",
            count,
            &["lobby"],
            OTHER_NAMES,
        ),
        (
            "ChatService/GetChannel",
            "channel",
            named,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "ChatService/ListChannels",
            "prefix",
            list,
            PREFIXES,
            OTHER_PREFIXES,
        ),
        (
            "ChatService/TrimHistory",
            "channel",
            trimmed,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "UserService/ListSessions",
            "channel",
            named,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "UserService/AddToChannel",
            "channel",
            member,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "UserService/RemoveFromChannel",
            "channel",
            member,
            NAMES,
            OTHER_NAMES,
        ),
        (
            "ChatService/DeleteChannel",
            "channel",
            named,
            NAMES,
            OTHER_NAMES,
        ),
    ]
}

/// Fields of requests that are tried in tests of their own, because their refusals are outcomes or end a stream.
const OTHERS: [(&str, &str); 5] = [
    ("ChatService/SendStream", "messages.channel"),
    ("ChatService/BatchSend", "messages.channel"),
    ("ChatService/Broadcast", "channels"),
    ("ChatService/Watch", "places.channel"),
    ("ChatService/Watch", "prefix"),
];

/// The paths of all fields of a message whose names say that they hold a channel or the beginning of its name.
fn fields(message: &MessageDescriptor, path: &str, found: &mut BTreeSet<String>) {
    for field in message.fields() {
        let path = format!("{path}{}", field.name());
        let name = field.name();
        match field.kind() {
            Kind::String if name.contains("channel") || name.contains("prefix") => {
                found.insert(path);
            }
            Kind::Message(inner) if inner.package_name() == "chat.v1" => {
                fields(&inner, &format!("{path}."), found);
            }
            _ => {}
        }
    }
}

#[test]
fn no_field_of_the_contract_that_names_a_channel_is_missing_here() {
    let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut all = BTreeSet::new();
    for service in types.services().filter(|it| it.package_name() == "chat.v1") {
        for method in service.methods() {
            let mut found = BTreeSet::new();
            fields(&method.input(), "", &mut found);
            let call = format!("{}/{}", service.name(), method.name());
            all.extend(found.into_iter().map(|field| (call.clone(), field)));
        }
    }
    let rows = rows().into_iter().map(|row| (row.0, row.1));
    let listed = rows.chain(OTHERS);
    let listed = listed.map(|(call, field)| (call.to_owned(), field.to_owned()));
    assert_eq!(all, listed.collect());
}

#[tokio::test]
async fn a_channel_outside_the_patterns_is_refused_by_the_name_of_its_field() {
    let chat = chat().await;
    for (method, field, request, inside, outside) in rows() {
        for name in outside {
            let answer = chat.call("narrow", method, &request(name)).await;
            let refused = (403, "permission_denied".to_owned());
            assert_eq!(answer.code(), refused, "{method} {name:?}: {answer:?}");
            let info = info(&answer);
            assert_eq!(info["reason"], "CHANNEL_NOT_ALLOWED", "{method} {name:?}");
            assert_eq!(info["metadata"]["field"], field, "{method} {name:?}");
            let words = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(words.starts_with(&format!("{field}: ")), "{words}");
        }
        for name in inside {
            let answer = chat.call("narrow", method, &request(name)).await;
            assert_eq!(answer.status, 200, "{method} {name:?}: {answer:?}");
        }
    }
    // Nothing was done to the channel outside.
    let kept = named("chess:1");
    let answer = chat
        .call("wide", "ChatService/GetChannel", &kept)
        .await
        .json();
    assert_eq!(answer["channel"]["position"]["offset"], "1");
    assert_eq!(answer["channel"]["held"], "1");
}

#[tokio::test]
async fn what_is_not_about_channels_is_refused_to_a_token_for_some_channels() {
    let chat = chat().await;
    for (method, request) in [
        ("UserService/BatchGetPresence", json!({"users": ["bot"]})),
        (
            "UserService/PushToUsers",
            json!({"users": ["bot"], "body": {}}),
        ),
        ("UserService/Disconnect", json!({"users": ["bot"]})),
        ("UserService/ListSessions", json!({"user": "bot"})),
        ("UserService/ListSessions", json!({"connector": "c1"})),
    ] {
        let answer = chat.call("narrow", method, &request).await;
        assert_eq!(answer.status, 403, "{method}: {answer:?}");
        assert_eq!(info(&answer)["reason"], "CHANNEL_NOT_ALLOWED", "{method}");
        let answer = chat.call("wide", method, &request).await;
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
    }
    let drain = json!({"connector": "c1"});
    let answer = chat
        .call("narrow", "NodeService/DrainConnector", &drain)
        .await;
    assert_eq!(answer.status, 403);
    let answer = chat
        .call("wide", "NodeService/DrainConnector", &drain)
        .await;
    assert_eq!(answer.status, 404, "there is no such connector");
}

/// The reasons of the outcomes of a batch in JSON. `None`: sent.
fn reasons(answer: &Value) -> Vec<Option<String>> {
    let outcomes = answer["outcomes"].as_array().unwrap();
    let reason = |outcome: &Value| {
        let refused = outcome.get("refused")?;
        Some(refused["details"][0]["reason"].as_str().unwrap().to_owned())
    };
    outcomes.iter().map(reason).collect()
}

#[tokio::test]
async fn each_message_of_a_batch_and_each_channel_of_a_broadcast_is_checked() {
    let chat = chat().await;
    let refused = Some("CHANNEL_NOT_ALLOWED".to_owned());
    let expected = [None, refused, None];
    let messages = ["game:1", "chess:1", "lobby"].map(message);
    let batch = json!({"messages": messages});
    let answer = chat.call("narrow", "ChatService/BatchSend", &batch).await;
    assert_eq!(reasons(&answer.json()), expected);
    let channels = ["game:1", "chess:1", "lobby"];
    let broadcast = json!({"channels": channels, "user": "bot", "body": {}});
    let answer = chat
        .call("narrow", "ChatService/Broadcast", &broadcast)
        .await;
    assert_eq!(reasons(&answer.json()), expected);
    let answer = chat.call("wide", "ChatService/Broadcast", &broadcast).await;
    assert_eq!(reasons(&answer.json()), [None, None, None]);
}

#[tokio::test]
async fn each_message_of_a_stream_is_checked_and_the_stream_goes_on() {
    let chat = chat().await;
    let channel = chat.channel().await;
    let mut client = ChatServiceClient::with_interceptor(channel, With("narrow"));
    let message = |channel: &str| SendRequest {
        channel: channel.into(),
        user: "bot".into(),
        content: Some(Content::BodyJson("{}".into())),
        ..SendRequest::default()
    };
    let frame = |channel| SendStreamRequest {
        messages: vec![message(channel)],
    };
    let frames = tokio_stream::iter(["chess:1", "game:1", "lobby2", "lobby"].map(frame));
    let mut answers = client.send_stream(frames).await.unwrap().into_inner();
    let mut sent = Vec::new();
    while let Some(frame) = answers.message().await.unwrap() {
        for outcome in frame.outcomes {
            sent.push(match outcome.outcome.unwrap() {
                Outcome::Sent(_) => true,
                Outcome::Refused(status) => {
                    let info = status.get_details_error_info().unwrap();
                    assert_eq!(info.reason, "CHANNEL_NOT_ALLOWED");
                    assert_eq!(info.metadata["field"], "channel");
                    false
                }
            });
        }
    }
    assert_eq!(sent, [false, true, false, true]);
}

#[tokio::test]
async fn a_watch_may_follow_allowed_channels_and_prefixes_alone() {
    let chat = chat().await;
    let channel = chat.channel().await;
    let mut client = ChatServiceClient::with_interceptor(channel, With("narrow"));
    let places = |names: &[&str]| WatchRequest {
        places: names
            .iter()
            .map(|name| WatchPlace {
                channel: (*name).to_owned(),
                position: None,
            })
            .collect(),
        ..WatchRequest::default()
    };
    let prefix = |prefix: &str| WatchRequest {
        prefix: Some(prefix.to_owned()),
        ..WatchRequest::default()
    };
    let mut watched = Vec::new();
    for (request, field) in [
        (places(&["chess:1"]), Some("places.channel")),
        (places(&["game:1", "lobby2"]), Some("places.channel")),
        (places(&["game:1", "lobby"]), None),
        (prefix("game:"), None),
        (prefix(""), Some("prefix")),
        (prefix("gam"), Some("prefix")),
        (prefix("chess:"), Some("prefix")),
        (prefix("lobby"), Some("prefix")),
    ] {
        match (client.watch(request.clone()).await, field) {
            (Ok(answer), None) => watched.push(answer),
            (Err(status), Some(field)) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{request:?}");
                assert_eq!(reason(&status), "CHANNEL_NOT_ALLOWED");
                use tonic_types::StatusExt;
                let info = status.get_details_error_info().unwrap();
                assert_eq!(info.metadata["field"], field, "{request:?}");
            }
            (answer, _) => panic!("{request:?}: {answer:?}"),
        }
    }
    assert_eq!(watched.len(), 2);
}

/// The hash in a page token is no secret: everybody who has the source can make tokens. They must not lead out of the prefix.
#[tokio::test]
async fn a_page_token_of_another_prefix_does_not_lead_out_of_the_allowed_one() {
    let chat = chat().await;
    let list = json!({"prefix": "", "pageSize": 1});
    let page = chat
        .call("wide", "ChatService/ListChannels", &list)
        .await
        .json();
    let foreign = page["nextPageToken"].as_str().unwrap();
    let list = json!({"prefix": "game:", "pageSize": 1, "pageToken": foreign});
    let answer = chat.call("narrow", "ChatService/ListChannels", &list).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    // A place in the list of all channels, with the hash for the allowed prefix.
    for name in ["game:2", "game:3"] {
        let send = json!({"channel": name, "user": "bot", "body": {}});
        let answer = chat.call("narrow", "ChatService/Send", &send).await;
        assert_eq!(answer.status, 200);
    }
    let list = json!({"prefix": "game:", "pageSize": 1});
    let page = chat
        .call("narrow", "ChatService/ListChannels", &list)
        .await
        .json();
    let own = page["nextPageToken"].as_str().unwrap();
    let forged = [&own[..16], &foreign[16..]].concat();
    let list = json!({"prefix": "game:", "pageToken": forged});
    let answer = chat.call("narrow", "ChatService/ListChannels", &list).await;
    assert!(!format!("{answer:?}").contains("chess"), "{answer:?}");
    assert!(!format!("{answer:?}").contains("lobby"), "{answer:?}");
}
