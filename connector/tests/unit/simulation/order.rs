//! The log has the messages of one client in a channel in the order in which they were sent, even if the store refuses
//! calls for a moment. Connector and chat are real. The network to the store carries one call after the other.
//!
//! The seed decides everything: the same seed gives the same run.

use super::network::{Link, pause};
use super::process::ChatProcess;
use crate::chat_client::{CALL, Chat, Outcome, Source, Window};
use crate::testing::seeds::in_parallel;
use channel_store::memory::MemoryStore;
use channel_store::{ChannelName, ChannelStore, HistoryRange, StoreError, StoreOptions};
use parking_lot::Mutex;
use proto::connector::v1::SessionMessage;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

const CHANNELS: [&str; 2] = ["lobby", "room"];
const SENDERS: usize = 3;
/// The number of messages of one sender.
const MESSAGES: usize = 60;
/// The largest body. With this size, about ten messages fit into one call.
const BYTES: usize = 20_000;
/// With each of these seeds, a message was stored after a later one of its sender when chat still made calls for a
/// channel while an earlier call was unanswered.
const FORMER_FAILURES: [u64; 5] = [13, 48, 59, 88, 90];

/// The numbers of the acknowledged messages, by sender and channel, in the order of the answers.
type Acknowledged = Arc<Mutex<HashMap<(usize, &'static str), Vec<usize>>>>;

#[derive(Debug, Default)]
struct Summary {
    sent: usize,
    refused: usize,
    unknown: usize,
}

/// Sends all messages as fast as the window allows, and waits until all are answered.
async fn send_all(chat: Arc<Chat>, sender: usize, acknowledged: Acknowledged) -> Summary {
    let window = Arc::<Window>::default();
    let summary = Arc::<Mutex<Summary>>::default();
    for number in 0..MESSAGES {
        let channel = CHANNELS[fastrand::usize(..CHANNELS.len())];
        let padding = "x".repeat(fastrand::usize(..BYTES));
        let body = format!(r#"{{"sender":{sender},"number":{number},"padding":"{padding}"}}"#);
        let request = SessionMessage {
            channel: channel.into(),
            user: format!("user {sender}"),
            body_json: body.into(),
            idempotency_key: number.to_string(),
            ..SessionMessage::default()
        };
        window.room().await;
        let (told, sum) = (Arc::clone(&acknowledged), Arc::clone(&summary));
        chat.send(&window, request, Instant::now() + CALL, move |outcome| {
            let mut sum = sum.lock();
            match outcome {
                Outcome::Sent(_) => {
                    sum.sent += 1;
                    let mut told = told.lock();
                    told.entry((sender, channel)).or_default().push(number);
                }
                Outcome::Refused(_) => sum.refused += 1,
                Outcome::Unknown | Outcome::Unsent => sum.unknown += 1,
            }
        });
        if fastrand::u8(..10) == 0 {
            pause(100).await;
        }
    }
    window.settled().await;
    std::mem::take(&mut *summary.lock())
}

/// Lets the store refuse calls for one channel for a moment, again and again.
async fn refuse(link: Arc<Link>, error: StoreError) {
    loop {
        pause(300).await;
        let channel = CHANNELS[fastrand::usize(..CHANNELS.len())];
        link.refuse(channel, Some(error.clone()));
        pause(60).await;
        link.refuse(channel, None);
    }
}

/// The numbers of the messages in a channel's log, by sender.
async fn logged(store: &MemoryStore, channel: &str) -> HashMap<usize, Vec<usize>> {
    let channel = ChannelName::new(channel).unwrap();
    let mut numbers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut range = HistoryRange::Oldest;
    loop {
        let page = store.history(&channel, &range, 1_000).await.unwrap();
        for entry in &page.entries {
            let body: serde_json::Value = serde_json::from_slice(entry.payload.body()).unwrap();
            let number = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
            let sender = number("sender");
            numbers.entry(sender).or_default().push(number("number"));
        }
        match page.entries.last() {
            Some(last) if page.more => range = HistoryRange::After(last.position.clone()),
            _ => return numbers,
        }
    }
}

async fn run(error: StoreError) -> Result<Summary, String> {
    let store = MemoryStore::new(StoreOptions {
        log_entries: 10_000,
        ..StoreOptions::default()
    });
    let process = ChatProcess::start(&store, 0, &Arc::default(), &Arc::default());
    let (link, service) = (Arc::clone(&process.link), process.service.clone());
    let chat = Chat::new(Source::InProcess(
        Link::new(0, &Arc::default()).to_chat(move || service.clone()),
    ));
    chat.available().wait_for(|up| *up).await.unwrap();
    let refusing = AbortOnDropHandle::new(tokio::spawn(refuse(link, error)));
    let acknowledged = Acknowledged::default();
    let tasks: Vec<_> = (0..SENDERS)
        .map(|sender| {
            tokio::spawn(send_all(
                Arc::clone(&chat),
                sender,
                Arc::clone(&acknowledged),
            ))
        })
        .collect();
    let mut summary = Summary::default();
    for task in tasks {
        let Summary {
            sent,
            refused,
            unknown,
        } = task.await.unwrap();
        summary.sent += sent;
        summary.refused += refused;
        summary.unknown += unknown;
    }
    drop(refusing);
    // A message whose caller was told that the outcome is unknown may still be under way.
    sleep(Duration::from_secs(5)).await;
    let acknowledged = acknowledged.lock().clone();
    for channel in CHANNELS {
        let logged = logged(&store, channel).await;
        for sender in 0..SENDERS {
            let mut log = logged.get(&sender).cloned().unwrap_or_default();
            let told = acknowledged.get(&(sender, channel));
            let told = told.cloned().unwrap_or_default();
            // A message with an unknown outcome may be anywhere in the log.
            log.retain(|number| told.contains(number));
            if log != told || !told.is_sorted() {
                return Err(format!(
                    "{channel}: sender {sender} was told {told:?}, the log has {log:?}"
                ));
            }
        }
    }
    Ok(summary)
}

fn simulate(seed: u64) -> Result<Summary, String> {
    fastrand::seed(seed);
    let error = match seed % 2 {
        0 => StoreError::Unavailable("refused for a moment".into()),
        _ => StoreError::Full,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(error))
}

#[test]
fn in_a_hundred_histories_each_sender_keeps_its_order_in_each_channel() {
    let sum = Mutex::new(Summary::default());
    let failures = Mutex::new(BTreeMap::new());
    in_parallel(0..100, |seed| match simulate(seed) {
        Ok(Summary {
            sent,
            refused,
            unknown,
        }) => {
            let mut sum = sum.lock();
            sum.sent += sent;
            sum.refused += refused;
            sum.unknown += unknown;
        }
        Err(failure) => drop(failures.lock().insert(seed, failure)),
    });
    let (sum, failures) = (sum.into_inner(), failures.into_inner());
    println!("{sum:?}");
    let seeds: Vec<_> = failures.keys().collect();
    assert!(
        seeds.is_empty(),
        "{seeds:?}: {:?}",
        failures.first_key_value()
    );
    assert!(sum.refused > 0, "the store refused nothing");
    // Otherwise there would be too few messages whose order can be checked.
    assert!(sum.sent > 10 * sum.unknown, "{sum:?}");
}

#[test]
fn the_order_is_kept_with_the_seeds_that_failed_before() {
    for seed in FORMER_FAILURES {
        let simulated = simulate(seed);
        assert!(simulated.is_ok(), "seed {seed}: {simulated:?}");
    }
}
