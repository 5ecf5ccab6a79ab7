//! A token is needed in every form in which chat can be called, and is shown in the same way in all of them.

use super::{Guarded, With, token};
use crate::support::{framed, message, reason};
use crate::web::{Answer, ask, raw};
use proto::chat::v1::HistoryRequest;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

const HISTORY: &str = "/chat.v1.ChatService/History";
const WATCH: &str = "/chat.v1.ChatService/Watch";

async fn chat() -> Guarded {
    let chat = Guarded::start(&[("reader", "read"), ("writer", "send")]).await;
    let send = json!({"channel": "4", "user": "bot", "body": {}});
    assert_eq!(
        chat.call("writer", "ChatService/Send", &send).await.status,
        200
    );
    chat
}

fn shows(name: &str) -> String {
    format!("authorization: Bearer {}\r\n", token(name))
}

fn is_refused(answer: &Answer, reason: &str) {
    let refused = (401, "unauthenticated".to_owned());
    assert_eq!(answer.code(), refused, "{answer:?}");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    assert_eq!(super::info(answer)["reason"], reason);
}

#[tokio::test]
async fn grpc_needs_a_token_that_is_in_the_file() {
    let chat = chat().await;
    let mut stranger = ChatServiceClient::new(chat.channel().await);
    let status = stranger.send(message("{}")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason(&status), "TOKEN_MISSING");
    let channel = chat.channel().await;
    let mut unknown = ChatServiceClient::with_interceptor(channel, With("unknown"));
    let status = unknown.send(message("{}")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason(&status), "TOKEN_REFUSED");
    let words = status.message();
    assert!(!words.contains(&token("unknown")), "{words}");
    let channel = chat.channel().await;
    let mut writer = ChatServiceClient::with_interceptor(channel, With("writer"));
    writer.send(message("{}")).await.unwrap();
}

#[tokio::test]
async fn json_by_post_needs_a_token() {
    let chat = chat().await;
    let request = json!({"channel": "4"});
    let refused = chat.call_with("", "ChatService/History", &request).await;
    is_refused(&refused, "TOKEN_MISSING");
    for wrong in [
        "authorization: Basic abc\r\n",
        "authorization: Bearer\r\n",
        &format!("authorization: {}\r\n", token("reader")),
        &[shows("reader"), shows("reader")].concat(),
        &format!("x-authorization: Bearer {}\r\n", token("reader")),
    ] {
        let refused = chat.call_with(wrong, "ChatService/History", &request).await;
        is_refused(&refused, "TOKEN_MISSING");
    }
    for unknown in ["unknown", "readerx", "READER"] {
        let refused = chat.call(unknown, "ChatService/History", &request).await;
        // The last characters of tokens in these tests are all x.
        if unknown == "readerx" {
            assert_eq!(refused.status, 200);
            continue;
        }
        is_refused(&refused, "TOKEN_REFUSED");
    }
    let answer = chat.call("reader", "ChatService/History", &request).await;
    assert_eq!(answer.json()["publications"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn json_by_get_needs_a_token_in_the_header() {
    let chat = chat().await;
    let path = format!("{HISTORY}?encoding=json&message=%7B%22channel%22%3A%224%22%7D");
    let refused = ask(chat.address, "GET", &path, "", b"").await;
    is_refused(&refused, "TOKEN_MISSING");
    assert_eq!(refused.headers["cache-control"], "no-store");
    // A token in an address would stand in logs of proxies.
    let with_token = format!("{path}&token={0}&access_token={0}", token("reader"));
    let refused = ask(chat.address, "GET", &with_token, "", b"").await;
    assert_ne!(refused.status, 200);
    let answer = ask(chat.address, "GET", &path, &shows("reader"), b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = ask(chat.address, "GET", &path, &shows("writer"), b"").await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test]
async fn grpc_web_needs_a_token() {
    let chat = chat().await;
    let request = framed(&HistoryRequest {
        channel: "4".into(),
        ..HistoryRequest::default()
    });
    let form = "content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n";
    let refused = ask(chat.address, "POST", HISTORY, form, &request).await;
    assert_eq!(refused.status, 200, "grpc-web says everything in trailers");
    assert_eq!(refused.headers["grpc-status"], "16", "{refused:?}");
    let form = [form, &shows("reader")].concat();
    let answer = ask(chat.address, "POST", HISTORY, &form, &request).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("grpc-status:0"), "{answer:?}");
}

#[tokio::test]
async fn a_stream_of_events_needs_a_token() {
    let chat = chat().await;
    let path = format!(
        "{WATCH}?encoding=json&message=%7B%22places%22%3A%5B%7B%22channel%22%3A%224%22%7D%5D%7D"
    );
    let events = "accept: text/event-stream\r\n";
    let refused = ask(chat.address, "GET", &path, events, b"").await;
    is_refused(&refused, "TOKEN_MISSING");
    let mut stream = TcpStream::connect(chat.address).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: chat\r\n{events}{}\r\n",
        shows("reader")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("\"started\"") {
        let mut part = [0; 1_024];
        let length = stream.read(&mut part).await.unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
}

#[tokio::test]
async fn a_page_may_send_a_token_and_may_ask_whether_it_may() {
    let chat = chat().await;
    let asks = "origin: http://page.example\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n";
    let answer = ask(chat.address, "OPTIONS", HISTORY, asks, b"").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let allowed = &answer.headers["access-control-allow-headers"];
    assert!(allowed.contains("authorization"), "{allowed}");
    // The page's script can read why it was refused.
    let origin = "origin: http://page.example\r\n";
    let request = json!({"channel": "4"});
    let refused = chat
        .call_with(origin, "ChatService/History", &request)
        .await;
    is_refused(&refused, "TOKEN_MISSING");
    let allowed = &refused.headers["access-control-allow-origin"];
    assert_eq!(allowed, "http://page.example");
}

#[tokio::test]
async fn a_caller_without_a_token_is_refused_before_its_body_has_come() {
    let chat = chat().await;
    // No byte of the body is ever sent.
    let head = "POST /chat.v1.ChatService/Send HTTP/1.1\r\nhost: chat\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n";
    let refused = raw(chat.address, head.as_bytes()).await;
    is_refused(&refused, "TOKEN_MISSING");
}

#[tokio::test]
async fn health_is_open_and_reflection_is_open_on_the_same_machine() {
    let chat = chat().await;
    let mut health = HealthClient::new(chat.channel().await);
    let service = "chat.v1.ChatService".to_owned();
    let answer = health.check(HealthCheckRequest { service }).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    let mut reflection = ServerReflectionClient::new(chat.channel().await);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answer = reflection
        .server_reflection_info(tokio_stream::once(asked))
        .await;
    let mut answer = answer.unwrap().into_inner();
    assert!(answer.message().await.unwrap().is_some());
}

#[tokio::test]
async fn what_does_not_exist_is_told_only_to_those_with_a_token() {
    let chat = chat().await;
    let channel = chat.channel().await;
    for (name, code) in [
        ("unknown", Code::Unauthenticated),
        ("reader", Code::Unimplemented),
    ] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(HistoryRequest::default());
        let value = format!("Bearer {}", token(name)).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let path = "/chat.v1.ChatService/Nothing".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<HistoryRequest, HistoryRequest>::default();
        let answer = client.unary(request, path, codec).await;
        assert_eq!(answer.unwrap_err().code(), code);
    }
}
