//! Handlers that hang, die, come back, and answer nonsense.

use super::pattern;
use super::{CallError, Routes, Table, Target};
use crate::call_settings::RouteTls;
use crate::chat_client::CALL;
use crate::grpc::GrpcService;
use crate::operator::{BYTES, CALLS, Service};
use crate::testing::handler::Handler;
use crate::testing::process::{self, Process};
use crate::testing::soon;
use proto::route::v1::{HandleRequest, HandleResponse};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// The most bytes of a reply in these tests.
pub(crate) const LIMIT: usize = 1 << 10;

impl Routes {
    /// No handlers.
    pub(crate) fn none() -> Arc<Self> {
        Self::in_process(&[])
    }

    /// Handlers in this process, by the pattern that leads to each. The connector is called "c".
    pub(crate) fn in_process(handlers: &[(&str, GrpcService)]) -> Arc<Self> {
        let entries = handlers.iter().map(|(pattern, service)| {
            let value = format!("{pattern}=http://games:5001");
            let setting = pattern::parse(&[value]).unwrap().remove(0);
            let service = Service::in_process(pattern, service.clone(), CALLS);
            (setting, Target::new(service, LIMIT))
        });
        Arc::new(Self {
            table: Table::new(entries),
            connector: "c".to_owned(),
            _resolving: Vec::new(),
        })
    }
}

fn request() -> HandleRequest {
    HandleRequest {
        route: "game.handler.move".into(),
        body_json: "{}".into(),
        ..HandleRequest::default()
    }
}

fn in_time() -> Instant {
    Instant::now() + CALL
}

/// A handler behind a socket.
fn serve(listener: TcpListener) -> (Handler, Process) {
    let (handler, server) = Handler::new();
    (handler, process::serve(listener, server))
}

async fn listen() -> (TcpListener, SocketAddr) {
    process::listen(2).await
}

/// A target with these addresses.
fn target(addresses: &[SocketAddr]) -> Arc<Target> {
    let uri = "http://games:5001".parse().unwrap();
    let service = Service::new(&uri, CALLS, "");
    service.update(&uri, addresses);
    Target::new(service, LIMIT)
}

/// Calls the target, whose handler answers each call.
async fn answered(target: &Target, handler: &mut Handler) -> Result<String, CallError> {
    let call = target.call(request(), in_time());
    let answer = async { handler.next().await.answer(r#"{"code":0}"#) };
    let mut answer = std::pin::pin!(answer);
    let mut call = std::pin::pin!(call);
    tokio::select! {
        reply = &mut call => reply,
        _ = &mut answer => call.await,
    }
}

#[tokio::test]
async fn a_handler_that_dies_is_refused_at_once_and_works_again_when_it_is_back() {
    let (listener, address) = listen().await;
    let target = target(&[address]);
    let (mut handler, serving) = serve(listener);
    assert_eq!(
        answered(&target, &mut handler).await.unwrap(),
        r#"{"code":0}"#
    );

    drop(serving);
    // The call that meets the end of the connection may have been done.
    let is_noticed = async || {
        let refused = target.call(request(), in_time()).await;
        matches!(refused, Err(CallError::Unreachable(_)))
    };
    soon(async { while !is_noticed().await {} }).await;
    // So is every further one, whether or not it is time for another attempt.
    for _ in 0..100 {
        let refused = target.call(request(), in_time()).await;
        assert!(
            matches!(refused, Err(CallError::Unreachable(_))),
            "{refused:?}"
        );
    }

    let listener = TcpListener::bind(address).await.unwrap();
    let (mut handler, _serving) = serve(listener);
    soon(async {
        while answered(&target, &mut handler).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_ends_each_connection_is_not_connected_to_by_each_call() {
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    let _ending = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let target = target(&[address]);
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..500 {
        let target = Arc::clone(&target);
        calls.spawn(async move { target.call(request(), in_time()).await });
    }
    while let Some(call) = soon(calls.join_next()).await {
        assert!(call.unwrap().is_err());
    }
    // The shortest pause that chance allows is half of the shortest mean.
    let most = 1 + begun.elapsed().as_millis() / 25;
    let accepted = accepted.load(Ordering::Relaxed) as u128;
    assert!(accepted <= most, "{accepted} connections, at most {most}");
}

#[tokio::test]
async fn a_call_goes_to_another_address_of_the_name_if_one_has_no_connection() {
    let (listener, dead) = listen().await;
    drop(listener);
    let (listener, address) = listen().await;
    let target = target(&[dead, address]);
    let (mut handler, _serving) = serve(listener);
    for _ in 0..6 {
        assert!(answered(&target, &mut handler).await.is_ok());
    }
    handler.nobody_calls().await;
}

#[tokio::test]
async fn an_address_that_is_not_resolved_any_more_gets_no_calls() {
    let (listener, one) = listen().await;
    let (mut first, _one) = serve(listener);
    let (listener, two) = listen().await;
    let (mut second, _two) = serve(listener);
    let target = target(&[one, two]);
    let uri = "http://games:5001".parse().unwrap();
    target.service().update(&uri, &[two]);
    for _ in 0..4 {
        assert!(answered(&target, &mut second).await.is_ok());
    }
    first.nobody_calls().await;
}

/// Pings notice that nobody is there, although the socket looks as if it were open.
#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_given_up() {
    let (listener, address) = listen().await;
    let target = target(&[address]);
    let silent = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        // It ends when the connector has given it up.
        let _ = socket.read_to_end(&mut read).await;
    };
    let (refused, ()) =
        soon(async { tokio::join!(target.call(request(), in_time()), silent) }).await;
    assert!(
        matches!(refused, Err(CallError::Unanswered(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_a_failure_that_tells_its_size() {
    let (listener, address) = listen().await;
    let target = target(&[address]);
    let (mut handler, _serving) = serve(listener);
    let around = r#"{"a":""}"#.len();
    for (length, fits) in [(LIMIT, true), (LIMIT + 1, false), (1 << 20, false)] {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(length - around));
        let (reply, _) = tokio::join!(target.call(request(), in_time()), async {
            handler.next().await.answer(&json)
        });
        match reply {
            Ok(reply) => assert!(fits && reply == json),
            Err(CallError::Failed(why)) => {
                assert!(!fits, "{why}");
                assert!(
                    why.contains("allowed") || why.contains("too large"),
                    "{why}"
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn in_process(name: &str) -> (Handler, Arc<Target>) {
    let (handler, service) = Handler::in_process();
    let service = Service::in_process(name, service, CALLS);
    (handler, Target::new(service, LIMIT))
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_fills_its_own_places_and_no_others() {
    let (mut hanging, full) = in_process("full");
    let (mut handler, other) = in_process("other");
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let full = Arc::clone(&full);
        calls.spawn(async move { full.call(request(), in_time()).await });
    }
    let mut held = Vec::new();
    for _ in 0..CALLS {
        held.push(hanging.next().await);
    }
    let begun = Instant::now();
    let refused = full.call(request(), in_time()).await;
    assert!(matches!(refused, Err(CallError::Overloaded)), "{refused:?}");
    assert!(answered(&other, &mut handler).await.is_ok());
    assert!(begun.elapsed().is_zero(), "nobody waits");
    hanging.nobody_calls().await;

    // The place of a call that ends is free again, and so are all of them when their time is over.
    held.pop().unwrap().answer("{}");
    assert!(soon(calls.join_next()).await.unwrap().unwrap().is_ok());
    assert!(answered(&full, &mut hanging).await.is_ok());
    while let Some(call) = soon(calls.join_next()).await {
        assert!(matches!(call.unwrap(), Err(CallError::Unanswered(_))));
    }
    assert_eq!(begun.elapsed().as_millis(), CALL.as_millis());
    assert!(answered(&full, &mut hanging).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_calls_are_bounded_and_a_cancelled_call_gives_its_place_back() {
    let (mut hanging, full) = in_process("full");
    // tonic's servers take 4 MiB at most.
    let large = HandleRequest {
        body_json: vec![b' '; BYTES / 5].into(),
        ..request()
    };
    let mut calls = JoinSet::new();
    let mut held = Vec::new();
    for _ in 0..4 {
        let (large, full) = (large.clone(), Arc::clone(&full));
        calls.spawn(async move { full.call(large, in_time()).await });
        held.push(hanging.next().await);
    }
    let refused = full.call(large.clone(), in_time()).await;
    assert!(matches!(refused, Err(CallError::Overloaded)), "{refused:?}");
    assert!(
        answered(&full, &mut hanging).await.is_ok(),
        "a small one fits"
    );
    calls.shutdown().await;
    for call in &mut held {
        call.cancelled().await;
    }
    let again = tokio::spawn(async move { full.call(large, in_time()).await });
    hanging.next().await.answer("{}");
    assert!(soon(again).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn any_error_status_is_a_failure_and_a_deadline_leaves_the_outcome_open() {
    let (mut handler, target) = in_process("games");
    for (status, expected) in [
        (Status::invalid_argument("no"), "InvalidArgument: no"),
        (Status::unavailable("db"), "Unavailable: db"),
        (Status::unknown(""), "Unknown: Unknown"),
        (
            Status::internal("x".repeat(500)),
            &format!("Internal: {}", "x".repeat(200)),
        ),
    ] {
        let (reply, _) = tokio::join!(target.call(request(), in_time()), async {
            handler.next().await.respond(Err(status))
        });
        match reply {
            Err(CallError::Failed(why)) => assert_eq!(why, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let (reply, _) = tokio::join!(target.call(request(), in_time()), async {
        let late = Status::deadline_exceeded("");
        handler.next().await.respond(Err(late))
    });
    assert!(matches!(reply, Err(CallError::Unanswered(_))), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn a_notify_needs_no_content() {
    let (mut handler, target) = in_process("games");
    for (notify, is_ok) in [(true, true), (false, false)] {
        let request = HandleRequest {
            notify,
            ..request()
        };
        let (reply, _) = tokio::join!(target.call(request, in_time()), async {
            handler.next().await.respond(Ok(HandleResponse::default()))
        });
        assert_eq!(reply.is_ok(), is_ok, "{reply:?}");
    }
}

#[tokio::test]
async fn patterns_with_one_address_share_its_bounds() {
    let values = ["game.*", "shop.*", "other.*"].map(|it| {
        let host = if it == "other.*" { "two" } else { "one" };
        format!("{it}=http://{host}.invalid:5001")
    });
    let routes = Routes::begin(&values, "c", LIMIT, &RouteTls::default()).unwrap();
    let find = |route| std::ptr::from_ref(routes.find(route).unwrap());
    assert_eq!(find("game.a"), find("shop.a"));
    assert_ne!(find("game.a"), find("other.a"));
    assert!(routes.find("game.\u{0}").is_none());
    assert!(routes.find(&format!("game.{}", "x".repeat(128))).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_name_has_no_address_is_unavailable_at_once() {
    let target = target(&[]);
    let begun = Instant::now();
    let refused = target.call(request(), in_time()).await;
    assert!(
        matches!(refused, Err(CallError::Unreachable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed().is_zero());
}
