//! Many followers in a channel: some speak, all listen, until everything has come to rest and is checked.

use crate::chat_api::ChatApi;
use crate::checker::{self, Finding, Kind};
use crate::follower::{Character, Follower, Notes};
use crate::history::{History, Member, Outcome, Position};
use crate::log::Log;
use crate::tongue::Tongue;
use crate::{SOON, pace, wait};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The channel that they are in if no other is named.
pub const ROOM: &str = "room";

/// What keeps every publication of a test, however long it runs.
pub const WHOLE_LOG: [&str; 2] = ["--log-rule", "*:entries=1000000,bytes=1GiB"];

/// Between two messages of one sender.
const PACE: Duration = Duration::from_millis(8);

/// Followers in a channel.
pub struct Crowd {
    room: String,
    connectors: Vec<SocketAddr>,
    followers: Vec<Follower>,
    speaking: watch::Sender<bool>,
}

impl Crowd {
    /// So many who speak and so many who only listen, spread over the connectors, all logged in; nobody speaks yet.
    ///
    /// # Panics
    /// When somebody can't log in.
    pub async fn gather(connectors: &[SocketAddr], speakers: usize, listeners: usize) -> Self {
        let mut crowd = Self::of_nobody(ROOM, connectors);
        for number in 0..speakers {
            crowd.add_in_turn(&format!("speaker{number}"), Some(PACE));
        }
        for number in 0..listeners {
            crowd.add_in_turn(&format!("listener{number}"), None);
        }
        crowd.until_online().await;
        crowd
    }

    /// Nobody yet, in this channel.
    #[must_use]
    pub fn of_nobody(room: &str, connectors: &[SocketAddr]) -> Self {
        Self {
            room: room.to_owned(),
            connectors: connectors.to_vec(),
            followers: Vec::new(),
            speaking: watch::Sender::new(false),
        }
    }

    fn add_in_turn(&mut self, user: &str, pace: Option<Duration>) {
        self.add(user, pace, self.followers.len() % self.connectors.len());
    }

    /// One more, who connects to this connector first, after a failure to the next; whose name begins with "speaker" if
    /// it is to say something at a pace.
    pub fn add(&mut self, user: &str, pace: Option<Duration>, connector: usize) {
        let mut connectors = self.connectors.clone();
        connectors.rotate_left(connector);
        // In pairs, so that both are spoken on each connector.
        let tongue = match self.followers.len() / 2 % 2 {
            0 => Tongue::Json,
            _ => Tongue::Pomelo,
        };
        self.followers.push(Follower::start(Character {
            user: user.to_owned(),
            tongue,
            channel: self.room.clone(),
            connectors,
            pace,
            speaking: self.speaking.subscribe(),
        }));
    }

    /// One more who listens.
    ///
    /// # Panics
    /// When it can't log in.
    pub async fn joined_by(&mut self, user: &str) -> &Follower {
        self.add_in_turn(user, None);
        self.until_online().await;
        self.followers.last().expect("one was added")
    }

    /// Waits until everybody is logged in who was not told to be nowhere.
    ///
    /// # Panics
    /// When somebody isn't in time.
    pub async fn until_online(&self) {
        for follower in &self.followers {
            let online = follower.notes().until(2 * SOON, |notes| {
                // A login's position is where a member begins.
                let there = notes.online && notes.position.is_some();
                (there || notes.away).then_some(())
            });
            let notes = online.await;
            assert!(
                notes.is_some(),
                "{} is not logged in: {:?}",
                follower.name(),
                follower.notes().read().events.last()
            );
        }
    }

    /// The followers: speakers first.
    #[must_use]
    pub fn followers(&self) -> &[Follower] {
        &self.followers
    }

    /// Who connects to these connectors first.
    pub fn at(&self, connector: usize) -> impl Iterator<Item = &Follower> {
        let home = self.connectors[connector];
        let followers = self.followers.iter();
        followers.filter(move |follower| follower.home() == home)
    }

    /// Lets the speakers speak.
    pub fn speak(&self) {
        self.speaking.send_replace(true);
    }

    /// Lets them fall silent, and waits until all they have said is answered.
    ///
    /// # Panics
    /// When it isn't in time.
    pub async fn fall_silent(&self) {
        self.speaking.send_replace(false);
        for follower in &self.followers {
            let answered = follower
                .notes()
                .until(2 * SOON, |notes| (notes.unanswered() == 0).then_some(()));
            assert!(
                answered.await.is_some(),
                "{} is not answered",
                follower.name()
            );
        }
    }

    /// How many messages have this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.sum(|notes| notes.count(outcome))
    }

    /// Adds something of everybody's up.
    pub fn sum(&self, what: impl Fn(&Notes) -> usize) -> usize {
        let notes = self.followers.iter().map(|follower| follower.notes());
        notes.map(|notes| what(&notes.read())).sum()
    }

    /// The longest that anybody had to wait for an answer.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        let notes = self.followers.iter().map(|f| f.notes().read().slowest);
        notes.max().unwrap_or_default()
    }

    /// How many messages are acknowledged of each speaker who was not told to be nowhere.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<usize> {
        let speakers = self.followers.iter();
        let speakers = speakers.filter(|f| f.name().starts_with("speaker"));
        let notes = speakers.map(|follower| follower.notes().read());
        let notes = notes.filter(|notes| !notes.away);
        notes
            .map(|notes| notes.count(Outcome::Acknowledged))
            .collect()
    }

    /// Waits until each speaker who was not told to be nowhere has so many more messages acknowledged; how long that took.
    ///
    /// # Panics
    /// When it takes too long.
    pub async fn goes_on(&self, more: usize) -> Duration {
        let began = Instant::now();
        let before = self.acknowledged();
        wait::eventually("every speaker goes on", 3 * SOON, async || {
            let now = self.acknowledged();
            before
                .iter()
                .zip(now)
                .all(|(before, now)| now >= before + more)
        })
        .await;
        pace::since(began)
    }

    /// Waits until one more message is acknowledged; how long it took since a moment.
    ///
    /// # Panics
    /// When it takes too long.
    pub async fn writes_again(&self, since: Instant) -> Duration {
        wait::some("a message is acknowledged", 3 * SOON, async || {
            let acknowledged = self
                .followers
                .iter()
                .filter_map(|f| f.notes().read().acknowledged);
            acknowledged
                .filter(|at| *at > since)
                .min()
                .map(|at| pace::between(since, at))
        })
        .await
    }

    /// Lets everything come to rest: one last publication by a back end, which everybody must reach, and what all of
    /// them noted by then.
    ///
    /// # Panics
    /// When the last publication is not taken.
    pub async fn comes_to_rest(&self, chat: &ChatApi, server: SocketAddr) -> History {
        self.fall_silent().await;
        wait::eventually("the last publication is taken", 2 * SOON, async || {
            chat.send(&self.room, "herald", r#"{"n":1000000}"#, "last")
                .await
                .is_ok()
        })
        .await;
        self.rests(chat, server).await
    }

    /// Waits until everybody who is there is where the log ends, and all of them are listed, or for as long as that may
    /// take, and gathers what is known.
    pub async fn rests(&self, chat: &ChatApi, server: SocketAddr) -> History {
        let mut log = Log::default();
        let mut listed = None;
        // Who doesn't get there is for the checker to tell.
        let _ = wait::within(2 * SOON, async || {
            listed = chat.members(&self.room).await.ok();
            log = Log::read(server, &self.room).await;
            let end = log.end();
            let present = self.followers.iter().filter(|it| !it.notes().read().away);
            let mut positions = present.map(|it| it.notes().read().position.clone());
            let all = end.is_some() && positions.all(|position| position == end);
            (all && listed.as_ref() == Some(&self.live())).then_some(())
        })
        .await;
        self.history(log, listed.map(|members| members.into_iter().collect()))
    }

    /// Who has a live socket, with the number of them, as chat lists members.
    #[must_use]
    pub fn live(&self) -> Vec<(String, u32)> {
        let followers = self.followers.iter();
        let live = followers.filter(|follower| follower.notes().read().online);
        let mut live: Vec<_> = live
            .map(|follower| (follower.name().to_owned(), 1))
            .collect();
        live.sort();
        live
    }

    /// Waits until chat lists exactly who has a live socket; how long that took.
    ///
    /// # Panics
    /// When it takes longer.
    pub async fn is_listed_within(&self, within: Duration, chat: &ChatApi) -> Duration {
        let began = Instant::now();
        let what = format!("the live sockets of {} are its members", self.room);
        wait::eventually(&what, within, async || {
            let listed = chat.members(&self.room).await.ok();
            listed.is_some_and(|listed| listed == self.live())
        })
        .await;
        pace::since(began)
    }

    /// Waits until everybody is at this offset.
    ///
    /// # Panics
    /// When somebody isn't in time.
    pub async fn reaches(&self, offset: u64) {
        wait::eventually("everybody has everything", SOON, async || {
            let positions = self.positions();
            positions
                .iter()
                .all(|at| at.as_ref().is_some_and(|at| at.offset == offset))
        })
        .await;
    }

    /// Where everybody stands.
    #[must_use]
    pub fn positions(&self) -> Vec<Option<Position>> {
        let notes = self.followers.iter().map(|follower| follower.notes());
        notes.map(|notes| notes.read().position.clone()).collect()
    }

    fn history(&self, log: Log, listed: Option<BTreeMap<String, u32>>) -> History {
        let mut sent = BTreeMap::new();
        let mut members = Vec::new();
        for follower in &self.followers {
            let notes = follower.notes().read();
            for (number, outcome) in &notes.said {
                let message = (follower.name().to_owned(), *number);
                sent.insert(message, outcome.unwrap_or(Outcome::Unknown));
            }
            members.push(Member {
                name: follower.name().to_owned(),
                events: notes.events.clone(),
            });
        }
        History {
            members,
            sent,
            log,
            listed,
        }
    }

    /// What happened, in numbers.
    #[must_use]
    pub fn report(&self) -> String {
        let mut refusals = BTreeMap::<String, usize>::new();
        let mut reasons = BTreeMap::<String, usize>::new();
        for follower in &self.followers {
            let notes = follower.notes().read();
            for (refusal, count) in &notes.refusals {
                *refusals.entry(refusal.clone()).or_default() += count;
            }
            for (_, reason) in notes.losses() {
                *reasons.entry(format!("{reason:?}")).or_default() += 1;
            }
        }
        format!(
            "{} followers: {} acknowledged, {} unknown, {} refused {refusals:?}; slowest {:?}; disconnected {}, logins \
             failed {}, recovered {}, not recovered {}, replayed {}; told {reasons:?}",
            self.followers.len(),
            self.count(Outcome::Acknowledged),
            self.count(Outcome::Unknown),
            self.count(Outcome::Refused),
            self.slowest(),
            self.sum(|notes| notes.disconnected),
            self.sum(|notes| notes.failed_logins),
            self.sum(|notes| notes.recovered.0),
            self.sum(|notes| notes.recovered.1),
            self.sum(|notes| usize::try_from(notes.replayed).unwrap_or(usize::MAX)),
        )
    }
}

/// Checks a history and prints what is wrong with it, then what was expected to be.
///
/// # Panics
/// When anything is wrong of another kind than these.
pub fn holds(history: &History, except: &[Kind]) -> Vec<Finding> {
    let findings = checker::check(history);
    let mut counts = BTreeMap::<Kind, usize>::new();
    for finding in &findings {
        *counts.entry(finding.kind).or_default() += 1;
    }
    println!(
        "{} members, {} messages, {} entries of the log in {} epochs; found {counts:?}",
        history.members.len(),
        history.sent.len(),
        history.log.entries.len(),
        history.log.epochs.len(),
    );
    let (expected, wrong): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| except.contains(&finding.kind));
    let shown: Vec<_> = wrong.iter().take(20).map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "{} findings:\n{}",
        wrong.len(),
        shown.join("\n")
    );
    expected
}
