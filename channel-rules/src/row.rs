//! One rule, as the operator writes it.

use crate::fields;
use channel_store::{LogRule, Pattern};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// A rule: `[[channel]]`. What it leaves out is as without rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ChannelRule {
    /// The channels. `{user}` stands for the session's user; where there is no session, for any text.
    #[serde(rename = "match", deserialize_with = "fields::pattern")]
    pub pattern: Pattern,

    /// Who may join: `nobody`, `users`, `grant` or `hook`. `users` if it is left out.
    pub join: Option<Who>,
    /// Who may send and publish: `nobody`, `members`, `grant` or `hook`. `members` if it is left out.
    pub send: Option<Who>,
    /// Who may read the log, like `send`.
    pub history: Option<Who>,
    /// Who may list the members, like `send`.
    pub members: Option<Who>,
    /// What a client gets that comes back with its position. [`Recover::Log`] if it is left out.
    pub recover: Option<Recover>,

    /// How many publications the log keeps at least, instead of `log_entries`: 1 to 1,000,000.
    #[serde(default, deserialize_with = "fields::entries")]
    pub entries: Option<u64>,
    /// How long it keeps each of them at least, instead of `log_keep`.
    #[serde(default, deserialize_with = "fields::time")]
    pub keep: Option<Duration>,
    /// The most bytes that it keeps, instead of `log_bytes`: 64 KiB to 1 GiB.
    #[serde(default, deserialize_with = "fields::bytes")]
    pub bytes: Option<u64>,
    /// How long it lives after its last publication, instead of `log_life`.
    #[serde(default, deserialize_with = "fields::time")]
    pub life: Option<Duration>,
    /// Whether joins and leaves are published, instead of `announce_members`.
    pub announce: Option<bool>,
    /// True: only ephemeral messages are taken. Joins and leaves are published all the same.
    #[serde(default)]
    pub ephemeral_only: bool,
}

/// Who has a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Nobody. Back ends can do it all the same.
    Nobody,
    /// Everybody who has logged in.
    Users,
    /// The members of the channel.
    Members,
    /// Those to whom their token grants it. Beyond that, all but `join` needs a membership.
    Grant,
    /// Those to whom the operator's own service allows it.
    Hook,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::Users => "users",
            Self::Members => "members",
            Self::Grant => "grant",
            Self::Hook => "hook",
        })
    }
}

/// What a client gets that comes back with its position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recover {
    /// Everything that it has missed, or it is told that this is impossible.
    #[default]
    Log,
    /// Only the newest message, unless the client has it.
    Last,
    /// Nothing.
    None,
}

impl fmt::Display for Recover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Last => "last",
            Self::None => "none",
        })
    }
}

impl ChannelRule {
    /// What the rule says about logs.
    #[must_use]
    pub fn log_rule(&self) -> LogRule {
        LogRule {
            pattern: self.pattern.clone(),
            entries: self.entries,
            keep: self.keep,
            bytes: self.bytes,
            life: self.life,
            announce_members: self.announce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelTable;

    fn rule(text: &str) -> Result<ChannelRule, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_rule_has_keys_for_connectors_and_for_chats() {
        let text = r#"
            match = "game:*:x"
            join = "grant"
            send = "members"
            history = "nobody"
            members = "nobody"
            recover = "last"
            entries = 50
            keep = "10s"
            bytes = "1MiB"
            life = "1h"
            announce = false
            ephemeral_only = true
        "#;
        let expected = ChannelRule {
            pattern: Pattern::new("game:*:x").unwrap(),
            join: Some(Who::Grant),
            send: Some(Who::Members),
            history: Some(Who::Nobody),
            members: Some(Who::Nobody),
            recover: Some(Recover::Last),
            entries: Some(50),
            keep: Some(Duration::from_secs(10)),
            bytes: Some(1 << 20),
            life: Some(Duration::from_secs(3_600)),
            announce: Some(false),
            ephemeral_only: true,
        };
        assert_eq!(rule(text).unwrap(), expected);
        let log = expected.log_rule();
        assert_eq!((log.entries, log.bytes), (Some(50), Some(1 << 20)));
        assert_eq!(log.keep, Some(Duration::from_secs(10)));
        assert_eq!(log.life, Some(Duration::from_secs(3_600)));
        assert_eq!(log.announce_members, Some(false));
        assert_eq!(log.pattern, expected.pattern);
        for entries in [1, 1_000_000] {
            let bound = rule(&format!("match = 'a'\nentries = {entries}")).unwrap();
            assert_eq!(bound.entries, Some(entries));
        }
        let number = rule("match = 'a'\nbytes = 65536").unwrap();
        assert_eq!(number.bytes, Some(65_536));
        let left_out = ChannelRule {
            pattern: Pattern::new("a").unwrap(),
            ..ChannelRule::default()
        };
        assert_eq!(rule("match = 'a'").unwrap(), left_out);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_what_was_expected() {
        for (text, words) in [
            ("", "missing field `match`"),
            ("match = ''", "a pattern has 1 to 256 bytes"),
            ("match = '{user}*'", "ann would match"),
            ("match = 'inbox:{usr}'", "{usr} stands for nothing"),
            ("match = '{user}:{User}'", "{User} stands for nothing"),
            ("match = 'a:{user'", "{user stands for nothing"),
            ("match = '{{user}}'", "{ stands for nothing"),
            ("match = 'a'\nspeak = 'nobody'", "unknown field `speak`"),
            ("match = 'a'\nsend = 'everybody'", "unknown variant"),
            ("match = 'a'\nrecover = 'all'", "unknown variant"),
            ("match = 'a'\nentries = 0", "expected 1 to 1000000"),
            ("match = 'a'\nentries = -1", "expected 1 to 1000000"),
            ("match = 'a'\nentries = 1000001", "expected 1 to 1000000"),
            ("match = 'a'\nentries = '5'", "expected"),
            ("match = 'a'\nlife = 'long'", "expected a time such as"),
            ("match = 'a'\nkeep = 10", "expected"),
            ("match = 'a'\nbytes = 1", "expected 64KiB to 1GiB"),
            ("match = 'a'\nbytes = '1GB'", "expected a number of bytes"),
            ("match = 'a'\nbytes = '2GiB'", "expected 64KiB to 1GiB"),
            ("match = 'a'\nannounce = 'on'", "expected a boolean"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_example_is_right_without_its_comment_signs() {
        let text = ChannelTable::EXAMPLE.replace("\n#", "\n");
        let text = text.replace("\n ---", "\n# ---");
        let table: ChannelTable = toml::from_str(&text).unwrap();
        assert_eq!(table.channel.len(), 3, "{text}");
    }
}
