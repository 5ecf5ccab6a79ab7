//! Callers that misuse HTTP/2: they are silent, send unfinished requests, read no answers, or open streams that they
//! don't use. Chat stays within its bounds, and other callers are answered meanwhile.

use crate::support::{Caller, Chat, framed, message};
use bytes::{Bytes, BytesMut};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::Limits;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use proto::chat::v1::HistoryRequest;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use runtime::Shutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::Code;

const SERVICE: &str = "chat.v1.ChatService";

/// A connection that speaks HTTP/2 without a gRPC library, so that it can misbehave.
struct Raw {
    requests: SendRequest<Bytes>,
}

impl Raw {
    /// `window`: how many bytes of each answer chat may send before this side takes them.
    async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { requests }
    }

    /// Begins a call. Its body is still to come.
    async fn begin(&mut self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::post(format!("http://chat{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        self.requests = self.requests.clone().ready().await.unwrap();
        self.requests.send_request(request, false).unwrap()
    }

    /// Makes a call with a whole body.
    async fn call(&mut self, method: &str, message: &impl prost::Message) -> ResponseFuture {
        let (answer, mut body) = self.begin(&format!("/{SERVICE}/{method}")).await;
        body.send_data(framed(message), true).unwrap();
        answer
    }
}

fn status(headers: &HeaderMap) -> (Code, String) {
    let status = tonic::Status::from_header_map(headers).expect("a status");
    (status.code(), status.message().to_owned())
}

/// Returns when chat has closed the socket.
async fn end_of(mut stream: TcpStream) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink).await;
}

async fn is_answered(chat: &Chat) -> bool {
    let sent = chat.client().await.send(message("{}")).await;
    sent.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_nothing_is_disconnected() {
    let chat = Chat::start().await;
    let began = Instant::now();
    let stream = TcpStream::connect(chat.address).await.unwrap();
    end_of(stream).await;
    let took = began.elapsed().as_secs();
    assert!((10..=12).contains(&took), "{took} s");
}

/// As if the caller's machine had vanished: the socket stays, and neither bytes nor an end come from it.
#[tokio::test(start_paused = true)]
async fn a_caller_that_has_vanished_is_disconnected_even_with_a_stream_open() {
    let chat = Chat::start().await;
    let mut present = chat.client().await;
    let mut caller = Caller::open(&mut present).await.unwrap();
    let stream = TcpStream::connect(chat.address).await.unwrap();
    let stream = stream.into_std().unwrap();
    let again = TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let (requests, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut raw = Raw { requests };
    let opening = async {
        let (answer, body) = raw.begin(&format!("/{SERVICE}/SendStream")).await;
        (answer.await.unwrap(), body)
    };
    let open = tokio::select! {
        open = opening => open,
        ended = &mut connection => panic!("it ended: {ended:?}"),
    };
    assert!(!open.0.headers().contains_key("grpc-status"));
    // From here on nothing drives HTTP/2 on this side, so no ping is answered.
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(600), end_of(again)).await;
    ended.expect("chat ends the connection");
    let took = began.elapsed().as_secs();
    assert!((20..=32).contains(&took), "{took} s");
    drop((open, connection));
    // A caller that answers pings stays connected.
    caller.send([message("{}")]).await;
    assert!(caller.answers.message().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_calls_is_disconnected_and_one_with_a_stream_stays() {
    let limits = Limits {
        idle_time: Duration::from_secs(5),
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let mut busy = chat.client().await;
    let mut caller = Caller::open(&mut busy).await.unwrap();
    let idle = Raw::connect(chat.address, 1 << 16).await;
    let began = Instant::now();
    let ended = async {
        let mut requests = idle.requests;
        loop {
            match requests.ready().await {
                Ok(ready) => requests = ready,
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    ended.await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(8),
        "{took:?}"
    );
    caller.send([message("{}")]).await;
    assert!(caller.answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn if_no_place_is_free_silent_connections_are_closed() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let mut busy = chat.client().await;
    let mut caller = Caller::open(&mut busy).await.unwrap();
    let first = TcpStream::connect(chat.address).await.unwrap();
    let _second = TcpStream::connect(chat.address).await.unwrap();
    assert!(is_answered(&chat).await);
    end_of(first).await;
    caller.send([message("{}")]).await;
    assert!(caller.answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn calls_without_a_body_do_not_affect_other_callers() {
    let limits = Limits {
        calls: 4,
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(chat.address, 1 << 16).await;
        for _ in 0..50 {
            open.push(raw.begin(&format!("/{SERVICE}/Send")).await);
        }
    }
    for _ in 0..20 {
        assert!(is_answered(&chat).await);
    }
    // The calls of the others end by themselves.
    for (answer, _body) in open {
        let answer = answer.await.unwrap();
        assert_eq!(status(answer.headers()).0, Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn unfinished_large_requests_stay_within_their_bound() {
    let limits = Limits {
        requests_total: 1 << 20,
        call_time: Duration::from_secs(20),
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let mut raw = Raw::connect(chat.address, 1 << 16).await;
    let mut refused = 0;
    let mut kept = Vec::new();
    for method in ["Send", "SendStream"] {
        for _ in 0..6 {
            let (answer, mut body) = raw.begin(&format!("/{SERVICE}/{method}")).await;
            let mut half = BytesMut::from(&[0, 0, 0x20, 0, 0][..]);
            half.resize(200 << 10, 7);
            send_all(&mut body, half.freeze()).await;
            kept.push((method, answer, body));
        }
    }
    for (method, answer, body) in kept {
        let ended = tokio::time::timeout(Duration::from_millis(500), end_of_call(answer)).await;
        if let Ok(code) = ended {
            assert_eq!(code, Code::ResourceExhausted, "{method}");
            refused += 1;
        }
        drop(body);
    }
    // One connection gets half of the bytes: room for two of two hundred KiB.
    assert!(refused >= 9, "only {refused} of 12 were refused");
    assert!(is_answered(&chat).await);
}

/// Sends all bytes as fast as chat makes room for them.
async fn send_all(body: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        body.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        // The call was refused, so nobody takes the rest.
        let Some(Ok(room)) = room else { return };
        let part = data.split_to(room.min(data.len()));
        if body.send_data(part, false).is_err() {
            return;
        }
    }
}

/// How a call ends. Its answer may have begun.
async fn end_of_call(answer: ResponseFuture) -> Code {
    let answer = answer.await.unwrap();
    if answer.headers().contains_key("grpc-status") {
        return status(answer.headers()).0;
    }
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    status(&trailers).0
}

/// Chat over a store with a history of about a mebibyte, and a client.
async fn with_history(
    limits: Limits,
) -> (SocketAddr, ChatServiceClient<tonic::transport::Channel>) {
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
    let client = ChatServiceClient::connect(format!("http://{address}")).await;
    let mut client = client.unwrap();
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(100 << 10));
    for _ in 0..10 {
        client.send(message(&large)).await.unwrap();
    }
    (address, client)
}

fn history() -> HistoryRequest {
    HistoryRequest {
        channel: "4".into(),
        page_size: 1_000,
        ..HistoryRequest::default()
    }
}

#[tokio::test]
async fn answers_that_are_not_read_stay_within_their_bound_and_are_ended() {
    let limits = Limits {
        answers_total: 8 << 20,
        answer_time: Duration::from_secs(3),
        ..Limits::default()
    };
    let (address, mut client) = with_history(limits).await;
    let mut raw = Raw::connect(address, 0).await;
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(raw.call("History", &history()).await);
    }
    let mut begun: Vec<RecvStream> = Vec::new();
    let mut refused = 0;
    for answer in answers {
        let answer = answer.await.unwrap();
        if answer.headers().contains_key("grpc-status") {
            assert_eq!(status(answer.headers()).0, Code::DeadlineExceeded);
            refused += 1;
        } else {
            begun.push(answer.into_body());
        }
    }
    // One connection gets at most four of the eight megabytes.
    assert!(
        (1..=4).contains(&begun.len()),
        "{} answers were begun",
        begun.len()
    );
    assert_eq!(refused + begun.len(), 40);
    // The rest is for others.
    let page = client.history(history()).await.unwrap().into_inner();
    assert_eq!(page.publications.len(), 10);

    // The connection is ended, and gives back what it held.
    let mut body = begun.remove(0);
    let ended = tokio::time::timeout(Duration::from_secs(60), body.data()).await;
    let ended = ended.expect("the connection is ended");
    assert!(
        ended.is_none_or(|data| data.is_err()),
        "without window nothing can come"
    );
    for _ in 0..3 {
        client.history(history()).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_takes_an_answer_slowly_gets_all_of_it() {
    let limits = Limits {
        answer_time: Duration::from_secs(2),
        ..Limits::default()
    };
    let (address, _client) = with_history(limits).await;
    let mut raw = Raw::connect(address, 64 << 10).await;
    let answer = raw.call("History", &history()).await.await.unwrap();
    let mut body = answer.into_body();
    let (mut length, mut untaken, began) = (0, 0, Instant::now());
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        length += data.len();
        untaken += data.len();
        // The caller is slow: it opens its window a quarter of a second after it was used up.
        if untaken >= 60 << 10 || body.is_end_stream() {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let taken = std::mem::take(&mut untaken);
            body.flow_control().release_capacity(taken).unwrap();
        }
    }
    assert!(length > 1_000_000, "{length}");
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "the caller was not slower than the bound"
    );
    assert_eq!(status(&body.trailers().await.unwrap().unwrap()).0, Code::Ok);
}

#[tokio::test]
async fn idle_streams_are_ended_to_make_room_for_other_callers() {
    let limits = Limits {
        streams: 8,
        ..Limits::default()
    };
    let chat = Chat::with(limits).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(chat.address, 1 << 16).await;
        for _ in 0..4 {
            let (answer, body) = raw.begin(&format!("/{SERVICE}/SendStream")).await;
            let answer = answer.await.unwrap();
            if !answer.headers().contains_key("grpc-status") {
                idle.push((answer.into_body(), body));
            }
        }
    }
    assert_eq!(idle.len(), 8);
    // A stream counts as idle after a second without use.
    until_success(async || {
        let mut client = chat.client().await;
        let mut caller = Caller::open(&mut client).await.ok()?;
        caller.send([message("{}")]).await;
        caller.answers.message().await.unwrap()
    })
    .await;
    let (mut body, _keep) = idle.remove(0);
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    let (code, words) = status(&trailers);
    assert_eq!(code, Code::Unavailable);
    assert!(words.contains("idle"), "{words}");
}

/// Tries again until an attempt succeeds.
async fn until_success<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tried = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(10), tried).await;
    done.expect("an attempt succeeds within ten seconds")
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_refused_with_a_list_of_those_that_do() {
    let chat = Chat::start().await;
    let mut raw = Raw::connect(chat.address, 1 << 16).await;
    for (path, words) in [
        ("/chat.v1.ChatService/Publish", "it has Send, SendStream"),
        (
            "/connector.v1.SessionService/Send",
            "it has Join, Leave, Send",
        ),
        ("/chat.v2.ChatService/Send", "there are chat.v1.ChatService"),
        ("/", "there are chat.v1.ChatService"),
    ] {
        let (answer, mut body) = raw.begin(path).await;
        body.send_data(framed(&message("{}")), true).unwrap();
        let answer = answer.await.unwrap();
        let (code, message) = status(answer.headers());
        assert_eq!(code, Code::Unimplemented, "{path}");
        assert!(message.contains(words), "{path}: {message}");
    }
}
