//! A deterministic simulation of log and hub: two connectors, and a store that restarts with older data. The network
//! delays, cuts and silently loses publications. Clients come, go, and come back at another connector.
//!
//! The seed decides everything: the same seed gives the same run.

mod network;
mod visitor;

use crate::hub::{Hub, Member};
use crate::limits::QueueLimits;
use crate::testing::channel;
use crate::testing::counters::Counters;
use crate::testing::seeds::in_parallel;
use crate::transport::Connection;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    ChannelStore, Incarnation, Join, Joined, Leave, Membership, Payload, Position, Publish, Route,
    SessionId, Since, StoreOptions, User, UserId,
};
use network::{Faults, NetworkFeed, Table};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};
use visitor::{Contents, Visitor, Wire, arrived};
use wire::{Disconnect, WireFormat};

const CONNECTORS: [&str; 2] = ["connector-1", "connector-2"];
const VISITORS: usize = 4;
/// How long faults happen, in simulated time.
const FAULT_TIME: Duration = Duration::from_millis(1_500);
/// How long it may take until everything is right again.
const REST_TIME: Duration = Duration::from_millis(2_500);
const TOUCH: Duration = Duration::from_millis(400);

/// What happened in a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    lost: u64,
    restarts: u64,
    losses: u64,
    new_epochs: u64,
    recovered: u64,
    repaired: u64,
    ephemerals: u64,
    /// How often a session was out because the channel was deleted.
    deletions: u64,
}

/// What all hosts share, apart from the network.
struct World {
    store: Arc<MemoryStore>,
    contents: Contents,
    /// True when the faults are over and clients do not move any more.
    peace: AtomicBool,
    orders: [mpsc::UnboundedSender<Visitor>; 2],
    at_rest: Mutex<Vec<(Visitor, Wire)>>,
    failures: Mutex<Vec<String>>,
    operations: AtomicU64,
}

impl World {
    fn fail(&self, failure: String) {
        self.failures.lock().push(failure);
    }

    fn join(&self, visitor: &Visitor, session: &SessionId) -> Join {
        Join::new(channel(), user(&visitor.user), self.membership(session))
    }

    fn leave(&self, visitor: &Visitor, session: &SessionId) -> Leave {
        Leave {
            channel: channel(),
            user: user(&visitor.user),
            membership: self.membership(session),
            fence: false,
        }
    }

    fn membership(&self, session: &SessionId) -> Membership {
        Membership::Session {
            incarnation: Incarnation::new("c:1").unwrap(),
            session: session.clone(),
            operation: self.operations.fetch_add(1, Ordering::Relaxed),
        }
    }
}

fn user(name: &str) -> User {
    User {
        id: UserId::new(name).unwrap(),
        is_number: false,
    }
}

/// A random pause of at most this many milliseconds.
async fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(fastrand::u64(1..=milliseconds))).await;
}

/// Serves the clients that are sent to it.
async fn connector(
    world: Arc<World>,
    table: Arc<Table>,
    mut orders: mpsc::UnboundedReceiver<Visitor>,
) -> turmoil::Result {
    let hub = Hub::new(TOUCH);
    hub.follow(NetworkFeed::new(table, hub.clone()));
    while let Some(visitor) = orders.recv().await {
        tokio::spawn(visit(world.clone(), hub.clone(), visitor));
    }
    Ok(())
}

/// A client logs in, stays for a while, and goes on to any connector with what has arrived.
async fn visit(world: Arc<World>, hub: Arc<Hub>, mut visitor: Visitor) {
    let wire = Wire::default();
    let limits = QueueLimits::new(64 << 20, 64 << 20);
    let connection = Connection::new(wire.clone(), WireFormat::JSON, limits);
    let member = hub.attach(&channel(), &connection, WireFormat::JSON);
    let operation = world.operations.fetch_add(1, Ordering::Relaxed);
    let session = SessionId::new(format!("s{operation}")).unwrap();
    if log_in(&world, &member, &mut visitor, &session).await {
        if world.peace.load(Ordering::Relaxed) && !member.is_out() {
            world.at_rest.lock().push((visitor, wire));
            // The client stays until the end.
            return std::future::pending().await;
        }
        pause(400).await;
    }
    connection.close(Disconnect::CLOSED);
    drop(member);
    if let Err(error) = world.store.leave(world.leave(&visitor, &session)).await {
        world.fail(error.to_string());
    }
    let written = std::mem::take(&mut *wire.lock());
    if let Err(failure) = visitor.take(arrived(&written, fastrand::bool()), &world.contents) {
        return world.fail(failure);
    }
    pause(100).await;
    let _ = world.orders[fastrand::usize(..2)].send(visitor);
}

/// Does what a session does: follow, join, check the position, answer, begin.
async fn log_in(
    world: &World,
    member: &Member,
    visitor: &mut Visitor,
    session: &SessionId,
) -> bool {
    if timeout(Duration::from_secs(1), member.followed())
        .await
        .is_err()
    {
        return false;
    }
    pause(20).await;
    let joined = world.store.join(world.join(visitor, session)).await;
    let Ok(Joined {
        position,
        published,
        trimmed,
        ..
    }) = joined
    else {
        return false;
    };
    pause(20).await;
    visitor.joined = published.then_some(position.offset);
    visitor.enters(position.offset);
    member.has_joined_at(&position);
    let Some(since) = visitor.position.clone() else {
        let start = Position {
            offset: position.offset - u64::from(published),
            ..position
        };
        visitor.position = Some(start.clone());
        member.begin(start);
        return true;
    };
    let Ok(resume) = member.resume(&since, &position, trimmed).await else {
        return false;
    };
    match resume.lost {
        Some(moved) => {
            member.tell(&resume.start, moved);
            visitor.is_judged = true;
        }
        None => visitor.recovered += 1,
    }
    member.begin(resume.start);
    true
}

/// A back end that sends all the time. Some of its calls publish a run.
async fn send_all_the_time(world: Arc<World>) {
    let speaker = user("speaker");
    let publish = |number: u64| {
        let body = format!(r#"{{"n":{number}}}"#);
        let route = Route::new("onMessage").unwrap();
        let payload = Payload::new(&route, &speaker, body.as_bytes());
        Publish::new(channel(), speaker.id.clone(), payload)
    };
    let mut number = 0;
    loop {
        pause(if fastrand::u8(..10) == 0 { 200 } else { 15 }).await;
        if world.peace.load(Ordering::Relaxed) {
            return;
        }
        let length = if fastrand::u8(..4) == 0 { 4 } else { 1 };
        let batch = (number..number + length).map(publish).collect();
        number += length;
        let publisher = world.store.publisher().unwrap();
        for outcome in publisher.publish(batch).await.unwrap() {
            if let Err(error) = outcome {
                world.fail(error.to_string());
            }
        }
        if fastrand::bool() {
            number += 1;
            let body = format!(r#"{{"ephemeral":{number}}}"#);
            let route = Route::new("onMessage").unwrap();
            let payload = Payload::new(&route, &speaker, body.as_bytes());
            let mut publish = Publish::new(channel(), speaker.id.clone(), payload);
            publish.ephemeral = true;
            match world.store.publish(publish).await {
                Ok(given) => world.contents.place(number, given.position),
                Err(error) => world.fail(error.to_string()),
            }
        }
    }
}

/// Deletes the channel now and then. It stops before the faults do, so that the clients that stay in the end join afterwards.
async fn delete(world: Arc<World>) {
    let until = FAULT_TIME.saturating_sub(Duration::from_millis(400));
    loop {
        pause(500).await;
        if turmoil::sim_elapsed().is_none_or(|now| now >= until) {
            return;
        }
        if let Err(error) = world.store.delete(&channel(), None).await {
            world.fail(error.to_string());
        }
    }
}

/// Which faults a run has.
#[derive(Clone, Copy)]
struct Setting {
    /// The channel is deleted now and then.
    deletions: bool,
    /// The store may restart with older data.
    rollbacks: bool,
    /// The log holds less than clients miss.
    log_entries: u64,
}

/// Causes faults for a while. Returns how often the store restarted with older data.
async fn cause_faults(world: &World, faults: &Faults, setting: Setting) -> u64 {
    let mut restarts = 0;
    let mut snapshot: Option<Snapshot> = None;
    while turmoil::sim_elapsed().is_some_and(|now| now < FAULT_TIME) {
        pause(150).await;
        let connector = CONNECTORS[fastrand::usize(..2)];
        match fastrand::u8(..10) {
            0..2 => drop(faults.cut.send(())),
            2..4 => {
                turmoil::hold("store", connector);
                pause(300).await;
                turmoil::release("store", connector);
            }
            4..6 => {
                turmoil::partition("store", connector);
                pause(300).await;
                turmoil::repair("store", connector);
            }
            6..8 => snapshot = Some(world.store.snapshot()),
            _ => {
                let older = snapshot.take().filter(|_| setting.rollbacks);
                world.store.restart(older);
                drop(faults.cut.send(()));
                restarts += 1;
            }
        }
    }
    restarts
}

/// Checks that what clients have is the log.
async fn compare(world: &World) -> Vec<Visitor> {
    let feed = world.store.feed(Hub::new(TOUCH));
    let all = Since::Position(crate::testing::at("none", 0));
    let log = feed.read(&channel(), &all, usize::MAX).await.unwrap();
    let log: BTreeMap<u64, String> = log
        .entries
        .iter()
        .map(|entry| {
            let body: serde_json::Value = serde_json::from_slice(entry.payload.body()).unwrap();
            let content = format!("{} {body}", entry.payload.route());
            (entry.position.offset, content)
        })
        .collect();
    let visitors = std::mem::take(&mut *world.at_rest.lock());
    if visitors.len() != VISITORS {
        world.fail(format!(
            "only {} clients are there at the end",
            visitors.len()
        ));
    }
    let visitors = visitors.into_iter().map(|(mut visitor, wire)| {
        if let Err(failure) = visitor.take(&wire.lock(), &world.contents) {
            world.fail(failure);
        }
        let end = visitor.position.as_ref().map(|own| own.offset);
        if end != log.last_key_value().map(|(offset, _)| *offset) {
            world.fail(format!("{} ends at {end:?}", visitor.user));
        }
        for (offset, content) in &visitor.held {
            if log.get(offset).is_some_and(|in_log| in_log != content) {
                world.fail(format!("{} holds {content} at {offset}", visitor.user));
            }
        }
        visitor
    });
    visitors.collect()
}

/// Runs one seed.
fn simulate(seed: u64) -> Result<Outcome, String> {
    fastrand::seed(seed);
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let setting = Setting {
        deletions: seed % 5 < 2,
        rollbacks: !seed.is_multiple_of(4),
        log_entries: if seed.is_multiple_of(3) { 15 } else { 10_000 },
    };
    let faults = Arc::new(Faults {
        // A `watch` would wake the connections in an order of its own.
        cut: broadcast::Sender::new(1),
        deaf: if seed.is_multiple_of(2) { 0 } else { 300 },
        lost: AtomicU64::new(0),
    });
    let table = Arc::new(Table::default());
    let (first, at_first) = mpsc::unbounded_channel();
    let (second, at_second) = mpsc::unbounded_channel();
    let mut outcome = Outcome::default();

    let mut simulation = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(2))
        .max_message_latency(Duration::from_millis(1 + seed % 40))
        .simulation_duration(Duration::from_secs(60))
        .build();
    let world = Arc::new(World {
        store: MemoryStore::new(StoreOptions {
            log_entries: setting.log_entries,
            log_keep: Duration::ZERO,
            ..StoreOptions::default()
        }),
        contents: Contents::default(),
        peace: AtomicBool::new(false),
        orders: [first, second],
        at_rest: Mutex::default(),
        failures: Mutex::default(),
        operations: AtomicU64::new(1),
    });
    {
        let (world, table, faults) = (world.clone(), table.clone(), faults.clone());
        simulation.host("store", move || {
            tokio::spawn(send_all_the_time(world.clone()));
            if setting.deletions {
                tokio::spawn(delete(world.clone()));
            }
            network::serve(world.store.clone(), table.clone(), faults.clone())
        });
    }
    for (name, orders) in CONNECTORS.into_iter().zip([at_first, at_second]) {
        let (world, table) = (world.clone(), table.clone());
        simulation.client(name, connector(world, table, orders));
    }
    for number in 0..VISITORS {
        let _ = world.orders[number % 2].send(Visitor::new(format!("v{number}")));
    }
    let visitors = Arc::new(Mutex::new(Vec::new()));
    let restarts = Arc::new(AtomicU64::new(0));
    {
        let (world, faults, visitors) = (world.clone(), faults.clone(), visitors.clone());
        let restarts = restarts.clone();
        simulation.client("driver", async move {
            restarts.store(
                cause_faults(&world, &faults, setting).await,
                Ordering::Relaxed,
            );
            world.peace.store(true, Ordering::Relaxed);
            sleep(REST_TIME).await;
            *visitors.lock() = compare(&world).await;
            Ok(())
        });
    }
    while !simulation.step().map_err(|error| error.to_string())? {
        if !visitors.lock().is_empty() || !world.failures.lock().is_empty() {
            break;
        }
    }
    let failures = world.failures.lock();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    outcome.restarts = restarts.load(Ordering::Relaxed);
    outcome.lost = faults.lost.load(Ordering::Relaxed);
    outcome.repaired = counters.get("connector_feed_repaired_total");
    let mut trace = DefaultHasher::new();
    for visitor in &*visitors.lock() {
        visitor.trace.hash(&mut trace);
        outcome.losses += visitor.losses;
        outcome.new_epochs += visitor.new_epochs;
        outcome.recovered += visitor.recovered;
        outcome.ephemerals += visitor.ephemerals;
        outcome.deletions += visitor.deletions;
    }
    outcome.trace = trace.finish();
    let may_lose = setting.rollbacks || setting.deletions || setting.log_entries < 1_000;
    if outcome.losses > 0 && !may_lose {
        return Err("a client was told of a loss although nothing was lost".into());
    }
    Ok(outcome)
}

/// Runs seeds, each on whichever thread is free, and adds up what happened.
fn simulate_all(seeds: std::ops::Range<u64>) -> Outcome {
    let sum = Mutex::new(Outcome::default());
    in_parallel(seeds, |seed| match simulate(seed) {
        Ok(outcome) => sum.lock().add(&outcome),
        Err(failure) => panic!("seed {seed}: {failure}"),
    });
    sum.into_inner()
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.restarts += other.restarts;
        self.losses += other.losses;
        self.new_epochs += other.new_epochs;
        self.recovered += other.recovered;
        self.repaired += other.repaired;
        self.ephemerals += other.ephemerals;
        self.deletions += other.deletions;
    }
}

#[test]
fn in_a_thousand_histories_no_client_has_a_gap_that_it_was_not_told_of() {
    let started = std::time::Instant::now();
    let sum = simulate_all(0..1_000);
    println!("1,000 seeds in {:?}: {sum:?}", started.elapsed());
    assert!(sum.repaired > 0, "no gap was repaired");
    assert!(sum.new_epochs > 0, "no epoch began");
    assert!(sum.losses > 0, "no client was told of a loss");
    assert!(sum.recovered > 0, "no client recovered");
    assert!(sum.lost > 0, "no publication got lost on its way");
    assert!(sum.ephemerals > 0, "no ephemeral was given");
    assert!(sum.deletions > 0, "nobody was taken out by a deletion");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..24 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
