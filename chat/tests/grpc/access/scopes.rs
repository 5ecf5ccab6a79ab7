//! Which token may make which call: every call of the contracts with every scope.

use super::{Guarded, With, info};
use crate::support::{message, reason};
use prost_reflect::DescriptorPool;
use proto::chat::v1::SendStreamRequest;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::connector::v1 as sessions;
use proto::connector::v1::session_service_client::SessionServiceClient;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tonic::{Code, Status};

/// Each of these is the name of a token that has this scope alone.
pub(super) const SCOPES: [&str; 7] = [
    "send",
    "read",
    "members",
    "users",
    "nodes",
    "admin",
    "connector",
];

async fn chat() -> Guarded {
    Guarded::start(&SCOPES.map(|scope| (scope, scope))).await
}

/// A call in JSON, the scopes of which each is enough, and the HTTP status if it is let in.
pub(super) type Row = (&'static str, Value, &'static [&'static str], u16);

pub(super) fn rows() -> Vec<Row> {
    let message = json!({"channel": "4", "user": "bot", "body": {}});
    let member = json!({"channel": "4", "user": "bot"});
    let channel = json!({"channel": "4"});
    let broadcast = json!({"channels": ["4", "5"], "user": "bot", "body": {}});
    let push = json!({"users": ["bot"], "body": {}});
    let start = json!({"epoch": "", "offset": 0});
    vec![
        ("ChatService/Send", message.clone(), &["send"], 200),
        (
            "ChatService/BatchSend",
            json!({"messages": [message]}),
            &["send"],
            200,
        ),
        ("ChatService/Broadcast", broadcast, &["send"], 200),
        (
            "ChatService/History",
            channel.clone(),
            &["read", "connector"],
            200,
        ),
        ("ChatService/Join", member.clone(), &["members"], 200),
        ("ChatService/Leave", member.clone(), &["members"], 200),
        (
            "ChatService/ListMembers",
            channel.clone(),
            &["read", "connector"],
            200,
        ),
        (
            "ChatService/CountMembers",
            json!({"channels": ["4"]}),
            &["read"],
            200,
        ),
        ("ChatService/GetChannel", channel.clone(), &["read"], 200),
        ("ChatService/ListChannels", json!({}), &["read"], 200),
        (
            "ChatService/TrimHistory",
            json!({"channel": "4", "position": start}),
            &["admin"],
            200,
        ),
        (
            "UserService/ListSessions",
            json!({"user": "bot"}),
            &["users"],
            200,
        ),
        (
            "UserService/BatchGetPresence",
            json!({"users": ["bot"]}),
            &["users"],
            200,
        ),
        ("UserService/PushToUsers", push, &["users"], 200),
        (
            "UserService/AddToChannel",
            member.clone(),
            &["members"],
            200,
        ),
        ("UserService/RemoveFromChannel", member, &["members"], 200),
        (
            "UserService/Disconnect",
            json!({"users": ["bot"]}),
            &["users"],
            200,
        ),
        (
            "UserService/BlockUser",
            json!({"user": "bot", "duration": "60s"}),
            &["admin"],
            200,
        ),
        (
            "UserService/UnblockUser",
            json!({"user": "bot"}),
            &["admin"],
            200,
        ),
        (
            "UserService/RevokeTokens",
            json!({"user": "bot", "jti": "1"}),
            &["admin"],
            200,
        ),
        (
            "UserService/GetRestrictions",
            json!({"user": "bot"}),
            &["users"],
            200,
        ),
        ("NodeService/ListConnectors", json!({}), &["nodes"], 200),
        // There is no such connector.
        (
            "NodeService/DrainConnector",
            json!({"connector": "c1"}),
            &["admin"],
            404,
        ),
        ("ChatService/DeleteChannel", channel, &["admin"], 200),
    ]
}

/// Calls that JSON cannot make, or not to their ends.
const OTHERS: [&str; 6] = [
    "chat.v1.ChatService/SendStream",
    "chat.v1.ChatService/Watch",
    "connector.v1.SessionService/Join",
    "connector.v1.SessionService/Leave",
    "connector.v1.SessionService/SendStream",
    "connector.v1.SessionService/Probe",
];

#[test]
fn no_call_of_the_contracts_is_missing_here() {
    let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let services: Vec<_> = types.services().collect();
    let methods = services.iter().flat_map(|service| {
        let methods = service.methods();
        methods.map(|it| format!("{}/{}", service.full_name(), it.name()))
    });
    let listed = rows().into_iter().map(|row| format!("chat.v1.{}", row.0));
    let listed = listed.chain(OTHERS.map(str::to_owned));
    assert_eq!(methods.collect::<BTreeSet<_>>(), listed.collect());
}

/// For each of 24 calls: seven tokens, of which those with the right scope are let in and all others are refused.
#[tokio::test]
async fn a_call_is_let_in_with_its_scope_and_refused_with_every_other_one() {
    let chat = chat().await;
    // The channel that the calls are about.
    let first = json!({"channel": "4", "user": "bot", "body": {}});
    assert_eq!(
        chat.call("send", "ChatService/Send", &first).await.status,
        200
    );
    let mut checked = 0;
    for (method, request, allowed, status) in rows() {
        for scope in SCOPES.iter().filter(|it| !allowed.contains(it)) {
            let answer = chat.call(scope, method, &request).await;
            let refused = (403, "permission_denied".to_owned());
            assert_eq!(answer.code(), refused, "{method} with {scope}");
            let info = info(&answer);
            assert_eq!(info["reason"], "SCOPE_MISSING");
            assert_eq!(info["metadata"]["scope"], allowed[0], "{method}");
            let words = answer.json()["message"].as_str().unwrap().to_owned();
            let named = format!("the scope {},", allowed[0]);
            assert!(words.contains(&named), "{words}");
            checked += 1;
        }
        for scope in allowed {
            let answer = chat.call(scope, method, &request).await;
            assert_eq!(answer.status, status, "{method} with {scope}: {answer:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 24 * SCOPES.len());
}

/// What becomes of the calls in [`OTHERS`].
async fn others(chat: &Guarded, scope: &'static str) -> Vec<Result<(), Status>> {
    let channel = chat.channel().await;
    let mut back_end = ChatServiceClient::with_interceptor(channel.clone(), With(scope));
    let mut connector = SessionServiceClient::with_interceptor(channel, With(scope));
    let frame = SendStreamRequest {
        messages: vec![message("{}")],
    };
    let watch = proto::chat::v1::WatchRequest {
        places: vec![proto::chat::v1::WatchPlace {
            channel: "4".into(),
            position: None,
        }],
        ..Default::default()
    };
    let speech = sessions::SendStreamRequest { messages: vec![] };
    vec![
        back_end
            .send_stream(tokio_stream::once(frame))
            .await
            .map(drop),
        back_end.watch(watch).await.map(drop),
        connector
            .join(sessions::JoinRequest::default())
            .await
            .map(drop),
        connector
            .leave(sessions::LeaveRequest::default())
            .await
            .map(drop),
        connector
            .send_stream(tokio_stream::once(speech))
            .await
            .map(drop),
        connector
            .probe(sessions::ProbeRequest::default())
            .await
            .map(drop),
    ]
}

#[tokio::test]
async fn streams_and_the_calls_of_connectors_need_their_scopes_too() {
    let chat = chat().await;
    let allowed = [
        "send",
        "read",
        "connector",
        "connector",
        "connector",
        "connector",
    ];
    for scope in SCOPES {
        let outcomes = others(&chat, scope).await;
        for ((call, allowed), outcome) in OTHERS.iter().zip(allowed).zip(outcomes) {
            match outcome {
                Err(status) if scope != allowed => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{call} with {scope}");
                    assert_eq!(reason(&status), "SCOPE_MISSING");
                }
                // An empty request is let in, and is wrong.
                Err(status) => {
                    assert_eq!(scope, allowed);
                    assert_eq!(status.code(), Code::InvalidArgument, "{call} with {scope}");
                }
                Ok(()) => assert_eq!(scope, allowed, "{call}"),
            }
        }
    }
}

#[tokio::test]
async fn a_token_with_several_scopes_may_make_the_calls_of_each() {
    let chat = Guarded::start(&[("both", "send,read")]).await;
    let send = json!({"channel": "4", "user": "bot", "body": {}});
    assert_eq!(
        chat.call("both", "ChatService/Send", &send).await.status,
        200
    );
    let read = json!({"channel": "4"});
    assert_eq!(
        chat.call("both", "ChatService/History", &read).await.status,
        200
    );
    let answer = chat.call("both", "ChatService/DeleteChannel", &read).await;
    assert_eq!(answer.status, 403);
}
