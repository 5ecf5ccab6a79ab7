//! What the token of a user grants: `caps`. There is nothing in it that forbids anything.

use super::rights::{Right, Rights};
use channel_store::{ChannelName, Pattern};
use serde::Deserialize;
use serde_json::Value;

/// The most patterns of all grants of a token.
const PATTERNS: usize = 500;

/// All grants of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// Rights in some channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    channels: Vec<Pattern>,
    allow: Rights,
}

impl Grant {
    /// The right to join these channels.
    pub(super) fn join(channels: &[ChannelName]) -> Self {
        let channels = channels.iter();
        Self {
            channels: channels.map(|it| Pattern::exactly(it.as_str())).collect(),
            allow: Rights::NONE.with(Right::Join),
        }
    }
}

impl Grants {
    /// Reads `[{"channels":["game:*"],"allow":["join"]}]`. A right that is not known here grants nothing, and is logged. `None`: it has
    /// another form. An unknown member is among that, because it could be meant to narrow the grant.
    pub(super) fn parse(caps: &Value) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Cap {
            channels: Vec<String>,
            allow: Vec<String>,
        }
        let caps: Vec<Cap> = Deserialize::deserialize(caps).ok()?;
        Self::of(caps.into_iter().map(|Cap { channels, allow }| {
            let rights = allow.iter().filter_map(|name| {
                let right = Right::named(name);
                if right.is_none() {
                    // Perhaps a slip of the issuer, whose users would wonder why they are refused.
                    tracing::warn!(
                        right = name,
                        "a token has a right in its caps that is not known here, and that grants nothing"
                    );
                }
                right
            });
            (channels, rights.fold(Rights::NONE, Rights::with))
        }))
    }

    /// Grants of these rights in channels with these patterns. `None`: there are too many patterns, or one cannot be read.
    pub(super) fn of(caps: impl Iterator<Item = (Vec<String>, Rights)>) -> Option<Self> {
        let mut patterns = 0;
        let grants = caps.map(|(channels, allow)| {
            patterns += channels.len();
            if patterns > PATTERNS {
                return None;
            }
            let channels = channels.iter().map(|it| Pattern::without_user(it).ok());
            Some(Grant {
                channels: channels.collect::<Option<_>>()?,
                allow,
            })
        });
        grants.collect::<Option<_>>().map(Self)
    }

    pub(super) fn push(&mut self, grant: Grant) {
        self.0.push(grant);
    }

    /// True if one of them grants this right in this channel.
    pub(super) fn allow(&self, right: Right, channel: &ChannelName) -> bool {
        self.0.iter().any(|grant| {
            let mut patterns = grant.channels.iter();
            grant.allow.has(right) && patterns.any(|it| it.matches(channel.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::logged::Logged;
    use serde_json::json;
    use tracing::Level;

    #[test]
    fn a_right_that_is_not_known_grants_nothing_and_is_logged() {
        let warnings = Logged::at(Level::WARN);
        let game = ChannelName::new("game:1").unwrap();
        for (allow, expected) in [
            (&["send"][..], 0),
            (&["jin", "send"], 1),
            (&["", "Send"], 3),
        ] {
            let caps = json!([{"channels": ["game:*"], "allow": allow}]);
            let grants = Grants::parse(&caps).unwrap();
            assert!(!grants.allow(Right::Join, &game));
            assert_eq!(grants.allow(Right::Send, &game), allow.contains(&"send"));
            assert_eq!(warnings.count(), expected, "{allow:?}");
        }
    }
}
