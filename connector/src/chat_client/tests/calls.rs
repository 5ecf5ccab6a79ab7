//! Joins and leaves: they are retried at another chat, and a caller is never told a wrong outcome.

use super::{chat_of, in_time};
use crate::chat_client::{Answered, CallError, Chat};
use crate::testing::chat::{Instance, Sends, joined};
use crate::testing::let_run;
use proto::connector::v1::{JoinRequest, JoinResponse};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Two chats that are up.
async fn two() -> (Arc<Chat>, [Instance; 2], [Sends; 2]) {
    let [mut a, mut b] = [Instance::new(), Instance::new()];
    let chat = chat_of(&[&a, &b]);
    let streams = [a.stream().await, b.stream().await];
    let_run().await;
    (chat, [a, b], streams)
}

fn request() -> JoinRequest {
    JoinRequest {
        channel: "room".into(),
        ..JoinRequest::default()
    }
}

fn refused(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "chat.v1", HashMap::new());
    Status::with_error_details(code, "the test says so", details)
}

/// A join. One chat answers the first attempt with `first`, the other one answers the second attempt with `second`.
async fn join(
    first: Result<JoinResponse, Status>,
    second: Option<Result<JoinResponse, Status>>,
) -> Result<Answered<JoinResponse>, CallError> {
    let (chat, [mut a, mut b], _streams) = two().await;
    let script = async {
        let (call, other) = tokio::select! {
            call = a.join() => (call, &mut b),
            call = b.join() => (call, &mut a),
        };
        assert_eq!(call.answer(first), request());
        if let Some(second) = second {
            assert_eq!(other.join().await.answer(second), request());
        }
    };
    tokio::join!(chat.join(request(), in_time()), script).0
}

#[tokio::test(start_paused = true)]
async fn after_an_answer_to_the_first_try_no_copy_of_the_call_is_under_way() {
    let answered = join(Ok(joined("a", 5)), None).await.unwrap();
    assert_eq!(answered.answer, joined("a", 5));
    assert!(!answered.repeated);
}

#[tokio::test(start_paused = true)]
async fn a_failed_try_is_repeated_at_another_chat_and_the_answer_says_so() {
    for failure in [
        Status::unavailable(""),
        Status::deadline_exceeded(""),
        Status::internal(""),
        refused(Code::ResourceExhausted, "OVERLOADED"),
    ] {
        let answered = join(Err(failure), Some(Ok(joined("a", 5)))).await.unwrap();
        assert_eq!(answered.answer, joined("a", 5));
        assert!(answered.repeated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_try_goes_to_another_chat_even_if_others_call_in_between() {
    let (chat, [mut a, mut b], _streams) = two().await;
    let of = |user: &str| JoinRequest {
        user: user.into(),
        ..request()
    };
    let script = async {
        let (to_a, to_b) = (a.join().await, b.join().await);
        let at_a = to_a.answer(Err(Status::unavailable("")));
        let at_b = to_b.answer(Err(Status::unavailable("")));
        assert_eq!(a.join().await.answer(Ok(joined("a", 5))), at_b);
        assert_eq!(b.join().await.answer(Ok(joined("a", 5))), at_a);
    };
    let (one, two, ()) = tokio::join!(
        chat.join(of("1"), in_time()),
        chat.join(of("2"), in_time()),
        script
    );
    assert!(one.unwrap().repeated && two.unwrap().repeated);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final_and_its_reason_is_passed_on() {
    for (code, reason) in [
        (Code::InvalidArgument, "INVALID_ARGUMENT"),
        (Code::FailedPrecondition, "CONNECTOR_DEAD"),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
        (Code::ResourceExhausted, "STORE_FULL"),
    ] {
        let error = join(Err(refused(code, reason)), None).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Refused { reason: r } if r == reason),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_try_without_an_answer_means_that_the_outcome_is_unknown() {
    let full = refused(Code::ResourceExhausted, "STORE_FULL");
    let error = join(Err(Status::unavailable("")), Some(Err(full))).await;
    assert!(matches!(error, Err(CallError::Unknown)));
}

#[tokio::test(start_paused = true)]
async fn a_try_ends_after_one_second_without_an_answer_and_the_call_after_two() {
    let (chat, [mut a, mut b], _streams) = two().await;
    let started = Instant::now();
    let script = async {
        let (_first, other) = tokio::select! {
            call = a.join() => (call, &mut b),
            call = b.join() => (call, &mut a),
        };
        let _second = other.join().await;
        let after = started.elapsed().as_millis();
        assert!((1_000..1_100).contains(&after), "{after}");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = chat.join(request(), in_time()) => assert!(matches!(outcome, Err(CallError::Unknown))),
        () = script => {}
    }
    assert!((1_850..2_000).contains(&started.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn if_no_chat_is_up_nothing_is_sent_and_the_caller_is_told_so() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let started = Instant::now();
    let join = chat.join(request(), in_time());
    let outcome = super::while_refusing(&mut instance, join).await;
    assert!(matches!(outcome, Err(CallError::Unreachable)));
    assert!((900..=1_000).contains(&started.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn after_chat_is_lost_only_the_first_callers_wait_and_later_ones_fail_at_once() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let stream = instance.stream().await;
    let_run().await;
    // The endpoint was up for long. The time limit counts from its loss.
    tokio::time::advance(Duration::from_secs(60)).await;
    stream.fail();
    let_run().await;
    let calls = async {
        let mut waited = Vec::new();
        for _ in 0..30 {
            let began = Instant::now();
            let outcome = chat.join(request(), in_time()).await;
            assert!(matches!(outcome, Err(CallError::Unreachable)));
            waited.push(began.elapsed());
        }
        waited
    };
    let waited = super::while_refusing(&mut instance, calls).await;
    assert!(waited[0] >= Duration::from_millis(900), "{:?}", waited[0]);
    let rest: Duration = waited[1..].iter().sum();
    assert!(rest < Duration::from_millis(100), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_passes_before_its_turn_is_not_made() {
    let (chat, [mut a, mut b], _streams) = two().await;
    let outcome = chat.join(request(), Instant::now()).await;
    assert!(matches!(outcome, Err(CallError::Unreachable)));
    a.nobody_calls().await;
    b.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_until_the_only_chat_is_up_again() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let script = async {
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        let _stream = instance.stream().await;
        instance.join().await.answer(Ok(joined("a", 5)));
        let_run().await;
    };
    let (answered, ()) = tokio::join!(chat.join(request(), in_time()), script);
    assert!(!answered.unwrap().repeated);
}
