//! Probes: publications that show whether publishing works, and whether publications arrive.
//!
//! A probe has keys of its own at each server. A random number names them, and they live for a minute. Chat writes there with
//! the same script that publishes messages ([`ChannelStore::probe`](crate::ChannelStore::probe)). A connector asks each chat to
//! do so, and checks whether it hears the probe and finds it in the log ([`ProbeFeed`]). That shows that both use the same
//! Redis, database and prefix. [`Findings`] keeps the results.

use crate::publication::Position;
use crate::server::{ServerLifetime, Shard};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;

/// The number of slots that all keys are spread over. A single server has all of them.
pub const SLOTS: u32 = 16_384;
/// The most sets of keys that one probe may write: one set for each server of a cluster.
pub const MOST_SETS: usize = 128;
/// The pause between two probes while everything works.
pub const PROBE_PAUSE: Duration = Duration::from_millis(1_500);
/// The pause between two probes while something is wrong.
pub const PROBE_AGAIN: Duration = Duration::from_millis(500);
/// This many bad results in a row are a fault. A single one may have met a flush or a failover.
const JUDGED: u32 = 2;
/// The most servers that a reason names.
const NAMED: usize = 3;

/// What to publish, and where.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The numbers that name the keys: `{<set, in hex>}:probe:*`. Each one is random, so that no two processes share keys.
    pub sets: Vec<u64>,
    /// A number in the publication that tells it from earlier ones.
    pub nonce: u64,
}

/// The result of a probe in one set.
#[derive(Debug, Clone)]
pub struct Probed {
    /// What the server did.
    pub outcome: ProbeOutcome,
    /// The server that has the keys, for people to read.
    pub server: String,
    /// Its lifetime as primary. It is empty if it is not known.
    pub lifetime: ServerLifetime,
}

/// What a server did with a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The server has written it into the log, and sent it to all that are subscribed.
    Written(Position),
    /// The server refused it, for this reason in its own words.
    Refused(String),
    /// There was no answer. That tells nothing about later ones: the server is slow, or is being replaced.
    Unanswered(String),
}

/// Settings of a store that connectors compare with their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// The prefix of every key.
    pub prefix: String,
    /// The number of the database.
    pub database: i64,
    /// See [`StoreOptions::lease`](crate::StoreOptions::lease).
    pub lease: Duration,
    /// How many replicas a publication waits for.
    pub ack_replicas: u32,
    /// The shortest life of any log.
    pub log_life: Duration,
}

/// Where a feed can hear a probe.
#[derive(Debug, Clone)]
pub struct ProbePoint {
    /// The number that names the keys.
    pub set: u64,
    /// How many slots their server owns.
    pub slots: u32,
    /// The server, for people to read.
    pub server: String,
    /// Its lifetime as primary.
    pub lifetime: ServerLifetime,
}

/// Whether a feed has heard a probe and found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeFound {
    /// The feed has heard it and found it in the log.
    Yes,
    /// The feed has not heard it, or not found it.
    No {
        /// True if it was heard. A topic is the same in all databases, so hearing alone proves nothing.
        heard: bool,
    },
    /// The log can't be read, for this reason in the server's own words.
    Refused(String),
    /// The server did not answer, or is another one by now. That tells nothing.
    Unknown,
}

/// The side of a probe that listens.
#[async_trait]
pub trait ProbeFeed: Send + Sync + 'static {
    /// Where a probe would be heard now: at each server to which there is a connection, but [`MOST_SETS`] at most.
    fn points(&self) -> Vec<ProbePoint>;

    /// Waits for a probe that was published before this call, a second and a half at most, and then looks for it in the log.
    async fn find_probe(&self, set: u64, nonce: u64, position: &Position) -> ProbeFound;

    /// The prefix of every key.
    fn prefix(&self) -> &str;

    /// The number of the database.
    fn database(&self) -> i64;

    /// The shard that holds a channel at present. It is [`Shard::default`] if there is only one, or if no channel can have this
    /// name.
    fn shard(&self, _channel: &str) -> Shard {
        Shard::default()
    }
}

/// What one probe showed at one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Everything works.
    Good,
    /// What is wrong, in words.
    Wrong(String),
    /// It showed nothing.
    Unknown,
}

/// The results of probes so far, for each server.
#[derive(Debug, Default)]
pub struct Findings {
    servers: BTreeMap<String, Server>,
}

#[derive(Debug, Default)]
struct Server {
    slots: u32,
    /// True if everything has worked at least once.
    proven: bool,
    /// How many bad results there were in a row, and the words of the last one.
    wrong: u32,
    words: String,
}

impl Server {
    fn is_good(&self) -> bool {
        self.proven && self.wrong < JUDGED
    }
}

impl Findings {
    /// Adds the result of a probe at a server that owns this many slots.
    pub fn note(&mut self, name: &str, slots: u32, finding: Finding) {
        let server = self.servers.entry(name.to_owned()).or_default();
        server.slots = slots;
        match finding {
            Finding::Good => {
                server.proven = true;
                server.wrong = 0;
            }
            Finding::Wrong(words) => {
                server.wrong = server.wrong.saturating_add(1);
                server.words = words;
            }
            Finding::Unknown => {}
        }
    }

    /// Forgets the servers for which the condition does not hold.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.servers.retain(|name, _| is_there(name));
    }

    /// True if publishing works for this share of all slots, or did when it was tried last.
    #[must_use]
    pub fn work_for(&self, share: f64) -> bool {
        let good = self.servers.values().filter(|server| server.is_good());
        is_enough(good.map(|server| server.slots).sum(), share)
    }

    /// True if the next probe should come soon, because something is wrong or not known yet.
    #[must_use]
    pub fn are_pressing(&self) -> bool {
        let is_well = |server: &Server| server.proven && server.wrong == 0;
        self.servers.is_empty() || !self.servers.values().all(is_well)
    }

    /// What is wrong at which server, in one line. `None`: no fault is known.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let wrong = self.servers.iter().filter(|(_, it)| it.wrong >= JUDGED);
        several(wrong.map(|(name, server)| format!("{name}: {}", server.words)))
    }
}

/// Joins a few reasons into one line, and tells how many more there are. `None` if there are no reasons.
#[must_use]
pub fn several(reasons: impl Iterator<Item = String>) -> Option<String> {
    let mut reasons: Vec<String> = reasons.collect();
    let more = reasons.len().saturating_sub(NAMED);
    reasons.truncate(NAMED);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// True if this number of slots is at least this share of all slots.
pub(crate) fn is_enough(slots: u32, share: f64) -> bool {
    f64::from(slots) >= share * f64::from(SLOTS)
}

/// The payload of a probe's publication.
pub(crate) fn payload(nonce: u64) -> String {
    format!("probe\0\0{{\"nonce\":\"{nonce:016x}\"}}")
}

/// Reads the nonce from the body of a probe's publication.
pub(crate) fn nonce(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let digits = text.strip_prefix("{\"nonce\":\"")?.strip_suffix("\"}")?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::Payload;

    fn wrong() -> Finding {
        Finding::Wrong("it is full".into())
    }

    #[test]
    fn a_probe_is_a_valid_publication_with_its_nonce() {
        let parsed = Payload::parse(payload(255).into()).unwrap();
        assert_eq!(parsed.route(), "probe");
        assert_eq!(nonce(parsed.body()), Some(255));
        assert_eq!(nonce(b"{}"), None);
    }

    #[test]
    fn two_bad_findings_in_a_row_are_a_fault_and_one_good_finding_ends_it() {
        let mut findings = Findings::default();
        assert!(!findings.work_for(0.5), "there is no finding yet");
        assert!(findings.are_pressing());
        findings.note("a", SLOTS, Finding::Good);
        assert!(findings.work_for(1.0));
        assert!(!findings.are_pressing());
        findings.note("a", SLOTS, wrong());
        assert!(
            findings.work_for(1.0),
            "one bad finding may come from a failover"
        );
        assert!(findings.are_pressing(), "the next probe must come soon");
        findings.note("a", SLOTS, wrong());
        assert!(!findings.work_for(0.01));
        assert_eq!(findings.reason().as_deref(), Some("a: it is full"));
        findings.note("a", SLOTS, Finding::Good);
        assert!(findings.work_for(1.0));
        assert_eq!(findings.reason(), None);
    }

    #[test]
    fn a_server_that_does_not_answer_is_no_fault() {
        let mut findings = Findings::default();
        findings.note("a", SLOTS, Finding::Good);
        for _ in 0..10 {
            findings.note("a", SLOTS, Finding::Unknown);
        }
        assert!(findings.work_for(1.0));
        assert_eq!(findings.reason(), None);
        // A probe without an answer does not end a fault either.
        findings.note("a", SLOTS, wrong());
        findings.note("a", SLOTS, Finding::Unknown);
        findings.note("a", SLOTS, wrong());
        assert!(!findings.work_for(1.0));
    }

    #[test]
    fn servers_count_by_the_number_of_their_slots() {
        let mut findings = Findings::default();
        for (name, slots) in [("a", SLOTS / 2), ("b", SLOTS / 4), ("c", SLOTS / 4)] {
            findings.note(name, slots, Finding::Good);
        }
        for _ in 0..2 {
            findings.note("b", SLOTS / 4, wrong());
        }
        assert!(findings.work_for(0.75));
        assert!(!findings.work_for(0.76));
        assert_eq!(findings.reason().as_deref(), Some("b: it is full"));
        findings.keep(|name| name != "b");
        assert_eq!(findings.reason(), None);
        assert!(
            !findings.work_for(0.76),
            "a server that is gone does not count as good"
        );
    }
}
