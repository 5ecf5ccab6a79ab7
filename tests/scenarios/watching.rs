//! Back ends follow channels, and go on where they were on any chat.

use proto::chat::v1::publication::Content;
use proto::chat::v1::watch_response::Event;
use proto::chat::v1::{Position, Publication, WatchPlace, WatchRequest, WatchResponse, WatchStart};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::redis::Redis;
use testkit::senders::Senders;
use testkit::service::Chat;
use testkit::system::Plan;
use testkit::{SOON, wait};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

async fn watch(api: &ChatApi, request: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
    Ok(api.client().watch(request).await?.into_inner())
}

async fn next(events: &mut Streaming<WatchResponse>) -> Event {
    let next = tokio::time::timeout(SOON, events.message()).await;
    let event = next.expect("an event in time").expect("no error");
    event.and_then(|it| it.event).expect("an event")
}

/// A watcher as the contract describes it: it stores what it was given together with the places that it was told, and goes on
/// from there, on one chat after the other.
#[derive(Default)]
struct Archive {
    /// What is stored, by channel and offset.
    stored: BTreeMap<String, BTreeMap<u64, Publication>>,
    places: BTreeMap<String, Position>,
    /// Losses that were told.
    gaps: Vec<String>,
    /// Publications that came twice within one watch, or out of order.
    disorder: Vec<String>,
}

impl Archive {
    fn request(&self, prefix: &str, resume: bool) -> WatchRequest {
        let places = self.places.iter().map(|(channel, position)| WatchPlace {
            channel: channel.clone(),
            position: Some(position.clone()),
        });
        WatchRequest {
            places: places.collect(),
            prefix: Some(prefix.to_owned()),
            resume,
            start: WatchStart::Oldest.into(),
            ..WatchRequest::default()
        }
    }

    /// Takes events until the stream breaks.
    async fn follow(&mut self, events: &mut Streaming<WatchResponse>, seen: &Seen) -> Status {
        // Where this watch is: what comes next in each channel.
        let mut at: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => event.event.expect("an event"),
                Ok(None) => return Status::unavailable("ended"),
                Err(status) => return status,
            };
            match event {
                Event::Started(_) => drop(seen.starts.fetch_add(1, Ordering::Relaxed)),
                Event::Opened(it) => {
                    let offset = it.position.expect("a position").offset;
                    at.insert(it.channel, offset);
                }
                Event::Publication(it) => {
                    let publication = it.publication.expect("a publication");
                    let offset = publication.position.as_ref().expect("a position").offset;
                    if at.insert(it.channel.clone(), offset) != Some(offset - 1) {
                        self.disorder.push(format!("{} {offset}", it.channel));
                    }
                    let stored = self.stored.entry(it.channel).or_default();
                    if stored.insert(offset, publication).is_none() {
                        seen.stored.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Event::Gap(it) => self.gaps.push(format!("{it:?}")),
                Event::Ended(it) => self.gaps.push(format!("{it:?}")),
                Event::Progress(it) => {
                    for place in it.places {
                        let position = place.position.expect("a position");
                        self.places.insert(place.channel, position);
                    }
                }
            }
        }
    }
}

/// What a test sees of an archive.
#[derive(Default)]
struct Seen {
    /// How often a watch has started.
    starts: AtomicU64,
    stored: AtomicU64,
}

/// Watches on one chat after the other, until it is told to stop.
fn archive(apis: Vec<ChatApi>, prefix: &'static str) -> Archiving {
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let seen = Arc::<Seen>::default();
    let told = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        let mut archive = Archive::default();
        let mut turn = 0;
        loop {
            let request = archive.request(prefix, turn > 0);
            if let Ok(mut events) = watch(&apis[turn % apis.len()], request).await {
                tokio::select! {
                    _ = archive.follow(&mut events, &told) => {}
                    _ = stopped.recv() => return archive,
                }
            }
            turn += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    Archiving { task, stop, seen }
}

struct Archiving {
    task: JoinHandle<Archive>,
    stop: mpsc::Sender<()>,
    seen: Arc<Seen>,
}

impl Archiving {
    fn starts(&self) -> u64 {
        self.seen.starts.load(Ordering::Relaxed)
    }

    fn stored(&self) -> u64 {
        self.seen.stored.load(Ordering::Relaxed)
    }

    async fn finish(self) -> Archive {
        self.stop.send(()).await.expect("the archive goes on");
        self.task.await.expect("the archive")
    }
}

/// Redis is killed and comes back, and so is each chat in turn, while senders begin one channel after the other. A watcher of
/// their prefix stores every acknowledged message once.
#[tokio::test]
async fn a_watcher_of_a_prefix_misses_nothing_while_redis_and_chats_are_killed() {
    let plan = Plan::of(0, 2).alone();
    let _permit = plan.permit().await;
    let mut redis = Redis::start().await;
    let mut chats = [
        Chat::start(&redis, &[]).await,
        Chat::start(&redis, &[]).await,
    ];
    let apis: Vec<_> = chats.iter().map(|it| ChatApi::at(it.address())).collect();
    let archiving = archive(apis.clone(), "room:");
    wait::eventually("the watch starts", SOON, async || archiving.starts() > 0).await;
    let json = |_: &str, n: u64| format!("{{\"n\":{n}}}");
    let senders = Senders::start(6, &apis, "room:", Duration::ZERO, json);
    let goes_on = async |what: &str| {
        let (sent, stored) = (senders.acknowledged(), archiving.stored());
        wait::eventually(what, 3 * SOON, async || {
            senders.acknowledged() > sent + 300 && archiving.stored() > stored + 300
        })
        .await;
    };
    goes_on("the system works").await;
    redis.kill();
    redis.restart().await;
    goes_on("Redis is back").await;
    for chat in &mut chats {
        let before = archiving.starts();
        chat.kill();
        goes_on("a chat was killed").await;
        chat.restart().await;
        goes_on("the chat is back").await;
        // The other chat was watched, or this one when it was killed.
        assert!(archiving.starts() >= before);
    }
    redis.kill();
    redis.restart().await;
    goes_on("Redis is back again").await;
    let acknowledged = senders.stop().await;
    wait::eventually("all is stored", 6 * SOON, async || {
        archiving.stored() >= acknowledged.len() as u64
    })
    .await;
    let starts = archiving.starts();
    let archive = archiving.finish().await;
    println!(
        "{} acknowledged, in {} channels, by {starts} watches",
        acknowledged.len(),
        archive.stored.len()
    );
    assert!(starts >= 2, "a chat with a watch was killed");
    assert_eq!(archive.gaps, [""; 0]);
    assert_eq!(archive.disorder, [""; 0]);
    // A sender may have stopped before its last message was acknowledged.
    let mut stored: Vec<_> = archive.stored.into_iter().collect();
    stored.sort_by(|one, other| one.0.cmp(&other.0));
    let mut seen = BTreeSet::new();
    for (channel, publications) in &stored {
        for (offset, publication) in publications {
            let json = match &publication.content {
                Some(Content::BodyJson(json)) => String::from_utf8_lossy(json).into_owned(),
                other => panic!("{other:?}"),
            };
            let body: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let number = body["n"].as_u64().expect("a number");
            let user = publication.user.clone();
            assert!(seen.insert((user, number)), "{channel} {offset} is doubled");
        }
    }
    let stored: BTreeMap<_, _> = stored.into_iter().collect();
    for sent in &acknowledged {
        let found = (stored.get(&sent.channel)).and_then(|it| it.get(&sent.offset));
        assert!(found.is_some(), "{sent:?} is lost");
    }
    assert!(seen.len() <= acknowledged.len() + 6, "{}", seen.len());
}

#[tokio::test]
async fn a_thousand_watchers_of_one_channel_read_redis_as_often_as_one() {
    const WATCHERS: usize = 1_000;
    const MESSAGES: u64 = 50;
    let system = Plan::of(0, 1).alone().start().await;
    let api = system.api(0);
    api.send("room", "u", "{}", "").await.expect("sent");
    let request = || WatchRequest {
        places: vec![WatchPlace {
            channel: "room".into(),
            position: None,
        }],
        ..WatchRequest::default()
    };
    let mut watchers = Vec::new();
    let mut connection = api.clone();
    for n in 0..WATCHERS {
        // What a watcher has not read yet takes room from the others on its connection.
        if n % 100 == 0 {
            connection = system.api(0);
        }
        let mut events = watch(&connection, request()).await.expect("a watch");
        assert!(matches!(next(&mut events).await, Event::Opened(_)));
        assert!(matches!(next(&mut events).await, Event::Started(_)));
        watchers.push(events);
    }
    let reads = async || {
        let calls = system.redis.calls().await;
        let read = |name: &str| calls.get(name).copied().unwrap_or_default();
        (read("xrange"), read("hmget"), read("evalsha"))
    };
    let before = reads().await;
    for n in 0..MESSAGES {
        let json = format!("{{\"n\":{n}}}");
        api.send("room", "u", &json, "").await.expect("sent");
    }
    for events in &mut watchers {
        let mut offset = 1;
        while offset <= MESSAGES {
            if let Event::Publication(it) = next(events).await {
                let position = it.publication.and_then(|it| it.position);
                offset += 1;
                assert_eq!(position.expect("a position").offset, offset);
            }
        }
    }
    let after = reads().await;
    println!("{WATCHERS} watchers of {MESSAGES} messages: {before:?} → {after:?}");
    // Each send is one script, which asks for the channel's meta once. Looks and the directory's notes are a few more.
    assert!(after.0 - before.0 <= 5, "reads of the log");
    assert!(after.2 - before.2 <= MESSAGES + 20, "scripts");
}

#[tokio::test]
async fn a_chat_that_ends_sends_its_watchers_to_another_one() {
    let mut system = Plan::of(0, 2).start().await;
    let request = WatchRequest {
        prefix: Some(String::new()),
        ..WatchRequest::default()
    };
    let mut events = watch(&system.api(0), request).await.expect("a watch");
    assert!(matches!(next(&mut events).await, Event::Started(_)));
    system.api(1).send("4", "u", "{}", "").await.expect("sent");
    assert!(matches!(next(&mut events).await, Event::Opened(_)));
    assert!(matches!(next(&mut events).await, Event::Publication(_)));
    system.chats[0].terminate();
    let status = loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some(), "it ends with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("watch again"), "{status}");
    assert!(system.chats[0].ended_within(SOON).await.success());
}
