//! Letters between processes, in both stores.

use crate::conformance::conformance;
use crate::support::{Kind, Subject, eventually, incarnation};
use channel_store::{INBOX_BYTES, Inbox, Inboxes, Letter, Renewed};
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

conformance! {
    a_letter_reaches_the_process_it_names_and_no_other
    a_letter_to_nobody_says_so
    a_letter_has_the_time_of_the_server_that_holds_the_lease_of_its_receiver
    who_opens_an_inbox_last_gets_its_letters
    a_large_letter_comes_whole
}

const ONE: &str = "connector-1:aa";
const OTHER: &str = "chat:bb";
const LONG: Duration = Duration::from_secs(60);

async fn next(inbox: &mut Inbox) -> Letter {
    let letter = timeout(LONG, inbox.next()).await;
    letter.expect("in time").expect("it is open")
}

/// Returns when letters to this name arrive, and takes those that were sent for that.
async fn listening(inboxes: &dyn Inboxes, name: &str, inbox: &mut Inbox) {
    eventually("somebody listens", async || {
        inboxes.post(&incarnation(name), b"first").await == Ok(true)
    })
    .await;
    assert_eq!(next(inbox).await.content, b"first");
}

async fn a_letter_reaches_the_process_it_names_and_no_other(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (mine, theirs) = (subject.inboxes().await, subject.inboxes().await);
    let (mut one, mut other) = (mine.open(&incarnation(ONE)), mine.open(&incarnation(OTHER)));
    listening(&*theirs, ONE, &mut one).await;
    listening(&*theirs, OTHER, &mut other).await;
    for number in 0..100_u8 {
        let sent = theirs.post(&incarnation(ONE), &[number, b'\n', 0xff]).await;
        assert_eq!(sent, Ok(true));
    }
    for number in 0..100_u8 {
        assert_eq!(next(&mut one).await.content, [number, b'\n', 0xff]);
    }
    theirs.post(&incarnation(OTHER), b"last").await.unwrap();
    assert_eq!(next(&mut other).await.content, b"last");
}

async fn a_letter_to_nobody_says_so(kind: Kind) {
    let subject = Subject::new(kind).await;
    let inboxes = subject.inboxes().await;
    assert_eq!(inboxes.post(&incarnation(ONE), b"").await, Ok(false));
    let mut inbox = inboxes.open(&incarnation(ONE));
    listening(&*inboxes, ONE, &mut inbox).await;
    drop(inbox);
    // When another inbox is opened, those without a reader are given up.
    let _other = inboxes.open(&incarnation(OTHER));
    eventually("nobody listens", async || {
        inboxes.post(&incarnation(ONE), b"").await == Ok(false)
    })
    .await;
}

async fn a_letter_has_the_time_of_the_server_that_holds_the_lease_of_its_receiver(kind: Kind) {
    let subject = Subject::new(kind).await;
    let inboxes = subject.inboxes().await;
    let mut inbox = inboxes.open(&incarnation(ONE));
    listening(&*inboxes, ONE, &mut inbox).await;
    let now = async || {
        let lease = Duration::from_secs(10);
        let renewed = subject.leases.renew(&incarnation(ONE), lease).await;
        match renewed.unwrap() {
            Renewed::Live(term) | Renewed::Lost(term) => term.until - 10_000,
            Renewed::Dead => panic!("it is alive"),
        }
    };
    let before = now().await;
    inboxes.post(&incarnation(ONE), b"").await.unwrap();
    let letter = next(&mut inbox).await;
    assert!(before <= letter.sent && letter.sent <= now().await);
}

async fn who_opens_an_inbox_last_gets_its_letters(kind: Kind) {
    let subject = Subject::new(kind).await;
    let inboxes = subject.inboxes().await;
    let mut former = inboxes.open(&incarnation(ONE));
    listening(&*inboxes, ONE, &mut former).await;
    let mut latter = inboxes.open(&incarnation(ONE));
    inboxes.post(&incarnation(ONE), b"second").await.unwrap();
    assert_eq!(next(&mut latter).await.content, b"second");
    assert_eq!(former.next().await, None, "it has ended");
}

async fn a_large_letter_comes_whole(kind: Kind) {
    let subject = Subject::new(kind).await;
    let inboxes = subject.inboxes().await;
    let mut inbox = inboxes.open(&incarnation(ONE));
    listening(&*inboxes, ONE, &mut inbox).await;
    let content: Vec<u8> = (0..INBOX_BYTES / 16).map(|n| n as u8).collect();
    inboxes.post(&incarnation(ONE), &content).await.unwrap();
    assert!(next(&mut inbox).await.content == content);
}
