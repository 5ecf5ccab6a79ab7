//! Many read large pages of history at once. What they read with are connections to Redis, too, and nobody else must lose one.

use proto::chat::v1::HistoryRequest;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use testkit::chat_api::ChatApi;
use testkit::long;
use testkit::pomelo::{Client, SENT};
use testkit::redis::Redis;
use testkit::system::Plan;
use tokio::task::JoinSet;
use tonic::Code;

/// The channel with large messages, and how many it holds: more than a page has.
const HEAVY: &str = "heavy";
const MESSAGES: usize = 32;
const BYTES: usize = 120_000;
/// How many read at once.
const READERS: usize = 100;

/// What became of the pages.
#[derive(Debug, Default)]
struct Pages {
    read: AtomicU64,
    /// Chat holds only so many answers at once, and a call has only so much time.
    refused: AtomicU64,
}

/// Asks for the largest page that there is.
async fn read(api: &ChatApi, pages: &Pages) {
    let request = HistoryRequest {
        channel: HEAVY.into(),
        page_size: 1_000,
        ..HistoryRequest::default()
    };
    match api.client().history(request).await {
        Ok(page) => {
            let page = page.into_inner();
            assert!(!page.publications.is_empty() && !page.next_page_token.is_empty());
            pages.read.fetch_add(1, Ordering::Relaxed);
        }
        Err(status) => {
            let code = status.code();
            let waits = matches!(code, Code::ResourceExhausted | Code::DeadlineExceeded);
            assert!(waits, "a page is refused: {status}");
            pages.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says something again and again until it is told to stop. Each must succeed.
async fn speak(client: Client, stops: Arc<AtomicBool>, said: Arc<AtomicU64>) {
    while !stops.load(Ordering::Relaxed) {
        assert_eq!(client.say("still here").await, SENT);
        said.fetch_add(1, Ordering::Relaxed);
    }
}

/// The same for a back end.
async fn publish(api: ChatApi, stops: Arc<AtomicBool>, said: Arc<AtomicU64>) {
    while !stops.load(Ordering::Relaxed) {
        let sent = api.send("room", "herald", "{}", "").await;
        sent.expect("chat publishes");
        said.fetch_add(1, Ordering::Relaxed);
    }
}

/// The ids of all connections to Redis but those of the test.
fn connections(redis: &Redis) -> BTreeSet<String> {
    let ids = || -> BTreeSet<String> {
        let list = redis.text("CLIENT LIST");
        let ids = list.lines().filter_map(|line| line.split(' ').next());
        ids.map(str::to_owned).collect()
    };
    // Those of the test end with each command.
    let before = ids();
    before.intersection(&ids()).cloned().collect()
}

#[tokio::test]
async fn a_hundred_readers_of_large_pages_cost_nobody_a_connection_to_redis() {
    let rounds = if long() { 50 } else { 3 };
    let system = Plan::of(1, 1).alone().start().await;
    let api = system.api(0);
    let body = format!(r#"{{"content":"{}"}}"#, "x".repeat(BYTES));
    for number in 0..MESSAGES {
        let sent = api.send(HEAVY, "author", &body, &number.to_string()).await;
        sent.expect("the channel is filled");
    }
    let (stops, said) = (
        Arc::new(AtomicBool::new(false)),
        <[Arc<AtomicU64>; 2]>::default(),
    );
    let [by_client, by_back_end] = said.clone();
    let client = system.member(0, "alice", "room").await;
    let mut speakers = JoinSet::new();
    speakers.spawn(speak(client, Arc::clone(&stops), by_client));
    speakers.spawn(publish(system.api(0), Arc::clone(&stops), by_back_end));

    let before = connections(&system.redis);
    assert!(before.len() >= 4, "{before:?}");
    let said_before = said.clone().map(|it| it.load(Ordering::Relaxed));
    let pages = Arc::<Pages>::default();
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        // Each has a connection of its own.
        let (api, pages) = (system.api(0), Arc::clone(&pages));
        readers.spawn(async move {
            for _ in 0..rounds {
                read(&api, &pages).await;
            }
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader.expect("a page, or a refusal");
    }
    let said_meanwhile: Vec<_> = said
        .iter()
        .zip(said_before)
        .map(|(it, before)| it.load(Ordering::Relaxed) - before)
        .collect();
    stops.store(true, Ordering::Relaxed);
    while let Some(speaker) = speakers.join_next().await {
        speaker.expect("each send succeeds");
    }
    println!("{said_meanwhile:?} said meanwhile; {pages:?}");
    assert!(pages.read.load(Ordering::Relaxed) > 0, "{pages:?}");
    // A speaker waits for each answer. If it waited for the readers, it would have said a message or two.
    assert!(
        said_meanwhile.iter().all(|it| *it > 20),
        "{said_meanwhile:?}"
    );

    let after = connections(&system.redis);
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(
        lost.is_empty(),
        "connections to Redis were dropped: {lost:?}"
    );
    for service in [&*system.chats[0], &*system.connectors[0]] {
        assert_eq!(
            service.metric::<u64>("redis_connections_lost_total").await,
            0
        );
    }
    for family in [
        "connector_leases_lost_total",
        "connector_declared_dead_total",
    ] {
        assert_eq!(system.connectors[0].metric::<u64>(family).await, 0);
    }
    assert_eq!(
        system.chats[0]
            .metric::<u64>("chat_connectors_dead_total")
            .await,
        0
    );
}
