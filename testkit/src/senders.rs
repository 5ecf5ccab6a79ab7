//! Back ends that send under load, and the record of what was acknowledged to them.

use crate::SOON;
use crate::chat_api::ChatApi;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many messages a sender sends to one channel. Then it begins another channel.
const IN_ONE_CHANNEL: u64 = 40;

/// A message that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The channel's name.
    pub channel: String,
    /// The sender.
    pub user: String,
    /// Where the message is in the log.
    pub offset: u64,
    /// Which message of its sender it is, from 0.
    pub number: u64,
}

/// Senders that are at work until they are [stopped](Self::stop).
///
/// Each sends numbered messages one after the other, and repeats each with its key until any of the chats acknowledges it.
/// It begins a new channel now and then, so channels begin all the time.
pub struct Senders {
    stop: Arc<AtomicBool>,
    acknowledged: Record,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<Acknowledged>>>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Senders {
    /// Starts this many senders. The names of their channels begin with the prefix. Each pauses after each message, so that
    /// what reads along can keep up. `json` makes a message's body of its sender and its number.
    #[must_use]
    pub fn start(
        count: usize,
        apis: &[ChatApi],
        prefix: &str,
        pause: Duration,
        json: fn(&str, u64) -> String,
    ) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let acknowledged = Record::default();
        let tasks = (0..count).map(|n| {
            let (user, prefix) = (format!("s{n}"), prefix.to_owned());
            let (apis, stop, acknowledged) = (apis.to_vec(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut turn = 0;
                for number in 0.. {
                    let channel = format!("{prefix}{user}:{}", number / IN_ONE_CHANNEL);
                    let (json, key) = (json(&user, number), format!("k{number}"));
                    loop {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let sent = apis[turn % apis.len()].send(&channel, &user, &json, &key);
                        if let Ok(Ok(sent)) = tokio::time::timeout(SOON, sent).await {
                            let offset = sent.position.expect("a position").offset;
                            let user = user.clone();
                            acknowledged.lock().push(Acknowledged {
                                channel,
                                user,
                                offset,
                                number,
                            });
                            break;
                        }
                        turn += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    // A sleep of zero may take a millisecond.
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
            acknowledged,
        }
    }

    /// How many messages were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Stops the senders, and returns what was acknowledged. The last message of each sender may be in the log although it was
    /// not acknowledged.
    ///
    /// # Panics
    /// If a sender panicked.
    pub async fn stop(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a sender");
        }
        self.acknowledged.lock().clone()
    }
}
