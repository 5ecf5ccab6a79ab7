//! A short name for a whole table, by which processes see whether they have the same rules.

use crate::row::{ChannelRule, Who};
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// The hash of the rules that are in force in this process. Clones share it.
///
/// Rules that mean the same have the same hash, however they are written: a right that is left out counts as its default, and units
/// don't matter. The order of the rules counts.
#[derive(Debug, Clone, Default)]
pub struct RulesHash(Arc<AtomicU64>);

impl RulesHash {
    /// These rules are in force now.
    pub fn set(&self, rules: &[ChannelRule]) {
        self.0.store(hash(rules), Ordering::Relaxed);
    }

    /// The hash as 16 hexadecimal digits. Empty while nothing was set.
    #[must_use]
    pub fn text(&self) -> String {
        match self.0.load(Ordering::Relaxed) {
            0 => String::new(),
            hash => format!("{hash:016x}"),
        }
    }
}

/// Never 0, which stands for a hash that is not known.
fn hash(rules: &[ChannelRule]) -> u64 {
    xxh3_64(normal_form(rules).as_bytes()).max(1)
}

/// A text that is the same for rules that mean the same, and for no others. The length of the pattern comes first, so a pattern
/// can't look like what follows it.
fn normal_form(rules: &[ChannelRule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let pattern = rule.pattern.as_str();
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{}:{pattern} join={} send={} history={} members={} recover={} entries={} keep={} bytes={} life={} announce={} \
             ephemeral_only={}",
            pattern.len(),
            rule.join.unwrap_or(Who::Users),
            rule.send.unwrap_or(Who::Members),
            rule.history.unwrap_or(Who::Members),
            rule.members.unwrap_or(Who::Members),
            rule.recover.unwrap_or_default(),
            or_default(rule.entries),
            or_default(rule.keep.map(|it| it.as_millis())),
            or_default(rule.bytes),
            or_default(rule.life.map(|it| it.as_millis())),
            or_default(rule.announce),
            rule.ephemeral_only,
        );
    }
    text
}

/// What is left out depends on the other settings of chat.
fn or_default(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelTable;
    use channel_store::Pattern;
    use std::collections::BTreeSet;

    fn text_of(toml: &str) -> String {
        let table: ChannelTable = toml::from_str(toml).unwrap();
        let shared = RulesHash::default();
        assert_eq!(shared.text(), "", "nothing is known yet");
        shared.clone().set(&table.channel);
        shared.text()
    }

    #[test]
    fn rules_that_mean_the_same_have_one_hash() {
        let first = text_of("[[channel]]\nmatch = 'a*'\nlife = '1h'\nbytes = '1MiB'");
        let other = "[[channel]]\nbytes = 1048576\nlife = '60m'\njoin = 'users'\nsend = 'members'\nrecover = 'log'\n\
                     ephemeral_only = false\nmatch = \"a*\"";
        assert_eq!(text_of(other), first);
        assert_eq!(first.len(), 16);
    }

    /// Otherwise two tables could look alike.
    #[test]
    fn a_pattern_cannot_stand_for_the_end_of_a_rule_and_the_next_rule() {
        let form = |patterns: &[&str]| {
            let rules = patterns.iter().map(|pattern| ChannelRule {
                pattern: Pattern::new(pattern).unwrap(),
                ..ChannelRule::default()
            });
            normal_form(&rules.collect::<Vec<_>>())
        };
        let two = form(&["a", "b"]);
        let (_, behind_the_length) = two.split_once(':').unwrap();
        let (one, _) = behind_the_length.rsplit_once(" join=").unwrap();
        assert_ne!(form(&[one]), two);
    }

    #[test]
    fn rules_that_differ_anywhere_have_different_hashes() {
        let row = "[[channel]]\nmatch = 'a'\n";
        let mut different = vec![
            String::new(),
            row.to_owned(),
            "[[channel]]\nmatch = 'b'".to_owned(),
            format!("{row}[[channel]]\nmatch = 'b'"),
            format!("[[channel]]\nmatch = 'b'\n{row}"),
            format!("{row}recover = 'last'"),
            format!("{row}recover = 'none'"),
            format!("{row}entries = 70000"),
            format!("{row}bytes = 70000"),
            format!("{row}keep = '70s'"),
            format!("{row}keep = '70001ms'"),
            format!("{row}life = '70s'"),
            format!("{row}life = '70001ms'"),
            format!("{row}announce = true"),
            format!("{row}announce = false"),
            format!("{row}ephemeral_only = true"),
        ];
        for right in ["join", "send", "history", "members"] {
            let default = if right == "join" { "users" } else { "members" };
            let all = ["nobody", "users", "members", "grant", "hook"];
            let others = all.iter().filter(|who| **who != default);
            different.extend(others.map(|who| format!("{row}{right} = '{who}'")));
        }
        let hashes: BTreeSet<_> = different.iter().map(|it| text_of(it)).collect();
        assert_eq!(hashes.len(), different.len());
    }
}
