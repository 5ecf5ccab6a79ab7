//! The directory of channels: a hint, in some parts that lie in different slots. Redis is never scanned for channels.
//!
//! Chat notes a channel here **before** its first publication or join in a minute, and connectors note what they touch. So a
//! channel that exists is missing only if Redis has lost the note, and then until the next publication or touch. What is
//! read here is checked against the channels themselves. A note may therefore come late or twice, and a channel that has
//! expired may still be noted. Such a channel is taken out when somebody meets it.
//!
//! Why the last note is safe from that: a note is relied on for [`NOTED_FOR`]. It can be taken out only when it is older than
//! [`SETTLED`], and only if the channel was looked at after the note was read and did not exist. The difference is much
//! longer than a publication takes. So if somebody relies on a note, the publication is there by the time of the look.

use super::call::{Answer, ask_each, call};
use super::keys::{DirectoryKeys, Keys};
use super::net::{Nodes, array, crc16, number, text, unavailable, unexpected_reply};
use super::scripts::SCRIPTS;
use super::seconds;
use crate::directory::DIRECTORY_PARTS;
use crate::error::StoreError;
use crate::name::ChannelName;
use crate::options::StoreOptions;
use crate::rules::RuleTable;
use parking_lot::Mutex;
use redis::{Cmd, Value};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long this process relies on a note that it has written.
const NOTED_FOR: Duration = Duration::from_secs(60);
/// How long a publication or a join waits for its note.
const PATIENCE: Duration = Duration::from_millis(250);
/// How old a note must be at least before it can be taken out.
const SETTLED: Duration = Duration::from_secs(180);
/// A sweep looks at channels that were not noted for so long.
const QUIET: Duration = Duration::from_secs(3600);
/// How many channels one sweep looks at.
const SWEPT_AT_ONCE: usize = 500;
/// How many notes this process remembers: about 4 MB of them. If more channels are used within a minute, some are noted
/// again.
const REMEMBERED: usize = 1 << 17;

/// The directory, as one process uses it.
pub(super) struct Directory {
    /// A publisher holds the directory for as long as it likes. It must not keep the connections of a store that was dropped.
    nodes: Weak<Nodes>,
    keys: Keys,
    publish_command: &'static str,
    /// How long a part stays in which nothing is noted. It is longer than any unused channel lives.
    part_seconds: Mutex<String>,
    noted: Mutex<Noted>,
}

/// A channel in the directory, and when it was noted last. That is a text, which is compared and not read.
pub(super) type Entry = (ChannelName, String);

/// Some channels of one part.
pub(super) struct PartPage {
    pub(super) entries: Vec<Entry>,
    /// The last name that was read. `None`: nothing follows in this part.
    pub(super) next: Option<String>,
}

/// How long a part stays in which nothing is noted.
fn part_seconds(options: &StoreOptions) -> String {
    let lives = RuleTable::new(options, |policy| policy.channel_life);
    seconds(lives.longest(|life| *life) + QUIET)
}

impl Directory {
    pub(super) fn new(nodes: &Arc<Nodes>, options: &StoreOptions) -> Self {
        Self {
            publish_command: nodes.publish_command(),
            nodes: Arc::downgrade(nodes),
            keys: Keys::new(&options.prefix),
            part_seconds: Mutex::new(part_seconds(options)),
            noted: Mutex::new(Noted::new(REMEMBERED)),
        }
    }

    /// Puts the rules of these options in force.
    pub(super) fn set_rules(&self, options: &StoreOptions) {
        *self.part_seconds.lock() = part_seconds(options);
    }

    /// True if all of these channels were noted in the `NOTED_FOR` before `now`.
    pub(super) fn holds<'a>(
        &self,
        mut channels: impl Iterator<Item = &'a ChannelName>,
        now: Instant,
    ) -> bool {
        let noted = self.noted.lock();
        channels.all(|it| noted.holds(it, now))
    }

    /// Notes those channels that were not noted in the `NOTED_FOR` before `now`. If that does not succeed soon, the channels
    /// are noted by their next publication or touch: the directory is a hint, and no reason to refuse or delay anything.
    pub(super) async fn note<'a>(
        &self,
        channels: impl Iterator<Item = &'a ChannelName>,
        now: Instant,
    ) {
        let new: Vec<&ChannelName> = {
            let noted = self.noted.lock();
            channels.filter(|it| !noted.holds(it, now)).collect()
        };
        if !new.is_empty() && timeout(PATIENCE, self.write(&new)).await.is_err() {
            tracing::debug!("the directory of channels does not answer in time");
        }
    }

    /// Notes channels whose lives have just begun, unless they were noted after `began`. Somebody relied on an earlier note
    /// of theirs, and it may be lost together with their earlier lives.
    pub(super) async fn note_births<'a>(
        &self,
        channels: impl Iterator<Item = &'a ChannelName>,
        began: Instant,
    ) {
        self.note(channels, began + NOTED_FOR).await;
    }

    /// Notes these channels in any case.
    pub(super) async fn write(&self, channels: &[&ChannelName]) {
        let Some(nodes) = self.nodes.upgrade() else {
            return;
        };
        let at = Instant::now();
        let part_seconds = self.part_seconds.lock().clone();
        let mut parts: BTreeMap<usize, Vec<&ChannelName>> = BTreeMap::new();
        for channel in channels {
            parts.entry(part_of(channel)).or_default().push(channel);
        }
        let parts: Vec<_> = parts.into_iter().collect();
        let connection = |(part, _): &(usize, _)| nodes.connection(|| key_of(&self.of_part(*part)));
        let question = |(part, channels): &(usize, Vec<&ChannelName>)| {
            let mut command = call(&SCRIPTS.note, &self.of_part(*part).all());
            command.arg(self.publish_command).arg(&part_seconds);
            for channel in channels {
                command.arg(channel.as_str());
            }
            command
        };
        let answers = ask_each(&parts, connection, question).await;
        for ((part, channels), answer) in parts.iter().zip(answers) {
            match answer {
                Ok(_) => self.noted.lock().add(channels, at),
                Err(error) => tracing::debug!(%error, part, "channels could not be noted"),
            }
        }
    }

    /// The first channels of each of these parts whose names begin with a prefix, in the order of their names. In the first
    /// part, only those after a name.
    pub(super) async fn read(
        &self,
        parts: &[usize],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PartPage>, StoreError> {
        let Some(first) = parts.first() else {
            return Ok(Vec::new());
        };
        let nodes = self.nodes()?;
        let _reading = nodes.reading(key_of(&self.of_part(*first))).await?;
        // No name holds this byte, because it does not occur in UTF-8.
        let end = [b"[", prefix.as_bytes(), b"\xff"].concat();
        let connection = |part: &usize| nodes.reader(|| key_of(&self.of_part(*part)));
        let question = |part: &usize| {
            let begin = match after.filter(|_| part == first) {
                Some(after) => format!("({after}"),
                None => format!("[{prefix}"),
            };
            let mut command = call(&SCRIPTS.noted, &self.of_part(*part).lists());
            command.arg(begin).arg(&end).arg(limit);
            command
        };
        let answers = ask_each(parts, connection, question).await;
        let page = |answer: Result<Answer, StoreError>| {
            let (_, reply) = answer?;
            let read = || {
                let names = array(&reply)?;
                let is_full = names.len() >= 2 * limit;
                let last = names.len().checked_sub(2).filter(|_| is_full);
                Some(PartPage {
                    entries: entries(&reply)?,
                    next: last.and_then(|last| text(&names[last])).map(str::to_owned),
                })
            };
            read().ok_or_else(unexpected_reply)
        };
        answers.into_iter().map(page).collect()
    }

    /// Channels in one part that were not noted for long.
    pub(super) async fn quiet(&self, part: usize) -> Result<Vec<Entry>, StoreError> {
        let mut command = call(&SCRIPTS.quiet, &self.of_part(part).lists());
        command.arg(QUIET.as_secs()).arg(SWEPT_AT_ONCE);
        let reply = self.ask_part(part, command).await?;
        entries(&reply).ok_or_else(unexpected_reply)
    }

    /// Takes channels out that were not found after their entries were read, unless they were noted since. Returns how many.
    pub(super) async fn forget(&self, ended: &[Entry]) -> Result<u64, StoreError> {
        let mut parts: BTreeMap<usize, Vec<&Entry>> = BTreeMap::new();
        for entry in ended {
            parts.entry(part_of(&entry.0)).or_default().push(entry);
        }
        let mut forgotten = 0;
        for (part, entries) in parts {
            let mut command = call(&SCRIPTS.forget, &self.of_part(part).lists());
            command.arg(SETTLED.as_secs());
            for (channel, noted) in entries {
                command.arg(channel.as_str()).arg(noted);
            }
            let reply = self.ask_part(part, command).await?;
            forgotten += number(&reply).ok_or_else(unexpected_reply)?;
        }
        Ok(forgotten)
    }

    async fn ask_part(&self, part: usize, command: Cmd) -> Result<Value, StoreError> {
        let key = || key_of(&self.of_part(part));
        self.nodes()?.connection(key)?.request_one(command).await
    }

    fn nodes(&self) -> Result<Arc<Nodes>, StoreError> {
        self.nodes
            .upgrade()
            .ok_or_else(|| unavailable("the store was closed"))
    }

    fn of_part(&self, part: usize) -> DirectoryKeys {
        self.keys.of_directory(part)
    }
}

/// The key that decides where a part lies.
fn key_of(part: &DirectoryKeys) -> String {
    part.names().to_string()
}

/// The part in which a channel is noted. All processes of all versions must agree on it.
fn part_of(channel: &ChannelName) -> usize {
    usize::from(crc16(channel.as_str().as_bytes())) % DIRECTORY_PARTS
}

/// Reads names, each with the time at which it was noted. A name that no channel can have is passed over.
fn entries(reply: &Value) -> Option<Vec<Entry>> {
    let pairs = array(reply)?.chunks_exact(2);
    let mut entries = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let (name, noted) = (text(&pair[0])?, text(&pair[1])?);
        if let Ok(channel) = ChannelName::new(name) {
            entries.push((channel, noted.to_owned()));
        }
    }
    Some(entries)
}

/// The channels that this process has noted lately. It holds digests in place of names. If two channels had the same one, a
/// note could be missed: the directory is a hint.
struct Noted {
    room: usize,
    digest: RandomState,
    channels: HashMap<u64, Instant>,
}

impl Noted {
    fn new(room: usize) -> Self {
        Self {
            room,
            digest: RandomState::new(),
            channels: HashMap::new(),
        }
    }

    fn holds(&self, channel: &ChannelName, now: Instant) -> bool {
        let noted = self.channels.get(&self.digest.hash_one(channel));
        noted.is_some_and(|at| *at + NOTED_FOR > now)
    }

    fn add(&mut self, channels: &[&ChannelName], at: Instant) {
        if self.channels.len() + channels.len() > self.room {
            self.channels.retain(|_, noted| *noted + NOTED_FOR > at);
            // If most of them are in use, making room for one at a time would cost each of them a search.
            if self.channels.len() > self.room / 2 {
                self.channels.clear();
            }
        }
        for channel in channels {
            self.channels.insert(self.digest.hash_one(channel), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ChannelName {
        ChannelName::new(format!("room-{n}")).unwrap()
    }

    #[test]
    fn channels_are_spread_over_all_parts_and_each_stays_in_its_own() {
        let mut parts = [0; DIRECTORY_PARTS];
        for n in 0..64_000 {
            parts[part_of(&name(n))] += 1;
        }
        assert!(
            parts.iter().all(|it| (700..1_300).contains(it)),
            "{parts:?}"
        );
        assert_eq!(part_of(&ChannelName::new("lobby").unwrap()), 54);
    }

    #[test]
    fn a_note_is_relied_on_for_its_time() {
        let mut noted = Noted::new(10);
        let began = Instant::now();
        noted.add(&[&name(1)], began);
        let last = NOTED_FOR.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(noted.holds(&name(1), began + last));
        assert!(!noted.holds(&name(1), began + NOTED_FOR));
        assert!(!noted.holds(&name(2), began));
    }

    #[test]
    fn however_many_channels_are_noted_few_are_remembered() {
        let mut noted = Noted::new(100);
        let began = Instant::now();
        for n in 0..1_000 {
            noted.add(&[&name(n)], began);
            assert!(noted.channels.len() <= 100);
            assert!(noted.holds(&name(n), began), "the last one is");
        }
        noted.add(&[&name(0)], began + NOTED_FOR);
        for n in 1..90 {
            noted.add(&[&name(n)], began + NOTED_FOR);
        }
        assert!(
            noted.holds(&name(0), began + NOTED_FOR),
            "old ones made room"
        );
    }
}
