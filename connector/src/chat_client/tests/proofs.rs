//! Which chats are used: those that were seen to publish where the connector listens.

use super::super::proof::{OwnSettings, Prover};
use super::super::resolver::start;
use super::{Chat, Sender};
use crate::testing::chat::{Called, Instance};
use crate::testing::soon;
use async_trait::async_trait;
use channel_store::probe::{ProbeFeed, ProbeFound, ProbePoint, SLOTS};
use channel_store::{Position, Shard};
use parking_lot::Mutex;
use proto::connector::v1::probe_result::Outcome;
use proto::connector::v1::{ProbeResponse, ProbeResult, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Status;

/// A channel on a shard that is away. Chat ends each stream that brings a send to it.
const AWAY: &str = "shard-2";

/// The connector's own Redis. It hears every probe that a chat says it has written at `lifetime`.
struct Ear {
    lifetime: &'static str,
}

#[async_trait]
impl ProbeFeed for Ear {
    fn points(&self) -> Vec<ProbePoint> {
        vec![ProbePoint {
            set: 7,
            slots: SLOTS,
            server: "redis-a".into(),
            lifetime: self.lifetime.into(),
        }]
    }

    async fn find_probe(&self, set: u64, _: u64, position: &Position) -> ProbeFound {
        assert_eq!(set, 7);
        if position.epoch.as_str() == self.lifetime {
            ProbeFound::Yes
        } else {
            ProbeFound::No { heard: false }
        }
    }

    fn prefix(&self) -> &'static str {
        "gc"
    }

    fn database(&self) -> i64 {
        0
    }

    fn shard(&self, channel: &str) -> Shard {
        let number = channel.strip_prefix("shard-").map(str::parse);
        number.map_or_else(Shard::default, |number| Shard::new(number.unwrap()))
    }
}

/// What a chat does with probes.
#[derive(Clone)]
enum Manner {
    Writes(&'static str),
    Refuses(&'static str),
    Hangs,
    Unanswered,
    HasPrefix(&'static str),
    HasLease(u64),
    HasLogLife(u64),
    HasMessageLimit(u64),
}

fn length(milliseconds: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(milliseconds).try_into().ok()
}

impl Manner {
    fn answer(&self) -> Result<ProbeResponse, Status> {
        let mut settings = Settings {
            prefix: "gc".into(),
            lease: length(10_000),
            ..Settings::default()
        };
        let written = |epoch: &str| {
            Outcome::Written(proto::chat::v1::Position {
                epoch: epoch.into(),
                offset: 1,
            })
        };
        let (outcome, lifetime) = match self {
            Self::Writes(lifetime) => (written(lifetime), *lifetime),
            Self::Refuses(words) => (Outcome::Refused((*words).into()), "a"),
            Self::Unanswered => (Outcome::Unanswered("slow".into()), "a"),
            Self::HasPrefix(prefix) => {
                settings.prefix = (*prefix).into();
                (written("other"), "a")
            }
            Self::HasLease(milliseconds) => {
                settings.lease = length(*milliseconds);
                (written("a"), "a")
            }
            Self::HasLogLife(milliseconds) => {
                settings.log_life = length(*milliseconds);
                (written("a"), "a")
            }
            Self::HasMessageLimit(bytes) => {
                settings.message_limit = *bytes;
                (written("a"), "a")
            }
            Self::Hangs => return Err(Status::deadline_exceeded("")),
        };
        Ok(ProbeResponse {
            results: vec![ProbeResult {
                outcome: Some(outcome),
                server: "redis-b".into(),
                lifetime: lifetime.into(),
            }],
            settings: Some(settings),
        })
    }
}

/// A chat that answers without the test's help.
struct Played {
    manner: Arc<Mutex<Manner>>,
    sends: Arc<Mutex<Vec<String>>>,
    instance: Mutex<Option<Instance>>,
}

impl Played {
    fn new(manner: Manner) -> Self {
        Self {
            manner: Arc::new(Mutex::new(manner)),
            sends: Arc::default(),
            instance: Mutex::new(Some(Instance::new())),
        }
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    fn start(&self) {
        let mut instance = self.instance.lock().take().unwrap();
        let (manner, sends) = (self.manner.clone(), self.sends.clone());
        tokio::spawn(async move {
            loop {
                match instance.next().await {
                    Called::Probe(call) => {
                        let manner = manner.lock().clone();
                        if matches!(manner, Manner::Hangs) {
                            std::mem::forget(call);
                        } else {
                            drop(call.answer(manner.answer()));
                        }
                    }
                    Called::Stream(call) => {
                        let (mut stream, sends) = (call.accept(), sends.clone());
                        tokio::spawn(async move {
                            while let Some(frame) = stream.frame().await {
                                for request in frame {
                                    if request.channel == AWAY {
                                        return stream.end(Status::unavailable("away"));
                                    }
                                    let key = request.idempotency_key;
                                    sends.lock().push(key);
                                    stream.sent();
                                }
                            }
                        });
                    }
                    _ => panic!("nobody joins or looks here"),
                }
            }
        });
    }
}

fn proven_by(chats: &[&Played]) -> Arc<Chat> {
    let own = OwnSettings {
        lease: Duration::from_secs(10),
        touch: Duration::from_secs(60),
        message_limit: 1_000,
        ready_slots: 0.5,
    };
    let feed = Arc::new(Ear { lifetime: "a" });
    let chat = Chat::nowhere(Some(Arc::new(Prover { feed, own })));
    for (index, played) in chats.iter().enumerate() {
        let service = played.instance.lock().as_ref().unwrap().service.clone();
        let name = format!("chat-{index}");
        let endpoint = start(name.clone(), &name, service, &chat);
        chat.endpoints.write().push(endpoint);
        played.start();
    }
    chat
}

async fn available(chat: &Chat, expected: bool) {
    let mut available = chat.available();
    drop(
        soon(available.wait_for(|is| *is == expected))
            .await
            .unwrap(),
    );
}

async fn publishes(chat: &Chat, expected: bool) {
    let mut publishes = chat.publishes();
    drop(
        soon(publishes.wait_for(|is| *is == expected))
            .await
            .unwrap(),
    );
}

#[tokio::test(start_paused = true)]
async fn a_chat_on_another_redis_is_sent_nothing_and_the_other_one_everything() {
    let (right, wrong) = (
        Played::new(Manner::Writes("a")),
        Played::new(Manner::Writes("b")),
    );
    let chat = proven_by(&[&right, &wrong]);
    available(&chat, true).await;
    publishes(&chat, true).await;
    let mut sender = Sender::new(&chat);
    for number in 0..50 {
        // Each send goes to another channel. Half of them would go to the wrong chat.
        sender.send_to(&format!("room-{number}"), &number.to_string(), 2);
        assert_eq!(sender.answer().await, format!("{number} sent"));
    }
    assert_eq!(right.sends.lock().len(), 50);
    assert!(wrong.sends.lock().is_empty());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        chat.troubles().as_deref(),
        Some("chat-1: it uses another Redis (redis-b; this connector: redis-a)")
    );
    wrong.becomes(Manner::Writes("a"));
    soon(async {
        while chat.troubles().is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_comes_to_write_elsewhere_is_left_at_the_second_look() {
    let only = Played::new(Manner::Writes("a"));
    let chat = proven_by(&[&only]);
    available(&chat, true).await;
    only.becomes(Manner::Writes("b"));
    let began = tokio::time::Instant::now();
    available(&chat, false).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "it was looked at twice"
    );
    let mut sender = Sender::new(&chat);
    sender.send("lost");
    assert_eq!(sender.answer().await, "lost unsent");
    assert!(only.sends.lock().is_empty());
    only.becomes(Manner::Writes("a"));
    available(&chat, true).await;
    sender.send("kept");
    assert_eq!(sender.answer().await, "kept sent");
}

#[tokio::test(start_paused = true)]
async fn settings_that_contradict_a_chats_keep_it_away_and_say_so() {
    for (manner, words) in [
        (
            Manner::HasPrefix("other"),
            "the prefix \"other\" (this connector: \"gc\")",
        ),
        (
            Manner::HasLease(1_000),
            "its --lease is 1s, shorter than that of this connector, 10s",
        ),
    ] {
        let chat = proven_by(&[&Played::new(manner)]);
        soon(async {
            while !chat.troubles().is_some_and(|told| told.contains(words)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert!(!*chat.available().borrow());
    }
}

/// With too few touches, logs end while they have members. With too low a limit, chat refuses what clients may send.
/// Both do harm only some day, so such a chat is used, and the operator is told.
#[tokio::test(start_paused = true)]
async fn settings_that_go_badly_with_a_chats_are_told_and_it_is_used_all_the_same() {
    let touched_seldom =
        "chat-0: its logs live for 179.999s, and --touch 60s is more than a third of that";
    let limited = "chat-0: its --message-limit is 999, that of this connector 1000";
    for (manner, told) in [
        (Manner::HasLogLife(179_999), Some(touched_seldom)),
        (Manner::HasLogLife(180_000), None),
        (Manner::HasMessageLimit(999), Some(limited)),
        (Manner::HasMessageLimit(1_000), None),
        // A chat that does not tell its settings.
        (Manner::Writes("a"), None),
    ] {
        let chat = proven_by(&[&Played::new(manner)]);
        available(&chat, true).await;
        assert_eq!(chat.troubles().as_deref(), told);
        let mut sender = Sender::new(&chat);
        sender.send("used");
        assert_eq!(sender.answer().await, "used sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_whose_store_refuses_is_used_if_none_is_better_and_does_not_publish() {
    let (first, second) = (
        Played::new(Manner::Writes("a")),
        Played::new(Manner::Writes("a")),
    );
    let chat = proven_by(&[&first, &second]);
    publishes(&chat, true).await;
    first.becomes(Manner::Refuses("it is full"));
    second.becomes(Manner::Refuses("it is full"));
    publishes(&chat, false).await;
    assert!(
        chat.refusals()
            .unwrap()
            .contains("chat-0: redis-a: it is full")
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(*chat.available().borrow(), "they say why they refuse");

    second.becomes(Manner::Writes("a"));
    publishes(&chat, true).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(chat.troubles().unwrap().starts_with("chat-0: "));
    let mut sender = Sender::new(&chat);
    for number in 0..20 {
        sender.send_to(&format!("room-{number}"), &number.to_string(), 2);
        assert_eq!(sender.answer().await, format!("{number} sent"));
    }
    assert!(first.sends.lock().is_empty(), "the other one is better");
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_slow_stays_what_it_was() {
    let only = Played::new(Manner::Writes("a"));
    let chat = proven_by(&[&only]);
    publishes(&chat, true).await;
    for manner in [Manner::Unanswered, Manner::Hangs] {
        only.becomes(manner);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(*chat.available().borrow() && *chat.publishes().borrow());
    }
    // A chat that was never seen to publish is not used.
    let never = Played::new(Manner::Unanswered);
    let chat = proven_by(&[&never]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!*chat.available().borrow());
    assert_eq!(
        chat.troubles().as_deref(),
        Some("chat-0: its Redis does not answer")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_to_a_shard_that_is_away_holds_up_no_send_to_another() {
    let played = Played::new(Manner::Writes("a"));
    let chat = proven_by(&[&played]);
    available(&chat, true).await;
    let (mut stubborn, mut other) = (Sender::new(&chat), Sender::new(&chat));
    for number in 0..30 {
        stubborn.send_to(AWAY, &format!("away {number}"), 2);
        for channel in ["shard-1", "room"] {
            let began = Instant::now();
            other.send_to(channel, &number.to_string(), 2);
            assert_eq!(other.answer().await, format!("{number} sent"));
            assert!(began.elapsed() < Duration::from_millis(10), "{channel}");
        }
        assert!(*chat.available().borrow(), "other calls go on, too");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stubborn.answer().await, "away 0 unknown");
}
