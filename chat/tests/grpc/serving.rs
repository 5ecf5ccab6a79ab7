//! The server around the service: reflection, health, metrics and shutdown.

use crate::support::{Caller, Chat, message};
use chat::Limits;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

const SERVICE: &str = "chat.v1.ChatService";
const SESSIONS: &str = "connector.v1.SessionService";
const HEALTH: &str = "grpc.health.v1.Health";

#[tokio::test]
async fn reflection_v1_lists_the_services_and_describes_them() {
    use v1::server_reflection_client::ServerReflectionClient;
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;

    let chat = Chat::start().await;
    let ask = |message_request| v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(SERVICE.into())),
        ask(MessageRequest::FileContainingSymbol(SESSIONS.into())),
        ask(MessageRequest::FileContainingSymbol(HEALTH.into())),
        ask(MessageRequest::FileContainingSymbol(
            "google.rpc.ErrorInfo".into(),
        )),
    ]);
    let mut client = ServerReflectionClient::new(chat.channel().await);
    let answers = client.server_reflection_info(requests).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    let mut answers = answers
        .into_iter()
        .map(|answer| answer.unwrap().message_response);

    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().unwrap() else {
        panic!("this is not a list of services");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(names.iter().any(|name| name == SERVICE), "{names:?}");
    assert!(names.iter().any(|name| name == SESSIONS), "{names:?}");
    assert!(names.iter().any(|name| name == HEALTH), "{names:?}");
    for answer in answers {
        let described = matches!(answer, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(described, "{answer:?}");
    }
}

#[tokio::test]
async fn reflection_v1alpha_lists_the_services_for_older_tools() {
    use v1alpha::server_reflection_client::ServerReflectionClient;
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;

    let chat = Chat::start().await;
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(chat.channel().await);
    let requests = tokio_stream::once(request);
    let answers = client.server_reflection_info(requests).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("this is not a list of services");
    };
    assert!(list.service.iter().any(|service| service.name == SERVICE));
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

#[tokio::test]
async fn health_follows_the_store_and_its_watchers_do_not_delay_the_shutdown() {
    let chat = Chat::start().await;
    let mut client = HealthClient::new(chat.channel().await);
    let (serving, not_serving) = (
        ServingStatus::Serving as i32,
        ServingStatus::NotServing as i32,
    );
    let mut watch = client.watch(of(SERVICE)).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, serving);
    for service in ["", SERVICE, SESSIONS] {
        let status = client.check(of(service)).await.unwrap().into_inner().status;
        assert_eq!(status, serving);
    }

    chat.store.available.send_replace(false);
    assert_eq!(watch.message().await.unwrap().unwrap().status, not_serving);
    for service in ["", SERVICE, SESSIONS] {
        let status = client.check(of(service)).await.unwrap().into_inner().status;
        assert_eq!(status, not_serving);
    }

    chat.store.available.send_replace(true);
    assert_eq!(watch.message().await.unwrap().unwrap().status, serving);

    chat.shutdown.request();
    assert_eq!(watch.message().await.unwrap().unwrap().status, not_serving);
    assert!(watch.message().await.unwrap().is_none());
    drop(client);
    chat.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_health_of_an_unknown_service_is_not_found() {
    let chat = Chat::start().await;
    let mut client = HealthClient::new(chat.channel().await);
    let status = client.check(of("else")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn at_the_shutdown_calls_under_way_are_finished_and_new_callers_are_refused() {
    let chat = Chat::start().await;
    chat.store.close_gate();
    let mut client = chat.client().await;
    let call = tokio::spawn(async move { client.send(message("{}")).await });
    chat.store.has_seen(1).await;

    chat.shutdown.request();
    // The listener is closed as soon as the server has seen the request.
    while tokio::net::TcpStream::connect(chat.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    chat.store.open_gate(1);
    call.await.unwrap().unwrap();
    chat.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn callers_that_do_not_end_are_cut_off_after_the_drain_time() {
    let chat = Chat::with(Limits {
        drain_time: Duration::from_millis(50),
        call_time: Duration::from_secs(600),
        ..Limits::default()
    })
    .await;
    chat.store.close_gate();
    let mut client = chat.client().await;
    let call = tokio::spawn(async move { client.send(message("{}")).await });
    chat.store.has_seen(1).await;
    chat.shutdown.request();
    chat.served.await.unwrap().unwrap();
    call.abort();
}

#[tokio::test]
async fn calls_and_publications_are_counted() {
    let metrics = runtime::Metrics::install();
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut caller = Caller::open(&mut client).await.unwrap();
    caller.send([message("{}"), message("[]")]).await;
    caller.answers.message().await.unwrap().unwrap();
    drop(caller.requests);
    assert!(caller.answers.message().await.unwrap().is_none());
    let mut keyed = message("{}");
    keyed.idempotency_key = "counted".into();
    client.send(keyed.clone()).await.unwrap();
    client.send(keyed).await.unwrap();
    client.send(message("[]")).await.unwrap_err();

    let text = metrics.render();
    for line in [
        r#"chat_calls_total{method="chat.v1.ChatService/Send",code="OK"}"#,
        r#"chat_calls_total{method="chat.v1.ChatService/Send",code="INVALID_ARGUMENT"}"#,
        r#"chat_calls_total{method="chat.v1.ChatService/SendStream",code="OK"}"#,
        r#"chat_call_duration_seconds_bucket{method="chat.v1.ChatService/Send",le="1"}"#,
        r#"chat_calls_in_flight{method="chat.v1.ChatService/SendStream"}"#,
        r#"chat_refusals_total{reason="INVALID_ARGUMENT"}"#,
        "chat_publications_total",
        "chat_duplicates_total",
        r#"chat_batch_size_bucket{le="256"}"#,
    ] {
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        assert!(value.is_some(), "{line} is missing in\n{text}");
    }
}
