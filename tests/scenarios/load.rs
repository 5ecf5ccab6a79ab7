//! Senders that keep requests under way, and checks of what the members of their channel have seen.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testkit::SOON;
use testkit::link::Link;
use testkit::pomelo::{Client, Reply, SEND, SENT, heard};
use testkit::system::System;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A request on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) id: u64,
    /// The sender's own number for the message.
    pub(crate) number: usize,
    pub(crate) since: Instant,
}

/// A logged-in client that sends `{"n":0}`, `{"n":1}` …, with a window of unanswered requests.
struct Sender {
    user: String,
    client: Client,
    sent: Mutex<Vec<Request>>,
}

impl Sender {
    async fn run(&self, window: usize, limit: usize, stop: &AtomicBool) {
        // The reply to the login comes before those that are counted here.
        let before = self.client.inbox().read().replies.len();
        for number in 0..limit {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let since = Instant::now();
            let id = self
                .client
                .start(SEND, &format!(r#"{{"n":{number}}}"#))
                .await;
            let request = Request { id, number, since };
            self.sent().push(request);
            self.answered(before + (number + 1).saturating_sub(window))
                .await;
        }
        let all = before + self.sent().len();
        self.answered(all).await;
    }

    async fn answered(&self, count: usize) {
        let inbox = self.client.inbox();
        let answered = inbox.until(SOON, |received| {
            (received.replies.len() >= count).then_some(())
        });
        if answered.await.is_none() {
            // Not in one expression, because each call takes the same lock.
            let replies = inbox.read().replies.len();
            let ended = self.client.ended();
            panic!(
                "{}: {replies} of {count} requests are answered; the connection: {ended:?}",
                self.user
            );
        }
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unanswered(&self) -> Vec<Request> {
        let received = self.client.inbox().read();
        let sent = self.sent();
        let open = sent.iter().filter(|r| received.reply(r.id).is_none());
        open.copied().collect()
    }

    fn acknowledged(&self) -> usize {
        let received = self.client.inbox().read();
        let replies = received.replies.iter();
        replies.filter(|r| r.body == SENT.as_bytes()).count()
    }
}

/// Running senders.
pub(crate) struct Load {
    senders: Vec<Arc<Sender>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Lets each client send up to `limit` messages with at most `window` of them unanswered.
    pub(crate) fn start(clients: Vec<(String, Client)>, window: usize, limit: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = clients
            .into_iter()
            .map(|(user, client)| {
                Arc::new(Sender {
                    user,
                    client,
                    sent: Mutex::default(),
                })
            })
            .collect();
        let mut tasks = JoinSet::new();
        for sender in &senders {
            let (sender, stop) = (Arc::clone(sender), Arc::clone(&stop));
            tasks.spawn(async move { sender.run(window, limit, &stop).await });
        }
        Self {
            senders,
            stop,
            tasks,
        }
    }

    /// How many messages of each sender are acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<usize> {
        self.senders.iter().map(|s| s.acknowledged()).collect()
    }

    /// How many requests were answered with an error.
    pub(crate) fn refused(&self) -> usize {
        let unanswered: usize = self.unanswered().iter().map(Vec::len).sum();
        let sent: usize = self.senders.iter().map(|s| s.sent().len()).sum();
        sent.saturating_sub(unanswered + self.acknowledged().iter().sum::<usize>())
    }

    /// Waits until each sender has `more` further messages acknowledged.
    pub(crate) async fn until_each_acknowledged(&self, more: usize) {
        let begin = self.acknowledged();
        testkit::wait::eventually("every sender goes on", SOON, async || {
            let now = self.acknowledged();
            begin
                .iter()
                .zip(now)
                .all(|(begin, now)| now >= begin + more)
        })
        .await;
    }

    /// The unanswered requests of each sender.
    pub(crate) fn unanswered(&self) -> Vec<Vec<Request>> {
        self.senders.iter().map(|s| s.unanswered()).collect()
    }

    /// The answer to a sender's request, if it has come.
    pub(crate) fn answer(&self, sender: usize, id: u64) -> Option<String> {
        let received = self.senders[sender].client.inbox().read();
        received.reply(id).map(Reply::text)
    }

    /// Waits until the senders have sent all their messages, or stops them, and waits for the missing answers.
    pub(crate) async fn finish(mut self, stop: bool) -> Outcome {
        self.stop.store(stop, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a sender runs to its end");
        }
        let mut outcome = Outcome::default();
        for sender in &self.senders {
            let received = sender.client.inbox().read();
            for request in sender.sent().iter() {
                let reply = received.reply(request.id).expect("all are answered");
                outcome.slowest = outcome.slowest.max(reply.at - request.since);
                if reply.body == SENT.as_bytes() {
                    outcome
                        .acknowledged
                        .push((sender.user.clone(), request.number));
                } else {
                    outcome.failed.push((reply.text(), request.number));
                }
            }
        }
        outcome.senders = self.senders;
        outcome
    }
}

/// The result of a load.
#[derive(Default)]
pub(crate) struct Outcome {
    senders: Vec<Arc<Sender>>,
    /// The acknowledged messages: the sender, and the sender's own number for the message.
    pub(crate) acknowledged: Vec<(String, usize)>,
    /// The answers to the other messages, with the sender's number for each.
    pub(crate) failed: Vec<(String, usize)>,
    /// The longest time to an answer.
    pub(crate) slowest: Duration,
}

impl Outcome {
    /// Checks that all members have seen the same sequence, that it has every acknowledged message once and each
    /// sender's messages in order, and that everybody is still connected. Senders are members, too.
    pub(crate) async fn was_seen_by(&self, members: &[Client]) {
        let clients = self.senders.iter().map(|sender| &sender.client);
        let clients: Vec<&Client> = clients.chain(members).collect();
        // This message comes after all others.
        assert_eq!(clients[0].say("the end").await, SENT);
        let end = heard(&self.senders[0].user, "the end");
        for client in &clients {
            client.until_push(&end).await;
            assert_eq!(Link::ended(client), None, "a member was disconnected");
        }

        let sequence = messages(clients[0]);
        for (index, client) in clients.iter().enumerate().skip(1) {
            assert_same(&sequence, &messages(client), index);
        }

        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for body in &sequence[..sequence.len() - 1] {
            let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            let user = body["userId"].as_str().expect("a sender").to_owned();
            let number = body["n"].as_u64().and_then(|n| usize::try_from(n).ok());
            let number = number.expect("a number");
            let before = last.insert(user.clone(), number);
            assert!(
                before.is_none_or(|before| before < number),
                "{user}'s {number} came after its {before:?}"
            );
            assert!(seen.insert((user, number)), "seen twice: {body}");
        }
        for message in &self.acknowledged {
            assert!(seen.contains(message), "acknowledged and lost: {message:?}");
        }
    }
}

/// Members of the room that will send, half of them on each connector.
pub(crate) async fn senders(system: &System, count: usize) -> Vec<(String, Client)> {
    let mut senders = Vec::new();
    for number in 0..count {
        let user = format!("sender{number}");
        let client = system.member(number % 2, &user, "room").await;
        senders.push((user, client));
    }
    senders
}

/// Members of the room that only listen, half of them on each connector.
pub(crate) async fn listeners(system: &System, count: usize) -> Vec<Client> {
    let mut listeners = Vec::new();
    for number in 0..count {
        let user = format!("listener{number}");
        listeners.push(system.member(number % 2, &user, "room").await);
    }
    listeners
}

/// The bodies of all messages, in the order in which they came.
fn messages(client: &Client) -> Vec<Bytes> {
    let received = client.inbox().read();
    let pushes = received.pushes.iter();
    let messages = pushes.filter(|push| push.route == "onMessage".as_bytes());
    messages.map(|push| push.body.clone()).collect()
}

fn assert_same(first: &[Bytes], other: &[Bytes], index: usize) {
    if first == other {
        return;
    }
    let place = first.iter().zip(other).position(|(a, b)| a != b);
    panic!(
        "members 0 and {index} differ: {} and {} messages, first at {place:?}: {:?} and {:?}",
        first.len(),
        other.len(),
        place.map(|place| &first[place]),
        place.map(|place| &other[place]),
    );
}
