//! A client that keeps its position: it notes everything, comes back by itself with `since` when its connection ends, and
//! speaks at a steady pace if it is to.
//!
//! One task does all of it. It reads the raw frames itself, so that a codec's mistake can't hide.

use crate::history::{Content, Event, Outcome, Position, Reason};
use crate::inbox::Inbox;
use crate::pace;
use crate::pomelo::{LOGIN, SEND};
use crate::tongue::{Heard, Said, Tongue};
use crate::websocket::{self, CLOSE, Frame, PING, PONG, Reader, Terms, Writer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// The id of a login; that of a message is its number and this.
const LOGIN_ID: u64 = 1;
const FIRST_ID: u64 = 2;
/// After the server's heartbeat comes the client's: soon enough for any test.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Before it tries again after a failure.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that doesn't come, or a login without an answer for so long, is given up: longer than the product may
/// take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages without an answer, at most.
const WINDOW: usize = 64;

/// How it goes to another connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// With a word: a close frame, and the server's.
    Closing,
    /// Without: a TCP reset.
    Breaking,
}

/// Leave where you are, and go there, or nowhere.
type Order = (Leaving, Option<SocketAddr>);

/// What a follower has noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// Everything that happened, in order.
    pub events: Vec<Event>,
    /// Where it stands.
    pub position: Option<Position>,
    /// It is logged in.
    pub online: bool,
    /// It was told to be nowhere.
    pub away: bool,
    /// What it said, and what came of it; nothing yet without an answer.
    pub said: BTreeMap<u64, Option<Outcome>>,
    /// Answers that were no success, in words, and how often each came.
    pub refusals: BTreeMap<String, usize>,
    /// The longest that an answer took, to a message or a login.
    pub slowest: Duration,
    /// When the last message was acknowledged.
    pub acknowledged: Option<Instant>,
    /// Logins that were answered otherwise, or not at all.
    pub failed_logins: usize,
    /// Login replies that said `recovered`, and those that denied it.
    pub recovered: (usize, usize),
    /// Publications that logins announced as missed.
    pub replayed: u64,
    /// The connection's end was the server's doing, so often.
    pub disconnected: usize,
    /// The reasons that it was given for that before it came.
    pub kicked: Vec<String>,
}

impl Notes {
    /// Messages with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        let said = self.said.values();
        said.filter(|came| **came == Some(outcome)).count()
    }

    /// Messages without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.said.values().filter(|came| came.is_none()).count()
    }

    /// All that it was told of losses, in order.
    #[must_use]
    pub fn losses(&self) -> Vec<(Position, Reason)> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Told(position, reason) if *reason != Reason::NewEpoch => {
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

/// A running client.
pub struct Follower {
    name: String,
    home: SocketAddr,
    notes: Arc<Inbox<Notes>>,
    orders: mpsc::UnboundedSender<Order>,
    task: AbortHandle,
}

/// Who a follower is to be.
pub struct Character {
    /// Its user.
    pub user: String,
    /// The protocol that it speaks.
    pub tongue: Tongue,
    /// Where it logs in.
    pub channel: String,
    /// Where it may connect to: first to the first, after a failure to the next.
    pub connectors: Vec<SocketAddr>,
    /// Between two messages of its; `None`: it listens only.
    pub pace: Option<Duration>,
    /// True while those who may shall speak.
    pub speaking: watch::Receiver<bool>,
}

impl Follower {
    /// Lets it begin.
    ///
    /// # Panics
    /// When there is no connector for it.
    #[must_use]
    pub fn start(character: Character) -> Self {
        let notes = Arc::<Inbox<Notes>>::default();
        let (sender, orders) = mpsc::unbounded_channel();
        let name = character.user.clone();
        let home = character.connectors[0];
        let task = Task {
            at: 0,
            away: false,
            character,
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

    /// Where it connected to first.
    #[must_use]
    pub fn home(&self) -> SocketAddr {
        self.home
    }

    /// What it has noted so far.
    #[must_use]
    pub fn notes(&self) -> &Inbox<Notes> {
        &self.notes
    }

    /// Lets it go to another connector, or come back to one, and returns when it is logged in there.
    ///
    /// # Panics
    /// When it isn't in time.
    pub async fn go_to(&self, connector: SocketAddr, leaving: Leaving) {
        let logins = |notes: &Notes| notes.recovered.0 + notes.recovered.1;
        let before = logins(&self.notes.read());
        self.is_to_go(leaving, Some(connector));
        let there = self.notes.until(2 * crate::SOON, |notes| {
            (notes.online && logins(notes) > before).then_some(())
        });
        let there = there.await;
        assert!(there.is_some(), "{} does not get to {connector}", self.name);
    }

    /// Tells it to go to a connector, or to be nowhere, as [`Follower::go_to`] and [`Follower::go_away`] do that wait for
    /// it. Who is told to be nowhere and has lost its connection by now does not come back.
    pub fn is_to_go(&self, leaving: Leaving, to: Option<SocketAddr>) {
        self.notes.write(|notes| notes.away = to.is_none());
        // The task lives as long as its follower.
        let _ = self.orders.send((leaving, to));
    }

    /// Lets it go, and returns when it is nowhere.
    ///
    /// # Panics
    /// When it isn't in time.
    pub async fn go_away(&self, leaving: Leaving) {
        self.is_to_go(leaving, None);
        let gone = self
            .notes
            .until(crate::SOON, |notes| (!notes.online).then_some(()));
        assert!(gone.await.is_some(), "{} does not go", self.name);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    character: Character,
    /// Which of the connectors it is at.
    at: usize,
    /// It is nowhere, until it is called.
    away: bool,
    notes: Arc<Inbox<Notes>>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// When it sent what is not answered.
    sent: BTreeMap<u64, Instant>,
    /// Messages that it has said, or tried to.
    numbers: u64,
}

impl Task {
    async fn run(mut self) {
        loop {
            // Also what was said while the connection ended.
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            while self.away {
                let Some(order) = self.orders.recv().await else {
                    return;
                };
                self.take(order);
            }
            let connectors = &self.character.connectors;
            let address = connectors[self.at % connectors.len()];
            let path = self.character.tongue.path();
            let connected = timeout(
                PATIENCE,
                websocket::connect(address, path, Terms::default()),
            )
            .await;
            if let Ok(Ok((writer, reader))) = connected {
                let ended = self.attend(writer, reader).await;
                self.lose_touch(ended);
            } else {
                self.at += 1;
            }
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// From one login to the end of the connection: how it ended if that was not its own doing.
    async fn attend(&mut self, mut writer: Writer, mut reader: Reader) -> Option<String> {
        let tongue = self.character.tongue;
        let since = self.notes.read().position.clone();
        let asked = Asked {
            at: Instant::now(),
            since,
        };
        say(
            &mut writer,
            tongue.hello().unwrap_or_else(|| self.login(&asked)),
        )
        .await;
        let mut pace = interval(self.character.pace.unwrap_or(PATIENCE));
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
                        PING => say(&mut writer, (PONG, frame.payload.to_vec())).await,
                        CLOSE => {
                            let (code, reason) = frame.close();
                            say(&mut writer, (CLOSE, frame.payload.to_vec())).await;
                            return Some(format!("{code} {reason}"));
                        }
                        _ => match self.data(&frame, &asked) {
                            Ok(owed) if owed.contains(&Heard::Handshake) => {
                                say(&mut writer, tongue.greeting()).await;
                                say(&mut writer, self.login(&asked)).await;
                            }
                            Ok(owed) if owed.contains(&Heard::Heartbeat) => {
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
                    say(&mut writer, (CLOSE, 1000u16.to_be_bytes().to_vec())).await;
                    return self.hear_out(reader, &asked).await;
                }
                _ = pace.tick() => {
                    // Asked now: it may have been told to be silent since the last time.
                    if online && self.may_speak() {
                        self.speak(&mut writer).await;
                    }
                }
                () = sleep_until(heartbeat.unwrap_or(asked.at)), if heartbeat.is_some() => {
                    heartbeat = None;
                    say(&mut writer, tongue.heartbeat()).await;
                }
                () = sleep_until(asked.at + PATIENCE), if !online => {
                    self.at += 1;
                    return Some("no answer to the login".into());
                }
            }
        }
    }

    /// Takes what still comes before the server's close.
    async fn hear_out(&mut self, mut reader: Reader, asked: &Asked) -> Option<String> {
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

    fn login(&self, asked: &Asked) -> Said {
        let character = &self.character;
        let mut body = json!({ "userId": character.user, "lessonId": character.channel });
        match &asked.since {
            Some(at) => body["since"] = json!({ "epoch": at.epoch, "offset": at.offset }),
            None => body["positions"] = true.into(),
        }
        character.tongue.request(LOGIN_ID, LOGIN, &body, None)
    }

    fn may_speak(&self) -> bool {
        let wanted = self.character.pace.is_some() && *self.character.speaking.borrow();
        wanted && self.sent.len() < WINDOW
    }

    async fn speak(&mut self, writer: &mut Writer) {
        let number = self.numbers;
        self.numbers += 1;
        self.sent.insert(number, Instant::now());
        self.notes.write(|notes| {
            notes.said.insert(number, None);
        });
        let key = format!("{}-{number}", self.character.user);
        let body = json!({ "n": number });
        let tongue = self.character.tongue;
        say(
            writer,
            tongue.request(FIRST_ID + number, SEND, &body, Some(&key)),
        )
        .await;
    }

    /// Takes a data frame and returns what is to be answered to; what it refuses ends the connection.
    fn data(&mut self, frame: &Frame, asked: &Asked) -> Result<Vec<Heard>, String> {
        let heard = match self.character.tongue.understand(frame) {
            Ok(heard) => heard,
            Err(what) => {
                self.notes
                    .write(|notes| notes.events.push(Event::Puzzled(what.clone())));
                return Err(what);
            }
        };
        for heard in &heard {
            match heard {
                Heard::Message(message) => self.message(message, asked)?,
                Heard::Kick(reason) => self.notes.write(|notes| notes.kicked.push(reason.clone())),
                Heard::Handshake | Heard::Heartbeat => {}
            }
        }
        Ok(heard)
    }

    fn message(&mut self, message: &Value, asked: &Asked) -> Result<(), String> {
        let mut outcome = Ok(());
        self.notes.write(|notes| {
            let Some(id) = message.get("id") else {
                if let Err(what) = push(notes, &self.character.channel, message) {
                    notes
                        .events
                        .push(Event::Puzzled(format!("{what}: {message}")));
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
                None => notes
                    .events
                    .push(Event::Puzzled(format!("an answer to nothing: {message}"))),
            }
        });
        outcome
    }

    fn take(&mut self, (leaving, to): Order) -> Leaving {
        self.away = to.is_none();
        if let Some(to) = to {
            let connectors = &mut self.character.connectors;
            let known = connectors.iter().position(|connector| *connector == to);
            self.at = known.unwrap_or_else(|| {
                connectors.push(to);
                connectors.len() - 1
            });
        }
        leaving
    }

    /// The connection is over, and with it all answers.
    fn lose_touch(&mut self, ended: Option<String>) {
        self.sent.clear();
        self.notes.write(|notes| {
            if notes.online && ended.is_some() {
                notes.disconnected += 1;
            }
            notes.online = false;
            for outcome in notes.said.values_mut() {
                outcome.get_or_insert(Outcome::Unknown);
            }
            let how = ended.unwrap_or_else(|| "its own doing".into());
            notes.events.push(Event::Ended(how));
        });
    }
}

/// A login.
struct Asked {
    at: Instant,
    since: Option<Position>,
}

/// Sends a frame; that the connection is gone by now will be heard.
async fn say(writer: &mut Writer, (opcode, payload): Said) {
    let _ = writer.frame(opcode, &payload).await;
}

fn logged_in(notes: &mut Notes, body: &Value, since: Option<&Position>) -> Result<(), String> {
    if body["code"] != 0 {
        notes.failed_logins += 1;
        return Err(format!("login refused: {body}"));
    }
    let Some(position) = Position::of(&body["position"]) else {
        notes.events.push(Event::Puzzled(format!(
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
        notes.events.push(Event::Told(position, reason));
        return Ok(());
    }
    let offset = message["offset"].as_u64().ok_or("no offset")?;
    let position = notes.position.as_mut().ok_or("a push before the login")?;
    position.offset = offset;
    let content = Content::new(route.ok_or("no route")?, &message["body"]);
    notes.events.push(Event::Received(offset, content));
    Ok(())
}
