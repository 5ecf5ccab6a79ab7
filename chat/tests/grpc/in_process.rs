//! The service without a socket, for a connector in the same process.

use crate::support::{FakeStore, message, reason};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::{Limits, Service};
use proto::v1::chat_service_client::ChatServiceClient;
use proto::v1::numbered_answer::Answer;
use proto::v1::{
    JoinRequest, LeaveRequest, Member, MembersRequest, NumberedSend, SendRequest,
    SendStreamRequest, Session,
};
use runtime::Shutdown;
use std::sync::Arc;

fn client(store: Arc<dyn ChannelStore>) -> ChatServiceClient<Service> {
    ChatServiceClient::new(chat::service(
        store,
        Arc::default(),
        &Limits::default(),
        Shutdown::new(),
    ))
}

#[tokio::test]
async fn the_generated_client_takes_the_service_in_place_of_a_connection() {
    let store = FakeStore::new();
    let mut client = client(Arc::new(store.clone()));
    client.send(message(r#"{"a":1}"#)).await.unwrap();
    assert_eq!(store.body(), r#"{"a":1,"userId":"nancy"}"#);
    let status = client.send(message("[]")).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_ARGUMENT");

    let send = NumberedSend {
        number: 9,
        send: Some(message("{}")),
    };
    let frame = SendStreamRequest { sends: vec![send] };
    let requests = tokio_stream::once(frame);
    let mut answers = client.send_stream(requests).await.unwrap().into_inner();
    let mut frame = answers.message().await.unwrap().unwrap();
    let answer = frame.answers.pop().unwrap();
    assert_eq!(answer.number, 9);
    assert!(matches!(answer.answer, Some(Answer::Sent(_))));
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn over_the_store_in_memory_a_member_speaks_until_it_leaves() {
    let mut client = client(MemoryStore::new(StoreOptions::default()));
    let session = |operation| {
        Some(Session {
            incarnation: "c1-abc".into(),
            id: "s1".into(),
            operation,
        })
    };
    let send = SendRequest {
        session: "s1".into(),
        idempotency_key: "k1".into(),
        ..message("{}")
    };
    let status = client.send(send.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_MEMBER");

    let join = JoinRequest {
        channel: "4".into(),
        user: "nancy".into(),
        session: session(1),
        ..JoinRequest::default()
    };
    let joined = client.join(join).await.unwrap().into_inner();
    assert!(joined.published);
    let first = client.send(send.clone()).await.unwrap().into_inner();
    let second = client.send(send.clone()).await.unwrap().into_inner();
    assert_eq!(first.position, second.position, "one message");
    let (before, after) = (joined.position.unwrap(), first.position.unwrap());
    assert_eq!(after.epoch, before.epoch);
    assert_eq!(after.offset, before.offset + 1);

    let members = MembersRequest {
        channel: "4".into(),
        ..MembersRequest::default()
    };
    let members = client.members(members).await.unwrap().into_inner();
    let nancy = Member {
        user: "nancy".into(),
        sessions: 1,
    };
    assert_eq!(members.members, [nancy]);

    let leave = LeaveRequest {
        channel: "4".into(),
        user: "nancy".into(),
        session: session(2),
        ..LeaveRequest::default()
    };
    assert!(client.leave(leave.clone()).await.unwrap().into_inner().left);
    assert!(!client.leave(leave).await.unwrap().into_inner().left);
    let status = client.send(message("{}")).await;
    status.expect("a back end need not be a member");
    let send = SendRequest {
        idempotency_key: String::new(),
        ..send
    };
    let status = client.send(send).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_MEMBER");
}
