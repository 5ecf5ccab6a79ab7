//! Sends under conditions, batches and broadcasts, over the store in memory and over one that holds back some channels.

use crate::support::{Chat, fields, message, reason};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::{Limits, Service};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::{
    BatchSendRequest, BroadcastRequest, HistoryRequest, JoinRequest, Position, SendOutcome,
    SendRequest, SendStreamRequest, broadcast_request::Content,
};
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, StatusExt};

/// The services over an empty store in memory.
fn client() -> ChatServiceClient<Service> {
    let store: Arc<dyn ChannelStore> = MemoryStore::new(StoreOptions::default());
    let limits = Limits::default();
    ChatServiceClient::new(chat::service(
        store,
        Arc::default(),
        Arc::default(),
        Arc::default(),
        &limits,
        Shutdown::new(),
    ))
}

fn to(channel: &str, json: &str) -> SendRequest {
    SendRequest {
        channel: channel.into(),
        ..message(json)
    }
}

/// With a key, and only if the log ends there.
fn expecting(key: &str, end: &Position, request: SendRequest) -> SendRequest {
    SendRequest {
        idempotency_key: key.into(),
        expected_position: Some(end.clone()),
        ..request
    }
}

/// Everything in a channel, oldest first.
async fn bodies(client: &mut ChatServiceClient<Service>, channel: &str) -> Vec<String> {
    let request = HistoryRequest {
        channel: channel.into(),
        page_size: 1_000,
        ..HistoryRequest::default()
    };
    let page = client.history(request).await.unwrap().into_inner();
    let publications = page.publications.into_iter();
    let bodies = publications.map(|it| match it.content {
        Some(proto::chat::v1::publication::Content::BodyJson(json)) => {
            String::from_utf8(json.to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    });
    bodies.collect()
}

/// `Ok(offset)`, or the reason of the refusal.
fn told(outcomes: Vec<SendOutcome>) -> Vec<Result<u64, String>> {
    let told = outcomes.into_iter().map(|it| match it.outcome.unwrap() {
        Outcome::Sent(sent) => Ok(sent.position.unwrap().offset),
        Outcome::Refused(status) => {
            let info = status.get_details_error_info().expect("an ErrorInfo");
            Err(info.reason)
        }
    });
    told.collect()
}

/// The end that a mismatch tells.
fn end_in(status: &Status) -> Position {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::Aborted, "POSITION_MISMATCH")
    );
    let info = status.get_details_error_info().unwrap();
    Position {
        epoch: info.metadata["epoch"].clone(),
        offset: info.metadata["offset"].parse().unwrap(),
    }
}

#[tokio::test]
async fn a_mismatch_tells_where_the_log_ends_and_a_send_that_expects_that_is_stored() {
    let mut client = client();
    let nothing = Position::default();
    let send = |key: &str, end: &Position| expecting(key, end, message("{}"));
    let first = client.send(send("k1", &nothing)).await.unwrap();
    let first = first.into_inner().position.unwrap();
    let status = client.send(send("k2", &nothing)).await.unwrap_err();
    assert_eq!(end_in(&status), first);
    assert!(
        status.message().contains("it ends at offset 1 of epoch"),
        "{}",
        status.message()
    );
    assert!(status.get_details_retry_info().is_none());
    let second = client.send(send("k2", &end_in(&status))).await.unwrap();
    let second = second.into_inner().position.unwrap();
    assert_eq!(second.offset, 2);
    let again = client
        .send(send("k1", &nothing))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.position, Some(first), "its own success, not a loss");
    let other = SendRequest {
        channel: "5".into(),
        ..send("k1", &second)
    };
    let status = client.send(other).await.unwrap_err();
    assert_eq!(end_in(&status), nothing);
    assert!(status.message().contains("ends at offset 0"));
}

#[tokio::test]
async fn an_expected_position_needs_a_key_and_an_epoch() {
    let mut client = client();
    let at = |epoch: &str, offset| Position {
        epoch: epoch.into(),
        offset,
    };
    for (key, position, wrong) in [
        ("", at("", 0), "idempotency_key"),
        ("", at("e", 1), "idempotency_key"),
        ("k", at("", 1), "expected_position.epoch"),
        ("k", at(&"e".repeat(65), 1), "expected_position.epoch"),
    ] {
        let request = expecting(key, &position, message("{}"));
        let status = client.send(request).await.unwrap_err();
        assert_eq!(fields(&status), [wrong]);
    }
}

#[tokio::test]
async fn on_a_stream_a_mismatch_is_told_in_its_place_and_the_others_pass() {
    let mut client = client();
    let nothing = Position::default();
    let messages = vec![
        expecting("k1", &nothing, message(r#"{"n":1}"#)),
        expecting("k2", &nothing, message(r#"{"n":2}"#)),
        message(r#"{"n":3}"#),
        expecting("k1", &nothing, message(r#"{"n":1}"#)),
    ];
    let requests = tokio_stream::once(SendStreamRequest { messages });
    let mut answers = client.send_stream(requests).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(frame) = answers.message().await.unwrap() {
        outcomes.extend(frame.outcomes);
    }
    let mismatch = Err("POSITION_MISMATCH".to_owned());
    assert_eq!(told(outcomes), [Ok(1), mismatch, Ok(2), Ok(1)]);
}

#[tokio::test]
async fn a_user_who_must_be_a_member_is_refused_until_it_is() {
    let mut client = client();
    let request = SendRequest {
        require_member: true,
        ..message("{}")
    };
    let status = client.send(request.clone()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "NOT_MEMBER")
    );
    let join = JoinRequest {
        channel: request.channel.clone(),
        user: request.user.clone(),
        ..JoinRequest::default()
    };
    client.join(join).await.unwrap();
    client.send(request).await.unwrap();
}

#[tokio::test]
async fn an_ephemeral_message_is_answered_and_is_not_in_the_log() {
    let mut client = client();
    let given = |channel: &str| SendRequest {
        ephemeral: true,
        ..to(channel, r#"{"typing":true}"#)
    };
    let sent = client.send(given("a")).await.unwrap().into_inner();
    assert_eq!(sent.position, Some(Position::default()));
    client.send(to("a", "{}")).await.unwrap();
    let sent = client.send(given("a")).await.unwrap().into_inner();
    assert_eq!(sent.position.unwrap().offset, 1);
    let messages = vec![given("a"), to("a", "{}"), given("b")];
    let answer = client.batch_send(BatchSendRequest { messages }).await;
    let outcomes = told(answer.unwrap().into_inner().outcomes);
    assert_eq!(outcomes, [Ok(1), Ok(2), Ok(0)]);
    let request = BroadcastRequest {
        ephemeral: true,
        ..broadcast(&["a", "b"].map(str::to_owned))
    };
    let answer = client.broadcast(request).await.unwrap().into_inner();
    assert_eq!(told(answer.outcomes), [Ok(2), Ok(0)]);
    let nancy = r#"{"userId":"nancy"}"#;
    assert_eq!(bodies(&mut client, "a").await, [nancy, nancy]);
}

#[tokio::test]
async fn an_ephemeral_message_has_no_key_and_expects_no_position() {
    let mut client = client();
    let given = SendRequest {
        ephemeral: true,
        ..message("{}")
    };
    let keyed = SendRequest {
        idempotency_key: "k".into(),
        ..given.clone()
    };
    for request in [
        keyed.clone(),
        expecting("", &Position::default(), given.clone()),
        expecting("k", &Position::default(), given),
    ] {
        let status = client.send(request).await.unwrap_err();
        assert_eq!(fields(&status), ["ephemeral"]);
    }
    let request = BroadcastRequest {
        ephemeral: true,
        idempotency_key: "k".into(),
        ..broadcast(&["a".to_owned()])
    };
    let status = client.broadcast(request).await.unwrap_err();
    assert_eq!(fields(&status), ["ephemeral"]);
}

#[tokio::test]
async fn a_batch_has_an_outcome_for_each_message_and_keeps_the_order_of_each_channel() {
    let mut client = client();
    let mut messages: Vec<_> = (0..94)
        .map(|n| to(["a", "b"][n % 2], &format!(r#"{{"n":{n}}}"#)))
        .collect();
    let keyed = |json| SendRequest {
        idempotency_key: "k".into(),
        ..to("c", json)
    };
    messages.extend([
        keyed("{}"),
        keyed(r#"{"n":1}"#),
        keyed("{}"),
        to("c", "[]"),
        SendRequest::default(),
        SendRequest {
            require_member: true,
            ..to("c", "{}")
        },
    ]);
    let answer = client.batch_send(BatchSendRequest { messages }).await;
    let told = told(answer.unwrap().into_inner().outcomes);
    let mut expected: Vec<_> = (0..94).map(|n| Ok(n / 2 + 1)).collect();
    let refused = |reason: &str| Err(reason.to_owned());
    expected.extend([
        Ok(1),
        refused("IDEMPOTENCY_KEY_REUSED"),
        Ok(1),
        refused("INVALID_ARGUMENT"),
        refused("INVALID_ARGUMENT"),
        refused("NOT_MEMBER"),
    ]);
    assert_eq!(told, expected);
    let stored = bodies(&mut client, "b").await;
    let sent = (0..47).map(|n| format!(r#"{{"n":{},"userId":"nancy"}}"#, 2 * n + 1));
    assert_eq!(stored, sent.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_of_none_or_too_many_is_refused_as_a_whole() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    for count in [0, 101] {
        let messages = vec![message("{}"); count];
        let status = client.batch_send(BatchSendRequest { messages }).await;
        assert_eq!(fields(&status.unwrap_err()), ["messages"]);
    }
    // 4 MiB is the most that a request may have.
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024));
    let messages = vec![message(&large); 42];
    let status = client.batch_send(BatchSendRequest { messages }).await;
    assert_eq!(fields(&status.unwrap_err()), ["request"]);
    assert!(chat.store.log().is_empty());
}

fn broadcast(channels: &[String]) -> BroadcastRequest {
    BroadcastRequest {
        channels: channels.to_vec(),
        user: "nancy".into(),
        content: Some(Content::BodyJson(r#"{"a":1}"#.into())),
        ..BroadcastRequest::default()
    }
}

#[tokio::test]
async fn a_broadcast_publishes_in_each_channel_and_refuses_a_wrong_name_alone() {
    let mut client = client();
    client.send(to("room 3", "{}")).await.unwrap();
    let mut channels: Vec<_> = (0..1_000).map(|n| format!("room {n}")).collect();
    channels[7] = "\n".to_owned();
    let request = BroadcastRequest {
        idempotency_key: "k".into(),
        ..broadcast(&channels)
    };
    for _ in 0..2 {
        // The second one repeats the first one.
        let answer = client
            .broadcast(request.clone())
            .await
            .unwrap()
            .into_inner();
        let told = told(answer.outcomes);
        assert_eq!(told.len(), 1_000);
        for (n, outcome) in told.into_iter().enumerate() {
            let expected = match n {
                3 => Ok(2),
                7 => Err("INVALID_ARGUMENT".to_owned()),
                _ => Ok(1),
            };
            assert_eq!(outcome, expected, "room {n}");
        }
    }
    let body = r#"{"a":1,"userId":"nancy"}"#;
    assert_eq!(bodies(&mut client, "room 999").await, [body]);
}

#[tokio::test]
async fn a_broadcast_whose_message_or_list_is_wrong_is_refused_as_a_whole() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let twice = ["a", "b", "a"].map(str::to_owned);
    for (request, wrong) in [
        (broadcast(&[]), &["channels"][..]),
        (broadcast(&names(1_001)), &["channels"]),
        (broadcast(&twice), &["channels"]),
        (
            BroadcastRequest {
                user: String::new(),
                route: "onJoin".into(),
                content: None,
                ..broadcast(&names(2))
            },
            &["user", "route", "content"],
        ),
    ] {
        let status = client.broadcast(request).await.unwrap_err();
        assert_eq!(fields(&status), wrong);
    }
    assert!(chat.store.log().is_empty());
}

/// A channel that is not answered costs no other one its answer, nor the call.
#[tokio::test]
async fn what_is_not_answered_in_time_is_told_and_holds_no_other_channel() {
    let chat = Chat::with(Limits {
        call_time: Duration::from_secs(2),
        ..Limits::default()
    })
    .await;
    chat.store.never_answer_in("slow");
    let mut client = chat.client().await;
    let mut channels: Vec<_> = (0..100).map(|n| format!("room {n}")).collect();
    channels.insert(0, "slow".to_owned());
    let answer = client.broadcast(broadcast(&channels)).await.unwrap();
    let mut outcomes = told(answer.into_inner().outcomes).into_iter();
    let late = Err("DEADLINE_EXCEEDED".to_owned());
    assert_eq!(outcomes.next(), Some(late.clone()));
    assert!(outcomes.all(|outcome| outcome.is_ok()));

    let messages = vec![to("slow", "{}"), to("quick", "{}"), to("slow", "{}")];
    let answer = client.batch_send(BatchSendRequest { messages }).await;
    let outcomes = told(answer.unwrap().into_inner().outcomes);
    assert_eq!((&outcomes[0], &outcomes[2]), (&late, &late));
    assert!(outcomes[1].is_ok());
}

/// Nothing more of a channel is stored after a message whose outcome is unknown.
#[tokio::test]
async fn an_error_of_the_store_is_the_outcome_of_each_message_that_it_concerns() {
    let chat = Chat::start().await;
    chat.store.fail(channel_store::StoreError::Full);
    let mut client = chat.client().await;
    let messages = vec![message("{}"), message("[]"), message("{}")];
    let answer = client.batch_send(BatchSendRequest { messages }).await;
    let full = || Err("STORE_FULL".to_owned());
    let wrong = Err("INVALID_ARGUMENT".to_owned());
    let outcomes = told(answer.unwrap().into_inner().outcomes);
    assert_eq!(outcomes, [full(), wrong, full()]);
}
