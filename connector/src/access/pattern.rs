//! Patterns for names of channels.

use channel_store::ChannelName;

/// Stands for the name of the session's user.
const USER: &str = "{user}";

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, or longer than a channel's name.
    #[error("a pattern has 1 to 256 bytes")]
    Length,
    /// A `*` before the end, or several.
    #[error("a * may stand only at the end of a pattern")]
    Star,
    /// `{user}` twice.
    #[error("{{user}} may stand only once in a pattern")]
    TwoUsers,
    /// `{user}` together with `*`.
    #[error(
        "a pattern with {{user}} cannot end in *, because the name of one user may begin with that of another: ann would match channels of anna"
    )]
    UserAndStar,
}

/// A pattern: the name of a channel, or the beginning of names if it ends in `*`. `{user}` stands for the session's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    before: Box<str>,
    /// What follows `{user}`. `None`: the pattern names no user.
    after: Option<Box<str>>,
    is_prefix: bool,
}

impl Pattern {
    /// Reads a pattern of the settings.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let (text, is_prefix) = split(text)?;
        let (before, after) = match text.split_once(USER) {
            Some((_, after)) if after.contains(USER) => return Err(PatternError::TwoUsers),
            Some(_) if is_prefix => return Err(PatternError::UserAndStar),
            Some((before, after)) => (before, Some(after.into())),
            None => (text, None),
        };
        Ok(Self {
            before: before.into(),
            after,
            is_prefix,
        })
    }

    /// Reads a pattern of a token. `{user}` means nothing special there, because the token names its user. `None`: this is
    /// no pattern.
    pub(super) fn granted(text: &str) -> Option<Self> {
        let (before, is_prefix) = split(text).ok()?;
        Some(Self {
            before: before.into(),
            after: None,
            is_prefix,
        })
    }

    /// The pattern for this name alone, also if it holds a `*`.
    pub(super) fn exactly(name: &str) -> Self {
        Self {
            before: name.into(),
            after: None,
            is_prefix: false,
        }
    }

    /// True if this channel is meant, for this user.
    pub(super) fn matches(&self, channel: &str, user: &str) -> bool {
        let Some(rest) = channel.strip_prefix(&*self.before) else {
            return false;
        };
        match &self.after {
            Some(after) => rest.strip_prefix(user) == Some(after),
            None => self.is_prefix || rest.is_empty(),
        }
    }
}

/// A pattern without the `*` at its end, and true if it has one.
fn split(text: &str) -> Result<(&str, bool), PatternError> {
    if !(1..=ChannelName::LIMIT).contains(&text.len()) {
        return Err(PatternError::Length);
    }
    let (text, is_prefix) = match text.strip_suffix('*') {
        Some(beginning) => (beginning, true),
        None => (text, false),
    };
    if text.contains('*') {
        return Err(PatternError::Star);
    }
    Ok((text, is_prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning_or_names_the_user() {
        for (pattern, channel, user, expected) in [
            ("room", "room", "u", true),
            ("room", "rooms", "u", false),
            ("game:*", "game:1", "u", true),
            ("game:*", "game:", "u", true),
            ("game:*", "game", "u", false),
            ("*", "anything", "u", true),
            ("inbox:{user}", "inbox:ann", "ann", true),
            ("inbox:{user}", "inbox:anna", "ann", false),
            ("inbox:{user}", "inbox:ann", "anna", false),
            ("inbox:{user}", "inbox:{user}", "ann", false),
            ("{user}:mail", "ann:mail", "ann", true),
            ("{user}:mail", "ann:mail:mail", "ann", false),
            ("{user}", "ann", "ann", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(
                parsed.matches(channel, user),
                expected,
                "{pattern} {channel}"
            );
        }
    }

    #[test]
    fn patterns_that_would_match_channels_of_other_users_are_refused() {
        for (text, error) in [
            ("", PatternError::Length),
            ("a*b", PatternError::Star),
            ("**", PatternError::Star),
            ("{user}{user}", PatternError::TwoUsers),
            ("inbox:{user}*", PatternError::UserAndStar),
            ("inbox:{user}:*", PatternError::UserAndStar),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
        let long = "x".repeat(257);
        assert_eq!(Pattern::parse(&long), Err(PatternError::Length));
    }
}
