//! A load on a thread of its own: an attack, or harmless requests that use as much processor time as an attack did.

use super::usage::{Curve, Meter, Since};
use crate::pomelo::{LOGIN, SEND};
use crate::websocket::{self, PING, PONG, TEXT, Terms};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

/// How often the processor time of an attack is noted, and how often the harmless load is adjusted to it.
const STEP: Duration = Duration::from_millis(10);
/// The pause between the starts of two harmless clients. It is the same as for attackers.
const APART: Duration = Duration::from_millis(4);
/// The number of harmless clients. Each has one unanswered request at a time.
const HARMLESS: u32 = 32;
/// A harmless client reads its room's history once in this many requests.
const REQUESTS_PER_READ: u64 = 20;

/// Counters by name: what a load did, and how it was answered.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Tally {
    /// Counts one more.
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts this many more.
    pub fn add(&self, what: &'static str, more: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what).or_default() += more;
    }

    /// The count so far.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(what).copied().unwrap_or_default()
    }

    /// All counts.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The services that a load is for.
#[derive(Debug, Clone)]
pub struct Target {
    /// The connector's port for clients.
    pub connector: SocketAddr,
    /// Chat's port for back ends and connectors.
    pub chat: SocketAddr,
    /// Differs from one load to the next, so that each load can use new users and channels.
    pub round: usize,
    /// The counters of the load.
    pub tally: Tally,
}

/// A load. It runs until it ends or is dropped. What it has spawned ends with its runtime.
pub trait Attack: Clone + Send + 'static {
    /// Runs the load.
    fn run(self, target: Target) -> impl Future<Output = ()> + Send;
}

/// Runs a load for some time on a thread of its own. Returns the processor time that it and the services have used, as
/// a curve. At the end all its sockets are closed.
///
/// # Panics
/// If the load panics.
pub async fn attack(attack: impl Attack, target: Target, meter: &Meter, during: Duration) -> Curve {
    on_a_thread(meter, during, move |_| attack.run(target)).await
}

/// The control: harmless clients chat, each in a room of its own, so much that the processor time follows this curve.
///
/// # Panics
/// Like [`attack`].
pub async fn harmless(target: Target, meter: &Meter, curve: Curve, during: Duration) -> Curve {
    on_a_thread(meter, during, move |since| chat(target, since, curve)).await
}

async fn on_a_thread<F: Future<Output = ()> + Send>(
    meter: &Meter,
    during: Duration,
    load: impl FnOnce(Since) -> F + Send + 'static,
) -> Curve {
    let (told, begun) = oneshot::channel();
    let (ended, mut end) = oneshot::channel::<()>();
    // If this future is dropped, this sender is dropped, and the load ends, too.
    let (_stop, stopped) = oneshot::channel::<()>();
    let services = meter.clone();
    let thread = std::thread::spawn(move || {
        let since = Since::now(services.with_this_thread());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime of one thread");
        let _ = told.send(since.clone());
        runtime.block_on(async {
            let loading = async {
                load(since).await;
                std::future::pending::<()>().await;
            };
            let loading = timeout(during, loading);
            tokio::select! {
                _ = loading => {}
                _ = stopped => {}
            }
        });
        // Sockets close here, while the thread can still be measured.
        drop(runtime);
        let _ = ended.send(());
    });
    let since = begun.await.expect("the load begins");
    let mut curve = Curve::default();
    let mut steps = interval(STEP);
    loop {
        tokio::select! {
            _ = steps.tick() => {
                let (time, used) = since.read();
                curve.add(time, used);
            }
            _ = &mut end => break,
        }
    }
    thread.join().expect("the load does not panic");
    curve
}

/// Harmless clients that chat as fast as they are answered. Used as an attack, they must cause no finding.
#[derive(Debug, Clone, Copy)]
pub struct Chatting;

impl Attack for Chatting {
    async fn run(self, target: Target) {
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let done = target.tally.clone();
        let mut clients = converse_all(&target, &permits, &done);
        while let Some(ended) = clients.join_next().await {
            note_failure(&target, ended);
        }
    }
}

async fn chat(target: Target, since: Since, curve: Curve) {
    let permits = Arc::new(Semaphore::new(0));
    let done = Tally::default();
    let mut clients = converse_all(&target, &permits, &done);
    let mut steps = interval(STEP);
    // The processor time of one request. This value is used until it is measured.
    let mut cost = Duration::from_micros(150);
    loop {
        steps.tick().await;
        let (time, used) = since.read();
        let requests = done.of("requests");
        if requests > 100 {
            cost = used.div_f64(requests as f64).max(Duration::from_micros(10));
        }
        let requests = |used: Duration| (used.as_secs_f64() / cost.as_secs_f64()).round() as usize;
        let missing = requests(curve.at(time + STEP).saturating_sub(used));
        // If the control is behind the curve, it catches up slowly. A burst would make it look slow.
        let planned = requests(curve.at(time + STEP).saturating_sub(curve.at(time)));
        let more = missing.min(2 * planned + 2);
        let more = more.saturating_sub(permits.available_permits());
        permits.add_permits(more);
        while let Some(ended) = clients.try_join_next() {
            note_failure(&target, ended);
        }
    }
}

type Ended = Result<io::Result<()>, tokio::task::JoinError>;

fn note_failure(target: &Target, ended: Ended) {
    if let Ok(Err(error)) = ended {
        target.tally.count("harmless clients that failed");
        eprintln!("a harmless client: {error}");
    }
}

fn converse_all(
    target: &Target,
    permits: &Arc<Semaphore>,
    done: &Tally,
) -> JoinSet<io::Result<()>> {
    let mut clients = JoinSet::new();
    for number in 0..HARMLESS {
        let name = format!("harmless-{}-{number}", target.round);
        let (permits, done, connector) = (Arc::clone(permits), done.clone(), target.connector);
        clients.spawn(async move {
            sleep(APART * number).await;
            converse(connector, &name, &permits, &done).await
        });
    }
    clients
}

/// Sends one request after the other. Before each it waits for a permit, and after each for the answer.
async fn converse(
    connector: SocketAddr,
    name: &str,
    permits: &Semaphore,
    done: &Tally,
) -> io::Result<()> {
    let (mut writer, mut reader) = websocket::connect(connector, "/ws", Terms::default()).await?;
    for id in 0u64.. {
        let request = match id {
            0 => json!({ "id": id, "route": LOGIN, "body": { "userId": name, "lessonId": name } }),
            id if id % REQUESTS_PER_READ == 0 => {
                json!({ "id": id, "route": "chat.handler.history", "body": {} })
            }
            id => json!({ "id": id, "route": SEND, "body": { "n": id } }),
        };
        if id > 0 {
            let permit = permits.acquire().await.map_err(io::Error::other)?;
            permit.forget();
        }
        writer.frame(TEXT, request.to_string().as_bytes()).await?;
        loop {
            let frame = reader.frame().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match frame.opcode {
                TEXT => {
                    let message: Value = serde_json::from_slice(&frame.payload)?;
                    if message["id"] == id {
                        break;
                    }
                }
                PING => writer.frame(PONG, &frame.payload).await?,
                _ => return Err(io::Error::other(format!("{frame:?}"))),
            }
        }
        done.count("requests");
    }
    Ok(())
}
