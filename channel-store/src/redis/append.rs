//! What every script takes that may append to a log: the bounds of the log, and how to publish.

use super::call::call_into;
use super::keys::{ChannelKeys, Key, Keys};
use super::seconds;
use crate::name::ChannelName;
use crate::options::StoreOptions;
use crate::rules::{EMPTY_LIFE, LogPolicy, RuleTable};
use arc_swap::ArcSwap;
use redis::{Cmd, Script};
use std::time::{SystemTime, UNIX_EPOCH};

/// Begins calls of the scripts that may append to a log. What is the same in all calls is made once.
pub(super) struct Appending {
    keys: Keys,
    publish_command: &'static str,
    /// Each call reads it once.
    bounds: ArcSwap<RuleTable<Bounds>>,
}

/// The bounds of some channels' logs, as the scripts take them.
pub(super) struct Bounds {
    /// How many publications the log keeps, for how many milliseconds and how many bytes of them, and how many seconds a
    /// channel without members lives in which nobody has spoken.
    pub(super) kept: String,
    pub(super) log_seconds: String,
    pub(super) channel_seconds: String,
    pub(super) announces_members: bool,
}

impl Bounds {
    fn new(policy: LogPolicy) -> Self {
        Self {
            kept: format!(
                "{} {} {} {}",
                policy.entries,
                policy.keep.as_millis(),
                policy.bytes,
                seconds(EMPTY_LIFE)
            ),
            log_seconds: seconds(policy.life),
            channel_seconds: seconds(policy.channel_life),
            announces_members: policy.announce_members,
        }
    }
}

impl Appending {
    pub(super) fn new(options: &StoreOptions, publish_command: &'static str) -> Self {
        Self {
            keys: Keys::new(&options.prefix),
            publish_command,
            bounds: ArcSwap::from_pointee(RuleTable::new(options, Bounds::new)),
        }
    }

    pub(super) fn keys_of(&self, channel: &ChannelName) -> ChannelKeys {
        self.keys.of_channel(channel)
    }

    /// Puts the rules of these options in force, for calls that begin after this.
    pub(super) fn set_rules(&self, options: &StoreOptions) {
        let bounds = RuleTable::new(options, Bounds::new);
        self.bounds.store(bounds.into());
    }

    /// The pattern of the rule that holds for a channel.
    pub(super) fn rule_of(&self, channel: &ChannelName) -> Option<String> {
        self.bounds.load().pattern_of(channel).map(str::to_owned)
    }

    /// Begins a call with what `append.lua` takes.
    pub(super) fn call(
        &self,
        command: &mut Cmd,
        script: &Script,
        channel: &ChannelName,
        keys: &ChannelKeys,
        time: u64,
    ) {
        let rules = self.bounds.load();
        call_appending(
            command,
            script,
            &keys.all(),
            rules.of(channel),
            self.publish_command,
            time,
        );
    }

    /// Begins a call with what `append.lua` and `members.lua` take. `more_keys` follow those of the channel.
    pub(super) fn call_about_members<'a>(
        &self,
        script: &Script,
        channel: &ChannelName,
        keys: &'a ChannelKeys,
        more_keys: impl IntoIterator<Item = Key<'a>>,
    ) -> Cmd {
        let rules = self.bounds.load();
        let bounds = rules.of(channel);
        let all: Vec<Key<'_>> = keys.all().into_iter().chain(more_keys).collect();
        let mut command = Cmd::new();
        call_appending(
            &mut command,
            script,
            &all,
            bounds,
            self.publish_command,
            now_milliseconds(),
        );
        command.arg(flag(bounds.announces_members));
        command
    }
}

/// Begins a call with what `append.lua` takes.
pub(super) fn call_appending(
    command: &mut Cmd,
    script: &Script,
    keys: &[Key<'_>],
    bounds: &Bounds,
    publish_command: &str,
    time: u64,
) {
    call_into(command, script, keys);
    command
        .arg(&bounds.kept)
        .arg(&bounds.log_seconds)
        .arg(&bounds.channel_seconds)
        .arg(publish_command)
        .arg(time);
}

/// A truth value as the scripts take it.
pub(super) fn flag(is_set: bool) -> &'static str {
    if is_set { "1" } else { "0" }
}

/// This process' clock, milliseconds since 1970.
pub(super) fn now_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
