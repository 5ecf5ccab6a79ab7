//! Every key, in one place.
//!
//! All keys of a channel carry the hash tag `{channel}`, so a script finds them in one slot of a cluster. A name is
//! percent-encoded where it holds `{`, `}`, `%` or control bytes: otherwise `}x` would end the tag early, and keys of
//! one channel would lie in two slots.

use crate::name::{ChannelName, Incarnation, SessionId, UserId};
use redis::{RedisWrite, ToRedisArgs};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

/// The keys of one system, under its prefix.
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

    /// Holds the version of everything below.
    pub(super) fn schema(&self) -> String {
        format!("{}:schema", self.prefix)
    }

    /// The keys of a probe, and the topic on which a feed's connection listens to itself. No name makes a channel have the
    /// same ones.
    pub(super) fn of_probe(&self, set: u64) -> ChannelKeys {
        ChannelKeys {
            base: format!("{}:{{{set:x}}}:probe", self.prefix),
        }
    }

    /// Says which incarnations are to be looked after, and when; no channel's, whatever that is called.
    pub(super) fn directory(&self) -> String {
        format!("{}:{{connectors}}:directory", self.prefix)
    }

    /// An incarnation's lease and index, in the order of `lease.lua`; no channel's, either.
    pub(super) fn lease(&self, incarnation: &Incarnation) -> [String; 2] {
        let tag = encoded(incarnation.as_str());
        ["lease", "index"].map(|suffix| format!("{}:{{{tag}}}:{suffix}", self.prefix))
    }

    /// Where an incarnation hears hints.
    pub(super) fn hints(&self, incarnation: &Incarnation) -> String {
        let tag = encoded(incarnation.as_str());
        format!("{}:{{{tag}}}:hints", self.prefix)
    }

    /// The login policy in force.
    pub(super) fn login_policy(&self) -> String {
        format!("{}:{{connectors}}:login-policy", self.prefix)
    }

    /// The keys of one user.
    pub(super) fn of_user(&self, user: &UserId) -> UserKeys {
        UserKeys {
            base: format!("{}:{{{}}}:user", self.prefix, encoded(user.as_str())),
        }
    }

    /// The keys of one channel.
    pub(super) fn of(&self, channel: &ChannelName) -> ChannelKeys {
        ChannelKeys {
            base: format!("{}:{{{}}}", self.prefix, encoded(channel.as_str())),
        }
    }
}

/// The keys of one user; no channel's, whatever that is called.
pub(super) struct UserKeys {
    base: String,
}

impl UserKeys {
    /// In the order of `user.lua`.
    pub(super) fn all(&self) -> [String; 2] {
        ["entries", "generation"].map(|suffix| format!("{}:{suffix}", self.base))
    }

    /// Says that an incarnation was reaped here.
    pub(super) fn dead(&self, incarnation: &Incarnation) -> String {
        format!("{}:dead:{}", self.base, encoded(incarnation.as_str()))
    }

    /// Says that a session is over.
    pub(super) fn closed(&self, session: &SessionId) -> String {
        format!("{}:closed:{}", self.base, encoded(session.as_str()))
    }
}

/// The keys of one channel.
pub(super) struct ChannelKeys {
    base: String,
}

impl ChannelKeys {
    /// The keys that every script of a channel takes, in the order of `epoch.lua`, `append.lua`, `members.lua`.
    pub(super) fn all(&self) -> [Key<'_>; 9] {
        ["m", "l", "i0", "i1", "t", "s", "u", "d", "c"].map(|suffix| self.key(suffix))
    }

    /// Meta, log and idempotency memory: what a reader takes.
    pub(super) fn read(&self) -> [Key<'_>; 4] {
        ["m", "l", "i0", "i1"].map(|suffix| self.key(suffix))
    }

    /// The channel's life.
    pub(super) fn meta(&self) -> Key<'_> {
        self.key("m")
    }

    /// What a channel with members must not lose, in the order of `touch.lua`.
    pub(super) fn lasting(&self) -> [Key<'_>; 6] {
        ["m", "l", "s", "u", "d", "c"].map(|suffix| self.key(suffix))
    }

    /// Users and their number of sessions.
    pub(super) fn users(&self) -> Key<'_> {
        self.key("u")
    }

    /// Where publications are fanned out.
    pub(super) fn topic(&self) -> String {
        format!("{}:t", self.base)
    }

    /// Says that an incarnation was declared dead.
    pub(super) fn dead(&self, incarnation: Option<&Incarnation>) -> String {
        let incarnation = incarnation.map_or("", Incarnation::as_str);
        format!("{}:dead:{}", self.base, encoded(incarnation))
    }

    /// The sessions of one incarnation that are members.
    pub(super) fn sessions_of(&self, incarnation: Option<&Incarnation>) -> String {
        let incarnation = incarnation.map_or("", Incarnation::as_str);
        format!("{}:of:{}", self.base, encoded(incarnation))
    }

    /// Members: session and record.
    pub(super) fn sessions(&self) -> Key<'_> {
        self.key("s")
    }

    /// Detached members and when they are due.
    pub(super) fn detached(&self) -> Key<'_> {
        self.key("d")
    }

    /// The incarnations that have members.
    pub(super) fn incarnations(&self) -> Key<'_> {
        self.key("c")
    }

    /// Holds the operation with which a session left.
    pub(super) fn left(&self, session: &str) -> String {
        format!("{}:left:{}", self.base, encoded(session))
    }

    fn key<'a>(&'a self, suffix: &'static str) -> Key<'a> {
        Key {
            base: &self.base,
            suffix,
        }
    }
}

/// One key, written into a command without a text of its own.
pub(super) struct Key<'a> {
    base: &'a str,
    suffix: &'static str,
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        // Writing into a command's own buffer can't fail.
        let _ = write!(out.writer_for_next_arg(), "{}:{}", self.base, self.suffix);
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

    fn texts(keys: &ChannelKeys) -> Vec<String> {
        let mut args = Vec::new();
        for key in keys.all() {
            key.write_redis_args(&mut args);
        }
        args.into_iter()
            .map(|key| String::from_utf8(key).unwrap())
            .collect()
    }

    /// The part of a key that decides about its slot, as Redis Cluster's specification has it.
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
    fn the_keys_are_those_of_recovery_and_membership() {
        let keys = Keys::new("gc").of(&ChannelName::new("4").unwrap());
        assert_eq!(
            texts(&keys),
            [
                "gc:{4}:m",
                "gc:{4}:l",
                "gc:{4}:i0",
                "gc:{4}:i1",
                "gc:{4}:t",
                "gc:{4}:s",
                "gc:{4}:u",
                "gc:{4}:d",
                "gc:{4}:c"
            ]
        );
        assert_eq!(keys.topic(), "gc:{4}:t");
        let incarnation = Incarnation::new("c1/x").unwrap();
        assert_eq!(keys.dead(Some(&incarnation)), "gc:{4}:dead:c1/x");
        assert_eq!(keys.sessions_of(Some(&incarnation)), "gc:{4}:of:c1/x");
        assert_eq!(keys.left("s1"), "gc:{4}:left:s1");
        let keys = Keys::new("gc");
        assert_eq!(keys.schema(), "gc:schema");
        assert_eq!(keys.directory(), "gc:{connectors}:directory");
        let lease = keys.lease(&incarnation);
        assert_eq!(lease, ["gc:{c1/x}:lease", "gc:{c1/x}:index"]);
        assert_eq!(keys.hints(&incarnation), "gc:{c1/x}:hints");
        assert_eq!(keys.login_policy(), "gc:{connectors}:login-policy");
        let user = keys.of_user(&UserId::new("4").unwrap());
        assert_eq!(
            user.all(),
            ["gc:{4}:user:entries", "gc:{4}:user:generation"]
        );
        assert_eq!(user.dead(&incarnation), "gc:{4}:user:dead:c1/x");
        let session = SessionId::new("s1").unwrap();
        assert_eq!(user.closed(&session), "gc:{4}:user:closed:s1");
        assert_eq!(keys.of_probe(255).topic(), "gc:{ff}:probe:t");
    }

    #[test]
    fn no_name_and_no_prefix_splits_the_slot_or_meets_another_channels_keys() {
        let names = ["a", "}a", "{a}", "{}", "%7Ba", "{a", "a}:m", "100%", "哈}"];
        let mut seen = std::collections::HashSet::new();
        for prefix in ["gc", "{gc}", "g}c"] {
            for name in names {
                let keys = Keys::new(prefix).of(&ChannelName::new(name).unwrap());
                let tag = encoded(name).into_owned();
                let mut all = texts(&keys);
                all.push(keys.left("}{"));
                let incarnation = Incarnation::new("{x}").unwrap();
                all.push(keys.dead(Some(&incarnation)));
                all.push(keys.sessions_of(Some(&incarnation)));
                let user = Keys::new(prefix).of_user(&UserId::new(name).unwrap());
                all.extend(user.all());
                all.push(user.closed(&SessionId::new("}{").unwrap()));
                all.push(user.dead(&incarnation));
                for key in all {
                    assert_eq!(hash_tag(&key), tag, "{key}");
                    assert!(seen.insert(key.clone()), "{key} belongs to two channels");
                }
            }
        }
    }

    #[test]
    fn only_what_must_be_is_encoded() {
        assert_eq!(encoded("lobby:4 哈"), "lobby:4 哈");
        assert_eq!(encoded("{a}%\n\u{7f}"), "%7Ba%7D%25%0A%7F");
    }
}
