//! Many followers in one channel. Some send messages, all of them listen. At the end everything they saw is collected
//! and checked.

use crate::chat_api::ChatApi;
use crate::checker::{self, Finding, History, Kind};
use crate::follower::{Follower, Notes, Settings};
use crate::history::{Member, Outcome, Position};
use crate::log::Log;
use crate::protocol::Protocol;
use crate::{SOON, pace, wait};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The channel of the followers if a test names no other.
pub const ROOM: &str = "room";

/// Flags that let chat keep every publication of a test, however long the test runs.
pub const WHOLE_LOG: [&str; 2] = ["--log-entries=1000000", "--log-bytes=1GiB"];

/// The pause between two messages of one sender.
const PACE: Duration = Duration::from_millis(8);

/// Followers in a channel.
pub struct Followers {
    room: String,
    connectors: Vec<SocketAddr>,
    followers: Vec<Follower>,
    sending: watch::Sender<bool>,
}

impl Followers {
    /// Starts this many followers that send and this many that only listen, spread over the connectors. It returns when
    /// all of them are logged in. Nobody sends before [`Followers::start_sending`].
    ///
    /// # Panics
    /// If a follower can't log in.
    pub async fn start(connectors: &[SocketAddr], senders: usize, listeners: usize) -> Self {
        let mut followers = Self::empty(ROOM, connectors);
        for number in 0..senders {
            followers.add_in_turn(&format!("speaker{number}"), Some(PACE));
        }
        for number in 0..listeners {
            followers.add_in_turn(&format!("listener{number}"), None);
        }
        followers.until_online().await;
        followers
    }

    /// No followers yet, for this channel.
    #[must_use]
    pub fn empty(room: &str, connectors: &[SocketAddr]) -> Self {
        Self {
            room: room.to_owned(),
            connectors: connectors.to_vec(),
            followers: Vec::new(),
            sending: watch::Sender::new(false),
        }
    }

    fn add_in_turn(&mut self, user: &str, pace: Option<Duration>) {
        self.add(user, pace, self.followers.len() % self.connectors.len());
    }

    /// Adds a follower that connects to this connector first and, after a failure, to the next one. With a pace it
    /// sends, and its name must begin with "speaker".
    pub fn add(&mut self, user: &str, pace: Option<Duration>, connector: usize) {
        let mut connectors = self.connectors.clone();
        connectors.rotate_left(connector);
        // Followers change the protocol in pairs, so that each of two connectors serves both protocols.
        let protocol = match self.followers.len() / 2 % 2 {
            0 => Protocol::Json,
            _ => Protocol::Pomelo,
        };
        self.followers.push(Follower::start(Settings {
            user: user.to_owned(),
            protocol,
            channel: self.room.clone(),
            connectors,
            pace,
            sending: self.sending.subscribe(),
        }));
    }

    /// Adds a follower that only listens, and waits until it is logged in.
    ///
    /// # Panics
    /// If it can't log in.
    pub async fn add_listener(&mut self, user: &str) -> &Follower {
        self.add_in_turn(user, None);
        self.until_online().await;
        self.followers.last().expect("one was added")
    }

    /// Waits until all followers are logged in, except those that a test has told to stay disconnected.
    ///
    /// # Panics
    /// If a follower isn't logged in in time.
    pub async fn until_online(&self) {
        for follower in &self.followers {
            let online = follower.notes().until(2 * SOON, |notes| {
                // The reply to a login has the position where a member begins.
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

    /// The followers: those that send come first.
    #[must_use]
    pub fn all(&self) -> &[Follower] {
        &self.followers
    }

    /// The followers that connect to this connector first.
    pub fn at(&self, connector: usize) -> impl Iterator<Item = &Follower> {
        let home = self.connectors[connector];
        let followers = self.followers.iter();
        followers.filter(move |follower| follower.home() == home)
    }

    /// From now on the senders send.
    pub fn start_sending(&self) {
        self.sending.send_replace(true);
    }

    /// Lets the senders stop, and waits until all their messages are answered.
    ///
    /// # Panics
    /// If an answer doesn't come in time.
    pub async fn stop_sending(&self) {
        self.sending.send_replace(false);
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

    /// The number of messages with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.sum(|notes| notes.count(outcome))
    }

    /// The sum of a number over all followers.
    pub fn sum(&self, what: impl Fn(&Notes) -> usize) -> usize {
        let notes = self.followers.iter().map(|follower| follower.notes());
        notes.map(|notes| what(&notes.read())).sum()
    }

    /// The longest time that a follower had to wait for an answer.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        let notes = self.followers.iter().map(|f| f.notes().read().slowest);
        notes.max().unwrap_or_default()
    }

    /// For each sender, the number of messages that were acknowledged. Senders that a test has told to stay
    /// disconnected are left out.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<usize> {
        let senders = self.followers.iter();
        let senders = senders.filter(|f| f.name().starts_with("speaker"));
        let notes = senders.map(|follower| follower.notes().read());
        let notes = notes.filter(|notes| !notes.away);
        notes
            .map(|notes| notes.count(Outcome::Acknowledged))
            .collect()
    }

    /// Waits until each sender has this many more messages acknowledged, and returns how long that took. Senders that a
    /// test has told to stay disconnected don't count.
    ///
    /// # Panics
    /// If it takes too long.
    pub async fn until_each_acknowledged(&self, more: usize) -> Duration {
        let began = Instant::now();
        let before = self.acknowledged();
        wait::eventually("every sender goes on", 3 * SOON, async || {
            let now = self.acknowledged();
            before
                .iter()
                .zip(now)
                .all(|(before, now)| now >= before + more)
        })
        .await;
        pace::since(began)
    }

    /// Waits until a message is acknowledged after this moment, and returns how long after.
    ///
    /// # Panics
    /// If it takes too long.
    pub async fn until_acknowledged_since(&self, since: Instant) -> Duration {
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

    /// Stops the senders and lets a back end send one last publication, which every follower must receive. Then it
    /// collects what all followers have noted.
    ///
    /// # Panics
    /// If chat does not accept the last publication.
    pub async fn stop_and_collect(&self, chat: &ChatApi, server: SocketAddr) -> History {
        self.stop_sending().await;
        wait::eventually("the last publication is taken", 2 * SOON, async || {
            chat.send(&self.room, "herald", r#"{"n":1000000}"#, "last")
                .await
                .is_ok()
        })
        .await;
        self.collect_history(chat, server).await
    }

    /// Waits until all connected followers are at the end of the log and are listed as members, and collects what is
    /// known. If that does not happen in time, it collects what is there.
    pub async fn collect_history(&self, chat: &ChatApi, server: SocketAddr) -> History {
        let mut log = Log::default();
        let mut listed = None;
        // If a follower doesn't get there, the checker reports it.
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

    /// The users with a live socket and the number of their sockets, in the form in which chat lists members.
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

    /// Waits until the members that chat lists are exactly the users with a live socket, and returns how long that
    /// took.
    ///
    /// # Panics
    /// If it takes longer.
    pub async fn until_listed(&self, within: Duration, chat: &ChatApi) -> Duration {
        let began = Instant::now();
        let what = format!("the live sockets of {} are its members", self.room);
        wait::eventually(&what, within, async || {
            let listed = chat.members(&self.room).await.ok();
            listed.is_some_and(|listed| listed == self.live())
        })
        .await;
        pace::since(began)
    }

    /// Waits until all followers are at this offset.
    ///
    /// # Panics
    /// If a follower isn't there in time.
    pub async fn until_offset(&self, offset: u64) {
        wait::eventually("all followers have everything", SOON, async || {
            let positions = self.positions();
            positions
                .iter()
                .all(|at| at.as_ref().is_some_and(|at| at.offset == offset))
        })
        .await;
    }

    /// The positions of all followers.
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

    /// A summary of what happened, in numbers.
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

/// Checks a history and prints how many findings there are of each kind. Returns the findings of the kinds that the
/// test expects.
///
/// # Panics
/// If there is a finding of any other kind.
pub fn assert_consistent(history: &History, except: &[Kind]) -> Vec<Finding> {
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
