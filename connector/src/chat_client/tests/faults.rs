//! Sends while streams break and chats die: they stay in order, keep their keys, and are answered in time.

use super::{Sender, chat_of, while_refusing};
use crate::testing::chat::Instance;
use crate::testing::{let_run, soon};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn after_a_break_all_unanswered_sends_are_repeated_in_order() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2", "3", "4"]);
    stream.take().await;
    stream.take().await;
    assert_eq!(stream.keys(2).await, ["3", "4"]);
    assert_eq!(sender.answers(2).await, ["1 sent", "2 sent"]);
    sender.send("5");
    stream.fail();
    let_run().await;
    sender.send("6");
    let mut stream = instance.stream().await;
    sender.send("7");
    for key in ["3", "4", "5", "6", "7"] {
        assert_eq!(stream.take().await, key);
        assert_eq!(sender.answer().await, format!("{key} sent"));
    }
    instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_break_an_ephemeral_message_that_was_written_is_not_sent_again() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send("1");
    sender.send_ephemeral("2");
    sender.send("3");
    assert_eq!(stream.keys(3).await, ["1", "2", "3"]);
    stream.fail();
    let_run().await;
    // This one was never written.
    sender.send_ephemeral("4");
    let mut stream = instance.stream().await;
    assert_eq!(sender.answer().await, "2 unknown");
    for key in ["1", "3", "4"] {
        assert_eq!(stream.take().await, key);
        assert_eq!(sender.answer().await, format!("{key} sent"));
    }
    instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn more_answers_than_sends_end_the_stream() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    assert_eq!([stream.take().await, stream.take().await], ["1", "2"]);
    assert_eq!(sender.answers(2).await, ["1 sent", "2 sent"]);
    stream.sent();
    let mut stream = instance.stream().await;
    sender.send("3");
    let_run().await;
    assert!(sender.has_no_answer());
    assert_eq!(stream.take().await, "3");
    assert_eq!(sender.answer().await, "3 sent");
}

#[tokio::test(start_paused = true)]
async fn if_a_chat_dies_its_sends_move_to_another_and_later_ones_return() {
    let (mut a, mut b) = (Instance::new(), Instance::new());
    let chat = chat_of(&[&a, &b]);
    let mut to_a = a.stream().await;
    let_run().await;
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    assert_eq!(to_a.keys(2).await, ["1", "2"]);
    let mut to_b = b.stream().await;
    let_run().await;
    let died = Instant::now();
    to_a.fail();
    let mut moved = while_refusing(&mut a, b.stream()).await;
    // The session stays with its line. Otherwise this send could overtake.
    sender.send("3");
    for key in ["1", "2", "3"] {
        assert_eq!(moved.take().await, key);
        assert_eq!(sender.answer().await, format!("{key} sent"));
    }
    assert!(died.elapsed() < Duration::from_millis(200));
    // Meanwhile other sessions use the chat that is up.
    let (mut left, mut right) = (Sender::new(&chat), Sender::new(&chat));
    left.send("l");
    right.send("r");
    assert_eq!([to_b.take().await, to_b.take().await], ["l", "r"]);
    assert_eq!(
        (left.answer().await, right.answer().await),
        ("l sent".into(), "r sent".into())
    );
    // The first chat is back and serves its channels again.
    let mut to_a = a.stream().await;
    moved.ended().await;
    let_run().await;
    let senders: Vec<_> = (0..16).map(|_| Sender::new(&chat)).collect();
    for (room, sender) in senders.iter().enumerate() {
        sender.send_to(&format!("room{room}"), "key", 2);
    }
    let mut taken = [0, 0];
    while taken[0] + taken[1] < senders.len() {
        tokio::select! {
            _ = to_a.take() => taken[0] += 1,
            _ = to_b.take() => taken[1] += 1,
        }
    }
    assert!(taken.iter().all(|taken| *taken > 0), "{taken:?}");
    b.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_takes_sends_and_never_answers_is_left_after_a_second() {
    let (mut a, mut b) = (Instance::new(), Instance::new());
    let chat = chat_of(&[&a, &b]);
    let mut to_a = a.stream().await;
    let_run().await;
    let mut sender = Sender::new(&chat);
    let started = Instant::now();
    sender.send_all(&["1", "2"]);
    assert_eq!(to_a.keys(2).await, ["1", "2"]);
    let _to_b = b.stream().await;
    let mut moved = b.stream().await;
    assert_eq!([moved.take().await, moved.take().await], ["1", "2"]);
    assert_eq!(sender.answers(2).await, ["1 sent", "2 sent"]);
    let after = started.elapsed();
    assert!((1_000..1_300).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_does_not_accept_a_stream_is_left_after_a_second() {
    let (mut a, mut b) = (Instance::new(), Instance::new());
    let chat = chat_of(&[&a, &b]);
    let mut to_a = a.stream().await;
    let_run().await;
    let mut sender = Sender::new(&chat);
    sender.send("1");
    to_a.keys(1).await;
    to_a.fail();
    let started = Instant::now();
    let _stuck = a.stream_call().await;
    let _to_b = b.stream().await;
    let mut moved = b.stream().await;
    assert_eq!(moved.take().await, "1");
    assert_eq!(sender.answer().await, "1 sent");
    assert!(started.elapsed() < Duration::from_millis(1_200));
}

#[tokio::test(start_paused = true)]
async fn without_any_answer_the_outcome_of_a_send_is_unknown_after_two_seconds() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let_run().await;
    let mut sender = Sender::new(&chat);
    let started = Instant::now();
    sender.send_all(&["1", "2"]);
    assert_eq!(stream.keys(2).await, ["1", "2"]);
    tokio::time::advance(Duration::from_millis(1_500)).await;
    sender.send("3");
    // The stream is ended when "1" has waited for a second, and again when the time of "1" is over.
    let mut stream = instance.stream().await;
    assert_eq!(stream.keys(3).await, ["1", "2", "3"]);
    assert_eq!(sender.answers(2).await, ["1 unknown", "2 unknown"]);
    let after = started.elapsed();
    assert!((1_900..=2_000).contains(&after.as_millis()), "{after:?}");
    let mut stream = instance.stream().await;
    assert_eq!(stream.take().await, "3");
    assert_eq!(sender.answer().await, "3 sent");
    // The next stream begins at once. The old one owes answers that come before the answer to "3".
    assert!(started.elapsed() < Duration::from_millis(2_300));
}

#[tokio::test(start_paused = true)]
async fn a_send_with_an_earlier_deadline_than_those_before_it_is_answered_in_time() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let_run().await;
    let (mut first, mut second) = (Sender::new(&chat), Sender::new(&chat));
    first.send("1");
    // This request was received a while ago, and had to wait for its turn.
    second.send_by("2", Instant::now() + Duration::from_millis(300));
    stream.next().await;
    stream.next().await;
    let started = Instant::now();
    assert_eq!(second.answer().await, "2 unknown");
    assert!((300..=400).contains(&started.elapsed().as_millis()));
    assert!(first.has_no_answer());
    // The stream still owes an answer to both.
    stream.sent();
    stream.sent();
    assert_eq!(first.answer().await, "1 sent");
    first.send("3");
    assert_eq!(stream.take().await, "3");
    assert_eq!(first.answer().await, "3 sent");
    assert!(second.has_no_answer());
}

#[tokio::test(start_paused = true)]
async fn after_a_full_store_ended_the_stream_later_sends_are_repeated_at_once() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let_run().await;
    let mut available = chat.available();
    available.borrow_and_update();
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    let started = Instant::now();
    for _ in 0..20 {
        // The answer was lost with the stream.
        assert_eq!(stream.keys(1).await, ["1"]);
        stream.full();
        stream = instance.stream().await;
    }
    assert!(started.elapsed() < Duration::from_millis(400));
    assert!(!available.has_changed().unwrap());
    stream.next().await;
    stream.refuse("STORE_FULL");
    let_run().await;
    stream.full();
    let mut stream = instance.stream().await;
    assert_eq!(stream.take().await, "2");
    let answers = ["1 refused STORE_FULL", "2 sent"];
    assert_eq!(sender.answers(2).await, answers);
}

#[tokio::test(start_paused = true)]
async fn while_no_chat_is_up_sends_wait_for_two_seconds() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut sender = Sender::new(&chat);
    let started = Instant::now();
    sender.send("1");
    let answer = sender.answer();
    assert_eq!(while_refusing(&mut instance, answer).await, "1 unsent");
    let after = started.elapsed();
    assert!((1_900..=2_000).contains(&after.as_millis()), "{after:?}");
    sender.send("2");
    let mut stream = instance.stream().await;
    assert_eq!(stream.take().await, "2");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_address_is_gone_ends_when_its_sends_are_answered() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let mut stream = instance.stream().await;
    let mut sender = Sender::new(&chat);
    sender.send("1");
    stream.next().await;
    chat.endpoints.read()[0].line.retire();
    let_run().await;
    sender.send("2");
    stream.refuse("NOT_MEMBER");
    assert_eq!(stream.take().await, "2");
    assert_eq!(sender.answers(2).await, ["1 refused NOT_MEMBER", "2 sent"]);
    stream.ended().await;
    instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_endpoint_whose_address_is_gone_ends_at_once() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let stream = instance.stream().await;
    let_run().await;
    chat.endpoints.read()[0].line.retire();
    stream.ended().await;
    let_run().await;
    // A session that chose this line before is answered, too.
    let mut sender = Sender::new(&chat);
    sender.send("1");
    assert_eq!(sender.answer().await, "1 unsent");
    soon(sender.window.settled()).await;
}
