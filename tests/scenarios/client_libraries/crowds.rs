//! Many clients of one library, through all faults at once.

use super::driver::{Driver, Library};
use crate::proxies_in_front::{FORWARDED, Front, PREFACED};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use testkit::followers::WHOLE_LOG;
use testkit::log::Log;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::sentinels::Sentinels;
use testkit::system::{Plan, Services};
use testkit::{SOON, long, wait};

const ROOM: &str = "room";

/// Times that let a client notice a fault soon, so that a test has room for many.
fn options() -> Value {
    json!({"pingMs": 1_000, "silenceMs": 2_500, "longestPauseMs": 2_000})
}

/// The messages of a log with their positions, in its order.
struct Stored {
    places: BTreeMap<(String, u64), usize>,
    messages: Vec<(String, String)>,
}

impl Stored {
    async fn read(server: SocketAddr) -> Self {
        let log = Log::read(server, ROOM).await;
        let mut stored = Self {
            places: BTreeMap::new(),
            messages: Vec::new(),
        };
        for (offset, content) in &log.entries {
            if content.route != "onMessage" {
                continue;
            }
            let body: Value = serde_json::from_str(&content.body).expect("JSON");
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let position = (log.epoch(*offset).to_owned(), *offset);
            stored.places.insert(position, stored.messages.len());
            stored.messages.push((text("userId"), text("content")));
        }
        stored
    }

    /// Each sender's messages are in the order in which they were sent, and none is there twice.
    fn assert_each_once_in_order(&self) {
        let mut last = BTreeMap::<&str, i64>::new();
        for (user, content) in &self.messages {
            let Some(number) = content.strip_prefix("m ") else {
                continue;
            };
            let number: i64 = number.parse().expect("a number");
            let before = last.insert(user, number).unwrap_or(-1);
            assert!(number > before, "{user}: {number} after {before}");
        }
    }

    /// A client was given exactly the stored messages in their order, but for what it was told to have lost.
    ///
    /// Returns how often it was told so.
    fn assert_given(&self, client: &str, seen: &[Value]) -> usize {
        let (mut next, mut losses, mut is_told, mut astray) = (Some(0), 0, false, None);
        for entry in seen {
            if entry[0] == "lost" {
                (losses, is_told, next, astray) = (losses + 1, true, None, None);
                continue;
            }
            let epoch = entry[0].as_str().expect("an epoch").to_owned();
            let offset = entry[1].as_u64().expect("an offset");
            let Some(&place) = self.places.get(&(epoch, offset)) else {
                // The store has lost it later, and the client must be told.
                astray = Some(entry);
                continue;
            };
            assert!(
                astray.is_none(),
                "{client}: not told that {astray:?} is lost"
            );
            let (user, content) = &self.messages[place];
            assert_eq!((&entry[2], &entry[3]), (&json!(user), &json!(content)));
            let expected = next.unwrap_or(place);
            assert_eq!(
                place, expected,
                "{client}: {entry}, told of a loss: {is_told}"
            );
            next = Some(place + 1);
        }
        assert!(
            astray.is_none(),
            "{client}: not told that {astray:?} is lost"
        );
        assert_eq!(next, Some(self.messages.len()), "{client} is at the end");
        losses
    }
}

/// What happens to the system while the clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// All connections through one relay are closed.
    Cut,
    /// All connections through one relay become black holes.
    Swallow,
    /// A connector is killed and started again.
    Kill,
    /// All services are restarted in an orderly way, one after another.
    RollingRestart,
    /// The primary is killed, and a replica takes over.
    Failover,
}

/// The faults of a run, in their order.
fn faults() -> Vec<Fault> {
    use Fault::{Cut, Failover, Kill, RollingRestart, Swallow};
    let (cuts, others): (usize, &[Fault]) = if long() {
        (
            200,
            &[Swallow, Kill, RollingRestart, Swallow, Failover, Kill],
        )
    } else {
        (14, &[Kill, Swallow])
    };
    let mut faults = vec![Cut; cuts];
    for (number, fault) in others.iter().enumerate() {
        faults.insert((number + 1) * cuts / (others.len() + 1) + number, *fault);
    }
    faults
}

/// A proxy with TLS between the clients and the connectors.
struct Proxy {
    example: &'static str,
    connector_flags: &'static [&'static str],
}

const HAPROXY: Proxy = Proxy {
    example: "haproxy/tcp.cfg",
    connector_flags: &PREFACED,
};
const NGINX: Proxy = Proxy {
    example: "nginx/http.conf",
    connector_flags: &FORWARDED,
};

pub(super) async fn through_cuts_kills_restarts_and_a_failover_each_message_is_seen_once_in_order_or_told_lost(
    library: Library,
) {
    go_through_all(library, None).await;
}

pub(super) async fn behind_haproxy_each_message_is_seen_once_in_order_or_told_lost(
    library: Library,
) {
    go_through_all(library, Some(HAPROXY)).await;
}

pub(super) async fn behind_nginx_each_message_is_seen_once_in_order_or_told_lost(library: Library) {
    go_through_all(library, Some(NGINX)).await;
}

/// Clients send while all faults happen, and each is given each message once in order, or told what is lost.
async fn go_through_all(library: Library, proxy: Option<Proxy>) {
    let (clients, each) = if long() { (20, 500) } else { (6, 60) };
    let plan = Plan::of(2, 2)
        .alone()
        .connector_flags(&["--grace", "1m"])
        .connector_flags(proxy.as_ref().map_or(&[], |it| it.connector_flags))
        .chat_flags(&WHOLE_LOG)
        .chat_flags(if long() { &["--ack", "replica"] } else { &[] });
    let _permit = plan.permit().await;
    let mut store = if long() {
        Store::Watched(Sentinels::start().await)
    } else {
        Store::Alone(Redis::start().await)
    };
    let mut services = plan.services(&store.url(), &store.url()).await;
    let front = match proxy {
        Some(it) => Some(Front::start_from(it.example, &services.connectors, 1).await),
        None => None,
    };
    let mut relays = Vec::new();
    for connector in &services.connectors {
        let target = front.as_ref().map_or(connector.address(), Front::address);
        relays.push(Relay::to(target).await);
    }
    let mut driver = Driver::start(library);
    let names: Vec<String> = (0..clients).map(|it| format!("client{it}")).collect();
    for (number, name) in names.iter().enumerate() {
        let mut urls: Vec<_> = relays
            .iter()
            .map(|it| format!("ws://{}", it.address()))
            .collect();
        urls.rotate_left(number % relays.len());
        let connect = json!({"url": urls, "options": options(), "quiet": true});
        driver.member(name, ROOM, connect).await;
    }
    let asked: Vec<u64> = (names.iter())
        .map(|it| {
            driver.tell(
                it,
                "bulk",
                json!({"channel": ROOM, "count": each, "text": "m"}),
            )
        })
        .collect();

    let faults = faults();
    let apart = (clients * each) as u64 / (faults.len() as u64 + 1);
    for (number, fault) in faults.iter().enumerate() {
        // Each fault comes when a part of the messages is stored. Where a client waits for its next try, that takes a while.
        let due = apart * (number as u64 + 1);
        wait::eventually(&format!("{due} publications"), 12 * SOON, async || {
            store.published().await >= due
        })
        .await;
        let place = number % relays.len();
        strike(*fault, &mut services, &relays, &mut store, place).await;
    }
    let (mut stored, mut failed) = (0, BTreeMap::<String, u64>::new());
    for id in asked {
        let answer = driver.answer(id, 18 * SOON).await.expect("an answer");
        stored += answer["stored"].as_u64().expect("a number");
        for (reason, count) in answer["failed"].as_object().expect("an object") {
            *failed.entry(reason.clone()).or_default() += count.as_u64().expect("a number");
        }
    }
    let only_unknown = failed.keys().all(|it| it == "UNKNOWN");
    assert!(only_unknown, "{failed:?}");
    // Everybody must be given this one, so everything before it has been given by then.
    let end = json!({"channel": ROOM, "body": {"content": "end"}});
    driver.done(&names[0], "send", end).await;
    let mut all_seen = Vec::new();
    for name in &names {
        all_seen.push(seen_to_the_end(&mut driver, name).await);
    }
    let log = Stored::read(store.primary().await).await;
    log.assert_each_once_in_order();
    let losses = names.iter().zip(&all_seen);
    let losses: usize = losses
        .map(|(name, seen)| log.assert_given(name, seen))
        .sum();
    let acknowledged = log.messages.len() as u64 - 1;
    assert!(
        acknowledged >= stored,
        "{acknowledged} of {stored} are in the log"
    );
    println!(
        "{library:?}: {stored} stored, {failed:?} failed, {acknowledged} in the log, {losses} losses told, {} faults",
        faults.len()
    );
}

/// Does this to the system. `place` says to which relay or connector.
async fn strike(
    fault: Fault,
    services: &mut Services,
    relays: &[Relay],
    store: &mut Store,
    place: usize,
) {
    match fault {
        Fault::Cut => relays[place].cut(),
        Fault::Swallow => relays[place].swallow(),
        Fault::Kill => {
            services.connectors[place].kill();
            services.connectors[place].restart().await;
        }
        Fault::RollingRestart => {
            for connector in &mut services.connectors {
                connector.terminate();
                assert!(connector.ended_within(6 * SOON).await.success());
                connector.restart().await;
                connector.ready().await;
            }
            for chat in &mut services.chats {
                chat.terminate();
                assert!(chat.ended_within(6 * SOON).await.success());
                chat.restart().await;
                chat.ready().await;
            }
        }
        Fault::Failover => store.lose_the_primary().await,
    }
}

/// What a client was given in the channel, once it has the last message.
async fn seen_to_the_end(driver: &mut Driver, client: &str) -> Vec<Value> {
    wait::some(&format!("{client} is at the end"), 6 * SOON, async || {
        let seen = driver.done(client, "seen", json!({"channel": ROOM})).await;
        let seen = seen.as_array().expect("a list").clone();
        seen.last().is_some_and(|it| it[3] == "end").then_some(seen)
    })
    .await
}

/// A Redis alone, or one that Sentinels watch.
enum Store {
    Alone(Redis),
    Watched(Sentinels),
}

impl Store {
    fn url(&self) -> String {
        match self {
            Self::Alone(redis) => redis.url(),
            Self::Watched(sentinels) => sentinels.url(),
        }
    }

    async fn primary(&self) -> SocketAddr {
        match self {
            Self::Alone(redis) => redis.address(),
            Self::Watched(sentinels) => sentinels.primary().await.expect("a primary"),
        }
    }

    /// How many publications the channel has had. 0 while nobody answers.
    async fn published(&self) -> u64 {
        let primary = match self {
            Self::Alone(redis) => Some(redis.address()),
            Self::Watched(sentinels) => sentinels.primary().await,
        };
        let Some(primary) = primary else { return 0 };
        let asked = ["HGET", &format!("gc:{{{ROOM}}}:m"), "n"];
        let answer = testkit::resp::ask(primary, &asked).await;
        let answer = answer.as_ref().and_then(|it| it.text());
        answer.and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    async fn lose_the_primary(&mut self) {
        let Self::Watched(sentinels) = self else {
            return;
        };
        let before = sentinels.primary().await.expect("a primary");
        let server = sentinels.servers.iter_mut();
        let server = server.into_iter().find(|it| it.address() == before);
        server.expect("one of the three").kill();
        wait::eventually("another primary", 6 * SOON, async || {
            sentinels.primary().await.is_some_and(|it| it != before)
        })
        .await;
    }
}

pub(super) async fn a_thousand_reconnects_cost_no_memory(library: Library) {
    let rounds = if long() { 1_000 } else { 60 };
    let system = Plan::of(1, 1)
        .connector_flags(&["--grace", "1m"])
        .start()
        .await;
    let relay = Relay::to(system.connectors[0].address()).await;
    let mut driver = Driver::start(library);
    let url = format!("ws://{}", relay.address());
    let connect = json!({"url": url, "options": {"longestPauseMs": 5}, "quiet": true});
    driver.member("ann", ROOM, connect).await;
    let mut held = Vec::new();
    for round in 0..rounds {
        relay.cut();
        // It is stored over the next connection.
        let content =
            json!({"channel": ROOM, "body": {"content": "x"}, "options": {"excludeSelf": true}});
        driver.done("ann", "send", content).await;
        if round % (rounds / 10) == rounds / 20 {
            let bytes = driver.done("ann", "memory", json!({})).await;
            held.push(bytes.as_f64().expect("a number"));
        }
    }
    // The first ones still load code.
    let (early, late) = (held[2], held[held.len() - 1]);
    println!("{library:?}: {held:?} bytes");
    let most = early * 1.1 + 300_000.0;
    assert!(late < most, "{held:?}");
}
