//! Patterns for the names of channels. There is one kind: rules of channels, grants of users and tokens of back ends all use it.

use crate::name::ChannelName;
use std::fmt;

/// Stands for the name of the session's user.
const USER: &str = "{user}";

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, or longer than a channel's name.
    #[error("a pattern has 1 to 256 bytes")]
    Length,
    /// `{user}` twice.
    #[error("{{user}} may stand only once in a pattern")]
    TwoUsers,
    /// `{user}` together with `*`.
    #[error(
        "a pattern with {{user}} cannot have a *, because the name of one user may begin with that of another: ann would match channels of anna"
    )]
    UserAndStar,
}

/// A pattern: the name of a channel, in which each `*` stands for any characters or none. In some places `{user}` stands for
/// the session's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No character of the text stands for anything else.
    Name,
    Stars,
    /// `{user}` begins here.
    User(usize),
}

impl Pattern {
    /// Reads a pattern in which `{user}` stands for the session's user.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let pattern = Self::without_user(text)?;
        let Some((before, after)) = text.split_once(USER) else {
            return Ok(pattern);
        };
        if after.contains(USER) {
            return Err(PatternError::TwoUsers);
        }
        if pattern.kind == Kind::Stars {
            return Err(PatternError::UserAndStar);
        }
        let kind = Kind::User(before.len());
        Ok(Self { kind, ..pattern })
    }

    /// Reads a pattern in which `{user}` means nothing special.
    ///
    /// # Errors
    /// [`PatternError::Length`].
    pub fn without_user(text: &str) -> Result<Self, PatternError> {
        if !(1..=ChannelName::LIMIT).contains(&text.len()) {
            return Err(PatternError::Length);
        }
        let kind = if text.contains('*') {
            Kind::Stars
        } else {
            Kind::Name
        };
        let text = text.into();
        Ok(Self { text, kind })
    }

    /// The pattern for this name alone, also if it holds a `*`.
    #[must_use]
    pub fn exactly(name: &str) -> Self {
        let text = name.into();
        let kind = Kind::Name;
        Self { text, kind }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if this channel is meant, for whatever user: `{user}` stands for any text.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        match self.between(channel) {
            Some(user) => !user.is_empty(),
            None => self.matches_without_user(channel),
        }
    }

    /// True if this channel is meant, for this user.
    #[must_use]
    pub fn matches_for(&self, channel: &str, user: &str) -> bool {
        match self.between(channel) {
            Some(between) => between == user,
            None => self.matches_without_user(channel),
        }
    }

    /// What stands in a name in the place of `{user}`.
    fn between<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let Kind::User(at) = self.kind else {
            return None;
        };
        let before = self.text.get(..at)?;
        let after = self.text.get(at + USER.len()..)?;
        channel.strip_prefix(before)?.strip_suffix(after)
    }

    fn matches_without_user(&self, channel: &str) -> bool {
        match self.kind {
            Kind::Name => *self.text == *channel,
            Kind::Stars => matches(&self.text, channel),
            Kind::User(_) => false,
        }
    }
}

/// Matches every channel.
impl Default for Pattern {
    fn default() -> Self {
        let text = "*".into();
        let kind = Kind::Stars;
        Self { text, kind }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// True if a name matches a text in which each `*` stands for any run of characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Taking each part at its leftmost place leaves the most text for the parts that follow.
    for part in middle.split('*') {
        let Some((_, after)) = name.split_once(part) else {
            return false;
        };
        name = after;
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, yes, no) in [
            ("4", &["4"][..], &["", "44", "*"][..]),
            ("*", &["", "4", "room:4"], &[]),
            (
                "room:*",
                &["room:", "room:4", "room:*"],
                &["room", "a room:4"],
            ),
            ("*:log", &[":log", "a:log", ":log:log"], &["log", "a:log "]),
            (
                "a*b*c",
                &["abc", "a-b-c", "abbcc", "abcbc"],
                &["ac", "acb", "ab c ", "xabc"],
            ),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*ab*ab*", &["abab", "xab哈aby"], &["ab", "aab"]),
            ("**", &["", "x"], &[]),
            ("哈*", &["哈", "哈哈"], &["h"]),
        ] {
            let parsed = Pattern::new(pattern).unwrap();
            let granted = Pattern::without_user(pattern).unwrap();
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
                assert!(
                    parsed.matches(name) && granted.matches(name),
                    "{pattern} {name}"
                );
                assert!(parsed.matches_for(name, "u"), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
                assert!(
                    !parsed.matches(name) && !granted.matches(name),
                    "{pattern} {name}"
                );
                assert!(!parsed.matches_for(name, "u"), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn user_stands_for_the_user_of_a_session_or_for_any_text() {
        for (pattern, channel, user, is_users, is_anybodys) in [
            ("inbox:{user}", "inbox:ann", "ann", true, true),
            ("inbox:{user}", "inbox:anna", "ann", false, true),
            ("inbox:{user}", "inbox:ann", "anna", false, true),
            ("inbox:{user}", "inbox:{user}", "ann", false, true),
            ("inbox:{user}", "inbox:", "ann", false, false),
            ("inbox:{user}", "outbox:ann", "ann", false, false),
            ("{user}:mail", "ann:mail", "ann", true, true),
            ("{user}:mail", "ann:mail:mail", "ann", false, true),
            ("{user}", "ann", "ann", true, true),
            ("a{user}a", "a", "a", false, false),
            ("a{user}a", "aa", "", true, false),
        ] {
            let parsed = Pattern::new(pattern).unwrap();
            assert_eq!(
                parsed.matches_for(channel, user),
                is_users,
                "{pattern} {channel}"
            );
            assert_eq!(parsed.matches(channel), is_anybodys, "{pattern} {channel}");
        }
        let literal = Pattern::without_user("inbox:{user}").unwrap();
        assert!(literal.matches_for("inbox:{user}", "ann"));
        assert!(!literal.matches_for("inbox:ann", "ann"));
    }

    #[test]
    fn the_pattern_of_one_name_matches_no_other_also_if_it_holds_a_star() {
        let star = Pattern::exactly("game:*");
        assert!(star.matches("game:*"));
        assert!(!star.matches("game:1"));
    }

    #[test]
    fn patterns_that_would_match_channels_of_other_users_are_refused() {
        for (text, error) in [
            ("", PatternError::Length),
            ("{user}{user}", PatternError::TwoUsers),
            ("inbox:{user}*", PatternError::UserAndStar),
            ("*:{user}", PatternError::UserAndStar),
            ("inbox:{user}:*", PatternError::UserAndStar),
        ] {
            assert_eq!(Pattern::new(text), Err(error), "{text}");
        }
        let long = "x".repeat(257);
        assert_eq!(Pattern::new(&long), Err(PatternError::Length));
        assert_eq!(Pattern::without_user(&long), Err(PatternError::Length));
    }
}
