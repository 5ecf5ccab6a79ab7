//! Channels that take only ephemeral messages, over the store in memory.

use crate::support::{message, reason};
use channel_rules::{ChannelRule, RulesHash};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, Pattern, StoreOptions};
use chat::{Connectors, Limits, Service};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::{
    BatchSendRequest, BroadcastRequest, JoinRequest, ListConnectorsRequest, SendOutcome,
    SendRequest, SendStreamRequest, broadcast_request::Content,
};
use proto::connector::v1::session_service_client::SessionServiceClient;
use proto::connector::v1::{self, SessionMessage};
use runtime::Shutdown;
use std::sync::Arc;
use tonic::Code;
use tonic_types::RpcStatusExt;

/// Channels that begin with "cursor:" take only ephemeral messages.
fn rules() -> [ChannelRule; 1] {
    [ChannelRule {
        pattern: Pattern::new("cursor:*").unwrap(),
        ephemeral_only: true,
        ..ChannelRule::default()
    }]
}

/// The services with these rules.
fn service() -> Service {
    let memory = MemoryStore::new(StoreOptions::default());
    let connectors = Connectors::begin(memory.registry(), memory.leases(), memory.inboxes());
    let store: Arc<dyn ChannelStore> = memory;
    let limits = Limits::default();
    limits.rules.set(&rules());
    chat::service(
        store,
        Arc::default(),
        connectors,
        Arc::default(),
        &limits,
        Shutdown::new(),
    )
}

fn to(channel: &str, ephemeral: bool) -> SendRequest {
    SendRequest {
        channel: channel.into(),
        ephemeral,
        ..message("{}")
    }
}

/// The reasons of refusals; empty for what was sent.
fn told(outcomes: Vec<SendOutcome>) -> Vec<String> {
    let told = outcomes.into_iter().map(|it| match it.outcome.unwrap() {
        Outcome::Sent(_) => String::new(),
        Outcome::Refused(status) => status.get_details_error_info().unwrap().reason,
    });
    told.collect()
}

#[tokio::test]
async fn no_call_of_a_back_end_logs_a_message_where_only_ephemeral_ones_are_taken() {
    let mut client = ChatServiceClient::new(service());
    let status = client.send(to("cursor:1", false)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "EPHEMERAL_ONLY");
    assert!(status.message().contains("set ephemeral"), "{status:?}");
    client.send(to("cursor:1", true)).await.unwrap();
    client.send(to("room", false)).await.unwrap();

    let messages = vec![
        to("cursor:1", false),
        to("cursor:1", true),
        to("room", false),
    ];
    let expected = ["EPHEMERAL_ONLY", "", ""];
    let batch = BatchSendRequest {
        messages: messages.clone(),
    };
    let answer = client.batch_send(batch).await.unwrap().into_inner();
    assert_eq!(told(answer.outcomes), expected);

    let stream = tokio_stream::iter([SendStreamRequest { messages }]);
    let mut answers = client.send_stream(stream).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        outcomes.extend(answer.outcomes);
    }
    assert_eq!(told(outcomes), expected);

    for (ephemeral, expected) in [(false, ["EPHEMERAL_ONLY", ""]), (true, ["", ""])] {
        let broadcast = BroadcastRequest {
            channels: vec!["cursor:1".into(), "room".into()],
            user: "u".into(),
            content: Some(Content::BodyJson("{}".into())),
            ephemeral,
            ..BroadcastRequest::default()
        };
        let answer = client.broadcast(broadcast).await.unwrap().into_inner();
        assert_eq!(told(answer.outcomes), expected);
    }
}

#[tokio::test]
async fn sessions_are_refused_in_the_same_way_and_joins_are_announced_all_the_same() {
    let service = service();
    let mut sessions = SessionServiceClient::new(service.clone());
    let message = |ephemeral| SessionMessage {
        channel: "cursor:1".into(),
        user: "u".into(),
        body_json: "{}".into(),
        ephemeral,
        ..SessionMessage::default()
    };
    let messages = vec![message(false), message(true)];
    let stream = tokio_stream::iter([v1::SendStreamRequest { messages }]);
    let mut answers = sessions.send_stream(stream).await.unwrap().into_inner();
    let mut refused = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let outcomes = answer.outcomes.into_iter();
        refused.extend(outcomes.map(|it| match it.outcome.unwrap() {
            v1::send_outcome::Outcome::Sent(_) => String::new(),
            v1::send_outcome::Outcome::Refused(status) => {
                status.get_details_error_info().unwrap().reason
            }
        }));
    }
    assert_eq!(refused, ["EPHEMERAL_ONLY", ""]);
    let join = JoinRequest {
        channel: "cursor:1".into(),
        user: "bot".into(),
        ..JoinRequest::default()
    };
    let joined = ChatServiceClient::new(service).join(join).await.unwrap();
    assert_eq!(joined.into_inner().position.unwrap().offset, 1);
}

#[tokio::test]
async fn connectors_and_operators_are_told_the_hash_of_the_rules() {
    let service = service();
    let hash = RulesHash::default();
    hash.set(&rules());
    let mut sessions = SessionServiceClient::new(service.clone());
    let probed = sessions.probe(v1::ProbeRequest::default()).await.unwrap();
    let settings = probed.into_inner().settings.unwrap();
    assert_eq!(settings.rules_hash, hash.text());
    let mut nodes = NodeServiceClient::new(service);
    let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
    assert_eq!(listed.unwrap().into_inner().rules_hash, hash.text());
}
