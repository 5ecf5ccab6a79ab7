//! Calls that only read, over plain HTTP by GET.

use crate::support::Chat;
use crate::web::{Answer, ask, call, raw, with_memory};
use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use chat::Limits;
use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use prost_types::method_options::IdempotencyLevel;
use proto::chat::v1::{HistoryRequest, HistoryResponse};
use serde_json::json;
use std::fmt::Write;
use std::net::SocketAddr;

const HISTORY: &str = "/chat.v1.ChatService/History";

/// A URL's text, in which everything is escaped.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02X}");
        text
    })
}

async fn get(chat: SocketAddr, path: &str, query: &str, headers: &str) -> Answer {
    ask(chat, "GET", &format!("{path}?{query}"), headers, b"").await
}

/// The methods for back ends that answer with one message to one message.
fn unary() -> Vec<MethodDescriptor> {
    let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = types.services();
    let methods = services
        .filter(|service| service.package_name() == "chat.v1")
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .filter(|it| !it.is_client_streaming() && !it.is_server_streaming())
        .collect()
}

fn only_reads(method: &MethodDescriptor) -> bool {
    let options = method.method_descriptor_proto().options.clone();
    options.unwrap_or_default().idempotency_level() == IdempotencyLevel::NoSideEffects
}

#[tokio::test]
async fn a_read_by_get_is_answered_as_by_post_however_its_message_is_written() {
    let chat = with_memory(Limits::default()).await;
    let body = json!({"channel": "哈 +&", "user": "bot", "body": {"n": 1}});
    assert_eq!(call(chat, "Send", &body).await.status, 200);
    let request = json!({"channel": "哈 +&", "bodyAsStruct": true});
    let by_post = call(chat, "History", &request).await;
    let text = request.to_string();
    let text = text.as_bytes();
    for message in [
        escaped(text),
        format!("{}&base64=0", escaped(text)),
        format!("{}&base64=1", BASE64_URL_SAFE_NO_PAD.encode(text)),
        format!("{}&base64=1", BASE64_URL_SAFE.encode(text)),
        format!(
            "{}&base64=1",
            escaped(BASE64_URL_SAFE.encode(text).as_bytes())
        ),
    ] {
        let query = format!("connect=v1&encoding=json&message={message}");
        let answer = get(chat, HISTORY, &query, "").await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(answer.json(), by_post.json(), "{query}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    assert!(!by_post.headers.contains_key("cache-control"));
    let request = HistoryRequest {
        channel: "哈 +&".into(),
        ..HistoryRequest::default()
    };
    let message = BASE64_URL_SAFE_NO_PAD.encode(request.encode_to_vec());
    let query = format!("encoding=proto&base64=1&message={message}");
    let answer = get(chat, HISTORY, &query, "").await;
    assert_eq!(answer.headers["content-type"], "application/proto");
    let page = HistoryResponse::decode(&*answer.body).unwrap();
    assert_eq!(page.publications.len(), 1);
}

/// What has effects must not happen because somebody follows a link, or a proxy repeats a request.
#[tokio::test]
async fn exactly_the_calls_without_side_effects_are_answered_by_get() {
    let chat = Chat::start().await;
    let mut reads = Vec::new();
    for method in unary() {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let answer = get(chat.address, &path, "encoding=json&message={}", "").await;
        if only_reads(&method) {
            let json = "content-type: application/json\r\n";
            let by_post = ask(chat.address, "POST", &path, json, b"{}").await;
            assert_eq!(answer.status, by_post.status, "{path}");
            assert_eq!(answer.json(), by_post.json(), "{path}");
            assert_eq!(answer.headers["cache-control"], "no-store");
            reads.push(method.name().to_owned());
        } else {
            assert_eq!(answer.code(), (405, "unimplemented".to_owned()), "{path}");
            assert_eq!(answer.headers["allow"], "POST, OPTIONS");
        }
    }
    let expected = [
        "History",
        "ListMembers",
        "CountMembers",
        "GetChannel",
        "ListChannels",
        "ListSessions",
        "BatchGetPresence",
        "GetRestrictions",
        "ListConnectors",
    ];
    assert_eq!(reads, expected);
    let answer = raw(
        chat.address,
        format!("HEAD {HISTORY}?encoding=json&message={{}} HTTP/1.1\r\nhost: chat\r\nconnection: close\r\n\r\n").as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn a_wrong_query_is_refused_with_what_is_wrong() {
    let chat = Chat::start().await;
    let long = format!("encoding=json&message={}", "a".repeat(8 << 10));
    let full = format!("encoding=json&message={}", escaped(&[b' '; 2_700]));
    for (query, status, words) in [
        ("", 415, "encoding must be json or proto"),
        ("encoding=json", 400, "message is missing"),
        ("encoding=json&message=", 400, "request: is empty"),
        ("encoding=json&message={", 400, "request: EOF while parsing"),
        ("encoding=json&message={}", 400, "channel: "),
        (
            "encoding=json&message=%7B%22channel%22:%22%FF%22%7D",
            400,
            "is not UTF-8",
        ),
        (
            "encoding=json&message={}&base64=1",
            400,
            "message must be base64",
        ),
        (
            "encoding=json&message={}&connect=v2",
            400,
            "connect must be v1",
        ),
        (
            "encoding=json&message={}&compression=gzip",
            501,
            "compression",
        ),
        (&long, 414, "at most 8192 bytes"),
        (&full, 400, "request: EOF while parsing"),
    ] {
        let answer = get(chat.address, HISTORY, query, "").await;
        let case = &query[..query.len().min(60)];
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{case}: {message}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{case}");
    }
    let wrong = "connect-timeout-ms: soon\r\n";
    let answer = get(chat.address, HISTORY, "encoding=json&message={}", wrong).await;
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("connect-timeout-ms")
    );
}

/// Asks for the channels as a browser does that calls chat by this name.
async fn listed(chat: SocketAddr, host: &str, headers: &str) -> Answer {
    let request = format!(
        "GET /chat.v1.ChatService/ListChannels?encoding=json&message={{}} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"
    );
    raw(chat, request.as_bytes()).await
}

/// A browser does not name the origin in a GET to the host that the page came from. So somebody who owns a name could serve a
/// page under it, let the name point to a chat, and read.
#[tokio::test]
async fn a_page_reads_by_get_only_if_its_origin_is_allowed_under_whatever_name_it_reaches_chat() {
    const EVIL: &str = "origin: http://evil.example\r\n";
    let closed = with_memory(Limits::default()).await;
    let open = with_memory(Limits {
        allowed_origins: vec!["https://admin.example:8443".into()],
        ..Limits::default()
    })
    .await;
    let all = with_memory(Limits {
        allowed_origins: vec!["*".into()],
        ..Limits::default()
    })
    .await;
    for (host, headers, statuses) in [
        ("127.0.0.1:4001", "", [200, 200, 200]),
        ("[::1]:4001", "", [200, 200, 200]),
        ("localhost", "", [200, 200, 200]),
        ("chat:4001", "", [200, 200, 200]),
        ("evil.example:4001", "", [403, 403, 200]),
        ("admin.example", "", [403, 200, 200]),
        ("Admin.Example:4001", "", [403, 200, 200]),
        ("", "", [403, 403, 403]),
        ("127.0.0.1", EVIL, [403, 403, 200]),
        (
            "127.0.0.1",
            "origin: https://admin.example:8443\r\n",
            [403, 200, 200],
        ),
        ("127.0.0.1", "sec-fetch-site: none\r\n", [200, 200, 200]),
        (
            "127.0.0.1",
            "sec-fetch-site: same-origin\r\n",
            [200, 200, 200],
        ),
        (
            "127.0.0.1",
            "sec-fetch-site: cross-site\r\n",
            [403, 403, 403],
        ),
        (
            "127.0.0.1",
            "sec-fetch-site: same-site\r\n",
            [403, 403, 403],
        ),
    ] {
        for (chat, status) in [closed, open, all].into_iter().zip(statuses) {
            let answer = listed(chat, host, headers).await;
            assert_eq!(answer.status, status, "{host} {headers}: {answer:?}");
            let allowed = answer.headers.contains_key("access-control-allow-origin");
            assert_eq!(allowed, status == 200 && headers.starts_with("origin"));
            if status == 403 {
                assert_eq!(answer.json()["code"], "permission_denied");
            }
        }
    }
    // By POST browsers name the origin always, so a name may be any.
    let request = "POST /chat.v1.ChatService/ListChannels HTTP/1.1\r\nhost: chat.example\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(raw(closed, request.as_bytes()).await.status, 200);
}
