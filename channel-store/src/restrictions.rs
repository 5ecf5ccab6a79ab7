//! What is forbidden to a user (docs/design/membership.md, "Blocked users and revoked tokens").
//!
//! A user may be blocked, and tokens of the user may be revoked: those that were made before some time, and single ones. Every
//! login and claim is checked against this in the same step in which it is entered. So a restriction is written **before**
//! anybody looks for sessions: each login then either finds it, or is found. All of it ends by itself.

use crate::error::StoreError;
use crate::name::UserId;
use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use std::fmt;
use std::time::Duration;

/// The most tokens of a user that are revoked one by one. More than these are hardly ever valid at once, and each login would
/// have to look at all of them.
pub const REVOKED_TOKENS: usize = 100;
/// The most bytes of the reason of a block.
pub const BLOCK_REASON_BYTES: usize = 64;

/// Names a token by a hash of its `jti`, so that all names have the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The name of the token with this `jti`: the first 128 bits of its SHA-256.
    #[must_use]
    pub fn of(jti: &str) -> Self {
        let mut id = [0; 16];
        let hash = digest(&SHA256, jti.as_bytes());
        for (byte, of_hash) in id.iter_mut().zip(hash.as_ref()) {
            *byte = *of_hash;
        }
        Self(id)
    }

    /// Takes what [`as_bytes`](Self::as_bytes) returns.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok()?;
        (text.len() == 32).then(|| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What decides whether the token of a login was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownToken {
    /// When it was made (`iat`), in seconds since 1970. A token that does not say so counts as older than all others.
    pub issued: Option<u64>,
    /// Its name (`jti`), if it has one.
    pub id: Option<TokenId>,
}

/// A time, as somebody says it to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Milliseconds since 1970.
    At(u64),
    /// So long from now on, by the clock of the server that holds the user.
    After(Duration),
}

impl When {
    /// In milliseconds since 1970, if it is now this time.
    pub(crate) fn milliseconds(self, now: u64) -> u64 {
        match self {
            Self::At(time) => time,
            Self::After(duration) => {
                now.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

/// A change of what is forbidden to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restriction {
    /// Nobody logs in as the user until then. An earlier block is replaced, also if it would have lasted longer.
    Block {
        /// When it ends.
        until: When,
        /// Why, for programs. At most [`BLOCK_REASON_BYTES`], without control characters. May be empty.
        reason: String,
    },
    /// Ends the block. Revoked tokens stay revoked.
    Unblock,
    /// Revokes the tokens that were made before some time. If later ones are revoked already, they stay so.
    RevokeIssuedBefore {
        /// Tokens from this time on are not revoked.
        before: When,
        /// When this is forgotten. It is not forgotten earlier than was said before.
        until: When,
    },
    /// Revokes one token.
    RevokeToken {
        /// Which one.
        id: TokenId,
        /// When this is forgotten. It is not forgotten earlier than was said before.
        until: When,
    },
}

/// A block that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// When it ends: milliseconds since 1970, by the clock of the server that holds the user.
    pub until: u64,
    /// Why, for programs. May be empty.
    pub reason: String,
}

/// All that is forbidden to a user at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Nobody may be logged in as the user.
    pub block: Option<Block>,
    /// Tokens that were made before this time are revoked: milliseconds since 1970.
    pub issued_before: Option<u64>,
    /// Single tokens that are revoked, in no order.
    pub revoked: Vec<TokenId>,
}

/// Why nobody may be logged in as a user, or not with this token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forbidden {
    /// The user is blocked.
    Blocked(Block),
    /// The token was revoked.
    TokenRevoked,
}

impl Restrictions {
    /// Why a session may not be logged in, if that is so. `token`: what the session has shown; `None` if it needed none.
    #[must_use]
    pub fn forbid(&self, token: Option<&ShownToken>) -> Option<Forbidden> {
        if let Some(block) = &self.block {
            return Some(Forbidden::Blocked(block.clone()));
        }
        let ShownToken { issued, id } = token?;
        let issued = issued.unwrap_or(0).saturating_mul(1_000);
        let is_old = self.issued_before.is_some_and(|before| issued < before);
        let is_revoked = id.is_some_and(|id| self.revoked.contains(&id));
        (is_old || is_revoked).then_some(Forbidden::TokenRevoked)
    }
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restricted {
    /// It is done, and this is in force now.
    Yes(Restrictions),
    /// Nothing was changed, because [`REVOKED_TOKENS`] of the user are revoked already.
    TooMany,
}

/// Changes what is forbidden to users. This is the side of chat; connectors read it with the entries of a user.
#[async_trait]
pub trait UserRestrictions: Send + Sync + 'static {
    /// Makes a change. It may be repeated. It works when the store's memory is full.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown, or too few replicas have it.
    async fn restrict(&self, user: &UserId, change: &Restriction)
    -> Result<Restricted, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(issued: Option<u64>, jti: Option<&str>) -> ShownToken {
        ShownToken {
            issued,
            id: jti.map(TokenId::of),
        }
    }

    #[test]
    fn a_block_forbids_every_session_and_a_revocation_only_those_with_such_a_token() {
        let blocked = Restrictions {
            block: Some(Block {
                until: 5,
                reason: "spam".to_owned(),
            }),
            ..Restrictions::default()
        };
        assert!(matches!(
            blocked.forbid(None),
            Some(Forbidden::Blocked(block)) if block.reason == "spam"
        ));
        let revoked = Restrictions {
            issued_before: Some(10_500),
            revoked: vec![TokenId::of("a")],
            ..Restrictions::default()
        };
        assert_eq!(revoked.forbid(None), None, "it needed no token");
        for (shown, is_forbidden) in [
            (token(Some(11), None), false),
            (token(Some(11), Some("b")), false),
            (token(Some(11), Some("a")), true),
            // A time that is cut to seconds may have been before.
            (token(Some(10), None), true),
            (token(None, None), true),
        ] {
            let forbidden = revoked.forbid(Some(&shown));
            assert_eq!(forbidden.is_some(), is_forbidden, "{shown:?}");
        }
    }

    #[test]
    fn the_name_of_a_token_is_read_as_it_is_written() {
        let id = TokenId::of("some token");
        assert_eq!(TokenId::parse(&id.to_string()), Some(id));
        assert_eq!(TokenId::from_bytes(*id.as_bytes()), id);
        assert_eq!(TokenId::parse("12"), None);
    }
}
