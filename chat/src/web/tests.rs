//! Streams over HTTP, with the `Watch` of gRPC's own health service, and with a service that does what the test says.

use super::codec::Codec;
use super::connect::{Form, Framing};
use super::{Contract, Transcoded, Web, WebLayer};
use crate::error::Error;
use crate::port::health::StoreHealth;
use bytes::{BufMut, Bytes, BytesMut};
use channel_store::StoreError;
use futures_util::{FutureExt, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost_reflect::DescriptorPool;
use proto::chat::v1::SendResponse;
use runtime::Shutdown;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::{Layer, Service, ServiceExt, service_fn};

/// The health service over HTTP.
fn health(available: &watch::Sender<bool>, shutdown: &Shutdown) -> Web<Routes> {
    let types = DescriptorPool::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
    let contract = Contract::of("grpc.health.v1", &types).unwrap();
    let health = StoreHealth::new(available.subscribe(), shutdown.clone());
    let routes = Routes::new(Transcoded::new(HealthServer::new(health)));
    WebLayer::new(contract, &[]).layer(routes.prepare())
}

async fn watch(web: &mut Web<Routes>, accept: &str, body: impl Into<Bytes>) -> Response<Body> {
    let request = Request::post("/grpc.health.v1.Health/Watch")
        .header("content-type", "application/json")
        .header("accept", accept)
        .body(Body::new(http_body_util::Full::new(body.into())))
        .unwrap();
    web.ready().await.unwrap().call(request).await.unwrap()
}

/// The next part of the body, as text. `None` at its end.
async fn next(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    let data = frame.into_data().expect("there are no trailers over HTTP");
    Some(String::from_utf8(data.to_vec()).unwrap())
}

async fn json_of(answer: Response<Body>) -> Value {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn each_message_of_a_stream_is_given_at_once_as_a_line_or_as_an_event() {
    for (accept, content_type, before, after) in [
        ("*/*", "application/x-ndjson", "", "\n"),
        ("application/x-ndjson", "application/x-ndjson", "", "\n"),
        ("text/event-stream", "text/event-stream", "data: ", "\n\n"),
    ] {
        let (available, shutdown) = (watch::Sender::new(true), Shutdown::new());
        let mut web = health(&available, &shutdown);
        let answer = watch(&mut web, accept, "{}").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], content_type);
        let mut body = answer.into_body();
        let line = |status: &str| Some(format!("{before}{{\"status\":\"{status}\"}}{after}"));
        assert_eq!(next(&mut body).await, line("SERVING"));
        assert_eq!(next(&mut body).now_or_never(), None, "nothing has happened");
        available.send_replace(false);
        assert_eq!(next(&mut body).await, line("NOT_SERVING"));
        shutdown.request();
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn a_stream_that_does_not_begin_is_refused_as_any_other_call() {
    let available = watch::Sender::new(true);
    let mut web = health(&available, &Shutdown::new());
    for (body, status, code, words) in [
        (r#"{"service":"x"}"#, 404, "not_found", "no such service"),
        ("{", 400, "invalid_argument", "EOF while parsing"),
    ] {
        let answer = watch(&mut web, "application/x-ndjson", body).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let error = json_of(answer).await;
        assert_eq!(error["code"], code);
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
}

/// gRPC's frame of this answer.
fn frame(offset: u64) -> Vec<u8> {
    let answer = SendResponse {
        position: Some(proto::chat::v1::Position {
            epoch: String::new(),
            offset,
        }),
        ..SendResponse::default()
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(answer.encoded_len()).unwrap());
    frame.put(&*answer.encode_to_vec());
    frame.to_vec()
}

/// What a caller reads, part by part, if a service answers with these parts of a body and then with this status.
async fn read(framing: Framing, parts: &[&[u8]], end: Result<(), Status>) -> Vec<String> {
    let parts = parts
        .iter()
        .map(|it| Frame::data(Bytes::copy_from_slice(it)));
    let mut trailers = HeaderMap::new();
    let end = end.err().unwrap_or_else(|| Status::ok(""));
    end.add_header(&mut trailers).unwrap();
    let frames: Vec<_> = parts.chain([Frame::trailers(trailers)]).collect();
    let inner = service_fn(move |_: Request<Body>| {
        let frames: Vec<_> = frames
            .iter()
            .map(|it| match (it.data_ref(), it.trailers_ref()) {
                (Some(data), _) => Frame::data(data.clone()),
                (_, trailers) => Frame::trailers(trailers.unwrap().clone()),
            })
            .map(Ok::<_, Status>)
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let contract = Contract::load().unwrap();
    let method = contract.method("/chat.v1.ChatService/Send").unwrap();
    let mut request = Request::new(Body::new(http_body_util::Full::new(Bytes::from("{}"))));
    request.extensions_mut().insert(Form {
        codec: Codec::Json,
        framing: Some(framing),
        method: Arc::clone(method),
    });
    let answer = Transcoded::new(inner).oneshot(request).await.unwrap();
    let mut body = answer.into_body();
    let mut read = Vec::new();
    loop {
        let frame = body.frame().await.expect("trailers at the end").unwrap();
        match frame.into_data() {
            Ok(data) => read.push(String::from_utf8(data.to_vec()).unwrap()),
            Err(_) => return read,
        }
    }
}

#[tokio::test]
async fn messages_are_told_apart_however_the_service_cuts_its_body() {
    let line = |offset: u64| format!("{{\"position\":{{\"offset\":\"{offset}\"}}}}\n");
    let both = [frame(1), frame(2)].concat();
    for cut in 0..=both.len() {
        let (first, second) = both.split_at(cut);
        let read = read(Framing::Lines, &[first, second], Ok(())).await;
        assert_eq!(read.concat(), line(1) + &line(2), "{cut}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_the_error() {
    let away = || Status::from(Error::Store(StoreError::Unavailable("away".into())));
    let lines = read(Framing::Lines, &[&frame(1)], Err(away())).await;
    assert_eq!(lines.len(), 2);
    let error: Value = serde_json::from_str(lines[1].strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "unavailable");
    let details = error["error"]["details"].as_array().unwrap();
    let mut reasons = details.iter().map(|it| &it["debug"]["reason"]);
    assert!(reasons.any(|it| it == "STORE_UNAVAILABLE"), "{error}");
    let events = read(Framing::Events, &[&frame(1)], Err(away())).await;
    assert!(events[0].starts_with("data: {\"position\""), "{events:?}");
    assert!(
        events[1].starts_with("event: error\ndata: {\"code\":\"unavailable\""),
        "{events:?}"
    );
    assert!(events[1].ends_with("}\n\n"), "{events:?}");
}
