//! Which bounds hold for a channel, by its name.

use crate::name::ChannelName;
use crate::options::{LogRule, StoreOptions};
use crate::pattern::Pattern;
use std::time::Duration;

/// How long a channel lives that has no members, and whose log holds nothing but joins and leaves. It lives longer if an
/// idempotency key of it is remembered for longer.
pub(crate) const EMPTY_LIFE: Duration = Duration::from_secs(120);

/// The most bytes of publications in one answer, counted as [`StoreOptions::log_bytes`] counts them. The first publication
/// comes in any case.
pub(crate) const READ_BYTES: u64 = 128 << 10;

/// The bytes that a publication counts in addition to its payload.
pub(crate) const ENTRY_BYTES: u64 = 40;

/// What holds for a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPolicy {
    pub(crate) entries: u64,
    pub(crate) keep: Duration,
    pub(crate) bytes: u64,
    pub(crate) life: Duration,
    /// See [`StoreOptions::life_of_channel`].
    pub(crate) channel_life: Duration,
    pub(crate) announce_members: bool,
}

/// One value for each rule, which is made before it is needed.
pub(crate) struct RuleTable<T> {
    rules: Vec<(Pattern, T)>,
    otherwise: T,
}

impl<T> RuleTable<T> {
    pub(crate) fn new(options: &StoreOptions, make: impl Fn(LogPolicy) -> T) -> Self {
        let policy = |rule: &LogRule| {
            let life = rule.life.unwrap_or(options.log_life);
            make(LogPolicy {
                entries: rule.entries.unwrap_or(options.log_entries).max(1),
                keep: rule.keep.unwrap_or(options.log_keep),
                bytes: rule.bytes.unwrap_or(options.log_bytes).max(1),
                life,
                channel_life: options.life_of_channel(life),
                announce_members: rule.announce_members.unwrap_or(options.announce_members),
            })
        };
        let rules = options.log_rules.iter();
        let rules = rules.map(|rule| (rule.pattern.clone(), policy(rule)));
        Self {
            rules: rules.collect(),
            otherwise: policy(&LogRule::default()),
        }
    }

    /// The value of the first rule that matches.
    pub(crate) fn of(&self, channel: &ChannelName) -> &T {
        let found = self.first_matching(channel);
        found.map_or(&self.otherwise, |(_, made)| made)
    }

    /// The pattern of that rule. `None`: no rule matches.
    pub(crate) fn pattern_of(&self, channel: &ChannelName) -> Option<&str> {
        let found = self.first_matching(channel);
        found.map(|(pattern, _)| pattern.as_str())
    }

    /// The longest of these times.
    pub(crate) fn longest(&self, time: impl Fn(&T) -> Duration) -> Duration {
        let rules = self.rules.iter().map(|(_, made)| time(made));
        rules.fold(time(&self.otherwise), Duration::max)
    }

    fn first_matching(&self, channel: &ChannelName) -> Option<&(Pattern, T)> {
        let matching = |(pattern, _): &&(Pattern, T)| pattern.matches(channel.as_str());
        self.rules.iter().find(matching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_applies_and_defaults_fill_the_rest() {
        let rule = |pattern: &str, entries, life| LogRule {
            pattern: Pattern::new(pattern).unwrap(),
            entries,
            life,
            ..LogRule::default()
        };
        let two_days = Duration::from_secs(48 * 3600);
        let options = StoreOptions {
            log_rules: vec![
                rule("inbox:{user}", Some(6), None),
                rule("game:lobby", Some(7), None),
                rule("game:*", Some(8), Some(two_days)),
                rule("*", None, Some(Duration::from_secs(60))),
            ],
            announce_members: false,
            ..StoreOptions::default()
        };
        let policies = RuleTable::new(&options, |policy| policy);
        let of = |name| *policies.of(&ChannelName::new(name).unwrap());
        assert_eq!(of("inbox:ann").entries, 6, "the user may be anybody");
        assert_eq!((of("game:lobby").entries, of("game:1").entries), (7, 8));
        assert_eq!(of("game:lobby").life, options.log_life);
        assert_eq!(
            of("game:1").channel_life,
            two_days,
            "a channel never expires before its log"
        );
        assert_eq!(of("4").entries, options.log_entries);
        assert_eq!(of("4").life, Duration::from_secs(60));
        assert_eq!(of("4").channel_life, options.channel_life);
        assert!(!of("4").announce_members);
        let longest = policies.longest(|policy| policy.channel_life);
        assert_eq!(longest, two_days);
    }

    /// A script that removed the publication that it has just appended would answer with a position that is not in the log.
    #[test]
    fn a_log_keeps_at_least_its_newest_publication() {
        let options = StoreOptions {
            log_entries: 0,
            log_bytes: 0,
            ..StoreOptions::default()
        };
        let policies = RuleTable::new(&options, |policy| policy);
        let policy = policies.of(&ChannelName::new("4").unwrap());
        assert_eq!((policy.entries, policy.bytes), (1, 1));
    }
}
