//! The promises of SendStream: answers are in order, refusals are in their place, the stream ends if the order could be
//! lost, and there is back pressure.

use crate::support::{Caller, Chat, fields, message, reason};
use channel_store::StoreError;
use proto::chat::v1::SendRequest;
use proto::chat::v1::send_outcome::Outcome;
use proto::connector::v1::{self, SessionMessage};
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::{RpcStatusExt, pb};

fn numbered(number: u64) -> SendRequest {
    message(&format!(r#"{{"n":{number}}}"#))
}

/// The offsets of messages that are in the log. Answers come in the order of the messages.
fn offsets(answers: &[Outcome]) -> Vec<u64> {
    let offset = |answer: &Outcome| match answer {
        Outcome::Sent(sent) => sent.position.as_ref().unwrap().offset,
        Outcome::Refused(status) => panic!("{status:?}"),
    };
    answers.iter().map(offset).collect()
}

/// The reason and the code of a refusal.
fn told(status: &pb::Status) -> (String, Code) {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "chat.v1");
    (info.reason, Code::from(status.code))
}

#[tokio::test]
async fn messages_are_published_and_answered_in_the_order_in_which_they_were_sent() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    for frame in 0..50 {
        let first = frame * 40;
        caller.send((first..first + 40).map(numbered)).await;
    }
    let told = caller.answers(2_000).await;
    assert_eq!(offsets(&told), (1..=2_000).collect::<Vec<_>>());
    let log = chat.store.log();
    let (first, last) = (log.first().unwrap(), log.last().unwrap());
    assert_eq!(first.payload.body(), br#"{"n":0,"userId":"nancy"}"#);
    assert_eq!(last.payload.body(), br#"{"n":1999,"userId":"nancy"}"#);
}

#[tokio::test]
async fn a_refusal_comes_in_its_place_and_the_other_messages_are_published() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let keyed = |json| SendRequest {
        idempotency_key: "k1".into(),
        ..message(json)
    };
    caller
        .send([
            numbered(1),
            message("[]"),
            keyed("{}"),
            keyed(r#"{"a":1}"#),
            numbered(5),
            SendRequest::default(),
        ])
        .await;
    let answers = caller.answers(6).await.into_iter();
    let answers: Vec<_> = answers
        .map(|answer| match answer {
            Outcome::Sent(_) => ("sent".to_owned(), Code::Ok),
            Outcome::Refused(status) => told(&status),
        })
        .collect();
    let expected = [
        ("sent", Code::Ok),
        ("INVALID_ARGUMENT", Code::InvalidArgument),
        ("sent", Code::Ok),
        ("IDEMPOTENCY_KEY_REUSED", Code::AlreadyExists),
        ("sent", Code::Ok),
        ("INVALID_ARGUMENT", Code::InvalidArgument),
    ];
    assert_eq!(
        answers,
        expected.map(|(reason, code)| (reason.to_owned(), code))
    );
}

#[tokio::test]
async fn a_send_of_a_non_member_is_refused_in_its_place_and_others_are_published() {
    let chat = Chat::start().await;
    let send = |session: &str| SessionMessage {
        channel: "4".into(),
        user: "nancy".into(),
        session: session.into(),
        body_json: "{}".into(),
        ..SessionMessage::default()
    };
    let messages = vec![send("s1"), send("stranger"), send("s2")];
    let frame = v1::SendStreamRequest { messages };
    let requests = tokio_stream::once(frame);
    let mut answers = chat.sessions().await.send_stream(requests).await;
    let answers = answers.as_mut().unwrap().get_mut();
    let outcomes = answers.message().await.unwrap().unwrap().outcomes;
    let outcomes: Vec<_> = outcomes.into_iter().map(|it| it.outcome.unwrap()).collect();
    let [
        v1::send_outcome::Outcome::Sent(first),
        v1::send_outcome::Outcome::Refused(refused),
        v1::send_outcome::Outcome::Sent(last),
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!((first.offset, last.offset), (1, 2));
    assert_eq!(
        told(refused),
        ("NOT_MEMBER".to_owned(), Code::FailedPrecondition)
    );
    let log = chat.store.log();
    assert_eq!(log[0].session.as_ref().unwrap().as_str(), "s1");
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_unknown_outcome_ends_the_stream_without_further_answers() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send([numbered(1)]).await;
    caller.answers(1).await;

    chat.store.close_gate();
    chat.store.lose_bodies_with("lost");
    caller.send([message(r#"{"lost":true}"#)]).await;
    chat.store.has_seen(2).await;
    caller.send([to("other", 3)]).await;
    chat.store.has_seen(3).await;
    chat.store.open_gate(2);
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
}

/// The message with this number, in a channel that the test chooses, with a key.
fn to(channel: &str, number: u64) -> SendRequest {
    SendRequest {
        channel: channel.into(),
        idempotency_key: number.to_string(),
        ..numbered(number)
    }
}

/// The numbers of the messages in the log of a channel.
fn log_of(chat: &Chat, channel: &str) -> Vec<String> {
    let log = chat.store.log().into_iter();
    let log = log.filter(|publish| publish.channel.as_str() == channel);
    log.map(|publish| publish.key.unwrap().to_string())
        .collect()
}

#[tokio::test]
async fn no_message_goes_to_the_store_before_earlier_ones_of_its_channel_are_answered() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    caller.send([to("a", 1)]).await;
    chat.store.has_seen(1).await;
    // A message of another channel goes on. Messages after one that has to wait do not, because answers stay in order.
    caller.send([to("b", 2), to("a", 3), to("c", 4)]).await;
    chat.store.has_seen(2).await;
    chat.let_run().await;
    assert_eq!(*chat.store.batch_sizes.lock(), [1, 1]);
    chat.store.open_gate(1);
    caller.answers(1).await;
    chat.store.has_seen(3).await;
    assert_eq!(*chat.store.batch_sizes.lock(), [1, 1, 2]);
    chat.store.open_gate(2);
    assert_eq!(offsets(&caller.answers(3).await), [2, 3, 4]);
}

#[tokio::test]
async fn a_batch_has_at_most_one_call_for_each_channel() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let large = |number| {
        let content = message(&large).content;
        SendRequest {
            content,
            ..to("large", number)
        }
    };
    let small = (1..=65).map(|number| to("small", number));
    let large = (66..=68).map(large);
    caller.send(small.chain(large)).await;
    caller.answers(68).await;
    assert_eq!(*chat.store.batch_sizes.lock(), [64, 3, 1]);
}

#[tokio::test]
async fn a_message_that_is_refused_for_a_moment_is_not_overtaken_in_its_channel() {
    for (error, name, answered) in [
        (
            StoreError::Unavailable("refused".into()),
            "STORE_UNAVAILABLE",
            0,
        ),
        (StoreError::Full, "STORE_FULL", 1),
    ] {
        let chat = Chat::start().await;
        let mut client = chat.client().await;
        let mut caller = Caller::open(&mut client).await.unwrap();
        chat.store.close_gate();
        chat.store.refuse(1, error);
        caller.send([to("a", 1)]).await;
        chat.store.has_seen(1).await;
        caller.send([to("a", 2)]).await;
        chat.let_run().await;
        chat.store.open_gate(1_000);
        let told = caller.answers(answered).await;
        assert!(told.iter().all(|it| matches!(it, Outcome::Refused(_))));
        let status = caller.answers.message().await.unwrap_err();
        assert_eq!(reason(&status), name);
        assert_eq!(log_of(&chat, "a"), [] as [&str; 0]);
        // The answers of the first stream were lost, so everything is sent again.
        let mut again = Caller::open(&mut client).await.unwrap();
        again.send([to("a", 1), to("a", 2)]).await;
        again.answers(2).await;
        assert_eq!(log_of(&chat, "a"), ["1", "2"]);
    }
}

#[tokio::test]
async fn messages_that_a_full_store_refuses_together_are_answered_together() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.refuse(1, StoreError::Full);
    caller.send((1..=3).map(|number| to("a", number))).await;
    let told = caller.answers(3).await;
    assert!(told.iter().all(|it| matches!(it, Outcome::Refused(_))));
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(reason(&status), "STORE_FULL");
}

#[tokio::test]
async fn a_message_with_an_unknown_outcome_is_never_answered_as_refused() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.lose_bodies_with("lost");
    let lost = message(r#"{"lost":true}"#);
    caller.send([numbered(1), lost, numbered(3)]).await;
    let told = caller.answers(1).await;
    assert!(matches!(told[..], [Outcome::Sent(_)]), "{told:?}");
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_ends_the_stream() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    let began = Instant::now();
    caller.send([numbered(1)]).await;
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status), "DEADLINE_EXCEEDED");
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn without_a_store_a_stream_is_refused() {
    let chat = Chat::start().await;
    chat.store.fail(StoreError::Unavailable("gone".into()));
    let status = Caller::open(&mut chat.client().await).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
}

#[tokio::test]
async fn a_frame_with_too_many_messages_ends_the_stream_after_earlier_answers() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send((0..1_024).map(numbered)).await;
    caller.send((0..1_025).map(numbered)).await;
    caller.answers(1_024).await;
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(fields(&status), ["messages"]);
    assert_eq!(chat.store.log().len(), 1_024);
}

#[tokio::test]
async fn while_four_batches_are_unanswered_nothing_more_is_read() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    for batch in 1..=4 {
        let channel = format!("channel {batch}");
        caller.send([to(&channel, batch as u64)]).await;
        chat.store.has_seen(batch).await;
    }
    // These frames fill all buffers between the two ends.
    let text = "x".repeat(100_000);
    let (mut sent, mut taken) = (0, 0);
    loop {
        for _ in 0..100 {
            let large = message(&format!(r#"{{"text":"{text}"}}"#));
            caller.send([large]).await;
            sent += 1;
        }
        chat.let_run().await;
        let now = caller.frames_taken.load(Ordering::Relaxed);
        if now == taken {
            break;
        }
        taken = now;
    }
    assert_eq!(*chat.store.batches.borrow(), 4);
    assert!(taken < 100, "{taken} frames were read from the caller");

    chat.store.open_gate(100_000);
    let told = caller.answers(4 + usize::try_from(sent).unwrap()).await;
    assert!(
        (1..)
            .zip(offsets(&told))
            .all(|(expected, it)| it == expected)
    );
}

#[tokio::test]
async fn waiting_messages_go_to_the_store_in_batches_of_at_most_256() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let in_rooms = |number| to(&format!("room {}", number % 8), number);
    caller.send((0..1_000).map(in_rooms)).await;
    caller.answers(1_000).await;
    let batches = chat.store.batch_sizes.lock().clone();
    assert_eq!(batches, [256, 256, 256, 232]);
}

#[tokio::test]
async fn a_batch_has_at_most_about_a_mebibyte() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let text = "x".repeat(100_000);
    let large = |number: u64| SendRequest {
        channel: format!("room {number}"),
        ..message(&format!(r#"{{"text":"{text}"}}"#))
    };
    caller.send((0..22).map(large)).await;
    caller.answers(22).await;
    let batches = chat.store.batch_sizes.lock().clone();
    assert_eq!(batches, [11, 11]);
}

#[tokio::test]
async fn at_the_shutdown_messages_that_were_read_are_answered_before_the_end() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    caller.send([numbered(1), numbered(2)]).await;
    chat.store.has_seen(1).await;
    chat.shutdown.request();
    caller.send([numbered(3)]).await;
    chat.store.open_gate(10);
    let told = caller.answers(2).await;
    assert_eq!(offsets(&told), [1, 2]);
    assert!(caller.answers.message().await.unwrap().is_none());
    assert_eq!(chat.store.log().len(), 2);
    chat.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_ends_its_side_gets_all_answers_and_then_the_end() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send((0..300).map(numbered)).await;
    let (requests, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut caller.requests, requests));
    caller.answers(300).await;
    assert!(caller.answers.message().await.unwrap().is_none());
}
