//! What is forbidden to one user, as the table of users holds it.

use crate::restrictions::{Block, REVOKED_TOKENS, Restricted, Restriction, Restrictions, TokenId};
use std::collections::BTreeMap;

/// What is forbidden to one user. Times are milliseconds since 1970, by the clock of the user's server.
#[derive(Clone, Default)]
pub(super) struct Held {
    block: Option<Block>,
    /// Tokens made before this are revoked, and when this is forgotten.
    issued_before: Option<(u64, u64)>,
    /// When each revocation of a token is forgotten.
    tokens: BTreeMap<TokenId, u64>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.block.is_none() && self.issued_before.is_none() && self.tokens.is_empty()
    }

    /// What is in force. Forgets what is over.
    pub(super) fn in_force(&mut self, clock: u64) -> Restrictions {
        self.block.take_if(|block| block.until <= clock);
        self.issued_before.take_if(|(_, until)| *until <= clock);
        self.tokens.retain(|_, until| *until > clock);
        Restrictions {
            block: self.block.clone(),
            issued_before: self.issued_before.map(|(before, _)| before),
            revoked: self.tokens.keys().copied().collect(),
        }
    }

    pub(super) fn restrict(&mut self, change: &Restriction, clock: u64) -> Restricted {
        self.in_force(clock);
        match change {
            Restriction::Block { until, reason } => {
                self.block = Some(Block {
                    until: until.milliseconds(clock),
                    reason: reason.clone(),
                });
            }
            Restriction::Unblock => self.block = None,
            Restriction::RevokeIssuedBefore { before, until } => {
                let (was, lasts) = self.issued_before.unwrap_or_default();
                let before = before.milliseconds(clock).max(was);
                self.issued_before = Some((before, until.milliseconds(clock).max(lasts)));
            }
            Restriction::RevokeToken { id, until } => {
                if !self.tokens.contains_key(id) && self.tokens.len() >= REVOKED_TOKENS {
                    return Restricted::TooMany;
                }
                let known = self.tokens.entry(*id).or_default();
                *known = until.milliseconds(clock).max(*known);
            }
        }
        Restricted::Yes(self.in_force(clock))
    }
}
