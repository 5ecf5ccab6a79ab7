//! What sessions ask before they let somebody in or do something.

use super::claims::{Claims, NEVER, seconds_since_1970};
use super::grants::Grants;
use super::hook::{Hook, HookSettingsError};
use super::issuer_error::IssuerError;
use super::rejected::Rejected;
use super::rights::Rights;
use super::rules::{RuleError, Rules, without_hook};
use super::settings::{AuthSettings, Mode};
use super::verifier::Verifier;
use channel_rules::Recover;
use channel_store::{ChannelName, UserId};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
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
    /// The hook.
    #[error(transparent)]
    Hook(#[from] HookSettingsError),
}

/// Decides who may log in, and what a session may do in a channel.
pub struct AccessControl {
    /// Checks tokens, if clients log in with tokens.
    verifier: Option<Arc<Verifier>>,
    /// The operator's hook, if there is one.
    hook: Option<Arc<Hook>>,
    /// It is asked about each login. Without this and without a verifier, everybody may log in under any name.
    is_hook_for_logins: bool,
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
        Arc::new(Self::of(None, None, Duration::ZERO, Rules::default()))
    }

    /// Reads the files of the settings. A message may have `message_limit` bytes.
    ///
    /// # Errors
    /// [`AccessError`] says in one line what is wrong.
    pub fn begin(settings: &AuthSettings, message_limit: usize) -> Result<Arc<Self>, AccessError> {
        let verifier = match settings.mode {
            Mode::Open | Mode::Hook => None,
            Mode::Jwt => Some(Verifier::open(&settings.issuers, settings.leeway)?),
        };
        let is_hook_for_logins = settings.mode == Mode::Hook;
        let hook = Hook::open(&settings.hook, is_hook_for_logins, message_limit)?;
        if hook.is_none() {
            without_hook(&settings.channels)?;
        }
        let rules = Rules::new(&settings.channels)?;
        Ok(Arc::new(Self {
            is_hook_for_logins,
            ..Self::of(verifier, hook, settings.expiry_grace, rules)
        }))
    }

    fn of(
        verifier: Option<Arc<Verifier>>,
        hook: Option<Arc<Hook>>,
        expiry_grace: Duration,
        rules: Rules,
    ) -> Self {
        Self {
            verifier,
            hook,
            is_hook_for_logins: false,
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

    /// The operator's hook, if there is one.
    pub(crate) fn hook(&self) -> Option<&Arc<Hook>> {
        self.hook.as_ref()
    }

    /// The same, if it decides who may log in.
    pub(crate) fn login_hook(&self) -> Option<&Arc<Hook>> {
        self.hook.as_ref().filter(|_| self.is_hook_for_logins)
    }

    /// True if clients must prove who they are.
    pub(crate) fn wants_proof(&self) -> bool {
        self.verifier.is_some() || self.is_hook_for_logins
    }

    /// How long a session stays open after its token has expired.
    #[must_use]
    pub fn expiry_grace(&self) -> Duration {
        self.expiry_grace
    }

    /// How long a session may go on with a token that expires at this time, in seconds since 1970. It is a year at most.
    /// `None`: for ever.
    pub(crate) fn lasts(&self, claims: &Claims) -> Option<Duration> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let leeway = self
            .verifier
            .as_ref()
            .map_or(Duration::ZERO, |it| it.leeway());
        Some(left(claims, leeway)?.min(YEAR + leeway))
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

    /// What this user may do in this channel, and the number of the rules that say so. `decided` is what the hook allows of what
    /// it is [to decide](Self::to_decide).
    pub(crate) fn judge(
        &self,
        channel: &ChannelName,
        user: &UserId,
        grants: &Grants,
        decided: Rights,
    ) -> (Rights, u32) {
        let generation = self.generation();
        let rules = Arc::clone(&self.rules.lock());
        (rules.judge(channel, user, grants, decided), generation)
    }

    /// The rights in this channel about which the rules let the hook decide.
    pub(crate) fn to_decide(&self, channel: &ChannelName, user: &UserId) -> Rights {
        if self.hook.is_none() {
            return Rights::NONE;
        }
        let rules = Arc::clone(&self.rules.lock());
        rules.to_decide(channel, user)
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

    /// Keeps keys fresh, and looks after the hook.
    pub(crate) async fn keep(&self) -> Infallible {
        let verifying = async {
            match &self.verifier {
                Some(verifier) => verifier.keep().await,
                None => std::future::pending().await,
            }
        };
        let asking = async {
            match &self.hook {
                Some(hook) => hook.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = verifying => never,
            never = asking => never,
        }
    }
}

/// The seconds until a token expires, by the clock of this machine. `None`: it never does.
pub(crate) fn ttl(claims: &Claims) -> Option<u64> {
    left(claims, Duration::ZERO).map(|it| it.as_secs())
}

/// The time until this much after a token expires, by the clock of this machine. `None`: it never does.
fn left(claims: &Claims, leeway: Duration) -> Option<Duration> {
    if claims.expires == NEVER {
        return None;
    }
    let end = Duration::from_secs(claims.expires).saturating_add(leeway);
    let now = Duration::from_secs(seconds_since_1970(SystemTime::now()));
    Some(end.saturating_sub(now))
}

#[cfg(test)]
impl AccessControl {
    /// With this hook, which decides about logins, too, if that is wanted.
    pub(crate) fn with_hook(hook: Arc<Hook>, is_for_logins: bool, rules: Rules) -> Arc<Self> {
        let grace = Duration::from_secs(25);
        Arc::new(Self {
            is_hook_for_logins: is_for_logins,
            ..Self::of(None, Some(hook), grace, rules)
        })
    }
}
