//! What sessions ask before they let somebody in or do something.

use super::claims::Claims;
use super::grants::Grants;
use super::rejected::Rejected;
use super::rights::Rights;
use super::rules::{ChannelRule, RuleError, Rules};
use super::settings::{AuthSettings, IssuerSettings, Mode};
use super::verifier::{IssuerError, Verifier};
use channel_store::{ChannelName, UserId};
use parking_lot::Mutex;
use serde::Deserialize;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The most bytes of a file with issuers and rules.
const LARGEST_FILE: u64 = 1 << 20;
/// The time between two looks at the file. With the time in which sessions notice new rules this stays below a second.
const LOOK: Duration = Duration::from_millis(700);

/// Why the settings of access cannot be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read.
    #[error("--access-file: cannot read {}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file holds something else than issuers and rules.
    #[error("--access-file: {}: {error}", file.display())]
    Toml {
        /// The file.
        file: PathBuf,
        /// What is wrong, in one line.
        error: String,
    },
    /// The issuers.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The rules.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// What `--access-file` may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessFile {
    #[serde(default)]
    auth: AuthTable,
    #[serde(default)]
    channel: Vec<ChannelRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthTable {
    #[serde(default)]
    issuer: Vec<IssuerSettings>,
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
    /// The file, and the rules that stand before those of it.
    file: Option<(PathBuf, Vec<ChannelRule>)>,
}

impl AccessControl {
    /// Everybody may log in under any name, and there are no rules.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Arc::new(Self::of(None, Duration::ZERO, Rules::default(), None))
    }

    /// Reads the files of the settings.
    ///
    /// # Errors
    /// [`AccessError`] says in one line what is wrong.
    pub fn begin(settings: &AuthSettings) -> Result<Arc<Self>, AccessError> {
        let file = match &settings.file {
            Some(file) => read(file)?,
            None => AccessFile::default(),
        };
        let verifier = match settings.mode {
            Mode::Open => None,
            Mode::Jwt => {
                let issuers = [&settings.issuers[..], &file.auth.issuer].concat();
                Some(Verifier::open(&issuers, settings.leeway)?)
            }
        };
        let rules = [&settings.channels[..], &file.channel].concat();
        let watched = settings.file.clone();
        Ok(Arc::new(Self::of(
            verifier,
            settings.expiry_grace,
            Rules::new(&rules)?,
            watched.map(|file| (file, settings.channels.clone())),
        )))
    }

    fn of(
        verifier: Option<Arc<Verifier>>,
        expiry_grace: Duration,
        rules: Rules,
        file: Option<(PathBuf, Vec<ChannelRule>)>,
    ) -> Self {
        Self {
            verifier,
            expiry_grace,
            rules: Mutex::new(Arc::new(rules)),
            generation: AtomicU32::new(0),
            changed: watch::Sender::new(()),
            file,
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

    /// The number of the rules that are in force.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts other rules in force, also for the sessions that are in channels already.
    pub fn swap(&self, rules: Rules) {
        *self.rules.lock() = Arc::new(rules);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changed.send_replace(());
    }

    /// Is told after each [`swap`](Self::swap).
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Keeps keys fresh, and the rules as they are in the file.
    pub(crate) async fn keep(&self) -> Infallible {
        let keys = async {
            match &self.verifier {
                Some(verifier) => verifier.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = keys => never,
            never = self.follow_file() => never,
        }
    }

    /// Looks at the file again and again. If it cannot be used, the rules stay as they are.
    async fn follow_file(&self) -> Infallible {
        let Some((file, before)) = &self.file else {
            return std::future::pending().await;
        };
        let mut known = text(file).map_err(|error| error.to_string());
        loop {
            sleep(LOOK).await;
            let content = text(file).map_err(|error| error.to_string());
            if content == known {
                continue;
            }
            let rules = read(file).and_then(|file| {
                let rules = [&before[..], &file.channel].concat();
                Ok(Rules::new(&rules)?)
            });
            match rules {
                Ok(rules) => {
                    tracing::info!(file = %file.display(), "the rules of channels have changed");
                    self.swap(rules);
                }
                Err(error) => {
                    tracing::error!(%error, "the rules of channels stay as they are");
                }
            }
            known = content;
        }
    }
}

/// The seconds until a token expires, by the clock of this machine.
pub(crate) fn ttl(claims: &Claims) -> u64 {
    let now = super::verifier::seconds(std::time::SystemTime::now());
    claims.expires.saturating_sub(now)
}

fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?
        .take(LARGEST_FILE)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn read(file: &Path) -> Result<AccessFile, AccessError> {
    let text = text(file).map_err(|error| AccessError::File {
        file: file.to_owned(),
        error,
    })?;
    toml::from_str(&text).map_err(|error| AccessError::Toml {
        file: file.to_owned(),
        error: one_line(&error, &text),
    })
}

/// The place and the message of an error, without the lines of the file.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
        None => message,
    }
}
