//! The bounds of calls: how many at the same time, and for how long.

use crate::support::{Caller, Chat, message, reason};
use chat::Limits;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::chat::v1::ListMembersRequest;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use runtime::pace::Rate;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Code, Request};
use tonic_types::StatusExt;

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_at_once_and_streams_do_not_count() {
    let chat = Chat::with(Limits {
        // One connection gets half of the calls.
        calls: 4,
        ..Limits::default()
    })
    .await;
    let client = chat.client().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Caller::open(&mut client.clone()).await.unwrap());
    }
    chat.store.close_gate();
    let send = || {
        let mut client = client.clone();
        tokio::spawn(async move { client.send(message("{}")).await })
    };
    let waiting = [send(), send()];
    chat.store.has_seen(2).await;

    let status = send().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "OVERLOADED");

    chat.store.open_gate(3);
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    send().await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_beyond_their_own_bound_are_refused_until_one_ends() {
    let chat = Chat::with(Limits {
        streams: 1,
        ..Limits::default()
    })
    .await;
    let mut client = chat.client().await;
    let mut first = Caller::open(&mut client).await.unwrap();
    let status = Caller::open(&mut client).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "OVERLOADED");

    drop(first.requests);
    assert!(first.answers.message().await.unwrap().is_none());
    Caller::open(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_given_only_so_many_bytes_of_pages_and_other_calls_and_connections_go_on() {
    let chat = Chat::with(Limits {
        // To make up for one page at this rate takes far longer than this test.
        page_rate: Rate::of(1, 1),
        ..Limits::default()
    })
    .await;
    let mut client = chat.client().await;
    let page = || ListMembersRequest {
        channel: "4".to_owned(),
        ..ListMembersRequest::default()
    };
    let answer = client.list_members(page()).await.unwrap().into_inner();
    let status = client.list_members(page()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "RATE_LIMITED");
    // gRPC puts five bytes before a message.
    let bytes = 5 + answer.encoded_len() as u64;
    let wait = status.get_details_retry_info().unwrap().retry_delay;
    assert!(
        (bytes - 10..=bytes + 1).contains(&wait.unwrap().as_secs()),
        "{bytes} bytes, {wait:?}"
    );

    client.send(message("{}")).await.unwrap();
    let mut another = chat.client().await;
    another.list_members(page()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_store_does_not_answer_ends_after_a_second() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    chat.store.close_gate();
    let began = Instant::now();
    let status = client.send(message("{}")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status), "DEADLINE_EXCEEDED");
    assert_eq!(began.elapsed().as_secs(), 1);
}

/// A client without a timer of its own. tonic's channel would give up at the same moment, and would be first.
async fn client_without_timer(
    chat: &Chat,
) -> ChatServiceClient<impl GrpcService<Body, ResponseBody = Incoming, Error = hyper::Error>> {
    let stream = TcpStream::connect(chat.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let call = tower::service_fn(move |request| sender.clone().send_request(request));
    let origin = format!("http://{}", chat.address).parse().unwrap();
    ChatServiceClient::with_origin(call, origin)
}

#[tokio::test(start_paused = true)]
async fn a_shorter_timeout_of_the_caller_is_used() {
    let chat = Chat::start().await;
    let mut client = client_without_timer(&chat).await;
    chat.store.close_gate();
    let began = Instant::now();
    let mut request = Request::new(message("{}"));
    request.set_timeout(Duration::from_millis(100));
    let status = client.send(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status), "DEADLINE_EXCEEDED");
    assert!(began.elapsed() < Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_outlives_the_timeouts_of_calls() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut caller = Caller::open(&mut client).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    caller.send([message("{}")]).await;
    caller.answers(1).await;
}
