//! Leases, indexes and the directory in Redis: each script on the keys of one incarnation, of the directory, or of one
//! channel, and so in one slot.

use super::ask::{ask_each, ask_each_apart, call, one};
use super::connection::Connection;
use super::keys::Keys;
use super::nodes::Nodes;
use super::reply::{number, strange, text};
use super::scripts::SCRIPTS;
use super::{channel_seconds, seconds};
use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::{
    Declared, DroppedBy, IndexEntry, Indexed, LEASE_MEMORY, LeaseState, Leases, Look, Place,
    Renewed, Shard, Term,
};
use crate::{StoreError, StoreOptions};
use async_trait::async_trait;
use redis::{Cmd, Script, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Entries of an index or of the directory that one step of reading, adding or dropping takes.
const ENTRIES_AT_ONCE: usize = 500;
/// Mark channels and users among an index's keys.
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
        let mut command = call(script, &self.keys.lease(incarnation));
        command.arg(&self.lease_seconds);
        command
    }

    fn lease_connection(&self, incarnation: &Incarnation) -> Result<Connection, StoreError> {
        self.nodes.connection_of(|| {
            let [lease, _] = self.keys.lease(incarnation);
            lease
        })
    }

    async fn ask_lease(
        &self,
        incarnation: &Incarnation,
        command: Cmd,
    ) -> Result<Value, StoreError> {
        one(&self.lease_connection(incarnation)?, command).await
    }

    /// Reads a lease's state, beat and length. One that an earlier version wrote has no length, and one whose owner
    /// resigned without it has no beat.
    fn state(&self, [state, beat, length]: [&Value; 3]) -> Result<LeaseState, StoreError> {
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
            })
        };
        read().ok_or_else(strange)
    }

    async fn ask_directory(
        &self,
        script: &Script,
        arguments: &[String],
    ) -> Result<Value, StoreError> {
        let keys = [self.keys.directory()];
        let mut command = call(script, &keys);
        command.arg(arguments);
        let [key] = keys;
        one(&self.nodes.connection_of(|| key)?, command).await
    }
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

#[async_trait]
impl Leases for RedisLeases {
    async fn note(&self, incarnation: &Incarnation) -> Result<(), StoreError> {
        let arguments = [incarnation.to_string()];
        self.ask_directory(&SCRIPTS.note, &arguments).await?;
        Ok(())
    }

    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let mut command = self.of_lease(&SCRIPTS.renew, incarnation);
        command.arg(milliseconds(lease));
        let connection = self.lease_connection(incarnation)?;
        let reply = one(&connection, command).await?;
        renewed(&reply, &connection).ok_or_else(strange)
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
                _ => return Err(strange()),
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
            dropped += number(&reply).ok_or_else(strange)?;
        }
        Ok(dropped)
    }

    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        let [_, key] = self.keys.lease(incarnation);
        // A scan may bring an entry twice.
        let mut entries = HashMap::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(ENTRIES_AT_ONCE);
            let reading = self.nodes.reading(key.clone()).await?;
            let reply = one(&reading.connection, scan).await?;
            cursor = scanned(&reply, &mut entries).ok_or_else(strange)?;
            if cursor == 0 {
                let entry = |(place, nonce)| IndexEntry { place, nonce };
                return Ok(entries.into_iter().map(entry).collect());
            }
        }
    }

    async fn look(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Look>, StoreError> {
        let connection = |channel: &ChannelName| self.nodes.connection(channel);
        let question = |channel: &ChannelName| {
            let keys = self.keys.of(channel);
            let incarnation = Some(incarnation);
            let mut command = redis::cmd("EVALSHA");
            command
                .arg(SCRIPTS.look.get_hash())
                .arg(3)
                .arg(keys.sessions_of(incarnation))
                .arg(keys.dead(incarnation))
                .arg(keys.detached())
                .arg(&self.channel_seconds);
            command
        };
        let answers = ask_each(channels, connection, question).await?;
        let look = |(connection, reply): (Connection, Value)| {
            let Value::Array(counts) = &reply else {
                return Err(strange());
            };
            let count = |index| counts.get(index).and_then(number).ok_or_else(strange);
            Ok(Look {
                sessions: count(0)?,
                tombstoned: count(1)? == 1,
                overdue: count(2)? == 1,
                generation: connection.generation,
            })
        };
        answers.into_iter().map(look).collect()
    }

    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        let keys = self.keys.of(channel);
        let own = keys.sessions_of(Some(incarnation));
        let mut sessions = BTreeMap::new();
        let mut cursor = 0;
        loop {
            let mut command = redis::cmd("EVALSHA");
            command.arg(SCRIPTS.list.get_hash()).arg(2);
            command.arg(&own).arg(keys.sessions());
            command.arg(cursor).arg(ENTRIES_AT_ONCE);
            let reading = self.nodes.reading_of(channel).await?;
            let reply = one(&reading.connection, command).await?;
            cursor = listed(&reply, &mut sessions).ok_or_else(strange)?;
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
        let key = self.keys.directory();
        // Not as a read of a log or list, which waits for its turn: whoever looks after the living must not lose sight of
        // them because others read. A step is short.
        let connection = self.nodes.connection_of(|| key.clone())?;
        // Who stands there from the first step to the last is found.
        let mut found = BTreeMap::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("ZSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(ENTRIES_AT_ONCE);
            let reply = one(&connection, scan).await?;
            cursor = noted(&reply, &mut found).ok_or_else(strange)?;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    async fn present(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        let mut found = HashSet::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(self.keys.of(channel).incarnations());
            scan.arg(cursor).arg("COUNT").arg(ENTRIES_AT_ONCE);
            let reading = self.nodes.reading_of(channel).await?;
            let reply = one(&reading.connection, scan).await?;
            cursor = named(&reply, &mut found).ok_or_else(strange)?;
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
            let [lease, _] = self.keys.lease(incarnation);
            let mut command = redis::cmd("HMGET");
            // An earlier version's lease has `until` in place of the beat: see lease.lua.
            command
                .arg(lease)
                .arg(&["state", "beat", "length", "until"]);
            command
        };
        let answers = ask_each_apart(incarnations, connection, question).await;
        let state = |answer: Result<Value, StoreError>| match fields(&answer?) {
            Some([Value::Nil, ..]) => Ok(None),
            Some([state, Value::Nil, length, until]) => {
                self.state([state, until, length]).map(Some)
            }
            Some([state, beat, length, _]) => self.state([state, beat, length]).map(Some),
            _ => Err(strange()),
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
            _ => Err(strange()),
        }
    }

    async fn vouch(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError> {
        let mut command = self.of_lease(&SCRIPTS.vouch, incarnation);
        command
            .arg(milliseconds(self.full_lease))
            .arg(index_key(place))
            .arg(IndexEntry::random_nonce());
        let reply = self.ask_lease(incarnation, command).await?;
        match fields(&reply) {
            Some([state, beat, length]) => self.state([state, beat, length]),
            _ => Err(strange()),
        }
    }

    async fn strike(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError> {
        let arguments = [incarnation.to_string(), seen.to_string()];
        self.ask_directory(&SCRIPTS.strike, &arguments).await?;
        Ok(())
    }

    fn shard(&self, place: &Place) -> Shard {
        self.nodes.shard_of(|| match place {
            Place::Channel(channel) => self.keys.of(channel).topic(),
            Place::User(user) => self.keys.of_user(user).all()[0].clone(),
        })
    }

    fn home(&self, incarnation: &Incarnation) -> Shard {
        self.nodes.shard_of(|| {
            let [lease, _] = self.keys.lease(incarnation);
            lease
        })
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
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
fn renewed(reply: &Value, by: &Connection) -> Option<Renewed> {
    let Value::Array(fields) = reply else {
        return None;
    };
    let term = || {
        Some(Term {
            until: number(fields.get(1)?)?,
            indexed: number(fields.get(2)?)?,
            generation: by.generation.clone(),
        })
    };
    match text(fields.first()?)? {
        "live" => term().map(Renewed::Live),
        "lost" => term().map(Renewed::Lost),
        "dead" => Some(Renewed::Dead),
        _ => None,
    }
}

fn fields(reply: &Value) -> Option<&[Value]> {
    match reply {
        Value::Array(fields) => Some(fields),
        _ => None,
    }
}

/// What a step of a scan has brought, and where to go on.
fn step(reply: &Value) -> Option<(&[Value], u64)> {
    match fields(reply)? {
        [cursor, Value::Array(found)] => Some((found, number(cursor)?)),
        _ => None,
    }
}

/// Takes in the incarnations that a step of a scan has brought, and answers where to go on.
fn named(reply: &Value, found: &mut HashSet<Incarnation>) -> Option<u64> {
    let (names, cursor) = step(reply)?;
    for name in names {
        found.insert(Incarnation::new(text(name)?).ok()?);
    }
    Some(cursor)
}

/// The same for a step through the directory.
fn noted(reply: &Value, found: &mut BTreeMap<Incarnation, u64>) -> Option<u64> {
    let (pairs, cursor) = step(reply)?;
    for pair in pairs.chunks_exact(2) {
        found.insert(Incarnation::new(text(&pair[0])?).ok()?, number(&pair[1])?);
    }
    Some(cursor)
}

/// Takes in what a step of a scan has brought, and answers where to go on. Keys of other kinds are another version's.
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

/// Takes in what a step of `list.lua` has brought, and answers where to go on.
fn listed(reply: &Value, sessions: &mut BTreeMap<SessionId, User>) -> Option<u64> {
    let Value::Array(fields) = reply else {
        return None;
    };
    let (cursor, members) = fields.split_first()?;
    for member in members.chunks_exact(3) {
        let user = User {
            id: UserId::new(text(&member[2])?).ok()?,
            is_number: text(&member[1])? == "1",
        };
        sessions.insert(SessionId::new(text(&member[0])?).ok()?, user);
    }
    number(cursor)
}
