//! The quiet clients: each has a room of its own, sends little, and notes how long each message takes to come back. One
//! more client reads a room's history now and then.

use crate::pomelo::{LOGIN, SEND};
use crate::wait;
use crate::websocket::{self, CLOSE, PING, PONG, Reader, TEXT, Terms, Writer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How many clients send. Several give more samples than one, while each of them sends little.
const SPEAKERS: u32 = 4;
/// The pause between two messages of one client.
const PACE: Duration = Duration::from_millis(20);
/// The pause between two reads of a room's history. Another client in that room reads it. Answers of one connection
/// come in the order of its requests, so a message behind a slow read would look slow, too.
const READ_PACE: Duration = Duration::from_millis(100);
const HISTORY: &str = "chat.handler.history";

/// A message or a history read, and its outcome.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// When it was due. If a client can't send in time, the latency counts from here.
    due: Instant,
    is_read: bool,
    answered: Option<Instant>,
    refused: bool,
    heard: Option<Instant>,
}

#[derive(Default)]
struct Notes {
    samples: Vec<Sample>,
    /// The last answer that was a refusal.
    refusal: Option<String>,
    ended: Option<String>,
}

/// Quiet clients that run on a thread of their own.
pub struct Quiet {
    clients: Vec<Arc<Mutex<Notes>>>,
    stop: tokio::sync::watch::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the quiet clients observed in a period.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// For each message, the time from when it was due to its arrival in the room; sorted.
    pub heard: Vec<Duration>,
    /// When the message that took the longest to arrive was due, since the beginning of the period.
    pub slowest_at: Duration,
    /// For each message, the time from when it was due to its answer, also if that is a refusal; sorted.
    pub answered: Vec<Duration>,
    /// For each history read, the time from when it was due to its answer; sorted.
    pub looked: Vec<Duration>,
    /// Messages and reads that were refused.
    pub refused: usize,
    /// Messages and reads that were never answered, and accepted messages that never arrived.
    pub lost: usize,
}

impl Quiet {
    /// Connects and logs in all of them. From then on they send.
    ///
    /// # Panics
    /// If one can't log in.
    pub async fn start(connector: SocketAddr) -> Self {
        let clients: Vec<_> = (0..=SPEAKERS).map(|_| Arc::default()).collect();
        let (stop, stopped) = tokio::sync::watch::channel(());
        let of_thread = clients.clone();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime of one thread");
            runtime.block_on(speak(connector, of_thread, ready, stopped));
        });
        is_ready.await.expect("the quiet clients log in");
        Self {
            clients,
            stop,
            thread: Some(thread),
        }
    }

    /// The outcome of everything that was due in this period. It waits at most this long for answers that are missing.
    pub async fn observed(&self, begin: Instant, end: Instant, patience: Duration) -> Observed {
        let is_open = |sample: &Sample| {
            let is_message_under_way = !sample.is_read && !sample.refused && sample.heard.is_none();
            sample.answered.is_none() || is_message_under_way
        };
        let all_known = async || (!self.samples(begin, end).iter().any(is_open)).then_some(());
        let _ = wait::within(patience, all_known).await;
        let mut observed = Observed::default();
        let mut slowest = Duration::ZERO;
        for sample in self.samples(begin, end) {
            let answered = sample.answered.map(|at| at - sample.due);
            if sample.is_read {
                observed.looked.extend(answered);
            } else {
                observed.answered.extend(answered);
                if let Some(took) = sample.heard.map(|at| at - sample.due) {
                    observed.heard.push(took);
                    if took > slowest {
                        (slowest, observed.slowest_at) = (took, sample.due - begin);
                    }
                }
            }
            observed.refused += usize::from(sample.refused);
            observed.lost += usize::from(is_open(&sample));
        }
        observed.heard.sort();
        observed.answered.sort();
        observed.looked.sort();
        observed
    }

    /// The answer with which a client was refused, if there was one.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.clients.iter().find_map(|it| lock(it).refusal.clone())
    }

    /// How a client's connection ended, if one has.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.clients.iter().find_map(|it| lock(it).ended.clone())
    }

    fn samples(&self, begin: Instant, end: Instant) -> Vec<Sample> {
        let of = |notes: &Arc<Mutex<Notes>>| {
            let notes = lock(notes);
            let within = notes
                .samples
                .iter()
                .filter(|it| (begin..end).contains(&it.due));
            within.copied().collect::<Vec<_>>()
        };
        self.clients.iter().flat_map(of).collect()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.stop.send_replace(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn speak(
    connector: SocketAddr,
    clients: Vec<Arc<Mutex<Notes>>>,
    ready: tokio::sync::oneshot::Sender<()>,
    mut stopped: tokio::sync::watch::Receiver<()>,
) {
    let mut sockets = Vec::new();
    for number in 0..=SPEAKERS {
        // The last client reads the history of the first one's room.
        let (user, room) = (format!("quiet-{number}"), number % SPEAKERS);
        let body = json!({ "userId": user, "lessonId": format!("quiet-{room}") });
        let login = json!({ "id": 0, "route": LOGIN, "body": body });
        let socket = websocket::connect(connector, "/ws", Terms::default()).await;
        let (mut writer, reader) = socket.expect("a WebSocket for a quiet client");
        let said = writer.frame(TEXT, login.to_string().as_bytes()).await;
        said.expect("a quiet client logs in");
        sockets.push((writer, reader));
    }
    let begin = Instant::now() + PACE;
    for (number, (notes, (writer, reader))) in (0..).zip(clients.into_iter().zip(sockets)) {
        let reads = number == SPEAKERS;
        let pace = if reads { READ_PACE } else { PACE };
        let mut ticks = interval_at(begin + PACE * number / SPEAKERS, pace);
        // A missed tick is not dropped: the message is sent late, and its latency counts from when it was due.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (pongs, owed) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(listen(Arc::clone(&notes), reader, pongs));
        tokio::spawn(talk(notes, writer, ticks, reads, owed));
    }
    let _ = ready.send(());
    let _ = stopped.changed().await;
}

/// Sends requests when they are due, and pongs. The index of a sample is the id of its request minus one.
async fn talk(
    notes: Arc<Mutex<Notes>>,
    mut writer: Writer,
    mut ticks: Interval,
    is_read: bool,
    mut pongs: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
) {
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            pong = pongs.recv() => {
                let Some(pong) = pong else { return };
                let _ = writer.frame(PONG, &pong).await;
                continue;
            }
        };
        let id = {
            let mut notes = lock(&notes);
            notes.samples.push(Sample {
                due,
                is_read,
                answered: None,
                refused: false,
                heard: None,
            });
            notes.samples.len()
        };
        let request = if is_read {
            json!({ "id": id, "route": HISTORY, "body": {} })
        } else {
            json!({ "id": id, "route": SEND, "body": { "n": id } })
        };
        if writer
            .frame(TEXT, request.to_string().as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn listen(
    notes: Arc<Mutex<Notes>>,
    mut reader: Reader,
    pongs: tokio::sync::mpsc::UnboundedSender<Vec<u8>>,
) {
    let end = loop {
        let frame = match reader.frame().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break "dropped".to_owned(),
            Err(error) => break error.to_string(),
        };
        let now = Instant::now();
        match frame.opcode {
            PING => {
                let _ = pongs.send(frame.payload.to_vec());
            }
            CLOSE => break format!("{:?}", frame.close()),
            _ => {
                let message: Value = match serde_json::from_slice(&frame.payload) {
                    Ok(message) => message,
                    Err(error) => break error.to_string(),
                };
                note(&mut lock(&notes), &message, now);
            }
        }
    };
    lock(&notes).ended.get_or_insert(end);
}

fn note(notes: &mut Notes, message: &Value, now: Instant) {
    let is_push = message["route"] == "onMessage";
    let number = if is_push {
        &message["body"]["n"]
    } else {
        &message["id"]
    };
    let place = number.as_u64().and_then(|n| usize::try_from(n).ok());
    let sample = place.and_then(|n| notes.samples.get_mut(n.checked_sub(1)?));
    let Some(sample) = sample else { return };
    if is_push {
        // The client that reads receives the sender's messages, too. Only the first arrival counts.
        sample.heard.get_or_insert(now);
    } else {
        sample.answered.get_or_insert(now);
        if message["body"]["code"] != 0 {
            sample.refused = true;
            notes.refusal = Some(message["body"].to_string());
        }
    }
}
