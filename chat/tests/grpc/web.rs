//! The calls of back ends over plain HTTP: JSON in the form of the Connect protocol, and grpc-web.

use crate::support::{Chat, framed};
use bytes::Bytes;
use channel_store::StoreError;
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::Limits;
use prost::Message;
use prost_reflect::DescriptorPool;
use proto::chat::v1::{SendRequest, SendResponse};
use runtime::Shutdown;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const SEND: &str = "/chat.v1.ChatService/Send";

/// An answer of HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and the code of an error.
    pub(crate) fn code(&self) -> (u16, String) {
        (
            self.status,
            self.json()["code"].as_str().unwrap().to_owned(),
        )
    }
}

/// Sends these bytes and reads until chat closes the connection.
pub(crate) async fn raw(chat: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(chat).await.unwrap();
    // Chat may answer before it has taken everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    parse(&bytes)
}

pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    });
    Answer {
        status: status.parse().unwrap(),
        headers: headers.collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

/// A request with these further headers, each with its line end.
pub(crate) async fn ask(
    chat: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: chat\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    raw(chat, &[head.as_bytes(), body].concat()).await
}

/// A call in JSON.
pub(crate) async fn call(chat: SocketAddr, method: &str, request: &Value) -> Answer {
    let path = format!("/chat.v1.ChatService/{method}");
    let body = request.to_string();
    ask(
        chat,
        "POST",
        &path,
        "content-type: application/json\r\n",
        body.as_bytes(),
    )
    .await
}

/// Chat over the store in memory.
pub(crate) async fn with_memory(limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = MemoryStore::new(StoreOptions::default()) as Arc<dyn ChannelStore>;
    let serving = chat::serve(
        listener,
        store,
        Arc::default(),
        Arc::default(),
        Arc::default(),
        limits,
        Shutdown::new(),
    );
    tokio::spawn(serving);
    address
}

fn hello() -> Value {
    json!({"channel": "4", "user": "bot", "body": {"type": 1, "content": "hello"}})
}

#[tokio::test]
async fn every_unary_call_is_answered_in_json() {
    let chat = with_memory(Limits::default()).await;
    let member = json!({"channel": "4", "user": "bot"});
    let joined = call(chat, "Join", &member).await;
    assert_eq!(joined.status, 200);
    assert_eq!(
        joined.headers["content-length"],
        joined.body.len().to_string()
    );
    assert_eq!(joined.json()["published"], true);
    assert_eq!(joined.json()["position"]["offset"], "1");

    let sent = call(chat, "Send", &hello()).await.json();
    assert_eq!(sent["position"]["offset"], "2");
    let time = sent["publishTime"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    let same = json!({"channel": "4", "user": "bot", "bodyJson": "eyJiIjoxLCJhIjoyfQ=="});
    call(chat, "Send", &same).await.json();

    let history = call(
        chat,
        "History",
        &json!({"channel": "4", "bodyAsStruct": true}),
    )
    .await
    .json();
    let publications = history["publications"].as_array().unwrap();
    let bodies: Vec<_> = publications.iter().map(|it| it["body"].clone()).collect();
    let expected = [
        json!({"userId": "bot"}),
        json!({"type": 1, "content": "hello", "userId": "bot"}),
        json!({"a": 2, "b": 1, "userId": "bot"}),
    ];
    assert_eq!(bodies, expected);
    assert_eq!(history["continuity"], "CONTINUITY_CONTIGUOUS");
    let page = json!({"channel": "4", "newest_first": true, "page_size": 1});
    let page = call(chat, "History", &page).await.json();
    assert_eq!(page["publications"][0]["position"]["offset"], "3");
    assert!(page["publications"][0]["bodyJson"].is_string());

    let members = call(chat, "ListMembers", &json!({"channel": "4"}))
        .await
        .json();
    assert_eq!(members["members"], json!([{"user": "bot", "sessions": 1}]));
    assert_eq!(
        call(chat, "Leave", &member).await.json(),
        json!({"left": true})
    );
    // Fields without a value are left out.
    assert_eq!(call(chat, "Leave", &member).await.json(), json!({}));
}

#[tokio::test]
async fn a_connection_may_make_many_calls_and_a_call_may_come_in_protobuf() {
    let chat = Chat::start().await;
    let request = SendRequest {
        channel: "4".into(),
        user: "bot".into(),
        content: Some(proto::chat::v1::send_request::Content::BodyJson(
            "{}".into(),
        )),
        ..SendRequest::default()
    };
    let body = request.encode_to_vec();
    let mut stream = TcpStream::connect(chat.address).await.unwrap();
    for number in 1..=3 {
        let head = format!(
            "POST {SEND} HTTP/1.1\r\nhost: chat\r\ncontent-type: application/proto\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), &body].concat())
            .await
            .unwrap();
        let mut bytes = vec![0; 1_000];
        let length = stream.read(&mut bytes).await.unwrap();
        let answer = parse(&bytes[..length]);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/proto");
        let sent = SendResponse::decode(&*answer.body).unwrap();
        assert_eq!(sent.position.unwrap().offset, number);
    }
}

#[tokio::test]
async fn json_is_answered_over_http2_as_well() {
    let chat = Chat::start().await;
    let stream = TcpStream::connect(chat.address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (body, status, code) in [
        (hello().to_string(), 200, None),
        ("{}".into(), 400, Some("invalid_argument")),
    ] {
        let request = http::Request::post(format!("http://chat{SEND}"))
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        let (answer, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(Bytes::from(body), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(!answer.headers().contains_key("grpc-status"));
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend(data.unwrap());
        }
        assert_eq!(body.trailers().await.unwrap(), None, "JSON has no trailers");
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer.get("code").and_then(Value::as_str), code);
    }
}

/// Each of these is somebody's mistake. The answer says what to do.
#[tokio::test]
async fn a_wrong_request_is_refused_with_the_field_or_the_header_that_is_wrong() {
    let chat = Chat::start().await;
    let json = "content-type: application/json\r\n";
    let large = vec![b' '; (4 << 20) + 100];
    let long = format!(
        "{{\"channel\":\"4\",\"user\":\"bot\",\"body\":{{\"a\":\"{}\"}}}}",
        "x".repeat(200 << 10)
    );
    let many = format!("{{\"body\":{{\"a\":[{}1]}}}}", "1,".repeat(100_000));
    let deep = format!(
        "{{\"body\":{{\"a\":{}{}}}}}",
        "[".repeat(60),
        "]".repeat(60)
    );
    for (method, path, headers, body, status, words) in [
        ("POST", SEND, json, &b"{}"[..], 400, "channel: "),
        ("POST", SEND, json, b"", 400, "request: is empty"),
        ("POST", SEND, json, b"{", 400, "request: EOF while parsing"),
        (
            "POST",
            SEND,
            json,
            br#"{"chanel":"4"}"#,
            400,
            "unrecognized field name 'chanel'",
        ),
        (
            "POST",
            SEND,
            json,
            br#"{"channel":4}"#,
            400,
            "channel: invalid type: integer `4`, expected a string",
        ),
        (
            "POST",
            SEND,
            json,
            br#"{"channel":"4","user":"bot","body":{},"bodyJson":"e30="}"#,
            400,
            "multiple fields provided for oneof 'content'",
        ),
        (
            "POST",
            SEND,
            json,
            br#"{"channel":"4","user":"bot"}"#,
            400,
            "content: either body or body_json",
        ),
        (
            "POST",
            SEND,
            json,
            b"{\"channel\":\"\xff\"}",
            400,
            "request: is not UTF-8",
        ),
        (
            "POST",
            SEND,
            json,
            deep.as_bytes(),
            400,
            "request: is nested too deeply",
        ),
        (
            "POST",
            SEND,
            json,
            many.as_bytes(),
            400,
            "request: has more than 100000 commas",
        ),
        (
            "POST",
            SEND,
            json,
            long.as_bytes(),
            400,
            "body: must have at most 131072 bytes",
        ),
        ("POST", SEND, json, &large, 400, "at most 4194304 bytes"),
        (
            "POST",
            SEND,
            "",
            b"{}",
            415,
            "content-type must be application/json",
        ),
        (
            "POST",
            SEND,
            "content-type: text/plain\r\n",
            b"{}",
            415,
            "content-type must be application/json",
        ),
        (
            "POST",
            SEND,
            "content-type: application/json; charset=latin1\r\n",
            b"{}",
            415,
            "in UTF-8",
        ),
        (
            "POST",
            SEND,
            "content-type: application/connect+json\r\n",
            b"{}",
            415,
            "content-type must be",
        ),
        (
            "POST",
            SEND,
            "content-type: application/proto\r\n",
            b"\x0a",
            400,
            "request: ",
        ),
        (
            "POST",
            SEND,
            "content-type: application/grpc\r\n",
            b"{}",
            505,
            "gRPC needs HTTP/2",
        ),
        (
            "POST",
            SEND,
            "content-type: application/json\r\ncontent-encoding: gzip\r\n",
            b"{}",
            501,
            "content-encoding must be identity",
        ),
        (
            "POST",
            SEND,
            "content-type: application/json\r\nconnect-protocol-version: 2\r\n",
            b"{}",
            400,
            "connect-protocol-version must be 1",
        ),
        (
            "POST",
            SEND,
            "content-type: application/json\r\nconnect-timeout-ms: 1s\r\n",
            b"{}",
            400,
            "connect-timeout-ms must be",
        ),
        (
            "POST",
            SEND,
            "content-type: application/json\r\nconnect-timeout-ms: 0\r\n",
            b"{}",
            400,
            "connect-timeout-ms must be",
        ),
        (
            "POST",
            "/chat.v1.ChatService/Say",
            json,
            b"{}",
            404,
            "/chat.v1.ChatService/Send",
        ),
        (
            "POST",
            "/connector.v1.SessionService/Join",
            json,
            b"{}",
            404,
            "there is nothing at this path",
        ),
        (
            "POST",
            "/grpc.health.v1.Health/Check",
            json,
            b"{}",
            404,
            "there is nothing at this path",
        ),
        (
            "POST",
            "/connector.v1.SessionService/Join",
            "content-type: application/grpc-web+proto\r\n",
            b"",
            404,
            "there is nothing",
        ),
        (
            "POST",
            "/chat.v1.ChatService/SendStream",
            json,
            b"{}",
            415,
            "over gRPC",
        ),
        ("GET", "/", "", b"", 404, "call POST with one of /chat.v1"),
        ("GET", SEND, "", b"", 405, "use POST"),
        ("PUT", SEND, json, b"{}", 405, "use POST"),
    ] {
        let answer = ask(chat.address, method, path, headers, body).await;
        let case = format!(
            "{method} {path} {headers:?} {}",
            String::from_utf8_lossy(&body[..body.len().min(60)])
        );
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{case}: {message}");
        match status {
            405 => assert_eq!(answer.headers["allow"], "POST, OPTIONS"),
            415 if path == SEND => assert!(answer.headers.contains_key("accept-post"), "{case}"),
            _ => {}
        }
    }
    assert!(chat.store.log().is_empty());
}

/// A service that is not put behind the reader of JSON takes JSON for a broken frame of gRPC.
#[tokio::test]
async fn every_unary_method_of_the_contract_for_back_ends_reads_json() {
    let chat = Chat::start().await;
    let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = types.services();
    let methods = services
        .filter(|service| service.package_name() == "chat.v1")
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut asked = 0;
    for method in methods.filter(|it| !it.is_client_streaming() && !it.is_server_streaming()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let headers = "content-type: application/json\r\n";
        let answer = ask(chat.address, "POST", &path, headers, b"{\"chanel\":1}").await;
        assert_eq!(
            answer.code(),
            (400, "invalid_argument".to_owned()),
            "{path}"
        );
        let message = answer.json()["message"].to_string();
        assert!(
            message.contains("unrecognized field name"),
            "{path}: {message}"
        );
        asked += 1;
    }
    assert!(asked >= 10, "{asked}");
}

#[tokio::test]
async fn an_error_has_grpcs_details_as_bytes_and_as_json() {
    let chat = Chat::start().await;
    let answer = call(chat.address, "Send", &json!({"channel": "4", "body": {}})).await;
    assert_eq!(answer.code(), (400, "invalid_argument".to_owned()));
    let details = answer.json()["details"].as_array().unwrap().clone();
    let find = |name: &str| details.iter().find(|it| it["type"] == name).unwrap();
    let info = &find("google.rpc.ErrorInfo")["debug"];
    assert_eq!(info["reason"], "INVALID_ARGUMENT");
    let request = find("google.rpc.BadRequest");
    assert_eq!(request["debug"]["fieldViolations"][0]["field"], "user");
    assert!(
        !request["value"].as_str().unwrap().contains('='),
        "unpadded"
    );

    for (failure, status, code, wait) in [
        (
            StoreError::Unavailable("away".into()),
            503,
            "unavailable",
            Some("1"),
        ),
        (StoreError::Full, 429, "resource_exhausted", Some("5")),
        (StoreError::KeyReused, 409, "already_exists", None),
        (StoreError::NotMember, 400, "failed_precondition", None),
    ] {
        chat.store.fail(failure);
        let answer = call(
            chat.address,
            "Join",
            &json!({"channel": "4", "user": "bot"}),
        )
        .await;
        assert_eq!(answer.code(), (status, code.to_owned()));
        assert_eq!(
            answer.headers.get("retry-after").map(String::as_str),
            wait,
            "{code}"
        );
    }
}

#[tokio::test]
async fn a_call_ends_after_the_callers_time() {
    let chat = Chat::start().await;
    chat.store.close_gate();
    let began = Instant::now();
    let headers = "content-type: application/json\r\nconnect-timeout-ms: 50\r\n";
    let body = hello().to_string();
    let answer = ask(chat.address, "POST", SEND, headers, body.as_bytes()).await;
    assert_eq!(answer.code(), (504, "deadline_exceeded".to_owned()));
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );

    // gRPC's own header means nothing here.
    chat.store.open_gate(1);
    let headers = "content-type: application/json\r\ngrpc-timeout: 1n\r\n";
    let answer = ask(chat.address, "POST", SEND, headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_as_those_of_grpc_are() {
    let limits = Limits {
        calls: 1,
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    chat.store.close_gate();
    let address = chat.address;
    let first = tokio::spawn(async move { call(address, "Send", &hello()).await });
    chat.store.has_seen(1).await;
    let answer = call(address, "Send", &hello()).await;
    assert_eq!(answer.code(), (429, "resource_exhausted".to_owned()));
    assert_eq!(answer.headers["retry-after"], "1");
    chat.store.open_gate(1);
    assert_eq!(first.await.unwrap().status, 200);
}

/// Writes this part again and again, and says when chat ended the connection, and with how many bytes.
async fn trickle(chat: SocketAddr, first: &str, part: &[u8], pause: Duration) -> (Duration, usize) {
    let mut stream = TcpStream::connect(chat).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let began = Instant::now();
    let mut sent = 0;
    loop {
        let mut end = [0; 256];
        tokio::select! {
            read = stream.read(&mut end) => if matches!(read, Ok(0) | Err(_)) {
                return (began.elapsed(), sent);
            },
            () = tokio::time::sleep(pause) => {
                if stream.write_all(part).await.is_err() {
                    return (began.elapsed(), sent);
                }
                sent += part.len();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_its_head_slowly_is_disconnected() {
    let chat = Chat::start().await;
    let pause = Duration::from_secs(1);
    let (took, _) = trickle(chat.address, "POST / HTTP/1.1\r\n", b"x: y\r\n", pause).await;
    assert!((9..=12).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_connection_over_http1_stays_for_more_requests_until_it_was_idle_for_long() {
    let chat = Chat::start().await;
    let request = |connection: &str| {
        let body = hello().to_string();
        let length = body.len();
        format!(
            "POST {SEND} HTTP/1.1\r\nhost: chat\r\nconnection: {connection}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let mut stream = TcpStream::connect(chat.address).await.unwrap();
    let ask = request("keep-alive");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 1_000];
    let length = stream.read(&mut bytes).await.unwrap();
    assert_eq!(parse(&bytes[..length]).status, 200);

    // Longer than a new connection has for its first request.
    skip(Duration::from_secs(20)).await;
    stream.write_all(ask.as_bytes()).await.unwrap();
    let length = stream.read(&mut bytes).await.unwrap();
    assert_eq!(parse(&bytes[..length]).status, 200);

    skip(Limits::default().idle_time + Duration::from_secs(1)).await;
    let ended = stream.read(&mut bytes).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(chat.store.log().len(), 2);
}

/// Lets this time pass at once.
async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    // Those who waited for the time run before anything else happens.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

#[tokio::test]
async fn a_caller_that_sends_an_endless_head_is_disconnected() {
    let chat = Chat::start().await;
    let line = format!("x: {}\r\n", "y".repeat(1_000));
    let pause = Duration::from_millis(1);
    let (_, sent) = trickle(chat.address, "POST / HTTP/1.1\r\n", line.as_bytes(), pause).await;
    assert!((10_000..200_000).contains(&sent), "{sent} bytes");
}

#[tokio::test]
async fn a_caller_that_sends_its_body_slowly_is_refused() {
    let limits = Limits {
        call_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let head = format!(
        "POST {SEND} HTTP/1.1\r\nhost: chat\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let answer = raw(chat.address, head.as_bytes()).await;
    assert_eq!(answer.code(), (504, "deadline_exceeded".to_owned()));
}

#[tokio::test]
async fn a_caller_that_takes_no_answer_is_disconnected() {
    let limits = Limits {
        answer_time: Duration::from_secs(1),
        ..Limits::default()
    };
    let chat = with_memory(limits).await;
    let large = json!({"channel": "4", "user": "bot", "body": {"text": "x".repeat(100 << 10)}});
    for _ in 0..10 {
        assert_eq!(call(chat, "Send", &large).await.status, 200);
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(chat).await.unwrap();
    let request = "POST /chat.v1.ChatService/History HTTP/1.1\r\nhost: chat\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"channel\":\"4\"}";
    // More answers than the kernel keeps.
    for _ in 0..20 {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    // This test needs a caller that reads nothing for longer than the bound.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let read = ended.expect("chat has ended the connection");
    assert!(
        read.is_err() || bytes.len() < 20 << 20,
        "{} bytes",
        bytes.len()
    );
    assert!(bytes.len() < 15 << 20, "{} bytes came", bytes.len());
}

#[tokio::test]
async fn pages_may_call_only_if_their_origin_is_allowed() {
    let body = hello().to_string();
    let from = |origin: &str| format!("content-type: application/json\r\norigin: {origin}\r\n");
    let asking = |origin: &str| {
        format!(
            "origin: {origin}\r\naccess-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n"
        )
    };
    let chat = Chat::start().await;
    let answer = ask(
        chat.address,
        "POST",
        SEND,
        &from("http://a.example"),
        body.as_bytes(),
    )
    .await;
    assert_eq!(answer.code(), (403, "permission_denied".to_owned()));
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .contains("--allowed-origins")
    );
    let answer = ask(
        chat.address,
        "OPTIONS",
        SEND,
        &asking("http://a.example"),
        b"",
    )
    .await;
    assert_eq!(answer.status, 403);
    assert!(chat.store.log().is_empty());

    let limits = Limits {
        allowed_origins: vec!["http://a.example".into(), "https://b.example:8443".into()],
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    for origin in ["http://a.example", "https://b.example:8443"] {
        let answer = ask(chat.address, "OPTIONS", SEND, &asking(origin), b"").await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
        assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST");
        let allowed = &answer.headers["access-control-allow-headers"];
        for header in [
            "content-type",
            "connect-protocol-version",
            "connect-timeout-ms",
            "x-grpc-web",
        ] {
            assert!(allowed.contains(header), "{allowed}");
        }
        assert_eq!(answer.headers["vary"], "origin");
        for (body, status) in [(body.as_str(), 200), ("{}", 400)] {
            let answer = ask(chat.address, "POST", SEND, &from(origin), body.as_bytes()).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers["access-control-allow-origin"], origin);
        }
        let answer = ask(chat.address, "POST", "/", &from(origin), b"").await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
    }
    for origin in [
        "http://a.example:81",
        "https://a.example",
        "null",
        "http://a.example.evil",
    ] {
        let answer = ask(chat.address, "POST", SEND, &from(origin), body.as_bytes()).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn grpc_web_is_answered_with_the_status_behind_the_message() {
    let chat = Chat::start().await;
    let headers = "content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n";
    let request = framed(&crate::support::message("{}"));
    let answer = ask(chat.address, "POST", SEND, headers, &request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc-web+proto");
    let body = String::from_utf8_lossy(&answer.body);
    assert!(body.contains("grpc-status:0"), "{body}");
    assert_eq!(chat.store.log().len(), 1);
    let wrong = framed(&SendRequest::default());
    let answer = ask(chat.address, "POST", SEND, headers, &wrong).await;
    assert_eq!(answer.headers["grpc-status"], "3");
    let origin = format!("{headers}origin: http://a.example\r\n");
    let answer = ask(chat.address, "POST", SEND, &origin, &request).await;
    assert_eq!(answer.status, 403);
    assert_eq!(chat.store.log().len(), 1);
}
