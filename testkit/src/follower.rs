//! A client that keeps its position. It notes everything. If its connection ends, it connects again and logs in with
//! `since`. A follower with a pace also sends messages.
//!
//! One task does all of this. It reads the raw frames itself, so that a mistake in a codec can't hide.

use crate::history::{Content, Event, Outcome, Position, Reason};
use crate::inbox::Inbox;
use crate::pace;
use crate::pomelo::{LOGIN, SEND};
use crate::protocol::{Incoming, Outgoing, Protocol};
use crate::websocket::{self, CLOSE, Frame, PING, PONG, Reader, Terms, Writer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// The request id of a login.
const LOGIN_ID: u64 = 1;
/// The request id of a message is this plus its number.
const FIRST_ID: u64 = 2;
/// The client answers a heartbeat after this time. It is short enough for every test.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The average pause before it connects again.
const PAUSE: Duration = Duration::from_millis(50);
/// The follower gives up connecting, or waiting for the answer to a login, after this time. The product must be faster.
const PATIENCE: Duration = Duration::from_secs(5);
/// At most this many messages are unanswered.
const WINDOW: usize = 64;

/// How a follower leaves its connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It sends a close frame and waits for the server's.
    Closing,
    /// It resets the TCP connection.
    Breaking,
}

/// Leave the connector in this way, and connect to that one; with `None`, stay disconnected.
type Order = (Leaving, Option<SocketAddr>);

/// What a follower has noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// Everything that happened, in order.
    pub events: Vec<Event>,
    /// Its position.
    pub position: Option<Position>,
    /// True while it is logged in.
    pub online: bool,
    /// True while it has been told to stay disconnected.
    pub away: bool,
    /// The messages it has sent and their outcomes; `None` while a message is not answered.
    pub said: BTreeMap<u64, Option<Outcome>>,
    /// The answers that were not a success, as text, and how often each of them came.
    pub refusals: BTreeMap<String, usize>,
    /// The longest time that an answer took, to a message or a login.
    pub slowest: Duration,
    /// When the last message was acknowledged.
    pub acknowledged: Option<Instant>,
    /// The number of logins that were refused.
    pub failed_logins: usize,
    /// The number of login replies with `recovered`, and of those without.
    pub recovered: (usize, usize),
    /// The number of missed publications that the replies to logins announced.
    pub replayed: u64,
    /// How often the server, or the network, ended the connection.
    pub disconnected: usize,
    /// How often it was taken out of its channel. It connects again then.
    pub removed: usize,
    /// The reasons that the server gave before it closed the connection.
    pub kicked: Vec<String>,
}

impl Notes {
    /// The number of messages with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        let said = self.said.values();
        said.filter(|came| **came == Some(outcome)).count()
    }

    /// The number of messages without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.said.values().filter(|came| came.is_none()).count()
    }

    /// All losses that it was told of, in order.
    #[must_use]
    pub fn losses(&self) -> Vec<(Position, Reason)> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::PositionTold(position, reason) if *reason != Reason::NewEpoch => {
                Some((position.clone(), *reason))
            }
            _ => None,
        });
        told.collect()
    }

    fn answered(&mut self, since: Instant) {
        self.slowest = self.slowest.max(pace::since(since));
    }
}

/// A running follower.
pub struct Follower {
    name: String,
    home: SocketAddr,
    notes: Arc<Inbox<Notes>>,
    orders: mpsc::UnboundedSender<Order>,
    task: AbortHandle,
}

/// The settings of a follower.
pub struct Settings {
    /// Its user.
    pub user: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The channel in which it logs in.
    pub channel: String,
    /// The connectors: it begins with the first, and goes to the next one after a failure.
    pub connectors: Vec<SocketAddr>,
    /// The pause between two messages; `None` if it only listens.
    pub pace: Option<Duration>,
    /// True while followers with a pace are to send.
    pub sending: watch::Receiver<bool>,
}

impl Follower {
    /// Starts a follower.
    ///
    /// # Panics
    /// If the list of connectors is empty.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let notes = Arc::<Inbox<Notes>>::default();
        let (sender, orders) = mpsc::unbounded_channel();
        let name = settings.user.clone();
        let home = settings.connectors[0];
        let task = Task {
            at: 0,
            away: false,
            settings,
            notes: Arc::clone(&notes),
            orders,
            sent: BTreeMap::new(),
            numbers: 0,
        };
        Self {
            name,
            home,
            notes,
            orders: sender,
            task: tokio::spawn(task.run()).abort_handle(),
        }
    }

    /// Its user.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connector that it connects to first.
    #[must_use]
    pub fn home(&self) -> SocketAddr {
        self.home
    }

    /// What it has noted so far.
    #[must_use]
    pub fn notes(&self) -> &Inbox<Notes> {
        &self.notes
    }

    /// Lets it connect to another connector, or connect again, and returns when it is logged in there.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn go_to(&self, connector: SocketAddr, leaving: Leaving) {
        let logins = |notes: &Notes| notes.recovered.0 + notes.recovered.1;
        let before = logins(&self.notes.read());
        self.begin_move(leaving, Some(connector));
        let there = self.notes.until(2 * crate::SOON, |notes| {
            (notes.online && logins(notes) > before).then_some(())
        });
        let there = there.await;
        assert!(
            there.is_some(),
            "{} does not log in at {connector}",
            self.name
        );
    }

    /// Tells it to go to a connector, or to stay disconnected, and does not wait for that as [`Follower::go_to`] and
    /// [`Follower::disconnect`] do. If it has lost its connection already and is told to stay disconnected, it does not
    /// connect again.
    pub fn begin_move(&self, leaving: Leaving, to: Option<SocketAddr>) {
        self.notes.write(|notes| notes.away = to.is_none());
        // The task lives as long as its follower.
        let _ = self.orders.send((leaving, to));
    }

    /// Lets it disconnect, and returns when it has done so.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn disconnect(&self, leaving: Leaving) {
        self.begin_move(leaving, None);
        let gone = self
            .notes
            .until(crate::SOON, |notes| (!notes.online).then_some(()));
        assert!(gone.await.is_some(), "{} does not disconnect", self.name);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    settings: Settings,
    /// The index of the present connector. It may be larger than the list.
    at: usize,
    /// True while it stays disconnected.
    away: bool,
    notes: Arc<Inbox<Notes>>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// The unanswered messages, and when each of them was sent.
    sent: BTreeMap<u64, Instant>,
    /// The number of messages that it has sent, or tried to send.
    numbers: u64,
}

impl Task {
    async fn run(mut self) {
        loop {
            // Orders that came while the connection ended count, too.
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            while self.away {
                let Some(order) = self.orders.recv().await else {
                    return;
                };
                self.take(order);
            }
            let connectors = &self.settings.connectors;
            let address = connectors[self.at % connectors.len()];
            let path = self.settings.protocol.path();
            let connected = timeout(
                PATIENCE,
                websocket::connect(address, path, Terms::default()),
            )
            .await;
            if let Ok(Ok((writer, reader))) = connected {
                let ended = self.run_connection(writer, reader).await;
                self.connection_ended(ended);
            } else {
                self.at += 1;
            }
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Logs in and serves the connection until its end. Returns how it ended, or `None` if the follower ended it.
    async fn run_connection(&mut self, mut writer: Writer, mut reader: Reader) -> Option<String> {
        let protocol = self.settings.protocol;
        let since = self.notes.read().position.clone();
        let asked = Asked {
            at: Instant::now(),
            since,
        };
        send(
            &mut writer,
            protocol.handshake().unwrap_or_else(|| self.login(&asked)),
        )
        .await;
        let mut pace = interval(self.settings.pace.unwrap_or(PATIENCE));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = None;
        loop {
            let online = self.notes.read().online;
            tokio::select! {
                frame = reader.frame() => {
                    let frame = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Some("closed".into()),
                        Err(error) => return Some(error.to_string()),
                    };
                    match frame.opcode {
                        PING => send(&mut writer, (PONG, frame.payload.to_vec())).await,
                        CLOSE => {
                            let (code, reason) = frame.close();
                            send(&mut writer, (CLOSE, frame.payload.to_vec())).await;
                            return Some(format!("{code} {reason}"));
                        }
                        _ => match self.data(&frame, &asked) {
                            Ok(owed) if owed.contains(&Incoming::Handshake) => {
                                send(&mut writer, protocol.handshake_ack()).await;
                                send(&mut writer, self.login(&asked)).await;
                            }
                            Ok(owed) if owed.contains(&Incoming::Heartbeat) => {
                                heartbeat = Some(Instant::now() + HEARTBEAT);
                            }
                            Ok(_) => {}
                            Err(refused) => return Some(refused),
                        },
                    }
                }
                Some(order) = self.orders.recv() => {
                    if self.take(order) == Leaving::Breaking {
                        let _ = writer.reset_on_drop();
                        return None;
                    }
                    send(&mut writer, (CLOSE, 1000u16.to_be_bytes().to_vec())).await;
                    return self.drain(reader, &asked).await;
                }
                _ = pace.tick() => {
                    // Look again: the senders may have been stopped since the last tick.
                    if online && self.may_send() {
                        self.send_message(&mut writer).await;
                    }
                }
                () = sleep_until(heartbeat.unwrap_or(asked.at)), if heartbeat.is_some() => {
                    heartbeat = None;
                    send(&mut writer, protocol.heartbeat()).await;
                }
                () = sleep_until(asked.at + PATIENCE), if !online => {
                    self.at += 1;
                    return Some("no answer to the login".into());
                }
            }
        }
    }

    /// Takes everything that comes before the server's close frame.
    async fn drain(&mut self, mut reader: Reader, asked: &Asked) -> Option<String> {
        let rest = async {
            while let Ok(Some(frame)) = reader.frame().await {
                match frame.opcode {
                    CLOSE => break,
                    PING => {}
                    _ => {
                        if self.data(&frame, asked).is_err() {
                            break;
                        }
                    }
                }
            }
        };
        match timeout(PATIENCE, rest).await {
            Ok(()) => None,
            Err(_) => Some("no answer to the close".into()),
        }
    }

    fn login(&self, asked: &Asked) -> Outgoing {
        let settings = &self.settings;
        let mut body = json!({ "userId": settings.user, "lessonId": settings.channel });
        match &asked.since {
            Some(at) => body["since"] = json!({ "epoch": at.epoch, "offset": at.offset }),
            None => body["positions"] = true.into(),
        }
        settings.protocol.request(LOGIN_ID, LOGIN, &body, None)
    }

    fn may_send(&self) -> bool {
        let wanted = self.settings.pace.is_some() && *self.settings.sending.borrow();
        wanted && self.sent.len() < WINDOW
    }

    async fn send_message(&mut self, writer: &mut Writer) {
        let number = self.numbers;
        self.numbers += 1;
        self.sent.insert(number, Instant::now());
        self.notes.write(|notes| {
            notes.said.insert(number, None);
        });
        let key = format!("{}-{number}", self.settings.user);
        let body = json!({ "n": number });
        let protocol = self.settings.protocol;
        send(
            writer,
            protocol.request(FIRST_ID + number, SEND, &body, Some(&key)),
        )
        .await;
    }

    /// Takes a data frame and returns its content. An error ends the connection.
    fn data(&mut self, frame: &Frame, asked: &Asked) -> Result<Vec<Incoming>, String> {
        let heard = match self.settings.protocol.decode(frame) {
            Ok(heard) => heard,
            Err(what) => {
                self.notes
                    .write(|notes| notes.events.push(Event::ProtocolError(what.clone())));
                return Err(what);
            }
        };
        for heard in &heard {
            match heard {
                Incoming::Message(message) => self.message(message, asked)?,
                Incoming::Kick(reason) => {
                    self.notes.write(|notes| notes.kicked.push(reason.clone()));
                }
                Incoming::Handshake | Incoming::Heartbeat => {}
            }
        }
        Ok(heard)
    }

    fn message(&mut self, message: &Value, asked: &Asked) -> Result<(), String> {
        let mut outcome = Ok(());
        self.notes.write(|notes| {
            let Some(id) = message.get("id") else {
                if message["route"] == "onRemoved" {
                    notes.removed += 1;
                    outcome = Err("taken out of the channel".to_owned());
                    return;
                }
                if let Err(what) = push(notes, &self.settings.channel, message) {
                    notes
                        .events
                        .push(Event::ProtocolError(format!("{what}: {message}")));
                }
                return;
            };
            let body = &message["body"];
            if *id == LOGIN_ID {
                notes.answered(asked.at);
                outcome = logged_in(notes, body, asked.since.as_ref());
                return;
            }
            let number = id.as_u64().and_then(|id| id.checked_sub(FIRST_ID));
            match number.and_then(|number| Some((number, self.sent.remove(&number)?))) {
                Some((number, since)) => sent(notes, body, number, since),
                None => notes.events.push(Event::ProtocolError(format!(
                    "an answer to no request: {message}"
                ))),
            }
        });
        outcome
    }

    fn take(&mut self, (leaving, to): Order) -> Leaving {
        self.away = to.is_none();
        if let Some(to) = to {
            let connectors = &mut self.settings.connectors;
            let known = connectors.iter().position(|connector| *connector == to);
            self.at = known.unwrap_or_else(|| {
                connectors.push(to);
                connectors.len() - 1
            });
        }
        leaving
    }

    /// Notes the end of the connection. Messages without an answer will get none.
    fn connection_ended(&mut self, ended: Option<String>) {
        self.sent.clear();
        self.notes.write(|notes| {
            if notes.online && ended.is_some() {
                notes.disconnected += 1;
            }
            notes.online = false;
            for outcome in notes.said.values_mut() {
                outcome.get_or_insert(Outcome::Unknown);
            }
            let how = ended.unwrap_or_else(|| "ended by the client".into());
            notes.events.push(Event::Ended(how));
        });
    }
}

/// A login that is under way.
struct Asked {
    at: Instant,
    since: Option<Position>,
}

/// Sends a frame. If the connection has ended, the reader will find out.
async fn send(writer: &mut Writer, (opcode, payload): Outgoing) {
    let _ = writer.frame(opcode, &payload).await;
}

fn logged_in(notes: &mut Notes, body: &Value, since: Option<&Position>) -> Result<(), String> {
    if body["code"] != 0 {
        notes.failed_logins += 1;
        return Err(format!("login refused: {body}"));
    }
    let Some(position) = Position::of(&body["position"]) else {
        notes.events.push(Event::ProtocolError(format!(
            "a login without a position: {body}"
        )));
        return Err("no position".into());
    };
    notes.online = true;
    match since {
        None => {
            notes.position = Some(position.clone());
            notes.events.push(Event::Entered(position));
        }
        Some(since) => {
            let recovered = body["recovered"] == true;
            if recovered {
                notes.recovered.0 += 1;
            } else {
                notes.recovered.1 += 1;
            }
            notes.replayed += body["replayed"].as_u64().unwrap_or_default();
            notes.events.push(Event::Resumed {
                since: since.clone(),
                recovered,
            });
        }
    }
    Ok(())
}

fn sent(notes: &mut Notes, body: &Value, number: u64, since: Instant) {
    let outcome = match body["code"].as_u64() {
        Some(0) => Outcome::Acknowledged,
        Some(500) => Outcome::Unknown,
        _ => Outcome::Refused,
    };
    if outcome == Outcome::Acknowledged {
        notes.acknowledged = Some(Instant::now());
    } else {
        *notes.refusals.entry(body.to_string()).or_default() += 1;
    }
    notes.answered(since);
    notes.said.insert(number, Some(outcome));
}

fn push(notes: &mut Notes, channel: &str, message: &Value) -> Result<(), &'static str> {
    let route = message["route"].as_str();
    if route == Some("onKick") {
        let reason = message["body"]["reason"].as_str();
        notes.kicked.push(reason.ok_or("no reason")?.to_owned());
        return Ok(());
    }
    if message["channel"] != channel {
        return Err("a push of another channel");
    }
    if route == Some("onPosition") {
        let body = &message["body"];
        let position = Position::of(body).ok_or("no position")?;
        let reason = body["reason"].as_str().and_then(Reason::named);
        let reason = reason.ok_or("no known reason")?;
        notes.position = Some(position.clone());
        notes.events.push(Event::PositionTold(position, reason));
        return Ok(());
    }
    let offset = message["offset"].as_u64().ok_or("no offset")?;
    let position = notes.position.as_mut().ok_or("a push before the login")?;
    position.offset = offset;
    let content = Content::new(route.ok_or("no route")?, &message["body"]);
    notes.events.push(Event::Received(offset, content));
    Ok(())
}
