//! The promises of SendStream: order, refusals in their place, an end when the order is lost, back pressure.

use crate::support::{Caller, Chat, fields, message, reason};
use channel_store::StoreError;
use proto::v1::numbered_answer::Answer;
use proto::v1::{NumberedSend, SendRequest, SendStreamRequest};
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use tonic::Code;

fn numbered(number: u64) -> (u64, SendRequest) {
    (number, message(&format!(r#"{{"n":{number}}}"#)))
}

/// Reads answers until there are so many.
async fn answers(caller: &mut Caller, count: usize) -> Vec<(u64, Answer)> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let frame = caller.answers.message().await.unwrap().unwrap();
        let frame = frame.answers.into_iter();
        answers.extend(frame.map(|answer| (answer.number, answer.answer.unwrap())));
    }
    assert_eq!(answers.len(), count);
    answers
}

#[tokio::test]
async fn messages_are_published_and_answered_in_the_order_given() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    for frame in 0..50 {
        let first = frame * 40;
        caller.send((first..first + 40).map(numbered)).await;
    }
    for (index, (number, answer)) in (0..).zip(answers(&mut caller, 2_000).await) {
        assert_eq!(number, index);
        let Answer::Sent(sent) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(sent.position.unwrap().offset, index + 1);
    }
    let log = chat.store.log();
    let (first, last) = (log.first().unwrap(), log.last().unwrap());
    assert_eq!(first.payload.body(), br#"{"n":0,"userId":"nancy"}"#);
    assert_eq!(last.payload.body(), br#"{"n":1999,"userId":"nancy"}"#);
}

#[tokio::test]
async fn a_refused_message_is_told_in_its_place_and_the_others_pass() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let stranger = SendRequest {
        session: "stranger".into(),
        ..message("{}")
    };
    let keyed = |json| SendRequest {
        idempotency_key: "k1".into(),
        ..message(json)
    };
    caller
        .send([
            numbered(1),
            (2, message("[]")),
            (3, stranger),
            (4, keyed("{}")),
            (5, keyed(r#"{"a":1}"#)),
            numbered(6),
        ])
        .await;
    let nothing = NumberedSend {
        number: 7,
        send: None,
    };
    let sends = vec![nothing];
    caller
        .requests
        .send(SendStreamRequest { sends })
        .await
        .unwrap();

    let told = answers(&mut caller, 7).await.into_iter();
    let told: Vec<_> = told
        .map(|(number, answer)| match answer {
            Answer::Sent(_) => (number, "sent".to_owned(), 0),
            Answer::Refused(refusal) => (number, refusal.reason, refusal.code),
        })
        .collect();
    let code = |code: Code| code as i32;
    let expected = [
        (1, "sent", 0),
        (2, "INVALID_ARGUMENT", code(Code::InvalidArgument)),
        (3, "NOT_MEMBER", code(Code::FailedPrecondition)),
        (4, "sent", 0),
        (5, "IDEMPOTENCY_KEY_REUSED", code(Code::AlreadyExists)),
        (6, "sent", 0),
        (7, "INVALID_ARGUMENT", code(Code::InvalidArgument)),
    ];
    assert_eq!(
        told,
        expected.map(|(number, reason, code)| (number, reason.to_owned(), code))
    );
}

#[tokio::test]
async fn an_unknown_outcome_ends_the_stream_and_nothing_after_it_is_answered() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send([numbered(1)]).await;
    answers(&mut caller, 1).await;

    chat.store.close_gate();
    chat.store.lose_bodies_with("lost");
    caller.send([(2, message(r#"{"lost":true}"#))]).await;
    chat.store.has_seen(2).await;
    caller.send([to("other", 3)]).await;
    chat.store.has_seen(3).await;
    chat.store.open_gate(2);
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
}

/// The message with this number, for a channel of the test's choice, with a key.
fn to(channel: &str, number: u64) -> (u64, SendRequest) {
    let (_, message) = numbered(number);
    let send = SendRequest {
        channel: channel.into(),
        idempotency_key: number.to_string(),
        ..message
    };
    (number, send)
}

/// What is in the log of a channel, by the numbers of the messages.
fn log_of(chat: &Chat, channel: &str) -> Vec<String> {
    let log = chat.store.log().into_iter();
    let log = log.filter(|publish| publish.channel.as_str() == channel);
    log.map(|publish| publish.key.unwrap().to_string())
        .collect()
}

#[tokio::test]
async fn nothing_goes_to_the_store_behind_an_unanswered_message_of_its_channel() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    caller.send([to("a", 1)]).await;
    chat.store.has_seen(1).await;
    // Another channel's message goes on, what comes after one that has to wait does not: answers stay in order.
    caller.send([to("b", 2), to("a", 3), to("c", 4)]).await;
    chat.store.has_seen(2).await;
    chat.has_had_its_turn().await;
    assert_eq!(*chat.store.batch_sizes.lock(), [1, 1]);
    chat.store.open_gate(1);
    answers(&mut caller, 1).await;
    chat.store.has_seen(3).await;
    assert_eq!(*chat.store.batch_sizes.lock(), [1, 1, 2]);
    chat.store.open_gate(2);
    let numbers = answers(&mut caller, 3).await;
    let numbers: Vec<_> = numbers.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [2, 3, 4]);
}

#[tokio::test]
async fn a_batch_holds_one_call_for_each_channel_at_most() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let large = |number| {
        let (number, send) = to("large", number);
        let content = message(&large).content;
        (number, SendRequest { content, ..send })
    };
    let small = (1..=65).map(|number| to("small", number));
    let large = (66..=68).map(large);
    caller.send(small.chain(large)).await;
    answers(&mut caller, 68).await;
    assert_eq!(*chat.store.batch_sizes.lock(), [64, 3, 1]);
}

#[tokio::test]
async fn what_is_refused_for_a_moment_is_overtaken_by_nothing_of_its_channel() {
    for (error, answered) in [
        (StoreError::Unavailable("refused".into()), 0),
        (StoreError::Full, 1),
    ] {
        let chat = Chat::start().await;
        let mut client = chat.client().await;
        let mut caller = Caller::open(&mut client).await.unwrap();
        chat.store.close_gate();
        chat.store.refuse(1, error.clone());
        caller.send([to("a", 1)]).await;
        chat.store.has_seen(1).await;
        caller.send([to("a", 2)]).await;
        chat.has_had_its_turn().await;
        chat.store.open_gate(1_000);
        let told = answers(&mut caller, answered).await;
        assert!(told.iter().all(|(_, it)| matches!(it, Answer::Refused(_))));
        let status = caller.answers.message().await.unwrap_err();
        assert_eq!(
            reason(&status),
            chat::Error::from(error).code_and_reason().1
        );
        assert_eq!(log_of(&chat, "a"), [] as [&str; 0]);
        // The answers of the first stream were lost, so everything is sent again.
        let mut again = Caller::open(&mut client).await.unwrap();
        again.send([to("a", 1), to("a", 2)]).await;
        answers(&mut again, 2).await;
        assert_eq!(log_of(&chat, "a"), ["1", "2"]);
    }
}

#[tokio::test]
async fn what_a_full_store_refuses_together_is_answered_together() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.refuse(1, StoreError::Full);
    caller.send((1..=3).map(|number| to("a", number))).await;
    let told = answers(&mut caller, 3).await;
    assert!(told.iter().all(|(_, it)| matches!(it, Answer::Refused(_))));
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(reason(&status), "STORE_FULL");
}

#[tokio::test]
async fn one_message_of_unknown_outcome_is_never_called_refused() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.lose_bodies_with("lost");
    let lost = (2, message(r#"{"lost":true}"#));
    caller.send([numbered(1), lost, numbered(3)]).await;
    let told = answers(&mut caller, 1).await;
    assert!(matches!(told[..], [(1, Answer::Sent(_))]), "{told:?}");
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
async fn without_a_store_no_stream_begins() {
    let chat = Chat::start().await;
    chat.store.fail(StoreError::Unavailable("gone".into()));
    let status = Caller::open(&mut chat.client().await).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
}

#[tokio::test]
async fn a_frame_of_too_many_sends_ends_the_stream_after_the_answers_before_it() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send((0..1_024).map(numbered)).await;
    caller.send((0..1_025).map(numbered)).await;
    answers(&mut caller, 1_024).await;
    let status = caller.answers.message().await.unwrap_err();
    assert_eq!(fields(&status), ["sends"]);
    assert_eq!(chat.store.log().len(), 1_024);
}

#[tokio::test]
async fn while_four_batches_are_with_the_store_nothing_more_is_read() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    for batch in 1..=4 {
        let channel = format!("channel {batch}");
        caller.send([to(&channel, batch as u64)]).await;
        chat.store.has_seen(batch).await;
    }
    // Frames that fill whatever lies between the two ends.
    let text = "x".repeat(100_000);
    let (mut sent, mut taken) = (0, 0);
    loop {
        for _ in 0..100 {
            let large = message(&format!(r#"{{"text":"{text}"}}"#));
            caller.send([(5 + sent, large)]).await;
            sent += 1;
        }
        chat.has_had_its_turn().await;
        let now = caller.frames_taken.load(Ordering::Relaxed);
        if now == taken {
            break;
        }
        taken = now;
    }
    assert_eq!(*chat.store.batches.borrow(), 4);
    assert!(taken < 100, "{taken} frames were taken from the caller");

    chat.store.open_gate(100_000);
    let told = answers(&mut caller, 4 + usize::try_from(sent).unwrap()).await;
    assert!(
        (1..)
            .zip(told)
            .all(|(expected, (number, _))| number == expected)
    );
}

#[tokio::test]
async fn what_gathers_meanwhile_goes_in_batches_of_256_at_most() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let in_rooms = |number| to(&format!("room {}", number % 8), number);
    caller.send((0..1_000).map(in_rooms)).await;
    answers(&mut caller, 1_000).await;
    let batches = chat.store.batch_sizes.lock().clone();
    assert_eq!(batches, [256, 256, 256, 232]);
}

#[tokio::test]
async fn a_batch_holds_about_a_mebibyte_at_most() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    let text = "x".repeat(100_000);
    let large = |number| {
        let large = SendRequest {
            channel: format!("room {number}"),
            ..message(&format!(r#"{{"text":"{text}"}}"#))
        };
        (number, large)
    };
    caller.send((0..22).map(large)).await;
    answers(&mut caller, 22).await;
    let batches = chat.store.batch_sizes.lock().clone();
    assert_eq!(batches, [11, 11]);
}

#[tokio::test]
async fn at_the_shutdown_what_was_read_is_answered_and_the_stream_ends_well() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    chat.store.close_gate();
    caller.send([numbered(1), numbered(2)]).await;
    chat.store.has_seen(1).await;
    chat.shutdown.request();
    caller.send([numbered(3)]).await;
    chat.store.open_gate(10);
    let told = answers(&mut caller, 2).await;
    assert!(
        told.iter()
            .all(|(_, answer)| matches!(answer, Answer::Sent(_)))
    );
    assert!(caller.answers.message().await.unwrap().is_none());
    assert_eq!(chat.store.log().len(), 2);
    chat.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_says_no_more_gets_its_answers_and_the_end() {
    let chat = Chat::start().await;
    let mut caller = Caller::open(&mut chat.client().await).await.unwrap();
    caller.send((0..300).map(numbered)).await;
    let (requests, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut caller.requests, requests));
    answers(&mut caller, 300).await;
    assert!(caller.answers.message().await.unwrap().is_none());
}
