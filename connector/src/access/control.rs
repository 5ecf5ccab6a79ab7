//! What sessions ask before they let somebody in or do something.

use super::claims::Claims;
use super::grants::Grants;
use super::issuer_error::IssuerError;
use super::rejected::Rejected;
use super::rights::Rights;
use super::rules::{RuleError, Rules};
use super::settings::{AuthSettings, Mode};
use super::verifier::Verifier;
use channel_rules::Recover;
use channel_store::{ChannelName, UserId};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Why the settings of access cannot be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The issuers.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The rules.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// Decides who may log in, and what a session may do in a channel.
pub struct AccessControl {
    /// `None`: everybody may log in under any name.
    verifier: Option<Arc<Verifier>>,
    expiry_grace: Duration,
    rules: Mutex<Arc<Rules>>,
    /// Counts the changes of the rules. It is read before the rules, and written after them, so nobody keeps an old
    /// judgement under a new number.
    generation: AtomicU32,
    changed: watch::Sender<()>,
}

impl AccessControl {
    /// Everybody may log in under any name, and there are no rules.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Arc::new(Self::of(None, Duration::ZERO, Rules::default()))
    }

    /// Reads the files of the settings.
    ///
    /// # Errors
    /// [`AccessError`] says in one line what is wrong.
    pub fn begin(settings: &AuthSettings) -> Result<Arc<Self>, AccessError> {
        let verifier = match settings.mode {
            Mode::Open => None,
            Mode::Jwt => Some(Verifier::open(&settings.issuers, settings.leeway)?),
        };
        let rules = Rules::new(&settings.channels)?;
        Ok(Arc::new(Self::of(verifier, settings.expiry_grace, rules)))
    }

    fn of(verifier: Option<Arc<Verifier>>, expiry_grace: Duration, rules: Rules) -> Self {
        Self {
            verifier,
            expiry_grace,
            rules: Mutex::new(Arc::new(rules)),
            generation: AtomicU32::new(0),
            changed: watch::Sender::new(()),
        }
    }

    /// Checks the tokens of clients, if they must show one.
    #[must_use]
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifier.as_ref()
    }

    /// How long a session stays open after its token has expired.
    #[must_use]
    pub fn expiry_grace(&self) -> Duration {
        self.expiry_grace
    }

    /// How long a session may go on with a token that expires at this time, in seconds since 1970. It is a year at most.
    pub(crate) fn lasts(&self, claims: &Claims) -> Duration {
        const YEAR: u64 = 365 * 24 * 60 * 60;
        let leeway = self
            .verifier
            .as_ref()
            .map_or(Duration::ZERO, |it| it.leeway());
        Duration::from_secs(ttl(claims).min(YEAR)) + leeway
    }

    /// Checks the token that a client shows.
    ///
    /// # Errors
    /// [`Rejected`]. The answer comes by the deadline.
    pub(crate) async fn check(
        verifier: &Verifier,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<Claims, Rejected> {
        let token = token.filter(|token| !token.is_empty());
        verifier
            .check(token.ok_or(Rejected::Missing)?, deadline)
            .await
    }

    /// What this user may do in this channel, and the number of the rules that say so.
    pub(crate) fn judge(
        &self,
        channel: &ChannelName,
        user: &UserId,
        grants: &Grants,
    ) -> (Rights, u32) {
        let generation = self.generation();
        let rules = Arc::clone(&self.rules.lock());
        (rules.judge(channel, user, grants), generation)
    }

    /// What this user gets when it comes back to this channel with its position.
    pub(crate) fn recover(&self, channel: &ChannelName, user: &UserId) -> Recover {
        let rules = Arc::clone(&self.rules.lock());
        rules.recover(channel, user)
    }

    /// The number of the rules that are in force.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts other rules in force, also for the sessions that are in channels already.
    ///
    /// The same rules change nothing, so no session is judged again.
    pub fn swap(&self, rules: Rules) {
        {
            let mut before = self.rules.lock();
            if **before == rules {
                return;
            }
            *before = Arc::new(rules);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changed.send_replace(());
    }

    /// Is told after each [`swap`](Self::swap).
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Keeps keys fresh.
    pub(crate) async fn keep(&self) -> Infallible {
        match &self.verifier {
            Some(verifier) => verifier.keep().await,
            None => std::future::pending().await,
        }
    }
}

/// The seconds until a token expires, by the clock of this machine.
pub(crate) fn ttl(claims: &Claims) -> u64 {
    let now = super::verifier::seconds(std::time::SystemTime::now());
    claims.expires.saturating_sub(now)
}
