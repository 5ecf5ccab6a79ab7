//! Ordered streams without faults, and their bounds.

use super::{Sender, chat_of, in_time};
use crate::testing::chat::Instance;
use crate::testing::{let_run, soon};
use futures_util::FutureExt;
use proto::connector::v1::SessionMessage;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[tokio::test(start_paused = true)]
async fn sends_are_answered_in_order() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2", "3"]);
    for key in ["1", "2", "3"] {
        assert_eq!(stream.take().await, key);
        assert_eq!(sender.answer().await, format!("{key} sent"));
    }
    soon(sender.window.settled()).await;
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_refusal_is_passed_on_and_other_sends_go_on() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    stream.next().await;
    stream.refuse("NOT_MEMBER");
    stream.take().await;
    assert_eq!(sender.answers(2).await, ["1 refused NOT_MEMBER", "2 sent"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_chat_while_it_has_unanswered_sends() {
    let (mut a, mut b) = (Instance::new(), Instance::new());
    let chat = chat_of(&[&a, &b]);
    let mut to_a = a.stream().await;
    let_run().await;
    let sender = Sender::new(&chat);
    // Only chat A is up.
    sender.send("1");
    assert_eq!(to_a.keys(1).await, ["1"]);
    let _to_b = b.stream().await;
    let_run().await;
    for key in ["2", "3", "4", "5"] {
        sender.send(key);
    }
    assert_eq!(to_a.keys(4).await, ["2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn all_senders_of_a_channel_use_one_chat_and_channels_are_spread() {
    let (mut a, mut b) = (Instance::new(), Instance::new());
    let chat = chat_of(&[&a, &b]);
    let (mut to_a, mut to_b) = (a.stream().await, b.stream().await);
    let_run().await;
    let mut met_at_a = 0;
    for room in 0..32 {
        let senders = [Sender::new(&chat), Sender::new(&chat)];
        for sender in &senders {
            sender.send_to(&format!("room{room}"), "key", 2);
        }
        tokio::select! {
            _ = to_a.keys(2) => met_at_a += 1,
            _ = to_b.keys(2) => {}
        }
    }
    assert!((4..=28).contains(&met_at_a), "{met_at_a} of 32");
}

#[tokio::test(start_paused = true)]
async fn a_session_has_room_for_64_unanswered_sends() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let sender = Sender::new(&chat);
    for n in 0..63 {
        sender.send(&n.to_string());
    }
    soon(sender.window.room()).await;
    sender.send("63");
    tokio::select! {
        biased;
        () = sender.window.room() => panic!("there is room for 64"),
        () = let_run() => {}
    }
    tokio::join!(soon(sender.window.room()), stream.take());
}

#[tokio::test(start_paused = true)]
async fn a_session_has_room_for_256_kilobytes_of_unanswered_sends() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let sender = Sender::new(&chat);
    sender.send_sized("1", 128 << 10);
    soon(sender.window.room()).await;
    sender.send_sized("2", 128 << 10);
    tokio::select! {
        biased;
        () = sender.window.room() => panic!("there is room for more"),
        () = let_run() => {}
    }
    tokio::join!(soon(sender.window.room()), stream.take());
}

#[tokio::test(start_paused = true)]
async fn the_session_is_settled_when_the_last_answer_has_been_given() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    stream.take().await;
    tokio::select! {
        biased;
        () = sender.window.settled() => panic!("one send is unanswered"),
        () = let_run() => {}
    }
    tokio::join!(soon(sender.window.settled()), stream.take());
    assert!(!sender.has_no_answer());
    // A command that waits for the window must find the outcome given.
    let window = Arc::clone(&sender.window);
    let (given, when_given) = oneshot::channel();
    chat.send(
        &sender.window,
        SessionMessage::default(),
        in_time(),
        move |_| {
            let _ = given.send(window.settled().now_or_never().is_some());
        },
    );
    stream.take().await;
    assert!(
        !soon(when_given).await.unwrap(),
        "the window was settled too early"
    );
}

#[tokio::test(start_paused = true)]
async fn frames_stay_below_the_limit_of_chat() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let senders: Vec<_> = (0..700).map(|_| Sender::new(&chat)).collect();
    for (n, sender) in senders.iter().enumerate() {
        sender.send_sized(&n.to_string(), if n < 60 { 128 << 10 } else { 2 });
    }
    let mut next = 0;
    while next < senders.len() {
        let frame = stream.frame().await.unwrap();
        let bytes: usize = frame.iter().map(prost::Message::encoded_len).sum();
        assert!(
            bytes < 2 << 20 && frame.len() <= 256,
            "{bytes} bytes, {} sends",
            frame.len()
        );
        for send in frame {
            assert_eq!(send.idempotency_key, next.to_string());
            next += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_send_that_does_not_fit_into_the_queue_is_refused_at_once() {
    let instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut senders: Vec<_> = (0..32).map(|_| Sender::new(&chat)).collect();
    for sender in &senders {
        sender.send_sized("1", (1 << 20) - 64);
    }
    senders[1].send_sized("2", 2);
    assert!(senders.iter_mut().all(Sender::has_no_answer), "32 MB fit");
    let started = Instant::now();
    senders[0].send_sized("2", 1 << 20);
    assert_eq!(senders[0].answer().await, "2 unsent");
    assert_eq!(started.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_any_chat_a_send_is_refused_at_once() {
    let mut sender = Sender::new(&chat_of(&[]));
    sender.send("1");
    assert_eq!(sender.answer().await, "1 unsent");
    soon(sender.window.settled()).await;
}

#[tokio::test(start_paused = true)]
async fn chat_is_available_while_a_stream_is_up() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut available = chat.available();
    let_run().await;
    assert!(!*available.borrow_and_update());
    let stream = instance.stream().await;
    soon(available.wait_for(|up| *up)).await.unwrap();
    stream.fail();
    soon(available.wait_for(|up| !*up)).await.unwrap();
    let _stream = instance.stream().await;
    soon(available.wait_for(|up| *up)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_that_chat_ends_is_opened_again_and_chat_stays_available() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let stream = instance.stream().await;
    let_run().await;
    let mut available = chat.available();
    assert!(*available.borrow_and_update());
    let details = ErrorDetails::with_error_info("STREAM_IDLE", "chat.v1", []);
    let began = Instant::now();
    stream.end(Status::with_error_details(Code::Unavailable, "", details));
    let mut stream = instance.stream().await;
    let_run().await;
    assert!(began.elapsed().as_millis() < 20);
    assert!(
        !available.has_changed().unwrap(),
        "chat was not available in between"
    );
    let mut sender = Sender::new(&chat);
    sender.send("1");
    stream.take().await;
    assert_eq!(sender.answer().await, "1 sent");
}

#[tokio::test(start_paused = true)]
async fn the_reason_why_chat_is_not_available_is_reported() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    assert_eq!(chat.troubles().as_deref(), Some("0: no answer yet"));
    let call = instance.stream_call().await;
    call.answer(Err(Status::unavailable("not today")));
    let_run().await;
    assert_eq!(chat.troubles().as_deref(), Some("0: not today"));
}
