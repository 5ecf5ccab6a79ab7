//! The name of every key.
//!
//! All keys of a channel carry the hash tag `{channel}`, so they lie in one slot of a cluster and one script can use them.
//! A name is percent-encoded where it holds `{`, `}`, `%` or control bytes. Otherwise a `}` in it would end the hash tag
//! early, and the keys of one channel would lie in two slots.

use crate::name::{ChannelName, Incarnation, SessionId, UserId};
use redis::{RedisWrite, ToRedisArgs};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::Write as _;

/// The version of all keys, values and scripts. A release that changes them in a way that the services of the release before can
/// live with makes it higher and writes both numbers (see `net/schema.rs`).
pub(super) const SCHEMA_VERSION: u32 = 2;

/// The keys of one system: all of them begin with its prefix.
#[derive(Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: encoded(prefix).into_owned(),
        }
    }

    /// Holds [`SCHEMA_VERSION`].
    pub(super) fn schema(&self) -> Key<'_> {
        Key::new(&self.prefix, "schema")
    }

    /// All incarnations that somebody has to look after. No channel and no user has this key, whatever they are called.
    pub(super) fn directory(&self) -> Key<'_> {
        Key::new(&self.prefix, "{connectors}:directory")
    }

    /// The login policy that is in force.
    pub(super) fn login_policy(&self) -> Key<'_> {
        Key::new(&self.prefix, "{connectors}:login-policy")
    }

    /// The keys of one part of the directory of channels. No channel and no user has the same ones, whatever they are called.
    pub(super) fn of_directory(&self, part: usize) -> DirectoryKeys {
        DirectoryKeys {
            base: format!("{}:{{channels-{part}}}:directory", self.prefix),
        }
    }

    /// The keys of one channel.
    pub(super) fn of_channel(&self, channel: &ChannelName) -> ChannelKeys {
        ChannelKeys {
            base: format!("{}:{{{}}}", self.prefix, encoded(channel.as_str())),
        }
    }

    /// The keys of probes with this number. Their topic is also the echo topic of a feed's connection. No channel has the
    /// same keys, whatever it is called.
    pub(super) fn of_probe(&self, set: u64) -> ChannelKeys {
        ChannelKeys {
            base: format!("{}:{{{set:x}}}:probe", self.prefix),
        }
    }

    /// The keys of one incarnation.
    pub(super) fn of_incarnation(&self, incarnation: &Incarnation) -> IncarnationKeys {
        IncarnationKeys {
            base: format!("{}:{{{}}}", self.prefix, encoded(incarnation.as_str())),
        }
    }

    /// The keys of one user.
    pub(super) fn of_user(&self, user: &UserId) -> UserKeys {
        UserKeys {
            base: format!("{}:{{{}}}:user", self.prefix, encoded(user.as_str())),
        }
    }
}

/// The keys of one channel.
pub(super) struct ChannelKeys {
    base: String,
}

impl ChannelKeys {
    /// The keys that all scripts take which append to the log, in the order of `epoch.lua`, `append.lua` and `members.lua`.
    pub(super) fn all(&self) -> [Key<'_>; 10] {
        ["m", "l", "i0", "i1", "t", "s", "u", "d", "c", "info"].map(|suffix| self.key(suffix))
    }

    /// The keys of `read.lua`: meta, log and the two windows of idempotency keys.
    pub(super) fn read(&self) -> [Key<'_>; 4] {
        ["m", "l", "i0", "i1"].map(|suffix| self.key(suffix))
    }

    /// The keys of `trim.lua`.
    pub(super) fn trim(&self) -> [Key<'_>; 5] {
        ["m", "l", "i0", "i1", "s"].map(|suffix| self.key(suffix))
    }

    /// The keys of `summary.lua`.
    pub(super) fn summary(&self) -> [Key<'_>; 5] {
        ["m", "l", "s", "u", "d"].map(|suffix| self.key(suffix))
    }

    /// The keys of `touch.lua`: what a channel with members must not lose.
    pub(super) fn lasting(&self) -> [Key<'_>; 7] {
        ["m", "l", "s", "u", "d", "c", "info"].map(|suffix| self.key(suffix))
    }

    /// Epochs, last offset and bookkeeping of the log.
    pub(super) fn meta(&self) -> Key<'_> {
        self.key("m")
    }

    /// The log.
    pub(super) fn log(&self) -> Key<'_> {
        self.key("l")
    }

    /// The topic of the channel's publications.
    pub(super) fn topic(&self) -> Key<'_> {
        self.key("t")
    }

    /// Each session that is a member, with its record.
    pub(super) fn sessions(&self) -> Key<'_> {
        self.key("s")
    }

    /// Each user with the number of its sessions.
    pub(super) fn users(&self) -> Key<'_> {
        self.key("u")
    }

    /// What everybody may know of each user, of those that have such an info.
    pub(super) fn infos(&self) -> Key<'_> {
        self.key("info")
    }

    /// Detached members, with the time at which each one is over.
    pub(super) fn detached(&self) -> Key<'_> {
        self.key("d")
    }

    /// The incarnations that have members here.
    pub(super) fn incarnations(&self) -> Key<'_> {
        self.key("c")
    }

    /// The sessions of one incarnation that are members. `None`: of detached members.
    pub(super) fn sessions_of<'a>(&'a self, incarnation: Option<&'a Incarnation>) -> Key<'a> {
        self.key("of")
            .named(incarnation.map_or("", Incarnation::as_str))
    }

    /// The tombstone of an incarnation: it was reaped here. `None`: of detached members, which is never written.
    pub(super) fn dead<'a>(&'a self, incarnation: Option<&'a Incarnation>) -> Key<'a> {
        self.key("dead")
            .named(incarnation.map_or("", Incarnation::as_str))
    }

    /// The tombstone of a session: the operation number of its leave.
    pub(super) fn left<'a>(&'a self, session: &'a str) -> Key<'a> {
        self.key("left").named(session)
    }

    fn key(&self, suffix: &'static str) -> Key<'_> {
        Key::new(&self.base, suffix)
    }
}

/// The keys of one part of the directory of channels.
pub(super) struct DirectoryKeys {
    base: String,
}

impl DirectoryKeys {
    /// Names, times and the topic of new names, in the order of `note.lua`.
    pub(super) fn all(&self) -> [Key<'_>; 3] {
        [self.names(), self.times(), self.births()]
    }

    /// Names and times.
    pub(super) fn lists(&self) -> [Key<'_>; 2] {
        [self.names(), self.times()]
    }

    /// The channels, by name.
    pub(super) fn names(&self) -> Key<'_> {
        Key::new(&self.base, "names")
    }

    /// The topic of new names.
    pub(super) fn births(&self) -> Key<'_> {
        Key::new(&self.base, "new")
    }

    /// The channels, by the time at which they were noted last.
    fn times(&self) -> Key<'_> {
        Key::new(&self.base, "times")
    }
}

/// The keys of one incarnation. No channel and no user has the same ones, whatever they are called.
pub(super) struct IncarnationKeys {
    base: String,
}

impl IncarnationKeys {
    /// Lease and index, in the order of `lease.lua`.
    pub(super) fn all(&self) -> [Key<'_>; 2] {
        [self.lease(), self.index()]
    }

    pub(super) fn lease(&self) -> Key<'_> {
        Key::new(&self.base, "lease")
    }

    /// The channels and users where something of this incarnation may be.
    pub(super) fn index(&self) -> Key<'_> {
        Key::new(&self.base, "index")
    }

    /// The topic on which this incarnation hears hints.
    pub(super) fn hints(&self) -> Key<'_> {
        Key::new(&self.base, "hints")
    }

    /// The topic of the letters to this incarnation, or to a chat of this name.
    pub(super) fn inbox(&self) -> Key<'_> {
        Key::new(&self.base, "inbox")
    }
}

/// The keys of one user. No channel and no incarnation has the same ones, whatever they are called.
pub(super) struct UserKeys {
    base: String,
}

impl UserKeys {
    /// The entries and the last rank, in the order of `user.lua`.
    pub(super) fn all(&self) -> [Key<'_>; 2] {
        [self.entries(), Key::new(&self.base, "rank")]
    }

    /// One entry for each login.
    pub(super) fn entries(&self) -> Key<'_> {
        Key::new(&self.base, "entries")
    }

    /// What is forbidden to the user.
    pub(super) fn restrictions(&self) -> Key<'_> {
        Key::new(&self.base, "restrictions")
    }

    /// The tombstone of an incarnation: it was reaped here.
    pub(super) fn dead<'a>(&'a self, incarnation: &'a Incarnation) -> Key<'a> {
        Key::new(&self.base, "dead").named(incarnation.as_str())
    }

    /// The tombstone of a session: it is over.
    pub(super) fn closed<'a>(&'a self, session: &'a SessionId) -> Key<'a> {
        Key::new(&self.base, "closed").named(session.as_str())
    }
}

/// One key. It is written into a command without being a text of its own before.
pub(super) struct Key<'a> {
    base: &'a str,
    suffix: &'static str,
    name: Option<Cow<'a, str>>,
}

impl<'a> Key<'a> {
    fn new(base: &'a str, suffix: &'static str) -> Self {
        Self {
            base,
            suffix,
            name: None,
        }
    }

    fn named(self, name: &'a str) -> Self {
        Self {
            name: Some(encoded(name)),
            ..self
        }
    }
}

impl Key<'_> {
    /// Gives the parts of the text of the key to `push`, one after another.
    fn each_part<E>(&self, mut push: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let Self { base, suffix, name } = self;
        push(base)?;
        push(":")?;
        push(suffix)?;
        let Some(name) = name else { return Ok(()) };
        push(":")?;
        push(name)
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each_part(|part| f.write_str(part))
    }
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut out = out.writer_for_next_arg();
        // Writing into a command's own buffer can't fail. A script has ten keys and more: `write!` would cost three times as much.
        let _ = self.each_part(|part| out.write_all(part.as_bytes()));
    }
}

fn encoded(name: &str) -> Cow<'_, str> {
    let special = |b: u8| matches!(b, b'{' | b'}' | b'%') || b.is_ascii_control();
    if !name.bytes().any(special) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        match u8::try_from(c) {
            Ok(b) if special(b) => {
                // Writing into a text can't fail.
                let _ = write!(text, "%{b:02X}");
            }
            _ => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(keys: impl IntoIterator<Item = Key<'a>>) -> Vec<String> {
        keys.into_iter().map(|key| key.to_string()).collect()
    }

    /// The part of a key that decides about its slot, as Redis Cluster's specification says.
    fn hash_tag(key: &str) -> &str {
        let Some((_, rest)) = key.split_once('{') else {
            return key;
        };
        match rest.split_once('}') {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => key,
        }
    }

    #[test]
    fn the_keys_are_those_that_the_architecture_lists() {
        let keys = Keys::new("gc");
        let channel = keys.of_channel(&ChannelName::new("4").unwrap());
        assert_eq!(
            texts(channel.all()),
            [
                "gc:{4}:m",
                "gc:{4}:l",
                "gc:{4}:i0",
                "gc:{4}:i1",
                "gc:{4}:t",
                "gc:{4}:s",
                "gc:{4}:u",
                "gc:{4}:d",
                "gc:{4}:c",
                "gc:{4}:info"
            ]
        );
        let incarnation = Incarnation::new("c1/x").unwrap();
        let session = SessionId::new("s1").unwrap();
        let its = keys.of_incarnation(&incarnation);
        let user = keys.of_user(&UserId::new("4").unwrap());
        let probe = keys.of_probe(255);
        assert_eq!(
            texts(keys.of_directory(7).all()),
            [
                "gc:{channels-7}:directory:names",
                "gc:{channels-7}:directory:times",
                "gc:{channels-7}:directory:new"
            ]
        );
        let [entries, rank] = user.all();
        for (key, expected) in [
            (channel.topic(), "gc:{4}:t"),
            (channel.dead(Some(&incarnation)), "gc:{4}:dead:c1/x"),
            (channel.dead(None), "gc:{4}:dead:"),
            (channel.sessions_of(Some(&incarnation)), "gc:{4}:of:c1/x"),
            (channel.left("s1"), "gc:{4}:left:s1"),
            (keys.schema(), "gc:schema"),
            (keys.directory(), "gc:{connectors}:directory"),
            (keys.login_policy(), "gc:{connectors}:login-policy"),
            (its.lease(), "gc:{c1/x}:lease"),
            (its.index(), "gc:{c1/x}:index"),
            (its.hints(), "gc:{c1/x}:hints"),
            (its.inbox(), "gc:{c1/x}:inbox"),
            (entries, "gc:{4}:user:entries"),
            (rank, "gc:{4}:user:rank"),
            (user.dead(&incarnation), "gc:{4}:user:dead:c1/x"),
            (user.closed(&session), "gc:{4}:user:closed:s1"),
            (probe.topic(), "gc:{ff}:probe:t"),
        ] {
            assert_eq!(key.to_string(), expected);
        }
    }

    #[test]
    fn keys_of_a_channel_share_a_slot_and_belong_to_no_other_whatever_its_name() {
        let names = ["a", "}a", "{a}", "{}", "%7Ba", "{a", "a}:m", "100%", "哈}"];
        let mut seen = std::collections::HashSet::new();
        let incarnation = Incarnation::new("{x}").unwrap();
        let session = SessionId::new("}{").unwrap();
        for prefix in ["gc", "{gc}", "g}c"] {
            for name in names {
                let keys = Keys::new(prefix).of_channel(&ChannelName::new(name).unwrap());
                let user = Keys::new(prefix).of_user(&UserId::new(name).unwrap());
                let tag = encoded(name).into_owned();
                let mut all = texts(keys.all());
                all.extend(texts([
                    keys.left("}{"),
                    keys.dead(Some(&incarnation)),
                    keys.sessions_of(Some(&incarnation)),
                ]));
                all.extend(texts(user.all()));
                all.extend(texts([user.closed(&session), user.dead(&incarnation)]));
                for key in all {
                    assert_eq!(hash_tag(&key), tag, "{key}");
                    assert!(seen.insert(key.clone()), "{key} belongs to two channels");
                }
            }
        }
    }

    #[test]
    fn only_characters_that_need_it_are_encoded() {
        assert_eq!(encoded("lobby:4 哈"), "lobby:4 哈");
        assert_eq!(encoded("{a}%\n\u{7f}"), "%7Ba%7D%25%0A%7F");
    }
}
