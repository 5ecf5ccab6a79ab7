//! Keeps the keys of one issuer fresh.
//!
//! Files are watched. Keys at a URL are fetched every fifteen minutes, and sooner if a token names a
//! key that is not known. If that fails, the keys that were fetched last serve for another day: an issuer that is away must
//! not lock out the users of tokens that it has signed before.

use super::algorithm::Algorithm;
use super::fetch::{FetchError, fetch};
use super::issuer_error::IssuerError;
use super::keys::{KeyError, KeySet, LARGEST};
use super::settings::IssuerSettings;
use http::Uri;
use parking_lot::Mutex;
use runtime::files::{Change, FileWatch, ReadError, read_all};
use runtime::tls::ClientFiles;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The time between two fetches that succeed.
const REFETCH: Duration = Duration::from_secs(15 * 60);
/// The shortest time between two fetches for keys that are not known.
const APART: Duration = Duration::from_secs(30);
/// The pause after a fetch that failed. It doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long keys serve after the last fetch that succeeded.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where keys come from.
pub(super) enum Source {
    Jwks(PathBuf),
    Pem(PathBuf),
    Secrets(Vec<PathBuf>),
    /// What is served there, by a server that one of these authorities has certified.
    Url(Uri, ClientFiles),
}

impl Source {
    /// Reads the URL of a set of keys. `None` if it is no such URL, or if it holds a user or a password, which would be logged.
    pub(super) fn parse_url(url: &str) -> Option<Uri> {
        let uri: Uri = url.parse().ok()?;
        let is_plain = !uri.authority()?.as_str().contains('@');
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        (is_plain && is_http).then_some(uri)
    }

    fn of(settings: &IssuerSettings) -> Option<Self> {
        let IssuerSettings {
            jwks_file,
            jwks_url,
            jwks_ca_file,
            public_key_file,
            secret_file,
            previous_secret_file,
            ..
        } = settings;
        if let Some(file) = jwks_file {
            return Some(Self::Jwks(file.clone()));
        }
        if let Some(file) = public_key_file {
            return Some(Self::Pem(file.clone()));
        }
        if let Some(file) = secret_file {
            let files = [Some(file), previous_secret_file.as_ref()];
            return Some(Self::Secrets(
                files.into_iter().flatten().cloned().collect(),
            ));
        }
        let trust = ClientFiles {
            ca: jwks_ca_file.clone(),
            identity: None,
        };
        let uri = jwks_url.as_deref().and_then(Self::parse_url)?;
        Some(Self::Url(uri, trust))
    }

    fn files(&self) -> &[PathBuf] {
        match self {
            Self::Jwks(file) | Self::Pem(file) => std::slice::from_ref(file),
            Self::Secrets(files) => files,
            Self::Url(..) => &[],
        }
    }

    /// The keys in these contents of the files, or in this answer.
    fn keys(&self, contents: &[Vec<u8>], algorithms: &[Algorithm]) -> Result<KeySet, KeyError> {
        let first = contents.first().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Jwks(_) | Self::Url(..) => KeySet::of_jwks(first, algorithms),
            Self::Pem(_) => KeySet::of_pem(first, algorithms),
            Self::Secrets(_) => KeySet::of_secrets(contents),
        }
    }
}

/// The keys of one issuer, and where they come from.
pub(super) struct Keeper {
    source: Source,
    algorithms: Vec<Algorithm>,
    /// What was in the files at the start.
    contents: Vec<Vec<u8>>,
    state: Mutex<State>,
    /// Wakes the task that fetches.
    wanted: Notify,
    /// How many fetches have ended.
    fetches: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// Why the last try to get keys failed, if it did.
    trouble: Option<String>,
    /// When the last fetch began.
    asked: Option<Instant>,
    /// A fetch is under way, or about to begin.
    is_fetching: bool,
}

impl State {
    fn begin(&mut self, now: Instant) {
        self.asked = Some(now);
        self.is_fetching = true;
    }
}

/// Returns at this time. `None`: never.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

impl Keeper {
    /// Reads the files, if the keys are in files.
    pub(super) fn open(settings: &IssuerSettings) -> Result<Self, IssuerError> {
        let issuer = || settings.issuer.clone();
        let source = Source::of(settings).ok_or_else(|| IssuerError::Settings {
            issuer: issuer(),
            what: "expected exactly one of jwks_file, jwks_url, public_key_file and secret_file",
        })?;
        if let Source::Url(_, trust) = &source {
            trust.check().map_err(|error| IssuerError::Trust {
                issuer: issuer(),
                error,
            })?;
        }
        let mut state = State::default();
        let files = source.files();
        let contents = read_all(files, LARGEST as u64);
        let contents = contents.map_err(|ReadError { file, error }| IssuerError::File {
            issuer: issuer(),
            file,
            error,
        })?;
        if let Some(file) = files.first() {
            let keys = source.keys(&contents, &settings.algorithms);
            let keys = keys.map_err(|error| IssuerError::Keys {
                issuer: issuer(),
                file: file.clone(),
                error,
            })?;
            state.keys = Some(Arc::new(keys));
        } else {
            state.trouble = Some("its keys were not fetched yet".to_owned());
        }
        Ok(Self {
            source,
            algorithms: settings.algorithms.clone(),
            contents,
            state: Mutex::new(state),
            wanted: Notify::new(),
            fetches: watch::Sender::new(0),
        })
    }

    /// The keys at this time.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.state.lock().keys.clone()
    }

    /// Why the last try to get keys failed, if it did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    /// Keeps the keys fresh. Calls `look` after each change. Never returns.
    pub(super) async fn keep(&self, issuer: &str, look: impl Fn()) {
        match &self.source {
            Source::Url(uri, trust) => {
                self.keep_fetching(issuer, || fetch(uri, trust), look).await;
            }
            _ => self.keep_watching(issuer, look).await,
        }
    }

    /// Takes the keys of the files whenever they have changed. Keys that cannot be used change nothing.
    async fn keep_watching(&self, issuer: &str, look: impl Fn()) {
        let files = self.source.files().to_vec();
        let contents = self.contents.clone();
        let what = "file with the keys of an issuer";
        let mut watch = FileWatch::holding(what, files, LARGEST as u64, contents);
        // Why the contents that were read last cannot be used, if they cannot.
        let mut wrong = None;
        loop {
            match watch.changed().await {
                Change::Contents(contents) => {
                    let keys = self.source.keys(&contents, &self.algorithms);
                    let keys = keys.map_err(|error| error.to_string());
                    wrong = keys.as_ref().err().cloned();
                    take(&mut self.state.lock(), issuer, keys);
                }
                Change::Lost(reason) => self.state.lock().trouble = Some(reason),
                Change::Back => self.state.lock().trouble.clone_from(&wrong),
            }
            look();
        }
    }

    /// Fetches the keys again and again.
    async fn keep_fetching<F>(&self, issuer: &str, fetch: impl Fn() -> F, look: impl Fn())
    where
        F: Future<Output = Result<Vec<u8>, FetchError>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut until = None;
        loop {
            let begun = Instant::now();
            self.state.lock().begin(begun);
            let fetched = fetch().await;
            let keys = match fetched {
                Ok(answer) => {
                    let keys = self.source.keys(&[answer], &self.algorithms);
                    keys.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let next = if keys.is_ok() {
                pause = FIRST_PAUSE;
                until = Some(begun + LIFE);
                begun + REFETCH
            } else {
                let jittered = pause.mul_f64(0.75 + 0.5 * fastrand::f64());
                pause = LONGEST_PAUSE.min(pause * 2);
                Instant::now() + jittered
            };
            {
                let mut state = self.state.lock();
                take(&mut state, issuer, keys);
                if until.is_some_and(|until| until <= Instant::now()) {
                    until = None;
                    state.keys = None;
                    tracing::error!(
                        issuer,
                        "the keys could not be fetched for a day, so they serve no more"
                    );
                }
                state.is_fetching = false;
            }
            look();
            self.fetches.send_modify(|count| *count += 1);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => {}
                // Keys that nobody could replace end on time, also between two tries.
                () = reached(until) => {}
            }
        }
    }

    /// Fetches the keys because a token names one that is not known. True: they were fetched. False: they are in files, were
    /// asked for a short time ago, or did not come by the deadline.
    pub(super) async fn fetch_again(&self, deadline: Instant) -> bool {
        if !matches!(self.source, Source::Url(..)) {
            return false;
        }
        let mut fetches = self.fetches.subscribe();
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            if !state.is_fetching {
                if state.asked.is_some_and(|asked| now < asked + APART) {
                    return false;
                }
                state.begin(now);
                self.wanted.notify_one();
            }
        }
        matches!(timeout_at(deadline, fetches.changed()).await, Ok(Ok(())))
    }
}

/// Takes new keys, or notes why there are none. The same trouble is logged once.
fn take(state: &mut State, issuer: &str, keys: Result<KeySet, String>) {
    match keys {
        Ok(keys) => {
            state.trouble = None;
            if state.keys.as_deref() != Some(&keys) {
                tracing::info!(issuer, "the keys of an issuer have changed");
                state.keys = Some(Arc::new(keys));
            }
        }
        Err(trouble) => {
            if state.trouble.as_ref() != Some(&trouble) {
                let means = match state.keys {
                    Some(_) => "no new keys of an issuer; those before are still used",
                    None => "no keys of an issuer yet, so its tokens are refused",
                };
                tracing::error!(issuer, trouble, "{means}");
            }
            state.trouble = Some(trouble);
        }
    }
}
