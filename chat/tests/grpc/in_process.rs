//! The service without a socket, as a connector in the same process uses it.

use crate::support::{FakeStore, message, reason};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::{Limits, Service};
use prost::Message;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::join_request::About;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::{self as chat_v1, ListMembersRequest, Member, SendStreamRequest};
use proto::connector::v1::session_service_client::SessionServiceClient;
use proto::connector::v1::{
    self as sessions, JoinRequest, LeaveRequest, SendOutcome, Session, SessionMessage,
};
use runtime::Shutdown;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic_types::RpcStatusExt;

fn service(store: Arc<dyn ChannelStore>) -> Service {
    chat::service(
        store,
        Arc::default(),
        Arc::default(),
        Arc::default(),
        &Limits::default(),
        Shutdown::new(),
    )
}

#[tokio::test]
async fn the_generated_client_can_use_the_service_instead_of_a_connection() {
    let store = FakeStore::new();
    let mut client = ChatServiceClient::new(service(Arc::new(store.clone())));
    client.send(message(r#"{"a":1}"#)).await.unwrap();
    assert_eq!(store.body(), r#"{"a":1,"userId":"nancy"}"#);
    let status = client.send(message("[]")).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_ARGUMENT");

    let messages = vec![message("{}")];
    let frame = SendStreamRequest { messages };
    let requests = tokio_stream::once(frame);
    let mut answers = client.send_stream(requests).await.unwrap().into_inner();
    let mut frame = answers.message().await.unwrap().unwrap();
    let answer = frame.outcomes.pop().unwrap();
    assert!(matches!(answer.outcome, Some(Outcome::Sent(_))));
    assert!(answers.message().await.unwrap().is_none());
}

/// Sends one message of a session and returns its outcome.
async fn send(client: &mut SessionServiceClient<Service>, message: &SessionMessage) -> SendOutcome {
    let messages = vec![message.clone()];
    let requests = tokio_stream::once(sessions::SendStreamRequest { messages });
    let mut answers = client.send_stream(requests).await.unwrap().into_inner();
    let mut frame = answers.message().await.unwrap().unwrap();
    frame.outcomes.pop().unwrap()
}

#[tokio::test]
async fn over_the_store_in_memory_a_member_can_send_until_it_leaves() {
    use sessions::send_outcome::Outcome;
    let service = service(MemoryStore::new(StoreOptions::default()));
    let mut client = SessionServiceClient::new(service.clone());
    let mut back_end = ChatServiceClient::new(service);
    let session = Some(Session {
        incarnation: "c1-abc".into(),
        id: "s1".into(),
    });
    let mut speech = SessionMessage {
        channel: "4".into(),
        user: "nancy".into(),
        session: "s1".into(),
        body_json: "{}".into(),
        idempotency_key: "k1".into(),
        ..SessionMessage::default()
    };
    let is_no_member = |outcome: SendOutcome| match outcome.outcome {
        Some(Outcome::Refused(status)) => {
            assert_eq!(
                status.get_details_error_info().unwrap().reason,
                "NOT_MEMBER"
            );
        }
        other => panic!("{other:?}"),
    };
    let position = |outcome: SendOutcome| match outcome.outcome {
        Some(Outcome::Sent(position)) => position,
        other => panic!("{other:?}"),
    };
    is_no_member(send(&mut client, &speech).await);

    let join = JoinRequest {
        channel: "4".into(),
        user: "nancy".into(),
        session: session.clone(),
        operation: 1,
        ..JoinRequest::default()
    };
    let joined = client.join(join).await.unwrap().into_inner();
    assert!(joined.published);
    let first = position(send(&mut client, &speech).await);
    let second = position(send(&mut client, &speech).await);
    assert_eq!(first, second, "both answers are about the same message");
    let before = joined.position.unwrap();
    assert_eq!(first.epoch, before.epoch);
    assert_eq!(first.offset, before.offset + 1);

    let members = ListMembersRequest {
        channel: "4".into(),
        ..ListMembersRequest::default()
    };
    let members = back_end.list_members(members).await.unwrap().into_inner();
    let nancy = Member {
        user: "nancy".into(),
        sessions: 1,
        about: None,
    };
    assert_eq!(members.members, [nancy]);

    let leave = LeaveRequest {
        channel: "4".into(),
        user: "nancy".into(),
        session,
        operation: 2,
        ..LeaveRequest::default()
    };
    assert!(client.leave(leave.clone()).await.unwrap().into_inner().left);
    assert!(!client.leave(leave).await.unwrap().into_inner().left);
    let status = back_end.send(message("{}")).await;
    status.expect("a back end need not be a member");
    speech.idempotency_key = String::new();
    is_no_member(send(&mut client, &speech).await);
}

/// A connector asks for no more than fits into the queue of its client.
#[tokio::test]
async fn a_page_of_members_keeps_to_its_bytes_whatever_is_known_of_them() {
    let service = service(MemoryStore::new(StoreOptions::default()));
    let mut client = ChatServiceClient::new(service);
    for user in 0..300 {
        let info = if user % 100 < 30 { 1_000 } else { 1 };
        let info = format!(r#"{{"name":"{}"}}"#, "x".repeat(info));
        let join = chat_v1::JoinRequest {
            channel: "4".into(),
            user: format!("user {user:03}"),
            about: Some(About::InfoJson(info.into())),
            ..chat_v1::JoinRequest::default()
        };
        client.join(join).await.unwrap();
    }
    let pages = async |page_size, page_bytes| {
        let mut client = client.clone();
        let (mut users, mut pages, mut page_token) = (BTreeSet::new(), 0, String::new());
        loop {
            let request = ListMembersRequest {
                channel: "4".into(),
                page_size,
                page_token,
                page_bytes,
                ..ListMembersRequest::default()
            };
            let page = client.list_members(request).await.unwrap().into_inner();
            if page_bytes > 0 {
                let size = page.encoded_len();
                assert!(size <= page_bytes as usize, "{size} of {page_bytes}");
            }
            pages += 1;
            users.extend(page.members.into_iter().map(|it| it.user));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return (users.len(), pages);
            }
        }
    };
    assert_eq!(pages(1_000, 0).await, (300, 1));
    assert_eq!(pages(50, 64 * 1024).await, (300, 6));
    // Three times 30 users with a kilobyte: two such groups do not fit into one page.
    assert_eq!(pages(1_000, 40 * 1024).await, (300, 3));
}
