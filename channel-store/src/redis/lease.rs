//! Leases, indexes and the directory in Redis. Each script works on the keys of one incarnation, of the directory, or of
//! one channel, so all its keys are in one slot.

use super::call::{Answer, ask_each, call};
use super::keys::{Key, Keys};
use super::net::{Connection, Nodes, array, number, text, unexpected_reply};
use super::scripts::SCRIPTS;
use super::{channel_seconds, seconds};
use crate::error::StoreError;
use crate::lease::{
    Declared, DroppedBy, IndexEntry, Indexed, LEASE_MEMORY, LeaseState, Leases, Place, Presence,
    Renewed, Term,
};
use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::options::StoreOptions;
use crate::server::{ServerLifetime, Shard};
use async_trait::async_trait;
use redis::{Cmd, Script, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Entries of an index or of the directory that are read, added or dropped at once.
const ENTRIES_AT_ONCE: usize = 500;
/// Tell channels and users apart in an index.
const CHANNEL: &str = "c:";
const USER: &str = "u:";

pub(super) struct RedisLeases {
    nodes: Arc<Nodes>,
    keys: Keys,
    lease_seconds: String,
    channel_seconds: String,
    full_lease: Duration,
}

impl RedisLeases {
    pub(super) fn over(nodes: Arc<Nodes>, options: &StoreOptions) -> Arc<dyn Leases> {
        Arc::new(Self {
            nodes,
            keys: Keys::new(&options.prefix),
            lease_seconds: seconds(LEASE_MEMORY),
            channel_seconds: channel_seconds(options),
            full_lease: options.lease,
        })
    }

    /// Begins the call of a script that begins with `lease.lua`.
    fn of_lease(&self, script: &Script, incarnation: &Incarnation) -> Cmd {
        let mut command = call(script, &self.keys.of_incarnation(incarnation).all());
        command.arg(&self.lease_seconds);
        command
    }

    fn lease_key(&self, incarnation: &Incarnation) -> String {
        self.keys.of_incarnation(incarnation).lease().to_string()
    }

    fn lease_connection(&self, incarnation: &Incarnation) -> Result<Connection, StoreError> {
        self.nodes.connection(|| self.lease_key(incarnation))
    }

    fn topic_key(&self, channel: &ChannelName) -> String {
        self.keys.of_channel(channel).topic().to_string()
    }

    async fn ask_lease(
        &self,
        incarnation: &Incarnation,
        command: Cmd,
    ) -> Result<Value, StoreError> {
        self.lease_connection(incarnation)?
            .request_one(command)
            .await
    }

    /// `last`: its owner ends.
    async fn renew_once(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
        last: bool,
    ) -> Result<Renewed, StoreError> {
        let mut command = self.of_lease(&SCRIPTS.renew, incarnation);
        command.arg(milliseconds(lease));
        if last {
            command.arg("last");
        }
        let connection = self.lease_connection(incarnation)?;
        let reply = connection.request_one(command).await?;
        renewed(&reply, &connection.lifetime).ok_or_else(unexpected_reply)
    }

    /// Reads state, beat, length and end of a lease. A lease whose owner resigned before it had one has neither beat nor length.
    fn state(&self, [state, beat, length, ended]: [&Value; 4]) -> Result<LeaseState, StoreError> {
        let or = |field: &Value, default| match field {
            Value::Nil => Some(default),
            field => number(field),
        };
        let full = u64::try_from(self.full_lease.as_millis()).unwrap_or(u64::MAX);
        let read = || {
            let state = text(state)?;
            Some(LeaseState {
                dead: state == "dead",
                provisional: state == "provisional",
                beat: or(beat, 0)?,
                length: Duration::from_millis(or(length, full)?),
                ended: *ended != Value::Nil,
            })
        };
        read().ok_or_else(unexpected_reply)
    }

    async fn ask_directory(
        &self,
        script: &Script,
        arguments: &[String],
    ) -> Result<Value, StoreError> {
        let mut command = call(script, &[self.keys.directory()]);
        command.arg(arguments);
        let key = || self.keys.directory().to_string();
        self.nodes.connection(key)?.request_one(command).await
    }
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

#[async_trait]
impl Leases for RedisLeases {
    async fn schedule(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        let arguments = [incarnation.to_string()];
        self.ask_directory(&SCRIPTS.schedule, &arguments).await?;
        Ok(())
    }

    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        self.renew_once(incarnation, lease, false).await
    }

    async fn renew_last(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        self.renew_once(incarnation, lease, true).await
    }

    async fn index_add(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        for some in entries.chunks(ENTRIES_AT_ONCE) {
            let mut command = self.of_lease(&SCRIPTS.index_add, incarnation);
            add_entries(&mut command, some);
            let reply = self.ask_lease(incarnation, command).await?;
            match text(&reply) {
                Some("done") => {}
                Some("lost") => return Ok(Indexed::Lost),
                Some("dead") => return Ok(Indexed::Dead),
                _ => return Err(unexpected_reply()),
            }
        }
        Ok(Indexed::Yes)
    }

    async fn index_drop(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for some in entries.chunks(ENTRIES_AT_ONCE) {
            let mut command = self.of_lease(&SCRIPTS.index_drop, incarnation);
            command.arg(match by {
                DroppedBy::Owner => "owner",
                DroppedBy::Reaper => "reaper",
            });
            add_entries(&mut command, some);
            let reply = self.ask_lease(incarnation, command).await?;
            dropped += number(&reply).ok_or_else(unexpected_reply)?;
        }
        Ok(dropped)
    }

    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        let keys = self.keys.of_incarnation(incarnation);
        // A scan may bring an entry twice.
        let mut entries = HashMap::new();
        let mut cursor = 0;
        loop {
            let scan = scan("HSCAN", keys.index(), cursor);
            let reading = self.nodes.reading(keys.index().to_string()).await?;
            let reply = reading.connection.request_one(scan).await?;
            cursor = scanned(&reply, &mut entries).ok_or_else(unexpected_reply)?;
            if cursor == 0 {
                let entry = |(place, nonce)| IndexEntry { place, nonce };
                return Ok(entries.into_iter().map(entry).collect());
            }
        }
    }

    async fn presence(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError> {
        let connection = |channel: &ChannelName| self.nodes.connection(|| self.topic_key(channel));
        let question = |channel: &ChannelName| {
            let keys = self.keys.of_channel(channel);
            let of = Some(incarnation);
            let its_keys = [keys.sessions_of(of), keys.dead(of), keys.detached()];
            let mut command = call(&SCRIPTS.presence, &its_keys);
            command.arg(&self.channel_seconds);
            command
        };
        let answers = ask_each(channels, connection, question).await;
        let look = |answer: Result<Answer, StoreError>| {
            let (connection, reply) = answer?;
            let look = || {
                let [sessions, tombstoned, overdue] = array(&reply)? else {
                    return None;
                };
                Some(Presence {
                    sessions: number(sessions)?,
                    tombstoned: number(tombstoned)? == 1,
                    overdue: number(overdue)? == 1,
                    lifetime: connection.lifetime.clone(),
                })
            };
            look().ok_or_else(unexpected_reply)
        };
        answers.into_iter().map(look).collect()
    }

    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        let keys = self.keys.of_channel(channel);
        let mut sessions = BTreeMap::new();
        let mut cursor = 0;
        loop {
            let its_keys = [keys.sessions_of(Some(incarnation)), keys.sessions()];
            let mut command = call(&SCRIPTS.list_sessions, &its_keys);
            command.arg(cursor).arg(ENTRIES_AT_ONCE);
            let reading = self.nodes.reading(keys.topic().to_string()).await?;
            let reply = reading.connection.request_one(command).await?;
            cursor = listed(&reply, &mut sessions).ok_or_else(unexpected_reply)?;
            if cursor == 0 {
                return Ok(sessions);
            }
        }
    }

    async fn resign(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        let command = self.of_lease(&SCRIPTS.resign, incarnation);
        self.ask_lease(incarnation, command).await?;
        Ok(())
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        // This is not a read that waits for its turn, as reads of logs and lists do. A chat that watches leases must not
        // lose sight of them because others read much. Each step is short.
        let connection = self
            .nodes
            .connection(|| self.keys.directory().to_string())?;
        // The scan finds every incarnation that is there from its first step to its last.
        let mut found = BTreeMap::new();
        let mut cursor = 0;
        loop {
            let scan = scan("ZSCAN", self.keys.directory(), cursor);
            let reply = connection.request_one(scan).await?;
            cursor = noted(&reply, &mut found).ok_or_else(unexpected_reply)?;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        let keys = self.keys.of_channel(channel);
        let mut found = HashSet::new();
        let mut cursor = 0;
        loop {
            let scan = scan("SSCAN", keys.incarnations(), cursor);
            let reading = self.nodes.reading(keys.topic().to_string()).await?;
            let reply = reading.connection.request_one(scan).await?;
            cursor = named(&reply, &mut found).ok_or_else(unexpected_reply)?;
            if cursor == 0 {
                return Ok(found.into_iter().collect());
            }
        }
    }

    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Vec<Result<Option<LeaseState>, StoreError>> {
        let connection = |incarnation: &Incarnation| self.lease_connection(incarnation);
        let question = |incarnation: &Incarnation| {
            let keys = self.keys.of_incarnation(incarnation);
            let mut command = redis::cmd("HMGET");
            let fields = ["state", "beat", "length", "ended"];
            command.arg(keys.lease()).arg(&fields);
            command
        };
        let answers = ask_each(incarnations, connection, question).await;
        let state = |answer: Result<Answer, StoreError>| match array(&answer?.1) {
            Some([Value::Nil, ..]) => Ok(None),
            Some([state, beat, length, ended]) => {
                self.state([state, beat, length, ended]).map(Some)
            }
            _ => Err(unexpected_reply()),
        };
        answers.into_iter().map(state).collect()
    }

    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_beat: u64,
    ) -> Result<Declared, StoreError> {
        let mut command = self.of_lease(&SCRIPTS.declare_dead, incarnation);
        command.arg(seen_beat).arg(milliseconds(self.full_lease));
        let reply = self.ask_lease(incarnation, command).await?;
        match text(&reply) {
            Some("dead") => Ok(Declared::Dead),
            Some("alive") => Ok(Declared::Alive),
            Some("provisional") => Ok(Declared::Provisional),
            _ => Err(unexpected_reply()),
        }
    }

    async fn restore(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError> {
        let mut command = self.of_lease(&SCRIPTS.restore, incarnation);
        command
            .arg(milliseconds(self.full_lease))
            .arg(index_key(place))
            .arg(IndexEntry::random_nonce());
        let reply = self.ask_lease(incarnation, command).await?;
        match array(&reply) {
            Some([state, beat, length]) => self.state([state, beat, length, &Value::Nil]),
            _ => Err(unexpected_reply()),
        }
    }

    async fn unschedule(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError> {
        let arguments = [incarnation.to_string(), seen.to_string()];
        self.ask_directory(&SCRIPTS.unschedule, &arguments).await?;
        Ok(())
    }

    fn shard(&self, place: &Place) -> Shard {
        self.nodes.shard(|| match place {
            Place::Channel(channel) => self.topic_key(channel),
            Place::User(user) => self.keys.of_user(user).entries().to_string(),
        })
    }

    fn home(&self, incarnation: &Incarnation) -> Shard {
        self.nodes.shard(|| self.lease_key(incarnation))
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}

/// One step of a scan.
fn scan(command: &str, key: Key<'_>, cursor: u64) -> Cmd {
    let mut scan = redis::cmd(command);
    scan.arg(key).arg(cursor).arg("COUNT").arg(ENTRIES_AT_ONCE);
    scan
}

fn add_entries(command: &mut Cmd, entries: &[IndexEntry]) {
    for IndexEntry { place, nonce } in entries {
        command.arg(index_key(place)).arg(nonce);
    }
}

fn index_key(place: &Place) -> String {
    match place {
        Place::Channel(channel) => format!("{CHANNEL}{channel}"),
        Place::User(user) => format!("{USER}{user}"),
    }
}

/// Reads the answer of `renew.lua`.
fn renewed(reply: &Value, lifetime: &ServerLifetime) -> Option<Renewed> {
    let fields = array(reply)?;
    let term = || {
        Some(Term {
            until: number(fields.get(1)?)?,
            indexed: number(fields.get(2)?)?,
            lifetime: lifetime.clone(),
        })
    };
    match text(fields.first()?)? {
        "live" => term().map(Renewed::Live),
        "lost" => term().map(Renewed::Lost),
        "dead" => Some(Renewed::Dead),
        _ => None,
    }
}

/// What a step of a scan has brought, and the cursor for the next step.
fn step(reply: &Value) -> Option<(&[Value], u64)> {
    match array(reply)? {
        [cursor, Value::Array(found)] => Some((found, number(cursor)?)),
        _ => None,
    }
}

/// Adds the incarnations that a step of a scan has brought, and returns the cursor for the next step.
fn named(reply: &Value, found: &mut HashSet<Incarnation>) -> Option<u64> {
    let (names, cursor) = step(reply)?;
    for name in names {
        found.insert(Incarnation::new(text(name)?).ok()?);
    }
    Some(cursor)
}

/// Does the same for a step through the directory.
fn noted(reply: &Value, found: &mut BTreeMap<Incarnation, u64>) -> Option<u64> {
    let (pairs, cursor) = step(reply)?;
    for pair in pairs.chunks_exact(2) {
        found.insert(Incarnation::new(text(&pair[0])?).ok()?, number(&pair[1])?);
    }
    Some(cursor)
}

/// Does the same for a step through an index. Keys of other kinds belong to another version of this program.
fn scanned(reply: &Value, entries: &mut HashMap<Place, u64>) -> Option<u64> {
    let (pairs, cursor) = step(reply)?;
    for pair in pairs.chunks_exact(2) {
        let key = text(&pair[0])?;
        let place = if let Some(channel) = key.strip_prefix(CHANNEL) {
            Place::Channel(ChannelName::new(channel).ok()?)
        } else if let Some(user) = key.strip_prefix(USER) {
            Place::User(UserId::new(user).ok()?)
        } else {
            continue;
        };
        entries.insert(place, number(&pair[1])?);
    }
    Some(cursor)
}

/// Does the same for a step of `list_sessions.lua`.
fn listed(reply: &Value, sessions: &mut BTreeMap<SessionId, User>) -> Option<u64> {
    let (cursor, members) = array(reply)?.split_first()?;
    for member in members.chunks_exact(3) {
        let user = User {
            id: UserId::new(text(&member[2])?).ok()?,
            is_number: text(&member[1])? == "1",
        };
        sessions.insert(SessionId::new(text(&member[0])?).ok()?, user);
    }
    number(cursor)
}
