//! Probes decide which chats are used: a chat is used if its publications arrive where the connector listens.

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

/// A channel on a shard that is away. Chat ends each stream on which a send to it comes.
const AWAY: &str = "shard-2";

/// The connector's own Redis. A probe arrives if the chat says that it was written under the server lifetime
/// `lifetime`.
struct FakeFeed {
    lifetime: &'static str,
}

#[async_trait]
impl ProbeFeed for FakeFeed {
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

/// How a fake chat answers probes.
#[derive(Clone)]
enum Behaviour {
    Writes(&'static str),
    Refuses(&'static str),
    Hangs,
    Unanswered,
    HasPrefix(&'static str),
    HasLease(u64),
    HasLogLife(u64),
    HasMessageLimit(u64),
    HasRules(&'static str),
}

fn length(milliseconds: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(milliseconds).try_into().ok()
}

impl Behaviour {
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
            Self::HasRules(hash) => {
                settings.rules_hash = (*hash).into();
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

/// A fake chat that answers by itself, according to its behaviour.
struct FakeChat {
    behaviour: Arc<Mutex<Behaviour>>,
    sends: Arc<Mutex<Vec<String>>>,
    instance: Mutex<Option<Instance>>,
}

impl FakeChat {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            behaviour: Arc::new(Mutex::new(behaviour)),
            sends: Arc::default(),
            instance: Mutex::new(Some(Instance::new())),
        }
    }

    fn behaves(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    fn start(&self) {
        let mut instance = self.instance.lock().take().unwrap();
        let (behaviour, sends) = (self.behaviour.clone(), self.sends.clone());
        tokio::spawn(async move {
            loop {
                match instance.next().await {
                    Called::Probe(call) => {
                        let behaviour = behaviour.lock().clone();
                        if matches!(behaviour, Behaviour::Hangs) {
                            std::mem::forget(call);
                        } else {
                            drop(call.answer(behaviour.answer()));
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
                    _ => panic!("only probes and streams are expected"),
                }
            }
        });
    }
}

fn client_of(chats: &[&FakeChat]) -> Arc<Chat> {
    let own = OwnSettings {
        lease: Duration::from_secs(10),
        touch: Duration::from_secs(60),
        message_limit: 1_000,
        ready_slots: 0.5,
    };
    let feed = Arc::new(FakeFeed { lifetime: "a" });
    let chat = Chat::nowhere(Some(Arc::new(Prover { feed, own })));
    for (index, fake) in chats.iter().enumerate() {
        let service = fake.instance.lock().as_ref().unwrap().service.clone();
        let name = format!("chat-{index}");
        let endpoint = start(name.clone(), &name, service, &chat);
        chat.endpoints.write().push(endpoint);
        fake.start();
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
async fn a_chat_that_uses_another_redis_gets_no_sends() {
    let (right, wrong) = (
        FakeChat::new(Behaviour::Writes("a")),
        FakeChat::new(Behaviour::Writes("b")),
    );
    let chat = client_of(&[&right, &wrong]);
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
    wrong.behaves(Behaviour::Writes("a"));
    soon(async {
        while chat.troubles().is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_begins_to_use_another_redis_is_left_after_two_probes() {
    let only = FakeChat::new(Behaviour::Writes("a"));
    let chat = client_of(&[&only]);
    available(&chat, true).await;
    only.behaves(Behaviour::Writes("b"));
    let began = tokio::time::Instant::now();
    available(&chat, false).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "one bad probe is not enough"
    );
    let mut sender = Sender::new(&chat);
    sender.send("lost");
    assert_eq!(sender.answer().await, "lost unsent");
    assert!(only.sends.lock().is_empty());
    only.behaves(Behaviour::Writes("a"));
    available(&chat, true).await;
    sender.send("kept");
    assert_eq!(sender.answer().await, "kept sent");
}

#[tokio::test(start_paused = true)]
async fn a_chat_with_contradicting_settings_is_not_used_and_the_reason_is_reported() {
    for (behaviour, words) in [
        (
            Behaviour::HasPrefix("other"),
            "the prefix \"other\" (this connector: \"gc\")",
        ),
        (
            Behaviour::HasLease(1_000),
            "its --lease is 1s, shorter than that of this connector, 10s",
        ),
    ] {
        let chat = client_of(&[&FakeChat::new(behaviour)]);
        soon(async {
            while !chat.troubles().is_some_and(|told| told.contains(words)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert!(!*chat.available().borrow());
    }
}

/// With too few touches, logs expire while they have members. With too low a limit, chat refuses messages that clients
/// may send. Neither does harm at once, so such a chat is used, and the operator is told.
#[tokio::test(start_paused = true)]
async fn a_chat_with_unsuitable_settings_is_used_and_they_are_reported() {
    let touched_seldom =
        "chat-0: its logs live for 179.999s, and --touch 60s is more than a third of that";
    let limited = "chat-0: its --message-limit is 999, that of this connector 1000";
    for (behaviour, told) in [
        (Behaviour::HasLogLife(179_999), Some(touched_seldom)),
        (Behaviour::HasLogLife(180_000), None),
        (Behaviour::HasMessageLimit(999), Some(limited)),
        (Behaviour::HasMessageLimit(1_000), None),
        // A chat that does not tell its settings.
        (Behaviour::Writes("a"), None),
    ] {
        let chat = client_of(&[&FakeChat::new(behaviour)]);
        available(&chat, true).await;
        assert_eq!(chat.troubles().as_deref(), told);
        let mut sender = Sender::new(&chat);
        sender.send("used");
        assert_eq!(sender.answer().await, "used sent");
    }
}

/// While an operator changes rules everywhere, they differ for a while. So that must not make anything unavailable.
#[tokio::test(start_paused = true)]
async fn a_chat_with_other_rules_of_channels_is_used_and_that_is_reported() {
    let fake = FakeChat::new(Behaviour::HasRules("other"));
    let chat = client_of(&[&fake]);
    available(&chat, true).await;
    assert_eq!(chat.troubles(), None, "the own rules are not known yet");
    chat.rules().set(&[]);
    let own = chat.rules().text();
    let told =
        format!("chat-0: its rules of channels (other) are not those of this connector ({own})");
    assert_eq!(chat.troubles(), Some(told));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(*chat.available().borrow() && *chat.publishes().borrow());
    let mut sender = Sender::new(&chat);
    sender.send("used");
    assert_eq!(sender.answer().await, "used sent");
    // One that does not tell its rules may have the same.
    for behaviour in [Behaviour::HasRules(own.leak()), Behaviour::HasRules("")] {
        fake.behaves(Behaviour::HasRules("other"));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(chat.troubles().is_some());
        fake.behaves(behaviour);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(chat.troubles(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_whose_store_refuses_is_used_only_if_there_is_no_better_one() {
    let (first, second) = (
        FakeChat::new(Behaviour::Writes("a")),
        FakeChat::new(Behaviour::Writes("a")),
    );
    let chat = client_of(&[&first, &second]);
    publishes(&chat, true).await;
    first.behaves(Behaviour::Refuses("it is full"));
    second.behaves(Behaviour::Refuses("it is full"));
    publishes(&chat, false).await;
    assert!(
        chat.refusals()
            .unwrap()
            .contains("chat-0: redis-a: it is full")
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        *chat.available().borrow(),
        "chats that refuse are still available"
    );

    second.behaves(Behaviour::Writes("a"));
    publishes(&chat, true).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(chat.troubles().unwrap().starts_with("chat-0: "));
    let mut sender = Sender::new(&chat);
    for number in 0..20 {
        sender.send_to(&format!("room-{number}"), &number.to_string(), 2);
        assert_eq!(sender.answer().await, format!("{number} sent"));
    }
    assert!(first.sends.lock().is_empty(), "the other chat is better");
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_answers_no_probe_stays_what_it_was() {
    let only = FakeChat::new(Behaviour::Writes("a"));
    let chat = client_of(&[&only]);
    publishes(&chat, true).await;
    for behaviour in [Behaviour::Unanswered, Behaviour::Hangs] {
        only.behaves(behaviour);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(*chat.available().borrow() && *chat.publishes().borrow());
    }
    // A chat whose publications never arrived is not used.
    let never = FakeChat::new(Behaviour::Unanswered);
    let chat = client_of(&[&never]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!*chat.available().borrow());
    let why = chat.refusals().unwrap();
    assert!(why.contains("was heard here"), "{why}");
    assert_eq!(
        chat.troubles().as_deref(),
        Some("chat-0: its Redis does not answer")
    );
}

#[tokio::test(start_paused = true)]
async fn sends_to_a_shard_that_is_away_delay_no_sends_to_another() {
    let fake = FakeChat::new(Behaviour::Writes("a"));
    let chat = client_of(&[&fake]);
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
        assert!(
            *chat.available().borrow(),
            "chat stays available for other calls"
        );
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stubborn.answer().await, "away 0 unknown");
}
